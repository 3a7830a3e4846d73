/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of a binary log that follow each other, and those that do not; whatever is in them, it is read or refused. */
#include "protocol/base.h"
#include "writers/mariadb-chain.h"
#include <check.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

enum { STOP = 3, FORMAT = 15, GTID = 162, LIST = 163, QUERY = 2, IN_USE = 1, FILE_MAX = 1 << 17 };

static char directory[] = "/tmp/vss-binlog-XXXXXX";
static int dfd = -EBADF;
static unsigned char file[FILE_MAX];
static size_t size;
static BinlogChain chain;
static Failure failure;

static void setup(void) {
        (void) memcpy(directory + strlen(directory) - 6, "XXXXXX", 6);
        ck_assert_ptr_nonnull(mkdtemp(directory));
        dfd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(dfd, 0);
        chain = BINLOG_CHAIN_NONE;
}

static void teardown(void) {
        binlog_chain_done(&chain);
        (void) unlinkat(dfd, "bin.000001", 0);
        dfd = close_fd(dfd);
        (void) rmdir(directory);
}

/* ---- to write one ---- */

static void put(uint64_t v, size_t n) {
        for (; n > 0; n--, v >>= 8)
                file[size++] = (unsigned char) v;
}

static void header(unsigned type, uint32_t server, size_t bytes, unsigned flags) {
        put(1000, 4);
        put(type, 1);
        put(server, 4);
        put(19 + bytes + 4, 4);
        put(0, 4);
        put(flags, 2);
}

static void checksum(void) {
        put(0x12345678, 4);
}

typedef struct Pair {
        uint32_t domain, server;
        uint64_t sequence;
} Pair;

static void begin(unsigned flags, const Pair *list, size_t n) {
        static const unsigned char magic[] = { 0xfe, 'b', 'i', 'n' };
        size = 0;
        for (size_t i = 0; i < sizeof(magic); i++)
                put(magic[i], 1);
        header(FORMAT, 1, 2, flags);
        put(4, 2);
        checksum();
        header(LIST, 1, 4 + 16 * n, 0);
        put(n, 4);
        for (size_t i = 0; i < n; i++) {
                put(list[i].domain, 4);
                put(list[i].server, 4);
                put(list[i].sequence, 8);
        }
        checksum();
}

static void group(uint32_t domain, uint32_t server, uint64_t sequence) {
        header(GTID, server, 13, 0);
        put(sequence, 8);
        put(domain, 4);
        put(0, 1);
        checksum();
        header(QUERY, server, 8, 0);
        put(0, 8);
        checksum();
}

static void stop(void) {
        header(STOP, 1, 0, 0);
        checksum();
}

/* ---- to read it ---- */

