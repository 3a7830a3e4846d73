/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/shared.h"
#include <stdio.h>
#include <sys/mman.h>

static size_t shared_head(void) {
        return (sizeof(Shared) + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
}

static size_t shared_length(void) {
        return shared_head() + (size_t) SLOTS * SLOT_BYTES;
}

int shared_create(void) {
        _cleanup_close_ int fd = memfd_create("vss-cow", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, (off_t) shared_length()) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int shared_map(int fd, SharedMap *ret) {
        size_t length = shared_length();
        volatile uint8_t *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (p == MAP_FAILED)
                return -errno;
        for (size_t i = 0; i < length; i += BLOCK_SIZE)
                __atomic_fetch_or(&p[i], 0, __ATOMIC_RELAXED); /* a write that changes nothing */
        (void) mlock((const void *) p, length);
        *ret = (SharedMap) { .shared = (Shared *) (uintptr_t) p,
                             .areas = (uint8_t *) (uintptr_t) p + shared_head(),
                             .length = length };
        return 0;
}

void shared_unmap(SharedMap map) {
        (void) munmap(map.shared, map.length);
}

Node *node_by_id(Shared *s, uint64_t id) {
        Node *n = id < 2 ? NULL : &s->nodes[(id - 2) % 4096 % NODES];
        return n && n->kind != NODE_UNUSED && node_id(s, n) == id ? n : NULL;
}

Node *node_by_name(Shared *s, const char *name) {
        for (unsigned i = 0; i < NODES; i++)
                if (s->nodes[i].kind != NODE_UNUSED && streq(s->nodes[i].name, name))
                        return &s->nodes[i];
        return NULL;
}

Node *node_new(Shared *s, const char *name) {
        for (unsigned i = 0; i < NODES; i++) {
                Node *n = &s->nodes[i];
                if (n->kind != NODE_UNUSED)
                        continue;
                *n = (Node) { .serial = n->serial + 1 };
                (void) snprintf(n->name, sizeof(n->name), "%s", name);
                return n;
        }
        return NULL;
}

void node_free(Node *n) {
        __atomic_store_n(&n->kind, NODE_UNUSED, __ATOMIC_SEQ_CST);
}
