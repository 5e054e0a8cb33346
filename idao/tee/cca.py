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

TAG, CMW_TAG, PLATFORM, REALM = 399, 907, 44234, 44241
"""The older collection holds the two tokens bare, the newer each as [content format, token]."""
EAT_CWT = 263
"""Content format of a token in the newer collection (CoAP registry)."""
# Claims
CHALLENGE, INSTANCE, LIFECYCLE = 10, 256, 2395
REALM_INITIAL, REALM_REMS, REALM_HASH, REALM_KEY, REALM_KEY_HASH, PERSONAL = (
    44238,
    44239,
    44236,
    44237,
    44240,
    44235,
)
ALGORITHMS = {-7: ("sha256", "p256", 256), -35: ("sha384", "p384", 384), -36: ("sha512", "p521", 521)}
"""COSE algorithm -> its hash, and the curve that goes with it, by name and bits."""
CURVES = {1: "p256", 2: "p384", 3: "p521"}
"""COSE curve -> name."""
JWK_CURVES = {"P-256": "p256", "P-384": "p384", "P-521": "p521"}
HEADERS = {1, 3, 16}
"""Algorithm, content type and type: what the signed header of a token may hold."""
HASHES = {"sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
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
    found.check("realm signature", _verifies(realm, _realm_key(key_bytes)), "", "signature")
    keys = [k for file in given.files for k in _anchors(file, claims.get(INSTANCE))]
    if found.check("platform key", bool(keys), "" if keys else "none of it given", "collateral-missing"):
        signed = any(_verifies(platform, k) for k in keys)
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
    if not isinstance(top, cose.Tag) or not isinstance(top.value, dict):
        raise Malformed("not a CCA token")
    if top.number not in (TAG, CMW_TAG) or set(top.value) != {PLATFORM, REALM}:
        raise Malformed("not a CCA token")
    tokens = [top.value[k] for k in (PLATFORM, REALM)]
    if top.number == CMW_TAG:
        if not all(isinstance(t, list) and len(t) == 2 and t[0] == EAT_CWT for t in tokens):
            raise Malformed("CCA token in a collection of another form")
        tokens = [t[1] for t in tokens]
    if not all(isinstance(t, bytes) for t in tokens):
        raise Malformed("not a CCA token")
    parts = [cose.sign1(cose.read(t), unprotected=True) for t in tokens]
    if any(_one_of(p.headers.get(1), ALGORITHMS) is None or not set(p.headers) <= HEADERS for p in parts):
        raise Malformed("CCA token with another signature than ES256, ES384 or ES512")
    return parts[0], parts[1]


def _one_of(value: Any, known: dict[int, Any]) -> Any:
    """What `known` has for a number; None for anything else, lists and maps of hostile tokens included."""
    return known.get(value) if type(value) is int else None


def _verifies(part: cose.Sign1, key: Any) -> bool:
    hash_name, _, bits = ALGORITHMS[part.headers[1]]
    return bool(key.key_size == bits) and part.verifies(key, hash_name)


def _claims(part: cose.Sign1) -> dict[int | str, Any]:
    claims = cose.read(part.payload)
    if not isinstance(claims, dict):
        raise Malformed("CCA token without claims")
    return claims


def _realm_key(raw: bytes) -> Any:
    """A raw P-384 point, or a COSE_Key in the newer profile."""
    if raw[:1] == b"\4" and len(raw) == 97:
        return certs.point("p384", raw[1:])
    key = cose.read(raw)
    curve = _one_of(key.get(-1), CURVES) if isinstance(key, dict) and key.get(1) == 2 else None
    if curve is None:
        raise Malformed("the realm key is no key of a known curve")
    x, y = key.get(-2), key.get(-3)
    if not (isinstance(x, bytes) and isinstance(y, bytes) and len(x) == len(y)):
        raise Malformed("the realm key is no key of a known curve")
    return certs.point(curve, x + y)


def _anchors(data: bytes, instance: Any) -> list[Any]:
    """The keys of a file: one JWK, or a list of trust anchors, of which those of this `instance` count."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return []
    out = []
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict):
            continue
        named = entry.get("instance-id")
        if named is None or (isinstance(instance, bytes) and named == instance.hex()):
            out.append(_jwk(entry.get("pkey", entry)))
    return [k for k in out if k is not None]


def _jwk(value: Any) -> Any:
    """The key of a JWK; None for anything else."""
    try:
        if value["kty"] != "EC" or value["crv"] not in JWK_CURVES:
            return None
        xy = b"".join(base64.urlsafe_b64decode(value[c] + "==") for c in "xy")
        return certs.point(JWK_CURVES[value["crv"]], xy)
    except (ValueError, TypeError, KeyError, Malformed):
        return None
