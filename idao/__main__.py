"""The first step of every run: answers `--version` before anything heavy is imported, else opens the door."""

from __future__ import annotations

import os
import sys

from idao import __version__

GARBAGE_AFTER = 100_000
"""Objects between two looks for cycles, of which idao makes next to none. Python's own 700 costs a command a
tenth of its start, and a node, which keeps many records, as much of each block."""


def main() -> int:
    """Runs the command line; returns the exit code (`errors.EXIT_CODES`)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller ('idao status >&-')
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    # A terminal that is not UTF-8 shows the rest as escapes; ids that are no text are read all the same.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        stream.reconfigure(errors=errors)  # type: ignore[union-attr]
    try:
        if sys.argv[1:] in (["--version"], ["-V"]):
            sys.stdout.write(f"idao {__version__}\n")
            code = 0
        else:
            import gc

            gc.set_threshold(GARBAGE_AFTER)
            from idao.cli import main as run

            code = run()
            gc.freeze()  # else Python looks for cycles through every module on its way out
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        sys.stderr.write("idao: error: interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader has what it wanted ('idao events | head'); Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:  # a full disk under stdout: `cli` knows its other refusals
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(f"idao: error: {e.strerror}\n")
        return 1


def leave(code: int) -> None:
    """Ends this process. To take every object apart first, as Python does, costs some milliseconds.

    What asked to be called at the end is called. While other threads run, Python ends in its own way.
    """
    import atexit

    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # what nobody could hear (`ui`) is no failure
        sys.stderr = None
    threads = sys.modules.get("threading")
    if threads and threads.active_count() > 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.exit(code)  # closed, or nobody reads it any more: Python has its own words for that
    os._exit(code)


if __name__ == "__main__":
    leave(main())
