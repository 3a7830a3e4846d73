#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Who may do what on a host with polkit: an account without rights is refused on every verb that changes something, before
# anything has changed; a rule in /etc/polkit-1/rules.d gives it one volume and not another.
# disks: 512M 512M
# seconds: 240
. "$(dirname "$0")/functions.sh"
account=games
code() { # COMMAND…: its exit status; what it said is in "said"
        status=0
        "$@" >$VSS_TEST_DIR/said 2>&1 || status=$?
}
may_not() { # VSSCTL-ARGUMENT…
        code run_as $account vssctl --no-ask-password "$@"
        [ $status -eq 3 ] || die "$account: vssctl $* ended with $status: $(cat $VSS_TEST_DIR/said)"
        grep -q "not permitted: org.vssd" $VSS_TEST_DIR/said || die "$account is told, on $*: $(cat $VSS_TEST_DIR/said)"
}
may() { run_as $account vssctl --no-ask-password "$@"; }

new_fs one btrfs "$d0"
new_fs two btrfs "$d1"
truncate -s 64M /var/tmp/origin
create "$one"
id=$(set_field '.snapshots[0].id')
set=$SET

# everything that a refused caller could have changed
state() {
        vssctl --json sets | jq -S .
        vssctl --json snapshots | jq -S .
        vssctl --json volume list | jq -S .
        findmnt -rn
        find "$one" "$two" /var/lib/vss | sort
}

case_refused_on_every_verb_that_changes_something() {
        local before
        before=$(state)
        may_not create "$one"
        may_not create "$one" "$two"
        may_not mount "$id"
        may_not umount "$id"
        may_not complete "$set"
        may_not cancel "$set"
        may_not delete "$id"
        may_not delete "$set"
        may_not delete --volume="$one" --all
        may_not volume create theirs --origin=/var/tmp/origin
        may_not volume attach theirs
        may_not volume detach theirs
        may_not volume remove theirs
        code run_as $account timeout 30 /usr/libexec/vss/vss-testwriter --name=theirs --volume="$one"
        [ $status -eq 3 ] || die "a writer without rights ended with $status: $(cat $VSS_TEST_DIR/said)"
        code run_as $account vssctl run "$one" -- true
        [ $status -eq 125 ] && grep -q "not permitted: org.vssd.Vss1.create" $VSS_TEST_DIR/said || die "run ended with $status: $(cat $VSS_TEST_DIR/said)"
        expect_equal "$before" "$(state)" "the state after all refusals"
}

case_may_look() {
        for verb in status volumes writers providers sets snapshots "show $id" "plan $one"; do
                # shellcheck disable=SC2086
                may --json $verb >/dev/null || die "$account may not look: vssctl $verb"
        done
}

case_cannot_stop_the_service_or_be_it() {
        code run_as $account systemctl --no-ask-password stop vssd
        [ $status -ne 0 ] && is_active vssd || die "$account stopped vssd"
        code run_as $account busctl call org.freedesktop.DBus / org.freedesktop.DBus RequestName su org.vssd.Vss1 0
        [ $status -ne 0 ] || die "$account took the bus name"
}

case_a_rule_gives_one_volume_and_not_another() {
        local mine
        cat >/etc/polkit-1/rules.d/50-test.rules <<EOR
polkit.addRule(function(action, subject) {
        var rights = ["org.vssd.Vss1.create", "org.vssd.Vss1.delete", "org.vssd.Vss1.expose"];
        if (subject.user == "$account" && rights.indexOf(action.id) >= 0 && action.lookup("volumes") == "$one")
                return polkit.Result.YES;
});
EOR
        obeyed() { may --json create "$one" >$VSS_TEST_DIR/mine.json; }
        wait_until 30 obeyed || die "the rule is not obeyed: $(cat $VSS_TEST_DIR/mine.json)"
        may_not create "$two"
        may_not create "$one" "$two"
        mine=$(jq -r '.snapshots[0].id' $VSS_TEST_DIR/mine.json)
        may mount "$mine" >$VSS_TEST_DIR/place || die "may not mount what it made"
        findmnt -n "$(cat $VSS_TEST_DIR/place)" | grep -q nosuid || die "it is mounted so: $(findmnt -n "$(cat $VSS_TEST_DIR/place)")"
        may umount "$mine"
        create "$two"
        may_not delete "$SET"
        may_not mount "$(set_field '.snapshots[0].id')"
        create "$one" "$two"
        may_not delete "$SET"
        may delete "$mine" || die "may not delete what it made"
        # the rule is for one account
        account=nobody
        may_not create "$one"
}

case_refused_at_once_where_nobody_can_be_asked() {
        # without an agent a question for a password is a refusal, at once and with its own words
        code run_as nobody timeout 20 vssctl create "$two"
        expect_equal 3 $status "exit code of create without an agent"
}

cases refused_on_every_verb_that_changes_something may_look cannot_stop_the_service_or_be_it \
        a_rule_gives_one_volume_and_not_another refused_at_once_where_nobody_can_be_asked
