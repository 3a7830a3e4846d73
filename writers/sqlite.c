/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-writer-sqlite: keeps SQLite databases still while they are copied.
 *
 * PrepareSnapshot moves the write-ahead log into the database as far as readers allow (a PASSIVE checkpoint waits for
 * nobody), so that little is left to recover. Freeze begins a transaction with BEGIN IMMEDIATE on every database: that
 * takes the one write lock, in WAL and in rollback mode alike, and lets readers go on. Nothing is written under it. All
 * locks are held before Freeze is answered, so transactions that an application spreads over several files are either
 * in all copies or in none, if it writes them under one BEGIN with ATTACH, or one after the other while it holds the
 * first.
 *
 * A lock in SQLite is a file lock of this process: whatever ends the process frees it. SQLite's locks are not fair: an
 * application that writes without a pause leaves gaps of microseconds, so we look often. An application that locks
 * several files in another order than we do would wait for us while we wait for it; so nobody is kept waiting long
 * while we hold something: we let go and begin again with the one we could not get.
 */
#include "writers/program-options.h"
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>

enum { DATABASES_MAX = 256 };
#define FREEZE_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define ANSWER_MARGIN_USEC (500 * USEC_PER_MSEC) /* left of a budget when we give up waiting for a lock */
#define HOLDING_WAIT_USEC (50 * USEC_PER_MSEC)   /* for the next lock, while we hold others */
#define OFTEN_USEC 50                            /* between two looks, during the first second */
#define SELDOM_USEC 1000

typedef struct Database {
        char *path, *directory, *file, *component;
        sqlite3 *handle;
        dev_t dev; /* of the file that is open: a restored database is another one */
        ino_t ino;
} Database;

typedef struct Sqlite {
        WriterOptions options; /* first: see there */
        Database databases[DATABASES_MAX];
        size_t n;
        size_t order[DATABASES_MAX]; /* in which they are locked */
} Sqlite;

static int add_database(void *target, const char *value, Failure *reterr) {
        Sqlite *s = target;
        Database *d = &s->databases[s->n];
        struct stat st;
        char *slash;
        int r;

        if (s->n >= DATABASES_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d databases", DATABASES_MAX);
        r = path_absolute(value, &d->path, reterr);
        if (r < 0)
                return r;
        s->order[s->n] = s->n;
        s->n++; /* from here on freed with the others */
        if (stat(d->path, &st) < 0 || !S_ISREG(st.st_mode))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "%s is no file", d->path);
        for (size_t i = 0; i + 1 < s->n; i++)
                if (streq(s->databases[i].path, d->path))
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is given twice", d->path);
        slash = strrchr(d->path, '/');
        d->directory = slash == d->path ? strdup("/") : strndup(d->path, (size_t) (slash - d->path));
        d->file = strdup(slash + 1);
        if (!d->directory || !d->file || path_escape(d->path + 1, &d->component) < 0)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        return 0;
}

static void database_close(Database *d) {
        (void) sqlite3_close(d->handle);
        d->handle = NULL;
}

