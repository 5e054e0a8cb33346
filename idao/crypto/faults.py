"""Faults: two signed messages that a correct validator never makes both (ADR 0031, R8).

On this floor, so that the ledger can judge a fault without knowing the quorum room, and a stranger
without either.
"""

from __future__ import annotations

from idao.crypto import canonical
from idao.crypto.keys import verify_vote
from idao.crypto.note import Note, cosigner_name, parse_checkpoint, parse_note, verify_cosignature
from idao.errors import Malformed
from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, Fault, SignedVote, ValidatorSet

COSIGN = "cosign"
FAULT_OF = {
    (PROPOSE, PROPOSE): "propose",
    (NOTARIZE, NOTARIZE): "notarize",
    (FINALIZE, FINALIZE): "finalize",
    (FINALIZE, NULLIFY): "finalize-nullify",
    (NULLIFY, FINALIZE): "finalize-nullify",
}
"""By the kinds of the two votes. Two nullifies are the same message."""


def conflict(a: SignedVote, b: SignedVote) -> str | None:
    """The kind of fault that two votes of one signer are, or None. Signatures are not looked at."""
    if a.signer != b.signer or a.vote == b.vote or a.vote.quorum != b.vote.quorum:
        return None
    if a.vote.slot != b.vote.slot:
        return None
    return FAULT_OF.get((a.vote.kind, b.vote.kind))


def make_fault(a: SignedVote, b: SignedVote, key: bytes) -> Fault:
    """The fault of two conflicting votes, the same value whichever was seen first."""
    kind = conflict(a, b)
    if kind is None:
        raise ValueError("these votes do not conflict")
    first, second = sorted((canonical.pack(a), canonical.pack(b)))
    return Fault(kind, key, first, second)


def fault_slot(fault: Fault) -> tuple[int, int]:
    """(height, view) of a fault by votes; (height, 0) of a cosigning fault. For its window and dedup."""
    if fault.kind == COSIGN:
        return parse_checkpoint(_note(fault.a).text).height, 0
    vote = canonical.unpack(SignedVote, fault.a).vote
    return vote.height, vote.view


def cosigned_size(fault: Fault) -> int:
    """Tree size of both checkpoints of a cosigning fault. Which of them is true need not be known."""
    return parse_checkpoint(_note(fault.a).text).size


def make_cosign_fault(a: Note, b: Note, key: bytes) -> Fault:
    """The fault of two notes that hold one cosignature each, the same value whichever was seen first."""
    first, second = sorted((str(a).encode(), str(b).encode()))
    return Fault(COSIGN, key, first, second)


def check_fault(fault: Fault, validators: ValidatorSet, quorum: bytes) -> str:
    """The kind of a proven fault of a member of `validators` (the set of its height).

    Raises `Malformed` when it proves nothing: the key is not a member's, a signature is wrong, the two
    messages do not conflict, are of another quorum, or stand in another order than `make_fault` gives.
    """
    index = validators.index_of_key(fault.key)
    if index is None:
        raise Malformed("fault of a key outside the validator set")
    if fault.a >= fault.b:
        raise Malformed("fault: its two messages are not in order")
    if fault.kind == COSIGN:
        return _check_cosign(fault, quorum)
    a, b = canonical.unpack(SignedVote, fault.a), canonical.unpack(SignedVote, fault.b)
    if a.signer != index or a.vote.quorum != quorum or conflict(a, b) != fault.kind:
        raise Malformed("fault: the two votes do not conflict as it says")
    if not all(verify_vote(fault.key, v.signature, v.vote) for v in (a, b)):
        raise Malformed("fault: a signature does not verify")
    return fault.kind


def _check_cosign(fault: Fault, quorum: bytes) -> str:
    """Two cosignatures of one key on different texts of one tree size."""
    notes = _note(fault.a), _note(fault.b)
    a, b = (parse_checkpoint(n.text) for n in notes)
    if a.quorum != quorum or b.quorum != quorum or a.size != b.size or notes[0].text == notes[1].text:
        raise Malformed("fault: the two checkpoints do not conflict")
    name = cosigner_name(quorum, fault.key)
    for note in notes:
        lines = note.signatures
        # Exactly one line each, so that one fault has one spelling.
        if len(lines) != 1 or lines[0].name != name:
            raise Malformed("fault: a note must hold one cosignature of the key")
        if not verify_cosignature(lines[0], quorum, fault.key, note.text):
            raise Malformed("fault: a cosignature does not verify")
    return COSIGN


def _note(data: bytes) -> Note:
    try:
        return parse_note(data.decode())
    except UnicodeDecodeError as e:
        raise Malformed("not a signed note") from e
