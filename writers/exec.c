/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-writer-exec: a writer made of scripts. Every executable of a directory is called with the name of the event: exit
 * status 0 is done, 1 failed with the reason on stderr, 2 not handled. A script that does not know `identify` is a hook
 * of the QEMU guest agent: it is called with freeze and thaw only.
 *
 * What freeze and thaw need is started in PrepareSnapshot and waits: for each script one child that will run its freeze
 * and one that will run its thaw. The second is the dead man's handle: it also runs when this process is gone, however
 * that happened, and when the time to thaw has passed.
 */
#include "writers/exec-child.h"
#include "writers/exec-identity.h"
#include "writers/program-options.h"
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum {
        SCRIPTS_MAX = 64,
        DIRECTORIES_MAX = 16,
        VOLUMES_MAX = 64,
        ENV_MAX = 512,
        SCRIPT_FAILED = 1,
        SCRIPT_NOT_HANDLED = 2
};
#define ANSWER_MARGIN_USEC (500 * USEC_PER_MSEC) /* left of a budget when a script is ended */

typedef enum ScriptKind { SCRIPT_UNKNOWN, SCRIPT_NATIVE, SCRIPT_HOOK } ScriptKind;

typedef struct Script {
        char *path;
        ScriptKind kind;
        Child freeze, thaw;
        bool frozen; /* its freeze was begun and its thaw not yet run well */
} Script;

typedef struct Exec {
        WriterOptions options; /* first: see there */
        const Program *program;
        char *directories[DIRECTORIES_MAX], *volumes[VOLUMES_MAX];
        size_t n_directories, n_volumes, n_scripts;
        Script scripts[SCRIPTS_MAX]; /* in the order of freeze; thaw goes the other way */
        bool hooks_only;
} Exec;

/* ---- which scripts there are ---- */

/* Whoever can write there becomes us. */
static int check_owner(const char *path, const struct stat *st, Failure *reterr) {
        if (st->st_uid != 0 && st->st_uid != geteuid())
                return failure_set(reterr, CONDITION_NOT_AUTHORIZED,
                                   "%s belongs to uid %u: it must belong to root or to the user of this program", path,
                                   (unsigned) st->st_uid);
        if (st->st_mode & (S_IWGRP | S_IWOTH))
                return failure_set(reterr, CONDITION_NOT_AUTHORIZED, "%s can be written by others: chmod go-w it",
                                   path);
        return 0;
}

static int wanted(const struct dirent *d) {
        static const char *const leftovers[] = { ".*",       "*~",        "*.bak",     "*.orig",  "*.sample",
                                                 "*.rpmnew", "*.rpmorig", "*.rpmsave", "*.dpkg-*" };

        for (size_t i = 0; i < ELEMENTSOF(leftovers); i++)
                if (fnmatch(leftovers[i], d->d_name, 0) == 0)
                        return 0;
        return 1;
}

static int add_script(Exec *x, const char *directory, const char *name, Failure *reterr) {
        _cleanup_free_ char *path = NULL;
        struct stat st;
        int r;

        if (asprintf(&path, "%s/%s", directory, name) < 0)
                return -ENOMEM;
        if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || access(path, X_OK) < 0)
                return 0;
        r = check_owner(path, &st, reterr);
        if (r < 0)
                return r;
        if (x->n_scripts >= SCRIPTS_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d scripts", SCRIPTS_MAX);
        x->scripts[x->n_scripts++] = (Script) { .path = TAKE_PTR(path),
                                                .kind = x->hooks_only ? SCRIPT_HOOK : SCRIPT_UNKNOWN,
                                                .freeze = CHILD_NONE,
                                                .thaw = CHILD_NONE };
        return 0;
}

static int scan_directory(Exec *x, const char *directory, Failure *reterr) {
        struct dirent **found = NULL;
        struct stat st;
        int n = -1, r = 0;

        if (stat(directory, &st) < 0 || !S_ISDIR(st.st_mode))
                return failure_set(reterr, CONDITION_NOT_FOUND, "%s is no directory", directory);
        r = check_owner(directory, &st, reterr);
        if (r < 0)
                return r;
        n = scandir(directory, &found, wanted, alphasort);
        if (n < 0)
                return failure_set(reterr, CONDITION_FAILED, "cannot read %s: %s", directory, strerror(errno));
        for (int i = 0; i < n; i++) {
                if (r >= 0)
                        r = add_script(x, directory, found[i]->d_name, reterr);
                free(found[i]);
        }
        free(found);
        return r;
}

