"""The backup file: one encrypted stream that only the recovery phrase (or the passphrase) opens.

    idao-backup 1\\n
    length of the header (4 bytes), header
    head of the stream (24 bytes)
    length of a block (4 bytes), block          as often as needed, 1 MiB of content each
    0 (4 bytes)
    hash of all bytes before (32 bytes)

Blocks are libsodium's secretstream (XChaCha20-Poly1305): none can be changed, dropped, moved or left out at
the end. The first is bound to the header. The hash takes no key, so damage is found by whoever keeps the
file. The file's key is sealed to a public key that the phrase derives, so making a backup needs no secret.
Nothing in the header names its maker.
"""

from __future__ import annotations

import io
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, BinaryIO

from blake3 import blake3
from nacl import bindings as sodium
from nacl.exceptions import CryptoError

from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import Locked, Malformed, Newer, VerificationFailed
from idao.frozen import frozen
from idao.model import Range, Size
from idao.store.home_db import BUSY_SECONDS, USER_VERSION, resum
from idao.store.opening import atomic, check_owner, connect_reading, no_room, refusal
from idao.store.packs import disk_error
from idao.store.seal import unwrap, wrap

FORMAT = 1
MAGIC = b"idao-backup %d\n" % FORMAT
BLOCK_BYTES = 1 << 20
"""Content of a block: memory stays small, and the 21 bytes around each cost nothing."""
HEADER_BYTES_MAX = 4096
"""Two boxes and a lock take 500."""
KEY_VERSION = 2
"""Of `keys/backup.pub`. Format 1 had no sum."""
STREAM_HEAD = sodium.crypto_secretstream_xchacha20poly1305_HEADERBYTES
SEALED_MORE = sodium.crypto_secretstream_xchacha20poly1305_ABYTES
FINAL = sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL
HASH_BYTES = 32
BOX_BYTES = 32 + sodium.crypto_box_SEALBYTES
READ_BYTES = 1 << 20
_WRAP = b"idao backup 1"
_LENGTH = struct.Struct(">I")

Done = Callable[[int], None]
"""Told the bytes handled since the last call."""


@frozen
class Header:
    """What stands before the stream, readable by anybody."""

    v: Annotated[int, Range(1, 1)]
    made_ms: int
    public: Annotated[bytes, Size(32)]
    """X25519 key that the phrase derives."""
    box: Annotated[bytes, Size(BOX_BYTES)]
    """The file's key, sealed to it."""
    lock: Annotated[bytes, Size(0, 1024)]
    """The home's lock file, if the passphrase opens this backup too; else empty."""
    wrapped: Annotated[bytes, Size(0, 128)]
    """The file's key under the home's KEK; else empty."""


@frozen
class BackupKey:
    """`keys/backup.pub`: what a home keeps so that its backups open with the phrase."""

    v: Annotated[int, Range(KEY_VERSION, KEY_VERSION)]
    public: Annotated[bytes, Size(32)]
    kek: Annotated[bytes, Size(BOX_BYTES)]
    """The home's KEK sealed to it: the phrase opens the key files of a backup without the passphrase."""
    sum: Annotated[bytes, Size(32)]
    """Hash of both: without the phrase nothing else would show damage, and with it, it is too late."""


def make_key(secret: bytes, kek: bytes) -> bytes:
    """`keys/backup.pub` for a home; `secret` is the X25519 secret of the phrase."""
    public = sodium.crypto_scalarmult_base(secret)
    return _key_of(public, sodium.crypto_box_seal(kek, public))


def _key_of(public: bytes, kek: bytes) -> bytes:
    return canonical.pack(BackupKey(KEY_VERSION, public, kek, digest(Kind.HOME_FILE, public + kek)))


def with_sum(old: bytes) -> bytes:
    """The file of format 1, which had no sum, in format 2. `Malformed`."""
    v, public, kek = (canonical.decode(old).get(name) for name in ("v", "public", "kek"))
    made = _key_of(public, kek) if (v, type(public), type(kek)) == (1, bytes, bytes) else b""
    read_key(made)
    return made


def check_key_version(data: bytes) -> int:
    """The format of `keys/backup.pub`, 0 if it cannot be told. `Newer`."""
    found = canonical.version_of(data, limit=HEADER_BYTES_MAX)
    if found > KEY_VERSION:
        raise Newer("keys/backup.pub", found, KEY_VERSION)
    return found


