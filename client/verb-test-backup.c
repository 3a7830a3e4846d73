/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-backup: a backup with all its steps, for those who write writers. Each step is the code of another verb with
 * options from a file: create, restore from the copies into a directory (that is how the files are saved), complete,
 * restore again. Whatever fails, the set is told so and goes before we end.
 */
#include "client/test-backup.h"
#include "protocol/text.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static const Option test_options[] = {
        { "into", 0, "DIR", false, check_any, "save the files and the manifest there; must be empty or not exist" },
        {},
};

typedef struct Directory { /* one that is to take files */
        char *path;        /* as it is on disk */
        bool made;
} Directory;

typedef struct Test {
        Context *context;
        Selection selection;
        Directory into, to;
        char *manifest; /* file */
        struct vss_set *set;
        bool completed; /* the writers were told how it went */
        bool unnamed;   /* the error is a writer's own line */
        const char *step;
        json_object *saved, *restored; /* documents of restore */
        Comparison comparison;
} Test;

static int test_check(Context *c) {
        return given_value(c, "into") ? 0 : context_usage(c, "needs --into=DIR");
}

static int out_of_memory(Test *t) {
        return context_fail(t->context, CONDITION_LIMIT_REACHED, "out of memory");
}

/* ---- directories ---- */

static int check_empty(Context *c, const char *path) {
        DIR *d = opendir(path);
        bool empty = true;
        if (!d)
                return context_fail(c, CONDITION_FAILED, "cannot read %.300s: %s", path, strerror(errno));
        for (struct dirent *e; empty && (e = readdir(d));)
                empty = streq(e->d_name, ".") || streq(e->d_name, "..");
        (void) closedir(d);
        return empty ? 0 :
                       context_fail(c, CONDITION_EXISTS,
                                    "%.300s is not empty: name a directory that does not exist yet", path);
}

/* Whatever is in it afterwards is of this run. */
static int directory_take(Context *c, const char *path, Directory *ret) {
        struct stat st;
        if (c->dry_run)
                return stat(path, &st) == 0 ? check_empty(c, path) : 0;
        ret->made = mkdir(path, 0700) == 0;
        if (!ret->made && errno != EEXIST)
                return context_fail(c, CONDITION_FAILED, "cannot make %.300s: %s", path, strerror(errno));
        int r = check_empty(c, path);
        if (r >= 0 && !(ret->path = realpath(path, NULL)))
                return context_fail(c, CONDITION_FAILED, "cannot read %.300s: %s", path, strerror(errno));
        return r;
}

/* One that nothing came to, if we made it. */
static void directory_done(Directory *d) {
        if (d->made && d->path)
                (void) rmdir(d->path);
        free(d->path);
}

static int take_directories(Test *t) {
        Context *c = t->context;
        int r = directory_take(c, given_value(c, "into"), &t->into);
        if (r >= 0 && t->selection.to)
                r = directory_take(c, t->selection.to, &t->to);
        if (r < 0 || c->dry_run)
                return r;
        if (t->to.path && (path_is_inside(t->to.path, t->into.path) || path_is_inside(t->into.path, t->to.path)))
                return context_usage(c, "--into and restore.to must not lie in each other");
        return asprintf(&t->manifest, "%s/manifest.json", t->into.path) < 0 ? out_of_memory(t) : 0;
}

/* ---- other verbs ---- */

/* The rest of the command line is not theirs, and they print nothing. */
static int sub_begin(Test *t, const Verb *verb, const SelectionPart *part, size_t room, Context *ret) {
        *ret = *t->context;
        ret->verb = verb;
        ret->n_given = ret->n_operands = 0;
        ret->quiet = true;
        ret->document = NULL;
        ret->given = calloc(room + (part ? selection_count(part) : 0) + 1, sizeof(*ret->given));
        if (!ret->given)
                return out_of_memory(t);
        if (part)
                selection_give(part, ret->given, &ret->n_given);
        return 0;
}

static void give(Context *sub, const char *option, const char *value) {
        sub->given[sub->n_given++] = (Given) { selection_option(sub->verb, option), value };
}

static int sub_end(Test *t, Context *sub, int r, json_object **ret) {
        Context *c = t->context;
        free(sub->given);
        c->requester = sub->requester;
        c->agent_pid = sub->agent_pid;
        if (ret) {
                json_object_put(*ret);
                *ret = sub->document;
        } else
                json_object_put(sub->document);
        if (r >= 0)
                return r;
        c->condition = sub->condition;
        c->retryable = sub->retryable;
        c->exit_status = sub->exit_status;
        c->usage = sub->usage;
        memcpy(c->error_name, sub->error_name, sizeof(c->error_name));
        memcpy(c->error_message, sub->error_message, sizeof(c->error_message));
        return r;
}

