"""Damaged and hostile input for each reader of ledgers, proofs and homes: only our refusals come out.

Two ways to damage: bytes anyhow; and, where the format is CBOR, one value of the structure replaced by
another and encoded canonically again, which gets past the encoding to the rules. `IDAO_FUZZ_ROUNDS` is the
number of inputs for each reader (the goal is 100,000; the default fits the time of all tests), and
`IDAO_FUZZ_SEED` makes them others.
"""

from __future__ import annotations

import functools
import io
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from conftest import Lived

from idao import anchor, home, identity, invite, manifest, noderecord, proof
from idao.crypto import canonical, note, seal, statetree
from idao.crypto.certificates import verify_certificate
from idao.crypto.keys import Signer
from idao.dao import Dao
from idao.errors import IdaoError, Malformed, VerificationFailed
from idao.ledger import block as rules
from idao.ledger import charter, genesis
from idao.ledger.assets import AssetVersion
from idao.ledger.idao import Charter
from idao.ledger.registry import KINDS
from idao.ledger.tx import Receipt, parse_tx, sign_tx
from idao.model import Block, Certificate, Header, Inception, SignedVote, parse_id, show_id
from idao.node import peerbook
from idao.store import backup, home_db, rederive
from idao.store.contents import Contents
from idao.store.ledger import LedgerStore, meta_sum
from idao.store.tables import from_row, to_row

ROUNDS = int(os.environ.get("IDAO_FUZZ_ROUNDS", "20000"))
SEED = os.environ.get("IDAO_FUZZ_SEED", "")
QUICK = 200
VALUES: tuple[Any, ...] = (
    0, 1, -1, 2**63 - 1, -(2**63), 2**32, True, False, None, b"", b"\0", bytes(32), bytes(64), "", "a",
    "é" * 99, "quorum:" + "a" * 52, "\x00", [], [0], [[]], {}, {"v": 1}, {"a": b""},
)  # fmt: skip


def bent_bytes(good: bytes, chance: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 1:
                del data[at : at + chance.randint(1, 40)]
            case 2 | 3:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case _:
                other = chance.randrange(len(data) + 1)
                data[at:at] = data[other : other + chance.randint(1, 64)]
    return bytes(data)


def bent_value(value: Any, chance: random.Random) -> Any:
    """The value with one of its parts replaced, left out or doubled."""
    inner = list(value) if isinstance(value, list | dict) else []
    if not inner or chance.random() < 0.1:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        key = chance.choice(inner)
        if chance.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: bent_value(value[key], chance)}
    at = chance.randrange(len(inner))
    match chance.randrange(8):
        case 0:
            del inner[at]
        case 1:
            inner.insert(at, inner[at])
        case _:
            inner[at] = bent_value(inner[at], chance)
    return inner


def bent(good: bytes, chance: random.Random, magic: bytes = b"") -> bytes:
    if chance.random() < 0.5:
        with suppress(Exception):  # what is no CBOR is bent as bytes
            return magic + cbor2.dumps(
                bent_value(canonical.decode(good[len(magic) :]), chance), canonical=True
            )
    return bent_bytes(good, chance)


# --- seeds and readers --------------------------------------------------------------------------------


class Seeds:
    """Sound bytes of every format, out of a home in which things have happened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = home.Home.open(path)
        self.keys = self.home.unlock()
        self.store = LedgerStore.open(next((path / "ledgers").glob("*.db")), readonly=True)
        self.contents = Contents(path, self.keys.data, readonly=True)
        self.validators = self.store.validators(self.store.height)[1]

    @functools.cached_property
    def proof(self) -> bytes:
        dao = Dao(self.home)
        return dao.proofs.make(show_id("tx", next(self.store.receipts())[1].tx))[1]

    def txs(self) -> list[bytes]:
        return [raw for height in range(1, self.store.height + 1) for raw in self.store.block(height)[0].txs]


def unpacks(cls: type, check: Callable[[Seeds, Any], Any] | None = None) -> Callable[[Seeds, bytes], Any]:
    def read(seeds: Seeds, data: bytes) -> Any:
        value = canonical.unpack(cls, data)
        return check(seeds, value) if check else value

    return read


def read_pack(s: Seeds, data: bytes) -> None:
    """A chunk's row as it may stand in a damaged index."""
    row = canonical.decode(data)
    if type(row) is not list or len(row) != 9:
        raise Malformed("no row at all: SQLite gives none such")
    chunk, pack, offset, stored, size, form, sealed, key, secret = row
    opened = s.contents.key_of(chunk, sealed, key, secret)
    s.contents.open_chunk(pack, offset, manifest.ChunkRef(chunk, opened, sealed or b"", size, stored, form))


def seed_pack(s: Seeds) -> bytes:
    return canonical.encode(list(s.contents.db.execute(home_db.CHUNK).fetchone()))


