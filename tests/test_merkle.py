"""RFC 6962 trees: roots against the definition, every proof against RFC 9162's algorithms."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao.crypto import merkle
from idao.crypto.merkle import LOG

VECTORS = json.loads((Path(__file__).parent / "vectors" / "merkle.json").read_text())


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def grown(n: int) -> tuple[list[bytes], dict[tuple[int, int], bytes], merkle.Frontier]:
    leaves = [b"leaf %d" % i for i in range(n)]
    nodes: dict[tuple[int, int], bytes] = {}
    frontier = merkle.Frontier(LOG)
    for leaf in leaves:
        nodes.update({(h, i): d for h, i, d in frontier.append(LOG.leaf(leaf))})
    return leaves, nodes, frontier


@pytest.mark.parametrize("case", VECTORS, ids=lambda c: f"{len(c['leaves'])} leaves")
def test_vectors(case: dict[str, object]) -> None:
    leaves = [bytes.fromhex(h) for h in case["leaves"]]  # type: ignore[attr-defined]
    assert merkle.root(LOG, [LOG.leaf(x) for x in leaves]).hex() == case["root"]


@pytest.mark.parametrize("n", range(34))
def test_every_proof_of_every_size(n: int) -> None:
    leaves, nodes, frontier = grown(n)
    hashes = [LOG.leaf(x) for x in leaves]
    root = mth(leaves)
    assert merkle.root(LOG, hashes) == root == frontier.root()

    def get(level: int, place: int) -> bytes:
        return nodes[level, place]

    assert merkle.stored_root(LOG, get, n) == root
    for i in range(n):
        path = merkle.path(LOG, hashes, i)
        assert path == merkle.stored_path(LOG, get, i, n)
        assert merkle.root_from_path(LOG, hashes[i], i, n, path) == root
        assert merkle.root_from_path(LOG, hashes[i], i, n, [*path, root]) is None
        assert not path or merkle.root_from_path(LOG, hashes[i], i, n, path[:-1]) != root
        assert merkle.root_from_path(LOG, LOG.leaf(b"other"), i, n, path) != root
    for old in range(1, n + 1):
        proof = merkle.stored_consistency(LOG, get, old, n)
        before = mth(leaves[:old])
        assert merkle.consistent(LOG, old, n, before, root, proof)
        assert not merkle.consistent(LOG, old, n, mth([*leaves[: old - 1], b"x"]), root, proof)
        assert not merkle.consistent(LOG, old, n, before, root, [*proof, root])


@given(st.integers(1, 300), st.data())
def test_proofs_at_random(n: int, data: st.DataObject) -> None:
    leaves, nodes, _ = grown(n)
    i = data.draw(st.integers(0, n - 1))
    path = merkle.stored_path(LOG, lambda h, p: nodes[h, p], i, n)
    root = mth(leaves)
    assert merkle.root_from_path(LOG, LOG.leaf(leaves[i]), i, n, path) == root
    other = data.draw(st.integers(0, n - 1).filter(lambda x: x != i)) if n > 1 else None
    if other is not None:
        assert merkle.root_from_path(LOG, LOG.leaf(leaves[i]), other, n, path) != root


def test_leaves_of_the_log_together() -> None:
    leaves = [b"", b"x", bytes(500)]
    assert merkle.log_leaves(leaves) == [LOG.leaf(leaf) for leaf in leaves]


def test_kinds_never_share_a_hash() -> None:
    from idao.crypto.hashing import Kind, digest

    assert len({digest(kind, b"same") for kind in Kind}) == len(Kind)


@given(st.lists(st.integers(0, 20), max_size=6))
def test_leaves_added_together_or_one_by_one(parts: list[int]) -> None:
    together, single = merkle.Frontier(LOG), merkle.Frontier(LOG)
    for n in parts:
        leaves = [LOG.leaf(bytes([n, i])) for i in range(n)]
        done = [node for leaf in leaves for node in single.append(leaf)]
        later = together.copy()
        assert sorted(together.extend(leaves)) == sorted(done)
        assert sorted(later.extend(leaves, 2)) == sorted(node for node in done if node[0] >= 2)
        assert (together.size, together.stack, together.root()) == (single.size, single.stack, single.root())


def test_a_hasher_that_is_used_again_remembers_nothing() -> None:
    from blake3 import blake3

    from idao.crypto.hashing import Kind, digest, hasher

    mine = hasher(Kind.STATE_VALUE)
    for size in (0, 1, 64, 65, 1024, 1025, 5000, 3):
        data = bytes(range(256)) * 20
        expected = blake3(data[:size], derive_key_context=Kind.STATE_VALUE.value).digest()
        assert mine(data[:size]) == expected == digest(Kind.STATE_VALUE, data[:size])
        with pytest.raises(TypeError):
            mine("text")  # type: ignore[arg-type]


def test_the_log_is_hashed_alike_by_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    from idao.crypto import hashing

    monkeypatch.setattr(hashing, "sha256", hashing._own_sha256())
    own = grown(9)[2].root()
    hashing.by_openssl()
    assert hashing.sha256 is hashlib.sha256 and grown(9)[2].root() == own
