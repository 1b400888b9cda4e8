-- From a catalog that an older version made, and schemas other than public.

\set SHOW_CONTEXT never

\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/catalog.sql
\set ECHO all

-- A fresh install of each version, and what differs from it.
CREATE EXTENSION pg_background VERSION '1.7';
CREATE TABLE fresh AS SELECT '1.7' AS version, * FROM extension_catalog;
DROP EXTENSION pg_background;
CREATE EXTENSION pg_background VERSION '1.11';
INSERT INTO fresh SELECT '1.11' AS version, * FROM extension_catalog;
DROP EXTENSION pg_background;
CREATE EXTENSION pg_background;
INSERT INTO fresh SELECT '2.1' AS version, * FROM extension_catalog;
DROP EXTENSION pg_background;
CREATE VIEW difference AS
WITH this AS (SELECT e.extversion AS version, c.* FROM extension_catalog c, pg_extension e WHERE e.extname = 'pg_background')
SELECT 'fresh' AS which, f.* FROM (SELECT * FROM fresh WHERE version IN (SELECT version FROM this) EXCEPT TABLE this) f
UNION ALL
SELECT 'updated', u.* FROM (TABLE this EXCEPT TABLE fresh) u;
SELECT version, type, count(*), count(definition) AS definitions, count(privileges) AS privileges,
       count(comment) AS comments
FROM fresh GROUP BY version, type ORDER BY version, type;

-- known failure 14: another schema. Nothing is made anywhere else, and all works there.
CREATE SCHEMA "regress Schema";
CREATE EXTENSION pg_background SCHEMA "regress Schema";
SELECT which, type, identity FROM difference;
SELECT DISTINCT pronamespace::regnamespace FROM pg_proc
WHERE proname ~ 'pg_background' ORDER BY 1;
SELECT DISTINCT relnamespace::regnamespace FROM pg_class
WHERE relname ~ 'pg_background' ORDER BY 1;
SELECT h.pid, h.cookie FROM "regress Schema".pg_background_launch_v2('SELECT 14') h \gset
SELECT * FROM "regress Schema".pg_background_result_v2(:pid, :cookie) AS (x int);
CREATE ROLE regress_user;
SELECT "regress Schema".grant_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM "regress Schema".pg_background_launch_v2('SELECT 14', 65536, 'a job') h \gset
SELECT label FROM "regress Schema".pg_background_list;
SELECT label FROM "regress Schema".pg_background_activity;
SELECT * FROM "regress Schema".pg_background_run_query_v2(
    'SELECT user_name FROM "regress Schema".pg_background_workers WHERE pid = pg_backend_pid()') AS (who name);
SELECT * FROM "regress Schema".pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;
SELECT "regress Schema".revoke_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT "regress Schema".pg_background_launch_v2('SELECT 14');
SELECT * FROM "regress Schema".pg_background_list;
RESET ROLE;

-- a move, with a job under way
SELECT h.pid, h.cookie FROM "regress Schema".pg_background_launch_v2('SELECT 15') h \gset
CREATE SCHEMA regress_moved;
ALTER EXTENSION pg_background SET SCHEMA regress_moved;
SELECT has_error FROM regress_moved.pg_background_outcome_v2(:pid, :cookie);
SELECT * FROM regress_moved.pg_background_result_v2(:pid, :cookie) AS (x int);
SELECT regress_moved.grant_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM regress_moved.pg_background_launch_v2('SELECT 16') h \gset
SELECT count(*) FROM regress_moved.pg_background_activity;
SELECT * FROM regress_moved.pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;
SELECT regress_moved.revoke_pg_background_privileges('regress_user');
DROP OWNED BY regress_user;
DROP EXTENSION pg_background;

-- A catalog of 1.6 with this library: before the update, across it, after it.
CREATE EXTENSION pg_background VERSION '1.6';
SELECT extversion FROM pg_extension WHERE extname = 'pg_background';
SELECT grant_pg_background_privileges('regress_user');
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (x int);
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 2') h \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, consumed
FROM pg_background_list_v2() AS (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 3') h \gset

ALTER EXTENSION pg_background UPDATE TO '1.7';
SELECT extversion, extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_background';
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 4') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 5') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;

-- What was granted to others stays theirs, in pg_dump's eyes too.
SELECT identity FROM extension_catalog WHERE initial_privileges::text LIKE '%regress_user%';
SELECT revoke_pg_background_privileges('regress_user');
SELECT which, type, identity FROM difference;

