#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A workload whose every transaction changes two SQLite files, in WAL mode: each file has a log of its own, so nothing but
coming to rest makes an instant between the two commits harmless.

ledger.py create A B        makes the files
ledger.py load A B [PAUSE]  transactions for ever, one line per 100, with that many seconds between them
ledger.py check A B         0: both copies are whole and agree row by row; 3: they do not, with what is wrong
"""
import random
import sqlite3
import sys
import time

ACCOUNTS = 64


def connect(first, second):
    db = sqlite3.connect(first, timeout=60, isolation_level=None)
    db.execute("ATTACH ? AS other", (second,))
    return db


def create(first, second):
    for path in (first, second):
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        db.executemany("INSERT INTO account VALUES (?, 0)", [(i,) for i in range(ACCOUNTS)])
        db.close()


def load(first, second, pause=0):
    db = connect(first, second)
    for schema in ("main", "other"):
        db.execute(f"PRAGMA {schema}.synchronous=FULL")
    done = 0
    while True:
        account = random.randrange(ACCOUNTS)
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE main.account SET value = value + 1 WHERE id = ?", (account,))
        db.execute("UPDATE other.account SET value = value + 1 WHERE id = ?", (account,))
        db.execute("COMMIT")
        done += 1
        if done % 100 == 0:
            print(done, flush=True)
        time.sleep(float(pause))


def check(first, second):
    complaints = []
    db = connect(first, second)
    for schema in ("main", "other"):
        result = db.execute(f"PRAGMA {schema}.integrity_check").fetchone()[0]
        if result != "ok":
            complaints.append(f"{schema}: {result}")
    rows = db.execute(
        "SELECT id, a.value, b.value FROM main.account a JOIN other.account b USING (id) WHERE a.value <> b.value"
    ).fetchall()
    complaints += [f"account {i}: {a} in the one file, {b} in the other" for i, a, b in rows]
    count = db.execute("SELECT (SELECT count(*) FROM main.account), (SELECT count(*) FROM other.account)").fetchone()
    if count != (ACCOUNTS, ACCOUNTS):
        complaints.append(f"{count} rows instead of {ACCOUNTS} each")
    print("; ".join(complaints) if complaints else db.execute("SELECT sum(value) FROM main.account").fetchone()[0])
    return 3 if complaints else 0


sys.exit({"create": create, "load": load, "check": check}[sys.argv[1]](*sys.argv[2:5]))
