-- What a session knows of its jobs, and for how long; and what becomes of those
-- that have done less than it looks like.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never

CREATE TABLE done (n int);

--
-- Hardening 9: on-commit jobs do not count for max_workers, be they of many
-- commits or of one
--
DO $$
BEGIN
    FOR i IN 1 .. 40 LOOP
        PERFORM pg_background_submit_on_commit_v2('INSERT INTO done VALUES (' || i || ')');
        COMMIT;
    END LOOP;
END $$;
SELECT count(pg_background_wait_v2(pid, cookie)) FROM pg_background_list;
SELECT count(*), count(DISTINCT n) FROM done;
TRUNCATE done;
SELECT pg_background_detach_all_v2() AS jobs;
SET pg_background.max_workers = 2;
BEGIN;
SELECT count(pg_background_submit_on_commit_v2('INSERT INTO done VALUES (' || i || ')')) FROM generate_series(1, 20) i;
COMMIT;
SELECT count(pg_background_wait_v2(pid, cookie)) FROM pg_background_list;
SELECT count(*), count(DISTINCT n) FROM done;
RESET pg_background.max_workers;
TRUNCATE done;
SELECT pg_background_detach_all_v2() AS jobs;

--
-- Hardening 13: a time-out is not held up by what other jobs say
--
SELECT pid AS loud_pid, cookie AS loud_cookie FROM pg_background_launch_v2('SELECT generate_series(1, 5000000)') \gset
CALL await('EXISTS (SELECT FROM pg_background_list WHERE state = ''running'' AND cookie = ' || :loud_cookie || ')');
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 1);
SELECT state FROM pg_background_list WHERE cookie = :loud_cookie;
SELECT count(*) FROM pg_background_drain_v2(array[(:pid, :cookie)]::pg_background_handle[], 1);
SELECT state FROM pg_background_list WHERE cookie = :loud_cookie;
SELECT pg_background_cancel_all_v2(), pg_background_detach_all_v2();

--
-- Hardening 19: a role's rows are those of who has its privileges
--
CREATE ROLE regress_job_owner;
CREATE ROLE regress_job_admin NOINHERIT;
GRANT regress_job_owner TO regress_job_admin WITH ADMIN OPTION;
GRANT pgbackground_role TO regress_job_owner, regress_job_admin;
SELECT grant_pg_background_privileges('regress_job_admin') AND grant_pg_background_privileges('regress_job_owner') AS granted;
SET ROLE regress_job_owner;
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1') \gset
RESET ROLE;
SET ROLE regress_job_admin;
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie)) FROM (SELECT 1) s;
RESET ROLE;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);

--
-- Hardening 23, Known failure 3: CALL holds no snapshot that a job would wait for
--
CREATE TABLE item AS SELECT generate_series(1, 100) AS n;
CALL pg_background_maintain('{CREATE INDEX CONCURRENTLY item_n ON item (n), REINDEX INDEX CONCURRENTLY item_n, SELECT 1 / 0, VACUUM item}', 1) \gset
SELECT state, has_error, command_tag, sqlstate, error_message FROM unnest(:'outcomes'::pg_background_outcome[]);
SELECT indisvalid FROM pg_index WHERE indexrelid = 'item_n'::regclass;
DO $$
DECLARE
    outcomes pg_background_outcome[];
BEGIN
    CALL pg_background_maintain('{REINDEX INDEX CONCURRENTLY item_n, SELECT 2}', 2, false, false, outcomes);
    RAISE NOTICE '% %', outcomes[1].command_tag, outcomes[2].command_tag;
    COMMIT;
    CALL pg_background_maintain('{SELECT 1 / 0, SELECT 2}', 1, true, false, outcomes);
    RAISE NOTICE '% %', outcomes[1].sqlstate, outcomes[2].state;
    PERFORM FROM item;
