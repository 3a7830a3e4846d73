/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * volume create|attach|detach|remove|list: volumes of the built-in engine. storage list: the stores behind them.
 */
#include "client/verb-lists.h"
#include "protocol/text.h"

static const char *check_size(const char *value) {
        uint64_t bytes;
        return size_from_text(value, &bytes) < 0 || bytes == 0 ? "a size such as 10G, 512M or a number of bytes" : NULL;
}

static const char *check_frontend(const char *value) {
        return streq(value, "auto") || streq(value, "ublk") || streq(value, "fuse") ? NULL :
                                                                                      "one of auto, ublk and fuse";
}

static const char *check_path(const char *value) {
        return value[0] ? NULL : "a path";
}

static const Option volume_options[] = {
        { "origin", 0, "PATH", false, check_path, "create: the device or image file with the live data" },
        { "store", 0, "PATH", false, check_path, "create: where old blocks go; made if it is missing" },
        { "store-max", 0, "SIZE", false, check_size, "create: size of a store that is made" },
        { "frontend", 0, "KIND", false, check_frontend, "create: auto, fuse or ublk" },
        { "force", 'f', NULL, true, NULL,
          "remove: also when it has snapshots, which go too; attach: also when its origin is another disk now" },
        {},
};

typedef struct VolumeAction {
        const char *word;
        const char *member;  /* of the Manager; NULL: list */
        const char *options; /* it takes, space-separated */
} VolumeAction;

static const VolumeAction actions[] = {
        { "create", "CreateVolume", " origin store store-max frontend " },
        { "attach", "AttachVolume", " force " },
        { "detach", "DetachVolume", " " },
        { "remove", "RemoveVolume", " force " },
        { "list", NULL, " " },
};

static const VolumeAction *action_of(const Context *c) {
        for (size_t i = 0; i < ELEMENTSOF(actions); i++)
                if (c->n_operands > 0 && streq(c->operands[0], actions[i].word))
                        return &actions[i];
        return NULL;
}

static bool option_fits(const VolumeAction *a, const char *name) {
        char word[32];
        (void) snprintf(word, sizeof(word), " %s ", name);
        return strstr(a->options, word);
}

static int volume_check(Context *c) {
        const VolumeAction *a = action_of(c);
        if (!a)
                return context_usage(c, "needs create, attach, detach, remove or list");
        for (const Option *o = volume_options; o->name; o++)
                if ((o->value ? given_value(c, o->name) != NULL : given_flag(c, o->name)) && !option_fits(a, o->name))
                        return context_usage(c, "%s does not take --%s", a->word, o->name);
        if (a->member && c->n_operands != 2)
                return context_usage(c, "%s needs the NAME of a volume", a->word);
        if (streq(a->word, "create") && !given_value(c, "origin"))
                return context_usage(c, "create needs --origin=PATH");
        return 0;
}

/* --- list --------------------------------------------------------------------------------------------------------- */

static const Column volume_columns[] = {
        { "VOLUME", "name", FORMAT_TEXT },
        { "SIZE", "size", FORMAT_SIZE },
        { "DEVICE", "device", FORMAT_TEXT },
        { "SNAPSHOTS", "snapshots", FORMAT_COUNT },
        { "ORIGIN", "origin", FORMAT_TEXT },
        { "FAULT", "fault", FORMAT_STATE },
        {},
};
static const Column storage_columns[] = {
        { "STORE", "id", FORMAT_TEXT },
        { "USED", "used_bytes", FORMAT_SIZE },
        { "SIZE", "max_bytes", FORMAT_SIZE },
        { "WHEN FULL", "policy", FORMAT_TEXT },
        { "PATH", "path", FORMAT_TEXT },
        { "FAULT", "fault", FORMAT_STATE },
        {},
};

/* which: 0 volumes, 1 stores. */
static int list_run(Context *c, size_t which) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = call_method(c, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "ListEngine", &answer, "a{sv}", 0);
        if (r < 0)
                return r;
        c->document = document_new();
        json_object_object_add(c->document, which ? "storage" : "volumes",
                               json_object_get(json_object_array_get_idx(answer, which)));
        return which ? list_print(c, "storage", storage_columns,
                                  "There is no store. `vssctl volume create` makes one.") :
                       list_print(c, "volumes", volume_columns,
                                  "There is no engine volume. `vssctl volume create NAME --origin=PATH` makes one.");
}

