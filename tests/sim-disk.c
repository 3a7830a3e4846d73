/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/sim-disk.h"
#include "protocol/base.h"
#include <stdio.h>

typedef struct Page {
        union {
                uint32_t refs;
                struct Page *next;
        };
        uint8_t data[SIM_PAGE];
} Page;

typedef struct Image {
        uint64_t bytes;
        uint32_t n;
        Page **pages; /* NULL: zeros */
} Image;

/* A write that a power cut may lose, in whole or in part. */
typedef struct Unstable {
        TAILQ_ENTRY(Unstable) link;
        unsigned disk;
        uint64_t offset;
        size_t length;
        uint64_t answered; /* moment; 0: not yet */
        uint8_t *data;     /* NULL: zeros */
        uint8_t piece[];   /* 1: may still decide what the disk holds there */
} Unstable;
typedef TAILQ_HEAD(UnstableList, Unstable) UnstableList;

typedef struct Flight {
        Io *io;
        bool executed, slow;
        int error;
        uint64_t begun;   /* moment */
        size_t read;      /* bytes that have been read */
        Unstable *change; /* what it did */
} Flight;

struct SimDisk {
        Disk disk;
        SimRandom random;
        Image seen[DISK_MAX], stable[DISK_MAX];
        unsigned n_disks;                /* highest number + 1 */
        UnstableList unstable[DISK_MAX]; /* in order of execution */
        Flight *flights;
        unsigned n_flights, flights_size;
        uint64_t now, answered;
        SimFault faults[SIM_FAULTS_MAX];
        unsigned n_faults;
        bool trace;
};

/* --- images ------------------------------------------------------------------------------------------------------- */

static Page *free_pages;

static Page *page_new(const Page *from) {
        Page *p = free_pages;
        if (p)
                free_pages = p->next;
        else if (!(p = malloc(sizeof(Page))))
                abort();
        p->refs = 1;
        if (from)
                memcpy(p->data, from->data, SIM_PAGE);
        else
                memset(p->data, 0, SIM_PAGE);
        return p;
}

static void page_unref(Page *p) {
        if (!p || --p->refs > 0)
                return;
        p->next = free_pages;
        free_pages = p;
}

static void image_done(Image *m) {
        for (uint32_t i = 0; i < m->n; i++)
                page_unref(m->pages[i]);
        free(m->pages);
        *m = (Image) { 0 };
}

static void image_init(Image *m, uint64_t bytes) {
        m->bytes = bytes;
        m->n = (uint32_t) ((bytes + SIM_PAGE - 1) / SIM_PAGE);
        m->pages = calloc(m->n ?: 1, sizeof(Page *));
        if (!m->pages)
                abort();
}

static void image_copy(Image *m, const Image *from) {
        image_init(m, from->bytes);
        for (uint32_t i = 0; i < m->n; i++)
                if ((m->pages[i] = from->pages[i]))
                        m->pages[i]->refs++;
}

static void image_read(const Image *m, uint64_t offset, uint8_t *buffer, size_t length) {
        assert(offset + length <= m->bytes);
        while (length > 0) {
                size_t at = offset % SIM_PAGE, n = MIN_OF(length, SIM_PAGE - at);
                const Page *p = m->pages[offset / SIM_PAGE];
                if (p)
                        memcpy(buffer, p->data + at, n);
                else
                        memset(buffer, 0, n);
                buffer += n;
                offset += n;
                length -= n;
        }
}

/* data NULL: zeros. */
static void image_write(Image *m, uint64_t offset, const uint8_t *data, size_t length) {
        assert(offset + length <= m->bytes);
        while (length > 0) {
                size_t at = offset % SIM_PAGE, n = MIN_OF(length, SIM_PAGE - at);
                Page **p = &m->pages[offset / SIM_PAGE];
                if (!*p || (*p)->refs > 1) {
                        Page *own = page_new(*p);
                        page_unref(*p);
                        *p = own;
                }
                if (data)
                        memcpy((*p)->data + at, data, n);
                else
                        memset((*p)->data + at, 0, n);
                data = data ? data + n : NULL;
                offset += n;
                length -= n;
        }
}

/* --- what is not stable ------------------------------------------------------------------------------------------- */

