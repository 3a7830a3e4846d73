/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include "protocol/busutil.h"
#include "protocol/text.h"

#define WRITER_PATH_TEMPLATE VSS_PATH_WRITERS "/%/%"

int bus_path_encode(const char *class_path, const char *id, char **ret) {
        assert(class_path && id && ret);
        return sd_bus_path_encode(class_path, id, ret) < 0 ? -ENOMEM : 0;
}

/* sd-bus decodes several spellings to one id and a bare prefix to ""; an object answers at one path only. */
int bus_path_decode(const char *class_path, const char *path, char **ret_id) {
        _cleanup_free_ char *id = NULL, *canonical = NULL;
        assert(class_path && path && ret_id);
        int r = sd_bus_path_decode(path, class_path, &id);
        if (r <= 0)
                return r == -ENOMEM ? r : 0;
        r = bus_path_encode(class_path, id, &canonical);
        if (r < 0)
                return r;
        if (!streq(canonical, path))
                return 0;
        *ret_id = TAKE_PTR(id);
        return 1;
}

int bus_path_encode_writer(const char *name, const char *instance, char **ret) {
        assert(name && instance && ret);
        return sd_bus_path_encode_many(ret, WRITER_PATH_TEMPLATE, name, instance) < 0 ? -ENOMEM : 0;
}

int bus_path_decode_writer(const char *path, char **ret_name, char **ret_instance) {
        _cleanup_free_ char *name = NULL, *instance = NULL, *canonical = NULL;
        assert(path && ret_name && ret_instance);
        int r = sd_bus_path_decode_many(path, WRITER_PATH_TEMPLATE, &name, &instance);
        if (r <= 0)
                return r == -ENOMEM ? r : 0;
        r = bus_path_encode_writer(name, instance, &canonical);
        if (r < 0)
                return r;
        if (!streq(canonical, path))
                return 0;
        *ret_name = TAKE_PTR(name);
        *ret_instance = TAKE_PTR(instance);
        return 1;
}

int bus_error_set(sd_bus_error *error, const Failure *f) {
        assert(f && f->condition != CONDITION_NONE);
        if (error)
                (void) sd_bus_error_set(error, condition_name(f->condition), f->message);
        return -condition_errno(f->condition);
}

int bus_error_setf(sd_bus_error *error, Condition c, const char *format, ...) {
        char message[LIMIT_MESSAGE_BYTES];
        Failure f;
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(message, sizeof message, format, ap);
        va_end(ap);
        (void) failure_set(&f, c, "%s", message);
        return bus_error_set(error, &f);
}

int bus_reply_failure(sd_bus_message *call, const Failure *f) {
        assert(call && f && f->condition != CONDITION_NONE);
        int r = sd_bus_reply_method_errorf(call, condition_name(f->condition), "%s", f->message);
        return r < 0 ? r : 1;
}

int bus_failure_from_error(const sd_bus_error *error, Failure *ret) {
        if (!sd_bus_error_is_set(error)) {
                if (ret)
                        *ret = (Failure) { 0 };
                return 0;
        }
        return failure_set(ret, condition_from_name(error->name), "%s",
                           isempty(error->message) ? error->name : error->message);
}

/* Errors that sd-bus makes up itself: the connection, a socket that is not there, our own timeout, the bus's bounds. */
static Condition condition_from_connection(int r) {
        switch (-r) {
        case ENOTCONN:
        case ECONNRESET:
        case ECONNREFUSED:
        case ECONNABORTED:
        case ESHUTDOWN:
        case EPIPE:
        case ETIMEDOUT:
        case EHOSTUNREACH:
        case ENOENT:
                return CONDITION_UNAVAILABLE;
        case ENOMEM:
        case ENOBUFS:
        case EMFILE:
        case ENFILE:
                return CONDITION_LIMIT_REACHED;
        case EACCES:
        case EPERM:
                return CONDITION_NOT_AUTHORIZED;
        default:
                return CONDITION_FAILED;
        }
}

int bus_failure_from_call(int r, const sd_bus_error *error, const char *what, Failure *ret) {
        assert(what);
        bool local = !sd_bus_error_is_set(error) || strncmp(error->name, "System.Error.", 13) == 0;
        if (!local)
                return bus_failure_from_error(error, ret);
        if (r >= 0)
                return bus_failure_from_error(NULL, ret);
        return failure_set(ret, condition_from_connection(r), "%s: %s", what, strerror(-r));
}

static int malformed(int r, const char *what, Failure *reterr) {
        if (r == -ENOMEM)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "%s: out of memory", what);
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s: malformed message", what);
}

