"""Data Anchoring Tokens: classes, tokens, operators and expiry, with the names of ERC-8028 (draft).

A class belongs to one asset version; a DAT is a token of a class, with a quota (`value`), a weight in the
class's revenue (`share_ratio`) and perhaps an end (`expire_at`, ms UTC, still valid at that moment).
What a DAT is used for and what it earns is in `usage.py`.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import Annotated

from idao.crypto.hashing import Kind, hash_of
from idao.frozen import frozen, replace
from idao.ledger.accounts import require_known
from idao.ledger.assets import Asset, AssetVersion, verified_version
from idao.ledger.charter import mint_value
from idao.ledger.idao import require, role_of, rules_of
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import INT_MAX, Amount, Hash, Id, Range, Size

SHARE_MAX = 2**32 - 1
"""ERC-8028 §3: shareRatio is a uint32 and saturates."""
DECIMALS_MAX = 18
"""Decimals of a quota; a 64-bit quota holds no more."""
SPLIT_MAX = 64
"""Contributors named in one class; each gets a DAT of its own when a mint divides."""
SWEEP_MAX = 1024
"""Ends of DATs that one tx takes out of a class's shares: bounds its work, and its receipt."""
URI_MAX = 512
"""Bytes of a metadata address."""
ROYALTY_MAX = 1024
"""Bytes of royalty terms."""

Uri = Annotated[str, Size(0, URI_MAX)]
Royalty = Annotated[bytes, Size(0, ROYALTY_MAX)]
Split = Annotated[tuple[tuple[Id, Annotated[int, Range(1, 10_000)]], ...], Size(0, SPLIT_MAX)]
"""(iDAO, basis points) each, ordered by id, 10,000 in all; empty: everything is the owner's."""


@record("class", key=("id",))
@frozen
class Class:
    """The class of DATs of one asset version.

    id: its id, made from quorum, asset and version
    asset: the asset
    version: the version of it
    owner: the iDAO that mints and governs the class
    root: commitment root of the asset version; never changes
    metadata_uri: where its description is, or empty
    integrity: commitment to that description; at first the commitment root
    unit_decimals: decimals of a DAT's quota
    policy: hash of the terms of use
    royalty: terms for works it derives from; empty for none
    split: (iDAO, basis points) of its contributors; empty means all to the owner
    total_share: sum of the share ratios of DATs not known to have ended
    settlements: counts payments to it, in all units
    height: when it was created
    """

    id: Id
    asset: Id
    version: int
    owner: Id
    root: Hash
    metadata_uri: Uri
    integrity: Hash
    unit_decimals: Annotated[int, Range(0, DECIMALS_MAX)]
    policy: Hash
    royalty: Royalty
    split: Split
    total_share: int
    settlements: int
    height: int


@record("dat", key=("id",))
@frozen
class Dat:
    """A Data Anchoring Token.

    id: its id, made from quorum, class, the transaction that minted it and a number
    class_id: its class
    asset: the asset
    version: the version of it
    root: commitment root of the asset version
    policy: hash of the terms of use it was minted under
    royalty: royalty terms of its class
    split: contributors of its class
    owner: the iDAO that holds it
    value: quota left, in units of the class
    share_ratio: its weight in the class's revenue
    expire_at: last moment (ms UTC) of its use and revenue; 0 for no end
    born: payments its class had received when it was minted; it shares in later ones only
    uses: counts its recorded uses
    height: when it was minted
    """

    id: Id
    class_id: Id
    asset: Id
    version: int
    root: Hash
    policy: Hash
    royalty: Royalty
    split: Split
    owner: Id
    value: Amount
    share_ratio: Annotated[int, Range(0, SHARE_MAX)]
    expire_at: int
    born: int
    uses: int
    height: int

    def expired(self, time_ms: int) -> bool:
        """ERC-8028 §6.6: `expireAt != 0 && now > expireAt`."""
        return self.expire_at != 0 and time_ms > self.expire_at


@record("class_expiry", key=("class_id", "expire_at"))
@frozen
class Expiry:
    """Shares that leave a class together.

    class_id: the class
    expire_at: last moment (ms UTC) they count
    share: sum of their share ratios
    """

    class_id: Id
    expire_at: int
    share: int


