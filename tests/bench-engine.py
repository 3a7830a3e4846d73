#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
bench-engine.py BENCH-ENGINE [ROUNDS]: the engine without a frontend against fio's io_uring on the same file.

How blocks and ratios are made: paired.py, at least 9 blocks, the default. How many first
overwrites there can be for one raw write depends on the disk: on how much slower it reads than writes, and on what a
durable write costs it; so they are judged by the model, which does the same to the disk without an engine: at least 0.9
of it; their ratio to raw is printed. Exits with 1 if a ratio is more than 5 points below its target, or more than 1.05
bytes are stored per byte overwritten at queue depth 32, also over all of the volume, where the merging of indexes is in
it. BENCH_DIRECTORY: where the files are made (5 GiB), default /var/tmp.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

from paired import Paired

ORIGIN_MIB, STORE_MIB = 1024, 4096

# name, kind, snapshots before, depth, block size, operations
CASES = [
    ("none", "none", 0, 32, 4096, 32768),
    ("model", "model", 0, 32, 4096, 32768),
    ("first, 1 snapshot", "first", 0, 32, 4096, 32768),
    ("first, 8", "first", 7, 32, 4096, 32768),
    ("first, 64", "first", 63, 32, 4096, 32768),
    ("first, 512", "first", 511, 32, 4096, 32768),
    ("again", "again", 0, 32, 4096, 32768),
    ("none, depth 1", "none", 0, 1, 4096, 8192),
    ("first, depth 1", "first", 0, 1, 4096, 8192),
    ("none, 1 MiB", "none", 0, 8, 1 << 20, 512),
    ("first, 1 MiB", "first", 0, 8, 1 << 20, 512),
]
# once, for the bytes it stores: eight times as long, so that what is due now and then is in the figure too
LONG = ("first, all of it", "first", 0, 32, 4096, 262144)
# case, against what, at least; None: printed only
TARGETS = [
    ("none", "raw", 0.97),
    ("first, 1 snapshot", "raw", None),
    ("model", "raw", None),
    ("first, 1 snapshot", "model", 0.90),
    ("first, 8", "first, 1 snapshot", 0.95),
    ("first, 64", "first, 1 snapshot", 0.95),
    ("first, 512", "first, 1 snapshot", 0.95),
    ("again", "none", 0.97),
    ("none, depth 1", "raw, depth 1", None),
    ("first, depth 1", "raw, depth 1", None),
    ("none, 1 MiB", "raw, 1 MiB", None),
    ("first, 1 MiB", "raw, 1 MiB", None),
]
RAW = {"raw": (32, 4096, 32768), "raw, depth 1": (1, 4096, 8192), "raw, 1 MiB": (8, 1 << 20, 512)}
STORED_MAX = 1.05


def fill(path, mib, source):
    with open(path, "wb", buffering=0) as f, open(source, "rb") as s:
        for _ in range(mib):
            f.write(s.read(1 << 20))
        os.fsync(f.fileno())


def raw(origin, depth, size, operations):
    out = subprocess.run(
        ["fio", "--name=raw", f"--filename={origin}", "--rw=randwrite", f"--bs={size}", f"--iodepth={depth}",
         "--ioengine=io_uring", "--direct=1", f"--size={ORIGIN_MIB}M", f"--io_size={size * operations}",
         "--output-format=json"], capture_output=True, text=True, check=True, timeout=300)  # fmt: skip
    return json.loads(out.stdout)["jobs"][0]["write"]["iops"]


def engine(program, origin, store, case):
    _, kind, snapshots, depth, size, operations = case
    argv = [program, origin, store, kind, str(snapshots), str(depth), str(size), str(operations)]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(out.stdout)


class Bench:
    def __init__(self, program, directory):
        self.program = program
        self.origin, self.store = os.path.join(directory, "origin"), os.path.join(directory, "store")
        self.stored = {}
        fill(self.origin, ORIGIN_MIB, "/dev/urandom")
        fill(self.store, STORE_MIB, "/dev/zero")

    def run(self, name):
        """operations per second of one run of a case or of the plain file"""
        if name in RAW:
            return raw(self.origin, *RAW[name])
        case = next(c for c in [*CASES, LONG] if c[0] == name)
        got = engine(self.program, self.origin, self.store, case)
        if case[1] == "first" and case[3] == 32:
            self.stored.setdefault(name, []).append(got["stored_per_byte"])
        return got["iops"]


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    directory = tempfile.mkdtemp(prefix="bench-engine-", dir=os.environ.get("BENCH_DIRECTORY", "/var/tmp"))
    failed = False
    try:
        bench = Bench(sys.argv[1], directory)
        paired = Paired(bench.run, rounds)
        for comparison in TARGETS:
            failed |= paired.compare(*comparison)
        paired.run(LONG[0])
    finally:
        shutil.rmtree(directory)
    paired.print_rates()
    for name, stored in bench.stored.items():
        failed |= statistics.median(stored) > STORED_MAX
        print(f"{name:18} stored bytes per byte {statistics.median(stored):.4f}  at most {STORED_MAX}")
    return failed


sys.exit(main())
