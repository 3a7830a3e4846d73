#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A disk that an engine volume lies on is taken out of the machine: it boots all the same, the other volume of the same store is
# there with its copies, and who asks for the lost one is told which disk is missing. Put back, it has what was on it, and its
# copies too: nothing was written to it or forgotten meanwhile.
# disks: 100M 100M
# root: ext4
# boots: 3
# seconds: 200
# programs: cow-client
. "$(dirname "$0")/functions.sh"

journal_of_engine() { journalctl -b -o cat --no-pager -u vss-attach -u 'vss-cow@*'; }
# copy_of VOLUME CONTENT: its copy has that
copy_of() {
        local id dir
        id=$(vssctl --json snapshots | jq -r --arg m "/srv/$1" '.snapshots[] | select(.mountpoint == $m).id' | head -1)
        dir=$(vssctl mount "$id") || die "the copy of $1 cannot be mounted"
        expect_equal "$2" "$(cat "$dir/kept")" "what the copy of $1 has"
        vssctl umount "$id"
}

case $VM_BOOT in
1)
        for v in here gone; do
                disk=$d0
                [ $v = here ] || disk=$d1
                readlink -f "$disk" >/var/lib/origin-$v
                max=--store-max=200M
                [ $v = here ] || max=''
                expect_exit 0 vssctl volume create $v --origin="$(cat /var/lib/origin-$v)" --store=/var/lib/vss/cow/one.store $max
                mkfs.ext4 -q /dev/vss/$v
                mkdir /srv/$v
                options=defaults
                [ $v = here ] || options=nofail,x-systemd.device-timeout=15s
                echo "/dev/vss/$v /srv/$v ext4 $options 0 2" >>/etc/fstab
        done
        systemctl daemon-reload
        mount /srv/here
        mount /srv/gone
        echo old | tee /srv/here/kept >/srv/gone/kept
        expect_exit 0 vssctl create /srv/here /srv/gone >/dev/null
        echo new | tee /srv/here/kept >/srv/gone/kept
        umount /srv/gone
        sync
        vm-host without d1
        vm-next-boot --reboot
        ;;
2)
        # its name is free, or that of another disk now
        ! grep -qx d1 /sys/block/*/serial || die "the disk is still there"
        expect_equal active "$(systemctl is-active local-fs.target)" local-fs.target
        expect_equal active "$(systemctl is-active multi-user.target)" multi-user.target
        mountpoint -q /srv/gone && die "/srv/gone is mounted"
        journal_of_engine | grep "volume gone cannot be attached: .*$(cat /var/lib/origin-gone)" || die "nobody says which disk is missing: $(journal_of_engine)"
        vssctl volume attach gone 2>"$VSS_TEST_DIR/refused" && die "a volume without its disk was attached"
        note "$(cat "$VSS_TEST_DIR/refused")"
        grep -q "$(cat /var/lib/origin-gone)" "$VSS_TEST_DIR/refused" || die "the reason does not name the disk: $(cat "$VSS_TEST_DIR/refused")"
        mountpoint -q /srv/here || die "/srv/here is not mounted: $(journal_of_engine)"
        expect_equal new "$(cat /srv/here/kept)" "what is on /srv/here"
        expect_exit 0 vssctl status >/dev/null
        copy_of here old
        expect_exit 0 vssctl create /srv/here >/dev/null
        vm-host with d1
        vm-next-boot --reboot
        ;;
3)
        # the boot does not wait for it, and 15 s are little under emulation
        mountpoint -q /srv/gone || wait_until 60 mount /srv/gone || :
        for v in here gone; do mountpoint -q /srv/$v || die "/srv/$v is not mounted: $(journal_of_engine)"; done
        umount /srv/gone
        e2fsck -fn /dev/vss/gone >/dev/null || die "the file system on the disk that was away is damaged"
        mount -o ro /srv/gone
        expect_equal new "$(cat /srv/gone/kept)" "what is on the disk that was away"
        copy_of gone old
        copy_of here old
        dir=/run/vss/cow/$(vssctl --json volume list | json '.volumes[0].storage')
        expect_equal 0 "$(cow-client "$dir" list set= from=0 | jq '[.snapshots[] | select(.unverified)] | length')" "copies that are unverified"
        for v in here gone; do
                umount /srv/$v
                expect_exit 0 vssctl volume detach $v
        done
        ;;
esac
