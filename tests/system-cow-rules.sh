#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a set over engine volumes promises: names mean volumes, mount depth is no stacking, a volume without a file system
# that was held is called crash and nothing better, sets over several stores are all or nothing, and whatever the
# provider's process does in the window, no gate stays closed and nothing half made stays behind.
export VSS_TEST_SECONDS=400
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 jq
watchdog 390

engine_area area
start_bus
printf '[Timeouts]\nhold=2\n' >"$CONFIGURATION_DIRECTORY/vssd.conf"
start_vssd

# with the environment it has now
restart_vssd() {
        stop_vssd
        start_vssd
}

field() { vssctl --json volume list | jq -er --arg n "$1" ".volumes[] | select(.name == \$n) | $2"; }
engine() { "$VSS_SOURCE/tests/cow-control" "$RUNTIME_DIRECTORY/cow/$(field "$1" .storage)" "${@:2}"; }

# volume NAME STORE: NAME becomes its device
volume() {
        truncate -s 48M "$area/$1.img"
        vssctl volume create "$1" --origin="$area/$1.img" --store="$area/$2" --store-max=256M >/dev/null ||
                vssctl volume create "$1" --origin="$area/$1.img" --store="$area/$2" >/dev/null
        printf -v "$1" %s "$(field "$1" .device)"
        cleanup_fn drop_volume "$1"
}

drop_volume() {
        local own=
        # the case may have ended with its vssd
        kill -0 "$VSSD_PID" 2>/dev/null || { start_vssd && own=yes; }
        delete_all
        vssctl volume detach "$1" >/dev/null
        vssctl volume remove --force "$1" >/dev/null
        rm -f "$area/$1.img"
        [ -z "$own" ] || stop_vssd
}

# mounted NAME [DIRECTORY]: ext4 on it, at MNT
mounted() {
        MNT=${2:-$VSS_TEST_DIR/m-$1}
        mkdir -p "$MNT"
        mkfs.ext4 -q -F "${!1}"
        mount "${!1}" "$MNT"
        cleanup_fn umount "$MNT"
}

case_names_mean_volumes() {
        local id
        volume named one
        mounted named
        echo old >"$MNT/file"
        create named
        expect_equal named "$(set_field '.snapshots[0].volume')" "volume, as it was given"
        expect_equal "$MNT" "$(set_field '.snapshots[0].mountpoint')" "where it is"
        id=$(set_field '.snapshots[0].id')
        vssctl --json plan named >/dev/null || die "a name cannot be planned"
        vssctl --json show named >/dev/null || die "a name cannot be shown"
        expect_equal "$id" "$(vssctl --json snapshots --volume=named | jq -r '.snapshots[].id')" "snapshots of a name"
        expect_equal old "$(vssctl run named -- cat "$MNT/file")" "in the copy of run"
        vssctl delete --volume=named --all >/dev/null
        no_snapshots "after delete by name"
}

case_a_mount_below_another_is_no_stack() {
        local outer_at
        volume outer one
        volume inner one
        mounted outer && outer_at=$MNT
        mounted inner "$outer_at/inner"
        create "$outer_at" "$MNT"
        expect_equal "filesystem filesystem" "$(set_field '[.snapshots[].consistency] | join(" ")')" "levels"
        create --nested "$outer_at"
        expect_equal 2 "$(set_field '.snapshots | length')" "volumes of a nested set"
        delete_all
}

case_what_nobody_held_is_crash() {
        local id dev copy=$VSS_TEST_DIR/copy
        truncate -s 1M "$area/foreign.img"
        mkdir -p "$copy"
        volume raw one
        mkfs.ext4 -q -F "$raw"
        create raw
        id=$(set_field '.snapshots[0].id')
        expect_equal crash "$(set_field '.snapshots[0].consistency')" "level of a volume that is not mounted"
        vssctl mount "$id" "$copy" >/dev/null || die "the copy of a clean file system cannot be mounted"
        vssctl umount "$id" >/dev/null
        refuse 9 --require=filesystem raw
        create --nested raw
        expect_equal 1 "$(set_field '.snapshots | length')" "volumes below one that is not mounted"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        expect_exit 125 vssctl run raw -- true 2>"$VSS_TEST_DIR/said"
        grep -q "none of the volumes is mounted" "$VSS_TEST_DIR/said" || die "run says: $(cat "$VSS_TEST_DIR/said")"

        note "its name is not that of a device, which may be another's tomorrow"
        expect_equal "$RUNTIME_DIRECTORY/dev/raw" "$(vssctl --json show "$id" | json .mountpoint)" "its name"
        expect_equal engine "$(vssctl --json show raw | json .kind)" "its kind"
        vssctl volume detach raw >/dev/null
        dev=$(losetup --find --show "$area/foreign.img")
        cleanup_fn losetup -d "$dev"
        raw=$(vssctl --json volume attach raw | json .device)
        expect_equal "$id" "$(vssctl --json snapshots --volume=raw | jq -r '.snapshots[].id')" "its copies, attached again"
        delete_all

        note "what FIFREEZE cannot hold is refused, mounted as it is: a gate alone does not stop its writers"
        command -v mkfs.vfat >/dev/null || { note "no mkfs.vfat"; return 0; }
        mkfs.vfat "$raw" >/dev/null
        mkdir -p "$VSS_TEST_DIR/vfat"
        mount -t vfat "$raw" "$VSS_TEST_DIR/vfat" || { note "no vfat here"; return 0; }
        cleanup_fn umount "$VSS_TEST_DIR/vfat"
        refuse 10 "$VSS_TEST_DIR/vfat"
}

