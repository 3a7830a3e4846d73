#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Writers: how they come and go, declare themselves, are ordered, chosen, shown, and what becomes of a set when one fails.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4
watchdog 400

new_fs data ext4 32M

case_joins_and_leaves_at_run_time() {
        testwriter --name=comes --volume="$data"
        expect_equal stable "$(writer_field comes .state)" "state of a new writer"
        timeout 5 "$VSS_BUILD/writers/vss-testwriter" --name=comes --volume="$data" >"$VSS_TEST_DIR/double.log" 2>&1 && :
        grep -q ^ready "$VSS_TEST_DIR/double.log" && die "a second writer of the same name was accepted"
        create --provider=null "$data"
        saw comes "$WRITER_LOG" freeze || die "a writer that joined was not asked"
        stop_process "$WRITER_PID"
        create --provider=null "$data"
        expect_equal 0 "$(set_field '.writers | length')" "writers of a set after the only one left"
}

case_declared_by_a_file_without_code() {
        cat >"$CONFIGURATION_DIRECTORY/writers.d/declared.json" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],
		 "writer":{"name":"declared","instance":"","version":"1","level":"back-end","usage":"system-service","source":"non-transacted"},
		 "backup_schema":["copy"],
		 "components":[{"path":"all","type":"file-group","caption":"all of it","selectable":true,
		  "files":[{"role":"file","root":"$data","pattern":"*","recursive":true}]},
		  {"path":"base","type":"database","files":[{"role":"data","root":"$data","pattern":"*.db"},{"role":"log","root":"$data/log","pattern":"*"}]}]}
	DOCUMENT
        known() { writer_field declared .kind; }
        wait_until 5 known >/dev/null || bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 || :
        expect_equal declarative "$(writer_field declared .kind)" "kind of the declared writer"
        expect_equal system-service "$(writer_field declared .usage)" "usage"
        expect_equal non-transacted "$(writer_field declared .source)" "source"
        expect_equal back-end "$(writer_field declared .level)" "level"
        expect_equal "all file-group * true|base database *.db false * false" "$(vssctl --json writers declared |
                jq -r '[.. | objects | select(has("components")) | .components[] | "\(.path) \(.type) " + ([.files[] | "\(.pattern) \(.recursive // false)"] | join(" "))] | unique | join("|")')" "types and file sets"
        create --provider=null "$data"
        expect_equal declared "$(set_field '.writers[].name')" "writers of the set"
        expect_equal application "$(set_field .consistency)" "level with a document that asks for nothing"
        # what it asks for cannot be done yet, so its data are not at rest
        sed -i 's/"requires":/"freeze":{"unit":"some.service"},&/' "$CONFIGURATION_DIRECTORY/writers.d/declared.json"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null
        create --provider=null "$data"
        expect_equal filesystem "$(set_field .consistency)" "level with a unit that runs on"
        set_field '.warnings[]' | grep -q some.service || die "nobody is told of the unit: $(set_field .warnings)"
        refuse 10 --provider=null --require-writer=declared "$data"
        rm "$CONFIGURATION_DIRECTORY/writers.d/declared.json"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null || :
}

case_scripts_are_called_with_each_event() {
        local dir=$VSS_TEST_DIR/hooks
        mkdir -p "$dir"
        printf '#!/bin/bash\necho "$1" >>%q\n[ "$1" != identify ] || printf "component=all\\ntree=%%s\\n" %q\n' "$VSS_TEST_DIR/scripts.log" "$data" >"$dir/hook"
        chmod 0755 "$dir/hook"
        start_writer "$VSS_BUILD/writers/vss-writer-exec" --name=scripts "$dir"
        create --provider=null --require-writer=scripts "$data"
        grep -vx identify "$VSS_TEST_DIR/scripts.log" | xargs >"$VSS_TEST_DIR/scripts.order"
        expect_equal "prepare-backup prepare-snapshot freeze thaw post-snapshot" "$(cat "$VSS_TEST_DIR/scripts.order")" "scripts that ran"
        expect_exit 0 vssctl complete "$SET" >/dev/null
        expect_equal "backup-complete backup-shutdown" "$(tail -n 2 "$VSS_TEST_DIR/scripts.log" | xargs)" "scripts at the end"
        stop_process "$WRITER_PID"
        printf '#!/bin/bash\n[ "$1" != freeze ] || { echo no room left >&2; exit 1; }\n[ "$1" != identify ] || printf "component=all\\ntree=%%s\\n" %q\n' "$data" >"$dir/hook"
        start_writer "$VSS_BUILD/writers/vss-writer-exec" --name=scripts "$dir"
        refuse 5 --provider=null --require-writer=scripts "$data"
        grep -q 'no room left' "$SET_DOC" || die "what the script said is lost: $(cat "$SET_DOC")"
}

