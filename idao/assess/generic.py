"""`generic@1`: files of any kind. Integrity, copies, near copies among texts, secrets, personal data."""

from __future__ import annotations

from collections.abc import Sequence

from idao.assess import files, text
from idao.assess.earlier import Earlier
from idao.assess.report import WHOLE, AssessFile, Card, Options, share
from idao.assess.sample import Part

BUDGET = 2 * 1024 * 1024
"""Bytes read: enough for the secrets of most small trees, some 100 ms."""
TEXT_BUDGET = 256 * 1024
"""Of these, bytes compared as texts."""


def assess(inputs: Sequence[AssessFile], options: Options, earlier: Earlier, card: Card) -> list[Part]:
    """Fills `card`; returns what was read."""
    parts = files.assess_files(inputs, earlier, card, BUDGET)
    chosen, left = [], TEXT_BUDGET
    for part in parts:
        if text.is_text(part) and part.length <= left:
            chosen.append(part)
            left -= part.length
    documents, _ = text.documents_of(chosen)
    corpus = text.read_corpus(documents, earlier)
    card.counts.update(documents=corpus.documents, near_duplicates=corpus.near)
    near = share(corpus.near, corpus.documents) if corpus.documents else 0
    # Only texts can be compared for near copies, so they count by their share among the files read.
    near = near * len(chosen) // len(parts) if parts else 0
    card.score(
        "uniqueness", card.scores["uniqueness"] * (WHOLE - near) // WHOLE,
        f"{card.counts['duplicate_files']} files are copies of others, and {corpus.near} of "
        f"{corpus.documents} texts compared are nearly so",
        "keep one of each",
    )  # fmt: skip
    seen = share(corpus.seen, corpus.documents) * len(chosen) // len(parts) if corpus.documents else 0
    files.score_novelty(card, seen, "texts")
    filled = card.counts["files"] - card.counts["empty_files"]
    card.useful = filled * card.scores["uniqueness"] // WHOLE * card.scores["novelty"] // WHOLE
    card.sketches = tuple(sorted(set(corpus.sketches)))
    return parts
