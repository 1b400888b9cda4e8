    ];
    home CONSTANT text := pg_catalog.quote_ident(pg_catalog.current_schema());
    prefix CONSTANT text := 'pg_background_';
    wanted text[];
    kept_types text[] := '{}';
    signatures text[] := '{}';
    arguments text;
    result text;
    function text;
    symbols text[];
    outdated text;
    dependents text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    FOREACH wanted SLICE 1 IN ARRAY types LOOP
        kept_types := kept_types || format('%s(%s)', wanted[1], wanted[2]);
    END LOOP;
    FOREACH wanted SLICE 1 IN ARRAY functions LOOP
        FOREACH function IN ARRAY string_to_array(wanted[1], ' ') LOOP
            signatures := signatures || format(
                '%s%s(%s) %s', prefix, function,
                replace(regexp_replace(wanted[2], ' DEFAULT \w+', '', 'g'), prefix, format('%s.%s', home, prefix)),
                replace(wanted[3], prefix, format('%s.%s', home, prefix)));
        END LOOP;
    END LOOP;

    FOR outdated IN
@objects
        , type AS (
            SELECT t.oid, t.typarray
            FROM object o
            JOIN pg_type t ON t.oid = o.id AND o.kind = 'TYPE'
            WHERE o.privilege IS NOT NULL AND format('%s(%s)', t.typname, (
                      SELECT string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
                      FROM pg_attribute
                      WHERE attrelid = t.typrelid AND attnum > 0)) <> ALL (kept_types)
        ), function AS (
            SELECT p.oid
            FROM object o
            JOIN pg_proc p ON p.oid = o.id AND o.kind = 'ROUTINE'
            WHERE o.privilege IS NOT NULL AND p.prokind = 'f' AND p.proname NOT LIKE 'pg\_background\_untyped\_%'
              AND (format('%s(%s) %s', p.proname, pg_get_function_identity_arguments(p.oid),
                          pg_get_function_result(p.oid)) <> ALL (signatures)
                   OR EXISTS (SELECT FROM type t WHERE ARRAY[t.oid, t.typarray] && (p.proargtypes::oid[] || p.prorettype)))
        ), view AS (
            SELECT DISTINCT o.name
            FROM object o
            JOIN pg_rewrite r ON r.ev_class = o.id AND o.kind = 'TABLE'
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            JOIN function f ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = f.oid
        ), step (number, name) AS (
            SELECT 1, 'VIEW ' || name FROM view
            UNION ALL
            SELECT 2, 'FUNCTION ' || oid::regprocedure FROM function
            UNION ALL
            SELECT 3, 'TYPE ' || oid::regtype FROM type
        )
        SELECT name FROM step ORDER BY number
    LOOP
        BEGIN
            EXECUTE 'DROP ' || outdated;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            GET STACKED DIAGNOSTICS dependents = PG_EXCEPTION_DETAIL;
            RAISE EXCEPTION 'others depend on %, which is another in this version of pg_background', outdated
                USING ERRCODE = 'dependent_objects_still_exist', DETAIL = dependents,
                      HINT = 'Drop what depends on it, update the extension, and make it anew.';
        END;
    END LOOP;

@objects
    SELECT array_agg(plain_name) INTO kept_types FROM object WHERE kind = 'TYPE';
    FOREACH wanted SLICE 1 IN ARRAY types LOOP
        IF wanted[1] <> ALL (coalesce(kept_types, '{}')) THEN
            EXECUTE format('CREATE TYPE %s.%s AS (%s)', home, wanted[1], wanted[2]);
        END IF;
        EXECUTE format('COMMENT ON TYPE %s.%s IS %L', home, wanted[1], wanted[3]);
    END LOOP;

    FOREACH wanted SLICE 1 IN ARRAY functions LOOP
        arguments := replace(wanted[2], prefix, format('%s.%s', home, prefix));
        result := replace(wanted[3], prefix, format('%s.%s', home, prefix));
        -- An older name has a symbol of its own, which a session that has loaded the library of an
        -- older version knows; but what launches a job under it does so as from 2.0 on.
        symbols := string_to_array(prefix || replace(wanted[1], ' ', ' ' || prefix), ' ');
        FOREACH function IN ARRAY symbols LOOP
            EXECUTE format('CREATE OR REPLACE FUNCTION %s.%s(%s) RETURNS %s AS ''MODULE_PATHNAME'', %L'
                           ' LANGUAGE C VOLATILE PARALLEL UNSAFE %s',
                           home, function, arguments, result,
                           CASE WHEN wanted[2] LIKE 'sql %' THEN symbols[1] ELSE function END, wanted[4]);
            EXECUTE format('COMMENT ON FUNCTION %s.%s(%s) IS %L',
                           home, function, regexp_replace(arguments, ' DEFAULT \w+', '', 'g'), wanted[5]);
        END LOOP;
    END LOOP;

    PERFORM set_config('search_path', home || ', pg_temp', true);
END
$block$;
