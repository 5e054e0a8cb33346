"""Making a backup while everything runs.

The order of what goes in makes it consistent without stopping anybody: packs, which never change; ledgers;
then `home.db`, which knows every version that those ledgers name; then packs it has learned of since; then
the keys, never older than a ledger's.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from idao.dao import Dao
from idao.errors import IdaoError
from idao.frozen import frozen
from idao.home import Home, entropy, file_lock, now_ms, show_time, sync_folder
from idao.node import peerbook
from idao.store import backup as files
from idao.store import home_db, ledger, moments
from idao.store.packs import SUFFIX, disk_error

PUBLIC = "backup.pub"
COPY_BYTES = 1 << 20
KEY_FILES_MAX = 10_000
SNAPSHOTS_MAX = 5
"""Times that `home.db` is copied anew because a pack was forgotten meanwhile."""
LEFT_OUT = ("phrase.key",)
"""Who restores has the phrase; a copy in every backup helps thieves alone."""
NAME_ALLOWED = re.compile(
    r"config\.toml|home\.db|keys/[\w-]{1,64}(\.[\w-]{1,16})?|keys/members/[\w-]{1,64}\.(key|history)"
    r"|keys/tls/node\.pem|ledgers/[a-z2-7]{52}\.(db|peers)|packs/[\w-]{1,128}\.pack"
)

Progress = Callable[[int, int, int, int], None]
"""(bytes done, bytes in all, files done, files in all)."""


class Meter:
    """Adds up bytes for a progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._at = progress, total, 0

    def __call__(self, size: int) -> None:
        self._at += size
        if self._progress:
            self._progress(self._at, max(self._total, self._at), 0, 0)


@frozen
class Made:
    """A backup that is on disk, and was read back."""

    path: Path
    size: int
    made_ms: int
    ledgers: int
    packs: int
    passphrase: bool
    """Whether the passphrase opens it too."""
    missing: tuple[str, ...]
    """Packs and ledgers that the home should have and has not."""
    noted: bool
    """Whether the home could write down that it was made."""


