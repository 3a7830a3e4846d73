#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Two PostgreSQL clusters, each with a writer of its own, one on a port of its own: both are in one set under load, and each copy
# is that of its cluster. One is restored while the other runs, and again beside itself under another name. What is of another
# cluster is not restored into this one.
VSS_TEST_SECONDS=120
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
PG=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
PATH=$PATH:$PG
requires initdb postgres psql pg_controldata setpriv jq mkfs.btrfs /usr/bin/python3
new_fs tree btrfs 1G
server_home home postgres
as_postgres=(setpriv --reuid postgres --regid postgres --init-groups env "PATH=$PATH" LC_ALL=C)
declare -A port=([main]=5432 [crm]=6543) pid=()
dsn() { echo "host=$home port=${port[$1]} user=postgres dbname=postgres"; }
sql() { timeout 20 psql -X -q -A -t -d "$2" -c "$1" 2>"$VSS_TEST_DIR/sql.err"; }
must() { sql "$@" || die "$1: $(cat "$VSS_TEST_DIR/sql.err")"; }
# server DATA SOCKET-DIRECTORY PORT: PID
server() {
        "${as_postgres[@]}" postgres -D "$1" -k "$2" -p "$3" -c listen_addresses= -c shared_buffers=16MB -c max_connections=10 >>"$VSS_TEST_DIR/log/postgresql.log" 2>&1 &
        PID=$!
        cleanup_fn stop_server $PID
        wait_until 40 sql 'SELECT 1' "host=$2 port=$3 user=postgres dbname=postgres" >/dev/null || die "the server does not start: $(tail -3 "$VSS_TEST_DIR/log/postgresql.log")"
}
stop_server() {
        kill -INT "$1" 2>/dev/null || return 0
        timeout 20 tail --pid="$1" -f /dev/null || kill -KILL "$1"
        wait "$1" 2>/dev/null || :
}
initialise() { "${as_postgres[@]}" initdb -D "$1" -A trust -N >"$VSS_TEST_DIR/log/initdb.log" 2>&1 || die "initdb: $(tail -3 "$VSS_TEST_DIR/log/initdb.log")"; }
# writer INSTANCE CLUSTER
writer() { start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --instance="$1" --dsn="$(dsn "$2")"; }
identifier() { "${as_postgres[@]}" pg_controldata "$1" | sed -n 's/^Database system identifier: *//p'; }
state() { (cd "$tree/main" && find . -printf '%p %s %T@\n' | sort | sha256sum); }
# refused WORDS OPTION…: of the cluster main, in one line, and nothing has changed
refused() {
        local before got=0
        before=$(state)
        vssctl restore "$VSS_TEST_DIR/manifest" --component=postgresql@main:cluster --no-service "${@:2}" >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err" || got=$?
        expect_equal "5 1" "$got $(wc -l <"$VSS_TEST_DIR/err")" "status and lines: $(cat "$VSS_TEST_DIR/err")"
        grep -q -- "$1" "$VSS_TEST_DIR/err" || die "not told \"$1\": $(cat "$VSS_TEST_DIR/err")"
        expect_equal "$before" "$(state)" "files of the cluster"
}

start_bus
start_vssd
declare -A load=() writer=()
for i in main crm; do
        install -d -o postgres "$tree/$i"
        initialise "$tree/$i"
        server "$tree/$i" "$home" "${port[$i]}"
        pid[$i]=$PID
        counts=$VSS_TEST_DIR/counts.$i
        start_load postgresql-load.py "$PG/psql" "$counts" "$(dsn $i)"
        load[$i]=$LOAD_PID
        writer $i $i
        writer[$i]=$WRITER_PID
done

note "each says which it is"
for i in main crm; do
        expect_equal "${port[$i]} $(identifier "$tree/$i")" "$(vssctl --json show "postgresql@$i" | jq -r '[.. | objects | select(.x?) | .x | "\(.port) \(.system_identifier)"] | first')" "document of $i"
done

