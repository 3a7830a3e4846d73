#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# fault-kill.sh [STEP…]: every process of a set dies, or stops, at every step of the set.
#
# The set is brought to a stand at the step by a fault (VSS_FAULT, or a writer that does not answer), never by sleeping. Then
# one process is killed: everything that stood still runs again within a second, the budgets being so long that no deadline
# can have done it. A process whose death does not concern the set (the second guard, the requester of a set that is its own,
# a guard that has released) leaves it alone; then what hangs is killed too. With SIGSTOP the budgets are short, and everything
# runs by the deadline and half a second. After each the next set works, and on btrfs nothing lies in .vss that is not listed.
VSS_TEST_SECONDS=1700
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs pgrep btrfs

only=" $* "
wanted() { [ "$only" = "  " ] || [[ $only == *" $1 "* ]]; }

new_fs data ext4 64M
new_fs copies btrfs 256M
start_bus
ran=0

long=(identify=40 prepare_backup=40 prepare_snapshot=40 pre_flush=20 freeze=60 hold=40 provider=40 provider_step=30 thaw=40
        post_snapshot=40 abort=40)
short=(identify=2 prepare_backup=1 prepare_snapshot=1 freeze=4 hold=1 provider=1 provider_step=0.5 thaw=1 post_snapshot=1 abort=1)

# ---- the stage ---------------------------------------------------------------------------------------------------

# serve FAULTS KEY=VALUE…: vssd with these faults and budgets
serve() {
        export VSS_FAULT=$1
        shift
        configure Timeouts "$@"
        start_vssd
}

# writers VOLUME EVENT: one that does what it should, and one that does not answer EVENT (none: -)
writers() {
        local -a hang=()
        [ "$2" = - ] || hang=("--hang=$2")
        testwriter --name=probe --level=front-end --volume="$1" --freeze-timeout=50
        probe_pid=$WRITER_PID probe_log=$WRITER_LOG
        testwriter --name=target --level=back-end --volume="$1" --freeze-timeout=50 "${hang[@]}"
        target_pid=$WRITER_PID target_log=$WRITER_LOG
}

dismiss() {
        kill -KILL "$@" 2>/dev/null || :
        wait "$@" 2>/dev/null || :
}

hung_host() {
        local p
        for p in $(pgrep -x vss-provider-ho); do
                if grep -q pause "/proc/$p/wchan" 2>/dev/null; then echo "$p"; fi
        done
}
host_hangs() { [ -n "$(hung_host)" ]; }
target_hangs() { grep -q "^event target $step [^ ]* hang" "$target_log"; }

# begin COMMAND OPTION…: vssctl in the background, up to the step; SET_PID
begin() {
        OUT=$VSS_TEST_DIR/out.json
        "$VSS_BUILD/client/vssctl" --json "$@" >"$OUT" 2>"$OUT.err" &
        SET_PID=$!
        wait_until 20 "$hangs" || die "$step: the set does not come there: $(cat "$OUT" "$OUT.err")"
}

pids_of() {
        case $1 in
        vssd) echo "$VSSD_PID" ;;
        guard) pgrep -x vss-guard || : ;;
        second) pgrep -x vss-guard-2 || : ;;
        guards) pgrep -x 'vss-guard|vss-guard-2' || : ;;
        host) if host_hangs; then hung_host; else pgrep -x vss-provider-ho || :; fi ;;
        target) echo "$target_pid" ;;
        vssctl) echo "$SET_PID" ;;
        esac
}

# find_pids VICTIM WHAT: pids; the second guard comes a moment after the first
find_pids() {
        wait_until 5 eval "[ -n \"\$(pids_of $1)\" ]" || die "$2: there is no such process"
        mapfile -t pids < <(pids_of "$1")
}

# ---- what must be true -------------------------------------------------------------------------------------------

msec() { echo $((${EPOCHREALTIME/./} / 1000)); }

# stands LOG NAME: a writer whose last word is a Freeze
stands() { [ "$(events "$2" "$1" | grep -E '^(freeze|thaw|abort|backup-shutdown)$' | tail -n 1)" = freeze ]; }

