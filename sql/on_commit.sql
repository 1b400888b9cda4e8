-- Jobs that start when the transaction commits, and only then.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never
\set VERBOSITY terse

-- What the jobs have done, once all of them have ended; then they are forgotten.
-- A job that must not run would be in the list, or in what was done.
CREATE TABLE done (what text);
CREATE FUNCTION was_done(OUT jobs int8, OUT states text, OUT was_done text) LANGUAGE plpgsql AS $$
BEGIN
    CALL await('(SELECT workers_active = 0 FROM pg_background_stats_v2())');
    SELECT count(*), string_agg(DISTINCT state, ', ') INTO jobs, states FROM pg_background_list;
    SELECT string_agg(what, ', ' ORDER BY what COLLATE "C") INTO was_done FROM done;
    PERFORM pg_background_detach_all_v2();
    DELETE FROM done;
END $$;

-- Submits a job that says what it was to do.
CREATE FUNCTION on_commit(what text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_background_submit_on_commit_v2(format('INSERT INTO done VALUES (%L)', what))
$$;
-- All sessions' workers that have, or have had, something to do; and launches so far
CREATE VIEW traces AS
SELECT (SELECT count(*) FROM pg_background_workers WHERE launcher_pid = pg_backend_pid()) AS workers,
       (SELECT count(*) FROM pg_background_list) AS jobs, workers_launched AS launched
FROM pg_background_stats_v2();

--
-- Commit
--

-- nothing before it
BEGIN;
SELECT on_commit('one');
TABLE traces;
COMMIT;
SELECT * FROM was_done();
-- a transaction of one statement
SELECT on_commit('single statement');
SELECT * FROM was_done();
-- the job sees what the transaction has done, and begins after it
BEGIN;
CREATE TABLE made (n int);
INSERT INTO made VALUES (42);
SELECT pg_background_submit_on_commit_v2('INSERT INTO done SELECT n FROM made');
COMMIT;
SELECT * FROM was_done();
-- label, queue size, preview, and what else is known of any job
BEGIN;
SELECT pg_background_submit_on_commit_v2(label => 'the label', queue_size => 12345, sql => 'SELECT 1/0');
COMMIT;
CALL await('(SELECT workers_active = 0 FROM pg_background_stats_v2())');
SELECT queue_size, state, sql_preview, last_error, label, launched_at > clock_timestamp() - interval '1 hour' AS launched_at FROM pg_background_list;
SELECT * FROM was_done();
-- many in one transaction, in the order in which they were submitted
BEGIN;
SELECT count(on_commit('many ' || g)) FROM generate_series(1, 9) g;
COMMIT;
SELECT string_agg(substring(sql_preview FROM 'many \d'), ', ') FROM pg_background_list;
SELECT * FROM was_done();
-- which do not count for max_workers, since nobody has a handle of them
SET pg_background.max_workers = 3;
BEGIN;
SELECT count(on_commit('many ' || g)) FROM generate_series(1, 4) g;
COMMIT;
SELECT * FROM was_done();
RESET pg_background.max_workers;

-- procedures and blocks that commit
DO $$
BEGIN
    FOR i IN 1 .. 6 LOOP
        PERFORM on_commit(i || CASE WHEN i % 2 = 0 THEN ' committed' ELSE ' rolled back' END);
        IF i % 2 = 0 THEN
            COMMIT;
        ELSE
            ROLLBACK;
        END IF;
    END LOOP;
END $$;
SELECT * FROM was_done();
-- a job can do it, too
SELECT has_error FROM pg_background_run_v2('SELECT on_commit(''by a job'')');
SELECT has_error FROM pg_background_run_v2('SELECT on_commit(''by a job that fails''); SELECT 1/0');
CALL await('EXISTS (SELECT FROM done)');
SELECT * FROM was_done();

--
-- Roll back
--

BEGIN;
SELECT on_commit('never');
ROLLBACK;
TABLE traces \gset
BEGIN;
SELECT on_commit('never');
SELECT 1/0;
COMMIT;
-- neither at the next commit
BEGIN;
COMMIT;
SELECT jobs, launched - :launched AS launched FROM traces;
SELECT * FROM was_done();
SELECT on_commit('never'), 1/count(*) FROM done;
SELECT * FROM was_done();

-- to a savepoint
BEGIN;
SELECT on_commit('before');
SAVEPOINT a;
SELECT on_commit('never: after a');
SAVEPOINT b;
SELECT on_commit('never: after b');
ROLLBACK TO a;
SELECT on_commit('after the rollback');
SAVEPOINT c;
SELECT on_commit('never: after c');
ROLLBACK TO c;
ROLLBACK TO c;
RELEASE c;
COMMIT;
SELECT * FROM was_done();
-- released ones are part of the one around them
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
SELECT on_commit('kept 1');
RELEASE c;
SELECT on_commit('kept 2');
RELEASE b;
SAVEPOINT d;
SAVEPOINT e;
SELECT on_commit('never: after e');
RELEASE e;
ROLLBACK TO d;
RELEASE a;
COMMIT;
SELECT * FROM was_done();
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT on_commit('never');
RELEASE b;
ROLLBACK TO a;
COMMIT;
SELECT * FROM was_done();
-- exception blocks
DO $$
BEGIN
    PERFORM on_commit('outside');
    BEGIN
        PERFORM on_commit('in a good block');
        BEGIN
            PERFORM on_commit('never: in a bad block');
            PERFORM 1/0;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM on_commit('in the handler');
        END;
    EXCEPTION WHEN division_by_zero THEN
        PERFORM on_commit('never: no error here');
    END;
    BEGIN
        BEGIN
            PERFORM on_commit('never: in a good block of a bad one');
        EXCEPTION WHEN division_by_zero THEN
            PERFORM on_commit('never: no error here');
        END;
        PERFORM 1/0;
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
END $$;
SELECT * FROM was_done();

--
-- Errors at commit
--

-- of a deferred constraint
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO child VALUES (1);
SELECT on_commit('never');
COMMIT;
SELECT * FROM was_done();
-- of a deferred trigger that submits one, too
CREATE FUNCTION submit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM on_commit('by a trigger ' || NEW.id);
    IF NEW.id < 0 THEN
        RAISE 'negative';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER submit AFTER INSERT ON parent DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION submit();
BEGIN;
INSERT INTO parent VALUES (1), (-1);
COMMIT;
SELECT * FROM was_done();
INSERT INTO parent VALUES (1), (2);
SELECT * FROM was_done();

-- of a serialization failure, which comes later than all else that can fail: the
-- worker is there by then, and must not be handed the job
SELECT pg_advisory_lock(1);
SELECT pid, cookie FROM pg_background_launch_v2($$
    BEGIN ISOLATION LEVEL SERIALIZABLE;
    SELECT count(*) FROM parent WHERE id > 100;
    INSERT INTO child VALUES (1);
    SELECT pg_advisory_xact_lock_shared(1);
    COMMIT$$) \gset
CALL await(format('EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = %s)', :pid));
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM child;
INSERT INTO parent VALUES (101);
SELECT pg_background_submit_on_commit_v2('INSERT INTO done VALUES (''never: not serializable'')');
SELECT pg_advisory_unlock(1);
SELECT pg_background_wait_v2(:pid, :cookie);
COMMIT;
SELECT state FROM pg_background_outcome_v2(:pid, :cookie);
SELECT * FROM was_done();

-- beside those that do count
SET pg_background.max_workers = 1;
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)', 0, 'long') \gset
CREATE TABLE work (n int);
BEGIN;
INSERT INTO work VALUES (1);
SELECT on_commit('one'), on_commit('two');
COMMIT;
SELECT count(*) FROM work;
SELECT count(pg_background_wait_v2_timeout(pid, cookie, 60000)) FROM pg_background_list WHERE label IS NULL;
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT * FROM was_done();
RESET pg_background.max_workers;