-- The same from 1.7, with a job under way and another's view on the functions.
SELECT grant_pg_background_privileges('regress_user');
CREATE VIEW regress_jobs AS SELECT x.pid
FROM pg_background_list_v2() AS x (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool);
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 6') h \gset
ALTER EXTENSION pg_background UPDATE;
SELECT extversion FROM pg_extension WHERE extname = 'pg_background';
SELECT count(*) FROM regress_jobs;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 7') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;
SELECT identity FROM extension_catalog WHERE initial_privileges::text LIKE '%regress_user%';
SELECT revoke_pg_background_privileges('regress_user');
SELECT which, type, identity FROM difference;
DROP VIEW regress_jobs;
DROP EXTENSION pg_background;

-- Also where 1.6 had been given another schema, which its objects ignored, and
-- where its privileges had been changed. Hardening 29: they move to that schema,
-- and others' grants and views stay.
CREATE EXTENSION pg_background SCHEMA "regress Schema" VERSION '1.6';
GRANT ALL ON FUNCTION public.pg_background_launch(text, int4),
    public.pg_background_drop_executor_role() TO PUBLIC;
GRANT USAGE ON TYPE public.pg_background_handle TO PUBLIC;
REVOKE ALL ON FUNCTION public.pg_background_result(int4) FROM pgbackground_role;
ALTER EXTENSION pg_background UPDATE TO '1.7';
SELECT which, type, identity FROM difference;
GRANT EXECUTE ON FUNCTION public.pg_background_list_v2() TO regress_user;
CREATE VIEW regress_jobs AS SELECT x.pid
FROM public.pg_background_list_v2() AS x (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool);
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT identity, initial_privileges::text ~ 'regress_user' AS ours
FROM extension_catalog WHERE privileges::text ~ 'regress_user';
SELECT count(*) FROM regress_jobs;
SELECT pg_get_viewdef('regress_jobs') ~ 'FROM "regress Schema"' AS moved;
DROP VIEW regress_jobs;
REVOKE EXECUTE ON FUNCTION "regress Schema".pg_background_list_v2() FROM regress_user;
SELECT which, type, identity FROM difference;
SELECT DISTINCT pronamespace::regnamespace FROM pg_proc
WHERE proname ~ 'pg_background' ORDER BY 1;
SELECT DISTINCT relnamespace::regnamespace FROM pg_class
WHERE relname ~ 'pg_background' ORDER BY 1;
SELECT "regress Schema".grant_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM "regress Schema".pg_background_launch_v2('SELECT 6') h \gset
SELECT * FROM "regress Schema".pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;
DROP EXTENSION pg_background;

-- Catalogs of 1.8, 1.9 and 1.10. A server takes scripts only from its own folder,
-- which a test cannot write to; so they are made by hand, of 1.6 and what each
-- version added.

-- 1.8
CREATE EXTENSION pg_background VERSION '1.6';
\set ECHO none
\i :fixtures/pg_background--1.8.sql
\set ECHO all
CALL regress_adopt('1.8');
SELECT count(*) FROM extension_catalog;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 8') h \gset
SELECT pg_background_get_progress_v2(:pid, :cookie);
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT which, type, identity FROM difference;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SELECT workers_active FROM pg_background_stats_v2();
DROP EXTENSION pg_background;

-- 1.9
CREATE EXTENSION pg_background VERSION '1.6';
\set ECHO none
\i :fixtures/pg_background--1.8.sql
\i :fixtures/pg_background--1.9.sql
\set ECHO all
CALL regress_adopt('1.9');
SELECT count(*) FROM extension_catalog;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 9', 0, 'nine') h \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_result_info_v2(:pid, :cookie);
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT which, type, identity FROM difference;
SELECT label FROM pg_background_list;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
DROP EXTENSION pg_background;

