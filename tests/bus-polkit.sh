#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Real dbus-daemon --system, real polkitd with our policy, vssd by classic activation; all of it on directories of its own, mounted
# over the system's in the sandbox's mount namespace. An unprivileged caller is refused on every verb that changes something,
# before anything has changed; a rule can allow one volume and not another.
VSS_TEST_SECONDS=100
. "$(dirname "$0")/functions.sh"
requires busctl jq setpriv mkfs.btrfs dbus-daemon
polkitd=/usr/lib/polkit-1/polkitd
[ -x $polkitd ] || skip "$polkitd is missing"
[ -u /usr/lib/dbus-1.0/dbus-daemon-launch-helper ] || skip "dbus-daemon-launch-helper is not setuid"
getent passwd games nobody >/dev/null || skip "users games and nobody are missing"

# ---- a system of its own -----------------------------------------------------------------------------------------
over() { # DIRECTORY: an empty one over it, in here only
        mkdir -p "$1"
        mount -t tmpfs -o mode=0755 tmpfs "$1"
        cleanup_fn umount -l "$1"
}
policies=$(mktemp -d "$VSS_TEST_DIR/policies.XXXX")
cp /usr/share/polkit-1/actions/org.freedesktop.policykit.policy "$policies/"
cp /usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf "$policies/"
over /run
over /etc/polkit-1
over /usr/share/polkit-1/actions
over /usr/share/dbus-1/system-services
over /usr/share/dbus-1/system.d
over /var/lib
over /var/log
mkdir -p /run/dbus /etc/polkit-1/rules.d /var/lib/polkit-1
chown polkitd /etc/polkit-1/rules.d /var/lib/polkit-1
cp "$policies/org.freedesktop.policykit.policy" "$VSS_SOURCE/units/org.vssd.Vss1.policy" /usr/share/polkit-1/actions/
cp "$policies/org.freedesktop.PolicyKit1.conf" "$VSS_SOURCE/units/org.vssd.Vss1.conf" /usr/share/dbus-1/system.d/
sed "s|^Exec=.*|Exec=$VSS_BUILD/daemon/vssd|" "$VSS_BUILD/units/org.vssd.Vss1.service" \
        >/usr/share/dbus-1/system-services/org.vssd.Vss1.service
chmod 755 "$VSS_TEST_DIR"

unset DBUS_SYSTEM_BUS_ADDRESS
dbus-daemon --system --nofork --nopidfile 2>"$VSS_TEST_DIR/log/bus.log" &
cleanup_fn stop_process $!
wait_until 10 test -S /run/dbus/system_bus_socket || die "the system bus did not come up"
$polkitd --no-debug 2>"$VSS_TEST_DIR/log/polkitd.log" >&2 &
cleanup_fn stop_process $!
wait_until 10 busctl --system call org.freedesktop.PolicyKit1 /org/freedesktop/PolicyKit1/Authority \
        org.freedesktop.DBus.Peer Ping >/dev/null || die "polkitd did not come up"

as() { # USER COMMAND…
        local user=$1
        shift
        setpriv --reuid="$user" --regid=nogroup --clear-groups --inh-caps=-all "$@"
}
manager() { busctl --system --timeout=20 call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager "$@"; }
refused() { # USER INTERFACE-PATH-MEMBER-AND-ARGUMENTS…: polkit says no
        local user=$1 out
        shift
        if out=$(as "$user" busctl --system --timeout=20 call org.vssd.Vss1 "$@" 2>&1); then
                die "$user may $*: $out"
        fi
        grep -q "not permitted" <<<"$out" || die "$user is told, on $*: $out"
}

# ---- activation --------------------------------------------------------------------------------------------------
note "the first call starts vssd, as root, on the bus that wanted it"
expect_equal 's "1.0"' "$(busctl --system --timeout=20 get-property org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Version)" version
VSSD_PID=$(busctl --system --json=short call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus \
        GetConnectionUnixProcessID s org.vssd.Vss1 | jq '.data[0]')
