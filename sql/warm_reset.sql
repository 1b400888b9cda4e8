-- Warm workers: nothing that a job has done to its session is there for the next
-- job in the same process, but what others have done to the database is.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

-- The context of an error or notice names a PID.
\set SHOW_CONTEXT never

-- Whatever the server's settings are; no process ends but by what is tested.
SET pg_background.max_idle_workers = -1;
SET pg_background.idle_timeout = '1h';

-- What an expression gives after some commands, and what it gives to the next
-- job, which runs in the same process.
CREATE FUNCTION compare(commands text, expression text,
                        OUT during text, OUT afterwards text) LANGUAGE plpgsql AS $$
DECLARE
    look text := format('SELECT (%s)::text || ''|'' || pg_backend_pid()', expression);
    first text := run(commands || '; ' || look);
    second text := run(look);
BEGIN
    IF split_part(first, '|', 2) <> split_part(second, '|', 2) THEN
        RAISE 'not in the same process';
    END IF;
    during := split_part(first, '|', 1);
    afterwards := split_part(second, '|', 1);
END $$;

-- What an expression gives, or what error
CREATE FUNCTION try(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE 'SELECT ' || expression INTO result;
    RETURN result;
EXCEPTION WHEN others THEN
    RETURN sqlstate;
END $$;

--
-- The state of the session
--

SELECT * FROM compare('PREPARE p AS SELECT 1', 'SELECT count(*) FROM pg_prepared_statements');
SELECT * FROM compare('BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT', 'SELECT count(*) FROM pg_cursors');
SELECT * FROM compare('DO $d$ BEGIN PERFORM pg_advisory_lock(1), pg_advisory_lock(1), pg_advisory_lock_shared(2); END $d$',
    'SELECT count(*) FROM pg_locks WHERE locktype = ''advisory'' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())');
-- they are free for others, then
SELECT pg_try_advisory_lock(1), pg_try_advisory_lock(2);
SELECT pg_advisory_unlock_all();

CREATE SEQUENCE plain;
CREATE SEQUENCE cached CACHE 10;
SELECT * FROM compare('DO $d$ BEGIN PERFORM nextval(''plain''); END $d$', 'SELECT try(''currval(''''plain'''')'')');
SELECT * FROM compare('DO $d$ BEGIN PERFORM nextval(''plain''); END $d$', 'SELECT try(''lastval()'')');
SELECT * FROM compare('SELECT nextval(''cached'')', 'SELECT nextval(''cached'')');

-- LISTEN is nothing that a background process can do.
SELECT run('LISTEN channel');
\echo :LAST_ERROR_SQLSTATE
SELECT run('SELECT count(*)::text FROM pg_listening_channels()');

-- a plan with a function call that was replaced by its result
CREATE FUNCTION frozen() RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT current_setting('regress.thaw') $$;
CREATE FUNCTION plan() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN frozen(); END $$;
SET regress.thaw = 'launcher';
SELECT * FROM compare('SET regress.thaw = ''job''', 'SELECT plan()');
RESET regress.thaw;

-- a transaction left open, or failed
CREATE TABLE noted (note text);
SELECT * FROM compare('BEGIN; SAVEPOINT s; LOCK TABLE noted IN ACCESS SHARE MODE', 'SELECT count(*) FROM pg_locks WHERE relation = ''noted''::regclass AND pid = pg_backend_pid() AND mode = ''AccessShareLock''');
SELECT * FROM compare('BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT current_setting(''transaction_isolation'')');
SELECT has_error, sqlstate FROM pg_background_run_v2('BEGIN; INSERT INTO noted VALUES (''in an open transaction'')');
SELECT * FROM compare('SELECT 1', 'SELECT pg_current_xact_id_if_assigned() IS NOT NULL');
SELECT count(*) FROM noted;
SELECT run('SELECT pg_backend_pid()::text') AS pid \gset
SELECT run('BEGIN; INSERT INTO noted VALUES (''in a failed transaction''); SELECT 1 / 0');
SELECT run('SELECT concat_ws('' '', pg_backend_pid() = ' || :pid || ', (SELECT count(*) FROM noted))');

-- a replication origin
SELECT pg_replication_origin_create('regress_' || current_database()) IS NULL;
SELECT run('SELECT format(''%s %s'', pg_replication_origin_session_setup(''regress_'' || current_database()),
                                     pg_replication_origin_session_is_setup())');
SELECT run('SELECT pg_replication_origin_session_is_setup()::text');
CREATE FUNCTION drop_origin() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        BEGIN
            PERFORM pg_replication_origin_drop('regress_' || current_database());
            RETURN 'dropped';
        EXCEPTION WHEN object_in_use THEN
            PERFORM pg_sleep(0.01);
        END;
    END LOOP;
    RETURN 'still in use';
END $$;
SELECT drop_origin();

-- a temporary replication slot
SELECT * FROM compare('SELECT pg_create_physical_replication_slot(''regress_slot'', true, true)',
    'SELECT count(*) FROM pg_replication_slots WHERE slot_name = ''regress_slot''');

-- temporary tables, the process of which is gone
SELECT run('CREATE TEMP TABLE temporary AS SELECT 1; SELECT to_regclass(''temporary'')::text');
SELECT run('SELECT to_regclass(''temporary'')::text') IS NULL AS gone;

-- what it knew as a launcher; its jobs go on
SELECT pg_advisory_lock(1);
SELECT * FROM compare('DO $d$ BEGIN PERFORM pg_background_launch_v2(''SELECT pg_advisory_lock_shared(1); INSERT INTO noted VALUES (''''by a job of a job'''')''); END $d$',
    'SELECT count(*) FROM pg_background_list');
SELECT * FROM compare('DO $d$ DECLARE h pg_background_handle := pg_background_launch_v2(''SELECT 1''); BEGIN PERFORM pg_background_wait_v2(h.pid, h.cookie); END $d$',
    'SELECT count(*) FROM pg_background_list');
SELECT run('SELECT pg_backend_pid()::text') AS pid \gset
SELECT run('SELECT pid || '', '' || cookie FROM pg_background_launch_v2(''SELECT pg_advisory_lock_shared(1)'')') AS handle \gset
\set VERBOSITY sqlstate
SELECT run('SELECT pg_background_wait_v2(' || :'handle' || ')::text');
SELECT pg_background_wait_v2(:handle);
\set VERBOSITY default
SELECT pg_advisory_unlock(1);

CALL await('count(*) = 1 FROM noted WHERE note = ''by a job of a job''');

-- The state of one job does not depend on that of one that it was launched by.
SELECT * FROM compare('PREPARE p AS SELECT 1', 'SELECT run(''SELECT count(*)::text FROM pg_prepared_statements'')');

--
-- Settings
--

SET work_mem = '7MB';
SET regress.set = 'launcher';
SELECT * FROM compare('SET work_mem = ''5MB''', 'SELECT current_setting(''work_mem'')');
SELECT * FROM compare('RESET work_mem', 'SELECT current_setting(''work_mem'')');
SELECT * FROM compare('RESET ALL', 'SELECT current_setting(''work_mem'') || current_setting(''regress.set'')');
SELECT * FROM compare('BEGIN; SET LOCAL work_mem = ''5MB''', 'SELECT current_setting(''work_mem'')');
SELECT * FROM compare('BEGIN; SET LOCAL work_mem = ''5MB''; COMMIT', 'SELECT current_setting(''work_mem'')');
SELECT * FROM compare('SELECT set_config(''work_mem'', ''5MB'', false)', 'SELECT current_setting(''work_mem'')');
SELECT * FROM compare('UPDATE pg_settings SET setting = 5120 WHERE name = ''work_mem''', 'SELECT current_setting(''work_mem'')');
SELECT * FROM compare('SET regress.set = ''job''', 'SELECT current_setting(''regress.set'')');
SELECT * FROM compare('SET regress.unset = ''job''', 'SELECT current_setting(''regress.unset'', true)');
SELECT * FROM compare('SET application_name = ''job''', 'SELECT current_setting(''application_name'') = ''job''');
SELECT * FROM compare('SET TIME ZONE ''Asia/Kolkata''', 'SELECT current_setting(''timezone'') = ''Asia/Kolkata''');
SELECT * FROM compare('SET datestyle = ''German''', 'SELECT current_setting(''datestyle'')');
SELECT * FROM compare('SET statement_timeout = ''1h''', 'SELECT current_setting(''statement_timeout'')');
SELECT * FROM compare('SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE; COMMIT',
    'SELECT current_setting(''transaction_read_only'') || current_setting(''transaction_isolation'')');
SELECT * FROM compare('SET TRANSACTION READ ONLY', 'SELECT current_setting(''transaction_read_only'')');
SELECT * FROM compare('SET client_encoding = ''LATIN1''', 'SELECT current_setting(''client_encoding'') = getdatabaseencoding()');
SELECT * FROM compare('SET pg_background.max_idle_workers = 0; SET pg_background.idle_timeout = ''2h''',
    'SELECT current_setting(''pg_background.max_idle_workers'') || current_setting(''pg_background.idle_timeout'')');
SELECT * FROM compare('SET log_min_duration_statement = 123456', 'SELECT current_setting(''log_min_duration_statement'')');

-- nor do they hold while the process waits for another job
SELECT run('SET application_name = ''job''; SELECT pg_backend_pid()::text') AS pid \gset
CALL await('application_name = ' || quote_literal(current_setting('application_name')) || ' FROM pg_stat_activity WHERE pid = ' || :pid);
SET pg_background.idle_timeout = '1ms';
SELECT run('SET pg_background.idle_timeout = ''2h''; SELECT pg_backend_pid()::text') AS pid \gset
CALL await('count(*) = 0 FROM pg_stat_activity WHERE pid = ' || :pid);
SET pg_background.idle_timeout = '1h';

-- by a job that fails after that
SELECT run('SELECT pg_backend_pid()::text') AS pid \gset
SELECT run('BEGIN; SET work_mem = ''5MB''; COMMIT; SELECT 1 / 0');
SELECT run('SELECT current_setting(''work_mem'') || (pg_backend_pid() = ' || :pid || ')');

-- What ALTER DATABASE sets is for new sessions, which this is not.
SELECT * FROM compare('ALTER DATABASE ' || current_database() || ' SET regress.database = ''new''', 'SELECT coalesce(nullif(current_setting(''regress.database'', true), ''''), ''none'')');
RESET work_mem;
RESET regress.set;
\c -
SET pg_background.max_idle_workers = -1;
SET pg_background.idle_timeout = '1h';
SELECT * FROM compare('SET regress.database = ''job''', 'SELECT current_setting(''regress.database'', true)');
SELECT * FROM compare('ALTER DATABASE ' || current_database() || ' RESET regress.database', 'SELECT current_setting(''regress.database'', true)');

-- The launcher's changes are all there, also those that it has taken back.
SELECT run('SELECT pg_backend_pid()::text') AS pid \gset
CREATE FUNCTION work_mem(pid int) RETURNS text LANGUAGE sql AS $$
    SELECT run('SELECT current_setting(''work_mem'') || CASE WHEN pg_backend_pid() = ' || pid || ' THEN '''' ELSE '' in another process'' END')
$$;
SET work_mem = '5MB';
SELECT work_mem(:pid);
BEGIN;
SET LOCAL work_mem = '6MB';
SELECT work_mem(:pid);
SAVEPOINT s;
SET work_mem = '7MB';
SELECT work_mem(:pid);
ROLLBACK TO s;
SELECT work_mem(:pid);
COMMIT;
SELECT work_mem(:pid);
ALTER FUNCTION work_mem SET work_mem = '8MB';
SELECT work_mem(:pid);
ALTER FUNCTION work_mem RESET ALL;
SELECT work_mem(:pid);
RESET work_mem;
SELECT work_mem(:pid) = current_setting('work_mem') AS equal;

-- a real number to its last digit
CREATE FUNCTION cost() RETURNS text LANGUAGE sql AS $$
    SELECT run('EXPLAIN SELECT 1');
$$;
SET cpu_tuple_cost = 123456789;
SELECT cost();
SET cpu_tuple_cost = 123456788;
SELECT cost();
RESET cpu_tuple_cost;
SELECT cost();

--
-- Users
--

CREATE ROLE regress_one IN ROLE pgbackground_role;
CREATE ROLE regress_two IN ROLE pgbackground_role;
SELECT * FROM compare('SET ROLE regress_one', 'SELECT current_user = ''regress_one''');
SELECT * FROM compare('SET SESSION AUTHORIZATION regress_one', 'SELECT session_user = ''regress_one'' OR current_user = ''regress_one''');
SELECT * FROM compare('BEGIN; SET LOCAL ROLE regress_one', 'SELECT current_user = ''regress_one''');
SET ROLE regress_one;
SELECT * FROM compare('RESET ROLE', 'SELECT current_user = ''regress_one''');
SELECT * FROM compare('SET ROLE regress_two', 'SELECT current_user');
-- with a setting that the role could not make
SELECT * FROM compare('RESET ROLE; SET log_min_duration_statement = 123456; SET ROLE regress_two',
    'SELECT current_setting(''log_min_duration_statement'') || current_user');
SET SESSION AUTHORIZATION regress_two;
SELECT * FROM compare('RESET SESSION AUTHORIZATION', 'SELECT session_user = ''regress_two''');
RESET SESSION AUTHORIZATION;
SELECT * FROM compare('SELECT', 'SELECT session_user::text = current_user AND current_user <> ''regress_two''');

-- one that a server with CVE-2024-10978 does not go back to
SELECT run('SET ROLE regress_one; COMMIT; BEGIN; SET LOCAL SESSION AUTHORIZATION DEFAULT; ROLLBACK; SELECT 1::text');
SELECT run('SELECT current_user::text') = current_user AS equal;

-- a role of the launcher that the job has dropped
SET ROLE regress_one;
SELECT run('RESET ROLE; DROP OWNED BY regress_one; DROP ROLE regress_one; SET work_mem = ''5MB''; SELECT ''dropped''');
RESET ROLE;
SELECT run('SHOW work_mem') = current_setting('work_mem') AS equal;

-- the same of something else that a setting names
CREATE TEXT SEARCH CONFIGURATION regress_config (COPY = simple);
SET default_text_search_config = 'public.regress_config';
SELECT run('RESET default_text_search_config; DROP TEXT SEARCH CONFIGURATION public.regress_config; SELECT ''dropped''');
RESET default_text_search_config;
SELECT run('SELECT ''a job after that''');

--
-- What others do is there
--

CREATE FUNCTION at(pid int, expression text) RETURNS text LANGUAGE sql AS $$
    SELECT run(format('SELECT (%s)::text || CASE WHEN pg_backend_pid() = %s THEN '''' ELSE '' in another process'' END',
                      expression, pid));
$$;
CREATE TABLE data (a int);
INSERT INTO data VALUES (1);
CREATE FUNCTION release() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'first'; END $$;
CREATE FUNCTION total() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    SELECT string_agg(data::text, ' ') || ' ' || public.release() INTO result FROM data;
    RETURN result;
END $$;
SELECT run('SELECT pg_backend_pid()::text') AS pid \gset
SELECT at(:pid, 'total()');
INSERT INTO data VALUES (2);
SELECT at(:pid, 'total()');
ALTER TABLE data ADD b text DEFAULT 'new';
SELECT at(:pid, 'total()');
ALTER TABLE data ALTER a TYPE numeric(5, 1);
SELECT at(:pid, 'total()');
CREATE OR REPLACE FUNCTION release() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'second'; END $$;
SELECT at(:pid, 'total()');
TRUNCATE data;
SELECT at(:pid, 'coalesce(total(), ''none'')');
DROP TABLE data;
SELECT at(:pid, 'try(''total()'')');
CREATE TABLE data AS SELECT 'another table' AS c;
SELECT at(:pid, 'total()');
DROP FUNCTION release;
SELECT at(:pid, 'try(''total()'')');
CREATE FUNCTION release() RETURNS int LANGUAGE sql AS $$ SELECT 3 $$;
SELECT at(:pid, 'total()');

-- a search path
CREATE SCHEMA hidden;
CREATE TABLE hidden.data AS SELECT 'in the other schema' AS d;
SET search_path = hidden, public;
SELECT at(:pid, 'total()');
SET search_path = public, hidden;
SELECT at(:pid, 'total()');
DROP TABLE public.data;
SELECT at(:pid, 'total()');
RESET search_path;

-- privileges
SET ROLE regress_two;
SELECT at(:pid, 'try(''has_schema_privilege(''''hidden'''', ''''USAGE'''') || (SELECT max(d) FROM hidden.data)'')');
RESET ROLE;
GRANT USAGE ON SCHEMA hidden TO regress_two;
GRANT SELECT ON hidden.data TO regress_two;
SET ROLE regress_two;
SELECT at(:pid, 'try(''has_schema_privilege(''''hidden'''', ''''USAGE'''') || (SELECT max(d) FROM hidden.data)'')');
RESET ROLE;
ALTER TABLE hidden.data ENABLE ROW LEVEL SECURITY;
SET ROLE regress_two;
SELECT at(:pid, 'try(''count(*) FROM hidden.data'')');
RESET ROLE;
SELECT at(:pid, 'try(''count(*) FROM hidden.data'')');
DROP SCHEMA hidden CASCADE;
DROP OWNED BY regress_two;
DROP ROLE regress_two;

-- an update of this very extension
DROP EXTENSION pg_background;
CREATE EXTENSION pg_background VERSION '1.6';
SELECT run('SELECT pg_backend_pid()::text') AS pid \gset
SELECT at(:pid, 'SELECT extversion FROM pg_extension WHERE extname = ''pg_background''');
SELECT at(:pid, 'run(''SELECT ''''a job of a job'''''')');
ALTER EXTENSION pg_background UPDATE TO '1.7';
SELECT at(:pid, 'SELECT extversion FROM pg_extension WHERE extname = ''pg_background''');
SELECT at(:pid, 'run(''SELECT ''''a job of a job'''''')');

DROP EXTENSION pg_background;
DROP FUNCTION compare, try, at, cost, work_mem, frozen, plan, release, total, drop_origin;
DROP TABLE noted;
DROP SEQUENCE plain, cached;