@record("class_approval", key=("owner", "class_id", "operator"))
@frozen
class Approval:
    """An operator that may use quota for an owner of DATs in a class.

    owner: the iDAO that trusts
    class_id: the class it trusts for
    operator: the iDAO it trusts
    height: since when
    """

    owner: Id
    class_id: Id
    operator: Id
    height: int


@frozen
class ClassName:
    """What a class id is the hash of: there is one class per asset version in a quorum."""

    quorum: Id
    asset: Id
    version: int


@frozen
class DatName:
    """What a DAT id is the hash of: with the quorum in it, nobody sells one DAT twice in two quorums."""

    quorum: Id
    class_id: Id
    tx: Id
    n: int


def class_id_of(quorum: bytes, asset: bytes, version: int) -> bytes:
    return hash_of(Kind.CLASS, ClassName(quorum, asset, version))


def dat_id_of(quorum: bytes, class_id: bytes, tx: bytes, n: int = 0) -> bytes:
    """The id of the `n`th DAT that a tx mints: known as soon as the tx is signed."""
    return hash_of(Kind.DAT, DatName(quorum, class_id, tx, n))


def need_class(state: State, class_id: bytes) -> Class:
    return state.get(Class, class_id) or refuse("unknown-class", "no such class on this ledger")


def need_dat(state: State, dat: bytes) -> Dat:
    return state.get(Dat, dat) or refuse("unknown-dat", "no such DAT on this ledger")


def require_operator(ctx: Context, dat: Dat) -> None:
    """Refuses unless the actor may spend for the DAT's owner, or is its operator for the class."""
    if ctx.state.get(Approval, dat.owner, dat.class_id, ctx.actor) is not None:
        return
    if role_of(ctx.state, dat.owner, ctx.actor) is None:
        refuse("not-authorised", "the signer is neither the owner nor an operator approved for the class")
    require(ctx, dat.owner, "spend")


def require_valid(ctx: Context, dat: Dat) -> None:
    if dat.expired(ctx.time_ms):
        refuse("expired", f"the DAT ended at {dat.expire_at}")


# --- class.create ---------------------------------------------------------------------------------


@frozen
class Create:
    """ERC-8028 `createClass`. Commitment root and policy are those of the asset version."""

    asset: Id
    version: int
    metadata_uri: Uri
    unit_decimals: Annotated[int, Range(0, DECIMALS_MAX)]
    royalty: Royalty
    split: Split


def _apply_create(ctx: Context, body: Create) -> None:
    version = _version_at_home(ctx, body.asset, body.version)
    require(ctx, version.owner, "mint")
    if ctx.state.get(Class, class_id_of(ctx.quorum, body.asset, body.version)) is not None:
        refuse("class-exists", "this asset version has its class already")
    _create(ctx, version, body)


def _create(ctx: Context, version: AssetVersion, body: Create) -> Class:
    if body.royalty:
        refuse("royalty", "royalties are not divided yet: the terms must be empty")
    ids = [idao for idao, _ in body.split]
    if ids != sorted(set(ids)) or (ids and sum(bp for _, bp in body.split) != 10_000):
        refuse("split", "contributors are listed once each, in order of id, with 10,000 basis points in all")
    for idao in ids:
        require_known(ctx, idao)
    created = Class(
        id=class_id_of(ctx.quorum, body.asset, body.version),
        asset=body.asset,
        version=body.version,
        owner=version.owner,
        root=version.root,
        metadata_uri=body.metadata_uri,
        integrity=version.root,
        unit_decimals=body.unit_decimals,
        policy=version.policy,
        royalty=body.royalty,
        split=body.split,
        total_share=0,
        settlements=0,
        height=ctx.height,
    )
    ctx.state.put(created)
    return created


def _version_at_home(ctx: Context, asset: bytes, version: int) -> AssetVersion:
    found = ctx.state.get(AssetVersion, asset, version)
    if found is None:
        refuse("unknown-asset", "no such asset version on this ledger")
    if ctx.state.need(Asset, asset).home != ctx.quorum:
        refuse("moved", "the asset has moved to another quorum")
    return found


