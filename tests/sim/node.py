"""One honest validator: the shell of `quorum/events.py` with a pretended disk and clock."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from idao.model import FINALIZE, NOTARIZE, PROPOSE, SLOT_OF, Certificate, SignedVote, Vote
from idao.quorum import events as ev

from .blocks import MAX_LEAD_MS, SimBlock, block_hash, parse

if TYPE_CHECKING:
    from .world import World


STEPS_MAX = 200
"""Events of one turn: a height of a quorum of one takes about ten."""


class Crashed(Exception):
    pass


class Disk:
    """Durable rows. A turn writes to `pending`; `commit` makes it durable, a crash before loses it."""

    def __init__(self) -> None:
        self.signs: dict[int, dict[tuple[int, str], SignedVote]] = {}
        self.certificates: dict[tuple[int, int, int, bytes], Certificate] = {}
        self.blocks: dict[tuple[int, bytes], bytes] = {}
        self.chain: list[tuple[bytes, bytes, Certificate]] = []
        self.halted = False
        self.pending: list[tuple[Any, ...]] = []

    def commit(self, fail: Any) -> None:
        for row in self.pending:
            match row:
                case ("sign", signed):
                    slots = self.signs.setdefault(signed.vote.height, {})
                    slot = signed.vote.view, SLOT_OF[signed.vote.kind]
                    if slot in slots:
                        fail(f"slot {signed.vote.slot} is filled twice")
                    slots[slot] = signed
                case ("cert", c):
                    self.certificates[c.vote.height, c.vote.kind, c.vote.view, c.vote.digest] = c
                case ("block", height, digest, block):
                    self.blocks[height, digest] = block
                case ("commit", digest, block, c):
                    self.chain.append((digest, block, c))
                case ("halt",):
                    self.halted = True
        self.pending = []

    def copy(self) -> Disk:
        """A backup."""
        disk = Disk()
        disk.signs = {h: dict(s) for h, s in self.signs.items()}
        disk.certificates, disk.blocks = dict(self.certificates), dict(self.blocks)
        disk.chain, disk.halted = list(self.chain), self.halted
        return disk


class Node:
    """A correct validator."""

    sin: str | None = None

    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index
        self.validator = world.validators.validators[index]
        self.peer = self.validator.idao
        self.disk = Disk()
        self.machine: Any = None
        self.alive = False
        self.life = 0
        """Counts starts: what was under way in an earlier life is lost."""
        self.pool: set[int] = set()
        self.committed: set[int] = set()
        self.skew_ms = 0
        self.doom: int | None = None
        """Effects until the process dies, inside a turn or between two frames sent."""
        self.quarantine = 0
        self.halts: list[str] = []
        self.forks: list[ev.ForkDetected] = []
        self.faults: list[Any] = []
        self.desk = world.desk_of(self)
        """The real ledger, in runs that have one."""

    def seat(self, height: int) -> int:
        """Own index in the set of `height`; −1 for an observer."""
        index = self.world.set_at(height).index_of_key(self.world.keys.key_at(self.index, height))
        return -1 if index is None else index

    # --- life and death -----------------------------------------------------------------------------

    def boot(self) -> None:
        self.alive, self.life, self.doom = True, self.life + 1, None
        self.machine = self.make_machine()
        self.committed = {t for _, block, _ in self.disk.chain for t in parse(block).txs}
        self.pool = {t for t in self.world.txs if t not in self.committed}
        self.turn(self.start_event())

    def make_machine(self) -> Any:
        return self.world.machine_class(self.world.quorum, self.validator.key, self.world.keys.verify)

    def start_event(self) -> ev.Start:
        disk, height = self.disk, len(self.disk.chain) + 1
        if self.machine is not None:
            self.machine.key = self.world.keys.key_at(self.index, height)
        signs = tuple(disk.signs.get(height, {}).values())
        certs = tuple(c for key, c in disk.certificates.items() if key[0] == height)
        blocks = tuple(ev.StoredBlock(h, d, b) for (h, d), b in disk.blocks.items() if h == height)
        tip = disk.chain[-1] if disk.chain else (self.world.quorum, b"", None)
        v = self.world.set_at(height)
        before = self.world.set_at(height - 1) if height > 1 else None
        signing = not disk.halted and height > self.quarantine
        return ev.Start(height, v, tip[0], tip[2], before, bool(self.pool), signing, signs, certs, blocks)

    def die(self) -> None:
        self.alive, self.machine, self.disk.pending = False, None, []

    # --- a turn -------------------------------------------------------------------------------------

    def turn(self, event: ev.Event) -> None:
        if not self.alive:
            return
        try:
            for effect in self._inward(event):
                if self.doom is not None:
                    self._count_down()
                self.perform(effect)
        except Crashed:
            self.die()
            self.world.crashed(self)

    def _count_down(self) -> None:
        assert self.doom is not None
        self.doom -= 1
        if self.doom < 0:
            raise Crashed

    def _inward(self, event: ev.Event) -> list[ev.Effect]:
        queue, outward = deque([event]), []
        pending, step = self.disk.pending, self.machine.step
        steps = 0
        while queue:
            steps += 1
            if steps > STEPS_MAX:
                self.world.fail(f"validator {self.index}: a turn without end")
            for effect in step(queue.popleft()):
                if self.doom is not None:
                    self._count_down()
                kind = type(effect)
                if kind is ev.Sign:
                    vote = effect.vote
                    signed = SignedVote(vote, self.seat(vote.height), self.world.keys.sign(self.index, vote))
                    pending.append(("sign", signed))
                    queue.append(ev.Msg(ev.OWN, signed))
                elif kind is ev.Persist:
                    row = effect.row
                    if type(row) is Certificate:
                        pending.append(("cert", row))
                    else:
                        pending.append(("block", row.height, row.hash, row.block))
                elif kind is ev.Commit:
                    self.on_commit(effect)
                elif kind is ev.Halt or kind is ev.ForkDetected:
                    pending.append(("halt",))
                    outward.append(effect)
                elif kind is ev.Build and not self.world.plan.threads:
                    queue.append(self.built(effect))
                elif kind is ev.Validate and not self.world.plan.threads:
                    queue.append(ev.BlockReady(effect.height, effect.hash, self.judge(effect)))
                else:
                    outward.append(effect)
        if pending:
            self.disk.commit(self.fail)
            self.disk.pending = []
        return outward

    def fail(self, what: str) -> None:
        self.world.fail(f"validator {self.index}: {what}")

    def on_commit(self, e: ev.Commit) -> None:
        self.disk.pending.append(("commit", e.hash, e.block, e.certificate))
        self.world.committed(self, e)
        block = parse(e.block)
        self.committed.update(block.txs)
        self.pool.difference_update(block.txs)
        life = self.life
        self.world.after(0, lambda: life == self.life and self.turn(self.start_event()))

    def perform(self, effect: ev.Effect) -> None:
        """Outward effects, after the turn's rows are durable."""
        kind, world = type(effect), self.world
        if kind is ev.Broadcast:
            self.check_speech(effect.frame)
            for to in range(world.n):
                if to != self.index:
                    self.emit(to, effect.frame)
        elif kind is ev.Send:
            self.emit(world.index_of[effect.peer], effect.frame)
        elif kind is ev.SetTimer:
            delay = effect.delay_ms
            if effect.kind == ev.STATUS:
                delay += int(world.rng.uniform(-0.2, 0.2) * delay)
            timer = ev.Timer(effect.kind, effect.height, effect.view, effect.generation)
            self.later(delay, timer)
        elif kind is ev.Serve:
            for height in range(effect.height, min(effect.height + 3, len(self.disk.chain) + 1)):
                digest, block, certificate = self.disk.chain[height - 1]
                to = world.index_of[effect.peer]
                self.emit(to, certificate)
                self.emit(to, ev.Body(height, digest, block))
        elif kind is ev.Build:
            self.later(world.rng.randint(0, 20), self.built(effect))
        elif kind is ev.Validate:
            answer = ev.BlockReady(effect.height, effect.hash, self.judge(effect))
            self.later(world.rng.randint(0, 20), answer)
        elif kind is ev.FaultFound:
            self.faults.append(effect.fault)
            world.accused(self, effect.fault)
        elif kind is ev.ForkDetected:
            self.forks.append(effect)
        elif kind is ev.Halt:
            self.halts.append(effect.reason)
            world.halted(self, effect.reason)

    def later(self, delay: int, event: ev.Event) -> None:
        life = self.life

        def fire() -> None:
            if life == self.life:
                self.turn(event)

        self.world.after(delay, fire)

    # --- the pretended ledger -----------------------------------------------------------------------

    @property
    def clock(self) -> int:
        return self.world.now + self.skew_ms

    def built(self, e: ev.Build) -> ev.Built:
        if self.desk is not None:
            return self.desk.build(e)
        tip, parent_time = self.tip()
        txs = tuple(sorted(self.pool))[:100]
        block = SimBlock(e.height, e.view, self.index, tip, max(self.clock, parent_time + 1), txs)
        block = self.tamper(block)
        data = block.pack()
        return ev.Built(e.height, e.view, block_hash(data), data)

    def tip(self) -> tuple[bytes, int]:
        if not self.disk.chain:
            return self.world.quorum, 0
        digest, block, _ = self.disk.chain[-1]
        return digest, parse(block).time_ms

    def tamper(self, block: SimBlock) -> SimBlock:
        return block

    def judge(self, e: ev.Validate) -> str:
        if self.desk is not None:
            return self.desk.judge(e, MAX_LEAD_MS)
        if block_hash(e.block) != e.hash:
            return ev.MISMATCH
        block = parse(e.block)
        tip, parent_time = self.tip()
        deterministic = (
            block.height == e.height
            and block.parent == tip
            and block.proposer == self.world.leader(block.height, block.view)
            and block.time_ms > parent_time
            and not self.committed.intersection(block.txs)
            and all(t in self.world.txs for t in block.txs)
            and block.note != "bad"
        )
        if not deterministic:
            return ev.INVALID
        # The least step after its parent is never too early: a block answers for its own lead alone.
        early = block.time_ms > max(self.clock + MAX_LEAD_MS, parent_time + 1)
        if e.fresh and (block.view != e.view or early):
            return ev.UNTIMELY
        return ev.VALID

    def add_tx(self, tx: int) -> None:
        if self.alive and tx not in self.committed:
            self.pool.add(tx)
            self.turn(ev.PoolNonEmpty(len(self.disk.chain) + 1))

    # --- speech -------------------------------------------------------------------------------------

    def emit(self, to: int, frame: ev.Frame) -> None:
        self.world.send(self, to, frame)

    def accepts(self, sender: Node) -> bool:
        return True

    def hear(self, sender: int, frame: ev.Frame) -> None:
        self.turn(ev.Msg(self.world.peers[sender], frame))

    def keep_alive(self) -> None:
        if self.alive and self.machine is not None:
            status = self.machine.status()
            if status is not None:
                for to in range(self.world.n):
                    if to != self.index:
                        self.emit(to, status)

    def check_speech(self, frame: ev.Frame) -> None:
        """Order law: what leaves as ours is durable, as is what it stands on."""
        signed = frame.vote if type(frame) is ev.Propose else frame
        if type(signed) is not SignedVote or signed.signer != self.seat(signed.vote.height):
            return
        vote: Vote = signed.vote
        slot = vote.view, SLOT_OF[vote.kind]
        if self.disk.signs.get(vote.height, {}).get(slot) != signed:
            self.fail(f"sent before stored, or not as stored: {vote}")
        self.world.spoke(self, vote)
        if vote.height != len(self.disk.chain) + 1:
            return
        if vote.kind in (PROPOSE, NOTARIZE, FINALIZE) and (vote.height, vote.digest) not in self.disk.blocks:
            self.fail(f"voted for a block it does not durably hold: {vote}")
        if vote.kind == FINALIZE:
            row = vote.height, NOTARIZE, vote.view, vote.digest
            if row not in self.disk.certificates:
                self.fail(f"finalized without a durable notarization: {vote}")
