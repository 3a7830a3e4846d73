#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The journal can be asked for one set, and for one writer, over all sets: fields, not words in a text. What was logged while
# the file system of the journal was held is there afterwards.
# disks: 256M
# seconds: 240
. "$(dirname "$0")/functions.sh"

new_fs data ext4 "$d0"
expect_exit 0 vssctl status >/dev/null
testwriter --name=good --volume="$data"
testwriter --name=bad --volume="$data" --fail=freeze:1
expect_exit 5 vssctl create --provider=null "$data" >/dev/null 2>&1
failed=$(vssctl --json sets | jq -r '.sets[0].id')
created=$(vssctl --json create --provider=null "$data" | jq -r .set)

# lines MATCH…: of vssd, as JSON
lines() {
        journalctl --sync
        journalctl -o json --no-pager -u vssd "$@"
}
# count EXPRESSION MATCH…
count() {
        local expression=$1
        shift
        lines "$@" | jq -s "[.[] | select($expression)] | length"
}
[ "$(count '.MESSAGE | startswith("aborted")' VSS_SET="$failed")" -eq 1 ] || die "no line of the end of the failed set: $(lines VSS_SET="$failed")"
[ "$(count '.MESSAGE | startswith("created")' VSS_SET="$created")" -eq 1 ] || die "no line of the end of the good set: $(lines VSS_SET="$created")"
[ "$(count '.PRIORITY == "4"' VSS_SET="$failed" VSS_WRITER=bad)" -ge 1 ] || die "nothing of the writer that failed: $(lines VSS_WRITER=bad)"
[ "$(count '.MESSAGE | test("took part")' VSS_SET="$created" VSS_WRITER=good)" -eq 1 ] || die "nothing of the writer that took part: $(lines VSS_WRITER=good)"
[ "$(count '.MESSAGE | test("took part")' VSS_SET="$created" VSS_WRITER=bad)" -eq 1 ] || die "nothing of the writer that took part then"
[ "$(count '.MESSAGE | test("registered")' VSS_WRITER=good)" -ge 1 ] || die "nothing of its registration"
expect_equal 0 "$(count '.VSS_SET != null' VSS_WRITER=good VSS_SET="$failed")" "lines of the good writer in the set that another one failed"
expect_equal abort "$(lines VSS_SET="$failed" | jq -rs '[.[].VSS_PHASE] | unique | .[]')" "the phase of the failed set"