cleanup_fn stop_process "$VSSD_PID"
expect_equal 's "polkit"' "$(busctl --system get-property org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Authorization)" authorization
[ -d /var/lib/vss/sets ] && [ -d /run/vss ] || die "the directories are not where they belong"
grep -q ready /var/log/vss/vssd.log || die "a vssd without journal and terminal leaves no log"

# ---- what is there -----------------------------------------------------------------------------------------------
new_fs one btrfs 256M
new_fs two btrfs 256M
set_doc=$(vssctl --json create "$one")
set_id=$(json .set <<<"$set_doc")
object() { manager LookupId 'sa{sv}' "$1" 0 | sed 's/.* "//; s/"$//'; }
set_path=$(object "$set_id")
snapshot_path=$(object "$(json '.snapshots[0].id' <<<"$set_doc")")
snapshot_id=$(json '.snapshots[0].id' <<<"$set_doc")

state() { # everything a refused caller could have changed
        vssctl --json sets | jq -S .
        vssctl --json snapshots | jq -S .
        grep -c "$VSS_TEST_DIR\|/run/vss" /proc/self/mountinfo
        ls -R "$one" "$two" /run/vss /var/lib/vss
}
before=$(state)

# ---- every verb that changes something ---------------------------------------------------------------------------
note "an unprivileged caller is refused before any effect"
m="/org/vssd/Vss1 org.vssd.Vss1.Manager"
refused games $m CreateSet 'a(sa{sv})a{sv}' 1 "$one" 0 0
refused games $m CreateSet 'a(sa{sv})a{sv}' 2 "$one" 0 "$two" 0 0
refused games $m RegisterWriter 'ssoa{sv}' intruder "" /w 0
refused games $m Reload 'a{sv}' 0
for arguments in "1 ids as 1 $snapshot_id" "1 ids as 1 $set_id" "2 volume s $one all b true"; do
        # goes on after an error: the refusal stands in the result
        out=$(as games busctl --system --timeout=20 call org.vssd.Vss1 $m DeleteSnapshots 'a{sv}a{sv}' $arguments 0 2>&1) ||
                grep -q "not permitted" <<<"$out" || die "DeleteSnapshots: $out"
        grep -q "not permitted" <<<"$out" || die "games may delete: $out"
done
s="$set_path org.vssd.Vss1.SnapshotSet"
refused games $s Cancel 'a{sv}' 0
refused games $s Complete 'ba(ssa{sv})a{sv}' true 0 0
refused games $s Delete 'a{sv}' 0
n="$snapshot_path org.vssd.Vss1.Snapshot"
mkdir -m 777 "$VSS_TEST_DIR/place"
refused games $n Mount 'sa{sv}' "" 0
refused games $n Mount 'sa{sv}' "$VSS_TEST_DIR/place/x" 0
refused games $n Unmount 'sa{sv}' "" 0
for what in mount directory device; do refused games $n Open 'sa{sv}' $what 0; done
refused games $n Delete 'a{sv}' 0
expect_equal "$before" "$(state)" "the state after all refusals"

note "what everybody may do works: inspect"
as games busctl --system call org.vssd.Vss1 $s GetRecord 'a{sv}' 0 >/dev/null
as games busctl --system call org.vssd.Vss1 $m Plan 'a(sa{sv})a{sv}' 1 "$one" 0 0 >/dev/null

note "other users cannot be vssd, nor call a writer"
if as games busctl --system call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus RequestName su org.vssd.Vss1 0; then
        die "games took the name"
fi
testwriter --name=target --volume="$one"
writer=$(busctl --system --json=short get-property org.vssd.Vss1 /org/vssd/Vss1/writers/target/_ org.vssd.Vss1.WriterEntry BusName | jq -r .data)
if as games busctl --system call "$writer" / org.vssd.Vss1.Writer Freeze 'sta{sv}' x 1 0 2>"$VSS_TEST_DIR/log/freeze.log"; then
        die "games froze a writer"
fi
grep -qi "denied\|not allowed\|rejected" "$VSS_TEST_DIR/log/freeze.log" || die "Freeze by games: $(cat "$VSS_TEST_DIR/log/freeze.log")"

