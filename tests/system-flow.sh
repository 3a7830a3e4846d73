#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One backup from PrepareBackup to BackupShutdown: what writers are told and when, what deadlines do, that volumes are held
# together, that a set is all or nothing, and what the command that runs in between sees.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs
watchdog 400

new_fs one ext4 32M
new_fs two ext4 32M
new_fs tree btrfs 128M
new_fs grove btrfs 128M

case_a_writer_hears_every_event_once_in_order() {
        testwriter --name=hears --volume="$one"
        create --provider=null "$one"
        expect_equal "prepare-backup prepare-snapshot freeze thaw post-snapshot" \
                "$(events hears "$WRITER_LOG" "$SET" | xargs)" "events until the set was made"
        expect_exit 0 vssctl complete "$SET" >/dev/null
        expect_equal "backup-complete backup-shutdown" "$(events hears "$WRITER_LOG" "$SET" | tail -n +6 | xargs)" "events of complete"
        expect_exit 1 vssctl complete "$SET" 2>/dev/null
        expect_exit 0 vssctl delete "$SET" >/dev/null
        expect_equal 7 "$(events hears "$WRITER_LOG" "$SET" | wc -l)" "events in all"
}

case_shutdown_comes_without_complete_too() {
        testwriter --name=hears --volume="$one"
        create --provider=null "$one"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        seen() { saw hears "$WRITER_LOG" backup-shutdown; }
        wait_until 5 seen || die "no shutdown"
        saw hears "$WRITER_LOG" backup-complete && die "BackupComplete for a backup nobody called complete"
        return 0
}

case_abort_reaches_all_and_may_repeat() {
        testwriter --name=hears --volume="$one"
        local log=$WRITER_LOG
        testwriter --name=fails --volume="$one" --fail=freeze
        for _ in 1 2; do
                refuse 5 --provider=null "$one"
                saw hears "$log" abort || die "no abort"
                expect_equal stable "$(writer_field hears .state)" "state after abort"
        done
        # once PostSnapshot was sent there is no Abort
        stop_process "$WRITER_PID"
        create --provider=null "$one"
        events hears "$log" "$SET" | grep -qx abort && die "abort after post-snapshot"
        delete_all
}

case_a_freeze_that_lasts_too_long_ends_by_itself() {
        VSS_FAULT=post-commit:delay=20000,commit:delay=20000 start_vssd
        testwriter --name=short --volume="$one" --freeze-timeout=3
        local begin=$SECONDS
        refuse 6 --provider=fault:null "$one"
        [ $((SECONDS - begin)) -le 15 ] || die "it took $((SECONDS - begin)) s"
        # its own limit, not the 10 s of every hold, and not the 20 s of the provider
        [ "$(set_field '.writers[] | select(.name == "short").freeze_usec')" -le 6000000 ] || die "a limit of 3 s: $(cat "$SET_DOC")"
        # whichever of the two that end together was first
        set_field .error.name | grep -qE '\.(HoldExpired|DeadlinePassed)$' || die "the error is $(set_field .error.name)"
        expect_equal abort "$(events short "$WRITER_LOG" | tail -n 1)" "what the writer heard last"
        must_write 1 "$one"
        no_snapshots "after the freeze timeout"
}

case_a_hold_that_lasts_too_long_is_released() {
        configure Timeouts hold=2
        VSS_FAULT=commit:delay=8000 start_vssd
        testwriter --name=probe --volume="$one"
        hold_set "$one"
        local begin=$SECONDS status=0
        wait_until 4 probe_runs || die "held for longer than its budget"
        wait_set || status=$?
        expect_equal 6 $status "exit code"
        expect_equal true "$(vssctl --json show "$(json .set <"$SET_OUT")" | jq '.record.forced')" "forced in the record"
        no_snapshots "after a forced release"
        rm "$CONFIGURATION_DIRECTORY/vssd.conf"
}

