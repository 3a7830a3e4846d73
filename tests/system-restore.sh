#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl restore: which components, from where, to where, by which method, and what is left when it fails.
VSS_TEST_SECONDS=150
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.btrfs jq python3

new_fs data btrfs 200M

. "$(dirname "$0")/restore-shop.sh"

case_files_come_back_as_they_were() {
        fill
        ln -s one "$data/a/link"
        truncate -s 8M "$data/a/sparse"
        echo end >>"$data/a/sparse"
        python3 -c 'import os,sys; os.setxattr(sys.argv[1], "user.colour", b"blue")' "$data/a/one"
        chown nobody "$data/a/one"
        chmod 4751 "$data/a/one"
        touch -d '2020-02-02 02:02:02' "$data/a/one"
        document '[]' null
        M=$VSS_TEST_DIR/manifest
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say
        create --manifest="$M" --component=shop:all "$data"
        rm -rf "${data:?}"/a
        echo changed >"$data/b/book1"
        echo new >"$data/b/book9"
        # the snapshots of the manifest, mounted for as long as it takes
        restored 0
        contents "one two book"
        expect_equal "nobody 4751 2020-02-02 02:02:02" "$(stat -c '%U %a %y' "$data/a/one" | cut -d. -f1)" "owner, mode, time"
        expect_equal blue "$(python3 -c 'import os,sys; print(os.getxattr(sys.argv[1], "user.colour").decode())' "$data/a/one")" "attribute"
        expect_equal one "$(readlink "$data/a/link")" "symbolic link"
        expect_equal 8388612 "$(stat -c %s "$data/a/sparse")" "size of the sparse file"
        [ "$(stat -c %b "$data/a/sparse")" -lt 1024 ] || die "holes were filled"
        [ -d "$data/a/deep/empty" ] || die "the empty directory is missing"
        [ ! -e "$data/a/x.pid" ] || die "what is excluded came back"
        expect_equal new "$(cat "$data/b/book9")" "a file of a file group that the backup does not have"
        expect_equal "all all" "$(part .status) $(jq -r '.components[0].files | map(.status) | unique | if . == ["restored"] then "all" else tostring end' "$DOC")" "status"
        grep -qx 'told shop post-restore all status all' "$WRITER_LOG" || die "the writer was not told"
        expect_equal 0 "$(vssctl --json snapshots | jq '[.snapshots[].mounts // [] | length] | add')" "mounts that are left"
        delete_all
}

case_what_the_user_has_mounted_stays() {
        local id mine
        begin_case '[]' null
        id=$(vssctl --json snapshots | jq -er '.snapshots[0].id')
        mine=$(vssctl --json mount "$id" | json .path)
        restored 0
        contents "one two book"
        mountpoint -q "$mine" || die "the restore has unmounted $mine"
        expect_exit 0 vssctl umount "$id"
        expect_equal 0 "$(vssctl --json snapshots | jq '[.snapshots[].mounts // [] | length] | add')" "mounts that are left"
        delete_all
}

case_from_a_directory_of_a_backup_tool() {
        begin_case '[]' null
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "one two book"
        echo changed >"$data/a/one"
        restored 0 --from="$data=$VSS_TEST_DIR/saved$data"
        contents "one two book"
        echo changed >"$data/a/one"
        restored 0 --from="$VSS_TEST_DIR/saved$data" # shows the one volume
        contents "one two book"
        restored 4 --from="$VSS_TEST_DIR/log"
        restored 4 --from=/nonexistent
        delete_all
        restored 4 # the snapshot is gone
        grep -q -- --from "$DOC.err" || die "no hint: $(cat "$DOC.err")"
}

case_only_what_is_chosen() {
        begin_case '[]' null
        restored 0 --from="$VSS_TEST_DIR/saved" --component=shop:all/book
        contents "changed changed book"
        restored 4 --from="$VSS_TEST_DIR/saved" --component=shop:none
        restored 4 --from="$VSS_TEST_DIR/saved" --component=nobody:all
        contents "changed changed book"
        delete_all
}

