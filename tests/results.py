#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turns meson's testlog.json into lines "PASS|FAIL|SKIP LANE/TEST SECONDS [reason]", after the log of each failure."""
import json
import sys

LOG_BYTES = 20000


def reason_of(test):
    text = (test.get("stderr") or "") + "\n" + (test.get("stdout") or "")
    reasons = [line.split("skip:", 1)[1].strip() for line in text.splitlines() if line.startswith("skip:")]
    return reasons[-1] if reasons else "it gives no reason"


def show_log(name, test):
    print(f"---- {name}: {test['result']}, status {test.get('returncode')}")
    for stream in ("stdout", "stderr"):
        text = (test.get(stream) or "").rstrip()
        if text:
            cut = text[:-LOG_BYTES].splitlines()
            print("\n".join(line for line in cut if line.startswith("FAILED")))
            print(text[-LOG_BYTES:])
    print(f"---- end of {name}")


def main():
    lane, path = sys.argv[1], sys.argv[2]
    lines = []
    with open(path, encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            name = lane + "/" + test["name"].split(" / ")[-1]
            seconds = f"{test.get('duration', 0):.1f}s"
            if test["result"] in ("OK", "EXPECTEDFAIL"):
                lines.append(f"PASS {name} {seconds}")
            elif test["result"] == "SKIP":
                lines.append(f"SKIP {name} {seconds} {reason_of(test)}")
            else:
                show_log(name, test)
                lines.append(f"FAIL {name} {seconds} {test['result'].lower()}")
    print("\n".join(lines))


main()
