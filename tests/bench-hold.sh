#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# How long a file system stands still that has hardly anything to write, for a set of it (provider null): with short grace
# periods (expedite_rcu=yes), without them, and for the FIFREEZE and FITHAW of fsfreeze by hand. The three in turns in each round,
# a second apart: a file system that has just been frozen freezes faster. Exits with 1 where the hold is longer than half of the
# one without, which is a change of the kernel, or of ours.
#
#   BENCH_ROUNDS (20)  BENCH_FILE_SYSTEMS (ext4 xfs)
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires fsfreeze
watchdog 600

rounds=${BENCH_ROUNDS:-20} failed=0
start_bus
start_vssd
a_set() { # FILE yes|no MOUNT-POINT
        configure Copies expedite_rcu="$2"
        kill -HUP "$VSSD_PID"
        sleep 1
        echo >"$3/file"
        vssctl --json create --provider=null --require=filesystem "$3" >"$VSS_TEST_DIR/set.json" || die "create failed: $(cat "$VSS_TEST_DIR/set.json")"
        json .timing.hold_usec <"$VSS_TEST_DIR/set.json" >>"$1"
        vssctl delete "$(json .set <"$VSS_TEST_DIR/set.json")" >/dev/null
}
# bench-peers: without the starts of two programs, which the clock of a shell would see
by_hand() { # FILE MOUNT-POINT
        sleep 1
        echo >"$2/file"
        "$VSS_BUILD/tests/bench-peers" freeze "$2" >>"$1"
}
column() { sort -n "$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2, v[int(NR * 0.95 + 0.5)]}'; }

for type in ${BENCH_FILE_SYSTEMS:-ext4 xfs}; do
        new_fs volume "$type" 512M
        out=$VSS_TEST_DIR/$type
        mkdir "$out"
        for ((i = 0; i < rounds; i++)); do
                a_set "$out/short" yes "$volume"
                a_set "$out/long" no "$volume"
                by_hand "$out/hand" "$volume"
        done
        read -r short short95 < <(column "$out/short")
        read -r long long95 < <(column "$out/long")
        read -r hand hand95 < <(column "$out/hand")
        cat <<-RESULT
		hold of one $type, median and 95 % of $rounds
		  expedite_rcu=yes    $short us ($short95)
		  expedite_rcu=no     $long us ($long95)
		  FIFREEZE, FITHAW    $hand us ($hand95)    the hold is $(awk -v a="$short" -v b="$hand" 'BEGIN {printf "%.3f", a / b}') of it
	RESULT
        awk -v a="$short" -v b="$long" 'BEGIN {exit !(2 * a <= b)}' || failed=1
done
exit $failed
