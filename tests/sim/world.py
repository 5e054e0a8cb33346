"""One run: a plan (drawn from a seed), its nodes, the heap of events, and the invariants."""

from __future__ import annotations

import heapq
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from idao.crypto import canonical
from idao.crypto.faults import check_fault, conflict
from idao.model import FINALIZE, SLOT_OF, Certificate, SignedVote, ValidatorSet, Vote
from idao.quorum import events as ev
from idao.quorum.machine import Machine

from .blocks import GENESIS, parse
from .book import Book, Desk, PeopleKeys, Town, bundle_of
from .network import Network, Weather
from .node import Node
from .tokens import Keys

PATIENCE_MS = 150_000
"""After the storm every tx must be final at every correct node within this: one time-out at the cap (30 s),
then for each of up to f liars in a row another, and slack for statuses at their slowest."""
EVENTS_MAX = 400_000
"""A run that makes more events than this is a message storm."""
VIEWS_MAX = 25
"""Time-outs alone reach view 12 within the patience; bad leaders add at most one turn each."""
HEIGHT_BYTES_MAX = 4_000_000
BUFFERED_MAX = 2 * 8 * 12


class Violation(AssertionError):
    pass


@dataclass
class Plan:
    """Everything a run is made of. `scenario.plan_of(seed)` draws one."""

    seed: int
    powers: tuple[int, ...] = (1, 1, 1, 1)
    liars: dict[int, str] = field(default_factory=dict)
    storm: Weather = field(default_factory=Weather)
    calm: Weather = field(default_factory=Weather)
    gst_ms: int = 0
    txs: int = 4
    gap_ms: int = 100
    spread_ms: int = 20
    """A tx reaches each validator within this time of its submission."""
    crashes: tuple[tuple[int, int, int, int], ...] = ()
    """(at, validator, effects until death, down for)"""
    cuts: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...] = ()
    """(at, for, ((from, to), ...))"""
    held: tuple[tuple[int, int], ...] = ()
    """(at, validator): all it sends arrives only after the storm."""
    epochs: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """(first height, members): the set changes; who is no member follows as an observer."""
    rollback: tuple[int, int, int] | None = None
    """(backup at, restore at, validator)"""
    skews_ms: tuple[int, ...] = ()
    threads: bool = False
    """Blocks are built and judged a little later, not inside the turn."""
    real: bool = False
    founders: tuple[int, ...] = ()
    """Who founds the real ledger of this run; without any, blocks are pretended and sets are planned."""
    strict_ms: int | None = None
    """A healthy network: everything final by this time."""


@dataclass
class Report:
    seed: int
    audit: str
    heights: int
    events: int
    now_ms: int
    accused: set[int]
    forks: int
    guilty: set[int]
    views: int
    stored: list[Certificate]


