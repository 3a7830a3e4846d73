#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The holder dies with its server: who is at the device may get an error, as with a power cut; but what was acknowledged
# and flushed is there afterwards, snapshots are exact, and what is left of the dead one is cleared away.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/cow.sh"
requires mkfs.ext4
watchdog 240

mnt=$VSS_TEST_DIR/mnt
mkdir "$mnt"
blocks=4096
stop=$VSS_TEST_DIR/stop
cow_format $((512 << 20))
cow_serve
raw=$(cow_volume raw $((blocks << 12)))
files=$(cow_volume files $((128 << 20)))
verify fill "$raw" $blocks
mkfs.ext4 -q "$files"

note "what the holder and its server run is in memory, and stays there"
unlocked() { awk '/^[0-9a-f]+-/ { mode = $2; name = $6 } /^VmFlags/ && !/ lo / && mode ~ /x/ && name ~ /^\// { print name }' "/proc/$1/smaps"; }
if ldd "$VSS_COW" | grep -q asan; then
        note "not with a sanitizer, which turns mlockall into nothing"
else
        expect_equal "" "$(unlocked "$COW_HOLDER")" "what of the holder is not locked"
        expect_equal "" "$(unlocked "$(status_of .server_pid)")" "what of the server is not locked"
fi
expect_equal 1 "$(grep -c memfd:vss-cow "/proc/$(status_of .server_pid)/maps")" "how often the server maps what it shares"

note "a second one is refused"
second() {
        local got=0
        "$VSS_COW" serve --store="$COW_STORE" --directory="$1" 2>"$VSS_TEST_DIR/second" || got=$?
        expect_equal 8 $got "the status of a second serve"
        note "$(tail -n 1 "$VSS_TEST_DIR/second")"
}
second "$COW_DIR"
second "$VSS_TEST_DIR/elsewhere"
expect_equal "$raw" "$(cow volume-attach name=raw | json .device)" "the device after that"

declare -A was
snapshot() {
        local id d
        for id in $(cow_set raw files); do
                d=$(expose "$id")
                was[$id]=$(content "$d")
                cow hide id="$id" >/dev/null
        done
}

snapshots_are_exact() {
        local id d
        for id in "${!was[@]}"; do
                d=$(expose "$id")
                expect_equal "${was[$id]}" "$(content "$d")" "the content of snapshot $id"
                cow hide id="$id" >/dev/null
        done
}

ours() { # loop devices of this store that there are
        local d n=0
        for d in /sys/block/loop*/loop/backing_file; do
                case $(cat "$d" 2>/dev/null) in "/raw" | "/files" | "/${id:-none}") n=$((n + 1)) ;; esac
        done
        echo $n
}

kept=$VSS_TEST_DIR/kept
mkdir "$kept"
for round in 1 2 3; do
        note "round $round"
        raw=$(cow volume-attach name=raw | json .device)
        files=$(cow volume-attach name=files | json .device)
        mount "$files" "$mnt"
        cp "$kept"/* "$mnt" 2>/dev/null || :
        dd if=/dev/urandom of="$kept/$round" bs=1M count=8 status=none
        cp "$kept/$round" "$mnt"
        sync -f "$mnt"
        snapshot
        id=$(cow_set raw)
        shown=$(expose "$id")
        # a device that is held open goes when it is let go
        exec 9<"$shown"
        rm -f "$stop"
        verify write "$raw" $blocks 16 "$stop" >"$VSS_TEST_DIR/log/load.log" 2>&1 &
        load=$!
        (while :; do dd if=/dev/zero of="$mnt/junk" bs=64k count=64 conv=fsync 2>/dev/null || break; done) &
        junk=$!
        sleep 0.7
        kill -KILL "$COW_HOLDER" "$(status_of .server_pid)"
        touch "$stop"
        wait $load && note "the load had luck" || :
        kill $junk 2>/dev/null || :
        wait $junk 2>/dev/null || :
        wait_until 10 umount "$mnt" # the last dd may still be ending
        exec 9<&-
        grep -h "bad blocks" "$VSS_TEST_DIR/log/load.log" >&2
        timeout 60 tail --pid="$COW_HOLDER" -f /dev/null
        expect_exit 0 "$VSS_COW" check "$COW_STORE" --volume-data >"$VSS_TEST_DIR/log/check" 2>&1
        tail -n 1 "$VSS_TEST_DIR/log/check" >&2
        cow_serve
        for _ in {1..40}; do [ -e "/sys/block/${shown##*/}/loop/backing_file" ] || break; sleep 0.05; done
        [ "$(cat "/sys/block/${shown##*/}/loop/backing_file" 2>/dev/null)" != "/$id" ] || die "$shown of the dead holder is still there"
        cow volume-attach name=raw | jq -r '.warning // empty' >&2
        cow volume-attach name=files | jq -r '.warning // empty' >&2
        verify read "$COW_LINKS/raw" $blocks >&2
        snapshots_are_exact
        e2fsck -fp "$COW_LINKS/files" >"$VSS_TEST_DIR/log/fsck" 2>&1 || [ $? -le 1 ] || die "fsck: $(cat "$VSS_TEST_DIR/log/fsck")"
        mount "$COW_LINKS/files" "$mnt"
        for f in "$kept"/*; do cmp "$f" "$mnt/${f##*/}"; done
        umount "$mnt"
done
note "${#was[@]} snapshots exact, $(cow list set= from=0 | jq '[.snapshots[] | select(.unverified)] | length') of $(status_of .snapshots) unverified"

note "a server that dies at once, again and again, does not spin"
ticks() { awk '{print $14 + $15 + $16 + $17}' "/proc/$COW_HOLDER/stat"; }
before=$(ticks)
begin=$SECONDS
verify kill "$COW_HOLDER" 90 start 0 "$COW_DIR" >&2
took=$((SECONDS - begin))
spent=$((($(ticks) - before) * 10))
note "90 deaths took $took s and $spent ms of CPU"
[ $took -ge 4 ] || die "it starts servers as fast as it can"
cow status >/dev/null
cow_stop
expect_exit 0 "$VSS_COW" check "$COW_STORE" >&2
