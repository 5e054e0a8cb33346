"""The Merkle tree over all records of a ledger: a 16-way radix tree on hashed record keys.

Shape, a function of the set of records alone (ADR 0003):

- path = BLAKE3("idao 1 state path", canonical table name ‖ canonical array of key columns): 64 nibbles,
  evenly spread.
- A subtree of no record is *empty*, of one record a *leaf*, of more a *branch* of 16 children.
- leaf   = H(path ‖ value hash); value hash = H(canonical record).
- branch = H(16-bit big-endian bitmap of non-empty children ‖ their hashes in order).
- The root of an empty tree is 32 zero bytes.

A membership proof lists the branches from the root down; an absence proof ends at an empty child or at
the one other leaf that stands where the record would be. About log16(n) hashes per changed record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Annotated

from idao.crypto import canonical
from idao.crypto.hashing import Kind, hasher
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import Hash, Range, Size

EMPTY = bytes(32)
DEPTH_MAX = 64

Branches = MutableMapping[str, bytes]
"""Prefix in hex digits -> its row, for every branch of the tree. A row is the canonical list of [index, hash,
path, value hash] of each child there is; a child that is a branch has empty path and value hash."""

Child = bytes
"""A child inside a row, without its index: 102 bytes of a leaf, 36 of a branch, none where nothing is."""
_LEAF_BYTES = 102
_FULL = range(3, 1 + 16 * 38, 38)
"""Where children begin in a row of sixteen branches, as most rows on the way to a record are. No other row is
as long."""


_hash_path, _hash_leaf, _hash_branch = (
    hasher(kind) for kind in (Kind.STATE_PATH, Kind.STATE_LEAF, Kind.STATE_BRANCH)
)

value_hash = hasher(Kind.STATE_VALUE)
"""Hash of a record's canonical bytes."""


def record_path(table: str, key: bytes) -> bytes:
    """Where a record stands; `key` is the canonical array of its key columns."""
    return _hash_path(_name(table) + key)


@lru_cache(256)
def _name(table: str) -> bytes:
    return canonical.encode(table)  # there are some thirty tables


def _leaf(path: bytes, value: bytes) -> bytes:
    return _hash_leaf(path + value)


_BITS = tuple(1 << i for i in range(16))


def branch_hash(hashes: Sequence[bytes]) -> bytes:
    """`hashes` has 16 entries, empty bytes where there is no child."""
    if b"" not in hashes:
        return _hash_branch(b"\xff\xff" + b"".join(hashes))
    bitmap = sum([bit for bit, h in zip(_BITS, hashes, strict=True) if h])
    return _hash_branch(bitmap.to_bytes(2, "big") + b"".join(hashes))


def children_of(row: bytes) -> list[Child]:
    """The 16 children in a row, which `update` wrote or `check_row` accepts."""
    at, end = 1, len(row)
    if end == _FULL.stop:
        return [row[at : at + 36] for at in _FULL]
    children = [b""] * 16
    while at < end:
        after = at + (38 if row[at + 36 : at + 38] == b"\x40\x40" else 104)
        children[row[at + 1]] = row[at + 2 : after]
        at = after
    return children


def check_row(row: object) -> bytes:
    """The row, as it was stored. `Malformed` for anything that `update` would not write."""
    try:
        children = children_of(row)  # type: ignore[arg-type]
        again = _row(children)
    except (TypeError, IndexError) as e:
        raise Malformed("not a branch row") from e
    if again != row or not all(map(_is_child, filter(None, children))):
        raise Malformed("not a branch row")
    return row


_INDEX = tuple(b"\x84%c" % i for i in range(16))
"""CBOR: a list of four, of which the first is the index."""


def _row(children: Sequence[Child]) -> bytes:
    parts = [index + child for index, child in zip(_INDEX, children, strict=True) if child]
    return b"%c%b" % (0x80 + len(parts), b"".join(parts))


def _is_child(child: Child) -> bool:
    if len(child) == _LEAF_BYTES:
        return child[:2] == child[34:36] == child[68:70] == b"\x58\x20"
    return len(child) == 36 and child[:2] == b"\x58\x20" and child[34:] == b"\x40\x40"


def _leaf_child(path: bytes, value: bytes) -> Child:
    return b"\x58\x20%b\x58\x20%b\x58\x20%b" % (_leaf(path, value), path, value)


def _hash(children: Sequence[Child]) -> bytes:
    return branch_hash([child[2:34] for child in children])


def root(branches: Mapping[str, bytes]) -> bytes:
    """The root. The tree of one record has a root branch with one leaf; of none, no branch at all."""
    top = branches.get("")
    return _hash(children_of(top)) if top else EMPTY


