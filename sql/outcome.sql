-- What is known of a session's jobs: labels, lists, outcomes, errors, progress,
-- counters; and what is done with many jobs at once.

-- Some of this is of characters of more than one byte.
CREATE DATABASE regress_outcome TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
\set old_database :DBNAME
\c regress_outcome
\encoding UTF8

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

CREATE ROLE regress_other;
GRANT pgbackground_role TO regress_other;
\set SHOW_CONTEXT never

-- Wait until a job is in the middle of its sleep.
CREATE PROCEDURE sleeps(pid int) LANGUAGE plpgsql AS $$
BEGIN
    CALL await(format('(SELECT wait_event = ''PgSleep'' FROM pg_stat_activity WHERE pid = %s)', pid));
END $$;

-- A job's handle, in place of what is not the same in each run.
CREATE FUNCTION is_of(o pg_background_outcome, pid int, cookie int8) RETURNS boolean LANGUAGE sql AS $$
    SELECT o.pid = is_of.pid AND o.cookie = is_of.cookie
$$;

--
-- Labels
--

-- the overloads with three arguments are not strict, but for the SQL string
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1', 0, 'first') \gset
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_submit_v2('SELECT 2', 12345, 'zweiter: äöü') \gset
SELECT pid AS pid3 FROM pg_background_launch_v2('SELECT 3', 0, NULL) \gset
SELECT pid AS pid4 FROM pg_background_submit_v2('SELECT 4', NULL, NULL) \gset
SELECT pid AS pid5 FROM pg_background_launch_v2('SELECT 5') \gset
SELECT sql_preview, queue_size, label FROM pg_background_list;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid2, :cookie2));
SELECT raised('SELECT pg_background_launch_v2(NULL, 0, ''label'')');
SELECT raised('SELECT pg_background_submit_v2(NULL, 0, ''label'')');
SELECT pg_background_launch_v2(NULL, 0) IS NULL AS strict, pg_background_submit_v2(NULL) IS NULL AS strict;

-- at most 64 bytes
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT 6', 0, repeat('x', 64));
SELECT raised('SELECT pg_background_launch_v2(''SELECT 7'', 0, repeat(''x'', 65))');
SELECT raised('SELECT pg_background_submit_v2(''SELECT 7'', 0, repeat(''ä'', 33))');
SELECT raised('SELECT pg_background_submit_v2(''SELECT 7'', -1, ''label'')');
SELECT sql_preview, length(label) AS length FROM pg_background_list WHERE length(label) > 30 OR sql_preview = 'SELECT 7';
SELECT pg_background_detach_all_v2();

--
-- Lists
--

-- no job
TABLE pg_background_list;
SELECT count(*) FROM pg_background_activity;

SELECT now() AS before \gset
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1/0', 23456, 'lists') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pid = :pid AS pid, cookie = :cookie AS cookie, launched_at BETWEEN :'before' AND clock_timestamp() AS launched_at,
       user_id::regrole = current_user::regrole AS user_id, queue_size, state, sql_preview, last_error, consumed, label
FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool, label text);
-- nine columns, as until 1.9; and what is neither
SELECT pid = :pid AS pid, cookie = :cookie AS cookie, queue_size, state, sql_preview, last_error, consumed
FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool);
SELECT * FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text);
SELECT * FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool, label int);
SELECT * FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool, label text, more text);

-- the views have these columns
SELECT attrelid::regclass AS view, string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) AS columns
FROM pg_attribute
WHERE attrelid IN ('pg_background_list'::regclass, 'pg_background_activity'::regclass) AND attnum > 0
GROUP BY 1 ORDER BY 1;
SELECT (l.*) IS NOT DISTINCT FROM (SELECT v FROM pg_background_list v) AS same_as_view
FROM pg_background_list_v2()
AS l (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
      state text, sql_preview text, last_error text, consumed bool, label text);

-- what the server shows of a job that runs; of one that has ended, nothing,
-- though its process may still be there
SELECT pg_advisory_lock(1);
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT ''lock'' FROM pg_advisory_xact_lock(1)', 0, 'lock') \gset
CALL await(format('EXISTS (SELECT FROM pg_background_activity WHERE pid = %s AND wait_event = ''advisory'')', :pid2));
SELECT pgbg_state, sql_preview, last_error, consumed, label, backend_state, wait_event_type, wait_event,
       xact_start <= query_start AND query_start BETWEEN :'before' AND clock_timestamp() AS query_start,
       backend_start <= query_start AS backend_start, query