# --- dat.mint -------------------------------------------------------------------------------------


@frozen
class Mint:
    """ERC-8028 `mint`. Creates the class with plain terms when the asset version has none yet."""

    asset: Id
    version: int
    class_id: Id | None
    """The class that is meant, if it matters; another than the asset version's is refused."""
    to: Id | None
    """Who gets the DAT; None divides value and shares among the contributors of the class, a DAT each."""
    value: Amount | None
    """Quota; None takes what the economic model of the owner's charter says."""
    share_ratio: Amount
    """Saturates at `SHARE_MAX`."""
    expire_at: int
    """Milliseconds UTC; 0 for no end."""


def _apply_mint(ctx: Context, body: Mint) -> None:
    version = _version_at_home(ctx, body.asset, body.version)
    require(ctx, version.owner, "mint")
    own = class_id_of(ctx.quorum, body.asset, body.version)
    if body.class_id is not None and body.class_id != own:
        need_class(ctx.state, body.class_id)
        refuse("class-mismatch", "the class is of another asset version")
    _check_reviewed(ctx, verified_version(ctx.state, body.asset, body.version))
    if body.expire_at and body.expire_at < ctx.time_ms:
        refuse("expired", "the DAT would end before it begins")
    into = ctx.state.get(Class, own) or _create(
        ctx, version, Create(body.asset, body.version, "", 0, b"", ())
    )
    for n, (to, value, share) in enumerate(_parts(ctx, into, version, body)):
        into = _mint(ctx, into, n, to, value, share, body.expire_at)


def _check_reviewed(ctx: Context, version: AssetVersion) -> None:
    """In a quorum of several the owner's own review is not enough, unless the quorum's charter says so."""
    needed = rules_of(ctx.state, ctx.governor)["review.independent"] if ctx.several else 0
    if version.independent < needed:
        refuse("not-verified", f"{version.independent} of {needed} independent reviews are there")


def _parts(ctx: Context, into: Class, version: AssetVersion, body: Mint) -> list[tuple[bytes, int, int]]:
    """(receiver, value, share) of each DAT."""
    share = min(body.share_ratio, SHARE_MAX)
    value = body.value
    if value is None:
        value = mint_value(rules_of(ctx.state, into.owner), version.score)
    if body.to is not None or not into.split:
        to = body.to if body.to is not None else into.owner
        require_known(ctx, to)
        return [(to, value, share)]
    values, shares = divide(value, into.split), divide(share, into.split)
    return [(idao, values[i], shares[i]) for i, (idao, _) in enumerate(into.split)]


