#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Somebody else freezes or thaws the same file system. A foreign thaw inside the hold fails the set; a foreign freeze is
# answered with 8, names the file system, and is never undone by us.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4
watchdog 120

new_fs data ext4 64M
start_bus
VSS_FAULT=commit:delay=2000 start_vssd
testwriter --name=probe --volume="$data"

note "a foreign thaw in the middle"
hold_set "$data"
fsfreeze -u "$data" || die "was not frozen"
wait_set && die "the set is called good although somebody thawed inside its hold: $(cat "$SET_OUT")"
jq -e '.error.message' "$SET_OUT" >&2 || die "no error in $(cat "$SET_OUT")"
kill "$PROBE_PID" 2>/dev/null || :
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots after a foreign thaw"

note "frozen by somebody else before"
fsfreeze -f "$data"
status=0
vssctl --json create --provider=null "$data" >"$VSS_TEST_DIR/foreign.json" || status=$?
[ $status -eq 8 ] || die "create on a foreign freeze ended with $status, expected 8: $(cat "$VSS_TEST_DIR/foreign.json")"
json .error.message <"$VSS_TEST_DIR/foreign.json" | grep -qF "$data" || die "the error does not name $data"
is_frozen "$data" || die "the foreign freeze was undone"
fsfreeze -u "$data"
must_write 2 "$data"
expect_exit 0 vssctl create --provider=null "$data" >/dev/null
