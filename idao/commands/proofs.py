"""`idao proof` and `idao verify`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

from idao import home as homes
from idao import ui
from idao.commands import open_dao
from idao.errors import IdaoError, NotFound, UsageError, VerificationFailed
from idao.grammar import App, Argument, Exit, Option
from idao.store import givenfile, wholefile

COPY_BYTES = 1024 * 1024
MEMORY_BYTES = 16 * 1024 * 1024
"""A proof of some hundred thousand files; a larger one takes a temporary file where one is needed."""
Put = Callable[[bytes], object]
Write = Callable[[Put], None]

proof = App()
verify = App()


@proof.command()
def _proof(
    subject: Annotated[str, Argument(metavar="ASSET|DAT|TX", help="What to prove.")],
    file: Annotated[list[str] | None, Option(help="Disclose only this file; may repeat.")] = None,
    no_files: Annotated[bool, Option("--no-files", help="Disclose no file.")] = False,
    out: Annotated[str, Option("-o", "--out", help="File to write; - is stdout.")] = "",
) -> None:
    """Make a portable proof: one file that anyone can check offline.

    It shows names and sizes of the disclosed files, and lets its holder confirm a guess at their contents.

    Example: idao proof clinic -o clinic.idao-proof
    """
    if out == "-" and ui.options.json:
        raise UsageError("-o - puts the proof itself where --json answers", hint="give -o FILE, or no --json")
    made = open_dao().proofs.prepare(subject)
    write = partial(made.write, files=file or (), no_files=no_files)
    if out == "-" and not ui.options.dry_run:
        _to_stdout(write)
        return
    path = Path(out or f"{made.subject.replace(':', '-')[:20]}.idao-proof")
    body = {"path": str(path), "subject": made.subject, "tree_size": made.tree_size}
    if ui.options.dry_run:
        size = _written(write, lambda _: None)
        ui.result({**body, "bytes": size, "dry_run": True}, [f"would write {size} bytes to {path}"])
        return
    try:
        with wholefile.writing(path, 0o644) as f:
            size = _written(write, f.write)
    except OSError as e:
        from idao.store.opening import no_room

        refused = IdaoError(f"cannot write '{path}': {e.strerror}", code="not-writable")
        raise no_room(e, path) or refused from e
    ui.say(f"proof of {made.subject} in a log of {made.tree_size} leaves, {ui.size(size)}")
    ui.result({**body, "bytes": size}, ids=str(path))


def _written(write: Write, put: Put) -> int:
    """Bytes that went to `put`."""
    size = 0

    def counted(data: bytes) -> None:
        nonlocal size
        size += len(data)
        put(data)

    write(counted)
    return size


def _to_stdout(write: Write) -> None:
    if sys.stdout.isatty():
        raise UsageError("a proof is binary and would garble the terminal", hint="give -o FILE")
    with _aside() as whole:
        with _disk():
            write(whole.write)  # one that is refused half way leaves nothing on stdout
        whole.seek(0)
        shutil.copyfileobj(whole, sys.stdout.buffer, COPY_BYTES)


def _aside() -> AbstractContextManager[BinaryIO]:
    """For a proof that cannot be read or written where it is: memory, for a large one a temporary file."""
    import tempfile

    return cast("AbstractContextManager[BinaryIO]", tempfile.SpooledTemporaryFile(MEMORY_BYTES))


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise IdaoError(f"a proof of this size needs a temporary file: {e.strerror}", code="disk") from e


@verify.command()
def _verify(
    proof: Annotated[Path, Argument(metavar="PROOF", help="The proof file; - is stdin.")],
    files: Annotated[list[str] | None, Argument(metavar="[FILE…]", help="Files or folders of it.")] = None,
    trust: Annotated[
        list[str] | None, Option(help="Quorum id, iDAO id, or checkpoint file you trust; may repeat.")
    ] = None,
    require: Annotated[
        list[str] | None,
        Option(help="trusted, independent:N, reviews:N, tee:N, tee-measured:N, tee-intel:N, …; may repeat."),
    ] = None,
    tee_policy: Annotated[
        str,
        Option(metavar="strict|FILE", help="Which evidence of trusted hardware counts."),
    ] = "strict",
    newer: Annotated[
        list[Path] | None,
        Option(
            "--with",
            metavar="FILE",
            help="Newer collateral, file or folder: shows what became known of the evidence later.",
        ),
    ] = None,
) -> None:
    """Check a proof offline, without home, key or network. Exit code 6 if any check fails.

    Example: idao verify clinic.idao-proof clinic/visits.csv --trust idao:…
    """
    from idao.hall.proofs import Demands, verify

    demands = Demands(trust or (), require or (), tee_policy, _newer(newer), homes.locate(ui.options.home))
    with _opened(proof) as source:
        data = verify(source, files or (), demands, homes.now_ms())
    time_ms = data.pop("time_ms")
    data["time"] = homes.show_time(time_ms) if time_ms else None
    ui.result(data, _lines(data), quiet=[data["subject"]] if data["ok"] else [])
    if not data["ok"]:
        raise Exit(VerificationFailed.exit_code)


def _newer(paths: list[Path] | None) -> list[bytes]:
    if not paths:
        return []
    from idao.hall.evidence import read_newer

    return read_newer(paths)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The proof, seekable: what comes through a pipe is kept aside."""
    if str(path) == "-":
        with _seekable(sys.stdin.buffer) as file:
            yield file
        return
    with _named(path) as file, _seekable(file) as found:
        yield found


@contextmanager
def _named(path: Path) -> Iterator[BinaryIO]:
    with ExitStack() as held:
        try:
            file = held.enter_context(givenfile.opened(path))
        except FileNotFoundError:
            raise NotFound(f"no such file: '{path}'") from None
        except OSError as e:
            raise UsageError(f"cannot read '{path}': {os.strerror(e.errno or 0)}") from e
        yield file


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    from idao.proof import PROOF_BYTES_MAX

    if file.seekable() and file.tell() == 0:
        yield file
        return
    with _aside() as whole:
        left = PROOF_BYTES_MAX + 1
        while left and (block := file.read(min(COPY_BYTES, left))):
            with _disk():
                left -= whole.write(block)
        whole.seek(0)
        yield whole


def _lines(data: dict[str, Any]) -> list[str]:
    if not data["ok"]:
        first = "does not hold"
    elif data["trusted"]:
        first = "holds, and one you named vouches for it"
    else:
        first = "consistent, but nobody you named vouches for it"
    lines = [first]
    lines += [f"{'ok  ' if c['ok'] else 'FAIL'}  {c['name']:<12} {c['detail']}" for c in data["checks"]]
    if data["anchor"]:
        lines.append(f"subject {data['subject']} as of height {data['anchor']['height']}, {data['time']}")
    lines += [f"note: {w}" for w in data["warnings"]]
    return lines
