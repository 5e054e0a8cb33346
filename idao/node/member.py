"""One home's part in one quorum of many: the engine with a clock, timers, links, and what goes over them.

All of it runs on one event loop, one turn at a time. What peers send is decoded here and judged by the
machine or the engine; a frame that no honest node sends raises `Malformed`, and the mesh drops that link.
A turn that fails for any other reason ends the process (`on_broken`): memory is ahead of the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import uniform
from typing import Any, Protocol, TypeVar

from idao.crypto import canonical
from idao.crypto.certificates import verify_certificate
from idao.errors import Malformed
from idao.ledger.tx import Receipt, Tx
from idao.model import FINALIZE, Block, Certificate, Fault, SignedVote, Validator
from idao.node import messages as msg
from idao.node.bundles import Bundles
from idao.node.cosigning import Cosigning
from idao.node.engine import Decided, Engine, Outward
from idao.node.explaining import Explaining
from idao.node.sync import Sync
from idao.quorum import events as ev
from idao.quorum.recovery import quarantine_until
from idao.store.cosigns import Cosigned

TICK_S = 1.0
"""Housekeeping: what waits is told again, due actions are looked for, lacking cosignatures asked for."""
KEPT_TICKS = 60
"""How often it is said which blocks are kept: whoever prunes asks what was said last."""
RESEND_BYTES = 256 * 1024
"""Of waiting transactions told again at each tick: enough to repair a loss, little enough to be no flood."""
AWAKE_S = 1.0
"""A keep-alive says nothing new while blocks come: who is one behind then has what it lacks on its way."""
JITTER = 0.2
"""Retransmissions of several nodes must not stay in step (`quorum/events.py`: ±20 %)."""

T = TypeVar("T")


class Links(Protocol):
    """What a member needs of a mesh."""

    def send(self, peer: bytes, kind: int, payload: bytes) -> bool: ...

    def broadcast(self, *frames: tuple[int, bytes]) -> None: ...

    def queue(self, peer: bytes) -> int: ...

    def blame(self, peer: bytes, reason: str) -> None: ...


class Member:
    """Drives one ledger together with its peers. The caller holds the ledger's lock."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        for large in (Block, msg.Txs, msg.Commits, ev.Propose):
            canonical.write_out(large)
        self.engine, self._loop = engine, loop
        self.links: Links | None = None
        self.up: set[bytes] = set()
        """Peers with a working link."""
        self.on_commit: Callable[[int, list[tuple[int, Receipt]]], None] = lambda height, receipts: None
        self.on_anchor: Callable[[int], None] = lambda height: None
        self.on_fault: Callable[[Fault], None] = lambda fault: None
        self.on_kept: Callable[[bytes, bool], None] = lambda peer, whole: None
        """A peer tells what it keeps: whether that is every block, up to about here."""
        self.on_trouble: Callable[[str, str], None] = lambda what, why: None
        """(event, explanation) for the log: halts, forks, refused frames."""
        self.bundles: Bundles | None = None
        """Collateral that evidence names, where this home keeps some."""
        self.on_bundle: Callable[[], None] = lambda: None
        self.on_broken: Callable[[BaseException], None] = _reraise
        self.broken = False
        self._turns: deque[Callable[[], list[Outward]]] = deque()
        self._acting = False
        self._telling: list[tuple[int, bytes]] = []
        """Frames for all that the turn under way has made."""
        self.sync = Sync(self)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._due: dict[str, tuple[float, ev.Timer]] = {}
        """Kind of timer -> when it is due, and what it then says."""
        self._tick_handle: asyncio.TimerHandle | None = None
        self._ticked, self._ticks, self._committed_s = 0, 0, -AWAKE_S
        self._tips: dict[bytes, int] = {}
        self._epoch = engine.epoch.epoch
        self.explaining = Explaining(self)
        self._fresh: list[Tx] = []
        self.cosigning = Cosigning(self, loop)
        self._flush: asyncio.Handle | None = None

    # --- life

    def start(self) -> None:
        self._act(self.engine.start)
        self._tick_handle = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        for handle in (*self._timers.values(), self._tick_handle, self._flush):
            if handle is not None:
                handle.cancel()
        self._timers.clear()
        self.cosigning.stop()
        self.links = None

    # --- transactions

    def submit(self, raw: bytes) -> Tx:
        """A tx of this home: into the pool, and to all. `Malformed` or `Refused` if it can be nowhere."""
        known = len(self.engine.pool)
        tx = self.engine.submit(raw)
        if len(self.engine.pool) > known:
            self._fresh.append(tx)
            self._soon()
        return tx

    def _soon(self) -> None:
        """What came in one go is told in one frame."""
        if self._flush is None:
            self._flush = self._loop.call_soon(self._tell_fresh)

    def _tell_fresh(self) -> None:
        self._flush = None
        fresh, self._fresh = self._fresh, []
        for batch in _batches(fresh):
            self._broadcast(msg.Txs(tuple(tx.raw for tx in batch)))
        self._wake()

    def _wake(self) -> None:
        if self.engine.pool or self.engine.waiting():
            self._step(ev.PoolNonEmpty(self.engine.tip.height + 1))

    def _on_txs(self, txs: msg.Txs) -> None:
        self.engine.take_in(txs.raws)
        self._wake()

    # --- what comes in (the mesh's `Hub`)

    def status(self) -> bytes:
        """Rides in hello and keep-alive frames: what wakes a peer that slept through a height."""
        status = self.engine.machine.status()
        return canonical.pack(status) if status else b""

    def on_status(self, peer: bytes, status: bytes) -> None:
        if not status:
            return
        told = canonical.unpack(ev.Status, status)
        asleep = self._loop.time() - self._committed_s >= AWAKE_S
        if asleep or abs(told.height - self.engine.tip.height - 1) > 1:
            self._step(ev.Msg(peer, told))

    def on_up(self, peer: bytes) -> None:
        self.up.add(peer)
        self._send(peer, self._kept())
        if self.bundles is not None:
            self.bundles.on_up(peer)
        self._step(ev.PeerUp(peer))
        if self.engine.quarantined:
            self._send(peer, msg.GetTip(self.engine.tip.height))
        for batch in _batches(list(self.engine.pool), RESEND_BYTES)[:1]:
            self._send(peer, msg.Txs(tuple(tx.raw for tx in batch)))

    def on_down(self, peer: bytes) -> None:
        self.up.discard(peer)
        self.sync.lost(peer)
        self._step(ev.PeerDown(peer))

    def on_frame(self, peer: bytes, kind: int, payload: bytes) -> None:
        """`Malformed` for what no honest node sends."""
        match msg.decode(kind, payload):
            case Certificate() as c if self.engine.machine.holds(c):
                pass  # Every peer forwards each certificate once: mostly it is here by then.
            case (
                ev.Propose() | SignedVote() | Certificate() | ev.Status() | ev.GetBlock() | ev.Body()
            ) as frame:
                self._step(ev.Msg(peer, frame))
            case msg.Txs() as txs:
                self._on_txs(txs)
            case msg.Cosign() as c:
                self.cosigning.on_cosign(peer, c)
            case msg.GetCosigns(height):
                self.cosigning.answer(peer, height)
            case msg.GetCommits(first, count):
                self._serve(peer, first, min(count, msg.COMMITS_MAX))
            case msg.Commits() as commits:
                self.sync.on_commits(peer, commits)
            case msg.Kept(first, last):
                self.sync.on_kept(peer, first)
                self.on_kept(peer, first == 1 and last >= self.engine.tip.height - msg.COMMITS_MAX)
            case msg.GetTip():
                self._send(peer, msg.TipIs(self.engine.tip.certificate))
            case msg.TipIs(certificate):
                self._on_tip(peer, certificate)
            case msg.GetReceipts(height):
                if not self._is_full(peer):
                    self._send(peer, msg.Receipts(height, tuple(self.engine.store.leaves_of(height))))
            case msg.Receipts() as theirs:
                self.explaining.on_receipts(theirs)
            case msg.GetBundle(name):
                if self.bundles is not None and not self._is_full(peer):
                    self.bundles.serve(peer, name)
            case msg.Bundle() as answer:
                if self.bundles is not None and self.bundles.on_bundle(peer, answer):
                    self.on_bundle()

    # --- turns

    def _step(self, event: ev.Event) -> None:
        self._act(lambda: self.engine.turn(event))

    def _act(self, turn: Callable[[], list[Outward]]) -> None:
        """Takes a turn, performs what it has made durable, and enters the next height after a commit.

        A link that breaks while something is sent says so at once: that turn comes after this one.
        """
        self._turns.append(turn)
        if self._acting:
            return
        self._acting = True
        try:
            while self._turns and not self.broken:
                committed = None
                for effect in self._guarded(self._turns.popleft()) or []:
                    if isinstance(effect, ev.Commit):
                        committed = effect.height
                    else:
                        self._perform(effect)
                if committed is not None:
                    self._turns.appendleft(self.engine.start)
                    self._committed(committed)
                self._tell()
        finally:
            self._acting = False
            self._tell()

    def _guarded(self, write: Callable[[], T]) -> T | None:
        """What fails half way leaves memory ahead of the disk: nothing more may be done with it."""
        try:
            return write()
        except Malformed:
            raise
        except Exception as e:
            self.broken = True
            self.on_broken(e)
            return None

    def _committed(self, height: int) -> None:
        self._committed_s = self._loop.time()
        receipts, self.engine.receipts = self.engine.receipts, []
        self.on_commit(height, receipts)
        head = self.engine.heads.newest()
        if head is not None and head.anchored:
            self.cosigning.anchored(head.height)

    def _perform(self, effect: Outward) -> None:
        match effect:
            case ev.Broadcast(frame):
                self._broadcast(frame)
            case ev.Send(peer, frame):
                self._send(peer, frame)
            case Cosigned(height, _, log, time_s, witness):
                self._broadcast(msg.Cosign(height, log, time_s, witness))
            case ev.Serve(peer, height):
                self._serve(peer, height, msg.COMMITS_MAX)
            case ev.CatchUp(peer, height):
                self.sync.hint(peer, height)
            case ev.SetTimer():
                self._set_timer(effect)
            case ev.FaultFound(fault):
                self.on_fault(fault)
            case ev.Blame(peer, reason):
                if self.links is not None:
                    self.links.blame(peer, reason)
            case ev.ForkDetected(a, _):
                self.on_trouble(
                    "fork", f"two blocks are final at height {a.vote.height}: nothing is signed any more"
                )
            case ev.Halt(reason):
                self._halted(reason)
            case _:
                raise AssertionError(f"an effect that nobody performs: {effect}")

    def _set_timer(self, e: ev.SetTimer) -> None:
        """One per kind: the machine ignores those that no longer matter.

        Most are set anew before they are due. A handle that rings too early then is set again, once.
        """
        delay = e.delay_ms / 1000 * (uniform(1 - JITTER, 1 + JITTER) if e.kind == ev.STATUS else 1)
        when = self._loop.time() + delay
        self._due[e.kind] = when, ev.Timer(e.kind, e.height, e.view, e.generation)
        old = self._timers.get(e.kind)
        if old is None or old.when() > when:
            if old is not None:
                old.cancel()
            self._timers[e.kind] = self._loop.call_at(when, self._ring, e.kind)

    def _ring(self, kind: str) -> None:
        del self._timers[kind]
        when, timer = self._due[kind]
        if self._loop.time() < when:
            self._timers[kind] = self._loop.call_at(when, self._ring, kind)
        else:
            self._step(timer)

    # --- sending

    def tell(self, peer: bytes, message: Any) -> bool:
        """Sends one message; whether it could be sent."""
        return self._send(peer, message)

    def broadcast(self, message: Any) -> None:
        """Sends one message to all that are linked."""
        self._broadcast(message)

    def _send(self, peer: bytes, message: Any) -> bool:
        self._tell()
        return self.links is not None and self.links.send(peer, *msg.encode(message))

    def _broadcast(self, message: Any) -> None:
        self._telling.append(msg.encode(message))
        if not self._acting:
            self._tell()

    def _tell(self) -> None:
        """What one turn tells everybody goes out together: a certificate and the vote that follows it."""
        if self._telling:
            frames, self._telling = self._telling, []
            if self.links is not None:
                self.links.broadcast(*frames)

    def ask(self, peer: bytes, first: int) -> bool:
        """Asks a peer for decided blocks; whether the question could be sent."""
        return self._send(peer, msg.GetCommits(first, msg.COMMITS_MAX))

    def _serve(self, peer: bytes, first: int, count: int) -> None:
        """Decided blocks, or nothing at all: an empty answer says that there are none here."""
        if self._is_full(peer):
            return
        if first <= self.engine.store.pruned:
            self._send(peer, self._kept())
            return
        blocks = self.engine.decided(max(first, 1), count, msg.COMMITS_BYTES_MAX)
        decided = tuple(msg.DecidedBlock(d.block, d.certificate, d.note) for d in blocks)
        self._send(peer, msg.Commits(max(first, 1), decided))

    def _kept(self) -> msg.Kept:
        return msg.Kept(self.engine.store.pruned + 1, self.engine.tip.height)

    def _is_full(self, peer: bytes) -> bool:
        """Whoever asks faster than it takes in waits: what it does not read costs only itself."""
        return self.links is None or self.links.queue(peer) > msg.COMMITS_BYTES_MAX

    def adopt(self, peer: bytes, commits: msg.Commits) -> None:
        """Applies blocks that follow the tip, and goes on from there. `Malformed` when one does not hold."""
        self.compare(peer, commits.blocks[0].certificate)
        decided = [Decided(d.block, d.certificate, d.note) for d in commits.blocks]
        before = self.engine.tip.height
        try:
            self._guarded(lambda: self.engine.adopt(decided))
        finally:
            if self.engine.tip.height > before and not self.broken:
                self._committed(self.engine.tip.height)
                self._act(self.engine.start)

    def compare(self, peer: bytes, certificate: Certificate) -> None:
        """R7: a finalization beside one that is held must be of the same block; the machine judges it."""
        for held in (self.engine.machine.h, self.engine.machine.past):
            decided = held.decided if held is not None else None
            if (
                decided
                and decided.vote.height == certificate.vote.height
                and decided.vote != certificate.vote
            ):
                self._step(ev.Msg(peer, certificate))

    # --- anchors

    def keep_notes(self) -> None:
        """Stores notes that have grown, in a transaction of their own."""
        self._guarded(self.engine.keep_notes)

    def blame(self, peer: bytes, reason: str) -> None:
        """Something that a peer sent turned out bad after its frame was taken."""
        if self.links is not None:
            self.links.blame(peer, reason)

    # --- housekeeping

    def _tick(self) -> None:
        self._tick_handle = self._loop.call_later(TICK_S, self._tick)
        self.cosigning.tick()
        height, self._ticked = self._ticked, self.engine.tip.height
        if height == self._ticked:
            # Nothing was decided since: somebody may lack what waits. Every node leads in its turn, so while
            # blocks come, whatever one node holds will be in one.
            for batch in _batches(list(self.engine.pool), RESEND_BYTES)[:1]:
                self._broadcast(msg.Txs(tuple(tx.raw for tx in batch)))
        self._ticks += 1
        if self._ticks % KEPT_TICKS == 0:
            self._broadcast(self._kept())
        if self.engine.quarantined:
            self._broadcast(msg.GetTip(self.engine.tip.height))
        self.sync.tick()
        self.explaining.tick()
        if self.bundles is not None:
            self.bundles.tick()
        self._wake()

    # --- quarantine, halts

    def _on_tip(self, peer: bytes, certificate: Certificate | None) -> None:
        """A proven tip counts; one above what is known here waits until the blocks have come."""
        if not self.engine.quarantined:
            return
        height = 0
        if certificate is not None:
            height = certificate.vote.height
            if height > self.engine.tip.height + 1:
                self.sync.hint(peer, height + 1)
                return
            if not self._is_final(certificate):
                raise Malformed("a tip whose finalization does not hold")
        self._tips[peer] = height
        engine, changes = self.engine, self.engine.epoch.epoch - self._epoch
        until = quarantine_until(self._tips, engine.validators, engine.machine.key, set_changes=changes)
        if until is not None:
            self.engine.release(until)
            self.on_trouble("released", f"the others have told where they stand: signs above height {until}")
            self._act(self.engine.start)

    def _is_final(self, certificate: Certificate) -> bool:
        vote = certificate.vote
        _, validators = self.engine.store.validators(vote.height)
        ours = vote.quorum == self.engine.store.chain.quorum and vote.kind == FINALIZE
        return ours and verify_certificate(certificate, validators)

    def _halted(self, reason: str) -> None:
        self.on_trouble("halted", reason)
        if reason.startswith("state divergence"):
            self.explaining.begin()

    # --- seen from outside

    def seats(self) -> tuple[Validator, ...]:
        return self.engine.validators.validators

    def why(self) -> dict[str, Any]:
        """What the current height waits for, as data."""
        h = self.engine.machine.h
        if h is None:
            return {}
        votes = h.votes
        named = {1: "propose", 2: "notarize", 3: "finalize", 4: "nullify"}
        said: dict[str, list[str]] = {v.idao.hex(): [] for v in self.seats()}
        for index, view, kind in votes.spoken():
            if view == h.view:
                said[self.seats()[index].idao.hex()].append(named[kind])
        return {
            "height": h.number,
            "view": h.view,
            "armed": h.armed,
            "leader": self.seats()[h.leader(h.view)].idao,
            "said": said,
            "halted": self.engine.halted,
            "quarantined": self.engine.quarantined,
            "signing": self.engine.machine.signing,
            "unsigned_until": self.engine.store.unsigned_until,
            "pool": len(self.engine.pool),
            "syncing": self.sync.active,
            "gone": self.sync.gone,
        }


def _batches(txs: list[Tx], bytes_max: int = msg.PAYLOAD_MAX // 4) -> list[list[Tx]]:
    """Transactions in frames of bounded size."""
    out: list[list[Tx]] = []
    size = 0
    for tx in txs:
        if not out or len(out[-1]) >= msg.TXS_MAX or size + len(tx.raw) > bytes_max:
            out.append([])
            size = 0
        out[-1].append(tx)
        size += len(tx.raw)
    return out


def _reraise(error: BaseException) -> None:
    raise error
