-- The settings and users of the launcher hold in the job.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- The context of an error or notice names a PID.
\set SHOW_CONTEXT never


-- Settings as a job sees them.
CREATE FUNCTION settings_of_job(VARIADIC names text[]) RETURNS TABLE (name text, setting text)
LANGUAGE sql AS $$
    SELECT * FROM pg_background_result(pg_background_launch(
        format('SELECT n::text, current_setting(n) FROM unnest(%L::text[]) n', names)))
    AS (name text, setting text);
$$;

SET work_mem = '7MB';
SET timezone = 'Asia/Kolkata';
SET datestyle = 'SQL, DMY';
SET search_path = 'nowhere', public;
SET regress.custom = 'with ''quotes'', \ and	tab';
SET default_transaction_isolation = 'repeatable read';
SELECT * FROM settings_of_job('work_mem', 'timezone', 'datestyle', 'search_path',
                              'regress.custom', 'default_transaction_isolation', 'transaction_isolation');
-- one that is taken away again
RESET regress.custom;
SELECT * FROM pg_background_result(pg_background_launch('SELECT current_setting(''regress.custom'', true) <> ''''')) AS (is_set bool)
WHERE is_set;
RESET ALL;
-- a real number is the same to its last digit
SET jit = off;
SET cpu_tuple_cost = 123456789;
SELECT * FROM pg_background_result(pg_background_launch('EXPLAIN SELECT 1')) AS (plan text);
RESET ALL;

-- those of the transaction, and of a function, too; and then no more
BEGIN;
SET LOCAL work_mem = '9MB';
SELECT * FROM settings_of_job('work_mem');
ROLLBACK;
SELECT * FROM settings_of_job('work_mem');
ALTER FUNCTION settings_of_job SET maintenance_work_mem = '11MB';
SELECT * FROM settings_of_job('maintenance_work_mem');

-- not the kind of the transaction, which the job has no part in
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM settings_of_job('transaction_isolation');
COMMIT;

-- RESET in the job gives what a new session has, and a launcher that does not
-- have that is followed
SELECT current_database() AS db \gset
ALTER DATABASE :db SET work_mem = '3MB';
SELECT * FROM settings_of_job('work_mem');
SET work_mem = '7MB';
-- what it is reset to, is what a process starts with
SET pg_background.max_idle_workers = 0;
SELECT * FROM pg_background_result(pg_background_launch('RESET work_mem; SHOW work_mem')) AS (work_mem text);
SELECT * FROM pg_background_result(pg_background_launch('SET work_mem TO DEFAULT; SHOW work_mem')) AS (work_mem text);
RESET pg_background.max_idle_workers;
SELECT * FROM pg_background_result(pg_background_launch('DISCARD ALL')) AS (tag text);
-- SET LOCAL in the job ends with its transaction
SELECT * FROM pg_background_result(pg_background_launch('BEGIN; SET LOCAL work_mem = ''5MB''; COMMIT; SHOW work_mem')) AS (work_mem text);
ALTER DATABASE :db RESET work_mem;
RESET work_mem;
-- and nothing that a job sets comes back
SELECT * FROM tags('SET work_mem = ''5MB''');
SHOW work_mem;

-- the users, too, and settings that only a superuser can make
CREATE ROLE regress_role;
CREATE ROLE regress_session LOGIN;
GRANT regress_role TO regress_session;
GRANT pgbackground_role TO regress_role, regress_session;
SET log_min_duration_statement = 123456;
SET ROLE regress_role;
SELECT * FROM pg_background_result(pg_background_launch('SELECT current_user::text, session_user <> current_user, current_setting(''log_min_duration_statement'')'))
    AS (role text, other_session_user bool, setting text);
SET SESSION AUTHORIZATION regress_session;
SELECT * FROM pg_background_result(pg_background_launch('SELECT current_user::text, session_user::text'))
    AS (role text, session_role text);
SET ROLE regress_role;
SELECT * FROM pg_background_result(pg_background_launch('SELECT current_user::text, session_user::text'))
    AS (role text, session_role text);
SELECT * FROM pg_background_result(pg_background_launch('RESET ROLE; SELECT current_user::text, session_user::text'))
    AS (role text, session_role text);
RESET SESSION AUTHORIZATION;
RESET ALL;
DROP OWNED BY regress_role, regress_session;
DROP ROLE regress_role, regress_session;

-- temporary tables are not the session's, but the job's own
CREATE TEMP TABLE temporary (n int);
SELECT * FROM tags('TABLE temporary');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_result(pg_background_launch('CREATE TEMP TABLE temporary AS SELECT 5 AS n; TABLE temporary')) AS (n int);
DROP TABLE temporary;

-- a mistake in a setting's name is one, where the server lets an extension say so
DO $$
BEGIN
    SET pg_background.max_idle_worker = 1;
    ASSERT current_setting('server_version_num')::int < 150000;
EXCEPTION WHEN invalid_name THEN
    ASSERT current_setting('server_version_num')::int >= 150000;
END $$;

DROP EXTENSION pg_background;
DROP FUNCTION settings_of_job;
