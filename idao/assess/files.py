"""What every assessor checks of the files themselves: integrity, exact copies, copies of earlier assets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from operator import itemgetter

from idao.assess.earlier import Earlier
from idao.assess.forms import damaged
from idao.assess.privacy import assess_privacy
from idao.assess.report import WHOLE, AssessFile, Card, share
from idao.assess.sample import Part, look_over, read_sample

SECRET_NAMES = (
    b".env",
    b"id_rsa",
    b"id_ed25519",
    b"id_ecdsa",
    b".netrc",
    b".pgpass",
    b"credentials.json",
    b".htpasswd",
)
SECRET_ENDINGS = (b".pem", b".key", b".p12", b".pfx", b".kdbx", b".jks")
_SUSPICIOUS = (*SECRET_ENDINGS, *(b"/" + name for name in SECRET_NAMES))
_LAST = 4
"""Bytes that the shortest of these has: by its last ones most paths are told not to end so."""
_LAST_ONES = frozenset(
    bytes(spelt)
    for end in _SUSPICIOUS
    for spelt in product(*({*pair} for pair in zip(end[-_LAST:], end[-_LAST:].upper(), strict=True)))
)
_last_of = itemgetter(slice(-_LAST, None))


def assess_files(files: Sequence[AssessFile], earlier: Earlier, card: Card, budget: int) -> list[Part]:
    """Scores integrity, uniqueness, novelty and privacy of files; returns what was read of them, by content.

    Sizes and content ids of all files count; contents up to `budget` bytes.
    """
    known = earlier.contents()
    seen = look_over(files, _suspicious, known)
    suspicious = seen.marked
    first = {f.content for f in suspicious}
    parts = read_sample([*suspicious, *(f for f in seen.first if f.content not in first)], budget)
    parts.sort(key=lambda part: (part.file.content not in first, part.file.content))
    short = sum(part.short for part in parts) + seen.wrong
    broken = sum(damaged(part) for part in parts)
    filled, empty = seen.filled, seen.empty
    card.contents, card.contents_total = bytes(seen.contents), seen.starts
    card.gates["intact"] = not short
    card.gates["content"] = bool(filled)
    card.counts.update(
        files=len(files), bytes=seen.size, empty_files=empty,
        duplicate_files=len(files) - empty - filled, distinct_bytes=seen.distinct_bytes,
        unreadable_files=short, damaged_files=broken, suspicious_names=len(suspicious),
    )  # fmt: skip
    card.score(
        "integrity", share(len(parts) - min(len(parts), short + broken), len(parts)),
        f"{short} files lack bytes and {broken} are not what their name says or lack their end",
        "replace damaged files by whole ones",
    )  # fmt: skip
    card.scores["uniqueness"] = share(filled, len(files) - empty)
    card.scores["novelty"] = WHOLE - known.seen()
    assess_privacy(card, parts)
    if suspicious:
        card.say(
            "privacy", f"{len(suspicious)} files have names of key or password files",
            "take them out if they hold secrets",
        )  # fmt: skip
    return parts


def score_novelty(card: Card, seen: int, units: str) -> None:
    """Novelty by files and by `units` (bp of them seen in earlier assets): the lower counts."""
    novelty = min(card.scores["novelty"], WHOLE - seen)
    card.counts["seen_before_bp"] = WHOLE - novelty
    card.score(
        "novelty", novelty,
        f"{(WHOLE - novelty) // 100} % of the files or {units} are in earlier assets, or nearly so",
        "contribute only what is new, or name the earlier asset as parent",
    )  # fmt: skip


def _suspicious(paths: Sequence[bytes]) -> list[int]:
    if _LAST_ONES.isdisjoint(map(_last_of, paths)):
        return []
    return [
        i for i, path in enumerate(paths)
        if path[-_LAST:] in _LAST_ONES and (b"/" + path).lower().endswith(_SUSPICIOUS)
    ]  # fmt: skip
