#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssd when nobody wants anything, in a release build: a minute after the last call it takes under 10 MiB of memory and
# does not wake up at all.
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4
watchdog 200

new_fs data ext4 32M
start_bus
start_vssd
expect_exit 0 vssctl create --provider=null "$data" >/dev/null
expect_exit 0 vssctl --json status >/dev/null
sleep 60
switches() { awk '/ctxt_switches/ {n += $2} END {print n}' "/proc/$VSSD_PID/status"; }
before=$(switches)
sleep 30
expect_equal "$before" "$(switches)" "context switches of the idle vssd"
rss=$(awk '/^VmRSS/ {print $2}' "/proc/$VSSD_PID/status")
note "$rss KiB resident, no wake-up in 30 s"
[ "$rss" -lt 10240 ] || die "vssd holds $rss KiB"
stop_vssd
