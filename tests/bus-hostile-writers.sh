#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every way of vss-testwriter to attack: refused in words that say what is wrong, the set and the other writer are none the
# worse for it, the list shows the error, and vssd has not grown by more than 16 MiB at the end of it all.
VSS_TEST_SECONDS=280
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
. "$(dirname "$0")/hazards.sh"
requires mkfs.ext4

new_fs data ext4 64M
start_bus
configure Timeouts identify=5 prepare_backup=5 prepare_snapshot=5 freeze=8 hold=5 thaw=5 post_snapshot=5 abort=2
start_vssd
testwriter --name=good --volume="$data"
good_log=$WRITER_LOG
hostile=$VSS_BUILD/writers/vss-testwriter
# valgrind's memory is not that of vssd inside it, and a sanitizer keeps what was freed
kilobytes() {
        if [ -n "${VSSD_WRAPPER:-}" ] || grep -q libasan "/proc/$VSSD_PID/maps"; then
                echo 0
        else
                awk '$1 == "VmRSS:" {print $2}' "/proc/$VSSD_PID/status"
        fi
}

# one of everything first, so that what is made once counts for nothing
create --provider=null "$data"
delete_all
vssctl writers >/dev/null
before=$(kilobytes)

# in_words FILE: errors of the contract with a text, nothing from C or from the attacker's terminal
in_words() {
        grep -v ' accepted$' "$1" | while read -r _ mode what name text; do
                case $name in org.vssd.Vss1.Error.* | org.freedesktop.DBus.Error.InvalidArgs | org.freedesktop.DBus.Error.UnknownMethod) ;;
                *) die "$mode $what was refused with $name" ;;
                esac
                [ ${#text} -ge 12 ] || die "$mode $what is refused with no more words than '$text'"
        done
}

mapfile -t modes < <("$hostile" --hostile=help | awk '{print $1}')
[ ${#modes[@]} -ge 11 ] || die "modes: ${modes[*]}"
for mode in "${modes[@]}"; do
        log=$VSS_TEST_DIR/$mode
        note "$mode"
        case $mode in
        bad-registrations)
                "$hostile" --name=evil --hostile=$mode >"$log"
                # a wish for more time than the service gives is as good as none
                grep -v ' freeze-timeout-max ' "$log" | grep ' accepted$' >&2 && die "$mode: something was accepted"
                [ "$(wc -l <"$log")" -ge 17 ] || die "$mode: not everything was tried"
                in_words "$log" ;;
        register-flood)
                for _ in 1 2 3; do
                        timeout 60 "$hostile" --name=evil --hostile=$mode >"$log"
                        accepted=$(awk '{print $4}' "$log")
                        [ "$accepted" -ge 500 ] && [ "$accepted" -le 1024 ] || die "$accepted writers of one connection were accepted"
                done
                note "$accepted accepted each time" ;;
        *)
                "$hostile" --name=evil --hostile=$mode --volume="$data" >"$log" 2>"$log.err" &
                pid=$!
                wait_until 10 grep -q '^ready evil' "$log" || die "$mode: $(cat "$log.err")"
                for _ in 1 2 3 4 5 6 7; do
                        status=0
                        vssctl --json create --provider=null "$data" >"$log.set" 2>"$log.set.err" || status=$?
                        case $mode:$status in
                        # it has no data that anybody knows of, or nobody relies on it: no reason to fail, unless it is to take part
                        wrong-answers:5 | reply-flood:[05]) ;;
                        wrong-answers:0) die "$mode: the set is called good" ;;
                        *:0) ;;
                        *:5) ;;
                        *) die "$mode: create ended with $status: $(cat "$log.set")" ;;
                        esac
                        [ "$status" = 0 ] || [ "$(json .error.message <"$log.set" | wc -c)" -ge 20 ] || die "$mode: $(cat "$log.set")"
                done
                vssctl --json writers >"$log.writers"
                error=$(jq -r '.writers[] | select(.name == "evil") | .error.message // empty' "$log.writers")
                case $mode in
                reply-flood) ;;
                *) [ ${#error} -ge 12 ] || die "$mode: the list says nothing of it: $(cat "$log.writers")" ;;
                esac
                note "status $status: $error"
                grep -q "$(printf '[\001-\010\033]')" "$log.writers" && die "$mode: control characters come through"
                expect_exit 0 vssctl --json create --provider=null --exclude-writer=evil "$data" >/dev/null
                delete_all
                kill -TERM $pid 2>/dev/null || :
                wait $pid 2>/dev/null || : ;;
        esac
        kill -0 "$VSSD_PID" || die "$mode: vssd is gone"
        note "$mode: $(($(kilobytes) - before)) KiB more than before"
done

events good "$good_log" | tail -n 1 | grep -qx freeze && die "the good writer was left frozen"
expect_exit 0 vssctl --json create --provider=null "$data" >/dev/null
wait_until 5 sh -c "[ \$(wc -l <'$VSS_TEST_DIR/log/vssd.log') -lt 20000 ]" || die "the log has $(wc -l <"$VSS_TEST_DIR/log/vssd.log") lines"
grown=$(($(kilobytes) - before))
echo "grew by $grown KiB"
if ldd "$VSS_BUILD/daemon/vssd" | grep -q libasan; then
        note "a sanitizer keeps what was freed: its size says nothing"
        exit 0
fi
[ $grown -le 16384 ] || die "vssd grew by $grown KiB"
