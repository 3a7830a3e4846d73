/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The syntax of every kind of argument. Each check says what would have been right; what is well-formed but unknown is
 * for vssd.
 */
#include "protocol/prune.h"
#include "client/verbs.h"
#include <ctype.h>
#include <math.h>

const char *check_any(const char *value) {
        return NULL;
}

const char *check_volume(const char *value) {
        return NULL; /* any path may exist */
}

const char *check_id(const char *value) {
        return NULL; /* everything that is no id is an unknown one */
}

/* NAME, NAME@INSTANCE or UID:NAME…, of exactly length bytes. */
static bool reference_is_valid(const char *value, size_t length) {
        char text[256];
        if (length >= sizeof(text))
                return false;
        memcpy(text, value, length);
        text[length] = 0;
        char *name = text + strspn(text, "0123456789");
        if (name != text && *name++ != ':')
                return false;
        char *at = strchr(name, '@');
        if (at)
                *at++ = 0;
        return writer_name_is_valid(name) && (!at || writer_instance_is_valid(at));
}

const char *writer_reference_end(const char *value) {
        const char *start = value + strspn(value, "0123456789");
        const char *colon = strchr(start > value && *start == ':' ? start + 1 : value, ':');
        return colon && reference_is_valid(value, (size_t) (colon - value)) ? colon : NULL;
}

const char *check_writer(const char *value) {
        return reference_is_valid(value, strlen(value)) ? NULL : "takes a writer, NAME or NAME@INSTANCE";
}

const char *check_component(const char *value) {
        const char *colon = writer_reference_end(value);
        return colon && colon[1] ? NULL : "takes WRITER:PATH";
}

const char *check_writer_option(const char *value) {
        const char *colon = writer_reference_end(value), *equals = colon ? strchr(colon, '=') : NULL;
        return equals && equals > colon + 1 ? NULL : "takes WRITER:KEY=VALUE";
}

const char *check_recovery(const char *value) {
        return auto_recovery_from_string(value) >= 0 ? NULL : "takes writers, rollback, force or none";
}

const char *check_label(const char *value) {
        const char *equals = strchr(value, '=');
        if (!equals || equals == value || equals - value > 64)
                return "takes KEY=VALUE";
        for (const char *p = value; p < equals; p++)
                if (!isalnum((unsigned char) *p) && !strchr("._-", *p))
                        return "takes KEY=VALUE, the key of letters, digits, \".\", \"_\" and \"-\"";
        return NULL;
}

const char *check_unit(const char *value) {
        if (strlen(value) > 255 || value[0] == '.')
                return "takes the name of a unit";
        for (const char *p = value; *p; p++)
                if (!isalnum((unsigned char) *p) && !strchr(":-_.\\@", *p))
                        return "takes the name of a unit";
        return NULL;
}

const char *check_provider(const char *value) {
        return provider_name_is_valid(value) ? NULL : "takes the name of a provider";
}

int parse_seconds(const char *value, uint64_t *ret_usec) {
        char *end = NULL;
        if (!isdigit((unsigned char) value[0]) || value[strspn(value, "0123456789.")])
                return -EINVAL;
        double seconds = strtod(value, &end);
        if (*end || !isfinite(seconds) || seconds > 365.0 * 86400)
                return -EINVAL;
        *ret_usec = (uint64_t) llround(seconds * 1e6);
        return 0;
}

const char *check_seconds(const char *value) {
        uint64_t usec;
        return parse_seconds(value, &usec) < 0 ? "takes a number of seconds" : NULL;
}

const char *check_count(const char *value) {
        return value[strspn(value, "0123456789")] || strlen(value) > 4 ? "takes a number from 0 to 9999" : NULL;
}

const char *check_span(const char *value) {
        PruneSpan span;
        return prune_span_parse(value, &span) < 0 ?
                       "takes a time like 36h, 14d, 6w or 1y6m (years, months, weeks, days, hours in this order)" :
                       NULL;
}

const char *check_type(const char *value) {
        return backup_type_from_string(value) < 0 ? "takes copy, full, incremental, differential or log" : NULL;
}

const char *check_level(const char *value) {
        return consistency_from_string(value) < 0 ? "takes application, filesystem or crash" : NULL;
}

const char *check_mode(const char *value) {
        return streq(value, "copy") || streq(value, "redirect") || streq(value, "clone") ?
                       NULL :
                       "takes copy, redirect or clone";
}

const char *check_closure(const char *value) {
        return closure_from_string(value) < 0 ? "takes extend, strict or ignore" : NULL;
}

const char *check_on_failure(const char *value) {
        return on_writer_failure_from_string(value) < 0 ? "takes abort or degrade" : NULL;
}

/*
 * vssd has another working directory, so paths become absolute here. A bare word stays as it is: it names an engine
 * volume; a directory of that name is "./word".
 */
int volume_to_bus(const char *argument, char **ret) {
        _cleanup_free_ char *absolute = NULL, *cwd = NULL;
        bool relative = argument[0] != '/' && (strchr(argument, '/') || streq(argument, ".") || streq(argument, ".."));
        if (!relative)
                return path_to_bus(argument, ret);
        cwd = get_current_dir_name();
        if (!cwd)
                return -errno;
        if (asprintf(&absolute, "%s/%s", cwd, argument) < 0)
                return -ENOMEM;
        return path_to_bus(absolute, ret);
}
