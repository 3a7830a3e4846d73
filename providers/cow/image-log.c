/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log behind the replay position, as recover.c reads it: a chain of records that ends at the first which is not
 * valid, unless something behind it says that it had been durable. Which records count is known only at the end, so it
 * is walked once to hear what was durable, once to find the end, and once more for whoever wants to see the records.
 * One segment is in memory at a time.
 */
#include "providers/cow/crc32c.h"
#include "providers/cow/image.h"
#include "providers/cow/parse.h"
#include <stdio.h>

typedef struct Chain {
        const Image *image;
        uint8_t *segment;     /* one of the log */
        uint32_t list_at;     /* which */
        uint64_t first_block; /* of it */
        uint64_t expected;    /* sequence of the next record */
        uint64_t durable;     /* what is known of it, from the walk before */
        uint64_t first_torn;  /* first record behind that whose payload is wrong; 0: none */
        bool ended, counting; /* counting: the end is known, records are shown */
        uint64_t show_upto;   /* sequence */
        LogRecordFn each;
        void *userdata;
        LogEnd *end;
} Chain;

bool record_payload_next_wrong(const struct record_head *h, uint32_t *at) {
        const struct descriptor *d = (const struct descriptor *) (h + 1);
        const uint8_t *payload = (const uint8_t *) h + (size_t) record_head_blocks(h) * BLOCK_SIZE;
        for (; h->type == RECORD_PRESERVE && *at < h->count; ++*at)
                if (!(d[*at].flags & ENTRY_NO_PAYLOAD) &&
                    crc32c(0, payload + (size_t) d[*at].payload * BLOCK_SIZE, BLOCK_SIZE) != d[*at].crc)
                        return true;
        return false;
}

static const struct record_head *head_at(const Chain *c, uint32_t block) {
        return (const struct record_head *) (c->segment + (size_t) block * BLOCK_SIZE);
}

/* A record of this store's log and generation, or NULL and why (which may be NULL). */
static const struct record_head *record_at(const Chain *c, uint32_t block, char *why) {
        const struct record_head *h = head_at(c, block);
        const struct manifest_head *m = c->image->view.head;
        if (why)
                why[0] = '\0';
        if (h->magic != RECORD_MAGIC || memcmp(h->store, m->store, sizeof(h->store)) != 0 ||
            h->generation != m->generation)
                return NULL;
        uint32_t blocks = c->image->super->segment_blocks - block;
        return record_check(h, blocks, why, why ? WHY_MAX : 0) == 0 ? h : NULL;
}

static void heard(Chain *c, const struct record_head *h) {
        c->end->durable = MAX_OF(c->end->durable, h->durable_upto);
        c->end->newest_super = MAX_OF(c->end->newest_super, h->super_number);
}

/* What lies where the next record would have to be. */
static void end_explain(Chain *c, uint32_t block, char *why) {
        const struct record_head *h = head_at(c, block);
        LogEnd *e = c->end;
        e->torn = why[0] != '\0';
        if (e->torn)
                (void) snprintf(e->why, sizeof(e->why), "%.*s", WHY_MAX - 1, why);
        else if (h->magic != RECORD_MAGIC)
                (void) snprintf(e->why, sizeof(e->why), "there is no record");
        else if (h->generation != c->image->view.head->generation)
                (void) snprintf(e->why, sizeof(e->why), "a record of generation %lu, which is over", h->generation);
        else
                (void) snprintf(e->why, sizeof(e->why), "a record with sequence %lu, not %lu", h->sequence,
                                c->expected);
}

static void record_take(Chain *c, const struct record_head *h, uint32_t block) {
        uint32_t wrong = 0;
        bool right = !record_payload_next_wrong(h, &wrong);
        if (!right && !c->first_torn && h->sequence > c->durable)
                c->first_torn = h->sequence;
        if (c->counting && c->each && h->sequence <= c->show_upto)
                c->each(c->userdata,
                        &(LogRecord) { .head = h, .block = c->first_block + block, .payload_right = right });
        heard(c, h);
        c->expected++;
}

/* How many records of the segment belong to the chain; then what is behind them is listened to. */
static uint32_t segment_walk(Chain *c, uint32_t block) {
        uint32_t blocks = c->image->super->segment_blocks, n = 0;
        const struct record_head *h;
        char why[WHY_MAX] = "";
        while (!c->ended && block < blocks && (h = record_at(c, block, why)) && h->sequence == c->expected) {
                record_take(c, h, block);
                block += record_blocks(h);
                n++;
        }
        if (!c->ended && (n > 0 || !c->end->block)) {
                c->end->block = c->first_block + block;
                if (block < blocks)
                        end_explain(c, block, why);
                else
                        (void) snprintf(c->end->why, sizeof(c->end->why), "the segment is full and the next is empty");
        }
        for (; block < blocks; block++)
                if ((h = record_at(c, block, NULL)) && h->sequence >= c->expected)
                        heard(c, h);
        return n;
}

static void chain_walk(Chain *c) {
        const Image *i = c->image;
        const struct manifest_head *m = i->view.head;
        uint32_t blocks = i->super->segment_blocks;
        bool full = m->replay_block == blocks;

        c->expected = m->next_sequence;
        c->ended = false;
        c->first_torn = 0;
        *c->end = (LogEnd) { .durable = 0 };
        for (c->list_at = full ? 1 : 0; c->list_at < m->reserved; c->list_at++) {
                c->first_block = (uint64_t) i->view.reserved[c->list_at] * blocks;
                if (source_read(i->source, c->first_block, blocks, c->segment) < 0) {
                        memset(c->segment, 0, (size_t) blocks * BLOCK_SIZE);
                        c->end->unreadable++;
                }
                uint32_t n = segment_walk(c, c->list_at == 0 ? m->replay_block : 0);
                c->ended = c->ended || (c->list_at > 0 && n == 0);
        }
}

/* A record with a wrong payload counts if a later one says that it had been durable; behind any other nothing does. */
static void end_decide(Chain *c) {
        LogEnd *e = c->end;
        uint64_t next = c->image->view.head->next_sequence;
        e->last = c->expected - 1;
        if (c->first_torn) {
                e->last = c->first_torn - 1;
                e->torn = true;
                (void) snprintf(e->why, sizeof(e->why), "the payload of record %lu is not what it says", c->first_torn);
        }
        e->records = e->last + 1 - next;
        e->gone = e->durable > e->last;
}

int image_log(const Image *i, LogRecordFn each, void *userdata, LogEnd *ret) {
        _cleanup_free_ uint8_t *segment = source_buffer(i->super->segment_blocks);
        Chain c = { .image = i, .segment = segment, .each = each, .userdata = userdata, .end = ret };
        if (!segment)
                return -ENOMEM;
        c.durable = UINT64_MAX;
        chain_walk(&c);
        c.durable = ret->durable;
        chain_walk(&c);
        end_decide(&c);
        if (!each || ret->records == 0)
                return 0;
        LogEnd again;
        c.counting = true;
        c.show_upto = ret->last;
        c.end = &again;
        chain_walk(&c);
        return 0;
}
