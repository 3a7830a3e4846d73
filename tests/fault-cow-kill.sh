#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# fault-cow-kill.sh [STEP…]: what takes part in a set of engine volumes dies, or stops, at every step of the window.
#
# The set is brought to a stand by a fault (VSS_FAULT, or a writer that does not answer), then one process is hit. After it
# two processes that were writing all the time have to go on, within a second where the budgets are long (then no deadline
# can have done it) or by the deadline; no file system is frozen; the set is there whole or not at all, in vssd's list and in
# the engine's; nothing carries the pending mark once vssd has been there; and the next set works.
VSS_TEST_SECONDS=850
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 jq losetup pgrep python3

only=" $* "
wanted() { [ "$only" = "  " ] || [[ $only == *" $1 "* ]]; }
long=(prepare_snapshot=40 pre_flush=20 freeze=60 hold=40 provider=40 provider_step=30 thaw=40 post_snapshot=40 abort=40)
short=(prepare_snapshot=5 freeze=6 hold=1.5 provider=5 provider_step=1 thaw=1 post_snapshot=5 abort=5)
ran=0

holders() { cat "$RUNTIME_DIRECTORY"/cow/*/lock 2>/dev/null || :; }
servers() {
        local h
        for h in $(holders); do pgrep -P "$h" -x vss-cow || :; done
}

# ---- the stage ---------------------------------------------------------------------------------------------------

cat >"$VSS_TEST_DIR/pulse" <<'END'
import os, sys, time
f = os.open(sys.argv[1] + "/pulse", os.O_RDWR | os.O_CREAT)
said = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
n = 0
while True:
    began = int(time.time() * 1000)
    try:
        os.pwrite(f, b"%4096d" % began, n % 64 * 4096)
        os.fsync(f)
    except OSError:
        os.pwrite(said, b"%-20s" % b"error", 0)
        break
    os.pwrite(said, b"%-20d" % began, 0)
    n += 1
    time.sleep(0.02)
END

declare -A pulse_pid
# pulse NAME: writes and syncs to that volume all the time; the beginning of the last write that came through is in pulse.NAME
pulse() {
        rm -f "$VSS_TEST_DIR/pulse.$1"
        python3 "$VSS_TEST_DIR/pulse" "$VSS_TEST_DIR/$1" "$VSS_TEST_DIR/pulse.$1" &
        pulse_pid[$1]=$!
        wait_until 10 test -s "$VSS_TEST_DIR/pulse.$1" || die "no write to $1 comes through"
}
last_pulse() { tr -d ' ' <"$VSS_TEST_DIR/pulse.$1" 2>/dev/null || :; }

dismiss() {
        kill -KILL "$@" 2>/dev/null || :
        wait "$@" 2>/dev/null || :
}

# stage NAME: that volume mounted and written to
stage() {
        mount "$RUNTIME_DIRECTORY/dev/$1" "$VSS_TEST_DIR/$1"
        pulse "$1"
}

unstage() {
        local i v
        dismiss "${pulse_pid[@]}"
        for v in a b c; do
                for i in {1..50}; do
                        mountpoint -q "$VSS_TEST_DIR/$v" || break
                        umount "$VSS_TEST_DIR/$v" 2>/dev/null || sleep 0.1
                done
                mountpoint -q "$VSS_TEST_DIR/$v" || continue
                echo "$v cannot be unmounted" >&2
                return 1
        done
}

serve() {
        export VSS_FAULT=$1
        shift
        configure Timeouts "$@"
        start_vssd
}

standing_host() {
        local p
        for p in $(pgrep -x vss-provider-ho); do
                if grep -qE 'pause|nanosleep' "/proc/$p/wchan" 2>/dev/null; then echo "$p"; fi
        done
}
host_stands() { [ -n "$(standing_host)" ]; }
target_stands() { grep -q "^event target $step [^ ]* hang" "$target_log"; }

# begin: the set, up to the step
begin() {
        OUT=$VSS_TEST_DIR/out.json
        # shellcheck disable=SC2086
        "$VSS_BUILD/client/vssctl" --json create --persistent --provider=fault:cow $pair >"$OUT" 2>"$OUT.err" &
        SET_PID=$!
        wait_until 20 "$stands" || die "$what: the set does not come there: $(cat "$OUT" "$OUT.err")"
}

pids_of() {
        case $1 in
        vssd) echo "$VSSD_PID" ;;
        host) if host_stands; then standing_host; else pgrep -x vss-provider-ho || :; fi ;;
        guard) pgrep -x vss-guard || : ;;
        guards) pgrep -x 'vss-guard|vss-guard-2' || : ;;
        server) servers ;;
        one) servers | head -n 1 ;;
        engine) holders && servers ;;
        esac
}

# ---- what must be true -------------------------------------------------------------------------------------------

msec() { echo $((${EPOCHREALTIME/./} / 1000)); }

# who_waits SINCE [ENGINE]: volumes that have not finished a write begun since; an error is an end only if the engine is gone
who_waits() {
        local v last
        for v in a b c; do
                last=$(last_pulse $v)
                if [ "$last" = error ]; then
                        [ "${2:-}" = engine ] || echo "a write to $v failed"
                elif [ "${last:-0}" -lt "$1" ]; then echo "$v does not take a write"; fi
        done
}

# runs_within MSEC SINCE [VICTIM]
runs_within() {
        local end=$(($2 + $1)) waits
        while :; do
                waits=$(who_waits "$2" "${3:-}")
                [ -n "$waits" ] || break
                [ "$(msec)" -lt $end ] || die "$what: after $1 ms $waits; $(pgrep -a vss- || :)"
                sleep 0.02
        done
}

nothing_frozen() {
        local v
        for v in a b c; do
                if timeout 5 fsfreeze -u "$VSS_TEST_DIR/$v" 2>/dev/null; then die "$what: $v was left frozen"; fi
        done
}

# the window has the file systems stand still from the hold to the release, and at no other step
check_window() {
        local v last
        case $step in hold | commit | release) ;; *) return 0 ;; esac
        sleep 0.3
        for v in $pair; do
                v=${v##*/}
                last=$(last_pulse "$v")
                [ "$last" -lt $(($(msec) - 200)) ] || die "$what: $v is not held"
        done
}

