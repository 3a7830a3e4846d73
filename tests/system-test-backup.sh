#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl test-backup: a whole backup as a file says, what it tells of each step, and that nothing of it is left, whatever failed.
VSS_TEST_SECONDS=90
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.btrfs jq sqlite3

new_fs data btrfs 128M
. "$(dirname "$0")/restore-shop.sh"
into=$VSS_TEST_DIR/into back=$VSS_TEST_DIR/back selection=$VSS_TEST_DIR/selection.json
DOC=$VSS_TEST_DIR/out.json

# select_these MEMBERS: the selection
select_these() { echo "{\"schema\":1,\"kind\":\"backup-test\",$1}" >"$selection"; }
shop_selection="\"component\":[\"shop:all\"],\"type\":\"full\",\"require\":\"application\",\"restore\":{\"to\":\"$back\"}"

# tested CODE OPTION…: the document is in DOC, the line in DOC.err; nothing is left of the set
tested() {
        local got=0
        rm -rf "$into" "$back"
        vssctl --json test-backup "$selection" --into="$into" "${@:2}" >"$DOC" 2>"$DOC.err" || got=$?
        [ $got -eq "$1" ] || die "test-backup ended with $got, not $1: $(cat "$DOC" "$DOC.err")"
        [ $got -eq 0 ] || expect_equal 1 "$(wc -l <"$DOC.err")" "lines on stderr"
        nothing_is_left
}
nothing_is_left() {
        no_snapshots "$(cat "$DOC.err")"
        expect_equal "" "$(vssctl --json sets | jq -r '.sets[].state' | grep -vE '^(deleted|aborted)$' || :)" "sets that go on"
        expect_equal "" "$(findmnt -rno TARGET | grep "^$VSS_TEST_DIR/run" || :)" "mounts that are left"
}
line() { grep -q "$1" "$DOC.err" || die "the line is not about $1: $(cat "$DOC.err")"; }
steps() { jq -r '[.steps[] | "\(.step) \(.status)"] | join(", ")' "$DOC"; }
shop() {
        document '["new-target"]' null
        sed -i 's/"selectable":true/"selectable":true,"notify_complete":true/' "$VSS_TEST_DIR/doc"
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say "$@"
}

case_a_whole_backup_comes_back_as_it_was_saved() {
        fill
        ln -s one "$data/a/link"
        shop
        select_these "$shop_selection"
        tested 0 --dry-run
        [ ! -e "$into" ] && [ ! -e "$back" ] || die "a dry run made a directory"
        saw shop "$WRITER_LOG" prepare-backup && die "a dry run asked the writers for a set"
        tested 0
        expect_equal "create ok, save ok, complete ok, restore ok, compare ok" "$(steps)" "steps"
        expect_equal "shop all true all 0" "$(jq -r '.components[0] | "\(.writer) \(.path) \(.saved) \(.restored) \(.n_differences)"' "$DOC")" "component"
        expect_equal "4 0 application" "$(jq -r '"\(.n_compared) \(.n_differences) \(.consistency)"' "$DOC")" "what was compared"
        contents "one two book" "$into/data$data"
        contents "one two book" "$back$data"
        [ ! -e "$into/data$data/a/x.pid" ] || die "what is excluded was saved"
        expect_equal true "$(jq -r '.writers[0].components[0].succeeded' "$into/manifest.json")" "outcome in the manifest"
        for event in prepare-backup freeze thaw backup-complete backup-shutdown pre-restore post-restore; do
                saw shop "$WRITER_LOG" $event || die "the writer did not hear of $event"
        done
        rm -rf "$into" "$back"
        vssctl test-backup "$selection" --into="$into" >"$VSS_TEST_DIR/text"
        grep -q '^shop:all: saved, 4 files, restored$' "$VSS_TEST_DIR/text" || die "text: $(cat "$VSS_TEST_DIR/text")"
        grep -q '^writer shop: ' "$VSS_TEST_DIR/text" || die "text: $(cat "$VSS_TEST_DIR/text")"
        # what is there is not ours to mix with
        expect_exit 1 vssctl test-backup "$selection" --into="$into" 2>"$DOC.err"
        line "is not empty"
        stop_process "$WRITER_PID"
}

