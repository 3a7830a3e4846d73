#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl with the real service, btrfs and a writer: the life of a set on the command line, the exit codes of real refusals, and
# `run` whose reader is still there when vssctl is killed.
. "$(dirname "$0")/functions.sh"
# as grep -q, but reads to the end: a closed pipe would end the command before it
finds() { grep "$@" >/dev/null; }
requires mkfs.btrfs btrfs jq setpriv
new_fs data btrfs 256M
btrfs subvolume create "$data/inner" >/dev/null
echo live >"$data/file"
start_bus
start_vssd
testwriter --name=front --volume="$data"
program=$VSS_BUILD/client/vssctl
out=$VSS_TEST_DIR/out err=$VSS_TEST_DIR/err

note "the life of a set"
vssctl status | finds '1 writers' || die "status does not count the writer"
vssctl --json volumes | jq -e --arg v "$data" '.volumes[] | select(.name == $v) | .provider == "btrfs"' >/dev/null || die "volumes"
vssctl --json writers front | jq -e '.writers[0].metadata.kind == "writer-metadata"' >/dev/null || die "the writer's document"
vssctl --json plan "$data" | json .level >/dev/null
vssctl --json create "$data" --label=alias=one --require=application --require-writer=front --manifest="$VSS_TEST_DIR/manifest" >"$out"
expect_equal "created application" "$(json '.state + " " + .consistency' <"$out")" "the set"
expect_equal "$data" "$(json '.snapshots[0].volume' <"$out")" volume
expect_equal "front waiting-for-backup-complete" "$(json '.writers[0].name + " " + .writers[0].state' <"$out")" "the writer"
[ "$(json .timing.hold_usec <"$out")" -gt 0 ] || die "no hold time"
expect_equal "$(json .set <"$out")" "$(json .set <"$VSS_TEST_DIR/manifest")" "set of the manifest"
for id in one "$(json .set <"$out")" "$(json '.set[0:8]' <"$out")"; do
        expect_equal set-record "$(vssctl --json show "$id" | json .record.kind)" "record of $id"
done
vssctl timeline one --svg="$VSS_TEST_DIR/one.svg"
grep -q 'front freeze' "$VSS_TEST_DIR/one.svg" || die "the picture lacks the writer"
echo changed >"$data/file"
path=$(vssctl mount one)
expect_equal live "$(cat "$path/file")" "content of the copy"
mkdir "$VSS_TEST_DIR/place"
expect_equal "$VSS_TEST_DIR/place/new" "$(vssctl mount one "$VSS_TEST_DIR/place/new")" "a directory of ours"
expect_equal live "$(cat "$VSS_TEST_DIR/place/new/file")" "content in a directory of ours"
(cd "$VSS_TEST_DIR/place/new" && expect_exit 8 vssctl umount one 2>/dev/null)
expect_exit 0 vssctl umount one
! mountpoint -q "$VSS_TEST_DIR/place/new" || die "still mounted"
expect_exit 0 vssctl complete one
expect_exit 1 vssctl complete one 2>/dev/null
grep -q 'backup-complete .* ok' "$WRITER_LOG" || die "the writer did not get BackupComplete"
expect_exit 0 vssctl delete one --dry-run
expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots after a dry run"
expect_exit 0 vssctl delete one
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots"

note "real refusals"
expect_exit 4 vssctl create /no/such/path 2>/dev/null
expect_exit 4 vssctl create "$data" --provider=nobody 2>/dev/null
expect_exit 10 vssctl create /proc 2>/dev/null
expect_exit 10 vssctl create "$VSS_TEST_DIR" 2>/dev/null # tmpfs
for words in "create $data" "delete 12345678" "mount 12345678" "plan /no/such"; do
        status=0
        # shellcheck disable=SC2086
        run_as nobody "$program" $words >/dev/null 2>"$err" || status=$?
        [ $status -eq 3 ] || [ $status -eq 4 ] || die "nobody may $words: $status"
        expect_equal 1 "$(wc -l <"$err")" "lines on stderr"
done
run_as nobody "$program" create "$data" 2>/dev/null && die "nobody may create"
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots after refusals"

note "run"
echo live >"$data/file"
expect_equal live "$(vssctl run "$data" -- sh -c "cat $data/file")" "what the command sees"
(cd "$data/inner" && expect_exit 0 vssctl run "$data" "$data/inner" -- sh -c 'test -d "$PWD"')
expect_exit 9 vssctl create "$data/inner" --require=application --no-writers 2>/dev/null
expect_exit 125 vssctl run "$data" --require=application --no-writers -- true 2>/dev/null
expect_exit 42 vssctl run "$data" -- sh -c 'exit 42'
expect_equal 0 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots after runs"

note "SIGKILL of vssctl while a daemonised reader is on the copy"
"$program" run "$data" -- sh -c "setsid sh -c 'while cat $data/file >/dev/null && date +%s%N >$VSS_TEST_DIR/seen; do sleep 0.02; done; \
        echo lost >$VSS_TEST_DIR/lost' & sleep 100" 2>/dev/null &
pid=$!
wait_until 10 test -s "$VSS_TEST_DIR/seen"
expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots during run"
kill -KILL $pid
wait $pid 2>/dev/null || :
no_snapshot() { [ "$(vssctl --json snapshots | jq '.snapshots | length')" = 0 ]; }
wait_until 10 no_snapshot || die "the copy of a killed run stays"
[ ! -e "$VSS_TEST_DIR/lost" ] || die "the copy went while somebody read it"
! pgrep -x sleep >/dev/null || die "readers are left"

note "--auto-release goes with vssctl, whatever happens to it"
mkfifo "$VSS_TEST_DIR/input"
rm "$out" # else what an earlier command wrote there is seen
"$program" --json create "$data" --auto-release <"$VSS_TEST_DIR/input" >"$out" &
pid=$!
exec 8>"$VSS_TEST_DIR/input"
wait_until 10 test -s "$out"
expect_equal 1 "$(vssctl --json snapshots | jq '.snapshots | length')" "snapshots"
kill -KILL $pid
wait $pid 2>/dev/null || :
wait_until 10 no_snapshot || die "an auto-release copy stays"
exec 8>&-

note "--exec fails: nothing stays"
expect_exit 1 vssctl create "$data" --exec="test \"\$(cat \$VSS_PATH_1/file)\" = live && exit 9" 2>"$err"
grep -q 'ended with 9' "$err" || die "--exec did not see the copy"
no_snapshot || die "a set whose --exec failed stays"
