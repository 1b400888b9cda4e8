-- Jobs that wait for a worker: what can be done with them, and what limits them.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- The context of an error or notice names a PID.
\set SHOW_CONTEXT never
-- Nothing here hangs for ever, whatever is broken.
SET statement_timeout = '1min';
-- No process stays for long.
SET pg_background.idle_timeout = 500;

-- What the jobs have done, in that order
CREATE TABLE done (n serial, what text);
CREATE FUNCTION was_done() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    SELECT string_agg(what, ', ' ORDER BY n) INTO result FROM done;
    DELETE FROM done;
    RETURN result;
END $$;
CREATE FUNCTION says(what text) RETURNS text LANGUAGE sql AS $$
    SELECT format('INSERT INTO done (what) VALUES (%L)', what)
$$;
-- A job that runs until lock 1 is free
\set gate 'SELECT pg_advisory_xact_lock_shared(1)'

-- Since the test began, where the pool has known this database and user before
CREATE TABLE before AS
SELECT coalesce(sum(launched), 0) AS launched, coalesce(sum(completed), 0) AS completed,
       coalesce(sum(failed), 0) AS failed, coalesce(sum(canceled), 0) AS canceled
FROM pg_background_pool WHERE datname = current_database() AND usename = current_user;
CREATE VIEW mine AS
SELECT running, queued, waiting, p.launched - b.launched AS launched, p.completed - b.completed AS completed,
       p.failed - b.failed AS failed, p.canceled - b.canceled AS canceled
FROM pg_background_pool p, before b
WHERE datname = current_database() AND usename = current_user;

--
-- Handles
--

SET pg_background.max_workers = 1;
SELECT pg_advisory_lock(1);
SELECT pid AS gate_pid, cookie AS gate_cookie FROM pg_background_submit_v2(:'gate', 0, 'the gate') \gset
SELECT pid, cookie FROM pg_background_submit_v2(says('one'), 0, 'queued') \gset
CALL await('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = ''advisory'' AND pid = ' || :gate_pid || ')');
SELECT :gate_pid < 1 << 30 AS has_process, :pid >= 1 << 30 AS is_queued;

-- all that can be asked of a job
SELECT label, state, pid = :pid AS is_number, sql_preview, last_error, consumed FROM pg_background_list;
SELECT completed, has_error, state, sqlstate, row_count, command_tag FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_status_v2(:pid, :cookie) - 'pid' - 'cookie' - 'launched_at' AS status;
SELECT row_count, command_tag, completed, has_error FROM pg_background_result_info_v2(:pid, :cookie);
SELECT r IS NULL AS none FROM pg_background_error_info_v2(:pid, :cookie) r;
SELECT r IS NULL AS none FROM pg_background_get_progress_v2(:pid, :cookie) r;
SELECT pg_background_full_sql_v2(:pid, :cookie);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 1);
SELECT pg_background_wait_any_v2(array[(:pid, :cookie)]::pg_background_handle[], 1) IS NULL AS none;
SELECT count(*) FILTER (WHERE completed) AS completed FROM pg_background_drain_v2(array[(:pid, :cookie)]::pg_background_handle[], 1);
SELECT workers_active FROM pg_background_stats_v2();
-- by wrong handles
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid, :cookie + 1));
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid + 1, :cookie));
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :gate_pid, :cookie));
-- it has no rows, also by its number alone
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result(%s) AS (n int)', :pid));
-- what all sessions see: there is no process
SELECT label, state FROM pg_background_workers WHERE launcher_pid = pg_backend_pid();
TABLE mine;

-- It has run under the same handle; the list shows the process by now.
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT label, state, pid = :gate_pid AS in_the_process FROM pg_background_list;
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', pid, cookie)) FROM pg_background_list WHERE label = 'queued';
SELECT completed, has_error, state, row_count, command_tag FROM pg_background_outcome_v2(:pid, :cookie);
SELECT (pg_background_wait_any_v2(array[(:pid, :cookie)]::pg_background_handle[])).pid = :pid AS is_number;
SELECT pid = :pid AS is_number, completed FROM pg_background_drain_v2(array[(:pid, :cookie)]::pg_background_handle[]);
SELECT pg_background_detach_v2(:gate_pid, :gate_cookie);
SELECT count(*) FROM pg_background_list;
SELECT was_done();
TABLE mine;

