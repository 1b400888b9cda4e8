-- A job that waits for a lock of the session that waits for the job. Known
-- failure 3: nobody noticed, and both waited for ever.

CREATE EXTENSION pg_background;
\set SHOW_CONTEXT never
SET deadlock_timeout = '10ms';
-- Nothing here hangs for ever, whatever is broken.
SET statement_timeout = '1min';
CREATE TABLE item (id int PRIMARY KEY, n int);
INSERT INTO item VALUES (1, 0), (2, 0);

CREATE TEMP VIEW list AS
SELECT * FROM pg_background_list_v2()
AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
    state text, sql_preview text, last_error text, consumed bool);

\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/await.sql
\set ECHO all

-- What a statement raises. Any PID, size and so on is shown as N; of the context
-- there is what the job adds to it.
CREATE FUNCTION raised(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text; context text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'nothing';
EXCEPTION
    WHEN OTHERS OR query_canceled THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
            detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
        RETURN QUERY
            SELECT regexp_replace(kind || ': ' || line, '(least|exceed|PID|pid) -?\d+', '\1 N', 'g')
            FROM (VALUES (1, state, message), (2, 'DETAIL', detail), (3, 'HINT', hint),
                         (4, 'CONTEXT', substring(context FROM '^.*background worker, pid \d+'))) v (n, kind, line)
            WHERE line <> '' ORDER BY n;
END $$;

-- What waiting for a job raises, and reading its result.
CREATE PROCEDURE pg_temp.wait_for(sql text) LANGUAGE plpgsql AS $$
DECLARE
    h pg_background_handle := pg_background_launch_v2(sql);
    line text;
BEGIN
    FOR line IN SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', h.pid, h.cookie)) LOOP
        RAISE NOTICE 'wait: %', line;
    END LOOP;
    -- it has been canceled, which may take a moment
    PERFORM pg_background_wait_v2_timeout(h.pid, h.cookie, 60000);
    RAISE NOTICE 'state: %', (SELECT state FROM list WHERE cookie = h.cookie);
    PERFORM pg_background_detach_v2(h.pid, h.cookie);

    h := pg_background_launch_v2(sql);
    FOR line IN SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', h.pid, h.cookie)) LOOP
        RAISE NOTICE 'result: %', line;
    END LOOP;
    IF h.pid IN (SELECT pid FROM list) THEN
        PERFORM pg_background_wait_v2_timeout(h.pid, h.cookie, 60000);
    END IF;
    FOR line IN SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', h.pid, h.cookie)) LIMIT 1 LOOP
        RAISE NOTICE 'result again: %', line;
    END LOOP;
END $$;

--
-- Directly: a row, a table, an advisory lock
--

BEGIN;
UPDATE item SET n = 1 WHERE id = 1;
CALL pg_temp.wait_for('UPDATE item SET n = 2 WHERE id = 1 RETURNING n');
SELECT pg_background_launch('UPDATE item SET n = 2 WHERE id = 1')::int AS pid \gset
SELECT raised('SELECT * FROM pg_background_result(' || :pid || ') AS (tag text)');
SELECT pg_background_detach(:pid);
-- the transaction goes on, where the error was caught
UPDATE item SET n = 3 WHERE id = 1;
COMMIT;
SELECT * FROM item ORDER BY id;

BEGIN;
LOCK TABLE item;
CALL pg_temp.wait_for('SELECT n FROM item');
ROLLBACK;

SELECT pg_advisory_lock(1);
CALL pg_temp.wait_for('SELECT 1 FROM pg_advisory_xact_lock(1)');
SELECT pg_advisory_unlock(1);

-- a wait with a limit of its own ends with that
BEGIN;
LOCK TABLE item;
SELECT * FROM pg_background_launch_v2('SELECT n FROM item WHERE id = 1') \gset
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 100);
COMMIT;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);

--
-- Through others
--

-- another job, which holds the lock that this one waits for
BEGIN;
UPDATE item SET n = 4 WHERE id = 1;
SELECT pid AS pid1, cookie AS cookie1 FROM pg_background_launch_v2('UPDATE item SET n = 5 WHERE id = 2; UPDATE item SET n = 5 WHERE id = 1') \gset
CALL await('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = ' || :pid1 || ')');
CALL pg_temp.wait_for('UPDATE item SET n = 6 WHERE id = 2 RETURNING n');
COMMIT;
SELECT * FROM pg_background_result_v2(:pid1, :cookie1) AS (tag text);
SELECT * FROM item ORDER BY id;

-- a job of a job: what the inner one waits for is held by the session that waits
-- for the outer one
BEGIN;
UPDATE item SET n = 7 WHERE id = 1;
CALL pg_temp.wait_for('SELECT n FROM pg_background_result(pg_background_launch(''UPDATE item SET n = 8 WHERE id = 1 RETURNING n'')) AS (n int)');
ROLLBACK;

--
-- CREATE INDEX CONCURRENTLY waits for every snapshot that is older
--

BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM item;
CALL pg_temp.wait_for('CREATE INDEX CONCURRENTLY ON item (n)');
COMMIT;

--
-- What is none
--

-- a wait for one that goes on, however long it takes
SELECT pid AS pid1, cookie AS cookie1 FROM pg_background_launch_v2('SELECT pg_advisory_xact_lock(2); SELECT pg_sleep(0.2)') \gset
CALL await('EXISTS (SELECT FROM pg_locks WHERE locktype = ''advisory'' AND pid = ' || :pid1 || ')');
SELECT * FROM pg_background_launch_v2('SELECT 1 FROM pg_advisory_xact_lock(2)') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT pg_background_detach_v2(:pid1, :cookie1);

-- one of two jobs is found by the server, and raised in one of them
SELECT pg_advisory_lock(3);
SELECT pid AS pid1, cookie AS cookie1 FROM pg_background_launch_v2(
    'SELECT pg_advisory_xact_lock(1); SELECT pg_advisory_xact_lock_shared(3); SELECT pg_advisory_xact_lock(2)') \gset
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2(
    'SELECT pg_advisory_xact_lock(2); SELECT pg_advisory_xact_lock_shared(3); SELECT pg_advisory_xact_lock(1)') \gset
CALL await(format('count(*) = 2 FROM pg_locks WHERE NOT granted AND objid = 3 AND pid IN (%s, %s)', :pid1, :pid2));
SELECT pg_advisory_unlock(3);
SELECT pg_background_wait_v2(:pid1, :cookie1);
SELECT pg_background_wait_v2(:pid2, :cookie2);
SELECT state, last_error FROM list ORDER BY state;
SELECT pg_background_detach_v2(pid, cookie) FROM list;

SELECT count(*) AS jobs FROM list;
DROP EXTENSION pg_background CASCADE;
DROP FUNCTION raised;
DROP TABLE item;
DROP PROCEDURE await;
