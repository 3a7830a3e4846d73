#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
redis-load.py SOCKET COUNTS: counts up the key n of a Redis server for ever, over its Unix socket, and in the same
transaction writes the number into one of 1,000 other keys, k0 to k999. COUNTS is described in load_counts.py.
"""
import socket
import sys
import time

from load_counts import Counts


def connect(path):
    while True:
        try:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.connect(path)
            return s
        except OSError:
            time.sleep(0.01)


def answer(stream):
    line = stream.readline()
    if not line.startswith((b"+", b":")):
        raise OSError(line)
    return line


def main():
    path, counts = sys.argv[1:]
    counts = Counts(counts)
    s = connect(path)
    stream = s.makefile("rb")
    n = 0
    while True:
        n += 1
        counts.begin(n)
        key = b"k%d" % (n % 1000)
        s.sendall(b"MULTI\r\nINCR n\r\nSET %s %d\r\nEXEC\r\n" % (key, n))
        for _ in range(3):
            answer(stream)
        if stream.readline() != b"*2\r\n":
            raise OSError("EXEC was refused")
        if int(answer(stream)[1:]) != n:
            raise OSError("the count is not ours")
        answer(stream)
        counts.acknowledged(n)


main()
