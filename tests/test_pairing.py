"""Pairing over real TLS on loopback: the good case, and all who would like to be in between (ADR 0035)."""

from __future__ import annotations

from pathlib import Path

import net_world as world
import pytest
from net_world import run
from pairing_world import Inviter, Person, joins, replace_invite

from idao.errors import NotFound, Refused, Unreachable
from idao.node import pairing

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
