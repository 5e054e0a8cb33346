"""One iDAO on a ledger of its own, for tests of governance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from idao.crypto import canonical
from idao.errors import Refused
from idao.ledger import charter, governance
from idao.ledger.governance import OPEN, PASSED, CastBallot, Due, OpenVote, Proposal, Propose
from idao.ledger.idao import Charter, Identity, Member, SetRule, charter_hash
from idao.ledger.state import DictBase, State
from idao.ledger.tx import Context

SECOND = 1000
PERIOD = 100 * SECOND


def who(n: int) -> bytes:
    return bytes([n]) * 32


IDAO = who(1)
OTHER = who(200)


class World:
    """One iDAO on a ledger of its own: blocks a second apart, a transaction or a due step at a time."""

    def __init__(self, members: Iterable[tuple[int, str, int]] = ((1, "owner", 1),), **rules: Any) -> None:
        self.base = DictBase()
        self.state = State(self.base)
        self.height, self.time_ms, self.txs = 10, 1_000_000, 0
        self.charter = {**charter.defaults(), "vote.period": PERIOD // SECOND}
        self.charter.update({key.replace("_", ".", 1).replace("_", "-"): v for key, v in rules.items()})
        data = charter.encode(self.charter)
        self.state.put(Charter(IDAO, 1, charter_hash(data), data))
        for n, role, weight in members:
            self.join(n, role, weight, since=0)

    def join(self, n: int, role: str = "member", weight: int = 1, since: int | None = None) -> None:
        self.identify(n)
        self.state.put(Member(IDAO, who(n), role, weight, self.height if since is None else since))

    def identify(self, n: int) -> None:
        self.state.put(Identity(who(n), who(n), 0, who(n), who(n), who(n), 0, 0))

    def context(self, actor: bytes, tx: bytes) -> Context:
        return Context(self.state, who(99), self.height, self.time_ms, actor, tx, 1, (IDAO,), IDAO)

    def next_block(self, wait_ms: int = SECOND) -> list[tuple[bytes, str]]:
        """Begins a block and takes its due steps: (proposal, code) each."""
        self.height += 1
        self.time_ms += wait_ms
        ran = []
        for proposal in governance.due(self.state, self.time_ms):
            child = self.state.child()
            ctx = replace(self.context(governance.NO_ACTOR, proposal), state=child)
            idao, code, _ = governance.run_due(ctx, proposal)
            assert idao == IDAO
            self.state.merge(child)
            ran.append((proposal, code))
        return ran

    def _apply(self, apply: Callable[[Context, Any], None], actor: bytes, body: Any) -> bytes:
        self.txs += 1
        tx = self.txs.to_bytes(32, "big")
        child = self.state.child()
        apply(replace(self.context(actor, tx), state=child), body)
        self.state.merge(child)
        return tx

    def propose_body(self, body: Propose, by: int = 1) -> bytes:
        tx = self._apply(governance.KINDS[0].apply, who(by), body)
        return governance.proposal_id(tx, governance.content_hash(body))

    def propose(self, *actions: tuple[str, Any], by: int = 1, title: str = "a title") -> bytes:
        return self.propose_body(governance.draft(self.state, IDAO, title, actions), by)

    def vote(self, proposal: bytes, n: int, choice: str, content: bytes | None = None) -> None:
        body = CastBallot(proposal, content or self.get(proposal).content, choice)
        self._apply(governance.KINDS[1].apply, who(n), body)

    def get(self, proposal: bytes) -> Proposal:
        return self.state.need(Proposal, proposal)

    def is_tidy(self) -> bool:
        """Due and open records stand for exactly the proposals that wait and that are open."""
        all_of = list(self.state.scan(Proposal))
        waiting = sorted((p.due_ms, p.proposal) for p in all_of if p.state in (OPEN, PASSED))
        opened = sorted(p.proposal for p in all_of if p.state == OPEN)
        return (
            waiting == [(d.at_ms, d.proposal) for d in self.state.scan(Due)]
            and opened == [o.proposal for o in self.state.scan(OpenVote)]
            and all(p.due_ms == 0 for p in all_of if p.state not in (OPEN, PASSED))
        )


def set_rule(key: str, value: int | str) -> tuple[str, SetRule]:
    return "charter.set", SetRule(key, canonical.encode(value))


def refused(code: str, act: Callable[[], object]) -> None:
    with pytest.raises(Refused) as e:
        act()
    assert e.value.code == code


THREE = ((1, "owner", 1), (2, "member", 1), (3, "member", 1))
FOUR = (*THREE, (4, "member", 1))
