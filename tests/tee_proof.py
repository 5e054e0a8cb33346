"""A proof of a quorum of many whose cosigners show simulated evidence, each of a machine of its own."""

from __future__ import annotations

from pathlib import Path

import group_world
from group_world import BORN, STAKE, GroupWorld, hashed, person

from idao import proof
from idao.crypto import canonical, note, statetree
from idao.ledger import attest, backing, genesis
from idao.ledger.state import encode_key, key_of
from idao.model import ValidatorSet
from idao.store.ledger import LedgerStore
from idao.tee import binding, collateral, simulator
from idao.tee.envelope import Aux, Evidence
from idao.tee.policy import STRICT, relaxed
from idao.tee.verifier import appraise

SIMULATED = relaxed(STRICT, kinds=("simulated",), least_level="simulated")


def _bundle(names: list[str]) -> genesis.Bundle:
    rules = group_world.rules()
    seated = [genesis.Seated(person(n).inception, (), person(n).validator().public, STAKE) for n in names]
    first = genesis.group_genesis(
        name="many", nonce=hashed("nonce"), time_ms=BORN, founders=seated, rules=rules,
        recovery_threshold=1, recovery_keys=(person(names[0]).recovery.public,),
    )  # fmt: skip
    people = sorted((person(n) for n in names), key=lambda p: p.idao)
    founders = tuple(genesis.Founder(p.inception, (), p.signer.sign_genesis(first)) for p in people)
    return genesis.Bundle(first, rules, founders)


def evidence(claims: binding.Claims, machine: int, shape: str, *, apart: bool = False) -> tuple[bytes, bytes]:
    """(packed evidence, collateral bundle or empty) of one machine; `apart` keeps the collateral outside."""
    make = simulator.intel if shape == "tdx" else simulator.amd
    made = make(BORN, binding.report_data(claims), machine=machine)
    aux = () if apart else tuple(Aux("collateral", f) for f in made.files)
    bundle = b""
    if apart:
        files = [(f"f{i}", f) for i, f in enumerate(made.files)]
        bundle = collateral.dump(collateral.make(shape, files, fetched_ms=BORN, source="simulator"))
    return (
        canonical.pack(Evidence(1, "simulated", simulator.mark(made.evidence), aux, canonical.pack(claims))),
        bundle,
    )


def many(folder: Path, count: int, backed: int, shapes: tuple[str, ...] = ("tdx", "sev-snp")) -> bytes:
    """The bytes of a proof cosigned by `count` validators, the first `backed` of them with evidence."""
    names = [f"validator {n}" for n in range(count)]
    group_world.PEOPLE = (*group_world.PEOPLE, *map(person, names))
    group_world._NAMED.update({person(n).idao: n for n in names})
    bundle = _bundle(names)
    store = LedgerStore.create(folder / "many.db", bundle)
    world = GroupWorld(bundle, store)
    tx = world.send(names[0], "tee.beacon", attest.KeepBeacon())
    world.step()
    seen = next(iter(world.state.scan(attest.Beacon)))
    nonce = binding.beacon(world.quorum, seen.header)
    bundles: dict[bytes, bytes] = {}
    for n, name in enumerate(names[:backed]):
        who = person(name)
        claims = binding.Claims(
            1, world.quorum, who.idao, who.validator().public, attest.ROLE, nonce, seen.time_ms + 3_600_000
        )
        raw, outside = evidence(claims, n + 1, shapes[n % len(shapes)], apart=n % 4 >= 2)
        found = appraise(None, raw, [outside] if outside else [], SIMULATED, BORN + 1000)
        assert found.accepted, found.checks
        named = backing.bundle_name(outside) if outside else b""
        bundles[named] = outside
        world.send(name, "tee.attest", attest.Attest(found.evidence_id, raw, named, seen.height))
        assert all(not r.code for r in world.step())
    return _prove(store, world, tx.id, bundles)


def _prove(store: LedgerStore, world: GroupWorld, tx: bytes, bundles: dict[bytes, bytes]) -> bytes:
    signed = world.notes[world.tip.height]
    checkpoint = note.parse_checkpoint(signed.text)
    found, raw = store.receipt_of(tx), store.tx(tx)
    assert found is not None and raw is not None
    position, receipt = found
    made = proof.Proof(
        v=1, bundle=store.bundle, lineage=(),
        tlog=str(note.TlogProof(position, tuple(store.log_path(position, checkpoint.size)), signed)),
        header=store.header(checkpoint.height), leaf=canonical.pack(receipt), tx=raw,
        subject_kind="tx", subject=tx, records=(), files=None,
        attestations=_backings(store, world.validators(checkpoint.height), bundles),
        witnesses=(), timestamps=(),
    )  # fmt: skip
    return proof.dump(made)


def _backings(store: LedgerStore, validators: ValidatorSet, bundles: dict[bytes, bytes]) -> tuple[bytes, ...]:
    out = []
    for v in validators.validators:
        record = store.state().get(attest.Attestation, v.idao)
        if record is None:
            continue
        raw = store.tx(record.tx)
        assert raw is not None
        from idao.ledger.tx import parse_tx

        body = canonical.unpack(attest.Attest, parse_tx(raw).envelope.body)
        path = statetree.prove(
            store.branches, statetree.record_path("attestation", encode_key(key_of(record)))
        )
        packed = backing.Backing(canonical.pack(record), path, body.evidence, bundles[record.collateral])
        out.append(canonical.pack(packed))
    return tuple(out)
