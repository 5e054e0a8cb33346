"""When evidence is made anew: by a rule over what is known of it, and by a timer of a node or cron."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao.dao import Dao
from idao.errors import Missing
from idao.hall import reattest, tee
from idao.hall.chores import chores
from idao.hall.reattest import Reattest
from idao.home import now_ms
from idao.ledger import attest
from idao.ledger.state import State
from idao.tee import renewal
from idao.tee.policy import STRICT, relaxed
from idao.tee.renewal import GAP_MS, HOUR_MS, LOOK_AGAIN_MS, LOOK_MS_MAX, Held, due

DAY = 24 * HOUR_MS
SIMULATED = relaxed(STRICT, kinds=("simulated",), least_level="simulated")
BORN = 1_790_000_000_000
HELD = Held(BORN, BORN + DAY, None, sound=True, own_key=True)


@pytest.mark.parametrize(
    "held,at,why",
    [
        (None, BORN, "unattested"),
        (HELD, BORN, ""),
        (HELD, BORN + 16 * HOUR_MS - 1, ""),
        (HELD, BORN + 16 * HOUR_MS, "ending"),
        (HELD, BORN + DAY, "ending"),
        (HELD, BORN + DAY + 1, "ended"),
        (replace(HELD, own_key=False), BORN, "key"),
        (replace(HELD, sound=False), BORN, "refused"),
        (replace(HELD, sound=False, own_key=False), BORN + 2 * DAY, "key"),
        (replace(HELD, not_after_ms=BORN + 9 * DAY), BORN + DAY + 1, "stale"),
        (replace(HELD, holds_until_ms=BORN + 3 * HOUR_MS), BORN + 2 * HOUR_MS, "ending"),
        (replace(HELD, holds_until_ms=BORN + 3 * HOUR_MS), BORN + 2 * HOUR_MS - 1, ""),
        # With collateral that ends at once it is not made anew at each look.
        (replace(HELD, holds_until_ms=BORN + 60_000), BORN + GAP_MS - 1, ""),
        (replace(HELD, holds_until_ms=BORN + 60_000), BORN + GAP_MS, "ending"),
    ],
)
def test_when_evidence_is_due(held: Held | None, at: int, why: str) -> None:
    found = due(held, DAY, at)
    assert (found.why, found.now) == (why, bool(why))
    assert why == "" or why in renewal.WHY


def test_a_short_limit_shortens_the_gap() -> None:
    assert due(replace(HELD, not_after_ms=BORN + 120_000), 120_000, BORN + 80_000).why == "ending"
    assert due(replace(HELD, not_after_ms=BORN + 120_000), 120_000, BORN + 79_999).why == ""


@given(
    st.integers(0, 40 * DAY), st.integers(1, 366 * DAY), st.integers(0, 400 * DAY),
    st.booleans(), st.booleans(), st.none() | st.integers(0, 40 * DAY),
)  # fmt: skip
def test_one_look_after_another_never_misses_the_end(
    life: int, age: int, at: int, sound: bool, own: bool, until: int | None
) -> None:
    held = Held(BORN, BORN + life, None if until is None else BORN + until, sound, own)
    found = due(held, age, BORN + at)
    assert BORN + at < found.next_ms <= BORN + at + LOOK_MS_MAX
    if found.now:
        assert found.next_ms == BORN + at + LOOK_AGAIN_MS
    elif min(life, age) >= 4 * GAP_MS and until is None:
        assert found.next_ms <= BORN + min(life, age)  # the next look comes while it still counts


# --- in a home ----------------------------------------------------------------------------------------


@pytest.fixture
def attested(fresh: Callable[[], Dao]) -> Dao:
    dao = fresh()
    assert dao.tee.due().why == "unattested"
    assert dao.tee.renew(simulated=True)["renewed"]
    return dao


def later(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    monkeypatch.setattr(tee, "now_ms", lambda: now_ms() + ms)


def test_renewed_by_timer_only_when_due(attested: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    height = attested.store.height
    again = attested.tee.renew(simulated=True)
    assert (again["renewed"], again["why"]) == (False, "") and attested.store.height == height
    first = attested.state().need(attest.Attestation, attested.me)
    later(monkeypatch, 17 * HOUR_MS)
    assert attested.tee.due().why == "ending"
    assert attested.tee.renew(simulated=True, dry=True)["dry_run"] and attested.store.height == height
    done = attested.tee.renew(simulated=True)
    assert done["renewed"] and attested.store.height > height
    assert attested.state().need(attest.Attestation, attested.me).evidence != first.evidence


def test_an_ended_one_lowers_the_level_until_it_is_renewed(
    attested: Dao, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch, 25 * HOUR_MS)
    assert attested.quorums.status()["validators"][0]["level"] == "none"
    assert attested.tee.due().why == "ended"


def test_a_timer_never_makes_a_simulation(attested: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where one is registered already: it must be asked for by name each time."""
    from idao.tee import attester

    monkeypatch.setattr(attester, "devices_here", lambda root: [])
    later(monkeypatch, 17 * HOUR_MS)
    with pytest.raises(Missing) as e:
        attested.tee.renew()
    assert e.value.exit_code == 7


