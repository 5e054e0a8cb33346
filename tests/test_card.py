"""Cards: Croissant that its own reader accepts, one spelling of bytes, no content hash in public."""

import hashlib
import json
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idao import card, jsonfile
from idao.card import Column, File, Known
from idao.errors import IdaoError, Refused, UsageError

OWNER, ASSET = bytes([7]) * 32, bytes([9]) * 32
CLINIC = Known(
    kind="dataset",
    name="clinic 2026",
    owner=OWNER,
    category="tabular",
    version=3,
    licence="CC-BY-4.0",
    asset=ASSET,
    parents=((ASSET, 2),),
    published="2026-09-01",
    files=(
        File(
            "visits.csv",
            "text/csv",
            (Column("age", "integer"), Column("[min]", "number"), Column("ward")),
        ),
        File("scans/0[1]*?.png", "image/png"),
        File("b\udce4d.bin"),
    ),
)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a card was checked over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def croissant(value):
    """mlcroissant's reading of a card; its errors are raised, its warnings returned."""
    mlcroissant = pytest.importorskip("mlcroissant")
    metadata = mlcroissant.Dataset(json.loads(card.to_bytes(value))).metadata
    assert not metadata.ctx.issues.errors
    return metadata, [w for w in metadata.ctx.issues.warnings if "citeAs" not in w]


@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_accepts_the_card_of_a_dataset(no_network):
    metadata, warnings = croissant(card.build(CLINIC))
    assert warnings == []
    assert metadata.name == "clinic 2026" and metadata.version == "3.0.0"
    assert [f.name for f in metadata.distribution] == ["visits.csv", "scans/0[1]*?.png", "b\\xe4d.bin"]
    (table,) = metadata.record_sets
    assert [(f.name, str(f.data_types[0]).rpartition("/")[2]) for f in table.fields] == [
        ("age", "Integer"),
        ("[min]", "Float"),
        ("ward", "Text"),
    ]


@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_accepts_the_least_that_can_be_known(no_network):
    least = card.build(Known("dataset", "x", OWNER, "generic"))
    metadata, warnings = croissant(least)
    assert metadata.ctx.is_v1_1() and "distribution" not in least
    assert all("is recommended" in w for w in warnings)


def test_mlcroissant_uses_the_same_context():
    rdf = pytest.importorskip("mlcroissant._src.core.rdf")
    context = pytest.importorskip("mlcroissant._src.core.context")
    theirs = rdf.make_context(context.Context(conforms_to=context.CroissantVersion.V_1_1))
    assert card.build(CLINIC)["@context"] == theirs


def test_one_spelling_of_bytes():
    raw = card.to_bytes(card.build(CLINIC))
    assert raw == card.to_bytes(json.loads(raw)) == jsonfile.write(card.read(raw, "dataset"))
    assert (
        hashlib.sha256(raw).hexdigest() == "bdd9ccfd842e322df914d173b589e42facc2c51535ce748cd3da4faf8e709283"
    )
    # RFC 8785 §3.2.3: keys by UTF-16 code units, so U+1F600 (D83D…) stands before U+FB33.
    assert jsonfile.write({"\ufb33": 1, "\U0001f600": 2, "1": [True, None, '\x0f\n"\\/€']}) == (
        '{"1":[true,null,"\\u000f\\n\\"\\\\/€"],"\U0001f600":2,"\ufb33":1}'.encode()
    )
    with pytest.raises(TypeError):
        jsonfile.write({"a": 0.5})


@pytest.mark.parametrize("kind", card.KINDS)
def test_every_kind_has_a_card_that_can_be_given_back(kind):
    made = card.build(Known(kind, "a thing", OWNER, "text", licence="MIT OR ISC", parents=((ASSET, 1),)))
    assert card.read(card.to_bytes(made), kind) == made
    assert made["license"] == "MIT OR ISC" and made["isBasedOn"][0].endswith("@1")
    card.require_public(made)


def test_a_made_card_names_no_file_unless_told_and_never_a_hash():
    quiet = card.build(Known("dataset", "x", OWNER, "tabular"))
    assert "distribution" not in quiet and "recordSet" not in quiet
    card.require_public(card.build(CLINIC))


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"sha256": "x"}, "sha256"),
        ({"a": [{"contentHash": "abc"}]}, "a[0].contentHash"),
        ({"checksums": ["q"]}, "checksums"),
        ({"a": "see " + "ab" * 32 + "."}, "a"),
        ({"a": {"b": ["AB" * 16]}}, "a.b[0]"),
        ({"a": "sha512-" + "Zz+/" * 20}, "a"),
        ({"cd" * 20: 1}, "cd" * 20),
    ],
)
def test_content_hashes_are_found(value, where):
    assert card.content_hashes(value) == [where]
    with pytest.raises(Refused) as e:
        card.require_public(value)
    assert e.value.code == "card-hash" and where in e.value.message


