"""Evidence of trusted hardware: asking this machine for it, registering it, judging and showing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao import __version__
from idao.crypto import canonical, note, statetree
from idao.errors import Malformed, Missing, NotFound, Refused, UsageError, VerificationFailed
from idao.frozen import frozen
from idao.hall import bundles
from idao.hall.bundles import show_ms
from idao.home import now_ms, write_file
from idao.ledger import attest as rules
from idao.ledger import backing
from idao.ledger.state import encode_key, key_of, table_of
from idao.ledger.tx import parse_tx
from idao.model import Validator, ValidatorSet, show_id
from idao.tee import binding
from idao.tee import policy as policies
from idao.tee.result import ALIASES, KINDS, AttestationResult

if TYPE_CHECKING:
    from idao.dao import Dao

BEACON_FRESH_MS = 10 * 60_000
"""A beacon of the last minutes serves again; an older one would shorten the life of the evidence."""
VENDORS = {
    "intel": ("sgx", "tdx", "azure-tdx"),
    "amd": ("sev-snp", "azure-snp"),
    "aws": ("nitro",),
    "arm": ("cca",),
}
"""Whose root stands behind a kind of evidence."""
NOTHING = "nothing here can attest: what this machine signs counts as unbacked, like that of most machines"


def vendor_of(kind: str) -> str:
    """The vendor whose root backs a kind; empty for none."""
    return next((v for v, kinds in VENDORS.items() if kind in kinds), "")


def known_kind(text: str) -> str:
    """A kind by name or other spelling. `UsageError` for any other word."""
    kind = ALIASES.get(text, text)
    if kind not in KINDS:
        raise UsageError(f"no kind of evidence '{text}'", hint=f"one of: {', '.join(KINDS)}")
    return kind


def read_policy(text: str) -> policies.TeePolicy:
    """A built-in policy by name, or the one of a file."""
    if text in policies.BUILT_IN:
        return policies.BUILT_IN[text]
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"no TEE policy '{text}'", hint="'strict', or a file as 'tee policy show' prints")
    if path.stat().st_size > policies.FILE_BYTES_MAX:
        raise UsageError("the policy file is too large")
    return policies.load(path.read_bytes())


def appraiser(chosen: policies.TeePolicy) -> backing.Appraiser:
    """Judges evidence under one policy; the verifier is loaded with the first piece."""

    def appraise(
        evidence: bytes, files: Sequence[bytes], expected: binding.Expected, at_ms: int
    ) -> AttestationResult:
        from idao.tee import verifier

        return verifier.appraise(None, evidence, files, chosen, at_ms, expected)

    return appraise


def verifier_name() -> str:
    """Name and versions of what judges here."""
    from importlib import metadata

    try:
        return f"idao-{__version__} dcap-qvl-{metadata.version('dcap-qvl')}"
    except metadata.PackageNotFoundError:
        return f"idao-{__version__}"


# --- showing ----------------------------------------------------------------------------------------


def show_result(result: AttestationResult, at_ms: int) -> dict[str, Any]:
    """A judgement as JSON."""
    return {
        "accepted": result.accepted,
        "level": result.level,
        "kind": result.kind,
        "vendor": vendor_of(result.kind) or None,
        "tcb_status": result.tcb_status,
        "advisories": list(result.advisories),
        "reason": result.reason,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in result.checks],
        "evidence": result.evidence_id.hex() or None,
        "platform": result.platform or None,
        "measurements": dict(result.measurements),
        "bound": [b.hex() for b in result.bound],
        "policy": result.policy.hex(),
        "at": show_ms(at_ms),
        "issued": show_ms(result.issued_ms),
        "not_before": show_ms(result.not_before_ms),
        "not_after": show_ms(result.not_after_ms),
        "warnings": list(result.warnings),
    }


def show_attested(one: backing.Attested) -> dict[str, Any]:
    """A cosigner's evidence as judged, as JSON."""
    result = one.result
    return {
        "idao": show_id("idao", one.validator),
        "accepted": one.accepted,
        "level": one.level,
        "kind": result.kind,
        "vendor": vendor_of(result.kind) or None,
        "tcb_status": result.tcb_status,
        "advisories": list(result.advisories),
        "reason": one.reason,
        "evidence": one.record.evidence.hex(),
        "beacon": one.record.beacon,
        "age_ms": max(0, one.judged_ms - one.record.beacon_ms),
        "judged_at": show_ms(one.judged_ms),
        "not_after": show_ms(one.record.not_after_ms),
        "holds_until": show_ms(result.not_after_ms),
        "collateral": one.record.collateral.hex() or None,
        "warnings": list(result.warnings),
    }


