"""Merkle trees of the RFC 6962 shape: roots, inclusion and consistency proofs.

Two users: the log (SHA-256, RFC 6962 §2.1, read by any C2SP tool) and salted commitments (BLAKE3 under
contexts). Both split at the largest power of two below n, so one set of functions serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from idao.crypto import hashing
from idao.crypto.hashing import Kind, digest, hasher
from idao.frozen import frozen

_SUBTREE = 1024
"""Leaves hashed at once into a subtree; a power of two, so the tree keeps its shape."""

HashLeaf = Callable[[bytes], bytes]
HashBranch = Callable[[bytes, bytes], bytes]


@frozen
class Tree:
    """Which hashes a tree uses. `empty` is the root of no leaves."""

    leaf: HashLeaf
    branch: HashBranch
    empty: bytes


LOG = Tree(
    lambda d: hashing.sha256(b"\0" + d).digest(),
    lambda a, b: hashing.sha256(b"\1" + a + b).digest(),
    hashing.sha256(b"").digest(),
)
"""RFC 6962 §2.1: MTH of nothing is SHA-256 of nothing; leaves and branches carry a prefix byte."""


def log_leaves(leaves: Iterable[bytes]) -> list[bytes]:
    """`LOG.leaf` of many."""
    sha256 = hashing.sha256
    return [sha256(b"\0" + leaf).digest() for leaf in leaves]


def tree(leaf: Kind, branch: Kind) -> Tree:
    """A BLAKE3 tree whose leaves and branches are separated by context."""
    branched = hasher(branch)
    return Tree(hasher(leaf), lambda a, b: branched(a + b), digest(branch, b""))


def root(t: Tree, leaf_hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes (not leaf data)."""
    if not leaf_hashes:
        return t.empty
    branch, level = t.branch, list(leaf_hashes)
    while len(level) > 1:
        nxt = list(map(branch, level[::2], level[1::2]))
        if len(level) % 2:
            nxt.append(level[-1])
        level = nxt
    return level[0]


