"""The keys of a home: showing, turning, locking and recovering them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao import identity
from idao.crypto import canonical, note
from idao.crypto.keys import Signer, did_key
from idao.errors import IdaoError, NotFound, Pending, UsageError, VerificationFailed
from idao.hall.founding import Before
from idao.home import History, entropy
from idao.ledger.genesis import Bundle
from idao.ledger.idao import KEY_EVENTS_MAX, Identity, Register, Rotate
from idao.ledger.tx import parse_tx
from idao.model import Parent, show_id
from idao.store.bodies import applied
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    from idao.dao import Dao

PHRASE = "phrase"
"""The key file that keeps the recovery phrase until its owner has written it down."""


class Keyring:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    # --- showing

    def show(self) -> dict[str, Any]:
        """The key history with the heights at which ledgers of this home took it in. Needs no key."""
        home = self._dao.home
        history = home.history()
        states = identity.history(history.inception, history.events)
        known = self._heights()
        hows = ["inception", *("recovery" if e.event.recovery_key else "rotation" for e in history.events)]
        return {
            **self._now(history),
            "history": [
                {"key_seq": s.key_seq, "key": did_key(s.key), "how": how, "heights": known.get(s.key_seq, [])}
                for s, how in zip(states, hows, strict=True)
            ],
            "keys": str(home.keys_folder),
            "passphrase": home.needs_passphrase(),
            "phrase_kept": self.phrase_kept,
        }

    def _now(self, history: History) -> dict[str, Any]:
        now = identity.key_at(history.inception, history.events)
        return {"idao": show_id("idao", now.idao), "key": did_key(now.key), "key_seq": now.key_seq}

    def _heights(self) -> dict[int, list[dict[str, Any]]]:
        out: dict[int, list[dict[str, Any]]] = {}
        for path in self._ledgers():
            store = LedgerStore.open(path, readonly=True)
            try:
                quorum = show_id("quorum", store.chain.quorum)
                for key_seq, height in self._taken_in(store):
                    out.setdefault(key_seq, []).append({"quorum": quorum, "height": height})
            finally:
                store.close()
        return out

    def _taken_in(self, store: LedgerStore) -> Iterator[tuple[int, int]]:
        """(key number, height) of each of our key events on a ledger."""
        for founder in store.bundle.founders:
            if identity.idao_id(founder.inception) == self._dao.me:
                yield from ((seq, 0) for seq in (0, *(e.event.key_seq for e in founder.events)))
        bodies = {"idao.register": Register, "idao.rotate": Rotate}
        for receipt, raw in applied(store, *bodies):
            envelope, height = parse_tx(raw).envelope, receipt.height
            if envelope.idao == self._dao.me:
                body: Any = canonical.unpack(bodies[envelope.kind], envelope.body)
                if envelope.kind == "idao.register":
                    yield 0, height
                yield from ((e.event.key_seq, height) for e in body.events)

    def _ledgers(self) -> list[Path]:
        return sorted(self._dao.home.ledgers_folder.glob("*.db"))

    # --- the recovery phrase

    @property
    def phrase_kept(self) -> bool:
        return (self._dao.home.keys_folder / f"{PHRASE}.key").exists()

    def phrase(self) -> str:
        """The 24 words, while they are kept here. For a terminal or a file of mode 0600, nothing else."""
        if not self.phrase_kept:
            raise NotFound(
                "the recovery phrase is not kept here: it was written down, or typed in a recovery",
                hint="if it is lost, make a new backup and keep it safe: nothing can show the words again",
            )
        home = self._dao.home
        return home.read_key(PHRASE, self._dao.keys().kek).decode()

    def drop_phrase(self) -> None:
        """Destroys the kept phrase: from now on it is only where its owner wrote it."""
        self._dao.home.remove_key(PHRASE)

    # --- turning

    def rotate(self) -> dict[str, Any]:
        """The committed next key becomes the identity key, here and on every ledger of this home.

        The home turns first, then the ledgers follow; one that cannot now does so at its next submission.
        A rotation that a crash cut short is finished instead of making another.
        """
        dao, home = self._dao, self._dao.home
        kek = dao.keys().kek
        with home.exclusive(dao.wait_s):
            if not home.settle_keys(kek):
                self._turn(kek)
        dao.reload_keys()
        quorums, trouble = [], None
        for path in self._ledgers():
            try:
                quorums += self._bring(path)
            except IdaoError as e:  # the other ledgers must still hear of it
                e.message = (
                    f"the key is rotated here, but 'quorum:{path.stem}' does not know it yet: {e.message}"
                )
                if e.code == "disk-full":  # the same command again would rotate the key once more
                    e.hint = "free some space there: whatever you sign next on that ledger brings it the key"
                trouble = trouble or e
        if trouble is not None:
            raise trouble
        return {**self._now(home.history()), "quorums": quorums}

    def _turn(self, kek: bytes) -> None:
        home = self._dao.home
        history = home.history()
        if len(history.events) >= KEY_EVENTS_MAX:
            raise UsageError(
                f"a key history has at most {KEY_EVENTS_MAX} events",
                hint="a recovery starts it anew: idao key recover",
            )
        now = identity.key_at(history.inception, history.events)
        after = entropy(32)
        event = identity.rotate(now, Signer(home.identity_seeds(kek)[1]), Signer(after).public)
        home.turn_keys(History(history.inception, (*history.events, event)), after, kek)

    def _bring(self, path: Path) -> list[dict[str, Any]]:
        """Brings one ledger up to date; empty when this iDAO is not registered there."""
        dao = self._dao.on(path.stem)
        if dao.store.continued_by is not None:
            return []  # it ended before this key came
        status = "final"
        try:
            dao.settle()
        except Pending:
            status = "pending"
        registered = dao.state().get(Identity, dao.me)
        if registered is None:
            return []
        return [{"quorum": show_id("quorum", dao.quorum), "height": dao.store.height, "status": status}]

    # --- locking

    def relock(self, passphrase: str | None) -> None:
        """A new passphrase, or none. Only the lock is written; the keys stay as they are."""
        dao = self._dao
        kek = dao.keys().kek
        with dao.home.exclusive(dao.wait_s):
            dao.home.relock(kek, passphrase)


# --- recovering ---------------------------------------------------------------------------------------


def write_phrase(path: Path, words: str) -> None:
    """Into a new file that only its owner can read. Nothing that exists is overwritten."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as f:
            f.write(words + "\n")
            f.flush()
            os.fsync(f.fileno())
    except FileExistsError:
        raise UsageError(f"'{path}' exists", hint="name a new file") from None
    except OSError as e:
        raise IdaoError(f"cannot write '{path}': {e.strerror}", code="not-writable") from e


