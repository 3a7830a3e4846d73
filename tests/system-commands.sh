#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The promises of the command line, one after the other, against the real service: which check comes first, what ids mean, what a
# dry run leaves alone, that --json is one document, what each option does.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs python3
watchdog 300

new_fs one ext4 32M
new_fs two ext4 32M
new_fs tree btrfs 128M
echo content >"$tree/file"
out=$VSS_TEST_DIR/out err=$VSS_TEST_DIR/err

# code CODE ARGUMENT…: with --json: exactly one document on stdout also when it fails, then one line on stderr
code() {
        local got=0
        vssctl --json "${@:2}" >"$out" 2>"$err" </dev/null || got=$?
        [ $got -eq "$1" ] || die "'vssctl ${*:2}' ended with $got, expected $1: $(cat "$out" "$err")"
        expect_equal 1 "$(jq -s length <"$out")" "documents of '${*:2}'"
        expect_equal 1 "$(jq .schema <"$out")" "schema of '${*:2}'"
        if [ "$1" -eq 0 ]; then
                [ ! -s "$err" ] || die "'${*:2}' wrote on stderr: $(cat "$err")"
        else
                expect_equal 1 "$(wc -l <"$err")" "lines on stderr of '${*:2}'"
                [ "$(jq -r .error.message <"$out")" != null ] || die "no message: $(cat "$out")"
        fi
}
# as_nobody CODE ARGUMENT…
as_nobody() {
        local got=0
        run_as nobody "$VSS_BUILD/client/vssctl" "${@:2}" >"$out" 2>"$err" </dev/null || got=$?
        [ $got -eq "$1" ] || die "nobody: '${*:2}' ended with $got, expected $1: $(cat "$out" "$err")"
}
wide_writer() {
        cat >"$CONFIGURATION_DIRECTORY/writers.d/wide.json" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],
		 "writer":{"name":"wide","instance":"","version":"1","level":"back-end","usage":"user-data","source":"transacted"},
		 "backup_schema":["copy"],
		 "components":[{"path":"both","type":"database","caption":"on two volumes","selectable":true,
		  "files":[{"role":"data","root":"$one","pattern":"*","recursive":true},
		   {"role":"log","root":"$two","pattern":"*","recursive":true}]}]}
	DOCUMENT
        reload
}
reload() { bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null || die "Reload failed"; }
no_wide_writer() {
        rm "$CONFIGURATION_DIRECTORY/writers.d/wide.json"
        reload
}

case_checks_come_in_their_order() {
        local long
        long=/$(head -c 4097 /dev/zero | tr '\0' x)
        wide_writer
        # syntax before everything
        code 2 create /no/such/path --require=best
        code 2 create "$tree" ''
        code 2 create "$long"
        code 2 show ''
        code 2 delete "$long"
        # unknown names before closure, rights and suitability
        code 4 create /no/such/path --provider=null
        code 4 create /proc /no/such/path
        code 4 create /proc --provider=unheard-of
        code 4 create /proc --writer=unheard-of
        code 4 create "$one" --provider=null --component=wide:unheard-of
        code 4 create "$one" --provider=null --component=unheard-of:both
        # closure before suitability
        code 9 create "$one" --provider=btrfs
        for word in wide both "$two"; do jq -r .error.message <"$out" | grep -qF "$word" || die "the error does not name $word: $(cat "$out")"; done
        expect_equal org.vssd.Vss1.Error.VolumeMissing "$(json .error.name <"$out")" "name"
        # rights before suitability, and the same answer for what may not be seen
        as_nobody 3 create /proc
        as_nobody 3 create "$one"
        mkdir -m 700 "$VSS_TEST_DIR/secret" && mkdir "$VSS_TEST_DIR/secret/there"
        as_nobody 3 create "$VSS_TEST_DIR/secret/missing"
        sed "s/missing/X/g" "$err" >"$VSS_TEST_DIR/missing.err"
        as_nobody 3 create "$VSS_TEST_DIR/secret/there"
        sed "s/there/X/g" "$err" | cmp - "$VSS_TEST_DIR/missing.err" || die "nobody learns what is in a directory that is not his"
        # suitability before the turn
        no_wide_writer
        testwriter --name=slow --volume="$one" --late=prepare-snapshot:2500
        vssctl --json create --provider=null "$one" >"$VSS_TEST_DIR/first.json" 2>/dev/null &
        local first=$!
        seen() { vssctl --json sets | jq -e '.sets[] | select(.state == "running" and .phase == "prepare-snapshot")' >/dev/null; }
        wait_until 10 seen || die "the first set does not start"
        code 10 create /proc --wait-for-turn=0
        code 8 create --provider=null "$one" --wait-for-turn=0
        jq -r .error.message <"$out" | grep -q "$(vssctl --json status | jq -r '.running[0].id')" || die "the owner is not named: $(cat "$out")"
        jq -r .error.message <"$out" | grep -q vssctl || die "the owner's requester is not named: $(cat "$out")"
        code 8 create --provider=null "$one" --wait-for-turn=0.3
        wait $first || die "the first set failed"
        delete_all
}

