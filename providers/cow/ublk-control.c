/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * On plain liburing: a ring of its own with large entries, since these commands take 80 bytes. libublksrv is not
 * packaged, and has no recovery that starts from a device found.
 */
#include "providers/cow/ublk-control.h"
#include <liburing.h>
#include <sys/ioctl.h>

enum {
        CONTROL_ENTRIES = 4,
        GET_FEATURES = 0x13,
        DEL_DEV_ASYNC = 0x14,
        OWNER_MAGIC = 0x5653, /* "VS" */
};

typedef struct RingControl {
        UblkControl control;
        struct io_uring ring;
        int fd;
} RingControl;

static uint32_t opcode(unsigned nr, bool writes) {
        return writes ? _IOWR('u', nr, struct ublksrv_ctrl_cmd) : _IOR('u', nr, struct ublksrv_ctrl_cmd);
}

static int command_by_ring(UblkControl *control, unsigned nr, bool writes, const struct ublksrv_ctrl_cmd *cmd) {
        RingControl *c = container_of(control, RingControl, control);
        struct io_uring_sqe *s = io_uring_get_sqe(&c->ring);
        struct io_uring_cqe *e = NULL;
        if (!s)
                return -EBUSY;
        memset(s, 0, 2 * sizeof(*s));
        io_uring_prep_rw(IORING_OP_URING_CMD, s, c->fd, NULL, 0, 0);
        s->cmd_op = opcode(nr, writes);
        memcpy(s->cmd, cmd, sizeof(*cmd));
        int r;
        do
                r = io_uring_submit_and_wait(&c->ring, 1);
        while (r == -EINTR);
        if (r >= 0)
                r = io_uring_peek_cqe(&c->ring, &e);
        if (r < 0)
                return r;
        r = e->res;
        io_uring_cqe_seen(&c->ring, e);
        return r;
}

int ublk_control_probe(UblkControl *c) {
        uint64_t features = 0;
        struct ublksrv_ctrl_cmd cmd = {
                .dev_id = UINT32_MAX,
                .queue_id = UINT16_MAX,
                .addr = (uint64_t) (uintptr_t) &features,
                .len = sizeof(features),
        };
        int r = c->command(c, GET_FEATURES, false, &cmd);
        if (r < 0) /* before Linux 6.5 it cannot be asked */
                return -EOPNOTSUPP;
        c->features = features & (UBLK_FEATURES_NEEDED | UBLK_FEATURE_NO_PARTITIONS);
        return (features & UBLK_FEATURES_NEEDED) == UBLK_FEATURES_NEEDED ? 0 : -EOPNOTSUPP;
}

int ublk_control_new(int fd, UblkControl **ret) {
        struct io_uring_params p = { .flags = IORING_SETUP_SQE128 };
        RingControl *c = calloc(1, sizeof(RingControl));
        if (!c)
                return -ENOMEM;
        c->control.command = command_by_ring;
        c->fd = fd;
        int r = io_uring_queue_init_params(CONTROL_ENTRIES, &c->ring, &p);
        if (r < 0) {
                free(c);
                return r;
        }
        r = ublk_control_probe(&c->control);
        if (r < 0)
                (void) ublk_control_free(&c->control);
        else
                *ret = &c->control;
        return r;
}

UblkControl *ublk_control_free(UblkControl *control) {
        if (!control)
                return NULL;
        RingControl *c = container_of(control, RingControl, control);
        io_uring_queue_exit(&c->ring);
        free(c);
        return NULL;
}

/* --- whose it is -------------------------------------------------------------------------------------------------- */

uint64_t ublk_owner_pack(const UblkOwner *o) {
        uint64_t v = OWNER_MAGIC;
        for (unsigned i = 0; i < sizeof(o->store); i++)
                v = v << 8 | o->store[i];
        return v << 16 | (uint64_t) (o->kind & 0xf) << 12 | (o->volume & 0xfff);
}

_Static_assert(VOLUME_NUMBERS - 1 <= 0xfff, "the number of a volume in the 64 bits of its device");

bool ublk_owner_unpack(uint64_t flags, UblkOwner *ret) {
        *ret = (UblkOwner) { .kind = (uint16_t) (flags >> 12 & 0xf), .volume = (uint16_t) (flags & 0xfff) };
        for (unsigned i = 0; i < sizeof(ret->store); i++)
                ret->store[i] = (uint8_t) (flags >> (40 - 8 * i));
        return flags >> 48 == OWNER_MAGIC && ret->kind >= NODE_VOLUME && ret->kind <= NODE_OVERLAY;
}

/* --- commands ----------------------------------------------------------------------------------------------------- */

static int simple(UblkControl *c, unsigned nr, unsigned number, uint64_t data) {
        struct ublksrv_ctrl_cmd cmd = { .dev_id = number, .queue_id = UINT16_MAX, .data = { data } };
        return c->command(c, nr, true, &cmd);
}

