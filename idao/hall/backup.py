"""Backups: proving that one can be restored, and restoring it. `hall.packing` makes them."""

from __future__ import annotations

import os
import shutil
import signal
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from idao import identity
from idao.crypto import phrase, seal
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.errors import IdaoError, Locked, NotFound, UsageError, VerificationFailed
from idao.frozen import frozen
from idao.hall.packing import COPY_BYTES, NAME_ALLOWED, PUBLIC, Meter, Progress, note, private, read_key_file
from idao.hall.recovery import Continued, Succession, alone, going_on
from idao.home import Home, file_lock, now_ms, sync_folder
from idao.model import show_id
from idao.store import backup as files
from idao.store import givenfile, home_db, ledger, migrate, moments
from idao.store.packs import disk_error

STAGE = ".idao-restore"
MAY_BE_LEFT = {
    STAGE,
    migrate.COPIES,
    "keys",
    "ledgers",
    "packs",
    "home.db",
    "home.db-wal",
    "home.db-shm",
    "lock",
}
"""What a restore that was cut short can have left in the new home's folder."""


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
    meter = Meter(progress, 2 * path.stat().st_size)
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
    for step in migrate.steps(target):  # an older idao may have made it
        migrate.run(target, step)
    return kek or files.open_kek(read_key_file(target / "keys" / PUBLIC), opener.secret)


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
        with open(path, "xb", opener=private) as file:
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
    try:
        givenfile.need_file(path)  # read twice, and its size must be known
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"no such file: '{path}'") from None
    except OSError as e:
        raise UsageError(f"cannot read '{path}': {e.strerror}") from e
    return files.check_bytes(path, Meter(progress, path.stat().st_size))


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: what is temporary is as large as a home."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere it is not ours to say
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def drill(path: Path, opener: Opener, progress: Progress | None = None) -> tuple[bytes | None, list[Check]]:
    """The whole restore in a temporary folder: (iDAO, checks). `Locked` with a wrong phrase or passphrase."""
    checks: list[Check] = []
    own = None
    with _ends_in_order(), tempfile.TemporaryDirectory(prefix="idao-drill-") as name:
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
            if e.code in ("disk", "disk-full"):  # of the temporary folder: nothing is wrong with the backup
                raise
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
        return Dao(home).me == own and note(home, moments.BACKUP_VERIFIED, now_ms())
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


def check_opener(header: files.Header, opener: Opener) -> None:
    """`Locked` for a secret that does not open the backup, before anything is made of it."""
    if opener.words is not None:
        files.open_with_phrase(header, opener.secret)
    elif header.lock:
        seal.open_lock(header.lock, opener.passphrase)


def restore(
    path: Path,
    target: Path,
    opener: Opener,
    *,
    name: str | None = None,
    relock: bool = False,
    passphrase: str | None = None,
    wait_s: float = 30.0,
    progress: Progress | None = None,
) -> Restored:
    """Into an empty home. It exists once its config.toml does, which is moved in last.

    With a passphrase alone everything can be read, and nothing signed in a ledger: only the phrase may say
    which quorum continues it (`idao quorum recover`).
    With `relock` the keys get a new lock: `passphrase`, or none.
    """
    header = inspect(path)
    check_opener(header, opener)
    require_empty(target)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file_lock(target / "lock", wait_s):
            _clear(target)
            stage = target / STAGE
            stage.mkdir(mode=0o700)
            kek = unpack(path, opener, stage, progress)
            restored = _revive(stage, target, opener, kek, name, header.made_ms, wait_s)
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
    stage: Path, target: Path, opener: Opener, kek: bytes, name: str | None, made_ms: int, wait_s: float
) -> Restored:
    home = Home(stage)
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
    words = opener.words
    for one in going_on(home, me) if words else ():
        continued.append(Succession(home, keys, phrase.seed_from(words or ""), one, wait_s).run(name))
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
