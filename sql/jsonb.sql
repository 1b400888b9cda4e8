-- Rows as jsonb are those that to_jsonb() makes in place, for the types of the type
-- test (types.sql).

CREATE EXTENSION pg_background;
\set SHOW_CONTEXT never

-- Compares the rows of a query in order, as to_jsonb() makes them, with those of a
-- job that runs the same; the queue is small, to have many messages in it.
CREATE FUNCTION differences(query text, OUT "rows" int8, OUT differences int8) LANGUAGE plpgsql AS $$
DECLARE
    job pg_background_handle := pg_background_launch_v2(query, 16384);
BEGIN
    EXECUTE format($q$
        WITH here AS MATERIALIZED (SELECT to_jsonb(q)::text AS j, row_number() OVER () AS n FROM (%s) q),
             job AS MATERIALIZED (SELECT j::text, n FROM pg_background_result_jsonb_v2($1, $2) WITH ORDINALITY AS r (j, n))
        SELECT count(job.j), count(*) FILTER (WHERE here.j IS DISTINCT FROM job.j) FROM here FULL JOIN job USING (n)
    $q$, query) INTO "rows", differences USING job.pid, job.cookie;
END $$;

-- What a job gives, as jsonb.
CREATE FUNCTION objects(query text) RETURNS SETOF jsonb LANGUAGE sql AS $$
    SELECT r FROM pg_background_launch_v2(query) h, LATERAL pg_background_result_jsonb_v2(h.pid, h.cookie) r
$$;
--
-- What it looks like
--

SELECT * FROM objects('SELECT 1 AS a, ''x''::text AS "B c", NULL::int AS n, array[1, NULL] AS l, 1.50 AS d, true AS b, ''{"k": [1]}''::jsonb AS j UNION ALL SELECT 2, NULL, 3, NULL, NULL, NULL, NULL');
-- no rows, no columns, no names
SELECT * FROM objects('SELECT 1 AS a WHERE false');
SELECT * FROM objects('SELECT FROM generate_series(1, 2)');
SELECT * FROM objects('SELECT 1, 2, count(*), 3 AS "3" FROM generate_series(1, 4)');
-- of a string with no rows, the command tags
SELECT * FROM objects('CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2); DELETE FROM t WHERE a = 1');
SELECT * FROM objects('CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2) RETURNING a');
SELECT * FROM objects('');
-- without FROM
SELECT pid, cookie FROM pg_background_launch_v2('SELECT g AS n FROM generate_series(1, 3) g') \gset
SELECT pg_background_result_jsonb_v2(:pid, :cookie) ->> 'n' AS n;
-- once
\set VERBOSITY sqlstate
SELECT pg_background_result_jsonb_v2(:pid, :cookie);
\set VERBOSITY default
SELECT count(*) FROM pg_background_list;

--
-- Built-in types, and NULL of each
--

SELECT * FROM differences('SELECT NULL::int AS a, NULL::text AS b, NULL::numeric AS c, NULL::int[] AS d, NULL::point AS e');
SELECT * FROM differences('VALUES (true), (false), (NULL)');
SELECT * FROM differences('SELECT 32767::int2 AS a, ''-2147483648''::int4 AS b, ''-9223372036854775808''::int8 AS c, 4294967295::oid AS d, ''c''::"char" AS e, ''name''::name AS f');
SELECT * FROM differences($$VALUES ('Infinity'::float8, '-Infinity'::float4), ('NaN', 'NaN'), ('-0', '-0'), (1.7976931348623157e308, 3.4028235e38),
                                   (2.2250738585072014e-308, 1.1754944e-38), (4.94065645841247e-324, 1.4e-45), (0.1, 0.1), (NULL, NULL)$$);
SELECT * FROM differences($$VALUES ('NaN'::numeric), ('Infinity'), ('-Infinity'), (0), (-0.00), (1e131071), (-1e-16383), (0.1000000000000000000000001), (NULL)$$);
SELECT * FROM differences($$SELECT '2026-01-02'::date AS a, '23:59:60'::time AS b, '12:00+05:30'::timetz AS c, 'infinity'::timestamp AS d,
                                   '4714-11-24 00:00:00+00 BC'::timestamptz AS e, '1 year 2 mons -3 days 04:05:06.789'::interval AS f, now() > '2000-01-01' AS g$$);
