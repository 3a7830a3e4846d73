/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocks that hold their number and a version that only grows: what an engine gives back is judged by that. A write
 * that was acknowledged and carried out again later puts an old version over a newer one, which no checksum notices.
 *
 *   cow-verify fill FILE BLOCKS
 *       Version 0 everywhere.
 *   cow-verify write FILE BLOCKS DEPTH STOP [LOST]
 *       Until the file STOP exists: each of DEPTH threads has a range of its own, reads what it is about to write, and
 *       writes a newer version. LOST: after that many writes a block gets its former version back, behind the
 *       checker's back.
 *   cow-verify read FILE BLOCKS
 *       Every block is whole and of this place; prints the highest version.
 *   cow-verify kill HOLDER COUNT WHEN MAX-USEC DIR
 *       Kills the server COUNT times, at a random moment up to MAX-USEC after its start (WHEN start) or its first
 *       answer (WHEN service).
 *
 * Status 1: something is wrong, and stderr has the first of it. Direct I/O.
 */
#include "providers/cow/control.h"
#include "tests/support.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

enum { BLOCK = 4096, SPAN_MAX = 16, DEPTH_MAX = 64, MAGIC = 0x76657273 };

typedef struct Head {
        uint32_t magic, thread;
        uint64_t number, version, check;
} Head;

typedef struct Writer {
        pthread_t thread;
        const char *path, *stop;
        int fd;
        uint64_t first, blocks, seed, lost_after;
        uint64_t *versions; /* acknowledged, of its range */
        uint64_t writes, reads, bad, errors, longest_usec;
        uint8_t *buffer;
} Writer;

static uint64_t next_random(uint64_t *state) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return *state;
}

static void block_make(uint8_t *p, uint64_t number, uint64_t version) {
        uint64_t state = number * 0x9e3779b97f4a7c15ULL ^ (version + 1) * 0xbf58476d1ce4e5b9ULL ^ 1;
        for (unsigned i = 0; i < BLOCK / 8; i++)
                ((uint64_t *) (void *) p)[i] = next_random(&state);
        *(Head *) (void *) p = (Head) { .magic = MAGIC, .number = number, .version = version, .check = ~version };
}

/* NULL: it is whole, of this place, and of this version (exact) or at least it. */
static const char *block_wrong(const uint8_t *p, uint64_t number, uint64_t version, bool exact) {
        static _Thread_local uint8_t expected[BLOCK] __attribute__((aligned(8)));
        const Head *h = (const void *) p;
        if (h->magic != MAGIC || h->check != ~h->version)
                return "no block of ours";
        if (h->number != number)
                return "a block of another place";
        if (h->version < version)
                return "an old version: an acknowledged write is lost";
        if (exact && h->version > version)
                return "a version that was never acknowledged";
        block_make(expected, number, h->version);
        return memcmp(expected, p, BLOCK) == 0 ? NULL : "a torn block";
}

static void complain(Writer *w, uint64_t number, const char *why, const uint8_t *p) {
        if (w->bad++ < 3)
                fprintf(stderr, "%s: block %lu: %s (has %lu, acknowledged %lu)\n", w->path, number, why,
                        ((const Head *) (const void *) p)->version, w->versions[number - w->first]);
}

static bool transfer(Writer *w, bool write, uint64_t first, unsigned n) {
        uint64_t begin = now_usec();
        ssize_t want = (ssize_t) n * BLOCK;
        ssize_t got = write ? pwrite(w->fd, w->buffer, (size_t) want, (off_t) (first * BLOCK)) :
                              pread(w->fd, w->buffer, (size_t) want, (off_t) (first * BLOCK));
        w->longest_usec = MAX_OF(w->longest_usec, now_usec() - begin);
        if (got == want)
                return true;
        if (w->errors++ < 3)
                fprintf(stderr, "%s: %s of block %lu: %s\n", w->path, write ? "write" : "read", first,
                        got < 0 ? strerror(errno) : "short");
        return false;
}

static void check_span(Writer *w, uint64_t first, unsigned n) {
        if (!transfer(w, false, first, n))
                return;
        w->reads++;
        for (unsigned i = 0; i < n; i++) {
                const uint8_t *p = w->buffer + (size_t) i * BLOCK;
                const char *why = block_wrong(p, first + i, w->versions[first + i - w->first], true);
                if (why)
                        complain(w, first + i, why, p);
        }
}

static void write_span(Writer *w, uint64_t first, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                block_make(w->buffer + (size_t) i * BLOCK, first + i, w->versions[first + i - w->first] + 1);
        if (!transfer(w, true, first, n))
                return;
        w->writes++;
        for (unsigned i = 0; i < n; i++)
                w->versions[first + i - w->first]++;
}

