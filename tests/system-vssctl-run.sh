#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl run: the command sees the copy and nobody else does; its status, input, output and signals are its own; the set is told
# how it went and goes only after everybody who could read it, also when vssctl or its helper is killed.
. "$(dirname "$0")/functions.sh"
requires busctl jq
start_bus
export FAKE_COPY=$VSS_TEST_DIR/copy
live=$VSS_TEST_DIR/live
mkdir "$FAKE_COPY" "$FAKE_COPY/sub" "$live" "$live/sub" "$live/only"
echo frozen >"$FAKE_COPY/file"
echo live >"$live/file"
mount -t tmpfs tmpfs "$live/sub"
cleanup_fn umount "$live/sub"
echo below >"$live/sub/file"
start_writer "$VSS_BUILD/tests/fake-manager"
program=$VSS_BUILD/client/vssctl
err=$VSS_TEST_DIR/err out=$VSS_TEST_DIR/out
calls() { grep -c "^Member=$1\$" "$WRITER_LOG" || :; }
last_complete() { grep -A1 '^Member=Complete' "$WRITER_LOG" | tail -n 2 >/dev/null; grep -A3 '^Member=Complete' "$WRITER_LOG" | grep BOOLEAN | tail -n 1; }

note "sees the copy, others do not, nothing stays mounted"
expect_equal frozen "$("$program" run "$live" -- cat "$live/file")" "what the command sees"
expect_equal live "$(cat "$live/file")" "what others see"
before=$(wc -l </proc/self/mountinfo)
"$program" run "$live" -- sh -c "cat $live/file; sleep 0.3" >/dev/null &
pid=$!
while kill -0 $pid 2>/dev/null; do
        expect_equal live "$(cat "$live/file")" "what others see meanwhile"
        sleep 0.05
done
expect_equal "$before" "$(wc -l </proc/self/mountinfo)" "number of mounts"
expect_equal below "$("$program" run "$live" -- cat "$live/sub/file")" "a mount below that is not in the set"
expect_equal frozen "$(cd "$live" && "$program" run "$live" -- cat file)" "what the current directory shows"
(cd "$live/only" && expect_exit 125 "$program" run "$live" -- true 2>"$err")
grep -q 'current directory' "$err" || die "a directory that the copy lacks is not named"

note "a copy of / becomes the root directory, with everything that is mounted below"
mkdir "$VSS_TEST_DIR/root"
mount --bind / "$VSS_TEST_DIR/root"
cleanup_fn umount "$VSS_TEST_DIR/root"
stop_process "$WRITER_PID" || :
FAKE_COPY=$VSS_TEST_DIR/root start_writer "$VSS_BUILD/tests/fake-manager"
root_mount() { awk '$5 == "/" {id = $1} END {print id}' /proc/self/mountinfo; }
"$program" run / -- bash -c "test -e /proc/self/status && test -e /dev/null && cat $live/file $live/sub/file && \
        awk '\$5 == \"/\" {id = \$1} END {print id}' /proc/self/mountinfo" >"$out"
expect_equal "live below" "$(head -n 2 "$out" | tr '\n' ' ' | sed 's/ $//')" "mounts below /"
[ "$(tail -n 1 "$out")" != "$(root_mount)" ] || die "the command's root is the live one"
stop_process "$WRITER_PID" || :
start_writer "$VSS_BUILD/tests/fake-manager"

note "BackupComplete by its success, then the set goes"
completes=$(calls Complete) deletes=$(calls Delete)
expect_exit 0 "$program" run "$live" -- true
[[ $(last_complete) == *true* ]] || die "success was not reported"
expect_exit 7 "$program" run "$live" -- sh -c 'exit 7'
[[ $(last_complete) == *false* ]] || die "failure was not reported"
expect_equal $((completes + 2)) "$(calls Complete)" "calls of Complete"
expect_equal $((deletes + 2)) "$(calls Delete)" "calls of Delete"
expect_exit 0 "$program" run --keep "$live" --manifest="$VSS_TEST_DIR/manifest" -- true
expect_equal $((deletes + 2)) "$(calls Delete)" "calls of Delete with --keep"
json .digest <"$VSS_TEST_DIR/manifest" >/dev/null || :
grep -q 'STRING "nested"' "$WRITER_LOG" || die "run does not take nested file systems"

