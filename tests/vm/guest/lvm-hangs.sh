#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# lvm hangs between the suspend and the resume of a volume (hazards A2, B13): the volume goes on at the deadline of the hold, the
# set fails, lvm is left alone and the next sets are refused until it has come back; then its copy goes.
# kernel: 6.12 6.1
# disks: 600M
# long: 6.1
# seconds: 700
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/lvm-double.inc"

hangs() {
        local status=0
        stop_lvm "$1"
        must_write 60 "$1" # by the deadline, although lvm still hangs
        wait "$CREATE" || status=$?
        expect_equal 6 $status "end of a set whose lvm hangs: $(cat "$VSS_TEST_DIR/err")"
        [ -d "/proc/$STOPPED" ] || die "lvm was killed"
        expect_exit 0 timeout 30 vssctl status >/dev/null
        rm -f "$mode"
        expect_exit 8 vssctl create --provider=lvm "$1" 2>"$VSS_TEST_DIR/err" # as long as it hangs
        kill -CONT "$STOPPED"
        end_well "$1"
}
case_lvm_hangs_while_a_thick_volume_is_suspended() { hangs "$thick"; }
case_lvm_hangs_while_a_thin_volume_is_suspended() { hangs "$thin"; }

cases lvm_hangs_while_a_thick_volume_is_suspended lvm_hangs_while_a_thin_volume_is_suspended
