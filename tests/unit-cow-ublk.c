/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk devices against a kernel of our own: what is asked of it, and what becomes of its answers. The rest of this
 * front end needs the real one (tests/vm/guest/ublk-kill.sh).
 */
#include "providers/cow/ublk-control.h"
#include "tests/support.h"
#include <check.h>

enum { GET_FEATURES = 0x13, DEL_DEV_ASYNC = 0x14, ASKED_MAX = 16, NUMBER = 7 };

static struct {
        UblkControl control;
        uint64_t features, granted; /* what it says it has, and what it gives a new device */
        int answers[256];           /* by number of the command */
        unsigned asked[ASKED_MAX], n_asked;
        struct ublksrv_ctrl_dev_info info; /* that a device was added with, and has */
        struct ublk_params params;
        uint64_t pid;
} kernel;

static int command(UblkControl *c, unsigned nr, bool writes, const struct ublksrv_ctrl_cmd *cmd) {
        void *buffer = (void *) (uintptr_t) cmd->addr;
        ck_assert_uint_lt(kernel.n_asked, ASKED_MAX);
        kernel.asked[kernel.n_asked++] = nr;
        ck_assert_uint_eq(cmd->queue_id, UINT16_MAX);
        if (kernel.answers[nr] < 0)
                return kernel.answers[nr];
        if (nr == GET_FEATURES) {
                ck_assert_uint_eq(cmd->len, sizeof(kernel.features));
                memcpy(buffer, &kernel.features, sizeof(kernel.features));
        } else if (nr == UBLK_CMD_ADD_DEV) {
                ck_assert_uint_eq(cmd->dev_id, UINT32_MAX);
                memcpy(&kernel.info, buffer, sizeof(kernel.info));
                kernel.info.dev_id = NUMBER;
                kernel.info.flags &= kernel.granted;
                memcpy(buffer, &kernel.info, sizeof(kernel.info));
        } else
                ck_assert_uint_eq(cmd->dev_id, NUMBER);
        if (nr == UBLK_CMD_SET_PARAMS)
                memcpy(&kernel.params, buffer, sizeof(kernel.params));
        if (nr == UBLK_CMD_GET_PARAMS)
                memcpy(buffer, &kernel.params, sizeof(kernel.params));
        if (nr == UBLK_CMD_GET_DEV_INFO)
                memcpy(buffer, &kernel.info, sizeof(kernel.info));
        if (nr == UBLK_CMD_START_DEV || nr == UBLK_CMD_END_USER_RECOVERY)
                kernel.pid = cmd->data[0];
        return 0;
}

static void setup(void) {
        memset(&kernel, 0, sizeof(kernel));
        kernel.control.command = command;
        kernel.features = kernel.granted = 0x1fe; /* Linux 6.12 */
        ck_assert_int_eq(ublk_control_probe(&kernel.control), 0);
        kernel.n_asked = 0;
}

static void expect_asked(unsigned n, const unsigned *wanted) {
        ck_assert_uint_eq(kernel.n_asked, n);
        for (unsigned i = 0; i < n; i++)
                ck_assert_uint_eq(kernel.asked[i], wanted[i]);
}
#define EXPECT_ASKED(...) \
        expect_asked(sizeof((unsigned[]) { __VA_ARGS__ }) / sizeof(unsigned), (unsigned[]) { __VA_ARGS__ })

static Node node_of(NodeKind kind) {
        return (Node) { .kind = kind, .volume = 3, .block_size = 512, .bytes = 1 << 20, .name = "v" };
}

static const UblkOwner owner = { .store = { 0xde, 0xad, 0xbe, 0xef }, .kind = NODE_VOLUME, .volume = 63 };

/* --- which kernel ------------------------------------------------------------------------------------------------- */

START_TEST(kernel_without_a_needed_feature_is_refused) {
        static const uint64_t needed[] = { UBLK_FEATURE_RECOVERY, UBLK_FEATURE_REISSUE, UBLK_FEATURE_IOCTL_ENCODE,
                                           UBLK_FEATURE_USER_COPY };
        for (size_t i = 0; i < ELEMENTSOF(needed); i++) {
                kernel.features = 0x1fe & ~needed[i];
                ck_assert_int_eq(ublk_control_probe(&kernel.control), -EOPNOTSUPP);
        }
}
END_TEST

START_TEST(kernel_that_cannot_be_asked_is_refused) {
        kernel.answers[GET_FEATURES] = -EINVAL; /* before 6.5 */
        ck_assert_int_eq(ublk_control_probe(&kernel.control), -EOPNOTSUPP);
}
END_TEST

