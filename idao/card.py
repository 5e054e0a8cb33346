"""Cards: what an asset says about itself to people and search engines, as JSON-LD.

A dataset's card is Croissant 1.1 (MLCommons), any other a schema.org description. Cards are made from what
is known, or given by the user and read strictly. They are written in one spelling (`jsonfile.write`).

A card may be shown in public. It therefore holds no content hash, ever, and file and column names only when
its owner lists them: a card made here has none by default, a card that was given is searched for hashes
before it is shown (`require_public`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from idao import jsonfile
from idao.errors import Refused, UsageError
from idao.frozen import frozen
from idao.model import show_id

CARD_BYTES_MAX = 1024 * 1024
"""A card describes; a thousand files and a thousand columns fit."""
FILES_MAX = 1000
COLUMNS_MAX = 1000
"""Entries that a card lists: more than anybody reads, few enough for one megabyte."""
TEXT_MAX = 64 * 1024
"""Characters of a description."""

CROISSANT = "http://mlcommons.org/croissant/1.1"
COLUMN_TYPES = {
    "text": "sc:Text",
    "integer": "sc:Integer",
    "number": "sc:Float",
    "boolean": "sc:Boolean",
    "date": "sc:Date",
    "time": "sc:DateTime",
    "url": "sc:URL",
}
"""What a column holds -> Croissant's data type."""

_SCHEMA_TYPES = {
    "model": "CreativeWork",
    "agent": "SoftwareApplication",
    "flow": "SoftwareApplication",
    "compute": "Service",
    "result": "CreativeWork",
    "pov": "Claim",
}
KINDS = ("dataset", *_SCHEMA_TYPES)

_CR_WORDS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet "
    "format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex "
    "repeated replace samplingRate separator source subField transform"
)
_CROISSANT_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{word: f"cr:{word}" for word in _CR_WORDS.split()},
}
"""The context of Croissant 1.1 (specification, appendix 1), which its readers compare word by word."""
_DATASET_TYPES = (
    "sc:Dataset",
    "Dataset",
    "schema:Dataset",
    "https://schema.org/Dataset",
    "http://schema.org/Dataset",
)


@frozen
class Column:
    """A column of a table; `holds` is a key of `COLUMN_TYPES`."""

    name: str
    holds: str = "text"


@frozen
class File:
    """A file that the owner lists by name, with the columns of a table if they are listed too."""

    path: str
    media_type: str = "application/octet-stream"
    columns: tuple[Column, ...] = ()


@frozen
class Known:
    """What idao knows of an asset version when it makes the card. `published` is an RFC 3339 date."""

    kind: str
    name: str
    owner: bytes
    category: str
    version: int = 1
    licence: str = ""
    description: str = ""
    owner_name: str = ""
    asset: bytes | None = None
    parents: tuple[tuple[bytes, int], ...] = ()
    published: str = ""
    files: tuple[File, ...] = ()


def build(known: Known) -> dict[str, Any]:
    """The card. `UsageError` for an unknown kind or column type, or more files or columns than are listed."""
    if known.kind not in KINDS:
        raise UsageError(f"'{known.kind}' is not a kind of asset", hint=f"one of: {', '.join(KINDS)}")
    card = _described(known)
    if known.kind != "dataset":
        return {"@context": "https://schema.org/", "@type": _SCHEMA_TYPES[known.kind], **card}
    card = {"@context": dict(_CROISSANT_CONTEXT), "@type": "sc:Dataset", "conformsTo": CROISSANT, **card}
    columns = sum(len(f.columns) for f in known.files)
    if len(known.files) > FILES_MAX or columns > COLUMNS_MAX:
        raise UsageError(
            f"{len(known.files)} files, {columns} columns: at most {FILES_MAX} and {COLUMNS_MAX} are listed",
            hint="leave the list of files out of the card",
        )
    if known.files:
        card["distribution"] = [_file_set(i, f) for i, f in enumerate(known.files)]
    if columns:
        card["recordSet"] = [_record_set(i, f) for i, f in enumerate(known.files) if f.columns]
    return card


def _described(known: Known) -> dict[str, Any]:
    """What every card says, in the words of schema.org."""
    text = known.description or f"{known.kind} '{known.name}', {known.category}"
    card: dict[str, Any] = {
        "name": _text(known.name),
        "description": _text(text[:TEXT_MAX]),
        "version": f"{known.version}.0.0",  # Croissant asks for three numbers
        "keywords": [known.category],
        "additionalType": known.kind,
        "creator": {
            "@type": "sc:Organization" if known.kind == "dataset" else "Organization",
            "name": _text(known.owner_name) or show_id("idao", known.owner),
            "identifier": show_id("idao", known.owner),
        },
    }
    if known.licence:
        card["license"] = licence_url(known.licence)
    if known.asset is not None:
        card["url"] = show_id("asset", known.asset)
    if known.published:
        card["datePublished"] = known.published
    if known.parents:
        card["isBasedOn"] = [f"{show_id('asset', asset)}@{version}" for asset, version in known.parents]
    return card


def licence_url(expression: str) -> str:
    """The page of a single SPDX licence, which Croissant prefers; an expression as it is."""
    single = re.fullmatch(r"[A-Za-z0-9.-]+", expression) and not expression.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{expression}" if single else expression


