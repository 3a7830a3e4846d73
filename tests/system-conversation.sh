#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What requester and writers say to each other about a backup: which components are taken and with what, which type, what a
# writer wants to be remembered and is told the next time, and which files of a component are to be saved.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/rows.sh"
requires mkfs.ext4 mkfs.btrfs
watchdog 200
one='' two='' tree='' LOG_back='' LOG_plain='' LOG_whole=''

new_fs one ext4 32M
new_fs two ext4 32M
new_fs tree btrfs 128M
manifest=$VSS_TEST_DIR/manifest

# document NAME COMPONENTS [SCHEMA-WORDS [MORE]]: a writer metadata document in VSS_TEST_DIR/NAME.json
document() {
        cat >"$VSS_TEST_DIR/$1.json" <<-DOCUMENT
		{"schema":1,"kind":"writer-metadata","requires":[],"writer":{"name":"$1","usage":"${USAGE:-user-data}"},
		 "backup_schema":[${3:-}],"components":[$2]${4:-}}
	DOCUMENT
}

# component PATH ROOT [MORE]: one component; ROOT "" has no files
component() {
        local files=''
        [ -z "$2" ] || files="{\"root\":\"$2\",\"recursive\":true}"
        printf '{"path":"%s","type":"file-group","files":[%s]%s}' "$1" "$files" "${3:-}"
}

# says NAME [OPTION…]: a test writer with that document; its log in LOG_NAME
says() {
        local name=$1
        shift
        testwriter --name="$name" --document="$VSS_TEST_DIR/$name.json" --say "$@"
        printf -v "LOG_${name//-/_}" %s "$WRITER_LOG"
}

# told NAME EVENT COMPONENT KEY: what the newest such event brought
told() {
        local log=LOG_${1//-/_}
        awk -v n="$1" -v e="$2" -v c="$3" -v k="$4" '$1 == "told" && $2 == n && $3 == e && $4 == c && $5 == k {
                $1 = $2 = $3 = $4 = $5 = ""; sub(/^ */, ""); last = $0; seen = 1} END {print last; exit !seen}' "${!log}"
}

# plan_of NAME EXPRESSION OPTION…: of that writer in the plan
plan_of() {
        local name=$1 expression=$2
        shift 2
        vssctl --json plan --provider=null "$@" | json ".writers[] | select(.name == \"$name\") | $expression"
}

# saved NAME EXPRESSION: of that writer in the manifest
saved() { json ".writers[] | select(.name == \"$1\") | $2" <"$manifest"; }

selectable=',"selectable":true'

case_a_tree_of_components_with_empty_nodes() {
        document tree "$(component shop '' "$selectable"),$(component shop/orders "$one"),$(component shop/archive '' "$selectable"),$(component shop/archive/old "$two/old")"
        mkdir -p "$two/old"
        says tree
        # a node without files is chosen for what lies below it
        create --provider=null --manifest="$manifest" --component=tree:shop
        expect_equal "$one $two" "$(set_field '[.snapshots[].mountpoint] | sort | join(" ")')" "volumes of everything below the node"
        expect_equal "shop" "$(saved tree '[.components[].path] | join(" ")')" "explicit components"
        expect_equal "shop/archive shop/archive/old shop/orders" "$(saved tree '.components[0].implicit | sort | join(" ")')" "implicit ones"
        create --provider=null --manifest="$manifest" --component=tree:shop/archive
        expect_equal "$two" "$(set_field '[.snapshots[].mountpoint] | join(" ")')" "volumes of the inner node"
        expect_equal "shop/archive shop/archive/old" "$(saved tree '[.components[0].path, .components[0].implicit[]] | join(" ")')" "what the inner node takes"
        delete_all
}

case_what_is_not_selectable_is_mandatory() {
        document must "$(component settings "$two"),$(component a "$one" "$selectable"),$(component b "$one" "$selectable"),$(component a/inner "$one")"
        says must
        create --provider=null --manifest="$manifest" --component=must:a
        expect_equal "a settings" "$(saved must '[.components[].path] | sort | join(" ")')" "explicit components"
        expect_equal "a/inner" "$(saved must '.components[] | select(.path == "a").implicit | join(" ")')" "implicit one"
        expect_equal "" "$(saved must '.components[] | select(.path == "settings").implicit | join(" ")')" "what goes with the mandatory one"
        refuse 2 --provider=null --component=must:a/inner
        set_field .error.message | grep -q 'choose "a" above it' || die "no advice: $(set_field .error.message)"
        refuse 4 --provider=null --component=must:c
        refuse 2 --provider=null --component=must:a --component=must:a/inner
        # settings alone: nothing that can be left out comes along
        create --provider=null --manifest="$manifest" --component=must:settings
        expect_equal settings "$(saved must '[.components[].path] | join(" ")')" "the mandatory one alone"
        delete_all
}

