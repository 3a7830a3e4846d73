#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Volumes of the engine are there from the start of the machine: /etc/fstab names /dev/vss/NAME, of an origin that is a file
# on / and of one that is a disk, and both are mounted before local-fs.target with what was on them, after a reboot in
# order and after a power cut. fstab names the disk's volume by its UUID too, which its origin has as well: the origin is
# not what is mounted. Snapshots are good after the reboot in order, and whole after the cut.
# disks: 300M
# root: ext4
# boots: 3
# seconds: 300
. "$(dirname "$0")/functions.sh"

check_mounts() {
        local m
        for m in file disk; do
                mountpoint -q /srv/$m || die "/srv/$m is not mounted: $(systemctl status srv-$m.mount vss-attach 'vss-cow@*' --no-pager)"
                expect_equal "kept $1" "$(cat /srv/$m/kept)" "what is on /srv/$m"
                expect_equal active "$(systemctl is-active "dev-vss-$m.device")" "the device unit of $m"
                expect_equal "$(readlink -f /dev/vss/$m)" "$(findmnt -no SOURCE /srv/$m)" "what /srv/$m is mounted from"
        done
        expect_equal active "$(systemctl is-active local-fs.target)" local-fs.target
        mount "$(cat /var/lib/origin)" /mnt 2>/dev/null && die "the origin could be mounted beside the volume"
        expect_equal "$(readlink -f /dev/vss/disk)" "$(readlink -f "/dev/disk/by-uuid/$(cat /var/lib/uuid)")" "the device with the UUID"
        expect_exit 0 vssctl status >/dev/null
        vssctl --json snapshots >/run/vss-test/snapshots
        [ "$(jq '.snapshots | length' /run/vss-test/snapshots)" -ge 2 ] || die "snapshots are missing: $(cat /run/vss-test/snapshots)"
        id=$(jq -r '.snapshots[] | select(.mountpoint == "/srv/disk").id' /run/vss-test/snapshots | head -1)
        dir=$(vssctl mount "$id")
        expect_equal "kept 1" "$(cat "$dir/kept")" "what the first copy of /srv/disk has after boot $VM_BOOT"
        vssctl umount "$id"
}

case $VM_BOOT in
1)
        truncate -s 200M /var/lib/file.img
        expect_exit 0 vssctl volume create file --origin=/var/lib/file.img --store=/var/lib/vss/cow/one.store --store-max=300M
        readlink -f "$d0" >/var/lib/origin # a disk that is hidden has no link by its name either
        expect_exit 0 vssctl volume create disk --origin="$(cat /var/lib/origin)" --store=/var/lib/vss/cow/two.store --store-max=300M
        expect_equal 2 "$(systemctl list-units --plain --no-legend --state=active 'vss-cow@*' | wc -l)" "units of engines"
        udevadm settle
        for m in file disk; do
                expect_equal active "$(systemctl is-active "dev-vss-$m.device")" "the device unit of $m"
                mkfs.ext4 -q /dev/vss/$m
                mkdir /srv/$m
        done
        udevadm settle
        blkid -s UUID -o value /dev/vss/disk >/var/lib/uuid
        {
                echo "/dev/vss/file /srv/file ext4 defaults 0 2"
                echo "UUID=$(cat /var/lib/uuid) /srv/disk ext4 defaults 0 2"
        } >>/etc/fstab
        systemctl daemon-reload
        mount /srv/file
        mount /srv/disk
        echo "kept 1" | tee /srv/file/kept >/srv/disk/kept
        sync
        expect_exit 0 vssctl create /srv/file /srv/disk >/dev/null
        check_mounts 1
        vm-next-boot --reboot
        ;;
2)
        check_mounts 1
        grep -q "unverified" /run/vss-test/snapshots && die "a reboot in order makes copies unverified: $(cat /run/vss-test/snapshots)"
        echo "kept 2" | tee /srv/file/kept >/srv/disk/kept
        truncate -s 16M /var/lib/lost.img
        expect_exit 0 vssctl volume create lost --origin=/var/lib/lost.img --store=/var/lib/vss/cow/one.store
        rm /var/lib/lost.img
        sync
        vm-next-boot
        ;;
3)
        check_mounts 2
        journalctl -b -o cat -u 'vss-cow@*' | grep "volume lost cannot be attached: .*/var/lib/lost.img" ||
                die "nobody says that lost.img is missing: $(journalctl -b -o cat --no-pager -u 'vss-cow@*')"
        vssctl volume attach lost 2>/run/vss-test/refused && die "a volume without its origin was attached"
        note "$(cat /run/vss-test/refused)"
        grep -q /var/lib/lost.img /run/vss-test/refused || die "the reason does not name the origin: $(cat /run/vss-test/refused)"
        expect_exit 0 vssctl volume remove lost
        for m in file disk; do
                umount /srv/$m
                e2fsck -fn /dev/vss/$m || die "the file system of $m is damaged"
                expect_exit 0 vssctl volume detach $m
        done
        [ -z "$(ls /var/lib/vss/cow/attached)" ] || die "what is detached would be attached at the next boot"
        ;;
esac