def _file_set(i: int, file: File) -> dict[str, Any]:
    # A FileObject would need the content's hash or a URL to fetch it from; a set of one needs neither.
    path = _text(file.path)
    return {
        "@type": "cr:FileSet",
        "@id": f"file-{i}",
        "name": path,
        "encodingFormat": file.media_type,
        "includes": re.sub(r"([*?\[])", r"[\1]", path),
    }


def _record_set(i: int, file: File) -> dict[str, Any]:
    fields = []
    for n, column in enumerate(file.columns):
        if column.holds not in COLUMN_TYPES:
            raise UsageError(
                f"a column cannot hold '{column.holds}'", hint=f"one of: {', '.join(COLUMN_TYPES)}"
            )
        name = _text(column.name)
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"table-{i}/column-{n}",
                "name": name,
                "dataType": COLUMN_TYPES[column.holds],
                "source": {"fileSet": {"@id": f"file-{i}"}, "extract": {"column": name}},
            }
        )
    return {"@type": "cr:RecordSet", "@id": f"table-{i}", "name": _text(file.path), "field": fields}


def _text(name: str) -> str:
    """The name as valid text: bytes that are not UTF-8 (lone surrogates in Python) appear as \\xNN."""
    if name.isascii():
        return name
    return "".join(f"\\x{ord(c) & 0xFF:02x}" if "\ud800" <= c <= "\udfff" else c for c in name)


def to_bytes(card: dict[str, Any]) -> bytes:
    """The one spelling of a card. `UsageError` when it is larger than 1 MiB."""
    raw = jsonfile.write(card)
    if len(raw) > CARD_BYTES_MAX:
        raise UsageError(f"the card has {len(raw)} bytes; at most {CARD_BYTES_MAX} are kept")
    return raw


# --- a card that was given ------------------------------------------------------------------------------


def read(raw: bytes, kind: str) -> dict[str, Any]:
    """A user's card for an asset of `kind`. `UsageError` names the line and what is wrong there.

    It must be JSON-LD with a type and a name; for a dataset, a Croissant 1.0 or 1.1 description. The rest is
    the user's. Fractions stay as typed.
    """
    card = jsonfile.read(raw, "card", CARD_BYTES_MAX)
    if not isinstance(card, jsonfile.Object):
        raise UsageError("card, line 1: a card is a JSON object")
    for key, good in (
        ("@context", isinstance(card.get("@context"), (str, dict, list)) and bool(card["@context"])),
        ("@type", isinstance(card.get("@type"), str) and bool(card["@type"])),
        ("name", _is_name(card.get("name"))),
    ):
        if not good:
            raise UsageError(f"card, line {card.lines.get(key, card.line)}: it needs '{key}'", hint=_EXAMPLE)
    if kind == "dataset":
        if card["@type"] not in _DATASET_TYPES:
            raise UsageError(f"card, line {card.lines['@type']}: a dataset's '@type' is \"sc:Dataset\"")
        conforms = card.get("conformsTo", card.get("dct:conformsTo"))
        if conforms not in (CROISSANT, "http://mlcommons.org/croissant/1.0"):
            line = card.lines.get("conformsTo", card.line)
            raise UsageError(f"card, line {line}: 'conformsTo' must be \"{CROISSANT}\"", hint=_EXAMPLE)
    to_bytes(card)
    return card


_EXAMPLE = "without --card idao makes a card that has it"


def _is_name(value: Any) -> bool:
    """Text, or Croissant 1.1's map from language to text."""
    if isinstance(value, dict):
        return bool(value) and all(isinstance(v, str) and v for v in value.values())
    return isinstance(value, str) and not isinstance(value, jsonfile.Number) and bool(value)


# --- nothing that gives the content away ----------------------------------------------------------------

_HASH_KEYS = re.compile(r"md5|sha-?\d|blake\d|checksum|digest|etag$|hash(es)?$", re.IGNORECASE)
_HASH_VALUES = re.compile(
    r"(?<![0-9a-z])([0-9a-f]{128}|[0-9a-f]{96}|[0-9a-f]{64}|[0-9a-f]{56}|[0-9a-f]{40}|[0-9a-f]{32})(?![0-9a-z])"
    r"|\b(md5|sha-?\d+|blake\w+)[:=-][0-9a-z+/]{16}",
    re.IGNORECASE,
)
"""Hex digests of the usual lengths, and the labelled forms of other encodings."""


def content_hashes(card: Any) -> list[str]:
    """Where a card holds what looks like a content hash, as paths such as `distribution[0].sha256`."""
    return list(_hashes(card, ""))


def _hashes(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else key
            if key == "@context":  # names the terms, `md5` among them
                continue
            if (_HASH_KEYS.search(key) and inner) or _HASH_VALUES.search(key):
                yield here
            else:
                yield from _hashes(inner, here)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _hashes(inner, f"{path}[{i}]")
    elif isinstance(value, str) and _HASH_VALUES.search(value):
        yield path


def require_public(card: Any) -> None:
    """`Refused` (code `card-hash`) if the card holds what looks like a content hash.

    A hash in public lets anybody who guesses the content confirm the guess.
    """
    found = content_hashes(card)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise Refused(
            f"the card holds content hashes and cannot be public: {', '.join(found[:3])}{more}",
            hint="take them out of the card, or keep the card private",
            code="card-hash",
        )
