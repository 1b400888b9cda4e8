-- The tour of "make demo", see docs/demo: ten scenes of a shop, in an empty
-- database. What was typed is psql's own echo; its times are those of the machine.
-- t/308_demo.pl runs this, too.
\set QUIET on
\set ON_ERROR_STOP on
\pset footer off
\pset pager off
SELECT clock_timestamp() AS beginning \gset
\set ECHO queries

\echo
\echo '== The shop: 400,000 orders in eight partitions =='
\echo '   Shown is what psql sends, the value of a handle where :h was typed, and what comes back.'
\echo

CREATE EXTENSION pg_background;
CREATE TABLE audit (who text, what text);
CREATE TABLE counter (name text PRIMARY KEY, value int);
INSERT INTO counter VALUES ('invoice', 4710);
CREATE TABLE stock (product text PRIMARY KEY, pieces int CHECK (pieces >= 0));
INSERT INTO stock VALUES ('kettle', 3);
CREATE TABLE orders (id int, customer text, total numeric) PARTITION BY HASH (id);
SELECT format('CREATE TABLE orders_%s PARTITION OF orders'
              ' FOR VALUES WITH (MODULUS 8, REMAINDER %s)', n, n - 1)
FROM generate_series(1, 8) AS n \gexec
INSERT INTO orders
SELECT n, 'customer ' || n % 9973, n % 1009 FROM generate_series(1, 400000) AS n;

\echo
\echo '== 1. An audit row survives a rollback =='
\echo '   The order is undone; that somebody tried to place it is not.'
\echo

BEGIN;
INSERT INTO orders VALUES (0, 'Mallory', 1000000);
SELECT pg_background_exec('INSERT INTO audit VALUES ($1, $2)', 'Mallory', 'wants a lot') AS rows;
ROLLBACK;
SELECT count(*) AS orders FROM orders WHERE customer = 'Mallory';
TABLE audit;

\echo
\echo '== 2. A number that is taken once =='
\echo '   Its taker rolls back, and nobody who wants the next one has to wait for that.'
\echo

BEGIN;
SELECT * FROM pg_background_query(
    'UPDATE counter SET value = value + 1 WHERE name = $1 RETURNING value', 'invoice')
    AS (invoice int);
ROLLBACK;
TABLE counter;

\echo
\echo '== 3. What an autonomous transaction costs =='
\echo '   Here are a thousand, each with its commit: the worker is there, nothing has to connect.'
\echo

SELECT sum(pg_background_exec('INSERT INTO audit VALUES ($1, $2)', n, 'looked')) AS rows,
       extract(milliseconds FROM (clock_timestamp() - statement_timestamp()) / 1000) AS "ms each"
FROM generate_series(1, 1000) AS n;

\echo
\echo '== 4. The session goes on while a job runs =='
\echo '   A launch returns at once, and what it returns is all that one needs to come back later.'
\echo

SELECT pg_background_launch(
    'SELECT customer, sum(total) FROM orders GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3') AS h \gset
\echo
\echo '   The handle is the PID of the worker and a random number:' :h
\echo
SELECT pg_background_wait(:h, 10) AS "ended within 10 ms";
INSERT INTO orders VALUES (400001, 'Alice', 12);
SELECT * FROM pg_background_result(:h)
    AS (customer text, total numeric);

\echo
\echo '== 5. How far is it? =='
\echo '   A job can say so, this one after each partition; its session draws a bar of it.'
\echo

CREATE PROCEDURE reprice() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. 8 LOOP
        EXECUTE format('UPDATE orders_%s SET total = total * 1.02', n);
        COMMIT;
        PERFORM pg_background_report_progress(n * 100 / 8, format('orders_%s is done', n));
    END LOOP;
END $$;
CREATE PROCEDURE draw(h pg_background_handle) LANGUAGE plpgsql AS $$
DECLARE
    ended bool;
    now record;
    drawn int;
