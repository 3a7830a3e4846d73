#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The contract of every provider (tests/contract-provider.c) over engine volumes that are ublk devices.
# kernel: 6.12
# long: 6.12
# root: ext4
# seconds: 300
# programs: contract-provider cow-control
. "$(dirname "$0")/functions.sh"

modprobe ublk_drv
mkdir -p "$VSS_TEST_DIR/source/tests"
ln -s /usr/lib/vss-vm/bin/cow-control "$VSS_TEST_DIR/source/tests/cow-control"
devices() { find /sys/class/ublk-char -mindepth 1 | wc -l; }
# while it runs: its volumes are what the test is about
(wait_until 60 eval '[ "$(devices)" -ge 3 ]' && devices >"$VSS_TEST_DIR/devices") &
env -u VSS_TEST_DIR VSS_SOURCE="$VSS_TEST_DIR/source" VSS_CONTRACT=engine contract-provider
expect_equal 3 "$(cat "$VSS_TEST_DIR/devices")" "ublk devices of the engine"
expect_equal 0 "$(devices)" "ublk devices that are left"
