/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a backup program has to read and what it has to leave out, from a manifest, one absolute pattern a line: as
 * restic, borg and rsync take them from a file. Nothing of what a writer named by bytes that a line cannot hold is left
 * out silently: such a name is written with "?" in their place.
 */
#include "protocol/manifest.h"
#include <stdio.h>

/* Files of all components of the manifest that its backup type must save; with no writer none. */
void backup_list_files(const Manifest *m, FILE *f);
/* Files that the administrator and the writers keep out of the backup. */
void backup_list_excludes(const Manifest *m, FILE *f);
