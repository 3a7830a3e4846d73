#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The writer library against a coordinator that can be killed, replaced and told to misbehave: what a writer promises in whatever
# happens to vssd. Nothing here freezes a file system.
VSS_TEST_SECONDS=110
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
requires busctl

start_bus
start_fake
mkdir -p "$VSS_TEST_DIR/vol/data" "$VSS_TEST_DIR/copy/data"

note "registers, says what it is, takes every event once"
testwriter --name=one --instance=x.1 --level=back-end --volume="$VSS_TEST_DIR/vol"
must_hear '^registered one x.1 '
ask one identify ok
grep '^document one ' "$FAKE_LOG" | tail -1 | cut -d' ' -f3- >"$VSS_TEST_DIR/doc"
expect_equal "one x.1 back-end data $VSS_TEST_DIR/vol true" \
        "$(jq -r '[.writer.name,.writer.instance,.writer.level,.components[0].path,.components[0].files[0].root,(.components[0].files[0].recursive|tostring)]|join(" ")' <"$VSS_TEST_DIR/doc")" document
for e in prepare-backup prepare-snapshot; do ask one $e ok; done
ask one freeze ok 5000 6000
ask one freeze BadState 5000 6000
ask one thaw ok
ask one thaw BadState
for e in post-snapshot backup-complete backup-shutdown abort abort pre-restore post-restore; do ask one $e ok; done
expect_equal 1 "$(grep -c "^event one freeze $SET_A ok " "$WRITER_LOG")" "number of freezes"

note "a stranger is refused"
sender=$(sed -n 's/^registered one .* //p' "$FAKE_LOG")
if out=$(busctl --address="$DBUS_SYSTEM_BUS_ADDRESS" call "$sender" /org/vssd/Vss1/writer/_1 org.vssd.Vss1.Writer Freeze 'sta{sv}' $SET_A 99999999999 0 2>&1); then
        die "a stranger froze a writer"
fi
echo "$out" | grep -q 'only vssd' || die "a stranger was told: $out"

note "thaws by itself at thaw_by, and says so to a late Thaw"
prepare one
before=$(date +%s%N)
ask one freeze ok 300 400
must_hear "^event one abort $SET_A self" 2 "$WRITER_LOG"
took=$((($(date +%s%N) - before) / 1000000))
[ $took -ge 390 ] && [ $took -lt 900 ] || die "thawed by itself after $took ms, not 400"
ask one thaw DeadlinePassed
ask one thaw DeadlinePassed
ask one abort ok

note "SIGKILL of the coordinator while frozen: abort within 0.5 s; registers with the next owner"
SET=$SET_B prepare one
SET=$SET_B ask one freeze ok 5000 30000
before=$(date +%s%N)
kill -KILL "$FAKE_PID"
must_hear "^event one abort $SET_B self" 2 "$WRITER_LOG"
took=$((($(date +%s%N) - before) / 1000000))
[ $took -lt 500 ] || die "aborted $took ms after the death of the coordinator"
start_fake
must_hear '^registered one x.1 '
SET=$SET_B ask one thaw DeadlinePassed
must_hear '^ready one' 2 "$WRITER_LOG"

note "the lease alone: abort although the name still has its owner, then registers again"
prepare one
ask one freeze ok 5000 30000
n=$(grep -c ' abort .* self ' "$WRITER_LOG")
fake drop one
_more_aborts() { [ "$(grep -c ' abort .* self ' "$WRITER_LOG")" -gt "$n" ]; }
wait_until 2 _more_aborts || die "the end of the lease was not noticed"
_registered_twice() { [ "$(grep -c '^registered one ' "$FAKE_LOG")" -ge 2 ]; }
wait_until 5 _registered_twice || die "did not register again after its lease ended"
ask one identify ok

note "the old owner is a stranger as soon as it gives the name away"
fake release
sleep 0.2
ask one prepare-backup NotAuthorized
fake own
must_hear '^registered one ' 3

note "SIGTERM while frozen thaws first, leaves the bus in order"
_registered_thrice() { [ "$(grep -c '^registered one ' "$FAKE_LOG")" -ge 3 ]; }
wait_until 5 _registered_thrice || die "did not register again"
prepare one
ask one freeze ok 5000 30000
n=$(grep -c ' abort .* self ' "$WRITER_LOG")
kill -TERM "$WRITER_PID"
wait "$WRITER_PID" || die "SIGTERM: status $?"
_more_aborts || die "SIGTERM while frozen did not thaw"
must_hear '^unregistered one' 2

note "fail, late and hang come out as told; a hang leaves the writer alive"
testwriter --name=two --fail=prepare-backup:1 --late=prepare-snapshot:200:1 --hang=freeze:1 --veto=no-resources
ask two prepare-backup WriterNoResources
prepare two
grep '^reply two prepare-snapshot ok' "$FAKE_LOG" | awk '{exit !($5 >= 200000)}' || die "not late"
fake call two freeze $SET_A 300 500
must_hear "^event two abort $SET_A self" 2 "$WRITER_LOG"
must_not_hear '^reply two freeze'
ask two abort ok
prepare two
ask two freeze ok
ask two thaw ok
stop_process "$WRITER_PID"

