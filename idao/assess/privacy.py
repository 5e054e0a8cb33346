"""Secrets and personal data: counted, never kept. Each kind is a pattern and, where one exists, its checksum.

Found: what has a form of its own. Names and addresses of people have none and are not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import cast

from idao.assess.report import WHOLE, Card
from idao.assess.sample import Part

PERSONAL_BYTES_MAX = 512 * 1024
"""Bytes searched for personal data per review: some 30 ms. Secrets are searched for in all that is read."""
PIECE_END = 3
"""Bytes that the end of a piece counts for there."""
SECRETS = ("private_keys", "cloud_keys", "tokens", "url_passwords", "passwords")
PERSONAL = ("emails", "phones", "ibans", "cards", "ssns", "ips")

_Rules = tuple[tuple[str, bytes, bytes], ...]
"""(kind, how it begins, what follows): the beginning is looked for by itself, many times faster."""
_ANYWHERE: _Rules = (
    ("private_keys", b"-----BEGIN ", rb"(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    ("cloud_keys", b"AccountKey=", rb"[\w+/]{40,}"),
)
_BEFORE_AT: _Rules = (("url_passwords", b"://", rb"[^\s/:@'\"<>]{1,64}:[^\s/@'\"<>]{1,64}@"),)
"""Where there is an '@'."""
_IN_WORDS: _Rules = (
    ("tokens", b"xox", rb"[abpors]-[\w-]{10,}"),
    ("tokens", b"eyJ", rb"[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
)
"""Where there are words of `WORD` bytes: all that these two find begin with one."""
_IN_LONG_WORDS: _Rules = (
    ("private_keys", b"PuTTY-User-Key-File-", rb"\d"),
    ("cloud_keys", b"AKIA", rb"[A-Z0-9]{16}\b"),
    ("cloud_keys", b"ASIA", rb"[A-Z0-9]{16}\b"),
    ("cloud_keys", b"AIza", rb"[\w-]{35}"),
    ("cloud_keys", b"dop_v1_", rb"[0-9a-f]{64}"),
    ("tokens", b"ghp_", rb"[A-Za-z0-9]{36}"),
    ("tokens", b"gho_", rb"[A-Za-z0-9]{36}"),
    ("tokens", b"ghs_", rb"[A-Za-z0-9]{36}"),
    ("tokens", b"ghr_", rb"[A-Za-z0-9]{36}"),
    ("tokens", b"github_pat_", rb"\w{50,}"),
    ("tokens", b"glpat-", rb"[\w-]{20}"),
    ("tokens", b"sk-", rb"(?:[a-z]{2,8}-)?[A-Za-z0-9_]{20,}"),
    ("tokens", b"sk_live_", rb"\w{16,}"),
    ("tokens", b"rk_live_", rb"\w{16,}"),
    ("tokens", b"hf_", rb"[A-Za-z]{30,}"),
    ("tokens", b"npm_", rb"[A-Za-z0-9]{36}"),
    ("tokens", b"pypi-", rb"[\w-]{50,}"),
)
"""Within words of `LONG_WORD` bytes: none of what these find is shorter or reaches beyond its word."""
_QUOTED = rb"['\"]?[ ]?[:=][ ]?(?:'[^'\s]{6,80}'|\"[^\"\s]{6,80}\")"
_PASSWORDS: _Rules = tuple(
    ("passwords", word, _QUOTED)
    for word in (
        b"password", b"passwd", b"api_key", b"apikey", b"api-key", b"secret_key", b"client_secret",
        b"access_token",
    )
)  # fmt: skip
"""In small letters, where a quoted text follows a colon or an equals sign."""
WORD, LONG_WORD = 13, 20
LONG_WORDS_MAX = 4_096
"""Long words looked at one by one: of more, all around them is searched."""
BLOCK = 4 * 1024
"""Bytes of the lines that are ruled out, or searched, together."""


def _table(kinds: dict[bytes, bytes], others: bytes = b"") -> bytes:
    """Of `bytes.translate`: each character of a key becomes the value; `others`, if given, that."""
    table = bytearray(others * 256 or range(256))
    for characters, kind in kinds.items():
        for c in characters:
            table[c] = kind[0]
    return bytes(table)


_CAPITALS, _DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"0123456789"
_LETTERS = _CAPITALS + _CAPITALS.lower()
_AS_WORDS = _table({_LETTERS + _DIGITS + b"_-": b"w", b":=": b":", b"'\"": b'"', b" ": b" "}, b".")
_AS_NUMBERS = _table({_CAPITALS: b"A", _DIGITS: b"0", b" ": b"-"})
_WORD_END = re.compile(rb"[^w]|\Z")
_NUMBERS = (
    b"000-00-0000",  # ssns
    b"-000-0000", b"-000.0000", b".000-0000", b".000.0000",  # phones
    b"0" * 15, b"000-00000", b"0000-0000-0000",  # cards
    b".0.", b".00.", b".000.",  # ips
)  # fmt: skip
"""What any match of `_NUMBER` holds one of, `_AS_NUMBERS`."""
_IBAN_START = b"AA00"
_EMAIL = rb"@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])"
_NUMBER = rb"""(?xs)[\d(](?<![\w.+/-].)(?:  # looking back only after a first character is faster
(?P<ssns>\d\d-\d\d-\d{4})
|(?P<cards>\d{3}([ -]?)\d{4}\3\d{4}\3\d{4}|\d{3}[ -]?\d{6}[ -]?\d{5})
|(?P<ips>\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3})
|(?P<phones>\d{2,3}\)?[ .-]\d{3}[.-]\d{4})
)(?![\w/-]|\.\d)"""
_PHONE = rb"\+[1-9]\d{0,2}[ .(-]{0,2}\d[\d ().-]{5,14}\d(?![\w.])"
_IBAN = rb"[A-Z](?<!\w[A-Z])[A-Z]\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "ES": 24, "FI": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27,
    "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24,
    "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "XK": 20,
}  # fmt: skip
_ISSUERS = (
    b"4",
    b"51",
    b"52",
    b"53",
    b"54",
    b"55",
    b"22",
    b"23",
    b"24",
    b"25",
    b"26",
    b"27",
    b"34",
    b"37",
    b"60",
    b"65",
)
_WORD = frozenset(_LETTERS + _DIGITS + b"_")
_LOCAL_PART = frozenset(_LETTERS + _DIGITS + b"._%+-")


@lru_cache(maxsize=64)
def _pattern(source: bytes) -> re.Pattern[bytes]:
    return re.compile(source)


def _blocks(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines. Nothing that is searched for crosses a line end, and where a line begins or ends makes no
    difference; so lines may be left out, and those that stay put together in lines."""
    for text in texts:
        at = 0
        while at < len(text):
            end = text.find(b"\n", at + BLOCK)
            end = len(text) if end < 0 else end
            yield text[at:end]
            at = end


