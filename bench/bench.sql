-- The benchmark's objects: what is compared, how it is measured, and what it
-- has to show. bench/driver loads this into each cluster and runs the steps.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE EXTENSION pg_background;
CREATE EXTENSION dblink;
CREATE SCHEMA bench;
SELECT format('ALTER DATABASE %I SET search_path = bench, public', current_database()) \gexec
SET search_path = bench, public;

-- ------------------------------------------------------------------
-- Measuring
-- ------------------------------------------------------------------

CREATE TABLE comparison (
    comparison text PRIMARY KEY,
    title text NOT NULL,
    unit text NOT NULL,
    position int NOT NULL GENERATED ALWAYS AS IDENTITY,
    rounds int NOT NULL,
    slice interval NOT NULL,
    sessions int[] NOT NULL DEFAULT '{1}',
    slots int NOT NULL DEFAULT 100,
    jobs int
);
COMMENT ON TABLE comparison IS
    'What is compared: in each round, each contender runs for a slice of time, in so many sessions at once';
COMMENT ON COLUMN comparison.slots IS 'max_worker_processes; 100 is enough for all';
COMMENT ON COLUMN comparison.jobs IS 'How many jobs all sessions do together, where not time ends a turn but that';

CREATE TABLE contender (
    comparison text NOT NULL REFERENCES comparison,
    contender text NOT NULL,
    position int NOT NULL GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (comparison, contender)
);
COMMENT ON TABLE contender IS 'Who takes part; each has a procedure "comparison: contender"';

CREATE TABLE sample (
    comparison text NOT NULL,
    sessions int NOT NULL,
    contender text NOT NULL,
    round int NOT NULL,
    calls int NOT NULL,
    us float8 NOT NULL
);
COMMENT ON TABLE sample IS 'Microseconds a call, the mean of so many calls';

CREATE TABLE memory (
    contender text NOT NULL,
    what text NOT NULL,
    value float8,
    position int NOT NULL GENERATED ALWAYS AS IDENTITY
);
COMMENT ON TABLE memory IS 'What bench.measure_memory() has found';

CREATE FUNCTION microseconds(t interval) RETURNS float8
LANGUAGE sql IMMUTABLE
RETURN extract(epoch FROM t) * 1e6;

CREATE FUNCTION conninfo() RETURNS text
LANGUAGE sql STABLE
RETURN format('host=%s port=%s user=%s dbname=%s',
              current_setting('unix_socket_directories'), current_setting('port'),
              current_user, current_database());

CREATE PROCEDURE connect(name text)
LANGUAGE plpgsql
AS $$
BEGIN
    IF name <> ALL (coalesce(dblink_get_connections(), '{}')) THEN
        PERFORM dblink_connect(name, conninfo());
    END IF;
END
$$;
COMMENT ON PROCEDURE connect IS 'Open a connection of dblink, where the session has none of this name';

-- The build that is measured has functions with names that end in _v2; or the
-- same without that; or the oldest ones, whose handle is a PID.
CREATE FUNCTION handle_type() RETURNS regtype
LANGUAGE sql STABLE
RETURN (SELECT prorettype::regtype FROM pg_proc
        WHERE proname IN ('pg_background_launch_v2', 'pg_background_launch')
        ORDER BY length(proname) DESC LIMIT 1);

CREATE FUNCTION adapt(code text) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN EXISTS (SELECT FROM pg_proc WHERE proname = 'pg_background_launch_v2') THEN code
    WHEN handle_type() <> 'int4'::regtype THEN replace(code, '_v2', '')
    ELSE replace(replace(code, '_v2', ''), 'h.pid, h.cookie', 'h')
END;
COMMENT ON FUNCTION adapt IS 'Code that uses the interface of 1.7, for the build that is installed';

-- Each contender's body is compiled into a procedure, so that nothing but the
-- body runs between two looks at the clock. It may use
--   h, hs   a handle, an array of handles
--   r       a record
--   n       how many jobs to do: 1,000 to warm up, then 10,000
--   sessions, start   how many sessions take part, and when they all begin
--   t, ended, lag   to measure by itself: a lag is the sample then
CREATE PROCEDURE define(comparison text, contender text, body text,
                        before text DEFAULT '', batch int DEFAULT 1, warm bool DEFAULT true)