FROM pg_background_activity;
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid2, :cookie2);
SELECT pgbg_state, label, backend_state, backend_start, query FROM pg_background_activity;

-- "consumed" says that a reader was interrupted who had taken rows
SELECT pid AS pid3, cookie AS cookie3
FROM pg_background_launch_v2('SELECT g FROM generate_series(1, 500) g UNION ALL SELECT 0 FROM pg_sleep(3600)', 16384, 'consumed') \gset
CALL sleeps(:pid3);
SET statement_timeout = '500ms';
SELECT count(*) FROM pg_background_result_v2(:pid3, :cookie3) AS (n int);
RESET statement_timeout;
SELECT consumed FROM pg_background_list WHERE label = 'consumed';
SELECT state, consumed FROM pg_background_outcome_v2(:pid3, :cookie3);
SELECT pg_background_cancel_v2(:pid3, :cookie3);
SELECT pg_background_detach_all_v2();

--
-- Outcomes, errors, the whole SQL string
--

-- of a job that runs
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT g FROM pg_advisory_xact_lock_shared(1), generate_series(1, 7) g', 0, 'seven') \gset
CALL await(format('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = %s)', :pid));
SELECT is_of(o, :pid, :cookie), o.state, o.consumed, o.completed, o.has_error, o.row_count, o.command_tag, o.sqlstate,
       o.error_message, o.label, o.launched_at BETWEEN :'before' AND clock_timestamp() AS launched_at
FROM pg_background_outcome_v2(:pid, :cookie) o;
SELECT row_count, command_tag, completed, has_error, finished_at >= started_at AS finished FROM pg_background_result_info_v2(:pid, :cookie);
SELECT pg_background_error_info_v2(:pid, :cookie) IS NULL AS no_error;
SELECT pg_advisory_unlock(1);

-- of one that has ended well; nothing of this reads its rows
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT is_of(o, :pid, :cookie), o.state, o.consumed, o.completed, o.has_error, o.row_count, o.command_tag, o.sqlstate,
       o.error_message, o.label
FROM pg_background_outcome_v2(:pid, :cookie) o;
SELECT row_count, command_tag, completed, has_error, finished_at >= started_at AS finished FROM pg_background_result_info_v2(:pid, :cookie);
SELECT pg_background_error_info_v2(:pid, :cookie) IS NULL AS no_error;
SELECT pg_background_status_v2(:pid, :cookie) = to_jsonb(pg_background_outcome_v2(:pid, :cookie)) AS same,
       pg_background_status_v2(:pid, :cookie) - '{pid,cookie,launched_at}'::text[] AS status;
SELECT sum(n) FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT is_of(o, :pid, :cookie), o.state, o.completed FROM pg_background_outcome_v2(:pid, :cookie) o;

-- of commands of all kinds: the last one counts
CREATE TABLE filled (n int);
CREATE FUNCTION outcome_of(sql text, submit bool DEFAULT false) RETURNS TABLE (
    state text, completed bool, has_error bool, row_count int8, command_tag text, sqlstate text, error_message text, info_is_same bool)
LANGUAGE plpgsql AS $$
DECLARE
    job pg_background_handle;
BEGIN
    IF submit THEN
        job := pg_background_submit_v2(sql);
    ELSE
        job := pg_background_launch_v2(sql);
    END IF;
    PERFORM pg_background_wait_v2(job.pid, job.cookie);
    RETURN QUERY
        SELECT o.state, o.completed, o.has_error, o.row_count, o.command_tag, o.sqlstate, o.error_message,
               (o.row_count, o.command_tag, o.completed, o.has_error) IS NOT DISTINCT FROM
               (i.row_count, i.command_tag, i.completed, i.has_error)
        FROM pg_background_outcome_v2(job.pid, job.cookie) o, pg_background_result_info_v2(job.pid, job.cookie) i;
    PERFORM pg_background_detach_v2(job.pid, job.cookie);
