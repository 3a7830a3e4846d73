/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * probe-tool [--uid=N] [--nested] [--list] [--component=PATH | PATH]…: asks vss-probe as vssd does and prints what came
 * back as JSON, for tests/system-probe.sh. Exits with 1 when the whole question failed.
 */
#include "daemon/probe.h"
#include "protocol/base.h"
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <sys/stat.h>

static int status = -1;
static size_t n_descriptors;

static json_object *text_or_null(const char *s) {
        return s ? json_object_new_string(s) : NULL;
}

static json_object *texts(char **list) {
        json_object *array = json_object_new_array();

        for (; list && *list; list++)
                json_object_array_add(array, json_object_new_string(*list));
        return array;
}

static json_object *describe_volume(const Volume *v) {
        json_object *o = json_object_new_object(), *keys = json_object_new_array();
        struct stat st = {};

        for (unsigned i = 0; i < v->n_keys; i++)
                json_object_array_add(keys, json_object_new_uint64(v->keys[i]));
        json_object_object_add(o, "kind", json_object_new_string(volume_kind_to_string(v->kind)));
        json_object_object_add(o, "name", text_or_null(v->name));
        json_object_object_add(o, "argument", text_or_null(v->argument));
        json_object_object_add(o, "mount_point", text_or_null(v->mount_point));
        json_object_object_add(o, "device", text_or_null(v->device));
        json_object_object_add(o, "fs_type", text_or_null(v->fs_type));
        json_object_object_add(o, "fs_uuid", text_or_null(v->fs_uuid));
        json_object_object_add(o, "why_not", text_or_null(v->why_not));
        json_object_object_add(o, "superblock", json_object_new_uint64(v->superblock));
        json_object_object_add(o, "subvolume", json_object_new_uint64(v->subvolume));
        json_object_object_add(o, "size", json_object_new_uint64(v->size_bytes));
        json_object_object_add(o, "level", json_object_new_uint64(v->level));
        json_object_object_add(o, "can_hold", json_object_new_boolean(v->can_hold));
        json_object_object_add(o, "keys", keys);
        json_object_object_add(o, "mount_points", texts(v->mount_points));
        if (v->root_fd >= 0 && fstat(v->root_fd, &st) >= 0) {
                json_object_object_add(o, "root_inode", json_object_new_uint64(st.st_ino));
                json_object_object_add(o, "marker",
                                       json_object_new_boolean(faccessat(v->root_fd, "marker", F_OK, 0) >= 0));
        }
        return o;
}

static json_object *collisions(const ProbeResult *r) {
        json_object *array = json_object_new_array();
        char pair[64];

        for (size_t i = 0; i < r->n_volumes; i++)
                for (size_t j = i + 1; j < r->n_volumes; j++)
                        if (volumes_collide(r->volumes[i], r->volumes[j])) {
                                (void) snprintf(pair, sizeof(pair), "%zu-%zu", i, j);
                                json_object_array_add(array, json_object_new_string(pair));
                        }
        return array;
}

static void print_result(const ProbeResult *r) {
        json_object *o = json_object_new_object(), *volumes = json_object_new_array(), *paths = json_object_new_array();

        for (size_t i = 0; i < r->n_volumes; i++)
                json_object_array_add(volumes, describe_volume(r->volumes[i]));
        for (size_t i = 0; i < r->n_paths; i++) {
                json_object *p = json_object_new_object();

                json_object_object_add(p, "volume", json_object_new_int(r->path_volume[i]));
                if (r->path_owner[i] != (uid_t) -1)
                        json_object_object_add(p, "owner", json_object_new_int64(r->path_owner[i]));
                if (r->path_volume[i] < 0) {
                        json_object_object_add(p, "exit_code",
                                               json_object_new_int(condition_exit_code(r->path_failure[i].condition)));
                        json_object_object_add(p, "message", json_object_new_string(r->path_failure[i].message));
                }
                json_object_array_add(paths, p);
        }
        json_object_object_add(o, "volumes", volumes);
        json_object_object_add(o, "paths", paths);
        json_object_object_add(o, "left_out", texts(r->left_out));
        json_object_object_add(o, "stalls", texts(r->stalls));
        json_object_object_add(o, "collisions", collisions(r));
        (void) printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_NOSLASHESCAPE));
        json_object_put(o);
}

static void on_done(ProbeResult **result, const Failure *failure, void *userdata) {
        sd_event *event = userdata;

        status = failure ? EXIT_FAILURE : EXIT_SUCCESS;
        if (failure)
                (void) fprintf(stderr, "%s\n", failure->message);
        else
                print_result(*result);
        (void) sd_event_exit(event, 0);
}

static size_t count_descriptors(void) {
        size_t n = 0;

        for (int fd = 0; fd < 1024; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

int main(int argc, char *argv[]) {
        _cleanup_free_ ProbePath *paths = calloc((size_t) argc, sizeof(*paths));
        sd_event_source *timer = NULL; /* the loop opens its clock with the first one and keeps it */
        sd_event *event = NULL;
        Probe *probe = NULL;
        unsigned flags = 0;
        size_t n = 0;
        uid_t uid = 0;
        bool list = false;
        int r;

        for (int i = 1; paths && i < argc; i++) {
                if (strncmp(argv[i], "--uid=", 6) == 0)
                        uid = (uid_t) strtoul(argv[i] + 6, NULL, 10);
                else if (streq(argv[i], "--nested"))
                        flags |= PROBE_NESTED;
                else if (streq(argv[i], "--list"))
                        list = true;
                else if (strncmp(argv[i], "--component=", 12) == 0)
                        paths[n++] = (ProbePath) { .path = argv[i] + 12, .may_be_missing = true };
                else
                        paths[n++] = (ProbePath) { .path = argv[i], .is_argument = true };
        }
        if (sd_event_new(&event) < 0 ||
            sd_event_add_time(event, &timer, CLOCK_MONOTONIC, USEC_INFINITY, 0, NULL, NULL) < 0)
                return EXIT_FAILURE;
        n_descriptors = count_descriptors();
        r = list ? probe_list(event, on_done, event, &probe) :
                   probe_new(event, paths, n, flags, uid, on_done, event, &probe);
        if (r < 0 || sd_event_loop(event) < 0) {
                (void) fprintf(stderr, "cannot ask: %s\n", strerror(-r));
                return EXIT_FAILURE;
        }
        (void) probe_free(probe);
        if (count_descriptors() != n_descriptors) {
                (void) fprintf(stderr, "descriptors were left open\n");
                status = EXIT_FAILURE;
        }
        (void) sd_event_source_disable_unref(timer);
        (void) sd_event_unref(event);
        return status;
}
