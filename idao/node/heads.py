"""Cosigning: the newest heads of one ledger, and who stands behind each.

A header implies one checkpoint, so whoever has committed a block knows the text that every validator signs.
Once cosignatures of power ≥ quorum_size are held, the note is kept: the anchor.
"""

from __future__ import annotations

from collections import OrderedDict

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
        """`Malformed` unless both signatures are those of a validator of this height on this text."""
        if self.validators.index_of_key(c.key) is None:
            raise Malformed("a cosignature by nobody in the validator set")
        log, witness = self.lines(c)
        if not note.verify_log_signature(log, self.quorum, c.key, self.text) or not note.verify_cosignature(
            witness, self.quorum, c.key, self.text
        ):
            raise Malformed(f"a cosignature of height {self.height} does not hold")

    def note(self) -> str:
        """The signed note, cosigners in the order of the set."""
        cosigners = [self.by_key[v.key] for v in self.validators.validators if v.key in self.by_key]
        pairs = [self.lines(c) for c in cosigners]
        return str(note.Note(self.text, tuple(log for log, _ in pairs) + tuple(w for _, w in pairs)))


class Heads:
    """The heads that still gather cosignatures. Whoever calls holds the store's transaction open."""

    def __init__(self, store: LedgerStore, signer: Signer) -> None:
        self._store, self._signer = store, signer
        self._heads: OrderedDict[int, Head] = OrderedDict()
        self._early: dict[bytes, list[Cosigned]] = {}

    def restore(self, tip: Tip) -> None:
        """After a start: the newest height may not be anchored yet, and our word on it is given."""
        if tip.height:
            epoch, validators = self._store.validators(tip.height)
            head = Head(self._store.header(tip.height), tip.frontier, epoch.epoch, validators)
            head.by_key = {c.key: c for c in cosigns.held(self._store.db, tip.height)}
            found = self._store.checkpoint(tip.height)
            head.kept = len(validators.validators) if found else 0
            self._heads[tip.height] = head

    def add(
        self, header: Header, frontier: merkle.Frontier, epoch: int, validators: ValidatorSet, *, sign: bool
    ) -> Cosigned | None:
        """A height was committed: signs its head if we are to, and takes in what came before it."""
        head = self._heads[header.height] = Head(header, frontier, epoch, validators)
        while len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)
        mine = self._sign(head, header.time_ms // 1000) if sign else None
        for waiting in self._early.values():
            for c in [c for c in waiting if c.height <= header.height]:
                waiting.remove(c)
                if c.height == header.height:
                    self._take(head, c)
        self._keep(head)
        return mine

    def _sign(self, head: Head, time_s: int) -> Cosigned | None:
        if head.validators.index_of_key(self._signer.public) is None:
            return None
        log = note.log_signature(self._signer, head.quorum, head.text).signature
        witness = note.cosignature(self._signer, head.quorum, head.text, time_s).signature[8:]
        mine = Cosigned(head.height, self._signer.public, log, time_s, witness)
        cosigns.put(self._store.db, mine)
        head.by_key[mine.key] = mine
        return mine

    def take(self, peer: bytes, c: Cosigned) -> bool:
        """A peer's cosignature. Whether the head is anchored now and was not. `Malformed` if it is bad."""
        head = self._heads.get(c.height)
        if head is None:
            if c.height > next(reversed(self._heads), 0):
                waiting = self._early.setdefault(peer, [])
                waiting.append(c)
                del waiting[:-EARLY_MAX]
            return False
        if c.key in head.by_key:
            return False
        head.check(c)
        head.by_key[c.key] = c
        return head.anchored and not head.kept

    def _take(self, head: Head, c: Cosigned) -> None:
        try:
            head.check(c)
        except Malformed:
            return  # What came early could not be checked then; its sender is not asked again.
        head.by_key.setdefault(c.key, c)

    def _keep(self, head: Head) -> None:
        if self._grown(head):
            head.kept = len(head.by_key)
            self._store.put_checkpoint(head.height, head.size, head.note())

    @staticmethod
    def _grown(head: Head) -> bool:
        return head.power >= head.validators.quorum_size and len(head.by_key) > head.kept

    def keep_all(self) -> bool:
        """Stores every note that has grown. Whether one had."""
        grown = [h for h in self._heads.values() if self._grown(h)]
        for head in grown:
            self._keep(head)
        return bool(grown)

    def held(self, height: int) -> list[Cosigned]:
        """Cosignatures of a height, while they are still gathered."""
        head = self._heads.get(height)
        return list(head.by_key.values()) if head else []

    def newest(self) -> Head | None:
        return self._heads[next(reversed(self._heads))] if self._heads else None