--
-- Order
--

SELECT pg_advisory_lock(1);
SELECT pg_background_submit_v2(:'gate') IS NOT NULL AS ok;
SELECT count(*) AS jobs, count(*) FILTER (WHERE (j.h).pid >= 1 << 30) AS queued, count(DISTINCT (j.h).pid) AS numbers
FROM (SELECT pg_background_submit_v2(says(g::text)) AS h FROM generate_series(1, 20) g) j;
SELECT running, queued FROM mine;
SELECT pg_advisory_unlock(1);
-- a launch comes behind them
SELECT completed, has_error FROM pg_background_run_v2(says('last'));
SELECT was_done();
-- Those of a session that has gone run, too.
SELECT pg_advisory_lock(1);
SELECT pg_background_submit_v2('SELECT pg_sleep(0.2)') IS NOT NULL AS ok;
SELECT count(pg_background_submit_v2(says(g::text))) FROM generate_series(1, 20) g;
\c -
\set SHOW_CONTEXT never
SET statement_timeout = '1min';
SET pg_background.idle_timeout = 500;
SET pg_background.max_workers = 1;
CALL await('(SELECT count(*) = 20 FROM done)');
SELECT was_done();

--
-- Cancel and detach
--

SELECT pg_advisory_lock(1);
SELECT pid AS gate_pid, cookie AS gate_cookie FROM pg_background_submit_v2(:'gate', 0, 'the gate') \gset
SELECT pid, cookie FROM pg_background_submit_v2(says('never'), 0, 'canceled') \gset
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_submit_v2(says('detached'), 0, 'detached') \gset
SELECT pid AS pid3, cookie AS cookie3 FROM pg_background_submit_v2(says('never'), 0, 'canceled by label') \gset
SELECT pid AS pid4, cookie AS cookie4 FROM pg_background_submit_v2(says('never'), 0, 'canceled with grace') \gset
SELECT pid AS pid5, cookie AS cookie5 FROM pg_background_submit_v2(says('never'), 0, 'canceled and detached') \gset
SELECT pid AS pid6, cookie AS cookie6 FROM pg_background_submit_v2(says('last'), 0, 'last') \gset
SELECT failed AS failed, canceled AS canceled FROM mine \gset
-- at once, while the session's only worker is busy
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 0);
SELECT state, has_error, sqlstate, error_message FROM pg_background_outcome_v2(:pid, :cookie);
-- which does not count any more
SELECT pg_background_detach_v2(:pid2, :cookie2);
CALL await('EXISTS (SELECT FROM done)');
SELECT pg_background_cancel_by_label_v2('canceled by%');
SELECT pg_background_cancel_v2_grace(:pid4, :cookie4, 0);
SELECT pg_background_cancel_v2(:pid5, :cookie5), pg_background_detach_v2(:pid5, :cookie5);
SELECT label, state FROM pg_background_list;
CALL await('(SELECT running = 1 FROM mine)');
SELECT queued, failed - :failed AS failed, canceled - :canceled AS canceled FROM mine;
-- nor does that of a queued job hit the one that runs
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid6, :cookie6);
SELECT label, state FROM pg_background_list;
SELECT was_done();
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid2, :cookie2));
SELECT pg_background_detach_all_v2();
-- all of them
SELECT pg_advisory_lock(1);
SELECT pid AS gate_pid, cookie AS gate_cookie FROM pg_background_submit_v2(:'gate', 0, 'the gate') \gset
SELECT count(pg_background_submit_v2(says('never'))) FROM generate_series(1, 5);
SELECT pg_background_cancel_all_v2();
SELECT count(pg_background_wait_v2_timeout(pid, cookie, 60000)) FROM pg_background_list;
SELECT state, count(*) FROM pg_background_list GROUP BY 1;
SELECT pg_advisory_unlock(1);
SELECT pg_background_detach_all_v2(), was_done();
CALL await('(SELECT running = 0 AND queued = 0 FROM mine)');