case_the_method_decides_about_files_that_are_there() {
        begin_case '[]' '{"method":"if-not-there","alternate_locations":[{"root":"'"$data"'/a","pattern":"*","recursive":true,"to":"'"$data"'/alt/a"},{"root":"'"$data"'/b","pattern":"book*","to":"'"$data"'/alt/b"}]}'
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "changed changed changed"
        contents "one two book" "$data/alt"
        expect_equal true "$(part .alternate_used)" "use of the alternate location"
        grep -qx 'told shop post-restore all alternate_used true' "$WRITER_LOG" || die "the writer was not told"
        restored 1 --from="$VSS_TEST_DIR/saved"
        expect_equal none "$(part .status)" "status with both places taken"
        rm -rf "${data:?}/a" "${data:?}/b"
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "one two book"
        expect_equal false "$(part .alternate_used)" "use of the alternate location"
        stop_process "$WRITER_PID"

        begin_case '[]' '{"method":"if-can-replace"}'
        exec {HELD}<"$data/a/deep/two"
        restored 8 --from="$VSS_TEST_DIR/saved"
        contents "changed changed changed"
        exec {HELD}<&-
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "one two book"
        stop_process "$WRITER_PID"

        begin_case '["new-target"]' '{"method":"custom"}'
        restored 0 --from="$VSS_TEST_DIR/saved" --dry-run
        expect_equal "none true" "$(part '|"\(.status) \(.by_writer)"')" "what a dry run says"
        saw shop "$WRITER_LOG" pre-restore && die "a dry run was told to the writer"
        delete_all
        restored 0 # without the backup
        expect_equal "none true 0" "$(part '|"\(.status) \(.by_writer) \(.n_files)"')" "what is left to the writer"
        contents "changed changed changed"
        saw shop "$WRITER_LOG" pre-restore && saw shop "$WRITER_LOG" post-restore || die "the writer was not told"
        restored 10 --from="$VSS_TEST_DIR/saved" --no-writers
        restored 0 --from="$VSS_TEST_DIR/saved" --to="$VSS_TEST_DIR/new/custom"
        contents "one two book" "$VSS_TEST_DIR/new/custom"
        contents "changed changed changed"
        stop_process "$WRITER_PID"
        begin_case '[]' '{"method":"custom"}' --fail=pre-restore
        restored 5
        contents "changed changed changed"
        stop_process "$WRITER_PID"
        begin_case '[]' '{"method":"custom","writer_events":"never"}'
        restored 10 --from="$VSS_TEST_DIR/saved"
        contents "changed changed changed"
        stop_process "$WRITER_PID"
        begin_case '[]' '{"method":"at-reboot"}'
        DOC=$VSS_TEST_DIR/restored.json
        expect_exit 0 vssctl --json restore "$M" --from="$VSS_TEST_DIR/saved" >"$DOC"
        expect_exit 0 vssctl restore --cancel="$(part .plan)" # see system-restore-boot
        contents "changed changed changed"
        delete_all
}

