#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Engine volumes as ublk devices, under the service: chosen by themselves where the kernel has them; ext4, XFS and btrfs
# on them; sets over all of them, copies mounted and as devices; what is in use is not taken away; vssd and the engine are
# replaced while a file system is mounted; a disk that is not there is named; with --frontend=fuse the same volumes are
# loop devices.
# disks: 4G 128M 64M
# seconds: 480
# programs: cow-verify
. "$(dirname "$0")/functions.sh"

new_fs area ext4 "$d0"
declare -A size=([ext4]=200M [xfs]=320M [btrfs]=300M)

device_of() { readlink -f "/dev/vss/$1"; }
volume_field() { vssctl --json volume list | json ".volumes[] | select(.name == \"$1\") | .$2"; }
fill() { # fill MOUNT-POINT NAME
        dd if=/dev/urandom of="$1/$2" bs=1M count=4 status=none
        sync -f "$1"
}
sum_of() { sha256sum <"$1" | cut -d' ' -f1; }

note "made, attached, mounted"
volumes=() make=(--store-max=1G)
for t in ext4 xfs btrfs; do
        truncate -s "${size[$t]}" "$area/$t.img"
        expect_exit 0 vssctl volume create "$t" --origin="$area/$t.img" --store="$area/store" "${make[@]}"
        make=()
        [[ $(device_of $t) == /dev/ublkb* ]] || die "the device of $t is $(device_of $t)"
        expect_equal ublk "$(volume_field $t frontend)" "the front end of $t"
        new_fs "$t" $t "/dev/vss/$t"
        fill "/mnt/$t" before
        volumes+=("/mnt/$t")
done
queue=/sys/block/$(basename "$(device_of ext4)")/queue
expect_equal "write back" "$(cat "$queue/write_cache")" "the cache"
expect_equal 1 "$(cat "$queue/fua")" "FUA"
expect_equal 127 "$(cat "$queue/nr_requests")" "requests at once"

note "a block device as origin, with another block size"
losetup --sector-size=4096 --find --show "$d1" >"$VSS_TEST_DIR/loop"
expect_exit 0 vssctl volume create raw --origin="$(cat "$VSS_TEST_DIR/loop")" --store="$area/store"
expect_equal 4096 "$(blockdev --getss /dev/vss/raw)" "the block size of raw"
expect_equal 512 "$(blockdev --getss /dev/vss/ext4)" "the block size of ext4"
cow-verify fill /dev/vss/raw 4096
cow-verify read /dev/vss/raw 4096

note "a set over all of them, of the engine even where btrfs could make one of its own"
set=$(vssctl --json create --provider=cow "${volumes[@]}" | tee "$VSS_TEST_DIR/set.json" | json .set)
expect_equal filesystem "$(json .consistency <"$VSS_TEST_DIR/set.json")" "the level"
for t in ext4 xfs btrfs; do
        was=$(sum_of "/mnt/$t/before")
        dd if=/dev/urandom of="/mnt/$t/before" bs=1M count=4 conv=notrunc status=none
        fill "/mnt/$t" after
        id=$(json ".snapshots[] | select(.volume == \"/mnt/$t\") | .id" <"$VSS_TEST_DIR/set.json")
        if [ $t = btrfs ] && ! [ -e /sys/fs/btrfs/features/temp_fsid ]; then
                note "no copy of a btrfs beside the original on this kernel"
                continue
        fi
        path=$(vssctl --json mount "$id" | json .path)
        expect_equal "$was" "$(sum_of "$path/before")" "what the copy of $t has"
        [ ! -e "$path/after" ] || die "the copy of $t has what was written later"
        copy=$(findmnt -no SOURCE "$path" | sed 's/\[.*//')
        [[ $copy == /dev/ublkb* ]] || die "the copy of $t is $copy"
        expect_equal 1 "$(blockdev --getro "$copy")" "whether the copy of $t is read-only"
        expect_exit 8 vssctl delete "$id" 2>"$VSS_TEST_DIR/refused"
        note "$(cat "$VSS_TEST_DIR/refused")"
        expect_exit 0 vssctl umount "$id"
done

