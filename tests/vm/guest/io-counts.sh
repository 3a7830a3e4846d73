#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a client's write costs in requests to the disks, since times mean nothing under emulation: the same fio job, 4 KiB random
# first overwrites with one snapshot, on an engine volume (ublk), a thick one (dm-snapshot) and a thin one (dm-thin), counted
# by the kernel for every disk below them. The engine must not need more writes or flushes than dm-snapshot.
# disks: 16M 128M 16M 64M 64M 16M
# seconds: 180
# programs: cow-client
. "$(dirname "$0")/functions.sh"

modprobe -a ublk_drv dm_snapshot dm_thin_pool
for d in d0 d1 d2 d3 d4 d5; do declare "$d=$(readlink -f "${!d}")"; done
COW_DIR=/run/cow
cow() { cow-client $COW_DIR "$@"; }
size=$((16 << 20)) sectors=$((16 << 11))
TABLE=$VSS_TEST_DIR/table
printf '%-12s %5s %9s %9s %9s %9s %12s\n' "" depth reads writes flushes merged "KiB written" >"$TABLE"

write_all() { fio --name=fill --filename="$1" --ioengine=libaio --direct=1 --rw=write --bs=1M --size=$size --minimal >/dev/null; }

# counted DISK…: reads, merged writes, writes, sectors written, flushes, of all of them so far
counted() {
        local d
        for d in "$@"; do cat "/sys/block/$(basename "$(readlink -f "$d")")/stat"; done |
                awk '{ r += $1; m += $6; w += $5; s += $7; f += $16 } END { print r, m, w, s, f }'
}

# measure NAME DEVICE DISK…: both jobs, each on blocks of its own. Into "writes_NAME_DEPTH" and "flushes_NAME_DEPTH", per
# thousand writes of the client.
measure() {
        local name=$1 device=$2 depth offset=0 n before after client
        shift 2
        for depth in 32 1; do
                n=$((depth == 32 ? 2048 : 512))
                sync
                read -ra before < <(counted "$@")
                client=$(awk '{ print $5 }' "/sys/block/$(basename "$(readlink -f "$device")")/stat")
                fio --name=job --filename="$device" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=$depth --randseed=7 \
                        --offset=$offset --size=$((n * 4096)) --minimal >/dev/null
                sleep 1 # what is done about it afterwards counts, too
                read -ra after < <(counted "$@")
                client=$(($(awk '{ print $5 }' "/sys/block/$(basename "$(readlink -f "$device")")/stat") - client))
                [ $client -ge $n ] && [ $client -lt $((n + 50)) ] || die "$name had $client writes from a job of $n"
                awk -v name="$name" -v depth=$depth -v n=$n -v b="${before[*]}" -v a="${after[*]}" 'BEGIN {
                        split(b, x); split(a, y)
                        printf "%-12s %5d %9.3f %9.3f %9.3f %9.3f %12.2f\n", name, depth, (y[1] - x[1]) / n, (y[3] - x[3]) / n,
                                (y[5] - x[5]) / n, (y[2] - x[2]) / n, (y[4] - x[4]) / 2 / n }' >>"$TABLE"
                declare -g "writes_${name//-/_}_$depth=$(((after[2] - before[2]) * 1000 / n))"
                declare -g "flushes_${name//-/_}_$depth=$(((after[4] - before[4]) * 1000 / n))"
                offset=$((offset + n * 4096))
        done
}

/usr/libexec/vss/vss-cow format --store="$d1" --size=$((128 << 20))
/usr/libexec/vss/vss-cow serve --store="$d1" --directory=$COW_DIR
expect_equal ublk "$(cow status | json .frontend)" "the front end"
cow volume-create name=v origin="$d0" >/dev/null
engine=$(cow volume-attach name=v | json .device)
write_all "$engine"
cow gate v >/dev/null
measure engine "$engine" "$d0" "$d1"

# as lvcreate -s makes it: the origin's own target, and a persistent store with chunks of 4 KiB
write_all "$d2"
dmsetup create thick --notable
dmsetup load thick --table "0 $sectors snapshot-origin $d2"
dmsetup create thick-copy --table "0 $sectors snapshot $d2 $d3 P 8"
dmsetup resume thick
measure dm-snapshot /dev/mapper/thick "$d2" "$d3"

# the smallest blocks that a pool can have, 64 KiB
dmsetup create pool --table "0 $(blockdev --getsz "$d4") thin-pool $d5 $d4 128 0"
dmsetup message pool 0 "create_thin 0"
dmsetup create thin --table "0 $sectors thin /dev/mapper/pool 0"
write_all /dev/mapper/thin
dmsetup suspend thin
dmsetup message pool 0 "create_snap 1 0"
dmsetup resume thin
measure dm-thin /dev/mapper/thin "$d4" "$d5"

cat "$TABLE" >&2
for depth in 32 1; do
        for what in writes flushes; do
                ours=${what}_engine_$depth theirs=${what}_dm_snapshot_$depth
                [ "${!ours}" -le "${!theirs}" ] ||
                        die "at depth $depth the engine needs ${!ours} $what for 1000 of the client, dm-snapshot ${!theirs}"
        done
        ours=writes_engine_$depth
        [ "${!ours}" -ge 1000 ] || die "${!ours} writes for 1000 of the client: they were not counted"
done
cow stop >/dev/null