/* --- the others --------------------------------------------------------------------------------------------------- */

/* A path as the daemon sees it: absolute. */
static int absolute(Context *c, const char *path, char **ret) {
        _cleanup_free_ char *here = path[0] == '/' ? NULL : getcwd(NULL, 0);
        if (path[0] != '/' && !here)
                return context_fail(c, CONDITION_FAILED, "the current directory is gone: give an absolute path");
        return asprintf(ret, "%s%s%s", here ?: "", here ? "/" : "", path) < 0 ?
                       context_fail(c, CONDITION_FAILED, "out of memory") :
                       0;
}

static int create(Context *c, json_object **ret) {
        _cleanup_free_ char *origin = NULL, *store = NULL;
        const char *max = given_value(c, "store-max");
        uint64_t bytes = 0;
        int r = absolute(c, given_value(c, "origin"), &origin);
        if (r >= 0 && given_value(c, "store"))
                r = absolute(c, given_value(c, "store"), &store);
        if (r < 0)
                return r;
        if (max)
                (void) size_from_text(max, &bytes);
        return call_method(c, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "CreateVolume", ret, "ssa{sv}", c->operands[1], origin,
                           4, "dry_run", "b", (int) c->dry_run, "store", "s", store ?: "", "store_max", "t", bytes,
                           "frontend", "s", given_value(c, "frontend") ?: "auto");
}

static int change(Context *c, const VolumeAction *a, json_object **ret) {
        if (streq(a->word, "create"))
                return create(c, ret);
        if (strstr(a->options, " force "))
                return call_method(c, VSS_ROOT_PATH, VSS_IFACE_MANAGER, a->member, ret, "sa{sv}", c->operands[1], 2,
                                   "dry_run", "b", (int) c->dry_run, "force", "b", (int) given_flag(c, "force"));
        return call_method(c, VSS_ROOT_PATH, VSS_IFACE_MANAGER, a->member, ret, "sa{sv}", c->operands[1], 1, "dry_run",
                           "b", (int) c->dry_run);
}

static int volume_run(Context *c) {
        static const char *const done[][2] = {
                { "create", "created" }, { "attach", "attached" }, { "detach", "detached" }, { "remove", "removed" }
        };
        _cleanup_(json_object_putp) json_object *answer = NULL;
        const VolumeAction *a = action_of(c);
        if (!a->member)
                return list_run(c, 0);
        int r = change(c, a, &answer);
        if (r < 0)
                return r;
        const char *device = json_object_array_length(answer) > 0 ?
                                     json_object_get_string(json_object_array_get_idx(answer, 0)) :
                                     "";
        c->document = document_new();
        json_add_string(c->document, "name", c->operands[1]);
        json_add_string(c->document, "device", isempty(device) ? NULL : device);
        json_add_bool(c->document, "dry_run", c->dry_run);
        for (size_t i = 0; i < ELEMENTSOF(done) && output_people(c); i++)
                if (streq(done[i][0], a->word))
                        output_line(c, "%s %s%s%s%s", c->operands[1], c->dry_run ? "would be " : "", done[i][1],
                                    isempty(device) ? "" : ": ", device);
        return 0;
}

const Verb verb_volume = {
        .name = "volume",
        .operands = "create|attach|detach|remove|list [NAME]",
        .summary = "volumes of the built-in engine: any disk or image file becomes snapshottable",
        .options = { volume_options },
        .min_operands = 1,
        .max_operands = 2,
        .operand_check = check_any,
        .changes = true,
        .examples = "  vssctl volume create data --origin=/srv/data.img\n"
                    "  vssctl volume create db --origin=/dev/sdb1 --store=/var/lib/vss/cow/db.store --store-max=20G\n"
                    "  mount /dev/vss/data /srv/data\n"
                    "  vssctl volume list\n",
        .check = volume_check,
        .run = volume_run,
};

static int storage_check(Context *c) {
        return streq(c->operands[0], "list") ? 0 : context_usage(c, "needs list");
}

static int storage_run(Context *c) {
        return list_run(c, 1);
}

const Verb verb_storage = {
        .name = "storage",
        .operands = "list",
        .summary = "the stores where the built-in engine keeps old blocks, and how full they are",
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_any,
        .examples = "  vssctl storage list\n",
        .check = storage_check,
        .run = storage_run,
};