static void forget_scripts(Script *scripts, size_t n) {
        for (size_t i = 0; i < n; i++) {
                child_done(&scripts[i].freeze);
                child_done(&scripts[i].thaw);
                free(scripts[i].path);
        }
}

/* Scripts come and go with packages; what a script is has been asked once. */
static int scan(Exec *x, Failure *reterr) {
        Script old[SCRIPTS_MAX];
        size_t n_old = x->n_scripts;
        int r = 0;

        memcpy(old, x->scripts, sizeof(old));
        x->n_scripts = 0;
        for (size_t i = 0; r >= 0 && i < x->n_directories; i++)
                r = scan_directory(x, x->directories[i], reterr);
        for (size_t i = 0; i < x->n_scripts; i++)
                for (size_t k = 0; k < n_old; k++)
                        if (streq(old[k].path, x->scripts[i].path))
                                x->scripts[i].kind = old[k].kind;
        forget_scripts(old, n_old);
        return r;
}

static bool any_started(const Exec *x) {
        for (size_t i = 0; i < x->n_scripts; i++)
                if (x->scripts[i].frozen || x->scripts[i].thaw.pid > 0)
                        return true;
        return false;
}

/* ---- environment of a script ---- */

typedef struct Environment {
        char *v[ENV_MAX + 1];
        size_t n;
} Environment;

static void environment_done(Environment *env) {
        for (size_t i = 0; i < env->n; i++)
                free(env->v[i]);
}

static int environment_put(Environment *env, const char *name, const char *value) {
        if (env->n >= ENV_MAX)
                return -E2BIG;
        if (asprintf(&env->v[env->n], "%s%s%s", name, value ? "=" : "", value ? value : "") < 0)
                return -ENOMEM;
        env->n++;
        return 0;
}

/* Lines PATH=yes or PATH=no of the components asked for. */
static int put_components(Environment *env, const Event *e) {
        _cleanup_free_ char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);

        if (!f)
                return -ENOMEM;
        for (size_t i = 0; i < e->n_components; i++)
                fprintf(f, "%s%s=%s", i > 0 ? "\n" : "", e->components[i].path,
                        e->components[i].succeeded ? "yes" : "no");
        return fclose(f) != 0 ? -ENOMEM : environment_put(env, "VSS_COMPONENTS", text);
}

/* e NULL: identify, outside of any event. */
static int environment_make(Environment *env, const Event *e, const char *event) {
        const char *text;
        int r = 0;

        *env = (Environment) {};
        env->v[0] = calloc(1, CHILD_DEADLINE_BYTES);
        if (!env->v[0])
                return -ENOMEM;
        env->n = 1;
        for (char **s = environ; r >= 0 && *s; s++)
                if (strncmp(*s, "VSS_", 4) != 0)
                        r = environment_put(env, *s, NULL);
        r = r < 0 ? r : environment_put(env, "VSS_EVENT", event);
        if (r < 0 || !e)
                return r;
        r = environment_put(env, "VSS_SET", e->set);
        if (r >= 0 && vss_event_get(e, NULL, "volumes", &text) >= 0)
                r = environment_put(env, "VSS_VOLUMES", text);
        if (r >= 0 && vss_event_get(e, NULL, "copies", &text) >= 0)
                r = environment_put(env, "VSS_COPIES", text);
        if (r >= 0 && e->n_components > 0)
                r = put_components(env, e);
        return r;
}

/* ---- running ---- */

static uint64_t script_deadline(uint64_t deadline_usec) {
        uint64_t now = now_usec();

        if (deadline_usec == USEC_INFINITY || deadline_usec <= now)
                return deadline_usec;
        return deadline_usec - MIN_OF(ANSWER_MARGIN_USEC, (deadline_usec - now) / 4);
}

