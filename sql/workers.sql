-- The workers of all sessions, and who sees what of them.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- as versions 1.x have it
CREATE FUNCTION launch_v1(sql text, queue_size int4 DEFAULT 0) RETURNS int4
AS '$libdir/pg_background', 'pg_background_launch' LANGUAGE C STRICT;
CREATE ROLE regress_launcher LOGIN;
CREATE ROLE regress_member LOGIN;
CREATE ROLE regress_stranger LOGIN;
CREATE ROLE regress_stats LOGIN;
CREATE ROLE regress_group;
GRANT pgbackground_role TO regress_launcher, regress_member, regress_stranger, regress_stats, regress_group;
GRANT regress_launcher, regress_group TO regress_member;
GRANT regress_group TO regress_launcher;
GRANT pg_read_all_stats TO regress_stats;
\set SHOW_CONTEXT never
SET pg_background.idle_timeout = '1h';
SET pg_background.max_idle_workers = -1;

-- The workers of this session only: others may be there.
CREATE VIEW mine AS SELECT * FROM pg_background_workers WHERE launcher_pid = pg_backend_pid();
GRANT SELECT ON mine TO PUBLIC;

SELECT string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) AS columns
FROM pg_attribute WHERE attrelid = 'pg_background_workers'::regclass AND attnum > 0;
SELECT count(*) FROM mine;

--
-- What is shown
--

SELECT now() AS before \gset
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch('SELECT ''first'' FROM pg_advisory_xact_lock_shared(1)', label => 'the label') \gset
CALL await('(SELECT wait_event = ''advisory'' FROM mine)');
\x on
SELECT pid = :pid AS pid, launcher_pid = pg_backend_pid() AS launcher_pid, launcher_user = current_user AS launcher_user,
       user_id::regrole = current_user::regrole AS user_id, user_name = current_user AS user_name, database = current_database() AS database,
       label, state, launched_at BETWEEN :'before' AND clock_timestamp() AS launched_at, sql_preview,
       backend_state, state_change BETWEEN launched_at AND clock_timestamp() AS state_change, wait_event_type, wait_event,
       xact_start >= launched_at AS xact_start, query_start >= launched_at AS query_start, backend_start <= query_start AS backend_start,
       application_name = 'pg_background:' || label AS application_name, query
FROM mine;
\x off
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid, :cookie);
-- one that waits for the next job
CALL await('(SELECT backend_state = ''idle'' AND state = ''idle'' FROM mine)');
SELECT pid = :pid AS pid, label, state, sql_preview FROM mine;
-- and has it; one without a label
SELECT pg_advisory_lock(1);
SELECT pid = :pid AS same_process, cookie AS cookie2 FROM pg_background_submit_v2('SELECT ''second'' FROM pg_advisory_xact_lock_shared(1)') \gset
CALL await('(SELECT wait_event = ''advisory'' FROM mine)');
SELECT :'same_process' AS same_process, label, state, sql_preview FROM mine;
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid, :cookie2);
-- a job that is detached is still there; a v1 job; the preview is at most 120 bytes
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT pg_sleep(3600) -- ' || repeat('x', 1000), 0, 'detached') \gset
SELECT pg_background_detach_v2(:pid2, :cookie2);
SELECT launch_v1('SELECT pg_sleep(3601)')::int AS pid3 \gset
CALL await('(SELECT count(*) = 2 FROM mine WHERE wait_event = ''PgSleep'')');
SELECT label, state, length(sql_preview), right(sql_preview, 5) FROM mine WHERE state = 'running' ORDER BY sql_preview COLLATE "C" DESC;
-- those of a job, which has this worker as its launcher
SELECT * FROM pg_background_run_query_v2($$
    SELECT pg_background_launch_v2('SELECT pg_sleep(3602)', 0, 'nested') IS NOT NULL;
    DO 'BEGIN WHILE NOT EXISTS (SELECT FROM pg_background_workers WHERE label = ''nested'' AND wait_event = ''PgSleep'') LOOP PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP; END';
    SELECT label || CASE WHEN launcher_pid = pg_backend_pid() THEN ' of mine' END FROM pg_background_workers WHERE label = 'nested'$$) AS (label text);
