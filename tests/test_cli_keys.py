"""`idao key …`, as typed: a stolen key is shut out, the phrase restores the id, a kill harms nothing."""

import json
import os
import pty
import signal
import stat
import subprocess
import sys

import pytest

from idao import cli, identity, ui
from idao.crypto import canonical, phrase
from idao.crypto.keys import Signer, parse_did_key
from idao.dao import Dao
from idao.errors import Refused, VerificationFailed
from idao.hall.founding import Before, recovered_history
from idao.hall.signing import Actor
from idao.home import Home
from idao.ledger import genesis
from idao.ledger.idao import AddMember, Identity
from idao.ledger.succession import Consent
from idao.model import show_id
from idao.store.ledger import LedgerStore


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs one command; (exit code, stdout, stderr), or the JSON of a command that ends with 0."""
    for name in ("IDAO_PASSPHRASE_FILE", "IDAO_PASSPHRASE_COMMAND", "IDAO_HOME"):
        monkeypatch.delenv(name, raising=False)

    def once(*args, code=0):
        ui.options.__init__()
        capsys.readouterr()
        got = cli.main([str(a) for a in args])
        out, err = capsys.readouterr()
        assert got == code, (got, out, err)
        assert code in (0, 3, 6) or out == "", "a refusal leaves stdout empty"
        return json.loads(out) if "--json" in args and code == 0 else err if code else out

    return once


@pytest.fixture
def home(run, tmp_path):
    path = tmp_path / "home"
    run("--home", path, "init", "--name", "clinic", "--no-passphrase")
    return path


@pytest.fixture
def words(run, home, tmp_path):
    out = tmp_path / "words.txt"
    run("--home", home, "key", "phrase", "--out", out)
    return out


def contribute(run, home, tmp_path, name="a"):
    folder = tmp_path / f"data-{name}"
    folder.mkdir(exist_ok=True)
    (folder / "a.csv").write_text(f"id,{name}\n1,2\n2,3\n")
    return run("--home", home, "contribute", folder, "--name", name, "--json")


def show(run, home):
    return run("--home", home, "key", "show", "--json")


# --- show and phrase --------------------------------------------------------------------------------


def test_show_needs_no_key(run, home):
    for file in (home / "keys").glob("*.key"):
        file.rename(file.with_suffix(".away"))
    data = show(run, home)
    assert data["key_seq"] == 0 and data["keys"] == str(home / "keys")
    assert (data["passphrase"], data["phrase_kept"]) == (False, False)
    (first,) = data["history"]
    assert first["how"] == "inception" and first["key"] == data["key"]
    assert [h["height"] for h in first["heights"]] == [0]
    assert run("--home", home, "key", "show", "-q").strip() == data["key"]


def test_the_phrase_goes_to_a_terminal_or_a_private_file_only(run, home, tmp_path, words):
    assert stat.S_IMODE(words.stat().st_mode) == 0o600
    said = phrase.read_phrase(words.read_text())
    own = show_id("idao", identity.idao_id(identity.incept(phrase.seed_from(said))))
    assert show(run, home)["idao"] == own
    for extra in ((), ("--json",), ("-q",)):
        err = run("--home", home, "key", "phrase", *extra, code=2)
        assert "--out FILE" in err and said.split()[0] not in err.split()
    run("--home", home, "key", "phrase", "--out", words, code=2)  # nothing is overwritten
    data = run("--home", home, "key", "phrase", "--out", tmp_path / "w2", "--json")
    assert data == {"path": str(tmp_path / "w2")}


def test_the_phrase_is_shown_on_a_terminal(home, words):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "idao", "--home", str(home), "key", "phrase"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert child.returncode == 0
    assert [w for w in words.read_text().split() if w.encode() not in shown] == []


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # what Linux says when the other side is closed
        return b""


def test_done_destroys_the_kept_phrase(run, home):
    assert "--yes" in run("--home", home, "key", "phrase", "--done", code=2)
    run("--home", home, "key", "phrase", "--done", "--dry-run")
    assert show(run, home)["phrase_kept"]
    for _ in range(2):
        data = run("--home", home, "key", "phrase", "--done", "--yes", "--json")
        assert data == {"phrase_kept": False}
    run("--home", home, "key", "phrase", "--out", home / "w", code=4)


# --- rotate -----------------------------------------------------------------------------------------


def test_rotation_shuts_the_old_key_out_everywhere(run, home, tmp_path):
    before, old = show(run, home), Home.open(home).unlock().identity
    assert run("--home", home, "key", "rotate", "--dry-run", "--json")["key"] == before["key"]
    data = run("--home", home, "key", "rotate", "--json")
    after = show(run, home)
    assert (data["idao"], data["key_seq"]) == (before["idao"], 1) and data["key"] != before["key"]
    assert [h["how"] for h in after["history"]] == ["inception", "rotation"]
    assert [h["heights"][0]["height"] for h in after["history"]] == [0, 1]
    assert not (home / "keys/after.key").exists()
    dao = Dao.open(home)
    thief = Actor(dao.me, old)
    with pytest.raises(Refused, match="not signed by the current key"):
        dao.submit([("trust.remove", _remove(dao))], thief)
    assert contribute(run, home, tmp_path)["status"] == "anchored"
    run("--home", home, "key", "rotate")
    assert [h["key_seq"] for h in show(run, home)["history"]] == [0, 1, 2]
    run("--home", home, "audit")


def _remove(dao):
    from idao.ledger.idao import RemoveTrust

    return RemoveTrust(dao.quorum)


def test_a_thief_of_the_current_key_cannot_rotate(home):
    from idao.ledger.idao import Rotate

    dao = Dao.open(home)
    history, stolen, mine = dao.home.history(), dao.keys().identity, Signer(bytes([7]) * 32)
    now = identity.key_at(history.inception, history.events)
    for signer in (mine, stolen):
        event = identity.rotate(now, signer, bytes(32))
        with pytest.raises(Refused, match="proof of authority"):
            dao.submit([("idao.rotate", Rotate((event,)))], Actor(dao.me, mine))


DYING = """
import os, signal, sys
from pathlib import Path
from idao.dao import Dao
from idao.store.ledger import LedgerStore
from idao.store.outbox import Outbox

