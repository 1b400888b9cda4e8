/* pg_background--1.6.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_background" to load this file. \quit

-- The catalog as 1.6 made it, objects in public by name; updates are tested from it.

CREATE FUNCTION public.pg_background_launch(sql text, queue_size int4 DEFAULT 65536)
RETURNS int4
AS 'MODULE_PATHNAME', 'pg_background_launch'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_result(pid int4)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_result'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_detach(pid int4)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_detach'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE TYPE public.pg_background_handle AS (pid int4, cookie int8);

CREATE FUNCTION public.pg_background_launch_v2(sql text, queue_size int4 DEFAULT 65536)
RETURNS public.pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_launch_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_submit_v2(sql text, queue_size int4 DEFAULT 65536)
RETURNS public.pg_background_handle
AS 'MODULE_PATHNAME', 'pg_background_submit_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_result_v2(pid int4, cookie int8)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_result_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_detach_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_detach_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_cancel_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_cancel_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_cancel_v2_grace(pid int4, cookie int8, grace_ms int4)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_cancel_v2_grace'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_wait_v2(pid int4, cookie int8)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_wait_v2'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_wait_v2_timeout(pid int4, cookie int8, timeout_ms int4)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pg_background_wait_v2_timeout'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION public.pg_background_list_v2()
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_background_list_v2'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION public.grant_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql
AS $function$
DECLARE
    object text;
    command text;
BEGIN
    FOREACH object IN ARRAY ARRAY[
        'FUNCTION public.pg_background_launch(text, int4)',
        'FUNCTION public.pg_background_result(int4)',
        'FUNCTION public.pg_background_detach(int4)',
        'FUNCTION public.pg_background_launch_v2(text, int4)',
        'FUNCTION public.pg_background_submit_v2(text, int4)',
        'FUNCTION public.pg_background_result_v2(int4, int8)',
        'FUNCTION public.pg_background_detach_v2(int4, int8)',
        'FUNCTION public.pg_background_cancel_v2(int4, int8)',
        'FUNCTION public.pg_background_cancel_v2_grace(int4, int8, int4)',
        'FUNCTION public.pg_background_wait_v2(int4, int8)',
        'FUNCTION public.pg_background_wait_v2_timeout(int4, int8, int4)',
        'FUNCTION public.pg_background_list_v2()',
        'TYPE public.pg_background_handle'
    ] LOOP
        command := format('GRANT ALL ON %s TO %I', object, role_name);
        IF print_commands THEN
            RAISE NOTICE '%', command;
        END IF;
        EXECUTE command;
    END LOOP;
    RETURN true;
END
$function$;

CREATE FUNCTION public.revoke_pg_background_privileges(role_name text, print_commands boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql
AS $function$
DECLARE
    object text;
    command text;
BEGIN
    FOREACH object IN ARRAY ARRAY[
        'FUNCTION public.pg_background_launch(text, int4)',
        'FUNCTION public.pg_background_result(int4)',
        'FUNCTION public.pg_background_detach(int4)',
        'FUNCTION public.pg_background_launch_v2(text, int4)',
        'FUNCTION public.pg_background_submit_v2(text, int4)',
        'FUNCTION public.pg_background_result_v2(int4, int8)',
        'FUNCTION public.pg_background_detach_v2(int4, int8)',
        'FUNCTION public.pg_background_cancel_v2(int4, int8)',
        'FUNCTION public.pg_background_cancel_v2_grace(int4, int8, int4)',
        'FUNCTION public.pg_background_wait_v2(int4, int8)',
        'FUNCTION public.pg_background_wait_v2_timeout(int4, int8, int4)',
        'FUNCTION public.pg_background_list_v2()',
        'TYPE public.pg_background_handle'
    ] LOOP
        command := format('REVOKE ALL ON %s FROM %I', object, role_name);
        IF print_commands THEN
            RAISE NOTICE '%', command;
        END IF;
        EXECUTE command;
    END LOOP;
    RETURN true;
END
$function$;

CREATE FUNCTION public.pg_background_drop_executor_role()
RETURNS void
LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM public.revoke_pg_background_privileges('pgbackground_role');
    DROP ROLE pgbackground_role;
END
$function$;

REVOKE ALL ON TYPE public.pg_background_handle FROM PUBLIC;
REVOKE ALL ON FUNCTION
    public.pg_background_launch(text, int4),
    public.pg_background_result(int4),
    public.pg_background_detach(int4),
    public.pg_background_launch_v2(text, int4),
    public.pg_background_submit_v2(text, int4),
    public.pg_background_result_v2(int4, int8),
    public.pg_background_detach_v2(int4, int8),
    public.pg_background_cancel_v2(int4, int8),
    public.pg_background_cancel_v2_grace(int4, int8, int4),
    public.pg_background_wait_v2(int4, int8),
    public.pg_background_wait_v2_timeout(int4, int8, int4),
    public.pg_background_list_v2(),
    public.grant_pg_background_privileges(text, boolean),
    public.revoke_pg_background_privileges(text, boolean),
    public.pg_background_drop_executor_role()
FROM PUBLIC;

DO LANGUAGE plpgsql $block$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles
                   WHERE rolname OPERATOR(pg_catalog.=) 'pgbackground_role') THEN
        CREATE ROLE pgbackground_role NOLOGIN;
    END IF;
END
$block$;

GRANT USAGE ON TYPE public.pg_background_handle TO pgbackground_role;
GRANT EXECUTE ON FUNCTION
    public.pg_background_launch(text, int4),
    public.pg_background_result(int4),
    public.pg_background_detach(int4),
    public.pg_background_launch_v2(text, int4),
    public.pg_background_submit_v2(text, int4),
    public.pg_background_result_v2(int4, int8),
    public.pg_background_detach_v2(int4, int8),
    public.pg_background_cancel_v2(int4, int8),
    public.pg_background_cancel_v2_grace(int4, int8, int4),
    public.pg_background_wait_v2(int4, int8),
    public.pg_background_wait_v2_timeout(int4, int8, int4),
    public.pg_background_list_v2()
TO pgbackground_role;
