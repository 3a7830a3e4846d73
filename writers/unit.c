/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-writer-unit: whatever has no writer of its own stands still while it is copied: services, scopes and control
 * groups are frozen from Freeze to Thaw. Their processes do not run, so the copy is of one moment in their life; what
 * they had in memory only is not in it.
 *
 * Units are frozen by systemd (FreezeUnit), so that it knows; other groups by cgroup.freeze. They are let go by writing
 * to a descriptor that was opened before, which needs neither systemd nor the bus nor a file system; systemd is told
 * then. What we freeze does not come back by itself when we die, so a guard has the same descriptors (unit-guard.h).
 * Everything that can be done before is done in PrepareSnapshot: in the window nothing is opened or started.
 */
#include "writers/program-options.h"
#include "writers/unit-guard.h"
#include "writers/unit-manager.h"
#include "writers/unit-needed.h"
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

enum { VOLUMES_MAX = 64, NAME_BYTES = 256 };
#define FREEZE_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define BEGIN_USEC (10 * USEC_PER_SEC)
#define RELEASE_USEC (1 * USEC_PER_SEC) /* for systemd to take note that a unit runs again */

typedef struct Target {
        char *argument; /* a unit, or the path of a group */
        char id[256];   /* of the unit; "": a group */
        Cgroup cgroup;
} Target;

typedef struct Units {
        WriterOptions options; /* first: see there */
        Program *program;
        char *volumes[VOLUMES_MAX];
        Target targets[GUARD_CGROUPS_MAX];
        size_t n_volumes, n;
        bool only_leftovers;
        /* of the set */
        sd_bus *bus;
        Needed needed;
        UnitGuard guard;
        bool prepared, held, unanswered; /* unanswered: systemd may still freeze what it was asked to */
} Units;

/* --- what is to be frozen ----------------------------------------------------------------------------------------- */

static bool target_is_unit(const Target *t) {
        return t->argument[0] != '/';
}

/* A unit that does not run has no group: nothing to freeze. */
static int unit_open(Units *u, Target *t, uint64_t until_usec, UnitFacts *ret, Failure *reterr) {
        char path[2 * sizeof(ret->control_group)];
        const char *root = cgroup_mount();
        int r = manager_unit(u->bus, until_usec, t->argument, ret, reterr);
        if (r < 0)
                return r;
        (void) snprintf(t->id, sizeof(t->id), "%s", ret->id);
        if (ret->watchdog_usec > 0)
                return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "unit %s must not be frozen: it has WatchdogSec=, so systemd would kill it for not "
                                   "answering",
                                   ret->id);
        if (!ret->control_group[0])
                return 0;
        if (!root)
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "there are no control groups of version 2 here");
        (void) snprintf(path, sizeof(path), "%s%s", root, ret->control_group);
        return cgroup_open(path, &t->cgroup, reterr);
}

static int target_open(Units *u, Target *t, uint64_t until_usec, UnitFacts *ret, Failure *reterr) {
        *ret = (UnitFacts) {};
        cgroup_close(&t->cgroup);
        int r = target_is_unit(t) ? unit_open(u, t, until_usec, ret, reterr) :
                                    cgroup_open(t->argument, &t->cgroup, reterr);
        if (r < 0 || !t->cgroup.path)
                return r;
        r = needed_check_all(&u->needed, &t->cgroup, u->bus, until_usec, reterr);
        if (r < 0)
                return r;
        r = cgroup_is_frozen(&t->cgroup);
        return r > 0 ? failure_set(reterr, CONDITION_BUSY, "%.300s is frozen already, by somebody else", t->argument) :
                       r;
}

