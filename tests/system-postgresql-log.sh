#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Backups of PostgreSQL's log, and going forward with them: a full backup and one of the log, restored to a time, a position, a
# restore point and to the end; the server comes up with exactly the rows that were committed until then. Elsewhere, beside the
# server that runs. What cannot be reached is refused before anything is touched.
VSS_TEST_SECONDS=170
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
PG=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
PATH=$PATH:$PG
requires initdb postgres psql setpriv jq mkfs.btrfs
new_fs tree btrfs 1536M
server_home home postgres
live="host=$home user=postgres dbname=postgres"
as_postgres=(setpriv --reuid postgres --regid postgres --init-groups env "PATH=$PATH" LC_ALL=C)
settings=(-c listen_addresses= -c shared_buffers=16MB -c max_wal_size=64MB -c min_wal_size=32MB -c max_connections=10)
sql() { timeout 20 psql -X -q -A -t -d "${2:-$live}" -c "$1" 2>"$VSS_TEST_DIR/sql.err"; }
must() { sql "$@" || die "$1: $(cat "$VSS_TEST_DIR/sql.err")"; }
answers() { [ "$(sql 'SELECT pg_is_in_recovery()' "host=$1 user=postgres dbname=postgres")" = f ]; }
# server DATA SOCKET-DIRECTORY: PID; it is there once it has left recovery
server() {
        "${as_postgres[@]}" postgres -D "$1" -k "$2" "${settings[@]}" >>"$VSS_TEST_DIR/log/postgresql.log" 2>&1 &
        PID=$!
        cleanup_fn stop_server $PID
        wait_until 40 answers "$2" || die "the server does not start: $(tail -5 "$VSS_TEST_DIR/log/postgresql.log")"
}
stop_server() {
        kill -INT "$1" 2>/dev/null || return 0
        timeout 20 tail --pid="$1" -f /dev/null || kill -KILL "$1"
        wait "$1" 2>/dev/null || :
}
rows() { must "SELECT string_agg(part, ' ' ORDER BY part) FROM (SELECT part || count(*) AS part FROM t GROUP BY t.part) x" "${1:-$live}"; }
insert() { must "INSERT INTO t SELECT '$1', i FROM generate_series(1, $2) i"; }
# refused CODE WORDS OPTION…: one line with these words, and neither data nor archive have changed
refused() {
        local before got=0
        before=$(state)
        vssctl restore "$full" --no-service "${@:3}" >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err" || got=$?
        expect_equal "$1 1" "$got $(wc -l <"$VSS_TEST_DIR/err")" "status and lines of ${*:3}: $(cat "$VSS_TEST_DIR/err")"
        grep -q -- "$2" "$VSS_TEST_DIR/err" || die "${*:3}: $(cat "$VSS_TEST_DIR/err")"
        expect_equal "$before" "$(state)" "files after ${*:3}"
}
state() { (cd "$tree" && find data archive -printf '%p %s %T@\n' | sort | sha256sum); }
# backup TYPE OPTION…: MANIFEST
backup() {
        MANIFEST=$VSS_TEST_DIR/$1.json
        vssctl --json create --type="$1" --require=application --manifest="$MANIFEST" "${@:2}" "$tree" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/err" || die "create --type=$1: $(cat "$VSS_TEST_DIR/err")"
        expect_exit 0 vssctl complete --manifest="$MANIFEST" "$(json .set <"$VSS_TEST_DIR/set.json")"
}

start_bus
mkdir "$tree/data" "$tree/archive" "$home/copy"
chown postgres "$tree/data" "$tree/archive" "$home/copy"
"${as_postgres[@]}" initdb -D "$tree/data" -A trust -N --wal-segsize=1 >"$VSS_TEST_DIR/log/initdb.log" 2>&1 || die "initdb: $(tail -3 "$VSS_TEST_DIR/log/initdb.log")"
printf "archive_mode = on\narchive_command = 'cp %%p %s/.%%f && mv %s/.%%f %s/%%f'\n" "$tree/archive" "$tree/archive" "$tree/archive" >>"$tree/data/postgresql.conf"
server "$tree/data" "$home"
LIVE_PID=$PID
must 'CREATE TABLE t (part text, n int)'
start_vssd
start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$live" --archive="$tree/archive"

