/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssctl: find the verb, run it, print its document or its error, turn the error into the exit status.
 */
#include "client/verbs.h"
#include <locale.h>

static const Verb *const verbs[] = {
        &verb_status,    &verb_volumes, &verb_writers,  &verb_providers,   &verb_sets,
        &verb_snapshots, &verb_show,    &verb_timeline, &verb_plan,        &verb_create,
        &verb_run,       &verb_mount,   &verb_umount,   &verb_complete,    &verb_cancel,
        &verb_delete,    &verb_prune,   &verb_restore,  &verb_revert,      &verb_volume,
        &verb_storage,   &verb_monitor, &verb_report,   &verb_test_backup, NULL,
};

static void print_options(const Option *table) {
        for (const Option *o = table; o && o->name; o++) {
                char left[80], letter[8] = "    ";
                if (o->letter)
                        (void) snprintf(letter, sizeof(letter), "-%c, ", o->letter);
                (void) snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name, o->value ? "=" : "",
                                o->value ? o->value : "");
                (void) printf("  %-38s %s%s\n", left, o->help, o->many && o->value ? " (may be repeated)" : "");
        }
}

static void print_verb_help(const Verb *v) {
        (void) printf("vssctl %s%s%s%s\n\n%s\n", v->name, v->operands ? " " : "", v->operands ? v->operands : "",
                      v->command ? " [OPTION] -- COMMAND [ARGUMENT]" : " [OPTION]", v->summary);
        (void) printf("\nOptions:\n");
        for (size_t i = 0; i < ELEMENTSOF(v->options); i++)
                print_options(v->options[i]);
        const Option *const *globals = global_options();
        if (v->changes)
                print_options(globals[1]);
        print_options(globals[0]);
        (void) printf("\nExamples:\n%s\nvssctl(1) tells the rest.\n", v->examples);
}

static void print_help(void) {
        (void) printf(
                "vssctl [OPTION] VERB [OPTION] [OPERAND]\n\n"
                "Application-consistent snapshots: every application at rest for a moment, one instant over all volumes.\n\nVerbs:\n");
        for (size_t i = 0; verbs[i]; i++) {
                char left[64];
                (void) snprintf(left, sizeof(left), "%s %s", verbs[i]->name,
                                verbs[i]->operands ? verbs[i]->operands : "");
                (void) printf("  %-38s %s\n", left, verbs[i]->summary);
        }
        (void) printf("\nOptions, before or after the verb:\n");
        print_options(global_options()[0]);
        (void) printf("\n`vssctl VERB --help` shows a verb's options and examples; vssctl(1) tells the rest.\n");
}

static int print_version(Context *c) {
        c->document = document_new();
        json_object_object_add(c->document, "version", json_object_new_string(VSS_VERSION));
        if (!c->json)
                (void) printf("vssctl %s\n", VSS_VERSION);
        return 0;
}

static int dispatch(Context *c, char **argv) {
        int r = arguments_parse(c, argv, verbs);
        if (r < 0)
                return r;
        if (given_flag(c, "help")) {
                c->json = false; /* help is text */
                if (c->verb)
                        print_verb_help(c->verb);
                else
                        print_help();
                return 0;
        }
        if (given_flag(c, "version"))
                return print_version(c);
        if (given_value(c, "host"))
                return host_exec(c);
        return c->verb->run(c);
}

/* {"schema":1,"error":{…},"set":null} and what the verb had already put in. */
static void document_fail(Context *c) {
        if (!c->document)
                c->document = document_new();
        json_object *error = describe_error(c->error_name, c->error_message, c->retryable);
        json_object_object_add(error, "exit_code", json_object_new_int(condition_exit_code(c->condition)));
        json_object_object_add(c->document, "error", error);
        if (!json_object_object_get_ex(c->document, "set", NULL))
                json_object_object_add(c->document, "set", NULL);
}

static int finish(Context *c, int r) {
        int status = c->exit_status >= 0 ? c->exit_status : r < 0 ? condition_exit_code(c->condition) : 0;
        output_end(c);
        if (r < 0 && c->condition != CONDITION_NONE) {
                document_fail(c);
                output_document(c);
                output_error(c);
        } else
                output_document(c);
        if (fflush(stdout) != 0 || ferror(stdout)) {
                (void) fprintf(stderr, "vssctl: cannot write the output: %s\n", strerror(errno));
                return status == 0 ? 1 : status;
        }
        return status;
}

int main(int argc, char **argv) {
        Context c = { .out = stdout, .exit_status = -1, .timeout_usec = USEC_INFINITY, .arguments = argv };
        (void) setlocale(LC_ALL, "");
        if (argc < 1)
                return 2;
        int r = dispatch(&c, argv);
        int status = finish(&c, r);
        agent_stop(&c);
        c.requester = vss_requester_close(c.requester);
        json_object_put(c.document);
        free(c.given);
        free(c.operands);
        return status;
}