def new_file(home: Home, folder: Path, at_ms: int) -> Path:
    """A name in `folder` that says whose and when, and is not taken. Names sort by time."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", str(home.get("idao", "name", ""))).strip("-")[:40] or "home"
    when = re.sub(r"[-:.]", "", show_time(at_ms))
    path = folder / f"idao-{when}-{name}.idao-backup"
    return path if not path.exists() else new_file(home, folder, at_ms + 1)


def create(dao: Dao, out: Path, *, with_passphrase: bool, progress: Progress | None = None) -> Made:
    """Writes a backup of the home to `out`, replacing what is there. Needs no key unless `with_passphrase`.

    The file appears whole or not at all. Refusals: `IdaoError` (`disk-full`, `disk`), `Busy`, `Locked`.
    """
    home = dao.home
    key = files.read_key(read_key_file(home.keys_folder / PUBLIC))
    file_key, made_ms = entropy(32), now_ms()
    opens = with_passphrase and home.needs_passphrase()
    more = (read_key_file(home.keys_folder / "lock"), dao.keys().kek) if opens else (b"", b"")
    header = files.make_header(key, file_key, made_ms, *more)
    part = out.with_name(f".{out.name}.part")
    try:
        with _scratch(home, dao.wait_s) as scratch:
            meter = Meter(progress, _sizes(home))
            with open(part, "wb", opener=private) as file:
                writer = files.Writer(file, header, file_key)
                packing = _Packing(home, scratch, writer, meter)
                packing.run()
                writer.finish()
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            files.check_bytes(part)
            os.replace(part, out)
            sync_folder(out.parent)
    except OSError as e:
        raise disk_error(e, f"writing {out}") from e
    finally:
        with suppress(OSError):
            part.unlink()
    noted = note(home, moments.BACKUP_MADE, made_ms)
    counts = packing.ledgers, len(packing.packs), opens, tuple(packing.missing)
    return Made(out, out.stat().st_size, made_ms, *counts, noted)


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_key_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise IdaoError(
            f"'{path}' cannot be read: {e.strerror}", hint="see 'idao doctor'", code="disk"
        ) from e


def _sizes(home: Home) -> int:
    found = [home.database, *home.ledgers_folder.glob("*.db"), *(home.path / "packs").glob(f"*{SUFFIX}")]
    return sum(p.stat().st_size for p in found if p.exists())


@contextmanager
def _scratch(home: Home, wait_s: float) -> Iterator[Path]:
    """A private folder for copies of databases: in the home, or elsewhere if that cannot be written."""
    if not os.access(home.path, os.W_OK):
        with tempfile.TemporaryDirectory(prefix="idao-backup-") as name:
            yield Path(name)
        return
    with file_lock(home.path / "backup.lock", wait_s):
        folder = home.path / ".backup"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Packing:
    """One archive in the making."""

    def __init__(self, home: Home, scratch: Path, writer: files.Writer, meter: Meter) -> None:
        self._home, self._scratch, self._meter = home, scratch, meter
        self._tar = tarfile.open(  # noqa: SIM115 - closed by `run`
            fileobj=writer, mode="w|", bufsize=COPY_BYTES, format=tarfile.PAX_FORMAT
        )
        # Else the stream's own buffer is copied for each 16 KiB.
        self._tar.copybufsize = COPY_BYTES  # type: ignore[attr-defined]
        self.packs: set[str] = set()
        self.missing: list[str] = []
        self.ledgers = 0

    def run(self) -> None:
        home = self._home
        self._add_packs(files.packs_of(home.database))
        for path in sorted(home.ledgers_folder.glob("*.db")):
            self._add(f"ledgers/{path.name}", self._snapshot(path, ledger.VERSION))
            self.ledgers += 1
            with suppress(FileNotFoundError):  # a quorum of one knows no others
                peers = peerbook.path_of(path)
                self._add_bytes(f"ledgers/{peers.name}", peers.read_bytes())
        self.missing += [
            f"ledgers/{stem}.db"
            for stem in home.config.get("ledgers", {})
            if not (home.ledgers_folder / f"{stem}.db").exists()
        ]
        copy = self._index()
        self._add("home.db", copy)
        for name, data in _stable_keys(home):
            self._add_bytes(name, data)
        self._add_bytes("config.toml", read_key_file(home.path / "config.toml"))
        self._tar.close()

    def _snapshot(self, path: Path, version: int) -> Path:
        copy = self._scratch / path.name
        copy.unlink(missing_ok=True)
        files.snapshot(path, copy, version)
        return copy

    def _index(self) -> Path:
        """A copy of home.db all of whose packs are in the archive."""
        for left in reversed(range(SNAPSHOTS_MAX)):
            copy = self._snapshot(self._home.database, home_db.USER_VERSION)
            absent = self._add_packs(files.packs_of(copy))
            if not absent or not left:
                break
        self.missing += absent
        return copy

    def _add_packs(self, known: dict[str, int]) -> list[str]:
        """Those not there yet; the names of those that are not on disk."""
        absent = []
        for name in known:
            if name not in self.packs:
                stored = f"packs/{name}{SUFFIX}"
                try:
                    self._add(stored, self._home.path / stored)
                    self.packs.add(name)
                except FileNotFoundError:
                    absent.append(stored)
        return absent

    def _add(self, name: str, path: Path) -> None:
        if not path.is_file():  # a named pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        with path.open("rb") as file:
            info = tarfile.TarInfo(name)
            info.size = os.fstat(file.fileno()).st_size
            self._tar.addfile(info, _Metered(file, self._meter))

    def _add_bytes(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))


class _Metered:
    def __init__(self, file: BinaryIO, meter: Meter) -> None:
        self._file, self._meter = file, meter

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._meter(len(data))
        return data


def _stable_keys(home: Home) -> list[tuple[str, bytes]]:
    """All key files as of one moment, although a rotation may be turning them."""
    before = None
    while before != (now := _key_files(home)):
        before = now
    return now


def _key_files(home: Home) -> list[tuple[str, bytes]]:
    found = []
    for path in sorted(home.keys_folder.rglob("*"))[:KEY_FILES_MAX]:
        name = f"keys/{path.relative_to(home.keys_folder)}"
        if path.is_file() and path.name not in LEFT_OUT and NAME_ALLOWED.fullmatch(name):
            with suppress(FileNotFoundError):
                found.append((name, path.read_bytes()))
    return found


def note(home: Home, what: str, at_ms: int) -> bool:
    """Has the home remember a moment. False where it cannot: read-only, or of an older format."""
    if not os.access(home.database, os.W_OK):
        return False
    try:
        with closing(home_db.open_home_db(home.database)) as db:
            moments.remember(db, what, at_ms)
    except IdaoError as e:
        if e.code != "older":  # a backup may be wanted before it is migrated
            raise
        return False
    return True
