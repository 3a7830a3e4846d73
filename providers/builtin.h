/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The providers linked into vss-provider-host. */
#include "protocol/vocabulary.h"
#include "providers/vss-provider.h"

extern const struct vss_provider null_provider;
extern const struct vss_provider btrfs_provider;
extern const struct vss_provider cow_provider;
extern const struct vss_provider lvm_provider;

/*
 * Wraps inner, which is copied, by the rules of the environment variable VSS_FAULT; see fault.c. Once per process.
 * InvalidArgument names the rule that cannot be read.
 */
int fault_wrap(const struct vss_provider *inner, struct vss_provider *ret, Failure *reterr);