# who_stands [VICTIM]: nothing if every file system takes a write and no writer but the victim is frozen
who_stands() {
        kill -0 "$PROBE_WRITE" 2>/dev/null && echo "$volume does not take a write"
        stands "$probe_log" probe && echo "writer probe is frozen"
        # the dead need no thawing
        if [ "$1" != target ] && kill -0 "$target_pid" 2>/dev/null && stands "$target_log" target; then
                echo "writer target is frozen"
        fi
        return 0
}

# released_within MSEC WHAT [VICTIM]
released_within() {
        local end left
        end=$(($(msec) + $1))
        (: >"$volume/write") &
        PROBE_WRITE=$!
        while :; do
                left=$(who_stands "${3:-}")
                [ -n "$left" ] || break
                [ "$(msec)" -lt $end ] || die "$2: after $1 ms $left"
                sleep 0.02
        done
}

ended() { ! kill -0 "$SET_PID" 2>/dev/null; }

# ends WHAT: the set is over and was not called good
ends() {
        wait_until 10 ended || die "$1: create does not end"
        wait_set && die "$1: the set is called good: $(cat "$OUT")"
        return 0
}

nothing_runs() { ! pgrep -x 'vss-guard|vss-guard-2|vss-provider-ho' >/dev/null; }

# The copies, not the places for them: an empty place is cleared away by the next set.
find_copies() { find "$copies/.vss" -mindepth 3 -maxdepth 3 "$@" 2>/dev/null || :; }
in_vss() { find_copies | wc -l; }

# listed WHAT: after a restart, what lies in .vss is what the list shows
listed() {
        local n
        n=$(vssctl --json snapshots | jq '.snapshots | length')
        find_copies -path '*/.pending-*' | grep . >&2 && die "$1: pending copies are left"
        [ "$n" = "$(in_vss)" ] || vssctl snapshots >&2
        expect_equal "$n" "$(in_vss)" "$1: copies in .vss, of which $n are listed"
}

next_set() {
        local -a provider=(--provider=null)
        [ "$volume" = "$data" ] || provider=(--provider=btrfs)
        vssctl --json create "${provider[@]}" --no-writers --wait-for-turn=20 "$volume" >"$OUT.next" || die "$1: the next set fails: $(cat "$OUT.next")"
        vssctl delete "$(json .set <"$OUT.next")" >/dev/null || die "$1: the next set cannot be deleted"
}

# concerns VICTIM: whether its death ends a set that stands at the step
concerns() {
        case $1 in
        vssd) true ;;
        host) [ "$hangs" = host_hangs ] ;;
        # while things are held the bus is not read; who has answered PostSnapshot owes the set nothing more
        target) case $step in commit | post-final | clear-mark | list | abort) false ;; esac ;;
        guard | guards) case $step in
                begin-prepare | end-prepare | prepare-backup | prepare-snapshot | freeze | pre-commit | commit) true ;;
                *) false ;;
                esac ;;
        second | vssctl) false ;;
        bound) case $step in
                begin-prepare | end-prepare | prepare-backup | prepare-snapshot | freeze | pre-commit) true ;;
                *) false ;;
                esac ;;
        esac
}

# unblock: what hangs dies, and what hangs next as well (an abort, for one), until unblocked
unblock() {
        local p
        if [ "$hangs" = target_hangs ]; then
                kill -KILL "$target_pid" 2>/dev/null || :
                return
        fi
        while :; do
                for p in $(hung_host); do kill -KILL "$p" 2>/dev/null || :; done
                sleep 0.02
        done &
        unblocker=$!
}
unblocker=
unblocked() { [ -z "$unblocker" ] || dismiss "$unblocker"; unblocker=; }

check_held() {
        [ "$step" = commit ] && [ "$volume" = "$data" ] || return 0
        probe_write "$data"
        wait_until 5 probe_waits || die "$1: the file system is not held at commit"
        dismiss_probe=$PROBE_PID
}

end_probe() {
        [ -z "${dismiss_probe:-}" ] || dismiss "$dismiss_probe"
        dismiss_probe=
}

