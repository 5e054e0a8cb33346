"""A naive model of ERC-8028's `IDATCore`, written from the draft's text alone and sharing no code.

It walks over every token and every asset at each step, as a contract never could, and keeps beside the
index arithmetic an exact account in fractions. Where the draft is silent it does what the names promise:
a token minted late starts with its `rewardDebt`, and revenue pending at expiry stays pending. The debt is
held scaled by 1e18, as §3 says: subtracting a debt already rounded down can pay out more than came in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

SCALE = 10**18
UINT32_MAX = 2**32 - 1


class Reverted(Exception):
    """What the draft says MUST revert; the argument is one word for why."""


@dataclass
class ModelClass:
    acc_revenue_per_share: dict[str, int] = field(default_factory=dict)
    total_share: int = 0


@dataclass
class ModelToken:
    class_id: str
    owner: str
    value: int
    share_ratio: int
    expire_at: int
    counted_in_share: bool
    reward_debt: dict[str, int] = field(default_factory=dict)
    last_index: dict[str, int] = field(default_factory=dict)
    exact: dict[str, Fraction] = field(default_factory=dict)
    claimed: dict[str, int] = field(default_factory=dict)


class DatModel:
    def __init__(self) -> None:
        self.now = 0
        self.classes: dict[str, ModelClass] = {}
        self.tokens: dict[object, ModelToken] = {}
        self.approved: set[tuple[str, str, str]] = set()

    def create_class(self, class_id: str) -> None:
        self.classes[class_id] = ModelClass()

    def warp(self, now: int) -> None:
        """Time passes, and every expiry is observed the moment it happens (§6.6)."""
        self.now = now
        for token in self.tokens.values():
            if token.counted_in_share and self._expired(token):
                of = self.classes[token.class_id]
                token.counted_in_share = False
                of.total_share -= token.share_ratio
                token.last_index = dict(of.acc_revenue_per_share)

    def _expired(self, token: ModelToken) -> bool:
        return token.expire_at != 0 and self.now > token.expire_at

    def mint(
        self, token_id: object, class_id: str, to: str, value: int, share_ratio: int, expire_at: int
    ) -> None:
        if expire_at and self.now > expire_at:
            raise Reverted("expired")
        of = self.classes[class_id]
        share = min(share_ratio, UINT32_MAX)
        token = ModelToken(class_id, to, value, share, expire_at, share > 0)
        token.reward_debt = {asset: share * acc for asset, acc in of.acc_revenue_per_share.items()}
        of.total_share += share
        self.tokens[token_id] = token

    def transfer_token(self, caller: str, token_id: object, to: str) -> None:
        token = self.tokens[token_id]
        if caller != token.owner:
            raise Reverted("unauthorised")
        token.owner = to

    def approve_for_class(self, caller: str, class_id: str, operator: str, approved: bool) -> None:
        key = (caller, class_id, operator)
        if approved:
            self.approved.add(key)
        else:
            self.approved.discard(key)

    def _check_operator(self, caller: str, token: ModelToken) -> None:
        if caller != token.owner and (token.owner, token.class_id, caller) not in self.approved:
            raise Reverted("unauthorised")

    def transfer_value(self, caller: str, source_id: object, target_id: object, value: int) -> None:
        source, target = self.tokens[source_id], self.tokens[target_id]
        self._check_operator(caller, source)
        if source.class_id != target.class_id:
            raise Reverted("class")
        if self._expired(source) or self._expired(target):
            raise Reverted("expired")
        if source.value < value:
            raise Reverted("underflow")
        source.value -= value
        target.value += value

    def record_usage(self, caller: str, token_id: object, amount: int) -> None:
        token = self.tokens[token_id]
        self._check_operator(caller, token)
        if self._expired(token):
            raise Reverted("expired")
        if token.value < amount:
            raise Reverted("underflow")
        token.value -= amount

    def settle_revenue(self, class_id: str, asset: str, amount: int) -> None:
        of = self.classes[class_id]
        if of.total_share == 0:
            raise Reverted("no shares")
        of.acc_revenue_per_share[asset] = (
            of.acc_revenue_per_share.get(asset, 0) + amount * SCALE // of.total_share
        )
        for token in self.tokens.values():
            if token.class_id == class_id and token.counted_in_share:
                part = Fraction(amount * token.share_ratio, of.total_share)
                token.exact[asset] = token.exact.get(asset, Fraction(0)) + part

    def pending_revenue(self, token_id: object, asset: str) -> int:
        token = self.tokens[token_id]
        if token.share_ratio == 0:
            return 0
        indexes = (
            self.classes[token.class_id].acc_revenue_per_share if token.counted_in_share else token.last_index
        )
        gross = token.share_ratio * indexes.get(asset, 0) - token.reward_debt.get(asset, 0)
        return gross // SCALE

    def claim(self, caller: str, token_id: object, asset: str) -> int:
        token = self.tokens[token_id]
        if caller != token.owner:
            raise Reverted("unauthorised")
        amount = self.pending_revenue(token_id, asset)
        token.reward_debt[asset] = token.reward_debt.get(asset, 0) + amount * SCALE
        token.claimed[asset] = token.claimed.get(asset, 0) + amount
        return amount