def test_a_new_validator_key_is_due_at_once(attested: Dao) -> None:
    from idao.model import Validator

    seat = attested.tee._my_seat()
    one = attested.tee.judged(Validator(seat.idao, bytes(32), 1), attested.tee.policy()[0])
    assert one is not None and not tee._held(one, seat).own_key
    mine = attested.tee.judged(seat, attested.tee.policy()[0])
    assert mine is not None and tee._held(mine, seat).own_key


# --- a running node -----------------------------------------------------------------------------------


def test_a_node_renews_only_what_was_attested_and_never_simulates(
    fresh: Callable[[], Dao], monkeypatch: pytest.MonkeyPatch
) -> None:
    dao = fresh()
    made: list[Any] = []
    monkeypatch.setattr(tee.Tee, "renew", lambda self, **asked: made.append(asked))
    Reattest(dao)()
    assert not made  # the owner has never attested here
    dao.tee.attest(simulated=True)
    monkeypatch.setattr(tee.Tee, "due", lambda self: renewal.Due("ended", now_ms() + 1))
    Reattest(dao)()
    assert not made
    record = replace(dao.state().need(attest.Attestation, dao.me), kind="tdx")
    real = State.get
    monkeypatch.setattr(
        State, "get", lambda self, *asked: record if asked[0] is attest.Attestation else real(self, *asked)
    )
    Reattest(dao)()
    assert made == [{"kind": "tdx", "simulated": False}]


def test_a_simulation_is_renewed_where_the_policy_names_it(
    fresh: Callable[[], Dao], monkeypatch: pytest.MonkeyPatch
) -> None:
    dao = fresh()
    made: list[Any] = []
    dao.tee.attest(simulated=True)
    monkeypatch.setattr(tee.Tee, "renew", lambda self, **asked: made.append(asked))
    monkeypatch.setattr(tee.Tee, "due", lambda self: renewal.Due("ended", now_ms() + 1))
    Reattest(dao)()
    assert not made
    monkeypatch.setattr(tee.Tee, "policy", lambda self: (SIMULATED, 1))
    Reattest(dao)()
    assert made == [{"kind": "", "simulated": True}]


def test_a_chore_is_quiet_until_it_is_time_and_after_a_failure(
    fresh: Callable[[], Dao], monkeypatch: pytest.MonkeyPatch
) -> None:
    dao = fresh()
    calls: list[float] = []

    def keep(self: tee.Tee) -> int:
        calls.append(self._dao.wait_s)
        if len(calls) == 1:
            raise Missing("no device today")
        return now_ms() + 6 * HOUR_MS

    monkeypatch.setattr(tee.Tee, "keep", keep)
    chore = Reattest(dao)
    with pytest.raises(Missing):
        chore()
    chore()
    assert calls == [0]
    passed = [0]
    monkeypatch.setattr(reattest, "now_ms", lambda: now_ms() + passed[0])
    for ms, count in ((LOOK_AGAIN_MS + 1, 2), (LOOK_AGAIN_MS + 1, 2), (2 * LOOK_AGAIN_MS, 3)):
        passed[0] = ms
        chore()
        assert len(calls) == count


def test_judging_others_rests_after_a_failure(
    fresh: Callable[[], Dao], monkeypatch: pytest.MonkeyPatch
) -> None:
    dao = fresh()
    tries: list[int] = []

    def fail(self: tee.Tee) -> int:
        tries.append(1)
        raise Missing("a damaged ledger")

    monkeypatch.setattr(tee.Tee, "appraise_others", fail)
    chore = Reattest(dao)
    with pytest.raises(Missing):
        chore()
    chore()
    assert len(tries) == 1
    monkeypatch.setattr(reattest, "now_ms", lambda: now_ms() + LOOK_AGAIN_MS + 1)
    with pytest.raises(Missing):
        chore()


def test_nothing_is_signed_twice_while_the_others_are_away(
    fresh: Callable[[], Dao], monkeypatch: pytest.MonkeyPatch
) -> None:
    dao = fresh()
    monkeypatch.setattr(tee.Tee, "waiting", lambda self: True)
    monkeypatch.setattr(tee.Tee, "keep", lambda self: pytest.fail("asked again"))
    Reattest(dao)()


def test_a_quorum_of_one_has_no_others_to_judge(attested: Dao) -> None:
    assert attested.tee.appraise_others() == 0 and not attested.tee.waiting()
    assert any(isinstance(chore, Reattest) for chore in chores(attested, list))
