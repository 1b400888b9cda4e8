-- Canceling jobs, and whatever order jobs are canceled, detached and ended in.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never
-- Nothing here hangs for ever, whatever is broken.
SET statement_timeout = '1min';

-- Wait until a job does what is expected of it.
CREATE PROCEDURE pg_temp.await_wait(pid int, event_type text, event text DEFAULT '%') LANGUAGE sql AS $$
    CALL await(format('EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s AND state = ''active''
                                       AND wait_event_type = %L AND wait_event LIKE %L)', pid, event_type, event));
$$;

--
-- A job that runs
--

SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, last_error FROM pg_background_list;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
\echo :LAST_ERROR_SQLSTATE

-- one that has not begun, perhaps
SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, last_error FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);

-- one that waits for a lock
BEGIN;
SELECT pg_advisory_xact_lock(1);
SELECT * FROM pg_background_launch_v2('SELECT pg_advisory_xact_lock(1)') \gset
CALL pg_temp.await_wait(:pid, 'Lock');
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
COMMIT;
SELECT state FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);

-- ones whose result fills the queue, of small rows and of one large row
SELECT * FROM pg_background_launch_v2('SELECT generate_series(1, 1e12)') \gset
CALL pg_temp.await_wait(:pid, 'Extension');
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, last_error FROM pg_background_list;
SELECT count(*) FROM pg_background_result_v2(:pid, :cookie) AS (n numeric);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_launch_v2('SELECT repeat(''x'', 10000000)') \gset
CALL pg_temp.await_wait(:pid, 'Extension');
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT count(*) FROM pg_background_result_v2(:pid, :cookie) AS (t text);
\echo :LAST_ERROR_SQLSTATE

-- a submitted one, and one of v1
SELECT * FROM pg_background_submit_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_launch('SELECT pg_sleep(3600)')::int AS pid1 \gset
SELECT pg_background_cancel_v2(pid, cookie), pg_background_wait_v2(pid, cookie) FROM pg_background_list WHERE pid = :pid1;
SELECT state FROM pg_background_list;
SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_list;

-- its transaction is rolled back
CREATE TABLE audit (entry text);
SELECT * FROM pg_background_launch_v2('INSERT INTO audit VALUES (''undone''); SELECT pg_sleep(3600)') \gset
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_detach_v2(:pid, :cookie);
TABLE audit;

--
-- A job that has ended is left as it is
--

SELECT * FROM pg_background_launch_v2('SELECT 1') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT state FROM pg_background_list;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT * FROM pg_background_launch_v2('SELECT 1 / 0') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT state, last_error FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);

-- and a cancel that comes too late, or just so, is no cancel of the next job
DO $$
DECLARE
    first pg_background_handle;
    second pg_background_handle;
BEGIN
    FOR i IN 1 .. 100 LOOP
        first := pg_background_launch_v2('SELECT 1');
        IF i % 2 = 0 THEN
            PERFORM pg_background_wait_v2_timeout(first.pid, first.cookie, i / 50);
        END IF;
        PERFORM pg_background_cancel_v2(first.pid, first.cookie);
        second := pg_background_launch_v2('SELECT 2');
        PERFORM pg_background_wait_v2(first.pid, first.cookie);
        PERFORM pg_background_detach_v2(first.pid, first.cookie);
        PERFORM FROM pg_background_result_v2(second.pid, second.cookie) AS (n int);
    END LOOP;
END $$;

--
-- Grace
--

-- a job that ends when it is canceled needs none
SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 3600000);
SELECT state, last_error FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);

-- known failure 5: one that does not is terminated, and nothing else is
SELECT pg_postmaster_start_time() AS started \gset
SELECT $job$
DO $do$
BEGIN
    LOOP
        BEGIN
            PERFORM pg_sleep(3600);
        EXCEPTION
            WHEN query_canceled THEN
                RAISE NOTICE 'not now';
        END;
    END LOOP;
