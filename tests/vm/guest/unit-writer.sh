#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-unit@ with services of systemd's: a service without a writer of its own is frozen by systemd while its files are
# copied, and runs again whatever becomes of the writer; one with a watchdog is refused, and so is everything that the machine or the
# snapshot needs.
# disks: 256M
# seconds: 240
. "$(dirname "$0")/functions.sh"

new_fs data btrfs "$d0"
configure Timeouts hold=40 freeze=60 provider=60
cat >/etc/systemd/system/wiki.service <<END
[Service]
ExecStart=/bin/bash -c 'for ((n = 1; ; n++)); do echo \$n >$data/count.new; mv $data/count.new $data/count; sleep 0.05; done'
END
printf '%s\n' unit=wiki.service "volume=$data" >/etc/vss/writers.d/wiki.conf
systemctl daemon-reload
systemctl start wiki.service vss-writer-unit@wiki.service

state() { systemctl show -P FreezerState wiki.service; }
state_is() { [ "$(state)" = "$1" ]; }
listed() { vssctl --json writers | jq -e '.writers[] | select(.name == "wiki")' >/dev/null; }
runs() { # runs WHAT
        local before
        wait_until 30 state_is running || die "$1: wiki.service is $(state)"
        before=$(cat "$data/count")
        wait_until 30 eval '[ "$(cat "$data/count")" != "$before" ]' || die "$1: wiki.service does not go on"
}
# slow_set: a set in the background that stays in its window for a while; returns when the service is frozen
slow_set() {
        service_environment vssd.service VSS_FAULT=commit:delay=4000
        systemctl restart vssd
        wait_until 60 listed || die "the writer does not come back"
        vssctl --json create --provider=fault:btrfs --require=application "$data" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/set.err" &
        SET_PID=$!
        wait_until 40 state_is frozen || die "wiki.service is $(state) in the window: $(cat "$VSS_TEST_DIR"/set.*)"
}

case_frozen_by_systemd_from_freeze_to_thaw() {
        local before
        wait_until 60 listed || die "the writer does not come up: $(systemctl status --no-pager vss-writer-unit@wiki)"
        wait_until 30 test -s "$data/count" || die "nobody counts"
        slow_set
        before=$(cat "$data/count")
        sleep 1
        state_is frozen || die "wiki.service is $(state) too early"
        expect_equal "$before" "$(cat "$data/count")" "what the frozen service counts"
        wait $SET_PID || die "no set: $(cat "$VSS_TEST_DIR"/set.*)"
        runs "after the set"
        expect_equal "$before" "$(cat "$(jq -r '.snapshots[0].path' "$VSS_TEST_DIR/set.json")/count")" "the count in the copy"
        expect_equal application "$(jq -r '.snapshots[0].consistency' "$VSS_TEST_DIR/set.json")" "the level"
        delete_all
}

case_runs_again_whatever_becomes_of_the_writer() {
        slow_set
        systemctl kill --signal=KILL --kill-whom=all vss-writer-unit@wiki
        runs "the unit of the writer killed"
        wait $SET_PID && die "a set that lost its writer is called good"
        wait_until 60 listed || die "the writer is not started again"
        slow_set
        systemctl kill --signal=KILL --kill-whom=all vssd
        runs "vssd killed"
        wait $SET_PID && die "a set that lost vssd is called good"
        wait_until 60 listed || die "the writer does not find the next vssd"
        slow_set
        systemctl stop vss-writer-unit@wiki
        runs "the writer stopped"
        wait $SET_PID && die "a set whose writer was stopped is called good"
        rm /run/systemd/system/vssd.service.d/test.conf
        systemctl daemon-reload
        systemctl restart vssd
}

# refused NAME UNIT REASON: its writer ends at once, says why and is not tried again
refused() {
        local unit=vss-writer-unit@$1.service
        printf "%s\n" "unit=$2" "volume=$data" >"/etc/vss/writers.d/$1.conf"
        systemctl start "$unit" || :
        wait_until 30 eval '[ "$(systemctl is-failed "$unit")" = failed ]' || die "$2: its writer is $(systemctl is-active "$unit")"
        expect_equal 10 "$(systemctl show -P ExecMainStatus "$unit")" "exit status for $2 ($(journalctl --no-pager -o cat -u "$unit" | tail -n 4))"
        journalctl --no-pager -o cat -u "$unit" | grep "$3" >"$VSS_TEST_DIR/why" || die "$2 is refused for another reason: $(journalctl --no-pager -o cat -u "$unit" | tail -n 4)"
        note "$(head -1 "$VSS_TEST_DIR/why")"
        expect_equal 0 "$(systemctl show -P NRestarts "$unit")" "how often it was tried again"
}

case_a_unit_with_a_watchdog_is_refused() {
        printf '%s\n' '[Service]' 'ExecStart=/bin/sleep 1000' 'WatchdogSec=60' >/etc/systemd/system/watched.service
        systemctl daemon-reload
        systemctl start watched
        refused watched watched.service WatchdogSec=
        expect_equal running "$(systemctl show -P FreezerState watched)" "watched.service"
}

case_what_is_needed_is_never_frozen() {
        local unit
        for unit in dbus systemd-journald systemd-udevd systemd-logind polkit vssd; do
                systemctl start $unit 2>/dev/null
                refused "no-$unit" $unit.service 'must not be frozen'
                expect_equal running "$(systemctl show -P FreezerState $unit)" "$unit"
        done
        refused no-init init.scope 'must not be frozen'
}

cases frozen_by_systemd_from_freeze_to_thaw runs_again_whatever_becomes_of_the_writer a_unit_with_a_watchdog_is_refused \
        what_is_needed_is_never_frozen
