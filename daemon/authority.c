/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two questions, one after the other, both asynchronous: the bus says whose connection it is, polkit says what that
 * account may do. Root is not asked about: polkit allows root everything before it looks at any rule, so vssd saves the
 * round trip and stays usable when polkit hangs. A connection's account cannot change and unique names are not given
 * out twice, so the answer to the first question stays true until the second is answered.
 */
#include "daemon/authority.h"
#include "daemon/owners.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <stdio.h>
#include <sys/queue.h>

enum { DETAILS_MAX = 16, LIMIT_QUESTIONS_PER_UID = 32 };
#define BUS_TIMEOUT_USEC (25 * USEC_PER_SEC)
/* polkit refuses what its rules do not answer in 15 s; a person at a prompt gets longer. */
#define POLKIT_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define POLKIT_PROMPT_TIMEOUT_USEC (300 * USEC_PER_SEC)
#define POLKIT_NAME "org.freedesktop.PolicyKit1"
#define POLKIT_PATH "/org/freedesktop/PolicyKit1/Authority"
#define POLKIT_INTERFACE POLKIT_NAME ".Authority"

struct Authority {
        sd_bus *bus;
        char *configuration_directory;
        Owners owners;
        bool polkit;
        uint64_t n_asked;
        sd_bus_slot *probe_slot;
        LIST_HEAD(, AuthorityCheck) checks;
};

struct AuthorityCheck {
        Authority *authority;
        LIST_ENTRY(AuthorityCheck) entries;
        char *sender, *action, *details[DETAILS_MAX + 1];
        bool interactive, asking_polkit;
        char cancellation[32];
        AuthorityCaller caller;
        sd_bus_slot *slot; /* the one question that is out */
        AuthorityDone done;
        void *userdata;
};

static int on_activatable(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Authority *a = userdata;
        _cleanup_(strings_freep) char **names = NULL;
        a->probe_slot = sd_bus_slot_unref(a->probe_slot);
        if (sd_bus_message_is_method_error(m, NULL) || sd_bus_message_read_strv(m, &names) < 0)
                return 0;
        a->polkit = a->polkit || strings_contain(names, POLKIT_NAME);
        return 0;
}

static int on_has_owner(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Authority *a = userdata;
        int owned = 0;
        a->probe_slot = sd_bus_slot_unref(a->probe_slot);
        if (!sd_bus_message_is_method_error(m, NULL) && sd_bus_message_read(m, "b", &owned) >= 0 && owned)
                a->polkit = true;
        else
                (void) sd_bus_call_method_async(a->bus, &a->probe_slot, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                                "org.freedesktop.DBus", "ListActivatableNames", on_activatable, a,
                                                NULL);
        return 0;
}

int authority_new(sd_bus *bus, const char *configuration_directory, Authority **ret) {
        Authority *a = calloc(1, sizeof(*a));
        if (!a)
                return -ENOMEM;
        a->bus = sd_bus_ref(bus);
        LIST_INIT(&a->checks);
        a->configuration_directory = strdup(configuration_directory);
        int r = a->configuration_directory ? owners_load(&a->owners, configuration_directory) : -ENOMEM;
        if (r >= 0)
                r = sd_bus_call_method_async(bus, &a->probe_slot, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                             "org.freedesktop.DBus", "NameHasOwner", on_has_owner, a, "s", POLKIT_NAME);
        if (r < 0) {
                authority_free(a);
                return r;
        }
        *ret = a;
        return 0;
}

Authority *authority_free(Authority *a) {
        if (!a)
                return NULL;
        assert(LIST_EMPTY(&a->checks));
        (void) sd_bus_slot_unref(a->probe_slot);
        (void) sd_bus_unref(a->bus);
        owners_done(&a->owners);
        free(a->configuration_directory);
        free(a);
        return NULL;
}

int authority_reload(Authority *a) {
        return owners_load(&a->owners, a->configuration_directory);
}

int authority_writer_owner(const Authority *a, const char *name, uid_t *ret) {
        return owners_find(&a->owners, name, ret);
}

const char *authority_mode(const Authority *a) {
        return a->polkit ? "polkit" : "root-only";
}

const AuthorityCaller *authority_check_caller(const AuthorityCheck *c) {
        return &c->caller;
}

/* The owner may free the check in done, or leave it; either way it asks nothing any more. */
static void check_answer(AuthorityCheck *c, const Failure *failure) {
        c->slot = sd_bus_slot_unref(c->slot);
        c->asking_polkit = false;
        c->done(failure, c->userdata);
}

