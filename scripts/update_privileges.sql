-- Who could use what is made anew, or has another owner, can use what has its name. The server would
-- take a GRANT in here for the extension's doing, and leave it out of dumps.

CREATE FUNCTION pg_temp.grant_again(command text)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_background_grant_again'
LANGUAGE C;

DO LANGUAGE plpgsql $block$
DECLARE
    command text;
BEGIN
    FOR command IN
@objects
        , old AS (
            SELECT *
            FROM jsonb_to_recordset(current_setting('pg_background_update.privileges')::jsonb)
                AS o (id oid, name name, kind text, owner oid, grantee oid, privilege text, is_grantable boolean)
        )
        SELECT DISTINCT format('GRANT %s ON %s %s TO %s', old.privilege, new.kind, new.name, old.grantee::regrole)
               || CASE WHEN old.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
        FROM object new
        JOIN old ON old.kind = new.kind AND old.name = new.plain_name
        WHERE old.grantee NOT IN (0, old.owner, new.owner, 'pgbackground_role'::regrole)
          AND NOT EXISTS (SELECT FROM old same WHERE same.id = new.id AND same.owner = new.owner)
    LOOP
        PERFORM pg_temp.grant_again(command);
    END LOOP;
END
$block$;

DROP FUNCTION pg_temp.grant_again(text);
