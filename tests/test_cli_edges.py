"""What a first hour of use found: odd folders, closed outputs, empty values, values out of bounds."""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Lived

from idao.crypto import seal
from idao.dao import Dao
from idao.home import Home


def idao(lived: Lived, *words: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "idao", "--home", str(lived.path), *words],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **how,  # type: ignore[call-overload]
    )  # fmt: skip


def test_a_folder_with_an_empty_folder_and_a_pipe_is_proven(lived: Lived, tmp_path: Path) -> None:
    assert (lived.data / "sub" / "nothing").is_dir()
    os.mkfifo(lived.data / "pipe")
    proof = tmp_path / "p"
    lived.dao()
    assert idao(lived, "proof", f"{lived.asset}@2", "-o", str(proof)).returncode == 0
    done = idao(lived, "--json", "verify", str(proof), str(lived.data))
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["ok"], answer["checks"]
    assert idao(lived, "verify", str(proof), str(tmp_path / "no such file")).returncode == 4


SHALLOW = "import sys; from idao import cli, dao; from idao.hall import proofs; sys.setrecursionlimit(400); "


def test_nested_folders_and_links_to_folders_are_proven(lived: Lived, tmp_path: Path) -> None:
    top, proof = tmp_path / "top", tmp_path / "p"
    deep = top.joinpath(*["d"] * 500)  # more than that Python may call itself, less than removing it takes
    deep.mkdir(parents=True)
    (deep / "deep").write_text("deep")
    (top / "link").symlink_to("d")
    assert idao(lived, "contribute", str(top), "--name", "nested").returncode == 0
    assert idao(lived, "proof", "nested", "-o", str(proof)).returncode == 0
    words = ["--json", "verify", str(proof), str(top)]
    command = [sys.executable, "-c", SHALLOW + "sys.exit(cli.main(sys.argv[1:]))", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [c["ok"] for c in json.loads(done.stdout)["checks"] if c["name"].startswith("file ")] == [True] * 2
    (top / "link").unlink()
    (top / "link").symlink_to("elsewhere")
    assert idao(lived, "verify", str(proof), str(top)).returncode == 6


def test_a_new_name_for_what_a_path_was_is_said(lived: Lived, tmp_path: Path) -> None:
    for name in ("rides", "walks"):
        (tmp_path / name).write_text(f"a,b\n{name},1\n")
        assert idao(lived, "contribute", str(tmp_path / name)).returncode == 0
    said = "warning: this path is the asset 'rides' already: version 2 of it is called 'tours'"
    plan = idao(lived, "contribute", str(tmp_path / "rides"), "--name", "tours", "--dry-run")
    assert said in plan.stderr and "would make version 2 of asset:" in plan.stdout
    done = idao(lived, "--json", "contribute", str(tmp_path / "rides"), "--name", "tours")
    answer = json.loads(done.stdout)
    assert said in done.stderr and answer["renamed_from"] == "rides" and answer["version"] == 2
    same = idao(lived, "--json", "contribute", str(tmp_path / "rides"), "--name", "tours", "--dry-run")
    assert "warning" not in same.stderr and "renamed_from" not in json.loads(same.stdout)

    for more in ([], ["--dry-run"]):
        taken = idao(lived, "--json", "contribute", str(tmp_path / "rides"), "--name", "walks", *more)
        error = json.loads(taken.stderr)["error"]
        assert (taken.returncode, error["code"]) == (2, "usage") and answer["asset"] in error["message"]
    assert json.loads(idao(lived, "--json", "asset", "show", "tours").stdout)["version"] == 2


def test_a_plan_tells_what_the_next_version_keeps(lived: Lived, tmp_path: Path) -> None:
    (tmp_path / "rides").write_text("a,b\n1,2\n")
    made = [str(tmp_path / "rides"), "--name", "tours", "--license", "MIT", "--category", "text"]
    assert idao(lived, "contribute", *made).returncode == 0
    public = json.loads(idao(lived, "--json", "contribute", made[0], "--dry-run").stdout)["public"]
    assert (public["name"], public["license"], public["category"]) == ("tours", "MIT", "text")


def test_a_proof_and_an_answer_cannot_both_be_printed(lived: Lived) -> None:
    both = idao(lived, "proof", lived.asset, "-o", "-", "--json")
    assert (both.returncode, both.stdout) == (2, "") and json.loads(both.stderr)["error"]["hint"]
    plan = idao(lived, "proof", lived.asset, "-o", "-", "--dry-run")
    assert plan.returncode == 0 and plan.stdout.startswith("would write ")


@pytest.mark.parametrize("words", [("status",), ("asset", "list"), ("mint", "nope")])
def test_a_closed_output_is_no_bug(lived: Lived, words: tuple[str, ...]) -> None:
    line = f'exec "$0" -m idao --home "{lived.path}" {" ".join(words)} >&-'
    done = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == (4 if "nope" in words else 0)
    assert "Traceback" not in done.stderr and "bug" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mint", "ASSET", "--to", ""), "--to is given without a value"),
        (("mint", "ASSET", "--value="), "--value is given without a value"),
        (("contribute", ".", "--name", ""), "--name is given without a value"),
        (("mint", "ASSET", "--share-ratio", "4294967296"), "not in the range"),
        (("account", "transfer", "me", "1", "--memo", "x" * 3000), "out of bounds: memo"),
        (("init", "--no-passphrase", "--passphrase-file", "x"), "contradict each other"),
    ],
)
def test_usage(lived: Lived, words: tuple[str, ...], said: str) -> None:
    done = idao(lived, *(lived.asset if w == "ASSET" else w for w in words))
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr, done.stderr


