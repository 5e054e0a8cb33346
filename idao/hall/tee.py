"""Evidence of trusted hardware in a home: asked of this machine, registered, judged, renewed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao.crypto import canonical, note, statetree
from idao.errors import Missing, NotFound, Refused, UsageError, VerificationFailed
from idao.frozen import replace
from idao.hall import bundles
from idao.hall.bundles import show_ms
from idao.hall.evidence import appraiser, known_kind, newer, show_attested, verifier_name
from idao.home import now_ms
from idao.ledger import attest as rules
from idao.ledger import backing
from idao.ledger.state import encode_key, key_of, table_of
from idao.ledger.tx import parse_tx
from idao.model import Validator, ValidatorSet, show_id
from idao.tee import binding, envelope, renewal
from idao.tee import policy as policies
from idao.tee.result import AttestationResult

if TYPE_CHECKING:
    from idao.dao import Dao
    from idao.tee import later  # rests on the verifier, which is loaded where evidence is looked at

BEACON_FRESH_MS = 10 * 60_000
"""A beacon of the last minutes serves again, but not one older than a tenth of the greatest age: it would
shorten the life of the evidence."""
CARRIED_BYTES_MAX = 48 * 1024
"""Evidence with its collateral on a ledger: real quotes have 5 kB, their collateral 14 to 25. Some collateral
has 400 kB more of revocations, and stays outside."""
NOTHING = "nothing here can attest: what this machine signs counts as unbacked, like that of most machines"


def _held(one: backing.Attested, mine: Validator) -> renewal.Held:
    """What the rule of renewal asks about registered evidence of the validator `mine`."""
    return renewal.Held(
        beacon_ms=one.record.beacon_ms,
        not_after_ms=one.record.not_after_ms,
        holds_until_ms=one.result.not_after_ms if one.level != "none" else None,
        sound=one.level != "none",
        own_key=not any(c.name == "claims: key" and not c.ok for c in one.result.checks),
    )


# --- this home --------------------------------------------------------------------------------------


class Tee:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    def policy(self) -> tuple[policies.TeePolicy, int]:
        """The quorum's policy and the height since which it holds: the strict one, 0, unless it voted."""
        agreed = self._dao.state().get(rules.TeePolicyRecord, self._dao.store.chain.governor)
        if agreed is None:
            return policies.STRICT, 0
        return canonical.unpack(policies.TeePolicy, agreed.body), agreed.height

    def status(self, root: Path = Path("/")) -> dict[str, Any]:
        """What this machine has, and what of it the ledger knows."""
        chosen, since = self.policy()
        mine = self._seat()
        return {
            **devices(root),
            "validator": mine is not None,
            "policy": {"name": chosen.name, "hash": chosen.digest.hex(), "since": since},
            "registered": self.shown(mine[1], chosen) if mine else None,
        }

    def _seat(self) -> tuple[ValidatorSet, Validator] | None:
        """The set of the next height and this home's place in it."""
        store = self._dao.store
        _, validators = store.validators(store.height + 1)
        mine = next((v for v in validators.validators if v.idao == self._dao.me), None)
        return None if mine is None else (validators, mine)

    # --- attesting

    def attest(
        self, *, kind: str = "", device: str = "", simulated: bool = False, dry: bool = False
    ) -> dict[str, Any]:
        """Evidence for this home's validator key, judged here, registered, and appraised.

        `Missing` (exit code 7) without a device. `VerificationFailed` if it does not hold up here: then
        nothing is registered, and the evidence is kept for `collateral update`.
        """
        from idao.tee import attester  # talks to devices: not for those who only judge

        mine, (chosen, _) = self._my_seat(), self.policy()
        if simulated and device:
            raise UsageError("--simulated asks no device: leave one of the two out")
        wanted = "simulator" if simulated else device or choose(kind)
        if simulated and kind:
            kind = known_kind(kind)
        if dry:
            return {"dry_run": True, "device": wanted, "simulated": simulated, "policy": chosen.digest.hex()}
        seen = self._beacon()
        life = seen.time_ms + chosen.max_age_ms
        nonce = binding.beacon(self._dao.quorum, seen.header)
        claims = binding.Claims(1, self._dao.quorum, self._dao.me, mine.key, rules.ROLE, nonce, life)
        if simulated:
            evidence = attester.simulate(claims, now_ms(), kind or "tdx")
        else:
            evidence = attester.attest(claims, device=wanted)
        raw = canonical.pack(evidence)
        bundles.keep_evidence(self._dao.home.path, raw)
        bundle, result = self._best(raw, mine, seen, chosen)
        if result.level == "none":
            failed = next((c for c in result.checks if not c.ok and c.code == result.reason), None)
            why = f"{failed.name} {failed.detail}".strip() if failed else ""
            raise VerificationFailed(
                f"the evidence of this machine does not hold up: {why}",
                hint="fetch its collateral: idao tee collateral update" if "coll" in result.reason else None,
                code=result.reason,
            )
        raw, bundle = self._carried(evidence, raw, bundle)
        body = rules.Attest(result.evidence_id, raw, bundle, seen.height)
        self._dao.submit([("tee.attest", body), ("tee.appraise", self._appraisal(result, life))])
        registered = self.judged(mine, chosen)
        if registered is None:
            raise NotFound("the attestation is not on the ledger")
        return {**self._show_own(registered, mine, chosen), "device": wanted, "renewed": True}

    def _show_own(self, one: backing.Attested, mine: Validator, chosen: policies.TeePolicy) -> dict[str, Any]:
        """This validator's registered evidence, and when it will be due again."""
        again = renewal.due(_held(one, mine), chosen.max_age_ms, now_ms())
        return {
            **show_attested(one),
            "simulated": one.level == "simulated",
            "policy": chosen.digest.hex(),
            "tx": show_id("tx", one.record.tx),
            "height": one.record.height,
            "status": self._dao.stage(one.record.height),
            "why": again.why,
            "next": show_ms(again.next_ms),
        }

    # --- attesting again

    def due(self) -> renewal.Due:
        """Whether this home's validator has to attest now, and when to look again.

        `Refused` if this home is no validator. Reads alone; a node calls it by timer.
        """
        return self._due()[0]

    def renew(
        self, *, kind: str = "", device: str = "", simulated: bool = False, dry: bool = False
    ) -> dict[str, Any]:
        """Attests if that is due, and says when to look again; for a timer.

        Raises as `attest` does: a device or a ledger that fails now may answer at the next call.
        """
        found, mine, chosen, one = self._due()
        if one is None or found.now:
            made = self.attest(kind=kind, device=device, simulated=simulated, dry=dry)
            return {**made, "why": found.why} if dry else made
        return {**self._show_own(one, mine, chosen), "device": "", "renewed": False}

    def keep(self) -> int:
        """Attests again if that is due and the owner has attested here before; when to look again, ms UTC.

        What was simulated is made again only where the quorum's policy names the simulator: a rehearsal.
        """
        seat = self._seat()
        record = self._dao.state().get(rules.Attestation, self._dao.me)
        simulated = record is not None and record.kind == "simulated"
        if seat is None or record is None or (simulated and "simulated" not in self.policy()[0].kinds):
            return now_ms() + renewal.LOOK_AGAIN_MS
        if self.due().now:
            self.renew(kind="" if simulated else record.kind, simulated=simulated)
        return self.due().next_ms

    def waiting(self) -> bool:
        """Is something about evidence signed and not final yet?"""
        return any(tx.envelope.kind.startswith("tee.") for tx in self._dao.queued())

    def appraise_others(self) -> int:
        """Judges the newest evidence of the other validators and signs what it is worth; how many anew.

        What cannot be judged here, for its collateral is not at hand, is left to others.
        """
        store, (chosen, _) = self._dao.store, self.policy()
        if self._seat() is None:
            return 0
        bodies = []
        for v in store.validators(store.height + 1)[1].validators:
            record = self._dao.state().get(rules.Attestation, v.idao)
            known = self._dao.state().get(rules.Appraisal, v.idao, self._dao.me)
            if record is None or v.idao == self._dao.me or now_ms() > record.not_after_ms:
                continue
            if known is not None and (known.evidence, known.policy) == (record.evidence, chosen.digest):
                continue
            one = self.judged(v, chosen)
            if one is not None and one.reason != "verifier-missing":
                bodies.append(("tee.appraise", self._appraisal_of(one, chosen)))
        if bodies:
            self._dao.submit(bodies)
        return len(bodies)

    @staticmethod
    def _appraisal_of(one: backing.Attested, chosen: policies.TeePolicy) -> rules.Appraise:
        end = one.result.not_after_ms
        until = one.record.not_after_ms if end is None else min(end, one.record.not_after_ms)
        return rules.Appraise(
            one.validator, one.record.evidence, chosen.digest, verifier_name(), one.level,
            one.accepted, one.reason, until,
        )  # fmt: skip

    def _due(self) -> tuple[renewal.Due, Validator, policies.TeePolicy, backing.Attested | None]:
        mine, (chosen, _) = self._my_seat(), self.policy()
        one = self.judged(mine, chosen)
        held = _held(one, mine) if one else None
        return renewal.due(held, chosen.max_age_ms, now_ms()), mine, chosen, one

    def _my_seat(self) -> Validator:
        seat = self._seat()
        if seat is None:
            raise Refused("this home is no validator of that quorum", code="not-a-validator")
        return seat[1]

    def _beacon(self) -> rules.Beacon:
        """A recent block that the ledger keeps as a challenge; asks for one if there is none."""
        fresh_ms = min(BEACON_FRESH_MS, self.policy()[0].max_age_ms // 10)
        for asked in (False, True):
            newest = max(self._dao.state().scan(rules.Beacon), key=lambda b: b.height, default=None)
            if newest is not None and (asked or now_ms() - newest.time_ms < fresh_ms):
                return newest
            self._dao.submit([("tee.beacon", rules.KeepBeacon())])
        raise NotFound("the ledger keeps no beacon")

    def _best(
        self, raw: bytes, mine: Validator, seen: rules.Beacon, chosen: policies.TeePolicy
    ) -> tuple[bytes, AttestationResult]:
        """(name of the collateral bundle or empty, judgement): the newest that serves, else without any."""
        nonce = binding.beacon(self._dao.quorum, seen.header)
        expected = binding.Expected(
            self._dao.quorum, mine.idao, rules.ROLE, (mine.key,), ((nonce, seen.time_ms),)
        )
        judge = appraiser(chosen)
        bare = judge(raw, (), expected, now_ms())
        if bare.level != "none":
            return b"", bare
        tried = [bare]
        for kept in bundles.listed(self._dao.home.path):
            result = judge(raw, (kept.data,), expected, now_ms())
            if result.level != "none":
                return kept.name, result
            tried.append(result)
        return b"", tried[-1 if len(tried) == 2 else 0]

    def _carried(self, evidence: envelope.Evidence, raw: bytes, bundle: bytes) -> tuple[bytes, bytes]:
        """The evidence with its collateral inside if both are small enough for a transaction, so that every
        validator can judge it; else as it is, and the name of the bundle, which travels in proofs alone."""
        found = bundles.find(self._dao.home.path, bundle) if bundle else None
        if found is None or len(raw) + len(found) > CARRIED_BYTES_MAX:
            return raw, bundle
        return canonical.pack(envelope.with_bundle(evidence, found)), b""

    def _appraisal(self, result: AttestationResult, life: int) -> rules.Appraise:
        until = min(life, result.not_after_ms if result.not_after_ms is not None else life)
        return rules.Appraise(
            self._dao.me, result.evidence_id, result.policy, verifier_name(), result.level,
            result.accepted, result.reason, until,
        )  # fmt: skip

    # --- judging what is registered

    def backing_of(self, validator: bytes) -> tuple[rules.Attestation, backing.Backing] | None:
        """A validator's newest evidence with its collateral; None if there is none, or not here."""
        store = self._dao.store
        record = self._dao.state().get(rules.Attestation, validator)
        raw = store.tx(record.tx) if record else None
        if record is None or raw is None:
            return None
        body = canonical.unpack(rules.Attest, parse_tx(raw).envelope.body)
        bundle = bundles.find(self._dao.home.path, record.collateral) if record.collateral else b""
        if bundle is None:
            return None
        place = statetree.record_path(table_of(rules.Attestation).name, encode_key(key_of(record)))
        path = statetree.prove(store.branches, place)
        return record, backing.Backing(canonical.pack(record), path, body.evidence, bundle)

    def judged(self, validator: Validator, chosen: policies.TeePolicy) -> backing.Attested | None:
        """A validator's newest evidence, judged now."""
        found = self.backing_of(validator.idao)
        if found is None:
            return None
        return self._judge(found, validator, chosen)[0]

    def _judge(
        self,
        found: tuple[rules.Attestation, backing.Backing],
        validator: Validator,
        chosen: policies.TeePolicy,
    ) -> tuple[backing.Attested, later.Later]:
        """Evidence judged now, also by what newer collateral of this home says of it."""
        record, held = found
        one = backing.judge_one(held, record, self._dao.quorum, validator, now_ms(), appraiser(chosen))
        known = newer(one, held, bundles.stored(self._dao.home.path), chosen, now_ms())
        if known.facts and not one.reason:
            reason = known.facts[-1].reason
            result = replace(one.result, accepted=False, level="none", reason=reason)
            one = replace(one, accepted=False, reason=reason, result=result)
        return one, known

    def shown(self, validator: Validator, chosen: policies.TeePolicy) -> dict[str, Any] | None:
        """A validator's newest evidence as JSON; None if there is none, or not here."""
        found = self.backing_of(validator.idao)
        return None if found is None else show_attested(*self._judge(found, validator, chosen))

    def registered(self, chosen: policies.TeePolicy) -> list[dict[str, Any]]:
        """What the validators of the quorum have registered, judged now under a policy."""
        _, validators = self._dao.store.validators(self._dao.store.height + 1)
        rows = [self.shown(v, chosen) for v in validators.validators]
        return [row for row in rows if row is not None]

    def backings(self, signed: note.Note, validators: ValidatorSet, at_ms: int) -> tuple[bytes, ...]:
        """For a proof: what stands behind the cosigners of a checkpoint whose block has the time `at_ms`."""
        out = []
        for index in sorted(backing.times_of(signed, self._dao.quorum, validators)):
            found = self.backing_of(validators.validators[index].idao)
            if found is not None and found[0].not_after_ms >= at_ms:
                out.append(canonical.pack(found[1]))
        return tuple(out)


# --- this machine -----------------------------------------------------------------------------------


def devices(root: Path = Path("/")) -> dict[str, Any]:
    """What this machine has to attest with, best first; needs no home."""
    from idao.tee import attester

    here = attester.devices_here(root)
    best = next((d for d in here if d.usable), None)
    unusable = f"{here[0].path} is there, but this user may not use it: run as root" if here else NOTHING
    return {
        "devices": [
            {"name": d.name, "kind": d.kind, "path": d.path, "usable": d.usable, "note": d.note} for d in here
        ],
        "attests": best is not None,
        "meaning": best.note if best else unusable,
        "verifier": verifier_name(),
    }


def choose(kind: str = "", root: Path = Path("/")) -> str:
    """The name of the best usable device here, of one kind if asked for. `Missing` if there is none."""
    from idao.tee import attester

    wanted = known_kind(kind) if kind else ""
    here = [d for d in attester.devices_here(root) if not wanted or d.kind == wanted]
    found = next((d.name for d in here if d.usable), None)
    if found is None:
        what = f"nothing on this machine attests {wanted}" if wanted else attester.NEVER[1]
        hint = f"{here[0].path} is there: run as root" if here else "see 'idao tee status'"
        raise Missing(what, hint=hint)
    return found
