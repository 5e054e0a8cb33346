"""Several members of one quorum in one process, over links in memory; engines, ledgers and keys are real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from idao import identity
from idao.crypto import canonical, phrase
from idao.crypto.keys import Signer
from idao.errors import Malformed
from idao.home import now_ms
from idao.ledger import charter, genesis
from idao.ledger.genesis import Bundle, Founder
from idao.ledger.idao import AddTrust, charter_hash
from idao.ledger.tx import Envelope, sign_tx
from idao.model import (
    Genesis,
    Validator,
    ValidatorSet,
    show_id,
)
from idao.node import messages as msg
from idao.node.engine import Engine
from idao.node.member import Member
from idao.store.ledger import LedgerStore


def seed(name: str) -> bytes:
    return name.encode().ljust(32, b".")


class Person:
    """An iDAO with its identity and validator keys."""

    def __init__(self, name: str) -> None:
        phrase_seed = seed(name) * 2
        self.inception = identity.incept(phrase_seed)
        self.idao = identity.idao_id(self.inception)
        self.identity = Signer(phrase.first_key(phrase_seed))
        self.validator = Signer(seed(name + " validator"))
        self.seq = 0

    def tx(self, quorum: bytes, body: Any, kind: str = "trust.add", valid_ms: int = 3_600_000) -> bytes:
        self.seq += 1
        envelope = Envelope(
            v=1, quorum=quorum, idao=self.idao, key=self.identity.public, key_seq=0, seq=self.seq,
            valid_until=now_ms() + valid_ms, kind=kind, kind_version=1, body=canonical.pack(body),
        )  # fmt: skip
        return sign_tx(self.identity, envelope)


def trust(number: int) -> AddTrust:
    return AddTrust(number.to_bytes(32, "big"), (), (), 1)


def bundle_of(people: list[Person]) -> Bundle:
    """A quorum whose founders are all of `people`."""
    rules = charter.encode(charter.defaults())
    people = sorted(people, key=lambda p: p.idao)
    made = Genesis(
        v=1, kind=genesis.GROUP, nonce=bytes(32), formats=genesis.FORMATS, time_ms=now_ms(), name="lan",
        validators=ValidatorSet(tuple(Validator(p.idao, p.validator.public, 1) for p in people)),
        stake=(), charter=charter_hash(rules), recovery_threshold=1,
        recovery_keys=(people[0].identity.public,), parent=None,
    )  # fmt: skip
    founders = tuple(Founder(p.inception, (), p.identity.sign_genesis(made)) for p in people)
    return Bundle(made, rules, founders)


class Wire:
    """Links in memory, one event loop hop per frame. `cut` holds (from, to) pairs that lose everything."""

    def __init__(self, net: Net, me: bytes) -> None:
        self.net, self.me = net, me

    def send(self, peer: bytes, kind: int, payload: bytes) -> bool:
        other = self.net.members.get(peer)
        if other is None or (self.me, peer) in self.net.cut:
            return False
        self.net.frames += 1
        self.net.loop.call_soon(self.net.deliver, self.me, peer, kind, payload)
        return True

    def queue(self, peer: bytes) -> int:
        return 0

    def blame(self, peer: bytes, reason: str) -> None:
        self.net.bad.append((peer, self.me, reason))

    def broadcast(self, *frames: tuple[int, bytes]) -> None:
        for peer in list(self.net.members):
            for kind, payload in frames:
                if peer != self.me:
                    self.send(peer, kind, payload)


class Net:
    """The members by iDAO id, and the links between them."""

    def __init__(self, folder: Path, people: list[Person], bundle: Bundle | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.folder, self.people = folder, people
        self.bundle = bundle or bundle_of(people)
        self.quorum = genesis.quorum_id(self.bundle.genesis)
        self.members: dict[bytes, Member] = {}
        self.cut: set[tuple[bytes, bytes]] = set()
        self.bad: list[tuple[bytes, bytes, str]] = []
        self.faults: list[Any] = []
        self.troubles: list[tuple[str, str]] = []
        self.frames = 0

    def path(self, person: Person) -> Path:
        name = show_id("quorum", self.quorum).removeprefix("quorum:")
        return self.folder / person.idao.hex()[:12] / f"{name}.db"

    def boot(self, person: Person, clock: Callable[[], int] = now_ms) -> Member:
        path = self.path(person)
        if path.exists():
            store = LedgerStore.open(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            store = LedgerStore.create(path, self.bundle)
        return self.join(person, Member(Engine(store, person.validator, clock), self.loop))

    def join(self, person: Any, member: Member) -> Member:
        """Starts a member and links it with those that are there."""
        member.links = Wire(self, person.idao)
        member.on_fault = self.faults.append
        member.on_trouble = lambda what, why: self.troubles.append((what, why))
        member.start()
        for other, there in self.members.items():
            member.on_up(other)
            there.on_up(person.idao)
        self.members[person.idao] = member
        return member

    def kill(self, person: Person) -> None:
        member = self.members.pop(person.idao)
        member.stop()
        member.engine.store.close()
        for other in self.members.values():
            other.on_down(person.idao)

    def deliver(self, source: bytes, target: bytes, kind: int, payload: bytes) -> None:
        member = self.members.get(target)
        if member is None or source not in self.members:
            return
        try:
            member.on_frame(source, kind, payload)
        except Malformed as e:
            self.bad.append((source, target, e.message))

    def member(self, person: Person) -> Member:
        return self.members[person.idao]

    def heights(self) -> list[int]:
        return [m.engine.tip.height for m in self.members.values()]

    async def until(self, done: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {self.heights()} {self.troubles} {self.bad}")
            await asyncio.sleep(0.002)

    async def agreed(self, tx: bytes, seconds: float = 20.0) -> None:
        """Until every member has the receipt of a transaction, and an anchor over it."""
        await self.until(lambda: all(self._anchored(m, tx) for m in self.members.values()), seconds)

    @staticmethod
    def _anchored(member: Member, tx: bytes) -> bool:
        found = member.engine.store.receipt_of(tx)
        head = member.engine.store.checkpoint()
        return found is not None and head is not None and head[0] >= found[1].height

    def stop(self) -> None:
        for person in [p for p in self.people if p.idao in self.members]:
            self.kill(person)


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))  # type: ignore[arg-type]


def crowd(n: int = 4) -> list[Person]:
    return [Person(f"person {i}") for i in range(n)]


async def busy(net: Net, people: list[Person], count: int) -> list[bytes]:
    """`count` transactions, one after the other, final everywhere. Their raw bytes."""
    raws = []
    for i in range(count):
        raws.append(raw := people[0].tx(net.quorum, trust(i)))
        await net.agreed(net.member(people[0]).submit(raw).id)
    return raws


def told(first: int, blocks: list[object]) -> tuple[int, bytes]:
    return msg.encode(
        msg.Commits(first, tuple(msg.DecidedBlock(d.block, d.certificate, d.note) for d in blocks))  # type: ignore[attr-defined]
    )