case_a_service_stands_still_for_the_swap() {
        mkdir -p "$VSS_TEST_DIR/bin"
        cat >"$VSS_TEST_DIR/bin/systemctl" <<-'SCRIPT'
		#!/bin/bash
		echo "$* $(cat "$WATCHED")" >>"$CALLS"
		[ "$1" != "$FAILS" ]
	SCRIPT
        chmod 0755 "$VSS_TEST_DIR/bin/systemctl"
        export CALLS=$VSS_TEST_DIR/calls FAILS='' WATCHED=$data/a/one PATH=$VSS_TEST_DIR/bin:$PATH
        # the unit that the document names is not to be trusted
        TYPE=database begin_case '[]' '{"method":"stop-restore-start","service":"sshd.service"}'
        restored 10 --from="$VSS_TEST_DIR/saved"
        contents "changed changed changed"
        [ ! -e "$CALLS" ] || die "called: $(cat "$CALLS")"
        echo later >"$data/a/deep/two.1"
        echo 8 >"$data/a/x.pid"
        cleanup_fn rm -f "$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        echo 'service=shop.service' >"$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        restored 0 --from="$VSS_TEST_DIR/saved"
        expect_equal "stop -- shop.service changed|start -- shop.service one" "$(paste -sd'|' "$CALLS")" "calls, with the file at that moment"
        contents "one two book"
        # a database's directory is as it was, but for what is excluded
        [ ! -e "$data/a/deep/two.1" ] || die "a file that the backup does not have is left in a database"
        expect_equal 8 "$(cat "$data/a/x.pid")" "the excluded file"
        # a service that does not stop is not touched
        echo changed >"$data/a/one"
        : >"$CALLS"
        FAILS=stop restored 1 --from="$VSS_TEST_DIR/saved"
        expect_equal changed "$(cat "$data/a/one")" "file of a service that runs"
        expect_equal none "$(part .status)" "status"
        stop_process "$WRITER_PID"
        rm "$CONFIGURATION_DIRECTORY/writers.d/shop.conf" # no option of the test writer's
        begin_case '[]' '{"method":"restore-stop-start"}'
        : >"$CALLS"
        restored 0 --from="$VSS_TEST_DIR/saved" --service=other.service
        expect_equal "restart -- other.service one" "$(cat "$CALLS")" "calls"
        stop_process "$WRITER_PID"
        # nor is one started whose writer could not tell it to go forward
        begin_case '["roll-forward"]' '{"method":"stop-restore-start"}' --fail=post-restore:1
        : >"$CALLS"
        restored 5 --from="$VSS_TEST_DIR/saved" --service=other.service --until=then
        expect_equal "stop -- other.service changed" "$(cat "$CALLS")" "calls"
        restored 0 --from="$VSS_TEST_DIR/saved" --service=other.service --until=then
        expect_equal "start -- other.service one" "$(tail -n 1 "$CALLS")" "last call"
        stop_process "$WRITER_PID"
        # with more to come it stays stopped, by the first and by one of the middle that fails, until the last
        begin_case '[]' '{"method":"stop-restore-start"}'
        : >"$CALLS"
        restored 0 --from="$VSS_TEST_DIR/saved" --service=other.service --more-follows
        expect_equal "true one" "$(part .service_waits) $(cat "$data/a/one")" "whether the service waits, and the file"
        FAILS=stop restored 1 --from="$VSS_TEST_DIR/saved" --service=other.service --more-follows
        expect_equal "stop stop" "$(cut -d' ' -f1 "$CALLS" | paste -sd' ')" "calls with more to come"
        restored 0 --from="$VSS_TEST_DIR/saved" --service=other.service
        expect_equal "start -- other.service one" "$(tail -n 1 "$CALLS")" "last call of the last restore"
        expect_equal false "$(part .service_waits)" "whether the service waits"
        stop_process "$WRITER_PID"
        begin_case '[]' '{"method":"restore-stop-start"}'
        : >"$CALLS"
        restored 0 --from="$VSS_TEST_DIR/saved" --service=other.service --more-follows
        expect_equal "" "$(cat "$CALLS")" "calls of a restart with more to come"
        delete_all
}

