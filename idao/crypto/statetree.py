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
from idao.crypto.hashing import Kind, digest
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import Hash, Range, Size

EMPTY = bytes(32)
DEPTH_MAX = 64

Child = tuple[bytes, bytes, bytes]
"""(hash, path, value hash); a branch child has empty path and value hash."""
_NONE: Child = (b"", b"", b"")
Branches = MutableMapping[str, list[Child]]
"""Prefix in hex digits -> its 16 children, for every branch of the tree."""


def record_path(table: str, key: bytes) -> bytes:
    """Where a record stands; `key` is the canonical array of its key columns."""
    return digest(Kind.STATE_PATH, _name(table) + key)


@lru_cache(256)
def _name(table: str) -> bytes:
    return canonical.encode(table)  # there are some thirty tables


def value_hash(record: bytes) -> bytes:
    """Hash of a record's canonical bytes."""
    return digest(Kind.STATE_VALUE, record)


def _leaf(path: bytes, value: bytes) -> bytes:
    return digest(Kind.STATE_LEAF, path + value)


_BITS = tuple(1 << i for i in range(16))


def branch_hash(hashes: Sequence[bytes]) -> bytes:
    """`hashes` has 16 entries, empty bytes where there is no child."""
    bitmap = 0
    for bit, h in zip(_BITS, hashes, strict=True):
        if h:
            bitmap |= bit
    return digest(Kind.STATE_BRANCH, bitmap.to_bytes(2, "big") + b"".join(hashes))


def _hash(children: Sequence[Child]) -> bytes:
    return branch_hash([c[0] for c in children])


def root(branches: Mapping[str, list[Child]]) -> bytes:
    """The root. The tree of one record has a root branch with one leaf; of none, no branch at all."""
    top = branches.get("")
    return _hash(top) if top else EMPTY


def update(branches: Branches, changes: Mapping[bytes, bytes | None]) -> bytes:
    """Puts (path -> value hash) or removes (None) all `changes`; returns the new root."""
    if not changes:
        return root(branches)
    items = sorted([(path.hex(), path, value) for path, value in changes.items()])
    child = _update(branches, "", _NONE if "" not in branches else (b"?", b"", b""), items)
    if child[1]:
        branches[""] = [child if i == int(child[1].hex()[0], 16) else _NONE for i in range(16)]
    elif not child[0]:
        branches.pop("", None)
    return root(branches)


_Items = Sequence[tuple[str, bytes, bytes | None]]


def _update(branches: Branches, prefix: str, old: Child, items: _Items) -> Child:
    """The child at `prefix` after `items`, all of which lie below it."""
    depth = len(prefix)
    if old[0] and not old[1]:
        children = list(branches[prefix])
    else:
        if old[1]:  # A leaf stands here: it goes down with the others unless it is replaced.
            if len(items) == 1 and items[0][1] == old[1]:
                return _as_leaf(items[0])
            if all(path != old[1] for _, path, _ in items):
                items = sorted([*items, (old[1].hex(), old[1], old[2])])
        if len(items) == 1 and depth:
            return _as_leaf(items[0])
        children = [_NONE] * 16
    start, count = 0, len(items)
    while start < count:
        item = items[start]
        nibble = item[0][depth]
        end = start + 1
        while end < count and items[end][0][depth] == nibble:
            end += 1
        i = int(nibble, 16)
        below = children[i]
        if end == start + 1 and below[1] in (b"", item[1]) and (below[1] or not below[0]):
            children[i] = _as_leaf(item)  # alone in its place
        else:
            children[i] = _update(branches, prefix + nibble, below, items[start:end])
        start = end
    alive = [c for c in children if c[0]]
    if not alive or (len(alive) == 1 and alive[0][1] and depth):
        branches.pop(prefix, None)
        return alive[0] if alive else _NONE
    if len(alive) == 1 and alive[0][1]:
        branches.pop(prefix, None)
        return alive[0]
    branches[prefix] = children
    return _hash(children), b"", b""


def _as_leaf(item: tuple[str, bytes, bytes | None]) -> Child:
    _, path, value = item
    return _NONE if value is None else (_leaf(path, value), path, value)


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


def prove(branches: Mapping[str, list[Child]], path: bytes) -> StateProof:
    """The proof of membership or absence of `path`."""
    steps: list[Step] = []
    prefix, digits = "", path.hex()
    while children := branches.get(prefix):
        i = int(digits[len(prefix)], 16)
        bitmap = sum(1 << n for n, c in enumerate(children) if c[0])
        steps.append(Step(bitmap, tuple(c[0] for n, c in enumerate(children) if c[0] and n != i)))
        child = children[i]
        if child[1] and child[1] != path:
            return StateProof(tuple(steps), (child[1], child[2]))
        if child[1] or not child[0]:
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


# --- rows -----------------------------------------------------------------------------------------


def branch_to_bytes(children: Sequence[Child]) -> bytes:
    """One stored row: the canonical list of [index, hash, path, value hash] of each child that exists."""
    parts = []
    for i, (h, p, v) in enumerate(children):
        if p:
            parts.append(b"\x84%c\x58\x20%b\x58\x20%b\x58\x20%b" % (i, h, p, v))
        elif h:
            parts.append(b"\x84%c\x58\x20%b\x40\x40" % (i, h))
    return b"%c%b" % (0x80 + len(parts), b"".join(parts))


def branch_from_bytes(data: bytes) -> list[Child]:
    """The children of a stored row. `Malformed` for any other bytes than `branch_to_bytes` writes."""
    children = [_NONE] * 16
    at, end = 1, len(data)
    while at + 38 <= end:
        h = data[at + 4 : at + 36]
        if data[at + 36 : at + 38] == b"\x40\x40":
            children[data[at + 1] & 15] = (h, b"", b"")
            at += 38
        else:
            children[data[at + 1] & 15] = (h, data[at + 38 : at + 70], data[at + 72 : at + 104])
            at += 104
    if branch_to_bytes(children) != data:  # whatever else these bytes are, they are not its writing
        raise Malformed("not a branch row")
    return children


def build(records: Iterable[tuple[bytes, bytes]]) -> dict[str, list[Child]]:
    """The branches over all (path, value hash) pairs: what `update` must agree with."""
    branches: dict[str, list[Child]] = {}
    update(branches, dict(records))
    return branches
