"""A small ledger for tests of transaction kinds: people, asset versions, and txs applied one by one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from idao.crypto import canonical
from idao.errors import Refused
from idao.ledger import accounts, assets, dats, usage
from idao.ledger import idao as idaos
from idao.ledger.assets import Asset, AssetVersion
from idao.ledger.charter import defaults, encode
from idao.ledger.state import DictBase, State
from idao.ledger.tx import Context
from idao.ledger.usage import Claim, Settle

APPLY = {kind.body: kind.apply for family in (accounts, assets, dats, usage) for kind in family.KINDS}
ACTIONS = dict(dats.ACTIONS.values())
QUORUM = hashlib.sha256(b"quorum").digest()


def id_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class World:
    """`do` applies a body as somebody and returns '' or the refusal's code. Blocks are 1,000 ms apart."""

    def __init__(self, *people: str, validators: int = 1) -> None:
        self.state = State(DictBase())
        self.height, self.time_ms, self.count, self.validators = 1, 1_000, 0, validators
        self.tx = b""
        self.reason = ""
        self.governor = id_of(people[0])
        for name in people:
            idao = id_of(name)
            self.state.put(idaos.Identity(idao, bytes(32), 0, bytes(32), bytes(32), bytes(32), 0, 0))
            self.state.put(idaos.Member(idao, idao, "owner", 1, 0))
            self.rule(name)

    def rule(self, name: str, **changed: int | str) -> None:
        """Rules of somebody's charter; `__` stands for a dot and `_` for a dash."""
        rules = defaults() | {k.replace("__", ".").replace("_", "-"): v for k, v in changed.items()}
        raw = encode(rules)
        self.state.put(idaos.Charter(id_of(name), 1, idaos.charter_hash(raw), raw))

    def asset(
        self, owner: str, name: str, *, version: int = 1, verified: bool = True, independent: int = 0
    ) -> bytes:
        asset, root, none = id_of(name), id_of(f"{name} root {version}"), bytes(32)
        self.state.put(Asset(asset, id_of(owner), "dataset", version, QUORUM))
        self.state.put(
            AssetVersion(
                asset, version, id_of(owner), name, "tabular", "MIT", 4096, root, none, none,
                id_of(f"{name} policy"), (), 1, independent, 9_000, verified,
            )
        )  # fmt: skip
        return asset

    def tick(self, ms: int = 1_000) -> None:
        self.height += 1
        self.time_ms += ms

    def context(self, state: State, actor: bytes) -> Context:
        self.tx = id_of(f"tx {self.count}")
        members = tuple(id_of(f"validator {n}") for n in range(self.validators))
        return Context(
            state, QUORUM, self.height, self.time_ms, actor, self.tx, self.validators, members, self.governor
        )

    def do(self, who: str, body: Any) -> str:
        """As a block does it: the body travels as bytes, a refused tx changes nothing."""
        self.count += 1
        child = self.state.child()
        ctx = self.context(child, id_of(who))
        try:
            APPLY[type(body)](ctx, canonical.unpack(type(body), canonical.pack(body)))
        except Refused as e:
            self.reason = e.message
            return e.code
        self._merge(child)
        return ""

    def act(self, idao: str, body: Any) -> str:
        """An action of a passed proposal of `idao`."""
        self.count += 1
        child = self.state.child()
        try:
            ACTIONS[type(body)](self.context(child, bytes(32)), id_of(idao), body)
        except Refused as e:
            return e.code
        self._merge(child)
        return ""

    def _merge(self, child: State) -> None:
        for rows in child.changes.values():
            for rec in rows.values():
                if rec is not None:
                    assert canonical.unpack(type(rec), canonical.pack(rec)) == rec
        self.state.merge(child)

    def copy(self) -> World:
        """The same ledger at the same moment, to try another future."""
        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        other.state = State(DictBase())
        for cls, rows in self.state.changes.items():
            other.state.changes[cls] = dict(rows)
        return other

    # --- short ways to say what tests say often ---

    def issue(self, issuer: str, to: str, amount: int) -> str:
        return self.do(issuer, accounts.Issue(id_of(issuer), id_of(to), amount, ""))

    def mint(self, owner: str, asset: bytes, **terms: Any) -> tuple[str, bytes]:
        """(code, DAT id). Terms not given: to the owner, value 1,000, share 10,000, no end."""
        body = dats.Mint(asset, 1, None, id_of(owner), 1_000, 10_000, 0)
        code = self.do(owner, replace(body, **terms))
        return code, dats.dat_id_of(QUORUM, dats.class_id_of(QUORUM, asset, terms.get("version", 1)), self.tx)

    def held(self, name: str, unit: str) -> int:
        return accounts.balance(self.state, (accounts.IDAO, id_of(name)), id_of(unit))


def revenue_identity(state: State, unit: bytes, class_id: bytes) -> tuple[int, int]:
    """Both sides, times 10^18: what the revenue account holds; what living claims and the remainder need."""
    held = accounts.balance(state, (accounts.REVENUE, class_id), unit) * usage.SCALE
    needed = usage.revenue_of(state, class_id, unit).remainder
    for dat in state.scan(dats.Dat):
        claimed = state.get(usage.Claimed, dat.id, unit) or usage.Claimed(dat.id, unit, 0, False)
        if dat.class_id == class_id and not claimed.closed:
            start, end = usage.life_of(state, dat, unit)
            needed += dat.share_ratio * (end - start) - claimed.paid * usage.SCALE
    return held, needed


PEOPLE = ("ann", "bob", "cyd")


FUNDS = 2**60


def shop(*share: int, expires: tuple[int, ...] = ()) -> tuple[World, bytes, list[bytes]]:
    """Ann's class with one DAT for each share, held in turn by everybody, and cyd with money to pay."""
    world = World(*PEOPLE)
    asset = world.asset("ann", "rides")
    made = []
    for n, s in enumerate(share):
        end = expires[n] if expires else 0
        code, dat = world.mint("ann", asset, to=id_of(PEOPLE[n % 3]), share_ratio=s, expire_at=end, value=100)
        assert code == ""
        made.append(dat)
    world.issue("ann", "cyd", FUNDS)
    return world, dats.class_id_of(QUORUM, asset, 1), made


def settle(world: World, class_id: bytes, amount: int) -> str:
    return world.do("cyd", Settle(class_id, id_of("cyd"), id_of("ann"), amount))


def claim_all(world: World, made: list[bytes], order: list[int]) -> None:
    for n in order:
        owner = PEOPLE[n % 3]
        code = world.do(owner, Claim(made[n], id_of("ann"), id_of(owner)))
        assert code in ("", "nothing-pending")
