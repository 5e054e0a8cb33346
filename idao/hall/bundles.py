"""The collateral that a home keeps: taken in, listed, shown, fetched anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idao.errors import IdaoError, Malformed, NotFound, UsageError
from idao.frozen import frozen
from idao.home import TIME_MS_MAX, now_ms, show_time, write_file
from idao.model import PREFIX_MIN
from idao.store import givenfile
from idao.store.bundles import SUFFIX, find, folder, keep_evidence, last_evidence, path_of
from idao.tee import collateral
from idao.tee.given import FILE_BYTES_MAX

__all__ = ["SUFFIX", "find", "folder", "keep_evidence", "last_evidence"]


@frozen
class Kept:
    """A bundle of this home with its bytes."""

    name: bytes
    data: bytes
    bundle: collateral.Bundle


def read_file(path: Path) -> bytes:
    """A file of evidence, collateral or a key. Refused when it is missing or larger than any real one."""
    try:
        with givenfile.opened(path) as f:
            data = f.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"no such file: '{path}'") from None
    except OSError as e:
        raise UsageError(f"cannot read '{path}': {e.strerror}") from e
    if len(data) > FILE_BYTES_MAX:
        raise Malformed(f"'{path}' is larger than any evidence or collateral", code="too-large")
    return data


def read_files(paths: Sequence[Path]) -> list[tuple[str, bytes]]:
    """(name, bytes) of files; of a folder, all that is in it, by name."""
    out = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        out += [(one.name, read_file(one)) for one in inside]
    return out


def keep(home: Path, bundle: collateral.Bundle) -> Path:
    path = path_of(home, bundle.digest)
    write_file(path, collateral.dump(bundle), 0o644)
    return path


def listed(home: Path) -> list[Kept]:
    """All that are kept, newest first."""
    out = []
    for path in sorted(folder(home).glob(f"*{SUFFIX}")):
        data = read_file(path)
        bundle = collateral.load(data)
        out.append(Kept(bundle.digest, data, bundle))
    return sorted(out, key=lambda k: (-k.bundle.fetched_ms, k.name))


STORED_MAX = 16
"""Newest bundles looked at for what became known later: each is tried on every cosigner of a proof."""


def stored(home: Path) -> list[bytes]:
    """The bytes of the newest bundle files, unread; those that cannot be opened are left out."""
    found: list[tuple[float, bytes]] = []
    for path in folder(home).glob(f"*{SUFFIX}"):
        try:
            found.append((path.stat().st_mtime, read_file(path)))
        except (IdaoError, OSError):
            continue
    return [data for _, data in sorted(found, key=lambda f: -f[0])[:STORED_MAX]]


def named(home: Path, text: str) -> Kept:
    """A kept bundle by the beginning of its name (hex); empty text is the newest."""
    kept = listed(home)
    if not kept:
        raise NotFound("no collateral here", hint="idao tee collateral update, or import FILE")
    found = [k for k in kept if k.name.hex().startswith(text)]
    if not found or (text and len(text) < PREFIX_MIN):
        raise NotFound(f"no collateral '{text}' here", hint="see 'idao tee collateral show'")
    if text and len(found) > 1:
        raise NotFound(f"more than one bundle answers to '{text}'", hint="give more of its name")
    return found[0]


def take_in(
    home: Path, files: Sequence[tuple[str, bytes]], kind: str, *, dry: bool = False
) -> list[collateral.Bundle]:
    """Keeps bundle files as they are, and makes one bundle of all others."""
    made = [collateral.load(data) for _, data in files if collateral.looks_like(data)]
    rest = [(name[:64], data) for name, data in files if not collateral.looks_like(data)]
    if rest:
        made.append(collateral.make(kind, rest, fetched_ms=now_ms(), source="import"))
    for bundle in () if dry else made:
        keep(home, bundle)
    return made


def update(home: Path, evidence: bytes, *, dry: bool = False) -> tuple[str, list[collateral.Bundle]]:
    """(kind of the evidence, what its vendor states of it today, now kept): nothing for a kind without.

    `Unreachable` (exit code 11) without network.
    """
    from idao.tee import envelope, fetch

    kind = envelope.parse(evidence).kind
    if dry or kind not in fetch.KINDS:
        return kind, []
    bundle = fetch.update(evidence, now_ms())
    keep(home, bundle)
    return kind, [bundle]


def show(bundle: collateral.Bundle, at_ms: int) -> dict[str, Any]:
    """As JSON: its window, and each thing in it."""
    return {
        "collateral": bundle.digest.hex(),
        "kind": bundle.kind,
        "source": bundle.source,
        "fetched": show_ms(bundle.fetched_ms),
        "not_before": show_ms(bundle.not_before_ms),
        "not_after": show_ms(bundle.not_after_ms),
        "valid": bundle.not_before_ms <= at_ms <= bundle.not_after_ms,
        "parts": [
            {
                "name": row.name,
                "not_before": show_ms(row.not_before_ms),
                "not_after": show_ms(row.not_after_ms),
                "valid": row.valid,
            }
            for row in collateral.show(bundle, at_ms)
        ],
    }


def show_ms(ms: int | None) -> str | None:
    """RFC 3339, or None for no time or one past what that can write."""
    # Certificates that never end go past what can be said.
    return show_time(ms) if ms is not None and 0 <= ms <= TIME_MS_MAX else None
