"""Reviews that want hardware: the ledger counts the signed word of the others, and asks no verifier."""

from __future__ import annotations

from typing import Any

import pytest
from group_world import GroupWorld, group_of, named, person
from test_reviews_group import contribute, review, seal, sealed

from idao.crypto import canonical
from idao.errors import Malformed
from idao.frozen import replace
from idao.ledger import attest, charter, reviews
from idao.ledger.idao import SetRule
from idao.tee import binding, policy
from idao.tee.envelope import Evidence

POLICY = policy.relaxed(policy.STRICT, name="ours")
HOUR = 3_600_000


def world_of(level: str = "tee", **changed: int | str) -> GroupWorld:
    """A quorum of four whose charter asks reviewers for hardware, with a policy voted."""
    world = GroupWorld(group_of(review__tee=level, **changed)).grow("bob", "cyd", "dan")
    vote(world, POLICY)
    return world


def vote(world: GroupWorld, chosen: policy.TeePolicy) -> None:
    action = ("tee.policy", attest.SetTeePolicy(canonical.pack(chosen)))
    assert world.decide("ann", action, yes=("ann", "bob", "cyd")) == ""


def attests(world: GroupWorld, who: str, life: int = HOUR) -> bytes:
    """Registers evidence that no verifier would take; its id."""
    assert world.do(who, "tee.beacon", attest.KeepBeacon()) == ""
    seen = max(world.state.scan(attest.Beacon), key=lambda b: b.height)
    one = person(who)
    claims = binding.Claims(
        1, world.quorum, one.idao, one.validator().public, attest.ROLE,
        binding.beacon(world.quorum, seen.header), seen.time_ms + life,
    )  # fmt: skip
    raw = canonical.pack(Evidence(1, "sev-snp", b"whatever", (), canonical.pack(claims)))
    name = attest.bytes_hash(raw)
    assert world.do(who, "tee.attest", attest.Attest(name, raw, b"", seen.height)) == ""
    return name


def appraises(world: GroupWorld, by: str, of: str, evidence: bytes, **changed: Any) -> str:
    until = world.state.need(attest.Attestation, person(of).idao).not_after_ms
    body = attest.Appraise(person(of).idao, evidence, POLICY.digest, "v", "tee", True, "", until)
    return world.do(by, "tee.appraise", replace(body, **changed))


def backed(world: GroupWorld, who: str, by: tuple[str, ...], **changed: Any) -> bytes:
    evidence = attests(world, who)
    for one in by:
        assert appraises(world, one, who, evidence, **changed) == ""
    return evidence


def test_a_reviewer_without_hardware_is_refused_and_one_with_it_is_recorded() -> None:
    world = world_of()
    asset = contribute(world, "bob")
    assert seal(world, "cyd", review(world, "cyd", asset)) == "tee-required", (
        "it would have read them for nothing"
    )
    assert seal(world, "bob", review(world, "bob", asset)) == ""
    evidence = backed(world, "cyd", ("ann", "dan"))
    assert sealed(world, "cyd", asset) == ""
    kept = world.state.need(reviews.ReviewBacking, asset, 1, person("cyd").idao)
    assert (kept.level, kept.evidence) == ("tee", evidence)
    assert sealed(world, "dan", asset) == "tee-required", "each for itself"
    assert world.do("bob", "review.open", review(world, "bob", asset)) == "", "an owner reviews its own"
    assert world.state.get(reviews.ReviewBacking, asset, 1, person("bob").idao) is None


@pytest.mark.parametrize(
    ("by", "changed"),
    [
        ((), {}),
        (("ann",), {}),  # one may be a liar
        (("cyd", "ann"), {}),  # its own word is none
        (("ann", "dan"), {"level": "simulated"}),
        (("ann", "dan"), {"level": "tpm-rooted"}),
        (("ann", "dan"), {"level": "no such level"}),
        (("ann", "dan"), {"accepted": False, "reason": "debug"}),
        (("ann", "dan"), {"policy": policy.STRICT.digest}),  # not the one that the quorum voted
        (("ann", "dan"), {"not_after_ms": 1}),
    ],
)
def test_what_does_not_count(by: tuple[str, ...], changed: dict[str, Any]) -> None:
    world = world_of()
    asset = contribute(world, "bob")
    backed(world, "cyd", by, **changed)
    assert sealed(world, "cyd", asset) == "tee-required"


def test_measured_code_is_more_than_hardware() -> None:
    world = world_of("tee-measured")
    asset = contribute(world, "bob")
    evidence = backed(world, "cyd", ("ann", "dan"))
    assert sealed(world, "cyd", asset) == "tee-required"
    assert appraises(world, "ann", "cyd", evidence, level="tee-measured") == ""
    assert sealed(world, "cyd", asset) == "tee-required", "one of them still knows only the hardware"
    assert appraises(world, "dan", "cyd", evidence, level="tee-measured") == ""
    assert sealed(world, "cyd", asset) == ""


def test_evidence_that_has_ended_or_was_replaced_counts_no_more() -> None:
    world = world_of()
    asset = contribute(world, "bob")
    backed(world, "cyd", ("ann", "dan"))
    opened = review(world, "cyd", asset)
    assert seal(world, "cyd", opened) == ""
    evidence = attests(world, "cyd", life=HOUR // 2)
    assert world.do("cyd", "review.open", opened) == "tee-required", "nobody has judged the new one yet"
    for by in ("ann", "dan"):
        assert appraises(world, by, "cyd", evidence) == ""
    world.step(HOUR)
    assert world.do("cyd", "review.open", opened) == "tee-required"
    backed(world, "cyd", ("ann", "bob"))
    assert world.do("cyd", "review.open", opened) == "", "the seal has waited"


def test_without_a_voted_policy_there_is_nothing_to_count_by() -> None:
    world = GroupWorld(group_of(review__tee="tee")).grow("bob", "cyd", "dan")
    asset = contribute(world, "bob")
    backed(world, "cyd", ("ann", "dan"))
    assert sealed(world, "cyd", asset) == "tee-required"
    vote(world, POLICY)
    assert sealed(world, "cyd", asset) == ""
    vote(world, policy.relaxed(POLICY, max_age_ms=HOUR))
    assert sealed(world, "cyd", contribute(world, "dan", "walks")) == "tee-required", "another policy now"


def test_the_rule_comes_and_goes_by_vote() -> None:
    world = GroupWorld().grow("bob", "cyd", "dan")
    asset = contribute(world, "bob")
    assert sealed(world, "cyd", asset) == "", "the default asks for nothing"
    for value, code in (("tee", "tee-required"), ("none", "")):
        action = ("charter.set", SetRule("review.tee", canonical.encode(value)))
        assert world.decide("ann", action, yes=("ann", "bob", "cyd")) == ""
        assert sealed(world, "dan", asset) == code
    bad = ("charter.set", SetRule("review.tee", canonical.encode("simulated")))
    assert world.decide("ann", bad, yes=("ann", "bob", "cyd")) == "bad-value"
    assert {named(person(n).idao) for n in ("ann", "bob")} == {"ann", "bob"}


def test_a_charter_of_before_says_the_same_bytes() -> None:
    rules = charter.defaults()
    assert rules["review.tee"] == "none" and b"review.tee" not in charter.encode(rules)
    said = charter.encode({**rules, "review.tee": "tee"})
    assert charter.parse(said)["review.tee"] == "tee"
    with pytest.raises(Malformed, match="leaves out"):
        charter.parse(canonical.encode(rules))
