/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies by LVM: of a thin volume a thin snapshot, which shares its pool and stays inactive until it is used; of any
 * other a thick one, which is active with its origin and has a fixed place for old blocks: when that is full, the copy
 * is lost and the origin goes on.
 *
 * lvm freezes what it snapshots by itself, one volume after the other. So one instant over several needs them frozen
 * from outside all the while, and lvm not to do it again (held.c). Should it do so all the same, kernels must be able
 * to freeze twice (devices.c); on others the provider declares that it freezes by itself, and a set has at most one
 * such volume.
 *
 * The commit is one `lvm lvcreate` per volume with everything about the copy in its tags, the pending mark among them,
 * by a keeper that is there since end_prepare (keeper.c). It waits for no lock of LVM's, writes nothing below /etc/lvm
 * (the backup and archive of the metadata come with clear_mark) and registers nothing with dmeventd. Whatever goes
 * wrong, lvm is never killed: what it leaves suspended the guard resumes.
 */
#include "providers/builtin.h"
#include "providers/lvm/lvm.h"
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define BUSY_TICK_MSEC 50
#define COMMIT_MARGIN_USEC (300 * USEC_PER_MSEC)

static const char window_config[] = "backup{backup=0 archive=0} global{wait_for_locks=0} activation{monitoring=0} "
                                    "log{file=\"/dev/null\" syslog=0 report_command_log=0} report{compact_output=0}";

typedef struct Group { /* a volume group of the set, and what lvm may look at for it */
        char vg_uuid[LVM_UUID_BYTES];
        char devices[LVM_DEVICES_BYTES];
        uint64_t reserved; /* by thick copies of this set */
} Group;

static struct { /* of the one set this process works for */
        LvmMember members[VSS_VOLUMES_MAX];
        unsigned n_members;
        Group groups[LVM_GROUPS_MAX];
        unsigned n_groups;
        LvmKeeper keeper;
} set = { .keeper = LVM_KEEPER_NULL };

static uint64_t lvm_capabilities(void *state) {
        uint64_t always = VSS_CAP_REDIRECT | VSS_CAP_DEVICE | VSS_CAP_DIRECTORY | VSS_CAP_PERSISTENT | VSS_CAP_STORAGE |
                          VSS_CAP_WRITES_BELOW | VSS_CAP_REVERT;
        return always | (!lvm_kernel_has_dm() || lvm_kernel_freezes_nested() ? 0 : VSS_CAP_FREEZES_ITSELF);
}

static uint16_t le16_at(const uint8_t *p) {
        return (uint16_t) (p[0] | p[1] << 8);
}

static uint64_t be64_at(const uint8_t *p) {
        uint64_t x;
        memcpy(&x, p, sizeof(x));
        return be64toh(x);
}

/* Does some part of it (journal, log, realtime section) lie on another device? */
static bool spans_devices(const struct vss_volume *v) {
        enum {
                HEAD = 2048,
                EXT = 1024,
                EXT_COMPAT = EXT + 0x5c,
                EXT_JOURNAL = EXT + 0xe0,
                XFS_REALTIME = 16,
                XFS_LOG = 48
        };
        uint8_t head[HEAD];
        static const uint8_t none[4];
        _cleanup_close_ int fd = open(v->device, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || pread(fd, head, sizeof(head), 0) != sizeof(head))
                return true;
        if (streq(v->fs_type, "xfs"))
                return be64_at(head + XFS_LOG) == 0 || be64_at(head + XFS_REALTIME) != 0;
        if (strncmp(v->fs_type, "ext", 3) == 0)
                return le16_at(head + EXT_COMPAT) & 4 && memcmp(head + EXT_JOURNAL, none, sizeof(none)) == 0;
        return false;
}

