#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Snapshots of file systems that nobody froze (hazards A6): only the engine's gate was closed, under a load that fsyncs.
# They are shown with a throw-away overlay, which takes what the replay of their log writes: every file that was fsynced
# before is there, the snapshot itself stays bit for bit what it was, an overlay that is full hurts nobody else, and
# whatever is killed meanwhile, nobody reads anything mixed.
export VSS_TEST_SECONDS=280
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/cow.sh"
requires mkfs.ext4 mkfs.xfs mkfs.btrfs fsfreeze fio python3
watchdog 270

mnt=$VSS_TEST_DIR/mnt copy=$VSS_TEST_DIR/copy acknowledged=$VSS_TEST_DIR/acknowledged
mkdir "$mnt" "$copy"
unmount() { ! mountpoint -q "$1" || umount "$1"; }
cleanup_fn unmount "$mnt"
cleanup_fn unmount "$copy"
cow_format $((1 << 30))
cow_serve

# fsyncs: makes files in DIRECTORY until it is full or stopped; a line "SUM  NAME" in ACKNOWLEDGED once one is durable
fsyncs() {
        exec python3 -c '
import hashlib, os, sys
directory, log = sys.argv[1:]
with open(log, "w", encoding="ascii", buffering=1) as acknowledged:
    for i in range(4000):
        data = os.urandom(1 + i * 977 % 20000)
        fd = os.open(f"{directory}/f{i}", os.O_CREAT | os.O_WRONLY, 0o600)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        acknowledged.write(f"{hashlib.sha256(data).hexdigest()}  f{i}\n")
' "$1" "$acknowledged"
}

# under_load TYPE [VOLUME]: a file system of that kind on a volume, TYPE if it has no other name, and in ID a snapshot of it in the middle of the load; in
# $acknowledged.before what was durable before the gate closed
under_load() {
        local device load name=${2:-$1}
        device=$(cow_volume "$name" $((320 << 20)))
        "mkfs.$1" -q "$device"
        mount "$device" "$mnt"
        rm -f "$acknowledged"
        fsyncs "$mnt" &
        load=$!
        cleanup_fn eval "kill $load 2>/dev/null || :"
        enough() { [ "$(wc -l <"$acknowledged")" -ge "$1" ]; }
        wait_until 60 enough 200 || die "the load makes no files"
        cp "$acknowledged" "$acknowledged.before"
        ID=$(cow_gate "$name")
        wait_until 60 enough $(($(wc -l <"$acknowledged") + 100)) || die "the load stands still"
        kill $load
        wait $load || :
        note "$1: $(wc -l <"$acknowledged.before") files were fsynced before the gate closed"
}

# mount_copy TYPE DEVICE
mount_copy() {
        local options=ro
        if [ "$1" = xfs ]; then options=ro,nouuid; fi
        mount -t "$1" -o $options "$2" "$copy"
}

# durable: every file that was fsynced is in the mounted copy, with its content. OPTION of dd
durable() {
        local sum name n=0
        while read -r sum name; do
                expect_equal "$sum" "$(dd if="$copy/$name" bs=1M "$@" status=none | sha256sum | cut -d' ' -f1)" "$name in the copy"
                n=$((n + 1))
        done <"$acknowledged.before"
        [ $n -ge 200 ] || die "only $n files were looked at"
}

end_volume() {
        umount "$mnt"
        cow delete id="$ID" >/dev/null
        cow volume-detach name="$1" >/dev/null
}

