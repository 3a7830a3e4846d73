#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A file system on an image file, in one set with the file system its image lies on: frozen in the wrong order, the upper
# one waits for write-back through the lower one for ever.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4
watchdog 180

new_fs lower ext4 512M
VSS_IMAGE_DIR=$lower new_fs upper ext4 128M
VSS_IMAGE_DIR=$upper new_fs top ext4 32M
start_bus
start_vssd
/usr/bin/python3 - "$lower" "$upper" "$top" <<-'EOF_LOAD' &
	import os, sys, threading, time
	def load(d):
	    n = 0
	    while True:
	        with open(f"{d}/load", "r+b" if n else "wb") as f:
	            f.seek(n % 256 * 4096)
	            f.write(os.urandom(4096))
	        n += 1
	        time.sleep(0.002)
	for d in sys.argv[1:]:
	    threading.Thread(target=load, args=(d,), daemon=True).start()
	time.sleep(600)
EOF_LOAD
cleanup_fn stop_process $!
sleep 0.5
for order in "$lower $upper $top" "$top $upper $lower" "$upper $lower $top"; do
        for _ in {1..5}; do
                # shellcheck disable=SC2086
                vssctl --json create --provider=null $order >"$VSS_TEST_DIR/set.json" || die "$order: $(cat "$VSS_TEST_DIR/set.json")"
                hold=$(json .timing.hold_usec <"$VSS_TEST_DIR/set.json")
                [ "$hold" -lt 5000000 ] || die "$order: the hold took $hold us"
        done
done
note "only the lower one: the upper ones stall with it and go on"
expect_exit 0 vssctl --json create --provider=null "$lower" >/dev/null
for d in "$lower" "$upper" "$top"; do must_write 5 "$d"; done
