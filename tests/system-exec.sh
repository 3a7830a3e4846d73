#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vss-writer-exec: scripts get every event, unchanged guest agent hooks work, and what a freeze did is undone whatever dies.
VSS_TEST_SECONDS=90
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
requires jq

start_bus
start_fake
log=$VSS_TEST_DIR/calls
native=$VSS_TEST_DIR/native hooks=$VSS_TEST_DIR/fsfreeze-hook.d
mkdir -p "$native" "$hooks"
export log

exec_writer() { start_writer "$VSS_BUILD/writers/vss-writer-exec" "$@"; }
calls() { cat "$log"; }
count() { grep -c "^$1\( \|$\)" "$log" || :; }

cat >"$native/10-app" <<'EOS'
#!/bin/bash
echo "$1 $VSS_EVENT ${VSS_SET:-none} ${VSS_VOLUMES:-none} ${VSS_DEADLINE_USEC:+deadline}" >>"$log"
case $1 in
identify)
        echo 'component=app/data The application'
        echo 'tree=/srv/app'
        echo 'files=/srv/conf/*.conf'
        echo 'exclude=/srv/app/*.pid'
        echo 'restore.method=if-can-replace'
        ;;
prepare-backup) [ ! -e "$log.fail" ] || { echo first >&2; echo 'no room for a backup' >&2; exit 1; } ;;
post-snapshot) [ "$VSS_COPIES" = /srv/app=/copy ] || exit 1 ;;
backup-complete) [ "$VSS_COMPONENTS" = app/data=yes ] || exit 1 ;;
freeze | thaw | abort | prepare-snapshot) ;;
*) exit 2 ;;
esac
EOS
chmod 755 "$native/10-app"
: >"$native/README"

note "a native script: document, environment, events, exit statuses"
exec_writer --name=app "$native"
ask app identify ok
grep '^document app ' "$FAKE_LOG" | tail -1 | cut -d' ' -f3- >"$VSS_TEST_DIR/doc"
expect_equal 'app/data|The application|/srv/app * true|/srv/conf *.conf false|/srv/app *.pid|if-can-replace' "$(jq -r '
        [.components[0].path, .components[0].caption, (.components[0].files[] | "\(.root) \(.pattern) \(.recursive)"),
         (.exclude[0] | "\(.root) \(.pattern)"), .restore.method] | join("|")' <"$VSS_TEST_DIR/doc")" document
fake volume /srv/app /copy
fake component app/data yes
for e in prepare-backup prepare-snapshot freeze thaw post-snapshot backup-complete backup-shutdown pre-restore; do ask app $e ok; done
grep -qx "freeze freeze $SET_A /srv/app deadline" "$log" || die "freeze was called with: $(grep ^freeze "$log")"
expect_equal "identify identify prepare-backup prepare-snapshot freeze thaw post-snapshot backup-complete backup-shutdown pre-restore" \
        "$(awk '{print $1}' "$log" | tail -10 | xargs)" "order of calls"
touch "$log.fail"
fake call app prepare-backup $SET_B 5000
must_hear 'reply app prepare-backup WriterRetryable .*no room for a backup \(status 1\)'
rm "$log.fail"
stop_process "$WRITER_PID"

note "unchanged hooks: only freeze and thaw, two scripts, thaw in reverse order"
for i in 1 2; do
        cat >"$hooks/$i.sh" <<'EOS'
#!/bin/sh
# As a package ships it: knows two words.
case "$1" in
freeze) echo "freeze $0" >>"$log"; touch "$log.$(basename "$0").frozen" ;;
thaw) echo "thaw $0" >>"$log"; rm -f "$log.$(basename "$0").frozen" ;;
*) echo "usage: $0 freeze|thaw" >&2; exit 1 ;;
esac
EOS
        chmod 755 "$hooks/$i.sh"
done
cp "$hooks/1.sh" "$hooks/3.sh.rpmsave"
: >"$log"
exec_writer --name=hooks --volume="$VSS_TEST_DIR" "$hooks"
ask hooks identify ok
for e in prepare-backup prepare-snapshot freeze thaw post-snapshot backup-complete backup-shutdown; do ask hooks $e ok; done
expect_equal "freeze 1.sh freeze 2.sh thaw 2.sh thaw 1.sh" "$(sed "s,$hooks/,," "$log" | xargs)" "order of hooks"

