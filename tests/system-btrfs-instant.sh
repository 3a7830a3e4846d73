#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A single copy of a btrfs: applications go on once it is what it will be, not once it is on the disk; and it is no copy
# until it is. What takes long or fails there comes from preload-snapshot.so.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/servers.sh"
requires mkfs.btrfs btrfs jq
watchdog 100

new_fs tree btrfs 1G
start_bus
# start SETTING…: a vssd whose kernel is slow or breaks
start() {
        [ -z "${VSSD_PID:-}" ] || stop_vssd
        VSSD_WRAPPER="env LD_PRELOAD=$VSS_BUILD/tests/preload-snapshot.so $*" start_vssd
        wait_until 10 eval 'vssctl writers | grep -q probe'
}
# of the last set, in milliseconds
frozen() { sed -n 's/.*created: level .* frozen \([0-9.]*\) ms.*/\1/p' "$VSS_TEST_DIR/log/vssd.log" | tail -1; }
places() { find "$tree/.vss" -mindepth 2 -maxdepth 2 2>/dev/null | wc -l; }
create() { vssctl --json create "$tree" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/set.err"; }
create_good() {
        create || die "$1: the set failed: $(cat "$VSS_TEST_DIR/set.json")"
        SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
}

start_vssd
testwriter --name=probe --volume="$tree"
note "a commit of 700 ms is no wait for who stands still, and one for who asked"
start SNAPSHOT_DELAY_MSEC=700
begin=${EPOCHREALTIME/./}
create_good slow
[ $((${EPOCHREALTIME/./} - begin)) -ge 700000 ] || die "the set was called good before its copy was on the disk"
awk -v f="$(frozen)" 'BEGIN {exit !(f < 500)}' || die "the writer stood still for $(frozen) ms"
delete_set

note "one that fails after that: no set, nothing left, and the next one is good"
start SNAPSHOT_DELAY_MSEC=200 SNAPSHOT_ERROR=5
! create || die "the set is called good"
json .error.message <"$VSS_TEST_DIR/set.json" | grep -q 'cannot take a copy' || die "it says: $(cat "$VSS_TEST_DIR/set.json")"
expect_equal 0 "$(places)" "places left by a set that failed"
start
create_good next
delete_set

note "what was written after the writer was told to go on is not in the copy; what was there before is"
start SNAPSHOT_DELAY_MSEC=1500
printf before >"$tree/f"
lines=$(wc -l <"$WRITER_LOG")
thawed() { tail -n "+$((lines + 1))" "$WRITER_LOG" | grep -q ' thaw '; }
(
        until thawed; do :; done
        printf after >"$tree/f"
        date +%s%N >"$VSS_TEST_DIR/written"
) &
cleanup_fn stop_process $!
create_good written
end=$(date +%s%N)
expect_equal after "$(cat "$tree/f")" "the live file"
[ $((end - $(cat "$VSS_TEST_DIR/written"))) -gt 100000000 ] || die "it was not written while the commit went on"
expect_equal before "$(cat "$(json '.snapshots[0].path' <"$VSS_TEST_DIR/set.json")/f")" "the file in the copy"
delete_set
