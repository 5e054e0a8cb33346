"""When too many are away for good: a group that continues another one, by a recovery genesis.

It is a new quorum with a new id. Its genesis names the old quorum and the last checkpoint known of it and is
signed by every founder, each of whom sat in the old set at that checkpoint. Beside them sign as many recovery
keys as the old genesis asks for, or other members of that set until together they had more than half of its
power. It carries the old genesis and the way to that set, so whoever sees it can tell how many of the old
validators stand behind it, and never takes it for the old quorum going on.
"""

from __future__ import annotations

from typing import Annotated

from idao import anchor, identity
from idao.crypto import note
from idao.crypto.keys import verify_genesis
from idao.errors import Malformed, VerificationFailed
from idao.frozen import frozen
from idao.ledger import lineage
from idao.ledger.idao import KEY_EVENTS_MAX
from idao.ledger.lineage import LINKS_MAX, Link
from idao.model import (
    VALIDATORS_MAX,
    Genesis,
    Inception,
    Parent,
    PublicKey,
    Signature,
    SignedKeyEvent,
    Size,
    ValidatorSet,
)


@frozen
class Consent:
    """A recovery key of the old genesis, and its signature on the new one."""

    key: PublicKey
    signature: Signature


@frozen
class Supporter:
    """A member of the old set that founds nothing and signed the new genesis all the same."""

    inception: Inception
    events: Annotated[tuple[SignedKeyEvent, ...], Size(0, KEY_EVENTS_MAX)]
    signature: Signature


@frozen
class Ancestry:
    """How the old quorum came to the set that the new one descends from, and who of that set agrees."""

    genesis: Genesis
    lineage: Annotated[tuple[Link, ...], Size(0, LINKS_MAX)]
    supporters: Annotated[tuple[Supporter, ...], Size(0, VALIDATORS_MAX)] = ()
    """In the order of their iDAO ids."""


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
    supporters: int
    """How many more of them signed its genesis."""
    power: int
    """The power of all these in the old set."""
    total_power: int

    @property
    def is_majority(self) -> bool:
        """Whether they had more than half of the power: two such share a member who signed both."""
        return 2 * self.power > self.total_power

    def __str__(self) -> str:
        return (
            f"{self.founders + self.supporters} of its {self.validators} last validators "
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

    Raises `VerificationFailed` unless its parent is an anchor of the old quorum and everybody sat there.
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
    supporters = _supporters(genesis, ancestry.supporters)
    if not set(supporters) <= seats.keys() - set(founders):
        raise VerificationFailed("whoever supports the recovery had no seat there, or founds it")
    return Behind(
        quorum=old_quorum,
        height=parent.height,
        epoch=len(followed.sets) - 1,
        validators=len(seats),
        founders=len(founders),
        supporters=len(supporters),
        power=sum(seats[i] for i in (*founders, *supporters)),
        total_power=last.total_power,
    )


def _supporters(genesis: Genesis, given: tuple[Supporter, ...]) -> list[bytes]:
    """Their ids, by their signatures on `genesis`; each once, in order."""
    found = []
    for one in given:
        now = identity.key_at(one.inception, one.events)
        if not verify_genesis(now.key, one.signature, genesis):
            raise VerificationFailed("a supporter's signature on the genesis does not hold")
        found.append(now.idao)
    if found != sorted(set(found)):
        raise VerificationFailed("supporters are not listed once each, in order")
    return found


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
