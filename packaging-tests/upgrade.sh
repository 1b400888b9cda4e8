# shellcheck shell=bash
# Sourced by deb-test and rpm-test: a session that has jobs running while the
# packages are replaced. They have a function sql, which is psql on the cluster.

# ask QUESTION ANSWER: in the session that stays open
ask() {
    local answer
    echo "$1;" >&"${session[1]}"
    read -r -t 60 -u "${session[0]}" answer
    echo "$1: $answer"
    [ "$answer" = "$2" ]
}

before_upgrade() {
    local job
    sql -c "CREATE EXTENSION pg_background VERSION '1.6'"
    coproc session { sql; }
    # shellcheck disable=SC2154
    session_pid=$session_PID
    ask "SELECT pg_advisory_lock(1) IS NOT NULL" t
    # Jobs that end when this session lets them
    for job in one two three; do
        ask "SELECT pg_background_launch('SELECT ''$job'' FROM pg_advisory_lock_shared(1)') AS $job \\gset \\\\ SELECT '$job'" $job
    done
}

after_upgrade() {
    local job
    ask "SELECT result FROM pg_background_result(pg_background_launch('SELECT 1')) AS (result int)" 1
    sql -c "ALTER EXTENSION pg_background UPDATE"
    ask "SELECT pg_advisory_unlock(1)" t
    for job in one two three; do
        ask "SELECT result FROM pg_background_result(:$job) AS (result text)" $job
    done
    ask "SELECT result FROM pg_background_result(pg_background_launch(
        \$\$SELECT extversion = default_version FROM pg_extension JOIN pg_available_extensions ON name = extname WHERE name = 'pg_background'\$\$)) AS (result bool)" t
    echo '\q' >&"${session[1]}"
    wait "$session_pid"
    sql -c "DROP EXTENSION pg_background"
}