static int script_start(const Script *s, ChildKind kind, const Event *e, const char *event, uint64_t deadline_usec,
                        size_t output, Child *ret) {
        Environment env;
        ChildStart start = { .kind = kind, .path = s->path, .event = event, .output_size = output };
        int r = environment_make(&env, e, event);

        start.env = env.v;
        start.before = kind == CHILD_UNDOES ? &s->freeze : NULL;
        r = r < 0 ? r : child_start(&start, deadline_usec, ret);
        environment_done(&env);
        return r;
}

/* The last line that is not empty, of what a script said. */
static char *last_line(char *text) {
        char *end = text + strlen(text), *line;

        while (end > text && strchr(" \t\r\n", end[-1]))
                *--end = 0;
        line = strrchr(text, '\n');
        return line ? line + 1 : text;
}

/* Turns how a script ended into the answer. handled may be NULL. */
static int judge(struct vss_event *e, const Script *s, const Child *c, const char *event, int r, int status,
                 bool *handled) {
        _cleanup_free_ char *said = NULL;

        if (handled)
                *handled = !(r >= 0 && status == SCRIPT_NOT_HANDLED && s->kind == SCRIPT_NATIVE);
        if (r >= 0 && (status == 0 || (status == SCRIPT_NOT_HANDLED && s->kind == SCRIPT_NATIVE)))
                return 0;
        if (r == -ETIME)
                return vss_event_fail(e, VSS_VETO_RETRYABLE, "%s %s was ended: it took longer than its budget", s->path,
                                      event);
        if (r == -ECANCELED)
                return vss_event_fail(e, VSS_VETO_RETRYABLE, "%s %s was ended: the set was given up", s->path, event);
        if (r < 0)
                return vss_event_fail(e, VSS_VETO_NO_RESOURCES, "%s %s: %s", s->path, event, strerror(-r));
        if (child_read(c, &said) < 0)
                return -ENOMEM;
        return vss_event_fail(e, VSS_VETO_RETRYABLE, "%s %s: %s (status %d)", s->path, event,
                              said[0] ? last_line(said) : "no reason given", status);
}

/* One event to all scripts that know it, one after the other. */
static int call_all(Exec *x, struct vss_event *e) {
        const char *event = writer_event_to_string(e->kind);
        int result = 0;

        for (size_t i = 0; i < x->n_scripts && (result >= 0 || e->kind == EVENT_ABORT); i++) {
                Script *s = &x->scripts[i];
                uint64_t due = e->call ? e->deadline_usec : usec_add(now_usec(), BUDGET_THAW_USEC);
                Child c = CHILD_NONE;
                int status = 0, r;
                if (s->kind != SCRIPT_NATIVE)
                        continue;
                r = script_start(s, CHILD_NOW, e, event, due, CHILD_MESSAGE_BYTES, &c);
                r = r < 0 ? r : child_wait(&c, script_deadline(due), e->cancel_fd, &status);
                r = judge(e, s, &c, event, r, status, NULL);
                result = r < 0 ? r : result;
                child_done(&c);
        }
        return result;
}

/* ---- identify ---- */

/* 0: native, and what it said is in *ret. -ENOSYS: a hook, which does not know the word. */
static int ask_identity(const Script *s, char **ret) {
        uint64_t deadline = usec_add(now_usec(), BUDGET_IDENTIFY_USEC);
        Child c = CHILD_NONE;
        int status = 0, r;

        r = script_start(s, CHILD_NOW, NULL, "identify", deadline, LIMIT_METADATA_BYTES, &c);
        r = r < 0 ? r : child_wait(&c, script_deadline(deadline), -EBADF, &status);
        if (r >= 0 && status != 0)
                r = s->kind == SCRIPT_NATIVE && status == SCRIPT_FAILED ? -EIO : -ENOSYS;
        r = r < 0 ? r : child_read(&c, ret);
        child_done(&c);
        return r;
}

static void detect(Exec *x) {
        for (size_t i = 0; i < x->n_scripts; i++) {
                _cleanup_free_ char *said = NULL;
                Script *s = &x->scripts[i];
                if (s->kind != SCRIPT_UNKNOWN)
                        continue;
                s->kind = SCRIPT_HOOK;
                if (ask_identity(s, &said) >= 0 && identity_put(NULL, said) >= 0)
                        s->kind = SCRIPT_NATIVE;
        }
}

