"""A recovered group: by members and recovery keys of the old one, and never taken for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from group_world import BORN, STAKE, GroupWorld, group_of, hashed, person, rules
from test_membership_changes import REST, rotate_body
from test_proof_epochs import Home, judged, stored

from idao import identity
from idao.crypto import canonical, note
from idao.errors import VerificationFailed
from idao.hall.proofs import Proofs
from idao.ledger import epochs, genesis, membership
from idao.ledger.lineage import Link
from idao.ledger.succession import Ancestry, Consent, Supporter, parent_of
from idao.model import Genesis, show_id
from idao.store.audit import audit
from idao.store.ledger import LedgerStore

SURVIVORS = ("bob", "eve")


def links_of(world: GroupWorld, upto: int) -> tuple[Link, ...]:
    links = []
    for n in range(1, upto + 1):
        new = world.state.need(epochs.Epoch, n)
        built, certificate, _ = world.blocks[new.start - 2]
        links.append(Link(built.header, certificate, new.members))
    return tuple(links)


@pytest.fixture(scope="module")
def old() -> GroupWorld:
    """Five validators of a group with two of three recovery keys; ann, cyd and dan are lost."""
    first = group_of()
    keys = tuple(sorted(person(n).recovery.public for n in ("ann", "bob", "eve")))
    made = replace(first.genesis, recovery_threshold=2, recovery_keys=keys)
    founder = replace(first.founders[0], signature=person("ann").signer.sign_genesis(made))
    world = GroupWorld(replace(first, genesis=made, founders=(founder,))).grow("bob", "cyd", "dan")
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 1)) == ""
    world.admit("eve", yes=REST)
    world.activate("eve")
    world.step()
    world.step()
    return world


def ancestry(world: GroupWorld) -> Ancestry:
    return Ancestry(world.bundle.genesis, links_of(world, epochs.newest(world.state).epoch))


def _seated(name: str) -> genesis.Seated:
    return genesis.Seated(person(name).inception, (), person(name).validator(7).public, STAKE)


def draft(world: GroupWorld, names: Sequence[str] = SURVIVORS, **changed: Any) -> Genesis:
    made = genesis.group_genesis(
        name="clinic-lan-r1",
        nonce=hashed("again"),
        time_ms=world.tip.time_ms + 1,
        founders=[
            genesis.Seated(person(n).inception, (), person(n).validator(7).public, STAKE) for n in names
        ],
        rules=rules(),
        recovery_threshold=2,
        recovery_keys=world.bundle.genesis.recovery_keys,
        parent=parent_of(world.quorum, str(world.notes[world.tip.height])),
    )
    return replace(made, **changed)


def signed(made: Genesis, names: Sequence[str] = SURVIVORS) -> list[genesis.Founder]:
    return [genesis.Founder(person(n).inception, (), person(n).signer.sign_genesis(made)) for n in names]


def consents(made: Genesis, names: Sequence[str] = SURVIVORS) -> list[Consent]:
    return [Consent(person(n).recovery.public, person(n).recovery.sign_genesis(made)) for n in names]


def recover(world: GroupWorld, made: Genesis | None = None, **parts: Any) -> genesis.Bundle:
    made = made or draft(world)
    names = parts.pop("names", SURVIVORS)
    given = {"founders": signed(made, names), "consents": consents(made), "before": ancestry(world)} | parts
    return genesis.recovered(made, rules(), **given)


def test_two_of_five_go_on_under_a_new_name(old: GroupWorld) -> None:
    bundle = recover(old)
    behind = genesis.behind(bundle)
    assert behind is not None
    assert (behind.quorum, behind.height, behind.epoch) == (old.quorum, old.tip.height, 3)
    assert (behind.founders, behind.validators, behind.power, behind.total_power) == (2, 5, 2, 5)
    assert str(behind) == "2 of its 5 last validators (power 2 of 5) stand behind it"
    again = canonical.unpack(genesis.Bundle, canonical.pack(bundle))
    genesis.check_bundle(again)
    genesis.check_bundle(again, old.bundle.genesis)
    assert genesis.quorum_id(bundle.genesis) != old.quorum
    # It never is in founder mode, although it has two: founder mode is for a beginning.
    state = genesis.first_state(bundle)
    assert not membership.founder_mode(state)
    assert {s.idao: s.power for s in membership.seats(state)} == {person(n).idao: 1 for n in SURVIVORS}


@pytest.mark.parametrize("names", [("bob",), ("bob", "cyd", "dan", "eve")])
def test_one_or_four_survivors(old: GroupWorld, names: tuple[str, ...]) -> None:
    made = draft(old, names)
    behind = genesis.behind(recover(old, made, founders=signed(made, names)))
    assert behind is not None and behind.founders == len(names)


def test_who_may_not_recover(old: GroupWorld) -> None:
    def fails(why: str, make: Callable[[], object]) -> None:
        with pytest.raises(VerificationFailed, match=why):
            make()

    made = draft(old)
    one = consents(made, ("bob",))
    fails("2 recovery keys must sign", lambda: recover(old, consents=one))
    fails("once each", lambda: recover(old, consents=[*one, *one]))
    fails("not every recovery key", lambda: recover(old, consents=[*one, *consents(made, ("cyd",))]))
    forged = [*one, replace(consents(made, ("eve",))[0], signature=bytes(64))]
    fails("not every recovery key", lambda: recover(old, consents=forged))
    fails("2 recovery keys must sign .*, or more than half", lambda: recover(old, consents=[]))
    fails("founder's signature", lambda: recover(old, founders=signed(draft(old, time_ms=1))))
    fails("not the first validators", lambda: recover(old, founders=signed(made, ("bob",))))
    # A stranger cannot be brought in by those who hold the keys.
    stranger = draft(old, ("bob", "fay"))
    fails("had no seat", lambda: recover(old, stranger, founders=signed(stranger, ("bob", "fay"))))
    # Keys that the recovery names for itself are not those of the old genesis.
    own = draft(old, recovery_keys=tuple(sorted(person(n).recovery.public for n in ("cyd", "dan"))))
    fails("not every recovery key", lambda: recover(old, own, consents=consents(own, ("cyd", "dan"))))


def supported(world: GroupWorld, made: Genesis, names: Sequence[str]) -> Ancestry:
    ordered = sorted(signed(made, names), key=lambda f: person_id(f))
    given = tuple(Supporter(f.inception, f.events, f.signature) for f in ordered)
    return replace(ancestry(world), supporters=given)


def person_id(founder: genesis.Founder) -> bytes:
    return identity.idao_id(founder.inception)


def test_more_than_half_of_the_members_need_no_recovery_key(old: GroupWorld) -> None:
    """Also where everybody who holds such a key is lost."""
    made = draft(old, ("cyd",), recovery_keys=(person("cyd").recovery.public,), recovery_threshold=1)

    def go_on(names: Sequence[str], told: Ancestry | None = None) -> genesis.Bundle:
        before = told or supported(old, made, names)
        return genesis.recovered(made, rules(), signed(made, ("cyd",)), (), before)

    behind = genesis.behind(go_on(("dan", "eve")))
    assert behind is not None and (behind.founders, behind.supporters, behind.power) == (1, 2, 3)
    assert str(behind) == "3 of its 5 last validators (power 3 of 5) stand behind it"
    with pytest.raises(VerificationFailed, match="more than half"):
        go_on(("dan",))
    for names, why in (
        (("dan", "dan"), "once each"),
        (("dan", "cyd"), "founds it"),
        (("dan", "fay"), "no seat"),
    ):
        with pytest.raises(VerificationFailed, match=why):
            go_on(names)
    told = supported(old, made, ("dan", "eve"))
    with pytest.raises(VerificationFailed, match="in order"):
        go_on((), replace(told, supporters=told.supporters[::-1]))
    forged = replace(told.supporters[0], signature=bytes(64))
    with pytest.raises(VerificationFailed, match="supporter's signature"):
        go_on((), replace(told, supporters=(forged, told.supporters[1])))
    # A word for one genesis is none for another.
    elsewhere = supported(old, draft(old, ("cyd",), time_ms=made.time_ms + 1), ("dan", "eve"))
    with pytest.raises(VerificationFailed, match="supporter's signature"):
        go_on((), elsewhere)


def test_a_recovery_tells_the_truth_of_what_it_continues(old: GroupWorld) -> None:
    def fails(why: str, **parts: Any) -> None:
        made = parts.pop("made", None)
        with pytest.raises(VerificationFailed, match=why):
            recover(old, made, **parts)

    told = ancestry(old)
    fails("of another epoch|another validator set", before=replace(told, lineage=told.lineage[:2]))
    fails("out of order", before=replace(told, lineage=(*told.lineage, told.lineage[-1])))
    other = replace(told.genesis, nonce=hashed("other"))
    fails("another quorum", before=replace(told, genesis=other))
    parent = draft(old).parent
    assert parent is not None
    for changed, why in (
        (replace(parent, height=parent.height - 1), "another block"),
        (replace(parent, header=hashed("x")), "another block"),
        (replace(parent, note=b"nothing"), "no checkpoint"),
        (replace(parent, note=b""), "no checkpoint"),
        (parent_of(old.quorum, None), "changes of the set after it"),
    ):
        made = draft(old, parent=changed)
        fails(why, made=made, founders=signed(made), consents=consents(made))
    thin = old.notes[old.tip.height]
    thin = note.Note(thin.text, thin.signatures[:3])
    made = draft(old, parent=replace(parent, note=str(thin).encode()))
    fails("cosignatures of power 3", made=made, founders=signed(made), consents=consents(made))


def test_the_ancestry_belongs_to_a_recovered_group_alone(old: GroupWorld) -> None:
    bundle = recover(old)
    for changed in (replace(bundle, before=b""), replace(old.bundle, before=bundle.before)):
        with pytest.raises(VerificationFailed, match="how that one came"):
            genesis.check_bundle(changed)


def test_a_group_that_never_anchored_anything(old: GroupWorld) -> None:
    fresh = GroupWorld()
    made = genesis.group_genesis(
        name="r1", nonce=hashed("r"), time_ms=BORN + 1, rules=rules(), recovery_threshold=1,
        founders=[genesis.Seated(person("ann").inception, (), person("ann").validator(5).public, STAKE)],
        recovery_keys=(person("ann").recovery.public,), parent=parent_of(fresh.quorum, None),
    )  # fmt: skip
    before = Ancestry(fresh.bundle.genesis, ())
    behind = genesis.behind(
        genesis.recovered(made, rules(), signed(made, ("ann",)), consents(made, ("ann",)), before)
    )
    assert behind is not None and (behind.height, behind.founders, behind.validators) == (0, 1, 1)
    # All three say that it is the genesis that is continued; none does alone.
    parent = parent_of(fresh.quorum, None)
    for odd in (replace(parent, height=1), replace(parent, header=hashed("x")), replace(parent, note=b"x")):
        changed = replace(made, parent=odd)
        with pytest.raises(VerificationFailed, match="no checkpoint"):
            genesis.recovered(
                changed, rules(), signed(changed, ("ann",)), consents(changed, ("ann",)), before
            )


def test_a_verifier_always_sees_the_break(old: GroupWorld, tmp_path: Path) -> None:
    bundle = recover(old)
    stem = show_id("quorum", genesis.quorum_id(bundle.genesis)).removeprefix("quorum:")
    world = GroupWorld(bundle, LedgerStore.create(tmp_path / f"{stem}.db", bundle))
    for name in SURVIVORS:
        world._learn(person(name).validator(7))
    world.register("ann")
    made = Proofs(Home(world.store)).make(show_id("tx", world.blocks[0][2][0].tx))[1]  # type: ignore[arg-type]
    result = judged(made, trust=[show_id("quorum", world.quorum)])
    assert result["ok"] and result["trusted"]
    assert result["recovery"] == {
        "continues": show_id("quorum", old.quorum), "height": old.tip.height,
        "validators": 5, "founders": 2, "supporters": 0, "power": 2, "total_power": 5,
    }  # fmt: skip
    assert any(w.startswith("a recovered quorum, not") and "2 of its 5" in w for w in result["warnings"])
    assert "2 of its 5" in next(c["detail"] for c in result["checks"] if c["name"] == "genesis")
    # Trust in the old quorum is no trust in this one.
    assert not judged(made, trust=[show_id("quorum", old.quorum)])["ok"]
    assert audit(world.store.path).ok  # type: ignore[union-attr]


def test_a_ledger_tells_what_a_recovery_would_continue(tmp_path: Path) -> None:
    world = stored(tmp_path)
    store = world.store
    assert store is not None
    assert store.ancestry() == (parent_of(world.quorum, None), Ancestry(world.bundle.genesis, ()))
    world.grow("bob", "cyd", "dan")
    assert world.do("bob", "quorum.rotate", rotate_body(world, "bob", 1)) == ""
    store.db.execute("delete from checkpoint where height > 8")
    parent, before = store.ancestry()
    assert (parent.height, len(before.lineage)) == (8, epochs.epoch_at(world.state, 8)[0].epoch)
    world.step()
    world.step()
    parent, before = store.ancestry()
    assert (parent.height, len(before.lineage)) == (world.tip.height, 2)
    assert before.lineage == links_of(world, 2)
