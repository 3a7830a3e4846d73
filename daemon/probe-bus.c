/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ProviderEntry.Probe and Volume.Probe: the volume is resolved with the caller's rights, then each provider in question
 * is asked, one after the other, each in a process of its own.
 */
#include "daemon/manager-private.h"
#include "daemon/volumes-bus.h"
#include "daemon/volumes.h"
#include "protocol/busutil.h"
#include "protocol/metadata.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <stdio.h>

enum { PROBED_MAX = 64 }; /* providers asked about one volume */

typedef struct Probed {
        char name[VSS_WIRE_NAME];
        uint32_t priority;
        uint64_t capabilities, free_bytes;
        Failure failure;
} Probed;

typedef struct ProbeCall {
        char *path;
        Volume *volume;
        bool one_provider; /* ProviderEntry.Probe */
        Probed list[PROBED_MAX];
        unsigned n, at;
} ProbeCall;

static void probe_call_free(void *p) {
        ProbeCall *k = p;
        volume_free(k->volume);
        free(k->path);
        free(k);
}

static int reply_one(sd_bus_message *m, const Probed *p) {
        bool supported = p->failure.condition == CONDITION_NONE;
        int r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0)
                r = sd_bus_message_append(m, "{sv}{sv}{sv}", "supported", "b", supported, "message", "s",
                                          p->failure.message, "free_bytes", "t", p->free_bytes);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "capabilities");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "as");
        if (r >= 0)
                r = capabilities_append(m, p->capabilities);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

/* null makes no copy: it is chosen by name only. */
static const Probed *choose(const ProbeCall *k) {
        const Probed *best = NULL;
        for (unsigned i = 0; i < k->n; i++)
                if (k->list[i].failure.condition == CONDITION_NONE && !streq(k->list[i].name, "null") &&
                    (!best || k->list[i].priority < best->priority))
                        best = k->list + i;
        return best;
}

/* On the volume with the longest mount point above it, of all that are known. */
static bool root_is_on(Manager *m, const char *root, const Volume *v) {
        size_t here = volume_depth(v, root);
        return here > 0 && here >= volumes_depth(m->volumes, root);
}

static bool writer_is_on(const Writer *w, const Volume *v) {
        _cleanup_(metadata_freep) Metadata *d = NULL;
        if (w->lost || !w->metadata_text || metadata_parse(w->metadata_text, strlen(w->metadata_text), NULL, &d) < 0)
                return false;
        for (size_t i = 0; i < d->n_components; i++)
                for (size_t j = 0; j < d->components[i].n_files; j++)
                        if (root_is_on(w->manager, d->components[i].files[j].set.root, v))
                                return true;
        return false;
}

