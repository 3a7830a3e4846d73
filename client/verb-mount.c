/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount: the service mounts, we only make the directory, with the caller's own rights: the service creates nothing at a
 * path that somebody names.
 */
#include "client/verbs.h"
#include <stdio.h>
#include <sys/stat.h>

static const Option mount_options[] = {
        { "noexec", 0, NULL, true, NULL, "allow no program of it to be run" },
        {},
};

/* A set with one snapshot stands for it. */
static int only_snapshot(Context *c, json_object *objects, json_object *set, json_object **ret) {
        json_object *paths = member(set, "snapshots");
        size_t n = paths ? json_object_array_length(paths) : 0;
        if (n != 1)
                return context_fail(c, n == 0 ? CONDITION_NOT_FOUND : CONDITION_AMBIGUOUS,
                                    "set %s has %zu snapshots; name one of them, `vssctl show` lists them",
                                    member_text(set, "id"), n);
        const char *path = json_object_get_string(json_object_array_get_idx(paths, 0));
        for (size_t i = 0; i < json_object_array_length(objects); i++)
                if (streq(member_text(json_object_array_get_idx(objects, i), "object"), path)) {
                        *ret = json_object_array_get_idx(objects, i);
                        return 0;
                }
        return context_fail(c, CONDITION_NOT_FOUND, "the snapshot of set %s is gone", member_text(set, "id"));
}

int snapshot_resolve(Context *c, json_object *objects, const char *id, json_object **ret) {
        int r = resolve(c, objects, id, VSS_IFACE_SNAPSHOT, ret);
        if (r == -condition_errno(CONDITION_AMBIGUOUS))
                return r;
        json_object *set = NULL;
        Context silent = *c;
        if (r < 0 && resolve(&silent, objects, id, VSS_IFACE_SET, &set) >= 0)
                r = only_snapshot(c, objects, set, ret);
        return r;
}

/*
 * The absolute path of a directory that need not be there: only what leads to it is resolved. If its last part becomes
 * a symlink after we looked, by whoever owns the place, vssd still sees the name and refuses it.
 */
static int absolute_path(const char *argument, char **ret) {
        _cleanup_free_ char *copy = strdup(argument), *parent = NULL;
        if (!copy)
                return -ENOMEM;
        for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
                copy[n - 1] = '\0';
        char *slash = strrchr(copy, '/'), *name = slash ? slash + 1 : copy;
        if (streq(name, "") || streq(name, ".") || streq(name, "..")) {
                *ret = realpath(copy, NULL);
                return *ret ? 0 : -errno;
        }
        if (slash)
                *slash = '\0';
        parent = realpath(!slash ? "." : slash == copy ? "/" : copy, NULL);
        if (!parent)
                return -errno;
        return asprintf(ret, "%s/%s", streq(parent, "/") ? "" : parent, name) < 0 ? -ENOMEM : 0;
}

/* *ret_made: whether it was us who made it. */
static int make_directory(Context *c, const char *argument, char **ret, bool *ret_made) {
        _cleanup_free_ char *absolute = NULL;
        struct stat st;
        int r = absolute_path(argument, &absolute);
        if (r < 0 && c->dry_run && r == -ENOENT)
                r = volume_to_bus(argument, ret);
        else if (r >= 0 && lstat(absolute, &st) >= 0) {
                if (S_ISLNK(st.st_mode))
                        return context_fail(c, CONDITION_INVALID_ARGUMENT,
                                            "%s is a symbolic link; name the directory that it leads to", argument);
                if (!S_ISDIR(st.st_mode))
                        return context_fail(c, CONDITION_INVALID_ARGUMENT, "%s is not a directory", argument);
        } else if (r >= 0 && errno != ENOENT)
                r = -errno;
        else if (r >= 0 && !c->dry_run) {
                r = mkdir(absolute, 0755) < 0 ? -errno : 0;
                *ret_made = r >= 0;
        }
        if (r < 0)
                return context_fail(c,
                                    r == -ENOENT ? CONDITION_NOT_FOUND :
                                    r == -EACCES ? CONDITION_NOT_AUTHORIZED :
                                                   CONDITION_FAILED,
                                    "cannot use %s: %s", argument, strerror(-r));
        if (*ret)
                return 0;
        return path_to_bus(absolute, ret) < 0 ? context_fail(c, CONDITION_LIMIT_REACHED, "out of memory") : 0;
}

static int mount_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL, *answer = NULL;
        _cleanup_free_ char *directory = NULL;
        json_object *object = NULL;
        bool made = false;
        int r = call_objects(c, NULL, &objects);
        if (r >= 0)
                r = snapshot_resolve(c, objects, c->operands[0], &object);
        if (r >= 0 && c->n_operands > 1)
                r = make_directory(c, c->operands[1], &directory, &made);
        if (r < 0)
                return r;
        r = call_method(c, member_text(object, "object"), VSS_IFACE_SNAPSHOT, "Mount", &answer, "sa{sv}",
                        directory ? directory : "", 2, "dry_run", "b", (int) c->dry_run, "exec", "b",
                        (int) !given_flag(c, "noexec"));
        if (r < 0) {
                if (made)
                        (void) rmdir(c->operands[1]);
                return r;
        }
        const char *path = json_object_get_string(json_object_array_get_idx(answer, 0));
        c->document = document_new();
        json_object_object_add(c->document, "id", json_object_new_string(member_text(object, "id")));
        json_object_object_add(c->document, "path", isempty(path) ? NULL : json_object_new_string(path));
        if (!c->json && !isempty(path)) /* also with --quiet: it is what was asked for */
                output_line(c, "%s", path);
        return 0;
}

const Verb verb_mount = {
        .name = "mount",
        .operands = "ID [DIRECTORY]",
        .summary = "mount a snapshot read-only and print where",
        .options = { mount_options },
        .min_operands = 1,
        .max_operands = 2,
        .operand_check = check_any,
        .changes = true,
        .examples = "  cd \"$(vssctl mount 3f0c9a52)\"\n"
                    "  vssctl mount nightly /mnt/yesterday\n",
        .run = mount_run,
};
