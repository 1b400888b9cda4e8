-- The interface from 2.0 on: a handle is one value; code that has a PID goes on.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never

-- every function that takes a handle, by a value and by its parts
CREATE TEMP TABLE handle (h pg_background_handle);
INSERT INTO handle VALUES (pg_background_launch('SELECT g, ''row '' || g FROM generate_series(1, 2) g', label => 'labeled'));
SELECT pg_background_wait(h), pg_background_wait(h, 600000), pg_background_wait((h).pid, (h).cookie) FROM handle;
SELECT o.state, o.completed, o.has_error, o.row_count, o.command_tag, o.label
FROM handle, pg_background_outcome(h) o;
SELECT i.row_count, i.command_tag, i.completed, i.has_error, i.started_at <= i.finished_at AS finished
FROM handle, pg_background_result_info(h) i;
SELECT pg_background_outcome(h) = pg_background_outcome((h).pid, (h).cookie) AS outcome,
       pg_background_result_info(h) = pg_background_result_info((h).pid, (h).cookie) AS result_info,
       pg_background_error_info(h) IS NULL AS error_info, pg_background_get_progress(h) IS NULL AS progress,
       pg_background_full_sql(h) = pg_background_full_sql((h).pid, (h).cookie) AS full_sql
FROM handle;
SELECT pg_background_cancel(h), pg_background_cancel(h, 1) FROM handle;
SELECT r.* FROM handle, pg_background_result(h) AS r (n int, t text);

-- A second reader is told that he is one, whatever he has of the handle.
SELECT raised('SELECT FROM handle, pg_background_result(h) AS r (n int, t text)');
SELECT raised('SELECT FROM handle, pg_background_result((h).pid, (h).cookie) AS r (n int, t text)');
SELECT raised('SELECT FROM handle, pg_background_result((h).pid) AS r (n int, t text)');
SELECT raised('SELECT pg_background_wait(h) FROM handle');
SELECT state IS NULL AS unknown FROM handle, pg_background_outcome(h);
SELECT pg_background_get_progress(h) IS NULL AS unknown FROM handle;
-- also where the job's error was what he read
UPDATE handle SET h = pg_background_launch('SELECT 1 / 0');
SELECT raised('SELECT FROM handle, pg_background_result(h) AS r (n int)');
SELECT raised('SELECT FROM handle, pg_background_result(h) AS r (n int)');
-- but not one who never could
SELECT pg_background_wait(h) FROM (VALUES ((0, 1)::pg_background_handle), (NULL)) v (h) WHERE h IS NOT NULL;
SELECT pg_background_wait(NULL::pg_background_handle) IS NULL AS null;

UPDATE handle SET h = pg_background_launch('SELECT 1 AS n');
SELECT pg_background_result_jsonb(h) FROM handle;
UPDATE handle SET h = pg_background_launch('SELECT pg_sleep(3600)');
SELECT pg_background_wait(h, 1), pg_background_cancel(h, 600000), pg_background_wait(h, 1) FROM handle;
SELECT pg_background_detach(h) FROM handle;

-- Taken apart by .*, a call is one for each column.
DO $$
DECLARE
    h pg_background_handle := pg_background_launch('SELECT 1');
    hint text;
BEGIN
    PERFORM pg_background_wait(h.pid, h.cookie + 1);
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RAISE NOTICE '%', hint;
END $$;
SELECT pg_background_detach_all() > 0 AS some;

-- a label by its name
SELECT (pg_background_launch(sql => 'SELECT 1', label => 'a')).pid > 0 AS launched;
SELECT pg_background_launch_v2('SELECT 1', label => 'b') IS NOT NULL AS launched;
SELECT pg_background_submit('SELECT 1', label => 'c') IS NOT NULL AS launched;
SELECT pg_background_submit_v2('SELECT 1', queue_size => 65536, label => 'd') IS NOT NULL AS launched;
SELECT pg_background_submit_on_commit('SELECT 1', label => 'e');
SELECT label, state FROM pg_background_run('SELECT 1', label => 'f');
SELECT n FROM pg_background_run_query('SELECT 1', label => 'g') AS (n int);
SELECT label FROM pg_background_list ORDER BY label;
-- It shows in the server's view.
SELECT a FROM pg_background_run_query('SELECT current_setting(''application_name'')', label => 'shown') AS (a text);
SELECT a = current_setting('application_name') AS as_before
FROM pg_background_run_query('SELECT current_setting(''application_name'')') AS (a text);
-- 64 bytes, and no more
SELECT length(label) FROM pg_background_run('SELECT 1', label => repeat('x', 64));
SELECT pg_background_run('SELECT 1', label => repeat('x', 65));
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_detach_all() > 0 AS some;

