#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The writers of PostgreSQL, MariaDB and scripts with the rights that their units leave them, beside the distribution's servers as
# systemd runs them: all in one set at level application; a restore beside the MariaDB server that runs; restores for which
# systemd stops and starts the services, of both servers up to a point, for which MariaDB's writer runs a server of its own; the
# journal has nothing of what was denied.
# disks: 512M 512M
# seconds: 240
. "$(dirname "$0")/functions.sh"

configure Timeouts hold=40 freeze=80 provider=60 prepare_backup=60 prepare_snapshot=60
PG=/var/lib/postgresql MY=/var/lib/mysql
# on_disk DISK DIRECTORY: what the distribution made there is on a btrfs of its own
on_disk() {
        mkfs.btrfs -q "$1" >/dev/null
        mount "$1" /mnt
        cp -a "$2/." /mnt/
        chown --reference="$2" /mnt
        chmod --reference="$2" /mnt
        umount /mnt
        mount "$1" "$2"
}
rm -f $MY/ib_logfile0.new
on_disk "$d0" $PG
on_disk "$d1" $MY
install -d -o postgres $PG/archive
cat >>/etc/postgresql/15/main/postgresql.conf <<'EOC'
jit = off
max_wal_size = 64MB
archive_mode = on
archive_command = 'cp %p /var/lib/postgresql/archive/%f'
EOC
printf '%s\n' '[mariadbd]' log_bin=/var/lib/mysql/bin innodb_log_file_size=16M innodb_buffer_pool_size=32M >/etc/mysql/mariadb.conf.d/99-test.cnf
note "the servers start"
systemctl start --no-block mariadb
systemctl start postgresql@15-main
pg() { (become postgres timeout 30 psql -X -q -A -t -d postgres -c "$1"); }
my() { timeout 30 mariadb --batch --skip-column-names -e "$1"; }
wait_until 90 pg 'SELECT 1' >/dev/null || die "no PostgreSQL: $(systemctl status --no-pager postgresql@15-main)"
wait_until 120 my 'SELECT 1' >/dev/null 2>&1 || die "no MariaDB: $(systemctl status --no-pager mariadb; journalctl --no-pager -n 30 -u mariadb)"
mkdir -p /etc/vss/hooks $PG/app
cat >/etc/vss/hooks/app <<'EOC'
#!/bin/sh
case $1 in
identify) printf '%s\n' "component=app" "tree=/var/lib/postgresql/app" ;;
freeze | thaw) echo "$1 $(id -un)" >>/var/lib/postgresql/app/calls ;;
*) exit 2 ;;
esac
EOC
chmod 755 /etc/vss/hooks/app
printf '%s\n' directory=/etc/vss/hooks >/etc/vss/writers.d/hooks.conf
printf '%s\n' User=postgres "archive=$PG/archive" service=postgresql@15-main.service >/etc/vss/writers.d/postgresql.conf
printf '%s\n' User=mysql socket=/run/mysqld/mysqld.sock service=mariadb.service >/etc/vss/writers.d/mariadb.conf
WRITERS=(vss-writer-postgresql@postgresql vss-writer-mariadb@mariadb vss-writer-exec@hooks)
note "the writers start"
systemctl start "${WRITERS[@]}"
listed() { [ "$(vssctl --json writers | jq '[.writers[] | select((.name == "postgresql" or .name == "mariadb" or .name == "hooks") and .state == "stable")] | length')" -eq 3 ]; }
wait_until 60 listed || die "the writers do not come up: $(vssctl writers; systemctl status --no-pager "${WRITERS[@]}")"
restarts() { local w; for w in "${WRITERS[@]}"; do systemctl show -P NRestarts "$w"; done | xargs; }
RESTARTS=$(restarts) # where starting a server takes minutes, a writer may give up once
pg 'CREATE TABLE t (part text); INSERT INTO t VALUES ($$saved$$)'
my 'CREATE DATABASE d; CREATE TABLE d.t (part VARCHAR(10)); INSERT INTO d.t VALUES ("saved")'
pg_rows() { pg "SELECT string_agg(part, ' ' ORDER BY part DESC) FROM t"; }
my_rows() { my "SELECT GROUP_CONCAT(part ORDER BY part DESC SEPARATOR ' ') FROM d.t"; }
manifest=$VSS_TEST_DIR/manifest.json

case_all_in_one_set_at_level_application() {
        vssctl --json create --type=full --require=application --manifest="$manifest" $PG $MY >"$VSS_TEST_DIR/set.json" || die "no set: $(cat "$VSS_TEST_DIR/set.json")"
        expect_equal "application application" "$(jq -r '[.snapshots[].consistency] | join(" ")' "$VSS_TEST_DIR/set.json")" "the levels"
        expect_equal "hooks mariadb postgresql" "$(jq -r '[.writers[] | select(.consistency != null).name] | sort | join(" ")' "$VSS_TEST_DIR/set.json")" "the writers that took part"
        expect_equal "freeze root thaw root" "$(xargs <$PG/app/calls)" "calls of the script"
        expect_exit 0 vssctl complete --manifest="$manifest" "$(jq -r .set "$VSS_TEST_DIR/set.json")"
        pg "INSERT INTO t VALUES ('after')"
        pg 'SELECT pg_current_wal_lsn()' >"$VSS_TEST_DIR/point"
        pg "INSERT INTO t VALUES ('Later')" # sorts last
        pg 'SELECT pg_switch_wal()' >/dev/null
        my "INSERT INTO d.t VALUES ('after')"
}

