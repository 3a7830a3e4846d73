#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A host as users have it: systemd runs and nothing has failed, our programs are installed and find their libraries, the first
# call on the bus starts vssd, and it says so itself.
# kernel: 6.12 6.1
# seconds: 120
# start: boot
. "$(dirname "$0")/functions.sh"

expect_equal systemd "$(cat /proc/1/comm)" "PID 1"
expect_equal "" "$(systemctl list-units --failed --plain --no-legend)" "failed units"
for u in dbus systemd-udevd systemd-journald; do expect_equal active "$(systemctl is-active $u)" "$u"; done

for p in /usr/bin/vssctl /usr/libexec/vss/{vssd,vss-guard,vss-provider-host,vss-cow,vss-probe}; do
        [ -x $p ] || die "$p is not installed"
        ldd $p | grep -F "not found" && die "$p misses libraries"
done
systemd-analyze verify --man=no vssd.service || die "vssd.service is not in order"

expect_equal inactive "$(systemctl is-active vssd)" "vssd before the first call"
expect_exit 0 vssctl status
expect_equal active "$(systemctl is-active vssd)" "vssd after the first call"
expect_equal 's "polkit"' "$(busctl get-property org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Authorization)" authorization
journalctl -u vssd --no-pager | grep -q ready || die "vssd is not in the journal"