END $$;
SELECT * FROM outcome_of('INSERT INTO filled VALUES (1), (2), (3)');
SELECT * FROM outcome_of('INSERT INTO filled VALUES (4), (5)', true);
SELECT * FROM outcome_of('UPDATE filled SET n = n WHERE n > 4; DELETE FROM filled WHERE n > 2');
SELECT * FROM outcome_of('DELETE FROM filled WHERE n > 2 RETURNING n');
SELECT * FROM outcome_of('SELECT generate_series(1, 100000)', true);
SELECT * FROM outcome_of('SET work_mem = 64');
SELECT * FROM outcome_of('');
SELECT * FROM outcome_of('SELECT 1; SELECT 1/0');
SELECT * FROM outcome_of('SELECT 1/0', true);
SELECT * FROM outcome_of('SELEC 1');
SELECT * FROM outcome_of('SELECT 1/(g - 1000) FROM generate_series(1, 1000) g');
SELECT * FROM outcome_of('SET statement_timeout = 1; SELECT pg_sleep(3600)');

-- all parts of an error
SELECT pid, cookie FROM pg_background_launch_v2(
    $$DO 'BEGIN RAISE ''message'' USING ERRCODE = ''XX123'', DETAIL = ''detail'', HINT = ''hint''; END'$$) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_error_info_v2(:pid, :cookie);
SELECT state, has_error, sqlstate, error_message FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_status_v2(:pid, :cookie) = to_jsonb(pg_background_outcome_v2(:pid, :cookie)) AS same,
       pg_background_status_v2(:pid, :cookie) - '{pid,cookie,launched_at}'::text[] AS status;
-- a message that is longer than what the list shows of it, and in characters of
-- more than one byte; and an error without any other part
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2($$DO 'BEGIN RAISE ''%'', repeat(''ä'', 1000); END'$$) \gset
SELECT pid AS pid3, cookie AS cookie3 FROM pg_background_submit_v2('SELECT 1/0') \gset
SELECT pg_background_wait_v2(:pid2, :cookie2), pg_background_wait_v2(:pid3, :cookie3);
SELECT message = repeat('ä', 1000) AS message FROM pg_background_error_info_v2(:pid2, :cookie2);
SELECT error_message = repeat('ä', 1000) AS message FROM pg_background_outcome_v2(:pid2, :cookie2);
\pset null NULL
SELECT * FROM pg_background_error_info_v2(:pid3, :cookie3);
\pset null ''

-- a job that was canceled
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, completed, has_error, sqlstate, error_message FROM pg_background_outcome_v2(:pid, :cookie);

-- the whole SQL string, of which the list shows 120 bytes
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT ''ä''; -- ' || repeat('ö', 1000000)) \gset
SELECT pg_background_full_sql_v2(:pid2, :cookie2) = 'SELECT ''ä''; -- ' || repeat('ö', 1000000) AS same;
SELECT pg_background_full_sql_v2(:pid, :cookie);

-- no handle: outcome and status never raise an error, the others do
SELECT * FROM pg_background_outcome_v2(0, 0);
SELECT * FROM pg_background_outcome_v2(-1, -1);
SELECT pg_background_status_v2(2147483647, 0);
SELECT state, completed FROM pg_background_outcome_v2(:pid, :cookie + 1);
SELECT state, completed FROM pg_background_outcome_v2(:pid + 1, :cookie);
SELECT pg_background_outcome_v2(NULL, 0) IS NULL AS strict, pg_background_status_v2(0, NULL) IS NULL AS strict;
SELECT f, raised(format('SELECT pg_background_%s_v2(0, 0)', f))
FROM unnest('{result_info, error_info, full_sql, get_progress, result_jsonb}'::text[]) f;
SELECT f, raised(format('SELECT pg_background_%s_v2(%s, %s)', f, :pid, :cookie + 1))
FROM unnest('{result_info, error_info, full_sql, get_progress, result_jsonb}'::text[]) f;

