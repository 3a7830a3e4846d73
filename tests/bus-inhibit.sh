#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The machine is not to sleep while something is held: both of logind's locks are there before the first writer freezes, and
# gone after the last Thaw, on success and on failure; a sleep that begins nevertheless aborts the set; and a logind that
# is not there, refuses or says nothing costs no set anything.
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4
watchdog 110

new_fs data ext4 32M
start_bus
LOGIN_LOG=$VSS_TEST_DIR/log/login.log
start_login() {
        "$VSS_BUILD/tests/fake-login" "$@" >"$LOGIN_LOG" 2>&1 &
        LOGIN_PID=$!
        cleanup_fn stop_process $LOGIN_PID
        wait_until 10 grep -q ready "$LOGIN_LOG" || die "the fake logind does not get ready"
}
# the locks in the order of the log; both modes or none
locks() { grep -c "^lock .* sleep:shutdown" "$LOGIN_LOG" || :; }
releases() { grep -c "^release" "$LOGIN_LOG" || :; }
all_released() { [ "$(releases)" = "$(locks)" ]; }

case_locks_from_prepare_to_thaw() {
        local begin
        start_login
        start_vssd
        testwriter --name=slow --volume="$data" --late=freeze:1500
        expect_equal 0 "$(locks)" "locks before there is a set"
        vssctl create --provider=null "$data" >"$VSS_TEST_DIR/out" 2>&1 &
        begin=$!
        wait_until 5 grep -q "^event slow prepare-snapshot" "$WRITER_LOG" || die "the set does not begin"
        sleep 0.5
        expect_equal 2 "$(locks)" "locks while the writer freezes"
        expect_equal 0 "$(releases)" "releases while the writer freezes"
        grep -q "^lock block" "$LOGIN_LOG" && grep -q "^lock delay" "$LOGIN_LOG" || die "not both: $(cat "$LOGIN_LOG")"
        wait $begin || die "the set failed: $(cat "$VSS_TEST_DIR/out")"
        wait_until 2 all_released || die "locks stay: $(cat "$LOGIN_LOG")"
        expect_equal 2 "$(locks)" "locks of one set"
        stop_vssd
}

case_released_after_a_failure() {
        start_login
        start_vssd
        testwriter --name=bad --volume="$data" --fail=freeze
        expect_exit 5 vssctl create --provider=null "$data" >/dev/null 2>&1
        expect_equal 2 "$(locks)" "locks of the set"
        wait_until 2 all_released || die "locks stay: $(cat "$LOGIN_LOG")"
        stop_vssd
}

case_sleep_aborts() {
        local begin
        start_login
        start_vssd
        testwriter --name=slow --volume="$data" --late=freeze:5000
        vssctl create --provider=null "$data" >"$VSS_TEST_DIR/out" 2>&1 &
        begin=$!
        wait_until 5 eval '[ "$(locks)" = 2 ]' || die "no locks"
        sleep 0.2
        kill -USR1 "$LOGIN_PID"
        if wait $begin; then die "a set goes on while the machine sleeps"; fi
        grep -q "goes to sleep" "$VSS_TEST_DIR/out" || die "the reason is not told: $(cat "$VSS_TEST_DIR/out")"
        wait_until 10 all_released || die "locks stay: $(cat "$LOGIN_LOG")"
        is_frozen "$data" && die "left frozen"
        stop_vssd
}

case_logind_that_does_not_help() {
        local manner begin
        for manner in hang refuse; do
                start_login $manner
                start_vssd
                begin=$SECONDS
                expect_exit 0 vssctl create --provider=null "$data" >/dev/null
                [ $((SECONDS - begin)) -le 3 ] || die "$manner: the set took $((SECONDS - begin)) s"
                expect_equal 2 "$(locks)" "questions to a logind that will $manner"
                stop_vssd
                stop_process "$LOGIN_PID"
        done
}

cases locks_from_prepare_to_thaw released_after_a_failure sleep_aborts logind_that_does_not_help