case_closure_does_what_it_is_told() {
        wide_writer
        code 9 create --provider=null --closure=strict "$one"
        code 9 create --provider=null --closure=strict --component=wide:both "$one"
        create --provider=null --closure=extend "$one"
        expect_equal "$one $two" "$(set_field '[.snapshots[].mountpoint] | sort | join(" ")')" "volumes of extend"
        expect_equal application "$(set_field .consistency)" "level of extend"
        create --provider=null --component=wide:both "$one"
        expect_equal 2 "$(set_field '.snapshots | length')" "extend is the default with --component"
        create --provider=null --closure=ignore "$one"
        expect_equal filesystem "$(set_field .consistency)" "level of ignore"
        code 9 create --provider=null --closure=ignore --require=application "$one"
        code 0 plan --provider=null "$one" --closure=extend
        expect_equal "$one $two" "$(jq -r '[.volumes[].volume] | sort | join(" ")' <"$out")" "volumes of the plan"
        no_wide_writer
        delete_all
}

case_nested_takes_what_is_mounted_below() {
        mkdir -p "$tree/below" "$tree/ram"
        mount --bind "$one" "$tree/below"
        cleanup_fn umount "$tree/below"
        mount -t tmpfs none "$tree/ram"
        cleanup_fn umount "$tree/ram"
        create "$tree"
        expect_equal 1 "$(set_field '.snapshots | length')" "one VOLUME is one file system"
        local status=0
        vssctl --json create --nested "$tree" >"$out" 2>"$err" || status=$?
        # what no provider can take is left out and named, like what has no disk
        expect_equal 0 $status "exit code of --nested: $(cat "$out")"
        expect_equal "$tree" "$(jq -r '[.snapshots[].volume] | join(" ")' <"$out")" "volumes"
        # the ext4 by one of the two places where it is mounted
        for left in "$one|$tree/below" "$tree/ram"; do
                jq -r '.warnings[]' <"$out" | grep -E "^left out: ($left)" >/dev/null || die "$left is left out and not listed: $(jq -c .warnings <"$out")"
        done
        delete_all
        vssctl --json create --nested --provider=null "$tree" >"$out" || die "nested with a provider for all: $(cat "$out")"
        expect_equal 2 "$(jq '.snapshots | length' <"$out")" "volumes of --nested with a provider that takes all: $(jq -c '[.snapshots[].volume]' <"$out")"
        delete_all
}

case_require_is_a_floor() {
        testwriter --name=one --volume="$one"
        code 0 create --provider=null --require=application "$one"
        code 9 create --provider=null --require=application "$two"
        code 9 create --provider=null --require=application "$one" "$two"
        code 0 create --provider=null --require=filesystem "$one" "$two"
        expect_equal filesystem "$(json .consistency <"$out")" "level"
        code 0 create --provider=null --no-writers --require=crash "$one"
        stop_process "$WRITER_PID"
        # below application a writer's failure only lowers the level; known only afterwards it is 9 too
        testwriter --name=one --volume="$one" --fail=post-snapshot
        code 0 create --provider=null --require=filesystem "$one"
        expect_equal filesystem "$(json .consistency <"$out")" "level after a failure"
        code 5 create --provider=null "$one"
        code 9 create --provider=null --on-writer-failure=degrade --require=application "$one"
        delete_all
        no_snapshots "after refused levels"
}

