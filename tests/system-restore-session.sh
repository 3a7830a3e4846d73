#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Restore sessions of vssd: writers close their files and hear the end, whatever becomes of them, of the requester and of vssd.
VSS_TEST_SECONDS=120
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 jq

new_fs data ext4 32M

# document FILE NAME SCHEMA [RESTORE]: a writer with a component "all" and two parts of it, one of which may be restored alone
document() {
        cat >"$1" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"$2"},"backup_schema":$3,"restore":${4:-null},
		 "components":[{"path":"all","type":"file-group","selectable":true,"files":[{"root":"$data","pattern":"a*"}]},
		  {"path":"all/book","type":"file-group","selectable_for_restore":true,"files":[{"root":"$data","pattern":"b*"}]},
		  {"path":"all/rest","type":"file-group","files":[{"root":"$data","pattern":"r*"}]}]}
	DOCUMENT
}

manifest() { create --provider=null --manifest="$1" "${@:2}" "$data"; }

# begin NAME MANIFEST WRITER PATH [WISH…]: PreRestore; REQUESTER is the process, its answer is in NAME.out; say NAME LINE goes on
begin() {
        local name=$VSS_TEST_DIR/$1
        rm -f "$name".* && mkfifo "$name.in"
        "$VSS_BUILD/tests/restore-client" "${@:2}" <"$name.in" >"$name.out" 2>"$name.err" &
        REQUESTER=$!
        exec {IN}>"$name.in"
        answered() { ! kill -0 "$REQUESTER" 2>/dev/null || grep -qs '^component' "$name.out"; }
        wait_until 20 answered || die "no answer to PreRestore"
        grep -q '^session' "$name.out" || return 1
        SESSION=$(sed -n 's/^session //p' "$name.out")
}

refused() { # CODE MANIFEST WRITER PATH [WISH…]
        local got=0
        "$VSS_BUILD/tests/restore-client" "${@:2}" </dev/null >"$VSS_TEST_DIR/refused.out" 2>"$VSS_TEST_DIR/refused" || got=$?
        [ $got -eq "$1" ] || die "PreRestore of ${*:3} ended with $got, not $1: $(cat "$VSS_TEST_DIR/refused")"
}

finish() { # NAME STATUS
        echo "end $2" >&"$IN"
        over() { ! kill -0 "$REQUESTER" 2>/dev/null || grep -q '^ended' "$VSS_TEST_DIR/$1.out"; }
        wait_until 20 over "$1" || die "no answer to PostRestore"
        wait "$REQUESTER" || die "PostRestore failed: $(cat "$VSS_TEST_DIR/$1.err")"
}

told() { # WRITER EVENT COMPONENT KEY=VALUE
        grep -qxF "told $1 $2 $3 ${4%%=*} ${4#*=}" "$WRITER_LOG" || die "the writer was not told $4 of $3 at $2: $(grep ^told "$WRITER_LOG")"
}
heard() { grep -q "^event $1 $2 $SESSION $3 " "$WRITER_LOG"; }

case_writers_close_and_open_around_a_restore() {
        local m=$VSS_TEST_DIR/m1
        document "$VSS_TEST_DIR/doc" shop '["rename","new-target","roll-forward","authoritative"]'
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say --answer=pre-restore:all:target=original-location
        manifest "$m" --component=shop:all
        begin r1 "$m" shop all rename=second to=/srv/x until=noon authoritative=true more_follows=true 'options="":"Mode"="fast"' ||
                die "refused: $(cat "$VSS_TEST_DIR/r1.err")"
        heard shop pre-restore ok || die "PreRestore was not called"
        heard shop post-restore ok && die "PostRestore came before its time"
        grep -q "^component shop all target=original-location uid" "$VSS_TEST_DIR/r1.out" || die "answer: $(cat "$VSS_TEST_DIR/r1.out")"
        local value
        for value in rename=second to=/srv/x until=noon authoritative=true more_follows=true 'options="":"Mode"="fast"'; do
                told shop pre-restore all "$value"
        done
        told shop pre-restore - "backup_set=$SET"
        expect_equal "$SESSION" "$(writer_field shop '.sessions | keys[] | select(. == "'"$SESSION"'")')" "session in the list of writers"
        finish r1 all
        heard shop post-restore ok || die "PostRestore was not called"
        told shop post-restore all status=all
        told shop post-restore all succeeded=true
        grep -q "^ended shop - " "$VSS_TEST_DIR/r1.out" || die "answer: $(cat "$VSS_TEST_DIR/r1.out")"
        expect_equal 0 "$(writer_field shop '[.sessions | keys[] | select(. == "'"$SESSION"'")] | length')" "sessions afterwards"
        # every line of it in the log has the id of the session
        expect_equal 0 "$(grep 'restore: ' "$VSS_TEST_DIR/log/vssd.log" | grep -vc "$SESSION" || :)" "lines without the id"
        [ "$(grep -c "restore: .*$SESSION" "$VSS_TEST_DIR/log/vssd.log")" -ge 4 ] || die "the log: $(tail -20 "$VSS_TEST_DIR/log/vssd.log")"
        # what the backup does not hold, and a part that cannot be restored alone; a part that can
        refused 4 "$m" shop none
        refused 4 "$m" nobody all
        refused 10 "$m" shop all/rest
        begin part "$m" shop all/book || die "refused: $(cat "$VSS_TEST_DIR/part.err")"
        told shop pre-restore all/book part_of=all
        finish part all
        # a wish that the writer does not know, options of another form, a manifest that was changed
        refused 10 "$m" shop all instance=other
        refused 2 "$m" shop all 'options=fast'
        sed 's/"requester":"[^"]*"/"requester":"me"/' "$m" >"$m.changed"
        refused 11 "$m.changed" shop all
        chmod 0755 "$VSS_TEST_DIR"
        chmod 0644 "$m"
        local got=0
        cp "$VSS_BUILD/tests/restore-client" "$VSS_TEST_DIR/client"
        run_as nobody "$VSS_TEST_DIR/client" "$m" shop all </dev/null >/dev/null 2>&1 || got=$?
        expect_equal 3 $got "exit status of somebody who may not"
        stop_process "$WRITER_PID"
        refused 4 "$m" shop all
        grep -q 'does not run' "$VSS_TEST_DIR/refused" || die "the reason: $(cat "$VSS_TEST_DIR/refused")"
        delete_all
}

