/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-testwriter: a writer without an application, which does what it is told wrong, when it is told. It says on stdout
 * what happened to it, one line for each event, so that a test can see what the other writers saw.
 *
 * Each of --count writers has a connection of its own and with it a loop of its own inside ours: the library shares one
 * connection per loop.
 */
#include "writers/testwriter.h"
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void say_event(const TestWriter *t, const Event *e, const char *result) {
        printf("event %s %s %s %s %" PRIu64 "\n", t->name, writer_event_to_string(e->kind), e->set[0] ? e->set : "-",
               result, now_usec() - e->started_usec);
        (void) fflush(stdout);
}

/* ---- what is done wrong ---- */

static Rule *find_rule(TestWriter *t, WriterEvent event) {
        for (size_t i = 0; i < t->test->n_rules; i++) {
                Rule *rule = &t->test->rules[i];
                if (rule->event != event || (rule->times > 0 && t->used[i] >= rule->times))
                        continue;
                t->used[i]++;
                return rule;
        }
        return NULL;
}

static int on_hung(sd_event_source *source, void *userdata) {
        event_free(userdata); /* never answered */
        return 0;
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Event *e = userdata;

        writer_finish(e, event_call_plain(e));
        return 0;
}

static int hang(TestWriter *t, Event *e) {
        say_event(t, e, "hang");
        while (t->test->run)
                (void) pause();
        return sd_event_add_defer(e->writer->link->event, NULL, on_hung, e) < 0 ? -ENOMEM : VSS_PENDING;
}

static int be_late(TestWriter *t, Event *e, uint64_t usec) {
        if (t->test->run) {
                (void) usleep((useconds_t) usec);
                return 0;
        }
        return sd_event_add_time(e->writer->link->event, NULL, CLOCK_MONOTONIC, now_usec() + usec, 1, on_late, e) < 0 ?
                       -ENOMEM :
                       VSS_PENDING;
}

static int before(Writer *w, Event *e, void *userdata) {
        TestWriter *t = userdata;
        Rule *rule = find_rule(t, e->kind);

        e->marked = rule && rule->misdeed == MISDEED_TWICE;
        switch (rule ? rule->misdeed : MISDEED_NONE) {
        case MISDEED_FAIL:
                return vss_event_fail(e, t->test->veto, "%s was told to fail at %s", t->name,
                                      writer_event_to_string(e->kind));
        case MISDEED_FAIL_COMPONENT:
                return vss_event_fail_component(e, "data", t->test->veto, "%s was told to lose its component at %s",
                                                t->name, writer_event_to_string(e->kind));
        case MISDEED_HANG:
                return hang(t, e);
        case MISDEED_DIE:
                say_event(t, e, "die");
                (void) raise(SIGKILL);
                return -EIO;
        case MISDEED_LATE:
                return be_late(t, e, rule->late_usec);
        default:
                answers_put(t->test, e);
                return 0;
        }
}

static void answer_again(Event *e) {
        if (e->kind == EVENT_IDENTIFY)
                (void) sd_bus_reply_method_return(e->call, "s", "{}");
        else
                (void) sd_bus_reply_method_return(e->call, "a{sv}", 0);
}

static void after(Writer *w, Event *e, void *userdata) {
        TestWriter *t = userdata;
        const char *error = e->failed ? condition_name(e->failure.condition) : NULL;

        if (t->test->say)
                say_session(t, e);
        if (!e->call)
                say_event(t, e, "self");
        else
                say_event(t, e, error ? strrchr(error, '.') + 1 : "ok");
        if (e->marked && e->call) {
                answer_again(e);
                say_event(t, e, "twice");
        }
}

/* ---- the callbacks of a writer that has nothing to do ---- */

static int identify(struct vss_metadata *m, void *userdata) {
        const Test *t = ((TestWriter *) userdata)->test;
        int r;

        if (t->document)
                return identify_by_document(t, m);
        if (!t->volume)
                return 0;
        r = vss_metadata_component(m, "data",
                                   VSS_COMPONENT_SELECTABLE | VSS_COMPONENT_SELECTABLE_FOR_RESTORE |
                                           VSS_COMPONENT_NOTIFY_COMPLETE | (t->add ? VSS_COMPONENT_RECOVERS : 0),
                                   "Everything");
        return r < 0 ? r : vss_metadata_files(m, "data", t->volume, "*", VSS_FILES_RECURSIVE);
}

static int nothing(struct vss_event *e, void *userdata) {
        return 0;
}

