#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# File systems on the engine's devices: made, loaded, snapshotted while frozen, shown and compared, trimmed, and taken
# away again: what is left in the origin is a plain image. And sizes that are no multiple of a block.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/cow.sh"
requires mkfs.ext4 mkfs.xfs mkfs.btrfs xfs_repair fsfreeze fstrim fio blkdiscard
watchdog 400

mnt=$VSS_TEST_DIR/mnt copy=$VSS_TEST_DIR/copy
mkdir "$mnt" "$copy"
unmount() { ! mountpoint -q "$1" || { fsfreeze -u "$1" 2>/dev/null || :; umount "$1"; }; }
cow_format $((2 << 30))
cow_serve

sums() { (cd "$1" && find . -type f ! -name 'junk*' -print0 | sort -z | xargs -0 sha256sum) | sha256sum; }

make() {
        case $1 in
        ext4) mkfs.ext4 -q "$2" ;;
        xfs) mkfs.xfs -q -f "$2" ;;
        btrfs) mkfs.btrfs -q -f "$2" >/dev/null ;;
        esac
}

# check_fs TYPE DEVICE-OR-IMAGE: without writing
check_fs() {
        case $1 in
        ext4) e2fsck -fn "$2" ;;
        xfs) xfs_repair -n "$2" ;;
        btrfs) btrfs check --readonly "$2" ;;
        esac >"$VSS_TEST_DIR/log/check" 2>&1 || die "$1 on $2 is damaged: $(tail -n 20 "$VSS_TEST_DIR/log/check")"
}

fill() {
        local i
        for i in {1..30}; do dd if=/dev/urandom of="$mnt/$1.$i" bs=32k count=$((i % 13 + 1)) status=none; done
        mkdir -p "$mnt/$1"
        cp -r /usr/include/linux "$mnt/$1/"
}

# snapshot_frozen TYPE: the set's id in ID, what is in it in WAS
snapshot_frozen() {
        local junk n
        fill "$RANDOM"
        rm -f "$VSS_TEST_DIR/stop"
        (
                n=0
                while ! [ -e "$VSS_TEST_DIR/stop" ]; do
                        n=$(((n + 1) % 5))
                        dd if=/dev/zero of="$mnt/junk.$n" bs=128k count=16 status=none conv=fsync || exit 1
                done
        ) &
        junk=$!
        sleep 0.3
        WAS=$(sums "$mnt")
        fsfreeze -f "$mnt"
        ID=$(cow_set "$1") || { fsfreeze -u "$mnt"; die "no snapshot"; }
        fsfreeze -u "$mnt"
        sleep 0.3
        touch "$VSS_TEST_DIR/stop"
        wait $junk || die "a write failed"
}

# compare_copy TYPE ID WAS
compare_copy() {
        local device options=ro
        device=$(expose "$2")
        if [ "$1" = xfs ]; then options=ro,norecovery,nouuid; fi
        if [ "$1" = btrfs ] && [ ! -e /sys/fs/btrfs/features/temp_fsid ]; then
                note "the copy of btrfs is not mounted beside its origin: this kernel has no temporary fsid"
        else
                mount -t "$1" -o $options "$device" "$copy" || die "the copy of $1 cannot be mounted: $(dmesg | tail -n 3)"
                expect_equal "$3" "$(sums "$copy")" "what is in the copy of $1"
                umount "$copy"
        fi
        # frozen: nothing is left to replay, so a check that writes nothing must be content; but XFS leaves a record for
        # orphans in its log on purpose, which a mount of the copy's copy takes care of
        if [ "$1" = xfs ]; then
                dd if="$device" of="$COW_DISK/copy.img" bs=1M iflag=direct conv=sparse status=none
                mount -o loop,nouuid "$COW_DISK/copy.img" "$copy"
                umount "$copy"
                check_fs xfs "$COW_DISK/copy.img"
        else
                check_fs "$1" "$device"
        fi
        cow hide id="$2" >/dev/null
}