static void check_refuse(AuthorityCheck *c, const char *why) {
        Failure f = {};
        (void) failure_set(&f, CONDITION_NOT_AUTHORIZED, "not permitted: %s for uid %u: %s", c->action,
                           (unsigned) c->caller.uid, why);
        check_answer(c, &f);
}

static const char *check_detail(const AuthorityCheck *c, const char *key) {
        for (unsigned i = 0; c->details[i] && c->details[i + 1]; i += 2)
                if (streq(c->details[i], key))
                        return c->details[i + 1];
        return NULL;
}

static void check_without_polkit(AuthorityCheck *c) {
        if (streq(c->action, VSS_ACTION_INSPECT))
                check_answer(c, NULL);
        else if (streq(c->action, VSS_ACTION_REGISTER_WRITER))
                check_refuse(c,
                             "polkit is not running and no writers.d/NAME.conf gives this name to the account (User=)");
        else
                check_refuse(c, "polkit is not running, so only root may do this");
}

static int on_polkit(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        AuthorityCheck *c = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(m);
        int allowed = 0, challenge = 0;
        c->asking_polkit = false;
        if (e) {
                Failure f = {};
                (void) bus_failure_from_error(e, &f);
                bool missing = f.condition == CONDITION_UNAVAILABLE &&
                               !sd_bus_error_has_name(e, SD_BUS_ERROR_NO_REPLY) &&
                               !sd_bus_error_has_name(e, SD_BUS_ERROR_TIMEOUT);
                if (missing) {
                        c->authority->polkit = false;
                        check_without_polkit(c);
                } else
                        check_refuse(c, isempty(e->message) ? "polkit did not answer" : e->message);
                return 0;
        }
        c->authority->polkit = true;
        if (sd_bus_message_enter_container(m, 'r', "bba{ss}") <= 0 ||
            sd_bus_message_read(m, "bb", &allowed, &challenge) < 0)
                check_refuse(c, "polkit gave an answer that makes no sense");
        else if (allowed)
                check_answer(c, NULL);
        else
                check_refuse(c, challenge ? "polkit wants an administrator to confirm it (interactively)" :
                                            "polkit refuses it");
        return 0;
}

