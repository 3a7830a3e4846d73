/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* SHA-256 (FIPS 180-4), for checksums of our own records: tells damage, proves nothing against an attacker. */
#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32, SHA256_HEX = 2 * SHA256_BYTES };

typedef struct Sha256 {
        uint32_t state[8];
        uint64_t size;
        uint8_t block[64];
} Sha256;

#define SHA256_INIT \
        ((Sha256) { .state = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, \
                               0x5be0cd19 } })

void sha256_update(Sha256 *s, const void *data, size_t size);
/* Lower-case digits and a NUL; s is used up. */
void sha256_finish(Sha256 *s, char ret_hex[static SHA256_HEX + 1]);
