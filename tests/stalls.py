#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
stalls.py TIMES BEGIN SECONDS: how long a client would have waited that came at any moment of the SECONDS after BEGIN
(nanoseconds of CLOCK_MONOTONIC): until the end of the first transaction that began after it had come. TIMES is what
load_counts.py wrote. One client that waits is only one slow transaction, however long; clients that come at any moment are
what a server has, so each tenth of a millisecond counts as one. Prints p50, p99 and max in microseconds.
"""
import struct
import sys

STEP = 100_000


def main():
    begin, seconds = int(sys.argv[2]), float(sys.argv[3])
    with open(sys.argv[1], "rb") as f:
        data = f.read()
    times = [t for t in struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]) if t[1] >= begin]
    waits, i = [], 0
    for now in range(begin, begin + int(seconds * 1e9), STEP):
        while i < len(times) and times[i][0] < now:
            i += 1
        if i == len(times):
            sys.exit("the load ended before the measurement did")
        waits.append(times[i][1] - now)
    waits.sort()
    print(*(round(w / 1000) for w in (waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1])))


main()
