#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The file system that is held carries vssd's own state, its programs and the socket of the bus; and, in a second set that
# runs at the same time, vssd has to record something while the first one holds that file system.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4
watchdog 180

new_fs own ext4 1G
new_fs other ext4 64M
mkdir -p "$own/build" "$own/state"
for part in daemon providers; do
        [ -d "$VSS_BUILD/$part" ] || continue
        mkdir "$own/build/$part"
        find "$VSS_BUILD/$part" -maxdepth 1 -type f -perm -u+x -exec cp -t "$own/build/$part" {} +
done
VSSD=$own/build/daemon/vssd
[ -x "$VSSD" ] || die "no vssd in $VSS_BUILD/daemon"

start_bus
kill "$BUS_PID"
wait_until 5 bash -c "! kill -0 $BUS_PID"
sed -i "s|unix:path=[^<]*|unix:path=$own/bus|" "$VSS_TEST_DIR/bus.conf"
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$own/bus STATE_DIRECTORY=$own/state
dbus-daemon --config-file="$VSS_TEST_DIR/bus.conf" --nofork --nopidfile --nosyslog 2>>"$VSS_TEST_DIR/log/bus.log" &
BUS_PID=$!
cleanup_fn stop_process "$BUS_PID"
wait_until 10 bus_call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus GetId >/dev/null

start_vssd
cleanup_fn stop_process "$VSSD_PID"
testwriter --name=probe --volume="$own"
note "its own state, programs and bus"
for _ in {1..10}; do
        vssctl --json create --provider=null "$own" >"$VSS_TEST_DIR/set.json" || die "$(cat "$VSS_TEST_DIR/set.json")"
        hold=$(json .timing.hold_usec <"$VSS_TEST_DIR/set.json")
        [ "$hold" -lt 3000000 ] || die "the hold took $hold us"
done
must_write 2 "$own"
stop_vssd

note "two sets at once, the catalogue on the held one"
VSS_FAULT=commit:delay=1500 start_vssd
for _ in 1 2 3; do
        hold_set "$own"
        vssctl --json create --provider=null "$other" >"$VSS_TEST_DIR/other.json" || die "$(cat "$VSS_TEST_DIR/other.json")"
        wait_set || die "the first set failed: $(cat "$SET_OUT")"
        hold=$(json .timing.hold_usec <"$SET_OUT")
        [ "$hold" -lt 4000000 ] || die "the second set stretched the hold of the first to $hold us"
        kill "$PROBE_PID" 2>/dev/null || :
done
must_write 2 "$own"
