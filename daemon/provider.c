/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssd's side of the provider hosts. What comes from a host is as trusted as the code it has loaded, not at all: every
 * string is terminated and cleaned before anybody sees it, ids are ids, and an answer that does not fit the request is
 * the end of that host. Sending and receiving allocate nothing, because they also happen while file systems are held.
 */
#include "daemon/provider.h"
#include "daemon/provider-unit.h"
#include "protocol/text.h"
#include "providers/directory.h"
#include "providers/vss-provider.h"
#include <stdio.h>

static int spawn(Child *ret) {
        char path[LIMIT_PATH_BYTES];
        int r = child_program_path("vss-provider-host", path, sizeof(path));
        return r < 0 ? r : child_spawn((char *[]) { path, NULL }, CHILD_DIES_WITH_US | CHILD_LATER, ret);
}

int provider_host_new(const char *name, ProviderHost **ret) {
        assert(name);
        assert(ret);
        if (!provider_name_is_valid(name))
                return -EINVAL;
        ProviderHost *h = calloc(1, sizeof(ProviderHost));
        if (!h)
                return -ENOMEM;
        h->child = CHILD_NULL;
        h->life = -EBADF;
        (void) snprintf(h->name, sizeof(h->name), "%s", name);
        int r = provider_unit_is_used() ? provider_unit_connect(&h->child.socket, &h->life) : spawn(&h->child);
        if (r < 0) {
                free(h);
                return r;
        }
        *ret = h;
        return 0;
}

const char *provider_start_error(int error) {
        return provider_unit_is_used() && error == -ECONNREFUSED ?
                       "nobody starts its process; systemctl start vss-provider.socket" :
                       strerror(-error);
}

ProviderHost *provider_host_free(ProviderHost *h) {
        if (!h)
                return NULL;
        int status;
        if (h->life >= 0 || !child_reap(&h->child, &status)) {
                child_kill(&h->child);
                (void) child_reap(&h->child, &status);
        }
        child_done(&h->child);
        h->life = close_fd(h->life);
        free(h);
        return NULL;
}

int provider_host_send(ProviderHost *h, struct vss_wire_request *request, uint64_t deadline_usec, int fd) {
        static uint64_t serials; /* over all hosts: an answer can never be mistaken for another's */
        assert(h);
        assert(request && request->op > 0 && request->op < _VSS_WIRE_OP_MAX);
        if (h->serial != 0)
                return -EBUSY;
        if (h->child.socket < 0)
                return -EPIPE;
        request->serial = ++serials;
        request->deadline_usec = deadline_usec;
        int r = child_send(h->child.socket, request, sizeof(*request), fd);
        if (r < 0)
                return r;
        h->serial = request->serial;
        h->deadline_usec = deadline_usec;
        h->op = request->op;
        return 0;
}

static bool reply_texts_are_sound(struct vss_wire_reply *reply) {
        const struct {
                char *s;
                size_t size;
        } texts[] = {
                { reply->message, sizeof(reply->message) },
                { reply->text, sizeof(reply->text) },
                { reply->id, sizeof(reply->id) },
                { reply->set, sizeof(reply->set) },
                { reply->volume, sizeof(reply->volume) },
                { reply->device, sizeof(reply->device) },
                { reply->path, sizeof(reply->path) },
                { reply->token, sizeof(reply->token) },
                { reply->name, sizeof(reply->name) },
                { reply->storage, sizeof(reply->storage) },
                { reply->frontend, sizeof(reply->frontend) },
                { reply->policy, sizeof(reply->policy) },
                { reply->fault, sizeof(reply->fault) },
        };
        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                if (!memchr(texts[i].s, 0, texts[i].size))
                        return false;
                text_clean(texts[i].s);
        }
        return true;
}

static bool reply_fits(const ProviderHost *h, const struct vss_wire_reply *reply) {
        if (h->serial == 0 || reply->serial != h->serial || reply->op != h->op)
                return false;
        if (reply->result > 0 || reply->result < -4095 || reply->more > 1 || reply->pending > 1)
                return false;
        if (reply->more && reply->op == VSS_WIRE_INVENTORY)
                return reply->result == 0 && reply->name[0] &&
                       (reply->kind == VSS_WIRE_IS_STORAGE ||
                        (reply->kind == VSS_WIRE_IS_VOLUME && id_is_valid(reply->id)));
        if (reply->more && reply->op == VSS_WIRE_REVERT)
                return reply->result == 0 && (reply->kind == VSS_WIRE_IS_PROGRESS ?
                                                      reply->progress <= VSS_WIRE_PROGRESS_MAX :
                                                      reply->kind == VSS_WIRE_IS_LOST && id_is_valid(reply->id));
        if (reply->more)
                return reply->op == VSS_WIRE_LIST && reply->result == 0 && id_is_valid(reply->id) &&
                       id_is_valid(reply->set);
        return true;
}

