"""The shell of the quorum machine for a quorum of one: transactions in, an anchored ledger out.

Here agreement meets the ledger: the machine orders opaque blocks, the rules say what a block means, the
store keeps both. One turn of the machine is one SQLite transaction (R12, and the order law of
`quorum/events.py`): block, receipts, state, journal, certificate and checkpoint are there together or
not at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from idao import anchor
from idao.crypto import canonical, merkle, note
from idao.crypto.keys import Signer, verify_vote
from idao.errors import Malformed, Refused
from idao.ledger import block as rules
from idao.ledger import governance
from idao.ledger.execution import Executed
from idao.ledger.state import State
from idao.ledger.tx import Receipt, Tx, parse_tx
from idao.model import (
    BLOCK_BYTES_MAX,
    BLOCK_TX_MAX,
    SLOT_OF,
    Block,
    Certificate,
    SignedVote,
    ValidatorSet,
    Vote,
)
from idao.quorum import events as ev
from idao.quorum.machine import Machine
from idao.store.ledger import LedgerStore

POOL_MAX = 10_000
"""Transactions that wait for a block (ADR 0031)."""


class Engine:
    """Drives one ledger whose only validator is this home. The caller holds the home's lock."""

    def __init__(self, store: LedgerStore, signer: Signer, clock: Callable[[], int]) -> None:
        self.store, self._signer, self._clock = store, signer, clock
        self._pool: dict[bytes, Tx] = {}
        self._executed: dict[bytes, tuple[Block, Executed]] = {}
        self._inbox: deque[ev.Event] = deque()
        self._receipts: list[tuple[int, Receipt]] = []
        store.require_live()
        self._load_tip()
        index = self._validators.index_of_key(signer.public)
        if index is None or len(self._validators.validators) != 1:
            raise Refused("this home is not the only validator of the quorum", code="not-alone")
        self._idao = self._validators.validators[index].idao
        self._machine = Machine(store.chain.quorum, signer.public, verify_vote)

    def _load_tip(self) -> None:
        self._tip = self.store.tip()
        self._epoch, self._validators = self.store.validators(self._tip.height + 1)

    # --- the pool

    def submit(self, raw: bytes) -> Tx:
        """Takes a signed tx into the pool. `Malformed` or `Refused` when it can be in no block."""
        tx = parse_tx(raw)
        if not tx.authentic():
            raise Refused("the transaction's signature does not hold", code="bad-signature")
        if len(self._pool) >= POOL_MAX:
            raise Refused(f"{POOL_MAX} transactions wait already", code="pool-full")
        if reason := rules.admissible(State(self._tip.base), self.store.chain, tx, self._next_time()):
            raise Refused(f"the transaction cannot be ordered: {reason}", code="inadmissible")
        self._pool[tx.id] = tx
        return tx

    def run(self) -> list[tuple[int, Receipt]]:
        """Decides blocks until nothing waits. Returns (log position, receipt) of all that happened."""
        self._receipts = []
        while self._waiting():
            self._inbox.append(self._start())
            while self._inbox:
                self._turn(self._inbox.popleft())
        return self._receipts

    def _next_time(self) -> int:
        return max(self._clock(), self._tip.time_ms + 1)

    def _waiting(self) -> bool:
        return bool(self._pool) or bool(governance.due(State(self._tip.base), self._next_time()))

    # --- turns

    def _start(self) -> ev.Start:
        height = self._tip.height + 1
        index = self._validators.index_of_key(self._signer.public)
        signs = self.store.signs(height, index or 0)
        return ev.Start(
            height=height,
            validators=self._validators,
            tip=self._tip.header,
            parent=self._tip.certificate,
            parent_validators=self.store.validators(height - 1)[1] if height > 1 else None,
            pool=True,
            signs=tuple(signs),
            certificates=tuple(self.store.certificates(height)),
            blocks=tuple(ev.StoredBlock(height, h, b) for h, b in self.store.proposed(height)),
        )

    def _turn(self, event: ev.Event) -> None:
        queue: deque[ev.Event] = deque([event])
        with self.store.transaction():
            while queue:
                for effect in self._machine.step(queue.popleft()):
                    answer = self._perform(effect)
                    if answer is not None:
                        queue.append(answer)

    def _perform(self, effect: ev.Effect) -> ev.Event | None:
        match effect:
            case ev.Sign(vote):
                return ev.Msg(ev.OWN, self._sign(vote))
            case ev.Persist(row):
                self._keep(row)
            case ev.Build(height, view):
                return self._build(height, view)
            case ev.Validate():
                return ev.BlockReady(effect.height, effect.hash, self._judge(effect))
            case ev.Commit():
                self._commit(effect)
            case ev.Halt(reason):
                raise Refused(f"the validator has stopped: {reason}", code="halted")
            case ev.ForkDetected():
                raise Refused("two finalizations of one height are held", code="fork")
            case _:
                pass  # Alone there is nobody to send to and nothing to wait for.
        return None

    def _sign(self, vote: Vote) -> SignedVote:
        index = self._validators.index_of_key(self._signer.public) or 0
        signed = SignedVote(vote, index, self._signer.sign_vote(vote))
        self.store.put_sign(vote, SLOT_OF[vote.kind], signed.signature)
        return signed

    def _keep(self, row: Certificate | ev.StoredBlock) -> None:
        if isinstance(row, Certificate):
            self.store.put_certificate(row)
        else:
            self.store.put_proposed(row.height, row.hash, row.block)

    def _build(self, height: int, view: int) -> ev.Built:
        built, executed = rules.build(
            self._tip,
            self.store.chain,
            self._validators,
            proposer=self._idao,
            view=view,
            time_ms=self._next_time(),
            txs=self._pick(),
        )
        block_hash = rules.header_hash(built.header)
        self._executed[block_hash] = (built, executed)
        return ev.Built(height, view, block_hash, canonical.pack(built))

    def _pick(self) -> list[Tx]:
        """The txs of the next block: by actor and sequence number, each admissible after those before."""
        picked: list[Tx] = []
        size, now = 0, self._next_time()
        state = State(self._tip.base)
        last: dict[bytes, int] = {}
        for tx in sorted(self._pool.values(), key=lambda t: (t.envelope.idao, t.envelope.seq)):
            e = tx.envelope
            if e.seq <= last.get(e.idao, -1) or rules.admissible(state, self.store.chain, tx, now):
                continue
            if len(picked) >= BLOCK_TX_MAX or size + len(tx.raw) > BLOCK_BYTES_MAX:
                break
            # A tx that changes who may sign ends its actor's part of the block: the rest is judged after.
            last[e.idao] = 2**63 if e.kind in ("idao.rotate", "idao.register") else e.seq
            picked.append(tx)
            size += len(tx.raw)
        return picked

    def _judge(self, effect: ev.Validate) -> str:
        """Only after a crash: a block of our own that was stored and not yet committed."""
        try:
            built = canonical.unpack(Block, effect.block)
            told = rules.tx_root(built.txs)
            if rules.header_hash(built.header) != effect.hash or told != built.header.tx_root:
                return ev.MISMATCH  # other bytes may be the block of that hash
            executed = rules.check(self._tip, self.store.chain, self._validators, built)
        except Malformed:
            return ev.INVALID
        self._executed[effect.hash] = (built, executed)
        return ev.VALID

    def _commit(self, effect: ev.Commit) -> None:
        built, executed = self._executed[effect.hash]
        self.store.append(built, effect.certificate, executed)
        self._checkpoint(built, executed)
        self.store.prune_journal(effect.height)
        start = built.header.log_size - len(executed.receipts)
        self._receipts += [(start + i, r) for i, r in enumerate(executed.receipts)]
        self._forget(tx.id for tx in map(parse_tx, built.txs))
        self._executed.clear()
        self._load_tip()
        if self._waiting():
            self._inbox.append(self._start())

    def _forget(self, done: Iterable[bytes]) -> None:
        for one in done:
            self._pool.pop(one, None)
        # What can be in no later block either must not keep the engine awake.
        state, now = self.store.state(), self._next_time()
        for tx_id, tx in list(self._pool.items()):
            if rules.admissible(state, self.store.chain, tx, now):
                del self._pool[tx_id]

    def _checkpoint(self, built: Block, executed: Executed) -> None:
        """Signs the head that the header implies, as log and as witness: alone, that is the anchor."""
        header = built.header
        frontier = executed.frontier.copy()
        frontier.append(merkle.LOG.leaf(rules.header_hash(header)))
        text = anchor.checkpoint_of(header, frontier, self._epoch.epoch).text()
        signed = note.Note(
            text,
            (
                note.log_signature(self._signer, header.quorum, text),
                note.cosignature(self._signer, header.quorum, text, header.time_ms // 1000),
            ),
        )
        anchor.check_anchor(signed, ValidatorSet(self._validators.validators))
        self.store.put_checkpoint(header.height, frontier.size, str(signed))
