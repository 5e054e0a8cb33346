"""The state tree: its shape depends on the set of records alone, and proofs show presence and absence."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from idao.crypto import statetree


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


def test_rows_round_trip() -> None:
    branches = statetree.build((_path(n), bytes([n]) * 32) for n in range(20))
    for children in branches.values():
        assert statetree.branch_from_bytes(statetree.branch_to_bytes(children)) == children
