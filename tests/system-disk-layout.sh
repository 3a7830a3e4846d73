#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The layout of the disks goes along with a backup, and what it says is enough to make them again. Partition tables are
# real ones on loop devices. Where the kernel has no arrays and no device mapper, and nobody tells lsblk what is on a
# device, the tools for that are stood in for by what they said elsewhere: mdadm 4.2 of a member with a superblock of
# version 1.2, lvm 2.03.16 of a group that it made on a loop device.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 sfdisk lsblk jq
watchdog 100
data='' one='' two=''
manifest=$VSS_TEST_DIR/manifest
spool=$VSS_TEST_DIR/spool
tools=$VSS_TEST_DIR/tools
mkdir "$tools"

# disk VAR SCRIPT: a loop device with that partition table (of sfdisk), or none
disk() {
        local image=$VSS_TEST_DIR/$1.img dev
        truncate -s 64M "$image"
        [ -z "$2" ] || sfdisk -q "$image" <<<"$2"
        dev=$(losetup --find --show "$image")
        cleanup_fn losetup -d "$dev"
        printf -v "$1" %s "$dev"
}

# tool NAME <SCRIPT: stands in for a program, until it is removed
tool() {
        { echo '#!/bin/bash'; cat; } >"$tools/$1"
        chmod 755 "$tools/$1"
}

# layout EXPRESSION: of what the manifest says
layout() { jq -r '.writers[] | select(.name == "disk-layout") | .components[0].metadata' <"$manifest" | jq -er "$1"; }


