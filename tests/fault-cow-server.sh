#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Two who want the same thing at once, and volumes that come to a bad end: whoever is refused has changed nothing, and
# what is doubtful afterwards says so.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/cow.sh"
watchdog 60

EBUSY=16
out=$VSS_TEST_DIR/out
mkdir "$out"

# refused ERRNO COMMAND…: of cow
refused() {
        local want=$1 got=0
        shift
        cow "$@" >"$out/refused" 2>&1 || got=$?
        [ $got -eq "$want" ] || die "cow $* ended with $got, expected $want: $(cat "$out/refused")"
        note "$*: $(cut -c1-150 "$out/refused")"
}

# small_format MIB: of small segments
small_format() { "$VSS_COW" format --store="$COW_STORE" --size=$(($1 << 20)) --segment-blocks=64; }

# ---- format ------------------------------------------------------------------------------------------------------

store_now() { echo "$(stat -c %s "$COW_STORE") $(sha256sum <"$COW_STORE")"; }

# Whatever size is asked for: it would be a smaller store, the same, or a larger one.
case_format_of_a_served_store() {
        local device before mib
        small_format 16
        cow_serve
        device=$(cow_volume v $((16 << 20)))
        cow_set v >/dev/null
        # not where a file system has its superblock: the server would take a stamp of it a second later
        dd if=/dev/urandom of="$device" bs=64k count=64 seek=16 oflag=direct status=none
        cow collect >/dev/null
        cow checkpoint >/dev/null
        before=$(store_now)
        for mib in 8 16 32; do
                expect_exit 8 small_format $mib 2>"$out/format"
                note "$(tail -n 1 "$out/format")"
                expect_equal "$before" "$(store_now)" "size and content of the store after a format of $mib MiB"
        done
        cow_stop
        expect_exit 0 "$VSS_COW" check "$COW_STORE" >&2
}

# ---- all together ------------------------------------------------------------------------------------------------

all=(format_of_a_served_store)
[ $# -eq 0 ] || all=("$@")
for name in "${all[@]}"; do
        # each has a disk and a directory of its own
        eval "in_$name() { $(declare -f "case_$name" | tail -n +2); }"
        eval "case_$name() {
                mkdir \"\$COW_DISK/$name\"
                COW_DISK=\$COW_DISK/$name COW_DIR=\$VSS_TEST_DIR/$name COW_LINKS=\$VSS_TEST_DIR/$name.links
                COW_STORE=\$COW_DISK/store
                in_$name
        }"
done
cases "${all[@]}"
