@update
@types
        ['pg_background_handle', 'pid integer, cookie bigint',
         'names a job of this session: the PID of its worker and a cookie'],
        ['pg_background_stats',
         'workers_launched bigint, workers_completed bigint, workers_failed bigint, workers_canceled bigint, '
         'workers_active integer, avg_execution_ms double precision, max_workers integer',
         'what became of the jobs of a session'],
        ['pg_background_progress', 'progress_pct integer, progress_msg text',
         'how far a job is, as it says itself'],
        ['pg_background_result_info', 'row_count bigint, command_tag text, completed boolean, has_error boolean',
         'what is known of the result of a job without reading it'],
        ['pg_background_error', 'sqlstate text, message text, detail text, hint text, context text',
         'the error of a job'],
        ['pg_background_outcome',
         'pid integer, cookie bigint, state text, consumed boolean, completed boolean, has_error boolean, '
         'row_count bigint, command_tag text, sqlstate text, error_message text, label text, '
         'launched_at timestamp with time zone',
         'a job, and what became of it'],
        ['pg_background_run_result',
         'pid integer, completed boolean, timed_out boolean, has_error boolean, row_count bigint, command_tag text, '
         'sqlstate text, error_message text, elapsed_ms bigint',
         'what became of a job that was run in one call']
@functions
        -- v1: a job's handle is the PID of its worker
        ['launch', 'sql text, queue_size integer DEFAULT 0', 'integer', 'STRICT',
         'run SQL in a background worker; returns its PID'],
        ['result', 'pid integer', 'SETOF record', 'STRICT',
         'wait for a job and return its rows, once'],
        ['detach', 'pid integer', 'void', 'STRICT',
         'stop tracking a job, which goes on'],

        -- v2: a job's handle is a PID and a cookie, so that a PID used again is no danger
        ['launch_v2', 'sql text, queue_size integer DEFAULT 0', 'pg_background_handle', 'STRICT',
         'run SQL in a background worker; returns a handle'],
        ['launch_v2', 'sql text, queue_size integer, label text', 'pg_background_handle', '',
         'run SQL in a background worker, under a label; returns a handle'],
        ['launch_params_v2', 'sql text, VARIADIC params "any"', 'pg_background_handle', '',
         'run a statement with parameters $1, $2, ... in a background worker; returns a handle'],
        ['submit_v2', 'sql text, queue_size integer DEFAULT 0', 'pg_background_handle', 'STRICT',
         'run SQL in a background worker whose result is not wanted; returns a handle'],
        ['submit_v2', 'sql text, queue_size integer, label text', 'pg_background_handle', '',
         'run SQL in a background worker whose result is not wanted, under a label; returns a handle'],
        ['submit_params_v2', 'sql text, VARIADIC params "any"', 'pg_background_handle', '',
         'run a statement with parameters $1, $2, ... in a background worker whose result is not wanted; returns a handle'],
        ['submit_on_commit_v2', 'sql text, queue_size integer DEFAULT 0, label text DEFAULT NULL', 'void', '',
         'run SQL in a background worker when the transaction has committed'],
        ['result_v2', 'pid integer, cookie bigint', 'SETOF record', 'STRICT',
         'wait for a job and return its rows, once'],
        ['result_jsonb_v2', 'pid integer, cookie bigint', 'SETOF jsonb', 'STRICT',
         'wait for a job and return its rows as JSON objects, once'],
        ['detach_v2', 'pid integer, cookie bigint', 'void', 'STRICT',
         'stop tracking a job, which goes on'],
        ['detach_all_v2', '', 'integer', '',
         'stop tracking all jobs of this session, which go on; returns how many'],
        ['purge_v2', '', 'integer', '',
         'forget the jobs of this session that have ended; returns how many'],
        ['cancel_v2', 'pid integer, cookie bigint', 'void', 'STRICT',
         'cancel a job'],
        ['cancel_v2_grace', 'pid integer, cookie bigint, grace_ms integer', 'void', 'STRICT',
         'cancel a job, and terminate its worker if that has not ended it after some milliseconds'],
        ['cancel_all_v2', '', 'integer', '',
         'cancel all jobs of this session; returns how many'],
        ['cancel_by_label_v2', 'pattern text, grace_ms integer DEFAULT 0', 'integer', '',
         'cancel the jobs of this session whose label is LIKE a pattern; returns how many'],
        ['wait_v2', 'pid integer, cookie bigint', 'void', 'STRICT',
         'wait until a job has ended'],
        ['wait_v2_timeout', 'pid integer, cookie bigint, timeout_ms integer', 'boolean', 'STRICT',
         'wait until a job has ended, or for some milliseconds; true when it has ended'],
        ['wait_any_v2', 'handles pg_background_handle[], timeout_ms integer DEFAULT 0', 'pg_background_handle', '',
         'wait until one of some jobs has ended; returns its handle'],
        ['drain_v2', 'handles pg_background_handle[], timeout_ms integer DEFAULT 0', 'SETOF pg_background_outcome', '',
         'wait until some jobs have ended; returns what became of each'],

        -- launch, wait, outcome and forget in one call
        ['run_v2', 'sql text, queue_size integer DEFAULT 0, timeout_ms integer DEFAULT 0, label text DEFAULT NULL',
         'pg_background_run_result', '',
         'run SQL in a background worker and wait for it; returns what became of it'],
        ['run_params_v2', 'sql text, VARIADIC params "any"', 'pg_background_run_result', '',
         'run a statement with parameters $1, $2, ... in a background worker and wait for it; returns what became of it'],
        ['run_query_v2',
         'sql text, queue_size integer DEFAULT 0, timeout_ms integer DEFAULT 0, label text DEFAULT NULL, '
         'col_def text DEFAULT NULL',
         'SETOF record', '',
         'run SQL in a background worker and return its rows'],
        ['run_all_v2', 'commands text[], concurrency integer DEFAULT 0, stop_on_error boolean DEFAULT false',
         'TABLE(ordinality bigint, pid integer, cookie bigint, state text, consumed boolean, completed boolean, '
         'has_error boolean, row_count bigint, command_tag text, sqlstate text, error_message text, label text, '
         'launched_at timestamp with time zone, elapsed_ms bigint)', '',
         'run many commands in a few background workers; returns what became of each'],

        -- what is known of jobs
        ['list_v2', '', 'SETOF record', '',
         'the jobs of this session'],
        ['outcome_v2', 'p_pid integer, p_cookie bigint', 'pg_background_outcome', 'STRICT',
         'what is known of a job, or of a handle that names none'],
        ['status_v2', 'p_pid integer, p_cookie bigint', 'jsonb', 'STRICT',
         'what is known of a job, or of a handle that names none, as a JSON object'],
        ['result_info_v2', 'pid integer, cookie bigint', 'pg_background_result_info', 'STRICT',
         'what is known of the result of a job without reading it'],
        ['error_info_v2', 'pid integer, cookie bigint', 'pg_background_error', 'STRICT',
         'the error of a job; null where there was none'],
        ['full_sql_v2', 'pid integer, cookie bigint', 'text', 'STRICT',
         'the whole SQL text of a job'],
        ['progress', 'pct integer, msg text DEFAULT NULL', 'void', '',
         'tell, from within a job, how far it is'],
        ['get_progress_v2', 'pid integer, cookie bigint', 'pg_background_progress', 'STRICT',
         'how far a job is, as it says itself; null before it has said so'],
        ['stats_v2', '', 'pg_background_stats', '',
         'what became of the jobs of this session'],
        ['workers_v2', '',
         'TABLE(pid integer, launcher_pid integer, launcher_user oid, user_id oid, database oid, label text, '
         'state text, launched_at timestamp with time zone, sql_preview text)', '',
         'the workers of all sessions of the cluster']
@end
@views

CREATE OR REPLACE VIEW pg_background_workers AS
SELECT w.pid, w.launcher_pid, pg_get_userbyid(w.launcher_user) AS launcher_user,
       w.user_id, pg_get_userbyid(w.user_id) AS user_name, d.datname AS database,
       w.label, w.state, w.launched_at, w.sql_preview,
       a.state AS backend_state, a.state_change, a.wait_event_type, a.wait_event,
       a.xact_start, a.query_start, a.backend_start, a.application_name, a.query
FROM pg_background_workers_v2() w
LEFT JOIN pg_database d ON d.oid = w.database
LEFT JOIN pg_stat_activity a ON a.pid = w.pid;

COMMENT ON VIEW pg_background_workers
IS 'the workers of all sessions of the cluster, and what the server shows of them';

@helpers
@role
@privileges
@update_privileges
