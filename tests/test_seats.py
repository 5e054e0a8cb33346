"""A seat as its holder sees it, in a group of one founder: a new key, an accusation, names for newcomers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from cli_world import must, run
from test_schemas import validator

from idao import invite, validatorkeys
from idao.commands import joining
from idao.crypto import note
from idao.crypto.keys import Signer, did_key
from idao.dao import Dao
from idao.errors import IdaoError, NotFound, UsageError
from idao.frozen import replace
from idao.hall import chores, insight, quorums
from idao.hall.joining import Joining, carrier
from idao.hall.reattest import Reattest
from idao.hall.signing import signed
from idao.hall.tee import Tee
from idao.home import Home
from idao.ledger import genesis, membership
from idao.ledger.bonds import Bond
from idao.ledger.idao import Register
from idao.ledger.membership import Join, Seat
from idao.ledger.state import DictBase, State
from idao.model import NOTARIZE, VOTE_NAMES, Validator, ValidatorSet, Vote, show_id
from idao.node import metrics


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "ana"
    must("init", "--name", "ana", "--no-passphrase", home=path)
    must("quorum", "create", "--name", "lan", home=path)
    return path


def beat(home: Path, n: int) -> None:
    """One more block."""
    must("trust", "add", show_id("quorum", bytes([n]) * 32), home=home)


def signers(home: Path) -> tuple[Signer, ...]:
    dao = Dao.open(home)
    return validatorkeys.held(dao.home, dao.quorum, dao.keys())


def vote(signer: Signer, quorum: bytes, height: int, digest: bytes) -> dict[str, object]:
    signed = signer.sign_vote(Vote(NOTARIZE, quorum, height, 0, digest))
    return {"kind": VOTE_NAMES[NOTARIZE], "height": height, "view": 0, "digest": digest.hex(),
            "key": did_key(signer.public), "signature": signed.hex()}  # fmt: skip


def test_a_key_is_replaced_two_blocks_later_and_destroyed(home: Path) -> None:
    beat(home, 1)
    own, before = signers(home)[-1].public, signers(home)[0]
    assert before.public != own, "a group has a key of its own"
    dry = must("quorum", "rotate", "--dry-run", "--json", home=home).json
    validator("quorum rotate").validate(dry)
    made = must("quorum", "rotate", "--json", home=home).json
    validator("quorum rotate").validate(made)
    assert made["replaces"] == dry["replaces"] == did_key(before.public) != made["key"]
    height = made["height"]
    assert made["signs_from"] == height + 2
    from idao.hall import seats

    assert seats.retire(Dao.open(home)) == 0, "the old key still signs the block between"
    beat(home, 2)
    assert validatorkeys.any_replaced(Home.open(home))
    assert seats.retire(Dao.open(home)) == 1
    assert not validatorkeys.any_replaced(Home.open(home))
    assert [did_key(s.public) for s in signers(home)] == [made["key"], did_key(own)]
    beat(home, 3)
    store = Dao.open(home).store
    assert did_key(store.validators(height + 2)[1].validators[0].key) == made["key"]
    assert must("audit", home=home).code == 0
    again = run("quorum", "rotate", home=home)
    assert again.code == 5 and "once a day" in again.err and len(signers(home)) == 2


def test_a_quorum_of_one_keeps_its_key(home: Path) -> None:
    for words in (("rotate",), ("remove", "me", "--yes")):
        refused = run("quorum", *words, "--quorum", "ana", home=home)
        assert refused.code == 5 and "quorum of one" in refused.err
    assert run("quorum", "withdraw", home=home).code == 4


def test_a_seat_is_looked_for_before_anybody_is_asked(home: Path) -> None:
    """`-q` gives what is to be voted on; who has no seat is told so, with or without --yes."""
    for yes in ([], ["--yes"]):
        nobody = run("quorum", "remove", "nobody", *yes, home=home)
        assert nobody.code == 4 and "--yes" not in nobody.err, nobody
    asked = run("quorum", "remove", "me", home=home)
    assert asked.code == 2 and "--yes" in asked.err
    with mock.patch(
        "idao.hall.seats.remove", lambda *_, **__: {"seat": "x", "proposal": "prop", "idao": "i"}
    ):
        assert run("quorum", "remove", "me", "--yes", "-q", home=home).out == "prop\n"


def test_a_new_key_takes_no_others_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes may come to the same number."""
    dao = Dao.open(home)
    kek, real, late = dao.keys().kek, validatorkeys._numbers, [[]]
    seeds = [bytes([n]) * 32 for n in (1, 2)]
    before = {s.public for s in validatorkeys.held(dao.home, dao.quorum, dao.keys())}
    validatorkeys.keep(dao.home, dao.quorum, seeds[0], kek)
    monkeypatch.setattr(validatorkeys, "_numbers", lambda *given: late.pop() if late else real(*given))
    validatorkeys.keep(dao.home, dao.quorum, seeds[1], kek)
    after = {s.public for s in validatorkeys.held(dao.home, dao.quorum, dao.keys())}
    assert after == before | {Signer(seed).public for seed in seeds}
    assert not [p for p in dao.home.keys_folder.iterdir() if p.name.startswith(".")]


