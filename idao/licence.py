"""SPDX licence expressions (SPDX 2.3, annex D): checked, in their canonical spelling.

The list of licences is that of `packaging`; licences of one's own are `LicenseRef-…`.
"""

from __future__ import annotations

from idao.errors import UsageError

LENGTH_MAX = 256
"""Characters: an expression of ten licences; what an asset's record holds."""

COMMON = [
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-3.0",
    "ODbL-1.0",
    "ODC-By-1.0",
    "PDDL-1.0",
    "CDLA-Permissive-2.0",
    "CDLA-Sharing-1.0",
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MPL-2.0",
    "Unlicense",
    "EUPL-1.2",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
]
"""Suggested for a misspelling: what data, models and code are published under."""

_SAID_AS = {
    "public domain": "CC0-1.0",
    "cc0": "CC0-1.0",
    "cc-by": "CC-BY-4.0",
    "cc by": "CC-BY-4.0",
    "cc-by-sa": "CC-BY-SA-4.0",
    "cc-by-nc": "CC-BY-NC-4.0",
    "apache": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "gpl": "GPL-3.0-or-later",
    "gplv3": "GPL-3.0-only",
    "gplv2": "GPL-2.0-only",
    "odbl": "ODbL-1.0",
    "none": "LicenseRef-Proprietary",
    "proprietary": "LicenseRef-Proprietary",
    "all rights reserved": "LicenseRef-Proprietary",
}


_OPERATORS = ("and", "or", "with")


def canonical(text: str) -> str:
    """The expression in SPDX's own spelling (`mit or cc-by-4.0` is `MIT OR CC-BY-4.0`).

    `UsageError` with a suggestion for anything else.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    text = text.strip()
    if not text:
        raise UsageError("the licence is empty", hint="give an SPDX identifier such as CC-BY-4.0")
    if len(text) > LENGTH_MAX:
        raise UsageError(f"the licence is longer than {LENGTH_MAX} characters")
    if not text.isascii() or not text.isprintable():
        raise UsageError("a licence is written in plain ASCII letters", hint=_hint(text))
    try:
        found = str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, RecursionError, MemoryError) as e:
        raise UsageError(f"not an SPDX licence expression: '{text}'", hint=_hint(text)) from e
    if len(found) > LENGTH_MAX:
        raise UsageError(f"the licence is longer than {LENGTH_MAX} characters")
    return found


def _known(word: str) -> bool:
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        canonicalize_license_expression(word)
    except InvalidLicenseExpression:
        return False
    return True


def _hint(text: str) -> str:
    import difflib  # only after a slip

    words = text.replace("(", " ").replace(")", " ").split()
    if any(w.lower() in _OPERATORS for w in words):  # an expression: the first word that is not known
        spoilt = [w for w in words if w.lower() not in _OPERATORS and not _known(w)]
        text = spoilt[0] if spoilt else ""
    said = _SAID_AS.get(text.lower())
    spelled = {c.lower(): c for c in COMMON}
    near = (
        [said]
        if said
        else difflib.get_close_matches("-".join(text.lower().split()), spelled, n=2, cutoff=0.6)
    )
    if near:
        return f"did you mean {' or '.join(spelled.get(n, n) for n in near)}?"
    return "use an identifier of spdx.org/licenses, or LicenseRef-NAME for a licence of your own"