case_all_volumes_are_held_before_any_is_copied() {
        VSS_FAULT=commit:delay=1500 start_vssd
        testwriter --name=probe --volume="$one"
        hold_set "$one" "$two"
        (: >"$two/second") &
        sleep 0.3
        grep -q '^State:.D' "/proc/$!/status" || die "the second volume is not held while the first is"
        [ "$(awk '/^VmLck/ {print $2}' "/proc/$VSSD_PID/status")" -gt 0 ] || die "vssd's memory is not locked while volumes are held"
        wait_set || die "the set failed: $(cat "$SET_OUT")"
        kill "$PROBE_PID" 2>/dev/null || :
        vssctl --json show "$(json .set <"$SET_OUT")" >"$VSS_TEST_DIR/show.json"
        jq -e '(.record.phases | map({(.[0]): .}) | add) as $p | $p.hold[2] <= $p.commit[1] and $p.commit[2] <= $p.release[1]' \
                "$VSS_TEST_DIR/show.json" >/dev/null || die "hold, commit and release overlap: $(jq -c .record.phases "$VSS_TEST_DIR/show.json")"
        delete_all
}

case_without_writers_nobody_is_asked() {
        testwriter --name=idle --volume="$one"
        create --provider=null --no-writers "$one"
        expect_equal filesystem "$(set_field .consistency)" "level"
        expect_equal "" "$(events idle "$WRITER_LOG" | grep -vx identify | xargs)" "events of a writer that was left alone"
        expect_exit 2 vssctl create --no-writers --component=idle:data "$one" 2>/dev/null
        refuse 9 --provider=null --no-writers --require=application "$one"
        delete_all
}

case_components_outside_the_set_are_refused_or_added() {
        cat >"$CONFIGURATION_DIRECTORY/writers.d/wide.json" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],
		 "writer":{"name":"wide","instance":"","version":"1","level":"back-end","usage":"user-data","source":"transacted"},
		 "backup_schema":["copy"],
		 "components":[{"path":"both","type":"database","caption":"on two volumes","selectable":true,
		  "files":[{"role":"data","root":"$one","pattern":"*","recursive":true},
		   {"role":"log","root":"$two","pattern":"*","recursive":true}]}]}
	DOCUMENT
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null || :
        known() { writer_field wide .kind; }
        wait_until 5 known >/dev/null || die "the declared writer is not there"
        refuse 9 --provider=null "$one"
        for word in wide both "$two"; do
                set_field .error.message | grep -qF "$word" || die "the error does not name $word: $(set_field .error.message)"
        done
        create --provider=null --closure=extend "$one"
        expect_equal "$one $two" "$(set_field '[.snapshots[].mountpoint] | sort | join(" ")')" "volumes of the extended set"
        create --provider=null --closure=ignore "$one"
        expect_equal filesystem "$(set_field .consistency)" "level of a set that ignores a missing volume"
        create --provider=null "$one" "$two"
        expect_equal application "$(set_field .consistency)" "level of the whole set"
        create --provider=null --component=wide:both
        expect_equal 2 "$(set_field '.snapshots | length')" "volumes of a component"
        rm "$CONFIGURATION_DIRECTORY/writers.d/wide.json"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null || :
        delete_all
}

case_file_systems_are_written_back_first() {
        dd if=/dev/zero of="$one/dirty" bs=1M count=8 status=none
        create --provider=null "$one"
        vssctl --json show "$SET" | jq -e '(.record.phases | map({(.[0]): .}) | add) as $p | $p["pre-flush"][4] == "ok" and $p["pre-flush"][2] <= $p.hold[1]' >/dev/null ||
                die "no flush before the hold"
        truncate -s 16M "$VSS_TEST_DIR/raw.img"
        local dev status=0
        dev=$(losetup --find --show "$VSS_TEST_DIR/raw.img")
        cleanup_fn losetup -d "$dev"
        vssctl create "$dev" >"$VSS_TEST_DIR/out" 2>&1 || status=$?
        expect_equal 10 $status "exit code for a device without a file system and without an engine"
        delete_all
}

case_one_volume_that_fails_drops_the_whole_set() {
        VSS_FAULT=commit:fail:1 start_vssd
        refuse 5 --provider=fault:btrfs "$tree" "$grove"
        no_snapshots "after one failed commit"
        stop_vssd
        VSS_FAULT=end-prepare:fail:1 start_vssd
        refuse 5 --provider=fault:btrfs "$tree" "$grove"
        no_snapshots "after a failed preparation"
        stop_vssd
        VSS_FAULT=post-commit:fail:1 start_vssd # each has its copy by then
        refuse 5 --provider=fault:btrfs "$tree" "$grove"
        no_snapshots "after a failure behind the commit"
        for v in "$tree" "$grove"; do
                expect_equal 0 "$(btrfs subvolume list -s "$v" | wc -l)" "btrfs snapshots left on $v"
        done
        create --provider=fault:btrfs "$tree" "$grove"
        expect_equal "1 1" "$(btrfs subvolume list -s "$tree" | wc -l) $(btrfs subvolume list -s "$grove" | wc -l)" "btrfs snapshots of the next set"
        delete_all
        expect_equal 0 "$(btrfs subvolume list -s "$tree" | wc -l)" "btrfs snapshots after delete"
}