def test_a_key_that_is_gone_is_told(home: Path) -> None:
    dao = Dao.open(home)
    with pytest.raises(NotFound, match="not in this home"):
        validatorkeys.of_key(dao.home, dao.quorum, dao.keys(), bytes(32))


def test_two_votes_brought_by_hand_cost_the_bond(home: Path, tmp_path: Path) -> None:
    beat(home, 1)
    signer, quorum = signers(home)[0], Dao.open(home).quorum
    one, two = (vote(signer, quorum, 1, bytes([n]) * 32) for n in (1, 2))
    file = tmp_path / "votes.json"
    file.write_text(json.dumps([one, two]))
    dry = must("quorum", "accuse", file, "--dry-run", "--json", home=home).json
    validator("quorum accuse").validate(dry)
    made = must("quorum", "accuse", file, "--json", home=home).json
    validator("quorum accuse").validate(made)
    assert (made["kind"], made["height"]) == ("notarize", 1) and int(made["slashed"]) > 0
    assert must("quorum", "forensics", "--json", home=home).json["guilty"] == [made["idao"]]
    assert run("quorum", "accuse", file, home=home).code == 5, "recorded once"
    for wrong, code in (
        ([one], 2), ([one, one], 5), ([one, {**two, "height": 2}], 5), ([one, {**two, "kind": "vote"}], 2),
        ([one, {**two, "signature": "00" * 64}], 5), ([one, {**two, "signature": "00"}], 2),
        ([{**one, "height": 99}, {**two, "height": 99}], 5), ([one, {**two, "view": -1}], 2), ("no", 2),
    ):  # fmt: skip
        file.write_text(json.dumps(wrong) if wrong != "no" else "no")
        refused = run("quorum", "accuse", file, home=home)
        assert refused.code == code and "Traceback" not in refused.err, (wrong, refused)


def test_two_heads_brought_by_hand_cost_the_bond(home: Path, tmp_path: Path) -> None:
    beat(home, 1)
    signer, quorum = signers(home)[0], Dao.open(home).quorum
    true = must("log", "checkpoint", "--json", home=home).json["note"]
    text = note.parse_note(true).text
    other = text.replace(text.split("\n")[2], "A" * 43 + "=")
    forged = str(note.Note(other, (note.cosignature(signer, quorum, other, 1),)))
    files = [tmp_path / "a", tmp_path / "b"]
    for file, words in zip(files, (true, forged), strict=True):
        file.write_text(words)
    assert run("quorum", "accuse", files[0], files[0], home=home).code == 5
    made = must("quorum", "accuse", *files, "--json", home=home).json
    assert made["kind"] == "cosign" and int(made["slashed"]) > 0


