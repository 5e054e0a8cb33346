"""The home: one folder of one user on one machine. Also the only door to clock, entropy, environment.

    config.toml          names and defaults, hand-editable
    keys/lock            what a passphrase opens (or says that there is none)
    keys/identity.key    signs transactions and ballots      } sealed under the lock
    keys/next.key        replaces it in a rotation           }
    keys/after.key       comes after that one; only while a rotation runs
    keys/validator.key   signs blocks and checkpoints        }
    keys/seat-*.key      the same in a quorum of several (`validatorkeys.py`) }
    keys/data.key        wraps asset keys, keys chunk ids    }
    keys/backup.pub      what backups are sealed to, so that the phrase opens them
    keys/tls/node.pem    the TLS end of its node: key and certificate, made when first needed
    keys/history         inception record and key events: public, so reading needs no key
    keys/members/NAME.*  identities of other people kept in this home
    home.db              outbox, key ring, chunk index, petnames
    ledgers/QUORUM.db    one file a ledger; QUORUM.genesis: of a group, for the day its ledger is damaged
    packs/               sealed contents
    ledgers/QUORUM.lock  pid of the process that orders its blocks
    lock                 pid of the process that changes this home
    node.lock, node.sock pid of the node, and where commands reach it
    before-migration/    files as an older idao wrote them, if there were any

Every file is written aside, flushed, and renamed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from idao import plaintoml
from idao.crypto import canonical, seal
from idao.crypto.hashing import Kind, digest
from idao.crypto.keys import Signer
from idao.errors import Busy, IdaoError, Locked, Malformed, Newer, NoHome, NotFound, UsageError
from idao.frozen import frozen
from idao.identity import next_commitment
from idao.ledger.idao import KEY_EVENTS_MAX
from idao.model import Inception, KeyEvent, SignedKeyEvent, Size
from idao.store import onlyfiles
from idao.store.wholefile import sync_folder as sync_folder
from idao.store.wholefile import write_file as write_file

CONFIG_BYTES_MAX = 64 * 1024
CONFIG_LINE_MAX = 4096
"""Bytes of a line that a hand wrote: what it nests may take the square of that."""
CONFIG_DEPTH_MAX = 8
"""A section, a key, a list; and what a hand may add."""
CONFIG_FORMAT = 1
PASSPHRASE_BYTES_MAX = 4096
"""A passphrase file that is longer is a mistake."""
LOCK_POLL_S = 0.05
"""How often a waiting process looks at the lock again."""
DEFAULTS: dict[str, Any] = {"wait": 30, "color": "auto"}
"""Settings outside the sections of config.toml. A block of one's own takes milliseconds, of a LAN a second:
who waits half a minute waits for somebody who is away."""
WAIT_S_MAX = 10**9
TIME_MS_MAX = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: RFC 3339 has no later time."""
COLORS = ("auto", "never")
IDENTITY_FILES = ("identity", "next", "after")
"""Key files that may hold the current and the next identity key; `after` only while a rotation runs."""


@frozen
class History:
    """Who an identity is: its inception record and every key event since."""

    inception: Inception
    events: Annotated[tuple[SignedKeyEvent, ...], Size(0, KEY_EVENTS_MAX)]

    @property
    def last(self) -> Inception | KeyEvent:
        """What names the current key and commits to the next. Unchecked: `identity.key_at` verifies."""
        return self.events[-1].event if self.events else self.inception


@frozen
class Keys:
    """The opened keys of a home."""

    identity: Signer
    next: Signer
    """What the last key event committed to: the identity key after a rotation."""
    validator: Signer
    data: bytes
    kek: bytes


def now_ms() -> int:
    """The clock: milliseconds UTC. `IdaoError` `clock` where it shows what nobody could write down."""
    ms = time.time_ns() // 1_000_000
    if not 0 <= ms <= TIME_MS_MAX:  # a block of such a time would hold up all that come after
        raise IdaoError("this machine's clock is before 1970 or after 9999", hint="set it", code="clock")
    return ms


def show_time(ms: int) -> str:
    """RFC 3339 UTC with milliseconds; the nearest that it can say, as others' blocks may bear any number."""
    from datetime import UTC, datetime

    ms = min(max(ms, 0), TIME_MS_MAX)
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"


_SPANS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_time(text: str) -> int:
    """Milliseconds UTC of an RFC 3339 time or date, or of a span from now such as 90d."""
    from datetime import UTC, datetime

    if text[:-1].isdigit() and len(text) < 12 and text[-1] in _SPANS_MS:
        return now_ms() + int(text[:-1]) * _SPANS_MS[text[-1]]
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        ms = int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        ms = -1
    if ms < 0:
        raise UsageError(f"not a time: '{text}'", hint="such as 2027-01-31, 2027-01-31T12:00:00Z or 90d")
    return ms