case_a_writer_refuses_its_own_components_only() {
        local m=$VSS_TEST_DIR/m2 log
        testwriter --name=willing --volume="$data"
        log=$WRITER_LOG
        testwriter --name=stubborn --volume="$data" --fail=pre-restore --veto=fatal
        manifest "$m"
        begin r2 "$m" stubborn data -- willing data || die "refused: $(cat "$VSS_TEST_DIR/r2.err")"
        grep -q '^component stubborn data .*error_name=org.vssd.Vss1.Error.Vetoed error_message=stubborn was told to fail' "$VSS_TEST_DIR/r2.out" ||
                die "answer: $(cat "$VSS_TEST_DIR/r2.out")"
        grep '^component willing' "$VSS_TEST_DIR/r2.out" | grep -q error_name && die "the other one is refused too"
        expect_equal failed-at-pre-restore "$(writer_field stubborn .state)" "state of the writer"
        finish r2 all
        heard stubborn post-restore ok && die "PostRestore came to a writer that had refused"
        WRITER_LOG=$log heard willing post-restore ok || die "the other writer did not hear the end"
        refused 5 "$m" stubborn data
        stop_process "$WRITER_PID"
        # a refusal of one component, told in the answer
        testwriter --name=stubborn --volume="$data" --fail-component=pre-restore
        refused 5 "$m" stubborn data
        ended() { grep -q "^event stubborn post-restore .* ok " "$WRITER_LOG"; }
        wait_until 5 ended || die "a writer that answered well did not hear the end"
        delete_all
}

case_a_writer_hangs_or_dies() {
        local m=$VSS_TEST_DIR/m3
        testwriter --name=slow --volume="$data" --say --hang=pre-restore:1 --hang=post-restore
        manifest "$m"
        refused 6 "$m" slow data
        writer_field slow .error.name | grep -q "DeadlinePassed$" || die "the list of writers hides the failure"
        stop_process "$WRITER_PID"
        testwriter --name=slow --volume="$data" --die=post-restore
        begin r3 "$m" slow data || die "refused: $(cat "$VSS_TEST_DIR/r3.err")"
        finish r3 all
        grep -q '^ended slow org.vssd.Vss1.Error.WriterLost ' "$VSS_TEST_DIR/r3.out" || die "answer: $(cat "$VSS_TEST_DIR/r3.out")"
        # a new one of that name knows nothing of the session that the old one was in
        testwriter --name=slow --volume="$data"
        local old=$WRITER_PID
        begin r3 "$m" slow data || die "refused: $(cat "$VSS_TEST_DIR/r3.err")"
        stop_process "$old"
        testwriter --name=slow --volume="$data"
        finish r3 all
        grep -q '^ended slow org.vssd.Vss1.Error.WriterLost ' "$VSS_TEST_DIR/r3.out" || die "answer: $(cat "$VSS_TEST_DIR/r3.out")"
        heard slow post-restore ok && die "the new writer heard of it"
        delete_all
}