# --- judging files ----------------------------------------------------------------------------------


@frozen
class Question:
    """How evidence shall be judged; `keys` are public keys as typed, or files of them."""

    kind: str = ""
    files: Sequence[bytes] = ()
    at_ms: int = 0
    policy: str = "strict"
    keys: Sequence[str] = ()


def verify(evidence: Sequence[tuple[str, bytes]], asked: Question) -> dict[str, Any]:
    """Judges pieces of evidence, (name, bytes) each, without home, key or network."""
    from idao.tee import collateral, verifier

    kind = known_kind(asked.kind) if asked.kind else None
    chosen = read_policy(asked.policy)
    keys = tuple(map(_read_key, asked.keys))
    expected = binding.Expected(keys=keys) if keys else None
    results = []
    try:
        given: Any = collateral.expand(asked.files)
    except Malformed:
        given = tuple(asked.files)  # too much of it: every result says so
    for name, data in evidence:
        result = verifier.appraise(kind, data, given, chosen, asked.at_ms, expected)
        results.append({"name": name, **show_result(result, asked.at_ms)})
    first = results[0] if len(results) == 1 else {}
    return {**first, "accepted": all(r["accepted"] for r in results), "results": results}


def _read_key(text: str) -> bytes:
    path = Path(text)
    try:
        if path.is_file():
            return binding.read_key(bundles.read_file(path))
        return binding.read_key(text.encode())
    except (Malformed, OSError) as e:
        raise UsageError(f"not a public key: '{text}'", hint="did:key, hex, or a file with a key") from e


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
        registered = self.judged(mine[1], chosen) if mine else None
        return {
            **devices(root),
            "validator": mine is not None,
            "policy": {"name": chosen.name, "hash": chosen.digest.hex(), "since": since},
            "registered": show_attested(registered) if registered else None,
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

        seat = self._seat()
        if seat is None:
            raise Refused("this home is no validator of that quorum", code="not-a-validator")
        chosen, _ = self.policy()
        wanted = "simulator" if simulated else device or choose(kind)
        if simulated and kind:
            kind = known_kind(kind)
        if dry:
            return {"dry_run": True, "device": wanted, "simulated": simulated, "policy": chosen.digest.hex()}
        seen = self._beacon()
        life = seen.time_ms + chosen.max_age_ms
        nonce = binding.beacon(self._dao.quorum, seen.header)
        key = self._dao.keys().validator.public
        claims = binding.Claims(1, self._dao.quorum, self._dao.me, key, rules.ROLE, nonce, life)
        if simulated:
            evidence = attester.simulate(claims, now_ms(), kind or "tdx")
        else:
            evidence = attester.attest(claims, device=wanted)
        raw = canonical.pack(evidence)
        write_file(bundles.folder(self._dao.home.path) / bundles.LAST, raw)
        bundle, result = self._best(raw, seat[1], seen, chosen)
        if result.level == "none":
            failed = next((c for c in result.checks if not c.ok and c.code == result.reason), None)
            why = f"{failed.name} {failed.detail}".strip() if failed else ""
            raise VerificationFailed(
                f"the evidence of this machine does not hold up: {why}",
                hint="fetch its collateral: idao tee collateral update" if "coll" in result.reason else None,
                code=result.reason,
            )
        body = rules.Attest(result.evidence_id, raw, bundle, seen.height)
        done = self._dao.submit([("tee.attest", body), ("tee.appraise", self._appraisal(result, life))])
        registered = self.judged(seat[1], chosen)
        if registered is None:
            raise NotFound("the attestation is not on the ledger")
        height = done[0].receipt.height
        return {
            **show_attested(registered),
            "simulated": registered.level == "simulated",
            "device": wanted,
            "policy": chosen.digest.hex(),
            "tx": show_id("tx", done[0].tx),
            "height": height,
            "status": self._dao.stage(height),
        }

    def _beacon(self) -> rules.Beacon:
        """A recent block that the ledger keeps as a challenge; asks for one if there is none."""
        for asked in (False, True):
            newest = max(self._dao.state().scan(rules.Beacon), key=lambda b: b.height, default=None)
            if newest is not None and (asked or now_ms() - newest.time_ms < BEACON_FRESH_MS):
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
        return backing.judge_one(found[1], found[0], self._dao.quorum, validator, now_ms(), appraiser(chosen))

    def registered(self, chosen: policies.TeePolicy) -> list[dict[str, Any]]:
        """What the validators of the quorum have registered, judged now under a policy."""
        _, validators = self._dao.store.validators(self._dao.store.height + 1)
        judged = [self.judged(v, chosen) for v in validators.validators]
        return [show_attested(one) for one in judged if one is not None]

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
