"""What a home keeps of its assets besides contents: cards, terms, score cards, salts. Sealed."""

from __future__ import annotations

import sqlite3

from idao.crypto.hashing import derive_secret
from idao.store.home_db import summed

NONCE, MANIFEST, CARD, POLICY, REPORT, FINGERPRINT = (
    "nonce", "manifest", "card", "policy", "report", "fingerprint",
)  # fmt: skip


class Documents:
    """Documents by (asset, version, kind). The caller owns the connection to home.db."""

    def __init__(self, db: sqlite3.Connection, data_key: bytes) -> None:
        self._db, self._key = db, derive_secret("idao 1 documents", data_key)

    def put(self, asset: bytes, version: int, kind: str, salt: bytes, body: bytes) -> None:
        from idao.store.seal import wrap

        purpose = _purpose(asset, version, kind)
        self._db.execute(
            summed("document", "insert or replace"),
            (asset, version, kind, salt, wrap(self._key, body, purpose)),
        )

    def get(self, asset: bytes, version: int, kind: str) -> tuple[bytes, bytes] | None:
        """(salt, body), or None when this home has none."""
        from idao.store.seal import unwrap

        row = self._db.execute(
            "select salt, body from document where asset = ? and version = ? and kind = ?",
            (asset, version, kind),
        ).fetchone()
        return None if row is None else (row[0], unwrap(self._key, row[1], _purpose(asset, version, kind)))

    def versions_with(self, kind: str) -> list[tuple[bytes, int]]:
        """(asset, version) of every document of a kind, in order."""
        rows = self._db.execute(
            "select asset, version from document where kind = ? order by asset, version", (kind,)
        )
        return [(row[0], row[1]) for row in rows]

    def of_manifest(self, ref: bytes) -> list[tuple[bytes, int]]:
        """(asset, version) of each with this manifest, newest first: one that changes terms alone shares it,
        and so does what a run left that was cut short before it signed."""
        rows = self._db.execute(
            "select asset, version from document where salt = ? and kind = ? order by version desc, asset",
            (ref, MANIFEST),
        )
        return [(row[0], row[1]) for row in rows]

    def manifests(self) -> list[tuple[bytes, int, bytes]]:
        """(asset, version, manifest) of all that is noted here."""
        return manifests(self._db)

    def forget(self, asset: bytes, version: int) -> None:
        self._db.execute("delete from document where asset = ? and version = ?", (asset, version))


def manifests(db: sqlite3.Connection) -> list[tuple[bytes, int, bytes]]:
    """The same without the key: which asset a version of contents is, is no secret here."""
    query = "select asset, version, salt from document where kind = ? order by asset, version"
    return [(row[0], row[1], row[2]) for row in db.execute(query, (MANIFEST,))]


def _purpose(asset: bytes, version: int, kind: str) -> bytes:
    return b"document %s %d " % (kind.encode(), version) + asset