-- one of another user
SET ROLE regress_other;
SELECT pid = :pid AS pid, cookie = :cookie AS cookie, state, completed, label, launched_at FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_status_v2(:pid, :cookie) - '{pid,cookie}'::text[] AS status;
SELECT f, raised(format('SELECT pg_background_%s_v2(%s, %s)', f, :pid, :cookie))
FROM unnest('{result_info, error_info, full_sql, get_progress, result_jsonb}'::text[]) f;
SELECT count(*) FROM pg_background_list;
SELECT count(*) FROM pg_background_activity;
RESET ROLE;
SELECT pg_background_detach_all_v2();
-- before the first launch of a session
\c -
\encoding UTF8
\set SHOW_CONTEXT never
SELECT state FROM pg_background_outcome_v2(1, 1);
SELECT pg_background_status_v2(1, 1);
SELECT pg_background_detach_all_v2(), pg_background_cancel_all_v2(), pg_background_purge_v2(), pg_background_cancel_by_label_v2('%');
TABLE pg_background_list;
SELECT workers_launched, workers_completed, workers_failed, workers_canceled, workers_active, avg_execution_ms, max_workers
FROM pg_background_stats_v2();

--
-- Progress
--

SET pg_background.idle_timeout = '1min';
SET pg_background.max_idle_workers = -1;
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2($$
    SELECT pg_advisory_xact_lock_shared(1);
    SELECT pg_background_progress(-1);
    SELECT pg_advisory_xact_lock_shared(2);
    SELECT pg_background_progress(42, 'almost half');
    SELECT pg_advisory_xact_lock_shared(3);
    SELECT pg_background_progress(101, '')$$) \gset
CALL await(format('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = %s)', :pid));
SELECT pg_background_get_progress_v2(:pid, :cookie) IS NULL AS none;
SELECT pg_advisory_lock(2), pg_advisory_unlock(1);
CALL await(format('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND objid = 2 AND pid = %s)', :pid));
SELECT * FROM pg_background_get_progress_v2(:pid, :cookie);
SELECT pg_advisory_lock(3), pg_advisory_unlock(2);
CALL await(format('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND objid = 3 AND pid = %s)', :pid));
SELECT * FROM pg_background_get_progress_v2(:pid, :cookie);
SELECT pg_advisory_unlock(3);
-- it is kept when the job has ended, and its process runs another
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_get_progress_v2(:pid, :cookie);
CALL await(format('(SELECT state = ''idle'' FROM pg_stat_activity WHERE pid = %s)', :pid));
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT 1') \gset
SELECT pg_background_wait_v2(:pid2, :cookie2);
SELECT :pid = :pid2 AS same_process, pg_background_get_progress_v2(:pid2, :cookie2) IS NULL AS none;
SELECT * FROM pg_background_get_progress_v2(:pid, :cookie);

-- a job that fails keeps what it has said, too; one that is submitted says it
CREATE FUNCTION progress_of(pct int, msg text, tail text DEFAULT '') RETURNS pg_background_progress_info LANGUAGE plpgsql AS $$
DECLARE
    job pg_background_handle := pg_background_submit_v2(format('SELECT pg_background_progress(%s, %L) %s', pct, msg, tail));
BEGIN
    PERFORM pg_background_wait_v2(job.pid, job.cookie);
    RETURN pg_background_get_progress_v2(job.pid, job.cookie);
END $$;
SELECT * FROM progress_of(99, 'and then', '; SELECT 1/0');
SELECT (progress_of(pct, NULL)).progress_pct FROM unnest('{-2147483648, -1, 0, 1, 99, 100, 101, 2147483647}'::int[]) pct;
\pset null NULL
SELECT * FROM progress_of(1, NULL);
\pset null ''
-- the last report counts
SELECT * FROM progress_of(80, 'first', '; SELECT pg_background_progress(20)');
-- at most 255 bytes, cut on the boundary of a character
SELECT length, octet_length((p).progress_msg) AS bytes, length((p).progress_msg) AS characters, right((p).progress_msg, 5) AS "end"
FROM unnest('{254, 255, 256, 257, 1000}'::int[]) length, progress_of(1, repeat('x', length)) p;
SELECT length, octet_length((p).progress_msg) AS bytes, length((p).progress_msg) AS characters, right((p).progress_msg, 5) AS "end"
FROM unnest('{127, 128, 1000}'::int[]) length, progress_of(1, repeat('ä', length)) p;
SELECT length, octet_length((p).progress_msg) AS bytes, length((p).progress_msg) AS characters, right((p).progress_msg, 5) AS "end"
FROM unnest('{85, 86, 1000}'::int[]) length, progress_of(1, repeat('€', length)) p;