static int append_candidates(sd_bus_message *m, const ProbeCall *k) {
        int r = sd_bus_message_open_container(m, 'a', "(ss)");
        for (unsigned i = 0; r >= 0 && i < k->n; i++)
                r = sd_bus_message_append(m, "(ss)", k->list[i].name, k->list[i].failure.message);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_writers(sd_bus_message *m, Manager *manager, const Volume *v, bool *ret_any) {
        const Writer *w;
        int r = sd_bus_message_open_container(m, 'a', "s");
        LIST_FOREACH(w, &manager->writers, entries)
                if (r >= 0 && writer_is_on(w, v)) {
                        r = sd_bus_message_append(m, "s", w->reference);
                        *ret_any = true;
                }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int open_entry(sd_bus_message *m, const char *key, const char *type) {
        int r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", key);
        return r < 0 ? r : sd_bus_message_open_container(m, 'v', type);
}

static int close_entry(sd_bus_message *m) {
        int r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int reply_all(sd_bus_message *m, Manager *manager, const ProbeCall *k) {
        const Probed *best = choose(k);
        bool any = false;
        int r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0)
                r = open_entry(m, "candidates", "a(ss)");
        if (r >= 0)
                r = append_candidates(m, k);
        if (r >= 0)
                r = close_entry(m);
        if (r >= 0)
                r = open_entry(m, "writers", "as");
        if (r >= 0)
                r = append_writers(m, manager, k->volume, &any);
        if (r >= 0)
                r = close_entry(m);
        bool held = best && (k->volume->can_hold || best->capabilities & VSS_CAP_FREEZES_ITSELF);
        Consistency level = !best ? CONSISTENCY_NONE :
                            any   ? CONSISTENCY_APPLICATION :
                            held  ? CONSISTENCY_FILESYSTEM :
                                    CONSISTENCY_CRASH;
        if (r >= 0)
                r = sd_bus_message_append(m, "{sv}{sv}", "provider", "s", best ? best->name : "", "level", "s",
                                          consistency_to_string(level));
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static void answer(Call *c) {
        const ProbeCall *k = c->state;
        sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = k->one_provider ? reply_one(reply, k->list) : reply_all(reply, c->manager, k);
        call_reply_message(c, reply, r);
}

static void ask_next(Call *c);

static void on_probed(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        ProbeCall *k = c->state;
        Probed *p = k->list + k->at++;
        (void) close_fd(fd);
        c->job = provider_job_free(c->job);
        if (failure && k->one_provider && failure->condition != CONDITION_NOT_SUPPORTED) {
                call_fail(c, failure);
                return;
        }
        if (failure)
                p->failure = *failure;
        else {
                p->capabilities = reply->capabilities;
                p->free_bytes = reply->free_bytes;
        }
        call_when_quiet(c, ask_next);
}

static void ask_next(Call *c) {
        ProbeCall *k = c->state;
        struct vss_wire_request request = { .op = VSS_WIRE_PROBE };
        if (k->at == k->n) {
                answer(c);
                return;
        }
        provider_fill_volume(&request, k->volume);
        request.op = VSS_WIRE_PROBE;
        int r = provider_job_new(c->manager->event, k->list[k->at].name, &request, k->volume->root_fd,
                                 c->manager->settings.budgets.provider, NULL, on_probed, c, &c->job);
        if (r < 0)
                call_failf(c, CONDITION_PROVIDER_FAILED, "provider %s cannot be started: %s", k->list[k->at].name,
                           provider_start_error(r));
}

static void on_volume(ProbeResult **result, const Failure *failure, void *userdata) {
        Call *c = userdata;
        ProbeCall *k = c->state;
        c->probe = probe_free(c->probe);
        if (failure)
                call_fail(c, failure);
        else if ((*result)->n_paths < 1 || (*result)->path_volume[0] < 0)
                call_fail(c, &(*result)->path_failure[0]);
        else {
                k->volume = TAKE_PTR((*result)->volumes[(*result)->path_volume[0]]);
                if (k->volume->why_not)
                        call_failf(c, CONDITION_NOT_SUPPORTED, "%s: %s", k->volume->name, k->volume->why_not);
                else
                        call_when_quiet(c, ask_next);
        }
}

static void probe_step(Call *c) {
        const ProbeCall *k = c->state;
        const ProbePath path = { .path = k->path, .is_argument = true };
        int r = probe_new(c->manager->event, &path, 1, 0, c->caller.uid, on_volume, c, &c->probe);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "%s cannot be looked at: %s", k->path, strerror(-r));
}

static void add_provider(ProbeCall *k, const ProviderEntry *p) {
        if (k->n == PROBED_MAX)
                return;
        Probed *probed = k->list + k->n++;
        (void) snprintf(probed->name, sizeof(probed->name), "%s", p->name);
        probed->priority = p->priority;
}

static int start(Manager *m, sd_bus_message *message, ProbeCall *k, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        int r = bus_read_options(message, NULL, 0, k, NULL, &f);
        r = r < 0 ? bus_error_set(reterr, &f) : call_new(m, message, reterr, &c);
        if (r < 0) {
                probe_call_free(k);
                return r;
        }
        c->state = k;
        c->state_free = probe_call_free;
        call_authorise(c, VSS_ACTION_INSPECT, (const char *const[]) { "volumes", k->path, NULL }, probe_step);
        return 1;
}

int method_probe_provider(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        ProviderNode *node = userdata;
        Failure f = {};
        ProbeCall *k = calloc(1, sizeof(*k));
        if (!k)
                return -ENOMEM;
        k->one_provider = true;
        add_provider(k, node->entry);
        if (bus_read_field(m, "s", &k->path, &f) < 0) {
                probe_call_free(k);
                return bus_error_set(reterr, &f);
        }
        return start(node->manager, m, k, reterr);
}

int method_probe_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Manager *manager = userdata;
        const VolumeEntry *e = volumes_find(manager->volumes, sd_bus_message_get_path(m));
        const ProviderEntry *p;
        ProbeCall *k = calloc(1, sizeof(*k));
        if (!k)
                return -ENOMEM;
        k->path = e ? strdup(e->volume->name) : NULL;
        if (!k->path) {
                probe_call_free(k);
                return bus_error_setf(reterr, CONDITION_NOT_FOUND, "the volume is gone");
        }
        LIST_FOREACH(p, &manager->providers, entries)
                if (p->ready)
                        add_provider(k, p);
        return start(manager, m, k, reterr);
}
