/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/program.h"
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>

enum { CONF_LINES_MAX = 4096, OPTIONS_MAX = 48, FIRST_OPTION = 0x100, PASSWORD_BYTES_MAX = 512 };

static int set_name(void *target, const char *value, Failure *reterr) {
        Program *p = target;

        if (!writer_name_is_valid(value))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "%s is no name: small letters, digits and -, at most 63", value);
        free(p->own_name);
        p->own_name = strdup(value);
        p->name = p->own_name;
        return p->name ? 0 : failure_set(reterr, CONDITION_FAILED, "out of memory");
}

static int set_instance(void *target, const char *value, Failure *reterr) {
        Program *p = target;

        if (!writer_instance_is_valid(value))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "%s is no instance: letters, digits and ._+-, at most 127", value);
        free(p->instance);
        p->instance = strdup(value);
        return p->instance ? 0 : failure_set(reterr, CONDITION_FAILED, "out of memory");
}

static int set_level(void *target, const char *value, Failure *reterr) {
        Program *p = target;
        int level = level_from_string(value);

        if (level < 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is no level: front-end, back-end, system",
                                   value);
        p->level = (Level) level;
        return 0;
}

static const ProgramOption common[] = {
        { "name", "NAME", "name of the writer", set_name },
        { "instance", "INSTANCE", "which of several of that name", set_instance },
        { "level", "LEVEL", "front-end, back-end or system: the order of Freeze", set_level },
};

static void print_help(const Program *p) {
        printf("Usage: %s [OPTION]... %s\n\n%s\n\n", p->command, p->arguments, p->summary);
        for (size_t i = 0; i < ELEMENTSOF(common) + p->n_options; i++) {
                const ProgramOption *o = i < ELEMENTSOF(common) ? &common[i] : &p->options[i - ELEMENTSOF(common)];
                char left[64];
                (void) snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? "=" : "", o->value ? o->value : "");
                printf("  %-32s %s\n", left, o->help);
        }
        printf("  %-32s %s\n  %-32s %s\n", "--help", "this text", "--version", "version of the program");
        printf("\nOptions are also read from writers.d/NAME.conf, one option=value a line%s%s.\n",
               p->argument_key ? ", arguments as " : "", p->argument_key ? p->argument_key : "");
}

/* The long options; those of the program from FIRST_OPTION on, ours behind them. */
static void make_table(const Program *p, struct option table[OPTIONS_MAX]) {
        size_t n = 0;

        assert(p->n_options + ELEMENTSOF(common) + 3 <= OPTIONS_MAX);
        for (size_t i = 0; i < p->n_options; i++, n++)
                table[n] = (struct option) { p->options[i].name, p->options[i].value ? required_argument : no_argument,
                                             NULL, FIRST_OPTION + (int) n };
        for (size_t i = 0; i < ELEMENTSOF(common); i++, n++)
                table[n] = (struct option) { common[i].name, required_argument, NULL, FIRST_OPTION + (int) n };
        table[n++] = (struct option) { "help", no_argument, NULL, 'h' };
        table[n++] = (struct option) { "version", no_argument, NULL, 'v' };
        table[n] = (struct option) {};
}

static int apply(Program *p, const ProgramOption *o, const char *value, Failure *reterr) {
        bool ours = o >= common && o < common + ELEMENTSOF(common);
        return o->set(ours ? p : p->target, value, reterr);
}

static const ProgramOption *option_at(const Program *p, size_t i) {
        return i < p->n_options ? &p->options[i] : &common[i - p->n_options];
}

/* only_name: the first look, for the name of the file. */
static int read_arguments(Program *p, int argc, char *argv[], bool only_name, Failure *reterr) {
        struct option table[OPTIONS_MAX];
        int c, r;

        make_table(p, table);
        optind = 0;
        opterr = 0;
        while ((c = getopt_long(argc, argv, ":", table, NULL)) >= 0) {
                if (c == 'h')
                        return print_help(p), 1;
                if (c == 'v')
                        return printf("%s (vss %s)\n", p->command, VSS_VERSION), 1;
                if (c < FIRST_OPTION)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                           c == ':' ? "%s needs a value" : "%s is no option; see --help",
                                           argv[optind - 1]);
                const ProgramOption *o = option_at(p, (size_t) c - FIRST_OPTION);
                if (only_name && o->set != set_name)
                        continue;
                r = apply(p, o, o->value ? optarg : NULL, reterr);
                if (r < 0)
                        return r;
        }
        for (int i = optind; i < argc && !only_name; i++) {
                if (!p->argument)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s: no arguments are taken", argv[i]);
                r = p->argument(p->target, argv[i], reterr);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int conf_line(Program *p, char *line, Failure *reterr) {
        char *value = strchr(line, '='), *key = line;

        if (!value)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "not option=value");
        *value++ = 0;
        key[strcspn(key, " \t")] = 0;
        value += strspn(value, " \t");
        if (streq(key, "User")) /* vssd's: who may register the name */
                return 0;
        if (p->argument_key && streq(key, p->argument_key))
                return p->argument(p->target, value, reterr);
        for (size_t i = 0; i < p->n_options + ELEMENTSOF(common); i++) {
                const ProgramOption *o = option_at(p, i);
                if (!streq(o->name, key) || o->set == set_name)
                        continue;
                if (o->value)
                        return apply(p, o, value, reterr);
                if (streq(value, "no") || streq(value, "yes"))
                        return streq(value, "yes") ? apply(p, o, NULL, reterr) : 0;
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is yes or no", key);
        }
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is no option", key);
}

