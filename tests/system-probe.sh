#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What vss-probe says about real mounts: which volume a path lies on, once per superblock or subvolume, in which order they are to
# be frozen, what is in whose way, and what nothing can take.
# shellcheck disable=SC2016 # jq expands
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4 mkfs.btrfs mkfs.xfs btrfs jq setpriv nbdkit nbdfuse

dir=$VSS_TEST_DIR
probe() { "$VSS_BUILD/tests/probe-tool" "$@" >"$dir/answer"; }

# expect EXPRESSION: jq over the last answer; $dir is $d in there
expect() {
        jq -e --arg d "$dir" "$1" <"$dir/answer" >/dev/null || { jq . <"$dir/answer" >&2; die "not so: $1"; }
}

mount_at() { # SOURCE TARGET [OPTION…]
        local source=$1 target=$2
        shift 2
        [ -e "$target" ] || mkdir -p "$target"
        mount "$@" "$source" "$target"
        cleanup_fn umount "$target"
}

make_image() { # FILE SIZE
        truncate -s "$2" "$1"
        mkfs.ext4 -q -F "$1"
}

note "a path means the volume it lies on; arguments keep their order, each superblock comes once"
mkdir "$dir/early"
mount -t tmpfs tmpfs "$dir/early"
new_fs a ext4 64M
new_fs b btrfs 128M
new_fs x xfs 300M
mkdir -p "$a/some/where"
: >"$a/some/where/file"
probe "$x" "$a/some/where/file" "$a" "$b"
expect '[.volumes[].name] == [$d+"/fs2", $d+"/fs0", $d+"/fs1"]'
expect '[.paths[].volume] == [0,1,1,2]'
expect '.volumes[1] | .kind == "filesystem" and .argument == $d+"/fs0/some/where/file" and .fs_type == "ext4" and .can_hold'
expect "[.volumes[].device] == [\"$x_dev\", \"$a_dev\", \"$b_dev\"]"
for i in 0 1 2; do
        name=$(jq -r ".volumes[$i].device" <"$dir/answer")
        expect ".volumes[$i].fs_uuid == \"$(blkid -p -o value -s UUID "$name")\""
done
expect 'all(.volumes[]; .why_not == null and .size > 1000000)'
expect '.collisions == [] and .stalls == []'

note "a device means the file system on it"
probe "$a_dev" "$b_dev" "$a"
expect '[.volumes[].name] == [$d+"/fs0", $d+"/fs1"] and [.paths[].volume] == [0,1,0]'

note "bind mounts and second mounts are the same volume under one name, the first: ids are given away again"
umount "$dir/early"
mount_at "$a" "$dir/bind" --bind
mount_at "$a/some" "$dir/part" --bind
mount_at "$a_dev" "$dir/second"
probe "$dir/second"
expect '.volumes[0] | .name == $d+"/fs0" and .mount_point == $d+"/second" and .root_inode == 2'
expect '(.volumes[0].mount_points | sort) == [$d+"/bind", $d+"/fs0", $d+"/second"]'
probe "$dir/part/where" "$dir/bind" "$a" "$dir/second"
expect '.volumes | length == 1 and .[0].name == $d+"/fs0" and .[0].root_inode == 2'

note "subvolumes are volumes of their own on one superblock"
btrfs subvolume create "$b/sub" >/dev/null
btrfs subvolume create "$b/sub/deep" >/dev/null
mkdir "$b/sub/dir" "$b/top"
: >"$b/sub/dir/file"
mkfifo "$b/sub/fifo"
: >"$b/sub/marker"
probe "$b/top" "$b/sub/dir/file" "$b/sub/deep" "$b/sub/fifo"
expect '[.volumes[] | .kind] == ["filesystem", "subvolume", "subvolume"] and .paths[3].volume == 1'
expect '[.volumes[] | .name] == [$d+"/fs1", $d+"/fs1/sub", $d+"/fs1/sub/deep"]'
expect '[.volumes[] | .marker] == [false, true, false] and all(.volumes[]; .root_inode == 256)'
expect '([.volumes[] | .superblock] | unique | length) == 1 and ([.volumes[] | .subvolume] | unique | length) == 3'
expect '.collisions == ["0-1", "0-2", "1-2"]'
mount_at "$b_dev" "$dir/sub" -o subvol=sub
probe "$b/sub"
expect '.volumes[0] | .name == $d+"/sub" and (.mount_points == [$d+"/sub"]) and .mount_point == $d+"/fs1"'
mount_at "$b/sub/dir" "$dir/subdir" --bind
probe "$dir/subdir"
expect '.volumes[0] | .name == $d+"/sub" and .root_inode == 256 and .why_not == null'

