#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A writer under an account of its own names directories that are somebody else's (hazards C2): it must not pull their volumes
# into sets, not stop them, and not get at their copies. What belongs to its account counts.
. "$(dirname "$0")/functions.sh"
requires jq setpriv mkfs.btrfs
watchdog 150

new_fs data btrfs 200M
new_fs other btrfs 200M
start_bus
mkdir -p "$CONFIGURATION_DIRECTORY/writers.d"
echo 'User=nobody' >"$CONFIGURATION_DIRECTORY/writers.d/app.conf"
start_vssd
mkdir -p "$data/app/deeper" "$other/private" "$other/app" "$VSS_TEST_DIR/hooks"
ln -s "$other/private" "$data/app/link"
touch "$data/app/file"
chown -R -h nobody "$data/app" "$other/app"
cat >"$VSS_TEST_DIR/hooks/app" <<'EOS'
#!/bin/sh
[ "$1" = identify ] || exit 0
echo 'component=everything'
cat "$0.roots"
EOS
chmod 755 "$VSS_TEST_DIR/hooks/app"

# app ROOT…: a writer of uid nobody whose component has files there
app() {
        printf 'tree=%s\n' "$@" >"$VSS_TEST_DIR/hooks/app.roots"
        WRITER_WRAPPER="setpriv --reuid nobody --regid $(id -g nobody) --clear-groups --" \
                start_writer "$VSS_BUILD/writers/vss-writer-exec" --name=app "$VSS_TEST_DIR/hooks"
}

# not_heard WHY VOLUMES OPTION…: a plan of both volumes is made without the writer and says why
not_heard() {
        local why=$1 volumes=$2
        shift 2
        doc=$(vssctl --json plan "$@") || die "$why: no plan: $doc"
        expect_equal false "$(jq '[.writers[] | select(.name == "app")][0].takes_part' <<<"$doc")" "$why: the writer takes part"
        expect_equal "$volumes" "$(jq '.volumes | length' <<<"$doc")" "$why: volumes of the plan"
        jq -r '.warnings[]' <<<"$doc" | grep -q 'component "everything" of writer app has files in .* uid' || die "$why: not explained: $doc"
}

note "a directory of its own"
app "$data/app" "$data/app/deeper/not/yet/there"
doc=$(vssctl --json create "$data") || die "no set: $doc"
expect_equal 'application app' "$(jq -r '[.consistency, .writers[0].name] | join(" ")' <<<"$doc")" "a set with data of its own"
vssctl -q delete "$(jq -r .set <<<"$doc")"
stop_process "$WRITER_PID"

note "a directory of root, directly, by a symbolic link, one that does not exist, and a file"
for root in "$data" "$data/app/link" "$data/missing/deeper" "$data/app/file" /proc/self/root; do
        app "$data/app" "$root"
        not_heard "$root" 2 --closure=extend "$data" "$other"
        status=0
        vssctl --json plan --require-writer=app "$data" "$other" >"$VSS_TEST_DIR/plan.json" || status=$?
        expect_equal 3 $status "$root: the status where the writer is required"
        vssctl --json writers | jq -e '.writers[] | select(.name == "app") | .state == "failed-at-identify"' >/dev/null ||
                die "$root: the list of writers does not show it: $(vssctl --json writers)"
        stop_process "$WRITER_PID"
done

note "a volume where it owns nothing is neither pulled in nor a reason to refuse"
app "$data/app" "$other/private"
not_heard "$other" 1 --closure=extend "$data"
not_heard "$other" 1 --closure=strict "$data"
stop_process "$WRITER_PID"
app "$data/app" "$other/app"
doc=$(vssctl --json plan --closure=extend "$data") || die "no plan: $doc"
expect_equal 2 "$(jq '.volumes | length' <<<"$doc")" "volumes with a directory of its own on the other"
stop_process "$WRITER_PID"

note "more directories than can be looked at are a reason against the writer, not against the set"
roots=()
for i in {1..4200}; do roots+=("$data/app/$i"); done
app "${roots[@]}"
doc=$(vssctl --json plan "$data") || die "no plan: $doc"
expect_equal false "$(jq '[.writers[] | select(.name == "app")][0].takes_part' <<<"$doc")" "the writer of too many directories takes part"
jq -r '.warnings[]' <<<"$doc" | grep -q 'writer app.*more than 4096' || die "not explained: $doc"
stop_process "$WRITER_PID"

note "root speaks for everything"
testwriter --name=app --volume="$data"
doc=$(vssctl --json plan "$data")
expect_equal true "$(jq '[.writers[] | select(.name == "app")][0].takes_part' <<<"$doc")" "the writer of root takes part"
