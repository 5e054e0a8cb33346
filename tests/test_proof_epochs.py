"""Proofs and audits of a quorum whose validators change: each set's word for the next, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from group_world import BORN, GroupWorld, group_of, hashed, person
from test_membership_changes import REST, rotate_body

from idao import proof
from idao.crypto import canonical, note
from idao.crypto.certificates import make_certificate, verify_certificate, votes_in
from idao.crypto.hashing import validators_hash
from idao.errors import Refused, VerificationFailed
from idao.hall.proofs import Demands, Proofs, verify
from idao.ledger import epochs, genesis, succession
from idao.ledger.membership import Leave, SetPower
from idao.model import NOTARIZE, SignedVote, Validator, ValidatorSet, Vote, show_id
from idao.store.audit import audit
from idao.store.cosigns import Cosigned, put
from idao.store.ledger import LedgerStore

DAY = 24 * 3600 * 1000
SOON = BORN + DAY


class Home:
    """As much of a `Dao` as proofs of transactions need."""

    wait_s = 0.0

    def __init__(self, store: LedgerStore) -> None:
        self.store, self.state = store, store.state


def stored(tmp_path: Path) -> GroupWorld:
    bundle = group_of()
    stem = show_id("quorum", genesis.quorum_id(bundle.genesis)).removeprefix("quorum:")
    return GroupWorld(bundle, LedgerStore.create(tmp_path / f"{stem}.db", bundle))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> GroupWorld:
    """Five epochs: the founder's, four, bob's new key, eve beside them, ann gone."""
    world = stored(tmp_path_factory.mktemp("grown")).grow("bob", "cyd", "dan")
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 1)) == ""
    world.admit("eve", yes=REST)
    world.activate("eve")
    assert world.do("ann", "quorum.leave", Leave()) == ""
    for _ in range(3):
        world.step(signers=("bob", "cyd", "dan", "eve"))
    assert epochs.newest(world.state).epoch == 4
    return world


@pytest.fixture(scope="module")
def made(grown: GroupWorld) -> bytes:
    """A proof of the first transaction, against the newest anchor."""
    first = grown.blocks[0][2][0]
    return Proofs(Home(grown.store)).make(show_id("tx", first.tx))[1]  # type: ignore[arg-type]


def judged(data: bytes, now: int = SOON, **demands: Any) -> dict[str, Any]:
    return verify(data, [], Demands(**demands), now)


def failed(data: bytes, now: int = SOON, **demands: Any) -> list[str]:
    return [c["name"] for c in judged(data, now, **demands)["checks"] if not c["ok"]]


def change(data: bytes, **fields: Any) -> bytes:
    return proof.dump(replace(proof.parse(data), **fields))


def edit(data: bytes, n: int, **fields: Any) -> bytes:
    links = list(proof.parse(data).lineage)
    links[n] = replace(links[n], **fields)
    return change(data, lineage=tuple(links))


def test_a_proof_leads_through_every_set(grown: GroupWorld, made: bytes) -> None:
    result = judged(made, trust=[show_id("quorum", grown.quorum)], require=["trusted"])
    assert result["ok"] and result["trusted"], result["checks"]
    assert result["anchor"]["epoch"] == 4
    assert (result["anchor"]["cosigners"], result["anchor"]["power"]) == (4, 4)
    assert "4 change(s)" in next(c["detail"] for c in result["checks"] if c["name"] == "lineage")
    assert (result["oldest_set"]["epoch"], result["oldest_set"]["age_days"]) == (0, 1)
    assert result["warnings"] == []


def test_every_link_counts(made: bytes) -> None:
    links = proof.parse(made).lineage
    assert len(links) == 4
    assert "lineage" not in failed(made)
    for n in range(4):
        assert "lineage" in failed(change(made, lineage=links[:n] + links[n + 1 :])) or n == 3, n
    assert "anchor" in failed(change(made, lineage=links[:3]))
    assert "lineage" in failed(change(made, lineage=(*links, links[3])))
    assert "lineage" in failed(change(made, lineage=(links[1], links[0], *links[2:])))


def test_a_link_is_the_word_of_the_set_before(grown: GroupWorld, made: bytes) -> None:
    links = proof.parse(made).lineage
    eve = person("eve")
    # Another set than the one the header names.
    usurper = canonical.pack(ValidatorSet((Validator(eve.idao, eve.validator().public, 1),)))
    assert "lineage" in failed(edit(made, 1, members=usurper))
    # A header that names it, with a finalization of the true one.
    forged = replace(
        links[1].header, next_validators=validators_hash(canonical.unpack(ValidatorSet, usurper))
    )
    assert "lineage" in failed(edit(made, 1, header=forged, members=usurper))
    # Decided by too few, or by others.
    c = links[1].certificate
    validators = grown.validators(links[1].header.height)
    few = make_certificate(c.vote, votes_in(c)[:2], validators)
    assert "lineage" in failed(edit(made, 1, certificate=few))
    assert "lineage" in failed(edit(made, 1, certificate=replace(c, signatures=c.signatures[::-1])))
    # A notarization is no decision, although the same members signed it.
    vote = replace(c.vote, kind=NOTARIZE)
    votes = [SignedVote(vote, i, key.sign_vote(vote)) for i, key in grown._who(validators, None)]
    notarized = make_certificate(vote, votes, validators)
    assert verify_certificate(notarized, validators)
    assert "lineage" in failed(edit(made, 1, certificate=notarized))


def test_a_block_that_changes_nothing_is_no_link(grown: GroupWorld, made: bytes) -> None:
    """Else an old set could count up the epochs until its checkpoint looks like a later one's."""
    links = proof.parse(made).lineage
    header, certificate = grown.store.decided(1)  # type: ignore[union-attr]
    same = proof.Link(header, certificate, canonical.pack(grown.validators(1)))
    assert "lineage" in failed(change(made, lineage=(same, *links)))


