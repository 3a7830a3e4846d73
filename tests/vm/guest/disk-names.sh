#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Disks get other names at a boot, all of one size. The disk of an engine volume is found under the one it has now; when it is
# away and another disk has its name, the volume is not attached to that, which is named and stays what it is, for its own use too.
# Who says that its content was moved there gets it, with snapshots that are unverified. A partition goes by its uuid.
# disks: 100M 100M 100M
# root: ext4
# boots: 3
# start: boot
# long: 6.12
# seconds: 200
# programs: cow-client
. "$(dirname "$0")/functions.sh"

# links to the disk of an attached volume are hidden
name_of() {
        local file
        file=$(grep -lx "$1" /sys/block/*/serial) || die "there is no disk $1"
        file=${file%/serial}
        echo "/dev/${file##*/}"
}
origin() { vssctl --json volume list | jq -r --arg n "$1" '.volumes[] | select(.name == $n).origin'; }
unverified() { cow-client "/run/vss/cow/$(vssctl --json volume list | json '.volumes[0].storage')" list set= from=0 | jq '[.snapshots[] | select(.unverified)] | length'; }
# foreign_is_free: the disk of somebody else, whatever its name, is as it was and can be mounted by its label
foreign_is_free() {
        wait_until 20 test -e /dev/disk/by-label/foreign || die "the other disk is hidden: $(udevadm info "$(name_of d2)")"
        mkdir -p /mnt
        mount -o ro /dev/disk/by-label/foreign /mnt
        expect_equal theirs "$(cat /mnt/kept)" "what is on the other disk"
        umount /mnt
        e2fsck -fn "$(name_of d2)" >/dev/null 2>&1 || die "the other disk was written to"
}

# d0 only takes a name; d1 is the volume's; d2 somebody else's
case $VM_BOOT in
1)
        mkfs.ext4 -q -L foreign "$(name_of d2)"
        mount "$(name_of d2)" /mnt
        echo theirs >/mnt/kept
        umount /mnt
        expect_exit 0 vssctl volume create mine --origin="$(name_of d1)" --store=/var/lib/vss/cow/one.store --store-max=200M
        mkfs.ext4 -q /dev/vss/mine
        mkdir /srv/mine
        mount /dev/vss/mine /srv/mine
        echo old >/srv/mine/kept
        expect_exit 0 vssctl create /srv/mine >/dev/null
        echo new >/srv/mine/kept
        umount /srv/mine

        note "a partition of a disk that says nothing about itself"
        for i in 1 2; do
                truncate -s 40M /var/lib/p$i.img
                # a table of the old kind: its number, and a partition of type 83 with 20 MiB from 1 MiB on
                printf "\\x0$i\\x02\\x03\\x04" | dd of=/var/lib/p$i.img bs=1 seek=440 conv=notrunc status=none
                printf '\x83\0\0\0\0\x08\0\0\0\xa0\0\0' | dd of=/var/lib/p$i.img bs=1 seek=450 conv=notrunc status=none
                printf '\x55\xaa' | dd of=/var/lib/p$i.img bs=1 seek=510 conv=notrunc status=none
        done
        losetup -P /dev/loop40 /var/lib/p1.img
        wait_until 10 test -b /dev/loop40p1
        expect_exit 0 vssctl volume create part --origin=/dev/loop40p1 --store=/var/lib/vss/cow/one.store
        expect_exit 0 vssctl volume detach part
        losetup -d /dev/loop40
        wait_until 20 losetup -P /dev/loop40 /var/lib/p2.img 2>/dev/null || die "the loop device is not free" # udev still looks
        wait_until 10 test -b /dev/loop40p1
        expect_exit 4 vssctl volume attach part 2>"$VSS_TEST_DIR/refused"
        note "$(cat "$VSS_TEST_DIR/refused")"
        expect_equal 2 "$(grep -o partuuid: "$VSS_TEST_DIR/refused" | wc -l)" "uuids that are named"
        losetup -P /dev/loop41 /var/lib/p1.img
        wait_until 10 test -b /dev/loop41p1
        expect_exit 0 vssctl volume attach part
        expect_equal /dev/loop41p1 "$(origin part)" "the origin of the partition's volume"
        expect_exit 0 vssctl volume detach part
        expect_exit 0 vssctl volume remove part

        name_of d0 >/var/lib/name-0
        name_of d1 >/var/lib/name-1
        sync
        vm-host without d0
        vm-next-boot --reboot
        ;;
2)
        expect_equal "$(cat /var/lib/name-0)" "$(name_of d1)" "the volume's disk"
        expect_equal "$(cat /var/lib/name-1)" "$(name_of d2)" "the other disk"
        wait_until 60 test -b /dev/vss/mine || die "the volume is not attached: $(journalctl -b -o cat --no-pager -u vss-attach -u 'vss-cow@*')"
        expect_equal "$(name_of d1)" "$(origin mine)" "its origin"
        expect_equal "$(name_of d1)" "$(sed -n 2p /var/lib/vss/cow/attached/mine)" "its origin, as it is noted"
        mount /dev/vss/mine /srv/mine
        expect_equal new "$(cat /srv/mine/kept)" "what is on it"
        expect_equal 0 "$(unverified)" "copies that are unverified"
        foreign_is_free
        expect_exit 0 vssctl create /srv/mine >/dev/null
        umount /srv/mine
        sync
        vm-host with d0
        vm-host without d1
        vm-next-boot --reboot
        ;;
3)
        expect_equal "$(cat /var/lib/name-0)" "$(name_of d0)" "what has the name of the volume's disk"
        blank=$(md5sum <"$(name_of d0)")
        expect_exit 4 vssctl volume attach mine 2>"$VSS_TEST_DIR/refused"
        note "$(cat "$VSS_TEST_DIR/refused")"
        for word in "$(name_of d0)" serial:d0 serial:d1 --force; do
                grep -q -- "$word" "$VSS_TEST_DIR/refused" || die "the reason does not say $word"
        done
        expect_equal 1 "$(wc -l <"$VSS_TEST_DIR/refused")" "lines"
        is_reported() { journalctl -b -o cat --no-pager -u vss-attach -u 'vss-cow@*' | grep "volume mine cannot be attached: .*serial:d0"; }
        wait_until 90 is_reported || die "the journal says nothing: $(journalctl -b -o cat --no-pager -u vss-attach -u 'vss-cow@*')"
        expect_equal "$blank" "$(md5sum <"$(name_of d0)")" "what is on the disk that has its name"
        foreign_is_free
        expect_equal 0 "$(unverified)" "copies that are unverified"

        expect_exit 0 vssctl volume attach --force mine
        expect_equal 2 "$(unverified)" "copies that are unverified"
        expect_exit 0 vssctl volume detach mine
        note "and from now on that is its disk"
        expect_exit 0 vssctl volume attach mine
        expect_exit 0 vssctl volume detach mine
        ;;
esac