replayed() {
        local was device server
        server=$(status_of .server_pid)
        under_load "$1"
        was=$(content "$(expose "$ID")")
        if mount_copy "$1" "$(expose "$ID")" 2>/dev/null; then die "the log of $1 is replayed without writing: there is nothing to test"; fi
        cow hide id="$ID" >/dev/null
        device=$(overlay "$ID")
        mount_copy "$1" "$device" || die "the copy cannot be mounted: $(dmesg | tail -n 3)"
        durable
        if : 2>/dev/null >"$copy/new"; then die "the copy can be written to"; fi
        expect_exit 16 cow hide id="$ID" device="$device" >/dev/null 2>&1
        umount "$copy"
        [ "$was" != "$(content "$device")" ] || die "the replay wrote nothing"
        expect_equal "$was" "$(content "$(expose "$ID")")" "the snapshot, after its log was replayed"
        cow hide id="$ID" >/dev/null
        note "$1: all of them are in the copy, and the snapshot is as it was"
        device=$(overlay "$ID")
        expect_equal "$was" "$(content "$device")" "what a new overlay shows"
        end_volume "$1"
        expect_equal "$server" "$(status_of .server_pid)" "the server"
}
case_ext4() { replayed ext4; }
case_xfs() { replayed xfs; }

# Writes of sectors at any place, many at once, held against the same writes to a file; and the server dies again and again.
case_sectors() {
        local device id was mirror=$COW_DISK/mirror i at n killer
        device=$(cow_volume sectors $(((24 << 20) + 1536)))
        dd if=/dev/urandom of="$device" bs=1M oflag=direct iflag=fullblock status=none 2>/dev/null || :
        id=$(cow_set sectors)
        was=$(content "$device")
        dd if=/dev/urandom of="$device" bs=1M count=8 oflag=direct status=none # so that it has blocks in the store
        device=$(overlay "$id")
        dd if="$device" of="$mirror" bs=1M iflag=direct status=none
        expect_equal "$was" "$(sha256sum <"$mirror" | cut -d' ' -f1)" "what an empty overlay shows"
        (while sleep 0.1; do kill -KILL "$(status_of .server_pid)" || :; done 2>/dev/null) &
        killer=$!
        cleanup_fn eval "kill $killer 2>/dev/null || :"
        for i in {1..150}; do
                at=$((RANDOM * 7 % 49155)) n=$((RANDOM % 40 + 1))
                [ $((at + n)) -le 49155 ] || n=$((49155 - at))
                dd if=/dev/urandom of="$VSS_TEST_DIR/data" bs=512 count=$n status=none
                dd if="$VSS_TEST_DIR/data" of="$device" bs=${n}b seek=$((at * 512)) oflag=direct,seek_bytes status=none
                dd if="$VSS_TEST_DIR/data" of="$mirror" bs=${n}b seek=$((at * 512)) oflag=seek_bytes conv=notrunc status=none
        done
        fio --name=sectors --filename="$device" --rw=randwrite --bsrange=512-8k --blockalign=512 --direct=1 --ioengine=libaio --iodepth=16 \
                --offset=16m --size=7m --verify=crc32c --verify_state_save=0 --output-format=terse --do_verify=1 >"$VSS_TEST_DIR/log/fio" 2>&1 ||
                die "fio: $(cut -c1-300 "$VSS_TEST_DIR/log/fio")"
        kill $killer
        wait $killer || :
        note "$(status_of .server_pid) is the last server"
        expect_equal "$(head -c 16M "$mirror" | sha256sum)" "$(dd if="$device" bs=1M count=16 iflag=direct status=none | sha256sum)" "what the overlay shows"
        expect_equal "$(tail -c $(((1 << 20) + 1536)) "$mirror" | sha256sum)" \
                "$(dd if="$device" bs=512 skip=$((23 * 2048)) iflag=direct status=none | sha256sum)" "the end of what it shows"
        expect_equal "$was" "$(content "$(expose "$id")")" "the snapshot"
        cow delete id="$id" >/dev/null
        cow volume-detach name=sectors >/dev/null
}

