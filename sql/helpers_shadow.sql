-- Objects of an attacker that a search_path puts before the server's own: none
-- of them is used by the extension's scripts and helpers. The attacker has all
-- of public, and the session's temporary schema.

ALTER SCHEMA public RENAME TO regress_public;
CREATE SCHEMA public;
CREATE ROLE regress_user;

\set SHOW_CONTEXT never
CREATE FUNCTION public.hostile() RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'hostile code was run'; END $$;

-- Functions and operators that fit an unqualified call better than pg_catalog's.
SET search_path = pg_catalog, pg_temp;
DO $do$
DECLARE
    hostile CONSTANT text := $$LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hostile code was run''; END'$$;
    signature text;
    operator text[];
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'format(text, text)', 'format(text, text, text)', 'format(text, name)',
        'format(text, regnamespace)', 'format(text, regnamespace, regrole)',
        'format(text, text, regrole)', 'quote_ident(name)',
        'has_schema_privilege(regrole, oid, text)', 'aclexplode(aclitem[])',
        'acldefault("char", oid)', 'pg_get_userbyid(oid)', 'set_config(text, text, boolean)',
        'grant_pg_background_privileges(name)', 'grant_pg_background_privileges(text)',
        'revoke_pg_background_privileges(name)', 'revoke_pg_background_privileges(text)'
    ] LOOP
        EXECUTE format('CREATE FUNCTION public.%s RETURNS text %s', signature, hostile);
    END LOOP;

    FOREACH operator SLICE 1 IN ARRAY ARRAY[
        ['=', 'name', 'name'], ['=', 'name', 'text'], ['=', 'text', 'text'],
        ['=', 'oid', 'oid'], ['=', 'oid', 'regclass'], ['=', 'oid', 'regrole'],
        ['=', 'oid', 'integer'], ['=', '"char"', '"char"'],
        ['<>', 'name', 'name'], ['<>', 'name', 'text'], ['<>', 'text', 'text'],
        ['<>', 'oid', 'oid'],
        ['=', 'integer', 'integer'], ['<>', 'text[]', 'text[]'], ['<@', 'text[]', 'text[]'],
        ['||', 'text', 'text'], ['||', 'text', 'regprocedure'], ['||', 'text', 'regtype'], ['||', 'text', 'regclass']
    ] LOOP
        signature := format('public.hostile(%s, %s)', operator[2], operator[3]);
        IF to_regprocedure(signature) IS NULL THEN
            EXECUTE format('CREATE FUNCTION %s RETURNS boolean %s', signature, hostile);
        END IF;
        EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.hostile)',
                       operator[1], operator[2], operator[3]);
    END LOOP;
END
$do$;

-- Relations and types, in public and in pg_temp.
DO $do$
DECLARE
    schema text;
    name text;
BEGIN
    FOREACH schema IN ARRAY ARRAY['public', 'pg_temp'] LOOP
        FOREACH name IN ARRAY ARRAY[
            'pg_extension', 'pg_depend', 'pg_proc', 'pg_type', 'pg_class',
            'pg_namespace', 'pg_roles', 'pg_authid', 'pg_database', 'pg_stat_activity'
        ] LOOP
            EXECUTE format('CREATE VIEW %s.%s AS SELECT public.hostile()', schema, name);
        END LOOP;
        FOREACH name IN ARRAY ARRAY[
            'text', 'int4', 'int8', 'bool', 'oid', 'record', 'void', 'float8', 'jsonb', 'timestamptz',
            'regclass', 'regrole', 'regtype', 'regprocedure', 'regnamespace'
        ] LOOP
            EXECUTE format('CREATE DOMAIN %s.%I AS pg_catalog.int2 CHECK (public.hostile())', schema, name);
        END LOOP;
    END LOOP;
END
$do$;

-- The attack is one: each kind is what a careless script would use.
SET search_path = public, pg_catalog, pg_temp;
SELECT 'a'::pg_catalog.name = 'a'::pg_catalog.name;
SELECT format('%s', 'a'::pg_catalog.text);
SELECT * FROM pg_roles;
SELECT 1::regrole;
-- and these also where pg_catalog comes first, as it does in a script
SET search_path = public, pg_temp;
SELECT 0::pg_catalog.oid = 'pg_catalog.pg_class'::pg_catalog.regclass;
SELECT 'a'::pg_catalog.text || 0::pg_catalog.regprocedure;
RESET search_path;
SELECT * FROM pg_roles;

