/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What create, run, plan and test-backup share: the options of a set, and making it. An interrupt cancels: vssd then
 * puts everything back and tells so, and only then we end. If it came too late, the set is deleted, since nobody was
 * told of it.
 */
#include "client/verbs.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

const Option set_options[] = {
        { "writer", 0, "WRITER", true, check_writer, "take only these writers" },
        { "exclude-writer", 0, "WRITER", true, check_writer, "leave this writer out" },
        { "require-writer", 0, "WRITER", true, check_writer, "fail unless this writer takes part" },
        { "no-writers", 0, NULL, true, NULL, "ask no writer at all" },
        { "on-writer-failure", 0, "abort|degrade", false, check_on_failure, "fail the set, or lower its level" },
        { "component", 0, "WRITER:PATH", true, check_component, "take this component" },
        { "writer-option", 0, "WRITER:KEY=VALUE", true, check_writer_option, "tell a writer something" },
        { "closure", 0, "extend|strict|ignore", false, check_closure, "when a component has files on other volumes" },
        { "nested", 0, NULL, true, NULL, "also take file systems mounted below (default in run)" },
        { "freeze-unit", 0, "UNIT", true, check_unit, "stop this systemd unit while the copy is taken" },
        { "type", 0, "TYPE", false, check_type, "copy (default), full, incremental, differential, log" },
        { "previous", 0, "FILE", false, check_any, "manifest of the backup that this one builds on" },
        { "bootable-state", 0, NULL, true, NULL, "also take what the machine needs to start again" },
        { "partial-files", 0, NULL, true, NULL, "the backup program can save parts of files" },
        { "auto-recovery", 0, "WHO", false, check_recovery,
          "who writes into the copy: writers, rollback, force, none" },
        { "provider", 0, "PROVIDER", false, check_provider, "who makes the copies (default: the most native)" },
        { "mode", 0, "copy|redirect|clone", false, check_mode,
          "how the copies are made (default: as the provider does)" },
        { "require", 0, "LEVEL", false, check_level, "application, filesystem or crash (default)" },
        { "label", 0, "KEY=VALUE", true, check_label, "note this with the set; \"alias\" names it" },
        { "manifest", 0, "FILE", false, check_any, "write the manifest, which restore needs" },
        { "wait-for-turn", 0, "SEC", false, check_seconds,
          "wait for other sets this long (default 60, 0: not at all)" },
        { "retry", 0, "N", false, check_count, "try again up to N times when that may help" },
        {},
};

volatile int interrupted;

static void on_interrupt(int number) {
        interrupted = number;
}

void interrupts_catch(void) {
        struct sigaction action = { .sa_handler = on_interrupt };
        (void) sigaction(SIGINT, &action, NULL);
        (void) sigaction(SIGTERM, &action, NULL);
        (void) sigaction(SIGHUP, &action, NULL);
}

int make_set_check(Context *c) {
        static const char *const with_writers[] = { "writer",         "require-writer", "component",
                                                    "writer-option",  "exclude-writer", "previous",
                                                    "bootable-state", "partial-files",  "auto-recovery" };
        if (given_flag(c, "no-writers"))
                for (size_t i = 0; i < ELEMENTSOF(with_writers); i++)
                        if (given_flag(c, with_writers[i]))
                                return context_usage(c, "--no-writers and --%s exclude each other", with_writers[i]);
        if (c->n_operands == 0 && !given_flag(c, "component") && !given_flag(c, "bootable-state"))
                return context_usage(c, "needs a VOLUME, a --component or --bootable-state");
        return 0;
}

/* Options that travel as they are. */
static const struct {
        const char *option, *key;
} carried[] = {
        { "writer", "writers" },
        { "exclude-writer", "exclude_writers" },
        { "require-writer", "require_writers" },
        { "on-writer-failure", "on_writer_failure" },
        { "writer-option", "writer_options" },
        { "closure", "closure" },
        { "freeze-unit", "freeze_units" },
        { "type", "backup_type" },
        { "auto-recovery", "auto_recovery" },
        { "provider", "provider" },
        { "mode", "mode" },
        { "require", "require" },
        { "label", "labels" },
};

static const struct {
        const char *option, *key;
} flags[] = {
        { "no-writers", "no_writers" },
        { "bootable-state", "bootable_state" },
        { "partial-files", "partial_files" },
};

