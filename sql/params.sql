-- Statements with parameters.

CREATE EXTENSION pg_background;
\set SHOW_CONTEXT never

-- Sends a value as a parameter, and compares what the job has with it: the type,
-- the text, and the bytes.
CREATE FUNCTION sent(value text, type text, OUT type_there regtype, OUT same bool, OUT is_null bool) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($q$
        SELECT r.t, (here.v::text IS NOT DISTINCT FROM r.v::text) AND ROW(here.v)::record *= ROW(r.v)::record, r.n
        FROM (SELECT %1$s::%2$s OFFSET 0) here (v),
             LATERAL pg_background_launch_params_v2('SELECT $1, pg_typeof($1), $1 IS NOT DISTINCT FROM NULL', here.v) h,
             LATERAL pg_background_result_v2(h.pid, h.cookie) AS r (v %2$s, t regtype, n bool)
    $q$, value, type) INTO STRICT type_there, same, is_null;
END $$;

-- What becomes of a statement with some parameters.
CREATE FUNCTION outcome(sql text, VARIADIC params text[], OUT row_count int8, OUT command_tag text, OUT sqlstate text, OUT error_message text)
LANGUAGE sql AS $$
    SELECT row_count, command_tag, sqlstate, error_message FROM pg_background_run_params_v2(sql, VARIADIC params)
$$;

--
-- Values of all types, and NULL of each
--

CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN word AS varchar(10) NOT NULL;
CREATE DOMAIN numbers AS int[];
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE mood_range AS RANGE (subtype = mood);
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN good_pair AS pair CHECK ((VALUE).a IS NOT NULL);
CREATE TABLE item (gone int, id int, p pair, list pair[], gone_too text);
ALTER TABLE item DROP gone, DROP gone_too, ADD added numeric DEFAULT 1.5;

SELECT value, s.* FROM (VALUES
    ('true', 'bool'), ('32767', 'int2'), ('''-2147483648''', 'int4'), ('''-9223372036854775808''', 'int8'), ('4294967295', 'oid'),
    ('''c''', '"char"'), ('''name''', 'name'), ('''Infinity''', 'float8'), ('''NaN''', 'float8'), ('''-0''', 'float8'), ('0.1', 'float8'),
    ('4.94065645841247e-324', 'float8'), ('0.1', 'float4'), ('''-Infinity''', 'float4'),
    ('''NaN''', 'numeric'), ('-0.00', 'numeric'), ('1e1000', 'numeric'), ('0.1000000000000000000000001', 'numeric'),
    ('''2026-01-02''', 'date'), ('''23:59:60''', 'time'), ('''12:00+05:30''', 'timetz'), ('''infinity''', 'timestamp'),
    ('''4714-11-24 00:00:00+00 BC''', 'timestamptz'), ('''1 year 2 mons -3 days 04:05:06.789''', 'interval'),
    ('''''', 'text'), ('''padded''', 'char(10)'), ('''x''', 'varchar(3)'), ('''\x00ff''', 'bytea'), ('B''0101''', 'bit(4)'), ('B''''', 'varbit'),
    ('''{"a": [1, null,  "x"]}''', 'json'), ('''{"a": [1, null, {"b": 1e400}]}''', 'jsonb'), ('''$.a''', 'jsonpath'),
    ('''a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11''', 'uuid'), ('''10.0.0.0/8''', 'cidr'), ('''::1''', 'inet'), ('''08:00:2b:01:02:03''', 'macaddr'),
    ('''a & b''', 'tsquery'), ('''a:1 b:2''', 'tsvector'), ('''(1,2)''', 'point'), ('''(1,2),(3,4)''', 'box'), ('''<(1,2),3>''', 'circle'),
    ('''0/16B3748''', 'pg_lsn'), ('''pg_class''', 'regclass'), ('''<a/>''', 'text'),
    ('''[1,5)''', 'int4range'), ('''empty''', 'numrange'), ('''{[1,2), [5,9)}''', 'int4multirange'),
    ('''{}''', 'int[]'), ('''{1,NULL,3}''', 'int[]'), ('''[-1:0][2:3]={{1,2},{3,4}}''', 'int8[]'), ('array[NULL, '''', ''a"b'']', 'text[]'),
    ('array[''[1,2)''::int4range]', 'int4range[]'),
    ('1', 'positive'), ('''w''', 'word'), ('''{1}''', 'numbers'), ('array[1]', 'positive[]'), ('''sad''', 'mood'),
    ('''[sad,happy]''', 'mood_range'), ('array[''sad'', NULL]', 'mood[]'),
    ('''(1,x)''', 'pair'), ('''(,)''', 'pair'), ('''(1,)''', 'good_pair'), ('array[ROW(1, NULL)::pair, NULL]', 'pair[]'),
    ('ROW(1, ROW(2, ''x'')::pair, array[ROW(3, ''y'')::pair], 7.5)', 'item'), ('array[ROW(1, NULL, NULL, NULL)::item]', 'item[]')
) v (value, type), LATERAL sent(value, type) s;
SELECT bool_and(s.same AND s.is_null AND s.type_there = type::regtype), count(*) FROM unnest(
    '{bool,int2,int4,int8,oid,"\"char\"",name,float4,float8,numeric,date,timetz,timestamptz,interval,text,bpchar,varchar,bytea,bit,json,jsonb,uuid,inet,
      tsvector,point,int4range,int4multirange,"int[]","text[]",positive,numbers,mood,mood_range,pair,item,"item[]"}'::text[]) type,
    LATERAL sent('NULL', type) s;

