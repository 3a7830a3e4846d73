#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Paths that root touches and somebody else may change: the directory a snapshot is mounted on, the place where btrfs
# snapshots go, the volume argument. A user who swaps them for symlinks all the time must not move anything of ours.
. "$(dirname "$0")/functions.sh"
requires mkfs.btrfs setpriv /usr/bin/python3
watchdog 180

new_fs data btrfs 256M
user=$(id -u nobody)
mkdir "$VSS_TEST_DIR/protected" "$VSS_TEST_DIR/play"
echo precious >"$VSS_TEST_DIR/protected/file"
chown nobody "$data" "$VSS_TEST_DIR/play"
echo content >"$data/file"
start_bus
start_vssd

untouched() {
        mountpoint -q "$VSS_TEST_DIR/protected" && die "$1: something was mounted on the protected directory"
        expect_equal "file" "$(ls -A "$VSS_TEST_DIR/protected")" "$1: the protected directory"
        expect_equal precious "$(cat "$VSS_TEST_DIR/protected/file")" "$1: the protected file"
}

note "the directory for btrfs snapshots is a symlink that the owner of the volume made"
run_as nobody ln -s "$VSS_TEST_DIR/protected" "$data/.vss"
status=0
vssctl --json create "$data" >"$VSS_TEST_DIR/set.json" || status=$?
untouched "symlink in the volume"
[ $status -ne 0 ] || die "the set was made although .vss is a symlink of somebody else's"
note "refused with $status: $(jq -r .error.message "$VSS_TEST_DIR/set.json")"
rm "$data/.vss"

note "the same while it is swapped all the time"
swap='import os, sys
a, target = sys.argv[1:3]
while True:
    try:
        os.symlink(target, a)
        os.unlink(a)
        os.mkdir(a)
        os.rmdir(a)
    except OSError:
        pass
'
(become nobody /usr/bin/python3 -c "$swap" "$data/.vss" "$VSS_TEST_DIR/protected") &
swapper=$!
cleanup_fn stop_process $swapper
made=0
for _ in {1..20}; do
        if vssctl --json create "$data" >"$VSS_TEST_DIR/set.json"; then
                made=$((made + 1))
                path=$(json '.snapshots[0].path' <"$VSS_TEST_DIR/set.json")
                expect_equal content "$(cat "$path/file")" "what the copy holds"
                vssctl delete "$(json .set <"$VSS_TEST_DIR/set.json")" >/dev/null
        fi
        untouched "swapped .vss"
done
stop_process $swapper
note "$made of 20 sets were made"
rm -rf "$data/.vss" 2>/dev/null || :

note "the directory to mount on is swapped all the time"
expect_exit 0 vssctl --json create "$data" >"$VSS_TEST_DIR/set.json"
id=$(json '.snapshots[0].id' <"$VSS_TEST_DIR/set.json")
(become nobody /usr/bin/python3 -c "$swap" "$VSS_TEST_DIR/play/dir" "$VSS_TEST_DIR/protected") &
swapper=$!
cleanup_fn stop_process $swapper
for _ in {1..30}; do
        vssctl --json mount "$id" "$VSS_TEST_DIR/play/dir" >/dev/null 2>&1 || :
        untouched "swapped mount directory"
        vssctl umount "$id" >/dev/null 2>&1 || :
done
stop_process $swapper

note "a mounted copy gives its owner no powers"
path=$(vssctl --json mount "$id" | json .path)
for option in ro nosuid nodev; do
        findmnt -n -o OPTIONS "$path" | tr , '\n' | grep -qx $option || die "$path is mounted without $option"
done
run_as nobody ls "$path" >/dev/null 2>&1 && die "uid $user may look into a copy that was not exposed to him"
expect_exit 0 vssctl umount "$id"
expect_exit 0 vssctl delete "$id"
