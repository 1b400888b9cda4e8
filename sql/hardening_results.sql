-- Results that cannot be kept, that are forgotten while they are read, and whose
-- types are not what they were.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never

CREATE FUNCTION temporary_files() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM pg_ls_tmpdir() WHERE name ~ ('pgsql_tmp' || pg_backend_pid() || '\.');
$$;
--
-- Hardening 2, Known failure 21: the file of a session's rows cannot be written
-- in the middle of a large row. The error is the job's.
--
SET work_mem = '64kB';
SET temp_file_limit = '1MB';
SELECT pid, cookie FROM pg_background_launch_v2($$SELECT repeat(md5(g::text), 3000) FROM generate_series(1, 100) g$$) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT count(*) FROM pg_background_list;
SELECT state, has_error, sqlstate, replace(error_message, '"', '') AS error_message FROM pg_background_outcome_v2(:pid, :cookie);
SELECT temporary_files();
-- not that of other jobs, of which another runs and has rows
SELECT pid AS other_pid, cookie AS other_cookie FROM pg_background_launch_v2('SELECT generate_series(1, 10)') \gset
SELECT state FROM pg_background_outcome_v2(:pid, :cookie);
SELECT count(*) FROM pg_background_result_v2(:other_pid, :other_cookie) AS (n int);
SELECT replace(raised(format('SELECT count(*) FROM pg_background_result_v2(%s, %s) AS (a text)', :pid, :cookie)), '"', '') AS raised;
SELECT raised(format('SELECT pg_background_wait_v2(%s, %s)', :pid, :cookie));

--
-- Hardening 3: nor does a result look complete when later rows could be stored
--
SET temp_file_limit = '500kB';
SELECT pid, cookie FROM pg_background_launch_v2('SELECT g, repeat(''x'', 50) FROM generate_series(1, 20000) g') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
RESET temp_file_limit;
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT replace(raised(format('SELECT count(*) FROM pg_background_result_v2(%s, %s) AS (n int, x text)', :pid, :cookie)), '"', '') AS raised;
-- while it is read, that is the reader's own error
SET temp_file_limit = '500kB';
SELECT pid, cookie FROM pg_background_launch_v2('SELECT g, repeat(''x'', 50) FROM generate_series(1, 20000) g') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int, x text)', :pid, :cookie)) ~ '^53400: .*temp_file_limit' AS raised;
RESET temp_file_limit;
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (n int, x text)', :pid, :cookie));
SELECT consumed, completed, has_error FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_wait_v2(:pid, :cookie);
-- each of these goes on while several jobs cannot be stored
SET temp_file_limit = '500kB';
SELECT count(pg_background_launch_v2('SELECT g, repeat(''x'', 50) FROM generate_series(1, 20000) g', 0, 'lost')) FROM generate_series(1, 4);
SELECT pg_background_wait_v2(pid, cookie) FROM pg_background_list WHERE label = 'lost';
SELECT o.state, o.sqlstate FROM pg_background_list l, pg_background_outcome_v2(l.pid, l.cookie) o WHERE l.label = 'lost';
SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_list WHERE label = 'lost' LIMIT 1;
SELECT pg_background_purge_v2(), pg_background_detach_all_v2();
SELECT temporary_files();
RESET temp_file_limit;
RESET work_mem;

--
-- Hardening 30: notices are kept as rows are, beyond work_mem in a file
--
SELECT pid, cookie FROM pg_background_launch_v2('DO $$ BEGIN FOR i IN 1 .. 100000 LOOP RAISE NOTICE ''notice %'', i; END LOOP; END $$') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT sum(total_bytes) < 6 * 1024 * 1024 AS small FROM pg_backend_memory_contexts WHERE name ~ '^pg_background';
SELECT temporary_files();
SET client_min_messages = warning;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (tag text);
RESET client_min_messages;
SELECT temporary_files();
-- each one is raised once, also where the result is read again
SELECT pid, cookie FROM pg_background_launch_v2('DO $$ BEGIN RAISE NOTICE ''one''; RAISE NOTICE ''two''; END $$') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (tag int);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (tag text);
SELECT pid, cookie FROM pg_background_launch_v2('DO $$ BEGIN RAISE NOTICE ''one''; RAISE NOTICE ''two''; END $$') \gset
SELECT * FROM pg_background_result_jsonb_v2(:pid, :cookie);

