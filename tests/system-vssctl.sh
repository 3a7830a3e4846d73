#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every verb against a service that answers as told (fake-manager.c): text, JSON, exit codes, what arrives on the bus.
. "$(dirname "$0")/functions.sh"
# as grep -q, but reads to the end: a closed pipe would end the command before it
finds() { grep "$@" >/dev/null; }
requires busctl jq
start_bus
export FAKE_COPY=$VSS_TEST_DIR/copy
mkdir "$FAKE_COPY"
echo frozen >"$FAKE_COPY/file"
start_writer "$VSS_BUILD/tests/fake-manager"
first=5e700000-1111-4111-8111-000000000000
copy=c0de0000-5555-4555-8555-000000000000
out=$VSS_TEST_DIR/out err=$VSS_TEST_DIR/err

# run_json CODE ARGUMENT…: --json; exactly one document on stdout, kept in $out
run_json() {
        local status=0
        vssctl --json "${@:2}" >"$out" 2>"$err" </dev/null || status=$?
        [ $status -eq "$1" ] || die "'vssctl --json ${*:2}' ended with $status, expected $1: $(cat "$out" "$err")"
        expect_equal 1 "$(jq -s length <"$out")" "documents of '${*:2}'"
        [ "$1" -eq 0 ] || expect_equal 1 "$(wc -l <"$err")" "lines on stderr of '${*:2}'"
        [ "$1" -ne 0 ] || [ ! -s "$err" ] || die "'${*:2}' wrote on stderr: $(cat "$err")"
        [ "$(jq .schema <"$out")" = 1 ] || die "'${*:2}' has no schema"
}
# has EXPRESSION WANT: in the last document
has() { expect_equal "$2" "$(jq -r "$1" <"$out")" "$1"; }
# asked TEXT: the service got a call with it
asked() { grep -qF -- "$1" "$WRITER_LOG" || die "the service was not asked $1"; }

note "lists"
run_json 0 status
has .version 1.0-fake
has .counts.writers 2
has '.failed_writers[0].name' evil
run_json 0 writers
has '.writers | length' 2
has '.writers[] | select(.name == "sqlite") | .instance' book
has '.writers[] | select(.name == "evil") | .error.name' org.vssd.Vss1.Error.WriterFatal
run_json 0 writers sqlite
has '.writers[0].metadata.kind' writer-metadata
run_json 0 writers sqlite@book
run_json 4 writers nobody
run_json 0 providers
has '.providers[0].name' btrfs
run_json 0 volumes
has '.volumes[0].volume' /srv/db
has '.volumes[0].provider' btrfs
run_json 0 sets
has '.sets[0].id' $first
run_json 0 snapshots
has '.snapshots | length' 2
run_json 0 snapshots --volume=/srv/db
has '.snapshots | length' 1
has '.snapshots[0].volume' /srv/db
has '.snapshots[0].set' $first
run_json 4 snapshots --volume=/fail/NotFound
run_json 10 snapshots --volume=/fail/NotSupported
vssctl writers >"$out"
grep -q '^WRITER ' "$out" || die "no table"
! grep -q $'\e' "$out" || die "a writer's message reaches the terminal with its control characters"
grep -q '\\x1b\[31mfire' "$out" || die "a writer's message is not shown"
vssctl status | finds 'evil' || die "status hides a writer that failed"
[ -z "$(vssctl -q sets | grep '^There')" ] || die "-q"

note "ids: whole, prefix, alias, label; everything else is 4"
for id in $first ${first^^} 5e70 5e700000-11 nightly alias=nightly; do
        run_json 0 show $id
        has .set $first
        has .record.kind set-record
        has '.snapshots[0].volume' /srv/db
        has .instant 2026-11-22T10:00:00.123400Z
        has .consistency application
        has .timing.hold_usec 42300
        has '.writers[0].state' waiting-for-backup-complete
done
run_json 0 show $copy
has .id $copy
has .set $first
has .token null
run_json 0 show sqlite@book
has .name sqlite
run_json 0 show /srv/db
has .mountpoint /srv/db
for id in 5e7 zzzz 5e70zz nothing $first-x 00000000-0000-0000-0000-000000000000 'a=b' '*' /fail/NotFound; do run_json 4 show "$id"; done
run_json 2 show c0de
has .error.name org.vssd.Vss1.Error.Ambiguous
vssctl show nightly | finds 'freeze usec: 52.9 ms' || die "show for people"

