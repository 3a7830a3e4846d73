# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Sourced after functions.sh and fake-vssd.sh by the tests of the writers of database servers: a load that notes what it has begun
# and what was acknowledged to it, volumes for the servers' files, and sets of them as a backup program takes them.

# Where the load notes both, ten digits each: first what it has begun, last what was acknowledged.
counts=$VSS_TEST_DIR/counts
begun() { head -c 10 "$counts" | sed 's/^0*//; s/^$/0/'; }
acknowledged() { tail -c 10 "$counts" | sed 's/^0*//; s/^$/0/'; }
# start_load PROGRAM ARGUMENT…: tests/PROGRAM, which keeps $counts, until some of it has been acknowledged; LOAD_PID
start_load() {
        rm -f "$counts"
        /usr/bin/python3 "$VSS_SOURCE/tests/$1" "${@:2}" 2>"$VSS_TEST_DIR/log/load.log" &
        LOAD_PID=$!
        cleanup_fn stop_process $LOAD_PID
        wait_until 20 eval '[ -s "$counts" ] && [ "$(acknowledged)" -gt 10 ]' || die "the load does not run: $(tail -3 "$VSS_TEST_DIR/log/load.log")"
}
stands_still() {
        local n
        n=$(acknowledged)
        sleep 0.2
        [ "$n" = "$(acknowledged)" ]
}
goes_on() {
        local n
        n=$(acknowledged)
        wait_until 5 eval "[ \"\$(acknowledged)\" -gt $n ]"
}
# expect_range N LEAST MOST: the last transaction of a copy is neither older nor newer than it may be
expect_range() {
        [ "$1" -ge "$2" ] || die "$2 were acknowledged, the copy has $1"
        [ "$1" -le "$3" ] || die "$3 had begun, the copy has $1"
}
# document WRITER: what it last said of itself
document() { grep "^document $1 " "$FAKE_LOG" | tail -1 | cut -d' ' -f3-; }

# server_home VAR USER: a directory that the server's account may enter and write
server_home() {
        local path=$VSS_TEST_DIR/home
        mkdir "$path"
        chown "$2" "$path"
        chmod 755 "$VSS_TEST_DIR" "$path"
        printf -v "$1" %s "$path"
}
# engine_volume VAR SIZE STORE-MAX: an ext4 on the engine, in $area, mounted; VAR becomes the mount point. Needs vssd
engine_volume() {
        local path=$VSS_TEST_DIR/v
        truncate -s "$2" "$area/v.img"
        expect_exit 0 vssctl volume create v --origin="$area/v.img" --store="$area/store" --store-max="$3"
        mkfs.ext4 -q "$RUNTIME_DIRECTORY/dev/v"
        mkdir "$path"
        mount "$RUNTIME_DIRECTORY/dev/v" "$path"
        cleanup_fn umount "$path"
        printf -v "$1" %s "$path"
}

# make_set VOLUME…: as a backup program does; SET_ID, LAST acknowledged before it, MOST begun until it was there
make_set() {
        LAST=$(acknowledged)
        vssctl --json create --require=application --manifest="$VSS_TEST_DIR/manifest" "$@" >"$VSS_TEST_DIR/set.json" ||
                die "create failed: $(cat "$VSS_TEST_DIR/set.json")"
        MOST=$(begun)
        SET_ID=$(json .set <"$VSS_TEST_DIR/set.json")
}
# mount_copy VOLUME: prints where its copy in the set is mounted
mount_copy() {
        vssctl --json mount "$(jq -er --arg v "$1" '.snapshots[] | select(.volume == $v).id' <"$VSS_TEST_DIR/set.json")" | json .path
}
# manifest_metadata COMPONENT: what its writer said of it
manifest_metadata() {
        jq -er --arg c "$1" '[.. | objects | select(.path? == $c) | .metadata? // empty] | first' <"$VSS_TEST_DIR/manifest" ||
                die "the manifest says nothing of $1: $(cat "$VSS_TEST_DIR/manifest")"
}
delete_set() { vssctl delete --force "$SET_ID" >/dev/null 2>"$VSS_TEST_DIR/deleted" || die "delete failed: $(cat "$VSS_TEST_DIR/deleted")"; }
