-- The names, arguments, defaults and results that users of all versions rely on.

CREATE EXTENSION pg_background;
\pset format unaligned
\pset tuples_only on

SELECT p.proname, '(' || pg_get_function_arguments(p.oid) || ')', 'returns ' || pg_get_function_result(p.oid),
       CASE WHEN p.proisstrict THEN 'strict' END, CASE WHEN l.lanname = 'c' THEN 'C ' || p.prosrc ELSE l.lanname END
FROM pg_depend d
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_language l ON l.oid = p.prolang
WHERE e.extname = 'pg_background'
ORDER BY p.proname COLLATE "C", pg_get_function_arguments(p.oid) COLLATE "C";

-- all of them are so, but for a type's input and output
SELECT count(*) FILTER (WHERE p.provolatile <> 'v' OR p.proparallel <> 'u') AS not_volatile_or_safe
FROM pg_depend d
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
WHERE e.extname = 'pg_background' AND p.proname !~ '^pg_background_untyped_';

SELECT c.relname, CASE c.relkind WHEN 'c' THEN 'type' WHEN 'v' THEN 'view' ELSE c.relkind::text END,
       string_agg(a.attname || ' ' || a.atttypid::regtype, ', ' ORDER BY a.attnum)
FROM pg_depend d
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND d.objid = t.oid
JOIN pg_class c ON c.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE t.typrelid END
    AND c.relkind = CASE WHEN d.classid = 'pg_class'::regclass THEN c.relkind ELSE 'c' END
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE e.extname = 'pg_background'
GROUP BY c.relname, c.relkind ORDER BY 2, c.relname COLLATE "C";

-- arguments by name
SELECT pid, cookie FROM pg_background_launch_v2(sql => 'SELECT 1', queue_size => 0, label => 'by name') \gset
SELECT label FROM pg_background_list;
SELECT * FROM pg_background_result_v2(pid => :pid, cookie => :cookie) AS (n int);
SELECT state FROM pg_background_outcome_v2(p_pid => 0, p_cookie => 0);
SELECT has_error FROM pg_background_run_v2(sql => 'SELECT 1', queue_size => 0, timeout_ms => 0, label => 'by name');
SELECT state FROM pg_background_run_all_v2(commands => '{SELECT 1}', concurrency => 1, stop_on_error => true);
SELECT command FROM pg_background_run_all(commands => '{SELECT 1}', concurrency => 1, stop_on_error => true, raise_error => true);
SELECT pg_background_wait_any_v2(handles => '{}', timeout_ms => 1) IS NULL;
SELECT count(*) FROM pg_background_drain_v2(handles => '{}', timeout_ms => 1);
SELECT pg_background_cancel_by_label_v2(pattern => '%', grace_ms => 1);

DROP EXTENSION pg_background;
