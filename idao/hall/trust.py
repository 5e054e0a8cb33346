"""Whom a verifier trusts: what `verify --trust` takes, and how far back that trust has to reach.

A proof leads from the genesis to the set that anchored it, each set deciding on the next. Who was in an old
set may have nothing to lose any more: its old keys, stolen or sold, could sign another history. So trust ages
with the set that it begins at: the genesis, or a later checkpoint that the verifier names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from idao import proof
from idao.crypto import note
from idao.crypto.hashing import validators_hash
from idao.errors import Malformed, UsageError, VerificationFailed
from idao.frozen import frozen
from idao.home import show_time
from idao.ledger import genesis
from idao.ledger.bonds import UNBONDING_MS
from idao.model import parse_id, show_id
from idao.store import givenfile

DAY_MS = 24 * 3600 * 1000


@frozen
class Known:
    """A checkpoint that the verifier has from elsewhere, and trusts."""

    signed: note.Note
    checkpoint: note.Checkpoint


Named = Sequence[tuple[str, bytes | Known]]


@frozen
class Oldest:
    """The oldest validator set that a verdict rests on: where the verifier's own trust begins."""

    epoch: int
    time_ms: int
    """When that set is known to have been in office."""


def read(names: Sequence[str]) -> list[tuple[str, bytes | Known]]:
    """Full quorum or iDAO ids, or checkpoint files; `UsageError` for anything else."""
    return [(name, _read(name)) for name in names]


def _read(named: str) -> bytes | Known:
    for kind in ("quorum", "idao"):
        if named.startswith(f"{kind}:"):
            return parse_id(kind, named)
    try:
        with givenfile.opened(named) as f:
            data = f.read(note.NOTE_BYTES_MAX + 1)
    except OSError:
        data = None
    if data is None or len(data) > note.NOTE_BYTES_MAX:
        raise UsageError(
            f"'{named}' is no quorum id, iDAO id or checkpoint file",
            hint="names on a ledger are not trusted: give the full id",
        )
    try:
        signed = note.parse_note(data.decode())
        return Known(signed, note.parse_checkpoint(signed.text))
    except (Malformed, UnicodeDecodeError) as e:
        raise UsageError(f"'{named}' is not a checkpoint: {e}") from e


def judge(verdict: proof.Verdict, named: Named) -> bool:
    """Whether somebody who was named vouches for the quorum of the proof."""
    if not named:
        return False
    matches: list[str] = []

    def rule() -> str:
        for name, known in named:
            if (why := _vouches(verdict, name, known)) is not None:
                matches.append(why)
        if not matches:
            raise VerificationFailed("nobody you named vouches for it")
        return "; ".join(matches)

    verdict.check("trust", rule)
    return bool(matches)


def _vouches(verdict: proof.Verdict, name: str, known: bytes | Known) -> str | None:
    if isinstance(known, bytes):
        if name.startswith("quorum:"):
            return "the quorum you named" if known == verdict.quorum else None
        alone = verdict.kind == genesis.PERSON and verdict.founders == (known,)
        return "the iDAO you named, in its own quorum of one" if alone else None
    theirs = known.checkpoint
    if theirs.quorum != verdict.quorum:
        return None
    mine = verdict.anchor.checkpoint if verdict.anchor else None
    if mine is not None and mine.size == theirs.size and mine != theirs:
        raise VerificationFailed("the checkpoint you named shows another history: the log was forked")
    sets = verdict.sets
    if theirs.epoch < len(sets) and validators_hash(sets[theirs.epoch]) != theirs.validators:
        raise VerificationFailed("the checkpoint you named has other validators in that epoch: a fork")
    return "the checkpoint you named" + ("" if mine == theirs else ", of the same quorum at another height")


def oldest_set(verdict: proof.Verdict, named: Named) -> Oldest | None:
    """Where trust begins: at genesis, or at the newest named checkpoint that the proof leads through."""
    if not verdict.sets:
        return None
    found = Oldest(0, verdict.genesis_ms)
    for _, known in named:
        if isinstance(known, Known) and (later := _begins_at(verdict, known)) is not None:
            found = max(found, later, key=lambda o: (o.epoch, o.time_ms))
    return found


def _begins_at(verdict: proof.Verdict, known: Known) -> Oldest | None:
    c = known.checkpoint
    if c.quorum != verdict.quorum or c.epoch >= len(verdict.sets):
        return None
    validators = verdict.sets[c.epoch]
    if validators_hash(validators) != c.validators:
        return None
    times = [
        line.time_s
        for v in validators.validators
        for line in known.signed.signatures
        if note.verify_cosignature(line, c.quorum, v.key, known.signed.text)
    ]
    return Oldest(c.epoch, 1000 * max(times)) if times else None


def shown(oldest: Oldest | None, now_ms: int) -> dict[str, Any] | None:
    """As JSON."""
    if oldest is None:
        return None
    return {
        "epoch": oldest.epoch,
        "time": show_time(oldest.time_ms),
        "age_days": max(0, now_ms - oldest.time_ms) // DAY_MS,
    }


def recovery(verdict: proof.Verdict) -> dict[str, Any] | None:
    """As JSON: what the quorum continues after a recovery, and who of the old set stands behind that."""
    parent, behind = verdict.parent, verdict.behind
    if parent is None:
        return None
    return {
        "continues": show_id("quorum", parent.quorum),
        "height": parent.height,
        "validators": behind.validators if behind else None,
        "founders": behind.founders if behind else None,
        "supporters": behind.supporters if behind else None,
        "power": behind.power if behind else None,
        "total_power": behind.total_power if behind else None,
    }


def warnings(verdict: proof.Verdict, oldest: Oldest | None, now_ms: int) -> list[str]:
    """What a recovery and the age of trust ask for. A quorum of one has its own warning, whatever its age."""
    out = []
    if (behind := verdict.behind) is not None:
        out.append(
            f"a recovered quorum, not {show_id('quorum', behind.quorum)} itself: it continues that one from "
            f"height {behind.height}, and {behind}"
        )
    if oldest is None or verdict.kind == genesis.PERSON or now_ms - oldest.time_ms <= UNBONDING_MS:
        return out
    days = (now_ms - oldest.time_ms) // DAY_MS
    return [
        *out,
        f"rests on the validators of epoch {oldest.epoch}, known for {days} days: whoever has their old keys "
        "could have made another history; name a later checkpoint that you trust (--trust FILE)",
    ]
