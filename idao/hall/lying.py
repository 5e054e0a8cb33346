"""A validator that lies, for `idao demo`: it signs two conflicting votes and tells them to everybody.

It lies only from a home inside a demonstration's temporary folder: anywhere else it would cost a bond.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

from idao import noderecord, validatorkeys
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.errors import UsageError
from idao.home import now_ms
from idao.ledger import membership
from idao.model import NOTARIZE, SignedVote, Vote
from idao.node import addresses, peerbook, tls
from idao.node import messages as msg
from idao.node.mesh import Mesh
from idao.node.peer import Allowed
from idao.store.ledger import LedgerStore

DEMO_FOLDER = "idao-demo-"
"""What the name of a demonstration's folder begins with."""
LINKS_S = 10.0
"""Patience for the links to the others."""
HEARD_S = 1.0
"""Two frames are read long before."""


class _Deaf:
    """A hub that listens to nobody."""

    def status(self) -> bytes:
        return b""

    def on_status(self, peer: bytes, status: bytes) -> None: ...
    def on_up(self, peer: bytes) -> None: ...
    def on_down(self, peer: bytes) -> None: ...
    def on_frame(self, peer: bytes, kind: int, payload: bytes) -> None: ...


def lie(home: Path, quorum: str) -> None:
    """Signs two blocks that never were, at the height that is being decided, and sends both to all."""
    if not any(part.startswith(DEMO_FOLDER) for part in home.resolve().parts):
        raise UsageError("a home outside a demonstration does not lie", code="demo")
    dao = Dao.open(home, quorum=quorum)
    with closing(LedgerStore.open(dao.ledger_path(), readonly=True)) as store:
        height = store.height + 1
        validators = store.validators(height)[1]
        seats = membership.seats(store.state())
    index = next((n for n, v in enumerate(validators.validators) if v.idao == dao.me), None)
    if index is None:
        raise UsageError("this home does not vote yet", code="demo")
    key = validators.validators[index].key
    signer = validatorkeys.of_key(dao.home, dao.quorum, dao.keys(), key)
    both = []
    for digest in (b"\1" * 32, b"\2" * 32):
        vote = Vote(NOTARIZE, dao.quorum, height, 0, digest)
        both.append(msg.encode(SignedVote(vote, index, signer.sign_vote(vote))))
    book = peerbook.read(dao.ledger_path())
    others = [Allowed(s.idao, s.key, book.get(s.idao)) for s in seats if s.idao != dao.me]
    asyncio.run(_tell(dao, signer, others, both))


async def _tell(dao: Dao, signer: Signer, others: list[Allowed], frames: list[tuple[int, bytes]]) -> None:
    own, home = tls.identity(dao.home.path), dao.home
    where = addresses.own(home, addresses.port_of(home))
    signed = noderecord.make(signer, dao.quorum, dao.me, own.certificate, where, now_ms())
    mesh = Mesh(dao.quorum, _Deaf(), own, signed)
    mesh.allow(others)
    mesh.start()
    deadline = asyncio.get_running_loop().time() + LINKS_S
    while len(mesh.up()) < len(others) - 1 and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    for kind, payload in frames:
        mesh.broadcast((kind, payload))
    await asyncio.sleep(HEARD_S)
    await mesh.stop()
