#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl restore that is killed while files change places, at every step of it, on file systems that exchange names and on others:
# the next start of the machine, or --cancel, leaves all files old or all of them new, and nothing beside them.
VSS_TEST_SECONDS=280
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
. "$(dirname "$0")/restore-plans.sh"
requires mkfs.ext4 jq chattr strace python3

new_fs data ext4 64M
files() { (cd "$data/a" && find . -mindepth 1 \( -type d -printf '%P/ ' -o -type l -printf '%P->%l ' -o -name '.vss-restore-*' -printf 'BESIDE ' -o -type f -printf '%P=' -exec head -c 8 {} \; -printf ' ' \) | xargs -n1 | sort | paste -sd' '); }
old="added=changed deep/ deep/four=changed late/ late/deep/ late/deep/segment=changed link->changed one=changed two=changed"
new="deep/ deep/four=saved fresh/ fresh/six=saved link->saved one=saved two=saved"
now() { expect_equal "$1" "$(files)" "files $2"; }

# begin: a database's directory, a backup of it in saved, a writer, a manifest in M; then all is changed
begin() {
        M=$VSS_TEST_DIR/manifest
        cat >"$VSS_TEST_DIR/doc" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"shop"},"backup_schema":["new-target"],"restore":${RESTORE:-null},
		 "components":[{"path":"all","type":"${TYPE:-database}","selectable":true,"files":[{"root":"$data/a","pattern":"*","recursive":true}${FILES:-}]}]}
	DOCUMENT
        rm -rf "${data:?}"/* "$VSS_TEST_DIR/saved"
        mkdir -p "$data/a/deep" "$data/a/fresh" "$VSS_TEST_DIR/saved$data"
        for f in one two deep/four fresh/six; do echo saved >"$data/a/$f"; done
        ln -s saved "$data/a/link"
        chmod 750 "$data/a/fresh"
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say
        create --provider=null --manifest="$M" --component=shop:all "$data"
        cp -a "$data/." "$VSS_TEST_DIR/saved$data"
        change
}
change() {
        rm -rf "${data:?}"/a/* "${data:?}"/a/.vss-*
        mkdir -p "$data/a/deep" "$data/a/late/deep"
        for f in one two deep/four late/deep/segment added; do echo changed >"$data/a/$f"; done
        ln -s changed "$data/a/link"
}
restore() { "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" "$@"; }
# killed_at CALL N STRACE-OPTION…: vssctl restore is killed in its Nth call of that; false: it has fewer
killed_at() {
        local got=0
        { strace -f -qq -o /dev/null -e "trace=renameat2,$1" -e "inject=$1:signal=KILL:when=$2" "${@:3}" "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --no-writers >"$VSS_TEST_DIR/out" 2>&1 || got=$?; } 2>/dev/null
        [ $got -eq 137 ]
}
# cut_in_swap: killed when two of the files have changed places
cut_in_swap() {
        killed_at renameat2 6 || die "it was not killed: $(cat "$VSS_TEST_DIR/out")"
        PLAN=$(plans .id)
        expect_equal "replacing shop all false" "$(plans '.state, .writer, .path, (.running | tostring)')" "plans"
}

# at_each_step END STRACE-OPTION…: END is what comes after the kill
at_each_step() {
        local n call got states=' '
        for call in renameat unlinkat unlink fsync syncfs renameat2; do
                [ $call != renameat2 ] || [ $# -eq 1 ] || continue
                for ((n = 1; n < 100; n++)); do
                        change
                        killed_at $call $n "${@:2}" || break
                        got=$(plans .state) states+="${got:-none} "
                        if [ -z "$got" ]; then # a run that was killed leaves what is new, and the next removes it
                                rm -f "$data"/a/{,deep/,fresh/}.vss-restore-new-*
                                [ ! -d "$data/a/fresh" ] || rmdir "$data/a/fresh" 2>/dev/null || :
                        fi
                        "$1" >"$VSS_TEST_DIR/said" || die "$1 failed after $got in $call $n: $(cat "$VSS_TEST_DIR/said")"
                        case "$got $(files)" in
                        "replacing $old" | "replaced $new" | " $old" | " $new") ;;
                        *) die "after $call $n, ${got:-no plan} and $1 these are the files: $(files)" ;;
                        esac
                        [ "$got" != replaced ] || expect_equal 750 "$(stat -c %a "$data/a/fresh")" "mode of the directory"
                        cancel_all
                        restore --no-writers >/dev/null || die "the next restore failed after $call $n, $got"
                        now "$new" "after the next restore"
                        expect_equal "" "$(ls -A "$STATE_DIRECTORY/restore")" "what is left of plans"
                done
                now "$new" "after a run that was not killed in $call"
        done
        note "killed in $(wc -w <<<"$states") steps:$(xargs -n1 <<<"$states" | sort | uniq -c | xargs)"
        [[ $states = *" none "*" replacing "*" replaced "* ]] || die "states: $states"
}

case_the_next_start_undoes_or_ends_it() {
        begin
        at_each_step boot
        at_each_step boot -e inject=renameat2:error=EINVAL
        delete_all
}

case_cancel_undoes_or_ends_it() {
        begin
        at_each_step cancel_all
        at_each_step cancel_all -e inject=renameat2:error=EINVAL
        delete_all
}

# Two file sets that share files, by the same name and by another one
case_a_file_that_is_in_it_twice() {
        local n killed=0
        FILES=',{"root":"'"$data"'/a","pattern":"o*"},{"root":"'"$data"'/a/deep","pattern":"*"}' begin
        for ((n = 1; n < 40; n++)); do
                change
                killed_at renameat2 $n || break
                [ "$(plans .state)" = replacing ] || continue
                killed=$((killed + 1))
                boot >"$VSS_TEST_DIR/said" || die "after rename $n it says: $(cat "$VSS_TEST_DIR/said")"
                now "$old" "after a kill in rename $n"
                cancel_all
        done
        [ $killed -gt 10 ] || die "only $killed steps"
        cancel_all
        now "$new" "after a run that was not killed"
        delete_all
}

case_until_then_nothing_else_replaces_it() {
        local option
        begin
        cut_in_swap
        plans .message | grep -q 'cut off while files changed places' || die "message: $(plans .message)"
        expect_exit 1 restore 2>"$VSS_TEST_DIR/err"
        grep -q "restore --cancel=$PLAN" "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        # as if it were that of another component with the same files
        sed -i 's/"component": *"all"/"component":"whole"/' "$STATE_DIRECTORY/restore/$PLAN.plan"
        expect_equal whole "$(plans .path)" "the component of the plan"
        for option in '' --no-writers; do
                expect_exit 1 restore ${option:+$option} 2>"$VSS_TEST_DIR/err"
                grep -q "a restore of whole to there was cut off .*restore --cancel=$PLAN" "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        done
        sed -i 's/"component":"whole"/"component":"all"/' "$STATE_DIRECTORY/restore/$PLAN.plan"
        "$VSS_BUILD/client/vss-restore-at-boot" | grep -q "plan $PLAN waits for another start" || die "it was undone in the same start"
        exec 9<"$data/a/two"
        expect_exit 8 vssctl restore --cancel="$PLAN" 2>"$VSS_TEST_DIR/err"
        grep -q "$data/a/two: it is in use" "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        exec 9<&-
        mkdir "$VSS_TEST_DIR/elsewhere"
        mount --move "$data" "$VSS_TEST_DIR/elsewhere"
        mkdir -p "$data/a/deep"
        expect_exit 1 vssctl restore --cancel="$PLAN" 2>"$VSS_TEST_DIR/err"
        grep -q "$data/a: nothing of what was staged is there; is it mounted?" "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        boot >"$VSS_TEST_DIR/said" || die "a volume that is not there: $(cat "$VSS_TEST_DIR/said")"
        expect_equal replacing "$(plans .state)" "plans"
        rm -r "${data:?}/a"
        mount --move "$VSS_TEST_DIR/elsewhere" "$data"
        boot >"$VSS_TEST_DIR/said"
        expect_equal "shop:all: plan $PLAN, a restore that was cut off: vssctl was cut off while files changed places: what was there is back" \
                "$(cat "$VSS_TEST_DIR/said")" "what the boot says"
        now "$old" "after the boot"
        expect_equal failed "$(plans .state)" "plans"
        restore >/dev/null
        now "$new" "after the next restore"
        cancel_all
        now "$new" "after --cancel of what is over"
        delete_all
}

# Somebody has started what uses them on the mixture: what it has written since does not go in a boot.
case_what_was_used_since_does_not_go_unasked() {
        local moved
        begin
        cut_in_swap
        moved=$(cd "$data/a" && { grep -lx saved one two deep/four fresh/six 2>/dev/null || :; } | head -1)
        echo "written since" >>"$data/a/$moved"
        expect_exit 1 boot >"$VSS_TEST_DIR/said"
        grep -q "$moved has been used since" "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        grep -q "written since" "$data/a/$moved" || die "it is gone"
        expect_equal replacing "$(plans .state)" "plans"
        vssctl restore --cancel="$PLAN"
        expect_equal "${old}" "$(files | sed 's/BESIDE //')" "files after --cancel"
        grep -q "written since" "$data/a"/.vss-restore-boot-* "$data"/a/*/.vss-restore-boot-* 2>/dev/null || die "what was written since is gone"
        change
        delete_all
}