static int with_buffer(UblkControl *c, unsigned nr, bool writes, unsigned number, void *buffer, size_t size) {
        struct ublksrv_ctrl_cmd cmd = {
                .dev_id = number,
                .queue_id = UINT16_MAX,
                .addr = (uint64_t) (uintptr_t) buffer,
                .len = (uint16_t) size,
        };
        return c->command(c, nr, writes, &cmd);
}

static uint8_t shift_of(uint32_t block_size) {
        return (uint8_t) __builtin_ctz(block_size);
}

/*
 * Discards and zeroing come apart here, so a discard is advice. An overlay has neither, nor writes that are durable at
 * once: what is in it does not outlive its holder.
 */
void ublk_params_of(const Node *n, struct ublk_params *ret) {
        bool volume = n->kind == NODE_VOLUME;
        *ret = (struct ublk_params) {
                .len = sizeof(*ret),
                .types = UBLK_PARAM_TYPE_BASIC | (volume ? UBLK_PARAM_TYPE_DISCARD : 0),
                .basic = {
                        .attrs = n->kind == NODE_COPY ? UBLK_ATTR_READ_ONLY :
                                                        UBLK_ATTR_VOLATILE_CACHE | (volume ? UBLK_ATTR_FUA : 0),
                        .logical_bs_shift = shift_of(n->block_size),
                        .physical_bs_shift = shift_of(BLOCK_SIZE),
                        .io_opt_shift = shift_of(BLOCK_SIZE),
                        .io_min_shift = shift_of(BLOCK_SIZE),
                        .max_sectors = REQUEST_BYTES_MAX / 512,
                        .dev_sectors = n->bytes / 512,
                },
        };
        if (volume)
                ret->discard = (struct ublk_param_discard) {
                        .discard_granularity = BLOCK_SIZE,
                        .max_discard_sectors = UINT32_MAX / 512 / 8 * 8,
                        .max_write_zeroes_sectors = UINT32_MAX / 512 / 8 * 8,
                        .max_discard_segments = 1,
                };
}

int ublk_add(UblkControl *c, const Node *n, const UblkOwner *o) {
        struct ublksrv_ctrl_dev_info info = {
                .nr_hw_queues = 1, /* one thread serves them all */
                .queue_depth = (uint16_t) ublk_depth(n->kind),
                .max_io_buf_bytes = REQUEST_BYTES_MAX,
                .dev_id = UINT32_MAX, /* any */
                .ublksrv_pid = getpid(),
                .flags = c->features,
                .ublksrv_flags = ublk_owner_pack(o),
        };
        struct ublk_params params;
        int r = with_buffer(c, UBLK_CMD_ADD_DEV, true, UINT32_MAX, &info, sizeof(info));
        if (r < 0)
                return r;
        ublk_params_of(n, &params);
        if ((info.flags & UBLK_FEATURES_NEEDED) != UBLK_FEATURES_NEEDED)
                r = -EOPNOTSUPP;
        else
                r = with_buffer(c, UBLK_CMD_SET_PARAMS, true, info.dev_id, &params, sizeof(params));
        if (r < 0) {
                (void) ublk_delete(c, info.dev_id);
                return r;
        }
        return (int) info.dev_id;
}

int ublk_start(UblkControl *c, unsigned number, pid_t server) {
        return simple(c, UBLK_CMD_START_DEV, number, (uint64_t) server);
}

int ublk_stop(UblkControl *c, unsigned number) {
        return simple(c, UBLK_CMD_STOP_DEV, number, 0);
}

int ublk_delete(UblkControl *c, unsigned number) {
        struct ublksrv_ctrl_cmd cmd = { .dev_id = number, .queue_id = UINT16_MAX };
        int r = c->command(c, DEL_DEV_ASYNC, false, &cmd);
        return r == -EOPNOTSUPP || r == -EINVAL ? simple(c, UBLK_CMD_DEL_DEV, number, 0) : r;
}

int ublk_info(UblkControl *c, unsigned number, struct ublksrv_ctrl_dev_info *ret) {
        *ret = (struct ublksrv_ctrl_dev_info) {};
        return with_buffer(c, UBLK_CMD_GET_DEV_INFO, false, number, ret, sizeof(*ret));
}

int ublk_bytes(UblkControl *c, unsigned number, uint64_t *ret) {
        struct ublk_params params = { .len = sizeof(params) };
        int r = with_buffer(c, UBLK_CMD_GET_PARAMS, false, number, &params, sizeof(params));
        *ret = params.basic.dev_sectors * 512;
        return r;
}

/*
 * -EINVAL is also what the kernel says of a device whose last server died after it began to take it over, and before it
 * took requests. It is in the state that this command makes, so there is nothing more to do.
 */
int ublk_recover_begin(UblkControl *c, unsigned number) {
        struct ublksrv_ctrl_dev_info info;
        int r = simple(c, UBLK_CMD_START_USER_RECOVERY, number, 0);
        if (r != -EINVAL || ublk_info(c, number, &info) < 0)
                return r;
        return info.state == UBLK_STATE_QUIESCED ? 0 : r;
}

int ublk_recover_end(UblkControl *c, unsigned number, pid_t server) {
        return simple(c, UBLK_CMD_END_USER_RECOVERY, number, (uint64_t) server);
}
