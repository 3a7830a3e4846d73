/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * revert: a volume gets the content of a snapshot back. vssd goes on with it whatever becomes of us, so all there is to
 * do is to look how far it is.
 */
#include "client/verbs.h"
#include <time.h>

#define TICK_NSEC 300000000L

static const Option revert_options[] = {
        { "force", 'f', NULL, true, NULL, "also if a pinned snapshot is used up, or others are lost by it" },
        { "no-safety-snapshot", 0, NULL, true, NULL, "do not keep what is there now: it cannot be undone then" },
        {},
};

/* Until the service says that nothing is under way there. */
static int follow(Context *c, const char *volume) {
        const struct timespec tick = { .tv_nsec = TICK_NSEC };
        for (;;) {
                _cleanup_(json_object_putp) json_object *now = NULL;
                int r = call_properties(c, volume, VSS_IFACE_VOLUME, &now);
                if (r < 0)
                        return r;
                if (isempty(member_text(now, "operation")))
                        return 0;
                double done = json_object_get_double(member(now, "progress"));
                if (done < 0)
                        output_progress(c, "revert");
                else
                        output_progress(c, "revert %3.0f %%", done * 100);
                (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
        }
}

static int take_result(Context *c, const char *volume, json_object *row) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = call_method(c, volume, VSS_IFACE_VOLUME, "Wait", &answer, "a{sv}", 0);
        if (r < 0)
                return r;
        json_object *result = json_object_array_get_idx(answer, 0);
        const char *error = member_text(result, "error_name"), *safety = member_text(result, "safety_snapshot"),
                   *warning = member_text(result, "warning");
        json_object_object_add(row, "safety_snapshot", isempty(safety) ? NULL : json_object_new_string(safety));
        json_object_object_add(row, "warning", isempty(warning) ? NULL : json_object_new_string(warning));
        return isempty(error) ? 0 :
                                context_fail(c, condition_from_name(error), "%s", member_text(result, "error_message"));
}

static void say(Context *c, json_object *object, json_object *row) {
        json_object *lost = member(row, "lost");
        _cleanup_free_ char *volume = text_visible(member_text(row, "volume"));
        for (size_t i = 0; lost && i < json_object_array_length(lost); i++) {
                const char *id = json_object_get_string(json_object_array_get_idx(lost, i));
                output_line(c, "snapshot %s %s%s", id, c->dry_run ? "would be " : "is ",
                            streq(id, member_text(object, "id")) ? "used up by it" : "lost by it");
        }
        output_line(c, "%s %s %s", volume ? volume : "",
                    c->dry_run ? "would be reverted to snapshot" : "has the content of snapshot",
                    member_text(object, "id"));
        if (!isempty(member_text(row, "safety_snapshot")))
                output_line(c, "what was there before is snapshot %s", member_text(row, "safety_snapshot"));
        if (!isempty(member_text(row, "warning")))
                output_line(c, "%s", member_text(row, "warning"));
}

static int begin(Context *c, json_object *object, json_object *row, char **ret_volume) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = call_method(c, member_text(object, "object"), VSS_IFACE_SNAPSHOT, "Revert", &answer, "a{sv}", 3,
                            "dry_run", "b", (int) c->dry_run, "force", "b", (int) given_flag(c, "force"),
                            "safety_snapshot", "b", (int) !given_flag(c, "no-safety-snapshot"));
        if (r < 0)
                return r;
        json_object *details = json_object_array_get_idx(answer, 1);
        const char *warning = member_text(details, "warning");
        json_object_object_add(row, "volume", json_object_new_string(member_text(details, "volume")));
        json_object_object_add(row, "lost", json_object_get(member(details, "lost")));
        json_object_object_add(row, "warning", isempty(warning) ? NULL : json_object_new_string(warning));
        *ret_volume = strdup(json_object_get_string(json_object_array_get_idx(answer, 0)));
        return *ret_volume ? 0 : context_fail(c, CONDITION_FAILED, "out of memory");
}

static int revert_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        _cleanup_free_ char *volume = NULL;
        json_object *object = NULL;
        int r = call_objects(c, NULL, &objects);
        if (r >= 0)
                r = snapshot_resolve(c, objects, c->operands[0], &object);
        if (r < 0)
                return r;
        c->document = document_new();
        json_object_object_add(c->document, "id", json_object_new_string(member_text(object, "id")));
        json_object_object_add(c->document, "dry_run", json_object_new_boolean(c->dry_run));
        json_object_object_add(c->document, "safety_snapshot", NULL);
        r = begin(c, object, c->document, &volume);
        if (r >= 0 && !c->dry_run) {
                r = follow(c, volume);
                output_progress_end(c);
                if (r >= 0)
                        r = take_result(c, volume, c->document);
        }
        if (r >= 0 && output_people(c))
                say(c, object, c->document);
        return r;
}

const Verb verb_revert = {
        .name = "revert",
        .operands = "ID",
        .summary = "give a volume the content of a snapshot back",
        .options = { revert_options },
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_id,
        .changes = true,
        .examples = "  vssctl revert --dry-run 3f0c9a52\n"
                    "  umount /srv/db && vssctl revert 3f0c9a52 && mount /srv/db\n",
        .run = revert_run,
};