note "a full backup, and one of the log"
insert a 1000
backup full
full=$MANIFEST
jq -e '.writers[0].components[0].metadata | fromjson | .end_lsn and .end_time' "$full" >/dev/null || die "the backup does not say where it ends: $(jq -c .writers "$full")"
early=2020-01-01T00:00:00Z
insert b 2000
sleep 0.01
TIME=$(must "SELECT to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD HH24:MI:SS.US')")Z
sleep 0.01
must 'SELECT pg_switch_wal()' >/dev/null
insert c 3000
LSN=$(must 'SELECT pg_current_wal_lsn()')
must 'SELECT pg_switch_wal()' >/dev/null
insert d 4000
must "SELECT pg_create_restore_point('before e')" >/dev/null
insert e 5000
backup log --previous="$full"
logs=$MANIFEST
expect_equal "log $tree/archive" "$(jq -r '.writers[0] | .backup_type // .type' "$logs") $(jq -r '.writers[0].components[0].metadata | fromjson | .archive' "$logs")" "backup of the log"
saved=$(vssctl --json mount "$(jq -er '.snapshots[0].id' "$VSS_TEST_DIR/set.json")" | json .path)
[ "$(find "$saved/archive" -name '000*' -newer "$full" | wc -l)" -ge 2 ] || die "no log is in the backup: $(ls -l "$saved/archive")"
expect_exit 0 vssctl umount "$saved"
insert f 100 # in no backup

note "what cannot be reached is refused, in one line"
refused 5 'is no point' --until=yesterday
refused 5 'is no point' --until='2026-02-30 12:00:00Z'
refused 5 'is no point' --until='2026-11-27 12:00:00'
refused 5 'is no point' --until=0/
refused 5 'is no point' --until='0/ 3000060'
refused 5 'before the end of the backup' --until=$early
refused 5 'before the end of the backup' --until=0/100
refused 5 'has a gap' --until=F/0
refused 5 'archive: an absolute path' --until=latest --restore-options='"":"archive"="/a; true"'
refused 5 'archive /nonexistent' --until=latest --restore-options='"":"archive"="/nonexistent"'
second=$(find "$tree/archive" -newer "$full" -name '0000000100000000000000??' | sort | sed -n 2p)
mv "$second" "$home/kept"
refused 5 "has a gap: ${second##*/}" --until="$TIME"
stop_server $LIVE_PID
expect_exit 9 vssctl create --type=log --require=application --previous="$full" "$tree" # the server is down
server "$tree/data" "$home"
LIVE_PID=$PID
expect_exit 5 vssctl create --type=log --previous="$full" "$tree"
mv "$home/kept" "$second"

note "beside the server that runs, to a position"
expect_exit 0 vssctl restore "$full" --no-service --to="$home/copy/data" --until="$LSN"
server "$home/copy/data" "$home/copy"
expect_equal "a1000 b2000 c3000" "$(rows "host=$home/copy user=postgres dbname=postgres")" "rows beside the server"
expect_equal off "$(must 'SHOW archive_mode' "host=$home/copy user=postgres dbname=postgres")" "archiving of the second server"
stop_server $PID
expect_equal "a1000 b2000 c3000 d4000 e5000 f100" "$(rows)" "rows of the server that runs"

note "a backup with anything under the names that are written, and a writer that may not write"
vssctl --json create --type=full --require=application "$tree" >"$VSS_TEST_DIR/set.json" || die "create: $(cat "$VSS_TEST_DIR/set.json")"
shown=$(vssctl --json mount "$(jq -er '.snapshots[0].id' "$VSS_TEST_DIR/set.json")" | json .path)
mkdir -p "$home/hostile$tree"
cp -a "$shown/data" "$home/hostile$tree/"
expect_exit 0 vssctl umount "$shown"
mkfifo "$home/hostile$tree/data/recovery.signal" "$home/hostile$tree/data/postgresql.auto.conf.vss"
expect_exit 0 timeout 30 "$VSS_BUILD/client/vssctl" restore "$full" --no-service --from="$home/hostile" --to="$home/copy/hostile" --until="$LSN"
expect_equal "regular empty file" "$(stat -c %F "$home/copy/hostile/recovery.signal")" "recovery.signal"
stop_process "$WRITER_PID"
printf '#!/bin/bash\nmount --bind -o ro "$0" "$0" && exec %s "$@"\n' "$VSS_BUILD/writers/vss-writer-postgresql" >"$VSS_TEST_DIR/held"
sed -i "s|\$0|$tree|g" "$VSS_TEST_DIR/held"
chmod 755 "$VSS_TEST_DIR/held"
start_writer unshare --mount "$VSS_TEST_DIR/held" --dsn="$live" --archive="$tree/archive"
refused 5 'shown .* read-only' --until="$LSN"
refused 5 'shown .* read-only' --to="$tree/copy"
stop_process "$WRITER_PID"
start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$live" --archive="$tree/archive"

# forward POINT ROWS: everything is lost, and restored from the two backups
forward() {
        note "everything is lost; restored until $1"
        stop_server $LIVE_PID
        find "$tree/data" "$tree/archive" -mindepth 1 -delete
        expect_exit 0 vssctl restore "$logs" --no-service
        expect_exit 0 vssctl restore "$full" --no-service --until="$1"
        expect_equal postgres "$(stat -c %U "$tree/data/recovery.signal")" "owner of recovery.signal"
        server "$tree/data" "$home"
        LIVE_PID=$PID
        expect_equal "$2" "$(rows)" "rows until $1"
        insert g 1
}
forward "$TIME" "a1000 b2000"

