-- The role that may run jobs, in all databases of the cluster

SET LOCAL search_path = pg_catalog, pg_temp;

DO LANGUAGE plpgsql $block$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgbackground_role') THEN
        CREATE ROLE pgbackground_role NOLOGIN;
        COMMENT ON ROLE pgbackground_role IS 'may use pg_background';
    END IF;
END
$block$;
