/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * report: one archive for a bug report. Works without the service too: then that is what it reports. Values of keys
 * that look like passwords are removed from everything; the archive can be read by its owner only.
 */
#include "client/archive.h"
#include "client/verb-lists.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

enum { REPORT_FILES_MAX = 256, REPORT_LOG_BYTES = 1024 * 1024, REPORT_DEPTH = 3 };

typedef struct Report {
        Context *c;
        FILE *f;
        unsigned n_files;
        int result;
} Report;

static void add_text(Report *r, const char *name, char *text) {
        if (r->result < 0 || !text)
                return;
        size_t n = secrets_remove(text);
        r->result = archive_add(r->f, name, text, n);
        r->n_files++;
}

static void add_json(Report *r, const char *name, json_object *object) {
        char *text = strdup(
                json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
        add_text(r, name, text);
        free(text);
}

/* The last max bytes; regular files only. */
static char *read_tail(int fd, size_t max) {
        struct stat st;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return NULL;
        if (st.st_size > (off_t) max)
                (void) lseek(fd, st.st_size - (off_t) max, SEEK_SET);
        char *text = malloc(max + 1);
        size_t size = 0;
        for (ssize_t n; text && size < max && (n = read(fd, text + size, max - size)) > 0;)
                size += (size_t) n;
        if (!text)
                return NULL;
        for (size_t i = 0; i < size; i++) /* a log may hold anything; secrets are searched in all of it */
                if (text[i] == 0)
                        text[i] = ' ';
        text[size] = 0;
        return text;
}

static void add_directory(Report *r, int fd, const char *name, unsigned depth) {
        DIR *directory = fdopendir(fd);
        struct dirent *entry;
        if (!directory)
                return (void) close_fd(fd);
        while (r->n_files < REPORT_FILES_MAX && (entry = readdir(directory))) {
                char path[512];
                int child = entry->d_name[0] == '.' ? -EBADF :
                                                      openat(dirfd(directory), entry->d_name,
                                                             O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
                struct stat st;
                if (child < 0)
                        continue;
                (void) snprintf(path, sizeof(path), "%s/%s", name, entry->d_name);
                if (fstat(child, &st) == 0 && S_ISDIR(st.st_mode) && depth < REPORT_DEPTH) {
                        add_directory(r, child, path, depth + 1);
                        continue;
                }
                char *text = read_tail(child, REPORT_LOG_BYTES);
                add_text(r, path, text);
                free(text);
                (void) close_fd(child);
        }
        (void) closedir(directory);
}

static void add_place(Report *r, const char *variable, const char *fallback, const char *name) {
        const char *path = getenv(variable);
        int fd = open(isempty(path) ? fallback : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
                add_directory(r, fd, name, 0);
}

static void add_file(Report *r, const char *path, const char *name) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        char *text = NULL;
        size_t size = 0;
        /* files of /proc have no size */
        for (ssize_t n = 1; fd >= 0 && n > 0 && size < REPORT_LOG_BYTES;) {
                char *grown = realloc(text, size + 65537);
                if (!grown)
                        break;
                text = grown;
                n = read(fd, text + size, 65536);
                size += n > 0 ? (size_t) n : 0;
                text[size] = 0;
        }
        add_text(r, name, text);
        free(text);
}

/* What a program says; if it is not there, nothing. No input, no longer than 10 s. */
static void add_output(Report *r, const char *name, const char *command) {
        char *text = malloc(REPORT_LOG_BYTES + 1);
        _cleanup_free_ char *line = NULL;
        if (!text || asprintf(&line, "timeout 10 %s </dev/null 2>&1", command) < 0) {
                free(text);
                return;
        }
        FILE *p = popen(line, "re");
        size_t size = p ? fread(text, 1, REPORT_LOG_BYTES, p) : 0;
        text[size] = 0;
        if (p && pclose(p) == 0 && size > 0)
                add_text(r, name, text);
        free(text);
}

static void add_versions(Report *r) {
        json_object *d = document_new();
        struct utsname u = {};
        char at[64];
        (void) uname(&u);
        json_object_object_add(d, "time",
                               json_object_new_string(format_instant(clock_usec(CLOCK_REALTIME), at, sizeof(at))));
        json_object_object_add(d, "vssctl", json_object_new_string(VSS_VERSION));
        json_object_object_add(d, "kernel", json_object_new_string(u.release));
        json_object_object_add(d, "machine", json_object_new_string(u.machine));
        add_json(r, "versions.json", d);
        json_object_put(d);
        add_file(r, "/etc/os-release", "os-release");
        add_file(r, "/proc/self/mountinfo", "mountinfo");
        add_file(r, "/proc/cmdline", "cmdline");
}

static void add_records(Report *r, json_object *objects) {
        for (size_t i = 0; i < json_object_array_length(objects); i++) {
                json_object *object = json_object_array_get_idx(objects, i), *full = NULL;
                Context silent = *r->c;
                char name[128];
                if (!streq(member_text(object, "interface"), VSS_IFACE_SET) ||
                    describe_set_full(&silent, member_text(object, "object"), true, &full) < 0)
                        continue;
                (void) snprintf(name, sizeof(name), "sets/%.40s.json", member_text(object, "id"));
                if (r->n_files < REPORT_FILES_MAX)
                        add_json(r, name, full);
                json_object_put(full);
        }
}

/* Through the verbs themselves, so that the report holds what they print. */
static void add_service(Report *r) {
        static const Verb *const asked[] = { &verb_status,  &verb_writers, &verb_providers,
                                             &verb_volumes, &verb_sets,    &verb_snapshots };
        for (size_t i = 0; i < ELEMENTSOF(asked); i++) {
                Context one = { .verb = asked[i],
                                .json = true,
                                .out = stdout,
                                .requester = r->c->requester,
                                .timeout_usec = USEC_INFINITY };
                char name[64];
                (void) snprintf(name, sizeof(name), "%s.json", asked[i]->name);
                if (asked[i]->run(&one) < 0) {
                        json_object_put(one.document);
                        one.document = document_new();
                        json_object_object_add(one.document, "error",
                                               describe_error(one.error_name, one.error_message, one.retryable));
                }
                add_json(r, name, one.document);
                json_object_put(one.document);
        }
        json_object *objects = NULL;
        Context silent = *r->c;
        if (call_objects(&silent, NULL, &objects) >= 0)
                add_records(r, objects);
        json_object_put(objects);
}

static int report_write(Context *c, FILE *f) {
        Report r = { .c = c, .f = f };
        add_versions(&r);
        if (call_method(c, VSS_ROOT_PATH, "org.freedesktop.DBus.Peer", "Ping", NULL, "") >= 0)
                add_service(&r);
        else
                add_text(&r, "error", c->error_message);
        c->condition = CONDITION_NONE;
        add_place(&r, "CONFIGURATION_DIRECTORY", "/etc/vss", "etc");
        add_place(&r, "LOGS_DIRECTORY", "/var/log/vss", "log");
        add_place(&r, "RUNTIME_DIRECTORY", "/run/vss", "run");
        add_output(
                &r, "journal",
                "journalctl --no-pager -q -n 2000 -o short-precise -t vssd -t vss-guard -t vss-provider-host -t vss-cow "
                "-u 'vss*'");
        add_output(&r, "lsblk", "lsblk -o NAME,TYPE,FSTYPE,SIZE,MOUNTPOINTS");
        return r.result < 0 ? r.result : archive_end(f);
}

static int report_run(Context *c) {
        char path[512], stamp[32];
        time_t now = time(NULL);
        struct tm tm;
        (void) strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
        (void) snprintf(path, sizeof(path), "vss-report-%s.tar", stamp);
        const char *name = c->n_operands > 0 ? c->operands[0] : path;
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
        if (!f)
                return context_fail(c, errno == EEXIST ? CONDITION_EXISTS : CONDITION_FAILED, "cannot create %s: %s",
                                    name, strerror(errno));
        int r = report_write(c, f);
        if (fclose(f) != 0 || r < 0) {
                (void) unlink(name);
                return context_fail(c, errno == ENOSPC ? CONDITION_NO_SPACE : CONDITION_FAILED, "cannot write %s: %s",
                                    name, strerror(errno));
        }
        c->document = document_new();
        json_object_object_add(c->document, "path", json_object_new_string(name));
        if (!c->json)
                output_line(c, "%s", name);
        return 0;
}

const Verb verb_report = {
        .name = "report",
        .operands = "[FILE]",
        .summary = "gather versions, configuration, sets, writers and logs into one archive for a bug report",
        .max_operands = 1,
        .operand_check = check_any,
        .examples = "  vssctl report\n"
                    "  vssctl report /tmp/vss.tar && tar -tf /tmp/vss.tar\n",
        .run = report_run,
};
