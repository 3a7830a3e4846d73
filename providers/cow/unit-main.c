/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vss-cow attach and vss-cow stop: what the units call. See unit.h. */
#include "protocol/jsonutil.h"
#include "providers/cow/control.h"
#include "providers/cow/hidden.h"
#include "providers/cow/tools.h"
#include "providers/cow/unit.h"
#include <getopt.h>
#include <stdio.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, RETRY_USEC = 200000, STORES_MAX = 64 };
#define ATTACH_PATIENCE_USEC (60 * USEC_PER_SEC) /* for a disk that is still being found */
#define START_PATIENCE_USEC (180 * USEC_PER_SEC)
#define CALL_USEC (30 * USEC_PER_SEC)

typedef struct UnitOptions {
        const char *state, *store, *directory;
        uint64_t wait_usec;
        bool all;
} UnitOptions;

static int usage(const char *why) {
        fprintf(stderr, "vss-cow: %s; see vss-cow(8)\n", why);
        return EXIT_USAGE;
}

static int options_parse(int argc, char **argv, UnitOptions *ret) {
        static const struct option options[] = { { "all", no_argument, NULL, 'a' },
                                                 { "store-id", required_argument, NULL, 's' },
                                                 { "directory", required_argument, NULL, 'd' },
                                                 { "state", required_argument, NULL, 'S' },
                                                 { "wait", required_argument, NULL, 'w' },
                                                 {} };
        *ret = (UnitOptions) { .state = "/var/lib/vss" };
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                if (c == 'a')
                        ret->all = true;
                else if (c == 's')
                        ret->store = optarg;
                else if (c == 'd')
                        ret->directory = optarg;
                else if (c == 'S')
                        ret->state = optarg;
                else if (c == 'w')
                        ret->wait_usec = strtoul(optarg, NULL, 10) * USEC_PER_SEC;
                else
                        return -EINVAL;
        return optind < argc ? -EINVAL : 0;
}

static int ask(int fd, const char *command, const char *name, json_object **ret, ControlError *reterr) {
        json_object *q = json_object_new_object();
        json_object_object_add(q, "command", json_object_new_string(command));
        if (name)
                json_object_object_add(q, "name", json_object_new_string(name));
        int r = control_call(fd, q, now_usec() + CALL_USEC, ret, reterr);
        json_object_put(q);
        return r;
}

/* Its disk has another name than at the last boot: that one is to be hidden from now on. */
static void note_moved(const UnitOptions *o, const Attached *a, json_object *answer) {
        const char *origin = json_get_string(answer, "origin", "");
        Attached moved = *a;
        if (isempty(origin) || snprintf(moved.origin, sizeof(moved.origin), "%s", origin) >= (int) sizeof(moved.origin))
                return;
        int r = attached_note(o->state, &moved);
        if (r < 0)
                fprintf(stderr, "vss-cow: that the origin of volume %s is now %s cannot be noted: %s\n", a->name,
                        origin, strerror(-r));
}

/* Until it is there, which may take as long as a disk takes. */
static int attach_one(const UnitOptions *o, const Attached *a, uint64_t deadline_usec) {
        ControlError e = {};
        int r;
        do {
                _cleanup_(json_object_putp) json_object *answer = NULL;
                _cleanup_close_ int fd = control_connect(o->directory);
                r = fd < 0 ? fd : ask(fd, "volume-attach", a->name, &answer, &e);
                if (r < 0)
                        (void) usleep(RETRY_USEC);
                else
                        note_moved(o, a, answer);
        } while (r < 0 && now_usec() < deadline_usec);
        if (r == -ENOENT) /* if there is a device, it is hidden as the origin that it is not */
                hidden_reconsider(a->origin);
        if (r < 0)
                fprintf(stderr, "vss-cow: volume %s cannot be attached: %s\n", a->name,
                        e.message[0] ? e.message : strerror(-r));
        return r;
}

static int attach_store(const UnitOptions *o, const Attached *all, size_t n) {
        uint64_t deadline = now_usec() + ATTACH_PATIENCE_USEC;
        int status = EXIT_SUCCESS;
        for (size_t i = 0; i < n; i++)
                if (streq(all[i].store, o->store) && attach_one(o, &all[i], deadline) < 0)
                        status = EXIT_FAILED;
        return status;
}

static int attach_all(const UnitOptions *o, const Attached *all, size_t n) {
        const char *ids[STORES_MAX];
        size_t n_ids = 0;
        for (size_t i = 0; i < n; i++) {
                size_t k = 0;
                while (k < n_ids && !streq(ids[k], all[i].store))
                        k++;
                if (k == n_ids && n_ids < STORES_MAX)
                        ids[n_ids++] = all[i].store;
        }
        int r = units_start(o->state, ids, n_ids, now_usec() + START_PATIENCE_USEC);
        if (r < 0)
                fprintf(stderr, "vss-cow: not every store can be served: %s; look at systemctl status 'vss-cow@*'\n",
                        strerror(-r));
        return r < 0 ? EXIT_FAILED : EXIT_SUCCESS;
}

int cow_attach_main(int argc, char **argv) {
        _cleanup_free_ Attached *all = NULL;
        UnitOptions o;
        size_t n = 0;
        if (options_parse(argc, argv, &o) < 0 || o.all == (o.store && o.directory) || o.wait_usec)
                return usage("attach needs --all, or --store-id=UUID and --directory=DIR");
        int r = attached_read(o.state, &all, &n);
        if (r < 0) {
                fprintf(stderr, "vss-cow: %s/cow/attached cannot be read: %s\n", o.state, strerror(-r));
                return EXIT_FAILED;
        }
        return o.all ? attach_all(&o, all, n) : attach_store(&o, all, n);
}

/* What is mounted is waited for: whoever unmounts it comes after us or is at it. */
int cow_stop_main(int argc, char **argv) {
        ControlError e = {};
        UnitOptions o;
        if (options_parse(argc, argv, &o) < 0 || !o.directory || o.all || o.store)
                return usage("stop needs --directory=DIR");
        uint64_t deadline = now_usec() + o.wait_usec;
        int r;
        do {
                _cleanup_close_ int fd = control_connect(o.directory);
                if (fd == -ENOENT || fd == -ECONNREFUSED)
                        return EXIT_SUCCESS; /* nobody serves it */
                r = fd < 0 ? fd : ask(fd, "stop", NULL, NULL, &e);
                if (r == -EBUSY && now_usec() < deadline)
                        (void) usleep(RETRY_USEC);
        } while (r == -EBUSY && now_usec() < deadline);
        if (r < 0)
                fprintf(stderr, "vss-cow: it goes on: %s\n", e.message[0] ? e.message : strerror(-r));
        return r == -EBUSY ? 8 : r < 0 ? EXIT_FAILED : EXIT_SUCCESS;
}