static int read_string(sd_bus_message *m, char type, size_t max, char **ret, Failure *reterr) {
        const char *s;
        int r = sd_bus_message_read_basic(m, type, &s);
        if (r <= 0)
                return malformed(r, "string", reterr);
        if (strnlen(s, max + 1) > max)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "a string is longer than %zu bytes", max);
        if (!text_is_valid(s, max))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "a string holds control characters");
        char *copy = strdup(s);
        if (!copy)
                return malformed(-ENOMEM, "string", reterr);
        free(*ret);
        *ret = copy;
        return 0;
}

static int read_strings(sd_bus_message *m, char ***ret, Failure *reterr) {
        _cleanup_(strings_freep) char **list = calloc(1, sizeof *list);
        int r = list ? sd_bus_message_enter_container(m, 'a', "s") : -ENOMEM;
        if (r < 0)
                return malformed(r, "list", reterr);
        for (size_t n = 0, size = 0; (r = sd_bus_message_at_end(m, false)) == 0; n++) {
                _cleanup_free_ char *s = NULL;
                if (n == LIMIT_LIST)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "a list is longer than %d", LIMIT_LIST);
                r = read_string(m, 's', LIMIT_STRING_BYTES, &s, reterr);
                if (r < 0)
                        return r;
                size += strlen(s);
                if (size > LIMIT_OPTIONS_BYTES)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "a list is larger than %d bytes",
                                           LIMIT_OPTIONS_BYTES);
                r = strings_append(&list, s);
                if (r < 0)
                        return malformed(r, "list", reterr);
        }
        r = r < 0 ? r : sd_bus_message_exit_container(m);
        if (r < 0)
                return malformed(r, "list", reterr);
        strings_free(*ret);
        *ret = TAKE_PTR(list);
        return 0;
}

static bool has_key(char *const *pairs, const char *key) {
        size_t n = strlen(key);
        for (; *pairs; pairs++)
                if (strncmp(*pairs, key, n) == 0 && (*pairs)[n] == '=')
                        return true;
        return false;
}

static int read_pair(sd_bus_message *m, char ***list, Failure *reterr) {
        _cleanup_free_ char *key = NULL, *value = NULL, *pair = NULL;
        int r = read_string(m, 's', LIMIT_STRING_BYTES, &key, reterr);
        if (r >= 0)
                r = read_string(m, 's', LIMIT_STRING_BYTES, &value, reterr);
        if (r < 0)
                return r;
        if (!key[0] || strchr(key, '='))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "a key is empty or holds \"=\": %s", key);
        if (has_key(*list, key))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is given twice", key);
        r = asprintf(&pair, "%s=%s", key, value) < 0 ? -ENOMEM : strings_append(list, pair);
        return r < 0 ? malformed(r, "dictionary", reterr) : 0;
}

static int read_pairs(sd_bus_message *m, char ***ret, Failure *reterr) {
        _cleanup_(strings_freep) char **list = calloc(1, sizeof *list);
        int r = list ? sd_bus_message_enter_container(m, 'a', "{ss}") : -ENOMEM;
        if (r < 0)
                return malformed(r, "dictionary", reterr);
        for (size_t n = 0; (r = sd_bus_message_enter_container(m, 'e', "ss")) > 0; n++) {
                if (n == LIMIT_LABELS)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "more than %d entries", LIMIT_LABELS);
                r = read_pair(m, &list, reterr);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        break;
        }
        r = r < 0 ? r : sd_bus_message_exit_container(m);
        if (r < 0)
                return malformed(r, "dictionary", reterr);
        strings_free(*ret);
        *ret = TAKE_PTR(list);
        return 0;
}

int bus_read_field(sd_bus_message *m, const char *type, void *field, Failure *reterr) {
        assert(m && type && field);
        if (streq(type, "as"))
                return read_strings(m, field, reterr);
        if (streq(type, "a{ss}"))
                return read_pairs(m, field, reterr);
        assert(type[0] && !type[1]);
        if (type[0] == 's' || type[0] == 'o')
                return read_string(m, type[0], LIMIT_STRING_BYTES, field, reterr);
        union {
                int b;
                uint32_t u;
                uint64_t t;
                double d;
        } value;
        int r = sd_bus_message_read_basic(m, type[0], &value);
        if (r <= 0)
                return malformed(r, "value", reterr);
        switch (type[0]) {
        case 'b':
                *(bool *) field = value.b;
                break;
        case 'u':
                *(uint32_t *) field = value.u;
                break;
        case 't':
                *(uint64_t *) field = value.t;
                break;
        case 'd':
                *(double *) field = value.d;
                break;
        default:
                assert(!"a type that bus_read_field() does not know");
        }
        return 0;
}