# kill_at VICTIM OPTION…: a set up to the step, the victim dies
kill_at() {
        local victim=$1 what="$step, $1 killed" pids died
        shift
        begin create "$@" "$volume"
        check_held "$what"
        find_pids "${victim/bound/vssctl}" "$what"
        died=$(msec)
        kill -KILL "${pids[@]}"
        if concerns "$victim"; then
                released_within 1000 "$what" "$victim"
                note "$what: everything runs after $(($(msec) - died)) ms"
        else
                sleep 0.1
                kill -0 "$VSSD_PID" || die "$what: vssd is gone"
                unblock
                released_within 1000 "$what, and what hung" "$victim"
                note "$what: the set is not concerned; and ends with what hung"
        fi
        end_probe
        # what a provider does in the window is not broken off: the set ends when it has ended
        [ -n "$unblocker" ] || unblock
        case $victim in vssctl | bound) wait "$SET_PID" 2>/dev/null || : ;; *) ends "$what" ;; esac
        [ "$victim" = vssd ] || wait_until 10 nobody_works || die "$what: a set is still being made"
        unblocked
        ran=$((ran + 1))
}

# ---- SIGKILL -----------------------------------------------------------------------------------------------------

# after VICTIM EVENT: writers and vssd as before, and the next set
after() {
        case $1 in
        vssd)
                wait_until 3 nothing_runs || die "$step, vssd killed: guards or hosts live on: $(pgrep -a vss-)"
                start_vssd
                dismiss "$probe_pid" "$target_pid"
                writers "$volume" "$2" ;;
        *)
                dismiss "$probe_pid" "$target_pid"
                writers "$volume" "$2" ;;
        esac
        next_set "$step, $1 killed"
        delete_all # a committed copy that was taken in again
}
nobody_works() { [ "$(vssctl --json sets | jq '[.sets[] | select(.state == "running" or .state == "aborting")] | length')" = 0 ]; }

kill_at_provider_steps() {
        local victim faults
        volume=$data hangs=host_hangs
        for step in begin-prepare end-prepare pre-commit commit post-commit pre-final post-final clear-mark list abort; do
                wanted "$step" || continue
                faults=$step:hang
                [ "$step" != abort ] || faults=pre-commit:fail,abort:hang
                serve "$faults" "${long[@]}"
                writers "$volume" -
                for victim in guard second guards host target vssctl bound vssd; do
                        case $victim:$step in # a guard that has nothing to do any more is gone already
                        bound:*) kill_at bound --auto-release --provider=fault:null ;;
                        *) kill_at $victim --provider=fault:null ;;
                        esac
                        after $victim -
                done
                stop_vssd
                dismiss "$probe_pid" "$target_pid"
        done
}

kill_at_writer_events() {
        local victim
        volume=$data hangs=target_hangs
        for step in prepare-backup prepare-snapshot freeze thaw post-snapshot; do
                wanted "$step" || continue
                serve "" "${long[@]}"
                writers "$volume" "$step"
                for victim in guard second guards target vssctl bound vssd; do
                        case $victim in
                        bound) kill_at bound --auto-release --provider=null ;;
                        *) kill_at $victim --provider=null ;;
                        esac
                        after $victim "$step"
                done
                stop_vssd
                dismiss "$probe_pid" "$target_pid"
        done
}

# Real copies: nothing may be left that no list shows.
kill_with_copies() {
        local victim faults
        volume=$copies hangs=host_hangs
        for step in begin-prepare end-prepare commit post-commit pre-final post-final clear-mark list abort; do
                wanted "copies" || wanted "copies-$step" || continue
                faults=$step:hang
                [ "$step" != abort ] || faults=post-commit:fail,abort:hang
                for victim in host vssctl vssd; do
                        serve "$faults" "${long[@]}"
                        writers "$volume" -
                        kill_at $victim --provider=fault:btrfs
                        if [ $victim = vssd ]; then
                                wait_until 3 nothing_runs || die "$step: guards or hosts live on: $(pgrep -a vss-)"
                        else
                                stop_vssd
                        fi
                        dismiss "$probe_pid" "$target_pid"
                        VSS_FAULT='' start_vssd
                        listed "$step, $victim killed"
                        # the mark was off, the result not yet written: it is there and must be taken in again
                        [ $step-$victim != list-vssd ] || expect_equal 1 "$(in_vss)" "committed copies after vssd died"
                        next_set "$step, $victim killed"
                        delete_all
                        expect_equal 0 "$(in_vss)" "$step, $victim killed: copies left after everything was deleted"
                        stop_vssd
                done
        done
}

