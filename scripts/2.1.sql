@update_schema
@update

-- Parameters of a client that leaves their types open. VARIADIC "any" does not
-- tell the server what to take them for, and VARIADIC text[] would also take
-- varchar, name and char(n), which are to be sent as they are. Of this type are
-- only values that had none: nothing is cast to it, and being a string type, it
-- is preferred where nothing else is known.

CREATE TYPE pg_background_untyped;

CREATE FUNCTION pg_background_untyped_in(cstring)
RETURNS pg_background_untyped
AS 'MODULE_PATHNAME', 'pg_background_untyped_in'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION pg_background_untyped_out(pg_background_untyped)
RETURNS cstring
AS 'MODULE_PATHNAME', 'pg_background_untyped_out'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION pg_background_untyped_recv(internal)
RETURNS pg_background_untyped
AS 'MODULE_PATHNAME', 'pg_background_untyped_recv'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION pg_background_untyped_send(pg_background_untyped)
RETURNS bytea
AS 'MODULE_PATHNAME', 'pg_background_untyped_send'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE TYPE pg_background_untyped (
    INPUT = pg_background_untyped_in, OUTPUT = pg_background_untyped_out,
    RECEIVE = pg_background_untyped_recv, SEND = pg_background_untyped_send,
    LIKE = text, CATEGORY = 'S');

CREATE CAST (pg_background_untyped AS text) WITHOUT FUNCTION;

COMMENT ON TYPE pg_background_untyped
IS 'a parameter whose type is left open; it is sent as text';
COMMENT ON FUNCTION pg_background_untyped_in(cstring)
IS 'I/O';
COMMENT ON FUNCTION pg_background_untyped_out(pg_background_untyped)
IS 'I/O';
COMMENT ON FUNCTION pg_background_untyped_recv(internal)
IS 'I/O';
COMMENT ON FUNCTION pg_background_untyped_send(pg_background_untyped)
IS 'I/O';

@types
        ['pg_background_handle', 'pid integer, cookie bigint',
         'names a job of this session: the PID of its worker and a cookie'],
        ['pg_background_stats',
         'workers_launched bigint, workers_completed bigint, workers_failed bigint, workers_canceled bigint, '
         'workers_timed_out bigint, workers_active integer, avg_execution_ms double precision, max_workers integer',
         'what became of the jobs of a session'],
        ['pg_background_progress_info', 'progress_pct integer, progress_msg text',
         'how far a job is, as it says itself'],
        ['pg_background_result_info',
         'row_count bigint, command_tag text, completed boolean, has_error boolean, '
         'started_at timestamp with time zone, finished_at timestamp with time zone',
         'what is known of the result of a job without reading it'],
        ['pg_background_error',
         'sqlstate text, message text, detail text, hint text, context text, '
         'schema_name text, table_name text, column_name text, constraint_name text',
         'the error of a job'],
        ['pg_background_outcome',
         'pid integer, cookie bigint, state text, consumed boolean, completed boolean, has_error boolean, '
         'row_count bigint, command_tag text, sqlstate text, error_message text, label text, '
         'launched_at timestamp with time zone',
         'a job, and what became of it'],
        ['pg_background_run_result',
         'pid integer, cookie bigint, state text, consumed boolean, completed boolean, has_error boolean, '
         'row_count bigint, command_tag text, sqlstate text, error_message text, label text, '
         'launched_at timestamp with time zone, timed_out boolean, elapsed_ms bigint',
         'what became of a job that was run in one call']
