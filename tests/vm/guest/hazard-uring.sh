#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A process of nobody has an io_uring with a finished write that it never looks at (hazards A1): on these kernels FIFREEZE
# waits for it for ever, and everybody who writes waits for FIFREEZE. The set ends in bounded time, the record names the
# process, and when it goes, nothing stays frozen; with on_stuck_freeze=kill it goes by itself.
# kernel: 6.1 6.12
# disks: 256M
# seconds: 240
# programs: uring-blocker
. "$(dirname "$0")/functions.sh"

new_fs data ext4 "$d0"
chmod 1777 "$data"

# block: BLOCKER is the process
block() {
        rm -f "$data/blocker"
        setpriv --reuid=nobody --regid=nogroup --clear-groups /usr/lib/vss-vm/bin/uring-blocker "$data/blocker" >"$VSS_TEST_DIR/blocker.out" &
        BLOCKER=$!
        wait_until 30 grep -q waiting "$VSS_TEST_DIR/blocker.out" || die "the blocker does not come to its sleep"
}

# a_set WANTED-TEXT: it fails, and its record says this
a_set() {
        local started=$SECONDS status=0 set
        vssctl --json create --provider=null "$data" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/set.err" || status=$?
        note "create ended with $status after $((SECONDS - started)) s"
        expect_equal 6 $status "the status of create; $(cat "$VSS_TEST_DIR/set.json" "$VSS_TEST_DIR/set.err")"
        [ $((SECONDS - started)) -le 60 ] || die "it took too long"
        set=$(jq -r .set "$VSS_TEST_DIR/set.json")
        vssctl --json show "$set" >"$VSS_TEST_DIR/record.json" || die "no record of $set"
        grep -Eq "uring-blocker.*io_uring.*$1" "$VSS_TEST_DIR/record.json" || die "the record does not say that: $(cat "$VSS_TEST_DIR/record.json")"
}

configure Timeouts hold=4
block
a_set ''
kill -0 "$BLOCKER" 2>/dev/null || die "the blocker was killed, not named"
kill -KILL "$BLOCKER"
must_write 10 "$data"

note "on_stuck_freeze=kill"
configure Limits on_stuck_freeze=kill
systemctl restart vssd
block
status=0
vssctl --json create --provider=null "$data" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/set.err" || status=$?
case $status in 0 | 6) ;; *) die "status $status: $(cat "$VSS_TEST_DIR/set.json" "$VSS_TEST_DIR/set.err")" ;; esac
must_write 10 "$data"
! kill -0 "$BLOCKER" 2>/dev/null || die "the blocker lives"
vssctl --json show "$(jq -r .set "$VSS_TEST_DIR/set.json")" | grep -q 'io_uring.*it was killed' || die "the record does not say that it was killed"

note "without it the next set is plain"
expect_exit 0 vssctl create --provider=null "$data" --wait-for-turn=20
must_write 10 "$data"
