"""Faults, certificates, forensics and quarantine, with real signatures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim.bench import Bench
from sim.bench import X as PROPOSED

from idao.crypto import canonical
from idao.crypto.certificates import certificate_hash, make_certificate, verify_certificate, votes_in
from idao.crypto.faults import check_fault, fault_slot, make_fault
from idao.crypto.keys import Signer
from idao.crypto.note import Checkpoint, Note, cosignature, log_signature
from idao.errors import Malformed
from idao.model import (
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    PROPOSE,
    Certificate,
    Fault,
    SignedVote,
    Validator,
    ValidatorSet,
    Vote,
)
from idao.quorum import events as ev
from idao.quorum.forensics import conflicts, guilty
from idao.quorum.machine import Machine
from idao.quorum.recovery import quarantine_until

QUORUM, OTHER = bytes([1]) * 32, bytes([2]) * 32
X, Y = bytes([8]) * 32, bytes([9]) * 32
SIGNERS = [Signer(bytes([i]) * 32) for i in range(7)]


def members(n: int) -> ValidatorSet:
    return ValidatorSet(tuple(Validator(bytes([i]) * 32, SIGNERS[i].public, 1) for i in range(n)))


FOUR = members(4)


def vote(kind: int, signer: int, digest: bytes = b"", view: int = 0, quorum: bytes = QUORUM) -> SignedVote:
    v = Vote(kind, quorum, 5, view, digest)
    return SignedVote(v, signer, SIGNERS[signer].sign_vote(v))


def cert(kind: int, digest: bytes, by: tuple[int, ...], view: int = 0) -> Certificate:
    votes = [vote(kind, i, digest, view) for i in by]
    return make_certificate(votes[0].vote, votes, FOUR)


# --- certificates -------------------------------------------------------------------------------------


def test_a_certificate_is_what_its_votes_are() -> None:
    c = cert(FINALIZE, X, (3, 0, 1))
    assert verify_certificate(c, FOUR) and [v.signer for v in votes_in(c)] == [0, 1, 3]
    assert canonical.unpack(Certificate, canonical.pack(c)) == c
    assert certificate_hash(c) != certificate_hash(cert(FINALIZE, X, (0, 1, 2)))


def test_certificates_that_do_not_hold() -> None:
    c = cert(FINALIZE, X, (0, 1, 2))
    wrong = [
        cert(FINALIZE, X, (0, 1)),
        replace(c, vote=replace(c.vote, digest=Y)),
        replace(c, vote=replace(c.vote, view=1)),
        replace(c, bitmap=b"\x0e"),
        replace(c, bitmap=b"\x0f"),
        replace(c, bitmap=b"\x07\x00"),
        replace(c, bitmap=b"\x17"),
        replace(c, signatures=c.signatures[::-1]),
        replace(c, signatures=(*c.signatures[:2], bytes(64))),
        replace(c, bitmap=b"\x0f", signatures=(*c.signatures, bytes(64))),
        cert(PROPOSE, X, (0, 1, 2)),
    ]
    assert not [w for w in wrong if verify_certificate(w, FOUR)]
    assert not verify_certificate(c, members(7))


def test_power_counts_not_heads() -> None:
    heavy = ValidatorSet(
        tuple(replace(v, power=p) for v, p in zip(FOUR.validators, (3, 3, 3, 1), strict=True))
    )
    assert heavy.quorum_size == 7
    assert verify_certificate(cert(FINALIZE, X, (0, 1, 2)), heavy)
    assert verify_certificate(cert(FINALIZE, X, (0, 1, 3)), heavy)
    light = ValidatorSet(
        tuple(replace(v, power=p) for v, p in zip(FOUR.validators, (1, 1, 3, 3), strict=True))
    )
    assert not verify_certificate(cert(FINALIZE, X, (0, 1, 2)), light)


# --- faults -------------------------------------------------------------------------------------------

PAIRS = {
    "propose": (vote(PROPOSE, 2, X), vote(PROPOSE, 2, Y)),
    "notarize": (vote(NOTARIZE, 2, X), vote(NOTARIZE, 2, Y)),
    "finalize": (vote(FINALIZE, 2, X), vote(FINALIZE, 2, Y)),
    "finalize-nullify": (vote(FINALIZE, 2, X), vote(NULLIFY, 2)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_fault_is_one_value_whichever_was_seen_first(kind: str) -> None:
    a, b = PAIRS[kind]
    fault = make_fault(a, b, SIGNERS[2].public)
    assert fault == make_fault(b, a, SIGNERS[2].public) and fault.kind == kind
    assert check_fault(fault, FOUR, QUORUM) == kind and fault_slot(fault) == (5, 0)
    assert canonical.unpack(Fault, canonical.pack(fault)) == fault


def test_what_is_no_fault() -> None:
    for a, b in [
        (vote(NOTARIZE, 2, X), vote(NOTARIZE, 2, X)),
        (vote(NOTARIZE, 2, X), vote(NOTARIZE, 3, Y)),
        (vote(NOTARIZE, 2, X), vote(NOTARIZE, 2, Y, view=1)),
        (vote(NOTARIZE, 2, X), vote(FINALIZE, 2, Y)),
        (vote(NOTARIZE, 2, X), vote(NULLIFY, 2)),
        (vote(PROPOSE, 2, X), vote(NOTARIZE, 2, Y)),
        (vote(NOTARIZE, 2, X), vote(NOTARIZE, 2, Y, quorum=OTHER)),
    ]:
        with pytest.raises(ValueError):
            make_fault(a, b, SIGNERS[2].public)


def test_a_fault_that_proves_nothing_is_refused() -> None:
    a, b = PAIRS["notarize"]
    good = make_fault(a, b, SIGNERS[2].public)
    forged = canonical.pack(replace(b, signature=bytes(64)))
    wrong = [
        replace(good, a=good.b, b=good.a),
        replace(good, b=good.a),
        replace(good, kind="finalize"),
        replace(good, kind="cosign"),
        replace(good, key=SIGNERS[3].public),
        replace(good, key=SIGNERS[6].public),
        replace(good, a=good.a + b"\0"),
        replace(good, a=min(forged, good.a), b=max(forged, good.a)),
    ]
    for fault in wrong:
        with pytest.raises(Malformed):
            check_fault(fault, FOUR, QUORUM)
    with pytest.raises(Malformed):
        check_fault(good, FOUR, OTHER)
    with pytest.raises(Malformed):
        check_fault(good, members(2), QUORUM)


def checkpoint(root: bytes, size: int = 9) -> str:
    return Checkpoint(QUORUM, size, root, 5, X, Y, 0, X).text()


def cosigned(text: str, signer: int, time_s: int = 1) -> bytes:
    return str(Note(text, (cosignature(SIGNERS[signer], QUORUM, text, time_s),))).encode()


def cosign_fault(a: bytes, b: bytes, signer: int = 2) -> Fault:
    return Fault("cosign", SIGNERS[signer].public, min(a, b), max(a, b))


def test_two_cosignatures_of_one_size() -> None:
    fault = cosign_fault(cosigned(checkpoint(X), 2), cosigned(checkpoint(Y), 2))
    assert check_fault(fault, FOUR, QUORUM) == "cosign" and fault_slot(fault) == (5, 0)
    one = cosigned(checkpoint(X), 2)
    log_only = str(Note(checkpoint(Y), (log_signature(SIGNERS[2], QUORUM, checkpoint(Y)),))).encode()
    for other in [
        cosigned(checkpoint(X), 2, time_s=2),
        cosigned(checkpoint(Y, 10), 2),
        cosigned(checkpoint(Y), 3),
        log_only,
        b"\xff\xff",
    ]:
        with pytest.raises(Malformed):
            check_fault(cosign_fault(one, other), FOUR, QUORUM)


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([*PAIRS, "cosign", ""]))
def test_junk_is_refused_by_name(a: bytes, b: bytes, kind: str) -> None:
    with pytest.raises(Malformed):
        check_fault(Fault(kind, SIGNERS[2].public, a, b), FOUR, QUORUM)


# --- forensics ----------------------------------------------------------------------------------------


def test_a_fork_names_more_than_a_third() -> None:
    """Views 0 and 1 end with different blocks: the nullification of 0 convicts its finalizers."""
    fork = [
        cert(FINALIZE, X, (0, 1, 2)),
        cert(NULLIFY, b"", (1, 2, 3)),
        cert(NOTARIZE, Y, (1, 2, 3), view=1),
        cert(FINALIZE, Y, (1, 2, 3), view=1),
    ]
    assert guilty(fork) == {1, 2} == {a.signer for a, _ in conflicts(fork)}
    assert guilty(fork[1:]) == set()
    key = SIGNERS[1].public
    assert check_fault(make_fault(*conflicts(fork)[0], key), FOUR, QUORUM) == "finalize-nullify"


# --- quarantine ---------------------------------------------------------------------------------------


def test_quarantine_needs_answers_of_a_quorum_of_others() -> None:
    ids, key = [v.idao for v in FOUR.validators], FOUR.validators[0].key
    assert quarantine_until({ids[1]: 7, ids[2]: 9}, FOUR, key) is None
    assert quarantine_until({ids[0]: 99, ids[1]: 7, ids[2]: 9}, FOUR, key) is None, "our own does not count"
    assert quarantine_until({ids[1]: 7, ids[2]: 9, ids[3]: 8}, FOUR, key) == 11
    assert quarantine_until({ids[1]: 7, ids[2]: 9, ids[3]: 8, b"?": 99}, FOUR, key) == 11
    assert quarantine_until({ids[1]: 7, ids[2]: 9, ids[3]: 8}, FOUR, key, set_changes=2) == 13
    three = members(3)
    assert quarantine_until({v.idao: 7 for v in three.validators}, three, key) is None


def test_whoever_sends_what_does_not_hold_is_blamed() -> None:
    """Each such frame costs a signature check, and no honest node sends one on: it has checked it first."""
    bench = Bench(Machine).start()
    good, bad = bench.sv(NOTARIZE, 2, 0, PROPOSED), bytes(64)
    forged = bench.cert(NULLIFY, 0)
    bench.say(replace(good, signature=bad), peer=3)
    bench.say(replace(forged, signatures=(bad, *forged.signatures[1:])), peer=3)
    proposed = bench.frame(0, PROPOSED)
    bench.say(replace(proposed, vote=replace(proposed.vote, signature=bad)), peer=3)
    assert [e.peer for e in bench.effects if isinstance(e, ev.Blame)] == [bench.peers[3]] * 3
    assert bench.machine.h is not None and len(bench.machine.h.votes) == 0
    bench.say(good, bench.sv(NOTARIZE, 2, 0, PROPOSED, quorum=b"q" * 32), forged, peer=1)
    blamed = [e for e in bench.effects if isinstance(e, ev.Blame)]
    assert len(blamed) == 3, "another quorum's is only passed over"
