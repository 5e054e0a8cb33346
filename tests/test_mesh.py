"""Links and meshes over real TLS on loopback: who gets in, one link a pair, keep-alives, records."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import net_world as world
import pytest
from net_world import run

from idao import noderecord
from idao.crypto.keys import Signer
from idao.errors import Malformed
from idao.frozen import replace
from idao.node import tls, wire
from idao.node.mesh import Allowed

# --- records -------------------------------------------------------------------------------------------


def test_a_record_ties_who_to_where(tmp_path: Path) -> None:
    der = tls.identity(tmp_path).certificate
    signer = Signer(b"k" * 32)
    signed = noderecord.make(signer, b"q" * 32, b"i" * 32, der, ("10.0.0.1:4747", "[fd00::1]:4747"), 7)
    noderecord.check(signed)
    record = signed.record
    bad = [
        replace(signed, record=replace(record, seq=8)),
        replace(signed, record=replace(record, quorum=b"p" * 32)),
        replace(signed, record=replace(record, v=2)),
        replace(signed, certificate=der[:-1] + bytes([der[-1] ^ 1])),
        replace(signed, signature=bytes(64)),
        replace(signed, record=replace(record, key=Signer(b"l" * 32).public)),
    ]
    for one in bad:
        with pytest.raises(Malformed):
            noderecord.check(one)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "host.example:1",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "fd00::1:80",
            "[fd00::1]",
            "[10.0.0.1]:1",
        ),
        *("[fe80::1%eth0]:1", "224.0.0.251:1", "0.0.0.0:1", "[::]:1", "10.0.0.1:01", "[]:1", "10.0.0.1:1\n"),
    ],
)
def test_records_hold_plain_addresses_only(tmp_path: Path, address: str) -> None:
    with pytest.raises(Malformed):
        noderecord.make(Signer(b"k" * 32), b"q" * 32, b"i" * 32, b"der", (address,), 1)


def test_identity_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = tls.identity(tmp_path)
    assert tls.identity(tmp_path) == first
    assert first.path.stat().st_mode & 0o777 == 0o600
    assert len(first.certificate) < 400
    assert tls.renew(tmp_path).pin != first.pin
    first.path.write_text("damaged")
    with pytest.raises(Malformed) as e:
        tls.identity(tmp_path)
    assert e.value.hint


# --- links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_four_meet_and_talk(tmp_path: Path, host: str) -> None:
    async def test() -> None:
        four = await world.nodes(tmp_path, 4, host=host)
        await world.until(lambda: world.linked(*four))
        four[0].mesh.broadcast((20, b"hello all"))
        assert four[1].mesh.send(four[3].idao, 16, b"x" * 3_000_000)
        await world.until(lambda: four[3].hub.frames and len(four[3].hub.frames) == 2)
        for node in four[1:]:
            assert (four[0].idao, 20, b"hello all") in node.hub.frames
        assert (four[1].idao, 16, b"x" * 3_000_000) in four[3].hub.frames
        for node in four:
            assert sorted(node.hub.ups) == sorted(o.idao for o in four if o is not node)
            assert node.hub.downs == []
            assert node.hub.statuses.keys() == set(node.hub.ups)
        states = {state.peer: state for state in four[0].mesh.links()}
        assert all(s.up and s.dialed and s.software == "test" and s.score == 100 for s in states.values())
        await world.until(lambda: all(s.rtt_us is not None for s in four[0].mesh.links()), 4)
        assert all(abs(s.skew_ms or 0) < 200 for s in four[0].mesh.links())
        await world.close(*four)

    run(test())


def test_many_frames_arrive_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        await world.until(lambda: world.linked(a, b))
        sent = [bytes([i % 251]) * (i * 37 % 5000) for i in range(3000)]
        for payload in sent:
            while a.mesh.queue(b.idao) > 1_000_000:
                await asyncio.sleep(0.001)
            assert a.mesh.send(b.idao, 16, payload)
        await world.until(lambda: len(b.hub.frames) == len(sent), 10)
        assert [payload for _, _, payload in b.hub.frames] == sent
        await world.close(a, b)

    run(test())


def test_a_frame_too_large_to_send_is_a_bug_here(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        await world.until(lambda: world.linked(a, b))
        with pytest.raises(ValueError, match="bytes; at most"):
            a.mesh.send(b.idao, 16, bytes(5 * 1024 * 1024))
        assert not a.mesh.send(world.idao(9), 16, b"to nobody")
        await world.close(a, b)

    run(test())


@pytest.mark.slow
def test_who_is_no_longer_allowed_is_cut_and_stays_out(tmp_path: Path) -> None:
    async def test() -> None:
        a, b, c = await world.nodes(tmp_path, 3)
        await world.until(lambda: world.linked(a, b, c))
        a.meet(b)
        assert a.hub.downs == [c.idao] and a.mesh.up() == [b.idao]
        await world.until(lambda: c.hub.downs == [a.idao])
        await asyncio.sleep(2.5)
        assert a.mesh.up() == [b.idao] and c.mesh.up() == [b.idao]
        [state] = [s for s in c.mesh.links() if s.peer == a.idao]
        assert not state.up and state.reason
        await world.close(a, b, c)

    run(test())


def test_a_peer_that_comes_back_is_linked_again(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        await world.until(lambda: world.linked(a, b))
        port = b.listener.port
        await b.close()
        await world.until(lambda: a.hub.downs == [b.idao])
        again = world.Node(tmp_path, 2)
        again.listener.port = port
        await again.open()
        again.meet(a)
        again.mesh.start()
        await world.until(lambda: world.linked(a, again))
        assert a.hub.ups == [b.idao, b.idao]
        await world.close(a, again)

    run(test())


def test_the_higher_id_dials_where_the_lower_cannot(tmp_path: Path) -> None:
    """The lower one knows no address of the higher one that works."""

    async def test() -> None:
        a, b = await world.Node(tmp_path, 1).open(), await world.Node(tmp_path, 2).open()
        b.mesh.update(b.record("127.0.0.1:9"))
        a.meet(b)
        b.meet(a)
        a.mesh.start()
        b.mesh.start()
        await world.until(lambda: world.linked(a, b))
        assert b.mesh.links()[0].dialed and not a.mesh.links()[0].dialed
        await world.close(a, b)

    run(test())


def test_both_dialing_at_once_leaves_one_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idao.node.dial.PATIENCE_S", 0.0)

    async def test() -> None:
        four = await world.nodes(tmp_path, 4)
        await world.until(lambda: world.linked(*four))
        await asyncio.sleep(1.5)
        assert world.linked(*four)
        for node in four:
            for state in node.mesh.links():
                assert state.dialed == (node.idao < state.peer), "the lower id's link stays"
        ups = sum(len(node.hub.ups) - len(node.hub.downs) for node in four)
        assert ups == 12
        await world.close(*four)

    run(test())


def test_manual_addresses_may_be_names(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.Node(tmp_path, 1).open(), await world.Node(tmp_path, 2).open()
        b.mesh.update(b.record("127.0.0.1:9"))
        name = f"localhost:{b.listener.port}"
        a.mesh.allow([Allowed(b.idao, b.signer.public, b.mesh.own, (name,))])
        b.meet(a)
        a.mesh.start()
        await world.until(lambda: a.mesh.up() == [b.idao])
        await world.close(a, b)

    run(test())


def test_a_name_that_is_none_is_told_as_such(tmp_path: Path) -> None:
    async def test() -> None:
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(context))
        a, b = await world.Node(tmp_path, 1).open(), await world.Node(tmp_path, 2).open()
        name = f"{'x' * 64}.local:{b.listener.port}"
        a.mesh.allow([Allowed(b.idao, b.signer.public, None, (name,))])
        a.mesh.start()
        await world.until(lambda: "no such name" in a.mesh.links()[0].reason)
        await world.close(a, b)
        assert bugs == []

    run(test())


def test_records_that_pour_in_go_on_in_drops(tmp_path: Path) -> None:
    """Each newer record goes on to everybody: a member that signs a thousand must not have them all sent on.
    The last one counts in the end."""

    async def test() -> None:
        a, b, c = await world.nodes(tmp_path, 3)
        await world.until(lambda: world.linked(a, b, c))
        heard: list[int] = []
        c.mesh.on_record = lambda signed: heard.append(signed.record.seq)
        link = b.mesh.peers[a.idao].link
        assert link is not None
        for _ in range(200):
            link.write(wire.records([newest := b.record()]))
        b.mesh.own = newest
        await world.until(lambda: a.mesh.peers[b.idao].record == newest, 10)
        await world.until(lambda: c.mesh.peers[b.idao].record == newest, 10)
        assert len(heard) < 50
        await world.close(a, b, c)

    run(test())


def test_hints_lead_to_members_and_only_to_them(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.Node(tmp_path, 1).open(), await world.Node(tmp_path, 2).open()
        stranger = await world.Node(tmp_path, 3).open()
        for node in (a, b):
            node.mesh.update(node.record("127.0.0.1:9"))
        a.meet(b)
        b.meet(a)
        a.mesh.start()
        a.mesh.hint([stranger.address, "nonsense", b.address])
        await world.until(lambda: a.mesh.up() == [b.idao])
        assert stranger.hub.ups == []
        await world.close(a, b, stranger)

    run(test())


# --- records travel ------------------------------------------------------------------------------------


def test_a_new_member_is_found_through_the_others(tmp_path: Path) -> None:
    """a and c each know only b; the records that b passes on bring them together."""

    async def test() -> None:
        a, b, c = [await world.Node(tmp_path, n).open() for n in (1, 2, 3)]
        b.meet(a, c)
        a.mesh.allow([b.allowed(), without_record(c)])
        c.mesh.allow([b.allowed(), without_record(a)])
        learned: list[bytes] = []
        a.mesh.on_record = lambda signed: learned.append(signed.record.idao)
        for node in (a, b, c):
            node.mesh.start()
        await world.until(lambda: world.linked(a, b, c))
        assert learned == [c.idao]
        await world.close(a, b, c)

    def without_record(node: world.Node) -> Allowed:
        return replace(node.allowed(), record=None)

    run(test())


def test_who_lost_all_records_finds_the_others_by_their_pins(tmp_path: Path) -> None:
    """A restored home: the ledger names certificates, hints say where. No other end is spoken to."""

    async def test() -> None:
        a, b, c = await world.nodes(tmp_path, 3)
        await world.until(lambda: world.linked(a, b, c))
        named = [Allowed(x.idao, x.signer.public, None, tls=x.identity.pin) for x in (a, b)]
        await c.close()
        thief = await world.Node(tmp_path / "thief", 9).open()
        again = await world.Node(tmp_path, 3).open()
        again.mesh.allow(named)
        again.mesh.start()
        again.mesh.hint([thief.address, a.address])
        for node in (a, b):
            node.mesh.allow([x.allowed() for x in (a, b, again)])
        await world.until(lambda: world.linked(a, b, again), 10)
        assert again.mesh.peers[b.idao].record == b.mesh.own, "told by the first it met"
        assert not again.mesh.strangers() and thief.listener.accepted
        await world.close(a, b, again, thief)

    run(test())


def test_a_newer_record_reaches_all_and_an_older_none(tmp_path: Path) -> None:
    async def test() -> None:
        four = await world.nodes(tmp_path, 4)
        await world.until(lambda: world.linked(*four))
        old, new = four[0].mesh.own, four[0].record("127.0.0.1:9", four[0].address)
        four[0].mesh.update(new)
        others = four[1:]
        await world.until(lambda: all(n.mesh.peers[four[0].idao].record == new for n in others))
        four[1].mesh.learn(old)
        assert four[1].mesh.peers[four[0].idao].record == new
        forged = replace(new, record=replace(new.record, seq=99))
        four[1].mesh.peers[four[0].idao].learned = -1e9  # not so soon after the last that nobody looks at it
        with pytest.raises(Malformed):
            four[1].mesh.learn(forged)
        await world.close(*four)

    run(test())


def test_a_new_certificate_cuts_the_old_link(tmp_path: Path) -> None:
    async def test() -> None:
        a, b = await world.nodes(tmp_path, 2)
        await world.until(lambda: world.linked(a, b))
        b.identity = tls.renew(tmp_path / "elsewhere")
        a.mesh.learn(b.record())
        assert a.mesh.up() == [] and a.mesh.links()[0].reason == "its certificate changed"
        await world.close(a, b)

    run(test())
