# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Sourced by the tests of vssctl restore: a writer called shop with files in $data/a and $data/b, and what became of them.
# shellcheck disable=SC2154 # data is made by new_fs

# document SCHEMA RESTORE: of writer shop, with a component set of two parts; roots data/a and data/b
document() {
        cat >"$VSS_TEST_DIR/doc" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"shop"},"backup_schema":$1,"restore":$2,
		 "components":[{"path":"all","type":"${TYPE:-file-group}","selectable":true,"files":[{"root":"$data/a","pattern":"*","recursive":true}]},
		  {"path":"all/book","type":"file-group","selectable_for_restore":true,"files":[{"root":"$data/b","pattern":"book*"}]}],
		 "exclude":[{"root":"$data/a","pattern":"*.pid","recursive":true}]}
	DOCUMENT
}

fill() {
        rm -rf "${data:?}"/*
        mkdir -p "$data/a/deep/empty" "$data/b"
        echo one >"$data/a/one"
        echo two >"$data/a/deep/two"
        echo 7 >"$data/a/x.pid"
        echo book >"$data/b/book1"
        echo other >"$data/b/other"
}

# begin_case SCHEMA RESTORE [WRITER-OPTION…]: files, a writer, a set whose manifest is in M; then everything is changed
begin_case() {
        M=$VSS_TEST_DIR/manifest
        document "$1" "$2"
        fill
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say "${@:3}"
        create --manifest="$M" --component=shop:all "$data"
        rm -rf "$VSS_TEST_DIR/saved" && mkdir -p "$VSS_TEST_DIR/saved$data"
        cp -a "$data/." "$VSS_TEST_DIR/saved$data"
        for f in a/one a/deep/two b/book1; do echo changed >"$data/$f"; done
}

restored() { # CODE OPTION…: document in DOC
        DOC=$VSS_TEST_DIR/restored.json
        local got=0
        vssctl --json restore "$M" "${@:2}" >"$DOC" 2>"$DOC.err" || got=$?
        [ $got -eq "$1" ] || die "restore ${*:2} ended with $got, not $1: $(cat "$DOC" "$DOC.err")"
        [ -z "$(find "$data" "$VSS_TEST_DIR/new" -name '.vss-restore-*' 2>/dev/null)" ] || die "temporary files are left"
}
part() { jq -r ".components[0]$1" "$DOC"; }
contents() { expect_equal "$1" "$(cat "${2:-$data}/a/one" "${2:-$data}/a/deep/two" "${2:-$data}/b/book1" 2>/dev/null | xargs)" "files"; }
