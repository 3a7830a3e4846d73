/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disk of the real world against files: every request is answered once, with all of it or an error. */
#include "providers/cow/ring.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/mount.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { BLOCK = 4096, MANY = 3000 };

static Ring *ring;
static int fd;
static unsigned answers;

typedef struct Request {
        Io io;
        int result;
        unsigned answers, place; /* place: when it was answered */
} Request;

static void came(Io *io, int result) {
        Request *r = io->owner;
        r->result = result;
        r->answers++;
        r->place = ++answers;
}

static void setup(void) {
        /* /var/tmp: direct I/O, which a tmpfs has only lately */
        fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ring_new(&ring), 0);
        ck_assert_int_eq(ring_set_file(ring, DISK_STORE, fd), 0);
        answers = 0;
}

static void teardown(void) {
        ring = ring_free(ring);
        fd = close_fd(fd);
}

static void *pages(size_t n) {
        void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ck_assert_ptr_ne(p, MAP_FAILED);
        return p;
}

static void begin(Request *q, IoOp op, uint64_t offset, size_t length, void *buffer) {
        *q = (Request) { .io = { .op = op,
                                 .disk = DISK_STORE,
                                 .offset = offset,
                                 .length = length,
                                 .buffer = buffer,
                                 .done = came,
                                 .owner = q } };
        disk_submit(ring_disk(ring), &q->io);
        ck_assert_uint_eq(q->answers, 0); /* never from inside */
}

static int run(Request *q) {
        while (q->answers == 0)
                ck_assert_int_ge(ring_wait(ring), 0);
        ck_assert_uint_eq(q->answers, 1);
        return q->result;
}

