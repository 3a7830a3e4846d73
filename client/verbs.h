/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vssctl: what every verb is made of. A verb builds one JSON document (the model), prints it as text if people read it,
 * and returns; main() prints the document with --json, and the one error line. So nothing but main.c and output.c
 * writes to stdout or stderr, and --json can never be followed or preceded by anything.
 */
#include "client/requester.h"
#include "protocol/jsonutil.h"
#include "protocol/manifest.h"
#include <json-c/json.h>
#include <stdio.h>

/* Syntax of one option value or operand: NULL if good, else what it takes ("a number of seconds"). */
typedef const char *(*ArgumentCheck)(const char *value);

typedef struct Option {
        const char *name;  /* "wait-for-turn" */
        char letter;       /* or 0 */
        const char *value; /* "SEC"; NULL: a flag */
        bool many;         /* may be given more than once */
        ArgumentCheck check;
        const char *help;
} Option;

typedef struct Context Context;
typedef struct Verb {
        const char *name, *operands, *summary;
        const Option *options[3]; /* tables, each closed by an Option without name; NULL-terminated */
        unsigned min_operands, max_operands;
        ArgumentCheck operand_check;
        bool changes; /* takes --dry-run */
        bool command; /* takes -- CMD */
        const char *examples;
        int (*check)(Context *c); /* what one option alone cannot tell: a usage error; may be NULL */
        int (*run)(Context *c);   /* 0, or negative with the error set; may set c->exit_status */
} Verb;

typedef struct Given {
        const Option *option;
        const char *value;
} Given;

struct Context {
        const Verb *verb;
        Given *given;
        size_t n_given, n_operands;
        char **operands, **command; /* command: after "--", NULL-terminated, or NULL */
        char **arguments;           /* all of argv, for --host */
        bool json, quiet, no_pager, no_ask_password, dry_run;
        uint64_t timeout_usec; /* USEC_INFINITY: none */
        struct vss_requester *requester;
        json_object *document; /* printed by main() with --json */
        FILE *out;             /* stdout or the pager */
        int pager_pid, agent_pid;
        Condition condition; /* of the error; CONDITION_NONE: none */
        bool retryable, usage, printed;
        char error_name[REQUESTER_ERROR_NAME_BYTES];
        char error_message[LIMIT_MESSAGE_BYTES];
        int exit_status; /* -1: from the error */
};

/* arguments.c: parses argv; on failure the error is a usage error and c->verb may be NULL. */
int arguments_parse(Context *c, char **argv, const Verb *const *verbs);
bool given_flag(const Context *c, const char *name);
const char *given_value(const Context *c, const char *name);           /* the last one, or NULL */
const char *given_next(const Context *c, const char *name, size_t *i); /* all of one that may be given more than once */
const Option *const *global_options(void);
const char *check_volume(const char *value);
const char *check_id(const char *value);
const char *check_any(const char *value);
const char *check_writer(const char *value);
const char *check_component(const char *value);
const char *check_writer_option(const char *value);
const char *check_recovery(const char *value);
const char *check_label(const char *value);
const char *check_unit(const char *value);
const char *check_provider(const char *value);
const char *check_seconds(const char *value);
const char *check_count(const char *value);
const char *check_span(const char *value);
const char *check_type(const char *value);
const char *check_level(const char *value);
const char *check_mode(const char *value);
const char *check_closure(const char *value);
const char *check_on_failure(const char *value);
int parse_seconds(const char *value, uint64_t *ret_usec);
/* "W:PATH", where W may be NAME, NAME@INSTANCE or UID:NAME: the colon that ends W, or NULL. */
const char *writer_reference_end(const char *value);
int volume_to_bus(const char *argument, char **ret); /* absolute if it was a relative path; bytes escaped */

/* agent.c: asks for passwords on our terminal, where that makes sense */
void agent_start(Context *c);
void agent_stop(Context *c);

/* call.c: negative with the error set */
int context_fail(Context *c, Condition condition, const char *format, ...) _printf_(3, 4);
int context_usage(Context *c, const char *format, ...) _printf_(2, 3);
int context_fail_requester(Context *c);
int context_connect(Context *c);
/* Any call: types and values as for sd_bus_message_append(); *ret is an array with the answer's arguments. */
int call_method(Context *c, const char *path, const char *interface, const char *member, json_object **ret,
                const char *types, ...);
/* Of the Manager, whose arguments append() adds: 0 or -errno. */
typedef int (*CallAppend)(sd_bus_message *m, const Context *c, const void *userdata);
int call_built(Context *c, const char *member, CallAppend append, const void *userdata, json_object **ret);
int call_properties(Context *c, const char *path, const char *interface, json_object **ret);
/* All objects of one interface (NULL: all) as [{"object":…,"interface":…,properties in snake case}]. */
int call_objects(Context *c, const char *interface, json_object **ret);
/* results a(sss): → [{"id":…,"error":null|{…}}]; the first that failed becomes the error. */
int call_results(Context *c, json_object *raw, const char *key, json_object **ret);

