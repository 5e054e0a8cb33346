"""The state tree: its shape depends on the set of records alone, and proofs show presence and absence."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idao.crypto import canonical, statetree
from idao.errors import Malformed


def _path(n: int) -> bytes:
    # Few distinct first nibbles, so that deep branches and collapses are common.
    h = hashlib.sha256(bytes([n])).digest()
    return bytes([0x11, 0x11 if n % 3 else 0x12]) + h[:30]


changes = st.lists(
    st.dictionaries(st.integers(0, 40), st.one_of(st.none(), st.integers(0, 3)), max_size=8), max_size=8
)


@given(changes)
def test_incremental_equals_rebuilt_and_proofs_hold(batches: list[dict[int, int | None]]) -> None:
    branches: statetree.Branches = {}
    model: dict[bytes, bytes] = {}
    root = statetree.EMPTY
    for batch in batches:
        plain = {_path(k): None if v is None else bytes([v]) * 32 for k, v in batch.items()}
        root = statetree.update(branches, plain)
        for k, v in plain.items():
            if v is None:
                model.pop(k, None)
            else:
                model[k] = v
        rebuilt = statetree.build(model.items())
        assert rebuilt == branches
        assert statetree.root(rebuilt) == root
    for n in range(41):
        path = _path(n)
        proof = statetree.prove(branches, path)
        value = model.get(path)
        assert statetree.check(root, path, value, proof)
        wrong = b"\x09" * 32 if value is None else None
        assert not statetree.check(root, path, wrong, proof)
        assert not statetree.check(bytes(31) + b"\1", path, value, proof)


def test_a_row_is_a_canonical_list_and_no_other_bytes_pass() -> None:
    branches = statetree.build((_path(n), bytes([n]) * 32) for n in range(20))
    row = branches[""]
    assert canonical.decode(row) == [
        [i, c[2:34], c[36:68], c[70:]] for i, c in enumerate(statetree.children_of(row)) if c
    ]
    for good in branches.values():
        assert statetree.check_row(good) == good
        for at in range(len(good)):
            with contextlib.suppress(Malformed):
                passed = statetree.check_row(good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :])
                assert len(canonical.decode(passed)) == len(canonical.decode(good))
            with pytest.raises(Malformed):
                statetree.check_row(good[:at])
    for bad in (
        None,
        7,
        "text",
        "t" * statetree._FULL.stop,
        bytes(statetree._FULL.stop),
        row + b"\0",
        b"",
        row.replace(b"\x58\x20", b"\x58\x21", 1),
    ):
        with pytest.raises(Malformed):
            statetree.check_row(bad)
