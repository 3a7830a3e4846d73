#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What was saved of changes goes onto the backup before it: parts of files, and files that had changed. What does not fit
# replaces nothing.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.btrfs jq python3
watchdog 110

new_fs data btrfs 200M
. "$(dirname "$0")/restore-shop.sh"

# pages FILE LETTER…: a file of one 4096 byte page for each
pages() { python3 -c 'import sys; open(sys.argv[1], "wb").write(b"".join(c.encode() * 4096 for c in sys.argv[2:]))' "$@"; }
letters() { python3 -c 'import sys; d = open(sys.argv[1], "rb").read(); print("".join(chr(d[i]) if d[i] else "0" for i in range(0, len(d), 4096)), len(d))' "$1"; }

# increment PARTIAL DIFFERENCED: a writer that saved those; the manifest is in M, the files of the increment in saved
increment() {
        begin_case '["incremental","last-modify","new-target"]' null ${1:+--answer=prepare-backup:all:partial_files="$1"} ${2:+--answer=post-snapshot:all:differenced_files="$2"}
        pages "$data/a/one" A B C D
        create --type=incremental --partial-files --manifest="$M" --component=shop:all "$data"
        rm -rf "${VSS_TEST_DIR:?}/saved"
        mkdir -p "$VSS_TEST_DIR/saved$data/a" "$VSS_TEST_DIR/saved$data/b"
        pages "$VSS_TEST_DIR/saved$data/a/one" 0 b 0 d e # page 0 and 2 were not saved
        echo newer >"$VSS_TEST_DIR/saved$data/b/book1"
}
over() { stop_process "$WRITER_PID"; delete_all; }
merge() { restored "$1" --from="$VSS_TEST_DIR/saved" --merge "${@:2}"; }
unharmed() { expect_equal "ABCD 16384" "$(letters "$data/a/one")" "a file that nothing was to happen to"; }

case_parts_go_into_the_file_before() {
        increment "[{\"path\":\"$data/a/one\",\"ranges\":[[4096,4096],[12288,8192]]}]"
        restored 10 --from="$VSS_TEST_DIR/saved"
        grep -q -- --merge "$DOC.err" || die "no hint: $(cat "$DOC.err")"
        unharmed
        chmod 640 "$data/a/one"
        merge 0 --dry-run
        unharmed
        exec {HELD}<"$data/a/one" # whoever reads it goes on reading what it was
        restored 8 --from="$VSS_TEST_DIR/saved" --merge
        unharmed
        exec {HELD}<&-
        merge 0
        expect_equal "AbCde 20480" "$(letters "$data/a/one")" "the file with the parts in it"
        expect_equal 640 "$(stat -c %a "$data/a/one")" "mode of the file that was there"
        expect_equal "changed newer" "$(xargs <<<"$(cat "$data/a/deep/two" "$data/b/book1")")" "other files"
        # once more is the same
        merge 0
        expect_equal "AbCde 20480" "$(letters "$data/a/one")" "the same, done twice"
        # beside it: onto what the backup before was restored to there
        mkdir -p "$VSS_TEST_DIR/new/m/a"
        merge 1 --to="$VSS_TEST_DIR/new/m"
        [ ! -e "$VSS_TEST_DIR/new/m/a/one" ] && [ ! -e "$VSS_TEST_DIR/new/m/b/book1" ] || die "parts without a file before them were restored"
        pages "$VSS_TEST_DIR/new/m/a/one" V W X Y Z
        merge 0 --to="$VSS_TEST_DIR/new/m"
        expect_equal "VbXde 20480" "$(letters "$VSS_TEST_DIR/new/m/a/one")" "the file elsewhere"
        expect_equal "AbCde 20480" "$(letters "$data/a/one")" "the file in its place"
        over
}

case_what_does_not_fit_replaces_nothing() {
        increment "[{\"path\":\"$data/a/one\",\"ranges\":[[4096,4096],[12288,8192]]}]"
        truncate -s 20479 "$VSS_TEST_DIR/saved$data/a/one"
        merge 1
        unharmed
        expect_equal changed "$(cat "$data/b/book1")" "another file of the component"
        rm "$data/a/one" # what it belongs onto is not there
        pages "$VSS_TEST_DIR/saved$data/a/one" 0 b 0 d e
        merge 1
        [ ! -e "$data/a/one" ] || die "a file was made of parts"
        ln -s "$data/b/other" "$data/a/one"
        merge 1
        expect_equal "other" "$(cat "$data/b/other")" "what a link points to"
        rm "$data/a/one"
        mkdir "$data/a/one"
        merge 1
        rmdir "$data/a/one"
        over
        # a file that is in no file set of the component is not written, whatever the list says
        mkdir -p "$data/b"
        increment "[{\"path\":\"$data/b/other\",\"ranges\":[[0,4]]}]"
        echo evil >"$VSS_TEST_DIR/saved$data/b/other"
        merge 4
        expect_equal other "$(cat "$data/b/other")" "a file of somebody else"
        unharmed
        over
        # the manifest is anybody's: one that does not say what it means is refused
        local list bad=$VSS_TEST_DIR/bad good
        increment "[{\"path\":\"$data/a/one\",\"ranges\":[[4096,4096]]}]"
        good=$M
        for list in '[{"path":"a/one","ranges":[[0,1]]}]' '[{"path":"'"$data"'/../one","ranges":[[0,1]]}]' '[{"path":"'"$data"'/a/one","ranges":[]}]' \
                '[{"path":"'"$data"'/a/one","ranges":[[0]]}]' '[{"path":"'"$data"'/a/one","ranges":[[-1,4]]}]' '[{"path":"'"$data"'/a/one","ranges":[[1,9223372036854775807]]}]' \
                '[{"path":"'"$data"'/a/one","ranges":[["0","1"]]}]' '[{"path":"'"$data"'/a/one"}]' '[17]' '[{"ranges":[[0,1]]}]'; do
                python3 - "$good" "$bad" "$list" <<'PYTHON'
import hashlib, json, re, sys
text = open(sys.argv[1]).read()
start = text.index('"partial_files":[{')
_, end = json.JSONDecoder().raw_decode(text, start + len('"partial_files":'))
text = text[:start] + '"partial_files":' + sys.argv[3] + text[end:]
text = re.sub(r'"digest":"[^"]*"', '"digest":""', text)
digest = hashlib.sha256(text.encode()).hexdigest()
open(sys.argv[2], "w").write(text.replace('"digest":""', '"digest":"sha256:' + digest + '"'))
PYTHON
                M=$bad
                merge 2
                unharmed
        done
        M=$good
        over
}

case_files_that_had_changed() {
        increment '' "[{\"root\":\"$data/b\",\"pattern\":\"book*\",\"recursive\":false,\"since\":0}]"
        rm -r "$VSS_TEST_DIR/saved$data/a/one"
        restored 10 --from="$VSS_TEST_DIR/saved"
        expect_equal changed "$(cat "$data/b/book1")" "without the word for it"
        merge 0
        expect_equal newer "$(cat "$data/b/book1")" "a file that had changed"
        unharmed
        over
}

start_bus
start_vssd
mkdir "$VSS_TEST_DIR/new"
cases parts_go_into_the_file_before what_does_not_fit_replaces_nothing files_that_had_changed
