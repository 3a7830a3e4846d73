#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Volumes of the built-in engine, with the service, the provider and vss-cow as they are: made, attached, detached and
# removed; sets over several of them and over others; and what stays when any of the processes dies.
export VSS_TEST_SECONDS=290
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.xfs mkfs.btrfs jq cmp
watchdog 280

engine_area area
start_bus
mkdir "$area/state" && ln -s "$area/state" "$STATE_DIRECTORY/cow" # the default store must not lie on tmpfs either
start_vssd
store=$area/store

image() { truncate -s "$2" "$area/$1.img"; }
field() { vssctl --json volume list | jq -er --arg n "$1" ".volumes[] | select(.name == \$n) | $2"; }
volumes() { vssctl --json volume list | jq -r '[.volumes[].name] | sort | join(" ")'; }
stores() { vssctl --json storage list | jq -r '.storage | length'; }
engine() { "$VSS_SOURCE/tests/cow-control" "$RUNTIME_DIRECTORY/cow/$(field "$1" .storage)" "${@:2}"; }

# volume NAME SIZE: NAME becomes its device
volume() {
        image "$1" "$2"
        vssctl volume create "$1" --origin="$area/$1.img" --store="$store" >/dev/null
        printf -v "$1" %s "$(field "$1" .device)"
        cleanup_fn drop_volume "$1"
}

drop_volume() {
        [ -e "$area/$1.img" ] || return 0
        delete_all
        if field "$1" .name >/dev/null 2>&1; then
                vssctl volume detach "$1" >/dev/null
                vssctl volume remove --force "$1" >/dev/null
        fi
        rm -f "$area/$1.img"
}

# mounted DEVICE TYPE: a file system on it, mounted; its mount point in MNT
mounted() {
        MNT=$VSS_TEST_DIR/m$((_mounts += 1))
        mkdir -p "$MNT"
        case $2 in
        ext4) mkfs.ext4 -q -F "$1" ;;
        *) "mkfs.$2" -q -f "$1" >/dev/null ;;
        esac
        mount -t "$2" "$1" "$MNT"
        cleanup_fn unmount_all "$MNT"
}
_mounts=0

unmount_all() { while mountpoint -q "$1"; do umount "$1" || return 1; done; }

# says CODE PATTERN COMMAND…: it ends so, and its standard error tells that
says() {
        local want=$1 pattern=$2 got=0
        shift 2
        "$@" >"$VSS_TEST_DIR/said" 2>&1 || got=$?
        [ $got -eq "$want" ] || die "'$*' ended with $got, expected $want: $(cat "$VSS_TEST_DIR/said")"
        grep -q -- "$pattern" "$VSS_TEST_DIR/said" || die "'$*' does not say $pattern but: $(cat "$VSS_TEST_DIR/said")"
}

case_a_store_is_made_joined_or_refused() {
        local id
        volume one 64M
        expect_equal 1 "$(stores)" "stores after the first volume"
        id=$(vssctl --json storage list | json '.storage[0].id')
        expect_equal "$store" "$(vssctl --json storage list | json '.storage[0].path')" "path of the store"
        expect_equal "$id" "$(field one .storage)" "the store of the volume"
        [ "$(vssctl --json storage list | json '.storage[0].max_bytes')" -ge $((1 << 30)) ] || die "the store is smaller than 1 GiB"
        vssctl storage list | grep -q "^$id .* drop-oldest .*$store" || die "storage list says: $(vssctl storage list)"
        volume two 64M
        expect_equal 1 "$(stores)" "stores after a second volume joined"

        image third 64M
        echo "somebody's" >"$area/foreign"
        says 10 'is no store' vssctl volume create third --origin="$area/third.img" --store="$area/foreign"
        expect_equal "somebody's" "$(cat "$area/foreign")" "what lay there"
        : >"$area/empty"
        says 10 'is no store' vssctl volume create third --origin="$area/third.img" --store="$area/empty"
        says 10 'in memory' vssctl volume create third --origin="$area/third.img" --store="$VSS_TEST_DIR/store"
        says 4 "$area/none" vssctl volume create third --origin="$area/third.img" --store="$area/none/store"
        says 7 'larger than what is free' vssctl volume create third --origin="$area/third.img" --store="$area/huge" --store-max=7T
        says 2 'keeps its size' vssctl volume create third --origin="$area/third.img" --store="$store" --store-max=512M
        expect_equal "one two" "$(volumes)" "volumes after what was refused"
        [ ! -e "$area/huge" ] || die "a store that was refused lies there"

        # a size of its own, and the default place
        vssctl volume create third --origin="$area/third.img" --store="$area/small" --store-max=200M >/dev/null
        cleanup_fn drop_volume third
        expect_equal $((200 << 20)) "$(vssctl --json storage list | json ".storage[] | select(.path == \"$area/small\") | .max_bytes")" "its size"
        image fourth 64M
        cleanup_fn drop_volume fourth
        vssctl volume create fourth --origin="$area/fourth.img" >/dev/null
        [ -s "$area/state/store" ] || die "no store where none was named"
}

