/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdarg.h>
#include <stdio.h>

#include "protocol/base.h"
#include "protocol/text.h"
#include "protocol/vocabulary.h"
#include <limits.h>

int words_find(const char *const *words, size_t n, const char *s) {
        for (size_t i = 0; s && i < n; i++)
                if (streq(words[i], s))
                        return (int) i;
        return -EINVAL;
}

DEFINE_WORDS(level, Level, _LEVEL_MAX, "front-end", "back-end", "system");
DEFINE_WORDS(usage, Usage, _USAGE_MAX, "user-data", "system-service", "bootable-state", "other");
DEFINE_WORDS(source, Source, _SOURCE_MAX, "transacted", "non-transacted", "other");
DEFINE_WORDS(backup_type, BackupType, _BACKUP_TYPE_MAX, "copy", "full", "incremental", "differential", "log");
DEFINE_WORDS(consistency, Consistency, _CONSISTENCY_MAX, "", "crash", "filesystem", "application");
DEFINE_WORDS(on_writer_failure, OnWriterFailure, _ON_FAILURE_MAX, "abort", "degrade");
DEFINE_WORDS(closure, Closure, _CLOSURE_MAX, "strict", "extend", "ignore");
DEFINE_WORDS(auto_recovery, AutoRecovery, _RECOVERY_MAX, "writers", "rollback", "force", "none");
DEFINE_WORDS(lifetime, Lifetime, _LIFETIME_MAX, "auto-release", "persistent");
DEFINE_WORDS(session_kind, SessionKind, _SESSION_MAX, "bound", "detached", "ended");
DEFINE_WORDS(set_state, SetState, _SET_STATE_MAX, "queued", "running", "created", "completing", "completed", "deleting",
             "deleted", "aborting", "aborted");
DEFINE_WORDS(phase, Phase, _PHASE_MAX, "identify", "plan", "prepare-backup", "begin-prepare", "end-prepare",
             "prepare-snapshot", "pre-flush", "freeze", "pre-commit", "hold", "commit", "release", "post-commit",
             "thaw", "pre-final", "post-snapshot", "post-final", "backup-complete", "backup-shutdown", "abort");
DEFINE_WORDS(writer_event, WriterEvent, _WRITER_EVENT_MAX, "identify", "prepare-backup", "prepare-snapshot", "freeze",
             "thaw", "post-snapshot", "backup-complete", "backup-shutdown", "abort", "pre-restore", "post-restore");
DEFINE_WORDS(writer_state, WriterState, _WRITER_STATE_MAX, "unknown", "stable", "waiting-for-prepare-snapshot",
             "waiting-for-freeze", "waiting-for-thaw", "waiting-for-post-snapshot", "waiting-for-backup-complete",
             "failed-at-identify", "failed-at-prepare-backup", "failed-at-prepare-snapshot", "failed-at-freeze",
             "failed-at-thaw", "failed-at-post-snapshot", "failed-at-backup-complete", "failed-at-pre-restore",
             "failed-at-post-restore", "failed-at-backup-shutdown");
DEFINE_WORDS(outcome, Outcome, _OUTCOME_MAX, "running", "ok", "failed", "timeout", "died", "skipped", "cancelled");

/* Copies that could not be deleted stay, so a set falls back from deleting to completed: its writers have forgotten it.
 */
bool set_state_may_follow(SetState from, SetState to) {
#define TO(state) (1u << SET_##state)
        static const uint16_t next[_SET_STATE_MAX] = {
                [SET_QUEUED] = TO(RUNNING) | TO(ABORTING),
                [SET_RUNNING] = TO(CREATED) | TO(ABORTING),
                [SET_CREATED] = TO(COMPLETING) | TO(DELETING),
                [SET_COMPLETING] = TO(COMPLETED),
                [SET_COMPLETED] = TO(DELETING),
                [SET_DELETING] = TO(DELETED) | TO(COMPLETED),
                [SET_ABORTING] = TO(ABORTED),
        };
#undef TO
        assert((size_t) from < _SET_STATE_MAX && (size_t) to < _SET_STATE_MAX);
        return next[from] & (1u << to);
}

