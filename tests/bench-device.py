#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
bench-device.py VSS-COW [ROUNDS]: an engine volume as people get it (FUSE + loop) against its peers on the same machine.

  loop        a loop device with direct I/O on a plain file
  cow         the engine's device, without snapshot; "first": right after a snapshot, every block for the first time
  qsd         qemu-storage-daemon's FUSE export of a raw file, and a loop device on that
  qcow2       the same of a fresh qcow2 overlay: its first overwrites

All of them 4 KiB random, queue depth 32, interleaved, medians of at least 9 rounds; a round in which the plain loop
device drifted by more than 15 % does not count. Exits with 1 if a ratio is more than 5 points below its target.
BENCH_DIRECTORY: where the files are made (6 GiB), default /var/tmp.
"""
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

MIB = 1024
OPERATIONS = 32768
DRIFT, SLACK, TRIES = 0.15, 0.05, 3
TARGETS = [
    ("cow read", "qsd read", 1.0),
    ("cow write", "qsd write", 1.15),
    ("cow first", "qcow2 first", 1.2),
    ("cow read", "loop read", None),
    ("cow write", "loop write", None),
    ("cow first", "cow write", None),
]


def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout.strip()


class Cow:
    """vss-cow with one volume"""

    def __init__(self, program, directory):
        self.directory = os.path.join(directory, "run")
        store = os.path.join(directory, "store")
        run(program, "format", f"--store={store}", f"--size={4 << 30}")
        run(program, "serve", f"--store={store}", f"--directory={self.directory}")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(self.directory + "/control")
        self.call("volume-create", name="bench", origin=os.path.join(directory, "cow.img"))
        self.device = self.call("volume-attach", name="bench")["device"]

    def call(self, command, **arguments):
        self.socket.send(json.dumps({"command": command, **arguments}).encode())
        answer = json.loads(self.socket.recv(1 << 18))
        if not answer["ok"]:
            raise RuntimeError(f"{command}: {answer['message']}")
        return answer

    def snapshot(self):
        """the newest only: what older ones cost is for bench-engine.py"""
        for old in self.call("list", set="", **{"from": 0})["snapshots"]:
            self.call("delete", id=old["id"])
        self.call("collect")
        deadline = int((time.clock_gettime(time.CLOCK_MONOTONIC) + 5) * 1e6)
        token = self.call("hold", volumes=["bench"], deadline_usec=deadline)["token"]
        member = {"id": str(uuid.uuid4()), "volume": "bench", "label": "bench", "pending": False}
        self.call("snapshot", token=token, set=str(uuid.uuid4()), created_usec=1, members=[member])
        self.call("release", token=token)

    def drop(self):
        for old in self.call("list", set="", **{"from": 0})["snapshots"]:
            self.call("delete", id=old["id"])

    def stop(self):
        self.call("stop")


class Qsd:
    """qemu-storage-daemon's FUSE export of one file, and a loop device on it"""

    def __init__(self, directory, name, driver, path):
        self.mountpoint = os.path.join(directory, f"{name}.fuse")
        with open(self.mountpoint, "wb"):
            pass
        file = f"driver=file,node-name=file,filename={path},cache.direct=on,aio=io_uring"
        node = ["--blockdev", file]
        if driver != "raw":
            node += ["--blockdev", f"driver={driver},node-name=top,file=file"]
        export = f"type=fuse,id=e,node-name={'file' if driver == 'raw' else 'top'},mountpoint={self.mountpoint},writable=on"
        self.process = subprocess.Popen(["qemu-storage-daemon", *node, "--export", export])
        for _ in range(200):
            if os.stat(self.mountpoint).st_size > 0:
                break
            time.sleep(0.02)
        self.device = run("losetup", "--find", "--show", "--direct-io=on", self.mountpoint)

    def stop(self):
        run("losetup", "--detach", self.device)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)


def fio(device, kind):
    out = run("fio", "--name=x", f"--filename={device}", f"--rw=rand{kind}", "--bs=4k", "--iodepth=32", "--ioengine=io_uring",
              "--direct=1", f"--size={MIB}M", f"--io_size={4096 * OPERATIONS}", "--output-format=json")  # fmt: skip
    return json.loads(out)["jobs"][0][kind]["iops"]


def overlay(directory):
    path = os.path.join(directory, "overlay.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", os.path.join(directory, "raw.img"), "-F", "raw", path)
    return path


def a_round(directory, cow, qsd, loop):
    got = {"loop read": fio(loop, "read"), "loop write": fio(loop, "write")}
    for kind in ("read", "write"):
        got[f"cow {kind}"] = fio(cow.device, kind)
        got[f"qsd {kind}"] = fio(qsd.device, kind)
    cow.snapshot()
    got["cow first"] = fio(cow.device, "write")
    cow.drop()
    q = Qsd(directory, "overlay", "qcow2", overlay(directory))
    got["qcow2 first"] = fio(q.device, "write")
    q.stop()
    after = fio(loop, "write")
    if abs(after - got["loop write"]) / got["loop write"] > DRIFT:
        print(f"  round rejected: loop went from {got['loop write']:.0f} to {after:.0f}", flush=True)
        return None
    return got


def measure(program, rounds, directory):
    for name in ("plain.img", "cow.img", "raw.img"):
        with open(os.path.join(directory, name), "wb", buffering=0) as f, open("/dev/urandom", "rb") as source:
            for _ in range(MIB):
                f.write(source.read(1 << 20))
            os.fsync(f.fileno())
    got, cow, qsd, loop = [], None, None, None
    try:
        loop = run("losetup", "--find", "--show", "--direct-io=on", os.path.join(directory, "plain.img"))
        cow = Cow(program, directory)
        qsd = Qsd(directory, "raw", "raw", os.path.join(directory, "raw.img"))
        for _ in range(TRIES * rounds):
            if len(got) == rounds:
                break
            if r := a_round(directory, cow, qsd, loop):
                got.append(r)
    finally:
        for thing in (qsd, cow):
            if thing:
                thing.stop()
        if loop:
            run("losetup", "--detach", loop)
    return got


def main():
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9
    directory = tempfile.mkdtemp(prefix="bench-device-", dir=os.environ.get("BENCH_DIRECTORY", "/var/tmp"))
    try:
        got = measure(program, rounds, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if len(got) < rounds:
        print(f"only {len(got)} of {rounds} rounds were undisturbed: no verdict")
        return 1
    for name in got[0]:
        print(f"{name:12} {statistics.median(g[name] for g in got):10.0f} operations/s")
    failed = False
    for name, against, least in TARGETS:
        ratio = statistics.median(g[name] / g[against] for g in got)
        low = least is not None and ratio < least - SLACK
        failed |= low
        print(f"{name:12} / {against:12} {ratio:6.3f}  " + (f"target {least}" if least else "") + ("  TOO LOW" if low else ""))
    return failed


sys.exit(main())
