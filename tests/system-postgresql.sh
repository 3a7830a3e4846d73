#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-postgresql with real clusters under pgbench, the data on one volume, the log on another and a tablespace on the
# first: in every copy everything committed before Freeze is there and nothing that was begun after it, every sum of pgbench
# agrees, and every index fits its table. A copy made as a backup starts from its label. Whatever goes wrong, no backup stays
# open, and the next set works.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
PG=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
PATH=$PATH:$PG
requires initdb postgres psql pgbench pg_amcheck pg_controldata setpriv jq mkfs.ext4 mkfs.btrfs /usr/bin/python3
watchdog 560
SETS=${POSTGRESQL_SETS:-100}
engine_area area
export VSS_IMAGE_DIR=$area
new_fs tree btrfs 1536M

server_home home postgres
live="host=$home user=postgres dbname=postgres"
as_postgres=(setpriv --reuid postgres --regid postgres --init-groups env "PATH=$PATH" LC_ALL=C)
settings=(-c listen_addresses= -c shared_buffers=32MB -c max_wal_size=64MB -c min_wal_size=32MB -c max_connections=20)
# run_server DATA SOCKET-DIRECTORY LOG [SETTING…]: PID
run_server() {
        "${as_postgres[@]}" postgres -D "$1" -k "$2" "${settings[@]}" "${@:4}" >>"$3" 2>&1 &
        PID=$!
        cleanup_fn stop_server "$PID"
        wait_until 40 _answers "$2" || die "the server does not start: $(tail -3 "$3")"
}
# at once, also with sessions open
stop_server() {
        kill -CONT "$1" 2>/dev/null || return 0
        kill -QUIT "$1"
        timeout 10 tail --pid="$1" -f /dev/null || kill -KILL "$1"
}
_answers() { sql 'SELECT 1' "host=$1 user=postgres dbname=postgres" >/dev/null; }
sql() { timeout 20 psql -X -q -A -t -d "${2:-$live}" -c "$1" 2>"$VSS_TEST_DIR/sql.err"; }
# cluster DATA LOG TABLESPACE
cluster() {
        mkdir -p "$1" "$2" "$3"
        chown postgres "$1" "$2" "$3"
        "${as_postgres[@]}" initdb -D "$1" --waldir="$2" -A trust -N --data-checksums --wal-segsize=4 >"$VSS_TEST_DIR/log/initdb.log" 2>&1 ||
                die "initdb: $(tail -3 "$VSS_TEST_DIR/log/initdb.log")"
}
server() {
        run_server "$1" "$home" "$VSS_TEST_DIR/log/postgresql.log"
        SERVER_PID=$PID
}
load() {
        sql "CREATE TABLESPACE elsewhere LOCATION '$1'" || die "no tablespace: $(cat "$VSS_TEST_DIR/sql.err")"
        "${as_postgres[@]}" pgbench -i -q -s 1 --index-tablespace=elsewhere -d "$live" >"$VSS_TEST_DIR/log/pgbench-i.log" 2>&1 || die "pgbench -i: $(tail -3 "$VSS_TEST_DIR/log/pgbench-i.log")"
        "${as_postgres[@]}" pgbench -n -c 2 -T 10000 -R 400 -d "$live" >"$VSS_TEST_DIR/log/pgbench.log" 2>&1 &
        BENCH_PID=$!
        cleanup_fn stop_process $BENCH_PID
        start_load postgresql-load.py "$PG/psql" "$counts" "$live"
}
no_backup_open() {
        wait_until 5 eval '[ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '"'%pg_backup%'"' AND pid <> pg_backend_pid()")" = 0 ]' ||
                die "$1: a session with a backup is still there"
        sql "SELECT pg_backup_start('other', true); SELECT 1 FROM pg_backup_stop(false)" >/dev/null || die "$1: no backup can be made: $(cat "$VSS_TEST_DIR/sql.err")"
}
writer() { start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --name=pg --dsn="$live" "$@"; }

