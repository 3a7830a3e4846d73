#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Which volumes make a set, and what becomes of it: several sets at once, many volumes, kinds that go together and kinds that
# do not, a set without a volume, and sets that outlive the service.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/hazards.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs
watchdog 300

new_fs one ext4 32M
new_fs two ext4 300M
new_fs tree btrfs 512M
btrfs subvolume create "$tree/a" >/dev/null
btrfs subvolume create "$tree/b" >/dev/null

reload() { bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null || die "Reload failed"; }
# stamp_of FILE: when it was written, in milliseconds
stamp_of() { date -r "$1" +%s%3N; }

case_disjoint_sets_run_side_by_side() {
        # the first one stands in PostSnapshot: its window is over, its volume is still taken
        testwriter --name=slow --volume="$one" --late=post-snapshot:3000
        vssctl --json create --provider=null "$one" >"$VSS_TEST_DIR/first.json" &
        local first=$! begin
        seen() { saw slow "$WRITER_LOG" thaw; }
        wait_until 10 seen || die "the first set does not come to its thaw"
        begin=$(date +%s%3N)
        create --provider=null --exclude-writer=slow "$two"
        create "$tree/a"
        kill -0 $first || die "the first set was not slow enough: this shows nothing"
        [ $(($(date +%s%3N) - begin)) -lt 2500 ] || die "a set on another volume waits for the whole set before it"
        create --provider=null --exclude-writer=slow "$one"
        kill -0 $first 2>/dev/null && die "a second set took the same volume at the same time"
        wait $first || die "the first set failed"
        delete_all
}

case_a_set_holds_64_volumes_and_no_more() {
        local i volumes=() subvolumes=() pairs=()
        for i in {1..65}; do
                btrfs subvolume create "$tree/v$i" >/dev/null
                volumes+=("$tree/v$i")
        done
        create "${volumes[@]:0:64}"
        expect_equal 64 "$(set_field '.snapshots | length')" "snapshots"
        expect_equal "${volumes[63]}" "$(set_field '.snapshots[63].volume')" "the last one, in the order of the command line"
        expect_equal 64 "$(btrfs subvolume list -s "$tree" | wc -l)" "copies on the file system"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        refuse 7 "${volumes[@]}"
        expect_exit 7 vssctl plan "${volumes[@]}" >/dev/null 2>&1
        expect_exit 125 vssctl run "${volumes[@]}" -- true 2>/dev/null
        for i in "${volumes[@]}"; do pairs+=("$i" 0); done
        # the service refuses it too, also when the closure brings the one too many
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager CreateSet 'a(sa{sv})a{sv}' 65 "${pairs[@]}" 0 \
                2>"$VSS_TEST_DIR/err" && die "65 volumes are accepted"
        grep -q 'more than 64' "$VSS_TEST_DIR/err" || die "the refusal is $(cat "$VSS_TEST_DIR/err")"
        testwriter --name=more --volume="${volumes[64]}"
        refuse 7 --closure=extend --component=more:data "${volumes[@]:0:64}"
        expect_equal 0 "$(btrfs subvolume list -s "$tree" | wc -l)" "copies after delete"
        for i in "${volumes[@]}"; do subvolumes+=("$i"); done
        btrfs subvolume delete "${subvolumes[@]}" >/dev/null
}

