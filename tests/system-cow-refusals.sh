#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What vss-cow must refuse: with one line that says why, the right exit code or errno, and nothing changed. And what it
# must survive: strangers on its socket, a store without space, a store that fails, an origin that changed meanwhile.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/cow.sh"
requires blkid blkdiscard mkfs.ext4 mkfs.btrfs mkswap swapon nbdkit nbdfuse
watchdog 300

EBUSY=16 EEXIST=17 EINVAL=22 ENOENT=2 ESTALE=116
mnt=$VSS_TEST_DIR/mnt
mkdir "$mnt"
out=$VSS_TEST_DIR/out

# refused ERRNO COMMAND…: of cow; one line
refused() {
        local want=$1
        shift
        local got=0
        cow "$@" >"$out" 2>&1 || got=$?
        [ $got -eq "$want" ] || die "cow $* ended with $got, expected $want: $(cat "$out")"
        expect_equal 1 "$(wc -l <"$out")" "lines of the refusal of $*"
        note "$*: $(cut -c1-150 "$out")"
}

# ended STATUS COMMAND…: a program; one line, unless the programs of the service say more about the machine
ended() {
        local want=$1
        shift
        local got=0
        "$@" >"$out" 2>&1 || got=$?
        [ $got -eq "$want" ] || die "$* ended with $got, expected $want: $(cat "$out")"
        grep -v -e 'OOM killer' -e PR_SET_IO_FLUSHER -e 'not locked' "$out" >"$out.line" || :
        expect_equal 1 "$(wc -l <"$out.line")" "lines of the refusal of $*"
        note "$(cut -c1-150 "$out.line")"
}

unmount() { ! mountpoint -q "$1" || umount "$1"; }

swap_end() { swapoff "$1" 2>/dev/null || :; }
# loop FILE: a loop device that goes with the case
loop() {
        LOOP=$(losetup --find --show "$1")
        cleanup_fn losetup -d "$LOOP"
}

begin() {
        cow_format $((256 << 20))
        cow_serve
}

# ---- formats and starts ------------------------------------------------------------------------------------------

case_format() {
        local before
        echo precious >"$COW_DISK/foreign"
        ended 3 "$VSS_COW" format --store="$COW_DISK/foreign" --size=$((256 << 20))
        expect_equal precious "$(cat "$COW_DISK/foreign")" "the foreign file"
        ended 2 "$VSS_COW" format --store="$COW_DISK/x" --size=1000
        ended 2 "$VSS_COW" format --store="$COW_DISK/x" --size=12M
        ended 2 "$VSS_COW" format --store="$COW_DISK/x"
        ended 10 "$VSS_COW" format --store="$VSS_TEST_DIR/memory" --size=$((256 << 20))
        [ ! -e "$COW_DISK/x" ] && [ ! -e "$VSS_TEST_DIR/memory" ] || die "a refused format left a file"
        ended 4 "$VSS_COW" serve --store="$COW_DISK/none" --directory="$COW_DIR"
        ended 11 "$VSS_COW" serve --store="$COW_DISK/foreign" --directory="$COW_DIR"
        ended 2 "$VSS_COW" serve --store=relative --directory="$COW_DIR"
        cow_format $((256 << 20))
        before=$(sha256sum <"$COW_STORE")
        cp --sparse=always "$COW_STORE" "$VSS_TEST_DIR/memory"
        ended 10 "$VSS_COW" serve --store="$VSS_TEST_DIR/memory" --directory="$COW_DIR"
        expect_equal "$before" "$(sha256sum <"$COW_STORE")" "the store"
        cow_serve
        ended 8 "$VSS_COW" format --store="$COW_STORE" --size=$((256 << 20))
        ended 8 "$VSS_COW" format --store="$COW_STORE" --size=$((256 << 20)) --force
        ended 8 "$VSS_COW" serve --store="$COW_STORE" --directory="$COW_DIR"
        ended 8 "$VSS_COW" serve --store="$COW_STORE" --directory="$VSS_TEST_DIR/other"
        cow status >/dev/null
}

