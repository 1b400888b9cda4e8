-- The three privilege helpers: what they grant and revoke, and to whom.

CREATE EXTENSION pg_background;
CREATE ROLE regress_user;
CREATE ROLE "regress ""user""'s %I";
\set SHOW_CONTEXT never

-- Every privilege on the extension's objects, but for their owner's.
CREATE VIEW privilege AS
WITH object AS (
    SELECT 'function' AS kind, p.proname AS name, p.proowner AS owner,
           coalesce(p.proacl, acldefault('f', p.proowner)) AS acl, i.initprivs
    FROM pg_depend d
    JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
    LEFT JOIN pg_init_privs i ON i.classoid = d.classid AND i.objoid = d.objid
    WHERE e.extname = 'pg_background'
    UNION ALL
    SELECT 'type', t.typname, t.typowner,
           coalesce(t.typacl, acldefault('T', t.typowner)), i.initprivs
    FROM pg_depend d
    JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    JOIN pg_type t ON d.classid = 'pg_type'::regclass AND d.objid = t.oid
    JOIN pg_class c ON t.typrelid = c.oid AND c.relkind = 'c'
    LEFT JOIN pg_init_privs i ON i.classoid = d.classid AND i.objoid = d.objid
    WHERE e.extname = 'pg_background'
    UNION ALL
    SELECT 'view', c.relname, c.relowner,
           coalesce(c.relacl, acldefault('r', c.relowner)), i.initprivs
    FROM pg_depend d
    JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
    LEFT JOIN pg_init_privs i ON i.classoid = d.classid AND i.objoid = d.objid
    WHERE e.extname = 'pg_background'
)
SELECT o.kind, o.name, s.source, coalesce(r.rolname, 'PUBLIC') AS grantee,
       a.privilege_type, a.is_grantable
FROM object o
CROSS JOIN LATERAL (VALUES ('now', o.acl), ('initial', o.initprivs)) s (source, acl)
CROSS JOIN LATERAL aclexplode(s.acl) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE a.grantee <> o.owner;

-- a fresh extension: the executor role has everything but the helpers
SELECT source, grantee, privilege_type, is_grantable, count(*)
FROM privilege GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3;
SELECT p.proname FROM pg_depend d
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
WHERE e.extname = 'pg_background'
  AND NOT has_function_privilege('pgbackground_role', p.oid, 'EXECUTE')
ORDER BY 1;
SELECT rolcanlogin, rolsuper, rolcreaterole, rolinherit FROM pg_roles WHERE rolname = 'pgbackground_role';

-- grant and revoke, printed and not
SELECT grant_pg_background_privileges('regress_user', true);
SELECT kind, name, privilege_type, is_grantable FROM privilege WHERE grantee = 'regress_user' ORDER BY 1, 2;
SELECT revoke_pg_background_privileges('regress_user', true);
SELECT count(*) FROM privilege WHERE grantee = 'regress_user';
SELECT grant_pg_background_privileges('regress_user');
SELECT grant_pg_background_privileges(role_name => 'regress_user', print_commands => NULL);
SELECT source, count(*) FROM privilege WHERE grantee = 'regress_user' GROUP BY 1;
SELECT revoke_pg_background_privileges('regress_user');
SELECT revoke_pg_background_privileges('regress_user', false);
SELECT count(*) FROM privilege WHERE grantee = 'regress_user';

-- a name that needs quoting
SELECT grant_pg_background_privileges('regress "user"''s %I');
SELECT source, count(*) FROM privilege WHERE grantee = 'regress "user"''s %I' GROUP BY 1;
SELECT revoke_pg_background_privileges('regress "user"''s %I');
SELECT count(*) FROM privilege WHERE grantee = 'regress "user"''s %I';

