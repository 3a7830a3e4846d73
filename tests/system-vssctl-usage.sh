#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Wrong command lines: each ends with 2 and exactly one line on stderr, before anything is asked of the service. Without a
# service every verb ends with 13 at once.
. "$(dirname "$0")/functions.sh"
# as grep -q, but reads to the end: a closed pipe would end the command before it
finds() { grep "$@" >/dev/null; }
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$VSS_TEST_DIR/none
long=$(printf 'x%.0s' {1..5000})
count=0

# wrong ARGUMENT…
wrong() {
        local status=0
        vssctl "$@" >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err" </dev/null || status=$?
        [ $status -eq 2 ] || die "'vssctl ${*:0:80}' ended with $status, expected 2"
        [ ! -s "$VSS_TEST_DIR/out" ] || die "'vssctl ${*:0:80}' wrote on stdout"
        [ "$(wc -l <"$VSS_TEST_DIR/err")" -eq 1 ] || die "'vssctl ${*:0:80}' did not write exactly one line: $(cat "$VSS_TEST_DIR/err")"
        [ "$(wc -c <"$VSS_TEST_DIR/err")" -le 600 ] || die "'vssctl ${*:0:80}' writes a very long line"
        ! grep -q $'[\x01-\x08\x0b-\x1f\x7f]' "$VSS_TEST_DIR/err" || die "control characters reach the terminal"
        grep -q '^vssctl' "$VSS_TEST_DIR/err" || die "the line does not say who speaks"
        count=$((count + 1))
}

note "no verb, no such verb, verbs of later versions"
wrong
wrong ''
wrong --
wrong --json-no
wrong nonsense
wrong $'non\nsense\e[31m'
wrong "$long"
for verb in diff export revert volume storage script shell metrics pin unpin label detach import list; do wrong $verb; done
wrong CREATE /x
wrong creat /x

note "options that are none, or have no value, or too much of it"
for verb in status volumes providers sets; do
        wrong $verb operand
        wrong $verb --nonsense
        wrong $verb --dry-run
        wrong $verb -z
done
wrong status --json=yes
wrong status --timeout
wrong status --timeout=
wrong status --timeout=abc
wrong status --timeout=-1
wrong status --timeout=1e5
wrong status --timeout=nan
wrong status --timeout=inf
wrong status --timeout=1..2
wrong status --timeout=99999999999999999999
wrong status --timeout=1 --timeout=2
wrong status --host=
wrong status -H
wrong status --host="$long"
wrong status --jso
wrong status "--$long"
wrong status "-$long"
wrong status $'--\e[1mbold'

note "operands"
wrong show
wrong show ''
wrong show "$long"
wrong show a b
wrong writers a b
wrong writers ''
wrong writers 'A B'
wrong writers ../etc
wrong snapshots x
wrong snapshots --volume=
wrong snapshots --volume="$long"
wrong snapshots --volume=/a --volume=/b
wrong mount
wrong mount ''
wrong mount a b c
wrong mount a ''
wrong umount
wrong umount a b
wrong cancel
wrong cancel a b
wrong complete
wrong complete a b
wrong complete a --component=
wrong complete a --component=x
wrong complete a --component=:y
wrong complete a --component=Bad:y
wrong complete a --manifest=
wrong timeline
wrong timeline a b
wrong timeline a --svg=
wrong delete
wrong delete ''
wrong delete "$long"
wrong delete --volume=
wrong delete --volume=/a
wrong delete --volume=/a --oldest --all
wrong delete --volume=/a --all 1234
wrong delete --oldest
wrong delete --all 1234
wrong delete 1234 ''
wrong test-backup
wrong test-backup selection
wrong test-backup --into=/x
wrong test-backup a b --into=/x
wrong test-backup a --into=
wrong test-backup a --into=/x --type=full
wrong prune
wrong prune --dry-run
wrong prune --volume=/a
wrong prune /a --keep-last=1
wrong prune --volume= --keep-last=1
wrong prune --keep-last
wrong prune --keep-last=
wrong prune --keep-last=-1
wrong prune --keep-daily=all
wrong prune --keep-daily=1.5
wrong prune --keep-daily=10000
wrong prune --keep-daily=1 --keep-daily=2
wrong prune --keep-minutely=1
wrong prune --keep-within=
wrong prune --keep-within=7
wrong prune --keep-within=7s
wrong prune --keep-within=1h1d
wrong prune --keep-within=-1d
wrong prune --keep-within="$long"
wrong prune --keep-last=1 --label=x
wrong prune --keep-last=1 --force