case_kinds_of_volumes_go_together() {
        testwriter --name=both --volume="$one"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager CreateSet 'a(sa{sv})a{sv}' 3 \
                "$one" 1 provider s null "$tree/a" 0 "$two" 1 provider s null \
                2 lifetime s persistent session s detached >"$VSS_TEST_DIR/mixed" || die "a mixed set is refused"
        local set
        set=$(awk '{gsub(/"/, ""); print $2}' "$VSS_TEST_DIR/mixed")
        done_with() { [[ $(vssctl --json show "$set" | jq -r .state) =~ ^(created|aborted)$ ]]; }
        wait_until 20 done_with
        vssctl --json show "$set" >"$VSS_TEST_DIR/show.json"
        expect_equal created "$(jq -r .state "$VSS_TEST_DIR/show.json")" "state: $(jq -c .error "$VSS_TEST_DIR/show.json")"
        expect_equal "null btrfs null" "$(jq -r '[.snapshots[].provider] | join(" ")' "$VSS_TEST_DIR/show.json")" "providers"
        expect_equal "application filesystem filesystem" "$(jq -r '[.snapshots[].consistency] | join(" ")' "$VSS_TEST_DIR/show.json")" "levels"
        expect_equal filesystem "$(jq -r .consistency "$VSS_TEST_DIR/show.json")" "the lowest"
        expect_equal true "$(jq -r .one_instant "$VSS_TEST_DIR/show.json")" "one instant"
        # the btrfs was copied while both others were held
        jq -e '.record.phases | (map({(.[0]): .}) | add) as $p | $p.hold[2] <= $p.commit[1] and $p.commit[2] <= $p.release[1]' \
                "$VSS_TEST_DIR/show.json" >/dev/null || die "not copied while the others were held"
        expect_equal "guard provider guard" "$(jq -r '[.record.volumes[].held_by] | join(" ")' "$VSS_TEST_DIR/show.json")" "who held them"
        delete_all
}

case_two_subvolumes_are_one_instant() {
        create "$tree/a" "$tree/b"
        expect_equal "$tree/a $tree/b" "$(set_field '[.snapshots[].volume] | join(" ")')" "volumes"
        expect_equal true "$(vssctl --json show "$SET" | jq .one_instant)" "one instant"
        delete_all
        # somebody who writes all the time makes the proof fail, never the promise
        local i=0 status=0
        (while :; do echo $((i += 1)) >"$tree/a/n" && sync -f "$tree" && echo $i >"$tree/b/n"; done) &
        local pid=$!
        cleanup_fn stop_process $pid
        for _ in 1 2 3; do
                status=0
                vssctl --json create "$tree/a" "$tree/b" >"$VSS_TEST_DIR/busy.json" 2>/dev/null || status=$?
                case $status in
                0)
                        local a b
                        a=$(cat "$(jq -r '.snapshots[0].path' "$VSS_TEST_DIR/busy.json")/n") b=$(cat "$(jq -r '.snapshots[1].path' "$VSS_TEST_DIR/busy.json")/n")
                        [ "$a" -ge "$b" ] && [ $((a - b)) -le 1 ] || die "two moments: $a and $b"
                        ;;
                10) expect_equal org.vssd.Vss1.Error.NotOneInstant "$(jq -r .error.name "$VSS_TEST_DIR/busy.json")" "name of the error" ;;
                *) die "exit code $status: $(cat "$VSS_TEST_DIR/busy.json")" ;;
                esac
        done
        delete_all
}

case_what_nobody_can_prove_is_no_set() {
        # two providers that freeze by themselves: neither knows the moment of the other
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager CreateSet 'a(sa{sv})a{sv}' 2 \
                "$tree/a" 1 provider s btrfs "$tree/b" 1 provider s fault:btrfs 2 lifetime s persistent session s detached \
                >"$VSS_TEST_DIR/mixed" || die "refused too early"
        local set
        set=$(awk '{gsub(/"/, ""); print $2}' "$VSS_TEST_DIR/mixed")
        done_with() { [[ $(vssctl --json show "$set" | jq -r .state) =~ ^(created|aborted)$ ]]; }
        wait_until 20 done_with
        expect_equal org.vssd.Vss1.Error.NotOneInstant "$(vssctl --json show "$set" | jq -r .error.name)" "error"
        no_snapshots "after the refusal"
}

