"""Attackers between two who pair, at the door of the inviter, and with a stolen invite."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path
from typing import Any

import net_world as world
import pytest
from net_world import run
from pairing_world import Inviter, Person, joins, replace_invite

from idao import invite
from idao.crypto import canonical
from idao.errors import Refused, Unreachable, VerificationFailed
from idao.frozen import replace
from idao.ledger.membership import Join
from idao.node import pairing, tls
from idao.node.link import Link, frame
from idao.node.pairing import Desk
from idao.node.wire import PAIR


class Wire:
    """A man on the LAN between joiner and inviter: relays TCP, writes it down, and may change it."""

    def __init__(self, target: int, change: int | None = None) -> None:
        self.target, self.change = target, change
        self.up, self.down = bytearray(), bytearray()

    async def open(self) -> str:
        server = await asyncio.start_server(self.relay, "127.0.0.1", 0)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(
            self.pump(reader, back, self.up, True), self.pump(there, writer, self.down, False)
        )

    async def pump(
        self, source: asyncio.StreamReader, to: asyncio.StreamWriter, log: bytearray, upward: bool
    ) -> None:
        while data := await source.read(4096):
            before = len(log)
            log += data
            if upward and self.change is not None and before <= self.change < len(log):
                data = bytearray(data)
                data[self.change - before] ^= 1
            to.write(data)
        to.close()


def test_a_listener_learns_nothing_and_can_replay_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        wire = Wire(a.listener.port)
        token = a.invite(await wire.open())
        shown: list[str] = []
        task = joins(token, b, shown)
        a.desk.decide(await a.offered(), True)
        await task
        heard = bytes(wire.up + wire.down)
        for secret in (token.secret, b.idao, b.validator.public, b.tls.pin, a.quorum, a.person.tls.pin):
            assert secret not in heard
        a.invite()
        reader, writer = await asyncio.open_connection("127.0.0.1", a.listener.port)
        writer.write(wire.up)
        await reader.read(100_000)
        await asyncio.sleep(0.3)
        assert a.offers == []
        writer.close()
        await a.close()

    run(test())


def test_a_changed_byte_anywhere_ends_the_attempt_but_not_the_invite(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        wire = Wire(a.listener.port)
        token = a.invite(await wire.open())
        task = joins(token, b, [])
        await a.offered()
        task.cancel()
        await world.until(lambda: not a.desk.pending())
        length = len(wire.up)
        for at in [10, 60, length // 3, length // 2, length - 400, length - 30]:
            bad = Wire(a.listener.port, change=at)
            with pytest.raises(Unreachable):
                await joins(replace_invite(token, addresses=(await bad.open(),)), b, [])
            assert a.offers == []
        task = joins(replace_invite(token, addresses=(a.address,)), b, [])
        a.desk.decide(await a.offered(), True)
        assert (await task).quorum == a.quorum
        await a.close()

    run(test())


def test_a_man_in_the_middle_has_another_certificate(tmp_path: Path) -> None:
    """He answers at the inviter's address with a pairing desk of his own, and knows the token's shape."""

    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        mallory = await Inviter(tmp_path / "mallory").open()
        mallory.invite()
        token = a.invite(mallory.address)
        with pytest.raises(Unreachable, match="another node than the inviter's"):
            await joins(token, b, [])
        await asyncio.sleep(0.1)
        assert mallory.offers == [] and mallory.failures == [], "the joiner said nothing to him"
        await a.close()
        await mallory.close()

    run(test())


def test_who_has_stolen_the_invite_shows_other_words(tmp_path: Path) -> None:
    async def test() -> None:
        a = await Inviter(tmp_path).open()
        thief, b = Person(tmp_path, "thief"), Person(tmp_path, "joiner")
        token = a.invite()
        stolen: list[str] = []
        theft = joins(token, thief, stolen)
        offer = await a.offered()
        with pytest.raises(Refused, match="somebody is joining with this invite"):
            await joins(token, b, [])
        assert offer.contested and len(a.desk.pending()) == 1
        a.desk.decide(offer, False, "the words differ")
        with pytest.raises(Refused):
            await theft
        with pytest.raises(Unreachable):  # the invite is used up for both
            await joins(token, b, [])
        fresh, shown = a.invite(), []
        task = joins(fresh, b, shown)
        offer = await a.offered()
        assert [offer.words] == shown and shown != stolen
        a.desk.decide(offer, True)
        await task
        await a.close()

    run(test())


async def talker(a: Inviter) -> tuple[Link, asyncio.Queue[bytes]]:
    """A connection of somebody who speaks the protocol by hand."""
    got: asyncio.Queue[bytes] = asyncio.Queue()
    _, link = await asyncio.get_running_loop().create_connection(
        lambda: Link(
            lambda link, kind, payload: got.put_nowait(payload),
            lambda link, reason, blame: got.put_nowait(b"lost"),
            dialed=True,
        ),
        "127.0.0.1",
        a.listener.port,
        ssl=tls.joining_context(),
        server_hostname="",
    )
    link.frame_max = 4_000_000
    return link, got


def test_who_has_no_invite_cannot_guess_nor_use_it_up(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        token = a.invite()
        for guess in range(12):
            link, got = await talker(a)
            said = [link.pin, b"c" * 32]
            proof = invite.proof(guess.to_bytes(16, "big"), 1, said)
            link.send(PAIR, canonical.pack(pairing.Hail(1, said[1], proof)))
            assert b"no such invite open" in await got.get()
            assert await got.get() == b"lost"
        assert len(a.failures) == 12
        task = joins(token, b, [])
        a.desk.decide(await a.offered(), True)
        await task
        await a.close()

    run(test())


def test_who_announced_one_identity_cannot_bring_another(tmp_path: Path) -> None:
    """It would have to, to look for words that match those on the true joiner's screen."""

    async def test() -> None:
        a, thief = await Inviter(tmp_path).open(), Person(tmp_path, "thief")
        token = a.invite()
        who = thief.who
        for change in ("nonce", "key", "idao", "proof"):
            link, got = await talker(a)
            nonce = b"n" * 32
            said = [link.pin, invite.commitment(nonce, who.idao, who.key, who.tls)]
            link.send(PAIR, canonical.pack(pairing.Hail(1, said[1], invite.proof(token.secret, 1, said))))
            reply = canonical.unpack(pairing.Reply, await got.get())
            other = Person(tmp_path, "other") if change in ("key", "idao") else thief
            offer = other.offer(a.quorum, a.bundle, nonce if change != "nonce" else b"m" * 32)
            message = canonical.pack(offer)
            proof = invite.proof(token.secret, 3, [*said, reply.nonce, reply.bundle, message])
            if change == "proof":
                proof = bytes(32)
            link.send(PAIR, canonical.pack(pairing.Sealed(message, proof)))
            assert await got.get() == b"lost"
        assert a.offers == [] and len(a.desk.open_invites()) == 1
        await a.close()

    run(test())