def before(own: bytes, history: bytes | None, source: bytes | None) -> Before:
    """What the files given to a recovery say of the time before; `own` is the id of the phrase.

    `history` is a proof or a `keys/history`; `source` a proof or a checkpoint. A proof is judged whole; a
    checkpoint alone cannot be, as it does not carry the keys of its signers.
    """
    from idao import proof

    known = _history(own, history) if history is not None else None
    if source is None:
        return Before(known)
    if not source.startswith(proof.MAGIC):
        signed = note.parse_note(_text(source))
        return Before(known, _parent(signed))
    verdict = proof.judge(source)
    if not verdict.ok:
        why = next(c for c in verdict.checks if not c.ok)
        raise VerificationFailed(f"the proof to continue from does not hold: {why.name}: {why.detail}")
    read = proof.parse(source)
    signed = note.parse_tlog_proof(read.tlog).note
    return Before(known or _founder(own, read.bundle), _parent(signed), read.bundle.genesis)


def _history(own: bytes, data: bytes) -> History:
    from idao import proof

    if not data.startswith(proof.MAGIC):
        return canonical.unpack(History, data)
    found = _founder(own, proof.parse(data).bundle)
    if found is None:
        raise UsageError(f"the proof given as history is not of {show_id('idao', own)}")
    return found


def _founder(own: bytes, bundle: Bundle) -> History | None:
    for founder in bundle.founders:
        if identity.idao_id(founder.inception) == own:
            return History(founder.inception, founder.events)
    return None


def _parent(signed: note.Note) -> Parent:
    head = note.parse_checkpoint(signed.text)
    return Parent(head.quorum, head.height, head.header, str(signed).encode())


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("neither a proof nor a checkpoint") from None
