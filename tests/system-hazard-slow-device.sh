#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# 250 MiB are dirty and the device writes 10 MB/s: FIFREEZE would stand inside the kernel for 25 s. The set ends with 6
# before any writer or file system stands still.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4 nbdkit nbdfuse
watchdog 180

# bits per second; from the beginning, because what was saved up at a higher rate would be spent first
echo 80M >"$VSS_TEST_DIR/rate"
mkdir "$VSS_TEST_DIR/fuse" "$VSS_TEST_DIR/slow"
nbdkit --foreground --unix "$VSS_TEST_DIR/nbd" --filter=rate memory size=2G rate=80M rate-file="$VSS_TEST_DIR/rate" &
cleanup_fn stop_process $!
wait_until 10 test -S "$VSS_TEST_DIR/nbd"
nbdfuse "$VSS_TEST_DIR/fuse/disk" --unix "$VSS_TEST_DIR/nbd" &
cleanup_fn stop_process $!
wait_until 10 test -e "$VSS_TEST_DIR/fuse/disk"
dev=$(losetup --find --show "$VSS_TEST_DIR/fuse/disk")
mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$dev"
mount "$dev" "$VSS_TEST_DIR/slow"
losetup -d "$dev"
faster_and_gone() {
        echo 10G >"$VSS_TEST_DIR/rate"
        wait_until 60 umount "$VSS_TEST_DIR/slow"
        wait_until 10 umount "$VSS_TEST_DIR/fuse"
}
cleanup_fn faster_and_gone

start_bus
configure Timeouts hold=2 pre_flush=4
start_vssd
testwriter --name=probe --volume="$VSS_TEST_DIR/slow"

dd if=/dev/zero of="$VSS_TEST_DIR/slow/big" bs=1M count=250 status=none
started=$SECONDS
expect_exit 6 vssctl --json create --provider=null "$VSS_TEST_DIR/slow"
[ $((SECONDS - started)) -le 15 ] || die "it took $((SECONDS - started)) s to find out"
if grep -q '^event probe freeze ' "$WRITER_LOG"; then die "a writer was frozen although the flush was too slow"; fi
# the write itself may take its time on such a device; what it must not do is wait for the end of a freeze
probe_write "$VSS_TEST_DIR/slow"
for _ in {1..20}; do
        probe_waits && die "writes to the slow volume stand still"
        sleep 0.1
done
kill "$PROBE_PID" 2>/dev/null || :
note "refused after $((SECONDS - started)) s, nobody stood still"