static int add_volume(void *target, const char *value, Failure *reterr) {
        Units *u = target;
        if (u->n_volumes >= VOLUMES_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d volumes", VOLUMES_MAX);
        int r = path_absolute(value, &u->volumes[u->n_volumes], reterr);
        u->n_volumes += r >= 0;
        return r;
}

/* Where nobody has said where its files are: StateDirectory=. */
static int add_state(Units *u, char *names, Failure *reterr) {
        char *state = NULL;
        int r = 0;
        for (char *name = strtok_r(names, "\n", &state); r >= 0 && name; name = strtok_r(NULL, "\n", &state)) {
                char path[LIMIT_PATH_BYTES];
                (void) snprintf(path, sizeof(path), "/var/lib/%s", name);
                if (access(path, F_OK) == 0)
                        r = add_volume(u, path, reterr);
        }
        return r;
}

/* --- a set -------------------------------------------------------------------------------------------------------- */

static bool is_open(const Target *t) {
        return t->cgroup.path != NULL;
}

/* Everything runs, whatever systemd says of it; then it is told. */
static void let_go(Units *u) {
        for (size_t i = 0; u->held && i < u->n; i++)
                if (is_open(&u->targets[i]))
                        (void) cgroup_set(&u->targets[i].cgroup, false);
        uint64_t end = usec_add(now_usec(), RELEASE_USEC);
        for (size_t i = 0; u->held && i < u->n; i++) {
                Target *t = &u->targets[i];
                if (!is_open(t) || !t->id[0])
                        continue;
                if (u->unanswered)
                        manager_post(u->bus, "ThawUnit", t->id);
                else
                        (void) manager_call(u->bus, end, "ThawUnit", t->id, NULL);
        }
        u->held = false;
}

/* Nothing of a set is left. */
static void settle(Units *u) {
        let_go(u);
        if (u->prepared)
                unit_guard_close(&u->guard, u->unanswered);
        for (size_t i = 0; i < u->n; i++)
                cgroup_close(&u->targets[i].cgroup);
        u->bus = sd_bus_close_unref(u->bus);
        u->prepared = u->unanswered = false;
}

static int veto(Units *u, struct vss_event *e, const Failure *f) {
        bool fatal = f->condition == CONDITION_NOT_SUPPORTED || f->condition == CONDITION_NOT_FOUND;
        settle(u);
        return vss_event_fail(e, fatal ? VSS_VETO_FATAL : VSS_VETO_RETRYABLE, "%s", f->message);
}

static bool is_affected(const Units *u, struct vss_event *e) {
        for (size_t i = 0; i < u->n_volumes; i++)
                if (vss_event_affects(e, u->volumes[i]))
                        return true;
        return false;
}

/* What the record of this writer is called. */
static void own_name(const Program *p, char ret[static NAME_BYTES]) {
        (void) snprintf(ret, NAME_BYTES, "%s%s%s", p->name, p->instance ? "@" : "", p->instance ?: "");
}

static int get_ready(Units *u, uint64_t until_usec, Failure *reterr) {
        const Cgroup *groups[GUARD_CGROUPS_MAX];
        char name[NAME_BYTES];
        size_t n = 0;
        UnitFacts facts;
        int r = manager_open(&u->bus, reterr);
        if (r < 0)
                return r;
        needed_look(&u->needed, u->bus, until_usec);
        for (size_t i = 0; i < u->n; i++) {
                r = target_open(u, &u->targets[i], until_usec, &facts, reterr);
                if (r < 0)
                        return r;
                if (is_open(&u->targets[i]))
                        groups[n++] = &u->targets[i].cgroup;
        }
        own_name(u->program, name);
        r = unit_guard_open(&u->guard, name, groups, n, until_usec, reterr);
        u->prepared = r >= 0;
        return r;
}

static int prepare_snapshot(struct vss_event *e, void *userdata) {
        Units *u = userdata;
        Failure f = {};
        settle(u);
        if (!is_affected(u, e))
                return 0;
        return get_ready(u, program_until(e), &f) < 0 ? veto(u, e, &f) : 0;
}

/* Once more, since processes come and go: nobody is in there who must not be, and nobody else has frozen it. */
static int check_again(Units *u, Failure *reterr) {
        for (size_t i = 0; i < u->n; i++) {
                Target *t = &u->targets[i];
                int r = is_open(t) ? needed_check(&u->needed, &t->cgroup, reterr) : 0;
                if (r < 0)
                        return r;
                if (is_open(t) && cgroup_is_frozen(&t->cgroup) > 0)
                        return failure_set(reterr, CONDITION_BUSY, "%.300s is frozen already, by somebody else",
                                           t->argument);
        }
        return 0;
}

static int freeze_target(Units *u, Target *t, uint64_t until_usec, Failure *reterr) {
        if (!t->id[0]) {
                int r = cgroup_set(&t->cgroup, true);
                return r < 0 ? failure_set(reterr, CONDITION_FAILED, "%.300s cannot be frozen: %s", t->argument,
                                           strerror(-r)) :
                               0;
        }
        int r = manager_call(u->bus, until_usec, "FreezeUnit", t->id, reterr);
        u->unanswered |= r < 0 && reterr->condition == CONDITION_DEADLINE_PASSED;
        return r;
}

static int freeze_all(Units *u, struct vss_event *e, Failure *reterr) {
        uint64_t end = program_until(e);
        int r = 0;
        for (size_t i = 0; r >= 0 && i < u->n; i++)
                if (is_open(&u->targets[i]))
                        r = freeze_target(u, &u->targets[i], end, reterr);
        for (size_t i = 0; r >= 0 && i < u->n; i++) {
                Target *t = &u->targets[i];
                r = is_open(t) ? cgroup_wait(&t->cgroup, true, end, vss_event_cancel_fd(e)) : 0;
                if (r < 0)
                        return failure_set(reterr, CONDITION_FAILED, "%.300s does not come to rest: %s", t->argument,
                                           r == -ETIME ? "one of its processes waits in the kernel" : strerror(-r));
        }
        return r;
}

static int freeze(struct vss_event *e, void *userdata) {
        Units *u = userdata;
        Failure f = {};
        if (!u->prepared)
                return 0;
        int r = check_again(u, &f);
        r = r < 0 ? r : unit_guard_hold(&u->guard, e->thaw_by_usec, true, &f);
        u->held = r >= 0;
        r = r < 0 ? r : freeze_all(u, e, &f);
        r = r < 0 ? r : unit_guard_hold(&u->guard, e->thaw_by_usec, false, &f);
        return r < 0 ? veto(u, e, &f) : 0;
}

static int thaw(struct vss_event *e, void *userdata) {
        Units *u = userdata;
        const char *broken = NULL;
        if (!u->prepared)
                return 0;
        for (size_t i = 0; i < u->n; i++)
                if (is_open(&u->targets[i]) && cgroup_is_told(&u->targets[i].cgroup) != 1)
                        broken = u->targets[i].argument;
        let_go(u);
        int r = unit_guard_release(&u->guard, program_until(e));
        settle(u);
        if (broken)
                return vss_event_fail(e, VSS_VETO_RETRYABLE, "%.300s was thawed by somebody else", broken);
        if (r < 0)
                return vss_event_fail(e, VSS_VETO_RETRYABLE, "the guard of what was frozen: %s",
                                      r == -ETIME ? "it has let go before" : strerror(-r));
        return 0;
}

static int do_abort(struct vss_event *e, void *userdata) {
        settle(userdata);
        return 0;
}

static int identify(struct vss_metadata *m, void *userdata) {
        Units *u = userdata;
        int r = vss_metadata_set(m, "restore.method", "stop-restore-start");
        for (size_t i = 0; i < u->n; i++)
                if (target_is_unit(&u->targets[i]))
                        r = r < 0 ? r : vss_metadata_set(m, "restore.service", u->targets[i].argument);
        for (size_t i = 0; r >= 0 && i < u->n_volumes; i++) {
                char path[24];
                (void) snprintf(path, sizeof(path), "volume-%zu", i + 1);
                r = vss_metadata_component(m, path, VSS_COMPONENT_SELECTABLE, u->volumes[i]);
                r = r < 0 ? r : vss_metadata_files(m, path, u->volumes[i], "*", VSS_FILES_RECURSIVE);
        }
        return r;
}

/* --- the program -------------------------------------------------------------------------------------------------- */

static int add_target(void *target, const char *value, Failure *reterr) {
        Units *u = target;
        Target *t = &u->targets[u->n];
        const char *dot = strrchr(value, '.');
        if (u->n >= GUARD_CGROUPS_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d units", GUARD_CGROUPS_MAX);
        if (value[0] != '/' && (strchr(value, '/') || !dot || (!streq(dot, ".service") && !streq(dot, ".scope"))))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "%.200s is no service, scope or path of a control group", value);
        *t = (Target) { .cgroup = CGROUP_NULL };
        int r = option_text(&t->argument, value, reterr);
        u->n += r >= 0;
        return r;
}

static int set_leftovers(void *target, const char *value, Failure *reterr) {
        ((Units *) target)->only_leftovers = true;
        return 0;
}

/* Everything is there and may be frozen when we begin: what is wrong is noticed by whoever typed it. */
static int begin(Units *u, Failure *reterr) {
        uint64_t end = usec_add(now_usec(), BEGIN_USEC);
        size_t given = u->n_volumes;
        UnitFacts facts;
        if (u->n == 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "no unit given; see --help");
        int r = manager_open(&u->bus, reterr);
        if (r >= 0)
                needed_look(&u->needed, u->bus, end);
        for (size_t i = 0; r >= 0 && i < u->n; i++) {
                r = target_open(u, &u->targets[i], end, &facts, reterr);
                if (r >= 0 && given == 0)
                        r = add_state(u, facts.state_directories, reterr);
        }
        if (r >= 0 && u->n_volumes == 0)
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                "nothing says where the files of %.200s are: give --volume=PATH",
                                u->targets[0].argument);
        settle(u);
        return r;
}