case_originals_are_not_what_is_read() {
        fill
        testwriter --name=shop --volume="$data" --delete-originals
        select_these '"component":["shop:data"]'
        tested 0
        contents "one two book" "$into/data$data"
        [ ! -e "$data/a/one" ] || die "the originals are there: this shows nothing"
        stop_process "$WRITER_PID"
}

case_a_writer_that_fails_is_named_with_the_step() {
        local event
        fill
        select_these "$shop_selection"
        for event in prepare-backup freeze post-snapshot; do
                shop --fail=$event
                tested 5
                line "create: writer shop refused $event"
                expect_equal "create failed" "$(steps)" "steps"
                [ ! -e "$into" ] && [ ! -e "$back" ] || die "a directory is left though nothing was saved"
                stop_process "$WRITER_PID"
        done
        shop --fail=backup-complete
        tested 5
        line "complete: writer shop: shop was told to fail at backup-complete"
        expect_equal "create ok, save ok, complete failed" "$(steps)" "steps"
        contents "one two book" "$into/data$data"
        stop_process "$WRITER_PID"
        for event in pre-restore post-restore; do
                shop --fail=$event
                tested 5
                line "restore: shop:all: shop was told to fail at $event"
                expect_equal "create ok, save ok, complete ok, restore failed" "$(steps)" "steps"
                stop_process "$WRITER_PID"
        done
        testwriter --name=whole --volume="$data" --fail-component=freeze
        select_these '"component":["whole:data"]'
        tested 5
        line "create: whole:data failed at freeze"
        stop_process "$WRITER_PID"
}

case_a_component_that_cannot_be_saved() {
        fill
        shop
        rm -rf "${data:?}/a" "${data:?}/b"
        select_these "$shop_selection"
        tested 4
        line "save: shop:all: "
        grep -q 'told shop backup-complete all succeeded false' "$WRITER_LOG" ||
                die "the writer was not told that it failed: $(cat "$WRITER_LOG")"
        stop_process "$WRITER_PID"
}

# A writer may change its files after a restore, or wrongly; that is what is compared.
case_what_came_back_otherwise_is_told() {
        fill
        shop --late=post-restore:1500
        select_these "$shop_selection"
        rm -rf "$into" "$back"
        "$VSS_BUILD/client/vssctl" --json test-backup "$selection" --into="$into" >"$DOC" 2>"$DOC.err" &
        local pid=$! got=0
        there() { [ -e "$back$data/a/deep/two" ] && [ -e "$back$data/b/book1" ]; }
        wait_until 20 there || die "nothing is restored: $(cat "$DOC.err")"
        sleep 0.3 # now they are in place, and the writer takes its time
        echo xxx >"$back$data/a/one"
        touch -r "$into/data$data/a/one" "$back$data/a/one"
        chmod 600 "$back$data/b/book1"
        rm "$back$data/a/deep/two"
        echo more >"$back$data/a/more"
        wait $pid || got=$?
        expect_equal 11 $got "exit status"
        line "compare: shop:all: "
        expect_equal "content missing mode was not saved" "$(jq -r '[.differences[].what] | sort | join(" ")' "$DOC")" "differences"
        nothing_is_left
        stop_process "$WRITER_PID"
}

case_an_interrupt_leaves_nothing() {
        local pid got=0
        fill
        shop --late=post-snapshot:3000
        select_these "$shop_selection"
        rm -rf "$into" "$back"
        "$VSS_BUILD/client/vssctl" test-backup "$selection" --into="$into" >"$DOC" 2>"$DOC.err" &
        pid=$!
        wait_until 10 saw shop "$WRITER_LOG" thaw || die "no set is made"
        kill -TERM $pid
        wait $pid || got=$?
        expect_equal 143 $got "exit status"
        nothing_is_left
        stop_process "$WRITER_PID"
}