case_instances_of_one_class_are_told_apart() {
        testwriter --name=twin --instance=left --volume="$data"
        testwriter --name=twin --instance=right --volume="$data"
        expect_equal "left right" "$(vssctl --json writers | jq -r '[.writers[] | select(.name == "twin").instance] | sort | join(" ")')" "instances"
        create --provider=null --exclude-writer=twin@left "$data"
        expect_equal right "$(set_field '[.writers[] | select(.freeze_usec > 0).instance] | join(" ")')" "instances that froze"
}

case_frozen_front_end_first_thawed_in_reverse() {
        local level order record
        for level in system back-end front-end; do testwriter --name=$level --level=$level --volume="$data" --late=freeze:30 --late=thaw:30; done
        create --provider=null "$data"
        record=$(vssctl --json show "$SET")
        for event in freeze thaw; do
                # each level has answered before the next is asked
                order=$(jq -r --arg e $event '[.record.writers[] | {name, s: (.events[] | select(.[0] == $e))}] | sort_by(.s[1])
                        | if .[0].s[2] <= .[1].s[1] and .[1].s[2] <= .[2].s[1] then map(.name) | join(" ") else "overlapping" end' <<<"$record")
                case $event in
                freeze) expect_equal "front-end back-end system" "$order" "order of Freeze" ;;
                thaw) expect_equal "system back-end front-end" "$order" "order of Thaw" ;;
                esac
        done
}

case_a_level_is_frozen_in_parallel() {
        testwriter --name=wide --count=20 --volume="$data" --late=freeze:100
        create --provider=null "$data"
        [ "$(set_field .timing.freeze_usec)" -lt 1500000 ] || die "20 writers of 100 ms each took $(set_field .timing.freeze_usec) us"
}

case_each_writer_has_its_own_freeze_limit() {
        testwriter --name=patient --volume="$data"
        local log=$WRITER_LOG begin
        testwriter --name=hasty --volume="$data" --freeze-timeout=3 --hang=freeze
        expect_equal 3000000 "$(writer_field hasty .freeze_timeout_usec)" "the limit it asked for"
        begin=$SECONDS
        refuse 6 --provider=null "$data"
        [ $((SECONDS - begin)) -le 4 ] || die "a limit of 3 s took $((SECONDS - begin)) s"
        expect_equal failed-at-freeze "$(writer_field hasty .state)" "state of the late writer"
        saw patient "$log" thaw || saw patient "$log" abort || die "the other writer was left frozen"
}

case_identify_asks_without_side_effects() {
        testwriter --name=asked --volume="$data"
        vssctl --json plan --provider=null "$data" >"$VSS_TEST_DIR/plan.json"
        expect_equal identify "$(events asked "$WRITER_LOG" | sort -u)" "what plan tells a writer"
        expect_equal stable "$(writer_field asked .state)" "state after identify"
        grep -q asked "$VSS_TEST_DIR/plan.json" || die "plan does not name the writer"
}

case_chosen_left_out_and_required() {
        testwriter --name=alpha --volume="$data"
        local alpha=$WRITER_LOG beta
        testwriter --name=beta --volume="$data"
        beta=$WRITER_LOG
        create --provider=null --writer=alpha "$data"
        saw alpha "$alpha" freeze || die "the chosen writer was not asked"
        saw beta "$beta" freeze && die "a writer that was not chosen was frozen"
        expect_equal filesystem "$(set_field .consistency)" "level with another writer's data on the volume"
        create --provider=null --exclude-writer=alpha "$data"
        saw beta "$beta" freeze || die "the other writer was not asked"
        expect_equal 1 "$(events alpha "$alpha" | grep -cx freeze)" "freezes of the excluded writer"
        refuse 9 --provider=null --writer=alpha --require=application "$data"
        create --provider=null --writer=alpha --exclude-writer=beta --require=application "$data"
        create --provider=null --component=alpha:data "$data"
        expect_equal filesystem "$(set_field .consistency)" "level of a component beside another writer's data"
        create --provider=null --require-writer=beta "$data"
        status=0
        vssctl --json create --provider=null --require-writer=missing "$data" >"$VSS_TEST_DIR/out" 2>&1 || status=$?
        expect_equal 4 $status "exit code for a required writer that is not there"
        testwriter --name=elsewhere --volume="$VSS_TEST_DIR"
        status=0
        vssctl --json create --provider=null --require-writer=elsewhere "$data" >"$VSS_TEST_DIR/out" 2>&1 || status=$?
        expect_equal 9 $status "exit code for a required writer without data on the volume"
        delete_all
}

