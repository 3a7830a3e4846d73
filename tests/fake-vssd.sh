# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Sourced after functions.sh by tests that need something that calls writers, but not all of vssd: tests/fake-vssd.c.

SET_A=11111111-1111-4111-8111-111111111111
SET_B=22222222-2222-4222-8222-222222222222
export SET_A SET_B
_fake_count=0

# start_fake: FAKE_PID; commands by `fake`, what it says is in FAKE_LOG
start_fake() {
        _fake_count=$((_fake_count + 1))
        FAKE_LOG=$VSS_TEST_DIR/log/fake$_fake_count.log
        mkfifo "$VSS_TEST_DIR/fake$_fake_count"
        "$VSS_BUILD/tests/fake-vssd" <"$VSS_TEST_DIR/fake$_fake_count" >"$FAKE_LOG" 2>&1 &
        FAKE_PID=$!
        exec {FAKE_FD}>"$VSS_TEST_DIR/fake$_fake_count"
        cleanup_fn stop_process "$FAKE_PID"
        heard '^up ' || die "the fake vssd did not come up"
}

fake() { echo "$*" >&"$FAKE_FD"; }

# heard PATTERN [SECONDS] [FILE]: waits for a line
heard() { wait_until "${2:-5}" grep -qE -- "$1" "${3:-$FAKE_LOG}"; }
must_hear() { heard "$@" || die "not heard: $1"; }
must_not_hear() { ! grep -qE -- "$1" "${2:-$FAKE_LOG}" || die "heard: $1"; }

# ask NAME EVENT RESULT [MSEC [THAW-BY-MSEC]]: one call of SET (default SET_A) and its answer
ask() {
        local before
        before=$(grep -cE "^reply $1 $2 " "$FAKE_LOG" || :)
        fake call "$1" "$2" "${SET:-$SET_A}" "${4:-5000}" "${5:-}"
        _answered() { [ "$(grep -cE "^reply $1 $2 " "$FAKE_LOG")" -gt "$before" ]; }
        wait_until 10 _answered "$1" "$2" || die "$1 did not answer $2"
        grep -E "^reply $1 $2 " "$FAKE_LOG" | tail -1 | grep -qE "^reply $1 $2 $3( |$)" ||
                die "$1 answered $2 with: $(grep -E "^reply $1 $2 " "$FAKE_LOG" | tail -1)"
}

prepare() {
        ask "$1" prepare-backup ok
        ask "$1" prepare-snapshot ok
}

writer_gone() { ! kill -0 "$1" 2>/dev/null; }
