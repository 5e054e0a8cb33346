"""The doctor: what may be wrong with a home and this machine. Asks nothing, opens no secret, writes nothing.

A check says ok, warn or fail, with a way out. Its `facts` are numbers and words of our own, no name, id or
path: they alone enter the bundle for those who help.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idao import __version__
from idao.crypto import seal
from idao.errors import IdaoError, NoHome
from idao.hall import keeping
from idao.hall.soundness import CHANGED_CONFIG, CHANGED_CONFIG_HINT
from idao.home import DEFAULTS, Home, config_as_written, now_ms, show_time
from idao.model import show_id
from idao.node import room
from idao.store import home_db, moments, onlyfiles
from idao.store.ledger import QUARANTINED, LedgerStore
from idao.store.packs import SUFFIX

OK, WARN, FAIL = "ok", "warn", "fail"
DISK_FAIL_BYTES = room.STOP_BYTES
"""The node signs nothing then. A pack and the logs of both databases still fit."""
DISK_WARN_BYTES = 1 << 30
CLOCK_MIN_MS = 1_735_689_600_000
"""2025-01-01: idao did not exist before, so a clock before it is wrong."""
SKEW_MS = 10 * 60 * 1000
"""A block this much later than the clock is not a matter of two clocks that differ a little."""
PYTHON_MIN = (3, 11)
SQLITE_MIN = (3, 37, 0)
"""The first with strict tables."""
DAY_MS = 24 * 3600 * 1000
BACKUP_AGE_MAX_MS = 31 * DAY_MS
"""A month without a backup is a habit lost."""
KEY_FILES = ("identity", "next", "validator", "data")
LIBRARIES = (
    "pynacl",
    "blake3",
    "cbor2",
    "cryptography",
    "zstandard",
    "pyfastcdc",
    "typer",
    "rich",
    "zeroconf",
)
TEE_DEVICES = {
    "/dev/tdx_guest": "Intel TDX",
    "/dev/sev-guest": "AMD SEV-SNP",
    "/dev/sgx_enclave": "Intel SGX",
    "/dev/nsm": "AWS Nitro",
}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    status: str
    detail: str
    hint: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "detail": self.detail, "hint": self.hint}


def examine(path: Path) -> list[Check]:
    """All checks of the home at `path`. Damage is a failed check, never an exception. `NoHome`."""
    if not (path / "config.toml").exists():
        raise NoHome(f"no iDAO here: '{path}'", hint="create one with 'idao init'")
    try:
        onlyfiles.need_files(path)
    except IdaoError as e:  # any look might wait for it
        return [Check("files", FAIL, e.message, e.hint, {"code": e.code})]
    checks: list[Check] = []
    for name, look in _LOOKS.items():
        checks += _guarded(name, look, path)
    return checks


def _guarded(name: str, look: Callable[[Path], Iterator[Check]], path: Path) -> list[Check]:
    found: list[Check] = []
    try:
        found.extend(look(path))
    except IdaoError as e:
        found.append(Check(name, FAIL, e.message, e.hint, {"code": e.code}))
    except (sqlite3.Error, UnicodeDecodeError) as e:  # the latter: damage inside SQLite's own messages
        found.append(Check(name, FAIL, str(e), "restore it from a backup", {"code": "sqlite"}))
    except OSError as e:
        found.append(Check(name, FAIL, f"{e.strerror}: {e.filename}", None, {"code": e.errno}))
    return found


def bundle(checks: list[Check]) -> dict[str, Any]:
    """What may be shown to strangers: versions, sizes, counts, outcomes."""
    return {
        "idao": __version__,
        "system": {"name": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "checks": [{"name": c.name, "status": c.status, "facts": c.facts} for c in checks],
    }


# --- machine ----------------------------------------------------------------------------------------


def _software(path: Path) -> Iterator[Check]:
    from importlib import metadata

    versions = {"idao": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    old = sys.version_info < PYTHON_MIN or sqlite3.sqlite_version_info < SQLITE_MIN
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    hint = "idao needs Python 3.11 with SQLite 3.37 or later" if old else None
    yield Check("software", FAIL if old else OK, text, hint, versions)


def _disk(path: Path) -> Iterator[Check]:
    free = shutil.disk_usage(path).free
    status = FAIL if free < DISK_FAIL_BYTES else WARN if free < DISK_WARN_BYTES else OK
    hint = None if status == OK else "free some space: idao asset forget ASSET gives back what an asset uses"
    yield Check("disk", status, f"{free >> 20} MiB free", hint, {"free_mib": free >> 20})


def _clock(path: Path) -> Iterator[Check]:
    now, newest = now_ms(), 0
    for file in _ledgers(path):
        with contextlib.suppress(IdaoError, sqlite3.Error), _opened(file) as store:
            newest = max(newest, store.tip().time_ms)
    ahead = max(0, newest - now)
    facts = {"behind_newest_block_ms": ahead}
    if now < CLOCK_MIN_MS or ahead > SKEW_MS:
        why = f"the clock says {show_time(now)}" + (
            f", the newest block {show_time(newest)}" if ahead else ""
        )
        yield Check("clock", FAIL, why, "set the clock, or let NTP do it", facts)
    elif ahead:
        yield Check("clock", WARN, f"{ahead} ms behind the newest block", "let NTP set the clock", facts)
    else:
        yield Check("clock", OK, show_time(now), None, facts)


def _tee(path: Path) -> Iterator[Check]:
    found = [name for device, name in TEE_DEVICES.items() if os.path.exists(device)]
    yield Check(
        "tee", OK, ", ".join(found) or "no device; quotes can be verified, not made", None, {"devices": found}
    )


# --- the folder -------------------------------------------------------------------------------------


def _home(path: Path) -> Iterator[Check]:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    facts: dict[str, Any] = {"mode": f"{mode:04o}", "writable": os.access(path, os.W_OK)}
    if found.st_uid != os.getuid():
        yield Check("home", FAIL, f"{path} belongs to user {found.st_uid}", "run idao as its owner", facts)
    elif mode & 0o077:
        yield Check("home", WARN, f"{path} is open to others ({mode:04o})", f"chmod 700 '{path}'", facts)
    elif not facts["writable"]:
        yield Check("home", WARN, f"{path} cannot be written: reading works, nothing else", None, facts)
    else:
        yield Check("home", OK, f"{path}, mode {mode:04o}", None, facts)


def _config(path: Path) -> Iterator[Check]:
    home = Home(path)
    known = {s.key for s in keeping.SETTINGS if s.kept}
    sections = ((s, v if isinstance(v, dict) else {}) for s, v in home.config.items() if s != keeping.LEDGERS)
    keys = [f"{section}.{key}" for section, values in sections if section not in DEFAULTS for key in values]
    strange = sorted(set(keys) - known)
    if strange:
        yield Check("config", WARN, f"unknown settings: {', '.join(strange)}", "see 'idao config show'")
    elif not config_as_written(path):
        yield Check("config", WARN, CHANGED_CONFIG, CHANGED_CONFIG_HINT)
    else:
        yield Check("config", OK, f"{len(keys)} settings")


def _keys(path: Path) -> Iterator[Check]:
    """Present, private, whole; opened only where that needs no passphrase."""
    from idao.identity import key_at

    home = Home(path)
    history = home.history()
    key_at(history.inception, history.events)
    folder = home.keys_folder
    loose = [p.name for p in [folder, *folder.iterdir()] if p.stat().st_mode & 0o077]
    if loose:
        yield Check(
            "key files", FAIL, f"readable by others: {', '.join(sorted(loose))}", f"chmod -R go= '{folder}'"
        )
    locked = home.needs_passphrase()
    facts = {"passphrase": locked, "rotations": len(history.events)}
    if locked:
        for name in KEY_FILES:
            sealed = seal.read_sealed((folder / f"{name}.key").read_bytes(), name)
            if sealed.purpose != name:
                raise IdaoError(f"keys/{name}.key holds the key for '{sealed.purpose}'", code="key-file")
        yield Check("keys", OK, "present, locked by a passphrase", None, facts)
    else:
        home.unlock()
        yield Check("keys", OK, "present, not locked: whoever reads the home is you", None, facts)
    if (folder / "phrase.key").exists():
        hint = "write it down, then: idao key phrase --done"
        yield Check("recovery phrase", WARN, "not yet written down", hint)
    else:
        yield Check("recovery phrase", OK, "not kept here")


def _lock(path: Path) -> Iterator[Check]:
    import fcntl

    for name in ("lock", "contents.lock"):
        file = path / name
        if not file.exists():
            continue
        fd = os.open(file, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            yield Check("lock", OK, f"process {pid} is at work ({name})", None, {"held": True})
            return
        finally:
            os.close(fd)
    yield Check("lock", OK, "free", None, {"held": False})


# --- databases --------------------------------------------------------------------------------------


def _ledgers(path: Path) -> list[Path]:
    return sorted((path / "ledgers").glob("*.db"))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[LedgerStore]:
    store = LedgerStore.open(file, readonly=True)
    try:
        yield store
    finally:
        store.close()


def _quick_check(db: sqlite3.Connection) -> str:
    return str(db.execute("pragma quick_check(1)").fetchone()[0])


def _home_db(path: Path) -> Iterator[Check]:
    file = path / "home.db"
    if not file.exists():
        yield Check("home.db", WARN, "not there: nothing was taken in yet, or it was lost")
        return
    with contextlib.closing(home_db.open_home_db(file, readonly=True)) as db:
        verdict = _quick_check(db)
        version = db.execute("pragma user_version").fetchone()[0]
        counts = {
            t: db.execute(f"select count(*) from {t}").fetchone()[0] for t in ("version", "pack", "chunk")
        }
    facts = {"format": version, "bytes": file.stat().st_size, **counts, "sound": verdict == "ok"}
    if verdict == "ok":
        yield Check("home.db", OK, f"format {version}, {counts['version']} versions kept", None, facts)
    else:
        yield Check("home.db", FAIL, verdict, "restore it from a backup", facts)


def _packs(path: Path) -> Iterator[Check]:
    """There, and of the size that was written; what is in them is for 'idao asset check'."""
    with contextlib.closing(home_db.open_home_db(path / "home.db", readonly=True)) as db:
        known = db.execute("select id, name, size from pack").fetchall()
        used, wrong = "select 1 from chunk where pack = ? limit 1", []
        for number, name, size in known:
            file = path / "packs" / f"{name}{SUFFIX}"
            sound = file.is_file() and file.stat().st_size == size
            # Of one whose chunks are all forgotten the file goes before the row.
            if not sound and db.execute(used, (number,)).fetchone():
                wrong.append(file.name)
    facts = {"packs": len(known), "wrong": len(wrong)}
    if wrong:
        what = f"missing or cut short: {', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}"
        yield Check("packs", FAIL, what, "restore a backup; what is damaged: idao asset check", facts)
    else:
        yield Check("packs", OK, f"{len(known)} there", None, facts)


def _contents(path: Path) -> Iterator[Check]:
    """What other looks find damaged is not told again."""
    from idao.dao import Dao
    from idao.hall import leftovers

    with contextlib.suppress(IdaoError, sqlite3.Error):
        with contextlib.closing(home_db.open_home_db(path / "home.db", readonly=True)) as db:
            count = len(leftovers.find(Dao.open(path), db).refs)
        if count:
            what = f"{count} versions are on no ledger: left by contributions cut short, if none runs"
            hint = "contribute the same again, or: idao asset forget --unregistered"
            yield Check("contents", WARN, what, hint, {"unregistered": count})
        else:
            yield Check("contents", OK, "all that was taken in is registered", None, {"unregistered": 0})


def _backup(path: Path) -> Iterator[Check]:
    known, now = moments.remembered(path / "home.db"), now_ms()
    made, verified = known.get(moments.BACKUP_MADE), known.get(moments.BACKUP_VERIFIED)
    facts: dict[str, Any] = {
        "age_days": None if made is None else (now - made) // DAY_MS,
        "verified_days": None if verified is None else (now - verified) // DAY_MS,
    }
    if made is None:
        yield Check("backup", WARN, "none was made", "idao backup create -o FILE", facts)
    elif verified is None:
        hint = "idao backup verify FILE --phrase-file FILE"
        yield Check("backup", WARN, f"made {show_time(made)}, never shown to restore", hint, facts)
    elif made > now + SKEW_MS:
        hint = "set the clock, then: idao backup create -o FILE"
        yield Check("backup", WARN, f"made {show_time(made)}, which is still to come", hint, facts)
    elif now - made > BACKUP_AGE_MAX_MS:
        yield Check("backup", WARN, f"the last is of {show_time(made)}", "idao backup create -o FILE", facts)
    else:
        yield Check("backup", OK, f"made {show_time(made)}, one restored {show_time(verified)}", None, facts)


def _outbox(path: Path) -> Iterator[Check]:
    now = now_ms()
    with contextlib.closing(home_db.open_home_db(path / "home.db", readonly=True)) as db:
        rows = db.execute("select state, valid_until from outbox").fetchall()
    late = sum(state in ("queued", "sent") and until < now for state, until in rows)
    expired = late + sum(state == "expired" for state, _ in rows)
    waiting = sum(state in ("queued", "sent") for state, _ in rows) - late
    facts = {"waiting": waiting, "expired": expired}
    if expired:
        yield Check(
            "outbox",
            WARN,
            f"{expired} expired, {waiting} waiting",
            "an expired one is never sent: do it again",
            facts,
        )
    elif waiting:
        yield Check("outbox", WARN, f"{waiting} waiting", "the next command that writes sends them", facts)
    else:
        yield Check("outbox", OK, "empty", None, facts)


def _ledger_files(path: Path) -> Iterator[Check]:
    files = _ledgers(path)
    if not files:
        yield Check("ledger", FAIL, "this home has no ledger", "restore it from a backup")
    for number, file in enumerate(files, 1):
        yield from _guarded(f"ledger {number}", lambda _, n=number, f=file: _ledger(n, f), path)  # type: ignore[misc]


def _ledger(number: int, file: Path) -> Iterator[Check]:
    with _opened(file) as store:
        verdict, height = _quick_check(store.db), store.height
        version = store.db.execute("pragma user_version").fetchone()[0]
        name = show_id("quorum", store.chain.quorum)
        standing = store.standing
    facts = {"format": version, "height": height, "bytes": file.stat().st_size, "sound": verdict == "ok"}
    facts["standing"] = standing
    if verdict != "ok":
        yield Check(
            f"ledger {number}", FAIL, f"{name}: {verdict}", "see 'idao audit', then restore a backup", facts
        )
    elif standing == QUARANTINED:
        what = f"{name} was copied or moved here: nothing is signed in it"
        yield Check(f"ledger {number}", WARN, what, "idao quorum recover", facts)
    else:
        what = f"{name}, height {height}, format {version}, {standing}"
        yield Check(f"ledger {number}", OK, what, None, facts)


_LOOKS: dict[str, Callable[[Path], Iterator[Check]]] = {
    "software": _software,
    "home": _home,
    "disk": _disk,
    "clock": _clock,
    "config": _config,
    "keys": _keys,
    "lock": _lock,
    "home.db": _home_db,
    "packs": _packs,
    "contents": _contents,
    "outbox": _outbox,
    "backup": _backup,
    "ledger": _ledger_files,
    "tee": _tee,
}
