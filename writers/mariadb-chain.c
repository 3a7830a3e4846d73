/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A domain may be gone from a list: FLUSH BINARY LOGS DELETE_DOMAIN_ID takes those away of which no file has anything
 * any more. So one of which we have seen something may not, nor all of them.
 *
 * A server that was killed leaves a last file that it has not ended, maybe with half a group, which it does not count
 * when it starts again.
 */
#include "writers/mariadb-chain.h"
#include "protocol/base.h"
#include <inttypes.h>

enum { LIST_HEAD_BYTES = 4, LIST_ENTRY_BYTES = 16, GTID_BYTES = 12 };
#define LIST_COUNT_MASK 0x0fffffffU /* above that are flags */

static uint64_t number_at(const unsigned char *p, size_t n) {
        uint64_t v = 0;
        while (n-- > 0)
                v = v << 8 | p[n];
        return v;
}

static BinlogGtid *find(const BinlogChain *c, uint32_t domain, uint32_t server) {
        for (size_t i = 0; i < c->n; i++)
                if (c->gtids[i].domain == domain && c->gtids[i].server == server)
                        return &c->gtids[i];
        return NULL;
}

static bool has_domain(const BinlogChain *c, uint32_t domain) {
        for (size_t i = 0; i < c->n; i++)
                if (c->gtids[i].domain == domain)
                        return true;
        return false;
}

static int too_many(const BinlogFile *f, Failure *reterr) {
        return failure_set(reterr, CONDITION_LIMIT_REACHED, "%s has GTIDs of more than %d servers", f->name,
                           BINLOG_GTIDS_MAX);
}

/* ---- one more group ---- */

static int take_group(BinlogChain *c, BinlogFile *f, const BinlogEvent *e, Failure *reterr) {
        unsigned char b[GTID_BYTES];
        int r = binlog_read(f, e, 0, b, sizeof(b), reterr);
        if (r < 0)
                return r;
        if (!c->begun)
                return failure_set(reterr, CONDITION_FAILED, "%s has no list of what came before it", f->name);
        uint32_t domain = (uint32_t) number_at(b + 8, 4);
        BinlogGtid *g = c->last < c->n ? &c->gtids[c->last] : NULL; /* most often */
        if (!g || g->domain != domain || g->server != e->server)
                g = find(c, domain, e->server);
        if (!g) {
                if (c->n >= BINLOG_GTIDS_MAX)
                        return too_many(f, reterr);
                BinlogGtid *grown = reallocarray(c->gtids, c->n + 1, sizeof(*grown));
                if (!grown)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "out of memory");
                c->gtids = grown;
                g = grown + c->n++;
                *g = (BinlogGtid) { .domain = domain, .server = e->server };
        }
        c->undo = g->sequence;
        c->last = (size_t) (g - c->gtids);
        g->sequence = number_at(b, 8);
        g->order = ++c->order;
        g->changed = true;
        return 0;
}

/* ---- the list of the next file ---- */

static int list_read(BinlogFile *f, const BinlogEvent *e, BinlogChain *ret, Failure *reterr) {
        unsigned char b[LIST_ENTRY_BYTES];
        int r = binlog_read(f, e, 0, b, LIST_HEAD_BYTES, reterr);
        size_t n = r < 0 ? 0 : number_at(b, 4) & LIST_COUNT_MASK;
        if (n > BINLOG_GTIDS_MAX)
                return too_many(f, reterr);
        ret->gtids = n > 0 ? calloc(n, sizeof(*ret->gtids)) : NULL;
        if (n > 0 && !ret->gtids)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "out of memory");
        for (; r >= 0 && ret->n < n; ret->n++) {
                r = binlog_read(f, e, LIST_HEAD_BYTES + ret->n * LIST_ENTRY_BYTES, b, sizeof(b), reterr);
                if (r < 0)
                        break;
                ret->gtids[ret->n] = (BinlogGtid) { .domain = (uint32_t) number_at(b, 4),
                                                    .server = (uint32_t) number_at(b + 4, 4),
                                                    .sequence = number_at(b + 8, 8),
                                                    .order = ++ret->order };
        }
        return r;
}