static Unstable *unstable_new(unsigned disk, uint64_t offset, size_t length, const void *data) {
        size_t pieces = length / SIM_SECTOR;
        Unstable *u = malloc(sizeof(Unstable) + pieces + (data ? length : 0));
        if (!u)
                abort();
        *u = (Unstable) { .disk = disk, .offset = offset, .length = length };
        memset(u->piece, 1, pieces);
        if (data) {
                u->data = u->piece + pieces;
                memcpy(u->data, data, length);
        }
        return u;
}

static void unstable_apply(Image *m, const Unstable *u, size_t piece) {
        image_write(m, u->offset + piece * SIM_SECTOR, u->data ? u->data + piece * SIM_SECTOR : NULL, SIM_SECTOR);
}

static void unstable_show(Image *m, const Unstable *u) {
        for (size_t i = 0; i < u->length / SIM_SECTOR; i++)
                if (u->piece[i])
                        unstable_apply(m, u, i);
}

/* It reached the platter: what was executed before it cannot come up again. */
static void unstable_settle(SimDisk *d, Unstable *u) {
        Unstable *before;
        TAILQ_FOREACH(before, &d->unstable[u->disk], link) {
                if (before == u)
                        break;
                uint64_t first = MAX_OF(before->offset, u->offset);
                uint64_t last = MIN_OF(before->offset + before->length, u->offset + u->length);
                for (uint64_t at = first; at < last; at += SIM_SECTOR)
                        if (u->piece[(at - u->offset) / SIM_SECTOR])
                                before->piece[(at - before->offset) / SIM_SECTOR] = 0;
        }
        unstable_show(&d->stable[u->disk], u);
        TAILQ_REMOVE(&d->unstable[u->disk], u, link);
        free(u);
}

