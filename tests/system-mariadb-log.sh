#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Backups of MariaDB's binary log: a full backup and two of the log, restored beside the server that runs and after everything is
# lost, going forward to a position, to a time and to the end, by the writer and as the man page says by hand; exactly the rows
# that were committed until then are there. A gap vetoes the set. What cannot be done is refused before anything is touched.
VSS_TEST_SECONDS=170
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
requires mariadbd mariadb mariadb-install-db mariadb-binlog jq mkfs.btrfs
new_fs tree btrfs 1G
server_home home mysql
live=$home/s
common=(--no-defaults --user=mysql --tmpdir="$home" --skip-networking --innodb-buffer-pool-size=32M --innodb-log-file-size=16M --skip-name-resolve --server-id=1)
sql() { timeout 20 mariadb --no-defaults -S "${2:-$live}" -uroot --batch --skip-column-names -e "$1" 2>"$VSS_TEST_DIR/sql.err"; }
must() { sql "$@" || die "$1: $(cat "$VSS_TEST_DIR/sql.err")"; }
answers() { sql 'SELECT 1' "$1" >/dev/null; }
# server DATA SOCKET [OPTION…]: PID
server() {
        mariadbd "${common[@]}" --datadir="$1" --socket="$2" "${@:3}" >>"$VSS_TEST_DIR/log/mariadb.log" 2>&1 &
        PID=$!
        cleanup_fn stop_process $PID
        wait_until 30 answers "$2" || die "the server does not start: $(tail -5 "$VSS_TEST_DIR/log/mariadb.log")"
}
live_server() {
        server "$tree/data" "$live" "${@:---log-bin=$tree/logs/bin}"
        LIVE_PID=$PID
}
rows() { must 'SELECT GROUP_CONCAT(p ORDER BY p SEPARATOR " ") FROM (SELECT CONCAT(part, COUNT(*)) AS p FROM vss.t GROUP BY part) x' "${1:-$live}"; }
insert() { must "USE vss; INSERT INTO t SELECT '$1', seq FROM seq_1_to_$2"; }
# backup TYPE NAME OPTION…: MANIFEST
backup() {
        MANIFEST=$VSS_TEST_DIR/$2.json
        vssctl --json create --type="$1" --require=application --manifest="$MANIFEST" "${@:3}" "$tree" >"$VSS_TEST_DIR/set.json" 2>"$VSS_TEST_DIR/err" || die "create --type=$1: $(cat "$VSS_TEST_DIR/err")"
        expect_exit 0 vssctl complete --manifest="$MANIFEST" "$(json .set <"$VSS_TEST_DIR/set.json")"
}
# said MANIFEST KEY: what the writer said of the component
said() { jq -er ".writers[0].components[0].metadata | fromjson | .$2" "$1" || die "$2 is not in $1: $(jq -c .writers "$1")"; }
# no_log_set WORDS OPTION…: vetoed, and why
no_log_set() {
        local got=0
        vssctl create --type=log "${@:2}" "$tree" >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err" || got=$?
        expect_equal 5 "$got" "status of a set that cannot be: $(cat "$VSS_TEST_DIR/err")"
        grep -q -- "$1" "$VSS_TEST_DIR/err" || die "not told \"$1\": $(cat "$VSS_TEST_DIR/err")"
}
# refused CODE WORDS MANIFEST OPTION…: one line with these words, and no file has changed
refused() {
        local before got=0
        before=$(state)
        vssctl restore "$3" --no-service "${@:4}" >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err" || got=$?
        expect_equal "$1 1" "$got $(wc -l <"$VSS_TEST_DIR/err")" "status and lines of ${*:3}: $(cat "$VSS_TEST_DIR/err")"
        grep -q -- "$2" "$VSS_TEST_DIR/err" || die "${*:3}: $(cat "$VSS_TEST_DIR/err")"
        expect_equal "$before" "$(state)" "files after ${*:3}"
        [ ! -e "$home/no" ] || die "something was restored"
}
state() { (cd "$tree" && find . -path ./data/ib_logfile0 -prune -o -type f -printf '%p %s\n' | sort | sha256sum); }
# apply SOCKET FROM-POSITION OPTION…: the files of the log backup, from the one of the full backup on
apply() {
        local files
        mapfile -t files < <(find "$home/saved" -name 'bin.0*' | sort | sed -n "/$(said "$full" binlog_file)\$/,/$(said "$log2" binlog_last_file)\$/p")
        [ "${#files[@]}" -ge 3 ] || die "the log backup has only ${files[*]}"
        mariadb-binlog --no-defaults --start-position="$2" "${@:3}" "${files[@]}" >"$VSS_TEST_DIR/events" || die "mariadb-binlog failed"
        mariadb --no-defaults -S "$1" -uroot --binary-mode <"$VSS_TEST_DIR/events" || die "the log cannot be applied"
}