@functions
        -- an autonomous transaction
        ['exec', 'sql text', 'bigint', '',
         'run a statement in a transaction of its own; returns how many rows it returned or changed'],
        ['exec', 'sql text, VARIADIC params "any"', 'bigint', '',
         'run a statement with parameters $1, $2, ... in a transaction of its own; returns how many rows it returned or changed'],
        ['exec', 'sql text, VARIADIC params pg_background_untyped[]', 'bigint', '',
         'run a statement with parameters $1, $2, ... of type text in a transaction of its own; returns how many rows it returned or changed'],
        ['query', 'sql text', 'SETOF record', '',
         'run a statement in a transaction of its own and return its rows'],
        ['query', 'sql text, VARIADIC params "any"', 'SETOF record', '',
         'run a statement with parameters $1, $2, ... in a transaction of its own and return its rows'],
        ['query', 'sql text, VARIADIC params pg_background_untyped[]', 'SETOF record', '',
         'run a statement with parameters $1, $2, ... of type text in a transaction of its own and return its rows'],

        -- A launch with a label alone, label => ..., finds the form of varchar. Where types are
        -- left open, the server prefers text, so that nothing else does.
        ['launch launch_v2', 'sql text, queue_size integer DEFAULT 0', 'pg_background_handle', 'STRICT',
         'run SQL in a background worker; returns a handle'],
        ['launch launch_v2', 'sql text, queue_size integer, label text', 'pg_background_handle', '',
         'run SQL in a background worker, under a label; returns a handle'],
        ['launch launch_v2', 'sql character varying, queue_size integer DEFAULT 0, label text DEFAULT NULL',
         'pg_background_handle', '',
         'run SQL in a background worker, under a label; returns a handle'],
        ['submit submit_v2', 'sql text, queue_size integer DEFAULT 0', 'pg_background_handle', 'STRICT',
         'run SQL in a background worker whose result is not wanted; returns a handle'],
        ['submit submit_v2', 'sql text, queue_size integer, label text', 'pg_background_handle', '',
         'run SQL in a background worker whose result is not wanted, under a label; returns a handle'],
        ['submit submit_v2', 'sql character varying, queue_size integer DEFAULT 0, label text DEFAULT NULL',
         'pg_background_handle', '',
         'run SQL in a background worker whose result is not wanted, under a label; returns a handle'],
        ['launch_params launch_params_v2', 'sql text, VARIADIC params "any"', 'pg_background_handle', '',
         'run a statement with parameters $1, $2, ... in a background worker; returns a handle'],
        ['launch_params launch_params_v2', 'sql text, VARIADIC params pg_background_untyped[]',
         'pg_background_handle', '',
         'run a statement with parameters $1, $2, ... of type text in a background worker; returns a handle'],
        ['submit_params submit_params_v2', 'sql text, VARIADIC params "any"', 'pg_background_handle', '',
         'run a statement with parameters $1, $2, ... in a background worker whose result is not wanted; returns a handle'],
        ['submit_params submit_params_v2', 'sql text, VARIADIC params pg_background_untyped[]',
         'pg_background_handle', '',
         'run a statement with parameters $1, $2, ... of type text in a background worker whose result is not wanted; returns a handle'],
        ['submit_on_commit submit_on_commit_v2', 'sql text, queue_size integer DEFAULT 0, label text DEFAULT NULL',
         'void', '',
         'run SQL in a background worker when the transaction has committed'],

        -- what is done with a job
        ['result', 'h pg_background_handle', 'SETOF record', 'STRICT',
         'wait for a job and return its rows, once'],
        ['result result_v2', 'pid integer, cookie bigint', 'SETOF record', 'STRICT',
         'wait for a job and return its rows, once'],
        ['result', 'pid integer', 'SETOF record', 'STRICT',
         'wait for a job and return its rows, once'],
        ['result_jsonb', 'h pg_background_handle', 'SETOF jsonb', 'STRICT',
         'wait for a job and return its rows as JSON objects, once'],
        ['result_jsonb result_jsonb_v2', 'pid integer, cookie bigint', 'SETOF jsonb', 'STRICT',
         'wait for a job and return its rows as JSON objects, once'],
        ['wait', 'h pg_background_handle, timeout_ms integer DEFAULT 0', 'boolean', 'STRICT',
         'wait until a job has ended, or for some milliseconds; true when it has ended'],
        ['wait wait_v2', 'pid integer, cookie bigint, timeout_ms integer DEFAULT 0', 'boolean', 'STRICT',
         'wait until a job has ended, or for some milliseconds; true when it has ended'],
        ['wait_any wait_any_v2', 'handles pg_background_handle[], timeout_ms integer DEFAULT 0',
         'pg_background_handle', '',
         'wait until one of some jobs has ended; returns its handle'],
        ['drain drain_v2', 'handles pg_background_handle[], timeout_ms integer DEFAULT 0',
         'SETOF pg_background_outcome', '',
         'wait until some jobs have ended, and forget them; returns what became of each'],
        ['cancel', 'h pg_background_handle, grace_ms integer DEFAULT 0', 'void', 'STRICT',
         'cancel a job, and wait for some milliseconds until it has ended'],
        ['cancel cancel_v2', 'pid integer, cookie bigint, grace_ms integer DEFAULT 0', 'void', 'STRICT',
         'cancel a job, and wait for some milliseconds until it has ended'],
        ['cancel_all cancel_all_v2', '', 'integer', '',
         'cancel all jobs of this session; returns how many'],
        ['cancel_by_label cancel_by_label_v2', 'pattern text, grace_ms integer DEFAULT 0', 'integer', '',
         'cancel the jobs of this session whose label is LIKE a pattern; returns how many'],
        ['detach', 'h pg_background_handle', 'void', 'STRICT',
         'stop tracking a job, which goes on'],
        ['detach detach_v2', 'pid integer, cookie bigint', 'void', 'STRICT',
         'stop tracking a job, which goes on'],
        ['detach', 'pid integer', 'void', 'STRICT',
         'stop tracking a job, which goes on'],
        ['detach_all detach_all_v2', '', 'integer', '',
         'stop tracking all jobs of this session, which go on; returns how many'],
        ['purge purge_v2', '', 'integer', '',
         'forget the jobs of this session that have ended; returns how many'],

        -- launch, wait, outcome and forget in one call
        ['run run_v2',
         'sql text, queue_size integer DEFAULT 0, timeout_ms integer DEFAULT 0, label text DEFAULT NULL',
         'pg_background_run_result', '',
         'run SQL in a background worker and wait for it; returns what became of it'],
        ['run_params run_params_v2', 'sql text, VARIADIC params "any"', 'pg_background_run_result', '',
         'run a statement with parameters $1, $2, ... in a background worker and wait for it; returns what became of it'],
        ['run_params run_params_v2', 'sql text, VARIADIC params pg_background_untyped[]',
         'pg_background_run_result', '',
         'run a statement with parameters $1, $2, ... of type text in a background worker and wait for it; returns what became of it'],
        ['run_query run_query_v2',
         'sql text, queue_size integer DEFAULT 0, timeout_ms integer DEFAULT 0, label text DEFAULT NULL, '
         'col_def text DEFAULT NULL', 'SETOF record', '',
         'run SQL in a background worker and return its rows'],
        ['run_all',
         'commands text[], concurrency integer DEFAULT 0, stop_on_error boolean DEFAULT false, '
         'raise_error boolean DEFAULT false',
         'TABLE(ordinality bigint, command text, pid integer, cookie bigint, state text, consumed boolean, '
         'completed boolean, has_error boolean, row_count bigint, command_tag text, sqlstate text, '
         'error_message text, label text, launched_at timestamp with time zone, elapsed_ms bigint)', '',
         'run many commands in a few background workers; returns what became of each, or raises an error where one failed'],

        -- what is known of jobs
        ['list list_v2', '', 'SETOF record', '',
         'the jobs of this session'],
        ['outcome', 'h pg_background_handle', 'pg_background_outcome', '',
         'what is known of a job; null where there is none'],
        ['outcome outcome_v2', 'p_pid integer, p_cookie bigint', 'pg_background_outcome', 'STRICT',
         'what is known of a job; null where there is none'],
        ['result_info', 'h pg_background_handle', 'pg_background_result_info', 'STRICT',
         'what is known of the result of a job without reading it'],
        ['result_info result_info_v2', 'pid integer, cookie bigint', 'pg_background_result_info', 'STRICT',
         'what is known of the result of a job without reading it'],
        ['error_info', 'h pg_background_handle', 'pg_background_error', 'STRICT',
         'the error of a job; null where there was none'],
        ['error_info error_info_v2', 'pid integer, cookie bigint', 'pg_background_error', 'STRICT',
         'the error of a job; null where there was none'],
        ['get_progress', 'h pg_background_handle', 'pg_background_progress_info', '',
         'how far a job is, as it says itself; null before it has said so'],
        ['get_progress get_progress_v2', 'pid integer, cookie bigint', 'pg_background_progress_info', '',
         'how far a job is, as it says itself; null before it has said so'],
        ['full_sql', 'h pg_background_handle', 'text', 'STRICT',
         'the whole SQL text of a job'],
        ['full_sql full_sql_v2', 'pid integer, cookie bigint', 'text', 'STRICT',
         'the whole SQL text of a job'],
        ['report_progress progress', 'pct integer, msg text DEFAULT NULL', 'void', '',
         'tell, from within a job, how far it is'],
        ['stats stats_v2', '', 'pg_background_stats', '',
         'what became of the jobs of this session'],
        ['record_timeout', '', 'void', '',
         'count a job of this session that took too long'],
        ['workers', '',
         'TABLE(pid integer, launcher_pid integer, launcher_user oid, user_id oid, database oid, label text, '
         'state text, launched_at timestamp with time zone, sql_preview text, progress_pct integer, progress_msg text)', '',
         'the workers of all sessions of the cluster, and how far their jobs are'],
        ['pool', '',
         'TABLE(database oid, login_user oid, running integer, idle integer, queued integer, waiting integer, '
         'launched bigint, completed bigint, failed bigint, canceled bigint, wait_ms double precision, '
         'run_ms double precision, started bigint)', '',
         'for each database and user: what their workers do, and what became of their jobs'],
        ['handle_pid', 'h pg_background_handle', 'integer', 'STRICT',
         'the PID of the worker of a job, which was a handle in itself before 2.0'],

        -- older names
        ['run_all_v2', 'commands text[], concurrency integer DEFAULT 0, stop_on_error boolean DEFAULT false',
         'TABLE(ordinality bigint, pid integer, cookie bigint, state text, consumed boolean, completed boolean, '
         'has_error boolean, row_count bigint, command_tag text, sqlstate text, error_message text, label text, '
         'launched_at timestamp with time zone, elapsed_ms bigint)', '',
         'run many commands in a few background workers; returns what became of each'],
        ['workers_v2', '',
         'TABLE(pid integer, launcher_pid integer, launcher_user oid, user_id oid, database oid, label text, '
         'state text, launched_at timestamp with time zone, sql_preview text)', '',
         'the workers of all sessions of the cluster'],
        ['cancel_v2_grace', 'pid integer, cookie bigint, grace_ms integer', 'void', 'STRICT',
         'cancel a job, and terminate its worker if that has not ended it after some milliseconds'],
        ['wait_v2_timeout', 'pid integer, cookie bigint, timeout_ms integer', 'boolean', 'STRICT',
         'wait until a job has ended, or for some milliseconds; true when it has ended'],
        ['status_v2', 'p_pid integer, p_cookie bigint', 'jsonb', 'STRICT',
         'what is known of a job as a JSON object; null where there is none']