case_copied_as_was_asked_for_or_not_at_all() {
        local id
        create --mode=redirect "$tree/a"
        id=$(set_field .set)
        expect_equal redirect "$(head -n -1 "$STATE_DIRECTORY/sets/$id" | jq -r '.options.mode // .record.options.mode')" "the mode in the record"
        delete_all
        # who is named, and who is chosen
        refuse 10 --mode=clone --provider=btrfs "$tree/a"
        grep -q 'provider btrfs copies .* by redirect and not by clone' "$SET_DOC.err" || die "said: $(cat "$SET_DOC" "$SET_DOC.err")"
        refuse 10 --mode=copy "$tree/a"
        grep -q 'no provider can take a snapshot of .* by copy' "$SET_DOC.err" || die "said: $(cat "$SET_DOC" "$SET_DOC.err")"
        expect_exit 10 vssctl plan --mode=copy "$tree/a" >/dev/null 2>&1
        expect_exit 2 vssctl create --mode=plex "$tree/a" 2>/dev/null
        no_snapshots "after the refusals"
        # a volume's own wish comes before that of all
        wish() { bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Plan 'a(sa{sv})a{sv}' "$@" >"$VSS_TEST_DIR/plan" 2>&1; }
        wish_fails() {
                wish "${@:2}" && die "planned: $(cat "$VSS_TEST_DIR/plan")"
                grep -q "$1" "$VSS_TEST_DIR/plan" || die "not \"$1\": $(cat "$VSS_TEST_DIR/plan")"
        }
        wish 1 "$tree/a" 1 mode s redirect 1 mode s copy || die "the volume's own mode does not count: $(cat "$VSS_TEST_DIR/plan")"
        wish_fails 'by clone' 1 "$tree/a" 1 mode s clone 1 mode s redirect
        wish_fails 'plex is not copy, redirect or clone' 1 "$tree/a" 1 mode s plex 0
        wish_fails 'leave the option out' 1 "$tree/a" 1 storage s here 0
}

case_a_stack_is_refused_whole() {
        local image=$two/inside.img inner=$VSS_TEST_DIR/inner dev
        truncate -s 128M "$image"
        mkfs.btrfs -q -f "$image" >/dev/null
        mkdir "$inner"
        dev=$(losetup --find --show "$image")
        mount "$dev" "$inner"
        losetup -d "$dev"
        cleanup_fn rm -f "$image"
        cleanup_fn umount "$inner"
        refuse_mixed() {
                bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager CreateSet 'a(sa{sv})a{sv}' 2 \
                        "$inner" 0 "$two" 1 provider s null 2 lifetime s persistent session s detached >"$VSS_TEST_DIR/mixed" || die "refused too early"
                set=$(awk '{gsub(/"/, ""); print $2}' "$VSS_TEST_DIR/mixed")
                done_with() { [[ $(vssctl --json show "$set" | jq -r .state) =~ ^(created|aborted)$ ]]; }
                wait_until 20 done_with
        }
        local set
        refuse_mixed
        expect_equal org.vssd.Vss1.Error.StackRefused "$(vssctl --json show "$set" | jq -r .error.name)" "error"
        vssctl --json show "$set" | jq -r .error.message | grep -F "$inner" | grep -qF "$two" || die "the error does not name both"
        must_write 1 "$two"
        create "$inner"
        expect_exit 0 vssctl delete "$SET" >/dev/null
}

case_components_that_need_no_copy_make_a_set_without_volumes() {
        cat >"$CONFIGURATION_DIRECTORY/writers.d/live.json" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],
		 "writer":{"name":"live","instance":"","version":"1","level":"back-end","usage":"user-data","source":"transacted"},
		 "backup_schema":["copy"],
		 "components":[{"path":"logs","type":"file-group","caption":"read from the live volume","selectable":true,
		  "files":[{"role":"log","root":"$one","pattern":"*","recursive":true,"snapshot":[]}]},
		  {"path":"data","type":"file-group","caption":"needs a copy","selectable":true,
		  "files":[{"role":"data","root":"$two","pattern":"*","recursive":true}]}]}
	DOCUMENT
        reload
        create --component=live:logs --manifest="$VSS_TEST_DIR/manifest.json"
        expect_equal created "$(set_field .state)" "state"
        expect_equal 0 "$(jq '.snapshots | length' "$SET_DOC")" "snapshots"
        expect_equal live "$(set_field '.writers[].name')" "writers"
        expect_equal "true logs" "$(jq -r '"\(.backup.component_mode) \(.writers[0].components[0].path)"' "$VSS_TEST_DIR/manifest.json")" "manifest"
        expect_exit 0 vssctl complete "$SET" >/dev/null
        expect_exit 0 vssctl delete "$SET" >/dev/null
        expect_equal deleted "$(vssctl --json show "$SET" | jq -r .state)" "state after delete"
        create --provider=null --component=live:data
        expect_equal "$two" "$(set_field '[.snapshots[].mountpoint] | join(" ")')" "volumes of the other component"
        delete_all
        # without a volume, without a component: there is nothing to make
        expect_exit 2 vssctl create 2>/dev/null
        rm "$CONFIGURATION_DIRECTORY/writers.d/live.json"
        reload
}

