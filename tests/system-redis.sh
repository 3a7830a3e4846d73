#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-redis with real servers under redis-benchmark and a load that is counted: in every copy everything acknowledged before Freeze is there and nothing
# that began after it; a copy starts as an append-only file that is whole. Whatever happens to writer or server, nothing
# stays switched off and nobody stays paused.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
. "$(dirname "$0")/servers.sh"
requires redis-server redis-cli redis-benchmark redis-check-aof jq mkfs.ext4 mkfs.btrfs /usr/bin/python3
watchdog 280
SETS=${REDIS_SETS:-100}
engine_area area
export VSS_IMAGE_DIR=$area
new_fs tree btrfs 512M

sock=$VSS_TEST_DIR/redis.sock
# server DIR [OPTION…]: REDIS_PID
server() {
        redis-server --port 0 --unixsocket "$sock" --dir "$1" --daemonize no --save '' --appendonly yes "${@:2}" >>"$VSS_TEST_DIR/log/redis.log" 2>&1 &
        REDIS_PID=$!
        cleanup_fn stop_process "$REDIS_PID"
        EXPECT='PONG\|NOAUTH' wait_until 10 redis ping || die "the server does not start: $(tail -3 "$VSS_TEST_DIR/log/redis.log")"
}
redis() { timeout 5 redis-cli -s "$sock" "$@" 2>&1 | grep -q "${EXPECT:-.}" || return 1; }
ask_redis() { timeout 5 redis-cli -s "$sock" "$@"; }
percentage() { ask_redis config get auto-aof-rewrite-percentage | tail -1; }
load() { start_load redis-load.py "$sock" "$counts"; }
back_to_normal() {
        goes_on || die "$1: clients do not go on"
        wait_until 5 eval '[ "$(percentage)" = 100 ]' || die "$1: rewriting stays switched off ($(percentage))"
}
# beside it on database 1, as much as the processors have left; BENCH_PID
start_benchmark() {
        chrt -i 0 redis-benchmark -s "$sock" --dbnum 1 -t set,incr,lpush,lpop,hset,zadd -r 2000 -c 4 -n 100000 -l -q >"$VSS_TEST_DIR/log/benchmark.log" 2>&1 &
        BENCH_PID=$!
        cleanup_fn stop_process $BENCH_PID
        wait_until 10 eval '[ "$(redis-cli -s "$sock" -n 1 dbsize)" -gt 0 ]' || die "redis-benchmark does nothing: $(tail -3 "$VSS_TEST_DIR/log/benchmark.log")"
}
redis_writer() { start_writer "$VSS_BUILD/writers/vss-writer-redis" --socket="$sock" "$@"; }

# check_copy DIR LEAST MOST: a second server has all of the transactions up to some n from LEAST to MOST
check_copy() {
        local copy=$VSS_TEST_DIR/copy n keys pid log
        rm -rf --one-file-system "$copy"
        cp -r "$1" "$copy"
        log=$copy/log
        redis-check-aof "$copy/appendonlydir/appendonly.aof.manifest" >"$VSS_TEST_DIR/check" 2>&1 || die "redis-check-aof: $(tail -3 "$VSS_TEST_DIR/check")"
        redis-server --port 0 --unixsocket "$copy/s" --dir "$copy" --save '' --appendonly yes >"$log" 2>&1 &
        pid=$!
        cleanup_fn stop_process $pid
        wait_until 10 grep -qi 'ready to accept connections' "$log" || die "no server on the copy: $(tail -3 "$log")"
        n=$(redis-cli -s "$copy/s" get n) keys=$(redis-cli -s "$copy/s" dbsize)
        expect_equal "$n" "$(redis-cli -s "$copy/s" get k$((n % 1000)))" "the other half of the last transaction"
        kill -KILL $pid
        wait $pid 2>/dev/null || :
        grep -q 'DB loaded from incr file' "$log" || die "the copy was not loaded from its append-only file"
        ! grep -qiE 'short read|truncat|bad file format' "$log" || die "the append-only file is not whole: $(grep -iE 'short read|truncat|bad' "$log")"
        expect_equal $((n < 1000 ? n + 1 : 1001)) "$keys" "keys of the copy"
        expect_range "$n" "$2" "$3"
}

start_bus
start_fake
fake volume "$tree" "$tree"
mkdir "$tree/a"
server "$tree/a"
load
redis_writer --name=cache

