/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * timeline: what a set spent its time on, per phase, writer and volume, from its record.
 */
#include "client/timeline.h"
#include <fcntl.h>
#include <sys/stat.h>

static const Option timeline_options[] = {
        { "svg", 0, "FILE", false, check_any, "draw a picture into FILE instead" },
        {},
};

static int write_svg(Context *c, const Timeline *t, const char *id, const char *path) {
        _cleanup_free_ char *temporary = NULL, *title = NULL;
        if (asprintf(&temporary, "%s.XXXXXX", path) < 0 || asprintf(&title, "Set %s", id) < 0)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        int fd = mkostemp(temporary, O_CLOEXEC);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
        if (!f)
                return context_fail(c, CONDITION_FAILED, "cannot write %s: %s", path, strerror(errno));
        int r = timeline_svg(t, title, f);
        (void) fchmod(fd, 0644);
        if (fclose(f) != 0 || r < 0 || rename(temporary, path) < 0) {
                (void) unlink(temporary);
                return context_fail(c, CONDITION_FAILED, "cannot write %s: %s", path, strerror(errno));
        }
        return 0;
}

static json_object *steps_of(const Timeline *t) {
        json_object *rows = json_object_new_array();
        for (size_t i = 0; i < t->n_rows; i++) {
                const TimelineRow *row = &t->rows[i];
                json_object *one = json_object_new_object();
                json_object_object_add(one, "who", row->who[0] ? json_object_new_string(row->who) : NULL);
                json_object_object_add(one, "step", json_object_new_string(row->step));
                json_object_object_add(one, "start_usec", json_object_new_uint64(row->start_usec));
                json_object_object_add(one, "end_usec", json_object_new_uint64(row->end_usec));
                json_object_object_add(one, "outcome", json_object_new_string(row->outcome));
                json_object_array_add(rows, one);
        }
        return rows;
}

static int timeline_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL, *full = NULL;
        _cleanup_(timeline_done) Timeline t = {};
        json_object *object = NULL;
        const char *svg = given_value(c, "svg");
        int r = call_objects(c, VSS_IFACE_SET, &objects);
        if (r >= 0)
                r = resolve(c, objects, c->operands[0], VSS_IFACE_SET, &object);
        if (r >= 0)
                r = describe_set_full(c, member_text(object, "object"), true, &full);
        if (r < 0)
                return r;
        if (timeline_from_record(&t, member(full, "record")) < 0)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        if (svg && (r = write_svg(c, &t, member_text(object, "id"), svg)) < 0)
                return r;
        c->document = document_new();
        json_object_object_add(c->document, "set", json_object_new_string(member_text(object, "id")));
        json_object_object_add(c->document, "state", json_object_get(member(full, "state")));
        json_object_object_add(c->document, "timing", json_object_get(member(full, "timing")));
        json_object_object_add(c->document, "steps", steps_of(&t));
        json_object_object_add(c->document, "svg", svg ? json_object_new_string(svg) : NULL);
        if (c->json || svg)
                return 0;
        output_begin(c);
        output_line(c, "Set %s, %s", member_text(object, "id"), member_text(full, "state"));
        timeline_print(c, &t);
        return 0;
}

const Verb verb_timeline = {
        .name = "timeline",
        .operands = "SET",
        .summary = "show what a set spent its time on, per phase, writer and volume",
        .options = { timeline_options },
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_id,
        .examples = "  vssctl timeline nightly\n"
                    "  vssctl timeline 3f0c9a52 --svg=set.svg\n",
        .run = timeline_run,
};
