#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl timeline, monitor, report, --host and the completion, against a service that answers as told (fake-manager.c).
. "$(dirname "$0")/functions.sh"
# as grep -q, but reads to the end: a closed pipe would end the command before it
finds() { grep "$@" >/dev/null; }
requires busctl jq xmllint tar script setpriv
start_bus
start_writer "$VSS_BUILD/tests/fake-manager"
program=$VSS_BUILD/client/vssctl
first=5e700000-1111-4111-8111-000000000000
out=$VSS_TEST_DIR/out err=$VSS_TEST_DIR/err
cd "$VSS_TEST_DIR" || exit

note "timeline"
"$program" timeline nightly >"$out"
for word in identify prepare-backup freeze hold commit thaw 'sqlite@book freeze' '/srv/db commit' Window; do
        grep -q -- "$word" "$out" || die "timeline lacks $word"
done
grep -q '|#' "$out" || die "no bar"
expect_equal freeze "$("$program" --json timeline nightly | json '.steps[] | select(.who == "sqlite@book") | .step' | head -n 1)" "first event of the writer"
"$program" timeline nightly --svg=picture.svg
xmllint --noout picture.svg || die "the picture is not valid XML"
[ "$(xmllint --xpath 'count(//*[local-name()="rect"])' picture.svg)" -gt 10 ] || die "the picture has no bars"
"$program" create "/abort/Vetoed" 2>/dev/null || :
expect_exit 0 "$program" timeline "$("$program" --json sets | json '.sets[] | select(.state == "aborted") | .id')" --svg=failed.svg
xmllint --noout failed.svg
expect_exit 4 "$program" timeline nothing 2>/dev/null
expect_exit 1 "$program" timeline nightly --svg=/nowhere/x.svg 2>/dev/null

note "monitor: one object per line, ends with 0 at a signal or after --timeout"
"$program" --json monitor >"$out" &
pid=$!
# until it listens
wait_until 10 sh -c "'$program' create /srv/seen -q; sleep 0.1; grep -q added '$out'"
"$program" cancel "$("$program" --json create /srv/a | json .set)" 2>/dev/null || :
kill -TERM $pid
wait $pid || die "monitor ended with $?"
jq -es 'all(.schema == 1 and (.event | length > 0) and (.time | length == 27))' <"$out" >/dev/null || die "not one object per line"
expect_equal "$(wc -l <"$out")" "$(jq -s length <"$out")" "objects per line"
jq -es 'any(.event == "added" and .kind == "set" and (.id | length) == 36)' <"$out" >/dev/null || die "a new set was not seen"
expect_exit 0 "$program" monitor --timeout=0.2

note "report: everything in it, nothing secret, only for its owner"
mkdir -p "$CONFIGURATION_DIRECTORY/writers.d"
cat >"$CONFIGURATION_DIRECTORY/vssd.conf" <<-END
	[Daemon]
	password = hunter2
	Secret=hunter2
	idle=7
END
echo '{"api_key":"hunter2","dbPassword": "hun\"ter2","name":"kept"}' >"$CONFIGURATION_DIRECTORY/writers.d/x.json"
echo 'connecting with password=hunter2 to db' >"$LOGS_DIRECTORY/vssd.log"
ln -s /etc/shadow "$LOGS_DIRECTORY/link"
path=$("$program" report)
[ -f "$path" ] || die "report did not print its path"
expect_equal 600 "$(stat -c %a "$path")" "mode of the report"
tar -tf "$path" >list
for file in versions.json status.json writers.json providers.json volumes.json sets.json snapshots.json "sets/$first.json" etc/vssd.conf \
        etc/writers.d/x.json log/vssd.log mountinfo; do
        grep -qx "$file" list || die "$file is missing in the report"
done
! grep -q link list || die "the report follows links"
mkdir unpacked
tar -C unpacked -xf "$path"
! grep -r 'hun.*ter2' unpacked || die "a secret is in the report"
grep -q 'idle=7' unpacked/etc/vssd.conf || die "the configuration is gone"
jq -e '.name == "kept"' unpacked/etc/writers.d/x.json >/dev/null || die "a document was damaged"
jq -e '.writers | length == 2' unpacked/writers.json >/dev/null
expect_exit 1 "$program" report "$path" 2>/dev/null
expect_equal mine.tar "$("$program" --json report mine.tar | json .path)" path
DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere expect_exit 0 "$program" report without.tar >/dev/null
tar -tf without.tar | finds -x error || die "the report does not say that the service is away"

