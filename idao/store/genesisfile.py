"""`ledgers/QUORUM.genesis`: the signed genesis of a group beside its ledger, for the day that is damaged.

It needs no sum: its name is its hash, and what that does not cover is signed.
"""

from __future__ import annotations

from pathlib import Path

from idao.crypto import canonical
from idao.errors import VerificationFailed
from idao.home import write_file
from idao.ledger.genesis import Bundle, check_bundle, quorum_id
from idao.model import show_id

SUFFIX = ".genesis"


def path_of(ledger: Path) -> Path:
    return ledger.with_suffix(SUFFIX)


def keep(ledger: Path, bundle: Bundle) -> None:
    """Writes it, unless it is there."""
    if not path_of(ledger).exists():
        write_file(path_of(ledger), canonical.pack(bundle))


def read(path: Path) -> Bundle:
    """`VerificationFailed` unless it is, byte by byte, what its name says."""
    bundle = canonical.unpack(Bundle, path.read_bytes())
    if show_id("quorum", quorum_id(bundle.genesis)) != f"quorum:{path.stem}":
        raise VerificationFailed("is the genesis of another quorum, or damaged")
    check_bundle(bundle)
    return bundle
