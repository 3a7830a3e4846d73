#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Power cuts that lose what nobody flushed. dm-log-writes writes down every write and flush that the engine's store and its two
# origins get while files are written to the one and blocks to the other, and sets are made, left unfinished and deleted, and
# space is collected. Then, from that log, the disk is put together as it may be after a cut at a random moment, without all or
# some of what was not flushed, and the engine started on it: the store is sound, every set that was acknowledged is there, bit
# by bit, none of a deleted or an unfinished one is, the file system is clean after its own replay and has what was synced.
# That this can fail is shown last, with a disk that forgets what was flushed.
# disks: 192M 1G 192M
# seconds: 900
# programs: cow-client replay-log.py
. "$(dirname "$0")/functions.sh"

cuts=3
[ "${VM_LONG:-0}" = 0 ] || cuts=50
RANDOM=$((VM_SEED & 32767))
modprobe -a ublk_drv dm_log_writes dm_flakey
COW_DIR=/run/cow
PARTS=(files raw store) BEGINS=(0 32768 40960) SECTORS=(32768 4096 262144) # in sectors
STARTS=$(IFS=, && echo "${BEGINS[*]}")
cow() { cow-client $COW_DIR "$@"; }
replay() { python3 /usr/lib/vss-vm/bin/replay-log.py "$@"; }
content() { dd if="$1" bs=1M iflag=direct status=none | md5sum | cut -d' ' -f1; }
mark() { dmsetup message log 0 mark "$(IFS=: && echo "$*")"; } # one word
field() { awk -v w="$1" -v k="${2:-}" '$2 == w && (k == "" || $3 == k) { print $1; exit }' "$VSS_TEST_DIR/marks"; }

# The table of part I on what NAME stands for. flakey, always up, for it alone tells the log by its sector which part a flush is of.
part_table() { echo "0 ${SECTORS[$1]} flakey $2 ${BEGINS[$1]} 3600 0"; }
serve() {
        /usr/libexec/vss/vss-cow serve --store="${part[2]}" --directory=$COW_DIR
        expect_equal ublk "$(cow status | json .frontend)" "the front end"
}
attach() { cow volume-attach name="$1" | json .device; }
stop_engine() {
        cow stop >/dev/null
        wait_until 40 [ ! -e "/proc/$(cat $COW_DIR/lock)" ]
}

dmsetup create log --table "0 $(blockdev --getsz "$d0") log-writes $d0 $d1"
part=()
for i in 0 1 2; do
        dmsetup create "${PARTS[i]}" --table "$(part_table $i /dev/mapper/log)"
        part+=("/dev/$(dmsetup info -c --noheadings -o blkdevname "${PARTS[i]}")")
done
/usr/libexec/vss/vss-cow format --store="${part[2]}" --size=$((SECTORS[2] * 512)) --segment-blocks=256
serve
cow volume-create name=files origin="${part[0]}" >/dev/null
cow volume-create name=raw origin="${part[1]}" >/dev/null
files=$(attach files) raw=$(attach raw)
mkfs.ext4 -q -b 4096 "$files"
mkdir -p /mnt/files
mount "$files" /mnt/files
stop=$VSS_TEST_DIR/stop

text_of() { printf "$1%.0s\n" {1..4096}; }
# A file with the number in it, again and again; those that are old go.
write_files() {
        local i
        for ((i = 1; ; i++)); do
                [ ! -e "$stop" ] || break
                text_of $i >/mnt/files/$i
                sync -f /mnt/files/$i
                mark synced $i
                [ $i -le 12 ] || { mark unlinked $((i - 12)) && rm /mnt/files/$((i - 12)); }
                sleep 0.2
        done
}
write_files &
FILES=$!
fio --name=raw --filename="$raw" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=8 --rate_iops=30 --size=2M --fsync=20 \
        --time_based --runtime=1000 --minimal >"$VSS_TEST_DIR/fio" 2>&1 &
FIO=$!
cleanup_fn kill $FIO

# make_set FINISHED: of both volumes, its file system frozen; SETS, IDS and WAS of it
declare -A WAS=() SET_OF=()
SETS=()
make_set() {
        local set ids=() members=() v d i
        set=$(cat /proc/sys/kernel/random/uuid)
        for v in files raw; do
                ids+=("$(cat /proc/sys/kernel/random/uuid)")
                members+=("{\"id\":\"${ids[-1]}\",\"volume\":\"$v\",\"label\":\"$v\",\"persistent\":true,\"frozen\":true}")
        done
        fsfreeze -f /mnt/files
        cow script >"$VSS_TEST_DIR/answers" <<END
{"command":"hold","volumes":["files","raw"],"deadline_usec":@in(30000)}
{"command":"snapshot","token":@token,"set":"$set","created_usec":1,"members":[${members[0]},${members[1]}]}
{"command":"release","token":@token}
END
        fsfreeze -u /mnt/files
        ! grep refused "$VSS_TEST_DIR/answers" || die "no set"
        [ "$1" = finished ] || {
                mark unfinished "$set" && UNFINISHED=$set
                return
        }
        SETS+=("$set")
        for i in 0 1; do SET_OF[${ids[i]}]=$set; done
        cow clear-mark set="$set" >/dev/null
        mark made "$set"
        for i in "${ids[@]}"; do
                d=$(cow expose id="$i" | json .device)
                WAS[$i]=$(content "$d")
                cow hide id="$i" >/dev/null
        done
}
delete_set() {
        local i
        mark deleting "$1"
        for i in "${!SET_OF[@]}"; do
                [ "${SET_OF[$i]}" != "$1" ] || cow delete id="$i" >/dev/null
        done
        mark deleted "$1"
}

