#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One set over a thick and a thin logical volume of two groups, an engine volume by ublk and a btrfs, all written to. Each copy
# holds two counters and half of a pair of SQLite databases. The counters go up in a, then b, then c, then d, in one file each
# time durable before the next and in one not, so that at any one instant a ≥ b ≥ c ≥ d ≥ a - 1; in every transaction of the
# pair both databases change, and vss-writer-sqlite has them come to rest, so that their copies agree at level application.
# That this test can fail is shown with the copy of a from one set beside the others of the next.
# disks: 300M 300M 300M 600M
# seconds: 900
# programs: ledger.py cow-client
. "$(dirname "$0")/functions.sh"

BATCH=10 # sets that are there at once, before they are looked at
rounds=10 seen=0
[ "${VM_LONG:-0}" = 0 ] || rounds=50
configure Timeouts hold=60 freeze=120 provider=120
vgcreate -q one "$d0" >/dev/null
vgcreate -q two "$d1" >/dev/null
lvcreate -q -y -n a -L 64m one >/dev/null
lvcreate -q -y --type thin-pool -n pool -L 200m two >/dev/null
lvcreate -q -y -n b -V 64m --thinpool pool two >/dev/null
new_fs a ext4 /dev/one/a
new_fs b ext4 /dev/two/b
new_fs c btrfs "$d2"
new_fs area ext4 "$d3"
truncate -s 64M "$area/origin"
expect_exit 0 vssctl volume create d --origin="$area/origin" --store="$area/store" --store-max=400M >/dev/null
[[ $(readlink -f /dev/vss/d) == /dev/ublkb* ]] || die "the engine volume is $(readlink -f /dev/vss/d)"
COW_DIR=/run/vss/cow/$(vssctl --json volume list | json '.volumes[0].storage')
cow() { cow-client "$COW_DIR" "$@"; }
new_fs d ext4 /dev/vss/d
volumes=("$a" "$b" "$c" "$d")

# With pauses, here and between transactions: under emulation those who make the set need the processors.
cat >"$VSS_TEST_DIR/count.py" <<'PY'
import os, sys, time
synced = sys.argv[1] == "synced"
files = [os.open(d + "/" + sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600) for d in sys.argv[2:]]
n = 0
while True:
    n += 1
    for f in files:
        os.pwrite(f, b"%08d" % n, 0)
        if synced:
            os.fdatasync(f)
    time.sleep(0.03 if synced else 0.005)
PY
for mode in synced buffered; do
        python3 "$VSS_TEST_DIR/count.py" $mode "${volumes[@]}" &
        cleanup_fn kill -KILL $!
        wait_until 60 test -s "$d/$mode" || die "nobody counts in $d/$mode"
done
ledger() { python3 /usr/lib/vss-vm/bin/ledger.py "$@"; }
ledger create "$b/ledger.db" "$d/ledger.db"
python3 /usr/lib/vss-vm/bin/ledger.py load "$b/ledger.db" "$d/ledger.db" 0.05 >"$VSS_TEST_DIR/load.out" &
cleanup_fn kill -KILL $!
/usr/libexec/vss/vss-writer-sqlite --name=ledger --freeze-timeout=120 "$b/ledger.db" "$d/ledger.db" >"$VSS_TEST_DIR/writer.out" \
        2>"$VSS_TEST_DIR/log/writer.log" &
cleanup_fn kill -KILL $!
wait_until 60 grep -q '^ready ' "$VSS_TEST_DIR/writer.out" || die "the writer does not come up"
wait_until 60 test -s "$VSS_TEST_DIR/load.out" || die "the load does not run"

DOC=$VSS_TEST_DIR/sets
mkdir -p "$DOC"
in_set() { json "$2" <"$DOC/$1"; } # in_set NUMBER EXPRESSION