note "create, plan, run"
for verb in create plan run; do
        end=()
        [ $verb = run ] && end=(-- true)
        wrong $verb "${end[@]}"
        wrong $verb '' "${end[@]}"
        wrong $verb "$long" "${end[@]}"
        wrong $verb /x '' "${end[@]}"
        wrong $verb /x --writer= "${end[@]}"
        wrong $verb /x --writer=A "${end[@]}"
        wrong $verb /x --writer=a@b@c "${end[@]}"
        wrong $verb /x --writer=../x "${end[@]}"
        wrong $verb /x --exclude-writer=9 "${end[@]}"
        wrong $verb /x --require-writer='a b' "${end[@]}"
        wrong $verb /x --no-writers --writer=a "${end[@]}"
        wrong $verb /x --no-writers --require-writer=a "${end[@]}"
        wrong $verb /x --no-writers=1 "${end[@]}"
        wrong $verb /x --on-writer-failure=ignore "${end[@]}"
        wrong $verb /x --component=a "${end[@]}"
        wrong $verb /x --component=a: "${end[@]}"
        wrong $verb /x --writer-option=a:b "${end[@]}"
        wrong $verb /x --writer-option=a:=c "${end[@]}"
        wrong $verb /x --closure=all "${end[@]}"
        wrong $verb /x --closure=strict --closure=ignore "${end[@]}"
        wrong $verb /x --freeze-unit=a/b "${end[@]}"
        wrong $verb /x --freeze-unit= "${end[@]}"
        wrong $verb /x --type=FULL "${end[@]}"
        wrong $verb /x --type= "${end[@]}"
        wrong $verb /x --provider=Bad "${end[@]}"
        wrong $verb /x --provider=../x.so "${end[@]}"
        wrong $verb /x --require=best "${end[@]}"
        wrong $verb /x --label=x "${end[@]}"
        wrong $verb /x --label==x "${end[@]}"
        wrong $verb /x --label='a b=c' "${end[@]}"
        wrong $verb /x --wait-for-turn=soon "${end[@]}"
        wrong $verb /x --wait-for-turn=-0 "${end[@]}"
        wrong $verb /x --retry=-1 "${end[@]}"
        wrong $verb /x --retry=1.5 "${end[@]}"
        wrong $verb /x --retry=1000000000000 "${end[@]}"
done
wrong create /x --persistent --auto-release
wrong create /x --exec=
wrong create /x --keep
wrong plan /x --exec=true
wrong plan /x --dry-run
wrong run /x
wrong run /x --
wrong run /x true
wrong run /x --auto-release -- true
note "$count wrong command lines"

note "with --json the error is on stdout too, one document"
expect_exit 2 vssctl create --json /x --require=best >"$VSS_TEST_DIR/out" 2>/dev/null
expect_equal org.vssd.Vss1.Error.InvalidArgument "$(json .error.name <"$VSS_TEST_DIR/out")" error.name
expect_equal 1 "$(jq -s length <"$VSS_TEST_DIR/out")" "number of documents"

note "help and version"
for verb in status volumes writers providers sets snapshots show timeline plan create run mount umount complete cancel delete prune monitor report restore test-backup; do
        [ "$(vssctl $verb --help 2>&1 | grep -c '^Examples:')" = 1 ] || die "$verb --help has no examples"
        vssctl --help | finds "^  $verb " || die "$verb is missing in --help"
done
[[ $(vssctl --version) =~ ^vssctl\ [0-9]+\.[0-9]+ ]] || die "--version"
[[ $(vssctl --json --version | json .version) =~ ^[0-9]+\.[0-9]+ ]] || die "--json --version"

note "no service: 13, at once, before and after the verb"
begin=$SECONDS
for words in status volumes writers "writers x" providers sets snapshots "show abcd" "plan /" "create /" "create / --dry-run" "mount abcd" \
        "umount abcd" "complete abcd" "cancel abcd" "delete abcd" "delete --volume=/ --all" "prune --keep-last=1" "timeline abcd" "monitor"; do
        # shellcheck disable=SC2086
        expect_exit 13 vssctl $words >"$VSS_TEST_DIR/out" 2>"$VSS_TEST_DIR/err"
        expect_equal 1 "$(wc -l <"$VSS_TEST_DIR/err")" "lines on stderr of $words"
        # shellcheck disable=SC2086
        expect_exit 13 vssctl --json $words >"$VSS_TEST_DIR/out" 2>/dev/null
        expect_equal org.vssd.Vss1.Error.Unavailable "$(json .error.name <"$VSS_TEST_DIR/out")" "error of $words"
done
expect_exit 125 vssctl run / -- true 2>"$VSS_TEST_DIR/err"
grep -q 'exit code 13' "$VSS_TEST_DIR/err" || die "run does not tell the real code"
note "a bus without the service"
start_bus
expect_exit 13 vssctl status 2>/dev/null
expect_exit 13 vssctl create / 2>/dev/null
[ $((SECONDS - begin)) -lt 10 ] || die "an unreachable service takes $((SECONDS - begin)) s"
