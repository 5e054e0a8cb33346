"""Use of DATs against their quota, and the revenue of a class divided among them to the last unit.

The arithmetic is ERC-8028's: a payment raises the class's index (revenue per share, scaled by 10^18,
rounded down), and a DAT may claim its shares times the growth of the index over its life. The draft's
gaps are closed by looking the index up where a DAT's life begins and ends, so a late DAT shares in
later payments only, and an ended one keeps what it earned. `docs/adr/0015-dats-and-accounts.md` proves
that no fraction is promised twice and that every unit is either claimable or in the dust account.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Any

from idao.frozen import frozen, replace
from idao.ledger.accounts import DUST, IDAO, REVENUE, Positive, post, require_known
from idao.ledger.dats import (
    Dat,
    active_share,
    need_class,
    need_dat,
    require_operator,
    require_valid,
    sweep,
)
from idao.ledger.idao import require, rules_of
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import INT_MAX, Amount, Hash, Id, Range, Size, Word, show_id

SCALE = 10**18
"""ERC-8028 §3: accRevenuePerShare is scaled by 1e18."""
INDEX_BYTES = 16
"""An index fits: payments in one unit sum to less than 2^63, and 2^63 · 10^18 < 2^123."""
Index = Annotated[bytes, Size(INDEX_BYTES)]


@record("usage", key=("dat", "n"))
@frozen
class Usage:
    """One recorded use of a DAT.

    dat: the DAT
    n: counts its uses, from 1
    metric: what was counted, e.g. inference_calls
    amount: quota used, in units of the class
    actor: the iDAO that recorded it, the owner or an operator
    usage: hash of the usage receipt
    height: when it was recorded
    """

    dat: Id
    n: int
    metric: Word
    amount: Amount
    actor: Id
    usage: Hash
    height: int


@record("class_revenue", key=("class_id", "unit"))
@frozen
class Revenue:
    """What a class has earned in one unit.

    class_id: the class
    unit: the unit it was paid in
    count: number of payments in this unit
    index: revenue per share since the beginning, times 10^18; big-endian
    remainder: what shares did not divide and is less than one unit, times 10^18
    """

    class_id: Id
    unit: Id
    count: int
    index: Index
    remainder: Annotated[int, Range(0, SCALE - 1)]


@record("settlement", key=("class_id", "unit", "n"))
@frozen
class Settlement:
    """One payment divided among the DATs of a class.

    class_id: the class
    unit: the unit it was paid in
    n: counts the payments to the class in this unit, from 1
    seq: counts the payments to the class in all units, from 1
    time_ms: block time
    height: block
    tx: the transaction
    payer: the iDAO that paid
    amount: units divided among the shares
    fee: units beside those that stayed with the iDAO of the class
    shares: sum of the share ratios it was divided among
    index: revenue per share after it, times 10^18; big-endian
    """

    class_id: Id
    unit: Id
    n: int
    seq: int
    time_ms: int
    height: int
    tx: Id
    payer: Id
    amount: Amount
    fee: Amount
    shares: int
    index: Index


@record("dat_claim", key=("dat", "unit"))
@frozen
class Claimed:
    """What a DAT has been paid in one unit.

    dat: the DAT
    unit: the unit
    paid: units paid so far
    closed: whether it has ended and was paid for the last time
    """

    dat: Id
    unit: Id
    paid: Amount
    closed: bool


# --- dat.transfer-value, dat.use ------------------------------------------------------------------


@frozen
class TransferValue:
    """ERC-8028 `transferValue`: quota from one DAT to another of the same class."""

    source: Id
    target: Id
    value: Positive


def _apply_transfer_value(ctx: Context, body: TransferValue) -> None:
    source, target = need_dat(ctx.state, body.source), need_dat(ctx.state, body.target)
    require_operator(ctx, source)
    if source.class_id != target.class_id:
        refuse("class-mismatch", "the DATs are of different classes")
    require_valid(ctx, source)
    require_valid(ctx, target)
    _spend(ctx, source, body.value)
    # Read again: source and target may be one.
    target = need_dat(ctx.state, body.target)
    if target.value + body.value > INT_MAX:
        refuse("overflow", "the quota cannot be counted that far")
    ctx.state.put(replace(target, value=target.value + body.value))


def _spend(ctx: Context, dat: Dat, value: int, uses: int = 0) -> None:
    """Takes `value` off the quota, which never goes below zero."""
    if dat.value < value:
        refuse("quota", f"{value} are needed where {dat.value} are left")
    ctx.state.put(replace(dat, value=dat.value - value, uses=dat.uses + uses))


@frozen
class Use:
    """ERC-8028 `recordUsage` with a hard quota: what is used is taken off `value`."""

    dat: Id
    metric: Word
    amount: Amount
    usage: Hash


def _apply_use(ctx: Context, body: Use) -> None:
    dat = need_dat(ctx.state, body.dat)
    require_operator(ctx, dat)
    require_valid(ctx, dat)
    _spend(ctx, dat, body.amount, uses=1)
    ctx.state.put(Usage(dat.id, dat.uses + 1, body.metric, body.amount, ctx.actor, body.usage, ctx.height))


# --- class.settle ---------------------------------------------------------------------------------


@frozen
class Settle:
    """ERC-8028 `settleRevenue`: `payer` pays the class, for whoever holds its shares now.

    The charter of the class's iDAO may keep a fee (`economy.fee`, rounded down); the rest is divided.
    """

    class_id: Id
    payer: Id
    unit: Id
    amount: Positive


def _apply_settle(ctx: Context, body: Settle) -> None:
    require(ctx, body.payer, "spend")
    paid, more = sweep(ctx, need_class(ctx.state, body.class_id))
    if more:
        refuse("expiry-backlog", "too many shares have ended at once: send class.expire first")
    if paid.total_share == 0:
        refuse("no-shares", "no DAT of this class shares in its revenue")
    fee = body.amount * rules_of(ctx.state, paid.owner)["economy.fee"] // 10_000
    amount = body.amount - fee
    post(ctx, (IDAO, body.payer), (REVENUE, paid.id), body.unit, body.amount, "settle")
    if fee:
        post(ctx, (REVENUE, paid.id), (IDAO, paid.owner), body.unit, fee, "fee")
    before = revenue_of(ctx.state, paid.id, body.unit)
    growth, rest = divmod(amount * SCALE, paid.total_share)
    index = _to_index(int.from_bytes(before.index) + growth)
    paid = replace(paid, settlements=paid.settlements + 1)
    ctx.state.put(paid)
    ctx.state.put(
        Settlement(
            paid.id, body.unit, before.count + 1, paid.settlements, ctx.time_ms, ctx.height, ctx.tx,
            body.payer, amount, fee, paid.total_share, index,
        )
    )  # fmt: skip
    _set_aside(ctx, replace(before, count=before.count + 1, index=index), rest)


def revenue_of(state: State, class_id: bytes, unit: bytes) -> Revenue:
    found = state.get(Revenue, class_id, unit)
    return found or Revenue(class_id, unit, 0, _to_index(0), 0)


def _to_index(value: int) -> bytes:
    if value >= 1 << (8 * INDEX_BYTES):
        refuse("overflow", "the revenue per share cannot be counted that far")
    return value.to_bytes(INDEX_BYTES)


def _set_aside(ctx: Context, revenue: Revenue, rest: int) -> None:
    """Keeps `rest` (units times 10^18) that no DAT can claim; whole units go to the dust account."""
    units, remainder = divmod(revenue.remainder + rest, SCALE)
    ctx.state.put(replace(revenue, remainder=remainder))
    if units:
        post(ctx, (REVENUE, revenue.class_id), (DUST, revenue.class_id), revenue.unit, units, "dust")


# --- dat.claim ------------------------------------------------------------------------------------


@frozen
class Claim:
    """ERC-8028 `claim`: pays what is pending in `unit` to `to`. Only the DAT's owner may."""

    dat: Id
    unit: Id
    to: Id


