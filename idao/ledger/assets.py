"""Assets: things contributed, their versions and lineage. The ledger holds commitments, never contents."""

from __future__ import annotations

from typing import Annotated

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.frozen import frozen, replace
from idao.ledger.idao import require, rules_of
from idao.ledger.state import State, record
from idao.ledger.tx import Context, TxKind, refuse
from idao.model import Hash, Id, Name, Salt, Size, Word

ASSET_KINDS = ("dataset", "model", "agent", "flow", "compute", "result", "pov")
PARENTS_MAX = 16
"""Direct parents of one version; more are better expressed by a flow between."""
Parents = Annotated[tuple[tuple[Id, int], ...], Size(0, PARENTS_MAX)]
SIZE_STEP_MIN = 4096
"""Bytes; the smallest size shown, so that small files cannot be told apart."""


def asset_id(owner: bytes, nonce: bytes) -> bytes:
    """From the owner and a random nonce, not from the quorum: an asset keeps its id when it moves."""
    return digest(Kind.ASSET, canonical.encode([owner, nonce]))


def round_size(size: int) -> int:
    """Bytes rounded up to an eighth of the next power of two (at most 12.5 % above, at least 4 KiB)."""
    step = max(SIZE_STEP_MIN, (1 << max(size - 1, 1).bit_length()) // 8)
    return max(SIZE_STEP_MIN, -(-size // step) * step)


@record("asset", key=("asset",))
@frozen
class Asset:
    """A thing contributed.

    asset: its id
    owner: the iDAO that owns it
    kind: dataset, model, agent, flow, compute, result or pov
    latest: number of its newest version
    home: the quorum that is its home; another value means it has moved there and is frozen here
    """

    asset: Id
    owner: Id
    kind: Word
    latest: int
    home: Id


@record("asset_version", key=("asset", "version"))
@frozen
class AssetVersion:
    """One version of an asset.

    asset: its id
    version: counts from 1
    owner: the iDAO that owns it
    name: what its owner calls it
    category: what kind of data it is; picks the assessor
    licence: SPDX expression
    size: bytes, rounded up
    root: Merkle root over salted leaves, one a file
    manifest: salted commitment of the encrypted list of files
    card: salted commitment of the card
    policy: hash of the terms of use
    parents: (asset, version) each that it was made from
    height: when it was registered
    independent: reviews by others than the owner
    score: median headline score of its reviews, basis points in hundreds; 0 before any
    verified: whether reviews suffice for minting
    """

    asset: Id
    version: int
    owner: Id
    name: Name
    category: Word
    licence: Annotated[str, Size(0, 256)]
    size: int
    root: Hash
    manifest: Hash
    card: Hash
    policy: Hash
    parents: Parents
    height: int
    independent: int
    score: int
    verified: bool


@frozen
class Contribute:
    """Registers version `version` of the asset that (owner, nonce) name."""

    owner: Id
    nonce: Salt
    version: int
    kind: Word
    name: Name
    category: Word
    licence: Annotated[str, Size(0, 256)]
    size: int
    root: Hash
    manifest: Hash
    card: Hash
    policy: Hash
    parents: Parents


def _apply_contribute(ctx: Context, body: Contribute) -> None:
    require(ctx, body.owner, "contribute")
    asset = asset_id(body.owner, body.nonce)
    now = ctx.state.get(Asset, asset)
    if body.kind not in ASSET_KINDS:
        refuse("unknown-kind", f"'{body.kind}' is not a kind of asset")
    if body.size != round_size(body.size):
        refuse("size-not-rounded", "the size must be rounded, so that it tells little")
    if now is not None and now.home != ctx.quorum:
        refuse("moved", "the asset has moved to another quorum")
    if now is not None and now.kind != body.kind:
        refuse("kind-changed", f"the asset is a {now.kind}")
    if body.version != (now.latest if now else 0) + 1:
        refuse("version", f"the next version is {(now.latest if now else 0) + 1}")
    _check_parents(ctx.state, asset, body)
    ctx.state.put(
        replace(now, latest=body.version)
        if now
        else Asset(asset, body.owner, body.kind, body.version, ctx.quorum)
    )
    ctx.state.put(
        AssetVersion(
            asset, body.version, body.owner, body.name, body.category, body.licence, body.size, body.root,
            body.manifest, body.card, body.policy, body.parents, ctx.height, 0, 0, False,
        )
    )  # fmt: skip


def _check_parents(state: State, asset: bytes, body: Contribute) -> None:
    if list(body.parents) != sorted(set(body.parents)):
        refuse("parents", "parents are listed once each, in order")
    for parent, version in body.parents:
        found = state.get(AssetVersion, parent, version)
        if found is None:
            refuse("unknown-parent", "a parent is not on this ledger")
        if parent == asset and version >= body.version:
            refuse("cycle", "a version cannot descend from itself")
        if found.owner != body.owner and rules_of(state, found.owner).get("policy.derive") != "allow":
            refuse("policy-derive", "the owner of a parent does not allow derived works")


def verified_version(state: State, asset: bytes, version: int) -> AssetVersion:
    """The version, if it may be minted. Refuses with `unknown-asset` or `not-verified`."""
    found = state.get(AssetVersion, asset, version)
    if found is None:
        refuse("unknown-asset", "no such asset version on this ledger")
    if not found.verified:
        refuse("not-verified", "the reviews of this asset version do not suffice")
    return found


@frozen
class SetPolicy:
    """New terms of use for one asset version, as an action of governance."""

    asset: Id
    version: int
    policy: Hash


def set_policy(ctx: Context, idao: bytes, body: SetPolicy) -> None:
    found = ctx.state.get(AssetVersion, body.asset, body.version)
    if found is None or found.owner != idao:
        refuse("unknown-asset", "this iDAO owns no such asset version")
    ctx.state.put(replace(found, policy=body.policy))


ACTIONS = {"asset.policy": (SetPolicy, set_policy)}
RECORDS = (Asset, AssetVersion)
KINDS = (TxKind("asset.contribute", Contribute, _apply_contribute),)