def test_an_old_set_cannot_anchor_later(grown: GroupWorld, made: bytes) -> None:
    parsed = proof.parse(made)
    tlog = note.parse_tlog_proof(parsed.tlog)
    text = replace(note.parse_checkpoint(tlog.note.text), epoch=0).text()
    old = replace(
        tlog, note=note.Note(text, (note.cosignature(person("ann").validator(), grown.quorum, text, 9),))
    )
    assert {"anchor"} <= set(failed(change(made, tlog=str(old), lineage=())))


def test_trust_ages_with_the_set_it_begins_at(grown: GroupWorld, made: bytes, tmp_path: Path) -> None:
    late = BORN + 40 * DAY
    warned = judged(made, late)
    assert warned["ok"] and warned["oldest_set"]["age_days"] == 40
    assert any("epoch 0" in w and "--trust" in w for w in warned["warnings"])
    # A later checkpoint of a set on the way, cosigned when it was in office.
    height = epochs.newest(grown.state).start
    file = tmp_path / "checkpoint"

    def named(height: int, at_ms: int, **changed: Any) -> list[str]:
        c = replace(note.parse_checkpoint(grown.notes[height].text), **changed)
        lines = tuple(
            note.cosignature(s, grown.quorum, c.text(), at_ms // 1000)
            for _, s in grown._who(grown.validators(height), None)
        )
        file.write_text(str(note.Note(c.text(), lines)))
        return [str(file)]

    fresh = judged(made, late, trust=named(height, late - DAY))
    assert fresh["ok"] and fresh["trusted"] and fresh["warnings"] == []
    assert (fresh["oldest_set"]["epoch"], fresh["oldest_set"]["age_days"]) == (4, 1)
    stale = judged(made, late, trust=named(height, late - 20 * DAY))
    assert stale["ok"] and any("epoch 4, known for 20 days" in w for w in stale["warnings"])
    # One that names other validators for an epoch of this proof tells of a fork.
    forked = judged(made, late, trust=named(height - 1, late - DAY, validators=hashed("others"), epoch=4))
    assert not forked["ok"] and "fork" in next(c["detail"] for c in forked["checks"] if c["name"] == "trust")
    # A time that no member of that set signed does not count.
    file.write_text(str(note.Note(grown.notes[height].text, (_foreign(grown, height, late),))))
    assert judged(made, late, trust=[str(file)])["oldest_set"]["epoch"] == 0


def _foreign(world: GroupWorld, height: int, at_ms: int) -> note.SignatureLine:
    return note.cosignature(person("ann").validator(), world.quorum, world.notes[height].text, at_ms // 1000)


def test_nothing_is_proven_against_a_head_that_is_not_anchored(tmp_path: Path) -> None:
    world = stored(tmp_path)
    world.register("bob")
    first = world.blocks[0][2][0]
    world.step()
    world.store.db.execute("delete from checkpoint where height = 2")  # type: ignore[union-attr]
    with pytest.raises(Refused, match="not anchored yet"):
        Proofs(Home(world.store)).make(show_id("tx", first.tx))  # type: ignore[arg-type]


def test_a_set_that_comes_again_is_another_epoch(tmp_path: Path) -> None:
    """A weight that is raised and lowered again: leaving both links out must not look the same."""
    world = stored(tmp_path).grow("bob", "cyd", "dan")
    for name in ("eve", "fay"):
        world.admit(name, yes=(*REST, "dan"))
        world.activate(name)
    before = epochs.newest(world.state)
    for power in (2, 1):
        raised = ("validator.power", SetPower(person("bob").idao, power))
        assert world.decide("ann", raised, yes=(*REST, "dan")) == ""
    world.step()
    world.step()
    after = epochs.newest(world.state)
    assert (after.hash, after.epoch) == (before.hash, before.epoch + 2)
    store = world.store
    assert store is not None
    made = Proofs(Home(store)).make(show_id("tx", world.blocks[0][2][0].tx))[1]  # type: ignore[arg-type]
    assert failed(made) == []
    short = proof.parse(made).lineage[:-2]
    assert "anchor" in failed(change(made, lineage=short))
    parent, ancestry = store.ancestry()
    heir = replace(world.bundle.genesis, parent=parent)
    assert succession.judge(heir, world.quorum, ancestry).validators == 6
    with pytest.raises(VerificationFailed, match="another epoch"):
        succession.judge(heir, world.quorum, replace(ancestry, lineage=short))
    for orphan, old in ((replace(heir, parent=None), world.quorum), (heir, hashed("another"))):
        with pytest.raises(VerificationFailed, match="another quorum"):
            succession.judge(orphan, old, ancestry)


# --- audit ----------------------------------------------------------------------------------------


def findings(world: GroupWorld) -> list[str]:
    report = audit(world.store.path)  # type: ignore[union-attr]
    return [f"{where}: {what}" for where, what in report.findings]


def test_an_audit_of_many_epochs(grown: GroupWorld) -> None:
    assert findings(grown) == []


def test_an_audit_judges_each_block_by_its_own_set(tmp_path: Path) -> None:
    world = stored(tmp_path).grow("bob", "cyd", "dan")
    store = world.store
    assert store is not None
    height = world.tip.height
    assert findings(world) == []
    # A finalization by the founder alone, which was enough two epochs ago.
    good = store.decided(height)[1]
    alone = world.certify(world.validators(height), height, good.vote.digest, ("ann",))
    _set(store, height, alone)
    assert any("finalization is not of this validator set" in f for f in findings(world))
    # By other members, of enough power: as good.
    _set(
        store,
        height,
        world.certify(world.validators(height), height, good.vote.digest, ("ann", "bob", "dan")),
    )
    assert findings(world) == []
    _set(store, height, good)
    # A note with fewer cosigners, still enough; and with too few.
    signed = world.notes[height]
    for count, ok in ((3, True), (2, False)):
        thin = note.Note(signed.text, signed.signatures[:count])
        store.put_checkpoint(height, note.parse_checkpoint(signed.text).size, str(thin))
        assert (findings(world) == []) is ok
    store.put_checkpoint(height, note.parse_checkpoint(signed.text).size, str(signed))
    # Whoever was away for a height holds a later anchor over it.
    store.db.execute("delete from checkpoint where height = ?", (height - 1,))
    assert findings(world) == []


def _set(store: LedgerStore, height: int, certificate: Any) -> None:
    store.db.execute(
        "update block set certificate = ? where height = ?", (canonical.pack(certificate), height)
    )


def test_an_audit_knows_the_journal_and_the_cosignatures(tmp_path: Path) -> None:
    world = stored(tmp_path).grow("bob", "cyd", "dan")
    store, height = world.store, world.tip.height
    assert store is not None
    ann = person("ann").validator()
    vote = Vote(3, world.quorum, height, 0, world.tip.header)
    store.put_sign(vote, "T", ann.sign_vote(vote))
    text = world.notes[height].text
    mine = Cosigned(
        height, ann.public, note.log_signature(ann, world.quorum, text).signature, 7,
        note.cosignature(ann, world.quorum, text, 7).signature[8:],
    )  # fmt: skip
    put(store.db, mine)
    assert findings(world) == []
    assert world.do("ann", "quorum.rotate", rotate_body(world, "ann", 1)) == ""
    for _ in range(3):
        world.step()
    assert findings(world) == [], "signed by a key that has been rotated since"
    store.db.execute("update cosign set time_s = 8")
    assert findings(world) == [f"cosignature {height}: is not one of this validator set"]
    store.db.execute("update cosign set time_s = 7")
    store.db.execute("update sign set height = ?", (world.tip.height,))
    assert any("journal" in f for f in findings(world))