def _long_words(data: bytes) -> bytes:
    """The words of at least `LONG_WORD` bytes, a line each; all of `data` if they are many."""
    seen = data.translate(_AS_WORDS)
    words = []
    at = seen.find(b"w" * LONG_WORD)
    while at >= 0:
        end = cast(re.Match[bytes], _WORD_END.search(seen, at + LONG_WORD)).start()
        words.append(data[at:end])
        if len(words) > LONG_WORDS_MAX:
            return data
        at = seen.find(b"w" * LONG_WORD, end)
    return b"\n".join(words)


def secrets_in(*texts: bytes) -> dict[str, int]:
    """How many secrets of each kind stand in `texts`."""
    anywhere, before_at, wordy, quoting = [], [], [], []
    for block in _blocks(texts):
        words = block.translate(_AS_WORDS)
        if b"w" * WORD in words:
            wordy.append(block)
        if b'"' in words and (b':"' in words or b': "' in words):
            quoting.append(block)
        if b"@" in block and b"://" in block:
            before_at.append(block)
        if b"-----BEGIN " in block or b"AccountKey=" in block:
            anywhere.append(block)
    found = dict.fromkeys(SECRETS, 0)
    for rules, where in (
        (_ANYWHERE, b"\n".join(anywhere)),
        (_BEFORE_AT, b"\n".join(before_at)),
        (_IN_WORDS, with_words := b"\n".join(wordy)),
        (_IN_LONG_WORDS, _long_words(with_words)),
        (_PASSWORDS, b"\n".join(quoting).lower()),
    ):
        for kind, begin, rest in rules:
            found[kind] += _count(where, begin, rest, begin[:1].isalnum() and rules is not _PASSWORDS)
    return found


def _count(data: bytes, begin: bytes, rest: bytes, as_word: bool) -> int:
    count = 0
    at = data.find(begin)
    while at >= 0:
        end = at + len(begin)
        if not (as_word and at and data[at - 1] in _WORD) and _pattern(rest).match(data, end):
            count += 1
        at = data.find(begin, end)
    return count


