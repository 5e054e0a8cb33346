"""Refusals: each knows its words, its exit code, its machine-readable code and the way out.

The exit codes are the table of `man/idao.1` (`EXIT_CODES` below is its source).
Anything raised that is not an `IdaoError` is a bug and ends with code 70.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "failed",
    2: "usage",
    3: "pending: signed and stored, not final within --wait",
    4: "not found",
    5: "refused: by policy, charter or ledger rule (the reason named)",
    6: "verification failed (each check named)",
    7: "this machine lacks a device or an optional part (named, with the command that installs it)",
    8: "busy: another process holds the lock (--wait waits)",
    9: "key locked or wrong passphrase",
    10: "no iDAO here",
    11: "needs the network or a peer that is not reachable",
    70: "a bug: traceback in a file, its path on stderr",
    130: "interrupted; nothing half done",
}


class IdaoError(Exception):
    """Base of every designed refusal.

    `message` is lower case without a full stop; `hint` is the exact next command or step;
    `code` is the stable word that `--json` shows.
    """

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class Newer(IdaoError):
    """A file of a later format than this idao reads: nothing is wrong with it."""

    code = "newer"

    def __init__(self, what: str, found: int, known: int) -> None:
        text = f"{what} was written by a newer idao (format {found}, this one reads {known})"
        super().__init__(text, hint="update idao")


class UsageError(IdaoError):
    exit_code, code = 2, "usage"


class Pending(IdaoError):
    """Signed and kept, not final yet: an answer, with what is known so far."""

    exit_code, code = 3, "pending"
    txs: Sequence[str] = ()
    """Ids of the transactions that wait."""
    answer: Mapping[str, object] | None = None
    """What the command tells with --json, where it knows more than that."""
    ids: Sequence[str] = ()
    """What plain output ends with: of things that will be."""


class NotFound(IdaoError):
    exit_code, code = 4, "not-found"


class Refused(IdaoError):
    """A rule of the ledger, the charter or a policy said no. Always raised with its `code`."""

    exit_code, code = 5, "refused"


class VerificationFailed(IdaoError):
    exit_code, code = 6, "verification-failed"


class Malformed(VerificationFailed):
    """Bytes that are not a valid value: non-canonical, truncated, out of range, of another kind."""

    code = "malformed"


class Missing(IdaoError):
    """This machine lacks a device or an optional part."""

    exit_code, code = 7, "missing"


class Busy(IdaoError):
    exit_code, code = 8, "busy"


class Locked(IdaoError):
    exit_code, code = 9, "locked"


class NoHome(IdaoError):
    exit_code, code = 10, "no-home"


class Unreachable(IdaoError):
    exit_code, code = 11, "unreachable"