static const BusOption *option_find(const BusOption *options, size_t n, const char *key) {
        for (size_t i = 0; i < n; i++)
                if (streq(options[i].key, key))
                        return options + i;
        return NULL;
}

/* m stands inside the entry, behind the key. */
static int option_read(sd_bus_message *m, const BusOption *option, void *target, Failure *reterr) {
        Failure why = { 0 };
        const char *contents;
        char type;
        int r = sd_bus_message_peek_type(m, &type, &contents);
        if (r <= 0 || type != 'v')
                return malformed(r, option->key, reterr);
        if (!streq_null(contents, option->type))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option %s: its type is %s, not %s", option->key,
                                   option->type, contents);
        r = sd_bus_message_enter_container(m, 'v', option->type);
        if (r < 0)
                return malformed(r, option->key, reterr);
        void *field = (char *) target + option->offset;
        r = option->read ? option->read(m, field, &why) : bus_read_field(m, option->type, field, &why);
        if (r < 0 && !why.condition)
                return malformed(r, option->key, reterr);
        if (r < 0)
                return failure_set(reterr, why.condition, "option %s: %s", option->key, why.message);
        r = sd_bus_message_exit_container(m);
        return r < 0 ? malformed(r, option->key, reterr) : 0;
}

int bus_read_options(sd_bus_message *m, const BusOption *options, size_t n_options, void *target, uint64_t *ret_seen,
                     Failure *reterr) {
        uint64_t seen = 0;
        assert(m && n_options <= 64 && (target || n_options == 0));
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return malformed(r, "options", reterr);
        while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                const char *key;
                r = sd_bus_message_read_basic(m, 's', &key);
                if (r <= 0)
                        return malformed(r, "options", reterr);
                const BusOption *option = option_find(options, n_options, key);
                if (!option)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option %s is not known here", key);
                uint64_t bit = 1ULL << (option - options);
                if (seen & bit)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option %s is given twice", key);
                seen |= bit;
                r = option_read(m, option, target, reterr);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        break;
        }
        r = r < 0 ? r : sd_bus_message_exit_container(m);
        if (r < 0)
                return malformed(r, "options", reterr);
        if (ret_seen)
                *ret_seen = seen;
        return 0;
}

int bus_take_fd(sd_bus_message *m, mode_t format, int *ret_fd, Failure *reterr) {
        int borrowed;
        assert(m && ret_fd);
        int r = sd_bus_message_read_basic(m, 'h', &borrowed);
        if (r <= 0)
                return malformed(r, "descriptor", reterr);
        _cleanup_close_ int fd = fcntl(borrowed, F_DUPFD_CLOEXEC, 3);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0)
                return failure_set(reterr, errno == EMFILE ? CONDITION_LIMIT_REACHED : CONDITION_INVALID_ARGUMENT,
                                   "cannot take the descriptor: %s", strerror(errno));
        if (format && (st.st_mode & S_IFMT) != format)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "the descriptor is of the wrong kind");
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int bus_document_new(const char *name, const char *text, size_t size, int *ret_fd) {
        assert(name && text && ret_fd);
        _cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;
        for (size_t done = 0; done < size;) {
                ssize_t n = pwrite(fd, text + done, size - done, (off_t) done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (size_t) n;
        }
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int bus_document_read(int fd, size_t max, char **ret, size_t *ret_size, Failure *reterr) {
        const int needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
        struct stat st;
        assert(fd >= 0 && ret && ret_size);
        int seals = fcntl(fd, F_GET_SEALS);
        if (seals < 0 || (seals & needed) != needed || fstat(fd, &st) < 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "the document is not in a memfd sealed against shrinking, growing and writing");
        if ((uint64_t) st.st_size > max)
                return failure_set(reterr, CONDITION_INVALID_DOCUMENT, "the document is larger than %zu bytes", max);
        size_t size = (size_t) st.st_size;
        _cleanup_free_ char *text = malloc(size + 1);
        if (!text)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "no memory for a document of %zu bytes", size);
        for (size_t done = 0; done < size;) {
                ssize_t n = pread(fd, text + done, size - done, (off_t) done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return failure_set(reterr, CONDITION_FAILED, "cannot read the document: %s",
                                           n < 0 ? strerror(errno) : "it ends early");
                done += (size_t) n;
        }
        text[size] = '\0';
        *ret = TAKE_PTR(text);
        *ret_size = size;
        return 0;
}
