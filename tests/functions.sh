# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Sourced first by every shell test:
#
#       #!/bin/bash
#       # SPDX-License-Identifier: LGPL-2.1-or-later
#       # What this shows.
#       . "$(dirname "$0")/functions.sh"
#       requires mkfs.ext4
#       new_fs data ext4 64M
#       start_bus
#       start_vssd
#       expect_exit 0 vssctl create "$data"
#
# The test runs again from its top inside the sandbox (tests/support-sandbox.c): mount and PID namespaces of its own, a
# keeper outside that thaws and ends everything when the deadline passes. Clean-ups run in reverse order whatever happens;
# a process, a mount or a loop device that is left then makes the test fail. errexit, nounset and pipefail are on.
#
# VSS_TEST_DIR  the test's own directory (tmpfs)         VSS_BUILD, VSS_SOURCE  build directory and tree
# VSSD_WRAPPER, WRITER_WRAPPER  put before vssd and writers, e.g. "valgrind …"
# VSS_TEST_SECONDS  deadline if the test sets none (default 120)

set -euo pipefail

VSS_SOURCE=${VSS_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
VSS_BUILD=${VSS_BUILD:-$VSS_SOURCE/build}
export VSS_SOURCE VSS_BUILD LC_ALL=C

if [ -z "${VSS_TEST_DIR:-}" ]; then
        if [ ! -x "$VSS_BUILD/tests/sandbox" ]; then
                echo "$VSS_BUILD/tests/sandbox is missing: build first, or say where with VSS_BUILD" >&2
                exit 1
        fi
        exec "$VSS_BUILD/tests/sandbox" "${VSS_TEST_SECONDS:-120}" bash "$0" "$@"
fi

# shellcheck source=tests/assertions.sh
. "$VSS_SOURCE/tests/assertions.sh"

# ---- clean-up ----------------------------------------------------------------------------------------------------

# Every process of the sandbox but init, ourselves and what we run right now.
_left_running() {
        local p
        for p in /proc/[0-9]*; do
                case ${p#/proc/} in 1 | "$$" | "$BASHPID") continue ;; esac
                # zombies are init's to collect
                grep -q '^State:.[ZX]' "$p/status" 2>/dev/null && continue
                [ -e "$p" ] && printf '%s %s\n' "${p#/proc/}" "$(tr '\0' ' ' <"$p/cmdline" 2>/dev/null | cut -c1-200)"
        done
        return 0
}

_finish() {
        local status=$? i left=x
        trap - EXIT
        trap '' TERM INT HUP
        set +e
        for ((i = ${#_cleanups[@]} - 1; i >= 0; i--)); do eval "${_cleanups[i]}"; done
        for i in {1..60}; do
                left=$(_left_running)
                [ -z "$left" ] && break
                sleep 0.05
        done
        if [ -n "$left" ]; then
                echo "left running:" >&2
                echo "$left" >&2
                [ $status -ne 0 ] || status=1
        fi
        if [ $status -ne 0 ] && [ $status -ne 77 ]; then
                for i in "$VSS_TEST_DIR"/log/*.log; do
                        [ -s "$i" ] || continue
                        echo "---- last lines of ${i##*/}" >&2
                        tail -n 60 "$i" >&2
                done
        fi
        exit $status
}
trap _finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'echo "FAILED at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
mkdir -p "$VSS_TEST_DIR/log"

# watchdog SECONDS: from now on; then every file system of the test is thawed and the test ended
watchdog() { echo "$1" >"$VSS_TEST_DIR/.deadline"; }

# ---- file systems ------------------------------------------------------------------------------------------------

_fs_count=0

# new_fs VAR TYPE SIZE [MOUNT-OPTIONS]: makes, mounts; VAR becomes the mount point, VAR_dev the loop device, VAR_img the
# image. SIZE as for truncate; xfs needs 300M, btrfs 128M. The device detaches itself with the last mount.
new_fs() {
        local var=$1 type=$2 size=$3 options=${4:-defaults} mnt img dev
        mnt=$VSS_TEST_DIR/fs$_fs_count
        img=${VSS_IMAGE_DIR:-$VSS_TEST_DIR}/fs$_fs_count.img
        _fs_count=$((_fs_count + 1))
        truncate -s "$size" "$img"
        case $type in
        ext4) mkfs.ext4 -q -F "$img" ;;
        xfs) mkfs.xfs -q -f "$img" ;;
        btrfs) mkfs.btrfs -q -f "$img" >/dev/null ;;
        *) die "new_fs: unknown type $type" ;;
        esac
        mkdir "$mnt"
        dev=$(losetup --find --show "$img")
        mount -t "$type" -o "$options" "$dev" "$mnt" || { losetup -d "$dev"; die "cannot mount $img"; }
        losetup -d "$dev" # from now on: with the last user
        cleanup_fn drop_fs "$mnt" "$img"
        printf -v "$var" %s "$mnt"
        printf -v "${var}_dev" %s "$dev"
        printf -v "${var}_img" %s "$img"
}

drop_fs() {
        local i
        fsfreeze -u "$1" 2>/dev/null
        for i in {1..100}; do
                mountpoint -q "$1" || break
                umount -R "$1" 2>/dev/null || sleep 0.05
        done
        if mountpoint -q "$1"; then
                echo "cannot unmount $1" >&2
                fuser -vm "$1" >&2 2>/dev/null || :
        fi
        rm -f "$2"
}

