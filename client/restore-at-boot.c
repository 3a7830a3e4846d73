/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-restore-at-boot: what restores left for this start of the machine. A plan that fails leaves everything as it was
 * and keeps neither the others nor the boot from going on; it is told in the journal and by `vssctl restore --pending`.
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <signal.h>

static const char *or_empty(const char *s) {
        return s ?: "";
}

static void tell(const Plan *p, PlanState before, int r) {
        _cleanup_free_ char *why = text_visible(or_empty(p->message));
        if (r == -EAGAIN)
                (void) printf("%s:%s: plan %s waits for another start: %s\n", p->writer, p->component, p->id,
                              or_empty(why));
        else if (before == PLAN_STAGING)
                (void) printf("%s:%s: plan %s was not complete and is removed\n", p->writer, p->component, p->id);
        else if (before == PLAN_REPLACED)
                (void) printf("%s:%s: plan %s, a restore that was cut off when its files were in place: %s\n",
                              p->writer, p->component, p->id,
                              r < 0 ? or_empty(why) : "what was there before is removed");
        else if (before == PLAN_REPLACING)
                (void) printf("%s:%s: plan %s, a restore that was cut off: %s%s\n", p->writer, p->component, p->id,
                              or_empty(why), p->state == PLAN_FAILED ? "" : "; nothing was done");
        else if (p->state == PLAN_DONE)
                (void) printf("%s:%s: %llu files are restored (plan %s)%s%s\n", p->writer, p->component,
                              (unsigned long long) p->n_all, p->id, r < 0 ? "; " : "", r < 0 ? or_empty(why) : "");
        else
                (void) printf("%s:%s: plan %s failed, %s: %s\n", p->writer, p->component, p->id,
                              p->state == PLAN_FAILED ? "all is as before" : "and is tried again in the next start",
                              or_empty(why));
}

/* Whether it is held: then systemd has to read its units again. */
static bool hold(const Plan *p) {
        int r = plan_holds(p) ? plan_hold(p) : -ENOENT;
        if (r >= 0)
                (void) printf("%s is not started: its restore was cut off; restore %s:%s again, or let it start with "
                              "`vssctl restore --cancel=%s`\n",
                              p->unit, p->writer, p->component, p->id);
        else if (plan_holds(p))
                (void) printf("%s cannot be kept from starting, though its restore was cut off (plan %s): %s\n",
                              p->unit, p->id, strerror(-r));
        return r >= 0;
}

static int run(int dfd, const char *id, bool *held) {
        _cleanup_(plan_done) Plan p = {};
        Failure f = {};
        if (plan_load(dfd, id, &f, &p) < 0) {
                (void) printf("%s\n", f.message);
                return -1;
        }
        if (plan_is_over(&p))
                return 0;
        PlanState before = p.state;
        int r = plan_run(dfd, &p);
        if (p.state != PLAN_HELD || before != PLAN_HELD)
                tell(&p, before, r);
        *held = hold(&p) || *held;
        return r == -EAGAIN ? 0 : r;
}

typedef struct Entry {
        const char *id;
        char *created;
} Entry;

static int by_age(const void *a, const void *b) {
        return strcmp(((const Entry *) a)->created, ((const Entry *) b)->created);
}

/* In the order in which they were made; what cannot be read comes first and is told. */
static int run_all(int dfd, char *const *ids) {
        size_t n = strings_count(ids);
        Entry *entries = calloc(n + 1, sizeof(*entries));
        int result = entries ? 0 : -ENOMEM;
        bool held = false;
        for (size_t i = 0; entries && i < n; i++) {
                _cleanup_(plan_done) Plan p = {};
                entries[i] = (Entry) { ids[i], NULL };
                (void) plan_load(dfd, ids[i], NULL, &p);
                entries[i].created = strdup(or_empty(p.created));
                if (!entries[i].created)
                        result = -ENOMEM;
        }
        if (result >= 0)
                qsort(entries, n, sizeof(*entries), by_age);
        for (size_t i = 0; entries && i < n; i++) {
                if (result != -ENOMEM && run(dfd, entries[i].id, &held) < 0)
                        result = -EIO;
                free(entries[i].created);
        }
        free(entries);
        int r = held ? systemctl("daemon-reload", NULL) : 0;
        if (r != 0)
                (void) printf("systemctl daemon-reload failed%s%s: what is not to start may start\n", r < 0 ? ": " : "",
                              r < 0 ? strerror(-r) : "");
        return r != 0 ? -EIO : result;
}

int main(int argc, char **argv) {
        _cleanup_(strings_freep) char **ids = NULL;
        sigset_t blocked;
        if (argc > 1) {
                (void) fprintf(stderr,
                               "%s: no argument is taken: it carries out what `vssctl restore --pending` lists\n",
                               argv[0]);
                return 2;
        }
        (void) setvbuf(stdout, NULL, _IOLBF, 0);
        /* Ended half-way it would leave a mixture for the services to start on. */
        (void) sigemptyset(&blocked);
        (void) sigaddset(&blocked, SIGINT);
        (void) sigaddset(&blocked, SIGTERM);
        (void) sigaddset(&blocked, SIGHUP);
        (void) sigprocmask(SIG_BLOCK, &blocked, NULL);
        _cleanup_close_ int dfd = plans_open(false);
        int r = dfd < 0 ? dfd : plans_list(dfd, &ids);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                (void) printf("plans cannot be read: %s; nothing was done\n", strerror(-r));
        else
                r = run_all(dfd, ids);
        return r < 0 ? 1 : 0;
}
