"""Backups: making one while everything runs, proving that it can be restored, restoring it.

The order of what goes in makes it consistent without stopping anybody: packs, which never change; ledgers;
then `home.db`, which knows every version that those ledgers name; then packs it has learned of since; then
the keys, never older than a ledger's.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from idao import identity
from idao.crypto import phrase, seal
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.errors import IdaoError, Locked, NotFound, UsageError, VerificationFailed
from idao.frozen import frozen
from idao.hall.recovery import Continued, Succession, alone, stranded
from idao.home import Home, entropy, file_lock, now_ms, show_time, sync_folder
from idao.model import show_id
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
    r"|ledgers/[a-z2-7]{52}\.db|packs/[\w-]{1,128}\.pack"
)
STAGE = ".idao-restore"
MAY_BE_LEFT = {STAGE, "keys", "ledgers", "packs", "home.db", "home.db-wal", "home.db-shm", "lock"}
"""What a restore that was cut short can have left in the new home's folder."""

Progress = Callable[[int, int, int, int], None]
"""(bytes done, bytes in all, files done, files in all)."""


class _Meter:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._at = progress, total, 0

    def __call__(self, size: int) -> None:
        self._at += size
        if self._progress:
            self._progress(self._at, max(self._total, self._at), 0, 0)


# --- making -------------------------------------------------------------------------------------------


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
    """Packs that the home should have and has not."""
    noted: bool
    """Whether the home could write down that it was made."""


def default_name(home: Home, at_ms: int) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", str(home.get("idao", "name", ""))).strip("-")[:40] or "home"
    when = re.sub(r"[-:]|\.\d+", "", show_time(at_ms))
    return f"idao-{name}-{when}.idao-backup"


def create(dao: Dao, out: Path, *, with_passphrase: bool, progress: Progress | None = None) -> Made:
    """Writes a backup of the home to `out`, replacing what is there. Needs no key unless `with_passphrase`.

    The file appears whole or not at all. Refusals: `IdaoError` (`disk-full`, `disk`), `Busy`, `Locked`.
    """
    home = dao.home
    key = files.read_key(_read(home.keys_folder / PUBLIC))
    file_key, made_ms = entropy(32), now_ms()
    opens = with_passphrase and home.needs_passphrase()
    more = (_read(home.keys_folder / "lock"), dao.keys().kek) if opens else (b"", b"")
    header = files.make_header(key, file_key, made_ms, *more)
    part = out.with_name(f".{out.name}.part")
    try:
        with _scratch(home, dao.wait_s) as scratch:
            meter = _Meter(progress, _sizes(home))
            with open(part, "wb", opener=_private) as file:
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
    noted = _note(home, moments.BACKUP_MADE, made_ms)
    counts = packing.ledgers, len(packing.packs), opens, tuple(packing.missing)
    return Made(out, out.stat().st_size, made_ms, *counts, noted)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(path: Path) -> bytes:
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

    def __init__(self, home: Home, scratch: Path, writer: files.Writer, meter: _Meter) -> None:
        self._home, self._scratch, self._meter = home, scratch, meter
        self._tar = tarfile.open(  # noqa: SIM115 - closed by `run`
            fileobj=writer, mode="w|", bufsize=COPY_BYTES, format=tarfile.PAX_FORMAT
        )
        self.packs: set[str] = set()
        self.missing: list[str] = []
        self.ledgers = 0

    def run(self) -> None:
        home = self._home
        self._add_packs(files.packs_of(home.database))
        for path in sorted(home.ledgers_folder.glob("*.db")):
            self._add(f"ledgers/{path.name}", self._snapshot(path, ledger.VERSION))
            self.ledgers += 1
        copy = self._index()
        self._add("home.db", copy)
        for name, data in _stable_keys(home):
            self._add_bytes(name, data)
        self._add_bytes("config.toml", _read(home.path / "config.toml"))
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
        self.missing = absent
        return copy

    def _add_packs(self, known: dict[str, int]) -> list[str]:
        """Those not there yet; the names of those that are not on disk."""
        absent = []
        for name in known:
            if name not in self.packs:
                try:
                    self._add(f"packs/{name}{SUFFIX}", self._home.path / "packs" / f"{name}{SUFFIX}")
                    self.packs.add(name)
                except FileNotFoundError:
                    absent.append(f"packs/{name}{SUFFIX}")
        return absent

    def _add(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            info = tarfile.TarInfo(name)
            info.size = os.fstat(file.fileno()).st_size
            self._tar.addfile(info, _Metered(file, self._meter))

    def _add_bytes(self, name: str, data: bytes) -> None:
        import io

        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))