START_TEST(newer_features_are_not_asked_for) {
        const Node n = node_of(NODE_VOLUME);
        kernel.features = kernel.granted = UINT64_MAX;
        ck_assert_int_eq(ublk_control_probe(&kernel.control), 0);
        ck_assert_int_eq(ublk_add(&kernel.control, &n, &owner), NUMBER);
        ck_assert_uint_eq(kernel.info.flags, UBLK_FEATURES_NEEDED | UBLK_FEATURE_NO_PARTITIONS);
}
END_TEST

/* --- whose it is -------------------------------------------------------------------------------------------------- */

START_TEST(owner_is_found_again) {
        UblkOwner o;
        for (uint16_t kind = NODE_VOLUME; kind <= NODE_OVERLAY; kind++)
                for (uint16_t volume = 0; volume < VOLUME_NUMBERS; volume++) {
                        const UblkOwner wanted = { .store = { 0xff, 0, 0x80, 1 }, .kind = kind, .volume = volume };
                        ck_assert(ublk_owner_unpack(ublk_owner_pack(&wanted), &o));
                        ck_assert_mem_eq(o.store, wanted.store, sizeof(o.store));
                        ck_assert_uint_eq(o.kind, kind);
                        ck_assert_uint_eq(o.volume, volume);
                }
}
END_TEST

START_TEST(devices_of_others_are_not_ours) {
        UblkOwner o;
        ck_assert(!ublk_owner_unpack(0, &o));
        ck_assert(!ublk_owner_unpack(UINT64_MAX, &o));
        ck_assert(!ublk_owner_unpack(ublk_owner_pack(&owner) ^ 1ULL << 63, &o));
        ck_assert(!ublk_owner_unpack(ublk_owner_pack(&owner) & ~0xf000ULL, &o));
}
END_TEST

/* --- what it looks like ------------------------------------------------------------------------------------------- */

START_TEST(volume_has_a_cache_fua_and_discard) {
        Node n = node_of(NODE_VOLUME);
        n.block_size = 4096;
        ck_assert_int_eq(ublk_add(&kernel.control, &n, &owner), NUMBER);
        EXPECT_ASKED(UBLK_CMD_ADD_DEV, UBLK_CMD_SET_PARAMS);
        ck_assert_uint_eq(kernel.info.nr_hw_queues, 1);
        ck_assert_uint_eq(kernel.info.queue_depth, UBLK_DEPTH);
        ck_assert_uint_eq(kernel.params.basic.attrs, UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA);
        ck_assert_uint_eq(kernel.params.basic.logical_bs_shift, 12);
        ck_assert_uint_eq(kernel.params.basic.dev_sectors, 2048);
        ck_assert_uint_le(kernel.params.basic.max_sectors * 512, kernel.info.max_io_buf_bytes);
        ck_assert(kernel.params.types & UBLK_PARAM_TYPE_DISCARD);
        ck_assert_uint_eq(kernel.params.discard.max_discard_segments, 1);
        ck_assert_uint_gt(kernel.params.discard.max_write_zeroes_sectors, 0);
        /* in bytes these are the length of a Request */
        ck_assert_uint_le((uint64_t) kernel.params.discard.max_discard_sectors * 512, UINT32_MAX);
        ck_assert_uint_le((uint64_t) kernel.params.discard.max_write_zeroes_sectors * 512, UINT32_MAX);
}
END_TEST

START_TEST(copy_is_read_only) {
        const Node n = node_of(NODE_COPY);
        ck_assert_int_eq(ublk_add(&kernel.control, &n, &owner), NUMBER);
        ck_assert_uint_eq(kernel.params.basic.attrs, UBLK_ATTR_READ_ONLY);
        ck_assert_uint_eq(kernel.params.basic.logical_bs_shift, 9);
        ck_assert_uint_eq(kernel.params.types, UBLK_PARAM_TYPE_BASIC);
}
END_TEST

START_TEST(overlay_has_neither_discard_nor_fua) {
        const Node n = node_of(NODE_OVERLAY);
        ck_assert_int_eq(ublk_add(&kernel.control, &n, &owner), NUMBER);
        ck_assert_uint_eq(kernel.params.basic.attrs, UBLK_ATTR_VOLATILE_CACHE);
        ck_assert_uint_eq(kernel.params.types, UBLK_PARAM_TYPE_BASIC);
}
END_TEST

/* --- coming and going --------------------------------------------------------------------------------------------- */