BEGIN
    LOOP
        ended := pg_background_wait(h, 100);
        SELECT coalesce(progress_pct, 0) AS pct, coalesce(progress_msg, 'begins') AS msg
        INTO now FROM pg_background_get_progress(h);
        IF now.pct IS DISTINCT FROM drawn THEN
            RAISE INFO '[%] % %%, %', rpad(repeat('#', now.pct / 2), 50, '.'), now.pct, now.msg;
            drawn := now.pct;
        END IF;
        EXIT WHEN ended;
    END LOOP;
END $$;
SELECT pg_background_launch('CALL reprice()', label => 'new prices') AS h \gset
CALL draw(:h);

\echo
\echo '== 6. Eight partitions, one after the other and at once =='
\echo '   A report keeps one processor busy, and the machine has more of them.'
\echo

CREATE FUNCTION report(n int, OUT orders bigint, OUT customers bigint, OUT median numeric)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT count(*), count(DISTINCT customer),'
                   ' percentile_disc(0.5) WITHIN GROUP (ORDER BY total) FROM orders_%s', n)
    INTO orders, customers, median;
END $$;
\timing on
SELECT n, r.* FROM generate_series(1, 8) AS n, report(n) AS r;
\echo
CREATE TEMP TABLE job AS
SELECT n, pg_background_launch_params('SELECT * FROM report($1)', n) AS h
FROM generate_series(1, 8) AS n\;
SELECT n, h, r.*
FROM job, pg_background_result(h) AS r (orders bigint, customers bigint, median numeric);
\timing off

\echo
\echo '== 7. A job that fails =='
\echo '   Nothing is lost with it: who reads its result gets its error as it is.'
\echo

SELECT pg_background_launch(
    $$UPDATE stock SET pieces = pieces - 5 WHERE product = 'kettle'$$) AS h \gset
SELECT pg_background_wait(:h) AS ended;
SELECT state, sqlstate FROM pg_background_outcome(:h);
\set ON_ERROR_STOP off
SELECT * FROM pg_background_result(:h) AS (tag text);
\set ON_ERROR_STOP on

\echo
\echo '== 8. A job that takes too long =='
\echo '   Jobs can be found by their label, and canceled.'
\echo

SELECT pg_background_launch('SELECT pg_sleep(3600)', label => 'stock-taking') AS h \gset
SELECT pg_background_wait(:h, 100) AS "ended within 100 ms";
SELECT pid, cookie, state, label, sql_preview FROM pg_background_list;
SELECT pg_background_cancel_by_label('stock%') AS canceled;
SELECT pg_background_wait(:h) AS ended;
SELECT state, error_message FROM pg_background_outcome(:h);

\echo
\echo '== 9. What begins at the commit, and never after a rollback =='
\echo '   Bob gets one letter, about the order that is there.'
\echo

CREATE TABLE letter (customer text, what text);
BEGIN;
INSERT INTO orders VALUES (400002, 'Bob', 1);
SELECT pg_background_submit_on_commit($$INSERT INTO letter VALUES ('Bob', 'order 400002')$$) \gset
ROLLBACK;
BEGIN;
INSERT INTO orders VALUES (400003, 'Bob', 1);
SELECT pg_background_submit_on_commit($$INSERT INTO letter VALUES ('Bob', 'order 400003')$$) \gset
COMMIT;
DO $$
BEGIN
    WHILE NOT EXISTS (SELECT FROM letter) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
TABLE letter;

\echo
\echo '== 10. The pool =='
\echo '   A job that finds no worker stands in line, and its session goes on.'
\echo

CREATE TEMP TABLE parcel AS
SELECT pg_background_submit('SELECT pg_sleep(0.02)') AS h FROM generate_series(1, 200);
SELECT running, idle, queued FROM pg_background_pool;
SELECT state, count(*) FROM pg_background_drain((SELECT array_agg(h) FROM parcel)) GROUP BY state;
\x on
TABLE pg_background_pool;
\x off

\set ECHO none
SELECT round(extract(epoch FROM clock_timestamp() - :'beginning')::numeric, 1) AS seconds \gset
\echo
\echo '== The end, after' :seconds 'seconds =='