SELECT label, state, pg_cancel_backend(pid) FROM pg_background_workers WHERE label = 'nested';
-- a session that has not launched anything sees them, too
SELECT count(*) FROM mine;
\c -
\set SHOW_CONTEXT never
SELECT count(*) FROM mine;
SELECT label, state FROM pg_background_workers WHERE pid = :pid2;

--
-- pg_cancel_backend() cancels a job
--

SELECT pg_cancel_backend(pid) FROM pg_background_workers WHERE pid IN (:pid2, :pid3);
CALL await(format('NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid IN (%s, %s))', :pid2, :pid3));
SELECT count(*) FROM pg_background_workers WHERE pid IN (:pid2, :pid3);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL await('(SELECT wait_event = ''PgSleep'' FROM mine)');
SELECT pg_cancel_backend(pid) FROM mine;
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, sqlstate, error_message FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_detach_all_v2();
-- one that waits for a job ignores it, and has the next
SET pg_background.idle_timeout = '1h';
SET pg_background.max_idle_workers = -1;
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
CALL await(format('(SELECT state = ''idle'' AND backend_state = ''idle'' FROM pg_background_workers WHERE pid = %s)', :pid));
SELECT pg_cancel_backend(:pid);
SELECT j.pid = :pid AS same_process, r.n FROM pg_background_launch_v2('SELECT 2') j, LATERAL pg_background_result_v2(j.pid, j.cookie) AS r (n int);
-- pg_terminate_backend() ends the process
SELECT pg_terminate_backend(:pid);
CALL await('NOT EXISTS (SELECT FROM mine)');
SELECT pg_background_detach_all_v2();

--
-- Who sees what: those who see the query in pg_stat_activity
--

-- What each role sees of a worker, here and there.
CREATE FUNCTION seen(pid int) RETURNS TABLE (role regrole, launcher_user name, user_name name, label text, state text, sql_preview text, launched_at bool,
                                             query text, backend_state text, as_there bool)
LANGUAGE plpgsql AS $$
DECLARE
    roles regrole[] := '{regress_launcher, regress_member, regress_stranger, regress_stats}';
BEGIN
    FOREACH role IN ARRAY roles LOOP
        EXECUTE format('SET LOCAL SESSION AUTHORIZATION %s', role);
        RETURN QUERY
            SELECT role, CASE WHEN w.launcher_user ~ 'regress' THEN w.launcher_user ELSE 'superuser' END, w.user_name, w.label, w.state, w.sql_preview,
                   w.launched_at IS NOT NULL, w.query, w.backend_state,
                   (w.sql_preview IS NULL) = (a.query = '<insufficient privilege>') AND (w.query, w.backend_state) IS NOT DISTINCT FROM (a.query, a.state)
            FROM pg_background_workers w, pg_stat_activity a
            WHERE w.pid = seen.pid AND a.pid = seen.pid;
        RESET SESSION AUTHORIZATION;
    END LOOP;
END $$;
\set launch 'SELECT pid FROM pg_background_launch_v2(''SELECT pg_sleep(3600)'', 0, ''secret'')'
-- by other roles of a superuser's session: what he runs is not shown to their members
SET SESSION AUTHORIZATION regress_launcher;
SET ROLE regress_group;
:launch \gset
RESET SESSION AUTHORIZATION;
CALL await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity WHERE pid = %s)', :pid));
SELECT * FROM seen(:pid);
SELECT pg_cancel_backend(:pid);
SET ROLE regress_group;
:launch \gset
RESET ROLE;
CALL await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity WHERE pid = %s)', :pid));
SELECT * FROM seen(:pid);
SELECT pg_cancel_backend(:pid);
-- by himself; and what t/203_workers.pl tests, by those who log in as themselves
:launch \gset
CALL await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity WHERE pid = %s)', :pid));
SELECT role, label, state, sql_preview, query, as_there FROM seen(:pid);
SELECT pg_cancel_backend(:pid);
CALL await('NOT EXISTS (SELECT FROM pg_background_list WHERE state IN (''starting'', ''running''))');
SELECT pg_background_detach_all_v2();

