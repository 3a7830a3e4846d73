#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-postgresql with a server that is a standby, one that is still recovering and one in the middle of a long change of
# its schema: each has a defined result, a second session finds nothing locked after it, and the next set works. Servers that
# hang, die, refuse or have no connection left are in system-postgresql.
VSS_TEST_SECONDS=150
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
PG=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
PATH=$PATH:$PG
requires initdb postgres psql pg_basebackup setpriv jq mkfs.btrfs
new_fs tree btrfs 1G
server_home home postgres
as_postgres=(setpriv --reuid postgres --regid postgres --init-groups env "PATH=$PATH" LC_ALL=C)
settings=(-c listen_addresses= -c shared_buffers=16MB -c max_wal_size=64MB -c min_wal_size=32MB -c max_connections=10)
dsn() { echo "host=$home/$1 user=postgres dbname=postgres"; }
sql() { timeout 20 psql -X -q -A -t -d "$(dsn "$1")" -c "$2" 2>"$VSS_TEST_DIR/sql.err"; }
must() { sql "$@" || die "$2: $(cat "$VSS_TEST_DIR/sql.err")"; }
# server NAME ANSWER [SETTING…]: PID, once pg_is_in_recovery() is ANSWER; "": not waited for
server() {
        mkdir -p "$home/$1"
        chown postgres "$home/$1"
        "${as_postgres[@]}" postgres -D "$tree/$1" -k "$home/$1" "${settings[@]}" "${@:3}" >>"$VSS_TEST_DIR/log/$1.log" 2>&1 &
        PID=$!
        cleanup_fn stop_server $PID
        [ -z "$2" ] || wait_until 30 answers "$1" "$2" || die "$1 does not start: $(tail -3 "$VSS_TEST_DIR/log/$1.log")"
}
answers() { [ "$(sql "$1" 'SELECT pg_is_in_recovery()')" = "$2" ]; }
stop_server() {
        kill -INT "$1" 2>/dev/null || return 0
        timeout 20 tail --pid="$1" -f /dev/null || kill -KILL "$1"
        wait "$1" 2>/dev/null || :
}
# a_set CODE [OPTION…]: and if it was made, that it is an application's
a_set() {
        local got=0
        vssctl --json create --require=application "${@:2}" "$tree" >"$VSS_TEST_DIR/set.json" 2>&1 || got=$?
        expect_equal "$1" "$got" "status of create ${*:2}: $(cat "$VSS_TEST_DIR/set.json")"
        [ "$got" -ne 0 ] || { SET_ID=$(json .set <"$VSS_TEST_DIR/set.json"); delete_set; }
}
# free NAME: a second session may do what every lock would keep it from
free() {
        must "$1" "SET lock_timeout = 3000; CREATE TABLE IF NOT EXISTS free (i int); LOCK free; DROP TABLE free"
        expect_equal 0 "$(must "$1" "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.pid <> pg_backend_pid() AND a.state LIKE 'idle in%'")" "sessions that hold something"
}
writer() { start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$(dsn "$1")" "${@:2}"; }

start_bus
mkdir "$tree/primary" "$tree/archive"
chown postgres "$tree/primary" "$tree/archive" "$tree"
"${as_postgres[@]}" initdb -D "$tree/primary" -A trust -N --wal-segsize=1 >"$VSS_TEST_DIR/log/initdb.log" 2>&1 || die "initdb: $(tail -3 "$VSS_TEST_DIR/log/initdb.log")"
printf "archive_mode = on\narchive_command = 'cp %%p %s/%%f'\n" "$tree/archive" >>"$tree/primary/postgresql.conf"
server primary f
PRIMARY=$PID
must primary 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS n'
start_vssd

note "a long change of the schema, and a long transaction"
for mode in checkpoint backup; do
        writer primary --mode=$mode
        psql -X -q -d "$(dsn primary)" -c 'BEGIN; ALTER TABLE t ADD COLUMN m int; LOCK t; SELECT pg_sleep(4); ROLLBACK' >/dev/null 2>&1 &
        ddl=$!
        wait_until 5 eval '! sql primary "SET lock_timeout = 10; SELECT count(*) FROM t" >/dev/null' || die "nothing is locked"
        a_set 0
        kill -0 $ddl 2>/dev/null || die "the set waited for the change of the schema"
        wait $ddl || :
        free primary
        a_set 0
        stop_process "$WRITER_PID"
done

note "a standby"
"${as_postgres[@]}" pg_basebackup -d "$(dsn primary)" -D "$tree/standby" -R -X stream -c fast >"$VSS_TEST_DIR/log/basebackup.log" 2>&1 || die "pg_basebackup: $(tail -3 "$VSS_TEST_DIR/log/basebackup.log")"
server standby t
writer standby --archive="$tree/archive"
a_set 0
a_set 5 --type=log # only a primary can end a segment
grep -q 'recovery is in progress' "$VSS_TEST_DIR/set.json" || die "the reason is not told: $(cat "$VSS_TEST_DIR/set.json")"
a_set 0
must primary 'INSERT INTO t VALUES (1001)'
wait_until 10 eval '[ "$(sql standby "SELECT count(*) FROM t")" = 1001 ]' || die "the standby does not follow"
free primary

note "the standby becomes a primary"
must standby 'SELECT pg_promote()' >/dev/null
a_set 0
free standby
STANDBY=$PID

note "a server that is recovering takes no part until it is ready"
stop_server $STANDBY
touch "$tree/standby/recovery.signal"
server standby "" -c hot_standby=off -c "restore_command=sleep 4; false"
wait_until 20 grep -q 'starting archive recovery' "$VSS_TEST_DIR/log/standby.log" || die "it does not recover"
a_set 9
wait_until 30 answers standby f || die "it does not get ready: $(tail -3 "$VSS_TEST_DIR/log/standby.log")"
a_set 0
free standby
stop_server $PRIMARY