case_a_component_set_goes_as_one() {
        document whole "$(component all '' "$selectable"),$(component all/x "$one"),$(component all/y "$two"),$(component all/z "$one" "$selectable")"
        says whole
        expect_equal "all/x all/y all/z" "$(plan_of whole '.implicit | sort | join(" ")' --component=whole:all)" "the plan names them"
        # a part that cannot be taken by itself, on the volume that was named, takes the whole set
        refuse 9 --provider=null "$one"
        set_field .error.message | grep -q all/y || die "the missing part is not named: $(set_field .error.message)"
        create --provider=null --closure=extend --manifest="$manifest" "$one"
        expect_equal all "$(saved whole '[.components[].path] | join(" ")')" "entry of the set"
        expect_exit 0 vssctl complete "$SET" --component=whole:all --manifest="$manifest" >/dev/null
        expect_equal true "$(saved whole '.components[0].succeeded')" "one outcome for the whole set"
        saw whole "$LOG_whole" backup-complete && die "told of what none of its components wants to hear"
        # a part that may be taken alone
        create --provider=null --manifest="$manifest" --component=whole:all/z
        expect_equal all/z "$(saved whole '[.components[].path] | join(" ")')" "a selectable part alone"
        expect_equal all/z "$(told whole prepare-backup all/z options >/dev/null && echo all/z)" "what the writer is told of it"
        delete_all
}

case_dependencies_are_saved_together() {
        document front "$(component app "$one" "$selectable,\"depends_on\":[{\"writer\":\"back\",\"path\":\"db\"},{\"writer\":\"mail\",\"path\":\"spool\",\"host\":\"elsewhere.example\"}]")"
        document back "$(component db "$two" "$selectable"),$(component other "$two" "$selectable")"
        says front
        refuse 9 --provider=null --component=front:app
        set_field .error.message | grep -q '"db" of writer back, which is not registered' || die "what is missing is not said: $(set_field .error.message)"
        create --provider=null --on-writer-failure=degrade --component=front:app
        set_field '.warnings[]' | grep -q 'is not registered' || die "no warning of what is missing"
        says back
        create --provider=null --manifest="$manifest" --component=front:app
        expect_equal "$one $two" "$(set_field '[.snapshots[].mountpoint] | sort | join(" ")')" "volumes"
        expect_equal db "$(saved back '[.components[].path] | join(" ")')" "what was pulled in"
        set_field '.warnings[]' | grep -q '"spool" of writer mail on host elsewhere.example' || die "the other machine is not named: $(set_field .warnings)"
        saw back "$LOG_back" freeze || die "the other writer did not stand still"
        create --provider=null --exclude-writer=back --component=front:app
        set_field '.warnings[]' | grep -q 'which was left out' || die "no warning of what was left out: $(set_field .warnings)"
        refuse 9 --provider=null "$one"
        set_field .error.message | grep -qF "$two" || die "the volume of the other component is not named: $(set_field .error.message)"
        delete_all
}

case_flags_of_components() {
        document plain "$(component quiet "$one" "$selectable"),$(component loud "$one" "$selectable,\"notify_complete\":true")"
        says plain
        create --provider=null --component=plain:quiet
        expect_exit 0 vssctl complete "$SET" >/dev/null
        saw plain "$LOG_plain" backup-complete && die "BackupComplete for a component that does not want to hear of it"
        saw plain "$LOG_plain" backup-shutdown || die "no BackupShutdown"
        create --provider=null --component=plain:quiet --component=plain:loud
        expect_exit 0 vssctl complete "$SET" >/dev/null
        saw plain "$LOG_plain" backup-complete || die "no BackupComplete for a component that wants to hear of it"
        # what the machine needs to start again, wherever it lies
        USAGE=bootable-state document boot "$(component kernel "$two" "$selectable,\"system_state\":true"),$(component cache "$one" "$selectable")"
        says boot
        create --provider=null --bootable-state --manifest="$manifest"
        expect_equal kernel "$(saved boot '[.components[].path] | join(" ")')" "components of the system state"
        expect_equal "true" "$(json .backup.bootable_state <"$manifest")" "said in the manifest"
        expect_equal "true" "$(told boot prepare-backup - bootable_state)" "told to the writer"
        expect_equal 0 "$(json '.writers | map(select(.name == "plain")) | length' <"$manifest")" "other writers"
        delete_all
}

