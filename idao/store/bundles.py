"""The collateral that a home keeps: bundles as files named by their hash, in `tee/`.

What this home fetched or imported lies in the folder itself; what other members' evidence names, in a folder
for each quorum below it, where only that is kept which the ledger names now.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from idao.home import write_file

SUFFIX = ".bundle"
PEERS = "peers"


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


def keep_of_peer(home: Path, quorum: bytes, name: bytes, data: bytes) -> None:
    """Keeps what evidence on a quorum's ledger names."""
    write_file(folder(home) / PEERS / quorum.hex() / f"{name.hex()}{SUFFIX}", data, 0o644)


def drop_others(home: Path, quorum: bytes, named: Collection[bytes]) -> None:
    """Removes what no evidence on the quorum's ledger names any more."""
    wanted = {f"{name.hex()}{SUFFIX}" for name in named}
    for path in (folder(home) / PEERS / quorum.hex()).glob(f"*{SUFFIX}"):
        if path.name not in wanted:
            path.unlink(missing_ok=True)
