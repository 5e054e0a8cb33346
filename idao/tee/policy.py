"""What evidence a quorum counts: a small data file, named by its hash, agreed by the quorum's vote.

The file is JSON for people; its name is the hash of the canonical bytes of `TeePolicy`, so spelling does
not matter. Unknown and missing keys are refused: a policy never means less than it says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, get_type_hints

from idao.crypto import canonical, shapes
from idao.crypto.hashing import Kind, digest
from idao.errors import IdaoError, Malformed, UsageError
from idao.frozen import frozen, replace
from idao.model import Name, Range, Size, Word
from idao.tee.result import KINDS, LEVELS, AttestationResult

HOUR_MS = 3_600_000
ENTRIES_MAX = 256
"""Entries of one list: a policy is read by people."""
FILE_BYTES_MAX = 256 * 1024

Words = Annotated[tuple[Word, ...], Size(0, ENTRIES_MAX)]
Svn = Annotated[int, Range(0, 255)]

INTEL_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
"""What a policy may list. `Revoked` is in no list: nothing makes it acceptable."""
AMD_PRODUCTS = ("milan", "genoa", "turin")


@frozen
class Floor:
    """Least firmware of AMD parts with this CPUID family and a model in `model_low`..`model_high`.

    By model, not by product line: a patched Zen 4c part reports microcode 27 where Genoa reports 84.
    """

    family: Svn
    model_low: Svn
    model_high: Svn
    bootloader: Svn
    tee: Svn
    snp: Svn
    microcode: Svn


@frozen
class Measurement:
    """A register that must hold a value. All entries of one `set` together are one known good image."""

    kind: Word
    set: Word
    register: Word
    value: Annotated[str, Size(1, 128)]


@frozen
class TeePolicy:
    """Accepts nothing that it does not name. Debugging, a service TD, a revoked part: never."""

    v: Annotated[int, Range(1, 1)]
    name: Name
    kinds: Words
    least_level: Word
    min_backed: Annotated[int, Range(0, 64)]
    """How many cosigners of an anchor must be backed by evidence of `least_level`."""
    max_age_ms: Annotated[int, Range(1, 366 * 24 * HOUR_MS)]
    """Greatest age of evidence that carries its own time, and of the beacon a claim is bound to."""
    clock_skew_ms: Annotated[int, Range(0, HOUR_MS)]
    platforms: Annotated[tuple[Annotated[str, Size(1, 128)], ...], Size(0, ENTRIES_MAX)]
    """Known machines (Intel PPID, AMD CHIP_ID, hex); empty: any."""
    measurements: Annotated[tuple[Measurement, ...], Size(0, ENTRIES_MAX)]
    intel_statuses: Words
    intel_refused_advisories: Words
    intel_least_evaluation: Annotated[int, Range(0, 10_000)]
    """Least tcbEvaluationDataNumber: a peer can choose which still valid collateral it shows."""
    amd_products: Words
    amd_versions: Annotated[tuple[int, ...], Size(0, 8)]
    amd_signing_keys: Words
    amd_vmpls: Annotated[tuple[Annotated[int, Range(0, 3)], ...], Size(0, 4)]
    amd_floors: Annotated[tuple[Floor, ...], Size(0, ENTRIES_MAX)]
    amd_crl_required: bool
    amd_alias_check: bool
    """Require that the firmware has looked for aliased memory (BadRAM, AMD-SB-3015)."""

    def __post_init__(self) -> None:
        wrong = [
            *(k for k in self.kinds if k not in KINDS),
            *(s for s in self.intel_statuses if s not in INTEL_STATUSES),
            *(p for p in self.amd_products if p not in AMD_PRODUCTS),
            *(k for k in self.amd_signing_keys if k not in ("vcek", "vlek")),
            *(m.kind for m in self.measurements if m.kind not in KINDS),
        ]
        if wrong:
            raise Malformed(f"policy names the unknown '{wrong[0]}'")
        if self.least_level not in LEVELS[1:]:
            raise Malformed(f"no level '{self.least_level}'")
        if "simulated" in self.kinds and self.least_level != "simulated":
            raise Malformed("a policy that names the simulator has the least level 'simulated'")
        canonical.pack(self)  # every field within its bounds, so that the policy has a name

    @property
    def digest(self) -> bytes:
        """The name of this policy: 32 bytes."""
        return _digest(self)


@lru_cache(maxsize=16)
def _digest(policy: TeePolicy) -> bytes:
    return digest(Kind.TEE_POLICY, canonical.pack(policy))


AMD_FLOORS = (
    # AMD-SB-3019 (CVE-2024-56161); microcode by AMD-SB-3019.
    Floor(0x19, 0x00, 0x0F, 0, 0, 0x18, 0xDB),
    # AMD-SB-3020 (RMPocalypse) for the firmware, AMD-SB-3027 (StackWarp) for the microcode.
    Floor(0x19, 0x10, 0x1F, 0, 0, 0x1B, 0x56),
    # Zen 4c: the same firmware line, its own microcode numbers.
    Floor(0x19, 0xA0, 0xAF, 0, 0, 0x1B, 0x1B),
)

STRICT = TeePolicy(
    v=1,
    name="strict",
    kinds=("sgx", "tdx", "sev-snp", "nitro"),
    least_level="tee",
    min_backed=0,
    max_age_ms=24 * HOUR_MS,
    clock_skew_ms=5 * 60_000,
    platforms=(),
    measurements=(),
    intel_statuses=("UpToDate",),
    intel_refused_advisories=(),
    intel_least_evaluation=0,
    # Milan's root secret was extracted by software alone (AMD-SB-3045): off unless named.
    amd_products=("genoa", "turin"),
    amd_versions=(3, 5),
    amd_signing_keys=("vcek",),
    amd_vmpls=(0,),
    amd_floors=AMD_FLOORS,
    amd_crl_required=False,
    amd_alias_check=True,
)
"""The default. A quorum that wants less says so by vote; `min_backed` 0 leaves TEE backing optional."""

BUILT_IN = {"strict": STRICT}


# --- files --------------------


def to_json(policy: TeePolicy) -> dict[str, Any]:
    """The policy as people write it."""
    return canonical.to_plain(policy)


def dump(policy: TeePolicy) -> str:
    """The text of a policy file."""
    return json.dumps(to_json(policy), indent=2) + "\n"


def load(data: bytes) -> TeePolicy:
    """The policy of a file's bytes. `UsageError` names what is wrong with it."""
    if len(data) > FILE_BYTES_MAX:
        raise UsageError("the policy file is too large")
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as e:
        raise UsageError(f"the policy file is not JSON: {e}") from e
    names = set(shapes.names_of(TeePolicy))
    if not isinstance(value, dict) or set(value) != names:
        odd = sorted(set(value) ^ names) if isinstance(value, dict) else ["an object"]
        raise UsageError(f"the policy file lacks or has too much: {', '.join(odd[:5])}")
    try:
        return canonical.from_plain(TeePolicy, value)
    except IdaoError as e:
        raise UsageError(f"the policy file: {e.message}") from e


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands twice")
    return out


