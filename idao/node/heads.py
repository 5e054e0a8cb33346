"""Cosigning: the newest heads of one ledger, and who stands behind each.

A header implies one checkpoint, so whoever has committed a block knows the text that every validator signs.
Once cosignatures of power ≥ quorum_size are held, the note is kept: the anchor.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress

from idao import anchor
from idao.crypto import merkle, note
from idao.crypto.keys import Signer
from idao.errors import Malformed
from idao.ledger.execution import Tip
from idao.model import Header, ValidatorSet
from idao.store import cosigns
from idao.store.cosigns import Cosigned
from idao.store.ledger import LedgerStore

HEADS_MAX = cosigns.KEPT
"""Heights that still take cosignatures; an older head is covered by any newer anchor."""
EARLY_MAX = 4
"""Cosignatures kept per peer for heights not committed here yet: peers are at most so far ahead."""


class Head:
    """The checkpoint of one committed height and its cosigners."""

    def __init__(
        self, header: Header, frontier: merkle.Frontier, epoch: int, validators: ValidatorSet
    ) -> None:
        """`frontier`: the log with the block's own leaf."""
        self.quorum, self.height, self.size = header.quorum, header.height, frontier.size
        self.validators = validators
        self.text = anchor.checkpoint_of(header, frontier, epoch).text()
        self.by_key: dict[bytes, Cosigned] = {}
        self.log: Cosigned | None = None
        """Whose signature as log stands in the note: one serves outside tools, so one is checked."""
        self.kept = 0
        """Cosigners in the note as it was last stored."""

    @property
    def power(self) -> int:
        return sum(v.power for v in self.validators.validators if v.key in self.by_key)

    @property
    def anchored(self) -> bool:
        return self.kept > 0 or self.power >= self.validators.quorum_size

    def lines(self, c: Cosigned) -> tuple[note.SignatureLine, note.SignatureLine]:
        log, witness = note.origin(self.quorum), note.cosigner_name(self.quorum, c.key)
        stamped = c.time_s.to_bytes(8, "big") + c.witness
        return (
            note.SignatureLine(log, note.key_id(log, note.SIG_LOG, c.key), c.log),
            note.SignatureLine(witness, note.key_id(witness, note.SIG_COSIGNATURE, c.key), stamped),
        )

    def check(self, c: Cosigned) -> None:
        """`Malformed` unless this is the cosignature of a validator of this height on this text."""
        if self.validators.index_of_key(c.key) is None:
            raise Malformed("a cosignature by nobody in the validator set")
        log, witness = self.lines(c)
        holds = note.verify_cosignature(witness, self.quorum, c.key, self.text)
        if not holds or (
            self.log is None and not note.verify_log_signature(log, self.quorum, c.key, self.text)
        ):
            raise Malformed(f"a cosignature of height {self.height} does not hold")

    def add(self, c: Cosigned) -> bool:
        """Takes in what `check` has passed, or one's own. Whether the note has grown by it."""
        self.by_key[c.key] = c
        self.log = self.log or c
        return self.power >= self.validators.quorum_size and len(self.by_key) > self.kept

    def note(self) -> str:
        """The signed note, cosigners in the order of the set."""
        cosigners = [self.by_key[v.key] for v in self.validators.validators if v.key in self.by_key]
        logs = [self.lines(self.log)[0]] if self.log else []
        return str(note.Note(self.text, (*logs, *(self.lines(c)[1] for c in cosigners))))


class Heads:
    """The heads that still gather cosignatures."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._heads: OrderedDict[int, Head] = OrderedDict()
        self._early: dict[bytes, list[Cosigned]] = {}
        self.grown: set[int] = set()
        """Heights whose note has more cosigners than the one that is stored."""

    def restore(self, tip: Tip) -> None:
        """After a start: the newest height may not be anchored yet, and our word on it is given."""
        if tip.height:
            epoch, validators = self._store.validators(tip.height)
            head = Head(self._store.header(tip.height), tip.frontier, epoch.epoch, validators)
            for c in cosigns.held(self._store.db, tip.height):
                head.add(c)
            head.kept = len(validators.validators) if self._store.checkpoint(tip.height) else 0
            self._heads[tip.height] = head

    def add(
        self,
        header: Header,
        frontier: merkle.Frontier,
        epoch: int,
        validators: ValidatorSet,
        signer: Signer | None,
    ) -> Cosigned | None:
        """A height was committed: signs its head by `signer`, and takes in what came before it."""
        head = self._heads[header.height] = Head(header, frontier, epoch, validators)
        while len(self._heads) > HEADS_MAX:
            self.grown.discard(self._heads.popitem(last=False)[0])
        mine = self._sign(head, signer, header.time_ms // 1000) if signer else None
        for waiting in self._early.values():
            for c in [c for c in waiting if c.height <= header.height]:
                waiting.remove(c)
                if c.height == header.height:
                    with suppress(Malformed):  # It could not be checked when it came.
                        self._put(head, c)
        return mine

    def _sign(self, head: Head, signer: Signer, time_s: int) -> Cosigned | None:
        if head.validators.index_of_key(signer.public) is None:
            return None
        log = note.log_signature(signer, head.quorum, head.text).signature
        witness = note.cosignature(signer, head.quorum, head.text, time_s).signature[8:]
        mine = Cosigned(head.height, signer.public, log, time_s, witness)
        cosigns.put(self._store.db, mine)
        if head.add(mine):
            self.grown.add(head.height)
        return mine

    def take(self, peer: bytes, c: Cosigned) -> bool:
        """A peer's cosignature. Whether its head is anchored by it. `Malformed` if it is bad."""
        head = self._heads.get(c.height)
        if head is not None:
            return self._put(head, c)
        if c.height > next(reversed(self._heads), 0):
            waiting = self._early.setdefault(peer, [])
            waiting.append(c)
            del waiting[:-EARLY_MAX]
        return False

    def _put(self, head: Head, c: Cosigned) -> bool:
        if c.key in head.by_key:
            return False
        head.check(c)
        before = head.anchored
        if head.add(c):
            self.grown.add(head.height)
        return head.anchored and not before

    def keep_all(self) -> None:
        """Stores every note that has grown. The caller holds the store's transaction open."""
        for height in sorted(self.grown):
            head = self._heads[height]
            head.kept = len(head.by_key)
            self._store.put_checkpoint(height, head.size, head.note())
        self.grown.clear()

    def held(self, height: int) -> list[Cosigned]:
        """Cosignatures of a height, while they are still gathered."""
        head = self._heads.get(height)
        return list(head.by_key.values()) if head else []

    def newest(self) -> Head | None:
        return self._heads[next(reversed(self._heads))] if self._heads else None
