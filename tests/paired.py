# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Ratios on a machine whose disk others use too.

A block is: the one compared with, the one measured, the one compared with again, a second or two each, so that a disk
whose speed wanders over minutes does not decide. Where the two differ by more than 15 % somebody else was on the machine
and the block does not count. What counts is the median ratio of the blocks.
"""
import statistics

DRIFT = 0.15
SLACK = 0.05  # how far below its target a ratio may be
TRIES = 6  # times as many blocks as are needed, before giving up


class Paired:
    def __init__(self, run, rounds):
        """run(name): operations per second of one run"""
        self.run_one, self.rounds, self.rates = run, rounds, {}

    def run(self, name):
        rate = self.run_one(name)
        self.rates.setdefault(name, []).append(rate)
        return rate

    def blocks(self, name, against):
        """ratios of undisturbed blocks, and how many were disturbed"""
        ratios, rejected = [], 0
        while len(ratios) < self.rounds and len(ratios) + rejected < TRIES * self.rounds:
            before, got, after = self.run(against), self.run(name), self.run(against)
            if abs(after - before) / before > DRIFT:
                rejected += 1
            else:
                ratios.append(2 * got / (before + after))
        return ratios, rejected

    def compare(self, name, against, least):
        """prints one comparison; least None: no target. True if it failed"""
        ratios, rejected = self.blocks(name, against)
        begin = f"{name:18} / {against:18} "
        if len(ratios) < self.rounds:
            print(f"{begin}only {len(ratios)} of {self.rounds} blocks undisturbed, {rejected} were not: no verdict", flush=True)
            return least is not None
        ratio = statistics.median(ratios)
        low = least is not None and ratio < least - SLACK
        print(f"{begin}{ratio:6.3f}  ({min(ratios):.3f} to {max(ratios):.3f}, {rejected} rejected)"
              + (f"  target {least}" if least else "") + ("  TOO LOW" if low else ""), flush=True)  # fmt: skip
        return low

    def print_rates(self):
        for name, rates in self.rates.items():
            print(f"{name:18} {statistics.median(rates):10.0f} operations/s, median of {len(rates)}")
