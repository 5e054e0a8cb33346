"""Secrets and personal data are counted by kind, and never stand in what an assessor writes."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from idao.assess import AssessFile, Options, assess, explain, privacy
from idao.assess.privacy import iban, luhn, personal_in, secrets_in
from idao.crypto import canonical

# Put together here so that no scanner takes this file for a leak.
SECRETS = {
    "private_keys": ["-----BEGIN " + "RSA PRIVATE KEY-----", "-----BEGIN " + "PRIVATE KEY-----",
                     "-----BEGIN OPENSSH " + "PRIVATE KEY-----"],
    "cloud_keys": ["AKIA" + "ABCDEFGH12345678", "AIza" + "x" * 35],
    "tokens": ["ghp_" + "a1B2" * 9, "xoxb-" + "1234567890", "sk-" + "proj-" + "a" * 24,
               "eyJ" + "hbGciOiJI" + "abc.eyJ" + "zdWIiOiIxMjM.c2lnbmF0dXJl", "glpat-" + "a" * 20,
               "eyJ" + "hbGciOiJI9" + ".eyJ" + "zdWIiOiIx9" + ".c2lnbmF0dX", "sk_" + "live_" + "a" * 16],
    "url_passwords": ["postgres://user:" + "hunter2@db.example"],
    "passwords": ["password = '" + "correcthorse'", 'API_KEY: "' + 'abcdef123456"'],
}  # fmt: skip
PERSONAL = {
    "emails": ["ada.lovelace@example.org", "x+y@mail.co.uk"],
    "phones": [
        "+49 30 901820",
        "(212) 555-0187",
        "415-555-0132",
        "+12125550187",
        "415.555.0132",
        "415 555.0132",
        "415.555-0132",
    ],
    "ibans": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32"],
    "cards": [
        "4111 1111 1111 1111",
        "5500005555555559",
        "3782 822463 10005",
        "378282246310005",
        "3782822463 10005",
    ],
    "ssns": ["123-45-6789"],
    "ips": ["8.8.8.8", "(93.184.216.34)", "1.22.33.4"],
}
CLEAN = [
    "AKIASHORT", "ghp_short", "://host/path", "password = None", "eyJust a word",
    "-----BEGIN CERTIFICATE-----",
    "someone at example", "user@host", "2024-01-02", "12.345678,98.765432", "10.0.0.1", "127.0.0.1", "1.2.3",
    "DE89370400440532013001", "4111 1111 1111 1112", "000-12-3456", "978-3-16-148410-0", "1234567890123456",
    "0.12345678901234567", "v1.2.3.4.5", "(1.2.3.4.5",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, ts in (SECRETS | PERSONAL).items() for t in ts])
@pytest.mark.parametrize("around", ["{}", "a,{},b\n", 'x "{}" y', "\n{}\n"])
def test_found(kind: str, text: str, around: str) -> None:
    data = around.format(text).encode()
    found = secrets_in(data) | personal_in(data)
    assert found[kind] == 1


@pytest.mark.parametrize("text", CLEAN)
def test_not_found(text: str) -> None:
    data = f"a {text} b".encode()
    assert not any((secrets_in(data) | personal_in(data)).values())


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_searched(data: bytes) -> None:
    secrets_in(data)
    personal_in(data)


@given(st.text(alphabet="0123456789().- +@:", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_punctuated_digits_are_searched(text: str) -> None:
    personal_in(text.encode())


PLANTED = [text.encode() for texts in (SECRETS | PERSONAL).values() for text in texts]
PIECES = st.lists(
    st.sampled_from([
        *PLANTED, *PLANTED, *(text[:-2] for text in PLANTED), b"\n", b"\n", b" ", b",", b"-", b".", b"1",
        b"a" * 12, b"word-of_20_characters", b"\0\xe9", b": 'a b'", b"='", b"000-00-0000", b"1.2.", b"@",
    ]),
    max_size=30,
).map(b"".join)  # fmt: skip


@given(PIECES, st.sampled_from([1, 30, 4096]), st.sampled_from([0, 2, 4096]))
@settings(max_examples=300, deadline=None)
def test_lines_that_are_not_searched_hold_nothing(data: bytes, block: int, words: int) -> None:
    """The short ways give what a search of everything for everything gives."""
    whole = dict.fromkeys(SECRETS, 0)
    for rules in (privacy._ANYWHERE, privacy._BEFORE_AT, privacy._IN_WORDS, privacy._IN_LONG_WORDS):
        for kind, begin, rest in rules:
            whole[kind] += privacy._count(data, begin, rest, begin[:1].isalnum())
    for kind, begin, rest in privacy._PASSWORDS:
        whole[kind] += privacy._count(data.lower(), begin, rest, False)
    personal = dict.fromkeys(PERSONAL, 0)
    for m in privacy._pattern(privacy._NUMBER).finditer(data):
        kind = next(k for k in privacy._CHECKS if m[k] is not None)
        personal[kind] += privacy._CHECKS[kind](m[0])
    personal["phones"] += len(privacy._pattern(privacy._PHONE).findall(data))
    for m in privacy._pattern(privacy._IBAN).finditer(data):
        personal["ibans"] += iban(m[0].decode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(privacy, "BLOCK", block)
        patched.setattr(privacy, "LONG_WORDS_MAX", words)
        assert secrets_in(data) == whole
        assert personal_in(data) | {"emails": 0} == personal


def test_checksums() -> None:
    assert luhn(b"4111111111111111") and not luhn(b"4111111111111112") and not luhn(b"0000000000000000")
    assert (
        iban("DE89370400440532013000")
        and not iban("DE8937040044053201300")
        and not iban("XX89370400440532013000")
    )


@pytest.mark.parametrize("category", ["tabular", "text", "generic"])
@pytest.mark.parametrize("form", ["data.csv", "bare.csv", "data.jsonl", "notes.txt", ".env"])
def test_never_in_what_is_written(category: str, form: str) -> None:
    planted = [t for ts in (SECRETS | PERSONAL).values() for t in ts]
    cells = [t.replace('"', "'").replace(",", " ") for t in planted]
    if form == "data.jsonl":
        # As values and as keys, hence as column names.
        text = "\n".join('{"' + c + '": "' + c + '", "n": 1}' for c in cells)
    elif form == "bare.csv":
        # The first row is taken for a header if it may be one.
        text = "\n".join(",".join([c.replace(" ", "_"), "Secretia", "1"]) for c in cells)
        text = ",".join(["Secretia", *cells]) + "\n" + text
    else:
        text = "\n".join(f"{i},{c},1" for i, c in enumerate(cells))
    data = text.encode()
    made = assess(
        [AssessFile(form.encode(), len(data), blake3(data).digest(), lambda at, n: data[at : at + n])],
        category, Options(),
    )  # fmt: skip
    written = canonical.pack(made.report) + canonical.pack(made.fingerprint)
    written += "\n".join(explain(made.report)).encode()
    for cell in cells:
        assert cell.encode() not in written and cell.replace(" ", "_").encode() not in written
    assert b"Secretia" not in written and form.encode() not in written
    counted = dict(made.report.counts)
    assert sum(counted[k] for k in SECRETS) >= 12 and counted["emails"] >= 2
    assert dict(made.report.scores)["privacy"] < 6_000
    assert any("private keys" in r.text for r in made.report.reasons)


def test_files_with_names_of_secrets_are_looked_at_first() -> None:
    def big(i: int) -> AssessFile:
        return AssessFile(b"%d.bin" % i, 1 << 24, blake3(b"%d" % i).digest(), lambda at, n: bytes(n))

    key = SECRETS["private_keys"][0].encode() + b"\nMIIE\n"
    pem = AssessFile(b"deep/in/server.pem", len(key), blake3(key).digest(), lambda at, n: key[at : at + n])
    report = assess([*(big(i) for i in range(500)), pem], "generic").report
    assert dict(report.counts)["private_keys"] == 1 and dict(report.counts)["suspicious_names"] == 1
    assert report.passed, "secrets lower the score; the owner decides"
