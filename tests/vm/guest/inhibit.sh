#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A machine with logind: while a set is in its freeze, a suspend that is asked for politely is refused and names vssd; one
# that insists is delayed until the set is aborted and nothing is held; afterwards there is no lock.
# disks: 256M
# seconds: 240
. "$(dirname "$0")/functions.sh"

new_fs data ext4 "$d0"
systemctl start systemd-logind || skip "there is no logind"
# what logind would do with a sleep that nothing keeps from happening: nothing that the machine would not survive
mkdir -p /run/systemd/system/systemd-suspend.service.d
printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "fsfreeze -f %s && fsfreeze -u %s; echo $? >/run/vss-test/slept"\n' "$data" "$data" \
        >/run/systemd/system/systemd-suspend.service.d/test.conf
systemctl daemon-reload
expect_exit 0 vssctl status >/dev/null
testwriter --name=slow --volume="$data" --late=freeze:20000

vssctl create --provider=null "$data" >"$VSS_TEST_DIR/out" 2>&1 &
set=$!
freezes() { grep -q "^event slow prepare-snapshot" "$WRITER_LOG"; }
wait_until 30 freezes || die "the set does not begin"
locks() { systemd-inhibit --list --no-legend --no-pager | grep -c vssd; }
wait_until 10 eval '[ "$(locks)" = 2 ]' || die "locks: $(systemd-inhibit --list --no-pager)"

expect_exit 1 systemctl suspend --check-inhibitors=yes 2>"$VSS_TEST_DIR/refused"
grep -q vssd "$VSS_TEST_DIR/refused" || die "a refusal that does not name vssd: $(cat "$VSS_TEST_DIR/refused")"
kill -0 $set || die "the set ended: $(cat "$VSS_TEST_DIR/out")"
[ ! -e "$VSS_TEST_DIR/slept" ] || die "the machine went to sleep"

[ "$(cat /sys/power/state)" != "" ] || note "this kernel cannot suspend: logind refuses before anybody is asked"
if busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager SuspendWithFlags t 0 2>"$VSS_TEST_DIR/forced"; then
        if wait $set; then die "the set went on although the machine goes to sleep"; fi
        grep -q "goes to sleep" "$VSS_TEST_DIR/out" || die "the set does not say why: $(cat "$VSS_TEST_DIR/out")"
        wait_until 30 test -e "$VSS_TEST_DIR/slept" || die "the machine does not go to sleep: $(journalctl -u systemd-logind -u systemd-suspend --no-pager | tail)"
        expect_equal 0 "$(cat "$VSS_TEST_DIR/slept")" "freezing the volume when the machine goes to sleep"
else
        note "suspend is refused to root too: $(cat "$VSS_TEST_DIR/forced")"
        kill -INT $set
        wait $set || :
fi
wait_until 10 eval '[ "$(locks || :)" = 0 ]' || die "locks stay: $(systemd-inhibit --list --no-pager)"
is_frozen "$data" && die "left frozen"
exit 0
