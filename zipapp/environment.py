"""The environment of a clone: `.venv` with what a lock file names, and `idao` in it from the sources here."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent
VENV = CLONE / ".venv"
PYTHON = VENV / "bin" / "python"
USE = CLONE / "zipapp" / "requirements.lock"
TEST = CLONE / "tests" / "requirements.lock"
OLDEST = (3, 11)
CHECK = "import sys, pip; assert sys.version_info >= (3, 11)"
NAMES = ("python3.14", "python3.13", "python3.12", "python3.11")


def need_python():
    """Starts the calling script again under a Python that idao runs on, if this one is too old."""
    if sys.version_info >= OLDEST:
        return
    for name in NAMES:
        found = shutil.which(name)
        if found and subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execv(found, [found, *sys.argv])
    sys.exit("idao needs Python 3.11 or later; this is {}.{}".format(*sys.version_info))


def say(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def mark(lock):
    """The file that says that `.venv` holds all of this lock file."""
    return VENV / ("has-" + hashlib.sha256(lock.read_bytes()).hexdigest()[:32])


def ready(lock):
    """Makes `.venv` hold what `lock` names, unless it does; returns its Python."""
    held = mark(lock).exists() or mark(TEST).exists()  # the tests need all that users get, and more
    if held and subprocess.call([str(PYTHON), "-c", "import idao"], stderr=subprocess.DEVNULL) == 0:
        return PYTHON
    say("preparing .venv from " + str(lock.relative_to(CLONE)))
    if not PYTHON.exists() or subprocess.call([str(PYTHON), "-c", CHECK], stderr=subprocess.DEVNULL):
        base = getattr(sys, "_base_executable", sys.executable)  # not one that is about to be cleared
        if subprocess.call([base, "-m", "venv", "--clear", str(VENV)]):
            sys.exit("cannot make .venv; on Debian and Ubuntu: apt install python3-venv")
    pip = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--use-pep517",
    ]
    if subprocess.call([*pip, "--require-hashes", "-r", str(lock)], cwd=str(CLONE)):
        sys.exit("cannot install what " + str(lock.relative_to(CLONE)) + " names; see above")
    link()
    mark(lock).touch()
    return PYTHON


def link():
    """Puts the sources of this clone on the path of `.venv`, and `idao` among its commands."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([str(PYTHON), "-c", code]).decode().strip()
    Path(site, "idao.pth").write_text(str(CLONE) + "\n")
    script = VENV / "bin" / "idao"
    script.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -m idao "$@"\n')
    script.chmod(0o755)
