#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The engine has a unit of its own: vssd's end does not touch it, nobody stops it by mistake, `isolate rescue` and the force
# of `umount -f` go past it, its server's death is a pause and not an error, and when all of its control group is killed it
# is there again with the volume's device. A machine with a volume mounted goes down in order, and in time.
# disks: 300M
# root: ext4
# boots: 2
# seconds: 300
. "$(dirname "$0")/functions.sh"

if [ "$VM_BOOT" = 2 ]; then
        begin=$(cat /var/lib/reboot-began)
        note "the machine was down and up again after $(($(date +%s) - begin)) s"
        [ $(($(date +%s) - begin)) -le 150 ] || die "the reboot took $(($(date +%s) - begin)) s"
        journalctl -b -1 --no-pager -u 'vss-cow@*' | grep -q "Deactivated successfully" ||
                die "the engine did not end in order: $(journalctl -b -1 --no-pager -u 'vss-cow@*' | tail)"
        expect_exit 0 mount /dev/vss/data /srv
        expect_equal last "$(cat /srv/last)" "what was written before the reboot"
        exit 0
fi

expect_exit 0 vssctl volume create data --origin="$(readlink -f "$d0")" --store=/var/lib/vss/cow/one.store --store-max=300M
mkfs.ext4 -q /dev/vss/data
mount /dev/vss/data /srv
expect_exit 0 vssctl create /srv >/dev/null
unit=$(systemctl list-units --plain --no-legend 'vss-cow@*' | awk '{print $1}')
holder() { systemctl show -P MainPID "$unit"; }
server() { pgrep -P "$(holder)" | head -1; }
writes() { timeout 60 dd if=/dev/urandom of="/srv/$1" bs=64k count=40 oflag=direct status=none && sync -f "/srv/$1"; }
journalctl -b -o cat --no-pager | grep "world-inaccessible" && die "systemd warns of a file of ours"
[ "$(holder)" -gt 0 ] || die "$unit has no process: $(systemctl status "$unit")"
case $(tr '\0' ' ' <"/proc/$(holder)/cmdline") in @*) ;; *) die "the holder would be killed at shutdown: $(tr '\0' ' ' <"/proc/$(holder)/cmdline")" ;; esac
expect_equal -1000 "$(cat "/proc/$(holder)/oom_score_adj")" "oom_score_adj"
before=$(holder)

note "vssd killed with all of its control group, and stopped"
systemctl kill --signal=KILL --kill-whom=all vssd
wait_until 60 is_active vssd || die "vssd does not come back"
systemctl stop vssd
writes one || die "no write without vssd"
note "systemctl stop"
systemctl stop "$unit" 2>/dev/null && die "$unit could be stopped by hand"
writes two || die "no write after the refused stop"
note "umount -f of a volume in use"
(cd /srv && sleep 600) &
user=$!
wait_until 10 test "$(readlink /proc/$user/cwd)" = /srv
umount -f /srv 2>/dev/null && die "a busy file system could be unmounted"
writes three || die "no write after umount -f"
kill $user
note "the server killed"
kill -KILL "$(server)"
writes four || die "no write after the server's death"
expect_equal "$before" "$(holder)" "the holder after the server's death"
note "isolate rescue"
systemctl isolate rescue.target
mountpoint -q /srv || mount /dev/vss/data /srv || die "the volume is gone after isolate rescue"
writes five || die "no write after isolate rescue"
expect_equal "$before" "$(holder)" "the holder after isolate rescue"
systemctl isolate --no-block multi-user.target
wait_until 60 is_active dbus || die "no bus after the rescue"

note "all of the engine's control group killed"
umount /srv
systemctl kill --signal=KILL --kill-whom=all "$unit"
again() { [ "$(holder)" != "$before" ] && [ "$(holder)" != 0 ] && is_active "$unit" && [ -b /dev/vss/data ]; }
wait_until 90 again || die "the engine does not come back: $(systemctl status "$unit" --no-pager)"
expect_exit 0 mount /dev/vss/data /srv
for f in one two three four five; do [ -s /srv/$f ] || die "$f is lost"; done
expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots after the engine's death"
vssctl mount "$(vssctl --json snapshots | jq -r '.snapshots[0].id')" /mnt >/dev/null || die "the copy cannot be mounted"
[ -e /mnt/one ] && die "the copy shows what was written after it"
umount /mnt

echo last >/srv/last
sync
date +%s >/var/lib/reboot-began
vm-next-boot --reboot
