"""A ledger on which validators register evidence that the simulator made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ledger_world import id_of

from idao.crypto import canonical, statetree
from idao.crypto.hashing import Kind, hash_of
from idao.crypto.keys import Signer
from idao.errors import IdaoError
from idao.hall.evidence import appraiser
from idao.ledger import attest, backing
from idao.ledger.execution import Layer, tree_changes
from idao.ledger.genesis import Epoch
from idao.ledger.state import DictBase, State, encode_key, key_of
from idao.ledger.tx import Context
from idao.model import Header, Validator, ValidatorSet
from idao.tee import attester, binding
from idao.tee.policy import STRICT, TeePolicy, relaxed
from idao.tee.verifier import appraise

QUORUM, HEADER, TX = id_of("quorum"), id_of("header"), id_of("tx")


DAY = 24 * 3_600_000


BORN = 1_790_000_000_000


SIMULATED = relaxed(STRICT, kinds=("simulated",), least_level="simulated")


SIGNERS = sorted((Signer(id_of(f"key {n}")) for n in range(4)), key=lambda s: id_of(s.public.hex()))


PEOPLE = [id_of(s.public.hex()) for s in SIGNERS]


SET = ValidatorSet(tuple(Validator(i, s.public, 1) for i, s in zip(PEOPLE, SIGNERS, strict=True)))


def claims(n: int = 0, **changed: Any) -> binding.Claims:
    nonce = binding.beacon(QUORUM, HEADER)
    made = binding.Claims(1, QUORUM, PEOPLE[n], SIGNERS[n].public, attest.ROLE, nonce, BORN + DAY)
    return replace(made, **changed)


def evidence(n: int = 0, shape: str = "tdx", **changed: Any) -> bytes:
    return canonical.pack(attester.simulate(claims(n, **changed), BORN, shape))


class World:
    """The ledger of a quorum of four at height 8, whose block 7 is kept as a beacon."""

    def __init__(self) -> None:
        self.state = State(DictBase())
        self.state.put(Epoch(0, 1, hash_of(Kind.VALIDATORS, SET), canonical.pack(SET)))
        self.time_ms = BORN + 60_000
        self.height = 8
        self.do(PEOPLE[3], attest.KeepBeacon())

    def do(self, who: bytes, body: Any) -> None:
        """As a block does it: by way of bytes."""
        apply = next(kind.apply for kind in attest.KINDS if kind.body is type(body))
        child = self.state.child()
        apply(self.context(child, who), canonical.unpack(type(body), canonical.pack(body)))
        self.state.merge(child)

    def context(self, state: State, who: bytes) -> Context:
        ids = tuple(PEOPLE)
        return Context(
            state, QUORUM, self.height, self.time_ms, who, TX, 4, ids, QUORUM, parent=HEADER, parent_ms=BORN
        )

    def register(self, n: int = 0, raw: bytes | None = None, **changed: Any) -> bytes:
        made = raw or evidence(n)
        body = attest.Attest(appraise(None, made, (), SIMULATED, BORN).evidence_id, made, b"", 7)
        self.do(PEOPLE[n], replace(body, **changed))
        return made

    def agree(self, policy: TeePolicy) -> None:
        body = attest.SetTeePolicy(canonical.pack(policy))
        attest.ACTIONS["tee.policy"][1](self.context(self.state, bytes(32)), QUORUM, body)


def refused(world: World, who: bytes, body: Any) -> str:
    before = {cls: dict(rows) for cls, rows in world.state.changes.items()}
    with pytest.raises(IdaoError) as caught:
        world.do(who, body)
    assert world.state.changes == before
    return caught.value.code


class Anchored:
    """A checkpoint of the quorum of four over a state in which some have attested."""

    def __init__(self, *who: int, bundles: dict[int, bytes] | None = None) -> None:
        world = World()
        self.raws = {n: evidence(n, "sev-snp" if n % 2 else "tdx") for n in who}
        self.bundles = bundles or {}
        for n in who:
            bundle = self.bundles.get(n, b"")
            world.register(n, self.raws[n], collateral=backing.bundle_name(bundle) if bundle else b"")
        self.state = world.state
        self.branches = Layer({})
        root = statetree.update(self.branches, tree_changes(self.state))
        none = bytes(32)
        self.header = Header(
            1, QUORUM, 9, 0, PEOPLE[0], HEADER, none, BORN + 120_000, none, root, 1, none,
            hash_of(Kind.VALIDATORS, SET), hash_of(Kind.VALIDATORS, SET), none,
        )  # fmt: skip

    def backing(self, n: int, **changed: Any) -> bytes:
        record = self.state.need(attest.Attestation, PEOPLE[n])
        place = statetree.record_path("attestation", encode_key(key_of(record)))
        path = statetree.prove(self.branches, place)
        made = backing.Backing(canonical.pack(record), path, self.raws[n], self.bundles.get(n, b""))
        return canonical.pack(replace(made, **changed))

    def judge(
        self, *packed: bytes, times: dict[int, int] | None = None, policy: TeePolicy = SIMULATED
    ) -> list[backing.Attested]:
        at = dict.fromkeys(range(4), BORN + 130_000) if times is None else times
        return backing.judge(packed, self.header, SET, at, appraiser(policy))
