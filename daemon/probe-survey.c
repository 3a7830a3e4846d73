/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What nobody named: mounts below an argument, everything local, what would stand still without being in the set. */
#include "daemon/probe-audit.h"
#include "daemon/probe-resolve.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>

/* NULL, or why a mount that nobody named is left out. */
static const char *why_leave_out(const Mount *m, const Found *f, char *text, size_t size) {
        if (f->reply.text[0])
                return f->reply.text;
        if (!streq(f->inner, m->root)) {
                (void) snprintf(text, size, "only a part of %.300s is mounted here", f->reply.name);
                return text;
        }
        if (!f->reply.can_hold) {
                (void) snprintf(text, size, "a file system of type %s cannot be held", f->reply.fs_type);
                return text;
        }
        return NULL;
}

static int take_nested(Resolver *r, const Mount *m, bool list, ResolverText left_out, void *userdata) {
        _cleanup_(found_freep) Found *f = NULL;
        _cleanup_close_ int fd = -EBADF;
        char name[LIMIT_PATH_BYTES], text[LIMIT_MESSAGE_BYTES];
        const char *why = mount_why_not(m);
        Identity identity;
        int result = 0;
        size_t i;

        if (!why) {
                result = mount_open(m, &fd);
                if (result >= 0)
                        result = identity_of(fd, &identity);
                if (result >= 0)
                        result = found_new_mounted(r, m, fd, &identity, &f);
                if (result == -ENOMEM)
                        return result;
                if (result == -ENOTDIR)
                        why = "only a single file is mounted here";
                else if (result < 0)
                        why = strerror(-result);
        }
        if (f && resolver_find(r, f->reply.superblock, f->reply.subvolume, &i) >= 0) {
                r->found[i]->chosen = true;
                return 0;
        }
        if (list) /* shows also what cannot be held, but nothing by halves */
                return f && streq(f->inner, m->root) ? resolver_add(r, &f, &i) : 0;
        if (f)
                why = why_leave_out(m, f, text, sizeof(text));
        if (why)
                return put_name(name, sizeof(name), m->target) < 0 ? 0 : left_out(name, why, userdata);
        f->chosen = true;
        return resolver_add(r, &f, &i);
}

int resolver_nested(Resolver *r, const char *directory, ResolverText left_out, void *userdata) {
        for (size_t i = 0; i < r->mounts.n; i++) {
                const Mount *m = &r->mounts.list[i];
                int result;

                /* What is covered cannot be meant, and what the kernel shows nobody misses. */
                if (m->class == MOUNT_KERNEL || !m->visible || streq(m->target, directory) ||
                    !path_is_inside(m->target, directory))
                        continue;
                result = take_nested(r, m, false, left_out, userdata);
                if (result < 0)
                        return result;
        }
        return 0;
}

int resolver_list(Resolver *r) {
        for (size_t i = 0; i < r->mounts.n; i++) {
                const Mount *m = &r->mounts.list[i];
                int result = m->class == MOUNT_LOCAL && m->visible ? take_nested(r, m, true, NULL, NULL) : 0;

                if (result < 0)
                        return result;
        }
        return 0;
}

void resolver_refuse_unknown(Resolver *r) {
        const Found *first = NULL;

        for (size_t i = 0; i < r->n_found; i++) {
                Found *f = r->found[i];
                const char *why = graph_unknown(&r->graph, f->reply.superblock);

                if (!why || f->reply.text[0])
                        continue;
                if (first && first->reply.superblock != f->reply.superblock)
                        (void) snprintf(f->reply.text, sizeof(f->reply.text),
                                        "%s; %.200s is such a one as well: take them in two sets", why,
                                        first->reply.name);
                first = first ? first : f;
        }
}

int resolver_mount_points(const Resolver *r, const Found *f, ResolverText place, void *userdata) {
        for (size_t i = 0; i < r->mounts.n && f->reply.kind != VOLUME_BLOCK; i++) {
                const Mount *m = &r->mounts.list[i];
                char name[LIMIT_PATH_BYTES];
                int result = 0;

                if (m->dev != f->reply.superblock || !m->visible || !streq(m->root, f->inner))
                        continue;
                if (put_name(name, sizeof(name), m->target) >= 0 && !streq(name, f->reply.name))
                        result = place(name, "", userdata);
                if (result < 0)
                        return result;
        }
        return 0;
}

static const Found *found_below(const Resolver *r, uint64_t dev, bool chosen) {
        const Found *below = NULL;

        for (size_t i = 0; i < r->n_found; i++) {
                const Found *f = r->found[i];

                if (f->reply.superblock == dev)
                        return NULL; /* is in itself */
                if ((f->chosen || !chosen) && graph_lies_on(&r->graph, dev, f->reply.superblock))
                        below = f;
        }
        return below;
}

static bool any_chosen(const Resolver *r) {
        for (size_t i = 0; i < r->n_found; i++)
                if (r->found[i]->chosen)
                        return true;
        return false;
}

