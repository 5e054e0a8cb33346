"""Seats in a quorum of four real nodes: a key replaced under load, a lie brought by hand, a lost member."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_world import Box, pair, quorum, until
from test_schemas import validator
from test_seats import signers, vote

from idao.model import parse_id

pytestmark = pytest.mark.slow
NAMES = ("ana", "bob", "cleo", "dora")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Box]]:
    boxes: dict[str, Box] = {}
    folder = tmp_path_factory.mktemp("seats")

    def make(name: str) -> Box:
        boxes[name] = Box(folder, name)
        return boxes[name]

    try:
        quorum(folder, NAMES, make)
        yield boxes
    finally:
        for box in boxes.values():
            box.kill()


def contribute(box: Box, name: str) -> dict[str, Any]:
    return contribute_to(box, name, "clinic-lan")


def contribute_to(box: Box, name: str, quorum: str) -> dict[str, Any]:
    path = box.home.parent / f"{name}.csv"
    path.write_text(f"a,b\n1,{name}\n")
    ran = box.run("contribute", path, "--json", "--quorum", quorum, "--wait", 60)
    assert ran.returncode == 0, ran
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_newcomers_are_called_as_they_say(four: dict[str, Box]) -> None:
    status = four["ana"].status()
    assert {v["name"] for v in status["validators"]} == set(NAMES)
    assert {v["name"] for v in four["dora"].status()["validators"]} == {"ana", "dora", None}, "who let it in"


def test_a_validator_key_is_replaced_while_transactions_flow(four: dict[str, Box], tmp_path: Path) -> None:
    bob = four["bob"]
    old = signers(bob.home)[0]
    before = contribute(bob, "before")
    done: list[dict[str, Any]] = []
    busy = threading.Thread(target=lambda: done.extend(contribute(four["ana"], f"flow{n}") for n in range(4)))
    busy.start()
    made = bob.json("quorum", "rotate", "--wait", "60")
    busy.join(300)
    assert len(done) == 4 and all(d["status"] in ("final", "anchored") for d in done)
    assert made["status"] == "final" and made["signs_from"] == made["height"] + 2
    after = contribute(bob, "after")
    until(lambda: bob.status()["anchored"] >= max(after["height"], made["signs_from"]))
    until(lambda: old.public not in {s.public for s in signers(bob.home)})  # destroyed by the node
    until(lambda: all(box.status()["online"] == 4 for box in four.values()))
    assert four["cleo"].json("quorum", "forensics")["faults"] == []

    genesis = bob.status()["quorum"]
    for made_then in (before, after):
        file = tmp_path / f"{made_then['height']}.idao-proof"
        bob.must("proof", made_then["asset"], "-o", file)
        ran = bob.run("verify", file, "--json", "--home", tmp_path / "nobody", "--trust", genesis)
        found = json.loads(ran.stdout)
        assert ran.returncode == 0 and found["trusted"] and found["anchor"]["epoch"] >= 2, found
    for box in (bob, four["dora"]):
        assert box.json("audit", "--quorum", "clinic-lan")["ok"]

    # The old key has no voice at the heights that come, and answers for those where it had one.
    id_ = parse_id("quorum", genesis)
    for height, code in ((made["signs_from"], 5), (made["height"], 0)):
        votes = json.dumps([vote(old, id_, height, bytes([n]) * 32) for n in (1, 2)])
        ran = four["ana"].run("quorum", "accuse", "-", "--dry-run", stdin=votes)
        assert ran.returncode == code, ran


def test_a_node_started_after_a_change_finds_its_place(four: dict[str, Box]) -> None:
    cleo = four["cleo"]
    cleo.kill()
    pending = cleo.run("quorum", "rotate", "--json")
    assert pending.returncode == 3 and len(signers(cleo.home)) == 3
    again = cleo.run("quorum", "rotate", "--json")
    assert again.returncode == 3 and len(signers(cleo.home)) == 3, "signed once only"
    cleo.up()
    until(lambda: len(signers(cleo.home)) == 2)
    until(lambda: four["ana"].status()["online"] == 4)
    assert contribute(cleo, "back")["status"] in ("final", "anchored")


def test_two_votes_brought_by_hand_cost_the_liar_its_bond(four: dict[str, Box], tmp_path: Path) -> None:
    dora = four["dora"]
    status = four["ana"].status()
    quorum = parse_id("quorum", status["quorum"])
    file = tmp_path / "votes.json"
    file.write_text(
        json.dumps([vote(signers(dora.home)[0], quorum, status["height"], bytes([n]) * 32) for n in (1, 2)])
    )
    made = four["ana"].json("quorum", "accuse", file, "--wait", "60")
    assert made["name"] == "dora" and int(made["slashed"]) > 0
    until(lambda: four["bob"].status()["height"] >= four["ana"].status()["height"])
    found = four["bob"].json("quorum", "forensics")
    assert found["guilty"] == [made["idao"]] and found["faults"][0]["slashed"] == made["slashed"]
    assert four["cleo"].json("audit", "--quorum", "clinic-lan")["ok"]


def test_the_last_whole_ledger_is_not_pruned(four: dict[str, Box]) -> None:
    bob, cleo = four["bob"], four["cleo"]
    until(lambda: all(box.status()["online"] == 4 for box in (bob, cleo)))
    until(lambda: bob.run("log", "prune", "--keep", "3", "--dry-run").returncode == 0)
    assert bob.run("log", "prune", "--keep", "3", "--yes", "--wait", "0").returncode == 8, (
        "the node drives it"
    )
    for box in four.values():
        box.must("node", "stop")
        box.kill()
    assert bob.json("log", "prune", "--keep", "3", "--yes")["pruned"] > 10
    book = cleo.home / "ledgers" / f"{bob.status()['quorum'].removeprefix('quorum:')}.peers"
    known = book.read_bytes()
    book.unlink()
    last = cleo.run("log", "prune", "--keep", "3", "--yes")
    assert last.returncode == 5 and "no other member is known to keep every block" in last.stderr
    book.write_bytes(known)
    assert cleo.json("log", "prune", "--keep", "3", "--dry-run", "--force")["pruned"] > 10
    for box in four.values():
        box.up()
    until(lambda: all(box.status()["online"] == 4 for box in four.values()))
    assert bob.json("audit", "--quorum", "clinic-lan")["ok"]


def test_a_member_comes_back_from_its_backup(four: dict[str, Box], tmp_path: Path) -> None:
    """On another disk: it knows the others, and signs again once they have told where they stand."""
    cleo = four["cleo"]
    words, saved = tmp_path / "words", tmp_path / "cleo.idao-backup"
    cleo.must("key", "phrase", "--out", words)
    cleo.must("backup", "create", "-o", saved)
    contribute(four["ana"], "since-then")
    cleo.kill()
    cleo.home.rename(tmp_path / "lost")
    cleo.must("backup", "restore", saved, "--phrase-file", words, "--no-passphrase")
    cleo.up()
    until(lambda: all(box.status()["online"] == 4 for box in four.values()))
    until(lambda: "copied or restored" not in cleo.json("quorum", "why")["meaning"])
    assert contribute(cleo, "i-am-back")["status"] in ("final", "anchored")
    assert four["bob"].json("quorum", "forensics")["faults"] != [], "dora's alone"
    assert len(four["bob"].json("quorum", "forensics")["guilty"]) == 1


def test_a_lost_member_is_removed_by_the_others(four: dict[str, Box]) -> None:
    ana, dora = four["ana"], four["dora"]
    dora.kill()
    four["cleo"].kill()
    until(lambda: ana.status()["online"] == 2)
    stops = ana.run("quorum", "remove", "dora", "--yes")
    assert stops.returncode == 5 and "too few to decide" in stops.stderr
    four["cleo"].up()
    until(lambda: ana.status()["online"] == 3)
    words = ana.run("quorum", "status").stdout
    assert "one more absence stops anchoring" in words
    gone = next(line for line in words.splitlines() if line.startswith("  dora"))
    assert "not seen from here since 20" in gone and "last signed height" in gone, words
    validator("quorum remove").validate(ana.json("quorum", "remove", "dora", "--dry-run"))
    asked = ana.json("quorum", "remove", "dora", "--yes", "--wait", "60")
    validator("quorum remove").validate(asked)
    for box in (four["bob"], four["cleo"]):
        ran = box.run("vote", asked["proposal"], "yes", "--quorum", "clinic-lan", "--wait", "60")
        assert ran.returncode == 0 or "decided" in ran.stderr, ran
    until(lambda: ana.status()["size"] == 3)
    words = ana.run("quorum", "status").stdout
    assert "3 validators, 3 online, tolerates no fault; one absence stops anchoring" in words, words
    assert contribute(ana, "without")["status"] in ("final", "anchored")
    dora = four["dora"]
    dora.up()
    # Nobody tells it: it was away, and is a stranger now. But it sees how it is met.
    until(lambda: "may not take this node for a member" in dora.run("quorum", "why").stdout)
    dora.kill()
    early = ana.run("quorum", "withdraw", "dora")
    assert early.returncode == 4 and "no bond is free yet: from height" in early.stderr


def test_those_who_remain_agree_to_go_on(four: dict[str, Box], tmp_path: Path) -> None:
    """Last: the founder is lost, with the phrase, and three bear no absence."""
    bob, cleo = four["bob"], four["cleo"]
    contribute(bob, "of-three")
    since = bob.status()["since"]
    until(lambda: all(box.status()["anchored"] >= since for box in (bob, cleo)))
    until(lambda: bob.status()["anchored"] == bob.status()["height"] == cleo.status()["anchored"])
    four["ana"].kill()
    old = bob.status()["quorum"]
    ran = bob.run("trust", "add", "quorum:" + "d" * 51 + "a", "--quorum", "clinic-lan", "--wait", "1")
    assert ran.returncode == 3, "two of three decide nothing"
    plan, word = tmp_path / "plan", tmp_path / "word"
    dry = bob.json("quorum", "recover", "--draft", plan, "--quorum", "clinic-lan", "--dry-run")
    validator("quorum recover").validate(dry)
    assert (dry["plan"]["power"], dry["plan"]["needed_power"], dry["plan"]["total_power"]) == (1, 2, 3)
    assert dry["plan"]["rules"] == [] and dry["plan"]["stake"] > 0
    assert not plan.exists()
    bob.must("quorum", "recover", "--draft", plan, "--quorum", "clinic-lan")
    alone = bob.run("quorum", "recover", "--plan", plan, "--yes")
    assert alone.returncode == 5 and "power 1 of 3" in alone.stderr
    stranger = four["dora"].run("quorum", "recover", "--consent", plan, "-o", tmp_path / "x", "--yes")
    assert stranger.returncode == 5 and not (tmp_path / "x").exists(), stranger
    assert cleo.run("quorum", "recover", "--consent", plan, "-o", word).returncode == 2, "asks first"
    cleo.must("quorum", "recover", "--consent", plan, "-o", word, "--yes")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(word.read_bytes()[:-1] + bytes([word.read_bytes()[-1] ^ 1]))
    assert bob.run("quorum", "recover", "--plan", plan, "--with", damaged, "--yes").returncode == 6
    busy = bob.run("quorum", "recover", "--plan", plan, "--with", word, "--yes", "--wait", "0")
    assert busy.returncode == 8, "not under a node that drives it"
    bob.kill()
    found = bob.json("quorum", "recover", "--plan", plan, "--with", word, "--yes")["quorums"][0]
    assert found["parent"] == old and found["name"] == "clinic-lan-r1"
    bob.up()
    made = contribute_to(bob, "after-all", "clinic-lan-r1")
    file = tmp_path / "r1.idao-proof"
    until(lambda: bob.run("proof", made["asset"], "-o", file, "--quorum", "clinic-lan-r1").returncode == 0)
    verified = bob.run("verify", file)
    assert verified.returncode == 0 and "2 of its 3 last validators (power 2 of 3)" in verified.stdout
    assert bob.run("verify", file, "--trust", old, "--require", "trusted").returncode == 6


def test_a_newcomer_that_died_before_it_heard_is_let_in_again(tmp_path: Path) -> None:
    """Killed between the inviter's yes and its own ledger: its seat is there, and never voted."""
    (ana,), bob = quorum(tmp_path, ["ana"]), Box(tmp_path, "bob")
    try:
        pair(ana, bob)
        stem = ana.status()["quorum"].partition(":")[2]
        for left in (bob.home / "ledgers").glob(f"{stem}*"):
            left.unlink()
        pair(ana, bob)
        bob.up()
        until(lambda: bob.status()["online"] == 2)
    finally:
        ana.kill()
        bob.kill()
