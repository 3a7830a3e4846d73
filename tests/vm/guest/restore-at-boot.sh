#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A restore that waits for the next start of the machine: vss-restore-at-boot.service swaps the files before a service of the
# boot reads them, after a reboot in order, and after a power cut that came when two of three files had changed places and
# this was on the disk.
# disks: 300M
# root: ext4
# boots: 4
# seconds: 200
. "$(dirname "$0")/functions.sh"

fill() { for f in one two three; do echo "$1 $f" >/srv/app/$f; done; }
contents() { cat /srv/app/{one,two,three} | paste -sd,; }
saved="saved one,saved two,saved three"
plans() { vssctl --json restore --pending | jq -r "[.plans[] | $1] | join(\" \")"; }
# stage: the files of the backup, for the next start
stage() {
        fill changed
        sync
        vssctl --json restore /var/lib/manifest >"$VSS_TEST_DIR/restored" || die "restore: $(cat "$VSS_TEST_DIR/restored")"
        expect_equal "changed one,changed two,changed three" "$(contents)" "files before the reboot"
}
run_writer() { testwriter --name=shop --document=/var/lib/document; }
# came_back WHICH: as the service of the boot has seen them, too
came_back() {
        expect_equal "$saved" "$(contents)" "files after $1"
        expect_equal "$saved" "$(paste -sd, </var/lib/seen)" "what the service saw after $1"
        expect_equal "" "$(find /srv/app -name '.vss-restore-*')" "files beside their places"
        expect_equal success "$(systemctl show -P Result vss-restore-at-boot)" "the unit: $(journalctl -b -o cat --no-pager -u vss-restore-at-boot)"
        journalctl -b -o cat --no-pager -u vss-restore-at-boot | grep -q 'shop:all: 3 files are restored' ||
                die "the journal does not tell: $(journalctl -b -o cat --no-pager -u vss-restore-at-boot)"
}

case $VM_BOOT in
1)
        mkfs.btrfs -q -L app "$d0" >/dev/null
        mkdir -p /srv/app
        echo "LABEL=app /srv/app btrfs defaults 0 0" >>/etc/fstab
        systemctl daemon-reload
        mount /srv/app
        cat >/etc/systemd/system/app.service <<'EOU'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cat /srv/app/one /srv/app/two /srv/app/three >/var/lib/seen'
[Install]
WantedBy=multi-user.target
EOU
        systemctl -q enable app
        echo '{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"shop"},"backup_schema":[],"restore":{"method":"at-reboot"},
               "components":[{"path":"all","type":"file-group","selectable":true,"files":[{"root":"/srv/app","pattern":"*"}]}]}' >/var/lib/document
        fill saved
        run_writer
        expect_exit 0 vssctl create --manifest=/var/lib/manifest --component=shop:all /srv/app >/dev/null
        stage
        systemctl start app
        systemctl start vss-restore-at-boot
        expect_equal "changed one,changed two,changed three" "$(contents)" "files after a start that is too late"
        expect_equal exec-condition "$(systemctl show -P Result vss-restore-at-boot)" "the unit that was started too late"
        expect_equal "staged 3" "$(plans '.state, .n_files')" "plans"
        vm-next-boot --reboot
        ;;
2)
        came_back "a reboot"
        expect_equal "done 3" "$(plans '.state, .n_files')" "plans"
        mkdir /etc/systemd/system/vss-restore-at-boot.service.d
        cat >/etc/systemd/system/vss-restore-at-boot.service.d/cut.conf <<'EOU'
[Service]
ExecStart=
ExecStart=/usr/bin/bash /usr/lib/vss-vm/cut
EOU
        cat >/usr/lib/vss-vm/cut <<'EOC'
program=/usr/libexec/vss/vss-restore-at-boot
[ ! -e /var/lib/cut ] || exec $program
strace -qq -o /dev/null -e trace=renameat2 -e inject=renameat2:delay_exit=300000000:when=4 $program &
until grep -q saved /srv/app/two; do sleep 0.2; done
cat /srv/app/one /srv/app/two /srv/app/three >/var/lib/cut
sync
PATH=$PATH:/usr/lib/vss-vm/bin vm-next-boot
EOC
        run_writer
        stage
        vm-next-boot --reboot
        ;;
4)
        expect_equal "saved one,saved two,changed three" "$(paste -sd, </var/lib/cut)" "files when the power went"
        came_back "a power cut"
        expect_equal "done 3 done 3" "$(plans '.state, .n_files')" "plans"
        ;;
*) die "boot $VM_BOOT came to its end" ;;
esac
