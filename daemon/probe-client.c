/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssd's side of vss-probe. The child may hang where no signal reaches it, so at the deadline it is killed and dropped,
 * whether it has gone or not. What it says is checked like anything from outside: it has looked at disks and paths that
 * others control.
 */
#include "daemon/probe.h"
#include "protocol/base.h"
#include "protocol/text.h"
#include <stdio.h>
#include <sys/stat.h>

struct Probe {
        Child child;
        sd_event_source *socket_source, *timer;
        struct ProbeRequest *requests; /* paths, then END */
        size_t n_requests, n_sent;
        char **paths; /* as given; of arguments, else NULL */
        size_t n_paths, volumes_space;
        int looking_at; /* the argument that is being looked up, -1: none */
        ProbeResult *result;
        ProbeDone done;
        void *userdata;
};

static void probe_stop(Probe *p) {
        int status;

        p->socket_source = sd_event_source_disable_unref(p->socket_source);
        p->timer = sd_event_source_disable_unref(p->timer);
        if (p->child.pid <= 0)
                return;
        child_kill(&p->child);
        (void) child_reap(&p->child, &status); /* if it takes longer, the loop's reaper does it */
        child_done(&p->child);
}

/* The callback may free the probe. */
static void probe_finish(Probe *p, const Failure *failure) {
        ProbeResult *result = TAKE_PTR(p->result);

        probe_stop(p);
        if (failure)
                result = probe_result_free(result);
        p->done(&result, failure, p->userdata);
        (void) probe_result_free(result);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Probe *p = userdata;
        Failure f;

        (void) failure_set(
                &f, CONDITION_DEADLINE_PASSED,
                "Looking at %.300s took longer than %llu s: a network mount may be dead; unmount it or name another path",
                p->looking_at >= 0 && p->paths[p->looking_at] ? p->paths[p->looking_at] : "the volumes",
                BUDGET_PATH_USEC / USEC_PER_SEC);
        probe_finish(p, &f);
        return 0;
}

/* ---- answers ---- */

static int take_string(const char *s, char **ret) {
        if (!text_is_valid(s, LIMIT_PATH_BYTES))
                return -EBADMSG;
        if (isempty(s))
                return 0;
        *ret = strdup(s);
        return *ret ? 0 : -ENOMEM;
}

static int take_descriptor(Volume *v, const struct ProbeReply *reply, int *fd) {
        struct stat st;

        if (!reply->has_fd != (*fd < 0))
                return -EBADMSG;
        if (*fd < 0)
                return 0;
        if (fstat(*fd, &st) < 0)
                return -errno;
        if (!S_ISDIR(st.st_mode) || st.st_dev != reply->dev)
                return -EBADMSG;
        v->root_fd = TAKE_FD(*fd);
        return 0;
}

static int volume_from_reply(const Probe *p, const struct ProbeReply *reply, int *fd, Volume **ret) {
        _cleanup_(volume_freep) Volume *v = NULL;
        int r;

        if (reply->kind >= _VOLUME_KIND_MAX || reply->n_keys > VOLUME_KEYS_MAX || isempty(reply->name) ||
            reply->index < -1 ||
            (reply->index >= 0 && ((size_t) reply->index >= p->n_paths || !p->paths[reply->index])))
                return -EBADMSG;
        v = calloc(1, sizeof(*v));
        if (!v)
                return -ENOMEM;
        v->root_fd = -EBADF;
        v->kind = (VolumeKind) reply->kind;
        v->dev = reply->dev;
        v->superblock = reply->superblock;
        v->subvolume = reply->subvolume;
        v->size_bytes = reply->size_bytes;
        v->mount_id = reply->mount_id;
        v->level = reply->level;
        v->can_hold = reply->can_hold;
        v->chosen = reply->chosen;
        v->n_keys = reply->n_keys;
        memcpy(v->keys, reply->keys, v->n_keys * sizeof(v->keys[0]));
        if ((r = take_string(reply->name, &v->name)) < 0 ||
            (r = take_string(reply->mount_point, &v->mount_point)) < 0 ||
            (r = take_string(reply->device, &v->device)) < 0 || (r = take_string(reply->fs_type, &v->fs_type)) < 0 ||
            (r = take_string(reply->fs_uuid, &v->fs_uuid)) < 0 || (r = take_string(reply->text, &v->why_not)) < 0)
                return r;
        if (reply->index >= 0 && !(v->argument = strdup(p->paths[reply->index])))
                return -ENOMEM;
        if (reply->kind != VOLUME_BLOCK && (r = strings_append(&v->mount_points, v->name)) < 0)
                return r;
        r = take_descriptor(v, reply, fd);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(v);
        return 0;
}

