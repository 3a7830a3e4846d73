/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command: options, and what was found as text or as one JSON document. */
#include "providers/cow/check.h"
#include "providers/cow/tools.h"
#include <getopt.h>
#include <json-c/json.h>
#include <stdio.h>

static void usage(FILE *f) {
        fputs("vss-cow check STORE [--json] [--quick] [--volume-data]\n"
              "Is the store whole? Nobody may be using it; nothing is written.\n"
              "      --json         print one JSON document\n"
              "      --quick        do not read the preserved blocks, only what describes them\n"
              "      --volume-data  also read the volumes to their end\n",
              f);
}

/* --- text --------------------------------------------------------------------------------------------------------- */

static void say_concerned(const Check *c) {
        char id[UUID_TEXT], name[VOLUME_NAME_MAX + 1];
        for (size_t i = 0; i < c->n_snapshots; i++) {
                const CheckSnapshot *s = &c->snapshots[i];
                if (s->concerned && !s->gone)
                        printf("concerned: snapshot %s of volume %s, epoch %u\n", uuid_text(s->id, id),
                               volume_text(&c->image.view, s->volume, name), s->epoch);
        }
}

static void print_text(const Check *c, const char *path) {
        for (size_t i = 0; i < c->n_findings; i++) {
                const Finding *f = &c->findings[i];
                printf("%s: %s", f->damage ? "damage" : "note", f->structure);
                if (f->block != UINT64_MAX)
                        printf(", block %lu", f->block);
                printf(": %s\n", f->text);
        }
        if (c->damages + c->notes > c->n_findings)
                printf("… and %lu more\n", c->damages + c->notes - c->n_findings);
        say_concerned(c);
        if (c->image.manifest && c->image.super->state != STORE_LOST)
                printf("log: %lu records up to sequence %lu; it ends at block %lu: %s\n", c->log.records, c->log.last,
                       c->log.block, c->log.why);
        printf("%s: %lu pages, %lu entries, %lu preserved blocks read: %s\n", path, c->pages, c->entries,
               c->data_blocks, c->damages ? "damaged" : "clean");
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static json_object *number(uint64_t n) {
        return json_object_new_int64((int64_t) MIN_OF(n, (uint64_t) INT64_MAX));
}

static json_object *json_findings(const Check *c) {
        json_object *list = json_object_new_array();
        for (size_t i = 0; i < c->n_findings; i++) {
                const Finding *f = &c->findings[i];
                json_object *o = json_object_new_object();
                json_object_object_add(o, "severity", json_object_new_string(f->damage ? "damage" : "note"));
                json_object_object_add(o, "structure", json_object_new_string(f->structure));
                if (f->block != UINT64_MAX)
                        json_object_object_add(o, "block", number(f->block));
                json_object_object_add(o, "text", json_object_new_string(f->text));
                json_object_array_add(list, o);
        }
        return list;
}

static json_object *json_concerned(const Check *c) {
        json_object *list = json_object_new_array();
        char id[UUID_TEXT], name[VOLUME_NAME_MAX + 1];
        for (size_t i = 0; i < c->n_snapshots; i++) {
                const CheckSnapshot *s = &c->snapshots[i];
                if (!s->concerned || s->gone)
                        continue;
                json_object *o = json_object_new_object();
                json_object_object_add(o, "id", json_object_new_string(uuid_text(s->id, id)));
                json_object_object_add(o, "volume",
                                       json_object_new_string(volume_text(&c->image.view, s->volume, name)));
                json_object_object_add(o, "epoch", number(s->epoch));
                json_object_array_add(list, o);
        }
        return list;
}

static json_object *json_log(const LogEnd *e) {
        json_object *o = json_object_new_object();
        json_object_object_add(o, "records", number(e->records));
        json_object_object_add(o, "last_sequence", number(e->last));
        json_object_object_add(o, "durable_upto", number(e->durable));
        json_object_object_add(o, "end_block", number(e->block));
        json_object_object_add(o, "end", json_object_new_string(e->gone ? "damaged" : e->torn ? "torn" : "complete"));
        json_object_object_add(o, "why", json_object_new_string(e->why));
        return o;
}

static void print_json(const Check *c, const char *path) {
        json_object *o = json_object_new_object();
        char id[UUID_TEXT];
        json_object_object_add(o, "store", json_object_new_string(path));
        if (c->image.super) {
                json_object_object_add(o, "uuid", json_object_new_string(uuid_text(c->image.super->uuid, id)));
                json_object_object_add(o, "state", json_object_new_string(state_text(c->image.super->state)));
        }
        json_object_object_add(o, "clean", json_object_new_boolean(c->damages == 0));
        json_object_object_add(o, "damages", number(c->damages));
        json_object_object_add(o, "notes", number(c->notes));
        json_object_object_add(o, "findings", json_findings(c));
        json_object_object_add(o, "concerned", json_concerned(c));
        if (c->image.manifest)
                json_object_object_add(o, "log", json_log(&c->log));
        json_object_object_add(o, "pages", number(c->pages));
        json_object_object_add(o, "entries", number(c->entries));
        json_object_object_add(o, "data_blocks", number(c->data_blocks));
        json_object_object_add(o, "volume_bytes", number(c->origin_bytes));
        printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
        json_object_put(o);
}

/* --- command ------------------------------------------------------------------------------------------------------ */

typedef struct CheckWish {
        const char *path;
        bool json, quick, volume_data, help;
} CheckWish;

static bool wish_parse(int argc, char **argv, CheckWish *w) {
        static const struct option options[] = { { "json", no_argument, NULL, 'j' },
                                                 { "quick", no_argument, NULL, 'q' },
                                                 { "volume-data", no_argument, NULL, 'v' },
                                                 { "help", no_argument, NULL, 'h' },
                                                 {} };
        optind = 0;
        for (int c; (c = getopt_long(argc, argv, "jh", options, NULL)) >= 0;) {
                w->json = w->json || c == 'j';
                w->quick = w->quick || c == 'q';
                w->volume_data = w->volume_data || c == 'v';
                w->help = w->help || c == 'h';
                if (c == '?')
                        return false;
        }
        w->path = optind + 1 == argc ? argv[optind] : NULL;
        return w->path || w->help;
}

static int check_file(const CheckWish *w, Source *s) {
        Check c = { .without_data = w->quick, .volume_data = w->volume_data };
        int status = TOOL_CANNOT;
        if (check_store(&c, s) < 0) {
                fputs("vss-cow check: out of memory\n", stderr);
        } else if (!c.image.super && c.image.newer) {
                fprintf(stderr, "vss-cow check: %s: %s\n", w->path, c.image.why);
        } else {
                if (w->json)
                        print_json(&c, w->path);
                else
                        print_text(&c, w->path);
                status = c.damages ? TOOL_DAMAGED : TOOL_OK;
        }
        check_done(&c);
        if (fflush(stdout) != 0 || ferror(stdout))
                status = TOOL_CANNOT;
        return status;
}

int cow_check_main(int argc, char **argv) {
        CheckWish w = { 0 };
        FileSource f;
        if (!wish_parse(argc, argv, &w)) {
                usage(stderr);
                return TOOL_USAGE;
        }
        if (w.help) {
                usage(stdout);
                return TOOL_OK;
        }
        int r = file_source_open(w.path, &f);
        if (r < 0) {
                fprintf(stderr, "vss-cow check: %s: %s\n", w.path,
                        r == -EBUSY  ? "the store is in use" :
                        r == -EINVAL ? "neither a file nor a block device" :
                                       strerror(-r));
                return r == -EBUSY ? TOOL_BUSY : TOOL_CANNOT;
        }
        int status = check_file(&w, &f.source);
        file_source_close(&f);
        return status;
}
