/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What requests of files and devices mean to the engine. */
#include "providers/cow/front.h"

/* The volume of n, if it is attached, and the range inside of it; *length is cut at the end. */
static Volume *range_volume(const Front *f, const Node *n, uint64_t offset, uint64_t *length) {
        VolumeInfo info;
        Volume *v = n ? engine_volume_by_number(f->options->engine, n->volume) : NULL;
        if (!v)
                return NULL;
        engine_volume_info(v, &info);
        if (!info.attached || offset % 512 || *length % 512)
                return NULL;
        *length = offset >= n->bytes ? 0 : MIN_OF(*length, n->bytes - offset);
        return v;
}

int front_request(const Front *f, const Node *n, RequestOp op, uint64_t offset, uint64_t length, Request *q) {
        Volume *v = range_volume(f, n, offset, &length);
        if (!v || length > UINT32_MAX)
                return n ? -EIO : -ENOENT;
        if (n->kind == NODE_COPY && op != REQUEST_READ && op != REQUEST_FLUSH)
                return -EROFS;
        if (n->kind == NODE_OVERLAY && (op == REQUEST_ZERO || op == REQUEST_DISCARD))
                return -EOPNOTSUPP; /* whoever needs zeros writes them then */
        *q = (Request) {
                .op = op,
                .volume = v,
                .snapshot = n->kind == NODE_VOLUME ? NULL : n->snapshot,
                .offset = offset,
                .length = (uint32_t) length,
        };
        return 0;
}

void front_submit(const Front *f, const Node *n, Request *q) {
        if (n->kind == NODE_COPY && q->op == REQUEST_FLUSH) /* nothing is ever written there */
                q->done(q, 0);
        else if (n->kind == NODE_OVERLAY)
                overlay_submit(f->options->overlays, n->overlay, q);
        else
                engine_submit(f->options->engine, q);
}

int front_done(const Front *f, const Request *q, int result) {
        VolumeInfo info;
        if ((q->op == REQUEST_WRITE || q->op == REQUEST_ZERO) && !q->snapshot && q->offset < f->options->head_bytes) {
                engine_volume_info(q->volume, &info);
                f->options->head_written(f->options->userdata, info.number);
        }
        return result >= 0 ? 0 : result == -ENOSPC ? -ENOSPC : -EIO;
}