static int read_conf(Program *p, Failure *reterr) {
        _cleanup_free_ char *path = NULL, *line = NULL;
        const char *directory = getenv("CONFIGURATION_DIRECTORY");
        size_t size = 0;
        unsigned n = 0;
        ssize_t length;
        int r = 0;
        FILE *f;

        if (isempty(directory))
                directory = "/etc/vss";
        if (asprintf(&path, "%.*s/writers.d/%s.conf", (int) strcspn(directory, ":"), directory, p->name) < 0)
                return -ENOMEM;
        f = fopen(path, "re");
        if (!f && errno == ENOENT)
                return 0;
        if (!f)
                return failure_set(reterr, CONDITION_FAILED, "cannot read %s: %s", path, strerror(errno));
        while (r >= 0 && ++n <= CONF_LINES_MAX && (length = getline(&line, &size, f)) >= 0) {
                while (length > 0 && strchr(" \t\r\n", line[length - 1]))
                        line[--length] = 0;
                char *start = line + strspn(line, " \t");
                Failure why = {};
                if (!start[0] || strchr("#;[", start[0]))
                        continue;
                r = conf_line(p, start, &why);
                if (r < 0)
                        failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s:%u: %s", path, n, why.message);
        }
        (void) fclose(f);
        return r;
}

int program_parse(Program *p, int argc, char *argv[]) {
        Failure failure = {};
        int r = read_arguments(p, argc, argv, true, &failure);

        if (r == 0)
                r = read_conf(p, &failure);
        if (r == 0)
                r = read_arguments(p, argc, argv, false, &failure);
        if (r < 0)
                p->status = program_fail(p, &failure);
        return r;
}

void program_done(Program *p) {
        free(p->own_name);
        free(p->instance);
        p->own_name = p->instance = NULL;
}

int program_fail(const Program *p, const Failure *f) {
        fprintf(stderr, "%s: %s\n", p->command, f->message);
        return f->condition == CONDITION_NONE ? EXIT_FAILURE : condition_exit_code(f->condition);
}

static void on_registered(Writer *w, int error, const char *message, void *userdata) {
        Program *p = userdata;

        if (error == 0) {
                printf("ready %s\n", p->name);
                (void) fflush(stdout);
        } else if (error == -ENOTCONN)
                fprintf(stderr, "%s: vssd does not run (%s): waiting for it\n", p->command, message);
        else
                fprintf(stderr, "%s: vssd refuses the writer %s: %s\n", p->command, p->name, message);
}

int program_run(Program *p, const struct vss_writer_callbacks *callbacks, void *userdata) {
        struct vss_writer_callbacks c = *callbacks;
        struct vss_writer *w = NULL;
        int r;

        c.name = p->name;
        c.instance = p->instance;
        c.level = p->level;
        r = vss_writer_new(&c, userdata, &w);
        if (r >= 0) {
                writer_set_hooks(w, on_registered, NULL, NULL, p);
                r = vss_writer_run(w);
        }
        vss_writer_free(w);
        if (r < 0 && r != -EACCES && r != -EEXIST)
                fprintf(stderr, "%s: cannot serve on the system bus: %s\n", p->command, strerror(-r));
        return r == -EACCES                                         ? condition_exit_code(CONDITION_NOT_AUTHORIZED) :
               r == -ENOTCONN || r == -ENOENT || r == -ECONNREFUSED ? condition_exit_code(CONDITION_UNAVAILABLE) :
               r < 0                                                ? EXIT_FAILURE :
                                                                      EXIT_SUCCESS;
}

uint64_t program_until(const struct vss_event *e) {
        uint64_t end = vss_event_deadline_usec(e);
        if (end == UINT64_MAX)
                return usec_add(now_usec(), 60 * USEC_PER_SEC);
        return end > PROGRAM_MARGIN_USEC ? end - PROGRAM_MARGIN_USEC : 0;
}

int path_absolute(const char *path, char **ret, Failure *reterr) {
        char *real = realpath(path, NULL);

        if (!real)
                return failure_set(reterr, errno == ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED, "%s: %s", path,
                                   strerror(errno));
        *ret = real;
        return 0;
}

int password_read(const char *path, char **ret, Failure *reterr) {
        char text[PASSWORD_BYTES_MAX + 1] = "";
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;
        ssize_t n = fd < 0 || fstat(fd, &st) < 0 ? -1 : read(fd, text, PASSWORD_BYTES_MAX);

        if (n < 0)
                return failure_set(reterr, errno == ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED, "%s: %s", path,
                                   strerror(errno));
        if (S_ISREG(st.st_mode) && (st.st_mode & 077))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s can be read by others: chmod 600 it", path);
        text[strcspn(text, "\r\n")] = '\0';
        if (!text[0])
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s has no password in its first line", path);
        free(*ret);
        *ret = strdup(text);
        explicit_bzero(text, sizeof(text));
        return *ret ? 0 : failure_set(reterr, CONDITION_FAILED, "out of memory");
}

int parse_seconds(const char *text, uint64_t *ret_usec, Failure *reterr) {
        char *end;
        double seconds = strtod(text, &end);

        if (end == text || *end || !isfinite(seconds) || seconds < 0 || seconds > 86400)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is no number of seconds from 0 to 86400",
                                   text);
        *ret_usec = (uint64_t) (seconds * (double) USEC_PER_SEC);
        return 0;
}
