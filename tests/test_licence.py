"""Licences are SPDX expressions in one spelling; a wrong one is answered with the likely right one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao import licence
from idao.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("CC-BY-4.0", "CC-BY-4.0"),
        (" cc-by-4.0 ", "CC-BY-4.0"),
        ("mit or apache-2.0", "MIT OR Apache-2.0"),
        ("MIT AND (cc0-1.0 OR ISC)", "MIT AND (CC0-1.0 OR ISC)"),
        ("gpl-2.0-only with classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("licenseref-Clinic-Terms", "LicenseRef-Clinic-Terms"),
    ],
)
def test_one_spelling(typed, written):
    assert licence.canonical(typed) == written == licence.canonical(written)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("Apache 2.0", "Apache-2.0"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("cc-by-40", "CC-BY-4.0"),
        ("MTI", "MIT"),
        ("Apache-2.0 OR MTI", "did you mean MIT"),
        ("public domain", "CC0-1.0"),
        ("GPLv3", "GPL-3.0-only"),
        ("all rights reserved", "LicenseRef-Proprietary"),
        ("qwertyuiop", "LicenseRef-NAME"),
        ("MIT WITH", "LicenseRef-NAME"),
    ],
)
def test_wrong_ones_are_answered_with_a_suggestion(typed, suggested):
    with pytest.raises(UsageError, match="not an SPDX") as e:
        licence.canonical(typed)
    assert suggested in (e.value.hint or "")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "  ",
        "MIT OR",
        "(MIT",
        "MIT MIT",
        "()",
        "MIT\nOR ISC",
        "LicenseRef-",
        "LicenseRef-\u212a",
        "x" * 300,
    ],
)
def test_bad_ones_are_refused(bad):
    with pytest.raises(UsageError):
        licence.canonical(bad)


def test_every_suggestion_is_itself_a_licence():
    for name in [*licence.COMMON, *licence._SAID_AS.values()]:
        assert licence.canonical(name) == name


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["MIT", "(", ")", "AND", "OR", "WITH", "LicenseRef-x", "+"])).map(" ".join)
)
@settings(max_examples=300)
def test_any_text_is_a_licence_or_our_refusal(text):
    try:
        found = licence.canonical(text)
    except UsageError:
        return
    assert licence.canonical(found) == found