ended() { ! kill -0 "$SET_PID" 2>/dev/null; }
nobody_works() { [ "$(vssctl --json sets | jq '[.sets[] | select(.state == "running" or .state == "aborting")] | length')" = 0 ]; }
nothing_runs() { ! pgrep -x 'vss-guard|vss-guard-2|vss-provider-ho' >/dev/null; }

engine_copies() {
        local d
        for d in "$RUNTIME_DIRECTORY"/cow/*/; do
                "$VSS_SOURCE/tests/cow-control" "${d%/}" list set= from=0 || echo '{"snapshots":[{"pending":"unknown"}]}'
        done | jq -s "[.[].snapshots[] | $1] | length"
}
nothing_pending() { [ "$(engine_copies 'select(.pending)')" = 0 ]; }

# whole STATUS: of create; how many copies there are, whoever is asked
whole() {
        local n
        wait_until 10 nobody_works || die "$what: a set is still being made"
        wait_until 10 nothing_pending || die "$what: pending copies are left"
        n=$(vssctl --json snapshots | jq '.snapshots | length')
        case $n in 0 | 2) ;; *) die "$what: half a set is shown: $(vssctl snapshots)" ;; esac
        expect_equal "$n" "$(engine_copies .)" "$what: copies in the engine, of which $n are listed"
        [ "$1" -ne 0 ] || expect_equal 2 "$n" "$what: copies of a set that is called good"
        # the marks were off and the result not yet written: the set is there and must be taken in again
        [ "$1" -eq 0 ] || expect_equal "$([ "$step" = list ] && echo 2 || echo 0)" "$n" "$what: copies of a set that was not called good"
        note "$what: create ended with $1, $n copies"
}

next_set() {
        # shellcheck disable=SC2086
        vssctl --json create --provider=cow --no-writers --wait-for-turn=20 $pair >"$OUT.next" || die "$what: the next set fails: $(cat "$OUT.next")"
        delete_all
        expect_equal 0 "$(engine_copies .)" "$what: copies left after everything was deleted"
}

# again: whoever has lost his engine attaches the volumes and goes on
again() {
        local v
        unstage || die "$what: what has lost its device cannot be unmounted"
        for v in a b c; do
                vssctl volume attach "$v" >"$OUT.attach" 2>&1 || die "$what: $v cannot be attached again: $(cat "$OUT.attach")"
                stage "$v"
        done
}

# hit VICTIM SIGNAL LIMIT: a set up to the step
hit() {
        local victim=$1 signal=$2 limit=$3 pids=() since status=0 v
        what="$step${two_stores:+ (two stores)}, $victim hit with $signal"
        testwriter --name=target --volume="${pair%% *}" --freeze-timeout=50 "${hang[@]}"
        target_log=$WRITER_LOG
        begin
        check_window
        [ "$victim" = nobody ] || mapfile -t pids < <(pids_of "$victim")
        [ $victim = nobody ] || [ ${#pids[@]} -gt 0 ] || die "$what: there is no such process"
        since=$(msec)
        [ $victim = nobody ] || kill -"$signal" "${pids[@]}"
        if [ "$victim-$signal" = server-STOP ]; then
                # nobody can write then, whatever we do; what counts is that nothing is stuck behind it
                sleep 2.5
                kill -CONT "${pids[@]}"
                since=$(msec)
        fi
        runs_within "$limit" "$since" "$victim"
        note "$what: everything runs after $(($(msec) - since)) ms"
        [ "$signal" != STOP ] || kill -CONT "${pids[@]}" 2>/dev/null || :
        [ "$victim" = vssd ] || [ "$stands" != target_stands ] || kill -KILL "$WRITER_PID"
        # what a provider does in the window is not broken off: the set ends when it has ended
        while ! wait_until 1 ended; do
                [ "$(msec)" -lt $((since + 20000)) ] || die "$what: create does not end: $(pgrep -a vss- || :)"
                case $victim in guard | guards) for v in $(standing_host); do kill -KILL "$v" 2>/dev/null || :; done ;; esac
        done
        wait "$SET_PID" || status=$?
        if [ "$victim-$signal" = vssd-KILL ]; then
                [ $status -ne 0 ] || die "$what: the set is called good"
                wait_until 5 nothing_runs || die "$what: guards or hosts live on: $(pgrep -a vss- || :)"
                start_vssd
        fi
        nothing_frozen
        [ "$victim" != engine ] || again
        dismiss "$WRITER_PID"
        whole $status
        next_set
        runs_within 2000 "$(msec)"
        ran=$((ran + 1))
}

# at STEP VICTIM SIGNAL
at() {
        local limit=1000 budgets=("${long[@]}") action=hang hang=() stands=host_stands fault
        step=$1
        case $2-$3 in
        # a set does not notice the end of a server before it asks it again
        server-KILL | one-KILL | engine-KILL) action=delay=1000 limit=4000 ;;
        *-STOP | nobody-*) budgets=("${short[@]}") limit=3000 ;;
        esac
        fault=$step:$action
        case $step in freeze | thaw) hang=(--hang="$step") stands=target_stands fault='' budgets=("${short[@]}") limit=6000 ;; esac
        serve "$fault" "${budgets[@]}"
        hit "$2" "$3" "$limit"
        stop_vssd
}

# ---- the cases ---------------------------------------------------------------------------------------------------

new_fs host ext4 600M
start_bus
VSS_FAULT='' start_vssd
truncate -s 32M "$host/a.img" "$host/b.img" "$host/c.img"
expect_exit 0 vssctl volume create a --origin="$host/a.img" --store="$host/one" --store-max=160M
expect_exit 0 vssctl volume create b --origin="$host/b.img" --store="$host/one"
expect_exit 0 vssctl volume create c --origin="$host/c.img" --store="$host/two" --store-max=160M
cleanup_fn unstage
for v in a b c; do
        mkfs.ext4 -q "$RUNTIME_DIRECTORY/dev/$v"
        mkdir "$VSS_TEST_DIR/$v"
        stage $v
done
stop_vssd

pair="$VSS_TEST_DIR/a $VSS_TEST_DIR/b" two_stores=
for s in freeze pre-commit hold commit release post-commit thaw clear-mark; do
        wanted $s || continue
        at $s vssd KILL
        case $s in freeze | thaw) ;; *) at $s host KILL ;; esac
        case $s in pre-commit | hold | commit | release) at $s guard KILL && at $s guards KILL ;; esac
        at $s server KILL
        at $s engine KILL
done
for s in hold commit release; do
        wanted stop || wanted stop-$s || continue
        for v in nobody vssd guard server; do at $s $v STOP; done
done
pair="$VSS_TEST_DIR/a $VSS_TEST_DIR/c" two_stores=yes
for s in commit release clear-mark; do
        wanted two || wanted two-$s || continue
        for v in vssd one server engine; do at $s $v KILL; done
done
for pair in "$VSS_TEST_DIR/a $VSS_TEST_DIR/b" "$VSS_TEST_DIR/a $VSS_TEST_DIR/c"; do
        case $pair in */c) two_stores=yes ;; *) two_stores= ;; esac
        if wanted list; then at list vssd KILL; fi
done
[ $ran -gt 0 ] || die "nothing was run: $*"
echo "$ran cases"
