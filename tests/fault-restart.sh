#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a vssd that was killed leaves to the next one: a set in the middle is aborted and its copies go, a set that was made
# stays and its writers are told that the session was resumed, a copy that no record knows is taken in again, and the lists
# say so.
VSS_TEST_SECONDS=170
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.btrfs busctl

new_fs first btrfs 256M
new_fs second btrfs 256M
start_bus
busctl --address="$DBUS_SYSTEM_BUS_ADDRESS" monitor --json=short \
        --match="type='method_call',interface='org.vssd.Vss1.Writer'" >"$VSS_TEST_DIR/calls" 2>/dev/null &
cleanup_fn stop_process $!
testers() {
        testwriter --name=one --volume="$first"
        testwriter --name=two --volume="$second"
}
copies() { find "$first/.vss" "$second/.vss" -mindepth 3 -maxdepth 3 2>/dev/null | wc -l; }
killed() { kill -KILL "$VSSD_PID" && wait_until 3 nothing_runs; }
nothing_runs() { ! pgrep -x 'vssd|vss-provider-ho|vss-store' >/dev/null; }
host_hangs() { grep -lq pause /proc/[0-9]*/wchan; }

note "a set in the middle: aborted, its copies gone"
VSS_FAULT=post-final:hang start_vssd
testers
"$VSS_BUILD/client/vssctl" --json create --provider=fault:btrfs "$first" "$second" >"$VSS_TEST_DIR/out" 2>/dev/null &
client=$!
wait_until 20 host_hangs || die "the set does not come to post-final"
expect_equal 2 "$(copies)" "copies before the end"
set=$(vssctl --json sets | json '.sets[0].set // .sets[0].id')
killed
wait $client && die "create ended well although vssd died"
start_vssd
vssctl --json show "$set" >"$VSS_TEST_DIR/show.json"
expect_equal aborted "$(json .state <"$VSS_TEST_DIR/show.json")" "state of the set that was being made"
json .error.message <"$VSS_TEST_DIR/show.json" | grep -q 'vssd ended' || die "the set does not say why: $(json .error <"$VSS_TEST_DIR/show.json")"
expect_equal 0 "$(copies)" "copies of the set that was being made"
no_snapshots "of the set that was being made"

note "a set that was made: there, and complete says resumed"
create "$first" "$second"
made=$SET
killed
start_vssd
expect_equal created "$(vssctl --json show "$made" | json .state)" "state after the restart"
wait_until 5 writer_is one waiting-for-backup-complete || note "writer one is $(writer_field one .state)"
expect_exit 0 vssctl complete "$made" >/dev/null
expect_equal 2 "$(jq -r 'select(.member == "BackupComplete") | .payload.data[2].resumed.data' "$VSS_TEST_DIR/calls" | grep -c '^true$')" \
        "writers that were told the session was resumed"
note "and without a restart it does not"
create "$first"
expect_exit 0 vssctl complete "$SET" >/dev/null
expect_equal 2 "$(jq -r 'select(.member == "BackupComplete") | .payload.data[2].resumed.data' "$VSS_TEST_DIR/calls" | grep -c '^true$')" \
        "resumed sessions after one that was not"
expect_exit 0 vssctl delete "$SET" >/dev/null

note "an older catalogue: both copies are taken in again, as one set, and can be deleted"
ids=$(vssctl --json snapshots | jq -r '.snapshots[].id' | sort)
killed
rm -rf "${STATE_DIRECTORY:?}"/*
start_vssd
expect_equal "$ids" "$(vssctl --json snapshots | jq -r '.snapshots[].id' | sort)" "copies that were taken in again"
expect_equal 1 "$(vssctl --json snapshots | jq '[.snapshots[].set] | unique | length')" "their sets"
expect_equal 2 "$(copies)" "copies on disk"
path=$(vssctl --json mount "${ids%%$'\n'*}" | json .path)
[ -d "$path" ] || die "a copy that was taken in again cannot be mounted"
expect_exit 0 vssctl umount "${ids%%$'\n'*}" >/dev/null
expect_exit 0 vssctl delete "$made" >/dev/null
expect_equal 0 "$(copies)" "copies after delete"
