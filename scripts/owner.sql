-- For a user who is no superuser, but may create a trusted extension, the server
-- runs its scripts as one. He can use what he has created, let others use it, and
-- do with it what else an owner does (SET SCHEMA, GRANT, restore a dump): all that
-- is in the extension is his. What has another owner until then loses all its
-- privileges, which are given anew below, since what is recorded as the
-- extension's doing (pg_init_privs) names the owner, too.

DO LANGUAGE plpgsql $block$
DECLARE
    holder regrole;
    command text;
BEGIN
    SELECT e.extowner INTO holder
    FROM pg_extension e
    JOIN pg_roles r ON r.oid = e.extowner
    WHERE e.extname = 'pg_background' AND NOT r.rolsuper;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    -- Whoever has made the role himself, from 16 on, is a member without these.
    EXECUTE format('GRANT pgbackground_role TO %s WITH ADMIN OPTION%s', holder,
                   CASE WHEN current_setting('server_version_num')::int >= 160000 THEN ', INHERIT TRUE, SET TRUE' END);

    FOR command IN
@objects
        SELECT s.command
        FROM object o
        CROSS JOIN LATERAL (VALUES
            (1, format('ALTER %s %s OWNER TO %s', o.kind, o.name, holder)),
            (2, format('REVOKE ALL ON %s %s FROM PUBLIC%s CASCADE', o.kind, o.name, (
                SELECT string_agg(DISTINCT ', ' || a.grantee::regrole, '')
                FROM aclexplode(o.acl) a
                WHERE a.grantee NOT IN (0, o.owner, holder))))) s (number, command)
        WHERE o.owner <> holder
        ORDER BY o.kind, o.name COLLATE "C", s.number
    LOOP
        EXECUTE command;
    END LOOP;
END
$block$;