# take_copy DATA LOG TABLESPACE: into $home/copy, as a second server will have it
take_copy() {
        local copy=$home/copy log=$VSS_TEST_DIR/log/copy.log
        rm -rf --one-file-system "$copy"
        mkdir "$copy"
        cp -a "$1" "$copy/data"
        cp -a "$2" "$copy/log"
        cp -a "$3" "$copy/space"
        rm -f "$copy/data/postmaster.pid" "$copy/data/pg_wal" "$log"
        ln -s ../log "$copy/data/pg_wal"
        if [ -e "$copy/data/tablespace_map" ]; then
                sed -i "s| .*| $copy/space|" "$copy/data/tablespace_map"
        else
                ln -sfn "$copy/space" "$(echo "$copy"/data/pg_tblspc/[0-9]*)"
        fi
        chown postgres "$copy"
}
# check_copy DATA LOG TABLESPACE LEAST MOST HOW: as a second server sees it
check_copy() {
        local copy=$home/copy log=$VSS_TEST_DIR/log/copy.log n there tables
        take_copy "$1" "$2" "$3"
        run_server "$copy/data" "$copy" "$log" -c autovacuum=off
        there="host=$copy user=postgres dbname=postgres"
        if [ "$6" = backup ]; then
                grep -q 'consistent recovery state reached' "$log" || die "not recovered: $(head "$log")"
                [ -e "$copy/data/backup_label.old" ] || die "the server did not start from the label"
        else
                grep -q 'database system was not properly shut down; automatic recovery in progress' "$log" || die "the copy of a running server needed no recovery: $(head "$log")"
                [ ! -e "$copy/data/backup_label.old" ] || die "there is a label"
        fi
        ! grep -E 'PANIC|FATAL|ERROR|invalid page|corrupt' "$log" | grep -v 'starting up\|not yet accepting' || die "the copy is not whole"
        n=$(sql 'SELECT max(n) FROM done' "$there")
        expect_equal "$((n > 5000 ? 5000 : n))" "$(sql 'SELECT count(*) FROM done' "$there")" "rows of $n transactions"
        expect_equal 1 "$(sql 'SELECT count(DISTINCT s) FROM (SELECT sum(abalance) FROM pgbench_accounts UNION ALL SELECT sum(bbalance)
                FROM pgbench_branches UNION ALL SELECT sum(tbalance) FROM pgbench_tellers UNION ALL SELECT coalesce(sum(delta), 0) FROM pgbench_history) x(s)' "$there")" "sums of pgbench"
        expect_range "$n" "$4" "$5"
        # what the load writes; in every fifth also the system's own tables, which takes as long as all the rest
        [ $(((CHECKED += 1) % 5)) -eq 1 ] && tables=() || tables=(--schema=public)
        pg_amcheck --install-missing --heapallindexed "${tables[@]}" -h "$copy" -U postgres -d postgres >"$VSS_TEST_DIR/check" 2>&1 ||
                die "pg_amcheck: $(tail -3 "$VSS_TEST_DIR/check")"
        kill -QUIT "$PID"
        wait "$PID" 2>/dev/null || :
}
CHECKED=0

# sets DATA-VOLUME LOG-VOLUME N HOW
sets() {
        local i data logs volumes=("$1" "$2")
        [ "$1" != "$2" ] || volumes=("$1")
        for ((i = 1; i <= $3; i++)); do
                make_set "${volumes[@]}"
                data=$(mount_copy "$1") logs=$data
                [ "$1" = "$2" ] || logs=$(mount_copy "$2")
                check_copy "$data/data" "$logs/log" "$data/space" "$LAST" "$MOST" "$4"
                [ -n "$(manifest_metadata cluster | jq -er .system_identifier)" ] || die "the manifest does not say which cluster it is"
                delete_set
        done
}
# control DATA-VOLUME LOG-VOLUME: what one instant is for. Two sets, the log first, a checkpoint between them
control() {
        local log=$VSS_TEST_DIR/log/copy.log data logs first
        expect_exit 0 vssctl --json create --no-writers "$2" >"$VSS_TEST_DIR/set.json"
        logs=$(mount_copy "$2") first=$(json .set <"$VSS_TEST_DIR/set.json")
        sql 'CHECKPOINT' || die "no checkpoint: $(cat "$VSS_TEST_DIR/sql.err")"
        expect_exit 0 vssctl --json create --no-writers "$1" >"$VSS_TEST_DIR/set.json"
        SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
        data=$(mount_copy "$1")
        take_copy "$data/data" "$logs/log" "$data/space"
        if timeout 20 "${as_postgres[@]}" postgres -D "$home/copy/data" -k "$home/copy" "${settings[@]}" >"$log" 2>&1; then die "a server starts on it, and ends"; fi
        grep -q 'could not locate a valid checkpoint record' "$log" || die "copies of two moments are taken for one: $(tail -5 "$log")"
        delete_set
        SET_ID=$first
        delete_set
}
end_all() {
        stop_process "$WRITER_PID"
        stop_process "$BENCH_PID"
        stop_process "$LOAD_PID"
        kill -INT "$SERVER_PID"
        wait "$SERVER_PID" || :
}

start_bus
start_fake
fake volume "$tree" "$tree"
cluster "$tree/data" "$tree/log" "$tree/space"
server "$tree/data"
load "$tree/space"
writer