LANGUAGE plpgsql
AS $define$
DECLARE
    missing text;
BEGIN
    SELECT m[1] INTO missing
    FROM regexp_matches(adapt(body), '\mpg_background_\w+', 'g') AS m
    WHERE NOT EXISTS (SELECT FROM pg_proc WHERE proname = m[1]);
    IF found THEN
        RAISE WARNING '"%" is left out, since there is no %()', comparison, missing;
        RETURN;
    END IF;

    INSERT INTO contender VALUES (comparison, contender);
    EXECUTE format($create$
        CREATE PROCEDURE %I(round int, sessions int, start timestamptz, slice interval)
        LANGUAGE plpgsql
        AS $procedure$
        DECLARE
            h %s;
            hs %2$s[];
            r record;
            n int;
            t timestamptz;
            ended timestamptz;
            lag interval;
            began timestamptz;
            stop timestamptz;
            samples float8[];
        BEGIN
            %3$s
            FOREACH n IN ARRAY '%4$s'::int[] LOOP
                samples := '{}';
                stop := start + CASE n WHEN 10000 THEN slice ELSE '0' END;
                LOOP
                    began := clock_timestamp();
                    FOR i IN 1..%5$s LOOP
                        %6$s
                    END LOOP;
                    samples := samples || microseconds(coalesce(lag, clock_timestamp() - began)) / %5$s;
                    EXIT WHEN clock_timestamp() >= stop;
                END LOOP;
            END LOOP;
            INSERT INTO sample SELECT %7$L, sessions, %8$L, round, %5$s, unnest(samples);
        END
        $procedure$
        $create$,
        comparison || ': ' || contender, handle_type(), before,
        CASE WHEN warm THEN '{1000,10000}' ELSE '{10000}' END,
        batch, adapt(body), comparison, contender);
END
$define$;
COMMENT ON PROCEDURE define IS
    'Add a contender. batch: so many calls make a sample; warm: run before the start of the slice, too, uncounted';

CREATE PROCEDURE dismiss()
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background';
    LOOP
        COMMIT;
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_background');
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE dismiss IS 'End the workers that others have left, so that the next job starts a process';

-- ------------------------------------------------------------------
-- What is compared
-- ------------------------------------------------------------------

CREATE TABLE log (t timestamptz, line text);
COMMENT ON TABLE log IS 'What the autonomous transactions write to';

CREATE TABLE million AS
    SELECT i AS a, 'row ' || i AS b, i / 3.0::float8 AS c FROM generate_series(1, 1000000) AS i;
COMMENT ON TABLE million IS '1,000,000 rows of (int, text, float8)';

CREATE TABLE wide (a int, b text);
ALTER TABLE wide ALTER b SET STORAGE EXTERNAL;
INSERT INTO wide SELECT i, repeat('x', 100000) FROM generate_series(1, 1000) AS i;
COMMENT ON TABLE wide IS '1,000 rows of 100 kB, not compressed';

-- VOLATILE, or the planner would put the query in its place.
CREATE FUNCTION million_rows() RETURNS TABLE (a int, b text, c float8)
LANGUAGE sql VOLATILE AS 'SELECT a, b, c FROM million';
CREATE FUNCTION wide_rows() RETURNS TABLE (a int, b text)
LANGUAGE sql VOLATILE AS 'SELECT a, b FROM wide';

INSERT INTO comparison (comparison, title, unit, rounds, slice, sessions) VALUES
    ('small', 'small job, warm', 'us', 5, '0.5 s', '{1,4,16,64}'),
    ('v1', 'small job of the first interface, warm', 'us', 5, '0.5 s', DEFAULT),
    ('forget', '10,000 INSERTs, fire and forget', 'ms', 3, '0 s', DEFAULT),
    ('cold', 'first job of a session, no worker waits', 'ms', 30, '0 s', DEFAULT),
    ('rows', '1,000,000 rows', 'ms', 7, '0.5 s', DEFAULT),
    ('wide', '1,000 rows of 100 kB', 'ms', 7, '0.5 s', DEFAULT),
    ('wait', 'from the end of a job to going on', 'us', 3, '1 s', DEFAULT),
    ('wait4', 'from the end of four jobs to going on', 'us', 3, '1 s', DEFAULT),
    ('many', '40 sleeps of 50 ms, 8 at a time', 'ms', 3, '1 s', DEFAULT);

