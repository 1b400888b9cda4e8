-- Launching jobs, and what comes back.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- The context of an error or notice names a PID.
\set SHOW_CONTEXT never

CREATE TABLE audit (entry text);

--
-- known failure 6: on a server with assertions, every job here would fail one of
-- them, or none (resource owners, the security context of a transaction)
-- known failure 1: the session ends, or detaches, at once after the launch
--

SELECT pg_background_launch('INSERT INTO audit VALUES (''session ended, v1'')')::int AS pid \gset
\c -
SELECT * FROM pg_background_launch_v2('INSERT INTO audit VALUES (''session ended, v2'')') \gset
\c -

DO $$
DECLARE
    h pg_background_handle;
BEGIN
    FOR i IN 1 .. 5 LOOP
        PERFORM pg_background_detach(pg_background_launch('INSERT INTO audit VALUES (''detached, v1'')'));
        h := pg_background_launch_v2('INSERT INTO audit VALUES (''detached, v2'')');
        PERFORM pg_background_detach_v2(h.pid, h.cookie);
        h := pg_background_submit_v2('INSERT INTO audit VALUES (''detached, submitted'')');
        PERFORM pg_background_detach_v2(h.pid, h.cookie);
    END LOOP;
END $$;
CALL await('count(*) = 17 FROM audit');
SELECT entry, count(*) FROM audit GROUP BY 1 ORDER BY 1;

--
-- v1: the handle is a PID
--

SELECT * FROM pg_background_result(pg_background_launch('SELECT 1, ''one''::text'))
    AS (n int, t text);
SELECT pg_background_launch('SELECT g FROM generate_series(1, 3) g', 65536)::int AS pid \gset
SELECT * FROM pg_background_result(:pid) AS (n int);

-- one that is detached while it runs goes on
BEGIN;
LOCK TABLE audit;
SELECT pg_background_launch('INSERT INTO audit VALUES (''detached late'')')::int AS pid \gset
DO $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        IF EXISTS (SELECT FROM pg_locks WHERE relation = 'audit'::regclass AND NOT granted) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE EXCEPTION 'the job does not wait for the lock';
END $$;
SELECT pg_background_detach(:pid);
COMMIT;
CALL await($$EXISTS (SELECT FROM audit WHERE entry = 'detached late')$$);
SELECT count(*) AS jobs FROM pg_background_list;

--
-- v2: the handle is a PID and a cookie
--

SELECT pid > 0 AS has_pid, cookie <> 0 AS has_cookie,
       pg_typeof(h)::text LIKE '%pg_background_handle' AS is_handle
FROM pg_background_launch_v2('SELECT 1') h;
SELECT l.*, pg_background_detach_v2(pid, cookie) AS detach
FROM (SELECT count(*) AS jobs FROM pg_background_list) l, pg_background_list;
SELECT count(*) AS jobs FROM pg_background_list;

SELECT * FROM pg_background_launch_v2(sql => 'SELECT 1, ''one''::text', queue_size => 4096) \gset
SELECT * FROM pg_background_result_v2(pid => :pid, cookie => :cookie) AS (n int, t text);

-- submitted: it runs, its rows go nowhere
SELECT * FROM pg_background_submit_v2('INSERT INTO audit VALUES (''submitted'') RETURNING *') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT entry FROM audit WHERE entry = 'submitted';
SELECT pg_background_detach_v2(:pid, :cookie);

-- a result is read once
SELECT * FROM pg_background_launch_v2('SELECT 1') \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
\set VERBOSITY sqlstate
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_launch('SELECT 1')::int AS pid \gset
SELECT * FROM pg_background_result(:pid) AS (n int);
SELECT * FROM pg_background_result(:pid) AS (n int);
\set VERBOSITY default

-- strict functions do nothing for NULL
SELECT pg_background_launch(NULL), pg_background_launch_v2(NULL), pg_background_submit_v2(NULL),
       pg_background_launch('SELECT 1', NULL), pg_background_launch_v2('SELECT 1', NULL);
SELECT * FROM pg_background_result(NULL::int) AS (n int);
SELECT count(*) AS jobs FROM pg_background_list;

--
-- What comes back: the rows of the last statement, or the commands' tags
--

