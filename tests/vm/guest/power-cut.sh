#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The machine is what the tests of power cuts take it for: a cut comes in the middle of writes, without a shutdown; what was
# synced is there at the next boot, in a root that lives on too; and an orderly reboot comes back as well.
# disks: 256M
# boots: 3
# seconds: 120
# root: ext4
. "$(dirname "$0")/functions.sh"
acknowledged=/dev/disk/by-id/virtio-d0

case $VM_BOOT in
1)
        expect_equal ext4 "$(findmnt -no FSTYPE /)" "file system of /"
        new_fs data ext4 "$acknowledged"
        echo kept >/var/lib/kept && sync
        # The light goes out in here, a moment after it was asked for. It is asked for by what was written, and not by the time:
        # beside others this machine writes little in two seconds.
        for ((i = 1; ; i++)); do
                echo $i >"$data/$i"
                sync -f "$data/$i"
                [ $i -ne 5 ] || vm-next-boot 0.5 &
        done
        ;;
2)
        expect_equal kept "$(cat /var/lib/kept)" "what the root kept"
        dumpe2fs -h "$acknowledged" 2>/dev/null | grep -q needs_recovery || die "the file system was unmounted: that was no cut"
        mkdir -p /mnt/data
        mount "$acknowledged" /mnt/data
        n=$(find /mnt/data -type f | wc -l)
        [ "$n" -ge 5 ] || die "only $n files were written before the cut"
        for ((i = 1; i < n; i++)); do expect_equal $i "$(cat /mnt/data/$i)" "a file that was synced before the cut"; done
        note "$n files written before the cut"
        umount /mnt/data
        touch /var/lib/second-boot
        vm-next-boot --reboot
        ;;
3)
        [ -e /var/lib/second-boot ] || die "the second boot left nothing"
        journalctl --no-pager -b -1 | grep -qi "reached target.*\(reboot\|shutdown\)" || die "the reboot was not in order: $(journalctl --list-boots)"
        ;;
esac