-- Sessions are many, slots are few.
INSERT INTO comparison (comparison, title, unit, rounds, slice, sessions, slots, jobs) VALUES
    ('insert', 'autonomous INSERT', 'us', 5, '0.5 s', '{1,8,16,64}', 8, NULL),
    ('queue', '8,000 INSERTs, submitted and forgotten', 'ms', 3, '0 s', '{8,64}', 8, 8000),
    ('submit', 'what a submit costs its caller', 'us', 3, '1 s', DEFAULT, 8, NULL),
    ('first', 'first job of a session, a worker waits', 'ms', 30, '0 s', DEFAULT, 8, NULL),
    ('silence', 'small job after 10 s of silence', 'us', 4, '0 s', DEFAULT, 8, NULL),
    ('fair', 'autonomous INSERT for 10 s', 'ms', 1, '10 s', '{64}', 8, NULL);

CALL define('small', 'pg_background', $$
    h := pg_background_launch_v2('SELECT 1');
    SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x int);
$$, batch => 10);
CALL define('small', 'dblink open', $$
    SELECT x INTO r FROM dblink('bench', 'SELECT 1') AS (x int);
$$, before => $$CALL connect('bench');$$, batch => 10);
CALL define('small', 'dblink new', $$
    SELECT x INTO r FROM dblink(conninfo(), 'SELECT 1') AS (x int);
$$);
CALL define('small', 'in place', $$
    EXECUTE 'SELECT 1' INTO r;
$$, batch => 10);

CALL define('v1', 'pg_background', $$
    SELECT x INTO r FROM pg_background_result(pg_background_launch('SELECT 1')) AS (x int);
$$, batch => 10);
CALL define('v1', 'dblink open', $$
    SELECT x INTO r FROM dblink('bench', 'SELECT 1') AS (x int);
$$, before => $$CALL connect('bench');$$, batch => 10);
CALL define('v1', 'in place', $$
    EXECUTE 'SELECT 1' INTO r;
$$, batch => 10);

CALL define('insert', 'pg_background', $$
    h := pg_background_launch_v2('INSERT INTO log VALUES (now(), ''autonomous'')');
    SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x text);
$$);
CALL define('insert', 'with a parameter', $$
    SELECT * INTO r FROM pg_background_run_params_v2('INSERT INTO log VALUES (now(), $1)', 'autonomous'::text);
$$);
CALL define('insert', 'dblink open', $$
    PERFORM dblink_exec('bench', 'INSERT INTO log VALUES (now(), ''autonomous'')');
$$, before => $$CALL connect('bench');$$);
CALL define('insert', 'in place', $$
    EXECUTE 'INSERT INTO log VALUES (now(), ''autonomous'')';
    COMMIT;
$$);

-- Four at a time: there are only so many processes.
CALL define('forget', 'pg_background', $$
    hs := '{}';
    FOR i IN 1..n LOOP
        IF i > 4 THEN
            h := hs[i % 4];
            PERFORM pg_background_wait_v2(h.pid, h.cookie);
            PERFORM pg_background_detach_v2(h.pid, h.cookie);
        END IF;
        hs[i % 4] := pg_background_submit_v2('INSERT INTO log VALUES (now(), ''forgotten'')');
    END LOOP;
    FOREACH h IN ARRAY hs LOOP
        PERFORM pg_background_wait_v2(h.pid, h.cookie);
        PERFORM pg_background_detach_v2(h.pid, h.cookie);
    END LOOP;
$$);
CALL define('forget', 'dblink open', $$
    FOR i IN 1..n LOOP
        PERFORM dblink_exec('bench', 'INSERT INTO log VALUES (now(), ''forgotten'')');
    END LOOP;
$$, before => $$CALL connect('bench');$$);
CALL define('forget', 'in place', $$
    FOR i IN 1..n LOOP
        EXECUTE 'INSERT INTO log VALUES (now(), ''forgotten'')';
        COMMIT;
    END LOOP;
$$);