note "what lies on an image is frozen before the file system the image lies on, however deep either is mounted"
mkdir -p "$dir/deep/er/and/deeper"
new_fs host ext4 200M
mount --move "$host" "$dir/deep/er"
host=$dir/deep/er
cleanup_fn umount "$host"
make_image "$host/outer.img" 100M
mount_at "$host/outer.img" "$dir/outer" -o loop
make_image "$dir/outer/inner.img" 40M
mount_at "$dir/outer/inner.img" "$host/inner" -o loop
make_image "$host/other.img" 20M
mount_at "$host/other.img" "$dir/other" -o loop
probe "$host" "$dir/outer" "$host/inner" "$dir/other"
expect '[.volumes[].level] | .[2] > .[1] and .[1] > .[0] and .[3] > .[0]'
expect '.collisions == ["0-1", "0-2", "0-3", "1-2"]'
expect '.stalls == []'
probe "$dir/outer"
expect '.stalls == [$d+"/deep/er/inner stalls with "+$d+"/outer"]'
probe "$host"
expect '(.stalls | length) == 3'
note "of two on one level the inner mount is frozen first"
new_fs inner ext4 20M
mkdir "$a/nested"
mount --move "$inner" "$a/nested"
cleanup_fn umount "$a/nested"
probe "$a" "$a/nested"
expect '.volumes[1].level > .volumes[0].level and .collisions == []'

note "--nested takes what a provider could take, and says what it left out"
mkdir -p "$a/tmp" "$a/over" "$a/proc" "$a/fat" "$a/covered"
mount_at none "$a/tmp" -t tmpfs
mount_at proc "$a/proc" -t proc
mkdir -p "$dir/layers/"{low,up,work}
mount_at overlay "$a/over" -t overlay -o "lowerdir=$dir/layers/low,upperdir=$dir/layers/up,workdir=$dir/layers/work"
: >"$a/file" && : >"$dir/some-file"
mount --bind "$dir/some-file" "$a/file"
cleanup_fn umount "$a/file"
mount_at "$host/inner" "$a/covered" --bind
mount_at none "$a/covered" -t tmpfs
probe --nested "$a"
expect '[.volumes[].name] == [$d+"/fs0", $d+"/fs0/nested"]'
expect '[.left_out[] | split(": ")[0] | ltrimstr($d+"/fs0/")] | sort == ["covered", "file", "over", "tmp"]'
expect 'any(.left_out[]; test("/tmp: it lives in memory"))'
probe "$a"
expect '(.volumes | length) == 1 and .left_out == []'
probe --nested "$a/some"
expect '(.volumes | length) == 1'

note "places that hold nothing to copy say why"
probe "$a/tmp" /proc "$a/over" /sys
expect '[.volumes[].why_not] | .[0] == "it lives in memory and on no disk" and (.[1] | test("kernel")) and (.[2] | test("layer"))'
expect 'all(.volumes[]; .can_hold == false)'

note "names that lead nowhere, and links"
ln -s "$a" "$dir/link"
ln -s /nonexistent "$dir/dangling"
ln -s circle "$dir/circle"
probe "$dir/link" "$dir/dangling" "$dir/missing" "$dir/circle" "$a/file/x" relative a/b '' '/bad\q' /proc/self/root "/$(printf 'x%.0s' {1..5000})"
expect '.volumes[0].name == $d+"/fs0" and .volumes[0].argument == $d+"/link"'
expect '[.paths[] | .exit_code] == [null, 4, 4, 4, 4, 4, 2, 2, 2, 4, 2]'
expect '.paths[2].message == $d+"/missing does not exist"'
note "a component that does not exist yet counts where it would be made"
probe "--component=$a/not/yet/there" "--component=/nonexistent/x"
expect '.volumes[0].name == $d+"/fs0" and .volumes[0].argument == null and .volumes[1].name == "/"'

