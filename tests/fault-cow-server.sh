#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Two who want the same thing at once, and volumes that come to a bad end: whoever is refused has changed nothing, and
# what is doubtful afterwards says so.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/cow.sh"
requires nbdkit nbdfuse
watchdog 60

EIO=5 EBUSY=16
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

# ---- one job per device ------------------------------------------------------------------------------------------

# at_once NAME COMMAND… [-- NAME COMMAND…]…: the holder is stopped until all of them have been asked of it, so none ends
# before the next begins. Answers and refusals are in $out/NAME, what they ended with in ended[NAME].
declare -A ended
at_once() {
        local name command=() pids=() names=()
        kill -STOP "$COW_HOLDER"
        cleanup_fn continue_holder "$COW_HOLDER"
        while [ $# -gt 0 ]; do
                name=$1 command=()
                shift
                while [ $# -gt 0 ] && [ "$1" != -- ]; do command+=("$1"); shift; done
                [ $# -eq 0 ] || shift
                "$VSS_BUILD/tests/cow-client" "$COW_DIR" "${command[@]}" >"$out/$name" 2>&1 &
                pids+=($!) names+=("$name")
                wait_until 10 has_asked $! # they come in this order
                cow status >/dev/null
        done
        kill -CONT "$COW_HOLDER"
        for name in "${names[@]}"; do
                ended[$name]=0
                wait "${pids[0]}" || ended[$name]=$?
                pids=("${pids[@]:1}")
                note "$name: ${ended[$name]} $(tail -n 1 "$out/$name" | cut -c1-120)"
        done
}
# has_asked CLIENT: it waits for its answer, or has it
has_asked() { [ "$(ps -o comm=,stat= -p "$1" | tr -d ' ')" = cow-clientS ] || ! ps -o stat= -p "$1" | grep -qv Z; }
continue_holder() { kill -CONT "$1" 2>/dev/null || :; }

# devices NAME: how many loop devices there are of a file of this holder
devices() { cat /sys/block/loop*/loop/backing_file 2>/dev/null | grep -cFx "/$1" || :; }

# one_has_it NAME: a and b asked for this device; at least one has it, nobody has another, and it can be read
one_has_it() {
        local name got device
        device=$(cat "$out/a" "$out/b" | grep -v ^refused | jq -r '.device // empty' | sort -u)
        expect_equal 1 "$(wc -w <<<"$device")" "the number of devices of $1 that were promised"
        expect_equal 1 "$(devices "$1")" "the number of devices of $1"
        for name in a b; do
                got=${ended[$name]}
                [ "$got" -eq 0 ] || [ "$got" -eq $EBUSY ] || die "$name ended with $got: $(cat "$out/$name")"
        done
        owned "$device" >/dev/null
        dd if="$device" of=/dev/null bs=4k count=1 iflag=direct status=none
        expect_equal "$(blockdev --getsize64 "$device")" $((16 << 20)) "the size of $device"
}

case_one_device_of_a_volume() {
        local v name
        small_format 16
        cow_serve
        v=v-$(cut -c1-8 /proc/sys/kernel/random/uuid) # others may have a v too
        cow_volume "$v" $((16 << 20)) >/dev/null
        cow volume-detach name="$v" >/dev/null
        at_once a volume-attach name="$v" -- b volume-attach name="$v" -- c volume-detach name="$v" -- d volume-remove name="$v" force=true
        one_has_it "$v"
        for name in c d; do expect_equal $EBUSY "${ended[$name]}" "the answer to $name"; done
        at_once a volume-detach name="$v" -- b volume-attach name="$v"
        expect_equal "0 $EBUSY 0" "${ended[a]} ${ended[b]} $(devices "$v")" "status of both, and number of devices"
        cow volume-attach name="$v" >/dev/null
        expect_equal 1 "$(devices "$v")" "the number of devices of the volume"
        cow_stop
        expect_equal 0 "$(devices "$v")" "the number of devices of the volume"
}

# What a device lies on is noted in a file, before it is used; vssd reads it to find a freeze that would wait for itself.
case_several_devices_at_once() {
        local n round asked
        small_format 16
        cow_serve
        for n in {1..6}; do cow_volume v$n $((16 << 20)) >/dev/null; done
        for round in {1..8}; do
                for n in {1..6}; do cow volume-detach name=v$n >/dev/null; done
                expect_equal "" "$(ls "$COW_DIR/lies-on")" "notes of devices that are gone"
                asked=()
                for n in {1..6}; do asked+=("v$n" volume-attach name="v$n" --); done
                at_once "${asked[@]}"
                for n in {1..6}; do expect_equal 0 "${ended[v$n]}" "status of attaching v$n in round $round"; done
                expect_equal "$(jq -r .device "$out"/v[1-6] | sed 's|.*/||' | sort)" "$(ls -A "$COW_DIR/lies-on" | sort)" "devices, and notes of them"
        done
        cow_stop
}

case_one_device_of_a_snapshot() {
        local id device
        small_format 16
        cow_serve
        cow_volume v $((16 << 20)) >/dev/null
        id=$(cow_set v)
        at_once a expose id="$id" -- b expose id="$id"
        one_has_it "$id"
        cow hide id="$id" >/dev/null
        expect_equal 0 "$(devices "$id")" "the number of devices of the snapshot that is hidden"
        at_once a expose id="$id" -- hide hide id="$id" -- delete delete id="$id"
        expect_equal "0 0 0" "${ended[a]} ${ended[hide]} ${ended[delete]}" "status of expose, hide and delete, one after the other"
        expect_equal 0 "$(devices "$id")" "the number of devices of the snapshot that is deleted"
        id=$(cow_set v)
        at_once hide hide id="$id" -- a expose id="$id" -- b expose id="$id"
        expect_equal "0 0 0" "${ended[hide]} ${ended[a]} ${ended[b]}" "status of hide and expose"
        one_has_it "$id"
        note "a device that somebody has open stays whatever is asked for"
        device=$(owned "$(cow expose id="$id" | json .device)")
        exec 9<"$device"
        at_once hide hide id="$id" -- a expose id="$id"
        expect_equal "$EBUSY 0" "${ended[hide]} ${ended[a]}" "status of hide and expose"
        dd if="$device" of=/dev/null bs=4k count=1 iflag=direct status=none
        exec 9<&-
        expect_equal "$device" "$(cow expose id="$id" | json .device)" "the device of the snapshot"
        cow delete id="$id" >/dev/null
        expect_equal 0 "$(devices "$id")" "the number of devices of the snapshot that is deleted"
        cow_stop
}

# ---- an origin that cannot be flushed ----------------------------------------------------------------------------

# forgetful_disk MIB: a file, $FORGETFUL, whose next flush fails once there is $FORGETFUL_FAILS
forgetful_disk() {
        local dir=$VSS_TEST_DIR/forgetful
        mkdir "$dir" "$dir/mnt"
        FORGETFUL=$dir/mnt/disk FORGETFUL_FAILS=$dir/fails
        truncate -s "$1M" "$dir/content"
        nbdkit --foreground --unix "$dir/nbd" eval get_size="echo $1M" \
                pread="dd if=$dir/content iflag=skip_bytes,count_bytes skip=\$4 count=\$3 bs=64k status=none" \
                pwrite="dd of=$dir/content oflag=seek_bytes seek=\$4 bs=64k conv=notrunc status=none" \
                flush="if rm $dir/fails 2>/dev/null; then echo EIO it forgot >&2; exit 1; fi" 2>"$VSS_TEST_DIR/log/nbdkit.log" &
        cleanup_fn stop_process $!
        wait_until 10 test -S "$dir/nbd"
        nbdfuse "$FORGETFUL" --unix "$dir/nbd" &
        cleanup_fn stop_process $!
        cleanup_fn umount "$dir/mnt"
        wait_until 10 test -s "$FORGETFUL"
}

volume_state() { cow volumes | jq -c '[.volumes[] | [.name, .attached, .device != ""]]'; }
unverified() { cow list set= from=0 | jq -c '[.snapshots[] | select(.unverified) | .volume] | unique'; }

# It is let go, so that the disk can be exchanged, and neither the store nor whoever attaches it again takes that for an
# end in order. The process that saw it believes no flush of that volume any more (hazards D8).
case_detach_without_flush() {
        local device pid
        forgetful_disk 4
        small_format 16
        cow_serve
        cow volume-create name=v origin="$FORGETFUL" >/dev/null
        device=$(owned "$(cow volume-attach name=v | json .device)")
        cow_volume w $((4 << 20)) >/dev/null
        cow_set v w >/dev/null
        dd if=/dev/urandom of="$device" bs=64k count=4 seek=16 oflag=direct status=none
        touch "$FORGETFUL_FAILS"
        refused $EIO volume-detach name=v
        grep -q 'v is detached, but' "$out/refused" || die "it does not say that it is detached"
        [ ! -e "$FORGETFUL_FAILS" ] || die "the origin was not flushed"
        expect_equal '[["v",false,false],["w",true,true]]' "$(volume_state)" "the volumes"
        cow volume-attach name=v >"$out/attach"
        note "$(json .warning <"$out/attach")"
        expect_equal '["v"]' "$(unverified)" "the volumes with unverified snapshots"
        device=$(owned "$(json .device <"$out/attach")")
        note "in this process no flush of it succeeds again"
        if dd if=/dev/zero of="$device" bs=64k count=1 seek=16 conv=fsync status=none 2>/dev/null; then
                die "a flush after one that failed"
        fi
        refused $EIO set v w
        cow set w >/dev/null
        note "the next one starts anew"
        pid=$(status_of .server_pid)
        kill -KILL "$pid"
        wait_until 10 cow set v w >/dev/null
        dd if=/dev/zero of="$device" bs=64k count=1 seek=16 conv=fsync status=none
        cow volume-detach name=v >/dev/null
        cow_stop
}

# ---- all together ------------------------------------------------------------------------------------------------

# Hazards A8: what units/59-vss.rules goes by.
hidden() { ls -A "$COW_LINKS/.hidden" 2>/dev/null || :; }
case_hidden_from_udev() {
        local dev number shown
        small_format 16
        truncate -s 16M "$COW_DISK/disk.img"
        dev=$(losetup --find --show "$COW_DISK/disk.img")
        cleanup_fn losetup -d "$dev"
        number=$(cat "/sys/block/${dev#/dev/}/dev")
        cow_serve
        cow volume-create name=v origin="$dev" >/dev/null
        wait_until 5 eval '[ -z "$(hidden)" ]' || die "hidden before it is attached: $(hidden)"
        owned "$(cow volume-attach name=v | json .device)" >/dev/null
        expect_equal "$number" "$(hidden)" "what is hidden while it is attached"
        shown=$(expose "$(cow_set v)")
        grep -Eqx '/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' "/sys/block/${shown#/dev/}/loop/backing_file" ||
                die "the rule does not know a snapshot by $(cat "/sys/block/${shown#/dev/}/loop/backing_file")"
        shown=$(overlay "$(cow_gate v)")
        grep -Eqx '/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\+[0-9]+' "/sys/block/${shown#/dev/}/loop/backing_file" ||
                die "the rule does not know an overlay by $(cat "/sys/block/${shown#/dev/}/loop/backing_file")"
        cow volume-detach name=v >/dev/null
        wait_until 5 eval '[ -z "$(hidden)" ]' || die "hidden when it is detached: $(hidden)"
        owned "$(cow volume-attach name=v | json .device)" >/dev/null
        kill -KILL "$COW_HOLDER"
        wait_until 5 eval '! kill -0 $COW_HOLDER 2>/dev/null'
        expect_equal "$number" "$(hidden)" "what a holder leaves that is killed"
        cow_serve
        expect_equal "" "$(hidden)" "what is hidden when the next one has begun"
        cow_stop
}

# Whoever sends more descriptors than the protocol knows must not fill the server's table with them.
case_descriptors_are_not_kept() {
        local pid before
        small_format 16
        cow_serve
        pid=$(status_of .server_pid)
        before=$(ls "/proc/$pid/fd" | wc -l)
        python3 - "$COW_DIR/control" <<'END'
import array, os, socket, sys
for n in (1, 2, 3, 50) * 20:
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(n)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(10)
        s.connect(sys.argv[1])
        s.sendmsg([b'{"command":"status"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        try:
            s.recv(1 << 16)
        except ConnectionResetError:
            pass
    for f in fds:
        os.close(f)
END
        expect_equal "$before" "$(ls "/proc/$pid/fd" | wc -l)" "the number of the server's descriptors"
        cow_stop
}

all=(descriptors_are_not_kept format_of_a_served_store one_device_of_a_volume several_devices_at_once one_device_of_a_snapshot detach_without_flush hidden_from_udev)
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
