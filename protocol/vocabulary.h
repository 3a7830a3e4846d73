/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Every word that appears on the wire, in a document or in an exit status, and every limit, in one place: the bus name,
 * the closed lists (enum <-> kebab-case string), and the one table
 *     condition -> D-Bus error name -> errno -> retryable -> exit code
 * Nobody else writes an error name, a state or a magic bound as a literal.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VSS_BUS_NAME "org.vssd.Vss1"
#define VSS_ROOT_PATH "/org/vssd/Vss1"
#define VSS_IFACE_MANAGER VSS_BUS_NAME ".Manager"
#define VSS_IFACE_SET VSS_BUS_NAME ".SnapshotSet"
#define VSS_IFACE_SNAPSHOT VSS_BUS_NAME ".Snapshot"
#define VSS_IFACE_WRITER VSS_BUS_NAME ".Writer"
#define VSS_IFACE_WRITER_ENTRY VSS_BUS_NAME ".WriterEntry"
#define VSS_IFACE_PROVIDER_ENTRY VSS_BUS_NAME ".ProviderEntry"
#define VSS_IFACE_VOLUME VSS_BUS_NAME ".Volume"
#define VSS_PATH_SETS VSS_ROOT_PATH "/sets"
#define VSS_PATH_SNAPSHOTS VSS_ROOT_PATH "/snapshots"
#define VSS_PATH_WRITERS VSS_ROOT_PATH "/writers"
#define VSS_PATH_PROVIDERS VSS_ROOT_PATH "/providers"
#define VSS_PATH_VOLUMES VSS_ROOT_PATH "/volumes"

/* polkit actions, one per right */
#define VSS_ACTION_INSPECT VSS_BUS_NAME ".inspect"
#define VSS_ACTION_CREATE VSS_BUS_NAME ".create"
#define VSS_ACTION_DELETE VSS_BUS_NAME ".delete"
#define VSS_ACTION_EXPOSE VSS_BUS_NAME ".expose"
#define VSS_ACTION_REVERT VSS_BUS_NAME ".revert"
#define VSS_ACTION_RESTORE VSS_BUS_NAME ".restore"
#define VSS_ACTION_MANAGE_STORAGE VSS_BUS_NAME ".manage-storage"
#define VSS_ACTION_REGISTER_WRITER VSS_BUS_NAME ".register-writer"

#define VSS_ID_LENGTH 36 /* UUID text */

/* Limits: what each protects is the memory and the patience of vssd. */
enum {
        LIMIT_VOLUMES = 64,                         /* per set, as in VSS; also VSS_VOLUMES_MAX of the provider ABI */
        LIMIT_WRITERS = 1024,                       /* registered at once */
        LIMIT_WRITERS_PER_UID = 16,                 /* for uids other than 0 (hazards C2) */
        LIMIT_METADATA_BYTES = 1024 * 1024,         /* one writer document (interfaces 1.1 rule 12) */
        LIMIT_METADATA_BYTES_PER_UID = 1024 * 1024, /* all documents of one uid other than 0 (hazards C2) */
        LIMIT_MANIFEST_BYTES = 64 * 1024 * 1024,    /* 1024 writers would not fit into one bus message */
        LIMIT_JSON_DEPTH = 16,
        LIMIT_COMPONENTS = 4096,           /* per writer document */
        LIMIT_FILE_SETS = 16384,           /* per writer document */
        LIMIT_PATH_BYTES = 4096,           /* PATH_MAX */
        LIMIT_STRING_BYTES = 4096,         /* any other string of a document or option */
        LIMIT_LABELS = 64,                 /* per set */
        LIMIT_OPTIONS_BYTES = 1024 * 1024, /* all strings of one call */
        LIMIT_LIST = 4096,                 /* entries of one list of an option or document */
        LIMIT_SETS_RUNNING = 64,           /* backup sessions being made at once, as in VSS */
        LIMIT_RESTORES = 8,                /* restore sessions at once, as in VSS */
        LIMIT_SET_RECORDS = 256,           /* sets without snapshots kept for reference */
        LIMIT_SETS = 4096,                 /* sets in the catalogue */
        LIMIT_WAITERS = 64,                /* Wait calls per set */
        LIMIT_WAITERS_OF_OTHERS = 48,      /* of these, by accounts that are neither its requester's nor root */
        LIMIT_CALLS_IN_FLIGHT = 100,       /* dbus-daemon refuses the 129th unanswered call of a connection */
        LIMIT_SESSIONS_PER_WRITER = 16,    /* shown in WriterEntry.Sessions */
        LIMIT_MESSAGE_BYTES = 512,         /* one error text */
};