START_TEST(device_that_is_refused_leaves_nothing) {
        const Node n = node_of(NODE_VOLUME);
        kernel.answers[UBLK_CMD_SET_PARAMS] = -EINVAL;
        ck_assert_int_eq(ublk_add(&kernel.control, &n, &owner), -EINVAL);
        EXPECT_ASKED(UBLK_CMD_ADD_DEV, UBLK_CMD_SET_PARAMS, DEL_DEV_ASYNC);
}
END_TEST

START_TEST(device_without_reissue_is_refused) { /* a request would be lost with its server */
        const Node n = node_of(NODE_VOLUME);
        kernel.granted = ~UBLK_FEATURE_REISSUE;
        ck_assert_int_eq(ublk_add(&kernel.control, &n, &owner), -EOPNOTSUPP);
        EXPECT_ASKED(UBLK_CMD_ADD_DEV, DEL_DEV_ASYNC);
}
END_TEST

START_TEST(older_kernels_delete_and_wait) {
        kernel.answers[DEL_DEV_ASYNC] = -EOPNOTSUPP;
        ck_assert_int_eq(ublk_delete(&kernel.control, NUMBER), 0);
        EXPECT_ASKED(DEL_DEV_ASYNC, UBLK_CMD_DEL_DEV);
}
END_TEST

START_TEST(takeover_waits_for_the_dead_one) {
        kernel.answers[UBLK_CMD_START_USER_RECOVERY] = -EBUSY;
        kernel.info.state = UBLK_STATE_LIVE;
        ck_assert_int_eq(ublk_recover_begin(&kernel.control, NUMBER), -EBUSY);
}
END_TEST

/* A server that died in the middle of taking it over: the kernel says EINVAL to the next one. */
START_TEST(takeover_that_was_begun_goes_on) {
        kernel.answers[UBLK_CMD_START_USER_RECOVERY] = -EINVAL;
        kernel.info.state = UBLK_STATE_QUIESCED;
        ck_assert_int_eq(ublk_recover_begin(&kernel.control, NUMBER), 0);
        ck_assert_int_eq(ublk_recover_end(&kernel.control, NUMBER, 4711), 0);
        ck_assert_uint_eq(kernel.pid, 4711);
        EXPECT_ASKED(UBLK_CMD_START_USER_RECOVERY, UBLK_CMD_GET_DEV_INFO, UBLK_CMD_END_USER_RECOVERY);
}
END_TEST

START_TEST(device_that_cannot_be_taken_over_is_not) {
        kernel.answers[UBLK_CMD_START_USER_RECOVERY] = -EINVAL;
        kernel.info.state = UBLK_STATE_DEAD;
        ck_assert_int_eq(ublk_recover_begin(&kernel.control, NUMBER), -EINVAL);
        kernel.answers[UBLK_CMD_GET_DEV_INFO] = -ENODEV;
        ck_assert_int_eq(ublk_recover_begin(&kernel.control, NUMBER), -EINVAL);
}
END_TEST

START_TEST(size_comes_back) {
        const Node n = node_of(NODE_VOLUME);
        uint64_t bytes;
        ck_assert_int_eq(ublk_add(&kernel.control, &n, &owner), NUMBER);
        ck_assert_int_eq(ublk_bytes(&kernel.control, NUMBER, &bytes), 0);
        ck_assert_uint_eq(bytes, n.bytes);
}
END_TEST

int main(void) {
        Suite *s = suite_create("unit-cow-ublk");
        TCase *c = tcase_create("control");
        tcase_add_checked_fixture(c, setup, NULL);
        tcase_add_test(c, kernel_without_a_needed_feature_is_refused);
        tcase_add_test(c, kernel_that_cannot_be_asked_is_refused);
        tcase_add_test(c, newer_features_are_not_asked_for);
        tcase_add_test(c, owner_is_found_again);
        tcase_add_test(c, devices_of_others_are_not_ours);
        tcase_add_test(c, volume_has_a_cache_fua_and_discard);
        tcase_add_test(c, copy_is_read_only);
        tcase_add_test(c, overlay_has_neither_discard_nor_fua);
        tcase_add_test(c, device_that_is_refused_leaves_nothing);
        tcase_add_test(c, device_without_reissue_is_refused);
        tcase_add_test(c, older_kernels_delete_and_wait);
        tcase_add_test(c, takeover_waits_for_the_dead_one);
        tcase_add_test(c, takeover_that_was_begun_goes_on);
        tcase_add_test(c, device_that_cannot_be_taken_over_is_not);
        tcase_add_test(c, size_comes_back);
        suite_add_tcase(s, c);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed > 0;
}