case_components_or_volumes() {
        document both "$(component x "$one" "$selectable"),$(component y "$two" "$selectable")"
        says both
        create --provider=null --manifest="$manifest" --component=both:y
        expect_equal "$two" "$(set_field '[.snapshots[].mountpoint] | join(" ")')" "volumes found from the files"
        expect_equal true "$(told both prepare-backup - component_mode)" "the mode that is told"
        expect_equal true "$(json .backup.component_mode <"$manifest")" "mode in the manifest"
        create --provider=null --manifest="$manifest" "$one"
        expect_equal x "$(saved both '[.components[].path] | join(" ")')" "components on the volume"
        expect_equal false "$(told both prepare-backup - component_mode)" "the mode that is told"
        expect_exit 2 vssctl create --provider=null 2>/dev/null
        delete_all
}

case_types_and_what_a_writer_does_instead() {
        document able "$(component db "$one" "$selectable")" '"incremental","log"'
        document plain "$(component files "$one" "$selectable")"
        says able
        says plain
        create --provider=null --type=incremental --manifest="$manifest" "$one"
        expect_equal incremental "$(told able prepare-backup - backup_type)" "type of the able one"
        expect_equal full "$(told plain prepare-backup - backup_type)" "type of the other"
        expect_equal "incremental incremental full" "$(json '"\(.backup.type) \(.writers[] | select(.name == "able").backup_type) \(.writers[] | select(.name == "plain").backup_type)"' <"$manifest")" "types in the manifest"
        set_field '.warnings[]' | grep -q 'writer plain has no incremental backup and does a full one' || die "the fallback is not reported: $(set_field .warnings)"
        expect_equal full "$(vssctl --json show "$SET" | json '.record.writers[] | select(.name == "plain").backup_type')" "type in the record"
        expect_equal full "$(plan_of able .backup_type --type=differential "$one")" "another type that it lacks"
        # a copy needs no word, and never becomes a full one
        create --provider=null "$one"
        expect_equal copy "$(told plain post-snapshot - backup_type)" "the default"
        delete_all
}

case_stamps_come_back_the_next_time() {
        local full=$VSS_TEST_DIR/full.json status=0
        document stamps "$(component db "$one" "$selectable,\"notify_complete\":true"),$(component other "$one" "$selectable")" '"incremental","differential","stamps"'
        says stamps --answer=post-snapshot:db:stamp=lsn-42 --answer=prepare-backup:db:metadata='slot "a"' --answer=prepare-backup:other:stamp=never
        create --provider=null --type=full --manifest="$full" "$one"
        expect_equal "" "$(told stamps prepare-backup db previous_stamp)" "stamp before there was one"
        expect_equal 'lsn-42 slot "a"' "$(json '.writers[0].components[] | select(.path == "db") | "\(.stamp) \(.metadata)"' <"$full")" "what the writer wants to be remembered"
        refuse 2 --provider=null --type=incremental --previous="$full" "$one"
        expect_exit 0 vssctl complete "$SET" --component=stamps:db --manifest="$full" >/dev/null
        expect_equal "lsn-42" "$(told stamps backup-complete db stamp)" "its own stamp at the end"
        create --provider=null --type=incremental --previous="$full" --manifest="$manifest" "$one"
        expect_equal lsn-42 "$(told stamps prepare-backup db previous_stamp)" "the stamp that comes back"
        expect_equal "" "$(told stamps prepare-backup other previous_stamp)" "stamp of a component that was not saved"
        expect_equal lsn-42 "$(saved stamps '.components[] | select(.path == "db").previous_stamp')" "what it builds on, in the manifest"
        expect_exit 0 vssctl complete "$SET" --manifest="$manifest" >/dev/null
        create --provider=null --type=differential --previous="$full" --component=stamps:db
        expect_equal lsn-42 "$(told stamps prepare-backup db previous_stamp)" "stamp for a component that was named"
        refuse 2 --provider=null --type=differential --previous="$manifest" "$one"
        vssctl create --provider=null --type=incremental --previous="$VSS_TEST_DIR/missing" "$one" 2>/dev/null || status=$?
        expect_equal 4 "$status" "exit code for a manifest that is not there"
        sed -i 's/lsn-42/lsn-43/' "$full"
        refuse 11 --provider=null --type=incremental --previous="$full" "$one"
        delete_all
}

