-- Texts of several bytes a character, in a database that has such.

\set SHOW_CONTEXT never
SELECT current_database() AS db \gset
CREATE DATABASE regress_utf8 TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_utf8
CREATE EXTENSION pg_background;

--
-- known failure 18: texts of the list were cut in the middle of a character
--

-- How a text was cut to fit into so many bytes, where its last character has
-- width bytes.
CREATE FUNCTION pg_temp.cut(whole text, part text, maximum int, width int) RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN octet_length(part) > maximum THEN 'too long'
        WHEN part = whole THEN 'whole'
        WHEN part <> left(whole, length(part) - 3) || '...' THEN 'broken'
        WHEN octet_length(part) <= maximum - width THEN 'too short'
        ELSE 'well'
    END;
$$;

-- What is listed of a job that fails with this message, of which the last
-- character has width bytes.
CREATE FUNCTION pg_temp.listed(message text, width int, OUT preview text, OUT error text) LANGUAGE plpgsql AS $$
DECLARE
    sql text := format('DO $do$ BEGIN RAISE ''%%'', %L; END $do$', message);
    h pg_background_handle := pg_background_launch_v2(sql);
    job record;
BEGIN
    PERFORM pg_background_wait_v2(h.pid, h.cookie);
    SELECT * INTO STRICT job FROM pg_background_list_v2()
    AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
        state text, sql_preview text, last_error text, consumed bool);
    preview := pg_temp.cut(sql, job.sql_preview, 120, width);
    error := pg_temp.cut(message, job.last_error, 512, width);
    BEGIN
        PERFORM FROM pg_background_result_v2(h.pid, h.cookie) AS (n int);
    EXCEPTION
        WHEN raise_exception THEN
            IF sqlerrm <> message THEN
                RAISE WARNING 'the error itself is broken';
            END IF;
    END;
END $$;

SELECT name, before, l.*
FROM (VALUES ('e with acute accent', 2, 233), ('euro sign', 3, 8364), ('smiling face', 4, 128512)) c (name, width, code),
     generate_series(0, 3) before,
     LATERAL pg_temp.listed(repeat('x', before) || repeat(chr(code), 600 / width), width) l;

--
-- A job answers in the encoding of the database, whatever its client_encoding
-- or that of its launcher
--

-- Run a job that is told of a text, and says whether it comes back by each way.
CREATE FUNCTION pg_temp.returned(t text, prologue text, OUT "row" bool, OUT message bool, OUT hint bool) LANGUAGE plpgsql AS $$
DECLARE
    raised_hint text;
BEGIN
    SELECT a = t INTO "row" FROM pg_background_result(pg_background_launch(
        format('%s SELECT %L::text', prologue, t))) AS (a text);
    BEGIN
        PERFORM FROM pg_background_result(pg_background_launch(
            format('%s DO $do$ BEGIN RAISE ''%%'', %L USING HINT = %2$L; END $do$', prologue, t))) AS (a text);
    EXCEPTION
        WHEN raise_exception THEN
            GET STACKED DIAGNOSTICS raised_hint = PG_EXCEPTION_HINT;
            message := sqlerrm = t;
            hint := raised_hint = t;
    END;
END $$;

SELECT * FROM pg_temp.returned(chr(233) || chr(8364) || chr(128512), '');
SELECT * FROM pg_temp.returned(chr(233), 'SET client_encoding = ''LATIN1'';');
SET client_encoding = 'LATIN1';
SELECT * FROM pg_temp.returned(chr(233) || chr(8364) || chr(128512), '');
RESET client_encoding;
-- Hardening 15, 42: so does an error that it cannot express
SELECT * FROM pg_temp.returned(chr(8364), 'SET client_encoding = ''LATIN1'';');
-- a notice that it cannot express fails as it does for any client
SELECT * FROM pg_background_result(pg_background_launch(
    'SET client_encoding = ''LATIN1''; DO $do$ BEGIN RAISE NOTICE ''%'', chr(8364); END $do$')) AS (n int);

\c :db
DROP DATABASE regress_utf8 WITH (FORCE);
