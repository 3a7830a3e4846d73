#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Provider hosts are in a unit of their own, with rights that vssd has not, and where everybody's mounts are. Killing it while
# file systems are held costs the set and nothing else, stopping it not even that; they end at once with vssd, however that
# ends, in the middle of a call too. Where nobody starts hosts vssd says so.
# disks: 256M
# seconds: 300
. "$(dirname "$0")/functions.sh"

new_fs data ext4 "$d0"
configure Timeouts hold=50 freeze=70
service_environment vssd.service VSS_FAULT=commit:delay=60000
expect_exit 0 vssctl status >/dev/null
testwriter --name=probe --volume="$data"

hosts() { pgrep -f '^[^ ]*vss-provider-host --attach' || :; }
none() { [ -z "$(hosts)" ]; }
registered() { vssctl writers | grep -q probe; }
field() { awk -v f="$2:" '$1 == f {print $2}' "/proc/$1/status"; }
has() { [ $((0x$(field "$1" CapEff) >> $2 & 1)) = 1 ]; } # PROCESS NUMBER-OF-THE-CAPABILITY
hold() {
        wait_until 60 registered || die "the writer does not come back"
        hold_set "$data"
        host=$(hosts)
        [[ $host =~ ^[0-9]+$ ]] || die "not one host: $host"
}
# ends WHAT: the set failed by itself, long before its commit was due; its host is gone and nothing is held
ends() {
        local begin=$EPOCHREALTIME
        wait_until 8 probe_runs || die "$1: still held"
        note "$1: runs again after $(awk "BEGIN {print $EPOCHREALTIME - $begin}") s"
        is_frozen "$data" && die "$1: left frozen"
        kill "$PROBE_PID" 2>/dev/null || :
        wait_set && die "$1: the set is called good"
        wait_until 10 none || die "$1: a host stays: $(hosts)"
}

hold
case $(sed -n 's/^0:://p' "/proc/$host/cgroup") in
/system.slice/vss-provider.service) ;;
*) die "the host is in $(cat "/proc/$host/cgroup")" ;;
esac
vssd=$(systemctl show -P MainPID vssd)
expect_equal "$(readlink /proc/1/ns/mnt)" "$(readlink "/proc/$host/ns/mnt")" "the host's mount namespace"
expect_equal 0 "$(cat "/proc/$host/oom_score_adj")" "the host's oom_score_adj"
expect_equal unlimited "$(awk '/^Max locked memory/ {print $4}' "/proc/$host/limits")" "memory that a host may lock"
tr '\0' '\n' <"/proc/$vssd/environ" | grep -q '^RUNTIME_DIRECTORY=/run/vss$' || die "vssd's directory is not in its environment"
for c in 19 21 23 27; do # SYS_PTRACE SYS_ADMIN SYS_NICE MKNOD
        has "$host" $c || die "the host has not capability $c: $(field "$host" CapEff)"
done
for c in 0 14 19 23 27; do # CHOWN IPC_LOCK SYS_PTRACE SYS_NICE MKNOD
        ! has "$vssd" $c || die "vssd has capability $c: $(field "$vssd" CapEff)"
done
has "$vssd" 21 || die "the test cannot tell a capability: $(field "$vssd" CapEff)"

systemctl kill --signal=KILL vss-provider
ends "the host's unit killed"
expect_equal org.vssd.Vss1.Error.ProviderLost "$(jq -r .error.name "$SET_OUT")" "error of the set"
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots"
expect_equal "$vssd" "$(systemctl show -P MainPID vssd)" "vssd"

hold
systemctl stop vss-provider 2>/dev/null
sleep 1
[ "$(hosts)" = "$host" ] || die "a stop of the unit ends what a provider may be at: $(hosts)"
probe_waits || die "the set is over"
kill -KILL "$host"
ends "the unit stopped and the host killed"

hold
systemctl kill --signal=KILL --kill-whom=all vssd
ends "all of vssd's unit killed"

hold
note "vssd is told to stop"
systemctl stop vssd || note "started again by somebody's call"
ends "vssd stopped"
expect_equal "" "$(systemctl list-units --failed --plain --no-legend 'vss*')" "failed units"

service_environment vssd.service VSS_FAULT=
systemctl restart vssd
wait_until 60 registered || die "the writer does not come back"
expect_exit 0 vssctl create --provider=null "$data" >/dev/null

systemctl stop vss-provider.socket vss-provider.service
expect_exit 5 vssctl create --provider=null "$data" >/dev/null 2>"$VSS_TEST_DIR/said"
grep -q "systemctl start vss-provider.socket" "$VSS_TEST_DIR/said" || die "nobody says what to do: $(cat "$VSS_TEST_DIR/said")"
systemctl start vss-provider.socket
expect_exit 0 vssctl create --provider=null "$data" >/dev/null
