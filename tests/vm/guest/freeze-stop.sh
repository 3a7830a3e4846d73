#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The service is stopped, and killed with everything that is in its unit, while it holds file systems: they run again at once,
# not at the deadline, which is far away here.
# disks: 256M 512M
# seconds: 300
. "$(dirname "$0")/functions.sh"

new_fs one ext4 "$d0"
new_fs two xfs "$d1"
# one commit that takes longer than everything else here, in a hold that would last as long
configure Timeouts hold=60 freeze=80
service_environment vssd.service VSS_FAULT=commit:delay=55000
systemctl start vssd
testwriter --name=probe --volume="$one"
count_writes "$one"
count_writes "$two"

held() {
        local m
        hold_set "$one" "$two"
        for m in "$one" "$two"; do wait_until 10 stands_still "$m" || die "$m is not held"; done
        [ -n "$(ls -A /run/vss/held)" ] || die "nothing is noted as held"
        before=$(writes "$one")
        sleep 2
        expect_equal "$before" "$(writes "$one")" "writes after two seconds of the hold"
}
# after it: nothing good, nothing left
over() {
        wait_set && die "the set is called good: $(cat "$SET_OUT")"
        expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots left"
        expect_equal "" "$(ls -A /run/vss/held)" "what is noted as held"
        expect_equal "" "$(pgrep -x vss-guard)" "guards"
        seen() { vssctl --json writers | jq -e '.writers[] | select(.name == "probe" and .state == "stable")' >/dev/null; }
        wait_until 30 seen || die "the writer did not come back: $(vssctl writers)"
}

case_stop_thaws_first() {
        local since
        held
        since=$EPOCHREALTIME
        expect_exit 0 systemctl stop vssd
        writes_go_on "$since" "$one" "$two"
        expect_equal success "$(systemctl show -P Result vssd)" "result of the stop"
        over
}

case_kill_of_all_in_the_unit() {
        local since
        held
        since=$EPOCHREALTIME
        expect_exit 0 systemctl kill --signal=KILL --kill-whom=all vssd
        writes_go_on "$since" "$one" "$two"
        over
}

# not what systemd does by itself, but an administrator or the OOM killer: the guard as well, wherever it runs
case_kill_of_all_and_of_the_guard() {
        local since
        held
        since=$EPOCHREALTIME
        pkill -KILL -x 'vss-guard|vssd|vss-provider-ho'
        writes_go_on "$since" "$one" "$two"
        over
}

cases stop_thaws_first kill_of_all_in_the_unit kill_of_all_and_of_the_guard
