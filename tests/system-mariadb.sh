#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-mariadb with real servers under sysbench and a load that is counted, the data on one volume and the binary log on another: in every copy
# everything committed before Freeze is there and nothing that was begun after it, in tables with and without transactions,
# and the position in the binary log is that of the copy. Whatever happens to writer or server, nothing stays locked.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
requires sysbench mariadbd mariadb mariadb-install-db mariadb-check mariadb-binlog jq mkfs.ext4 mkfs.btrfs /usr/bin/python3
watchdog 560
SETS=${MARIADB_SETS:-100}
engine_area area
export VSS_IMAGE_DIR=$area
new_fs tree btrfs 1G

server_home home mysql # and where they make what is temporary: TMPDIR may not be theirs
sock=$home/s
common=(--no-defaults --user=mysql --tmpdir="$home" --skip-networking --innodb-buffer-pool-size=32M --innodb-log-file-size=16M --skip-name-resolve)
# server DATA LOGS [OPTION…]: SERVER_PID
server() {
        mariadbd "${common[@]}" --datadir="$1" --socket="$sock" --log-bin="$2/bin" --server-id=1 --max-binlog-size=8M \
                --expire-logs-days=1 "${@:3}" >>"$VSS_TEST_DIR/log/mariadb.log" 2>&1 &
        SERVER_PID=$!
        cleanup_fn stop_process "$SERVER_PID"
        wait_until 30 _answers "$sock" || die "the server does not start: $(tail -3 "$VSS_TEST_DIR/log/mariadb.log")"
}
install() {
        mkdir -p "$1" "$2"
        chown mysql "$1" "$2"
        mariadb-install-db --no-defaults --user=mysql --datadir="$1" --skip-test-db --auth-root-authentication-method=normal \
                --innodb-log-file-size=16M --tmpdir="$home" >"$VSS_TEST_DIR/log/install.log" 2>&1 || die "mariadb-install-db: $(tail -3 "$VSS_TEST_DIR/log/install.log")"
}
sql() { timeout 20 mariadb --no-defaults -S "${2:-$sock}" -uroot --batch --skip-column-names -e "$1" 2>"$VSS_TEST_DIR/sql.err"; }
_answers() { sql 'SELECT 1' "$1" >/dev/null; }
load() { start_load mariadb-load.py "$sock" "$counts"; }
# a second session can commit, change the schema and take the lock of a backup
back_to_normal() {
        goes_on || die "$1: commits still wait"
        sql 'SET lock_wait_timeout = 3; CREATE OR REPLACE TABLE vss.other (i INT); BACKUP STAGE START; BACKUP STAGE END' ||
                die "$1: something is still locked: $(cat "$VSS_TEST_DIR/sql.err")"
}
# sysbench: each of its transactions deletes a row and inserts it again, so that there are always as many; BENCH_PID
bench=(sysbench oltp_read_write --db-driver=mysql --mysql-socket="$sock" --mysql-user=root --mysql-db=sbtest --tables=2
        --table-size=2000 --threads=2)
