-- The pool's workers: which process a job gets, and which processes wait for one.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- as versions 1.x have it
CREATE FUNCTION launch_v1(sql text, queue_size int4 DEFAULT 0) RETURNS int4
AS '$libdir/pg_background', 'pg_background_launch' LANGUAGE C STRICT;

SELECT current_database() AS db \gset

-- The context of an error or notice names a PID.
\set SHOW_CONTEXT never

-- Whatever the server's settings are; no process ends but by what is tested.
SET pg_background.max_idle_workers = 10;
SET pg_background.idle_timeout = '1h';

-- The process of a job
CREATE FUNCTION process(queue_size int DEFAULT 65536) RETURNS int LANGUAGE sql AS $$
    SELECT run('SELECT pg_backend_pid()::text', queue_size)::int;
$$;

CREATE VIEW processes AS
SELECT pid, state, wait_event_type, wait_event, query FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'pg_background';

-- Wait until so many workers at least have nothing to do.
CREATE PROCEDURE await_idle(n int) LANGUAGE sql AS $$
    CALL await(format('(SELECT running = 0 AND idle >= %s FROM pg_background_pool
                        WHERE datname = current_database() AND usename = current_user)', n));
$$;

-- Those that earlier sessions have left here go.
SELECT count(pg_terminate_backend(pid)) IS NOT NULL AS ended FROM processes;
CALL await('count(*) = 0 FROM processes');

--
-- One job after the other runs in one process
--

SELECT process() AS pid \gset
SELECT count(*) AS jobs, count(*) FILTER (WHERE process() = :pid) AS in_the_process
FROM generate_series(1, 100);
CALL await('count(*) = 1 FROM processes WHERE state = ''idle''');

-- in other transactions, in one that fails, after errors and time-outs
BEGIN;
SELECT process() = :pid AS same;
SELECT 1 / 0;
ROLLBACK;
SELECT run('SELECT 1 / 0');
SELECT process() = :pid AS same;
SELECT run('SELECT');
SELECT process() = :pid AS same;
SELECT run('SELECT 1; this is no SQL');
SELECT process() = :pid AS same;
SELECT run('SET statement_timeout = 1; SELECT pg_sleep(1000)::text');
SELECT run('SHOW statement_timeout');

-- a submitted job, too
SELECT process() AS pid \gset
SELECT pid = :pid AS same, pid, cookie FROM pg_background_submit_v2('SELECT 1') \gset submitted_
SELECT pg_background_wait_v2(:submitted_pid, :submitted_cookie);
SELECT :'submitted_same' AS same, process() = :pid AS same_again;

-- A PID is a process's, a cookie a job's: each job of the process has a result
-- and a state of its own, in whatever order they are asked for.
SELECT pid, cookie FROM pg_background_launch_v2('SELECT ''first''') \gset first_
SELECT pg_background_wait_v2(:first_pid, :first_cookie);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1 / 0') \gset second_
SELECT pg_background_wait_v2(:second_pid, :second_cookie);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT ''third''') \gset third_
SELECT :first_pid = :pid AND :second_pid = :pid AND :third_pid = :pid AS same;
SELECT * FROM pg_background_result_v2(:third_pid, :third_cookie) AS (r text);
SELECT state, last_error FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool)
WHERE pid = :pid AND cookie IN (:first_cookie, :second_cookie);
SELECT * FROM pg_background_result_v2(:first_pid, :first_cookie) AS (r text);
SELECT * FROM pg_background_result_v2(:second_pid, :second_cookie) AS (r text);
SELECT pg_background_detach_v2(:submitted_pid, :submitted_cookie);

-- To cancel a job that has ended does nothing to the one that runs there now.
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1') \gset first_
SELECT pg_background_wait_v2(:first_pid, :first_cookie);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_advisory_lock(1)::text || ''got it''') \gset second_
CALL await('wait_event = ''advisory'' FROM processes WHERE pid = ' || :second_pid);
SELECT pg_background_cancel_v2(:first_pid, :first_cookie);
SELECT pg_background_cancel_v2_grace(:first_pid, :first_cookie, 0);
SELECT pg_advisory_unlock(1);
SELECT :first_pid = :second_pid AS same, r
FROM pg_background_result_v2(:second_pid, :second_cookie) AS (r text);
SELECT pg_background_detach_v2(:first_pid, :first_cookie);