note "input, output, status, signals"
expect_equal hello "$(echo hello | "$program" run "$live" -- cat)" "standard input"
expect_exit 137 "$program" run "$live" -- sh -c 'kill -KILL $$'
expect_exit 127 "$program" run "$live" -- no-such-command-at-all 2>"$err"
expect_equal 1 "$(wc -l <"$err")" "lines on stderr"
touch "$VSS_TEST_DIR/plain"
expect_exit 126 "$program" run "$live" -- "$VSS_TEST_DIR/plain" 2>/dev/null
expect_equal 'a  b' "$("$program" run "$live" -- sh -c 'printf %s "$1"' sh 'a  b')" "arguments"
for signal in TERM INT HUP; do
        "$program" run "$live" -- sh -c 'sleep 60' 2>/dev/null &
        pid=$!
        wait_until 5 pgrep -x sleep >/dev/null
        kill -$signal $pid
        status=0
        wait $pid || status=$?
        expect_equal $((128 + $(kill -l $signal))) $status "status after $signal"
        ! pgrep -x sleep >/dev/null || die "something is left after $signal"
done
"$program" run "$live" -- sh -c 'trap "echo caught; exit 5" TERM; echo up; while :; do sleep 0.02; done' >"$out" &
pid=$!
wait_until 5 grep -q up "$out"
kill -TERM $pid
status=0
wait $pid || status=$?
expect_equal 5 $status "status of a command that catches the signal"
grep -q caught "$out" || die "the signal did not arrive"

note "our own failures are 125 and tell the code"
for name in Busy:8 NotAuthorized:3 Vetoed:5; do
        expect_exit 125 "$program" run "/fail/${name%:*}" -- true 2>"$err"
        grep -q "(exit code ${name#*:})" "$err" || die "${name%:*} does not tell its code: $(cat "$err")"
        expect_equal 1 "$(wc -l <"$err")" "lines on stderr"
done
expect_exit 125 "$program" run /abort/Vetoed -- true 2>/dev/null
expect_exit 125 "$program" run /nowhere/at/all -- true 2>"$err"
grep -q 'exit code 10' "$err" || die "a volume without a path: $(cat "$err")"

note "--json: one document, the command's output elsewhere"
expect_exit 3 "$program" --json run "$live" -- sh -c 'echo noise; exit 3' >"$out" 2>"$err"
expect_equal 3 "$(json .command_status <"$out")" command_status
expect_equal noise "$(cat "$err")" "output of the command"
expect_exit 125 "$program" --json run /fail/Busy -- true >"$out" 2>/dev/null
expect_equal org.vssd.Vss1.Error.Busy "$(json .error.name <"$out")" error.name

note "what the command leaves running is ended before the set goes"
begin=$SECONDS
expect_exit 0 "$program" run "$live" -- sh -c 'setsid sleep 60 & setsid sh -c "trap \"\" TERM; sleep 61" & sleep 0.2'
! pgrep -x sleep >/dev/null || die "a daemon outlived the copy"
[ $((SECONDS - begin)) -le 5 ] || die "ending it took $((SECONDS - begin)) s"

note "SIGKILL of vssctl: the connection closes only after everything is gone"
names() { busctl --list --unique --no-legend 2>/dev/null | wc -l; }
count=$(names)
"$program" run "$live" -- sh -c 'setsid sleep 60 & sleep 61' 2>/dev/null &
pid=$!
wait_until 5 sh -c '[ "$(pgrep -cx sleep)" = 2 ]'
kill -KILL $pid
wait $pid 2>/dev/null || :
for _ in {1..200}; do
        connections=$(names) # first: what is left after that is left too late
        left=$(pgrep -cx sleep || :)
        [ "$left" != 0 ] || [ "$connections" != "$count" ] || break
        [ "$left" = 0 ] || [ "$connections" -gt "$count" ] || die "the connection closed while $left readers were left"
        sleep 0.02
done
expect_equal 0 "$left" "readers left"
expect_equal "$count" "$connections" "connections left"

note "SIGKILL of the helper between: the command dies, we tell"
"$program" run "$live" -- sh -c 'setsid sleep 60 & sleep 61' 2>"$err" &
pid=$!
wait_until 5 sh -c '[ "$(pgrep -cx sleep)" = 2 ]'
kill -KILL "$(pgrep -P $pid)"
status=0
wait $pid || status=$?
expect_equal 125 $status "status after the helper was killed"
! pgrep -x sleep >/dev/null || die "a reader is left"