SELECT * FROM differences($$SELECT ''::text AS a, '' AS b, '\x00ff'::bytea AS c, 'padded'::char(10) AS d, B'0101'::bit(4) AS e, B'1'::varbit AS f, repeat('x', 3) AS g,
                                   E'"\\\b\f\n\r\t\u0001</>'::text AS h$$);
SELECT * FROM differences($$SELECT '{"a":  [1, null, "x"], "a": 2}'::json AS a, '{"a": [1, null, {"b": 1e400}]}'::jsonb AS b, '$.a'::jsonpath AS c, 'null'::jsonb AS d, '1.0'::json AS e$$);
SELECT * FROM differences($$SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS a, '10.0.0.0/8'::cidr AS b, '::1'::inet AS c, '08:00:2b:01:02:03'::macaddr AS d, '($1,234.5)'::text AS e,
                                   'a & b'::tsquery AS f, 'a:1 b:2'::tsvector AS g, '(1,2),(3,4)'::box AS h, '<(1,2),3>'::circle AS i, '0/16B3748'::pg_lsn AS j, 'pg_class'::regclass AS k$$);
SELECT * FROM differences($$SELECT '[1,5)'::int4range AS a, 'empty'::numrange AS b, '[2026-01-01,)'::daterange AS c, '{[1,2), [5,9)}'::int4multirange AS d, '{}'::nummultirange AS e$$);
SELECT * FROM differences($$SELECT '{}'::int[] AS a, '{1,NULL,3}'::int[] AS b, '[-1:0][2:3]={{1,2},{3,4}}'::int8[] AS c, array[NULL, '', 'a"b']::text[] AS d, array['[1,2)'::int4range] AS e$$);
-- settings that have a say in it are those of the reader, who makes the jsonb
SET TimeZone = 'Asia/Kolkata';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = 0;
SELECT * FROM differences($$SELECT '2026-01-02 03:04:05+00'::timestamptz AS a, '2026-01-02'::date AS b, '1 mon'::interval AS c, '\x00ff'::bytea AS d, 0.1::float8 + 0.2 AS e$$);
RESET ALL;
\set SHOW_CONTEXT never

--
-- Types of users
--

CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN word AS varchar(10) NOT NULL;
CREATE DOMAIN numbers AS int[];
CREATE DOMAIN document AS jsonb;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE mood_range AS RANGE (subtype = mood);
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN good_pair AS pair CHECK ((VALUE).a IS NOT NULL);
SELECT * FROM differences($$SELECT 1::positive AS a, 'w'::word AS b, '{1}'::numbers AS c, array[1::positive] AS d, '{"a": [1]}'::document AS e, array['{"a": 1}'::document] AS f$$);
SELECT * FROM differences('SELECT m, array[m] AS l, mood_range(m, NULL) AS r, array[mood_range(''sad'', m)] AS lr FROM unnest(enum_range(NULL::mood)) m');
-- composites, also with a column that is gone, and one that was added
CREATE TABLE item (gone int, id int, p pair, list pair[], gone_too text, ps positive DEFAULT 7);
INSERT INTO item SELECT g, g, ROW(g, repeat('x', g))::pair, array[ROW(g, NULL)::pair, NULL], 'gone' FROM generate_series(1, 20) g;
ALTER TABLE item DROP gone, DROP gone_too, ADD added numeric DEFAULT 1.5;
INSERT INTO item VALUES (21);
SELECT * FROM differences('SELECT item, array_agg(item) OVER (ORDER BY id) AS items, p, list, p IS NULL AS n, ROW(1, 2)::good_pair AS g FROM item ORDER BY id');
SELECT * FROM differences('SELECT * FROM item ORDER BY id');
SELECT * FROM differences('TABLE item ORDER BY id');
SELECT * FROM objects('SELECT * FROM item WHERE id = 2');
SELECT * FROM objects('UPDATE item SET id = id WHERE id = 2 RETURNING *, item');
-- two columns of one name, of which an object has the last
SELECT * FROM differences('SELECT 1 AS a, 2 AS a, 3 AS b');
SELECT * FROM objects('SELECT 1 AS a, 2 AS a, 3 AS b');
-- a type with a cast to json
CREATE TYPE colour AS ENUM ('red');
CREATE FUNCTION to_json(colour) RETURNS json LANGUAGE sql IMMUTABLE AS $$SELECT '{"colour": "red"}'::json$$;
CREATE CAST (colour AS json) WITH FUNCTION to_json(colour);
SELECT * FROM differences('SELECT ''red''::colour AS c, array[''red''::colour] AS l');
SELECT * FROM objects('SELECT ''red''::colour AS c');
-- an anonymous record is known only to the process that made it
SELECT * FROM objects('SELECT 1 AS a, ROW(1, 2) AS r');
SELECT * FROM objects('SELECT array[ROW(1, 2)] AS r');
SELECT pg_background_purge_v2() AS still_there;

