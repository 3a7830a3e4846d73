/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a writer is told in PreRestore and PostRestore, and what it answers. What it says of components that are not its
 * own is refused, like everything else that has not the form of the interface: the answer counts as a failure then.
 */
#include "daemon/restore.h"
#include "protocol/text.h"

static int append_pair(sd_bus_message *m, const char *key, const char *value) {
        return isempty(value) ? 0 : sd_bus_message_append(m, "{sv}", key, "s", value);
}

static int append_new_targets(sd_bus_message *m, char *const *list) {
        int r = sd_bus_message_open_container(m, 'e', "sv");
        r = r < 0 ? r : sd_bus_message_append(m, "s", "new_targets");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'v', "a{ss}");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "{ss}");
        for (; r >= 0 && list && list[0]; list += 2)
                r = sd_bus_message_append(m, "{ss}", list[0], list[1]);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static int append_component(const Restore *restore, const RestoreComponent *c, bool post, sd_bus_message *m) {
        int r = sd_bus_message_open_container(m, 'r', "sa{sv}");
        r = r < 0 ? r : sd_bus_message_append(m, "s", c->path);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "{sv}");
        r = r < 0 ? r : append_pair(m, "part_of", c->part_of);
        r = r < 0 ? r : append_pair(m, "stamp", c->stamp);
        r = r < 0 ? r : append_pair(m, "metadata", c->metadata);
        r = r < 0 ? r : append_pair(m, "options", c->wishes.options);
        r = r < 0 ? r : append_pair(m, "to", c->wishes.to);
        r = r < 0 ? r : append_pair(m, "rename", c->wishes.rename);
        r = r < 0 ? r : append_pair(m, "until", c->wishes.until);
        r = r < 0 ? r :
                    sd_bus_message_append(m, "{sv}{sv}", "authoritative", "b", (int) c->wishes.authoritative,
                                          "more_follows", "b", (int) c->wishes.more_follows);
        if (r >= 0 && post) {
                r = sd_bus_message_append(m, "{sv}{sv}{sv}", "status", "s", restore_status_to_string(c->status),
                                          "succeeded", "b", (int) (c->status == RESTORE_STATUS_ALL), "alternate_used",
                                          "b", (int) c->alternate_used);
                r = r < 0 ? r : append_pair(m, "message", c->status_message);
                r = r < 0 ? r : append_new_targets(m, c->new_targets);
        }
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_components(const Restore *restore, const RestoreWriter *w, bool post, sd_bus_message *m) {
        int r = sd_bus_message_open_container(m, 'e', "sv");
        r = r < 0 ? r : sd_bus_message_append(m, "s", "components");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'v', "a(sa{sv})");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(sa{sv})");
        for (size_t i = 0; r >= 0 && i < restore->n_components; i++)
                if (restore->components[i].by == w)
                        r = append_component(restore, restore->components + i, post, m);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

int restore_session_append(const Restore *restore, const RestoreWriter *w, bool post, uint64_t deadline_usec,
                           sd_bus_message *m) {
        uint64_t now = now_usec();
        int r = sd_bus_message_open_container(m, 'a', "{sv}");
        r = r < 0 ? r :
                    sd_bus_message_append(m, "{sv}{sv}{sv}", "budget_usec", "t",
                                          deadline_usec > now ? deadline_usec - now : (uint64_t) 0, "backup_type", "s",
                                          backup_type_to_string(restore->backup_type), "backup_set", "s",
                                          restore->backup_set);
        if (r >= 0 && restore->gone)
                r = append_pair(m, "reason", restore->reason);
        r = r < 0 ? r : append_components(restore, w, post, m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* ---- answers ---- */

static int read_failures(Restore *restore, RestoreWriter *w, sd_bus_message *m) {
        const char *path, *name, *message;
        int r = sd_bus_message_enter_container(m, 'a', "(sss)");
        while (r >= 0 && (r = sd_bus_message_read(m, "(sss)", &path, &name, &message)) > 0) {
                RestoreComponent *c = restore_component(restore, NULL, w, path);
                if (!c)
                        return -EBADMSG;
                char words[LIMIT_MESSAGE_BYTES];
                (void) snprintf(words, sizeof(words), "%.400s", message);
                text_clean(words);
                (void) failure_set(&c->failure, condition_from_writer(condition_of_writer(condition_from_name(name))),
                                   "%s", words);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_targets(Restore *restore, RestoreWriter *w, sd_bus_message *m) {
        const char *path, *word;
        int r = sd_bus_message_enter_container(m, 'a', "(ss)");
        while (r >= 0 && (r = sd_bus_message_read(m, "(ss)", &path, &word)) > 0) {
                RestoreComponent *c = restore_component(restore, NULL, w, path);
                int target = restore_target_from_string(word);
                if (!c || target < 0)
                        return -EBADMSG;
                c->target = (RestoreTarget) target;
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int keep_message(Restore *restore, RestoreWriter *w, sd_bus_message *m) {
        const char *text;
        int r = sd_bus_message_read(m, "s", &text);
        for (size_t i = 0; r >= 0 && i < restore->n_components; i++) {
                RestoreComponent *c = restore->components + i;
                if (c->by != w)
                        continue;
                free(c->message);
                c->message = strndup(text, LIMIT_MESSAGE_BYTES - 1);
                if (!c->message)
                        return -ENOMEM;
                text_clean(c->message);
        }
        return r;
}

/* What it says of components are lists without end: they stay in the answer until the requester gets them. */
static void note_components(Restore *restore, RestoreWriter *w, sd_bus_message *reply) {
        for (size_t i = 0; i < restore->n_components; i++)
                if (restore->components[i].by == w && !restore->components[i].answer)
                        restore->components[i].answer = sd_bus_message_ref(reply);
}

static int read_entry(Restore *restore, RestoreWriter *w, sd_bus_message *m) {
        const char *key, *contents, *type;
        int r = sd_bus_message_read(m, "s", &key);
        if (r < 0)
                return r;
        type = streq(key, "failures") ? "a(sss)" : streq(key, "targets") ? "a(ss)" : streq(key, "message") ? "s" : NULL;
        if (!type)
                return sd_bus_message_skip(m, "v");
        r = sd_bus_message_peek_type(m, NULL, &contents);
        if (r < 0 || !streq(contents, type))
                return r < 0 ? r : -EBADMSG;
        r = sd_bus_message_enter_container(m, 'v', type);
        if (r >= 0)
                r = streq(key, "failures") ? read_failures(restore, w, m) :
                    streq(key, "targets")  ? read_targets(restore, w, m) :
                                             keep_message(restore, w, m);
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

int restore_session_read(Restore *restore, RestoreWriter *w, sd_bus_message *reply, Failure *reterr) {
        int r = sd_bus_message_enter_container(reply, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
                r = read_entry(restore, w, reply);
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
        }
        if (r >= 0)
                note_components(restore, w, reply);
        if (r < 0)
                return failure_set(reterr, CONDITION_VETOED,
                                   "writer %s: its answer is not of the form a{sv} that vss-bus(5) asks for",
                                   w->writer->reference);
        return 0;
}
