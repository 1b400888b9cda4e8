# shellcheck shell=bash
# Sourced by the scripts that test packages inside a chroot. Each is a sequence
# of steps that ends with the first one that fails; what they print of their
# steps is counted by packaging-tests/run.

current=

# step NAME: what follows, up to the next step, is that step.
step() {
    [ -z "$current" ] || echo "ok - $current"
    current=$1
    [ -z "$current" ] || echo "### $current"
}

ended() {
    if [ "$1" = 0 ]; then
        step ""
    else
        echo "not ok - $current"
    fi
    rm -rf "$work"
}

work=
make_work
trap 'ended $?' EXIT
