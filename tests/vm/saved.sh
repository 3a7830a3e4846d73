# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Sourced by tests/vm/run: machines that have booted, to go on from.
#
# A boot under emulation costs as much as most tests. So a machine boots once for each kernel and kind of root, up to where its
# test would start, and is saved (QEMU's migration into a file). The first start of a test goes on from there: the same command
# line and that file, a copy of the root's disk if it has one, the test's own disks plugged in while it stands still, and on
# one disk more, the last to come, what a kernel's command line would say. The guest sets its clock by that; its kernel's
# random numbers begin anew because vmgenid tells it of the copy. What a test does later, and any other boot of it, is as ever.
#
# A machine that cannot be saved or does not go on is no failure of ours: its test boots, and the output says so.

QMP_SECONDS=60
# for loading and for the guest's first word after it, which it gives within a second on a machine of its own
CONTINUE_SECONDS=60

# saved_open: our ends of the monitor of the machine that is about to be launched in $dir
saved_open() {
        saved_close
        rm -f "$dir"/qmp.{in,out}
        mkfifo "$dir"/qmp.{in,out} || return
        exec {qmp_in}<>"$dir/qmp.in" {qmp_out}<>"$dir/qmp.out"
}

saved_close() {
        [ -z "${qmp_in:-}" ] || exec {qmp_in}>&- {qmp_out}>&-
        qmp_in='' qmp_out=''
        rm -f "$dir"/qmp.{in,out}
}

# qmp COMMAND [ARGUMENTS]: QMP_ANSWER is its answer; if that is an error or does not come, "why" says it
qmp() {
        local arguments=${2:-}
        printf '{"execute":"%s"%s}\n' "$1" "${arguments:+,\"arguments\":$arguments}" >&"$qmp_in"
        # between the answers there are events
        while read -r -t $QMP_SECONDS QMP_ANSWER <&"$qmp_out"; do
                case $QMP_ANSWER in
                '{"return"'*) return 0 ;;
                '{"error"'*) break ;;
                esac
        done
        why="QEMU on $1: ${QMP_ANSWER:-no answer}"
        return 1
}

# qmp_until PATTERN SECONDS COMMAND: its answer matches, in time
qmp_until() {
        local end=$((SECONDS + $2))
        while qmp "$3"; do
                [[ $QMP_ANSWER != *$1* ]] || return 0
                if [ $SECONDS -ge $end ]; then
                        why="QEMU on $3, after $2 s: $QMP_ANSWER"
                        return 1
                fi
                runner_lives
                sleep 0.1
        done
        return 1
}

# said_by WORD SECONDS: the guest has said it
said_by() {
        local end=$((SECONDS + $2))
        until grep -q "^$1" "$dir/control"; do
                runner_lives
                kill -0 "$qemu" 2>/dev/null || { why="it went down" && return 1; }
                [ $SECONDS -lt $end ] || { why="it did not say '$1' within $2 s" && return 1; }
                sleep 0.1
        done
}

# saved_write: the machine in $dir as the file $dir/state. It stays stopped, so that its root's disk is as it was at that time
saved_write() {
        qmp qmp_capabilities && qmp stop && qmp migrate-set-parameters '{"max-bandwidth":10000000000}' &&
                qmp migrate "{\"uri\":\"exec:cat >'$dir/state.new' && mv '$dir/state.new' '$dir/state'\"}" &&
                qmp_until '"status": "completed"' $QMP_SECONDS query-migrate || return
        # what takes it in may be some milliseconds behind
        for _ in {1..100}; do
                [ ! -e "$dir/state" ] || return 0
                sleep 0.1
        done
        why="its state could not be written to $dir"
        return 1
}

# saved_make KERNEL ROOT
saved_make() {
        local why='' deadline limit begin=$SECONDS
        trap stop_machine EXIT
        trap 'exit 143' TERM
        workers=() dir=$all/saved-$1-$2
        mkdir "$dir"
        [ "$2" != ext4 ] || cp --sparse=always "${VM_IMAGE[ext4]}" "$dir/root"
        limit=$((BOOT_SECONDS * $(slowness)))
        deadline=$((SECONDS + limit))
        if saved_open && start "$1" "$2" vm.test=saved && said_by ready $limit && saved_write; then
                echo "booted and saved a machine with $1, root $2: $((SECONDS - begin)) s, $(du -h "$dir/state" | cut -f1)"
        else
                rm -f "$dir"/state*
                echo "no machine with $1, root $2, could be saved, so each test boots its own: $why"
        fi
        stop_machine
        saved_close
}

# saved_make_all: one for every kernel and root that several runs can start from, side by side
saved_make_all() {
        local run name kernel root kind
        local -A uses=()
        for run in "${runs[@]}"; do
                read -r name kernel <<<"$run"
                [ "$(header "$name" start saved)" = saved ] || continue
                kind="$kernel $(header "$name" root tmpfs)"
                uses[$kind]=$((${uses[$kind]:-0} + 1))
        done
        for kind in "${!uses[@]}"; do
                [ "${uses[$kind]}" -ge 2 ] || continue
                while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 0.2; done
                read -r kernel root <<<"$kind"
                saved_make "$kernel" "$root" &
                workers+=($!)
        done
        wait
        workers=()
}

saved_have() { [ -e "$all/saved-$1-$2/state" ]; }

# saved_plug NAME FILE OPTIONS: a disk for the machine in $dir
saved_plug() {
        qmp blockdev-add "{\"driver\":\"file\",\"node-name\":\"$1\",\"filename\":\"$2\"$3}" &&
                qmp device_add "{\"driver\":\"virtio-blk-pci\",\"id\":\"disk-$1\",\"drive\":\"$1\",\"serial\":\"$1\"}"
}

# saved_continue KERNEL ROOT WORD…: the saved machine goes on in $dir and has said that it starts its test; else "why"
saved_continue() {
        local from=$all/saved-$1-$2 disk disks=()
        for disk in "$dir"/d[0-9]*; do [ ! -e "$disk" ] || disks+=("$disk"); done
        [ "$2" != ext4 ] || cp --sparse=always "$from/root" "$dir/root"
        vm_command "$dir" "$1" "$2" vm.test=saved $NO_GETTY
        QEMU+=(-incoming "exec:cat '$from/state'" -qmp "pipe:$dir/qmp")
        saved_open && launch
        qmp qmp_capabilities && qmp_until '"paused"' $CONTINUE_SECONDS query-status || return
        for disk in "${disks[@]}"; do saved_plug "${disk##*/}" "$disk" ',"discard":"unmap"' || return; done
        shift 2
        printf '%s\n' "$* vm.disks=${#disks[@]} vm.time=$EPOCHSECONDS" >"$dir/words"
        truncate -s 4096 "$dir/words"
        saved_plug words "$dir/words" ',"read-only":true' && qmp cont && said_by boot $CONTINUE_SECONDS
}