note "documents"
ask cache identify ok
expect_equal "$tree/a|dump.rdb $tree/a/appendonlydir|*|aof|stop-restore-start" "$(jq -r '.components[0].files as $f |
        "\($f[0].root)|\($f[0].pattern) \($f[1].root)|\($f[1].pattern)|\(.x.persistence // ."x.persistence")|\(.restore.method)"' <<<"$(document cache)")" document

note "frozen: writers wait, readers do not, rewriting is off; the copy is exact"
for _ in 1 2 3 4 5; do
        prepare cache
        expect_equal 0 "$(percentage)" "auto-aof-rewrite-percentage"
        ask cache freeze ok 5000 30000
        expect_equal n "$(EXPECT=. ask_redis get n | tr -c '0-9\n' n | sed 's/^[0-9]*$/n/')" "a reader"
        stands_still || die "clients write while frozen"
        last=$(acknowledged) most=$(begun)
        check_copy "$tree/a" "$last" "$most"
        ask cache thaw ok
        back_to_normal thaw
done

note "abort, SIGTERM, SIGKILL of the writer, and of the whole unit with a record"
prepare cache
ask cache freeze ok 5000 30000
ask cache abort ok
back_to_normal abort
ask cache abort ok
prepare cache
ask cache freeze ok 5000 30000
kill -TERM "$WRITER_PID"
wait "$WRITER_PID" || die "SIGTERM: status $?"
back_to_normal SIGTERM
redis_writer --name=cache
prepare cache
ask cache freeze ok 5000 30000
kill -KILL "$WRITER_PID"
back_to_normal SIGKILL
mkdir -p "$VSS_TEST_DIR/run"
RUNTIME_DIRECTORY=$VSS_TEST_DIR/run redis_writer --name=cache
prepare cache
ask cache freeze ok 2000 3000
keeper=$(pgrep -P "$WRITER_PID" | head -1)
[ -n "$keeper" ] || die "there is no process that undoes"
kill -KILL "$keeper" "$WRITER_PID"
goes_on || die "the pause does not end by itself"
expect_equal 0 "$(percentage)" "auto-aof-rewrite-percentage after both were killed"
RUNTIME_DIRECTORY=$VSS_TEST_DIR/run redis_writer --name=cache
back_to_normal "the next writer"
[ -z "$(ls "$VSS_TEST_DIR/run")" ] || die "the record is still there"

note "a pause that somebody ended, and a thaw that comes too late"
prepare cache
ask cache freeze ok 5000 30000
ask_redis client unpause >/dev/null
goes_on || die "unpause does nothing"
ask cache thaw WriterRetryable
ask cache abort ok
back_to_normal "a broken pause"
prepare cache
ask cache freeze ok 5000 3000
wait_until 8 goes_on || die "does not go on at thaw_by"
back_to_normal thaw_by

note "the server hangs, dies, refuses: vetoed in time, and the next set works"
prepare cache
kill -STOP "$REDIS_PID"
ask cache freeze WriterRetryable 1500 30000
kill -CONT "$REDIS_PID"
ask cache abort ok
back_to_normal "a server that hung"
prepare cache
ask cache freeze ok 5000 30000
kill -KILL "$REDIS_PID"
ask cache thaw WriterRetryable
ask cache abort WriterRetryable
ask cache prepare-snapshot WriterRetryable
stop_process "$LOAD_PID"
last=$(acknowledged)
server "$tree/a"
# every second it is synced: acknowledged and read back after a kill of the server alone
[ "$(ask_redis get n)" -ge "$last" ] || die "the server lost what it had acknowledged"
ask_redis flushall >/dev/null
load
ask cache abort ok
prepare cache
ask cache freeze ok 5000 30000
ask cache thaw ok
back_to_normal "a server that came back"
ask_redis config set maxclients 1 >/dev/null
stop_process "$WRITER_PID"
expect_exit 1 "$VSS_BUILD/writers/vss-writer-redis" --socket="$sock"
stop_process "$LOAD_PID"
stop_process "$REDIS_PID"

