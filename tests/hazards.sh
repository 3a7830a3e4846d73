# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the hazard tests share: a set that stands in its hold for a known time, and probes that tell who waits.

# configure SECTION KEY=VALUE…: writes vssd.conf
configure() {
        local section=$1
        shift
        {
                echo "[$section]"
                printf '%s\n' "$@"
        } >"$CONFIGURATION_DIRECTORY/vssd.conf"
}

# hold_set MSEC VOLUME…: starts a set in the background whose commit takes MSEC (vssd needs VSS_FAULT=commit:delay=MSEC)
# and returns once its file systems are held. SET_PID; its output in SET_OUT. A testwriter named probe must be running.
hold_set() {
        local before
        before=$(grep -c '^event probe freeze ' "$WRITER_LOG" || :)
        SET_OUT=$VSS_TEST_DIR/set$((_set_count += 1)).json
        vssctl --json create --provider=fault:null "$@" >"$SET_OUT" 2>"$SET_OUT.err" &
        SET_PID=$!
        _frozen_writer() { [ "$(grep -c '^event probe freeze ' "$WRITER_LOG")" -gt "$before" ]; }
        wait_until 20 _frozen_writer || die "the set does not come to its freeze: $(cat "$SET_OUT" "$SET_OUT.err")"
        probe_write "$1"
        wait_until 5 probe_waits || die "$1 is not held"
}
_set_count=0

# wait_set: status of the set that hold_set started
wait_set() {
        local status=0
        wait "$SET_PID" || status=$?
        return $status
}

# probe_write MOUNT-POINT: a write in the background that stands still while the file system does; PROBE_PID
probe_write() {
        (
                for _ in {1..2000}; do
                        : >"$1/probe"
                        sleep 0.02
                done
        ) &
        PROBE_PID=$!
        cleanup_fn stop_process "$PROBE_PID"
}
# where the kernel makes a writer wait for the end of a freeze; any other sleep is work on the disk
probe_waits() { grep -qx percpu_rwsem_wait "/proc/$PROBE_PID/wchan"; }
probe_runs() { ! probe_waits && sleep 0.1 && ! probe_waits; }

# must_write SECONDS MOUNT-POINT: a write goes through within that time
must_write() {
        local pid i
        (: >"$2/must-write") &
        pid=$!
        for ((i = 0; i < $1 * 20; i++)); do
                kill -0 $pid 2>/dev/null || { wait $pid && return 0; }
                sleep 0.05
        done
        die "$2 still stands still after $1 s"
}

guards() { pgrep -f "^[^ ]*vss-guard" || :; }