static int transfer(IoOp op, uint64_t offset, size_t length, void *buffer) {
        Request q;
        begin(&q, op, offset, length, buffer);
        return run(&q);
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

START_TEST(test_roundtrip) {
        uint8_t *p = pages((size_t) 2 * BLOCK);
        memset(p, 0x5a, BLOCK);
        ck_assert_int_eq(transfer(IO_WRITE, 3 * BLOCK, BLOCK, p), BLOCK);
        ck_assert_int_eq(transfer(IO_READ, 3 * BLOCK, BLOCK, p + BLOCK), BLOCK);
        ck_assert_mem_eq(p, p + BLOCK, BLOCK);
        ck_assert_int_eq(transfer(IO_WRITE_DURABLE, 0, 512, p), 512);
        ck_assert_int_eq(transfer(IO_FLUSH, 0, 0, NULL), 0);
        (void) munmap(p, (size_t) 2 * BLOCK);
}
END_TEST

/* A read that the end of the file cuts is no success: what is missing would be taken for data. */
START_TEST(test_end_of_file) {
        uint8_t *p = pages((size_t) 4 * BLOCK);
        ck_assert_int_eq(ftruncate(fd, 2 * BLOCK), 0);
        ck_assert_int_eq(transfer(IO_READ, 0, (size_t) 2 * BLOCK, p), 2 * BLOCK);
        ck_assert_int_eq(transfer(IO_READ, BLOCK, (size_t) 3 * BLOCK, p), -EIO);
        ck_assert_int_eq(transfer(IO_READ, 8 * BLOCK, BLOCK, p), -EIO);
        ck_assert_int_eq(transfer(IO_WRITE, 8 * BLOCK, BLOCK, p), BLOCK);
        (void) munmap(p, (size_t) 4 * BLOCK);
}
END_TEST

/* More than both of the kernel's queues hold; everything is answered once, whatever the order. */
START_TEST(test_more_than_the_queue) {
        static Request q[MANY];
        uint64_t *p = pages((size_t) MANY * 512);
        uint64_t *back = pages((size_t) MANY * 512);
        for (unsigned i = 0; i < MANY; i++) {
                p[i * 64] = i + 1;
                begin(&q[i], IO_WRITE, (uint64_t) i * 512, 512, p + (size_t) i * 64);
        }
        while (answers < MANY)
                ck_assert_int_ge(ring_wait(ring), 0);
        answers = 0;
        for (unsigned i = 0; i < MANY; i++) {
                ck_assert_uint_eq(q[i].answers, 1);
                ck_assert_int_eq(q[i].result, 512);
                begin(&q[i], i % 7 ? IO_READ : IO_FLUSH, i % 7 ? (uint64_t) i * 512 : 0, i % 7 ? 512 : 0,
                      back + (size_t) i * 64);
        }
        while (answers < MANY)
                ck_assert_int_ge(ring_dispatch(ring), 0);
        for (unsigned i = 0; i < MANY; i++) {
                ck_assert_uint_eq(q[i].answers, 1);
                ck_assert_int_eq(q[i].result, i % 7 ? 512 : 0);
                ck_assert_uint_eq(back[i * 64], i % 7 ? i + 1 : 0);
        }
        ck_assert_int_eq(ring_dispatch(ring), 0);
        (void) munmap(p, (size_t) MANY * 512);
        (void) munmap(back, (size_t) MANY * 512);
}
END_TEST

/* A flush does not wait for what came before it, and need not: nobody may rely on the order. */
START_TEST(test_order_free) {
        static Request q[64];
        uint8_t *p = pages((size_t) 64 * BLOCK);
        unsigned seen = 0;
        for (unsigned i = 0; i < 64; i++)
                begin(&q[i], i % 8 == 7 ? IO_FLUSH : IO_WRITE, i % 8 == 7 ? 0 : (uint64_t) i * BLOCK,
                      i % 8 == 7 ? 0 : BLOCK, p + (size_t) i * BLOCK);
        while (answers < 64)
                ck_assert_int_ge(ring_wait(ring), 0);
        for (unsigned i = 0; i < 64; i++) {
                ck_assert_uint_eq(q[i].answers, 1);
                seen += q[i].place; /* a permutation */
        }
        ck_assert_uint_eq(seen, 64 * 65 / 2);
        (void) munmap(p, (size_t) 64 * BLOCK);
}
END_TEST

START_TEST(test_registered_memory) {
        uint8_t *p = pages((size_t) 8 * BLOCK), *outside = pages(BLOCK);
        ck_assert_int_eq(ring_register_memory(ring, p, (size_t) 8 * BLOCK), 0);
        memset(p, 1, (size_t) 8 * BLOCK);
        ck_assert_int_eq(transfer(IO_WRITE, 0, (size_t) 8 * BLOCK, p), 8 * BLOCK);
        memset(p, 0, (size_t) 8 * BLOCK);
        ck_assert_int_eq(transfer(IO_READ, BLOCK, BLOCK, p + 7 * BLOCK), BLOCK);
        ck_assert_int_eq(transfer(IO_READ, BLOCK, BLOCK, outside), BLOCK);
        ck_assert_mem_eq(p + 7 * BLOCK, outside, BLOCK);
        ck_assert_uint_eq(p[0], 0);
        (void) munmap(p, (size_t) 8 * BLOCK);
        (void) munmap(outside, BLOCK);
}
END_TEST

static void expect_zeros(uint64_t offset, size_t length) {
        uint8_t *p = pages(length), *zeros = pages(length);
        memset(p, 0xff, length);
        ck_assert_int_eq(transfer(IO_READ, offset, length, p), (int) length);
        ck_assert_mem_eq(p, zeros, length);
        (void) munmap(p, length);
        (void) munmap(zeros, length);
}

START_TEST(test_zero) {
        size_t length = (size_t) 64 * BLOCK;
        uint8_t *p = pages(length);
        memset(p, 0x77, length);
        ck_assert_int_eq(transfer(IO_WRITE, 0, length, p), (int) length);
        ck_assert_int_eq(transfer(IO_ZERO, BLOCK, (size_t) 40 * BLOCK, NULL), 0);
        expect_zeros(BLOCK, (size_t) 40 * BLOCK);
        ck_assert_int_eq(transfer(IO_READ, 41 * BLOCK, BLOCK, p), BLOCK);
        ck_assert_uint_eq(p[0], 0x77);
        ck_assert_int_eq(transfer(IO_DISCARD, 0, length, NULL), 0);
        ck_assert_int_eq(transfer(IO_ALLOCATE, 0, length, NULL), 0);
        (void) munmap(p, length);
}
END_TEST

/* The file is fd's from now on; 64 blocks of it are filled, 33 made zeros, and those around them are as they were. */
static void expect_zeroing(int file) {
        size_t length = (size_t) 64 * BLOCK;
        uint8_t *p = pages(length);
        ck_assert_int_eq(ftruncate(file, (off_t) length), 0);
        ck_assert_int_eq(ring_set_file(ring, DISK_STORE, file), 0);
        memset(p, 0x77, length);
        ck_assert_int_eq(transfer(IO_WRITE, 0, length, p), (int) length);
        ck_assert_int_eq(transfer(IO_ZERO, 512, (size_t) 33 * BLOCK, NULL), 0);
        expect_zeros(512, (size_t) 33 * BLOCK);
        ck_assert_int_eq(transfer(IO_READ, 0, length, p), (int) length);
        ck_assert_uint_eq(p[511], 0x77);
        ck_assert_uint_eq(p[512 + 33 * BLOCK], 0x77);
        (void) munmap(p, length);
}

static long blocks_of(int file) {
        struct stat st;
        ck_assert_int_eq(fstat(file, &st), 0);
        return st.st_blocks;
}

/* Zeros take no space: neither where there was data, nor where there was none. */
START_TEST(test_zero_is_a_hole) {
        _cleanup_close_ int memory = memfd_create("zeros", MFD_CLOEXEC); /* a tmpfs, which has no other call for it */
        ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
        ck_assert_int_eq(transfer(IO_ZERO, 0, 1 << 20, NULL), 0);
        ck_assert_int_eq(blocks_of(fd), 0);
        expect_zeroing(fd);
        ck_assert_int_le(blocks_of(fd), (64 - 32) * BLOCK / 512);
        expect_zeroing(memory);
        ck_assert_int_le(blocks_of(memory), (64 - 32) * BLOCK / 512);
}
END_TEST

/* A file of a file system that has neither call, or -1. It is mounted nowhere. */
static int file_without_calls(void) {
        _cleanup_close_ int context = (int) syscall(SYS_fsopen, "ramfs", FSOPEN_CLOEXEC);
        if (context < 0 || syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return -1;
        _cleanup_close_ int mount = (int) syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
        return mount < 0 ? -1 : openat(mount, "zeros", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
}

/* Where there is no call for it zeros are written; the rest is advice. */
START_TEST(test_zero_without_the_call) {
        _cleanup_close_ int file = file_without_calls();
        if (file < 0)
                return;
        ck_assert_int_lt(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK), 0);
        ck_assert_int_eq(errno, EOPNOTSUPP);
        expect_zeroing(file);
        ck_assert_int_eq(transfer(IO_DISCARD, 0, (size_t) 64 * BLOCK, NULL), 0);
        ck_assert_int_eq(transfer(IO_ALLOCATE, 0, (size_t) 64 * BLOCK, NULL), 0);
}
END_TEST

/* What the file says is what the caller is told. */
START_TEST(test_errors) {
        uint8_t *p = pages(BLOCK);
        _cleanup_close_ int full = open("/dev/full", O_RDWR | O_CLOEXEC);
        _cleanup_close_ int reader = open("/dev/null", O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(ring_set_file(ring, DISK_FIRST_ORIGIN, full), 0);
        Request q = {
                .io = { .op = IO_WRITE,
                        .disk = DISK_FIRST_ORIGIN,
                        .length = BLOCK,
                        .buffer = p,
                        .done = came,
                        .owner = &q },
        };
        disk_submit(ring_disk(ring), &q.io);
        ck_assert_int_eq(run(&q), -ENOSPC);
        ck_assert_int_eq(ring_set_file(ring, DISK_FIRST_ORIGIN, reader), 0);
        q.answers = 0;
        disk_submit(ring_disk(ring), &q.io);
        ck_assert_int_eq(run(&q), -EBADF);
        ck_assert_int_eq(ring_set_file(ring, DISK_FIRST_ORIGIN, -1), 0);
        (void) munmap(p, BLOCK);
}
END_TEST

static void skip_without_kernel(void) {
        _cleanup_(ring_freep) Ring *probe = NULL;
        _cleanup_close_ int file = open("/var/tmp", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
        int r = ring_new(&probe);
        if (file < 0 || r < 0)
                test_skip("no direct I/O below /var/tmp, or no io_uring: %s", strerror(-r));
}

/* --- commands ----------------------------------------------------------------------------------------------------- */

typedef struct Refused {
        uint8_t pad[24]; /* commands may lie in something larger */
        RingCommand command;
        int result;
        unsigned answers;
} Refused;

static void refused(RingCommand *c, int result) {
        Refused *x = container_of(c, Refused, command);
        x->result = result;
        x->answers++;
}

static void refused_expect(Refused *x, unsigned n) {
        for (unsigned round = 0; round < 1000 && x[n - 1].answers == 0; round++)
                ck_assert_int_ge(ring_dispatch(ring), 0);
        for (unsigned i = 0; i < n; i++) {
                ck_assert_uint_eq(x[i].answers, 1);
                ck_assert_int_eq(x[i].result, -EOPNOTSUPP); /* a file has no commands */
        }
}

/* They are answered like anything else, and nobody's I/O gets their answer. */
START_TEST(test_commands) {
        static Refused x[MANY];
        Request q;
        void *p = pages(BLOCK);
        begin(&q, IO_WRITE, 0, BLOCK, p);
        for (unsigned i = 0; i < MANY; i++) {
                x[i] = (Refused) { .command = { .fd = fd, .op = 1, .done = refused } };
                ring_command(ring, &x[i].command);
        }
        refused_expect(x, MANY);
        while (q.answers == 0)
                ck_assert_int_ge(ring_wait(ring), 0);
        ck_assert_int_eq(q.result, BLOCK);
        ck_assert_uint_eq(q.answers, 1);
}
END_TEST

START_TEST(test_commands_together) {
        static Refused x[RING_COMMANDS_MAX + 1];
        for (unsigned i = 0; i <= RING_COMMANDS_MAX; i++)
                x[i] = (Refused) { .command = { .fd = fd, .op = 1, .done = refused } };
        ck_assert_int_eq(ring_commands_together(ring, &x->command, sizeof(*x), RING_COMMANDS_MAX + 1), -EBUSY);
        ck_assert_int_ge(ring_dispatch(ring), 0);
        ck_assert_uint_eq(x[0].answers, 0);
        ck_assert_int_eq(ring_commands_together(ring, &x->command, sizeof(*x), RING_COMMANDS_MAX), 0);
        refused_expect(x, RING_COMMANDS_MAX);
}
END_TEST

int main(void) {
        skip_without_kernel();
        Suite *s = suite_create("unit-cow-ring");
        TCase *t = tcase_create("ring");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_set_timeout(t, 30);
        tcase_add_test(t, test_roundtrip);
        tcase_add_test(t, test_end_of_file);
        tcase_add_test(t, test_more_than_the_queue);
        tcase_add_test(t, test_order_free);
        tcase_add_test(t, test_registered_memory);
        tcase_add_test(t, test_zero);
        tcase_add_test(t, test_zero_is_a_hole);
        tcase_add_test(t, test_zero_without_the_call);
        tcase_add_test(t, test_errors);
        tcase_add_test(t, test_commands);
        tcase_add_test(t, test_commands_together);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed > 0;
}