-- no such role: words that GRANT has a meaning for are names here, nothing is
-- folded or cut to fit
SELECT grant_pg_background_privileges(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT revoke_pg_background_privileges(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT grant_pg_background_privileges('regress_nobody');
\echo :LAST_ERROR_SQLSTATE
SELECT revoke_pg_background_privileges('regress_nobody');
\echo :LAST_ERROR_SQLSTATE
SELECT grant_pg_background_privileges('');
SELECT grant_pg_background_privileges('public');
SELECT grant_pg_background_privileges('current_user');
SELECT grant_pg_background_privileges('REGRESS_USER');
SELECT grant_pg_background_privileges('regress_user, pg_monitor');
SELECT rpad('regress_', 63, 'x') AS longest \gset
CREATE ROLE :longest;
SELECT grant_pg_background_privileges(:'longest' || 'x');
SELECT grant_pg_background_privileges(:'longest');
DROP OWNED BY :longest;
DROP ROLE :longest;
SELECT count(*) FROM privilege WHERE grantee NOT IN ('pgbackground_role', 'pg_monitor');

-- They have no privileges of their own to give.
GRANT EXECUTE ON FUNCTION grant_pg_background_privileges(text, boolean) TO regress_user;
SET ROLE regress_user;
SELECT grant_pg_background_privileges('regress_user');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
REVOKE EXECUTE ON FUNCTION grant_pg_background_privileges(text, boolean) FROM regress_user;
SET ROLE pgbackground_role;
SELECT grant_pg_background_privileges('regress_user');
SELECT revoke_pg_background_privileges('regress_user');
SELECT pg_background_drop_executor_role();
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- The schema: USAGE on it is granted where it is missing, after a move too.
CREATE SCHEMA "regress Schema";
ALTER EXTENSION pg_background SET SCHEMA "regress Schema";
SELECT "regress Schema".grant_pg_background_privileges('regress_user', true);
SELECT has_schema_privilege('regress_user', 'regress Schema', 'USAGE');
SELECT count(*) FROM privilege WHERE grantee = 'regress_user';
SELECT "regress Schema".revoke_pg_background_privileges('regress_user', true);
SELECT has_schema_privilege('regress_user', 'regress Schema', 'USAGE');
SELECT count(*) FROM privilege WHERE grantee = 'regress_user';
REVOKE USAGE ON SCHEMA "regress Schema" FROM regress_user;
ALTER EXTENSION pg_background SET SCHEMA public;

-- The executor role is not dropped from under anything else.
CREATE TABLE regress_table ();
GRANT SELECT ON regress_table TO pgbackground_role;
\set VERBOSITY terse
SELECT pg_background_drop_executor_role();
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
SELECT source, grantee, count(*) FROM privilege GROUP BY 1, 2 ORDER BY 1, 2;
DROP TABLE regress_table;

-- It takes its own privileges with it, also from the initial ones, which pg_dump
-- compares with; those of others stay, and do not become initial ones.
ALTER EXTENSION pg_background SET SCHEMA "regress Schema";
SELECT "regress Schema".grant_pg_background_privileges('pgbackground_role');
SELECT "regress Schema".grant_pg_background_privileges('regress "user"''s %I');
GRANT ALL ON FUNCTION "regress Schema".pg_background_list_v2() TO regress_user WITH GRANT OPTION;
GRANT ALL ON FUNCTION "regress Schema".pg_background_list_v2() TO PUBLIC;
GRANT UPDATE ON "regress Schema".pg_background_list TO regress_user;
SELECT "regress Schema".pg_background_drop_executor_role();
SELECT source, grantee, privilege_type, is_grantable, count(*)
FROM privilege GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3;
SELECT count(*) FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
WHERE e.extname = 'pg_background' AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
  AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass);
SELECT "regress Schema".pg_background_drop_executor_role();
SELECT count(*) FROM pg_roles WHERE rolname = 'pgbackground_role';

-- An extension script's GRANT on the schema would make what others have been
-- granted there vanish from a dump.
DROP EXTENSION pg_background;
GRANT USAGE ON SCHEMA "regress Schema" TO regress_user;
CREATE EXTENSION pg_background SCHEMA "regress Schema";
SELECT count(*) FROM pg_init_privs
WHERE classoid = 'pg_namespace'::regclass AND objoid = '"regress Schema"'::regnamespace;
SELECT source, grantee, count(*) FROM privilege GROUP BY 1, 2 ORDER BY 1, 2;

DROP EXTENSION pg_background;
DROP VIEW privilege;
DROP SCHEMA "regress Schema";
DROP ROLE regress_user, "regress ""user""'s %I";
