-- A job that waits for a lock of the session that waits for the job. Known
-- failure 3: nobody noticed, and both waited for ever.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never
SET deadlock_timeout = '10ms';
-- Nothing here hangs for ever, whatever is broken.
SET statement_timeout = '1min';
CREATE TABLE item (id int PRIMARY KEY, n int);
INSERT INTO item VALUES (1, 0), (2, 0);

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
    RAISE NOTICE 'state: %', (SELECT state FROM pg_background_list WHERE cookie = h.cookie);
    PERFORM pg_background_detach_v2(h.pid, h.cookie);

    h := pg_background_launch_v2(sql);
    FOR line IN SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', h.pid, h.cookie)) LOOP
        RAISE NOTICE 'result: %', line;
    END LOOP;
    IF h.pid IN (SELECT pid FROM pg_background_list) THEN
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
SELECT state, last_error FROM pg_background_list ORDER BY state;
SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_list;

SELECT count(*) AS jobs FROM pg_background_list;
DROP EXTENSION pg_background;
DROP TABLE item;
