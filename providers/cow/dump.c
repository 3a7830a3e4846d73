/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/dump.h"
#include "providers/cow/tools.h"
#include <getopt.h>
#include <stdio.h>

/* --- printing ----------------------------------------------------------------------------------------------------- */

void dump_begin(Dump *d, const char *part, bool list) {
        if (!d->json)
                return;
        printf("%s\"%s\":%s", d->first ? "{\n" : ",\n", part, list ? "[" : "");
        d->first = true;
}

void dump_end(Dump *d, bool list) {
        if (d->json && list)
                fputs(d->first ? "]" : "\n]", stdout);
        d->first = false;
}

static void print_value(json_object *value) {
        if (json_object_is_type(value, json_type_string))
                printf("%s", json_object_get_string(value));
        else
                printf("%s",
                       json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

void dump_item(Dump *d, const char *word, json_object *take) {
        if (d->json) {
                printf("%s%s", d->first ? "\n" : ",\n",
                       json_object_to_json_string_ext(take, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
                d->first = false;
        } else {
                printf("%s", word);
                json_object_object_foreach(take, key, value) {
                        printf(" %s=", key);
                        print_value(value);
                }
                putchar('\n');
        }
        json_object_put(take);
}

void dump_bad(Dump *d, const char *word, uint64_t block, const char *why) {
        json_object *o = json_object_new_object();
        if (block != UINT64_MAX)
                json_object_object_add(o, "block", json_object_new_uint64(block));
        json_object_object_add(o, "damage", json_object_new_string(why));
        dump_item(d, word, o);
        d->damaged = true;
}

/* --- command ------------------------------------------------------------------------------------------------------ */

enum { PART_SUPERBLOCK, PART_MANIFEST, PART_LOG = 6, PART_SEGMENTS, PART_RUN, PART_ALL };
static const char *const parts[PART_ALL] = { "superblock", "manifest", "volumes",  "snapshots", "runs",
                                             "maps",       "log",      "segments", "run" };

typedef struct DumpWish {
        const char *path;
        unsigned part;
        uint64_t run;
        bool json, help;
} DumpWish;

static void usage(FILE *f) {
        fputs("vss-cow dump STORE [--json] [superblock|manifest|volumes|snapshots|runs|maps|run N|log|segments]\n"
              "Shows what lies in a store that nobody is using; without a word, all but the entries of runs.\n",
              f);
}

static bool part_parse(int argc, char **argv, DumpWish *w) {
        char *end = NULL;
        w->part = PART_ALL;
        if (argc == 1)
                return true;
        for (w->part = 0; w->part < PART_ALL && !streq(parts[w->part], argv[1]);)
                w->part++;
        if (w->part != PART_RUN)
                return argc == 2 && w->part < PART_ALL;
        if (argc != 3 || argv[2][0] < '0' || argv[2][0] > '9')
                return false;
        errno = 0;
        w->run = strtoull(argv[2], &end, 10);
        return errno == 0 && *end == '\0';
}

static bool wish_parse(int argc, char **argv, DumpWish *w) {
        static const struct option options[] = { { "json", no_argument, NULL, 'j' },
                                                 { "help", no_argument, NULL, 'h' },
                                                 {} };
        optind = 0;
        for (int c; (c = getopt_long(argc, argv, "jh", options, NULL)) >= 0;) {
                w->json = w->json || c == 'j';
                w->help = w->help || c == 'h';
                if (c == '?')
                        return false;
        }
        if (w->help)
                return true;
        if (optind == argc)
                return false;
        w->path = argv[optind];
        return part_parse(argc - optind, argv + optind, w);
}

static int dump_inside(Dump *d, const Image *i, const DumpWish *w) {
        typedef void (*PartFn)(Dump * d, const Image *i);
        static const PartFn functions[] = { NULL, dump_manifest, dump_volumes, dump_snapshots, dump_runs, dump_maps };
        _Static_assert(ELEMENTSOF(functions) == PART_LOG, "parts");
        for (unsigned part = PART_MANIFEST; part < ELEMENTSOF(functions); part++)
                if (w->part == part || w->part == PART_ALL)
                        functions[part](d, i);
        if ((w->part == PART_LOG || w->part == PART_ALL) && dump_log(d, i) < 0)
                return -ENOMEM;
        if (w->part == PART_SEGMENTS || w->part == PART_ALL)
                dump_segments(d, i);
        return w->part == PART_RUN && !dump_run(d, i, w->run) ? -ENOENT : 0;
}

static int dump_image(const Image *i, const DumpWish *w) {
        Dump d = { .json = w->json, .first = true };
        int r = 0;
        if (w->part == PART_SUPERBLOCK || w->part == PART_ALL || !i->super)
                dump_superblocks(&d, i);
        if (w->part != PART_SUPERBLOCK && i->manifest)
                r = dump_inside(&d, i, w);
        if (d.json && (!d.first || w->part == PART_ALL))
                fputs("\n}\n", stdout);
        if (r == -ENOENT)
                fprintf(stderr, "vss-cow dump: there is no run or map %lu\n", w->run);
        else if (r < 0)
                fputs("vss-cow dump: out of memory\n", stderr);
        else if (i->why[0])
                fprintf(stderr, "vss-cow dump: %s\n", i->why);
        bool good = r == 0 && !d.damaged && (i->manifest || (w->part == PART_SUPERBLOCK && i->super));
        return fflush(stdout) == 0 && good ? TOOL_OK : TOOL_CANNOT;
}

int cow_dump_main(int argc, char **argv) {
        DumpWish w = { 0 };
        FileSource f;
        Image i;
        if (!wish_parse(argc, argv, &w) || w.help) {
                usage(w.help ? stdout : stderr);
                return w.help ? TOOL_OK : TOOL_USAGE;
        }
        int r = file_source_open(w.path, &f);
        if (r < 0) {
                fprintf(stderr, "vss-cow dump: %s: %s\n", w.path, r == -EBUSY ? "the store is in use" : strerror(-r));
                return r == -EBUSY ? TOOL_BUSY : TOOL_CANNOT;
        }
        r = image_load(&f.source, &i);
        int status = r < 0 ? TOOL_CANNOT : dump_image(&i, &w);
        image_done(&i);
        file_source_close(&f);
        return status;
}
