#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The sandbox itself: a test that hangs on a frozen file system is thawed and ended; what a test leaves makes it fail.
# shellcheck disable=SC2016
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4 fsfreeze

inner() {
        printf '. "%s/tests/functions.sh"\n%s\n' "$VSS_SOURCE" "$1" >"$VSS_TEST_DIR/inner.sh"
        env -u VSS_TEST_DIR TMPDIR="$VSS_TEST_DIR" VSS_TEST_SECONDS="${2:-30}" bash "$VSS_TEST_DIR/inner.sh" >"$VSS_TEST_DIR/inner.out" 2>&1
}

expect_exit 0 inner 'new_fs x ext4 16M; is_frozen "$x" && die frozen; touch "$x/file"'
expect_exit 0 inner 'new_fs x ext4 16M; fsfreeze -f "$x"; is_frozen "$x"'
expect_exit 0 inner 'start_bus; bus_call org.freedesktop.DBus / org.freedesktop.DBus GetId'

note "a write that no signal ends: thawed at the deadline"
expect_exit 124 inner 'new_fs x ext4 16M; fsfreeze -f "$x"; touch "$x/file"' 3
grep -q "thawed $VSS_TEST_DIR" "$VSS_TEST_DIR/inner.out" || die "the keeper did not thaw"

note "a test that is killed takes everything with it"
printf '. "%s/tests/functions.sh"\nnew_fs x ext4 16M; fsfreeze -f "$x"; echo up; touch "$x/file"\n' "$VSS_SOURCE" >"$VSS_TEST_DIR/inner.sh"
env -u VSS_TEST_DIR TMPDIR="$VSS_TEST_DIR" bash "$VSS_TEST_DIR/inner.sh" >"$VSS_TEST_DIR/inner.out" 2>&1 &
killed=$!
wait_until 20 grep -q '^up' "$VSS_TEST_DIR/inner.out"
kill -KILL "$killed"
gone() { ! pgrep -f "$VSS_TEST_DIR/inner.sh" >/dev/null; }
wait_until 20 gone || die "the killed test still runs"
no_directory() { [ -z "$(find "$VSS_TEST_DIR" -mindepth 1 -maxdepth 1 -name 'vss-test-*')" ]; }
wait_until 20 no_directory || die "the killed test left its directory"

note "leftovers are failures"
expect_exit 1 inner 'sleep 1000 & disown; cleanup_fn true'
grep -q 'left running' "$VSS_TEST_DIR/inner.out"
expect_exit 1 inner 'new_fs x ext4 16M; _cleanups=()'
grep -q 'left mounted' "$VSS_TEST_DIR/inner.out"
expect_exit 77 inner 'requires no-such-command'
expect_exit 1 inner 'false'
losetup --list --noheadings --output BACK-FILE | grep -q "$VSS_TEST_DIR" && die "a loop device is left" || :