--
-- Large ones, and many
--

CREATE TABLE big (id int, t text, p pair);
ALTER TABLE big ALTER t SET STORAGE EXTERNAL;
INSERT INTO big SELECT g, repeat(g::text, 100000), ROW(g, repeat(g::text, 100000))::pair FROM generate_series(1, 5) g;
SELECT * FROM differences('SELECT *, big, array[big] AS l FROM big ORDER BY id');
SELECT length(o ->> 't') FROM objects('SELECT repeat(repeat(''x'', 1000), 20000) AS t') o;
SELECT * FROM differences('SELECT g AS n, repeat(''x'', g % 100) AS t FROM generate_series(1, 100000) g ORDER BY g');

--
-- Errors, notices
--

SELECT * FROM objects('DO $$BEGIN RAISE NOTICE ''said''; END$$');
SELECT * FROM objects('SELECT 1/0 AS a');
SELECT count(*) FROM pg_background_list;
\set VERBOSITY sqlstate
-- a job whose result is never read
SELECT pg_background_result_jsonb_v2(pid, cookie) FROM pg_background_submit_v2('SELECT 1');
-- what to_jsonb() refuses, it refuses here; the result can still be read
SELECT to_jsonb(q) FROM (SELECT '{"a": "\u0000"}'::json AS j) q;
SELECT pid, cookie FROM pg_background_launch_v2('SELECT ''{"a": "\u0000"}''::json AS j') \gset
SELECT pg_background_result_jsonb_v2(:pid, :cookie);
\set VERBOSITY default
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (j json);
-- also by the same function, from its first row
CREATE OR REPLACE FUNCTION to_json(colour) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('regress.fail', true) = $1::text THEN
        RAISE 'no %', $1;
    END IF;
    RETURN to_json($1::text);
END $$;
ALTER TYPE colour ADD VALUE 'green';
SELECT pid, cookie FROM pg_background_launch_v2('SELECT ''red''::colour AS c UNION ALL SELECT ''green'' UNION ALL SELECT ''red''') \gset
SET regress.fail = 'green';
\set VERBOSITY terse
SELECT pg_background_result_jsonb_v2(:pid, :cookie);
\set VERBOSITY default
RESET regress.fail;
SELECT pg_background_result_jsonb_v2(:pid, :cookie);
-- the cancel of a reader, who loses nothing
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1 AS a, pg_advisory_xact_lock(1) IS NULL AS b') \gset
SET statement_timeout = '200ms';
SELECT pg_background_result_jsonb_v2(:pid, :cookie);
RESET statement_timeout;
SELECT pg_advisory_unlock(1);
SELECT pg_background_result_jsonb_v2(:pid, :cookie);
SELECT pg_background_detach_all_v2();

DROP CAST (colour AS json);
DROP FUNCTION to_json(colour), objects, differences;
DROP EXTENSION pg_background;
DROP TABLE big, item;
DROP TYPE colour, mood_range, mood;
DROP DOMAIN good_pair, document, numbers, word, positive;
DROP TYPE pair;