/* Verbs that go on after a failure: the first one stays the error of the run. */
typedef struct First {
        Condition condition;
        bool retryable;
        char name[REQUESTER_ERROR_NAME_BYTES], message[LIMIT_MESSAGE_BYTES];
} First;
void first_keep(First *first, const Context *c);
int first_restore(const First *first, Context *c, unsigned n_failed);

/* bus-json.c */
int bus_to_json(sd_bus_message *m, json_object **ret);          /* what is left of m, as an array */
void member_to_key(const char *member, char *ret, size_t size); /* "FreezeTimeoutUSec" → "freeze_timeout_usec" */

/* resolve.c: an id, prefix or label alias → one object of call_objects(); borrowed from objects. */
int resolve(Context *c, json_object *objects, const char *id, const char *interfaces, json_object **ret);
/* path: as the bus names it. */
bool snapshot_is_mounted_on(json_object *object, const char *path);

/* describe.c: objects of the bus → documents of DESIGN.md section 9. New objects; NULL without memory. */
json_object *describe_snapshot(json_object *object);
json_object *describe_set(json_object *object);
json_object *describe_writer(json_object *object);
json_object *describe_provider(json_object *object);
json_object *describe_volume(json_object *object);
json_object *describe_error(const char *name, const char *message, bool retryable);
/* The whole of a set: as `create` prints it. record: with everything under "record". */
int describe_set_full(Context *c, const char *path, bool record, json_object **ret);
json_object *describe_list(const char *key, json_object *objects, json_object *(*describe)(json_object *) );
json_object *document_new(void);                               /* {"schema":1} */
const char *member_text(json_object *object, const char *key); /* "" if absent */
int64_t member_number(json_object *object, const char *key);   /* 0 if absent */
json_object *member(json_object *object, const char *dotted);  /* borrowed or NULL */

/* make-set.c: what create, run and plan share */
extern const Option set_options[];
int make_set_check(Context *c);
int make_set_new(Context *c, struct vss_set **ret);
/* Creates and waits, with --retry, progress and signals. Failure: c->document is the failure object. */
int make_set(Context *c, struct vss_set **set);
int make_set_plan(Context *c);
int make_set_manifest(Context *c, struct vss_set *s);
int make_set_read_manifest(Context *c, int fd, Manifest *ret);
extern volatile int interrupted; /* the signal that came, or 0 */
void interrupts_catch(void);

/* host.c: does not return if ssh could be started */
int host_exec(Context *c);

/* supervise.c */
typedef int (*SuperviseSetup)(void *userdata, char *reterr, size_t size); /* in the child, before CMD */
/* status: as of wait(2). -errno of exec in *ret_exec_error (0: it ran). Returns when CMD and all it started are gone.
 */
int supervise(char **command, SuperviseSetup setup, void *userdata, int stdout_fd, int *ret_status, int *ret_exec_error,
              char *reterr, size_t size);

/* output.c */
typedef enum Format {
        FORMAT_TEXT,
        FORMAT_SIZE,
        FORMAT_USEC,
        FORMAT_TIME,
        FORMAT_STATE,
        FORMAT_LIST,
        FORMAT_COUNT,
        FORMAT_BOOL
} Format;
typedef struct Column {
        const char *title, *key;
        Format format;
} Column;
bool output_people(const Context *c); /* text, and wanted */
void output_begin(Context *c);        /* starts the pager if there is a terminal */
void output_end(Context *c);
void output_table(Context *c, json_object *rows, const Column *columns);
void output_line(Context *c, const char *format, ...) _printf_(2, 3);
void output_tree(Context *c, json_object *object); /* anything, for people */
void output_document(Context *c);                  /* c->document, once */
void output_error(Context *c);
void output_note(Context *c, const char *format, ...) _printf_(2, 3);     /* one line on stderr unless --quiet */
void output_progress(Context *c, const char *format, ...) _printf_(2, 3); /* NULL-terminated by output_progress_end() */
void output_progress_end(Context *c);
const char *output_colour(const Context *c, const char *state);
char *format_size(uint64_t bytes, char *buffer, size_t size);
char *format_duration(uint64_t usec, char *buffer, size_t size);
char *format_instant(uint64_t realtime_usec, char *buffer, size_t size); /* RFC 3339 UTC with microseconds */
char *text_visible(const char *text);                                    /* control characters as \xHH; caller frees */

/* verb-mount.c: a snapshot, or a set that has only one */
int snapshot_resolve(Context *c, json_object *objects, const char *id, json_object **ret);

extern const Verb verb_cancel, verb_complete, verb_create, verb_delete, verb_monitor, verb_mount, verb_plan,
        verb_providers, verb_prune, verb_report, verb_restore, verb_revert, verb_run, verb_sets, verb_show,
        verb_snapshots, verb_status, verb_timeline, verb_test_backup, verb_storage, verb_umount, verb_volume,
        verb_volumes, verb_writers;
