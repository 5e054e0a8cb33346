"""The collateral and evidence that a home keeps: files named by their hash, in `tee/`.

What this home fetched or imported lies in the folder itself; what other members' evidence names, in a folder
for each quorum below it, where only that is kept which the ledger names now.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from idao.crypto.hashing import Kind, digest
from idao.errors import VerificationFailed
from idao.home import write_file

SUFFIX = ".bundle"
PEERS = "peers"
EVIDENCE = ".evidence"


def folder(home: Path) -> Path:
    return home / "tee"


def path_of(home: Path, name: bytes) -> Path:
    """Where this home's own bundle of that name is."""
    return folder(home) / f"{name.hex()}{SUFFIX}"


def find(home: Path, name: bytes) -> bytes | None:
    """The bytes of the bundle of that name, if it is kept here at all; unread."""
    own = path_of(home, name)
    for path in (own, *(folder(home) / PEERS).glob(f"*/{own.name}")):
        try:
            return path.read_bytes()
        except OSError:
            continue
    return None


def keep_evidence(home: Path, data: bytes) -> None:
    """Keeps the newest evidence that this machine made, and no older one."""
    kept = folder(home) / f"{_digest(data)}{EVIDENCE}"
    write_file(kept, data)
    for path in folder(home).glob(f"*{EVIDENCE}"):
        if path != kept:
            path.unlink(missing_ok=True)


def last_evidence(home: Path) -> bytes | None:
    """The newest evidence that this machine made. `VerificationFailed` where the file is damaged."""
    found = sorted(folder(home).glob(f"*{EVIDENCE}"), key=lambda path: path.stat().st_mtime_ns)
    return read_evidence(found[-1]) if found else None


def read_evidence(path: Path) -> bytes:
    data = path.read_bytes()
    if path.stem != _digest(data):
        raise VerificationFailed(
            f"'{path}' is damaged: it is not what its name says", hint="make it anew: idao tee attest"
        )
    return data


def _digest(data: bytes) -> str:
    return digest(Kind.HOME_FILE, data).hex()


def keep_of_peer(home: Path, quorum: bytes, name: bytes, data: bytes) -> None:
    """Keeps what evidence on a quorum's ledger names."""
    write_file(folder(home) / PEERS / quorum.hex() / f"{name.hex()}{SUFFIX}", data, 0o644)


def drop_others(home: Path, quorum: bytes, named: Collection[bytes]) -> None:
    """Removes what no evidence on the quorum's ledger names any more."""
    wanted = {f"{name.hex()}{SUFFIX}" for name in named}
    for path in (folder(home) / PEERS / quorum.hex()).glob(f"*{SUFFIX}"):
        if path.name not in wanted:
            path.unlink(missing_ok=True)
