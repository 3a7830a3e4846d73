/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of which only parts were saved. What the backup has of such a file stands at the same offsets in a file of that
 * name; it becomes a new file, the old one with those ranges of the backup over it, which then takes its place like any
 * other. The list is what a writer said when the backup was made, and the manifest may be anybody's: a file that is in
 * no file set of the component is not written, and a range that the backup does not have is not taken for zeros.
 */
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <stdio.h>

void partial_done(RestorePart *p) {
        for (size_t i = 0; i < p->n_partial; i++) {
                free(p->partial[i].path);
                free(p->partial[i].ranges);
        }
        free(p->partial);
        p->partial = NULL;
        p->n_partial = 0;
}

static int read_number(json_object *range, size_t i, uint64_t *ret) {
        json_object *n = json_object_array_get_idx(range, i);
        if (!json_object_is_type(n, json_type_int) || json_object_get_int64(n) < 0 ||
            json_object_get_uint64(n) > INT64_MAX)
                return -EINVAL;
        *ret = json_object_get_uint64(n);
        return 0;
}

static int read_ranges(json_object *list, PartialFile *f) {
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
        if (n == 0 || n > RESTORE_PARTIAL_MAX)
                return -EINVAL;
        f->ranges = calloc(n, sizeof(*f->ranges));
        if (!f->ranges)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                json_object *range = json_object_array_get_idx(list, i);
                FileRange *r = f->ranges + f->n_ranges++;
                if (!json_object_is_type(range, json_type_array) || json_object_array_length(range) != 2 ||
                    read_number(range, 0, &r->offset) < 0 || read_number(range, 1, &r->length) < 0 ||
                    r->length > INT64_MAX - r->offset)
                        return -EINVAL;
        }
        return 0;
}

static int read_file(json_object *row, PartialFile *f) {
        json_object *path = member(row, "path");
        if (!json_object_is_type(path, json_type_string) || !path_is_clean(json_object_get_string(path)))
                return -EINVAL;
        int r = path_unescape(json_object_get_string(path), &f->path);
        return r < 0 ? r : read_ranges(member(row, "ranges"), f);
}

static int by_path(const void *a, const void *b) {
        const PartialFile *f = a, *g = b;
        return strcmp(f->path, g->path);
}

int partial_read(RestorePart *p) {
        _cleanup_(json_object_putp) json_object *list = json_tokener_parse(p->component->partial_files);
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
        if (n == 0 || n > RESTORE_PARTIAL_MAX)
                return part_fail(p, CONDITION_INVALID_DOCUMENT, "partial_files of the manifest is no list of files");
        p->partial = calloc(n, sizeof(*p->partial));
        for (size_t i = 0; p->partial && i < n; i++)
                if (read_file(json_object_array_get_idx(list, i), p->partial + p->n_partial++) < 0)
                        return part_fail(p, CONDITION_INVALID_DOCUMENT,
                                         "partial_files[%zu] of the manifest is no path with ranges", i);
        if (!p->partial)
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        qsort(p->partial, p->n_partial, sizeof(*p->partial), by_path);
        return 0;
}

static int find(const RestorePart *p, RestoreItem *i) {
        const char *root = p->sets[i->set].root;
        PartialFile wanted = {};
        if (asprintf(&wanted.path, "%s/%s", streq(root, "/") ? "" : root, i->path) < 0)
                return -ENOMEM;
        PartialFile *found = bsearch(&wanted, p->partial, p->n_partial, sizeof(wanted), by_path);
        free(wanted.path);
        if (found && S_ISREG(i->mode))
                found->used = true;
        i->partial = found;
        return 0;
}

int partial_check(RestorePart *p) {
        if (p->n_partial > 0 && p->n_directed > 0)
                return part_fail(p, CONDITION_NOT_SUPPORTED, "its writer directs files of which only parts were saved");
        for (size_t i = 0; p->n_partial > 0 && i < p->n_items; i++)
                if (find(p, p->items + i) < 0)
                        return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        for (size_t k = 0; k < p->n_partial; k++)
                if (!p->partial[k].used)
                        return part_fail(p, CONDITION_NOT_FOUND,
                                         "%.400s, of which parts were saved, is not among the files of it that the "
                                         "backup shows",
                                         p->partial[k].path);
        return 0;
}

static bool has_ranges(int fd, const PartialFile *f) {
        struct stat s;
        if (fstat(fd, &s) < 0 || !S_ISREG(s.st_mode))
                return false;
        for (size_t i = 0; i < f->n_ranges; i++)
                if (f->ranges[i].offset + f->ranges[i].length > (uint64_t) s.st_size)
                        return false;
        return true;
}

int partial_stage(RestorePart *p, RestoreItem *i) {
        const PartialFile *f = i->partial;
        const RestoreSet *s = p->sets + i->set;
        struct stat st;
        _cleanup_close_ int parent = sources_open_parent(p, s, i->path);
        _cleanup_close_ int from = parent < 0 ?
                                           parent :
                                           open_beneath(parent, base_name(i->path), O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
        _cleanup_close_ int to = from < 0 ? from : open_parent(s->target, i->path);
        if (to < 0)
                return to;
        if (fstatat(to, base_name(i->path), &st, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if (!has_ranges(from, f))
                return -ENODATA;
        return file_stage_ranges(from, f->ranges, f->n_ranges, to, base_name(i->path), f->ranges, f->n_ranges,
                                 &i->staged);
}
