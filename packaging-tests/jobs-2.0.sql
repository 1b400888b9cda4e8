-- Calls every function of 2.0 as its users do, by the one of its two names that
-- ends in :v2. What this prints is the same with the library of 2.0 and with ours,
-- before ALTER EXTENSION UPDATE and after it. Not called is the one that drops
-- pgbackground_role: in 2.0 it fails, since privileges are left.
\pset null NULL

-- Waits until a job has reported progress.
CREATE PROCEDURE pg_temp.has_begun(pid int, cookie bigint) LANGUAGE plpgsql AS $$
BEGIN
    WHILE (SELECT progress_pct FROM pg_background_get_progress(pid, cookie)) IS NULL LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
-- A job that goes on until it is canceled
\set endless 'SELECT pg_background_report_progress(50, ''half''), pg_sleep(3600)'

-- A job with rows
SELECT pid, cookie FROM pg_background_launch:v2('VALUES (1), (2)') \gset
SELECT pg_background_wait:v2(:pid, :cookie);
SELECT row_count, command_tag, completed, has_error, started_at <= finished_at
FROM pg_background_result_info:v2(:pid, :cookie);
SELECT * FROM pg_background_error_info:v2(:pid, :cookie);
SELECT state, consumed, completed, has_error, row_count, command_tag, sqlstate, error_message, label
FROM pg_background_outcome:v2(:pid, :cookie);
SELECT * FROM pg_background_result:v2(:pid, :cookie) AS (n int);

-- One that fails, and two errors
SELECT pid, cookie FROM pg_background_launch:v2('SELECT 1 / 0', 65536) \gset
SELECT pg_background_wait:v2(:pid, :cookie, 0);
SELECT sqlstate, message, detail, hint, table_name FROM pg_background_error_info:v2(:pid, :cookie);
\set ON_ERROR_STOP 0
SELECT * FROM pg_background_result:v2(:pid, :cookie) AS (n int);
\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
SELECT pg_background_report_progress(1);
\echo :LAST_ERROR_SQLSTATE
\set ON_ERROR_STOP 1

-- One that is canceled
SELECT pid, cookie FROM pg_background_launch:v2(:'endless', 0, 'a label') \gset
CALL pg_temp.has_begun(:pid, :cookie);
SELECT * FROM pg_background_get_progress:v2(:pid, :cookie);
SELECT pg_background_wait:v2(:pid, :cookie, 1);
SELECT pid = :pid, cookie = :cookie, user_id::regrole, queue_size, state, sql_preview, last_error, consumed, label
FROM pg_background_list:v2() AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool, label text);
SELECT state, label FROM pg_background_list;
SELECT pgbg_state, label FROM pg_background_activity;
-- 2.0.3 adds the PID.
SELECT regexp_replace(application_name, ':[0-9]+$', '') FROM pg_stat_activity WHERE pid = :pid;
SELECT pg_background_full_sql:v2(:pid, :cookie);
SELECT pg_background_cancel:v2(:pid, :cookie, 60000);
SELECT pg_background_wait:v2(:pid, :cookie);
SELECT consumed, completed, has_error, sqlstate, error_message, label
FROM pg_background_outcome:v2(:pid, :cookie);
SELECT pg_background_detach:v2(:pid, :cookie);
SELECT state, label FROM pg_background_outcome:v2(:pid, :cookie);
SELECT * FROM pg_background_get_progress:v2(:pid, :cookie);

-- In one call
SELECT state, consumed, completed, has_error, row_count, command_tag, sqlstate, error_message, label, timed_out
FROM pg_background_run:v2('SELECT 1', 0, 0, 'run');
SELECT timed_out FROM pg_background_run:v2(:'endless', 0, 50);
SELECT * FROM pg_background_run_query:v2('SELECT 3', col_def => 'n int') AS (n int);

-- Several
SELECT pid AS one_pid, cookie AS one_cookie FROM pg_background_submit:v2('SELECT 1') \gset
SELECT pid, cookie FROM pg_background_submit:v2(:'endless', 0, 'another label') \gset
CALL pg_temp.has_begun(:pid, :cookie);
\set both 'ARRAY[(:one_pid, :one_cookie)::pg_background_handle, (:pid, :cookie)::pg_background_handle]'
SELECT pid = :one_pid, cookie = :one_cookie FROM pg_background_wait_any:v2(:both);
SELECT pg_background_cancel_by_label:v2('another %');
SELECT cookie = :cookie, completed, has_error, sqlstate, label FROM pg_background_drain:v2(:both);
SELECT count(*) FROM pg_background_list;

-- All
SELECT pid, cookie FROM pg_background_submit:v2(:'endless') \gset
SELECT pg_background_cancel_all:v2();
SELECT pg_background_wait:v2(:pid, :cookie);
SELECT pg_background_purge:v2();
SELECT pid FROM pg_background_submit:v2('SELECT 1') \gset
SELECT pg_background_detach_all:v2();
SELECT pg_background_record_timeout();
SELECT workers_launched, workers_timed_out, max_workers FROM pg_background_stats:v2();

-- Another user's
CREATE ROLE test_user;
SELECT pg_background_grant_privileges('test_user');
SET ROLE test_user;
SELECT pid, cookie FROM pg_background_launch:v2('SELECT current_user') \gset
SELECT * FROM pg_background_result:v2(:pid, :cookie) AS (who name);
RESET ROLE;
SELECT pg_background_revoke_privileges('test_user');
DROP OWNED BY test_user;
DROP ROLE test_user;
