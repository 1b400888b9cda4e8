/* pg_background--1.7.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_background" to load this file. \quit

-- The server runs this file with search_path set to the schema the extension
-- goes into, and pg_catalog before it. CREATE without OR REPLACE: what another
-- role has put there under one of these names stops the installation.

-- v1: a job's handle is the PID of its worker

CREATE FUNCTION pg_background_launch(sql text, queue_size int4 DEFAULT 65536)
RETURNS int4
AS 'MODULE_PATHNAME', 'pg_background_launch'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_result(pid int4)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_result'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_detach(pid int4)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_detach'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- v2: a job's handle is a PID and a cookie, so that a PID used again is no danger

CREATE TYPE pg_background_handle AS (pid int4, cookie int8);

CREATE FUNCTION pg_background_launch_v2(sql text, queue_size int4 DEFAULT 65536)
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_launch_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_submit_v2(sql text, queue_size int4 DEFAULT 65536)
RETURNS pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_submit_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_result_v2(pid int4, cookie int8)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_result_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_detach_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_detach_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_cancel_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_cancel_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_cancel_v2_grace(pid int4, cookie int8, grace_ms int4)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_cancel_v2_grace'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_wait_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_wait_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_wait_v2_timeout(pid int4, cookie int8, timeout_ms int4)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pg_background_wait_v2_timeout'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION pg_background_list_v2()
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_list_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- The privilege helpers ask the catalog what the extension holds, so they know
-- every object of every version, in whatever schema it is.

CREATE FUNCTION grant_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    grantee regrole;
    command text;
BEGIN
    IF role_name IS NULL THEN
        RAISE EXCEPTION 'role name must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT oid INTO grantee FROM pg_roles WHERE rolname = role_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name USING ERRCODE = 'undefined_object';
    END IF;

    FOR command IN
        WITH object AS (
            SELECT 'FUNCTION ' || p.oid::regprocedure AS name, p.pronamespace AS schema_id
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
            WHERE e.extname = 'pg_background'
              AND p.proname NOT IN ('grant_pg_background_privileges',
                                    'revoke_pg_background_privileges',
                                    'pg_background_drop_executor_role')
            UNION ALL
            SELECT 'TYPE ' || t.oid::regtype, t.typnamespace
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            WHERE e.extname = 'pg_background'
        )
        SELECT format('GRANT USAGE ON SCHEMA %s TO %s', n.oid::regnamespace, grantee)
        FROM pg_namespace n
        WHERE n.oid IN (SELECT schema_id FROM object)
          AND NOT has_schema_privilege(grantee, n.oid, 'USAGE')
        UNION ALL
        (SELECT format('GRANT ALL ON %s TO %s', name, grantee)
         FROM object
         ORDER BY name COLLATE "C")
    LOOP
        IF print_commands THEN
            RAISE NOTICE '%', command;
        END IF;
        EXECUTE command;
    END LOOP;
    RETURN true;
END
$function$;

CREATE FUNCTION revoke_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    grantee regrole;
    command text;
BEGIN
    IF role_name IS NULL THEN
        RAISE EXCEPTION 'role name must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT oid INTO grantee FROM pg_roles WHERE rolname = role_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name USING ERRCODE = 'undefined_object';
    END IF;

    FOR command IN
        WITH object AS (
            SELECT 'FUNCTION ' || p.oid::regprocedure AS name
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
            WHERE e.extname = 'pg_background'
              AND p.proname NOT IN ('grant_pg_background_privileges',
                                    'revoke_pg_background_privileges',
                                    'pg_background_drop_executor_role')
            UNION ALL
            SELECT 'TYPE ' || t.oid::regtype
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            WHERE e.extname = 'pg_background'
        )
        SELECT format('REVOKE ALL ON %s FROM %s', name, grantee)
        FROM object
        ORDER BY name COLLATE "C"
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

CREATE FUNCTION pg_background_drop_executor_role()
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
        WITH object AS (
            SELECT 'FUNCTION ' || p.oid::regprocedure AS name,
                   p.pronamespace AS schema_id, p.proowner AS owner, p.proacl AS acl
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
            WHERE e.extname = 'pg_background'
              AND p.proname NOT IN ('grant_pg_background_privileges',
                                    'revoke_pg_background_privileges',
                                    'pg_background_drop_executor_role')
            UNION ALL
            SELECT 'TYPE ' || t.oid::regtype, t.typnamespace, t.typowner, t.typacl
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            WHERE e.extname = 'pg_background'
        ), privilege AS (
            SELECT o.name, a.is_grantable,
                   CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
            FROM object o
            CROSS JOIN aclexplode(o.acl) a
            WHERE a.grantee <> o.owner
        ), step (number, command) AS (
            SELECT 1, format('REVOKE USAGE ON SCHEMA %s FROM pgbackground_role', schema_id::regnamespace)
            FROM object
            UNION
            SELECT 2, format('REVOKE ALL ON %s FROM %s CASCADE', name, grantee)
            FROM privilege
            UNION
            SELECT 3, format('ALTER EXTENSION pg_background DROP %s', name)
            FROM object
            UNION
            SELECT 4, format('ALTER EXTENSION pg_background ADD %s', name)
            FROM object
            UNION
            SELECT 5, format('GRANT ALL ON %s TO %s', name, grantee)
                      || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            FROM privilege
            WHERE grantee <> 'pgbackground_role'
        )
        SELECT s.command FROM step s ORDER BY s.number
    LOOP
        EXECUTE command;
    END LOOP;
    DROP ROLE pgbackground_role;
END
$function$;

COMMENT ON TYPE pg_background_handle
IS 'names a job of this session: the PID of its worker and a cookie';
COMMENT ON FUNCTION pg_background_launch(text, int4)
IS 'run SQL in a background worker; returns its PID';
COMMENT ON FUNCTION pg_background_result(int4)
IS 'wait for a job and return its rows, once';
COMMENT ON FUNCTION pg_background_detach(int4)
IS 'stop tracking a job, which goes on';
COMMENT ON FUNCTION pg_background_launch_v2(text, int4)
IS 'run SQL in a background worker; returns a handle';
COMMENT ON FUNCTION pg_background_submit_v2(text, int4)
IS 'run SQL in a background worker whose result is not wanted; returns a handle';
COMMENT ON FUNCTION pg_background_result_v2(int4, int8)
IS 'wait for a job and return its rows, once';
COMMENT ON FUNCTION pg_background_detach_v2(int4, int8)
IS 'stop tracking a job, which goes on';
COMMENT ON FUNCTION pg_background_cancel_v2(int4, int8)
IS 'cancel a job';
COMMENT ON FUNCTION pg_background_cancel_v2_grace(int4, int8, int4)
IS 'cancel a job, and terminate its worker if that has not ended it after some milliseconds';
COMMENT ON FUNCTION pg_background_wait_v2(int4, int8)
IS 'wait until a job has ended';
COMMENT ON FUNCTION pg_background_wait_v2_timeout(int4, int8, int4)
IS 'wait until a job has ended, or for some milliseconds; true when it has ended';
COMMENT ON FUNCTION pg_background_list_v2()
IS 'the jobs of this session';
COMMENT ON FUNCTION grant_pg_background_privileges(text, boolean)
IS 'let a role use pg_background';
COMMENT ON FUNCTION revoke_pg_background_privileges(text, boolean)
IS 'take the use of pg_background from a role';
COMMENT ON FUNCTION pg_background_drop_executor_role()
IS 'drop the role pgbackground_role';

-- PUBLIC gets nothing, the executor role everything but the helpers. A GRANT or
-- REVOKE in here makes pg_dump take all of the object's privileges for ones that
-- the extension makes, and leave them out, also those that users have granted.
-- So there is none that changes nothing, and none on the schema.

SET LOCAL search_path = pg_catalog, pg_temp;

DO LANGUAGE plpgsql $block$
DECLARE
    command text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgbackground_role') THEN
        CREATE ROLE pgbackground_role NOLOGIN;
    END IF;
    COMMENT ON ROLE pgbackground_role IS 'may use pg_background';

    FOR command IN
        WITH object AS (
            SELECT 'FUNCTION ' || p.oid::regprocedure AS name,
                   p.proname IN ('grant_pg_background_privileges',
                                 'revoke_pg_background_privileges',
                                 'pg_background_drop_executor_role') AS is_helper,
                   coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
            WHERE e.extname = 'pg_background'
            UNION ALL
            SELECT 'TYPE ' || t.oid::regtype, false, coalesce(t.typacl, acldefault('T', t.typowner))
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            WHERE e.extname = 'pg_background'
        )
        SELECT format('REVOKE ALL ON %s FROM PUBLIC', name)
        FROM object
        WHERE EXISTS (SELECT FROM aclexplode(acl) WHERE grantee = 0)
        UNION ALL
        SELECT format('GRANT ALL ON %s TO pgbackground_role', name)
        FROM object
        WHERE NOT is_helper
          AND NOT EXISTS (SELECT FROM aclexplode(acl) WHERE grantee = 'pgbackground_role'::regrole)
    LOOP
        EXECUTE command;
    END LOOP;
END
$block$;
