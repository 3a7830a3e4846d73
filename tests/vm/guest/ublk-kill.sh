#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The engine's server is killed under load, again and again: nobody at its ublk devices gets an error, no block is lost and
# none gets an older version back (fio checks what it wrote, cow-verify that versions only grow), snapshots are exact. One of
# the kills comes while every request that the queue has room for is held back by a gate. Then its holder is killed as well,
# and another vss-cow takes the devices over, mounted as they are: so it is upgraded in place.
# disks: 2G
# seconds: 600
# programs: cow-verify cow-client
. "$(dirname "$0")/functions.sh"

kills=10
[ -z "${VM_LONG:-}" ] || [ "$VM_LONG" = 0 ] || kills=50
modprobe ublk_drv
new_fs area ext4 "$d0"
COW_DIR=/run/cow
cow() { cow-client $COW_DIR "$@"; }
server() { cow status | json .server_pid; }
serve() {
        "${1:-/usr/libexec/vss/vss-cow}" serve --store="$area/store" --directory=$COW_DIR --links=/dev/vss
        expect_equal ublk "$(cow status | json .frontend)" "the front end"
}
volume() { # volume NAME SIZE
        truncate -s "$2" "$area/$1.img"
        cow volume-create name="$1" origin="$area/$1.img" >/dev/null
        cow volume-attach name="$1" | json .device
}
content() { dd if="$1" bs=1M iflag=direct status=none | sha256sum | cut -d' ' -f1; }

# kill_server: and waits for the next one; prints the time from one to the other
kill_server() {
        local dead begin
        dead=$(server)
        begin=$(date +%s%3N)
        kill -KILL "$dead"
        wait_until 60 is_another "$dead" || die "no server after the death of $dead"
        note "kill $1: server $dead, answered again after $(($(date +%s%3N) - begin)) ms"
}
is_another() {
        local now
        now=$(timeout 5 cow-client $COW_DIR status | json .server_pid) && [ "$now" != "$1" ]
}

/usr/libexec/vss/vss-cow format --store="$area/store" --size=$((512 << 20))
serve
blocks=2048
raw=$(volume raw $((blocks << 12)))
fio=$(volume fio 32M)
files=$(volume files 32M)
mkfs.ext4 -q "$files"
mkdir -p /mnt/files
mount "$files" /mnt/files
cow-verify fill "$raw" $blocks
stop=$VSS_TEST_DIR/stop

load_begin() {
        rm -f "$stop"
        cow-verify write "$raw" $blocks 16 "$stop" >"$VSS_TEST_DIR/versions" 2>&1 &
        VERSIONS=$!
        (while [ ! -e "$stop" ]; do
                fio --name=v --filename="$fio" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=32 --size=4M \
                        --verify=crc32c --verify_fatal=1 --minimal || exit 1
        done) >"$VSS_TEST_DIR/fio" 2>&1 &
        FIO=$!
        (for ((i = 0; ; i++)); do
                [ ! -e "$stop" ] || break
                dd if=/dev/urandom of=/mnt/files/$((i % 16)) bs=64k count=8 conv=fsync status=none || exit 1
        done) &
        FILES=$!
}
load_end() {
        : >"$stop"
        wait $VERSIONS || die "cow-verify: $(cat "$VSS_TEST_DIR/versions")"
        note "$(tail -n 1 "$VSS_TEST_DIR/versions")"
        grep -q " 0 bad blocks, 0 I/O errors" "$VSS_TEST_DIR/versions" || die "cow-verify: $(cat "$VSS_TEST_DIR/versions")"
        wait $FIO || die "fio: $(tail -n 5 "$VSS_TEST_DIR/fio")"
        wait $FILES || die "a write to the file system failed"
}

declare -A was
snapshot() { # of raw and files, with what they show
        local id d
        for id in $(cow gate raw files | tail -n +2); do
                d=$(cow expose id="$id" | json .device)
                was[$id]=$(content "$d")
                cow hide id="$id" >/dev/null
        done
}
snapshots_are_exact() {
        local id d
        for id in "${!was[@]}"; do
                d=$(cow expose id="$id" | json .device)
                expect_equal "${was[$id]}" "$(content "$d")" "the content of snapshot $id"
                cow hide id="$id" >/dev/null
        done
}

load_begin
for ((n = 1; n <= kills; n++)); do
        sleep "1.$((RANDOM % 10))"
        [ $((n % 5)) -ne 1 ] || snapshot
        kill_server $n
done
load_end
snapshots_are_exact
cow-verify read "$raw" $blocks

note "killed with a full queue behind a closed gate"
{
        echo '{"command":"hold","volumes":["fio"],"deadline_usec":@in(30000)}'
        sleep 30
} | cow-client $COW_DIR script >"$VSS_TEST_DIR/held" 2>&1 &
wait_until 20 grep -q token "$VSS_TEST_DIR/held" || die "no hold: $(cat "$VSS_TEST_DIR/held")"
fio --name=full --filename="$fio" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=127 --size=32M --minimal \
        >"$VSS_TEST_DIR/full" 2>&1 &
FULL=$!
is_full() { [ "$(awk '{ print $1 + $2 }' "/sys/block/${fio##*/}/inflight")" -ge 127 ]; }
wait_until 30 is_full || die "the queue is not full: $(cat "/sys/block/${fio##*/}/inflight")"
kill_server full
wait $FULL || die "fio: $(tail -n 5 "$VSS_TEST_DIR/full")"

note "another one takes over, while the file system is mounted"
load_begin
for ((n = 1; n <= 4; n++)); do
        sleep 1
        holder=$(cat $COW_DIR/lock)
        cp /usr/libexec/vss/vss-cow /run/vss-cow-$n
        kill -KILL "$holder"
        wait_until 20 [ ! -e "/proc/$holder" ]
        sleep "0.$((RANDOM % 10))"
        serve /run/vss-cow-$n
        expect_equal /run/vss-cow-$n "$(readlink "/proc/$(server)/exe" | sed 's/ (deleted)//')" "the program of the server"
        wait_until 60 [ "$(cow volumes | jq '[.volumes[] | select(.attached and .device != "")] | length')" -eq 3 ] ||
                die "not all volumes are back: $(cow volumes)"
done
sleep 1
load_end
cow-verify read "$raw" $blocks
snapshots_are_exact
umount /mnt/files
fsck.ext4 -fn "$files" >"$VSS_TEST_DIR/fsck" 2>&1 || die "the file system is damaged: $(tail -n 5 "$VSS_TEST_DIR/fsck")"

cow stop >/dev/null
wait_until 20 [ ! -e "/proc/$(cat $COW_DIR/lock)" ]
expect_exit 0 /usr/libexec/vss/vss-cow check "$area/store"
for d in /dev/ublkb*; do [ ! -e "$d" ] || die "$d is left"; done