-- From the moment at which all sessions begin until the last job has been done:
-- the one that is waited for comes after all others of its session.
CALL define('queue', 'pg_background', $$
    PERFORM pg_sleep(extract(epoch FROM start - clock_timestamp()));
    FOR i IN 1..8000 / sessions LOOP
        h := pg_background_submit_v2('INSERT INTO log VALUES (now(), ''forgotten'')');
        PERFORM pg_background_detach_v2(h.pid, h.cookie);
    END LOOP;
    h := pg_background_submit_v2('SELECT 1');
    PERFORM pg_background_wait_v2(h.pid, h.cookie);
    lag := clock_timestamp() - start;
$$, before => $$
    h := pg_background_submit_v2('SELECT 1');
    PERFORM pg_background_wait_v2(h.pid, h.cookie);
    PERFORM pg_background_detach_v2(h.pid, h.cookie);
$$, warm => false);
CALL define('queue', 'dblink open', $$
    PERFORM pg_sleep(extract(epoch FROM start - clock_timestamp()));
    FOR i IN 1..8000 / sessions LOOP
        PERFORM dblink_exec('bench', 'INSERT INTO log VALUES (now(), ''forgotten'')');
    END LOOP;
    lag := clock_timestamp() - start;
$$, before => $$CALL connect('bench');$$, warm => false);
CALL define('queue', 'in place', $$
    PERFORM pg_sleep(extract(epoch FROM start - clock_timestamp()));
    FOR i IN 1..8000 / sessions LOOP
        EXECUTE 'INSERT INTO log VALUES (now(), ''forgotten'')';
        COMMIT;
    END LOOP;
    lag := clock_timestamp() - start;
$$, warm => false);

-- With time for the workers between one and the next
CALL define('submit', 'pg_background', $$
    t := clock_timestamp();
    h := pg_background_submit_v2('INSERT INTO log VALUES (now(), ''forgotten'')');
    lag := clock_timestamp() - t;
    PERFORM pg_background_detach_v2(h.pid, h.cookie), pg_sleep(0.002);
$$);
CALL define('submit', 'no-op', $$
    t := clock_timestamp();
    PERFORM pg_backend_pid();
    lag := clock_timestamp() - t;
    PERFORM pg_sleep(0.002);
$$);

-- Each call is the first of its session: it must not wait for the start, nor
-- be repeated until then.
CALL define('cold', 'pg_background', $$
    h := pg_background_launch_v2('SELECT 1');
    SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x int);
$$, before => $$
    CALL dismiss();
    PERFORM set_config('pg_background.max_idle_workers', '0', false);
    start := now();
$$, warm => false);
CALL define('cold', 'dblink new', $$
    SELECT x INTO r FROM dblink(conninfo(), 'SELECT 1') AS (x int);
$$, before => 'start := now();', warm => false);

-- The worker that waits is that of the round before.
CALL define('first', 'pg_background', $$
    h := pg_background_launch_v2('SELECT 1');
    SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x int);
$$, before => 'start := now();', warm => false);
CALL define('first', 'dblink new', $$
    SELECT x INTO r FROM dblink(conninfo(), 'SELECT 1') AS (x int);
$$, before => 'start := now();', warm => false);

CALL define('silence', 'pg_background', $$
    PERFORM pg_sleep(10);
    t := clock_timestamp();
    h := pg_background_launch_v2('SELECT 1');
    SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x int);
    lag := clock_timestamp() - t;
$$, before => $$
    FOR i IN 1..10 LOOP
        h := pg_background_launch_v2('SELECT 1');
        SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x int);
    END LOOP;
$$, warm => false);
CALL define('silence', 'dblink open', $$
    PERFORM pg_sleep(10);
    t := clock_timestamp();
    SELECT x INTO r FROM dblink('bench', 'SELECT 1') AS (x int);
    lag := clock_timestamp() - t;
$$, before => $$
    CALL connect('bench');
    FOR i IN 1..10 LOOP
        SELECT x INTO r FROM dblink('bench', 'SELECT 1') AS (x int);
    END LOOP;
$$, warm => false);

CALL define('fair', 'pg_background', $$
    h := pg_background_launch_v2('INSERT INTO log VALUES (now(), ''autonomous'')');
    SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x text);
$$);
CALL define('fair', 'dblink open', $$
    PERFORM dblink_exec('bench', 'INSERT INTO log VALUES (now(), ''autonomous'')');
$$, before => $$CALL connect('bench');$$);