case_new_targets_and_those_of_the_writer() {
        begin_case '["new-target","rename"]' null
        rm -rf "$VSS_TEST_DIR/new"
        restored 0 --from="$VSS_TEST_DIR/saved" --to="$VSS_TEST_DIR/new" --rename=second
        contents "changed changed changed"
        contents "one two book" "$VSS_TEST_DIR/new"
        grep -qx "told shop pre-restore all rename second" "$WRITER_LOG" || die "the writer was not told of the name"
        grep -q "^told shop post-restore all new_targets $data/a=$VSS_TEST_DIR/new/a" "$WRITER_LOG" || die "the writer was not told of the target"
        restored 0 --from="$VSS_TEST_DIR/saved" --to="$data/b=$VSS_TEST_DIR/new/c" --component=shop:all/book
        expect_equal book "$(cat "$VSS_TEST_DIR/new/c/book1")" "file by a root of its own"
        stop_process "$WRITER_PID"
        begin_case '[]' null
        restored 10 --from="$VSS_TEST_DIR/saved" --to="$VSS_TEST_DIR/new"
        stop_process "$WRITER_PID"
        local alternates='[{"root":"'"$data"'/a","pattern":"*","recursive":true,"to":"'"$data"'/alt/a"},{"root":"'"$data"'/b","pattern":"book*","to":"'"$data"'/alt/b"}]'
        begin_case '[]' '{"method":"alternate","alternate_locations":'"$alternates"'}'
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "changed changed changed"
        contents "one two book" "$data/alt"
        stop_process "$WRITER_PID"
        begin_case '[]' '{"method":"alternate","alternate_locations":'"$alternates"'}' --answer=pre-restore:all:target=original-location
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "one two book"
        stop_process "$WRITER_PID"
        begin_case '[]' '{"alternate_locations":'"$alternates"'}' --answer=pre-restore:all:target=alternate
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "changed changed changed"
        contents "one two book" "$data/alt"
        stop_process "$WRITER_PID"
        # bytes 1 and 2 of "one" over bytes 3 and 4 of another file; the rest goes where it was
        begin_case '[]' null --answer=pre-restore:all:target=directed \
                --answer=pre-restore:all:directed_targets='[{"path":"'"$data"'/a/one","ranges":[[0,2]],"to":"'"$data"'/b/other","to_ranges":[[2,2]]}]'
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "changed two book"
        expect_equal otonr "$(cat "$data/b/other")" "the directed file"
        delete_all
}

case_a_dry_run_and_one_without_writers() {
        begin_case '[]' null
        restored 0 --from="$VSS_TEST_DIR/saved" --dry-run
        contents "changed changed changed"
        expect_equal "true null none" "$(jq -r '"\(.dry_run) \(.session) \(.components[0].status)"' "$DOC")" "document"
        grep -q ^told "$WRITER_LOG" && grep -q restore "$WRITER_LOG" && die "the writer was called"
        stop_process "$WRITER_PID"
        restored 4 --from="$VSS_TEST_DIR/saved"
        grep -q 'without it' "$DOC.err" || die "no hint: $(cat "$DOC.err")"
        restored 4 --from="$VSS_TEST_DIR/saved" --dry-run
        contents "changed changed changed"
        restored 2 --from="$VSS_TEST_DIR/saved" --no-writers --until=now
        restored 0 --from="$VSS_TEST_DIR/saved" --no-writers
        contents "one two book"
        delete_all
}

case_the_snapshots_of_a_volume_are_no_files_of_it() {
        local type
        M=$VSS_TEST_DIR/manifest
        chmod 0755 "$VSS_TEST_DIR" "$VSS_TEST_DIR/etc" "$VSS_TEST_DIR/etc/writers.d"
        printf '[Writer]\nUser=nobody\n' >"$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null
        for type in file-group database; do
                fill
                chmod 755 "$data"
                cat >"$VSS_TEST_DIR/doc" <<-DOCUMENT
			{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"shop"},"backup_schema":[],"restore":null,
			 "components":[{"path":"all","type":"$type","selectable":true,"files":[{"root":"$data","pattern":"*","recursive":true}]}]}
		DOCUMENT
                chown -R nobody "$data/a" "$data/b"
                chown nobody "$data"
                rm -f "$VSS_TEST_DIR/nobody.log"
                (become nobody "$VSS_BUILD/writers/vss-testwriter" --name=shop --document="$VSS_TEST_DIR/doc") >"$VSS_TEST_DIR/nobody.log" 2>&1 &
                WRITER_PID=$!
                cleanup_fn stop_process "$WRITER_PID"
                wait_until 10 grep -q '^ready ' "$VSS_TEST_DIR/nobody.log" || die "no writer: $(cat "$VSS_TEST_DIR/nobody.log")"
                create --manifest="$M" --component=shop:all "$data"
                echo changed >"$data/a/one"
                restored 0
                contents "one two book"
                expect_equal "root 700" "$(stat -c '%U %a' "$data/.vss")" "who may see the snapshots"
                restored 0
                rm -rf "$data/a"
                restored 0 --no-writers
                expect_equal "root 700" "$(stat -c '%U %a' "$data/.vss")" "who may see the snapshots, after a restore without writers"
                contents "one two book"
                stop_process "$WRITER_PID"
                delete_all
                chown root "$data"
        done
        rm "$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null
}