/* Before anybody asks lvm. */
static int check_volume(struct vss_call *c, const struct vss_volume *v, LvmIdentity *ret) {
        static const char *const types[] = { "ext2", "ext3", "ext4", "xfs", "f2fs", "jfs", "nilfs2" };
        bool known = false;
        if (!lvm_kernel_has_dm())
                return lvm_fail(c, -EOPNOTSUPP, "this kernel has no device-mapper");
        if (!lvm_program())
                return lvm_fail(c, -EOPNOTSUPP, "the program lvm is not installed");
        if (!v->device || lvm_identify((dev_t) v->dev, ret) < 0)
                return lvm_fail(c, -EOPNOTSUPP, "%s is on no logical volume", v->name);
        if (v->root_fd < 0 || !v->fs_type)
                return lvm_fail(c, -EOPNOTSUPP, "%s has no mounted file system: nothing can bring it to rest", v->name);
        for (size_t i = 0; i < ELEMENTSOF(types); i++)
                known |= streq(v->fs_type, types[i]);
        if (!known)
                return lvm_fail(c, -EOPNOTSUPP, "%s: a copy of %s cannot be used beside the original", v->name,
                                v->fs_type);
        if (spans_devices(v))
                return lvm_fail(c, -EOPNOTSUPP, "%s: its %s file system has its journal or data on another device too",
                                v->name, v->fs_type);
        return 0;
}

static int check_origin(struct vss_call *c, const LvmVolume *l) {
        if (l->vg_missing > 0)
                return lvm_fail(c, -EIO, "volume group %s misses devices: nothing can be made in it", l->vg_name);
        if (l->thick_copy)
                return lvm_fail(c, -EOPNOTSUPP, "%s/%s is itself a thick copy; LVM makes none of those", l->vg_name,
                                l->name);
        if (l->merging || lvm_revert_mark(l, NULL, NULL))
                return lvm_fail(c, -EBUSY, "%s/%s is being reverted: LVM makes no copies of it until that is over",
                                l->vg_name, l->name);
        if (l->virtual || l->thin_pool || l->invalid)
                return lvm_fail(c, -EOPNOTSUPP, "%s/%s is of a kind that LVM makes no copies of", l->vg_name, l->name);
        /* lvcreate wants to see dm-snapshot for thin ones too, and may not load it itself: asking for it does */
        if (!lvm_kernel_has_target("snapshot"))
                return lvm_fail(c, -EOPNOTSUPP, "this kernel has no dm-snapshot");
        if (l->thin && !lvm_kernel_has_target("thin"))
                return lvm_fail(c, -EOPNOTSUPP, "this kernel has no dm-thin");
        return 0;
}

static int find_origin(struct vss_call *c, const struct vss_volume *v, const LvmIdentity *id, LvmSession *s,
                       const LvmVolume **ret) {
        int r = lvm_session_open(c, id->vg_uuid, s);
        if (r == -ENOENT)
                return lvm_fail(c, -EOPNOTSUPP, "the volume group of %s is not there any more", v->name);
        if (r < 0)
                return r;
        *ret = lvm_report_find(&s->report, id->vg_uuid, id->lv_uuid);
        if (!*ret)
                return lvm_fail(c, -EOPNOTSUPP, "lvm does not know the logical volume of %s", v->name);
        return check_origin(c, *ret);
}

static const LvmVolume *pool_of(const LvmSession *s, const LvmVolume *l) {
        return lvm_report_find_name(&s->report, l->vg_uuid, l->pool);
}

static int lvm_probe(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret) {
        LvmSession s = LVM_SESSION_NULL;
        LvmIdentity id;
        const LvmVolume *l = NULL, *pool;
        int r = check_volume(c, v, &id);
        if (r < 0)
                return r;
        r = find_origin(c, v, &id, &s, &l);
        if (r >= 0) {
                ret->capabilities = lvm_capabilities(state);
                ret->free_bytes = l->vg_free;
                if (l->thin && (pool = pool_of(&s, l)) && pool->data_centi >= 0)
                        ret->free_bytes = pool->size - lvm_part_of(pool->size, pool->data_centi);
        }
        lvm_session_done(&s);
        return r;
}