static void unstable_clear(SimDisk *d, unsigned disk) {
        Unstable *u;
        while ((u = TAILQ_FIRST(&d->unstable[disk]))) {
                TAILQ_REMOVE(&d->unstable[disk], u, link);
                free(u);
        }
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static void sim_submit(Disk *disk, Io *io);

SimDisk *sim_disk_new(uint64_t seed) {
        SimDisk *d = calloc(1, sizeof(SimDisk));
        if (!d)
                abort();
        d->disk.submit = sim_submit;
        d->random.state = seed;
        d->now = 1;
        for (unsigned i = 0; i < DISK_MAX; i++)
                TAILQ_INIT(&d->unstable[i]);
        return d;
}

SimDisk *sim_disk_free(SimDisk *d) {
        if (!d)
                return NULL;
        for (unsigned i = 0; i < d->n_disks; i++) {
                unstable_clear(d, i);
                image_done(&d->seen[i]);
                image_done(&d->stable[i]);
        }
        free(d->flights);
        free(d);
        return NULL;
}

void sim_disk_add(SimDisk *d, unsigned disk, uint64_t bytes) {
        assert(disk < DISK_MAX && bytes % SIM_SECTOR == 0);
        unstable_clear(d, disk);
        image_done(&d->seen[disk]);
        image_done(&d->stable[disk]);
        image_init(&d->seen[disk], bytes);
        image_init(&d->stable[disk], bytes);
        d->n_disks = MAX_OF(d->n_disks, disk + 1);
}

uint64_t sim_disk_bytes(const SimDisk *d, unsigned disk) {
        return d->seen[disk].bytes;
}

Disk *sim_disk_interface(SimDisk *d) {
        return &d->disk;
}

unsigned sim_disk_in_flight(const SimDisk *d) {
        return d->n_flights;
}

unsigned sim_disk_unstable(const SimDisk *d) {
        unsigned n = 0;
        const Unstable *u;
        for (unsigned i = 0; i < d->n_disks; i++)
                TAILQ_FOREACH(u, &d->unstable[i], link)
                        n++;
        for (unsigned i = 0; i < d->n_flights; i++)
                n += d->flights[i].io->op != IO_READ && d->flights[i].io->op != IO_FLUSH;
        return n;
}

uint64_t sim_disk_answered(const SimDisk *d) {
        return d->answered;
}

void sim_disk_peek(const SimDisk *d, unsigned disk, uint64_t offset, void *buffer, size_t length) {
        image_read(&d->seen[disk], offset, buffer, length);
}

void sim_disk_poke(SimDisk *d, unsigned disk, uint64_t offset, const void *buffer, size_t length) {
        image_write(&d->seen[disk], offset, buffer, length);
        image_write(&d->stable[disk], offset, buffer, length);
}

/* --- faults ------------------------------------------------------------------------------------------------------- */

SimFault *sim_disk_fault(SimDisk *d, const SimFault *fault) {
        assert(d->n_faults < SIM_FAULTS_MAX);
        d->faults[d->n_faults] = *fault;
        return &d->faults[d->n_faults++];
}

void sim_disk_faults_clear(SimDisk *d) {
        d->n_faults = 0;
}

static int fault_of(SimDisk *d, const Io *io) {
        int error = 0;
        for (unsigned i = 0; i < d->n_faults; i++) {
                SimFault *f = &d->faults[i];
                if ((f->disk >= 0 && (unsigned) f->disk != io->disk) || !(f->ops >> io->op & 1))
                        continue;
                if (f->length > 0 && (io->offset >= f->offset + f->length || io->offset + io->length <= f->offset))
                        continue;
                f->seen++;
                if (f->permanent ? f->seen >= f->nth : f->seen == f->nth)
                        error = error ?: f->error;
        }
        return error;
}

/* --- in and out --------------------------------------------------------------------------------------------------- */

static void io_check(const SimDisk *d, const Io *io) {
        uint64_t unit = io->disk == DISK_STORE ? SIM_PAGE : SIM_SECTOR;
        bool buffer = io->op == IO_READ || io->op == IO_WRITE || io->op == IO_WRITE_DURABLE;
        assert(io->op < IO_OP_MAX && io->disk < d->n_disks && io->done);
        if (io->op == IO_FLUSH) {
                assert(io->length == 0);
                return;
        }
        assert(io->length > 0 && io->length % unit == 0 && io->offset % unit == 0);
        assert(io->offset + io->length <= d->seen[io->disk].bytes);
        assert(!buffer || (io->buffer && (uintptr_t) io->buffer % SIM_SECTOR == 0));
        assert(io->op != IO_ALLOCATE || io->disk == DISK_STORE);
        (void) unit;
        (void) buffer;
}

static void io_trace(const SimDisk *d, const char *what, const Io *io) {
        static const char *const names[] = { "read", "write", "write-durable", "flush", "allocate", "discard", "zero" };
        if (d->trace)
                fprintf(stderr, "        %s %s disk %u block %lu.%lu +%zu\n", what, names[io->op], io->disk,
                        io->offset / SIM_PAGE, io->offset % SIM_PAGE / SIM_SECTOR, io->length / SIM_SECTOR);
}

static void sim_submit(Disk *disk, Io *io) {
        SimDisk *d = container_of(disk, SimDisk, disk);
        io_check(d, io);
        io_trace(d, "submit", io);
        if (d->n_flights == d->flights_size) {
                d->flights_size = 2 * d->flights_size + 16;
                d->flights = reallocarray(d->flights, d->flights_size, sizeof(Flight));
                if (!d->flights)
                        abort();
        }
        d->flights[d->n_flights++] = (Flight) {
                .io = io,
                .begun = d->now++,
                .error = fault_of(d, io),
                .slow = sim_chance(&d->random, 1, 24),
        };
}

static bool io_changes(const Io *io) {
        return io->op != IO_READ && io->op != IO_FLUSH;
}

/* What the range holds afterwards may be anything, or what it held. */
static Unstable *change_of(const Io *io, SimRandom *random) {
        uint8_t junk[SIM_PAGE];
        switch (io->op) {
        case IO_WRITE:
        case IO_WRITE_DURABLE:
                return unstable_new(io->disk, io->offset, io->length, io->buffer);
        case IO_ZERO:
                return unstable_new(io->disk, io->offset, io->length, NULL);
        case IO_DISCARD:
                return sim_chance(random, 1, 2) ? unstable_new(io->disk, io->offset, io->length, NULL) : NULL;
        case IO_ALLOCATE:
                if (sim_chance(random, 1, 2))
                        return NULL;
                if (sim_chance(random, 1, 2))
                        return unstable_new(io->disk, io->offset, io->length, NULL);
                memset(junk, (int) sim_below(random, 256), sizeof(junk));
                return unstable_new(io->disk, io->offset, sizeof(junk), junk);
        default:
                return NULL;
        }
}

static void change_tear(Unstable *u, SimRandom *random) {
        for (size_t i = 0; i < u->length / SIM_SECTOR; i++)
                u->piece[i] = (uint8_t) sim_below(random, 2);
}

static void flight_change(SimDisk *d, Flight *f) {
        Unstable *u = change_of(f->io, &d->random);
        if (!u)
                return;
        if (f->error) /* how far it got nobody knows */
                change_tear(u, &d->random);
        unstable_show(&d->seen[u->disk], u);
        TAILQ_INSERT_TAIL(&d->unstable[u->disk], u, link);
        f->change = u;
}

/* A read may come in two pieces, with something else between them. */
static void flight_execute(SimDisk *d, Flight *f) {
        const Io *io = f->io;
        if (io->op == IO_READ && !f->error) {
                size_t n = io->length - f->read;
                if (n > SIM_SECTOR && sim_chance(&d->random, 1, 4))
                        n = (1 + sim_below(&d->random, (uint32_t) (n / SIM_SECTOR) - 1)) * SIM_SECTOR;
                image_read(&d->seen[io->disk], io->offset + f->read, (uint8_t *) io->buffer + f->read, n);
                f->read += n;
                f->executed = f->read == io->length;
                return;
        }
        if (io_changes(io))
                flight_change(d, f);
        f->executed = true;
}

static void flight_settle(SimDisk *d, const Flight *f) {
        Unstable *u, *next;
        if (f->change)
                f->change->answered = d->now++;
        if (f->error)
                return;
        if (f->io->op == IO_WRITE_DURABLE && f->change)
                unstable_settle(d, f->change);
        if (f->io->op != IO_FLUSH)
                return;
        for (u = TAILQ_FIRST(&d->unstable[f->io->disk]); u; u = next) {
                next = TAILQ_NEXT(u, link);
                if (u->answered && u->answered < f->begun)
                        unstable_settle(d, u);
        }
}

static void flight_answer(SimDisk *d, unsigned i) {
        Flight f = d->flights[i];
        io_trace(d, f.error ? "failed" : "done", f.io);
        d->flights[i] = d->flights[--d->n_flights];
        flight_settle(d, &f);
        d->answered++;
        if (f.error && f.io->op == IO_READ)
                memset(f.io->buffer, 0xee, f.io->length);
        f.io->done(f.io, f.error ? -f.error : f.io->op == IO_READ || f.io->buffer ? (int) f.io->length : 0);
}

bool sim_disk_step(SimDisk *d) {
        if (d->n_flights == 0)
                return false;
        unsigned i = sim_below(&d->random, d->n_flights);
        for (unsigned tries = 0; d->flights[i].slow && !sim_chance(&d->random, 1, 256) && tries < 16; tries++)
                i = sim_below(&d->random, d->n_flights);
        if (d->flights[i].executed)
                flight_answer(d, i);
        else {
                flight_execute(d, &d->flights[i]);
                if (d->flights[i].executed && sim_chance(&d->random, 1, 3))
                        flight_answer(d, i);
        }
        return true;
}

/* An engine that dies in the middle of something leaves memory. Where none did the sanitizers look for it. */
static int somebody_died;

static void note_death(const SimDisk *d) {
        somebody_died = somebody_died || d->n_flights > 0;
}

_public_ int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) {
        return somebody_died;
}