left = int(sys.argv[2])

def tick(real):
    def call(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    return call

os.replace, Path.unlink, LedgerStore.append = tick(os.replace), tick(Path.unlink), tick(LedgerStore.append)
Outbox.put, Outbox.settle = tick(Outbox.put), tick(Outbox.settle)
Dao.open(Path(sys.argv[1])).keyring.rotate()
"""
"""Rotates, and kills itself before a given write: of a key file, the outbox or the ledger."""
STEPS = 8
"""At least: after.key, history, identity.key, next.key, after.key away, outbox, block, outbox."""


def _rotate_and_die(home, at):
    done = subprocess.run([sys.executable, "-c", DYING, str(home), str(at)], check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


@pytest.mark.parametrize("again", ["rotate", pytest.param("contribute", marks=pytest.mark.slow)])
def test_a_kill_at_any_step_of_a_rotation(run, home, tmp_path, again):
    for step in range(3 * STEPS):
        if not _rotate_and_die(home, step):
            break
        seq = show(run, home)["key_seq"]
        if again == "rotate":
            cut_short = (home / "keys/after.key").exists() and seq > 0
            assert run("--home", home, "key", "rotate", "--json")["key_seq"] in (seq, seq + 1)
            assert cut_short or show(run, home)["key_seq"] == seq + 1
        assert contribute(run, home, tmp_path, f"n{step}")["status"] == "anchored"
        data = show(run, home)
        assert all(h["heights"] for h in data["history"]), "the ledger knows every key event"
        dao = Dao.open(home)
        keys = dao.keys()
        assert keys.identity.public == parse_did_key(data["key"]) == dao.state().get(Identity, dao.me).key
        if again == "rotate":
            assert not (home / "keys/after.key").exists()
    assert STEPS <= step < 3 * STEPS - 1
    run("--home", home, "audit")


def test_a_ledger_that_cannot_be_told_is_named_and_told_later(run, home, tmp_path):
    (ledger,) = (home / "ledgers").glob("*.db")
    ledger.rename(tmp_path / "away")
    ledger.write_bytes(b"no database")
    assert "the key is rotated here, but" in run("--home", home, "key", "rotate", code=6)
    ledger.unlink()
    (tmp_path / "away").rename(ledger)
    run("--home", home, "key", "rotate")  # two events in one transaction, signed by the newest key
    heights = [h["heights"][0]["height"] for h in show(run, home)["history"]]
    assert heights == [0, 1, 1]


def test_a_ledger_that_knows_a_later_key_refuses_an_old_copy(run, home, tmp_path):
    import shutil

    kept = tmp_path / "kept"
    shutil.copytree(home / "keys", kept)
    run("--home", home, "key", "rotate")
    shutil.rmtree(home / "keys")
    shutil.copytree(kept, home / "keys")
    err = run("--home", home, "contribute", kept / "history", "--json", code=5)
    assert json.loads(err)["error"]["code"] == "key-replaced"


def test_foreign_key_files_are_found(run, home, tmp_path):
    run("--home", tmp_path / "b", "init", "--name", "b", "--no-passphrase")
    (home / "keys/history").write_bytes((tmp_path / "b/keys/history").read_bytes())
    assert "not those of the key history" in run("--home", home, "key", "rotate", code=6)


# --- passphrase -------------------------------------------------------------------------------------


def test_changing_the_passphrase_rewrites_the_lock_alone(run, home, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("first words\n")
    two.write_text("other words\n")
    files = {p: p.read_bytes() for p in (home / "keys").iterdir() if p.is_file()}
    assert run("--home", home, "key", "passphrase", "--new-passphrase-file", one, "--json")["passphrase"]
    assert show(run, home)["passphrase"]
    run("--home", home, "key", "rotate", "--no-input", code=9)
    opened = ("--home", home, "--passphrase-file")
    run(*opened, two, "key", "passphrase", "--no-passphrase", code=9)
    run(*opened, one, "key", "passphrase", "--new-passphrase-file", two)
    run(*opened, one, "key", "rotate", code=9)
    assert {p.name for p, was in files.items() if p.read_bytes() != was} == {"lock"}
    run(*opened, two, "key", "rotate")
    run(*opened, two, "key", "passphrase", "--no-passphrase")
    run("--home", home, "key", "rotate")
    run("--home", home, "key", "passphrase", code=2)
    run("--home", home, "key", "passphrase", "--no-passphrase", "--new-passphrase-file", one, code=2)


# --- recover ----------------------------------------------------------------------------------------


def recover(run, path, words, *more, code=0):
    args = ("--home", path, "key", "recover", "--phrase-file", words, "--no-passphrase", "--json", *more)
    return run(*args, code=code)


def test_recovery_on_an_empty_machine_restores_the_same_id(run, home, tmp_path, words):
    lost = show(run, home)
    data = recover(run, tmp_path / "new", words, "--name", "clinic")
    assert (data["idao"], data["key_seq"]) == (lost["idao"], identity.RECOVERY_STEP)
    assert data["key"] != lost["key"] and data["parent"] is None
    assert LedgerStore.open(next((tmp_path / "new/ledgers").glob("*.db"))).bundle.genesis.name == "clinic-r1"
    assert not show(run, tmp_path / "new")["phrase_kept"]
    assert contribute(run, tmp_path / "new", tmp_path)["status"] == "anchored"
    assert run("--home", tmp_path / "new", "key", "rotate", "--json")["key_seq"] == identity.RECOVERY_STEP + 1
    run("--home", tmp_path / "new", "audit")


def test_the_new_quorum_names_the_old_one(run, home, tmp_path, words):
    asset = contribute(run, home, tmp_path)
    proof, head = tmp_path / "p.idao-proof", tmp_path / "head.note"
    run("--home", home, "proof", asset["asset"], "-o", proof)
    head.write_text(run("--home", home, "log", "checkpoint"))
    for i, source in enumerate((proof, head)):
        path = tmp_path / f"new{i}"
        data = recover(run, path, words, "--from", source)
        parent = LedgerStore.open(next((path / "ledgers").glob("*.db"))).bundle.genesis.parent
        assert data["parent"] == show_id("quorum", parent.quorum) == f"quorum:{_stem(home)}"
        assert parent.height == asset["height"] and parent.note == head.read_bytes()
    again = contribute(run, tmp_path / "new0", tmp_path)
    run("--home", tmp_path / "new0", "proof", again["asset"], "-o", tmp_path / "q.idao-proof")
    checks = run("verify", tmp_path / "q.idao-proof", "--json")["checks"]
    said = next(c["detail"] for c in checks if c["name"] == "genesis")
    assert f"quorum:{_stem(home)}" in said and "after a recovery" in said


def _stem(home):
    return next((home / "ledgers").glob("*.db")).stem


def test_a_second_recovery_builds_on_the_first(run, home, tmp_path, words):
    first = recover(run, tmp_path / "one", words, "--name", "clinic")
    asset = contribute(run, tmp_path / "one", tmp_path)
    proof = tmp_path / "p.idao-proof"
    run("--home", tmp_path / "one", "proof", asset["asset"], "-o", proof)
    for i, given in enumerate((("--from", proof), ("--history", tmp_path / "one/keys/history"))):
        second = recover(run, tmp_path / f"two{i}", words, "--name", "clinic", *given)
        assert (second["idao"], second["key_seq"]) == (first["idao"], 2 * identity.RECOVERY_STEP)
        (ledger,) = (tmp_path / f"two{i}/ledgers").glob("*.db")
        assert LedgerStore.open(ledger).bundle.genesis.name == "clinic-r2"


def test_two_restored_copies_cannot_both_be_taken(home, words):
    said = phrase.read_phrase(words.read_text())
    one, two = (recovered_history(said, Before(), (bytes([n]) * 32, bytes([n + 1]) * 32)) for n in (1, 3))
    after = identity.key_at(one.inception, one.events)
    with pytest.raises(VerificationFailed, match="spent"):
        identity.advance(after, two.events[0])


def test_recover_refuses_what_does_not_fit(run, home, tmp_path, words, monkeypatch):
    said = words.read_text().split()
    new, bad = tmp_path / "new", tmp_path / "bad"
    assert "an iDAO here already" in recover(run, home, words, code=2)
    bad.write_text(" ".join([*said[:4], "clinicc", *said[5:]]))
    err = recover(run, new, bad, code=2)
    assert "word 5" in err and "clinicc" not in err and not set(said) & set(err.split("'"))
    bad.write_text(" ".join(said[:23]))
    assert "24 words, not 23" in recover(run, new, bad, code=2)
    bad.write_text(phrase.phrase_from(bytes(32)))  # somebody else's phrase
    assert "not the phrase of" in recover(run, new, bad, "--history", home / "keys/history", code=2)
    recover(run, new, tmp_path / "none", code=4)
    assert "--phrase-file" in run("--home", new, "key", "recover", "--no-passphrase", code=2)
    assert not new.exists()
    (new / "keys").mkdir(parents=True)
    (new / "home.db").touch()
    assert "lost its config.toml" in recover(run, new, words, code=2)


def test_a_home_that_lost_its_settings_is_not_founded_over(run, home, tmp_path):
    contribute(run, home, tmp_path)
    (home / "config.toml").unlink()
    kept = {p: p.read_bytes() for p in (home / "keys").iterdir() if p.is_file()}
    assert "lost its config.toml" in run("--home", home, "init", "--name", "x", "--no-passphrase", code=2)
    assert {p: p.read_bytes() for p in kept} == kept


def test_a_proof_of_anothers_quorum_is_refused(run, home, tmp_path, words):
    other = tmp_path / "other"
    run("--home", other, "init", "--name", "other", "--no-passphrase")
    asset = contribute(run, other, tmp_path)
    proof = tmp_path / "p.idao-proof"
    run("--home", other, "proof", asset["asset"], "-o", proof)
    assert "may not continue" in recover(run, tmp_path / "new", words, "--from", proof, code=2)
    assert "not of idao:" in recover(run, tmp_path / "new", words, "--history", proof, code=2)
    data = bytearray(proof.read_bytes())
    data[-1] ^= 1
    proof.write_bytes(data)
    assert "does not hold" in recover(run, tmp_path / "new", words, "--from", proof, code=6)
    assert not (tmp_path / "new").exists()


def test_dry_run_checks_the_phrase_and_writes_nothing(run, home, tmp_path, words):
    data = recover(run, tmp_path / "new", words, "--dry-run")
    assert data["idao"] == show(run, home)["idao"] and not (tmp_path / "new").exists()


def test_the_phrase_may_come_from_stdin(run, home, tmp_path, words, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(words.read_text().upper()))
    assert recover(run, tmp_path / "new", "-")["idao"] == show(run, home)["idao"]


# --- rules beneath ----------------------------------------------------------------------------------


def test_a_genesis_that_continues_another_needs_a_recovery_key(run, home, tmp_path, words):
    from dataclasses import replace

    contribute(run, home, tmp_path)
    head = tmp_path / "head.note"
    head.write_text(run("--home", home, "log", "checkpoint"))
    recover(run, tmp_path / "new", words, "--from", head)
    old, new = (LedgerStore.open(next((p / "ledgers").glob("*.db"))).bundle for p in (home, tmp_path / "new"))
    genesis.check_bundle(new)
    genesis.check_bundle(new, old.genesis)
    stranger = Signer(bytes(32))
    for changed, parent in (
        (replace(new, recovery=()), None),
        (replace(old, recovery=new.recovery), None),
        (replace(new, recovery=(Consent(stranger.public, stranger.sign_genesis(new.genesis)),)), None),
        (new, new.genesis),
        (new, replace(old.genesis, recovery_keys=(stranger.public,))),
    ):
        with pytest.raises(VerificationFailed, match=r"recovery|continues"):
            genesis.check_bundle(changed, parent)
    own_key = replace(new.genesis, recovery_keys=(stranger.public,))
    keys = Dao.open(tmp_path / "new").keys()
    founder = replace(new.founders[0], signature=keys.identity.sign_genesis(own_key))
    consent = Consent(stranger.public, stranger.sign_genesis(own_key))
    forged = replace(new, genesis=own_key, founders=(founder,), recovery=(consent,))
    genesis.check_bundle(forged)  # alone it is only a claim
    with pytest.raises(VerificationFailed, match="not every recovery key"):
        genesis.check_bundle(forged, old.genesis)


def test_weights_are_bounded():
    for weight, fits in ((0, True), (2**31, True), (2**31 + 1, False), (-1, False)):
        data = canonical.encode({"member": bytes(32), "role": "member", "weight": weight})
        try:
            canonical.unpack(AddMember, data)
            assert fits
        except VerificationFailed:
            assert not fits