/* What a server does that carries out a request again although it was answered. */
static void plant(Writer *w, uint64_t first) {
        block_make(w->buffer, first, w->versions[first - w->first] - 1);
        (void) transfer(w, true, first, 1);
}

static void *writer_main(void *userdata) {
        Writer *w = userdata;
        uint64_t state = w->seed;
        while (access(w->stop, F_OK) < 0 && w->bad == 0) {
                /* half of it in a few blocks, so that old and new writes of one meet */
                uint64_t r = next_random(&state), range = r & 1 ? MIN_OF(w->blocks, 4UL) : w->blocks;
                uint64_t first = w->first + (r >> 8) % range;
                unsigned n = r & 2 ? 1 : 1 + (unsigned) (r >> 40) % SPAN_MAX;
                n = (unsigned) MIN_OF((uint64_t) n, w->first + w->blocks - first);
                check_span(w, first, n);
                write_span(w, first, n);
                if (w->lost_after > 0 && w->writes >= w->lost_after) {
                        w->lost_after = 0;
                        plant(w, first);
                }
        }
        for (uint64_t b = w->first; b < w->first + w->blocks; b += SPAN_MAX)
                check_span(w, b, (unsigned) MIN_OF((uint64_t) SPAN_MAX, w->first + w->blocks - b));
        return NULL;
}

static int open_direct(const char *path, int flags) {
        int fd = open(path, flags | O_DIRECT | O_CLOEXEC);
        if (fd < 0)
                test_die("%s", path);
        return fd;
}

static uint8_t *buffer_new(void) {
        void *p = NULL;
        if (posix_memalign(&p, BLOCK, (size_t) SPAN_MAX * BLOCK) != 0)
                test_die("out of memory");
        return p;
}

static void writer_init(Writer *w, const char *path, uint64_t first, uint64_t blocks, const char *stop) {
        *w = (Writer) { .path = path, .stop = stop, .first = first, .blocks = blocks, .buffer = buffer_new() };
        w->fd = open_direct(path, O_RDWR);
        w->seed = (first + 1) * 0x9e3779b97f4a7c15ULL ^ now_usec();
        w->versions = calloc(blocks, sizeof(uint64_t));
        if (!w->versions)
                test_die("out of memory");
        for (uint64_t b = first; b < first + blocks; b += SPAN_MAX) { /* goes on where the last one stopped */
                uint64_t n = MIN_OF((uint64_t) SPAN_MAX, first + blocks - b);
                if (pread(w->fd, w->buffer, n * BLOCK, (off_t) (b * BLOCK)) != (ssize_t) (n * BLOCK))
                        test_die("%s: block %lu", path, b);
                for (uint64_t i = 0; i < n; i++)
                        w->versions[b + i - first] = ((Head *) (void *) (w->buffer + i * BLOCK))->version;
        }
}

static int run_write(const char *path, uint64_t blocks, unsigned depth, const char *stop, uint64_t lost_after) {
        static Writer writers[DEPTH_MAX];
        Writer sum = {};
        if (depth == 0 || depth > DEPTH_MAX || blocks < depth)
                test_die("bad depth");
        for (unsigned i = 0; i < depth; i++) {
                writer_init(&writers[i], path, i * (blocks / depth), blocks / depth, stop);
                writers[i].lost_after = i == 0 ? lost_after : 0;
        }
        for (unsigned i = 0; i < depth; i++)
                if (pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]) != 0)
                        test_die("no thread");
        for (unsigned i = 0; i < depth; i++) {
                Writer *w = &writers[i];
                (void) pthread_join(w->thread, NULL);
                sum.writes += w->writes;
                sum.reads += w->reads;
                sum.bad += w->bad;
                sum.errors += w->errors;
                sum.longest_usec = MAX_OF(sum.longest_usec, w->longest_usec);
                (void) close_fd(w->fd);
                free(w->versions);
                free(w->buffer);
        }
        printf("depth %u: %lu writes, %lu reads, %lu bad blocks, %lu I/O errors, longest stall %lu ms\n", depth,
               sum.writes, sum.reads, sum.bad, sum.errors, sum.longest_usec / 1000);
        return sum.bad + sum.errors > 0;
}

static int run_fill(const char *path, uint64_t blocks) {
        uint8_t *buffer = buffer_new();
        int fd = open_direct(path, O_RDWR);
        for (uint64_t b = 0; b < blocks; b++) {
                block_make(buffer, b, 0);
                if (pwrite(fd, buffer, BLOCK, (off_t) (b * BLOCK)) != BLOCK)
                        test_die("%s: block %lu", path, b);
        }
        (void) close_fd(fd);
        free(buffer);
        return 0;
}