static int take_volume(Probe *p, const struct ProbeReply *reply, int *fd) {
        ProbeResult *result = p->result;

        if (result->n_volumes >= PROBE_VOLUMES_MAX || reply->volume != (int32_t) result->n_volumes)
                return -EBADMSG;
        if (result->n_volumes == p->volumes_space) {
                Volume **more = reallocarray(result->volumes, p->volumes_space * 2 + 16, sizeof(*more));
                if (!more)
                        return -ENOMEM;
                result->volumes = more;
                p->volumes_space = p->volumes_space * 2 + 16;
        }
        int r = volume_from_reply(p, reply, fd, &result->volumes[result->n_volumes]);
        if (r < 0)
                return r;
        result->n_volumes++;
        p->looking_at = -1;
        return 0;
}

static int take_found(Probe *p, const struct ProbeReply *reply) {
        ProbeResult *result = p->result;

        if (reply->index < 0 || (size_t) reply->index >= p->n_paths || reply->volume < -1 ||
            reply->volume >= (int32_t) result->n_volumes || reply->condition >= _CONDITION_MAX ||
            (reply->condition == CONDITION_NONE) != (reply->volume >= 0) ||
            !text_is_valid(reply->text, sizeof(reply->text)))
                return -EBADMSG;
        result->path_volume[reply->index] = reply->volume;
        result->path_owner[reply->index] = reply->owner;
        if (reply->volume < 0)
                (void) failure_set(&result->path_failure[reply->index], (Condition) reply->condition, "%s",
                                   reply->text);
        else
                result->path_failure[reply->index] = (Failure) {};
        return 0;
}

static int take_text(char ***list, const struct ProbeReply *reply, const char *separator) {
        char text[LIMIT_PATH_BYTES + LIMIT_MESSAGE_BYTES + 2];

        if (!text_is_valid(reply->name, sizeof(reply->name)) || !text_is_valid(reply->text, sizeof(reply->text)) ||
            strings_count(*list) >= PROBE_TEXTS_MAX)
                return -EBADMSG;
        (void) snprintf(text, sizeof(text), "%s%s%s", reply->name, separator, reply->text);
        return strings_append(list, text);
}

/* 1: that was the last one. */
static int probe_take(Probe *p, const struct ProbeReply *reply, int *fd) {
        ProbeResult *result = p->result;

        switch (reply->op) {
        case PROBE_AT:
                if (reply->index < 0 || (size_t) reply->index >= p->n_paths)
                        return -EBADMSG;
                p->looking_at = reply->index;
                return 0;
        case PROBE_VOLUME:
                return take_volume(p, reply, fd);
        case PROBE_MOUNT:
                if (reply->volume < 0 || (size_t) reply->volume >= result->n_volumes)
                        return -EBADMSG;
                return take_text(&result->volumes[reply->volume]->mount_points, reply, "");
        case PROBE_FOUND:
                return take_found(p, reply);
        case PROBE_LEFT_OUT:
                return take_text(&result->left_out, reply, ": ");
        case PROBE_STALLS:
                return take_text(&result->stalls, reply, " ");
        case PROBE_WARNING:
                return take_text(&result->warnings, reply, "");
        case PROBE_DONE:
                return 1;
        default:
                return -EBADMSG;
        }
}

static void reply_terminate(struct ProbeReply *reply) {
        reply->name[sizeof(reply->name) - 1] = '\0';
        reply->mount_point[sizeof(reply->mount_point) - 1] = '\0';
        reply->device[sizeof(reply->device) - 1] = '\0';
        reply->fs_type[sizeof(reply->fs_type) - 1] = '\0';
        reply->fs_uuid[sizeof(reply->fs_uuid) - 1] = '\0';
        reply->text[sizeof(reply->text) - 1] = '\0';
}

static int probe_send(Probe *p) {
        for (; p->n_sent < p->n_requests; p->n_sent++) {
                int r = child_send(p->child.socket, &p->requests[p->n_sent], sizeof(p->requests[0]), -1);
                if (r == -EAGAIN)
                        return sd_event_source_set_io_events(p->socket_source, EPOLLIN | EPOLLOUT);
                if (r < 0)
                        return r == -EPIPE ? 0 : r; /* its end is to be read */
        }
        return sd_event_source_set_io_events(p->socket_source, EPOLLIN);
}