def path(t: Tree, leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, leaves), RFC 6962 §2.1.1: from the leaf's sibling up to the root's child."""
    if not 0 <= index < len(leaf_hashes):
        raise IndexError(index)
    out = []
    level = list(leaf_hashes)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            out.append(level[sibling])
        nxt = [t.branch(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            nxt.append(level[-1])
        level, index = nxt, index // 2
    return out


def root_from_path(t: Tree, leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to (RFC 9162 §2.1.3.2), or None when it has the wrong length."""
    if not 0 <= index < size:
        return None
    fn, sn, r = index, size - 1, leaf_hash
    for p in proof:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            r = t.branch(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = t.branch(r, p)
        fn, sn = fn >> 1, sn >> 1
    return r if sn == 0 else None


class Frontier:
    """The right edge of a growing tree: enough to append and to know the root.

    `stack` holds (height, hash) of the perfect subtrees from left to right; log2(n) of them.
    """

    __slots__ = ("size", "stack", "tree")

    def __init__(self, t: Tree, size: int = 0, stack: Sequence[tuple[int, bytes]] = ()) -> None:
        self.tree, self.size, self.stack = t, size, list(stack)

    def append(self, leaf_hash: bytes) -> list[tuple[int, int, bytes]]:
        """Adds a leaf. Returns the perfect subtrees it completes as (height, index at that height, hash)."""
        height, h = 0, leaf_hash
        done = [(0, self.size, h)]
        while self.stack and self.stack[-1][0] == height:
            h = self.tree.branch(self.stack.pop()[1], h)
            height += 1
            done.append((height, self.size >> height, h))
        self.stack.append((height, h))
        self.size += 1
        return done

    def extend(self, leaf_hashes: Sequence[bytes], least: int = 0) -> list[tuple[int, int, bytes]]:
        """Adds many leaves, level by level, in half the time. Returns the same, from height `least` up."""
        branch, edge, right = self.tree.branch, dict(self.stack), []
        done: list[tuple[int, int, bytes]] = []
        height, first, level = 0, self.size, list(leaf_hashes)
        self.size += len(level)
        while level:
            if height >= least:
                done += [(height, first + i, h) for i, h in enumerate(level)]
            if first & 1:  # its left sibling stands at the edge
                level.insert(0, edge.pop(height))
            if len(level) & 1:
                right.append((height, level.pop()))
            level = list(map(branch, level[::2], level[1::2]))
            height, first = height + 1, first >> 1
        self.stack = [*edge.items(), *reversed(right)]
        return done

    def root(self) -> bytes:
        if not self.stack:
            return self.tree.empty
        r = self.stack[-1][1]
        for _, left in reversed(self.stack[:-1]):
            r = self.tree.branch(left, r)
        return r

    def copy(self) -> Frontier:
        return Frontier(self.tree, self.size, self.stack)


class Leaves:
    """The root of a growing tree in little memory: whole subtrees at once instead of leaf by leaf."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._leaves: list[bytes] = []
        self._stack: list[tuple[int, bytes]] = []
        self.count = 0

    def extend(self, leaves: Sequence[bytes]) -> None:
        self._leaves += leaves
        self.count += len(leaves)
        while len(self._leaves) >= _SUBTREE:
            height, h = 0, root(self._tree, self._leaves[:_SUBTREE])
            while self._stack and self._stack[-1][0] == height:
                h, height = self._tree.branch(self._stack.pop()[1], h), height + 1
            self._stack.append((height, h))
            del self._leaves[:_SUBTREE]

    def root(self) -> bytes:
        parts = [h for _, h in self._stack]
        if self._leaves or not parts:
            parts.append(root(self._tree, self._leaves))
        r = parts[-1]
        for left in reversed(parts[:-1]):
            r = self._tree.branch(left, r)
        return r


Subtree = Callable[[int, int], bytes]
"""(height, index) -> hash of that perfect subtree: how a stored tree is read."""


def perfect_subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """The maximal perfect subtrees (height, index) that tile leaves [start, end), left to right."""
    out = []
    while start < end:
        height = (start & -start).bit_length() - 1 if start else (end - start).bit_length() - 1
        while start + (1 << height) > end:
            height -= 1
        out.append((height, start >> height))
        start += 1 << height
    return out


def _fold(t: Tree, get: Subtree, start: int, end: int) -> bytes:
    hashes = [get(h, i) for h, i in perfect_subtrees(start, end)]
    r = hashes[-1]
    for left in reversed(hashes[:-1]):
        r = t.branch(left, r)
    return r


def stored_root(t: Tree, get: Subtree, size: int) -> bytes:
    """The root at `size` of a tree whose perfect subtrees are stored."""
    return _fold(t, get, 0, size) if size else t.empty


def stored_path(t: Tree, get: Subtree, index: int, size: int) -> list[bytes]:
    """RFC 6962 §2.1.1 inclusion proof at `size`, in log n reads."""
    out: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < split:
            out.append(_fold(t, get, split, end))
            end = split
        else:
            out.append(_fold(t, get, start, split))
            start = split
    return out[::-1]


def paths(t: Tree, size: int, indexes: Iterable[int], leaf_hashes: Iterable[bytes]) -> dict[int, list[bytes]]:
    """`path` of some of `size` leaves, which come one after the other; holds no more than what they need."""
    indexes, needed = list(indexes), set()

    def note(height: int, index: int) -> bytes:
        needed.add((height, index))
        return b""

    for index in indexes:
        stored_path(t, note, index, size)
    kept, growing, rest = {}, Frontier(t), iter(leaf_hashes)
    while some := list(islice(rest, _SUBTREE)):
        kept.update({(h, i): found for h, i, found in growing.extend(some) if (h, i) in needed})
    return {i: stored_path(t, lambda h, n: kept[h, n], i, size) for i in indexes}


def stored_consistency(t: Tree, get: Subtree, old: int, new: int) -> list[bytes]:
    """RFC 6962 §2.1.2 PROOF(old, D[new])."""
    out: list[bytes] = []
    start, end, whole = 0, new, True
    while old - start != end - start:
        split = start + (1 << ((end - start - 1).bit_length() - 1))
        if old <= split:
            out.append(_fold(t, get, split, end))
            end = split
        else:
            out.append(_fold(t, get, start, split))
            start, whole = split, False
    if not whole:
        out.append(_fold(t, get, start, end))
    return out[::-1]


def consistent(t: Tree, old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162 §2.1.4.2: does `proof` show that the tree of `old` leaves is a prefix of the one of `new`?"""
    if old > new:
        return False
    if old == 0:
        return not proof and old_root == t.empty
    if old == new:
        return not proof and old_root == new_root
    nodes = list(proof)
    if old & (old - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes:
        return False
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = nodes[0]
    for c in nodes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = t.branch(c, fr), t.branch(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = t.branch(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == old_root and sr == new_root and sn == 0
