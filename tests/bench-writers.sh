#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# How long the clients of a database server wait while a set is made of it, against what each project's manual says to do
# by hand, on the same btrfs under the same load:
#
#   postgresql  pg_backup_start(fast) in a session that is kept, snapshot, pg_backup_stop
#   mariadb     BACKUP STAGE START to BLOCK_COMMIT in a session that is kept, snapshot, BACKUP STAGE END
#   redis       automatic rewrites off, none running, clients that write paused, snapshot, they go on, rewrites on
#
# Redis's manual has no pause: it copies files, and the end of the file that is cut off is forgiven. A snapshot of btrfs is
# no such copy: of a file that grows it may have the size of after a write and zeros where its bytes would be, which a server
# cuts off or refuses to start on. So what the manual says is measured, too, but not what a set is held against, and how many of its
# snapshots redis-check-aof refuses is counted.
#
# Either is one command that starts from nothing: vssctl, or a shell script that opens its session, keeps it over the
# snapshot and ends it.
#
# One pair is a set and the recipe, in turns first. A wait is what tests/stalls.py says, over the two seconds from the
# beginning of either; p99 of these are the longest 20 ms. What counts is the median p99 of the sets, at most 1.05 times
# that of the recipe. Exits with 1 where it is more; the median of the pairs' ratios is printed as well.
#
#   BENCH_PAIRS (20)  BENCH_SERVERS (postgresql mariadb redis)  BENCH_SNAPSHOTS (200)
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/servers.sh"
PG=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
PATH=$PATH:$PG
requires initdb postgres psql mariadbd mariadb mariadb-install-db redis-server redis-cli redis-check-aof setpriv jq mkfs.btrfs btrfs /usr/bin/python3
watchdog 1500

pairs=${BENCH_PAIRS:-20} seconds=2 aim=1.05
engine_area area
export VSS_IMAGE_DIR=$area
new_fs tree btrfs 3G
# What the load notes must not wait for the disk that the images lie on: it would count as a wait for the server.
memory=$VSS_TEST_DIR/memory
mkdir "$memory"
mount -t tmpfs -o size=256M tmpfs "$memory" || die "no tmpfs"
cleanup_fn umount "$memory"
counts=$memory/counts
export LOAD_TIMES=$memory/times

# ---- the recipes --------------------------------------------------------------------------------------------------

# recipe NAME CLIENT STEP…: a script that has a session of CLIENT open while it goes through the steps. tell WORDS: to the
# session, when it has answered.
recipe() {
        cat >"$VSS_TEST_DIR/$1" <<END
#!/bin/bash
set -e
coproc SESSION { exec $2; }
tell() {
        printf '%s\n' "\$1" >&"\${SESSION[1]}"
        read -r -t 20 <&"\${SESSION[0]}"
}
snapshot() { btrfs subvolume snapshot -r "$tree" "$tree/recipe" >/dev/null; }
$(printf '%s\n' "${@:3}")
END
        chmod 755 "$VSS_TEST_DIR/$1"
}

# ---- the servers: start_NAME --------------------------------------------------------------------------------------

server_home home postgres
chmod 777 "$home" # more than one server's account

start_postgresql() {
        local as=(setpriv --reuid postgres --regid postgres --init-groups env "PATH=$PATH" LC_ALL=C)
        mkdir "$tree/pg"
        chown postgres "$tree/pg"
        "${as[@]}" initdb -D "$tree/pg" -A trust -N >"$VSS_TEST_DIR/log/initdb.log" 2>&1 || die initdb
        "${as[@]}" postgres -D "$tree/pg" -k "$home" -c listen_addresses= -c shared_buffers=64MB >"$VSS_TEST_DIR/log/pg.log" 2>&1 &
        SERVER_PID=$!
        cleanup_fn stop_process $SERVER_PID INT
        live="host=$home user=postgres dbname=postgres"
        wait_until 30 eval 'psql -X -q -d "$live" -c "SELECT 1" >/dev/null 2>&1' || die "no server"
        start_load postgresql-load.py "$PG/psql" "$counts" "$live"
        start_writer "$VSS_BUILD/writers/vss-writer-postgresql" --name=db --dsn="$live"
        recipe by_hand "psql -X -q -A -t -d '$live'" \
                "tell \"SELECT pg_backup_start('x', true);\"" \
                snapshot \
                'tell "SELECT lsn FROM pg_backup_stop(false);"'
}

start_mariadb() {
        local options=(--no-defaults --user=mysql --tmpdir="$home" --innodb-buffer-pool-size=64M --innodb-log-file-size=32M)
        mkdir "$tree/db"
        chown mysql "$tree/db"
        mariadb-install-db "${options[@]}" --datadir="$tree/db" --skip-test-db --auth-root-authentication-method=normal >"$VSS_TEST_DIR/log/install.log" 2>&1 || die mariadb-install-db
        mariadbd "${options[@]}" --skip-networking --datadir="$tree/db" --socket="$home/db" --log-bin="$tree/db/bin" --server-id=1 >"$VSS_TEST_DIR/log/db.log" 2>&1 &
        SERVER_PID=$!
        cleanup_fn stop_process $SERVER_PID
        wait_until 30 eval 'mariadb --no-defaults -S "$home/db" -uroot -e "SELECT 1" >/dev/null 2>&1' || die "no server"
        start_load mariadb-load.py "$home/db" "$counts"
        start_writer "$VSS_BUILD/writers/vss-writer-mariadb" --name=db --socket="$home/db" --user=root
        recipe by_hand "mariadb --no-defaults -S '$home/db' -uroot --batch --skip-column-names --unbuffered" \
                'tell "BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT; SELECT 1;"' \
                snapshot \
                'tell "BACKUP STAGE END; SELECT 1;"'
}

