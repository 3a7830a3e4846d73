#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A vssd whose loop does not turn any more is killed by systemd's watchdog and started again, and what it held is released by
# then. One that is busy with a hold is not taken for one that hangs: the hold here is longer than the watchdog's time. An
# idle one is fed too.
# disks: 256M
# seconds: 300
. "$(dirname "$0")/functions.sh"

new_fs data ext4 "$d0"
service_environment vssd.service VSS_FAULT=commit:delay=8000
printf '[Service]\nWatchdogSec=4\n' >/run/systemd/system/vssd.service.d/watchdog.conf
systemctl daemon-reload
configure Timeouts hold=20
expect_exit 0 vssctl status >/dev/null
testwriter --name=probe --volume="$data"
restarts() { systemctl show -P NRestarts vssd; }

note "a long hold"
hold_set "$data"
wait_set || die "the set failed: $(cat "$SET_OUT" "$SET_OUT.err")"
kill "$PROBE_PID" 2>/dev/null || :
note "nothing to do"
sleep 10
expect_equal 0 "$(restarts)" "restarts of a vssd that is well"

note "a vssd that hangs in a hold"
hold_set "$data"
kill -STOP "$(systemctl show -P MainPID vssd)"
restarted() { [ "$(restarts)" -ge 1 ] && is_active vssd; }
wait_until 40 restarted || die "the watchdog does nothing: $(systemctl status vssd | head -20)"
journalctl -u vssd --no-pager | grep -qi "watchdog timeout" || die "systemd did not say that it was the watchdog"
wait_until 5 probe_runs || die "still held after the watchdog's kill"
is_frozen "$data" && die "left frozen"
kill "$PROBE_PID" 2>/dev/null || :
wait_set && die "the set is called good"
expect_exit 0 vssctl --json snapshots >/dev/null
