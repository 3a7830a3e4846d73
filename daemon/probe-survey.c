/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What nobody named: mounts below an argument, everything local, what would stand still without being in the set. */
#include "daemon/probe-resolve.h"
#include "protocol/text.h"
#include <stdio.h>

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

static const Found *found_below(const Resolver *r, uint64_t dev, bool any_chosen) {
        const Found *below = NULL;

        for (size_t i = 0; i < r->n_found; i++) {
                const Found *f = r->found[i];

                if (f->reply.superblock == dev)
                        return NULL; /* is in itself */
                if ((f->chosen || !any_chosen) && graph_lies_on(&r->graph, dev, f->reply.superblock))
                        below = f;
        }
        return below;
}

int resolver_stalls(const Resolver *r, ResolverText stalls, void *userdata) {
        bool any_chosen = false;

        for (size_t i = 0; i < r->n_found; i++)
                any_chosen = any_chosen || r->found[i]->chosen;
        for (size_t i = 0; i < r->mounts.n; i++) {
                const Mount *m = &r->mounts.list[i];
                const Found *below;
                char name[LIMIT_PATH_BYTES], text[LIMIT_MESSAGE_BYTES];
                int result;

                if (m->class != MOUNT_LOCAL || m != mounts_widest(&r->mounts, m->dev) ||
                    !(below = found_below(r, m->dev, any_chosen)) || put_name(name, sizeof(name), m->target) < 0)
                        continue;
                (void) snprintf(text, sizeof(text), "stalls with %.400s", below->reply.name);
                result = stalls(name, text, userdata);
                if (result < 0)
                        return result;
        }
        return 0;
}