case_options_reach_the_writer_they_are_for() {
        document asked "$(component db "$one" "$selectable")"
        document other "$(component db "$one" "$selectable")"
        says asked
        says other
        create --provider=null --manifest="$manifest" --writer-option=asked:mode=fast --writer-option=asked:n=a=b "$one"
        expect_equal "mode=fast|n=a=b" "$(told asked prepare-backup - options)" "options that were told"
        told other prepare-backup - options && die "another writer heard of it"
        expect_equal "mode=fast n=a=b" "$(saved asked '.options | join(" ")')" "options in the manifest"
        refuse 4 --provider=null --writer-option=nobody:k=v "$one"
        delete_all
}

case_parts_of_files_and_newer_files() {
        document parts "$(component db "$one" "$selectable")" '"incremental","last-modify"'
        local ranges='[{"path":"'$one'/db.ibd","ranges":[[0,4096],[1048576,8192]]}]'
        local newer='[{"root":"'$one'/log","pattern":"*.log","recursive":true,"since":1795000000000000}]'
        says parts --answer=prepare-backup:db:partial_files="$ranges" --answer=post-snapshot:db:differenced_files="$newer"
        create --provider=null --type=incremental --partial-files --manifest="$manifest" "$one"
        expect_equal true "$(told parts prepare-backup - partial_files)" "the writer is told that it may"
        expect_equal "[[0,4096],[1048576,8192]]" "$(saved parts '.components[0].partial_files[0].ranges | tojson')" "ranges"
        expect_equal "$one/db.ibd" "$(saved parts '.components[0].partial_files[0].path')" "file"
        expect_equal "$newer" "$(saved parts '.components[0].differenced_files | tojson')" "newer files"
        expect_exit 0 vssctl complete "$SET" --manifest="$manifest" >/dev/null
        expect_equal "$one/db.ibd" "$(saved parts '.components[0].partial_files[0].path')" "kept by complete"
        # a requester that cannot save parts gets whole files
        create --provider=null --type=incremental --manifest="$manifest" "$one"
        expect_equal 0 "$(saved parts '.components[0].partial_files | length')" "parts for a requester that cannot"
        stop_process "$WRITER_PID"
        # a file that the writer has no say over
        says parts --answer=prepare-backup:db:partial_files='[{"path":"/etc/shadow","ranges":[[0,1]]}]'
        refuse 5 --provider=null --partial-files "$one"
        stop_process "$WRITER_PID"
        says parts --answer=prepare-backup:db:partial_files='[{"path":"'"$one"'/../etc","ranges":[[0,1]]}]'
        refuse 5 --provider=null --partial-files "$one"
        delete_all
}

case_the_session_is_kept_whole() {
        document kept "$(component top '' "$selectable,\"notify_complete\":true"),$(component top/a "$one")" '"stamps"'
        says kept --answer=post-snapshot:top:stamp=s1
        create --provider=null --type=full --writer-option=kept:k=v --manifest="$manifest" "$one"
        stop_vssd
        start_vssd
        back() { writer_is kept stable; }
        wait_until 10 back || die "the writer did not come back"
        expect_exit 0 vssctl complete "$SET" --manifest="$manifest" >/dev/null
        expect_equal "top top/a s1 k=v full true" "$(saved kept '.components[0] as $c | "\($c.path) \($c.implicit[0]) \($c.stamp) \(.options[0]) \(.backup_type) \($c.succeeded)"')" "the manifest after a restart"
        expect_equal s1 "$(told kept backup-complete top stamp)" "told after a restart"
        expect_equal kept "$(json .writers[0].metadata.writer.name <"$manifest")" "the writer's own document"
        delete_all
}

# reload: exclude.d as it is now
reload() { bus_call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Reload 'a{sv}' 0 >/dev/null; }

