#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 of the server under load, at every moment of its life: nobody gets an error, nothing that was acknowledged is
# lost, and every snapshot stays what it was. The slots of a naive server lose here: an acknowledged write is carried out
# again over a newer one (two in eight kills), and a read of the kernel's requests that is cut short becomes EIO.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/cow.sh"
requires fio mkfs.ext4
watchdog 500

stop=$VSS_TEST_DIR/stop
log=$VSS_TEST_DIR/log
names=(fio one many files)
blocks=4096 # of the volumes with versions: 16 MiB

unmount_files() { ! mountpoint -q "$VSS_TEST_DIR/mnt" || umount "$VSS_TEST_DIR/mnt"; }
load_end() { kill "$1" 2>/dev/null || :; }

# load NAME COMMAND…: in the background until $stop exists, and then its status counts
declare -A load
load() {
        local name=$1
        shift
        "$@" >"$log/$name.log" 2>&1 &
        load[$name]=$!
        cleanup_fn load_end "$!"
}

end_loads() {
        local name
        touch "$stop"
        for name in "${!load[@]}"; do
                wait "${load[$name]}" || die "the load $name failed: $(tail -n 5 "$log/$name.log")"
                note "$name: $(tail -n 1 "$log/$name.log")"
        done
        load=()
        rm "$stop"
}

note "the checker notices one lost write"
truncate -s 4M "$COW_DISK/plain"
verify fill "$COW_DISK/plain" 1024
expect_exit 1 timeout 60 "$VSS_BUILD/tests/cow-verify" write "$COW_DISK/plain" 1024 1 "$stop" 200 >"$log/planted" 2>&1
grep -q 'an old version: an acknowledged write is lost' "$log/planted" || die "it did not: $(cat "$log/planted")"

cow_format 1073741824
cow_serve
declare -A device
device[fio]=$(cow_volume fio $((32 << 20)))
device[one]=$(cow_volume one $((blocks << 12)))
device[many]=$(cow_volume many $((blocks << 12)))
device[files]=$(cow_volume files $((128 << 20)))
verify fill "${device[one]}" $blocks
verify fill "${device[many]}" $blocks
mkfs.ext4 -q "${device[files]}"
mkdir "$VSS_TEST_DIR/mnt"
mount "${device[files]}" "$VSS_TEST_DIR/mnt"
cleanup_fn unmount_files

# ---- snapshots ---------------------------------------------------------------------------------------------------

shown=() # devices of snapshots …
was=()   # … and what was on them when they were made

# snapshot: of all volumes at once
snapshot() {
        local id d
        for id in $(cow_set "${names[@]}"); do
                d=$(expose "$id")
                shown+=("$d")
                was+=("$(content "$d")")
        done
}

snapshots_are_exact() {
        local i
        for i in "${!shown[@]}"; do
                [ "${was[i]}" = "$(content "${shown[i]}")" ] && continue
                cow status >&2
                cow list set= from=0 >&2
                die "the content of snapshot $i (${shown[i]}) has changed"
        done
}

read_snapshots() {
        while ! [ -e "$stop" ]; do snapshots_are_exact; done
        echo "all good"
}

write_files() {
        local n=0 dir=$VSS_TEST_DIR/mnt
        while ! [ -e "$stop" ]; do
                n=$((n + 1))
                dd if=/dev/urandom of="$VSS_TEST_DIR/piece" bs=64k count=$((1 + n % 16)) status=none
                cp "$VSS_TEST_DIR/piece" "$dir/$((n % 60))"
                sync "$dir/$((n % 60))"
                (cd "$VSS_TEST_DIR" && sha256sum piece | sed "s/piece/$((n % 60))/") >"$VSS_TEST_DIR/sums.$((n % 60))"
        done
        echo "$n files"
}

check_files() {
        umount "$VSS_TEST_DIR/mnt"
        e2fsck -fn "${device[files]}" >"$log/fsck" 2>&1 || die "the file system is damaged: $(cat "$log/fsck")"
        mount "${device[files]}" "$VSS_TEST_DIR/mnt"
        cat "$VSS_TEST_DIR"/sums.* >"$VSS_TEST_DIR/sums"
        (cd "$VSS_TEST_DIR/mnt" && sha256sum --quiet -c "$VSS_TEST_DIR/sums") || die "a file is not what was written"
}

start_loads() {
        load one verify write "${device[one]}" $blocks 1 "$stop"
        load many verify write "${device[many]}" $blocks 32 "$stop"
        load files write_files
        load snapshots read_snapshots
}

snapshot
for i in "${!names[@]}"; do
        sync "${device[${names[i]}]}"
        [ "${names[i]}" = files ] || expect_equal "$(content "${device[${names[i]}]}")" "${was[i]}" "the first snapshot of ${names[i]}"
done

# ---- kills -------------------------------------------------------------------------------------------------------

kills=0
# series COUNT WHEN MAX-USEC
series() {
        verify kill "$COW_HOLDER" "$1" "$2" "$3" "$COW_DIR" >&2
        kills=$((kills + $1))
}

for round in 1 2 3; do
        note "round $round: everything at once"
        start_loads
        load fio fio --name=verify --filename="${device[fio]}" --rw=randwrite --bsrange=512-64k --blockalign=512 --direct=1 \
                --ioengine=libaio --iodepth=32 --size=32m --verify=crc32c --verify_state_save=0 --verify_backlog=64 --verify_fatal=1 \
                --time_based --runtime=$((round == 1 ? 8 : 12)) --output-format=terse
        series 20 service 100000
        snapshot
        series 14 service 5000
        series 14 start 100000
        end_loads
        check_files
        snapshots_are_exact
done

note "one writer at queue depth 1, nothing else"
load one verify write "${device[one]}" $blocks 1 "$stop"
series 30 service 5000
end_loads
snapshots_are_exact
verify read "${device[one]}" $blocks >&2
verify read "${device[many]}" $blocks >&2

note "$kills kills, ${#shown[@]} snapshots exact"
[ $kills -ge 100 ] || die "only $kills kills"
no_device_errors
umount "$VSS_TEST_DIR/mnt"
for id in $(cow list set= from=0 | jq -r '.snapshots[].id'); do cow hide id="$id" >/dev/null; done
cow_stop
"$VSS_COW" check "$COW_STORE" >&2 || die "the store is not clean"
