/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* restore --pending and --cancel: the plans for the next start of the machine, those that were carried out, and
 * restores that change files now or were cut off while they did. */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <signal.h>

static const Column columns[] = {
        { "PLAN", "id", FORMAT_TEXT },         { "CREATED", "created", FORMAT_TIME },
        { "STATE", "state", FORMAT_STATE },    { "WRITER", "writer", FORMAT_TEXT },
        { "COMPONENT", "path", FORMAT_TEXT },  { "FILES", "n_files", FORMAT_TEXT },
        { "MESSAGE", "message", FORMAT_TEXT }, {},
};

static const char *describe_state(const Plan *p, bool running) {
        return p->message ? p->message :
               running    ? "vssctl is at it" :
               p->state == PLAN_REPLACING ?
                         "cut off while files changed places: --cancel or the next start puts back what "
                         "was there" :
               p->state == PLAN_HELD ?
                         "cut off when all files were in place: restore again; --cancel lets its unit start" :
               p->state == PLAN_REPLACED ?
                         "cut off when all files were in place: --cancel or the next start removes what "
                         "was there" :
                         NULL;
}

static json_object *describe(const Plan *p, bool running) {
        json_object *row = json_object_new_object();
        json_add_string(row, "id", p->id);
        json_add_string(row, "created", p->created);
        json_add_string(row, "ended", p->ended);
        json_add_string(row, "set", p->set);
        json_add_string(row, "writer", p->writer);
        json_add_string(row, "path", p->component);
        json_add_string(row, "state", plan_state_to_string(p->state));
        json_add_string(row, "unit", p->unit);
        json_add_uint(row, "n_files", p->n_all);
        json_add_bool(row, "running", running);
        json_add_string(row, "message", describe_state(p, running));
        return row;
}

static int by_age(const void *a, const void *b) {
        return strcmp(member_text(*(json_object *const *) a, "created"),
                      member_text(*(json_object *const *) b, "created"));
}

static int open_plans(Context *c, int *ret) {
        int dfd = plans_open(false);
        if (dfd == -EACCES || dfd == -EPERM)
                return context_fail(c, CONDITION_NOT_AUTHORIZED, "plans for the next start are root's: %s",
                                    strerror(-dfd));
        if (dfd < 0 && dfd != -ENOENT)
                return context_fail(c, dfd == -EBUSY ? CONDITION_BUSY : CONDITION_FAILED, "plans cannot be read: %s",
                                    strerror(-dfd));
        *ret = dfd;
        return 0;
}

static int list(Context *c) {
        _cleanup_(strings_freep) char **ids = NULL;
        _cleanup_close_ int dfd = -EBADF;
        json_object *rows = json_object_new_array();
        Failure first = {};
        c->document = document_new();
        json_object_object_add(c->document, "plans", rows);
        int r = open_plans(c, &dfd);
        if (r < 0)
                return r;
        r = dfd < 0 ? 0 : plans_list(dfd, &ids);
        if (r < 0)
                return context_fail(c, CONDITION_FAILED, "plans cannot be listed: %s", strerror(-r));
        for (char **id = ids; id && *id; id++) {
                _cleanup_(plan_done) Plan p = {};
                Failure f = {};
                if (plan_load(dfd, *id, &f, &p) >= 0)
                        json_object_array_add(rows, describe(&p, plan_is_running(dfd, *id)));
                else if (first.condition == CONDITION_NONE)
                        first = f;
        }
        json_object_array_sort(rows, by_age);
        if (output_people(c) && json_object_array_length(rows) == 0)
                output_line(c, "Nothing waits for the next start.");
        else if (output_people(c))
                output_table(c, rows, columns);
        return first.condition != CONDITION_NONE ? context_fail(c, first.condition, "%s", first.message) : 0;
}

static int cancel(Context *c, const char *id) {
        _cleanup_(plan_done) Plan p = {};
        _cleanup_close_ int dfd = -EBADF;
        Failure f = {};
        int r = open_plans(c, &dfd);
        if (r < 0)
                return r;
        if (!id_is_valid(id) || dfd < 0)
                return context_fail(c, CONDITION_NOT_FOUND,
                                    "there is no plan %.80s; `vssctl restore --pending` lists them", id);
        bool running = plan_is_running(dfd, id); /* first: what is read after that is not changed by it any more */
        if (plan_load(dfd, id, &f, &p) < 0)
                return context_fail(c, f.condition, "%s", f.message);
        if (running)
                return context_fail(c, CONDITION_BUSY, "plan %s is not cancelled: its vssctl is still at it", id);
        (void) signal(SIGIO, SIG_IGN); /* as restore_run() */
        r = c->dry_run ? 0 : plan_cancel(dfd, &p);
        if (r < 0)
                return context_fail(c, r == -EBUSY || r == -ETXTBSY ? CONDITION_BUSY : CONDITION_FAILED,
                                    "plan %s is not cancelled: %.400s", id, p.message ?: strerror(-r));
        c->document = document_new();
        json_add_string(c->document, "plan", id);
        json_add_string(c->document, "unit", p.unit);
        if (p.unit && output_people(c))
                output_line(c, "%s can start: nothing does that by itself in this start of the machine", p.unit);
        json_add_bool(c->document, "dry_run", c->dry_run);
        return 0;
}

int restore_check_pending(Context *c) {
        const char *id = given_value(c, "cancel");
        bool pending = given_flag(c, "pending");
        if (!id && !pending)
                return c->n_operands > 0 ? 0 : context_usage(c, "restore needs MANIFEST");
        bool alone = c->n_operands == 0 && !(id && pending);
        for (const Option *o = c->verb->options[0]; o->name; o++)
                alone = alone && (streq(o->name, "pending") || streq(o->name, "cancel") || !given_flag(c, o->name));
        return alone ? 0 : context_usage(c, "--%s stands alone", id ? "cancel" : "pending");
}

int restore_run_pending(Context *c) {
        const char *id = given_value(c, "cancel");
        return id ? cancel(c, id) : list(c);
}
