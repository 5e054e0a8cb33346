"""Cases: votes and certificates good and bad; faults and forks (R7, R8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, Certificate
from idao.quorum import events as ev

from .bench import BODY, Bench, X, Y
from .cases import case

# --- certificates and votes ---------------------------------------------------------------------------


@case
def peer_15_padded_certificate(m: Any) -> None:
    b = Bench(m).start(pool=True)
    good = b.cert(NULLIFY, 0)
    garbage = replace(good, bitmap=b"\x0f", signatures=(bytes(64), *good.signatures))
    b.say(garbage)
    assert b.view == 0
    b.say(good)
    assert b.view == 1


@case
def peer_07_forged_certificates(m: Any) -> None:
    b = Bench(m).start(pool=True)
    good, other = b.cert(NULLIFY, 0), b.cert(NULLIFY, 1)
    two = b.cert(NULLIFY, 0, by=(1, 2))
    forged = [
        two,
        Certificate(good.vote, good.bitmap, other.signatures),
        Certificate(good.vote, b"\x0e", tuple(reversed(good.signatures))),  # peer 31: index and identity
        Certificate(good.vote, b"\x0e\x00", good.signatures),  # peer 32: bitmap length
        Certificate(good.vote, b"\xee", (*good.signatures, *good.signatures)),  # peer 23: nobody's bits
        Certificate(good.vote, b"\x00", ()),
        Certificate(good.vote, b"\x0e", good.signatures[:2]),
        Certificate(b.sv(PROPOSE, 1, 0, X).vote, b"\x0e", b.cert(PROPOSE, 0, X).signatures),
    ]
    for certificate in forged:
        b.say(certificate)
        assert b.view == 0 and not b.of(ev.Persist), certificate
    b.propose(1, X, two)
    assert b.view == 0, "peer 8: certificates inside a proposal are checked too"


@case
def peer_16_votes_of_another_chain(m: Any) -> None:
    b = Bench(m).start(pool=True)
    other = b"other".ljust(32)
    b.say(*(b.sv(NULLIFY, i, 0, quorum=other) for i in (1, 2, 3)))
    votes = [b.sv(NULLIFY, i, 0, quorum=other) for i in (1, 2, 3)]
    b.say(Certificate(votes[0].vote, b"\x0e", tuple(v.signature for v in votes)))
    frame = b.frame(1, X)
    b.say(replace(frame, justify=(Certificate(votes[0].vote, b"\x0e", tuple(v.signature for v in votes)),)))
    assert b.view == 0 and b.signed() == []


@case
def peer_17_a_repeated_vote_counts_once(m: Any) -> None:
    b = Bench(m).start(pool=True)
    for _ in range(3):
        b.votes(NULLIFY, 0, by=(2,))
    assert b.signed() == [] and b.view == 0


@case
def forged_votes_do_not_count(m: Any) -> None:
    b = Bench(m).start(pool=True)
    for i in (1, 2, 3):
        b.say(replace(b.sv(NULLIFY, 2, 0), signer=i, signature=b.sv(NULLIFY, 1, 1).signature))
    b.say(b.sv(NULLIFY, 77, 0), b.sv(NULLIFY, 4, 0))
    assert b.signed() == [] and b.view == 0 and not b.of(ev.FaultFound)


@case
def peer_18_own_vote_completes_the_certificate(m: Any) -> None:
    b = Bench(m).start(pool=True).votes(NULLIFY, 0, by=(2, 3))
    assert b.view == 1, "joining made the third"
    c = Bench(m).start(pool=True).votes(NULLIFY, 0, by=(2,)).timeout().votes(NULLIFY, 0, by=(3,))
    assert c.view == 1


@case
def peer_09_finalization_of_a_far_view(m: Any) -> None:
    b = Bench(m).start(pool=True).propose(0, X).say(b_cert := Bench(m).cert(FINALIZE, 5, X))
    assert len(b.of(ev.Commit)) == 1 and b_cert.vote.view == 5


@case
def peer_20_one_transition_twice(m: Any) -> None:
    b = Bench(m).start(pool=True).say(*[Bench(m).cert(NULLIFY, 0)] * 2).votes(NULLIFY, 0)
    assert b.view == 1
    assert len([e for e in b.of(ev.SetTimer) if e.kind == ev.VIEW and e.view == 1]) == 1
    b.timeout().timeout()
    assert b.signed().count((NULLIFY, 1, b"")) == 1


@case
def peer_22_certified_block_is_not_the_held_one(m: Any) -> None:
    b = Bench(m).start(pool=True).propose(0, Y)
    b.say(b.cert(NOTARIZE, 0, X), b.cert(FINALIZE, 0, X))
    assert not b.of(ev.Commit) and b.sent(ev.GetBlock)[0].hash == X
    b.say(ev.Body(1, X, BODY[X]))
    assert [c.hash for c in b.of(ev.Commit)] == [X]


@case
def body_after_its_certificates_commits(m: Any) -> None:
    """Found here: a proposal that comes after its finalization left the body unlinked."""
    b = Bench(m).start().say(*(Bench(m).cert(k, 0, X) for k in (NOTARIZE, FINALIZE)))
    assert not b.of(ev.Commit)
    b.propose(0, X)
    assert len(b.of(ev.Commit)) == 1


@case
def garbage_body_is_asked_of_another(m: Any) -> None:
    b = Bench(m).start().say(*(Bench(m).cert(k, 0, X) for k in (NOTARIZE, FINALIZE)))
    asked = [e.peer for e in b.of(ev.Send) if isinstance(e.frame, ev.GetBlock)]
    for _ in range(9):
        b.say(ev.Body(1, X, b"garbage"))
    assert len(b.sent(ev.GetBlock)) == 3, "bounded, until the next retransmission"
    asked += [e.peer for e in b.of(ev.Send) if isinstance(e.frame, ev.GetBlock)][len(asked) :]
    assert len(set(asked)) > 1 and not b.of(ev.Commit)
    b.say(ev.Body(1, X, BODY[X]))
    assert len(b.of(ev.Commit)) == 1


@case
def peer_26_decided_twice_is_committed_once(m: Any) -> None:
    b = Bench(m).start().propose(0, X)
    b.votes(NOTARIZE, 0, X).votes(FINALIZE, 0, X).say(b.cert(FINALIZE, 0, X), b.cert(FINALIZE, 1, X))
    b.say(ev.Body(1, X, BODY[X]), b.cert(NOTARIZE, 1, X))
    assert len(b.of(ev.Commit)) == 1


@case
def peer_24_huge_numbers(m: Any) -> None:
    b = Bench(m).start(pool=True)
    far = 2**63 - 1
    b.votes(NOTARIZE, far, X).votes(NULLIFY, far).say(b.frame(far, X, body=True))
    status = ev.Status(far, far, X, b"", b"", False)
    b.say(status, replace(status, height=1), replace(status, height=0), ev.GetBlock(0, X))
    assert b.view == 0 and b.signed() == [] and len(b.machine.h.votes) == 0 and not b.of(ev.Serve)


@case
def peer_52_quorum_arithmetic(m: Any) -> None:
    for n in range(1, 31):
        b = Bench(m, n=n)
        q, w = b.validators.quorum_size, n
        assert 3 * q > 2 * w >= 3 * (q - 1) and b.validators.honest_size == w - q + 1
        b = Bench(m, n=n, me=0).start(pool=True)
        if n > 3:
            b.votes(NULLIFY, 0, by=tuple(range(1, q)))
            assert b.view == 1, "q − 1 of theirs, and ours that joined"


# --- R7, R8: faults and forks -------------------------------------------------------------------------


@case
def every_kind_of_fault_is_named(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.say(b.sv(NOTARIZE, 2, 0, X), b.sv(NOTARIZE, 2, 0, Y))
    b.say(b.sv(FINALIZE, 2, 0, X), b.sv(FINALIZE, 2, 0, Y))
    b.say(b.sv(FINALIZE, 3, 0, X), b.sv(NULLIFY, 3, 0))
    b.say(b.sv(PROPOSE, 1, 0, X), b.sv(PROPOSE, 1, 0, Y))
    assert [f.fault.kind for f in b.of(ev.FaultFound)] == [
        "notarize",
        "finalize",
        "finalize-nullify",
        "propose",
    ]
    b.say(b.sv(NOTARIZE, 1, 0, X), b.sv(FINALIZE, 1, 0, X), b.sv(NOTARIZE, 1, 1, Y), b.sv(NOTARIZE, 2, 0, Y))
    assert len(b.of(ev.FaultFound)) == 4, "different slots, or a pair already named"


@case
def votes_inside_certificates_are_compared(m: Any) -> None:
    b = Bench(m).start(pool=True).votes(NULLIFY, 0, by=(2,)).say(Bench(m).cert(FINALIZE, 0, X))
    assert [f.fault.kind for f in b.of(ev.FaultFound)] == ["finalize-nullify"]


@case
def a_vote_after_its_certificate_is_checked_when_another_one_comes(m: Any) -> None:
    b = Bench(m).start(pool=True).propose(0, X)
    checked: list[Any] = []
    verify = b.machine.verify
    b.machine.verify = lambda key, signature, vote: bool(checked.append(vote) or verify(key, signature, vote))
    b.votes(NOTARIZE, 0, X, by=(1, 2))
    assert b.view == 1 and len(checked) == 2
    late = b.sv(NOTARIZE, 3, 0, X)
    forged = replace(late, signature=bytes(64))
    b.say(forged, forged)
    assert len(checked) == 2 and not b.of(ev.FaultFound), "put by: a fourth vote changes nothing"
    other = b.sv(NOTARIZE, 3, 0, Y)
    b.say(other)
    assert len(checked) == 4 and not b.of(ev.FaultFound), "a forged one proves nothing"
    b = Bench(m).start(pool=True).votes(NOTARIZE, 0, X, by=(1, 2))
    b.say(forged, late, other)
    assert [f.fault.kind for f in b.of(ev.FaultFound)] == ["notarize"]


@case
def votes_put_by_prove_faults(m: Any) -> None:
    b = Bench(m, n=7).start(pool=True).votes(NULLIFY, 0, by=(1, 2, 3, 4))
    b.say(b.sv(NULLIFY, 6, 0), b.sv(NULLIFY, 10_000, 0))
    assert len(b.machine.h.votes) == 5, "four of theirs, and ours that joined"
    assert [signer for signer, view, _ in b.machine.h.votes.spoken() if view == 0] == [0, 1, 2, 3, 4, 6]
    b.say(b.sv(FINALIZE, 6, 0, X), peer=6)
    assert [f.fault.kind for f in b.of(ev.FaultFound)] == ["finalize-nullify"]


@case
def our_own_vote_from_elsewhere_is_never_put_by(m: Any) -> None:
    b = Bench(m).start(pool=True).votes(FINALIZE, 0, X)
    assert not b.of(ev.Halt)
    b.say(b.sv(FINALIZE, 0, 0, X))
    assert b.of(ev.Halt)


@case
def second_certificate_is_kept_and_forwarded(m: Any) -> None:
    b = Bench(m).start(pool=True)
    b.say(b.cert(NOTARIZE, 0, X), b.cert(NOTARIZE, 0, Y))
    assert {c.vote.digest for c in b.sent(Certificate)} == {X, Y}
    assert len(b.of(ev.FaultFound)) == 3
    b.say(b.cert(NOTARIZE, 0, X), b.cert(NOTARIZE, 0, Y))
    assert len(b.sent(Certificate)) == 2, "once each: no storm"


@case
def fork_stops_signing_for_good(m: Any) -> None:
    b = Bench(m).start(pool=True).propose(0, X, body=False)
    b.say(b.cert(FINALIZE, 0, X), b.cert(FINALIZE, 1, Y))
    assert [(f.a.vote.digest, f.b.vote.digest) for f in b.of(ev.ForkDetected)] == [(X, Y)]
    assert b.of(ev.Halt)
    stored = {p.row.vote.digest for p in b.of(ev.Persist) if isinstance(p.row, Certificate)}
    assert stored == {X, Y}, "both are kept"
    b.say(ev.Body(1, Y, BODY[Y]), ev.Body(1, X, BODY[X]))
    assert [c.hash for c in b.of(ev.Commit)] == [X], "a pending decision stays the first"
    b.start(height=2, pool=True, tip=X).timeout()
    assert all(view == 0 and kind == NOTARIZE for kind, view, _ in b.signed())


@case
def late_finalization_of_the_height_before_is_a_fork(m: Any) -> None:
    b = Bench(m).start().propose(0, X).votes(NOTARIZE, 0, X).votes(FINALIZE, 0, X)
    other = b.cert(FINALIZE, 1, Y)
    b.start(height=2, tip=X).say(other)
    assert b.of(ev.ForkDetected) and b.of(ev.Halt)
    first = Bench(m).cert(FINALIZE, 0, X)
    c = Bench(m)
    c.start(height=2, tip=X, parent=first, parent_validators=c.validators).say(other)
    assert c.of(ev.ForkDetected), "also after a restart"


@case
def another_tip_is_answered_with_our_finalization(m: Any) -> None:
    first = Bench(m).cert(FINALIZE, 0, X)
    b = Bench(m)
    b.start(height=2, tip=X, parent=first, parent_validators=b.validators)
    b.say(ev.Status(2, 0, Y, b"", b"", False))
    assert b.sent(Certificate) == [first]


@case
def peer_45_divergence_halts_this_node_alone(m: Any) -> None:
    b = Bench(m)
    b.verdicts[X] = ev.INVALID
    b.start().propose(0, X).votes(NOTARIZE, 0, X)
    assert "divergence" in b.of(ev.Halt)[0].reason
    b.votes(FINALIZE, 0, X)
    assert not b.of(ev.Commit)


@case
def own_key_elsewhere_halts(m: Any) -> None:
    """Peer 43: a copied or rolled-back home meets what it does not remember signing."""
    b = Bench(m).start(pool=True).say(Bench(m).sv(NOTARIZE, 0, 0, Y))
    assert b.of(ev.Halt)
    b.propose(0, X)
    assert b.signed() == []
    c = Bench(m).start().propose(0, X)
    c.say(c.sv(NOTARIZE, 0, 0, X))
    assert not c.of(ev.Halt), "our own words coming back are no news"


@case
def nothing_is_judged_after_the_commit(m: Any) -> None:
    """Found by seed 1014120: a block that lost its height is a stranger to the tip that the winner made."""
    for late in (False, True):
        b = Bench(m)
        if late:  # its verdict was under way when the other one was committed
            b.verdicts[Y] = "later"
        b.start(blocks=(ev.StoredBlock(1, Y, BODY[Y]),), pool=True)
        if late:
            b.say(b.cert(NOTARIZE, 0, Y))
            assert any(e.hash == Y for e in b.of(ev.Validate))
        b.say(b.cert(FINALIZE, 1, X), ev.Body(1, X, BODY[X]))
        assert len(b.of(ev.Commit)) == 1
        b.verdicts[Y] = ev.INVALID
        if late:
            b.feed(ev.BlockReady(1, Y, ev.INVALID))
        else:
            b.say(b.cert(NOTARIZE, 0, Y))
        assert not b.of(ev.Halt)