/* As a database adds what its recovery needs. */
static int add_to_copy(struct vss_event *e, const Test *t) {
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -EBADF;

        if (asprintf(&path, "%s/%s", t->volume, t->add) < 0)
                return -ENOMEM;
        fd = vss_event_open_copy(e, path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0)
                return fd;
        return dprintf(fd, "%s\n", e->set) < 0 ? -EIO : 0;
}

static int post_snapshot(struct vss_event *e, void *userdata) {
        const Test *t = ((TestWriter *) userdata)->test;
        Failure failure = {};

        if (t->add && add_to_copy(e, t) < 0)
                return vss_event_fail(e, VSS_VETO_RETRYABLE, "cannot add %s to the copy of %s", t->add, t->volume);
        if (t->delete_originals && delete_originals(t->volume, &failure) < 0)
                return vss_event_fail(e, VSS_VETO_FATAL, "%s", failure.message);
        return 0;
}

static bool same_device(const char *a, const char *b) {
        struct stat sa, sb;

        return stat(a, &sa) < 0 || stat(b, &sb) < 0 || sa.st_dev == sb.st_dev;
}

int delete_originals(const char *volume, Failure *reterr) {
        char *const paths[] = { (char *) volume, NULL };
        FTS *fts;
        int r = 0;

        if (!volume || same_device(volume, "/"))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "nothing is deleted on the root file system");
        fts = fts_open(paths, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
        if (!fts)
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", volume, strerror(errno));
        for (FTSENT *f; (f = fts_read(fts));)
                if (f->fts_info == FTS_F && unlink(f->fts_accpath) < 0)
                        r = failure_set(reterr, CONDITION_FAILED, "%s: %s", f->fts_path, strerror(errno));
        (void) fts_close(fts);
        return r;
}

/* ---- options ---- */

static const Program *test_program(const Test *t) {
        return &t->program;
}

/* EVENT[:N], or EVENT:MSEC[:N] */
static int add_rule(Test *t, Misdeed misdeed, const char *value, Failure *reterr) {
        _cleanup_free_ char *copy = strdup(value);
        Rule *rule = &t->rules[t->n_rules];
        char *state = NULL, *part = copy ? strtok_r(copy, ":", &state) : NULL;
        int event = part ? writer_event_from_string(part) : -EINVAL;
        unsigned long numbers[2] = {};
        size_t n = 0;

        while (event >= 0 && (part = strtok_r(NULL, ":", &state))) {
                char *end;
                if (n == 2)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s: too many parts", value);
                numbers[n++] = strtoul(part, &end, 10);
                if (*end || end == part || numbers[n - 1] > 86400000)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s: %s is no number", value, part);
        }
        if (event < 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s does not begin with an event such as freeze",
                                   value);
        if (misdeed == MISDEED_LATE ? n == 0 : n > 1)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s: expected EVENT%s[:N]", value,
                                   n == 0 ? ":MSEC" : "");
        if (t->n_rules >= RULES_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d rules", RULES_MAX);
        *rule = (Rule) { misdeed, (WriterEvent) event, misdeed == MISDEED_LATE ? numbers[0] * USEC_PER_MSEC : 0,
                         (unsigned) numbers[misdeed == MISDEED_LATE] };
        t->n_rules++;
        return 0;
}

static int set_fail(void *target, const char *value, Failure *reterr) {
        return add_rule(target, MISDEED_FAIL, value, reterr);
}

static int set_fail_component(void *target, const char *value, Failure *reterr) {
        return add_rule(target, MISDEED_FAIL_COMPONENT, value, reterr);
}

static int set_hang(void *target, const char *value, Failure *reterr) {
        return add_rule(target, MISDEED_HANG, value, reterr);
}

static int set_die(void *target, const char *value, Failure *reterr) {
        return add_rule(target, MISDEED_DIE, value, reterr);
}

static int set_late(void *target, const char *value, Failure *reterr) {
        return add_rule(target, MISDEED_LATE, value, reterr);
}

static int set_twice(void *target, const char *value, Failure *reterr) {
        return add_rule(target, MISDEED_TWICE, value, reterr);
}

static int set_veto(void *target, const char *value, Failure *reterr) {
        static const char *const words[] = { "retryable", "fatal", "no-resources", "missing-volume" };
        Test *t = target;

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (streq(value, words[i])) {
                        t->veto = (enum vss_veto) i;
                        return 0;
                }
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                           "%s is no veto: retryable, fatal, no-resources, missing-volume", value);
}

static int set_volume(void *target, const char *value, Failure *reterr) {
        Test *t = target;
        char *path;
        int r = path_absolute(value, &path, reterr);

        if (r < 0)
                return r;
        free(t->volume);
        t->volume = path;
        return 0;
}