static int add_options(Context *c, struct vss_set *s) {
        uint64_t usec;
        char text[32];
        int r = 0;
        for (size_t k = 0; r >= 0 && k < ELEMENTSOF(carried); k++) {
                const char *value;
                for (size_t i = 0; r >= 0 && (value = given_next(c, carried[k].option, &i));)
                        r = vss_set_option(s, carried[k].key, value);
        }
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(flags); i++)
                if (given_flag(c, flags[i].option))
                        r = vss_set_option(s, flags[i].key, "true");
        if (r >= 0 && given_value(c, "wait-for-turn") && parse_seconds(given_value(c, "wait-for-turn"), &usec) >= 0) {
                (void) snprintf(text, sizeof(text), "%llu", (unsigned long long) usec);
                r = vss_set_option(s, "wait_for_turn_usec", text);
        }
        bool keep = streq(c->verb->name, "run") ? given_flag(c, "keep") : !given_flag(c, "auto-release");
        if (r >= 0)
                r = vss_set_option(s, "lifetime", keep ? "persistent" : "auto-release");
        if (r >= 0)
                r = vss_set_option(s, "session", keep ? "detached" : "bound");
        if (r >= 0 && (given_flag(c, "nested") || streq(c->verb->name, "run")))
                r = vss_set_option(s, "nested", "true");
        return r;
}

static int add_component(struct vss_set *s, const char *value) {
        const char *colon = writer_reference_end(value);
        assert(colon); /* check_component() */
        _cleanup_free_ char *writer = strndup(value, (size_t) (colon - value));
        return vss_set_add_component(s, writer ? writer : "", colon + 1, NULL);
}

static int add_previous(Context *c, struct vss_set *s) {
        const char *path = given_value(c, "previous");
        if (!path)
                return 0;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return context_fail(c, errno == ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED,
                                    "cannot read the manifest %s: %s", path, strerror(errno));
        return vss_set_previous(s, fd) < 0 ? context_fail_requester(c) : 0;
}