def read_key(data: bytes) -> BackupKey:
    try:
        if check_key_version(data) == 1:
            data = with_sum(data)
        key = canonical.unpack(BackupKey, data, limit=HEADER_BYTES_MAX)
        if key.sum != digest(Kind.HOME_FILE, key.public + key.kek):
            raise Malformed("its bytes do not lead to its sum")
        return key
    except Malformed as e:
        raise Malformed(
            f"the key file 'keys/backup.pub' is damaged: {e.message}", hint="restore it from a backup"
        ) from e


def open_kek(data: bytes, secret: bytes) -> bytes:
    """The KEK of the home that `keys/backup.pub` belongs to. `Locked` with another phrase."""
    return _unbox(read_key(data).kek, secret, "the key file 'backup.pub'")


def _unbox(box: bytes, secret: bytes, what: str) -> bytes:
    try:
        return bytes(sodium.crypto_box_seal_open(box, sodium.crypto_scalarmult_base(secret), secret))
    except (CryptoError, ValueError, TypeError) as e:
        raise Locked(f"{what} was not made with this recovery phrase") from e


def make_header(key: BackupKey, file_key: bytes, made_ms: int, lock: bytes = b"", kek: bytes = b"") -> Header:
    """With `lock` and `kek` the passphrase of that lock opens the file as well."""
    box = sodium.crypto_box_seal(file_key, key.public)
    wrapped = wrap(kek, file_key, _WRAP) if lock else b""
    return Header(1, made_ms, key.public, box, lock, wrapped)


def open_with_phrase(header: Header, secret: bytes) -> bytes:
    """The file's key. `Locked` when the phrase is not that of this backup."""
    if sodium.crypto_scalarmult_base(secret) != header.public:
        raise Locked("this is not the recovery phrase of this backup")
    return _unbox(header.box, secret, "the backup")


def open_with_kek(header: Header, kek: bytes) -> bytes:
    return unwrap(kek, header.wrapped, _WRAP)


# --- writing ------------------------------------------------------------------------------------------


class Writer(io.RawIOBase):
    """Takes bytes, leaves sealed blocks in `file`."""

    def __init__(self, file: BinaryIO, header: Header, file_key: bytes) -> None:
        super().__init__()
        self._file, self._hash, self._rest = file, blake3(derive_key_context=Kind.BACKUP.value), bytearray()
        self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
        packed = canonical.pack(header)
        head = sodium.crypto_secretstream_xchacha20poly1305_init_push(self._state, file_key)
        self._put(MAGIC + _LENGTH.pack(len(packed)) + packed + head)
        self._bound: bytes | None = packed

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self._file.closed:  # an archive that is thrown away half made writes its last bytes all the same
            return len(data)
        message = sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
        if not self._rest and len(data) == BLOCK_BYTES:  # as the archive comes, for the most part
            self._block(bytes(data), message)
            return len(data)
        self._rest += data
        while len(self._rest) >= BLOCK_BYTES:
            self._block(bytes(self._rest[:BLOCK_BYTES]), message)
            del self._rest[:BLOCK_BYTES]
        return len(data)

    def finish(self) -> None:
        """The last block and the hash. The file's flush is the caller's."""
        self._block(bytes(self._rest), FINAL)
        self._put(_LENGTH.pack(0))
        self._file.write(self._hash.digest())

    def _block(self, content: bytes, tag: int) -> None:
        sealed = sodium.crypto_secretstream_xchacha20poly1305_push(self._state, content, self._bound, tag)
        self._bound = None
        self._put(_LENGTH.pack(len(sealed)) + sealed)

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)


# --- reading ------------------------------------------------------------------------------------------


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise damaged(f"it ends early, at byte {file.tell()}")
    return data


def damaged(what: str) -> VerificationFailed:
    return VerificationFailed(
        f"the backup is damaged: {what}",
        hint="use another copy of it, or an earlier one",
        code="backup-damaged",
    )