class _Metered:
    def __init__(self, file: BinaryIO, meter: _Meter) -> None:
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


def _note(home: Home, what: str, at_ms: int) -> bool:
    if not os.access(home.database, os.W_OK):
        return False
    with closing(home_db.open_home_db(home.database)) as db:
        moments.remember(db, what, at_ms)
    return True


# --- opening ------------------------------------------------------------------------------------------


@frozen
class Opener:
    """What opens a backup: the 24 words, or a passphrase."""

    words: str | None = None
    passphrase: str | None = None

    @property
    def secret(self) -> bytes:
        return phrase.backup_key(phrase.seed_from(self.words or ""))


def unpack(path: Path, opener: Opener, target: Path, progress: Progress | None) -> bytes:
    """Checks the bytes, opens the backup and writes all its files below `target`. Returns the home's KEK."""
    meter = _Meter(progress, 2 * path.stat().st_size)
    files.check_bytes(path, meter)
    with path.open("rb") as file:
        header = files.read_header(file)
        kek = None
        if opener.words is not None:
            file_key = files.open_with_phrase(header, opener.secret)
        elif not header.lock:
            raise Locked("this backup opens with the recovery phrase alone", hint="add --phrase-file FILE")
        else:
            kek = seal.open_lock(header.lock, opener.passphrase)
            file_key = files.open_with_kek(header, kek)
        reader = files.Reader(file, header, file_key, meter)
        _extract(reader, target)
    return kek or files.open_kek(_read(target / "keys" / PUBLIC), opener.secret)


def _extract(reader: files.Reader, target: Path) -> None:
    try:
        with tarfile.open(fileobj=reader, mode="r|", bufsize=COPY_BYTES) as tar:
            for info in tar:
                source = tar.extractfile(info) if info.isreg() else None
                if source is None or not NAME_ALLOWED.fullmatch(info.name):
                    raise files.damaged(f"it holds what no home has: {info.name[:200]!r}")
                _place(source, target / info.name)
        while reader.read(COPY_BYTES):
            pass  # to the last block, which says that it is the last
    except tarfile.TarError as e:
        raise files.damaged(f"its archive cannot be read ({e})") from e
    for folder in ("keys", "ledgers", "packs"):
        (target / folder).mkdir(mode=0o700, exist_ok=True)
        sync_folder(target / folder)
    sync_folder(target)


