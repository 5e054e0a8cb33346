"""The frames that meshes send each other (kinds 0–15); all others are the hub's."""

from __future__ import annotations

from typing import Annotated

from idao.crypto import canonical
from idao.frozen import frozen
from idao.model import Id, Range, Size
from idao.node import link
from idao.noderecord import SignedNodeRecord

HELLO, KEEP_ALIVE, RECORDS, ASK_RECORDS, BYE, PAIR = range(6)
VERSION = 1
"""Of what these frames mean."""
HUB_KINDS = 16
"""Kinds from here on are the hub's."""
PEERS_MAX = 128
"""Twice the largest validator set: observers and joiners."""
RECORDS_MAX = PEERS_MAX + 1
RECORDS_BYTES_MAX = RECORDS_MAX * 2048
"""A record with the largest certificate and eight addresses has 1,900 bytes."""
SMALL_MAX = 16 * 1024
"""Of all others: the largest has a status of 4 KiB."""

_Status = Annotated[bytes, Size(0, 4096)]


@frozen
class Hello:
    v: int
    quorum: Id
    idao: Id
    boot: Annotated[bytes, Size(16)]
    """Random, once a process."""
    record: SignedNodeRecord
    status: _Status
    software: Annotated[str, Size(0, 64)]


@frozen
class KeepAlive:
    interval_ms: Annotated[int, Range(100, 10_000)]
    """When to expect the next at the latest."""
    time_ms: int
    """The sender's clock."""
    sent_us: int
    """The sender's stopwatch; comes back as `echo_us`."""
    echo_us: int
    """`sent_us` of the last keep-alive received; 0 when there was none."""
    held_us: int
    """How long ago that was."""
    prompt: bool
    """Please answer at once: is anybody still there?"""
    status: _Status


@frozen
class Records:
    records: Annotated[tuple[SignedNodeRecord, ...], Size(0, RECORDS_MAX)]


@frozen
class Bye:
    reason: Annotated[str, Size(0, 200)]


def bye(reason: str) -> bytes:
    """The frame that says why a link ends."""
    return link.frame(BYE, canonical.pack(Bye(reason[:100])))


def records(known: list[SignedNodeRecord]) -> bytes:
    """The frame that carries node records."""
    return link.frame(RECORDS, canonical.pack(Records(tuple(known[:RECORDS_MAX]))))


def printable(text: str) -> str:
    """What a peer wrote, fit for a terminal and a log."""
    return "".join(c for c in text if c.isprintable())