static int identify(struct vss_metadata *m, void *userdata) {
        Exec *x = userdata;
        Failure failure = {};
        int r = 0;

        if (!any_started(x)) {
                r = scan(x, &failure);
                if (r < 0)
                        return r;
                detect(x);
        }
        for (size_t i = 0; r >= 0 && i < x->n_scripts; i++) {
                _cleanup_free_ char *said = NULL;
                if (x->scripts[i].kind != SCRIPT_NATIVE)
                        continue;
                r = ask_identity(&x->scripts[i], &said);
                if (r == -ENOSYS)
                        r = 0;
                else if (r >= 0)
                        r = identity_put(m, said);
        }
        for (size_t i = 0; r >= 0 && i < x->n_volumes; i++) {
                char path[24];
                (void) snprintf(path, sizeof(path), "volume-%zu", i + 1);
                r = vss_metadata_component(m, path, VSS_COMPONENT_SELECTABLE, x->volumes[i]);
                r = r < 0 ? r : vss_metadata_files(m, path, x->volumes[i], "*", VSS_FILES_RECURSIVE);
        }
        return r;
}

/* ---- freeze and thaw ---- */

static void stand_down(Exec *x) {
        for (size_t i = 0; i < x->n_scripts; i++) {
                child_done(&x->scripts[i].freeze);
                child_done(&x->scripts[i].thaw);
                x->scripts[i].frozen = false;
        }
}

static int get_ready(Exec *x, struct vss_event *e) {
        stand_down(x);
        for (size_t i = 0; i < x->n_scripts; i++) {
                Script *s = &x->scripts[i];
                int r = script_start(s, CHILD_WAITS, e, "freeze", USEC_INFINITY, CHILD_MESSAGE_BYTES, &s->freeze);
                r = r < 0 ? r : script_start(s, CHILD_UNDOES, e, "thaw", USEC_INFINITY, CHILD_MESSAGE_BYTES, &s->thaw);
                if (r < 0) {
                        stand_down(x);
                        return vss_event_fail(e, VSS_VETO_NO_RESOURCES, "cannot start %s: %s", s->path, strerror(-r));
                }
        }
        return 0;
}

static int prepare_snapshot(struct vss_event *e, void *userdata) {
        int r = call_all(userdata, e);
        return r < 0 ? r : get_ready(userdata, e);
}

/* A thaw by the child that waits for it, or, where that one has been used up, by a new one. */
static int thaw_script(struct vss_event *e, Script *s) {
        uint64_t due = e->call ? e->deadline_usec : usec_add(now_usec(), BUDGET_THAW_USEC),
                 deadline = script_deadline(due);
        int status = 0, r = 0;

        if (s->thaw.pid > 0)
                (void) child_go(&s->thaw, due); /* fails if it has run by itself: then its status tells */
        else
                r = script_start(s, CHILD_NOW, e, "thaw", due, CHILD_MESSAGE_BYTES, &s->thaw);
        r = r < 0 ? r : child_wait(&s->thaw, deadline, e->call ? e->cancel_fd : -EBADF, &status);
        r = judge(e, s, &s->thaw, "thaw", r, status, NULL);
        s->frozen = r < 0;
        child_done(&s->thaw);
        return r;
}

static int thaw_all(Exec *x, struct vss_event *e) {
        int result = 0;

        for (size_t i = x->n_scripts; i-- > 0;) {
                Script *s = &x->scripts[i];
                if (!s->frozen)
                        continue;
                int r = thaw_script(e, s);
                result = r < 0 ? r : result;
        }
        return result;
}

static int freeze_script(struct vss_event *e, Script *s) {
        bool handled = true;
        int status = 0, r;

        s->frozen = true;
        r = child_arm(&s->thaw, e->thaw_by_usec);
        r = r < 0 ? r : child_go(&s->freeze, e->deadline_usec);
        r = r < 0 ? r : child_wait(&s->freeze, script_deadline(e->deadline_usec), e->cancel_fd, &status);
        r = judge(e, s, &s->freeze, "freeze", r, status, &handled);
        child_done(&s->freeze);
        if (!handled) { /* nothing to undo */
                child_done(&s->thaw);
                s->frozen = false;
        }
        return r;
}