@pytest.mark.parametrize("step", [2, 4])
def test_an_inviter_must_prove_the_secret_too(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        def __getattr__(self, name: str) -> Any:
            return getattr(invite, name)

        def proof(self, secret: bytes, at: int, transcript: list[bytes]) -> bytes:
            return invite.proof(bytes(16) if at == step else secret, at, transcript)

    monkeypatch.setattr(pairing, "invite", Forgetful())

    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        task = joins(a.invite(), b, [])
        if step == 4:
            a.desk.decide(await a.offered(), True)
        with pytest.raises(VerificationFailed, match="proof"):
            await task
        await a.close()

    run(test())


def test_an_offer_must_be_all_of_one_person(tmp_path: Path) -> None:
    a, one, two = Inviter(tmp_path), Person(tmp_path, "one"), Person(tmp_path, "two")
    good = one.offer(a.quorum, a.bundle, bytes(32))
    pairing.check_offer(good, a.quorum)
    theirs = two.offer(a.quorum, a.bundle, bytes(32))
    seat = Join(two.validator.public, two.validator.sign_possession(a.quorum, one.idao), one.tls.pin)
    other_seat = one.tx(a.quorum, "quorum.join", seat, 2)
    forged = bytearray(good.txs[1])
    forged[-1] ^= 1
    bad = [
        replace(good, record=theirs.record),
        replace(good, inception=theirs.inception),
        replace(good, txs=theirs.txs),
        replace(good, txs=good.txs[:1]),
        replace(good, txs=good.txs[::-1]),
        replace(good, txs=(good.txs[0], other_seat)),
        replace(good, txs=(good.txs[0], bytes(forged))),
        replace(good, txs=(theirs.txs[0], good.txs[1])),
        replace(good, txs=(one.tx(a.quorum, "trust.add", seat, 3), good.txs[1])),
        replace(good, key=two.validator.public),
    ]
    for offer in bad:
        with pytest.raises(Exception, match=r".") as e:
            pairing.check_offer(offer, a.quorum)
        assert type(e.value).__name__ == "Malformed"
    with pytest.raises(Exception, match="another one's"):
        pairing.check_offer(good, b"x" * 32)
    pairing.check_offer(replace(good, txs=good.txs[1:]), a.quorum)


def test_a_crowd_at_the_door_does_not_keep_the_joiner_out(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        token = a.invite()
        crowd = [await talker(a) for _ in range(pairing.SILENT_MAX + 2)]
        await world.until(lambda: sum(link.open for link, _ in crowd) == pairing.SILENT_MAX)
        crowd[-1][0].send(PAIR, b"nonsense")
        crowd[-2][0].write(frame(99, b""))
        begun = time.monotonic()
        task = joins(token, b, [])
        a.desk.decide(await a.offered(), True)
        await task
        assert time.monotonic() - begun < 2
        await a.close()

    run(test())


def test_a_joiner_gets_no_further_than_pairing(tmp_path: Path) -> None:
    """While an invite is open, TLS lets in who shows no certificate: it is spoken to about pairing alone."""

    async def test() -> None:
        node = await world.Node(tmp_path, 1).open()
        desk = Desk(node.listener, lambda pending: None)
        desk.invite(world.QUORUM, b"bundle", list, (node.address,))
        context = tls.joining_context()
        context.set_alpn_protocols([tls.PEERS])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", node.listener.port, ssl=context, server_hostname=""
        )
        writer.write(frame(0, b""))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert await reader.read() == b""
        assert node.hub.ups == []
        desk.close()
        await world.close(node)

    run(test())
