"""Anchors: a checkpoint of the log with cosignatures of enough power, and how one is judged.

A header implies exactly one checkpoint (`checkpoint_of`). Each validator signs it twice: as log, so that
outside tools can read it, and as witness; only witness cosignatures count towards an anchor.
"""

from __future__ import annotations

from idao.crypto import merkle, note
from idao.crypto.hashing import header_hash, validators_hash
from idao.crypto.keys import Verify, verify
from idao.errors import VerificationFailed
from idao.frozen import frozen
from idao.model import Header, ValidatorSet


@frozen
class Anchor:
    """A judged anchor. Powers are sums over distinct validators of the epoch."""

    checkpoint: note.Checkpoint
    cosigners: tuple[int, ...]
    """Indexes in the validator set."""
    power: int
    required_power: int
    latest_s: int
    """The latest time that a cosigner states, POSIX seconds."""


def checkpoint_of(header: Header, frontier: merkle.Frontier, epoch: int) -> note.Checkpoint:
    """The checkpoint that a header implies. `frontier` is the log including the block's own leaf."""
    return note.Checkpoint(
        quorum=header.quorum,
        size=frontier.size,
        root=frontier.root(),
        height=header.height,
        header=header_hash(header),
        state_root=header.state_root,
        epoch=epoch,
        validators=header.validators,
    )


def check_anchor(
    signed: note.Note,
    validators: ValidatorSet,
    check: Verify = verify,
    checkpoint: note.Checkpoint | None = None,
) -> Anchor:
    """Judges a checkpoint note alone: every line must verify and belong to the set, none twice.

    Raises `VerificationFailed` for a foreign, repeated or bad line, and for too little power. `checkpoint`
    is what the note's text says, for a caller who knows.
    """
    checkpoint = checkpoint or note.parse_checkpoint(signed.text)
    if checkpoint.validators != validators_hash(validators):
        raise VerificationFailed("the checkpoint names another validator set")
    cosigners: list[int] = []
    logs: list[int] = []
    latest = 0
    for line in signed.signatures:
        index, cosigned = _signer_of(line, checkpoint, validators, signed.text, check)
        seen = cosigners if cosigned else logs
        if index in seen:
            raise VerificationFailed("a validator signed the checkpoint twice")
        seen.append(index)
        if cosigned:
            latest = max(latest, line.time_s)
    power = sum(validators.validators[i].power for i in cosigners)
    if power < validators.quorum_size:
        raise VerificationFailed(
            f"cosignatures of power {power}, where {validators.quorum_size} of "
            f"{validators.total_power} are needed"
        )
    return Anchor(checkpoint, tuple(sorted(cosigners)), power, validators.quorum_size, latest)


def _signer_of(
    line: note.SignatureLine,
    checkpoint: note.Checkpoint,
    validators: ValidatorSet,
    text: str,
    check: Verify,
) -> tuple[int, bool]:
    """(validator index, whether it is a cosignature) of a signature line that verifies."""
    for i, v in enumerate(validators.validators):
        cosigner = note.cosigner_name(checkpoint.quorum, v.key)
        if line.name == cosigner and line.key_id == note.key_id(cosigner, note.SIG_COSIGNATURE, v.key):
            if not note.verify_cosignature(line, checkpoint.quorum, v.key, text, check):
                raise VerificationFailed("a cosignature does not verify")
            return i, True
        log = note.origin(checkpoint.quorum)
        if line.name == log and line.key_id == note.key_id(log, note.SIG_LOG, v.key):
            if not note.verify_log_signature(line, checkpoint.quorum, v.key, text, check):
                raise VerificationFailed("a log signature does not verify")
            return i, False
    raise VerificationFailed("a signature line is by nobody in the validator set")


def vkeys(quorum: bytes, validators: ValidatorSet) -> list[tuple[str, str]]:
    """(log vkey, cosigner vkey) of each validator, for tools of other makers."""
    return [
        (
            note.vkey(note.origin(quorum), note.SIG_LOG, v.key),
            note.vkey(note.cosigner_name(quorum, v.key), note.SIG_COSIGNATURE, v.key),
        )
        for v in validators.validators
    ]