# It did close its files, only that nobody knew when the requester was answered.
case_a_writer_whose_answer_does_not_count_hears_the_end() {
        local m=$VSS_TEST_DIR/m7 late log
        testwriter --name=late --volume="$data" --say --late=pre-restore:3000:1
        late=$WRITER_LOG
        testwriter --name=punctual --volume="$data" --say
        log=$WRITER_LOG
        manifest "$m"
        begin r7 "$m" punctual data -- late data || die "refused: $(cat "$VSS_TEST_DIR/r7.err")"
        grep -q '^component late data .*error_name=org.vssd.Vss1.Error.DeadlinePassed' "$VSS_TEST_DIR/r7.out" ||
                die "answer: $(cat "$VSS_TEST_DIR/r7.out")"
        finish r7 all
        WRITER_LOG=$log told punctual post-restore data status=all
        WRITER_LOG=$late told late post-restore data status=failed
        expect_equal "pre-restore post-restore" "$(sed -n "s/^event late \([a-z-]*\) $SESSION ok .*/\1/p" "$late" | xargs)" "what it heard"
        # one that answered at once, but nothing that makes sense
        testwriter --name=muddled --volume="$data" --say --answer=pre-restore:data:target=nowhere
        manifest "$m"
        refused 5 "$m" muddled data
        told_failed() { grep -qxF "told muddled post-restore data status failed" "$WRITER_LOG"; }
        wait_until 5 told_failed || die "a writer whose answer made no sense did not hear the end"
        delete_all
}

case_no_application_level_for_what_is_being_restored() {
        local m=$VSS_TEST_DIR/m8 got=0
        testwriter --name=shut --volume="$data" --say
        manifest "$m"
        begin r8 "$m" shut data || die "refused: $(cat "$VSS_TEST_DIR/r8.err")"
        vssctl create --provider=null --component=shut:data "$data" 2>"$VSS_TEST_DIR/r8.create" || got=$?
        expect_equal 8 $got "exit status of a set of what is being restored"
        grep -q "shut.*restore $SESSION" "$VSS_TEST_DIR/r8.create" || die "the reason: $(cat "$VSS_TEST_DIR/r8.create")"
        create --provider=null "$data"
        expect_equal filesystem "$(vssctl --json show "$SET" | jq -r .consistency)" "level beside a restore"
        vssctl --json show "$SET" | jq -r '.warnings[]' | grep -q "shut.*restore $SESSION" || die "no warning"
        heard_of_set() { grep -q "^event shut .* $SET " "$WRITER_LOG"; }
        ! heard_of_set || die "the writer was called for the set"
        # one that comes up anew meanwhile is the same application
        stop_process "$WRITER_PID"
        testwriter --name=shut --volume="$data"
        refused 8 "$m" shut data
        finish r8 all
        create --provider=null --component=shut:data "$data"
        expect_equal application "$(vssctl --json show "$SET" | jq -r .consistency)" "level after the restore"
        # nor does a restore begin while a set is being made of it
        stop_process "$WRITER_PID"
        testwriter --name=shut --volume="$data" --late=post-snapshot:2000:1
        vssctl create --provider=null --component=shut:data "$data" >/dev/null &
        local creating=$!
        frozen() { grep -q "^event shut thaw" "$WRITER_LOG"; }
        wait_until 10 frozen || die "no set was made"
        refused 8 "$m" shut data
        grep -q "which is being made" "$VSS_TEST_DIR/refused" || die "the reason: $(cat "$VSS_TEST_DIR/refused")"
        wait "$creating" || die "the set failed"
        delete_all
}

# Just before it puts files into place the requester asks whether the session still lives.
case_what_is_asked_before_files_are_put_into_place() {
        local m=$VSS_TEST_DIR/m9 got=0 first
        check() { # LINES: so many answers altogether
                echo check >&"$IN"
                asked() { ! kill -0 "$REQUESTER" 2>/dev/null || [ "$(grep -c ^prospect "$VSS_TEST_DIR/r9.out")" -ge "$1" ]; }
                wait_until 5 asked "$1" || die "no answer"
        }
        testwriter --name=stays --volume="$data"
        testwriter --name=leaves --volume="$data"
        first=$WRITER_PID
        manifest "$m"
        begin r9 "$m" stays data -- leaves data || die "refused: $(cat "$VSS_TEST_DIR/r9.err")"
        check 2
        expect_equal "stays - leaves -" "$(sed -n 's/^prospect //p' "$VSS_TEST_DIR/r9.out" | xargs)" "while both are there"
        stop_process "$first"
        check 4
        grep -q '^prospect leaves org.vssd.Vss1.Error.WriterLost' "$VSS_TEST_DIR/r9.out" || die "answer: $(cat "$VSS_TEST_DIR/r9.out")"
        testwriter --name=leaves --volume="$data"
        check 6
        expect_equal 3 "$(grep -c '^prospect stays - ' "$VSS_TEST_DIR/r9.out")" "answers that the one that stays is there"
        expect_equal 2 "$(grep -c '^prospect leaves org.vssd.Vss1.Error.WriterLost' "$VSS_TEST_DIR/r9.out")" "answers that the other is not"
        finish r9 all
        delete_all
}

