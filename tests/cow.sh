# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the tests of vss-cow share. A store may not lie on tmpfs, so they work in a directory on a disk: COW_DISK, removed
# at the end; VSS_COW_DISK says below what. COW_DIR is where the server listens, COW_LINKS where its devices show up.

VSS_COW=$VSS_BUILD/providers/cow/vss-cow
COW_DISK=$(mktemp -d "${VSS_COW_DISK:-/var/tmp}/vss-cow-test.XXXXXX")
COW_DIR=$VSS_TEST_DIR/cow
COW_LINKS=$VSS_TEST_DIR/links
COW_STORE=$COW_DISK/store
cleanup_fn rm -rf "$COW_DISK"

cow() { "$VSS_BUILD/tests/cow-client" "$COW_DIR" "$@"; }
verify() { "$VSS_BUILD/tests/cow-verify" "$@"; }
# seconds since the boot, as the kernel's log has them
uptime_now() { cut -d' ' -f1 /proc/uptime; }

# cow_format BYTES [STORE [OPTION…]]
cow_format() { "$VSS_COW" format --store="${2:-$COW_STORE}" --size="$1" "${@:3}"; }

# cow_serve [STORE]: COW_HOLDER is the holder's pid, COW_LABEL what the labels of its loop devices begin with
cow_serve() {
        local line
        line=$("$VSS_COW" serve --store="${1:-$COW_STORE}" --directory="$COW_DIR" --links="$COW_LINKS" 2>>"$VSS_TEST_DIR/log/cow.log") ||
                die "serve ended with $?: $(tail -n 3 "$VSS_TEST_DIR/log/cow.log")"
        COW_HOLDER=$(cat "$COW_DIR/lock")
        COW_LABEL=vss-cow:$(cut -d' ' -f2 <<<"$line" | cut -c1-8):
        cleanup_fn cow_end "$COW_HOLDER" "$COW_LABEL"
}

# cow_end HOLDER LABEL: however things stand
cow_end() {
        kill -0 "$1" 2>/dev/null && timeout 20 "$VSS_BUILD/tests/cow-client" "$COW_DIR" stop >/dev/null 2>&1
        for _ in {1..40}; do
                kill -0 "$1" 2>/dev/null || break
                sleep 0.05
        done
        kill -KILL "$1" 2>/dev/null
        "$VSS_BUILD/tests/cow-client" - sweep "$2"
}

# cow_stop: in order, and it must be
cow_stop() {
        cow stop >/dev/null || die "stop was refused"
        timeout 20 tail --pid="$COW_HOLDER" -f /dev/null || die "the holder does not end"
}

# cow_volume NAME BYTES: creates image, volume and device; prints the device
cow_volume() {
        truncate -s "$2" "$COW_DISK/$1.img"
        cow volume-create name="$1" origin="$COW_DISK/$1.img" >/dev/null
        owned "$(cow volume-attach name="$1" | json .device)"
}

# cow_set VOLUME…: the ids of the snapshots, in order
cow_set() { cow set "$@" | tail -n +2; }
# cow_gate VOLUME…: the same without anything frozen
cow_gate() { cow gate "$@" | tail -n +2; }
# overlay ID [OPTION…]: the device that shows it with an overlay
overlay() { owned "$(cow expose id="$1" overlay= "${@:2}" | json .device)"; }
expose() { owned "$(cow expose id="$1" | json .device)"; }
# content DEVICE: what is on the device, not in the page cache
content() { dd if="$1" bs=1M iflag=direct status=none | sha256sum | cut -d' ' -f1; }
status_of() { cow status | json "$1"; }

# owned DEVICE: prints it, and remembers since when it is ours: numbers of loop devices go from test to test
owned() {
        mkdir -p "$VSS_TEST_DIR/owned"
        [ -e "$VSS_TEST_DIR/owned/${1##*/}" ] || uptime_now >"$VSS_TEST_DIR/owned/${1##*/}"
        echo "$1"
}

# no_device_errors: of the devices that are ours since then and still are, the kernel has reported none
no_device_errors() {
        local device
        for device in "$VSS_TEST_DIR"/owned/*; do
                dmesg | awk -v since="$(cat "$device")" -F'[][]' '$2 + 0 >= since + 0' |
                        grep -E "I/O error|EXT4-fs error|error \(device" | grep -E "${device##*/}([^0-9]|$)" >&2 &&
                        die "the kernel reports errors of ${device##*/}"
        done
        return 0
}
