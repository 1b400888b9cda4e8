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
@objects
        SELECT format('ALTER %s %s SET SCHEMA %s', replace(kind, 'TABLE', 'VIEW'), name, home)
        FROM object
        WHERE schema_id <> home::regnamespace
        ORDER BY kind = 'TYPE', kind
    LOOP
        EXECUTE command;
    END LOOP;
END
$block$;
