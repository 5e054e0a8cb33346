"""The shell of the quorum machine: transactions in, an anchored ledger out.

Here agreement meets the ledger: the machine orders opaque blocks, the rules say what a block means, the
store keeps both. One turn of the machine is one SQLite transaction (ADR 0004, and the order law of
`quorum/events.py`): block, receipts, state, journal, certificate and own cosignature are there together or
not at all, and only then are the effects that others see handed back.

The same engine runs a quorum of one, where nobody else hears (`run`), and one validator, or an observer, of
many (`node/member.py`, which has the clock and the links).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from idao import anchor
from idao.crypto import canonical, merkle, note
from idao.crypto.certificates import verify_certificate
from idao.crypto.hashing import Kind, hash_of
from idao.crypto.keys import Signer, verify_vote
from idao.errors import IdaoError, Malformed, Refused
from idao.frozen import frozen
from idao.ledger import block as rules
from idao.ledger import governance
from idao.ledger.execution import NO_HASH, Executed
from idao.ledger.idao import Identity
from idao.ledger.state import State
from idao.ledger.tx import Receipt, Tx, parse_tx
from idao.model import (
    BLOCK_BYTES_MAX,
    BLOCK_TX_MAX,
    FINALIZE,
    ITEMS_MAX,
    SLOT_OF,
    Block,
    Certificate,
    Header,
    SignedVote,
    ValidatorSet,
    Vote,
)
from idao.node.heads import Heads
from idao.node.pool import Pool
from idao.quorum import events as ev
from idao.quorum.machine import Machine
from idao.store import cosigns
from idao.store.cosigns import Cosigned
from idao.store.ledger import LedgerStore

LEAD_MS_MAX = 10_000
"""How far a block's time may be ahead of our clock (ADR 0031): well above what laptops drift apart."""
KEY_KINDS = ("idao.rotate", "idao.register")
"""Kinds after which an actor's further txs are judged afresh: they change who may sign."""


@frozen
class Decided:
    """A block as another node hands it over: its finalization speaks for itself."""

    block: bytes
    certificate: Certificate
    note: str


_WRITTEN = (ev.Sign, ev.Persist, ev.Commit, ev.Halt)
"""Effects that leave rows."""

Outward = ev.Effect | Cosigned
"""What others see of a turn."""


