#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-sqlite and sets of two real volumes, a database on each, which a program writes without a pause and always to
# the same number: in every copy both are whole and at one number, which is none that was acknowledged before Freeze nor one
# that was begun after it. With a WAL and with a rollback journal. Without the writer they are found apart.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/servers.sh"
requires sqlite3 jq mkfs.ext4 mkfs.btrfs /usr/bin/python3
watchdog 280
SETS=${SQLITE_SETS:-100}
engine_area area
export VSS_IMAGE_DIR=$area
new_fs tree btrfs 512M

# number DIR FILE: the database in a copy of it, opened by a second process, has
number() {
        local copy=$VSS_TEST_DIR/copy
        rm -rf --one-file-system "$copy"
        mkdir "$copy"
        cp "$1/$2"* "$copy/"
        rm -f "$copy/$2-shm" # of the processes that had it open
        expect_equal ok "$(sqlite3 "$copy/$2" 'PRAGMA integrity_check')" "integrity_check of $2"
        NUMBER=$(sqlite3 "$copy/$2" 'SELECT v FROM t')
        expect_equal "$NUMBER" "$(sqlite3 "$copy/$2" 'SELECT max(v) FROM u')" "the other half of the last transaction in $2"
}
# numbers: FIRST and SECOND, of the copies in the set; closed again
numbers() {
        number "$(mount_copy "$tree")" a.db
        FIRST=$NUMBER
        number "$(mount_copy "$v")" b.db
        SECOND=$NUMBER
        delete_set
}
# apart: how many of so many sets without the writer have them at two numbers
apart() {
        local n=0 i
        for ((i = 0; i < $1; i++)); do
                expect_exit 0 vssctl --json create --no-writers "$tree" "$v" >"$VSS_TEST_DIR/set.json"
                SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
                numbers
                [ "$FIRST" = "$SECOND" ] || n=$((n + 1))
        done
        echo $n
}

start_bus
start_vssd
engine_volume v 256M 256M
for mode in wal delete; do
        rm -f "$tree/a.db"* "$v/b.db"*
        start_load sqlite-load.py $mode "$counts" "$tree/a.db" "$v/b.db"
        expect_equal $mode "$(sqlite3 -cmd '.timeout 5000' "$tree/a.db" 'PRAGMA journal_mode')" "the journal"
        sqlite_writer --name=book "$tree/a.db" "$v/b.db"
        note "$mode: $((SETS / 2)) sets of $(stat -f -c %T "$tree") and $(stat -f -c %T "$v")"
        for ((i = 0; i < SETS / 2; i++)); do
                make_set "$tree" "$v"
                numbers
                expect_equal "$FIRST" "$SECOND" "the two databases"
                expect_range "$FIRST" "$LAST" "$MOST"
        done
        goes_on || die "$mode: the program does not go on"
        stop_process "$WRITER_PID"
        n=$(apart 20)
        note "$mode: a control: without the writer $n of 20 sets have two numbers; $(acknowledged) transactions"
        [ "$n" -gt 0 ] || die "$mode: without the writer nothing is found"
        stop_process "$LOAD_PID"
done
