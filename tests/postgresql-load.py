#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
postgresql-load.py PSQL COUNTS CONNINFO: writes numbers into the table done for ever, one transaction each. COUNTS is
described in load_counts.py.
"""
import subprocess
import sys

from load_counts import Counts


def main():
    psql, counts, conninfo = sys.argv[1:]
    counts = Counts(counts)
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
        counts.begin(n)
        ask(f"BEGIN; INSERT INTO done VALUES ({n}, repeat('x', 100)); DELETE FROM done WHERE n = {n - 5000}; COMMIT;", n)
        counts.acknowledged(n)


main()
