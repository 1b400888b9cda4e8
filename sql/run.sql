-- Launching, waiting and reading in one call; waiting for many jobs; the settings
-- that limit jobs.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never

-- The jobs of this session that go on in a worker, whether it knows them or not.
CREATE VIEW running AS
SELECT sql_preview FROM pg_background_workers WHERE launcher_pid = pg_backend_pid() AND state <> 'idle';

CREATE TABLE done (what text);

--
-- pg_background_run_v2()
--

SELECT pid > 0 AS pid, completed, timed_out, has_error, row_count, command_tag, sqlstate, error_message, elapsed_ms >= 0 AS elapsed
FROM pg_background_run_v2('INSERT INTO done VALUES (''one''), (''two'')');
SELECT completed, timed_out, has_error, row_count, command_tag FROM pg_background_run_v2('SELECT generate_series(1, 10000)', 4096, 60000, 'label');
SELECT completed, timed_out, has_error, row_count, command_tag FROM pg_background_run_v2(label => NULL, queue_size => NULL, timeout_ms => NULL, sql => '');
SELECT completed, timed_out, has_error, row_count, command_tag, sqlstate, error_message FROM pg_background_run_v2('SELECT 1/0');
SELECT completed, has_error, sqlstate, error_message FROM pg_background_run_v2('SELECT 1; SELEC 2');
-- what it raises of its own
SELECT raised('SELECT pg_background_run_v2(NULL)');
SELECT raised('SELECT pg_background_run_v2(''SELECT 1'', -1)');
SELECT raised('SELECT pg_background_run_v2(''SELECT 1'', timeout_ms => 3600001)');
SELECT raised('SELECT pg_background_run_v2(''SELECT 1'', label => repeat(''x'', 65))');
-- it takes as long as the job takes
SELECT elapsed_ms >= 200 AS elapsed FROM pg_background_run_v2('SELECT pg_sleep(0.2)');
-- the label and the SQL string are seen while it runs
SELECT completed, has_error, row_count FROM pg_background_run_v2(
    'INSERT INTO done SELECT label FROM pg_background_workers WHERE pid = pg_backend_pid()', label => 'run by label');
TABLE done;
TRUNCATE done;
-- the time-out cancels the job
SELECT completed, timed_out, has_error, row_count, sqlstate, error_message, elapsed_ms >= 100 AS elapsed
FROM pg_background_run_v2('INSERT INTO done SELECT ''never'' FROM pg_sleep(3600)', timeout_ms => 100);
CALL await('NOT EXISTS (SELECT FROM running)');
TABLE done;
-- also where it does not react
SELECT completed, timed_out, has_error FROM pg_background_run_v2(
    $$DO 'BEGIN LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'$$, timeout_ms => 300);
CALL await('NOT EXISTS (SELECT FROM running)');
-- and the cancel of the caller does
SELECT cancel_me_during('INSERT%');
SELECT pg_background_run_v2('INSERT INTO done SELECT ''never'' FROM pg_sleep(3600)');
CALL await('NOT EXISTS (SELECT FROM running)');
TABLE done;
-- a deadlock with this session is one: known failure 3
BEGIN;
SET LOCAL deadlock_timeout = '10ms';
LOCK TABLE done;
\set VERBOSITY terse
SELECT pg_background_run_v2('INSERT INTO done VALUES (''never'')');
\set VERBOSITY default
ROLLBACK;
CALL await('NOT EXISTS (SELECT FROM running)');
TABLE done;
-- nothing is left of any of them
SELECT count(*) FROM pg_background_list;

--
-- pg_background_run_query_v2()
--

SELECT * FROM pg_background_run_query_v2('SELECT g, repeat(''x'', g) FROM generate_series(1, 3) g') AS (n int, t text);
SELECT count(*), sum(n), sum(length(t)) FROM pg_background_run_query_v2(
    'SELECT g, repeat(''x'', 100) FROM generate_series(1, 100000) g', 4096, 60000, 'label', 'n int, t text') AS (n int, t text);
