"""AMD SEV-SNP attestation reports, versions 2, 3 and 5 (AMD 56860, Table 23; certificates: AMD 57230, ch. 4).

A report is 1184 little-endian bytes, signed by a chip's key (VCEK) or a cloud's (VLEK). The key's
certificate names the firmware it was derived for, which must be the report's REPORTED_TCB.
"""

from __future__ import annotations

import struct

from idao.errors import Malformed
from idao.frozen import frozen
from idao.tee import certs, roots
from idao.tee.given import Given
from idao.tee.policy import Floor, TeePolicy
from idao.tee.result import Findings
from idao.tee.x509 import Certificate, common_name

SIZE = 0x4A0
SIGNED = 0x2A0
OID = bytes.fromhex("2b060104019c7801")
"""1.3.6.1.4.1.3704.1: AMD's extensions lie below."""
HOST_VMPL = 0xFFFFFFFF
KNOWN_POLICY_BITS = (1 << 26) - 1
MIGRATE_MA, DEBUG, ALIAS_CHECK = 1 << 18, 1 << 19, 1 << 5
SIGNING_KEYS = {0: "vcek", 1: "vlek"}

_MODELS = (
    (0x19, 0x00, 0x0F, "milan"),
    (0x19, 0x10, 0x1F, "genoa"),
    (0x19, 0xA0, 0xAF, "genoa"),  # Zen 4c (Bergamo, Siena): served as Genoa
    (0x1A, 0x00, 0x11, "turin"),
)


@frozen
class Tcb:
    """The security versions of one firmware set."""

    fmc: int
    bootloader: int
    tee: int
    snp: int
    microcode: int

    def __str__(self) -> str:
        fmc = f"fmc {self.fmc} " if self.fmc else ""
        return f"{fmc}boot loader {self.bootloader} tee {self.tee} snp {self.snp} microcode {self.microcode}"

    @property
    def parts(self) -> tuple[int, ...]:
        return self.fmc, self.bootloader, self.tee, self.snp, self.microcode

    def within(self, other: Tcb) -> bool:
        return all(a <= b for a, b in zip(self.parts, other.parts, strict=True))


def tcb(raw: bytes, product: str) -> Tcb:
    """TCB_VERSION (8 bytes): Turin has another order of fields than Milan and Genoa."""
    if product == "turin":
        return Tcb(raw[0], raw[1], raw[2], raw[3], raw[7])
    return Tcb(0, raw[0], raw[1], raw[6], raw[7])


@frozen
class Report:
    """The fields that are judged, as they stand in the report."""

    raw: bytes

    def u32(self, at: int) -> int:
        return int.from_bytes(self.raw[at : at + 4], "little")

    def u64(self, at: int) -> int:
        return int.from_bytes(self.raw[at : at + 8], "little")

    @property
    def version(self) -> int:
        return self.u32(0)

    @property
    def model(self) -> tuple[int, int]:
        """(family, model) by CPUID; (0, 0) before version 3."""
        return (self.raw[0x188], self.raw[0x189]) if self.version >= 3 else (0, 0)

    @property
    def product(self) -> str:
        """By CPUID; empty when the report does not say or names no known product."""
        family, model = self.model
        return next((p for f, low, high, p in _MODELS if f == family and low <= model <= high), "")

    @property
    def signing_key(self) -> str:
        """'vcek', 'vlek' or 'none', as the report says; before version 3 it says nothing: 'vcek'."""
        return SIGNING_KEYS.get(self.u32(0x48) >> 2 & 7, "none") if self.version >= 3 else "vcek"

    @property
    def chip_id(self) -> bytes:
        return self.raw[0x1A0:0x1E0]

    @property
    def signature(self) -> bytes:
        """r ‖ s, big endian, 48 bytes each."""
        r, s = self.raw[0x2A0:0x2E8], self.raw[0x2E8:0x330]
        if any(r[48:]) or any(s[48:]) or any(self.raw[0x330:]):
            raise Malformed("bytes that nobody signs are not zero")
        return r[:48][::-1] + s[:48][::-1]


def parse(raw: bytes) -> Report:
    """A report of a known shape; `Malformed` otherwise."""
    if len(raw) != SIZE:
        raise Malformed(f"an SNP report has {SIZE} bytes, not {len(raw)}")
    report = Report(raw)
    if report.version not in (2, 3, 4, 5):
        raise Malformed(f"SNP report of unknown version {report.version}")
    if report.u32(0x34) != 1:
        raise Malformed("SNP report not signed with ECDSA P-384")
    _ = report.signature
    return report


# --- certificates --------------------


def _extensions(leaf: Certificate) -> dict[str, bytes]:
    """AMD's extensions of a VCEK or VLEK: the numbers after the common prefix -> raw DER value."""
    return {
        ".".join(map(str, oid[len(OID) :])): value
        for oid, value in leaf.extensions.items()
        if oid.startswith(OID)
    }


