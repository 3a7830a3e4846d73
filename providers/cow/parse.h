/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Is this what format.h says? Pure functions on memory, used by whoever reads a store: the engine, vss-cow check and
 * dump. What has passed may be walked over without another check. They never read beyond what they were given, take
 * time proportional to it, and say in one line what is wrong.
 */
#include "providers/cow/format.h"

/* 0; -EBADMSG: not one at all; -EUCLEAN: damaged; -EPROTONOSUPPORT: made by a newer version. why may be NULL. */
int superblock_check(const void *block, struct superblock *ret, char *why, size_t why_size);
/* manifest: super->manifest_bytes bytes, aligned to 8. 0 or -EUCLEAN. */
int manifest_check(const void *manifest, const struct superblock *super, char *why, size_t why_size);
/*
 * Head and body of a record, of which so many blocks are there, payload included. Says nothing about store, generation
 * and sequence, nor about the payload's content. 0, -EBADMSG or -EUCLEAN.
 */
int record_check(const struct record_head *h, uint32_t blocks, char *why, size_t why_size);
/* 0 or -EUCLEAN. */
int run_page_check(const struct run_page *p, uint64_t run, uint32_t page, char *why, size_t why_size);
/* Page of a free map: so many blocks, ascending, below 2^32. 0 or -EUCLEAN. */
int map_page_check(const struct run_page *p, uint64_t run, uint32_t page, char *why, size_t why_size);