for n in 1 2 3 4 5; do
        make_set finished
        [ $n -ne 3 ] || make_set unfinished
        [ $n -ne 4 ] || cow abort set="$UNFINISHED" >/dev/null
        [ $n -lt 3 ] || delete_set "${SETS[n - 3]}"
        [ $n -ne 4 ] || cow collect >/dev/null
        [ $n -ne 3 ] || cow checkpoint >/dev/null
done
mark end
: >"$stop"
wait $FILES || die "a write to the file system failed"
kill $FIO
wait $FIO || :
umount /mnt/files
stop_engine

for i in 0 1 2; do
        dmsetup suspend "${PARTS[i]}"
        dmsetup load "${PARTS[i]}" --table "$(part_table $i "$d2")"
        dmsetup resume "${PARTS[i]}"
done
dmsetup remove --retry log
replay marks "$d1" | tr : ' ' >"$VSS_TEST_DIR/marks"
read -ra flushes < <(replay flushes "$d1" "$STARTS")
first=$(field made "${SETS[0]}") last=$(field end)
note "$last entries in the log, flushes: files ${flushes[0]}, raw ${flushes[1]}, store ${flushes[2]}; cuts from $first on, seed $VM_SEED"
for i in 0 1 2; do [ "${flushes[i]}" -gt 5 ] || die "${PARTS[i]} got ${flushes[i]} flushes: this log says nothing about it"; done

listed() { cow list set= from=0 | jq -r ".snapshots[] | select(.pending == $1) | $2" | sort; }

# sets_are_right CUT
sets_are_right() {
        local id d set here=() n=0
        for set in $(listed true .set | uniq); do
                at=$(awk -v s="$set" '$2 == "made" && $3 == s { print $1 }' "$VSS_TEST_DIR/marks")
                [ -z "$at" ] || [ "$1" -lt "$at" ] || die "set $set was complete, and is not any more"
                cow abort set="$set" >/dev/null
        done
        expect_equal "" "$(listed true .id)" "what is left of unfinished sets"
        mapfile -t here < <(listed false .id)
        for id in "${here[@]}"; do
                set=${SET_OF[$id]:-}
                [ -n "$set" ] || die "snapshot $id belongs to a set that never was complete"
                at=$(field deleted "$set")
                [ -z "$at" ] || [ "$1" -le "$at" ] || die "snapshot $id of set $set was deleted"
                d=$(cow expose id="$id" | json .device)
                expect_equal "${WAS[$id]}" "$(content "$d")" "the content of snapshot $id"
                cow hide id="$id" >/dev/null
                n=$((n + 1))
        done
        for id in "${!SET_OF[@]}"; do
                [ "$1" -gt "$(field made "${SET_OF[$id]}")" ] || continue
                at=$(field deleting "${SET_OF[$id]}")
                [ -n "$at" ] && [ "$1" -gt "$at" ] || [[ " ${here[*]} " == *" $id "* ]] || die "snapshot $id of set ${SET_OF[$id]} is lost"
        done
        note "$n snapshots are exact"
        COMPARED=$((COMPARED + n))
}

# files_are_right CUT DEVICE
files_are_right() {
        local i at n=0
        mount "$2" /mnt/files
        for ((i = 1; ; i++)); do
                at=$(field synced $i)
                [ -n "$at" ] && [ "$at" -lt "$1" ] || break
                at=$(field unlinked $i)
                [ -z "$at" ] || [ "$at" -gt "$1" ] || continue
                text_of $i | cmp - /mnt/files/$i || die "file $i, which was synced, is not what it was"
                n=$((n + 1))
        done
        umount /mnt/files
        e2fsck -fn "$2" >"$VSS_TEST_DIR/fsck" 2>&1 || die "the file system is damaged: $(tail -n 5 "$VSS_TEST_DIR/fsck")"
        note "$n synced files are there"
}

# one_cut ENTRY LOSS: puts the disk together, starts the engine on it, looks at everything
one_cut() {
        local d
        blkdiscard -z -f "$d2"
        note "cut at $1, $2 lost: $(replay cut "$d1" "$d2" "$STARTS" "$1" "$2" "$VM_SEED" | awk '{ print $2 " of " $1 " blocks that were not flushed" }')"
        for d in "$d2" "${part[@]}"; do blockdev --flushbufs "$d"; done
        serve
        d=$(attach files)
        attach raw >/dev/null
        sets_are_right "$1"
        files_are_right "$1" "$d"
        stop_engine
        expect_exit 0 /usr/libexec/vss/vss-cow check "${part[2]}" >"$VSS_TEST_DIR/check" || die "the store is damaged: $(cat "$VSS_TEST_DIR/check")"
}

COMPARED=0
for ((n = 1; n <= cuts; n++)); do
        loss=all
        [ $((n % 2)) -eq 0 ] || loss=some
        one_cut $((first + 1 + (RANDOM * 32768 + RANDOM) % (last - first - 1))) $loss
done
[ $COMPARED -ge $cuts ] || die "only $COMPARED snapshots were compared after $cuts cuts"

# what this finds where the disk had lied about its last flushes, or nobody had asked for them
if (one_cut $(($(field made "${SETS[4]}") + 1)) lied) 2>"$VSS_TEST_DIR/lied"; then
        die "a cut that loses what was flushed was not noticed: $(cat "$VSS_TEST_DIR/lied")"
fi
note "a disk that lied is noticed: $(grep -m1 FAILED "$VSS_TEST_DIR/lied")"
grep -q "FAILED: snapshot .* is lost\|FAILED: .* which was synced" "$VSS_TEST_DIR/lied" || die "noticed by something else: $(cat "$VSS_TEST_DIR/lied")"
