#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The writers' units and the timers as an administrator would have them: an SQLite database of an account and the distribution's Redis
# server in one set at level application; each writer comes back after its death, and stops in time; a timer makes snapshots, and the
# other one prunes those and no others.
# disks: 256M 256M
# seconds: 300
# programs: ledger.py
. "$(dirname "$0")/functions.sh"

configure Timeouts hold=40 freeze=80 provider=60
mkfs.btrfs -q "$d0" >/dev/null
mkdir -p /var/lib/redis
mount "$d0" /var/lib/redis
chown redis:redis /var/lib/redis
chmod 750 /var/lib/redis
mkfs.btrfs -q "$d1" >/dev/null
mkdir -p /srv/book
mount "$d1" /srv/book
useradd --system --home-dir /srv/book book
chown book:book /srv/book
printf '%s\n' 'unixsocket /run/redis/redis-server.sock' 'unixsocketperm 770' 'appendonly yes' >>/etc/redis/redis.conf
systemctl start redis-server
redis() { timeout 20 redis-cli -s /run/redis/redis-server.sock "$@"; }
wait_until 60 redis ping >/dev/null || die "no Redis server: $(systemctl status --no-pager redis-server)"
redis set kept 1 >/dev/null
ledger() { python3 /usr/lib/vss-vm/bin/ledger.py "$@"; }
(become book python3 /usr/lib/vss-vm/bin/ledger.py create /srv/book/a.db /srv/book/b.db)
(become book python3 /usr/lib/vss-vm/bin/ledger.py load /srv/book/a.db /srv/book/b.db 0.05) >"$VSS_TEST_DIR/load" &
cleanup_fn kill -KILL $!
printf '%s\n' User=book database=/srv/book/a.db database=/srv/book/b.db freeze-timeout=60 >/etc/vss/writers.d/book.conf
printf '%s\n' User=redis socket=/run/redis/redis-server.sock >/etc/vss/writers.d/redis.conf
WRITERS=(vss-writer-sqlite@book vss-writer-redis@redis)
systemctl start "${WRITERS[@]}"
listed() { [ "$(vssctl --json writers | jq '[.writers[] | select((.name == "book" or .name == "redis") and .state == "stable")] | length')" -eq 2 ]; }
snapshots() { vssctl --json snapshots | jq "[.snapshots[] | select($1)] | length"; }

case_both_in_one_set_at_level_application() {
        local copy
        wait_until 60 listed || die "the writers do not come up: $(vssctl writers) $(systemctl status --no-pager "${WRITERS[@]}")"
        vssctl --json create --require=application /srv/book /var/lib/redis >"$VSS_TEST_DIR/set.json" || die "no set: $(cat "$VSS_TEST_DIR/set.json")"
        expect_equal "application application" "$(jq -r '[.snapshots[].consistency] | join(" ")' "$VSS_TEST_DIR/set.json")" "the levels"
        redis set kept 2 >/dev/null
        copy=$VSS_TEST_DIR/redis
        cp -r "$(jq -r '.snapshots[1].path' "$VSS_TEST_DIR/set.json")" "$copy"
        redis-check-aof "$copy/appendonlydir/appendonly.aof.manifest" >"$VSS_TEST_DIR/check" 2>&1 || die "redis-check-aof: $(tail -n 3 "$VSS_TEST_DIR/check")"
        mkdir -p "$VSS_TEST_DIR/book"
        cp "$(jq -r '.snapshots[0].path' "$VSS_TEST_DIR/set.json")"/*.db* "$VSS_TEST_DIR/book/"
        ledger check "$VSS_TEST_DIR/book/a.db" "$VSS_TEST_DIR/book/b.db" || die "the databases do not agree"
        expect_equal 100 "$(redis config get auto-aof-rewrite-percentage | tail -n 1)" "auto-aof-rewrite-percentage after the set"
        delete_all
}

case_a_writer_that_dies_comes_back_and_one_that_is_stopped_goes() {
        local w
        for w in "${WRITERS[@]}"; do systemctl kill --signal=KILL --kill-whom=all "$w"; done
        # in this order: until the service hears of their deaths it lists those that died
        again() { [ "$(systemctl show -P NRestarts "${WRITERS[0]}")$(systemctl show -P NRestarts "${WRITERS[1]}")" = 11 ] && listed; }
        wait_until 90 again || die "they are not back: $(vssctl writers) $(systemctl status --no-pager "${WRITERS[@]}")"
        expect_exit 0 vssctl create --require=application /srv/book /var/lib/redis >/dev/null
        delete_all
        for w in "${WRITERS[@]}"; do
                systemctl stop "$w"
                expect_equal success "$(systemctl show -P Result "$w")" "the end of $w"
        done
        wait_until 20 eval '[ "$(vssctl --json writers | jq "[.writers[] | select(.name == \"book\" or .name == \"redis\")] | length")" -eq 0 ]' ||
                die "stopped writers are listed: $(vssctl writers)"
}

# soon TIMER: every two seconds, as `systemctl edit` would have it
soon() {
        mkdir -p "/etc/systemd/system/$1.d"
        printf '%s\n' '[Timer]' OnCalendar= 'OnCalendar=*:*:0/2' RandomizedDelaySec=0 AccuracySec=1s >"/etc/systemd/system/$1.d/override.conf"
        systemctl daemon-reload
        systemctl start "$1"
}

case_timers_make_and_prune_their_own() {
        local name ours
        name=$(systemd-escape --path /srv/book)
        for t in vss-snapshot vss-prune; do
                systemctl start "$t@$name.timer"
                [ "$(systemctl show -P NextElapseUSecRealtime "$t@$name.timer")" != "" ] || die "$t@$name.timer has no next time"
                systemctl stop "$t@$name.timer"
        done
        ours=$(vssctl --json create /srv/book | json '.snapshots[0].id')
        soon "vss-snapshot@$name.timer"
        wait_until 100 eval '[ "$(snapshots true)" -ge 4 ]' || die "the timer makes no snapshots: $(systemctl status --no-pager "vss-snapshot@$name.service")"
        systemctl stop "vss-snapshot@$name.timer"
        wait_until 60 is_inactive "vss-snapshot@$name.service" || die "it is still at it: $(systemctl status --no-pager "vss-snapshot@$name.service")"
        expect_equal success "$(systemctl show -P Result "vss-snapshot@$name.service")" "the last of the timer"
        mkdir -p /etc/vss/timers
        echo VSS_PRUNE=--keep-last=2 >"/etc/vss/timers/$name.conf"
        soon "vss-prune@$name.timer"
        wait_until 60 eval '[ "$(snapshots true)" -eq 3 ]' || die "the timer does not prune: $(vssctl snapshots; systemctl status --no-pager "vss-prune@$name.service")"
        systemctl stop "vss-prune@$name.timer"
        expect_equal 3 "$(snapshots true)" "snapshots, two of the timer's and one made by hand"
        expect_equal 1 "$(snapshots ".id == \"$ours\"")" "the one made by hand"
}

cases both_in_one_set_at_level_application a_writer_that_dies_comes_back_and_one_that_is_stopped_goes timers_make_and_prune_their_own
