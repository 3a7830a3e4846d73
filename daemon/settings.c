/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssd.conf. A wrong number in here decides how long a machine stands still, so a value that is not exactly what the
 * manual page says is an error with file and line and the old settings stay as they were; only names we do not know are
 * let through with a warning, so that one file can serve two versions. Everything a key can be is one row of the table
 * below.
 */
#include "daemon/settings.h"
#include "protocol/base.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

enum {
        FILE_BYTES_MAX = 64 * 1024, /* of one configuration file */
        LINE_BYTES_MAX = 1024,
        DROP_INS_MAX = 64,
};

#define SECONDS(n) ((uint64_t) (n) *USEC_PER_SEC)
#define DAYS(n) SECONDS((n) *86400ULL)

typedef enum ValueKind {
        VALUE_DURATION,
        VALUE_DURATION_OR_INFINITY,
        VALUE_COUNT,
        VALUE_SWITCH,
        VALUE_SWITCH_OR_AUTO,
        VALUE_STUCK,
} ValueKind;

typedef struct Key {
        const char *section, *name;
        ValueKind kind;
        size_t offset; /* in Settings */
        uint64_t min, max, initial;
} Key;

#define BUDGET(field, max, initial) \
        { "Timeouts", #field, VALUE_DURATION, offsetof(Settings, budgets.field), USEC_PER_MSEC, max, initial }

static const Key keys[] = {
        BUDGET(identify, SECONDS(3600), BUDGET_IDENTIFY_USEC),
        BUDGET(prepare_backup, DAYS(7), BUDGET_PREPARE_BACKUP_USEC),
        BUDGET(prepare_snapshot, SECONDS(3600), BUDGET_PREPARE_SNAPSHOT_USEC),
        BUDGET(pre_flush, SECONDS(3600), BUDGET_PRE_FLUSH_USEC),
        BUDGET(freeze, SECONDS(3600), BUDGET_FREEZE_USEC),
        BUDGET(hold, SECONDS(60), BUDGET_HOLD_USEC),
        BUDGET(provider, SECONDS(3600), BUDGET_PROVIDER_USEC),
        BUDGET(provider_step, SECONDS(60), BUDGET_PROVIDER_STEP_USEC),
        BUDGET(thaw, SECONDS(3600), BUDGET_THAW_USEC),
        BUDGET(post_snapshot, DAYS(1), BUDGET_POST_SNAPSHOT_USEC),
        BUDGET(backup_complete, DAYS(1), BUDGET_BACKUP_COMPLETE_USEC),
        BUDGET(abort, SECONDS(3600), BUDGET_ABORT_USEC),
        BUDGET(restore, DAYS(7), BUDGET_RESTORE_USEC),
        { "Daemon", "idle", VALUE_DURATION_OR_INFINITY, offsetof(Settings, idle_usec), 0, DAYS(365), BUDGET_IDLE_USEC },
        { "Daemon", "session_max", VALUE_DURATION_OR_INFINITY, offsetof(Settings, session_max_usec), SECONDS(1),
          DAYS(3650), BUDGET_SESSION_USEC },
        /* 0 stands for "as freeze=" until the files are read */
        { "Limits", "window_max", VALUE_DURATION, offsetof(Settings, window_max_usec), USEC_PER_MSEC, SECONDS(3600),
          0 },
        { "Limits", "writers_max", VALUE_COUNT, offsetof(Settings, writers_max), 1, LIMIT_WRITERS, LIMIT_WRITERS },
        { "Limits", "sets_max", VALUE_COUNT, offsetof(Settings, sets_max), 1, LIMIT_SETS, LIMIT_SETS },
        { "Limits", "on_stuck_freeze", VALUE_STUCK, offsetof(Settings, stuck_freeze), STUCK_NAME, STUCK_KILL,
          STUCK_NAME },
        { "Copies", "expedite_rcu", VALUE_SWITCH, offsetof(Settings, expedite), 0, 1, 1 },
        { "Copies", "skip_free", VALUE_SWITCH, offsetof(Settings, skip_free), 0, 1, 1 },
        { "Copies", "lvm_snapshot_size", VALUE_COUNT, offsetof(Settings, lvm_snapshot_percent), 1, 100, 20 },
        { "Copies", "lvm_hold", VALUE_SWITCH_OR_AUTO, offsetof(Settings, lvm_hold), 0, SETTING_AUTO, SETTING_AUTO },
};

static const struct {
        const char *variable, *initial;
        size_t offset;
} directories[] = {
        { "STATE_DIRECTORY", "/var/lib/vss", offsetof(Settings, state_directory) },
        { "RUNTIME_DIRECTORY", "/run/vss", offsetof(Settings, runtime_directory) },
        { "CONFIGURATION_DIRECTORY", "/etc/vss", offsetof(Settings, configuration_directory) },
        { "LOGS_DIRECTORY", "/var/log/vss", offsetof(Settings, logs_directory) },
};

static char **directory_of(Settings *s, size_t i) {
        return (char **) ((char *) s + directories[i].offset);
}

static void key_store(const Key *k, Settings *s, uint64_t value) {
        void *field = (char *) s + k->offset;

        if (k->kind >= VALUE_COUNT)
                *(unsigned *) field = (unsigned) value;
        else
                *(uint64_t *) field = value;
}

static void settings_reset_keys(Settings *s) {
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                key_store(&keys[i], s, keys[i].initial);
}

/* What no file set follows from what files set. */
static void settings_derive(Settings *s) {
        if (s->window_max_usec == 0)
                s->window_max_usec = s->budgets.freeze;
}

int settings_init(Settings *s) {
        Settings fresh = {};

        for (size_t i = 0; i < ELEMENTSOF(directories); i++) {
                const char *value = secure_getenv(directories[i].variable);
                if (isempty(value))
                        value = directories[i].initial;
                if (value[0] != '/' || strlen(value) >= LIMIT_PATH_BYTES / 2) {
                        settings_done(&fresh);
                        return -EINVAL;
                }
                *directory_of(&fresh, i) = strdup(value);
                if (!*directory_of(&fresh, i)) {
                        settings_done(&fresh);
                        return -ENOMEM;
                }
        }
        settings_reset_keys(&fresh);
        settings_derive(&fresh);
        *s = fresh;
        return 0;
}

void settings_done(Settings *s) {
        for (size_t i = 0; i < ELEMENTSOF(directories); i++) {
                free(*directory_of(s, i));
                *directory_of(s, i) = NULL;
        }
}

uint64_t *budgets_find(Budgets *b, const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (streq(keys[i].section, "Timeouts") && streq(keys[i].name, name))
                        return (uint64_t *) ((char *) b + keys[i].offset - offsetof(Settings, budgets));
        return NULL;
}

const char *budget_name(size_t index, uint64_t *ret_min, uint64_t *ret_max) {
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (streq(keys[i].section, "Timeouts") &&
                    keys[i].offset == offsetof(Settings, budgets) + index * sizeof(uint64_t)) {
                        *ret_min = keys[i].min;
                        *ret_max = keys[i].max;
                        return keys[i].name;
                }
        return NULL;
}

/* Digits, and at most six more after a point when decimals are allowed: the result counts millionths then. */
static int parse_number(const char *s, bool decimals, uint64_t *ret) {
        uint64_t value = 0;
        int places = -1;

        if (!isdigit((unsigned char) s[0]))
                return -EINVAL;
        for (; *s; s++) {
                if (*s == '.' && decimals && places < 0) {
                        places = 0;
                        if (!isdigit((unsigned char) s[1]))
                                return -EINVAL;
                        continue;
                }
                if (!isdigit((unsigned char) *s) || places == 6)
                        return -EINVAL;
                if (__builtin_mul_overflow(value, 10, &value) ||
                    __builtin_add_overflow(value, (unsigned) (*s - '0'), &value))
                        return -ERANGE;
                if (places >= 0)
                        places++;
        }
        for (int i = places < 0 ? 0 : places; decimals && i < 6; i++)
                if (__builtin_mul_overflow(value, 10, &value))
                        return -ERANGE;
        *ret = value;
        return 0;
}

typedef struct Reader {
        const char *file;
        unsigned line;
        char section[64]; /* "": before the first or inside an unknown one */
        Settings *settings;
        Failure *reterr;
} Reader;

static _printf_(2, 3) int reader_refuse(Reader *r, const char *format, ...) {
        char text[LIMIT_MESSAGE_BYTES / 2];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        return failure_set(r->reterr, CONDITION_INVALID_ARGUMENT, "%.200s:%u: %s", r->file, r->line, text);
}

static void reader_warn(const Reader *r, const char *what, const char *name) {
        (void) fprintf(stderr, "%s:%u: unknown %s \"%s\" ignored; see vssd.conf(5)\n", r->file, r->line, what, name);
}

static bool name_is_plain(const char *s) {
        if (isempty(s))
                return false;
        for (; *s; s++)
                if (!isalnum((unsigned char) *s) && *s != '_' && *s != '-')
                        return false;
        return true;
}

static const Key *key_find(const char *section, const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (streq(keys[i].section, section) && streq(keys[i].name, name))
                        return &keys[i];
        return NULL;
}

static bool section_is_known(const char *section) {
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (streq(keys[i].section, section))
                        return true;
        return false;
}

static int reader_switch(Reader *r, const Key *k, const char *text) {
        bool automatic = k->kind == VALUE_SWITCH_OR_AUTO && streq(text, "auto");

        if (!automatic && !streq(text, "yes") && !streq(text, "no"))
                return reader_refuse(r, "%s=%.64s is neither yes nor no%s", k->name, text,
                                     k->kind == VALUE_SWITCH_OR_AUTO ? " nor auto" : "");
        key_store(k, r->settings, automatic ? SETTING_AUTO : streq(text, "yes"));
        return 0;
}

static int reader_stuck(Reader *r, const Key *k, const char *text) {
        if (!streq(text, "name") && !streq(text, "kill"))
                return reader_refuse(r, "%s=%.64s is neither name nor kill", k->name, text);
        key_store(k, r->settings, streq(text, "kill") ? STUCK_KILL : STUCK_NAME);
        return 0;
}

static int reader_value(Reader *r, const Key *k, const char *text) {
        bool duration = k->kind != VALUE_COUNT;
        uint64_t value, unit = duration ? USEC_PER_SEC : 1;
        int error;

        if (k->kind == VALUE_SWITCH || k->kind == VALUE_SWITCH_OR_AUTO)
                return reader_switch(r, k, text);
        if (k->kind == VALUE_STUCK)
                return reader_stuck(r, k, text);
        if (k->kind == VALUE_DURATION_OR_INFINITY && streq(text, "infinity")) {
                key_store(k, r->settings, USEC_INFINITY);
                return 0;
        }
        error = parse_number(text, duration, &value);
        if (error == -EINVAL)
                return reader_refuse(r, "%s=%.64s is not a number%s; write it like %s", k->name, text,
                                     duration ? " of seconds" : "", duration ? "10 or 2.5" : "100");
        if (error < 0 || value < k->min || value > k->max)
                return reader_refuse(r, "%s=%.64s is out of range; it may be from %g to %g%s", k->name, text,
                                     (double) k->min / (double) unit, (double) k->max / (double) unit,
                                     duration ? " seconds" : "");
        key_store(k, r->settings, value);
        return 0;
}

static char *strip(char *s) {
        size_t n;

        s += strspn(s, " \t\r");
        for (n = strlen(s); n > 0 && strchr(" \t\r", s[n - 1]); n--)
                ;
        s[n] = '\0';
        return s;
}

static int reader_section(Reader *r, char *line) {
        size_t n = strlen(line);

        if (line[n - 1] != ']')
                return reader_refuse(r, "a section must end with \"]\"");
        line[n - 1] = '\0';
        line++;
        if (!name_is_plain(line) || strlen(line) >= sizeof(r->section))
                return reader_refuse(r, "a section is named with letters, digits, \"-\" and \"_\"");
        r->section[0] = '\0';
        if (section_is_known(line))
                strcpy(r->section, line);
        else
                reader_warn(r, "section", line);
        return 1;
}

/* in_section: whether any section line came before. */
static int reader_line(Reader *r, char *line, bool *in_section) {
        char *value;
        const Key *k;
        int error;

        if (!line[0] || line[0] == '#' || line[0] == ';')
                return 0;
        if (line[0] == '[') {
                error = reader_section(r, line);
                if (error > 0)
                        *in_section = true;
                return MIN_OF(error, 0);
        }
        value = strchr(line, '=');
        if (!value)
                return reader_refuse(r, "expected KEY=VALUE, [SECTION] or a comment that begins with \"#\"");
        *value++ = '\0';
        line = strip(line);
        value = strip(value);
        if (!name_is_plain(line))
                return reader_refuse(r, "a key is named with letters, digits, \"-\" and \"_\"");
        if (!*in_section)
                return reader_refuse(r, "%.64s= stands before the first [SECTION]", line);
        if (!r->section[0])
                return 0; /* the section itself was warned about */
        k = key_find(r->section, line);
        if (!k) {
                reader_warn(r, "key", line);
                return 0;
        }
        return reader_value(r, k, value);
}

static int reader_text(Reader *r, char *text, size_t size) {
        bool in_section = false;

        if (memchr(text, '\0', size))
                return reader_refuse(r, "is not a text file: it contains a NUL byte");
        for (char *line = text, *next; line; line = next) {
                int error;

                r->line++;
                next = strchr(line, '\n');
                if (next)
                        *next++ = '\0';
                if (strlen(line) > LINE_BYTES_MAX)
                        return reader_refuse(r, "line is longer than %d bytes", LINE_BYTES_MAX);
                error = reader_line(r, strip(line), &in_section);
                if (error < 0)
                        return error;
        }
        return 0;
}

static int refuse_file(Failure *reterr, const char *file, const char *why) {
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "Cannot use configuration file %.300s: %s", file, why);
}