CALL define('rows', 'pg_background', $$
    h := pg_background_launch_v2('SELECT a, b, c FROM million');
    SELECT count(a), sum(length(b)), sum(c) INTO r
    FROM pg_background_result_v2(h.pid, h.cookie) AS (a int, b text, c float8);
$$);
CALL define('rows', 'dblink open', $$
    SELECT count(a), sum(length(b)), sum(c) INTO r
    FROM dblink('bench', 'SELECT a, b, c FROM million') AS (a int, b text, c float8);
$$, before => $$CALL connect('bench');$$);
CALL define('rows', 'SQL function', $$
    SELECT count(a), sum(length(b)), sum(c) INTO r FROM million_rows();
$$);
CALL define('rows', 'bare query', $$
    SELECT count(a), sum(length(b)), sum(c) INTO r FROM million;
$$);

CALL define('wide', 'pg_background', $$
    h := pg_background_launch_v2('SELECT a, b FROM wide');
    SELECT count(a), sum(length(b)) INTO r
    FROM pg_background_result_v2(h.pid, h.cookie) AS (a int, b text);
$$);
CALL define('wide', 'dblink open', $$
    SELECT count(a), sum(length(b)) INTO r
    FROM dblink('bench', 'SELECT a, b FROM wide') AS (a int, b text);
$$, before => $$CALL connect('bench');$$);
CALL define('wide', 'SQL function', $$
    SELECT count(a), sum(length(b)) INTO r FROM wide_rows();
$$);
CALL define('wide', 'bare query', $$
    SELECT count(a), sum(length(b)) INTO r FROM wide;
$$);

CALL define('wait', 'pg_background', $$
    h := pg_background_launch_v2('SELECT clock_timestamp() FROM pg_sleep(0.02)');
    PERFORM pg_background_wait_v2(h.pid, h.cookie);
    t := clock_timestamp();
    SELECT t - x INTO lag FROM pg_background_result_v2(h.pid, h.cookie) AS (x timestamptz);
$$);
CALL define('wait', 'dblink open', $$
    PERFORM dblink_send_query('bench', 'SELECT clock_timestamp() FROM pg_sleep(0.02)');
    SELECT clock_timestamp() - x INTO lag FROM dblink_get_result('bench') AS (x timestamptz);
    PERFORM FROM dblink_get_result('bench') AS (x timestamptz);
$$, before => $$CALL connect('bench');$$);

-- The lag is that of the job which ended last.
CALL define('wait4', 'pg_background', $$
    FOR i IN 1..4 LOOP
        hs[i] := pg_background_launch_v2('SELECT clock_timestamp() FROM pg_sleep(0.02)');
    END LOOP;
    FOREACH h IN ARRAY hs LOOP
        PERFORM pg_background_wait_v2(h.pid, h.cookie);
    END LOOP;
    t := clock_timestamp();
    lag := NULL;
    FOREACH h IN ARRAY hs LOOP
        SELECT least(lag, t - x) INTO lag FROM pg_background_result_v2(h.pid, h.cookie) AS (x timestamptz);
    END LOOP;
$$);
CALL define('wait4', 'dblink open', $$
    FOR i IN 1..4 LOOP
        PERFORM dblink_send_query('bench' || i, 'SELECT clock_timestamp() FROM pg_sleep(0.02)');
    END LOOP;
    ended := NULL;
    FOR i IN 1..4 LOOP
        SELECT greatest(ended, x) INTO ended FROM dblink_get_result('bench' || i) AS (x timestamptz);
    END LOOP;
    lag := clock_timestamp() - ended;
    FOR i IN 1..4 LOOP
        PERFORM FROM dblink_get_result('bench' || i) AS (x timestamptz);
    END LOOP;
$$, before => $$
    FOR i IN 1..4 LOOP
        CALL connect('bench' || i);
    END LOOP;
$$);

CALL define('many', 'pg_background', $$
    PERFORM FROM pg_background_run_all_v2(array_fill('SELECT pg_sleep(0.05)'::text, array[40]), 8);
$$);
CALL define('many', 'dblink open', $$
    FOR j IN 1..5 LOOP
        FOR i IN 1..8 LOOP
            PERFORM dblink_send_query('bench' || i, 'SELECT pg_sleep(0.05)::text');
        END LOOP;
        FOR i IN 1..8 LOOP
            PERFORM FROM dblink_get_result('bench' || i) AS (x text);
            PERFORM FROM dblink_get_result('bench' || i) AS (x text);
        END LOOP;
    END LOOP;
$$, before => $$
    FOR i IN 1..8 LOOP
        CALL connect('bench' || i);
    END LOOP;
$$);

