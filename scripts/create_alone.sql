-- A function of this schema that has the name of one of ours could be called in
-- its place, and do what its owner wants with the rights of who meant ours.

DO LANGUAGE plpgsql $block$
DECLARE
    other record;
BEGIN
@objects
    SELECT p.oid::regprocedure AS name, p.proowner::regrole AS owner INTO other
    FROM object o
    JOIN pg_proc p ON p.pronamespace = o.schema_id AND p.proname = o.plain_name
    JOIN pg_roles r ON r.oid = p.proowner
    WHERE p.oid NOT IN (SELECT id FROM object) AND NOT r.rolsuper
      AND p.proowner NOT IN (SELECT extowner FROM pg_extension WHERE extname = 'pg_background')
      AND p.proowner NOT IN (SELECT datdba FROM pg_database WHERE datname = current_database())
    ORDER BY p.oid
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'function % of role % could be called in place of the extension''s', other.name, other.owner
            USING ERRCODE = 'duplicate_function',
                  HINT = 'Drop the function, or create the extension in a schema where nobody else may create objects.';
    END IF;
END
$block$;
