#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copies of one logical volume, thick and thin: made, shown, listed by a vssd that knows nothing any more, mounted, deleted; and
# what LVM's own metadata say about them all the while.
# kernel: 6.12 6.1
# disks: 768M
# seconds: 400
. "$(dirname "$0")/functions.sh"

configure Timeouts hold=50 # emulation is slow, and in it udev, which lvm waits for
vgcreate -q vg "$d0" >/dev/null
lvcreate -q -y -n thick -L 64m vg >/dev/null
lvcreate -q -y -n xfs -L 320m vg >/dev/null
lvcreate -q -y --type thin-pool -n pool -L 128m vg >/dev/null
lvcreate -q -y -n thin -V 96m --thinpool pool vg >/dev/null
new_fs thick ext4 /dev/vg/thick
new_fs thin ext4 /dev/vg/thin
new_fs xfs xfs /dev/vg/xfs

tags() { lvs --noheadings -o lv_tags -S "lv_name=~^vss-"; }
attribute() { lvs --noheadings -o "$2" "vg/vss-$1" | tr -d ' '; }
copies() { vssctl --json snapshots | jq -r '.snapshots[].id' | sort; }
suspended() { dmsetup info -c --noheadings -o name,suspended | grep -c ':Suspended' || :; }

# The content a copy must have, then what must not be in it.
before_and_after() {
        rm -f "$1/new"
        echo before >"$1/file"
        sync -f "$1"
        vssctl --json create --provider=lvm "$1" >"$VSS_TEST_DIR/set.json"
        echo after >"$1/file"
        : >"$1/new"
        sync -f "$1"
        ID=$(jq -r '.snapshots[0].id' "$VSS_TEST_DIR/set.json")
        SET=$(jq -r .set "$VSS_TEST_DIR/set.json")
}

check_mounted() {
        local dir
        dir=$(vssctl --json mount "$1" | json .path)
        expect_equal before "$(cat "$dir/file")" "the copy's file"
        [ ! -e "$dir/new" ] || die "the copy has what came later"
        ! : 2>/dev/null >"$dir/x" || die "the copy can be written to"
        expect_exit 8 vssctl delete "$1" # in use
        vssctl umount "$1"
}

case_provider_is_chosen_and_says_what_it_can() {
        vssctl --json providers | jq -e '.providers[] | select(.name == "lvm") | .ready == true' >/dev/null ||
                vssctl --json providers >&2
        expect_equal lvm "$(vssctl --json plan "$thick" | json '.volumes[0].provider')" "the provider of a plan"
}

case_thick_copy() {
        before_and_after "$thick"
        expect_equal lvm "$(jq -r '.snapshots[0].provider' "$VSS_TEST_DIR/set.json")" provider
        expect_equal filesystem "$(jq -r .consistency "$VSS_TEST_DIR/set.json")" level
        expect_equal 67108864 "$(jq -r '.snapshots[0].size' "$VSS_TEST_DIR/set.json")" "size of the volume"
        expect_equal "$SET" "$(tags | tr ',' '\n' | sed -n 's/ *vss.set=//p')" "the tag of the set"
        ! tags | grep -q pending || die "the mark is still there"
        expect_equal swi-a-s--- "$(attribute "$ID" lv_attr | sed 's/^s.i/swi/')" "what LVM says about a thick copy"
        expect_equal 16777216 "$(lvs --noheadings --units b --nosuffix -o lv_size "vg/vss-$ID" | tr -d ' ')" "room for changes"
        check_mounted "$ID"
        vssctl delete "$ID"
        expect_equal "" "$(tags)" "copies left"
}

case_thin_copy_is_inactive_until_used() {
        before_and_after "$thin"
        expect_equal null "$(jq -r '.snapshots[0].device' "$VSS_TEST_DIR/set.json")" "its device"
        udevadm settle
        expect_equal "$thin_dev" "$(readlink -f /dev/vg/thin)" "what udev calls the original"
        expect_equal "$thin_dev" "$(readlink -f "/dev/disk/by-uuid/$(findmnt -no UUID "$thin")")" "what has its id"
        expect_equal Vri---tz-k "$(attribute "$ID" lv_attr)" "what LVM says about a thin copy"
        check_mounted "$ID"
        expect_equal "$thin_dev" "$(readlink -f "/dev/disk/by-uuid/$(findmnt -no UUID "$thin")")" "what has its id, while there are two"
        vssctl delete "$SET"
        expect_equal "" "$(tags)" "copies left"
}

# Linux 6.8 and later count a block device as frozen for good whose file system was frozen twice
case_what_was_copied_is_mounted_again() {
        local v device all=("$thick" "$thin" "$xfs")
        [[ $(uname -r) != 6.1.* ]] || all=("$thin")
        vssctl create "${all[@]}" >"$VSS_TEST_DIR/set" 2>&1 || die "no set: $(cat "$VSS_TEST_DIR/set")"
        for v in "$thick" "$thin" "$xfs"; do
                device=$(findmnt -no SOURCE "$v")
                umount "$v"
                mount "$device" "$v" || die "$v is not mounted again: $(dmesg | tail -n 3)"
        done
        vssctl --json snapshots | jq -r '.snapshots[].id' | xargs vssctl delete >/dev/null
        expect_equal "" "$(tags)" "copies left"
}