SELECT length(t) FROM pg_background_run_query_v2('SELECT repeat(''x'', 10000000)') AS (t text);
SELECT * FROM pg_background_run_query_v2('SELECT 1 WHERE false') AS (n int);
SELECT * FROM pg_background_run_query_v2('INSERT INTO done VALUES (''one''), (''two''); UPDATE done SET what = what', col_def => 'nonsense') AS (tag text);
SELECT * FROM pg_background_run_query_v2('DELETE FROM done RETURNING what') AS (what text);
SELECT * FROM pg_background_run_query_v2('', NULL, NULL, NULL, NULL) AS (tag text);
SELECT * FROM pg_background_run_query_v2('DO ''BEGIN RAISE NOTICE $$said$$; END''') AS (tag text);
SELECT * FROM pg_background_run_query_v2('SELECT label FROM pg_background_workers WHERE pid = pg_backend_pid()', label => 'a label') AS (label text);
-- errors: the job's own, and those of the column definition list
SELECT raised('SELECT * FROM pg_background_run_query_v2(''SELECT 1/0'') AS (n int)');
SELECT raised('SELECT * FROM pg_background_run_query_v2(''SELECT 1'') AS (t text)');
SELECT raised('SELECT * FROM pg_background_run_query_v2(''SET work_mem = 64'') AS (n int)');
SELECT raised('SELECT pg_background_run_query_v2(''SELECT 1'', col_def => ''n int'')');
SELECT raised('SELECT * FROM pg_background_run_query_v2(NULL) AS (n int)');
SELECT raised('SELECT * FROM pg_background_run_query_v2(''SELECT 1'', timeout_ms => 3600001) AS (n int)');
-- the time-out: 57014, and the job is canceled
SELECT raised('SELECT * FROM pg_background_run_query_v2(''INSERT INTO done SELECT ''''never'''' FROM pg_sleep(3600)'', timeout_ms => 100) AS (tag text)');
CALL await('NOT EXISTS (SELECT FROM running)');
-- also in the middle of rows that never end, and of notices
SET statement_timeout = '3min';
SELECT raised('SELECT count(*) FROM pg_background_run_query_v2(''SELECT g FROM generate_series(1, 1000000000) g'', timeout_ms => 300) AS (n int)');
SET client_min_messages = error;
SELECT raised('SELECT count(*) FROM pg_background_run_query_v2(''DO ''''BEGIN LOOP RAISE NOTICE $$x$$; END LOOP; END'''''', timeout_ms => 300) AS (t text)');
RESET client_min_messages;
RESET statement_timeout;
CALL await('NOT EXISTS (SELECT FROM running)');
-- and the cancel of the caller
SELECT cancel_me_during('%3600%');
SELECT * FROM pg_background_run_query_v2('SELECT pg_sleep(3600)') AS (v text);
CALL await('NOT EXISTS (SELECT FROM running)');
TABLE done;
SELECT count(*) FROM pg_background_list;

--
-- pg_background_drain_v2()
--

-- What is known of the jobs of some handles, which are named by their labels.
CREATE FUNCTION drain(handles pg_background_handle[], timeout_ms int DEFAULT 0, OUT place int8, OUT label text, OUT state text, OUT completed bool,
                      OUT row_count int8, OUT sqlstate text, OUT is_handle bool)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT o.place, o.label, o.state, o.completed, o.row_count, o.sqlstate, (o.pid, o.cookie) IS NOT DISTINCT FROM (h.pid, h.cookie)
    FROM pg_background_drain_v2(handles, timeout_ms) WITH ORDINALITY
         AS o (pid, cookie, state, consumed, completed, has_error, row_count, command_tag, sqlstate, error_message, label, launched_at, place)
    LEFT JOIN unnest(handles) WITH ORDINALITY AS h (pid, cookie, place) ON h.place = o.place
    ORDER BY o.place
$$;

SELECT array_agg(h ORDER BY d DESC) AS handles FROM (VALUES (0.3), (0.1), (0.0), (0.2)) v (d),
    LATERAL pg_background_launch_v2(format('SELECT %s FROM pg_sleep(%1$s)', d), 0, 'takes ' || d) h \gset
SELECT pg_background_submit_v2('SELECT 1/0', 0, 'bad') AS bad \gset
-- in the order of the input, until all have ended; twice, unknown and null
SELECT * FROM drain((:'handles'::pg_background_handle[]) || array[:'bad', (:'handles'::pg_background_handle[])[1], (0, 0), NULL, (1, NULL)]::pg_background_handle[]);
-- they are forgotten
SELECT * FROM drain(:'handles');
SELECT count(*) FROM pg_background_list;
-- no handles
SELECT * FROM drain('{}');
SELECT * FROM drain(NULL);
SELECT * FROM drain('{NULL}');
SELECT raised('SELECT pg_background_drain_v2(''{}'', 3600001)');
-- one budget of time for all, be they a hundred, and nothing is canceled
SELECT array_agg(h ORDER BY g) AS handles FROM generate_series(1, 5) g,
    LATERAL pg_background_launch_v2(format('SELECT pg_sleep(%s)', CASE WHEN g = 3 THEN 0 ELSE 3600 + g END), 0, 'job ' || g) h \gset
CALL await('(SELECT string_agg(state, '' '') = ''running running stopped running running'' FROM pg_background_list)');
SET statement_timeout = '1min';
SELECT * FROM drain(:'handles', 500);
SELECT state, count(*) FROM drain(array(SELECT h FROM generate_series(1, 20), unnest(:'handles'::pg_background_handle[]) h), 500) GROUP BY 1 ORDER BY 1;
RESET statement_timeout;
SELECT count(*) FROM running;
-- the cancel of the caller leaves them running, too
SET statement_timeout = '200ms';
SELECT * FROM pg_background_drain_v2(:'handles');
RESET statement_timeout;
SELECT count(*) FROM running;

--
-- pg_background_wait_any_v2()
--

CREATE FUNCTION label(handle pg_background_handle) RETURNS text LANGUAGE sql AS
    $$SELECT label FROM pg_background_list l WHERE l.pid = handle.pid AND l.cookie = handle.cookie$$;
SELECT pg_background_launch_v2('SELECT 1', 0, 'job 6') AS ended \gset
SELECT label(pg_background_wait_any_v2(:'handles'::pg_background_handle[] || :'ended'::pg_background_handle));
-- NULL on time-out, and where there is nothing to wait for
SELECT pg_background_wait_any_v2((:'handles'::pg_background_handle[])[4:], 300) IS NULL AS timed_out;
SELECT pg_background_wait_any_v2('{}') IS NULL AS none, pg_background_wait_any_v2(NULL) IS NULL AS none, pg_background_wait_any_v2('{NULL, NULL}', 1) IS NULL AS none;
SELECT pg_background_wait_any_v2('{"(0,0)"}') IS NULL AS none;
SELECT raised('SELECT pg_background_wait_any_v2(''{}'', 3600001)');
-- the one that ends while we wait
SELECT pg_background_submit_v2('SELECT pg_sleep(0.3); SELECT 1/0', 0, 'fails') AS fails,
       pg_background_submit_v2('SELECT pg_sleep(3600)', 0, 'is ended') AS terminated \gset
SELECT label(pg_background_wait_any_v2((:'handles'::pg_background_handle[])[4:] || NULL::pg_background_handle || :'fails'::pg_background_handle || :'terminated'::pg_background_handle));
CALL await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity WHERE pid = %s)', (:'terminated'::pg_background_handle).pid));
SELECT pg_terminate_backend((:'terminated'::pg_background_handle).pid);
SELECT label(pg_background_wait_any_v2((:'handles'::pg_background_handle[])[4:] || :'terminated'::pg_background_handle));
-- one after the other, in the order in which they end
SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 3) n;
SELECT array_agg(h) AS handles FROM unnest('{3, 1, 2}'::int[]) n,
    LATERAL pg_background_launch_v2(format('SELECT pg_advisory_xact_lock_shared(%s)', n), 0, 'ends as number ' || n) h \gset
DO $$
DECLARE
    handles pg_background_handle[] := array(SELECT (pid, cookie)::pg_background_handle FROM pg_background_list WHERE label ~ 'as number');
    handle pg_background_handle;
BEGIN
    FOR n IN 1 .. 3 LOOP
        PERFORM pg_advisory_unlock(n);
        handle := pg_background_wait_any_v2(handles);
        RAISE NOTICE '%', label(handle);
        handles := array_remove(handles, handle);
    END LOOP;
END $$;
-- of some that have ended, the first to do so
SELECT pg_advisory_lock(1);
SELECT pg_background_launch_v2('SELECT pg_advisory_xact_lock_shared(1)', 0, 'long') AS long, pg_background_launch_v2('SELECT 1', 0, 'short') AS short \gset
SELECT pg_background_wait_v2((:'short'::pg_background_handle).pid, (:'short'::pg_background_handle).cookie);
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2((:'long'::pg_background_handle).pid, (:'long'::pg_background_handle).cookie);
SELECT label(pg_background_wait_any_v2(array[:'long', :'short']::pg_background_handle[]));
-- the cancel of the caller
SELECT array_agg(h) AS handles FROM pg_background_launch_v2('SELECT pg_sleep(3600)') h \gset
SET statement_timeout = '200ms';
SELECT pg_background_wait_any_v2(:'handles');
RESET statement_timeout;
-- a deadlock with this session, where all of them wait for it
BEGIN;
SET LOCAL deadlock_timeout = '10ms';
LOCK TABLE done;
SELECT array_agg(h) AS locked FROM generate_series(1, 2) g, LATERAL pg_background_launch_v2(format('INSERT INTO done VALUES (%L)', g), 0, 'locked') h \gset
SELECT pg_background_wait_any_v2(:'locked'::pg_background_handle[] || :'handles'::pg_background_handle[], 500) IS NULL AS timed_out;
\set VERBOSITY terse
SELECT pg_background_wait_any_v2(:'locked');
\set VERBOSITY default
ROLLBACK;
SELECT label, state, sqlstate FROM pg_background_drain_v2(:'locked');
SELECT pg_background_cancel_all_v2() > 0 AS some;
SELECT count(*) FROM pg_background_drain_v2(array(SELECT (pid, cookie)::pg_background_handle FROM pg_background_list)) WHERE NOT completed;
SELECT pg_background_detach_all_v2() > 0 AS some;

--
-- Settings
--

-- The most that a setting in kB may be is the server's to say.
SELECT name, boot_val, unit, vartype, context, min_val,
       CASE WHEN unit = 'kB' AND max_val = (SELECT max_val FROM pg_settings WHERE name = 'work_mem')
            THEN 'as work_mem' ELSE max_val END AS max_val
FROM pg_settings WHERE name ~ '^pg_background\.' AND name !~ 'look_time' ORDER BY name COLLATE "C";
\set VERBOSITY sqlstate
SET pg_background.max_workers = 0;
SET pg_background.max_workers = 1001;
SET pg_background.default_queue_size = 63;
SET pg_background.default_queue_size = '257MB';
SET pg_background.worker_timeout = -1;
SET pg_background.launch_timeout = -1;
\set VERBOSITY default

-- default_queue_size
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1');
SET pg_background.default_queue_size = '8kB';
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1');
SELECT pg_background_launch('SELECT 1') IS NOT NULL AS ok;
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT 1', 0, 'label');
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT 1', 9000);
-- Hardening 46: no larger than the administrator allows
SET pg_background.default_queue_size = '256MB';
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1');
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1', 64 * 1024 * 1024 + 1);
SELECT pg_background_launch('SELECT 1', 536870911) IS NOT NULL AS ok;
SELECT pg_background_submit_on_commit_v2('SELECT 1');
SET ROLE pgbackground_role;
SET pg_background.max_queue_size = '256MB';
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT 1');
RESET ROLE;
SET pg_background.max_queue_size = '512MB';
SELECT pg_background_launch('SELECT 1', 536870913) IS NOT NULL AS ok;
SET pg_background.max_queue_size = '256MB';
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1');
SELECT queue_size FROM pg_background_list;
RESET pg_background.default_queue_size;
RESET pg_background.max_queue_size;
SELECT count(*) FROM pg_background_drain_v2(array(SELECT (pid, cookie)::pg_background_handle FROM pg_background_list));
SELECT pg_background_detach_all_v2();

-- max_workers counts the jobs that run, of all kinds
SET pg_background.launch_timeout = 0;
SET pg_background.max_workers = 3;
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT pg_sleep(3600)', 0, 'a');
SELECT pg_background_launch('SELECT pg_sleep(3600)') IS NOT NULL AS ok;
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT pg_sleep(3600)', 0, 'b');
SELECT raised('SELECT pg_background_launch(''SELECT 1'')');
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
SELECT raised('SELECT pg_background_run_v2(''SELECT 1'')');
SELECT raised('SELECT * FROM pg_background_run_query_v2(''SELECT 1'') AS (n int)');
SELECT raised('SELECT pg_background_run_params_v2(''SELECT $1'', 1)');
SELECT raised('SELECT pg_background_run_all_v2(''{SELECT 1}'')');
SELECT count(*) FROM pg_background_list;
-- a submitted one is queued
SELECT pid >= 1 << 30 AS is_queued FROM pg_background_submit_v2('INSERT INTO done VALUES (''queued'')', 0, 'queued');
SELECT state FROM pg_background_list WHERE label = 'queued';
-- but for those that were detached (Hardening 22) or have ended
SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_list WHERE label = 'a';
SELECT pg_background_wait_v2(pid, cookie) FROM pg_background_list WHERE label = 'queued';
TABLE done;
TRUNCATE done;
SELECT pg_background_launch_v2('SELECT pg_sleep(3600)', 0, 'b') IS NOT NULL AS ok;
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
SELECT pg_background_cancel_by_label_v2('b', 60000);
SELECT has_error FROM pg_background_run_v2('SELECT 1');
SELECT pg_background_launch_v2('SELECT pg_sleep(3600)', 0, 'c') IS NOT NULL AS ok FROM generate_series(1, 2);
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
-- more are allowed as soon as the setting says so
SET pg_background.max_workers = 4;
SELECT has_error FROM pg_background_run_v2('SELECT 1');
CALL await('(SELECT count(*) = 4 FROM running)');
SELECT pg_background_cancel_all_v2();
SELECT pg_cancel_backend(pid) FROM pg_background_workers WHERE launcher_pid = pg_backend_pid() AND label = 'a';
CALL await('NOT EXISTS (SELECT FROM running)');
RESET pg_background.max_workers;
SELECT pg_background_detach_all_v2() > 0 AS some;
RESET pg_background.launch_timeout;

-- worker_timeout is that of the whole job, and no cancel
SET pg_background.worker_timeout = 200;
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(0.01); SELECT pg_sleep(3600)') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, sqlstate, error_message FROM pg_background_outcome_v2(:pid, :cookie);
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (v text)', :pid, :cookie));
SELECT completed, timed_out, has_error, sqlstate, error_message FROM pg_background_run_v2('SELECT pg_sleep(3600)');
SELECT workers_failed, workers_canceled FROM pg_background_stats_v2() \gset
SELECT has_error FROM pg_background_run_v2('DO ''BEGIN LOOP PERFORM pg_sleep(0.01); END LOOP; END''');
SELECT workers_failed - :workers_failed AS failed, workers_canceled - :workers_canceled AS canceled FROM pg_background_stats_v2();
-- the job's own time-out, where it comes first, is told from it
SET pg_background.worker_timeout = '1min';
SELECT has_error FROM pg_background_run_v2('SELECT 1');
SELECT error_message FROM pg_background_run_v2('SET statement_timeout = 20; SELECT pg_sleep(3600)');
-- it is that of the launch
SET pg_background.worker_timeout = '1h';
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SET pg_background.worker_timeout = 1;
CALL await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity WHERE pid = %s)', :pid));
SELECT state FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_cancel_v2(:pid, :cookie), pg_background_wait_v2(:pid, :cookie);
SELECT state, error_message FROM pg_background_outcome_v2(:pid, :cookie);
-- one that a job has caught is not that of the next
SET pg_background.worker_timeout = 1000;
SET pg_background.idle_timeout = '1min';
SET pg_background.max_idle_workers = -1;
SELECT pid, cookie FROM pg_background_launch_v2($$DO 'BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END'$$) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state FROM pg_background_outcome_v2(:pid, :cookie);
RESET pg_background.worker_timeout;
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity WHERE pid = %s)', :pid2));
SELECT pg_cancel_backend(:pid2), pg_background_wait_v2(:pid2, :cookie2);
SELECT :pid = :pid2 AS same_process, state, error_message FROM pg_background_outcome_v2(:pid2, :cookie2);
RESET pg_background.idle_timeout;
RESET pg_background.max_idle_workers;
SELECT pg_background_detach_all_v2() > 0 AS some;