kill_in_remove() {
        local victim set
        volume=$copies hangs=host_hangs step=remove
        wanted remove || return 0
        for victim in host vssctl vssd; do
                serve remove:hang "${long[@]}"
                create --provider=fault:btrfs --no-writers "$copies"
                set=$SET
                begin delete "$set"
                mapfile -t pids < <(pids_of $victim)
                kill -KILL "${pids[@]}"
                [ $victim != vssctl ] || kill -KILL "$(hung_host)"
                wait_until 10 ended || die "delete does not end when $victim is killed"
                if [ $victim = vssd ]; then wait_until 3 nothing_runs; else stop_vssd; fi
                VSS_FAULT='' start_vssd
                listed "remove, $victim killed"
                expect_equal 1 "$(in_vss)" "copies after a delete that did not happen"
                expect_exit 0 vssctl delete "$set" >/dev/null
                expect_equal 0 "$(in_vss)" "copies after the delete"
                stop_vssd
                ran=$((ran + 1))
        done
}

# ---- SIGSTOP -----------------------------------------------------------------------------------------------------

# The file system has a deadline of its own: a second and a half for any one process, half a second more for both guards.
hold_ends() {
        local end
        end=$(($(msec) + 1500))
        [ "$2" != guards ] || end=$((end + 500))
        (: >"$volume/held") &
        PROBE_WRITE=$!
        while kill -0 $PROBE_WRITE 2>/dev/null; do
                [ "$(msec)" -lt $end ] || die "$1: the file system is held for longer than its deadline"
                sleep 0.02
        done
}

# stop_at VICTIM LIMIT-MSEC OPTION…
stop_at() {
        local victim=$1 limit=$2 what="$step, $1 stopped" pids
        shift 2
        begin create "$@" "$volume"
        find_pids $victim "$what"
        kill -STOP "${pids[@]}"
        stopped+=("${pids[@]}")
        [ "$step" != commit ] || hold_ends "$what" $victim
        released_within "$limit" "$what" $victim
        note "$what: released in time"
        kill -CONT "${pids[@]}" 2>/dev/null || :
        released_within 1500 "$what, and continued"
        ends "$what"
        wait_until 10 nobody_works || die "$what: a set is still being made"
        next_set "$what"
        ran=$((ran + 1))
}

continue_all() { kill -CONT "${stopped[@]}" 2>/dev/null || :; }
stopped=()
cleanup_fn continue_all

stop_everywhere() {
        local victim event limit
        volume=$data
        for step in pre-commit commit post-commit freeze thaw; do
                wanted stop || wanted "stop-$step" || continue
                case $step in
                freeze | thaw) event=$step hangs=target_hangs ;;
                *) event=- hangs=host_hangs ;;
                esac
                # the clock of the writers is the last deadline there is
                limit=4500
                for victim in vssd guard second guards host target; do
                        [ $victim:$hangs != host:target_hangs ] || continue
                        if [ $hangs = host_hangs ]; then serve "$step:hang" "${short[@]}"; else serve '' "${short[@]}"; fi
                        writers "$volume" "$event"
                        case $event in
                        -) stop_at $victim $limit --provider=fault:null ;;
                        *) stop_at $victim $limit --provider=null ;;
                        esac
                        stop_vssd
                        dismiss "$probe_pid" "$target_pid"
                done
        done
}

kill_at_provider_steps
kill_at_writer_events
kill_with_copies
kill_in_remove
stop_everywhere
[ $ran -gt 0 ] || die "nothing was run: $*"
echo "$ran cases"