--
-- Monitoring
--

-- The progress, to those who see what the job is
CREATE ROLE regress_monitor LOGIN IN ROLE pg_monitor;
GRANT SELECT ON mine TO regress_monitor;
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_background_progress(42, ''almost half''); SELECT pg_advisory_xact_lock_shared(1)', 0, 'secret') \gset
CALL await('(SELECT wait_event = ''advisory'' FROM mine WHERE state = ''running'')');
SELECT label, progress_pct, progress_msg FROM mine WHERE state = 'running';
SET SESSION AUTHORIZATION regress_stranger;
SELECT label, state, progress_pct, progress_msg FROM pg_background_workers WHERE pid = :pid;
SET SESSION AUTHORIZATION regress_monitor;
SELECT label, state, progress_pct, progress_msg FROM pg_background_workers WHERE pid = :pid;
-- the pool; who monitors can run nothing
SELECT running, queued, waiting FROM pg_background_pool WHERE datname = current_database() AND running > 0;
SELECT pg_background_launch_v2('SELECT 1');
SELECT count(*) FROM pg_background_workers_v2();
RESET SESSION AUTHORIZATION;
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid, :cookie);
-- what became of jobs adds up
CALL await('(SELECT running = 0 FROM pg_background_pool WHERE datname = current_database() AND usename = current_user)');
SELECT launched, completed, failed, canceled, wait_ms, run_ms FROM pg_background_pool WHERE datname = current_database() AND usename = current_user \gset was_
SELECT has_error FROM pg_background_run_v2('SELECT 1');
SELECT has_error FROM pg_background_run_v2('SELECT 1/0');
SELECT timed_out FROM pg_background_run_v2('SELECT pg_sleep(3600)', timeout_ms => 10);
CALL await('(SELECT running = 0 FROM pg_background_pool WHERE datname = current_database() AND usename = current_user)');
SELECT launched - :was_launched AS launched, completed - :was_completed AS completed, failed - :was_failed AS failed, canceled - :was_canceled AS canceled,
       wait_ms >= :was_wait_ms AS wait_ms, run_ms > :was_run_ms AS run_ms, started BETWEEN 1 AND launched AS started, waiting, queued
FROM pg_background_pool WHERE datname = current_database() AND usename = current_user;
SELECT pg_background_detach_all_v2();
REVOKE SELECT ON mine FROM regress_monitor;
DROP ROLE regress_monitor;

-- The PID is that of the worker that runs the job, also where those that wait have
-- logged in before memberships changed, and give it to another.
CREATE PROCEDURE compare(n int) LANGUAGE plpgsql AS $$
DECLARE
    h pg_background_handle;
    others int := 0;
BEGIN
    FOR i IN 1 .. n LOOP
        EXECUTE format(CASE WHEN i % 2 = 1 THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END,
                       'regress_stats', 'regress_stranger');
        COMMIT;
        h := pg_background_launch('SELECT pg_backend_pid()');
        others := others + (SELECT (h.pid <> pid)::int FROM pg_background_result(h) AS (pid int));
        -- whose worker waits for the next
        PERFORM pg_background_exec('SELECT 1');
    END LOOP;
    RAISE NOTICE 'run by others: %', others;
END $$;
CALL compare(10);
DROP PROCEDURE compare;

DROP FUNCTION seen;
DROP VIEW mine;
DROP FUNCTION launch_v1;
DROP EXTENSION pg_background;
REVOKE pgbackground_role FROM regress_launcher, regress_member, regress_stranger, regress_stats, regress_group;
DROP ROLE regress_launcher, regress_member, regress_stranger, regress_stats, regress_group;
