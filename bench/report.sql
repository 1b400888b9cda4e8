-- Prints what was measured as tables, and writes it to the files results.json,
-- jobs.tsv, rows.tsv, sessions.tsv and wait.tsv. Expects the variable
-- "machine", a JSON object.

\set ON_ERROR_STOP on
SET search_path = bench, public;
REFRESH MATERIALIZED VIEW result;
\pset footer off
\pset border 0
\pset null ''

\pset title 'Times. p95 is the 95th percentile; ratio is the median time to that of pg_background.'
SELECT title || CASE WHEN sessions > 1 THEN ' x ' || sessions ELSE '' END AS "what",
       contender AS "by",
       round((CASE unit WHEN 'ms' THEN median / 1000 ELSE median END)::numeric, 1) AS "median",
       round((CASE unit WHEN 'ms' THEN p95 / 1000 ELSE p95 END)::numeric, 1) AS "p95",
       round((CASE unit WHEN 'ms' THEN longest / 1000 ELSE longest END)::numeric, 1) AS "longest",
       unit,
       round(ratio::numeric, 2) AS "ratio"
FROM result
ORDER BY position;

\pset title 'Many sessions at once. Speed is how many jobs pg_background does in the time of one of this contender; growth is to the fewest sessions.'
SELECT title AS "what", contender AS "by", sessions, round(calls_per_second) AS "jobs/s",
       round(speed::numeric, 2) AS "speed",
       round((calls_per_second / first_value(calls_per_second)
              OVER (PARTITION BY comparison, contender ORDER BY sessions))::numeric, 2) AS "growth"
FROM result
WHERE comparison IN ('small', 'insert', 'queue', 'fair')
ORDER BY min(position) OVER (PARTITION BY comparison), min(position) OVER (PARTITION BY comparison, contender), sessions;

\pset title 'Memory of an idle process, and of a session.'
SELECT contender AS "by", what, round(value) AS "value"
FROM memory
ORDER BY contender = 'dblink open', contender = 'other build', position;

\pset title 'What must be shown'
SELECT what, wanted, found,
       CASE reached WHEN true THEN 'reached' WHEN false THEN 'MISSED' ELSE 'not measured' END AS " "
FROM goal;

\pset format unaligned
\pset tuples_only on
\pset fieldsep '\t'
\pset title

\o results.json
SELECT jsonb_pretty(jsonb_build_object(
    'machine', :'machine'::jsonb,
    'server', version(),
    'settings', (SELECT jsonb_object_agg(name, current_setting(name)) FROM pg_settings
                 WHERE name IN ('fsync', 'synchronous_commit', 'wal_sync_method', 'shared_buffers', 'work_mem',
                                'max_connections', 'max_worker_processes', 'jit')
                     OR name LIKE 'pg\_background.%'),
    'unit', 'us',
    'results', (SELECT jsonb_agg(to_jsonb(result) - '{position,unit}'::text[] ORDER BY position) FROM result),
    'memory', (SELECT jsonb_agg(to_jsonb(memory) - 'position' ORDER BY position) FROM memory),
    'goals', (SELECT jsonb_agg(to_jsonb(goal)) FROM goal)));

-- For the picture: a line each, a column a contender. gnuplot takes names apart
-- at spaces, but not at no-break spaces.
\pset tuples_only off
\o jobs.tsv
SELECT comparison, replace(contender, ' ', U&'\00A0'), median / 1000
FROM result WHERE comparison IN ('small', 'insert', 'cold') AND sessions = 1 ORDER BY position
\crosstabview
\o rows.tsv
SELECT comparison, replace(contender, ' ', U&'\00A0'), median / 1000
FROM result WHERE comparison IN ('rows', 'wide') ORDER BY position
\crosstabview
\o sessions.tsv
SELECT sessions, replace(contender, ' ', U&'\00A0'), calls_per_second
FROM result WHERE comparison = 'small' ORDER BY position
\crosstabview
\o wait.tsv
SELECT comparison, replace(contender, ' ', U&'\00A0'), median / 1000
FROM result WHERE comparison LIKE 'wait%' ORDER BY position
\crosstabview
\o