static int set_freeze_timeout(void *target, const char *value, Failure *reterr) {
        Test *t = target;
        return parse_seconds(value, &t->freeze_usec, reterr);
}

static int set_count(void *target, const char *value, Failure *reterr) {
        Test *t = target;
        char *end;
        unsigned long n = strtoul(value, &end, 10);

        if (*end || n < 1 || n > TESTWRITERS_MAX)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is no number from 1 to %d", value,
                                   TESTWRITERS_MAX);
        t->count = (unsigned) n;
        return 0;
}

static int set_hostile(void *target, const char *value, Failure *reterr) {
        Test *t = target;

        free(t->hostile);
        t->hostile = strdup(value);
        return t->hostile ? 0 : -ENOMEM;
}

static int set_add(void *target, const char *value, Failure *reterr) {
        Test *t = target;

        free(t->add);
        t->add = strdup(value);
        return t->add ? 0 : -ENOMEM;
}

static int set_delete(void *target, const char *value, Failure *reterr) {
        return ((Test *) target)->delete_originals = true, 0;
}

static int set_run(void *target, const char *value, Failure *reterr) {
        return ((Test *) target)->run = true, 0;
}

static int set_document(void *target, const char *value, Failure *reterr) {
        Test *t = target;
        char *path;
        int r = path_absolute(value, &path, reterr);

        if (r < 0)
                return r;
        free(t->document);
        t->document = path;
        return 0;
}

static int set_answer(void *target, const char *value, Failure *reterr) {
        return answer_add(target, value, reterr);
}

static int set_say(void *target, const char *value, Failure *reterr) {
        return ((Test *) target)->say = true, 0;
}

static int set_shared(void *target, const char *value, Failure *reterr) {
        return ((Test *) target)->shared = true, 0;
}

static const ProgramOption options[] = {
        { "volume", "PATH", "one component that covers all of PATH", set_volume },
        { "freeze-timeout", "SEC", "longest time from Freeze to Thaw", set_freeze_timeout },
        { "fail", "EVENT[:N]", "fail the first N times the event comes (default always)", set_fail },
        { "fail-component", "EVENT[:N]", "say that its component failed, and go on", set_fail_component },
        { "hang", "EVENT[:N]", "never answer", set_hang },
        { "die", "EVENT[:N]", "end by SIGKILL", set_die },
        { "late", "EVENT:MSEC[:N]", "answer so much later", set_late },
        { "twice", "EVENT[:N]", "answer twice", set_twice },
        { "veto", "KIND", "how to fail: retryable, fatal, no-resources, missing-volume", set_veto },
        { "count", "N", "so many writers, NAME-1 and so on, one connection each", set_count },
        { "shared", NULL, "with --count: all on one connection", set_shared },
        { "run", NULL, "callbacks on a worker thread, as vss_writer_run() has it", set_run },
        { "add-to-copy", "FILE", "make FILE in the copy of --volume in post-snapshot", set_add },
        { "document", "FILE", "say what is in FILE, a writer metadata document, instead", set_document },
        { "answer", "EVENT:COMPONENT:KEY=VALUE", "say this of a component: stamp, metadata, partial_files …",
          set_answer },
        { "say", NULL, "print all that each event brings", set_say },
        { "delete-originals", NULL, "delete all files of --volume in post-snapshot", set_delete },
        { "hostile", "MODE", "attack vssd instead; --hostile=help lists the modes", set_hostile },
};

/* ---- many writers ---- */

static void on_registered(Writer *w, int error, const char *message, void *userdata) {
        TestWriter *t = userdata;
        Test *test = t->test;

        if (error == 0) {
                printf("ready %s\n", t->name);
                (void) fflush(stdout);
                return;
        }
        fprintf(stderr, "vss-testwriter: %s is not registered: %s\n", t->name, message);
        if (error != -EACCES && error != -EEXIST && error != -EINVAL)
                return;
        test->status = error == -EACCES ? condition_exit_code(CONDITION_NOT_AUTHORIZED) : EXIT_FAILURE;
        if (++test->n_refused == test->count && test->loop)
                (void) sd_event_exit(test->loop, 0);
}

