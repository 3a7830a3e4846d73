/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a script says about its data when it is asked to identify: the document itself, or lines KEY=VALUE that build
 * one, in the order in which they are said (vss-writer-exec(8)).
 */
#include "writers/vss-writer.h"

/* Changes text. m NULL: only whether it is well formed. -EINVAL, -EBADMSG, or what vss_metadata_*() said. */
int identity_put(struct vss_metadata *m, char *text);