case_nothing_is_half_done() {
        begin_case '[]' null
        # one file cannot be written: nothing of the component is touched
        rm "$data/a/deep/two" && mkdir "$data/a/deep/two"
        restored 1 --from="$VSS_TEST_DIR/saved"
        expect_equal "changed changed" "$(cat "$data/a/one" "$data/b/book1" | xargs)" "the other files"
        expect_equal none "$(part .status)" "status"
        part '.files[0] | "\(.status) \(.path)"' | grep -qx "failed $data/a/deep/two" || die "files: $(part .files)"
        rmdir "$data/a/deep/two"
        # a link on the way leads out of the target
        mkdir -p "$VSS_TEST_DIR/elsewhere/deep"
        mv "$data/a" "$data/moved" && ln -s "$VSS_TEST_DIR/elsewhere" "$data/a"
        restored 1 --from="$VSS_TEST_DIR/saved"
        rm "$data/a" && mv "$data/moved" "$data/a"
        rm -rf "$data/a/deep" && ln -s "$VSS_TEST_DIR/elsewhere/deep" "$data/a/deep"
        restored 1 --from="$VSS_TEST_DIR/saved"
        expect_equal "" "$(find "$VSS_TEST_DIR/elsewhere" -type f)" "files behind the link"
        rm "$data/a/deep"
        restored 0 --from="$VSS_TEST_DIR/saved"
        contents "one two book"
        # a manifest that was edited
        sed "s|$data/a|/etc/cron.d|" "$M" >"$M.edited"
        expect_exit 11 vssctl restore "$M.edited" --no-writers --from="$VSS_TEST_DIR/saved"
        delete_all
}

case_the_manifest_tells_what_became_of_it() {
        begin_case '["new-target"]' null
        local kept
        kept=$(jq -S 'del(.digest) | del(.writers[].components[].restore)' <"$M")
        restored 0 --from="$VSS_TEST_DIR/saved" --report="$VSS_TEST_DIR/report" --dry-run
        [ ! -e "$VSS_TEST_DIR/report" ] || die "a dry run leaves a report"
        restored 0 --from="$VSS_TEST_DIR/saved" --to="$VSS_TEST_DIR/new/r" --report="$VSS_TEST_DIR/report"
        expect_equal "all all original" "$(jq -r '.writers[0].components[0].restore | "\(.path) \(.status) \(.target)"' "$VSS_TEST_DIR/report")" "what the report says"
        expect_equal "$data/a $VSS_TEST_DIR/new/r/a" "$(jq -r '.writers[0].components[0].restore.new_targets[0] | join(" ")' "$VSS_TEST_DIR/report")" "where it went"
        expect_equal "$kept" "$(jq -S 'del(.digest) | del(.writers[].components[].restore)' <"$VSS_TEST_DIR/report")" "everything else"
        # in place of the manifest itself, and that is a manifest: its digest is checked
        M=$VSS_TEST_DIR/report
        chattr +i "$data/a/one" 2>/dev/null || chmod 0 "$data/a/one"
        if lsattr "$data/a/one" | grep -q '^[^ ]*i'; then
                restored 3 --from="$VSS_TEST_DIR/saved" --report="$M"
                expect_equal "none restore 0" "$(jq -r '.writers[0].components[0].restore | "\(.status) \(.failures[0].event) \(.new_targets | length)"' "$M")" "a failure in the report"
                chattr -i "$data/a/one"
        fi
        restored 0 --from="$VSS_TEST_DIR/saved" --report="$M"
        expect_equal "all 0" "$(jq -r '.writers[0].components[0].restore | "\(.status) \(.failures | length)"' "$M")" "the restore that went well"
        restored 1 --from="$VSS_TEST_DIR/saved" --report="$VSS_TEST_DIR/missing/report"
        contents "one two book"
        delete_all
}