note "vssd and the engine are replaced while a file system is mounted and written to"
unit=vss-cow@$(volume_field ext4 storage).service
holder=$(systemctl show -P MainPID "$unit")
exe() { readlink "/proc/$(pgrep -P "$(systemctl show -P MainPID "$unit")" | head -n 1)/exe"; }
cp /usr/libexec/vss/vss-cow /usr/libexec/vss/vss-cow.new
mv /usr/libexec/vss/vss-cow.new /usr/libexec/vss/vss-cow
[[ $(exe) == *deleted* ]] || die "the server has $(exe) already"
count_writes /mnt/ext4
systemctl restart vssd
kill -KILL "$holder"
replaced() { [ "$(exe)" = /usr/libexec/vss/vss-cow ]; }
wait_until 60 replaced || die "the engine is not replaced: $(systemctl status "$unit" --no-pager)"
at=$(writes /mnt/ext4)
go_on() { [ "$(writes /mnt/ext4)" -gt $((at + 10)) ]; }
wait_until 60 go_on || die "the writes do not go on with the engine that is new"
for t in ext4 xfs btrfs; do
        expect_equal "$(device_of $t)" "$(findmnt -no SOURCE /mnt/$t)" "what /mnt/$t is mounted from"
        fill "/mnt/$t" replaced
done
cow-verify read /dev/vss/raw 4096
expect_equal 3 "$(vssctl --json snapshots | jq '.snapshots | length')" "copies after the engine was replaced"

note "what is in use stays"
kill "$_writer_of_mnt_ext4"
wait "$_writer_of_mnt_ext4" 2>/dev/null || :
expect_exit 8 vssctl volume detach ext4
umount /mnt/ext4
exec 9<"$(device_of ext4)"
expect_exit 8 vssctl volume detach ext4
exec 9<&-
loop=$(losetup --find --show "$(device_of ext4)")
expect_exit 8 vssctl volume detach ext4
losetup -d "$loop"
expect_exit 0 vssctl delete "$set"

note "what was written and not synced is there after a detach, and discards give space back"
dd if=/dev/urandom of="$VSS_TEST_DIR/data" bs=1M count=16 status=none
blkdiscard -f /dev/vss/ext4
[ "$(du -k "$area/ext4.img" | cut -f1)" -lt 1024 ] || die "the origin keeps what was discarded: $(du -k "$area/ext4.img")"
dd if="$VSS_TEST_DIR/data" of=/dev/vss/ext4 bs=1M status=none
expect_exit 0 vssctl volume detach ext4
[ ! -e /dev/vss/ext4 ] || die "the link of ext4 is still there"
cmp -n $((16 << 20)) "$VSS_TEST_DIR/data" "$area/ext4.img" || die "the origin lacks what was written"
expect_exit 0 vssctl volume attach ext4
blkdiscard -z -f -o 4096 -l 8192 "$(device_of ext4)"
dd if="$(device_of ext4)" bs=4096 skip=1 count=2 iflag=direct status=none | cmp -n 8192 - /dev/zero || die "zeros were not written"

note "a disk that is not there is named, and the volume is there again when the disk is"
gone=$(readlink -f "$d2")
expect_exit 0 vssctl volume create gone --origin="$gone" --store="$area/store"
expect_exit 0 vssctl volume detach gone
driver=/sys/bus/virtio/drivers/virtio_blk
part=$(basename "$(readlink -f "/sys/block/${gone##*/}/device")")
echo "$part" >$driver/unbind
status=0
vssctl volume attach gone 2>"$VSS_TEST_DIR/refused" || status=$?
note "attach of a volume without its disk: $status, $(cat "$VSS_TEST_DIR/refused")"
expect_equal 1 "$(wc -l <"$VSS_TEST_DIR/refused")" "lines of the reason"
grep -q "$gone" "$VSS_TEST_DIR/refused" || die "the reason does not name $gone: $(cat "$VSS_TEST_DIR/refused")"
[ $status -ne 0 ] && [ ! -e /dev/vss/gone ] || die "what has no disk was attached"
fill /mnt/xfs meanwhile
echo "$part" >$driver/bind
wait_until 20 test -b "$gone"
expect_exit 0 vssctl volume attach gone

note "the other front end"
truncate -s 64M "$area/fuse.img"
expect_exit 10 vssctl volume create fuse --origin="$area/fuse.img" --store="$area/store" --frontend=fuse
expect_exit 0 vssctl volume create fuse --origin="$area/fuse.img" --store="$area/fuse.store" --store-max=128M --frontend=fuse
[[ $(device_of fuse) == /dev/loop* ]] || die "the device of fuse is $(device_of fuse)"
expect_equal fuse "$(volume_field fuse frontend)" "the front end of fuse"

umount /mnt/xfs /mnt/btrfs
for v in ext4 xfs btrfs raw gone fuse; do expect_exit 0 vssctl volume detach $v; done
for d in /dev/ublkb*; do [ ! -e "$d" ] || die "$d is left"; done
