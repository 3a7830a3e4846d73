#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One account that asks too much at once, over as many connections as it likes: what everybody may do is bounded per account,
# and what it takes is not taken from those whose set it is.
. "$(dirname "$0")/functions.sh"
requires busctl jq setpriv mkfs.btrfs
watchdog 100

new_fs data btrfs 200M
start_bus
start_vssd

# crowd N ARGUMENTS…: N calls of uid nobody at once; what each heard is in $VSS_TEST_DIR/crowd/
crowd() {
        local n=$1
        shift
        rm -rf "$VSS_TEST_DIR/crowd"
        mkdir "$VSS_TEST_DIR/crowd"
        pids=()
        for ((i = 0; i < n; i++)); do
                (become nobody busctl --timeout=60 call org.vssd.Vss1 "$@") >"$VSS_TEST_DIR/crowd/$i" 2>&1 &
                pids+=($!)
                cleanup_fn stop_process "${pids[i]}"
        done
}
refusals() { grep -l 'already' "$VSS_TEST_DIR"/crowd/* 2>/dev/null | wc -l; }
have_refusals() { [ "$(refusals)" -eq "$1" ]; }
disperse() {
        kill "${pids[@]}" 2>/dev/null || :
        wait "${pids[@]}" 2>/dev/null || :
}

note "writers are not kept from answering to others"
testwriter --volume="$data" --hang=identify
writer=/org/vssd/Vss1/writers/$(vssctl --json writers | json '.writers[0].name')/_
crowd 10 "$writer" org.vssd.Vss1.WriterEntry GetMetadata 'a{sv}' 1 refresh b true
wait_until 10 have_refusals 6 || die "$(refusals) of 10 questions to one writer were refused"
disperse
stop_process "$WRITER_PID"
testwriter --volume="$data" --hang=identify
crowd 10 /org/vssd/Vss1 org.vssd.Vss1.Manager Plan 'a(sa{sv})a{sv}' 1 "$data" 0 0
wait_until 10 have_refusals 6 || die "$(refusals) of 10 plans were refused"
disperse
stop_process "$WRITER_PID"

note "the last places to wait for a set are its requester's and root's"
testwriter --volume="$data" --hang=prepare-backup
vssctl --json create "$data" >"$VSS_TEST_DIR/create.json" 2>/dev/null &
creator=$!
cleanup_fn stop_process $creator
running() { id=$(vssctl --json sets | jq -er '.sets[] | select(.state == "running") | .id // .set'); }
wait_until 10 running
set_path=$(bus_call --json=short org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager LookupId 'sa{sv}' "$id" 0 | jq -r '.data[1]')
crowd 60 "$set_path" org.vssd.Vss1.SnapshotSet Wait 'a{sv}' 0
# 13, and one more for each question of before that a slow vssd has not dropped yet
enough_refusals() { [ "$(refusals)" -ge 13 ] && [ "$(refusals)" -le 20 ]; }
wait_until 20 enough_refusals || die "$(refusals) of 60 strangers were refused"
(sleep 1 && vssctl cancel "$id") >/dev/null 2>&1 &
busctl --timeout=20 call org.vssd.Vss1 "$set_path" org.vssd.Vss1.SnapshotSet Wait 'a{sv}' 0 | grep -q aborted || die "root cannot wait"
wait $! || :
wait "${pids[@]}" || :

note "a call of any size is not kept"
big=$(head -c 3900 /dev/zero | tr '\0' x)
arguments=()
for ((i = 0; i < 300; i++)); do arguments+=("$big"); done
if bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Plan 'a(sa{sv})a{sv}' 1 "$data" 0 \
        1 freeze_units as ${#arguments[@]} "${arguments[@]}" >"$VSS_TEST_DIR/big" 2>&1; then
        die "a list of more than a mebibyte is taken"
fi
grep -q 'larger than 1048576 bytes' "$VSS_TEST_DIR/big" || die "not said: $(head -c 500 "$VSS_TEST_DIR/big")"
half=("${arguments[@]:0:150}")
if bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Plan 'a(sa{sv})a{sv}' 1 "$data" 0 \
        2 freeze_units as 150 "${half[@]}" writer_options as 150 "${half[@]}" >"$VSS_TEST_DIR/big" 2>&1; then
        die "lists of more than a mebibyte are taken"
fi
grep -q 'more than 1048576 bytes' "$VSS_TEST_DIR/big" || die "not said: $(head -c 500 "$VSS_TEST_DIR/big")"
