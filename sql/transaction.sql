-- A job's transaction is its own, whatever becomes of the launcher's.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- The context of an error or notice names a PID.
\set SHOW_CONTEXT never

CREATE TABLE audit (entry text PRIMARY KEY);

--
-- The transaction
--

-- a job's transaction is its own: it sees nothing of the launcher's, and stays
-- when that one is rolled back
TRUNCATE audit;
BEGIN;
INSERT INTO audit VALUES ('of the launcher');
SELECT * FROM tags('INSERT INTO audit VALUES (''of the job'')');
SELECT * FROM pg_background_result(pg_background_launch('SELECT count(*) FROM audit')) AS (count int8);
SELECT entry FROM audit ORDER BY 1;
ROLLBACK;
SELECT entry FROM audit;

-- several statements are one transaction
SELECT * FROM tags('INSERT INTO audit VALUES (''undone''); SELECT 1 / 0');
SELECT * FROM pg_background_result(pg_background_launch(
    'INSERT INTO audit VALUES (''one''); SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM audit WHERE entry = ''one'' UNION ALL SELECT pg_current_xact_id()::xid) x')) AS (transactions int8);
-- and end where the string says so
SELECT * FROM tags('INSERT INTO audit VALUES (''two''); COMMIT; INSERT INTO audit VALUES (''undone''); SELECT 1 / 0');
SELECT * FROM tags('BEGIN; INSERT INTO audit VALUES (''three''); COMMIT; BEGIN; INSERT INTO audit VALUES (''undone''); ROLLBACK');
SELECT * FROM tags('BEGIN ISOLATION LEVEL SERIALIZABLE; SAVEPOINT s; INSERT INTO audit VALUES (''undone''); ROLLBACK TO s; INSERT INTO audit VALUES (''four''); RELEASE s; COMMIT AND CHAIN; ROLLBACK');
SELECT entry FROM audit ORDER BY 1;

-- one that is left open is rolled back, which is an error where it has done
-- something (Hardening 24), and a warning else
SELECT * FROM tags('BEGIN; INSERT INTO audit VALUES (''undone'')');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_result(pg_background_launch('BEGIN; SELECT 1')) AS (n int);
SELECT count(*) FROM audit WHERE entry = 'undone';

-- one that has failed can only end
SELECT * FROM tags('BEGIN; SELECT 1 / 0; SELECT 1; COMMIT');
\echo :LAST_ERROR_SQLSTATE

-- two phases
SELECT * FROM tags('BEGIN; INSERT INTO audit VALUES (''five''); PREPARE TRANSACTION ''regress_job''');
SELECT count(*) FROM audit WHERE entry = 'five';
SELECT * FROM tags('COMMIT PREPARED ''regress_job''');
SELECT count(*) FROM audit WHERE entry = 'five';

-- procedures and DO blocks that end transactions
TRUNCATE audit;
CREATE PROCEDURE commits(INOUT times int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. times LOOP
        INSERT INTO audit VALUES ('committed ' || i);
        COMMIT;
        INSERT INTO audit VALUES ('rolled back ' || i);
        ROLLBACK;
    END LOOP;
    times := 0;
END $$;
SELECT * FROM pg_background_result(pg_background_launch('CALL commits(2)')) AS (times int);
SELECT * FROM tags($$DO 'BEGIN INSERT INTO audit VALUES (''done''); COMMIT; PERFORM 1 / 0; END'$$);
SELECT entry FROM audit ORDER BY 1;
-- but not where they are only a part of the string
TRUNCATE audit;
SELECT * FROM tags('SELECT 1; CALL commits(2)');
\echo :LAST_ERROR_SQLSTATE
DROP PROCEDURE commits;

-- commands that want no transaction around them
CREATE TABLE item (n int);
SELECT * FROM tags('VACUUM item');
-- (these wait for every older snapshot, so they are not waited for by a query)
SELECT * FROM pg_background_launch_v2('CREATE INDEX CONCURRENTLY item_n ON item (n)') \gset
CALL await('bool_and(state NOT IN (''starting'', ''running'')) FROM pg_background_list', commits => true);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (tag text);
SELECT * FROM pg_background_launch_v2('REINDEX INDEX CONCURRENTLY item_n') \gset
CALL await('bool_and(state NOT IN (''starting'', ''running'')) FROM pg_background_list', commits => true);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (tag text);
SELECT * FROM tags('CREATE DATABASE regress_made TEMPLATE template0');
SELECT * FROM tags('DROP DATABASE regress_made');
SELECT * FROM tags('SELECT 1; VACUUM item');
\echo :LAST_ERROR_SQLSTATE
SELECT indisvalid FROM pg_index WHERE indexrelid = 'item_n'::regclass;
DROP TABLE item;

--
-- The end of the launcher's transaction
--

-- known failure 9: a rollback leaves jobs, errors, rows and handles as they are,
-- in memory and in temporary files
SET work_mem = '64kB';
BEGIN;
SELECT pid AS pid1, cookie AS cookie1 FROM pg_background_launch_v2('SELECT g FROM generate_series(1, 10000) g') \gset
SAVEPOINT s;
SELECT pid AS pid2, cookie AS cookie2 FROM pg_background_launch_v2('SELECT 1 / 0') \gset
SELECT pg_background_wait_v2(:pid2, :cookie2);
-- what is kept of this one was received in a subtransaction
SELECT pg_background_wait_v2(:pid1, :cookie1);
SELECT pid AS pid3, cookie AS cookie3 FROM pg_background_launch_v2('SELECT 3') \gset
ROLLBACK TO s;
SELECT state, last_error FROM pg_background_list WHERE cookie IN (:cookie1, :cookie2);
SELECT pid AS pid4, cookie AS cookie4 FROM pg_background_launch_v2('SELECT 4') \gset
SELECT 1 / 0;
SELECT * FROM pg_background_result_v2(:pid4, :cookie4) AS (n int);
ROLLBACK;
SELECT count(*) AS jobs FROM pg_background_list;
SELECT count(*), sum(n) FROM pg_background_result_v2(:pid1, :cookie1) AS (n int);
SELECT * FROM pg_background_result_v2(:pid2, :cookie2) AS (n int);
SELECT * FROM pg_background_result_v2(:pid3, :cookie3) AS (n int);
SELECT * FROM pg_background_result_v2(:pid4, :cookie4) AS (n int);

-- launched where the abort is already on its way: in a block that fails, and in
-- one that swallows the failure
DO $$
BEGIN
    PERFORM pg_background_launch_v2('SELECT 5');
    RAISE EXCEPTION 'failed';
END $$;
DO $$
BEGIN
    PERFORM pg_background_launch_v2('SELECT 6');
    PERFORM 1 / 0;
EXCEPTION
    WHEN division_by_zero THEN
        RAISE NOTICE 'swallowed';
END $$;
SELECT r.n FROM pg_background_list, LATERAL pg_background_result_v2(pid, cookie) AS r(n int);
SELECT count(*) AS jobs FROM pg_background_list;

DROP EXTENSION pg_background;
DROP TABLE audit;
