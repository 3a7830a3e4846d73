#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Disks of one size that get each other's names between a detach and an attach: the volume goes with its disk. When that is
# missing, the disk that has its name is named and not touched, unless it is asked for. Loop devices stand for the disks, with
# serial numbers in a sysfs that is laid over the real one for this test.
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4 jq losetup
watchdog 100
engine_area area
start_bus
mkdir "$area/state" && ln -s "$area/state" "$STATE_DIRECTORY/cow"

for d in a b; do
        truncate -s 64M "$area/$d.img"
        printf -v $d %s "$(losetup -f --show "$area/$d.img")"
        cleanup_fn losetup -d "${!d}"
done
# serial DEVICE TEXT: what it says of itself from now on
fake=/sys/dev/block
real=$VSS_TEST_DIR/real
mkdir "$real"
mount --bind $fake "$real"
cleanup_fn umount "$real"
mount -t tmpfs tmpfs $fake
cleanup_fn umount -l $fake
for link in "$real"/*; do ln -s "/sys/devices/$(readlink "$link" | sed 's|.*/devices/||')" "$fake/${link##*/}"; done
serial() {
        local number name=${1#/dev/}
        number=$(cat "/sys/class/block/$name/dev")
        mkdir -p "$fake/disks/$name"
        ln -sfn "disks/$name" "$fake/$number"
        for f in "/sys/class/block/$name"/*; do ln -sfn "$f" "$fake/disks/$name/"; done
        rm -f "$fake/disks/$name/serial"
        echo "$2" >"$fake/disks/$name/serial"
}
field() { vssctl --json volume list | jq -er --arg n "$1" ".volumes[] | select(.name == \$n) | $2"; }
unverified() { "$VSS_SOURCE/tests/cow-control" "$RUNTIME_DIRECTORY/cow/$(field mine .storage)" list set= from=0 | jq '[.snapshots[] | select(.unverified)] | length'; }
attached() { mount "$(field mine .device)" "$VSS_TEST_DIR/mnt" && cat "$VSS_TEST_DIR/mnt/kept" && wait_until 10 umount "$VSS_TEST_DIR/mnt"; }
# exchange: each disk has the other's name, with all that it says
exchange() {
        losetup -d "$a" && losetup -d "$b"
        wait_until 5 losetup "$a" "$area/b.img"
        wait_until 5 losetup "$b" "$area/a.img"
        serial "$a" "$1"
        serial "$b" "$2"
}
serial "$a" DISK-A
serial "$b" DISK-B
start_vssd
mkdir "$VSS_TEST_DIR/mnt"
vssctl volume create mine --origin="$a" --store="$area/store" --store-max=128M >/dev/null
mkfs.ext4 -q "$(field mine .device)"
mount "$(field mine .device)" "$VSS_TEST_DIR/mnt"
echo mine >"$VSS_TEST_DIR/mnt/kept"
vssctl create "$VSS_TEST_DIR/mnt" >/dev/null
wait_until 10 umount "$VSS_TEST_DIR/mnt" || die "the volume stays in use"
mkfs.ext4 -q "$b"
foreign=$(md5sum <"$area/b.img")
expect_exit 0 vssctl volume detach mine

note "under another name"
exchange DISK-B DISK-A
expect_exit 0 vssctl volume attach mine
expect_equal "$b" "$(field mine .origin)" "its origin"
expect_equal "$b" "$(sed -n 2p "$STATE_DIRECTORY/cow/attached/mine")" "its origin, as it is noted"
expect_equal mine "$(attached)" "what is on it"
expect_equal 0 "$(unverified)" "copies that are unverified"
expect_equal "$foreign" "$(md5sum <"$area/b.img")" "what is on the other disk"
expect_exit 0 vssctl volume detach mine

note "a volume of its disk, and one of the disk that has its name"
exchange DISK-A DISK-B
# the engine itself, if the provider does not ask
"$VSS_SOURCE/tests/cow-control" "$RUNTIME_DIRECTORY/cow/$(field mine .storage)" volume-create name=other origin="$a" >"$VSS_TEST_DIR/refused" 2>&1 || :
grep -q "it is the origin of volume mine already" "$VSS_TEST_DIR/refused" || die "the engine says: $(cat "$VSS_TEST_DIR/refused")"
for store in "$area/store" "$area/second"; do
        options=(--store="$store")
        [ -e "$store" ] || options+=(--store-max=128M)
        expect_exit 8 vssctl volume create other --origin="$a" "${options[@]}" 2>"$VSS_TEST_DIR/refused"
        grep -q "$a is the origin of volume mine already" "$VSS_TEST_DIR/refused" || die "it says: $(cat "$VSS_TEST_DIR/refused")"
        expect_exit 0 vssctl volume create other --origin="$b" "${options[@]}" >/dev/null
        expect_exit 0 vssctl volume attach mine
        expect_equal "$a $b" "$(field mine .origin) $(field other .origin)" "the two disks"
        expect_exit 0 vssctl volume detach mine
        expect_exit 0 vssctl volume detach other
        expect_exit 0 vssctl volume remove other
done
expect_equal "$foreign" "$(md5sum <"$area/b.img")" "what is on the other disk"
exchange DISK-B DISK-A
expect_exit 0 vssctl volume attach mine
expect_exit 0 vssctl volume detach mine

note "another disk of its name"
serial "$b" DISK-C
expect_exit 4 vssctl volume attach mine 2>"$VSS_TEST_DIR/refused"
expect_equal 1 "$(wc -l <"$VSS_TEST_DIR/refused")" "lines"
for word in "$b" serial:DISK-A serial:DISK-C --force; do
        grep -q -- "$word" "$VSS_TEST_DIR/refused" || die "the reason does not say $word: $(cat "$VSS_TEST_DIR/refused")"
done
expect_equal false "$(field mine .attached)" attached
serial "$a" DISK-A
serial "$b" DISK-A
expect_exit 0 vssctl volume attach mine # by the name it had
expect_exit 0 vssctl volume detach mine

note "only who says so gets it, and its copies are not called good"
serial "$a" DISK-B
serial "$b" DISK-C
expect_exit 0 vssctl volume attach --force mine
expect_equal 1 "$(unverified)" "copies that are unverified"
expect_equal mine "$(attached)" "what is on it"
expect_exit 0 vssctl volume detach mine
expect_exit 0 vssctl volume attach mine
expect_exit 0 vssctl volume detach mine
expect_exit 0 vssctl volume remove --force mine
