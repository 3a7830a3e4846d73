/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * An origin that is a block device has the UUIDs and labels of what lies on the volume. While we have it, udev must not
 * offer it under these (hazards A8): for each there is a file LINKS/.hidden/MAJOR:MINOR, which units/59-vss.rules looks
 * for, and the device is announced once more so that its old links go. Nothing here can fail: without udev there is
 * nobody to hide it from, and nobody can mount it while it is open O_EXCL.
 */
typedef struct Hidden {
        int directory, devices; /* LINKS/.hidden and /sys/dev/block, held open: the holder leaves both behind */
} Hidden;

void hidden_begin(Hidden *h, const char *links);
/* Of a descriptor of the origin; others than block devices are ignored. owner: label of the store. */
void hidden_add(const Hidden *h, int origin, const char *owner);
void hidden_remove(const Hidden *h, int origin, const char *owner);
/* Of a device that shows a snapshot, by its kernel's name, before it is there. */
void hidden_add_name(const Hidden *h, const char *name, const char *owner);
void hidden_remove_name(const Hidden *h, const char *name, const char *owner);
/* A device that was hidden for the name it has, which is that of an origin, and is another disk. */
void hidden_reconsider(const char *path);
/* What a holder of this store that died has left. */
void hidden_sweep(const Hidden *h, const char *owner);