--
-- Hardening 4, Known failure 22: a cast, called while a result is read, does with
-- the job what it likes
--
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FUNCTION mood_to_json(m mood) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE current_setting('test.command');
    RETURN '"so ' || m || '"';
END $$;
CREATE CAST (mood AS json) WITH FUNCTION mood_to_json(mood);
CREATE FUNCTION read_moods(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    h pg_background_handle := pg_background_launch_v2('SELECT g, repeat(''x'', 20000), ''sad''::mood AS m FROM generate_series(1, 30) g');
    total text;
BEGIN
    PERFORM set_config('test.command', command, false);
    SELECT count(*) || ' rows ' || min(r ->> 'm') INTO total FROM pg_background_result_jsonb_v2(h.pid, h.cookie) r;
    RETURN total;
END $$;
SELECT read_moods('SELECT pg_background_purge_v2()');
SELECT read_moods('SELECT pg_background_detach_all_v2()');
SELECT read_moods('SELECT pg_background_detach_v2(pid, cookie) FROM pg_background_list');
SELECT read_moods('SELECT pg_background_run_v2(''SELECT 1'')');
SELECT raised('SELECT read_moods(''SELECT pg_background_result_jsonb_v2(pid, cookie) FROM pg_background_list'')');
SELECT count(*) FROM pg_background_list;
SELECT raised('SELECT read_moods(''SELECT 1 / 0'')');
SET test.command = 'SELECT 1';
SELECT count(*) FROM pg_background_list l, pg_background_result_jsonb_v2(l.pid, l.cookie);
SELECT count(*) FROM pg_background_list;

--
-- Hardening 34: a reading that is interrupted does not spoil the result
--
SET statement_timeout = '1min';
SELECT format('EXISTS (SELECT FROM pg_locks WHERE locktype = ''advisory'' AND objid = 42 AND granted AND pid = %s)', pg_backend_pid()) AS it_is_read \gset
SELECT pid, cookie FROM pg_background_launch_v2((SELECT string_agg('SET application_name = ''a''', ';') FROM generate_series(1, 30000))) \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT cancel_me_when(:'it_is_read');
SELECT r, pg_advisory_xact_lock(42), pg_sleep(3600) FROM pg_background_result_jsonb_v2(:pid, :cookie) r;
SELECT consumed FROM pg_background_outcome_v2(:pid, :cookie);
SELECT raised(format('SELECT count(*) FROM pg_background_result_jsonb_v2(%s, %s)', :pid, :cookie));
-- what a query has not brought to its end was not delivered
SELECT pid, cookie FROM pg_background_launch_v2('SELECT generate_series(1, 10000)') \gset
SELECT cancel_me_when(:'it_is_read');
SELECT n, pg_advisory_xact_lock(42), pg_sleep(3600) FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT state, consumed, row_count FROM pg_background_outcome_v2(:pid, :cookie);
SELECT raised(format('SELECT count(*) FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie));
SELECT pg_background_detach_v2(:pid, :cookie);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 0') \gset
SELECT raised(format('SELECT 1 / n FROM pg_background_result_v2(%s, %s) AS (n int)', :pid, :cookie));
SELECT consumed FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_detach_v2(:pid, :cookie);
RESET statement_timeout;
-- a later query's failure does not matter
SELECT pid, cookie FROM pg_background_launch_v2('SELECT 1') \gset
BEGIN;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
ROLLBACK;
SELECT state FROM pg_background_outcome_v2(:pid, :cookie);
-- a cursor that is read in part, and closed
SELECT pid, cookie FROM pg_background_launch_v2('SELECT generate_series(1, 10)') \gset
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
FETCH 2 FROM c;
SELECT state FROM pg_background_outcome_v2(:pid, :cookie);
SELECT pg_background_detach_all_v2();
CLOSE c;
COMMIT;
SELECT count(*) FROM pg_background_list;

--
-- Hardening 14: of two results of a rule, the last one counts
--
CREATE TABLE ruled (n int);
CREATE RULE two_results AS ON UPDATE TO ruled DO ALSO (SELECT 'first', 'of two'; SELECT 7 FROM generate_series(1, 3));
INSERT INTO ruled VALUES (1);
-- read while it runs: it waits until its session does
CREATE FUNCTION await_reader(reader int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = reader AND wait_event_type = 'Extension') LOOP
        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);
    END LOOP;
END $$;
SELECT pid, cookie FROM pg_background_launch_v2(format('SELECT await_reader(%s); UPDATE ruled SET n = n', pg_backend_pid())) \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT pid, cookie FROM pg_background_launch_v2('UPDATE ruled SET n = n') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (a text, b text)', :pid, :cookie));
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (n int);
SELECT pid, cookie FROM pg_background_launch_v2('UPDATE ruled SET n = n') \gset
SELECT * FROM pg_background_result_jsonb_v2(:pid, :cookie);
SELECT pg_background_detach_all_v2() > 0 AS some;

--
-- Hardening 20: a type that goes with the job
--
SELECT pid, cookie FROM pg_background_launch_v2('CREATE TEMP TABLE t AS SELECT 1 AS a; SELECT t, 2 AS b FROM t') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (t text, b int)', :pid, :cookie));
SELECT raised(format('SELECT * FROM pg_background_result_jsonb_v2(%s, %s)', :pid, :cookie));
SELECT pg_background_detach_v2(:pid, :cookie);
SELECT pid, cookie FROM pg_background_launch_v2('CREATE TEMP TABLE t AS SELECT 1 AS a; SELECT array[t], 2 AS b FROM t') \gset
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (t text, b int)', :pid, :cookie));
SELECT pg_background_detach_v2(:pid, :cookie);
CREATE TYPE gone AS (a int);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT ROW(1)::gone') \gset
SELECT pg_background_wait_v2(:pid, :cookie);
DROP TYPE gone;
SELECT raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (t text)', :pid, :cookie));
SELECT pg_background_detach_v2(:pid, :cookie);

--
-- Hardening 45: a type that is altered after the job has run
--
CREATE TYPE row_before AS (a int, b int);
CREATE DOMAIN row_domain AS row_before;
CREATE TYPE row_holder AS (r row_domain);
CREATE FUNCTION job_of(value text) RETURNS pg_background_handle LANGUAGE plpgsql AS $$
DECLARE
    h pg_background_handle := pg_background_launch_v2('SELECT ' || value);
BEGIN
    PERFORM pg_background_wait_v2(h.pid, h.cookie);
    RETURN h;
END $$;
CREATE TABLE altered AS
SELECT type, job_of(value) AS h FROM (VALUES
    ('row_before', '(1, 2)::row_before'), ('row_before[]', 'array[(1, 2)::row_before]'),
    ('row_holder', 'ROW((1, 2)::row_domain)::row_holder'), ('int', '1')) v (type, value);
ALTER TYPE row_before ALTER ATTRIBUTE b TYPE text;
SELECT type, raised(format('SELECT * FROM pg_background_result_v2(%s, %s) AS (v %s)', (h).pid, (h).cookie, type))
FROM altered ORDER BY type COLLATE "C";
SELECT type, raised(format('SELECT * FROM pg_background_result_jsonb_v2(%s, %s)', (h).pid, (h).cookie))
FROM altered WHERE type <> 'int' ORDER BY type COLLATE "C";
SELECT pg_background_detach_all_v2();

--
-- Hardening 6: a handle of a PID and nothing
--
SELECT pid, state FROM pg_background_drain_v2(array[(1, NULL), (NULL, 1), NULL, (NULL, NULL)]::pg_background_handle[]);
SELECT pg_background_wait_any_v2(array[(1, NULL), (NULL, 1), NULL]::pg_background_handle[], 1);

DROP CAST (mood AS json);
DROP FUNCTION mood_to_json, read_moods, temporary_files, await_reader, job_of;
DROP TYPE mood;
DROP TABLE altered, ruled;
DROP TYPE row_holder;
DROP DOMAIN row_domain;
DROP TYPE row_before;
DROP EXTENSION pg_background;