--
-- max_workers: so many run at once, and the others come after them
--

SET pg_background.max_workers = 3;
SELECT pg_advisory_lock(1);
SELECT count(pg_background_submit_v2(:'gate')) FROM generate_series(1, 10);
CALL await('(SELECT count(*) = 3 FROM pg_stat_activity WHERE wait_event = ''advisory'' AND datname = current_database())');
SELECT running, queued FROM mine;
SELECT state, count(*) FROM pg_background_list GROUP BY 1 ORDER BY 1;
-- one that is canceled makes room for another
SELECT pg_background_cancel_v2(pid, cookie) FROM pg_background_list WHERE state = 'running' LIMIT 1;
CALL await('(SELECT count(*) = 3 AND (SELECT queued = 6 FROM mine) FROM pg_stat_activity WHERE wait_event = ''advisory'' AND datname = current_database())');
-- so does one that is terminated
SELECT pg_terminate_backend(pid) FROM pg_background_workers WHERE launcher_pid = pg_backend_pid() AND state = 'running' LIMIT 1;
CALL await('(SELECT count(*) = 3 AND (SELECT queued = 5 FROM mine) FROM pg_stat_activity WHERE wait_event = ''advisory'' AND datname = current_database())');
-- a launch fails, at once or after a while
SET pg_background.launch_timeout = 0;
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
SELECT raised('SELECT pg_background_launch(''SELECT 1'')');
SET pg_background.launch_timeout = 10;
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
RESET pg_background.launch_timeout;
SELECT count(*) FROM pg_background_list;
SELECT pg_advisory_unlock(1);
SELECT count(pg_background_wait_v2_timeout(pid, cookie, 60000)) FROM pg_background_list;
SELECT state, count(*) FROM pg_background_list GROUP BY 1 ORDER BY 1;
SELECT pg_background_detach_all_v2();
CALL await('(SELECT running = 0 AND queued = 0 FROM mine)');

-- what its session knows to have ended makes room at once, also while the worker lets
-- go of it
SET pg_background.max_workers = 1;
SET pg_background.launch_timeout = 0;
DO $$
DECLARE
    h pg_background_handle;
BEGIN
    FOR i IN 1 .. 50 LOOP
        h := pg_background_launch_v2('SELECT pg_sleep(3600)');
        PERFORM pg_background_cancel_v2(h.pid, h.cookie), pg_background_wait_v2(h.pid, h.cookie);
        PERFORM pg_background_detach_v2(h.pid, h.cookie);
    END LOOP;
END $$;
RESET pg_background.launch_timeout;

--
-- max_role_workers
--

RESET pg_background.max_workers;
SET pg_background.max_role_workers = 1;
SET pg_background.max_idle_workers = 0;
SELECT has_error FROM pg_background_run_v2('SELECT 1');
CALL await('NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = ''pg_background'' AND datname = current_database())');
SELECT pg_advisory_lock(1);
SELECT pid AS gate_pid, cookie AS gate_cookie FROM pg_background_launch_v2(:'gate', 0, 'the gate') \gset
SELECT pid >= 1 << 30 AS is_queued, pid, cookie FROM pg_background_submit_v2(says('queued')) \gset
SELECT :'is_queued' AS is_queued;
SET pg_background.launch_timeout = 0;
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
RESET pg_background.launch_timeout;
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT was_done();
SELECT pg_background_detach_all_v2();
SET ROLE pgbackground_role;
SELECT raised('SET pg_background.max_role_workers = 2');
RESET ROLE;

DROP VIEW mine;
DROP TABLE before;
DROP EXTENSION pg_background;
DROP FUNCTION was_done, says;
DROP TABLE done;
