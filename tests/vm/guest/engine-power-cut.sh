#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The power goes while the engine works: files are written to two volumes on ublk, sets of both are made, read and deleted through the
# service, and the store is put in order and its space collected. At each boot both file systems are mounted from /etc/fstab
# and have every file that was synced; every set that was acknowledged is there, bit by bit; one that nobody heard of is there as a
# whole or not at all; what was deleted is gone; the file systems are clean after their own replay, and so is the store.
# disks: 24M
# root: ext4
# boots: 51
# seconds: 150
# programs: cow-client
. "$(dirname "$0")/functions.sh"

cuts=5
[ "${VM_LONG:-0}" = 0 ] || cuts=50
KEPT=2 # sets at a time
RANDOM=$(((VM_SEED + VM_BOOT) & 32767))
STORE=/var/lib/vss/cow/one.store
TRUTH=/var/lib/truth # what was acknowledged: one event a line, durable before what follows from it
MEMBERS=(one two)
LOAD=$VSS_TEST_DIR/load # every process of the load goes on while this is there

tell() { echo "$*" >>$TRUTH && sync $TRUTH; }
told() { awk -v w="$1" -v k="$2" '$1 == w && $2 == k { print $3; found = 1; exit } END { exit !found }' $TRUTH; }
cow() { cow-client "$(cat /var/lib/cow-dir)" "$@"; }
text_of() { printf "$1%.0s\n" {1..4096}; }
# sum_of SNAPSHOT: and its file system, which was frozen, is clean as it is
sum_of() {
        local device
        device=$(cow expose id="$1" | json .device)
        dd if="$device" bs=1M iflag=direct status=none | md5sum | cut -d' ' -f1
        told sum "$1" >/dev/null || e2fsck -fn "$device" >"$VSS_TEST_DIR/fsck-$1" 2>&1 ||
                die "the file system in snapshot $1 is damaged: $(tail -n 5 "$VSS_TEST_DIR/fsck-$1")"
        cow hide id="$1" >/dev/null
}

make_volumes() {
        local v origin max=--store-max=200M
        truncate -s 24M /var/lib/one.img
        for v in "${MEMBERS[@]}"; do
                origin=/var/lib/one.img
                [ $v = one ] || origin=$(readlink -f "$d0")
                expect_exit 0 vssctl volume create $v --origin="$origin" --store=$STORE $max >/dev/null
                max=''
                [[ $(readlink -f /dev/vss/$v) == /dev/ublkb* ]] || die "the engine volume is $(readlink -f /dev/vss/$v)"
                mkfs.ext4 -q -b 4096 /dev/vss/$v
                echo "/dev/vss/$v /srv/$v ext4 defaults 0 0" >>/etc/fstab
                mkdir /srv/$v
        done
        echo "/run/vss/cow/$(vssctl --json volume list | json '.volumes[0].storage')" >/var/lib/cow-dir
        systemctl daemon-reload
        mount -a
        for v in "${MEMBERS[@]}"; do dd if=/dev/urandom of=/srv/$v/again bs=1M count=6 conv=fsync status=none; done
        : >$TRUTH
        sync
}

# ---- the load ----------------------------------------------------------------------------------------------------