class World:
    def __init__(
        self, plan: Plan, machine_class: Any = Machine, trace: Callable[[str], None] | None = None
    ) -> None:
        from .plotters import ALL_LIARS

        self.plan, self.machine_class, self.trace = plan, machine_class, trace
        self.rng = random.Random(plan.seed)
        self.n = len(plan.powers)
        self.keys = PeopleKeys(self.n) if plan.founders else Keys(plan.powers, real=plan.real)
        self.validators = self.keys.validators
        self.quorum = GENESIS
        self.raws: dict[int, bytes] = {}
        """The real transactions by number."""
        self.town: Town | None = None
        if plan.founders:
            self.bundle = bundle_of(self.n, plan.founders)
            book = Book(self.bundle)
            self.quorum = book.chain.quorum
            self.keys.set_at = self.set_at
            self.town = Town(self.n, book, random.Random(f"town {plan.seed}"))
        self.peers = [v.idao for v in self.validators.validators]
        self.index_of = {p: i for i, p in enumerate(self.peers)}
        self.network = Network(self.rng, plan.storm, plan.calm, plan.gst_ms)
        self.now = 0
        self._heap: list[tuple[int, int, Callable[[], Any]]] = []
        self._count = 0
        self._audit = blake3()
        self.txs: list[int] = []
        self.decisions: dict[int, tuple[bytes, int]] = {}
        self.decided_txs: set[int] = set()
        self.forked: dict[int, set[bytes]] = {}
        self.said: dict[tuple[int, int, int, str], Vote] = {}
        self.accused_set: set[int] = set()
        self.views = 0
        self.events = 0
        self._sets: dict[int, ValidatorSet] = {}
        self.excess = any(
            sum(v.power for v in s.validators if self.index_of[v.idao] in plan.liars) >= s.honest_size
            for s in (self.set_at(h) for h in (1, *(first for first, _ in plan.epochs)))
        )
        """More power is faulty than the quorum tolerates: forks may happen, and must be proved."""
        self.nodes: list[Node] = []
        self.copies: list[list[Node]] = []
        for i in range(self.n):
            kind = ALL_LIARS[plan.liars[i]] if i in plan.liars else Node
            nodes = kind.copies_of(self, i) if i in plan.liars else [Node(self, i)]
            self.copies.append(nodes)
            self.nodes += nodes
        self.correct = [n for n in self.nodes if n.sin is None]
        for node, skew in zip(self.correct, plan.skews_ms, strict=False):
            node.skew_ms = skew

    def desk_of(self, node: Node) -> Desk | None:
        return Desk(node, self.bundle) if self.town else None

    def set_at(self, height: int) -> ValidatorSet:
        if self.town is not None:
            # A liar may ask for heights that nothing has decided yet; correct nodes never do.
            known = min(height, self.town.book.tip.height + 2)
            found = self._sets.get(known)
            if found is None:
                found = self._sets[known] = self.town.book.set_at(known)
            return found
        found = self._sets.get(height)
        if found is None:
            members = [m for first, m in self.plan.epochs if first <= height]
            found = self.keys.subset(members[-1]) if members else self.validators
            self._sets[height] = found
        return found

    def who(self, height: int, signer: int) -> int:
        """The validator at an index of the set of `height`."""
        return self.index_of[self.set_at(height).validators[signer].idao]

    def leader(self, height: int, view: int) -> int:
        return self.who(height, self.set_at(height).leader(height, view))

    # --- time ---------------------------------------------------------------------------------------

    def after(self, delay: int, action: Callable[[], Any]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, action))

    def fail(self, what: str) -> None:
        raise Violation(f"seed {self.plan.seed} at {self.now} ms: {what}")

    def run(self) -> Report:
        self._prepare()
        heap, deadline = self._heap, self.plan.gst_ms + PATIENCE_MS
        while heap and not self.finished():
            self.now, _, action = heapq.heappop(heap)
            self.events += 1
            if self.events > EVENTS_MAX:
                self.fail("a storm of messages")
            if self.now > deadline:
                if self.excess:
                    break
                self._stuck()
            action()
        if not self.finished() and not self.excess:
            self._stuck()
        return self._report()

    def finished(self) -> bool:
        if self.excess and self.now < self.plan.gst_ms + 10_000:
            return False  # A fork is to be noticed once the sides hear each other.
        return len(self.txs) == self.plan.txs and all(len(n.committed) == self.plan.txs for n in self.correct)

    def _stuck(self) -> None:
        where = [
            (
                n.index,
                "down" if n.machine is None else (n.machine.h.number, n.machine.h.view, len(n.committed)),
            )
            for n in self.correct
        ]
        self.fail(f"stuck: (validator, (height, view, txs)) {where} of {len(self.txs)} txs")

    def _prepare(self) -> None:
        plan, rng = self.plan, self.rng
        for node in self.nodes:
            self.after(0, node.boot)
            for step in range(1000, plan.gst_ms + PATIENCE_MS, 1000):
                if step < 20_000 or step % 5000 == 0:
                    self.after(step + rng.randint(0, 200), node.keep_alive)
        for a in self.nodes:
            for b in self.peers:
                if b != a.peer:
                    self.after(rng.randint(0, 40), lambda a=a, b=b: a.turn(ev.PeerUp(b)))
        for at, index, effects, down in plan.crashes:
            self.after(at, lambda i=index, e=effects, d=down: self.crash(self.copies[i][0], e, d))
        for at, duration, links in plan.cuts:
            self.after(at, lambda ls=links: self._cut(ls))
            self.after(at + duration, lambda ls=links: self._heal(ls))
        for at, index in plan.held:
            self.after(at, lambda i=index: self.network.held.add(i))
        if plan.gst_ms:
            self.after(plan.gst_ms, self._calm)
        if plan.rollback:
            backup_at, restore_at, index = plan.rollback
            self.after(backup_at, lambda: self._backup(index))
            self.after(restore_at, lambda: self._restore(index))
        self.after(rng.randint(1, 50), self.inject)

    # --- the workload -------------------------------------------------------------------------------

    def inject(self) -> None:
        if self.town and self.txs and self.txs[-1] not in self.decided_txs:
            return  # the commit that decides it comes back here
        if len(self.txs) < self.plan.txs:
            tx = len(self.txs) + 1
            if self.town:
                self.raws[tx] = self.town.next_raw(tx)
            self.txs.append(tx)
            for node in self.nodes:
                self.after(self.rng.randint(0, self.plan.spread_ms), lambda n=node: n.add_tx(tx))

    def send(self, sender: Node, to: int, frame: ev.Frame) -> None:
        for at in self.network.arrivals(self.now, sender.index, to):
            for node in self.copies[to]:
                if not node.accepts(sender):
                    continue
                self._count += 1
                heapq.heappush(
                    self._heap,
                    (at, self._count, lambda n=node, s=sender.index, f=frame: self.deliver(n, s, f)),
                )

    def deliver(self, node: Node, sender: int, frame: ev.Frame) -> None:
        if not node.alive:
            return
        vote = getattr(frame, "vote", None)
        if type(vote) is SignedVote:
            vote = vote.vote
        where = (vote.height, vote.view, vote.kind) if vote is not None else (frame.height, 0, 0)
        self._audit.update(struct.pack("<QHHQQH", self.now, sender, node.index, *where))
        if self.trace:
            self.trace(f"{self.now:>7} {sender} -> {node.index} {type(frame).__name__} {where}")
        node.hear(sender, frame)

    # --- mishaps ------------------------------------------------------------------------------------

    def crash(self, node: Node, effects: int, down: int) -> None:
        if node.alive and node.doom is None:
            node.doom = effects
            node.down_ms = down
            life = node.life
            # Without traffic the process dies all the same.
            self.after(80, lambda: life == node.life and node.alive and self._kill(node))

    def _kill(self, node: Node) -> None:
        node.die()
        self.crashed(node)

    def crashed(self, node: Node) -> None:
        self._audit.update(b"crash%d" % node.index)
        if self.trace:
            self.trace(f"{self.now:>7} validator {node.index} dies")
        silent = 3000 if self.rng.random() < 0.3 else 2
        for other in self.nodes:
            if other is not node:
                self.after(silent, lambda o=other: None if node.alive else o.turn(ev.PeerDown(node.peer)))
        self.after(getattr(node, "down_ms", 500), lambda: self._revive(node))

    def _revive(self, node: Node) -> None:
        if node.alive:
            return
        node.boot()
        for other in self.nodes:
            if other is not node:
                self._link(node, other)
                self._link(other, node)

    def _link(self, a: Node, b: Node) -> None:
        self.after(self.rng.randint(1, 400), lambda: a.turn(ev.PeerUp(b.peer)) if b.alive else None)

    def _cut(self, links: tuple[tuple[int, int], ...]) -> None:
        self.network.cuts.update(links)
        for a, b in links:
            for node in self.copies[b]:
                self.after(3000, lambda a=a, b=b, n=node: self._went_silent(a, b, n))

    def _went_silent(self, a: int, b: int, node: Node) -> None:
        if (a, b) in self.network.cuts:
            node.turn(ev.PeerDown(self.peers[a]))

    def _heal(self, links: tuple[tuple[int, int], ...]) -> None:
        self.network.cuts.difference_update(links)
        for a, b in links:
            for node in self.copies[b]:
                delay = self.rng.randint(1, 1000)
                self.after(delay, lambda a=a, n=node: n.turn(ev.PeerUp(self.peers[a])))

    def _calm(self) -> None:
        self._heal(tuple(sorted(self.network.cuts)))
        self.network.cuts.clear()
        self.network.held.clear()

    def _backup(self, index: int) -> None:
        self.copies[index][0].backup = self.copies[index][0].disk.copy()

    def _restore(self, index: int) -> None:
        """A home rolled back to its backup: the store notices, and the quarantine rule holds (§2.7)."""
        from idao.quorum.recovery import quarantine_until

        node = self.copies[index][0]
        node.die()
        node.disk = node.backup
        for other in self.nodes:
            if other is not node:
                other.turn(ev.PeerDown(node.peer))
        answers = {n.peer: len(n.disk.chain) for n in self.nodes if n is not node and n.alive}
        height = max(answers.values()) + 1  # by then it has fetched the blocks, and knows the set
        until = quarantine_until(answers, self.set_at(height), self.keys.key_at(index, height))
        if until is None:
            self.after(500, lambda: self._restore(index))
            return
        node.quarantine = until
        self._revive(node)

    # --- invariants ---------------------------------------------------------------------------------

    def committed(self, node: Node, e: ev.Commit) -> None:
        if node.sin is not None:
            return
        block, c = parse(e.block), e.certificate
        tip, _ = node.tip()
        if block.parent != tip or e.height != len(node.disk.chain) + 1:
            node.fail("committed a block that is not a child of its tip")
        if (
            block.note == "bad"
            or node.committed.intersection(block.txs)
            or not set(block.txs) <= set(self.txs)
        ):
            node.fail(f"committed an invalid block {block}")
        if c.vote.kind != FINALIZE or c.vote.digest != e.hash or c.vote.height != e.height:
            node.fail("committed by a certificate of something else")
        self._check_certificate(node, c)
        self._audit.update(e.hash)
        if self.trace:
            self.trace(f"{self.now:>7} validator {node.index} commits {e.height} ({block.txs})")
        self.views = max(self.views, c.vote.view)
        if c.vote.view > VIEWS_MAX and not self.excess:  # Else liars alone can make all give up.
            node.fail(f"views spin: decided in view {c.vote.view}")
        if self.town and e.height not in self.decisions:
            self.town.book.append(e.block, c)
            self.decided_txs.update(block.txs)
        digest, _ = self.decisions.setdefault(e.height, (e.hash, node.index))
        if digest != e.hash:
            if not self.excess:
                node.fail(f"disagrees at height {e.height}")
            self.forked.setdefault(e.height, {digest}).add(e.hash)
        elif self.decisions[e.height][1] == node.index:
            self.after(self.rng.randint(0, self.plan.gap_ms), self.inject)
        if self.plan.strict_ms is not None and self.now > self.plan.strict_ms * e.height:
            node.fail("a healthy quorum is late")

    def _check_certificate(self, node: Node, c: Certificate) -> None:
        """Independent arithmetic: powers, bits, each signature."""
        bits = [i for i in range(8 * len(c.bitmap)) if c.bitmap[i // 8] & (1 << (i % 8))]
        members = self.set_at(c.vote.height).validators
        power = sum(members[i].power for i in bits)
        good = all(
            self.keys.verify(members[i].key, s, c.vote) for i, s in zip(bits, c.signatures, strict=True)
        )
        if 3 * power <= 2 * sum(m.power for m in members) or not good or c.vote.quorum != self.quorum:
            node.fail("committed by a certificate that does not hold")

    def spoke(self, node: Node, vote: Vote) -> None:
        """Across restarts and restores, each slot of a correct validator has one content."""
        if node.sin is None:
            key = node.index, vote.height, vote.view, SLOT_OF[vote.kind]
            if self.said.setdefault(key, vote) != vote:
                node.fail(f"said two things in slot {key}")

    def accused(self, node: Node, fault: Any) -> None:
        index = self.keys.owner(fault.key)
        a, b = canonical.unpack(SignedVote, fault.a), canonical.unpack(SignedVote, fault.b)
        if index not in self.plan.liars:
            node.fail(f"accuses the correct validator {index}: {a.vote} {b.vote}")
        if self.who(a.vote.height, a.signer) != index or conflict(a, b) != fault.kind:
            node.fail("reports a fault that proves nothing")
        if self.plan.real or self.town:
            check_fault(fault, self.set_at(a.vote.height), self.quorum)
        if node.sin is None:
            self.accused_set.add(index)
            if self.town and fault not in self.town.found:
                self.town.found.append(fault)

    def halted(self, node: Node, reason: str) -> None:
        if node.sin is None and not self.excess:
            node.fail(f"halts: {reason}")

    def guilty(self) -> set[int]:
        """All that the certificates stored by correct nodes prove."""
        from idao.quorum.forensics import conflicts

        stored = [c for n in self.correct for c in n.disk.certificates.values()]
        stored += [c for n in self.correct for _, _, c in n.disk.chain]
        return {self.who(a.vote.height, a.signer) for a, _ in conflicts(stored)}

    def _report(self) -> Report:
        named = self.guilty()
        if not named <= set(self.plan.liars):
            self.fail(f"forensics names correct validators: {named}")
        if self.forked:
            needed = 2 * self.validators.quorum_size - self.validators.total_power
            power = sum(self.plan.powers[i] for i in named)
            faulty = sum(self.plan.powers[i] for i in self.plan.liars)
            if not any(n.forks or n.halts for n in self.correct):
                self.fail("nobody noticed a fork")
            if faulty < self.validators.quorum_size and power < needed:
                self.fail(f"a fork proves only power {power} guilty, {needed} are due")
        for node in self.correct:
            if node.machine is not None:
                self._check_memory(node)
        heights = max((len(n.disk.chain) for n in self.correct), default=0)
        stored = [c for n in self.correct for c in n.disk.certificates.values()]
        return Report(
            self.plan.seed,
            self._audit.hexdigest(),
            heights,
            self.events,
            self.now,
            self.accused_set,
            len(self.forked),
            named,
            self.views,
            stored,
        )

    def _check_memory(self, node: Node) -> None:
        machine = node.machine
        h = machine.h
        held = sum(len(b) for b in h.bodies.values()) + 200 * len(h.votes)
        waiting = len(machine._ahead)
        if held > HEIGHT_BYTES_MAX or waiting > BUFFERED_MAX or len(h.bodies) > h.view + 4 + self.n:
            node.fail(f"holds too much: {held} bytes, {len(h.bodies)} bodies, {waiting} waiting frames")