@end

-- Code that takes a PID for a handle, as it was before 2.0, goes on.

CREATE CAST (pg_background_handle AS int4) WITH FUNCTION pg_background_handle_pid(pg_background_handle) AS IMPLICIT;

-- Commands that wait for the snapshots of others, as CREATE INDEX CONCURRENTLY
-- does, would wait for that of a SELECT which waits for them.

CREATE OR REPLACE PROCEDURE pg_background_maintain(
    commands text[], concurrency int4 DEFAULT 0, stop_on_error bool DEFAULT false, raise_error bool DEFAULT false,
    INOUT outcomes pg_background_outcome[] DEFAULT NULL)
AS 'MODULE_PATHNAME', 'pg_background_maintain'
LANGUAGE C;

COMMENT ON PROCEDURE pg_background_maintain(text[], int4, bool, bool, pg_background_outcome[])
IS 'run many commands in a few background workers, and hold no snapshot meanwhile; returns what became of each, or raises an error where one failed';

@views

CREATE OR REPLACE VIEW pg_background_workers AS
SELECT w.pid, w.launcher_pid, pg_get_userbyid(w.launcher_user) AS launcher_user,
       w.user_id, pg_get_userbyid(w.user_id) AS user_name, d.datname AS database,
       w.label, w.state, w.launched_at, w.sql_preview,
       a.state AS backend_state, a.state_change, a.wait_event_type, a.wait_event,
       a.xact_start, a.query_start, a.backend_start, a.application_name, a.query,
       w.progress_pct, w.progress_msg
