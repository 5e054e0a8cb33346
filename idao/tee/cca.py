"""Arm CCA tokens (draft-ffm-rats-cca-token, RMM specification DEN0137): a platform and a realm part.

There is no public root for the platforms, only published test keys whose private halves everybody has:
whatever verifies under a key handed over is worth the level `simulated` and no more.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from idao.errors import Malformed
from idao.tee import certs, cose, roots
from idao.tee.given import Given
from idao.tee.policy import TeePolicy
from idao.tee.result import Findings

TAG, PLATFORM, REALM = 399, 44234, 44241
# Claims
CHALLENGE, LIFECYCLE = 10, 2395
REALM_INITIAL, REALM_REMS, REALM_HASH, REALM_KEY, REALM_KEY_HASH, PERSONAL = (
    44238,
    44239,
    44236,
    44237,
    44240,
    44235,
)
ES384 = -35
HASHES = {"sha-256": "sha256", "sha-512": "sha512"}
SECURED = range(0x3000, 0x3100)
"""Lifecycle 'secured'; every other one, debugging among them, is refused."""


def judge(
    found: Findings, raw: bytes, given: Given, policy: TeePolicy, now_ms: int, trust: roots.Trust
) -> None:
    """Judges a token under the platform key (JWK) in `given`."""
    platform, realm = _parts(raw)
    claims, realm_claims = _claims(platform), _claims(realm)
    found.region = platform.payload + realm.payload
    challenge = realm_claims.get(CHALLENGE)
    if not isinstance(challenge, bytes) or len(challenge) != 64:
        raise Malformed("CCA token without a challenge of 64 bytes")
    found.bound = (challenge,)
    key_bytes = realm_claims.get(REALM_KEY)
    name = HASHES.get(str(realm_claims.get(REALM_KEY_HASH)), "")
    if not isinstance(key_bytes, bytes) or not name:
        raise Malformed("CCA token without a realm key")
    found.check(
        "realm key", hashlib.new(name, key_bytes).digest() == claims.get(CHALLENGE), "", "rak-binding"
    )
    found.check("realm signature", realm.verifies(_realm_key(key_bytes), "sha384"), "", "signature")
    keys = [k for k in map(_jwk, given.files) if k is not None]
    if found.check("platform key", bool(keys), "" if keys else "none given", "collateral-missing"):
        signed = any(platform.verifies(k, "sha384") for k in keys)
        found.check("platform signature", signed, "", "signature")
    lifecycle = claims.get(LIFECYCLE)
    found.check("lifecycle", lifecycle in SECURED, str(lifecycle), "debug")
    for label, value in (("rim", REALM_INITIAL), ("personalization", PERSONAL)):
        if isinstance(realm_claims.get(value), bytes):
            found.measurements[label] = realm_claims[value].hex()
    for i, value in enumerate(realm_claims.get(REALM_REMS) or []):
        if isinstance(value, bytes):
            found.measurements[f"rem{i}"] = value.hex()
    found.warnings.append("no vendor publishes a root for CCA platforms: this is a simulation at best")
    found.level = "simulated"


def _parts(raw: bytes) -> tuple[cose.Sign1, cose.Sign1]:
    top = cose.read(raw)
    if not isinstance(top, cose.Tag) or top.number != TAG or not isinstance(top.value, dict):
        raise Malformed("not a CCA token")
    if set(top.value) != {PLATFORM, REALM} or not all(isinstance(v, bytes) for v in top.value.values()):
        raise Malformed("not a CCA token")
    parts = [cose.sign1(cose.read(top.value[k])) for k in (PLATFORM, REALM)]
    if any(p.headers.get(1) != ES384 or len(p.headers) != 1 for p in parts):
        raise Malformed("CCA token not signed with ES384")
    return parts[0], parts[1]


def _claims(part: cose.Sign1) -> dict[int | str, Any]:
    claims = cose.read(part.payload)
    if not isinstance(claims, dict):
        raise Malformed("CCA token without claims")
    return claims


def _realm_key(raw: bytes) -> Any:
    """A raw point, or a COSE_Key in the newer profile."""
    if raw[:1] == b"\4" and len(raw) == 97:
        return certs.p384(raw[1:])
    key = cose.read(raw)
    if not isinstance(key, dict) or (key.get(1), key.get(-1)) != (2, 2):
        raise Malformed("the realm key is not a P-384 key")
    x, y = key.get(-2), key.get(-3)
    if not (isinstance(x, bytes) and isinstance(y, bytes) and len(x) == len(y) == 48):
        raise Malformed("the realm key is not a P-384 key")
    return certs.p384(x + y)


def _jwk(data: bytes) -> Any:
    """The P-384 key of a JWK file; None for anything else."""
    try:
        value = json.loads(data)
        if value["kty"] != "EC" or value["crv"] != "P-384":
            return None
        xy = b"".join(base64.urlsafe_b64decode(value[c] + "==") for c in "xy")
        return certs.p384(xy)
    except (ValueError, TypeError, KeyError, RecursionError, Malformed):
        return None