case_an_origin_in_use_is_refused_with_the_commands_to_run() {
        local mnt=$VSS_TEST_DIR/origin dev commands
        image held 64M
        mkfs.ext4 -q -F "$area/held.img"
        mkdir -p "$mnt"
        mount -o loop "$area/held.img" "$mnt"
        cleanup_fn unmount_all "$mnt"
        echo kept >"$mnt/file"
        says 8 "is mounted on $mnt" vssctl volume create held --origin="$area/held.img" --store="$store"
        expect_equal "" "$(volumes)" "volumes"
        commands=$(sed -n 's/.*; run: //p' "$VSS_TEST_DIR/said" | head -n 1)
        note "$commands"
        eval "$commands"
        cleanup_fn drop_volume held
        cleanup_fn unmount_all "$mnt"
        expect_equal kept "$(cat "$mnt/file")" "the file, after the commands it named"
        expect_equal "$(field held .device)" "$(findmnt -no SOURCE "$mnt")" "what is mounted now"
        # while it is a volume nobody else takes it
        says 8 'origin of volume held' vssctl volume create other --origin="$area/held.img" --store="$store"
        # by whatever name, and for whatever store; nor is a store an origin, or an origin a store
        ln "$area/held.img" "$area/held.link"
        says 8 'origin of volume held' vssctl volume create other --origin="$area/held.link" --store="$area/second"
        [ ! -e "$area/second" ] || die "a store for a volume that was refused"
        image other 64M
        ln "$store" "$area/store.link"
        says 8 'is a store' vssctl volume create other --origin="$area/store.link" --store="$area/second"
        [ ! -e "$area/second" ] || die "a store for a volume that was refused"
        "$VSS_BUILD/providers/cow/vss-cow" format --store="$area/second" --size=$((128 << 20))
        cp --sparse=always "$area/second" "$area/third.img"
        truncate -s 0 "$area/second"
        truncate -s 128M "$area/second"
        vssctl volume create third --origin="$area/second" --store="$store" >/dev/null
        cleanup_fn drop_volume third
        dd if="$area/third.img" of="$(field third .device)" bs=1M conv=fsync status=none
        says 8 'origin of volume third' vssctl volume create other --origin="$area/other.img" --store="$area/second"
        vssctl volume detach third >/dev/null
        says 8 'origin of volume third' vssctl volume create other --origin="$area/other.img" --store="$area/second"
        image loose 64M
        dev=$(losetup --find --show "$area/loose.img")
        cleanup_fn losetup -d "$dev"
        says 8 "losetup -d $dev" vssctl volume create loose --origin="$area/loose.img" --store="$store"
        # the device itself can be an origin
        vssctl volume create loose --origin="$dev" --store="$store" >/dev/null
        cleanup_fn drop_volume loose
        expect_equal "$dev" "$(field loose .origin)" "an origin that is a device"
        mount "$dev" "$mnt" 2>/dev/null && die "the origin of an attached volume can be mounted"
        return 0
}