start_bus
mkdir "$tree/data" "$tree/logs" "$home/copy"
chown mysql "$tree/data" "$tree/logs" "$home/copy"
mariadb-install-db --no-defaults --user=mysql --datadir="$tree/data" --skip-test-db --auth-root-authentication-method=normal \
        --innodb-log-file-size=16M --tmpdir="$home" >"$VSS_TEST_DIR/log/install.log" 2>&1 || die "mariadb-install-db: $(tail -3 "$VSS_TEST_DIR/log/install.log")"
live_server
must 'CREATE DATABASE vss; CREATE TABLE vss.t (part CHAR(1), n INT)'
start_vssd
start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$live" --user=root

note "a full backup, and two of the log"
insert a 1000
backup full full
full=$MANIFEST
insert b 2000
sleep 1.1 # the log has whole seconds
TIME=$(must 'SELECT NOW()')
UTC=$(must "SELECT CONVERT_TZ('$TIME', @@time_zone, '+00:00')")Z
sleep 0.1
must 'FLUSH BINARY LOGS'
insert c 3000
POSITION=$(must 'SHOW MASTER STATUS' | tr '\t' ' ' | cut -d' ' -f1,2 --output-delimiter=:)
backup log log1 --previous="$full"
log1=$MANIFEST
expect_equal "log $(said "$full" binlog_file) $(said "$full" binlog_position) bin.000002" \
        "$(jq -r '.writers[0] | .backup_type // .type' "$log1") $(said "$log1" binlog_first_file) $(said "$log1" binlog_first_position) $(said "$log1" binlog_last_file)" "the first backup of the log"
must "USE vss; CREATE TEMPORARY TABLE s (i INT); INSERT INTO s SELECT seq FROM seq_1_to_4000; SET binlog_format = STATEMENT; INSERT INTO t SELECT 'd', i FROM s; CREATE USER u@localhost IDENTIFIED BY 'x'; GRANT SELECT ON vss.* TO u@localhost; CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DO 0; CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 7"
GTID=$(must 'SELECT @@gtid_binlog_pos')
backup log log2 --previous="$log1"
log2=$MANIFEST
expect_equal "bin.000003 4 bin.000003 $(stat -c %s "$tree/logs/bin.000003") $tree/logs" \
        "$(said "$log2" binlog_first_file) $(said "$log2" binlog_first_position) $(said "$log2" binlog_last_file) $(said "$log2" binlog_last_position) $(said "$log2" binlog_directory)" "the second"
insert e 5000 # in no backup

note "what cannot be done is refused, in one line"
refused 5 'does not go into the log of a server' "$log2"
refused 5 'does not go into the log of a server' "$log2" --to="$tree/logs"
refused 5 'does not go into the log of a server' "$log2" --to="$tree=$tree"

note "beside the server that runs, to a time and to the end"
mkdir "$home/bad"
expect_exit 5 vssctl restore "$full" --no-service --to="$home/bad" # its logs/ belongs to who restores
install -d -o mysql "$home/copy/logs"
expect_exit 0 vssctl restore "$full" --no-service --to="$home/copy"
expect_equal "$home/copy/logs" "$(sed 's|/bin\.0*[0-9]*$||' "$home/copy/logs/bin.index" | sort -u)" "where the index leads"
expect_equal mysql "$(stat -c %U "$home/copy/logs/bin.index")" "owner of the index"
expect_exit 0 vssctl restore "$log2" --no-service --to="$home/saved"
before=$(cd "$tree/logs" && sha256sum bin.0*)
server "$home/copy/data" "$home/copy/s" --log-bin="$home/copy/logs/bin"
expect_equal a1000 "$(rows "$home/copy/s")" "rows of the full backup"
apply "$home/copy/s" "$(said "$full" binlog_position)" --stop-datetime="$TIME"
expect_equal "a1000 b2000" "$(rows "$home/copy/s")" "rows until $TIME"
# Of the second server's own log, with the same names and server_id: files that are no continuation of the first's.
must 'RESET MASTER; INSERT INTO vss.t VALUES ("x", 1); FLUSH BINARY LOGS; INSERT INTO vss.t VALUES ("x", 2); FLUSH BINARY LOGS; INSERT INTO vss.t VALUES ("x", 3)' "$home/copy/s"
mkdir "$home/another"
cp -a "$home/copy/logs"/bin.00000[23] "$home/another/"
expect_equal "$before" "$(cd "$tree/logs" && sha256sum bin.0*)" "the log of the server that runs"
stop_process "$PID"
expect_equal "a1000 b2000 c3000 d4000 e5000" "$(rows)" "rows of the server that runs"

