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
B, C, D = (Signer(bytes([n]) * 32) for n in (2, 3, 4))
START = identity.initial(INCEPTION)


def refused(now, signed, why):
    with pytest.raises(Malformed, match=why) as e:
        identity.advance(now, signed)
    assert e.value.code == "key-event"


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
        assert (state.key_seq, state.key.hex(), state.head.hex(), state.recovery.hex()) == (
            expected["key_seq"],
            expected["key"],
            expected["head"],
            expected["recovery"],
        )
    first = identity.rotate(START, FIRST, B.public)
    second = identity.recover(INCEPTION, SEED, 0, C.public)
    assert [canonical.pack(e).hex() for e in (first, second)] == [e["bytes"] for e in vector["events"]]


def test_the_phrase_alone_restores_the_same_id():
    assert identity.incept(SEED) == INCEPTION
    assert START.key == FIRST.public and START.key_seq == 0 and START.head == START.idao
    assert identity.idao_id(identity.incept(bytes(64))) != START.idao


def test_rotation_needs_the_current_key():
    rotated = identity.advance(START, identity.rotate(START, FIRST, B.public))
    assert (rotated.key, rotated.key_seq) == (B.public, 1)
    assert identity.advance(rotated, identity.rotate(rotated, B, C.public)).key_seq == 2
    refused(rotated, identity.rotate(rotated, FIRST, C.public), "signature")  # the stolen old key
    refused(START, identity.rotate(START, B, B.public), "signature")
    refused(START, identity.rotate(START, FIRST, FIRST.public), "keeps the key")


def test_recovery_needs_nothing_but_the_phrase_and_beats_a_thief():
    thief = START
    for key in (B, C):
        old = FIRST if key is B else B
        thief = identity.advance(thief, identity.rotate(thief, old, key.public))
    back = identity.advance(thief, identity.recover(INCEPTION, SEED, 0, D.public))
    assert (back.key, back.key_seq) == (D.public, identity.RECOVERY_STEP)
    refused(back, identity.rotate(thief, C, B.public), "does not follow")
    # The same event is good on a ledger that has seen none of the thief's rotations.
    assert identity.advance(START, identity.recover(INCEPTION, SEED, 0, D.public)) == back


def test_a_thief_cannot_move_the_recovery_commitment():
    event = replace(identity.rotate(START, FIRST, B.public).event, next_recovery=bytes(32))
    refused(START, signed(FIRST, event), "only a recovery key")


def test_a_recovery_key_works_once():
    once = identity.advance(START, identity.recover(INCEPTION, SEED, 0, B.public))
    refused(once, identity.recover(INCEPTION, SEED, 0, C.public), "spent")
    refused(START, identity.recover(INCEPTION, SEED, 1, C.public), "another phrase")
    refused(START, identity.recover(INCEPTION, bytes(64), 0, C.public), "another phrase")
    twice = identity.advance(once, identity.recover(INCEPTION, SEED, 1, C.public))
    assert twice.key_seq == 2 * identity.RECOVERY_STEP
    assert identity.recovery_number(SEED, twice.recovery) == 2
    assert identity.recovery_number(bytes(64), twice.recovery, limit=5) is None


def test_each_broken_rule_is_named():
    recovery = Signer(phrase.recovery_key(SEED, 0))
    rotation, rescue = identity.rotate(START, FIRST, B.public), identity.recover(INCEPTION, SEED, 0, B.public)
    for change, why in (
        ({"v": 2}, "format 2"),
        ({"idao": bytes(32)}, "another iDAO"),
        ({"previous": bytes(32)}, "does not follow"),
        ({"key_seq": 2}, "where 1 is next"),
        ({"key_seq": 0}, "where 1 is next"),
    ):
        refused(START, signed(FIRST, replace(rotation.event, **change)), why)
    for change, why in (
        ({"previous": bytes(32)}, "neither the last event"),
        ({"key_seq": 0}, "key 0 was seen"),
        ({"next_recovery": START.recovery}, "now public"),
        ({"key": recovery.public}, "cannot become"),
    ):
        refused(START, signed(recovery, replace(rescue.event, **change)), why)
    refused(START, signed(FIRST, rescue.event), "signature")  # revealed but not held
    with pytest.raises(Malformed, match="format 2"):
        identity.initial(replace(INCEPTION, v=2))


def test_history_is_checked_whole_and_bounded():
    rotation = identity.rotate(START, FIRST, B.public)
    now = identity.advance(START, rotation)
    second = identity.rotate(now, B, C.public)
    assert identity.key_at(INCEPTION, ()) == START
    assert [s.key for s in identity.history(INCEPTION, (rotation, second))] == [
        FIRST.public,
        B.public,
        C.public,
    ]
    for bad in ((second,), (second, rotation), (rotation, rotation), (rotation, second, second)):
        with pytest.raises(Malformed):
            identity.key_at(INCEPTION, bad)
    with pytest.raises(Malformed, match="at most"):
        identity.key_at(INCEPTION, (rotation,) * (identity.EVENTS_MAX + 1))


@given(st.data())
@settings(max_examples=150)
def test_a_changed_byte_never_makes_another_history(data):
    raw = bytearray(canonical.pack(identity.rotate(START, FIRST, B.public)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IdaoError):
        identity.advance(START, canonical.unpack(SignedKeyEvent, bytes(raw)))