static const struct {
        const char *member;
        WriterState after, failed;
} events[] = {
        [EVENT_IDENTIFY] = { "Identify", WRITER_STABLE, WRITER_FAILED_AT_IDENTIFY },
        [EVENT_PREPARE_BACKUP] = { "PrepareBackup", WRITER_WAITING_FOR_PREPARE_SNAPSHOT,
                                   WRITER_FAILED_AT_PREPARE_BACKUP },
        [EVENT_PREPARE_SNAPSHOT] = { "PrepareSnapshot", WRITER_WAITING_FOR_FREEZE, WRITER_FAILED_AT_PREPARE_SNAPSHOT },
        [EVENT_FREEZE] = { "Freeze", WRITER_WAITING_FOR_THAW, WRITER_FAILED_AT_FREEZE },
        [EVENT_THAW] = { "Thaw", WRITER_WAITING_FOR_POST_SNAPSHOT, WRITER_FAILED_AT_THAW },
        [EVENT_POST_SNAPSHOT] = { "PostSnapshot", WRITER_WAITING_FOR_BACKUP_COMPLETE, WRITER_FAILED_AT_POST_SNAPSHOT },
        [EVENT_BACKUP_COMPLETE] = { "BackupComplete", WRITER_STABLE, WRITER_FAILED_AT_BACKUP_COMPLETE },
        [EVENT_BACKUP_SHUTDOWN] = { "BackupShutdown", WRITER_STABLE, WRITER_FAILED_AT_BACKUP_SHUTDOWN },
        [EVENT_ABORT] = { "Abort", WRITER_STABLE, WRITER_UNKNOWN },
        [EVENT_PRE_RESTORE] = { "PreRestore", WRITER_STABLE, WRITER_FAILED_AT_PRE_RESTORE },
        [EVENT_POST_RESTORE] = { "PostRestore", WRITER_STABLE, WRITER_FAILED_AT_POST_RESTORE },
};
_Static_assert(ELEMENTSOF(events) == _WRITER_EVENT_MAX, "a writer event has no row");

const char *writer_event_member(WriterEvent e) {
        assert((size_t) e < _WRITER_EVENT_MAX);
        return events[e].member;
}

WriterState writer_state_after(WriterEvent e) {
        assert((size_t) e < _WRITER_EVENT_MAX);
        return events[e].after;
}

WriterState writer_state_failed(WriterEvent e) {
        assert((size_t) e < _WRITER_EVENT_MAX);
        return events[e].failed;
}

#define ERROR_PREFIX VSS_BUS_NAME ".Error."
#define DBUS_ERROR_PREFIX "org.freedesktop.DBus.Error."