-- A fresh install, with the executor role still to be made.
CREATE EXTENSION pg_background SCHEMA regress_public;
SELECT regress_public.pg_background_drop_executor_role();
DROP EXTENSION pg_background;
SET search_path = public, pg_catalog, pg_temp;
CREATE EXTENSION pg_background SCHEMA public;

SELECT public.grant_pg_background_privileges('regress_user'::pg_catalog.text, false);
SELECT pg_catalog.has_function_privilege('regress_user', 'public.pg_background_list_v2()', 'EXECUTE');
SELECT public.revoke_pg_background_privileges('regress_user'::pg_catalog.text, false);
SELECT pg_catalog.has_function_privilege('regress_user', 'public.pg_background_list_v2()', 'EXECUTE');
SELECT public.pg_background_drop_executor_role();
SELECT pg_catalog.to_regrole('pgbackground_role');
DROP EXTENSION pg_background;

-- pg_temp before all
SET search_path = pg_temp, public, pg_catalog;
CREATE EXTENSION pg_background SCHEMA public;
SELECT public.grant_pg_background_privileges('regress_user'::pg_catalog.text, false);
SELECT pg_catalog.has_function_privilege('regress_user', 'public.pg_background_list_v2()', 'EXECUTE');
SELECT public.revoke_pg_background_privileges('regress_user'::pg_catalog.text, false);
SELECT pg_catalog.has_function_privilege('regress_user', 'public.pg_background_list_v2()', 'EXECUTE');
SELECT public.pg_background_drop_executor_role();
SELECT pg_catalog.to_regrole('pgbackground_role');
DROP EXTENSION pg_background;

-- The update, with the executor role to be given something, and PUBLIC to lose it.
CREATE EXTENSION pg_background SCHEMA public VERSION '1.6';
REVOKE EXECUTE ON FUNCTION public.pg_background_list_v2() FROM pgbackground_role;
GRANT EXECUTE ON FUNCTION public.pg_background_list_v2() TO PUBLIC;
ALTER EXTENSION pg_background UPDATE TO '1.7';
ALTER EXTENSION pg_background UPDATE TO '1.11';
-- a function that would be called in place of the extension's own
CREATE FUNCTION public.pg_background_run_params_v2(pg_catalog.text, VARIADIC pg_catalog.text[])
RETURNS public.pg_background_run_result LANGUAGE plpgsql AS 'BEGIN END';
ALTER EXTENSION pg_background UPDATE TO '2.1';
DROP FUNCTION public.pg_background_run_params_v2(pg_catalog.text, VARIADIC pg_catalog.text[]);
ALTER EXTENSION pg_background UPDATE TO '2.1';
SELECT h.pid, h.cookie FROM public.pg_background_launch_v2('SELECT pg_catalog.pg_sleep(600)', 0, 'views') h \gset
SELECT label FROM public.pg_background_list;
SELECT label FROM public.pg_background_activity;
SELECT * FROM public.pg_background_run_query_v2(
    'SELECT label FROM public.pg_background_workers WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()',
    label => 'workers') AS (label pg_catalog.text);
SELECT public.pg_background_cancel_v2_grace(:pid, :cookie, 0);
SELECT public.pg_background_detach_v2(:pid, :cookie);
SELECT pg_catalog.has_function_privilege('public', 'public.pg_background_list_v2()', 'EXECUTE') AS public,
       pg_catalog.has_function_privilege('pgbackground_role', 'public.pg_background_list_v2()', 'EXECUTE') AS executor;
SELECT public.pg_background_drop_executor_role();
DROP EXTENSION pg_background;

-- Objects of the extension's own names stop the installation: it takes over none.
CREATE FUNCTION public.grant_pg_background_privileges(role_name pg_catalog.text, print_commands pg_catalog.bool)
RETURNS pg_catalog.bool LANGUAGE sql AS 'SELECT public.hostile()';
CREATE EXTENSION pg_background SCHEMA public;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA public CASCADE;
DISCARD TEMP;
RESET client_min_messages;
ALTER SCHEMA regress_public RENAME TO public;
DROP ROLE regress_user;