-- outside of a job, and without a number
SELECT raised('SELECT pg_background_progress(1)');
SELECT raised('SELECT pg_background_progress(1, ''message'')');
SELECT sqlstate, error_message FROM outcome_of('SELECT pg_background_progress(NULL, ''message'')');

SELECT pg_background_detach_all_v2() > 0 AS some;

--
-- Counters
--

\c -
\encoding UTF8
\set SHOW_CONTEXT never
SET pg_background.idle_timeout = '1min';
SET pg_background.max_idle_workers = -1;
CREATE VIEW stats AS
SELECT workers_launched AS launched, workers_completed AS completed, workers_failed AS failed,
       workers_canceled AS canceled, workers_active AS active,
       workers_launched = workers_completed + workers_failed + workers_canceled + workers_active AS adds_up
FROM pg_background_stats_v2();
CREATE FUNCTION count_to(n text) RETURNS SETOF stats LANGUAGE plpgsql AS $$
BEGIN
    CALL await(format('(SELECT %s FROM stats)', n));
    RETURN QUERY TABLE stats;
END $$;
TABLE stats;

SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_advisory_xact_lock_shared(1)') \gset
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_submit_v2('SELECT pg_advisory_xact_lock_shared(1); SELECT 1/0') \gset
SELECT pg_background_launch('SELECT ''v1'' FROM pg_advisory_xact_lock_shared(1)')::int AS pid3 \gset
SELECT pid AS pid4, cookie AS cookie4 FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
TABLE stats;
-- a launch that fails is none
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'', 1)');
SET pg_background.launch_timeout = 0;
SET pg_background.max_workers = 4;
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'')');
SELECT max_workers FROM pg_background_stats_v2();
RESET pg_background.launch_timeout;
RESET pg_background.max_workers;
TABLE stats;
-- all ways to end
SELECT pg_background_cancel_v2(:pid4, :cookie4), pg_background_wait_v2(:pid4, :cookie4);
TABLE stats;
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid, :cookie), pg_background_wait_v2(:pid2, :cookie2);
SELECT * FROM pg_background_result(:pid3) AS (t text);
TABLE stats;
-- what becomes of a job that was detached counts
SELECT pg_background_detach_all_v2();
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_advisory_xact_lock_shared(1)') \gset
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT pg_advisory_xact_lock_shared(1); SELECT 1/0') \gset
SELECT pid AS pid3, cookie AS cookie3 FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_cancel_v2(:pid3, :cookie3);
SELECT pg_background_detach_all_v2();
SELECT launched, completed, failed, adds_up FROM stats;
SELECT pg_advisory_unlock(1);
SELECT * FROM count_to('active = 0');
-- one whose process is ended, before and after it has a job; one that ends as it
-- is canceled with grace
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL sleeps(:pid);
SELECT pg_terminate_backend(:pid);
SELECT pg_background_wait_v2(:pid, :cookie);
TABLE stats;
SELECT state, sqlstate FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pid, cookie FROM pg_background_launch_v2(
    $$DO 'BEGIN LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'$$) \gset
