-- Waiting for jobs, and being interrupted while waiting or reading.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never
-- Nothing here hangs for ever, whatever is broken.
SET statement_timeout = '1min';

--
-- For as long as it takes, and for some time
--

BEGIN;
SELECT pg_advisory_xact_lock(1);
SELECT * FROM pg_background_launch_v2('SELECT 1 FROM pg_advisory_xact_lock(1)') \gset
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 0);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, -1);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, -2147483648);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 100);
CALL await('bool_and(state = ''running'') FROM pg_background_list');
COMMIT;
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 3600000);
SELECT pg_background_wait_v2(:pid, :cookie);
-- again, since it has ended
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 0);
SELECT state FROM pg_background_list;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);

-- one that fails is waited for in the same way
SELECT * FROM pg_background_launch_v2('SELECT 1 / 0') \gset
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 3600000);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_detach_v2(:pid, :cookie);

--
-- known failure 2: waiting for a job whose result is larger than its queue
--

SET work_mem = '64kB';
SELECT * FROM pg_background_launch_v2('SELECT g, repeat(''x'', g % 100) FROM generate_series(1, 100000) g', 16384) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state FROM pg_background_list;
SELECT count(*), sum(n), sum(length(t)) FROM pg_background_result_v2(:pid, :cookie) AS (n int, t text);

SELECT * FROM pg_background_launch_v2('SELECT g, repeat(''x'', g % 100) FROM generate_series(1, 100000) g', 16384) \gset
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 3600000);
SELECT count(*), sum(n), sum(length(t)) FROM pg_background_result_v2(:pid, :cookie) AS (n int, t text);

-- looking at the list is enough for it to get on
SELECT * FROM pg_background_launch_v2('SELECT g, repeat(''x'', g % 100) FROM generate_series(1, 10000) g', 16384) \gset
CALL await('bool_and(state = ''stopped'') FROM pg_background_list');
SELECT count(*), sum(n), sum(length(t)) FROM pg_background_result_v2(:pid, :cookie) AS (n int, t text);

-- and so is waiting for another one
SELECT pid AS pid1, cookie AS cookie1 FROM pg_background_launch_v2('SELECT g FROM generate_series(1, 100000) g', 16384) \gset
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT g FROM generate_series(1, 100000) g', 16384) \gset
SELECT pg_background_wait_v2(:pid2, :cookie2);
SELECT pg_background_wait_v2(:pid1, :cookie1);
SELECT count(*), sum(n) FROM pg_background_result_v2(:pid1, :cookie1) AS (n int);
SELECT count(*), sum(n) FROM pg_background_result_v2(:pid2, :cookie2) AS (n int);

-- a submitted one waits for nobody
SELECT * FROM pg_background_submit_v2('SELECT g FROM generate_series(1, 100000) g', 16384) \gset
CALL await('NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = ''active'' AND pid = ' || :pid || ')');
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);
RESET work_mem;

--
-- Change 4: waiting and reading can be interrupted, and the session and all jobs
-- are unharmed
--

-- This session holds a lock that the jobs wait for. That is a deadlock, but not
-- what is looked at here.
SET deadlock_timeout = '1h';
SELECT pg_advisory_lock(1);
SELECT pid AS other_pid, cookie AS other_cookie FROM pg_background_launch_v2('SELECT 1 FROM pg_advisory_xact_lock_shared(1)') \gset

-- while no row has come, the result can be asked for again
SELECT * FROM pg_background_launch_v2('SELECT 1 FROM pg_advisory_xact_lock_shared(1)') \gset
CALL await('bool_and(state = ''running'') FROM pg_background_list');
SET statement_timeout = '100ms';
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 3600000);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SET statement_timeout = '1min';
SELECT state, consumed FROM pg_background_list;

-- in the middle of a result: of its rows, some are in the queue
SELECT pid AS torn_pid, cookie AS torn_cookie FROM pg_background_launch_v2(
    'SELECT g FROM generate_series(1, 400) g UNION ALL SELECT 0 FROM pg_advisory_xact_lock_shared(1)', 16384) \gset
CALL await('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = ' || :torn_pid || ')');
SET statement_timeout = '500ms';
SELECT count(*) FROM pg_background_result_v2(:torn_pid, :torn_cookie) AS (n int);
SET statement_timeout = '1min';
SELECT state, consumed FROM pg_background_list;
-- what has gone is not read again, and nor is the rest of it as though it were all
SELECT consumed, pg_background_wait_v2_timeout(pid, cookie, 0) FROM pg_background_list WHERE cookie = :torn_cookie;
\set VERBOSITY sqlstate
SELECT count(*) FROM pg_background_result_v2(:torn_pid, :torn_cookie) AS (n int);
\set VERBOSITY default

-- the others
SELECT pg_advisory_unlock(1);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT * FROM pg_background_result_v2(:other_pid, :other_cookie) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch('SELECT 2')) AS (n int);
SELECT pg_background_wait_v2(:torn_pid, :torn_cookie);
SELECT state, consumed FROM pg_background_list;
SELECT pg_background_detach_v2(:torn_pid, :torn_cookie);

-- while it reads what is there, too: a result without an end, all in one
-- transaction, of which only a part is rolled back
BEGIN;
SELECT * FROM pg_background_launch_v2('SELECT generate_series(1, 1e12)') \gset
CALL await('EXISTS (SELECT FROM pg_stat_activity WHERE state = ''active'' AND wait_event_type = ''Extension'' AND pid = ' || :pid || ')');
SAVEPOINT s;
SET LOCAL statement_timeout = '500ms';
SELECT count(*) FROM pg_background_result_v2(:pid, :cookie) AS (n numeric);
ROLLBACK TO s;
SELECT * FROM pg_background_result(pg_background_launch('SELECT 3')) AS (n int);
COMMIT;
SELECT state, consumed FROM pg_background_list;
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, consumed FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);
SELECT count(*) AS jobs FROM pg_background_list;

DROP EXTENSION pg_background;