static int take_group(struct vss_call *c, const LvmSession *s, const char *vg_uuid, Group **ret) {
        for (unsigned i = 0; i < set.n_groups; i++)
                if (streq(set.groups[i].vg_uuid, vg_uuid)) {
                        *ret = &set.groups[i];
                        return 0;
                }
        if (set.n_groups == LVM_GROUPS_MAX)
                return lvm_fail(c, -EDQUOT, "a set has volumes of at most %d volume groups", LVM_GROUPS_MAX);
        Group *g = &set.groups[set.n_groups++];
        *g = (Group) {};
        (void) snprintf(g->vg_uuid, sizeof(g->vg_uuid), "%s", vg_uuid);
        (void) snprintf(g->devices, sizeof(g->devices), "%s", s->devices);
        *ret = g;
        return 0;
}

int lvm_check_pool(struct vss_call *c, const LvmSession *s, const LvmVolume *l) {
        const LvmVolume *pool = pool_of(s, l);
        if (!pool)
                return lvm_fail(c, -EIO, "lvm does not show the pool %s/%s", l->vg_name, l->pool);
        if (pool->data_centi >= 10000 || pool->metadata_centi >= 10000 || pool->broken)
                return lvm_fail(c, -ENOSPC,
                                "thin pool %s/%s is full or out of order (data %d %%, metadata %d %%): extend it with "
                                "`lvextend`, or delete copies",
                                l->vg_name, l->pool, pool->data_centi / 100, pool->metadata_centi / 100);
        return 0;
}

unsigned lvm_snapshot_percent(void) {
        const char *s = secure_getenv("VSS_LVM_SNAPSHOT_SIZE"); /* vssd.conf: lvm_snapshot_size */
        unsigned long percent = isempty(s) ? 0 : strtoul(s, NULL, 10);
        return percent >= 1 && percent <= 100 ? (unsigned) percent : LVM_SNAPSHOT_PERCENT;
}

/* A share of the origin; less where the group has less, as long as it is worth having. */
static int size_copy(struct vss_call *c, const LvmVolume *l, Group *g, LvmMember *m) {
        uint64_t part = lvm_part_of(l->size, (int) lvm_snapshot_percent() * 100) & ~(LVM_COPY_BYTES_STEP - 1);
        uint64_t wanted = MAX_OF(part, (uint64_t) LVM_COPY_BYTES_MIN);
        uint64_t left = l->vg_free - MIN_OF(l->vg_free, g->reserved);
        m->copy_bytes = MIN_OF(wanted, left);
        if (m->copy_bytes < MAX_OF(wanted / 4, (uint64_t) LVM_COPY_BYTES_MIN))
                return lvm_fail(
                        c, -ENOSPC,
                        "volume group %s has %llu MiB left; a copy of %s is to have %llu MiB (lvm_snapshot_size= in "
                        "vssd.conf)",
                        l->vg_name, (unsigned long long) left >> 20, l->name, (unsigned long long) wanted >> 20);
        if (m->copy_bytes < wanted)
                (void) lvm_fail(
                        c, 0, "the copy of %s/%s has room for %llu MiB of changes only: volume group %s is nearly full",
                        l->vg_name, l->name, (unsigned long long) m->copy_bytes >> 20, l->vg_name);
        g->reserved += m->copy_bytes;
        return 0;
}

static int prepare_member(struct vss_call *c, const LvmSession *s, const LvmVolume *l, LvmMember *m) {
        Group *g = NULL;
        int r = take_group(c, s, l->vg_uuid, &g);
        if (r < 0)
                return r;
        m->thin = l->thin;
        (void) snprintf(m->vg_name, sizeof(m->vg_name), "%s", l->vg_name);
        (void) snprintf(m->name, sizeof(m->name), "%s", l->name);
        return l->thin ? lvm_check_pool(c, s, l) : size_copy(c, l, g, m);
}