@pytest.mark.parametrize(
    ("size", "online", "founding", "words", "more"),
    [
        (1, 1, True, "1 member, founder mode: only the founder signs; needs 3 more; 1 online", ""),
        (2, 1, True, "2 members, founder mode: only the founder signs; needs 2 more; 1 online", ""),
        (3, 3, True, "3 members, founder mode: only the founder signs; needs 1 more; 3 online", ""),
        (3, 3, False, "3 validators, 3 online, tolerates no fault; one absence stops anchoring", ""),
        (3, 2, False, "3 validators, 2 online, tolerates no fault; one absence stops anchoring",
         "nothing is decided: 2 of 3 votes are online, and 3 are needed"),
        (4, 4, False, "4 validators, 4 online, tolerates 1 faulty", ""),
        (4, 3, False, "4 validators, 3 online, tolerates 1 faulty", "one more absence stops anchoring"),
        (4, 2, False, "4 validators, 2 online, tolerates 1 faulty",
         "nothing is decided: 2 of 4 votes are online, and 3 are needed"),
        (7, 6, False, "7 validators, 6 online, tolerates 2 faulty", ""),
        (7, 5, False, "7 validators, 5 online, tolerates 2 faulty", "one more absence stops anchoring"),
    ],
)  # fmt: skip
def test_a_size_is_told_in_plain_words(size: int, online: int, founding: bool, words: str, more: str) -> None:
    members = tuple(Validator(bytes([n]) * 32, bytes([n]) * 32, 1) for n in range(1 if founding else size))
    validators = ValidatorSet(members)
    bears = quorums.tolerates(validators)
    assert (
        quorums.meaning(size, online, bears, founding=founding, group=True, node=True, refused=None) == words
    )
    assert quorums.margin(validators, 1 if founding else online) == more


def test_an_invite_is_drawn_in_letters_that_read_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = invite.Invite(invite.Secret(bytes(16)), bytes(16), bytes(8), 1_800_000_000, ("10.0.0.5:24326",))
    monkeypatch.setitem(sys.modules, "segno", None)
    joining._draw(invite.encode(made))
    assert "pip install 'idao[qr]'" in capsys.readouterr().err, "the invite itself needs nothing more"
    drawn: list[str] = []

    class Code:
        def terminal(self, **how: object) -> None: ...

    def make(text: str, **how: object) -> Code:
        drawn.append(text)
        return Code()

    monkeypatch.setitem(sys.modules, "segno", SimpleNamespace(make=make))
    joining._draw(invite.encode(made))
    # Upper case makes the smaller code; whoever types or scans it may.
    assert drawn[0].isupper() and invite.decode(drawn[0]) == made


@pytest.mark.parametrize("state, told", [(membership.LEFT, "you have left"), (membership.ACTIVE, "")])
def test_who_has_left_is_told_so(state: str, told: str) -> None:
    me, other = bytes([1]) * 32, Validator(bytes([2]) * 32, bytes([2]) * 32, 1)
    records = State(DictBase())
    records.put(Seat(me, 3, me, me, state, 0, 7, 0, 0))
    rooms = quorums.Quorums(SimpleNamespace(state=lambda: records, me=me))  # type: ignore[arg-type]
    assert rooms.left(ValidatorSet((other,))).startswith(told)
    assert (rooms.left(ValidatorSet((other,))) == "") == (told == "")
    still = ValidatorSet((Validator(me, me, 1), other))
    assert rooms.left(still) == "", "it decides the next block"


def test_who_comes_back_calls_the_quorum_as_before(home: Path) -> None:
    dao = Dao(Home.open(home))
    bundle = dao.store.bundle
    before = dao.home.config["ledgers"][dao.ledger_path().stem]
    assert dao.groups.name_for(bundle) == before
    assert dao.groups.name_for(bundle, "another") == "another"
    own = next(name for stem, name in dao.home.config["ledgers"].items() if stem != dao.ledger_path().stem)
    assert dao.groups.name_for(bundle, own) == f"{own}-2"


def test_a_group_is_not_half_recovered_while_its_node_runs(home: Path) -> None:
    box = Home.open(home)
    before = sorted(box.ledgers_folder.glob("*.db"))
    with box.driving(Dao(box).ledger_path(), 0):
        ran = run("quorum", "recover", "--quorum", "lan", "--yes", home=home)
    assert ran.code == 8 and "idao node stop" in ran.err
    assert sorted(box.ledgers_folder.glob("*.db")) == before
    assert "--quorum NAME" in must("quorum", "recover", home=home).err
    must("quorum", "recover", "--quorum", "lan", "--yes", home=home)
    assert must("quorum", "status", "--json", home=home).json["name"] == "lan-r1"


