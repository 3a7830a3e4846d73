#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A restore that waits for the next start of the machine: vss-restore-at-boot.service swaps the files before a service of the
# boot reads them, after a reboot in order, and after a power cut that came when two of three files had changed places and
# this was on the disk. A restore of that moment that such a power cut ends is undone before the service starts; one that it ends
# when the files are in place and the writer has not been told keeps the service from starting.
# disks: 300M
# root: ext4
# boots: 6
# seconds: 300
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

journal() { journalctl -b -o cat --no-pager -u vss-restore-at-boot; }
# power_cut CALL N WHEN: an ordinary restore stands still at the Nth CALL; the power goes when that is so
power_cut() {
        run_writer
        fill changed
        systemctl restart app
        sync
        strace -qq -o /dev/null -e "trace=$1" -e "inject=$1:$2" vssctl restore /var/lib/ordinary --service=app.service >/var/lib/said 2>&1 &
        wait_until 60 "$3" || die "it does not stand still: $(cat /var/lib/said)"
        expect_equal inactive "$(systemctl is-active app)" "the service"
        contents >/var/lib/cut
        sync
        vm-next-boot
}
two_are_new() { [ "$(grep -l saved /srv/app/one /srv/app/two /srv/app/three | wc -l)" -eq 2 ]; }
all_are_new() { [ "$(contents) $(plans .state)" = "$saved replaced" ]; }

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
        for id in $(plans .id); do vssctl restore --cancel="$id"; done
        rm -r /etc/systemd/system/vss-restore-at-boot.service.d
        sed -i 's/^Type=.*/Type=exec/; s|>/var/lib/seen|\&\& exec sleep infinity|; s|cat /srv|cat >/var/lib/seen /srv|' /etc/systemd/system/app.service
        systemctl daemon-reload
        sed -i 's/at-reboot/stop-restore-start/' /var/lib/document
        fill saved
        run_writer
        expect_exit 0 vssctl create --manifest=/var/lib/ordinary --component=shop:all /srv/app >/dev/null
        stop_process "$WRITER_PID"
        power_cut renameat2 delay_exit=300000000:when=4 two_are_new
        ;;
5)
        expect_equal 2 "$(tr , '\n' </var/lib/cut | grep -c saved)" "new files when the power went: $(cat /var/lib/cut)"
        expect_equal "changed one,changed two,changed three" "$(contents)" "files after a power cut in the middle"
        expect_equal "changed one,changed two,changed three" "$(paste -sd, </var/lib/seen)" "what the service saw after that"
        expect_equal "active success" "$(systemctl is-active app) $(systemctl show -P Result vss-restore-at-boot)" "the units: $(journal)"
        expect_equal "" "$(find /srv/app -name '.vss-restore-*')" "files beside their places"
        journal | grep -q 'a restore that was cut off: .* what was there is back$' || die "the journal does not tell: $(journal)"
        expect_equal "failed shop all" "$(plans '.state, .writer, .path')" "plans"
        vssctl restore --cancel="$(plans .id)"
        power_cut unlinkat delay_enter=300000000:when=3 all_are_new
        ;;
6)
        expect_equal "$saved" "$(cat /var/lib/cut)" "files when the power went"
        expect_equal "$saved" "$(contents)" "files after a power cut when they were in place"
        expect_equal "changed one,changed two,changed three" "$(paste -sd, </var/lib/seen)" "what the service saw: it has not started"
        expect_equal "" "$(find /srv/app -name '.vss-restore-*')" "files beside their places"
        journal | grep -q '^app.service is not started: its restore was cut off' || die "the journal does not tell: $(journal)"
        expect_equal "held app.service" "$(plans '.state, .unit')" "plans"
        systemctl start app && die "the service has started"
        expect_exit 0 vssctl restore --cancel="$(plans .id)"
        expect_exit 0 systemctl start app
        seen() { [ "$(paste -sd, </var/lib/seen)" = "$saved" ]; }
        wait_until 10 seen || die "the service saw $(cat /var/lib/seen)"
        ;;
*) die "boot $VM_BOOT came to its end" ;;
esac