def test_a_quorum_that_is_not_here(lived: Lived) -> None:
    assert idao(lived, "--quorum", "nope", "status").returncode == 4


def test_a_place_that_cannot_be_written(lived: Lived) -> None:
    for words in (("proof", lived.asset, "-o", "/proc/nowhere/p"), ("doctor", "--bundle", "/proc/nowhere/b")):
        done = idao(lived, *words)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr


def test_a_damaged_charter_stops_and_refuses_nobody(lived: Lived) -> None:
    """A vote that meets it is not to blame: nothing is ordered, and the audit names the record."""
    path = next((lived.path / "ledgers").glob("*.db"))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("update charter set rules = x'ff'").rowcount
    height = lived.dao().store.height
    done = idao(lived, "propose", "more", "--set", "vote.period=1d", "--json")
    assert done.returncode == 6 and json.loads(done.stderr)["error"]["code"] == "damaged"
    assert lived.dao().store.height == height
    assert "charter" in idao(lived, "audit").stdout


def test_the_bundle_for_helpers_holds_no_secret(tmp_path: Path) -> None:
    """Each secret of the home, in each spelling somebody would search for."""
    home, words, given = tmp_path / "home", tmp_path / "words", tmp_path / "passphrase"
    given.write_text("correct horse battery staple\n")
    environment = {**os.environ, "IDAO_PASSPHRASE_FILE": str(given)}
    lived = Lived(home, tmp_path, "", "")
    for command in (["init", "--name", "ana"], ["key", "phrase", "--out", str(words)]):
        assert idao(lived, *command, env=environment).returncode == 0
    assert idao(lived, "doctor", "--bundle", str(tmp_path / "b"), "--json", env=environment).returncode == 0
    shown = (tmp_path / "b").read_text()
    opened = Home.open(home)
    kek = seal.open_lock((home / "keys/lock").read_bytes(), "correct horse battery staple")
    secrets = [kek, *(opened.read_key(name, kek) for name in ("identity", "next", "validator", "data"))]
    texts = [word for word in words.read_text().split() if len(word) > 4]
    texts += ["correct horse", str(home), "ana"]
    for secret in secrets:
        texts += [
            secret.hex(),
            base64.b64encode(secret).decode()[:40],
            base64.b32encode(secret).decode()[:40],
        ]
    # Words of the phrase are English, and one may stand there by chance, as "clock" does: two of them do not.
    found = [t for t in texts if re.search(rf"(?<![a-z]){re.escape(t)}(?![a-z])", shown)]
    assert len(found) < 3 and all(t in words.read_text().split() for t in found), found


def test_events_since_a_height(fresh: Callable[[], Dao]) -> None:
    """Beyond the newest block nothing has happened yet."""
    dao = fresh()
    for _ in range(3):
        dao.tokens.issue(1)
    counts = [len(list(dao.ledgers.events(first=first))) for first in (1, 2, 3, 4, 10**23)]
    assert counts == [3, 2, 1, 0, 0]
