#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copies that leave out what the file system had free ([Copies] skip_free, the default), with the service and the engine as they
# are: what new files cost under a copy, counted at the devices; that older copies keep what was deleted since; and that
# nothing is left out where the answer of the file system cannot be relied on.
export VSS_TEST_SECONDS=200
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.xfs jq cmp filefrag
watchdog 190

engine_area area
VSS_IMAGE_DIR=$area new_fs back ext4 2G noatime
dd if=/dev/zero of="$back/full" bs=1M count=1600 status=none # so that no block of the image is new
rm "$back/full"
start_bus
start_vssd

field() { vssctl --json volume list | jq -er --arg n "$1" ".volumes[] | select(.name == \$n) | $2"; }
engine() { "$VSS_SOURCE/tests/cow-control" "$RUNTIME_DIRECTORY/cow/$(field "$1" .storage)" "${@:2}"; }
# skipped VOLUME: for each of its copies in the store, whether it leaves something out
skipped() { engine "$1" list set='""' from=0 | jq -r "[.snapshots[] | select(.volume == \"$1\") | .skips_free] | join(\" \")"; }
preserved() { engine "$1" status | json .preserved_blocks; }
copies_of() { jq -r '.snapshots[].id' "$SET_DOC"; }
# written DEVICE: bytes the kernel has written to it so far
written() { echo $(($(awk '{print $7}' "/sys/block/${1#/dev/}/stat") * 512)); }

# volume NAME SIZE TYPE [MKFS-OPTION…]: its origin is a loop device, its store a file on another; mounted on MNT
volume() {
        local name=$1 size=$2 type=$3
        shift 3
        dd if=/dev/zero of="$area/$name.img" bs=1M count="$size" status=none
        ORIGIN=$(losetup --find --show --direct-io=on "$area/$name.img")
        cleanup_fn losetup -d "$ORIGIN"
        vssctl volume create "$name" --origin="$ORIGIN" --store="$back/store" >/dev/null
        DEVICE=$(field "$name" .device)
        cleanup_fn drop_volume "$name"
        MNT=$VSS_TEST_DIR/$name
        mkdir -p "$MNT"
        "mkfs.$type" -q "$@" "$DEVICE"
        mount -t "$type" "$DEVICE" "$MNT"
        cleanup_fn umount "$MNT"
}

drop_volume() {
        delete_all
        vssctl volume detach "$1" >/dev/null
        vssctl volume remove --force "$1" >/dev/null
}

# new_files_cost_nothing TYPE [MKFS-OPTION…]
new_files_cost_nothing() {
        local client before device mib=96 blocks n files
        volume grown 320 "$@"
        head -c 8M /dev/urandom >"$MNT/old"
        sync -f "$MNT"
        create "$MNT"
        expect_equal true "$(skipped grown)" "the copy leaves out what is free"
        sync -f "$back"
        device=$(written "$DEVICE") before=$(($(written "$ORIGIN") + $(written "$back_dev"))) blocks=$(preserved grown)
        for n in {1..12}; do # a log that grows, with a sync every 8 MiB
                head -c $((mib / 12))M /dev/urandom >>"$MNT/log"
                sync "$MNT/log"
        done
        sync -f "$MNT"
        client=$(($(written "$DEVICE") - device)) before=$(($(written "$ORIGIN") + $(written "$back_dev") - before))
        blocks=$(($(preserved grown) - blocks))
        note "$1: $((client >> 10)) KiB written into the device, $((before >> 10)) KiB to origin and store: $((before * 1000 / client)) in 1000; $blocks blocks preserved"
        [ "$client" -ge $((mib << 20)) ] || die "the device saw only $client bytes"
        [ $((before * 100)) -le $((client * 105)) ] || die "origin and store saw $before bytes for $client"

        note "none of the preserved blocks is the file's"
        filefrag -v -b4096 "$MNT/log" | awk -F'[ .:]+' '/^ *[0-9]+:/ {print $5, $6}' >"$VSS_TEST_DIR/extents"
        [ -s "$VSS_TEST_DIR/extents" ] || die "filefrag says nothing"
        umount "$MNT"
        engine grown checkpoint >/dev/null
        vssctl volume detach grown >/dev/null
        engine grown stop >/dev/null || true
        wait_until 10 eval '! pgrep -f "vss-cow.*$back/store" >/dev/null'
        files=$(preserved_in "$back/store" grown "$VSS_TEST_DIR/extents")
        expect_equal 0 "$files" "blocks of the new file that were preserved"
        vssctl volume attach grown >/dev/null
        mount "$(field grown .device)" "$MNT"
}

