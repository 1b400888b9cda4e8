/* pg_background--1.11--1.12.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION pg_background UPDATE TO '1.12'" to load this file. \quit

-- CREATE EXTENSION runs this too, after pg_background--1.11.sql. CREATE without
-- OR REPLACE: what another role has put there under one of these names stops it.

-- 1.6 made its objects in public by name, whatever schema it was installed in. A
-- dump has the extension's schema only, and there all is made when it is restored.
-- Types are last, since they are in the names of functions.

DO LANGUAGE plpgsql $block$
DECLARE
    home text;
    command text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT extnamespace::regnamespace INTO home FROM pg_extension WHERE extname = 'pg_background';

    FOR command IN
        WITH member AS (
            SELECT d.classid, d.objid, e.extnamespace AS home
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            WHERE e.extname = 'pg_background'
        ), object (number, name) AS (
            SELECT 1, 'ROUTINE ' || p.oid::regprocedure
            FROM member m
            JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
            WHERE p.pronamespace <> m.home
            UNION ALL
            SELECT 2, 'VIEW ' || c.oid::regclass
            FROM member m
            JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
            WHERE c.relnamespace <> m.home AND c.relkind = 'v'
            UNION ALL
            SELECT 3, 'TYPE ' || t.oid::regtype
            FROM member m
            JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
            JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
            WHERE t.typnamespace <> m.home
        )
        SELECT format('ALTER %s SET SCHEMA %s', name, home)
        FROM object
        ORDER BY number
    LOOP
        EXECUTE command;
    END LOOP;

    PERFORM set_config('search_path', home || ', pg_temp', true);
END
$block$;

-- Parameters of a client that leaves their types open. VARIADIC "any" does not
-- tell the server what to take them for, and VARIADIC text[] would also take
-- varchar, name and char(n), which are to be sent as they are. Of this type are
-- only values that had none: nothing is cast to it, and being a string type, it
-- is preferred where nothing else is known.

CREATE TYPE pg_background_untyped;

CREATE FUNCTION pg_background_untyped_in(cstring)
RETURNS pg_background_untyped
AS 'textin'
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION pg_background_untyped_out(pg_background_untyped)
RETURNS cstring
AS 'textout'
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION pg_background_untyped_recv(internal)
RETURNS pg_background_untyped
AS 'textrecv'
LANGUAGE internal STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION pg_background_untyped_send(pg_background_untyped)
RETURNS bytea
AS 'textsend'
LANGUAGE internal STABLE STRICT PARALLEL SAFE;

CREATE TYPE pg_background_untyped (
    INPUT = pg_background_untyped_in, OUTPUT = pg_background_untyped_out,
    RECEIVE = pg_background_untyped_recv, SEND = pg_background_untyped_send,
    LIKE = text, CATEGORY = 'S');

CREATE CAST (pg_background_untyped AS text) WITHOUT FUNCTION;

CREATE FUNCTION pg_background_launch_params_v2(sql text, VARIADIC params pg_background_untyped[])
RETURNS pg_background_handle
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT pg_background_launch_params_v2(sql, VARIADIC params::text[]);
END;

CREATE FUNCTION pg_background_submit_params_v2(sql text, VARIADIC params pg_background_untyped[])
RETURNS pg_background_handle
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT pg_background_submit_params_v2(sql, VARIADIC params::text[]);
END;

CREATE FUNCTION pg_background_run_params_v2(sql text, VARIADIC params pg_background_untyped[])
RETURNS pg_background_run_result
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT pg_background_run_params_v2(sql, VARIADIC params::text[]);
END;

-- Commands that wait for the snapshots of others, as CREATE INDEX CONCURRENTLY
-- does, would wait for that of a SELECT which waits for them.

CREATE PROCEDURE pg_background_maintain(
    commands text[], concurrency int4 DEFAULT 0, stop_on_error bool DEFAULT false,
    INOUT outcomes pg_background_outcome[] DEFAULT NULL)
AS 'MODULE_PATHNAME', 'pg_background_maintain'
LANGUAGE C;

COMMENT ON PROCEDURE pg_background_maintain(text[], int4, bool, pg_background_outcome[])
IS 'run many commands in a few background workers, and hold no snapshot meanwhile; returns what became of each';
COMMENT ON TYPE pg_background_untyped
IS 'a parameter whose type is left open; it is sent as text';
COMMENT ON FUNCTION pg_background_untyped_in(cstring)
IS 'I/O';
COMMENT ON FUNCTION pg_background_untyped_out(pg_background_untyped)
IS 'I/O';
COMMENT ON FUNCTION pg_background_untyped_recv(internal)
IS 'I/O';
COMMENT ON FUNCTION pg_background_untyped_send(pg_background_untyped)
IS 'I/O';
COMMENT ON FUNCTION pg_background_launch_params_v2(text, VARIADIC pg_background_untyped[])
IS 'run a statement with parameters $1, $2, ... of type text in a background worker; returns a handle';
COMMENT ON FUNCTION pg_background_submit_params_v2(text, VARIADIC pg_background_untyped[])
IS 'run a statement with parameters $1, $2, ... of type text in a background worker whose result is not wanted; returns a handle';
COMMENT ON FUNCTION pg_background_run_params_v2(text, VARIADIC pg_background_untyped[])
IS 'run a statement with parameters $1, $2, ... of type text in a background worker and wait for it; returns what became of it';

SET LOCAL search_path = pg_catalog, pg_temp;

-- The privilege helpers know functions only, and there is a procedure now.

DO LANGUAGE plpgsql $block$
DECLARE
    helper regprocedure;
BEGIN
    FOR helper IN
        SELECT d.objid
        FROM pg_extension e
        JOIN pg_depend d
          ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
        JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
        WHERE e.extname = 'pg_background'
          AND p.proname IN ('grant_pg_background_privileges', 'revoke_pg_background_privileges',
                            'pg_background_drop_executor_role')
    LOOP
        EXECUTE replace(replace(pg_get_functiondef(helper),
                                '''ALL ON FUNCTION ''', '''ALL ON ROUTINE '''),
                        '''FUNCTION'' AS kind', '''ROUTINE'' AS kind');
    END LOOP;
END
$block$;

-- PUBLIC gets nothing, the executor role everything but the helpers and the type
-- above, which nobody needs to name; as in pg_background--1.11.sql, where it says
-- why there is no GRANT or REVOKE that changes nothing.

DO LANGUAGE plpgsql $block$
DECLARE
    command text;
    executor record;
BEGIN
    -- What another role had put there could have been called in place of ours.
    PERFORM
    FROM pg_depend body
    JOIN pg_depend member
      ON member.classid = 'pg_proc'::regclass AND member.objid = body.objid AND member.deptype = 'e'
    JOIN pg_extension e ON member.refclassid = 'pg_extension'::regclass AND member.refobjid = e.oid
    WHERE e.extname = 'pg_background'
      AND body.classid = 'pg_proc'::regclass AND body.refclassid = 'pg_proc'::regclass
      AND NOT EXISTS (
          SELECT
          FROM pg_depend d
          WHERE d.classid = 'pg_proc'::regclass AND d.objid = body.refobjid
            AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e');
    IF FOUND THEN
        RAISE EXCEPTION 'functions with the names of those of pg_background are in its schema'
            USING ERRCODE = 'duplicate_function',
                  HINT = 'Drop them, or give the extension a schema of its own.';
    END IF;

    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgbackground_role') THEN
        CREATE ROLE pgbackground_role NOLOGIN;
        COMMENT ON ROLE pgbackground_role IS 'may use pg_background';
    END IF;

    -- Whoever is to run jobs becomes a member of this role, and could use what else
    -- it may do. Its comment tells whether the extension has made it, be it in
    -- another database.
    SELECT r.rolcanlogin AS can_login,
           shobj_description(r.oid, 'pg_authid') IS NOT DISTINCT FROM 'may use pg_background' AS is_ours,
           concat_ws(', ', CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                     CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolreplication THEN 'REPLICATION' END,
                     CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
                     (SELECT 'membership in ' || string_agg(m.roleid::regrole::text, ', ' ORDER BY m.roleid::regrole::text)
                      FROM pg_auth_members m WHERE m.member = r.oid)) AS more,
           (SELECT string_agg(DISTINCT m.member::regrole::text, ', ')
            FROM pg_auth_members m WHERE m.roleid = r.oid) AS members
    INTO executor
    FROM pg_roles r
    WHERE r.rolname = 'pgbackground_role';
    IF executor.more <> '' THEN
        RAISE EXCEPTION 'role "pgbackground_role" may do more than run jobs'
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('It has %s, which its members could use.', executor.more),
                  HINT = 'Take that from the role, or rename it or drop it, so that the extension makes one.';
    END IF;
    IF NOT executor.is_ours THEN
        RAISE WARNING 'role "pgbackground_role" is there already and is used as it is'
            USING DETAIL = coalesce('These are members of it, and may run jobs: ' || executor.members || '.', 'It has no members.');
    END IF;
    IF executor.can_login THEN
        RAISE WARNING 'role "pgbackground_role" can log in'
            USING HINT = 'ALTER ROLE pgbackground_role NOLOGIN.';
    END IF;

    FOR command IN
        WITH member AS (
            SELECT d.classid, d.objid
            FROM pg_extension e
            JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
            WHERE e.extname = 'pg_background'
        ), object (name, acl, wanted) AS (
            SELECT 'ROUTINE ' || p.oid::regprocedure, coalesce(p.proacl, acldefault('f', p.proowner)),
                   CASE WHEN p.proname NOT IN ('grant_pg_background_privileges',
                                               'revoke_pg_background_privileges',
                                               'pg_background_drop_executor_role') THEN 'EXECUTE' END
            FROM member m
            JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
            UNION ALL
            SELECT 'TYPE ' || t.oid::regtype, coalesce(t.typacl, acldefault('T', t.typowner)),
                   CASE WHEN t.typname <> 'pg_background_untyped' THEN 'USAGE' END
            FROM member m
            JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
            LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE c.relkind = 'c' OR t.typname = 'pg_background_untyped'
            UNION ALL
            SELECT 'TABLE ' || c.oid::regclass, coalesce(c.relacl, acldefault('r', c.relowner)), 'SELECT'
            FROM member m
            JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
        ), privilege AS (
            SELECT o.name, o.wanted,
                   EXISTS (SELECT FROM aclexplode(o.acl) WHERE grantee = 0) AS is_public,
                   ARRAY(SELECT DISTINCT privilege_type FROM aclexplode(o.acl)
                         WHERE grantee = 'pgbackground_role'::regrole) AS held
            FROM object o
        )
        SELECT format('REVOKE ALL ON %s FROM PUBLIC', name)
        FROM privilege
        WHERE is_public
        UNION ALL
        SELECT format('REVOKE ALL ON %s FROM pgbackground_role', name)
        FROM privilege
        WHERE NOT held <@ ARRAY[wanted]
        UNION ALL
        SELECT format('GRANT %s ON %s TO pgbackground_role', wanted, name)
        FROM privilege
        WHERE held <> ARRAY[wanted] AND wanted IS NOT NULL
    LOOP
        EXECUTE command;
    END LOOP;
END
$block$;
