/* pg_background--1.11.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_background" to load this file. \quit

-- The server runs this file with search_path set to the schema the extension
-- goes into, and pg_catalog before it. CREATE without OR REPLACE: what another
-- role has put there under one of these names stops the installation.

CREATE TYPE pg_background_handle AS (pid int4, cookie int8);
CREATE TYPE pg_background_stats AS (
    workers_launched int8, workers_completed int8, workers_failed int8, workers_canceled int8,
    workers_active int4, avg_execution_ms float8, max_workers int4);
CREATE TYPE pg_background_progress AS (progress_pct int4, progress_msg text);
CREATE TYPE pg_background_result_info AS (row_count int8, command_tag text, completed bool, has_error bool);
CREATE TYPE pg_background_error AS (sqlstate text, message text, detail text, hint text, context text);
CREATE TYPE pg_background_outcome AS (
    pid int4, cookie int8, state text, consumed bool, completed bool, has_error bool,
    row_count int8, command_tag text, sqlstate text, error_message text, label text,
    launched_at timestamptz);
CREATE TYPE pg_background_run_result AS (
    pid int4, completed bool, timed_out bool, has_error bool, row_count int8, command_tag text,
    sqlstate text, error_message text, elapsed_ms int8);

-- v1: a job's handle is the PID of its worker

CREATE FUNCTION pg_background_launch(sql text, queue_size int4 DEFAULT 0)
RETURNS int4
AS 'MODULE_PATHNAME', 'pg_background_launch'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_result(pid int4)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_result'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_detach(pid int4)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_detach'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- v2: a job's handle is a PID and a cookie, so that a PID used again is no danger.
-- A queue size of 0 stands for pg_background.default_queue_size.

CREATE FUNCTION pg_background_launch_v2(sql text, queue_size int4 DEFAULT 0)
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_launch_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_launch_v2(sql text, queue_size int4, label text)
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_launch_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_launch_params_v2(sql text, VARIADIC params "any")
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_launch_params_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_submit_v2(sql text, queue_size int4 DEFAULT 0)
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_submit_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_submit_v2(sql text, queue_size int4, label text)
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_submit_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_submit_params_v2(sql text, VARIADIC params "any")
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_submit_params_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_submit_on_commit_v2(
    sql text, queue_size int4 DEFAULT 0, label text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_submit_on_commit_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_result_v2(pid int4, cookie int8)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_result_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_result_jsonb_v2(pid int4, cookie int8)
RETURNS SETOF jsonb
AS 'MODULE_PATHNAME', 'pg_background_result_jsonb_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_detach_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_detach_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_detach_all_v2()
RETURNS int4
AS 'MODULE_PATHNAME', 'pg_background_detach_all_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_purge_v2()
RETURNS int4
AS 'MODULE_PATHNAME', 'pg_background_purge_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_cancel_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_cancel_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_cancel_v2_grace(pid int4, cookie int8, grace_ms int4)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_cancel_v2_grace'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_cancel_all_v2()
RETURNS int4
AS 'MODULE_PATHNAME', 'pg_background_cancel_all_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_cancel_by_label_v2(pattern text, grace_ms int4 DEFAULT 0)
RETURNS int4
AS 'MODULE_PATHNAME', 'pg_background_cancel_by_label_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_wait_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_wait_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_wait_v2_timeout(pid int4, cookie int8, timeout_ms int4)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pg_background_wait_v2_timeout'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_wait_any_v2(handles pg_background_handle[], timeout_ms int4 DEFAULT 0)
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_wait_any_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_drain_v2(handles pg_background_handle[], timeout_ms int4 DEFAULT 0)
RETURNS SETOF pg_background_outcome
AS 'MODULE_PATHNAME', 'pg_background_drain_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- launch, wait, outcome and forget in one call

CREATE FUNCTION pg_background_run_v2(
    sql text, queue_size int4 DEFAULT 0, timeout_ms int4 DEFAULT 0, label text DEFAULT NULL)
RETURNS pg_background_run_result
AS 'MODULE_PATHNAME', 'pg_background_run_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_run_params_v2(sql text, VARIADIC params "any")
RETURNS pg_background_run_result
AS 'MODULE_PATHNAME', 'pg_background_run_params_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_run_query_v2(
    sql text, queue_size int4 DEFAULT 0, timeout_ms int4 DEFAULT 0, label text DEFAULT NULL,
    col_def text DEFAULT NULL)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_run_query_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_run_all_v2(
    commands text[], concurrency int4 DEFAULT 0, stop_on_error bool DEFAULT false)
RETURNS TABLE (
    ordinality int8, pid int4, cookie int8, state text, consumed bool, completed bool,
    has_error bool, row_count int8, command_tag text, sqlstate text, error_message text, label text,
    launched_at timestamptz, elapsed_ms int8)
AS 'MODULE_PATHNAME', 'pg_background_run_all_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- what is known of jobs

CREATE FUNCTION pg_background_list_v2()
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_list_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_outcome_v2(p_pid int4, p_cookie int8)
RETURNS pg_background_outcome
AS 'MODULE_PATHNAME', 'pg_background_outcome_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_status_v2(p_pid int4, p_cookie int8)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'pg_background_status_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_result_info_v2(pid int4, cookie int8)
RETURNS pg_background_result_info
AS 'MODULE_PATHNAME', 'pg_background_result_info_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_error_info_v2(pid int4, cookie int8)
RETURNS pg_background_error
AS 'MODULE_PATHNAME', 'pg_background_error_info_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_full_sql_v2(pid int4, cookie int8)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_background_full_sql_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_progress(pct int4, msg text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_progress'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_get_progress_v2(pid int4, cookie int8)
RETURNS pg_background_progress
AS 'MODULE_PATHNAME', 'pg_background_get_progress_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_stats_v2()
RETURNS pg_background_stats
AS 'MODULE_PATHNAME', 'pg_background_stats_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION pg_background_workers_v2()
RETURNS TABLE (
    pid int4, launcher_pid int4, launcher_user oid, user_id oid, database oid, label text,
    state text, launched_at timestamptz, sql_preview text)
AS 'MODULE_PATHNAME', 'pg_background_workers_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Views call functions as whoever reads them, so they show what that role may see.

CREATE VIEW pg_background_list AS
SELECT l.pid, l.cookie, l.launched_at, l.user_id, l.queue_size, l.state,
       l.sql_preview, l.last_error, l.consumed, l.label
FROM pg_background_list_v2() AS l (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool, label text);

CREATE VIEW pg_background_activity AS
SELECT l.pid, l.cookie, l.launched_at, l.user_id, l.queue_size, l.state AS pgbg_state,
       l.sql_preview, l.last_error, l.consumed, l.label,
       a.state AS backend_state, a.wait_event_type, a.wait_event,
       a.xact_start, a.query_start, a.backend_start, a.query
FROM pg_background_list l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid AND l.state IN ('starting', 'running');

CREATE VIEW pg_background_workers AS
SELECT w.pid, w.launcher_pid, pg_get_userbyid(w.launcher_user) AS launcher_user,
       w.user_id, pg_get_userbyid(w.user_id) AS user_name, d.datname AS database,
       w.label, w.state, w.launched_at, w.sql_preview,
       a.state AS backend_state, a.state_change, a.wait_event_type, a.wait_event,
       a.xact_start, a.query_start, a.backend_start, a.application_name, a.query
FROM pg_background_workers_v2() w
LEFT JOIN pg_database d ON d.oid = w.database
LEFT JOIN pg_stat_activity a ON a.pid = w.pid;

-- The privilege helpers ask the catalog what the extension holds, so they know
-- every object of every version, in whatever schema it is.

CREATE FUNCTION grant_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    grantee regrole;
    command text;
BEGIN
    IF role_name IS NULL THEN
        RAISE EXCEPTION 'role name must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT oid INTO grantee FROM pg_roles WHERE rolname = role_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name USING ERRCODE = 'undefined_object';
    END IF;

    FOR command IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            WHERE e.extname = 'pg_background'
        ), object AS (
            SELECT 'ALL ON FUNCTION ' || p.oid::regprocedure AS privilege, p.pronamespace AS schema_id
            FROM member m
            JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
            WHERE p.proname NOT IN ('grant_pg_background_privileges',
                                    'revoke_pg_background_privileges',
                                    'pg_background_drop_executor_role')
            UNION ALL
            SELECT 'ALL ON TYPE ' || t.oid::regtype, t.typnamespace
            FROM member m
            JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            UNION ALL
            SELECT 'SELECT ON ' || c.oid::regclass, c.relnamespace
            FROM member m
            JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
        )
        SELECT format('GRANT USAGE ON SCHEMA %s TO %s', n.oid::regnamespace, grantee)
        FROM pg_namespace n
        WHERE n.oid IN (SELECT schema_id FROM object)
          AND NOT has_schema_privilege(grantee, n.oid, 'USAGE')
        UNION ALL
        (SELECT format('GRANT %s TO %s', privilege, grantee)
         FROM object
         ORDER BY privilege COLLATE "C")
    LOOP
        IF print_commands THEN
            RAISE NOTICE '%', command;
        END IF;
        EXECUTE command;
    END LOOP;
    RETURN true;
END
$function$;

CREATE FUNCTION revoke_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    grantee regrole;
    command text;
BEGIN
    IF role_name IS NULL THEN
        RAISE EXCEPTION 'role name must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT oid INTO grantee FROM pg_roles WHERE rolname = role_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name USING ERRCODE = 'undefined_object';
    END IF;

    FOR command IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            WHERE e.extname = 'pg_background'
        ), object AS (
            SELECT 'ALL ON FUNCTION ' || p.oid::regprocedure AS privilege
            FROM member m
            JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
            WHERE p.proname NOT IN ('grant_pg_background_privileges',
                                    'revoke_pg_background_privileges',
                                    'pg_background_drop_executor_role')
            UNION ALL
            SELECT 'ALL ON TYPE ' || t.oid::regtype
            FROM member m
            JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            UNION ALL
            SELECT 'SELECT ON ' || c.oid::regclass
            FROM member m
            JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
        )
        SELECT format('REVOKE %s FROM %s', privilege, grantee)
        FROM object
        ORDER BY privilege COLLATE "C"
    LOOP
        IF print_commands THEN
            RAISE NOTICE '%', command;
        END IF;
        EXECUTE command;
    END LOOP;
    RETURN true;
END
$function$;

-- An extension script's GRANT goes into the object's initial privileges too
-- (pg_init_privs), which would still name the role. They are recorded anew, as
-- the privileges of the moment, when the object leaves and joins the extension;
-- what other roles have been granted is set aside meanwhile, or pg_dump would
-- take that for the extension's.

CREATE FUNCTION pg_background_drop_executor_role()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    command text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgbackground_role') THEN
        RAISE NOTICE 'role "pgbackground_role" does not exist, skipping';
        RETURN;
    END IF;

    FOR command IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            WHERE e.extname = 'pg_background'
        ), object AS (
            SELECT 'FUNCTION' AS kind, p.oid::regprocedure::text AS name,
                   p.pronamespace AS schema_id, p.proowner AS owner, p.proacl AS acl
            FROM member m
            JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
            WHERE p.proname NOT IN ('grant_pg_background_privileges',
                                    'revoke_pg_background_privileges',
                                    'pg_background_drop_executor_role')
            UNION ALL
            SELECT 'TYPE', t.oid::regtype::text, t.typnamespace, t.typowner, t.typacl
            FROM member m
            JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            UNION ALL
            SELECT 'VIEW', c.oid::regclass::text, c.relnamespace, c.relowner, c.relacl
            FROM member m
            JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
        ), privilege AS (
            SELECT format('%s ON %s %s', a.privilege_type,
                          CASE o.kind WHEN 'VIEW' THEN 'TABLE' ELSE o.kind END, o.name) AS name,
                   a.is_grantable,
                   CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
            FROM object o
            CROSS JOIN aclexplode(o.acl) a
            WHERE a.grantee <> o.owner
        ), step (number, command) AS (
            SELECT 1, format('REVOKE USAGE ON SCHEMA %s FROM pgbackground_role', schema_id::regnamespace)
            FROM object
            UNION
            SELECT 2, format('REVOKE %s FROM %s CASCADE', name, grantee)
            FROM privilege
            UNION
            SELECT 3, format('ALTER EXTENSION pg_background DROP %s %s', kind, name)
            FROM object
            UNION
            SELECT 4, format('ALTER EXTENSION pg_background ADD %s %s', kind, name)
            FROM object
            UNION
            SELECT 5, format('GRANT %s TO %s', name, grantee)
                      || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            FROM privilege
            WHERE grantee <> 'pgbackground_role'
        )
        SELECT s.command FROM step s ORDER BY s.number
    LOOP
        EXECUTE command;
    END LOOP;
    DROP ROLE pgbackground_role;
END
$function$;

COMMENT ON TYPE pg_background_handle
IS 'names a job of this session: the PID of its worker and a cookie';
COMMENT ON TYPE pg_background_stats
IS 'what became of the jobs of a session';
COMMENT ON TYPE pg_background_progress
IS 'how far a job is, as it says itself';
COMMENT ON TYPE pg_background_result_info
IS 'what is known of the result of a job without reading it';
COMMENT ON TYPE pg_background_error
IS 'the error of a job';
COMMENT ON TYPE pg_background_outcome
IS 'a job, and what became of it';
COMMENT ON TYPE pg_background_run_result
IS 'what became of a job that was run in one call';
COMMENT ON FUNCTION pg_background_launch(text, int4)
IS 'run SQL in a background worker; returns its PID';
COMMENT ON FUNCTION pg_background_result(int4)
IS 'wait for a job and return its rows, once';
COMMENT ON FUNCTION pg_background_detach(int4)
IS 'stop tracking a job, which goes on';
COMMENT ON FUNCTION pg_background_launch_v2(text, int4)
IS 'run SQL in a background worker; returns a handle';
COMMENT ON FUNCTION pg_background_launch_v2(text, int4, text)
IS 'run SQL in a background worker, under a label; returns a handle';
COMMENT ON FUNCTION pg_background_launch_params_v2(text, VARIADIC "any")
IS 'run a statement with parameters $1, $2, ... in a background worker; returns a handle';
COMMENT ON FUNCTION pg_background_submit_v2(text, int4)
IS 'run SQL in a background worker whose result is not wanted; returns a handle';
COMMENT ON FUNCTION pg_background_submit_v2(text, int4, text)
IS 'run SQL in a background worker whose result is not wanted, under a label; returns a handle';
COMMENT ON FUNCTION pg_background_submit_params_v2(text, VARIADIC "any")
IS 'run a statement with parameters $1, $2, ... in a background worker whose result is not wanted; returns a handle';
COMMENT ON FUNCTION pg_background_submit_on_commit_v2(text, int4, text)
IS 'run SQL in a background worker when the transaction has committed';
COMMENT ON FUNCTION pg_background_result_v2(int4, int8)
IS 'wait for a job and return its rows, once';
COMMENT ON FUNCTION pg_background_result_jsonb_v2(int4, int8)
IS 'wait for a job and return its rows as JSON objects, once';
COMMENT ON FUNCTION pg_background_detach_v2(int4, int8)
IS 'stop tracking a job, which goes on';
COMMENT ON FUNCTION pg_background_detach_all_v2()
IS 'stop tracking all jobs of this session, which go on; returns how many';
COMMENT ON FUNCTION pg_background_purge_v2()
IS 'forget the jobs of this session that have ended; returns how many';
COMMENT ON FUNCTION pg_background_cancel_v2(int4, int8)
IS 'cancel a job';
COMMENT ON FUNCTION pg_background_cancel_v2_grace(int4, int8, int4)
IS 'cancel a job, and terminate its worker if that has not ended it after some milliseconds';
COMMENT ON FUNCTION pg_background_cancel_all_v2()
IS 'cancel all jobs of this session; returns how many';
COMMENT ON FUNCTION pg_background_cancel_by_label_v2(text, int4)
IS 'cancel the jobs of this session whose label is LIKE a pattern; returns how many';
COMMENT ON FUNCTION pg_background_wait_v2(int4, int8)
IS 'wait until a job has ended';
COMMENT ON FUNCTION pg_background_wait_v2_timeout(int4, int8, int4)
IS 'wait until a job has ended, or for some milliseconds; true when it has ended';
COMMENT ON FUNCTION pg_background_wait_any_v2(pg_background_handle[], int4)
IS 'wait until one of some jobs has ended; returns its handle';
COMMENT ON FUNCTION pg_background_drain_v2(pg_background_handle[], int4)
IS 'wait until some jobs have ended; returns what became of each';
COMMENT ON FUNCTION pg_background_run_v2(text, int4, int4, text)
IS 'run SQL in a background worker and wait for it; returns what became of it';
COMMENT ON FUNCTION pg_background_run_params_v2(text, VARIADIC "any")
IS 'run a statement with parameters $1, $2, ... in a background worker and wait for it; returns what became of it';
COMMENT ON FUNCTION pg_background_run_query_v2(text, int4, int4, text, text)
IS 'run SQL in a background worker and return its rows';
COMMENT ON FUNCTION pg_background_run_all_v2(text[], int4, bool)
IS 'run many commands in a few background workers; returns what became of each';
COMMENT ON FUNCTION pg_background_list_v2()
IS 'the jobs of this session';
COMMENT ON FUNCTION pg_background_outcome_v2(int4, int8)
IS 'what is known of a job, or of a handle that names none';
COMMENT ON FUNCTION pg_background_status_v2(int4, int8)
IS 'what is known of a job, or of a handle that names none, as a JSON object';
COMMENT ON FUNCTION pg_background_result_info_v2(int4, int8)
IS 'what is known of the result of a job without reading it';
COMMENT ON FUNCTION pg_background_error_info_v2(int4, int8)
IS 'the error of a job; null where there was none';
COMMENT ON FUNCTION pg_background_full_sql_v2(int4, int8)
IS 'the whole SQL text of a job';
COMMENT ON FUNCTION pg_background_progress(int4, text)
IS 'tell, from within a job, how far it is';
COMMENT ON FUNCTION pg_background_get_progress_v2(int4, int8)
IS 'how far a job is, as it says itself; null before it has said so';
COMMENT ON FUNCTION pg_background_stats_v2()
IS 'what became of the jobs of this session';
COMMENT ON FUNCTION pg_background_workers_v2()
IS 'the workers of all sessions of the cluster';
COMMENT ON VIEW pg_background_list
IS 'the jobs of this session';
COMMENT ON VIEW pg_background_activity
IS 'the jobs of this session, and what the server shows of those that run';
COMMENT ON VIEW pg_background_workers
IS 'the workers of all sessions of the cluster, and what the server shows of them';
COMMENT ON FUNCTION grant_pg_background_privileges(text, boolean)
IS 'let a role use pg_background';
COMMENT ON FUNCTION revoke_pg_background_privileges(text, boolean)
IS 'take the use of pg_background from a role';
COMMENT ON FUNCTION pg_background_drop_executor_role()
IS 'drop the role pgbackground_role';

-- PUBLIC gets nothing, the executor role everything but the helpers. A GRANT or
-- REVOKE in here makes pg_dump take all of the object's privileges for ones that
-- the extension makes, and leave them out, also those that users have granted.
-- So there is none that changes nothing, and none on the schema.

SET LOCAL search_path = pg_catalog, pg_temp;

DO LANGUAGE plpgsql $block$
DECLARE
    command text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgbackground_role') THEN
        CREATE ROLE pgbackground_role NOLOGIN;
        COMMENT ON ROLE pgbackground_role IS 'may use pg_background';
    END IF;

    FOR command IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            WHERE e.extname = 'pg_background'
        ), object (name, acl, wanted) AS (
            SELECT 'FUNCTION ' || p.oid::regprocedure, coalesce(p.proacl, acldefault('f', p.proowner)),
                   CASE WHEN p.proname NOT IN ('grant_pg_background_privileges',
                                               'revoke_pg_background_privileges',
                                               'pg_background_drop_executor_role') THEN 'EXECUTE' END
            FROM member m
            JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
            UNION ALL
            SELECT 'TYPE ' || t.oid::regtype, coalesce(t.typacl, acldefault('T', t.typowner)), 'USAGE'
            FROM member m
            JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            UNION ALL
            SELECT 'TABLE ' || c.oid::regclass, coalesce(c.relacl, acldefault('r', c.relowner)), 'SELECT'
            FROM member m
            JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
        ), privilege AS (
            SELECT o.name, o.wanted,
                   EXISTS (SELECT FROM aclexplode(o.acl) WHERE grantee = 0) AS is_public,
                   ARRAY(SELECT DISTINCT privilege_type FROM aclexplode(o.acl)
                         WHERE grantee = 'pgbackground_role'::regrole) AS held
            FROM object o
        )
        SELECT format('REVOKE ALL ON %s FROM PUBLIC', name)
        FROM privilege
        WHERE is_public
        UNION ALL
        SELECT format('REVOKE ALL ON %s FROM pgbackground_role', name)
        FROM privilege
        WHERE NOT held <@ ARRAY[wanted]
        UNION ALL
        SELECT format('GRANT %s ON %s TO pgbackground_role', wanted, name)
        FROM privilege
        WHERE held <> ARRAY[wanted] AND wanted IS NOT NULL
    LOOP
        EXECUTE command;
    END LOOP;
END
$block$;
