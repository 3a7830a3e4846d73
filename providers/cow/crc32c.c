/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every preserved block is summed once when it is stored and once when it is read, so this has to be as fast as memory.
 * The processor's instruction takes three cycles but starts one each cycle: three lanes are summed side by side and put
 * together, which needs the sum of a lane followed by a lane of zeros. That is a linear map of 32 bits, kept as four
 * tables of 256. Elsewhere: eight tables, eight bytes at a time.
 */
#include "providers/cow/crc32c.h"
#include <stdbool.h>
#include <string.h>

enum { POLYNOMIAL = (int) 0x82f63b78u, LANE = 1344 }; /* three lanes are 4032 of the 4096 bytes of a block */

static uint32_t slices[8][256];
#ifdef __x86_64__
static uint32_t lane_zeros[4][256]; /* what LANE bytes of zeros do to byte k of a sum */
static bool has_instruction;
#endif

static uint32_t zeros_behind(uint32_t crc, size_t n) {
        while (n-- > 0)
                crc = slices[0][crc & 0xff] ^ crc >> 8;
        return crc;
}

/* Before main(), so that no call has to ask whether it is the first. */
static void __attribute__((constructor)) tables_fill(void) {
        for (uint32_t i = 0; i < 256; i++) {
                uint32_t crc = i;
                for (int k = 0; k < 8; k++)
                        crc = crc & 1 ? crc >> 1 ^ (uint32_t) POLYNOMIAL : crc >> 1;
                slices[0][i] = crc;
        }
        for (int s = 1; s < 8; s++)
                for (uint32_t i = 0; i < 256; i++)
                        slices[s][i] = slices[0][slices[s - 1][i] & 0xff] ^ slices[s - 1][i] >> 8;
#ifdef __x86_64__
        uint32_t bits[32];
        for (int i = 0; i < 32; i++)
                bits[i] = zeros_behind(1u << i, LANE);
        for (int k = 0; k < 4; k++)
                for (uint32_t i = 0; i < 256; i++)
                        for (int bit = 0; bit < 8; bit++)
                                lane_zeros[k][i] ^= i >> bit & 1 ? bits[8 * k + bit] : 0;
        __builtin_cpu_init();
        has_instruction = __builtin_cpu_supports("sse4.2");
#endif
}

static uint32_t portable(uint32_t crc, const uint8_t *p, size_t n) {
        for (; n >= 8; p += 8, n -= 8) {
                uint32_t low, high;
                memcpy(&low, p, 4);
                memcpy(&high, p + 4, 4);
                low ^= crc;
                crc = slices[7][low & 0xff] ^ slices[6][low >> 8 & 0xff] ^ slices[5][low >> 16 & 0xff] ^
                      slices[4][low >> 24] ^ slices[3][high & 0xff] ^ slices[2][high >> 8 & 0xff] ^
                      slices[1][high >> 16 & 0xff] ^ slices[0][high >> 24];
        }
        for (; n > 0; p++, n--)
                crc = slices[0][(crc ^ *p) & 0xff] ^ crc >> 8;
        return crc;
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t n) {
        return ~portable(~crc, data, n);
}

#ifdef __x86_64__
static uint32_t lane_of_zeros(uint32_t crc) {
        return lane_zeros[0][crc & 0xff] ^ lane_zeros[1][crc >> 8 & 0xff] ^ lane_zeros[2][crc >> 16 & 0xff] ^
               lane_zeros[3][crc >> 24];
}

static inline uint64_t word(const uint8_t *p) {
        uint64_t w;
        memcpy(&w, p, sizeof(w));
        return w;
}

__attribute__((target("sse4.2"))) static uint32_t accelerated(uint32_t start, const uint8_t *p, size_t n) {
        uint64_t a = start;
        while (n >= 3 * LANE) {
                uint64_t b = 0, c = 0;
                for (size_t i = 0; i < LANE; i += 8) {
                        a = __builtin_ia32_crc32di(a, word(p + i));
                        b = __builtin_ia32_crc32di(b, word(p + LANE + i));
                        c = __builtin_ia32_crc32di(c, word(p + 2 * LANE + i));
                }
                a = lane_of_zeros(lane_of_zeros((uint32_t) a) ^ (uint32_t) b) ^ (uint32_t) c;
                p += 3 * LANE;
                n -= 3 * LANE;
        }
        for (; n >= 8; p += 8, n -= 8)
                a = __builtin_ia32_crc32di(a, word(p));
        for (; n > 0; p++, n--)
                a = __builtin_ia32_crc32qi((uint32_t) a, *p);
        return (uint32_t) a;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t n) {
#ifdef __x86_64__
        if (has_instruction)
                return ~accelerated(~crc, data, n);
#endif
        return crc32c_portable(crc, data, n);
}