-- 1.10, with what a user has made of it
CREATE EXTENSION pg_background VERSION '1.6';
\set ECHO none
\i :fixtures/pg_background--1.8.sql
\i :fixtures/pg_background--1.9.sql
\i :fixtures/pg_background--1.10.sql
\set ECHO all
CALL regress_adopt('1.10');
SELECT count(*) FROM extension_catalog;
GRANT SELECT ON pg_background_list TO regress_user;
GRANT ALL ON pg_background_activity TO PUBLIC, pgbackground_role;
GRANT EXECUTE ON FUNCTION pg_background_drop_executor_role() TO pgbackground_role;
GRANT EXECUTE ON FUNCTION pg_background_run_v2(text, int4, int4, text) TO regress_user;
CREATE VIEW regress_labels AS SELECT label FROM pg_background_list;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 10', 0, 'ten') h \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, label FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_status_v2(:pid, :cookie) ->> 'state' AS state;
SELECT completed, row_count FROM pg_background_run_v2('SELECT 11');
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT has_function_privilege('regress_user', 'pg_background_run_v2(text, int4, int4, text)', 'EXECUTE'),
       has_table_privilege('regress_user', 'pg_background_list', 'SELECT');
REVOKE EXECUTE ON FUNCTION pg_background_run_v2(text, int4, int4, text) FROM regress_user;
REVOKE SELECT ON pg_background_list FROM regress_user;
SELECT which, type, identity FROM difference;
SELECT * FROM regress_labels;
SELECT pgbg_state, label FROM pg_background_activity;
SELECT pg_background_status_v2(:pid, :cookie) ->> 'state' AS state;
SELECT pg_background_result_jsonb_v2(:pid, :cookie);
DROP VIEW regress_labels;
DROP EXTENSION pg_background;

-- Every function of a catalog is called as its arguments' names ask for; those are
-- told that fail.
CREATE FUNCTION regress_call_all() RETURNS TABLE (calls bigint, failed text) LANGUAGE plpgsql AS $$
DECLARE
    f record;
    h record;
    call text;
    launch text := (
        SELECT format(CASE WHEN p.prorettype = 'int4'::regtype THEN 'SELECT pid, 0::int8 AS cookie FROM %s(%L) AS pid'
                      ELSE 'SELECT pid, cookie FROM %s(%L)' END, p.proname, 'SELECT 1 AS n')
        FROM pg_proc p
        WHERE p.proname ~ '^pg_background_launch(_v2)?$'
        ORDER BY p.proname DESC
        LIMIT 1);
BEGIN
    calls := 0;
    FOR f IN
        SELECT p.proname, p.oid::regprocedure AS name, pg_get_function_result(p.oid) = 'SETOF record' AS is_any,
               coalesce((SELECT string_agg(CASE a.name
                      WHEN 'sql' THEN quote_literal(CASE WHEN 'params' = ANY (p.proargnames) THEN 'SELECT length($1::text) AS n' ELSE 'SELECT 1 AS n' END) WHEN 'queue_size' THEN '65536' WHEN 'label' THEN quote_literal('x')
                      WHEN 'pid' THEN '%1$s' WHEN 'p_pid' THEN '%1$s' WHEN 'cookie' THEN '%2$s' WHEN 'p_cookie' THEN '%2$s'
                      WHEN 'h' THEN '(%1$s, %2$s)::pg_background_handle'
                      WHEN 'handles' THEN 'ARRAY[(%1$s, %2$s)::pg_background_handle]'
                      WHEN 'timeout_ms' THEN '600000' WHEN 'grace_ms' THEN '600000'
                      WHEN 'pattern' THEN quote_literal('%%') WHEN 'col_def' THEN quote_literal('n int')
                      WHEN 'commands' THEN 'ARRAY[' || quote_literal('SELECT 1') || ']' WHEN 'concurrency' THEN '1'
                      WHEN 'stop_on_error' THEN 'true' WHEN 'raise_error' THEN 'true'
                      WHEN 'print_commands' THEN 'false' WHEN 'pct' THEN '50'
                      WHEN 'msg' THEN quote_literal('half') WHEN 'params' THEN quote_literal('a')
                      ELSE quote_literal('regress_user') END, ', ' ORDER BY a.n)
                      FROM unnest(p.proargnames) WITH ORDINALITY a (name, n)
                      WHERE a.n <= p.pronargs), '') AS arguments
        FROM pg_proc p
        JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'pg_background'
        WHERE p.prokind = 'f' AND p.proname !~ 'drop_executor_role|_untyped_|detach_all|cancel_all|purge'
        ORDER BY p.oid::regprocedure::text COLLATE "C"
    LOOP
        EXECUTE launch INTO h;
        call := format('SELECT * FROM %s(%s)', f.proname, format(f.arguments, h.pid, h.cookie))
            || CASE WHEN f.proname ~ 'list' THEN ' AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
                                                  state text, sql_preview text, last_error text, consumed bool)'
               WHEN f.is_any THEN ' AS (n int)' ELSE '' END;
        BEGIN
            EXECUTE call;
        EXCEPTION WHEN OTHERS THEN
            failed := concat_ws(E'\n', failed, format('%s: %s %s', f.name, sqlstate, sqlerrm));
        END;
        calls := calls + 1;
    END LOOP;
    RETURN NEXT;