note "create: every option arrives as its type"
run_json 0 create /srv/a /srv/b --writer=sqlite@book --writer=x --exclude-writer=y --require-writer=z --on-writer-failure=degrade \
        --component=sqlite@book:a/b --writer-option=sqlite:k=v=w --closure=extend --nested --freeze-unit=cron.service --type=full --provider=btrfs \
        --require=filesystem --label=alias=daily --label=x=y --wait-for-turn=1.5 --retry=2
has .state created
has .consistency application
has '.snapshots | map(.volume) | join(" ")' "/srv/a /srv/b"
has '.snapshots[0].device' null
has '.snapshots[0].size' 1073741824
has '.timing.freeze_usec' 52900
has .created 2026-11-22T10:00:00.123456Z
has .error null
for text in writers exclude_writers require_writers on_writer_failure components writer_options closure nested freeze_units backup_type provider \
        require labels wait_for_turn_usec lifetime session requester; do asked "STRING \"$text\""; done
asked 'UINT64 1500000'
asked 'STRING "sqlite:k=v=w"'
asked 'STRING "persistent"'
asked 'STRING "detached"'
cd "$VSS_TEST_DIR" || die "no test directory"
run_json 0 create ./sub/dir
asked "STRING \"$VSS_TEST_DIR/./sub/dir\""
run_json 0 create $'/srv/\xff\n\\'
asked 'STRING "/srv/\xff\x0a\x5c"'
vssctl create /srv/people | finds '^Set .*: application' || die "create for people"
run_json 0 create /srv/a --dry-run
has '.volumes[0].provider' btrfs
run_json 0 plan /srv/a
vssctl plan /srv/a | finds 'application' || die "plan for people"

note "each error of the table has its exit code, before and after the set exists"
while read -r name code; do
        run_json "$code" create "/fail/$name"
        [[ $name == *.* ]] || has .error.name "org.vssd.Vss1.Error.$name"
        has .set null
        run_json "$code" plan "/fail/$name"
        [[ $name == *.* ]] && continue
        run_json "$code" create "/abort/$name"
        has .error.name "org.vssd.Vss1.Error.$name"
        has .state aborted
        [ $name = Unavailable ] || has '.writers[0].state' failed-at-freeze
        has '.set | length' 36
        expect_exit "$code" vssctl create "/abort/$name" >"$out" 2>"$err"
        [ ! -s "$out" ] || die "text on stdout although it failed"
        expect_equal 1 "$(wc -l <"$err")" "lines on stderr"
done <<-END
	Failed 1
	Cancelled 1
	Exists 1
	InvalidArgument 2
	NotAuthorized 3
	NotFound 4
	Vetoed 5
	WriterLost 5
	DeadlinePassed 6
	NoSpace 7
	LimitReached 7
	Busy 8
	LevelNotReached 9
	VolumeMissing 9
	NotSupported 10
	NotOneInstant 10
	Damaged 11
	StaleToken 12
	Unavailable 13
	org.freedesktop.DBus.Error.AccessDenied 3
	org.freedesktop.DBus.Error.NoReply 13
	org.example.Unheard 1
END

note "what a set that exists refuses"
run_json 0 create /refuse/Busy
busy=$(jq -r .set <"$out") busy_copy=$(jq -r '.snapshots[0].id' <"$out")
run_json 8 umount "$busy_copy"
run_json 8 mount "$busy_copy"
run_json 8 complete "$busy"
run_json 8 cancel "$busy"
run_json 8 delete "$busy"
has '.results[0].error.name' org.vssd.Vss1.Error.Busy

note "mount makes the directory, and takes it away if nothing comes of it"
expect_exit 8 vssctl mount "$busy_copy" "$VSS_TEST_DIR/new" 2>/dev/null
[ ! -e "$VSS_TEST_DIR/new" ] || die "a directory is left"
run_json 0 mount $copy "$VSS_TEST_DIR/new"
has .path "$VSS_TEST_DIR/new"
has .id $copy
[ -d "$VSS_TEST_DIR/new" ] || die "no directory"
run_json 0 show $copy
has '.mounts[0]' "$VSS_TEST_DIR/new"
run_json 0 umount "$VSS_TEST_DIR/new"
has .id $copy
run_json 4 umount "$VSS_TEST_DIR/new"
run_json 4 mount $copy "$VSS_TEST_DIR/no/such"
run_json 2 mount $copy "$FAKE_COPY/file"
run_json 2 mount nightly
expect_equal /run/vss/mnt/copy "$(vssctl mount $copy)" "path of mount"

