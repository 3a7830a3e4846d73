#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Providers and copies: which provider is taken, mixed sets, the steps of a commit, aborts, what a copy says about itself,
# how it is listed, mounted and deleted, and that it survives the service.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs
watchdog 400

new_fs plain ext4 32M
new_fs tree btrfs 256M
btrfs subvolume create "$tree/a" >/dev/null
btrfs subvolume create "$tree/b" >/dev/null
echo one >"$tree/a/file"

case_the_most_native_provider_is_taken() {
        create "$tree"
        expect_equal btrfs "$(set_field '.snapshots[0].provider')" "provider of a btrfs"
        refuse 10 "$plain"
        delete_all
}

case_a_named_provider_or_none() {
        create --provider=null "$tree"
        expect_equal null "$(set_field '.snapshots[0].provider')" "provider that was named"
        refuse 4 --provider=unheard-of "$tree"
        refuse 10 --provider=btrfs "$plain"
        delete_all
}

case_a_provider_that_cannot_revert_says_so() {
        local id
        create "$tree"
        id=$(set_field '.snapshots[0].id')
        for dry in "" --dry-run; do
                # shellcheck disable=SC2086
                expect_exit 10 vssctl revert $dry "$id" 2>"$VSS_TEST_DIR/err"
                grep -q "provider btrfs cannot revert" "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        done
        expect_exit 4 vssctl revert 01234567
        vssctl --json show "$id" >/dev/null || die "the copy has gone"
        delete_all
}

case_providers_are_listed_with_what_they_can() {
        vssctl --json providers >"$VSS_TEST_DIR/providers.json"
        for p in btrfs null; do
                jq -e --arg p $p '.providers[] | select(.name == $p) | .version and .kind' "$VSS_TEST_DIR/providers.json" >/dev/null || die "no $p"
        done
        vssctl providers | grep -q btrfs || die "the list for people lacks btrfs"
}

case_volumes_say_whether_they_can_be_taken() {
        vssctl --json volumes >"$VSS_TEST_DIR/volumes.json"
        for v in "$tree" "$plain"; do
                jq -e --arg v "$v" '.volumes[] | select(.mountpoint == $v)' "$VSS_TEST_DIR/volumes.json" >/dev/null || die "$v is not listed"
        done
        vssctl --json show "$tree" >/dev/null || die "a volume cannot be shown"
}

case_one_set_mixes_providers() {
        mkdir -p "$VSS_TEST_DIR/plan"
        vssctl --json plan "$tree" >"$VSS_TEST_DIR/plan.json" || die "plan failed"
        bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager CreateSet 'a(sa{sv})a{sv}' 2 \
                "$tree" 1 provider s btrfs "$plain" 1 provider s null \
                2 lifetime s persistent session s detached >"$VSS_TEST_DIR/mixed" || die "a mixed set is refused"
        local set state
        set=$(awk '{gsub(/"/, ""); print $2}' "$VSS_TEST_DIR/mixed")
        done_with() { state=$(vssctl --json show "$set" | jq -r .state) && [[ $state == created || $state == aborted ]]; }
        wait_until 20 done_with
        vssctl --json show "$set" >"$VSS_TEST_DIR/show.json"
        expect_equal created "$(jq -r .state "$VSS_TEST_DIR/show.json")" "state: $(jq -c .error "$VSS_TEST_DIR/show.json")"
        expect_equal "btrfs null" "$(jq -r '[.snapshots[].provider] | sort | join(" ")' "$VSS_TEST_DIR/show.json")" "providers"
        delete_all
}

case_commit_goes_in_fixed_steps() {
        create "$tree"
        vssctl --json show "$SET" >"$VSS_TEST_DIR/show.json"
        expect_equal "begin-prepare end-prepare pre-commit commit post-commit pre-final post-final" \
                "$(jq -r '[.record.phases[][0] | select(IN("begin-prepare", "end-prepare", "pre-commit", "commit", "post-commit", "pre-final", "post-final"))] | join(" ")' \
                        "$VSS_TEST_DIR/show.json")" "order of the steps"
        delete_all
}

