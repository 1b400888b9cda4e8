# shellcheck shell=bash
# Sourced by deb-test and rpm-test: a session that has jobs running while the
# packages are replaced. They have a function sql, which is psql on the cluster.

# ask INPUT ANSWER: in the session that stays open
ask() {
    local answer
    echo "$1" >&"${session[1]}"
    read -r -t 60 -u "${session[0]}" answer || answer=
    echo "$1: $answer"
    [ "$answer" = "$2" ]
}

in_process="pg_background_launch_v2('SELECT pg_backend_pid()') h, pg_background_result_v2(h.pid, h.cookie) AS (process int)"

before_upgrade() {
    local job
    sql -c "CREATE EXTENSION pg_background"
    coproc session { sql -v ON_ERROR_STOP=0; }
    # shellcheck disable=SC2154
    session_pid=$session_PID
    ask "SET pg_background.max_idle_workers = 10; SET pg_background.idle_timeout = '1h'; SELECT pg_advisory_lock(1) IS NOT NULL;" t
    # Jobs that end when this session lets them
    ask "SELECT pg_background_launch('SELECT ''one'' FROM pg_advisory_lock_shared(1)') AS one \\gset \\\\ SELECT 'one';" one
    for job in two three; do
        ask "SELECT pid || ', ' || cookie AS $job FROM pg_background_launch_v2('SELECT ''$job'' FROM pg_advisory_lock_shared(1)') \\gset \\\\ SELECT '$job';" $job
    done
    # and a worker that waits for another job
    ask "SELECT process AS spare FROM $in_process \\gset \\\\ SELECT 'spare';" spare
}

after_upgrade() {
    local job upstream
    # shellcheck disable=SC2154
    upstream=$("$top/packaging-tests/version")
    # What has the old library goes on with it,
    ask "SELECT process = :spare FROM $in_process;" t
    # but a new process has the new one.
    ask "SELECT * FROM pg_background_result(pg_background_launch('SELECT 1')) AS (a int); \\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE" \
        "55000 pg_background was replaced while the session was open"
    sql -c "ALTER EXTENSION pg_background UPDATE"
    [ "$(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'pg_background'")" = "${upstream%.*}" ]
    ask "SELECT pg_advisory_unlock(1);" t
    ask "SELECT * FROM pg_background_result(:one) AS (result text);" one
    for job in two three; do
        ask "SELECT * FROM pg_background_result_v2(:$job) AS (result text);" $job
    done
    echo '\q' >&"${session[1]}"
    wait "$session_pid"

    [ "$(sql -c "SELECT * FROM pg_background_run_query_v2('SELECT 1') AS (a int)")" = 1 ]
    sql -c "DROP EXTENSION pg_background"
}
