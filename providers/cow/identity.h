/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a disk is by itself, whatever name it has today: /dev/sdb is another disk after a boot at which they were found
 * in another order. "KIND:VALUE", of the first kind that the disk has when it is recorded; later it is compared by that
 * kind, so that a kernel that knows more changes nothing. Kinds, the best first:
 *
 *   dm        the uuid that device mapper was given (LVM, dm-crypt, multipath)
 *   md        the uuid of the array
 *   wwid      what SCSI and NVMe say
 *   serial    what virtio, NVMe and MMC say
 *   partuuid  of a partition on a disk that has none of these: from the table, which dd copies
 *
 * A partition is the identity of its disk and "-partN". Files, loop devices and disks without a serial number have
 * none.
 */
#include "protocol/base.h"
#include <sys/types.h>

enum { IDENTITY_SIZE = 40 }; /* with NUL; what is longer is cut and ends in ~ and a checksum of all of it */

/* sysfs: "/sys", a test has its own. ret is "" if there is none. */
void identity_read(const char *sysfs, dev_t dev, char ret[static IDENTITY_SIZE]);
/* Is it the disk with this identity, which was recorded? UNKNOWN: it says nothing of that kind any more. */
typedef enum IdentityVerdict { IDENTITY_UNKNOWN, IDENTITY_SAME, IDENTITY_ANOTHER } IdentityVerdict;
IdentityVerdict identity_compare(const char *sysfs, dev_t dev, const char *identity);
bool identity_is(const char *sysfs, dev_t dev, const char *identity);
/*
 * The path by which a disk that was recorded is to be opened: the one it had if it is still there, or the only one of
 * all devices that is this disk. -ENOENT: it is nowhere, another is there; -EBUSY: two are; text says it.
 */
int identity_locate(const char *sysfs, const char *path, const char *identity, char *ret, size_t size, char *text,
                    size_t n);