case_full() {
        local volume device other id was server
        server=$(status_of .server_pid)
        volume=$(cow_volume full $((32 << 20)))
        dd if=/dev/urandom of="$volume" bs=1M oflag=direct status=none 2>/dev/null || :
        id=$(cow_set full)
        was=$(content "$volume")
        device=$(overlay "$id" overlay_bytes=$((4 << 20)))
        other=$(overlay "$id")
        dd if=/dev/zero of="$device" bs=1M count=4 oflag=direct status=none
        dd if=/dev/zero of="$other" bs=1M count=9 oflag=direct status=none
        if dd if=/dev/zero of="$device" bs=4k count=1 seek=5000 oflag=direct status=none 2>"$VSS_TEST_DIR/said"; then die "more fits than was allowed"; fi
        grep -q 'No space left' "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        dd if=/dev/urandom of="$device" bs=4k count=9 seek=77 oflag=direct status=none # what it has can be written again
        dd if=/dev/zero of="$device" bs=4k count=9 seek=77 oflag=direct status=none
        expect_equal "$( (head -c 4M /dev/zero && dd if="$volume" bs=1M skip=4 iflag=direct status=none) | sha256sum | cut -d' ' -f1)" \
                "$(content "$device")" "what the full one shows"
        dd if=/dev/zero of="$other" bs=1M count=1 seek=20 oflag=direct status=none
        dd if=/dev/urandom of="$volume" bs=1M count=16 oflag=direct status=none
        expect_equal "$was" "$(content "$(expose "$id")")" "the snapshot"
        expect_equal true "$(cow hide id="$id" device="$device" | json '.overlay_full // false')" "full, says hide"
        expect_equal false "$(cow hide id="$id" device="$other" | json '.overlay_full // false')" "full, says hide of the other"
        note "16 at once, and the number of one that went is free again"
        for _ in {1..16}; do device=$(overlay "$id"); done
        expect_exit 24 cow expose id="$id" overlay= >/dev/null 2>&1
        cow hide id="$id" device="$device" >/dev/null
        device=$(overlay "$id")
        expect_equal "$was" "$(content "$device")" "what an overlay with a used number shows"
        cow hide id="$id" >/dev/null
        expect_equal 0 "$(find "/proc/$COW_HOLDER/fd" -lname "$COW_DISK/#*" | wc -l)" "files of overlays that are left"
        cow delete id="$id" >/dev/null
        cow volume-detach name=full >/dev/null
        expect_equal "$server" "$(status_of .server_pid)" "the server"
}

case_refused_places() {
        local volume id mount=$VSS_TEST_DIR/mnt
        volume=$(cow_volume places $((64 << 20)))
        mkfs.ext4 -q "$volume"
        mount "$volume" "$mount"
        id=$(cow_gate places)
        expect_exit 95 cow expose id="$id" overlay="$VSS_TEST_DIR" >/dev/null 2>"$VSS_TEST_DIR/said"
        grep -q 'lies in memory' "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        expect_exit 95 cow expose id="$id" overlay="$mount" >/dev/null 2>"$VSS_TEST_DIR/said"
        grep -q 'lies on a volume of this store' "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        expect_exit 2 cow expose id="$id" overlay=/none/such >/dev/null 2>&1
        expect_exit 22 cow expose id="$id" overlay=none >/dev/null 2>&1
        expect_exit 0 cow expose id="$id" overlay="$COW_DISK" >/dev/null
        umount "$mount"
        cow delete id="$id" >/dev/null
        cow volume-detach name=places >/dev/null
}