END
$$;

-- The oldest and the newest of others: 1.6 gives the extension, of which nothing
-- is left. Where a table's column would need a type, so would a view; the update
-- names it, and does nothing.

-- 1.0
CREATE EXTENSION pg_background VERSION '1.6';
CALL regress_empty();
\set ECHO none
\i :fixtures/pg_background--1.0.sql
\set ECHO all
CALL regress_adopt('1.0');
SELECT * FROM regress_call_all();
GRANT EXECUTE ON FUNCTION pg_background_launch(text, int4) TO regress_user WITH GRANT OPTION;
CREATE VIEW regress_pid AS SELECT pg_background_launch('SELECT 1');
SELECT pg_background_launch('SELECT 10')::int AS pid \gset
ALTER EXTENSION pg_background UPDATE TO '1.11';
SELECT has_function_privilege('regress_user', 'pg_background_launch(text, int4)', 'EXECUTE');
\set VERBOSITY default
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT extversion FROM pg_extension WHERE extname = 'pg_background';
DROP VIEW regress_pid;
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT has_function_privilege('regress_user', 'pg_background_launch(text, int4)', 'EXECUTE WITH GRANT OPTION'),
       has_function_privilege('regress_user', 'pg_background_result(int4)', 'EXECUTE');
SELECT identity FROM extension_catalog WHERE initial_privileges::text LIKE '%regress_user%';
REVOKE ALL ON FUNCTION pg_background_launch(text, int4), pg_background_launch(varchar, int4, text),
    pg_background_launch(text, int4, text) FROM regress_user;
SELECT which, type, identity FROM difference;
SELECT * FROM pg_background_result(:pid) AS (x int);
DROP EXTENSION pg_background;

-- 1.4; and 1.6 that was made of it, where the helpers are still those
CREATE EXTENSION pg_background VERSION '1.6';
CALL regress_empty();
\set ECHO none
\i :fixtures/pg_background--1.0.sql
\i :fixtures/pg_background--1.4.sql
\set ECHO all
CALL regress_adopt('1.4');
SELECT * FROM regress_call_all();
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT revoke_pg_background_privileges('regress_user');
SELECT which, type, identity FROM difference;
DROP EXTENSION pg_background;
CREATE EXTENSION pg_background VERSION '1.6';
ALTER EXTENSION pg_background DROP FUNCTION grant_pg_background_privileges(text, boolean);
ALTER EXTENSION pg_background DROP FUNCTION revoke_pg_background_privileges(text, boolean);
DROP FUNCTION grant_pg_background_privileges(text, boolean), revoke_pg_background_privileges(text, boolean);
\set ECHO none
\i :fixtures/pg_background--1.4.sql
\set ECHO all
CALL regress_adopt('1.6');
SELECT * FROM regress_call_all();
ALTER EXTENSION pg_background UPDATE TO '1.7';
SELECT revoke_pg_background_privileges('regress_user');
SELECT which, type, identity FROM difference;
DROP EXTENSION pg_background;

-- Catalogs that this library has made
CREATE EXTENSION pg_background VERSION '1.7';
SELECT * FROM regress_call_all();
SELECT revoke_pg_background_privileges('regress_user');
ALTER EXTENSION pg_background UPDATE TO '1.11';
SELECT * FROM regress_call_all();
SELECT revoke_pg_background_privileges('regress_user');
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT which, type, identity FROM difference;
SELECT * FROM regress_call_all();
SELECT revoke_pg_background_privileges('regress_user');
DROP EXTENSION pg_background;

