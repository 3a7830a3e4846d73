#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-mariadb with a server that is a replica, one that is still recovering and one in the middle of a long change of its
# schema: each has a defined result, a second session finds nothing locked after it, and the next set works. Servers that hang,
# die, refuse or have no connection left are in system-mariadb.
VSS_TEST_SECONDS=150
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
requires mariadbd mariadb mariadb-install-db jq mkfs.btrfs /usr/bin/python3
new_fs tree btrfs 1G
server_home home mysql
common=(--no-defaults --user=mysql --tmpdir="$home" --innodb-buffer-pool-size=32M --innodb-log-file-size=16M --skip-name-resolve --bind-address=127.0.0.1 --log-bin=bin --log-slave-updates)
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sql() { timeout 20 mariadb --no-defaults -S "$home/$1" -uroot --batch --skip-column-names -e "$2" 2>"$VSS_TEST_DIR/sql.err"; }
must() { sql "$@" || die "$2: $(cat "$VSS_TEST_DIR/sql.err")"; }
answers() { sql "$1" 'SELECT 1' >/dev/null; }
# start NAME OPTION…: PID
start() {
        mariadbd "${common[@]}" --datadir="$tree/$1" --socket="$home/$1" "${@:2}" >>"$VSS_TEST_DIR/log/$1.log" 2>&1 &
        PID=$!
        cleanup_fn stop_process $PID
}
server() {
        start "$@"
        wait_until 30 answers "$1" || die "$1 does not start: $(tail -3 "$VSS_TEST_DIR/log/$1.log")"
}
writer() { start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$home/$1" --user=root; }
# a_set CODE [OPTION…]: and if it was made, that it is an application's
a_set() {
        local got=0
        vssctl --json create --require=application "${@:2}" "$tree" >"$VSS_TEST_DIR/set.json" 2>&1 || got=$?
        expect_equal "$1" "$got" "status of create ${*:2}: $(cat "$VSS_TEST_DIR/set.json")"
        [ "$got" -ne 0 ] || { SET_ID=$(json .set <"$VSS_TEST_DIR/set.json"); delete_set; }
}
# free NAME: a second session may do what every lock would keep it from
free() {
        must "$1" 'SET lock_wait_timeout = 3; CREATE OR REPLACE TABLE vss.free (i INT); INSERT INTO vss.free VALUES (1); DROP TABLE vss.free; BACKUP STAGE START; BACKUP STAGE END'
}

start_bus
mkdir "$tree/primary"
chown mysql "$tree/primary"
mariadb-install-db --no-defaults --user=mysql --datadir="$tree/primary" --skip-test-db --auth-root-authentication-method=normal \
        --innodb-log-file-size=16M --tmpdir="$home" >"$VSS_TEST_DIR/log/install.log" 2>&1 || die "mariadb-install-db: $(tail -3 "$VSS_TEST_DIR/log/install.log")"
cp -a "$tree/primary" "$tree/replica"
server primary --port="$port" --server-id=1
PRIMARY=$PID
must primary "CREATE DATABASE vss; USE vss; CREATE TABLE vss.t (n INT); INSERT INTO vss.t SELECT seq FROM seq_1_to_1000; CREATE USER r@'127.0.0.1'; GRANT REPLICATION SLAVE ON *.* TO r@'127.0.0.1'"
start_vssd

note "a change of the schema that waits for a long transaction"
writer primary
(timeout 20 mariadb --no-defaults -S "$home/primary" -uroot -e 'BEGIN; SELECT COUNT(*) FROM vss.t; SELECT SLEEP(5)' >/dev/null 2>&1) &
reader=$!
wait_until 5 eval 'must primary "SELECT info FROM information_schema.processlist" | grep -q "SLEEP(5)"' || die "the transaction does not run"
(timeout 20 mariadb --no-defaults -S "$home/primary" -uroot -e 'ALTER TABLE vss.t ADD COLUMN m INT' >/dev/null 2>&1) &
ddl=$!
wait_until 5 eval 'must primary "SELECT state FROM information_schema.processlist" | grep -q "metadata lock"' || die "the change does not wait"
a_set 0
kill -0 $ddl 2>/dev/null || die "the set waited for the change of the schema"
wait $reader $ddl || :
expect_equal 2 "$(must primary 'SHOW COLUMNS FROM vss.t' | wc -l)" "columns after the change"
free primary
a_set 0
stop_process "$WRITER_PID"

note "a replica"
server replica --port=0 --skip-networking --server-id=2
REPLICA=$PID
must replica "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=$port, MASTER_USER='r', MASTER_LOG_FILE='bin.000001', MASTER_LOG_POS=4; START SLAVE"
follows() { [ "$(sql replica 'SELECT COUNT(*) FROM vss.t')" = "$(must primary 'SELECT COUNT(*) FROM vss.t')" ]; }
wait_until 20 follows || die "the replica does not follow: $(must replica 'SHOW SLAVE STATUS')"
writer replica
for type in copy full log; do
        a_set 0 --type=$type
        must primary 'INSERT INTO vss.t (n) VALUES (1)'
        wait_until 10 follows || die "the replica does not follow after a set of type $type"
        free replica
done

note "a server that is recovering takes no part until it is ready"
must replica 'STOP SLAVE'
must replica 'USE vss; CREATE TABLE vss.big (s CHAR(200)); INSERT INTO vss.big SELECT REPEAT("x", 200) FROM seq_1_to_50000'
kill -KILL "$REPLICA"
wait "$REPLICA" 2>/dev/null || :
start replica --port=0 --skip-networking --server-id=2 --skip-slave-start
a_set 9
wait_until 30 answers replica || die "it does not get ready: $(tail -3 "$VSS_TEST_DIR/log/replica.log")"
grep -q 'Starting crash recovery' "$VSS_TEST_DIR/log/replica.log" || die "there was nothing to recover"
a_set 0
free replica
stop_process "$PRIMARY"
