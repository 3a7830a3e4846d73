/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writers that are only a document: every .json file of writers.d. They speak for root, so the files must be root's. A
 * file that cannot be read takes nothing else down with it: it is named in the log, and the writer is not there.
 */
#include "daemon/manager-private.h"
#include "daemon/owners.h"
#include "daemon/writer-register.h"
#include "protocol/metadata.h"
#include <dirent.h>
#include <stdio.h>
#include <syslog.h>

enum { LIMIT_DECLARATIVE = 256 };

static void forget_declarative(Manager *m) {
        Writer *w, *following;
        for (w = LIST_FIRST(&m->writers); w; w = following) {
                following = LIST_NEXT(w, entries);
                if (w->kind == WRITER_KIND_DECLARATIVE)
                        writer_unlist(m, w);
        }
}

static int add_declarative(Manager *m, const char *text, Metadata *d) {
        Writer *w = writer_new(m, WRITER_KIND_DECLARATIVE, d->name, d->instance ? d->instance : "");
        if (!w)
                return -ENOMEM;
        w->metadata_text = strdup(text);
        w->version = strdup(d->version ? d->version : "");
        if (!w->metadata_text || !w->version) {
                writer_unref(w);
                return -ENOMEM;
        }
        w->level = d->level;
        w->usage = d->usage;
        w->source = d->source;
        w->freeze_timeout_usec = d->freeze_timeout_usec > 0 ? d->freeze_timeout_usec : BUDGET_FREEZE_USEC;
        w->metadata = d;
        writer_list(w);
        return 0;
}

static int load_file(Manager *m, int dir, const char *file) {
        _cleanup_(metadata_freep) Metadata *d = NULL;
        _cleanup_free_ char *text = NULL, *reference = NULL;
        Failure f = {};
        size_t size;
        int r = trusted_file_read(dir, file, LIMIT_METADATA_BYTES, &text, &size);
        if (r < 0)
                (void) failure_set(&f, CONDITION_INVALID_DOCUMENT, "%s",
                                   r == -EPERM ? "it must be root's and writable by nobody else" : strerror(-r));
        else if (strlen(text) != size)
                r = failure_set(&f, CONDITION_INVALID_DOCUMENT, "it contains a NUL byte");
        else
                r = metadata_parse(text, size, &f, &d);
        if (r >= 0) {
                if (asprintf(&reference, "%s%s%s", d->name, d->instance && d->instance[0] ? "@" : "",
                             d->instance ? d->instance : "") < 0)
                        return -ENOMEM;
                if (manager_find_writer(m, reference))
                        r = failure_set(&f, CONDITION_EXISTS, "there is a writer %s already", reference);
        }
        if (r < 0) {
                manager_log(m, LOG_WARNING, NULL, "%s/writers.d/%s is not taken: %s",
                            m->settings.configuration_directory, file, f.message);
                return 0;
        }
        r = add_declarative(m, text, d);
        if (r >= 0)
                d = NULL;
        return r;
}

static int is_document(const struct dirent *e) {
        const char *suffix = strrchr(e->d_name, '.');
        return e->d_name[0] != '.' && suffix && streq(suffix, ".json");
}

int manager_load_declarative(Manager *m) {
        _cleanup_free_ char *path = NULL;
        struct dirent **list = NULL;
        int fd = -EBADF;
        if (asprintf(&path, "%s/writers.d", m->settings.configuration_directory) < 0)
                return -ENOMEM;
        int r = trusted_directory_open(path, &fd);
        if (r == -ENOENT) {
                forget_declarative(m);
                return 0;
        }
        if (r < 0) {
                manager_log(m, LOG_WARNING, NULL, "%s is not read: %s", path,
                            r == -EPERM ? "it must be root's and writable by nobody else" : strerror(-r));
                forget_declarative(m);
                return 0;
        }
        int n = scandirat(fd, ".", &list, is_document, alphasort);
        r = n < 0 ? -errno : 0;
        if (r >= 0)
                forget_declarative(m);
        for (int i = 0; i < n; i++) {
                if (r >= 0 && i < LIMIT_DECLARATIVE)
                        r = load_file(m, fd, list[i]->d_name);
                free(list[i]);
        }
        free(list);
        (void) close_fd(fd);
        return r;
}