/* What was thawed behind its back systemd still calls frozen. */
static void tell_manager(Units *u) {
        uint64_t end = usec_add(now_usec(), BEGIN_USEC);
        if (manager_open(&u->bus, NULL) < 0)
                return;
        for (size_t i = 0; i < u->n; i++)
                if (target_is_unit(&u->targets[i]))
                        (void) manager_call(u->bus, end, "ThawUnit", u->targets[i].argument, NULL);
        settle(u);
}

static int serve(Program *p, Units *u) {
        Failure f = {};
        char name[NAME_BYTES];
        own_name(p, name);
        int r = unit_guard_leftovers(name, &f);
        if (r > 0)
                tell_manager(u);
        if (r < 0 || (!u->only_leftovers && begin(u, &f) < 0))
                return program_fail(p, &f);
        if (u->only_leftovers)
                return EXIT_SUCCESS;
        (void) signal(SIGCHLD, SIG_IGN); /* guards end by themselves */
        struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,
                                          .version = VSS_VERSION,
                                          .usage = VSS_USAGE_OTHER,
                                          .source = VSS_SOURCE_NON_TRANSACTED,
                                          .freeze_timeout_usec = u->options.freeze_usec,
                                          .identify = identify,
                                          .prepare_snapshot = prepare_snapshot,
                                          .freeze = freeze,
                                          .thaw = thaw,
                                          .abort = do_abort };
        int status = program_run(p, &c, u);
        settle(u);
        return status;
}

