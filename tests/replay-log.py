#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a disk may hold after a power cut, from the log of dm-log-writes of all writes and flushes it got since it was empty.

replay-log.py marks LOG
    One line per mark: number of its entry, text.
replay-log.py cut LOG DISK STARTS ENTRY LOSS SEED
    Writes to DISK, which is empty, what came before ENTRY. STARTS: the sectors, with commas, where parts begin; each is a
    disk with a cache of its own: what a part got after its last flush may be lost, block by block, as LOSS says: "all" of
    it, or "some". A write with FUA is not. With "lied" all is lost, and what FUA or a flush asked for among the last LIES
    entries as well. Prints how many blocks could be lost, and how many were.
replay-log.py flushes LOG STARTS
    How many flushes each part got: one that gets none would lose everything.
"""
import os
import random
import struct
import sys

LIES = 100
MAGIC, SECTOR, BLOCK = 0x6A736677736872, 512, 4096
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def entries(log):
    """Each as (flags, first sector, sectors, offset of its data, text of a mark)."""
    magic, _, count, size = struct.unpack("<QQQI", os.pread(log, 28, 0))
    if magic != MAGIC:
        sys.exit("this is no log")
    at = size
    for _ in range(count):
        sector, sectors, flags, length = struct.unpack("<QQQQ", os.pread(log, 32, at))
        text = os.pread(log, length, at + 32).decode() if flags & MARK else ""
        at += size
        yield flags, sector, sectors, at, text
        if not flags & (DISCARD | MARK):
            at += sectors * SECTOR


def part_of(starts, sector):
    return max(i for i, s in enumerate(starts) if s <= sector)


def cut(log, disk, starts, end, loss, seed):
    all_of_them = [e for _, e in zip(range(end), entries(log))]
    flushed = [-1] * len(starts)
    honest = end - LIES if loss == "lied" else end
    for i, (flags, sector, *_) in enumerate(all_of_them[:honest]):
        if flags & FLUSH:
            flushed[part_of(starts, sector)] = i
    chance = random.Random(seed)
    unsafe = lost = 0
    for i, (flags, sector, sectors, at, _) in enumerate(all_of_them):
        if flags & MARK or sectors == 0:
            continue
        safe = (flags & FUA and i < honest) or i < flushed[part_of(starts, sector)]
        size = sectors * SECTOR
        data = bytes(size) if flags & DISCARD else os.pread(log, size, at)
        if safe:
            os.pwrite(disk, data, sector * SECTOR)
            continue
        for offset in range(0, size, BLOCK):
            unsafe += 1
            if loss != "some" or chance.random() < 0.5:
                lost += 1
            else:
                os.pwrite(disk, data[offset : offset + BLOCK], sector * SECTOR + offset)
    os.fsync(disk)
    print(unsafe, lost)


def main(command, log, *rest):
    log = os.open(log, os.O_RDONLY)
    if command == "marks":
        for i, (flags, *_, text) in enumerate(entries(log)):
            if flags & MARK:
                print(i, text)
    elif command == "flushes":
        starts = [int(s) for s in rest[0].split(",")]
        count = [0] * len(starts)
        for flags, sector, *_ in entries(log):
            if flags & FLUSH:
                count[part_of(starts, sector)] += 1
        print(*count)
    else:
        disk, starts, end, loss, seed = rest
        cut(log, os.open(disk, os.O_WRONLY), [int(s) for s in starts.split(",")], int(end), loss, int(seed))


main(*sys.argv[1:])