def _apply_claim(ctx: Context, body: Claim) -> None:
    dat = need_dat(ctx.state, body.dat)
    require(ctx, dat.owner, "spend")
    require_known(ctx, body.to)
    before = ctx.state.get(Claimed, dat.id, body.unit) or Claimed(dat.id, body.unit, 0, False)
    amount, fraction = _due(ctx.state, dat, before)
    ended = dat.expired(ctx.time_ms)
    # A DAT that has ended earns no more, so its fraction of a unit can never become a whole one.
    rest = fraction if ended and not before.closed else 0
    if not amount and not rest:
        refuse("nothing-pending", "nothing is pending in this unit")
    if amount:
        post(ctx, (REVENUE, dat.class_id), (IDAO, body.to), body.unit, amount, "claim")
    ctx.state.put(replace(before, paid=before.paid + amount, closed=ended))
    _set_aside(ctx, revenue_of(ctx.state, dat.class_id, body.unit), rest)


def _due(state: State, dat: Dat, claimed: Claimed) -> tuple[int, int]:
    """Whole units that the DAT may claim, and the fraction of a unit (times 10^18) beyond them."""
    start, end = life_of(state, dat, claimed.unit)
    whole, fraction = divmod(dat.share_ratio * (end - start), SCALE)
    return whole - claimed.paid, fraction


