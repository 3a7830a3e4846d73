#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# lvm is killed, or talks nonsense, between the suspend and the resume of a volume, alone or with everything of ours (hazards
# A2): nothing stays suspended, the service goes on, and what it has left is cleaned up.
# kernel: 6.12 6.1
# disks: 600M
# long: 6.1
# seconds: 700
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/lvm-double.inc"

dies() {
        echo die >"$mode"
        rm -f "$VSS_TEST_DIR/hit"
        for _ in {1..5}; do # it is not always caught
                expect_exit 1 vssctl create --provider=lvm "$1" 2>"$VSS_TEST_DIR/err"
                [ ! -e "$VSS_TEST_DIR/hit" ] || break
        done
        [ -e "$VSS_TEST_DIR/hit" ] || die "lvm was not hit: $(cat "$VSS_TEST_DIR/err")"
        grep -q 'ended by a signal' "$VSS_TEST_DIR/err" || die "it does not say what happened: $(cat "$VSS_TEST_DIR/err")"
        end_well "$1"
}
case_lvm_dies_while_a_thick_volume_is_suspended() { dies "$thick"; }
case_lvm_dies_while_a_thin_volume_is_suspended() { dies "$thin"; }

case_everything_dies_while_a_volume_is_suspended() {
        stop_lvm "$thick"
        pkill -KILL -f '^[^ ]*vss-guard|^[^ ]*vssd( |$)|vss-provider-host|vss-lvm-keeper|^lvm' || :
        kill -KILL "$STOPPED" 2>/dev/null || :
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
        everything_dies_while_a_volume_is_suspended nonsense_is_an_error