static int read_bytes(const void *bytes, size_t n) {
        BinlogFile f;
        BinlogEvent e;
        _cleanup_close_ int fd = openat(dfd, "bin.000001", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_eq(write(fd, bytes, n), (ssize_t) n);
        failure = (Failure) {};
        int r = binlog_open(dfd, "bin.000001", &f, &failure);
        if (r < 0)
                return r;
        while ((r = binlog_next(&f, &e, &failure)) > 0) {
                ck_assert(e.next > e.at && e.next <= f.bytes);
                r = binlog_chain_take(&chain, &f, &e, &failure);
                if (r < 0)
                        break;
        }
        if (r >= 0)
                binlog_chain_end(&chain, &f);
        binlog_close(&f);
        ck_assert_int_eq(r < 0, failure.message[0] != '\0');
        return r;
}

static void follows(void) {
        ck_assert_msg(read_bytes(file, size) == 0, "%s", failure.message);
}

static void refused(const char *words) {
        ck_assert_int_lt(read_bytes(file, size), 0);
        ck_assert_msg(strstr(failure.message, words), "not told \"%s\": %s", words, failure.message);
        ck_assert_msg(strstr(failure.message, "bin.000001"), "no file is named: %s", failure.message);
}

#define BEGIN(flags, ...) \
        begin(flags, (const Pair[]) { __VA_ARGS__ }, sizeof((const Pair[]) { __VA_ARGS__ }) / sizeof(Pair))
#define OTHER "is of another server"

/* Two domains, of which the first has had two servers, at 0-2-11 and 5-1-7. */
static void one_file(unsigned flags) {
        BEGIN(flags, { 0, 1, 9 }, { 5, 1, 7 });
        group(0, 1, 10);
        group(0, 2, 11);
        if (!(flags & IN_USE))
                stop();
        follows();
}

START_TEST(goes_on) {
        begin(0, NULL, 0);
        follows();
        begin(0, NULL, 0);
        group(0, 1, 1);
        follows();
        BEGIN(0, { 0, 1, 1 });
        group(7, 3, UINT64_MAX);
        follows();
        BEGIN(0, { 7, 3, UINT64_MAX }, { 0, 1, 1 });
        follows();
}
END_TEST

START_TEST(another) {
        static const Pair lists[][3] = {
                { { 0, 1, 10 }, { 0, 2, 12 }, { 5, 1, 7 } }, { { 0, 1, 10 }, { 0, 2, 10 }, { 5, 1, 7 } },
                { { 0, 1, 10 }, { 0, 3, 11 }, { 5, 1, 7 } }, { { 0, 1, 10 }, { 1, 2, 11 }, { 5, 1, 7 } },
                { { 0, 1, 10 }, { 0, 2, 11 }, { 5, 1, 8 } }, { { 0, 1, 10 }, { 0, 1, 10 }, { 0, 2, 11 } },
        };
        for (size_t i = 0; i < ELEMENTSOF(lists); i++) {
                binlog_chain_done(&chain);
                one_file(0);
                begin(0, lists[i], 3);
                refused(OTHER);
        }
}
END_TEST

START_TEST(more_and_less) {
        one_file(0);
        BEGIN(0, { 0, 1, 10 }, { 0, 2, 11 }, { 5, 1, 7 }, { 6, 1, 1 });
        refused(OTHER);
        BEGIN(0, { 0, 2, 11 }, { 5, 1, 7 });
        refused(OTHER);
        BEGIN(0, { 5, 1, 7 }); /* domain 0 was written to */
        refused(OTHER);
        begin(0, NULL, 0);
        refused(OTHER);
        BEGIN(0, { 0, 1, 10 }, { 0, 2, 11 }); /* domain 5 was not */
        follows();
        BEGIN(0, { 0, 1, 10 }, { 0, 2, 11 });
        follows();
        begin(0, NULL, 0);
        refused(OTHER);
}
END_TEST

START_TEST(nothing_of_it_is_left) {
        BEGIN(0, { 0, 1, 9 });
        follows();
        begin(0, NULL, 0);
        refused(OTHER);
}
END_TEST

/* The server was killed: it may count the last group, or not. */
START_TEST(half_a_group) {
        static const Pair without[] = { { 0, 1, 10 }, { 5, 1, 7 } };
        one_file(IN_USE);
        BEGIN(0, { 0, 1, 10 }, { 0, 2, 11 }, { 5, 1, 7 });
        follows();
        binlog_chain_done(&chain);
        one_file(IN_USE);
        begin(0, without, 2);
        follows();
        binlog_chain_done(&chain);
        one_file(0);
        begin(0, without, 2);
        refused(OTHER);
        binlog_chain_done(&chain);
        BEGIN(IN_USE, { 0, 1, 9 });
        group(0, 1, 10);
        group(0, 1, 11);
        follows();
        BEGIN(0, { 0, 1, 9 }); /* not both */
        refused(OTHER);
        BEGIN(0, { 0, 1, 10 });
        follows();
}
END_TEST

START_TEST(no_list) {
        begin(0, NULL, 0);
        size -= 19 + 4 + 4;
        group(0, 1, 1);
        refused("no list");
        one_file(0);
        begin(0, NULL, 0);
        size -= 19 + 4 + 4;
        group(0, 2, 12);
        refused("no list");
}
END_TEST

START_TEST(too_many) {
        static Pair list[BINLOG_GTIDS_MAX + 1];
        for (size_t i = 0; i < ELEMENTSOF(list); i++)
                list[i] = (Pair) { 0, (uint32_t) i, 1 };
        begin(0, list, ELEMENTSOF(list));
        refused("more than 4096 servers");
        begin(0, list, BINLOG_GTIDS_MAX);
        follows();
        begin(0, list, BINLOG_GTIDS_MAX);
        group(0, 1, 2);
        follows();
        list[1].sequence = 2;
        begin(0, list, BINLOG_GTIDS_MAX);
        group(1, 1, 2);
        refused("more than 4096 servers");
}
END_TEST

START_TEST(position_of_a_backup) {
        static const char *const others[] = { "",
                                              "0-2-11",
                                              "5-1-7",
                                              "0-1-10,5-1-7",
                                              "0-2-12,5-1-7",
                                              "0-2-11,5-1-7,0-2-11",
                                              "0-2-11,5-1-7,6-1-1",
                                              "0-2-11;5-1-7",
                                              "x",
                                              "0-2-11,5-1",
                                              "0-2-11,5-1-7x" };
        ck_assert(binlog_chain_is_at(&chain, ""));
        one_file(0);
        ck_assert(binlog_chain_is_at(&chain, "0-2-11,5-1-7"));
        ck_assert(binlog_chain_is_at(&chain, "5-1-7,0-2-11"));
        for (size_t i = 0; i < ELEMENTSOF(others); i++)
                ck_assert_msg(!binlog_chain_is_at(&chain, others[i]), "%s", others[i]);
        BEGIN(0, { 0, 1, 10 }, { 0, 2, 11 }, { 5, 1, 7 }); /* the last of a domain is the last in the list */
        follows();
        ck_assert(binlog_chain_is_at(&chain, "0-2-11,5-1-7"));
}
END_TEST

/* Cut off anywhere, every byte changed, and random ones: it is read or refused, with a word. */
START_TEST(hostile) {
        static const unsigned char values[] = { 0, 1, 0x7f, 0x80, 0xff, LIST, GTID };
        static unsigned char bytes[1024];
        BEGIN(IN_USE, { 0, 1, 9 }, { 5, 1, 7 });
        group(0, 1, 10);
        group(0, 2, 11);
        ck_assert_uint_lt(size, sizeof(bytes));
        for (size_t n = 0; n < size; n++) {
                (void) read_bytes(file, n);
                (void) read_bytes(file, size); /* after whatever state that left */
                binlog_chain_done(&chain);
        }
        for (size_t i = 0; i < size; i++)
                for (size_t k = 0; k < sizeof(values); k++) {
                        memcpy(bytes, file, size);
                        bytes[i] = values[k];
                        (void) read_bytes(bytes, size);
                        (void) read_bytes(bytes, size);
                        binlog_chain_done(&chain);
                }
        for (size_t i = 0; i < 2000; i++) {
                unsigned char random[8];
                ck_assert_int_eq(getrandom(random, sizeof(random), 0), sizeof(random));
                memcpy(bytes, file, size);
                for (size_t k = 0; k < sizeof(random); k += 2)
                        bytes[(size_t) random[k] % size] = random[k + 1];
                (void) read_bytes(bytes, size);
                binlog_chain_done(&chain);
        }
}
END_TEST

int main(void) {
        Suite *s = suite_create("binlog");
        TCase *t = tcase_create("chain");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_set_timeout(t, 60);
        tcase_add_test(t, goes_on);
        tcase_add_test(t, another);
        tcase_add_test(t, more_and_less);
        tcase_add_test(t, nothing_of_it_is_left);
        tcase_add_test(t, half_a_group);
        tcase_add_test(t, no_list);
        tcase_add_test(t, too_many);
        tcase_add_test(t, position_of_a_backup);
        tcase_add_test(t, hostile);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