/* Retryable is the default: Vetoed and LevelNotReached carry the word of whoever refused in their Failure instead. */
static const struct {
        const char *name;
        int error, exit_code;
        bool retryable;
} conditions[] = {
        [CONDITION_NONE] = { "", 0, EXIT_CODE_OK, false },
        [CONDITION_FAILED] = { ERROR_PREFIX "Failed", EIO, 1, false },
        [CONDITION_PROVIDER_FAILED] = { ERROR_PREFIX "ProviderFailed", EREMOTEIO, 1, true },
        [CONDITION_CANCELLED] = { ERROR_PREFIX "Cancelled", ECANCELED, 1, false },
        [CONDITION_UNAVAILABLE] = { ERROR_PREFIX "Unavailable", ENOTCONN, 13, true },
        [CONDITION_EXISTS] = { ERROR_PREFIX "Exists", EEXIST, 1, false },
        [CONDITION_BAD_STATE] = { ERROR_PREFIX "BadState", EBADFD, 1, false },
        [CONDITION_TOO_LATE] = { ERROR_PREFIX "TooLate", EALREADY, 1, false },
        [CONDITION_INVALID_ARGUMENT] = { ERROR_PREFIX "InvalidArgument", EINVAL, 2, false },
        [CONDITION_INVALID_DOCUMENT] = { ERROR_PREFIX "InvalidDocument", EBADMSG, 2, false },
        [CONDITION_AMBIGUOUS] = { ERROR_PREFIX "Ambiguous", ENOTUNIQ, 2, false },
        [CONDITION_NOT_AUTHORIZED] = { ERROR_PREFIX "NotAuthorized", EACCES, 3, false },
        [CONDITION_NOT_FOUND] = { ERROR_PREFIX "NotFound", ENOENT, 4, false },
        [CONDITION_STALE_TOKEN] = { ERROR_PREFIX "StaleToken", ESTALE, 12, false },
        [CONDITION_VETOED] = { ERROR_PREFIX "Vetoed", EPERM, 5, false },
        [CONDITION_WRITER_LOST] = { ERROR_PREFIX "WriterLost", EOWNERDEAD, 5, true },
        [CONDITION_PROVIDER_LOST] = { ERROR_PREFIX "ProviderLost", EOWNERDEAD, 5, true },
        [CONDITION_DEADLINE_PASSED] = { ERROR_PREFIX "DeadlinePassed", ETIME, 6, true },
        [CONDITION_HOLD_EXPIRED] = { ERROR_PREFIX "HoldExpired", ETIME, 6, true },
        [CONDITION_NO_SPACE] = { ERROR_PREFIX "NoSpace", ENOSPC, 7, false },
        [CONDITION_LIMIT_REACHED] = { ERROR_PREFIX "LimitReached", EDQUOT, 7, false },
        [CONDITION_BUSY] = { ERROR_PREFIX "Busy", EBUSY, 8, true },
        [CONDITION_PINNED] = { ERROR_PREFIX "Pinned", ETXTBSY, 8, false },
        [CONDITION_LEVEL_NOT_REACHED] = { ERROR_PREFIX "LevelNotReached", ERANGE, 9, false },
        [CONDITION_VOLUME_MISSING] = { ERROR_PREFIX "VolumeMissing", ENXIO, 9, false },
        [CONDITION_NOT_SUPPORTED] = { ERROR_PREFIX "NotSupported", EOPNOTSUPP, 10, false },
        [CONDITION_NOT_ONE_INSTANT] = { ERROR_PREFIX "NotOneInstant", EXDEV, 10, false },
        [CONDITION_STACK_REFUSED] = { ERROR_PREFIX "StackRefused", ELOOP, 10, false },
        [CONDITION_DAMAGED] = { ERROR_PREFIX "Damaged", EUCLEAN, 11, false },
        [CONDITION_WRITER_RETRYABLE] = { ERROR_PREFIX "WriterRetryable", EAGAIN, 5, true },
        [CONDITION_WRITER_FATAL] = { ERROR_PREFIX "WriterFatal", EPERM, 5, false },
        [CONDITION_WRITER_NO_RESOURCES] = { ERROR_PREFIX "WriterNoResources", ENOMEM, 5, true },
        [CONDITION_WRITER_MISSING_VOLUME] = { ERROR_PREFIX "WriterMissingVolume", ENXIO, 9, false },
};
_Static_assert(ELEMENTSOF(conditions) == _CONDITION_MAX, "a condition has no row");

/* Standard names below org.freedesktop.DBus.Error. that a reader takes as one of ours. */
static const struct {
        const char *name;
        Condition condition;
} standard_names[] = {
        { "ServiceUnknown", CONDITION_UNAVAILABLE },
        { "NameHasNoOwner", CONDITION_UNAVAILABLE },
        { "NoReply", CONDITION_UNAVAILABLE },
        { "Timeout", CONDITION_UNAVAILABLE },
        { "TimedOut", CONDITION_UNAVAILABLE },
        { "Disconnected", CONDITION_UNAVAILABLE },
        { "NoServer", CONDITION_UNAVAILABLE },
        { "InvalidArgs", CONDITION_INVALID_ARGUMENT },
        { "InvalidSignature", CONDITION_INVALID_ARGUMENT },
        { "AccessDenied", CONDITION_NOT_AUTHORIZED },
        { "InteractiveAuthorizationRequired", CONDITION_NOT_AUTHORIZED },
        { "UnknownObject", CONDITION_NOT_FOUND },
        { "LimitsExceeded", CONDITION_LIMIT_REACHED },
        { "NoMemory", CONDITION_LIMIT_REACHED },
        { "UnknownMethod", CONDITION_NOT_SUPPORTED },
        { "UnknownInterface", CONDITION_NOT_SUPPORTED },
};

/* What the provider contract lets a call return. EAGAIN and EPERM are refusals; the first may be tried again. */
static const struct {
        int error;
        Condition condition;
} provider_errors[] = {
        { ENOMEM, CONDITION_LIMIT_REACHED },
        { EINVAL, CONDITION_INVALID_ARGUMENT },
        { EACCES, CONDITION_NOT_AUTHORIZED },
        { ENOENT, CONDITION_NOT_FOUND },
        { ENOSPC, CONDITION_NO_SPACE },
        { EDQUOT, CONDITION_LIMIT_REACHED },
        { EOPNOTSUPP, CONDITION_NOT_SUPPORTED },
        { EBUSY, CONDITION_BUSY },
        { EIO, CONDITION_FAILED },
        { ESTALE, CONDITION_STALE_TOKEN },
        { EUCLEAN, CONDITION_DAMAGED },
        { EXDEV, CONDITION_NOT_ONE_INSTANT },
        { ECANCELED, CONDITION_CANCELLED },
        { ETIME, CONDITION_DEADLINE_PASSED },
        { EAGAIN, CONDITION_VETOED },
        { EPERM, CONDITION_VETOED },
        { EEXIST, CONDITION_EXISTS },
};