static int create_begin(Test *t, Context *sub) {
        const Selection *s = &t->selection;
        int r = sub_begin(t, &verb_create, &s->set, 2, sub);
        if (r < 0)
                return r;
        give(sub, "auto-release", NULL); /* it goes with us, whatever happens */
        if (t->manifest)
                give(sub, "manifest", t->manifest);
        sub->operands = s->volumes;
        while (s->volumes && s->volumes[sub->n_operands])
                sub->n_operands++;
        return 0;
}

static int restore_begin_sub(Test *t, const SelectionPart *part, Context *sub) {
        int r = sub_begin(t, &verb_restore, part, 4, sub);
        if (r < 0)
                return r;
        sub->operands = &t->manifest;
        sub->n_operands = 1;
        give(sub, "keep-extra", NULL); /* files of its other components stand in our directory */
        return 0;
}

/* What their own checks of the command line say of the selection, before anything is done. */
static int check_selection(Test *t) {
        Context sub;
        const Selection *s = &t->selection;
        int r = create_begin(t, &sub);
        if (r >= 0 && !given_flag(&sub, "component") && !given_flag(&sub, "bootable-state"))
                r = context_fail(&sub, CONDITION_INVALID_DOCUMENT,
                                 "component: names none, so there is nothing to save");
        r = r < 0 ? r : make_set_check(&sub);
        r = sub_end(t, &sub, r, NULL);
        if (r < 0 || !s->to)
                return r;
        r = restore_begin_sub(t, &s->restore, &sub);
        r = r < 0 ? r : verb_restore.check(&sub);
        return sub_end(t, &sub, r, NULL);
}

/* ---- what the writers said of their components ---- */

static int check_component_said(Test *t, const ManifestWriter *w, const ManifestComponent *m) {
        _cleanup_free_ char *text = m->failures && m->failures[0] ? strdup(m->failures[0]) : NULL;
        char *state = NULL;
        if (!text)
                return 0;
        const char *event = strtok_r(text, "\n", &state), *error = strtok_r(NULL, "\n", &state);
        const char *message = error ? strtok_r(NULL, "", &state) : NULL;
        Condition condition = error ? condition_from_name(error) : CONDITION_NONE;
        return context_fail(t->context, condition == CONDITION_NONE ? CONDITION_FAILED : condition,
                            "%s:%s failed at %s: %.300s", w->name, m->path, event ? event : "", message ? message : "");
}

/* In the manifest as it is now. */
static int check_said(Test *t) {
        _cleanup_(manifest_done) Manifest m = {};
        _cleanup_close_ int fd = open(t->manifest, O_RDONLY | O_CLOEXEC);
        int r = make_set_read_manifest(t->context, fd, &m);
        for (size_t i = 0; i < m.n_writers; i++)
                for (size_t k = 0; r >= 0 && k < m.writers[i].n_components; k++)
                        r = check_component_said(t, m.writers + i, m.writers[i].components + k);
        return r;
}

static int write_manifest(Test *t) {
        Context sub;
        int r = create_begin(t, &sub);
        r = r < 0 ? r : make_set_manifest(&sub, t->set);
        return sub_end(t, &sub, r, NULL);
}

/* ---- steps ---- */

static void prefix_error(Context *c, const char *prefix) {
        char message[LIMIT_MESSAGE_BYTES];
        (void) snprintf(message, sizeof(message), "%.150s: %.355s", prefix, c->error_message);
        memcpy(c->error_message, message, sizeof(message));
}

static int create(Test *t) {
        Context sub;
        json_object *failure = NULL;
        int r = create_begin(t, &sub);
        r = r < 0 ? r : make_set(&sub, &t->set);
        r = sub_end(t, &sub, r, &failure);
        if (member(failure, "writers"))
                json_object_object_add(t->context->document, "writers", json_object_get(member(failure, "writers")));
        json_object_put(failure);
        r = r < 0 ? r : write_manifest(t);
        return r < 0 ? r : check_said(t);
}