start_sysbench() {
        sql 'CREATE DATABASE sbtest' || die "no database for sysbench: $(cat "$VSS_TEST_DIR/sql.err")"
        "${bench[@]}" prepare >"$VSS_TEST_DIR/log/sysbench.log" 2>&1 || die "sysbench prepare: $(tail -3 "$VSS_TEST_DIR/log/sysbench.log")"
        "${bench[@]}" --time=0 --rate=50 --report-interval=1 --mysql-ignore-errors=all run >"$VSS_TEST_DIR/log/sysbench.log" 2>&1 &
        BENCH_PID=$!
        cleanup_fn stop_process $BENCH_PID
        wait_until 10 grep -q ' tps: [1-9]' "$VSS_TEST_DIR/log/sysbench.log" || die "sysbench does nothing: $(tail -3 "$VSS_TEST_DIR/log/sysbench.log")"
}
mariadb_writer() { start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$sock" --user=root "$@"; }

# serve_copy DATA LOGS: a second server on a copy of it; COPY_PID
serve_copy() {
        local copy=$home/copy log=$VSS_TEST_DIR/log/copy.log
        rm -rf --one-file-system "$copy"
        mkdir "$copy"
        cp -r "$1" "$copy/data"
        cp -r "$2" "$copy/logs"
        sed -i "s|^.*/|$copy/logs/|" "$copy/logs/bin.index" # it names the files of the live server
        chown -R mysql "$copy"
        mariadbd "${common[@]}" --datadir="$copy/data" --socket="$copy/s" --log-bin="$copy/logs/bin" --server-id=1 >"$log" 2>&1 &
        COPY_PID=$!
        cleanup_fn stop_process $COPY_PID
        wait_until 30 _answers "$copy/s" || die "no server on the copy: $(tail -3 "$log")"
}
end_copy() {
        kill -KILL "$COPY_PID"
        wait "$COPY_PID" 2>/dev/null || :
}
# complaints: of the server on the copy, once its tables were opened, and of mariadb-check
complaints() {
        local copy=$home/copy
        sql 'SELECT COUNT(*) FROM vss.plain' "$copy/s" >/dev/null || cat "$VSS_TEST_DIR/sql.err"
        mariadb-check --no-defaults -S "$copy/s" -uroot --check --extended --databases vss ${BENCH_PID:+sbtest} 2>&1 | grep -v 'OK$' || :
        grep -E '\[ERROR\]|[Cc]orrupt|not closed|marked as crashed' "$VSS_TEST_DIR/log/copy.log" | grep -v 'copy ownership' || :
}
# check_copy DATA LOGS LEAST MOST: as a second server sees it
check_copy() {
        local copy=$home/copy log=$VSS_TEST_DIR/log/copy.log n plain
        serve_copy "$1" "$2"
        grep -q 'InnoDB: Starting crash recovery from checkpoint LSN' "$log" || die "the copy of a running server needed no recovery: $(head -20 "$log")"
        n=$(sql 'SELECT MAX(n) FROM vss.done' "$copy/s") plain=$(sql 'SELECT MAX(n) FROM vss.plain' "$copy/s")
        expect_equal "$((n * (n + 1) / 2)) -$((n * (n + 1) / 2))" \
                "$(sql 'SELECT SUM(v) FROM vss.a; SELECT SUM(v) FROM vss.b' "$copy/s" | tr '\n' ' ' | sed 's/ $//')" "sums of $n transactions"
        expect_range "$n" "$3" "$4"
        [ "$plain" -ge $((n - 1)) ] && [ "$plain" -le "$n" ] || die "the table without transactions is at $plain, the others at $n"
        [ -z "${BENCH_PID:-}" ] || expect_equal "2000 2000" \
                "$(sql 'SELECT COUNT(*) FROM sbtest.sbtest1; SELECT COUNT(*) FROM sbtest.sbtest2' "$copy/s" | tr '\n' ' ' | sed 's/ $//')" "rows of sysbench"
        complaints >"$VSS_TEST_DIR/check"
        [ ! -s "$VSS_TEST_DIR/check" ] || die "the copy is not whole: $(cat "$VSS_TEST_DIR/check")"
        end_copy
}

# check_position LOGS FILE POSITION: nothing follows it in the copied binary log, and the number before it is the last
check_position() {
        local rest
        [ -f "$1/$2" ] || die "there is no binary log $2 in the copy"
        ! compgen -G "$1/bin.0*" | sort | sed "1,\,/$2\$,d" | grep . || die "$2 is not the last binary log"
        expect_equal "$3" "$(stat -c %s "$1/$2")" "length of the binary log in the copy"
        rest=$(mariadb-binlog --no-defaults --start-position="$3" "$1/$2" | grep -c '^COMMIT' || :)
        expect_equal 0 "$rest" "transactions after the position"
}

start_bus
start_fake
install "$tree/data" "$tree/logs"
fake volume "$tree" "$tree"
server "$tree/data" "$tree/logs"
load
mariadb_writer --name=db

note "documents"
ask db identify ok
expect_equal "data $tree/data * true, log $tree/logs bin.* false" \
        "$(jq -r '[.components[0].files[] | "\(.role) \(.root) \(.pattern) \(.recursive)"] | join(", ")' <<<"$(document db)")" document

note "frozen: commits wait, readers do not; the copy is exact"
for _ in 1 2 3; do
        prepare db
        ask db freeze ok 5000 30000
        sleep 0.05
        stands_still || die "something is committed while frozen"
        sql 'SELECT COUNT(*) FROM vss.done' >/dev/null || die "readers wait: $(cat "$VSS_TEST_DIR/sql.err")"
        check_copy "$tree/data" "$tree/logs" "$(acknowledged)" "$(begun)"
        ask db thaw ok
        back_to_normal thaw
done

note "abort, SIGTERM, SIGKILL of the writer; a thaw that comes too late; a session that somebody ended"
prepare db
ask db freeze ok 5000 30000
ask db abort ok
back_to_normal abort
ask db abort ok
for signal in TERM KILL; do
        prepare db
        ask db freeze ok 5000 30000
        kill -$signal "$WRITER_PID"
        wait "$WRITER_PID" 2>/dev/null || :
        back_to_normal SIG$signal
        mariadb_writer --name=db
done
prepare db
ask db freeze ok 2000 3000
wait_until 8 goes_on || die "does not go on at thaw_by"
back_to_normal thaw_by
prepare db
ask db freeze ok 5000 30000
sql "KILL $(sql "SELECT id FROM information_schema.processlist WHERE command = 'Sleep' AND db IS NULL AND user = 'root' ORDER BY id DESC LIMIT 1")" ||
        die "KILL: $(cat "$VSS_TEST_DIR/sql.err")"
goes_on || die "the session was not the one that holds the lock"
ask db thaw WriterRetryable
ask db abort ok
back_to_normal "a session that was ended"

note "a long transaction does no harm; a long statement on a table without transactions, a server that hangs: vetoed in time"
mariadb --no-defaults -S "$sock" -uroot -e 'BEGIN; INSERT INTO vss.done VALUES (0, "open"); SELECT SLEEP(4)' >/dev/null 2>&1 &
open_pid=$!
cleanup_fn stop_process $open_pid
prepare db
ask db freeze ok 5000 30000
ask db thaw ok
wait $open_pid || :
(timeout 60 mariadb --no-defaults -S "$sock" -uroot -e 'SET @x = (SELECT 1); INSERT INTO vss.plain SELECT -1 - SLEEP(8)' >/dev/null 2>&1) &
long_pid=$!
cleanup_fn stop_process $long_pid
wait_until 5 eval 'sql "SELECT info FROM information_schema.processlist" | grep -q "SLEEP(8)"' || die "the statement does not run"
prepare db
ask db freeze WriterRetryable 1500 30000
grep '^reply db freeze WriterRetryable' "$FAKE_LOG" | tail -1 | awk '{exit !($5 < 1500000)}' || die "answered after its deadline"
ask db abort ok
wait $long_pid || :
back_to_normal "a long statement"
sql 'DELETE FROM vss.plain WHERE n < 0'
prepare db
kill -STOP "$SERVER_PID"
ask db freeze 'WriterRetryable|NoReply|DeadlinePassed' 2500 30000
kill -CONT "$SERVER_PID"
ask db abort ok
back_to_normal "a server that hung"

note "no connection left, a password, a server that dies while frozen"
sql "SET GLOBAL max_connections = 10; CREATE USER w@localhost IDENTIFIED BY 'sesame'; GRANT ALL ON *.* TO w@localhost"
stop_process "$WRITER_PID"
hold=()
for _ in {1..11}; do
        mariadb --no-defaults -S "$sock" -uw -psesame -e 'SELECT SLEEP(4)' >/dev/null 2>&1 &
        hold+=($!)
done
wait_until 5 eval '! sql "SELECT 1" || [ "$(sql "SELECT COUNT(*) FROM information_schema.processlist WHERE user = \"w\"")" -ge 9 ]' || die "connections are left"
wait "${hold[@]}" || : # some had no connection
_answers "$sock" || die "connections are not given back"
sql 'SET GLOBAL max_connections = 100'
expect_exit 1 "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$sock" --user=w
printf 'sesame\n' >"$VSS_TEST_DIR/password"
chmod 600 "$VSS_TEST_DIR/password"
start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --name=db --socket="$sock" --user=w --password-file="$VSS_TEST_DIR/password"
prepare db
ask db freeze ok
ask db thaw ok
sql "SET PASSWORD FOR w@localhost = PASSWORD('other')"
ask db prepare-snapshot WriterFatal
sql "SET PASSWORD FOR w@localhost = PASSWORD('sesame')"
prepare db
ask db freeze ok 5000 30000
kill -KILL "$SERVER_PID"
ask db thaw WriterRetryable
ask db abort ok
ask db prepare-snapshot WriterRetryable
stop_process "$LOAD_PID"
stop_process "$WRITER_PID"
expect_exit 2 "$VSS_BUILD/writers/vss-writer-mariadb"
expect_exit 1 "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$home/none"
stop_process "$FAKE_PID"

# sets DATA-VOLUME LOG-VOLUME N
sets() {
        local i logs position
        for ((i = 1; i <= $3; i++)); do
                make_set "$1" "$2"
                logs=$(mount_copy "$2")
                check_copy "$(mount_copy "$1")/data" "$logs/logs" "$LAST" "$MOST"
                position=$(manifest_metadata server)
                check_position "$logs/logs" "$(jq -er .binlog_file <<<"$position")" "$(jq -er .binlog_position <<<"$position")"
                delete_set
        done
}

# control DATA-VOLUME LOG-VOLUME: what the writer is for
control() {
        expect_exit 0 vssctl --json create --no-writers "$1" "$2" >"$VSS_TEST_DIR/set.json"
        SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
        serve_copy "$(mount_copy "$1")/data" "$(mount_copy "$2")/logs"
        complaints >"$VSS_TEST_DIR/check"
        grep -q plain "$VSS_TEST_DIR/check" || die "without the writer nothing is found: $(cat "$VSS_TEST_DIR/check")"
        end_copy
        delete_set
}

start_vssd
engine_volume v 1G 512M
for volumes in "$v $tree" "$tree $v"; do
        read -r data logs <<<"$volumes"
        rm -rf "$tree"/{data,logs} "$v"/{data,logs}
        install "$data/data" "$logs/logs"
        server "$data/data" "$logs/logs"
        load
        start_sysbench
        mariadb_writer --name=db
        note "a set without the volume of the binary log is refused"
        expect_exit 9 vssctl create --closure=strict --require=application "$data"
        note "$((SETS / 2)) sets, data on $(stat -f -c %T "$data"), binary log on $(stat -f -c %T "$logs")"
        sets "$data" "$logs" $((SETS / 2))
        back_to_normal "the last set"
        note "a control: without the writer the check finds that the table without transactions is not whole"
        control "$data" "$logs"
        stop_process "$WRITER_PID"
        note "$(acknowledged) transactions, sysbench at the end: $(grep ' tps:' "$VSS_TEST_DIR/log/sysbench.log" | tail -1 | cut -c1-60)"
        stop_process "$LOAD_PID"
        stop_process "$BENCH_PID"
        BENCH_PID=
        stop_process "$SERVER_PID"
done
