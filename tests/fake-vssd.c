/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stands in for vssd in the tests of the writer library: owns the name, takes registrations and calls writers as it is
 * told on stdin, one command a line. It says on stdout what happened. Unlike vssd it checks nothing and will do
 * anything.
 *
 *      call NAME EVENT SET DEADLINE-MSEC [THAW-BY-MSEC]    answer: reply NAME EVENT ok USEC | reply NAME EVENT ERROR
 * USEC MESSAGE volume PATH DIRECTORY     PATH is in the set, its copy is DIRECTORY component PATH yes|no     a
 * component asked for and whether it succeeded drop NAME                 forgets a writer: its lease ends refuse ERROR
 * refuses further registrations; "refuse -" takes them again release, own              gives the name away, takes it
 * again quit
 */
#include "protocol/base.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include "protocol/vocabulary.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

enum { WRITERS_MAX = 2000, WORDS_MAX = 8 };

typedef struct FakeWriter {
        char *name, *sender, *object, *entry;
        int lease;
} FakeWriter;

static FakeWriter writers[WRITERS_MAX];
static size_t n_writers;
static sd_bus *bus;
static char *refuse, *volume, *directory, *component;
static bool succeeded;

static void say(const char *format, ...) _printf_(1, 2);
static void say(const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vprintf(format, ap);
        va_end(ap);
        putchar('\n');
        (void) fflush(stdout);
}

static FakeWriter *find(const char *name) {
        for (size_t i = n_writers; i-- > 0;) /* the newest of that name */
                if (streq(writers[i].name, name))
                        return &writers[i];
        return NULL;
}

static int on_register(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const char *name, *instance, *object;
        FakeWriter *w = &writers[n_writers];
        int lease[2], r = sd_bus_message_read(m, "sso", &name, &instance, &object);

        if (r < 0)
                return r;
        if (refuse)
                return sd_bus_error_set(reterr, refuse, "told to refuse");
        if (n_writers >= WRITERS_MAX || pipe2(lease, O_CLOEXEC) < 0)
                return -ENOSPC;
        *w = (FakeWriter) { strdup(name), strdup(sd_bus_message_get_sender(m)), strdup(object), NULL, lease[1] };
        if (!w->name || !w->sender || !w->object || asprintf(&w->entry, VSS_PATH_WRITERS "/_%zu", n_writers) < 0)
                return -ENOMEM;
        n_writers++;
        r = sd_bus_reply_method_return(m, "oh", w->entry, lease[0]);
        (void) close(lease[0]);
        say("registered %s %s %s", name, isempty(instance) ? "-" : instance, w->sender);
        return r;
}

static int on_unregister(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const char *entry;
        int r = sd_bus_message_read(m, "o", &entry);

        for (size_t i = 0; r >= 0 && i < n_writers; i++)
                if (streq(writers[i].entry, entry))
                        say("unregistered %s", writers[i].name);
        return sd_bus_reply_method_return(m, NULL);
}

static int on_open_copy(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        _cleanup_close_ int fd = -EBADF;
        const char *asked;
        int r = sd_bus_message_read(m, "s", &asked);

        if (r < 0)
                return r;
        say("open-copy %s", asked);
        if (!volume || !streq(asked, volume))
                return sd_bus_error_set(reterr, condition_name(CONDITION_NOT_SUPPORTED), "not a volume of the set");
        fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : sd_bus_reply_method_return(m, "h", fd);
}

static int on_progress(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const char *set, *event;
        double fraction;

        if (sd_bus_message_read(m, "ssd", &set, &event, &fraction) > 0)
                say("progress %s %.2f", event, fraction);
        return 0;
}

typedef struct Call {
        LIST_ENTRY(Call) entries;
        char *name, *event;
        uint64_t started_usec;
} Call;
static LIST_HEAD(, Call) calls = LIST_HEAD_INITIALIZER(calls); /* without an answer */

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Call *c = userdata;
        uint64_t usec = now_usec() - c->started_usec;
        const sd_bus_error *error = sd_bus_message_get_error(m);
        const char *text;

        if (error)
                say("reply %s %s %s %" PRIu64 " %s", c->name, c->event, strrchr(error->name, '.') + 1, usec,
                    error->message);
        else {
                say("reply %s %s ok %" PRIu64, c->name, c->event, usec);
                if (streq(c->event, "identify") && sd_bus_message_read(m, "s", &text) > 0)
                        say("document %s %s", c->name, text);
                else if (streq(c->event, "post-snapshot") || streq(c->event, "pre-restore"))
                        sd_bus_message_dump(m, stdout, 0);
                (void) fflush(stdout);
        }
        LIST_REMOVE(c, entries);
        free(c->name);
        free(c->event);
        free(c);
        return 0;
}

