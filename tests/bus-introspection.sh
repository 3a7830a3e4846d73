#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the running vssd introspects is what protocol/*.xml says, member by member.
VSS_TEST_SECONDS=60
. "$(dirname "$0")/functions.sh"
requires busctl python3 jq mkfs.btrfs

start_bus
start_vssd
new_fs data btrfs 256M
testwriter --name=seen --volume="$data"
set_doc=$(vssctl --json create "$data")

path_of() { # CLASS ID
        busctl --json=short call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager LookupId 'sa{sv}' "$1" 0 | jq -r '.data[1]'
}
set_path=$(path_of "$(json .set <<<"$set_doc")")
snapshot_path=$(path_of "$(json '.snapshots[0].id' <<<"$set_doc")")
volume_path=$(busctl --json=short call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager LookupVolume 'sa{sv}' "$data" 0 | jq -r '.data[1]')

compare() { # INTERFACE PATH
        busctl --json=short call org.vssd.Vss1 "$2" org.freedesktop.DBus.Introspectable Introspect | jq -r '.data[0]' |
                python3 "$VSS_SOURCE/tests/introspection.py" "$VSS_SOURCE/protocol/org.vssd.Vss1.$1.xml" "org.vssd.Vss1.$1"
}
compare Manager /org/vssd/Vss1
compare SnapshotSet "$set_path"
compare Snapshot "$snapshot_path"
compare WriterEntry /org/vssd/Vss1/writers/seen/_
compare ProviderEntry /org/vssd/Vss1/providers/btrfs
compare Volume "$volume_path"

note "the comparison notices a member that is not there"
if busctl --json=short call org.vssd.Vss1 "$volume_path" org.freedesktop.DBus.Introspectable Introspect | jq -r '.data[0]' |
        sed 's/"Probe"/"Prove"/' | python3 "$VSS_SOURCE/tests/introspection.py" "$VSS_SOURCE/protocol/org.vssd.Vss1.Volume.xml" \
                org.vssd.Vss1.Volume; then
        die "a renamed method was not noticed"
fi

note "every property can be read, and a property that changes is announced"
for p in /org/vssd/Vss1:Manager "$set_path:SnapshotSet" "$snapshot_path:Snapshot" /org/vssd/Vss1/writers/seen/_:WriterEntry \
        /org/vssd/Vss1/providers/btrfs:ProviderEntry "$volume_path:Volume"; do
        busctl call org.vssd.Vss1 "${p%:*}" org.freedesktop.DBus.Properties GetAll s "org.vssd.Vss1.${p##*:}" >/dev/null
done
busctl monitor --match "type='signal',sender='org.vssd.Vss1'" >"$VSS_TEST_DIR/log/signals.log" 2>&1 &
cleanup_fn stop_process $!
sleep 0.5
vssctl delete "$(json .set <<<"$set_doc")" >/dev/null
wait_until 5 grep -q InterfacesRemoved "$VSS_TEST_DIR/log/signals.log" || die "the removal of a snapshot was not announced"
grep -q PropertiesChanged "$VSS_TEST_DIR/log/signals.log" || die "no change of a property was announced"
stop_vssd