-- ------------------------------------------------------------------
-- Memory
-- ------------------------------------------------------------------

CREATE FUNCTION smaps(pid int, what text) RETURNS float8
LANGUAGE plpgsql
AS $$
BEGIN
    RETURN (SELECT sum(kb[1]::float8)
            FROM regexp_matches(pg_read_file(format('/proc/%s/smaps_rollup', pid), 0, 10000, true),
                                format('^(?:%s): +(\d+) kB', what), 'gn') AS kb);
EXCEPTION
    -- "No such process", where it ends while we look
    WHEN internal_error THEN
        RETURN NULL;
END
$$;
COMMENT ON FUNCTION smaps IS 'Kilobytes of a process, by what Linux calls them; NULL where there is no such process';

CREATE FUNCTION mapped_segments() RETURNS text[]
LANGUAGE sql
RETURN (SELECT array_agg(coalesce(m[1], m[2]))
        FROM regexp_matches(pg_read_file('/proc/self/maps'),
                            '(?:/dev/shm/(PostgreSQL\.\d+)|(\d+) +/SYSV)', 'g') AS m);
COMMENT ON FUNCTION mapped_segments IS
    'The shared memory segments that this session has mapped, names (POSIX) or numbers (System V)';

CREATE FUNCTION existing_segments() RETURNS text[]
LANGUAGE sql
RETURN (SELECT array_agg(name) FROM pg_ls_dir('/dev/shm', true, false) AS name) ||
       (SELECT array_agg(m[1]) FROM regexp_matches(pg_read_file('/proc/sysvipc/shm', 0, 100000, true),
                                                   '^ *\d+ +(\d+)', 'gn') AS m);
COMMENT ON FUNCTION existing_segments IS 'The shared memory segments of the machine';

CREATE TYPE belongings AS (contexts float8, own float8, descriptors int, segments text[], processes int);

CREATE FUNCTION belongings() RETURNS belongings
LANGUAGE sql
RETURN ROW(
    (SELECT sum(total_bytes) / 1024.0 FROM pg_backend_memory_contexts),
    smaps(pg_backend_pid(), 'Anonymous'),
    (SELECT count(*) FROM pg_ls_dir('/proc/self/fd')),
    mapped_segments(),
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type !~ 'autovacuum|parallel|io worker')
)::belongings;
COMMENT ON FUNCTION belongings IS
    'Of this session: kilobytes, descriptors, segments; and processes of the cluster';

DO $do$
BEGIN
    EXECUTE adapt(format($create$
        CREATE PROCEDURE measure_memory(jobs int)
        LANGUAGE plpgsql
        AS $procedure$
        DECLARE
            h %s;
            r record;
            n int;
            done int;
            idle float8[];
            before belongings := belongings();
            warm belongings;
            after belongings;
            seen text[];
            left_over int;
            stop timestamptz;
        BEGIN
            -- The first ones show what any number of jobs takes.
            FOREACH n IN ARRAY ARRAY[500, 500, jobs] LOOP
                warm := after;
                done := 0;
                stop := clock_timestamp() + interval '2 min';
                WHILE done < n AND clock_timestamp() < stop LOOP
                    h := pg_background_launch_v2('SELECT pg_backend_pid()');
                    SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x int);
                    done := done + 1;
                    IF done %% 500 = 1 THEN
                        COMMIT;
                        idle := ARRAY[smaps(r.x, 'Anonymous'), smaps(r.x, 'Pss')];
                        seen := seen || mapped_segments();
                    END IF;
                END LOOP;

                -- One more takes the idle workers with it.
                PERFORM set_config(name, '0', false) FROM pg_settings WHERE name = 'pg_background.max_idle_workers';
                h := pg_background_launch_v2('SELECT pg_backend_pid()');
                SELECT x INTO r FROM pg_background_result_v2(h.pid, h.cookie) AS (x int);
                PERFORM set_config(name, reset_val, false) FROM pg_settings WHERE name = 'pg_background.max_idle_workers';
                stop := clock_timestamp() + interval '10 s';
                LOOP
                    COMMIT;
                    after := belongings();
                    SELECT count(*) INTO left_over FROM unnest(seen) AS s
                    WHERE s <> ALL (before.segments) AND s = ANY (existing_segments() || after.segments);
                    EXIT WHEN (left_over = 0 AND after.processes <= before.processes)
                        OR clock_timestamp() > stop;
                    PERFORM pg_sleep(0.01);
                END LOOP;
            END LOOP;

            INSERT INTO memory VALUES
                ('pg_background', 'idle process, own memory, kB', idle[1]),
                ('pg_background', 'idle process, PSS, kB', idle[2]),
                ('pg_background', 'jobs of the session', done),
                ('pg_background', 'growth of memory contexts, kB', after.contexts - warm.contexts),
                ('pg_background', 'growth of own memory, kB', after.own - warm.own),
                ('pg_background', 'descriptors left', after.descriptors - warm.descriptors),
                ('pg_background', 'segments left', left_over),
                ('pg_background', 'processes left', after.processes - before.processes);

            CALL connect('bench');
            SELECT x INTO r FROM dblink('bench', 'SELECT pg_backend_pid()') AS (x int);
            INSERT INTO memory VALUES
                ('dblink open', 'idle process, own memory, kB', smaps(r.x, 'Anonymous')),
                ('dblink open', 'idle process, PSS, kB', smaps(r.x, 'Pss'));
        END
        $procedure$
        $create$, handle_type()));
