/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* CRC32C (Castagnoli), as in iSCSI and ext4. */
#include <stddef.h>
#include <stdint.h>

/* Of the n bytes behind those whose CRC is crc: crc32c(crc32c(0, a), b) is that of a and b together; 0 to begin. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);
/* The same without the processor's instruction: what other machines run, and what the tests compare with. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t n);
