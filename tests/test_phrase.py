"""The recovery phrase: BIP-39's own vectors, forgiving reading, refusals that name the word."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao.crypto import phrase
from idao.errors import IdaoError, UsageError

OFFICIAL = json.loads((Path(__file__).parent / "vectors/bip39.json").read_text())["vectors"]
WORDS = phrase.phrase_from(bytes(range(32)))


@pytest.mark.parametrize("vector", OFFICIAL, ids=lambda v: v["entropy"][:8])
def test_official_vectors(vector):
    words = phrase.phrase_from(bytes.fromhex(vector["entropy"]))
    assert words == vector["phrase"] == phrase.read_phrase(words)
    assert phrase.seed_from(words, "TREZOR").hex() == vector["seed"]


def test_derived_secrets_are_pinned_and_apart():
    seed = phrase.seed_from(OFFICIAL[0]["phrase"])
    vector = json.loads((Path(__file__).parent / "vectors/identity.json").read_text())
    assert seed.hex() == vector["seed"]
    assert phrase.inception_nonce(seed).hex() == vector["inception_nonce"]
    assert phrase.first_key(seed).hex() == vector["first_key"]
    assert phrase.next_key(seed).hex() == vector["next_key"]
    assert [phrase.recovery_key(seed, n).hex() for n in range(3)] == vector["recovery_keys"]
    assert phrase.authority_key(seed).hex() == vector["authority_key"]
    secrets = [
        phrase.authority_key(seed),
        phrase.inception_nonce(seed),
        phrase.first_key(seed),
        phrase.next_key(seed),
        *(phrase.recovery_key(seed, n) for n in range(20)),
    ]
    assert len(set(secrets)) == len(secrets)


def test_reading_forgives_how_people_type():
    words = WORDS.split()
    numbered = "\n".join(f"{i}. {w.upper()}" for i, w in enumerate(words, 1))
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in WORDS)
    for typed in (
        f"  {WORDS}\n",
        WORDS.title(),
        ", ".join(words),
        numbered,
        " ".join(w[:4] for w in words),
        WORDS.replace(" ", "\u3000"),
        wide,
    ):
        assert phrase.read_phrase(typed) == WORDS


def test_refusals_name_the_trouble():
    words = WORDS.split()
    with pytest.raises(UsageError, match=r"word 3 ") as e:
        phrase.read_phrase(" ".join([*words[:2], "abillity", *words[3:]]))
    assert "abil" not in f"{e.value} {e.value.hint}"
    with pytest.raises(UsageError, match="24 words, not 23"):
        phrase.read_phrase(" ".join(words[:23]))
    with pytest.raises(UsageError, match="does not add up"):
        phrase.read_phrase(" ".join([words[1], words[0], *words[2:]]))
    with pytest.raises(UsageError, match="characters long"):
        phrase.read_phrase("abandon " * 1000)
    with pytest.raises(UsageError, match="word 1 "):
        phrase.read_phrase("abc")  # too short to stand for a word


def test_no_refusal_repeats_a_right_word():
    words = WORDS.split()
    with pytest.raises(UsageError) as e:
        phrase.read_phrase(" ".join([*words[:-1], "zzzzzz"]))
    said = f"{e.value.message} {e.value.hint}"
    assert not any(f" {w} " in f" {said} " for w in set(words) - {"list"})


def test_wrong_sizes_are_bugs_of_the_caller():
    for bad in (b"", bytes(16), bytes(33)):
        with pytest.raises(ValueError):
            phrase.phrase_from(bad)
    with pytest.raises(ValueError):
        phrase.first_key(bytes(32))
    for number in (-1, phrase.RECOVERY_MAX):
        with pytest.raises(ValueError):
            phrase.recovery_key(bytes(64), number)


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50)
def test_any_entropy_survives(entropy):
    words = phrase.phrase_from(entropy)
    assert len(words.split()) == 24 and phrase.read_phrase(words) == words


@given(st.text(max_size=300) | st.lists(st.sampled_from(WORDS.split()), max_size=30).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_phrase_or_our_refusal(text):
    try:
        assert len(phrase.read_phrase(text).split()) == 24
    except IdaoError as e:
        assert e.exit_code == 2


def test_the_word_list_is_loaded_only_when_used():
    code = "import sys, idao.identity; sys.exit('mnemonic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