case_a_writer_without_files_hears_of_a_set_without_volumes() {
        testwriter --name=hook
        cat >"$CONFIGURATION_DIRECTORY/writers.d/live.json" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],
		 "writer":{"name":"live","instance":"","version":"1","level":"back-end","usage":"user-data","source":"transacted"},
		 "backup_schema":["copy"],
		 "components":[{"path":"none","type":"file-group","caption":"groups others","selectable":true,"files":[]}]}
	DOCUMENT
        reload
        create --component=live:none
        expect_equal 0 "$(jq '.snapshots | length' "$SET_DOC")" "snapshots"
        expect_exit 0 vssctl complete "$SET" >/dev/null
        rm "$CONFIGURATION_DIRECTORY/writers.d/live.json"
        reload
        # in a set of volumes it takes part like any other
        create --provider=null "$one"
        saw hook "$WRITER_LOG" freeze || die "a writer without files was not asked"
        expect_equal filesystem "$(set_field .consistency)" "level: nobody has data there"
        delete_all
}

case_a_writer_hears_whether_all_its_data_are_one_instant() {
        testwriter --name=inside --volume="$one"
        local hooks=$VSS_TEST_DIR/wide
        mkdir "$hooks"
        printf '#!/bin/bash\n[ "$1" != identify ] || printf "component=a\\ntree=%%s\\ncomponent=b\\ntree=%%s\\n" %q %q\n' "$one" "$two" >"$hooks/hook"
        chmod 0755 "$hooks/hook"
        start_writer "$VSS_BUILD/writers/vss-writer-exec" --name=across "$hooks"
        busctl monitor --match="member=Freeze" >"$VSS_TEST_DIR/calls" 2>&1 &
        cleanup_fn stop_process $!
        wait_until 5 grep -q Monitoring "$VSS_TEST_DIR/calls"
        said() { grep -A2 '"one_instant"' "$VSS_TEST_DIR/calls" | awk '/BOOLEAN/ {sub(";", ""); print $2}' | sort | xargs; }
        create --provider=null --closure=ignore "$one"
        expect_equal "false true" "$(said)" "one_instant, with one of two volumes"
        create --provider=null "$one" "$two"
        expect_equal "false true true true" "$(said)" "one_instant, with both"
        delete_all
}

