#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Hazards D7, A7: a server is killed with writes under way that reach the origin's disk six seconds later, which is longer
# than its successor takes to start. The successor must not send a write before the last of them has landed: else an old
# version of a block could land on a newer one. The kernel's trace tells what was sent to the origin and what reached its
# disk, in order: what was under way at the kill, and that nothing of it was when the successor sent its first; and
# cow-verify sees versions that only grow. The origin is a block device behind dm-delay, once with ublk and once with FUSE.
# (What holds the successor back is the claim of the origin, which a request under way keeps although its process has ended.)
# disks: 1G 128M
# long: 6.12
# seconds: 300
# programs: cow-verify cow-client
. "$(dirname "$0")/functions.sh"

modprobe -a ublk_drv dm_delay
new_fs area ext4 "$d0"
COW_DIR=/run/cow
blocks=256
cow-verify fill "$d1" $blocks # the origin is a plain image, and quick as long as nobody delays it
sectors=$(blockdev --getsz "$d1")
dmsetup create slow --table "0 $sectors delay $d1 0 0 $d1 0 6000"
slow=/dev/$(dmsetup info -c --noheadings -o blkdevname slow)
/usr/libexec/vss/vss-cow format --store="$area/store" --size=$((128 << 20))
cow() { cow-client $COW_DIR "$@"; }
is_another() {
        local now
        now=$(timeout 5 cow-client $COW_DIR status | json .server_pid) && [ "$now" != "$1" ]
}

trace=/sys/kernel/tracing
mountpoint -q $trace || mount -t tracefs tracefs $trace
echo 0 >$trace/tracing_on
echo 8192 >$trace/buffer_size_kb
echo mono >$trace/trace_clock # one order for both processors
echo 1 >$trace/events/block/block_bio_queue/enable
number() { lsblk -dno MAJ:MIN "$1" | tr -d ' ' | tr : ,; }
of_origin=$(number "$slow") of_disk=$(number "$(readlink -f "$d1")")

sent() { grep -c " block_bio_queue: $of_origin W" $trace/trace || :; }

# order DEAD: of the trace: writes under way at the kill of the server DEAD, and when the next one sent its first
order() {
        awk -v origin="$of_origin" -v disk="$of_disk" -v pid="$1" -v dead="(iou-wrk|vss-cow)-$1(-[0-9]+)?$" '
                $0 ~ " tracing_mark_write: kill " pid "$" { killed = 1; at_kill = sent - landed }
                !/ block_bio_queue: / { next }
                { for (i = 1; $i != "block_bio_queue:"; i++); device = $(i + 1); is_write = $(i + 2) ~ /W/ && $(i + 5) > 0 }
                is_write && device == disk { landed++ }
                is_write && device == origin {
                        if (killed && $1 !~ dead) { print at_kill, sent - landed; found = 1; exit }
                        sent++
                }
                END { exit !found }' $trace/trace
}

# one_kill FRONTEND: of what serves device; adds to held
one_kill() {
        local dead at_kill at_first already
        already=$(sent)
        enough() { [ "$(sent)" -gt $((already + 40)) ]; }
        wait_until 40 enough || die "no writes are sent to the origin"
        dead=$(cow status | json .server_pid)
        echo "kill $dead" >$trace/trace_marker
        kill -KILL "$dead"
        wait_until 60 is_another "$dead" || die "no server after the death of $dead"
        wait_until 30 order "$dead" >/dev/null || die "the new server sends nothing to the origin"
        read -r at_kill at_first < <(order "$dead")
        note "$1: $at_kill writes were under way at the kill, $at_first when the next server sent its first"
        expect_equal 0 "$at_first" "writes of the dead server that had not landed when the next one sent its first"
        held=$((held + at_kill))
}

rounds() { # rounds FRONTEND COUNT
        local device i stop=$VSS_TEST_DIR/stop verify held=0
        /usr/libexec/vss/vss-cow serve --store="$area/store" --directory=$COW_DIR --frontend="$1"
        [ -n "$(cow volumes | jq -r '.volumes[].name')" ] || cow volume-create name=v origin="$slow" >/dev/null
        device=$(cow volume-attach name=v | json .device)
        rm -f "$stop"
        echo >$trace/trace
        echo 1 >$trace/tracing_on
        cow-verify write "$device" $blocks 32 "$stop" >"$VSS_TEST_DIR/versions" 2>&1 &
        verify=$!
        for ((i = 0; i < $2; i++)); do one_kill "$1"; done
        : >"$stop"
        echo 0 >$trace/tracing_on
        wait $verify || die "cow-verify by $1: $(cat "$VSS_TEST_DIR/versions")"
        note "$1: $(tail -n 1 "$VSS_TEST_DIR/versions"); $held writes were under way at $2 kills"
        grep -q " 0 bad blocks, 0 I/O errors" "$VSS_TEST_DIR/versions" || die "cow-verify by $1: $(cat "$VSS_TEST_DIR/versions")"
        [ $held -gt 0 ] || die "there was nothing under way at any kill: this shows nothing"
        cow-verify read "$device" $blocks
        cow stop >/dev/null
        wait_until 40 [ ! -e "/proc/$(cat $COW_DIR/lock)" ]
}

rounds ublk 2
rounds fuse 2