def read_row(s: Seeds, data: bytes) -> None:
    values = canonical.decode(data)
    if type(values) is list and len(values) == len(to_row(next(s.store.state().scan(AssetVersion)))):
        from_row(AssetVersion, tuple(values))


def seed_row(s: Seeds) -> bytes:
    return canonical.encode(to_row(next(s.store.state().scan(AssetVersion))))


def read_config(s: Seeds, data: bytes) -> None:
    folder = s.path.with_name("config")
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_bytes(data)
    opened = home.Home(folder)
    home.config_as_written(folder)
    opened.get("idao", "name")


def read_history(s: Seeds, data: bytes) -> None:
    history = canonical.unpack(home.History, data)
    identity.key_at(history.inception, history.events)


def read_backup(s: Seeds, data: bytes) -> None:
    file = io.BytesIO(data)
    header = backup.read_header(file)
    reader = backup.Reader(file, header, bytes(32))
    while reader.read(1 << 20):
        pass


def seed_backup(s: Seeds) -> bytes:
    out = io.BytesIO()
    key = backup.read_key(backup.make_key(bytes(range(32)), bytes(32)))
    writer = backup.Writer(out, backup.make_header(key, bytes(32), 1), bytes(32))
    writer.write(b"content of a small archive")
    writer.finish()
    return out.getvalue()


def read_pages(s: Seeds, data: bytes) -> None:
    for entry in manifest.file_rows(data):
        entry.leaf_of([])


def seed_version(s: Seeds) -> Any:
    return s.contents.open_manifest(s.contents.versions()[0])


def file_page(s: Seeds) -> bytes:
    return b"".join(manifest.pack_file(e) for e in seed_version(s).entries())


def chunk_page(s: Seeds) -> bytes:
    rows = [r for _, parts in seed_version(s).files() for r in parts]
    return b"".join(manifest.pack_chunk(*r) for r in rows)


def read_note(s: Seeds, data: bytes) -> None:
    parsed = note.parse_note(data.decode("utf-8", "surrogateescape"))
    head = note.parse_checkpoint(parsed.text)
    anchor.check_anchor(parsed, s.validators, lambda *_: True, head)


def seed_invite(s: Seeds) -> bytes:
    made = invite.Invite(
        invite.Secret(bytes(16)), bytes(16), bytes(8), 2**31, ("127.0.0.1:4000", "[::1]:4000")
    )
    return invite.encode(made).encode()


def seed_genesis_1(s: Seeds) -> bytes:
    plain = canonical.to_plain(s.store.bundle)
    del plain["before"]
    return canonical.encode({**plain, "recovery": bytes(64)})


def read_genesis_1(s: Seeds, data: bytes) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("create table meta (key, value, sum)")
        db.execute("insert into meta values ('bundle', ?, ?)", (data, meta_sum("bundle", data)))
        genesis.check_bundle(rederive.bundle_of(db, s.path))


def seed_peers(s: Seeds) -> bytes:
    ledger = s.path.with_name("peers.db")
    peerbook.write(
        ledger, [noderecord.make(s.keys.validator, bytes(32), bytes(32), b"tls", ("[::1]:4000",), 1)]
    )
    return peerbook.path_of(ledger).read_bytes()


def read_peers(s: Seeds, data: bytes) -> None:
    """A hint: what cannot be read is nothing."""
    ledger = s.path.with_name("peers.db")
    peerbook.path_of(ledger).write_bytes(data)
    if not peerbook.read(ledger):
        raise Malformed("nothing in it holds")


def read_state_proof(s: Seeds, data: bytes) -> None:
    shown = canonical.unpack(statetree.StateProof, data)
    statetree.check(bytes(32), bytes(32), bytes(32), shown)
    statetree.check(bytes(32), bytes(32), None, shown)


def seed_state_proof(s: Seeds) -> bytes:
    return canonical.pack(statetree.prove(s.store.branches, bytes(32)))