# What would be put back is gone, or the plan is of another time than the files: what is in place stays.
case_what_cannot_come_back_is_not_taken_away() {
        local beside
        begin
        cut_in_swap
        beside=$(find "$data/a" -name '.vss-restore-boot-*' -type f -exec grep -lx changed {} + | head -1)
        rm "$beside"
        files >"$VSS_TEST_DIR/before"
        expect_exit 1 boot >"$VSS_TEST_DIR/said"
        grep -q "what was there before is gone; nothing was done" "$VSS_TEST_DIR/said" || die "it says: $(cat "$VSS_TEST_DIR/said")"
        expect_exit 1 vssctl restore --cancel="$PLAN" 2>"$VSS_TEST_DIR/err"
        grep -q "what was there before is gone" "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        now "$(cat "$VSS_TEST_DIR/before")" "after a boot and --cancel"
        rm "$STATE_DIRECTORY/restore/$PLAN.plan"
        change
        delete_all
}

case_another_place_is_another_restore() {
        local to=$data/look
        begin
        cut_in_swap
        restore --to="$to" >/dev/null || die "a restore to another place is refused"
        boot >/dev/null
        now "$old" "after the boot"
        cancel_all
        { strace -f -qq -o /dev/null -e trace=renameat2 -e inject=renameat2:signal=KILL:when=6 "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --to="$to" --keep-extra >/dev/null 2>&1 || :; } 2>/dev/null
        expect_equal replacing "$(plans .state)" "plans"
        expect_exit 1 restore --to="$to" --keep-extra
        restore >/dev/null || die "a restore to where it was is refused"
        cancel_all
        restore --to="$to" --keep-extra >/dev/null || die "after --cancel it is refused"
        delete_all
}

case_while_vssctl_lives_it_is_not_cancelled() {
        begin
        strace -f -qq -o /dev/null -e trace=syncfs -e inject=syncfs:delay_enter=4000000:when=2 "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --no-writers >"$VSS_TEST_DIR/out" 2>&1 &
        local pid=$!
        replaces() { [ "$(plans '.state, (.running | tostring), .message')" = "replacing true vssctl is at it" ]; }
        wait_until 10 replaces || die "plans: $(plans '.state, .running')"
        expect_exit 8 vssctl restore --cancel="$(plans .id)"
        wait $pid || die "restore: $(cat "$VSS_TEST_DIR/out")"
        now "$new" "after the restore"
        expect_equal "" "$(plans .id)" "plans"
        delete_all
}

# It is asked for while vssctl lives, and carried out when that has ended well: what is in place stays.
case_one_that_has_ended_meanwhile_is_not_taken_back() {
        local pid
        begin
        rm -rf "${data:?}"/a/*
        strace -f -qq -o /dev/null -e trace=syncfs -e inject=syncfs:delay_enter=2000000:when=2 "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --no-writers >"$VSS_TEST_DIR/out" 2>&1 &
        pid=$!
        replaces() { [ "$(plans .state)" = replacing ]; }
        wait_until 10 replaces || die "plans: $(plans .state)"
        # the second flock asks whether vssctl lives
        ! strace -qq -o /dev/null -e trace=flock -e inject=flock:delay_enter=4000000:when=2 "$VSS_BUILD/client/vssctl" restore --cancel="$(plans .id)" >"$VSS_TEST_DIR/err" 2>&1 || die "it is cancelled"
        wait $pid || die "restore: $(cat "$VSS_TEST_DIR/out")"
        now "$new" "after the restore and a --cancel that was too late"
        change
        delete_all
}

# Two at once would leave of some files what one restores, of others what the other does.
case_two_at_once_are_refused() {
        local pid
        begin
        strace -f -qq -o /dev/null -e trace=syncfs -e inject=syncfs:delay_enter=3000000:when=2 "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --no-writers >"$VSS_TEST_DIR/out" 2>&1 &
        pid=$!
        replaces() { [ "$(plans .state)" = replacing ]; }
        wait_until 10 replaces || die "plans: $(plans .state)"
        expect_exit 8 restore --no-writers 2>"$VSS_TEST_DIR/err"
        grep -q 'another restore of it changes files now' "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        wait $pid || die "restore: $(cat "$VSS_TEST_DIR/out")"
        now "$new" "after the first"
        # one that is cut off while the other stages
        change
        strace -f -qq -o /dev/null -e trace=syncfs -e inject=syncfs:delay_enter=3000000:when=1 "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --no-writers >"$VSS_TEST_DIR/out2" 2>&1 &
        pid=$!
        stages() { compgen -G "$data/a/.vss-restore-new-*" >/dev/null; }
        wait_until 10 stages || die "the second does not stage"
        cut_in_swap
        ! wait $pid || die "a second restore over one that was cut off"
        grep -q "restore --cancel=$PLAN" "$VSS_TEST_DIR/out2" || die "it says: $(cat "$VSS_TEST_DIR/out2")"
        cancel_all
        rmdir "$data/a/fresh" 2>/dev/null || : # the second had made it, and could not remove it while the first used it
        now "$old" "after --cancel of the first"
        delete_all
}

# The plan goes only when what is on volumes below is on the disk as well: the image is what a power cut leaves.
case_a_volume_below_is_on_the_disk_too() {
        local n cut
        begin
        new_fs below ext4 16M commit=300
        mkdir "$VSS_TEST_DIR/cut"
        for ((n = 1; n < 12; n++)); do
                change
                mount --bind "$below" "$data/a/deep"
                rm -f "$below"/.vss-* # of the kill before
                echo changed >"$below/four"
                sync -f "$below"
                cut=yes
                killed_at unlinkat $n || cut=
                cp "$below_img" "$VSS_TEST_DIR/cut.img"
                umount "$data/a/deep"
                [ -n "$cut" ] || break
                [ "$(plans .state)" != replaced ] || break
                rm -f "$STATE_DIRECTORY"/restore/*.plan
        done
        expect_equal replaced "$(plans .state)" "plans after a kill in unlinkat $n"
        # what was there on it is removed when it is mounted, and the plan stays until then
        boot >"$VSS_TEST_DIR/said" || die "a volume below that is not there: $(cat "$VSS_TEST_DIR/said")"
        expect_equal replaced "$(plans .state)" "plans after a boot without the volume below"
        mount --bind "$below" "$data/a/deep"
        boot >"$VSS_TEST_DIR/said"
        expect_equal "" "$(plans .id)$(find "$below" -name '.vss-restore-*')" "what is left after a boot with it"
        umount "$data/a/deep"
        mount -o loop "$VSS_TEST_DIR/cut.img" "$VSS_TEST_DIR/cut"
        cut=$(cat "$VSS_TEST_DIR/cut/four")
        umount "$VSS_TEST_DIR/cut"
        expect_equal saved "$cut" "what a power cut leaves on the volume below"
        rm -f "$STATE_DIRECTORY"/restore/*.plan
        change
        delete_all
}

case_one_that_fails_takes_the_others_back() {
        local call
        begin
        # the note cannot be written, at its beginning and at its end
        for n in 1 2 3 4 5 6; do
                change
                strace -f -qq -o /dev/null -e trace=renameat2 -e inject=renameat2:error=EIO:when=$n "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --no-writers >"$VSS_TEST_DIR/out" 2>&1 && die "it did not fail"
                now "$old" "after the failure of rename $n: $(cat "$VSS_TEST_DIR/out")"
                expect_equal "" "$(ls -A "$STATE_DIRECTORY/restore")" "what is left of plans"
        done
        for call in chmod mount; do
                change
                if [ $call = chmod ]; then
                        chmod 777 "$STATE_DIRECTORY/restore"
                else
                        mount -t tmpfs -o size=4k,mode=700 tmpfs "$STATE_DIRECTORY/restore"
                        head -c 4096 /dev/zero >"$STATE_DIRECTORY/restore/full" || :
                fi
                if [ $call = chmod ]; then # nothing that others may write to is believed, and nothing written to it
                        restore --no-writers >/dev/null 2>"$VSS_TEST_DIR/err" || die "without a note: $(cat "$VSS_TEST_DIR/err")"
                        grep -q 'a mixture of old and new is left' "$VSS_TEST_DIR/err" || die "it does not say so: $(cat "$VSS_TEST_DIR/err")"
                        now "$new" "of a restore without a note"
                        chmod 700 "$STATE_DIRECTORY/restore"
                else
                        expect_exit 7 restore --no-writers 2>"$VSS_TEST_DIR/err"
                        grep -q 'nothing was replaced' "$VSS_TEST_DIR/err" || die "it does not say so: $(cat "$VSS_TEST_DIR/err")"
                        now "$old" "of a restore that had no space for its note"
                        umount "$STATE_DIRECTORY/restore"
                fi
        done
        delete_all
}

# Where systemd runs: what it reads of units in this boot is in UNITS afterwards
boot_of_systemd() {
        UNITS=$VSS_TEST_DIR/units
        rm -rf "$UNITS" && mkdir "$UNITS"
        # shellcheck disable=SC2016
        in_next_boot sh -c 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && mount --bind "$1" /run/systemd/system && umask 077 && exec "$0"' \
                "$VSS_BUILD/client/vss-restore-at-boot" "$UNITS" >"$VSS_TEST_DIR/said"
}
# held: the unit that was stopped does not start as long as the plan is there
held() {
        grep -qx "shop.service is not started: its restore was cut off; restore shop:all again, or let it start with \`vssctl restore --cancel=$PLAN\`" "$VSS_TEST_DIR/said" ||
                die "it says: $(cat "$VSS_TEST_DIR/said")"
        expect_equal "644 [Unit] AssertPathExists=!$STATE_DIRECTORY/restore/$PLAN.plan" \
                "$(stat -c %a "$UNITS/shop.service.d/vss-restore-$PLAN.conf") $(grep -v '^#' "$UNITS/shop.service.d/vss-restore-$PLAN.conf" | xargs)" "the drop-in"
        expect_equal "daemon-reload" "$(tail -1 "$CALLS")" "the last call of systemctl"
        [ -e "$STATE_DIRECTORY/restore/$PLAN.plan" ] || die "the plan is gone"
}
not_held() { expect_equal "" "$(ls "$UNITS")" "units that are held: $(cat "$VSS_TEST_DIR/said")"; }
# cut_with_unit CALL N OPTION…: with the unit stopped
cut_with_unit() {
        change
        { strace -f -qq -o /dev/null -e "trace=renameat2,$1" -e "inject=$1:signal=KILL:when=$2" "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --service=shop.service "${@:3}" >"$VSS_TEST_DIR/out" 2>&1 || :; } 2>/dev/null
        PLAN=$(plans .id)
        [ -n "$PLAN" ] || die "there is no plan: $(cat "$VSS_TEST_DIR/out")"
        expect_equal "stop -- shop.service" "$(tail -1 "$CALLS")" "the last call of systemctl"
}

case_what_was_not_ended_keeps_its_unit_from_starting() {
        local moved
        mkdir "$VSS_TEST_DIR/bin"
        export CALLS=$VSS_TEST_DIR/calls PATH=$VSS_TEST_DIR/bin:$PATH
        # shellcheck disable=SC2016
        printf '#!/bin/sh\necho "$*" >>"$CALLS"\n' >"$VSS_TEST_DIR/bin/systemctl"
        chmod 755 "$VSS_TEST_DIR/bin/systemctl"
        RESTORE='{"method":"stop-restore-start"}' begin
        note "in place, and its writer has not been told"
        cut_with_unit unlinkat 3
        expect_equal "replaced shop.service" "$(plans '.state, .unit')" "plans"
        boot_of_systemd
        held
        now "$new" "after the boot"
        expect_equal "held shop.service" "$(plans '.state, .unit')" "plans"
        boot_of_systemd
        held
        restore --service=shop.service >/dev/null || die "the next restore failed"
        expect_equal "start -- shop.service" "$(tail -1 "$CALLS")" "the last call of systemctl"
        expect_equal "" "$(ls -A "$STATE_DIRECTORY/restore")" "plans after the next restore"
        boot_of_systemd
        not_held
        note "--cancel lets it start; a restore that fails does not"
        cut_with_unit unlinkat 3
        boot_of_systemd
        held
        chattr +i "$data/a/two"
        expect_exit 3 restore --service=shop.service
        chattr -i "$data/a/two"
        expect_equal "$PLAN held" "$(plans '.id, .state')" "plans"
        vssctl restore --cancel="$PLAN"
        now "$new" "after --cancel"
        expect_equal "" "$(ls -A "$STATE_DIRECTORY/restore")" "plans after --cancel"
        note "what went back lets it start; what cannot go back does not"
        cut_with_unit renameat2 6
        boot_of_systemd
        not_held
        now "$old" "after the boot"
        cancel_all
        cut_with_unit renameat2 6
        moved=$(cd "$data/a" && { grep -lx saved one two deep/four fresh/six 2>/dev/null || :; } | head -1)
        echo "written since" >>"$data/a/$moved"
        expect_exit 1 boot_of_systemd
        held
        vssctl restore --cancel="$PLAN"
        note "without a writer nothing is left to be done"
        cut_with_unit unlinkat 3 --no-writers
        boot_of_systemd
        not_held
        now "$new" "after the boot"
        expect_equal "" "$(plans .id)" "plans"
        delete_all
}

# What the boot has only begun to swap can go back as well, if it is asked for.
case_a_swap_of_the_boot_is_cancelled() {
        RESTORE='{"method":"at-reboot"}' TYPE=file-group begin
        restore >/dev/null
        PLAN=$(plans .id)
        { in_next_boot strace -f -qq -o /dev/null -e trace=renameat2 -e inject=renameat2:signal=KILL:when=4 "$VSS_BUILD/client/vss-restore-at-boot" >/dev/null || :; } 2>/dev/null
        expect_equal swapping "$(plans .state)" "plans"
        mkdir -p "$VSS_TEST_DIR/elsewhere"
        mount --move "$data" "$VSS_TEST_DIR/elsewhere"
        expect_exit 1 vssctl restore --cancel="$PLAN" 2>"$VSS_TEST_DIR/err"
        grep -q "$data/a: nothing of what was staged is there; is it mounted?" "$VSS_TEST_DIR/err" || die "it says: $(cat "$VSS_TEST_DIR/err")"
        mount --move "$VSS_TEST_DIR/elsewhere" "$data"
        vssctl restore --cancel="$PLAN"
        now "$old" "after --cancel"
        expect_equal "" "$(plans .id)" "plans"
        delete_all
}

# A plan that cannot be made: whatever ends vssctl while it clears away, no file is left that no plan tells of.
case_a_plan_that_fails_leaves_nothing() {
        local n killed=0 got
        RESTORE='{"method":"at-reboot"}' TYPE=file-group begin
        for ((n = 1; n < 40; n++)); do
                change
                got=0
                { strace -f -qq -o /dev/null -e trace=syncfs,unlinkat -e inject=syncfs:error=EIO:when=2 -e inject=unlinkat:signal=KILL:when=$n \
                        "$VSS_BUILD/client/vssctl" restore "$M" --from="$VSS_TEST_DIR/saved" --no-writers >"$VSS_TEST_DIR/out" 2>&1 || got=$?; } 2>/dev/null
                [ $got -eq 137 ] || break
                killed=$((killed + 1))
                boot >/dev/null
                rm -f "$data"/a/{,deep/,fresh/}.vss-restore-new-*
                [ ! -d "$data/a/fresh" ] || rmdir "$data/a/fresh" || :
                now "$old" "after a kill in unlinkat $n"
                expect_equal "" "$(plans .id)" "plans"
        done
        [ $killed -gt 5 ] || die "it was killed $killed times; in the end: $(cat "$VSS_TEST_DIR/out")"
        now "$old" "of one that was not killed"
        delete_all
}

start_bus
start_vssd
cases a_file_that_is_in_it_twice until_then_nothing_else_replaces_it what_was_used_since_does_not_go_unasked what_cannot_come_back_is_not_taken_away another_place_is_another_restore while_vssctl_lives_it_is_not_cancelled \
        one_that_has_ended_meanwhile_is_not_taken_back two_at_once_are_refused a_volume_below_is_on_the_disk_too \
        one_that_fails_takes_the_others_back what_was_not_ended_keeps_its_unit_from_starting a_swap_of_the_boot_is_cancelled a_plan_that_fails_leaves_nothing \
        the_next_start_undoes_or_ends_it cancel_undoes_or_ends_it