case_a_restore_beside_the_server_that_runs() {
        local pid
        pid=$(systemctl show -P MainPID mariadb)
        vssctl restore "$manifest" --component=mariadb:server --to=/var/lib/copy >"$VSS_TEST_DIR/out" 2>&1 || die "restore beside it: $(cat "$VSS_TEST_DIR/out")"
        expect_equal /var/lib/copy "$(sed 's|/bin\.0*[0-9]*$||' /var/lib/copy/bin.index | sort -u)" "where the index leads"
        expect_equal "mysql $pid" "$(stat -c %U /var/lib/copy/bin.index) $(systemctl show -P MainPID mariadb)" "owner of the index, and the server"
        expect_equal "saved after" "$(my_rows)" "rows of the server that runs"
}

# again UNIT OLD-PID: systemd started it anew
again() { [ "$(systemctl show -P MainPID "$1")" != "$2" ] && is_active "$1"; }

case_the_log_of_mariadb_is_applied_by_its_writer() {
        local pid point saved log=$VSS_TEST_DIR/applied.log tail
        pid=$(systemctl show -P MainPID mariadb)
        point=$(my 'SHOW MASTER STATUS' | cut -f1,2 | tr '\t' :)
        my "INSERT INTO d.t VALUES ('Later')" # sorts last
        vssctl --json create --type=log --require=application --previous="$manifest" --manifest="$VSS_TEST_DIR/log.json" $MY >"$VSS_TEST_DIR/set.json" || die "no set of the log: $(cat "$VSS_TEST_DIR/set.json")"
        expect_exit 0 vssctl complete --manifest="$VSS_TEST_DIR/log.json" "$(jq -r .set "$VSS_TEST_DIR/set.json")"
        vssctl restore "$VSS_TEST_DIR/log.json" --component=mariadb:server --to=/var/lib/log >"$VSS_TEST_DIR/out" 2>&1 || die "restore of the log: $(cat "$VSS_TEST_DIR/out")"
        saved=$(dirname "$(find /var/lib/log -name 'bin.0*' -print -quit)")
        # What the writer's server says is gone when it has ended.
        (
                until f=$(compgen -G '/tmp/vss-mariadb-*/server.log'); do sleep 0.1; done
                exec tail -n +1 -f "$f"
        ) >"$log" 2>/dev/null &
        tail=$!
        cleanup_fn stop_process $tail
        vssctl restore "$manifest" --component=mariadb:server --until="$point" --restore-options='"":"log"="'"$saved"'"' >"$VSS_TEST_DIR/out" 2>&1 || die "restore until $point: $(cat "$VSS_TEST_DIR/out" "$log")"
        stop_process $tail
        again mariadb "$pid" || die "mariadb was not started anew: $(systemctl status --no-pager mariadb)"
        expect_equal "saved after" "$(my_rows)" "rows of MariaDB until $point"
        expect_equal "" "$(find /tmp -maxdepth 1 -name 'vss-mariadb-*')" "what was there meanwhile"
        grep -q 'ready for connections' "$log" || die "no server of the writer's: $(cat "$log")"
        ! grep -iE '\[ERROR\]|denied|not permitted|read-only|EPERM|errno' "$log" || die "the writer's server: $(cat "$log")"
}

case_systemd_stops_and_starts_the_services() {
        local my_pid pg_pid point
        point=$(cat "$VSS_TEST_DIR/point")
        my_pid=$(systemctl show -P MainPID mariadb)
        pg_pid=$(systemctl show -P MainPID postgresql@15-main)
        vssctl restore "$manifest" --component=mariadb:server >"$VSS_TEST_DIR/out" 2>&1 || die "restore: $(cat "$VSS_TEST_DIR/out")"
        again mariadb "$my_pid" || die "mariadb was not started anew: $(systemctl status --no-pager mariadb)"
        expect_equal saved "$(my_rows)" "rows of MariaDB"
        vssctl restore "$manifest" --component=postgresql:cluster --until="$point" >"$VSS_TEST_DIR/out" 2>&1 || die "restore: $(cat "$VSS_TEST_DIR/out")"
        again postgresql@15-main "$pg_pid" || die "postgresql was not started anew: $(systemctl status --no-pager postgresql@15-main)"
        promoted() { [ "$(pg 'SELECT pg_is_in_recovery()')" = f ]; }
        wait_until 60 promoted || die "it recovers still: $(tail -n 20 /var/log/postgresql/*.log)"
        expect_equal "saved after" "$(pg_rows)" "rows of PostgreSQL until $point"
        wait_until 60 listed || die "the writers are gone: $(vssctl writers)"
        expect_exit 0 vssctl create --require=application $PG $MY >/dev/null
}

case_nothing_was_denied() {
        local w
        expect_equal "$RESTARTS" "$(restarts)" "restarts of ${WRITERS[*]}"
        for w in "${WRITERS[@]}"; do
                journalctl -b -o cat --no-pager -u "$w" >"$VSS_TEST_DIR/journal"
                ! grep -iE 'denied|not permitted|read-only|EPERM' "$VSS_TEST_DIR/journal" || die "$w: $(cat "$VSS_TEST_DIR/journal")"
                systemctl stop "$w"
                expect_equal success "$(systemctl show -P Result "$w")" "the end of $w"
        done
        ! dmesg | grep -E 'type=1326|audit.*denied' || die "the kernel denied something"
}

cases all_in_one_set_at_level_application a_restore_beside_the_server_that_runs the_log_of_mariadb_is_applied_by_its_writer systemd_stops_and_starts_the_services nothing_was_denied
