#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The guard is in a unit of its own. Killing everything in vssd's control group while file systems are held leaves nothing held
# for more than a second; so does stopping vssd, and killing the guards' units; killing all of both at once is put right
# when vssd starts again, which systemd does.
# disks: 256M
# seconds: 300
. "$(dirname "$0")/functions.sh"

new_fs data ext4 "$d0"
service_environment vssd.service VSS_FAULT=commit:delay=8000
expect_exit 0 vssctl status >/dev/null
testwriter --name=probe --volume="$data"

cgroup() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }
registered() { vssctl writers | grep -q probe; }
guards() { pgrep -f "^[^ ]*vss-guard" || :; }
hold() {
        wait_until 60 registered || die "the writer does not come back"
        hold_set "$data"
        expect_equal 1 "$(cat /sys/kernel/rcu_expedited)" "rcu_expedited in the hold"
}
usual() { [ "$(cat /sys/kernel/rcu_expedited)" = 0 ]; }
# runs WHAT SECONDS
runs() {
        local begin=$EPOCHREALTIME
        wait_until "$2" probe_runs || die "$1: still held after $2 s"
        note "$1: runs again after $(awk "BEGIN {print $EPOCHREALTIME - $begin}") s"
        is_frozen "$data" && die "$1: left frozen"
        kill "$PROBE_PID" 2>/dev/null || :
        wait_set && die "$1: the set is called good"
        wait_until 20 eval '[ -z "$(guards)" ]' || die "$1: a guard stays"
        wait_until 10 usual || die "$1: grace periods stay short"
}

hold
for guard in $(guards); do
        case $(cgroup "$guard") in
        /vss-guard@*) ;;
        *) die "guard $guard is in $(cgroup "$guard")" ;;
        esac
        expect_equal -1000 "$(cat "/proc/$guard/oom_score_adj")" "the guard's oom_score_adj"
done
systemctl kill --signal=KILL --kill-whom=all vssd
runs "vssd's control group killed" 2

hold
systemctl stop vssd || note "started again by somebody's call"
runs "vssd stopped" 2
expect_exit 0 vssctl status >/dev/null

hold
systemctl kill --signal=KILL --kill-whom=all 'vss-guard@*'
runs "the guard's control group killed" 2

hold
systemctl kill --signal=TERM 'vss-guard@*'
runs "SIGTERM for the guard" 2

hold
mapfile -t all < <(guards)
kill -KILL "$(systemctl show -P MainPID vssd)" "${all[@]}"
runs "both killed" 10
wait_until 60 is_active vssd || die "vssd does not come back"
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots"
