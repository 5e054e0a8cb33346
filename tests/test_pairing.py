"""Pairing over real TLS on loopback: the good case, and all who would like to be in between (ADR 0035)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import net_world as world
import pytest

from idao import identity, invite, noderecord
from idao.crypto import canonical
from idao.crypto.keys import Signer
from idao.errors import NotFound, Refused, Unreachable, VerificationFailed
from idao.frozen import replace
from idao.invite import Invite
from idao.ledger import charter, genesis
from idao.ledger.genesis import Bundle
from idao.ledger.idao import Register
from idao.ledger.membership import Join
from idao.ledger.tx import Envelope, sign_tx
from idao.model import Inception
from idao.node import joining, pairing, tls
from idao.node.link import Link, frame
from idao.node.listener import Listener
from idao.node.pairing import Desk, Offer, Pending
from idao.node.wire import PAIR


def run(test: Coroutine[Any, Any, None], seconds: float = 20) -> None:
    async def bounded() -> None:
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(context))
        async with asyncio.timeout(seconds):
            await test
        assert bugs == []

    asyncio.run(bounded())


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


# --- as it should be -----------------------------------------------------------------------------------


def test_both_sides_show_the_same_words_and_learn_the_keys(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        shown: list[str] = []
        joining_ = joins(a.invite(), b, shown)
        offer = await a.offered()
        await world.until(lambda: shown)
        assert [offer.words] == shown and len(offer.words.split()) == 6
        assert offer.offer.idao == b.idao and offer.quorum == a.quorum and offer.present
        assert not joining_.done(), "the joiner waits for a person"
        assert a.desk.find(offer.words.upper()) is offer
        with pytest.raises(NotFound):
            a.desk.find("abandon " * 6)
        a.desk.decide(offer, True)
        welcome = await joining_
        assert welcome.quorum == a.quorum and welcome.bundle == a.bundle
        assert [r.record.idao for r in welcome.records] == [a.person.idao]
        assert a.desk.open_invites() == [] and a.listener.pairing is None
        with pytest.raises(NotFound):
            a.desk.decide(offer, True)
        await a.close()

    run(test())


def test_a_no_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        joining_ = joins(a.invite(), b, [])
        a.desk.decide(await a.offered(), False, "words differ")
        with pytest.raises(Refused) as e:
            await joining_
        assert e.value.code == "invite-refused" and "words differ" in e.value.message
        await a.close()

    run(test())


def test_two_invites_at_once_serve_two(tmp_path: Path) -> None:
    async def test() -> None:
        a = await Inviter(tmp_path).open()
        tokens = [a.invite() for _ in range(2)]
        people = [Person(tmp_path, name) for name in ("one", "two")]
        tasks = [joins(t, p, []) for t, p in zip(tokens, people, strict=True)]
        await world.until(lambda: len(a.offers) == 2)
        for offer in list(a.offers):
            a.desk.decide(offer, True)
        for task in tasks:
            assert (await task).quorum == a.quorum
        for _ in range(pairing.INVITES_MAX):
            a.invite()
        with pytest.raises(Refused):
            a.invite()
        await a.close()

    run(test())


def test_a_broken_connection_leaves_the_invite_good(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        token = a.invite()
        first = joins(token, b, [])
        offer = await a.offered()
        first.cancel()
        await world.until(lambda: a.desk.pending() == [])
        assert not offer.present
        with pytest.raises(NotFound):
            a.desk.decide(offer, True)
        second = joins(token, b, [])
        again = await a.offered()
        assert again.words != offer.words
        a.desk.decide(again, True)
        await second
        await a.close()

    run(test())


# --- invites that no longer hold -----------------------------------------------------------------------


def test_expired_used_and_foreign_invites(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        used = a.invite()
        task = joins(used, b, [])
        a.desk.decide(await a.offered(), True)
        await task
        with pytest.raises(Unreachable) as e:  # no invite is open: the door does not speak of pairing at all
            await joins(used, b, [])
        assert e.value.hint
        a.invite()
        with pytest.raises(Refused) as r:
            await joins(used, b, [])
        assert r.value.code == "invite-not-taken" and "used" in r.value.message
        expired = a.invite(valid_ms=-1000)
        with pytest.raises(Refused):
            await joins(expired, b, [])
        foreign = replace_invite(a.invite(), quorum=b"x" * 8)
        with pytest.raises(Exception, match="another quorum"):
            await joins(foreign, b, [])
        assert a.offers == []
        await a.close()

    run(test())


def replace_invite(token: Invite, **changes: Any) -> Invite:
    return replace(token, **changes)


def test_nobody_there_is_told_with_each_address(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await Inviter(tmp_path).open(), Person(tmp_path, "joiner")
        token = replace_invite(a.invite(), addresses=("127.0.0.1:9",), expires_s=1)
        with pytest.raises(Unreachable) as e:
            await joins(token, b, [])
        assert "127.0.0.1:9" in e.value.message and "expired" in e.value.message
        task = joins(token, b, [], addresses=[a.address])
        assert await a.offered()
        task.cancel()
        await a.close()

    run(test())


# --- attackers -----------------------------------------------------------------------------------------


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