def life_of(state: State, dat: Dat, unit: bytes) -> tuple[int, int]:
    """The class's index in `unit` where the DAT's life begins and where it ends, or now.

    Two binary searches over the settlements, so minting and ending a DAT touch no unit at all.
    """
    revenue = revenue_of(state, dat.class_id, unit)
    numbers = range(1, revenue.count + 1)

    def settlement(n: int) -> Settlement:
        return state.need(Settlement, dat.class_id, unit, n)

    def index(n: int) -> int:
        return int.from_bytes(settlement(n).index) if n else 0

    first = bisect_right(numbers, dat.born, key=lambda n: settlement(n).seq)
    if not dat.expire_at:
        return index(first), int.from_bytes(revenue.index)
    last = bisect_right(numbers, dat.expire_at, key=lambda n: settlement(n).time_ms)
    return index(first), index(last)


# --- views ----------------------------------------------------------------------------------------


def pending(state: State, dat: Dat, unit: bytes) -> int:
    """ERC-8028 `pendingRevenue`: units that a claim would pay now."""
    return _due(state, dat, state.get(Claimed, dat.id, unit) or Claimed(dat.id, unit, 0, False))[0]


def to_erc8028(state: State, dat: bytes, time_ms: int) -> dict[str, Any]:
    """The required views of `IDATCore` for one DAT, as JSON values.

    uint256 and bytes32 are `0x` and 64 hex digits where they are ids, decimal strings where amounts;
    addresses are iDAO ids, which have 32 bytes; `expireAt` is in seconds, rounded down.
    """
    token = need_dat(state, dat)
    of = need_class(state, token.class_id)
    units = [r.unit for r in state.scan(Revenue, of.id)]
    return {
        "tokenId": "0x" + token.id.hex(),
        "classOf": "0x" + of.id.hex(),
        "valueOf": str(token.value),
        "shareRatioOf": str(token.share_ratio),
        "expireAtOf": token.expire_at // 1000,
        "ownerOf": show_id("idao", token.owner),
        "countedInShare": token.share_ratio > 0 and not token.expired(time_ms),
        "pendingRevenue": {"0x" + u.hex(): str(pending(state, token, u)) for u in units},
        "rewardDebt": {"0x" + u.hex(): str(_reward_debt(state, token, u)) for u in units},
        "getClassMeta": {
            "metadataURI": of.metadata_uri or f"{show_id('asset', of.asset)}@{of.version}",
            "integrityHash": "0x" + of.integrity.hex(),
            "unitDecimals": of.unit_decimals,
            "policyURI": show_id("policy", of.policy),
        },
        "totalShare": str(active_share(state, of, time_ms)),
        "accRevenuePerShare": {
            "0x" + u.hex(): str(int.from_bytes(revenue_of(state, of.id, u).index)) for u in units
        },
    }


def _reward_debt(state: State, dat: Dat, unit: bytes) -> int:
    """ERC-8028 `rewardDebt`, scaled: pending = (share · index − rewardDebt) / 10^18 while the DAT lives."""
    claimed = state.get(Claimed, dat.id, unit)
    return dat.share_ratio * life_of(state, dat, unit)[0] + (claimed.paid if claimed else 0) * SCALE


RECORDS = (Usage, Revenue, Settlement, Claimed)
KINDS = (
    TxKind("dat.transfer-value", TransferValue, _apply_transfer_value),
    TxKind("dat.use", Use, _apply_use),
    TxKind("class.settle", Settle, _apply_settle),
    TxKind("dat.claim", Claim, _apply_claim),
)