def personal_in(*texts: bytes) -> dict[str, int]:
    """How many personal data of each kind stand in `texts`."""
    at, plus, numbers, capitals = [], [], [], []
    for block in _blocks(texts):
        marks = block.translate(_AS_NUMBERS)
        if b"@" in block:
            at.append(block)
        if b"+" in block:
            plus.append(block)
        if any(n in marks for n in _NUMBERS):
            numbers.append(block)
        if _IBAN_START in marks:
            capitals.append(block)
    found = dict.fromkeys(PERSONAL, 0)
    data = b"\n".join(at)
    for m in _pattern(_EMAIL).finditer(data):
        found["emails"] += m.start() > 0 and data[m.start() - 1] in _LOCAL_PART
    for m in _pattern(_NUMBER).finditer(b"\n".join(numbers)):
        kind = next(k for k in _CHECKS if m[k] is not None)
        found[kind] += _CHECKS[kind](m[0])
    found["phones"] += len(_pattern(_PHONE).findall(b"\n".join(plus)))
    for m in _pattern(_IBAN).finditer(b"\n".join(capitals)):
        found["ibans"] += iban(m[0].decode())
    return found


def _ssn(number: bytes) -> bool:
    """Area, group and serial that the US administration gives out."""
    area, group, serial = number.split(b"-")
    return area not in (b"000", b"666") and area[:1] in b"012345678" and group != b"00" and serial != b"0000"


def _card(number: bytes) -> bool:
    """A number of an issuer known to begin so, with the check digit."""
    return number.startswith(_ISSUERS) and luhn(number)


def _phone(number: bytes) -> bool:
    return number[:1] in b"(23456789" and (number[:1] == b"(") == (b")" in number)


def luhn(number: bytes) -> bool:
    """Whether the digits fulfil the check of ISO/IEC 7812-1."""
    digits = [c - 48 for c in number if 48 <= c <= 57]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1


def iban(text: str) -> bool:
    """Whether the text is an IBAN: the length of its country and the mod-97 check of ISO 7064."""
    plain = text.replace(" ", "")
    if len(plain) != _IBAN_LENGTHS.get(plain[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _public(address: bytes) -> bool:
    """A dotted quad that may belong to somebody's machine."""
    parts = address.lstrip(b"(").split(b".")
    if not parts[0]:
        return False
    a, b, c, d = map(int, parts)
    if max(a, b, c, d) > 255 or a in (0, 10, 127) or a >= 224 or (b, c, d) == (0, 0, 0):
        return False
    return not ((a == 192 and b == 168) or (a == 172 and 16 <= b < 32) or (a == 169 and b == 254))


_CHECKS: dict[str, Callable[[bytes], bool]] = {"ssns": _ssn, "cards": _card, "ips": _public, "phones": _phone}


def assess_privacy(card: Card, parts: Sequence[Part]) -> None:
    """Counts what stands in `parts` and scores it."""
    pieces = [piece for part in parts for piece in part.pieces]
    totals = {**secrets_in(*pieces), **personal_in(*_first(pieces))}
    card.bytes_searched = min(sum(map(len, pieces)), PERSONAL_BYTES_MAX)
    secrets = sum(totals[k] for k in SECRETS)
    personal = sum(totals[k] for k in PERSONAL)
    card.counts.update(totals)
    penalty = 0
    told = []
    if secrets:
        # A first secret weighs most; more of them by their order of magnitude.
        penalty += 3_000 + 500 * secrets.bit_length()
        told.append(f"{secrets} that look like secrets ({_kinds(totals, SECRETS)})")
    if personal:
        penalty += 1_000 + 300 * personal.bit_length()
        told.append(f"{personal} that look like personal data ({_kinds(totals, PERSONAL)})")
    card.score(
        "privacy", WHOLE - penalty, "found " + " and ".join(told),
        "take secrets out and revoke them; remove, mask or agree on personal data",
    )  # fmt: skip


def _first(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What is searched for personal data; the end of a piece counts as much as these bytes of it."""
    left = PERSONAL_BYTES_MAX
    for piece in pieces:
        if left > 0:
            yield piece[:left]
        left -= len(piece) + PIECE_END


def _kinds(totals: dict[str, int], kinds: Sequence[str]) -> str:
    return ", ".join(f"{totals[k]} {k.replace('_', ' ')}" for k in kinds if totals[k])