-- a literal without a type is text, and so is NULL
SELECT pid, cookie FROM pg_background_launch_params_v2('SELECT pg_typeof($1), $1, pg_typeof($2), $2 IS NULL, pg_typeof($3), $4', 'literal', NULL, '1'::bigint, 7) \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (t1 regtype, v1 text, t2 regtype, n2 bool, t3 regtype, v4 int);

-- Hardening 27: clients that leave the types of their parameters open, as a
-- PREPARE without types does. They are text; what has a type keeps it.
PREPARE launch AS SELECT pid, cookie FROM pg_background_launch_params_v2($1, $2, $3);
PREPARE submit AS SELECT pid, cookie FROM pg_background_submit_params_v2($1, $2);
PREPARE run AS SELECT row_count, sqlstate, error_message FROM pg_background_run_params_v2($1, $2, $3, 'literal', NULL);
SELECT name, parameter_types FROM pg_prepared_statements WHERE name IN ('launch', 'submit', 'run') ORDER BY name;
EXECUTE launch('SELECT $1, pg_typeof($1), $2 IS NULL, pg_typeof($2)', 'it''s', NULL) \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (v1 text, t1 regtype, n2 bool, t2 regtype);
EXECUTE launch('SELECT $1::int + $2::int', 1, '2') \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (sum int);
EXECUTE submit('SELECT $1', 'x') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT row_count, sqlstate FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_detach_v2(:pid, :cookie);
EXECUTE run('SELECT FROM (VALUES ($1), ($2), ($3), ($4)) v (t) WHERE pg_typeof(t) = ''text''::regtype', 'x', 'y');
EXECUTE run(NULL, 'x', 'y');
-- beside others that have types, the server cannot know
PREPARE mixed AS SELECT pg_background_run_params_v2($1, $2, 3);
PREPARE mixed AS SELECT pg_background_run_params_v2($1, $2, 'x'::text);
PREPARE mixed AS SELECT row_count, sqlstate FROM pg_background_run_params_v2($1, $2::text, 3);
EXECUTE mixed('SELECT $1 || $2', 'x');
DEALLOCATE launch;
DEALLOCATE submit;
DEALLOCATE run;
DEALLOCATE mixed;
-- the type is for that alone: nothing else becomes it
SELECT castsource::regtype, casttarget::regtype, castcontext
FROM pg_cast WHERE 'pg_background_untyped'::regtype IN (castsource, casttarget);

-- arrays and records as plpgsql has them
DO $$
DECLARE
    list int[]; r pair; job pg_background_handle; total int; length int;
BEGIN
    FOR i IN 1 .. 3000 LOOP
        list[i] := i;
    END LOOP;
    r.a := 5;
    r.b := repeat('x', 100000);
    job := pg_background_launch_params_v2('SELECT sum(n)::int, max(length(($2::pair).b) + ($2::pair).a) FROM unnest($1::int[]) n', list, r);
    SELECT * INTO total, length FROM pg_background_result_v2(job.pid, job.cookie) AS (total int, length int);
    RAISE NOTICE '% %', total, length;
END $$;