-- launch_timeout: waits for one of our own jobs to end
SET pg_background.max_workers = 1;
SET pg_background.launch_timeout = '1min';
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('INSERT INTO done SELECT ''first'' FROM pg_sleep(0.3)');
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('INSERT INTO done VALUES (''second'')');
SELECT completed, has_error FROM pg_background_run_v2('INSERT INTO done VALUES (''third'')');
TABLE done;
TRUNCATE done;
-- one whose result nobody reads, larger than its queue
SELECT pid, cookie FROM pg_background_launch_v2('SELECT generate_series(1, 100000)', 4096) \gset
SELECT * FROM pg_background_run_query_v2('SELECT 1') AS (n int);
SELECT count(*) FROM pg_background_result_v2(:pid, :cookie) AS (n int);
-- and still fails at its end
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT pg_sleep(3600)');
SET pg_background.launch_timeout = 300;
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
-- or when the caller is canceled
SET pg_background.launch_timeout = '1h';
SET statement_timeout = '300ms';
SELECT pg_background_launch_v2('SELECT 1');
RESET statement_timeout;
SELECT count(*) FROM pg_background_list;
SELECT pg_background_cancel_all_v2();
CALL await('NOT EXISTS (SELECT FROM running)');
SELECT pg_background_detach_all_v2();

DROP FUNCTION label, drain;
DROP VIEW running;
DROP TABLE done;
DROP EXTENSION pg_background;
