#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The service and who may use it: starting and going, one at a time, sessions, turns, cancelling, a requester that dies,
# exit codes, retries, the log, the report, limits from the configuration.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs
watchdog 400

new_fs one ext4 32M
new_fs two ext4 32M
new_fs tree btrfs 128M

case_starts_on_demand_and_goes_when_idle() {
        local conf=$VSS_TEST_DIR/activation.conf
        mkdir -p "$VSS_TEST_DIR/services"
        printf '[D-BUS Service]\nName=org.vssd.Vss1\nExec=%s\n' "$VSS_BUILD/daemon/vssd" >"$VSS_TEST_DIR/services/vssd.service"
        # a bus that starts services by itself, without the setuid helper of the real one
        sed "s|<type>system</type>|<servicedir>$VSS_TEST_DIR/services</servicedir>|; s|$VSS_TEST_DIR/bus<|$VSS_TEST_DIR/bus2<|" \
                "$VSS_TEST_DIR/bus.conf" >"$conf"
        export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$VSS_TEST_DIR/bus2 STATE_DIRECTORY=$VSS_TEST_DIR/state2
        export RUNTIME_DIRECTORY=$VSS_TEST_DIR/run2
        mkdir "$STATE_DIRECTORY" "$RUNTIME_DIRECTORY"
        configure Daemon idle=1
        dbus-daemon --config-file="$conf" --nofork --nopidfile --nosyslog 2>/dev/null &
        cleanup_fn stop_process $!
        wait_until 10 test -S "$VSS_TEST_DIR/bus2"
        expect_exit 0 vssctl status >/dev/null
        wait_until 5 is_gone || die "an idle vssd stays"
        expect_exit 0 vssctl status >/dev/null
        wait_until 5 is_gone || die "an idle vssd stays after its second start"
}
is_gone() { [ "$(bus_call org.freedesktop.DBus / org.freedesktop.DBus NameHasOwner s org.vssd.Vss1)" = "b false" ]; }

case_second_instance_is_refused() {
        local other=$VSS_TEST_DIR/other
        second() {
                local status=0
                timeout 20 "$VSS_BUILD/daemon/vssd" >"$VSS_TEST_DIR/second.log" 2>&1 || status=$?
                case $status in 0 | 124) die "a second vssd ended with $status" ;; esac
        }
        second
        grep -q "in use by process $VSSD_PID;" "$VSS_TEST_DIR/second.log" || die "it does not say who is there: $(cat "$VSS_TEST_DIR/second.log")"
        # nor with directories of its own on the same bus
        mkdir -p "$other/state" "$other/run"
        STATE_DIRECTORY=$other/state RUNTIME_DIRECTORY=$other/run second
        grep -q 'another vssd is running on this bus' "$VSS_TEST_DIR/second.log" || die "it does not say that the name is taken: $(cat "$VSS_TEST_DIR/second.log")"
        expect_equal "u $VSSD_PID" "$(bus_call org.freedesktop.DBus / org.freedesktop.DBus GetConnectionUnixProcessID s org.vssd.Vss1)" "who has the name"
        expect_exit 0 vssctl status >/dev/null
}

case_unprivileged_caller_is_refused() {
        local id
        create "$tree"
        id=$(set_field '.snapshots[0].id')
        for command in "create $tree" "delete $id" "mount $id" "complete $SET" "run $tree -- true"; do
                # shellcheck disable=SC2086
                status=0 && run_as nobody "$VSS_BUILD/client/vssctl" $command >"$VSS_TEST_DIR/out" 2>&1 || status=$?
                case "$command:$status" in run*:125 | *:3) ;; *) die "nobody: vssctl $command ended with $status: $(cat "$VSS_TEST_DIR/out")" ;; esac
        done
        expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots after the refusals"
        expect_equal 1 "$(vssctl --json sets | jq '[.sets[] | select(.state == "created")] | length')" "sets after the refusals"
        run_as nobody "$VSS_BUILD/client/vssctl" --json writers >/dev/null || die "nobody may not even look"
        delete_all
}

