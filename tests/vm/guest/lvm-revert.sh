#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A logical volume gets the content of a copy back, thin and thick: every byte of it; what was there before is a snapshot and can be
# gone back to. One that fails says whether anything was changed; its copy stays until it is over. With --long: refused as long as
# anything has the volume open, and to whom may not; a host or vssd that is killed at any step, and a power cut, leave the old
# content or the new one, and what they leave is ended by the next start of vssd.
# kernel: 6.12 6.1
# long: 6.1
# disks: 400M
# root: ext4
# boots: 3
# seconds: 900
. "$(dirname "$0")/functions.sh"

TRUTH=/var/lib/truth # what the volume has to have after the cut: VOLUME OLD NEW
say() { vssctl --json "$@"; }
sum() { md5sum <"/dev/vg/$1" | cut -d' ' -f1; }
# sum_of COPY, which may be inactive
sum_of() {
        local active=false
        [ -e "/dev/vg/vss-$1" ] || { active=true && lvchange -q -ay -K "vg/vss-$1" && udevadm settle; }
        md5sum <"/dev/vg/vss-$1" | cut -d' ' -f1
        ! $active || lvchange -q -an "vg/vss-$1"
}
tags() { lvs -a --noheadings -o lv_tags | grep vss.revert || :; }
helpers() { lvs -a --noheadings -o lv_name | grep -c vss-revert || :; }
is_whole() { [ -z "$(tags)" ] && [ "$(helpers)" = 0 ] && [ -e "/dev/vg/$1" ]; }

# state VOLUME N: writes that state, and makes a copy of it; ID
state() {
        mount "/dev/vg/$1" "/mnt/$1"
        echo "$2" >"/mnt/$1/state"
        dd if=/dev/urandom of="/mnt/$1/data" bs=64k seek=$(($2 * 8)) count=24 conv=notrunc status=none
        sync -f "/mnt/$1"
        ID=$(say create --provider=lvm "/mnt/$1" | json '.snapshots[0].id')
        umount "/mnt/$1"
        udevadm settle
}
content() {
        mount -o ro "/dev/vg/$1" "/mnt/$1"
        cat "/mnt/$1/state"
        umount "/mnt/$1"
}

# strike WHEN WHOM PATTERN: the next lvm whose words match the pattern ends processes of that name, or the machine ("cut"), before or
# after it has done its work. "fail": it does nothing, and so does every other of these until the file goes;
# "wait": it waits for that.
strike() { echo "$*" >$VSS_TEST_DIR/strike; }
wrap_lvm() {
        cat >/usr/local/sbin/lvm-wrapped <<'END'
#!/bin/bash
strike() {
        rm -f /run/vss-test/strike
        [ "$whom" != cut ] || { touch /run/vss-test/cut && sleep 60; }
        # shellcheck disable=SC2046
        kill -KILL $(pgrep -x "$whom")
}
when=never
if read -r when whom pattern 2>/dev/null </run/vss-test/strike; then
        # shellcheck disable=SC2254
        case "$*" in $pattern) ;; *) when=never ;; esac
fi
if [ "$when" = wait ]; then
        touch /run/vss-test/waits
        while [ -e /run/vss-test/strike ]; do sleep 0.2; done
fi
[ "$when" != fail ] || { echo "  as the test wants it" >&2 && exit 5; }
[ "$when" != before ] || strike
/usr/sbin/lvm "$@"
status=$?
[ "$when" != after ] || strike
exit $status
END
        chmod 755 /usr/local/sbin/lvm-wrapped
        service_environment vssd.service VSS_LVM=/usr/local/sbin/lvm-wrapped
        configure Timeouts hold=50 freeze=60 provider=60
        systemctl restart vssd
}

make_volumes() {
        vgcreate -q vg "$d0" >/dev/null
        lvcreate -q -y -n thick -L 48m vg >/dev/null
        lvcreate -q -y --type thin-pool -n pool -L 100m vg >/dev/null
        lvcreate -q -y -n thin -V 48m --thinpool pool --addtag mine vg >/dev/null 2>&1
        for v in thin thick; do
                mkfs.ext4 -q "/dev/vg/$v"
                mkdir -p "/mnt/$v"
        done
}

