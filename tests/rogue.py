"""A member's keys in bad hands, as a script: what one may send to real nodes that no honest node sends.

    rogue.py HOME QUORUM SECONDS

It knows the quorum's real messages, keys and links, and dials every other member. On each link it first sends
what costs only itself (old messages again, votes of other quorums, heights and keys, questions without end,
proposals that are none), reads nothing, and then commits one offence. Prints a JSON object: offences sent,
frames sent, links made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from idao import noderecord, validatorkeys
from idao.crypto import canonical
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.home import entropy, now_ms
from idao.model import FINALIZE, NOTARIZE, NULLIFY, PROPOSE, SignedVote, Vote
from idao.node import messages as msg
from idao.node import peerbook, tls, wire
from idao.node.link import HEAD, frame
from idao.noderecord import SignedNodeRecord, split_address
from idao.quorum import events as ev
from idao.store.ledger import LedgerStore

FLOOD = 300
"""Frames of each link before its offence."""


class Rogue:
    def __init__(self, home: Path, quorum: str) -> None:
        dao = Dao.open(home, quorum=quorum)
        self.rng = random.Random(5)
        self.tls, self.quorum, self.me = tls.identity(dao.home.path), dao.quorum, dao.me
        book = peerbook.read(dao.ledger_path())
        self.others = [r for idao, r in book.items() if idao != dao.me]
        with closing(LedgerStore.open(dao.ledger_path(), readonly=True)) as store:
            self.height = store.height
            validators = store.validators(self.height + 1)[1]
            self.index = next(n for n, v in enumerate(validators.validators) if v.idao == dao.me)
            key = validators.validators[self.index].key
            self.signer = validatorkeys.of_key(dao.home, dao.quorum, dao.keys(), key)
            blocks = [store.block(h) for h in range(1, min(self.height, 40))]
            self.old = [(block, certificate) for block, certificate in blocks if block.txs]
        self.record = noderecord.make(
            self.signer, self.quorum, self.me, self.tls.certificate, ("127.0.0.1:9",), now_ms()
        )
        self.sent = {"offences": 0, "frames": 0, "links": 0}

    # --- what is sent

    def vote(
        self, signer: Signer, *, quorum: bytes, height: int, view: int = 0, kind: int = NOTARIZE
    ) -> SignedVote:
        """Never two of one slot under the own key: that would be a fault, and cost the bond."""
        vote = Vote(kind, quorum, height, view, b"" if kind == NULLIFY else entropy(32))
        return SignedVote(vote, self.index, signer.sign_vote(vote))

    def harmless(self) -> Iterator[tuple[int, bytes]]:
        """Well-formed, and worth nothing: a node drops it, or answers once."""
        rng, h = self.rng, self.height
        block, certificate = rng.choice(self.old)
        elsewhere = self.vote(self.signer, quorum=entropy(32), height=h + 1, kind=FINALIZE)
        for value in (
            certificate,
            ev.Propose(self.vote(self.signer, quorum=entropy(32), height=h + 1, kind=PROPOSE), None, ()),
            elsewhere,
            self.vote(self.signer, quorum=self.quorum, height=h + 10_000 + rng.randrange(10**6), view=1000),
            ev.Status(h + 10**9, 900, entropy(32), b"\xff" * 100, b"\xff" * 100, True),
            ev.GetBlock(rng.randrange(h + 5), entropy(32)),
            ev.Body(h + 1, entropy(32), canonical.pack(block)),
            msg.GetCommits(1, 64),
            msg.GetCosigns(rng.randrange(h + 5)),
            msg.GetReceipts(rng.randrange(1, h + 5)),
            msg.GetTip(0),
            msg.Txs(tuple(block.txs)[:5]),
        ):
            yield msg.encode(value)

    def offences(self) -> list[bytes]:
        block, certificate = self.rng.choice(self.old)
        kind, good = msg.encode(msg.Commits(1, (msg.DecidedBlock(canonical.pack(block), certificate, ""),)))
        bent = bytearray(good)
        bent[self.rng.randrange(len(bent))] ^= 1 << self.rng.randrange(8)
        swelling = b"\x81\x9a\x00\x3f\xff\x00" + b"\x80" * 0x3FFF00
        return [
            frame(kind, good[: len(good) // 2]),
            frame(kind, bytes(bent)) + frame(99, b"a kind that nobody knows"),
            frame(32, swelling),
            frame(21, canonical.pack(ev.Body(self.height + 1, bytes(32), b"\x80" * 2_000_000)))
            + frame(99, b""),
            HEAD.pack(2**31, 1, 17),
            HEAD.pack(10, 7, 17) + bytes(8),
            frame(wire.HELLO, self.hello()) + frame(wire.PAIR, b"now?"),
            frame(wire.KEEP_ALIVE, b"\x9b\x10" + bytes(7)),
            frame(*msg.encode(self.vote(Signer(entropy(32)), quorum=self.quorum, height=self.height + 1)))
            + frame(99, b"if that height is over"),
        ]

    def hello(self) -> bytes:
        return canonical.pack(wire.Hello(1, self.quorum, self.me, entropy(16), self.record, b"", "rogue"))

    # --- to whom

    async def plague(self, other: SignedNodeRecord, until: float) -> None:
        while time.monotonic() < until:
            for address in other.record.addresses:
                with contextlib.suppress(OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(5):
                        await self._visit(other, *split_address(address))
            await asyncio.sleep(0.3)

    async def _visit(self, other: SignedNodeRecord, host: str, port: int) -> None:
        context = tls.client_context(self.tls, [other.certificate])
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="")
        try:
            writer.write(frame(wire.HELLO, self.hello()))
            _, _, kind = HEAD.unpack(await reader.readexactly(HEAD.size))
            if kind != wire.HELLO:
                return  # kept out
            self.sent["links"] += 1
            for _ in range(FLOOD // 12):
                for k, payload in self.harmless():
                    writer.write(frame(k, payload))
                    self.sent["frames"] += 1
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(self.rng.choice(self.offences()))
            self.sent["offences"] += 1
            await asyncio.sleep(0.3)
        finally:
            writer.close()

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(self.plague(other, until) for other in self.others))


def main() -> None:
    rogue = Rogue(Path(sys.argv[1]), sys.argv[2])
    asyncio.run(rogue.run(float(sys.argv[3])))
    print(json.dumps(rogue.sent))


if __name__ == "__main__":
    main()
