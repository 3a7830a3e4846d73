# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the loads of database servers note for the tests. COUNTS holds two numbers of ten digits that can be read at any
time: begun, acknowledged. Where LOAD_TIMES names a file, it gets the beginning and the end of each transaction, two
little-endian 64-bit numbers of nanoseconds of CLOCK_MONOTONIC.
"""
import mmap
import os
import struct
import time


class Counts:
    def __init__(self, path):
        with open(path, "wb") as f:
            f.write(b"%010d%010d" % (0, 0))
        with open(path, "r+b") as f:
            self.shared = mmap.mmap(f.fileno(), 20)
        times = os.environ.get("LOAD_TIMES")
        self.times = open(times, "ab", buffering=0) if times else None
        self.begun = 0

    def begin(self, n):
        self.begun = time.monotonic_ns()
        self.shared[0:10] = b"%010d" % n

    def acknowledged(self, n):
        self.shared[10:20] = b"%010d" % n
        if self.times:
            self.times.write(struct.pack("<QQ", self.begun, time.monotonic_ns()))