case_a_requester_goes_away() {
        local m=$VSS_TEST_DIR/m4
        testwriter --name=left --volume="$data" --say --late=pre-restore:800:1
        manifest "$m"
        # while PreRestore is under way
        "$VSS_BUILD/tests/restore-client" "$m" left data </dev/null >/dev/null 2>&1 &
        local pid=$!
        sleep 0.3
        kill -KILL $pid
        told_failed() { grep -qxF "told left post-restore data status failed" "$WRITER_LOG"; }
        wait_until 5 told_failed || die "the writer did not hear that it failed"
        # while the files are copied
        : >"$WRITER_LOG"
        begin r4 "$m" left data || die "refused: $(cat "$VSS_TEST_DIR/r4.err")"
        kill -KILL "$REQUESTER"
        wait_until 5 told_failed || die "the writer did not hear that it failed"
        told left post-restore - reason=requester-gone
        grep -q "restore: ended without PostRestore (requester-gone).*$SESSION" "$VSS_TEST_DIR/log/vssd.log" || die "nothing in the log"
        # the session of a dead requester is nobody's
        local got=0
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager PostRestore 's(ssa{sv})a{sv}' "$SESSION" 0 0 >/dev/null 2>&1 || got=1
        expect_equal 1 $got "PostRestore by another connection"
        delete_all
}

case_eight_restores_at_once() {
        local m=$VSS_TEST_DIR/m5 i pids=() ins=()
        document "$VSS_TEST_DIR/doc" many '["parallel-restores"]'
        testwriter --name=many --document="$VSS_TEST_DIR/doc"
        testwriter --name=single --volume="$data"
        manifest "$m"
        for i in 1 2 3 4 5 6 7; do
                begin p$i "$m" many all || die "restore $i refused: $(cat "$VSS_TEST_DIR/p$i.err")"
                pids+=("$REQUESTER") ins+=("$IN")
        done
        begin p8 "$m" single data || die "restore 8 refused: $(cat "$VSS_TEST_DIR/p8.err")"
        refused 7 "$m" many all
        for i in 0 1; do
                echo quit >&"${ins[i]}"
                wait "${pids[i]}"
        done
        # a writer that did not say so takes part in one at a time
        free() { refused 8 "$m" single data; }
        wait_until 5 free || die "two restores of one writer"
        grep -q "takes part in restore" "$VSS_TEST_DIR/refused" || die "the reason: $(cat "$VSS_TEST_DIR/refused")"
        finish p8 all
        for i in 2 3 4 5 6; do echo quit >&"${ins[i]}"; done
        begin p8 "$m" single data || die "refused after the first is over"
        finish p8 none
        delete_all
}

case_vssd_stops_in_the_middle() {
        local m=$VSS_TEST_DIR/m6
        testwriter --name=stopped --volume="$data" --say
        manifest "$m"
        begin r6 "$m" stopped data || die "refused: $(cat "$VSS_TEST_DIR/r6.err")"
        stop_vssd
        told stopped post-restore data status=failed
}

case_a_session_that_ended_by_itself_says_so() {
        local m=$VSS_TEST_DIR/m10 got=0
        printf '[Daemon]\nsession_max=1\n[Timeouts]\nrestore=2\n' >"$CONFIGURATION_DIRECTORY/vssd.conf"
        start_vssd
        testwriter --name=patient --volume="$data" --say
        manifest "$m"
        begin r10 "$m" patient data || die "refused: $(cat "$VSS_TEST_DIR/r10.err")"
        told_failed() { grep -qxF "told patient post-restore data status failed" "$WRITER_LOG"; }
        wait_until 5 told_failed || die "the session did not end"
        echo check >&"$IN"
        wait "$REQUESTER" || got=$?
        expect_equal 4 $got "exit status of a check afterwards"
        grep -q "$SESSION.* is over" "$VSS_TEST_DIR/r10.err" || die "the reason: $(cat "$VSS_TEST_DIR/r10.err")"
}

start_bus
printf '[Timeouts]\nrestore=2\n' >"$CONFIGURATION_DIRECTORY/vssd.conf"
start_vssd
cases writers_close_and_open_around_a_restore a_writer_refuses_its_own_components_only a_writer_hangs_or_dies \
        a_writer_whose_answer_does_not_count_hears_the_end no_application_level_for_what_is_being_restored \
        what_is_asked_before_files_are_put_into_place a_requester_goes_away \
        eight_restores_at_once vssd_stops_in_the_middle a_session_that_ended_by_itself_says_so
