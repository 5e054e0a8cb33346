"""`idao contribute` chooses among the quorums of a home, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import Ran, last, must, run

from idao import identity
from idao.crypto import keys, phrase
from idao.crypto.hashing import digest
from idao.dao import Dao
from idao.frozen import replace
from idao.hall import routing
from idao.hall.routing import trust_links
from idao.home import Home, now_ms
from idao.ledger import charter, genesis, idao
from idao.ledger.assets import Asset, AssetVersion
from idao.ledger.dats import Class, Dat
from idao.ledger.state import DictBase, State
from idao.model import Genesis, Inception, Validator, ValidatorSet, show_id
from idao.quorum.coordinator import STALLED_MS, Interests
from idao.store.ledger import LedgerStore


def outsider(n: int) -> tuple[Inception, keys.Signer, bytes]:
    """(inception, identity key, validator key) of somebody else."""
    seed = phrase.seed_from(phrase.phrase_from(bytes([n]) * 32))
    validator = keys.Signer(digest(idao.Kind.MACHINE, bytes([n]))).public
    return identity.incept(seed), keys.Signer(phrase.first_key(seed)), validator


def group(home: Path, name: str, others: int, *, me: bool = True) -> str:
    """A group ledger in the home, founded by its owner (unless `me` is false) and by `others`. Its id."""
    opened = Home.open(home)
    own = opened.unlock(None)
    history = opened.history()
    parts = [outsider(n + 1) for n in range(others)]
    founders = [(inception, (), signer, key) for inception, signer, key in parts]
    if me:
        founders.append((history.inception, history.events, own.identity, own.validator.public))
    founders.sort(key=lambda f: identity.idao_id(f[0]))
    rules = charter.encode(charter.defaults())
    made = Genesis(
        v=1,
        kind=genesis.GROUP,
        nonce=digest(idao.Kind.MACHINE, name.encode()),
        formats=genesis.FORMATS,
        time_ms=now_ms(),
        name=name,
        validators=ValidatorSet(tuple(Validator(identity.idao_id(f[0]), f[3], 1) for f in founders)),
        stake=tuple((identity.idao_id(f[0]), 1000) for f in founders),
        charter=idao.charter_hash(rules),
        recovery_threshold=1,
        recovery_keys=(founders[0][2].public,),
        parent=None,
    )
    signed = tuple(genesis.Founder(f[0], f[1], f[2].sign_genesis(made)) for f in founders)
    bundle = genesis.Bundle(made, rules, signed)
    genesis.check_bundle(bundle)
    quorum = show_id("quorum", genesis.quorum_id(made))
    stem = quorum.partition(":")[2]
    LedgerStore.create(home / "ledgers" / f"{stem}.db", bundle).close()
    opened.config["ledgers"][stem] = name
    opened.save_config()
    return quorum


@pytest.fixture
def home(tmp_path: Path) -> Path:
    must("init", "--name", "ana", "--no-passphrase", home=tmp_path / "home")
    (tmp_path / "rides.csv").write_text("trip,metres\n1,1200\n2,900\n3,1430\n")
    (tmp_path / "notes.txt").write_text("a walk along the river, and back before the rain came\n" * 9)
    return tmp_path / "home"


def own(home: Path) -> str:
    return Dao.open(home).on("ana").home.get("quorum", "default", "")


def plan(home: Path, *args: str) -> Ran:
    return run("contribute", home.parent / "rides.csv", "--dry-run", "--json", *args, home=home)


def verdict(ran: Ran, quorum: str) -> dict[str, object]:
    return next(c for c in ran.json["coordinator"]["candidates"] if c["quorum"] == quorum)


def test_alone_it_goes_to_ones_own(home: Path) -> None:
    ran = plan(home)
    assert (ran.json["quorum"], ran.json["coordinator"]["why"]) == (own(home), "only")
    me = must("status", "--json", home=home).json["idao"]
    assert verdict(ran, own(home))["conflicts"] == [{"idao": me, "why": "contributor"}]


def test_a_group_that_can_review_goes_before_ones_own(home: Path) -> None:
    clinic = group(home, "clinic", 3)
    ran = plan(home)
    assert (ran.json["quorum"], ran.json["coordinator"]["why"]) == (clinic, "independent")
    asked = [r for part in verdict(ran, clinic)["rounds"] for r in part]  # type: ignore[attr-defined]
    assert sorted(asked) == sorted(show_id("idao", identity.idao_id(outsider(n)[0])) for n in (1, 2, 3))
    said = must("contribute", home.parent / "rides.csv", "--dry-run", "--why", home=home).out
    assert f"chosen       clinic {clinic}: validators without a conflict" in said
    assert plan(home, "--quorum", "ana").json["coordinator"]["why"] == "named"


def test_no_link_no_submission(home: Path) -> None:
    must("trust", "remove", "ana", "--yes", home=home)
    for args in ((), ("--quorum", "ana")):
        ran = run("contribute", home.parent / "rides.csv", "--json", *args, home=home)
        assert (ran.code, ran.out, ran.error["code"]) == (5, "", "not-trusted")
        assert ran.error["hint"] == f"idao trust add {own(home)}"
    assert must("asset", "list", "--json", home=home).json["assets"] == []
    must("trust", "add", "ana", home=home)
    must("contribute", home.parent / "rides.csv", home=home)


def test_a_scope_is_kept(home: Path) -> None:
    must("trust", "add", "ana", "--category", "text", "--kind", "dataset", home=home)
    ran = run("contribute", home.parent / "rides.csv", "--json", home=home)
    assert (ran.code, ran.error["code"]) == (5, "not-trusted")
    assert ran.error["hint"].startswith(f"idao trust add {own(home)} --category tabular")
    ran = run("contribute", home.parent / "notes.txt", "--kind", "model", "--json", home=home)
    assert "--kind model" in ran.error["hint"]
    must("contribute", home.parent / "notes.txt", home=home)


def test_links_narrow_and_weigh(home: Path) -> None:
    first, second = group(home, "first", 3), group(home, "second", 3)
    assert plan(home).json["coordinator"]["why"] == "id"
    must("trust", "add", second, "--category", "tabular", home=home)
    ran = plan(home, "--category", "tabular")
    assert (ran.json["quorum"], ran.json["coordinator"]["why"]) == (second, "scope")
    assert plan(home, "--category", "medical").json["quorum"] == first
    must("trust", "add", second, "--weight", "3", home=home)
    ran = plan(home)
    assert (ran.json["quorum"], ran.json["coordinator"]["why"]) == (second, "load")
    assert verdict(ran, second)["load"] == "1/3"


def test_a_new_version_stays_with_its_asset(home: Path) -> None:
    rides = home.parent / "rides.csv"
    asset = last("contribute", rides, home=home)
    group(home, "clinic", 3)
    rides.write_text("trip,metres\n1,1200\n2,900\n3,1430\n4,12\n")
    ran = plan(home)
    assert (ran.json["quorum"], ran.json["coordinator"]["why"]) == (own(home), "home")
    done = must("contribute", rides, "--json", home=home).json
    assert (done["asset"], done["version"], done["quorum"]) == (asset, 2, own(home))


def test_what_is_on_another_ledger_is_said_to_be_there(home: Path) -> None:
    """As after `quorum create`: from then on another ledger is what commands mean."""
    asset = last("contribute", home.parent / "rides.csv", "--name", "rides", home=home)
    lan = group(home, "lan", 1)
    for text in ("rides", asset):
        refused = run("mint", text, "--quorum", lan, "--json", home=home)
        assert refused.code == 4
        assert refused.error["hint"] == f"it is on another of your ledgers: --quorum {own(home)}"
    assert (
        run("mint", "strides", "--quorum", lan, "--json", home=home).error["hint"] == "see 'idao asset list'"
    )
    lines = must("status", home=home).out.splitlines()
    assert {line.split()[-2:][1] for line in lines if line.startswith("balance")} == {"lan", "ana"}


def test_it_goes_where_it_was_routed(home: Path) -> None:
    """A group whose only validator is this home is final at once."""
    mine = group(home, "bench", 0)
    must("trust", "add", "bench", "--kind", "model", "--weight", "2", home=home)
    data = must("contribute", home.parent / "notes.txt", "--kind", "model", "--json", home=home).json
    assert (data["quorum"], data["coordinator"]["why"]) == (mine, "scope")
    assert must("--quorum", "bench", "asset", "list", "--json", home=home).json["assets"]
    assert must("asset", "list", "--json", home=home).json["assets"] == []
    lost = run("asset", "show", data["asset"], "--json", home=home)
    assert lost.code == 4 and lost.error["hint"].endswith(f"--quorum {mine}")
    must("--quorum", mine, "asset", "show", data["asset"], home=home)
    said = must("contribute", home.parent / "rides.csv", "--why", home=home)
    assert "passed over  bench" in said.err and "chosen       ana" in said.err


def test_what_waits_for_others_is_signed_once_and_for_one_quorum(home: Path) -> None:
    """No node runs: it waits for the group, says so, and neither goes elsewhere nor is signed again."""
    clinic = group(home, "clinic", 3)
    rides = home.parent / "rides.csv"
    first = run("contribute", rides, "--json", "--wait", "0", home=home)
    assert first.code == 3 and first.json["status"] == "pending" and first.json["quorum"] == clinic
    assert first.json["coordinator"]["why"] == "independent"
    again = run("contribute", rides, "--json", "--wait", "0", home=home)
    assert again.code == 3 and again.json["quorum"] == clinic
    assert (again.json["asset"], again.json["tx"]) == (first.json["asset"], first.json["tx"])
    assert must("asset", "list", "--json", home=home).json["assets"] == []
    said = run("contribute", home.parent / "notes.txt", "--why", "--wait", "0", home=home)
    assert said.code == 3 and f"chosen       clinic {clinic}" in said.err


def test_a_quorum_that_stands_still_loses_its_turn(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic = group(home, "clinic", 3)
    assert run("contribute", home.parent / "rides.csv", "--wait", "0", home=home).code == 3
    assert plan(home, "--name", "other").json["quorum"] == clinic
    later = now_ms() + STALLED_MS
    monkeypatch.setattr("idao.hall.routing.now_ms", lambda: later)
    ran = plan(home, "--name", "other")
    assert (ran.json["quorum"], ran.json["coordinator"]["why"]) == (own(home), "moving")
    assert plan(home, "--quorum", "clinic").json["quorum"] == clinic


def test_a_parent_must_be_on_the_ledger(home: Path) -> None:
    parent = last("contribute", home.parent / "notes.txt", home=home)
    clinic = group(home, "clinic", 3)
    ran = plan(home, "--parent", parent)
    assert ran.json["quorum"] == own(home)
    assert verdict(ran, clinic)["out"] == "parent-elsewhere"
    assert plan(home, "--parent", "nothing-here").code == 4


def test_who_is_not_registered_cannot_submit(home: Path) -> None:
    strange = group(home, "strange", 4, me=False)
    assert verdict(plan(home), strange)["out"] == "not-trusted"
    must("trust", "add", strange, home=home)
    assert verdict(plan(home), strange)["out"] == "not-registered"
    ran = plan(home, "--quorum", "strange")
    assert (ran.code, ran.error["code"]) == (5, "not-registered")


def test_who_gains_is_read_from_the_ledger() -> None:
    """Members either way, owners of parents, owners and holders of classes; the contributor apart."""
    state = State(DictBase())

    def who(n: int) -> bytes:
        return bytes([n]) * 32

    me, mine, parent = who(1), who(50), who(51)
    for n in (2, 3):
        state.put(idao.Member(me, who(n), "member", 1, 0))
    state.put(idao.Member(me, me, "owner", 1, 0))
    state.put(idao.Member(who(4), me, "observer", 1, 0))
    state.put(Asset(mine, me, "dataset", 1, who(99)))
    state.put(Asset(parent, who(5), "dataset", 1, who(99)))
    for n, asset, owner in ((60, mine, me), (61, parent, who(6)), (62, who(52), who(7))):
        state.put(Class(who(n), asset, 1, owner, me, "", me, 0, me, b"", (), 0, 0, 0))
        state.put(Dat(who(n + 10), who(n), asset, 1, me, me, b"", (), who(n - 50), 1, 1, 0, 0, 0, 0))
    validators = ValidatorSet(tuple(Validator(who(n), who(n), 1) for n in (1, 2, 4, 8)))
    found = routing._interests(state, me, validators, {mine, parent})
    assert found == Interests(
        me,
        members=(who(2), who(3)),
        employers=(who(4),),
        parent_owners=(who(5),),
        holders=tuple(sorted({me, who(6), who(10), who(11)})),
    )
    assert routing._interests(state, me, validators, set()).holders == ()


def test_the_load_of_a_quorum_is_what_nobody_has_reviewed(home: Path) -> None:
    dao = Dao.open(home)
    assert routing._backlog(dao.store, dao.state()) == 0
    must("contribute", home.parent / "rides.csv", home=home)
    dao = Dao.open(home)
    assert routing._backlog(dao.store, dao.state()) == 0, "its owner has verified it"
    _, validators = dao.store.validators(dao.store.height + 1)
    assert [v.load for v in routing._reviewers(dao.store, validators)] == [1]
    state = dao.state()
    version = next(iter(state.scan(AssetVersion)))
    state.put(replace(version, verified=False))
    assert routing._backlog(dao.store, state) == 1
    state.put(replace(version, verified=False, independent=1))
    assert routing._backlog(dao.store, state) == 0


def test_a_trusted_quorum_that_was_not_joined(home: Path) -> None:
    far = "quorum:" + "a" * 52
    must("trust", "add", far, "--weight", "100", home=home)
    assert verdict(plan(home), far)["out"] == "not-here" and plan(home).json["quorum"] == own(home)


def test_taking_trust_back_reaches_the_quorums_own_ledger(home: Path) -> None:
    bench = group(home, "bench", 0)
    must("trust", "add", "bench", "--kind", "model", home=home)
    listed = must("trust", "list", "--json", home=home).json["trust"]
    assert [t["kinds"] for t in listed if t["quorum"] == bench] == [["model"]], "one's own ledger decides"
    must("trust", "remove", "bench", "--yes", home=home)
    assert [t["quorum"] for t in must("trust", "list", "--json", home=home).json["trust"]] == [own(home)]
    assert run("trust", "remove", "bench", "--yes", home=home).code == 4


def test_joining_makes_a_link_once(home: Path) -> None:
    dao = Dao.open(home)
    far = b"\7" * 32
    dao.people.trust_joined(far)
    must("trust", "add", show_id("quorum", far), "--kind", "model", home=home)
    Dao.open(home).people.trust_joined(far)
    assert trust_links(Dao.open(home))[far].kinds == ("model",)
