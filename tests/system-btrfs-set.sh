#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Sets of btrfs subvolumes through vssd: what is said about them, where the copies are, and that neither a failing provider
# nor one whose abort dies too leaves anything behind for longer than until the next start.
export VSS_TEST_SECONDS=150
. "$(dirname "$0")/functions.sh"
requires btrfs python3

top=
new_fs top btrfs 512M
for s in one two one/inner; do
        btrfs subvolume create "$top/$s" >/dev/null
        echo "$s" >"$top/$s/file"
done
mkdir "$VSS_TEST_DIR/alone"
device=$(findmnt -no SOURCE "$top")
mount -o subvol=two "$device" "$VSS_TEST_DIR/alone"
cleanup_fn umount "$VSS_TEST_DIR/alone"
start_bus
start_vssd

# everything below the store but the directories of the sources
left() { find "$top/.vss" -mindepth 2 -maxdepth 2; }
delete_all() { vssctl --json snapshots | python3 -c 'import json,sys; print(*[s["id"] for s in json.load(sys.stdin)["snapshots"]])' |
        xargs -r "$VSS_BUILD/client/vssctl" delete >/dev/null; }

note "one set of two subvolumes: its copies, and a warning about the subvolume inside"
vssctl --json create "$top/one" "$top/two" >"$VSS_TEST_DIR/set.json"
python3 - "$VSS_TEST_DIR/set.json" <<'PY' || die "the set is not as it should be"
import json, os, sys
s = json.load(open(sys.argv[1]))
assert s["state"] == "created" and s["one_instant"] and s["consistency"] == "filesystem", s
assert any("one/inner" in w for w in s["warnings"]), s["warnings"]
for copy, text in zip(s["snapshots"], ("one", "two")):
    assert open(copy["path"] + "/file").read() == text + "\n", copy
assert os.listdir(s["snapshots"][0]["path"] + "/inner") == []
PY
delete_all
[ -z "$(left)" ] || die "left after delete: $(left)"

note "the copy of a subvolume that is mounted by itself is seen by mounting it"
vssctl --json create "$VSS_TEST_DIR/alone" >"$VSS_TEST_DIR/set.json"
id=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["snapshots"][0]["id"])' "$VSS_TEST_DIR/set.json")
[ ! -e "$VSS_TEST_DIR/alone/.vss" ] || die "the store shows in the subvolume"
path=$(vssctl mount "$id")
[ "$(cat "$path/file")" = two ] || die "the mounted copy is another"
if touch "$path/x" 2>/dev/null; then die "the mounted copy can be written"; fi
vssctl umount "$id" >/dev/null
delete_all

note "a set that fails leaves nothing, and may be tried again"
stop_vssd
export VSS_FAULT=commit:fail:1,list:delay=1
start_vssd
expect_exit 5 vssctl create --provider=fault:btrfs "$top/one" "$top/two"
[ -z "$(left)" ] || die "left after a failed commit: $(left)"
expect_exit 0 vssctl create --provider=fault:btrfs "$top/one" "$top/two"
delete_all

note "copies of a set that fails after its marks were cleared are asked for until they are gone"
stop_vssd
export VSS_FAULT=list:fail:1,remove:fail:1,abort:fail:2
start_vssd
expect_exit 5 vssctl create --provider=fault:btrfs "$top/one" "$top/two"
[ -n "$(left)" ] || die "nothing is left although a removal failed: this test shows nothing"
nothing_left() { [ -z "$(left)" ]; }
wait_until 20 nothing_left || die "left for good: $(left)"
grep -q 'still cannot be cleaned up: .*abort fails' "$VSS_TEST_DIR"/log/vssd.log || die "why it could not is not in the log: $(grep 'clean up' "$VSS_TEST_DIR"/log/vssd.log)"
expect_equal 0 "$(vssctl --json snapshots | python3 -c 'import json,sys; print(len(json.load(sys.stdin)["snapshots"]))')" "snapshots listed"

note "where the abort dies too, the next start removes what is marked, and nothing else"
stop_vssd
export VSS_FAULT=post-commit:die:1,abort:die:1
start_vssd
expect_exit 0 vssctl create --provider=btrfs "$top/two"
expect_exit 5 vssctl create --provider=fault:btrfs "$top/one"
left | grep -q /.pending- || die "nothing was left: the test shows nothing"
stop_vssd
unset VSS_FAULT
flock "$(left | grep -m 1 /.pending-)" sleep 5 & # as if a process of the vssd before were still inside the kernel
start_vssd
vssctl status >/dev/null
no_pending() { ! left | grep -q /.pending-; }
no_pending && die "nobody kept the pending copy: the test shows nothing"
wait_until 40 no_pending || die "a clean-up that could not be at the start was not tried again"
[ "$(left | wc -l)" = 1 ] || die "after the next start: $(left)"
if left | grep -q /.pending-; then die "the wrong one was removed"; fi
delete_all
[ -z "$(left)" ] || die "left at the end: $(left)"