case_names_sizes_and_front_ends_are_checked() {
        local name size verb
        image some 64M
        for name in '.x' 'a/b' 'a b' '-' "$(printf 'x%.0s' {1..64})"; do
                says 2 name vssctl volume create --origin="$area/some.img" --store="$store" -- "$name"
        done
        for size in 0 12Q -1 x; do
                says 2 'size' vssctl volume create some --origin="$area/some.img" --store-max="$size"
        done
        says 2 'must not be empty' vssctl volume create ''  --origin="$area/some.img"
        says 2 'origin' vssctl volume create some
        says 2 'fuse' vssctl volume create some --origin="$area/some.img" --frontend=nbd
        says 10 'ublk' vssctl volume create some --origin="$area/some.img" --store="$store" --frontend=ublk
        says 4 'missing.img' vssctl volume create some --origin="$area/missing.img" --store="$store"
        says 10 'neither a block device nor' vssctl volume create some --origin="$area" --store="$store"
        echo x >"$area/odd.img"
        says 10 'multiple of 512' vssctl volume create some --origin="$area/odd.img" --store="$store"
        for verb in attach detach remove; do says 4 'no volume none' vssctl volume "$verb" none; done
        expect_equal "" "$(volumes)" "volumes"
        volume taken 64M
        says 1 'volume taken already' vssctl volume create taken --origin="$area/some.img" --store="$store"
        expect_equal taken "$(volumes)" "volumes"
        vssctl --help volume >/dev/null
}

case_a_dry_run_changes_nothing() {
        local before
        image dry 64M
        says 0 'would be created' vssctl volume create --dry-run dry --origin="$area/dry.img" --store="$area/dry.store"
        expect_equal "" "$(volumes)" "volumes"
        [ ! -e "$area/dry.store" ] || die "a dry run made a store"
        volume dry 64M
        before=$(vssctl --json volume list)
        says 0 'would be detached' vssctl volume detach --dry-run dry
        says 8 'is attached' vssctl volume remove --dry-run dry
        expect_equal "$before" "$(vssctl --json volume list)" "the list after dry runs"
        vssctl volume detach dry >/dev/null
        before=$(vssctl --json volume list)
        says 0 'would be attached' vssctl volume attach --dry-run dry
        says 0 'would be removed' vssctl volume remove --dry-run dry
        expect_equal "$before" "$(vssctl --json volume list)" "the list after dry runs"
}

case_lists_show_what_there_is() {
        local link=$RUNTIME_DIRECTORY/dev/shown before
        vssctl volume list | grep -q 'There is no engine volume' || die "an empty list says: $(vssctl volume list)"
        volume shown 64M
        expect_equal "$shown" "$(readlink "$link")" "the device link"
        expect_equal "$((64 << 20)) true fuse 0 $area/shown.img " \
                "$(field shown '"\(.size) \(.attached) \(.frontend) \(.snapshots) \(.origin) \(.fault)"')" "the volume"
        expect_equal $((64 << 20)) "$(blockdev --getsize64 "$shown")" "size of the device"
        vssctl volume list | grep -q "^shown .*$shown .*$area/shown.img" || die "the table says: $(vssctl volume list)"
        mounted "$link" ext4
        taken_by() { [ "$(vssctl --json volumes | jq -r --arg m "$MNT" '.volumes[] | select(.mountpoint == $m) | .provider')" = "$1" ]; }
        wait_until 5 taken_by cow || die "volumes says: $(vssctl --json volumes)"
        overwrite() { dd if=/dev/urandom of="$MNT/data" bs=1M count=20 oflag=direct conv=notrunc status=none; }
        overwrite
        vssctl create "$MNT" >/dev/null
        expect_equal 1 "$(field shown .snapshots)" "its snapshots"
        used() { vssctl --json storage list | json ".storage[] | select(.path == \"$store\") | .allocated_bytes"; }
        before=$(used)
        overwrite
        grew() { [ "$(used)" -ge $((before + (15 << 20))) ]; }
        wait_until 5 grew || die "20 MiB are overwritten and the store has $(used) bytes after $before"
        umount "$MNT"
        vssctl volume detach shown >/dev/null
        [ ! -L "$link" ] || die "the link is left after detach"
        expect_equal "false 1" "$(field shown '"\(.attached) \(.snapshots)"')" "a volume that is not attached"
}