# What keeps lvm from freezing what is held is missing, so that ld.so would go on without, or is loaded and does nothing: said before
# anything stands still
case_without_its_library_nothing_is_copied() {
        local library=/usr/libexec/vss/vss-lvm-held.so other way
        other=$(ldconfig -p | awk '$1 == "libz.so.1" { print $NF; exit }')
        cp $library "$VSS_TEST_DIR/held.so"
        for way in missing another; do
                rm -f $library
                [ $way = missing ] || cp "$other" $library
                if vssctl create --provider=lvm "$thick" 2>"$VSS_TEST_DIR/err" >&2; then die "$way: it was frozen twice"; fi
                expect_equal 1 "$(wc -l <"$VSS_TEST_DIR/err")" "lines that say so: $(cat "$VSS_TEST_DIR/err")"
                grep -q "$library does not work in /.*lvm.*frozen twice.*lvm_hold=no" "$VSS_TEST_DIR/err" || die "$way: it says $(cat "$VSS_TEST_DIR/err")"
                expect_equal "" "$(tags)" "copies"
        done
        expect_exit 10 vssctl create --provider=lvm "$thick" 2>/dev/null
        configure Copies lvm_hold=no # as it says
        systemctl restart vssd
        before_and_after "$thick"
        check_mounted "$ID"
        vssctl delete "$ID"
        cp "$VSS_TEST_DIR/held.so" $library
        configure Timeouts hold=50
        systemctl restart vssd
        before_and_after "$thick"
        vssctl delete "$ID"
}

case_xfs_copy_mounts_beside_its_original() {
        before_and_after "$xfs"
        check_mounted "$ID"
        vssctl delete "$ID"
}

case_copies_outlive_the_service_and_its_catalogue() {
        before_and_after "$thick"
        local thick_id=$ID ids
        before_and_after "$thin"
        ids=$(copies)
        expect_equal "$(printf '%s\n' "$thick_id" "$ID" | sort)" "$ids" "copies"
        lvcreate -q -s -n vss-mine --addtag vss.pending vg/thin >/dev/null # somebody's who likes our names
        systemctl stop vssd
        rm -rf /var/lib/vss
        expect_equal "$ids" "$(copies)" "copies after a restart without a catalogue"
        check_mounted "$thick_id"
        check_mounted "$ID"
        vssctl delete "$thick_id" "$ID"
        lvs vg/vss-mine >/dev/null || die "what is not ours has been deleted"
        lvremove -q -y vg/vss-mine
}

case_nothing_is_written_below_etc_lvm_before_the_window_is_over() {
        local archives
        archives=$(find /etc/lvm/archive -type f | wc -l)
        strace -f -o "$VSS_TEST_DIR/trace" -e trace=openat,openat2,rename,execve,ioctl -p "$(systemctl show -P MainPID vss-provider)" &
        local tracer=$!
        sleep 2
        vssctl create --provider=lvm "$thick" >/dev/null
        kill -INT $tracer
        wait $tracer || :
        awk '/execve\("\/.*lvm.*"lvcreate"/ { p[$1] = 1 } /etc\/lvm\/(archive|backup)/ && ($1 in p) && /O_(WRONLY|RDWR)/ { print; bad = 1 }
             END { exit bad }' "$VSS_TEST_DIR/trace" || die "lvcreate wrote to /etc/lvm"
        grep -q '"lvcreate"' "$VSS_TEST_DIR/trace" || die "the trace shows no lvcreate"
        [ "$(find /etc/lvm/archive -type f | wc -l)" -gt "$archives" ] || die "there is no archive afterwards"
        delete_all
}

case_storage_is_listed() {
        local json
        before_and_after "$thick"
        json=$(vssctl --json storage list)
        jq -e '.storage[] | select(.path == "vg/pool" and .max_bytes == 134217728 and .used_bytes > 0 and .fault == "")' <<<"$json" >/dev/null &&
                jq -e '.storage[] | select(.path == "vg/pool-metadata" and .used_bytes > 0)' <<<"$json" >/dev/null &&
                jq -e --arg p "vg/vss-$ID" '.storage[] | select(.path == $p and .max_bytes == 16777216)' <<<"$json" >/dev/null ||
                die "storage list: $json"
        vssctl delete "$ID"
}

case_what_cannot_be_copied_is_refused() {
        lvcreate -q -y -n raw -L 16m vg >/dev/null
        expect_exit 10 vssctl create --provider=lvm /dev/vg/raw
        lvremove -q -y vg/raw
        lvcreate -q -y -n copy -s -L 16m vg/thick >/dev/null
        mkdir -p /mnt/copy
        mount /dev/vg/copy /mnt/copy
        expect_exit 10 vssctl create --provider=lvm /mnt/copy # LVM makes no copy of a thick copy
        umount /mnt/copy
        lvremove -q -y vg/copy
        expect_exit 10 vssctl create --provider=lvm /run
}

cases provider_is_chosen_and_says_what_it_can thick_copy thin_copy_is_inactive_until_used xfs_copy_mounts_beside_its_original \
        what_was_copied_is_mounted_again \
        copies_outlive_the_service_and_its_catalogue nothing_is_written_below_etc_lvm_before_the_window_is_over \
        storage_is_listed what_cannot_be_copied_is_refused
[[ $(uname -r) = 6.1.* ]] || cases without_its_library_nothing_is_copied
expect_equal 0 "$(suspended)" "suspended devices at the end"
