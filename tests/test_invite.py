"""Invites and words: one spelling, every slip noticed, nothing secret in a message."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao import invite
from idao.errors import UsageError
from idao.invite import Invite, Secret

ONE = Invite(Secret(b"s" * 16), b"p" * 16, b"q" * 8, 1_900_000_000, ("10.0.0.1:24326", "[fd00::1]:24326"))
ADDRESSES = st.lists(
    st.one_of(
        st.tuples(st.ip_addresses(v=4, network="10.0.0.0/8"), st.integers(1, 65535)),
        st.tuples(st.ip_addresses(v=6, network="fd00::/8"), st.integers(1, 65535)),
    ),
    max_size=3,
)


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1), ADDRESSES)
def test_every_invite_reads_back(secret: bytes, expires: int, addresses: list[tuple[object, int]]) -> None:
    texts = tuple(f"[{a}]:{p}" if ":" in str(a) else f"{a}:{p}" for a, p in addresses)
    made = Invite(Secret(secret), b"p" * 16, b"q" * 8, expires, texts)
    line = invite.encode(made)
    assert invite.decode(line) == made
    assert len(line) <= 180


def test_a_line_of_three_addresses_is_short() -> None:
    made = Invite(Secret(b"s" * 16), b"p" * 16, b"q" * 8, 1, ("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"))
    assert len(invite.encode(made)) <= 120


def test_pasted_with_breaks_and_capitals() -> None:
    line = invite.encode(ONE)
    assert invite.decode(f"\n  {line[:40].upper()}\r\n {line[40:]}\n") == ONE


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_one_wrong_letter_is_noticed(data: st.DataObject) -> None:
    line = invite.encode(ONE)
    at = data.draw(st.integers(len(invite.PREFIX), len(line) - 1))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567189-é"))
    if letter == line[at]:
        return
    with pytest.raises(UsageError) as e:
        invite.decode(line[:at] + letter + line[at + 1 :])
    shown = f"{e.value.message} {e.value.hint}"
    assert line[5:20] not in shown and line[20:40] not in shown


@pytest.mark.parametrize("text", ["", "idao1", "idao2abc", "hello", "idao1" + "a" * 5000, "idao1" + "=" * 80])
def test_other_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError) as e:
        invite.decode(text)
    assert e.value.hint


@pytest.mark.parametrize("cut", range(6, 110, 7))
def test_cut_short(cut: int) -> None:
    with pytest.raises(UsageError):
        invite.decode(invite.encode(ONE)[:cut])


def test_what_a_forger_may_write_is_still_checked() -> None:
    """With a right check but wrong content: an unknown version, addresses that are none, too many."""
    import base64

    def line(data: bytes) -> str:
        data += invite._check(data)
        return invite.PREFIX + base64.b32encode(data).decode().lower().rstrip("=")

    head = b"\x01" + bytes(44)
    assert invite.decode(line(head)).addresses == ()
    for data in [
        b"\x02" + bytes(44),
        head + b"\x05abcd\x00\x01",
        head + b"\x04abc",
        head + b"\x04\x00\x00\x00\x00\x00\x01",
        head + b"\x04\x0a\x00\x00\x01\x00\x00",
        head + b"\x04\x0a\x00\x00\x01\x00\x01" * 4,
        head + b"\x06" + bytes(10),
    ]:
        with pytest.raises(UsageError):
            invite.decode(line(data))


def test_an_invite_ends() -> None:
    assert not invite.expired(ONE, ONE.expires_s * 1000 - 1)
    assert invite.expired(ONE, ONE.expires_s * 1000)


def test_the_secret_is_not_in_its_repr() -> None:
    assert "ssss" not in repr(invite.decode(invite.encode(ONE)))


def test_words_depend_on_everything_and_only_on_it() -> None:
    base = [b"q" * 32, b"i" * 32, (b"n" * 32, b"m" * 32), (b"w" * 32, b"k" * 32, b"t" * 32)]
    first = invite.words(*base)  # type: ignore[arg-type]
    assert len(first.split()) == 6 and first == invite.words(*base)  # type: ignore[arg-type]
    others = [
        [b"x" * 32, *base[1:]],
        [base[0], b"x" * 32, *base[2:]],
        [*base[:2], (b"x" * 32, b"m" * 32), base[3]],
        [*base[:2], (b"n" * 32, b"x" * 32), base[3]],
        [*base[:3], (b"x" * 32, b"k" * 32, b"t" * 32)],
        [*base[:3], (b"w" * 32, b"x" * 32, b"t" * 32)],
        [*base[:3], (b"w" * 32, b"k" * 32, b"x" * 32)],
    ]
    assert len({first, *(invite.words(*o) for o in others)}) == 8  # type: ignore[arg-type]


def test_typed_words_are_forgiven_their_spaces_alone() -> None:
    assert invite.same_words(" Apple  BANANA-cherry\n", "apple banana cherry")
    assert not invite.same_words("apple banana", "apple banana cherry")
    assert not invite.same_words("apple cherry banana", "apple banana cherry")


def test_a_proof_is_of_one_step_and_one_transcript() -> None:
    proof = invite.proof(b"s" * 16, 1, [b"a", b"bc"])
    assert invite.proven(b"s" * 16, 1, [b"a", b"bc"], proof)
    for other in [
        (b"t" * 16, 1, [b"a", b"bc"]),
        (b"s" * 16, 2, [b"a", b"bc"]),
        (b"s" * 16, 1, [b"ab", b"c"]),
    ]:
        assert not invite.proven(*other, proof)  # type: ignore[arg-type]