case_files_are_removed_from_the_copy() {
        mkdir -p "$tree/cache/deep/er" "$tree/keep"
        echo x | tee "$tree/cache/a.tmp" "$tree/cache/b" "$tree/cache/deep/er/c.tmp" "$tree/keep/d.tmp" >/dev/null
        # what a hostile tree would lead elsewhere by
        ln -s "$tree/keep" "$tree/cache/link.dir"
        ln -s "$tree/keep" "$tree/way"
        document drops "$(component all "$tree" "$selectable")" '' ',"exclude_from_snapshot":[{"root":"'$tree'/cache","pattern":"*.tmp","recursive":true},{"root":"'$tree'/way","pattern":"*","recursive":true}]'
        says drops
        create --manifest="$manifest" "$tree"
        local copy
        copy=$(set_field '.snapshots[0].path')
        [ -e "$copy/cache/b" ] && [ -d "$copy/cache/deep/er" ] && [ -e "$copy/keep/d.tmp" ] || die "too much was removed: $(find "$copy")"
        [ -e "$copy/cache/a.tmp" ] || [ -e "$copy/cache/deep/er/c.tmp" ] && die "not all was removed: $(find "$copy")"
        [ -e "$tree/cache/a.tmp" ] && [ -e "$tree/cache/deep/er/c.tmp" ] || die "the live files are gone"
        touch "$copy/new" 2>/dev/null && die "the copy is still writable"
        expect_equal "2 0" "$(json '.excluded_from_snapshot[0] | "\(.removed) \(.failed)"' <"$manifest")" "what is reported"
        set_field '.warnings[]' | grep -q 'way/\* (drops) is still in the copy' || die "a symbolic link was followed or is not reported: $(set_field .warnings)"
        # where the copy cannot be written it is said
        create --manifest="$manifest" --auto-recovery=none "$tree"
        [ -e "$(set_field '.snapshots[0].path')/cache/a.tmp" ] || die "removed from a copy that was to be read-only at once"
        set_field '.warnings[]' | grep -q 'copies are read-only' || die "nobody is told"
        delete_all
}

# Between the commit and the end of PostSnapshot a copy can be written by those whose document says that they recover, and
# whom the requester lets; afterwards and otherwise by nobody.
case_the_copy_is_writable_for_those_who_recover() {
        local words who allowed copy object
        echo live >"$tree/db"
        for words in '"backup"' '"rollback"' ''; do
                document mends "$(component db "$tree" "$selectable,\"recovers\":[$words]")"
                says mends --volume="$tree" --add=label
                for who in writers rollback force none; do
                        allowed=false
                        case $who:$words in
                        writers:*backup* | rollback:*rollback* | force:*) allowed=true ;;
                        esac
                        if ! $allowed; then
                                refuse 5 --auto-recovery=$who "$tree"
                                set_field .error.message | grep -q 'cannot add label to the copy' || die "$who, recovers [$words]: $(set_field .error.message)"
                                no_snapshots "after the writer could not write"
                                continue
                        fi
                        create --auto-recovery=$who "$tree"
                        copy=$(set_field '.snapshots[0].path')
                        expect_equal "$SET live" "$(xargs <<<"$(cat "$copy/label" "$copy/db")")" "what is in the copy ($who, recovers [$words])"
                        [ ! -e "$tree/label" ] || die "the live volume was written ($who)"
                        touch "$copy/label" 2>/dev/null && die "the copy is still writable ($who)"
                        expect_equal application "$(set_field .consistency)" "level of a copy that was mended"
                        object=$(busctl call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager LookupId 'sa{sv}' "$SET" 0 | awk '{gsub("\"", ""); print $3}')
                        busctl call org.vssd.Vss1 "$object" org.vssd.Vss1.SnapshotSet OpenCopy 'sa{sv}' "$tree" 0 >/dev/null 2>"$VSS_TEST_DIR/said" &&
                                die "somebody else gets the copy to write to"
                        grep -q 'only a writer of the set may do this' "$VSS_TEST_DIR/said" || die "another reason: $(cat "$VSS_TEST_DIR/said")"
                        delete_all
                done
                stop_process "$WRITER_PID"
        done
}