--
-- v1 jobs, queue sizes, large requests
--

-- A v1 job has the same processes, but for one whose PID is the handle of another.
SELECT launch_v1('SELECT 1') AS v1_pid \gset
CALL await_idle(1);
SELECT launch_v1('SELECT 2') AS other_v1_pid \gset
SELECT :other_v1_pid <> :v1_pid AS other_process;
-- Many that are kept have processes of their own.
SELECT array_agg(launch_v1('SELECT ' || g)) AS pids FROM generate_series(3, 6) g \gset
SELECT count(DISTINCT pid) AS processes FROM unnest(:'pids'::int[] || :v1_pid || :other_v1_pid) pid;
CALL await_idle(6);
-- Nor has any other job with a handle one of them; those without may.
SELECT array_agg(pid) AS pids FROM processes \gset
SELECT pid AS v2_pid, cookie AS v2_cookie FROM pg_background_launch_v2('SELECT ''v2''') \gset
SELECT :v2_pid = ANY (:'pids'::int[]) AS same;
SELECT * FROM pg_background_result(:v1_pid) AS (n int);
SELECT * FROM pg_background_result(:other_v1_pid) AS (n int);
SELECT * FROM pg_background_result_v2(:v2_pid, :v2_cookie) AS (t text);
-- A handle that is none any more, or was detached, is in nobody's way.
SELECT count(pg_background_detach_v2(pid, cookie)) FROM pg_background_list WHERE sql_preview ~ '^SELECT [3-6]$';
CALL await_idle(7);
SELECT array_agg(pid) AS pids FROM processes \gset
SELECT launch_v1('SELECT 3') AS pid \gset
SELECT pg_background_detach(:pid), :pid = ANY (:'pids'::int[]) AS same;
SELECT sum(n) FROM generate_series(1, 100) g, pg_background_result(pg_background_launch('SELECT ' || g)) AS (n int);
SELECT count(*) FROM processes WHERE pid <> ALL (:'pids'::int[]);

-- So many are as many as may wait: others would make way.
SELECT count(pg_terminate_backend(pid)) > 0 AS ended FROM processes;
CALL await('NOT EXISTS (SELECT FROM processes)');

-- queue sizes
SELECT process(8192) AS pid \gset
SELECT process() = :pid AS same, process(4096) = :pid AS small, process(1048576) = :pid AS large;

