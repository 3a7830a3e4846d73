#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Several logical volumes, thick and thin and of two volume groups, in one set under writes: one instant on kernels that can
# freeze a file system twice, and on older ones an error that says so, before anything stands still (hazards A3).
# kernel: 6.12 6.1
# disks: 400M 200M 200M 300M
# seconds: 800
. "$(dirname "$0")/functions.sh"

configure Timeouts hold=55 freeze=60 provider=120
vgcreate -q one "$d0" >/dev/null
vgcreate -q two "$d1" >/dev/null
lvcreate -q -y -n a -L 64m one >/dev/null
lvcreate -q -y --type thin-pool -n pool -L 128m one >/dev/null
lvcreate -q -y -n b -V 64m --thinpool pool one >/dev/null
lvcreate -q -y -n c -L 64m two >/dev/null
new_fs a ext4 /dev/one/a
new_fs b ext4 /dev/one/b
new_fs c ext4 /dev/two/c
new_fs other ext4 "$d2"

# Counts: first in a, then in b, then in c, each time durable before the next; so at any one instant a ≥ b ≥ c ≥ a - 1.
cat >"$VSS_TEST_DIR/count.py" <<'PY'
import os, sys
files = [os.open(d + "/count", os.O_RDWR | os.O_CREAT, 0o600) for d in sys.argv[2:]]
n = 0
while True:
    n += 1
    for f in files:
        os.pwrite(f, b"%08d" % n, 0)
        if sys.argv[1] == "synced":
            os.fdatasync(f)
PY

# count_while MODE: the counts that the copies of one set have
count_while() {
        local dir counts=()
        python3 "$VSS_TEST_DIR/count.py" "$1" "$a" "$b" "$c" &
        local writer=$!
        cleanup_fn kill -KILL $writer
        wait_until 30 test -s "$c/count"
        sleep 1
        vssctl --json create --provider=lvm "$a" "$b" "$c" >"$VSS_TEST_DIR/set.json"
        kill -KILL $writer
        for i in 0 1 2; do
                dir=$(vssctl --json mount "$(jq -r ".snapshots[$i].id" "$VSS_TEST_DIR/set.json")" | json .path)
                counts+=("$((10#$(cat "$dir/count")))")
        done
        note "$1: ${counts[*]}, held $(jq -r .timing.hold_usec "$VSS_TEST_DIR/set.json") µs"
        [ "${counts[0]}" -ge "${counts[1]}" ] && [ "${counts[1]}" -ge "${counts[2]}" ] && [ "${counts[2]}" -ge $((counts[0] - 1)) ] ||
                die "the copies are of different moments: ${counts[*]}"
        delete_all
        rm -f "$a/count" "$b/count" "$c/count"
}

case_one_instant_over_synced_writes() { count_while synced; }
case_one_instant_over_buffered_writes() { count_while buffered; }

case_a_set_that_fails_leaves_nothing_of_any_group() {
        service_environment vssd.service VSS_FAULT=post_commit:fail
        systemctl restart vssd
        expect_exit 5 vssctl create --provider=fault:lvm "$a" "$b" "$c" || :
        rm /run/systemd/system/vssd.service.d/test.conf
        systemctl daemon-reload
        systemctl restart vssd
        expect_equal "" "$(lvs --noheadings -o lv_name -S 'lv_name=~^vss-' | tr -d ' ')" "copies left"
        for v in "$a" "$b" "$c"; do must_write 20 "$v"; done
}

case_more_than_one_is_refused_before_anything_stands_still() {
        expect_exit 10 vssctl create --provider=lvm "$a" "$c" 2>"$VSS_TEST_DIR/err"
        grep -q 'cannot freeze a file system twice' "$VSS_TEST_DIR/err" || die "it does not say why: $(cat "$VSS_TEST_DIR/err")"
        expect_equal "" "$(lvs --noheadings -o lv_name -S 'lv_name=~^vss-' | tr -d ' ')" "copies left"
        ! dmsetup info -c --noheadings -o suspended | grep -q Suspended || die "something is suspended"
}

case_one_of_them_goes_with_others_that_are_held() {
        # on a disk: the engine takes no origin and no store on the tmpfs that / is
        new_fs area ext4 "$d3"
        truncate -s 64M "$area/origin"
        mkfs.ext4 -q "$area/origin"
        expect_exit 0 vssctl volume create e --origin="$area/origin" --store="$area/store" --store-max=128M >/dev/null
        mkdir -p /mnt/e
        mount /dev/vss/e /mnt/e
        vssctl --json create "$a" /mnt/e >"$VSS_TEST_DIR/set.json"
        expect_equal "lvm provider cow guard" "$(vssctl --json show "$(jq -r .set "$VSS_TEST_DIR/set.json")" |
                jq -r '[.record.volumes[] | .provider, .held_by] | join(" ")')" "who held"
        delete_all
        umount /mnt/e
        expect_exit 0 vssctl volume detach e
}

case $(uname -r) in
6.1.*) cases more_than_one_is_refused_before_anything_stands_still one_of_them_goes_with_others_that_are_held ;;
*) cases one_instant_over_synced_writes one_instant_over_buffered_writes a_set_that_fails_leaves_nothing_of_any_group ;;
esac
