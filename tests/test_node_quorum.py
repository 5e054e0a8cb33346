"""Four people, four homes, four real nodes on one machine: a quorum formed by commands alone, and hurt."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_world import PATIENCE_S, Box, quorum, until
from test_schemas import validator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Box]]:
    boxes: list[Box] = []
    folder = tmp_path_factory.mktemp("four")

    def make(name: str) -> Box:
        boxes.append(Box(folder, name))
        return boxes[-1]

    try:
        yield quorum(folder, ("ana", "bob", "cleo", "dora"), make)
    finally:
        for box in boxes:
            box.kill()


def data(four: list[Box], name: str) -> Path:
    path = four[0].home.parent / f"{name}.csv"
    path.write_text(f"a,b\n1,{name}\n")
    return path


def same(four: list[Box]) -> bool:
    """Whether all of them show one state."""
    seen = [box.status() for box in four]
    return len({(s["height"], s["state_hash"], s["anchored"]) for s in seen}) == 1


def contribute(box: Box, path: Path, wait: int = 60) -> dict[str, object]:
    ran = box.run("contribute", path, "--json", "--quorum", "clinic-lan", "--wait", wait)
    assert ran.returncode in (0, 3), ran
    found: dict[str, object] = json.loads(ran.stdout)
    validator("contribute").validate(found)
    assert (ran.returncode == 3) == (found["status"] == "pending")
    return found


def test_four_agree(four: list[Box]) -> None:
    status = four[3].status()
    validator("quorum status").validate(status)
    assert (status["size"], status["tolerates"], status["founder_mode"]) == (4, 1, False)
    until(lambda: four[0].status()["online"] == 4)
    words = four[0].run("quorum", "status").stdout
    assert "4 validators, 4 online, tolerates 1 faulty, height " in words
    made = contribute(four[1], data(four, "one"))
    assert made["status"] in ("final", "anchored")
    until(lambda: same(four))
    lists = [{a["asset"] for a in box.json("asset", "list")["assets"]} for box in four]
    assert all(made["asset"] in found for found in lists)


def test_the_ledger_of_each_follows_from_genesis(four: list[Box]) -> None:
    for box in (four[0], four[2]):
        assert box.json("audit", "--quorum", "clinic-lan")["ok"]


def test_a_stranger_verifies_with_nothing_but_the_file(four: list[Box], tmp_path: Path) -> None:
    made = contribute(four[2], data(four, "proof"))
    height = made["height"]
    until(lambda: four[2].status()["anchored"] >= height)
    file = tmp_path / "p.idao-proof"
    four[2].must("proof", made["asset"], "-o", file)
    ran = Box.run(four[0], "verify", file, "--json", "--home", tmp_path / "nobody")
    found = json.loads(ran.stdout)
    assert ran.returncode == 0 and found["ok"], found
    assert found["anchor"]["required_power"] == 3 and found["anchor"]["power"] >= 3


def test_numbers_are_read_by_promtool(four: list[Box]) -> None:
    text = four[0].run("node", "metrics").stdout
    assert text.endswith("# EOF\n") and "idao_height{" in text
    validator("node metrics").validate(four[0].json("node", "metrics"))
    validator("node status").validate(four[0].json("node", "status"))
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_goes_on_without_one_and_waits_without_two(four: list[Box]) -> None:
    four[3].kill()
    assert contribute(four[0], data(four, "three"))["status"] in ("final", "anchored")
    four[2].kill()
    waits = contribute(four[0], data(four, "two"), wait=1)
    assert waits["status"] == "pending"
    assert contribute(four[0], data(four, "two"), wait=1)["asset"] == waits["asset"], "signed once only"
    four[0].kill()  # with what waits in its outbox
    offline = four[0].run("trust", "add", "quorum:" + "d" * 51 + "a", "--quorum", "clinic-lan")
    assert offline.returncode == 3 and "idao node run" in offline.stderr
    for box in (four[0], four[2], four[3]):
        box.up()
    until(lambda: box_knows(four[0], str(waits["asset"])))
    until(lambda: same(four))
    assert four[0].json("status")["quorums"][0]["pending"] == 0 or until(
        lambda: all(q["pending"] == 0 for q in four[0].json("status")["quorums"])
    )


def box_knows(box: Box, asset: str) -> bool:
    return asset in {a["asset"] for a in box.json("asset", "list")["assets"]}


def test_killed_again_and_again_nothing_acknowledged_is_lost(four: list[Box]) -> None:
    kept = []
    for n in range(3):
        victim = four[1 + n % 3]
        victim.kill()
        made = contribute(four[0], data(four, f"loop{n}"))
        assert made["status"] != "pending"
        kept.append(made["asset"])
        victim.up()
    until(lambda: same(four))
    for box in four:
        assert {a["asset"] for a in box.json("asset", "list")["assets"]} >= set(kept)


def test_one_that_hangs_costs_little(four: list[Box]) -> None:
    import os
    import signal

    assert four[2].node is not None
    os.kill(four[2].node.pid, signal.SIGSTOP)
    try:
        assert contribute(four[0], data(four, "hang"), wait=60)["status"] != "pending"
    finally:
        os.kill(four[2].node.pid, signal.SIGCONT)
    until(lambda: same(four))


def test_an_invite_is_taken_once(four: list[Box], tmp_path: Path) -> None:
    eve = Box(tmp_path, "eve")
    line = four[0].must("quorum", "invite", "-q")
    mistyped = eve.run("quorum", "join", "-", stdin=line[:-1] + ("a" if line[-1] != "a" else "b"))
    assert mistyped.returncode == 2 and line[8:30] not in mistyped.stderr
    joining = subprocess.Popen(
        eve.command("quorum", "join", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert joining.stdin is not None
    joining.stdin.write(line)
    joining.stdin.close()
    wrong = four[0].run("quorum", "accept", "--words", "one two three four five six", "--wait", "3")
    assert wrong.returncode == 4
    shown = four[0].run("quorum", "accept", "--dry-run", "--json", "--wait", PATIENCE_S)
    validator("quorum accept").validate(json.loads(shown.stdout))
    four[0].must("quorum", "accept", "--refuse", "--words", json.loads(shown.stdout)["words"])
    assert joining.wait(PATIENCE_S) == 5
    again = eve.run("quorum", "join", "-", stdin=line)
    assert again.returncode in (5, 11) and "Traceback" not in again.stderr
    assert eve.run("quorum", "list").stdout.count("clinic-lan") == 0


def test_a_second_node_of_a_home_is_refused(four: list[Box]) -> None:
    began = time.monotonic()
    ran = four[0].run("node", "run")
    assert ran.returncode == 8 and time.monotonic() - began < PATIENCE_S


def test_the_doctor_tells_links_and_clocks(four: list[Box]) -> None:
    until(lambda: four[0].status()["online"] == 4)
    ran = four[0].run("quorum", "doctor", "--json")
    found = json.loads(ran.stdout)
    validator("quorum doctor").validate(found)
    assert ran.returncode == 0 and sum(c["name"].startswith("member ") for c in found["checks"]) == 3, found
    rows = four[0].json("peer", "list")
    validator("peer list").validate(rows)
    assert [p["up"] for p in rows["peers"]] == [True] * 3
    four[1].kill()
    until(lambda: four[0].status()["online"] == 3)
    assert four[0].run("quorum", "doctor").returncode == 6
    why = four[0].json("quorum", "why")
    validator("quorum why").validate(why)
    assert any("bring" in h for h in why["help"])
    four[1].up()
    until(lambda: four[0].status()["online"] == 4)


def test_a_group_that_lost_too_many_goes_on_visibly(four: list[Box], tmp_path: Path) -> None:
    """Last: it ends the quorum."""
    old = four[0].status()["quorum"]
    for box in four:
        box.kill()
    told = four[0].run("quorum", "recover", "--quorum", "clinic-lan", "--dry-run")
    assert told.returncode == 0 and told.stderr.count("must join again") == 3
    assert four[0].run("quorum", "recover", "--quorum", "clinic-lan").returncode == 2, "asks first"
    ran = four[0].run("quorum", "recover", "--quorum", "clinic-lan", "--yes", "--json")
    assert ran.returncode == 0, ran
    found = json.loads(ran.stdout)["quorums"][0]
    assert found["parent"] == old and found["name"] == "clinic-lan-r1" and found["quorum"] != old
    status = four[0].json("quorum", "status", "clinic-lan-r1")
    assert status["founder_mode"] and status["size"] == 1
    ended = four[0].run("contribute", data(four, "after"), "--quorum", "clinic-lan", "--wait", "1")
    assert ended.returncode == 5 and "continues it" in ended.stderr
    made = json.loads(
        four[0].run("contribute", data(four, "new"), "--quorum", "clinic-lan-r1", "--json").stdout
    )
    file = tmp_path / "r1.idao-proof"
    four[0].must("proof", made["asset"], "-o", file, "--quorum", "clinic-lan-r1")
    verified = four[0].run("verify", file)
    assert verified.returncode == 0 and "1 of its 4 last validators" in verified.stdout, verified
