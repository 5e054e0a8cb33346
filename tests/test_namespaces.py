"""Four machines as network namespaces on one bridge: real addresses, real mDNS, cables that can be pulled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_world import Box, quorum, until
from test_schemas import validator

NAMES = ("ana", "bob", "cleo", "dora")
BRIDGE = f"idao{os.getpid() % 10000}"


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine makes no networks: {done.stderr.strip()}")


def cable(n: int, state: str) -> None:
    """Pulls or plugs the cable of one machine."""
    ip("link", "set", f"{BRIDGE}v{n}", state)


@pytest.fixture(scope="module")
def lan() -> Iterator[list[str]]:
    """Four namespaces on a bridge of their own; nothing leads out of it."""
    if os.getuid() or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    spaces = [f"{BRIDGE}n{n}" for n in range(4)]
    try:
        ip("link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
        ip("link", "set", BRIDGE, "up")
        for n, space in enumerate(spaces):
            ip("netns", "add", space)
            ip("link", "add", f"{BRIDGE}v{n}", "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", f"{BRIDGE}v{n}", "master", BRIDGE, "up")
            ip("-n", space, "addr", "add", f"10.77.0.{n + 1}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield spaces
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


@pytest.fixture(scope="module")
def four(lan: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Box]]:
    folder = tmp_path_factory.mktemp("lan")
    boxes: list[Box] = []

    def make(name: str) -> Box:
        within = ["ip", "netns", "exec", lan[NAMES.index(name)]]
        boxes.append(Box(folder, name, host="", within=within))
        return boxes[-1]

    try:
        yield quorum(folder, NAMES, make)
    finally:
        for box in boxes:
            box.kill()


def contribute(box: Box, text: str, wait: int = 60) -> int:
    path = box.home.parent / f"{text}.csv"
    path.write_text(f"a,b\n1,{text}\n")
    return box.run("contribute", path, "--quorum", "clinic-lan", "--wait", wait).returncode


def same(four: list[Box]) -> bool:
    return len({(s["height"], s["state_hash"]) for s in (box.status() for box in four)}) == 1


def signs(box: Box) -> bool:
    """Whether its validator is over the heights in which it may have forgotten what it signed."""
    return "copied or restored" not in box.json("quorum", "why")["meaning"]


@pytest.mark.slow
def test_four_machines_find_each_other_and_agree(four: list[Box]) -> None:
    until(lambda: all(box.status()["online"] == 4 for box in four))
    assert contribute(four[1], "first") == 0
    until(lambda: same(four))
    seen = four[0].json("node", "status")["discovery"]
    assert any(i["working"] and i["seen"] >= 3 for i in seen), seen


@pytest.mark.slow
def test_a_pulled_cable_stops_nobody_else(four: list[Box]) -> None:
    cable(3, "down")
    assert contribute(four[0], "without dora") == 0
    assert contribute(four[3], "alone", wait=2) == 3
    cable(3, "up")
    until(lambda: same(four) and four[3].json("status")["quorums"])
    until(lambda: all(q["pending"] == 0 for q in four[3].json("status")["quorums"]))


@pytest.mark.slow
def test_two_halves_decide_nothing_and_heal(four: list[Box]) -> None:
    for n in (2, 3):
        cable(n, "down")
    assert contribute(four[0], "half", wait=2) == 3
    for n in (2, 3):
        cable(n, "up")
    until(lambda: all(q["pending"] == 0 for q in four[0].json("status")["quorums"]))
    until(lambda: same(four))


@pytest.mark.slow
def test_a_home_put_back_to_yesterday_lies_to_nobody(four: list[Box], tmp_path: Path) -> None:
    """Rolled back in place, the file does not know; the quorum does: its own later votes come back to it."""
    four[2].kill()
    shutil.copytree(four[2].home, tmp_path / "yesterday", ignore=shutil.ignore_patterns("node.sock"))
    four[2].up()
    assert contribute(four[0], "today") == 0
    until(lambda: same(four))
    four[2].kill()
    shutil.rmtree(four[2].home)
    shutil.copytree(tmp_path / "yesterday", four[2].home)
    four[2].up()
    assert contribute(four[0], "after the rollback") == 0
    until(lambda: signs(four[2]))
    until(lambda: same(four))
    found = four[0].json("quorum", "forensics")
    assert found["guilty"] == [], "an honest validator is never accused"


@pytest.mark.slow
def test_a_damaged_ledger_is_fetched_again(four: list[Box]) -> None:
    four[3].kill()
    quorum_id = four[0].status()["quorum"]
    path = four[3].home / "ledgers" / f"{quorum_id.removeprefix('quorum:')}.db"
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    found = four[3].run("quorum", "repair", "--quorum", "clinic-lan", "--yes", "--json")
    assert found.returncode == 0, found
    validator("quorum repair").validate(json.loads(found.stdout))
    assert four[3].status()["height"] == 0
    four[3].up()
    until(lambda: signs(four[3]))  # by two blocks that it asks for itself: nobody else has anything to say
    until(lambda: same(four))
    four[2].kill()  # now the repaired one is needed
    assert contribute(four[0], "with the repaired") == 0
    four[2].up()
    assert four[0].json("quorum", "forensics")["guilty"] == []
    assert four[3].json("audit", "--quorum", "clinic-lan")["ok"]