-- two-phase commit is refused
BEGIN;
INSERT INTO work VALUES (3);
SELECT on_commit('never');
PREPARE TRANSACTION 'on_commit';
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'on_commit';
-- but for a transaction that has given up its jobs
BEGIN;
SAVEPOINT a;
SELECT on_commit('never');
ROLLBACK TO a;
PREPARE TRANSACTION 'on_commit';
COMMIT PREPARED 'on_commit';
SELECT * FROM was_done();

--
-- Errors at once
--

BEGIN;
SELECT pg_background_submit_on_commit_v2(NULL);
ROLLBACK;
\set VERBOSITY sqlstate
SELECT pg_background_submit_on_commit_v2('SELECT 1', 1);
\set VERBOSITY terse
SELECT pg_background_submit_on_commit_v2('SELECT 1', 0, repeat('x', 65));
-- a syntax error is the job's
SELECT pg_background_submit_on_commit_v2('SELEC 1');
SELECT * FROM was_done();

--
-- Users and settings are those of the call
--

BEGIN;
SET LOCAL work_mem = '777kB';
SET LOCAL TimeZone = 'Asia/Kolkata';
SELECT pg_background_submit_on_commit_v2('INSERT INTO done SELECT current_setting(''work_mem'') || current_setting(''TimeZone'')');
SET LOCAL work_mem = '888kB';
SELECT pg_background_submit_on_commit_v2('INSERT INTO done SELECT current_setting(''work_mem'') || current_setting(''TimeZone'')');
SET work_mem = '999kB';
COMMIT;
CALL await('(SELECT count(*) = 2 FROM done)');
-- the next job has those of the session again, in the same process
SELECT has_error FROM pg_background_run_v2('INSERT INTO done VALUES (current_setting(''work_mem''))');
RESET work_mem;
SELECT * FROM was_done();