/* The first message of a host that is not our child, sent before it has loaded anything. */
static int take_hello(ProviderHost *h, int fd) {
        if (h->life < 0 || h->child.pidfd >= 0 || fd < 0) {
                (void) close_fd(fd);
                return -EBADMSG;
        }
        h->child.pidfd = fd;
        return 0;
}

int provider_host_receive(ProviderHost *h, struct vss_wire_reply *ret, int *ret_fd) {
        assert(h);
        assert(ret);
        assert(ret_fd);
        if (h->child.socket < 0)
                return -EPIPE;
        _cleanup_close_ int fd = -EBADF;
        int r = child_receive(h->child.socket, ret, sizeof(*ret), &fd);
        if (r <= 0)
                return r;
        if (ret->op == VSS_WIRE_HELLO)
                return take_hello(h, TAKE_FD(fd));
        if (!reply_texts_are_sound(ret) || !reply_fits(h, ret))
                return -EBADMSG;
        bool opened = ret->op == VSS_WIRE_OPEN && ret->result == 0;
        if (opened != (fd >= 0))
                return -EBADMSG;
        if (!ret->more)
                h->serial = 0;
        if (ret->op == VSS_WIRE_LOAD && ret->result == 0)
                h->capabilities = ret->capabilities;
        *ret_fd = TAKE_FD(fd);
        return 1;
}

/* Whether the provider's text says itself whose it is. */
static bool names_itself(const char *message, const char *provider) {
        const char *inner = strchr(provider, ':');
        const char *name = inner ? inner + 1 : provider;
        size_t n = strlen(name);
        return strncmp(message, name, n) == 0 && (message[n] == ':' || message[n] == ' ');
}

void provider_reply_failure(const char *provider, const struct vss_wire_reply *reply, Failure *ret) {
        assert(provider);
        assert(reply && reply->result < 0);
        assert(ret);
        Condition condition = condition_from_errno(reply->result);
        if (isempty(reply->message))
                (void) failure_set(ret, condition, "provider %s failed and said only: %s", provider,
                                   strerror(-reply->result));
        else if (names_itself(reply->message, provider))
                (void) failure_set(ret, condition, "provider %s", reply->message);
        else
                (void) failure_set(ret, condition, "provider %s: %s", provider, reply->message);
        /* Of the two refusals of the contract only one may be tried again. */
        ret->retryable = reply->result == -EAGAIN || (reply->result != -EPERM && condition_retryable(condition));
}

static void fill(char *ret, size_t size, const char *s) {
        (void) snprintf(ret, size, "%s", s ? s : "");
}

uint64_t copy_mode_capability(const char *mode) {
        return streq(mode, "copy")     ? VSS_CAP_COPY :
               streq(mode, "redirect") ? VSS_CAP_REDIRECT :
               streq(mode, "clone")    ? VSS_CAP_CLONE :
                                         0;
}

void provider_fill_volume(struct vss_wire_request *request, const Volume *v) {
        assert(request);
        assert(v);
        request->dev = v->dev;
        request->subvolume = v->subvolume;
        request->size_bytes = v->size_bytes;
        fill(request->volume, sizeof(request->volume), v->name);
        fill(request->mount_point, sizeof(request->mount_point), v->mount_point);
        fill(request->device, sizeof(request->device), v->device);
        fill(request->fs_type, sizeof(request->fs_type), v->fs_type);
        fill(request->fs_uuid, sizeof(request->fs_uuid), v->fs_uuid);
}

void provider_fill_load(struct vss_wire_request *ret, const char *provider) {
        *ret = (struct vss_wire_request) { .op = VSS_WIRE_LOAD };
        fill(ret->name, sizeof(ret->name), provider);
        fill(ret->text, sizeof(ret->text), VSS_VERSION);
}

int provider_names(char ***ret) {
        assert(ret);
        _cleanup_(strings_freep) char **names = NULL;
        _cleanup_(provider_names_freep) char **files = NULL;
        for (const char *const *n = provider_builtin_names(); *n; n++) {
                int r = strings_append(&names, *n);
                if (r < 0)
                        return r;
        }
        /* A directory that others can write to is as good as none; loading by name says why. */
        if (provider_directory_names(&files) >= 0)
                for (char **n = files; *n; n++) {
                        int r = strings_append(&names, *n);
                        if (r < 0)
                                return r;
                }
        *ret = TAKE_PTR(names);
        return 0;
}