-- A PID is still a handle: in variables, arrays, tables and comparisons. Jobs whose
-- PIDs are known have processes of their own.
CREATE TEMP TABLE pids (pid int);
DO $$
DECLARE
    a int := pg_background_launch('SELECT 1');
    b int;
    c int[];
BEGIN
    WHILE EXISTS (SELECT FROM pg_background_list WHERE pid = a AND state <> 'stopped') LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    SELECT pg_background_launch('SELECT 2') INTO b;
    WHILE EXISTS (SELECT FROM pg_background_list WHERE pid = b AND state <> 'stopped') LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    c[1] := pg_background_launch('SELECT 3');
    INSERT INTO pids SELECT pg_background_launch('SELECT 4');
    RAISE NOTICE '% % %', a <> b, b <> c[1], pg_background_launch('SELECT 5') > 0;
    RAISE NOTICE '%', (SELECT n FROM pg_background_result(b) AS (n int));
    RAISE NOTICE '%', (SELECT n FROM pg_background_result(a) AS (n int));
    RAISE NOTICE '%', (SELECT n FROM pg_background_result(c[1]) AS (n int));
    RAISE NOTICE '%', (SELECT n FROM pids, pg_background_result(pid) AS (n int));
END $$;
SELECT n FROM pg_background_result(pg_background_launch('SELECT 6')) AS (n int);
SELECT pg_background_launch('SELECT 7') AS pid \gset
SELECT n FROM pg_background_result(:pid) AS (n int);
SELECT pg_background_launch('SELECT 8') AS pid \gset
SELECT pg_background_detach(:pid);
SELECT pg_background_detach_all() > 0 AS some;

-- An autonomous transaction is one call.
CREATE TABLE audit (n int PRIMARY KEY, t text);
BEGIN;
SELECT pg_background_exec('INSERT INTO audit SELECT g, ''g'' FROM generate_series(1, 3) g');
SELECT pg_background_exec('INSERT INTO audit VALUES ($1, $2)', 4, 'it''s');
SELECT pg_background_exec('UPDATE audit SET t = $2 WHERE n > $1::int', 2::int8, NULL::text);
ROLLBACK;
TABLE audit;
SELECT pg_background_exec('SELECT 1 FROM audit'), pg_background_exec('CREATE TABLE more ()'), pg_background_exec('');
SELECT pg_background_exec('DROP TABLE more');
-- with parameters of which the client leaves the types open
PREPARE untyped AS SELECT pg_background_exec('INSERT INTO audit VALUES ($1::int, $2)', $1, $2);
EXECUTE untyped ('5', 'five');
PREPARE untyped_rows AS SELECT * FROM pg_background_query('SELECT n, t FROM audit WHERE t = $1', $1) AS (n int, t text);
EXECUTE untyped_rows ('five');
-- what it raises, is raised
SELECT pg_background_exec('INSERT INTO audit VALUES ($1, $2)', 1, 'again');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_exec(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_query('SELECT 1 / $1', 0) AS (n int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_query('SELECT n FROM audit WHERE n > $1 ORDER BY n', 3) AS (n int);
SELECT * FROM pg_background_query('SELECT count(*) FROM audit') AS (n int8);
SELECT * FROM pg_background_query('SELECT count(*) FROM audit');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_query('DELETE FROM audit') AS (tag text);
SELECT count(*) FROM pg_background_list;

-- limits
SET pg_background.default_queue_size = 64;
SELECT n FROM pg_background_query('SELECT 9') AS (n int);
\set VERBOSITY sqlstate
SET pg_background.default_queue_size = 63;
\set VERBOSITY default
RESET pg_background.default_queue_size;
SET pg_background.launch_timeout = 0;
SET pg_background.max_workers = 1;
SELECT pg_background_launch('SELECT pg_sleep(3600)') IS NOT NULL AS launched;
SELECT pg_background_launch('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_cancel_all();
RESET pg_background.launch_timeout;
RESET pg_background.max_workers;
SELECT pg_background_report_progress(50);
\echo :LAST_ERROR_SQLSTATE

-- drain forgets what has ended; what is no handle is none
SELECT pg_background_cancel_by_label(NULL);
SELECT pg_background_wait_any(ARRAY[(0, 0)::pg_background_handle]) IS NULL AS none;
UPDATE handle SET h = pg_background_submit('SELECT 1');
SELECT d.state, d.command_tag FROM handle, pg_background_drain(ARRAY[h, h, NULL]) d;
SELECT d.state FROM handle, pg_background_drain(ARRAY[h]) d;
SELECT pg_background_detach_all() > 0 AS some;

DROP TABLE audit;
DROP TABLE handle;
DROP EXTENSION pg_background;