file_system() {
        local type=$1 device id1 was1 id2 was2
        cleanup_fn unmount "$mnt"
        cleanup_fn unmount "$copy"
        device=$(cow_volume "$type" $((320 << 20)))
        make "$type" "$device"
        mount "$device" "$mnt"
        snapshot_frozen "$type"
        id1=$ID was1=$WAS
        compare_copy "$type" "$id1" "$was1"
        note "$type: trim, overwrite, and a second one"
        find "$mnt" -mindepth 1 -maxdepth 1 -name '*.[123]' -delete
        sync -f "$mnt"
        fstrim -v "$mnt" | sed "s|$mnt: ||; s|^|# $type: trimmed |" >&2
        snapshot_frozen "$type"
        id2=$ID was2=$WAS
        rm -rf "${mnt:?}"/*
        fill last
        fstrim "$mnt"
        sync -f "$mnt"
        compare_copy "$type" "$id1" "$was1"
        compare_copy "$type" "$id2" "$was2"
        was2=$(sums "$mnt")
        umount "$mnt"
        note "$type: discards of mkfs"
        cow volume-detach name="$type" >/dev/null
        check_fs "$type" "$COW_DISK/$type.img"
        mount -o loop,ro "$COW_DISK/$type.img" "$mnt"
        expect_equal "$was2" "$(sums "$mnt")" "what is in the plain image of $type"
        umount "$mnt"
        device=$(cow volume-attach name="$type" | json .device)
        compare_copy "$type" "$id1" "$was1"
        make "$type" "$device"
        compare_copy "$type" "$id1" "$was1"
        cow delete id="$id1" >/dev/null
        cow delete id="$id2" >/dev/null
        cow volume-detach name="$type" >/dev/null
        check_fs "$type" "$COW_DISK/$type.img"
}
case_ext4() { file_system ext4; }
case_xfs() { file_system xfs; }
case_btrfs() { file_system btrfs; }

blocks_of() { stat -c %b "$1"; } # of 512 bytes

# hole DEVICE FILE COMMAND…: makes 48 of 64 MiB zeros; they read as such, and the file below gives their space back
hole() {
        local device=$1 file=$2
        shift 2
        dd if=/dev/urandom of="$device" bs=1M count=64 oflag=direct status=none
        "$@" --offset $((8 << 20)) --length $((48 << 20)) "$device"
        sync "$file"
        note "$*: $(blocks_of "$file") blocks left of $((64 << 11))"
        [ "$(blocks_of "$file")" -le $((17 << 11)) ] || die "the origin keeps $(blocks_of "$file") blocks, not those of 16 MiB"
        expect_equal "$(head -c $((48 << 20)) /dev/zero | sha256sum)" \
                "$(dd if="$device" bs=1M iflag=direct skip=8 count=48 status=none | sha256sum)" "what reads as zeros"
}

# What is discarded, or made zeros, takes no space in a sparse origin; snapshots keep it.
case_sparse() {
        local device id was loop file=$COW_DISK/sparse.img
        device=$(cow_volume sparse $((64 << 20)))
        blkdiscard "$device"
        blkdiscard --zeroout "$device"
        expect_equal 0 "$(blocks_of "$file")" "blocks of an origin nobody wrote to"
        hole "$device" "$file" blkdiscard
        hole "$device" "$file" blkdiscard --zeroout
        dd if=/dev/urandom of="$device" bs=1M count=64 oflag=direct status=none
        id=$(cow_set sparse)
        was=$(content "$device")
        hole "$device" "$file" blkdiscard
        hole "$device" "$file" blkdiscard --zeroout
        expect_equal "$was" "$(content "$(expose "$id")")" "the snapshot"
        cow hide id="$id" >/dev/null
        cow volume-detach name=sparse >/dev/null
        note "the origin is a block device"
        truncate -s 64M "$COW_DISK/below.img"
        loop=$(losetup --find --show "$COW_DISK/below.img")
        cleanup_fn losetup -d "$loop"
        cow volume-create name=below origin="$loop" >/dev/null
        device=$(owned "$(cow volume-attach name=below | json .device)")
        hole "$device" "$COW_DISK/below.img" blkdiscard
        hole "$device" "$COW_DISK/below.img" blkdiscard --zeroout
        cow volume-detach name=below >/dev/null
}

# Every size a disk may have, and direct I/O of one sector.
case_sizes() {
        local bytes device id was
        for bytes in $(((8 << 20) + 512)) $(((8 << 20) + 3584)) $((512 * 9)) 512; do
                device=$(cow_volume "s$bytes" "$bytes")
                expect_equal "$bytes" "$(blockdev --getsize64 "$device")" "the size of the device"
                dd if=/dev/urandom of="$device" bs=512 count=$((bytes / 512)) oflag=direct status=none iflag=fullblock
                was=$(sha256sum <"$COW_DISK/s$bytes.img" | cut -d' ' -f1)
                id=$(cow_set "s$bytes")
                dd if=/dev/urandom of="$device" bs=512 count=1 seek=$((bytes / 512 - 1)) oflag=direct conv=notrunc status=none
                dd if=/dev/urandom of="$device" bs=512 count=1 seek=$((bytes / 1024)) oflag=direct conv=notrunc status=none
                expect_equal "$(sha256sum <"$COW_DISK/s$bytes.img" | cut -d' ' -f1)" "$(dd if="$device" bs=512 iflag=direct status=none | sha256sum | cut -d' ' -f1)" "the volume of $bytes bytes"
                [ "$was" != "$(sha256sum <"$COW_DISK/s$bytes.img" | cut -d' ' -f1)" ] || die "nothing was written"
                dd if=/dev/urandom of="$device" bs=1M count=9 conv=fsync status=none 2>/dev/null || : # to the end
                expect_equal "$bytes" "$(stat -c %s "$COW_DISK/s$bytes.img")" "the size of the image"
                expect_equal "$was" "$(dd if="$(expose "$id")" bs=512 iflag=direct status=none | sha256sum | cut -d' ' -f1)" "the snapshot of $bytes bytes"
                cow hide id="$id" >/dev/null
                cow volume-detach name="s$bytes" >/dev/null
                note "$bytes bytes: exact"
        done
}

case_sectors() {
        local device id was
        device=$(cow_volume sectors $(((4 << 20) + 1536)))
        dd if=/dev/urandom of="$device" bs=512 oflag=direct status=none 2>/dev/null || :
        was=$(content "$device")
        id=$(cow_set sectors)
        fio --name=sectors --filename="$device" --rw=randwrite --bsrange=512-8k --blockalign=512 --direct=1 --ioengine=libaio \
                --iodepth=16 --size=4m --verify=crc32c --verify_state_save=0 --output-format=terse --do_verify=1 >"$VSS_TEST_DIR/log/fio" 2>&1 ||
                die "fio: $(cut -c1-300 "$VSS_TEST_DIR/log/fio")"
        expect_equal "$was" "$(content "$(expose "$id")")" "the snapshot under writes of sectors"
        expect_equal "$(sha256sum <"$COW_DISK/sectors.img" | cut -d' ' -f1)" "$(content "$device")" "the volume"
        blkdiscard -o 512 -l $((2 << 20)) "$device" # whole of it or not: a discard is advice to the disk, a zeroing is not
        blkdiscard -z -o 1536 -l 1024000 "$device"
        expect_equal "$(head -c 1024000 /dev/zero | sha256sum)" \
                "$(dd if="$device" bs=512 skip=3 count=2000 iflag=direct status=none | sha256sum)" "what was zeroed"
        expect_equal "$was" "$(content "$(expose "$id")")" "the snapshot under zeroing"
        cow hide id="$id" >/dev/null
        cow volume-detach name=sectors >/dev/null
}

all=(ext4 xfs btrfs sparse sizes sectors)
[ $# -eq 0 ] || all=("$@")
cases "${all[@]}"
cow_stop
expect_exit 0 "$VSS_COW" check "$COW_STORE" >&2
