"""Members, trust links and petnames from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_person import Person, alone, founded, three, three_homed

from idao.crypto import canonical
from idao.dao import Dao
from idao.errors import Refused
from idao.ledger.governance import Proposal
from idao.ledger.idao import TRUST_LINKS_MAX, AddTrust, Identity, Member, TrustLink
from idao.ledger.state import DictBase, State
from idao.ledger.tx import Context
from idao.model import parse_id, show_id

__all__ = ["alone", "founded", "three", "three_homed"]

STRANGER = "idao:" + "a" * 52


def members(person: Person) -> dict[str, dict[str, object]]:
    return {m["name"]: m for m in person.reads("member", "list")["members"]}


# --- members --------------------------------------------------------------------------------------


def test_one_command_adds_a_member_alone(alone: Person) -> None:
    said = alone.runs("member", "add", "ana", "--weight", "3")
    assert "state     executed" in said.out and "the key of 'ana' is in this home" in said.err
    ana = members(alone)["ana"]
    assert ana == {**ana, "member": said.id, "role": "member", "weight": 3, "key_here": True}
    assert alone.votes(alone.proposes("a title", "--as", "ana"), "yes", "ana") == "open"
    assert alone.reads("audit")["ok"]


def test_where_others_decide_it_waits_for_them(three: Person) -> None:
    data = three.reads("member", "add", "dora", "--role", "owner")
    assert data["state"] == "open" and data["tally"]["yes"] == 1 and "dora" not in members(three)
    again = three.reads("member", "add", "dora", "--role", "owner")
    assert again == data  # no second vote on the same
    assert three.votes(data["proposal"], "yes", "bob") == "executed"
    assert members(three)["dora"]["member"] == data["member"]


def test_a_member_has_a_key_of_their_own(three: Person) -> None:
    keys = {i.key for i in three.dao().state().scan(Identity)}
    assert len(keys) == 3
    kept = sorted(p.name for p in (three.home / "keys" / "members").iterdir())
    assert kept == ["ana.history", "ana.key", "bob.history", "bob.key"]
    assert {(three.home / "keys" / "members" / name).stat().st_mode & 0o077 for name in kept} == {0}


@pytest.mark.parametrize("stage", ["idao.register", "gov.propose", "gov.vote"])
def test_a_crash_leaves_nothing_that_another_try_does_not_finish(
    alone: Person, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Dao.submit

    def crash(self: Dao, bodies: list[tuple[str, object]], *rest: object) -> object:
        if bodies and bodies[0][0] == stage:
            raise KeyboardInterrupt
        return real(self, bodies, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Dao, "submit", crash)
    assert alone.types("member", "add", "ana").code == 130
    monkeypatch.setattr(Dao, "submit", real)
    ana = alone.runs("member", "add", "ana").id
    assert members(alone)["ana"]["member"] == ana
    assert len(list(alone.dao().state().scan(Identity))) == 2
    assert [p["state"] for p in alone.reads("proposal", "list")["proposals"]] == ["executed"]


def test_an_idao_that_is_not_on_the_ledger_is_refused(alone: Person) -> None:
    error = alone.fails(5, "unknown-idao", "member", "add", "zoe", "--id", STRANGER)
    assert "registered" in error["hint"]
    assert alone.reads("name", "list") == {"names": []}


def test_removing_asks_and_keeps_the_key(alone: Person) -> None:
    ana = alone.runs("member", "add", "ana").id
    alone.fails(2, "confirm", "member", "remove", "ana")
    assert alone.runs("member", "remove", "ana", "--dry-run").out == f"would remove {ana}\n"
    data = alone.reads("member", "remove", "ana", "--yes")
    assert data["state"] == "open" and data["member"] == ana  # of two, one more must agree
    assert alone.votes(data["proposal"], "yes", "ana") == "executed"
    assert list(members(alone)) == ["clinic"]
    alone.fails(4, "not-found", "member", "remove", "ana", "--yes")
    assert alone.runs("member", "add", "ana", "--role", "observer").id == ana
    assert members(alone)["ana"]["role"] == "observer"


def test_the_last_owner_stays(three: Person) -> None:
    three.fails(5, "last-owner", "member", "remove", "me", "--yes")
    three.fails(5, "last-owner", "member", "remove", "me", "--dry-run")


def test_dry_run_of_adding(alone: Person) -> None:
    before = alone.files()
    assert "a new identity" in alone.runs("member", "add", "ana", "--dry-run").out
    assert alone.reads("member", "add", "zoe", "--id", STRANGER, "--dry-run")["member"] == STRANGER
    assert alone.files() == before
    ana = alone.runs("member", "add", "ana").id
    alone.fails(5, "already-member", "member", "add", "ana", "--id", ana, "--dry-run")


@pytest.mark.parametrize("name", ["me", "stake", "../up", "idao:x", "", "x" * 65, "-x", "a b", "a\n"])
def test_bad_names(alone: Person, name: str) -> None:
    alone.fails(2, "usage", "member", "add", "--", name)
    alone.fails(2, "usage", "name", "add", "--", name, STRANGER)


def test_bad_roles_and_weights(alone: Person) -> None:
    error = alone.fails(2, "usage", "member", "add", "ana", "--role", "boss")
    assert error["hint"] == "one of: owner, member, observer"
    alone.fails(2, "usage", "member", "add", "ana", "--weight", "-1")
    alone.fails(2, "usage", "member", "add", "ana", "--weight", str(2**31 + 1))
    alone.fails(2, "usage", "member", "add", "ana", "--id", "idao:abc")
    assert not (alone.home / "keys" / "members").exists()


# --- trust ----------------------------------------------------------------------------------------


def test_who_makes_a_quorum_trusts_it(alone: Person) -> None:
    quorum = show_id("quorum", alone.dao().quorum)
    assert alone.reads("trust", "list") == {
        "trust": [
            {"quorum": quorum, "name": "clinic", "kinds": [], "categories": [], "weight": 1, "since": 0}
        ]
    }


def test_trust_is_scoped_and_can_be_changed_and_taken_back(alone: Person) -> None:
    other = "quorum:" + "a" * 52
    scope = ("--kind", "model", "--kind", "dataset", "--kind", "model", "--category", "medical")
    assert alone.runs("trust", "add", other, *scope, "--weight", "7", "-q").out == f"{other}\n"
    link = alone.dao().state().get(TrustLink, alone.dao().me, parse_id("quorum", other))
    assert link is not None
    assert (link.kinds, link.categories, link.weight) == (("dataset", "model"), ("medical",), 7)
    alone.runs("name", "add", "team", other)
    data = alone.reads("trust", "add", "team")
    assert (data["name"], data["kinds"], data["weight"]) == ("team", [], 1)
    alone.fails(2, "confirm", "trust", "remove", "team")
    assert alone.reads("trust", "remove", "team", "--dry-run")["removed"] is False
    assert alone.runs("trust", "remove", "team", "--yes").id == other
    alone.fails(4, "not-found", "trust", "remove", "team", "--yes")
    assert alone.runs("trust", "list", "-q").out == f"{show_id('quorum', alone.dao().quorum)}\n"
    assert alone.reads("audit")["ok"]


def test_bad_trust(alone: Person) -> None:
    before = alone.files()
    alone.fails(4, "not-found", "trust", "add", "nobody")
    alone.fails(4, "not-found", "trust", "add", STRANGER)
    alone.fails(2, "usage", "trust", "add", "clinic", "--kind", "datasett")
    alone.fails(2, "usage", "trust", "add", "clinic", "--category", "two words")
    alone.fails(2, "usage", "trust", "add", "clinic", "--weight", "0")
    assert alone.reads("trust", "add", "clinic", "--weight", "9", "--dry-run")["weight"] == 9
    assert alone.files() == before


def _trust(state: State, body: AddTrust) -> None:
    from idao.ledger.registry import KINDS

    KINDS["trust.add"].apply(Context(state, bytes(32), 5, 9, b"i" * 32, bytes(32), 1, (), bytes(32)), body)


def test_the_ledger_bounds_trust() -> None:
    state = State(DictBase())
    for n in range(TRUST_LINKS_MAX):
        _trust(state, AddTrust(n.to_bytes(32, "big"), (), (), 1))
    for code, body in (
        ("too-many-links", AddTrust(b"q" * 32, (), (), 1)),
        ("scope", AddTrust(bytes(32), ("model", "dataset"), (), 1)),
        ("scope", AddTrust(bytes(32), (), ("text", "text"), 1)),
    ):
        with pytest.raises(Refused) as refused:
            _trust(state, body)
        assert refused.value.code == code
    _trust(state, AddTrust(bytes(32), (), (), 2))
    assert sum(link.weight for link in state.scan(TrustLink)) == TRUST_LINKS_MAX + 1


# --- petnames -------------------------------------------------------------------------------------


def test_names_stand_for_ids_of_any_kind(alone: Person) -> None:
    for name, kind in (("zoe", "idao"), ("team", "quorum"), ("rides", "asset"), ("Zoë_2", "dat")):
        assert alone.runs("name", "add", name, f"{kind}:{'a' * 52}").id == f"{kind}:{'a' * 52}"
    alone.runs("name", "add", "zoe", STRANGER)  # the same again changes nothing
    assert [n["kind"] for n in alone.reads("name", "list")["names"]] == ["dat", "asset", "quorum", "idao"]
    error = alone.fails(2, "usage", "name", "add", "zoe", "idao:" + "b" * 51 + "a")
    assert error["hint"].endswith("idao name remove zoe")
    alone.fails(2, "usage", "name", "add", "zoe", "idao:" + "b" * 51 + "a", "--dry-run")
    alone.fails(2, "usage", "name", "add", "x", "clinic:" + "a" * 52)
    alone.fails(2, "usage", "name", "add", "x", "idao:aaaaaa")
    alone.fails(2, "confirm", "name", "remove", "zoe")
    assert alone.reads("name", "remove", "zoe", "--dry-run")["removed"] is False
    assert alone.runs("name", "remove", "zoe", "--yes", "-q").out == f"{STRANGER}\n"
    alone.fails(4, "not-found", "name", "remove", "zoe", "--yes")


def test_petnames_never_reach_the_ledger(alone: Person) -> None:
    alone.runs("member", "add", "secretname")
    alone.types("member", "remove", "secretname", "--yes")
    alone.runs("name", "add", "othersecret", show_id("quorum", alone.dao().quorum))
    alone.runs("trust", "add", "othersecret", "--weight", "2")
    assert all("name" not in p.title for p in alone.dao().state().scan(Proposal))
    ledger = b"".join(p.read_bytes() for p in sorted((alone.home / "ledgers").iterdir()))
    assert b"secret" not in ledger


def test_a_name_taken_by_another_is_not_given_to_a_member(alone: Person) -> None:
    alone.runs("name", "add", "ana", STRANGER)
    before = alone.files()
    alone.fails(2, "usage", "member", "add", "ana")
    assert alone.files() == before


def test_a_quorums_record_of_trust_is_in_the_wire_format() -> None:
    body = AddTrust(bytes(32), ("dataset",), (), 3)
    assert canonical.unpack(AddTrust, canonical.pack(body)) == body


def test_a_member_without_a_key_here_is_shown_as_elsewhere(three: Person, tmp_path: Path) -> None:
    for kept in (three.home / "keys" / "members").iterdir():
        kept.rename(tmp_path / kept.name)
    assert [m["key_here"] for m in members(three).values()].count(True) == 1
    assert sum(1 for _ in three.dao().state().scan(Member)) == 5


def test_every_name_that_is_listed_is_understood(three: Person) -> None:
    """What `member list` shows can be typed into `member remove`."""
    for member in three.reads("member", "list")["members"]:
        said = three.types("--json", "member", "remove", member["name"], "--yes", "--dry-run")
        assert said.code == 0 or "last-owner" in said.err, said
