/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.vssd.Vss1.SnapshotSet: properties and verbs of one set. set.h does what they say. */
#include "daemon/call.h"
#include "daemon/manager-private.h"
#include "daemon/results-bus.h"
#include "daemon/set-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <stdio.h>

static void options_free(void *p) {
        SetCallOptions *o = p;
        free(o->reason);
        free(o->until);
        free(o);
}

static const BusOption common_options[] = { BUS_OPTIONS_COMMON(SetCallOptions) };
static const BusOption delete_options[] = {
        BUS_OPTIONS_COMMON(SetCallOptions),
        { "force", "b", offsetof(SetCallOptions, force), NULL },
};
static const BusOption wait_options[] = { { "until", "s", offsetof(SetCallOptions, until), NULL } };

/* A call about this set with its options read; m stands before them. */
static int set_call_new(Set *s, sd_bus_message *m, const BusOption *options, size_t n, sd_bus_error *reterr,
                        Call **ret) {
        Failure f = {};
        SetCallOptions *o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        if (bus_read_options(m, options, n, o, NULL, &f) < 0) {
                options_free(o);
                return bus_error_set(reterr, &f);
        }
        int r = call_new(s->manager, m, reterr, ret);
        if (r < 0) {
                options_free(o);
                return r;
        }
        (*ret)->state = o;
        (*ret)->state_free = options_free;
        memcpy((*ret)->id, s->id, sizeof(s->id));
        return 0;
}

static int append_line(char **text, const char *line) {
        char *longer = NULL;
        if (asprintf(&longer, "%s%s%s", *text ? *text : "", *text ? "\n" : "", line ? line : "") < 0)
                return -ENOMEM;
        free(*text);
        *text = longer;
        return 0;
}

/* For rules: one name a line. A set that has copies is about them, another one about what it was asked for. */
static int volume_names(const Set *s, char **ret) {
        _cleanup_free_ char *text = NULL;
        const Snapshot *snapshot;
        int r = 0;
        LIST_FOREACH(snapshot, &s->snapshots, entries)
                if (r >= 0)
                        r = append_line(&text, snapshot->name);
        for (size_t i = 0; r >= 0 && LIST_EMPTY(&s->snapshots) && i < s->n_volumes; i++)
                r = append_line(&text, s->volumes[i]->name);
        if (r >= 0 && !text)
                r = append_line(&text, "");
        if (r >= 0)
                *ret = TAKE_PTR(text);
        return r;
}

void set_call_authorise(Call *c, const Set *s, bool own, CallStep next) {
        _cleanup_free_ char *names = NULL;
        if (volume_names(s, &names) < 0) {
                call_failf(c, CONDITION_FAILED, "out of memory");
                return;
        }
        const char *const details[] = { "set", s->id, "volumes", names, NULL };
        if (own)
                call_authorise_own(c, s, VSS_ACTION_DELETE, details, next);
        else
                call_authorise(c, VSS_ACTION_DELETE, details, next);
}

static void wait_step(Call *c) {
        const SetCallOptions *o = c->state;
        Failure f = {};
        Set *s = call_set(c);
        if (!s)
                return;
        /* everybody may wait, so a stranger must not take the last places of those whose set it is */
        if (c->caller.uid != 0 && c->caller.uid != s->owner_uid && s->n_waiters >= LIMIT_WAITERS_OF_OTHERS)
                call_failf(c, CONDITION_LIMIT_REACHED, "%u callers wait for set %s already", s->n_waiters, s->id);
        else if (set_wait(s, c->message, streq_null(o->until, "completed"), &f) < 0)
                call_fail(c, &f);
        else {
                c->answered = true; /* by the set, now or later */
                call_free(c);
        }
}

static int method_wait(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Call *c;
        int r = set_call_new(userdata, m, wait_options, ELEMENTSOF(wait_options), reterr, &c);
        if (r < 0)
                return r;
        const SetCallOptions *o = c->state;
        if (o->until && !streq(o->until, "created") && !streq(o->until, "completed"))
                call_failf(c, CONDITION_INVALID_ARGUMENT, "option until: %s is neither created nor completed",
                           o->until);
        else
                call_authorise(c, VSS_ACTION_INSPECT, (const char *const[]) { "set", c->id, NULL }, wait_step);
        return 1;
}

static void cancel_step(Call *c) {
        const SetCallOptions *o = c->state;
        Failure f = {};
        Set *s = call_set(c);
        if (!s)
                return;
        if ((o->dry_run ? set_may_cancel(s, &f) : set_cancel(s, &f)) < 0)
                call_fail(c, &f);
        else
                call_reply(c, "");
}

