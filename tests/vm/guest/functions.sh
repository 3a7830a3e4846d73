# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Sourced first by every guest test. A guest test is guest/NAME.sh, run as root by tests/vm/run inside a virtual machine that has
# booted with systemd; 0 is a pass, 77 with the reason on the last line a skip. Lines in its head steer the host:
#
#       # kernel: 6.12          which kernels it runs on, "6.1 6.12" for both (default 6.12)
#       # disks: 512M 512M      empty disks, seen as $d0, $d1, …
#       # seconds: 300          for the test itself, each boot (default 120)
#       # boots: 2              how often the machine starts at most: vm-next-boot cuts it off, see there (default 1)
#                               `vm-host without d1` takes a disk away from the next boot on, `vm-host with d1` gives it back
#       # root: ext4            / is ext4 on a disk, with /var/log/journal, and lives through the boots (default: a tmpfs over
#                               a read-only root, new at each boot)
#       # start: boot           the machine boots for it; else its first start goes on from one that was saved when it had booted
#       # known: WHY            it is known to fail, or not known to pass: skipped with this reason unless it is named
#       # long: 6.1             on these kernels only with --long, or named: more than a whole run has time for
#       # programs: cow-verify  what it needs from $VSS_BUILD/tests or tests/
#
# VM_BOOT  number of this boot, from 1     VM_SEED  of the run, for what is left to chance     VM_LONG  1: as long as it likes
# VSS_TEST_DIR  a directory in /run        d0 d1 …  the disks
#
# The words of tests/assertions.sh, tests/hazards.sh and tests/rows.sh are here too. The service is vssd.service, started as a user
# would; its configuration is in $CONFIGURATION_DIRECTORY. errexit, nounset and pipefail are on. Nothing has to be cleaned
# up: the machine is thrown away. Not even what is frozen; but a test that ends has its logs brought home.

set -euo pipefail
export LC_ALL=C VSS_TEST_DIR=/run/vss-test CONFIGURATION_DIRECTORY=/etc/vss RUNTIME_DIRECTORY=/run/vss
mkdir -p $VSS_TEST_DIR/log $CONFIGURATION_DIRECTORY/writers.d
# shellcheck source=tests/assertions.sh
. /usr/lib/vss-vm/assertions.sh
# shellcheck source=tests/hazards.sh
. /usr/lib/vss-vm/hazards.sh
# shellcheck source=tests/rows.sh
. /usr/lib/vss-vm/rows.sh

# What a test waits for needs the processor more than the waiting: a longer step, and no process for it.
exec {_silence}<> <(:)
wait_step() { read -r -t 0.1 <&$_silence || :; }
note() { echo "# $SECONDS s: $*" >&2; }

for _disk in /dev/disk/by-id/virtio-d[0-9]*; do
        case $_disk in *[*]* | *-part*) ;; *) declare "${_disk##*-}=$_disk" ;; esac
done

_finish() {
        local status=$? i
        trap - EXIT
        set +e
        for ((i = ${#_cleanups[@]} - 1; i >= 0; i--)); do eval "${_cleanups[i]}"; done
        if [ $status -ne 0 ] && [ $status -ne 77 ]; then
                for i in "$VSS_TEST_DIR"/log/*.log; do
                        [ -s "$i" ] || continue
                        echo "---- last lines of ${i##*/}" >&2
                        tail -n 60 "$i" >&2
                done
                echo "---- last lines of vssd in the journal" >&2
                timeout 20 journalctl --no-pager -n 40 -o cat -u vssd >&2
        fi
        exit $status
}
trap _finish EXIT
trap 'echo "FAILED at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR

# new_fs VAR TYPE DISK [MOUNT-OPTIONS]: makes, mounts; VAR becomes the mount point, VAR_dev the device
new_fs() {
        local mnt=/mnt/$1
        case $2 in
        ext4) mkfs.ext4 -q -F "$3" ;;
        xfs) mkfs.xfs -q -f "$3" ;;
        btrfs) mkfs.btrfs -q -f "$3" >/dev/null ;;
        *) die "new_fs: unknown type $2" ;;
        esac
        mkdir -p "$mnt"
        mount -t "$2" -o "${4:-defaults}" "$3" "$mnt"
        printf -v "$1" %s "$mnt"
        printf -v "$1_dev" %s "$(readlink -f "$3")"
}