int make_set_new(Context *c, struct vss_set **ret) {
        _cleanup_(set_handle_freep) struct vss_set *s = NULL;
        const char *value;
        int r = context_connect(c);
        if (r < 0)
                return r;
        r = vss_set_new(c->requester, &s);
        for (size_t i = 0; r >= 0 && i < c->n_operands; i++) {
                _cleanup_free_ char *volume = NULL;
                if (volume_to_bus(c->operands[i], &volume) < 0)
                        return context_fail(c, CONDITION_FAILED, "cannot find out the current directory: %s",
                                            strerror(errno));
                r = vss_set_add_volume(s, volume, NULL);
        }
        for (size_t i = 0; r >= 0 && (value = given_next(c, "component", &i));)
                r = add_component(s, value);
        if (r >= 0)
                r = add_options(c, s);
        if (r < 0)
                return context_fail_requester(c);
        r = add_previous(c, s);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

int make_set_plan(Context *c) {
        _cleanup_(set_handle_freep) struct vss_set *s = NULL;
        _cleanup_free_ char *json = NULL;
        int r = make_set_new(c, &s);
        if (r < 0)
                return r;
        if (vss_set_plan(s, &json) < 0)
                return context_fail_requester(c);
        json_object *plan = json_tokener_parse(json);
        if (!plan || !json_object_is_type(plan, json_type_object)) {
                json_object_put(plan);
                return context_fail(c, CONDITION_FAILED, "the plan is not a JSON object");
        }
        c->document = plan;
        if (!member(plan, "schema"))
                json_object_object_add(plan, "schema", json_object_new_int(1));
        return 0;
}

static int on_progress(const char *state, const char *phase, double fraction, void *userdata) {
        Context *c = userdata;
        if (fraction >= 0)
                output_progress(c, "%s %s %3.0f %%", state, phase, fraction * 100);
        else
                output_progress(c, "%s %s", state, phase);
        return interrupted != 0;
}

/* Everything about the set that failed, as far as it can still be learned. */
static void describe_failure(Context *c, struct vss_set *s) {
        json_object *d = NULL;
        Context again = *c;
        if (!isempty(vss_set_id(s)) && c->condition != CONDITION_UNAVAILABLE &&
            describe_set_full(&again, s->path, false, &d) >= 0) {
                json_object_object_del(d, "id");
        } else {
                d = document_new();
                json_object_object_add(d, "set", isempty(vss_set_id(s)) ? NULL : json_object_new_string(vss_set_id(s)));
                json_object_object_add(d, "state", isempty(vss_set_id(s)) ? NULL : json_object_new_string("aborted"));
                json_object_object_add(d, "writers", json_object_new_array());
        }
        json_object_put(c->document);
        c->document = d;
}

static int make_set_once(Context *c, struct vss_set *s) {
        uint64_t deadline_usec = usec_add(now_usec(), c->timeout_usec);
        int r = vss_set_create(s);
        if (r >= 0)
                r = vss_set_wait(s, c->timeout_usec, on_progress, c);
        output_progress_end(c);
        if (r < 0)
                context_fail_requester(c);
        if (r == -ETIME && now_usec() >= deadline_usec && !isempty(vss_set_id(s))) {
                (void) vss_set_cancel(s);
                (void) vss_set_wait(s, 30 * USEC_PER_SEC, NULL, NULL);
                return context_fail(c, CONDITION_DEADLINE_PASSED,
                                    "set %s was not ready within --timeout= and was cancelled", vss_set_id(s));
        }
        if (r >= 0 && interrupted) { /* the commit was faster than the signal */
                (void) vss_set_delete(s, VSS_DELETE_FORCE);
                return context_fail(c, CONDITION_CANCELLED, "interrupted; set %s was deleted again", vss_set_id(s));
        }
        return r;
}

static void pause_before_retry(unsigned attempt) {
        uint64_t usec = MIN_OF(attempt * 250 * USEC_PER_MSEC, 5 * USEC_PER_SEC);
        struct timespec ts = { .tv_sec = (time_t) (usec / USEC_PER_SEC),
                               .tv_nsec = (long) (usec % USEC_PER_SEC * NSEC_PER_USEC) };
        (void) nanosleep(&ts, NULL); /* a signal ends it */
}

int make_set(Context *c, struct vss_set **set) {
        unsigned long retries = given_value(c, "retry") ? strtoul(given_value(c, "retry"), NULL, 10) : 0;
        interrupts_catch();
        for (unsigned attempt = 1;; attempt++) {
                _cleanup_(set_handle_freep) struct vss_set *s = NULL;
                int r = make_set_new(c, &s);
                if (r >= 0)
                        r = make_set_once(c, s);
                if (r >= 0) {
                        *set = TAKE_PTR(s);
                        return 0;
                }
                if (attempt <= retries && c->retryable && !interrupted) {
                        output_note(c, "vssctl %s: %s; trying again (%u of %lu)", c->verb->name, c->error_message,
                                    attempt, retries);
                        pause_before_retry(attempt);
                        s = vss_set_free(s);
                        if (c->condition == CONDITION_UNAVAILABLE) /* the connection may be what failed */
                                c->requester = vss_requester_close(c->requester);
                        continue;
                }
                if (s)
                        describe_failure(c, s);
                if (interrupted)
                        c->exit_status = 128 + interrupted;
                return r;
        }
}

/* A file that is there in full or as it was. */
int make_set_manifest(Context *c, struct vss_set *s) {
        const char *path = given_value(c, "manifest");
        _cleanup_free_ char *temporary = NULL;
        if (!path)
                return 0;
        if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        _cleanup_close_ int fd = mkostemp(temporary, O_CLOEXEC);
        if (fd < 0)
                return context_fail(c, CONDITION_FAILED, "cannot write the manifest to %s: %s", path, strerror(errno));
        int r = vss_set_manifest(s, fd);
        if (r < 0)
                r = context_fail_requester(c);
        else if (fsync(fd) < 0 || rename(temporary, path) < 0)
                r = context_fail(c, CONDITION_FAILED, "cannot write the manifest to %s: %s", path, strerror(errno));
        if (r < 0)
                (void) unlink(temporary);
        return r;
}

int make_set_read_manifest(Context *c, int fd, Manifest *ret) {
        struct stat st;
        Failure f = {};
        if (fstat(fd, &st) < 0)
                return context_fail(c, CONDITION_FAILED, "the manifest cannot be read: %s", strerror(errno));
        size_t size = (size_t) st.st_size;
        char *text = size > 0 ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
        if (text == MAP_FAILED)
                return context_fail(c, CONDITION_FAILED, "the manifest cannot be read: %s", strerror(errno));
        int r = manifest_parse(text, size, &f, ret);
        (void) munmap(text, size);
        return r < 0 ? context_fail(c, f.condition, "the manifest of the set: %s", f.message) : 0;
}
