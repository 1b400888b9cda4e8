-- What the server shows of a job's statements.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

--
-- Hardening 21: a statement has its own query_id, also where it is not the first
--

SET compute_query_id = on;
\set look 'SELECT query_id::text FROM pg_stat_activity WHERE pid = pg_backend_pid()'
SELECT run(:'look') AS query_id \gset
SELECT :'query_id' <> '' AS is_known,
       run('SELECT 1; ' || :'look') = :'query_id' AS second_is_equal,
       run('SELECT 1; SELECT 2, 3; ' || :'look') = :'query_id' AS third_is_equal;

DROP EXTENSION pg_background CASCADE;
