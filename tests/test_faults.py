"""What a proven lie costs on the ledger, and that nobody pays for what was not proven."""

from __future__ import annotations

from dataclasses import replace

import pytest
from group_world import BOND, GroupWorld, four, hashed, person
from test_membership_changes import REST, bond_of, five, rotate_body

from idao.crypto import note
from idao.crypto.faults import make_cosign_fault, make_fault
from idao.errors import Malformed
from idao.ledger import accounts, bonds, faults, membership
from idao.ledger.faults import Recorded, Report
from idao.ledger.membership import JAILED, Leave
from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, Fault, SignedVote, Vote


def vote_fault(
    world: GroupWorld, name: str, height: int, kinds: tuple[int, int] = (NOTARIZE, NOTARIZE), view: int = 0,
    n: int = 0, quorum: bytes | None = None,
) -> Fault:  # fmt: skip
    """Two conflicting votes by somebody's key, as the machine would report them."""
    signer = person(name).validator(n)
    index = world.validators(height).index_of_key(signer.public) or 0
    votes = []
    for i, kind in enumerate(kinds):
        digest = b"" if kind == NULLIFY else hashed(f"block {i}")
        vote = Vote(kind, quorum or world.quorum, height, view, digest)
        votes.append(SignedVote(vote, index, signer.sign_vote(vote)))
    return make_fault(votes[0], votes[1], signer.public)


def cosign_fault(world: GroupWorld, name: str, height: int, claimed: int | None = None, n: int = 0) -> Fault:
    """A true checkpoint and a forged one of its size, cosigned by one key."""
    signer = person(name).validator(n)
    text = world.notes[height].text
    true = note.parse_checkpoint(text)
    forged = replace(
        true, root=hashed("another log"), height=claimed if claimed is not None else height
    ).text()
    a, b = (note.Note(t, (note.cosignature(signer, world.quorum, t, 1),)) for t in (text, forged))
    return make_cosign_fault(a, b, signer.public)


