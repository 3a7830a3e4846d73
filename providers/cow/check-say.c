/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What check has found, and whose snapshots suffer. */
#include "providers/cow/check.h"
#include <stdarg.h>
#include <stdio.h>

void check_say(Check *c, bool damage, const char *structure, uint64_t block, const char *format, ...) {
        va_list ap;
        c->damages += damage;
        c->notes += !damage;
        if (c->n_findings == CHECK_FINDINGS_MAX)
                return;
        if ((c->n_findings & (c->n_findings + 1)) == 0) { /* grows at 0, 1, 3, 7 … */
                Finding *grown = reallocarray(c->findings, 2 * (c->n_findings + 1), sizeof(Finding));
                if (!grown) {
                        c->no_memory = true;
                        return;
                }
                c->findings = grown;
        }
        Finding *f = &c->findings[c->n_findings++];
        *f = (Finding) { .damage = damage, .structure = structure, .block = block };
        va_start(ap, format);
        (void) vsnprintf(f->text, sizeof(f->text), format, ap);
        va_end(ap);
}

void check_concerns(Check *c, uint32_t volume, uint32_t after, uint32_t upto) {
        for (size_t i = 0; i < c->n_snapshots; i++) {
                CheckSnapshot *s = &c->snapshots[i];
                if (s->volume == volume && s->epoch > after && s->epoch <= upto)
                        s->concerned = true;
        }
}

void check_concerns_range(Check *c, uint64_t first_volblock, uint64_t last_volblock, uint32_t upto) {
        for (size_t i = 0; i < c->n_snapshots; i++) {
                CheckSnapshot *s = &c->snapshots[i];
                if (s->volume >= VOLBLOCK_VOLUME(first_volblock) && s->volume <= VOLBLOCK_VOLUME(last_volblock) &&
                    s->epoch <= upto)
                        s->concerned = true;
        }
}

void check_concerns_map(Check *c, uint64_t number) {
        for (size_t i = 0; i < c->n_snapshots; i++)
                if (c->snapshots[i].map == number && !c->snapshots[i].map_missing)
                        c->snapshots[i].concerned = true;
}

int check_snapshot_add(Check *c, const struct set_member *m) {
        if ((c->n_snapshots & (c->n_snapshots + 1)) == 0) { /* grows at 0, 1, 3, 7 … */
                CheckSnapshot *grown = reallocarray(c->snapshots, 2 * (c->n_snapshots + 1), sizeof(*grown));
                if (!grown) {
                        c->no_memory = true;
                        return -ENOMEM;
                }
                c->snapshots = grown;
        }
        CheckSnapshot *s = &c->snapshots[c->n_snapshots++];
        *s = (CheckSnapshot) { .volume = m->volume, .epoch = m->epoch, .flags = m->flags, .map = m->map };
        memcpy(s->id, m->snapshot, sizeof(s->id));
        return 0;
}

CheckSnapshot *check_snapshot_find(Check *c, const uint8_t id[16]) {
        for (size_t i = 0; i < c->n_snapshots; i++)
                if (!c->snapshots[i].gone && memcmp(c->snapshots[i].id, id, 16) == 0)
                        return &c->snapshots[i];
        return NULL;
}
