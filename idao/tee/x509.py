"""Certificates and revocation lists as bytes: strict DER (X.690 §10), as RFC 5280 §4.1 and §5.1 profile it.

A reader of its own, for two reasons. AMD's leaves have the serial number 0, which general libraries say that
they will refuse one day. And such a library takes as long to load as twenty attested cosigners to judge. This
one reads and nothing else: keys and signatures are the business of `certs` and of a library of cryptography.
Tests hold it against that library over every certificate at hand and mutations of them (ADR 0049).
"""

from __future__ import annotations

import datetime
from functools import lru_cache

from idao.errors import Malformed
from idao.frozen import frozen

INTEGER, BIT_STRING, OCTET_STRING, OID, UTC_TIME, LONG_TIME = 0x02, 0x03, 0x04, 0x06, 0x17, 0x18
SEQUENCE, SET, BOOLEAN = 0x30, 0x31, 0x01
CERT_BYTES_MAX = 8192
"""The largest real certificate seen has 1.7 kB."""
LENGTH_BYTES_MAX = 3
"""Bytes of a length: the largest list of revocations has some hundred kilobytes."""
VERSION_3 = bytes.fromhex("a003020102")
COMMON_NAME = bytes.fromhex("550403")
KEY_USAGE, BASIC_CONSTRAINTS = bytes.fromhex("551d0f"), bytes.fromhex("551d13")
_TEXTS = dict.fromkeys((0x12, 0x13, 0x16, 0x1A), "ascii") | {
    0x0C: "utf-8",
    0x14: "latin-1",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
"""Tags of strings in names -> how they are written."""
_EPOCH = datetime.datetime(1970, 1, 1)
_MS = datetime.timedelta(milliseconds=1)


class Der:
    """Reads elements one after the other. `Malformed` for what is not their one shortest form."""

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int = 0, end: int | None = None) -> None:
        self.data, self.pos, self.end = data, pos, len(data) if end is None else end

    def peek(self) -> int:
        """The tag that comes next; -1 at the end."""
        return self.data[self.pos] if self.pos < self.end else -1

    def span(self, tag: int) -> tuple[int, int]:
        """(begin, end) of the contents of the next element, which must have this tag."""
        data, at, end = self.data, self.pos, self.end
        if at + 2 > end or data[at] != tag:
            raise Malformed("DER with another element than expected", code="chain")
        size, begin = data[at + 1], at + 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[begin : begin + count], "big")
            begin += count
            shortest = size >= 0x80 and size >> 8 * (count - 1)
            if not 1 <= count <= LENGTH_BYTES_MAX or not shortest:
                raise Malformed("DER with a strange length", code="chain")
        if begin + size > end:
            raise Malformed("DER ends early", code="chain")
        self.pos = begin + size
        return begin, self.pos

    def take(self, tag: int) -> bytes:
        """The contents of the next element."""
        begin, end = self.span(tag)
        return self.data[begin:end]

    def whole(self, tag: int) -> bytes:
        """The next element with its head."""
        at = self.pos
        return self.data[at : self.span(tag)[1]]

    def enter(self, tag: int) -> Der:
        """A reader of what is inside the next element."""
        return Der(self.data, *self.span(tag))

    def integer(self) -> int:
        """A number below zero included."""
        raw = self.take(INTEGER)
        if not raw or (len(raw) > 1 and (raw[0], raw[1] >> 7) in ((0, 0), (0xFF, 1))):
            raise Malformed("DER number not in its shortest form", code="chain")
        return int.from_bytes(raw, "big", signed=True)

    def bits(self) -> bytes:
        """A bit string of whole bytes."""
        raw = self.take(BIT_STRING)
        if raw[:1] != b"\0":
            raise Malformed("DER bit string with a part of a byte", code="chain")
        return raw[1:]

    def moment(self) -> int:
        """A time in ms UTC, of either form."""
        long = self.peek() == LONG_TIME
        raw = self.take(LONG_TIME if long else UTC_TIME)
        digits = raw[:-1]
        if len(digits) != (14 if long else 12) or not digits.isdigit() or raw[-1:] != b"Z":
            raise Malformed("a certificate's time of a strange form", code="chain")
        if not long:
            digits = (b"20" if digits < b"5" else b"19") + digits
        return utc_ms(int(digits[:4]), *(int(digits[i : i + 2]) for i in range(4, 14, 2)))

    def done(self) -> None:
        if self.pos != self.end:
            raise Malformed("DER with more than expected", code="chain")