case_account_may_register_its_writer() {
        local status=0
        printf '[Writer]\nUser=nobody\n' >"$CONFIGURATION_DIRECTORY/writers.d/allowed.conf"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null || die "Reload failed"
        run_as nobody timeout 5 "$VSS_BUILD/writers/vss-testwriter" --name=refused >"$VSS_TEST_DIR/refused.log" 2>&1 || status=$?
        grep -q ^ready "$VSS_TEST_DIR/refused.log" && die "nobody registered a writer that is not his"
        [ $status -eq 3 ] || [ $status -eq 1 ] || die "the refused writer ended with $status: $(cat "$VSS_TEST_DIR/refused.log")"
        # with exec, so that it is the writer that the pid names
        (exec setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups -- "$VSS_BUILD/writers/vss-testwriter" --name=allowed >"$VSS_TEST_DIR/allowed.log" 2>&1) &
        cleanup_fn stop_process $!
        wait_until 10 grep -q ^ready "$VSS_TEST_DIR/allowed.log" || die "nobody may not register what User= grants: $(cat "$VSS_TEST_DIR/allowed.log")"
}

case_sessions_run_side_by_side() {
        local pids=() provider i v
        for v in "$one" "$two" "$tree"; do
                provider=null && [ "$v" = "$tree" ] && provider=btrfs
                vssctl --json create --provider=$provider "$v" >"$VSS_TEST_DIR/side${#pids[@]}.json" &
                pids+=($!)
        done
        for i in "${pids[@]}"; do wait "$i" || die "one of three sets failed: $(cat "$VSS_TEST_DIR"/side*.json)"; done
        expect_equal 3 "$(cat "$VSS_TEST_DIR"/side?.json | jq -r .set | sort -u | wc -l)" "different set ids"
        delete_all
}

case_a_set_in_progress_is_named_or_waited_for() {
        testwriter --name=probe --volume="$one" --late=post-snapshot:1500
        vssctl --json create --provider=null "$one" >"$VSS_TEST_DIR/first.json" &
        local first=$!
        seen() { saw probe "$WRITER_LOG" thaw; }
        wait_until 10 seen
        refuse 8 --provider=null --wait-for-turn=0 "$one"
        set_field .error.message | grep -qF "$(vssctl --json sets | jq -r '.sets[] | select(.state == "running").id')" || die "the owner is not named: $(cat "$SET_DOC")"
        create --provider=null --wait-for-turn=20 "$one"
        wait $first || die "the first set failed"
        delete_all
}

case_cancel_puts_everything_back() {
        testwriter --name=probe --volume="$one" --late=prepare-snapshot:3000
        vssctl --json create --provider=null "$one" >"$VSS_TEST_DIR/cancelled.json" &
        local pid=$! set status=0
        seen() { vssctl --json sets | jq -e '.sets[] | select(.state == "running" and .phase == "prepare-snapshot")' >/dev/null; }
        wait_until 10 seen || die "the set does not get to prepare-snapshot"
        set=$(vssctl --json sets | jq -r '.sets[] | select(.state == "running") | .id')
        expect_exit 0 vssctl cancel "$set"
        wait $pid || status=$?
        expect_equal 1 $status "exit code of the cancelled create"
        saw probe "$WRITER_LOG" freeze && die "a writer was frozen although the set was cancelled before"
        seen_abort() { saw probe "$WRITER_LOG" abort; }
        wait_until 10 seen_abort || die "the writer heard no abort"
        no_snapshots "after cancel"
}

case_a_requester_that_dies_takes_its_copies_along() {
        testwriter --name=probe --volume="$tree"
        mkfifo "$VSS_TEST_DIR/stays"
        # its end of input would be the end of the set; with its own pid, not that of a subshell
        (exec "$VSS_BUILD/client/vssctl" --json create --auto-release "$tree" 0<>"$VSS_TEST_DIR/stays" >"$VSS_TEST_DIR/bound.json") &
        local pid=$!
        wait_until 20 test -s "$VSS_TEST_DIR/bound.json" || die "no set"
        expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots while the requester lives"
        kill -KILL $pid
        none() { [ "$(vssctl --json snapshots | jq '.snapshots | length')" = 0 ]; }
        wait_until 10 none || die "the copies of a dead requester stay"
        seen() { saw probe "$WRITER_LOG" backup-shutdown; }
        wait_until 5 seen || die "the writer was not told"
        saw probe "$WRITER_LOG" backup-complete && die "BackupComplete although the requester died"
        return 0
}

