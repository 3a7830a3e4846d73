/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC32C against the vectors that are published, and both implementations against the definition, bit by bit. */
#include "protocol/base.h"
#include "providers/cow/crc32c.h"
#include "tests/support.h"
#include <check.h>

typedef uint32_t (*Crc)(uint32_t crc, const void *data, size_t n);
static const Crc implementations[] = { crc32c, crc32c_portable };

static uint32_t by_definition(uint32_t crc, const uint8_t *p, size_t n) {
        crc = ~crc;
        for (; n > 0; p++, n--) {
                crc ^= *p;
                for (int k = 0; k < 8; k++)
                        crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
        }
        return ~crc;
}

static void fill(uint8_t *p, size_t n, uint64_t seed) {
        for (size_t i = 0; i < n; i++) {
                seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
                p[i] = (uint8_t) (seed >> 56);
        }
}

/* RFC 3720 B.4: its table shows the bytes as they are sent, least significant first. */
START_TEST(test_the_published_vectors) {
        uint8_t zeros[32] = { 0 }, ones[32], up[32], down[32];
        static const uint8_t read10[48] = { 0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0,
                                            0x14, 0,    0, 0, 0, 0, 4, 0, 0, 0, 0, 20, 0, 0, 0, 24,
                                            0x28, 0,    0, 0, 0, 0, 0, 0, 2, 0, 0, 0,  0, 0, 0, 0 };
        for (unsigned i = 0; i < 32; i++) {
                ones[i] = 0xff;
                up[i] = (uint8_t) i;
                down[i] = (uint8_t) (31 - i);
        }
        for (size_t k = 0; k < ELEMENTSOF(implementations); k++) {
                Crc crc = implementations[k];
                ck_assert_uint_eq(crc(0, "123456789", 9), 0xe3069283u);
                ck_assert_uint_eq(crc(0, zeros, 32), 0x8a9136aau);
                ck_assert_uint_eq(crc(0, ones, 32), 0x62a8ab43u);
                ck_assert_uint_eq(crc(0, up, 32), 0x46dd794eu);
                ck_assert_uint_eq(crc(0, down, 32), 0x113fdb5cu);
                ck_assert_uint_eq(crc(0, read10, 48), 0xd9963a56u);
                ck_assert_uint_eq(crc(0, NULL, 0), 0);
                ck_assert_uint_eq(crc(0xe3069283u, "", 0), 0xe3069283u);
        }
}
END_TEST

/* Where lanes begin and end, and every alignment at both ends. */
START_TEST(test_every_length_and_alignment) {
        enum { LENGTHS = 3 * 1344 + 80, ROOM = 2 * 4096 + 16 };
        _cleanup_free_ uint8_t *data = malloc(ROOM);
        fill(data, ROOM, 1);
        for (size_t at = 0; at < 8; at++) {
                uint32_t expected = 0;
                for (size_t n = 0; n <= LENGTHS; n++) {
                        for (size_t k = 0; k < ELEMENTSOF(implementations); k++)
                                ck_assert_uint_eq(implementations[k](0, data + at, n), expected);
                        expected = by_definition(expected, data + at + n, 1);
                }
        }
        for (size_t k = 0; k < ELEMENTSOF(implementations); k++)
                for (size_t n = LENGTHS; n <= 2 * 4096; n += 61)
                        ck_assert_uint_eq(implementations[k](7, data + 3, n), by_definition(7, data + 3, n));
}
END_TEST

START_TEST(test_pieces_chain) {
        uint8_t data[4096 + 64];
        fill(data, sizeof data, 2);
        uint32_t whole = by_definition(0, data, sizeof data);
        for (size_t k = 0; k < ELEMENTSOF(implementations); k++)
                for (size_t cut = 0; cut <= sizeof data; cut += 13) {
                        uint32_t first = implementations[k](0, data, cut);
                        ck_assert_uint_eq(implementations[k](first, data + cut, sizeof data - cut), whole);
                }
}
END_TEST

START_TEST(test_no_single_bit_goes_unnoticed) {
        uint8_t block[4096];
        fill(block, sizeof block, 3);
        uint32_t right = crc32c(0, block, sizeof block);
        for (size_t bit = 0; bit < 8 * sizeof block; bit++) {
                block[bit / 8] ^= (uint8_t) (1 << bit % 8);
                ck_assert_uint_ne(crc32c(0, block, sizeof block), right);
                block[bit / 8] ^= (uint8_t) (1 << bit % 8);
        }
}
END_TEST

static double gigabytes_per_second(Crc crc, const uint8_t *data, size_t bytes) {
        double best = 0;
        for (int round = 0; round < 5; round++) {
                uint32_t sum = 0;
                uint64_t begun = clock_usec(CLOCK_PROCESS_CPUTIME_ID);
                for (size_t at = 0; at < bytes; at += 4096)
                        sum ^= crc(0, data + at, 4096);
                uint64_t took = clock_usec(CLOCK_PROCESS_CPUTIME_ID) - begun;
                double rate = (double) bytes / (double) MAX_OF(took, 1u) / 1000;
                best = sum == 1 ? best : MAX_OF(best, rate);
        }
        return best;
}

/* Says how fast it is; a number to fail on would fail on somebody's slow machine. */
START_TEST(test_speed_is_told) {
        enum { BYTES = 64 << 20 };
        _cleanup_free_ uint8_t *data = malloc(BYTES);
        fill(data, BYTES, 4);
        printf("blocks of 4 KiB: %.1f GB/s from 16 KiB, %.1f GB/s from 64 MiB; portable %.1f GB/s\n",
               gigabytes_per_second(crc32c, data, 16 << 10), gigabytes_per_second(crc32c, data, BYTES),
               gigabytes_per_second(crc32c_portable, data, BYTES));
}
END_TEST

int main(void) {
        Suite *s = suite_create("cow-crc");
        TCase *t = tcase_create("crc32c");
        tcase_set_timeout(t, 60);
        tcase_add_test(t, test_the_published_vectors);
        tcase_add_test(t, test_every_length_and_alignment);
        tcase_add_test(t, test_pieces_chain);
        tcase_add_test(t, test_no_single_bit_goes_unnoticed);
        tcase_add_test(t, test_speed_is_told);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
