# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the tests behind tests/rows.md share.

# create OPTION…: a set; its document in SET_DOC, its id in SET. For sets that must come to be.
create() {
        SET_DOC=$VSS_TEST_DIR/set.json
        vssctl --json create "$@" >"$SET_DOC" || die "create $*: status $?: $(cat "$SET_DOC")"
        SET=$(json .set <"$SET_DOC")
}

# refuse CODE OPTION…: a set that must fail with that exit code; its document in SET_DOC
refuse() {
        local want=$1 got=0
        shift
        SET_DOC=$VSS_TEST_DIR/set.json
        vssctl --json create "$@" >"$SET_DOC" 2>"$SET_DOC.err" || got=$?
        [ $got -eq "$want" ] || die "create $* ended with $got, expected $want: $(cat "$SET_DOC" "$SET_DOC.err")"
}

set_field() { json "$1" <"$SET_DOC"; }
delete_all() { vssctl --json snapshots | jq -r '.snapshots[].id' | xargs -r -n 50 "$VSS_BUILD/client/vssctl" delete --force >/dev/null; }
no_snapshots() { expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots left ($1)"; }

# writer_field NAME EXPRESSION: of the list of writers
writer_field() { vssctl --json writers | jq -er --arg n "$1" ".writers[] | select(.name == \$n) | $2"; }
writer_is() { [ "$(writer_field "$1" .state)" = "$2" ]; }

# events NAME LOG [SET]: what a test writer was told, in order
events() { awk -v n="$1" -v s="${3:-}" '$1 == "event" && $2 == n && (s == "" || $4 == s) {print $3}' "$2"; }
saw() { events "$1" "$2" | grep -qx "$3"; }
