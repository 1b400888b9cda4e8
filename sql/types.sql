-- Values of all kinds arrive as they were. Known failure 20.

CREATE EXTENSION pg_background;
\set SHOW_CONTEXT never

-- Compares the rows of a query with those of a job that runs the same; the
-- queue is small, to have many messages in it.
CREATE FUNCTION differences(query text, columns text, queue_size int DEFAULT 16384,
                            OUT "rows" int8, OUT missing int8, OUT unexpected int8) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($q$
        WITH here AS MATERIALIZED (%1$s),
             job AS MATERIALIZED (SELECT * FROM pg_background_result(pg_background_launch(%2$L, %3$s)) AS (%4$s)),
             here_text AS (SELECT here_row::text COLLATE "C" AS v, count(*) AS n FROM here here_row GROUP BY 1),
             job_text AS (SELECT job_row::text COLLATE "C" AS v, count(*) AS n FROM job job_row GROUP BY 1)
        SELECT (SELECT count(*) FROM job),
               (SELECT count(*) FROM (TABLE here_text EXCEPT TABLE job_text) d),
               (SELECT count(*) FROM (TABLE job_text EXCEPT TABLE here_text) d)
    $q$, query, query, queue_size, columns) INTO "rows", missing, unexpected;
END $$;

--
-- Built-in types, and NULL of each
--

SELECT * FROM differences('SELECT NULL::int, NULL::text, NULL::numeric, NULL::int[], NULL::point', 'a int, b text, c numeric, d int[], e point');
SELECT * FROM differences('VALUES (true), (false), (NULL)', 'b bool');
SELECT * FROM differences('SELECT 32767::int2, ''-2147483648''::int4, ''-9223372036854775808''::int8, 4294967295::oid, ''c''::"char", ''name''::name',
                          'a int2, b int4, c int8, d oid, e "char", f name');
SELECT * FROM differences($$VALUES ('Infinity'::float8, '-Infinity'::float4), ('NaN', 'NaN'), ('-0', '-0'), (1.7976931348623157e308, 3.4028235e38),
                                   (2.2250738585072014e-308, 1.1754944e-38), (4.94065645841247e-324, 1.4e-45), (0.1, 0.1), (NULL, NULL)$$,
                          'a float8, b float4');
SELECT * FROM differences($$VALUES ('NaN'::numeric), ('Infinity'), ('-Infinity'), (0), (-0.00), (1e131071), (-1e-16383), (0.1000000000000000000000001), (NULL)$$,
                          'a numeric');
SELECT * FROM differences($$SELECT '2026-01-02'::date, '23:59:60'::time, '12:00+05:30'::timetz, 'infinity'::timestamp, '4714-11-24 00:00:00+00 BC'::timestamptz,
                                   '1 year 2 mons -3 days 04:05:06.789'::interval$$,
                          'a date, b time, c timetz, d timestamp, e timestamptz, f interval');
SELECT * FROM differences($$SELECT ''::text, '', '\x00ff'::bytea, 'padded'::char(10), B'0101'::bit(4), B'1'::varbit, repeat('x', 3)$$,
                          'a text, b text, c bytea, d char(10), e bit(4), f varbit, g text');
SELECT * FROM differences($$SELECT '{"a": [1, null, "x"]}'::json, '{"a": [1, null, {"b": 1e400}]}'::jsonb, '$.a'::jsonpath, 'null'::jsonb$$,
                          'a json, b jsonb, c jsonpath, d jsonb');
SELECT * FROM differences($$SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '10.0.0.0/8'::cidr, '::1'::inet, '08:00:2b:01:02:03'::macaddr, '($1,234.5)'::text,
                                   'a & b'::tsquery, 'a:1 b:2'::tsvector, '(1,2),(3,4)'::box, '<(1,2),3>'::circle, '0/16B3748'::pg_lsn, 'pg_class'::regclass$$,
                          'a uuid, b cidr, c inet, d macaddr, e text, f tsquery, g tsvector, h box, i circle, j pg_lsn, k regclass');
SELECT * FROM differences($$SELECT '[1,5)'::int4range, 'empty'::numrange, '[2026-01-01,)'::daterange, '{[1,2), [5,9)}'::int4multirange, '{}'::nummultirange$$,
                          'a int4range, b numrange, c daterange, d int4multirange, e nummultirange');
