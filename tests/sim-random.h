/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Numbers that a seed determines (splitmix64), so that a run can be had again from its seed. */
#include <stdbool.h>
#include <stdint.h>

typedef struct SimRandom {
        uint64_t state;
} SimRandom;

static inline uint64_t sim_mix(uint64_t x) {
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
        return x ^ (x >> 31);
}

static inline uint64_t sim_random(SimRandom *r) {
        return sim_mix(r->state += 0x9e3779b97f4a7c15ULL);
}

/* 0 to n - 1. */
static inline uint32_t sim_below(SimRandom *r, uint32_t n) {
        return (uint32_t) (((sim_random(r) >> 32) * n) >> 32);
}

/* True n times of m. */
static inline bool sim_chance(SimRandom *r, uint32_t n, uint32_t m) {
        return sim_below(r, m) < n;
}
