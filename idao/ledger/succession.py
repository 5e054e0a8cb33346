"""When too many are away for good: a group that continues another one, by a recovery genesis.

It is a new quorum with a new id. Its genesis names the old quorum and the last checkpoint known of it, is
signed by every founder (each of whom sat in the old set at that checkpoint) and by as many recovery keys as
the old genesis asks for. It carries the old genesis and the way to that set, so whoever sees it can tell how
many of the old validators stand behind it, and never takes it for the old quorum going on.
"""

from __future__ import annotations

from typing import Annotated

from idao import anchor
from idao.crypto import note
from idao.errors import Malformed, VerificationFailed
from idao.frozen import frozen
from idao.ledger import lineage
from idao.ledger.lineage import LINKS_MAX, Link
from idao.model import Genesis, Parent, PublicKey, Signature, Size, ValidatorSet


@frozen
class Consent:
    """A recovery key of the old genesis, and its signature on the new one."""

    key: PublicKey
    signature: Signature


@frozen
class Ancestry:
    """How the old quorum came to the set that the new one descends from."""

    genesis: Genesis
    lineage: Annotated[tuple[Link, ...], Size(0, LINKS_MAX)]


@frozen
class Behind:
    """Who of the old set stands behind a recovery."""

    quorum: bytes
    """The old quorum."""
    height: int
    """The last height known of it: what it decided after that is not continued."""
    epoch: int
    validators: int
    """How many had a vote in it at that height."""
    founders: int
    """How many of them founded the new one."""
    power: int
    """Their power in the old set."""
    total_power: int

    def __str__(self) -> str:
        return (
            f"{self.founders} of its {self.validators} last validators "
            f"(power {self.power} of {self.total_power}) stand behind it"
        )


def parent_of(quorum: bytes, head: str | None) -> Parent:
    """What a recovery genesis names: the newest checkpoint, or the genesis where nothing was anchored."""
    if head is None:
        return Parent(quorum, 0, quorum, b"")
    c = note.parse_checkpoint(note.parse_note(head).text)
    return Parent(quorum, c.height, c.header, head.encode())


def judge(genesis: Genesis, old_quorum: bytes, ancestry: Ancestry) -> Behind:
    """Who of the old set founded `genesis`. `old_quorum` is the id of the ancestry's genesis.

    Raises `VerificationFailed` unless its parent is an anchor of the old quorum and every founder sat there.
    """
    parent = genesis.parent
    if parent is None or parent.quorum != old_quorum:
        raise VerificationFailed("the genesis continues another quorum than the one given")
    followed = lineage.follow(old_quorum, ancestry.genesis.validators, ancestry.lineage)
    _check_head(parent, followed)
    last = followed.sets[-1]
    seats = {v.idao: v.power for v in last.validators}
    founders = [v.idao for v in genesis.validators.validators]
    if not all(f in seats for f in founders):
        raise VerificationFailed("a founder of the recovery had no seat in the quorum that it continues")
    return Behind(
        quorum=old_quorum,
        height=parent.height,
        epoch=len(followed.sets) - 1,
        validators=len(seats),
        founders=len(founders),
        power=sum(seats[f] for f in founders),
        total_power=last.total_power,
    )


def _check_head(parent: Parent, followed: lineage.Followed) -> None:
    """The checkpoint that the recovery names was anchored by the last set of the ancestry."""
    validators: ValidatorSet = followed.sets[-1]
    if parent.height == 0 and not parent.note and parent.header == parent.quorum:
        if len(followed.sets) != 1:
            raise VerificationFailed("the recovery names the genesis, and changes of the set after it")
        return
    try:
        judged = anchor.check_anchor(note.parse_note(parent.note.decode()), validators)
    except (Malformed, UnicodeDecodeError) as e:
        raise VerificationFailed("the recovery names no checkpoint of the old quorum") from e
    c = judged.checkpoint
    if (c.quorum, c.height, c.header) != (parent.quorum, parent.height, parent.header):
        raise VerificationFailed("the recovery names another block than its checkpoint does")
    if c.epoch != len(followed.sets) - 1 or c.height <= followed.since:
        raise VerificationFailed("the checkpoint of the recovery is of another epoch")
