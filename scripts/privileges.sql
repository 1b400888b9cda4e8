-- PUBLIC gets nothing, the executor role everything but the helpers. A GRANT or
-- REVOKE in here makes pg_dump take all of the object's privileges for ones that
-- the extension makes, and leave them out, also those that users have granted.
-- So there is none that changes nothing, and none on the schema.

DO LANGUAGE plpgsql $block$
DECLARE
    command text;
BEGIN
    FOR command IN
@objects
        , held AS (
            SELECT o.kind, o.name, o.privilege,
                   EXISTS (SELECT FROM aclexplode(o.acl) WHERE grantee = 0) AS is_public,
                   ARRAY(SELECT DISTINCT privilege_type FROM aclexplode(o.acl)
                         WHERE grantee = 'pgbackground_role'::regrole) AS executor
            FROM object o
        )
        SELECT format('REVOKE ALL ON %s %s FROM PUBLIC', kind, name)
        FROM held
        WHERE is_public
        UNION ALL
        SELECT format('REVOKE ALL ON %s %s FROM pgbackground_role', kind, name)
        FROM held
        WHERE NOT executor <@ ARRAY[privilege]
        UNION ALL
        SELECT format('GRANT %s ON %s %s TO pgbackground_role', privilege, kind, name)
        FROM held
        WHERE executor <> ARRAY[privilege] AND privilege IS NOT NULL
    LOOP
        EXECUTE command;
    END LOOP;
END
$block$;