# formats_not WHAT STORE: not without --force, and says that it holds WHAT; nothing was changed
formats_not() {
        local before
        before=$(sha256sum <"$2")
        ended 3 "$VSS_COW" format --store="$2" --size=$((128 << 20))
        grep -q "$1.*--force" "$out" || die "it does not say that there is $1"
        expect_equal "$before" "$(sha256sum <"$2")" "what was there"
}

# What holds anything is only formatted with --force, and nothing of it is left then.
case_format_over() {
        local uuid file=$COW_DISK/file
        begin
        uuid=$(status_of .uuid)
        cow_volume v $((64 << 20)) >/dev/null
        cow_set v >/dev/null
        cow_stop
        formats_not "a store ($uuid)" "$COW_STORE"
        cow_serve
        expect_equal "1 $uuid" "$(status_of .snapshots) $(status_of .uuid)" "the store"
        cow_stop
        cow_format $((128 << 20)) "$COW_STORE" --force
        cow_serve
        expect_equal "0 $((128 << 20))" "$(status_of .snapshots) $(status_of .total_bytes)" "the new store"
        [ "$(status_of .uuid)" != "$uuid" ] || die "the new store has the id of the old one"
        cow_stop
        cp --sparse=always "$COW_STORE" "$file"
        printf '\377' | dd of="$file" bs=1 seek=8 count=1 conv=notrunc status=none
        printf '\377' | dd of="$file" bs=1 seek=4104 count=1 conv=notrunc status=none
        formats_not "not empty" "$file"
        truncate -s 0 "$file"
        truncate -s 128M "$file"
        mkfs.btrfs -q "$file" >/dev/null
        formats_not btrfs "$file"
        loop "$file"
        formats_not btrfs "$LOOP"
        ended 8 "$VSS_COW" format --store="$file" --size=$((128 << 20)) --force
        mount "$LOOP" "$mnt"
        cleanup_fn unmount "$mnt"
        ended 8 "$VSS_COW" format --store="$LOOP" --size=$((128 << 20)) --force
        umount "$mnt"
        cow_format $((128 << 20)) "$LOOP" --force
        expect_equal "" "$(blkid -p -o value -s TYPE "$LOOP" || :)" "what blkid finds"
        "$VSS_COW" check "$LOOP" >&2 || die "the store is not clean"
        blkdiscard -f -z "$LOOP"
        note "what lies at the end of a device whose beginning is blank"
        printf 'Promise Technology, Inc.' | dd of="$LOOP" bs=512 seek=$(((128 << 11) - 63)) conv=notrunc,fsync status=none
        formats_not promise_fasttrack_raid_member "$LOOP"
        blkdiscard -f -z "$LOOP"
        cow_format $((128 << 20)) "$LOOP"
}

case_btrfs() {
        truncate -s 512M "$COW_DISK/btrfs.img"
        mkfs.btrfs -q "$COW_DISK/btrfs.img" >/dev/null
        mount -o loop "$COW_DISK/btrfs.img" "$mnt"
        cleanup_fn unmount "$mnt"
        ended 10 "$VSS_COW" format --store="$mnt/store" --size=$((128 << 20))
        [ ! -e "$mnt/store" ] || die "a refused format left a file"
        touch "$mnt/store"
        chattr +C "$mnt/store"
        "$VSS_COW" format --store="$mnt/store" --size=$((128 << 20))
        cow_serve "$mnt/store"
        cow_stop
}

case_fuse() {
        local id
        mkdir "$VSS_TEST_DIR/fuse"
        nbdkit --foreground --unix "$VSS_TEST_DIR/nbd" memory size=256M &
        cleanup_fn stop_process $!
        wait_until 10 test -S "$VSS_TEST_DIR/nbd"
        nbdfuse "$VSS_TEST_DIR/fuse/disk" --unix "$VSS_TEST_DIR/nbd" &
        id=$!
        cleanup_fn stop_process $id
        cleanup_fn umount "$VSS_TEST_DIR/fuse"
        wait_until 10 test -e "$VSS_TEST_DIR/fuse/disk"
        ended 10 "$VSS_COW" format --store="$VSS_TEST_DIR/fuse/disk" --size=$((256 << 20))
}