static int lvm_begin_prepare(void *state, struct vss_call *c, const struct vss_volume *v, const struct vss_request *q) {
        LvmSession s = LVM_SESSION_NULL;
        const LvmVolume *l = NULL;
        if (set.n_members == VSS_VOLUMES_MAX)
                return lvm_fail(c, -EDQUOT, "a set has at most %d volumes", VSS_VOLUMES_MAX);
        if (set.n_members > 0 && lvm_capabilities(state) & VSS_CAP_FREEZES_ITSELF)
                return lvm_fail(
                        c, -EXDEV,
                        "this kernel cannot freeze a file system twice (Linux 6.8 can), so %s and another logical "
                        "volume cannot be copied at one instant: take them in two sets",
                        v->name);
        LvmMember *m = &set.members[set.n_members];
        *m = (LvmMember) { .flags = q->flags & (VSS_REQUEST_PERSISTENT | VSS_REQUEST_WRITABLE) };
        int r = check_volume(c, v, &m->identity);
        if (r >= 0)
                r = find_origin(c, v, &m->identity, &s, &l);
        if (r >= 0)
                r = prepare_member(c, &s, l, m);
        lvm_session_done(&s);
        if (r < 0)
                return r;
        (void) snprintf(m->snapshot, sizeof(m->snapshot), "%s", q->snapshot);
        (void) snprintf(m->label, sizeof(m->label), "%s", v->name);
        /* What is mounted where only a container sees it is not: that is left to lvm. */
        m->held = !isempty(v->mount_point) && !(lvm_capabilities(state) & VSS_CAP_FREEZES_ITSELF);
        if (lvm_tag_of_volume(v->name, m->tag_volume, sizeof(m->tag_volume)) < 0 &&
            lvm_tag_of_volume(v->device, m->tag_volume, sizeof(m->tag_volume)) < 0)
                return lvm_fail(c, -EINVAL, "%s has too long a name", v->name);
        set.n_members++;
        return 0;
}

static int lvm_end_prepare(void *state, struct vss_call *c) {
        int r = lvm_place_write(c, set.members, set.n_members);
        if (r >= 0)
                r = lvm_keeper_start(c, &set.keeper);
        for (unsigned i = 0; r >= 0 && i < set.n_members; i++)
                if (set.members[i].held)
                        return lvm_keeper_check_held(c, &set.keeper);
        return r;
}

/* Nobody else of ours gets in between from here on. */
static int lvm_pre_commit(void *state, struct vss_call *c) {
        return lvm_keeper_lock(c, &set.keeper, lvm_deadline(c));
}

static const char *devices_of(const LvmMember *m) {
        for (unsigned i = 0; i < set.n_groups; i++)
                if (streq(set.groups[i].vg_uuid, m->identity.vg_uuid))
                        return set.groups[i].devices;
        return "";
}

static int create_copy(struct vss_call *c, LvmMember *m, uint64_t deadline_usec, char said[static LVM_SAID_BYTES]) {
        static char name[LVM_NAME_BYTES], id[64], of_set[64], flags[64], origin[2 * LVM_NAME_BYTES], size[32],
                tag_origin[64];
        const char *arguments[LVM_ARGUMENTS_MAX + 1] = {
                "lvcreate",
                "--snapshot",
                "--config",
                window_config,
                "--devices",
                devices_of(m),
                "--autobackup",
                "n",
                "--yes",
                "--permission",
                "r",
                "--name",
                name,
                "--addtag",
                LVM_TAG_PENDING,
                "--addtag",
                id,
                "--addtag",
                of_set,
                "--addtag",
                flags,
                "--addtag",
                m->tag_created,
                "--addtag",
                m->tag_volume,
                "--addtag",
                tag_origin,
                origin,
        };
        unsigned n = 0;
        while (arguments[n])
                n++;
        /*
         * No device comes or goes with a thin one, so there is nothing to wait for udev for. A thick one cannot do
         * without: lvcreate clears the store of its exceptions through /dev/VG/NAME, which udev makes, and then gives
         * that name to another device (the store becomes NAME-cow), so as long as udev is late it means the store.
         */
        const char *const thin[] = { "--setactivationskip", "y", "--activate", "n", "--noudevsync" }, *const thick[] = {
                "--size", size
        };
        for (unsigned i = 0; m->thin && i < ELEMENTSOF(thin); i++)
                arguments[n++] = thin[i];
        for (unsigned i = 0; !m->thin && i < ELEMENTSOF(thick); i++)
                arguments[n++] = thick[i];
        (void) snprintf(name, sizeof(name), LVM_COPY_PREFIX "%s", m->snapshot);
        (void) snprintf(id, sizeof(id), LVM_TAG_ID "%s", m->snapshot);
        (void) snprintf(of_set, sizeof(of_set), LVM_TAG_SET "%s", c->set);
        (void) snprintf(flags, sizeof(flags), LVM_TAG_FLAGS "%u", m->flags);
        (void) snprintf(tag_origin, sizeof(tag_origin), LVM_TAG_ORIGIN "%s", m->identity.lv_uuid);
        (void) snprintf(origin, sizeof(origin), "%s/%s", m->vg_name, m->name);
        (void) snprintf(size, sizeof(size), "%llub", (unsigned long long) m->copy_bytes);
        set.keeper.held = m->held;
        return lvm_keeper_run(&set.keeper, arguments, deadline_usec, -1, said);
}

