"""A hundred thousand damaged files for each reader of files and words: nothing but our refusals comes out.

`IDAO_FUZZ_ROUNDS` is the number for each reader, `IDAO_FUZZ_SEED` makes them others.
"""

import json
import os
import random
from pathlib import Path

import pytest

from idao import card, identity, licence, policy
from idao.crypto import canonical, phrase, seal
from idao.errors import IdaoError
from idao.model import Inception, SignedKeyEvent

ROUNDS = int(os.environ.get("IDAO_FUZZ_ROUNDS", "100000"))
SEED = os.environ.get("IDAO_FUZZ_SEED", "")
KEK = bytes(32)
IDENTITY = json.loads((Path(__file__).parent / "vectors/identity.json").read_text())
START = identity.initial(canonical.unpack(Inception, bytes.fromhex(IDENTITY["inception"])))
DOCS = (Path(__file__).parents[1] / "docs/policy.md").read_text()


def _policy_seed():
    start = DOCS.index("```json") + 7
    return DOCS[start : DOCS.index("```", start)].encode()


def _card_seed():
    files = (card.File("a.csv", "text/csv", (card.Column("x"),)),)
    made = card.build(card.Known("dataset", "n", KEK, "tabular", licence="MIT", files=files))
    return card.to_bytes(made)


READERS = {
    "policy": (_policy_seed, policy.parse),
    "card": (_card_seed, lambda d: card.read(d, "dataset")),
    "licence": (
        lambda: b"(MIT OR Apache-2.0) AND GPL-2.0-only WITH Classpath-exception-2.0",
        lambda d: licence.canonical(d.decode("latin-1")),
    ),
    "phrase": (
        lambda: phrase.phrase_from(KEK).encode(),
        lambda d: phrase.read_phrase(d.decode("latin-1")),
    ),
    "lock": (lambda: seal.make_lock(KEK, None, bytes(40)), lambda d: seal.open_lock(d, None)),
    "key file": (
        lambda: seal.seal(KEK, "identity", KEK, bytes(24)),
        lambda d: seal.unseal(KEK, "identity", d),
    ),
    "key event": (
        lambda: bytes.fromhex(IDENTITY["events"][1]["bytes"]),
        lambda d: identity.advance(START, canonical.unpack(SignedKeyEvent, d)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_only_our_refusals(name, monkeypatch):
    # Looking for the word that was meant takes 3 ms, and has its own tests.
    monkeypatch.setattr("difflib.get_close_matches", lambda *_args, **_kwargs: [])
    seed, read = READERS[name]
    good = seed()
    chance = random.Random(name + SEED)
    refused = 0
    for _ in range(ROUNDS):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0:
                    data[at:at] = chance.randbytes(chance.randint(1, 8))
                case 1:
                    del data[at : at + chance.randint(1, 16)]
                case 2:
                    data[at : at + 1] = chance.choice(b'{}[]",:\\0-(.)\n e\xff\xed').to_bytes(1, "big")
                case _:
                    other = chance.randrange(len(data) + 1)
                    data[at:at] = data[other : other + chance.randint(1, 32)]
        try:
            read(bytes(data))
        except IdaoError:
            refused += 1
    assert refused > ROUNDS // 100