# ---- origins -----------------------------------------------------------------------------------------------------

case_origins() {
        begin
        truncate -s 64M "$COW_DISK/o.img"
        truncate -s 1000001 "$COW_DISK/odd.img"
        : >"$COW_DISK/empty.img"
        refused $EINVAL volume-create name=v origin="$COW_DISK/odd.img"
        refused $EINVAL volume-create name=v origin="$COW_DISK/empty.img"
        refused $EINVAL volume-create name=v origin=/dev/null
        refused $EINVAL volume-create name=v origin="$COW_DISK"
        refused $EINVAL volume-create name=v origin=relative
        refused $ENOENT volume-create name=v origin="$COW_DISK/none"
        refused $EINVAL volume-create name=../v origin="$COW_DISK/o.img"
        refused $EINVAL volume-create name= origin="$COW_DISK/o.img"
        loop "$COW_DISK/o.img"
        refused $EBUSY volume-create name=v origin="$COW_DISK/o.img"
        mkfs.ext4 -q "$LOOP"
        mount "$LOOP" "$mnt"
        cleanup_fn unmount "$mnt"
        refused $EBUSY volume-create name=v origin="$LOOP"
        umount "$mnt"
        mkswap "$LOOP" >/dev/null
        swapon "$LOOP"
        cleanup_fn swapoff "$LOOP" 
        refused $EBUSY volume-create name=v origin="$LOOP"
        swapoff "$LOOP"
        cow volume-create name=v origin="$LOOP" >/dev/null
        refused $EEXIST volume-create name=v origin="$LOOP"
        cow volume-attach name=v >/dev/null
        refused $EEXIST volume-create name=w origin="$LOOP"
        expect_exit 32 mount "$LOOP" "$mnt" >/dev/null 2>&1
        cow volume-detach name=v >/dev/null
        refused $EEXIST volume-create name=w origin="$LOOP"
        refused $ENOENT volume-attach name=nobody
        expect_equal 1 "$(cow volumes | json '.volumes | length')" "the number of volumes"
        cow_stop
}

# One origin, two names: what one volume writes the other does not preserve. Nor does a store become an origin.
case_same_origin() {
        local node=$COW_DISK/node other name pid
        begin
        pid=$(status_of .server_pid)
        truncate -s 64M "$COW_DISK/o.img" "$COW_DISK/below.img" "$COW_DISK/gone.img" "$COW_DISK/free.img"
        ln "$COW_DISK/o.img" "$COW_DISK/hard.img"
        ln -s o.img "$COW_DISK/soft.img"
        mount --bind "$COW_DISK" "$mnt"
        cleanup_fn unmount "$mnt"
        loop "$COW_DISK/below.img"
        mknod "$node" b $((0x$(stat -c %t "$LOOP"))) $((0x$(stat -c %T "$LOOP")))
        cow volume-create name=file origin="$COW_DISK/o.img" >/dev/null
        cow volume-create name=disk origin="$LOOP" >/dev/null
        cow volume-create name=gone origin="$COW_DISK/gone.img" >/dev/null
        rm "$COW_DISK/gone.img"
        others() {
                for other in "$COW_DISK/hard.img" "$COW_DISK/soft.img" "$mnt/o.img" "$mnt/hard.img"; do
                        refused $EEXIST volume-create name=w origin="$other"
                        grep -q "volume file" "$out" || die "it does not say whose origin it is"
                done
                refused $EEXIST volume-create name=w origin="$node"
                grep -q "volume disk" "$out" || die "it does not say whose origin it is"
        }
        others
        for name in file disk; do owned "$(cow volume-attach name=$name | json .device)" >/dev/null; done
        others
        for name in file disk; do cow volume-detach name=$name >/dev/null; done
        ln "$COW_STORE" "$COW_DISK/store.link"
        refused $EBUSY volume-create name=w origin="$COW_STORE"
        refused $EBUSY volume-create name=w origin="$COW_DISK/store.link"
        cow_format $((128 << 20)) "$COW_DISK/another"
        refused $EBUSY volume-create name=w origin="$COW_DISK/another"
        cow volume-create name=w origin="$COW_DISK/free.img" >/dev/null
        expect_equal "$pid" "$(status_of .server_pid)" "the server's pid"
        expect_equal "disk file gone w" "$(cow volumes | jq -r '[.volumes[].name] | sort | join(" ")')" "the volumes"
        cow_stop
}