CALL sleeps(:pid);
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 1), pg_background_wait_v2(:pid, :cookie);
TABLE stats;
SELECT state, sqlstate FROM pg_background_outcome_v2(:pid, :cookie);
-- a job that is terminated after it was detached
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL sleeps(:pid);
SELECT pg_background_detach_v2(:pid, :cookie), pg_terminate_backend(:pid);
SELECT * FROM count_to('active = 0');
-- results that are never read, larger than the queue
SELECT pg_background_detach_v2(pid, cookie) FROM generate_series(1, 3) g,
       LATERAL pg_background_launch_v2(format('SELECT generate_series(%s, 100000)', g), 4096) \g /dev/null
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT generate_series(1, 10000)', 4096);
SELECT * FROM count_to('active = 0');
-- an error of the launcher's transaction changes nothing
BEGIN;
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1');
ROLLBACK;
SELECT * FROM count_to('active = 0');
-- jobs that others launch for us
SELECT has_error FROM pg_background_run_v2('SELECT 1/0');
SELECT * FROM pg_background_run_query_v2('SELECT 1') AS (n int);
SELECT state FROM pg_background_run_all_v2('{SELECT 1, SELECT 1/0, SELECT 2}');
TABLE stats;
-- those of a job are not its launcher's, nor of the next job of its process
SELECT pg_background_purge_v2() > 0 AS some;
SELECT pid, cookie FROM pg_background_launch_v2('SELECT has_error FROM pg_background_run_v2(''SELECT 1/0''); TABLE stats') \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (launched int8, completed int8, failed int8, canceled int8, active int, adds_up bool);
SELECT j.pid = :pid AS same_process, r.*
FROM pg_background_launch_v2('TABLE stats') j,
     LATERAL pg_background_result_v2(j.pid, j.cookie) AS r (launched int8, completed int8, failed int8, canceled int8, active int, adds_up bool);
-- also where one of them has ended since
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_background_submit_v2(''SELECT pg_sleep(0.2)'') IS NOT NULL') \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (launched bool);
CALL await(format('NOT EXISTS (SELECT FROM pg_background_workers WHERE launcher_pid = %s AND state <> ''idle'')', :pid));
SELECT j.pid = :pid AS same_process, r.*
FROM pg_background_launch_v2('TABLE stats') j,
     LATERAL pg_background_result_v2(j.pid, j.cookie) AS r (launched int8, completed int8, failed int8, canceled int8, active int, adds_up bool);
TABLE stats;

-- the average of those that have ended well
\c -
\encoding UTF8
\set SHOW_CONTEXT never
SELECT avg_execution_ms FROM pg_background_stats_v2();
SELECT state FROM pg_background_run_all_v2('{SELECT pg_sleep(0.1), SELECT pg_sleep(0.3)}');
SELECT avg_execution_ms BETWEEN 200 AND 30000 AS avg FROM pg_background_stats_v2();
SELECT avg_execution_ms AS avg FROM pg_background_stats_v2() \gset
SELECT state, error_message FROM pg_background_run_all_v2('{SELECT 1/0, SELECT pg_sleep(0.5); SELECT 1/0}');
SELECT avg_execution_ms = :'avg' AS unchanged FROM pg_background_stats_v2();

--
-- Many jobs at once
--

\c -
\encoding UTF8
\set SHOW_CONTEXT never
CREATE FUNCTION states(OUT states text) LANGUAGE sql AS
    $$SELECT string_agg(label || ' ' || state, ', ') FROM pg_background_list$$;

-- purge forgets those that have ended, however they did, and no other
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1', 0, 'good');
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT 1/0', 0, 'bad');
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT pg_sleep(3600)', 0, 'long');
CALL await('states() = ''good stopped, bad error, long running''');
SELECT pg_background_purge_v2();
SELECT states();
SELECT pg_background_purge_v2();

