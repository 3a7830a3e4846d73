#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Scripts, a database and a writer that adds to the copy, in real sets of the daemon: the hooks of the guest agent run around every
# set without being told about volumes; what a writer adds in PostSnapshot is in the copy and not on the live volume; originals that
# are deleted then are only in the copy.
VSS_TEST_SECONDS=100
. "$(dirname "$0")/functions.sh"
requires sqlite3 jq mkfs.btrfs

new_fs data btrfs 200M
start_bus
start_vssd
export log=$VSS_TEST_DIR/calls
hooks=$VSS_TEST_DIR/hooks
mkdir "$hooks"
cat >"$hooks/app" <<'EOS'
#!/bin/sh
case "$1" in
freeze | thaw) echo "$1" >>"$log" ;;
*) echo "usage: app freeze|thaw" >&2; exit 1 ;;
esac
EOS
chmod 755 "$hooks/app"
: >"$log"

note "hooks around a set"
start_writer "$VSS_BUILD/writers/vss-writer-exec" "$hooks"
doc=$(vssctl --json create "$data")
expect_equal 'created filesystem exec' "$(jq -r '[.state, .consistency, .writers[0].name] | join(" ")' <<<"$doc")" "set"
expect_equal 'freeze thaw' "$(xargs <"$log")" "calls of the hook"
vssctl -q delete "$(jq -r .set <<<"$doc")"
stop_process "$WRITER_PID"
start_writer "$VSS_BUILD/writers/vss-writer-exec" --volume="$data" "$hooks"
doc=$(vssctl --json create "$data")
expect_equal 'created application' "$(jq -r '[.state, .consistency] | join(" ")' <<<"$doc")" "set of hooks with data"
vssctl -q delete "$(jq -r .set <<<"$doc")"
stop_process "$WRITER_PID"

note "a writer that dies frozen: the set is vetoed and the hooks are thawed"
start_writer "$VSS_BUILD/writers/vss-writer-exec" --level=front-end "$hooks"
exec_pid=$WRITER_PID
testwriter --volume="$data" --level=back-end --die=freeze
: >"$log"
expect_exit 5 vssctl create "$data"
_thawed() { [ "$(xargs <"$log")" = 'freeze thaw' ]; }
wait_until 2 _thawed || die "hooks were called: $(xargs <"$log")"
stop_process "$exec_pid"

note "PostSnapshot: what is added is in the copy only, what is deleted is in the copy still"
echo precious >"$data/original"
testwriter --volume="$data" --add-to-copy=label --delete-originals
doc=$(vssctl --json create "$data") || die "no set: $doc"
set_id=$(jq -r .set <<<"$doc")
copy=$(jq -r '.snapshots[0].path' <<<"$doc")
expect_equal "$set_id" "$(cat "$copy/label")" "the file that was added"
[ ! -e "$data/label" ] || die "the file was added to the live volume"
[ ! -e "$data/original" ] || die "the original is still there"
expect_equal precious "$(cat "$copy/original")" "the original in the copy"
vssctl -q complete "$set_id"
vssctl -q delete "$set_id"
stop_process "$WRITER_PID"

note "a database that is written to: 20 sets, each copy whole"
sqlite3 "$data/app.db" 'PRAGMA journal_mode=wal; CREATE TABLE a(v); CREATE TABLE b(v); INSERT INTO a VALUES(0); INSERT INTO b VALUES(0)' >/dev/null
python3 -c "
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
while True:
    c.execute('BEGIN IMMEDIATE'); c.execute('UPDATE a SET v = v + 1'); c.execute('UPDATE b SET v = v - 1'); c.execute('COMMIT')" "$data/app.db" &
load=$!
cleanup_fn kill -KILL $load
sqlite_writer "$data/app.db"
for i in {1..20}; do
        doc=$(vssctl --json create "$data") || die "set $i: $doc"
        expect_equal application "$(jq -r .consistency <<<"$doc")" "level of set $i"
        rm -rf "$VSS_TEST_DIR/restored"
        mkdir "$VSS_TEST_DIR/restored"
        cp "$(jq -r '.snapshots[0].path' <<<"$doc")"/app.db* "$VSS_TEST_DIR/restored/"
        expect_equal 'ok 0' "$(sqlite3 "$VSS_TEST_DIR/restored/app.db" 'PRAGMA integrity_check; SELECT a.v + b.v FROM a, b' | xargs)" "copy $i"
        vssctl -q delete "$(jq -r .set <<<"$doc")"
done
stop_process "$WRITER_PID"
kill -KILL $load