# A store on the file system that its own volume would be: every write to it would have to be preserved in it.
case_store_on_its_own_volume() {
        local image=$COW_DISK/under.img dev kind
        truncate -s 400M "$image"
        mkfs.ext4 -q -F "$image"
        dev=$(losetup --find --show "$image")
        cleanup_fn losetup -d "$dev"
        mount "$dev" "$mnt"
        cleanup_fn unmount "$mnt"
        cow_format $((160 << 20)) "$mnt/store"
        cow_serve "$mnt/store"
        for kind in "$image" "$dev"; do refused $EBUSY volume-create name=own origin="$kind"; done
        expect_equal "[]" "$(cow volumes | jq -c .volumes)" "volumes"
}

case_swap_file() {
        begin
        dd if=/dev/zero of="$COW_DISK/swap.img" bs=1M count=16 status=none
        chmod 600 "$COW_DISK/swap.img"
        mkswap "$COW_DISK/swap.img" >/dev/null
        swapon "$COW_DISK/swap.img" || skip "no swap files here"
        cleanup_fn swap_end "$COW_DISK/swap.img"
        refused $EBUSY volume-create name=v origin="$COW_DISK/swap.img"
        cow_stop
}

# ---- devices in use ----------------------------------------------------------------------------------------------

case_in_use() {
        local device copy id
        begin
        device=$(cow_volume v $((64 << 20)))
        mkfs.ext4 -q "$device"
        mount "$device" "$mnt"
        cleanup_fn unmount "$mnt"
        refused $EBUSY volume-detach name=v
        refused $EBUSY stop
        refused $EBUSY volume-remove name=v force=true
        echo still there >"$mnt/file"
        umount "$mnt"
        id=$(cow_set v)
        copy=$(expose "$id")
        expect_equal "$copy" "$(expose "$id")" "the device of a snapshot that is shown twice"
        mount -o ro "$copy" "$mnt"
        refused $EBUSY delete id="$id"
        refused $EBUSY hide id="$id"
        refused $EBUSY volume-detach name=v
        expect_equal "still there" "$(cat "$mnt/file")" "the file in the snapshot"
        umount "$mnt"
        note "open, but not mounted"
        exec 9<"$device"
        cow hide id="$id" >/dev/null
        refused $EBUSY volume-detach name=v
        exec 9<&-
        dd if="$device" of=/dev/null bs=4k count=1 iflag=direct status=none
        copy=$(expose "$id")
        exec 9<"$copy"
        refused $EBUSY delete id="$id"
        refused $EBUSY hide id="$id"
        exec 9<&-
        expect_equal "$copy" "$(expose "$id")" "the device of the snapshot"
        cow hide id="$id" >/dev/null
        cow hide id="$id" >/dev/null
        cow delete id="$id" >/dev/null
        refused $ENOENT delete id="$id"
        refused $ENOENT expose id="$id"
        cow volume-detach name=v >/dev/null
        cow volume-remove name=v force=false >/dev/null
        cow_stop
}

# shown_as ID: the loop devices that show it
shown_as() { grep -lx "/$1" /sys/block/loop*/loop/backing_file 2>/dev/null | cut -d/ -f4 | tr '\n' ' ' || :; }

# in_use_by ID DEVICE COMMAND…: refused, and said by what
in_use_by() {
        local id=$1 device=$2
        shift 2
        refused $EBUSY "$@"
        grep -q "$id.*$device " "$out" || die "it does not name $id and $device"
}