-- requests and settings of any size
SELECT run('SELECT length(''' || repeat('x', 100000) || ''')::text || (pg_backend_pid() = ' || :pid || ')');
SELECT length(set_config('regress.long', repeat('x', 100000), false));
SELECT run('SELECT length(current_setting(''regress.long''))::text || (pg_backend_pid() = ' || :pid || ')');
RESET regress.long;
-- also where there is much to clean up in between
SELECT run('DO $$ BEGIN FOR i IN 1 .. 3000 LOOP EXECUTE ''PREPARE p'' || i || '' AS SELECT 1''; END LOOP; END $$;
            SELECT length(''' || repeat('x', 10000) || ''')::text', 12288),
       run('SELECT length(''' || repeat('x', 10000) || ''')::text || (pg_backend_pid() = ' || :pid || ')', 12288);

-- The users that workers connect as; but a session user that was set, or a role,
-- is no reason for another process.
CREATE ROLE regress_one LOGIN IN ROLE pgbackground_role;
CREATE ROLE regress_two LOGIN IN ROLE pgbackground_role;
CREATE FUNCTION definer_one() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$
    SELECT run('SELECT concat_ws('' '', current_user, session_user, pg_backend_pid())');
$$;
CREATE FUNCTION definer_two() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$
    SELECT run('SELECT concat_ws('' '', current_user, session_user, pg_backend_pid())');
$$;
ALTER FUNCTION definer_one OWNER TO regress_one;
ALTER FUNCTION definer_two OWNER TO regress_two;
SELECT process() AS pid, definer_one() AS one, definer_two() AS two \gset
SELECT split_part(:'one', ' ', 3) AS one_pid, split_part(:'two', ' ', 3) AS two_pid \gset
SELECT :one_pid <> :pid AND :two_pid <> :pid AND :one_pid <> :two_pid AS own_process;
SELECT definer_one() = 'regress_one regress_one ' || :one_pid AS one,
       definer_two() = 'regress_two regress_two ' || :two_pid AS two,
       process() = :pid AS none, definer_one() = :'one' AS one_again;
SET ROLE regress_one;
SELECT run('SELECT concat_ws('' '', current_user, session_user = current_user, pg_backend_pid())') = 'regress_one f ' || :pid AS same;
SET SESSION AUTHORIZATION regress_two;
SELECT run('SELECT concat_ws('' '', current_user, session_user, pg_backend_pid())') = 'regress_two regress_two ' || :pid AS same;
RESET SESSION AUTHORIZATION;
SELECT process() = :pid AS same, run('SELECT current_user::text') = current_user AS right_user;
DROP FUNCTION definer_one, definer_two;
DROP ROLE regress_one, regress_two;

-- Those that logged in before the roles were dropped go.
CALL await('count(*) = 0 FROM processes');

-- Another session of the same user has the same process.
SELECT process() AS pid \gset
\c -
SET pg_background.max_idle_workers = 10;
SET pg_background.idle_timeout = '1h';
SELECT process() = :pid AS same;
-- One that shares none has processes of its own, for as long as it lasts.
SET pg_background.share_workers = off;
SELECT process() AS own_pid \gset
SELECT :own_pid <> :pid AS own_process, process() = :own_pid AS same;
SET pg_background.share_workers = on;
SELECT process() = :pid AS same;
SET pg_background.share_workers = off;
SELECT process() = :own_pid AS same;
\c -
CALL await('NOT EXISTS (SELECT FROM processes WHERE pid = ' || :own_pid || ')');
-- Who has logged in before a setting of the database was made runs nothing after it.
ALTER DATABASE :db SET regress.login = 'new';
\c -
SET pg_background.max_idle_workers = 10;
SET pg_background.idle_timeout = '1h';
SELECT process() <> :pid AS other_process, run('SHOW regress.login');
ALTER DATABASE :db RESET regress.login;
CALL await('NOT EXISTS (SELECT FROM processes WHERE pid = ' || :pid || ')');
\c -
SET pg_background.max_idle_workers = 2;
SET pg_background.idle_timeout = '1h';

--
-- How many wait
--

-- Launch so many jobs that all run at once, and return when all have ended.
CREATE PROCEDURE run_at_once(jobs int) LANGUAGE plpgsql AS $$
DECLARE
    handles pg_background_handle[];
    handle pg_background_handle;
BEGIN
    PERFORM pg_advisory_lock(1);
    FOR i IN 1 .. jobs LOOP
        handles := handles || pg_background_launch_v2('SELECT pg_advisory_lock_shared(1)');
    END LOOP;
    CALL await(format('count(*) = %s FROM processes WHERE wait_event = ''advisory''', jobs));
    PERFORM pg_advisory_unlock(1);
    FOREACH handle IN ARRAY handles LOOP
        PERFORM pg_background_wait_v2(handle.pid, handle.cookie);
        PERFORM pg_background_detach_v2(handle.pid, handle.cookie);
    END LOOP;
END $$;

-- those of all databases count
CALL await('(SELECT sum(idle) = 0 FROM pg_background_pool WHERE datname IS DISTINCT FROM current_database() OR usename <> current_user)');
CALL run_at_once(5);
CALL await('count(*) = 2 FROM processes');
SELECT array_agg(pid) AS pids FROM processes \gset
CALL run_at_once(2);
SELECT count(*) FROM processes WHERE pid = ANY (:'pids'::int[]);
-- more
SET pg_background.max_idle_workers = 4;
CALL run_at_once(5);
CALL await('count(*) = 4 FROM processes');
-- no more than a quarter of all background processes, whatever the session wants
SELECT current_setting('max_worker_processes')::int / 4 AS share \gset
SET pg_background.max_workers = 1000;
SET pg_background.max_idle_workers = 1000;
CALL run_at_once(:share + 2);
CALL await('count(*) = ' || :share || ' FROM processes');
SET pg_background.max_idle_workers = -1;
CALL run_at_once(:share + 2);
CALL await('count(*) = ' || :share || ' FROM processes');
RESET pg_background.max_workers;
-- fewer, from the next jobs on
SET pg_background.max_idle_workers = 1;
CALL run_at_once(:share);
CALL await('count(*) = 1 FROM processes');
-- none
SET pg_background.max_idle_workers = 0;
SELECT process() IS NOT NULL AS ok;
CALL await('count(*) = 0 FROM processes');
SELECT count(process()) FROM generate_series(1, 5);
CALL await('count(*) = 0 FROM processes');
SET pg_background.max_idle_workers = 2;