case_attached_and_detached() {
        local other
        volume back 64M
        mounted "$back" ext4
        echo kept >"$MNT/file"
        says 8 'unmount it first' vssctl volume detach back
        expect_equal true "$(field back .attached)" "attached, after a refusal"
        expect_equal kept "$(cat "$MNT/file")" "the file, after a refusal"
        umount "$MNT"
        vssctl volume detach back >/dev/null
        says 0 detached vssctl volume detach back
        # plain: without the engine the origin is the file system
        mount -o loop,ro "$area/back.img" "$MNT"
        expect_equal kept "$(cat "$MNT/file")" "the file in the origin"
        says 8 . vssctl volume attach back
        umount "$MNT"
        other=$(vssctl --json volume attach back | json .device)
        expect_equal "$other" "$(field back .device)" "device after attaching again"
        expect_equal "$other" "$(vssctl --json volume attach back | json .device)" "device when attached already"
        mount "$other" "$MNT"
        expect_equal kept "$(cat "$MNT/file")" "the file, attached again"

        note "a copy that was looked at does not keep it attached, one that is mounted does"
        create "$MNT"
        mkdir -p "$VSS_TEST_DIR/copy"
        vssctl mount "$(copies_of)" "$VSS_TEST_DIR/copy" >/dev/null
        umount "$MNT"
        says 8 'unmount it first' vssctl volume detach back
        vssctl umount "$(copies_of)" >/dev/null
        vssctl volume detach back >/dev/null
}

case_removed_with_the_origin_as_it_is() {
        local sum
        volume gone 64M
        mounted "$gone" ext4
        head -c 10M /dev/urandom >"$MNT/data"
        vssctl create "$MNT" >/dev/null
        head -c 10M /dev/urandom >"$MNT/data"
        says 8 'detach' vssctl volume remove gone
        umount "$MNT"
        sum=$(sha256sum <"$gone")
        vssctl volume detach gone >/dev/null
        expect_equal "$sum" "$(sha256sum <"$area/gone.img")" "the origin once detached"
        says 8 'snapshot.*--force' vssctl volume remove gone
        says 0 removed vssctl volume remove --force gone
        expect_equal "" "$(volumes)" "volumes"
        expect_equal "$sum" "$(sha256sum <"$area/gone.img")" "the origin once removed"
        no_snapshots "of a volume that was removed"
        says 0 created vssctl volume create gone --origin="$area/gone.img" --store="$store"
}

# old POINT…: a file that says old, written through
old() { for m in "$@"; do echo old >"$m/file" && sync -f "$m"; done; }
new() { for m in "$@"; do echo new >"$m/file" && sync -f "$m"; done; }

# copy_says TEXT ID: mounted, read-only, and unmounted
copy_says() {
        local at=$VSS_TEST_DIR/copy
        mkdir -p "$at"
        vssctl mount "$2" "$at" >/dev/null
        expect_equal "$1" "$(cat "$at/file")" "the file in the copy $2"
        if : 2>/dev/null >"$at/new"; then die "the copy $2 can be written to"; fi
        says 8 . vssctl delete "$2"
        vssctl umount "$2" >/dev/null
}
copies_of() { jq -r '.snapshots[].id' "$SET_DOC"; }