case_success_is_marked_before_complete() {
        testwriter --name=marked --volume="$one" --say
        create --provider=null --manifest="$VSS_TEST_DIR/manifest.json" "$one"
        expect_exit 0 vssctl complete --failed --manifest="$VSS_TEST_DIR/after.json" "$SET" >/dev/null
        saw marked "$WRITER_LOG" backup-complete || die "no BackupComplete"
        grep -qx 'told marked backup-complete data succeeded false' "$WRITER_LOG" || die "the writer is not told of the failure: $(grep '^told' "$WRITER_LOG")"
        expect_equal false "$(jq '.writers[] | select(.name == "marked").components[0].succeeded' "$VSS_TEST_DIR/after.json")" "outcome in the manifest"
        create --provider=null "$one"
        expect_exit 0 vssctl complete --manifest="$VSS_TEST_DIR/after.json" "$SET" >/dev/null
        expect_equal true "$(jq '.writers[] | select(.name == "marked").components[0].succeeded' "$VSS_TEST_DIR/after.json")" "outcome in the manifest"
        grep -qx 'told marked backup-complete data succeeded true' "$WRITER_LOG" || die "the writer is not told of the success: $(grep '^told' "$WRITER_LOG")"
        delete_all
}

case_a_command_between_creation_and_completion() {
        create --exec="touch '$VSS_TEST_DIR/ran'" "$tree"
        [ -e "$VSS_TEST_DIR/ran" ] || die "--exec did not run"
        status=0
        vssctl --json create --exec="exit 3" "$tree" >"$VSS_TEST_DIR/out" 2>&1 || status=$?
        [ $status -ne 0 ] || die "a failing --exec is called good"
        delete_all
        no_snapshots "after a failing --exec"
}

case_run_shows_the_copy_at_the_volumes_own_path() {
        echo before >"$tree/file"
        testwriter --name=runs --volume="$tree"
        expect_exit 0 vssctl run "$tree" -- sh -c "echo after >'$tree/live' 2>/dev/null; cp '$tree/file' '$VSS_TEST_DIR/copied'"
        expect_equal before "$(cat "$VSS_TEST_DIR/copied")" "what the command read"
        [ -e "$tree/live" ] && die "the command wrote to the live volume"
        saw runs "$WRITER_LOG" backup-complete || die "no BackupComplete"
        no_snapshots "after run"
        expect_exit 7 vssctl run "$tree" -- sh -c 'exit 7'
        expect_exit 127 vssctl run "$tree" -- /no/such/command 2>/dev/null
        expect_exit 125 vssctl run --provider=no-such-provider "$tree" -- true 2>/dev/null
        expect_exit 2 vssctl run "$tree" 2>/dev/null
        no_snapshots "after failed runs"
}

case_reads_only_from_the_copy_pass() {
        echo precious >"$tree/file"
        testwriter --name=deleter --volume="$tree" --delete-originals
        expect_exit 0 vssctl run "$tree" -- cp "$tree/file" "$VSS_TEST_DIR/saved"
        [ -e "$tree/file" ] && die "the original was not deleted: this test shows nothing"
        expect_equal precious "$(cat "$VSS_TEST_DIR/saved")" "what was saved"
}

start_bus
start_vssd
cases a_writer_hears_every_event_once_in_order shutdown_comes_without_complete_too abort_reaches_all_and_may_repeat \
        without_writers_nobody_is_asked components_outside_the_set_are_refused_or_added file_systems_are_written_back_first success_is_marked_before_complete \
        a_command_between_creation_and_completion run_shows_the_copy_at_the_volumes_own_path reads_only_from_the_copy_pass
stop_vssd
own_vssd=(a_freeze_that_lasts_too_long_ends_by_itself a_hold_that_lasts_too_long_is_released
        all_volumes_are_held_before_any_is_copied one_volume_that_fails_drops_the_whole_set)
cases "${own_vssd[@]}"