def test_a_bond_is_told_of_this_stay(home: Path) -> None:
    """Who leaves a second time is told when its present bond is free, not the one of its first stay."""
    me = Dao.open(home).me
    records, early = State(DictBase()), Bond(me, 3, me, 5, 0, 100, 1, 1)
    records.put(early)
    records.put(replace(early, term=9, amount=7, free=900))
    records.put(Seat(me, 9, me, me, membership.ACTIVE, 1, 10, 0, 0))
    group = SimpleNamespace(bundle=SimpleNamespace(genesis=SimpleNamespace(kind=genesis.GROUP)))
    dao = SimpleNamespace(state=lambda: records, me=me, quorum=me, submit=lambda bodies: None, store=group)
    assert Joining(dao).leave()["bond"] == "7"  # type: ignore[arg-type]


@pytest.mark.parametrize("online, armed, told", [
    (3, False, "nothing waits: an idle quorum makes no blocks"),
    (2, False, "2 of 4 are online: too few to decide; nothing waits"),
    (2, True, "2 of 4 are online: too few to decide"),
    (3, True, "deciding height 7, view 0"),
])  # fmt: skip
def test_too_few_are_told_also_where_nothing_waits(online: int, armed: bool, told: str) -> None:
    status, now = {"founder_mode": False, "size": 4}, {"height": 7, "armed": armed}
    assert insight.Insight._verdict(status, {"online": online}, now, []) == told


def test_who_is_there_and_stays_carries_a_change_through() -> None:
    a, b, c, d = (Validator(bytes([n]) * 32, bytes([n]) * 32, 1) for n in range(4))
    now, after = ValidatorSet((a, b, c, d)), ValidatorSet((b, c, d))
    everybody = {v.idao for v in now.validators}
    assert carrier(now, after, everybody) == b.idao, "the first one leaves"
    assert carrier(now, after, everybody - {b.idao}) == c.idao, "the second one is away"
    assert carrier(now, after, {a.idao}) == a.idao
    assert carrier(now, after, set()) is None


def test_times_to_finality_are_counted_by_size() -> None:
    latency = metrics.Latency()
    for tx, took in ((b"a", 0.004), (b"b", 0.03), (b"c", 60.0)):
        latency.begin(tx, 1.0)
        latency.begin(tx, 1.0 + took / 2)  # offered again
        latency.end(tx, 1.0 + took)
    latency.end(b"of another home", 2.0)
    text = "\n".join(latency.lines("x", 'q="1"'))
    for line in ('x_bucket{q="1",le="0.005"} 1', 'x_bucket{q="1",le="0.05"} 2', 'x_bucket{q="1",le="10"} 2',
                 'x_bucket{q="1",le="+Inf"} 3', 'x_count{q="1"} 3'):  # fmt: skip
        assert line in text
    for n in range(metrics.WATCHED_MAX + 5):
        latency.begin(n.to_bytes(4, "big"), 0.0)
    latency.end((0).to_bytes(4, "big"), 1.0)
    assert sum(latency.counts) == 3, "the oldest made room"


def test_a_newcomer_is_called_as_it_says_unless_that_is_another(home: Path) -> None:
    people = Dao.open(home).people
    a, b, c = (bytes([n]) * 32 for n in (1, 2, 3))
    assert people.name_for(a, "", "bob") == "bob"
    people.add_name("bob", show_id("idao", a))
    assert people.name_for(a, "", "someone else") == "bob", "who has a name keeps it"
    assert people.name_for(b, "", "bob") == "bob-2"
    assert people.name_for(b, "", "ana") == "ana-2", "nobody is called as this home is"
    assert people.name_for(b, "", "me") == "me-2"
    assert people.name_for(b, "", "b\u043eb of the clinic") == "b-b-of-the-clinic", (
        "no letters that look alike"
    )
    assert people.name_for(b, "", "\u202e!?") is None
    assert people.name_for(c, "cleo", "bob") == "cleo"
    with pytest.raises(UsageError):
        people.name_for(c, "bob", "")
    assert Home.open(home).get("idao", "name") == "ana"


