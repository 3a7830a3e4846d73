#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# No more room: a thick copy that overflows is lost, and said to be; a full pool, or a full volume group, takes no copies. The
# volumes themselves go on.
# kernel: 6.12
# disks: 400M
# seconds: 400
. "$(dirname "$0")/functions.sh"

# 17 % of 96 MiB is neither whole sectors nor more than the least a copy gets
printf '[Timeouts]\nhold=50\n[Copies]\nlvm_snapshot_size=17\n' >"$CONFIGURATION_DIRECTORY/vssd.conf"
vgcreate -q vg "$d0" >/dev/null
lvcreate -q -y -n thick -L 96m vg >/dev/null
lvcreate -q -y --type thin-pool -n pool -L 32m vg >/dev/null
lvchange -q --errorwhenfull y vg/pool >/dev/null # lvcreate does not take it
lvcreate -q -y -n thin -V 64m --thinpool pool vg >/dev/null
new_fs thick ext4 /dev/vg/thick
new_fs thin ext4 /dev/vg/thin

case_a_thick_copy_that_overflows_is_lost_and_says_so() {
        local id dir err=$VSS_TEST_DIR/err
        vssctl --json create --provider=lvm "$thick" >"$VSS_TEST_DIR/set.json"
        id=$(jq -r '.snapshots[0].id' "$VSS_TEST_DIR/set.json")
        expect_equal 16777216 "$(lvs --noheadings --units b --nosuffix -o lv_size "vg/vss-$id" | tr -d ' ')" "room for changes"
        dd if=/dev/urandom of="$thick/much" bs=1M count=24 conv=fsync 2>/dev/null
        sync -f "$thick"
        expect_exit 11 vssctl mount "$id" 2>"$err"
        grep -q 'more was changed than it has room for' "$err" || die "it does not say why: $(cat "$err")"
        vssctl --json storage list | jq -e --arg p "vg/vss-$id" '.storage[] | select(.path == $p and .fault == "full")' >/dev/null ||
                die "the storage list does not show it"
        cmp "$thick/much" "$thick/much" || die "the volume is hurt"
        systemctl restart vssd
        expect_exit 11 vssctl mount "$id" 2>"$err"
        vssctl delete "$id"
}

case_a_full_group_takes_no_thick_copy() {
        lvcreate -q -y -n rest -l 100%FREE vg >/dev/null
        expect_exit 7 vssctl create --provider=lvm "$thick" 2>"$VSS_TEST_DIR/err"
        grep -q 'lvm_snapshot_size=' "$VSS_TEST_DIR/err" || die "it does not say what to do: $(cat "$VSS_TEST_DIR/err")"
        lvremove -q -y vg/rest
        must_write 10 "$thick"
}

case_a_full_pool_takes_no_thin_copy() {
        dd if=/dev/urandom of="$thin/much" bs=1M count=40 conv=fsync 2>/dev/null || note "the pool is full"
        wait_until 30 sh -c "[ \"\$(lvs --noheadings -o data_percent vg/pool | tr -d ' ')\" = 100.00 ]" || die "the pool is not full: $(lvs)"
        expect_exit 7 vssctl create --provider=lvm "$thin" 2>"$VSS_TEST_DIR/err"
        grep -q 'thin pool vg/pool is full' "$VSS_TEST_DIR/err" || die "it does not say why: $(cat "$VSS_TEST_DIR/err")"
        vssctl --json storage list | jq -e '.storage[] | select(.path == "vg/pool" and .fault == "full")' >/dev/null ||
                die "the storage list does not show it: $(vssctl --json storage list)"
}

cases a_thick_copy_that_overflows_is_lost_and_says_so a_full_group_takes_no_thick_copy a_full_pool_takes_no_thin_copy