note "both in one set, each copy that of its cluster"
for _ in 1 2 3; do
        declare -A last=() most=()
        for i in main crm; do last[$i]=$(counts=$VSS_TEST_DIR/counts.$i acknowledged); done
        vssctl --json create --require=application --manifest="$VSS_TEST_DIR/manifest" "$tree" >"$VSS_TEST_DIR/set.json" || die "create: $(cat "$VSS_TEST_DIR/set.json")"
        for i in main crm; do most[$i]=$(counts=$VSS_TEST_DIR/counts.$i begun); done
        expect_equal "crm main" "$(jq -r '[.writers[] | select(.consistency == "application") | .instance] | sort | join(" ")' "$VSS_TEST_DIR/set.json")" "writers of the set"
        copy=$(mount_copy "$tree")
        for i in main crm; do
                rm -rf "$home/copy"
                install -d -o postgres "$home/copy"
                cp -a "$copy/$i" "$home/copy/data"
                rm -f "$home/copy/data/postmaster.pid"
                server "$home/copy/data" "$home/copy" 5432
                there="host=$home/copy user=postgres dbname=postgres"
                n=$(must 'SELECT max(n) FROM done' "$there")
                expect_equal "$((n > 5000 ? 5000 : n))" "$(must 'SELECT count(*) FROM done' "$there")" "rows of $n transactions"
                expect_range "$n" "${last[$i]}" "${most[$i]}"
                expect_equal "$(identifier "$tree/$i")" "$(jq -r --arg i $i '.writers[] | select(.instance == $i) | .components[0].metadata | fromjson | .system_identifier' "$VSS_TEST_DIR/manifest")" "cluster in the manifest"
                stop_server $PID
        done
        expect_exit 0 vssctl umount "$copy"
done

note "one is restored, the other runs"
stop_process "${load[main]}"
stop_server "${pid[main]}"
find "$tree/main" -mindepth 1 -delete
before=$(counts=$VSS_TEST_DIR/counts.crm acknowledged)
expect_exit 0 vssctl restore "$VSS_TEST_DIR/manifest" --component=postgresql@main:cluster --no-service
second=$home/second
refused 'say where with --to=DIR' --rename=second --restore-options='"":"port"="7654"'
refused 'needs a port of its own' --rename=second --to="$second"
for n in 5432 0 65536 x 76543210 ''; do
        refused 'needs a port of its own, not that of the first (5432)' --rename=second --to="$second" --restore-options='"":"port"="'"$n"'"'
done
refused 'cannot be a cluster_name' --rename="x'" --to="$second" --restore-options='"":"port"="7654"'
[ ! -e "$second" ] || die "something was restored: $(ls "$second")"
server "$tree/main" "$home" 5432
pid[main]=$PID
n=$(must 'SELECT max(n) FROM done' "$(dsn main)")
expect_range "$n" "${last[main]}" "${most[main]}"
counts=$VSS_TEST_DIR/counts.crm goes_on || die "the other cluster stands still"
[ "$(must 'SELECT max(n) FROM done' "$(dsn crm)")" -ge "$before" ] || die "the other cluster lost something"

note "beside itself, under another name, in the same directory of sockets"
expect_exit 0 vssctl restore "$VSS_TEST_DIR/manifest" --component=postgresql@main:cluster --no-service --to="$second" --rename=second --restore-options='"":"port"="7654"'
"${as_postgres[@]}" postgres -D "$second" -k "$home" -c listen_addresses= -c shared_buffers=16MB -c max_connections=10 >>"$VSS_TEST_DIR/log/second.log" 2>&1 &
PID=$!
cleanup_fn stop_server $PID
there="host=$home port=7654 user=postgres dbname=postgres"
wait_until 40 sql 'SELECT 1' "$there" >/dev/null || die "the second cluster does not start: $(tail -3 "$VSS_TEST_DIR/log/second.log")"
expect_equal "second|off|" "$(must "SELECT current_setting('cluster_name'), current_setting('archive_mode'), current_setting('external_pid_file')" "$there")" "settings of the second"
expect_equal "5432|" "$(must "SELECT current_setting('port'), current_setting('cluster_name')" "$(dsn main)")" "settings of the first"
expect_range "$(must 'SELECT max(n) FROM done' "$there")" "${last[main]}" "${most[main]}"
must "INSERT INTO done VALUES (1000000)" "$there"
expect_equal 0 "$(must 'SELECT count(*) FROM done WHERE n = 1000000' "$(dsn main)")" "what the first has of the second"
stop_server $PID

note "a writer that serves another cluster by now, and a new cluster in its place"
stop_process "${writer[main]}"
stop_server "${pid[main]}"
writer main crm
refused "another cluster: its data directory is $tree/main"
stop_process "$WRITER_PID"
find "$tree/main" -mindepth 1 -delete
initialise "$tree/main"
server "$tree/main" "$home" 5432
writer main main
stop_server $PID
refused "another cluster: its system identifier is"
expect_exit 0 vssctl restore "$VSS_TEST_DIR/manifest" --component=postgresql@main:cluster --no-service --restore-options='"":"system"="any"'
server "$tree/main" "$home" 5432
expect_equal "$n" "$(must 'SELECT max(n) FROM done' "$(dsn main)")" "the last transaction of the backup"
