#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The units as systemd has them: nothing to complain of, exposure below its limits, accounts and directories are there, and
# what the sandbox of vssd must not stop works: a copy of a file system is mounted where everybody sees it, below /root and
# /tmp too, and vssd keeps the host's mounts over a restart.
# kernel: 6.12 6.1
# disks: 256M 256M
# seconds: 240
. "$(dirname "$0")/functions.sh"

for unit in /usr/lib/systemd/system/vss*; do
        case $unit in *@.*) unit=${unit/@./@srv-db.} ;; esac
        said=$(systemd-analyze verify --man=no "${unit##*/}" 2>&1) || die "${unit##*/}: $said"
        [ -z "$said" ] || die "${unit##*/}: $said"
done
expect_exit 0 vssctl status >/dev/null
# exposure UNIT LIMIT
exposure() {
        local got
        got=$(systemd-analyze security --no-pager "$1" | sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p')
        note "$1: exposure $got"
        awk "BEGIN {exit !($got <= $2)}" || die "$1: exposure $got is above $2"
}
exposure vssd.service 3.0
exposure vss-provider.service 5.0
# what storage needs is not vssd's (provider-unit.sh looks at the processes)
for right in sys_nice mknod chown ipc_lock; do
        case " $(systemctl show -P CapabilityBoundingSet vssd) " in *" cap_$right "*) die "vssd has cap_$right" ;; esac
        case " $(systemctl show -P CapabilityBoundingSet vss-provider) " in *" cap_$right "*) ;; *) die "provider hosts lack cap_$right" ;; esac
done
! systemctl show -P DeviceAllow vssd | grep -q char-misc || die "vssd's devices: $(systemctl show -P DeviceAllow vssd)"

getent group vss >/dev/null || { systemd-sysusers && getent group vss >/dev/null; } || die "there is no group vss"
for d in /var/lib/vss /var/log/vss /run/vss; do expect_equal "700 root" "$(stat -c '%a %U' $d)" "$d"; done

pid() { systemctl show -P MainPID vssd; }
namespace() { readlink "/proc/$1/ns/mnt"; }
[ "$(namespace "$(pid)")" != "$(namespace 1)" ] || die "vssd is in the mount namespace of the host"
mkdir -p /run/user/data /tmp/data
mkfs.btrfs -q "$d0" && mount "$d0" /run/user/data
mkfs.btrfs -q "$d1" && mount "$d1" /tmp/data
echo old >/run/user/data/file
expect_exit 0 vssctl create --provider=btrfs --label=alias=one /run/user/data >/dev/null
echo new >/run/user/data/file
expect_exit 0 vssctl create --provider=btrfs --label=alias=two /tmp/data >/dev/null
expect_exit 0 vssctl mount one /run/user/copy >/dev/null
expect_equal old "$(cat /run/user/copy/file)" "the copy as everybody sees it"
systemctl kill --signal=KILL --kill-whom=main vssd
wait_until 60 is_active vssd || die "vssd does not come back"
expect_equal '["/run/user/copy"]' "$(vssctl --json snapshots | jq -c '[.snapshots[].mounts[]]')" "what vssd knows of its mounts after its death"
expect_exit 0 vssctl umount one >/dev/null
mountpoint -q /run/user/copy && die "the copy is still mounted"
expect_exit 0 vssctl delete one two >/dev/null

# nothing of vssd's keeps a file system busy
umount /run/user/data
mkfs.ext4 -q -F "$d0" || die "the device is still in use"