-- cancel by label: LIKE patterns, the number of those that ran
SELECT label FROM unnest('{a, b_1, bx1, long, ä%ö, ""}'::text[]) label, LATERAL pg_background_submit_v2('SELECT pg_sleep(3600)', 0, label);
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT pg_sleep(3600)', 0, NULL);
CALL await('(SELECT count(*) = 8 FROM pg_background_activity WHERE wait_event = ''PgSleep'')');
SELECT pg_background_cancel_by_label_v2('nothing');
SELECT pg_background_cancel_by_label_v2('A');
SELECT pg_background_cancel_by_label_v2('b\_1');
CALL await('states() ~ ''b_1 canceled''');
SELECT states();
SELECT pg_background_cancel_by_label_v2('b_1');
CALL await('states() ~ ''bx1 canceled''');
SELECT pg_background_cancel_by_label_v2('long', 1000);
SELECT states();
SELECT pg_background_cancel_by_label_v2('%');
CALL await('states() !~ ''starting|running''');
SELECT states();
SELECT label, state FROM pg_background_list WHERE label IS NULL;
SELECT raised('SELECT pg_background_cancel_by_label_v2(NULL)');
SELECT raised('SELECT pg_background_cancel_by_label_v2(''%'', 3600001)');
-- with grace, all are canceled before any is waited for: these end when each has been
SELECT pg_background_purge_v2();
CREATE SEQUENCE canceled;
SELECT count(*) FROM generate_series(1, 8) g, LATERAL pg_background_submit_v2(
    format($$DO 'BEGIN PERFORM pg_sleep(3600 + %s); EXCEPTION WHEN query_canceled THEN
                 PERFORM nextval(''canceled''); CALL await(''(SELECT last_value = 8 FROM canceled)''); END'$$, g), 0, 'sociable');
CALL await('(SELECT count(*) = 8 FROM pg_background_activity WHERE label = ''sociable'' AND wait_event = ''PgSleep'')');
SET statement_timeout = '3min';
SELECT pg_background_cancel_by_label_v2('sociable', 3600000);
RESET statement_timeout;
CALL await('states() !~ ''starting|running''');
SELECT state, count(*) FROM pg_background_list WHERE label = 'sociable' GROUP BY 1;
DROP SEQUENCE canceled;
-- and those that do not react are ended
SELECT pg_background_purge_v2();
SELECT count(*) FROM generate_series(1, 8) g, LATERAL pg_background_submit_v2(
    format($$DO 'BEGIN LOOP BEGIN PERFORM pg_sleep(3600 + %s); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'$$, g), 0, 'stubborn');
CALL await('(SELECT count(*) = 8 FROM pg_background_activity WHERE label = ''stubborn'' AND wait_event = ''PgSleep'')');
SELECT pg_background_cancel_by_label_v2('stub%', 500);
CALL await('states() !~ ''starting|running''');
SELECT label, state FROM pg_background_list WHERE label IS NOT NULL;

-- cancel all: those that run, with no label as well
SELECT pg_background_cancel_all_v2();
CALL await('NOT EXISTS (SELECT FROM pg_background_list WHERE state IN (''starting'', ''running''))');
SELECT count(*) FROM generate_series(1, 3) g, LATERAL pg_background_launch_v2(format('SELECT pg_sleep(3600 + %s)', g), 0, 'three');
SELECT pg_background_cancel_all_v2();
CALL await('states() !~ ''starting|running''');
SELECT state, count(*) FROM pg_background_list WHERE label = 'three' GROUP BY 1;
SELECT pg_background_cancel_all_v2();

-- detach all: they go on to their ends
SELECT pg_background_detach_all_v2();
SELECT pg_advisory_lock(1);
TRUNCATE filled;
SELECT count(*) FROM generate_series(1, 3) g, LATERAL pg_background_launch_v2(
    format('SELECT pg_advisory_xact_lock_shared(1); INSERT INTO filled VALUES (%s)', g));
SELECT pid IS NOT NULL AS ok FROM pg_background_launch_v2('SELECT 1/0');
SELECT pg_background_detach_all_v2();
SELECT count(*) FROM pg_background_list;
SELECT pg_background_cancel_all_v2();
SELECT pg_advisory_unlock(1);
CALL await('(SELECT count(*) = 3 FROM filled)');

-- jobs of another user are left alone, also where he is the one who asks
SELECT pid AS pid, cookie FROM pg_background_submit_v2('SELECT pg_sleep(3600)', 0, 'mine') \gset
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT 1', 0, 'mine, too');
CALL await('states() = ''mine running, mine, too stopped''');
SET ROLE regress_other;
SELECT pg_background_cancel_all_v2(), pg_background_cancel_by_label_v2('mine%'), pg_background_purge_v2(), pg_background_detach_all_v2();
SELECT pid IS NOT NULL AS ok FROM pg_background_submit_v2('SELECT pg_sleep(3600)', 0, 'theirs');
SELECT pg_background_cancel_all_v2();
CALL await('states() = ''theirs canceled''');
SELECT pg_background_detach_all_v2();
RESET ROLE;
SELECT states();
SELECT pg_background_cancel_all_v2();
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_detach_all_v2();

\c :old_database
DROP DATABASE regress_outcome WITH (FORCE);
REVOKE pgbackground_role FROM regress_other;
DROP ROLE regress_other;