case_another_instance_takes_it_over() {
        begin_case '["move","rename"]' null
        local old=$WRITER_PID
        sed 's|"name":"shop"|"name":"shop","instance":"two"|' "$VSS_TEST_DIR/doc" >"$VSS_TEST_DIR/doc2"
        testwriter --name=shop --instance=two --document="$VSS_TEST_DIR/doc2" --say
        stop_process "$old"
        restored 4 --from="$VSS_TEST_DIR/saved"
        restored 4 --from="$VSS_TEST_DIR/saved" --instance=three
        restored 0 --from="$VSS_TEST_DIR/saved" --instance=two --rename=second
        grep -qx 'told shop pre-restore all rename second' "$WRITER_LOG" || die "the other instance was not told"
        grep -qx 'told shop post-restore all status all' "$WRITER_LOG" || die "the other instance did not hear the end"
        contents "one two book"
        delete_all
}

# what an account's writer says about places must not become root's writing there
case_a_writer_of_another_account_decides_with_its_rights() {
        M=$VSS_TEST_DIR/manifest
        document '["new-target"]' '{"method":"alternate","alternate_locations":[{"root":"'"$data"'/a","pattern":"*","recursive":true,"to":"'"$data"'/roots/a"},{"root":"'"$data"'/b","pattern":"book*","to":"'"$data"'/b/again"}]}'
        fill
        mkdir "$data/roots"
        chown -R nobody:"$(id -gn nobody)" "$data/a" "$data/b"
        chmod 0755 "$VSS_TEST_DIR" "$VSS_TEST_DIR/etc" "$VSS_TEST_DIR/etc/writers.d"
        cleanup_fn rm -f "$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        printf '[Writer]\nUser=nobody\n' >"$CONFIGURATION_DIRECTORY/writers.d/shop.conf"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null
        (become nobody "$VSS_BUILD/writers/vss-testwriter" --name=shop --document="$VSS_TEST_DIR/doc") >"$VSS_TEST_DIR/nobody.log" 2>&1 &
        cleanup_fn stop_process $!
        wait_until 10 grep -q ^ready "$VSS_TEST_DIR/nobody.log" || die "no writer: $(cat "$VSS_TEST_DIR/nobody.log")"
        create --manifest="$M" --component=shop:all "$data"
        rm -rf "$VSS_TEST_DIR/saved" "$VSS_TEST_DIR/new" && mkdir -p "$VSS_TEST_DIR/saved$data"
        cp -a "$data/." "$VSS_TEST_DIR/saved$data"
        restored 3 --from="$VSS_TEST_DIR/saved"
        expect_equal "" "$(find "$data/roots" -mindepth 1)" "what was written with root's rights"
        restored 0 --from="$VSS_TEST_DIR/saved" --component=shop:all/book
        expect_equal "book nobody" "$(cat "$data/b/again/book1") $(stat -c %U "$data/b/again/book1")" "file in a directory of its own"
        # a place that the caller names is the caller's
        restored 0 --from="$VSS_TEST_DIR/saved" --to="$VSS_TEST_DIR/new"
        contents "one two book" "$VSS_TEST_DIR/new"
        delete_all
}

start_bus
start_vssd
cases files_come_back_as_they_were what_the_user_has_mounted_stays from_a_directory_of_a_backup_tool only_what_is_chosen the_method_decides_about_files_that_are_there \
        a_service_stands_still_for_the_swap new_targets_and_those_of_the_writer a_dry_run_and_one_without_writers the_snapshots_of_a_volume_are_no_files_of_it nothing_is_half_done \
        the_manifest_tells_what_became_of_it another_instance_takes_it_over a_writer_of_another_account_decides_with_its_rights