case_ids_are_uuid_prefix_or_alias() {
        create "$tree" --label=alias=mine
        local id=$SET copy
        copy=$(set_field '.snapshots[0].id')
        for name in "$id" "${id^^}" "${id:0:4}" "${id:0:9}" mine; do
                code 0 show "$name"
                expect_equal "$id" "$(json .set <"$out")" "what $name means"
        done
        code 0 show "${copy:0:6}"
        expect_equal "$copy" "$(json .id <"$out")" "what a prefix of a snapshot means"
        for name in "${id:0:3}" "${id}0" "mine2" "../$id" "%s"; do code 4 show "$name"; done
        for verb in mount umount complete cancel delete timeline; do code 4 $verb "${id:0:3}"; done
        delete_all
}

case_a_dry_run_changes_nothing() {
        create "$tree" --label=alias=dry
        local copy sets snapshots
        copy=$(set_field '.snapshots[0].id')
        sets=$(vssctl --json sets | jq -S -c .) snapshots=$(vssctl --json snapshots | jq -S -c .)
        testwriter --name=dry --volume="$tree"
        code 0 create "$tree" --dry-run
        expect_equal "$tree" "$(jq -r '.volumes[0].volume' <"$out")" "what it would take"
        code 10 create /proc --dry-run
        code 0 complete dry --dry-run
        code 0 delete dry --dry-run
        code 0 delete --volume="$tree" --all --dry-run
        code 0 delete --volume="$tree" --oldest --dry-run
        code 0 mount "$copy" --dry-run
        code 0 mount "$copy" "$VSS_TEST_DIR/dry" --dry-run
        [ ! -e "$VSS_TEST_DIR/dry" ] || die "a dry run makes a directory"
        expect_exit 0 vssctl run --dry-run "$tree" -- touch "$VSS_TEST_DIR/ran" >/dev/null
        [ ! -e "$VSS_TEST_DIR/ran" ] || die "a dry run runs"
        expect_equal "$sets" "$(vssctl --json sets | jq -S -c .)" "sets"
        expect_equal "$snapshots" "$(vssctl --json snapshots | jq -S -c .)" "snapshots"
        expect_equal identify "$(events dry "$WRITER_LOG" | sort -u | xargs)" "what the writer heard"
        vssctl mount "$copy" >"$VSS_TEST_DIR/mounted"
        code 0 umount "$copy" --dry-run
        mountpoint -q "$(cat "$VSS_TEST_DIR/mounted")" || die "a dry run unmounts"
        code 0 umount "$copy"
        code 4 delete 00000000-0000-0000-0000-000000000000 --dry-run
        code 1 cancel dry --dry-run
        delete_all
}

case_every_failure_is_one_document() {
        local verb
        for verb in "show nothing" "plan /no/such" "create /no/such" "mount nothing" "umount nothing" "complete nothing" "cancel nothing" \
                "delete nothing" "timeline nothing" "writers nothing" "snapshots --volume=/no/such"; do
                # shellcheck disable=SC2086
                code 4 $verb
        done
        for verb in "frobnicate" "show" "create" "run" "mount" "delete" "status extra" "create $tree --no-such-option" "timeline"; do
                # shellcheck disable=SC2086
                code 2 $verb
        done
        # global options before or after the verb
        expect_exit 4 vssctl show nothing --json >"$out" 2>/dev/null
        expect_equal 1 "$(jq -s length <"$out")" "documents"
        vssctl -q create /no/such 2>"$err" && die "it worked"
        expect_equal 1 "$(wc -l <"$err")" "lines of an error with -q"
        vssctl -q create "$tree" >"$out" 2>"$err" || die "-q fails"
        [ ! -s "$err" ] || die "-q writes on stderr: $(cat "$err")"
        delete_all
}