case_every_failure_has_its_exit_code() {
        expect_exit 2 vssctl create 2>/dev/null
        expect_exit 2 vssctl create --require=nonsense "$one" 2>/dev/null
        expect_exit 4 vssctl show 00000000-0000-0000-0000-000000000000 2>/dev/null
        expect_exit 4 vssctl create --provider=no-such-provider "$one" 2>/dev/null
        expect_exit 10 vssctl create /proc 2>/dev/null
        refuse 10 --provider=btrfs "$one"
        expect_equal org.vssd.Vss1.Error.NotSupported "$(set_field .error.name)" "name of the error"
        expect_equal false "$(jq .error.retryable "$SET_DOC")" "retryable"
        refuse 9 --provider=null --require=application "$one"
        DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent expect_exit 13 vssctl status 2>/dev/null
        testwriter --name=probe --volume="$one" --fail=freeze:1 --veto=retryable
        refuse 5 --provider=null "$one"
        expect_equal org.vssd.Vss1.Error.Vetoed "$(set_field .error.name)" "name of the error"
        expect_equal true "$(jq .error.retryable "$SET_DOC")" "retryable"
}

case_retry_repeats_what_may_help() {
        testwriter --name=probe --volume="$one" --fail=freeze:2 --veto=retryable
        create --provider=null --retry=3 "$one"
        expect_equal 3 "$(events probe "$WRITER_LOG" | grep -cx freeze)" "attempts"
        delete_all
        stop_process "$WRITER_PID"
        testwriter --name=probe --volume="$one" --fail=freeze --veto=fatal
        refuse 5 --provider=null --retry=3 "$one"
        expect_equal 1 "$(events probe "$WRITER_LOG" | grep -cx freeze)" "attempts at what cannot help"
}

case_failures_are_logged_with_their_context() {
        testwriter --name=culprit --volume="$one" --fail=freeze
        refuse 5 --provider=null "$one"
        local set
        set=$(jq -r .set "$SET_DOC")
        grep -F "$set" "$VSS_TEST_DIR/log/vssd.log" | grep -q culprit || die "the log does not name set and writer of a failure"
}

case_report_holds_what_a_bug_report_needs() {
        printf 'password=hush-hush\n' >"$CONFIGURATION_DIRECTORY/writers.d/secretive.conf"
        expect_exit 0 vssctl report "$VSS_TEST_DIR/report.tar" >/dev/null
        rm "$CONFIGURATION_DIRECTORY/writers.d/secretive.conf"
        [ -s "$VSS_TEST_DIR/report.tar" ] || die "the report is empty"
        expect_equal 600 "$(stat -c %a "$VSS_TEST_DIR/report.tar")" "mode of the report"
        tar -tf "$VSS_TEST_DIR/report.tar" >"$VSS_TEST_DIR/report.list" || die "the report is no archive"
        [ "$(wc -l <"$VSS_TEST_DIR/report.list")" -ge 4 ] || die "the report holds only $(cat "$VSS_TEST_DIR/report.list")"
        for word in versions sets writers secretive.conf; do grep -q "$word" "$VSS_TEST_DIR/report.list" || die "the report lacks $word: $(cat "$VSS_TEST_DIR/report.list")"; done
        grep -aq hush-hush "$VSS_TEST_DIR/report.tar" && die "the report holds a password"
        return 0
}

case_limits_come_from_the_configuration() {
        configure Timeouts hold=1 prepare_snapshot=1
        VSS_FAULT=commit:delay=4000 start_vssd
        local begin=$SECONDS
        refuse 6 --provider=fault:null "$one"
        [ $((SECONDS - begin)) -le 8 ] || die "a hold of 1 s ended after $((SECONDS - begin)) s"
        must_write 1 "$one"
        testwriter --name=probe --volume="$one" --hang=prepare-snapshot
        begin=$SECONDS
        refuse 6 --provider=null "$one"
        [ $((SECONDS - begin)) -le 3 ] || die "a budget of 1 s took $((SECONDS - begin)) s"
        stop_vssd
        printf '[Timeouts]\nhold=forever\n' >"$CONFIGURATION_DIRECTORY/vssd.conf"
        timeout 20 "$VSS_BUILD/daemon/vssd" >"$VSS_TEST_DIR/conf.log" 2>&1 && die "nonsense in vssd.conf is accepted"
        grep -q hold "$VSS_TEST_DIR/conf.log" || die "the complaint does not name the key: $(cat "$VSS_TEST_DIR/conf.log")"
}

start_bus
start_vssd
cases second_instance_is_refused unprivileged_caller_is_refused account_may_register_its_writer \
        sessions_run_side_by_side a_set_in_progress_is_named_or_waited_for cancel_puts_everything_back \
        a_requester_that_dies_takes_its_copies_along every_failure_has_its_exit_code retry_repeats_what_may_help \
        failures_are_logged_with_their_context report_holds_what_a_bug_report_needs
stop_vssd
cases starts_on_demand_and_goes_when_idle limits_come_from_the_configuration