case_an_administrators_lists_hold_for_every_copy() {
        mkdir -p "$CONFIGURATION_DIRECTORY/exclude.d" "$tree/scratch" "$tree/data"
        echo x | tee "$tree/scratch/one.o" "$tree/data/keep" >/dev/null
        cat >"$CONFIGURATION_DIRECTORY/exclude.d/scratch.json" <<-DOCUMENT
		{"schema":1,"kind":"exclusions","exclude":[{"root":"$tree/data","pattern":"*.core"}],
		 "exclude_from_snapshot":[{"root":"$tree/scratch","pattern":"*","recursive":true},{"root":"$tree/missing"}]}
	DOCUMENT
        echo '{"schema":1,"kind":"exclusions","exclude":[{"root":"relative"}]}' >"$CONFIGURATION_DIRECTORY/exclude.d/wrong.json"
        reload
        grep -q 'exclude.d/wrong.json is not taken' "$VSS_TEST_DIR/log/vssd.log" || die "a wrong file is not named"
        create --no-writers --manifest="$manifest" "$tree"
        local copy
        copy=$(set_field '.snapshots[0].path')
        [ -e "$copy/scratch/one.o" ] && die "the file is in the copy"
        [ -e "$copy/data/keep" ] && [ -e "$tree/scratch/one.o" ] || die "too much was removed"
        expect_equal "exclude.d/scratch.json 1 0" "$(json '.excluded_from_snapshot | "\(.[0].from) \(.[0].removed) \(.[1].removed)"' <"$manifest")" "report of the copy"
        expect_equal "$tree/data *.core" "$(json '.exclude[0] | "\(.root) \(.pattern)"' <"$manifest")" "list for the backup program"
        expect_equal 1 "$(vssctl --json show "$SET" | json '.record.excluded_from_snapshot[0].removed')" "report in the record"
        # a copy that nobody can write into
        create --no-writers --provider=null "$tree"
        set_field '.warnings[]' | grep -q 'the provider cannot write into its copies' || die "nobody is told: $(set_field .warnings)"
        rm -r "$CONFIGURATION_DIRECTORY/exclude.d"
        reload
        delete_all
}

case_a_backup_program_is_told_what_to_read() {
        document lists "$(component db '' "$selectable,\"files\":[{\"root\":\"$tree/db\",\"pattern\":\"*\",\"recursive\":true,\"source\":\"$tree/spit\",\"backup\":[\"full\"]},{\"root\":\"$tree/log\",\"pattern\":\"*.log\",\"recursive\":true}]" | sed 's/"files":\[\],//')" '"log"' ',"exclude":[{"root":"'$tree'/spit","pattern":"*.pid"}]'
        mkdir -p "$tree/spit" "$tree/log"
        echo x >"$tree/log/1.log"
        says lists
        vssctl run --type=full "$tree" -- sh -c 'cat "$VSS_FILES"; echo --; cat "$VSS_EXCLUDES"; echo --; jq -r .backup.type "$VSS_MANIFEST"' >"$VSS_TEST_DIR/full"
        expect_equal "$tree/spit $tree/log/*.log $tree/log/**/*.log -- $tree/spit/*.pid -- full" "$(xargs -d '\n' <"$VSS_TEST_DIR/full")" "lists of a full backup"
        vssctl run --type=log "$tree" -- sh -c 'cat "$VSS_FILES"; echo --; cat "$VSS_EXCLUDES"' >"$VSS_TEST_DIR/log1"
        expect_equal "$tree/log/*.log $tree/log/**/*.log -- $tree/spit/*.pid" "$(xargs -d '\n' <"$VSS_TEST_DIR/log1")" "lists of a log backup"
        # restic reads them as they are
        if command -v restic >/dev/null; then
                export RESTIC_PASSWORD=x RESTIC_REPOSITORY=$VSS_TEST_DIR/repo XDG_CACHE_HOME=$VSS_TEST_DIR/cache
                touch "$tree/spit/in" "$tree/spit/out.pid"
                restic init >/dev/null
                vssctl -q run --type=full "$tree" -- sh -c 'restic backup -q --files-from "$VSS_FILES" --exclude-file "$VSS_EXCLUDES"' || die "restic does not take the lists"
                restic ls latest >"$VSS_TEST_DIR/saved"
                grep -qx "$tree/spit/in" "$VSS_TEST_DIR/saved" && ! grep -q out.pid "$VSS_TEST_DIR/saved" || die "restic saved $(cat "$VSS_TEST_DIR/saved")"
        fi
        no_snapshots "after run"
}

start_bus
start_vssd
cases a_tree_of_components_with_empty_nodes what_is_not_selectable_is_mandatory a_component_set_goes_as_one \
        dependencies_are_saved_together flags_of_components components_or_volumes types_and_what_a_writer_does_instead \
        stamps_come_back_the_next_time options_reach_the_writer_they_are_for parts_of_files_and_newer_files \
        files_are_removed_from_the_copy the_copy_is_writable_for_those_who_recover an_administrators_lists_hold_for_every_copy a_backup_program_is_told_what_to_read \
        the_session_is_kept_whole # last: the service it starts goes with it
