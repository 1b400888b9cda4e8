-- Errors of the functions themselves: wrong arguments, handles, column lists,
-- and calls where they are not allowed.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\pset tuples_only on

--
-- Launching
--

-- the size of the queue
SELECT raised('SELECT pg_background_launch(''SELECT 1'', -1)');
SELECT raised('SELECT pg_background_launch(''SELECT 1'', 1)');
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'', 1)');
SELECT raised('SELECT pg_background_submit_v2(''SELECT 1'', 1)');
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'', -2147483648)');
SELECT raised('SELECT pg_background_launch_v2(''SELECT 1'', 2147483647)');
SELECT count(*) AS jobs FROM pg_background_list;
-- the least that is allowed is enough
\set VERBOSITY sqlstate
DO $$
DECLARE
    minimum int;
BEGIN
    PERFORM pg_background_launch('SELECT 1', 1);
EXCEPTION
    WHEN invalid_parameter_value THEN
        minimum := substring(sqlerrm FROM '\d+');
        ASSERT (SELECT (count(*), sum(n), sum(length(t))) = (100, 5050, 5050) FROM pg_background_result(
            pg_background_launch('SELECT g, repeat(''x'', g) FROM generate_series(1, 100) g', minimum)) AS (n int, t text));
        RAISE NOTICE 'enough';
        PERFORM pg_background_launch('SELECT 1', minimum - 1);
END $$;
\set VERBOSITY default

-- no command is a job that returns none
SELECT * FROM pg_background_result(pg_background_launch('')) AS (tag text);
SELECT * FROM pg_background_result(pg_background_launch(' ; ;; ')) AS (tag text);
SELECT * FROM pg_background_result(pg_background_launch('-- nothing /* at all')) AS (tag text);

-- a long one
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1 -- ' || repeat(repeat('x', 1000), 20000))) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch(format('SELECT length(%L)', repeat(repeat('x', 1000), 10000)))) AS (n int);

--
-- Handles
--

SELECT pid, cookie, cookie # 1 AS wrong FROM pg_background_launch_v2('SELECT 1') \gset

-- unknown: of nothing, of this very session, of the session before
SELECT raised('SELECT * FROM pg_background_result(0) AS (n int)');
SELECT raised('SELECT pg_background_detach(-1)');
SELECT raised('SELECT pg_background_detach(pg_backend_pid())');
SELECT raised('SELECT * FROM pg_background_result_v2(0, 0) AS (n int)');
SELECT raised('SELECT * FROM pg_background_result_v2(pg_backend_pid(), ' || :cookie || ') AS (n int)');
SELECT raised('SELECT pg_background_detach_v2(0, 0)');
SELECT raised('SELECT pg_background_cancel_v2(0, 0)');
SELECT raised('SELECT pg_background_cancel_v2_grace(0, 0, 0)');
SELECT raised('SELECT pg_background_wait_v2(0, 0)');
SELECT raised('SELECT pg_background_wait_v2_timeout(0, 0, 0)');
\c -
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_detach(%s)', :pid));

-- the wrong cookie; the right one is not in the message
SELECT pid, cookie, cookie # 1 AS wrong FROM pg_background_launch_v2('SELECT 1') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :wrong));
SELECT raised(format('SELECT pg_background_detach_v2(%s, %s)', :pid, :wrong));
SELECT raised(format('SELECT pg_background_cancel_v2(%s, %s)', :pid, :wrong));
SELECT raised(format('SELECT pg_background_cancel_v2_grace(%s, %s, 0)', :pid, :wrong));
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid, :wrong));
SELECT raised(format('SELECT pg_background_wait_v2_timeout(%s, %s, 0)', :pid, :wrong));
SELECT raised(format('SELECT pg_background_wait_v2(%s, 0)', :pid));
-- the right one, of another process
SELECT raised(format('SELECT pg_background_wait_v2(0, %s)', :cookie));
-- the one of a job of another process
SET pg_background.share_workers = off;
SELECT pg_background_launch('SELECT 2')::int AS pid2 \gset
RESET pg_background.share_workers;
SELECT cookie AS cookie2 FROM pg_background_list WHERE pid = :pid2 \gset
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid, :cookie2));
-- all this has done nothing to the jobs
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT * FROM pg_background_result_v2(:pid2, :cookie2) AS (n int);

