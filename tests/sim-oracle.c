/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/sim-oracle.h"
#include "protocol/base.h"
#include "tests/sim-disk.h"
#include <inttypes.h>
#include <stdio.h>

enum { WORDS = SIM_SECTOR / 8, CANDIDATES_TIDY = 6 };
#define FOR_EVER UINT64_MAX

static inline uint64_t content_word(uint64_t version, unsigned i) {
        return version ? (version ^ i) * 0x9e3779b97f4a7c15ULL + i : 0;
}

void content_fill(void *sector, uint64_t version) {
        uint64_t *w = sector;
        w[0] = version;
        for (unsigned i = 1; i < WORDS; i++)
                w[i] = content_word(version, i);
}

uint64_t content_version(const void *sector, bool *ret_whole) {
        const uint64_t *w = sector;
        uint64_t wrong = 0;
        for (unsigned i = 1; i < WORDS; i++)
                wrong |= w[i] ^ content_word(w[0], i);
        *ret_whole = wrong == 0;
        return w[0];
}

void oracle_init(Oracle *o, uint64_t bytes) {
        *o = (Oracle) { .now = 1, .bytes = bytes, .n = (uint32_t) (bytes / SIM_SECTOR) };
        o->sectors = calloc(o->n, sizeof(Sector));
        if (!o->sectors)
                abort();
        (void) oracle_write_begins(o, 0, bytes, NULL);
        for (uint32_t i = 0; i < o->n; i++)
                o->sectors[i].list[0].ended = 1;
}

void oracle_done(Oracle *o) {
        for (uint32_t i = 0; i < o->n; i++)
                free(o->sectors[i].list);
        free(o->sectors);
        *o = (Oracle) { 0 };
}

/* Reads take less than TIDY_AGE moments; what they cannot see any more and no power cut brings back is forgotten. */
enum { TIDY_AGE = 4000 };

static void sector_tidy(const Oracle *o, Sector *s) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < s->n; i++)
                if (!s->list[i].lost || s->list[i].replaced == FOR_EVER || s->list[i].replaced + TIDY_AGE > o->now)
                        s->list[n++] = s->list[i];
        s->n = n;
}

static void sector_add(const Oracle *o, Sector *s, uint64_t version) {
        if (s->n >= CANDIDATES_TIDY)
                sector_tidy(o, s);
        if (s->n == s->size) {
                s->size = s->size ? 2 * s->size : 4;
                s->list = reallocarray(s->list, s->size, sizeof(Candidate));
                if (!s->list)
                        abort();
        }
        s->list[s->n++] = (Candidate) { .version = version, .begun = o->now, .ended = FOR_EVER, .replaced = FOR_EVER };
}

uint64_t oracle_write_begins(Oracle *o, uint64_t offset, uint64_t length, const uint64_t *versions) {
        o->now++;
        for (uint64_t i = 0; i < length / SIM_SECTOR; i++)
                sector_add(o, &o->sectors[offset / SIM_SECTOR + i], versions ? versions[i] : 0);
        return o->now;
}

void oracle_write_ends(Oracle *o, uint64_t begun, uint64_t offset, uint64_t length, WriteEnd end) {
        o->now++;
        for (uint64_t i = 0; i < length / SIM_SECTOR; i++) {
                Sector *s = &o->sectors[offset / SIM_SECTOR + i];
                for (uint32_t k = 0; k < s->n; k++) {
                        Candidate *c = &s->list[k];
                        if (c->begun == begun)
                                c->ended = o->now;
                        else if (c->ended < begun && end != WRITE_MAYBE) {
                                c->replaced = MIN_OF(c->replaced, o->now);
                                c->lost = c->lost || end == WRITE_DURABLE;
                        }
                }
        }
}

void oracle_flush_ends(Oracle *o, uint64_t begun) {
        o->now++;
        for (uint32_t i = 0; i < o->n; i++)
                for (uint32_t k = 0; k < o->sectors[i].n; k++)
                        if (o->sectors[i].list[k].replaced < begun)
                                o->sectors[i].list[k].lost = true;
}

bool oracle_allows(const Oracle *o, uint32_t sector, uint64_t version, uint64_t begun) {
        const Sector *s = &o->sectors[sector];
        for (uint32_t k = 0; k < s->n; k++)
                if (s->list[k].version == version && s->list[k].replaced > begun)
                        return true;
        return false;
}

bool oracle_survives(const Oracle *o, uint32_t sector, uint64_t version) {
        const Sector *s = &o->sectors[sector];
        for (uint32_t k = 0; k < s->n; k++)
                if (s->list[k].version == version && !s->list[k].lost)
                        return true;
        return false;
}

/* The one that is there now, among those that reads may see. ended_only: it must not be under way. */
static Candidate *sector_present(Sector *s, uint64_t version, bool ended_only) {
        for (uint32_t k = 0; k < s->n; k++)
                if (s->list[k].version == version && s->list[k].replaced == FOR_EVER &&
                    (!ended_only || s->list[k].ended != FOR_EVER))
                        return &s->list[k];
        return NULL;
}

bool oracle_settle(Oracle *o, uint32_t sector, uint64_t version) {
        Sector *s = &o->sectors[sector];
        const Candidate *present = sector_present(s, version, true);
        if (!present)
                return false;
        for (uint32_t k = 0; k < s->n; k++) {
                Candidate *c = &s->list[k];
                if (c == present || c->ended == FOR_EVER)
                        continue;
                c->replaced = MIN_OF(c->replaced, o->now);
                c->lost = true;
        }
        return true;
}

bool oracle_killed(Oracle *o, uint32_t sector, uint64_t version) {
        Sector *s = &o->sectors[sector];
        const Candidate *present = sector_present(s, version, false);
        if (!present)
                return false;
        for (uint32_t k = 0; k < s->n; k++) {
                Candidate *c = &s->list[k];
                c->ended = MIN_OF(c->ended, o->now);
                if (c != present)
                        c->replaced = MIN_OF(c->replaced, o->now);
        }
        return true;
}

bool oracle_cut(Oracle *o, uint32_t sector, uint64_t version) {
        Sector *s = &o->sectors[sector];
        if (!oracle_survives(o, sector, version))
                return false;
        s->list[0] = (Candidate) { .version = version, .begun = o->now, .ended = o->now, .replaced = FOR_EVER };
        s->n = 1;
        return true;
}

void oracle_describe(const Oracle *o, uint32_t sector, char *buffer, size_t size) {
        const Sector *s = &o->sectors[sector];
        size_t at = 0;
        buffer[0] = '\0';
        for (uint32_t k = 0; k < s->n && at < size; k++) {
                const Candidate *c = &s->list[k];
                int n = snprintf(buffer + at, size - at, " %" PRIx64 "%s%s%s", c->version,
                                 c->ended == FOR_EVER ? "(under way)" : "", c->replaced == FOR_EVER ? "" : "(replaced)",
                                 c->lost ? "(flushed over)" : "");
                at += n > 0 ? (size_t) n : 0;
        }
}
