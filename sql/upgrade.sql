-- From a catalog that 1.6 made to 1.7, and schemas other than public.

\set SHOW_CONTEXT never

-- Everything that the extension holds, but for the schema it is in.
CREATE VIEW extension_catalog AS
SELECT i.type, replace(i.identity, i.schema || '.', '') AS identity,
       CASE WHEN d.classid = 'pg_proc'::regclass
            THEN replace(pg_get_functiondef(d.objid), i.schema || '.', '')
            ELSE (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
                  FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
                  WHERE t.oid = d.objid) END AS definition,
       (SELECT array_agg(a::text ORDER BY a::text)
        FROM unnest(coalesce(p.proacl, t.typacl)) a) AS privileges,
       (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(pip.initprivs) a) AS initial_privileges,
       coalesce(p.proowner, t.typowner)::regrole::text AS owner,
       obj_description(d.objid, d.classid::regclass::name) AS comment
FROM pg_extension e
JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
CROSS JOIN pg_identify_object(d.classid, d.objid, 0) i
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
LEFT JOIN pg_init_privs pip ON pip.classoid = d.classid AND pip.objoid = d.objid AND pip.objsubid = 0
WHERE e.extname = 'pg_background';

-- known failure 14: another schema. Nothing is made anywhere else, and all works there.
CREATE SCHEMA "regress Schema";
CREATE EXTENSION pg_background SCHEMA "regress Schema";
CREATE TABLE fresh AS SELECT * FROM extension_catalog;
SELECT type, count(*), count(definition) AS definitions, count(privileges) AS privileges, count(comment) AS comments
FROM fresh WHERE identity NOT LIKE '%[]' GROUP BY type ORDER BY type;
SELECT DISTINCT pronamespace::regnamespace FROM pg_proc
WHERE proname ~ 'pg_background' ORDER BY 1;
SELECT h.pid, h.cookie FROM "regress Schema".pg_background_launch_v2('SELECT 14') h \gset
SELECT * FROM "regress Schema".pg_background_result_v2(:pid, :cookie) AS (x int);
CREATE ROLE regress_user;
SELECT "regress Schema".grant_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM "regress Schema".pg_background_launch_v2('SELECT 14') h \gset
SELECT * FROM "regress Schema".pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;
SELECT "regress Schema".revoke_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT "regress Schema".pg_background_launch_v2('SELECT 14');
RESET ROLE;

-- a move, with a job under way
SELECT h.pid, h.cookie FROM "regress Schema".pg_background_launch_v2('SELECT 15') h \gset
CREATE SCHEMA regress_moved;
ALTER EXTENSION pg_background SET SCHEMA regress_moved;
SELECT * FROM regress_moved.pg_background_result_v2(:pid, :cookie) AS (x int);
SELECT regress_moved.grant_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM regress_moved.pg_background_launch_v2('SELECT 16') h \gset
SELECT * FROM regress_moved.pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;
SELECT regress_moved.revoke_pg_background_privileges('regress_user');
DROP OWNED BY regress_user;
DROP EXTENSION pg_background;

-- A catalog of 1.6 with this library: before the update, across it, after it.
CREATE EXTENSION pg_background VERSION '1.6';
SELECT extversion FROM pg_extension WHERE extname = 'pg_background';
SELECT grant_pg_background_privileges('regress_user');
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (x int);
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 2') h \gset
SELECT pg_background_wait_v2(:pid, :cookie);
SELECT state, consumed
FROM pg_background_list_v2() AS (pid int4, cookie int8, launched_at timestamptz, user_id oid,
    queue_size int4, state text, sql_preview text, last_error text, consumed bool);
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 3') h \gset

ALTER EXTENSION pg_background UPDATE TO '1.7';
SELECT extversion, extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_background';
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 4') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM pg_background_launch_v2('SELECT 5') h \gset
SELECT * FROM pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;

-- What was granted to others stays theirs, in pg_dump's eyes too.
SELECT identity FROM extension_catalog WHERE initial_privileges::text LIKE '%regress_user%';
SELECT revoke_pg_background_privileges('regress_user');

-- The updated one is as the fresh one.
SELECT 'fresh' AS which, f.type, f.identity FROM (TABLE fresh EXCEPT TABLE extension_catalog) f
UNION ALL
SELECT 'updated', u.type, u.identity FROM (TABLE extension_catalog EXCEPT TABLE fresh) u;
SELECT count(*) FROM extension_catalog WHERE identity NOT LIKE '%[]';
DROP EXTENSION pg_background;

-- Also where 1.6 had been given another schema, which its objects ignored, and
-- where its privileges had been changed.
CREATE EXTENSION pg_background SCHEMA "regress Schema" VERSION '1.6';
GRANT ALL ON FUNCTION public.pg_background_launch(text, int4),
    public.pg_background_drop_executor_role() TO PUBLIC;
GRANT USAGE ON TYPE public.pg_background_handle TO PUBLIC;
REVOKE ALL ON FUNCTION public.pg_background_result(int4) FROM pgbackground_role;
ALTER EXTENSION pg_background UPDATE TO '1.7';
SELECT 'fresh' AS which, f.type, f.identity FROM (TABLE fresh EXCEPT TABLE extension_catalog) f
UNION ALL
SELECT 'updated', u.type, u.identity FROM (TABLE extension_catalog EXCEPT TABLE fresh) u;
SELECT DISTINCT pronamespace::regnamespace FROM pg_proc
WHERE proname ~ 'pg_background' ORDER BY 1;
SELECT public.grant_pg_background_privileges('regress_user');
SET ROLE regress_user;
SELECT h.pid, h.cookie FROM public.pg_background_launch_v2('SELECT 6') h \gset
SELECT * FROM public.pg_background_result_v2(:pid, :cookie) AS (x int);
RESET ROLE;

DROP EXTENSION pg_background;
DROP VIEW extension_catalog;
DROP TABLE fresh;
DROP SCHEMA "regress Schema", regress_moved;
DROP ROLE regress_user;