/* --- crash states ------------------------------------------------------------------------------------------------- */

typedef struct Cut {
        SimCut how;
        SimRandom random;
        uint32_t likely; /* of 8 */
        bool shorn;      /* sectors of the store too are torn */
        uint64_t at, limit;
} Cut;

static bool cut_keeps_write(Cut *c, bool last) {
        switch (c->how) {
        case SIM_CUT_NONE:
                return false;
        case SIM_CUT_LAST:
                return last;
        case SIM_CUT_WHOLE:
                return sim_chance(&c->random, c->likely, 8);
        default:
                return true;
        }
}

static bool cut_keeps_piece(Cut *c) {
        uint64_t at = c->at++;
        switch (c->how) {
        case SIM_CUT_RANDOM:
                return sim_chance(&c->random, c->likely, 8);
        case SIM_CUT_PREFIX:
                return at < c->limit;
        case SIM_CUT_BUT_ONE:
                return at != c->limit;
        default:
                return true;
        }
}

/* The power went in the middle of a sector. Of a volume's that would be nobody's fault, so only the store has it. */
static void cut_shear(Cut *c, Image *m, const Unstable *u, size_t i) {
        if (c->shorn && u->disk == DISK_STORE && u->data && sim_chance(&c->random, 1, 2))
                image_write(m, u->offset + i * SIM_SECTOR, u->data + i * SIM_SECTOR, SIM_SECTOR / 8);
        else
                unstable_apply(m, u, i);
}