note "children wait before Freeze; nothing is left after the set"
ask hooks prepare-snapshot ok
expect_equal 4 "$(pgrep -c -P "$WRITER_PID")" "waiting children"
ask hooks abort ok
expect_equal 0 "$(pgrep -c -P "$WRITER_PID" || :)" "waiting children after Abort"

note "SIGKILL of the writer after freeze still runs thaw"
: >"$log"
prepare hooks
ask hooks freeze ok 5000 30000
[ -e "$log.1.sh.frozen" ] && [ -e "$log.2.sh.frozen" ] || die "not frozen"
kill -KILL "$WRITER_PID"
_thawed() { [ ! -e "$log.1.sh.frozen" ] && [ ! -e "$log.2.sh.frozen" ]; }
wait_until 2 _thawed || die "nobody ran thaw after SIGKILL"

note "SIGSTOP of the writer after freeze: thaw by its time and a second"
exec_writer --name=hooks --hooks "$hooks"
prepare hooks
ask hooks freeze ok 500 800
kill -STOP "$WRITER_PID"
wait_until 3 _thawed || die "nobody ran thaw while the writer was stopped"
kill -CONT "$WRITER_PID"

note "SIGTERM after freeze runs thaw first"
ask hooks abort ok
prepare hooks
ask hooks freeze ok 5000 30000
kill -TERM "$WRITER_PID"
wait "$WRITER_PID" || die "status $?"
_thawed || die "SIGTERM left the application frozen"

note "a hook that fails vetoes, and the one before it is thawed by Abort"
cat >"$hooks/2.sh" <<'EOS'
#!/bin/sh
[ "$1" = thaw ] && exit 0
yes 'a line that is said over and over' | head -c 10000000 >&2
echo 'the lock is taken' >&2
exit 3
EOS
: >"$log"
exec_writer --name=hooks --hooks "$hooks"
prepare hooks
fake call hooks freeze $SET_A 5000 30000
must_hear 'reply hooks freeze WriterRetryable' 5
ask hooks abort ok
_thawed || die "the first hook was not thawed"

note "a hook that hangs is ended with its children at its deadline"
cat >"$hooks/2.sh" <<'EOS'
#!/bin/sh
[ "$1" = thaw ] && exit 0
sleep 1000 & sleep 1000
EOS
ask hooks prepare-snapshot ok
before=$(date +%s%N)
fake call hooks freeze $SET_B 1000 30000
_ended() { [ "$(grep -c 'reply hooks freeze WriterRetryable' "$FAKE_LOG")" -ge 2 ]; }
wait_until 5 _ended || die "no answer from a hook that hangs"
took=$((($(date +%s%N) - before) / 1000000))
[ $took -lt 1100 ] || die "answered after $took ms, budget 1000"
grep -q 'was ended: it took longer' "$FAKE_LOG" || die "no reason given"
_no_sleep() { ! pgrep -x sleep -a | grep -q ' 1000'; }
wait_until 2 _no_sleep || die "its children still run"
SET=$SET_B ask hooks abort ok
_thawed || die "the first hook was not thawed"
stop_process "$WRITER_PID"

note "directories and scripts that others can write are refused"
chmod 777 "$hooks"
expect_exit 3 "$VSS_BUILD/writers/vss-writer-exec" "$hooks"
chmod 755 "$hooks"
chown 1234 "$hooks/1.sh"
expect_exit 3 "$VSS_BUILD/writers/vss-writer-exec" "$hooks"
chown 0 "$hooks/1.sh"
chmod 775 "$hooks/1.sh"
expect_exit 3 "$VSS_BUILD/writers/vss-writer-exec" "$hooks"
expect_exit 4 "$VSS_BUILD/writers/vss-writer-exec" "$VSS_TEST_DIR/nowhere"
expect_exit 2 "$VSS_BUILD/writers/vss-writer-exec"