# service_environment UNIT KEY=VALUE…: in its environment from its next start on, which is the caller's to cause
service_environment() {
        local unit=$1
        shift
        mkdir -p "/run/systemd/system/$unit.d"
        {
                echo "[Service]"
                printf 'Environment=%s\n' "$@"
        } >"/run/systemd/system/$unit.d/test.conf"
        systemctl daemon-reload
}

# is_active UNIT, is_inactive UNIT: for wait_until
is_active() { [ "$(systemctl is-active "$1")" = active ]; }
is_inactive() { [ "$(systemctl is-active "$1")" = inactive ]; }

# count_writes MOUNT-POINT: a process that goes on writing there, one file each time, for writes to count. It notes when each was
# done: the first after a moment at which it stood still is the one that went on.
count_writes() {
        local notes=$VSS_TEST_DIR/writes-${1//\//-}
        : >"$notes.done"
        (
                for ((n = 1; ; n++)); do
                        echo $n >"$1/written"
                        echo "${EPOCHREALTIME/./}" >>"$notes.done"
                        echo $n >"$notes"
                        sleep 0.05
                done
        ) &
        cleanup_fn stop_process $!
        declare -g "_writer_of${1//[^a-z0-9]/_}=$!"
        wait_until 30 test -s "$notes"
}
writes() { cat "$VSS_TEST_DIR/writes-${1//\//-}"; }

# stands_still MOUNT-POINT: its writer waits where the kernel makes it wait for the end of a freeze
stands_still() {
        local pid=_writer_of${1//[^a-z0-9]/_}
        grep -qx percpu_rwsem_wait "/proc/${!pid}/wchan"
}

# writes_go_on SINCE MOUNT-POINT…: each went on at most 10 s after SINCE (an EPOCHREALTIME), which is before the deadline of any hold
# here, and more writes follow. Says how long it took, which under emulation and on a busy machine means little.
writes_go_on() {
        local since=${1/./} m resumed before
        shift
        for m in "$@"; do
                _resumed() { awk -v s="$since" '$1 > s { print $1; found = 1; exit } END { exit !found }' "$VSS_TEST_DIR/writes-${m//\//-}.done"; }
                resumed=$(wait_until 30 _resumed) || die "$m stands still for more than 30 s"
                resumed=$(((resumed - since) / 1000))
                note "$m: a write went through $resumed ms after it was due"
                [ $resumed -lt 10000 ] || die "$m stood still for $resumed ms more"
                before=$(writes "$m")
                _more() { [ "$(writes "$m")" -gt $((before + 10)) ]; }
                wait_until 60 _more || die "$m: no ten writes in 60 s"
                is_frozen "$m" && die "$m is frozen"
        done
        return 0
}

# bus_call SERVICE PATH INTERFACE MEMBER [SIGNATURE ARGUMENT…]
bus_call() { busctl --timeout=60 call "$@"; }

# testwriter ARGUMENT…: waits for its "ready" line; WRITER_PID, its output is in WRITER_LOG
testwriter() {
        WRITER_LOG=$VSS_TEST_DIR/log/writer$((_writer_count += 1)).log
        /usr/libexec/vss/vss-testwriter "$@" >"$WRITER_LOG" 2>"${WRITER_LOG%.log}.stderr.log" &
        WRITER_PID=$!
        cleanup_fn stop_process "$WRITER_PID"
        wait_until 60 grep -q '^ready ' "$WRITER_LOG" || die "vss-testwriter did not get ready"
}
_writer_count=0

delete_all() { vssctl --json snapshots | jq -r '.snapshots[].id' | xargs -r -n 50 vssctl delete --force >/dev/null; }