def named(name: str) -> TeePolicy:
    """A built-in policy. `UsageError` if there is none of that name."""
    if name not in BUILT_IN:
        raise UsageError(f"no built-in policy '{name}'", hint="name a policy file, or 'strict'")
    return BUILT_IN[name]


Change = tuple[str, Any, Any]


def diff(old: TeePolicy, new: TeePolicy) -> list[Change]:
    """(field, old value, new value) of every field that differs, in the order of the file."""
    a, b = to_json(old), to_json(new)
    order = get_type_hints(TeePolicy)
    return [(name, a[name], b[name]) for name in order if a[name] != b[name]]


def loosened(old: TeePolicy, new: TeePolicy) -> list[str]:
    """The fields in which `new` accepts something that `old` refuses: what a vote should look at."""
    out = [name for name, wider in _WIDER.items() if _wider(getattr(old, name), getattr(new, name), wider)]
    if LEVELS.index(new.least_level) < LEVELS.index(old.least_level):
        out.append("least_level")
    if old.platforms and (not new.platforms or _wider(old.platforms, new.platforms, "more")):
        out.append("platforms")
    return sorted(out)


def _wider(old: Any, new: Any, wider: str) -> bool:
    if wider in ("higher", "lower"):
        return bool(new > old) if wider == "higher" else bool(new < old)
    more, fewer = (new, old) if wider == "more" else (old, new)
    return any(x not in fewer for x in more)


_WIDER: dict[str, Literal["more", "fewer", "higher", "lower"]] = {
    "kinds": "more",
    "min_backed": "lower",
    "max_age_ms": "higher",
    "clock_skew_ms": "higher",
    "measurements": "more",
    "intel_statuses": "more",
    "intel_refused_advisories": "fewer",
    "intel_least_evaluation": "lower",
    "amd_products": "more",
    "amd_versions": "more",
    "amd_signing_keys": "more",
    "amd_vmpls": "more",
    "amd_floors": "fewer",
    "amd_crl_required": "lower",
    "amd_alias_check": "lower",
}


def try_out(
    old: TeePolicy, new: TeePolicy, judge: Callable[[TeePolicy], AttestationResult]
) -> tuple[AttestationResult, AttestationResult]:
    """The verdicts on one piece of evidence under both policies: what a change would mean for it."""
    return judge(old), judge(new)


def relaxed(policy: TeePolicy, **changes: Any) -> TeePolicy:
    """A copy with some fields changed; the name says so."""
    return replace(policy, **{"name": f"{policy.name} (changed)", **changes})
