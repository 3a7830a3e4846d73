#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vssctl prune with the real service and btrfs: copies of many days, which are made old in the catalogue while vssd is down.
. "$(dirname "$0")/functions.sh"
requires mkfs.btrfs btrfs jq
new_fs data btrfs 256M
new_fs other btrfs 256M
start_bus
start_vssd
export TZ=UTC
out=$VSS_TEST_DIR/out err=$VSS_TEST_DIR/err
hour=3600 day=86400

# copy VAR AGE [WORD…]: a set that is completed and AGE seconds old once age() has run; VAR is its id
ages='' pinned=''
copy() {
        local var=$1 age=$2 id
        shift 2
        id=$(vssctl --json create "$@" | json .set)
        vssctl -q complete "$id"
        ages+="$id $age"$'\n'
        printf -v "$var" %s "$id"
}

# age: what copy said, and the sets in $pinned are pinned; no verb of vssctl does either
age() {
        local id seconds path mark
        stop_vssd
        while read -r id seconds; do
                [ -n "$id" ] || continue
                path=$STATE_DIRECTORY/sets/$id
                mark=false
                [[ " $pinned " != *" $id "* ]] || mark=true
                # the last line is the sum of all before it
                head -n -1 "$path" | jq -c --argjson t "$(((base - seconds) * 1000000))" --argjson p $mark \
                        '.private.created_at_usec = $t | .private.snapshots[].pinned = $p' >"$VSS_TEST_DIR/record"
                { cat "$VSS_TEST_DIR/record" && printf 'sha256:%s\n' "$(sha256sum <"$VSS_TEST_DIR/record" | cut -c1-64)"; } >"$path"
        done <<<"$ages"
        ages='' pinned=''
        start_vssd
}

# left: sets with a copy, as the names they have here
left() {
        local name
        vssctl --json snapshots | json '.snapshots[].set' | sort -u >"$VSS_TEST_DIR/left"
        for name in "$@"; do
                if grep -qx "${!name}" "$VSS_TEST_DIR/left"; then printf '%s ' "$name"; fi
        done
}

# why NAME: what the last prune said about its copies
why() { jq -r --arg s "${!1}" '[.results[] | select(.set == $s) | .action + ":" + (.why | join(","))] | unique | join(" ")' "$out"; }

# noon of today: no two of the times below change places by the hour at which the test runs
base=$(($(date -u -d 12:00 +%s)))
copy d5 $((5 * day)) "$data"
copy d2 $((2 * day)) "$data"
copy d1 $((day)) "$data"
copy h2 $((2 * hour)) "$data"
copy h1 $((hour)) "$data"
copy now 0 "$data"
copy o3 $((3 * day)) "$other"
copy o1 $((day + hour)) "$other"
age
all=(d5 d2 d1 h2 h1 now o3 o1)

note "a dry run says what would go and why the rest stays, and nothing goes"
expect_exit 0 vssctl --json prune --keep-hourly=2 --keep-daily=2 --dry-run >"$out"
expect_equal true "$(json .dry_run <"$out")" dry_run
expect_equal "keep:hourly,daily,newest" "$(why now)" now
expect_equal "keep:hourly" "$(why h1)" "an hour ago"
expect_equal "keep:daily" "$(why d1)" yesterday
for name in d5 d2 h2; do expect_equal "delete:" "$(why $name)" "$name"; done
expect_equal "keep:hourly,daily,newest" "$(why o1)" "the other volume has rules of its own"
expect_equal "keep:hourly,daily" "$(why o3)" "the other volume's old copy"
expect_equal "${all[*]} " "$(left "${all[@]}")" "sets after a dry run"
expect_exit 0 vssctl prune --keep-last=1 --dry-run >"$out"
grep -q "^delete .* $data" "$out" || die "a table for people"
grep -q '^2 kept, 6 would be deleted$' "$out" || die "a summary: $(tail -1 "$out")"

note "one volume, with what is mounted, pinned and not over yet"
copy pin $((4 * day)) "$data"
pinned=$pin
age
open=$(vssctl --json create "$data" | json .set)
vssctl mount "$d5" >/dev/null
expect_exit 0 vssctl --json prune --volume="$data" --keep-last=2 >"$out"
expect_equal "keep:in-use" "$(why d5)" "a copy that is mounted"
expect_equal "keep:pinned" "$(why pin)" "a copy that is pinned"
expect_equal "keep:session" "$(why open)" "a set that is not completed"
expect_equal "keep:last,newest" "$(why now)" "the newest that counts"
expect_equal "keep:last" "$(why h1)" "the one before"
expect_equal "pin d5 h1 now o3 o1 open " "$(left pin "${all[@]}" open)" "sets that are left"
expect_equal "" "$(why o1)" "the other volume was not looked at"
[ "$(btrfs subvolume list "$data" | grep -c "$h2")" = 0 ] || die "a copy is still on the volume"
vssctl umount "$d5"
expect_exit 0 vssctl -q prune --volume="$data" --keep-within=3d >"$out"
[ ! -s "$out" ] || die "--quiet is not"
expect_equal "pin h1 now o3 o1 open " "$(left pin "${all[@]}" open)" "sets after keep-within"

