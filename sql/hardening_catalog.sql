-- A function of the library is called with whatever some catalog declares: it
-- checks that, and raises an error where it cannot serve.
--
-- Hardening 1, Known failure 24.

\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

CREATE SCHEMA other;
SET search_path = other, public;
CREATE TYPE pg_background_handle AS (pid int4, cookie int8);
CREATE TYPE pg_background_stats AS (
    workers_launched int8, workers_completed int8, workers_failed int8, workers_canceled int8,
    workers_timed_out int8, workers_active int4, avg_execution_ms float8, max_workers int4);
CREATE TYPE pg_background_result_info AS (
    row_count int8, command_tag text, completed bool, has_error bool,
    started_at timestamptz, finished_at timestamptz);
CREATE TYPE pg_background_error AS (
    sqlstate text, message text, detail text, hint text, context text,
    schema_name text, table_name text, column_name text, constraint_name text);
CREATE TYPE pg_background_outcome AS (
    pid int4, cookie int8, state text, consumed bool, completed bool, has_error bool,
    row_count int8, command_tag text, sqlstate text, error_message text, label text,
    launched_at timestamptz);
CREATE TYPE pg_background_run_result AS (
    pid int4, cookie int8, state text, consumed bool, completed bool, has_error bool,
    row_count int8, command_tag text, sqlstate text, error_message text, label text,
    launched_at timestamptz, timed_out bool, elapsed_ms int8);

-- What others might declare, under symbols that take or return something else
CREATE FUNCTION launch(sql text, queue_size int4) RETURNS int8
AS '$libdir/pg_background', 'pg_background_launch' LANGUAGE C STRICT;
CREATE FUNCTION cancel_v2(pid int4, cookie int8, grace_ms int8 DEFAULT 0) RETURNS void
AS '$libdir/pg_background', 'pg_background_cancel_v2' LANGUAGE C STRICT;
CREATE FUNCTION wait_v2(pid int4, cookie int8, timeout_ms int4 DEFAULT 0) RETURNS int4
AS '$libdir/pg_background', 'pg_background_wait_v2' LANGUAGE C STRICT;
CREATE FUNCTION get_progress(pid int4, cookie int8) RETURNS pg_background_stats
AS '$libdir/pg_background', 'pg_background_get_progress' LANGUAGE C STRICT;
SELECT raised($$SELECT launch('select 1', 0)$$);
SELECT raised($$SELECT cancel_v2(1, 2)$$);
SELECT raised($$SELECT wait_v2(1, 2)$$);
SELECT raised($$SELECT get_progress(1, 2)$$);

-- Every function of the library, declared to return something else, a set, or a
-- row that is too short or too long, and to take other things, or nothing. Some
-- of these are by chance what the function is.
RESET search_path;
CREATE EXTENSION pg_background;

CREATE TYPE other.short AS (pid int4);
CREATE TYPE other.long AS (pid int4, cookie int8, a text, b text, c text, d text, e text, f text,
    g text, h text, i text, j text, k text, l text, m text, n text);
CREATE FUNCTION other.message(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate;
END $$;
-- The same of a function's call, which is there for that alone: what fails takes it back.
CREATE FUNCTION other.message(declaration text, command text, removal text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    is_declared bool := false;
BEGIN
    EXECUTE declaration;
    is_declared := true;
    EXECUTE command;
    EXECUTE removal;
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE WHEN is_declared THEN '' ELSE 'not declared: ' END || sqlstate;
END $$;
CREATE VIEW other.symbol AS
SELECT p.prosrc AS name
FROM pg_depend d
JOIN pg_proc p ON p.oid = d.objid
JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'c'
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_background') AND d.classid = 'pg_proc'::regclass
GROUP BY p.prosrc;

DO $$
DECLARE
    symbol record;
    arguments text;
    result text;
    call text;
    got text;
BEGIN
    FOR symbol IN SELECT * FROM other.symbol ORDER BY name COLLATE "C" LOOP
        FOREACH arguments IN ARRAY array['', 'text', 'int4', 'text, int4', 'int4, int4', 'float8, int8',
            'text, int4, int4', 'int8[]', 'int4, int8, int4, int4, int4, int4, int4, int4']
        LOOP
            FOREACH result IN ARRAY array['void', 'int4', 'text', 'bool', 'other.short', 'other.long', 'SETOF int4',
                'SETOF other.short', 'SETOF other.long', 'TABLE (a int4, b text)', 'int4[]']
            LOOP
                call := regexp_replace(arguments, '\w+(\[\])?', 'NULL', 'g');
                got := other.message(
                    format('CREATE FUNCTION other.f(%s) RETURNS %s AS %L, %L LANGUAGE C',
                        arguments, result, '$libdir/pg_background', symbol.name),
                    format('SELECT * FROM other.f(%s) AS f', call),
                    format('DROP FUNCTION other.f(%s)', arguments));
                IF got NOT IN ('42P13', '22004') THEN
                    RAISE NOTICE '%(%) returns %: %', symbol.name, arguments, result, got;
                END IF;
            END LOOP;
        END LOOP;
    END LOOP;
END $$;

-- nulls, where the catalog does not say STRICT; there are none of type internal
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS name, p.proname,
                    (SELECT string_agg('NULL::' || t::regtype, ', ') FROM unnest(p.proargtypes) t) AS nulls
             FROM pg_proc p JOIN other.symbol s ON s.name = p.prosrc
             WHERE p.proisstrict AND p.pronamespace = 'public'::regnamespace AND p.pronargs > 0
               AND p.proargtypes[0] <> 'internal'::regtype
             ORDER BY p.oid::regprocedure::text COLLATE "C"
    LOOP
        EXECUTE format('ALTER FUNCTION %s CALLED ON NULL INPUT', f.name);
        RAISE NOTICE '%: %', f.name, other.message(format('SELECT * FROM %I(%s)%s', f.proname, f.nulls,
            CASE WHEN f.proname ~ 'result(_v2)?$' THEN ' AS (a int)' ELSE '' END));
    END LOOP;
END $$;

-- a result type that is altered
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1') \gset
ALTER TYPE pg_background_outcome ADD ATTRIBUTE more int4;
SELECT other.message(format('SELECT pg_background_outcome_v2(%s, %s)', :pid, :cookie));
ALTER TYPE pg_background_outcome DROP ATTRIBUTE more, DROP ATTRIBUTE label;
SELECT other.message(format('SELECT pg_background_outcome_v2(%s, %s)', :pid, :cookie));
SELECT other.message(format('SELECT pg_background_drain_v2(array[(%s, %s)::pg_background_handle])', :pid, :cookie));
ALTER TYPE pg_background_handle DROP ATTRIBUTE cookie;
SELECT other.message('SELECT pg_background_launch_v2(''SELECT 1'')');
SELECT other.message(format('SELECT pg_background_wait_any_v2(array[ROW(%s)::pg_background_handle])', :pid));
SELECT pg_background_detach_all_v2() > 0 AS some;

SET client_min_messages = warning;
DROP EXTENSION pg_background CASCADE;
DROP SCHEMA other CASCADE;
