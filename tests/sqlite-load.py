#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
sqlite-load.py MODE COUNTS FILE…: counts up in each of the SQLite databases for ever, one transaction in each before the
next number. The first time they are made, with MODE (wal or delete) as their journal. A number goes into the table t, and
with something for an index to be wrong about into one of 1,000 rows of u. COUNTS is described in load_counts.py.
"""
import sqlite3
import sys

from load_counts import Counts

SCHEMA = """CREATE TABLE IF NOT EXISTS t (v INTEGER); CREATE TABLE IF NOT EXISTS u (k INTEGER PRIMARY KEY, v INTEGER, w TEXT);
CREATE INDEX IF NOT EXISTS i ON u (w);"""


def database(path, mode):
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute(f"PRAGMA journal_mode={mode}")
    db.executescript(SCHEMA)
    if not db.execute("SELECT count(*) FROM t").fetchone()[0]:
        db.execute("INSERT INTO t VALUES (0)")
    return db


def main():
    mode, counts, *paths = sys.argv[1:]
    databases = [database(p, mode) for p in paths]
    n = max(db.execute("SELECT v FROM t").fetchone()[0] for db in databases)
    counts = Counts(counts)
    while True:
        n += 1
        # All are locked before the first is changed: who takes the locks in this order sees them all at one number.
        for db in databases:
            db.execute("BEGIN IMMEDIATE")
        counts.begin(n)
        for db in databases:
            db.execute("UPDATE t SET v = ?", (n,))
            db.execute("INSERT OR REPLACE INTO u VALUES (?, ?, ?)", (n % 1000, n, f"{n * 7919 % 100003}-{n}"))
        for db in databases:
            db.execute("COMMIT")
        counts.acknowledged(n)


main()
