"""Assessing what a contribution takes in.

Where the outcome of an intake can be foreseen it is done in a process of its own, beside the flush and the
indexing of the last packs; else after it. An assessment is a pure function of what it is given: the same
either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from idao.crypto import canonical
from idao.hall.unread import Listing, listing_of
from idao.store import documents
from idao.store.documents import Documents

if TYPE_CHECKING:
    from idao.assess import Assessment
    from idao.hall.beside import Ask, Beside
    from idao.store.chunks import Taken
    from idao.store.contents import Contents

BESIDE_FILES = 100
"""Fewer are assessed sooner than a process is started and ended."""

NOTHING = ("", b"", b"")

Compared = Sequence[tuple[bytes, int]]
"""(asset, version) of those whose fingerprints are compared with."""


class Assessing:
    """The files of one intake, what they look like, and their assessment. `stop` it in the end."""

    def __init__(self, docs: Documents, labels: Sequence[str], foresee: Callable[[], None]) -> None:
        """`foresee` is called when all files are known; it may `begin`."""
        self._docs, self._labels, self._foresee = docs, tuple(sorted(set(labels))), foresee
        self._listing = Listing()
        self._complete = False
        self._detected = ""
        self._begun: Compared = ()
        self._beside: Beside | None = None
        self._asked = False
        self._done = NOTHING

    # As a listener of the intake:

    def heard(self, paths: list[bytes], taken: Taken) -> None:
        self._listing.heard(paths, taken.rows, taken.contents)

    def ended(self, heads: dict[bytes, bytes]) -> None:
        self._listing.heads, self._complete = heads, True
        if len(self._listing.files) >= BESIDE_FILES:
            self._foresee()

    def stored(self, contents: Contents, ref: bytes) -> None:
        """The intake has ended with this version: all of it can be read now."""
        version = contents.open_manifest(ref)
        if not self._complete:  # nothing had changed, so nothing was heard
            self._listing = listing_of(version)
        self._listing.version = version
        if self._beside is None:  # there, what is read first is in memory: all of it was read just now
            contents.expect(self._listing.looked_at_first())

    def begin(self, category: str, compared: Compared) -> None:
        """Begins in a process of its own. No `category`: as detected."""
        from idao.hall.beside import Beside

        run = self._prepared(compared)

        def calculate(ask: Ask) -> tuple[str, bytes, bytes]:
            self._listing.ask = ask
            looks = category or self._detect()
            done = run(looks)
            return looks, canonical.pack(done.report), canonical.pack(done.fingerprint)

        self._begun, self._beside = compared, Beside(calculate)

    def category(self) -> str:
        """What the contents look like."""
        return self._result()[0] or self._detect()

    def result(self, category: str, compared: Compared) -> Assessment:
        """The assessment: the one that was begun, if it was with just this."""
        from idao import assess

        looks, report, fingerprint = self._result()
        if not report or looks != category or self._begun != compared:
            return self._prepared(compared)(category)
        return assess.Assessment(
            canonical.unpack(assess.Report, report), canonical.unpack(assess.Fingerprint, fingerprint)
        )

    def _result(self) -> tuple[str, bytes, bytes]:
        """What came of `begin`: (category, report, fingerprint); empty if nothing did."""
        if self._beside is not None and not self._asked:
            self._asked = True
            self._done = self._beside.result(self._listing.answer) or NOTHING
        return self._done

    def _detect(self) -> str:
        from idao import assess

        if not self._detected:
            self._detected = assess.detect_category(self._listing.assessed())
        return self._detected

    def _prepared(self, compared: Compared) -> Callable[[str], Assessment]:
        """The calculation by category, with all that it wants from databases in memory."""
        from idao import assess

        found = [self._docs.get(*version, documents.FINGERPRINT) for version in compared]
        bodies, options = [f[1] for f in found if f], assess.Options(labels=self._labels)

        def run(category: str) -> Assessment:
            earlier = assess.Earlier(canonical.unpack(assess.Fingerprint, body) for body in bodies)
            return assess.assess(self._listing.assessed(), category, options, earlier)

        return run

    def stop(self) -> None:
        if self._beside is not None:
            self._beside.stop()
