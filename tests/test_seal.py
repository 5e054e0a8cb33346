"""Key files: only the right passphrase opens them, and every damaged byte is a clear refusal."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from idao.crypto import canonical, seal
from idao.errors import IdaoError, Locked, Malformed, UsageError

KEK = bytes(range(32))
RANDOM = bytes(range(100, 140))
NONCE = bytes(24)
CHEAP = seal.Cost(memory_kib=8, passes=1)

LOCKED = seal.make_lock(KEK, "correct horse", RANDOM, CHEAP)
OPEN = seal.make_lock(KEK, None, RANDOM)
SEALED = seal.seal(KEK, "identity", b"s" * 32, NONCE)


def test_the_passphrase_opens_the_lock_and_no_other_does():
    assert seal.open_lock(LOCKED, "correct horse") == KEK
    assert seal.needs_passphrase(LOCKED)
    assert KEK not in LOCKED
    for wrong in ("correct horse ", "Correct horse", "x"):
        with pytest.raises(Locked, match="wrong passphrase"):
            seal.open_lock(LOCKED, wrong)
    with pytest.raises(Locked, match="locked by a passphrase"):
        seal.open_lock(LOCKED, None)


def test_a_lock_without_passphrase_says_so_in_the_file():
    assert seal.open_lock(OPEN, None) == seal.open_lock(OPEN, "ignored") == KEK
    assert not seal.needs_passphrase(OPEN)
    assert canonical.decode(OPEN)["kind"] == "no-passphrase" and canonical.decode(OPEN)["cost"] is None


def test_a_new_passphrase_rewrites_the_lock_alone():
    changed = seal.make_lock(KEK, "new", RANDOM[::-1], CHEAP)
    assert seal.unseal(seal.open_lock(changed, "new"), "identity", SEALED) == b"s" * 32
    with pytest.raises(Locked):
        seal.open_lock(changed, "correct horse")


def test_the_same_passphrase_typed_on_two_systems():
    lock = seal.make_lock(KEK, unicodedata.normalize("NFD", "Ümläut"), RANDOM, CHEAP)
    assert seal.open_lock(lock, unicodedata.normalize("NFC", "Ümläut")) == KEK


def test_bad_passphrases_are_usage_errors():
    for bad in ("", "x" * (seal.PASSPHRASE_BYTES_MAX + 1), "\ud800"):
        with pytest.raises(UsageError):
            seal.make_lock(KEK, bad, RANDOM, CHEAP)


@pytest.mark.parametrize(("memory", "passes"), [(2**40, 1), (524_289, 1), (7, 1), (8, 11), (8, 0), (-1, 1)])
def test_a_hostile_lock_cannot_name_its_price(memory, passes):
    plain = canonical.decode(LOCKED)
    plain["cost"] = {"memory_kib": memory, "passes": passes}
    with pytest.raises(Malformed):
        seal.open_lock(canonical.encode(plain), "correct horse")


def test_a_lock_cannot_be_relabelled():
    plain = canonical.decode(LOCKED) | {"kind": "no-passphrase", "cost": None}
    with pytest.raises(Malformed):
        seal.open_lock(canonical.encode(plain), None)
    for odd in ({"kind": "other"}, {"v": 2}, {"cost": None}, {"extra": 1}):
        with pytest.raises(Malformed):
            seal.open_lock(canonical.encode(canonical.decode(LOCKED) | odd), "correct horse")


def test_a_secret_is_bound_to_its_purpose_and_home():
    assert seal.unseal(KEK, "identity", SEALED) == b"s" * 32
    with pytest.raises(Malformed, match="'identity' where one for 'validator' belongs"):
        seal.unseal(KEK, "validator", SEALED)
    renamed = canonical.encode(canonical.decode(SEALED) | {"purpose": "validator"})
    with pytest.raises(Malformed, match="damaged or of another home"):
        seal.unseal(KEK, "validator", renamed)
    with pytest.raises(Malformed, match="damaged or of another home"):
        seal.unseal(bytes(32), "identity", SEALED)


def test_wrong_sizes_are_bugs_of_the_caller():
    for kek, nonce, secret in ((b"", NONCE, b""), (KEK, b"", b""), (KEK, NONCE, bytes(65537))):
        with pytest.raises(ValueError):
            seal.seal(kek, "identity", secret, nonce)
    for kek, random in ((b"", RANDOM), (KEK, b"")):
        with pytest.raises(ValueError):
            seal.make_lock(kek, None, random)


def _refused(call):
    try:
        call()
    except IdaoError as e:
        return e.exit_code in (6, 9)
    return False


def _tries(monkeypatch):
    # A flipped bit in the cost may ask for up to 512 MiB: allowed, but slow to try a hundred times.
    original = bindings.crypto_pwhash_alg

    def bounded(size, raw, salt, passes, memory, alg):
        return original(size, raw, salt, passes, min(memory, 2**20), alg)

    monkeypatch.setattr(bindings, "crypto_pwhash_alg", bounded)


@pytest.mark.parametrize("passphrase", ["correct horse", None])
def test_every_flipped_bit_of_a_lock_is_refused(monkeypatch, passphrase):
    _tries(monkeypatch)
    data = LOCKED if passphrase else OPEN
    for i in range(len(data) * 8):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        assert _refused(lambda bad=bad: seal.open_lock(bytes(bad), passphrase)), f"bit {i}"


def test_every_flipped_bit_and_every_cut_of_a_key_file_is_refused():
    for i in range(len(SEALED) * 8):
        bad = bytearray(SEALED)
        bad[i // 8] ^= 1 << i % 8
        assert _refused(lambda bad=bad: seal.unseal(KEK, "identity", bytes(bad))), f"bit {i}"
    for data, read in (
        (SEALED, lambda d: seal.unseal(KEK, "identity", d)),
        (LOCKED, lambda d: seal.open_lock(d, "correct horse")),
        (OPEN, lambda d: seal.open_lock(d, None)),
    ):
        for n in range(len(data)):
            assert _refused(lambda n=n, data=data, read=read: read(data[:n]))
        assert _refused(lambda data=data, read=read: read(data + b"\0"))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_refused_by_our_errors(data):
    assert _refused(lambda: seal.open_lock(data, "x"))
    assert _refused(lambda: seal.unseal(KEK, "identity", data))


@given(st.binary(min_size=32, max_size=32), st.text(min_size=1, max_size=40), st.binary(max_size=200))
@settings(max_examples=30, deadline=None)
def test_what_is_sealed_comes_back(kek, passphrase, secret):
    try:
        lock = seal.make_lock(kek, passphrase, RANDOM, CHEAP)
    except UsageError:  # not valid text
        return
    assert seal.unseal(seal.open_lock(lock, passphrase), "x", seal.seal(kek, "x", secret, NONCE)) == secret


def test_the_default_cost_is_at_least_interactive():
    assert seal.DEFAULT_COST.memory_kib >= 64 * 1024 and seal.DEFAULT_COST.passes >= 2
