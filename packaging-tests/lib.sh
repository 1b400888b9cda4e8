# shellcheck shell=bash
# Sourced by docs/demo and by the scripts of this folder: what they need of the
# machine, and a copy of the sources to build and test in, so that neither the
# checkout nor the server's own directories are written to.

# The caller's make, server and locale settings are not those of a test.
mapfile -t settings < <(compgen -v PG | grep -vx PG_BACKGROUND_CACHE)
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES TMPDIR "${settings[@]}"
export LC_ALL=C.UTF-8

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() {
    echo "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Servers refuse to run as root. All that a test leaves goes with $work.
unprivileged() {
    local command=(env HOME="$work" TMPDIR="$work" "$@")
    if [ "$(id -u)" = 0 ]; then
        runuser -u postgres -- "${command[@]}"
    else
        "${command[@]}"
    fi
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# why LOG: what failed, in the words of a log's own lines: of steps, test files and
# tests, of tests that came to no end, and of compilers and apt; and of each file that
# pg_regress found different, how it begins.
why() {
    awk '
        /^diff / { left = 8 }
        /^[-+]/ { if (left-- > 0) print; next }
        /^(not ok|skipped) - |^not ok [0-9]|^test .* FAILED|^#   (Failed|Parse)|^# +at |\(Wstat: |Parse errors:/ ||
        /timed out|Timeout|TRAP: |PANIC: |terminated by signal|(: |^)[eE]rror: |^E: |^make.*[*][*][*] / { print }' "$1" |
        cut -c 1-160 | uniq | tail -n 25
}

# Does apt know a package?
available() {
    apt-cache show "$1" >/dev/null 2>&1
}

# The same, where it has to look anew if it does not
can_be_had() {
    available "$1" || as_root apt-get -qq update || true
    available "$1"
}

# need PACKAGE...: installs those that are missing.
need() {
    local package missing=()
    for package; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "Installing ${missing[*]}"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "There is no sudo here. As root: apt-get install ${missing[*]}"

    # A server package would otherwise create and start a cluster "main".
    local no_main=/etc/postgresql-common/createcluster.d/pg_background-no-main.conf status=0 log
    log=$(mktemp)
    as_root mkdir -p "${no_main%/*}"
    echo 'create_main_cluster = false' | as_root tee "$no_main" >/dev/null
    # A third party's repository that is down is no reason to stop here.
    as_root apt-get -qq update || true
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y --no-install-recommends install "${missing[@]}" </dev/null >"$log" 2>&1 || status=$?
    [ $status = 0 ] || cat "$log" >&2
    rm "$log"
    as_root rm -f "$no_main"
    as_root rmdir --ignore-fail-on-non-empty "${no_main%/*}"
    return $status
}

# The majors installed here, oldest first, but for those older than is supported.
servers() {
    local postgres
    for postgres in /usr/lib/postgresql/*/bin/postgres; do
        [ ! -x "$postgres" ] || basename "${postgres%/bin/postgres}"
    done | sort -n | awk '$1 >= 14'
}

need_server() {
    [ -n "$(servers)" ] || need postgresql
}

# What building for a major takes, one package a line.
build_packages() {
    printf '%s\n' make gcc libc6-dev postgresql-common "postgresql-server-dev-$1"
}

# Extensions of others that some tests are about; there are none yet for a server that
# is no release.
test_extensions() {
    [ "$1" -ge 19 ] || printf '%s\n' "postgresql-$1-cron" "postgresql-$1-pgextwlist"
}

# What building and testing takes.
test_packages() {
    build_packages "$1"
    printf '%s\n' clang libipc-run-perl ora2pg "postgresql-$1"
    test_extensions "$1"
}

# Whether a server takes an extension from an image, which is by its setting
# extension_control_path.
takes_images() {
    [ "$1" -ge 18 ]
}

# The majors of packaging-tests/suites, in its order
tested_servers() {
    sed -nE 's/^([0-9]+) .*/\1/p' "$top/packaging-tests/suites"
}

# What make is told of the tests that a package's own build runs: for the first server,
# all regression tests; for others, whose recipe is the same, one, since all of them are
# run on what is installed.
tests_in_build() {
    [ "$1" = "$(tested_servers | head -n 1)" ] || echo REGRESS=launch
}

# What building an image of the extension takes.
image_packages() {
    build_packages "$1"
    echo umoci
}

# older_server NN: the server before in packaging-tests/suites, and its suite
older_server() {
    awk -v version="$1" '$1 == version && older { print older } /^[0-9]/ { older = $1 " " $2 }' "$top/packaging-tests/suites"
}

# What packaging-tests/ecosystem-test tests with, as far as the suite has it.
ecosystem_packages() {
    printf '%s\n' python3-psycopg default-jdk-headless libpostgresql-jdbc-java nodejs node-pg pgbouncer \
        "postgresql-$1-pgaudit" "postgresql-$1-cron"
    older_server "$1" | sed -E 's/^([0-9]+) .*/postgresql-\1/'
}

# Sets $work, a folder that goes away with the script.
make_work() {
    work=$(mktemp -d /tmp/pg_background.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    cd "$work" || exit
}

# stage NN: copies the sources to $work/NN.
stage() {
    mkdir "$work/$1"
    tar -C "$top" --exclude-vcs --exclude=./dist -cf - . | tar -C "$work/$1" --no-same-owner -xf -
    [ "$(id -u)" != 0 ] || chown -R postgres: "$work"
}

# build NN [make variables...]: a build from nothing of what is staged.
build() {
    local version=$1
    shift
    unprivileged make -s -C "$work/$version" \
        PG_CONFIG="/usr/lib/postgresql/$version/bin/pg_config" clean all "$@"
}

# compile NN COMPILER [make variables...]: a build in which a warning is an error.
compile() {
    local options=()
    # A server's headers and options are for the compiler that built it.
    [ "$2" != clang ] || options=(-Wno-unknown-warning-option -Wno-ignored-optimization-argument -Wno-ignored-attributes)
    build "$1" CC="$2" COPT="-Werror -Wshadow ${options[*]}" "${@:3}"
}

# Installs the build below $work/NN.root and writes the settings that let a
# server find it there, by its SQL name in $libdir and by the bare library name
# that a background worker is registered with: $work/NN.conf has only these,
# $work/NN.cluster.conf also those that the tests ask of their cluster.
install_staged() {
    local version=$1 root=$work/$1.root
    local pg_config=/usr/lib/postgresql/$1/bin/pg_config
    unprivileged make -s -C "$work/$version" PG_CONFIG="$pg_config" DESTDIR="$root" install
    {
        # Debian's servers before 18 have a setting of their own for this.
        if [ "$version" -lt 18 ]; then
            echo "extension_destdir = '$root'"
        else
            echo "extension_control_path = '$root$("$pg_config" --sharedir):\$system'"
        fi
        echo "dynamic_library_path = '$root$("$pg_config" --pkglibdir):\$libdir'"
    } >"$work/$version.conf"
    cat "$top/packaging-tests/cluster.conf" "$work/$version.conf" >"$work/$version.cluster.conf"
}

# with_cluster NN COMMAND...: runs the command on a throw-away cluster that can
# load what install_staged has installed.
with_cluster() {
    local version=$1
    shift
    unprivileged pg_virtualenv -v "$version" -o "include=$work/$version.cluster.conf" "$@"
}