# write_files VOLUME: a file with its number in it, again and again; those that are old go, and one more is written over
write_files() {
        local n
        for ((n = VM_BOOT * 10000; ; n++)); do
                [ -e "$LOAD" ] || return 0
                text_of $n >/srv/$1/$n
                sync -f /srv/$1/$n
                tell wrote "$1/$n"
                dd if=/dev/urandom of=/srv/$1/again bs=64k seek=$((RANDOM % 96)) count=1 conv=notrunc,fsync status=none
                [ $n -lt $((VM_BOOT * 10000 + 8)) ] || { tell removed "$1/$((n - 8))" && rm /srv/$1/$((n - 8)); }
        done
}
make_sets() {
        local set ids id sets
        while [ -e "$LOAD" ]; do
                tell making
                vssctl --json create /srv/one /srv/two >"$VSS_TEST_DIR/set"
                set=$(json .set <"$VSS_TEST_DIR/set")
                tell made "$set"
                mapfile -t ids < <(jq -r '.snapshots[].id' "$VSS_TEST_DIR/set")
                for id in "${ids[@]}"; do tell sum "$id" "$(sum_of "$id")"; done
                mapfile -t sets < <(awk '$1 == "made" { there[$2] = NR } $1 == "deleting" { delete there[$2] } END { for (s in there) print there[s], s }' $TRUTH | sort -n | cut -d' ' -f2)
                [ ${#sets[@]} -le $KEPT ] || delete_set "${sets[0]}"
        done
}
delete_set() {
        tell deleting "$1"
        vssctl --json snapshots | jq -r --arg s "$1" '.snapshots[] | select(.set == $s) | .id' | xargs -r vssctl delete --force >/dev/null
        tell deleted "$1"
}
tidy() {
        while [ -e "$LOAD" ]; do
                cow checkpoint >/dev/null
                cow collect >/dev/null
                sleep 0.3
        done
}

# ---- what a cut leaves -------------------------------------------------------------------------------------------

files_are_there() {
        local f n=0
        while read -r f; do
                text_of "${f#*/}" | cmp - "/srv/$f" || die "$f, which was synced, is not what it was"
                tell removed "$f"
                n=$((n + 1))
        done < <(awk '$1 == "wrote" { there[$2] } $1 == "removed" { delete there[$2] } END { for (f in there) print f }' $TRUTH)
        rm -f /srv/{one,two}/[0-9]*
        note "$n synced files are there"
        [ $n -ge 2 ] || die "the load wrote next to nothing before the cut"
}

sets_are_right() {
        local id set was is unheard=0 n=0
        vssctl --json snapshots >"$VSS_TEST_DIR/snapshots"
        expect_equal 0 "$(cow list set= from=0 | jq '[.snapshots[] | select(.pending)] | length')" "snapshots of sets that were not finished"
        while read -r set n_of; do
                told deleted "$set" >/dev/null && die "set $set was deleted and is there"
                told deleting "$set" >/dev/null || [ "$n_of" -eq 2 ] || die "set $set has $n_of snapshots"
                told made "$set" >/dev/null && continue
                [ "$(awk '$1 == "making" || $1 == "made" { last = $1 } END { print last }' $TRUTH)" = making ] || die "nobody made set $set"
                unheard=$((unheard + 1))
                tell made "$set"
        done < <(jq -r '[.snapshots[].set] | group_by(.)[] | "\(.[0]) \(length)"' "$VSS_TEST_DIR/snapshots")
        while read -r set; do
                told deleting "$set" >/dev/null || grep -q "$set" "$VSS_TEST_DIR/snapshots" || die "set $set was acknowledged and is lost"
        done < <(awk '$1 == "made" { print $2 }' $TRUTH)
        while read -r id; do
                is=$(sum_of "$id")
                if was=$(told sum "$id"); then
                        expect_equal "$was" "$is" "the content of snapshot $id"
                        n=$((n + 1))
                else
                        tell sum "$id" "$is"
                fi
        done < <(jq -r '.snapshots[].id' "$VSS_TEST_DIR/snapshots")
        for set in $(awk '$1 == "deleting" { there[$2] } $1 == "deleted" { delete there[$2] } END { for (s in there) print s }' $TRUTH); do delete_set "$set"; done
        tell compared "$n"
        note "$n snapshots are exact, $unheard set that nobody heard of"
}

all_is_clean() {
        local v unit
        for v in "${MEMBERS[@]}"; do
                umount /srv/$v
                e2fsck -fn /dev/vss/$v >"$VSS_TEST_DIR/fsck" 2>&1 || die "the file system of $v is damaged: $(tail -n 5 "$VSS_TEST_DIR/fsck")"
        done
        unit=$(systemctl list-units --plain --no-legend 'vss-cow@*' | awk '{ print $1 }')
        /usr/libexec/vss/vss-cow stop --directory="$(cat /var/lib/cow-dir)" --wait=30
        wait_until 30 is_inactive "$unit" || die "$unit does not end: $(systemctl status "$unit" --no-pager)"
        expect_exit 0 /usr/libexec/vss/vss-cow check $STORE >"$VSS_TEST_DIR/check" || die "the store is damaged: $(cat "$VSS_TEST_DIR/check")"
        systemctl start "$unit"
        mount -a
}

if [ "$VM_BOOT" -eq 1 ]; then
        make_volumes
else
        for v in "${MEMBERS[@]}"; do mountpoint -q /srv/$v || die "/srv/$v is not mounted: $(systemctl status srv-$v.mount vss-attach 'vss-cow@*' --no-pager)"; done
        files_are_there
        sets_are_right
        all_is_clean
fi
if [ "$VM_BOOT" -gt $cuts ]; then
        compared=$(awk '$1 == "compared" { n += $2 } END { print n + 0 }' $TRUTH)
        note "$cuts cuts, $(grep -c '^made' $TRUTH) sets, $compared times a snapshot was compared"
        [ "$compared" -ge $cuts ] || die "only $compared snapshots were compared after $cuts cuts"
        exit 0
fi

made=$(grep -c '^made' $TRUTH || :)
: >"$LOAD"
load=()
for v in "${MEMBERS[@]}"; do write_files $v & load+=($!); done
make_sets & load+=($!)
tidy & load+=($!)
# Every second cut comes while a set is being made; the others in what becomes of one: it is read, and an older one deleted.
makings() { grep -c "^making" $TRUTH; }
is_more() { [ "$(grep -c '^made' $TRUTH)" -gt "$made" ]; }
wait_until 100 is_more || die "no set is made under load"
where="a set" after=$((RANDOM % 4)).$((RANDOM % 10))
if [ $((VM_BOOT % 2)) -eq 0 ]; then
        makings=$(makings)
        wait_until 100 eval '[ "$(makings)" -gt "$makings" ]' || die "no other set is begun"
        where="the beginning of one"
fi
note "cut $VM_BOOT of $cuts, seed $VM_SEED: $after s after $where"
sleep $after
for p in "${load[@]}"; do kill -0 "$p" || die "a part of the load has ended by itself"; done
vm-next-boot