@pytest.mark.parametrize(
    "kinds",
    [(PROPOSE, PROPOSE), (NOTARIZE, NOTARIZE), (FINALIZE, FINALIZE), (FINALIZE, NULLIFY)],
    ids=("propose", "notarize", "finalize", "finalize-nullify"),
)
def test_a_fault_costs_a_tenth_of_the_bond(kinds: tuple[int, int]) -> None:
    world = four()
    fault = vote_fault(world, "dan", world.tip.height, kinds)
    assert not faults.is_recorded(world.state, fault)
    assert world.do("bob", "fault.report", Report(fault)) == ""
    assert faults.is_recorded(world.state, fault)
    assert bond_of(world, "dan").held == BOND - BOND // 10
    assert world.balance("slashed", world.quorum) == BOND // 10
    assert world.balance("bond", person("dan").idao) == BOND - BOND // 10
    told = faults.recorded(world.state, person("dan").idao)
    assert [(f.kind, f.slashed, f.reporter) for f in told] == [(fault.kind, BOND // 10, person("bob").idao)]
    accounts.check_book(world.state)
    # Once each; another of the same height is recorded and costs nothing more.
    assert world.do("cyd", "fault.report", Report(fault)) == "already-recorded"
    again = vote_fault(world, "dan", told[0].height, view=3)
    assert world.do("cyd", "fault.report", Report(again)) == ""
    assert bond_of(world, "dan").slashed == BOND // 10
    assert len(faults.recorded(world.state)) == 2


def test_four_keep_a_liar_until_it_is_replaced_and_five_jail_it() -> None:
    world = four()
    assert world.do("bob", "fault.report", Report(vote_fault(world, "dan", world.tip.height))) == ""
    assert len(world.powers(world.tip.height + 2)) == 4
    world = five()
    height = world.tip.height
    assert world.do("bob", "fault.report", Report(vote_fault(world, "dan", height))) == ""
    assert world.seat("dan").state == JAILED
    assert set(world.powers(world.tip.height + 2)) == {"ann", "bob", "cyd", "eve"}
    assert bond_of(world, "dan").free == world.tip.height + 2 + bonds.UNBONDING_BLOCKS
    # Its bond answers on for what else it did while it had its seat.
    assert world.do("bob", "fault.report", Report(vote_fault(world, "dan", height - 1))) == ""
    assert bond_of(world, "dan").slashed == 2 * (BOND // 10)
    # A new key, a new admission and a new bond bring it back.
    world.admit("dan", n=1, yes=REST)
    world.activate("dan")
    assert world.seat("dan").term > 0 and bond_of(world, "dan").held == BOND
    late = vote_fault(world, "dan", height - 2)
    assert world.do("bob", "fault.report", Report(late)) == ""
    assert bond_of(world, "dan").held == BOND, "the new bond does not answer for the old key"
    assert world.seat("dan").state == membership.ACTIVE


def test_a_bond_cannot_lose_more_than_it_holds() -> None:
    world = four()
    for n in range(12):
        assert world.do("bob", "fault.report", Report(vote_fault(world, "dan", world.tip.height))) == ""
        assert bond_of(world, "dan").slashed == min(BOND, (n + 1) * (BOND // 10))
    assert world.balance("bond", person("dan").idao) == 0
    accounts.check_book(world.state)


def test_a_small_bond_loses_something() -> None:
    world = four()
    world.register("eve")
    world.do("eve", "quorum.join", world.join_body("eve"))
    assert world.decide("ann", world.admit_body("eve", bond=3), yes=REST) == ""
    world.activate("eve")
    world.step()
    world.step()
    assert world.do("bob", "fault.report", Report(vote_fault(world, "eve", world.tip.height))) == ""
    assert bond_of(world, "eve").slashed == 1


def test_cosignatures_of_two_texts_are_a_fault_whatever_height_they_claim() -> None:
    world = four()
    height = world.tip.height
    fault = cosign_fault(world, "dan", height)
    assert world.do("bob", "fault.report", Report(fault)) == ""
    assert faults.recorded(world.state)[0].height == note.parse_checkpoint(world.notes[height].text).size
    assert bond_of(world, "dan").slashed == BOND // 10
    for other in (0, 2**60):
        assert world.do("bob", "fault.report", Report(cosign_fault(world, "dan", height, other))) == (
            "already-recorded"
        ), "three texts of one size are one fault"
        earlier = cosign_fault(world, "cyd", height - 1, other)
        assert world.do("bob", "fault.report", Report(earlier)) == ("" if other == 0 else "already-recorded")
    # A vote of the height that is numbered as that size is another matter.
    assert world.do("bob", "fault.report", Report(vote_fault(world, "dan", world.tip.height))) == ""


def test_an_old_key_answers_after_it_was_rotated() -> None:
    world = four()
    before = world.tip.height
    assert world.do("dan", "quorum.rotate", rotate_body(world, "dan", 1)) == ""
    world.step()
    world.step()
    assert world.do("bob", "fault.report", Report(vote_fault(world, "dan", before))) == ""
    assert world.do("bob", "fault.report", Report(cosign_fault(world, "dan", before))) == ""
    assert bond_of(world, "dan").slashed == 2 * (BOND // 10)
    # The old key has no vote at heights of the new one, so two votes of it there are no fault.
    outside = vote_fault(world, "dan", world.tip.height)
    assert world.do("bob", "fault.report", Report(outside)) == "not-a-fault"


def test_leaving_does_not_escape() -> None:
    world = five()
    height = world.tip.height
    assert world.do("eve", "quorum.leave", Leave()) == ""
    for _ in range(5):
        world.step()
    assert world.do("bob", "fault.report", Report(vote_fault(world, "eve", height))) == ""
    assert bond_of(world, "eve").slashed == BOND // 10
    bond = bond_of(world, "eve")
    world.step(bonds.UNBONDING_IDLE_MS)
    take = bonds.Withdraw(bond.idao, bond.term)
    had = world.balance("idao", bond.sponsor)
    assert world.do("bob", "quorum.withdraw", take) == ""
    assert world.balance("idao", bond.sponsor) == had + BOND - BOND // 10
    assert world.do("bob", "fault.report", Report(vote_fault(world, "eve", height, view=9))) == "bond-free"


def test_votes_are_judged_within_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    world = four()
    height = world.tip.height
    ahead = vote_fault(world, "dan", height + 2)
    assert world.do("bob", "fault.report", Report(ahead)) == "later"
    assert world.do("bob", "fault.report", Report(ahead)) == ""
    monkeypatch.setattr(faults, "WINDOW", 3)
    old = vote_fault(world, "dan", world.tip.height - 3)
    assert world.do("bob", "fault.report", Report(old)) == "too-old"
    assert world.do("bob", "fault.report", Report(vote_fault(world, "dan", world.tip.height - 2))) == ""


def test_nobody_pays_without_proof() -> None:
    world = four()
    h = world.tip.height
    real = vote_fault(world, "dan", h)
    other = vote_fault(world, "dan", h, quorum=hashed("another quorum"))
    one_vote = replace(real, b=real.a)
    swapped = replace(real, a=real.b, b=real.a)
    cases = {
        "another quorum": other,
        "the same vote twice": one_vote,
        "in the wrong order": swapped,
        "under another kind": replace(real, kind="finalize"),
        "under an unknown kind": replace(real, kind="rude"),
        "under another's key": replace(real, key=person("cyd").validator().public),
        "no bytes of a vote": replace(real, a=b"\x01"),
        "a cosigning fault of votes": replace(real, kind="cosign"),
        "another's signature": _forged(world, h),
        "cosigned by another": replace(cosign_fault(world, "dan", h), key=person("cyd").validator().public),
    }
    for what, fault in cases.items():
        assert world.do("bob", "fault.report", Report(fault)) == "not-a-fault", what
    stranger = vote_fault(world, "eve", h)
    assert world.do("bob", "fault.report", Report(stranger)) == "unknown-key"
    assert faults.recorded(world.state) == []
    assert world.balance("slashed", world.quorum) == 0
    with pytest.raises(Malformed):
        faults.is_recorded(world.state, cases["no bytes of a vote"])


def _forged(world: GroupWorld, height: int) -> Fault:
    """cyd signs two votes and says that dan did."""
    true = vote_fault(world, "cyd", height)
    return replace(true, key=person("dan").validator().public)


def test_the_reports_of_a_jail_wait_for_a_free_block() -> None:
    world = five()
    fault = vote_fault(world, "dan", world.tip.height)
    world.send("ann", "quorum.rotate", rotate_body(world, "ann", 1))
    tx = world.send("bob", "fault.report", Report(fault))
    assert next(r.code for r in world.step() if r.tx == tx.id) == "set-busy"
    assert faults.recorded(world.state) == []
    assert world.do("bob", "fault.report", Report(fault)) == ""
    assert world.seat("dan").state == JAILED


def test_recorded_faults_are_records() -> None:
    world = four()
    world.do("bob", "fault.report", Report(vote_fault(world, "dan", world.tip.height)))
    assert all(type(f) is Recorded for f in faults.recorded(world.state))
