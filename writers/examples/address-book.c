/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A writer for one SQLite database: cc address-book.c $(pkg-config --cflags --libs vss sqlite3)
 *
 *      address-book DIRECTORY          serves DIRECTORY/book.db
 */
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <vss-writer.h>

struct book {
        const char *directory;
        sqlite3 *db;
};

static int identify(struct vss_metadata *m, void *userdata) {
        struct book *book = userdata;
        int r = vss_metadata_component(m, "book", VSS_COMPONENT_DATABASE | VSS_COMPONENT_SELECTABLE, "Address book");

        return r < 0 ? r : vss_metadata_files(m, "book", book->directory, "book.db*", 0);
}

/* The session stays open from here to thaw. */
static int freeze(struct vss_event *e, void *userdata) {
        struct book *book = userdata;

        if (sqlite3_exec(book->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
                return vss_event_fail(e, VSS_VETO_RETRYABLE, "another transaction is running: %s",
                                      sqlite3_errmsg(book->db));
        return 0;
}

/* thaw and abort: may come with nothing to end. */
static int resume(struct vss_event *e, void *userdata) {
        struct book *book = userdata;

        if (!sqlite3_get_autocommit(book->db) && sqlite3_exec(book->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
                return vss_event_fail(e, VSS_VETO_FATAL, "cannot resume: %s", sqlite3_errmsg(book->db));
        return 0;
}

int main(int argc, char *argv[]) {
        struct book book = { argc > 1 ? argv[1] : "/srv/book", NULL };
        const struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,
                                                .name = "address-book",
                                                .level = VSS_LEVEL_BACK_END,
                                                .freeze_timeout_usec = 5000000,
                                                .identify = identify,
                                                .freeze = freeze,
                                                .thaw = resume,
                                                .abort = resume };
        struct vss_writer *w = NULL;
        char path[4096];
        int r;

        snprintf(path, sizeof(path), "%s/book.db", book.directory);
        if (sqlite3_open(path, &book.db) != SQLITE_OK || sqlite3_busy_timeout(book.db, 2000) != SQLITE_OK) {
                fprintf(stderr, "address-book: %s: %s\n", path, sqlite3_errmsg(book.db));
                return 1;
        }
        r = vss_writer_new(&c, &book, &w);
        r = r < 0 ? r : vss_writer_run(w);
        if (r < 0)
                fprintf(stderr, "address-book: %s\n", strerror(-r));
        vss_writer_free(w);
        sqlite3_close(book.db);
        return r < 0;
}