# preserved_in STORE VOLUME EXTENTS: how many preserved blocks of the volume lie in these extents
preserved_in() {
        local run
        for run in $("$VSS_BUILD/providers/cow/vss-cow" dump "$1" --json runs | jq -r '.runs[].number'); do
                "$VSS_BUILD/providers/cow/vss-cow" dump "$1" --json run "$run"
        done | jq -r '.entries[].volblock | sub(":"; " ")' >"$VSS_TEST_DIR/entries"
        [ -s "$VSS_TEST_DIR/entries" ] || die "the store has no entries"
        awk 'NR == FNR {from[NR] = $1; to[NR] = $2; n = NR; next}
             {for (i = 1; i <= n; i++) if ($2 >= from[i] && $2 <= to[i]) {hits++; print "hit:", $0, from[i], to[i] >"/dev/stderr"}}
             END {print hits + 0}' "$3" "$VSS_TEST_DIR/entries"
}

case_new_files_cost_nothing_on_ext4() { new_files_cost_nothing ext4 -F -b 4096; }
case_new_files_cost_nothing_on_xfs() { new_files_cost_nothing xfs -f; }

copy_has() { # COPY FILE SUM
        mkdir -p "$VSS_TEST_DIR/copy"
        vssctl mount "$1" "$VSS_TEST_DIR/copy" >/dev/null
        expect_equal "$3" "$(sha256sum <"$VSS_TEST_DIR/copy/$2")" "$2 in the copy $1"
        vssctl umount "$1" >/dev/null
}

case_what_was_deleted_stays_in_older_copies() {
        local first third a b pid
        volume kept 128 ext4 -F
        head -c 24M /dev/urandom >"$MNT/a"
        a=$(sha256sum <"$MNT/a")
        create "$MNT" && first=$(copies_of)
        rm "$MNT/a"
        create "$MNT"
        head -c 200M /dev/urandom 2>/dev/null >"$MNT/b" || true # all that is free
        sync -f "$MNT"
        truncate -s 60M "$MNT/b"
        b=$(sha256sum <"$MNT/b")
        create "$MNT" && third=$(copies_of)
        pid=$(engine kept status | json .server_pid)
        kill -KILL "$pid"
        wait_until 10 eval '[ "$(engine kept status | json .server_pid)" != "$pid" ]'
        rm "$MNT/b"
        head -c 200M /dev/urandom 2>/dev/null >"$MNT/c" || true
        sync -f "$MNT"
        expect_equal "true true true" "$(skipped kept)" "copies that leave something out"
        copy_has "$first" a "$a"
        copy_has "$third" b "$b"
}

case_everything_is_preserved_where_the_answer_cannot_be_relied_on() {
        local sum id
        volume plain 64 ext4 -F -O ^has_journal
        head -c 30M /dev/urandom >"$MNT/gone"
        rm "$MNT/gone"
        create "$MNT"
        expect_equal false "$(skipped plain)" "skipped, ext4 without a journal"
        id=$(copies_of)
        umount "$MNT"
        sum=$(dd if="$DEVICE" bs=1M iflag=direct status=none | sha256sum) # with what is free
        mount "$DEVICE" "$MNT"
        dd if=/dev/urandom of="$MNT/new" bs=1M count=40 status=none conv=fsync
        note "a device without a file system, and a partition"
        umount "$MNT"
        wipefs -qa "$DEVICE"
        create plain
        expect_equal "false false" "$(skipped plain)" "skipped, no file system"
        expect_exit 0 vssctl delete "$id" >/dev/null
        mkfs.ext4 -q -F "$DEVICE"
        mount "$DEVICE" "$MNT"
        [ -n "$sum" ]
}

case_as_it_is_where_the_administrator_says_so() {
        printf '[Copies]\nskip_free=no\n' >"$CONFIGURATION_DIRECTORY/vssd.conf"
        kill -HUP "$VSSD_PID"
        sleep 0.3
        volume whole 64 ext4 -F
        create "$MNT"
        expect_equal false "$(skipped whole)" "skipped, with skip_free=no"
}

cases new_files_cost_nothing_on_ext4 new_files_cost_nothing_on_xfs what_was_deleted_stays_in_older_copies \
        everything_is_preserved_where_the_answer_cannot_be_relied_on as_it_is_where_the_administrator_says_so