-- values that are kept elsewhere, and that the job cannot see there
BEGIN;
CREATE TABLE kept (id int, plain text, compressed text, both_ways text, p pair);
ALTER TABLE kept ALTER plain SET STORAGE EXTERNAL, ALTER compressed SET STORAGE MAIN, ALTER both_ways SET STORAGE EXTENDED;
INSERT INTO kept VALUES (1, repeat('0123456789', 10000), repeat('0123456789', 10000), repeat('0123456789', 1000000), ROW(1, repeat('0123456789', 10000)));
SELECT h.pid, h.cookie FROM kept, LATERAL pg_background_launch_params_v2(
    'SELECT length($1), length($2), length($3), length(($4::pair).b), $1 = $2 AND $3 = repeat($5, 1000000) AND ($4::pair).b = $1',
    plain, compressed, both_ways, p, '0123456789') h \gset
ROLLBACK;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (plain int, compressed int, both_ways int, p int, equal bool);

-- of 100 MB
SELECT h.pid, h.cookie FROM (SELECT repeat(repeat('0123456789', 1000), 2000) AS t, '{}'::int[] || array_fill(7, array[1000000]) AS a OFFSET 0) s,
    LATERAL pg_background_launch_params_v2('SELECT length($1), md5($1), array_length($2, 1)', t, a) h \gset
SELECT length, md5 = md5(repeat(repeat('0123456789', 1000), 2000)) AS same, elements FROM pg_background_result_v2(:pid, :cookie) AS (length int, md5 text, elements int);

--
-- Statements
--

CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY, t text);

