#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
mariadb-load.py SOCKET COUNTS [WITHOUT-TRANSACTIONS]: moves numbers between two tables of the database vss for ever and
writes down each time in a third; after each commit the number goes into a MyISAM table, too. COUNTS is described in
load_counts.py.
"""
import subprocess
import sys

from load_counts import Counts

HUNDRED = "WITH RECURSIVE s AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 99) SELECT n, 0 FROM s"
SCHEMA = f"""CREATE DATABASE IF NOT EXISTS vss; USE vss; DROP TABLE IF EXISTS a, b, done, plain;
CREATE TABLE a (id INT PRIMARY KEY, v BIGINT) ENGINE=InnoDB;
CREATE TABLE b (id INT PRIMARY KEY, v BIGINT) ENGINE=InnoDB;
CREATE TABLE done (n BIGINT PRIMARY KEY, filler CHAR(100)) ENGINE=InnoDB;
CREATE TABLE plain (n BIGINT PRIMARY KEY) ENGINE=MyISAM;
INSERT INTO a {HUNDRED}; INSERT INTO b {HUNDRED};
"""


def main():
    path, counts = sys.argv[1:3]
    counts = Counts(counts)
    client = subprocess.Popen(
        ["mariadb", "--no-defaults", "-S", path, "-uroot", "--batch", "--skip-column-names", "--unbuffered"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)  # fmt: skip

    def ask(sql, answer):
        client.stdin.write(sql + f" SELECT {answer};\n")
        client.stdin.flush()
        if client.stdout.readline().strip() != str(answer):
            sys.exit(f"no answer to {sql}")

    ask(SCHEMA, 0)
    n = 0
    while True:
        n += 1
        counts.begin(n)
        ask(f"BEGIN; UPDATE a SET v = v + {n} WHERE id = {n % 100}; UPDATE b SET v = v - {n} WHERE id = {n * 7 % 100};"
            f" INSERT INTO done VALUES ({n}, REPEAT('x', 100)); DELETE FROM done WHERE n = {n - 5000}; COMMIT;", n)  # fmt: skip
        counts.acknowledged(n)
        ask(f"INSERT INTO plain VALUES ({n}); DELETE FROM plain WHERE n = {n - 5000};", n)


main()
