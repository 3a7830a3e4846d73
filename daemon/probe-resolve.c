/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything here starts from a descriptor, never from a path: whatever is renamed, unmounted or mounted over
 * meanwhile, the facts and the descriptor handed to vssd belong to one and the same mount, or there is an error
 * (hazards B12). Names are made last and are for people.
 */
#include "daemon/probe-resolve.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

enum {
        SUBVOLUME_ROOT_INODE = 256, /* BTRFS_FIRST_FREE_OBJECTID: roots of subvolumes and nothing else have it */
        WALK_MAX = LIMIT_PATH_BYTES / 2,
        LEVEL_DEPTHS = 1024,
};

Found *found_free(Found *f) {
        if (!f)
                return NULL;
        (void) close_fd(f->fd);
        free(f->inner);
        free(f->target);
        free(f);
        return NULL;
}

static int found_new(VolumeKind kind, const char *inner, const char *target, Found **ret) {
        _cleanup_(found_freep) Found *f = calloc(1, sizeof(*f));

        if (!f)
                return -ENOMEM;
        f->fd = -EBADF;
        f->reply.op = PROBE_VOLUME;
        f->reply.kind = kind;
        f->reply.index = -1;
        f->inner = strdup(inner);
        f->target = strdup(target);
        if (!f->inner || !f->target)
                return -ENOMEM;
        *ret = TAKE_PTR(f);
        return 0;
}

int resolver_init(Resolver *r) {
        int result = mounts_read(&r->mounts);

        return result < 0 ? result : graph_build(&r->mounts, &r->graph);
}

void resolver_done(Resolver *r) {
        for (size_t i = 0; i < r->n_found; i++)
                (void) found_free(r->found[i]);
        free(r->found);
        graph_done(&r->graph);
        mounts_done(&r->mounts);
}

int resolver_find(const Resolver *r, uint64_t superblock, uint64_t subvolume, size_t *ret) {
        for (size_t i = 0; i < r->n_found; i++)
                if (r->found[i]->reply.superblock == superblock && r->found[i]->reply.subvolume == subvolume) {
                        *ret = i;
                        return 0;
                }
        return -ENOENT;
}

int resolver_add(Resolver *r, Found **f, size_t *ret) {
        Found **more;

        if (r->n_found >= PROBE_VOLUMES_MAX)
                return -E2BIG;
        more = reallocarray(r->found, r->n_found + 1, sizeof(*more));
        if (!more)
                return -ENOMEM;
        r->found = more;
        r->found[r->n_found] = TAKE_PTR(*f);
        *ret = r->n_found++;
        return 0;
}

int put_name(char *ret, size_t size, const char *raw) {
        _cleanup_free_ char *text = NULL;
        int r = path_escape(raw, &text);

        if (r < 0)
                return r;
        if (strlen(text) >= size)
                return -ENAMETOOLONG;
        strcpy(ret, text);
        return 0;
}

/* ---- facts ---- */

static void node_name(const Resolver *r, uint64_t dev, char *ret, size_t size) {
        const Mount *m = mounts_widest(&r->mounts, dev);

        if (m)
                (void) put_name(ret, size, m->target);
        else if (device_name(dev, ret, size) < 0)
                (void) snprintf(ret, size, "something");
}

static void fill_graph(const Resolver *r, Found *f, unsigned depth, const char *why_not) {
        const Node *node = graph_find(&r->graph, f->reply.superblock);
        uint64_t culprit = f->reply.superblock;
        char name[256] = "";

        f->reply.level = MIN_OF(node ? node->level : 0, 0xffffU) * LEVEL_DEPTHS + MIN_OF(depth, LEVEL_DEPTHS - 1U);
        f->reply.n_keys = graph_keys(&r->graph, f->reply.superblock, f->reply.keys, VOLUME_KEYS_MAX);
        if (!why_not && (why_not = graph_trouble(&r->graph, f->reply.superblock, &culprit)) &&
            culprit != f->reply.superblock) {
                node_name(r, culprit, name, sizeof(name));
                (void) snprintf(f->reply.text, sizeof(f->reply.text), "it lies on %s: %s", name, why_not);
                return;
        }
        for (unsigned i = 0; !why_not && node && i < node->n_below && !streq(f->reply.fs_type, "btrfs"); i++)
                if (node->own[i]) {
                        node_name(r, node->below[i], name, sizeof(name));
                        (void) snprintf(
                                f->reply.text, sizeof(f->reply.text),
                                "its journal, log or data is also on %s, and no provider takes both at one instant",
                                name);
                        return;
                }
        if (why_not)
                (void) snprintf(f->reply.text, sizeof(f->reply.text), "%s", why_not);
}

