# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# The words of every shell test, on this machine (functions.sh sources it) and in the virtual ones (vm/guest/functions.sh).

note() { echo "# $*" >&2; }

# die MESSAGE: the test fails here, with what the service logged
die() {
        echo "FAILED: $*" >&2
        exit 1
}

# skip REASON
skip() {
        echo "skip: $*" >&2
        exit 77
}

# requires COMMAND…: skips where one is missing
requires() {
        local c
        for c in "$@"; do
                command -v "$c" >/dev/null || skip "$c is not installed"
        done
}

# ---- clean-up ----------------------------------------------------------------------------------------------------

_cleanups=()

# cleanup_fn COMMAND ARGUMENT…: runs at the end, last first
cleanup_fn() { _cleanups+=("$(printf '%q ' "$@")"); }

# ---- processes and waiting ---------------------------------------------------------------------------------------

# wait_until SECONDS COMMAND…: until it succeeds
wait_until() {
        local end=$((SECONDS + $1))
        shift
        until "$@" 2>/dev/null; do
                [ $SECONDS -lt $end ] || return 1
                wait_step
        done
}
wait_step() { sleep 0.02; }

# stop_process PID: TERM, after 5 s KILL; no complaint if it has gone
stop_process() {
        local i
        kill -TERM "$1" 2>/dev/null || :
        for i in {1..100}; do
                kill -0 "$1" 2>/dev/null || break
                sleep 0.05
        done
        if kill -KILL "$1" 2>/dev/null; then echo "process $1 did not end on SIGTERM" >&2; fi
        wait "$1" 2>/dev/null || :
}

# is_frozen MOUNT-POINT: whether writes stand still there; the kernel shows it nowhere, so it tries and takes it back
is_frozen() {
        if fsfreeze -f "$1" 2>/dev/null; then
                fsfreeze -u "$1"
                return 1
        fi
}

# ---- assertions --------------------------------------------------------------------------------------------------

# expect_exit CODE COMMAND…: its output goes through
expect_exit() {
        local want=$1 got=0
        shift
        "$@" || got=$?
        [ $got -eq "$want" ] || die "'$*' ended with $got, expected $want"
}

# expect_equal WANT GOT WHAT
expect_equal() { [ "$1" = "$2" ] || die "$3 is '$2', expected '$1'"; }

# json EXPRESSION <DOCUMENT: the value as text; fails if it is missing, null or false
json() { jq -er "$1"; }

# cases NAME…: runs the functions case_NAME one after the other, each in a subshell with clean-ups of its own, and goes on
# after a failure, so that one run shows all of them
cases() {
        local name status failed=()
        for name in "$@"; do
                note "case $name"
                set +e
                (
                        set -e
                        _cleanups=()
                        trap _case_finish EXIT
                        "case_$name"
                )
                status=$?
                set -e
                [ $status -eq 0 ] || failed+=("$name")
        done
        [ ${#failed[@]} -eq 0 ] || die "${#failed[@]} of $# cases failed: ${failed[*]}"
}

_case_finish() {
        local status=$? i
        trap - EXIT
        set +e
        for ((i = ${#_cleanups[@]} - 1; i >= 0; i--)); do eval "${_cleanups[i]}"; done
        exit $status
}

# run_as USER COMMAND…: an unprivileged caller (with exec, so that no shell of ours runs as him)
run_as() { (become "$@"); }

# become USER COMMAND…: the calling shell turns into it; (become nobody cat) & has cat's process in $!
become() {
        local user=$1
        shift
        exec setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups -- "$@"
}