def test_what_is_no_hash_is_left_alone():
    assert not card.content_hashes(
        {
            "@context": {"md5": "cr:md5"},
            "name": "hash",
            "hashtags": "#x",
            "n": 10**15,
            "id": "idao:" + "a2" * 26,
        }
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "line 1: a card is a JSON object"),
        ('{\n"@type": "x", "name": "n"}', "line 1: it needs '@context'"),
        ('{"@context": "c",\n"@type": 1, "name": "n"}', "line 2: it needs '@type'"),
        ('{"@context": "c",\n"@type": "sc:Dataset",\n"name": ""}', "line 3: it needs 'name'"),
        ('{"@context": "c",\n"@type": "sc:Dataset",\n"name": 1.5}', "line 3: it needs 'name'"),
        ('{"@context": "c",\n"@type": "Model",\n"name": "n"}', "line 2: a dataset's '@type'"),
        (
            '{"@context": "c",\n"@type": "sc:Dataset",\n"name": {"en": "n"},\n"conformsTo": "x"}',
            "line 4: 'conformsTo'",
        ),
        ('{"a": 1,\n\n"a": 2}', "line 3: the key 'a' stands here twice"),
        ('{"a":\nNaN}', "line 2: NaN is not JSON"),
        ('{"a":\n1\u06f0}', "line 2: 1\u06f0 is not written in the digits 0 to 9"),
        ('{"a": 1.\u06f0}', "line 1: 1.\u06f0 is not written in the digits 0 to 9"),
        ('{"a":\n[1, -Infinity]}', "line 2: -Infinity is not JSON"),
        ('{"a":\n99999999999999999}', "line 2: the integer"),
        ('{"a":\n"\\ud83d"}', "line 2: half of a surrogate pair"),
        ('{"a": "\n"}', "line 1: not JSON: invalid control character"),
        ("[" * 40, "nested deeper than 32"),
        ("", "not JSON"),
        ('{"@context": "c"} x', "extra data"),
    ],
)
def test_refusals_name_the_line(text, why):
    with pytest.raises(UsageError) as e:
        card.read(text.encode(), "dataset")
    assert e.value.message.startswith("card, line") and why in e.value.message


def test_fractions_stay_as_typed_and_other_spellings_are_read():
    text = '\ufeff{"@context": "https://schema.org/", "@type": "Claim", "name": "n", "x": [1.50, -2E+3]}'
    assert card.to_bytes(card.read(text.encode(), "pov")).endswith(b'"x":[1.50,-2E+3]}')


def test_limits():
    many = tuple(File(f"{i}") for i in range(card.FILES_MAX + 1))
    wide = (File("a", columns=tuple(Column(f"{i}") for i in range(card.COLUMNS_MAX + 1))),)
    for files in (many, wide):
        with pytest.raises(UsageError, match="at most"):
            card.build(Known("dataset", "x", OWNER, "c", files=files))
    with pytest.raises(UsageError, match="cannot hold"):
        card.build(Known("dataset", "x", OWNER, "c", files=(File("a", columns=(Column("b", "cheese"),)),)))
    with pytest.raises(UsageError, match="not a kind"):
        card.build(Known("thing", "x", OWNER, "c"))
    with pytest.raises(UsageError, match="bytes where at most"):
        card.read(b" " * (card.CARD_BYTES_MAX + 1), "dataset")
    with pytest.raises(UsageError, match="are kept"):
        card.to_bytes({"a": "x" * card.CARD_BYTES_MAX})
    full = tuple(File(f"folder/a name of some length {i:04}.csv", "text/csv") for i in range(card.FILES_MAX))
    assert len(card.to_bytes(card.build(Known("dataset", "x", OWNER, "c", files=full)))) < card.CARD_BYTES_MAX


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(_json)
@settings(max_examples=200, deadline=None)
def test_strict_reading_agrees_with_json(value):
    raw = json.dumps(value, ensure_ascii=len(repr(value)) % 2 == 0, indent=1).encode()
    assert jsonfile.read(raw, "x", 10**6) == value
    assert jsonfile.read(jsonfile.write(value), "x", 10**6) == value
    assert jsonfile.write(jsonfile.read(raw, "x", 10**6)) == jsonfile.write(value)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:01.eE-\\unatrf \n', max_size=40).map(str.encode))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_card_or_our_refusal(raw):
    with pytest.raises(IdaoError):
        card.read(raw, "dataset")
    try:
        value = jsonfile.read(raw, "x", 1000)
    except UsageError:
        return
    json.loads(raw.decode("utf-8-sig"))  # what we read, everybody reads
    assert jsonfile.write(jsonfile.read(jsonfile.write(value), "x", 1000)) == jsonfile.write(value)


@given(st.text(max_size=30) | st.text(alphabet=st.characters(categories=["Cs", "Lu"]), max_size=5))
@settings(max_examples=100, deadline=None)
def test_any_name_makes_a_card(name):
    made = card.build(Known("dataset", name, OWNER, "c", files=(File(name, columns=(Column(name),)),)))
    if name:
        card.read(card.to_bytes(made), "dataset")