note "documents"
ask pg identify ok
expect_equal "data $tree/data, log $tree/log, data $tree/space" \
        "$(jq -r '[.components[0].files[] | select(.recursive and .pattern == "*") | "\(.role) \(.root)"] | join(", ")' <<<"$(document pg)")" document

# those who were just let go may leave a place behind that was still taken when the others came
none_left() {
        _answers "$home" || return 0
        sql 'SELECT pg_sleep(6)' >/dev/null &
        holders+=($!)
        return 1
}
note "a long transaction does no harm; a lock that somebody has on everything neither; a server that hangs, dies, refuses"
for mode in checkpoint backup; do
        stop_process "$WRITER_PID"
        writer --mode=$mode
        sql 'BEGIN; LOCK pgbench_branches; SELECT pg_sleep(3)' >/dev/null &
        prepare pg
        wait $!
        ask pg abort ok
        no_backup_open "abort ($mode)"
        kill -STOP "$SERVER_PID"
        pkill -STOP -P "$SERVER_PID"
        ask pg prepare-snapshot WriterRetryable 1500
        grep '^reply pg prepare-snapshot WriterRetryable' "$FAKE_LOG" | tail -1 | awk '{exit !($5 < 1500000)}' || die "answered after its deadline"
        pkill -CONT -P "$SERVER_PID"
        kill -CONT "$SERVER_PID"
        ask pg abort ok
        no_backup_open "a server that hung ($mode)"
        prepare pg
        kill -KILL "$WRITER_PID"
        no_backup_open "SIGKILL of the writer ($mode)"
        writer --mode=$mode
        ask pg abort ok # lets go of its session
        holders=()
        for _ in {1..22}; do # there are 20
                sql 'SELECT pg_sleep(6)' >/dev/null &
                holders+=($!)
        done
        wait_until 5 none_left || die "connections are left"
        ask pg prepare-snapshot WriterNoResources
        wait "${holders[@]}" || :
        ask pg abort ok
        prepare pg
        ask pg abort ok
        no_backup_open "no connection left ($mode)"
done
prepare pg
sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_control_system%' AND pid <> pg_backend_pid()" >/dev/null
ask pg post-snapshot WriterRetryable
ask pg abort ok
stop_process "$LOAD_PID"
stop_process "$BENCH_PID"
kill -INT "$SERVER_PID"
wait "$SERVER_PID" || :
ask pg prepare-snapshot WriterRetryable
expect_exit 1 "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$live"
echo 'local all all scram-sha-256' >"$tree/data/pg_hba.conf"
server_wants() { pg_isready -q -h "$home"; }
"${as_postgres[@]}" postgres -D "$tree/data" -k "$home" "${settings[@]}" >>"$VSS_TEST_DIR/log/postgresql.log" 2>&1 &
SERVER_PID=$!
cleanup_fn stop_server "$SERVER_PID"
wait_until 30 server_wants
ask pg prepare-snapshot WriterFatal
expect_exit 1 "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$live"
expect_exit 2 "$VSS_BUILD/writers/vss-writer-postgresql" --mode=magic
for dsn in 'password=sesame' 'host=example.net' 'hostaddr=10.0.0.1' 'no such thing'; do
        expect_exit 2 "$VSS_BUILD/writers/vss-writer-postgresql" --dsn="$dsn"
done
stop_process "$WRITER_PID"
kill -INT "$SERVER_PID"
wait "$SERVER_PID" || :
stop_process "$FAKE_PID"

start_vssd
engine_volume v 1536M 1G
for volumes in "$v $tree" "$tree $v"; do
        read -r data logs <<<"$volumes"
        rm -rf "$tree"/{data,log,space} "$v"/{data,log,space}
        cluster "$data/data" "$logs/log" "$data/space"
        server "$data/data"
        load "$data/space"
        writer
        note "a set without the volume of the log is refused"
        expect_exit 9 vssctl create --closure=strict --require=application "$data"
        note "$((SETS / 2)) sets, data on $(stat -f -c %T "$data"), log on $(stat -f -c %T "$logs")"
        sets "$data" "$logs" $((SETS / 2)) checkpoint
        note "a control: data and log of different moments are no cluster"
        control "$data" "$logs"
        note "$(acknowledged) transactions"
        end_all
done

note "$((SETS / 10)) sets as backups, with a label"
rm -rf "$tree"/{data,log,space}
cluster "$tree/data" "$tree/log" "$tree/space"
server "$tree/data"
load "$tree/space"
writer --mode=backup
sets "$tree" "$tree" $((SETS / 10)) backup
no_backup_open "the last set"
end_all