# What is shown and used by nobody is no reason to refuse; what is used is named.
case_shown() {
        local device id1 id2 copy round pid n=0
        begin
        pid=$(status_of .server_pid)
        device=$(cow_volume v $((64 << 20)))
        mkfs.ext4 -q "$device"
        id1=$(cow_set v)
        id2=$(cow_set v)
        expose "$id1" >/dev/null
        copy=$(expose "$id2")
        cow volume-detach name=v >/dev/null
        expect_equal "" "$(shown_as "$id1")$(shown_as "$id2")" "devices of the snapshots"
        cow volume-attach name=v >/dev/null
        expose "$id1" >/dev/null
        copy=$(expose "$id2")
        mount -o ro "$copy" "$mnt"
        cleanup_fn unmount "$mnt"
        in_use_by "$id2" "$copy" volume-detach name=v
        in_use_by "$id2" "$copy" stop
        umount "$mnt"
        exec 9<"$copy"
        in_use_by "$id2" "$copy" volume-detach name=v
        in_use_by "$id2" "$copy" stop
        exec 9<&-
        cow hide id="$id2" >/dev/null
        note "shown by several at once"
        for round in {1..8}; do cow expose id="$id2" >>"$VSS_TEST_DIR/answers" & done
        wait
        expect_equal "8 1" "$(wc -l <"$VSS_TEST_DIR/answers") $(jq -r .device "$VSS_TEST_DIR/answers" | sort -u | wc -l)" "answers and devices"
        expect_equal "$(jq -r .device "$VSS_TEST_DIR/answers" | head -n 1)" "/dev/$(shown_as "$id2" | tr -d ' ')" "its device"
        note "shown while its volume goes"
        for round in {1..30}; do
                cow volume-attach name=v >/dev/null
                cow expose id="$id1" >/dev/null 2>&1 &
                cow volume-detach name=v >/dev/null 2>&1 && n=$((n + 1))
                wait $! || :
                [ "$(cow volumes | json '.volumes[0].attached | tostring')" = true ] || [ -z "$(shown_as "$id1")" ] ||
                        die "round $round: the snapshot of a volume that is not attached is shown as $(shown_as "$id1")"
        done
        note "$n of 30 were detached at once"
        expect_equal "$pid" "$(status_of .server_pid)" "the server's pid"
        cow volume-attach name=v >/dev/null
        expose "$id1" >/dev/null
        expose "$id2" >/dev/null
        cow_stop
        expect_equal "" "$(shown_as "$id1")$(shown_as "$id2")" "devices of the snapshots"
}

# ---- strangers ---------------------------------------------------------------------------------------------------

say() { printf %s "$1" | cow raw; }
says_einval() { say "$1" | jq -e '.ok == false and .errno == 22' >/dev/null || die "not refused: $1"; }

case_messages() {
        local pid member='"id":"00000000-0000-4000-8000-000000000001","volume":"v","label":"l"'
        begin
        cow_volume v $((16 << 20)) >/dev/null
        pid=$(status_of .server_pid)
        expect_equal closed "$(say '{"command":')" "the answer to half a request"
        expect_equal closed "$(say '[]')" "the answer to a list"
        expect_equal closed "$(say '{"command":"status"} {"command":"status"}')" "the answer to two at once"
        expect_equal closed "$(head -c 200000 /dev/zero | cow raw)" "the answer to a long message"
        says_einval '{}'
        says_einval '{"command":"dance"}'
        says_einval '{"command":7}'
        says_einval '{"command":"status","more":1}'
        says_einval '{"command":"list","set":""}'
        says_einval '{"command":"list","set":"","from":-1}'
        says_einval '{"command":"list","set":"","from":"0"}'
        says_einval '{"command":"list","set":"no-uuid","from":0}'
        says_einval '{"command":"hold","volumes":[1],"deadline_usec":1}'
        says_einval '{"command":"hold","volumes":"v","deadline_usec":1}'
        says_einval '{"command":"set-policy","policy":"hope"}'
        says_einval '{"command":"delete","id":"../../x"}'
        says_einval '{"command":"snapshot","token":"1","set":"00000000-0000-4000-8000-000000000000","created_usec":1,"members":[{'"$member"',"colour":"red"}]}'
        says_einval '{"command":"snapshot","token":"1","set":"00000000-0000-4000-8000-000000000000","created_usec":1,"members":[{'"$member"',"pending":"no"}]}'
        says_einval '{"command":"snapshot","token":"1","set":"00000000-0000-4000-8000-000000000000","created_usec":1,"members":[]}'
        expect_equal 64 "$(cow crowd 80)" "the number of connections that are answered"
        # as somebody else, on a socket that he may reach
        chmod 755 "$VSS_TEST_DIR" "$COW_DIR"
        chmod 666 "$COW_DIR/control"
        cp "$VSS_BUILD/tests/cow-client" "$VSS_TEST_DIR/client"
        (printf '{"command":"status"}' | run_as nobody "$VSS_TEST_DIR/client" "$COW_DIR" raw) >"$out" 2>&1 || :
        if grep -q '"ok"' "$out"; then die "nobody was answered"; fi
        chmod 600 "$COW_DIR/control"
        cow fuzz 8 >&2
        # connections that ended are seen one by one
        wait_until 5 cow status >/dev/null
        expect_equal "$pid" "$(status_of .server_pid)" "the server's pid after all of it"
        cow_stop
}

