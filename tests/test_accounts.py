"""The book: both sides of every amount, nobody below zero, nothing out of nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_world import QUORUM, World, id_of

from idao.errors import VerificationFailed
from idao.ledger import accounts, dats, usage
from idao.ledger.accounts import IDAO, ISSUANCE, STAKE, Account, Entry, Retire, Transfer
from idao.ledger.idao import Member
from idao.model import INT_MAX

PEOPLE = ("ann", "bob", "cyd")
amounts = st.one_of(st.integers(1, 10), st.integers(1, INT_MAX))
steps = st.lists(
    st.tuples(
        st.sampled_from(("issue", "retire", "transfer", "steal")),
        st.sampled_from(PEOPLE),
        st.sampled_from(PEOPLE),
        st.sampled_from((*PEOPLE, "stake")),
        amounts,
    ),
    max_size=30,
)


def unit_of(name: str) -> bytes:
    return STAKE if name == "stake" else id_of(name)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_book_agrees_with_a_ledger_of_plain_numbers(history: list[tuple[str, str, str, str, int]]) -> None:
    world = World(*PEOPLE)
    accounts.endow(world.state, QUORUM, ((id_of("ann"), 100), (id_of("bob"), 0)))
    held: dict[tuple[str, str], int] = {("ann", "stake"): 100}
    for act, a, b, unit, n in history:
        if act == "issue":
            code = world.issue(a, b, n)
            if not code:
                held[b, a] = held.get((b, a), 0) + n
            else:
                assert code == "overflow"
        elif act == "retire":
            code = world.do(a, Retire(id_of(a), n, ""))
            assert (code == "") == (held.get((a, a), 0) >= n)
            if not code:
                held[a, a] -= n
        elif act == "transfer":
            code = world.do(a, Transfer(id_of(a), id_of(b), unit_of(unit), n, "rent"))
            if not code:
                assert a != b
                held[a, unit] -= n
                held[b, unit] = held.get((b, unit), 0) + n
            else:
                assert a == b or code == "overflow" or held.get((a, unit), 0) < n
        elif a != b:
            assert world.do(a, Transfer(id_of(b), id_of(a), unit_of(unit), n, "")) == "not-a-member"
        accounts.check_book(world.state)
        assert all(v >= 0 for v in held.values())
        for name in PEOPLE:
            for u in (*PEOPLE, "stake"):
                place = (IDAO, id_of(name))
                assert accounts.balance(world.state, place, unit_of(u)) == held.get((name, u), 0)
    for issuer in PEOPLE:
        outstanding = accounts.balance(world.state, (ISSUANCE, id_of(issuer)), id_of(issuer))
        assert outstanding == sum(n for (_, u), n in held.items() if u == issuer)
    assert sum(n for (_, u), n in held.items() if u == "stake") == 100


def test_refusals_have_their_codes() -> None:
    world = World(*PEOPLE)
    accounts.endow(world.state, QUORUM, ((id_of("ann"), 10),))
    ann, bob = id_of("ann"), id_of("bob")
    assert world.do("ann", accounts.Issue(ann, id_of("nobody"), 1, "")) == "unknown-idao"
    assert world.do("bob", accounts.Issue(ann, bob, 1, "")) == "not-a-member"
    assert world.do("ann", accounts.Issue(STAKE, ann, 1, "")) == "not-a-member"
    assert world.do("ann", Transfer(ann, bob, STAKE, 11, "")) == "insufficient"
    assert world.reason == "11 are needed where 10 are held"
    assert world.do("ann", Transfer(ann, ann, STAKE, 1, "")) == "same-account"
    assert world.do("ann", Transfer(ann, id_of("nobody"), STAKE, 1, "")) == "unknown-idao"
    assert world.do("ann", Retire(ann, 1, "")) == "insufficient"
    assert world.issue("ann", "bob", INT_MAX) == ""
    assert world.issue("ann", "cyd", 1) == "overflow"
    assert world.held("bob", "ann") == INT_MAX


def test_a_quorum_promises_nothing_even_by_its_owners() -> None:
    world = World("ann")
    world.state.put(Member(QUORUM, id_of("ann"), "owner", 1, 0))
    assert world.do("ann", accounts.Issue(QUORUM, id_of("ann"), 1, "")) == "quorum-credit"


def test_a_member_spends_only_where_the_charter_allows() -> None:
    world = World("ann", "bob")
    world.issue("ann", "ann", 5)
    world.state.put(Member(id_of("ann"), id_of("bob"), "member", 1, 1))
    pay = Transfer(id_of("ann"), id_of("bob"), id_of("ann"), 2, "wage")
    assert world.do("bob", pay) == "role"
    world.rule("ann", role__member__spend="allow")
    assert world.do("bob", pay) == ""
    assert world.held("bob", "ann") == 2


def test_entries_tell_the_story() -> None:
    world = World("ann", "bob")
    world.issue("ann", "bob", 7)
    world.tick()
    world.do("bob", Transfer(id_of("bob"), id_of("ann"), id_of("ann"), 3, "thanks"))
    first, second = world.state.scan(Entry)
    assert (first.debit_kind, first.credit_kind, first.amount, first.height) == (ISSUANCE, IDAO, 7, 1)
    assert (second.debit_holder, second.credit_holder) == (id_of("bob"), id_of("ann"))
    assert (second.memo, second.height, second.n, second.tx) == ("thanks", 2, 0, world.tx)


def test_all_that_is_held_can_be_paid() -> None:
    world = World("ann", "bob")
    world.issue("ann", "bob", 7)
    pay = Transfer(id_of("bob"), id_of("ann"), id_of("ann"), 8, "")
    assert world.do("bob", pay) == "insufficient"
    assert world.do("bob", replace(pay, amount=7)) == "" and world.held("bob", "ann") == 0


def test_entries_of_one_transaction_are_numbered_from_0() -> None:
    world = World("ann", "bob")
    asset = world.asset("ann", "rides")
    for _ in range(3):
        world.mint("ann", asset, share_ratio=1)
    world.issue("ann", "bob", 100)
    world.rule("ann", economy__fee=1000)
    class_id = dats.class_id_of(QUORUM, asset, 1)
    assert world.do("bob", usage.Settle(class_id, id_of("bob"), id_of("ann"), 100)) == ""
    story = [(e.n, e.memo) for e in world.state.scan(Entry) if e.tx == world.tx]
    assert len(story) > 1 and [n for n, _ in story] == list(range(len(story)))


@pytest.mark.parametrize("field", ["debit", "credit"])
def test_check_book_finds_a_changed_account(field: str) -> None:
    world = World("ann", "bob")
    world.issue("ann", "bob", 7)
    account = world.state.need(Account, IDAO, id_of("bob"), id_of("ann"))
    world.state.put(replace(account, **{field: getattr(account, field) + 1}))
    with pytest.raises(VerificationFailed, match="not the sum of its entries"):
        accounts.check_book(world.state)


def test_check_book_finds_a_changed_entry_and_a_lost_account() -> None:
    world = World("ann", "bob")
    world.issue("ann", "bob", 7)
    (entry,) = world.state.scan(Entry)
    other = world.copy()
    other.state.put(replace(entry, amount=8))
    with pytest.raises(VerificationFailed):
        accounts.check_book(other.state)
    world.state.delete(Account, IDAO, id_of("bob"), id_of("ann"))
    with pytest.raises(VerificationFailed):
        accounts.check_book(world.state)