static void fill_device(const Resolver *r, Found *f, const Mount *m) {
        const Node *node = graph_find(&r->graph, m->dev);
        uint64_t dev = m->dev;
        struct stat st;

        if (m->class != MOUNT_LOCAL)
                return;
        if (!node || !node->is_block) {
                if (m->source[0] == '/' && stat(m->source, &st) >= 0 && S_ISBLK(st.st_mode))
                        dev = st.st_rdev;
                else if (node && node->n_below > 0 && node->own[0])
                        dev = node->below[0];
                else
                        return;
        }
        if (device_name(dev, f->reply.device, sizeof(f->reply.device)) < 0)
                f->reply.device[0] = '\0';
}

static void fill_uuid(const Resolver *r, Found *f) {
        const Node *node = graph_find(&r->graph, f->reply.superblock);
        char type[64];

        if (f->fd < 0 || fs_uuid(f->fd, f->reply.fs_uuid, sizeof(f->reply.fs_uuid)) >= 0)
                return;
        if (streq(f->reply.fs_type, "btrfs"))
                (void) btrfs_uuid(f->fd, f->reply.fs_uuid, sizeof(f->reply.fs_uuid));
        else if (node && node->is_block)
                device_signature(f->reply.superblock, type, sizeof(type), f->reply.fs_uuid, sizeof(f->reply.fs_uuid));
}

/* f->fd is open or, where nothing may be asked of the file system, not. */
static int fill_mounted(const Resolver *r, Found *f, const Mount *m, const char *why_not) {
        struct ProbeReply *reply = &f->reply;
        const Mount *best = mounts_best(&r->mounts, m->dev, f->inner);
        _cleanup_free_ char *name = NULL;
        Identity identity;
        struct statvfs vfs;
        int result;

        if (!best)
                best = mounts_widest(&r->mounts, m->dev);
        if (!best || mount_outer_path(best, f->inner, &name) < 0)
                name = strdup(best ? best->target : m->target);
        if (!name)
                return -ENOMEM;
        result = put_name(reply->name, sizeof(reply->name), name);
        if (result >= 0)
                result = put_name(reply->mount_point, sizeof(reply->mount_point), m->target);
        if (result < 0)
                return result;
        (void) snprintf(reply->fs_type, sizeof(reply->fs_type), "%.31s", m->type);
        reply->superblock = reply->dev = m->dev;
        reply->mount_id = m->id;
        reply->can_hold = m->class == MOUNT_LOCAL && mount_can_hold(m);
        if (f->fd >= 0) {
                if (identity_of(f->fd, &identity) < 0 || fstatvfs(f->fd, &vfs) < 0)
                        return -errno;
                reply->dev = identity.dev;
                reply->mount_id = identity.mount_id;
                reply->size_bytes = (uint64_t) vfs.f_blocks * vfs.f_frsize;
                reply->has_fd = true;
        }
        fill_device(r, f, m);
        fill_uuid(r, f);
        fill_graph(r, f, best ? best->depth : m->depth, why_not ? why_not : mount_why_not(m));
        return 0;
}

/* ---- file systems and subvolumes ---- */

static int build_filesystem(const Resolver *r, const Mount *m, Found **ret) {
        const Mount *widest = mounts_widest(&r->mounts, m->dev);
        _cleanup_(found_freep) Found *f = NULL;
        const char *why_not = NULL;
        int result = found_new(VOLUME_FILESYSTEM, "/", m->target, &f);

        if (result < 0)
                return result;
        if (m->class == MOUNT_LOCAL || m->class == MOUNT_MEMORY || m->class == MOUNT_LAYERED) {
                result = widest ? mount_open(widest, &f->fd) : -ESTALE;
                if (result < 0 && result != -ENOTDIR)
                        result = mount_open(m, &f->fd);
                if (result == -ENOTDIR)
                        why_not = "only a single file of it is mounted";
                else if (result < 0)
                        return result;
        }
        result = fill_mounted(r, f, m, why_not);
        if (result < 0)
                return result;
        *ret = TAKE_PTR(f);
        return 0;
}