static void cut_apply(Cut *c, Image *m, const Unstable *u, bool last) {
        if (!cut_keeps_write(c, last))
                return;
        for (size_t i = 0; i < u->length / SIM_SECTOR; i++)
                if (cut_keeps_piece(c) && u->piece[i])
                        cut_shear(c, m, u, i);
}

static uint64_t pieces_of(const SimDisk *d) {
        uint64_t n = 0;
        const Unstable *u;
        for (unsigned i = 0; i < d->n_disks; i++)
                TAILQ_FOREACH(u, &d->unstable[i], link)
                        n += u->length / SIM_SECTOR;
        for (unsigned i = 0; i < d->n_flights; i++)
                if (io_changes(d->flights[i].io) && !d->flights[i].executed)
                        n += d->flights[i].io->length / SIM_SECTOR;
        return n;
}

/* What is not executed may have gone to the platter nevertheless, after everything else. */
static void cut_flights(Cut *c, const SimDisk *d, SimDisk *new, unsigned offset) {
        for (unsigned k = 0; k < d->n_flights; k++) {
                unsigned i = (k + offset) % d->n_flights;
                const Flight *f = &d->flights[i];
                if (!io_changes(f->io) || f->executed)
                        continue;
                Unstable *u = change_of(f->io, &c->random);
                if (!u)
                        continue;
                cut_apply(c, &new->stable[u->disk], u, k + 1 == d->n_flights);
                free(u);
        }
}

SimDisk *sim_disk_cut(const SimDisk *d, SimCut how, uint64_t seed) {
        static const uint32_t likely[] = { 1, 4, 7, 4 };
        SimDisk *new = sim_disk_new(seed);
        Cut c = { .how = how, .random.state = seed };
        const Unstable *u;

        note_death(d);
        c.likely = likely[sim_below(&c.random, ELEMENTSOF(likely))];
        c.shorn = sim_chance(&c.random, 1, 4);
        c.limit = how == SIM_CUT_PREFIX || how == SIM_CUT_BUT_ONE ? sim_below(&c.random, (uint32_t) pieces_of(d) + 1) :
                                                                    0;
        new->n_disks = d->n_disks;
        new->trace = d->trace;
        for (unsigned i = 0; i < d->n_disks; i++) {
                image_copy(&new->stable[i], &d->stable[i]);
                TAILQ_FOREACH(u, &d->unstable[i], link)
                        cut_apply(&c, &new->stable[i], u, d->n_flights == 0 && !TAILQ_NEXT(u, link));
        }
        if (d->n_flights > 0)
                cut_flights(&c, d, new, sim_below(&c.random, d->n_flights));
        for (unsigned i = 0; i < d->n_disks; i++)
                image_copy(&new->seen[i], &new->stable[i]);
        return new;
}

SimDisk *sim_disk_killed(const SimDisk *d, uint64_t seed) {
        SimDisk *new = sim_disk_new(seed);
        const Unstable *u;
        note_death(d);
        new->n_disks = d->n_disks;
        new->trace = d->trace;
        new->now = d->now;
        for (unsigned i = 0; i < d->n_disks; i++) {
                image_copy(&new->stable[i], &d->stable[i]);
                image_copy(&new->seen[i], &d->seen[i]);
                TAILQ_FOREACH(u, &d->unstable[i], link) {
                        Unstable *copy = unstable_new(i, u->offset, u->length, u->data);
                        memcpy(copy->piece, u->piece, u->length / SIM_SECTOR);
                        copy->answered = new->now;
                        TAILQ_INSERT_TAIL(&new->unstable[i], copy, link);
                }
        }
        uint32_t likely = sim_below(&new->random, 5);
        unsigned offset = sim_below(&new->random, MAX_OF(d->n_flights, 1u));
        for (unsigned k = 0; k < d->n_flights; k++) {
                const Flight *f = &d->flights[(k + offset) % d->n_flights];
                if (!io_changes(f->io) || f->executed || !sim_chance(&new->random, likely, 4))
                        continue;
                Flight copy = { .io = f->io, .error = f->error };
                flight_change(new, &copy);
                if (copy.change)
                        copy.change->answered = new->now;
        }
        new->now++;
        return new;
}

void sim_disk_trace(SimDisk *d, bool on) {
        d->trace = on;
}

void sim_disk_forget(SimDisk *d) {
        note_death(d);
        d->n_flights = 0;
}
