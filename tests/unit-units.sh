#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The files in units/ as they are installed: systemd understands each of them without a warning, what is exposed stays
# below its limit, and accounts and directories are made. Needs systemd's tools, not systemd.
set -euo pipefail
: "${VSS_BUILD:?is the build directory}" "${VSS_SOURCE:?is the tree}"

die() {
        echo "FAILED: $*" >&2
        exit 1
}

skip() {
        echo "skip: $*" >&2
        exit 77
}

for c in systemd-analyze systemd-sysusers systemd-tmpfiles; do
        command -v $c >/dev/null || skip "$c is not installed"
done
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
DESTDIR=$root meson install -C "$VSS_BUILD" --no-rebuild >"$root/install.log" 2>&1 ||
        DESTDIR=$root ninja -C "$VSS_BUILD" install >"$root/install.log" 2>&1 || die "meson install: $(tail -5 "$root/install.log")"
libexec=$(sed -n 's/^#define VSS_LIBEXECDIR "\(.*\)"$/\1/p' "$VSS_BUILD/config.h")
prefix=${libexec%/*/*}
installed=$root$prefix/lib/systemd/system

# Programs are where this test has installed them; the rest of the system is the machine's own.
units=$root/units
mkdir "$units"
for unit in "$installed"/*.*; do
        [ -f "$unit" ] || continue
        case ${unit##*/} in
        *@.*) name=${unit##*/} && name=${name/@./@srv-db.} ;;
        *) name=${unit##*/} ;;
        esac
        sed "s|$prefix/|$root$prefix/|g" "$unit" >"$units/${unit##*/}"
        [ "$name" = "${unit##*/}" ] || cp "$units/${unit##*/}" "$units/$name"
done
[ -e "$units/vssd.service" ] || die "vssd.service is not installed"
for unit in "$units"/*; do
        case $unit in *@.*) continue ;; esac
        said=$(SYSTEMD_UNIT_PATH=$units: systemd-analyze verify --man=no "$unit" 2>&1 | grep -F "$units" || :)
        said+=$(SYSTEMD_UNIT_PATH=$units: systemd-analyze verify --man=no "$unit" 2>&1 | grep -F "${unit##*/}" || :)
        [ -z "$said" ] || die "${unit##*/}: $said"
done

# exposure UNIT LIMIT: systemd's own measure, 0 to 10
exposure() {
        systemd-analyze security --offline=true --no-pager --threshold="$(awk "BEGIN {print $2 * 10}")" "$units/$1" >"$root/security" 2>&1 ||
                die "$1: $(tail -1 "$root/security"), the limit is $2: $(grep '^✗' "$root/security")"
        echo "# $1: $(tail -1 "$root/security")" >&2
}
exposure vssd.service 3.0
exposure vss-guard@srv-db.service 4.5
exposure vss-provider.service 5.0
exposure vss-snapshot@srv-db.service 3.0
exposure vss-prune@srv-db.service 3.0

# takes_its_line UNIT [WORD…]: what ExecStart= says is a line that its program takes, with the values of Environment=
takes_its_line() {
        local line status=0
        line=$(sed -n 's/^ExecStart=//p' "$units/$1" | sed 's/%[if]/srv-db/g')
        [ -n "$line" ] || die "$1 starts nothing"
        # systemd's words: $NAME alone is split, quotes group, $$ is $
        (
                eval "$(sed -n 's/^Environment=\([A-Z_]*=.*\)$/\1/p; s/^Environment="\(VSS_[A-Z]*\)=\(.*\)"$/\1="\2"/p' "$units/$1" | sed 's/%[if]/srv-db/g')"
                eval "DBUS_SYSTEM_BUS_ADDRESS=unix:path=$root/none ${line//\$\$/\\$} ${*:2}"
        ) >"$root/said" 2>&1 || status=$?
        echo "$status"
}
for unit in vss-snapshot@ vss-prune@; do
        status=$(takes_its_line $unit.service)
        [ "$status" = 13 ] || die "$unit.service: its line ends with $status, not with 13 for want of a bus: $(cat "$root/said")"
done

# Writers: nothing but their name stands on the line, the rest in writers.d/NAME.conf; --help comes after the line was read.
writers=0
for unit in "$units"/vss-writer-*@srv-db.service; do
        name=${unit##*/vss-writer-} name=${name%@srv-db.service}
        case $name in
        exec) exposure "${unit##*/}" 8.0 ;;
        *) exposure "${unit##*/}" 2.5 ;;
        esac
        [ "$(takes_its_line "vss-writer-$name@.service" --help)" = 0 ] || die "vss-writer-$name refuses its line: $(cat "$root/said")"
        [ "$(takes_its_line "vss-writer-$name@.service" --no-such-option)" = 2 ] || die "vss-writer-$name takes any line"
        # what its comment gives as an example of the file is one
        mkdir -p "$root/conf/writers.d" "$root/scripts"
        : >"$root/database"
        (umask 077 && echo word >"$root/password")
        sed -n '/writers\.d/,/^\[Unit\]/s/^#     //p' "$unit" |
                sed "s|=/.*book.db|=$root/database|; s|=/.*password|=$root/password|; s|=/.*hook.d|=$root/scripts|" >"$root/conf/writers.d/srv-db.conf"
        [ -s "$root/conf/writers.d/srv-db.conf" ] || die "vss-writer-$name@.service gives no example"
        CONFIGURATION_DIRECTORY=$root/conf takes_its_line "vss-writer-$name@.service" >"$root/status"
        [ "$(cat "$root/status")" != 2 ] || die "the example of vss-writer-$name@.service is refused: $(cat "$root/said")"
        for key in "Restart=on-failure" "After=dbus" "WantedBy=multi-user.target"; do
                grep -q "^$key" "$unit" || die "vss-writer-$name@.service lacks $key"
        done
        writers=$((writers + 1))
done
built=$(find "$root$libexec" -name 'vss-writer-*' | wc -l)
[ "$writers" = "$built" ] || die "$built writers are installed, with $writers units"
grep -q '^KillMode=process$' "$units/vss-writer-exec@.service" || die "a stop of vss-writer-exec would end a thaw"

mkdir -p "$root/etc"
systemd-sysusers --root="$root" "$root$prefix/lib/sysusers.d/vss.conf" 2>"$root/said" || die "sysusers: $(cat "$root/said")"
grep -q '^vss:' "$root/etc/group" || die "sysusers made no group vss"
systemd-tmpfiles --root="$root" --create "$root$prefix/lib/tmpfiles.d/vss.conf" 2>"$root/said" || die "tmpfiles: $(cat "$root/said")"
for directory in var/lib/vss run/vss var/log/vss; do
        [ "$(stat -c '%a %u' "$root/$directory")" = "700 0" ] || die "$directory is $(stat -c '%a %u' "$root/$directory")"
done
