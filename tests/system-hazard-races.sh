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
def attempt(f, *args):
    try:
        f(*args)
    except OSError:
        pass
while True: # each for itself: what others leave there must not end the game
    attempt(os.symlink, target, a)
    attempt(os.unlink, a)
    attempt(os.mkdir, a)
    attempt(os.rmdir, a)
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
                btrfs subvolume delete "$data/.vss" >/dev/null # the game goes on
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
mounted=0
for _ in {1..60}; do
        if vssctl --json mount "$id" "$VSS_TEST_DIR/play/dir" >"$VSS_TEST_DIR/mount.json" 2>"$VSS_TEST_DIR/mount.err"; then
                mounted=$((mounted + 1))
        else
                json .error.message <"$VSS_TEST_DIR/mount.json" >>"$VSS_TEST_DIR/refused"
        fi
        untouched "swapped mount directory"
        vssctl umount "$id" >/dev/null 2>&1 || :
done
stop_process $swapper
note "$mounted of 60 mounts were made, the others: $(sort "$VSS_TEST_DIR/refused" | uniq -c)"

note "a directory whose name looks like a line of our notes, and one that is no text"
mkdir "$VSS_TEST_DIR/victim"
mount -t tmpfs victim "$VSS_TEST_DIR/victim"
cleanup_fn umount "$VSS_TEST_DIR/victim"
odd=$VSS_TEST_DIR/play/$'x\n'"$id $(findmnt -n -o ID "$VSS_TEST_DIR/victim") 0 $VSS_TEST_DIR/victim"$'\n \xff\\'
mkdir -p "$odd/here"
ln -s "$odd" "$VSS_TEST_DIR/play/link"
bus_call org.vssd.Vss1 "/org/vssd/Vss1/snapshots/$(sed 's/-/_2d/g; s/^\([0-9]\)/_3\1/' <<<"$id")" org.vssd.Vss1.Snapshot \
        Mount 'sa{sv}' "$VSS_TEST_DIR/play/link/here" 0 >/dev/null || die "a directory with an odd name cannot be mounted on"
mountpoint -q "$odd/here" || die "it is mounted elsewhere"
expect_equal 1 "$(wc -l <"$RUNTIME_DIRECTORY/mounts.list")" "lines of the notes"
vssctl --json snapshots | json '.snapshots[0].mounts[0]' | grep -qF '\x0a' || die "the mount is not listed"
expect_exit 0 vssctl umount "$odd/here"
mountpoint -q "$odd/here" && die "it is still mounted"
expect_exit 0 vssctl mount "$id" "$odd/here"
kill -KILL "$VSSD_PID"
wait "$VSSD_PID" || :
start_vssd
mountpoint -q "$VSS_TEST_DIR/victim" || die "what was mounted by somebody else was unmounted"
expect_exit 0 vssctl umount "$odd/here"
mountpoint -q "$odd/here" && die "the next vssd does not know it"

note "a mounted copy gives its owner no powers"
path=$(vssctl --json mount "$id" | json .path)
for option in ro nosuid nodev; do
        findmnt -n -o OPTIONS "$path" | tr , '\n' | grep -qx $option || die "$path is mounted without $option"
done
run_as nobody ls "$path" >/dev/null 2>&1 && die "uid $user may look into a copy that was not exposed to him"
expect_exit 0 vssctl umount "$id"
expect_exit 0 vssctl delete "$id"

note "directories of somebody else are not used"
mkdir "$VSS_TEST_DIR/theirs" "$VSS_TEST_DIR/everybodys"
chown nobody "$VSS_TEST_DIR/theirs"
chmod 1777 "$VSS_TEST_DIR/everybodys"
for d in theirs everybodys; do
        for variable in RUNTIME_DIRECTORY LOGS_DIRECTORY STATE_DIRECTORY; do
                status=0
                env STATE_DIRECTORY="$VSS_TEST_DIR/second" "$variable=$VSS_TEST_DIR/$d" timeout 10 "$VSS_BUILD/daemon/vssd" \
                        2>"$VSS_TEST_DIR/second.log" || status=$?
                [ $status -eq 1 ] || die "$variable=$d: vssd ended with $status"
                grep -q "$VSS_TEST_DIR/$d cannot be used" "$VSS_TEST_DIR/second.log" || die "$variable=$d: $(cat "$VSS_TEST_DIR/second.log")"
        done
done
