/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Loop devices over files of the FUSE mount. All of it blocks: only children of the holder call it. */
#include "providers/cow/holder.h"

/* mount: the detached FUSE mount. Configures a device of node's file and writes its path to ret. text: what failed. */
int device_make(int mount, const Node *node, const char *label, char ret[static DEVICE_PATH_MAX], char *text, size_t n);
/* -EBUSY: open or mounted somewhere. 0 also when it is gone already. */
int device_drop(const char *path, const char *label, char *text, size_t n);
/* Devices with labels of this store that nobody serves any more are let go. */
void devices_sweep(const char *label_prefix);
/* Replaces the link; name is a file name. udev learns the name too, and systemd from it. owner: label of the store. */
int device_link(const char *directory, const char *name, const char *target, const char *owner);
void device_unlink(const char *directory, const char *name);
/* What udev was told by a holder of this store that died. */
void device_names_sweep(const char *directory, const char *owner);
/*
 * What a device of ours lies on, for vss-probe, which cannot follow a loop device whose file nobody can see: one line
 * "STORE-LABEL ORIGIN STORE" in DIRECTORY/lies-on/loopN (or ublkbN), with the numbers MAJOR:MINOR of the block devices,
 * or of the file systems that have the files.
 */
int lies_on_write(const char *directory, const char *device, const char *label, int origin, int store);
void lies_on_remove(const char *directory, const char *device);
void lies_on_sweep(const char *directory);
