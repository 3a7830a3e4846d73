#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-sqlite: another process that writes without a pause stands still between Freeze and Thaw, in WAL and in rollback mode,
# and goes on when the writer thaws, ends or is killed. Two files that are written together are either both in or both out.
VSS_TEST_SECONDS=90
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
requires sqlite3 python3 jq

start_bus
start_fake
a=$VSS_TEST_DIR/a.db b="$VSS_TEST_DIR/b [1].db" load=$VSS_TEST_DIR/load.py

# Moves numbers between two databases: the sum over both is always 0. Says how many transactions it has done.
cat >"$load" <<'EOS'
import sqlite3, sys, time
first, second, count = sys.argv[1], sys.argv[2], sys.argv[3]
x, y = (sqlite3.connect(p, timeout=60, isolation_level=None) for p in (first, second))
n = 0
while True:
    x.execute('BEGIN IMMEDIATE'); y.execute('BEGIN IMMEDIATE')
    x.execute('UPDATE t SET v = v + 1'); y.execute('UPDATE t SET v = v - 1')
    x.execute('COMMIT'); y.execute('COMMIT')
    n += 1
    with open(count, 'w') as f: f.write(str(n))
EOS
done_so_far() { cat "$1" 2>/dev/null || echo 0; }
stands_still() {
        local n
        n=$(done_so_far "$1")
        sleep 0.3
        [ "$n" = "$(done_so_far "$1")" ]
}
_goes_on() { [ "$(done_so_far "$1")" != "$2" ]; }
goes_on() { wait_until 3 _goes_on "$1" "$(done_so_far "$1")"; }

for mode in wal delete; do
        rm -f "$a"* "$b"*
        for db in "$a" "$b"; do
                sqlite3 "$db" "PRAGMA journal_mode=$mode; CREATE TABLE t(v INTEGER); INSERT INTO t VALUES(0);" >/dev/null
        done
        count=$VSS_TEST_DIR/count.$mode
        # One writes a then b, the other b then a: whichever order the writer locks in, somebody locks the other way round.
        python3 "$load" "$a" "$b" "$count.1" &
        load_pid=$!
        cleanup_fn stop_process $load_pid

        note "$mode: documents"
        sqlite_writer --name=book "$a" "$b"
        ask book identify ok
        grep '^document book ' "$FAKE_LOG" | tail -1 | cut -d' ' -f3- >"$VSS_TEST_DIR/doc"
        expect_equal "$VSS_TEST_DIR|a.db a.db-wal a.db-journal|a.db-shm" "$(jq -r '[.components[0].files[0].root,
                ([.components[0].files[].pattern]|join(" ")), .exclude[0].pattern]|join("|")' <"$VSS_TEST_DIR/doc")" document
        expect_equal 'b [[]1].db-wal' "$(jq -r '.components[1].files[1].pattern' <"$VSS_TEST_DIR/doc")" 'pattern of a name with a bracket'

        note "$mode: stands still between Freeze and Thaw, ten times; both files together"
        for i in 1 2 3 4 5 6 7 8 9 10; do
                prepare book
                ask book freeze ok 5000 30000
                if [ $i = 1 ]; then
                        sleep 0.1 # what was asked for before may still say that it was done
                        stands_still "$count.1" || die "$mode: goes on while frozen"
                fi
                mkdir -p "$VSS_TEST_DIR/copy"
                rm -f "$VSS_TEST_DIR/copy/"*
                for f in "$a" "$a-wal" "$b" "$b-wal" "$a-journal" "$b-journal"; do
                        [ ! -e "$f" ] || cp "$f" "$VSS_TEST_DIR/copy/"
                done
                ask book thaw ok
                sum=$(($(sqlite3 "$VSS_TEST_DIR/copy/a.db" 'SELECT v FROM t') + $(sqlite3 "$VSS_TEST_DIR/copy/b [1].db" 'SELECT v FROM t')))
                [ $sum -eq 0 ] || die "$mode: the copies are apart by $sum"
                [ "$(sqlite3 "$VSS_TEST_DIR/copy/a.db" 'PRAGMA integrity_check')" = ok ] || die "$mode: the copy is damaged"
        done
        goes_on "$count.1" || die "$mode: does not go on after Thaw"

        note "$mode: a second load that locks the other way round"
        python3 "$load" "$b" "$a" "$count.2" 2>/dev/null &
        second_pid=$!
        cleanup_fn stop_process $second_pid
        kill -KILL $load_pid
        for i in 1 2 3 4 5; do
                ask book freeze ok 5000 30000
                ask book thaw ok
        done
        goes_on "$count.2" || die "$mode: the second load does not go on"

        note "$mode: SIGKILL and SIGTERM of the writer while frozen"
        ask book freeze ok 5000 30000
        kill -KILL "$WRITER_PID"
        goes_on "$count.2" || die "$mode: does not go on after SIGKILL of the writer"
        sqlite_writer --name=book "$a" "$b"
        ask book freeze ok 5000 30000
        kill -TERM "$WRITER_PID"
        wait "$WRITER_PID" || die "$mode: SIGTERM: status $?"
        goes_on "$count.2" || die "$mode: does not go on after SIGTERM of the writer"
        kill -KILL $second_pid

        note "$mode: somebody holds the lock: vetoed before the deadline; a database that was replaced is noticed"
        sqlite_writer --name=book "$a" "$b"
        rm -f "$VSS_TEST_DIR/held" # of the round before
        python3 -c "
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60); c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(60)" "$b" >"$VSS_TEST_DIR/held" &
        holder=$!
        cleanup_fn stop_process $holder
        must_hear '^held' 10 "$VSS_TEST_DIR/held"
        ask book freeze WriterRetryable 1500 30000
        grep '^reply book freeze WriterRetryable' "$FAKE_LOG" | tail -1 | awk '{exit !($5 < 1500000)}' || die "answered after its deadline"
        kill -KILL $holder
        ask book abort ok
        cp "$a" "$a.new"
        mv "$a.new" "$a"
        ask book freeze WriterRetryable
        ask book abort ok
        ask book prepare-snapshot ok
        ask book freeze ok
        ask book thaw ok
        stop_process "$WRITER_PID"
done

note "configuration file; what is not there is refused"
printf 'User=root\ndatabase=%s\nfreeze-timeout=7\n' "$a" >"$CONFIGURATION_DIRECTORY/writers.d/conf.conf"
sqlite_writer --name=conf
ask conf identify ok
grep '^document conf ' "$FAKE_LOG" | grep -q '"freeze_timeout_usec":7000000' || die "the option of the file was not taken"
stop_process "$WRITER_PID"
echo 'no-such=1' >>"$CONFIGURATION_DIRECTORY/writers.d/conf.conf"
expect_exit 2 "$VSS_BUILD/writers/vss-writer-sqlite" --name=conf
expect_exit 4 "$VSS_BUILD/writers/vss-writer-sqlite" "$VSS_TEST_DIR/none.db"
expect_exit 2 "$VSS_BUILD/writers/vss-writer-sqlite"
expect_exit 1 "$VSS_BUILD/writers/vss-writer-sqlite" "$load"
