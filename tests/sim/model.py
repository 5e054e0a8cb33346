"""Every reachable state of one height, n = 4 with one liar (or two), two values, full asynchrony.

The correct validators each have, per view, a slot N (empty, or a value) and a slot T (empty, null, or a
value finalized). Liars sign everything at any time, so 3 − liars correct votes make a certificate. A correct
validator may act on any certificate that exists, or not, at any time: this covers every order of delivery,
every leader and every time-out. What a proposal is justified by is asked of the real `Height.justification`.

States are counted up to renaming of the validators and of the two values, which the rules cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from idao.crypto.certificates import make_certificate
from idao.model import FINALIZE, NOTARIZE, NULLIFY, SLOT_OF, SignedVote, Vote
from idao.quorum.height import Height

from .tokens import Keys

NULL = 3
"""In slot T; 1 and 2 are the values, 0 is empty."""
SWAP = (0, 2, 1, 3)
Node = tuple[int, ...]
"""N and T of view 0, N and T of view 1, ..."""
State = tuple[Node, ...]
KEYS = Keys((1, 1, 1, 1), real=False)
DIGEST = {1: b"x" * 32, 2: b"y" * 32}


class Unsafe(Exception):
    def __init__(self, steps: int, state: State) -> None:
        super().__init__(f"two values are final after {steps} steps: {state}")
        self.steps = steps


@cache
def justified(certificates: frozenset[tuple[int, int, int]], view: int, value: int) -> bool:
    """By the code of the machine, on the certificates (kind, view, value) that exist."""
    height = Height(1, KEYS.validators, 0)
    for kind, at, of in certificates:
        digest = b"" if kind == NULLIFY else DIGEST[of]
        vote = Vote(kind, bytes(32), 1, at, digest)
        votes = [SignedVote(vote, i, bytes(64)) for i in range(3)]
        height.certificates.setdefault((kind, at), {})[digest] = make_certificate(
            vote, votes, KEYS.validators
        )
    return height.justification(view, DIGEST[value]) is not None


def certificates(state: State, views: int) -> frozenset[tuple[int, int, int]]:
    found, enough = [], len(state) - 1
    for v in range(views):
        ns, ts = [n[2 * v] for n in state], [n[2 * v + 1] for n in state]
        found += [(NOTARIZE, v, x) for x in (1, 2) if ns.count(x) >= enough]
        found += [(FINALIZE, v, x) for x in (1, 2) if ts.count(x) >= enough]
        if ts.count(NULL) >= enough:
            found.append((NULLIFY, v, 0))
    return frozenset(found)


def forked(certs: frozenset[tuple[int, int, int]]) -> bool:
    return len({x for kind, _, x in certs if kind == FINALIZE}) > 1


def convicting(certs: frozenset[tuple[int, int, int]]) -> bool:
    """Whether two certificates of one view conflict: those who signed both are guilty."""
    return any(
        a != b and v == w and SLOT_OF[a] == SLOT_OF[b] for a, v, _ in certs for b, w, _ in certs
    ) or any(a == b and v == w and x != y for a, v, x in certs for b, w, y in certs)


def steps(state: State, views: int, broken: str) -> Iterator[State]:
    """Each vote that some correct validator may sign next."""
    certs = certificates(state, views)
    for i, node in enumerate(state):
        if i and node == state[i - 1]:
            continue  # The same by symmetry.
        for v in range(views):
            options = []
            if not node[2 * v]:
                options += [
                    (2 * v, x) for x in (1, 2) if broken == "justification" or _allowed(certs, v, x, broken)
                ]
            if not node[2 * v + 1]:
                options.append((2 * v + 1, NULL))
            if not node[2 * v + 1] or (broken == "slot" and node[2 * v + 1] == NULL):
                options += [(2 * v + 1, x) for x in (1, 2) if (NOTARIZE, v, x) in certs]
            for slot, value in options:
                changed = (*node[:slot], value, *node[slot + 1 :])
                yield canonical((*state[:i], changed, *state[i + 1 :]))


def _allowed(certs: frozenset[tuple[int, int, int]], view: int, value: int, broken: str) -> bool:
    if broken == "gap":
        certs = certs | {(NULLIFY, v, 0) for v in range(view - 1)}
    return justified(certs, view, value)


def canonical(state: State) -> State:
    swapped = tuple(sorted(tuple(SWAP[x] for x in node) for node in state))
    return min(tuple(sorted(state)), swapped)


def explore(views: int = 2, broken: str = "", liars: int = 1) -> int:
    """How many states there are; raises `Unsafe` with the shortest way to two final values.

    Two liars may fork; then it raises if a fork does not convict.
    """
    first: State = ((0,) * (2 * views),) * (4 - liars)
    seen, layer, depth = {first}, [first], 0
    while layer:
        depth += 1
        following = []
        for state in layer:
            for after in steps(state, views, broken):
                if after not in seen:
                    certs = certificates(after, views)
                    if forked(certs) and not (liars > 1 and convicting(certs)):
                        raise Unsafe(depth, after)
                    seen.add(after)
                    following.append(after)
        layer = following
    return len(seen)
