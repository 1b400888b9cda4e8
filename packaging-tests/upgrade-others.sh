# shellcheck shell=bash
# Sourced by deb-test and rpm-test, after upgrade.sh: the package of an older
# version that others have made is replaced by ours. VERSION is the catalog's, of
# which there is a file jobs-VERSION.sql.

# jobs VERSION: what its functions answer, by each of their names
jobs() {
    local v2
    for v2 in '' _v2; do
        sql -v v2=$v2 <"$top/packaging-tests/jobs-$1.sql"
    done
}

before_upgrade_from() {
    local job
    sql -c "CREATE EXTENSION pg_background"
    [ "$(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'pg_background'")" = "$1" ]
    jobs "$1" >jobs.before
    coproc session { sql -v ON_ERROR_STOP=0; }
    # shellcheck disable=SC2154
    session_pid=$session_PID
    # Jobs that end when this session lets them. A handle or a PID: what is in the
    # parentheses of a call is its text without its own.
    ask "SELECT pg_advisory_lock(1) IS NOT NULL;" t
    for job in one two; do
        ask "SELECT translate(pg_background_launch('SELECT ''$job'' FROM pg_advisory_lock_shared(1)')::text, '()', '') AS $job \\gset \\\\ SELECT '$job';" $job
    done
}

after_upgrade_from() {
    local upstream
    upstream=$("$top/packaging-tests/version")
    # Nobody has run any SQL.
    jobs "$1" | diff jobs.before -
    # What an open session launches from now on may fail, and harms nobody.
    ask "SELECT translate(pg_background_launch('SELECT 3')::text, '()', '') AS three \\gset \\\\ SELECT 'launched';" launched
    ask "SELECT * FROM pg_background_result(:three) AS (three int) \\gset \\\\ SELECT 'read';" read
    # What it has launched before goes on.
    ask "SELECT pg_advisory_unlock(1);" t
    ask "SELECT * FROM pg_background_result(:one) AS (job text);" one

    sql -c "ALTER EXTENSION pg_background UPDATE"
    [ "$(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'pg_background'")" = "${upstream%.*}" ]
    jobs "$1" | diff jobs.before -
    ask "SELECT * FROM pg_background_result(:two) AS (job text);" two
    echo '\q' >&"${session[1]}"
    wait "$session_pid"

    sql -c "CREATE TABLE kept (n int)"
    [ "$(sql -c "BEGIN" -c "SELECT pg_background_exec('INSERT INTO kept VALUES (1), (\$1)', 2)" -c "ROLLBACK")" = 2 ]
    [ "$(sql -c "SELECT n FROM pg_background_query('SELECT sum(n) FROM kept') AS (n int8)")" = 3 ]
    [ "$(sql -c "SELECT n FROM pg_background_result(pg_background_launch('SELECT 4', label => 'four')) AS (n int)")" = 4 ]
    sql -c "DROP TABLE kept" -c "DROP EXTENSION pg_background"
}