FROM pg_background_workers() w
LEFT JOIN pg_database d ON d.oid = w.database
LEFT JOIN pg_stat_activity a ON a.pid = w.pid;

CREATE OR REPLACE VIEW pg_background_pool AS
SELECT p.database AS datid, d.datname, p.login_user AS userid, pg_get_userbyid(p.login_user) AS usename,
       p.running, p.idle, p.queued, p.waiting, p.launched, p.completed, p.failed, p.canceled,
       p.wait_ms, p.run_ms, p.started
FROM pg_background_pool() p
LEFT JOIN pg_database d ON d.oid = p.database;

COMMENT ON VIEW pg_background_workers
IS 'the workers of all sessions of the cluster, and what the server shows of them';
COMMENT ON VIEW pg_background_pool
IS 'for each database and user: what their workers do, and what became of their jobs since the server''s start';

@helpers

CREATE OR REPLACE FUNCTION pg_background_grant_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT grant_pg_background_privileges(role_name, print_commands);
END;

CREATE OR REPLACE FUNCTION pg_background_revoke_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT revoke_pg_background_privileges(role_name, print_commands);
END;

COMMENT ON FUNCTION pg_background_grant_privileges(text, boolean)
IS 'let a role use pg_background';
COMMENT ON FUNCTION pg_background_revoke_privileges(text, boolean)
IS 'take the use of pg_background from a role';

