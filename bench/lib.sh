# shellcheck shell=bash
# Sourced by bench/run and bench/compare: what both do before and after the
# driver.

# shellcheck source-path=SCRIPTDIR source=../packaging-tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../packaging-tests/lib.sh"

# Builds what is measured. Sets $version, and $work, a folder that goes away
# with the script; $work/$version.cluster.conf is for with_cluster.
prepare() {
    local packages
    need_server
    version=$(servers | tail -n 1)
    mapfile -t packages < <(build_packages "$version")
    need "${packages[@]}" "postgresql-$version"
    command -v gnuplot >/dev/null || need gnuplot-nox || echo "There will be no picture."

    # Not below /tmp: that may be in memory, where a commit costs nothing.
    work=$(mktemp -d /var/tmp/pg_background.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    cd "$work" || exit

    echo "Building pg_background for PostgreSQL $version"
    stage "$version"
    build "$version"
    install_staged "$version"
    cat "$top/bench/cluster.conf" "$work/$version.conf" >"$work/$version.cluster.conf"
}

# keep_results NAME: what the driver has left, as bench/results/NAME.*
keep_results() {
    local result
    mkdir -p "$top/bench/results"
    for result in "$work"/results.*; do
        cp "$result" "$top/bench/results/$1.${result##*.}"
    done
    echo "These tables, all numbers, and a picture: bench/results/$1.txt, .json, .svg"
}
