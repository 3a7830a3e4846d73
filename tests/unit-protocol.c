/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The words, tables and validators of protocol/: what scripts and peers depend on for ever, against literal copies. */
#include "protocol/base.h"
#include "protocol/manifest.h"
#include "protocol/metadata.h"
#include "protocol/sha256.h"
#include "protocol/text.h"
#include "tests/support.h"
#include <check.h>

typedef const char *(*ToString)(int value);
typedef int (*FromString)(const char *s);

/* words: the whole list in the order of the enum, separated by spaces; "-" stands for the empty word. */
static void check_words(const char *list, int max, ToString to_string, FromString from_string) {
        _cleanup_free_ char *words = strdup(list);
        int n = 0;
        for (char *save, *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save), n++) {
                const char *word = streq(w, "-") ? "" : w;
                ck_assert_int_lt(n, max);
                ck_assert_str_eq(to_string(n), word);
                ck_assert_int_eq(from_string(word), n);
        }
        ck_assert_int_eq(n, max);
        ck_assert_int_eq(from_string("nonsense"), -EINVAL);
        ck_assert_int_eq(from_string(NULL), -EINVAL);
        ck_assert_int_eq(from_string("Freeze"), -EINVAL);
}
#define CHECK_WORDS(name, max, list) \
        check_words(list, (int) (max), (ToString) (void *) name##_to_string, name##_from_string)

START_TEST(test_every_word_is_what_it_always_was) {
        CHECK_WORDS(level, _LEVEL_MAX, "front-end back-end system");
        CHECK_WORDS(usage, _USAGE_MAX, "user-data system-service bootable-state other");
        CHECK_WORDS(source, _SOURCE_MAX, "transacted non-transacted other");
        CHECK_WORDS(backup_type, _BACKUP_TYPE_MAX, "copy full incremental differential log");
        CHECK_WORDS(consistency, _CONSISTENCY_MAX, "- crash filesystem application");
        CHECK_WORDS(on_writer_failure, _ON_FAILURE_MAX, "abort degrade");
        CHECK_WORDS(closure, _CLOSURE_MAX, "strict extend ignore");
        CHECK_WORDS(lifetime, _LIFETIME_MAX, "auto-release persistent");
        CHECK_WORDS(session_kind, _SESSION_MAX, "bound detached ended");
        CHECK_WORDS(set_state, _SET_STATE_MAX,
                    "queued running created completing completed deleting deleted aborting aborted");
        CHECK_WORDS(
                phase, _PHASE_MAX,
                "identify plan prepare-backup begin-prepare end-prepare prepare-snapshot pre-flush freeze pre-commit hold "
                "commit release post-commit thaw pre-final post-snapshot post-final backup-complete backup-shutdown abort");
        CHECK_WORDS(
                writer_event, _WRITER_EVENT_MAX,
                "identify prepare-backup prepare-snapshot freeze thaw post-snapshot backup-complete backup-shutdown abort "
                "pre-restore post-restore");
        CHECK_WORDS(writer_state, _WRITER_STATE_MAX,
                    "unknown stable waiting-for-prepare-snapshot waiting-for-freeze waiting-for-thaw "
                    "waiting-for-post-snapshot waiting-for-backup-complete failed-at-identify failed-at-prepare-backup "
                    "failed-at-prepare-snapshot failed-at-freeze failed-at-thaw failed-at-post-snapshot "
                    "failed-at-backup-complete failed-at-pre-restore failed-at-post-restore failed-at-backup-shutdown");
        CHECK_WORDS(outcome, _OUTCOME_MAX, "running ok failed timeout died skipped cancelled");
        CHECK_WORDS(file_role, _FILE_ROLE_MAX, "data log file");
}
END_TEST

START_TEST(test_a_set_takes_only_legal_steps) {
        static const char legal[] =
                " queued>running queued>aborting running>created running>aborting created>completing "
                "created>deleting completing>completed completed>deleting deleting>deleted "
                "deleting>completed aborting>aborted ";
        int n = 0;
        for (SetState from = 0; from < _SET_STATE_MAX; from++)
                for (SetState to = 0; to < _SET_STATE_MAX; to++) {
                        char step[64];
                        (void) snprintf(step, sizeof step, " %s>%s ", set_state_to_string(from),
                                        set_state_to_string(to));
                        bool expected = strstr(legal, step);
                        ck_assert_msg(set_state_may_follow(from, to) == expected, "%s", step);
                        n += expected;
                }
        ck_assert_int_eq(n, 11);
}
END_TEST

START_TEST(test_every_event_has_its_member_and_states) {
        for (WriterEvent e = 0; e < _WRITER_EVENT_MAX; e++) {
                char failed[64];
                const char *member = writer_event_member(e), *word = writer_event_to_string(e);
                for (const char *m = member, *w = word; *m; m++, w++) { /* PrepareBackup is prepare-backup */
                        w += *w == '-';
                        ck_assert_int_eq(*m | 0x20, *w);
                }
                (void) snprintf(failed, sizeof failed, "failed-at-%s", word);
                if (e == EVENT_ABORT)
                        ck_assert_int_eq(writer_state_failed(e), WRITER_UNKNOWN);
                else
                        ck_assert_str_eq(writer_state_to_string(writer_state_failed(e)), failed);
        }
        ck_assert_int_eq(writer_state_after(EVENT_IDENTIFY), WRITER_STABLE);
        ck_assert_int_eq(writer_state_after(EVENT_PREPARE_BACKUP), WRITER_WAITING_FOR_PREPARE_SNAPSHOT);
        ck_assert_int_eq(writer_state_after(EVENT_PREPARE_SNAPSHOT), WRITER_WAITING_FOR_FREEZE);
        ck_assert_int_eq(writer_state_after(EVENT_FREEZE), WRITER_WAITING_FOR_THAW);
        ck_assert_int_eq(writer_state_after(EVENT_THAW), WRITER_WAITING_FOR_POST_SNAPSHOT);
        ck_assert_int_eq(writer_state_after(EVENT_POST_SNAPSHOT), WRITER_WAITING_FOR_BACKUP_COMPLETE);
        ck_assert_int_eq(writer_state_after(EVENT_BACKUP_COMPLETE), WRITER_STABLE);
        ck_assert_int_eq(writer_state_after(EVENT_BACKUP_SHUTDOWN), WRITER_STABLE);
        ck_assert_int_eq(writer_state_after(EVENT_ABORT), WRITER_STABLE);
}
END_TEST

/* The published table, row by row. */
static const struct {
        const char *name;
        int error;
        bool retryable;
        int exit_code;
} error_table[] = {
        { "Failed", EIO, false, 1 },
        { "ProviderFailed", EREMOTEIO, true, 1 },
        { "Cancelled", ECANCELED, false, 1 },
        { "Unavailable", ENOTCONN, true, 13 },
        { "Exists", EEXIST, false, 1 },
        { "BadState", EBADFD, false, 1 },
        { "TooLate", EALREADY, false, 1 },
        { "InvalidArgument", EINVAL, false, 2 },
        { "InvalidDocument", EBADMSG, false, 2 },
        { "Ambiguous", ENOTUNIQ, false, 2 },
        { "NotAuthorized", EACCES, false, 3 },
        { "NotFound", ENOENT, false, 4 },
        { "StaleToken", ESTALE, false, 12 },
        { "Vetoed", EPERM, false, 5 },
        { "WriterLost", EOWNERDEAD, true, 5 },
        { "ProviderLost", EOWNERDEAD, true, 5 },
        { "DeadlinePassed", ETIME, true, 6 },
        { "HoldExpired", ETIME, true, 6 },
        { "NoSpace", ENOSPC, false, 7 },
        { "LimitReached", EDQUOT, false, 7 },
        { "Busy", EBUSY, true, 8 },
        { "Pinned", ETXTBSY, false, 8 },
        { "LevelNotReached", ERANGE, false, 9 },
        { "VolumeMissing", ENXIO, false, 9 },
        { "NotSupported", EOPNOTSUPP, false, 10 },
        { "NotOneInstant", EXDEV, false, 10 },
        { "StackRefused", ELOOP, false, 10 },
        { "Damaged", EUCLEAN, false, 11 },
        { "WriterRetryable", EAGAIN, true, 5 },
        { "WriterFatal", EPERM, false, 5 },
        { "WriterNoResources", ENOMEM, true, 5 },
        { "WriterMissingVolume", ENXIO, false, 9 },
};

START_TEST(test_the_error_table_is_the_published_one) {
        ck_assert_int_eq(ELEMENTSOF(error_table), _CONDITION_MAX - 1);
        for (size_t i = 0; i < ELEMENTSOF(error_table); i++) {
                Condition c = (Condition) (i + 1);
                char name[96];
                (void) snprintf(name, sizeof name, "org.vssd.Vss1.Error.%s", error_table[i].name);
                ck_assert_str_eq(condition_name(c), name);
                ck_assert_int_eq(condition_from_name(name), c);
                ck_assert_int_eq(condition_errno(c), error_table[i].error);
                ck_assert_int_eq(condition_retryable(c), error_table[i].retryable);
                ck_assert_int_eq(condition_exit_code(c), error_table[i].exit_code);
        }
        ck_assert_str_eq(condition_name(CONDITION_NONE), "");
        ck_assert_int_eq(condition_exit_code(CONDITION_NONE), 0);
}
END_TEST

START_TEST(test_the_man_page_tells_the_same_table) {
        char path[4096];
        (void) snprintf(path, sizeof path, "%s/protocol/vss-bus.5", getenv("VSS_SOURCE"));
        _cleanup_free_ char *page = file_read(path);
        size_t rows = 0;
        for (const char *p = page; (p = strstr(p, "\n.It Sy Error.")); p++)
                rows++;
        ck_assert_uint_eq(rows, ELEMENTSOF(error_table));
        for (size_t i = 0; i < ELEMENTSOF(error_table); i++) {
                char row[160];
                (void) snprintf(row, sizeof row, "\n.It Sy Error.%s Ta %s Ta %s Ta %d Ta ", error_table[i].name,
                                strerrorname_np(error_table[i].error),
                                streq(error_table[i].name, "Vetoed") || streq(error_table[i].name, "LevelNotReached") ?
                                        "as said" :
                                error_table[i].retryable ? "yes" :
                                                           "no",
                                error_table[i].exit_code);
                ck_assert_msg(strstr(page, row) != NULL, "not in the man page:%s", row);
        }
}
END_TEST

START_TEST(test_names_of_others_are_read_as_ours) {
        static const struct {
                const char *name;
                Condition condition;
        } names[] = {
                { "org.freedesktop.DBus.Error.ServiceUnknown", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.NameHasNoOwner", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.NoReply", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.Timeout", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.TimedOut", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.Disconnected", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.NoServer", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.Spawn.ChildExited", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.Spawn.FileInvalid", CONDITION_UNAVAILABLE },
                { "org.freedesktop.DBus.Error.InvalidArgs", CONDITION_INVALID_ARGUMENT },
                { "org.freedesktop.DBus.Error.InvalidSignature", CONDITION_INVALID_ARGUMENT },
                { "org.freedesktop.DBus.Error.AccessDenied", CONDITION_NOT_AUTHORIZED },
                { "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", CONDITION_NOT_AUTHORIZED },
                { "org.freedesktop.DBus.Error.UnknownObject", CONDITION_NOT_FOUND },
                { "org.freedesktop.DBus.Error.LimitsExceeded", CONDITION_LIMIT_REACHED },
                { "org.freedesktop.DBus.Error.NoMemory", CONDITION_LIMIT_REACHED },
                { "org.freedesktop.DBus.Error.UnknownMethod", CONDITION_NOT_SUPPORTED },
                { "org.freedesktop.DBus.Error.UnknownInterface", CONDITION_NOT_SUPPORTED },
                { "org.freedesktop.DBus.Error.Failed", CONDITION_FAILED },
                { "org.freedesktop.DBus.Error.SpawnX", CONDITION_FAILED },
                { "System.Error.EBUSY", CONDITION_FAILED },
                { "org.vssd.Vss1.Error.Unheard", CONDITION_FAILED },
                { "org.vssd.Vss1.Error.", CONDITION_FAILED },
                { "Busy", CONDITION_FAILED },
                { "", CONDITION_FAILED },
        };
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                ck_assert_msg(condition_from_name(names[i].name) == names[i].condition, "%s", names[i].name);
        ck_assert_int_eq(condition_from_name(NULL), CONDITION_FAILED);
}
END_TEST

START_TEST(test_what_a_provider_may_return_has_one_meaning) {
        static const struct {
                int error;
                Condition condition;
        } errors[] = {
                { ENOMEM, CONDITION_LIMIT_REACHED },
                { EINVAL, CONDITION_INVALID_ARGUMENT },
                { EACCES, CONDITION_NOT_AUTHORIZED },
                { ENOENT, CONDITION_NOT_FOUND },
                { ENOSPC, CONDITION_NO_SPACE },
                { EDQUOT, CONDITION_LIMIT_REACHED },
                { EBUSY, CONDITION_BUSY },
                { EOPNOTSUPP, CONDITION_NOT_SUPPORTED },
                { EIO, CONDITION_FAILED },
                { ESTALE, CONDITION_STALE_TOKEN },
                { EUCLEAN, CONDITION_DAMAGED },
                { EXDEV, CONDITION_NOT_ONE_INSTANT },
                { EEXIST, CONDITION_EXISTS },
                { ECANCELED, CONDITION_CANCELLED },
                { ETIME, CONDITION_DEADLINE_PASSED },
                { EAGAIN, CONDITION_VETOED },
                { EPERM, CONDITION_VETOED },
        };
        for (int error = 1; error < 200; error++) {
                Condition expected = CONDITION_PROVIDER_FAILED;
                for (size_t i = 0; i < ELEMENTSOF(errors); i++)
                        if (errors[i].error == error)
                                expected = errors[i].condition;
                ck_assert_msg(condition_from_errno(error) == expected, "%s", strerror(error));
                ck_assert_int_eq(condition_from_errno(-error), expected);
        }
        ck_assert_int_eq(condition_from_errno(0), CONDITION_NONE);
        ck_assert_int_eq(condition_from_errno(INT32_MIN), CONDITION_PROVIDER_FAILED);
}
END_TEST

START_TEST(test_a_requester_sees_what_a_writer_said_as_one_of_four) {
        for (Condition c = 0; c < _CONDITION_MAX; c++) {
                Condition seen = condition_from_writer(c);
                Condition expected = CONDITION_VETOED;
                if (c == CONDITION_NONE || c == CONDITION_WRITER_LOST || c == CONDITION_DEADLINE_PASSED)
                        expected = c;
                if (c == CONDITION_UNAVAILABLE)
                        expected = CONDITION_WRITER_LOST;
                if (c == CONDITION_WRITER_MISSING_VOLUME || c == CONDITION_VOLUME_MISSING)
                        expected = CONDITION_VOLUME_MISSING;
                ck_assert_int_eq(seen, expected);
                ck_assert_int_eq(condition_from_writer(seen), seen);
        }
}
END_TEST

START_TEST(test_a_failure_is_one_short_line_of_text) {
        Failure f;
        char huge[2 * LIMIT_MESSAGE_BYTES];
        ck_assert_int_eq(failure_set(&f, CONDITION_BUSY, "%s: %d", "held", 7), -EBUSY);
        ck_assert_int_eq(f.condition, CONDITION_BUSY);
        ck_assert(f.retryable);
        ck_assert_str_eq(f.message, "held: 7");
        (void) failure_set(&f, CONDITION_FAILED, "again, %s", f.message);
        ck_assert_str_eq(f.message, "again, held: 7");
        ck_assert(!f.retryable);
        (void) failure_set(&f, CONDITION_FAILED, "a\nb\tc\x1b[31m\xff\xc3\xa9\xc2\x85.");
        ck_assert_str_eq(f.message, "a b c?[31m?\xc3\xa9?\?.");
        memset(huge, 'x', sizeof huge - 1);
        huge[sizeof huge - 1] = '\0';
        memcpy(huge + LIMIT_MESSAGE_BYTES - 3, "\xe2\x82\xac", 3); /* the bound cuts this character */
        (void) failure_set(&f, CONDITION_FAILED, "%s", huge);
        ck_assert_uint_eq(strlen(f.message), LIMIT_MESSAGE_BYTES - 1);
        ck_assert(text_is_valid(f.message, LIMIT_MESSAGE_BYTES));
        ck_assert_int_eq(failure_set(NULL, CONDITION_NOT_FOUND, "nobody listens"), -ENOENT);
}
END_TEST

typedef bool (*Validator)(const char *s);
static void check_validator(Validator is_valid, bool expected, const char *const *list) {
        for (; *list; list++)
                ck_assert_msg(is_valid(*list) == expected, "\"%s\"", *list);
}
#define ACCEPTS(f, ...) check_validator(f, true, (const char *const[]) { __VA_ARGS__, NULL })
#define REFUSES(f, ...) check_validator(f, false, (const char *const[]) { __VA_ARGS__, NULL })

#define TEN "aaaaaaaaaa"
#define SIXTY TEN TEN TEN TEN TEN TEN

START_TEST(test_names_that_leave_their_alphabet_are_refused) {
        ACCEPTS(writer_name_is_valid, "a", "postgresql", "a-1", SIXTY "abc");
        REFUSES(writer_name_is_valid, "", "A", "1a", "-a", "a_b", "a/b", "a b", "a\n", "\xc3\xa4", SIXTY "abcd", "a.b");
        ACCEPTS(writer_instance_is_valid, "", "15-main", "a.b_c+d", SIXTY SIXTY "abcdefg", ".", "..");
        REFUSES(writer_instance_is_valid, "a/b", "a@b", "a b", "a:b", "\x01", SIXTY SIXTY "abcdefgh");
        ACCEPTS(provider_name_is_valid, "btrfs", "fault:btrfs");
        REFUSES(provider_name_is_valid, "", "fault:", "fault:fault:x", "x:y", "../x", "fault:../x");
        ACCEPTS(id_is_valid, "3f0c9a52-7c1e-4b7d-9a51-0d6c2f8e1b44");
        REFUSES(id_is_valid, "", "3F0C9A52-7c1e-4b7d-9a51-0d6c2f8e1b44", "3f0c9a52-7c1e-4b7d-9a51-0d6c2f8e1b4",
                "3f0c9a52-7c1e-4b7d-9a51-0d6c2f8e1b444", "3f0c9a5207c1e-4b7d-9a51-0d6c2f8e1b44",
                "3f0c9a52-7c1e-4b7d-9a51-0d6c2f8e1b4g", "../../../../../../../../../../../../..");
        ck_assert(!writer_name_is_valid(NULL) && !writer_instance_is_valid(NULL) && !id_is_valid(NULL) &&
                  !provider_name_is_valid(NULL));
}
END_TEST

START_TEST(test_paths_that_wander_are_refused) {
        ACCEPTS(path_is_clean, "/", "/srv", "/srv/db/..data", "/a/...", "/\xc3\xa4", "/a b", "/x/.y", "/a\\x5cb",
                "/\\xff", "/a\\x0a");
        REFUSES(path_is_clean, "", "srv", "./a", "/srv/", "//", "//srv", "/srv//db", "/srv/.", "/srv/..", "/srv/../etc",
                "/.", "/..", "/a\nb", "/a\x7f", "/\xff", "/\xc0\xaf", "/\xed\xa0\x80", "/srv/\\x2e\\x2e/etc",
                "/a\\x2fb", "/\\x5C", "/\\", "/\\x00", "/\\xc3\\xa4");
        ACCEPTS(component_path_is_valid, "a", "a/b/c", "a b/\xc3\xa4");
        REFUSES(component_path_is_valid, "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\n");
        char longest[LIMIT_PATH_BYTES + 1];
        memset(longest, 'a', sizeof longest);
        longest[0] = '/';
        longest[LIMIT_PATH_BYTES - 1] = '\0';
        ck_assert(path_is_clean(longest));
        longest[LIMIT_PATH_BYTES - 1] = 'a';
        longest[LIMIT_PATH_BYTES] = '\0';
        ck_assert(!path_is_clean(longest));
        ck_assert(path_is_inside("/srv", "/srv") && path_is_inside("/srv/db", "/srv") && path_is_inside("/x", "/"));
        ck_assert(!path_is_inside("/srvdb", "/srv") && !path_is_inside("/", "/srv") && !path_is_inside("/sr", "/srv"));
}
END_TEST

START_TEST(test_any_file_name_survives_the_wire) {
        static const struct {
                const char *bytes, *text;
        } paths[] = {
                { "/srv/db", "/srv/db" },         { "/a\\b", "/a\\x5cb" },
                { "/a\nb\x7f", "/a\\x0ab\\x7f" }, { "/\xff\xc3\xa4\xc2\x80", "/\\xff\xc3\xa4\\xc2\\x80" },
                { "/\xe2\x82", "/\\xe2\\x82" },   { "", "" },
        };
        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                _cleanup_free_ char *text = NULL, *bytes = NULL;
                ck_assert_int_eq(path_escape(paths[i].bytes, &text), 0);
                ck_assert_str_eq(text, paths[i].text);
                ck_assert(text_is_valid(text, 100));
                ck_assert_int_eq(path_unescape(text, &bytes), 0);
                ck_assert_str_eq(bytes, paths[i].bytes);
        }
        char all[257], *text = NULL, *bytes = NULL;
        for (int i = 0; i < 256; i++)
                all[i] = (char) (i + 1);
        all[255] = '\0';
        ck_assert_int_eq(path_escape(all, &text), 0);
        ck_assert_int_eq(path_unescape(text, &bytes), 0);
        ck_assert_str_eq(bytes, all);
        free(text);
        free(bytes);
        static const char *const bad[] = { "\\", "\\x", "\\x4", "\\x4g", "\\x00", "\\n", "a\\", "\\X41", "\\\\" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(path_unescape(bad[i], &bytes) == -EINVAL, "%s", bad[i]);
}
END_TEST

START_TEST(test_references_to_writers_and_components) {
        _cleanup_free_ char *name = NULL, *instance = NULL, *again = NULL, *reference = NULL, *path = NULL,
                            *bare = NULL;
        ck_assert_int_eq(writer_reference_parse("postgresql@15-main", &name, &instance), 0);
        ck_assert_str_eq(name, "postgresql");
        ck_assert_str_eq(instance, "15-main");
        ck_assert_int_eq(writer_reference_format(name, instance, &again), 0);
        ck_assert_str_eq(again, "postgresql@15-main");
        ck_assert_int_eq(writer_reference_format("redis", "", &bare), 0);
        ck_assert_str_eq(bare, "redis");
        ck_assert_int_eq(writer_component_parse("redis@0:a:b/c", &reference, &path), 0);
        ck_assert_str_eq(reference, "redis@0");
        ck_assert_str_eq(path, "a:b/c");
        static const char *const bad[] = { "", "@", "a@", "@a", "a@b@c", "A", "a@b/c", "a b" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                char *n = NULL, *k = NULL;
                ck_assert_msg(writer_reference_parse(bad[i], &n, &k) == -EINVAL && !n && !k, "%s", bad[i]);
        }
        static const char *const bad_components[] = { "a", "a:", ":b", "a:/b", "a:b/", "a:..", "A:b" };
        for (size_t i = 0; i < ELEMENTSOF(bad_components); i++)
                ck_assert_msg(writer_component_parse(bad_components[i], &reference, &path) == -EINVAL, "%s",
                              bad_components[i]);
}
END_TEST

static void check_sha256(const char *text, size_t size, size_t piece, const char *expected) {
        char hex[SHA256_HEX + 1];
        Sha256 s = SHA256_INIT;
        for (size_t done = 0; done < size; done += piece)
                sha256_update(&s, text + done, MIN_OF(piece, size - done));
        sha256_finish(&s, hex);
        ck_assert_str_eq(hex, expected);
}

START_TEST(test_digests_are_those_of_fips_180_4) {
        static const char two_blocks[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        check_sha256("", 0, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        check_sha256("abc", 3, 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        check_sha256(two_blocks, 56, 56, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
        _cleanup_free_ char *million = malloc(1000000);
        memset(million, 'a', 1000000);
        for (size_t piece = 1; piece < 1000000; piece = piece * 7 + 1)
                check_sha256(million, 1000000, piece,
                             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
END_TEST

START_TEST(test_timestamps_are_utc_with_microseconds) {
        char text[32];
        ck_assert_int_eq(format_timestamp(0, text, sizeof text), 0);
        ck_assert_str_eq(text, "1970-01-01T00:00:00.000000Z");
        ck_assert_int_eq(format_timestamp(1795341602377800, text, sizeof text), 0);
        ck_assert_str_eq(text, "2026-11-22T10:00:02.377800Z");
        ck_assert_int_eq(format_timestamp(0, text, 27), -ENOBUFS);
        ck_assert_int_eq(format_timestamp(UINT64_MAX, text, sizeof text), -ERANGE);
}
END_TEST

int main(void) {
        const TTest *const tests[] = {
                test_every_word_is_what_it_always_was,
                test_a_set_takes_only_legal_steps,
                test_every_event_has_its_member_and_states,
                test_the_error_table_is_the_published_one,
                test_the_man_page_tells_the_same_table,
                test_names_of_others_are_read_as_ours,
                test_what_a_provider_may_return_has_one_meaning,
                test_a_requester_sees_what_a_writer_said_as_one_of_four,
                test_a_failure_is_one_short_line_of_text,
                test_names_that_leave_their_alphabet_are_refused,
                test_paths_that_wander_are_refused,
                test_any_file_name_survives_the_wire,
                test_references_to_writers_and_components,
                test_digests_are_those_of_fips_180_4,
                test_timestamps_are_utc_with_microseconds,
        };
        Suite *suite = suite_create("protocol");
        TCase *tcase = tcase_create("protocol");
        for (size_t i = 0; i < ELEMENTSOF(tests); i++)
                tcase_add_test(tcase, tests[i]);
        suite_add_tcase(suite, tcase);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_ENV);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