# write_soon FILE…: writes go through, now
write_soon() { timeout 5 sh -c 'for f; do echo x >"$f" && sync "$f"; done' sh "$@" || die "something stands still after $FAULT"; }

case_no_gate_stays_closed_whatever_fails() {
        local a b status
        volume left one
        volume right two
        volume bare two
        mounted left && a=$MNT
        mounted right && b=$MNT
        for FAULT in hold:fail hold:hang hold:die commit:fail commit:hang commit:die release:fail release:hang release:die \
                post-commit:fail post-commit:die clear-mark:fail clear-mark:die commit:delay=2500; do
                VSS_FAULT=$FAULT:1 restart_vssd
                status=0
                timeout 60 "$VSS_BUILD/client/vssctl" --json create --provider=fault:cow --no-writers "$a" "$b" bare \
                        >"$VSS_TEST_DIR/out" 2>&1 || status=$?
                write_soon "$a/file" "$b/file"
                case $status in 1 | 5 | 6) ;; *) die "$FAULT ended with $status: $(cat "$VSS_TEST_DIR/out")" ;; esac
                for v in left right bare; do
                        expect_equal false "$(engine $v volumes | json ".volumes[] | select(.name == \"$v\") | \"\\(.gated)\"")" "gate of $v after $FAULT"
                        expect_equal 0 "$(field $v .snapshots)" "copies of $v after $FAULT"
                done
                no_snapshots "after $FAULT"
                create --provider=fault:cow --no-writers "$a" "$b" bare
                delete_all
        done
}

control() { "$VSS_SOURCE/tests/cow-control" "$RUNTIME_DIRECTORY/cow/$1" "${@:2}"; }
pending() { control "$1" list set='""' from=0 | jq -r '[.snapshots[].pending | tostring] | join(" ")'; }

# killed_before_clear_mark VOLUME…: vssd dies with the copies of KILLED in both stores, which still carry the mark
killed_before_clear_mark() {
        local pid
        STORE_HERE=$(field here .storage) STORE_THERE=$(field there .storage)
        VSS_FAULT=clear-mark:hang restart_vssd
        vssctl create --provider=fault:cow --no-writers "$@" >/dev/null 2>&1 &
        pid=$!
        both() { [ "$(pending "$STORE_HERE") $(pending "$STORE_THERE")" = "true true" ]; }
        wait_until 10 both || die "there are no copies with marks"
        KILLED=$(control "$STORE_HERE" list set='""' from=0 | jq -r '.snapshots[0].set')
        kill -KILL "$VSSD_PID"
        wait "$VSSD_PID" "$pid" 2>/dev/null || true
        wait_until 5 eval '! pgrep -x "vss-provider-ho|vss-store" >/dev/null'
}

# The note that a set over two stores is good is what decides; a store that did not hear of it yet hears of it later.
case_a_set_over_two_stores_is_all_or_nothing() {
        local a b
        kill -0 "$VSSD_PID" 2>/dev/null || start_vssd
        volume here one
        volume there two
        mounted here && a=$MNT
        mounted there && b=$MNT
        create --no-writers "$a" "$b"
        expect_equal "1 1" "$(field here .snapshots) $(field there .snapshots)" "copies in each store"
        [ -z "$(ls "$STATE_DIRECTORY/cow/finished")" ] || die "a note is left: $(ls "$STATE_DIRECTORY/cow/finished")"
        restart_vssd
        expect_equal 2 "$(vssctl --json snapshots | jq '.snapshots | length')" "copies after a restart"
        delete_all
        expect_equal "0 0" "$(field here .snapshots) $(field there .snapshots)" "copies after delete"

        note "killed before it was decided: nothing is left"
        killed_before_clear_mark "$a" "$b"
        start_vssd
        no_snapshots "of a set that was never finished"
        expect_equal "0 0" "$(field here .snapshots) $(field there .snapshots)" "copies that were never finished"

        note "killed when it was decided and one store knew: both have it"
        killed_before_clear_mark "$a" "$b"
        : >"$STATE_DIRECTORY/cow/finished/$KILLED"
        control "$STORE_HERE" clear-mark set="$KILLED" >/dev/null
        start_vssd
        expect_equal "$KILLED $KILLED" "$(vssctl --json snapshots | jq -r '[.snapshots[].set] | join(" ")')" "sets of the copies"
        expect_equal 'false false' "$(pending "$STORE_HERE") $(pending "$STORE_THERE")" "marks"
        [ -z "$(ls "$STATE_DIRECTORY/cow/finished")" ] || die "the note is left"
        delete_all
}

cases names_mean_volumes a_mount_below_another_is_no_stack what_nobody_held_is_crash \
        no_gate_stays_closed_whatever_fails a_set_over_two_stores_is_all_or_nothing