Reader = tuple[Callable[[Seeds], bytes], Callable[[Seeds, bytes], Any]]
READERS: dict[str, Reader] = {
    "transaction": (lambda s: s.txs()[1], lambda s, d: parse_tx(d).authentic()),
    "receipt": (lambda s: s.store.leaf(0), unpacks(Receipt)),
    "header": (lambda s: canonical.pack(s.store.header(2)), unpacks(Header)),
    "block": (lambda s: canonical.pack(s.store.block(2)[0]), unpacks(Block)),
    "certificate": (
        lambda s: canonical.pack(s.store.block(2)[1]),
        unpacks(Certificate, lambda s, c: verify_certificate(c, s.validators)),
    ),
    "vote": (lambda s: canonical.pack(next(s.store.signs(s.store.height, 0))), unpacks(SignedVote)),
    "genesis": (
        lambda s: canonical.pack(s.store.bundle),
        unpacks(genesis.Bundle, lambda s, b: genesis.check_bundle(b)),
    ),
    "inception": (lambda s: canonical.pack(s.home.history().inception), unpacks(Inception)),
    "charter": (
        lambda s: next(s.store.state().scan(Charter)).rules,
        lambda s, d: charter.parse(d),
    ),
    "checkpoint note": (lambda s: s.store.checkpoint()[1].encode(), read_note),
    "tlog-proof": (
        lambda s: proof.parse(s.proof).tlog.encode(),
        lambda s, d: note.parse_tlog_proof(d.decode("utf-8", "surrogateescape")),
    ),
    "state proof": (seed_state_proof, read_state_proof),
    "state branch": (
        lambda s: bytes(s.store.db.execute("select children from state_branch").fetchone()[0]),
        lambda s, d: statetree.children_of(statetree.check_row(d)),
    ),
    "proof": (lambda s: s.proof, lambda s, d: proof.judge(d)),
    "manifest": (lambda s: canonical.pack(seed_version(s).head), unpacks(manifest.Manifest)),
    "file page": (file_page, read_pages),
    "chunk page": (chunk_page, lambda s, d: manifest.chunk_rows(d)),
    "disclosure": (
        lambda s: canonical.pack(manifest.disclose(seed_version(s).files(), b"visits.csv")),
        unpacks(manifest.FileDisclosure, lambda s, d: manifest.check_disclosure(bytes(32), d, [b"x"])),
    ),
    "row of the chunk index, and its pack": (seed_pack, read_pack),
    "row of a record": (seed_row, read_row),
    "history": (lambda s: (s.path / "keys/history").read_bytes(), read_history),
    "backup key": (lambda s: (s.path / "keys/backup.pub").read_bytes(), lambda s, d: backup.read_key(d)),
    "lock": (lambda s: (s.path / "keys/lock").read_bytes(), lambda s, d: seal.open_lock(d, "x")),
    "key file": (
        lambda s: (s.path / "keys/data.key").read_bytes(),
        lambda s, d: seal.unseal(s.keys.kek, "data", d),
    ),
    "config": (lambda s: (s.path / "config.toml").read_bytes(), read_config),
    "backup file": (seed_backup, read_backup),
    "genesis of format 1": (seed_genesis_1, read_genesis_1),
    "book of peers": (seed_peers, read_peers),
    "id": (
        lambda s: show_id("asset", bytes(range(32))).encode(),
        lambda s, d: parse_id("asset", d.decode("utf-8", "surrogateescape")),
    ),
    "invite": (seed_invite, lambda s, d: invite.decode(d.decode("utf-8", "surrogateescape"))),
}
SLOWER = {"proof": 4, "config": 4}
"""Readers that take that much longer than the others: fewer rounds without IDAO_FUZZ_ROUNDS."""


