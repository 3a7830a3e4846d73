/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stamps of an earlier backup for the next one. A stamp is the writer's own word for a point of its history, which
 * nobody else reads; what is judged here is only whether a backup may be built on at all.
 */
#include "client/requester.h"
#include "protocol/manifest.h"
#include "protocol/text.h"

static int read_all(int fd, char **ret, size_t *ret_size) {
        _cleanup_free_ char *text = NULL;
        size_t size = 0, room = 0;
        for (;;) {
                if (size == room) {
                        room = room ? room * 2 : 65536;
                        if (room > 2 * (size_t) LIMIT_MANIFEST_BYTES)
                                return -EFBIG;
                        char *grown = realloc(text, room);
                        if (!grown)
                                return -ENOMEM;
                        text = grown;
                }
                ssize_t n = read(fd, text + size, room - size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                size += (size_t) n;
        }
        *ret = TAKE_PTR(text);
        *ret_size = size;
        return 0;
}

static int add_stamps(struct vss_set *s, const ManifestWriter *w, bool *ret_succeeded) {
        _cleanup_free_ char *reference = NULL;
        int r = writer_reference_format(w->name, w->instance, &reference);
        for (size_t i = 0; r >= 0 && i < w->n_components; i++) {
                const ManifestComponent *c = &w->components[i];
                *ret_succeeded |= c->succeeded == 1;
                if (c->succeeded == 1 && c->stamp && c->stamp[0])
                        r = set_add_stamp(s, reference, c->path, c->stamp);
        }
        return r;
}

static int check_base(struct vss_set *s, const Manifest *m) {
        const char *type = set_option_last(s, "backup_type");
        if (m->type == BACKUP_COPY)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "the earlier backup is a copy, which no other builds on; make a full one first");
        if (!m->completed)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "nobody said that the earlier backup succeeded (complete --manifest= does)");
        if (type && streq(type, "differential") && m->type != BACKUP_FULL)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "a differential backup builds on a full one, and the earlier one is %s",
                                      backup_type_to_string(m->type));
        return 0;
}

_public_ int vss_set_previous(struct vss_set *s, int fd) {
        _cleanup_(manifest_done) Manifest m = {};
        _cleanup_free_ char *text = NULL;
        size_t size = 0;
        bool succeeded = false;
        Failure f = {};
        if (!s || fd < 0)
                return -EINVAL;
        if (s->path)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "an earlier backup must be named before the set is made");
        int r = read_all(fd, &text, &size);
        if (r < 0)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT, "the manifest cannot be read: %s",
                                      strerror(-r));
        if (manifest_parse(text, size, &f, &m) < 0)
                return requester_fail(s->requester, f.condition, "%s", f.message);
        r = check_base(s, &m);
        for (size_t i = 0; r >= 0 && i < m.n_writers; i++)
                r = add_stamps(s, &m.writers[i], &succeeded);
        if (r >= 0 && m.n_writers > 0 && !succeeded)
                r = requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                   "no component of the earlier backup succeeded, so nothing can build on it");
        return requester_check(s->requester, r) < 0 ? r : 0;
}