/* Somebody else works on the group right now: he is waited for, but not by an lvm that nobody could stop any more. */
static int commit_member(struct vss_call *c, LvmMember *m, uint64_t deadline_usec) {
        const struct timespec tick = { .tv_nsec = BUSY_TICK_MSEC * 1000000L };
        char said[LVM_SAID_BYTES];
        int r;
        for (;;) {
                r = create_copy(c, m, deadline_usec, said);
                bool locked = r == -EIO && strstr(said, "Can't get lock");
                if (!locked)
                        break;
                r = -EBUSY;
                if (usec_add(now_usec(), BUSY_TICK_MSEC * USEC_PER_MSEC) >= deadline_usec)
                        break;
                (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
        }
        if (r == -ETIME)
                return lvm_fail(c, r, "%s: lvcreate did not come back in time; it is left alone (keeper %d)", m->label,
                                (int) set.keeper.pid);
        if (r == -EOWNERDEAD)
                return lvm_fail(c, -EIO, "%s: lvcreate was ended by a signal in the middle of its work", m->label);
        if (r == -EIO && strstr(said, "ree space"))
                r = -ENOSPC;
        return r < 0 ? lvm_fail(c, r, "%s: no copy of %s/%s: %s", m->label, m->vg_name, m->name,
                                said[0] ? said : strerror(-r)) :
                       0;
}

static int lvm_commit(void *state, struct vss_call *c) {
        uint64_t created_usec = clock_usec(CLOCK_REALTIME);
        uint64_t deadline_usec = c->deadline_usec == UINT64_MAX ?
                                         UINT64_MAX :
                                         c->deadline_usec - MIN_OF(c->deadline_usec, COMMIT_MARGIN_USEC);
        int r = 0;
        for (unsigned i = 0; i < set.n_members && r >= 0; i++) {
                LvmMember *m = &set.members[i];
                (void) snprintf(m->tag_created, sizeof(m->tag_created), LVM_TAG_CREATED "%llu",
                                (unsigned long long) created_usec);
                r = commit_member(c, m, deadline_usec);
        }
        return r;
}

static int lvm_post_commit(void *state, struct vss_call *c) {
        lvm_keeper_done(&set.keeper);
        return 0;
}

static int lvm_step_abort(void *state, struct vss_call *c) {
        lvm_keeper_done(&set.keeper);
        set.n_members = set.n_groups = 0;
        return lvm_abort_set(c);
}

const struct vss_provider lvm_provider = {
        VSS_PROVIDER,
        .priority = 20,
        .name = "lvm",
        .version = VSS_VERSION,
        .capabilities = lvm_capabilities,
        .probe = lvm_probe,
        .begin_prepare = lvm_begin_prepare,
        .end_prepare = lvm_end_prepare,
        .pre_commit = lvm_pre_commit,
        .commit = lvm_commit,
        .post_commit = lvm_post_commit,
        .abort = lvm_step_abort,
        .list = lvm_list,
        .remove = lvm_remove,
        .mount = lvm_mount,
        .unmount = lvm_unmount,
        .open = lvm_open,
        .revert = lvm_revert,
        .storage_list = lvm_storage_list,
        .clear_mark = lvm_clear_mark,
};