/* Who can write the file decides how long the machine may stand still: root or ourselves, nobody else. */
static int check_file(int fd, const char *file, Failure *reterr) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return refuse_file(reterr, file, strerror(errno));
        if (!S_ISREG(st.st_mode))
                return refuse_file(reterr, file, "not a regular file");
        if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 022) != 0)
                return refuse_file(reterr, file, "others may write to it; make it owned by root with mode 0644");
        if (st.st_size > FILE_BYTES_MAX)
                return refuse_file(reterr, file, "larger than 64 KiB");
        return 0;
}

/* A file that is not there is no failure when it need not be. */
static int load_file(int dir_fd, const char *name, const char *directory, bool optional, Settings *s, Failure *reterr) {
        char path[LIMIT_PATH_BYTES];
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        size_t size = 0;
        ssize_t n;
        int r;

        (void) snprintf(path, sizeof(path), "%s/%s", directory, name);
        fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd < 0)
                return errno == ENOENT && optional ? 0 : refuse_file(reterr, path, strerror(errno));
        r = check_file(fd, path, reterr);
        if (r < 0)
                return r;
        text = malloc(FILE_BYTES_MAX + 1);
        if (!text)
                return failure_set(reterr, CONDITION_FAILED, "Out of memory");
        while (size < FILE_BYTES_MAX && (n = read(fd, text + size, FILE_BYTES_MAX - size)) != 0) {
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return refuse_file(reterr, path, strerror(errno));
                size += (size_t) n;
        }
        text[size] = '\0';
        return reader_text(&(Reader) { .file = path, .settings = s, .reterr = reterr }, text, size);
}