def test_a_damaged_ledger_stops_no_chore_of_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Dao.open(home).ledger_path().stem
    for name in ("a" * 52, "7" * 52):  # one before, one behind, whatever the group's id
        (home / "ledgers" / f"{name}.db").write_bytes(b"no database" * 1000)
    assert [there.ledger_path().stem for there in chores._groups(Dao.open(home))] == [group]
    looked: list[str] = []
    monkeypatch.setattr(Tee, "waiting", lambda tee: looked.append(tee._dao.ledger_path().stem))
    monkeypatch.setattr(Tee, "appraise_others", lambda tee: tee._dao.store and 0)
    monkeypatch.setattr(Tee, "keep", lambda tee: 0)
    with pytest.raises(IdaoError, match=r"damaged|not a file"):
        Reattest(Dao.open(home))()
    assert group in looked


def test_a_chore_that_fails_in_one_group_is_done_in_the_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    must("quorum", "create", "--name", "second", home=home)
    looked: list[bytes] = []

    def refuse(self: Joining) -> bool:
        looked.append(self._dao.quorum)
        raise IdaoError("not now")

    monkeypatch.setattr(Joining, "activate", refuse)
    with pytest.raises(IdaoError, match="not now"):
        chores.take_seats(Dao.open(home))
    assert len(set(looked)) == 2


def test_a_dry_run_admits_nobody(home: Path, tmp_path: Path) -> None:
    must("init", "--name", "bob", "--no-passphrase", home=tmp_path / "bob")
    dao, bob = Dao.open(home), Dao.open(tmp_path / "bob")
    history, who, seat = bob.home.history(), bob.actor(), Signer(bytes(32))
    steps: list[tuple[str, Any]] = [
        ("idao.register", Register(history.inception, history.events)),
        ("quorum.join", Join(seat.public, seat.sign_possession(dao.quorum, bob.me), b"t" * 32)),
    ]
    dao.pass_on([signed(who, dao.quorum, 0, n, *step) for n, step in enumerate(steps, 1)])
    accept = ("quorum", "accept", "--member", show_id("idao", bob.me), "--json")
    before = Dao.open(home).store.height
    dry = must(*accept, "--dry-run", home=home).json
    validator("quorum accept").validate(dry)
    assert dry["idao"] == show_id("idao", bob.me) and dry["dry_run"]
    assert Dao.open(home).store.height == before
    assert must(*accept, home=home).json["seat"] in ("pending", "active")
    assert run(*accept, "--dry-run", home=home).code == 4  # it asks no more


def test_a_fault_is_reported_until_the_ledger_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that met another change of the set, or a ledger that could not be read, was the last one."""
    recorded, queued, sent = set(), [], []
    monkeypatch.setattr(chores, "is_recorded", lambda state, fault: fault in recorded)
    broken: list[IdaoError] = [IdaoError("not now")]

    def submit(bodies: list[Any]) -> None:
        if broken:
            raise broken.pop()
        sent.append(bodies[0][1].fault)

    there = SimpleNamespace(state=lambda: None, queued=lambda: queued, submit=submit)
    seen: list[tuple[bytes, Any]] = [(bytes(32), "a lie"), (bytes(32), "another")]
    taken = iter([seen])
    report = chores.Report(SimpleNamespace(on=lambda name: there), lambda: next(taken, []))  # type: ignore[arg-type]
    with pytest.raises(IdaoError):
        report()
    assert sent == ["another"], "one that fails does not take the others with it"
    recorded.add("another")
    queued.append(SimpleNamespace(envelope=SimpleNamespace(kind="fault.report")))
    report()
    assert sent == ["another"], "one waits"
    queued.clear()
    report()
    report()
    assert sent == ["another", "a lie", "a lie"], "it was refused, and is sent again"
    for _ in range(chores.TRIES + 5):
        report()
    assert sent.count("a lie") == chores.TRIES - 1, "but not for ever"