static int method_cancel(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Set *s = userdata;
        Call *c;
        int r = set_call_new(s, m, common_options, ELEMENTSOF(common_options), reterr, &c);
        if (r < 0)
                return r;
        set_call_authorise(c, s, true, cancel_step);
        return 1;
}

static void delete_now(Call *c) {
        const SetCallOptions *o = c->state;
        Failure f = {};
        Set *s = call_set(c);
        if (!s)
                return;
        if (o->dry_run)
                call_reply(c, "a(sss)", 0);
        else if (call_hold(c), set_delete(s, o->force, call_results_done, c, &f) < 0)
                call_fail(c, &f);
}

static void delete_step(Call *c) {
        call_when_quiet(c, delete_now);
}

static int method_delete(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Set *s = userdata;
        Call *c;
        int r = set_call_new(s, m, delete_options, ELEMENTSOF(delete_options), reterr, &c);
        if (r < 0)
                return r;
        set_call_authorise(c, s, s->options.lifetime == LIFETIME_AUTO_RELEASE, delete_step);
        return 1;
}

static void manifest_step(Call *c) {
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        Set *s = call_set(c);
        if (!s)
                return;
        int r = set_manifest(s, &text);
        if (r >= 0)
                r = bus_document_new("vss-manifest", text, strlen(text), &fd);
        if (r < 0)
                call_failf(c, CONDITION_BAD_STATE, "set %s is %s and has no manifest", s->id,
                           set_state_to_string(s->state));
        else
                call_reply(c, "h", fd);
}

static void record_step(Call *c) {
        _cleanup_free_ char *text = NULL;
        Set *s = call_set(c);
        if (!s)
                return;
        int r = set_record(s, &text);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "the record of set %s cannot be built: %s", s->id, strerror(-r));
        else
                call_reply(c, "s", text);
}

static int inspect(sd_bus_message *m, Set *s, sd_bus_error *reterr, CallStep step) {
        Call *c;
        int r = set_call_new(s, m, NULL, 0, reterr, &c);
        if (r < 0)
                return r;
        call_authorise(c, VSS_ACTION_INSPECT, (const char *const[]) { "set", s->id, NULL }, step);
        return 1;
}

static int method_get_manifest(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return inspect(m, userdata, reterr, manifest_step);
}

static int method_get_record(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return inspect(m, userdata, reterr, record_step);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Wait", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("s", state, "a{sv}", result),
                                method_wait, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_ARGS("a{sv}", options), SD_BUS_NO_RESULT, method_cancel,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Complete", SD_BUS_ARGS("b", success, "a(ssa{sv})", components, "a{sv}", options),
                                SD_BUS_RESULT("a(sss)", results), method_complete, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Delete", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("a(sss)", results),
                                method_delete, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("GetManifest", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("h", manifest),
                                method_get_manifest, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("GetRecord", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("s", record),
                                method_get_record, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("OpenCopy", SD_BUS_ARGS("s", volume, "a{sv}", options), SD_BUS_RESULT("h", directory),
                                method_open_copy, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Id", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Requester", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("OwnerUid", "u", set_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("BackupType", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Lifetime", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("State", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Phase", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Progress", "d", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Session", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("LastError", "(ssb)", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Labels", "a{ss}", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Consistency", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("OneInstant", "b", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("CreatedAt", "t", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Timing", "a{st}", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Volumes", "as", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Snapshots", "ao", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Writers", "a(sss)", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("QueuedBehind", "a(os)", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_VTABLE_END,
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret,
                sd_bus_error *reterr) {
        _cleanup_free_ char *id = NULL;
        Set *s = bus_path_decode(VSS_PATH_SETS, path, &id) > 0 ? manager_find_set(userdata, id) : NULL;
        if (s)
                *ret = s;
        return s != NULL;
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret, sd_bus_error *reterr) {
        _cleanup_(strings_freep) char **paths = NULL;
        Manager *m = userdata;
        Set *s;
        TAILQ_FOREACH(s, &m->sets, entries) {
                int r = strings_append(&paths, s->path);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(paths);
        return 0;
}

int set_bus_attach(Manager *m) {
        int r = sd_bus_add_fallback_vtable(m->bus, NULL, VSS_PATH_SETS, VSS_IFACE_SET, vtable, find, m);
        return r < 0 ? r : sd_bus_add_node_enumerator(m->bus, NULL, VSS_PATH_SETS, enumerate, m);
}