# Its answers are not read, and it hangs up while others are asked for: nobody may be taken for somebody who is gone.
case_hang_up() {
        local pid i
        begin
        cow_volume v $((16 << 20)) >/dev/null
        pid=$(status_of .server_pid)
        for i in {1..60}; do
                printf '{"command":"expose","id":"00000000-0000-4000-8000-0000000000%02d"}' "$i" | timeout 0.01 "$VSS_BUILD/tests/cow-client" "$COW_DIR" raw >/dev/null 2>&1 || :
                { printf '{"command":"volume-attach","name":"v"}\nclose\n' | timeout 0.02 "$VSS_BUILD/tests/cow-client" "$COW_DIR" script >/dev/null 2>&1 || :; } &
                { printf '{"command":"checkpoint"}\n{"command":"collect"}\n' | timeout 0.02 "$VSS_BUILD/tests/cow-client" "$COW_DIR" script >/dev/null 2>&1 || :; } &
                wait
        done
        expect_equal "$pid" "$(status_of .server_pid)" "the server's pid"
        cow_stop
}

# ---- holds -------------------------------------------------------------------------------------------------------

# write_time DEVICE: how many ms one write takes
write_time() {
        local begin
        begin=$(date +%s%3N)
        dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none
        echo $(($(date +%s%3N) - begin))
}

case_holds() {
        local device took id=00000000-0000-4000-8000-000000000001
        begin
        device=$(cow_volume v $((16 << 20)))
        note "at its deadline"
        {
                echo '{"command":"hold","volumes":["v"],"deadline_usec":@in(1000)}'
                echo 'sleep 2000'
                echo '{"command":"snapshot","token":@token,"set":"'$id'","created_usec":1,"members":[{"id":"'$id'","volume":"v","label":"late"}]}'
                echo '{"command":"release","token":@token}'
        } | cow script >"$out" &
        wait_until 5 grep -q token "$out"
        took=$(write_time "$device")
        wait $!
        note "a write took $took ms"
        [ "$took" -ge 500 ] && [ "$took" -lt 1800 ] || die "the write took $took ms, not about 1000"
        sed -n 2p "$out" | grep -q "refused $ESTALE" || die "a snapshot behind the deadline: $(cat "$out")"
        sed -n 3p "$out" | jq -e '.held == false' >/dev/null || die "a release behind the deadline: $(cat "$out")"
        note "at the end of its connection"
        printf '%s\n' '{"command":"hold","volumes":["v"],"deadline_usec":@in(20000)}' 'sleep 1000' close | cow script >"$out" &
        wait_until 5 grep -q token "$out"
        expect_exit $EBUSY cow hold 'volumes=["v"]' deadline_usec=99999999999999 >/dev/null 2>&1
        took=$(write_time "$device")
        wait $!
        [ "$took" -lt 1800 ] || die "the write took $took ms, not about 1000"
        note "a deadline that has passed, a volume twice, none that is there"
        refused $EINVAL hold 'volumes=[]' deadline_usec=99999999999999
        refused $ENOENT hold 'volumes=["v","v"]' deadline_usec=99999999999999
        refused $ENOENT hold 'volumes=["w"]' deadline_usec=99999999999999
        cow hold 'volumes=["v"]' deadline_usec=1 >/dev/null || :
        [ "$(write_time "$device")" -lt 500 ] || die "a hold without time held"
        expect_equal 0 "$(status_of .snapshots)" "the number of snapshots"
        cow_stop
}

