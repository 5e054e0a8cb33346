"""What a member tells in one write, what it does not look at twice, and what its store remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from member_world import Net, Person, Wire, trust
from test_member import crowd, play

from idao.crypto import canonical
from idao.frozen import replace
from idao.ledger.genesis import Epoch
from idao.ledger.idao import TrustLink
from idao.model import FINALIZE, NOTARIZE, Certificate, SignedVote
from idao.node import messages as msg
from idao.node.member import AWAKE_S

Told = list[list[Any]]
"""The messages of each write to all."""


class Listening(Wire):
    def __init__(self, net: Net, me: bytes, told: Told) -> None:
        super().__init__(net, me)
        self.told = told

    def broadcast(self, *frames: tuple[int, bytes]) -> None:
        self.told.append([msg.decode(kind, payload) for kind, payload in frames])
        super().broadcast(*frames)


async def four(folder: Path) -> tuple[Net, list[Person], Told]:
    people, told = crowd(4), []
    net = Net(folder, people)
    for p in people:
        net.boot(p).links = Listening(net, p.idao, told)
    return net, people, told


def test_what_one_turn_tells_everybody_goes_out_together(tmp_path: Path) -> None:
    async def story() -> None:
        net, people, told = await four(tmp_path)
        await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(0))).id)
        net.stop()
        shapes = [[type(m) for m in write] for write in told]
        assert [Certificate, SignedVote] in shapes, "a notarization, and the finalize that follows it"
        assert [Certificate, msg.Cosign] in shapes, "a finalization, and the cosignature of what it commits"
        for write in told:
            kinds = [m.vote.kind for m in write if isinstance(m, Certificate | SignedVote)]
            assert FINALIZE not in kinds or NOTARIZE not in kinds[kinds.index(FINALIZE) :]

    play(story)


def test_a_certificate_that_is_held_makes_no_turn(tmp_path: Path) -> None:
    async def story() -> None:
        net, people, _ = await four(tmp_path)
        await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(0))).id)
        member, turns = net.member(people[1]), []
        past, turn = member.engine.machine.past, member.engine.turn
        assert past is not None and past.decided is not None
        member.engine.turn = lambda event: turns.append(event) or turn(event)  # type: ignore[method-assign]
        member.on_frame(people[2].idao, *msg.encode(past.decided))
        assert not turns
        elsewhere = replace(past.decided, vote=replace(past.decided.vote, digest=bytes(32)))
        member.on_frame(people[2].idao, *msg.encode(elsewhere))
        assert len(turns) == 1, "one of another block is looked at"
        net.stop()

    play(story)


def test_a_store_remembers_what_is_not_there_until_it_is(tmp_path: Path) -> None:
    async def story() -> None:
        net, people, _ = await four(tmp_path)
        store, me = net.member(people[0]).engine.store, people[0].idao
        key = (me, (0).to_bytes(32, "big"))
        assert store.base.get(TrustLink, key) is None and store.base.get(TrustLink, key) is None
        assert store.base.get(Epoch, (1,)) is None
        assert store.receipt_of(bytes(32)) is None
        txs = [net.member(people[0]).submit(p.tx(net.quorum, trust(0))) for p in people]
        for tx in txs:
            await net.agreed(tx.id)
            found = store.receipt_of(tx.id)
            assert found is not None and found[1].tx == tx.id
        assert store.base.get(TrustLink, key) is not None
        net.stop()

    play(story)


def test_a_bad_cosignature_is_checked_a_little_later_and_blamed(tmp_path: Path) -> None:
    async def story() -> None:
        net, people, _ = await four(tmp_path)
        liar = people[3]
        net.kill(liar)
        await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(0))).id)
        member = net.member(people[0])
        bad = msg.Cosign(member.engine.tip.height, bytes(64), 1, bytes(64))
        member.on_frame(liar.idao, *msg.encode(bad))
        assert not net.bad, "not while the block may still be waited for"
        await net.until(lambda: bool(net.bad))
        assert [who for who, _, _ in net.bad] == [liar.idao]
        head = member.engine.heads.newest()
        assert head is not None and liar.validator.public not in head.by_key
        net.stop()

    play(story)


def test_a_keep_alive_from_one_behind_is_answered_when_blocks_do_not_come(tmp_path: Path) -> None:
    """While they come it lacks what is on its way to it. From further behind it is answered at once."""

    async def story() -> None:
        net, people, _ = await four(tmp_path)
        for i in range(3):
            await net.agreed(net.member(people[0]).submit(people[0].tx(net.quorum, trust(i))).id)
        member, served = net.member(people[0]), []
        member._serve = lambda peer, first, count: served.append(first)  # type: ignore[method-assign]
        status = member.engine.machine.status()
        assert status is not None and status.height == 4

        def from_height(height: int) -> list[int]:
            served.clear()
            member.on_status(people[1].idao, canonical.pack(replace(status, height=height)))
            return served

        member._committed_s = net.loop.time()
        assert from_height(3) == [] and from_height(2) == [2]
        member._committed_s -= AWAKE_S
        assert from_height(3) == [3]
        net.stop()

    play(story)
