#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Breaks when vss-cow dump shows something else than what lies in the store, or its text and its JSON differ.

The store is that of store-maker.c. usage: unit-cow-dump.py COW-TOOL
"""
import json
import os
import subprocess
import sys
import tempfile

TOOL = sys.argv[1]
BLOCK = 4096
PARTS = ["superblocks", "manifest", "volumes", "snapshots", "runs", "maps", "log", "segments"]
DAMAGED = 11


def run(*args, status=0):
    done = subprocess.run([TOOL, *args], capture_output=True, text=True, check=False)
    if done.returncode != status:
        sys.exit(f"{args}: exit status {done.returncode}, {status} expected: {done.stderr}")
    return done.stdout


def dump(store, *part, status=0):
    return json.loads(run("dump", "--json", store, *part, status=status))


def same(found, expected, what):
    if found != expected:
        sys.exit(f"{what}: {found!r}, {expected!r} expected")


def name(n):
    """id of snapshot n"""
    return f"30313233-3435-3637-3839-3a3b3c3d3e{n:02x}"


def extents(*pairs):
    return [{"block": block, "count": count} for block, count in pairs]


def flip(store, block):
    with open(store, "r+b") as f:
        f.seek(block * BLOCK + 100)
        byte = f.read(1)[0]
        f.seek(block * BLOCK + 100)
        f.write(bytes([byte ^ 1]))


def all_parts(store):
    whole = dump(store)
    same(list(whole), PARTS, "parts")
    same(whole["manifest"]["maps"], 3, "maps of the manifest")
    for part in PARTS:
        word = part.removesuffix("s") if part == "superblocks" else part
        same(dump(store, word)[part], whole[part], part)
    return whole


def maps(store, whole):
    same([(m["number"], m["snapshot"], m["entries"], m["pages"], m["first"], m["last"]) for m in whole["maps"]],
         [(3, name(1), 189, 2, "0:10", "0:850"), (4, None, 2, 1, "1:500", "1:607"), (5, None, 2, 1, "0:900", "0:1023")],
         "maps")
    same(whole["maps"][0]["pieces"], [{"block": 22, "pages": 1}, {"block": 33, "pages": 1}], "pieces")
    numbers = {m["number"] for m in whole["maps"]}
    if numbers & {r["number"] for r in whole["runs"]}:
        sys.exit("a map stands among the runs")
    three = [(10, 75)] + [(96 + 4 * i, i % 3 + 1) for i in range(1, 189)]
    same(dump(store, "run", "3"), {"extents": extents(*three)}, "run 3")
    same(dump(store, "run", "4"), {"extents": extents((500, 5), (600, 8))}, "run 4")
    same(dump(store, "run", "5"), {"extents": extents((900, 10), (1000, 24))}, "run 5")
    same(len(dump(store, "run", "2")["entries"]), 5, "entries of run 2")


def snapshots(whole):
    same([(s["id"], s["map"], s["strikes"]) for s in whole["snapshots"]],
         [(name(1), 3, extents((10, 75), (100, 1), (150, 10))), (name(2), 0, []), (name(3), 0, []), (name(4), 0, [])],
         "snapshots")
    logged = [m for r in whole["log"] if r.get("type") == "snapshot" for m in r["body"]]
    same([(s["id"], s["map"], s["strikes"]) for s in logged],
         [(name(5), 0, []), (name(6), 4, extents((501, 2), (607, 1)))], "snapshots of the log")


def text(store, whole):
    lines = run("dump", store).splitlines()
    same(sum(line.startswith("map ") for line in lines), 3, "lines of maps")
    for m in whole["maps"]:
        if not any(line.startswith(f"map number={m['number']} snapshot={m['snapshot'] or 'null'} ") for line in lines):
            sys.exit(f"map {m['number']} has no line")
    same(run("dump", store, "run", "4").splitlines(), ["extent block=500 count=5", "extent block=600 count=8"], "text")


def damage(store):
    run("dump", store, "run", "9", status=1)
    run("dump", store, "map", "3", status=2)
    flip(store, 22)
    found = dump(store, "run", "3", status=1)["extents"]
    same((found[0]["block"], found[0]["damage"][:25], len(found)), (22, "map 3, page 0: checksum i", 21), "damaged page")
    checked = json.loads(run("check", "--json", store, status=DAMAGED))
    same([(f["structure"], f["block"]) for f in checked["findings"]], [("map", 22)], "findings")
    same([s["id"] for s in checked["concerned"]], [name(1)], "concerned")


def main():
    with tempfile.TemporaryDirectory() as directory:
        store = os.path.join(directory, "store")
        run("make", store)
        run("check", store)
        whole = all_parts(store)
        maps(store, whole)
        snapshots(whole)
        text(store, whole)
        damage(store)


main()