note "a set over two volumes goes when no volume keeps it, and by itself a volume loses its copy"
vssctl -q complete "$open"
vssctl -q delete "$open"
copy both3 $((3 * day - hour)) "$data" "$other"
copy both2 $((2 * day)) "$data" "$other"
copy y $((day)) "$data"
age
expect_exit 0 vssctl --json prune --keep-daily=2 >"$out"
expect_equal "keep:daily keep:set" "$(why both2)" "the set that one volume keeps"
expect_equal "delete:" "$(why both3)" "the set that none keeps"
expect_equal "keep:daily,newest" "$(why o1)" o1
expect_equal "now y o1 both2 " "$(left h1 now y o3 o1 both2 both3)" "sets that are left"
expect_exit 0 vssctl -q prune --volume="$data" --keep-last=1
expect_equal "$other" "$(vssctl --json snapshots | json ".snapshots[] | select(.set == \"$both2\") | .volume")" "what is left of the set"

note "labels; the last one goes only if that is asked for"
copy tag1 $((6 * day)) "$other" --label=plan=a --label='timer=srv-a\x2db' # as the units name them
copy tag2 $((7 * day)) "$other" --label=plan=a
copy tag3 $((8 * day)) "$other" --label=plan=b
age
expect_exit 0 vssctl -q prune --label=plan=a --keep-yearly=0
expect_equal "o1 both2 tag1 tag3 " "$(left o1 both2 tag1 tag2 tag3)" "sets after pruning by label"
expect_exit 0 vssctl -q prune --label=plan=a --label=timer=srv-a --keep-last=0
expect_exit 0 vssctl -q prune --label=plan=a --label='timer=srv-a\x2db' --keep-last=0
expect_equal "o1 both2 tag3 " "$(left o1 both2 tag1 tag3)" "sets after keep-last=0"

note "errors"
expect_exit 4 vssctl prune --volume=/no/such --keep-last=1 2>"$err"
expect_equal 1 "$(wc -l <"$err")" "lines on stderr"
cp "$VSS_BUILD/client/vssctl" "$VSS_TEST_DIR/vssctl"
chmod 755 "$VSS_TEST_DIR" "$VSS_TEST_DIR/vssctl"
expect_exit 3 run_as nobody "$VSS_TEST_DIR/vssctl" --json prune --volume="$other" --keep-last=1 >"$out" 2>"$err"
expect_equal 1 "$(wc -l <"$err")" "lines on stderr"
expect_equal org.vssd.Vss1.Error.NotAuthorized "$(json .error.name <"$out")" "error of nobody"
expect_equal "o1 both2 tag3 " "$(left o1 both2 tag3)" "sets after a refusal"

note "one method of the service does it, for any program, and asks once"
prune() { busctl --address="unix:path=${DBUS_SYSTEM_BUS_ADDRESS#*=}" --json=short call org.vssd.Vss1 /org/vssd/Vss1 org.vssd.Vss1.Manager Prune 'a{sv}a{sv}' "$@"; }
expect_exit 0 prune 2 keep_last u 0 labels 'a{ss}' 1 plan b 1 dry_run b true >"$out"
expect_equal '["deleted",""]' "$(jq -c '.data[0] | map(.[1:]) | unique | .[]' "$out")" "a dry run by the bus"
expect_equal "o1 both2 tag3 " "$(left o1 both2 tag3)" "sets after it"
expect_exit 0 prune 2 keep_last u 0 labels 'a{ss}' 1 plan b 0 >"$out"
expect_equal "o1 both2 " "$(left o1 both2 tag3)" "sets after pruning by the bus"
expect_exit 0 prune 2 keep_daily u 1 volume s "$other" 1 dry_run b true >"$out"
expect_equal 'kept daily,newest' "$(jq -r '.data[0][0] | .[1] + " " + .[2]' "$out")" "the newest"
for bad in '0 0' '1 volume s x 0' '1 keep_within s 3x 0' '1 keep_last u 1 1 force b true' '1 keep_lost u 1 0'; do
        # shellcheck disable=SC2086
        if prune $bad >"$out" 2>"$err"; then die "'$bad' is taken"; fi
        grep -qi 'invalid\|unknown\|needed\|keep\|force' "$err" || die "'$bad': $(cat "$err")"
done
