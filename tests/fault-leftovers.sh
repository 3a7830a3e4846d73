#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the next start finds: lists of guards that are gone, written by hand here, good ones and bad ones. Whatever a list
# looks like, what it says is held gets thawed, and what it does not say stays as it is.
. "$(dirname "$0")/functions.sh"
requires fsfreeze flock
watchdog 60

guard=$VSS_BUILD/daemon/vss-guard
run=$VSS_TEST_DIR/run
held=$run/held
leftovers() { "$guard" --release-leftovers --runtime-directory="$run" 2>"$VSS_TEST_DIR/err"; }
dev_of() { stat -c '%Hd:%Ld' "$1"; }
not_frozen() { ! is_frozen "$1"; }
id() { printf '00000000-0000-4000-8000-%012d' "$1"; }
pids() { printf 'guard 4194301 1\nguard 4194302 1\n'; }

expect_exit 0 "$guard" --help >/dev/null
expect_exit 0 "$guard" --version >/dev/null
expect_exit 2 "$guard" 2>/dev/null
expect_exit 2 "$guard" --release-leftovers 2>/dev/null
expect_exit 2 "$guard" --release-leftovers --runtime-directory=relative 2>/dev/null
expect_exit 2 "$guard" --socket-fd=1 --runtime-directory=/run 2>/dev/null
expect_exit 2 "$guard" --release-leftovers --runtime-directory=/run stray 2>/dev/null

# nothing has ever been held
mkdir "$run"
expect_exit 0 leftovers
mkdir -m 0700 "$held"
expect_exit 0 leftovers

new_fs a ext4 24M
new_fs b ext4 24M
new_fs c ext4 24M

# a mount point with a space and a backslash; one held, one only listed
odd=$VSS_TEST_DIR/'odd \ name'
mkdir "$odd"
umount "$a"
mount -o loop "$a_img" "$odd"
cleanup_fn umount "$odd"
cleanup_fn fsfreeze -u "$b"
printf 'h %s %s\n- %s %s\n' "$(dev_of "$odd")" "${odd//' \ '/'\040\134\040'}" "$(dev_of "$b")" "$b" >"$held/$(id 1)"
pids >>"$held/$(id 1)"
fsfreeze -f "$odd"
fsfreeze -f "$b"
expect_exit 0 leftovers
grep -qF "thawed $odd" "$VSS_TEST_DIR/err" || die "it does not say what it thawed: $(cat "$VSS_TEST_DIR/err")"
expect_exit 1 fsfreeze -u "$odd" 2>/dev/null
expect_exit 0 fsfreeze -u "$b"
[ ! -e "$held/$(id 1)" ] || die "the list is still there"

# moved since: found by its device
fsfreeze -f "$c"
printf 'h %s /nowhere\n' "$(dev_of "$c")" >"$held/$(id 2)"
expect_exit 0 leftovers
expect_exit 1 fsfreeze -u "$c" 2>/dev/null

# damaged in the middle, cut off at the end, no processes named
fsfreeze -f "$b"
fsfreeze -f "$c"
printf 'h %s %s\nnonsense\nh 1\nh %s %s' "$(dev_of "$b")" "$b" "$(dev_of "$c")" "$c" >"$held/$(id 3)"
expect_exit 0 leftovers
expect_exit 1 fsfreeze -u "$b" 2>/dev/null
expect_exit 1 fsfreeze -u "$c" 2>/dev/null

# not mounted any more, empty, not a list at all
printf 'h 250:77 /gone\n' >"$held/$(id 4)"
: >"$held/$(id 5)"
echo keep >"$held/README"
ln -s /etc/passwd "$held/$(id 6)"
expect_exit 1 leftovers
[ ! -e "$held/$(id 4)" ] && [ ! -e "$held/$(id 5)" ] || die "lists that are done were not removed"
[ -e "$held/README" ] && [ -L "$held/$(id 6)" ] || die "something that is no list was removed"
rm "$held/$(id 6)"

# covered by another mount: it cannot be reached, and that must not pass for thawed
fsfreeze -f "$b"
mount -t tmpfs none "$b"
printf 'h %s %s\n' "$(stat -c '%t:%T' "$b_dev" | { IFS=: read -r x y; echo $((16#$x)):$((16#$y)); })" "$b" >"$held/$(id 7)"
expect_exit 1 leftovers
grep -qF "$b" "$VSS_TEST_DIR/err" || die "it does not say what may be frozen"
[ -e "$held/$(id 7)" ] || die "the list is gone but the file system is frozen"
umount "$b"
expect_exit 0 leftovers
expect_exit 1 fsfreeze -u "$b" 2>/dev/null

# locked, and by a process that lives: a guard that knows what it does
sleep 60 &
sleeper=$!
fsfreeze -f "$c"
printf 'h %s %s\nguard %s %s\n' "$(dev_of "$c")" "$c" $sleeper "$(awk '{ print $22 }' /proc/$sleeper/stat)" >"$held/$(id 8)"
exec {lock}<"$held/$(id 8)"
flock -x $lock
expect_exit 0 leftovers
expect_exit 0 fsfreeze -u "$c"

# locked, but whoever is named there is another process by now: as dead as can be, so it waits for the lock
sed -i 's/^guard .*/guard 1 12345678901/' "$held/$(id 8)"
exec {lock}<"$held/$(id 8)"
flock -x $lock
fsfreeze -f "$c"
leftovers {lock}<&- &
waiting=$!
wait_until 5 not_frozen "$c" || die "it does not thaw what a dying guard holds"
kill -0 $waiting || die "it did not wait for the lock"
exec {lock}<&-
expect_exit 0 wait $waiting
[ ! -e "$held/$(id 8)" ] || die "the list is still there"
kill $sleeper