static int run_read(const char *path, uint64_t blocks) {
        uint8_t *buffer = buffer_new();
        uint64_t bad = 0, highest = 0;
        int fd = open_direct(path, O_RDONLY);
        for (uint64_t b = 0; b < blocks; b++) {
                if (pread(fd, buffer, BLOCK, (off_t) (b * BLOCK)) != BLOCK)
                        test_die("%s: block %lu", path, b);
                const char *why = block_wrong(buffer, b, 0, false);
                if (why && bad++ < 3)
                        fprintf(stderr, "%s: block %lu: %s\n", path, b, why);
                highest = MAX_OF(highest, ((Head *) (void *) buffer)->version);
        }
        printf("%lu blocks, %lu bad, highest version %lu\n", blocks, bad, highest);
        (void) close_fd(fd);
        free(buffer);
        return bad > 0;
}

/* --- killing ------------------------------------------------------------------------------------------------------ */

/* The holder's child that is none of its jobs: those live for a moment only, and have no engine's memory. 0: none. */
static pid_t server_of(pid_t holder, pid_t last) {
        char path[64], text[512] = "";
        (void) snprintf(path, sizeof(path), "/proc/%d/task/%d/children", holder, holder);
        FILE *f = fopen(path, "re");
        if (!f)
                test_die("the holder %d is gone", holder);
        (void) !fgets(text, sizeof(text), f);
        (void) fclose(f);
        char *save = NULL;
        pid_t pid = 0;
        for (char *p = strtok_r(text, " ", &save); p && !pid; p = strtok_r(NULL, " ", &save))
                pid = atoi(p) == last ? 0 : atoi(p);
        return pid;
}

static pid_t wait_for_server(pid_t holder, pid_t last, uint64_t *ret_usec) {
        uint64_t begin = now_usec();
        pid_t pid;
        while (!(pid = server_of(holder, last))) {
                if (now_usec() - begin > 30 * USEC_PER_SEC)
                        test_die("the holder starts no server");
                (void) usleep(200);
        }
        *ret_usec = now_usec();
        return pid;
}

/* The pid of who answers; 0: nobody in time. */
static pid_t wait_for_answer(const char *directory, uint64_t deadline_usec) {
        json_object *request = json_tokener_parse("{\"command\":\"status\"}"), *answer = NULL, *o;
        pid_t pid = 0;
        while (!pid && now_usec() < deadline_usec) {
                _cleanup_close_ int fd = control_connect(directory);
                if (fd >= 0 && control_call(fd, request, deadline_usec, &answer, NULL) == 0 &&
                    json_object_object_get_ex(answer, "server_pid", &o))
                        pid = json_object_get_int(o);
                (void) json_object_put(answer);
                answer = NULL;
        }
        (void) json_object_put(request);
        return pid;
}

static int run_kill(pid_t holder, unsigned count, bool service, uint64_t max_usec, const char *directory) {
        uint64_t state = now_usec() | 1, longest = 0, started = 0;
        pid_t pid = 0;
        for (unsigned i = 0; i < count; i++) {
                uint64_t begin = now_usec();
                pid_t last = pid;
                pid = service ? wait_for_answer(directory, begin + 60 * USEC_PER_SEC) :
                                wait_for_server(holder, last, &started);
                if (!pid)
                        test_die("no server answers within 60 s after %u kills", i);
                if (i > 0)
                        longest = MAX_OF(longest, now_usec() - begin);
                (void) usleep((useconds_t) (next_random(&state) % (max_usec + 1)));
                if (kill(pid, SIGKILL) < 0 && errno != ESRCH)
                        test_die("kill %d", pid);
        }
        uint64_t begin = now_usec();
        if (!wait_for_answer(directory, begin + 60 * USEC_PER_SEC))
                test_die("no server answers within 60 s after %u kills", count);
        printf("%u kills up to %lu ms after %s, back within %lu ms\n", count, max_usec / 1000,
               service ? "the first answer" : "the start", MAX_OF(longest, now_usec() - begin) / 1000);
        return 0;
}

int main(int argc, char **argv) {
        if (argc < 4)
                test_die("usage: cow-verify fill|write|read|kill …");
        const char *path = argv[2];
        uint64_t n = strtoull(argv[3], NULL, 10);
        if (streq(argv[1], "fill"))
                return run_fill(path, n);
        if (streq(argv[1], "read"))
                return run_read(path, n);
        if (streq(argv[1], "write") && argc >= 6)
                return run_write(path, n, (unsigned) atoi(argv[4]), argv[5],
                                 argc > 6 ? strtoull(argv[6], NULL, 10) : 0);
        if (streq(argv[1], "kill") && argc == 7)
                return run_kill(atoi(path), (unsigned) n, streq(argv[4], "service"), strtoull(argv[5], NULL, 10),
                                argv[6]);
        test_die("usage: cow-verify fill|write|read|kill …");
}