def _small(der: bytes | None) -> int:
    """A DER INTEGER of 0..255; `Malformed` otherwise."""
    if der is None or len(der) < 3 or der[0] != 2 or der[1] != len(der) - 2 or len(der) > 4:
        raise Malformed("a firmware version of the certificate is no small integer")
    value = int.from_bytes(der[2:], "big")
    if value > 255:
        raise Malformed("a firmware version of the certificate is no small integer")
    return value


def _certificate_tcb(extensions: dict[str, bytes]) -> Tcb:
    fmc = _small(extensions["3.9"]) if "3.9" in extensions else 0
    parts = [_small(extensions.get(number)) for number in ("3.1", "3.2", "3.3", "3.8")]
    return Tcb(fmc, *parts)


def _product(extensions: dict[str, bytes]) -> str:
    """'milan' of an IA5String such as "Milan-B0"."""
    der = extensions.get("2", b"")
    if len(der) < 3 or der[0] != 0x16 or der[1] != len(der) - 2:
        return ""
    return der[2:].decode("ascii", "replace").split("-")[0].lower()


def _chain(given: Given, trust: roots.Trust, claimed: str) -> list[Certificate]:
    """Leaf (of the `claimed` kind if there are several), intermediate and root: the authorities given, or if
    none are given those shipped with idao. A root that was left out is supplied."""
    loaded = certs.load_all(given.certificates)
    leaves = [c for c in loaded if OID + b"\1" in c.extensions]
    if not leaves:
        return []
    leaf = next((c for c in leaves if certs.name_of(c) == f"SEV-{claimed.upper()}"), leaves[0])
    authorities = [c for c in loaded if c not in leaves]
    if not authorities and trust is roots.VENDORS:
        authorities = [certs.load(d) for d in roots.certificates("amd")]
    issuer = next((c for c in authorities if c.subject == leaf.issuer), None)
    if issuer is None:
        # None fits: shown as the broken link that it is.
        return [leaf, *authorities[:2]]
    rooted = trust is not roots.VENDORS or any(c.issuer == c.subject for c in authorities)
    above = authorities if rooted else [*authorities, *(certs.load(d) for d in roots.certificates("amd"))]
    root = next((c for c in above if c.subject == issuer.issuer and c is not issuer), None)
    return [leaf, issuer, *([root] if root else [])]


def certificate_table(data: bytes) -> list[bytes]:
    """The certificates of a GHCB table: 24-byte entries {GUID, offset, length}, ended by zeros."""
    out = []
    for at in range(0, len(data) - 23, 24):
        guid = data[at : at + 16]
        offset, size = struct.unpack_from("<II", data, at + 16)
        if not any(guid):
            break
        if offset + size > len(data):
            raise Malformed("the certificate table points outside itself")
        if data[offset : offset + 1] == b"\x30":
            out.append(data[offset : offset + size])
    return out


# --- judging --------------------


