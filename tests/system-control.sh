#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The control: transactions span two SQLite files. Copies taken under load without the writer break their invariant, which
# shows that this test can fail; with the writer 200 sets in a row keep it.
. "$(dirname "$0")/functions.sh"
requires mkfs.btrfs /usr/bin/python3
watchdog 600

SETS=${CONTROL_SETS:-200}
new_fs data btrfs 1G
mkdir "$VSS_TEST_DIR/copy"
ledger() { /usr/bin/python3 "$VSS_SOURCE/tests/ledger.py" "$@"; }
ledger create "$data/a.db" "$data/b.db"
/usr/bin/python3 "$VSS_SOURCE/tests/ledger.py" load "$data/a.db" "$data/b.db" >"$VSS_TEST_DIR/load.out" &
cleanup_fn stop_process $!
wait_until 30 test -s "$VSS_TEST_DIR/load.out" || die "the load does not run"

start_bus
start_vssd

# take_set EXPECTED-LEVEL OPTION…: makes a set, reads the two files out of the copy, deletes the set; status of the check
take_set() {
        local level=$1 set path status=0
        shift
        vssctl --json create "$@" "$data" >"$VSS_TEST_DIR/set.json" || die "create failed: $(cat "$VSS_TEST_DIR/set.json")"
        expect_equal "$level" "$(json .consistency <"$VSS_TEST_DIR/set.json")" "level"
        set=$(json .set <"$VSS_TEST_DIR/set.json")
        path=$(json '.snapshots[0].path' <"$VSS_TEST_DIR/set.json")
        rm -f "$VSS_TEST_DIR"/copy/*
        cp "$path"/?.db* "$VSS_TEST_DIR/copy/"
        ledger check "$VSS_TEST_DIR/copy/a.db" "$VSS_TEST_DIR/copy/b.db" >"$VSS_TEST_DIR/check.out" || status=$?
        vssctl delete "$set" >/dev/null || die "delete failed"
        return $status
}

note "without the writer: looking for a copy that is torn between the two commits"
broken=0
for ((i = 1; i <= 200; i++)); do
        if ! take_set filesystem --no-writers; then
                broken=1
                break
        fi
done
[ $broken -eq 1 ] || die "$((i - 1)) copies without the writer were all whole: this test shows nothing"
note "copy $i is torn: $(head -c 200 "$VSS_TEST_DIR/check.out")"

note "with the writer: $SETS sets in a row"
sqlite_writer --name=ledger "$data/a.db" "$data/b.db"
last=0
for ((i = 1; i <= SETS; i++)); do
        take_set application --require=application || die "set $i is torn: $(cat "$VSS_TEST_DIR/check.out")"
        sum=$(cat "$VSS_TEST_DIR/check.out")
        [ "$sum" -ge "$last" ] || die "set $i is older than the one before it"
        last=$sum
done
[ "$last" -gt 0 ] || die "the load did nothing"
note "$SETS sets, $last transactions in the last one"
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots left"
