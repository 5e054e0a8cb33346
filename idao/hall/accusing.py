"""Two conflicting signed messages that somebody brings by hand: read, checked, and reported to the ledger.

A message is a vote as a JSON object

    {"kind": "notarize", "height": 12, "view": 0, "digest": "<hex>", "key": "did:key:…", "signature": "<hex>"}

(`kind` is propose, notarize, finalize or nullify; the digest of a nullify is empty), or a cosigned checkpoint
as its C2SP note. Whoever brings them need not be a member: the signatures speak for themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idao import jsonfile
from idao.crypto import note
from idao.crypto.faults import check_fault, conflict, make_cosign_fault, make_fault
from idao.crypto.keys import did_key, parse_did_key
from idao.errors import IdaoError, Malformed, Refused, UsageError
from idao.frozen import frozen
from idao.ledger import faults
from idao.ledger.faults import Report
from idao.ledger.membership import SeatKey
from idao.model import VOTE_NAMES, Fault, SignedVote, Validator, ValidatorSet, Vote, show_id

if TYPE_CHECKING:
    from idao.dao import Dao

FILE_BYTES_MAX = 128 * 1024
"""Two notes with 256 signature lines each."""
SIGNATURE_BYTES = 64
KINDS = {name: kind for kind, name in VOTE_NAMES.items()}
FIELDS = ("kind", "height", "view", "digest", "key", "signature")


@frozen
class Given:
    """A vote as somebody wrote it down, with the key that is said to have signed it."""

    vote: Vote
    key: bytes
    signature: bytes


def accuse(dao: Dao, files: Sequence[bytes], *, dry: bool = False) -> dict[str, Any]:
    """Brings the fault that the messages in `files` prove to the ledger. `Refused` if they prove none."""
    messages = [m for data in files for m in _messages(data, dao.quorum)]
    if len(messages) != 2:
        raise UsageError(f"an accusation is two messages, not {len(messages)}")
    a, b = messages
    if isinstance(a, note.Note) and isinstance(b, note.Note):
        fault = _of_notes(dao, a, b)
    elif isinstance(a, Given) and isinstance(b, Given):
        fault = _of_votes(dao, a, b)
    else:
        raise UsageError("a vote and a checkpoint do not conflict: bring two of a kind")
    owner = dao.state().get(SeatKey, fault.key)
    told = {
        "quorum": show_id("quorum", dao.quorum),
        "idao": show_id("idao", owner.idao) if owner else None,
        "name": dao.petname(owner.idao) if owner else None,
        "key": did_key(fault.key),
        "kind": fault.kind,
    }
    if dry:
        return {**told, "dry_run": True}
    done = dao.submit([("fault.report", Report(fault))])[0]
    found = next(
        f for f in faults.recorded(dao.state()) if f.key == fault.key and f.at == done.receipt.height
    )
    return {
        **told,
        "height": found.height,
        "view": found.view,
        "tx": show_id("tx", done.tx),
        "slashed": str(found.slashed),
        "unit": "stake",
        "status": "final",
    }


def _proves_nothing(why: str) -> Refused:
    return Refused(f"these messages prove no fault: {why}", code="not-a-fault")


def _of_votes(dao: Dao, a: Given, b: Given) -> Fault:
    if a.key != b.key:
        raise _proves_nothing("they are said to be by two validators")
    height = min(a.vote.height, b.vote.height)
    if height > dao.store.height + 1:
        raise _proves_nothing(f"the ledger here is at height {dao.store.height}")
    _, validators = dao.store.validators(max(1, height))
    index = validators.index_of_key(a.key)
    if index is None:
        raise _proves_nothing(f"{did_key(a.key)} does not vote at height {height}")
    one, two = (SignedVote(g.vote, index, g.signature) for g in (a, b))
    if conflict(one, two) is None:
        raise _proves_nothing("a correct validator may sign both")
    fault = make_fault(one, two, a.key)
    _check(fault, validators, dao.quorum)
    return fault


def _of_notes(dao: Dao, a: note.Note, b: note.Note) -> Fault:
    """The first validator, present or past, whose cosignatures on both hold."""
    why = "no validator of this quorum has cosigned both"
    for owner in dao.state().scan(SeatKey):
        name = note.cosigner_name(dao.quorum, owner.key)
        one, two = (tuple(s for s in n.signatures if s.name == name) for n in (a, b))
        if not one or not two:
            continue
        fault = make_cosign_fault(note.Note(a.text, one[:1]), note.Note(b.text, two[:1]), owner.key)
        try:
            _check(fault, ValidatorSet((Validator(owner.idao, owner.key, 1),)), dao.quorum)
        except Refused as e:
            why = e.message.partition(": ")[2]
            continue
        return fault
    raise _proves_nothing(why)


def _check(fault: Fault, validators: ValidatorSet, quorum: bytes) -> None:
    try:
        check_fault(fault, validators, quorum)
    except Malformed as e:
        raise _proves_nothing(e.message.removeprefix("fault: ")) from e


# --- reading ------------------------------------------------------------------------------------------


def read_messages(where: str) -> bytes:
    """A file, or standard input for -."""
    if where == "-":
        return sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
    from idao.hall.contribute import read_small

    return read_small(Path(where), "accusation")


def _messages(data: bytes, quorum: bytes) -> list[Given | note.Note]:
    if data.lstrip()[:1] in (b"{", b"["):
        read = jsonfile.read(data, "accusation", FILE_BYTES_MAX)
        return [_vote(v, quorum) for v in (read if isinstance(read, list) else [read])]
    try:
        return [note.parse_note(data.decode())]
    except (UnicodeDecodeError, IdaoError) as e:
        raise UsageError(
            "neither votes as JSON nor a cosigned checkpoint", hint="idao help quorum accuse shows the form"
        ) from e


def _vote(value: Any, quorum: bytes) -> Given:
    if not isinstance(value, dict) or sorted(value) != sorted(FIELDS):
        raise UsageError(f"a vote has the fields {', '.join(FIELDS)}")
    if type(value["kind"]) is not str or value["kind"] not in KINDS:
        raise UsageError(f"a vote's kind is one of {', '.join(KINDS)}")
    if not all(type(value[name]) is int and value[name] >= 0 for name in ("height", "view")):
        raise UsageError("height and view of a vote are counts")
    try:
        digest, signature = (bytes.fromhex(str(value[name])) for name in ("digest", "signature"))
        if len(signature) != SIGNATURE_BYTES:
            raise Malformed(f"a signature has {SIGNATURE_BYTES} bytes")
        vote = Vote(KINDS[value["kind"]], quorum, value["height"], value["view"], digest)
        return Given(vote, parse_did_key(str(value["key"])), signature)
    except (ValueError, Malformed) as e:
        raise UsageError(f"a vote that cannot be read: {e}") from e
