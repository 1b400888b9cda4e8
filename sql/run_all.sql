-- Many commands by a few workers.

CREATE EXTENSION pg_background;
\set fixtures `echo "${PG_ABS_SRCDIR:-.}/sql/fixtures"`
\set ECHO none
\i :fixtures/common.sql
\set ECHO all

\set SHOW_CONTEXT never
SET pg_background.idle_timeout = '1min';
SET pg_background.max_idle_workers = 2;

CREATE VIEW running AS
SELECT sql_preview FROM pg_background_workers WHERE launcher_pid = pg_backend_pid() AND state <> 'idle';

--
-- What it returns
--

\x on
SELECT ordinality, pid > 0 AS pid, cookie <> 0 AS cookie, state, consumed, completed, has_error, row_count, command_tag, sqlstate, error_message, label,
       launched_at BETWEEN now() - interval '1 hour' AND clock_timestamp() AS launched_at, elapsed_ms >= 0 AS elapsed_ms
FROM pg_background_run_all_v2('{SELECT generate_series(1\,3), CREATE TABLE done (what text), SELECT 1/0}', 1);
\x off
-- a row for each command, in the order of the input, whatever ends first; all the
-- columns of an outcome are in the middle
SELECT ordinality, command_tag, elapsed_ms >= round(1000 * right(command, 3)::numeric - 1) AS elapsed
FROM unnest('{SELECT FROM pg_sleep(0.4), SELECT FROM pg_sleep(0.1), SELECT FROM pg_sleep(0.0), SELECT FROM pg_sleep(0.2)}'::text[]) WITH ORDINALITY AS c (c, n),
     LATERAL (SELECT substring(c FROM '\((.*)\)')) s (command),
     pg_background_run_all_v2('{SELECT FROM pg_sleep(0.4), SELECT FROM pg_sleep(0.1), SELECT FROM pg_sleep(0.0), SELECT FROM pg_sleep(0.2)}', 4)
WHERE ordinality = n ORDER BY 1;
SELECT string_agg(ordinality::text, ' ') FROM pg_background_run_all_v2(
    array(SELECT format('SELECT pg_sleep(%s)', 0.01 * (g * 7 % 10)) FROM generate_series(1, 20) g), 5);
SELECT (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute a JOIN pg_type t ON a.attrelid = t.typrelid
        WHERE t.oid = 'pg_background_outcome'::regtype) = proargnames[5:16] AS outcome, proargnames[4] AS first, proargnames[17:] AS last
FROM pg_proc WHERE proname = 'pg_background_run_all_v2';
-- by the name that it has from 2.1 on, also the command, whether it was run or not
SELECT proargnames[:6] AS first,
       proargnames[6:] = (SELECT array['command'] || proargnames[5:] FROM pg_proc WHERE proname = 'pg_background_run_all_v2') AS rest
FROM pg_proc WHERE proname = 'pg_background_run_all';
SELECT ordinality, command, pid > 0 AS pid, cookie <> 0 AS cookie, state, consumed, completed, has_error, row_count, command_tag, sqlstate, error_message, label,
       launched_at BETWEEN now() - interval '1 hour' AND clock_timestamp() AS launched_at, elapsed_ms >= 0 AS elapsed_ms
FROM pg_background_run_all(array['SELECT generate_series(1, 3)', '', 'SELECT ''uni'' || 1/0', 'SELECT 4'], 1, true);
SELECT command = repeat(' ', 100000) || 'SELECT 1' AS whole, state FROM pg_background_run_all(array[repeat(' ', 100000) || 'SELECT 1']);
-- nothing
SELECT count(*) FROM pg_background_run_all_v2('{}');
SELECT count(*) FROM pg_background_run_all_v2(NULL);
SELECT ordinality, state, row_count, command_tag FROM pg_background_run_all_v2('{"", ";"}', NULL, NULL);
-- rows and notices are not kept
SELECT state, row_count FROM pg_background_run_all_v2('{"SELECT generate_series(1, 100000)", "DO ''BEGIN RAISE WARNING $$w$$; END''"}');
-- wrong arguments
SELECT pg_background_run_all_v2('{SELECT 1, NULL}');
SELECT pg_background_run_all_v2('{SELECT 1}', -1);
-- nothing is left of them
SELECT count(*) FROM pg_background_list;

--
-- How many at a time
--

-- Each job says when it began, and when it was about to end. How many were between
-- the two at most?
CREATE UNLOGGED TABLE span (began timestamptz, ended timestamptz);
CREATE FUNCTION spans(OUT jobs int8, OUT at_once int8) LANGUAGE plpgsql AS $$
BEGIN
    SELECT count(*), max((SELECT count(*) FROM span o WHERE o.began <= s.began AND o.ended > s.began)) INTO jobs, at_once FROM span s;
    DELETE FROM span;
END $$;
-- Jobs that do not go on before so many are there at once, which would be never if
-- fewer were in flight; and all that are there are counted.
CREATE SEQUENCE arrived;
CREATE PROCEDURE meet(n int) LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
    rank int := nextval('arrived');
    last int := ((rank - 1) / n + 1) * n;