# revert_and_undo VOLUME: to the second of three states and back
revert_and_undo() {
        local first second third before safety
        state "$1" 1 && first=$ID
        state "$1" 2 && second=$ID
        local wanted
        wanted=$(sum_of "$second")
        state "$1" 3 && third=$ID
        before=$(sum "$1")
        say revert --dry-run "$second" >$VSS_TEST_DIR/dry
        expect_equal "$before" "$(sum "$1")" "the volume after a dry run"
        [ "$1" = thin ] && expect_equal '[]' "$(jq -c .lost $VSS_TEST_DIR/dry)" "what a dry run says is lost" ||
                expect_equal "[\"$second\"]" "$(jq -c .lost $VSS_TEST_DIR/dry)" "what a dry run says is lost"
        say revert "$second" >$VSS_TEST_DIR/done
        safety=$(json .safety_snapshot <$VSS_TEST_DIR/done)
        expect_equal "$wanted" "$(sum "$1")" "the volume after it was reverted"
        expect_equal "$before" "$(sum_of "$safety")" "the copy of what was there before"
        is_whole "$1" || die "a revert is over and leaves: $(tags)"
        expect_equal 2 "$(content "$1")" "what is in the file system"
        say show "$safety" | jq -e '.consistency == "crash"' >/dev/null || die "the safety snapshot: $(say show "$safety")"
        say revert "$safety" >$VSS_TEST_DIR/done # undone
        expect_equal 3 "$(content "$1")" "what is there when it is undone"
        [ "${VM_LONG:-0}" != 0 ] || { delete_all && return; }
        say revert --no-safety-snapshot "$first" >$VSS_TEST_DIR/done
        expect_equal 1 "$(content "$1")" "what is there after a third revert"
        expect_equal null "$(json .safety_snapshot <$VSS_TEST_DIR/done)" "a safety snapshot that was not wanted"
        if [ "$1" = thin ]; then
                say show "$second" >/dev/null && say show "$first" >/dev/null || die "a thin copy is used up"
                expect_equal mine "$(lvs --noheadings -o lv_tags vg/thin | tr -d ' ')" "the volume's own tags"
        else
                expect_exit 4 vssctl show "$second"
        fi
        say show "$third" >/dev/null || die "another copy has gone"
        delete_all
}
case_thin() { revert_and_undo thin; }
case_thick() { revert_and_undo thick; }

case_refused_while_it_is_open() {
        local v before
        for v in thin thick; do
                state $v 4
                mount /dev/vg/$v /mnt/$v
                before=$(cat /mnt/$v/state)
                echo 5 >/mnt/$v/state
                for force in "" --force; do
                        # shellcheck disable=SC2086
                        expect_exit 8 vssctl revert $force "$ID" 2>$VSS_TEST_DIR/err
                        grep -q "mounted on /mnt/$v: unmount it" $VSS_TEST_DIR/err || die "it says: $(cat $VSS_TEST_DIR/err)"
                done
                expect_equal 5 "$(cat /mnt/$v/state)" "a mounted volume"
                umount /mnt/$v
                exec {open}<"/dev/vg/$v"
                expect_exit 8 vssctl revert "$ID"
                exec {open}<&-
                vssctl mount "$ID" >$VSS_TEST_DIR/place
                expect_exit 8 vssctl revert "$ID"
                vssctl umount "$ID"
                is_whole $v || die "what was refused leaves: $(tags)"
                expect_exit 3 setpriv --reuid=nobody --regid=nogroup --clear-groups vssctl --no-ask-password revert "$ID"
                expect_equal 5 "$(content $v)" "a volume of which nothing was allowed"
        done
        delete_all
}

# killed VOLUME WHOM PATTERN WANTED: 7, as before, or 6, reverted. A host is replaced by another at once, a vssd by its next start.
killed() {
        local id code=0
        state "$1" 6 && id=$ID
        mount "/dev/vg/$1" "/mnt/$1" && echo 7 >"/mnt/$1/state" && umount "/mnt/$1"
        strike after "$2" "$3"
        timeout 60 vssctl revert "$id" >$VSS_TEST_DIR/said 2>&1 || code=$?
        [ ! -e $VSS_TEST_DIR/strike ] || die "$1: no lvm was like $3"
        wait_until 40 is_whole "$1" || die "$1, $2, $3: never ended; $(lvs -a -o+lv_tags 2>&1; journalctl -u vssd -o cat -n 20 --no-pager)"
        wait_until 20 vssctl status >/dev/null
        expect_equal "$4" "$(content "$1")" "$1 after $2 died at $3"
        if [ "$2" != vssd ]; then
                [ $code -eq $(($4 == 6 ? 0 : 5)) ] || die "$1, $2, $3: exit $code: $(cat $VSS_TEST_DIR/said)"
        fi
        note "$1, $2 died after $3: exit $code, state $4; $(tail -n 1 $VSS_TEST_DIR/said)"
        _gone() { ! vssctl show "$id" >/dev/null 2>&1; }
        [ "$1$4" != thick6 ] || wait_until 20 _gone || die "a copy that was used up is still listed"
        delete_all
}
case_killed() {
        killed thin vss-provider-ho 'lvcreate*' 7
        killed thin vssd 'lvchange*--activate n*' 7
        killed thin vss-provider-ho 'lvconvert*' 6
        killed thick vss-provider-ho 'lvchange*--activate n*' 7
        killed thick vssd 'lvconvert*' 6
}

