"""Event logs of TDX guests as dstack writes them: JSON entries that extend the runtime registers.

Only register 3 has entries whose text is bound by their digest; what stands beside the digests of the others
is free text, so it is never shown as checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from idao.errors import Malformed
from idao.frozen import frozen
from idao.tee.given import unhex

EVENTS_MAX = 1000
REGISTERS = 4
CHECKED_REGISTER = 3
TYPE = 0x08000001
"""Event type of the guest's own entries."""


@frozen
class Event:
    register: int
    type: int
    digest: bytes
    name: str
    payload: bytes

    @property
    def bound(self) -> bool:
        """Is the digest that of type, name and payload?"""
        text = self.type.to_bytes(4, "little") + b":" + self.name.encode() + b":" + self.payload
        return self.digest == hashlib.sha384(text).digest()


def parse(data: bytes) -> list[Event]:
    """The entries of a JSON list. `Malformed` for any other form."""
    try:
        entries = json.loads(data)
        if not isinstance(entries, list) or len(entries) > EVENTS_MAX:
            raise Malformed("not an event log")
        return [_event(e) for e in entries]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as e:
        raise Malformed("not an event log") from e


def of_file(data: bytes) -> list[Event] | None:
    """The log in a file: a list of entries, or dstack's object that holds one. None if it holds none."""
    if b'"imr"' not in data:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise Malformed("not an event log", code="event-log") from e
    entries = value.get("event_log") if isinstance(value, dict) else value
    return parse(entries.encode() if isinstance(entries, str) else json.dumps(entries).encode())


def _event(e: Mapping[str, object]) -> Event:
    register, kind = e["imr"], e["event_type"]
    if type(register) is not int or not 0 <= register < REGISTERS:
        raise Malformed("event of an unknown register")
    if type(kind) is not int or not 0 <= kind < 2**32:
        raise Malformed("event of a strange type")
    digest = unhex(str(e["digest"]), "digest")
    if len(digest) != 48:
        raise Malformed("event with a strange digest")
    return Event(register, kind, digest, str(e["event"]), unhex(str(e["event_payload"]), "payload"))


def replay(events: Iterable[Event]) -> list[str]:
    """The four registers (hex) that the entries lead to."""
    values = [bytes(48)] * REGISTERS
    for e in events:
        values[e.register] = hashlib.sha384(values[e.register] + e.digest).digest()
    return [v.hex() for v in values]


def checked(events: list[Event], measurements: Mapping[str, str]) -> list[Event]:
    """The entries whose text the quote proves. `Malformed` if the log does not lead to its register 3."""
    own = [e for e in events if e.register == CHECKED_REGISTER]
    if replay(own)[CHECKED_REGISTER] != measurements.get(f"rtmr{CHECKED_REGISTER}"):
        raise Malformed("the event log does not lead to the measured register", code="event-log")
    if not all(e.bound for e in own):
        raise Malformed("an event is not what its digest says", code="event-log")
    return own