case_a_disk_is_made_again_from_it() {
        local new before after name
        create --bootable-state --manifest="$manifest"
        expect_equal 0 "$(layout '.problems | length')" "problems: $(layout .problems)"
        expect_equal "gpt dos" "$(layout '[.disks[].table.label] | join(" ")')" "kinds of tables"
        expect_equal 'efi x' "$(layout '.disks[0].table.partitions[0].name')" "a name of a partition"
        expect_equal 67108864 "$(layout '.disks[0].size')" "size of a disk"
        expect_equal "$(layout . | jq -S .)" "$(jq -S . <"$spool/layout.json")" "what the manifest and the file say"
        [ -s "$spool/files/proc/cmdline" ] || die "how it was booted is not among the files"
        expect_equal 700 "$(stat -c %a "$spool")" "mode of the directory"
        for before in "$one" "$two"; do
                name=${before##*/}
                new=$VSS_TEST_DIR/new-$name
                truncate -s 64M "$new"
                sfdisk -q "$new" <"$spool/disks/$name.sfdisk" || die "sfdisk does not take back what was saved of $name"
                after=$(sfdisk --json "$new" | jq -S "del(.partitiontable.device) | del(.partitiontable.partitions[].node)")
                expect_equal "$(sfdisk --json "$before" | jq -S "del(.partitiontable.device) | del(.partitiontable.partitions[].node)")" \
                        "$after" "the table of a new disk"
        done
        delete_all
}

case_it_widens_no_set_and_holds_nobody() {
        create --provider=null "$data"
        set_field '.writers[]? | select(.name == "disk-layout")' && die "it takes part in a set of which it has no data"
        expect_equal filesystem "$(set_field .consistency)" "level of a volume that nobody has data on"
        create --component=disk-layout:layout --manifest="$manifest"
        expect_equal 0 "$(set_field '.snapshots | length' || :)" "volumes that its component needs"
        delete_all
        expect_equal "identify prepare-backup" "$(busctl --json=short get-property org.vssd.Vss1 /org/vssd/Vss1/writers/disk_2dlayout/_ org.vssd.Vss1.WriterEntry Events | jq -r '.data | join(" ")')" "events it hears"
}

case_what_is_the_same_is_not_written_again() {
        local before
        create --bootable-state
        before=$(stat -c '%i %Y' "$spool/layout.json" "$spool/disks/${one##*/}.sfdisk")
        mkdir "$spool/disks/old"
        touch "$spool/disks/old/gone.sfdisk" "$spool/files/gone"
        create --bootable-state
        expect_equal "$before" "$(stat -c '%i %Y' "$spool/layout.json" "$spool/disks/${one##*/}.sfdisk")" "files that are the same"
        [ ! -e "$spool/disks/old" ] && [ ! -e "$spool/files/gone" ] || die "files of a layout before are left"
        ln -s "$VSS_TEST_DIR/victim" "$spool/.new"
        rm "$spool/layout.json"
        create --bootable-state
        [ -s "$spool/layout.json" ] && [ ! -e "$VSS_TEST_DIR/victim" ] || die "it wrote through a link"
        chmod 777 "$spool"
        create --bootable-state --manifest="$manifest"
        grep -q 'not a directory that only uid 0 writes to' "$manifest" || die "it writes where everybody may: $(cat "$manifest")"
        chmod 700 "$spool"
        # a directory that is somebody's, given by mistake
        mkdir "$spool/mine"
        touch "$spool/mine/letter" "$spool/disks/old"
        create --bootable-state --manifest="$manifest"
        grep -q 'holds mine, which is of no layout' "$manifest" || die "it takes a directory of somebody: $(cat "$manifest")"
        [ -e "$spool/mine/letter" ] && [ -e "$spool/disks/old" ] || die "it removed what is not its own"
        rm -r "$spool/mine"
        delete_all
}

# What a disk or a tool does wrong is a line in the layout, and the set is made.
case_what_cannot_be_read_is_said() {
        local start
        tool sfdisk <<<'yes "$2" | head -c 3000000'
        create --bootable-state --manifest="$manifest"
        layout '.problems[]' | grep -q 'sfdisk says more than 1048576 bytes' || die "no bound: $(layout .problems)"
        tool sfdisk <<<'[ "$1" = --dump ] || { echo "{\"partitiontable\":{},\"partitiontable\":{}}"; exit; }; echo label: gpt'
        create --bootable-state --manifest="$manifest"
        layout '.problems[]' | grep -q 'not good JSON' || die "a key given twice: $(layout .problems)"
        [ "$(cat "$spool/disks/${one##*/}.sfdisk")" = "label: gpt" ] || die "the readable half is not kept"
        tool sfdisk <<<'printf "cannot read \033[31m%s\n" "$2" >&2; exit 1'
        create --bootable-state --manifest="$manifest"
        layout '.problems[]' | grep -q 'its partition table cannot be read: sfdisk: cannot read' || die "no reason: $(layout .problems)"
        expect_equal null "$(layout '.disks[0].table | tojson')" "table of a disk that cannot be read"
        rm "$tools/sfdisk"
        # one that never ends costs its ten seconds, once for each disk
        tool lsblk <<<'sleep 60'
        start=$SECONDS
        create --bootable-state --manifest="$manifest"
        layout '.problems[]' | grep -q 'lsblk does not end' || die "a tool that hangs: $(layout .problems)"
        [ $((SECONDS - start)) -lt 20 ] || die "it took $((SECONDS - start)) s"
        rm "$tools/lsblk"
        # a disk full of nothing that anybody knows has no table
        head -c 1M /dev/urandom | dd of="$two" conv=notrunc status=none
        create --bootable-state --manifest="$manifest"
        expect_equal "null 0" "$(layout '(.disks[1].table | tojson) + " " + (.problems | length | tostring)')" "a disk without a table"
        delete_all
}

case_arrays_and_volume_groups() {
        tool lsblk <<'LSBLK'
echo '{"blockdevices":[{"name":"sdb1","path":"/dev/sdb1","pkname":"sdb","type":"part","size":67108864,"fstype":"linux_raid_member"},
 {"name":"sdb2","path":"/dev/sdb2","pkname":"sdb","type":"part","size":67108864,"fstype":"LVM2_member"}]}'
LSBLK
        create --bootable-state --manifest="$manifest"
        command -v mdadm >/dev/null || layout '.problems[]' | grep -q 'array.*mdadm is not installed' || die "no word of mdadm: $(layout .problems)"
        command -v lvm >/dev/null || layout '.problems[]' | grep -q 'volume groups.*lvm is not installed' || die "no word of lvm: $(layout .problems)"
        tool mdadm <<'MDADM'
[ "$*" = "--examine --export /dev/sdb1" ] || exit 2
cat <<EXPORT
MD_LEVEL=raid1
MD_DEVICES=2
MD_NAME=office:data
MD_ARRAY_SIZE=65.01MB
MD_UUID=00010203:04050607:08090a0b:0c0d0e0f
MD_UPDATE_TIME=1764000000
MD_DEV_UUID=10111213:14151617:18191a1b:1c1d1e1f
MD_EVENTS=3
EXPORT
MDADM
        tool lvm <<'LVM'
[ "$1" = fullreport ] || exit 2
cat <<REPORT
  {
      "report": [
          {
              "vg": [
                  {"vg_fmt":"lvm2", "vg_uuid":"OfFZOV-t7Jc-Dq81-vtZ1-uSme-dgKU-6osOYA", "vg_name":"office", "vg_attr":"wz--n-", "vg_size":"62914560", "vg_extent_size":"4194304"}
              ]
              ,
              "pv": [
                  {"pv_fmt":"lvm2", "pv_uuid":"Z3OCzy-9mJj-CmU8-MGfz-jtYQ-b4ZA-QSDufy", "dev_size":"67108864", "pv_name":"/dev/loop3", "pe_start":"1048576"}
              ]
              ,
              "lv": [
                  {"lv_uuid":"ZIDZCo-vYAv-9mtT-Bd3a-jZ1m-7JH4-al6AWV", "lv_name":"data", "lv_full_name":"office/data", "lv_layout":"linear", "lv_size":"12582912"}
              ]
              ,
              "pvseg": [
                  {"pvseg_start":"0", "pvseg_size":"3", "pv_uuid":"Z3OCzy-9mJj-CmU8-MGfz-jtYQ-b4ZA-QSDufy", "lv_uuid":"ZIDZCo-vYAv-9mtT-Bd3a-jZ1m-7JH4-al6AWV"}
              ]
              ,
              "seg": [
                  {"segtype":"linear", "stripes":"1", "seg_start":"0", "seg_size":"12582912", "seg_pe_ranges":"/dev/loop3:0-2", "lv_uuid":"ZIDZCo-vYAv-9mtT-Bd3a-jZ1m-7JH4-al6AWV"}
              ]
          }
      ]
  }
REPORT
LVM
        create --bootable-state --manifest="$manifest"
        expect_equal 0 "$(layout '.problems | length')" "problems: $(layout .problems)"
        expect_equal "raid1 00010203:04050607:08090a0b:0c0d0e0f /dev/sdb1" "$(layout '.md[0] | [.MD_LEVEL, .MD_UUID, .path] | join(" ")')" "the array"
        expect_equal "office data linear 12582912" "$(layout '.lvm[0] | [.vg[0].vg_name, .lv[0].lv_name, .seg[0].segtype, .seg[0].seg_size] | join(" ")')" "the volume group"
        # what does not fit into a manifest is in the file
        tool lvm <<<"echo '{\"report\":[{\"vg\":[{\"vg_name\":\"'\$(head -c 100000 /dev/zero | tr '\\0' x)'\"}]}]}'"
        create --bootable-state --manifest="$manifest"
        expect_equal "null the rest is in layout.json" "$(layout '(.lvm | tojson) + " " + .shortened')" "a long layout in the manifest"
        # the kernel's command line alone can be longer than what vssd takes
        expect_equal true "$(jq '[.writers[0].components[0].metadata | length <= 4096] | all' <"$manifest")" "length in the manifest"
        tool lvm <<<"echo '{\"report\":[{\"vg\":[{\"vg_name\":\"'\$(head -c 5000 /dev/zero | tr '\\0' x)'\"}]}]}'"
        create --bootable-state --manifest="$manifest"
        expect_equal 5000 "$(jq '.lvm[0].vg[0].vg_name | length' <"$spool/layout.json")" "a layout of more than 4096 bytes"
        tool lvm <<<"echo '{\"report\":[{\"vg\":[{\"vg_name\":\"'\$(head -c 100000 /dev/zero | tr '\\0' x)'\"}]}]}'"
        create --bootable-state --manifest="$manifest"
        expect_equal 100000 "$(jq '.lvm[0].vg[0].vg_name | length' <"$spool/layout.json")" "a long layout in the file"
        rm "$tools"/*
        delete_all
}

case_it_goes_back_by_hand() {
        create --bootable-state --manifest="$manifest"
        mkdir "$VSS_TEST_DIR/back"
        expect_exit 10 vssctl restore "$manifest" --from=/ 2>/dev/null
        expect_exit 0 vssctl restore "$manifest" --from=/ --to="$VSS_TEST_DIR/back" --no-writers >/dev/null
        cmp "$spool/layout.json" "$VSS_TEST_DIR/back/layout.json" || die "the layout did not come back"
        delete_all
}

disk one "label: gpt
size=10M, type=U, name=\"efi x\"
size=20M, name=root"
disk two "label: dos
size=10M, type=83, bootable
size=20M, type=fd"
new_fs data ext4 32M
start_bus
start_vssd
PATH=$tools:$PATH start_writer "$VSS_BUILD/writers/vss-writer-disk-layout" --directory="$spool" "$one" "$two"
cases a_disk_is_made_again_from_it it_widens_no_set_and_holds_nobody what_is_the_same_is_not_written_again \
        what_cannot_be_read_is_said arrays_and_volume_groups it_goes_back_by_hand