-- 1.11 as it is made at once, and what of it stays what it is
CREATE EXTENSION pg_background VERSION '1.11';
GRANT EXECUTE ON FUNCTION pg_background_run_v2(text, int4, int4, text) TO regress_user;
GRANT USAGE ON TYPE pg_background_stats TO regress_user;
CREATE VIEW regress_run AS SELECT * FROM pg_background_run_v2('SELECT 1');
CREATE TABLE regress_handles (h pg_background_handle);
INSERT INTO regress_handles SELECT pg_background_launch_v2('SELECT 11');
CREATE VIEW regress_jobs AS SELECT * FROM pg_background_activity;
CREATE TABLE regress_oids AS SELECT oid FROM pg_proc WHERE proname ~ 'pg_background';
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT extversion FROM pg_extension WHERE extname = 'pg_background';
DROP VIEW regress_run;
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT count(*) FROM regress_oids r WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = r.oid);
SELECT has_function_privilege('regress_user', 'pg_background_run_v2(text, int4, int4, text)', 'EXECUTE'),
       has_type_privilege('regress_user', 'pg_background_stats', 'USAGE');
SELECT identity FROM extension_catalog WHERE initial_privileges::text LIKE '%regress_user%';
REVOKE ALL ON FUNCTION pg_background_run_v2(text, int4, int4, text) FROM regress_user;
REVOKE ALL ON TYPE pg_background_stats FROM regress_user;
SELECT which, type, identity FROM difference;
SELECT r.n FROM regress_handles, pg_background_result(h) AS r (n int);
SELECT count(*) FROM regress_jobs;
DROP TABLE regress_handles, regress_oids;
DROP VIEW regress_jobs;
DROP EXTENSION pg_background;

-- 2.0
CREATE EXTENSION pg_background VERSION '1.6';
CALL regress_empty();
\set ECHO none
\i :fixtures/pg_background--2.0.sql
\set ECHO all
CALL regress_adopt('2.0');
SELECT * FROM regress_call_all();
SELECT pid, cookie FROM pg_background_launch('SELECT 20 FROM generate_series(1, 3)', 0, repeat('x', 64)) \gset
SELECT pg_background_wait(:pid, :cookie, 0), pg_background_wait(:pid, :cookie, 4000000);
SELECT row_count, command_tag, completed, has_error, finished_at >= started_at AS finished
FROM pg_background_result_info(:pid, :cookie);
SELECT pg_background_get_progress(:pid, 0), pg_background_get_progress(NULL, NULL);
SELECT pg_background_cancel(:pid, :cookie), pg_background_cancel(:pid, :cookie, 4000000);
SELECT * FROM pg_background_result(:pid, :cookie) AS (x int);
CREATE TABLE regress_checked (n int CONSTRAINT positive CHECK (n > 0));
SELECT pid, cookie FROM pg_background_submit('INSERT INTO regress_checked VALUES (0)') \gset
SELECT pg_background_wait(:pid, :cookie);
SELECT sqlstate, schema_name, table_name, column_name, constraint_name FROM pg_background_error_info(:pid, :cookie);
DROP TABLE regress_checked;
SELECT timed_out, state FROM pg_background_run('SELECT pg_sleep(3600)', timeout_ms => 1);
SELECT workers_timed_out > 0 AS timed_out FROM pg_background_stats();
SELECT n FROM pg_background_run_query('SELECT 7', col_def => 'n int') AS (n int);
SELECT pg_background_purge() > 0 AS some, pg_background_detach_all() IS NOT NULL AS detached, pg_background_cancel_all();
SELECT pg_background_report_progress(1);
SELECT pid, cookie FROM pg_background_launch('SELECT 21') \gset
CREATE VIEW regress_jobs AS SELECT label FROM pg_background_list;
GRANT EXECUTE ON FUNCTION pg_background_run(text, int4, int4, text) TO regress_user;
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT has_function_privilege('regress_user', 'pg_background_run(text, int4, int4, text)', 'EXECUTE');
REVOKE ALL ON FUNCTION pg_background_run(text, int4, int4, text) FROM regress_user;
SELECT pg_background_revoke_privileges('regress_user');
SELECT which, type, identity FROM difference;
SELECT * FROM pg_background_result(:pid, :cookie) AS (x int);
SELECT count(*) FROM regress_jobs;
DROP VIEW regress_jobs;
DROP EXTENSION pg_background;

DROP FUNCTION regress_call_all;
DROP PROCEDURE regress_empty;
DROP PROCEDURE regress_adopt;
DROP VIEW difference, extension_catalog;
DROP TABLE fresh;
DROP SCHEMA "regress Schema", regress_moved;
DROP ROLE regress_user;