# In a directory of its own, whose file system fills up, and is frozen when the overlay goes: nobody waits for that.
another_place() {
        local volume device id place=$VSS_TEST_DIR/place.$1 empty
        mkdir "$place"
        truncate -s 128M "$COW_DISK/place.$1"
        "mkfs.$1" -q "$COW_DISK/place.$1" >/dev/null 2>&1
        mount -o loop "$COW_DISK/place.$1" "$place"
        thaw_place() { fsfreeze -u "$1" 2>/dev/null || :; unmount "$1"; }
        cleanup_fn thaw_place "$place"
        used() { sync -f "$place"; df --output=used "$place" | tail -n 1; }
        empty=$(used)
        volume=$(cow_volume "on-$1" $((32 << 20)))
        id=$(cow_set "on-$1")
        device=$(overlay "$id" overlay="$place")
        dd if=/dev/urandom of="$device" bs=1M count=8 oflag=direct status=none
        [ "$(used)" -ge $((empty + 8000)) ] || die "the overlay is not in $place"
        dd if=/dev/zero of="$place/filler" bs=64k status=none 2>/dev/null || :
        if dd if=/dev/urandom of="$device" bs=1M count=1 seek=16 oflag=direct status=none 2>"$VSS_TEST_DIR/said"; then die "there was room"; fi
        grep -q 'No space left' "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        dd if="$volume" of=/dev/null bs=1M iflag=direct status=none
        rm "$place/filler"
        used >/dev/null
        dd if=/dev/urandom of="$device" bs=1M count=1 seek=16 oflag=direct status=none
        kill -KILL "$(status_of .server_pid)" # what the next one inherits it must not keep
        [ "$(content "$device")" != "$(content "$volume")" ] || die "what was written is gone"
        cow hide id="$id" >/dev/null
        gone() { [ "$(used)" -le $((empty + 2000)) ]; }
        wait_until 5 gone || die "$(used) KiB are used in $place, $empty were before"

        device=$(overlay "$id" overlay="$place")
        dd if=/dev/urandom of="$device" bs=1M count=8 oflag=direct status=none
        fsfreeze -f "$place"
        timeout 5 "$VSS_BUILD/tests/cow-client" "$COW_DIR" hide id="$id" >/dev/null || die "hide waits for a file system that is frozen"
        kill -KILL "$(status_of .server_pid)"
        timeout 5 dd if="$volume" of=/dev/null bs=1M iflag=direct status=none || die "the volume waits for a file system that is frozen"
        fsfreeze -u "$place"
        wait_until 5 gone || die "$(used) KiB are used in $place, after the thaw; $empty were before"
        umount "$place"
        cow delete id="$id" >/dev/null
        cow volume-detach name="on-$1" >/dev/null
}
case_on_ext4() { another_place ext4; }
case_on_btrfs() { another_place btrfs; } # where the last to close an unlinked file waits for the thaw

# The server dies while the log is replayed and while the copy is read: a pause, and the right data.
case_server_killed() {
        local killer device was i
        under_load ext4 killed
        was=$(content "$(expose "$ID")")
        (while sleep 0.15; do kill -KILL "$(status_of .server_pid)" || :; done 2>/dev/null) &
        killer=$!
        cleanup_fn eval "kill $killer 2>/dev/null || :"
        for i in {1..10}; do
                device=$(overlay "$ID" 2>/dev/null)
                [ -n "$device" ] || continue # whoever asks is told that the server is gone
                mount_copy ext4 "$device" || die "the copy cannot be mounted: $(dmesg | tail -n 3)"
                [ "$i" -lt 10 ] || durable iflag=direct
                umount "$copy"
        done
        kill $killer
        wait $killer || :
        mountpoint -q "$copy" && die "the copy is still mounted"
        device=$(overlay "$ID")
        mount_copy ext4 "$device"
        durable iflag=direct
        umount "$copy"
        expect_equal "$was" "$(content "$(expose "$ID")")" "the snapshot"
        end_volume killed
}

# With the holder all of it is gone: errors, or what is still in memory and right. The last case.
case_holder_killed() {
        local device sum name good=0 bad=0
        under_load xfs lost
        device=$(overlay "$ID")
        mount_copy xfs "$device"
        head -n 20 "$acknowledged.before" | while read -r sum name; do cat "$copy/$name"; done >/dev/null
        kill -KILL "$COW_HOLDER"
        while read -r sum name; do
                if dd if="$copy/$name" of="$VSS_TEST_DIR/data" bs=1M status=none 2>/dev/null; then
                        expect_equal "$sum" "$(sha256sum <"$VSS_TEST_DIR/data" | cut -d' ' -f1)" "$name, without the holder"
                        good=$((good + 1))
                else
                        bad=$((bad + 1))
                fi
        done <"$acknowledged.before"
        [ $bad -gt 0 ] || die "no read failed, although nobody is there to answer"
        note "$good files are right, $bad fail"
        umount "$copy"
        umount "$mnt"
}

all=(ext4 xfs sectors full refused_places on_ext4 on_btrfs server_killed holder_killed)
[ $# -eq 0 ] || all=("$@")
cases "${all[@]}"
