#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Where auditd's log lies on what a set would freeze (hazards D2), the plan says so and what to do, and otherwise says nothing. The
# daemon is a process of that name, with the configuration of a real one.
. "$(dirname "$0")/functions.sh"
requires mkfs.ext4 jq
watchdog 100

new_fs data ext4 64M
new_fs other ext4 64M
mkdir "$VSS_TEST_DIR"/{upper,work} "$data/audit" "$other/audit"
mount -t overlay -o "lowerdir=/etc,upperdir=$VSS_TEST_DIR/upper,workdir=$VSS_TEST_DIR/work" overlay /etc || skip "there is no overlay file system"
cleanup_fn umount -l /etc
mkdir -p /etc/audit
start_bus
start_vssd

# warnings VOLUME…: of its plan, about auditd
warnings() { vssctl --json plan --no-writers --provider=null "$@" | json '.warnings[]' | grep auditd || :; }
configured() { printf '%s\n' '# as installed' 'local_events = yes' "$@" >/etc/audit/auditd.conf; }
run_auditd() {
        cp "$(command -v sleep)" "$VSS_TEST_DIR/auditd"
        "$VSS_TEST_DIR/auditd" 1000 &
        auditd=$!
        cleanup_fn stop_auditd
}
stop_auditd() { kill $auditd 2>/dev/null && wait $auditd 2>/dev/null || :; }

note "no daemon, no word, whatever its configuration says"
configured "log_file = $data/audit/audit.log"
expect_equal "" "$(warnings "$data")" "the plan without an auditd"

note "its log on the volume: named, with what to do"
run_auditd
said=$(warnings "$data")
for word in "$data/audit/audit.log" "$data is held" --backlog_wait_time; do
        [[ $said == *"$word"* ]] || die "\"$word\" is not in: $said"
done
expect_equal 1 "$(wc -l <<<"$said")" "warnings"
vssctl create --dry-run --no-writers --provider=null "$data" 2>&1 | grep -q "auditd cannot write" || die "a dry run of create does not say it"
expect_exit 0 vssctl create --no-writers --provider=null "$data" >/dev/null

note "another file system, no log at all, and links that lead there"
expect_equal "" "$(warnings "$other")" "the plan of another volume"
configured "log_file = $data/audit/audit.log" 'write_logs = no'
expect_equal "" "$(warnings "$data")" "the plan while it keeps no log"
ln -s "$other/audit" "$data/elsewhere"
touch "$other/audit/audit.log"
configured "log_file=$data/elsewhere/audit.log"
expect_equal "" "$(warnings "$data")" "the plan of the volume that has the link"
[ -n "$(warnings "$other")" ] || die "the log behind a link is not found"

note "what lies on the volume stands still with it"
truncate -s 32M "$data/image"
mkfs.ext4 -q "$data/image"
mkdir "$VSS_TEST_DIR/upon"
mount -o loop "$data/image" "$VSS_TEST_DIR/upon"
cleanup_fn umount "$VSS_TEST_DIR/upon"
configured "log_file = $VSS_TEST_DIR/upon/audit.log"
[ -n "$(warnings "$data")" ] || die "a log on a file system that lies on the volume is not found"
