-- Errors of jobs, as their launcher gets them.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\pset tuples_only on

-- What reading the result of a job raises.
CREATE FUNCTION raised_by_job(sql text, queue_size int DEFAULT 65536) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT raised(format('SELECT * FROM pg_background_result(pg_background_launch(%L, %s)) AS (tag text)', sql, queue_size));
$$;

-- the job of this is read at the end
CREATE FUNCTION launch_with_limit(sql text) RETURNS int LANGUAGE sql AS 'SELECT pg_background_launch(sql)'
SET statement_timeout = '3s';
SELECT launch_with_limit(repeat('SELECT pg_sleep(0.7); ', 5) || 'SELECT 1') AS limited \gset
ALTER FUNCTION launch_with_limit SET statement_timeout = '50ms';

--
-- known failure 4: every error reaches the launcher with its own SQLSTATE
--

-- with all that it says
SELECT raised_by_job($$DO 'BEGIN RAISE ''the message'' USING ERRCODE = ''PB042'', DETAIL = ''the detail'', HINT = ''the hint''; END'$$);
SELECT raised_by_job('SELECT 1 / 0');
CREATE TABLE parent (id int CONSTRAINT parent_key PRIMARY KEY);
CREATE TABLE child (id int CONSTRAINT child_parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
SELECT raised_by_job('INSERT INTO parent VALUES (1), (1)');
CREATE FUNCTION fails(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    RETURN 1 / n;
END $$;
SELECT raised_by_job('SELECT 1 UNION ALL SELECT fails(0)');

-- also what only a program looks at
DO $$
DECLARE
    s text; t text; c text; d text; k text;
BEGIN
    PERFORM FROM pg_background_result(pg_background_launch($job$DO 'BEGIN
        RAISE EXCEPTION USING MESSAGE = ''m'', SCHEMA = ''s'', TABLE = ''t'', COLUMN = ''c'', DATATYPE = ''d'', CONSTRAINT = ''k'';
    END'$job$)) AS (tag text);
EXCEPTION
    WHEN raise_exception THEN
        GET STACKED DIAGNOSTICS s = SCHEMA_NAME, t = TABLE_NAME, c = COLUMN_NAME, d = PG_DATATYPE_NAME, k = CONSTRAINT_NAME;
        RAISE NOTICE '% % % % %', s, t, c, d, k;
END $$;

-- the place of it is one in the job's string
\set SHOW_CONTEXT never
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1; SELEC 2')) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1, nothing')) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch($$DO 'BEGIN EXECUTE ''SELECT nothing''; END'$$)) AS (n int);

-- when the transaction is to commit
SELECT raised_by_job('INSERT INTO child VALUES (1)');
SELECT raised_by_job('BEGIN; INSERT INTO child VALUES (1); SELECT 1; COMMIT');
SELECT raised_by_job('INSERT INTO child VALUES (1) RETURNING id::text');
SELECT count(*) FROM child;

-- after more rows than the queue holds, read, waited for, and not at all
SELECT raised_by_job('SELECT (1 / (100000 - g))::text FROM generate_series(1, 100000) g', 16384);
SELECT * FROM pg_background_launch_v2('SELECT (1 / (100000 - g))::text FROM generate_series(1, 100000) g', 16384) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, last_error FROM pg_background_list WHERE pid <> :limited;
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (tag text)', :pid, :cookie));
-- whatever columns are expected
SELECT raised($$SELECT * FROM pg_background_result(pg_background_launch('SELECT 1 / 0')) AS (a int8, b text)$$);
-- and where the message is larger than the queue
SELECT * FROM pg_background_launch_v2($$DO 'BEGIN RAISE ''%'', repeat(''x'', 1000000) USING ERRCODE = ''PB042''; END'$$, 256) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, length(last_error) FROM pg_background_list WHERE pid <> :limited;
SELECT left(line, 10), length(line) FROM raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (tag text)', :pid, :cookie)) line LIMIT 1;

-- and once only
SELECT * FROM pg_background_launch_v2('SELECT 1 / 0') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie));

-- of a process that ends
SELECT raised_by_job('SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(3600)') LIMIT 1;
SELECT raised_by_job('SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(3600)') LIMIT 1;
-- and of one that does not get so far as to run the job
SELECT current_database() AS db \gset
ALTER DATABASE :db SET session_preload_libraries = 'nowhere';
SELECT regexp_replace(raised_by_job('SELECT 1'), '"/.*/nowhere"', '"nowhere"');
SELECT pg_background_launch('SELECT 1')::int AS pid \gset
SELECT pg_background_wait_v2(pid, cookie) FROM pg_background_list WHERE pid = :pid;
SELECT state, last_error LIKE 'could not access file%' FROM pg_background_list WHERE pid = :pid;
SELECT pg_background_detach(:pid);
ALTER DATABASE :db RESET session_preload_libraries;

--
-- Time limits of the launcher hold in the job
--

SELECT raised('SELECT * FROM pg_background_result(launch_with_limit(''SELECT 1; SELECT pg_sleep(3600)'')) AS (n int)');
ALTER FUNCTION launch_with_limit RESET ALL SET lock_timeout = '50ms';
BEGIN;
LOCK TABLE parent;
SELECT raised('SELECT * FROM pg_background_result(launch_with_limit(''TABLE parent'')) AS (n int)');
COMMIT;

--
-- COPY to and from the client, which a job has not
--

SELECT raised_by_job('COPY parent TO STDOUT');
SELECT raised_by_job('COPY (SELECT 1) TO STDOUT');
SELECT raised_by_job('INSERT INTO parent VALUES (5); COPY parent FROM STDIN');
SELECT raised_by_job($$DO 'BEGIN COPY parent TO STDOUT; END'$$);
CREATE FUNCTION copies() RETURNS void LANGUAGE sql AS 'COPY parent TO STDOUT';
SELECT raised_by_job('SELECT copies()::text') LIMIT 1;
-- known failure 11: where the job is only waited for, it has failed as well
SELECT * FROM pg_background_launch_v2('COPY parent TO STDOUT') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_submit_v2('INSERT INTO parent VALUES (6); COPY parent FROM STDIN') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, last_error FROM pg_background_list WHERE pid <> :limited;
SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_list WHERE pid <> :limited;
SELECT count(*) FROM parent;

--
-- An anonymous record's type is known to nobody else
--

SELECT * FROM pg_background_launch_v2('SELECT row(1, 2)') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (r record)', :pid, :cookie));
SELECT pg_background_detach_v2(:pid, :cookie);

-- statement_timeout is one of each statement, not of the string
SELECT * FROM pg_background_result(:limited) AS (n int);

-- nothing is left, and the session works
SELECT count(*) AS jobs FROM pg_background_list;
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (n int);

\pset tuples_only off
DROP EXTENSION pg_background;
DROP FUNCTION raised_by_job, fails, launch_with_limit, copies;
DROP TABLE child, parent;
