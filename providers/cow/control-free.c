/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands about free space. Tracking belongs to the connection that asked for it, as a hold does: when that ends,
 * nothing is skipped. The map comes as a sealed memory file, because a large one does not fit into a message.
 */
#include "protocol/jsonutil.h"
#include "providers/cow/server.h"
#include <fcntl.h>
#include <sys/stat.h>

static Tracker *tracker_of(Server *s, unsigned volume) {
        for (unsigned i = 0; i < STORE_VOLUMES_MAX; i++)
                if (s->trackers[i].connection && s->trackers[i].volume == volume)
                        return &s->trackers[i];
        return NULL;
}

static Tracker *tracker_new(Server *s) {
        for (unsigned i = 0; i < STORE_VOLUMES_MAX; i++)
                if (!s->trackers[i].connection)
                        return &s->trackers[i];
        return NULL;
}

static Volume *call_volume(Call *c, VolumeInfo *ret) {
        Volume *v = engine_volume_by_name(c->server->engine, json_get_string(c->request, "name", ""));
        if (v)
                engine_volume_info(v, ret);
        return v && ret->attached ? v : NULL;
}

bool connection_tracks(const Connection *k, const Volume *v) {
        VolumeInfo info;
        engine_volume_info(v, &info);
        const Tracker *t = tracker_of(k->server, info.number);
        return t && t->connection == k;
}

void connection_untrack(Connection *k) {
        Server *s = k->server;
        for (unsigned i = 0; i < STORE_VOLUMES_MAX; i++) {
                if (s->trackers[i].connection != k)
                        continue;
                Volume *v = engine_volume_by_number(s->engine, s->trackers[i].volume);
                if (v)
                        engine_untrack(s->engine, v);
                s->trackers[i] = (Tracker) {};
        }
}

/* The last to ask has it: there is one set at a time for a volume, and what is left of another must not count. */
void control_track(Call *c) {
        VolumeInfo info;
        Volume *v = call_volume(c, &info);
        if (!v) {
                call_end(c, -ENOENT, "there is no such volume, or it is not attached");
                return;
        }
        Tracker *t = tracker_of(c->server, info.number) ?: tracker_new(c->server);
        int r = t ? engine_track(c->server->engine, v) : -EDQUOT;
        if (r == 0)
                *t = (Tracker) { c->connection, info.number };
        call_end(c, r, r == -EOPNOTSUPP ? "the volume is larger than 16 TiB" : NULL);
}

static int extents_read(Call *c, uint64_t blocks, uint32_t *ret_n) {
        int seals = c->fd < 0 ? -1 : fcntl(c->fd, F_GET_SEALS);
        uint64_t max = free_extents_max(blocks);
        struct stat st;
        if (seals < 0 || !(seals & F_SEAL_SHRINK) || !(seals & F_SEAL_WRITE) || fstat(c->fd, &st) < 0 ||
            (size_t) st.st_size % sizeof(FreeExtent))
                return -EINVAL;
        size_t size = (size_t) st.st_size, at = 0;
        if (size / sizeof(FreeExtent) > max)
                return -E2BIG;
        c->extents = malloc(size + 1);
        if (!c->extents)
                return -ENOMEM;
        while (at < size) {
                ssize_t n = pread(c->fd, (uint8_t *) c->extents + at, size - at, (off_t) at);
                if (n <= 0 && !(n < 0 && errno == EINTR))
                        return -EIO;
                at += n > 0 ? (size_t) n : 0;
        }
        *ret_n = (uint32_t) (size / sizeof(FreeExtent));
        return 0;
}

static void map_ended(Call *c, int result) {
        call_end(c, result, c->reply.message);
}

void control_free_map(Call *c) {
        VolumeInfo info;
        Volume *v = call_volume(c, &info);
        uint32_t n = 0;
        if (!v || !connection_tracks(c->connection, v)) {
                call_end(c, v ? -ESTALE : -ENOENT,
                         v ? "this connection does not track the volume" : "there is no such volume");
                return;
        }
        int r = extents_read(c, info.bytes / BLOCK_SIZE, &n);
        if (r < 0) {
                engine_untrack(c->server->engine, v);
                call_end(c, r,
                         r == -EINVAL ? "the map is not a sealed memory file of extents" :
                         r == -E2BIG  ? "free space is too scattered for a map" :
                                        NULL);
                return;
        }
        FreeExtent *x = TAKE_PTR(c->extents); /* the call may have ended when this returns */
        engine_free_map(c->server->engine, v, x, n, call_step(c, map_ended));
        free(x);
}
