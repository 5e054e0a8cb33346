"""What a home remembers of the nodes of one quorum: their newest records, beside the ledger.

Hints only: a record says where a node was last and which certificate it shows; the mesh checks its signature,
and the ledger says whose links count. A lost or damaged file costs the time to find each other again, by
discovery or given addresses, and by the hashes of certificates that the ledger names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from idao import noderecord
from idao.crypto import canonical
from idao.errors import Malformed
from idao.frozen import frozen
from idao.home import write_file
from idao.model import Id, Size
from idao.node.wire import RECORDS_MAX
from idao.noderecord import SignedNodeRecord


@frozen
class _Book:
    records: Annotated[tuple[SignedNodeRecord, ...], Size(0, RECORDS_MAX)]
    whole: Annotated[tuple[Id, ...], Size(0, RECORDS_MAX)] = ()
    """Who said last that it keeps the body of every block."""


def path_of(ledger: Path) -> Path:
    return ledger.with_suffix(".peers")


def read(ledger: Path) -> dict[bytes, SignedNodeRecord]:
    """iDAO -> its newest record; those that do not hold are left out."""
    found: dict[bytes, SignedNodeRecord] = {}
    for signed in _read(ledger).records:
        with contextlib.suppress(Malformed):
            noderecord.check(signed)
            found[signed.record.idao] = signed
    return found


def is_sound(data: bytes) -> bool:
    """Whether the bytes of a book are as they were written: each record holds, whoever keeps all has one."""
    try:
        book = canonical.unpack(_Book, data)
        for signed in book.records:
            noderecord.check(signed)
    except Malformed:
        return False
    return set(book.whole) <= _of(book.records)


def _of(records: Iterable[SignedNodeRecord]) -> set[bytes]:
    return {signed.record.idao for signed in records}


def whole(ledger: Path) -> frozenset[bytes]:
    """iDAOs that keep the body of every block, as they said when they were last linked."""
    return frozenset(_read(ledger).whole)


def _read(ledger: Path) -> _Book:
    try:
        return canonical.unpack(_Book, path_of(ledger).read_bytes())
    except (OSError, Malformed):
        return _Book(())


def write(ledger: Path, records: Iterable[SignedNodeRecord], whole: Iterable[bytes] = ()) -> None:
    kept = sorted(records, key=lambda s: s.record.seq, reverse=True)[:RECORDS_MAX]
    book = _Book(tuple(kept), tuple(sorted(_of(kept).intersection(whole))))
    write_file(path_of(ledger), canonical.pack(book))