END
$do$;
COMMENT ON PROCEDURE measure_memory IS
    'What an idle worker holds, and what so many jobs leave behind; stops after two minutes';

-- ------------------------------------------------------------------
-- Results
-- ------------------------------------------------------------------

CREATE MATERIALIZED VIEW result AS
WITH per_round AS (
    SELECT comparison, s.sessions, contender, round,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY us) AS median,
           coalesce(jobs / (max(us) / 1e6),
                    sum(calls) / nullif(extract(epoch FROM slice), 0)::float8) AS rate
    FROM sample AS s JOIN comparison AS c USING (comparison)
    GROUP BY 1, 2, 3, 4, jobs, slice
), overall AS (
    SELECT comparison, sessions, contender, count(*) AS samples,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY us) AS median,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY us) AS p95,
           max(us) AS longest
    FROM sample GROUP BY 1, 2, 3
), relative AS (
    SELECT comparison, sessions, r.contender,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY r.median / ours.median) AS ratio,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY r.median - ours.median) AS difference,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY r.rate) AS rate,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY ours.rate / r.rate) AS speed
    FROM per_round AS r JOIN per_round AS ours USING (comparison, sessions, round)
    WHERE ours.contender = 'pg_background'
    GROUP BY 1, 2, 3
)
SELECT row_number() OVER (ORDER BY c.position, overall.sessions, contender <> 'pg_background',
                                   who.position NULLS FIRST) AS position,
       comparison, title, unit, overall.sessions, contender, samples, median, p95, longest, ratio, difference,
       rate AS calls_per_second, speed
FROM overall
    JOIN relative USING (comparison, sessions, contender)
    JOIN comparison AS c USING (comparison)
    LEFT JOIN contender AS who USING (comparison, contender)
WITH NO DATA;
COMMENT ON MATERIALIZED VIEW result IS
    'Microseconds; ratio and difference are to pg_background, the medians of those in each round; speed is how many jobs pg_background does in the time of one of this contender';

CREATE FUNCTION ratio(text, text) RETURNS float8
LANGUAGE sql
RETURN (SELECT ratio FROM result WHERE comparison = $1 AND contender = $2 AND sessions = 1);

CREATE FUNCTION median(text, text) RETURNS float8
LANGUAGE sql
RETURN (SELECT median FROM result WHERE comparison = $1 AND contender = $2 AND sessions = 1);

CREATE FUNCTION speed(text, text, sessions int) RETURNS float8
LANGUAGE sql
RETURN (SELECT speed FROM result WHERE comparison = $1 AND contender = $2 AND result.sessions = $3);

CREATE FUNCTION more_than(text, text) RETURNS float8
LANGUAGE sql
RETURN (SELECT -difference FROM result WHERE comparison = $1 AND contender = $2 AND sessions = 1);

