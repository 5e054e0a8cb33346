"""A proof holds as it is and in no other form: bytes, cosigners, leaves, files, trust."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Lived

from idao import proof
from idao.crypto import canonical, note
from idao.crypto.keys import Signer
from idao.errors import UsageError
from idao.hall.proofs import Demands, verify
from idao.model import show_id

NOW = 2**42


def judged(data: bytes, files: list[str] | None = None, **demands: Any) -> dict[str, Any]:
    return verify(data, files or [], Demands(**demands), NOW)


def failed(result: dict[str, Any]) -> list[str]:
    return [c["name"] for c in result["checks"] if not c["ok"]]


@pytest.fixture
def made(lived: Lived) -> bytes:
    return lived.dao().proofs.make(lived.dat)[1]


def change(data: bytes, **fields: Any) -> bytes:
    return proof.dump(replace(proof.parse(data), **fields))


def with_note(data: bytes, edit: Any) -> bytes:
    parsed = proof.parse(data)
    tlog = note.parse_tlog_proof(parsed.tlog)
    return change(data, tlog=str(replace(tlog, note=edit(tlog.note))))


def test_holds(lived: Lived, made: bytes) -> None:
    dao = lived.dao()
    old = lived.data / "visits.csv"
    old.write_text("".join(old.read_text().splitlines(keepends=True)[:-1]))  # as it was in version 1
    me, quorum = show_id("idao", dao.me), show_id("quorum", dao.quorum)
    result = judged(made, [str(lived.data)], trust=[me, quorum], require=["trusted"])
    assert result["ok"] and result["trusted"], result["checks"]
    assert result["subject"] == lived.dat
    assert result["anchor"]["independent"] == 0
    assert any("owner alone" in w for w in result["warnings"])


@pytest.mark.parametrize("kind", ["asset", "tx"])
def test_other_subjects(lived: Lived, kind: str) -> None:
    dao = lived.dao()
    subject = lived.asset if kind == "asset" else show_id("tx", next(dao.store.receipts())[1].tx)
    assert judged(dao.proofs.make(subject)[1])["ok"]


def test_nobody_named(made: bytes) -> None:
    result = judged(made)
    assert result["ok"] and not result["trusted"]
    assert not judged(made, require=["trusted"])["ok"]


def test_others_named(lived: Lived, made: bytes) -> None:
    other = show_id("quorum", bytes(32))
    assert failed(judged(made, trust=[other])) == ["trust"]
    assert failed(judged(made, trust=[show_id("idao", bytes(32))])) == ["trust"]
    assert judged(made, trust=[other, show_id("quorum", lived.dao().quorum)])["trusted"]
    for name in ("clinic", "quorum:abc", "idao:", "/nowhere"):
        with pytest.raises(UsageError):
            judged(made, trust=[name])


def test_a_checkpoint_is_named(lived: Lived, made: bytes, tmp_path: Path) -> None:
    head = tmp_path / "head.note"
    dao = lived.dao()
    head.write_text(dao.ledgers.checkpoint()["note"])
    assert judged(made, trust=[str(head)])["trusted"]
    head.write_text(dao.ledgers.checkpoint(1)["note"])
    assert judged(made, trust=[str(head)])["trusted"]
    text = dao.ledgers.checkpoint()["note"]
    forged = text.replace(text.split("\n")[2], "A" * 43 + "=")
    head.write_text(forged)
    assert failed(judged(made, trust=[str(head)])) == ["trust"]


def test_requirements(made: bytes) -> None:
    assert failed(judged(made, require=["independent:1", "reviews:1"])) == [
        "require independent:1", "require reviews:1",
    ]  # fmt: skip
    with pytest.raises(UsageError):
        judged(made, require=["magic"])


def test_every_bit_counts(made: bytes) -> None:
    """Any flipped bit fails a check: no byte of a proof is without meaning."""
    rng = random.Random(1)
    for at in range(len(made)):
        bent = made[:at] + bytes([made[at] ^ 1 << rng.randrange(8)]) + made[at + 1 :]
        assert not judged(bent)["ok"], at


@pytest.mark.slow
def test_every_single_bit_counts(made: bytes) -> None:
    for at in range(len(made)):
        for bit in range(8):
            bent = made[:at] + bytes([made[at] ^ 1 << bit]) + made[at + 1 :]
            assert not judged(bent)["ok"], (at, bit)


def test_every_truncation_fails(made: bytes) -> None:
    for n in range(0, len(made), 7):
        assert not judged(made[:n])["ok"]
    assert not judged(made + b"\0")["ok"]


def test_a_cosigner_twice(made: bytes) -> None:
    def twice(n: note.Note) -> note.Note:
        return replace(n, signatures=(*n.signatures, n.signatures[-1]))

    assert "anchor" in failed(judged(with_note(made, twice)))


def test_an_unknown_cosigner(made: bytes) -> None:
    def more(n: note.Note) -> note.Note:
        quorum = note.parse_checkpoint(n.text).quorum
        return replace(n, signatures=(*n.signatures, note.cosignature(Signer(bytes(32)), quorum, n.text, 1)))

    assert "anchor" in failed(judged(with_note(made, more)))


def test_no_cosigner(made: bytes) -> None:
    assert "anchor" in failed(judged(with_note(made, lambda n: replace(n, signatures=n.signatures[:1]))))


def test_another_quorum(lived: Lived, made: bytes, fresh: Any) -> None:
    dao = fresh()
    dao.tokens.issue(5)
    other = proof.parse(dao.proofs.make(show_id("tx", next(dao.store.receipts())[1].tx))[1])
    mine = proof.parse(made)
    assert failed(judged(proof.dump(replace(mine, bundle=other.bundle))))
    assert failed(judged(proof.dump(replace(mine, tlog=other.tlog))))
    assert failed(judged(proof.dump(replace(mine, header=other.header)))) == ["header"]


def test_a_leaf_swapped(lived: Lived, made: bytes) -> None:
    leaf = lived.dao().store.leaf(0)
    assert {"inclusion", "transaction"} <= set(failed(judged(change(made, leaf=leaf))))


def test_a_record_changed_or_left_out(made: bytes) -> None:
    parsed = proof.parse(made)
    dat = parsed.records[-1]
    richer = canonical.decode(dat.record or b"")
    richer["value"] += 1
    forged = replace(dat, record=canonical.encode(richer))
    assert "records" in failed(judged(change(made, records=(*parsed.records[:-1], forged))))
    assert "subject" in failed(judged(change(made, records=parsed.records[:-1])))
    assert "records" in failed(judged(change(made, records=(*parsed.records, dat))))
    gone = replace(dat, record=None)
    assert "records" in failed(judged(change(made, records=(*parsed.records[:-1], gone))))


def test_files_lied_about(made: bytes) -> None:
    parsed = proof.parse(made)
    assert parsed.files is not None
    first = replace(parsed.files.all[0], size=parsed.files.all[0].size + 1)
    lied = replace(parsed.files, all=(first, *parsed.files.all[1:]))
    assert failed(judged(change(made, files=lied))) == ["files"]
    fewer = replace(parsed.files, all=parsed.files.all[1:], count=parsed.files.count - 1)
    assert failed(judged(change(made, files=fewer))) == ["files"]


def test_one_file_without_the_others(lived: Lived, tmp_path: Path) -> None:
    data = lived.dao().proofs.make(lived.dat, ["sub/notes.txt"])[1]
    assert b"visits.csv" not in data
    assert judged(data, [str(lived.data / "sub" / "notes.txt")])["ok"]
    result = judged(data, [str(lived.data / "visits.csv")])
    assert failed(result) == [f"file {lived.data / 'visits.csv'}"]
    bent = tmp_path / "notes.txt"
    bent.write_bytes((lived.data / "sub" / "notes.txt").read_bytes()[:-1] + b"!")
    assert failed(judged(data, [str(bent)])) == [f"file {bent}"]


def test_no_file_at_all(lived: Lived) -> None:
    data = lived.dao().proofs.make(lived.dat, no_files=True)[1]
    assert judged(data)["ok"]
    assert b"visits" not in data


def test_outside_evidence_is_not_ignored(made: bytes) -> None:
    assert failed(judged(change(made, witnesses=(b"x",)))) == ["extras"]
