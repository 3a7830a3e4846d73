#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-mariadb with MySQL, whose means are others: LOCK INSTANCE FOR BACKUP while the set is prepared, commits held while it
# is made. In every copy everything committed before Freeze is there and nothing that was begun after it, in tables with and
# without transactions, and the position in the binary log is that of the copy. Nothing stays locked.
VSS_TEST_SECONDS=400
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
. "$(dirname "$0")/mysql-server.sh"
requires mariadb jq mkfs.btrfs setpriv apt-get dpkg-deb /usr/bin/python3
mysql_get
SETS=${MYSQL_SETS:-6}
new_fs tree btrfs 1G
server_home home mysql
sock=$home/s
sql() { timeout 20 mariadb --no-defaults -S "${2:-$sock}" -uroot --batch --skip-column-names -e "$1" 2>"$VSS_TEST_DIR/sql.err"; }
answers() { sql 'SELECT 1' "$1" >/dev/null; }
# server DATA LOGS SOCKET LOG: PID
server() {
        (mysqld "$1" --socket="$3" --log-bin="$2/bin" --max-binlog-size=8M --pid-file="$3.pid" --tmpdir="$home") >>"$4" 2>&1 &
        PID=$!
        cleanup_fn stop_process "$PID"
        wait_until 60 answers "$3" || die "the server does not start: $(grep -m3 ERROR "$4")"
}
# a second session can commit, change the schema and take the lock of a backup
back_to_normal() {
        goes_on || die "$1: commits still wait"
        sql 'SET lock_wait_timeout = 3; DROP TABLE IF EXISTS vss.other; CREATE TABLE vss.other (i INT); LOCK INSTANCE FOR BACKUP; UNLOCK INSTANCE' ||
                die "$1: something is still locked: $(cat "$VSS_TEST_DIR/sql.err")"
}
writer() { start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --name=db --socket="$sock" --user=w --password-file="$VSS_TEST_DIR/password"; }

# serve_copy DATA LOGS: a second server on a copy of it
serve_copy() {
        local copy=$home/copy
        rm -rf --one-file-system "$copy"
        mkdir "$copy"
        cp -r "$1" "$copy/data"
        cp -r "$2" "$copy/logs"
        sed -i "s|^.*/|$copy/logs/|" "$copy/logs/bin.index" # it names the files of the live server
        chown -R mysql "$copy"
        : >"$VSS_TEST_DIR/log/copy.log"
        server "$copy/data" "$copy/logs" "$copy/s" "$VSS_TEST_DIR/log/copy.log"
}
end_copy() {
        kill -KILL "$PID"
        wait "$PID" 2>/dev/null || :
}
complaints() {
        sql 'CHECK TABLE vss.a, vss.b, vss.done, vss.plain EXTENDED' "$home/copy/s" | grep -v 'OK$' || cat "$VSS_TEST_DIR/sql.err"
        grep -E '\[ERROR\]|[Cc]orrupt' "$VSS_TEST_DIR/log/copy.log" || :
}
# check_copy DATA LOGS LEAST MOST: as a second server sees it
check_copy() {
        local copy=$home/copy n plain
        serve_copy "$1" "$2"
        n=$(sql 'SELECT MAX(n) FROM vss.done' "$copy/s") plain=$(sql 'SELECT MAX(n) FROM vss.plain' "$copy/s")
        expect_equal "$((n * (n + 1) / 2)) -$((n * (n + 1) / 2))" \
                "$(sql 'SELECT SUM(v) FROM vss.a; SELECT SUM(v) FROM vss.b' "$copy/s" | tr '\n' ' ' | sed 's/ $//')" "sums of $n transactions"
        expect_range "$n" "$3" "$4"
        [ "$plain" -ge $((n - 1)) ] && [ "$plain" -le "$n" ] || die "the table without transactions is at $plain, the others at $n"
        complaints >"$VSS_TEST_DIR/check"
        [ ! -s "$VSS_TEST_DIR/check" ] || die "the copy is not whole: $(cat "$VSS_TEST_DIR/check")"
        end_copy
}
ddl() { sql 'SET lock_wait_timeout = 1; CREATE TABLE vss.during (i INT)'; }