case_one_set_over_several_volumes() {
        local a b id
        volume ext 64M
        volume xfs 300M
        mounted "$ext" ext4 && a=$MNT
        mounted "$xfs" xfs && b=$MNT
        old "$a" "$b"
        create --require=filesystem "$a" "$b"
        new "$a" "$b"
        expect_equal "cow cow" "$(set_field '[.snapshots[].provider] | join(" ")')" "providers"
        for id in $(copies_of); do copy_says old "$id"; done
        # at their own paths, both

        new "$a" "$b"
        expect_equal "new new" "$(vssctl run "$a" "$b" -- sh -c "echo \$(cat $a/file) \$(cat $b/file)")" "in the copies of run"
        expect_equal 2 "$(vssctl --json snapshots | jq '.snapshots | length')" "copies, after run"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        no_snapshots "after delete"
        note "by their names"
        create ext xfs
        expect_equal "$a $b" "$(set_field '[.snapshots[].mountpoint] | join(" ")')" "what the names mean"
        says 4 'no volume neither that is attached' vssctl create neither
        expect_exit 0 vssctl delete "$SET" >/dev/null
        expect_equal "0 0" "$(field ext .snapshots) $(field xfs .snapshots)" "copies in the store"
}

# elsewhere TYPE DEVICE: a file system mounted where the service does not see it, so that it cannot freeze it, with a file
# that is on disk; until its end is asked for in FIFO
elsewhere() {
        local at=$VSS_TEST_DIR/elsewhere
        FIFO=$VSS_TEST_DIR/fifo.$1
        mkdir -p "$at"
        rm -f "$FIFO" && mkfifo "$FIFO"
        rm -f "$VSS_TEST_DIR/there"
        unshare -m bash -c 'mount "$1" "$2" && echo synced >"$2/file" && sync "$2/file" && touch "$3" && read -r _ <"$4"' \
                - "$2" "$at" "$VSS_TEST_DIR/there" "$FIFO" &
        wait_until 10 [ -e "$VSS_TEST_DIR/there" ] || die "no $1 elsewhere"
}

case_a_copy_that_was_not_frozen_has_its_log_replayed() {
        local type id one=$VSS_TEST_DIR/one two=$VSS_TEST_DIR/two
        mkdir -p "$one" "$two"
        volume ext4 64M
        volume xfs 300M
        volume btrfs 128M
        shown() { losetup -nlO BACK-FILE | grep -c "/$1+" || :; }
        for type in ext4 xfs btrfs; do
                if [ $type = btrfs ] && [ ! -e /sys/fs/btrfs/features/temp_fsid ]; then continue; fi
                "mkfs.$type" -q "${!type}" >/dev/null 2>&1
                elsewhere $type "${!type}"
                create $type
                id=$(copies_of)
                expect_equal crash "$(set_field .consistency)" "the level of a set that froze nothing"
                vssctl mount "$id" "$one" >/dev/null
                vssctl mount "$id" "$two" >/dev/null
                cleanup_fn unmount_all "$one"
                cleanup_fn unmount_all "$two"
                expect_equal "synced synced" "$(cat "$one/file") $(cat "$two/file")" "the file in the copy of $type"
                if : 2>/dev/null >"$one/new"; then die "the copy of $type can be written to"; fi
                expect_equal 2 "$(shown "$id")" "devices with overlays"
                says 8 . vssctl delete "$id"
                expect_equal crash "$(vssctl --json show "$id" | json .consistency)" "the level of a copy whose log was replayed"
                vssctl umount "$one" >/dev/null
                expect_equal synced "$(cat "$two/file")" "the file in the other mount of $type"
                umount "$two" # by somebody who does not ask the service
                gone() { [ "$(shown "$id")" = 0 ]; }
                wait_until 5 gone || die "$(shown "$id") devices are left after the last mount"
                vssctl mount "$id" "$one" >/dev/null
                expect_equal synced "$(cat "$one/file")" "the file, mounted once more"
                vssctl umount "$id" >/dev/null
                expect_exit 0 vssctl delete "$id" >/dev/null
                echo >"$FIFO"
                wait $!
        done
}

