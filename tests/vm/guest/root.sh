#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The root itself is held, with vssd's state, the journal and every program on it: the set is made, the service, the bus and
# systemd live through the window, and what was logged in it is in the journal afterwards, all of it. Killing the service in
# the window, or stopping it, gives the root back at once.
# root: ext4
# seconds: 300
. "$(dirname "$0")/functions.sh"

expect_equal "ext4 /" "$(findmnt -no FSTYPE,TARGET -T / | tr -s ' ')" "what / is"
for d in /var/lib /var/log/journal /var/log /usr/libexec/vss /etc; do
        expect_equal / "$(findmnt -no TARGET -T $d)" "the file system of $d"
done
journalctl --flush
[ -n "$(ls -A /var/log/journal)" ] || die "the journal is not on the disk"
# one that is there once the root can be read only
exec {talk}> >(exec logger -t window)

held_root() { # MSEC
        service_environment vssd.service "VSS_FAULT=commit:delay=$1"
        systemctl restart vssd
        wait_until 60 known || die "the writer did not come back"
        hold_set /
        wait_until 30 stands_still / || die "/ is not held"
}
known() { vssctl --json writers | jq -e '.writers[] | select(.name == "probe" and .state == "stable")' >/dev/null; }
answers() { timeout 20 busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.DBus.Peer Ping; }
arrived() { [ "$(journalctl --no-pager -q -o cat -t window | grep -cx "$1 [0-9]*")" -eq "$2" ]; }

configure Timeouts hold=60 freeze=80
systemctl start vssd
testwriter --name=probe --volume=/
count_writes /

case_a_set_of_the_root_and_the_logs_of_its_window() {
        local i before record since
        held_root 40000
        before=$(writes /)
        since=$EPOCHREALTIME
        for i in {1..50}; do echo "a $i" >&$talk; done
        expect_equal "$before" "$(writes /)" "writes on / in the window"
        stands_still / || die "/ is not held any more: the window was too short for the test"
        # programs start and buses answer as long as they write nothing
        answers >/dev/null || die "systemd does not answer while / is held"
        expect_equal "b true" "$(bus_call org.freedesktop.DBus / org.freedesktop.DBus NameHasOwner s org.vssd.Vss1)" "owner of the name in the window"
        wait_set || die "the set failed: $(cat "$SET_OUT" "$SET_OUT.err")"
        expect_equal "created application /" "$(jq -r '"\(.state) \(.consistency) \(.snapshots[0].volume)"' "$SET_OUT")" "the set"
        [ "$(json .timing.hold_usec <"$SET_OUT")" -ge 40000000 ] || die "the hold was shorter than its commit: $(jq -c .timing "$SET_OUT")"
        is_frozen / && die "/ is frozen after the set"
        wait_until 60 arrived a 50 || die "of 50 lines of the window the journal has $(journalctl -q -o cat -t window | grep -c '^a ')"
        expect_equal "$(seq -f 'a %g' 50)" "$(journalctl --no-pager -q -o cat -t window | grep '^a ')" "the order of the lines"
        # ours too, and the record of the set
        logged() { journalctl --no-pager -q -o cat -u vssd | grep -q '^created: level application'; }
        wait_until 30 logged || die "vssd's own line about the set is not in the journal"
        record=$(vssctl --json show "$(json .set <"$SET_OUT")") || die "the set has no record"
        expect_equal created "$(json .state <<<"$record")" "state in the record"
        cmp -s <(vssctl --json sets | jq '.sets | length') <(echo 1) || die "sets: $(vssctl sets)"
}

interrupted() { # LETTER COMMAND…: in the window; everything goes on, and nothing of what was said meanwhile is lost
        local letter=$1 i since
        shift
        held_root 55000
        for i in {1..20}; do echo "$letter $i" >&$talk; done
        since=$EPOCHREALTIME
        expect_exit 0 timeout 60 "$@"
        writes_go_on "$since" /
        wait_set && die "the set is called good: $(cat "$SET_OUT")"
        wait_until 60 arrived "$letter" 20 || die "of 20 lines of the window the journal has $(journalctl -q -o cat -t window | grep -c "^$letter ")"
        expect_equal "" "$(ls -A /run/vss/held)" "what is noted as held"
        wait_until 30 known || die "the service does not come back"
        no_more() { [ "$(vssctl --json snapshots | jq '.snapshots | length')" -le 1 ]; }
        no_more || die "snapshots of a set that failed: $(vssctl snapshots)"
}
case_killed_with_everything_in_its_unit() { interrupted b systemctl kill --signal=KILL --kill-whom=all vssd; }
case_stopped() { interrupted c systemctl stop vssd; }

cases a_set_of_the_root_and_the_logs_of_its_window killed_with_everything_in_its_unit stopped