def judge(
    found: Findings, raw: bytes, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> None:
    """Judges a report with its certificates in `given`: leaf, and optionally authorities and CRLs."""
    report = parse(raw)
    found.region, found.bound = raw[:SIGNED], (raw[0x50:0x90],)
    for name, at, size in _REGISTERS:
        found.measurements[name] = raw[at : at + size].hex()
    chain = _chain(given, trust, report.signing_key)
    if not found.check("certificate", bool(chain), "" if chain else "no VCEK or VLEK", "collateral-missing"):
        _guest(found, report, policy)
        return
    certs.check_chain(found, chain, trust.amd, now_ms)
    _revocation(found, chain, given, policy, now_ms)
    signed = certs.ecdsa_raw(chain[0], report.signature, found.region, "sha384")
    found.check("signature", signed, _why_not(report, chain[0]) if not signed else "")
    _platform(found, report, chain, policy)
    _guest(found, report, policy)
    found.level = "tee"


_REGISTERS = (
    ("measurement", 0x90, 48),
    ("host_data", 0xC0, 32),
    ("id_key_digest", 0xE0, 48),
    ("author_key_digest", 0x110, 48),
    ("report_id", 0x140, 32),
    ("report_id_ma", 0x160, 32),
    ("family_id", 0x10, 16),
    ("image_id", 0x20, 16),
)


def _why_not(report: Report, leaf: Certificate) -> str:
    """The versions side by side: the usual cause is a VCEK fetched for other firmware or another chip."""
    try:
        extensions = _extensions(leaf)
        product = report.product or _product(extensions)
        return f"report: {tcb(report.raw[0x180:0x188], product)}; certificate: {_certificate_tcb(extensions)}"
    except Malformed:
        return "the certificate is no VCEK or VLEK"


def _revocation(
    found: Findings, chain: list[Certificate], given: Given, policy: TeePolicy, now_ms: int
) -> None:
    root = chain[-1]
    lists = [d for d in given.crls if certs.load_crl(d).issuer == root.subject]
    # Every real VCEK has serial number 0, which no list can single out.
    judged = [c for c in chain[:-1] if c.serial]
    windows = [certs.crl_window(certs.load_crl(d)) for d in lists]
    current = [i for i, (low, high) in enumerate(windows) if low <= now_ms <= high]
    for i, der in enumerate(lists):
        # Beside a current list an older one may stand, and one made later, which nobody knew yet.
        if not current or i in current:
            certs.check_crl(found, der, root, judged, now_ms, f"crl {i}")
            found.stated(windows[i][0])
        elif windows[i][0] <= now_ms and certs.crl_signed_by(certs.load_crl(der), root):
            certs.check_revoked(found, certs.load_crl(der), judged, f"crl {i}")
    if not lists:
        found.check("crl", not policy.amd_crl_required, "no revocation list given", "collateral-missing")
        found.warnings.append("crl-missing: revocation of the AMD intermediate was not judged")


def _platform(found: Findings, report: Report, chain: list[Certificate], policy: TeePolicy) -> None:
    """Key, product, chip and firmware."""
    leaf = chain[0]
    extensions = _extensions(leaf)
    issuer = common_name(leaf.issuer)
    under = "vlek" if issuer.startswith("SEV-VLEK-") else "vcek"
    claimed = report.signing_key if report.version >= 3 else under
    name_fits = certs.name_of(leaf) == f"SEV-{under.upper()}"
    found.check("key kind", claimed == under and name_fits, f"{claimed} under {issuer}", "chain")
    found.check("signing key", under in policy.amd_signing_keys, under, "signing-key")
    certified = _product(extensions)
    product = report.product if report.version >= 3 else certified
    taken = product in policy.amd_products
    why = ": its root secret was extracted by software alone (AMD-SB-3045)" if product == "milan" else ""
    found.check("product", taken, (product or "unknown") + ("" if taken else why), "product")
    line = issuer.rpartition("-")[2].lower()
    same = product == certified == line
    found.check(
        "product of certificate", same, f"{product or 'unknown'}, {certified}, {line}", "tcb-mismatch"
    )
    masked = not any(report.chip_id)
    if under == "vcek":
        hw_id = extensions.get("4", b"")
        fits = len(hw_id) in (8, 64) and hw_id + bytes(64 - len(hw_id)) == report.chip_id
        found.check("chip", masked or fits, "masked" if masked else "", "hw-id")
    if masked:
        found.warnings.append("the chip id is masked: it identifies no machine")
    else:
        found.platform = report.chip_id.hex()
    _firmware(found, report, product, _certificate_tcb(extensions), policy)


def _firmware(found: Findings, report: Report, product: str, certified: Tcb, policy: TeePolicy) -> None:
    raw = report.raw
    current, reported, committed, launch = (
        tcb(raw[at : at + 8], product) for at in (0x38, 0x180, 0x1E0, 0x1F0)
    )
    found.check("tcb of certificate", reported == certified, f"{reported}; {certified}", "tcb-mismatch")
    in_order = reported.within(committed) and committed.within(current)
    found.check("tcb in order", in_order, f"{reported}; {committed}; {current}", "tcb-mismatch")
    # Firmware not yet committed can be rolled back (build, minor and major of current and committed).
    provisional = raw[0x1E8:0x1EB] != raw[0x1EC:0x1EF]
    found.check("firmware committed", not provisional, "", "tcb-status")
    family, model = report.model if report.version >= 3 else _MODEL_OF.get(product, (0, 0))
    floor = next((f for f in policy.amd_floors if f.family == family and _covers(f, model)), None)
    if floor is None:
        found.warnings.append("the policy names no least firmware for this part")
        found.tcb_status = "no-floor"
        return
    least = Tcb(0, floor.bootloader, floor.tee, floor.snp, floor.microcode)
    met = least.within(reported) and least.within(launch)
    found.tcb_status = "floor-met" if met else "below-floor"
    found.check("tcb floor", met, f"{reported}; at launch {launch}; least {least}", "tcb-floor")


_MODEL_OF = {"milan": (0x19, 0x01), "genoa": (0x19, 0x11), "turin": (0x1A, 0x02)}
"""What a report of version 2, which has no CPUID, is held to."""


def _covers(floor: Floor, model: int) -> bool:
    return floor.model_low <= model <= floor.model_high


def _guest(found: Findings, report: Report, policy: TeePolicy) -> None:
    """What the guest's owner chose."""
    guest = report.u64(0x08)
    found.check("debug", not guest & DEBUG)
    found.check("migration agent", not guest & MIGRATE_MA, "", "service-td")
    sane = bool(guest >> 17 & 1) and not guest & ~KNOWN_POLICY_BITS
    found.check("guest policy", sane, f"{guest:#x}", "attributes")
    found.check("version", report.version in policy.amd_versions, str(report.version))
    vmpl = report.u32(0x30)
    shown = "requested by the host" if vmpl == HOST_VMPL else str(vmpl)
    found.check("vmpl", vmpl in policy.amd_vmpls, shown)
    checked = bool(report.u64(0x40) & ALIAS_CHECK)
    found.check("alias check", checked or not policy.amd_alias_check, "", "attributes")
