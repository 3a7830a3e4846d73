#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What vssctl restore must not touch: what was there and is no part of the backup, whatever was mistyped, is not mounted, or is
# said by a writer that is not root's.
VSS_TEST_SECONDS=120
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.btrfs mkfs.ext4 jq

new_fs data btrfs 200M
. "$(dirname "$0")/restore-shop.sh"
saved=$VSS_TEST_DIR/saved new=$VSS_TEST_DIR/new
live() { contents "changed changed changed"; }

case_a_mistyped_place_is_no_place() {
        begin_case '["new-target"]' null
        rm -rf "$new"
        restored 2 --from="$saved" --to="$data/typo=$new"
        restored 2 --from="$saved" --to="$data/a=$new" # where does b go?
        restored 2 --from="$saved" --to="$data=$new/../up"
        restored 2 --from="$saved" --to="$data/a=$new" --to="$data/a/=$new/other" --to="$data/b=$new"
        live
        [ ! -e "$new" ] || die "something was made: $(find "$new")"
        restored 0 --from="$saved" --to="$data//./=$new/"
        contents "one two book" "$new"
        live
        delete_all
}

case_a_directory_that_is_used_is_not_taken_for_the_database() {
        TYPE=database begin_case '["new-target"]' null
        rm -rf "$new"
        mkdir -p "$new/a"
        chmod 1777 "$new/a"
        echo mine >"$new/a/mine"
        restored 1 --from="$saved" --to="$new"
        expect_equal "mine 1777" "$(cat "$new/a/mine") $(stat -c %a "$new/a")" "a directory that is not empty"
        restored 0 --from="$saved" --to="$new" --keep-extra
        contents "one two book" "$new"
        expect_equal "mine 1777" "$(cat "$new/a/mine") $(stat -c %a "$new/a")" "a directory that others use, too"
        live
        delete_all
}

case_a_backup_that_shows_nothing_removes_nothing() {
        TYPE=database begin_case '[]' null
        mkdir -p "$VSS_TEST_DIR/empty/a" "$VSS_TEST_DIR/empty/b"
        restored 4 --from="$data=$VSS_TEST_DIR/empty"
        restored 4 --from="$VSS_TEST_DIR/empty"
        live
        delete_all
}

case_a_volume_inside_comes_back_and_is_not_emptied() {
        new_fs log ext4 32M
        fill
        mkdir "$data/a/log"
        mount --bind "$log" "$data/a/log"
        cleanup_fn eval 'umount -l "$data/a/log" 2>/dev/null || :'
        echo segment >"$data/a/log/1"
        TYPE=database document '[]' null
        M=$VSS_TEST_DIR/manifest
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say
        create --manifest="$M" --component=shop:all --closure=ignore "$data"
        echo later >"$data/a/log/2"
        echo later >"$data/a/later"
        # only the outer one is shown: it has an empty directory there
        restored 0
        expect_equal "segment later" "$(cat "$data/a/log/1" "$data/a/log/2" | xargs)" "files of a volume that the backup does not show"
        [ ! -e "$data/a/later" ] || die "a file that the backup does not have is left"
        # the inner one is shown by a source of its own
        rm -rf "$saved" && mkdir -p "$saved/a/log" "$saved/b" "$VSS_TEST_DIR/inner"
        cp -a "$data/b/." "$saved/b" && cp "$data/a/one" "$saved/a" && echo segment >"$VSS_TEST_DIR/inner/1"
        echo changed >"$data/a/log/1"
        restored 0 --from="$data=$saved" --from="$data/a/log=$VSS_TEST_DIR/inner"
        expect_equal "segment 1" "$(cat "$data/a/log/1") $(cd "$data/a/log" && echo [0-9]*)" "files of a volume that the backup shows"
        delete_all
        umount "$data/a/log"
        rmdir "$data/a/log"
}

case_what_was_kept_out_of_the_backup_stays() {
        TYPE=database begin_case '["incremental"]' null
        sed -i 's|"exclude":|"exclude_from_snapshot":[{"root":"'"$data"'/a","pattern":"*.cache","recursive":true}],"exclude":|' "$VSS_TEST_DIR/doc"
        stop_process "$WRITER_PID"
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say
        create --manifest="$M" --component=shop:all "$data"
        echo warm >"$data/a/deep/x.cache"
        echo later >"$data/a/later"
        restored 0 --from="$saved"
        expect_equal warm "$(cat "$data/a/deep/x.cache")" "a file that no copy can have"
        [ ! -e "$data/a/later" ] || die "a file that the backup does not have is left"
        # an increment is not all there was
        create --manifest="$M" --component=shop:all --type=incremental "$data"
        rm "$saved$data/a/deep/two"
        restored 0 --from="$saved"
        expect_equal two "$(cat "$data/a/deep/two")" "a file that the increment does not have"
        delete_all
}

# its answer must not send root's writing anywhere
case_a_writer_directs_nothing_where_the_caller_has_said_where() {
        M=$VSS_TEST_DIR/manifest
        document '["new-target"]' null
        fill
        chmod 0755 "$VSS_TEST_DIR" "$VSS_TEST_DIR/etc" "$VSS_TEST_DIR/etc/writers.d"
        chown -R nobody:"$(id -gn nobody)" "$data/a" "$data/b"
        cleanup_fn rm -f "$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        printf '[Writer]\nUser=nobody\n' >"$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null
        (become nobody "$VSS_BUILD/writers/vss-testwriter" --name=shop --document="$VSS_TEST_DIR/doc" --answer=pre-restore:all:target=directed \
                --answer=pre-restore:all:directed_targets='[{"path":"'"$data"'/a/one","ranges":[],"to":"'"$data"'/passwd","to_ranges":[]}]') >"$VSS_TEST_DIR/nobody.log" 2>&1 &
        cleanup_fn stop_process $!
        wait_until 10 grep -q ^ready "$VSS_TEST_DIR/nobody.log" || die "no writer: $(cat "$VSS_TEST_DIR/nobody.log")"
        create --manifest="$M" --component=shop:all "$data"
        rm -rf "$saved" "$new" && mkdir -p "$saved$data"
        cp -a "$data/." "$saved$data"
        echo root >"$data/passwd"
        restored 3 --from="$saved"
        restored 0 --from="$saved" --to="$new"
        contents "one two book" "$new"
        expect_equal root "$(cat "$data/passwd")" "a file of root's that the writer named"
        delete_all
}

start_bus
start_vssd
cases a_mistyped_place_is_no_place a_directory_that_is_used_is_not_taken_for_the_database a_backup_that_shows_nothing_removes_nothing \
        a_volume_inside_comes_back_and_is_not_emptied what_was_kept_out_of_the_backup_stays \
        a_writer_directs_nothing_where_the_caller_has_said_where