case_abort_follows_a_failure_of_any_step() {
        local step
        for step in begin_prepare end_prepare pre_commit commit post_commit pre_final post_final; do
                VSS_FAULT=$step:fail:1 start_vssd
                status=0
                vssctl --json create --provider=fault:btrfs "$tree" >"$VSS_TEST_DIR/out" 2>&1 || status=$?
                case $status in 1 | 5 | 7) ;; *) die "a failing $step ended with $status: $(cat "$VSS_TEST_DIR/out")" ;; esac
                no_snapshots "after a failing $step"
                expect_equal 0 "$(btrfs subvolume list -s "$tree" | wc -l)" "btrfs snapshots after a failing $step"
                create --provider=fault:btrfs "$tree"
                delete_all
                stop_vssd
        done
}

case_attributes_stay_readable() {
        create --label=purpose=nightly --label=alias=last "$tree"
        vssctl --json show "$SET" >"$VSS_TEST_DIR/show.json"
        expect_equal persistent "$(json .lifetime <"$VSS_TEST_DIR/show.json")" "lifetime"
        expect_equal nightly "$(json .labels.purpose <"$VSS_TEST_DIR/show.json")" "label"
        expect_equal "$SET" "$(vssctl --json show last | json .set)" "what the alias names"
        delete_all
}

case_persistent_copies_survive_the_service() {
        start_vssd
        create --no-writers "$tree/a"
        local id path
        id=$(set_field '.snapshots[0].id')
        stop_vssd
        start_vssd
        expect_equal "$id" "$(vssctl --json snapshots | json '.snapshots[0].id')" "snapshot after a restart"
        kill -KILL "$VSSD_PID"
        start_vssd
        expect_equal "$id" "$(vssctl --json snapshots | json '.snapshots[0].id')" "snapshot after SIGKILL"
        path=$(vssctl --json mount "$id" | json .path)
        expect_equal one "$(cat "$path/file")" "content after two restarts"
        expect_exit 0 vssctl umount "$id" >/dev/null
        delete_all
        stop_vssd
        start_vssd
        no_snapshots "after delete and restart"
        stop_vssd
}

case_lists_filter_exactly() {
        create "$tree/a"
        local a=$SET
        create "$tree/b"
        expect_equal "$a" "$(vssctl --json snapshots --volume="$tree/a" | jq -r '.snapshots[].set')" "snapshots of one volume"
        expect_equal 2 "$(vssctl --json snapshots | jq '.snapshots | length')" "all snapshots"
        expect_equal 2 "$(vssctl --json sets | jq '[.sets[] | select(.state == "created")] | length')" "sets"
        delete_all
}

case_a_copy_says_what_it_is() {
        create "$tree/a"
        local id key
        id=$(set_field '.snapshots[0].id')
        vssctl --json show "$id" >"$VSS_TEST_DIR/show.json"
        for key in id set volume mountpoint provider consistency created state; do
                json ".$key" <"$VSS_TEST_DIR/show.json" >/dev/null || die "no $key in $(cat "$VSS_TEST_DIR/show.json")"
        done
        expect_equal "$id" "$(vssctl --json show "${id:0:8}" | json .id)" "what a prefix names"
        expect_exit 4 vssctl show "${id:0:3}" 2>/dev/null
        delete_all
}

case_progress_is_shown_live() {
        timeout 20 "$VSS_BUILD/client/vssctl" --json monitor >"$VSS_TEST_DIR/monitor.out" 2>/dev/null &
        local pid=$!
        cleanup_fn stop_process $pid
        sleep 0.5
        testwriter --name=slow --volume="$tree" --late=prepare-snapshot:600
        create "$tree"
        seen() { grep -q "$SET" "$VSS_TEST_DIR/monitor.out" && grep -q created "$VSS_TEST_DIR/monitor.out"; }
        wait_until 5 seen || die "monitor shows nothing of the set: $(cat "$VSS_TEST_DIR/monitor.out")"
        grep -q prepare-snapshot "$VSS_TEST_DIR/monitor.out" || die "monitor shows no phase"
        delete_all
}

