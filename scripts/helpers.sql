-- The privilege helpers ask the catalog what the extension holds, so they know
-- every object of every version, in whatever schema it is.

CREATE OR REPLACE FUNCTION grant_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
@holder
@objects
        SELECT format('GRANT USAGE ON SCHEMA %s TO %s', n.oid::regnamespace, holder)
        FROM pg_namespace n
        WHERE n.oid IN (SELECT schema_id FROM object)
          AND NOT has_schema_privilege(holder, n.oid, 'USAGE')
        UNION ALL
        (SELECT format('GRANT %s ON %s %s TO %s', privilege, kind, name, holder)
         FROM object
         WHERE privilege IS NOT NULL
         ORDER BY kind, name COLLATE "C")
    LOOP
        IF print_commands THEN
            RAISE NOTICE '%', command;
        END IF;
        EXECUTE command;
    END LOOP;
    RETURN true;
END
$function$;

-- What the other helper has granted. There is no telling whether USAGE on the
-- schema is its doing, unless it is among the privileges that a role has there.

CREATE OR REPLACE FUNCTION revoke_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
@holder
@objects
        (SELECT format('REVOKE ALL ON %s %s FROM %s', kind, name, holder)
         FROM object
         WHERE privilege IS NOT NULL
         ORDER BY kind, name COLLATE "C")
        UNION ALL
        SELECT format('REVOKE USAGE ON SCHEMA %s FROM %s', n.oid::regnamespace, holder)
        FROM pg_namespace n
        CROSS JOIN aclexplode(n.nspacl) a
        WHERE n.oid IN (SELECT schema_id FROM object)
          AND a.grantee = holder AND a.privilege_type = 'USAGE'
    LOOP
        IF print_commands THEN
            RAISE NOTICE '%', command;
        END IF;
        EXECUTE command;
    END LOOP;
    RETURN true;
END
$function$;

-- An extension script's GRANT goes into the object's initial privileges too
-- (pg_init_privs), which would still name the role. They are recorded anew, as
-- the privileges of the moment, when the object leaves and joins the extension;
-- what other roles have been granted is set aside meanwhile, or pg_dump would
-- take that for the extension's.

CREATE OR REPLACE FUNCTION pg_background_drop_executor_role()
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    command text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgbackground_role') THEN
        RAISE NOTICE 'role "pgbackground_role" does not exist, skipping';
        RETURN;
    END IF;

    FOR command IN
@objects
        , held AS (
            SELECT format('%s ON %s %s', a.privilege_type, o.kind, o.name) AS name, a.is_grantable,
                   CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
            FROM object o
            CROSS JOIN aclexplode(o.acl) a
            WHERE o.privilege IS NOT NULL AND a.grantee <> o.owner
        ), step (number, command) AS (
            SELECT 1, format('REVOKE USAGE ON SCHEMA %s FROM pgbackground_role', schema_id::regnamespace)
            FROM object
            UNION
            SELECT 2, format('REVOKE %s FROM %s CASCADE', name, grantee)
            FROM held
            UNION
            SELECT n, format('ALTER EXTENSION pg_background %s %s %s', verb,
                             CASE kind WHEN 'TABLE' THEN 'VIEW' ELSE kind END, name)
            FROM object, (VALUES (3, 'DROP'), (4, 'ADD')) v (n, verb)
            WHERE privilege IS NOT NULL
            UNION
            SELECT 5, format('GRANT %s TO %s', name, grantee)
                      || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            FROM held
            WHERE grantee <> 'pgbackground_role'
        )
        SELECT s.command FROM step s ORDER BY s.number
    LOOP
        EXECUTE command;
    END LOOP;
    DROP ROLE pgbackground_role;
END
$function$;

COMMENT ON FUNCTION grant_pg_background_privileges(text, boolean)
IS 'let a role use pg_background';
COMMENT ON FUNCTION revoke_pg_background_privileges(text, boolean)
IS 'take the use of pg_background from a role';
COMMENT ON FUNCTION pg_background_drop_executor_role()
IS 'drop the role pgbackground_role';