TRUNCATE audit;
SELECT * FROM tags('INSERT INTO audit VALUES (''a''), (''b'')');
SELECT * FROM tags('UPDATE audit SET entry = entry || entry; DELETE FROM audit WHERE entry = ''aa''');
SELECT * FROM tags('CREATE TABLE made (n int); COPY made FROM PROGRAM ''echo 1''; DROP TABLE made');
SELECT * FROM tags('CREATE TABLE made AS SELECT 1 AS n; SELECT n INTO made2 FROM made; DROP TABLE made, made2');
SELECT * FROM tags('BEGIN; SAVEPOINT s; ROLLBACK TO s; COMMIT');
SELECT * FROM tags('SET work_mem = ''1MB''; RESET work_mem; NOTIFY x; DISCARD PLANS');

-- rows, of the last statement only
SELECT * FROM pg_background_result(pg_background_launch('INSERT INTO audit VALUES (''c''); SELECT count(*) FROM audit')) AS (count int8);
SELECT * FROM pg_background_result(pg_background_launch('SELECT ''other'', 2, 3; SELECT 1')) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch('UPDATE audit SET entry = ''d'' WHERE entry = ''c'' RETURNING entry, length(entry)')) AS (entry text, length int);
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1 WHERE false')) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch('VALUES (1, true), (2, NULL)')) AS (n int, b bool);
SELECT * FROM pg_background_result(pg_background_launch('TABLE audit')) AS (entry text) ORDER BY 1;
SELECT * FROM pg_background_result(pg_background_launch('EXPLAIN (COSTS OFF) SELECT 1')) AS (plan text);
SELECT * FROM pg_background_result(pg_background_launch('SHOW server_encoding')) AS (setting text) WHERE setting <> getdatabaseencoding();
SELECT * FROM pg_background_result(pg_background_launch('PREPARE p (int) AS SELECT $1 + 1; EXECUTE p (41)')) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch('BEGIN; DECLARE c CURSOR FOR VALUES (1), (2); FETCH 1 FROM c; MOVE 1 FROM c; FETCH ALL FROM c; COMMIT')) AS (tag text);
SELECT * FROM pg_background_result(pg_background_launch('BEGIN; DECLARE c CURSOR WITH HOLD FOR VALUES (1), (2); COMMIT; FETCH ALL FROM c')) AS (n int);

-- rows that the last statement does not return are no result, whatever came
-- before it
SELECT * FROM tags('SELECT 1; INSERT INTO audit VALUES (''e'')');
SELECT * FROM tags('SELECT 1, 2; SET work_mem = ''1MB''');

-- a rule that makes two results of one command: the last one counts
CREATE TABLE ruled (n int);
CREATE RULE report AS ON INSERT TO ruled DO ALSO SELECT 'ruled', new.n;
SELECT * FROM pg_background_result(pg_background_launch('INSERT INTO ruled VALUES (7)')) AS (t text, n int);
DROP TABLE ruled;

--
-- Notices are raised again, in order, when the result is read
--

SELECT * FROM pg_background_launch_v2($$DO '
BEGIN
    RAISE NOTICE ''first'' USING DETAIL = ''its detail'', HINT = ''its hint'';
    RAISE WARNING ''second, 100%%'';
    RAISE INFO ''third'';
    RAISE DEBUG ''not wanted'';
    RAISE LOG ''not wanted'';
END'; DROP TABLE IF EXISTS nowhere; SELECT 1$$) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SET client_min_messages = error;
SELECT * FROM pg_background_result(pg_background_launch('DROP TABLE IF EXISTS nowhere')) AS (tag text);
RESET client_min_messages;
-- those of a job that fails come before its error
SELECT * FROM tags('DROP TABLE IF EXISTS nowhere; SELECT 1 / 0');

--
-- A job launches jobs
--

SELECT * FROM pg_background_result(pg_background_launch($$
    SELECT n + 1 FROM pg_background_result(pg_background_launch('
        SELECT n * 2 FROM pg_background_result(pg_background_launch(''
            SELECT 10'')) AS (n int)')) AS (n int)$$)) AS (n int);
-- and none of those is known here
SELECT count(*) AS jobs FROM pg_background_list;

DROP EXTENSION pg_background;
DROP TABLE audit;