note "bytes that are no text travel escaped, there and back"
odd=$dir/$'odd \\ \xff\n'
mkdir "$odd"
make_image "$dir/odd.img" 20M
mount_at "$dir/odd.img" "$odd" -o loop
probe "$dir/odd \\x5c \\xff\\x0a"
expect '.volumes[0].name == $d+"/odd \\x5c \\xff\\x0a"'

note "an unprivileged caller learns only what he may see; components are looked up with our own rights"
chmod 755 "$dir"
mkdir -m 700 "$a/secret"
mkdir -p "$a/secret/there"
nobody=$(id -u nobody)
probe "--uid=$nobody" "$a" "$a/secret/there" "$a/secret/missing" "--component=$a/secret/there"
expect '[.paths[] | .exit_code] == [null, 3, 3, null]'
mkdir -m 750 "$a/group"
mkdir "$a/group/x"
chgrp daemon "$a/group"
probe "--uid=$(id -u daemon)" "$a/group/x"
expect '.paths[0].volume == 0'
probe "--uid=$nobody" "$a/group/x"
expect '.paths[0].exit_code == 3'

note "raw devices"
truncate -s 20M "$dir/raw.img"
raw=$(losetup --find --show "$dir/raw.img")
cleanup_fn losetup -d "$raw"
probe "$raw"
expect ".volumes[0] | .kind == \"block\" and .name == \"$raw\" and .size == 20971520 and .why_not == null and .can_hold == false"

note "a file system on two devices: a btrfs is one volume, an ext4 with a journal elsewhere cannot be taken"
truncate -s 128M "$dir/m1.img" "$dir/m2.img"
m1=$(losetup --find --show "$dir/m1.img") && cleanup_fn losetup -d "$m1"
m2=$(losetup --find --show "$dir/m2.img") && cleanup_fn losetup -d "$m2"
mkfs.btrfs -q -f "$m1" "$m2" >/dev/null
btrfs device scan "$m1" "$m2" >/dev/null
mount_at "$m1" "$dir/multi"
probe "$m2" "$dir/multi"
expect '(.volumes | length) == 1 and .volumes[0].name == $d+"/multi" and .volumes[0].why_not == null'
expect '.volumes[0].keys | length == 3'
truncate -s 20M "$dir/journal.img" "$dir/data.img"
j=$(losetup --find --show "$dir/journal.img") && cleanup_fn losetup -d "$j"
e=$(losetup --find --show "$dir/data.img") && cleanup_fn losetup -d "$e"
mke2fs -q -F -b 4096 -O journal_dev "$j"
mkfs.ext4 -q -F -b 4096 -J "device=$j" "$e"
mount_at "$e" "$dir/journaled"
probe "$dir/journaled"
expect '.volumes[0] | (.why_not | test("also on /dev/loop")) and (.keys | length) == 2'
truncate -s 300M "$dir/xlog.img"
l=$(losetup --find --show "$dir/xlog.img") && cleanup_fn losetup -d "$l"
truncate -s 300M "$dir/xdata.img"
xd=$(losetup --find --show "$dir/xdata.img") && cleanup_fn losetup -d "$xd"
mkfs.xfs -q -f -l "logdev=$l,size=64m" "$xd"
mount_at "$xd" "$dir/xlogged" -o "logdev=$l"
probe "$dir/xlogged" "$l"
expect ".volumes[0] | (.why_not | test(\"also on $l\")) and (.keys | length) == 2"
expect ".volumes[1] | .kind == \"block\" and (.why_not | test(\"lies on it\"))"
expect '.collisions == ["0-1"]'

note "an image without a name still has a file system below"
make_image "$host/unnamed.img" 20M
mount_at "$host/unnamed.img" "$dir/unnamed" -o loop
rm "$host/unnamed.img"
probe "$host" "$dir/unnamed"
expect '.volumes[1].level > .volumes[0].level and .volumes[1].why_not == null and any(.collisions[]; . == "0-1")'