# ---- stores that end ---------------------------------------------------------------------------------------------

# Writes go on whatever becomes of the store; a snapshot is exact, or it says what it is.
case_full_disk() {
        local device id before n=0
        truncate -s 96M "$COW_DISK/small.img"
        mkfs.ext4 -q -O ^has_journal "$COW_DISK/small.img"
        mount -o loop "$COW_DISK/small.img" "$mnt"
        cleanup_fn unmount "$mnt"
        "$VSS_COW" format --store="$mnt/store" --size=$((1 << 30)) # more than there is
        cow_serve "$mnt/store"
        device=$(cow_volume v $((128 << 20)))
        dd if=/dev/urandom of="$device" bs=1M oflag=direct status=none 2>/dev/null || :
        before=$(content "$device")
        id=$(cow_set v) || note "no snapshot without space"
        dd if=/dev/urandom of="$device" bs=1M oflag=direct status=none 2>"$out" || :
        grep -v 'No space left' "$out" | grep . && die "a write failed: $(cat "$out")"
        n=$(cow list set= from=0 | jq '.snapshots | length')
        note "$n snapshots left, fault '$(cow status | jq -r .fault)', damaged $(cow list set= from=0 | jq -c '[.snapshots[].damaged]')"
        if [ -n "$id" ] && [ "$n" -gt 0 ] && [ "$(cow list set= from=0 | jq '.snapshots[0].damaged')" = false ]; then
                expect_equal "$before" "$(content "$(expose "$id")")" "the content of the snapshot that was kept"
                cow hide id="$id" >/dev/null
        fi
        cow_stop
}

case_full_store() {
        local device id i
        cow_format $((128 << 20))
        cow_serve
        device=$(cow_volume v $((96 << 20)))
        for i in 1 2 3 4; do
                id=$(cow_set v) || :
                dd if=/dev/urandom of="$device" bs=1M count=96 oflag=direct status=none || die "a write failed"
        done
        note "$(cow list set= from=0 | jq '.snapshots | length') of 4 snapshots left, fault '$(cow status | jq -r .fault)'"
        expect_equal "" "$(cow status | jq -r .fault)" "the store's fault"
        cow set-policy policy=fail-writes >/dev/null
        cow_stop
        "$VSS_COW" check "$COW_STORE" >&2 || die "the store is not clean"
}

