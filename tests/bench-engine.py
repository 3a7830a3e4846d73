#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
bench-engine.py BENCH-ENGINE [ROUNDS]: the engine without a frontend against fio's io_uring on the same file.

A block is: raw, every case once, raw again. Where the two differ by more than 15 % somebody else was on the machine, and
the block is done again. Ratios are taken within a block; what counts is their median over the blocks (at least 9, the
default). How many first overwrites there can be for one raw write depends on the disk: on how much slower it reads than
writes, and on what a durable write costs it; so they are judged by the model, which does the same to the disk without an
engine: at least 0.9 of it, or half of raw. Exits with 1 if a ratio is more than 5 points below its target, or more than
1.05 bytes are stored per byte overwritten at queue depth 32, also over all of the volume, where the merging of indexes
is in it. BENCH_DIRECTORY: where the files are made (5 GiB), default /var/tmp.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

ORIGIN_MIB, STORE_MIB = 1024, 4096
DRIFT = 0.15
SLACK = 0.05
TRIES = 3  # times as many blocks as are needed, before giving up

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


def block(program, origin, store):
    """figures of one block, or None if the machine was disturbed"""
    before = {name: raw(origin, *how) for name, how in RAW.items()}
    got = {case[0]: engine(program, origin, store, case) for case in CASES}
    after = {name: raw(origin, *how) for name, how in RAW.items()}
    drift = abs(after["raw"] - before["raw"]) / before["raw"]
    if drift > DRIFT:
        print(f"  block rejected: raw went from {before['raw']:.0f} to {after['raw']:.0f}", flush=True)
        return None
    figures = {name: g["iops"] for name, g in got.items()}
    figures.update({name: (before[name] + after[name]) / 2 for name in RAW})
    return figures, got


def measure(program, rounds):
    directory = tempfile.mkdtemp(prefix="bench-engine-", dir=os.environ.get("BENCH_DIRECTORY", "/var/tmp"))
    origin, store = os.path.join(directory, "origin"), os.path.join(directory, "store")
    blocks = []
    try:
        fill(origin, ORIGIN_MIB, "/dev/urandom")
        fill(store, STORE_MIB, "/dev/zero")
        for _ in range(TRIES * rounds):
            if len(blocks) == rounds:
                break
            if b := block(program, origin, store):
                blocks.append(b)
        stored = engine(program, origin, store, LONG)["stored_per_byte"]
    finally:
        shutil.rmtree(directory)
    return blocks, stored


def main():
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9
    blocks, stored_long = measure(program, rounds)
    if len(blocks) < rounds:
        print(f"only {len(blocks)} of {rounds} blocks were undisturbed: no verdict")
        return 1
    failed = False
    for name in [*RAW, *(case[0] for case in CASES)]:
        print(f"{name:20} {statistics.median(b[0][name] for b in blocks):10.0f} operations/s")
    for name, against, least in TARGETS:
        ratio = statistics.median(b[0][name] / b[0][against] for b in blocks)
        low = least is not None and ratio < least - SLACK
        failed |= low
        print(f"{name:20} / {against:20} {ratio:6.3f}  " + (f"target {least}" if least else "") + ("  TOO LOW" if low else ""))
    stored_of = {case[0]: statistics.median(b[1][case[0]]["stored_per_byte"] for b in blocks)
                 for case in CASES if case[1] == "first" and case[3] == 32}  # fmt: skip
    for name, stored in [*stored_of.items(), (LONG[0], stored_long)]:
        failed |= stored > STORED_MAX
        print(f"{name:20} stored bytes per byte {stored:.4f}  at most {STORED_MAX}")
    return failed


sys.exit(main())