case_list_shows_state_and_last_error() {
        testwriter --name=listed --volume="$data" --fail=prepare-snapshot:1
        refuse 5 --provider=null "$data"
        expect_equal failed-at-prepare-snapshot "$(writer_field listed .state)" "state"
        writer_field listed .error.name | grep -q '^org.vssd.Vss1.Error\.' || die "no error in the list"
        vssctl writers | grep -q 'listed.*failed-at-prepare-snapshot' || die "the list for people lacks it: $(vssctl writers)"
        create --provider=null "$data"
        expect_equal waiting-for-backup-complete "$(writer_field listed .state)" "state after a good set"
}

case_detail_shows_the_whole_document() {
        testwriter --name=detailed --volume="$data"
        vssctl --json writers detailed >"$VSS_TEST_DIR/detail.json"
        grep -qF "$data" "$VSS_TEST_DIR/detail.json" || die "the files are missing: $(cat "$VSS_TEST_DIR/detail.json")"
        jq -e '.. | objects | select(has("components"))' "$VSS_TEST_DIR/detail.json" >/dev/null || die "no components"
        expect_exit 4 vssctl writers no-such-writer 2>/dev/null
}

case_states_follow_the_session() {
        testwriter --name=walks --volume="$data" --late=prepare-snapshot:700 --late=freeze:700 --late=thaw:700 --late=post-snapshot:700
        : >"$VSS_TEST_DIR/states"
        vssctl --json create --provider=null "$data" >"$VSS_TEST_DIR/set.json" &
        local pid=$!
        while kill -0 $pid 2>/dev/null; do
                writer_field walks .state >>"$VSS_TEST_DIR/states" || :
                sleep 0.1
        done
        wait $pid || die "the set failed"
        writer_field walks .state >>"$VSS_TEST_DIR/states"
        for s in waiting-for-freeze waiting-for-post-snapshot waiting-for-backup-complete; do
                grep -qx $s "$VSS_TEST_DIR/states" || die "nobody saw $s: $(uniq "$VSS_TEST_DIR/states" | tr '\n' ' ')"
        done
        expect_exit 0 vssctl complete "$(json .set <"$VSS_TEST_DIR/set.json")" >/dev/null
        wait_until 5 writer_is walks stable || die "state after complete is $(writer_field walks .state)"
}

case_failure_report_keeps_the_writers_words() {
        testwriter --name=speaks --volume="$data" --fail=freeze --veto=no-resources
        refuse 5 --provider=null "$data"
        set_field '.writers[] | select(.name == "speaks").error.name' | grep -q WriterNoResources || die "the writer's own code is lost: $(cat "$SET_DOC")"
        [ -n "$(set_field '.writers[] | select(.name == "speaks").error.message')" ] || die "its message is lost"
        vssctl --json show "$(set_field .set)" | jq -e '.record.writers[] | select(.name == "speaks").error' >/dev/null || die "the record lost it"
}

case_a_veto_stops_the_set_or_lowers_its_level() {
        delete_all
        testwriter --name=agrees --volume="$data"
        local log=$WRITER_LOG
        testwriter --name=vetoes --volume="$data" --fail=freeze
        refuse 5 --provider=null "$data"
        saw agrees "$log" abort || die "the other writer was not told to go back"
        no_snapshots "after a veto"
        create --provider=null --on-writer-failure=degrade "$data"
        expect_equal filesystem "$(set_field .consistency)" "level after an ignored veto"
        create --provider=null --require=filesystem "$data"
        refuse 5 --provider=null --on-writer-failure=abort --require=filesystem "$data"
        create --provider=null --exclude-writer=vetoes --require=application "$data"
        delete_all
}

