#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Restores that wait for the next start of the machine: staged beside the files, listed, cancelled, and swapped by the program of
# the boot, which is killed at every step, on file systems that exchange names and on others; what fails leaves all as it was.
VSS_TEST_SECONDS=170
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
. "$(dirname "$0")/restore-plans.sh"
requires mkfs.ext4 jq chattr strace

new_fs data ext4 64M
old="changed one,changed two,changed three,changed deep/four,was added" new="one,two,three,deep,gone"
contents() { expect_equal "$1" "$(cat "$data"/a/{one,two,three,deep/four,fresh/six} 2>/dev/null | paste -sd,)" "files"; }
# All or nothing, and nothing beside.
all_old() { contents "${old%,was added}" && expect_equal "" "$(find "$data" -name '.vss-restore-*')" "files beside their places"; }
all_new() { contents "one,two,three,deep,six" && expect_equal "" "$(find "$data" -name '.vss-restore-*')" "files beside their places"; }
plan_files() { find "$STATE_DIRECTORY/restore" -name '*.plan'; }

# begin RESTORE: files, a backup of them in saved, a writer, a manifest in M; then all is changed
begin() {
        M=$VSS_TEST_DIR/manifest
        cat >"$VSS_TEST_DIR/doc" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"shop"},"backup_schema":["new-target"],"restore":$1,
		 "components":[{"path":"all","type":"${TYPE:-file-group}","selectable":true,"files":[{"root":"$data/a","pattern":"*","recursive":true}]}]}
	DOCUMENT
        rm -rf "${data:?}"/* "$VSS_TEST_DIR/saved"
        mkdir -p "$data/a/deep" "$data/a/fresh" "$VSS_TEST_DIR/saved$data"
        for f in one two three; do echo $f >"$data/a/$f"; done
        echo deep >"$data/a/deep/four"
        echo six >"$data/a/fresh/six"
        chmod 750 "$data/a/fresh"
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say "${@:2}"
        create --provider=null --manifest="$M" --component=shop:all "$data"
        cp -a "$data/." "$VSS_TEST_DIR/saved$data"
        change
}
change() {
        for f in one two three deep/four; do echo "changed $f" >"$data/a/$f"; done
        rm -rf "$data/a/fresh"
}
# stage: PLAN is its id
stage() {
        DOC=$VSS_TEST_DIR/restored.json
        vssctl --json restore "$M" --from="$VSS_TEST_DIR/saved" "$@" >"$DOC" || die "restore: $(cat "$DOC")"
        PLAN=$(jq -er '.components[0].plan' "$DOC") || die "there is no plan: $(cat "$DOC")"
}

case_it_is_staged_listed_and_cancelled() {
        begin '{"method":"at-reboot"}'
        vssctl restore "$M" --from="$VSS_TEST_DIR/saved" --dry-run >/dev/null
        expect_equal "" "$(plans .id)" "plans after --dry-run"
        stage
        contents "${old%,was added}"
        expect_equal none "$(jq -r '.components[0].status' "$DOC")" "status"
        grep -q 'told shop post-restore all status none' "$WRITER_LOG" || die "the writer does not know: $(grep post-restore "$WRITER_LOG")"
        expect_equal "$PLAN staged shop all 5" "$(plans '.id, .state, .writer, .path, .n_files')" "plans"
        expect_equal 600 "$(stat -c %a "$(plan_files)")" "mode of the plan"
        vssctl restore "$M" --from="$VSS_TEST_DIR/saved" >/dev/null 2>"$VSS_TEST_DIR/err" && die "a second plan for the same component"
        grep -q "restore --cancel=$PLAN" "$VSS_TEST_DIR/err" || die "it does not say what to do: $(cat "$VSS_TEST_DIR/err")"
        expect_exit 2 vssctl restore --pending "$M"
        expect_exit 2 vssctl restore
        expect_exit 4 vssctl restore --cancel=nothing
        expect_exit 4 vssctl restore --cancel="00000000-0000-4000-8000-000000000000"
        vssctl restore --cancel="$PLAN" --dry-run
        expect_equal "$PLAN" "$(plans .id)" "plans after --cancel --dry-run"
        expect_exit 0 vssctl restore --cancel="$PLAN"
        all_old
        expect_equal "" "$(ls "$STATE_DIRECTORY/restore")" "what is left of the plan"
        boot
        all_old
        delete_all
}

case_the_boot_swaps_all_of_it() {
        begin '{"method":"at-reboot"}'
        stage
        expect_equal "shop:all: 5 files are restored (plan $PLAN)" "$(boot)" "what the boot says"
        all_new
        expect_equal 750 "$(stat -c %a "$data/a/fresh")" "mode of the directory"
        expect_equal "done 5 null" "$(plans '.state, (.n_files | tostring), (.message | tostring)')" "plans"
        change
        boot
        contents "${old%,was added}"
        cancel_all
        rm -rf "$data/a/fresh"
        stop_process "$WRITER_PID"
        begin '{"method":"at-reboot-if-busy"}'
        expect_exit 0 vssctl restore "$M" --from="$VSS_TEST_DIR/saved"
        all_new
        change
        exec 9<"$data/a/two"
        stage
        contents "${old%,was added}"
        exec 9<&-
        expect_exit 1 vssctl restore "$M" --from="$VSS_TEST_DIR/saved" # what waits would have the last word
        boot
        all_new
        cancel_all
        stop_process "$WRITER_PID"
        TYPE=database begin '{"method":"at-reboot"}'
        expect_exit 10 vssctl restore "$M" --from="$VSS_TEST_DIR/saved"
        stage --keep-extra
        boot
        all_new
        cancel_all
        delete_all
}

# killed_at CALL N STRACE-OPTION…: the program of the boot is killed in its Nth call of that; false: it has fewer
killed_at() {
        local got=0
        { in_next_boot strace -f -qq -o /dev/null -e trace=renameat2,"$1" -e inject="$1:signal=KILL:when=$2" "${@:3}" "$VSS_BUILD/client/vss-restore-at-boot" >/dev/null || got=$?; } 2>/dev/null
        [ $got -eq 137 ]
}

# at_each_step STRACE-OPTION…: whatever it is killed in, the next start ends it
at_each_step() {
        local n=1 call all=0
        for call in renameat unlinkat fsync syncfs renameat2; do
                [ $call != renameat2 ] || [ $# -eq 0 ] || continue
                for ((n = 1; n < 100; n++)); do
                        stage
                        killed_at $call $n "$@" || break
                        all=$((all + 1))
                        boot >/dev/null
                        all_new
                        cancel_all
                        change
                done
                all_new
                cancel_all
                change
        done
        note "killed in each of $all steps"
        [ $all -gt 15 ] || die "only $all steps"
}

case_it_is_not_this_start_of_the_machine() {
        begin '{"method":"at-reboot"}'
        stage
        "$VSS_BUILD/client/vss-restore-at-boot" | grep -q "plan $PLAN waits for another start: it was made in this one" || die "it did not wait"
        contents "${old%,was added}"
        expect_equal staged "$(plans .state)" "plans"
        boot
        all_new
        cancel_all
        delete_all
}

# cut_off CALL N: the program of the boot is killed there, and the machine goes on
cut_off() { killed_at "$1" "$2" || die "it was not killed in $1 $2"; }

case_a_swap_that_was_cut_off_waits_for_its_volume() {
        begin '{"method":"at-reboot"}'
        stage
        cut_off renameat2 4
        umount "$data"
        mkdir -p "$data/a/deep"
        expect_exit 0 boot >"$VSS_TEST_DIR/said"
        grep -q "plan $PLAN waits for another start" "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        expect_equal swapping "$(plans .state)" "state of a plan whose volume is not mounted"
        rm -r "${data:?}/a"
        mount -o loop "$data_img" "$data"
        boot >/dev/null
        all_new
        cancel_all
        delete_all
}

# All is in place and the plan cannot be written: the application starts, and what it writes is not put aside in the next start.
case_what_was_used_since_stays() {
        begin '{"method":"at-reboot"}'
        stage
        cut_off syncfs 1
        contents "one,two,three,deep,six"
        echo "used one" >"$data/a/new" && mv "$data/a/new" "$data/a/one"
        echo "used six" >"$data/a/new" && mv "$data/a/new" "$data/a/fresh/six"
        echo "used two" >"$data/a/two"
        boot >/dev/null
        contents "used one,used two,three,deep,used six"
        expect_equal "done" "$(plans .state)" "plans"
        expect_equal "" "$(find "$data" -name '.vss-restore-*')" "files beside their places"
        cancel_all
        delete_all
}

# What has the number of a file that was staged, but under the name of the place, came there after it was removed.
case_a_number_is_used_again() {
        local beside
        begin '{"method":"at-reboot"}'
        stage
        beside=$(find "$data/a" -name '.vss-restore-boot-*-one')
        echo "written since" >"$beside"
        mv "$beside" "$data/a/one"
        expect_exit 1 boot >/dev/null
        expect_equal failed "$(plans .state)" "plans"
        expect_equal "written since,changed two" "$(cat "$data"/a/{one,two} | paste -sd,)" "files"
        cancel_all
        delete_all
}

case_no_numbers_no_plan() {
        begin '{"method":"at-reboot"}'
        mount -t tmpfs tmpfs "$data/a/deep"
        echo "changed deep" >"$data/a/deep/four"
        expect_exit 10 vssctl restore "$M" --from="$VSS_TEST_DIR/saved"
        expect_equal "" "$(find "$data" -name '.vss-restore-*')$(plans .id)" "what is left"
        umount "$data/a/deep"
        change
        note "an account that is not there: nothing is touched"
        stage
        jq -c '.uid = 54321' "$(plan_files)" >"$VSS_TEST_DIR/plan" && cat "$VSS_TEST_DIR/plan" >"$(plan_files)"
        expect_exit 1 boot >/dev/null
        expect_equal failed "$(plans .state)" "plans"
        contents "${old%,was added}"
        cancel_all
        delete_all
}

case_it_is_killed_at_every_step() {
        begin '{"method":"at-reboot"}'
        at_each_step
        at_each_step -e inject=renameat2:error=EINVAL
        delete_all
}

case_what_fails_leaves_all_as_it_was() {
        local beside
        begin '{"method":"at-reboot"}'
        stage
        chattr +i "$data/a/two"
        expect_exit 1 boot >"$VSS_TEST_DIR/said"
        grep -q "plan $PLAN failed, all is as before: $data/a/two: Operation not permitted" "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        contents "${old%,was added}"
        expect_equal "failed 5" "$(plans '.state, .n_files')" "plans"
        boot || die "what failed is tried again"
        chattr -i "$data/a/two"
        cancel_all
        all_old
        stage
        # in the middle: that of the second file fails
        in_next_boot strace -f -qq -o /dev/null -e trace=renameat2 -e inject=renameat2:error=EIO:when=3 "$VSS_BUILD/client/vss-restore-at-boot" >"$VSS_TEST_DIR/said" && die "it did not fail"
        boot >/dev/null || :
        contents "${old%,was added}"
        expect_equal failed "$(plans .state)" "state of a plan that failed in the middle"
        cancel_all
        all_old
        note "a link on the way; a file that is gone; a volume that is not there"
        stage
        mv "$data/a/deep" "$VSS_TEST_DIR/deep"
        mkdir "$VSS_TEST_DIR/elsewhere"
        echo elsewhere >"$VSS_TEST_DIR/elsewhere/four"
        ln -s "$VSS_TEST_DIR/elsewhere" "$data/a/deep"
        expect_exit 1 boot >/dev/null
        expect_equal "elsewhere changed one" "$(cat "$VSS_TEST_DIR/elsewhere/four") $(cat "$data/a/one")" "what the link leads to"
        rm "$data/a/deep"
        mv "$VSS_TEST_DIR/deep" "$data/a/deep"
        cancel_all
        stage
        beside=$(find "$data/a" -name '.vss-restore-boot-*-one')
        mv "$beside" "$VSS_TEST_DIR/beside"
        expect_exit 1 boot >/dev/null
        contents "${old%,was added}"
        cancel_all
        stage
        mv "$data/a" "$data/b"
        expect_exit 1 boot >"$VSS_TEST_DIR/said"
        grep -q "plan $PLAN failed, all is as before: $data/a: nothing of what was staged is there; is it mounted?" "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        mv "$data/b" "$data/a"
        boot >/dev/null # what was written since is not replaced on some later day
        contents "${old%,was added}"
        cancel_all
        all_old
        delete_all
}

case_a_plan_is_roots_own() {
        local plan good
        begin '{"method":"at-reboot"}'
        stage
        plan=$(plan_files)
        good=$VSS_TEST_DIR/good
        cp "$plan" "$good"
        # refused WHAT: the boot goes on with exit status 1, and nothing has changed
        refused() {
                expect_exit 1 boot >"$VSS_TEST_DIR/said"
                contents "${old%,was added}"
                [ -s "$VSS_TEST_DIR/said" ] || die "$1 is not told"
        }
        chmod 644 "$plan"
        refused "a plan that others may read"
        chmod 600 "$plan"
        chown nobody "$plan"
        refused "somebody else's plan"
        chown root "$plan"
        ln "$plan" "$VSS_TEST_DIR/second"
        refused "a plan with two names"
        rm "$VSS_TEST_DIR/second"
        mv "$plan" "$VSS_TEST_DIR/moved"
        ln -s "$VSS_TEST_DIR/moved" "$plan"
        refused "a link"
        rm "$plan"
        cp "$good" "$plan"
        for change in '.files[0].path = "../one"' '.files[0].path = "/etc/passwd"' '.files[0].path = ""' '.files[0].staged = "one"' \
                '.files[0].staged = ".vss-restore-boot-/../x"' '.files[0].aside = "two"' '.files[0].set = 7' '.roots[0] = "a"' '.roots[0] = "/srv/../etc"' \
                '.directories[0].set = 1' '.directories[0].mode = 65535' '.state = "other"' '.uid = -1' '.more = 1' '.files = {}' '.kind = "manifest"'; do
                jq -c "$change" "$good" >"$plan"
                refused "$change"
        done
        head -c 200 "$good" >"$plan"
        refused "half a plan"
        : >"$plan"
        refused "nothing"
        cp "$good" "$plan"
        chmod 777 "$STATE_DIRECTORY/restore"
        refused "a directory that others may write to"
        expect_exit 3 vssctl restore --pending
        chmod 700 "$STATE_DIRECTORY/restore"
        expect_exit 2 "$VSS_BUILD/client/vss-restore-at-boot" --now
        boot >/dev/null
        all_new
        cancel_all
        delete_all
}

start_bus
start_vssd
cases it_is_staged_listed_and_cancelled the_boot_swaps_all_of_it it_is_not_this_start_of_the_machine a_swap_that_was_cut_off_waits_for_its_volume \
        what_was_used_since_stays a_number_is_used_again no_numbers_no_plan it_is_killed_at_every_step what_fails_leaves_all_as_it_was a_plan_is_roots_own