-- times
SELECT * FROM pg_background_launch_v2('SELECT 1') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT raised(format('SELECT pg_background_cancel_v2_grace(%s, %s, 3600001)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_wait_v2_timeout(%s, %s, 3600001)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_cancel_v2_grace(%s, %s, 2147483647)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_wait_v2_timeout(%s, %s, 2147483647)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_cancel_v2_grace(%s, %s, 3600000)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_wait_v2_timeout(%s, %s, 3600000)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_cancel_v2_grace(%s, %s, -2147483648)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_wait_v2_timeout(%s, %s, -2147483648)', :pid, :cookie));
SELECT pg_background_detach_v2(:pid, :cookie);

-- a submitted job has no result
SELECT * FROM pg_background_submit_v2('SELECT 1') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result(%s) AS (n int)', :pid));
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (tag text)', :pid, :cookie));
SELECT state FROM pg_background_list;
SELECT pg_background_detach_v2(:pid, :cookie);

--
-- Column definition lists. After a wrong one, the result can still be read.
--

SELECT * FROM pg_background_launch_v2('SELECT 1 AS number, ''one''::text AS word') \gset
-- none
SELECT raised(format('SELECT pg_background_result_v2(%s, %s)', :pid, :cookie));
SELECT raised(format('SELECT pg_background_result(%s)', :pid));
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s)', :pid, :cookie));
SELECT raised('SELECT pg_background_list_v2()');
-- the first column that differs
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (number int8, word varchar)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (number int, word varchar)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (number int, word text, more text)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (number int)', :pid, :cookie));
-- names do not matter
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (other int, name text);

-- no columns at all
SELECT * FROM pg_background_launch_v2('SELECT') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (tag text)', :pid, :cookie));
SELECT pg_background_detach_v2(:pid, :cookie);

-- the same before the job has ended, with rows of before and after the attempt
BEGIN;
SELECT pg_advisory_xact_lock(1);
SELECT * FROM pg_background_launch_v2('SELECT g FROM generate_series(1, 10000) g UNION ALL SELECT 0 FROM pg_advisory_xact_lock(1)', 8192) \gset
DO $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        PERFORM FROM pg_background_list_v2()
        AS (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4,
            state text, sql_preview text, last_error text, consumed bool);
        IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE EXCEPTION 'the job does not wait for the lock';
END $$;
COMMIT;
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int8)', :pid, :cookie));
SELECT count(*), sum(n) FROM pg_background_result_v2(:pid, :cookie) AS (n int);

-- tags are a single column of text
SELECT * FROM pg_background_launch_v2('CREATE TEMP TABLE made ()') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (tag varchar)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (tag text, more text)', :pid, :cookie));
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (tag text);

-- the list has columns of its own
SELECT raised('SELECT * FROM pg_background_list_v2() AS (pid int)');
SELECT raised('SELECT * FROM pg_background_list_v2()
    AS (pid int, cookie int, launched_at timestamptz, user_id oid, queue_size int,
        state text, sql_preview text, last_error text, consumed bool)');

--
-- Where a call is not allowed
--

-- inside a parallel query
CREATE FUNCTION says_it_is_safe(statement text) RETURNS text PARALLEL SAFE LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'done';
END $$;
SELECT * FROM pg_background_launch_v2('SELECT 1') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('debug_parallel_query', 'force_parallel_mode');
\set SHOW_CONTEXT never
SELECT says_it_is_safe('SELECT pg_background_launch(''SELECT 1'')');
\echo :LAST_ERROR_SQLSTATE
SELECT says_it_is_safe('SELECT pg_background_launch_v2(''SELECT 1'')');
\echo :LAST_ERROR_SQLSTATE
SELECT says_it_is_safe('SELECT pg_background_submit_v2(''SELECT 1'')');
\echo :LAST_ERROR_SQLSTATE
SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('debug_parallel_query', 'force_parallel_mode');
-- a function that is known to be unsafe keeps the query from being parallel
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);

-- in an aborted transaction
SELECT * FROM pg_background_launch_v2('SELECT 1') \gset
BEGIN;
SELECT 1 / 0;
SELECT pg_background_launch('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);

-- in a read-only one it is allowed: the job is no part of it
CREATE TABLE audit (entry text);
BEGIN READ ONLY;
SELECT * FROM pg_background_result(pg_background_launch('INSERT INTO audit VALUES (''written'')')) AS (tag text);
COMMIT;
-- unless all transactions of the session are read-only
SET default_transaction_read_only = on;
SELECT raised($$SELECT * FROM pg_background_result(pg_background_launch('INSERT INTO audit VALUES (''not written'')')) AS (tag text)$$);
RESET default_transaction_read_only;
TABLE audit;

-- nothing is left
SELECT count(*) AS jobs FROM pg_background_list;

\pset tuples_only off
DROP EXTENSION pg_background;
DROP FUNCTION says_it_is_safe;
DROP TABLE audit;