END $$;
-- in a transaction it has the snapshot, as anybody
BEGIN;
CALL pg_background_maintain('{SELECT 1}') \gset
SELECT state FROM unnest(:'outcomes'::pg_background_outcome[]);
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM item;
CALL pg_background_maintain('{SELECT 1}') \gset
SELECT state FROM unnest(:'outcomes'::pg_background_outcome[]);
COMMIT;
CALL pg_background_maintain(NULL);
CALL pg_background_maintain('{}');
CALL pg_background_maintain(array[NULL]::text[]);
CALL pg_background_maintain('{SELECT 1}', -1);
-- without, the one that waits for us fails, and the others' outcomes are there
SET deadlock_timeout = '10ms';
SELECT state, sqlstate, command_tag FROM pg_background_run_all_v2('{SELECT 1, REINDEX INDEX CONCURRENTLY item_n, SELECT 1}', 1);
RESET deadlock_timeout;
DROP TABLE item;

--
-- Hardening 24: warnings show, and work that was rolled back is an error
--
SELECT completed, has_error, command_tag, sqlstate, error_message FROM pg_background_run_v2('DO $$ BEGIN RAISE WARNING ''take care''; END $$');
SELECT completed, has_error, command_tag, sqlstate, error_message FROM pg_background_run_v2('DO $$ BEGIN FOR i IN 1 .. 3 LOOP RAISE WARNING ''take care %'', i; END LOOP; END $$');
SELECT has_error, sqlstate, octet_length(error_message) BETWEEN 500 AND 512 AS clipped FROM pg_background_run_v2('DO $$ BEGIN RAISE WARNING ''%'', repeat(''é'', 1000); END $$');
SELECT ordinality, has_error, sqlstate, error_message FROM pg_background_run_all_v2('{COMMIT, SELECT 1, DO $$ BEGIN RAISE WARNING ''take care''; RAISE EXCEPTION ''too late''; END $$}', 1);
SELECT pid, cookie FROM pg_background_launch_v2('DO $$ BEGIN RAISE WARNING ''take care''; END $$') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, has_error, sqlstate, error_message FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_status_v2(:pid, :cookie) ->> 'error_message' AS status, pg_background_error_info_v2(:pid, :cookie) IS NULL AS no_error;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (tag text);
SELECT completed, has_error, command_tag, sqlstate, error_message FROM pg_background_run_v2('BEGIN; INSERT INTO done VALUES (1)');
SELECT count(*) FROM done;

--
-- Hardening 25: DISCARD ALL leaves no jobs to the next client
--
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1') \gset
SELECT pid AS sleeper_pid, cookie AS sleeper_cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
CALL await('EXISTS (SELECT FROM pg_background_list WHERE state = ''running'' AND cookie = ' || :sleeper_cookie || ')');
SELECT pg_background_wait_v2(:pid, :cookie);
DISCARD PLANS;
SELECT count(*) FROM pg_background_list;
DISCARD ALL;
SELECT count(*) FROM pg_background_list;
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid, :cookie)) LIMIT 1;
SELECT workers_launched, workers_completed, workers_active FROM pg_background_stats_v2();
SELECT pg_cancel_backend(:sleeper_pid);
CALL await('NOT EXISTS (SELECT FROM pg_background_workers WHERE pid = ' || :sleeper_pid || ')');
-- submitted jobs that nobody asks for are forgotten, those that have ended first,
-- but for the last thousand
SELECT pid, cookie FROM pg_background_submit_v2('SELECT 1', 0, 'asked for') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state FROM pg_background_outcome_v2(:pid, :cookie);
SELECT count(pg_background_submit_v2('SELECT 1')) FROM generate_series(1, 1100);
DO $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM pg_background_list WHERE state IN ('starting', 'running'));
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SELECT pg_background_submit_v2('SELECT 1') IS NOT NULL AS ok;
SELECT count(*) BETWEEN 1000 AND 1020 AS bounded, count(*) FILTER (WHERE label = 'asked for') AS asked_for FROM pg_background_list;
SELECT pg_background_detach_all_v2() > 1000 AS detached;

SELECT revoke_pg_background_privileges('regress_job_admin') AND revoke_pg_background_privileges('regress_job_owner') AS revoked;
DROP EXTENSION pg_background;
REVOKE ALL ON SCHEMA public FROM regress_job_admin, regress_job_owner;
DROP ROLE regress_job_owner, regress_job_admin;
DROP TABLE done;
