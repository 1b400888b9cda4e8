-- Who may run jobs, and whose jobs are whose.

CREATE EXTENSION pg_background;
CREATE ROLE regress_granted;
CREATE ROLE regress_executor IN ROLE pgbackground_role;
CREATE ROLE regress_stranger;
CREATE ROLE regress_deputy IN ROLE regress_granted, pgbackground_role;
SELECT grant_pg_background_privileges('regress_granted');
\set SHOW_CONTEXT never

-- PUBLIC has nothing, on nothing of the extension. (A view's row type is the
-- view's: a REVOKE on it would make pg_dump warn.)
SELECT pg_describe_object(d.classid, d.objid, 0), a.privilege_type
FROM pg_extension e
JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid AND t.typcategory <> 'A'
    AND NOT EXISTS (SELECT FROM pg_class r WHERE r.oid = t.typrelid AND r.relkind = 'v')
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner),
                                       t.typacl, acldefault('T', t.typowner),
                                       c.relacl, acldefault('r', c.relowner))) a
WHERE e.extname = 'pg_background' AND a.grantee = 0;

-- So a role that was granted nothing can call nothing.
SET ROLE regress_stranger;
SELECT pg_background_launch('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_result(1) AS (x int);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_detach(1);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_launch_v2('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_submit_v2('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_result_v2(1, 1) AS (x int);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_detach_v2(1, 1);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_cancel_v2(1, 1);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_cancel_v2_grace(1, 1, 1);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_wait_v2(1, 1);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_wait_v2_timeout(1, 1, 1);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_list_v2() AS (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_list;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_activity;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_workers;
\echo :LAST_ERROR_SQLSTATE
SELECT grant_pg_background_privileges('regress_stranger');
\echo :LAST_ERROR_SQLSTATE
SELECT revoke_pg_background_privileges('regress_granted');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_background_drop_executor_role();
\echo :LAST_ERROR_SQLSTATE
CREATE TEMP TABLE handle (h pg_background_handle);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- A view is no way around the privileges on what it calls.
GRANT SELECT ON pg_background_list, pg_background_activity, pg_background_workers TO regress_stranger;
SET ROLE regress_stranger;
SELECT * FROM pg_background_list;
SELECT * FROM pg_background_activity;
SELECT * FROM pg_background_workers;
RESET ROLE;
REVOKE SELECT ON pg_background_list, pg_background_activity, pg_background_workers FROM regress_stranger;

-- known failure 15: a role that was granted the privileges runs jobs, and they
-- run as that role
SET ROLE regress_granted;
CREATE TEMP TABLE handle (h pg_background_handle);
DROP TABLE handle;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT current_user::text') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (who text);
SELECT pg_background_launch('SELECT current_user::text')::int AS pid \gset
SELECT * FROM pg_background_result(:pid) AS (who text);
SELECT h.pid, h.cookie FROM pg_background_submit_v2('SELECT 1') h \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT user_id = 'regress_granted'::regrole AS own, state
FROM pg_background_list_v2() AS (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool);
SELECT pg_background_detach_v2(:pid, :cookie);
RESET ROLE;
SET SESSION AUTHORIZATION regress_granted;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT current_user::text, session_user::text') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (who text, session text);
RESET SESSION AUTHORIZATION;

-- the same for a member of the executor role
SET SESSION AUTHORIZATION regress_executor;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT current_user::text, session_user::text') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (who text, session text);
SELECT pg_background_launch('SELECT current_user::text')::int AS pid \gset
SELECT * FROM pg_background_result(:pid) AS (who text);
SELECT grant_pg_background_privileges('regress_stranger');
SELECT revoke_pg_background_privileges('regress_granted');
SELECT pg_background_drop_executor_role();
\echo :LAST_ERROR_SQLSTATE
RESET SESSION AUTHORIZATION;

-- A handle is its user's: the right PID and cookie are of no use to another role.
SET ROLE regress_granted;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT current_user::text') h \gset
SELECT pg_background_launch('SELECT current_user::text')::int AS v1_pid \gset
SET ROLE regress_executor;
\set VERBOSITY sqlstate
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (who text);
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT pg_background_wait_v2_timeout(:pid, :cookie, 0);
SELECT pg_background_cancel_v2(:pid, :cookie);
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT pg_background_detach_v2(:pid, :cookie);
SELECT * FROM pg_background_result(:v1_pid) AS (who text);
SELECT pg_background_detach(:v1_pid);
\set VERBOSITY default
SELECT count(*) FROM pg_background_list;

-- unless it is a member of that user's role
SET ROLE regress_deputy;
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT user_id::regrole, state FROM pg_background_list WHERE cookie = :cookie;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (who text);
SELECT * FROM pg_background_result(:v1_pid) AS (who text);
RESET ROLE;

-- What a worker does shows to those who may see its query, that is the query of
-- the user who logged in, whatever the role is.
SET ROLE regress_granted;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT pg_sleep(600)', 0, 'secret') h \gset
RESET ROLE;
SET statement_timeout = '3min';
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_background_workers WHERE label = 'secret' AND query ~ 'pg_sleep') LOOP
        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);
    END LOOP;
END $$;
RESET statement_timeout;
CREATE TEMP VIEW seen AS
SELECT launcher_pid = pg_backend_pid() AS own, user_name, database = current_database() AS here,
       label, state, launched_at IS NOT NULL AS launched, sql_preview
FROM pg_background_workers WHERE pid = :pid;
GRANT SELECT ON seen TO regress_granted, regress_executor;
TABLE seen;
SET ROLE regress_granted;
TABLE seen;
SET ROLE regress_executor;
TABLE seen;
SELECT query FROM pg_background_workers WHERE pid = :pid;
RESET ROLE;
GRANT pg_read_all_stats TO regress_executor;
SET ROLE regress_executor;
TABLE seen;
SELECT query FROM pg_background_workers WHERE pid = :pid;
SET ROLE regress_granted;
SELECT pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT pg_background_detach_v2(:pid, :cookie);
RESET ROLE;
DROP VIEW seen;

-- What is taken away is gone, also for jobs that were launched before.
SET ROLE regress_granted;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 1') h \gset
RESET ROLE;
SELECT revoke_pg_background_privileges('regress_granted');
SET ROLE regress_granted;
SELECT pg_background_launch_v2('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
\echo :LAST_ERROR_SQLSTATE
CREATE TEMP TABLE handle (h pg_background_handle);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
REVOKE pgbackground_role FROM regress_executor;
SET ROLE regress_executor;
SELECT pg_background_launch_v2('SELECT 1');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

DROP EXTENSION pg_background;
DROP ROLE regress_granted, regress_executor, regress_stranger, regress_deputy;
