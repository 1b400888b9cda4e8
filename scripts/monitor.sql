
-- What monitoring reads. It shows others' jobs to those only who may see them.

DO LANGUAGE plpgsql $block$
DECLARE
    command text;
BEGIN
    FOR command IN
@objects
        SELECT format('GRANT %s ON %s %s TO pg_monitor', privilege, kind, name)
        FROM object
        WHERE plain_name IN ('pg_background_pool', 'pg_background_workers')
          AND NOT EXISTS (SELECT FROM aclexplode(acl) WHERE grantee = 'pg_monitor'::regrole)
        ORDER BY name
    LOOP
        EXECUTE command;
    END LOOP;
END
$block$;