case_store_fails() {
        local device id pid before
        nbdkit --foreground --unix "$VSS_TEST_DIR/nbd2" --filter=error memory size=256M error=EIO error-rate=100% error-file="$VSS_TEST_DIR/broken" &
        cleanup_fn stop_process $!
        wait_until 10 test -S "$VSS_TEST_DIR/nbd2"
        mkdir "$VSS_TEST_DIR/fuse2"
        nbdfuse "$VSS_TEST_DIR/fuse2/disk" --unix "$VSS_TEST_DIR/nbd2" &
        cleanup_fn stop_process $!
        cleanup_fn umount "$VSS_TEST_DIR/fuse2"
        wait_until 10 test -e "$VSS_TEST_DIR/fuse2/disk"
        loop "$VSS_TEST_DIR/fuse2/disk"
        cow_format $((256 << 20)) "$LOOP"
        cow_serve "$LOOP"
        device=$(cow_volume v $((64 << 20)))
        dd if=/dev/urandom of="$device" bs=1M oflag=direct status=none count=64
        id=$(cow_set v)
        touch "$VSS_TEST_DIR/broken"
        dd if=/dev/urandom of="$device" bs=1M oflag=direct status=none count=64 || die "a write failed with its store"
        before=$(content "$device")
        expect_equal store-lost "$(status_of .fault)" "the store's fault"
        expect_equal 0 "$(cow list set= from=0 | jq '.snapshots | length')" "snapshots of a lost store"
        if cow_set v 2>/dev/null; then die "a snapshot in a lost store"; fi
        note "its server dies too: nobody gets an error, who reads waits until there is a disk again"
        pid=$(status_of .server_pid)
        kill -KILL "$pid"
        content "$device" >"$VSS_TEST_DIR/after" &
        pid=$!
        sleep 2
        [ ! -s "$VSS_TEST_DIR/after" ] || die "it did not wait: $(cat "$VSS_TEST_DIR/after")"
        rm "$VSS_TEST_DIR/broken"
        wait "$pid"
        expect_equal "$before" "$(cat "$VSS_TEST_DIR/after")" "the volume behind a lost store"
        dd if=/dev/urandom of="$device" bs=1M oflag=direct status=none count=8 || die "a write failed with its store"
        before=$(content "$device")
        expect_equal store-lost "$(status_of .fault)" "the store's fault"
        expect_equal 0 "$(cow list set= from=0 | jq '.snapshots | length')" "snapshots of a lost store"
        cow_stop
        cow_serve "$LOOP"
        if cow volume-attach name=v >/dev/null 2>&1; then expect_equal "$before" "$(content "$COW_LINKS/v")" "the volume"; fi
        expect_equal 0 "$(cow list set= from=0 | jq '[.snapshots[] | select(.damaged == false and .unverified == false)] | length')" \
                "snapshots that are shown as good"
        cow_stop
}

# ---- changed behind its back -------------------------------------------------------------------------------------

case_changed_origin() {
        local device ids
        begin
        device=$(cow_volume v $((64 << 20)))
        cow_volume w $((64 << 20)) >/dev/null
        mkfs.ext4 -q "$device"
        mapfile -t ids < <(cow_set v w)
        cow volume-detach name=v >/dev/null
        cow volume-detach name=w >/dev/null
        mount -o loop "$COW_DISK/v.img" "$mnt"
        touch "$mnt/by-somebody-else"
        umount "$mnt"
        cow volume-attach name=v | json .warning >&2
        cow volume-attach name=w | jq -e 'has("warning") | not' >/dev/null || die "a volume nobody touched is suspected"
        expect_equal '[true,false]' "$(cow list set= from=0 | jq -c '[.snapshots[].unverified]')" "unverified"
        cow volume-detach name=w >/dev/null
        dd if=/dev/urandom of="$COW_DISK/w.img" bs=4k count=1 seek=1000 conv=notrunc status=none
        cow volume-attach name=w | json .warning >&2
        cow volume-detach name=w >/dev/null
        truncate -s 32M "$COW_DISK/w.img"
        refused $EINVAL volume-attach name=w
        expect_equal '[true,true]' "$(cow list set= from=0 | jq -c '[.snapshots[].unverified]')" "unverified"
        cow_stop
}

fresh() { # every case has a disk and a directory of its own
        eval "real_$1() $(declare -f "case_$1" | tail -n +2)"
        eval "case_$1() {
                mkdir \"\$COW_DISK/$1\"
                COW_DISK=\$COW_DISK/$1 COW_DIR=\$VSS_TEST_DIR/$1 COW_LINKS=\$VSS_TEST_DIR/$1.links
                COW_STORE=\$COW_DISK/store
                cleanup_fn rm -rf \"\$COW_DISK\"
                real_$1
        }"
}
all=(format format_over btrfs fuse origins same_origin store_on_its_own_volume swap_file in_use shown messages hang_up holds full_disk full_store store_fails changed_origin)
[ $# -eq 0 ] || all=("$@")
for name in "${all[@]}"; do fresh "$name"; done
cases "${all[@]}"