-- what is in a value is no SQL
CREATE TABLE payload (id int GENERATED ALWAYS AS IDENTITY, t text);
INSERT INTO payload (t) VALUES ('''; DROP TABLE log; --'), ('''), (''x''); DELETE FROM log; --'), ('" OR ""="'), ('$1'), ('$2; SELECT 1/0'), ('$$; DROP TABLE log; $$'),
    ('\'), ('\''; DROP TABLE log; --'), (E'a\nb\t\r'), ('%s %I %L'), ('NULL'), (''), ('{1,2}'), ('(1,2)'), ('/*'), ('-- '), (';'), ('SELECT pg_sleep(3600)');
SELECT count(*) FILTER (WHERE NOT has_error) AS good, count(*) FROM payload, LATERAL pg_background_run_params_v2('INSERT INTO log (t) VALUES ($1)', t);
SELECT count(*) AS same FROM log JOIN payload USING (id, t);
SELECT count(*) FILTER (WHERE row_count = 1) AS good FROM payload,
    LATERAL pg_background_run_params_v2('UPDATE log SET t = t || $2 WHERE t = $1 AND $2 = $3', t, t, t);
SELECT count(*) AS same FROM log JOIN payload USING (id) WHERE log.t = payload.t || payload.t;

-- parameters wherever a value can be
SELECT pid, cookie FROM pg_background_launch_params_v2(
    'WITH v (n) AS (VALUES ($1), ($1 + 1)) SELECT n, $2 || n FROM v, generate_series(1, $3) g WHERE n = ANY ($4) ORDER BY n DESC LIMIT $5 OFFSET $5 - 2',
    1, 'n = ', 2, array[1, 2], 3::bigint) \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int, t text);
SELECT pid, cookie FROM pg_background_launch_params_v2('INSERT INTO log (t) VALUES ($1) RETURNING t', 'returned') \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (t text);
-- the type of a parameter is the one that it has, whatever is done with it
SELECT * FROM outcome('SELECT $1 + 1', '5');
SELECT * FROM outcome('SELECT $1::int + 1', '5');
SELECT * FROM outcome('SELECT $1::int + 1', 'five');
SELECT sqlstate, error_message FROM pg_background_run_params_v2('SELECT length($1)', 5);
-- one parameter more than once, and one that is not the first
SELECT row_count, sqlstate FROM pg_background_run_params_v2('SELECT 1 WHERE $1 = $1 AND $2 > $1', 1, 2);
SELECT row_count, sqlstate FROM pg_background_run_params_v2('SELECT 1 WHERE $2 = 2', 1, 2);

-- statements that are no queries
CREATE PROCEDURE put(id int, INOUT t text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO log (t) VALUES (t || id);
    COMMIT;
    t := t || ' came back';
END $$;
SELECT pid, cookie FROM pg_background_launch_params_v2('CALL put($1, $2)', 7, 'called ') \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (t text);
SELECT t FROM log ORDER BY id DESC LIMIT 1;
SELECT command_tag, sqlstate, error_message FROM pg_background_run_params_v2('CREATE TABLE made AS SELECT g * $1 AS n, $2 AS t FROM generate_series(1, 3) g', 10, 'made');
TABLE made;
SELECT pid, cookie FROM pg_background_launch_params_v2('EXPLAIN (COSTS OFF) SELECT * FROM log WHERE t = $1', 'x') \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (plan text);
SELECT * FROM outcome('SET work_mem = $1', '64');
SELECT * FROM outcome('CREATE VIEW v AS SELECT $1', 'x');
SELECT * FROM outcome('DO ''BEGIN END''', 'x');

-- one statement only
SELECT * FROM outcome('SELECT $1; SELECT 2', 'x');
SELECT * FROM outcome('SELECT $1; DROP TABLE log', 'x');
SELECT * FROM outcome('SELECT $1 ;; ; -- and no more', 'x');
SELECT count(*) FROM log WHERE t = '$1$1';
-- none at all
SELECT * FROM outcome('', 'x');
SELECT * FROM outcome('SELEC $1', 'x');

-- too few, too many
SELECT * FROM outcome('SELECT $2', 'x');
SELECT * FROM outcome('SELECT $0', 'x');
SELECT * FROM outcome('SELECT $1, $2, $3', 'x', 'y');
SELECT * FROM outcome('SELECT $1', 'x', 'y');
SELECT * FROM outcome('SELECT 1', 'x', 'y');
SELECT * FROM outcome('SELECT 1', NULL);
-- as many as there are elements in an array
SELECT * FROM outcome('SELECT $1 || $2', 'a', 'b');
SELECT pid, cookie FROM pg_background_launch_params_v2('SELECT $1 + $3, $2 IS NULL, pg_typeof($1)', VARIADIC '{1,NULL,3}'::int8[]) \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (sum int8, n bool, type regtype);
SELECT row_count, sqlstate FROM pg_background_run_params_v2('SELECT 1', VARIADIC '{}'::text[]);
SELECT row_count, sqlstate FROM pg_background_run_params_v2('SELECT 1; SELECT 2', VARIADIC NULL::text[]);
SELECT row_count, sqlstate, error_message FROM pg_background_run_params_v2('SELECT $1', VARIADIC '{}'::text[]);
SELECT pid, cookie FROM pg_background_launch_params_v2((SELECT 'SELECT sum(n) FROM (VALUES ' || string_agg('($' || g || ')', ', ') || ') v (n)' FROM generate_series(1, 5000) g),
    VARIADIC (SELECT array_agg(g) FROM generate_series(1, 5000) g)) \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (sum int8);

-- an anonymous record is known only to the process that made it
SELECT pg_background_launch_params_v2('SELECT $1', ROW(1, 2));
SELECT pg_background_run_params_v2('SELECT $1, $2', 1, array[ROW(1, 2)]);
SELECT sqlstate FROM pg_background_run_params_v2('SELECT $1', ROW(1, 2)::pair);
SELECT pg_background_launch_params_v2(NULL, 1);
SELECT pg_background_submit_params_v2(NULL, 1);
SELECT pg_background_run_params_v2(NULL, 1);

--
-- The three ways to launch
--

SELECT pid, cookie FROM pg_background_launch_params_v2('SELECT $1', 1) \gset
SELECT sql_preview, queue_size, label FROM pg_background_list;
SELECT pg_background_full_sql_v2(:pid, :cookie);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT pid, cookie FROM pg_background_submit_params_v2('INSERT INTO log (t) VALUES ($1)', 'submitted') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, row_count, command_tag FROM pg_background_outcome_v2(:pid, :cookie);
\set VERBOSITY sqlstate
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (t text);
\set VERBOSITY default
SELECT count(*) FROM log WHERE t = 'submitted';
SELECT pid > 0 AS pid, completed, timed_out, has_error, row_count, command_tag, elapsed_ms >= 0 AS elapsed
FROM pg_background_run_params_v2('DELETE FROM log WHERE t = $1', 'submitted');
-- many of them by one process, with and without parameters in turn
SET pg_background.idle_timeout = '1min';
SET pg_background.max_idle_workers = -1;
SELECT count(*) FILTER (WHERE r.row_count = 1), count(DISTINCT r.pid) AS processes
FROM generate_series(1, 100) g, LATERAL pg_background_run_params_v2('INSERT INTO log (t) VALUES ($1)', g::text) r,
     LATERAL pg_background_run_v2('SELECT 1 WHERE ' || g || ' > 0') r2;
SELECT sum(t::int) FROM log WHERE t ~ '^\d+$';
SELECT pg_background_detach_all_v2();

DROP FUNCTION outcome;
DROP EXTENSION pg_background;
DROP FUNCTION sent;
DROP PROCEDURE put;
DROP TABLE log, payload, made, item;
DROP TYPE mood_range, mood;
DROP DOMAIN good_pair, numbers, word, positive;
DROP TYPE pair;