def update(branches: Branches, changes: Mapping[bytes, bytes | None]) -> bytes:
    """Puts (path -> value hash) or removes (None) all `changes`; returns the new root."""
    if not changes:
        return root(branches)
    items = sorted([(path.hex(), path, value) for path, value in changes.items()])
    child = _update(branches, "", b"?" if "" in branches else b"", items)
    if len(child) == _LEAF_BYTES:
        only = child[36:68].hex()[0]
        branches[""] = _row([child if i == int(only, 16) else b"" for i in range(16)])
    elif not child:
        branches.pop("", None)
    else:
        return child[2:34]
    return root(branches)


_Items = Sequence[tuple[str, bytes, bytes | None]]


def _update(branches: Branches, prefix: str, old: Child, items: _Items) -> Child:
    """The child at `prefix` after `items`, all of which lie below it."""
    depth = len(prefix)
    if len(old) == _LEAF_BYTES:  # It goes down with the others unless it is replaced.
        there = old[36:68]
        if all(path != there for _, path, _ in items):
            items = sorted([*items, (there.hex(), there, old[70:])])
    if old and len(old) != _LEAF_BYTES:
        children = children_of(branches[prefix])
    elif len(items) == 1 and depth:
        return _as_leaf(items[0])
    else:
        children = [b""] * 16
    start, count = 0, len(items)
    while start < count:
        nibble = items[start][0][depth]
        end = start + 1
        while end < count and items[end][0][depth] == nibble:
            end += 1
        i = int(nibble, 16)
        if end == start + 1 and not children[i]:
            children[i] = _as_leaf(items[start])
        else:
            children[i] = _update(branches, prefix + nibble, children[i], items[start:end])
        start = end
    if children.count(b"") >= 15:
        only = b"".join(children)
        if not only or len(only) == _LEAF_BYTES:
            branches.pop(prefix, None)
            return only
    branches[prefix] = _row(children)
    return b"\x58\x20%b\x40\x40" % _hash(children)


def _as_leaf(item: tuple[str, bytes, bytes | None]) -> Child:
    _, path, value = item
    return b"" if value is None else _leaf_child(path, value)


# --- proofs ---------------------------------------------------------------------------------------


@frozen
class Step:
    """One branch on the way down: which children it has and the hashes of all but the one taken."""

    bitmap: Annotated[int, Range(0, 0xFFFF)]
    siblings: Annotated[tuple[Hash, ...], Size(0, 15)]


@frozen
class StateProof:
    """That `path` holds a value hash, or nothing, under a root.

    `other` is the (path, value hash) of the leaf found instead, for absence by another leaf.
    """

    steps: Annotated[tuple[Step, ...], Size(0, DEPTH_MAX)]
    other: tuple[Hash, Hash] | None


def prove(branches: Mapping[str, bytes], path: bytes) -> StateProof:
    """The proof of membership or absence of `path`."""
    steps: list[Step] = []
    prefix, digits = "", path.hex()
    while row := branches.get(prefix):
        children = children_of(row)
        i = int(digits[len(prefix)], 16)
        bitmap = sum(1 << n for n, c in enumerate(children) if c)
        steps.append(Step(bitmap, tuple(c[2:34] for n, c in enumerate(children) if c and n != i)))
        child = children[i]
        if len(child) == _LEAF_BYTES and child[36:68] != path:
            return StateProof(tuple(steps), (child[36:68], child[70:]))
        if not child or len(child) == _LEAF_BYTES:
            break
        prefix += digits[len(prefix)]
    return StateProof(tuple(steps), None)


def check(root_hash: bytes, path: bytes, value: bytes | None, proof: StateProof) -> bool:
    """Does `proof` show that `path` holds `value` (a value hash), or with None that it holds nothing?"""
    digits = path.hex()
    if proof.other is not None:
        other = proof.other[0].hex()
        # The other leaf must stand where ours would: same digits down to its branch.
        taken = len(proof.steps)
        if value is not None or proof.other[0] == path or other[:taken] != digits[:taken] or not taken:
            return False
        current = _leaf(*proof.other)
    else:
        current = b"" if value is None else _leaf(path, value)
    if not proof.steps:
        return value is None and root_hash == EMPTY
    for depth in range(len(proof.steps) - 1, -1, -1):
        step, i = proof.steps[depth], int(digits[depth], 16)
        if bool(step.bitmap >> i & 1) != bool(current):
            return False
        rest = iter(step.siblings)
        if step.bitmap.bit_count() != len(step.siblings) + bool(current):
            return False
        hashes = [current if n == i else next(rest) if step.bitmap >> n & 1 else b"" for n in range(16)]
        current = branch_hash(hashes)
    return current == root_hash


def build(records: Iterable[tuple[bytes, bytes]]) -> dict[str, bytes]:
    """The branches over all (path, value hash) pairs: what `update` must agree with."""
    branches: dict[str, bytes] = {}
    update(branches, dict(records))
    return branches