/* Every component that was asked for, by a name that may leave out its writer's instance. */
static bool is_saved(const Test *t, const char *component) {
        const char *colon = writer_reference_end(component);
        const char *name = component + strspn(component, "0123456789");
        name = *name == ':' ? name + 1 : component;
        json_object *rows = member(t->saved, "components");
        for (size_t i = 0; rows && i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                const char *writer = member_text(row, "writer");
                size_t n = (size_t) (colon - name);
                if (strncmp(writer, name, n) == 0 && (writer[n] == '\0' || writer[n] == '@') &&
                    streq(member_text(row, "path"), colon + 1))
                        return true;
        }
        return false;
}

static int save(Test *t) {
        Context sub, chosen;
        _cleanup_free_ char *to = NULL;
        const char *component;
        if (asprintf(&to, "/=%s/data", t->into.path) < 0)
                return out_of_memory(t);
        int r = restore_begin_sub(t, NULL, &sub);
        if (r >= 0) {
                give(&sub, "no-writers", NULL);
                give(&sub, "to", to);
                r = verb_restore.run(&sub);
        }
        r = sub_end(t, &sub, r, &t->saved);
        if (r < 0)
                return r;
        r = create_begin(t, &chosen);
        for (size_t i = 0; r >= 0 && (component = given_next(&chosen, "component", &i));)
                if (!is_saved(t, component))
                        r = context_fail(&chosen, CONDITION_NOT_FOUND, "%.300s is not in the backup", component);
        return sub_end(t, &chosen, r, NULL);
}

/* BackupComplete of each component by whether it was saved; a writer without one hears how all of it went. */
static int tell_writers(Test *t, bool succeeded) {
        json_object *rows = member(t->saved, "components");
        int r = 0;
        t->completed = true;
        for (size_t i = 0; r >= 0 && rows && i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                r = vss_set_mark(t->set, member_text(row, "writer"), member_text(row, "path"), !member(row, "error"));
        }
        return r < 0 ? r : vss_set_complete(t->set, succeeded);
}

static int complete(Test *t) {
        if (interrupted)
                return context_fail(t->context, CONDITION_CANCELLED, "interrupted");
        if (tell_writers(t, true) < 0) {
                t->unnamed = true;
                return context_fail_requester(t->context);
        }
        int r = write_manifest(t);
        return r < 0 ? r : check_said(t);
}

static int restore(Test *t) {
        Context sub;
        _cleanup_free_ char *from = NULL, *to = NULL;
        if (asprintf(&from, "%s/data", t->into.path) < 0 || asprintf(&to, "/=%s", t->to.path) < 0)
                return out_of_memory(t);
        int r = restore_begin_sub(t, &t->selection.restore, &sub);
        if (r >= 0) {
                give(&sub, "from", from);
                give(&sub, "to", to);
                r = verb_restore.run(&sub);
        }
        r = sub_end(t, &sub, r, &t->restored);
        if (r < 0 && !t->restored && t->context->condition == CONDITION_VETOED) {
                /* all were refused, and this is what was said of the first */
                json_object *first = json_object_array_get_idx(member(t->saved, "components"), 0);
                char name[LIMIT_MESSAGE_BYTES];
                (void) snprintf(name, sizeof(name), "%.200s:%.200s", member_text(first, "writer"),
                                member_text(first, "path"));
                prefix_error(t->context, name);
        }
        return r;
}

/* "WRITER:PATH" of the component that has it, or "". */
static const char *owner_of(const Test *t, const char *path, char *buffer, size_t size) {
        json_object *rows = member(t->saved, "components");
        buffer[0] = '\0';
        for (size_t i = 0; rows && i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i), *files = member(row, "files");
                for (size_t k = 0; files && k < json_object_array_length(files); k++)
                        if (streq(member_text(json_object_array_get_idx(files, k), "path"), path))
                                (void) snprintf(buffer, size, "%s:%s", member_text(row, "writer"),
                                                member_text(row, "path"));
        }
        return buffer;
}