def _place(source: Any, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(path, "xb", opener=_private) as file:
            shutil.copyfileobj(source, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise files.damaged(f"it holds {path.name!r} twice") from None
    except OSError as e:
        raise disk_error(e, f"writing {path}") from e


# --- verifying ----------------------------------------------------------------------------------------


@frozen
class Check:
    name: str
    ok: bool
    detail: str

    def shown(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


def inspect(path: Path, progress: Progress | None = None) -> files.Header:
    """Without any secret: every byte against the hash at the end. `VerificationFailed`, `NotFound`."""
    if not path.is_file():
        raise NotFound(f"no such file: '{path}'")
    return files.check_bytes(path, _Meter(progress, path.stat().st_size))


def drill(path: Path, opener: Opener, progress: Progress | None = None) -> tuple[bytes | None, list[Check]]:
    """The whole restore in a temporary folder: (iDAO, checks). `Locked` with a wrong phrase or passphrase."""
    checks: list[Check] = []
    own = None
    with tempfile.TemporaryDirectory(prefix="idao-drill-") as name:
        folder = Path(name)
        try:
            kek = unpack(path, opener, folder, progress)
            count = sum(1 for p in folder.rglob("*") if p.is_file())
            checks.append(Check("file", True, f"{path.stat().st_size} bytes, {count} files open"))
            for what, look in _drills(folder, kek, opener):
                checks.append(_looked(what, look))
            own = Dao(Home(folder)).me
        except Locked:
            raise
        except IdaoError as e:
            checks.append(Check(e.code, False, e.message))
    return own, checks


def _looked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except IdaoError as e:
        return Check(name, False, e.message)


def _drills(folder: Path, kek: bytes, opener: Opener) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "keys", partial(_check_keys, folder, kek, opener)
    yield "home.db", partial(_check_index, folder)
    for path in sorted((folder / "ledgers").glob("*.db")):
        yield f"ledger {path.stem}", partial(_check_ledger, path, opener)
    yield "contents", partial(_check_contents, folder, kek)


def _check_keys(folder: Path, kek: bytes, opener: Opener) -> str:
    home = Home(folder)
    history = home.history()
    now = identity.key_at(history.inception, history.events)
    if home.open_keys(kek).identity.public != now.key:
        raise VerificationFailed("the identity key is not that of the history")
    if opener.words is not None and identity.incept(phrase.seed_from(opener.words)) != history.inception:
        raise VerificationFailed("the recovery phrase is not that of the iDAO in this backup")
    for name in home.members():
        home.member_signer(name, kek)
    return f"{show_id('idao', now.idao)}, key number {now.key_seq}"


def _check_index(folder: Path) -> str:
    with closing(home_db.open_home_db(folder / "home.db", readonly=True)) as db:
        found = [str(row[0]) for row in db.execute("pragma integrity_check(10)")]
        versions = db.execute("select count(*) from version").fetchone()[0]
    if found != ["ok"]:
        raise VerificationFailed("; ".join(found))
    return f"{versions} versions"


def _check_ledger(path: Path, opener: Opener | None) -> str:
    from idao.store.audit import audit

    report = audit(path)
    if report.findings:
        shown = "; ".join(f"{where}: {what}" for where, what in report.findings[:10])
        raise VerificationFailed(f"{len(report.findings)} findings: {shown}")
    if opener is not None and opener.words is not None:
        authority = Signer(phrase.authority_key(phrase.seed_from(opener.words))).public
        with closing(ledger.LedgerStore.open(path, readonly=True)) as store:
            genesis = store.bundle.genesis
            if len(genesis.validators.validators) == 1 and authority not in genesis.recovery_keys:
                raise VerificationFailed("this phrase may not continue the quorum")
    return f"{report.blocks} blocks, {report.receipts} receipts: everything follows from genesis"


def _check_contents(folder: Path, kek: bytes) -> str:
    from idao.store.contents import Contents

    with Contents(folder, Home(folder).open_keys(kek).data, readonly=True) as contents:
        findings = contents.check()
        versions = sum(1 for _ in contents.versions())
    if findings:
        shown = "; ".join(f"{f.where}: {f.what}" for f in findings[:10])
        raise VerificationFailed(f"{len(findings)} findings: {shown}")
    return f"every chunk of {versions} versions"


def note_verified(path: Path, own: bytes) -> bool:
    """Writes down in the home at `path`, if it is that iDAO's, that a backup was shown to restore."""
    try:
        home = Home.open(path)
        return Dao(home).me == own and _note(home, moments.BACKUP_VERIFIED, now_ms())
    except IdaoError:
        return False


# --- restoring ----------------------------------------------------------------------------------------


@frozen
class Restored:
    home: Path
    idao: bytes
    name: str
    made_ms: int
    quorums: tuple[Continued, ...]
    waiting: tuple[bytes, ...]
    """Quorums with other validators: signing there waits until they are back in step."""
    findings: tuple[Check, ...]
    """What is wrong with the contents; they are restored all the same."""


def restore(
    path: Path,
    target: Path,
    words: str,
    *,
    name: str | None = None,
    relock: bool = False,
    passphrase: str | None = None,
    wait_s: float = 30.0,
    progress: Progress | None = None,
) -> Restored:
    """Into an empty home. It exists once its config.toml does, which is moved in last.

    With `relock` the keys get a new lock: `passphrase`, or none.
    """
    header = inspect(path)
    files.open_with_phrase(header, phrase.backup_key(phrase.seed_from(words)))
    require_empty(target)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file_lock(target / "lock", wait_s):
            _clear(target)
            stage = target / STAGE
            stage.mkdir(mode=0o700)
            kek = unpack(path, Opener(words), stage, progress)
            restored = _revive(stage, target, words, kek, name, header.made_ms, wait_s)
            if relock:
                Home(stage).relock(kek, passphrase)
            _move_in(stage, target)
    except OSError as e:
        raise disk_error(e, f"restoring to {target}") from e
    return restored


def require_empty(target: Path) -> None:
    """`UsageError` for a folder that holds anything but what a restore left that was cut short."""
    if (target / "config.toml").exists():
        raise UsageError(
            f"there is an iDAO here already: '{target}'", hint="name an empty folder with '--home DIR'"
        )
    if target.exists() and not target.is_dir():
        raise UsageError(f"'{target}' is not a folder")
    here = {p.name for p in target.iterdir()} if target.exists() else set()
    if here - (MAY_BE_LEFT if STAGE in here else {"lock"}):
        raise UsageError(f"'{target}' is not empty", hint="name an empty folder with '--home DIR'")


def _clear(target: Path) -> None:
    """What a restore that was cut short left: nobody was told of it."""
    if (target / STAGE).exists():
        for name in MAY_BE_LEFT - {STAGE, "lock"}:
            shutil.rmtree(target / name, ignore_errors=True)
            with suppress(OSError):
                (target / name).unlink()
        shutil.rmtree(target / STAGE)


def _revive(
    stage: Path, target: Path, words: str, kek: bytes, name: str | None, made_ms: int, wait_s: float
) -> Restored:
    home = Home(stage)
    opener = Opener(words)
    _check_keys(stage, kek, opener)
    paths = sorted(home.ledgers_folder.glob("*.db"))
    for one in paths:
        _check_ledger(one, None)
        with closing(ledger.LedgerStore.open(one)) as store:
            store.quarantine()
    if name is not None:
        home.config.setdefault("idao", {})["name"] = name
        home.save_config()
    keys, me = home.open_keys(kek), Dao(home).me
    continued = []
    for one in stranded(home, me):
        continued.append(Succession(home, keys, phrase.seed_from(words), one, wait_s).run(name))
        home = Home(stage)
    findings = [_looked("contents", partial(_check_contents, stage, kek))]
    return Restored(
        home=target,
        idao=me,
        name=str(home.get("idao", "name", "")),
        made_ms=made_ms,
        quorums=tuple(continued),
        waiting=tuple(_with_others(paths, me)),
        findings=tuple(f for f in findings if not f.ok),
    )


def _with_others(paths: Sequence[Path], me: bytes) -> Iterator[bytes]:
    for path in paths:
        with closing(ledger.LedgerStore.open(path, readonly=True)) as store:
            if not alone(store, me):
                yield store.chain.quorum


def _move_in(stage: Path, target: Path) -> None:
    for entry in sorted(stage.iterdir()):
        if entry.name not in ("config.toml", "lock"):
            os.rename(entry, target / entry.name)
    sync_folder(target)
    os.rename(stage / "config.toml", target / "config.toml")
    sync_folder(target)
    shutil.rmtree(stage, ignore_errors=True)