case_a_replay_that_finds_no_room_fails_alone() {
        local id small at=$VSS_TEST_DIR/one _fs_count=1 # fs0 was that of another case
        mkdir -p "$at"
        new_fs small ext4 320M
        image tight 64M
        vssctl volume create tight --origin="$area/tight.img" --store="$small/store" --store-max=200M >/dev/null
        cleanup_fn drop_volume tight
        mkfs.ext4 -q "$(field tight .device)"
        elsewhere ext4 "$(field tight .device)"
        create tight
        id=$(copies_of)
        leave() { fallocate -l $(($(df -k --output=avail "$small" | tail -n 1) - $1))K "$small/filler.$1" && sync -f "$small"; }
        leave 40
        says 7 'takes more room than there is' vssctl mount "$id" "$at"
        leave 4
        says 7 'no room for an overlay' vssctl mount "$id" "$at"
        rm "$small"/filler.*
        sync -f "$small"
        vssctl mount "$id" "$at" >/dev/null
        expect_equal synced "$(cat "$at/file")" "the file, once there is room"
        vssctl umount "$id" >/dev/null
        echo >"$FIFO"
        wait $!
        drop_volume tight
        stop_engines
}

# A database on a raw device: there is nothing to freeze, the engine holds writes itself.
case_one_without_a_file_system() {
        local copy
        volume bare 16M
        fill() { head -c 16M /dev/zero | tr '\0' "$1" | dd of="$bare" bs=1M oflag=direct conv=notrunc,fsync iflag=fullblock status=none; }
        fill o
        create bare
        expect_equal crash "$(set_field .consistency)" "level"
        fill n
        copy=$(engine bare expose id="$(copies_of)" | json .device)
        head -c 16M /dev/zero | tr '\0' o | cmp - "$copy" || die "the copy is not what the volume was"
        head -c 16M /dev/zero | tr '\0' n | cmp - "$bare" || die "the volume is not what was written"
        echo x | dd of="$copy" conv=notrunc status=none 2>/dev/null && die "the copy can be written"
        engine bare hide id="$(copies_of)" >/dev/null
        delete_all
}

case_one_set_over_the_engine_and_a_btrfs() {
        local a id
        new_fs tree btrfs 128M
        volume mixed 64M
        mounted "$mixed" ext4 && a=$MNT
        old "$a" "$tree"
        create "$a" "$tree"
        new "$a" "$tree"
        expect_equal "btrfs cow" "$(set_field '[.snapshots[].provider] | sort | join(" ")')" "providers"
        for id in $(copies_of); do copy_says old "$id"; done
        expect_exit 0 vssctl delete "$SET" >/dev/null
        no_snapshots "after delete"
}

# exact WHEN: the copy ID reads as when it was made
exact() {
        copy_says old "$ID"
        note "exact after $1"
}

case_copies_outlive_every_process() {
        local at host pid before since
        since=$(cut -d' ' -f1 /proc/uptime) # another device may have had the number
        volume lasting 64M
        mounted "$lasting" ext4 && at=$MNT
        old "$at"
        create --persistent "$at" 2>/dev/null || create "$at"
        ID=$(copies_of)
        new "$at"
        exact "nothing"

        kill -KILL "$VSSD_PID"
        wait_until 5 eval '! pgrep -x "vssd|vss-provider-ho|vss-store" >/dev/null'
        echo "without vssd" >"$at/more" && sync -f "$at"
        start_vssd
        exact "the end of vssd"

        for host in $(pgrep -x vss-provider-ho); do kill -KILL "$host"; done
        exact "the end of the provider hosts"

        # under load: writes wait, none fails
        (
                i=0
                while [ ! -e "$at/stop" ]; do
                        echo $((i += 1)) >"$at/counter.new" && sync -f "$at" && mv "$at/counter.new" "$at/counter" || exit 1
                done
        ) &
        pid=$!
        for _ in 1 2 3; do
                before=$(engine lasting status | json .server_pid)
                kill -KILL "$before"
                server_is_new() { [ "$(engine lasting status | json .server_pid)" != "$before" ]; }
                wait_until 10 server_is_new || die "no new server"
                exact "the end of the server"
        done
        : >"$at/stop"
        wait $pid || die "a write failed while the server was replaced"
        [ "$(cat "$at/counter")" -gt 3 ] || die "nothing was written"
        dmesg 2>/dev/null | awk -v since="$since" -F'[][]' '$2 + 0 >= since + 0' | grep -Eq "I/O error.*${lasting#/dev/}([^0-9]|\$)" &&
                die "the device had an error"

        note "all of it ends and comes back"
        umount "$at"
        stop_vssd
        stop_engines
        [ ! -L "$RUNTIME_DIRECTORY/dev/lasting" ] || die "the link is left: $(readlink "$RUNTIME_DIRECTORY/dev/lasting")"
        pgrep -x vss-cow && die "a vss-cow is left"
        start_vssd
        expect_equal "false 1" "$(field lasting '"\(.attached) \(.snapshots)"')" "the volume after the restart"
        mount "$(vssctl --json volume attach lasting | json .device)" "$at"
        expect_equal "new" "$(cat "$at/file")" "the volume, attached again"
        exact "a restart of everything"
        expect_equal false "$(vssctl --json show "$ID" | jq '.damaged // false')" "damaged"
        expect_exit 0 vssctl delete "$ID" >/dev/null
        umount "$at"
        drop_volume lasting
}

