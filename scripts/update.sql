-- All is made where it is, be it another schema than the extension's. What has
-- to be dropped takes along what was granted on it, which is kept in a setting
-- meanwhile: never that which the user may have given it, since commands are made
-- of it. 1.4 called the argument of the helpers otherwise, which a REPLACE
-- does not change. By its comment the role is known to be the extension's, which
-- it had not before ours of 1.11.

DO LANGUAGE plpgsql $block$
DECLARE
    home text;
    helper regprocedure;
    known int;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    PERFORM set_config('pg_background_update.privileges', (
@objects
        SELECT coalesce(jsonb_agg(jsonb_build_object('id', o.id, 'name', o.plain_name, 'kind', o.kind, 'owner', o.owner,
                                                     'grantee', a.grantee, 'privilege', a.privilege_type,
                                                     'is_grantable', a.is_grantable)), '[]')::text
        FROM object o
        CROSS JOIN aclexplode(o.acl) a), true);

    FOR helper IN
@objects
        SELECT o.id
        FROM object o
        JOIN pg_proc p ON p.oid = o.id
        WHERE o.kind = 'ROUTINE' AND o.privilege IS NULL
          AND format('(%s) %s', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)) NOT IN (
              '(role_name text, print_commands boolean DEFAULT false) boolean', '() void')
    LOOP
        EXECUTE format('DROP FUNCTION %s', helper);
    END LOOP;

@objects
    SELECT 1 INTO known FROM object WHERE plain_name = 'pg_background_run_all_v2';
    IF known IS NULL AND to_regrole('pgbackground_role') IS NOT NULL THEN
        COMMENT ON ROLE pgbackground_role IS 'may use pg_background';
    END IF;

@objects
    SELECT schema_id::regnamespace INTO STRICT home
    FROM object
    WHERE kind = 'ROUTINE' AND plain_name = 'pg_background_launch'
    LIMIT 1;
    PERFORM set_config('search_path', home || ', pg_temp', true);
END
$block$;