case_a_lost_writer_is_noticed() {
        testwriter --name=stays --volume="$data"
        local log=$WRITER_LOG begin
        testwriter --name=dies --volume="$data" --die=freeze
        begin=$SECONDS
        refuse 5 --provider=null "$data"
        [ $((SECONDS - begin)) -le 2 ] || die "a death was noticed after $((SECONDS - begin)) s"
        set_field .error.name | grep -q 'WriterLost$' || die "the error is $(set_field .error.name)"
        saw stays "$log" abort || die "the other writer was not told"
        create --provider=null --exclude-writer=dies "$data"
        delete_all
}

case_sessions_are_forgotten_with_their_set() {
        testwriter --name=forgets --volume="$data"
        create --provider=null "$data"
        expect_equal 1 "$(writer_field forgets '.sessions | length')" "sessions of the writer"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        none() { [ "$(writer_field forgets '.sessions | length')" = 0 ]; }
        wait_until 5 none || die "the session of a deleted set stays"
        saw forgets "$WRITER_LOG" backup-shutdown || die "the writer was not told"
}

case_a_component_that_fails_lowers_the_level() {
        testwriter --name=whole --volume="$data"
        testwriter --name=partly --volume="$data" --fail-component=post-snapshot --veto=no-resources
        local log=$WRITER_LOG doc=$VSS_TEST_DIR/manifest.json
        create --provider=null --manifest="$doc" "$data"
        expect_equal filesystem "$(set_field .consistency)" "level of the set"
        expect_equal filesystem "$(set_field '.writers[] | select(.name == "partly").consistency')" "level of the writer"
        expect_equal application "$(set_field '.writers[] | select(.name == "whole").consistency')" "level of the other writer"
        expect_equal waiting-for-backup-complete "$(writer_field partly .state)" "state: the event itself is done"
        writer_field partly .error.name | grep -q 'WriterNoResources$' || die "the list hides the failure"
        set_field '.warnings[]' | grep -q 'partly.*data.*post-snapshot' || die "no warning: $(set_field .warnings)"
        expect_equal "post-snapshot org.vssd.Vss1.Error.WriterNoResources" "$(jq -r '.writers[] | select(.name == "partly").components[0].failures[0]
                | "\(.event) \(.error)"' "$doc")" "failure in the manifest"
        expect_equal 0 "$(jq '.writers[] | select(.name == "whole").components[0].failures | length' "$doc")" "failures of the other writer"
        expect_equal data "$(vssctl --json show "$SET" | json '.record.writers[] | select(.name == "partly").failures[0].component')" "failure in the record"
        saw partly "$log" abort && die "abort although the event was done"
        refuse 9 --provider=null --require=application "$data"
        stop_process "$WRITER_PID"
        # what fails later stands in the manifest too, and complete says it
        testwriter --name=later --volume="$data" --fail-component=backup-complete --freeze-timeout=20
        create --provider=null --require=application "$data"
        expect_exit 5 vssctl complete --manifest="$doc" "$SET" >/dev/null 2>&1
        expect_equal backup-complete "$(jq -r '.writers[] | select(.name == "later").components[0].failures[0].event' "$doc")" "event in the manifest"
        expect_equal completed "$(vssctl --json show "$SET" | jq -r .state)" "state of the set"
        delete_all
}

case_fails_a_chosen_event_so_many_times() {
        local event want
        for event in prepare-backup prepare-snapshot freeze post-snapshot; do
                testwriter --name=chosen --volume="$data" --fail=$event:1 --veto=fatal
                refuse 5 --provider=null "$data"
                expect_equal "failed-at-$event" "$(writer_field chosen .state)" "state"
                expect_equal false "$(jq .error.retryable "$SET_DOC")" "retryable after a fatal veto"
                create --provider=null "$data"
                stop_process "$WRITER_PID"
        done
        delete_all
}

start_bus
start_vssd
cases joins_and_leaves_at_run_time declared_by_a_file_without_code scripts_are_called_with_each_event instances_of_one_class_are_told_apart \
        frozen_front_end_first_thawed_in_reverse a_level_is_frozen_in_parallel each_writer_has_its_own_freeze_limit \
        identify_asks_without_side_effects chosen_left_out_and_required list_shows_state_and_last_error \
        detail_shows_the_whole_document states_follow_the_session failure_report_keeps_the_writers_words \
        a_veto_stops_the_set_or_lowers_its_level a_lost_writer_is_noticed sessions_are_forgotten_with_their_set \
        a_component_that_fails_lowers_the_level fails_a_chosen_event_so_many_times
stop_vssd
