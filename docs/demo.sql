-- The tour of "make demo", see docs/demo.
\set ON_ERROR_STOP on
\set ECHO queries
\pset footer off

CREATE EXTENSION pg_background;

\echo
\echo '1. An autonomous transaction: an audit row that survives a rollback'
\echo
CREATE TABLE account (owner text, balance int);
CREATE TABLE audit (at timestamptz DEFAULT now(), who text, what text);
BEGIN;
INSERT INTO account VALUES ('alice', 1000000);
SELECT pg_background_exec('INSERT INTO audit (who, what) VALUES ($1, $2)', 'alice', 'tried to get rich') AS rows;
ROLLBACK;
SELECT count(*) AS accounts FROM account;
SELECT who, what FROM audit;

\echo '   The same with rows: what another transaction sees'
\echo
BEGIN;
DELETE FROM audit;
SELECT * FROM pg_background_query('SELECT what FROM audit WHERE who = $1', 'alice') AS (what text);
ROLLBACK;

\echo
\echo '2. A job runs while the session goes on working'
\echo
SELECT pg_background_launch($$SELECT count(*) FROM generate_series(1, 10000000) i WHERE i % 7 = 0$$) AS h \gset
SELECT 'nobody waited for the job' AS "the session";

\echo '   Has it ended within 50 ms?'
\echo
SELECT pg_background_wait(:h, 50) AS ended;

\echo '   Its rows: to read them waits for its end'
\echo
SELECT * FROM pg_background_result(:h) AS (count bigint);

\echo
\echo '3. A job that fails: reading its result raises its error'
\echo
SELECT pg_background_launch($$SELECT 1 / 0$$) AS h \gset
\set ON_ERROR_STOP off
SELECT * FROM pg_background_result(:h) AS (x int);
\set ON_ERROR_STOP on
\echo '   Its SQLSTATE:' :SQLSTATE

\echo
\echo '4. A job is canceled'
\echo
SELECT pg_background_launch($$SELECT pg_sleep(3600)$$) AS h \gset
SELECT pg_background_cancel(:h);
SELECT pg_background_wait(:h) AS ended;

\echo
\echo '5. The list of the jobs whose result was not read yet'
\echo
SELECT pg_background_launch($$VACUUM audit$$) AS h \gset
SELECT pg_background_wait(:h) AS ended;
SELECT pg_background_launch($$SELECT pg_sleep(3600)$$, label => 'a nap') AS h \gset
SELECT pid, state, label, sql_preview, last_error FROM pg_background_list;
SELECT pg_background_cancel(:h);
