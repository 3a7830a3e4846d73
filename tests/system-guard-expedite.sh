#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Grace periods of RCU are short while file systems are held and at no other time: /sys/kernel/rcu_expedited is 1 in the hold
# and what it was when the hold is over, however that ends. The real one is the machine's, and others may use it now: a file
# takes its place. That it makes holds shorter is measured with the real one, by bench-hold.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4 pgrep flock systemd-socket-activate
[ -e /sys/kernel/rcu_expedited ] || skip "this kernel has no rcu_expedited"
watchdog 120

knob=$VSS_TEST_DIR/knob normal=$VSS_TEST_DIR/normal
echo 0 | tee "$knob" >"$normal"
for name in knob:expedited normal:normal; do
        mount --bind "$VSS_TEST_DIR/${name%:*}" "/sys/kernel/rcu_${name#*:}"
        cleanup_fn umount "/sys/kernel/rcu_${name#*:}"
done
new_fs data ext4 64M
start_bus
export VSS_FAULT=commit:delay=1500
start_vssd
testwriter --name=probe --volume="$data"
record=$RUNTIME_DIRECTORY/expedited
registered() { vssctl writers | grep -q probe; }
knob_is() { [ "$(cat "$knob")" = "$1" ]; }
expect_knob() { expect_equal "$1" "$(cat "$knob")" "rcu_expedited $2"; }
# hold VALUE: a set in its hold, where the knob is that
hold() {
        hold_set "$data"
        expect_knob "$1" "in the hold"
}
good() { wait_set || die "the set failed: $(cat "$SET_OUT")"; }
bad() { ! wait_set || die "$1: the set is called good"; }
probe_ends() {
        wait_until 3 probe_runs || die "$1: still held"
        kill "$PROBE_PID" 2>/dev/null || :
}

note "a set, and one that is aborted by its deadline"
expect_knob 0 "before"
hold 1
good
expect_knob 0 "after a set"
configure Timeouts hold=0.5
kill -HUP "$VSSD_PID"
hold 1
bad deadline
wait_until 2 knob_is 0 || die "it stays after a deadline"
rm "$CONFIGURATION_DIRECTORY/vssd.conf"
kill -HUP "$VSSD_PID"

note "SIGSTOP and SIGKILL of the first guard; the second lets go"
configure Timeouts hold=1
kill -HUP "$VSSD_PID"
for signal in STOP KILL; do
        hold 1
        mapfile -t all < <(guards)
        kill -$signal "${all[0]}"
        wait_until 4 knob_is 0 || die "SIG$signal: it stays"
        probe_ends $signal
        bad $signal
        wait_until 5 eval '[ -z "$(guards)" ]' || die "SIG$signal: a guard stays"
done
rm "$CONFIGURATION_DIRECTORY/vssd.conf"
kill -HUP "$VSSD_PID"

note "both and vssd: the next start sets it back; both: vssd sees to it"
for next in start vssd; do
        hold 1
        mapfile -t all < <(guards)
        [ $next = vssd ] || kill -STOP "$VSSD_PID" # or it might be quicker than its end
        kill -KILL "${all[1]}"
        kill -KILL "${all[0]}"
        [ $next = vssd ] || kill -KILL "$VSSD_PID"
        if [ $next = start ]; then
                expect_knob 1 "when nobody is left"
                start_vssd
                wait_until 10 registered
                expect_knob 0 "after the next start"
        fi
        probe_ends both
        bad both
        wait_until 5 knob_is 0 || die "it stays with both guards dead"
done

note "where somebody else starts guards, because vssd may not write below /sys, a new one does it"
systemd-socket-activate --seqpacket --accept --listen="$RUNTIME_DIRECTORY/guard.socket" "$VSS_BUILD/daemon/vss-guard" \
        --socket-fd=3 --runtime-directory="$RUNTIME_DIRECTORY" 2>"$VSS_TEST_DIR/log/listener.log" &
listener=$!
cleanup_fn stop_process $listener
wait_until 10 test -S "$RUNTIME_DIRECTORY/guard.socket" || die "nobody listens"
hold 1
mapfile -t all < <(pgrep -x 'vss-guard-2'; pgrep -x 'vss-guard')
kill -KILL "${all[0]}"
kill -KILL "${all[1]}"
probe_ends both
bad both
wait_until 5 knob_is 0 || die "it stays with both guards dead"
wait_until 5 eval '[ -z "$(pgrep vss-guard)" ]' || die "the new guard stays"
stop_process $listener
rm "$RUNTIME_DIRECTORY/guard.socket"

note "what was left all the same: the next set sets it back"
echo 1 | tee "$knob" >"$record"
hold 1
good
expect_knob 0 "after the next set"

note "somebody else needs it, too: who goes last sets it back"
hold 1
flock -s "$record" sleep 60 &
other=$!
cleanup_fn stop_process $other
good
expect_knob 1 "while another guard has its lock"
pkill -P $other
wait $other 2>/dev/null || :
hold 1
good
expect_knob 0 "after the last"

note "an administrator's own 1; a kernel that would not listen; not wanted"
echo 1 >"$knob"
hold 1
good
expect_knob 1 "of the administrator's"
echo 0 >"$knob"
echo 1 >"$normal"
hold 0
good
echo 0 >"$normal"
configure Copies expedite_rcu=no
kill -HUP "$VSSD_PID"
hold 0
good

note "a record that is no file of ours is not followed"
rm "$CONFIGURATION_DIRECTORY/vssd.conf"
kill -HUP "$VSSD_PID"
mv "$record" "$record.away"
ln -s "$record.away" "$record"
hold 0
good
stop_vssd