note "going forward: what cannot be reached is refused, in one line"
saved=$(dirname "$(find "$home/saved" -name bin.000003)")
# with_log DIR: the option that says where it is
with_log() { printf -- '--restore-options="":"log"="%s"' "$1"; }
# until_refused WORDS POINT [DIR]
until_refused() { refused 5 "$1" "$full" --to="$home/no" --until="$2" "$(with_log "${3:-$saved}")"; }
refused 5 'say where the saved binary log was put' "$full" --until=latest
refused 5 'goes with the manifest of a full backup' "$log2" --to="$home/no" --until=latest
refused 5 'is replaced by the restore' "$full" --until=latest "$(with_log "$tree/logs")"
until_refused 'is no point' yesterday
until_refused 'is no point' "$TIME"
until_refused 'is no point' bin.000003:
until_refused 'has whole seconds' "${UTC%Z}.5Z"
until_refused 'is before the backup' 2020-01-01T00:00:00Z
until_refused 'is before the backup' bin.000001:4
until_refused 'ends at .*, before the point' 2199-01-01T00:00:00Z
until_refused 'the log has a gap: bin.000001 is not in' latest "$home"
until_refused 'No such file' latest "$home/nowhere"
until_refused 'is not between two transactions' "${POSITION%:*}:$((${POSITION#*:} - 1))"
until_refused 'ends at bin.0*4:' bin.000009:4
# broken WORDS SCRIPT: the saved log, changed by a script
broken() {
        rm -rf "$home/broken"
        cp -a "$saved" "$home/broken"
        (cd "$home/broken" && eval "$2") || die "cannot break it"
        until_refused "$1" latest "$home/broken"
}
broken 'the log has a gap: bin.000002' 'rm bin.000002'
broken 'bin.000002 at .*cut off' 'truncate -s -5 bin.000002'
broken 'of another binary log' 'printf "\1\2\3\4" | dd of=bin.000001 bs=1 seek=4 conv=notrunc status=none'
broken 'bin.000003 does not go on where the file before it ended' 'cp "$home/another/bin.000003" .'
broken 'bin.000002 does not go on where the file before it ended' 'cp "$home/another"/bin.00000[23] .'
# the last GTID before the position of the backup is another
gtid=$(mariadb-binlog --no-defaults --stop-position="$(said "$full" binlog_position)" "$saved/bin.000001" | awk '/^# at / { at = $3 } /GTID 0-1-/ { found = at } END { print found }')
broken 'not the one of the backup: other GTIDs lead to' 'printf "\77" | dd of=bin.000001 bs=1 seek=$((gtid + 19)) conv=notrunc status=none'
broken 'mariadb-binlog ended with 1: ERROR' 'printf "\1\2\3\4" | dd of=bin.000002 bs=1 seek=$(($(stat -c %s bin.000002) / 2)) conv=notrunc status=none'
broken 'bin.000003: Too many levels of symbolic links' 'mv bin.000003 x; ln -s x bin.000003'

