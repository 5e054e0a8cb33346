"""An Ethernet switch in user space, with weather: seeded delay, loss, duplication, reordering, cut cables.

    python switch.py SEED PID…      one port for the network namespace of each process: a TAP device `lan0`

It stands where a kernel's `netem` may not be. Real packets go through it, multicast among them. Each line on
its standard input is one JSON object, which is the weather from now on (all keys optional), and is answered
with a line:

    {"delay_ms": 200, "jitter_ms": 20,     what each frame takes, and some more at random: one may overtake
     "loss": 0.1, "twice": 0.01,           shares of frames
     "slow": {"0": 300},                   more ms for what comes from that port: an asymmetric line
     "cut": [[0, 1]],                      (from, to): frames that way are lost
     "multicast": false}                   an access point that keeps its stations apart
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
FRAME_MAX = 65536
QUEUE_MAX = 20_000
"""Frames on their way: a queue without end would turn a flood into a delay of minutes."""
CALM = {"delay_ms": 0, "jitter_ms": 0, "loss": 0, "twice": 0, "slow": {}, "cut": [], "multicast": True}


def port(pid: int) -> int:
    """A TAP device `lan0` in the namespace of a process; its end here."""
    libc = ctypes.CDLL(None, use_errno=True)
    space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(space, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(space)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"lan0", IFF_TAP | IFF_NO_PI))
    return tap


class Switch:
    def __init__(self, seed: int, ports: list[int]) -> None:
        self.ports, self.rng = ports, random.Random(seed)
        self.weather = dict(CALM)
        self.where: dict[bytes, int] = {}
        self.flying: list[tuple[float, int, int, bytes]] = []
        self.count = 0

    def take(self, source: int, frame: bytes) -> None:
        self.where[frame[6:12]] = source
        many = frame[0] & 1
        if many and frame[:6] != b"\xff" * 6 and not frame[:6].startswith(b"\x33\x33\xff"):
            # Neighbours still find each other (ARP, solicited nodes): that is no multicast of applications.
            many = 2
        known = self.where.get(frame[:6])
        targets = [known] if not many and known is not None else range(len(self.ports))
        for target in targets:
            if target != source and not (many == 2 and not self.weather["multicast"]):
                self.send(source, target, frame)

    def send(self, source: int, target: int, frame: bytes) -> None:
        w = self.weather
        if [source, target] in w["cut"] or len(self.flying) > QUEUE_MAX:
            return
        for _ in range(2 if self.rng.random() < w["twice"] else 1):
            if self.rng.random() < w["loss"]:
                continue
            ms = w["delay_ms"] + w["slow"].get(str(source), 0) + self.rng.random() * w["jitter_ms"]
            self.count += 1
            heapq.heappush(self.flying, (time.monotonic() + ms / 1000, self.count, target, frame))

    def land(self) -> float:
        """Delivers what has arrived; seconds until the next."""
        while self.flying:
            rest = self.flying[0][0] - time.monotonic()
            if rest > 0:
                return rest
            _, _, target, frame = heapq.heappop(self.flying)
            with contextlib.suppress(OSError):  # The device is down or its queue full: lost, as on a wire.
                os.write(self.ports[target], frame)
        return 60.0

    def run(self) -> None:
        poll = select.poll()
        for fd in (0, *self.ports):
            poll.register(fd, select.POLLIN)
        source_of = {fd: n for n, fd in enumerate(self.ports)}
        while True:
            for fd, _ in poll.poll(max(0.0, self.land() * 1000)):
                if fd == 0:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self.weather = CALM | json.loads(line)
                    print("so it is", flush=True)
                    continue
                with contextlib.suppress(OSError):  # Nothing more to read, or the device is down.
                    for _ in range(64):
                        self.take(source_of[fd], os.read(fd, FRAME_MAX))


def main() -> None:
    ports = [port(int(pid)) for pid in sys.argv[2:]]
    print("open", flush=True)
    Switch(int(sys.argv[1]), ports).run()


if __name__ == "__main__":
    main()
