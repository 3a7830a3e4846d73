#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
bench-start.py VSS-COW [ROUNDS]: how soon a volume of 16 TiB with 10 GiB of preserved data is there again, and what
memory it needs. The volume is a sparse file of 16 TiB less 4 KiB, the most that ext4 allows.

  killed      kill -9 of the server; until a read of the device that begins then is answered
  cut         kill -9 of holder and server, so that the shared memory is gone; from the start of vss-cow serve until it
              is ready, and until the volume is attached and a read of its device is answered
  memory      of the server, resident and locked, after writes in many places

Before every round some thousand blocks are written, so that there is a log to read. Medians of at least 9 rounds. Exits
with 1 if one is more than 5 % beyond its target. BENCH_DIRECTORY: where the files are made (35 GiB), default /var/tmp.
START_GIB: of preserved data, default 10.
"""
import json
import mmap
import os
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

TIB, GIB, MIB, KIB = 1 << 40, 1 << 30, 1 << 20, 1 << 10
ORIGIN = 16 * TIB - 4 * KIB
PRESERVED = int(os.environ.get("START_GIB", "10")) * GIB
ROUND_WRITES = 4096
KILLED_MS, CUT_MS, SLACK = 100, 500, 1.05
MEMORY_MIB = 128 + 40 * ORIGIN / TIB


def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=900).stdout.strip()


def fio(device, **how):
    """random writes at places that the seed says, the same every time"""
    run("fio", "--name=x", f"--filename={device}", f"--filesize={ORIGIN}", "--rw=randwrite", "--direct=1", "--ioengine=io_uring",
        "--norandommap", "--random_generator=tausworthe64", "--end_fsync=0", *(f"--{k}={v}" for k, v in how.items()))  # fmt: skip


class Cow:
    def __init__(self, program, directory):
        self.program, self.directory = program, directory
        self.store, self.origin = os.path.join(directory, "store"), os.path.join(directory, "origin")
        with open(self.origin, "wb") as f:
            f.truncate(ORIGIN)
        run(program, "format", f"--store={self.store}", f"--size={PRESERVED + 8 * GIB}")
        self.serve()

    def serve(self):
        run(self.program, "serve", f"--store={self.store}", f"--directory={self.directory}/run")
        self.connect()

    def connect(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(self.directory + "/run/control")

    def call(self, command, **arguments):
        self.socket.send(json.dumps({"command": command, **arguments}).encode())
        answer = json.loads(self.socket.recv(1 << 18))
        if not answer["ok"]:
            raise RuntimeError(f"{command}: {answer['message']}")
        return answer

    def stop(self):
        """from whatever state: one that was killed has left its devices, and the next one takes them down"""
        try:
            self.connect()
        except OSError:
            self.serve()
        self.call("stop", force=True)

    def attach(self):
        self.device = self.call("volume-attach", name="bench")["device"]

    def snapshot(self):
        deadline = int((time.clock_gettime(time.CLOCK_MONOTONIC) + 5) * 1e6)
        token = self.call("hold", volumes=["bench"], deadline_usec=deadline)["token"]
        member = {"id": str(uuid.uuid4()), "volume": "bench", "label": "bench", "pending": False}
        self.call("snapshot", token=token, set=str(uuid.uuid4()), created_usec=1, members=[member])
        self.call("release", token=token)

    def memory(self):
        """resident and locked MiB"""
        with open(f"/proc/{self.call('status')['server_pid']}/status") as f:
            lines = dict(line.split(":", 1) for line in f)
        return (int(lines["VmRSS"].split()[0]) // KIB, int(lines["VmLck"].split()[0]) // KIB)

    def kill_all(self):
        """what a power cut leaves: the store, the origin, and nothing in memory"""
        pids = self.call("status")
        fds = [os.pidfd_open(pids[key]) for key in ("pid", "server_pid")]
        for fd in fds:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        for fd in fds:
            if not select.select([fd], [], [], 10)[0]:
                raise RuntimeError("vss-cow does not die")
            os.close(fd)
        self.socket.close()


def read_block(fd, buffer):
    os.preadv(fd, [buffer], random.randrange(ORIGIN // 4096) * 4096)


def killed(cow):
    fd, buffer = os.open(cow.device, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
    pid = cow.call("status")["server_pid"]
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    read_block(fd, buffer)
    took = time.monotonic() - start
    os.close(fd)
    cow.connect()
    status = cow.call("status")
    with open(f"/proc/{status['server_pid']}/schedstat") as f:
        cpu = int(f.read().split()[0]) / 1e6
    return {"killed until read": 1000 * took, "killed, of it cpu": cpu, "killed replayed": status["replayed_records"]}


def cut(cow):
    buffer = mmap.mmap(-1, 4096)
    cow.kill_all()
    start = time.monotonic()
    cow.serve()
    ready = time.monotonic()
    cow.attach()
    attached = time.monotonic()
    fd = os.open(cow.device, os.O_RDONLY | os.O_DIRECT)
    read_block(fd, buffer)
    end = time.monotonic()
    os.close(fd)
    replayed = cow.call("status")["replayed_records"]
    return {"cut until ready": 1000 * (ready - start), "cut until attached": 1000 * (attached - start),
            "cut until read": 1000 * (end - start), "cut replayed": replayed}  # fmt: skip


def measure(program, rounds, directory):
    cow, got = Cow(program, directory), []
    try:
        cow.call("volume-create", name="bench", origin=cow.origin)
        cow.attach()
        start = time.monotonic()
        for _ in range(2):  # holes are kept without data: something has to be there first
            fio(cow.device, bs="1M", iodepth=8, io_size=PRESERVED, randseed=1)
            cow.snapshot()
        fio(cow.device, bs="1M", iodepth=8, io_size=PRESERVED // 4, randseed=1)
        fio(cow.device, bs="4k", iodepth=32, io_size=40000 * 4 * KIB, randseed=2)
        status = cow.call("status")
        print(f"{status['preserved_blocks'] * 4096 / GIB:.1f} GiB preserved, {status['used_bytes'] / GIB:.1f} GiB of the store used,"
              f" in {time.monotonic() - start:.0f} s", flush=True)  # fmt: skip
        memory = cow.memory()
        for i in range(rounds):
            one = {}
            for k, what in enumerate((killed, cut)):  # blocks that nobody wrote before
                fio(cow.device, bs="4k", iodepth=32, io_size=ROUND_WRITES * 4 * KIB, randseed=3, offset=(2 * i + k) * 4 * KIB)
                one.update(what(cow))
            got.append(one)
    finally:
        cow.stop()
    return got, memory


def main():
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9
    directory = tempfile.mkdtemp(prefix="bench-start-", dir=os.environ.get("BENCH_DIRECTORY", "/var/tmp"))
    try:
        got, (resident, locked) = measure(program, rounds, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    targets, failed = {"killed until read": KILLED_MS, "cut until read": CUT_MS}, False
    for name in got[0]:
        values = [g[name] for g in got]
        middle, target = statistics.median(values), targets.get(name)
        bad = target is not None and middle > target * SLACK
        failed |= bad
        unit = "records" if "replayed" in name else "ms"
        print(f"{name:20} median {middle:8.1f}  max {max(values):8.1f} {unit}" + (f"  target {target}" if target else "")
              + ("  TOO SLOW" if bad else ""))  # fmt: skip
    bad = max(resident, locked) > MEMORY_MIB * SLACK
    print(f"memory: {resident} MiB resident, {locked} MiB locked; at most {MEMORY_MIB:.0f}" + ("  TOO MUCH" if bad else ""))
    if os.getloadavg()[0] > os.cpu_count() + 1:
        print(f"others kept the machine busy (load {os.getloadavg()[0]:.1f}): the times are worth little")
    return failed or bad


sys.exit(main())