SELECT * FROM differences($$SELECT '{}'::int[], '{1,NULL,3}'::int[], '[-1:0][2:3]={{1,2},{3,4}}'::int8[], array[NULL, '', 'a"b']::text[], array['[1,2)'::int4range]$$,
                          'a int[], b int[], c int8[], d text[], e int4range[]');

--
-- Types of users
--

-- a domain, which may be read as its base type, too
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN small_positive AS positive CHECK (VALUE < 100);
CREATE DOMAIN word AS varchar(10) NOT NULL;
CREATE DOMAIN numbers AS int[];
SELECT * FROM differences('SELECT 1::positive, 2::small_positive, ''w''::word, ''{1}''::numbers, array[1::positive]',
                          'a positive, b small_positive, c word, d numbers, e positive[]');
SELECT * FROM differences('SELECT 1::positive, 2::small_positive, ''w''::word, ''{1}''::numbers', 'a int, b int, c varchar, d int[]');
-- but the other way round there would be nothing to check the constraint
SELECT * FROM pg_background_result(pg_background_launch('SELECT -1')) AS (a positive);
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1::positive')) AS (a small_positive);
SELECT * FROM pg_background_result(pg_background_launch('SELECT array[1::positive]')) AS (a int[]);

CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE mood_range AS RANGE (subtype = mood);
SELECT * FROM differences($$SELECT m, array[m], mood_range(m, NULL), array[mood_range('sad', m)] FROM unnest(enum_range(NULL::mood)) m$$,
                          'a mood, b mood[], c mood_range, d mood_range[]');

-- composites, also with a column that is gone, and one that was added
CREATE TYPE pair AS (a int, b text);
CREATE TABLE item (gone int, id int, p pair, list pair[], gone_too text, ps positive DEFAULT 7);
INSERT INTO item SELECT g, g, ROW(g, repeat('x', g))::pair, array[ROW(g, NULL)::pair, NULL], 'gone' FROM generate_series(1, 20) g;
ALTER TABLE item DROP gone, DROP gone_too, ADD added numeric DEFAULT 1.5;
INSERT INTO item VALUES (21);
SELECT * FROM differences('SELECT item, array_agg(item) OVER (ORDER BY id), p, list, p IS NULL FROM item',
                          'a item, b item[], c pair, d pair[], e bool');
SELECT * FROM differences('SELECT * FROM item', 'id int, p pair, list pair[], ps positive, added numeric');
SELECT * FROM differences('SELECT added, id FROM item', 'added numeric, id int');
SELECT * FROM pg_background_result(pg_background_launch('UPDATE item SET id = id WHERE id < 3 RETURNING *, item'))
    AS (id int, p pair, list pair[], ps positive, added numeric, i item);
CREATE TYPE nested AS (n int, p pair, i item);
CREATE DOMAIN good_pair AS pair CHECK ((VALUE).a IS NOT NULL);
SELECT * FROM differences('SELECT ROW(id, p, item)::nested, array[ROW(id, p, item)::nested] FROM item', 'a nested, b nested[]');
SELECT * FROM differences('SELECT ROW(1, 2)::good_pair, ROW(1, 2)::good_pair', 'a good_pair, b pair');

-- known failure 20: an anonymous record is known only to the process that made it
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1, row(1, 2) AS r')) AS (a int, b pair);
SELECT * FROM pg_background_result(pg_background_launch('SELECT array[row(1, 2)] AS r')) AS (a pair[]);

--
-- Modifiers and literals
--

SELECT * FROM differences('SELECT ''abc''::varchar(3), 1.25::numeric(5, 2), ''ab''::char(4), ''2026-01-02 03:04:05.678''::timestamp(0)',
                          'a varchar, b numeric, c bpchar, d timestamp');
SELECT * FROM differences('SELECT ''abc''::varchar, 1.25::numeric', 'a varchar(10), b numeric(10, 5)');
SELECT * FROM differences('SELECT ''literal'', NULL UNION ALL SELECT ''other'', NULL', 'a text, b text');
SELECT * FROM pg_background_result(pg_background_launch('SELECT ''literal'' AS a')) AS (a varchar);

--
-- Values that are kept elsewhere
--

-- arrays and records that plpgsql builds are in a form of its own
CREATE FUNCTION built_array(n int) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    list int[];
BEGIN
    FOR i IN 1 .. n LOOP
        list[i] := i;
    END LOOP;
    RETURN list;
END $$;
CREATE FUNCTION built_record(n int) RETURNS pair LANGUAGE plpgsql AS $$
DECLARE
    r pair;
