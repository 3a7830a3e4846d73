#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A process of nobody sits in splice() from an empty pipe into a file: FIFREEZE waits for it for ever, and everybody who
# writes waits for FIFREEZE. The set ends in bounded time, the record names the process, and nothing stays frozen.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4 setpriv /usr/bin/python3
watchdog 120

new_fs data ext4 64M
chmod 1777 "$data"
start_bus
configure Timeouts hold=4
start_vssd

block='import os, sys; r, w = os.pipe(); print("splicing", flush=True); os.splice(r, os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), 4096)'
(become nobody /usr/bin/python3 -c "$block" "$data/blocker" >"$VSS_TEST_DIR/blocker.out") &
blocker=$!
cleanup_fn stop_process $blocker
wait_until 10 grep -q splicing "$VSS_TEST_DIR/blocker.out"
sleep 0.2

started=$SECONDS status=0
vssctl --json create --provider=null "$data" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/set.err" || status=$?
note "create ended with $status after $((SECONDS - started)) s"
case $status in 0 | 6) ;; *) die "status $status: $(cat "$VSS_TEST_DIR/set.json" "$VSS_TEST_DIR/set.err")" ;; esac
[ $((SECONDS - started)) -le 20 ] || die "it took too long"
must_write 2 "$data" # not is_frozen: its FIFREEZE would wait for the blocker, for ever
set=$(json .set <"$VSS_TEST_DIR/set.json")
vssctl --json show "$set" >"$VSS_TEST_DIR/record.json" || die "no record of $set"
grep -Eq "python3.*splice|splice.*python3" "$VSS_TEST_DIR/record.json" ||
        die "the record does not name the process that was in the way: $(cat "$VSS_TEST_DIR/record.json")"
kill -0 $blocker 2>/dev/null || die "the blocker was killed, not woken"

note "without it the next set is plain"
stop_process $blocker
expect_exit 0 vssctl create --provider=null "$data" --wait-for-turn=20 >/dev/null
must_write 2 "$data"
