#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-unit with control groups of the kernel's: what is in one stands still from Freeze to Thaw, all of it, and whatever
# happens to writer, guard or vssd it runs again; what the machine or the snapshot needs is never frozen.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/rows.sh"
requires jq mkfs.btrfs findmnt
watchdog 200
root=$(findmnt -n -t cgroup2 -o TARGET | head -1)
[ -n "$root" ] || skip "no control groups of version 2 are mounted"
new_fs data btrfs 256M

groups=()
# group VAR: a new control group
group() {
        local path=$root/vss-$$-${#groups[@]}
        mkdir "$path" 2>/dev/null || skip "no control group can be made in $root"
        groups+=("$path")
        cleanup_fn rmdir "$path"
        printf -v "$1" %s "$path"
}
# counter GROUP: a process in it that counts; COUNTER_PID
counter() {
        bash -c 'echo $$ >"$1/cgroup.procs"; for ((n = 1; ; n++)); do echo $n >"$2.new"; mv "$2.new" "$2"; sleep 0.005; done' counter "$1" "$data/${1##*/}" &
        COUNTER_PID=$!
        cleanup_fn end_counter "$COUNTER_PID" "$1"
        wait_until 5 test -s "$data/${1##*/}"
}
end_counter() { echo 0 >"$2/cgroup.freeze"; kill -KILL "$1"; wait "$1" || :; wait_until 5 grep -q 'populated 0' "$2/cgroup.events" || :; }
count() { cat "$data/${1##*/}"; }
frozen() { grep -q 'frozen 1' "$1/cgroup.events"; }
# stands GROUP…, runs WHAT GROUP…
stands() {
        local g before=()
        for g in "$@"; do frozen "$g" || die "$g is not frozen"; before+=("$(count "$g")"); done
        sleep 0.1
        for g in "$@"; do expect_equal "${before[0]}" "$(count "$g")" "what $g counts while it is frozen" && before=("${before[@]:1}"); done
}
runs() {
        local g before
        for g in "${@:2}"; do
                wait_until 5 eval '! frozen "$g"' || die "$1: $g stays frozen"
                before=$(count "$g")
                wait_until 5 eval '[ "$(count "$g")" != "$before" ]' || die "$1: $g does not go on"
        done
}
unit=$VSS_BUILD/writers/vss-writer-unit
writer() { start_writer "$unit" --name=still --volume="$data" "$a" "$b"; }
guard() { pgrep -x vss-guard | head -1 || :; }
no_guard() { wait_until 5 eval '[ -z "$(guard)" ]' || die "$1: a guard stays"; }

start_bus
start_fake
fake volume "$data" "$data"
group a
group b
counter "$a"
counter "$b"
mkdir "$a/below"
cleanup_fn rmdir "$a/below"
writer
ask still identify ok
expect_equal "volume-1 $data * true" "$(grep '^document still ' "$FAKE_LOG" | tail -1 | cut -d' ' -f3- | jq -r '.components[0] | "\(.path) \(.files[0].root) \(.files[0].pattern) \(.files[0].recursive)"')" document

note "frozen from freeze to thaw"
for _ in 1 2 3; do
        prepare still
        runs "prepared" "$a" "$b"
        ask still freeze ok 5000 30000
        stands "$a" "$b"
        ask still thaw ok
        runs thaw "$a" "$b"
        no_guard thaw
done

note "abort, SIGTERM, SIGKILL of the writer: the guard has let go"
prepare still
ask still freeze ok 5000 30000
ask still abort ok
runs abort "$a" "$b"
ask still abort ok
for signal in TERM KILL; do
        prepare still
        ask still freeze ok 5000 30000
        kill -$signal "$WRITER_PID"
        wait "$WRITER_PID" 2>/dev/null || :
        runs SIG$signal "$a" "$b"
        no_guard SIG$signal
        writer
done
[ -z "$(ls "$RUNTIME_DIRECTORY/frozen")" ] || die "records are left: $(ls "$RUNTIME_DIRECTORY/frozen")"

note "the guard killed: the set is not called good; both killed: the record is heeded"
prepare still
ask still freeze ok 5000 30000
kill -KILL "$(guard)"
stands "$a" "$b"
ask still thaw WriterRetryable
ask still abort ok
runs "the guard killed" "$a" "$b"
prepare still
ask still freeze ok 5000 30000
expect_exit 1 "$unit" --name=still --release-leftovers
stands "$a" "$b"
kill -STOP "$(guard)"
kill -KILL "$WRITER_PID" "$(guard)"
wait "$WRITER_PID" 2>/dev/null || :
stands "$a" "$b"
expect_exit 0 "$unit" --name=still --release-leftovers
runs "--release-leftovers" "$a" "$b"
[ -z "$(ls "$RUNTIME_DIRECTORY/frozen")" ] || die "the record is still there"
writer
prepare still
ask still freeze ok 5000 30000
kill -STOP "$(guard)"
kill -KILL "$WRITER_PID" "$(guard)"
wait "$WRITER_PID" 2>/dev/null || :
writer
runs "the next writer" "$a" "$b"

note "a writer that hangs, a thaw that comes too late, vssd that dies"
prepare still
ask still freeze ok 2000 3000
kill -STOP "$WRITER_PID"
wait_until 6 eval '! frozen "$a" && ! frozen "$b"' || die "a writer that hangs: frozen after its time"
runs "a writer that hangs" "$a" "$b"
kill -CONT "$WRITER_PID"
ask still abort ok
prepare still
ask still freeze ok 2000 3000
wait_until 6 eval '! frozen "$a" && ! frozen "$b"' || die "frozen after its time"
ask still thaw 'DeadlinePassed|WriterRetryable'
ask still abort ok
prepare still
ask still freeze ok 5000 30000
kill -KILL "$FAKE_PID"
runs "vssd killed" "$a" "$b"
stop_process "$WRITER_PID"
no_guard "vssd killed"
wait "$FAKE_PID" 2>/dev/null || :
start_fake
fake volume "$data" "$data"
writer

note "frozen by somebody else: not ours to thaw; thawed by somebody else: not good"
echo 1 >"$b/cgroup.freeze"
wait_until 5 frozen "$b"
ask still prepare-snapshot WriterRetryable
ask still abort ok
frozen "$b" || die "it was thawed"
runs "not frozen at all" "$a"
echo 0 >"$b/cgroup.freeze"
prepare still
ask still freeze ok 5000 30000
echo 0 >"$a/cgroup.freeze"
runs "thawed by somebody" "$a"
ask still thaw WriterRetryable
ask still abort ok
runs "thawed by somebody" "$a" "$b"
prepare still
ask still freeze ok 5000 30000
ask still thaw ok

note "what is needed is refused: now, and when it moved in later"
needed() {
        local status=0
        timeout 20 "$unit" --volume="$data" "$2" >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err" || status=$?
        expect_equal 10 "$status" "status for a group with $1 ($(cat "$VSS_TEST_DIR/err"))"
        grep -q "must not be frozen.*$1" "$VSS_TEST_DIR/err" || die "refused for another reason than $1: $(cat "$VSS_TEST_DIR/err")"
}
group c
mkdir "$c/deep" "$c/deep/er"
cleanup_fn rmdir "$c/deep"
cleanup_fn rmdir "$c/deep/er"
echo "$BUS_PID" >"$c/deep/er/cgroup.procs"
needed "bus" "$c"
echo "$BUS_PID" >"$root/cgroup.procs"
echo "$FAKE_PID" >"$c/deep/cgroup.procs"
needed "vssd" "$c"
echo "$FAKE_PID" >"$root/cgroup.procs"
bash -c 'exec -a x sleep 1000 9<>/dev/fuse' &
server=$!
cleanup_fn stop_process $server
wait_until 5 test -e "/proc/$server/fd/9"
echo $server >"$c/deep/er/cgroup.procs"
needed "serving volumes by /dev/fuse" "$c"
echo $server >"$root/cgroup.procs"
(echo "$BASHPID" >"$c/cgroup.procs" && needed "this writer" "$c" && echo "$BASHPID" >"$root/cgroup.procs") || die "its own group"
needed_now() {
        echo "$server" >"$a/cgroup.procs"
        ask still "$1" WriterFatal
        ask still abort ok
        echo "$server" >"$root/cgroup.procs"
        runs "refused at $1" "$a" "$b"
}
needed_now prepare-snapshot
prepare still
needed_now freeze
expect_exit 10 "$unit" --volume="$data" "$root" 2>"$VSS_TEST_DIR/err"
expect_exit 4 "$unit" --volume="$data" "$root/no-such-group" 2>"$VSS_TEST_DIR/err"
expect_exit 10 "$unit" --volume="$data" "$data" 2>"$VSS_TEST_DIR/err"
expect_exit 2 "$unit" "$a" 2>"$VSS_TEST_DIR/err"
expect_exit 2 "$unit" 2>"$VSS_TEST_DIR/err"
for wrong in a.timer system.slice plain ../x.service; do expect_exit 2 "$unit" --volume="$data" $wrong 2>"$VSS_TEST_DIR/err"; done
expect_exit 13 "$unit" --volume="$data" no-systemd.service 2>"$VSS_TEST_DIR/err"
stop_process "$WRITER_PID"
stop_process "$FAKE_PID"

note "sets"
start_vssd
writer
for _ in 1 2 3; do
        expect_exit 0 vssctl --json create --require=application "$data" >"$VSS_TEST_DIR/set.json"
        runs "after a set" "$a" "$b"
        expect_exit 0 vssctl delete --force "$(json .set <"$VSS_TEST_DIR/set.json")" >/dev/null
done