static int append_session(sd_bus_message *m, uint64_t budget_usec, uint64_t thaw_by_usec) {
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        r = r < 0 ? r :
                    sd_bus_message_append(m, "{sv}{sv}{sv}", "budget_usec", "t", budget_usec, "one_instant", "b", 1,
                                          "from_the_future", "(ii)", 1, 2);
        if (r >= 0 && thaw_by_usec > 0)
                r = sd_bus_message_append(m, "{sv}", "thaw_by_usec", "t", thaw_by_usec);
        if (r >= 0 && volume)
                r = sd_bus_message_append(m, "{sv}{sv}", "volumes", "as", 1, volume, "copies", "a{ss}", 1, volume,
                                          directory);
        if (r >= 0 && component)
                r = sd_bus_message_append(m, "{sv}", "components", "a(sa{sv})", 1, component, 2, "succeeded", "b",
                                          (int) succeeded, "options", "s", "fast");
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int do_call(const char *name, const char *event, const char *set, uint64_t deadline_usec,
                   uint64_t thaw_by_usec) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        FakeWriter *w = find(name);
        Call *c = calloc(1, sizeof(*c));
        uint64_t now = now_usec();
        int e = writer_event_from_string(event), r;

        if (!w || e < 0 || !c)
                return -ENOENT;
        *c = (Call) { .name = strdup(name), .event = strdup(event), .started_usec = now };
        LIST_INSERT_HEAD(&calls, c, entries);
        r = sd_bus_message_new_method_call(bus, &m, w->sender, w->object, VSS_IFACE_WRITER,
                                           writer_event_member((WriterEvent) e));
        if (r >= 0 && e != EVENT_IDENTIFY)
                r = sd_bus_message_append(m, "s", set);
        r = r < 0 ? r : sd_bus_message_append(m, "t", now + deadline_usec);
        r = r < 0 ? r : append_session(m, deadline_usec, thaw_by_usec > 0 ? now + thaw_by_usec : 0);
        return r < 0 ? r : sd_bus_call_async(bus, NULL, m, on_reply, c, deadline_usec + 3600 * USEC_PER_SEC);
}

static int set_text(char **where, const char *text) {
        free(*where);
        *where = text ? strdup(text) : NULL;
        return 0;
}

static int command(sd_event *event, char *w[WORDS_MAX], size_t n) {
        if (n >= 5 && streq(w[0], "call"))
                return do_call(w[1], w[2], w[3], strtoull(w[4], NULL, 10) * USEC_PER_MSEC,
                               n > 5 ? strtoull(w[5], NULL, 10) * USEC_PER_MSEC : 0);
        if (n == 3 && streq(w[0], "volume"))
                return set_text(&volume, w[1]), set_text(&directory, w[2]);
        if (n == 3 && streq(w[0], "component"))
                return succeeded = streq(w[2], "yes"), set_text(&component, w[1]);
        if (n == 2 && streq(w[0], "refuse"))
                return set_text(&refuse, streq(w[1], "-") ? NULL : w[1]);
        if (n == 1 && streq(w[0], "release"))
                return sd_bus_release_name(bus, VSS_BUS_NAME);
        if (n == 1 && streq(w[0], "own"))
                return sd_bus_request_name(bus, VSS_BUS_NAME, 0);
        if (n == 1 && streq(w[0], "quit"))
                return sd_event_exit(event, 0);
        if (n == 2 && streq(w[0], "drop") && find(w[1])) {
                find(w[1])->lease = close_fd(find(w[1])->lease);
                return 0;
        }
        return -EINVAL;
}

static int on_input(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        static char buffer[8192];
        static size_t size;
        ssize_t n = read(fd, buffer + size, sizeof(buffer) - size - 1);
        char *line = buffer, *end;

        if (n <= 0)
                return sd_event_exit(sd_event_source_get_event(source), 0);
        size += (size_t) n;
        buffer[size] = 0;
        while ((end = strchr(line, '\n'))) {
                char *words[WORDS_MAX] = {}, *state = NULL;
                size_t k = 0;
                *end = 0;
                for (char *word = strtok_r(line, " ", &state); word && k < WORDS_MAX;
                     word = strtok_r(NULL, " ", &state))
                        words[k++] = word;
                int r = k > 0 ? command(sd_event_source_get_event(source), words, k) : 0;
                if (r < 0)
                        say("failed %s %s", words[0], strerror(-r));
                line = end + 1;
        }
        size = strlen(line);
        memmove(buffer, line, size);
        return 0;
}

static int find_set(sd_bus *b, const char *path, const char *interface, void *userdata, void **ret,
                    sd_bus_error *reterr) {
        *ret = NULL;
        return 1;
}

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("RegisterWriter", "ssoa{sv}", "oh", on_register, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("UnregisterWriter", "oa{sv}", "", on_unregister, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

static const sd_bus_vtable set_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("OpenCopy", "sa{sv}", "h", on_open_copy, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

int main(void) {
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        struct rlimit files;
        int r;

        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = files.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE, &files);
        }
        r = sd_event_new(&event);
        r = r < 0 ? r : sd_bus_open_system(&bus);
        r = r < 0 ? r : sd_bus_attach_event(bus, event, 0);
        r = r < 0 ? r : sd_bus_add_object_vtable(bus, NULL, VSS_ROOT_PATH, VSS_IFACE_MANAGER, manager_vtable, NULL);
        r = r < 0 ? r : sd_bus_add_fallback_vtable(bus, NULL, VSS_PATH_SETS, VSS_IFACE_SET, set_vtable, find_set, NULL);
        r = r < 0 ? r :
                    sd_bus_add_match(bus, NULL, "type='signal',interface='" VSS_IFACE_WRITER "'", on_progress, NULL);
        r = r < 0 ? r : sd_event_add_io(event, NULL, STDIN_FILENO, EPOLLIN, on_input, NULL);
        r = r < 0 ? r : sd_bus_request_name(bus, VSS_BUS_NAME, SD_BUS_NAME_QUEUE); /* behind one just killed */
        if (r >= 0)
                say("up %d", (int) getpid());
        r = r < 0 ? r : sd_event_loop(event);
        sd_bus_flush_close_unref(bus);
        if (r < 0)
                fprintf(stderr, "fake-vssd: %s\n", strerror(-r));
        return r < 0;
}