static bool may_be_undone(const BinlogChain *c, const BinlogGtid *g) {
        return c->in_doubt && g == c->gtids + c->last;
}

static void forget_listed(BinlogChain *c) {
        for (size_t i = 0; i < c->n; i++)
                c->gtids[i].listed = false;
}

static bool goes_on_with(BinlogChain *c, BinlogChain *list) {
        bool any = c->n == 0;
        forget_listed(c);
        for (size_t i = 0; i < list->n; i++) {
                BinlogGtid *l = &list->gtids[i], *g = find(c, l->domain, l->server);
                if (!g || g->listed || (g->sequence != l->sequence && !(may_be_undone(c, g) && c->undo == l->sequence)))
                        return false;
                l->changed = g->changed;
                g->listed = any = true;
        }
        for (size_t i = 0; i < c->n; i++) {
                const BinlogGtid *g = &c->gtids[i];
                if (may_be_undone(c, g) && c->undo == 0)
                        any = any || c->n == 1;
                else if (!g->listed && (g->changed || has_domain(list, g->domain)))
                        return false;
        }
        return any;
}

static int take_list(BinlogChain *c, BinlogFile *f, const BinlogEvent *e, Failure *reterr) {
        BinlogChain list = BINLOG_CHAIN_NONE;
        int r = list_read(f, e, &list, reterr);
        if (r >= 0 && c->begun && !goes_on_with(c, &list))
                r = failure_set(reterr, CONDITION_FAILED,
                                "%s does not go on where the file before it ended: it is of another server, or of "
                                "another time",
                                f->name);
        if (r < 0) {
                binlog_chain_done(&list);
                return r;
        }
        binlog_chain_done(c);
        *c = list;
        c->begun = true;
        f->listed = true;
        return 0;
}

int binlog_chain_take(BinlogChain *c, BinlogFile *f, const BinlogEvent *e, Failure *reterr) {
        if (binlog_is_list(e) && !f->listed)
                return take_list(c, f, e, reterr);
        if (!binlog_begins_group(e))
                return 0;
        return f->listed ? take_group(c, f, e, reterr) :
                           failure_set(reterr, CONDITION_FAILED, "%s has no list of what came before it", f->name);
}

void binlog_chain_end(BinlogChain *c, const BinlogFile *f) {
        c->in_doubt = f->unfinished && c->last < c->n;
}

/* ---- the position of a backup ---- */

static const BinlogGtid *latest(const BinlogChain *c, uint32_t domain) {
        const BinlogGtid *best = NULL;
        for (size_t i = 0; i < c->n; i++)
                if (c->gtids[i].domain == domain && (!best || c->gtids[i].order > best->order))
                        best = &c->gtids[i];
        return best;
}

static bool gtid_parse(const char **at, BinlogGtid *ret) {
        int n = 0;
        *ret = (BinlogGtid) {};
        if (sscanf(*at, "%10" SCNu32 "-%10" SCNu32 "-%20" SCNu64 "%n", &ret->domain, &ret->server, &ret->sequence,
                   &n) != 3 ||
            n == 0 || ((*at)[n] != ',' && (*at)[n] != '\0'))
                return false;
        *at += n + ((*at)[n] == ',');
        return true;
}

bool binlog_chain_is_at(BinlogChain *c, const char *position) {
        size_t domains = 0, named = 0;
        forget_listed(c);
        for (size_t i = 0; i < c->n; i++)
                domains += latest(c, c->gtids[i].domain) == &c->gtids[i];
        for (BinlogGtid p; *position; named++) {
                if (!gtid_parse(&position, &p))
                        return false;
                BinlogGtid *g = find(c, p.domain, p.server);
                if (!g || g->listed || g != latest(c, p.domain) || g->sequence != p.sequence)
                        return false;
                g->listed = true;
        }
        return domains == named;
}

void binlog_chain_done(BinlogChain *c) {
        free(c->gtids);
        *c = BINLOG_CHAIN_NONE;
}