start_bus
start_fake
mkdir "$tree/data" "$tree/logs"
chown mysql "$tree/data" "$tree/logs"
(mysqld "$tree/data" --initialize-insecure --tmpdir="$home") >"$VSS_TEST_DIR/log/install.log" 2>&1 || die "no new server: $(tail -3 "$VSS_TEST_DIR/log/install.log")"
server "$tree/data" "$tree/logs" "$sock" "$VSS_TEST_DIR/log/mysql.log"
fake volume "$tree" "$tree"
start_load mariadb-load.py "$sock" "$counts"
sql "CREATE USER w@localhost IDENTIFIED BY 'sesame'" || die "$(cat "$VSS_TEST_DIR/sql.err")"
printf 'sesame\n' >"$VSS_TEST_DIR/password"
chmod 600 "$VSS_TEST_DIR/password"

note "a privilege is missing; documents"
expect_exit 1 "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$sock" --user=w --password-file="$VSS_TEST_DIR/password"
sql "GRANT BACKUP_ADMIN, REPLICATION CLIENT, PROCESS, RELOAD, SELECT ON *.* TO w@localhost" || die "$(cat "$VSS_TEST_DIR/sql.err")"
writer
ask db identify ok
expect_equal "MySQL data $tree/data * true, log $tree/logs bin.* false new-target log" \
        "$(jq -r '"\(.components[0].caption) \([.components[0].files[] | "\(.role) \(.root) \(.pattern) \(.recursive)"] | join(", ")) \(.backup_schema | join(" "))"' <<<"$(document db)")" document

note "prepared: no change of the schema, all else goes on; frozen: commits wait, readers do not; the copy is exact"
for _ in 1 2; do
        prepare db
        goes_on || die "commits wait before Freeze"
        ! ddl || die "the schema was changed"
        ask db freeze ok 5000 30000
        sleep 0.05
        stands_still || die "something is committed while frozen"
        sql 'SELECT COUNT(*) FROM vss.done' >/dev/null || die "readers wait: $(cat "$VSS_TEST_DIR/sql.err")"
        check_copy "$tree/data" "$tree/logs" "$(acknowledged)" "$(begun)"
        ask db thaw ok
        back_to_normal thaw
done

note "abort, SIGKILL of the writer; a session that somebody ended; a long statement is vetoed in time"
prepare db
ask db freeze ok 5000 30000
ask db abort ok
back_to_normal abort
prepare db
ask db freeze ok 5000 30000
kill -KILL "$WRITER_PID"
wait "$WRITER_PID" 2>/dev/null || :
back_to_normal SIGKILL
writer
prepare db
ask db freeze ok 5000 30000
sql "KILL $(sql "SELECT id FROM information_schema.processlist WHERE user = 'w' ORDER BY id DESC LIMIT 1")" || die "KILL: $(cat "$VSS_TEST_DIR/sql.err")"
goes_on || die "the session was not the one that holds the lock"
ask db thaw WriterRetryable
ask db abort ok
back_to_normal "a session that was ended"
(sql 'SELECT COUNT(*), SLEEP(6) FROM vss.plain' >/dev/null) &
long_pid=$!
wait_until 5 eval 'sql "SELECT info FROM information_schema.processlist" | grep -q "SLEEP(6)"' || die "the statement does not run"
prepare db
ask db freeze WriterRetryable 2500 30000
ask db abort ok
back_to_normal "a long statement"
wait $long_pid || :
stop_process "$WRITER_PID"
stop_process "$FAKE_PID"

note "$SETS sets under load"
start_vssd
writer
for ((i = 1; i <= SETS; i++)); do
        make_set "$tree"
        copy=$(mount_copy "$tree")
        check_copy "$copy/data" "$copy/logs" "$LAST" "$MOST"
        position=$(manifest_metadata server)
        expect_equal "$(jq -er .binlog_position <<<"$position")" "$(stat -c %s "$copy/logs/$(jq -er .binlog_file <<<"$position")")" "length of the binary log in the copy"
        delete_set
done
back_to_normal "the last set"
note "$(acknowledged) transactions; a control: without the writer the check finds that the table without transactions is not whole"
expect_exit 0 vssctl --json create --no-writers "$tree" >"$VSS_TEST_DIR/set.json"
SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
copy=$(mount_copy "$tree")
serve_copy "$copy/data" "$copy/logs"
complaints >"$VSS_TEST_DIR/check"
grep -q plain "$VSS_TEST_DIR/check" || die "without the writer nothing is found: $(cat "$VSS_TEST_DIR/check")"
end_copy
delete_set

note "a backup of the log"
vssctl create --type=log --require=application --manifest="$VSS_TEST_DIR/log.json" "$tree" >/dev/null || die "no backup of the log"
expect_equal log "$(jq -r '.writers[0] | .backup_type // .type' "$VSS_TEST_DIR/log.json")" "type"
stop_process "$LOAD_PID"