CREATE FUNCTION held(text) RETURNS float8
LANGUAGE sql
RETURN (SELECT value FROM memory WHERE what = $1 AND contender = 'pg_background');

CREATE VIEW goal AS
SELECT what, sign || ' ' || bound AS wanted, round(found::numeric, 2) AS found,
       CASE sign WHEN '>=' THEN found >= bound WHEN '<=' THEN found <= bound ELSE found < bound END AS reached
FROM (VALUES
    ('warm small job: as fast as dblink open, times', '>=', 4, ratio('small', 'dblink open')),
    ('warm small job: more than in place, us', '<=', 15, more_than('small', 'in place')),
    ('the same of the first interface: as fast as dblink open, times', '>=', 3.5, ratio('v1', 'dblink open')),
    ('the same of the first interface: more than in place, us', '<=', 15, more_than('v1', 'in place')),
    ('small jobs, 16 sessions: as many as by dblink open, times', '>=', 1.1, speed('small', 'dblink open', 16)),
    ('small jobs, 64 sessions: as many as by dblink open, times', '>=', 1.1, speed('small', 'dblink open', 64)),
    ('autonomous INSERT: as fast as dblink open, times', '>=', 1.3, ratio('insert', 'dblink open')),
    ('autonomous INSERT: times the time of INSERT and COMMIT in place', '<=', 1.2, 1 / ratio('insert', 'in place')),
    ('autonomous INSERT with a parameter: times that time', '<=', 1.05,
     ratio('insert', 'with a parameter') / ratio('insert', 'in place')),
    ('autonomous INSERT, 8 sessions: as many as by dblink open, times', '>=', 1.1, speed('insert', 'dblink open', 8)),
    ('autonomous INSERT, 16 sessions: as many as by dblink open, times', '>=', 1.1, speed('insert', 'dblink open', 16)),
    ('autonomous INSERT, 64 sessions: as many as by dblink open, times', '>=', 1, speed('insert', 'dblink open', 64)),
    ('INSERTs submitted and forgotten, 8 sessions: as many as in place, times', '>=', 0.9, speed('queue', 'in place', 8)),
    ('INSERTs submitted and forgotten, 64 sessions: as many as in place, times', '>=', 0.8, speed('queue', 'in place', 64)),
    ('a submit: more than a no-op, us', '<=', 20, more_than('submit', 'no-op')),
    ('first job, a worker waits: times a new dblink connection', '<=', 0.3, 1 / ratio('first', 'dblink new')),
    ('small job after 10 s of silence: times dblink open', '<=', 1.2, 1 / ratio('silence', 'dblink open')),
    ('64 sessions in tight loops for 10 s: longest wait, times the median', '<=', 20,
     (SELECT longest / median FROM result WHERE comparison = 'fair' AND contender = 'pg_background')),
    -- 2.5 ms where a new connection takes 6
    ('cold job: as fast as a new dblink connection, times', '>=', 2.4, ratio('cold', 'dblink new')),
    ('1,000,000 rows: times the time of a SQL function', '<=', 1.1, 1 / ratio('rows', 'SQL function')),
    ('1,000,000 rows: as fast as dblink open, times', '>=', 1.6, ratio('rows', 'dblink open')),
    ('1,000 rows of 100 kB: as fast as dblink open, times', '>=', 1, ratio('wide', 'dblink open')),
    ('end of a job to going on, us', '<', 100, median('wait', 'pg_background')),
    ('end of a job to going on: times dblink open', '<=', 0.7, 1 / ratio('wait', 'dblink open')),
    ('end of four jobs to going on, us', '<', 100, median('wait4', 'pg_background')),
    ('40 sleeps of 50 ms, 8 at a time, us', '<', 350000, median('many', 'pg_background')),
    ('100,000 jobs: growth of memory, kB', '<', 1024,
     CASE WHEN held('jobs of the session') >= 100000 THEN
         greatest(held('growth of memory contexts, kB'), held('growth of own memory, kB')) END),
    ('100,000 jobs: segments, descriptors or processes left', '<=', 0,
     greatest(held('segments left'), held('descriptors left'), held('processes left')))
) AS goal (what, sign, bound, found);
COMMENT ON VIEW goal IS 'What the benchmark has to show, and whether it did; NULL where that was not measured';