# ---- rules -------------------------------------------------------------------------------------------------------
note "a rule that allows one volume allows that one only"
cat >/etc/polkit-1/rules.d/50-test.rules <<EOF
polkit.addRule(function(action, subject) {
        if (subject.user == "games" && action.lookup("volumes") == "$one" &&
            ["org.vssd.Vss1.create", "org.vssd.Vss1.delete", "org.vssd.Vss1.expose"].indexOf(action.id) >= 0)
                return polkit.Result.YES;
        if (subject.user == "games" && action.id == "org.vssd.Vss1.register-writer" && action.lookup("writer") == "mine")
                return polkit.Result.YES;
});
EOF
allowed() { as games busctl --system --timeout=20 call org.vssd.Vss1 $m CreateSet 'a(sa{sv})a{sv}' 1 "$one" 0 0; }
wait_until 10 allowed >/dev/null || die "the rule is not obeyed"
refused games $m CreateSet 'a(sa{sv})a{sv}' 1 "$two" 0 0
refused games $m CreateSet 'a(sa{sv})a{sv}' 2 "$one" 0 "$two" 0 0
refused nobody $m CreateSet 'a(sa{sv})a{sv}' 1 "$one" 0 0
path=$(as games busctl --system --timeout=20 call org.vssd.Vss1 $n Mount 'sa{sv}' "" 0)
grep -q "/run/vss/mounts/$snapshot_id" <<<"$path" || die "mounted at $path"
as games busctl --system --timeout=20 call org.vssd.Vss1 $n Unmount 'sa{sv}' "" 0

note "the same for a whole set, which may hold copies of other volumes too"
other_doc=$(vssctl --json create "$two")
both_doc=$(vssctl --json create "$one" "$two")
for doc in "$other_doc" "$both_doc"; do
        s="$(object "$(json .set <<<"$doc")") org.vssd.Vss1.SnapshotSet"
        refused games $s Complete 'ba(ssa{sv})a{sv}' true 0 0
        refused games $s Delete 'a{sv}' 0
done
extra=$(vssctl --json create "$one" | json .set)
s="$(object "$extra") org.vssd.Vss1.SnapshotSet"
as games busctl --system --timeout=20 call org.vssd.Vss1 $s Complete 'ba(ssa{sv})a{sv}' false 0 0 >/dev/null
as games busctl --system --timeout=20 call org.vssd.Vss1 $s Delete 'a{sv}' 0 >/dev/null

note "a caller mounts on its own directories only, and through no symbolic link"
for place in /etc "$VSS_TEST_DIR/log"; do
        if as games busctl --system --timeout=20 call org.vssd.Vss1 $n Mount 'sa{sv}' "$place" 0; then
                die "games mounted on $place"
        fi
done
as games mkdir "$VSS_TEST_DIR/place/own"
as games ln -s /etc "$VSS_TEST_DIR/place/link"
if as games busctl --system --timeout=20 call org.vssd.Vss1 $n Mount 'sa{sv}' "$VSS_TEST_DIR/place/link" 0; then
        die "games mounted through a symbolic link"
fi
as games busctl --system --timeout=20 call org.vssd.Vss1 $n Mount 'sa{sv}' "$VSS_TEST_DIR/place/own" 0
findmnt -no OPTIONS "$VSS_TEST_DIR/place/own" | grep -q '^ro,nosuid,nodev' || die "the mount is not ro,nosuid,nodev"
as games busctl --system --timeout=20 call org.vssd.Vss1 $n Unmount 'sa{sv}' "$VSS_TEST_DIR/place/own" 0

note "a writer that a rule lets in is listed as a stranger's"
as games busctl --system --timeout=20 call org.vssd.Vss1 $m RegisterWriter 'ssoa{sv}' mine "" /w 0 >"$VSS_TEST_DIR/log/mine.log"
grep -q "writers/_3$(id -u games)_3amine\|_3amine/" "$VSS_TEST_DIR/log/mine.log" || die "registered as $(cat "$VSS_TEST_DIR/log/mine.log")"
refused games $m RegisterWriter 'ssoa{sv}' other "" /w 0
