#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Engine volumes in the graph of what lies on what (hazards B10, B3): the loop device of an engine volume shows nobody what
# is behind it, so without vss-cow's own word the file system that has its origin and store would be frozen beside it, and
# the set would wait for itself.
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4 jq losetup
watchdog 160

new_fs host ext4 400M
start_bus
start_vssd

truncate -s 64M "$host/a.img" "$host/b.img"
expect_exit 0 vssctl volume create a --origin="$host/a.img" --store="$host/store" --store-max=128M
expect_exit 0 vssctl volume create b --origin="$host/b.img" --store="$host/store"
links=$RUNTIME_DIRECTORY/dev
[ -b "$links/a" ] && [ -b "$links/b" ] || die "there are no devices in $links"
for v in a b; do
        mkfs.ext4 -q "$links/$v"
        mkdir "$VSS_TEST_DIR/$v"
        mount "$links/$v" "$VSS_TEST_DIR/$v"
        cleanup_fn umount "$VSS_TEST_DIR/$v"
done
a=$VSS_TEST_DIR/a b=$VSS_TEST_DIR/b

note "a set that would freeze what the engine has to write to is refused before anything stops"
truncate -s 24M "$a/top.img"
expect_exit 0 vssctl volume create top --origin="$a/top.img" --store="$host/top.store" --store-max=128M
mkfs.ext4 -q "$links/top"
mkdir "$VSS_TEST_DIR/top"
mount "$links/top" "$VSS_TEST_DIR/top"
top=$VSS_TEST_DIR/top
for order in "$top $a" "$a $top"; do
        # shellcheck disable=SC2086
        expect_exit 10 vssctl create --no-writers $order
done
vssctl create --no-writers "$top" "$a" 2>"$VSS_TEST_DIR/refused" || true
grep -q "$top lies on $a" "$VSS_TEST_DIR/refused" || die "the reason does not name both: $(cat "$VSS_TEST_DIR/refused")"
timeout 5 sh -c "echo alive >'$top/alive' && sync '$top/alive'" || die "something stands still"
expect_exit 0 vssctl create --no-writers "$top"
wait_until 10 umount "$top" || die "$top stays in use"
expect_exit 0 vssctl volume detach top

note "both alone can be taken, and the plan says what stands still with it"
vssctl --json plan "$host" --provider=null >"$VSS_TEST_DIR/plan"
jq -e --arg a "$a" '[.. | strings | select(contains("stalls with it") and contains($a))] | length > 0' "$VSS_TEST_DIR/plan" >/dev/null ||
        die "the plan of $host does not say that $a stalls with it: $(cat "$VSS_TEST_DIR/plan")"
jq -e --arg a "$links/a" --arg host "$host" '.warnings | any(contains("stalls with it: " + $a) and contains($host) and contains("first writes"))' "$VSS_TEST_DIR/plan" >/dev/null ||
        die "the plan of $host does not say that first writes to the engine volume wait: $(cat "$VSS_TEST_DIR/plan")"
# whether or not anything is mounted from it
wait_until 10 umount "$a" || die "$a stays in use"
vssctl --json plan "$host" --provider=null | jq -e --arg a "$links/a" '.warnings | any(contains("stalls with it: " + $a))' >/dev/null ||
        die "the plan of $host does not name an engine volume that is not mounted"
mount "$links/a" "$a"
expect_exit 0 vssctl create --no-writers "$a" "$b"
expect_exit 0 vssctl create --no-writers "$host" --provider=null

note "sets on volumes of one store take turns, since one log has them both"
testwriter --name=slow --volume="$a" --late=prepare-backup:4000
vssctl create "$a" >"$VSS_TEST_DIR/first" 2>&1 &
first=$!
sleep 1.5
expect_exit 8 vssctl create --no-writers --wait-for-turn=0 "$b"
wait "$first" || die "the first set failed: $(cat "$VSS_TEST_DIR/first")"
expect_exit 0 vssctl create --no-writers "$b"

for v in a b; do
        expect_exit 8 vssctl volume detach "$v"
        umount "$VSS_TEST_DIR/$v"
        expect_exit 0 vssctl volume detach "$v"
done
vssctl volume list