@role

-- Whoever is to run jobs becomes a member of this role, and could use what else
-- it may do. Its comment tells whether the extension has made it, be it in
-- another database.

DO LANGUAGE plpgsql $block$
DECLARE
    executor record;
BEGIN
    SELECT r.rolcanlogin AS can_login,
           shobj_description(r.oid, 'pg_authid') IS NOT DISTINCT FROM 'may use pg_background' AS is_ours,
           concat_ws(', ', CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                     CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolreplication THEN 'REPLICATION' END,
                     CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                     (SELECT 'membership in ' || string_agg(m.roleid::regrole::text, ', ' ORDER BY m.roleid::regrole::text)
                      FROM pg_auth_members m WHERE m.member = r.oid)) AS more,
           (SELECT string_agg(DISTINCT m.member::regrole::text, ', ')
            FROM pg_auth_members m WHERE m.roleid = r.oid) AS members
    INTO executor
    FROM pg_roles r
    WHERE r.rolname = 'pgbackground_role';
    IF executor.more <> '' THEN
        RAISE EXCEPTION 'role "pgbackground_role" may do more than run jobs'
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('It has %s, which its members could use.', executor.more),
                  HINT = 'Take that from the role, or rename it or drop it, so that the extension makes one.';
    END IF;
    IF NOT executor.is_ours THEN
        RAISE WARNING 'role "pgbackground_role" is there already and is used as it is'
            USING DETAIL = coalesce('These are members of it, and may run jobs: ' || executor.members || '.', 'It has no members.');
    END IF;
    IF executor.can_login THEN
        RAISE WARNING 'role "pgbackground_role" can log in'
            USING HINT = 'ALTER ROLE pgbackground_role NOLOGIN.';
    END IF;
END
$block$;

@create_alone
@owner
@privileges
@monitor
@update_privileges
