# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the tests of plans of restores share: the next start of the machine, and what there is.
BOOT_ID=$VSS_TEST_DIR/boot-id
# in_next_boot COMMAND…: in another start of the machine, as far as that is told by its id
in_next_boot() {
        tr -d '\n' </proc/sys/kernel/random/uuid >"$BOOT_ID"
        unshare -m sh -c 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"' "$BOOT_ID" "$@"
}
boot() { in_next_boot "$VSS_BUILD/client/vss-restore-at-boot"; }
plans() { vssctl --json restore --pending | jq -r "[.plans[] | $1] | join(\" \")"; }
cancel_all() { vssctl --json restore --pending | jq -r '.plans[].id' | while read -r id; do vssctl restore --cancel="$id" || exit 1; done; }