start_redis() {
        mkdir "$tree/kv"
        redis-server --port 0 --unixsocket "$home/kv" --dir "$tree/kv" --daemonize no --save '' --appendonly yes >"$VSS_TEST_DIR/log/kv.log" 2>&1 &
        SERVER_PID=$!
        cleanup_fn stop_process $SERVER_PID
        wait_until 10 eval '[ "$(redis-cli -s "$home/kv" ping 2>&1)" = PONG ]' || die "no server"
        start_load redis-load.py "$home/kv" "$counts"
        start_writer "$VSS_BUILD/writers/vss-writer-redis" --name=db --socket="$home/kv"
        local off='tell "config set auto-aof-rewrite-percentage 0"' on='tell "config set auto-aof-rewrite-percentage 100"'
        local wait="until redis-cli -s '$home/kv' info persistence | grep -q '^aof_rewrite_in_progress:0'; do :; done"
        recipe by_hand "redis-cli -s '$home/kv'" "$off" "$wait" 'tell "client pause 10000 write"' snapshot \
                'tell "client unpause"' "$on"
        recipe by_manual "redis-cli -s '$home/kv'" "$off" "$wait" snapshot "$on"
}
# Whether there is nothing to mend in the snapshot that by_manual has left.
manual_is_good() {
        local good=0
        cp -r --reflink=always "$tree/recipe/kv" "$tree/looked-at"
        redis-check-aof "$tree/looked-at/appendonlydir/appendonly.aof.manifest" >"$VSS_TEST_DIR/log/check.log" 2>&1 || good=$?
        rm -rf "$tree/looked-at"
        return $good
}

# ---- measuring ----------------------------------------------------------------------------------------------------

# What is measured has no process of ours in it: the start of a Python takes the processor for as long as a set does.
set_clock() {
        clock_offset=$(/usr/bin/python3 -c 'import time; print(time.monotonic_ns() - time.time_ns())')
        sleep 0.2
}
# measure OUT COMMAND…: p50, p99 and max of the waits from its beginning
measure() {
        local begin end
        set_clock
        : >"$LOAD_TIMES"
        begin=$((${EPOCHREALTIME/./} * 1000 + clock_offset))
        "${@:2}" || die "failed: $*"
        end=$((${EPOCHREALTIME/./} * 1000 + clock_offset))
        [ $((end - begin)) -lt $((seconds * 1000000000)) ] || echo "it took longer than $seconds s: $*"
        sleep $((seconds + 1)).2
        "$VSS_SOURCE/tests/stalls.py" "$LOAD_TIMES" "$begin" $seconds >>"$1"
}
# Only what a user calls: what the tests read from the answer is done when the measurement is over.
create() { vssctl --json create --require=application "$tree" >"$VSS_TEST_DIR/set.json"; }
a_set() {
        measure "$out/set" create
        SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
        delete_set
}
drop_recipe() { btrfs subvolume delete --commit-after "$tree/recipe" >/dev/null; }
by_hand() {
        measure "$out/hand" "$VSS_TEST_DIR/by_hand"
        drop_recipe
}
by_manual() {
        measure "$out/manual" "$VSS_TEST_DIR/by_manual"
        drop_recipe
}
# What the manual says, again and again: how many of its snapshots are no good
count_refused() {
        local n refused=0
        for ((n = 0; n < ${BENCH_SNAPSHOTS:-200}; n++)); do
                "$VSS_TEST_DIR/by_manual"
                manual_is_good || refused=$((refused + 1))
                drop_recipe
        done
        echo "  $refused of $n snapshots by what the manual says are refused by redis-check-aof"
}
# nobody: the same two seconds without either, for what the load alone does
nobody() { measure "$out/none" true; }
column() { awk -v c="$2" '{print $c}' "$1" | sort -n | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
line() { printf '  %-10s %-8s p50 %8s  p99 %8s  max %8s us\n' "$server" "$1" "$(column "$2" 1)" "$(column "$2" 2)" "$(column "$2" 3)"; }

start_bus
start_vssd
failed=0
for server in ${BENCH_SERVERS:-postgresql mariadb redis}; do
        out=$VSS_TEST_DIR/$server
        mkdir "$out"
        "start_$server"
        make_set "$tree" # what only the first one costs
        delete_set
        for ((i = 0; i < pairs; i++)); do
                if ((i % 2)); then a_set && by_hand; else by_hand && a_set; fi
                [ ! -e "$VSS_TEST_DIR/by_manual" ] || by_manual
                ((i % 4)) || nobody
        done
        echo "$server, medians of $pairs pairs:"
        line set "$out/set"
        line recipe "$out/hand"
        [ ! -e "$out/manual" ] || line manual "$out/manual"
        line nothing "$out/none"
        paste "$out/set" "$out/hand" | awk '{print $2 / $5}' >"$out/ratio"
        ratio=$(awk -v a="$(column "$out/set" 2)" -v b="$(column "$out/hand" 2)" 'BEGIN {printf "%.3f", a / b}')
        echo "  p99 of a set is $ratio of the recipe's (aim: at most $aim); median ratio of a pair $(column "$out/ratio" 1)"
        awk -v r="$ratio" -v a=$aim 'BEGIN {exit !(r <= a)}' || failed=1
        [ ! -e "$out/manual" ] || count_refused
        stop_process "$WRITER_PID"
        stop_process "$LOAD_PID"
        stop_process "$SERVER_PID"
done
exit $failed
