-- The list of a session's jobs, and how they show in pg_stat_activity.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

CREATE TEMP VIEW list AS
SELECT * FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool);

-- nothing was launched
SELECT * FROM list;

--
-- What is listed
--

SELECT now() AS before \gset
SELECT * FROM pg_background_launch_v2('SELECT 1', 12345) \gset
SELECT pid = :pid AS pid, cookie = :cookie AS cookie,
       launched_at BETWEEN :'before' AND clock_timestamp() AS launched_at,
       user_id::regrole = current_user::regrole AS user_id, queue_size, sql_preview, consumed
FROM list;
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, last_error FROM list;

-- in the order of launch, v1 and submitted jobs as well, until they are read or
-- detached
SELECT pg_background_launch('SELECT 2')::int AS pid1 \gset
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_submit_v2('SELECT 3') \gset
SELECT queue_size, sql_preview FROM list;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT pg_background_detach(:pid1);
SELECT sql_preview FROM list;
SELECT pg_background_detach_v2(:pid2, :cookie2);
SELECT * FROM list;

--
-- States
--

-- a worker that cannot finish connecting is starting
SET pg_background.share_workers = off;
BEGIN;
LOCK TABLE pg_db_role_setting;
SELECT pg_background_launch('SELECT 1')::int AS pid \gset
SELECT state FROM list;
SELECT pg_background_wait_v2_timeout(pid, cookie, 1) FROM list;
SELECT state FROM list;
-- one of these is canceled before it began
SELECT pg_background_launch('SELECT 1')::int AS pid \gset
SELECT pg_background_cancel_v2(pid, cookie) FROM list WHERE pid = :pid;
COMMIT;
RESET pg_background.share_workers;
CALL await('bool_and(state NOT IN (''starting'', ''running'')) FROM list');
SELECT state, last_error FROM list;
SELECT pg_background_detach_v2(pid, cookie) FROM list;

-- one that waits for a lock is running
BEGIN;
SELECT pg_advisory_xact_lock(1);
SELECT * FROM pg_background_launch_v2('SELECT pg_advisory_xact_lock(1)') \gset
CALL await('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = ' || :pid || ')');
SELECT state, last_error FROM list;

-- meanwhile the server shows it as it does any backend
SELECT a.backend_type, a.query, a.state, a.wait_event_type, a.wait_event,
       a.datname = l.datname AS database, a.usename = l.usename AS "user",
       a.application_name = l.application_name AS application, a.query_start >= l.xact_start AS since
FROM pg_stat_activity a, pg_stat_activity l
WHERE a.pid = :pid AND l.pid = pg_backend_pid();
COMMIT;
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, last_error FROM list;
SELECT pg_background_detach_v2(:pid, :cookie);

-- known failure 10: one that has failed is not one that has ended well, and nor
-- is one that was canceled
SELECT * FROM pg_background_launch_v2('SELECT 1') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_launch_v2('SELECT 1 / 0') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_submit_v2('SELECT 1 / 0') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL await('bool_or(state = ''running'') FROM list');
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_submit_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
-- a time-out has the SQLSTATE of a cancel, and is none
SELECT * FROM pg_background_launch_v2('SET statement_timeout = 1; SELECT pg_sleep(3600)') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
-- nor is a job of which nobody has asked for a cancel, and which says so
SELECT * FROM pg_background_launch_v2($$DO 'BEGIN RAISE query_canceled USING MESSAGE = ''not at all''; END'$$) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT sql_preview, state, last_error, consumed FROM list;
SELECT pg_background_detach_v2(pid, cookie) FROM list;

--
-- The preview is at most 120 bytes, the last error 512
--

SELECT pid FROM generate_series(119, 122) n,
       LATERAL pg_background_launch_v2(rpad('SELECT 1 -- ', n, 'x')) \g /dev/null
SELECT length(sql_preview), right(sql_preview, 5) FROM list;
SELECT pg_background_detach_v2(pid, cookie) FROM list;
SELECT pid FROM generate_series(511, 514) n,
       LATERAL pg_background_launch_v2(format($$DO 'BEGIN RAISE ''%%'', repeat(''x'', %s); END'$$, n)) \g /dev/null
CALL await('bool_and(state = ''error'') FROM list');
SELECT length(last_error), right(last_error, 5) FROM list;
SELECT pg_background_detach_v2(pid, cookie) FROM list;

DROP EXTENSION pg_background CASCADE;