note "what a process serves is frozen before everything else, and only one of them is taken at a time"
serve() { # NAME: a FUSE file system with one file that nbdkit answers for
        mkdir "$dir/$1"
        nbdkit --foreground --unix "$dir/$1.socket" memory 40M &
        cleanup_fn stop_process $!
        wait_until 10 test -S "$dir/$1.socket"
        nbdfuse "$dir/$1/disk" --unix "$dir/$1.socket" &
        server=$!
        cleanup_fn stop_process "$server"
        wait_until 10 test -e "$dir/$1/disk"
        mkfs.ext4 -q -F "$dir/$1/disk"
        mount_at "$dir/$1/disk" "$dir/$1.fs" -o loop
}
serve fuse1
serve fuse2
probe "$dir/fuse1" "$dir/fuse1.fs" "$host/inner" "$dir/fuse2.fs"
expect '.volumes[0] | .fs_type == "fuse" and (.why_not | test("served by a process"))'
expect '.volumes[1] | .why_not == null and .can_hold'
expect '.volumes[1].level > .volumes[2].level'
expect '.volumes[3].why_not | test("two sets")'

note "a server that does not answer costs five seconds, names the path, and nobody else waits for it"
kill -STOP "$server"
start=$SECONDS
probe "$dir/fuse2"
expect '.volumes[0].why_not | test("served by a process")'
[ $((SECONDS - start)) -le 2 ] || die "a mount that does not answer was asked"
status=0
(sleep 2 && grep -h '^CapPrm\|^NoNewPrivs' /proc/"$(pgrep -n -x vss-probe)"/status >"$dir/powers") &
probe "$dir/fuse2/missing" 2>"$dir/error" || status=$?
took=$((SECONDS - start))
kill -CONT "$server"
[ $status -eq 1 ] || die "a path that hangs did not fail the question"
grep -q "$dir/fuse2/missing took longer than 5 s" "$dir/error" || die "no deadline: $(cat "$dir/error")"
[ $took -le 8 ] || die "the deadline took $took s"
grep -q '^CapPrm:[[:space:]]*00000000000000c4$' "$dir/powers" || die "vss-probe may do more than look: $(cat "$dir/powers")"
grep -q '^NoNewPrivs:[[:space:]]*1$' "$dir/powers" || die "vss-probe may get new powers"
probe "$a"

note "while a path is swapped between two volumes, facts and descriptor always belong together"
: >"$a/marker"
ln -sfn "$a" "$dir/swap"
(while :; do ln -sfn "$x" "$dir/swap.new" && mv -T "$dir/swap.new" "$dir/swap" && ln -sfn "$a" "$dir/swap.new" && mv -T "$dir/swap.new" "$dir/swap"; done) &
swapper=$!
seen_a=0 seen_x=0
for _ in {1..40}; do
        probe "$dir/swap"
        case $(jq -r '"\(.volumes[0].fs_type) \(.volumes[0].marker)"' <"$dir/answer") in
        "ext4 true") seen_a=1 ;;
        "xfs false") seen_x=1 ;;
        *) die "facts of one volume with the descriptor of another: $(cat "$dir/answer")" ;;
        esac
done
kill "$swapper"
wait "$swapper" 2>/dev/null || :
[ $seen_a$seen_x = 11 ] || die "the race never happened: $seen_a$seen_x"

note "the same while something is mounted over it and taken away"
(while :; do mount -t tmpfs none "$x" && umount -l "$x"; done) &
swapper=$!
for _ in {1..40}; do
        probe "$x"
        expect '.paths[0].exit_code == 8 or .volumes[0].fs_type == "tmpfs" or
                (.volumes[0].fs_type == "xfs" and .volumes[0].root_inode == 128)'
done
kill "$swapper"
wait "$swapper" 2>/dev/null || :
while [ "$(findmnt -no FSTYPE "$x" | tail -n1)" = tmpfs ]; do umount -l "$x"; done

note "all local volumes"
probe --list
expect 'any(.volumes[]; .name == $d+"/fs0") and any(.volumes[]; .name == $d+"/sub" and .kind == "subvolume")'
expect 'all(.volumes[]; .fs_type != "tmpfs" and .fs_type != "proc" and .fs_type != "overlay")'
expect '([.volumes[] | [.superblock, .subvolume]] | length) == ([.volumes[] | [.superblock, .subvolume]] | unique | length)'