static int is_drop_in(const struct dirent *d) {
        size_t n = strlen(d->d_name);

        return d->d_name[0] != '.' && n > strlen(".conf") && streq(d->d_name + n - strlen(".conf"), ".conf");
}

static int by_name(const struct dirent **a, const struct dirent **b) {
        return strcmp((*a)->d_name, (*b)->d_name);
}

static int load_drop_ins(int conf_fd, const char *directory, Settings *s, Failure *reterr) {
        char path[LIMIT_PATH_BYTES];
        _cleanup_close_ int fd = -EBADF;
        struct dirent **names;
        int n, r = 0;

        (void) snprintf(path, sizeof(path), "%s/vssd.conf.d", directory);
        fd = openat(conf_fd, "vssd.conf.d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 0 : refuse_file(reterr, path, strerror(errno));
        n = scandirat(fd, ".", &names, is_drop_in, by_name);
        if (n < 0)
                return refuse_file(reterr, path, strerror(errno));
        if (n > DROP_INS_MAX)
                r = refuse_file(reterr, path, "more than 64 files");
        for (int i = 0; i < n; i++) {
                if (r >= 0)
                        r = load_file(fd, names[i]->d_name, path, false, s, reterr);
                free(names[i]);
        }
        free(names);
        return r;
}

int settings_load(Settings *s, Failure *reterr) {
        Settings fresh = *s; /* directories are shared until the end: nothing below frees or replaces them */
        _cleanup_close_ int fd = -EBADF;
        int r;

        settings_reset_keys(&fresh);
        fd = open(s->configuration_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT)
                return refuse_file(reterr, s->configuration_directory, strerror(errno));
        if (fd >= 0) {
                r = load_file(fd, "vssd.conf", s->configuration_directory, true, &fresh, reterr);
                if (r >= 0)
                        r = load_drop_ins(fd, s->configuration_directory, &fresh, reterr);
                if (r < 0)
                        return r;
        }
        settings_derive(&fresh);
        if (fresh.budgets.hold > fresh.budgets.freeze)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "hold=%g in %.300s is longer than freeze=%g, which it lies inside; raise freeze=",
                                   (double) fresh.budgets.hold / (double) USEC_PER_SEC, s->configuration_directory,
                                   (double) fresh.budgets.freeze / (double) USEC_PER_SEC);
        *s = fresh;
        return 0;
}

int settings_export(const Settings *s) {
        static const char *const words[] = { "no", "yes", "auto" };
        char percent[16];

        assert(s->lvm_hold < ELEMENTSOF(words));
        (void) snprintf(percent, sizeof(percent), "%u", s->lvm_snapshot_percent);
        if (setenv("VSS_LVM_SNAPSHOT_SIZE", percent, 1) < 0 || setenv("VSS_LVM_HOLD", words[s->lvm_hold], 1) < 0)
                return -errno;
        return 0;
}