case_a_holder_that_is_killed_costs_the_devices_only() {
        local at server
        volume hard 64M
        mounted "$hard" ext4 && at=$MNT
        old "$at"
        create "$at"
        ID=$(copies_of)
        new "$at"
        umount "$at"
        server=$(engine hard status | json .server_pid)
        kill -KILL "$(engine hard status | json .pid)"
        wait_until 5 eval '! kill -0 $server' || die "the server outlives its holder"
        expect_equal false "$(field hard .attached)" "attached, after the holder's end"
        mount "$(vssctl --json volume attach hard | json .device)" "$at"
        expect_equal new "$(cat "$at/file")" "the file"
        exact "the holder's end"
}

case_a_store_on_btrfs_is_written_in_place() {
        local at=$VSS_TEST_DIR/btrfs id
        image disk 500M
        mkfs.btrfs -q "$area/disk.img" >/dev/null
        mkdir "$at"
        mount -o loop "$area/disk.img" "$at"
        cleanup_fn unmount_all "$at"
        image here 64M
        image other 64M
        vssctl volume create here --origin="$area/here.img" --store="$at/store" --store-max=128M >/dev/null
        id=$(field here .storage)
        lsattr "$at/store" | grep -q '^[^ ]*C' || die "its store is copied on every write: $(lsattr "$at/store")"

        note "one that shares its blocks is none"
        touch "$at/second"
        chattr +C "$at/second"
        cp --reflink=always "$at/store" "$at/second"
        says 10 'shares blocks' vssctl volume create other --origin="$area/other.img" --store="$at/second"
        cp --reflink=never "$at/store" "$at/third"
        says 10 'chattr +C' vssctl volume create other --origin="$area/other.img" --store="$at/third"
        expect_equal here "$(volumes)" "volumes after what was refused"
        vssctl volume detach here >/dev/null
        vssctl volume remove here >/dev/null
        rm "$STATE_DIRECTORY/cow/stores/$id" # it goes with its disk
        wait_until 20 store_is_left || die "$at stays in use"
        rm "$area"/{disk,here,other}.img
}
# store_is_left: by the vss-cow that served it, which ends after its answer
store_is_left() {
        "$VSS_SOURCE/tests/cow-control" "$RUNTIME_DIRECTORY/cow/$id" stop >/dev/null 2>&1 || :
        umount "$at" 2>/dev/null
}

cases a_store_is_made_joined_or_refused a_store_on_btrfs_is_written_in_place an_origin_in_use_is_refused_with_the_commands_to_run \
        names_sizes_and_front_ends_are_checked a_dry_run_changes_nothing lists_show_what_there_is attached_and_detached \
        removed_with_the_origin_as_it_is one_set_over_several_volumes one_without_a_file_system one_set_over_the_engine_and_a_btrfs \
        a_copy_that_was_not_frozen_has_its_log_replayed a_replay_that_finds_no_room_fails_alone a_holder_that_is_killed_costs_the_devices_only copies_outlive_every_process
