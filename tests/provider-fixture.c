/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A provider file for unit-loader.c, built in several ways: what is wrong with each is in FIXTURE_* of
 * tests/meson.build. */
#include "providers/vss-provider.h"
#include <errno.h>
#include <stddef.h>

#ifndef FIXTURE_SIZE
#define FIXTURE_SIZE sizeof(struct vss_provider)
#endif
#ifndef FIXTURE_VERSION
#define FIXTURE_VERSION VSS_PROVIDER_API_VERSION
#endif
#ifndef FIXTURE_ABORT
#define FIXTURE_ABORT fixture_step
#endif

static uint64_t fixture_capabilities(void *state) {
        return 0;
}

static int fixture_probe(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret) {
        return -EOPNOTSUPP;
}

static int fixture_begin_prepare(void *state, struct vss_call *c, const struct vss_volume *v,
                                 const struct vss_request *q) {
        return -EOPNOTSUPP;
}

static int fixture_step(void *state, struct vss_call *c) {
        return 0;
}

static int fixture_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata) {
        return 0;
}

static int fixture_remove(void *state, struct vss_call *c, const char *snapshot) {
        return 0;
}

static const struct vss_provider fixture = {
        .struct_size = FIXTURE_SIZE,
        .api_version = FIXTURE_VERSION,
        .name = FIXTURE_NAME,
        .version = "fixture",
        .capabilities = fixture_capabilities,
        .probe = fixture_probe,
        .begin_prepare = fixture_begin_prepare,
        .commit = fixture_step,
        .abort = FIXTURE_ABORT,
        .list = fixture_list,
        .remove = fixture_remove,
        .clear_mark = fixture_step,
};

#ifndef FIXTURE_WITHOUT_ENTRY
VSS_REGISTER_PROVIDER(fixture)
#else
const struct vss_provider *fixture_unused(void);
const struct vss_provider *fixture_unused(void) {
        return &fixture;
}
#endif