int main(int argc, char *argv[]) {
        static const ProgramOption options[] = {
                { "volume", "PATH",
                  "their files are all of PATH (may be given again); default: StateDirectory=", add_volume },
                { "freeze-timeout", "SEC", "longest time they may stand still (default 30)", option_freeze_timeout },
                { "release-leftovers", NULL, "thaw what a writer of this name left frozen, and exit", set_leftovers },
        };
        static Units u = { .options.freeze_usec = FREEZE_TIMEOUT_USEC, .guard = UNIT_GUARD_NULL };
        Program p = { .command = "vss-writer-unit",
                      .arguments = "UNIT|CGROUP...",
                      .summary = "Freezes units, or control groups, while they are copied.",
                      .options = options,
                      .n_options = ELEMENTSOF(options),
                      .argument_key = "unit",
                      .argument = add_target,
                      .target = &u,
                      .name = (char *) "unit",
                      .level = LEVEL_FRONT_END };
        u.program = &p;
        if (program_parse(&p, argc, argv) == 0)
                p.status = serve(&p, &u);
        for (size_t i = 0; i < u.n; i++)
                free(u.targets[i].argument);
        for (size_t i = 0; i < u.n_volumes; i++)
                free(u.volumes[i]);
        program_done(&p);
        return p.status;
}
