#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What vssd and writers really produce keeps to the schemas that are published for it: metadata, manifests before and after
# Complete, records of sets that were made, completed, deleted and aborted.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs python3 busctl
python3 -c 'import jsonschema' 2>/dev/null || skip "python3-jsonschema is not installed"
watchdog 150
here=$(dirname "$0")
one='' tree=''

new_fs one ext4 32M
new_fs tree btrfs 128M

# keeps_to SCHEMA FILE WHAT
keeps_to() {
        local errors
        errors=$(python3 "$here/schema-check.py" "$here/../protocol/schema/$1.schema.json" <"$2" 2>&1) ||
                die "$3 does not keep to $1: $errors: $(head -c 2000 "$2")"
}

# set_object ID, record_of ID
set_object() { busctl --json=short call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager LookupId 'sa{sv}' "$1" 0 | jq -r '.data[1]'; }
record_of() {
        busctl --json=short call org.vssd.Vss1 "$(set_object "$1")" org.vssd.Vss1.SnapshotSet GetRecord 'a{sv}' 0 | jq -r '.data[0]'
}

case_what_a_writer_says() {
        testwriter --name=says --instance=x.1 --volume="$one"
        busctl --json=short call org.vssd.Vss1 /org/vssd/Vss1/writers/says/x_2e1 org.vssd.Vss1.WriterEntry GetMetadata \
                'a{sv}' 1 refresh b true | jq -r '.data[0]' >"$VSS_TEST_DIR/metadata"
        expect_equal says "$(json .writer.name <"$VSS_TEST_DIR/metadata")" "the writer in its document"
        keeps_to writer-metadata "$VSS_TEST_DIR/metadata" "what a writer says"
        expect_equal ok "$(jq -c . <"$VSS_TEST_DIR/metadata" | "$VSS_BUILD/tests/document-check" metadata)" "the parser"
}

case_a_set_from_creation_to_deletion() {
        local manifest=$VSS_TEST_DIR/manifest record=$VSS_TEST_DIR/record
        testwriter --name=takes-part --volume="$tree"
        create --label=k=v --manifest="$manifest" "$one" "$tree" --provider=null
        keeps_to manifest "$manifest" "the manifest of a new set"
        expect_equal "null 2" "$(json '"\(.completed) \(.snapshots | length)"' <"$manifest")" "completed, snapshots"
        python3 - "$manifest" <<'PY' || die "the digest is not that of the text with its value empty"
import hashlib, re, sys
text = open(sys.argv[1], "rb").read()
digest = re.search(rb'"digest":"sha256:([0-9a-f]{64})"', text)
sys.exit(hashlib.sha256(text[:digest.start(1) - 7] + text[digest.end(1):]).hexdigest() != digest[1].decode())
PY
        record_of "$SET" >"$record"
        keeps_to set-record "$record" "the record of a new set"
        expect_exit 0 vssctl complete "$SET" --manifest="$manifest" >/dev/null
        keeps_to manifest "$manifest" "the manifest of a completed set"
        expect_equal true "$(json '.completed != null' <"$manifest")" "completed"
        record_of "$SET" >"$record"
        keeps_to set-record "$record" "the record of a completed set"
        expect_equal completed "$(json .state <"$record")" "state in the record"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        record_of "$SET" >"$record"
        keeps_to set-record "$record" "the record of a deleted set"
}

case_a_set_that_was_aborted() {
        testwriter --name=fails --volume="$one" --fail=freeze
        refuse 5 --provider=null "$one"
        record_of "$(set_field .set)" >"$VSS_TEST_DIR/record"
        keeps_to set-record "$VSS_TEST_DIR/record" "the record of an aborted set"
        expect_equal org.vssd.Vss1.Error.Vetoed "$(json .error.name <"$VSS_TEST_DIR/record")" "error in the record"
        expect_equal failed "$(json '.phases[] | select(.[0] == "freeze") | .[4]' <"$VSS_TEST_DIR/record")" "the phase that failed"
}

start_bus
start_vssd
cases what_a_writer_says a_set_from_creation_to_deletion a_set_that_was_aborted