def entropy(size: int) -> bytes:
    return os.urandom(size)


def user_name() -> str:
    """What the machine calls its user; 'me' where it has no name for them."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "me"


def locate(flag: str | None = None) -> Path:
    """Flag, then IDAO_HOME, then the user's data folder (as platformdirs names it)."""
    if chosen := flag or os.environ.get("IDAO_HOME"):
        return Path(chosen).expanduser()
    if sys.platform in ("linux", "freebsd"):  # platformdirs' answer, without 24 ms of its import
        data = os.environ.get("XDG_DATA_HOME", "")
        return Path(data if os.path.isabs(data) else os.path.expanduser("~/.local/share")) / "idao"
    from platformdirs import user_data_path

    return user_data_path("idao")


class Home:
    """An existing home. Opening one reads its configuration only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        onlyfiles.need_files(path)
        self.config = _read_config(path)

    @classmethod
    def open(cls, path: Path) -> Home:
        """`NoHome` when there is none (or only an unfinished one)."""
        if not (path / "config.toml").exists():
            raise NoHome(f"no iDAO here: '{path}'", hint="create one with 'idao init'")
        return cls(path)

    @property
    def keys_folder(self) -> Path:
        return self.path / "keys"

    @property
    def ledgers_folder(self) -> Path:
        return self.path / "ledgers"

    @property
    def database(self) -> Path:
        return self.path / "home.db"

    # --- configuration

    def get(self, section: str, key: str, default: Any = None) -> Any:
        value = self.config.get(section, {})
        return value.get(key, default) if isinstance(value, dict) else default

    def save_config(self) -> None:
        lines = ["# idao configuration; see 'idao config show --origin'", f"format = {CONFIG_FORMAT}"]
        lines += [
            f"{key} = {plaintoml.value_text(self.config[key])}" for key in DEFAULTS if key in self.config
        ]
        for section, values in self.config.items():
            if section in DEFAULTS:
                continue
            lines.append(f"\n[{plaintoml.key_text(section)}]")
            lines += [
                f"{plaintoml.key_text(key)} = {plaintoml.value_text(value)}" for key, value in values.items()
            ]
        body = ("\n".join(lines) + "\n").encode()
        write_file(self.path / "config.toml", body + _config_sum(body))

    # --- who

    def history(self, name: str | None = None) -> History:
        """The owner's key history, or that of a member kept here."""
        path = self.keys_folder / "history" if name is None else self._member(name, "history")
        try:
            return canonical.unpack(History, path.read_bytes())
        except FileNotFoundError:
            if name is not None:
                raise NotFound(f"no member '{name}' in this home") from None
            raise Malformed("the home has no key history", hint="restore a backup") from None
        except Malformed as e:
            what = f"'{path.relative_to(self.path)}' is damaged: {e.message}"
            raise Malformed(what, hint="restore it from a backup") from e

    def _member(self, name: str, suffix: str) -> Path:
        if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 64:
            raise UsageError(f"a member's name here has letters, digits, - and _: '{name}'")
        return self.keys_folder / "members" / f"{name}.{suffix}"

    def members(self) -> list[str]:
        folder = self.keys_folder / "members"
        return sorted(p.stem for p in folder.glob("*.history")) if folder.is_dir() else []

    def has_member_key(self, name: str) -> bool:
        return self._member(name, "key").is_file()

    def add_member(self, name: str, history: History, seed: bytes, kek: bytes) -> None:
        key = self._member(name, "key")
        if key.exists():
            raise UsageError(f"this home has a member '{name}' already")
        # The key last: a crash between leaves a history without a key, which the next attempt replaces.
        write_file(self._member(name, "history"), canonical.pack(history))
        write_file(key, seal.seal(kek, f"member {name}", seed, entropy(seal.NONCE_BYTES)))

    def member_signer(self, name: str, kek: bytes) -> Signer:
        path = self._member(name, "key")
        if not path.is_file():
            raise NotFound(f"no key of member '{name}' in this home")
        return Signer(seal.unseal(kek, f"member {name}", path.read_bytes()))

    # --- keys

    def needs_passphrase(self) -> bool:
        return seal.needs_passphrase(self._key_bytes("lock"))

    def _key_bytes(self, name: str) -> bytes:
        path = self.keys_folder / name
        try:
            return path.read_bytes()
        except OSError as e:
            raise Malformed(f"key file 'keys/{name}' cannot be read: {e.strerror}") from e

    def unlock(self, passphrase_file: str | None = None) -> Keys:
        """`Locked` without the right passphrase."""
        lock = self._key_bytes("lock")
        passphrase = None
        if seal.needs_passphrase(lock):
            passphrase = read_passphrase(passphrase_file, "passphrase of this home: ")
        return self.open_keys(seal.open_lock(lock, passphrase))

    def open_keys(self, kek: bytes) -> Keys:
        current, following = map(Signer, self.identity_seeds(kek))
        validator = Signer(self.read_key("validator", kek))
        return Keys(current, following, validator, self.read_key("data", kek), kek)

    def identity_seeds(self, kek: bytes) -> tuple[bytes, bytes]:
        """Seeds of the current and the next key. The history tells which is which, whatever a crash left."""
        kept = [n for n in IDENTITY_FILES if n != "after" or (self.keys_folder / "after.key").exists()]
        seeds = {Signer(seed).public: seed for seed in (self.read_key(name, kek) for name in kept)}
        last = self.history().last
        following = [seed for public, seed in seeds.items() if next_commitment(public) == last.next]
        if last.key not in seeds or not following:
            raise Malformed("the key files are not those of the key history", hint="restore a backup")
        return seeds[last.key], following[0]

    def read_key(self, name: str, kek: bytes) -> bytes:
        return seal.unseal(kek, name, self._key_bytes(f"{name}.key"))

    def write_key(self, name: str, secret: bytes, kek: bytes, *, new: bool = False) -> None:
        """`FileExistsError` where there is one, if it is to be a `new` one."""
        sealed = seal.seal(kek, name, secret, entropy(seal.NONCE_BYTES))
        write_file(self.keys_folder / f"{name}.key", sealed, new=new)

    def remove_key(self, name: str) -> None:
        (self.keys_folder / f"{name}.key").unlink(missing_ok=True)
        sync_folder(self.keys_folder)

    def turn_keys(self, history: History, after: bytes, kek: bytes) -> None:
        """Makes `history` true, whose last event brings in the next key and commits to the one of `after`.

        A crash at any point leaves the old keys or the new ones (`identity_seeds`).
        """
        self.write_key("after", after, kek)
        write_file(self.keys_folder / "history", canonical.pack(history))
        self.settle_keys(kek)

    def settle_keys(self, kek: bytes) -> bool:
        """Puts the identity keys into the files named after them. True if a crash had left it to do."""
        if not (self.keys_folder / "after.key").exists():
            return False
        names = ("identity", "next")
        seeds = self.identity_seeds(kek)
        stale = seeds != tuple(self.read_key(name, kek) for name in names)
        if stale:
            for name, seed in zip(names, seeds, strict=True):
                self.write_key(name, seed, kek)
        self.remove_key("after")
        return stale

    def relock(self, kek: bytes, passphrase: str | None) -> None:
        """A new lock for the same keys; None means no passphrase."""
        made = seal.make_lock(kek, passphrase, entropy(seal.LOCK_RANDOM_BYTES))
        if seal.open_lock(made, passphrase) != kek:  # before the only other lock is gone
            raise Malformed("the new lock does not open")
        write_file(self.keys_folder / "lock", made)

    # --- one process at a time

    @contextmanager
    def exclusive(self, wait_s: float) -> Iterator[None]:
        """The lock of this home; `Busy` with the holder's pid after `wait_s` seconds."""
        with file_lock(self.path / "lock", wait_s):
            yield

    @contextmanager
    def driving(self, ledger: Path, wait_s: float) -> Iterator[None]:
        """The lock of one ledger: whoever orders its blocks, a command or the node, never both."""
        with file_lock(ledger.with_suffix(".lock"), wait_s, "another process drives this ledger"):
            yield

    @contextmanager
    def node_alone(self) -> Iterator[None]:
        """The lock of this home's one node; `Busy` at once while another runs."""
        with file_lock(self.path / "node.lock", 0, "a node of this home runs already"):
            yield


