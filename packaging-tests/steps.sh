# shellcheck shell=bash
# Sourced by the scripts that test packages of $version inside a chroot. Each is
# a sequence of steps that ends with the first one that fails; what they print
# of their steps is counted by packaging-tests/run.

current=

# step NAME: what follows, up to the next step, is that step.
step() {
    [ -z "$current" ] || echo "ok - $current"
    current=$1
    [ -z "$current" ] || echo "### $current"
}

# skip NAME WHY: a step that cannot be done here
skip() {
    step ""
    echo "skipped - $1: $2"
}

# README.md has commands for whoever is not root.
sudo() {
    "$@"
}

# follow_readme COMMAND FOLDER: does what the section Install of README.md says
# where it has this command, with the packages in FOLDER, that has there the
# name ./dist.
follow_readme() {
    local commands
    # shellcheck disable=SC2154
    commands=$(awk -v command="$1[ \n]" '
        /^## / { install = $0 == "## Install" }
        /^```/ { if (block ~ command) printf "%s", block; block = ""; next }
        install { block = block $0 "\n" }' "$top/README.md" |
        sed "s/17/$version/g; s, [.]/dist/, $2/,")
    [ -n "$commands" ] || die "README.md does not say what to do with $1."
    echo "$commands"
    eval "$commands"
}

ended() {
    if [ "$1" = 0 ]; then
        step ""
    elif [ -n "$current" ]; then
        echo "not ok - $current"
    fi
    rm -rf "$work"
}

work=
make_work
trap 'ended $?' EXIT
# The status would be that of the command before the one that is cut off.
trap 'exit 1' HUP INT TERM
