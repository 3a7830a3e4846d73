#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Hazards D7, D13: a server is killed with writes under way that reach the origin's disk a fifth of a second later. Its
# successor must not take a request before the last of them has landed: else an old version of a block lands on a newer
# one, which cow-verify sees. The origin is a block device behind dm-delay, once with ublk and once with FUSE. (On Linux 6.12
# two things see to that: the origin is claimed anew, and a process ends only when its io_uring requests have. This passes
# with either of them.)
# disks: 1G 128M
# known: it ran by hand only, not to its end in this lane
# seconds: 300
# programs: cow-verify cow-client
. "$(dirname "$0")/functions.sh"

modprobe -a ublk_drv dm_delay
new_fs area ext4 "$d0"
COW_DIR=/run/cow
blocks=256
cow-verify fill "$d1" $blocks # the origin is a plain image, and quick as long as nobody delays it
sectors=$(blockdev --getsz "$d1")
dmsetup create slow --table "0 $sectors delay $d1 0 0 $d1 0 200"
slow=/dev/$(dmsetup info -c --noheadings -o blkdevname slow)
/usr/libexec/vss/vss-cow format --store="$area/store" --size=$((128 << 20))
cow() { cow-client $COW_DIR "$@"; }
is_another() {
        local now
        now=$(timeout 5 cow-client $COW_DIR status | json .server_pid) && [ "$now" != "$1" ]
}

# under_way DEVICE: writes that wait for the disk (dm-delay does not count those it holds back)
under_way() { awk '{ print $2 }' "/sys/block/${1##*/}/inflight"; }

rounds() { # rounds FRONTEND COUNT
        local device dead i stop=$VSS_TEST_DIR/stop verify held=0 begin slowest=0 took
        /usr/libexec/vss/vss-cow serve --store="$area/store" --directory=$COW_DIR --frontend="$1"
        [ -n "$(cow volumes | jq -r '.volumes[].name')" ] || cow volume-create name=v origin="$slow" >/dev/null
        device=$(cow volume-attach name=v | json .device)
        rm -f "$stop"
        cow-verify write "$device" $blocks 32 "$stop" >"$VSS_TEST_DIR/versions" 2>&1 &
        verify=$!
        for ((i = 0; i < $2; i++)); do
                sleep "1.$((RANDOM % 10))"
                dead=$(cow status | json .server_pid)
                held=$((held + $(under_way "$device")))
                begin=$(date +%s%3N)
                kill -KILL "$dead"
                wait_until 60 is_another "$dead" || die "no server after the death of $dead"
                took=$(($(date +%s%3N) - begin))
                [ $took -le $slowest ] || slowest=$took
        done
        : >"$stop"
        wait $verify || die "cow-verify by $1: $(cat "$VSS_TEST_DIR/versions")"
        note "$1: $(tail -n 1 "$VSS_TEST_DIR/versions"); $held writes were under way at $2 kills; at most $slowest ms to the next answer"
        grep -q " 0 bad blocks, 0 I/O errors" "$VSS_TEST_DIR/versions" || die "cow-verify by $1: $(cat "$VSS_TEST_DIR/versions")"
        [ $held -gt 0 ] || die "there was nothing under way at any kill: this shows nothing"
        cow-verify read "$device" $blocks
        cow stop >/dev/null
        wait_until 20 [ ! -e "/proc/$(cat $COW_DIR/lock)" ]
}

rounds ublk 6
rounds fuse 6