/* Closed lists. x_to_string() of an invalid value asserts; x_from_string() returns -EINVAL for an unknown word. */
#define DECLARE_WORDS(name, Type) \
        const char *name##_to_string(Type value); \
        int name##_from_string(const char *s)
/* The words in the order of the enum, whose length is checked when this is compiled. Needs protocol/base.h. */
#define DEFINE_WORDS(name, Type, max, ...) \
        static const char *const name##_words[] = { __VA_ARGS__ }; \
        _Static_assert(ELEMENTSOF(name##_words) == (max), "words of " #name " do not match the enum"); \
        const char *name##_to_string(Type value) { \
                assert((size_t) value < (max)); \
                return name##_words[value]; \
        } \
        int name##_from_string(const char *s) { \
                return words_find(name##_words, (max), s); \
        } \
        struct base_trailing_semicolon
int words_find(const char *const *words, size_t n, const char *s); /* index, or -EINVAL */

typedef enum Level { LEVEL_FRONT_END, LEVEL_BACK_END, LEVEL_SYSTEM, _LEVEL_MAX } Level;
DECLARE_WORDS(level, Level);
typedef enum Usage { USAGE_USER_DATA, USAGE_SYSTEM_SERVICE, USAGE_BOOTABLE_STATE, USAGE_OTHER, _USAGE_MAX } Usage;
DECLARE_WORDS(usage, Usage);
typedef enum Source { SOURCE_TRANSACTED, SOURCE_NON_TRANSACTED, SOURCE_OTHER, _SOURCE_MAX } Source;
DECLARE_WORDS(source, Source);
typedef enum BackupType {
        BACKUP_COPY,
        BACKUP_FULL,
        BACKUP_INCREMENTAL,
        BACKUP_DIFFERENTIAL,
        BACKUP_LOG,
        _BACKUP_TYPE_MAX
} BackupType;
DECLARE_WORDS(backup_type, BackupType);
/* ordered: a higher value is a stronger promise */
typedef enum Consistency {
        CONSISTENCY_NONE,
        CONSISTENCY_CRASH,
        CONSISTENCY_FILESYSTEM,
        CONSISTENCY_APPLICATION,
        _CONSISTENCY_MAX
} Consistency; /* "" for NONE */
DECLARE_WORDS(consistency, Consistency);
typedef enum OnWriterFailure { ON_FAILURE_ABORT, ON_FAILURE_DEGRADE, _ON_FAILURE_MAX } OnWriterFailure;
DECLARE_WORDS(on_writer_failure, OnWriterFailure);
typedef enum Closure { CLOSURE_STRICT, CLOSURE_EXTEND, CLOSURE_IGNORE, _CLOSURE_MAX } Closure;
DECLARE_WORDS(closure, Closure);
/* Who may write into a copy before it is read-only for good. */
typedef enum AutoRecovery {
        RECOVERY_WRITERS,  /* writers that recover in a backup */
        RECOVERY_ROLLBACK, /* writers that recover in a copy to roll back to */
        RECOVERY_FORCE,    /* every writer with data there */
        RECOVERY_NONE,     /* nobody: read-only at once */
        _RECOVERY_MAX
} AutoRecovery;
DECLARE_WORDS(auto_recovery, AutoRecovery);
typedef enum Lifetime { LIFETIME_AUTO_RELEASE, LIFETIME_PERSISTENT, _LIFETIME_MAX } Lifetime;
DECLARE_WORDS(lifetime, Lifetime);
typedef enum SessionKind { SESSION_BOUND, SESSION_DETACHED, SESSION_ENDED, _SESSION_MAX } SessionKind;
DECLARE_WORDS(session_kind, SessionKind);

typedef enum SetState {
        SET_QUEUED,     /* waits for its turn */
        SET_RUNNING,    /* the sequence runs */
        SET_CREATED,    /* complete, durable, readable */
        SET_COMPLETING, /* BackupComplete is on its way */
        SET_COMPLETED,  /* writers have forgotten the set; its copies remain */
        SET_DELETING,
        SET_DELETED,  /* record only */
        SET_ABORTING, /* something failed; putting everything back */
        SET_ABORTED,  /* record only */
        _SET_STATE_MAX,
} SetState;
DECLARE_WORDS(set_state, SetState);
bool set_state_may_follow(SetState from, SetState to); /* the one table of legal transitions */

typedef enum Phase {
        PHASE_IDENTIFY,
        PHASE_PLAN,
        PHASE_PREPARE_BACKUP,
        PHASE_BEGIN_PREPARE,
        PHASE_END_PREPARE,
        PHASE_PREPARE_SNAPSHOT,
        PHASE_PRE_FLUSH,
        PHASE_FREEZE,
        PHASE_PRE_COMMIT,
        PHASE_HOLD,
        PHASE_COMMIT,
        PHASE_RELEASE,
        PHASE_POST_COMMIT,
        PHASE_THAW,
        PHASE_PRE_FINAL,
        PHASE_POST_SNAPSHOT,
        PHASE_POST_FINAL,
        PHASE_BACKUP_COMPLETE,
        PHASE_BACKUP_SHUTDOWN,
        PHASE_ABORT,
        _PHASE_MAX,
} Phase;
DECLARE_WORDS(phase, Phase);

/* What vssd says to writers; the kebab-case words are also the script names of vss-writer-exec. */
typedef enum WriterEvent {
        EVENT_IDENTIFY,
        EVENT_PREPARE_BACKUP,
        EVENT_PREPARE_SNAPSHOT,
        EVENT_FREEZE,
        EVENT_THAW,
        EVENT_POST_SNAPSHOT,
        EVENT_BACKUP_COMPLETE,
        EVENT_BACKUP_SHUTDOWN,
        EVENT_ABORT,
        EVENT_PRE_RESTORE,
        EVENT_POST_RESTORE,
        _WRITER_EVENT_MAX,
} WriterEvent;
DECLARE_WORDS(writer_event, WriterEvent);
const char *writer_event_member(WriterEvent e); /* "PrepareBackup" */

typedef enum WriterState {
        WRITER_UNKNOWN,
        WRITER_STABLE,
        WRITER_WAITING_FOR_PREPARE_SNAPSHOT,
        WRITER_WAITING_FOR_FREEZE,
        WRITER_WAITING_FOR_THAW,
        WRITER_WAITING_FOR_POST_SNAPSHOT,
        WRITER_WAITING_FOR_BACKUP_COMPLETE,
        WRITER_FAILED_AT_IDENTIFY,
        WRITER_FAILED_AT_PREPARE_BACKUP,
        WRITER_FAILED_AT_PREPARE_SNAPSHOT,
        WRITER_FAILED_AT_FREEZE,
        WRITER_FAILED_AT_THAW,
        WRITER_FAILED_AT_POST_SNAPSHOT,
        WRITER_FAILED_AT_BACKUP_COMPLETE,
        WRITER_FAILED_AT_PRE_RESTORE,
        WRITER_FAILED_AT_POST_RESTORE,
        WRITER_FAILED_AT_BACKUP_SHUTDOWN,
        _WRITER_STATE_MAX,
} WriterState;
DECLARE_WORDS(writer_state, WriterState);
WriterState writer_state_after(WriterEvent e);  /* the state a writer waits in once it answered e well */
WriterState writer_state_failed(WriterEvent e); /* failed-at-e; WRITER_UNKNOWN for abort */

typedef enum Outcome {
        OUTCOME_RUNNING,
        OUTCOME_OK,
        OUTCOME_FAILED,
        OUTCOME_TIMEOUT,
        OUTCOME_DIED,
        OUTCOME_SKIPPED,
        OUTCOME_CANCELLED,
        _OUTCOME_MAX
} Outcome;
DECLARE_WORDS(outcome, Outcome);

/*
 * Conditions. The order is that of the table in facts: one row each. CONDITION_NONE is success.
 */
typedef enum Condition {
        CONDITION_NONE,
        CONDITION_FAILED,
        CONDITION_PROVIDER_FAILED,
        CONDITION_CANCELLED,
        CONDITION_UNAVAILABLE,
        CONDITION_EXISTS,
        CONDITION_BAD_STATE,
        CONDITION_TOO_LATE,
        CONDITION_INVALID_ARGUMENT,
        CONDITION_INVALID_DOCUMENT,
        CONDITION_AMBIGUOUS,
        CONDITION_NOT_AUTHORIZED,
        CONDITION_NOT_FOUND,
        CONDITION_STALE_TOKEN,
        CONDITION_VETOED,
        CONDITION_WRITER_LOST,
        CONDITION_PROVIDER_LOST,
        CONDITION_DEADLINE_PASSED,
        CONDITION_HOLD_EXPIRED,
        CONDITION_NO_SPACE,
        CONDITION_LIMIT_REACHED,
        CONDITION_BUSY,
        CONDITION_PINNED,
        CONDITION_LEVEL_NOT_REACHED,
        CONDITION_VOLUME_MISSING,
        CONDITION_NOT_SUPPORTED,
        CONDITION_NOT_ONE_INSTANT,
        CONDITION_STACK_REFUSED,
        CONDITION_DAMAGED,
        /* only from writers */
        CONDITION_WRITER_RETRYABLE,
        CONDITION_WRITER_FATAL,
        CONDITION_WRITER_NO_RESOURCES,
        CONDITION_WRITER_MISSING_VOLUME,
        _CONDITION_MAX,
} Condition;

const char *condition_name(Condition c); /* "org.vssd.Vss1.Error.Busy" */
int condition_errno(Condition c);        /* positive */
bool condition_retryable(Condition c);
int condition_exit_code(Condition c);
Condition condition_from_name(const char *dbus_error_name); /* ours or a standard one; unknown: CONDITION_FAILED */
Condition condition_from_errno(int error); /* for provider results: unknown: CONDITION_PROVIDER_FAILED */
/* What a requester is told when a writer answered with this: Vetoed, WriterLost, DeadlinePassed or VolumeMissing. */
Condition condition_from_writer(Condition c);
/* What its own record says of it: the four words of writers; any other is WriterRetryable. */
Condition condition_of_writer(Condition c);

/* An error on its way: always a condition and one line for people. Embedded, no ownership. */
typedef struct Failure {
        Condition condition;
        bool retryable; /* the writer's own word where it had one */
        char message[LIMIT_MESSAGE_BYTES];
} Failure;
/* Overwrites f; returns -condition_errno(c) so that "return failure_set(...)" reads well. f may be NULL. */
int failure_set(Failure *f, Condition c, const char *format, ...) __attribute__((format(printf, 3, 4)));

enum { EXIT_CODE_OK = 0, EXIT_CODE_RUN_FAILED = 125, EXIT_CODE_INTERRUPTED = 130 };

/* Default budgets, microseconds (DESIGN.md section 4). */
#define BUDGET_IDENTIFY_USEC (10 * 1000000ULL)
#define BUDGET_PREPARE_BACKUP_USEC (3600 * 1000000ULL)
#define BUDGET_PROVIDER_USEC (60 * 1000000ULL)
#define BUDGET_PREPARE_SNAPSHOT_USEC (60 * 1000000ULL)
#define BUDGET_PRE_FLUSH_USEC (10 * 1000000ULL)
#define BUDGET_FREEZE_USEC (60 * 1000000ULL)
#define BUDGET_PROVIDER_STEP_USEC (2 * 1000000ULL)
#define BUDGET_HOLD_USEC (10 * 1000000ULL)
#define BUDGET_THAW_USEC (10 * 1000000ULL)
#define BUDGET_POST_SNAPSHOT_USEC (600 * 1000000ULL)
#define BUDGET_BACKUP_COMPLETE_USEC (600 * 1000000ULL)
#define BUDGET_RESTORE_USEC (600 * 1000000ULL) /* PreRestore and PostRestore, each */
#define BUDGET_ABORT_USEC (10 * 1000000ULL)
#define BUDGET_MIN_FREEZE_USEC (3 * 1000000ULL)
#define BUDGET_IDLE_USEC (180 * 1000000ULL)
#define BUDGET_SESSION_USEC (7 * 86400 * 1000000ULL)
#define BUDGET_PATH_USEC (5 * 1000000ULL) /* resolving one request's paths: a dead network mount must not stop us */

/* Names: [a-z][a-z0-9-]{0,62}; instances: [A-Za-z0-9._+-]{0,127}; ids: lower-case UUID text. */
bool writer_name_is_valid(const char *s);
bool writer_instance_is_valid(const char *s);
bool provider_name_is_valid(const char *s); /* as writer names; "fault:" may stand before it */
bool id_is_valid(const char *s);
