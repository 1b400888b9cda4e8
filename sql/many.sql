-- Many jobs: one after another, unread, failing, at once, and more than there is
-- room for.

CREATE EXTENSION pg_background;
SET pg_background.max_workers = 1000;
\set SHOW_CONTEXT never
-- Nothing here hangs for ever, whatever is broken.
SET statement_timeout = '10min';

-- known failure 8: 1,000 launches in one block ran out of shared memory segments
DO $$
DECLARE
    sum int := 0;
BEGIN
    FOR i IN 1 .. 1000 LOOP
        sum := sum + (SELECT n FROM pg_background_result(pg_background_launch('SELECT 1')) AS (n int));
    END LOOP;
    RAISE NOTICE 'v1, read: %', sum;
END $$;
DO $$
DECLARE
    h pg_background_handle;
    sum int := 0;
BEGIN
    FOR i IN 1 .. 300 LOOP
        h := pg_background_launch_v2('SELECT 1');
        sum := sum + (SELECT n FROM pg_background_result_v2(h.pid, h.cookie) AS (n int));
    END LOOP;
    RAISE NOTICE 'v2, read: %', sum;
END $$;
DO $$
DECLARE
    h pg_background_handle;
BEGIN
    FOR i IN 1 .. 300 LOOP
        h := pg_background_submit_v2('SELECT 1');
        PERFORM pg_background_wait_v2(h.pid, h.cookie);
        PERFORM pg_background_detach_v2(h.pid, h.cookie);
    END LOOP;
END $$;
SELECT count(*) AS jobs FROM pg_background_list;

-- the same with nothing read or detached until all have ended
DO $$
DECLARE
    h pg_background_handle;
BEGIN
    FOR i IN 1 .. 300 LOOP
        h := pg_background_launch_v2('SELECT ' || i);
        PERFORM pg_background_wait_v2(h.pid, h.cookie);
    END LOOP;
END $$;
SELECT state, count(*) FROM pg_background_list GROUP BY 1;
SELECT sum(r.n) FROM pg_background_list, LATERAL pg_background_result_v2(pid, cookie) AS r (n int);
SELECT count(*) AS jobs FROM pg_background_list;

-- jobs that fail, each in a subtransaction
DO $$
DECLARE
    failed int := 0;
BEGIN
    FOR i IN 1 .. 200 LOOP
        BEGIN
            PERFORM FROM pg_background_result(pg_background_launch('SELECT 1 / 0')) AS (n int);
        EXCEPTION
            WHEN division_by_zero THEN
                failed := failed + 1;
        END;
    END LOOP;
    RAISE NOTICE 'failed: %', failed;
END $$;

-- at once, with results larger than their queues, read from the last to the first
DO $$
BEGIN
    FOR i IN 1 .. 20 LOOP
        PERFORM pg_background_launch_v2('SELECT g FROM generate_series(1, 10000) g', 4096);
    END LOOP;
END $$;
DO $$
DECLARE
    h record;
    rows int8 := 0;
BEGIN
    FOR h IN SELECT pid, cookie FROM pg_background_list ORDER BY launched_at DESC LOOP
        rows := rows + (SELECT count(DISTINCT n) FROM pg_background_result_v2(h.pid, h.cookie) AS (n int));
    END LOOP;
    RAISE NOTICE 'rows: %', rows;
END $$;

-- more than there are free slots for
SET pg_background.launch_timeout = '500ms';
DO $$
DECLARE
    hint text;
BEGIN
    FOR i IN 1 .. 10000 LOOP
        PERFORM pg_background_launch('SELECT pg_sleep(3600)');
    END LOOP;
EXCEPTION
    WHEN insufficient_resources THEN
        GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
        RAISE NOTICE '% %: %', sqlstate, sqlerrm, hint;
END $$;
RESET pg_background.launch_timeout;
-- as soon as they have ended, there is room again
SELECT count(pg_background_cancel_v2(pid, cookie)::text) > 0 AS canceled FROM pg_background_list;
SELECT count(pg_background_wait_v2(pid, cookie)::text) > 0 AS waited FROM pg_background_list;
SELECT state FROM pg_background_list GROUP BY 1;
SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (n int);
SELECT count(pg_background_detach_v2(pid, cookie)::text) > 0 AS detached FROM pg_background_list;

-- nothing of all this is left in this session but the workers that wait for the
-- next job or have not quite gone
SELECT name, count(*) > 40 AS many FROM pg_backend_memory_contexts WHERE name LIKE 'pg_background%' GROUP BY 1 HAVING count(*) > 40;
SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'pg_background job';
SELECT count(*) AS jobs FROM pg_background_list;

DROP EXTENSION pg_background;