CREATE ROLE regress_submitter;
CREATE ROLE regress_owner;
GRANT pgbackground_role TO regress_submitter, regress_owner;
GRANT INSERT ON done TO regress_submitter, regress_owner;
-- SET ROLE
BEGIN;
SET LOCAL ROLE regress_submitter;
SELECT pg_background_submit_on_commit_v2('INSERT INTO done VALUES (current_user)', label => 'by role');
RESET ROLE;
COMMIT;
SELECT user_id::regrole, label FROM pg_background_list;
SELECT * FROM was_done();
-- SECURITY DEFINER
CREATE FUNCTION submit_as_owner() RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = public AS $$
    SELECT pg_background_submit_on_commit_v2('INSERT INTO done VALUES (current_user || '' by '' || current_setting(''search_path''))')
$$;
ALTER FUNCTION submit_as_owner OWNER TO regress_owner;
GRANT EXECUTE ON FUNCTION submit_as_owner TO regress_submitter;
SET ROLE regress_submitter;
BEGIN;
SELECT submit_as_owner();
SELECT pg_background_submit_on_commit_v2('INSERT INTO done VALUES (current_user)');
COMMIT;
RESET ROLE;
SELECT user_id::regrole FROM pg_background_list;
SELECT * FROM was_done();
-- not within a security-restricted operation
CREATE FUNCTION submit_in_index(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM public.pg_background_submit_on_commit_v2('INSERT INTO public.done VALUES (''never'')');
    RETURN n;
END $$;
CREATE INDEX ON work (submit_in_index(n));
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM was_done();

DROP VIEW traces;
DROP EXTENSION pg_background;
DROP FUNCTION was_done, on_commit, submit_in_index, submit_as_owner;
DROP TABLE done, made, parent, child, work;
DROP FUNCTION submit;
REVOKE pgbackground_role FROM regress_submitter, regress_owner;
DROP ROLE regress_submitter, regress_owner;
