#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The service under systemd: started by hand, started by the first call on the bus, leaving when idle and coming back with the
# next call, also for a caller without rights; restarted in the middle of a set; each time with nothing left behind.
# disks: 256M
# seconds: 240
. "$(dirname "$0")/functions.sh"
invocation() { systemctl show -P InvocationID vssd; }
owner() { busctl --json=short call org.freedesktop.DBus / org.freedesktop.DBus GetConnectionUnixProcessID s org.vssd.Vss1 | jq '.data[0]'; }

case_started_and_stopped_by_hand() {
        expect_exit 0 systemctl start vssd
        # Type=notify: once start returns, the name is there
        expect_equal "$(systemctl show -P MainPID vssd)" "$(owner)" "owner of the bus name"
        expect_equal vssd "$(ps -o comm= -p "$(owner)")" "its program"
        for d in /var/lib/vss /run/vss /var/log/vss; do expect_equal "700 root" "$(stat -c '%a %U' $d)" "mode and owner of $d"; done
        expect_exit 0 systemctl stop vssd
        expect_equal "inactive success" "$(systemctl show -P ActiveState vssd) $(systemctl show -P Result vssd)" "after stop"
        expect_equal "b false" "$(bus_call org.freedesktop.DBus / org.freedesktop.DBus NameHasOwner s org.vssd.Vss1)" "name after stop"
}

case_the_first_call_starts_it() {
        is_inactive vssd || die "it runs already"
        run_as nobody vssctl --json status >$VSS_TEST_DIR/status.json || die "status by nobody: $(cat $VSS_TEST_DIR/status.json)"
        is_active vssd || die "vssd is not active after a call"
        expect_equal 1 "$(jq .schema $VSS_TEST_DIR/status.json)" "schema of the answer"
        # by systemd, not by dbus-daemon's own helper
        grep -q '/vssd.service$' "/proc/$(owner)/cgroup" || die "vssd runs in $(cat "/proc/$(owner)/cgroup")"
}

case_it_leaves_when_idle_and_comes_back() {
        local first
        configure Daemon idle=2
        systemctl restart vssd
        first=$(invocation)
        wait_until 60 is_inactive vssd || die "an idle vssd stays"
        expect_equal success "$(systemctl show -P Result vssd)" "result of the idle exit"
        # one call while it is not there, and many at once
        for _ in {1..8}; do vssctl status >/dev/null & done
        expect_exit 0 vssctl status >/dev/null
        wait
        [ "$(invocation)" != "$first" ] || die "it is still the first one"
        wait_until 60 is_inactive vssd || die "an idle vssd stays after its second start"
        expect_equal "" "$(systemctl list-units --failed --plain --no-legend)" "failed units"
}

case_a_restart_in_the_middle_of_a_set_leaves_nothing_frozen() {
        local since
        new_fs data ext4 "$d0"
        configure Timeouts hold=60 freeze=80
        service_environment vssd.service VSS_FAULT=commit:delay=50000
        systemctl restart vssd
        testwriter --name=probe --volume="$data"
        count_writes "$data"
        hold_set "$data"
        wait_until 5 stands_still "$data" || die "$data is not held"
        since=$EPOCHREALTIME
        expect_exit 0 systemctl restart vssd
        writes_go_on "$since" "$data"
        wait_set && die "the set that was cut short is called good: $(cat "$SET_OUT")"
        expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots left"
        expect_equal "" "$(ls -A /run/vss/held)" "what is noted as held"
        # the writer finds the new service by itself, and a set can be made
        seen() { vssctl --json writers | jq -e '.writers[] | select(.name == "probe" and .state == "stable")' >/dev/null; }
        wait_until 30 seen || die "the writer did not come back: $(vssctl writers)"
        service_environment vssd.service VSS_FAULT=
        systemctl restart vssd
        wait_until 30 seen || die "the writer did not come back a second time"
        create --provider=null "$data"
}

cases started_and_stopped_by_hand the_first_call_starts_it it_leaves_when_idle_and_comes_back \
        a_restart_in_the_middle_of_a_set_leaves_nothing_frozen
