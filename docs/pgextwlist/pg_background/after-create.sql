-- pgextwlist runs this after CREATE EXTENSION pg_background, as a superuser, for
-- a user who is none: see docs/managed.md. The extension is the superuser's then,
-- and the user becomes a member of the role that may use it, and may make others
-- so. What it calls the current user is the superuser himself, and names are not
-- quoted where they replace @…@.
\echo Copy this file to extwlist.custom_path, in pg_background/after-create.sql. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

DO LANGUAGE plpgsql $block$
DECLARE
    creator text;
BEGIN
    SELECT quote_ident(rolname) INTO creator
    FROM pg_roles
    WHERE rolname = coalesce(nullif(current_setting('role'), 'none'), session_user) AND NOT rolsuper;
    IF FOUND THEN
        EXECUTE format('GRANT pgbackground_role TO %s WITH ADMIN OPTION%s', creator,
                       CASE WHEN current_setting('server_version_num')::int >= 160000 THEN ', INHERIT TRUE, SET TRUE' END);
    END IF;
END
$block$;