# beside POINT ROWS [DIR]: a second server has them
beside() {
        rm -rf "$home/copy"
        install -d -o mysql "$home/copy" "$home/copy/logs"
        expect_exit 0 vssctl restore "$full" --no-service --to="$home/copy" --until="$1" "$(with_log "${3:-$saved}")"
        server "$home/copy/data" "$home/copy/s" --log-bin="$home/copy/logs/bin"
        expect_equal "$2" "$(rows "$home/copy/s")" "rows until $1"
        expect_equal 0 "$(must "SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'vss%'" "$home/copy/s")" "accounts of ours"
}
places() { find /tmp -maxdepth 1 -name 'vss-mariadb-*' | sort; }
places=$(places)
note "going forward beside the server that runs"
beside "$UTC" "a1000 b2000"
stop_process "$PID"
beside "$POSITION" "a1000 b2000 c3000"
stop_process "$PID"
beside latest "a1000 b2000 c3000 d4000"
expect_equal "u 7 e $GTID" "$(must 'SELECT user, vss.f(), event_name, @@gtid_binlog_pos FROM mysql.user, information_schema.EVENTS WHERE user = "u"' "$home/copy/s" | tr '\t' ' ')" "what else was made, and the position in the log"
stop_process "$PID"
expect_equal "a1000 b2000 c3000 d4000 e5000" "$(rows)" "rows of the server that runs"
expect_equal "$before" "$(cd "$tree/logs" && sha256sum bin.0*)" "the log of the server that runs"
beside latest "a1000 b2000 c3000 d4000 e5000" "$tree/logs" # that is being written
stop_process "$PID"

note "a log with the ends of servers that were killed, and more than one domain of GTIDs"
for _ in 1 2 3; do
        (while sql 'INSERT INTO vss.t VALUES ("k", 1)'; do :; done) &
        sleep 0.3
        kill -KILL "$LIVE_PID"
        wait "$LIVE_PID" $! 2>/dev/null || :
        live_server
        must 'SET gtid_domain_id = 5, server_id = 7; INSERT INTO vss.t VALUES ("k", 2); FLUSH BINARY LOGS'
done
beside latest "$(rows)" "$tree/logs"
expect_equal "$(must 'SELECT @@gtid_binlog_pos')" "$(must 'SELECT @@gtid_binlog_pos' "$home/copy/s")" "positions in the log"
stop_process "$PID"

note "the writer dies while the log is applied; a statement of the log fails: not restored, and nothing goes on"
must 'SET binlog_format = STATEMENT; INSERT INTO vss.t SELECT "z", SLEEP(2)'
must 'SET sql_log_bin = 0; CREATE TABLE vss.hidden (i INT); SET sql_log_bin = 1; INSERT INTO vss.hidden VALUES (1)'
# forward_in_background: RESTORE_PID, once a server of the writer's applies the log; SERVERS
forward_in_background() {
        rm -rf "$home/copy"
        install -d -o mysql "$home/copy" "$home/copy/logs"
        vssctl restore "$full" --no-service --to="$home/copy" --until=latest "$(with_log "$tree/logs")" >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err" &
        RESTORE_PID=$!
        cleanup_fn stop_process $RESTORE_PID
        wait_until 20 eval 'SERVERS=$(pgrep -f -- "--binary-mode") && SERVERS="$SERVERS $(pgrep -f -- "--init-file=/tmp/vss-mariadb-")"' || die "nothing is applied: $(cat "$VSS_TEST_DIR/err")"
}
forward_in_background
kill -KILL "$WRITER_PID"
wait_until 5 eval '! kill -0 $SERVERS 2>/dev/null' || die "what the writer started goes on: $SERVERS"
wait $RESTORE_PID && die "restored by a dead writer"
left=$(comm -13 <(echo "$places") <(places))
expect_equal mysql "$(stat -c %U "$left")" "owner of what is left"
# What only looks like it stays: of somebody else, a link, with more in it.
foreign=$(mktemp -d /tmp/vss-mariadb-XXXXXX) more=$(mktemp -d /tmp/vss-mariadb-XXXXXX) link=/tmp/vss-mariadb-$$
cleanup_fn rm -rf "$foreign" "$more" "$link"
touch "$foreign/init" "$more/init" "$more/mine" "$home/init"
chown nobody "$foreign"
chown mysql "$more" "$home/init"
ln -s "$home" "$link"
start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$live" --user=root
[ ! -e "$left" ] || die "what a dead writer left stays: $(ls -la "$left")"
[ -e "$foreign/init" ] && [ -L "$link" ] && [ -e "$home/init" ] && [ -e "$more/mine" ] || die "what is not ours was removed"
rm -r "$foreign" "$more" "$link" "$home/init"
got=0
forward_in_background
start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --socket="$live" --user=root --name=second # removes nothing of one that lives
stop_process "$WRITER_PID"
wait $RESTORE_PID || got=$?
expect_equal 5 $got "status of a restore that fails: $(cat "$VSS_TEST_DIR/err")"
grep -q "applying the log ended with 1: ERROR 1146 .*vss.hidden" "$VSS_TEST_DIR/err" || die "not told what failed: $(cat "$VSS_TEST_DIR/err")"
expect_equal "$places" "$(places)" "what was there meanwhile"
server "$home/copy/data" "$home/copy/s" --log-bin="$home/copy/logs/bin"
expect_equal 0 "$(must "SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'vss%'" "$home/copy/s")" "accounts of ours after a failure"
stop_process "$PID"
must 'DROP TABLE vss.hidden'

