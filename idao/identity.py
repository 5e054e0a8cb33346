"""Who an iDAO is: its inception record, and the chain of key events that names its key today.

The rules of the chain:

1. The id is the hash of the inception record, which commits to the next key and to the first recovery key,
   each by a hash.
2. A *rotation* reveals the next key, is signed by it, makes it current and commits to another one. It
   follows the last event, takes the next number, and cannot touch the recovery commitment. A thief of the
   current key alone can make no event at all; a thief of both keys never becomes the owner for good.
3. A *recovery* reveals the committed recovery key, is signed by it, spends it, and commits to the next
   one. It follows the last event, or the inception when its maker knows nothing else, and may skip
   numbers; so one recovery event is good on every ledger, whatever rotations each has seen. It replaces
   current and next key alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from idao.crypto import phrase
from idao.crypto.hashing import Kind, digest, hash_of
from idao.crypto.keys import Signer, verify_key_event
from idao.errors import Malformed
from idao.frozen import frozen
from idao.model import Hash, Id, Inception, KeyEvent, PublicKey, SignedKeyEvent

EVENTS_MAX = 1024
"""Key events in one history: a rotation each month for 85 years, and 300 kB in a proof at most."""
RECOVERY_STEP = 2**20
"""Recovery n takes the key number (n + 1) · 2^20: above all rotations before it, known or not."""


@frozen
class KeyState:
    """What an identity's history says after some event; what a ledger keeps of it."""

    idao: Id
    key: PublicKey
    key_seq: int
    next: Hash
    """Commitment to the key that a rotation may bring in."""
    head: Hash
    """Hash of the last event; before any, of the inception record, which is the id."""
    recovery: Hash
    """Commitment to the recovery key that may be used next."""


def idao_id(inception: Inception) -> bytes:
    """The 32 bytes of `idao:…`."""
    return hash_of(Kind.INCEPTION, inception)


def next_commitment(next_public: bytes) -> bytes:
    """What stands for the next key until a rotation reveals it."""
    return digest(Kind.NEXT_KEY, next_public)


def recovery_commitment(recovery_public: bytes) -> bytes:
    """What stands for a recovery key until it is used."""
    return digest(Kind.RECOVERY_KEY, recovery_public)


def incept(seed: bytes) -> Inception:
    """The inception record that a phrase's 64-byte seed stands for: the same on every machine."""
    recovery = Signer(phrase.recovery_key(seed, 0)).public
    return Inception(
        v=1,
        nonce=phrase.inception_nonce(seed),
        key=Signer(phrase.first_key(seed)).public,
        next=next_commitment(Signer(phrase.next_key(seed)).public),
        recovery=recovery_commitment(recovery),
    )


def initial(inception: Inception) -> KeyState:
    """The state before any key event. `Malformed` for a format version other than 1."""
    if inception.v != 1:
        raise _broken(f"inception record of format {inception.v}; this program knows 1")
    own = idao_id(inception)
    return KeyState(own, inception.key, 0, inception.next, own, inception.recovery)


def advance(now: KeyState, signed: SignedKeyEvent) -> KeyState:
    """The state after one more event. `Malformed` (code `key-event`) names the rule it breaks."""
    event = signed.event
    if event.v != 1:
        raise _broken(f"key event of format {event.v}; this program knows 1")
    if event.idao != now.idao:
        raise _broken("key event of another iDAO")
    if event.key == now.key:
        raise _broken("key event that keeps the key it should replace")
    if event.next in (now.next, next_commitment(event.key)):
        raise _broken("a key event must commit to another next key: this one may be known")
    if event.recovery_key is None:
        signer = event.key
        _check_rotation(now, event)
    else:
        signer = event.recovery_key
        _check_recovery(now, event, signer)
    if not verify_key_event(signer, signed.signature, event):
        raise _broken(f"key event {event.key_seq}: the signature is not by the key that may make it")
    head = hash_of(Kind.KEY_EVENT, event)
    return KeyState(now.idao, event.key, event.key_seq, event.next, head, event.next_recovery)


def _check_rotation(now: KeyState, event: KeyEvent) -> None:
    if event.previous != now.head:
        raise _broken(f"key event {event.key_seq} does not follow the last one known")
    if event.key_seq != now.key_seq + 1:
        raise _broken(f"key event {event.key_seq} where {now.key_seq + 1} is next")
    if next_commitment(event.key) != now.next:
        raise _broken("a rotation brings in the key committed to before, and no other")
    if event.next_recovery != now.recovery:
        raise _broken("only a recovery key may change the recovery commitment")


def _check_recovery(now: KeyState, event: KeyEvent, revealed: bytes) -> None:
    if recovery_commitment(revealed) != now.recovery:
        raise _broken("not the recovery key committed to: another phrase, or spent already")
    if event.previous not in (now.head, now.idao):
        raise _broken(f"recovery {event.key_seq} follows neither the last event nor the inception")
    if event.key_seq <= now.key_seq:
        raise _broken(f"recovery to key {event.key_seq}, but key {now.key_seq} was seen")
    if event.next_recovery == now.recovery:
        raise _broken("a recovery must commit to another recovery key: this one is now public")
    if event.key == revealed:
        raise _broken("a recovery key cannot become the identity key")


def history(inception: Inception, events: Sequence[SignedKeyEvent]) -> tuple[KeyState, ...]:
    """The state after the inception and after each event, every one verified."""
    if len(events) > EVENTS_MAX:
        raise _broken(f"{len(events)} key events; at most {EVENTS_MAX} are read")
    states = [initial(inception)]
    for signed in events:
        states.append(advance(states[-1], signed))
    return tuple(states)


def key_at(inception: Inception, events: Sequence[SignedKeyEvent]) -> KeyState:
    """Key and key number after all `events`. `Malformed` if one of them breaks a rule."""
    return history(inception, events)[-1]


def rotate(now: KeyState, signer: Signer, next_public: bytes) -> SignedKeyEvent:
    """A rotation to the key of `signer`, which `now` committed to; the one after it will be `next_public`."""
    event = KeyEvent(
        v=1,
        idao=now.idao,
        key_seq=now.key_seq + 1,
        previous=now.head,
        key=signer.public,
        next=next_commitment(next_public),
        recovery_key=None,
        next_recovery=now.recovery,
    )
    return SignedKeyEvent(event, signer.sign_key_event(event))


def recover(
    inception: Inception, seed: bytes, number: int, new_key: bytes, next_public: bytes
) -> SignedKeyEvent:
    """A recovery to `new_key`, with `next_public` to come after it, made of the phrase's seed alone.

    `number` counts the recoveries before this one (0 for the first); a ledger that has seen more, or fewer,
    refuses the event.
    """
    recovery = Signer(phrase.recovery_key(seed, number))
    own = idao_id(inception)
    event = KeyEvent(
        v=1,
        idao=own,
        key_seq=(number + 1) * RECOVERY_STEP,
        previous=own,
        key=new_key,
        next=next_commitment(next_public),
        recovery_key=recovery.public,
        next_recovery=recovery_commitment(Signer(phrase.recovery_key(seed, number + 1)).public),
    )
    return SignedKeyEvent(event, recovery.sign_key_event(event))


def recovery_number(seed: bytes, commitment: bytes, *, limit: int = 1000) -> int | None:
    """Which recovery key of the phrase `commitment` names, searching the first `limit`; None if none."""
    for number in range(limit):
        if recovery_commitment(Signer(phrase.recovery_key(seed, number)).public) == commitment:
            return number
    return None


def _broken(why: str) -> Malformed:
    return Malformed(why, code="key-event")