note "everything is killed when the files have changed places: the server starts with what it is to do"
stop_server $LIVE_PID
find "$tree/data" "$tree/archive" -mindepth 1 -delete
expect_exit 0 vssctl restore "$logs" --no-service
mkdir "$VSS_TEST_DIR/bin"
printf '#!/bin/sh\n[ "$1" != stop ] || kill -STOP %s\n' "$WRITER_PID" >"$VSS_TEST_DIR/bin/systemctl"
chmod 755 "$VSS_TEST_DIR/bin/systemctl"
(PATH=$VSS_TEST_DIR/bin:$PATH become root "$VSS_BUILD/client/vssctl" restore "$full" --service=postgresql.service --until="$TIME") >"$VSS_TEST_DIR/out" 2>&1 &
requester=$!
swapped() { [ "$(stat -c %U "$tree/data/global" 2>/dev/null)" = postgres ] && [ -e "$tree/data/PG_VERSION" ] && [ -z "$(find "$tree/data" -name ".vss-restore-*")" ]; }
# Before its plan says so, what is in place is no restore that was cut off later: that one goes back (system-restore-cut).
recorded() { ! vssctl --json restore --pending | jq -e 'any(.plans[]; .state == "replacing")' >/dev/null; }
wait_until 30 swapped || die "nothing is restored: $(cat "$VSS_TEST_DIR/out")"
wait_until 30 recorded || die "the plan is where it was: $(vssctl restore --pending)"
kill -KILL $requester
wait $requester 2>/dev/null || :
kill -KILL "$WRITER_PID"
wait "$WRITER_PID" 2>/dev/null || :
server "$tree/data" "$home"
LIVE_PID=$PID
expect_equal "a1000 b2000" "$(rows)" "rows after the kill"
insert g 1
start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$live" --archive="$tree/archive"

note "a timeline of its own, with segments of the old one under the same numbers beside it"
cp "$logs" "$VSS_TEST_DIR/first.json"
for i in 1 2 3; do
        insert h$i 100
        must 'SELECT pg_switch_wal()' >/dev/null
done
backup log --previous="$full"
logs=$VSS_TEST_DIR/first.json
second=$(find "$tree/archive" -name '0000000200000000000000??' | sort | sed -n 2p)
[ -e "${second/00000002/00000001}" ] || die "timeline 1 has nothing like $second: $(ls "$tree/archive")"
mv "$second" "$home/kept"
expect_exit 5 vssctl create --type=log --previous="$full" "$tree"
refused 5 "has a gap: ${second##*/}" --until=latest
mv "$home/kept" "$second"
before=$(stat -c %i "$tree/data/PG_VERSION" "$tree/data/global/pg_control")
expect_exit 8 vssctl restore "$full" --no-service --until=latest # the server runs
expect_equal "$before" "$(stat -c %i "$tree/data/PG_VERSION" "$tree/data/global/pg_control")" "files of the server that runs"
refused 5 'timeline: a number' --until=latest --restore-options='"":"timeline"="1x"'
refused 5 '00000007.history is not in' --until=latest --restore-options='"":"timeline"="7"'
expect_exit 0 vssctl restore "$full" --no-service --to="$home/copy/old" --until="$LSN" --restore-options='"":"timeline"="1"'
server "$home/copy/old" "$home/copy"
expect_equal "a1000 b2000 c3000" "$(rows "host=$home/copy user=postgres dbname=postgres")" "rows of the old timeline"
stop_server $PID
expect_exit 0 vssctl restore "$full" --no-service --to="$home/copy/new" --until=latest
server "$home/copy/new" "$home/copy"
expect_equal "a1000 b2000 g1 h1100 h2100 h3100" "$(rows "host=$home/copy user=postgres dbname=postgres")" "rows of the new timeline"
stop_server $PID

forward "$LSN" "a1000 b2000 c3000"
forward "name:before e" "a1000 b2000 c3000 d4000"
forward latest "a1000 b2000 c3000 d4000 e5000"

note "a server that does not archive has no backup of its log, and does a full one"
stop_process "$WRITER_PID"
stop_server $LIVE_PID
sed -i 's/^archive_mode = on/archive_mode = off/' "$tree/data/postgresql.conf"
server "$tree/data" "$home"
start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$live" --archive="$tree/archive"
backup log
expect_equal "writer postgresql has no log backup and does a full one" "$(jq -r '.warnings[0]' "$VSS_TEST_DIR/set.json")" "warning"
grep -q 'archive_mode is off' "$MANIFEST" || die "the reason is not told"
expect_equal full "$(jq -r '.writers[0] | .backup_type // .type' "$MANIFEST")" "what it did instead"
expect_exit 10 vssctl restore "$MANIFEST" --until=latest