END $do$
$job$ AS stubborn \gset
SELECT * FROM pg_background_launch_v2(:'stubborn') \gset
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 100);
SELECT state FROM pg_background_list;
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 100);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state FROM pg_background_list;
SET client_min_messages = warning;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
RESET client_min_messages;
\echo :LAST_ERROR_SQLSTATE
SELECT :'started' = pg_postmaster_start_time() AS up, pg_is_in_recovery();

-- no grace at all: terminated at once, whatever it is doing
SELECT * FROM pg_background_launch_v2(:'stubborn') \gset
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2(:'stubborn') \gset
CALL pg_temp.await_wait(:pid2, 'Timeout', 'PgSleep');
SELECT pg_background_cancel_v2_grace(:pid2, :cookie2, -1);
SELECT pg_background_wait_v2(:pid2, :cookie2);
SELECT state FROM pg_background_list;
SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_list;
-- also one that waits for room in its queue
SELECT * FROM pg_background_launch_v2('SELECT generate_series(1, 1e12)') \gset
CALL pg_temp.await_wait(:pid, 'Extension');
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);

-- the grace can be interrupted
SELECT * FROM pg_background_launch_v2(:'stubborn') \gset
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SET statement_timeout = '100ms';
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 3600000);
SET statement_timeout = '1min';
SELECT state FROM pg_background_list;
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);

--
-- Change 7: any order of detach, cancel, exit and abort is harmless
--

-- twice
SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT pg_background_detach_v2(:pid, :cookie);
\set VERBOSITY sqlstate
SELECT pg_background_detach_v2(:pid, :cookie);
SELECT pg_background_detach(:pid);
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);

-- detached while a cancel is on its way
SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_detach_v2(:pid, :cookie);
SELECT pg_background_detach_v2(:pid, :cookie);
CALL await('NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ' || :pid || ')');

-- detaching is no part of the transaction
SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
BEGIN;
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_detach_v2(:pid, :cookie);
ROLLBACK;
SELECT pg_background_detach_v2(:pid, :cookie);

-- the process has ended of itself
SET pg_background.max_idle_workers = 0;
SELECT pg_background_launch('SELECT 1')::int AS pid \gset
RESET pg_background.max_idle_workers;
CALL await('NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ' || :pid || ')');
SELECT pg_background_cancel_v2(pid, cookie) FROM pg_background_list;
SELECT pg_background_detach(:pid);
SELECT pg_background_detach(:pid);

-- or was terminated, in an aborted transaction
BEGIN;
SELECT pg_background_launch('SELECT pg_sleep(3600)')::int AS pid \gset
CALL pg_temp.await_wait(:pid, 'Timeout', 'PgSleep');
SELECT pg_terminate_backend(:pid);
CALL await('NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ' || :pid || ')');
SELECT 1 / 0;
ROLLBACK;
SELECT state FROM pg_background_list;
SELECT pg_background_cancel_v2_grace(pid, cookie, 0) FROM pg_background_list;
SELECT pg_background_detach(:pid);
SELECT pg_background_detach(:pid);

-- read in a subtransaction that is rolled back
SELECT pg_background_launch('SELECT 1')::int AS pid \gset
BEGIN;
SAVEPOINT s;
SELECT * FROM pg_background_result(:pid) AS (n int);
ROLLBACK TO s;
SELECT pg_background_detach(:pid);
ROLLBACK;
SELECT pg_background_detach(:pid);
\set VERBOSITY default

-- the session ends with jobs in all states
SELECT pid AS pid1 FROM pg_background_launch_v2(:'stubborn') \gset
CALL pg_temp.await_wait(:pid1, 'Timeout', 'PgSleep');
SELECT pid FROM pg_background_launch_v2('SELECT generate_series(1, 1e6)') \gset
SELECT * FROM pg_background_launch_v2('SELECT 1 / 0') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT * FROM pg_background_launch_v2('SELECT 1') \gset
\c -
SELECT pg_terminate_backend(:pid1);
DO $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF NOT EXISTS (SELECT FROM pg_background_pool WHERE datname = current_database() AND running + queued > 0) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE EXCEPTION 'a job is left';
END $$;
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (n int);

DROP EXTENSION pg_background;
DROP TABLE audit;