def utc_ms(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    """Milliseconds UTC of a date and time of day; `Malformed` if there is none such."""
    try:
        return (datetime.datetime(year, month, day, hour, minute, second) - _EPOCH) // _MS
    except ValueError as e:
        raise Malformed("no such moment", code="chain") from e


def show_utc(at_ms: int) -> str:
    """As RFC 3339 writes it, to the second."""
    return (_EPOCH + at_ms * _MS).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- certificates --------------------


class Certificate:
    """One certificate, read and not judged."""

    __slots__ = (
        *("algorithm", "extensions", "issuer", "not_after_ms", "not_before_ms", "raw"),
        *("serial", "signature", "spki", "subject", "tbs"),
    )
    raw: bytes
    tbs: bytes
    """What is signed."""
    serial: int
    algorithm: bytes
    """AlgorithmIdentifier of the signature: DER, the same inside and outside of what is signed."""
    issuer: bytes
    """DER of the name: names are the same if their bytes are."""
    subject: bytes
    not_before_ms: int
    not_after_ms: int
    spki: bytes
    """DER of the public key."""
    extensions: dict[bytes, bytes]
    """Object identifier (its contents in DER) -> value."""
    signature: bytes

    def __init__(self, raw: bytes) -> None:
        if len(raw) > CERT_BYTES_MAX:
            raise Malformed("certificate too large", code="chain")
        self.raw = raw
        self.tbs, self.algorithm, self.signature = _signed(raw)
        body = Der(self.tbs).enter(SEQUENCE)
        newest = body.peek() == 0xA0
        if newest and body.whole(0xA0) != VERSION_3:
            raise Malformed("certificate of an unknown version", code="chain")
        self.serial = body.integer()
        if self.serial < 0:  # no list of revocations can name it
            raise Malformed("certificate with a negative serial number", code="chain")
        if body.whole(SEQUENCE) != self.algorithm:
            raise Malformed("certificate with two signature algorithms", code="chain")
        self.issuer = body.whole(SEQUENCE)
        validity = body.enter(SEQUENCE)
        self.not_before_ms, self.not_after_ms = validity.moment(), validity.moment()
        validity.done()
        self.subject, self.spki = body.whole(SEQUENCE), body.whole(SEQUENCE)
        self.extensions = {}
        if newest:
            for unused in (0x81, 0x82):  # unique identifiers of issuer and subject
                if body.peek() == unused:
                    body.span(unused)
            if body.peek() == 0xA3:
                self.extensions = _extensions(body.enter(0xA3))
        body.done()
        for name in (self.issuer, self.subject):
            common_name(name)
        key_bits(self.spki)


def _signed(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """(signed bytes, algorithm, signature) of a certificate or a list, which is all of `raw`."""
    top = Der(raw)
    outer = top.enter(SEQUENCE)
    top.done()
    parts = outer.whole(SEQUENCE), outer.whole(SEQUENCE), outer.bits()
    outer.done()
    return parts


def _extensions(wrapped: Der) -> dict[bytes, bytes]:
    """The extensions behind their tag, each of which may stand once."""
    entries = wrapped.enter(SEQUENCE)
    wrapped.done()
    out: dict[bytes, bytes] = {}
    while entries.peek() >= 0:
        one = entries.enter(SEQUENCE)
        oid = one.take(OID)
        if one.peek() == BOOLEAN and one.take(BOOLEAN) != b"\xff":  # what is not critical does not say so
            raise Malformed("an extension in another form than the shortest", code="chain")
        value = one.take(OCTET_STRING)
        one.done()
        if not oid or oid in out:
            raise Malformed("an extension stands twice", code="chain")
        out[oid] = value
    if not out:
        raise Malformed("a certificate with no extension where there should be one", code="chain")
    return out


@lru_cache(maxsize=256)  # authorities are named by every certificate
def common_name(name: bytes) -> str:
    """The first common name in the DER of a name; empty if it has none."""
    found = ""
    top = Der(name)
    parts = top.enter(SEQUENCE)
    top.done()
    while parts.peek() >= 0:
        group = parts.enter(SET)
        while group.peek() >= 0:
            pair = group.enter(SEQUENCE)
            oid, tag = pair.take(OID), pair.peek()
            text = pair.take(tag)
            pair.done()
            if oid == COMMON_NAME and not found:
                found = _text(tag, text)
    return found


def _text(tag: int, raw: bytes) -> str:
    try:
        return raw.decode(_TEXTS[tag])
    except (KeyError, UnicodeDecodeError) as e:
        raise Malformed("a name in a strange form of text", code="chain") from e


def key_bits(spki: bytes) -> tuple[bytes, bytes]:
    """(AlgorithmIdentifier in DER, the bits of the key) of a SubjectPublicKeyInfo."""
    top = Der(spki)
    inner = top.enter(SEQUENCE)
    top.done()
    parts = inner.whole(SEQUENCE), inner.bits()
    inner.done()
    return parts


@frozen
class Constraints:
    """What a certificate says it may do (RFC 5280 §4.2.1.3 and §4.2.1.9)."""

    ca: bool
    path_length: int | None
    """Authorities that may stand between it and a leaf; None: any number."""
    usage: int | None
    """Bits of the key usage, the first (digitalSignature) highest of eight; None if it does not say."""

    @property
    def signs(self) -> bool:
        """Is it said that the key signs documents?"""
        return self.usage is not None and bool(self.usage & 0x80)

    @property
    def issues(self) -> bool:
        """May the key sign certificates? Where nothing is said of its usage, as an authority it may."""
        return self.ca and (self.usage is None or bool(self.usage & 0x04))


def constraints(cert: Certificate) -> Constraints:
    """`Malformed` if an extension that restricts has a strange form."""
    ca, length, usage = False, None, None
    if (basic := cert.extensions.get(BASIC_CONSTRAINTS)) is not None:
        top = Der(basic)
        inner = top.enter(SEQUENCE)
        top.done()
        if inner.peek() == BOOLEAN:
            ca = inner.take(BOOLEAN) == b"\xff"
        if inner.peek() == INTEGER:
            length = inner.integer()
        inner.done()
    if (said := cert.extensions.get(KEY_USAGE)) is not None:
        top = Der(said)
        bits = top.take(BIT_STRING)
        top.done()
        if not bits or bits[0] > (7 if len(bits) > 1 else 0):
            raise Malformed("a key usage of a strange form", code="chain")
        usage = bits[1] if len(bits) > 1 else 0
    return Constraints(ca, length, usage)


# --- revocation --------------------


class RevocationList:
    """One list, read and not judged."""

    __slots__ = ("algorithm", "issuer", "next_ms", "raw", "revoked", "signature", "tbs", "this_ms")
    raw: bytes
    tbs: bytes
    algorithm: bytes
    issuer: bytes
    this_ms: int
    next_ms: int | None
    revoked: dict[int, int]
    """Serial number -> when it was revoked, ms UTC."""
    signature: bytes

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.tbs, self.algorithm, self.signature = _signed(raw)
        body = Der(self.tbs).enter(SEQUENCE)
        if body.peek() == INTEGER and body.integer() != 1:
            raise Malformed("a revocation list of an unknown version", code="chain")
        if body.whole(SEQUENCE) != self.algorithm:
            raise Malformed("a revocation list with two signature algorithms", code="chain")
        self.issuer = body.whole(SEQUENCE)
        common_name(self.issuer)
        self.this_ms, self.next_ms = body.moment(), None
        if body.peek() in (UTC_TIME, LONG_TIME):
            self.next_ms = body.moment()
        self.revoked = _entries(body.enter(SEQUENCE)) if body.peek() == SEQUENCE else {}
        if body.peek() == 0xA0:
            _extensions(body.enter(0xA0))
        body.done()


def _entries(listed: Der) -> dict[int, int]:
    out: dict[int, int] = {}
    while listed.peek() >= 0:
        one = listed.enter(SEQUENCE)
        serial, moment = one.integer(), one.moment()
        if one.peek() == SEQUENCE:  # why, and since when by the holder's account
            one.span(SEQUENCE)
        one.done()
        out.setdefault(serial, moment)
    return out
