"""Collateral that evidence on the ledger names by its hash: asked of peers, and given to them.

A transaction holds 64 KiB, and some vendors' lists of revocations have half a megabyte. Such a bundle is no
part of the ledger: it is fetched from whoever has it, the validator that named it first of all, so that every
member can judge that validator's evidence and put the bundle into its own proofs (ADR 0049).
"""

from __future__ import annotations

from pathlib import Path

from idao.errors import IdaoError, Malformed
from idao.ledger.attest import Attestation
from idao.ledger.backing import bundle_name
from idao.node import messages as msg
from idao.node.parts import Whole
from idao.store import bundles

PATIENCE_TICKS = 10
"""Seconds for an answer: two megabytes on the slowest link worth having, beside everything else on it."""
AGAIN_TICKS = 120
"""Seconds after which those that had nothing are asked again: they may have got it meanwhile."""


class Bundles:
    """What one ledger names and this home lacks. At most one question is open."""

    def __init__(self, member: Whole, home: Path) -> None:
        self._member, self._home = member, home
        self._named: dict[bytes, bytes] = {}
        """Name of a bundle -> a validator whose evidence names it."""
        self._lacking: dict[bytes, set[bytes]] = {}
        """Name -> peers asked in vain."""
        self._asked: tuple[bytes, bytes] | None = None
        self._ticks = self._since = 0

    def look(self) -> None:
        """After a block that registered evidence, and at the start: what is named and not here."""
        store = self._member.engine.store
        named = {a.collateral: a.validator for a in store.state().scan(Attestation) if a.collateral}
        for name in named.keys() - self._named.keys():
            if not self._is_here(name):
                self._lacking[name] = set()
        for name in self._lacking.keys() - named.keys():
            del self._lacking[name]
        self._named = named
        bundles.drop_others(self._home, store.chain.quorum, named)

    def _is_here(self, name: bytes) -> bool:
        found = bundles.find(self._home, name)
        return found is not None and _is_named(found, name)

    # --- asking

    def tick(self) -> None:
        """Once a second: asks the next one for the next thing, if anything is lacking."""
        if not self._lacking:
            return
        self._ticks, self._since = self._ticks + 1, self._since + 1
        if self._asked is not None and self._ticks < PATIENCE_TICKS:
            return
        self._asked = None
        if self._since >= AGAIN_TICKS:
            self._since = 0
            for tried in self._lacking.values():
                tried.clear()
        for name, tried in self._lacking.items():
            if self._ask(name, tried):
                return

    def _ask(self, name: bytes, tried: set[bytes]) -> bool:
        first = self._named[name]
        for peer in sorted(self._member.up - tried, key=lambda p: (p != first, p)):
            tried.add(peer)
            if self._member.tell(peer, msg.GetBundle(name)):
                self._asked, self._ticks = (peer, name), 0
                return True
        return False

    def on_up(self, peer: bytes) -> None:
        """One that comes back may bring what it lacked."""
        for tried in self._lacking.values():
            tried.discard(peer)

    def on_bundle(self, peer: bytes, answer: msg.Bundle) -> bool:
        """Keeps what was asked for; whether it is here now. `Malformed` if it is something else."""
        if self._asked != (peer, answer.name) or answer.name not in self._lacking:
            return False  # too late: another peer was quicker, or the evidence was replaced
        self._asked = None
        if not answer.data:
            return False
        if not _is_named(answer.data, answer.name):
            raise Malformed("a bundle of collateral that is not the one asked for")
        try:
            quorum = self._member.engine.store.chain.quorum
            bundles.keep_of_peer(self._home, quorum, answer.name, answer.data)
        except OSError as e:  # a full disk, say: asked for again later
            self._member.on_trouble("collateral", f"a bundle could not be kept: {e.strerror}")
            return False
        del self._lacking[answer.name]
        return True

    # --- answering

    def serve(self, peer: bytes, name: bytes) -> None:
        """Gives what the ledger names and nothing else of this home; empty if it is not here or too large."""
        found = bundles.find(self._home, name) if name in self._named else None
        if found is None or len(found) > msg.BUNDLE_MAX:
            found = b""
        self._member.tell(peer, msg.Bundle(name, found))


def _is_named(data: bytes, name: bytes) -> bool:
    try:
        return bundle_name(data) == name
    except IdaoError:
        return False
