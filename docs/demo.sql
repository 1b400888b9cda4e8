-- The tour of "make demo", see docs/demo.
\set ON_ERROR_STOP on
\set ECHO queries
\pset footer off

CREATE EXTENSION pg_background;

\echo
\echo '1. A job runs while the session goes on working'
\echo
SELECT * FROM pg_background_launch_v2($$SELECT count(*) FROM generate_series(1, 10000000) i WHERE i % 7 = 0$$) \gset
SELECT 'nobody waited for the job' AS "the session";

\echo '   Has it ended within 50 ms?'
\echo
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 50) AS ended;

\echo '   Its rows: to read them waits for its end'
\echo
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (count bigint);

\echo
\echo '2. An audit row that survives a rollback'
\echo
CREATE TABLE account (owner text, balance int);
CREATE TABLE audit (at timestamptz DEFAULT now(), what text);
BEGIN;
INSERT INTO account VALUES ('alice', 1000000);
SELECT * FROM pg_background_launch_v2($$INSERT INTO audit (what) VALUES ('alice tried to get rich')$$) \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (command text);
ROLLBACK;
SELECT count(*) AS accounts FROM account;
SELECT what FROM audit;

\echo
\echo '3. A job that fails: reading its result raises its error'
\echo
SELECT * FROM pg_background_launch_v2($$SELECT 1 / 0$$) \gset
\set ON_ERROR_STOP off
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
\set ON_ERROR_STOP on
\echo '   Its SQLSTATE:' :SQLSTATE

\echo
\echo '4. A job is canceled'
\echo
SELECT * FROM pg_background_launch_v2($$SELECT pg_sleep(3600)$$) \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);

\echo
\echo '5. The list of the jobs whose result was not read yet'
\echo
SELECT * FROM pg_background_launch_v2($$VACUUM audit$$) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_launch_v2($$SELECT pg_sleep(3600)$$) \gset
SELECT pid, state, sql_preview, last_error FROM pg_background_list_v2()
    AS (pid int, cookie bigint, launched_at timestamptz, user_id oid, queue_size int,
        state text, sql_preview text, last_error text, consumed bool)
    ORDER BY launched_at;
SELECT pg_background_cancel_v2(:pid, :cookie);