def read_header(file: BinaryIO) -> Header:
    """Leaves `file` at the stream. `Malformed` for a file of another kind."""
    start = file.read(len(MAGIC))
    if start != MAGIC:
        newer = start.startswith(b"idao-backup ")
        what = "was written by a newer idao" if newer else "is not a backup of idao"
        raise Malformed(f"the file {what}, or its first bytes are damaged", code="not-a-backup")
    (size,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    if size > HEADER_BYTES_MAX:
        raise damaged("its header is too long")
    try:
        return canonical.unpack(Header, _exactly(file, size), limit=HEADER_BYTES_MAX)
    except Malformed as e:
        raise damaged(f"its header cannot be read ({e.message})") from e


def _check_format(file: BinaryIO) -> None:
    """`Newer` for a sound file whose first line names a later format. Leaves `file` at its start."""
    name, _, number = file.readline(len(MAGIC) + 8).rstrip(b"\n").partition(b" ")
    if name == MAGIC.split()[0] and number.isdigit() and int(number) > FORMAT:
        raise Newer("the backup", int(number), FORMAT)
    file.seek(0)


def check_bytes(path: Path, done: Done | None = None) -> Header:
    """Compares every byte with the hash at the end; takes no secret. `VerificationFailed`."""
    try:
        with path.open("rb") as file:
            left = file.seek(0, io.SEEK_END) - HASH_BYTES
            file.seek(0)
            hashed = blake3(derive_key_context=Kind.BACKUP.value)
            while left > 0 and (data := file.read(min(READ_BYTES, left))):
                hashed.update(data)
                left -= len(data)
                if done:
                    done(len(data))
            sound = left == 0 and file.read() == hashed.digest()
            file.seek(0)
            if sound:
                _check_format(file)
            header = read_header(file)
            _walk(file)
            if not sound:
                raise damaged("its bytes do not lead to the hash at its end")
    except OSError as e:
        raise disk_error(e, f"reading {path}") from e
    return header


def _walk(file: BinaryIO) -> None:
    """Steps over the blocks, so that a file cut short is told from one with a flipped bit."""
    _exactly(file, STREAM_HEAD)
    at = file.tell()
    end = file.seek(0, io.SEEK_END)
    while True:
        file.seek(at)
        (size,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
        at += _LENGTH.size + size
        if at + HASH_BYTES > end or size > BLOCK_BYTES + SEALED_MORE:
            raise damaged(f"it ends early, or a length is wrong, at byte {at - size}")
        if size == 0:
            break
    if at + HASH_BYTES != end:
        raise damaged(f"there are {end - at - HASH_BYTES} bytes too many")


class Reader(io.RawIOBase):
    """The content of a backup, verified block by block. `file` stands where `read_header` left it."""

    def __init__(self, file: BinaryIO, header: Header, file_key: bytes, done: Done | None = None) -> None:
        super().__init__()
        self._file, self._done = file, done
        self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
        head = _exactly(file, STREAM_HEAD)
        sodium.crypto_secretstream_xchacha20poly1305_init_pull(self._state, head, file_key)
        self._bound: bytes | None = canonical.pack(header)
        self._rest, self._last, self._count = b"", False, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest and not self._last:
            self._rest = self._block()
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _block(self) -> bytes:
        (size,) = _LENGTH.unpack(_exactly(self._file, _LENGTH.size))
        where = f"block {self._count}, before byte {self._file.tell() + size}"
        if not SEALED_MORE <= size <= BLOCK_BYTES + SEALED_MORE:
            raise damaged(f"{where}: its length cannot be")
        sealed = _exactly(self._file, size)
        try:
            content, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(self._state, sealed, self._bound)
        except (CryptoError, RuntimeError, ValueError) as e:
            raise damaged(f"{where}: it does not open") from e
        self._bound, self._last, self._count = None, tag == FINAL, self._count + 1
        if self._done:
            self._done(size)
        return bytes(content)


# --- what goes in --------------------------------------------------------------------------------------


def snapshot(source: Path, target: Path, version: int) -> None:
    """A consistent copy of a database that others may be writing. Refusals as when it is opened."""
    try:
        with closing(connect_reading(source, BUSY_SECONDS)) as live:
            check_owner(live, source, version, least=1)
            target.touch(0o600)
            with closing(sqlite3.connect(target)) as copy:
                copy.execute("pragma synchronous = off")  # read once and thrown away
                live.backup(copy)
    except sqlite3.Error as e:
        raise no_room(e, target) or refusal(e, source) from e


def packs_of(path: Path) -> dict[str, int]:
    """(name, size) of the packs that a home.db knows."""
    try:
        with closing(connect_reading(path, BUSY_SECONDS)) as db:
            check_owner(db, path, USER_VERSION, least=1)
            return dict(db.execute("select name, size from pack order by id"))
    except sqlite3.Error as e:
        raise refusal(e, path) from e


def expire_outbox(db: sqlite3.Connection, quorum: bytes) -> int:
    """Marks what waits for a ledger that has ended: it can be in no block. How many."""
    where = "where quorum = ? and state in ('queued', 'sent')"
    count = int(db.execute(f"select count(*) from outbox {where}", (quorum,)).fetchone()[0])
    with atomic(db):
        db.execute(f"update outbox set state = 'expired' {where}", (quorum,))
        db.execute(f"{resum('outbox')} where quorum = ?", (quorum,))
    return count