@contextmanager
def file_lock(path: Path, wait_s: float, what: str = "another process drives this home") -> Iterator[None]:
    """An exclusive advisory lock whose file holds the pid of its owner; gone when the process dies."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
                    hint = "wait for it, or give '--wait SECONDS'"
                    raise Busy(f"{what} (pid {holder})", hint=hint) from None
                time.sleep(LOCK_POLL_S)
        os.ftruncate(fd, 0)
        with contextlib.suppress(OSError):  # A full disk must not keep out the command that frees space.
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(fd, 0)  # nothing is left to be read, or damaged
    finally:
        os.close(fd)


def read_passphrase(flag: str | None, prompt: str, *, confirm: bool = False) -> str:
    """From --passphrase-file, IDAO_PASSPHRASE_FILE, IDAO_PASSPHRASE_COMMAND, or a prompt on a terminal."""
    if path := flag or os.environ.get("IDAO_PASSPHRASE_FILE"):
        from idao.store import givenfile

        try:
            with givenfile.opened(path) as f:
                return _first_line(f.read(PASSPHRASE_BYTES_MAX + 1), f"'{path}'")
        except OSError as e:
            raise Locked(f"passphrase file '{path}' cannot be read: {e.strerror}") from e
    if command := os.environ.get("IDAO_PASSPHRASE_COMMAND"):
        import subprocess

        # A shell, as restic and borg do it: the command is the user's own configuration.
        done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise Locked(f"IDAO_PASSPHRASE_COMMAND ended with {done.returncode}")
        return _first_line(done.stdout, "IDAO_PASSPHRASE_COMMAND")
    return ask_passphrase(prompt, confirm=confirm)


def ask_passphrase(prompt: str, *, confirm: bool = False) -> str:
    """From a terminal; `Locked` without one."""
    if os.environ.get("IDAO_NO_INPUT") or not sys.stdin.isatty():
        other = "; or --no-passphrase" if confirm else ""
        raise Locked(
            "a new passphrase is needed" if confirm else "the keys of this home need a passphrase",
            hint="give --passphrase-file FILE, or set IDAO_PASSPHRASE_FILE or IDAO_PASSPHRASE_COMMAND"
            + other,
        )
    import getpass

    typed = getpass.getpass(prompt, stream=sys.stderr)
    if confirm and getpass.getpass("once more: ", stream=sys.stderr) != typed:
        raise UsageError("the two passphrases differ")
    return typed


def _first_line(data: bytes, where: str) -> str:
    if len(data) > PASSPHRASE_BYTES_MAX:
        raise Locked(f"{where} is too long for a passphrase")
    try:
        line = data.decode().split("\n")[0].rstrip("\r")
    except UnicodeDecodeError:
        raise Locked(f"{where} is not text") from None
    if not line:
        raise Locked(f"{where} gave an empty passphrase")
    return line


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.toml"
    try:
        if (found := file.exists()) and not file.is_file():
            raise UsageError("config.toml is not a file", hint=f"move '{file}' away", code="config")
        data = file.read_bytes() if found else b""
        if len(data) > CONFIG_BYTES_MAX:
            raise Malformed("config.toml is too large")
        config = plaintoml.read(data.decode())
        if config is None:
            import tomllib  # for what a hand wrote: it costs a command a tenth of its start

            if max(map(len, data.split(b"\n"))) > CONFIG_LINE_MAX:
                raise ValueError(f"a line is longer than {CONFIG_LINE_MAX} bytes")
            config = tomllib.loads(data.decode())
            if _deeper(config, CONFIG_DEPTH_MAX):
                raise ValueError(f"nested deeper than {CONFIG_DEPTH_MAX}")
    except (ValueError, RecursionError) as e:  # the former: TOMLDecodeError and UnicodeDecodeError, too
        raise UsageError(f"config.toml cannot be read: {e}", hint=f"mend '{file}'", code="config") from e
    except OSError as e:
        raise UsageError(f"config.toml cannot be read: {e.strerror}", code="config") from e
    _check_format(config.pop("format", CONFIG_FORMAT))
    for section, values in config.items():
        if section in DEFAULTS:
            check_setting(section, values)
        elif not isinstance(values, dict):
            raise UsageError(f"config.toml: '{section}' stands outside a section", code="config")
    return config


def _deeper(value: Any, depth: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or _deeper(one, depth - 1) for one in inside)


def _check_format(found: Any) -> None:
    if type(found) is not int or found < 1:
        raise UsageError(f"config.toml: format is a number, not '{found}'", code="config")
    if found > CONFIG_FORMAT:
        raise Newer("config.toml", found, CONFIG_FORMAT)


def _config_sum(body: bytes) -> bytes:
    """The last line that idao writes: a comment to TOML, and what shows damage that is still TOML."""
    return b"# sum %s\n" % digest(Kind.HOME_FILE, body).hex().encode()


def config_as_written(path: Path) -> bool:
    """Whether config.toml is as idao wrote it, or says nothing about that: a hand removed its last line."""
    data = (path / "config.toml").read_bytes()
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    body, last = data[:start], data[start:]
    said = last.startswith(b"#") and len(last) in range(len(_config_sum(b"")) - 1, len(_config_sum(b"")) + 2)
    return not said or last == _config_sum(body)


def check_setting(key: str, value: Any) -> None:
    """`UsageError` for a value that `wait` or `color` cannot have."""
    if key == "wait" and (type(value) not in (int, float) or not 0 <= value <= WAIT_S_MAX):
        raise UsageError(f"wait is a number of seconds, not '{value}'", code="config")
    if key == "color" and value not in COLORS:
        raise UsageError(f"color is one of {', '.join(COLORS)}, not '{value}'", code="config")


def configured(path: Path, key: str) -> Any:
    """A setting of `DEFAULTS`, as the home at `path` has it, if there is one."""
    return _read_config(path).get(key, DEFAULTS[key])
