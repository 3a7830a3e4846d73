#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
postgresql-load.py PSQL COUNTS CONNINFO: writes numbers into the table done for ever, one transaction each. COUNTS holds
two numbers of ten digits that can be read at any time: begun, acknowledged.
"""
import mmap
import subprocess
import sys


def main():
    psql, counts, conninfo = sys.argv[1:]
    with open(counts, "wb") as f:
        f.write(b"%010d%010d" % (0, 0))
    with open(counts, "r+b") as f:
        shared = mmap.mmap(f.fileno(), 20)
    client = subprocess.Popen([psql, "-X", "-q", "-A", "-t", "-d", conninfo], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, bufsize=1)  # fmt: skip

    def ask(sql, answer):
        client.stdin.write(sql + f" SELECT {answer};\n")
        client.stdin.flush()
        if client.stdout.readline().strip() != str(answer):
            sys.exit(f"no answer to {sql}")

    ask("DROP TABLE IF EXISTS done; CREATE TABLE done (n BIGINT PRIMARY KEY, filler TEXT);", 0)
    n = 0
    while True:
        n += 1
        shared[0:10] = b"%010d" % n
        ask(f"BEGIN; INSERT INTO done VALUES ({n}, repeat('x', 100)); DELETE FROM done WHERE n = {n - 5000}; COMMIT;", n)
        shared[10:20] = b"%010d" % n


main()
