"""Every reachable state of one height, n = 4 with one liar (or two), two values, full asynchrony.

The correct validators each have, per view, a slot N (empty, or a value) and a slot T (empty, null, or a
value finalized). Liars sign everything at any time, so 3 − liars correct votes make a certificate. A correct
validator may act on any certificate that exists, or not, at any time: this covers every order of delivery,
every leader and every time-out. What a proposal is justified by is asked of the real `Height.justification`.

A validator is a set of facts, five bits a view: notarized x or y, nullified, finalized x or y.
States are counted up to renaming of the validators and of the two values, which the rules cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from idao.crypto.certificates import make_certificate
from idao.model import NOTARIZE, NULLIFY, SignedVote, Vote
from idao.quorum.height import Height

from .tokens import Keys

NX, NY, NULL, FX, FY = 1, 2, 4, 8, 16
BITS = 5
State = tuple[int, ...]
"""The facts of each correct validator, sorted."""
KEYS = Keys((1, 1, 1, 1), real=False)
DIGEST = {NX: b"x" * 32, NY: b"y" * 32}


class Unsafe(Exception):
    def __init__(self, steps: int, state: State) -> None:
        super().__init__(f"two values are final after {steps} steps: {[bin(n) for n in state]}")
        self.steps = steps


@cache
def swapped(node: int) -> int:
    """The same facts with x and y exchanged."""
    out, view = 0, 0
    while node >> (BITS * view):
        facts = node >> (BITS * view) & 31
        other = facts & NULL
        for a, b in ((NX, NY), (NY, NX), (FX, FY), (FY, FX)):
            other |= b if facts & a else 0
        out |= other << (BITS * view)
        view += 1
    return out


def certified(state: State) -> int:
    """The facts that enough correct validators share for a certificate, liars helping."""
    if len(state) == 2:
        return state[0] | state[1]
    a, b, c = state
    return a & b | a & c | b & c


@cache
def allowed(certificates: int, views: int, broken: str) -> int:
    """The notarize facts that are justified, by the code of the machine."""
    height = Height(1, KEYS.validators, 0)
    for view in range(views):
        facts = certificates >> (BITS * view) & 31
        if broken == "gap" and view < views - 2:
            facts |= NULL
        for fact, kind, digest in (
            (NX, NOTARIZE, DIGEST[NX]),
            (NY, NOTARIZE, DIGEST[NY]),
            (NULL, NULLIFY, b""),
        ):
            if facts & fact:
                vote = Vote(kind, bytes(32), 1, view, digest)
                votes = [SignedVote(vote, i, bytes(64)) for i in range(3)]
                made = make_certificate(vote, votes, KEYS.validators)
                height.certificates.setdefault((kind, view), {})[digest] = made
    found = 0
    for view in range(views):
        for fact, digest in DIGEST.items():
            if broken == "justification" or height.justification(view, digest) is not None:
                found |= fact << (BITS * view)
    return found


@cache
def votes(node: int, certificates: int, views: int, broken: str) -> tuple[int, ...]:
    """What a validator of these facts may sign next, one fact each."""
    may = 0
    justified = allowed(certificates, views, broken)
    for view in range(views):
        shift = BITS * view
        facts = node >> shift & 31
        if not facts & (NX | NY):
            may |= justified & (NX | NY) << shift
        if not facts & (NULL | FX | FY):
            may |= NULL << shift
        if not facts & (NULL | FX | FY) or (broken == "slot" and not facts & (FX | FY)):
            may |= (certificates >> shift & (NX | NY)) << 3 + shift
    return tuple(1 << i for i in range(BITS * views) if may >> i & 1)


@cache
def forked(certificates: int) -> bool:
    finalized = 0
    while certificates:
        finalized |= certificates & (FX | FY)
        certificates >>= BITS
    return finalized == FX | FY


@cache
def convicting(certificates: int) -> bool:
    """Whether two certificates of one slot of one view conflict: those who signed both are guilty."""
    while certificates:
        n, t = certificates & (NX | NY), certificates & (NULL | FX | FY)
        if n.bit_count() > 1 or t.bit_count() > 1:
            return True
        certificates >>= BITS
    return False


def following(state: State, views: int, broken: str) -> Iterator[State]:
    certificates = certified(state)
    for i, node in enumerate(state):
        rest = (*state[:i], *state[i + 1 :])
        for fact in votes(node, certificates, views, broken):
            after = tuple(sorted((*rest, node | fact)))
            yield min(after, tuple(sorted(map(swapped, after))))


def explore(views: int = 2, broken: str = "", liars: int = 1) -> int:
    """How many states there are; raises `Unsafe` with the shortest way to two final values.

    Two liars may fork; then it raises if a fork does not convict.
    """
    first: State = (0,) * (4 - liars)
    seen, layer, depth = {first}, {first}, 0
    while layer:
        depth += 1
        fresh = {after for state in layer for after in following(state, views, broken)} - seen
        for state in fresh:
            certificates = certified(state)
            if forked(certificates) and not (liars > 1 and convicting(certificates)):
                raise Unsafe(depth, state)
        seen |= fresh
        layer = fresh
    return len(seen)
