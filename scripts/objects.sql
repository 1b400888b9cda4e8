        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            WHERE e.extname = 'pg_background'
        ), object AS (
            SELECT p.oid AS id, p.proname AS plain_name, 'ROUTINE' AS kind, p.oid::regprocedure::text AS name,
                   p.pronamespace AS schema_id, p.proowner AS owner, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl,
                   CASE WHEN p.proname NOT IN ('grant_pg_background_privileges', 'revoke_pg_background_privileges',
                                               'pg_background_grant_privileges', 'pg_background_revoke_privileges',
                                               'pg_background_drop_executor_role') THEN 'EXECUTE' END AS privilege
            FROM member m
            JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
            UNION ALL
            SELECT t.oid, t.typname, 'TYPE', t.oid::regtype::text,
                   t.typnamespace, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner)),
                   CASE WHEN t.typname <> 'pg_background_untyped' THEN 'USAGE' END
            FROM member m
            JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
            LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE c.relkind = 'c' OR t.typname = 'pg_background_untyped'
            UNION ALL
            SELECT c.oid, c.relname, 'TABLE', c.oid::regclass::text,
                   c.relnamespace, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner)), 'SELECT'
            FROM member m
            JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
            WHERE c.relkind = 'v'
        )
