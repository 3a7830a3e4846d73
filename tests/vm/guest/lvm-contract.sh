#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The contract of every provider (tests/contract-provider.c) over logical volumes: two thin ones and a thick one.
# kernel: 6.12
# disks: 700M
# long: 6.12
# seconds: 1500
# programs: contract-provider
. "$(dirname "$0")/functions.sh"

vgcreate -q vg "$d0" >/dev/null
lvcreate -q -y --type thin-pool -n pool -L 300m vg >/dev/null
lvcreate -q -y -n a -V 64m --thinpool pool vg >/dev/null
lvcreate -q -y -n b -V 64m --thinpool pool vg >/dev/null
lvcreate -q -y -n c -L 32m vg >/dev/null
new_fs a ext4 /dev/vg/a
new_fs b ext4 /dev/vg/b
new_fs c ext4 /dev/vg/c
env -u VSS_TEST_DIR VSS_CONTRACT=lvm contract-provider "$a" "$b" "$c"