static int writer_make(Test *test, TestWriter *t, unsigned i) {
        const Program *p = test_program(test);
        struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,
                                          .instance = p->instance,
                                          .version = VSS_VERSION,
                                          .level = p->level,
                                          .usage = VSS_USAGE_OTHER,
                                          .source = VSS_SOURCE_OTHER,
                                          .freeze_timeout_usec = test->freeze_usec,
                                          .identify = identify,
                                          .prepare_backup = nothing,
                                          .prepare_snapshot = nothing,
                                          .freeze = nothing,
                                          .thaw = nothing,
                                          .post_snapshot = post_snapshot,
                                          .backup_complete = nothing,
                                          .backup_shutdown = nothing,
                                          .abort = nothing,
                                          .pre_restore = nothing,
                                          .post_restore = nothing };
        int r;

        t->test = test;
        if (test->count == 1)
                t->name = strdup(p->name);
        else if (asprintf(&t->name, "%s-%u", p->name, i + 1) < 0)
                t->name = NULL;
        if (!t->name)
                return -ENOMEM;
        c.name = t->name;
        r = vss_writer_new(&c, t, &t->writer);
        if (r >= 0)
                writer_set_hooks(t->writer, on_registered, before, after, t);
        return r;
}

/* Does all there is to do in the inner loop and arms its timers. */
static int inner_pump(TestWriter *t) {
        for (;;) {
                int r = sd_event_prepare(t->loop);
                if (r == 0)
                        r = sd_event_wait(t->loop, 0);
                if (r <= 0)
                        return r;
                r = sd_event_dispatch(t->loop);
                if (r <= 0)
                        return r;
        }
}

static int on_inner(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        return inner_pump(userdata);
}

static int writer_start(Test *test, TestWriter *t) {
        int r;

        if (test->shared || test->count == 1)
                return vss_writer_attach(t->writer, test->loop);
        r = sd_event_new(&t->loop);
        r = r < 0 ? r : vss_writer_attach(t->writer, t->loop);
        r = r < 0 ? r : sd_event_add_io(test->loop, &t->outer, sd_event_get_fd(t->loop), EPOLLIN, on_inner, t);
        return r < 0 ? r : inner_pump(t);
}

static int serve(Test *test) {
        sigset_t signals;
        int r;

        (void) sigemptyset(&signals);
        (void) sigaddset(&signals, SIGTERM);
        (void) sigaddset(&signals, SIGINT);
        (void) sigprocmask(SIG_BLOCK, &signals, NULL);
        r = sd_event_new(&test->loop);
        r = r < 0 ? r : sd_event_add_signal(test->loop, NULL, SIGTERM, NULL, NULL);
        r = r < 0 ? r : sd_event_add_signal(test->loop, NULL, SIGINT, NULL, NULL);
        for (unsigned i = 0; r >= 0 && i < test->count; i++)
                r = writer_start(test, &test->writers[i]);
        return r < 0 ? r : sd_event_loop(test->loop);
}

static int test_run(Test *test) {
        struct rlimit files;
        int r = 0;

        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = files.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE, &files);
        }
        test->writers = calloc(test->count, sizeof(*test->writers));
        if (!test->writers)
                return -ENOMEM;
        for (unsigned i = 0; r >= 0 && i < test->count; i++)
                r = writer_make(test, &test->writers[i], i);
        if (r >= 0)
                r = test->run ? vss_writer_run(test->writers[0].writer) : serve(test);
        for (unsigned i = 0; i < test->count; i++) {
                TestWriter *t = &test->writers[i];
                vss_writer_free(t->writer);
                sd_event_source_disable_unref(t->outer);
                sd_event_unref(t->loop);
                free(t->name);
        }
        sd_event_unref(test->loop);
        free(test->writers);
        return r;
}

static int check_options(const Test *t, Failure *reterr) {
        if (t->run && t->count > 1)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "--run is for one writer");
        if (t->delete_originals && same_device(t->volume, "/"))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "--delete-originals: nothing is deleted on the root file system");
        return 0;
}

int main(int argc, char *argv[]) {
        static Test t = { .count = 1,
                          .program = { .command = "vss-testwriter",
                                       .arguments = "",
                                       .summary = "A writer without an application that errs when it is told to.",
                                       .options = options,
                                       .n_options = ELEMENTSOF(options),
                                       .target = &t,
                                       .name = (char *) "test" } };
        Failure failure = {};
        int r = program_parse(&t.program, argc, argv);

        t.status = t.program.status;
        if (r == 0 && check_options(&t, &failure) < 0)
                t.status = program_fail(&t.program, &failure);
        else if (r == 0 && t.hostile)
                t.status = hostile_run(&t);
        else if (r == 0) {
                r = test_run(&t);
                if (r < 0 && t.status == 0) {
                        fprintf(stderr, "vss-testwriter: %s\n", strerror(-r));
                        t.status = EXIT_FAILURE;
                }
        }
        program_done(&t.program);
        free(t.volume);
        free(t.hostile);
        free(t.add);
        free(t.document);
        answers_done(&t);
        return t.status;
}