# ---- bus and service ---------------------------------------------------------------------------------------------

# start_bus: a dbus-daemon with our policy, and the directories of the service, all below VSS_TEST_DIR
start_bus() {
        local policy=/nonexistent default=allow p
        for p in "$VSS_BUILD" "$VSS_SOURCE"; do
                [ -r "$p/units/org.vssd.Vss1.conf" ] && policy=$p/units/org.vssd.Vss1.conf default=deny && break
        done
        sed "s|@DIRECTORY@|$VSS_TEST_DIR|; s|@POLICY@|$policy|; s|@DEFAULT@|$default|" \
                "$VSS_SOURCE/tests/private-bus.conf.in" >"$VSS_TEST_DIR/bus.conf"
        export STATE_DIRECTORY=$VSS_TEST_DIR/state RUNTIME_DIRECTORY=$VSS_TEST_DIR/run
        export CONFIGURATION_DIRECTORY=$VSS_TEST_DIR/etc LOGS_DIRECTORY=$VSS_TEST_DIR/log
        export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$VSS_TEST_DIR/bus
        mkdir -p "$STATE_DIRECTORY" "$RUNTIME_DIRECTORY" "$CONFIGURATION_DIRECTORY/writers.d"
        dbus-daemon --config-file="$VSS_TEST_DIR/bus.conf" --nofork --nopidfile --nosyslog 2>>"$VSS_TEST_DIR/log/bus.log" &
        BUS_PID=$!
        cleanup_fn stop_engines
        cleanup_fn stop_process "$BUS_PID"
        wait_until 10 bus_call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus GetId >/dev/null ||
                die "the private bus did not come up"
}

# bus_call SERVICE PATH INTERFACE MEMBER [SIGNATURE ARGUMENT…]
bus_call() { busctl --timeout=5 call "$@"; }

_vssd_answers() {
        kill -0 "$VSSD_PID" 2>/dev/null || return 0 # the caller sees that
        [ "$(bus_call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus NameHasOwner s org.vssd.Vss1)" = "b true" ]
}

# start_vssd [ARGUMENT…]: VSSD_PID; the log is in VSS_TEST_DIR/log/vssd.log
start_vssd() {
        # shellcheck disable=SC2086
        ${VSSD_WRAPPER:-} "${VSSD:-$VSS_BUILD/daemon/vssd}" "$@" >>"$VSS_TEST_DIR/log/vssd.log" 2>&1 &
        VSSD_PID=$!
        cleanup_fn stop_process "$VSSD_PID"
        wait_until 30 _vssd_answers || die "vssd did not take its bus name"
        kill -0 "$VSSD_PID" 2>/dev/null || die "vssd ended at once"
}

# stop_vssd: on SIGTERM it must end with status 0
stop_vssd() {
        local status=0
        kill -TERM "$VSSD_PID"
        timeout 30 tail --pid="$VSSD_PID" -f /dev/null || die "vssd does not end on SIGTERM"
        wait "$VSSD_PID" || status=$?
        # 127: started by the shell above this one, whose child it is
        [ $status -eq 127 ] || [ $status -eq 0 ] || die "vssd ended with $status"
}

# stop_engines: ends the vss-cow of every store, which outlive vssd on purpose; what is on their devices must be unmounted
stop_engines() {
        [ ! -d "${RUNTIME_DIRECTORY:?}/cow" ] || "$VSS_SOURCE/tests/cow-control" --end "$RUNTIME_DIRECTORY/cow"
}

# engine_area VAR: a directory for origins and stores, which must not lie on tmpfs. Before start_bus, which ends what uses it
engine_area() {
        local path
        [ -e /dev/fuse ] || skip "there is no FUSE"
        path=$(mktemp -d /var/tmp/vss-XXXXXX)
        [ "$(stat -f -c %T "$path")" != tmpfs ] || { rmdir "$path"; skip "/var/tmp is a tmpfs"; }
        cleanup_fn rm -rf --one-file-system "$path"
        printf -v "$1" %s "$path"
}

# start_writer COMMAND…: waits for its "ready" line; WRITER_PID, its output is in WRITER_LOG
start_writer() {
        WRITER_LOG=$VSS_TEST_DIR/log/writer$((_writer_count += 1)).log
        : >"$WRITER_LOG" # a case before may have left one, with its own "ready"
        # shellcheck disable=SC2086
        ${WRITER_WRAPPER:-} "$@" >"$WRITER_LOG" 2>"${WRITER_LOG%.log}.stderr.log" &
        WRITER_PID=$!
        cleanup_fn stop_process "$WRITER_PID"
        _writer_ready() { kill -0 "$WRITER_PID" 2>/dev/null || return 0; grep -q '^ready ' "$WRITER_LOG"; }
        wait_until 30 _writer_ready || die "$1 did not get ready"
        kill -0 "$WRITER_PID" 2>/dev/null || die "$* ended at once"
}
_writer_count=0

vssctl() { "$VSS_BUILD/client/vssctl" "$@"; }
testwriter() { start_writer "$VSS_BUILD/writers/vss-testwriter" "$@"; }
sqlite_writer() { start_writer "$VSS_BUILD/writers/vss-writer-sqlite" "$@"; }
