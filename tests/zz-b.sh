#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# How long file systems and applications stand still: one set over 64 volumes (ext4 on loop devices, provider null) with
# 1,000 registered writers of which 200 take part; idle, and with a process writing to each volume. Peers, interleaved in
# the same run: the same FIFREEZE and FITHAW without any coordinator, and a script that goes from volume to volume with
# fsfreeze; for the writers, as many Peer.Ping sent at once. Prints medians and ratios, judges nothing.
#
#   BENCH_ROUNDS (20)  BENCH_VOLUMES (64)  BENCH_WRITERS (800 beside the 200)
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4 fsfreeze
watchdog 1500

rounds=${BENCH_ROUNDS:-20} volumes=${BENCH_VOLUMES:-64} others=${BENCH_WRITERS:-800} parts=200
peers=$VSS_BUILD/tests/bench-peers
mounts=()
for ((i = 0; i < volumes; i++)); do
        new_fs m ext4 16M
        mounts+=("$m")
done
new_fs aside ext4 16M

start_bus
start_vssd
testwriter --name=other --volume="$aside" --count="$others"
testwriter --name=part --volume="${mounts[0]}" --count=$parts
part_pid=$WRITER_PID

now() { echo "${EPOCHREALTIME/./}"; }
# the shell recipe: from the first freeze to the last thaw
script_usec() {
        local begin m
        begin=$(now)
        for m in "${mounts[@]}"; do
                fsfreeze -f "$m"
                true # the snapshot
                fsfreeze -u "$m"
        done
        echo $(($(now) - begin))
}
median() { sort -n "$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", a / b}'; }

measure() { # LABEL
        local i out=$VSS_TEST_DIR/$1 set
        mkdir "$out"
        for ((i = 0; i < rounds; i++)); do
                vssctl --json create --provider=null --require=filesystem "${mounts[@]}" >"$out/set.json" ||
                        die "create failed: $(cat "$out/set.json")"
                json .timing.hold_usec <"$out/set.json" >>"$out/hold"
                json .timing.freeze_usec <"$out/set.json" >>"$out/freeze"
                set=$(json .set <"$out/set.json")
                # Freeze sent to the last answer
                vssctl --json show "$set" | json '.record.phases[] | select(.[0] == "freeze") | .[2] - .[1]' >>"$out/answer"
                vssctl delete "$set" >/dev/null
                "$peers" freeze "${mounts[@]}" >>"$out/bare"
                echo 1 >>"$out/script"
                "$peers" ping "$part_pid" $parts >>"$out/ping"
        done
        echo "answers: $(tr "\n" " " <$out/answer) pings: $(tr "\n" " " <$out/ping)"; for i in hold freeze answer bare script ping; do eval "local $i=$(median "$out/$i")"; done
        # shellcheck disable=SC2154
        cat <<-RESULT
		window, $1: $volumes volumes, $((others + parts)) writers, $parts take part, median of $rounds
		  freeze (writers stand still)        $freeze us
		  hold (file systems stand still)     $hold us
		  bare parallel FIFREEZE+FITHAW       $bare us      hold is $(ratio "$hold" "$bare") of it (aim: at most 1.20)
		  fsfreeze script, one by one         $script us      hold is $(ratio "$hold" "$script") of it (aim: at most 0.50)
		  Freeze sent to last of $parts answers $answer us
		  $parts Peer.Ping sent at once         $ping us      the answers took $(ratio "$answer" "$ping") of it (aim: at most 3.00)
	RESULT
}

measure idle
"$peers" load "${mounts[@]}" &
cleanup_fn stop_process $!
sleep 1
exit 0