case_delete_in_every_form() {
        local ids=() i
        for i in 1 2 3; do
                create "$tree/a"
                ids+=("$(set_field '.snapshots[0].id')")
        done
        expect_exit 0 vssctl delete --volume="$tree/a" --oldest >/dev/null
        vssctl --json snapshots | grep -q "${ids[0]}" && die "the oldest is still there"
        expect_exit 0 vssctl delete "${ids[2]}" >/dev/null
        expect_equal "${ids[1]}" "$(vssctl --json snapshots | json '.snapshots[].id')" "what is left"
        expect_exit 4 vssctl delete 00000000-0000-0000-0000-000000000000 2>/dev/null
        vssctl --json mount "${ids[1]}" >"$VSS_TEST_DIR/mount.json"
        expect_exit 8 vssctl delete "${ids[1]}" 2>/dev/null
        expect_exit 0 vssctl delete --force "${ids[1]}" >/dev/null
        create "$tree/a"
        create "$tree/b"
        expect_exit 0 vssctl delete --volume="$tree/a" --all >/dev/null
        expect_equal "$SET" "$(vssctl --json snapshots | json '.snapshots[].set')" "what is left of two volumes"
        expect_exit 0 vssctl delete "$SET" >/dev/null
        no_snapshots "after every delete"
        expect_equal 0 "$(btrfs subvolume list -s "$tree" | wc -l)" "btrfs snapshots left"
}

case_mounted_read_only_and_unmounted() {
        create "$tree/a"
        local id dir=$VSS_TEST_DIR/exposed path
        id=$(set_field '.snapshots[0].id')
        expect_exit 0 vssctl mount "$id" "$dir" >/dev/null
        expect_equal one "$(cat "$dir/file")" "content"
        (: >"$dir/new") 2>/dev/null && die "the copy can be written"
        (cd "$dir" && exec sleep 30) &
        local busy=$!
        sleep 0.2
        expect_exit 8 vssctl umount "$id" 2>/dev/null
        kill $busy && wait $busy || :
        expect_exit 0 vssctl umount "$id" >/dev/null
        mountpoint -q "$dir" && die "still mounted"
        path=$(vssctl --json mount "$id" | json .path)
        mountpoint -q "$path" || die "$path is no mount point"
        expect_exit 0 vssctl umount "$id" >/dev/null
        expect_equal "$id" "$(vssctl --json snapshots | json '.snapshots[].id')" "the copy after umount"
        delete_all
}

start_bus
start_vssd
cases the_most_native_provider_is_taken a_named_provider_or_none a_provider_that_cannot_revert_says_so providers_are_listed_with_what_they_can \
        volumes_say_whether_they_can_be_taken one_set_mixes_providers commit_goes_in_fixed_steps attributes_stay_readable \
        lists_filter_exactly a_copy_says_what_it_is progress_is_shown_live delete_in_every_form mounted_read_only_and_unmounted

note "what was mounted when its set was stored last, and is not any more, is not mounted for the next service either"
create "$tree/a"
vssctl --json mount "$SET" >/dev/null
expect_exit 8 vssctl delete "$SET" 2>/dev/null
expect_exit 0 vssctl umount "$SET" >/dev/null
stop_vssd
start_vssd
expect_equal 0 "$(vssctl --json snapshots | jq '[.snapshots[].mounts[]] | length')" "mounts"
expect_exit 0 vssctl delete "$SET" >/dev/null
stop_vssd
cases abort_follows_a_failure_of_any_step persistent_copies_survive_the_service