static int freeze(struct vss_event *e, void *userdata) {
        Exec *x = userdata;
        int r = any_started(x) || x->n_scripts == 0 ? 0 : get_ready(x, e);

        for (size_t i = 0; r >= 0 && i < x->n_scripts; i++)
                r = freeze_script(e, &x->scripts[i]);
        return r;
}

static int thaw(struct vss_event *e, void *userdata) {
        return thaw_all(userdata, e);
}

static int do_abort(struct vss_event *e, void *userdata) {
        Exec *x = userdata;
        int r = thaw_all(x, e), q;

        if (r >= 0)
                stand_down(x);
        q = call_all(x, e);
        return r < 0 ? r : q;
}

static int pass_on(struct vss_event *e, void *userdata) {
        return call_all(userdata, e);
}

/* ---- options ---- */

static int add_path(char **list, size_t *n, size_t max, const char *value, Failure *reterr) {
        int r;

        if (*n >= max)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %zu of them", max);
        r = path_absolute(value, &list[*n], reterr);
        if (r >= 0)
                (*n)++;
        return r;
}

static int add_directory(void *target, const char *value, Failure *reterr) {
        Exec *x = target;
        return add_path(x->directories, &x->n_directories, DIRECTORIES_MAX, value, reterr);
}

static int add_volume(void *target, const char *value, Failure *reterr) {
        Exec *x = target;
        return add_path(x->volumes, &x->n_volumes, VOLUMES_MAX, value, reterr);
}

static int set_hooks(void *target, const char *value, Failure *reterr) {
        return ((Exec *) target)->hooks_only = true, 0;
}

static const ProgramOption options[] = {
        { "hooks", NULL, "all scripts are hooks of the QEMU guest agent: freeze and thaw only", set_hooks },
        { "volume", "PATH", "the scripts' data are all of PATH (may be given again)", add_volume },
        { "freeze-timeout", "SEC", "longest time from Freeze to Thaw", option_freeze_timeout },
};

static int start(Exec *x, Program *p) {
        Failure failure = {};
        int r = 0;

        if (x->n_directories == 0)
                r = failure_set(&failure, CONDITION_INVALID_ARGUMENT, "no directory given; see --help");
        r = r < 0 ? r : scan(x, &failure);
        if (r < 0) {
                p->status = program_fail(p, &failure);
                return r;
        }
        detect(x);
        return 0;
}

int main(int argc, char *argv[]) {
        static Exec x;
        Program p = { .command = "vss-writer-exec",
                      .arguments = "DIRECTORY...",
                      .summary = "A writer made of scripts.",
                      .options = options,
                      .n_options = ELEMENTSOF(options),
                      .argument_key = "directory",
                      .argument = add_directory,
                      .target = &x,
                      .name = (char *) "exec",
                      .level = LEVEL_FRONT_END };
        int r = program_parse(&p, argc, argv);

        if (r == 0 && start(&x, &p) == 0) {
                struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,
                                                  .version = VSS_VERSION,
                                                  .usage = VSS_USAGE_OTHER,
                                                  .source = VSS_SOURCE_OTHER,
                                                  .freeze_timeout_usec = x.options.freeze_usec,
                                                  .identify = identify,
                                                  .prepare_backup = pass_on,
                                                  .prepare_snapshot = prepare_snapshot,
                                                  .freeze = freeze,
                                                  .thaw = thaw,
                                                  .post_snapshot = pass_on,
                                                  .backup_complete = pass_on,
                                                  .backup_shutdown = pass_on,
                                                  .abort = do_abort,
                                                  .pre_restore = pass_on,
                                                  .post_restore = pass_on };
                p.status = program_run(&p, &c, &x);
        }
        forget_scripts(x.scripts, x.n_scripts);
        for (size_t i = 0; i < x.n_directories; i++)
                free(x.directories[i]);
        for (size_t i = 0; i < x.n_volumes; i++)
                free(x.volumes[i]);
        program_done(&p);
        return p.status;
}