note "die"
testwriter --name=three --die=freeze
prepare three
fake call three freeze $SET_A 300 500
wait_until 2 writer_gone "$WRITER_PID" || die "did not die"
must_hear '^reply three freeze NoReply' 2

note "run mode: callbacks on a worker; SIGTERM while frozen"
testwriter --name=four --run
ask four identify ok
prepare four
ask four freeze ok 5000 30000
kill -TERM "$WRITER_PID"
wait "$WRITER_PID" || die "SIGTERM in run mode: status $?"
grep -q ' abort .* self ' "$WRITER_LOG" || die "run mode: SIGTERM while frozen did not thaw"

note "run mode: a callback that hangs while frozen ends the process with 70, 2 s after its time"
testwriter --name=five --run --hang=freeze
prepare five
before=$(date +%s%N)
fake call five freeze $SET_A 300 400
status=0
wait "$WRITER_PID" || status=$?
took=$((($(date +%s%N) - before) / 1000000))
expect_equal 70 $status "status of the stuck writer"
[ $took -ge 2300 ] && [ $took -lt 3500 ] || die "ended after $took ms, not 2400"

note "run mode: an Abort reaches a callback that runs"
testwriter --name=six --run --late=prepare-backup:700
fake call six prepare-backup $SET_A 5000
sleep 0.1
ask six abort ok
stop_process "$WRITER_PID"

note "a refused registration ends the program with 3"
fake refuse org.vssd.Vss1.Error.NotAuthorized
expect_exit 3 "$VSS_BUILD/writers/vss-testwriter" --name=seven
expect_exit 3 "$VSS_BUILD/writers/vss-testwriter" --name=seven --run
fake refuse -

note "a writer that starts before vssd waits for it"
kill -KILL "$FAKE_PID"
_name_is_free() { [ "$(bus_call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus NameHasOwner s org.vssd.Vss1)" = "b false" ]; }
wait_until 5 _name_is_free || die "the killed coordinator keeps its name"
"$VSS_BUILD/writers/vss-testwriter" --name=eight >"$VSS_TEST_DIR/log/eight.log" 2>&1 &
eight=$!
cleanup_fn stop_process $eight
must_hear 'not registered' 5 "$VSS_TEST_DIR/log/eight.log"
start_fake
must_hear '^ready eight' 5 "$VSS_TEST_DIR/log/eight.log"
stop_process $eight

note "1000 writers on one connection, then one connection each"
for how in --shared ''; do
        : >"$VSS_TEST_DIR/log/many.log" # here: the lines of the run before are read until the new one has opened it
        # shellcheck disable=SC2086
        "$VSS_BUILD/writers/vss-testwriter" --name=many --count=1000 $how >"$VSS_TEST_DIR/log/many.log" 2>&1 &
        many=$!
        cleanup_fn stop_process $many
        _all_ready() { [ "$(grep -c '^ready many-' "$VSS_TEST_DIR/log/many.log")" -ge 1000 ]; }
        wait_until 20 _all_ready || die "$(grep -c '^ready many-' "$VSS_TEST_DIR/log/many.log") of 1000 registered ($how)"
        expect_equal "$([ -n "$how" ] && echo 1 || echo 1000)" \
                "$(sed -n 's/^registered many-.* //p' "$FAKE_LOG" | tail -1000 | sort -u | wc -l)" "connections"
        for i in $(seq 1 100); do fake call many-$i freeze $SET_A 5000 30000; done
        _all_frozen() { [ "$(grep -c '^reply many-.* freeze ok' "$FAKE_LOG")" -ge 100 ]; }
        wait_until 10 _all_frozen || die "not all froze"
        kill -KILL "$FAKE_PID"
        _all_aborted() { [ "$(grep -c ' abort .* self ' "$VSS_TEST_DIR/log/many.log")" -ge 100 ]; }
        wait_until 3 _all_aborted || die "$(grep -c ' abort .* self ' "$VSS_TEST_DIR/log/many.log") of 100 aborted"
        start_fake
        _all_again() { [ "$(grep -c '^registered many-' "$FAKE_LOG")" -ge 1000 ]; }
        wait_until 20 _all_again || die "$(grep -c '^registered many-' "$FAKE_LOG") of 1000 registered again"
        stop_process $many
        kill -KILL "$FAKE_PID"
        start_fake
done

note "the bus itself goes: abort, and registration on the new one"
testwriter --name=nine
prepare nine
ask nine freeze ok 5000 30000
stop_process "$BUS_PID"
must_hear "^event nine abort $SET_A self" 2 "$WRITER_LOG"
kill -KILL "$FAKE_PID"
start_bus
start_fake
must_hear '^registered nine ' 5
stop_process "$WRITER_PID"
