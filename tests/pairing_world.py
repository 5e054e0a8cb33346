"""Two who pair, in one process: an inviter behind its listener, and who joins it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import net_world as world

from idao import identity, invite, noderecord
from idao.crypto import canonical
from idao.crypto.keys import Signer
from idao.frozen import replace
from idao.invite import Invite
from idao.ledger import charter, genesis
from idao.ledger.genesis import Bundle
from idao.ledger.idao import Register
from idao.ledger.membership import Join
from idao.ledger.tx import Envelope, sign_tx
from idao.model import Inception
from idao.node import joining, tls
from idao.node.listener import Listener
from idao.node.pairing import Desk, Offer, Pending

QUORUM = b"Q" * 32
HOST = "127.0.0.1"
TESTS = Path(__file__).resolve().parent


class Person:
    """Keys of one iDAO and one node."""

    def __init__(self, folder: Path, name: str) -> None:
        self.signer, self.validator = Signer(name.encode().ljust(32)), Signer(name.encode().rjust(32))
        hidden = identity.next_commitment(bytes(32))
        self.inception = Inception(1, bytes(32), self.signer.public, hidden, hidden)
        self.idao = identity.idao_id(self.inception)
        self.tls = tls.identity(folder / name)

    @property
    def who(self) -> joining.Who:
        return joining.Who(self.idao, self.validator.public, self.tls.pin)

    def record(self, quorum: bytes) -> noderecord.SignedNodeRecord:
        places = ("127.0.0.1:9",)
        return noderecord.make(self.validator, quorum, self.idao, self.tls.certificate, places, 1)

    def tx(self, quorum: bytes, kind: str, body: object, seq: int) -> bytes:
        packed = canonical.pack(body)
        key = self.signer.public
        return sign_tx(self.signer, Envelope(1, quorum, self.idao, key, 0, seq, 2**40, kind, 1, packed))

    def offer(self, quorum: bytes, bundle: Bundle, nonce: bytes) -> Offer:
        possession = self.validator.sign_possession(quorum, self.idao)
        seat = Join(self.validator.public, possession, self.tls.pin)
        register = self.tx(quorum, "idao.register", Register(self.inception, ()), 1)
        txs = (register, self.tx(quorum, "quorum.join", seat, 2))
        key = self.validator.public
        return Offer(nonce, self.idao, key, self.record(quorum), self.inception, (), txs, "joiner")


class Inviter:
    def __init__(self, folder: Path) -> None:
        self.person = Person(folder, "inviter")
        rules = charter.encode(charter.defaults())
        self.bundle = genesis.group(
            name="clinic-lan",
            nonce=bytes(32),
            time_ms=1,
            founder=genesis.Seated(self.person.inception, (), self.person.validator.public, 1000),
            signer=self.person.signer,
            rules=rules,
            recovery_threshold=1,
            recovery_keys=(bytes(32),),
        )
        self.quorum = genesis.quorum_id(self.bundle.genesis)
        self.listener = Listener(self.person.tls, 0, ("127.0.0.1",))
        self.offers: list[Pending] = []
        self.failures: list[str] = []
        self.desk = Desk(self.listener, self.offers.append)
        self.desk.on_failure = lambda address, why: self.failures.append(why)

    async def open(self) -> Inviter:
        await self.listener.open()
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.port}"

    def invite(self, address: str = "", **more: Any) -> Invite:
        record = self.person.record(self.quorum)
        line = self.desk.invite(
            self.quorum, canonical.pack(self.bundle), lambda: [record], (address or self.address,), **more
        )
        return invite.decode(line)

    async def offered(self) -> Pending:
        await world.until(lambda: self.offers)
        return self.offers.pop()

    async def close(self) -> None:
        self.desk.close()
        await self.listener.close()


def joins(token: Invite, who: Person, shown: list[str], **more: Any) -> asyncio.Task[joining.Welcome]:
    return asyncio.create_task(joining.join(token, who.who, who.offer, on_words=shown.append, **more))


def replace_invite(token: Invite, **changes: Any) -> Invite:
    return replace(token, **changes)