class Engine:
    """Drives one ledger for this home's validator key. The caller holds the ledger's lock."""

    def __init__(self, store: LedgerStore, signer: Signer, clock: Callable[[], int], *older: Signer) -> None:
        """`signer`: the newest validator key; `older`: those it replaces, which sign while in the set.

        `clock`: ms UTC. `Refused` where a quorum of one may not go on (`ended`, `quarantine`).
        """
        self.store, self._clock = store, clock
        self._signers = (signer, *older)
        self.pool = Pool()
        self.heads = Heads(store)
        self.receipts: list[tuple[int, Receipt]] = []
        """(log position, receipt) of what was committed since the list was last cleared."""
        self.newest: Header | None = None
        """Of the last block that this process has kept."""
        self._executed: dict[bytes, tuple[Block, Executed]] = {}
        self._refused: tuple[Block, str] | None = None
        """The last block found invalid, and why: what to explain if a quorum certifies it."""
        self.on_early: Callable[[bytes, int], None] = lambda proposer, ahead_ms: None
        """A block of a time so far ahead of the clock here that it gets no vote now."""
        self.quarantined = store.quarantined
        self._load_tip()
        self.heads.restore(self.tip)
        if self.alone or store.continued_by is not None:
            store.require_live()
        self.machine = Machine(store.chain.quorum, self._signer.public, verify_vote)

    def _load_tip(self, log: merkle.Frontier | None = None) -> None:
        self.tip = self.store.tip(log)
        self._state = State(self.tip.base)
        self.epoch, self.validators = self.store.validators(self.tip.height + 1)
        seated = [s for s in self._signers if self.validators.index_of_key(s.public) is not None]
        self._signer = (seated or self._signers)[0]
        self._index = self.validators.index_of_key(self._signer.public)

    def hold(self, signers: Sequence[Signer]) -> None:
        """Other keys of this home, newest first: each height takes the one that its set names."""
        self._signers = tuple(signers)
        self._load_tip()

    def is_own(self, key: bytes) -> bool:
        return any(s.public == key for s in self._signers)

    @property
    def alone(self) -> bool:
        """Whether this home's key holds all the power: nobody need be asked."""
        return self._index is not None and len(self.validators.validators) == 1

    @property
    def halted(self) -> str | None:
        """Why nothing is signed here any more."""
        mark = self.store.get_meta("halted")
        return mark.decode() if mark else None

    def signing(self, height: int) -> bool:
        """Whether anything may be signed at `height`: not halted, nothing forgotten (ADR 0031, recovery)."""
        if self.quarantined or self.halted is not None or self.store.continued_by is not None:
            return False
        return height > self.store.unsigned_until

    def release(self, until: int) -> None:
        """Ends the quarantine of a ledger that was copied, moved or restored: signs above `until` again."""
        with self.store.transaction():
            self.store.set_meta("unsigned-until", str(until).encode())
            self.store.settle_here()
        self.quarantined = False

    # --- the pool

    def submit(self, raw: bytes) -> Tx:
        """Takes a signed tx into the pool. `Malformed` or `Refused` when it can be in no block."""
        known = self.pool.by_raw(raw)
        if known is not None:
            return known
        tx = parse_tx(raw)
        if tx.id not in self.pool:
            self.pool.need_room(tx)
            if reason := rules.admissible(self._state, self.store.chain, tx, self._next_time()):
                raise Refused(f"the transaction cannot be ordered: {reason}", code="inadmissible")
            if not tx.authentic():
                raise Refused("the transaction's signature does not hold", code="bad-signature")
            self.pool.put(tx)
        return tx

    def take_in(self, raws: Sequence[bytes]) -> None:
        """Takes a peer's txs into the pool, those apart that can be in no block or have no room.

        `Malformed` for what no honest peer passes on: bytes that are no tx, which spoil all of them, or a
        signature that does not hold, which spoils itself and those after it.
        """
        pool, state, chain, now = self.pool, self._state, self.store.chain, self._next_time()
        fresh = []
        for raw in raws:
            if pool.by_raw(raw) is None:
                tx = parse_tx(raw)
                if rules.admissible(state, chain, tx, now) is None:
                    fresh.append(tx)
        for tx in fresh:  # Signatures apart: Python and libsodium do not push each other out of the caches.
            if pool.wants(tx):
                if not tx.authentic():
                    raise Malformed("the transaction's signature does not hold")
                pool.put(tx)

    def waiting(self) -> bool:
        """Whether something is to be decided: a tx, or an action that is due."""
        return bool(self.pool) or bool(governance.due(self._state, self._next_time()))

    def _next_time(self) -> int:
        return max(self._clock(), self.tip.time_ms + 1)

    # --- turns

    def run(self) -> list[tuple[int, Receipt]]:
        """Alone: decides blocks until nothing waits. Returns (log position, receipt) of all that happened."""
        if not self.alone:
            raise Refused("this home is not the only validator of the quorum", code="not-alone")
        self.receipts = []
        while self.waiting():
            height = self.tip.height
            self.start()
            if self.tip.height == height:
                raise IdaoError(f"nothing was decided at height {height + 1}", hint="see 'idao doctor'")
        return self.receipts

    def start(self) -> list[Outward]:
        """Enters the height after the tip (R0), from the rows alone."""
        height = self.tip.height + 1
        self.machine.key = self._signer.public
        return self.turn(
            ev.Start(
                height=height,
                validators=self.validators,
                tip=self.tip.header,
                parent=self.tip.certificate,
                parent_validators=self.store.validators(height - 1)[1] if height > 1 else None,
                pool=self.waiting(),
                signing=self.signing(height),
                signs=tuple(self.store.signs(height, self._index or 0)) if self._index is not None else (),
                certificates=tuple(self.store.certificates(height)),
                blocks=tuple(ev.StoredBlock(height, h, b) for h, b in self.store.proposed(height)),
            )
        )

    def turn(self, event: ev.Event) -> list[Outward]:
        """One turn, durable when it returns. Its outward effects, in order; among them own cosignatures.

        If this raises, the machine in memory is ahead of the disk: the engine must not be used again.
        """
        effects = self.machine.step(event)
        if not effects:  # Most turns at n > 1 only count a vote.
            return []
        answers: deque[ev.Event] = deque()
        outward: list[Outward] = []
        writing = False
        with ExitStack() as transaction:
            while effects:
                for effect in effects:
                    if not writing and isinstance(effect, _WRITTEN):
                        transaction.enter_context(self.store.transaction())
                        writing = True
                    answer = self._perform(effect, outward)
                    if answer is not None:
                        answers.append(answer)
                effects = ()
                while answers and not effects:
                    effects = self.machine.step(answers.popleft())
            if writing:
                self.heads.keep_all()
        return outward

    def _perform(self, effect: ev.Effect, outward: list[Outward]) -> ev.Event | None:
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
                mine = self._commit(effect)
                outward += [effect, mine] if mine else [effect]
            case ev.Halt(reason):
                self.store.set_meta("halted", reason.encode())
                outward.append(effect)
            case _:
                outward.append(effect)
        return None

    def _sign(self, vote: Vote) -> SignedVote:
        signed = SignedVote(vote, self._index or 0, self._signer.sign_vote(vote))
        self.store.put_sign(vote, SLOT_OF[vote.kind], signed.signature)
        return signed

    def _keep(self, row: Certificate | ev.StoredBlock) -> None:
        if isinstance(row, Certificate):
            self.store.put_certificate(row)
        else:
            self.store.put_proposed(row.height, row.hash, row.block)

    # --- blocks

    def _build(self, height: int, view: int) -> ev.Built:
        skipped: set[bytes] = set()
        built, executed = rules.build(
            self.tip,
            self.store.chain,
            self.validators,
            proposer=self.validators.validators[self._index or 0].idao,
            view=view,
            time_ms=self._next_time(),
            txs=self._pick(),
            skipped=skipped,
        )
        self.pool.drop(skipped)
        block_hash = rules.header_hash(built.header)
        self._executed[block_hash] = (built, executed)
        return ev.Built(height, view, block_hash, canonical.pack(built))

    def _pick(self) -> list[Tx]:
        """What of the pool goes into the next block. One that may not be there is passed over later."""
        picked: list[Tx] = []
        size = 0
        ended: set[bytes] = set()
        for tx in self.pool.in_order():
            if tx.envelope.idao in ended:
                continue
            if len(picked) >= BLOCK_TX_MAX or size + len(tx.raw) > BLOCK_BYTES_MAX:
                break
            if tx.envelope.kind in KEY_KINDS:
                ended.add(tx.envelope.idao)
            picked.append(tx)
            size += len(tx.raw)
        return picked

    def _judge(self, effect: ev.Validate) -> str:
        """The verdict on a block: `quorum/events.py` says what each means."""
        if effect.hash in self._executed:
            return ev.VALID
        try:
            built = canonical.unpack(Block, effect.block, items=ITEMS_MAX)
        except Malformed:
            return ev.MISMATCH
        header = built.header
        if not self._is_its_body(built, effect.hash):
            return ev.MISMATCH
        ahead_ms = header.time_ms - self._clock()
        early = ahead_ms > LEAD_MS_MAX and header.time_ms > self.tip.time_ms + 1
        if effect.fresh and early:
            self.on_early(header.proposer, ahead_ms)
        if effect.fresh and (early or header.view != effect.view):
            return ev.UNTIMELY
        try:
            executed, fresh = self._check(built)
        except Malformed as e:
            self._refused = (built, e.message)
            return ev.INVALID
        for tx in fresh:
            if self.pool.wants(tx):
                self.pool.put(tx)  # Who has not told of it yet will, and it need not be checked again.
        self._executed[effect.hash] = (built, executed)
        return ev.VALID

    @staticmethod
    def _is_its_body(built: Block, block_hash: bytes) -> bool:
        """Whether a block's bytes are those of that hash: only the header is hashed, it names the rest."""
        header, parent = built.header, built.parent_certificate
        named = hash_of(Kind.CERTIFICATE, parent) if parent else NO_HASH
        return (
            rules.header_hash(header) == block_hash
            and rules.tx_root(built.txs) == header.tx_root
            and named == header.parent_certificate
        )

    def _check(self, built: Block) -> tuple[Executed, list[Tx]]:
        """What a block does, and those of its txs that were not in the pool.

        `Malformed` unless the block, whose body is its own, follows from the tip, and its proposer led the
        view it names.
        """
        header, txs, fresh = built.header, [], []
        leader = self.validators.leader(header.height, header.view)
        if header.proposer != self.validators.validators[leader].idao:
            raise rules.InvalidBlock("the block is not by the leader of its view")
        for raw in built.txs:
            tx = self.pool.by_raw(raw)  # It was checked when it came.
            if tx is None:
                tx = parse_tx(raw)
                fresh.append(tx)
            txs.append(tx)
        root = header.tx_root  # `_is_its_body` has compared it
        known = txs, fresh, root, self._finalizes
        executed = rules.check(self.tip, self.store.chain, self.validators, built, Tx.authentic, *known)
        return executed, fresh

    def _finalizes(self, certificate: Certificate, validators: ValidatorSet) -> bool:
        past = self.machine.past
        if past is not None and (past.number, past.validators) == (certificate.vote.height, validators):
            return past.holds(certificate, verify_vote)  # Most of its votes were checked when they came.
        return verify_certificate(certificate, validators)

    # --- decisions

    def _commit(self, effect: ev.Commit) -> Cosigned | None:
        built, executed = self._executed[effect.hash]
        return self._append(built, executed, effect.certificate, sign=True)

    def _append(
        self, built: Block, executed: Executed, certificate: Certificate, *, sign: bool
    ) -> Cosigned | None:
        height = built.header.height
        self.store.append(built, certificate, executed)
        self.newest = built.header
        self.store.prune_journal(height)
        cosigns.prune(self.store.db, height)
        frontier = executed.frontier.copy()
        frontier.append(rules.block_leaf(built.header))
        signer = self._signer if sign and self.signing(height) else None
        mine = self.heads.add(built.header, frontier, self.epoch.epoch, self.validators, signer)
        start = built.header.log_size - len(executed.receipts)
        self.receipts += [(start + i, r) for i, r in enumerate(executed.receipts)]
        self._executed.clear()
        self._load_tip(frontier)
        self._forget(executed.receipts)
        return mine

    def _forget(self, receipts: list[Receipt]) -> None:
        """Takes out of the pool what is in the block, or can be in no later one."""
        for idao in dict.fromkeys([r.idao for r in receipts]):
            actor = self._state.get(Identity, idao)
            if actor is not None:
                self.pool.drop_used(idao, actor.seq)
        chain, now = self.store.chain, self._next_time()
        self.pool.drop_expired(now)
        for idao in {r.idao for r in receipts if r.kind in KEY_KINDS}:
            stale = [t.id for t in self.pool.of(idao) if rules.admissible(self._state, chain, t, now)]
            self.pool.drop(stale)

    def keep_notes(self) -> None:
        """Stores the notes that have grown, if no turn has done so meanwhile."""
        if self.heads.grown:
            with self.store.transaction():
                self.heads.keep_all()

    # --- divergence: a certified block that does not follow here

    def difference(self, theirs: Sequence[bytes]) -> str | None:
        """The first receipt of a peer's that differs from what the refused block does here, in words."""
        if self._refused is None:
            return None
        from idao.node import divergence  # nothing that a command needs

        return divergence.difference(self.tip, self.store.chain, self.validators, *self._refused, theirs)

    def explain_halt(self, found: str) -> None:
        with self.store.transaction():
            self.store.set_meta("halted", f"{self.halted}; {found}".encode())

    # --- catching up: blocks that others decided, each judged by its own finalization

    def adopt(self, decided: list[Decided]) -> int:
        """Applies blocks from the one after the tip on, in one transaction. How many; then comes `start`.

        `Malformed` at the first that does not follow: those before it stand.
        """
        taken, wrong = 0, None
        with self.store.transaction():
            for d in decided:
                try:
                    self._adopt(d)
                except Malformed as e:
                    wrong = e
                    break
                taken += 1
        if wrong is not None:
            raise wrong
        return taken

    def _adopt(self, d: Decided) -> None:
        built = canonical.unpack(Block, d.block, items=ITEMS_MAX)
        block_hash = rules.header_hash(built.header)
        vote = d.certificate.vote
        named = (vote.kind, vote.quorum, vote.height, vote.digest)
        if named != (FINALIZE, self.store.chain.quorum, self.tip.height + 1, block_hash):
            raise Malformed(f"not a finalization of the block after height {self.tip.height}")
        if not verify_certificate(d.certificate, self.validators):
            raise Malformed(f"the finalization of height {vote.height} does not hold")
        if not self._is_its_body(built, block_hash):
            raise Malformed(f"the body of height {vote.height} is not its own")
        executed, _ = self._check(built)
        validators = self.validators
        self._append(built, executed, d.certificate, sign=False)
        if d.note and self._is_anchor(d.note, built.header, validators):
            self.store.put_checkpoint(built.header.height, built.header.log_size + 1, d.note)

    @staticmethod
    def _is_anchor(text: str, header: Header, validators: ValidatorSet) -> bool:
        """A note is a gift: one that does not hold is left out, the block needs none."""
        try:
            judged = anchor.check_anchor(note.parse_note(text), validators)
        except IdaoError:
            return False
        return judged.checkpoint.header == rules.header_hash(header)

    def decided(self, first: int, count: int, bytes_max: int) -> list[Decided]:
        """Blocks from `first` on for a peer that lacks them, as many as fit; nothing of what was pruned."""
        if first <= self.store.pruned:
            return []
        out: list[Decided] = []
        size = 0
        for height in range(first, min(first + count - 1, self.tip.height) + 1):
            raw = self.store.body(height)
            size += len(raw)
            if out and size > bytes_max:
                break
            head = self.store.checkpoint(height)
            out.append(Decided(raw, self.store.decided(height)[1], head[1] if head else ""))
        return out