# devices_of NUMBER: into "devices", where the copies of a, b and d can be read. Their file systems were frozen, so debugfs reads them
# as well as the kernel does; mounting them all would cost more than making them.
devices_of() {
        devices=([0]="$(in_set "$1" '.snapshots[0].device')")
        devices[1]=/dev/two/vss-$(in_set "$1" '.snapshots[1].id')
        devices[3]=$(cow expose id="$(in_set "$1" '.snapshots[3].id')" | json .device)
}
# fetch NUMBER COPY FILE: prints it
fetch() {
        if [ "$2" -eq 2 ]; then
                cat "$(in_set "$1" '.snapshots[2].path')/$3"
        else
                debugfs -R "cat /$3" "${devices[$2]}" 2>"$VSS_TEST_DIR/debugfs"
        fi
}

# counts_of NUMBER MODE: into "counts", of the four copies
counts_of() {
        local i count
        counts=()
        for i in 0 1 2 3; do
                count=$(fetch "$1" $i "$2")
                [[ $count =~ ^[0-9]{8}$ ]] || die "set $1: the copy of ${volumes[i]} has the count '$count'"
                counts+=("$((10#$count))")
        done
}
# is_one_instant A B C D: every pair of them
is_one_instant() { [ "$1" -ge "$2" ] && [ "$2" -ge "$3" ] && [ "$3" -ge "$4" ] && [ "$4" -ge $(($1 - 1)) ]; }

# databases_agree NUMBER: into "sum", how many transactions they have
databases_agree() {
        local i pair=$VSS_TEST_DIR/pair
        mkdir -p "$pair"
        rm -f "$pair"/*
        for i in 1 3; do
                fetch "$1" $i ledger.db >"$pair/$i.db"
                fetch "$1" $i ledger.db-wal >"$pair/$i.db-wal"
        done
        ledger check "$pair/1.db" "$pair/3.db" >"$VSS_TEST_DIR/sum" || die "set $1: the databases do not agree: $(cat "$VSS_TEST_DIR/sum")"
        sum=$(cat "$VSS_TEST_DIR/sum")
}

take_set() {
        vssctl --json create "${volumes[@]}" >"$DOC/$1" || die "no set: $(cat "$DOC/$1")"
        note "set $1: held $(in_set "$1" .timing.hold_usec) µs of $(in_set "$1" .timing.total_usec), at $SECONDS s"
        expect_equal "filesystem application filesystem application" "$(in_set "$1" '[.snapshots[].consistency] | join(" ")')" "the levels"
        expect_equal true "$(in_set "$1" .one_instant)" "what the set says of its instant"
}

look_at_set() {
        local mode said=()
        devices_of "$1"
        for mode in synced buffered; do
                counts_of "$1" $mode
                is_one_instant "${counts[@]}" || die "set $1, $mode: the copies are of different moments: ${counts[*]}"
                [ ${#before[@]} -eq 0 ] || [ $mode = synced ] || ! is_one_instant "${before[0]}" "${counts[@]:1}" ||
                        die "set $1: a copy of a from the set before was not noticed: ${before[0]} ${counts[*]:1}"
                said+=("$mode ${counts[*]}")
        done
        before=("${counts[@]}")
        databases_agree "$1"
        [ "$sum" -gt "$last" ] || die "set $1: $sum transactions, $last in the one before: the load stands still"
        last=$sum
        note "set $1: ${said[*]}, $sum transactions"
        cow hide id="$(in_set "$1" '.snapshots[3].id')" >/dev/null
}

last=0 before=()
for ((n = 1; n <= rounds; n++)); do
        take_set $n
        [ $((n % BATCH)) -eq 0 ] || [ $n -eq $rounds ] || continue
        vgchange -q --activate y --ignoreactivationskip two >/dev/null
        for ((; seen < n; )); do look_at_set $((seen += 1)); done
        [ $n -ne $rounds ] || break
        delete_all
done
expect_equal "lvm guard lvm guard btrfs provider cow guard" \
        "$(vssctl --json show "$(in_set $n .set)" | jq -r '[.record.volumes[] | .provider, .held_by] | join(" ")')" "who held"