static int database_open(Database *d, Failure *reterr) {
        struct stat st;
        int rc = sqlite3_open_v2(d->path, &d->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_PRIVATECACHE, NULL);

        if (rc == SQLITE_OK)
                rc = sqlite3_exec(d->handle, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
        if (rc != SQLITE_OK && rc != SQLITE_BUSY) {
                failure_set(reterr, CONDITION_FAILED, "cannot open %s: %s", d->path,
                            d->handle ? sqlite3_errmsg(d->handle) : sqlite3_errstr(rc));
                database_close(d);
                return -EIO;
        }
        if (stat(d->path, &st) < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", d->path, strerror(errno));
        d->dev = st.st_dev;
        d->ino = st.st_ino;
        return 0;
}

static bool database_is_current(const Database *d) {
        struct stat st;

        return d->handle && stat(d->path, &st) == 0 && st.st_dev == d->dev && st.st_ino == d->ino;
}

/* A pattern that matches just this name. */
static int literal_pattern(const char *name, const char *suffix, char *ret, size_t size) {
        size_t n = 0;

        for (const char *p = name; *p; p++) {
                if (n + 5 > size)
                        return -ENAMETOOLONG;
                if (strchr("*?[", *p))
                        ret[n++] = '[';
                ret[n++] = *p;
                if (strchr("*?[", *p))
                        ret[n++] = ']';
        }
        return snprintf(ret + n, size - n, "%s", suffix) >= (int) (size - n) ? -ENAMETOOLONG : 0;
}

static int identify(struct vss_metadata *m, void *userdata) {
        static const struct {
                const char *suffix;
                uint32_t flags;
        } files[] = { { "", 0 }, { "-wal", VSS_FILES_LOG }, { "-journal", VSS_FILES_LOG } };
        Sqlite *s = userdata;
        char pattern[2 * NAME_MAX];
        int r = vss_metadata_set(m, "restore.method", "if-can-replace");

        for (size_t i = 0; r >= 0 && i < s->n; i++) {
                const Database *d = &s->databases[i];
                r = vss_metadata_component(m, d->component,
                                           VSS_COMPONENT_DATABASE | VSS_COMPONENT_SELECTABLE |
                                                   VSS_COMPONENT_SELECTABLE_FOR_RESTORE,
                                           d->file);
                for (size_t k = 0; r >= 0 && k < ELEMENTSOF(files); k++) {
                        r = literal_pattern(d->file, files[k].suffix, pattern, sizeof(pattern));
                        r = r < 0 ? r : vss_metadata_files(m, d->component, d->directory, pattern, files[k].flags);
                }
                /* The index of the log is made anew from the log; a copied one is at best ignored. */
                r = r < 0 ? r : literal_pattern(d->file, "-shm", pattern, sizeof(pattern));
                r = r < 0 ? r : vss_metadata_exclude(m, d->directory, pattern, 0);
        }
        return r;
}

static int veto(struct vss_event *e, const Database *d, int rc, const char *what) {
        enum vss_veto kind = VSS_VETO_FATAL;

        if ((rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED)
                kind = VSS_VETO_RETRYABLE;
        else if ((rc & 0xff) == SQLITE_NOMEM || (rc & 0xff) == SQLITE_FULL)
                kind = VSS_VETO_NO_RESOURCES;
        return vss_event_fail(e, kind, "cannot %s %s: %s", what, d->path, sqlite3_errmsg(d->handle));
}

/* So much may still be waited: never up to the deadline itself. */
static int remaining_msec(const struct vss_event *e) {
        uint64_t now = now_usec(), end = vss_event_deadline_usec(e);

        end = end < ANSWER_MARGIN_USEC ? 0 : end - ANSWER_MARGIN_USEC;
        if (now >= end)
                return 0;
        return (int) MIN_OF((end - now) / USEC_PER_MSEC, (uint64_t) INT_MAX);
}

static int prepare_snapshot(struct vss_event *e, void *userdata) {
        Sqlite *s = userdata;

        for (size_t i = 0; i < s->n; i++) {
                Database *d = &s->databases[i];
                Failure failure = {};
                int rc;
                if (!database_is_current(d)) {
                        database_close(d);
                        if (database_open(d, &failure) < 0)
                                return vss_event_fail(e, VSS_VETO_FATAL, "%s", failure.message);
                }
                (void) sqlite3_busy_timeout(d->handle, 0);
                rc = sqlite3_wal_checkpoint_v2(d->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
                if (rc != SQLITE_OK && rc != SQLITE_BUSY && rc != SQLITE_LOCKED)
                        return veto(e, d, rc, "checkpoint");
        }
        return 0;
}

static int release(Sqlite *s, struct vss_event *e) {
        int result = 0;

        for (size_t i = s->n; i-- > 0;) {
                Database *d = &s->databases[s->order[i]];
                if (!d->handle || sqlite3_get_autocommit(d->handle))
                        continue;
                int rc = sqlite3_exec(d->handle, "ROLLBACK", NULL, NULL, NULL);
                if (rc != SQLITE_OK)
                        result = veto(e, d, rc, "release");
        }
        return result;
}

typedef struct Waiting {
        struct vss_event *event;
        uint64_t until_usec;
} Waiting;

/* SQLite asks whether to go on waiting for a lock. */
static int on_busy(void *userdata, int tries) {
        Waiting *w = userdata;

        if (now_usec() >= w->until_usec || atomic_load(&w->event->cancelled))
                return 0;
        (void) usleep(tries < (int) (USEC_PER_SEC / OFTEN_USEC) ? OFTEN_USEC : SELDOM_USEC);
        return 1;
}

static int lock(Database *d, struct vss_event *e, uint64_t until_usec) {
        Waiting waiting = { e, until_usec };
        int rc;

        (void) sqlite3_busy_handler(d->handle, on_busy, &waiting);
        rc = sqlite3_exec(d->handle, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        (void) sqlite3_busy_handler(d->handle, NULL, NULL);
        return rc;
}

/* order[i] becomes the first. */
static void lock_first(Sqlite *s, size_t i) {
        size_t first = s->order[i];

        memmove(&s->order[1], &s->order[0], i * sizeof(s->order[0]));
        s->order[0] = first;
}

static int freeze(struct vss_event *e, void *userdata) {
        Sqlite *s = userdata;
        uint64_t end = usec_add(now_usec(), (uint64_t) remaining_msec(e) * USEC_PER_MSEC);
        size_t i = 0;

        while (i < s->n) {
                Database *d = &s->databases[s->order[i]];
                if (!database_is_current(d)) {
                        (void) release(s, e);
                        return vss_event_fail(e, VSS_VETO_RETRYABLE, "%s has been replaced by another file", d->path);
                }
                int rc = lock(d, e, i == 0 ? end : MIN_OF(end, usec_add(now_usec(), HOLDING_WAIT_USEC)));
                if (rc == SQLITE_OK) {
                        i++;
                        continue;
                }
                int r = veto(e, d, rc, "lock");
                (void) release(s, e);
                if ((rc & 0xff) != SQLITE_BUSY || now_usec() >= end || atomic_load(&e->cancelled))
                        return r;
                e->failed = false;
                lock_first(s, i);
                i = 0;
        }
        return 0;
}

static int thaw(struct vss_event *e, void *userdata) {
        Sqlite *s = userdata;

        for (size_t i = 0; i < s->n; i++)
                if (!s->databases[i].handle || sqlite3_get_autocommit(s->databases[i].handle)) {
                        (void) release(s, e);
                        return vss_event_fail(e, VSS_VETO_RETRYABLE, "%s was not locked any more",
                                              s->databases[i].path);
                }
        return release(s, e);
}

static int do_abort(struct vss_event *e, void *userdata) {
        return release(userdata, e);
}

static int pre_restore(struct vss_event *e, void *userdata) {
        Sqlite *s = userdata;

        for (size_t i = 0; i < s->n; i++)
                database_close(&s->databases[i]);
        return 0;
}

static int post_restore(struct vss_event *e, void *userdata) {
        Sqlite *s = userdata;
        Failure failure = {};

        for (size_t i = 0; i < s->n; i++)
                if (!s->databases[i].handle && database_open(&s->databases[i], &failure) < 0)
                        (void) vss_event_fail_component(e, s->databases[i].component, VSS_VETO_FATAL, "%s",
                                                        failure.message);
        return 0;
}

static void done(Sqlite *s) {
        for (size_t i = 0; i < s->n; i++) {
                Database *d = &s->databases[i];
                database_close(d);
                free(d->path);
                free(d->directory);
                free(d->file);
                free(d->component);
        }
}

int main(int argc, char *argv[]) {
        static const ProgramOption options[] = {
                { "freeze-timeout", "SEC", "longest time the databases may stand still (default 30)",
                  option_freeze_timeout },
        };
        static Sqlite s = { .options.freeze_usec = FREEZE_TIMEOUT_USEC };
        Program p = { .command = "vss-writer-sqlite",
                      .arguments = "DATABASE...",
                      .summary = "Keeps SQLite databases still while they are copied.",
                      .options = options,
                      .n_options = ELEMENTSOF(options),
                      .argument_key = "database",
                      .argument = add_database,
                      .target = &s,
                      .name = (char *) "sqlite",
                      .level = LEVEL_BACK_END };
        Failure failure = {};
        int r = program_parse(&p, argc, argv);

        if (r == 0 && s.n == 0) {
                r = failure_set(&failure, CONDITION_INVALID_ARGUMENT, "no database given; see --help");
                p.status = program_fail(&p, &failure);
        }
        for (size_t i = 0; r == 0 && i < s.n; i++) {
                r = database_open(&s.databases[i], &failure);
                if (r < 0)
                        p.status = program_fail(&p, &failure);
        }
        if (r == 0) {
                struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,
                                                  .version = sqlite3_libversion(),
                                                  .usage = VSS_USAGE_USER_DATA,
                                                  .source = VSS_SOURCE_TRANSACTED,
                                                  .freeze_timeout_usec = s.options.freeze_usec,
                                                  .identify = identify,
                                                  .prepare_snapshot = prepare_snapshot,
                                                  .freeze = freeze,
                                                  .thaw = thaw,
                                                  .abort = do_abort,
                                                  .pre_restore = pre_restore,
                                                  .post_restore = post_restore };
                p.status = program_run(&p, &c, &s);
        }
        done(&s);
        program_done(&p);
        return p.status;
}
