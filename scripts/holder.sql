RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    holder regrole;
    command text;
BEGIN
    IF role_name IS NULL THEN
        RAISE EXCEPTION 'role name must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT oid INTO holder FROM pg_roles WHERE rolname = role_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" does not exist', role_name USING ERRCODE = 'undefined_object';
    END IF;

    FOR command IN
