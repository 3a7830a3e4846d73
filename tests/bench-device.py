#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
bench-device.py VSS-COW [ROUNDS]: an engine volume as people get it (FUSE + loop) against its peers on the same machine.

  loop        a loop device with direct I/O on a plain file
  cow         the engine's device, without snapshot; "first": right after a snapshot, every block for the first time
  qsd         qemu-storage-daemon's FUSE export of a raw file, and a loop device on that
  qcow2       the same of a fresh qcow2 overlay: its first overwrites

All of them 4 KiB random, queue depth 32; how blocks and ratios are made: paired.py, at least 9 blocks, the default.
Exits with 1 if a ratio is more than 5 points below its target.
BENCH_DIRECTORY: where the files are made (6 GiB), default /var/tmp.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

from paired import Paired

MIB = 1024
OPERATIONS = 32768
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


class Bench:
    def __init__(self, program, directory):
        self.directory, self.cow, self.qsd, self.loop = directory, None, None, None
        for name in ("plain.img", "cow.img", "raw.img"):
            with open(os.path.join(directory, name), "wb", buffering=0) as f, open("/dev/urandom", "rb") as source:
                for _ in range(MIB):
                    f.write(source.read(1 << 20))
                os.fsync(f.fileno())
        try:
            self.loop = run("losetup", "--find", "--show", "--direct-io=on", os.path.join(directory, "plain.img"))
            self.cow = Cow(program, directory)
            self.qsd = Qsd(directory, "raw", "raw", os.path.join(directory, "raw.img"))
        except BaseException:
            self.stop()
            raise

    def run(self, name):
        """operations per second of one run"""
        who, kind = name.split()
        if name == "cow first":
            self.cow.snapshot()
            rate = fio(self.cow.device, "write")
            self.cow.drop()
            return rate
        if who == "qcow2":
            top = Qsd(self.directory, "overlay", "qcow2", overlay(self.directory))
            try:
                return fio(top.device, "write")
            finally:
                top.stop()
        return fio({"loop": self.loop, "cow": self.cow.device, "qsd": self.qsd.device}[who], kind)

    def stop(self):
        for thing in (self.qsd, self.cow):
            if thing:
                thing.stop()
        if self.loop:
            run("losetup", "--detach", self.loop)


def main():
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9
    directory = tempfile.mkdtemp(prefix="bench-device-", dir=os.environ.get("BENCH_DIRECTORY", "/var/tmp"))
    failed, bench = False, None
    try:
        bench = Bench(program, directory)
        paired = Paired(bench.run, rounds)
        for comparison in TARGETS:
            failed |= paired.compare(*comparison)
        paired.print_rates()
    finally:
        if bench:
            bench.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return failed


sys.exit(main())