@pytest.fixture(scope="module")
def seeds(_lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    import shutil

    path = tmp_path_factory.mktemp("seeds") / "home"
    shutil.copytree(_lived.path, path)
    return Seeds(path)


def fuzz(seeds: Seeds, name: str, rounds: int) -> None:
    seed, read = READERS[name]
    good = seed(seeds)
    with suppress(VerificationFailed) if name == "disclosure" else nullcontext():
        read(seeds, good)  # or the test would show nothing
    magic = proof.MAGIC if name == "proof" else b""
    chance, refused = random.Random(f"{name} {rounds}{SEED}"), 0
    for _ in range(rounds):
        data = bent(good, chance, magic)
        try:
            read(seeds, data)
        except IdaoError:
            refused += 1
        except Exception as e:
            raise AssertionError(f"{name}: {type(e).__name__}: {e}: {data.hex()}") from e
    least = 0 if name in ("proof", "state proof", "transaction", "certificate") else rounds // 20
    assert refused >= least, "a verdict, not a refusal, is only what those four give"


@pytest.mark.parametrize("name", READERS)
def test_some(seeds: Seeds, name: str) -> None:
    fuzz(seeds, name, QUICK // SLOWER.get(name, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many(seeds: Seeds, name: str) -> None:
    fuzz(seeds, name, ROUNDS if "IDAO_FUZZ_ROUNDS" in os.environ else ROUNDS // SLOWER.get(name, 1))


# --- the rules behind the bytes -----------------------------------------------------------------------


def hostile_transactions(seeds: Seeds, rounds: int) -> set[str]:
    """Validly signed transactions with bent bodies, each executed in a block. Codes of their receipts."""
    signer, chance, codes = seeds.keys.identity, random.Random(f"{rounds}{SEED}"), set()
    tip, chain = seeds.store.tip(), seeds.store.chain
    made = [parse_tx(raw).envelope for raw in seeds.txs()]
    mine = [e for e in made if e.key == signer.public]
    last = max(e.seq for e in mine)
    for _ in range(rounds):
        e = chance.choice(mine)
        kind = chance.choice([e.kind, e.kind, e.kind, chance.choice(sorted(KINDS))])
        body = bent(e.body, chance) or b"\xa0"
        with suppress(Malformed):  # larger than a transaction may be
            raw = sign_tx(signer, replace(e, seq=last + 1, kind=kind, body=body, valid_until=2**62))
            tx = parse_tx(raw)
            if rules.admissible(seeds.store.state(), chain, tx, tip.time_ms + 1) is None:
                done = rules.execute(tip, chain, seeds.validators, tip.time_ms + 1, [tx])
                codes.add(done.receipts[-1].code)
    return codes


def test_bent_bodies_are_refused_by_receipt(seeds: Seeds) -> None:
    assert len(hostile_transactions(seeds, QUICK)) >= 3


@pytest.mark.slow
def test_many_bent_bodies(seeds: Seeds) -> None:
    assert len(hostile_transactions(seeds, ROUNDS)) >= 5


def test_the_signer_of_another_iDAO_gets_nothing(seeds: Seeds) -> None:
    envelope = parse_tx(seeds.txs()[1]).envelope
    forged = parse_tx(sign_tx(Signer(bytes(32)), replace(envelope, key=Signer(bytes(32)).public)))
    assert rules.admissible(seeds.store.state(), seeds.store.chain, forged, 1) is not None


# --- spellings of CBOR that cbor2 reads and idao does not ------------------------------------------------

SPELLINGS: dict[str, bytes] = {
    "trailing bytes": bytes.fromhex("a16176 01 00"),
    "duplicate key": bytes.fromhex("a2 6176 01 6176 01"),
    "integer of one byte more": bytes.fromhex("a16176 1801"),
    "integer of two bytes more": bytes.fromhex("a16176 190001"),
    "integer of four bytes more": bytes.fromhex("a16176 1a00000001"),
    "integer of eight bytes more": bytes.fromhex("a16176 1b0000000000000001"),
    "length of one byte more": bytes.fromhex("a1 780176 01"),
    "map of one byte more": bytes.fromhex("b801 6176 01"),
    "list of one byte more": bytes.fromhex("9801 01"),
    "bytes of one byte more": bytes.fromhex("5801 01"),
    "indefinite map": bytes.fromhex("bf 6176 01 ff"),
    "indefinite list": bytes.fromhex("9f 01 ff"),
    "indefinite bytes": bytes.fromhex("5f 4101 ff"),
    "indefinite text": bytes.fromhex("7f 6176 ff"),
    "keys in another order": bytes.fromhex("a2 6162 01 6161 01"),
    "longer key first": bytes.fromhex("a2 626161 01 6162 01"),
    "key that is no text": bytes.fromhex("a1 01 01"),
    "half float": bytes.fromhex("f93c00"),
    "float": bytes.fromhex("fa3f800000"),
    "double": bytes.fromhex("fb3ff0000000000000"),
    "not a number": bytes.fromhex("f97e00"),
    "infinity": bytes.fromhex("f97c00"),
    "undefined": bytes.fromhex("f7"),
    "simple value": bytes.fromhex("f0"),
    "true of two bytes": bytes.fromhex("f815"),
    "date by tag": bytes.fromhex("c0 74") + b"2013-03-21T20:04:00Z",
    "time by tag": bytes.fromhex("c1 1a514b67b0"),
    "big integer by tag": bytes.fromhex("c2 49010000000000000000"),
    "small big integer": bytes.fromhex("c2 4101"),
    "negative big integer": bytes.fromhex("c3 49010000000000000000"),
    "decimal by tag": bytes.fromhex("c4 82 21 196ab3"),
    "shared value": bytes.fromhex("d81c 80"),
    "self-description": bytes.fromhex("d9d9f7 01"),
    "set by tag": bytes.fromhex("d90102 81 01"),
    "integer past 64 bits": bytes.fromhex("1bffffffffffffffff"),
    "negative past 64 bits": bytes.fromhex("3bffffffffffffffff"),
    "text that is not UTF-8": bytes.fromhex("62c328"),
    "nested too deep": b"\x81" * 40 + b"\x00",
    "cut short": bytes.fromhex("a16176"),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_one_spelling(name: str) -> None:
    with pytest.raises(Malformed):
        canonical.decode(SPELLINGS[name])
    with pytest.raises(Malformed):
        canonical.unpack(Header, SPELLINGS[name])


def test_home_db_rows_of_any_kind(seeds: Seeds) -> None:
    """`row_sum` takes what SQLite can hold."""
    for value in (None, 0, -1, 2**63 - 1, -(2**63), "x", b"", b"x"):
        assert len(home_db.row_sum("t", value)) == 32
