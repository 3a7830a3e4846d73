#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-disk-layout@ with the rights that its unit leaves it, on a real udev and a real LVM: what it says of the disks, and
# that it cannot write to them.
# disks: 256M
# seconds: 120
. "$(dirname "$0")/functions.sh"
disk=$(realpath "$d0")

vgcreate -q office "$d0" >/dev/null
lvcreate -q -y -n data -L 64m office >/dev/null
mkfs.ext4 -q /dev/office/data
udevadm settle
systemctl start vss-writer-disk-layout@disk-layout.service
listed() { vssctl --json writers | jq -e '.writers[] | select(.name == "disk-layout")' >/dev/null; }
manifest=$VSS_TEST_DIR/manifest
layout() { jq -er "$1" </var/lib/vss-disk-layout/layout.json; }

case_disks_are_read_and_not_written() {
        local group
        wait_until 60 listed || die "the writer does not come up: $(systemctl status --no-pager vss-writer-disk-layout@disk-layout)"
        vssctl --json create --bootable-state --manifest="$manifest" >"$VSS_TEST_DIR/set.json" || die "$(cat "$VSS_TEST_DIR/set.json")"
        expect_equal "office data $disk" "$(jq -r '.lvm[] | select(.vg[0].vg_name == "office") | [.vg[0].vg_name, .lv[0].lv_name, .pv[0].pv_name] | join(" ")' \
                </var/lib/vss-disk-layout/layout.json)" "the volume group: $(jq .problems </var/lib/vss-disk-layout/layout.json)"
        expect_equal "$(uname -n)" "$(jq -r '.writers[] | select(.name == "disk-layout") | .components[0].metadata' <"$manifest" | jq -r .host.name)" "the host, in the manifest"
        expect_equal LVM2_member "$(layout ".block_devices[] | select(.path == \"$disk\") | .fstype")" "what is on the disk"
        expect_equal ext4 "$(layout '.block_devices[] | select(.path == "/dev/mapper/office-data") | .fstype')" "what is on the logical volume"
        expect_equal "" "$(layout '.problems | join("; ")')" "problems"
        group=/sys/fs/cgroup$(systemctl show -P ControlGroup vss-writer-disk-layout@disk-layout.service)
        bash -c 'echo $$ >"$0/cgroup.procs" && dd if="$1" of=/dev/null bs=4k count=1' "$group" "$d0" 2>"$VSS_TEST_DIR/said" ||
                die "the disk cannot be read there: $(cat "$VSS_TEST_DIR/said")"
        bash -c 'echo $$ >"$0/cgroup.procs" && : <>"$1"' "$group" "$d0" 2>"$VSS_TEST_DIR/said" && die "the disk can be opened for writing there"
        grep -q 'not permitted' "$VSS_TEST_DIR/said" || die "another reason: $(cat "$VSS_TEST_DIR/said")"
}

cases disks_are_read_and_not_written
