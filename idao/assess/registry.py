"""Which assessor judges which category, and the one call that runs it.

To add an assessor: one file with `assess(inputs, options, earlier, card) -> parts`, one line in `ASSESSORS`
(and one in `CATEGORIES` for each category that it judges).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pkgutil import get_data
from typing import cast

from idao.assess.earlier import Earlier
from idao.assess.report import (
    HEADLINE_STEP,
    AssessFile,
    Assessment,
    Card,
    Coverage,
    Fingerprint,
    Options,
    Report,
)
from idao.assess.sample import Part
from idao.crypto import canonical
from idao.crypto.hashing import Kind, digest
from idao.errors import UsageError

ASSESSORS = {"generic@1": "generic", "tabular@1": "tabular", "text@1": "text"}
"""Assessor -> module of this package."""
CATEGORIES = {"tabular": "tabular@1", "text": "text@1"}
"""Category -> assessor; for every other category the generic one."""
DEFAULT = "generic@1"
LABELS_MAX = 64
SOURCES = (
    "__init__", "columns", "earlier", "files", "forms", "generic", "near", "privacy", "registry", "report",
    "sample", "table", "tabular", "text",
)  # fmt: skip
"""All modules of the package: an assessor's result depends on each."""

_Assess = Callable[[Sequence[AssessFile], Options, Earlier, Card], list[Part]]


def assessor_for(category: str) -> str:
    """The id of the assessor that judges a category, e.g. 'tabular@1'."""
    return CATEGORIES.get(category, DEFAULT)


@lru_cache(maxsize=1)
def code_hash() -> bytes:
    """The hash of the source text of this package, also from within a zip file.

    Line ends are made LF, so that a checkout's settings do not matter. `FileNotFoundError` if the sources
    were not shipped.
    """
    texts = []
    for name in SOURCES:
        source = get_data(__package__ or "idao.assess", f"{name}.py")
        if source is None:
            raise FileNotFoundError(f"the source of {name} was not shipped")
        texts.append([name, source.replace(b"\r\n", b"\n")])
    return digest(Kind.ASSESSOR, canonical.encode(texts))


def assess(
    files: Sequence[AssessFile],
    category: str,
    options: Options | None = None,
    earlier: Earlier | None = None,
) -> Assessment:
    """The score card and the fingerprint of an asset: a pure function of what it is given.

    The order of files does not matter. Contents never raise; `UsageError` for content ids that are not 32
    bytes, negative sizes or too many labels. What `files[i].read` raises goes through.
    """
    options = options or Options()
    if len(options.labels) > LABELS_MAX:
        raise UsageError(f"at most {LABELS_MAX} label columns")
    assessor = assessor_for(category)
    run = cast(_Assess, import_module(f"{__package__}.{ASSESSORS[assessor]}").assess)
    card = Card()
    parts = run(files, options, earlier or Earlier(), card)
    read = sum(part.length for part in parts)
    card.counts["useful_units"] = card.useful
    coverage = Coverage(
        len(files), len(parts), card.counts["bytes"], read, card.bytes_searched
    )  # fmt: skip
    if read < card.counts["distinct_bytes"]:
        card.say("sample", f"{read} bytes were looked at of {card.counts['distinct_bytes']} that differ")
    score = card.overall()
    report = Report(
        1, assessor, code_hash(), "exact", category, tuple(sorted(set(options.labels))),
        tuple(sorted(card.scores.items())), score, score - score % HEADLINE_STEP, card.merit(),
        tuple(sorted(card.gates.items())), tuple(sorted(card.counts.items())), tuple(card.reasons), coverage,
    )  # fmt: skip
    return Assessment(report, _fingerprint(assessor, card))


def _fingerprint(assessor: str, card: Card) -> Fingerprint:
    return Fingerprint(
        1, assessor, card.contents, card.contents_total, card.rows, card.rows_total,
        card.sketches, card.slice,
    )  # fmt: skip