def divide(amount: int, split: tuple[tuple[bytes, int], ...]) -> list[int]:
    """Parts of `amount` by basis points, to the last unit: largest remainder, ties by id."""
    parts = [amount * bp // 10_000 for _, bp in split]
    by_rest = sorted(range(len(split)), key=lambda i: (-(amount * split[i][1] % 10_000), split[i][0]))
    for i in by_rest[: amount - sum(parts)]:
        parts[i] += 1
    return parts


def _mint(ctx: Context, into: Class, n: int, to: bytes, value: int, share: int, expire_at: int) -> Class:
    dat = Dat(
        id=dat_id_of(ctx.quorum, into.id, ctx.tx, n),
        class_id=into.id,
        asset=into.asset,
        version=into.version,
        root=into.root,
        policy=into.policy,
        royalty=into.royalty,
        split=into.split,
        owner=to,
        value=value,
        share_ratio=share,
        expire_at=expire_at,
        born=into.settlements,
        uses=0,
        height=ctx.height,
    )
    if into.total_share + share > INT_MAX:
        refuse("overflow", "the class has as many shares as can be counted")
    ctx.state.put(dat)
    if expire_at and share:
        bucket = ctx.state.get(Expiry, into.id, expire_at)
        ctx.state.put(Expiry(into.id, expire_at, share + (bucket.share if bucket else 0)))
    into = replace(into, total_share=into.total_share + share)
    ctx.state.put(into)
    return into


# --- class.expire ---------------------------------------------------------------------------------


@frozen
class Expire:
    """Takes shares that have ended out of a class (ERC-8028 §6.6, event `Expired`). Anybody may.

    Settling does the same first; this is for a class with more than `SWEEP_MAX` ends waiting.
    """

    class_id: Id


def _apply_expire(ctx: Context, body: Expire) -> None:
    before = need_class(ctx.state, body.class_id)
    if sweep(ctx, before)[0] == before:
        refuse("nothing-expired", "no share of this class has ended since the last time")


def sweep(ctx: Context, of: Class) -> tuple[Class, bool]:
    """The class without shares that have ended, and whether more than `SWEEP_MAX` ends were waiting."""
    ended = takewhile(lambda e: e.expire_at < ctx.time_ms, ctx.state.scan(Expiry, of.id))
    gone = list(islice(ended, SWEEP_MAX + 1))
    for expiry in gone[:SWEEP_MAX]:
        ctx.state.delete(Expiry, of.id, expiry.expire_at)
        of = replace(of, total_share=of.total_share - expiry.share)
    if gone:
        ctx.state.put(of)
    return of, len(gone) > SWEEP_MAX


def active_share(state: State, of: Class, time_ms: int) -> int:
    """ERC-8028 `totalShare` at a moment: without the shares that have ended, swept or not."""
    return of.total_share - sum(e.share for e in state.scan(Expiry, of.id) if e.expire_at < time_ms)


# --- dat.transfer, class.approve --------------------------------------------------------------------


@frozen
class Transfer:
    """ERC-8028 `transferToken`. Quota, shares and revenue not yet claimed go along; operators do not."""

    dat: Id
    to: Id


def _apply_transfer(ctx: Context, body: Transfer) -> None:
    dat = need_dat(ctx.state, body.dat)
    require(ctx, dat.owner, "spend")
    require_known(ctx, body.to)
    ctx.state.put(replace(dat, owner=body.to))


@frozen
class Approve:
    """ERC-8028 `approveForClass`: `operator` may use and move quota of `owner` in the class, or no more."""

    owner: Id
    class_id: Id
    operator: Id
    approved: bool


def _apply_approve(ctx: Context, body: Approve) -> None:
    require(ctx, body.owner, "spend")
    need_class(ctx.state, body.class_id)
    require_known(ctx, body.operator)
    key = (body.owner, body.class_id, body.operator)
    if body.approved:
        ctx.state.put(Approval(*key, ctx.height))
    elif ctx.state.get(Approval, *key) is not None:
        ctx.state.delete(Approval, *key)


# --- the class, as actions of governance ------------------------------------------------------------


@frozen
class SetPolicy:
    """ERC-8028 `updateClassPolicy`. DATs minted before keep the terms they were minted under."""

    class_id: Id
    policy: Hash


def _governed(ctx: Context, idao: bytes, class_id: bytes) -> Class:
    found = need_class(ctx.state, class_id)
    if found.owner != idao:
        refuse("not-the-owner", "the class belongs to another iDAO")
    return found


def set_policy(ctx: Context, idao: bytes, body: SetPolicy) -> None:
    ctx.state.put(replace(_governed(ctx, idao, body.class_id), policy=body.policy))


@frozen
class SetMetadata:
    """ERC-8028 `updateClassMetadata`. The commitment root of the asset version stays."""

    class_id: Id
    metadata_uri: Uri
    integrity: Hash


def set_metadata(ctx: Context, idao: bytes, body: SetMetadata) -> None:
    found = _governed(ctx, idao, body.class_id)
    ctx.state.put(replace(found, metadata_uri=body.metadata_uri, integrity=body.integrity))


ACTIONS = {
    "class.policy": (SetPolicy, set_policy),
    "class.metadata": (SetMetadata, set_metadata),
}
RECORDS = (Class, Dat, Expiry, Approval)
KINDS = (
    TxKind("class.create", Create, _apply_create),
    TxKind("dat.mint", Mint, _apply_mint),
    TxKind("class.expire", Expire, _apply_expire),
    TxKind("dat.transfer", Transfer, _apply_transfer),
    TxKind("class.approve", Approve, _apply_approve),
)