BEGIN
    CALL await(format('(SELECT last_value >= %s FROM arrived)', last));
    INSERT INTO span VALUES (began, clock_timestamp());
END $$;

DO $$
DECLARE
    n int;
    errors int;
    o record;
BEGIN
    FOREACH n IN ARRAY '{1, 2, 3, 4, 6, 12}'::int[] LOOP
        PERFORM setval('arrived', 1, false);
        SELECT count(*) INTO errors FROM pg_background_run_all_v2(array_fill(format('CALL meet(%s)', n), array[12]), n) WHERE has_error;
        SELECT * INTO o FROM spans();
        RAISE NOTICE 'concurrency %: % jobs, % errors, % at once', n, o.jobs, errors, o.at_once;
    END LOOP;
END $$;
-- 0 is max_workers; more than that are not possible
SET pg_background.max_workers = 3;
SELECT count(*) FROM pg_background_run_all_v2(array_fill('CALL meet(3)'::text, array[12])) WHERE has_error;
SELECT * FROM spans();
SELECT count(*) FROM pg_background_run_all_v2(array_fill('CALL meet(3)'::text, array[12]), 9) WHERE has_error;
SELECT * FROM spans();
-- other jobs of the session count, too
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT count(*) FROM pg_background_run_all_v2(array_fill('CALL meet(2)'::text, array[12])) WHERE has_error;
SELECT * FROM spans();
SELECT pg_background_cancel_v2(:pid, :cookie), pg_background_wait_v2(:pid, :cookie), pg_background_detach_v2(:pid, :cookie);
RESET pg_background.max_workers;

--
-- As few processes as there may be
--

-- 200 commands; so that no fewer do than may run at once, the first ones meet
CREATE FUNCTION many(n int) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    PERFORM setval('arrived', 1, false);
    RETURN array_fill(format('CALL meet(%s)', n), array[n]) || array_fill('SELECT 1'::text, array[200 - n]);
