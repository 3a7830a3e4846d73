#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guard that somebody else starts for vssd's connection, as systemd does for vss-guard.socket: it is no child of vssd, so
# the death of vssd and of everything that vssd has started does not touch it, and it lets go at once. When it dies itself
# vssd lets go. Where nobody listens any more, vssd starts one as ever.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4 pgrep systemd-socket-activate
watchdog 120

new_fs data ext4 64M
start_bus
systemd-socket-activate --seqpacket --accept --listen="$RUNTIME_DIRECTORY/guard.socket" "$VSS_BUILD/daemon/vss-guard" \
        --socket-fd=3 --runtime-directory="$RUNTIME_DIRECTORY" 2>"$VSS_TEST_DIR/log/listener.log" &
LISTENER=$!
cleanup_fn stop_process $LISTENER
wait_until 10 test -S "$RUNTIME_DIRECTORY/guard.socket" || die "nobody listens"
export VSS_FAULT=commit:delay=6000
start_vssd
testwriter --name=probe --volume="$data"

descendants() {
        local child
        for child in $(pgrep -P "$1" || :); do echo "$child" && descendants "$child"; done
}
registered() { vssctl writers | grep -q probe; }
parent() { awk '/^PPid:/ {print $2}' "/proc/$1/status"; }
runs_within_a_second() {
        wait_until 2 probe_runs || die "$1: still held after a second"
        is_frozen "$data" && die "$1: left frozen"
        kill "$PROBE_PID" 2>/dev/null || :
        wait_set && die "$1: the set is called good"
        wait_until 5 eval '[ -z "$(guards)" ]' || die "$1: a guard stays: $(guards)"
        wait_until 5 eval '[ -z "$(ls "$RUNTIME_DIRECTORY/held")" ]' || die "$1: its list stays"
}

note "SIGKILL of vssd and of all its children"
hold_set "$data"
for guard in $(guards); do
        case $(parent "$guard") in
        "$VSSD_PID") die "guard $guard is vssd's child" ;;
        "$LISTENER") started=$guard ;;
        esac
done
[ -n "${started:-}" ] || die "no guard was started by the listener: $(guards)"
mapfile -t all < <(descendants "$VSSD_PID")
kill -KILL "$VSSD_PID" "${all[@]}"
runs_within_a_second vssd

note "SIGKILL of the guard, and of both of its processes"
for victims in first both; do
        start_vssd
        wait_until 10 registered
        hold_set "$data"
        mapfile -t all < <(guards)
        [ ${#all[@]} -eq 2 ] || die "${#all[@]} processes guard"
        [ $victims = both ] || all=("${all[0]}")
        kill -KILL "${all[@]}"
        runs_within_a_second "$victims"
        stop_vssd
        # a list that stayed would have the next start thaw what somebody else has frozen since
        fsfreeze -f "$data"
        start_vssd
        is_frozen "$data" || die "$victims: the next start thaws a freeze that is not ours"
        fsfreeze -u "$data"
        stop_vssd
done

note "SIGTERM of vssd"
start_vssd
wait_until 10 registered
hold_set "$data"
kill -TERM "$VSSD_PID"
runs_within_a_second SIGTERM

unset VSS_FAULT
start_vssd
expect_exit 0 vssctl create --provider=null "$data" >/dev/null
grep -q "Connection from" "$VSS_TEST_DIR/log/listener.log" || note "the listener says nothing of connections"
note "nobody listens"
stop_process $LISTENER
[ -S "$RUNTIME_DIRECTORY/guard.socket" ] || die "its socket is gone: that is another case"
expect_exit 0 vssctl create --provider=null "$data" >/dev/null
stop_vssd
