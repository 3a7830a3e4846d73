#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl restore between staging and the end: all of a component changes places or nothing, whatever fails or ends it there.
VSS_TEST_SECONDS=110
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 jq python3 chattr fsfreeze

new_fs data ext4 64M

fill() {
        rm -rf "${data:?}"/*
        mkdir -p "$data/a/deep"
        for f in one two three; do echo $f >"$data/a/$f"; done
        echo deep >"$data/a/deep/four"
}

# begin_case RESTORE [WRITER-OPTION…]: files, a backup of them in saved, a writer, a manifest in M; then all is changed
begin_case() {
        M=$VSS_TEST_DIR/manifest
        cat >"$VSS_TEST_DIR/doc" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"shop"},"backup_schema":[],"restore":$1,
		 "components":[{"path":"all","type":"${TYPE:-file-group}","selectable":true,"files":[{"root":"$data/a","pattern":"*","recursive":true}]}${OTHER:-}]}
	DOCUMENT
        fill
        [ -z "${MORE:-}" ] || "$MORE"
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say "${@:2}"
        create --provider=null --manifest="$M" --component=shop:all ${OTHER:+--component=shop:other} "$data"
        rm -rf "$VSS_TEST_DIR/saved" && mkdir -p "$VSS_TEST_DIR/saved$data"
        cp -a "$data/." "$VSS_TEST_DIR/saved$data"
        for f in one two three deep/four; do echo "changed $f" >"$data/a/$f"; done
}

restored() { # CODE OPTION…: document in DOC
        DOC=$VSS_TEST_DIR/restored.json
        local got=0
        vssctl --json restore "$M" --from="$VSS_TEST_DIR/saved" "${@:2}" >"$DOC" 2>"$DOC.err" || got=$?
        [ $got -eq "$1" ] || die "restore ${*:2} ended with $got, not $1: $(cat "$DOC" "$DOC.err")"
        nothing_beside
}
nothing_beside() { expect_equal "" "$(find "$data" -name '.vss-restore-*')" "files beside their places"; }
part() { jq -r ".components[0]$1" "$DOC"; }
old="changed one,changed two,changed three,changed deep/four" new="one,two,three,deep"
contents() { expect_equal "$1" "$(cat "$data/a/one" "$data/a/two" "$data/a/three" "$data/a/deep/four" | paste -sd,)" "files"; }

# in_background OPTION…: vssctl restore on a frozen file system, so that it cannot get beyond staging; RESTORE is its PID
in_background() {
        DOC=$VSS_TEST_DIR/restored.json
        fsfreeze -f "$data"
        "$VSS_BUILD/client/vssctl" --json restore "$M" --from="$VSS_TEST_DIR/saved" "$@" >"$DOC" 2>"$DOC.err" &
        RESTORE=$!
        in_session() { grep -q '^event shop pre-restore .* ok' "$WRITER_LOG"; }
        wait_until 10 in_session || die "PreRestore did not come"
        sleep 0.3
}
ended_with() { # CODE
        local got=0
        fsfreeze -u "$data"
        wait "$RESTORE" || got=$?
        expect_equal "$1" $got "exit status: $(cat "$DOC" "$DOC.err")"
        nothing_beside
}

fake_systemctl() {
        mkdir -p "$VSS_TEST_DIR/bin"
        cat >"$VSS_TEST_DIR/bin/systemctl" <<-'SCRIPT'
		#!/bin/bash
		echo "$1 $(cat "$WATCHED")" >>"$CALLS"
		[ "$1" != stop ] || eval "$AT_STOP"
		[ "$1" != "$FAILS" ]
	SCRIPT
        chmod 0755 "$VSS_TEST_DIR/bin/systemctl"
        export CALLS=$VSS_TEST_DIR/calls FAILS='' AT_STOP='' WATCHED=$data/a/one PATH=$VSS_TEST_DIR/bin:$PATH
        : >"$CALLS"
}
calls() { paste -sd, "$CALLS"; }

case_a_writer_was_lost_during_staging() {
        begin_case null
        in_background
        stop_process "$WRITER_PID"
        testwriter --name=shop --document="$VSS_TEST_DIR/doc" --say
        ended_with 5
        contents "$old"
        expect_equal none "$(part .status)" "status"
        part .error.message | grep -q 'nothing was replaced' || die "the reason: $(part .error)"
        delete_all
}

# vssd starts again in the last case: it belongs to that
case_the_session_ended_during_staging() {
        # all is told although PostRestore fails: the files are back
        fake_systemctl
        begin_case '{"method":"restore-stop-start"}' --die=post-restore
        restored 5 --service=shop.service
        contents "$new"
        expect_equal all "$(part .status)" "status"
        begin_case null
        in_background
        stop_vssd
        start_vssd
        ended_with 4
        contents "$old"
        expect_equal none "$(part .status)" "status"
        part .error.message | grep -q 'nothing was replaced' || die "the reason: $(part .error)"
        delete_all
}

case_what_cannot_be_replaced_is_seen_before() {
        local method
        fake_systemctl
        for method in null '{"method":"stop-restore-start"}'; do
                begin_case "$method"
                chattr +i "$data/a/two"
                restored 3 --service=shop.service
                chattr -i "$data/a/two"
                contents "$old"
                : >"$VSS_TEST_DIR/other"
                mount --bind "$VSS_TEST_DIR/other" "$data/a/two"
                restored 8 --service=shop.service --dry-run
                restored 8 --service=shop.service
                umount "$data/a/two"
                contents "$old"
                rm "$data/a/two" && mkdir "$data/a/two"
                restored 1 --service=shop.service
                rmdir "$data/a/two" && echo "changed two" >"$data/a/two"
                contents "$old"
                expect_equal none "$(part .status)" "status"
                stop_process "$WRITER_PID"
        done
        expect_equal "" "$(calls)" "calls: the service need not have been stopped"
        delete_all
}

case_one_that_fails_takes_the_others_back() {
        fake_systemctl
        begin_case '{"method":"stop-restore-start"}'
        local inode
        inode=$(stat -c %i "$data/a/one")
        # all is looked at before the stop; then one file gets immutable
        AT_STOP="chattr +i $data/a/two" restored 3 --service=shop.service
        chattr -i "$data/a/two"
        contents "$old"
        expect_equal "$inode" "$(stat -c %i "$data/a/one")" "inode of a file that went back"
        expect_equal none "$(part .status)" "status"
        expect_equal "stop changed one,start changed one" "$(calls)" "calls"
        stop_process "$WRITER_PID"
        # what is too much and cannot be removed is seen before, too
        : >"$CALLS"
        more() { mkdir "$data/a/empty"; }
        MORE="more" TYPE=database begin_case '{"method":"stop-restore-start"}'
        mkdir "$data/a/late"
        : >"$data/a/late/segment"
        chattr +i "$data/a/late/segment"
        restored 1 --service=shop.service
        contents "$old"
        expect_equal "none stop changed one,start changed one" "$(part .status) $(calls)" "status and calls"
        chattr -i "$data/a/late/segment"
        # half-way: a directory's attributes come last; the service is not started on that
        : >"$CALLS"
        chattr +i "$data/a/empty"
        restored 3 --service=shop.service
        chattr -i "$data/a/empty"
        expect_equal "failed stop changed one" "$(part .status) $(calls)" "status and calls"
        part .error.message | grep -q 'so shop.service was not started' || die "the reason: $(part .error)"
        restored 0 --service=shop.service
        contents "$new"
        [ ! -e "$data/a/late" ] || die "what the backup does not have is left"
        delete_all
}

case_a_unit_is_called_once_and_after_a_failed_stop_too() {
        fake_systemctl
        begin_case '{"method":"stop-restore-start"}'
        FAILS=stop restored 1 --service=shop.service
        contents "$old"
        expect_equal "stop changed one,start changed one" "$(calls)" "calls"
        stop_process "$WRITER_PID"
        # of two components of the unit the first is refused
        : >"$CALLS"
        more() { mkdir "$data/b" && echo other >"$data/b/other"; }
        MORE="more" OTHER=',{"path":"other","type":"file-group","selectable":true,"files":[{"root":"'"$data"'/b","pattern":"*"}]}' \
                begin_case '{"method":"stop-restore-start"}'
        echo changed >"$data/b/other"
        chattr +i "$data/a/two"
        restored 3 --service=shop.service
        chattr -i "$data/a/two"
        contents "$old"
        expect_equal "other stop changed one,start changed one" "$(cat "$data/b/other") $(calls)" "the other file and calls"
        delete_all
}

case_signals() {
        fake_systemctl
        begin_case '{"method":"stop-restore-start"}'
        in_background --service=shop.service
        grep -q '^SigIgn:.*[13579bdf].......$' "/proc/$RESTORE/status" || die "SIGIO: $(grep ^Sig "/proc/$RESTORE/status")"
        kill -TERM "$RESTORE"
        ended_with 143
        contents "$old"
        expect_equal "none org.vssd.Vss1.Error.Cancelled" "$(part .status) $(part .error.name)" "status"
        expect_equal "" "$(calls)" "calls"
        grep -qx 'told shop post-restore all status none' "$WRITER_LOG" || die "the writer was not told: $(grep post-restore "$WRITER_LOG")"
        # from the stop to the start they wait
        # shellcheck disable=SC2016
        AT_STOP='for s in INT TERM HUP; do kill -$s $PPID; kill -$s $$; done' restored 0 --service=shop.service
        contents "$new"
        expect_equal "stop changed one,start one" "$(calls)" "calls"
        delete_all
}

case_what_a_killed_run_left_is_removed() {
        local files own alive
        begin_case null
        # what such a run leaves, made here by the name that one used: new files and an old one; and a file of another kind
        own=$(temporary_of_a_run) || die "no name"
        echo dead >"$data/a/$own"
        ln -s dead "$data/a/deep/$own"
        echo old >"$data/a/${own/-new-/-old-}"
        echo strange >"$data/a/.vss-restore-mine"
        alive=.vss-restore-new-${own:17:8}$(printf '%08x%08x' $$ "$(awk '{print $22}' /proc/$$/stat)")-00000000-one
        echo alive >"$data/a/$alive"
        local got=0
        vssctl restore "$M" --from="$VSS_TEST_DIR/saved" >/dev/null || got=$?
        expect_equal 0 $got "exit status"
        contents "$new"
        files=$(cd "$data/a" && find . -name '.vss-restore-*' | sort | paste -sd,)
        expect_equal "./.vss-restore-mine,./$alive,./${own/-new-/-old-}" "$files" "what is left"
        rm "$data/a"/.vss-restore-*
        delete_all
}

# temporary_of_a_run: the name of a temporary file of a run that is over, taken while it could not go on
temporary_of_a_run() {
        local name pid
        rm -f "$VSS_TEST_DIR/names"
        python3 - "$data" >"$VSS_TEST_DIR/names" <<-'PYTHON' &
		import ctypes, os, struct, sys
		libc = ctypes.CDLL(None, use_errno=True)
		fd = libc.inotify_init()
		libc.inotify_add_watch(fd, os.fsencode(sys.argv[1] + "/a"), 0x100)
		print("watching", flush=True)
		data = os.read(fd, 4096)
		n = struct.unpack_from("iIII", data)[3]
		print(data[16:16 + n].rstrip(b"\0").decode(), flush=True)
	PYTHON
        pid=$!
        wait_until 5 grep -q watching "$VSS_TEST_DIR/names" || return 1
        vssctl restore "$M" --from="$VSS_TEST_DIR/saved" >/dev/null || return 1
        wait $pid
        name=$(tail -1 "$VSS_TEST_DIR/names")
        for f in one two three deep/four; do echo "changed $f" >"$data/a/$f"; done
        echo "$name"
}

case_attributes_and_device_nodes() {
        more() {
                mknod "$data/a/device" c 1 3
                mkfifo "$data/a/fifo"
                chmod 0666 "$data/a/fifo"
                ln -s one "$data/a/link"
                chown -h nobody "$data/a/link" "$data/a/fifo"
        }
        MORE="more" begin_case '{"method":"if-can-replace"}'
        rm "$data/a/device" "$data/a/fifo" "$data/a/link" "$data/a/one"
        # a default ACL: u::rwx u:1:rwx g::rwx m::rwx o::rwx
        python3 -c 'import os, struct, sys
entries = [(1, -1), (2, 1), (4, -1), (16, -1), (32, -1)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", tag, 7, who) for tag, who in entries)
os.setxattr(sys.argv[1], "system.posix_acl_default", acl)' "$data/a"
        (umask 077 && restored 0)
        contents "$new"
        expect_equal "[]" "$(python3 -c 'import os, sys; print(os.listxattr(sys.argv[1]))' "$data/a/one")" "ACL that the directory gave"
        expect_equal "666 nobody nobody" "$(stat -c '%a %U' "$data/a/fifo") $(stat -c %U "$data/a/link")" "mode and owner"
        [ ! -e "$data/a/device" ] || die "a device node was made"
        DOC=$VSS_TEST_DIR/restored.json
        part '.files[] | select(.path | endswith("/device")) | "\(.status) \(.message)"' | grep -q '^untouched .*--device-nodes' ||
                die "files: $(part .files)"
        restored 0 --device-nodes
        expect_equal "1:3" "$(stat -c %t:%T "$data/a/device")" "device"
        delete_all
}

case_a_directed_file_is_no_longer_than_the_backup() {
        fake_systemctl
        begin_case '{"method":"stop-restore-start"}' --answer=pre-restore:all:target=directed \
                --answer=pre-restore:all:directed_targets='[{"path":"'"$data"'/a/one","ranges":[],"to":"'"$data"'/longer","to_ranges":[]}]'
        echo "something longer than the file" >"$data/longer"
        restored 0 --service=shop.service
        expect_equal one "$(cat "$data/longer")" "the directed file"
        expect_equal restored "$(part '.files[] | select(.path | endswith("/a/one")) | .status')" "status of the directed file"
        echo longer >"$data/longer"
        AT_STOP="chattr +i $data/a/two" restored 3 --service=shop.service
        chattr -i "$data/a/two"
        expect_equal "longer 0" "$(cat "$data/longer") $(jq '[.components[0].files[] | select(.status == "restored")] | length' "$DOC")" "the directed file of a component that is not touched"
        delete_all
}

case_a_writer_adds_files() {
        local add=--answer=pre-restore:all:added_files=
        row() { printf '{"path":"%s","how":"%s","text":"%s"}' "$data/a/$1" "$2" "$3"; }
        begin_case null "${add}[$(row one append more),$(row two replace 'instead'),$(row three absent ''),$(row added append 'new'),$(row none absent '')]"
        echo late >"$data/a/none"
        restored 0
        expect_equal "one more instead new" "$(for f in one two added; do cat "$data/a/$f"; echo; done | xargs)" "what was added"
        expect_equal "changed three" "$(cat "$data/a/three")" "the file that is not restored"
        expect_equal "regular file $(stat -c %U:%G "$VSS_TEST_DIR/saved$data/a") 600" "$(stat -c '%F %U:%G %a' "$data/a/added")" "the file that is new"
        expect_equal restored "$(part '.files[] | select(.path | endswith("/a/added")) | .status')" "its status"
        stop_process "$WRITER_PID"
        for f in '../out:replace:x' '../../etc/x:replace:x' ':replace:x' 'one:often:x' 'deep:replace:x' "big:replace:$(printf 'x%.0s' {1..65537})"; do
                begin_case null "${add}[$(row "${f%%:*}" "$(cut -d: -f2 <<<"$f")" "${f##*:}")]"
                contents "$old"
                restored 5
                contents "$old"
                [ ! -e "$data/out" ] || die "a file was added outside of the component"
                stop_process "$WRITER_PID"
        done
        TYPE=database begin_case null "${add}[$(row three absent '')]"
        restored 0
        [ ! -e "$data/a/three" ] || die "what a database is not to have is there"
        delete_all
}

case_if_not_there_stays_so() {
        begin_case '{"method":"if-not-there"}'
        rm "$data"/a/{one,two,three,deep/four}
        in_background
        # blocks as well, and then is much faster than all of the staging; later would be good too
        bash -c 'echo appeared >"$1"' - "$data/a/two" &
        local pid=$!
        sleep 0.2
        fsfreeze -u "$data"
        wait $pid
        wait "$RESTORE" || :
        nothing_beside
        expect_equal appeared "$(cat "$data/a/two")" "the file that appeared, or came later"
        delete_all
}

start_bus
start_vssd
cases what_cannot_be_replaced_is_seen_before one_that_fails_takes_the_others_back \
        a_unit_is_called_once_and_after_a_failed_stop_too signals what_a_killed_run_left_is_removed attributes_and_device_nodes \
        a_directed_file_is_no_longer_than_the_backup a_writer_adds_files if_not_there_stays_so a_writer_was_lost_during_staging \
        the_session_ended_during_staging