-- also where the session asks for nothing more after the launch
DO $$
BEGIN
    PERFORM pg_advisory_lock(1);
    FOR i IN 1 .. 5 LOOP
        PERFORM pg_background_submit_v2('SELECT pg_advisory_lock_shared(1)');
    END LOOP;
    CALL await('count(*) = 5 FROM processes WHERE wait_event = ''advisory''');
    PERFORM pg_advisory_unlock(1);
END $$;
CALL await('count(*) <= 2 FROM processes');
SELECT count(pg_background_detach_v2(pid, cookie)) FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool);

-- A detached job's process is used again.
SELECT process() AS pid \gset
SELECT pg_background_detach_v2(h.pid, h.cookie) FROM pg_background_launch_v2('SELECT 1 AS detached') h;
CALL await('query = ''SELECT 1 AS detached'' AND state = ''idle'' AND wait_event_type = ''Extension'' FROM processes WHERE pid = ' || :pid);
SELECT process() = :pid AS reused;

--
-- Processes that are not used again
--

-- one whose job was canceled
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(1000)') \gset
CALL await('wait_event = ''PgSleep'' FROM processes WHERE pid = ' || :pid);
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (r text);
SELECT process() <> :pid AS own_process;
CALL await('count(*) = 0 FROM processes WHERE pid = ' || :pid);

-- but not where that had ended by then, unknown to the session
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1 AS n') \gset
CALL await('state = ''idle'' AND query = ''SELECT 1 AS n'' FROM processes WHERE pid = ' || :pid);
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT process() = :pid AS same;

-- one that was canceled from without
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(1000)') \gset
CALL await('wait_event = ''PgSleep'' FROM processes WHERE pid = ' || :pid);
SELECT pg_cancel_backend(:pid);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (r text);
SELECT process() <> :pid AS own_process;
CALL await('count(*) = 0 FROM processes WHERE pid = ' || :pid);

-- but one that is canceled while it waits goes on waiting, as any session does
SELECT process() AS pid \gset
SELECT pg_cancel_backend(:pid);
SELECT process() = :pid AS same;

-- one that was terminated
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(1000)') \gset
CALL await('wait_event = ''PgSleep'' FROM processes WHERE pid = ' || :pid);
SELECT pg_terminate_backend(:pid);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT process() <> :pid AS own_process;
SELECT pg_background_detach_v2(:pid, :cookie);
SELECT process() AS pid \gset
SELECT pg_terminate_backend(:pid);
CALL await('count(*) = 0 FROM processes WHERE pid = ' || :pid);
SELECT process() <> :pid AS own_process;

-- one that has used temporary tables, wherever they are now
SELECT process() AS pid \gset
SELECT run('CREATE TEMP TABLE t AS SELECT pg_backend_pid()::text AS pid; TABLE t') = :'pid' AS same;
SELECT process() <> :pid AS own_process, run('SELECT to_regclass(''t'')::text') AS t;
CALL await('count(*) = 0 FROM processes WHERE pid = ' || :pid);
SELECT process() AS pid \gset
SELECT run('BEGIN; CREATE TEMP TABLE t () ON COMMIT DROP; COMMIT; SELECT pg_backend_pid()::text') = :'pid' AS same;
SELECT process() <> :pid AS own_process;

DROP FUNCTION launch_v1;
DROP EXTENSION pg_background CASCADE;
DROP FUNCTION process;
DROP PROCEDURE await_idle, run_at_once;
DROP VIEW processes;