case_a_database_that_is_written_to() {
        sqlite3 "$data/book.db" 'PRAGMA journal_mode=wal; CREATE TABLE t(v); INSERT INTO t VALUES(1),(2)' >/dev/null
        sqlite_writer --name=book "$data/book.db"
        local component
        component=$(vssctl --json plan "$data" | jq -r '.writers[] | select(.name == "book") | .components[0]')
        select_these "\"component\":[\"book:$component\"],\"require\":\"application\",\"restore\":{\"to\":\"$back\",\"no_writers\":true}"
        tested 0
        expect_equal "book.db book.db-wal" "$(cd "$into/data$data" && echo book.db*)" "what was saved"
        expect_equal "ok 2" "$(sqlite3 "$back$data/book.db" 'PRAGMA integrity_check; SELECT count(*) FROM t' | xargs)" "the database that came back"
        # a log that the backup does not have is none to be restored, and one that is there does not fit what is
        expect_exit 0 vssctl restore "$into/manifest.json" --from="$into/data" >/dev/null
        expect_equal 2 "$(sqlite3 "$data/book.db" 'SELECT count(*) FROM t')" "rows of the database in its place"
        touch "$data/book.db-journal"
        expect_exit 4 vssctl restore "$into/manifest.json" --from="$into/data" 2>"$DOC.err" >/dev/null
        line 'the log that is there does not belong to it'
        rm "$data/book.db-journal"
        stop_process "$WRITER_PID"
}

# refused WORDS SELECTION: exit status 2, and the line has these words
refused() {
        echo "$2" >"$selection"
        tested 2
        line "$1"
        [ ! -e "$into" ] || die "a directory was made"
}

case_a_selection_that_is_none_is_refused_with_its_path() {
        local head='"schema":1,"kind":"backup-test"' i
        refused 'expected' '[]'
        refused 'kind' '{"schema":1,"kind":"manifest"}'
        refused 'schema' '{"schema":2,"kind":"backup-test"}'
        refused 'component: names none' "{$head}"
        refused 'component\[1\]: takes WRITER:PATH' "{$head,\"component\":[\"a:b\",\"../x\"]}"
        refused 'type: takes copy' "{$head,\"component\":[\"a:b\"],\"type\":\"all\"}"
        refused 'type' "{$head,\"component\":[\"a:b\"],\"type\":[\"full\"]}"
        refused 'frobnicate' "{$head,\"component\":[\"a:b\"],\"frobnicate\":true}"
        refused 'exec' "{$head,\"component\":[\"a:b\"],\"exec\":\"true\"}"
        refused 'key "component" is given twice' "{$head,\"component\":[\"a:b\"],\"component\":[\"a:b\"]}"
        refused 'restore: key "to" is missing' "{$head,\"component\":[\"a:b\"],\"restore\":{}}"
        refused 'restore.from' "{$head,\"component\":[\"a:b\"],\"restore\":{\"to\":\"/x\",\"from\":\"/y\"}}"
        refused 'restore.to: must not be empty' "{$head,\"component\":[\"a:b\"],\"restore\":{\"to\":\"\"}}"
        refused 'no-writers' "{$head,\"component\":[\"a:b\"],\"restore\":{\"to\":\"/x\",\"no_writers\":true,\"until\":\"now\"}}"
        refused 'deep' "{$head,\"x\":$(printf '[%.0s' {1..500})}"
        refused 'volume\[0\]' "{$head,\"volume\":[7],\"component\":[\"a:b\"]}"
        refused 'bytes' "{$head,\"component\":[\"a:$(head -c 1100000 /dev/zero | tr '\0' b)\"]}"
        refused 'component' "{$head,\"component\":[$(for i in {1..5000}; do printf '"a:b%s",' "$i"; done)\"a:b\"]}"
        refused 'in each other' "{$head,\"component\":[\"a:b\"],\"restore\":{\"to\":\"$into/x\"}}"
        selection=$VSS_TEST_DIR tested 2
        selection=$VSS_TEST_DIR/none tested 4
        expect_exit 2 vssctl test-backup "$selection" 2>"$DOC.err"
        line 'needs --into'
}

start_bus
start_vssd
cases a_whole_backup_comes_back_as_it_was_saved originals_are_not_what_is_read a_writer_that_fails_is_named_with_the_step \
        a_component_that_cannot_be_saved what_came_back_otherwise_is_told an_interrupt_leaves_nothing \
        a_database_that_is_written_to a_selection_that_is_none_is_refused_with_its_path