note "everything is lost"
stop_process "$LIVE_PID"
expect_exit 9 vssctl create --type=log --require=application --previous="$log2" "$tree" # the server is down
find "$tree/data" "$tree/logs" -mindepth 1 -delete
expect_exit 0 vssctl restore "$full" --no-service --until="$POSITION" "$(with_log "$saved")"
expect_equal '' "$(find "$tree/data" "$tree/logs" ! -user mysql ! -name mysql_upgrade_info)" "what is not the server's"
live_server
expect_equal "a1000 b2000 c3000" "$(rows)" "rows until $POSITION in its place"
expect_equal "$places" "$(places)" "what was there meanwhile"

note "a gap vetoes the set: purged, gone, begun anew, of a later state"
no_log_set 'of another binary log\|later binary log' --previous="$log2"
backup full again
again=$MANIFEST
file=$(said "$again" binlog_file)
must 'FLUSH BINARY LOGS; FLUSH BINARY LOGS'
mv "$tree/logs/$file" "$home/kept"
no_log_set "has a gap: the server does not have $file" --previous="$again"
mv "$home/kept" "$tree/logs/$file"
backup log whole --previous="$again"
# purged FILE: the server keeps what it might need to recover until what was committed later is on the disk
purged() {
        must 'INSERT INTO vss.t VALUES ("g", 1); FLUSH BINARY LOGS'
        must "PURGE BINARY LOGS TO '$(sed -n '$s|.*/||p' "$tree/logs/bin.index")'"
        [ ! -e "$tree/logs/$1" ]
}
wait_until 10 purged "$file" || die "$file cannot be purged: $(must 'SHOW BINARY LOGS')"
no_log_set 'has a gap' --previous="$again"
sleep 1.1 # when a log was made has whole seconds
must 'RESET MASTER; FLUSH BINARY LOGS; FLUSH BINARY LOGS; FLUSH BINARY LOGS; FLUSH BINARY LOGS; FLUSH BINARY LOGS'
no_log_set 'of another binary log' --previous="$again"
backup log alone # of what there is

note "tablespaces elsewhere: no second server"
mkdir "$tree/other"
chown mysql "$tree/other"
must "CREATE TABLE vss.far (i INT) DATA DIRECTORY='$tree/other'"
backup full far
refused 5 'outside of the data directory' "$MANIFEST" --to="$home/no"
must 'DROP TABLE vss.far'

note "the binary log in the data directory; none"
stop_process "$LIVE_PID"
live_server --log-bin=own
backup log own
saved=$(vssctl --json mount "$(jq -er '.snapshots[0].id' "$VSS_TEST_DIR/set.json")" | json .path)
expect_equal own.000001 "$(said "$MANIFEST" binlog_last_file)" "the last file"
[ -s "$saved/data/own.000001" ] || die "the log is not in the copy"
expect_exit 0 vssctl umount "$saved"
expect_exit 0 vssctl restore "$MANIFEST" --no-service --to="$home/own"
expect_equal "own.000001" "$(cd "$home/own" && find . -name 'own.*1' -printf %f; find . -name 'ib*')" "only the log"
stop_process "$LIVE_PID"
live_server --skip-log-bin
backup log none
expect_equal "writer mariadb has no log backup and does a full one" "$(jq -r '.warnings[0]' "$VSS_TEST_DIR/set.json")" "warning"
grep -q 'log_bin is off' "$MANIFEST" || die "the reason is not told"
expect_equal full "$(jq -r '.writers[0] | .backup_type // .type' "$MANIFEST")" "what it did instead"