# failed VOLUME PATTERN STATE WANTED: a revert whose lvm says no there; what the volume has afterwards, and after the next start
failed() {
        local id code=0 said
        state "$1" 4 && id=$ID
        mount "/dev/vg/$1" "/mnt/$1" && echo 5 >"/mnt/$1/state" && umount "/mnt/$1"
        strike fail - "$2"
        vssctl revert --no-safety-snapshot "$id" 2>$VSS_TEST_DIR/err >&2 || code=$?
        [ $code -eq 5 ] || [ $code -eq 1 ] || die "$1, $2: exit $code: $(cat $VSS_TEST_DIR/err)"
        said=$(say volumes | jq -c ".volumes[] | select(.name == \"/mnt/$1\") | [.state, .operation, .fault.message, .why_not]")
        jq -e --arg s "$3" '.[0] == $s and .[1] == "" and (.[2] | contains("as the test wants it"))' <<<"$said" >/dev/null ||
                die "$1, $2: the volume is $said"
        if [ "$3" = ok ]; then
                jq -e '.[2] | endswith("; nothing has been changed")' <<<"$said" >/dev/null || die "$1: it says $said"
                expect_equal "$4" "$(content "$1")" "$1, of which nothing was changed"
        else
                jq -e '.[2] == .[3]' <<<"$said" >/dev/null || die "$1: why it cannot be used: $said"
        fi
        rm $VSS_TEST_DIR/strike
        if [ "$3" = faulted ]; then # it tells how far the revert came
                expect_exit 8 vssctl delete --force "$id" 2>$VSS_TEST_DIR/err
                grep -q "reverted to copy $id, or was" $VSS_TEST_DIR/err || die "it says: $(cat $VSS_TEST_DIR/err)"
        fi
        systemctl restart vssd
        say status >/dev/null
        wait_until 40 is_whole "$1" || die "$1, $2: never ended; $(lvs -a -o+lv_tags 2>&1)"
        _ok() { say volumes | jq -e "all(.volumes[]; .state == \"ok\" and .operation == \"\")" >/dev/null; }
        wait_until 20 _ok || die "$1, $2: after the next start: $(say volumes)"
        expect_equal "$4" "$(content "$1")" "$1 after the next start"
        delete_all
}
case_failed() {
        failed thin 'lvconvert*' ok 5
        failed thin 'lvchange*--activate y*' faulted 4
        [ "${VM_LONG:-0}" = 0 ] || failed thick 'lvchange*--activate [yn]*' faulted 5
}

# A copy stays as long as its volume is being reverted to it, whoever wants it to go; then it goes
case_deleted_meanwhile() {
        local id revert
        state thin 4 && id=$ID
        mount /dev/vg/thin /mnt/thin && echo 5 >/mnt/thin/state && umount /mnt/thin
        strike wait - 'lvconvert*'
        vssctl revert "$id" >$VSS_TEST_DIR/said 2>&1 &
        revert=$!
        wait_until 60 test -e $VSS_TEST_DIR/waits
        for force in "" --force; do
                # shellcheck disable=SC2086
                expect_exit 8 vssctl delete $force "$id" 2>$VSS_TEST_DIR/err
                grep -q "being reverted to snapshot $id" $VSS_TEST_DIR/err || die "it says: $(cat $VSS_TEST_DIR/err)"
        done
        rm $VSS_TEST_DIR/strike
        wait $revert || die "the revert fails: $(cat $VSS_TEST_DIR/said)"
        expect_equal 4 "$(content thin)" "what the volume has"
        expect_exit 0 vssctl delete "$id"
        delete_all
}

# cut_at VOLUME WHEN PATTERN: never comes back
cut_at() {
        local id
        state "$1" 8 && id=$ID
        mount "/dev/vg/$1" "/mnt/$1" && echo 9 >"/mnt/$1/state" && dd if=/dev/urandom of="/mnt/$1/data" bs=1M count=6 conv=notrunc status=none
        umount "/mnt/$1"
        echo "$1 $(sum "$1") $(sum_of "$id") $id" >$TRUTH
        sync
        strike "$2" cut "$3"
        (wait_until 60 test -e $VSS_TEST_DIR/cut && vm-next-boot) &
        vssctl revert "$id"
        die "the light did not go out"
}
# after_cut WANTED: 9 the old state, 8 the new one
after_cut() {
        local v old new id wanted
        read -r v old new id <$TRUTH
        mkdir -p /mnt/thin /mnt/thick
        vgchange -q -ay vg >/dev/null 2>&1
        udevadm settle
        say status >/dev/null # starts vssd, which looks after what was cut off
        wait_until 40 is_whole "$v" || die "$v: never ended: $(lvs -a -o+lv_tags; journalctl -u vssd -o cat -n 20 --no-pager)"
        wanted=$old
        [ "$1" = 9 ] || wanted=$new
        expect_equal "$wanted" "$(sum "$v")" "$v after the cut"
        expect_equal "$1" "$(content "$v")" "the state of $v"
        note "$v has state $1 after the cut"
}

case $VM_BOOT in
1)
        make_volumes
        wrap_lvm
        if [ "${VM_LONG:-0}" = 0 ]; then
                cases thin thick failed deleted_meanwhile
                exit 0
        fi
        cases thin thick refused_while_it_is_open failed deleted_meanwhile killed
        cut_at thick after 'lvchange*--activate y*'
        ;;
2)
        after_cut 8
        wrap_lvm
        cut_at thin before 'lvconvert*'
        ;;
3)
        after_cut 9
        ;;
esac