note "--host: all words arrive there, and a host is never an option"
mkdir bin
cat >bin/ssh <<-'END'
	#!/bin/bash
	printf '%s\n' "$@" >ssh.words
	shift $(($# - 1))
	eval "set -- $1"
	printf '%s\n' "$@" >ssh.command
END
chmod +x bin/ssh
PATH=$PWD/bin:$PATH "$program" --json -H root@db1 create "/srv/it's" --label=a='b c' </dev/null
expect_equal $'--\nroot@db1' "$(head -n 2 ssh.words)" "words before the command"
expect_equal $'vssctl\n--json\ncreate\n/srv/it\'s\n--label=a=b c' "$(cat ssh.command)" "the command there"
PATH=$PWD/bin:$PATH "$program" status --host=-oProxyCommand=evil </dev/null
expect_equal $'--\n-oProxyCommand=evil' "$(head -n 2 ssh.words)" "a host that looks like an option"
PATH=$PWD/bin:$PATH "$program" run /a -H h -- ls -H x </dev/null
expect_equal $'vssctl\nrun\n/a\n--\nls\n-H\nx' "$(cat ssh.command)" "a command with an option like ours"
printf '#!/bin/bash\nexit $SSH_STATUS\n' >bin/ssh
SSH_STATUS=8 PATH=$PWD/bin:$PATH expect_exit 8 "$program" status -H h 2>"$err"
[ ! -s "$err" ] || die "a second line about an error of the other side"
SSH_STATUS=255 PATH=$PWD/bin:$PATH expect_exit 13 "$program" --json status -H h >"$out" 2>"$err"
expect_equal org.vssd.Vss1.Error.Unavailable "$(json .error.name <"$out")" "error of an unreachable host"
SSH_STATUS=255 PATH=$PWD/bin:$PATH expect_exit 255 "$program" run /a -H h -- false

note "a password is asked for on a terminal, by an agent that is ready before the call, and only there"
cat >bin/pkttyagent <<-'END'
	#!/bin/bash
	echo "$*" >"$AGENT_SEEN"
	sleep 0.2
	echo ready >>"$AGENT_SEEN"
	eval "exec $2>&-"
	exec sleep 100
END
chmod 755 bin bin/pkttyagent
mkdir -m 777 world
export AGENT_SEEN=$PWD/world/agent
in_terminal() { PATH=$PWD/bin:$PATH run_as nobody script -qec "$1" /dev/null >"$out" 2>&1 </dev/null; }
in_terminal "$program delete nightly --dry-run"
expect_equal ready "$(tail -n 1 "$AGENT_SEEN")" "the agent"
grep -q -- '--fallback' "$AGENT_SEEN" || die "the agent would replace a better one"
! pgrep -x sleep >/dev/null || die "the agent outlives vssctl"
rm "$AGENT_SEEN"
in_terminal "$program --no-pager sets"
in_terminal "$program delete nightly --dry-run --no-ask-password"
run_as nobody env PATH="$PWD/bin:$PATH" "$program" delete nightly --dry-run </dev/null >/dev/null
[ ! -e "$AGENT_SEEN" ] || die "an agent was started for nothing"

note "completion"
# shellcheck source=/dev/null
. "$VSS_SOURCE/client/vssctl.bash"
# complete_words WORD…: what may follow; the last word is being typed
complete_words() {
        COMP_WORDS=(vssctl "$@")
        COMP_CWORD=$#
        COMPREPLY=()
        _vssctl
        printf '%s\n' "${COMPREPLY[@]}"
}
PATH=$VSS_BUILD/client:$PATH
complete_words cre | finds -x create || die "verbs"
complete_words test | finds -x test-backup || die "a verb of two words"
complete_words test-backup --in | finds -- --into= || die "options of a verb of two words"
complete_words show 5e7 | finds -x "$first" || die "ids"
complete_words writers sq | finds -x sqlite@book || die "writers"
complete_words create /srv | finds -x /srv/db || die "volumes"
complete_words create --req | finds -- --require || die "options"
complete_words create --writer=ev | finds 'evil' || die "writers as values"
complete_words create --require=a | finds application || die "levels"
complete_words delete c0de | finds c0de0000 || die "snapshots"
complete_words prune --keep-w | finds -- --keep-within || die "rules of prune"
complete_words prune --volume=/srv | finds -x -- --volume=/srv/db || die "volumes of prune"