note "complete"
run_json 0 complete nightly --component=sqlite@book:a --dry-run
asked 'BOOLEAN true'
run_json 1 complete nightly
has .error.name org.vssd.Vss1.Error.BadState
run_json 0 create /flaky
run_json 5 complete "$(jq -r .set <"$out")" --manifest="$VSS_TEST_DIR/manifest"
has '.results[0].error.message' 'cannot truncate the log'
json .digest <"$VSS_TEST_DIR/manifest" >/dev/null

note "--manifest, --exec"
rm "$VSS_TEST_DIR/manifest"
expect_exit 0 vssctl --json create /srv/a --manifest="$VSS_TEST_DIR/manifest" \
        --exec='echo "$VSS_SET $VSS_SNAPSHOTS $VSS_VOLUME_1 $VSS_SNAPSHOT_1"; cat "$VSS_PATH_1/file" >seen' >"$out" 2>"$err"
expect_equal "$(jq -r '"\(.set) 1 /srv/a \(.snapshots[0].id)"' <"$out")" "$(cat "$err")" "environment of --exec"
expect_equal frozen "$(cat seen)" "what --exec saw"
expect_equal "$(jq -r .set <"$out")" "$(json .set <"$VSS_TEST_DIR/manifest")" "set of the manifest"
run_json 1 create /srv/a --exec='exit 3'
has .state deleted
run_json 0 show "$(jq -r .set <"$out")"
has .state deleted
run_json 1 create /srv/a --manifest=/nowhere/x
has .state deleted

note "--retry repeats what may help, and only that"
run_json 8 create /once/Busy
vssctl --json create /once/Busy --retry=1 >"$out" 2>/dev/null # the second one works
has .state created
before=$(grep -c Member=CreateSet "$WRITER_LOG")
expect_exit 5 vssctl create /abort/Vetoed --retry=3 2>/dev/null
expect_equal $((before + 1)) "$(grep -c Member=CreateSet "$WRITER_LOG")" "attempts after a veto"
expect_exit 8 vssctl create /abort/Busy --retry=2 2>"$err"
expect_equal $((before + 4)) "$(grep -c Member=CreateSet "$WRITER_LOG")" "attempts when busy"

note "SIGINT cancels, also when it comes too late; --timeout too"
for volume in /slow /late; do
        waits=$(grep -c '^Member=Wait' "$WRITER_LOG")
        "$VSS_BUILD/client/vssctl" --json create $volume >"$out" 2>"$err" &
        pid=$!
        one_more_waits() { [ "$(grep -c '^Member=Wait' "$WRITER_LOG")" -gt "$waits" ]; }
        wait_until 5 one_more_waits
        kill -INT $pid
        status=0
        wait $pid || status=$?
        expect_equal 130 $status "status after SIGINT on $volume"
        has .error.name org.vssd.Vss1.Error.Cancelled
        expect_equal 1 "$(wc -l <"$err")" "lines on stderr"
done
run_json 0 status
has '.running | length' 0
run_json 6 create /slow --timeout=0.3
run_json 0 status
has '.running | length' 0

note "--auto-release stays until the end of its input"
mkfifo "$VSS_TEST_DIR/input"
rm "$out" # else what an earlier command wrote there is seen
vssctl --json create /srv/a --auto-release <"$VSS_TEST_DIR/input" >"$out" &
pid=$!
exec 8>"$VSS_TEST_DIR/input"
wait_until 5 test -s "$out"
set=$(jq -r .set <"$out")
run_json 0 show "$set"
has .state created
asked 'STRING "auto-release"'
exec 8>&-
wait $pid
run_json 0 show "$set"
has .state deleted

note "delete goes on after an error and ends with the first one's code"
run_json 0 create /srv/x
set=$(jq -r .set <"$out")
run_json 4 delete nothing-like-it "$busy" "$set"
has '.results | map(.error.name // "ok" | sub(".*Error.";"")) | join(" ")' "NotFound Busy ok"
has .error.name org.vssd.Vss1.Error.NotFound
run_json 0 show "$set"
has .state deleted
run_json 0 delete --dry-run $copy nightly
run_json 0 show nightly
has '.snapshots | length' 2
run_json 8 delete --volume=/srv/db --oldest
has '.results | length' 2
asked 'STRING "oldest"'
expect_exit 8 vssctl delete --volume=/srv/db --all --force >"$out" 2>"$err"
grep -q 'not deleted: it is pinned' "$out" || die "delete for people"
run_json 0 delete $copy
