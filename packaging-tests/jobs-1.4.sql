-- Calls every function of 1.4 as its users do. What this prints is the same before
-- ALTER EXTENSION UPDATE and after it.
\pset null NULL

SELECT pg_background_launch('VALUES (1), (2)') AS pid \gset
SELECT * FROM pg_background_result(:pid) AS (n int);
SELECT * FROM pg_background_result(pg_background_launch('SELECT 3', 65536)) AS (n int);
SELECT pg_background_detach(pg_background_launch('SELECT 4'));
\set ON_ERROR_STOP 0
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1 / 0')) AS (n int);
\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
SELECT * FROM pg_background_result(:pid) AS (n int);
\echo :LAST_ERROR_SQLSTATE
\set ON_ERROR_STOP 1

-- In PL/pgSQL, where a PID is an int
CREATE FUNCTION pg_temp.sum_of(queries text[]) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    query text;
    pid int;
    pids int[];
    n int;
    total int := 0;
BEGIN
    FOREACH query IN ARRAY queries LOOP
        pid := pg_background_launch(query);
        pids := pids || pid;
    END LOOP;
    FOREACH pid IN ARRAY pids LOOP
        SELECT r.n INTO n FROM pg_background_result(pid) AS r (n int);
        total := total + n;
    END LOOP;
    RETURN total;
END $$;
SELECT pg_temp.sum_of(ARRAY['SELECT 1', 'SELECT 2', 'SELECT 3']);

-- Another user's
CREATE ROLE test_user;
SELECT grant_pg_background_privileges('test_user');
SET ROLE test_user;
SELECT * FROM pg_background_result(pg_background_launch('SELECT current_user')) AS (who name);
RESET ROLE;
SELECT revoke_pg_background_privileges('test_user');
DROP OWNED BY test_user;
DROP ROLE test_user;