case_a_session_outlives_the_service() {
        start_vssd
        testwriter --name=again --volume="$tree/a" --fail-component=post-snapshot
        local before=$VSS_TEST_DIR/before.json after=$VSS_TEST_DIR/after.json
        create --manifest="$before" --component=again:data
        stop_vssd
        start_vssd
        busctl monitor --match="member=BackupComplete" >"$VSS_TEST_DIR/calls" 2>&1 &
        cleanup_fn stop_process $!
        wait_until 5 grep -q Monitoring "$VSS_TEST_DIR/calls"
        back() { writer_is again stable || writer_is again waiting-for-backup-complete; }
        wait_until 10 back || die "the writer does not come back: $(vssctl --json writers)"
        expect_equal created "$(vssctl --json show "$SET" | jq -r .state)" "state after the restart"
        expect_exit 0 vssctl complete --manifest="$after" "$SET" >/dev/null
        grep -A2 '"resumed"' "$VSS_TEST_DIR/calls" | grep -q 'BOOLEAN true' || die "the writer is not told that it never saw the set: $(cat "$VSS_TEST_DIR/calls")"
        expect_equal "backup-complete backup-shutdown" "$(events again "$WRITER_LOG" "$SET" | tail -n 2 | xargs)" "events after the restart"
        expect_equal completed "$(vssctl --json show "$SET" | jq -r .state)" "state"
        expect_equal true "$(jq .backup.component_mode "$after")" "component mode"
        expect_equal post-snapshot "$(jq -r '.writers[0].components[0].failures[0].event' "$after")" "failure in the manifest after the restart"
        for key in set created host backup snapshots writers; do
                expect_equal "$(jq -cS "$key_filter" --arg k $key "$before")" "$(jq -cS "$key_filter" --arg k $key "$after")" "$key of the manifest"
        done
        expect_equal true "$(jq '.writers[0].components[0].succeeded' "$after")" "outcome"
        expect_equal null "$(jq -r '.completed' "$before")" "completed before"
        [[ $(jq -r .completed "$after") == 20* ]] || die "not completed in the manifest"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        stop_vssd
}
key_filter='.[$k] | del(.. | .succeeded?)'

case_a_writer_that_started_again_completes() {
        start_vssd
        testwriter --name=again --volume="$tree/a"
        create "$tree/a"
        stop_process "$WRITER_PID"
        testwriter --name=again --volume="$tree/a"
        busctl monitor --match="member=BackupComplete" >"$VSS_TEST_DIR/calls" 2>&1 &
        cleanup_fn stop_process $!
        wait_until 5 grep -q Monitoring "$VSS_TEST_DIR/calls"
        expect_exit 0 vssctl complete "$SET" >/dev/null
        saw again "$WRITER_LOG" backup-complete || die "not told"
        grep -A2 '"resumed"' "$VSS_TEST_DIR/calls" | grep -q 'BOOLEAN true' || die "the writer is not told that it never saw the set"
        create "$tree/a"
        stop_process "$WRITER_PID"
        expect_exit 5 vssctl complete "$SET" 2>"$VSS_TEST_DIR/err" >/dev/null
        grep -q again "$VSS_TEST_DIR/err" || die "the one that is gone is not named: $(cat "$VSS_TEST_DIR/err")"
        delete_all
        stop_vssd
}

case_a_session_ends_by_itself() {
        configure Daemon session_max=1
        start_vssd
        testwriter --name=waits --volume="$tree/a"
        create "$tree/a"
        over() { [ "$(vssctl --json show "$SET" | jq -r .state)" = completed ]; }
        wait_until 8 over || die "the session does not expire: $(vssctl --json show "$SET" | jq -c .state)"
        saw waits "$WRITER_LOG" backup-shutdown || die "the writer was not told"
        saw waits "$WRITER_LOG" backup-complete && die "BackupComplete although nobody said so"
        expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots: the copy stays"
        expect_exit 1 vssctl complete "$SET" 2>/dev/null
        expect_exit 0 vssctl delete "$SET" >/dev/null
        rm "$CONFIGURATION_DIRECTORY/vssd.conf"
        # one that ran out while nobody ran vssd ends at its start
        stop_vssd
        start_vssd
        create "$tree/a"
        stop_vssd
        sleep 1.1
        configure Daemon session_max=1
        start_vssd
        wait_until 8 over || die "an old session does not expire"
        delete_all
        rm "$CONFIGURATION_DIRECTORY/vssd.conf"
        stop_vssd
}

start_bus
start_vssd
cases disjoint_sets_run_side_by_side a_set_holds_64_volumes_and_no_more kinds_of_volumes_go_together two_subvolumes_are_one_instant \
        what_nobody_can_prove_is_no_set copied_as_was_asked_for_or_not_at_all a_stack_is_refused_whole components_that_need_no_copy_make_a_set_without_volumes \
        a_writer_without_files_hears_of_a_set_without_volumes a_writer_hears_whether_all_its_data_are_one_instant
stop_vssd
cases a_session_outlives_the_service a_writer_that_started_again_completes a_session_ends_by_itself
