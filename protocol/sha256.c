/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "protocol/sha256.h"
#include "protocol/base.h"

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constants[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotate(uint32_t x, unsigned n) {
        return (x >> n) | (x << (32 - n));
}

static void sha256_block(Sha256 *s, const uint8_t block[static 64]) {
        uint32_t w[64], v[8];

        for (unsigned i = 0; i < 16; i++)
                w[i] = (uint32_t) block[4 * i] << 24 | (uint32_t) block[4 * i + 1] << 16 |
                       (uint32_t) block[4 * i + 2] << 8 | block[4 * i + 3];
        for (unsigned i = 16; i < 64; i++) {
                uint32_t a = w[i - 15], b = w[i - 2];
                w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ (a >> 3)) + w[i - 7] +
                       (rotate(b, 17) ^ rotate(b, 19) ^ (b >> 10));
        }
        memcpy(v, s->state, sizeof(v));
        for (unsigned i = 0; i < 64; i++) {
                uint32_t t1 = v[7] + (rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25)) +
                              ((v[4] & v[5]) ^ (~v[4] & v[6])) + round_constants[i] + w[i];
                uint32_t t2 = (rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22)) +
                              ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
                memmove(v + 1, v, 7 * sizeof(v[0]));
                v[4] += t1;
                v[0] = t1 + t2;
        }
        for (unsigned i = 0; i < 8; i++)
                s->state[i] += v[i];
}

void sha256_update(Sha256 *s, const void *data, size_t size) {
        const uint8_t *p = data;
        size_t used = s->size % sizeof(s->block);

        s->size += size;
        while (size > 0) {
                size_t n = MIN_OF(size, sizeof(s->block) - used);

                memcpy(s->block + used, p, n);
                p += n;
                size -= n;
                used += n;
                if (used == sizeof(s->block)) {
                        sha256_block(s, s->block);
                        used = 0;
                }
        }
}

void sha256_finish(Sha256 *s, char ret_hex[static SHA256_HEX + 1]) {
        static const char digits[] = "0123456789abcdef";
        static const uint8_t padding[64] = { 0x80 };
        uint64_t bits = s->size * 8;
        size_t used = s->size % sizeof(s->block);
        uint8_t length[8];

        for (unsigned i = 0; i < 8; i++)
                length[i] = (uint8_t) (bits >> (56 - 8 * i));
        sha256_update(s, padding, used < 56 ? 56 - used : 120 - used);
        sha256_update(s, length, sizeof(length));
        for (unsigned i = 0; i < SHA256_BYTES; i++) {
                uint8_t byte = (uint8_t) (s->state[i / 4] >> (24 - 8 * (i % 4)));
                ret_hex[2 * i] = digits[byte >> 4];
                ret_hex[2 * i + 1] = digits[byte & 15];
        }
        ret_hex[SHA256_HEX] = '\0';
}
