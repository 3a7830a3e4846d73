#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL in the middle of the hold: of vssd, of the guard, of both and everything that could thaw. In the first two cases
# the file system runs again within a second; after the third the next start of vssd releases it before anything else.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4 pgrep
watchdog 120

new_fs data ext4 64M
start_bus
export VSS_FAULT=commit:delay=6000
start_vssd
testwriter --name=probe --volume="$data"

runs_within_a_second() {
        wait_until 2 probe_runs || die "$1: still held after a second"
        is_frozen "$data" && die "$1: left frozen"
        kill "$PROBE_PID" 2>/dev/null || :
        wait_set && die "$1: the set is called good"
        return 0
}

note "SIGKILL of vssd"
hold_set "$data"
kill -KILL "$VSSD_PID"
runs_within_a_second vssd
start_vssd
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots after the death of vssd"

note "SIGKILL of the guard"
wait_until 10 grep -q "probe" <(vssctl writers)
hold_set "$data"
guard=$(guards | head -1)
[ -n "$guard" ] || die "no guard runs"
kill -KILL "$guard"
runs_within_a_second guard

note "SIGKILL of vssd and of every guard"
hold_set "$data"
mapfile -t all < <(guards)
kill -KILL "$VSSD_PID" "${all[@]}"
sleep 0.5
probe_waits || note "something thawed it already"
start_vssd
wait_until 2 probe_runs || die "the next start did not release what was held"
is_frozen "$data" && die "left frozen"
kill "$PROBE_PID" 2>/dev/null || :
wait_set && die "the set is called good"
unset VSS_FAULT
stop_vssd
start_vssd
expect_exit 0 vssctl create --provider=null "$data" >/dev/null