static int fd_path(int fd, char **ret) {
        char link[64], path[PATH_MAX];
        ssize_t n;

        (void) snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, path, sizeof(path));
        if (n < 0 || n == sizeof(path))
                return n < 0 ? -errno : -ENAMETOOLONG;
        *ret = strndup(path, (size_t) n);
        return *ret ? 0 : -ENOMEM;
}

static int open_directory(const char *path) {
        struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                                .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
        int fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

        return fd < 0 ? -errno : fd;
}

/* A directory in the same subvolume: fd itself, or where the kernel says that it lies. */
static int directory_of(int fd, const Identity *identity, int *ret) {
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int dir = -EBADF;
        Identity found;
        char *slash;
        int r;

        if (S_ISDIR(identity->mode)) {
                dir = openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
                if (dir < 0)
                        return -errno;
                *ret = TAKE_FD(dir);
                return 0;
        }
        r = fd_path(fd, &path);
        if (r < 0)
                return r;
        slash = strrchr(path, '/');
        if (!slash)
                return -ESTALE;
        slash[slash == path] = '\0';
        dir = open_directory(path);
        if (dir < 0)
                return dir;
        r = identity_of(dir, &found);
        if (r < 0)
                return r;
        if (found.dev != identity->dev || found.mount_id != identity->mount_id)
                return -ESTALE;
        *ret = TAKE_FD(dir);
        return 0;
}

/* Upwards to the root of the subvolume. -EXDEV: the mount shows only a part of it. */
static int walk_to_subvolume(int fd, int *ret) {
        _cleanup_close_ int at = openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);

        for (unsigned i = 0; at >= 0 && i < WALK_MAX; i++) {
                struct statx st;
                int up;

                if (statx(at, "", AT_EMPTY_PATH, STATX_INO, &st) < 0)
                        return -errno;
                if (st.stx_ino == SUBVOLUME_ROOT_INODE) {
                        *ret = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                        return *ret < 0 ? -errno : 0;
                }
                if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
                        return -EXDEV;
                up = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
                (void) close_fd(at);
                at = up;
        }
        return at < 0 ? -errno : -ELOOP;
}

/* The same directory through the mount that shows most of the superblock. */
static int walk_elsewhere(const Resolver *r, const Mount *m, uint64_t dev, const Mount **ret_through, int *ret) {
        const Mount *widest = mounts_widest(&r->mounts, m->dev);
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -EBADF;
        Identity identity;
        int result;

        if (!widest || mount_outer_path(widest, m->root, &path) < 0)
                return -EXDEV;
        fd = open_directory(path);
        if (fd < 0 || identity_of(fd, &identity) < 0 || identity.dev != dev || identity.mount_id != widest->id)
                return -EXDEV;
        result = walk_to_subvolume(fd, ret);
        if (result >= 0)
                *ret_through = widest;
        return result;
}

static int build_subvolume(const Resolver *r, const Mount *m, int path_fd, const Identity *identity, Found **ret) {
        _cleanup_free_ char *outer = NULL, *inner = NULL;
        _cleanup_close_ int dir = -EBADF, root = -EBADF;
        _cleanup_(found_freep) Found *f = NULL;
        const Mount *through = m;
        const char *why_not = NULL;
        uint64_t id;
        int result = directory_of(path_fd, identity, &dir);

        if (result >= 0)
                result = walk_to_subvolume(dir, &root);
        if (result == -EXDEV)
                result = walk_elsewhere(r, m, identity->dev, &through, &root);
        if (result == -EXDEV) {
                why_not = "only a directory of its subvolume is mounted; mount the subvolume or the whole file system";
                result = mount_open(m, &root);
        }
        if (result >= 0)
                result = btrfs_subvolume_id(root, &id);
        if (result >= 0)
                result = fd_path(root, &outer);
        if (result >= 0)
                result = mount_inner_path(through, outer, &inner);
        if (result < 0)
                return result;
        result = found_new(id == 5 ? VOLUME_FILESYSTEM : VOLUME_SUBVOLUME, inner, m->target, &f);
        if (result < 0)
                return result;
        f->fd = TAKE_FD(root);
        f->reply.subvolume = id;
        result = fill_mounted(r, f, m, why_not);
        if (result < 0)
                return result;
        *ret = TAKE_PTR(f);
        return 0;
}