static int compare(Test *t) {
        char message[LIMIT_MESSAGE_BYTES], owner[LIMIT_MESSAGE_BYTES];
        _cleanup_free_ char *data = NULL;
        Comparison *k = &t->comparison;
        if (asprintf(&data, "%s/data", t->into.path) < 0)
                return out_of_memory(t);
        _cleanup_close_ int saved = open(data, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                            back = open(t->to.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (compare_trees(saved, back, k, message, sizeof(message)) < 0)
                return context_fail(t->context, interrupted ? CONDITION_CANCELLED : CONDITION_FAILED, "%s",
                                    interrupted ? "interrupted" : message);
        for (size_t i = json_object_array_length(k->differences); i > 0; i--) {
                json_object *row = json_object_array_get_idx(k->differences, i - 1);
                json_add_string(row, "component", owner_of(t, member_text(row, "path"), owner, sizeof(owner)));
        }
        if (k->n_differences == 0)
                return 0;
        json_object *first = json_object_array_get_idx(k->differences, 0);
        return context_fail(t->context, CONDITION_DAMAGED, "%.150s%s%.250s is not as it was saved (%s)%s", owner,
                            isempty(owner) ? "" : ": ", member_text(first, "path"), member_text(first, "what"),
                            k->n_differences > 1 ? " (and others)" : "");
}

/* What a writer says of itself need not name it. */
static void name_writer(Context *c, json_object *writers) {
        for (size_t i = 0; writers && i < json_object_array_length(writers); i++) {
                json_object *w = json_object_array_get_idx(writers, i);
                char name[LIMIT_MESSAGE_BYTES];
                if (strncmp(member_text(w, "state"), "failed-at-", 10) != 0)
                        continue;
                (void) snprintf(name, sizeof(name), "writer %.100s", member_text(w, "name"));
                prefix_error(c, name);
                return;
        }
}

/* What is left of it: told that it failed, if it was not told yet, and deleted. The first failure is the error. */
static int end_set(Test *t, int r) {
        Context *c = t->context;
        if (!t->set)
                return r;
        if (!t->completed)
                (void) tell_writers(t, false);
        json_object *document = NULL;
        Context again = *c;
        if (describe_set_full(&again, t->set->path, false, &document) >= 0) {
                json_object_object_add(c->document, "consistency", json_object_get(member(document, "consistency")));
                json_object_object_add(c->document, "writers", json_object_get(member(document, "writers")));
                if (r < 0 && t->unnamed)
                        name_writer(c, member(document, "writers"));
        }
        json_object_put(document);
        if (vss_set_delete(t->set, VSS_DELETE_FORCE) < 0 && r >= 0) {
                t->step = "delete";
                r = context_fail_requester(c);
        }
        t->set = vss_set_free(t->set);
        return r;
}

/* ---- output ---- */

static void add_step(Test *t, const char *step, bool failed) {
        json_object *row = json_object_new_object();
        json_add_string(row, "step", step);
        json_add_string(row, "status", failed ? "failed" : "ok");
        json_object_array_add(member(t->context->document, "steps"), row);
}

/* One line that names the step; writer and component stand in what the step says. */
static int fail_step(Test *t, int r) {
        prefix_error(t->context, t->step);
        if (interrupted)
                t->context->exit_status = 128 + interrupted;
        return r;
}

static int run_step(Test *t, const char *step, int (*run)(Test *t)) {
        t->step = step;
        int r = run(t);
        add_step(t, step, r < 0);
        return r;
}

static json_object *row_of(json_object *document, const char *writer, const char *path) {
        json_object *rows = member(document, "components");
        for (size_t i = 0; rows && i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                if (streq(member_text(row, "writer"), writer) && streq(member_text(row, "path"), path))
                        return row;
        }
        return NULL;
}

static uint64_t count_differences(const Test *t, const char *component) {
        json_object *rows = t->comparison.differences;
        uint64_t n = 0;
        for (size_t i = 0; rows && i < json_object_array_length(rows); i++)
                n += streq(member_text(json_object_array_get_idx(rows, i), "component"), component);
        return n;
}

static json_object *describe_component(const Test *t, json_object *saved) {
        char component[LIMIT_MESSAGE_BYTES];
        const char *writer = member_text(saved, "writer"), *path = member_text(saved, "path");
        json_object *row = json_object_new_object(), *back = row_of(t->restored, writer, path);
        (void) snprintf(component, sizeof(component), "%s:%s", writer, path);
        json_add_string(row, "writer", writer);
        json_add_string(row, "path", path);
        json_add_uint(row, "n_files", member(saved, "files") ? json_object_array_length(member(saved, "files")) : 0);
        json_add_bool(row, "saved", !member(saved, "error"));
        json_add_string(row, "restored", back ? member_text(back, "status") : NULL);
        json_add_uint(row, "n_differences", count_differences(t, component));
        json_object *error = member(saved, "error");
        json_object_object_add(row, "error", json_object_get(error ? error : member(back, "error")));
        return row;
}

static void print_component(Context *c, json_object *row) {
        const char *back = member_text(row, "restored");
        output_line(c, "%s:%s: %s, %lld file%s%s%s", member_text(row, "writer"), member_text(row, "path"),
                    json_object_get_boolean(member(row, "saved")) ? "saved" : "not saved",
                    (long long) member_number(row, "n_files"), member_number(row, "n_files") == 1 ? "" : "s",
                    isempty(back)       ? "" :
                    streq(back, "all")  ? ", restored" :
                    streq(back, "none") ? ", not restored" :
                                          ", half restored",
                    member_number(row, "n_differences") > 0 ? ", not as it was saved" : "");
}

static void report(Test *t) {
        Context *c = t->context;
        json_object *rows = json_object_new_array(), *saved = member(t->saved, "components");
        for (size_t i = 0; saved && i < json_object_array_length(saved); i++)
                json_object_array_add(rows, describe_component(t, json_object_array_get_idx(saved, i)));
        json_object_object_add(c->document, "components", rows);
        json_add_uint(c->document, "n_compared", t->comparison.n_files);
        json_add_uint(c->document, "n_differences", t->comparison.n_differences);
        json_object_object_add(c->document, "differences",
                               t->comparison.differences ? json_object_get(t->comparison.differences) :
                                                           json_object_new_array());
        if (!output_people(c))
                return;
        for (size_t i = 0; i < json_object_array_length(rows); i++)
                print_component(c, json_object_array_get_idx(rows, i));
        json_object *writers = member(c->document, "writers");
        for (size_t i = 0; writers && i < json_object_array_length(writers); i++) {
                json_object *w = json_object_array_get_idx(writers, i);
                output_line(c, "writer %s: %s", member_text(w, "name"), member_text(w, "state"));
        }
        if (t->comparison.n_files > 0)
                output_line(c, "compared: %llu files, %llu differences", (unsigned long long) t->comparison.n_files,
                            (unsigned long long) t->comparison.n_differences);
}

/* ---- the whole ---- */

static int plan(Test *t) {
        Context sub, *c = t->context;
        int r = create_begin(t, &sub);
        r = r < 0 ? r : make_set_plan(&sub);
        r = sub_end(t, &sub, r, &c->document);
        if (r >= 0 && output_people(c)) {
                output_begin(c);
                output_tree(c, c->document);
        }
        return r;
}

static int run_steps(Test *t) {
        Context *c = t->context;
        c->document = document_new();
        json_add_string(c->document, "into", t->into.path);
        json_add_string(c->document, "restored_to", t->to.path);
        json_add_string(c->document, "consistency", NULL);
        json_object_object_add(c->document, "writers", json_object_new_array());
        json_object_object_add(c->document, "steps", json_object_new_array());
        int r = run_step(t, "create", create);
        json_add_string(c->document, "set", t->set ? vss_set_id(t->set) : NULL);
        r = r < 0 ? r : run_step(t, "save", save);
        r = r < 0 ? r : run_step(t, "complete", complete);
        r = end_set(t, r);
        if (r >= 0 && t->to.path)
                r = run_step(t, "restore", restore);
        if (r >= 0 && t->to.path && t->selection.compare)
                r = run_step(t, "compare", compare);
        if (r < 0)
                r = fail_step(t, r);
        report(t);
        return r;
}

static void test_done(Test *t) {
        selection_done(&t->selection);
        directory_done(&t->to);
        directory_done(&t->into);
        free(t->manifest);
        json_object_put(t->saved);
        json_object_put(t->restored);
        json_object_put(t->comparison.differences);
}

static int test_backup_run(Context *c) {
        _cleanup_(test_done) Test t = { .context = c };
        int r = selection_read(c, c->operands[0], &t.selection);
        r = r < 0 ? r : check_selection(&t);
        r = r < 0 ? r : take_directories(&t);
        if (r < 0)
                return r;
        return c->dry_run ? plan(&t) : run_steps(&t);
}

const Verb verb_test_backup = {
        .name = "test-backup",
        .operands = "SELECTION",
        .summary = "make, save, complete and restore a backup as a JSON file says, and compare: for authors of writers",
        .options = { test_options },
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_any,
        .changes = true,
        .check = test_check,
        .examples = "  echo '{\"schema\":1,\"kind\":\"backup-test\",\"component\":[\"sqlite:book\"],\n"
                    "    \"restore\":{\"to\":\"/tmp/back\",\"no_writers\":true}}' >book.json\n"
                    "  vssctl test-backup book.json --into=/tmp/saved\n"
                    "  vssctl test-backup book.json --into=/tmp/saved --dry-run\n",
        .run = test_backup_run,
};