note "a password"
rm -rf "$tree/a"/*
server "$tree/a" --requirepass sesame
echo sesame >"$VSS_TEST_DIR/password"
chmod 644 "$VSS_TEST_DIR/password"
expect_exit 2 "$VSS_BUILD/writers/vss-writer-redis" --socket="$sock" --password-file="$VSS_TEST_DIR/password"
chmod 600 "$VSS_TEST_DIR/password"
expect_exit 1 "$VSS_BUILD/writers/vss-writer-redis" --socket="$sock"
redis_writer --name=cache --password-file="$VSS_TEST_DIR/password"
prepare cache
ask cache freeze ok
ask cache thaw ok
stop_process "$WRITER_PID"
stop_process "$REDIS_PID"

note "only RDB files: saved before, nobody waits; nothing on disk: no component"
rm -rf "$tree/a"/*
server "$tree/a" --appendonly no --save '3600 1000000'
load
redis_writer --name=cache
last=$(acknowledged)
prepare cache
ask cache freeze ok
goes_on || die "clients wait without need"
ask cache thaw ok
rm -rf "$VSS_TEST_DIR/copy"
cp -r "$tree/a" "$VSS_TEST_DIR/copy"
stop_process "$LOAD_PID"
ask_redis config set save '' >/dev/null
ask cache identify ok
expect_equal 0 "$(document cache | jq '.components | length')" "components"
stop_process "$WRITER_PID"
stop_process "$REDIS_PID"
server "$VSS_TEST_DIR/copy" --appendonly no
[ "$(ask_redis get n)" -ge "$last" ] || die "the saved file is older than PrepareSnapshot"
stop_process "$REDIS_PID"
expect_exit 2 "$VSS_BUILD/writers/vss-writer-redis"
expect_exit 1 "$VSS_BUILD/writers/vss-writer-redis" --socket="$VSS_TEST_DIR/none"
stop_process "$FAKE_PID"

# sets VOLUME N
sets() {
        local i
        for ((i = 1; i <= $2; i++)); do
                make_set "$1"
                check_copy "$(mount_copy "$1")/redis" "$LAST" "$MOST"
                delete_set
        done
        expect_equal 100 "$(percentage)" "auto-aof-rewrite-percentage at the end"
}

start_vssd
engine_volume v 256M 256M
for volume in "$tree" "$v"; do
        mkdir "$volume/redis"
        server "$volume/redis" --auto-aof-rewrite-min-size 1mb
        load
        start_benchmark
        redis_writer --name=cache
        note "$((SETS / 2)) sets of $(stat -f -c %T "$volume")"
        sets "$volume" $((SETS / 2))
        stop_process "$WRITER_PID"
        stop_process "$LOAD_PID"
        stop_process "$BENCH_PID"
        stop_process "$REDIS_PID"
done
note "$((SETS / 2 * 2)) sets, the last with $(acknowledged) transactions begun"

# saved DIR: the last transaction in the file that the copy has; a server without an append-only file loads it
saved() {
        local copy=$VSS_TEST_DIR/copy n pid
        rm -rf --one-file-system "$copy"
        cp -r "$1" "$copy"
        redis-server --port 0 --unixsocket "$copy/s" --dir "$copy" --save '' --appendonly no >"$copy/log" 2>&1 &
        pid=$!
        cleanup_fn stop_process $pid
        wait_until 10 grep -qi 'ready to accept connections' "$copy/log" || die "no server on the copy: $(tail -3 "$copy/log")"
        n=$(redis-cli -s "$copy/s" get n)
        expect_equal "$n" "$(redis-cli -s "$copy/s" get k$((n % 1000)))" "the other half of the last transaction"
        kill -KILL $pid
        wait $pid 2>/dev/null || :
        SAVED=${n:-0}
}
note "only RDB files, and a control: without the writer the check finds that what was acknowledged is not in the copy"
rm -rf "$tree/redis"/*
server "$tree/redis" --appendonly no --save '3600 100000000'
load
redis_writer --name=cache
for _ in 1 2 3; do
        make_set "$tree"
        saved "$(mount_copy "$tree")/redis"
        expect_range "$SAVED" "$LAST" "$MOST"
        delete_set
done
LAST=$(acknowledged)
expect_exit 0 vssctl --json create --no-writers "$tree" >"$VSS_TEST_DIR/set.json"
SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
saved "$(mount_copy "$tree")/redis"
[ "$SAVED" -lt "$LAST" ] || die "without the writer the copy has all: $SAVED of $LAST"
delete_set
stop_process "$WRITER_PID"
stop_process "$LOAD_PID"
stop_process "$REDIS_PID"
