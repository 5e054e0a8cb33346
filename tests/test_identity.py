"""The chain of keys: the phrase restores the id, each event needs the right key, a thief stays a guest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao import identity
from idao.crypto import canonical, phrase
from idao.crypto.keys import Signer
from idao.errors import IdaoError, Malformed
from idao.model import SignedKeyEvent

VECTORS = Path(__file__).parent / "vectors"
SEED = phrase.seed_from(json.loads((VECTORS / "bip39.json").read_text())["vectors"][0]["phrase"])
INCEPTION = identity.incept(SEED)
FIRST = Signer(phrase.first_key(SEED))
NEXT = Signer(phrase.next_key(SEED))
B, C, D, E = (Signer(bytes([n]) * 32) for n in (2, 3, 4, 5))
RECOVERY = Signer(phrase.recovery_key(SEED, 0))
START = identity.initial(INCEPTION)


def refused(now, signed, why):
    with pytest.raises(Malformed, match=why) as e:
        identity.advance(now, signed)
    assert e.value.code == "key-event"


def rotation(now, signer, after):
    return identity.rotate(now, signer, after.public)


def recovery(number, key, after, seed=SEED):
    return identity.recover(INCEPTION, seed, number, key.public, after.public)


def signed(signer, event):
    return SignedKeyEvent(event, signer.sign_key_event(event))


def test_vectors():
    vector = json.loads((VECTORS / "identity.json").read_text())
    assert canonical.pack(INCEPTION).hex() == vector["inception"]
    assert identity.idao_id(INCEPTION).hex() == vector["idao"]
    state = START
    for expected in vector["events"]:
        event = canonical.unpack(SignedKeyEvent, bytes.fromhex(expected["bytes"]))
        state = identity.advance(state, event)
        for name in ("key", "next", "head", "recovery"):
            assert getattr(state, name).hex() == expected[name]
        assert state.key_seq == expected["key_seq"]
    made = (rotation(START, NEXT, B), recovery(0, C, D))
    assert [canonical.pack(e).hex() for e in made] == [e["bytes"] for e in vector["events"]]


def test_the_phrase_alone_restores_the_same_id():
    assert identity.incept(SEED) == INCEPTION
    assert START.key == FIRST.public and START.key_seq == 0 and START.head == START.idao
    assert identity.idao_id(identity.incept(bytes(64))) != START.idao


def test_a_rotation_needs_the_next_key():
    rotated = identity.advance(START, rotation(START, NEXT, B))
    assert (rotated.key, rotated.key_seq) == (NEXT.public, 1)
    assert rotated.next == identity.next_commitment(B.public)
    assert identity.advance(rotated, rotation(rotated, B, C)).key_seq == 2
    refused(rotated, rotation(rotated, C, D), "committed to before")
    refused(rotated, rotation(START, NEXT, C), "keeps the key")


def test_a_thief_of_the_current_key_can_make_no_event():
    refused(START, rotation(START, FIRST, B), "keeps the key")
    refused(START, rotation(START, B, C), "committed to before")
    for event in (rotation(START, NEXT, B).event, recovery(0, B, C).event):  # revealed but not held
        refused(START, signed(FIRST, event), "signature")
    once = identity.advance(START, rotation(START, NEXT, B))
    refused(once, rotation(once, FIRST, C), "committed to before")  # the stolen old key
    refused(once, signed(FIRST, rotation(once, B, C).event), "signature")


def test_a_known_key_is_never_committed_to_again():
    for made, signer in ((rotation(START, NEXT, B), NEXT), (recovery(0, C, D), RECOVERY)):
        for stale in (START.next, identity.next_commitment(made.event.key)):
            refused(START, signed(signer, replace(made.event, next=stale)), "another next key")


def test_recovery_needs_nothing_but_the_phrase_and_beats_a_thief():
    thief = START
    for signer, after in ((NEXT, B), (B, C)):
        thief = identity.advance(thief, rotation(thief, signer, after))
    back = identity.advance(thief, recovery(0, D, E))
    assert (back.key, back.key_seq) == (D.public, identity.RECOVERY_STEP)
    refused(back, rotation(thief, C, FIRST), "does not follow")
    refused(back, rotation(back, C, FIRST), "committed to before")
    # The same event is good on a ledger that has seen none of the thief's rotations.
    assert identity.advance(START, recovery(0, D, E)) == back


def test_a_thief_cannot_move_the_recovery_commitment():
    event = replace(rotation(START, NEXT, B).event, next_recovery=bytes(32))
    refused(START, signed(NEXT, event), "only a recovery key")


def test_a_recovery_key_works_once():
    once = identity.advance(START, recovery(0, B, C))
    refused(once, recovery(0, C, D), "spent")
    refused(START, recovery(1, C, D), "another phrase")
    refused(START, recovery(0, C, D, bytes(64)), "another phrase")
    twice = identity.advance(once, recovery(1, C, D))
    assert twice.key_seq == 2 * identity.RECOVERY_STEP
    assert identity.recovery_number(SEED, twice.recovery) == 2
    assert identity.recovery_number(bytes(64), twice.recovery, limit=5) is None


def test_each_broken_rule_is_named():
    turn, rescue = rotation(START, NEXT, B), recovery(0, B, C)
    for change, why in (
        ({"v": 2}, "format 2"),
        ({"idao": bytes(32)}, "another iDAO"),
        ({"previous": bytes(32)}, "does not follow"),
        ({"key_seq": 2}, "where 1 is next"),
        ({"key_seq": 0}, "where 1 is next"),
    ):
        refused(START, signed(NEXT, replace(turn.event, **change)), why)
    for change, why in (
        ({"previous": bytes(32)}, "neither the last event"),
        ({"key_seq": 0}, "key 0 was seen"),
        ({"next_recovery": START.recovery}, "now public"),
        ({"key": RECOVERY.public}, "cannot become"),
    ):
        refused(START, signed(RECOVERY, replace(rescue.event, **change)), why)
    with pytest.raises(Malformed, match="format 2"):
        identity.initial(replace(INCEPTION, v=2))


def test_history_is_checked_whole_and_bounded():
    first = rotation(START, NEXT, B)
    second = rotation(identity.advance(START, first), B, C)
    assert identity.key_at(INCEPTION, ()) == START
    keys = [s.key for s in identity.history(INCEPTION, (first, second))]
    assert keys == [FIRST.public, NEXT.public, B.public]
    for bad in ((second,), (second, first), (first, first), (first, second, second)):
        with pytest.raises(Malformed):
            identity.key_at(INCEPTION, bad)
    with pytest.raises(Malformed, match="at most"):
        identity.key_at(INCEPTION, (first,) * (identity.EVENTS_MAX + 1))


@given(st.data())
@settings(max_examples=150)
def test_a_changed_byte_never_makes_another_history(data):
    raw = bytearray(canonical.pack(rotation(START, NEXT, B)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IdaoError):
        identity.advance(START, canonical.unpack(SignedKeyEvent, bytes(raw)))