static int stalls_mounts(const Resolver *r, bool chosen, ResolverText stalls, void *userdata) {
        for (size_t i = 0; i < r->mounts.n; i++) {
                const Mount *m = &r->mounts.list[i];
                const Found *below;
                char name[LIMIT_PATH_BYTES], text[LIMIT_MESSAGE_BYTES];
                int result;

                if (m->class != MOUNT_LOCAL || m != mounts_widest(&r->mounts, m->dev) ||
                    !(below = found_below(r, m->dev, chosen)) || put_name(name, sizeof(name), m->target) < 0)
                        continue;
                (void) snprintf(text, sizeof(text), "stalls with %.400s", below->reply.name);
                result = stalls(name, text, userdata);
                if (result < 0)
                        return result;
        }
        return 0;
}

/* Mounted or not: whoever writes to one waits as soon as a block has to be kept in its store (hazards D10). */
static int stalls_engine(const Resolver *r, bool chosen, ResolverText stalls, void *userdata) {
        for (size_t i = 0; i < r->graph.n; i++) {
                const Node *a = &r->graph.list[i];
                const Found *below = a->is_block && a->group && a->n_below ? found_below(r, a->dev, chosen) : NULL;
                char link[LIMIT_PATH_BYTES], name[LIMIT_PATH_BYTES], text[LIMIT_MESSAGE_BYTES];
                int result;

                if (!below || engine_link_of(a->dev, link, sizeof(link)) < 0 || put_name(name, sizeof(name), link) < 0)
                        continue;
                (void) snprintf(
                        text, sizeof(text),
                        "stalls with %.300s, where its store or origin lies: first writes to it wait for as long "
                        "as the hold",
                        below->reply.name);
                result = stalls(name, text, userdata);
                if (result < 0)
                        return result;
        }
        return 0;
}

int resolver_stalls(const Resolver *r, ResolverText stalls, void *userdata) {
        bool chosen = any_chosen(r);
        int result = stalls_mounts(r, chosen, stalls, userdata);

        return result < 0 ? result : stalls_engine(r, chosen, stalls, userdata);
}

/* The volume that is in the set, or would be if nothing is chosen, and whose hold stops what is written to dev. */
static const Found *stops(const Resolver *r, uint64_t dev) {
        bool chosen = any_chosen(r);

        for (size_t i = 0; i < r->n_found; i++) {
                const Found *f = r->found[i];

                if ((f->chosen || !chosen) &&
                    (f->reply.superblock == dev || graph_lies_on(&r->graph, dev, f->reply.superblock)))
                        return f;
        }
        return NULL;
}

/* What is not local may hang, and does not stand still with what is. */
static const Mount *local_mount_of(const Mounts *mounts, const char *path) {
        const Mount *best = NULL;

        for (size_t i = 0; i < mounts->n; i++) {
                const Mount *m = &mounts->list[i];
                size_t n = streq(m->target, "/") ? 0 : strlen(m->target);

                if (m->visible && strncmp(path, m->target, n) == 0 && path[n] == '/' &&
                    (!best || strlen(m->target) > strlen(best->target)))
                        best = m;
        }
        return best && best->class == MOUNT_LOCAL && !best->remote_path ? best : NULL;
}

static const Mount *mount_of_log(const Mounts *mounts, const char *path, uint64_t resolve, int *ret_error) {
        struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = resolve };
        _cleanup_close_ int fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
        Identity identity;

        *ret_error = fd < 0 ? errno : 0;
        return fd >= 0 && identity_of(fd, &identity) >= 0 ? mounts_find(mounts, identity.mount_id) :
                                                            local_mount_of(mounts, path);
}

/* A link may lead elsewhere, and to what hangs: it is followed for an auditd that runs, and for nothing less. */
static const Found *stopped_log(const Resolver *r, const char *log) {
        int error;
        const Mount *m = local_mount_of(&r->mounts, log) ? mount_of_log(&r->mounts, log, RESOLVE_NO_SYMLINKS, &error) :
                                                           NULL;

        if (!m || (error != ELOOP && !stops(r, m->dev)) || !auditd_runs())
                return NULL;
        if (error == ELOOP)
                m = mount_of_log(&r->mounts, log, RESOLVE_NO_MAGICLINKS, &error);
        return m ? stops(r, m->dev) : NULL;
}

static int warn_of_audit(const Resolver *r, ResolverText warn, void *userdata) {
        char log[AUDIT_PATH_MAX], name[LIMIT_PATH_BYTES], text[LIMIT_MESSAGE_BYTES];
        const Found *f = audit_log_find(log) ? stopped_log(r, log) : NULL;

        if (!f || put_name(name, sizeof(name), log) < 0)
                return 0;
        (void) snprintf(
                text, sizeof(text),
                "auditd cannot write %.160s while %.100s is held: once the kernel's backlog is full, every audited "
                "call waits, up to 60 s; put the log on another file system, or run \"auditctl "
                "--backlog_wait_time 0\"",
                name, f->reply.name);
        return warn("", text, userdata);
}

int resolver_warn(const Resolver *r, ResolverText warn, void *userdata) {
        return warn_of_audit(r, warn, userdata);
}
