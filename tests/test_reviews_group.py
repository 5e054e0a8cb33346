"""Reviews and minting in a quorum of several: others' verdicts, sealed first; the owner's own does not do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from group_world import GroupWorld, group_of, hashed, person

from idao.crypto import canonical
from idao.ledger import reviews
from idao.ledger.assets import AssetVersion, Contribute, asset_id, round_size
from idao.ledger.dats import Mint
from idao.ledger.idao import AddMember, Member, SetRule
from idao.ledger.reviews import Commit, Open, Review


def contribute(world: GroupWorld, owner: str, name: str = "rides") -> bytes:
    nonce = hashed(name)
    body = Contribute(
        person(owner).idao, nonce, 1, "dataset", name, "tabular", "MIT", round_size(5000), hashed("root"),
        hashed("m"), hashed("c"), hashed("p"), (),
    )  # fmt: skip
    assert world.do(owner, "asset.contribute", body) == ""
    return asset_id(person(owner).idao, nonce)


def review(world: GroupWorld, by: str, asset: bytes, score: int = 8000, **changed: Any) -> Open:
    made = Review(
        asset, 1, hashed("root"), "tabular@1", hashed("code"), "exact", b"", world.tip.height, (), 0,
        person(by).idao, b"", hashed(f"report of {by}"), score, True,
    )  # fmt: skip
    return Open(replace(made, **changed), hashed(f"salt of {by}"))


def seal(world: GroupWorld, by: str, opened: Open) -> str:
    commitment = reviews.review_commitment(world.quorum, opened.review, opened.salt)
    return world.do(by, "review.commit", Commit(opened.review.asset, 1, commitment))


def sealed(world: GroupWorld, by: str, asset: bytes, score: int = 8000, **changed: Any) -> str:
    opened = review(world, by, asset, score, **changed)
    return seal(world, by, opened) or world.do(by, "review.open", opened)


def version(world: GroupWorld, asset: bytes) -> AssetVersion:
    return world.state.need(AssetVersion, asset, 1)


def mint(world: GroupWorld, owner: str, asset: bytes) -> str:
    return world.do(owner, "dat.mint", Mint(asset, 1, None, person(owner).idao, 1000, 10_000, 0))


def test_the_owners_own_review_is_not_enough() -> None:
    world = GroupWorld().grow("bob", "cyd", "dan")
    asset = contribute(world, "bob")
    assert world.do("bob", "review.open", review(world, "bob", asset, 9900)) == ""
    assert (version(world, asset).verified, version(world, asset).independent) == (False, 0)
    assert mint(world, "bob", asset) == "not-verified"
    # Another's, sealed in an earlier block.
    opened = review(world, "cyd", asset, 7000)
    assert world.do("cyd", "review.open", opened) == "not-sealed"
    assert seal(world, "cyd", opened) == ""
    other = replace(opened, review=replace(opened.review, report=hashed("report of dan")))
    assert world.do("cyd", "review.open", other) == "seal-mismatch"
    assert world.do("cyd", "review.open", opened) == ""
    assert (version(world, asset).verified, version(world, asset).independent) == (True, 1)
    assert version(world, asset).score == 7000, "the owner's own score yields to others'"
    assert mint(world, "bob", asset) == ""


def test_the_score_is_the_lower_median_of_what_others_gave() -> None:
    """One that a reviewer really gave, and that no single reviewer can pull up."""
    world = GroupWorld().grow("bob", "cyd", "dan")
    asset, scores = contribute(world, "bob"), []
    for by, score in (("cyd", 9000), ("dan", 7000), ("ann", 8000)):
        assert sealed(world, by, asset, score) == ""
        scores.append(version(world, asset).score)
    assert scores == [9000, 7000, 8000]


def test_a_score_at_the_charters_least_is_good() -> None:
    world = GroupWorld().grow("bob", "cyd", "dan")
    least = ("charter.set", SetRule("review.score-min", canonical.encode(7000)))
    assert world.decide("ann", least, yes=("bob", "cyd", "dan")) == ""
    for name, score, verified in (("rides", 6900, False), ("walks", 7000, True)):
        asset = contribute(world, "bob", name)
        assert sealed(world, "cyd", asset, score) == ""
        assert version(world, asset).verified == verified


def test_a_verdict_cannot_be_copied() -> None:
    world = GroupWorld().grow("bob", "cyd", "dan")
    asset = contribute(world, "bob")
    opened = review(world, "cyd", asset)
    theirs = reviews.review_commitment(world.quorum, opened.review, opened.salt)
    assert seal(world, "cyd", opened) == ""
    assert world.do("dan", "review.commit", Commit(asset, 1, theirs)) == ""
    assert world.do("cyd", "review.open", opened) == ""
    mine = replace(opened, review=replace(opened.review, reviewer=person("dan").idao))
    assert world.do("dan", "review.open", mine) == "seal-mismatch"
    assert world.do("dan", "review.open", opened) == "not-a-validator"


def test_founder_mode_is_no_quorum_of_one() -> None:
    world = GroupWorld()
    asset = contribute(world, "ann")
    assert world.do("ann", "review.open", review(world, "ann", asset)) == ""
    assert not version(world, asset).verified
    assert mint(world, "ann", asset) == "not-verified"
    world.admit("bob")
    world.activate("bob")
    theirs = contribute(world, "bob", "walks")
    assert world.do("bob", "review.open", review(world, "bob", theirs)) == "", "anybody reviews its own"
    assert world.do("bob", "review.open", review(world, "bob", asset)) == "not-a-validator"
    assert sealed(world, "bob", asset) == "not-a-validator", "an observer decides nothing"
    assert sealed(world, "ann", theirs) == ""
    assert mint(world, "bob", theirs) == ""


def test_a_charter_may_ask_for_no_others() -> None:
    world = GroupWorld(group_of(review__independent=0))
    asset = contribute(world, "ann")
    assert mint(world, "ann", asset) == "not-verified", "nobody has looked at it at all"
    assert world.do("ann", "review.open", review(world, "ann", asset, passed=False)) == ""
    assert mint(world, "ann", asset) == "not-verified"
    other = contribute(world, "ann", "walks")
    assert world.do("ann", "review.open", review(world, "ann", other)) == ""
    assert mint(world, "ann", other) == ""
    assert version(world, other).independent == 0
    # It is the quorum's word that counts, at the time of minting too.
    third = contribute(world, "ann", "talks")
    assert world.do("ann", "review.open", review(world, "ann", third)) == ""
    assert world.decide("ann", ("charter.set", SetRule("review.independent", canonical.encode(1)))) == ""
    assert mint(world, "ann", third) == "not-verified"


@pytest.mark.parametrize("role", ["owner", "member", "observer"])
def test_a_member_of_the_owner_is_not_independent(role: str) -> None:
    world = GroupWorld().grow("bob", "cyd", "dan")
    bob = person("bob").idao
    draft = ("member.add", AddMember(person("cyd").idao, role, 1))
    from idao.ledger import governance as gov

    body = gov.draft(world.state, bob, "join us", [draft])
    tx = world.send("bob", "gov.propose", body)
    world.step()
    content = gov.content_hash(body)
    world.send("bob", "gov.vote", gov.CastBallot(gov.proposal_id(tx.id, content), content, gov.YES))
    world.step()
    world.step()
    assert world.state.need(Member, bob, person("cyd").idao).role == role
    asset = contribute(world, "bob")
    assert sealed(world, "cyd", asset) == ""
    assert (version(world, asset).independent, version(world, asset).verified) == (0, False)
    assert sealed(world, "dan", asset, 5000) == ""
    assert (version(world, asset).independent, version(world, asset).verified) == (1, True)
    assert version(world, asset).score == 5000


def test_what_a_review_may_not_be() -> None:
    world = GroupWorld().grow("bob", "cyd", "dan")
    world.register("eve")
    asset = contribute(world, "bob")
    fine = review(world, "cyd", asset)
    assert seal(world, "eve", review(world, "eve", asset)) == "not-a-validator"
    assert seal(world, "cyd", review(world, "cyd", hashed("nothing"))) == "unknown-asset"
    assert seal(world, "cyd", fine) == ""
    assert seal(world, "cyd", fine) == "already-sealed"
    ahead = world.tip.height + 10
    for changed, code in (
        ({"asset": hashed("nothing")}, "unknown-asset"),
        ({"root": hashed("other contents")}, "root-mismatch"),
        ({"score": 8050}, "score-not-rounded"),
        ({"as_of": ahead}, "as-of"),
    ):
        assert world.do("cyd", "review.open", replace(fine, review=replace(fine.review, **changed))) == code
    assert world.do("cyd", "review.open", fine) == ""
    assert world.do("cyd", "review.open", fine) == "already-reviewed"
    assert seal(world, "cyd", fine) == "already-reviewed"
    mine = review(world, "bob", asset)
    assert world.do("bob", "review.open", mine) == ""
    assert world.do("bob", "review.open", mine) == "already-reviewed"
