"""C2SP signed notes, checkpoints and cosignatures: the text that any transparency-log tool reads.

signed-note v1.0.0, tlog-checkpoint v1.0.0, tlog-cosignature v1.0.1 (Ed25519), tlog-proof v1.
Parsing is strict: what is read must be exactly what would be written.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from idao.crypto.hashing import sha256
from idao.crypto.keys import Signer, Verify, b64, cosigned_message, verify
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import show_id

SIG_LOG = 0x01
SIG_COSIGNATURE = 0x04
SIGNATURES_MAX = 256
"""Two lines for each of 64 validators and as many from outside witnesses."""
NOTE_BYTES_MAX = 64 * 1024
_DASH = "— "


@frozen
class SignatureLine:
    name: str
    key_id: bytes
    signature: bytes
    """64 bytes for a log signature; 8 bytes of big-endian POSIX seconds and 64 for a cosignature."""

    @property
    def time_s(self) -> int:
        return int.from_bytes(self.signature[:8], "big")


@frozen
class Note:
    """`text` ends with a newline; the lines follow a blank line."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def __str__(self) -> str:
        lines = "".join(f"{_DASH}{s.name} {b64(s.key_id + s.signature)}\n" for s in self.signatures)
        return f"{self.text}\n{lines}"


@frozen
class Checkpoint:
    """The text of a checkpoint. The extension lines are idao's: `word value`, in this order."""

    quorum: bytes
    size: int
    root: bytes
    height: int
    header: bytes
    state_root: bytes
    epoch: int
    validators: bytes

    def text(self) -> str:
        return (
            f"{origin(self.quorum)}\n{self.size}\n{b64(self.root)}\n"
            f"height {self.height}\nheader {b64(self.header)}\nstate {b64(self.state_root)}\n"
            f"epoch {self.epoch}\nvalidators {b64(self.validators)}\n"
        )


@lru_cache(256)
def origin(quorum: bytes) -> str:
    """The log's name: first line of its checkpoints, and key name of its log signatures."""
    return "idao/" + show_id("quorum", quorum)


@lru_cache(256)
def key_id(name: str, kind: int, public: bytes) -> bytes:
    return bytes(sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4])


def vkey(name: str, kind: int, public: bytes) -> str:
    """The verifier key that other tools take: `name+hex key id+base64(type || key)`."""
    return f"{name}+{key_id(name, kind, public).hex()}+{b64(bytes([kind]) + public)}"


@lru_cache(256)
def cosigner_name(quorum: bytes, public: bytes) -> str:
    """Key name of a validator as witness. Distinct per key, so that tools can list several."""
    return f"{origin(quorum)}/{public.hex()[:16]}"


def log_signature(signer: Signer, quorum: bytes, text: str) -> SignatureLine:
    name = origin(quorum)
    return SignatureLine(name, key_id(name, SIG_LOG, signer.public), signer.sign_checkpoint(text.encode()))


def cosignature(signer: Signer, quorum: bytes, text: str, time_s: int) -> SignatureLine:
    name = cosigner_name(quorum, signer.public)
    signature = time_s.to_bytes(8, "big") + signer.cosign_checkpoint(text.encode(), time_s)
    return SignatureLine(name, key_id(name, SIG_COSIGNATURE, signer.public), signature)


def verify_log_signature(
    line: SignatureLine, quorum: bytes, public: bytes, text: str, check: Verify = verify
) -> bool:
    name = origin(quorum)
    return (
        line.name == name
        and line.key_id == key_id(name, SIG_LOG, public)
        and check(public, line.signature, text.encode())
    )


def verify_cosignature(
    line: SignatureLine, quorum: bytes, public: bytes, text: str, check: Verify = verify
) -> bool:
    name = cosigner_name(quorum, public)
    return (
        line.name == name
        and line.key_id == key_id(name, SIG_COSIGNATURE, public)
        and len(line.signature) == 72
        and line.time_s < 2**63
        and check(public, line.signature[8:], cosigned_message(text.encode(), line.time_s))
    )


def _b64decode(text: str, size: int | None = None) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise Malformed("not base64") from e
    if b64(raw) != text or (size is not None and len(raw) != size):
        raise Malformed("not the canonical base64 of its size")
    return raw


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or (text[0] == "0" and text != "0") or len(text) > 19:
        raise Malformed(f"not a decimal: '{text[:24]}'")
    return int(text)


def parse_note(data: str) -> Note:
    """A signed note in its one spelling, at least one signature."""
    if len(data) > NOTE_BYTES_MAX:
        raise Malformed("note too large")
    if not data.replace("\n", "").isprintable():
        raise Malformed("control character in a note")
    text, blank, tail = data.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise Malformed("not a signed note")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise Malformed(f"more than {SIGNATURES_MAX} signatures")
    note = Note(text + "\n", tuple(_parse_line(line) for line in lines))
    if str(note) != data:
        raise Malformed("not the canonical form of a note")
    return note


def _parse_line(line: str) -> SignatureLine:
    if not line.startswith(_DASH):
        raise Malformed("not a signature line")
    name, space, raw = line[len(_DASH) :].partition(" ")
    if not space or "+" in name or name.split() != [name]:
        raise Malformed("not a signature line")
    blob = _b64decode(raw)
    if len(blob) < 5:
        raise Malformed("signature too short")
    return SignatureLine(name, blob[:4], blob[4:])


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint of a note's text. `Malformed` unless it is exactly what `Checkpoint.text` writes."""
    from idao.model import parse_id

    lines = text.split("\n")
    if len(lines) != 9 or lines[8] or not lines[0].startswith("idao/"):
        raise Malformed("not an idao checkpoint")

    def field(i: int, word: str) -> str:
        head, _, value = lines[i].partition(" ")
        if head != word:
            raise Malformed(f"checkpoint line {i + 1} is not '{word}'")
        return value

    try:
        quorum = parse_id("quorum", lines[0][5:])
    except Exception as e:
        raise Malformed("not an idao checkpoint") from e
    c = Checkpoint(
        quorum=quorum,
        size=_decimal(lines[1]),
        root=_b64decode(lines[2], 32),
        height=_decimal(field(3, "height")),
        header=_b64decode(field(4, "header"), 32),
        state_root=_b64decode(field(5, "state"), 32),
        epoch=_decimal(field(6, "epoch")),
        validators=_b64decode(field(7, "validators"), 32),
    )
    if c.text() != text:
        raise Malformed("not the canonical form of a checkpoint")
    return c


@frozen
class TlogProof:
    """C2SP tlog-proof@v1 without the extra line: index, inclusion path, checkpoint note."""

    index: int
    path: tuple[bytes, ...]
    note: Note

    def __str__(self) -> str:
        hashes = "".join(b64(h) + "\n" for h in self.path)
        return f"c2sp.org/tlog-proof@v1\nindex {self.index}\n{hashes}\n{self.note}"


def parse_tlog_proof(data: str) -> TlogProof:
    head, blank, tail = data.partition("\n\n")
    lines = head.split("\n")
    if (
        not blank
        or len(lines) < 2
        or lines[0] != "c2sp.org/tlog-proof@v1"
        or not lines[1].startswith("index ")
    ):
        raise Malformed("not a tlog-proof")
    if len(lines) > 2 + 64:
        raise Malformed("inclusion path longer than any tree")
    proof = TlogProof(
        _decimal(lines[1][6:]), tuple(_b64decode(line, 32) for line in lines[2:]), parse_note(tail)
    )
    if str(proof) != data:
        raise Malformed("not the canonical form of a tlog-proof")
    return proof