BEGIN
    r.a := n;
    r.b := repeat('x', n);
    RETURN r;
END $$;
SELECT * FROM differences('SELECT built_array(g), built_record(g), array[built_record(g)] FROM generate_series(0, 3000, 1000) g',
                          'a int[], b pair, c pair[]');

-- out of line in a table that is gone when the result is read; compressed; both;
-- of 100 MB
SELECT * FROM pg_background_launch_v2($$
    CREATE TEMP TABLE kept (id int, plain text, compressed text, both_ways text, p pair);
    ALTER TABLE kept ALTER plain SET STORAGE EXTERNAL, ALTER compressed SET STORAGE MAIN, ALTER both_ways SET STORAGE EXTENDED;
    INSERT INTO kept SELECT g, repeat('0123456789', g * 1000), repeat('0123456789', 10000), repeat('0123456789', g * 100000),
                            ROW(g, repeat('0123456789', g * 1000))::pair
    FROM generate_series(0, 10) g;
    UPDATE kept SET plain = repeat('0123456789', 1000000) WHERE id = 10;
    SELECT *, kept.p, built_array(1000) FROM kept ORDER BY id$$) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT id, length(plain) AS plain, length(compressed) AS compressed, length(both_ways) AS both_ways, length((p).b) AS p,
       array_length(list, 1) AS list,
       plain = repeat('0123456789', length(plain) / 10) AND compressed = repeat('0123456789', 10000) AND
       both_ways = repeat('0123456789', id * 100000) AND (p).b = repeat('0123456789', id * 1000) AND p = q AS equal
FROM pg_background_result_v2(:pid, :cookie) AS (id int, plain text, compressed text, both_ways text, p pair, q pair, list int[]);
SELECT length(t) AS length, t = repeat(repeat('0123456789', 1000), 2000) AS equal
FROM pg_background_result(pg_background_launch('SELECT repeat(repeat(''0123456789'', 1000), 2000)')) AS (t text);

-- a whole row of such
CREATE TABLE big (id int, t text);
ALTER TABLE big ALTER t SET STORAGE EXTERNAL;
INSERT INTO big SELECT g, repeat(g::text, 10000) FROM generate_series(1, 3) g;
SELECT * FROM differences('SELECT big, array[big], ROW(id, t)::pair FROM big', 'a big, b big[], c pair');

--
-- Numbers and sizes of rows
--

-- none, one, many; no columns but one; as many as there can be
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1, ''x''::text WHERE false')) AS (a int, b text);
SELECT * FROM differences('SELECT g, g::text FROM generate_series(1, 100000) g', 'a int, b text');
SELECT string_agg(CASE g % 3 WHEN 0 THEN 'NULL::int' ELSE g::text END || ' AS c' || g, ', ') AS list,
       string_agg('c' || g || ' int', ', ') AS columns
FROM generate_series(1, 1600) g \gset
SELECT * FROM differences('SELECT ' || :'list' || ' FROM generate_series(1, 10)', :'columns');

-- around the size of the messages, and that of the queue
SELECT size, d.*
FROM unnest('{256, 8192, 16384, 65536}'::int[]) size,
     LATERAL differences('SELECT repeat(''x'', g) FROM generate_series(8100, 8240) g WHERE g % 8 < 2', 'a text', size) d;
SELECT size, d.*
FROM unnest('{256, 8192, 16384, 65536}'::int[]) size,
     LATERAL differences('SELECT repeat(''x'', g) FROM generate_series(16240, 16440) g WHERE g % 8 < 2', 'a text', size) d;
SELECT * FROM differences('SELECT repeat(''x'', g) FROM generate_series(65400, 65600, 7) g', 'a text', 65536);
SELECT * FROM differences('SELECT repeat(''x'', g) FROM generate_series(1, 9000, 13) g', 'a text');

-- in the order in which they were made
SELECT count(*), count(*) FILTER (WHERE n <> place) AS misplaced
FROM (SELECT n, row_number() OVER () AS place
      FROM pg_background_result(pg_background_launch(
          'SELECT g, repeat(''x'', (g * 7919) % 20000) FROM generate_series(1, 2000) g', 20000)) AS (n int, t text)) r;

DROP EXTENSION pg_background;
DROP TABLE big;
DROP FUNCTION differences, built_array, built_record;
DROP TYPE nested, mood_range, mood;
DROP DOMAIN good_pair, numbers, word;
DROP TABLE item;
DROP TYPE pair;
DROP DOMAIN small_positive, positive;