static int check_append_details(const AuthorityCheck *c, sd_bus_message *m) {
        int r = sd_bus_message_open_container(m, 'a', "{ss}");
        for (unsigned i = 0; r >= 0 && c->details[i] && c->details[i + 1]; i += 2)
                r = sd_bus_message_append(m, "{ss}", c->details[i], c->details[i + 1]);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int check_ask_polkit(AuthorityCheck *c) {
        sd_bus_message *m = NULL;
        Authority *a = c->authority;
        bool prompt = c->interactive && !streq(c->action, VSS_ACTION_REGISTER_WRITER);
        (void) snprintf(c->cancellation, sizeof(c->cancellation), "vss-%llu", (unsigned long long) ++a->n_asked);
        int r = sd_bus_message_new_method_call(a->bus, &m, POLKIT_NAME, POLKIT_PATH, POLKIT_INTERFACE,
                                               "CheckAuthorization");
        if (r >= 0)
                r = sd_bus_message_append(m, "(sa{sv})s", "system-bus-name", 1, "name", "s", c->sender, c->action);
        if (r >= 0)
                r = check_append_details(c, m);
        if (r >= 0)
                r = sd_bus_message_append(m, "us", (uint32_t) prompt, c->cancellation);
        if (r >= 0)
                r = sd_bus_call_async(a->bus, &c->slot, m, on_polkit, c,
                                      prompt ? POLKIT_PROMPT_TIMEOUT_USEC : POLKIT_TIMEOUT_USEC);
        (void) sd_bus_message_unref(m);
        c->asking_polkit = r >= 0;
        return r < 0 ? r : 0;
}

/* A prompt that nobody answers stays for minutes: one account must not be able to fill vssd with them. */
static bool check_is_one_too_many(const AuthorityCheck *c) {
        const AuthorityCheck *other;
        unsigned n = 0;
        LIST_FOREACH(other, &c->authority->checks, entries)
                n += other->asking_polkit && other->caller.uid == c->caller.uid;
        return n >= LIMIT_QUESTIONS_PER_UID;
}

/* A name that writers.d gives to an account is that account's alone (hazards C2); other names are polkit's business. */
static void check_with_caller(AuthorityCheck *c) {
        uid_t owner;
        const char *name = check_detail(c, "writer");
        if (!c->action || c->caller.uid == 0) {
                check_answer(c, NULL);
                return;
        }
        if (streq(c->action, VSS_ACTION_REGISTER_WRITER) && name &&
            owners_find(&c->authority->owners, name, &owner) >= 0) {
                if (owner == c->caller.uid)
                        check_answer(c, NULL);
                else
                        check_refuse(c, "this writer name belongs to another account (User= in writers.d)");
                return;
        }
        if (check_is_one_too_many(c)) {
                Failure f = {};
                (void) failure_set(&f, CONDITION_LIMIT_REACHED, "%d questions about uid %u wait for polkit already",
                                   LIMIT_QUESTIONS_PER_UID, (unsigned) c->caller.uid);
                check_answer(c, &f);
        } else if (check_ask_polkit(c) < 0)
                check_refuse(c, "polkit could not be asked");
}

static int read_caller(sd_bus_message *m, AuthorityCaller *ret) {
        bool have_uid = false;
        const char *key;
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                uint32_t value = 0;
                r = sd_bus_message_read(m, "s", &key);
                if (r < 0)
                        break;
                if (streq(key, "UnixUserID")) {
                        r = sd_bus_message_read(m, "v", "u", &value);
                        ret->uid = value;
                        have_uid = r >= 0;
                } else if (streq(key, "ProcessID")) {
                        r = sd_bus_message_read(m, "v", "u", &value);
                        ret->pid = (pid_t) value;
                } else
                        r = sd_bus_message_skip(m, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : have_uid ? 0 : -ENODATA;
}

static int on_credentials(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        AuthorityCheck *c = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(m);
        c->slot = sd_bus_slot_unref(c->slot);
        Failure f = {};
        if (e)
                (void) failure_set(&f, CONDITION_NOT_AUTHORIZED, "the bus does not know the sender any more: %s",
                                   e->message ? e->message : e->name);
        else if (read_caller(m, &c->caller) < 0)
                (void) failure_set(&f, CONDITION_NOT_AUTHORIZED, "the bus does not say whose connection the sender is");
        if (f.condition != CONDITION_NONE)
                check_answer(c, &f);
        else
                check_with_caller(c);
        return 0;
}

static int check_copy(AuthorityCheck *c, const char *sender, const char *action, const char *const *details) {
        c->sender = strdup(sender);
        c->action = action ? strdup(action) : NULL;
        if (!c->sender || (action && !c->action))
                return -ENOMEM;
        for (unsigned i = 0; details && details[i]; i++) {
                assert(i < DETAILS_MAX);
                c->details[i] = strdup(details[i]);
                if (!c->details[i])
                        return -ENOMEM;
        }
        return 0;
}

int authority_check(Authority *a, sd_bus_message *m, const char *action, const char *const *details, AuthorityDone done,
                    void *userdata, AuthorityCheck **ret) {
        const char *sender = sd_bus_message_get_sender(m);
        if (!sender)
                return -EACCES;
        AuthorityCheck *c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (AuthorityCheck) {
                .authority = a,
                .interactive = sd_bus_message_get_allow_interactive_authorization(m) > 0,
                .caller = { .uid = UINT32_MAX },
                .done = done,
                .userdata = userdata,
        };
        LIST_INSERT_HEAD(&a->checks, c, entries);
        int r = check_copy(c, sender, action, details);
        if (r >= 0) {
                sd_bus_message *q = NULL;
                r = sd_bus_message_new_method_call(a->bus, &q, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                                   "org.freedesktop.DBus", "GetConnectionCredentials");
                if (r >= 0)
                        r = sd_bus_message_append(q, "s", sender);
                if (r >= 0)
                        r = sd_bus_call_async(a->bus, &c->slot, q, on_credentials, c, BUS_TIMEOUT_USEC);
                (void) sd_bus_message_unref(q);
        }
        if (r < 0) {
                authority_check_free(c);
                return r;
        }
        *ret = c;
        return 0;
}

AuthorityCheck *authority_check_free(AuthorityCheck *c) {
        if (!c)
                return NULL;
        if (c->asking_polkit) /* takes the prompt off the screen */
                (void) sd_bus_call_method_async(c->authority->bus, NULL, POLKIT_NAME, POLKIT_PATH, POLKIT_INTERFACE,
                                                "CancelCheckAuthorization", NULL, NULL, "s", c->cancellation);
        LIST_REMOVE(c, entries);
        (void) sd_bus_slot_unref(c->slot);
        free(c->sender);
        free(c->action);
        for (unsigned i = 0; c->details[i]; i++)
                free(c->details[i]);
        free(c);
        return NULL;
}
