"""What an asset may be made from: the ledger's rules of lineage."""

from __future__ import annotations

from dataclasses import replace

from ledger_world import World, id_of

from idao.ledger.assets import Asset, AssetVersion, Contribute, asset_id, round_size

NONCE = id_of("nonce")
MADE = asset_id(id_of("bob"), NONCE)


def made_from(*parents: tuple[bytes, int], version: int = 1) -> Contribute:
    none = bytes(32)
    return Contribute(
        id_of("bob"), NONCE, version, "dataset", "merged", "tabular", "MIT", round_size(5000), id_of("root"),
        none, none, none, parents,
    )  # fmt: skip


def test_parents_are_there_and_listed_once_each_in_order() -> None:
    world = World("ann", "bob")
    first, second = sorted((world.asset("bob", "rides"), world.asset("bob", "walks")))
    assert world.do("bob", made_from((second, 1), (first, 1))) == "parents"
    assert world.do("bob", made_from((first, 1), (first, 1))) == "parents"
    assert world.do("bob", made_from((first, 2))) == "unknown-parent"
    assert world.do("bob", made_from((id_of("nothing"), 1))) == "unknown-parent"
    assert world.do("bob", made_from((first, 1), (second, 1))) == ""
    assert world.state.need(AssetVersion, MADE, 1).parents == ((first, 1), (second, 1))


def test_a_later_version_descends_from_earlier_ones_alone() -> None:
    world = World("ann", "bob")
    assert world.do("bob", made_from()) == ""
    assert world.do("bob", made_from((MADE, 2), version=2)) == "unknown-parent"
    assert world.do("bob", made_from((MADE, 1), version=2)) == ""
    assert world.state.need(Asset, MADE).latest == 2
    assert world.do("bob", made_from(version=2)) == world.do("bob", made_from(version=4)) == "version"
    assert world.do("bob", replace(made_from(version=3), kind="model")) == "kind-changed"


def test_what_others_own_is_derived_from_where_their_charter_allows() -> None:
    world = World("ann", "bob")
    theirs = world.asset("ann", "scans")
    assert world.do("bob", made_from((theirs, 1))) == "policy-derive"
    world.rule("ann", policy__derive="deny")
    assert world.do("bob", made_from((theirs, 1))) == "policy-derive"
    world.rule("bob", policy__derive="allow")
    assert world.do("bob", made_from((theirs, 1))) == "policy-derive", "it is for the parent's owner to allow"
    world.rule("ann", policy__derive="allow")
    assert world.do("bob", made_from((theirs, 1))) == ""
