#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What happens when a writer fails: every event, every way. The table is not here but in vssctl(1), section WHEN A WRITER FAILS:
# this test reads its rows and makes each of them happen, so the page cannot say what is not so.
#
#   event   how     exit  set      writer                 others
#   freeze  fail    5     aborted  failed-at-freeze       abort
#
# Three writers with data on one volume: front (front-end), target (back-end), below (system). The target misbehaves; exit is
# that of create, or of complete for the events that come with it. others: the last thing the front-end writer was told.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4
watchdog 560

new_fs data ext4 32M
start_bus
cat >"$CONFIGURATION_DIRECTORY/vssd.conf" <<-CONF
	[Timeouts]
	identify=2
	prepare_backup=1
	prepare_snapshot=1
	freeze=4
	hold=1
	thaw=1
	post_snapshot=1
	backup_complete=1
	abort=1
CONF
start_vssd
testwriter --name=front --level=front-end --volume="$data"
front_log=$WRITER_LOG
testwriter --name=below --level=system --volume="$data"
below_log=$WRITER_LOG

# misbehave EVENT HOW: the option that makes the target do it
misbehave() {
        case $2 in
        late) echo "--late=$1:2500" ;;
        *) echo "--$2=$1" ;;
        esac
}

# budget EVENT: milliseconds until the end is decided; freeze has 4 s, of which answers are due 2 s before the end
budget() { if [ "$1" = freeze ] || [ "$1" = identify ]; then echo 2000; else echo 1000; fi; }

target_state() { writer_field target .state 2>/dev/null || echo gone; }

# thawed NAME LOG: not left between a Freeze and its end
thawed() {
        local last
        last=$(events "$1" "$2" "$SET" | grep -E '^(freeze|thaw|abort|backup-shutdown)$' | tail -n 1)
        [ "$last" != freeze ] || die "$1 was left frozen"
}

forget_target() {
        kill -KILL "$@" 2>/dev/null || :
        delete_all
}

# run_row EVENT HOW EXIT SET WRITER OTHERS
run_row() {
        local event=$1 how=$2 got=0 begin end limit
        local -a started=()

        note "row $event $how"
        if [ "$event" = abort ]; then
                testwriter --name=veto --level=system --volume="$data" --fail=freeze
                started+=("$WRITER_PID")
        fi
        testwriter --name=target --level=back-end --freeze-timeout=4 --volume="$data" "$(misbehave "$event" "$how")"
        started+=("$WRITER_PID")
        begin=$(date +%s%3N)
        vssctl --json create --provider=null "$data" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/err" || got=$?
        end=$(date +%s%3N)
        SET=$(json .set <"$VSS_TEST_DIR/set.json")
        case $event in backup-complete | backup-shutdown)
                expect_equal 0 $got "exit of create"
                begin=$(date +%s%3N)
                vssctl --json complete "$SET" >"$VSS_TEST_DIR/complete.json" 2>"$VSS_TEST_DIR/err" || got=$?
                end=$(date +%s%3N) ;;
        esac
        expect_equal "$3" $got "exit of $event $how ($(tail -n 1 "$VSS_TEST_DIR/err") $(cat "$VSS_TEST_DIR/set.json"))"
        expect_equal "$4" "$(vssctl --json show "$SET" | json .state)" "state of the set after $event $how"
        expect_equal "$5" "$(target_state)" "state of the writer after $event $how"
        expect_equal "$6" "$(events front "$front_log" "$SET" | tail -n 1)" "last event of the front-end writer after $event $how"
        thawed front "$front_log"
        thawed below "$below_log"
        limit=$(($(budget "$event") + 1000 + 1000)) # its budget, the Abort of one that hangs, and one second
        [ $((end - begin)) -le $limit ] || die "$event $how took $((end - begin)) ms, more than $limit"
        [ "$4" != aborted ] || no_snapshots "$event $how"
        forget_target "${started[@]}"
}

rows=0
failed=()
while read -r -a row; do
        [[ ${row[0]}-${row[1]} =~ ${ROWS:-.} ]] || continue # ROWS=^freeze- tests/fault-writers.sh
        set +e
        (
                set -e
                _cleanups=()
                trap _case_finish EXIT
                run_row "${row[@]}" </dev/null
        )
        [ $? -eq 0 ] || failed+=("${row[0]}-${row[1]}")
        set -e
        rows=$((rows + 1))
done < <(sed -n '/^\.Sh WHEN A WRITER FAILS/,/^\.Sh [^W]/s/^\.It Li \(.*\)$/\1/p' "$VSS_SOURCE/client/vssctl.1" | sed 's/ Ta / /g')
[ -n "${ROWS:-}" ] || expect_equal 45 $rows "rows of the table in vssctl(1)"
[ ${#failed[@]} -eq 0 ] || die "${#failed[@]} of $rows rows are not so: ${failed[*]}"

note "after all that the next set works"
create --provider=null "$data"
echo "$rows rows"
