"""Four machines on a LAN of IPv6 alone, hurt as LANs and laptops hurt, while clients write.

Weather, sleep, wrong clocks, a full disk, kill -9, cut cables: after each the quorum goes on. At the end the
histories of all clients are judged (`histories.py`). The tests share one quorum and run in order; each also
runs alone, on a quorum that nothing has hurt before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from histories import acknowledged, judge
from node_world import pair, quorum
from node_world import until as until_within
from weather_world import TESTS, Lan, Laptop, lan

pytestmark = pytest.mark.slow
NAMES = ("ana", "bob", "cleo", "dora")
DISK_KIB = 160 * 1024
HOUR_MS = 3600 * 1000
GROWTH_KIB = 100 * 1024
"""Some frames of 4 MiB at a time, and what honest work takes meanwhile; 300 MiB if one could swell."""
PATIENCE_S = 240.0
"""For what takes seconds where nothing else runs, but goes through weather and retries."""


def until(what: Callable[[], Any]) -> Any:
    return until_within(what, PATIENCE_S)


class World:
    """The four, their LAN, and a client on each, which writes down what it sees."""

    def __init__(self, folder: Path, net: Lan) -> None:
        self.folder, self.net = folder, net
        self.four: list[Laptop] = []
        self.clients: dict[str, subprocess.Popen[str]] = {}
        self.end = folder / "end"
        self.late_ms = 0
        """By how much all clocks are ahead of this machine's: an hour after one has slept for that long."""

    def make(self, name: str) -> Laptop:
        machine = self.net.machines[NAMES.index(name)]
        (self.folder / f"{name}-disk").mkdir()
        if name == "dora":
            machine.does("mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", self.disk(name))
        self.four.append(Laptop(self.folder, name, machine))
        return self.four[-1]

    def disk(self, name: str) -> Path:
        return self.folder / f"{name}-disk"

    def script(self, name: str, box: Laptop, *words: object) -> list[str]:
        clock = [sys.executable, str(TESTS / "wrong_clock.py"), str(box.clock)]
        return [*box.within, "env", f"IDAO_RUN={TESTS / name}", *clock, *map(str, words)]

    def start_clients(self) -> None:
        for box in self.four:
            words = self.script("client.py", box, "write", box.home, "clinic-lan", self.end)
            with (
                (self.folder / f"{box.name}.rows").open("w") as rows,
                (self.folder / "errors").open("a") as e,
            ):
                self.clients[box.name] = subprocess.Popen(
                    words, stdout=rows, stderr=e, stdin=subprocess.DEVNULL, text=True
                )

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        return {
            box.name: [
                json.loads(line)
                for line in (self.folder / f"{box.name}.rows").read_text().splitlines(keepends=True)
                if line.endswith("\n")
            ]
            for box in self.four
        }

    def goes_on(self, *names: str, writes: int = 1) -> None:
        """Each of these clients (all, unless some are named) has that many more writes acknowledged."""
        before = self.final()
        wanted = names or NAMES
        until(lambda: all(self.final()[n] >= before[n] + writes for n in wanted))

    def final(self) -> dict[str, int]:
        rows = self.rows()
        return {name: len(acknowledged({name: mine})) for name, mine in rows.items()}

    def complete(self) -> bool:
        """Each of the four knows that all four decide."""
        return all(
            status["online"] == 4 and sum(v["power"] > 0 for v in status["validators"]) == 4
            for status in self.statuses()
        )

    def linked(self) -> bool:
        return all(status["online"] == 4 for status in self.statuses())

    def statuses(self) -> Iterator[Any]:
        return (box.json("quorum", "status", "--quorum", "clinic-lan") for box in self.four)

    def accused(self) -> list[str]:
        return [who for box in self.four for who in box.json("quorum", "forensics")["guilty"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with lan(4, v4=False, v6=True) as net:
        made = World(tmp_path_factory.mktemp("hurt"), net)
        try:
            quorum(made.folder, NAMES, made.make)
            made.start_clients()
            until(made.complete)
            yield made
        finally:
            made.end.touch()
            for box in made.four:
                box.kill()
            for client in made.clients.values():
                client.kill()
                client.wait(10)


def test_a_lan_without_ipv4_is_enough(world: World) -> None:
    world.goes_on()
    for box in world.four:
        until(lambda box=box: all_by_ipv6(box.json("node", "status")))  # type: ignore[misc]


def all_by_ipv6(status: Any) -> bool:
    """Linked with three by addresses of IPv6, and three announced by mDNS."""
    addresses = [p["address"] or "" for p in status["quorums"][0]["peers"]]
    seen = any(i["working"] and i["seen"] >= 3 for i in status["discovery"])
    return seen and [a[:2] for a in addresses] == ["[f"] * 3


def test_far_and_lossy_lines(world: World) -> None:
    """A fifth of a second each way, a tenth of all packets lost, some twice, one line slower."""
    world.net.weather(delay_ms=200, jitter_ms=40, loss=0.1, twice=0.02, slow={"2": 100})
    world.goes_on()
    world.four[1].kill()  # a link must also come about in such weather
    world.four[1].up()
    world.goes_on("bob")
    world.net.weather()
    until(world.linked)


def test_a_laptop_that_sleeps_for_an_hour(world: World) -> None:
    """Its processes stand still; then it is an hour later and its links are dead, which it does not know."""
    box = world.four[1]
    assert box.node is not None
    world.late_ms += HOUR_MS
    pids = [box.node.pid, world.clients["bob"].pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: world.four[0].status()["online"] == 3)
    world.goes_on("ana", "cleo", "dora")
    for other in world.four:
        if other is not box:  # where an hour has passed as well
            other.skew(world.late_ms)
    box.skew(world.late_ms)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    woke = time.monotonic()
    until(lambda: box.status()["online"] == 4)
    back_s = time.monotonic() - woke
    world.goes_on()
    assert world.accused() == []
    print(f"linked again {back_s:.1f} s after it woke")


def test_clocks_that_are_wrong(world: World) -> None:
    """Five seconds either way nobody notices; an hour ahead or behind costs that one's turns, and is told."""
    ana, bob, cleo = world.four[:3]
    bob.skew(world.late_ms + 5000)
    cleo.skew(world.late_ms - 5000)
    world.goes_on()
    cleo.skew(world.late_ms)
    bob.skew(world.late_ms + HOUR_MS)
    until(
        lambda: any("differs by 3" in (v["missing"] or "") for v in ana.json("quorum", "why")["validators"])
    )
    world.goes_on()
    bob.skew(world.late_ms - HOUR_MS)
    world.goes_on("ana", "cleo", "dora")
    bob.skew(world.late_ms)
    world.goes_on()
    assert world.accused() == []


def test_a_full_disk(world: World) -> None:
    """Its node signs nothing, says so, and takes part again when there is room; the others go on."""
    dora, filler = world.four[3], world.disk("dora") / "filler"
    for leave_kib in (16 * 1024, 0):  # nearly full, and full to the last byte between two looks
        # All at once if what others write meanwhile allows it, else bit by bit until nothing more fits.
        room = f"$(( $(df -k --output=avail {world.disk('dora')} | tail -1) - {leave_kib} ))k"
        fill = f"room={room}; fallocate -l $room {filler} || head -c $room /dev/zero > {filler} || true"
        try:
            dora.machine.does("sh", "-c", fill)
            without_room(world, dora, asks=leave_kib > 0)
        finally:
            dora.machine.does("rm", "-f", filler)
        until(world.linked)
        world.goes_on()
        until(lambda: dora.json("node", "status")["refused"] == [])


def without_room(world: World, dora: Laptop, *, asks: bool) -> None:
    until(lambda: dora.json("node", "status")["refused"])
    assert dora.node is not None and dora.node.poll() is None
    assert "no room on its disk" in dora.status()["meaning"]
    if asks:
        assert "no room on its disk" in dora.json("quorum", "why")["meaning"]
        words = ("trust", "add", "quorum:" + "d" * 51 + "a", "--quorum", "clinic-lan", "--wait", "5")
        pending = dora.run(*words)
        assert pending.returncode == 3 and "no room" in pending.stderr, pending
    assert dora.run("doctor").returncode == 6
    assert dora.run("quorum", "doctor").returncode == 6
    until(lambda: world.four[0].status()["online"] == 3)
    world.goes_on("ana", "bob", "cleo")


def test_killed_and_cut_off_again_and_again(world: World) -> None:
    """kill -9 of one while another is cut off: too few, then enough again; halves; one way only."""
    for n in range(2):
        world.four[n].kill()
        world.net.part([n, 3], [(n + 1) % 3, (n + 2) % 3])
        time.sleep(1)
        world.four[n].up()
        world.net.weather(cut=[[3, (n + 1) % 3]])  # heals but for one direction of one line
        world.goes_on(NAMES[n])
    world.net.part([0, 1], [2, 3])
    time.sleep(1)
    world.net.weather()
    until(world.linked)
    world.goes_on()


def test_a_member_whose_keys_are_in_bad_hands(world: World) -> None:
    """`rogue.py` at the real nodes of the others: they go on, grow by little, and accuse nobody wrongly."""
    *others, dora = world.four
    dora.kill()
    before = {box.name: memory_kib(box) for box in others}
    words = world.script("rogue.py", dora, dora.home, "clinic-lan", 6)
    plague = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    world.goes_on("ana", "bob", "cleo", writes=2)
    said, wrong = plague.communicate(timeout=120)
    assert plague.returncode == 0, wrong
    sent = json.loads(said)
    assert sent["links"] and sent["frames"] > 100 and sent["offences"], sent
    for box in others:
        assert box.node is not None and box.node.poll() is None
        assert memory_kib(box) < before[box.name] + GROWTH_KIB
        assert "a bug here" not in box.log.read_text() and "node.failed" not in box.log.read_text()
    assert world.accused() == []
    dora.up()  # back in when what its keys have done is atoned for
    until(world.linked)
    world.goes_on()


def memory_kib(box: Laptop) -> int:
    """Of the node's process, resident; behind `nsenter` stands the process itself."""
    assert box.node is not None
    status = Path(f"/proc/{box.node.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def test_two_quorums_of_one_name_without_multicast(world: World) -> None:
    """A stranger's quorum on this LAN has the same name: ids tell them apart, names are each home's own."""
    world.net.weather(multicast=False)
    dora, cleo = world.four[3], world.four[2]
    (world.folder / "eve-disk").mkdir()
    eve = Laptop(world.folder, "eve", cleo.machine)
    eve.skew(world.late_ms)
    eve.must("config", "set", "node.port", "24400")
    theirs = eve.must("quorum", "create", "--name", "clinic-lan")
    try:
        eve.up()
        pair(eve, dora, "--peer", "[fd77:1::3]:24400")
        until(lambda: eve.status()["online"] == 2)
        both = {
            q["name"]: q["quorum"] for q in dora.json("quorum", "list")["quorums"] if q["kind"] == "group"
        }
        assert both.pop("clinic-lan-2") == theirs and len(both) == 1 and theirs not in both.values()
        world.net.weather()  # announced on one LAN again, and nobody else comes to eve's
        world.goes_on()
        assert eve.status()["online"] == 2 and len(world.four[0].status()["validators"]) == 4
        eve.must("trust", "add", "quorum:" + "d" * 51 + "a", "--quorum", "clinic-lan")
        until(
            lambda: (
                dora.json("quorum", "status", "--quorum", "clinic-lan-2")["height"] == eve.status()["height"]
            )
        )
    finally:
        eve.kill()


def test_every_history_is_sound(world: World) -> None:
    """The last: what all clients saw from the first test to here, against what the ledgers hold."""
    world.end.touch()
    for client in world.clients.values():
        client.wait(60)
    until(lambda: all(q["pending"] == 0 for box in world.four for q in box.json("status")["quorums"]))
    until(lambda: len({(s["height"], s["state_hash"]) for s in world.statuses()}) == 1)
    logs = {}
    for box in world.four:
        read = subprocess.run(
            world.script("client.py", box, "log", box.home, "clinic-lan"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert read.returncode == 0, read.stderr
        logs[box.name] = json.loads(read.stdout)
    rows = world.rows()
    assert (world.folder / "errors").read_text() == ""
    assert judge(rows, logs) == []
    assert world.accused() == []
    print({name: (count, len(rows[name])) for name, count in world.final().items()}, logs["ana"]["height"])