const char *condition_name(Condition c) {
        assert((size_t) c < _CONDITION_MAX);
        return conditions[c].name;
}

int condition_errno(Condition c) {
        assert((size_t) c < _CONDITION_MAX);
        return conditions[c].error;
}

bool condition_retryable(Condition c) {
        assert((size_t) c < _CONDITION_MAX);
        return conditions[c].retryable;
}

int condition_exit_code(Condition c) {
        assert((size_t) c < _CONDITION_MAX);
        return conditions[c].exit_code;
}

static const char *startswith(const char *s, const char *prefix) {
        size_t n = strlen(prefix);
        return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}

Condition condition_from_name(const char *dbus_error_name) {
        if (isempty(dbus_error_name))
                return CONDITION_FAILED;
        for (size_t i = CONDITION_FAILED; i < _CONDITION_MAX; i++)
                if (streq(dbus_error_name, conditions[i].name))
                        return (Condition) i;
        const char *tail = startswith(dbus_error_name, DBUS_ERROR_PREFIX);
        if (!tail)
                return CONDITION_FAILED;
        for (size_t i = 0; i < ELEMENTSOF(standard_names); i++)
                if (streq(tail, standard_names[i].name))
                        return standard_names[i].condition;
        return startswith(tail, "Spawn.") ? CONDITION_UNAVAILABLE : CONDITION_FAILED;
}

Condition condition_from_errno(int error) {
        if (error == 0)
                return CONDITION_NONE;
        /* INT_MIN has no counterpart; nobody means it */
        int positive = error < 0 && error > -INT_MAX ? -error : error;
        for (size_t i = 0; i < ELEMENTSOF(provider_errors); i++)
                if (provider_errors[i].error == positive)
                        return provider_errors[i].condition;
        return CONDITION_PROVIDER_FAILED;
}

Condition condition_from_writer(Condition c) {
        switch (c) {
        case CONDITION_NONE:
        case CONDITION_WRITER_LOST:
        case CONDITION_DEADLINE_PASSED:
                return c;
        case CONDITION_UNAVAILABLE: /* the bus answers for a connection that is gone */
                return CONDITION_WRITER_LOST;
        case CONDITION_WRITER_MISSING_VOLUME:
        case CONDITION_VOLUME_MISSING:
                return CONDITION_VOLUME_MISSING;
        default:
                return CONDITION_VETOED;
        }
}

Condition condition_of_writer(Condition c) {
        switch (condition_from_writer(c)) {
        case CONDITION_VETOED:
                return c >= CONDITION_WRITER_RETRYABLE && c < _CONDITION_MAX ? c : CONDITION_WRITER_RETRYABLE;
        case CONDITION_VOLUME_MISSING:
                return CONDITION_WRITER_MISSING_VOLUME;
        default:
                return condition_from_writer(c);
        }
}

int failure_set(Failure *f, Condition c, const char *format, ...) {
        if (f) {
                char message[sizeof f->message]; /* the arguments may point into f */
                va_list ap;
                va_start(ap, format);
                (void) vsnprintf(message, sizeof message, format, ap);
                va_end(ap);
                text_clean(message); /* quotes paths and the words of writers */
                *f = (Failure) { .condition = c, .retryable = condition_retryable(c) };
                memcpy(f->message, message, strlen(message) + 1);
        }
        return -condition_errno(c);
}

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"

bool writer_name_is_valid(const char *s) {
        return s && s[0] && strchr(LOWER, s[0]) && strlen(s) <= 63 && s[strspn(s, LOWER DIGITS "-")] == '\0';
}

bool writer_instance_is_valid(const char *s) {
        return s && strlen(s) <= 127 && s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ" LOWER DIGITS "._+-")] == '\0';
}

bool provider_name_is_valid(const char *s) {
        const char *inner = s ? startswith(s, "fault:") : NULL;
        return writer_name_is_valid(inner ? inner : s);
}

bool id_is_valid(const char *s) {
        if (!s || strlen(s) != VSS_ID_LENGTH)
                return false;
        for (size_t i = 0; i < VSS_ID_LENGTH; i++)
                if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-' : !strchr(DIGITS "abcdef", s[i]))
                        return false;
        return true;
}