END $$;
SELECT count(*), count(DISTINCT pid) AS processes, count(*) FILTER (WHERE state = 'stopped') AS good FROM pg_background_run_all_v2(many(4), 4);
SELECT count(DISTINCT pid) AS processes FROM pg_background_run_all_v2(array_fill('SELECT 1/0'::text, array[50]), 1);
-- not so many as are needed stay afterwards
CALL await('(SELECT count(*) <= 2 FROM pg_background_workers WHERE launcher_pid = pg_backend_pid())');
-- also where all of them may stay; but not where none may
SET pg_background.max_idle_workers = 6;
SELECT count(DISTINCT pid) AS processes FROM pg_background_run_all_v2(many(6), 6);
SELECT count(DISTINCT pid) AS processes FROM pg_background_run_all_v2(many(6), 6);
SET pg_background.max_idle_workers = 0;
-- (one at a time, since a worker takes what is queued when another's start is slow)
SELECT count(DISTINCT pid) AS processes FROM pg_background_run_all_v2(array_fill('SELECT 1'::text, array[20]), 1);
CALL await('(SELECT count(*) = 0 FROM pg_background_workers WHERE launcher_pid = pg_backend_pid())');
SET pg_background.max_idle_workers = 2;
-- many commands: the time is in proportion to their number
SELECT count(*) FILTER (WHERE row_count = 1) FROM pg_background_run_all_v2(array_fill('SELECT 1'::text, array[10000]), 4);

--
-- Errors
--

-- go on, or not
SELECT ordinality, state, sqlstate FROM pg_background_run_all_v2('{SELECT 1, SELECT 1/0, SELECT 2, SELECT 3}', 1);
SELECT ordinality, pid IS NOT NULL AS launched, state, completed, sqlstate, elapsed_ms IS NOT NULL AS elapsed
FROM pg_background_run_all_v2('{SELECT 1, SELECT 1/0, SELECT 2, SELECT 3}', 1, true);
-- those that run are canceled
SELECT ordinality, state, completed, sqlstate FROM pg_background_run_all_v2(
    array['SELECT 1', 'SELECT pg_sleep(3600)',
          'CALL await(''EXISTS (SELECT FROM pg_background_workers WHERE sql_preview = ''''SELECT pg_sleep(3601)'''' AND wait_event = ''''PgSleep'''')''); SELECT 1/0',
          'SELECT pg_sleep(3601)', 'CREATE TABLE never ()'], 3, stop_on_error => true);
CALL await('NOT EXISTS (SELECT FROM running)');
SELECT to_regclass('never') IS NULL AS never_run;
-- a time-out is an error of its command
SET pg_background.worker_timeout = 2000;
SELECT ordinality, state, sqlstate, error_message FROM pg_background_run_all_v2('{SELECT pg_sleep(3600), SELECT 1}');
RESET pg_background.worker_timeout;
-- a command whose process ends is, too
SELECT ordinality, state, sqlstate FROM pg_background_run_all_v2('{SELECT 1, SELECT pg_terminate_backend(pg_backend_pid()), SELECT 2}', 1);
SELECT ordinality, state, sqlstate FROM pg_background_run_all_v2('{SELECT 1, SELECT pg_cancel_backend(pg_backend_pid()) FROM pg_sleep(0); SELECT pg_sleep(3600), SELECT 2}', 1);

-- raise one, when all have been run; what the others have done is there
CREATE TABLE kept (n int);
SELECT ordinality, command, state FROM pg_background_run_all('{INSERT INTO kept VALUES (1), INSERT INTO kept VALUES (2)}', raise_error => true);
SELECT pg_background_run_all('{INSERT INTO kept VALUES (3), SELECT 1/0, CREATE TABLE kept (), INSERT INTO kept VALUES (4)}', 1, raise_error => true);
SELECT pg_background_run_all('{SELECT 1/0}', 1, NULL, true);
SELECT ordinality, command, sqlstate FROM pg_background_run_all('{SELECT 1/0}', 1, NULL, NULL);
SELECT string_agg(n::text, ' ' ORDER BY n) FROM kept;
-- a warning is no error
SELECT command, sqlstate FROM pg_background_run_all(array['DO $$ BEGIN RAISE WARNING ''take care''; END $$'], raise_error => true);
-- of a long command, the beginning
SELECT pg_background_run_all(array['SELECT 1', 'SELECT 1/0 -- ' || repeat('e', 1000)], raise_error => true);
-- with both, the first to fail is the one that has ended the others
SELECT pg_background_run_all(
    array['SELECT pg_sleep(3600)',
          'CALL await(''EXISTS (SELECT FROM pg_background_workers WHERE sql_preview = ''''SELECT pg_sleep(3600)'''' AND wait_event = ''''PgSleep'''')''); SELECT 1/0',
          'INSERT INTO kept VALUES (5)'], 2, stop_on_error => true, raise_error => true);
CALL await('NOT EXISTS (SELECT FROM running)');
-- what the session does otherwise goes with it; it is caught as any error
DO $$
BEGIN
    INSERT INTO kept VALUES (6);
    PERFORM pg_background_run_all('{INSERT INTO kept VALUES (7), SELECT 1/0}', raise_error => true);
EXCEPTION WHEN external_routine_exception THEN
    RAISE NOTICE '%', sqlerrm;
END $$;
CALL pg_background_maintain('{INSERT INTO kept VALUES (8), VACUUM kept, SELECT 1/0}', 1, raise_error => true);
CALL pg_background_maintain('{SELECT 1/0}', 1, true, true) \gset
CALL pg_background_maintain('{VACUUM kept}', 1, raise_error => true) \gset
SELECT has_error, command_tag FROM unnest(:'outcomes'::pg_background_outcome[]);
SELECT string_agg(n::text, ' ' ORDER BY n) FROM kept;
SELECT count(*) FROM pg_background_list;

-- the cancel of the caller cancels everything
SELECT cancel_me_during('%3600%', 4);
SELECT pg_background_run_all_v2(array_fill('SELECT pg_sleep(3600)'::text, array[10]) || '{CREATE TABLE never ()}'::text[], 4);
CALL await('NOT EXISTS (SELECT FROM running)');
SELECT to_regclass('never') IS NULL AS never_run;
SELECT count(*) FROM pg_background_list;
SELECT workers_active AS active FROM pg_background_stats_v2();
-- what can only wait for this session fails, and the others go on (Hardening 23)
BEGIN;
SET LOCAL deadlock_timeout = '10ms';
LOCK TABLE done;
SELECT ordinality, state, sqlstate, error_message, command_tag
FROM pg_background_run_all_v2('{SELECT 1, INSERT INTO done VALUES (''never''), SELECT 2, INSERT INTO done VALUES (''never''), SELECT 3}', 2);
ROLLBACK;
CALL await('NOT EXISTS (SELECT FROM running)');
TABLE done;
-- no worker at all: as any launch
SET pg_background.launch_timeout = 0;
SET pg_background.max_workers = 1;
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SELECT pg_background_run_all_v2('{SELECT 1, SELECT 2}', 2);
-- and as any launch, it can wait for one
SET pg_background.worker_timeout = 2000;
SELECT pg_background_cancel_v2(:pid, :cookie), pg_background_wait_v2(:pid, :cookie);
SELECT pid, cookie FROM pg_background_launch_v2('SELECT pg_sleep(3600)') \gset
SET pg_background.launch_timeout = '1min';
SELECT state FROM pg_background_run_all_v2('{SELECT 1, SELECT 2}', 2);
RESET pg_background.launch_timeout;
RESET pg_background.max_workers;
RESET pg_background.worker_timeout;
SELECT pg_background_detach_all_v2();

DROP VIEW running;
DROP EXTENSION pg_background;
DROP TABLE done, kept, span;
DROP FUNCTION spans, many;
DROP PROCEDURE meet;
DROP SEQUENCE arrived;
