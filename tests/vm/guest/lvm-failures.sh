#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# lvm fails in the worst moment: it dies, hangs or talks nonsense between the suspend and the resume of a volume, alone or with
# everything of ours (hazards A2, B13). Nothing stays suspended, the service goes on, and what it has left is cleaned up.
# kernel: 6.12 6.1
# disks: 600M
# seconds: 560
. "$(dirname "$0")/functions.sh"

mode=$VSS_TEST_DIR/mode
configure Timeouts hold=25 freeze=60 provider=120 abort=60
vgcreate -q vg "$d0" >/dev/null
lvcreate -q -y -n thick -L 64m vg >/dev/null
lvcreate -q -y --type thin-pool -n pool -L 96m vg >/dev/null
lvcreate -q -y -n thin -V 64m --thinpool pool vg >/dev/null
new_fs thick ext4 /dev/vg/thick
new_fs thin ext4 /dev/vg/thin

# lvm, but for lvcreate when $mode says so: it is killed or stopped the moment its volume is suspended.
cat >"$VSS_TEST_DIR/lvm" <<EOF2
#!/usr/bin/python3
import os, signal, sys, time
LVM = "/usr/sbin/lvm"
mode = open("$mode").read().strip() if os.path.exists("$mode") else ""
if sys.argv[1] == "lvs" and mode == "rubbish":
    print('{"report":[{"lv":[{"vg_name":"vg\x00')
    sys.exit(0)
if sys.argv[1] != "lvcreate" or mode not in ("die", "stop"):
    os.execv(LVM, ["lvm"] + sys.argv[1:])
origin = next(a for a in sys.argv[2:] if a.startswith("vg/") and "vss-" not in a)
name = os.path.basename(os.path.realpath("/dev/" + origin))
suspended = open("/sys/block/" + name + "/dm/suspended")
child = os.fork()
if child == 0:
    os.execv(LVM, ["lvm"] + sys.argv[1:])
while True:
    suspended.seek(0)
    if suspended.read(1) == "1":
        break
    if os.waitpid(child, os.WNOHANG)[0]:
        sys.exit("lvcreate was not seen suspending")
if mode == "die":
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    open("$VSS_TEST_DIR/hit", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
os.kill(child, signal.SIGSTOP)
open("$VSS_TEST_DIR/stopped", "w").write(str(child))
status = os.waitpid(child, 0)[1]
sys.exit(os.waitstatus_to_exitcode(status) & 127)
EOF2
chmod +x "$VSS_TEST_DIR/lvm"
service_environment vssd.service "VSS_LVM=$VSS_TEST_DIR/lvm"
systemctl restart vssd

none_suspended() { ! dmsetup info -c --noheadings -o suspended | grep -q Suspended; }
no_copies() { [ -z "$(lvs --noheadings -o lv_name -S 'lv_name=~^vss-' | tr -d ' ')" ]; }
layers() { dmsetup info -c --noheadings -o name | grep -E 'vss|-real|-cow' || :; }
one_good_set() {
        rm -f "$mode"
        vssctl create --provider=lvm "$1" >/dev/null
        delete_all
}
end_well() { # after what happened to VOLUME
        must_write 20 "$1"
        wait_until 30 none_suspended || die "something stays suspended: $(dmsetup info -c)"
        rm -f "$mode"
        wait_until 90 no_copies || die "a copy stays: $(lvs -o +lv_tags)"
        expect_equal "" "$(layers)" "device-mapper devices left"
        expect_equal "" "$(ls /run/vss/held)" "what is held"
        one_good_set "$1"
}

dies() {
        echo die >"$mode"
        rm -f "$VSS_TEST_DIR/hit"
        expect_exit 1 vssctl create --provider=lvm "$1" 2>"$VSS_TEST_DIR/err"
        [ -e "$VSS_TEST_DIR/hit" ] || die "lvm was not hit: $(cat "$VSS_TEST_DIR/err")"
        grep -q 'ended by a signal' "$VSS_TEST_DIR/err" || die "it does not say what happened: $(cat "$VSS_TEST_DIR/err")"
        end_well "$1"
}
case_lvm_dies_while_a_thick_volume_is_suspended() { dies "$thick"; }
case_lvm_dies_while_a_thin_volume_is_suspended() { dies "$thin"; }

hangs() {
        local pid status=0
        echo stop >"$mode"
        rm -f "$VSS_TEST_DIR/stopped"
        vssctl create --provider=lvm "$1" 2>"$VSS_TEST_DIR/err" &
        local create=$!
        wait_until 60 test -s "$VSS_TEST_DIR/stopped" || die "lvm was not stopped: $(cat "$VSS_TEST_DIR/err")"
        pid=$(cat "$VSS_TEST_DIR/stopped")
        must_write 60 "$1" # by the deadline, although lvm still hangs
        wait $create || status=$?
        expect_equal 6 $status "end of a set whose lvm hangs: $(cat "$VSS_TEST_DIR/err")"
        [ -d "/proc/$pid" ] || die "lvm was killed"
        expect_exit 0 timeout 30 vssctl status >/dev/null
        rm -f "$mode"
        expect_exit 8 vssctl create --provider=lvm "$1" 2>"$VSS_TEST_DIR/err" # as long as it hangs
        kill -CONT "$pid"
        end_well "$1"
}
case_lvm_hangs_while_a_thick_volume_is_suspended() { hangs "$thick"; }
case_lvm_hangs_while_a_thin_volume_is_suspended() { hangs "$thin"; }

case_everything_dies_while_a_volume_is_suspended() {
        echo stop >"$mode"
        rm -f "$VSS_TEST_DIR/stopped"
        vssctl create --provider=lvm "$thick" >/dev/null 2>&1 &
        wait_until 60 test -s "$VSS_TEST_DIR/stopped" || die "lvm was not stopped"
        pkill -KILL -f '^[^ ]*vss-guard|^[^ ]*vssd$|vss-provider-host|vss-lvm-keeper|^lvm' || :
        kill -KILL "$(cat "$VSS_TEST_DIR/stopped")" || :
        rm -f "$mode"
        systemctl start vssd
        end_well "$thick"
}

case_nonsense_is_an_error() {
        echo rubbish >"$mode"
        expect_exit 1 vssctl create --provider=lvm "$thick" 2>"$VSS_TEST_DIR/err"
        grep -q 'makes no sense' "$VSS_TEST_DIR/err" || die "it does not say so: $(cat "$VSS_TEST_DIR/err")"
        end_well "$thick"
}

cases lvm_dies_while_a_thick_volume_is_suspended lvm_dies_while_a_thin_volume_is_suspended \
        lvm_hangs_while_a_thick_volume_is_suspended lvm_hangs_while_a_thin_volume_is_suspended \
        everything_dies_while_a_volume_is_suspended nonsense_is_an_error