case_the_document_of_create_is_as_promised() {
        testwriter --name=one --volume="$one"
        bus_call org.freedesktop.DBus / org.freedesktop.DBus GetId >/dev/null
        mkdir -p "$one/dir"
        code 0 create --provider=null "$one/dir" "$tree/."
        expect_equal "$one/dir $tree/." "$(jq -r '[.snapshots[].volume] | join(" ")' <"$out")" "volumes as they were given"
        expect_equal "$one $tree" "$(jq -r '[.snapshots[].mountpoint] | join(" ")' <"$out")" "canonical paths"
        jq -e '
                (.set | test("^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$")) and .state == "created" and .consistency == "filesystem"
                and ([.created, .instant] | all(test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}[.][0-9]{6}Z$")))
                and ([.timing[]] | all(type == "number" and . >= 0)) and (.timing | keys | contains(["commit_usec","freeze_usec","hold_usec","prepare_usec","total_usec"]))
                and (.snapshots | all(has("id") and has("set") and has("provider") and has("device") and has("path") and has("token") and .size > 0))
                and (.snapshots | map(.consistency) == ["application", "filesystem"])
                and .writers == [.writers[0]] and (.writers[0] | .name == "one" and .instance == "" and .state == "waiting-for-backup-complete"
                        and .consistency == "application" and .freeze_usec > 0 and has("error") and .error == null)' <"$out" >/dev/null || die "create: $(cat "$out")"
        (cd "$tree" && vssctl --json create . >"$out")
        expect_equal ". $tree" "$(jq -r '.snapshots[0] | "\(.volume) \(.mountpoint)"' <"$out")" "a relative path"
        code 0 create --provider=null "$one/dir" "$tree/."
        # of the instant: after the last hold, before the first release
        local id
        id=$(json .set <"$out")
        jq -e '.timing.hold_usec <= .timing.freeze_usec and .timing.freeze_usec <= .timing.total_usec' <"$out" >/dev/null || die "timing: $(jq -c .timing <"$out")"
        code 0 show "$id"
        jq -e '.record.kind == "set-record" and (.record.phases | length) > 10' <"$out" >/dev/null || die "show"
        delete_all
}

case_a_picture_of_the_phases() {
        testwriter --name=one --volume="$one" --late=freeze:20
        create --provider=null "$one"
        expect_exit 0 vssctl timeline "$SET" --svg="$VSS_TEST_DIR/set.svg" >/dev/null
        python3 - "$VSS_TEST_DIR/set.svg" <<-'END'
		import sys, xml.etree.ElementTree as e
		root = e.parse(sys.argv[1]).getroot()
		assert root.tag == "{http://www.w3.org/2000/svg}svg", root.tag
		assert any("freeze" in (t.text or "") for t in root.iter()), "no phase"
	END
        vssctl timeline "$SET" | grep freeze >/dev/null || die "the bars lack a phase"
        code 0 timeline "$SET"
        delete_all
}

case_monitor_tells_every_step() {
        (exec "$VSS_BUILD/client/vssctl" --json monitor >"$VSS_TEST_DIR/monitor.out" 2>"$err") &
        local pid=$! status=0
        cleanup_fn stop_process $pid
        sleep 0.3
        testwriter --name=one --volume="$tree"
        create "$tree"
        expect_exit 0 vssctl complete "$SET" >/dev/null
        expect_exit 0 vssctl delete "$SET" >/dev/null
        seen() { grep "$SET" "$VSS_TEST_DIR/monitor.out" | grep deleted >/dev/null; }
        wait_until 5 seen || die "monitor does not show the end: $(cat "$VSS_TEST_DIR/monitor.out")"
        kill -INT $pid
        wait $pid || status=$?
        [ $status -eq 0 ] || [ $status -eq 130 ] || die "monitor ended with $status"
        jq -e 'type == "object"' <"$VSS_TEST_DIR/monitor.out" >/dev/null || die "not one object a line"
        expect_equal "$(wc -l <"$VSS_TEST_DIR/monitor.out")" "$(jq -c . <"$VSS_TEST_DIR/monitor.out" | wc -l)" "objects and lines"
        for word in created completed deleted one; do grep "$word" "$VSS_TEST_DIR/monitor.out" >/dev/null || die "monitor does not tell of $word"; done
}

case_mounts_are_the_callers() {
        create "$tree"
        local copy dir
        copy=$(set_field '.snapshots[0].id')
        code 0 mount "$copy" "$VSS_TEST_DIR/first"
        expect_equal "$VSS_TEST_DIR/first" "$(json .path <"$out")" "where"
        code 0 mount "$copy" "$VSS_TEST_DIR/second"
        code 0 mount "$copy"
        dir=$(json .path <"$out")
        case $dir in "$RUNTIME_DIRECTORY"/*) ;; *) die "without DIR it is at $dir" ;; esac
        for path in "$VSS_TEST_DIR/first" "$VSS_TEST_DIR/second" "$dir"; do
                expect_equal content "$(cat "$path/file")" "content at $path"
                grep " $path " /proc/self/mountinfo | awk '{print $6}' | tr , '\n' | grep -qx ro || die "$path can be written"
                (: >"$path/new") 2>/dev/null && die "$path can be written"
        done
        code 4 mount "$copy" "$VSS_TEST_DIR/no/parent"
        code 8 delete "$copy"
        code 0 umount "$copy"
        for path in "$VSS_TEST_DIR/first" "$VSS_TEST_DIR/second" "$dir"; do mountpoint -q "$path" && die "$path is still mounted"; done
        delete_all
}

case_run_ends_as_its_command_does() {
        expect_exit 0 vssctl run "$tree" -- cat "$tree/file" >"$out"
        expect_equal content "$(cat "$out")" "what it read"
        expect_exit 3 vssctl run "$tree" -- sh -c 'exit 3'
        expect_exit 127 vssctl run "$tree" -- /no/such/program 2>/dev/null
        expect_exit 126 vssctl run "$tree" -- "$tree/file" 2>/dev/null
        expect_exit 137 vssctl run "$tree" -- sh -c 'kill -KILL $$' 2>/dev/null
        expect_exit 125 vssctl run /no/such -- true 2>"$err"
        grep -q 'exit code 4' "$err" || die "the real code is not told: $(cat "$err")"
        expect_exit 125 vssctl run --require=application "$tree" -- true 2>"$err"
        grep -q 'exit code 9' "$err" || die "the real code is not told: $(cat "$err")"
        expect_exit 2 vssctl run "$tree" true 2>/dev/null
        no_snapshots "after run"
        expect_exit 0 vssctl run --keep "$tree" -- true
        expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots kept"
        delete_all
}

case_a_failing_exec_deletes_the_set() {
        testwriter --name=one --volume="$tree"
        code 1 create "$tree" --exec='exit 4'
        no_snapshots "after a failing --exec"
        saw one "$WRITER_LOG" backup-complete && die "BackupComplete although --exec failed"
        saw one "$WRITER_LOG" backup-shutdown || die "no BackupShutdown"
        expect_equal deleted "$(jq -r .state <"$out")" "state"
        code 0 create "$tree" --exec="cp \"\$VSS_PATH_1/file\" '$VSS_TEST_DIR/taken'"
        expect_equal content "$(cat "$VSS_TEST_DIR/taken")" "what --exec read"
        delete_all
}

case_interrupting_create_cancels_it() {
        testwriter --name=one --volume="$tree" --late=prepare-snapshot:5000
        (trap - INT && exec "$VSS_BUILD/client/vssctl" --json create "$tree" >"$out" 2>"$err") &
        local pid=$! status=0
        seen() { vssctl --json sets | jq -e '.sets[] | select(.state == "running" and .phase == "prepare-snapshot")' >/dev/null; }
        wait_until 10 seen || die "the set does not start"
        kill -INT $pid
        wait $pid || status=$?
        expect_equal 130 $status "exit code"
        expect_equal org.vssd.Vss1.Error.Cancelled "$(jq -r .error.name <"$out")" "error"
        no_snapshots "after SIGINT"
        seen_abort() { saw one "$WRITER_LOG" abort; }
        wait_until 8 seen_abort || die "the writer was not told"
}

start_bus
start_vssd
cases checks_come_in_their_order closure_does_what_it_is_told nested_takes_what_is_mounted_below require_is_a_floor \
        ids_are_uuid_prefix_or_alias a_dry_run_changes_nothing every_failure_is_one_document the_document_of_create_is_as_promised \
        a_picture_of_the_phases monitor_tells_every_step mounts_are_the_callers run_ends_as_its_command_does \
        a_failing_exec_deletes_the_set interrupting_create_cancels_it
stop_vssd