int found_new_mounted(const Resolver *r, const Mount *m, int fd, const Identity *identity, Found **ret) {
        if (streq(m->type, "btrfs"))
                return build_subvolume(r, m, fd, identity, ret);
        return build_filesystem(r, m, ret);
}

/* ---- devices ---- */

static const Mount *mount_of_device(const Resolver *r, uint64_t dev) {
        for (size_t i = 0; i < r->mounts.n; i++) {
                const Mount *m = &r->mounts.list[i];
                const Node *node = graph_find(&r->graph, m->dev);

                if (m->class == MOUNT_KERNEL)
                        continue;
                if (m->dev == dev)
                        return mounts_widest(&r->mounts, dev) ? mounts_widest(&r->mounts, dev) : m;
                for (unsigned j = 0; node && streq(m->type, "btrfs") && j < node->n_below; j++)
                        if (node->own[j] && node->below[j] == dev)
                                return mounts_widest(&r->mounts, m->dev) ? mounts_widest(&r->mounts, m->dev) : m;
        }
        return NULL;
}

static int build_block(const Resolver *r, uint64_t dev, Found **ret) {
        _cleanup_(found_freep) Found *f = NULL;
        char link[LIMIT_PATH_BYTES];
        int result = found_new(VOLUME_BLOCK, "/", "", &f);

        if (result < 0)
                return result;
        result = device_name(dev, f->reply.device, sizeof(f->reply.device));
        if (result < 0)
                return result;
        if (engine_link_of(dev, link, sizeof(link)) >= 0)
                f->reply.kind = VOLUME_ENGINE;
        result = put_name(f->reply.name, sizeof(f->reply.name),
                          f->reply.kind == VOLUME_ENGINE ? link : f->reply.device);
        if (result < 0)
                return result;
        f->reply.superblock = f->reply.dev = dev;
        f->reply.mount_id = -1;
        f->reply.size_bytes = device_size(dev);
        device_signature(dev, f->reply.fs_type, sizeof(f->reply.fs_type), f->reply.fs_uuid, sizeof(f->reply.fs_uuid));
        fill_graph(r, f, 0, device_in_use(&r->graph, dev));
        *ret = TAKE_PTR(f);
        return 0;
}

static int build_device(const Resolver *r, uint64_t dev, Found **ret) {
        const Mount *m = mount_of_device(r, dev);
        _cleanup_close_ int fd = -EBADF;
        Identity identity;
        int result;

        if (!m)
                return build_block(r, dev, ret);
        if (!streq(m->type, "btrfs"))
                return build_filesystem(r, m, ret);
        result = mount_open(m, &fd);
        if (result >= 0)
                result = identity_of(fd, &identity);
        return result < 0 ? result : build_subvolume(r, m, fd, &identity, ret);
}

/* ---- what is asked ---- */

int resolver_resolve(Resolver *r, int fd, int argument, Failure *reterr, size_t *ret) {
        _cleanup_(found_freep) Found *f = NULL;
        const Mount *m = NULL;
        Identity identity;
        int result = identity_of(fd, &identity);

        if (result >= 0 && S_ISBLK(identity.mode))
                result = build_device(r, identity.rdev, &f);
        else if (result >= 0) {
                m = mounts_find(&r->mounts, identity.mount_id);
                result = m ? found_new_mounted(r, m, fd, &identity, &f) : -ESTALE;
        }
        if (result == -ESTALE || result == -ENOENT)
                return failure_set(reterr, CONDITION_BUSY, "mounts changed while it was looked at; try again");
        if (result < 0)
                return failure_set(reterr, CONDITION_FAILED, "its volume cannot be found out: %s", strerror(-result));
        if (resolver_find(r, f->reply.superblock, f->reply.subvolume, ret) < 0) {
                result = resolver_add(r, &f, ret);
                if (result < 0)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d volumes", PROBE_VOLUMES_MAX);
        }
        if (argument >= 0) {
                r->found[*ret]->chosen = true;
                if (r->found[*ret]->reply.index < 0)
                        r->found[*ret]->reply.index = argument;
        }
        return 0;
}