static int on_socket(sd_event_source *source, int socket, uint32_t revents, void *userdata) {
        Probe *p = userdata;
        struct ProbeReply reply;
        _cleanup_close_ int fd = -EBADF;
        Failure f;
        int r = probe_send(p);

        if (r >= 0)
                r = child_receive(p->child.socket, &reply, sizeof(reply), &fd);
        if (r == 0)
                return 0;
        if (r > 0) {
                reply_terminate(&reply);
                r = probe_take(p, &reply, &fd);
        }
        if (r == 0)
                return 0;
        if (r > 0 && reply.condition == CONDITION_NONE) {
                probe_finish(p, NULL);
                return 0;
        }
        if (r > 0 && reply.condition < _CONDITION_MAX && text_is_valid(reply.text, sizeof(reply.text)))
                (void) failure_set(&f, (Condition) reply.condition, "%s", reply.text);
        else
                (void) failure_set(&f, CONDITION_FAILED, "Cannot look at the volumes: vss-probe %s",
                                   r == -EPIPE ? "ended too early; see the log" : "gave an impossible answer");
        probe_finish(p, &f);
        return 0;
}

/* ---- the question ---- */

static int probe_add_path(Probe *p, const ProbePath *path) {
        struct ProbeRequest *request = &p->requests[p->n_requests];
        size_t i = p->n_paths++;

        p->result->path_volume[i] = -1;
        p->result->path_owner[i] = (uid_t) -1;
        (void) failure_set(&p->result->path_failure[i], CONDITION_FAILED, "%.300s was not looked at", path->path);
        if (path->is_argument && !(p->paths[i] = strdup(path->path)))
                return -ENOMEM;
        if (strlen(path->path) >= sizeof(request->path)) {
                (void) failure_set(&p->result->path_failure[i], CONDITION_INVALID_ARGUMENT,
                                   "A path of a volume is longer than %d bytes", LIMIT_PATH_BYTES - 1);
                return 0;
        }
        *request = (struct ProbeRequest) {
                .op = PROBE_PATH,
                .index = (uint32_t) i,
                .is_argument = path->is_argument,
                .may_be_missing = path->may_be_missing,
        };
        strcpy(request->path, path->path);
        p->n_requests++;
        return 0;
}

static int probe_prepare(Probe *p, const ProbePath *paths, size_t n_paths, unsigned flags, uid_t uid) {
        int r;

        p->requests = calloc(n_paths + 1, sizeof(*p->requests));
        p->paths = calloc(n_paths + 1, sizeof(*p->paths));
        p->result = calloc(1, sizeof(*p->result));
        if (!p->requests || !p->paths || !p->result)
                return -ENOMEM;
        p->result->path_volume = calloc(n_paths + 1, sizeof(*p->result->path_volume));
        p->result->path_failure = calloc(n_paths + 1, sizeof(*p->result->path_failure));
        p->result->path_owner = calloc(n_paths + 1, sizeof(*p->result->path_owner));
        if (!p->result->path_volume || !p->result->path_failure || !p->result->path_owner)
                return -ENOMEM;
        for (size_t i = 0; i < n_paths; i++) {
                r = probe_add_path(p, &paths[i]);
                if (r < 0)
                        return r;
        }
        p->result->n_paths = n_paths;
        p->requests[p->n_requests++] = (struct ProbeRequest) { .op = PROBE_END, .flags = flags, .uid = uid };
        return 0;
}

static int probe_start(Probe *p, sd_event *event) {
        char program[LIMIT_PATH_BYTES], *argv[] = { program, NULL };
        int r = child_program_path("vss-probe", program, sizeof(program));

        if (r >= 0)
                r = child_spawn(argv, CHILD_DIES_WITH_US | CHILD_LATER, &p->child);
        if (r >= 0)
                r = sd_event_add_io(event, &p->socket_source, p->child.socket, EPOLLIN | EPOLLOUT, on_socket, p);
        if (r >= 0)
                r = sd_event_add_time(event, &p->timer, CLOCK_MONOTONIC, now_usec() + BUDGET_PATH_USEC, 0, on_timer, p);
        return r;
}

int probe_new(sd_event *event, const ProbePath *paths, size_t n_paths, unsigned flags, uid_t uid, ProbeDone done,
              void *userdata, Probe **ret) {
        _cleanup_(probe_freep) Probe *p = NULL;
        int r;

        assert(event && done && ret);
        if (n_paths > PROBE_PATHS_MAX)
                return -E2BIG;
        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        p->child = CHILD_NULL;
        p->looking_at = -1;
        p->done = done;
        p->userdata = userdata;
        r = probe_prepare(p, paths, n_paths, flags, uid);
        if (r >= 0)
                r = probe_start(p, event);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

int probe_list(sd_event *event, ProbeDone done, void *userdata, Probe **ret) {
        return probe_new(event, NULL, 0, PROBE_LIST, 0, done, userdata, ret);
}

Probe *probe_free(Probe *p) {
        if (!p)
                return NULL;
        probe_stop(p);
        (void) probe_result_free(p->result);
        for (size_t i = 0; p->paths && i < p->n_paths; i++)
                free(p->paths[i]);
        free(p->paths);
        free(p->requests);
        free(p);
        return NULL;
}
