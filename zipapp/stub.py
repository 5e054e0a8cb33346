"""Makes idao importable from the one file: `first.py` starts it, `zipapp/build` fills in BAKED.

Native modules cannot be loaded from a zip. The first run unpacks the payload for this Python into a
private folder, named by the payload's hash; later runs only look whether the folder is whole.
It must also parse under old Pythons, to tell them in one line that they are too old: no f-strings here.
"""

import os
import sys

BAKED = {}
"""version, payload (hash), needs (for people); tags: cache folder name -> entries of this file that every
command needs; later: the same for packages that few commands need, whose names are in `names`."""
UNPACKED_TIME = 315619200
"""Every unpacked file gets this time (1980-01-02): a file that was written to later shows it."""
MARK = "whole"
"""Written last into a cache folder: a line `size path` for each file, then `end`."""
KEPT = {"lib": "lib.zip", "code": "code"}
"""Entries of the payload that stay one file, by the word before their `-` or `.`."""


class Stop(Exception):
    """A refusal: (exit code, message, hint)."""


def tag():
    """Which native modules this Python can load: `cpython-311-x86_64-linux-gnu`, or its like."""
    from importlib.machinery import EXTENSION_SUFFIXES

    name = EXTENSION_SUFFIXES[0].split(".")[1]
    return name if sys.platform != "darwin" else name + "-" + os.uname()[4]


def check_private(folder):
    """Whoever can write here can run code as this user."""
    s = os.lstat(folder)
    if s.st_uid != os.geteuid() or s.st_mode & 0o170022 != 0o040000:
        raise Stop(
            1,
            "others can write to the cache folder '" + folder + "', or it is not yours",
            "chmod 700 '" + folder + "', or name another place in XDG_CACHE_HOME",
        )


def cache():
    """The private cache folder of this user, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    try:
        folder = os.path.join(base, "idao")
        if not os.path.isdir(folder):
            os.makedirs(base, mode=0o700, exist_ok=True)
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError
    except OSError:  # no home, or one that cannot be written to
        import tempfile

        folder = os.path.join(tempfile.gettempdir(), "idao-cache-" + str(os.geteuid()))
        try:
            os.mkdir(folder, 0o700)
        except OSError:
            pass  # there already; `check_private` judges whose it is
    check_private(folder)
    return folder


def is_whole(folder):
    """Is every unpacked file there, of its size, and never written to since?"""
    try:
        with open(os.path.join(folder, MARK)) as f:
            lines = f.read().split("\n")
        for line in lines[:-1]:
            size, name = line.split(" ", 1)
            s = os.stat(os.path.join(folder, name))
            if s.st_size != int(size) or s.st_mtime != UNPACKED_TIME:
                return False
    except (OSError, ValueError):
        return False
    check_private(folder)
    return lines[-1] == "end"


class Code:
    """Finds and loads modules whose bytecode lies in one file: no search through folders, no file for each.

    The file: length of the index (8 bytes), the index, the code objects. Both are `marshal`, which runs
    nothing but must be what we wrote: the folder is ours alone, and `is_whole` has looked at it. What is not
    bytecode, native modules and data, is found on the path as ever.
    """

    def __init__(self, folder):
        import marshal
        from importlib.machinery import ModuleSpec

        self._spec = ModuleSpec
        self._loads, self._folder = marshal.loads, folder
        self._file = os.open(os.path.join(folder, "code"), os.O_RDONLY | os.O_CLOEXEC)
        size = int.from_bytes(os.pread(self._file, 8, 0), "big")
        self._index, self._start = self._loads(os.pread(self._file, size, 8)), 8 + size

    def find_spec(self, name, path=None, target=None):
        at = self._index.get(name)
        if at is None:
            return None
        spec = self._spec(name, self, is_package=at[2])
        if at[2]:
            spec.submodule_search_locations = [os.path.dirname(self._path(name))]
        return spec

    def _path(self, name):
        """Where the module would lie: beside its data and native modules."""
        _, _, is_package, place = self._index[name]
        tail = "/__init__.pyc" if is_package else ".pyc"
        return os.path.join(self._folder, place, name.replace(".", "/") + tail)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__file__ = self._path(module.__name__)
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name):
        offset, size = self._index[name][:2]
        return self._loads(os.pread(self._file, size, self._start + offset))

    def is_package(self, name):
        return self._index[name][2]

    def _zip(self, name):
        """The zip of data and of idao's sources, from the folder above a module."""
        import zipimport

        above = name.rpartition(".")[0].replace(".", "/")
        return zipimport.zipimporter(os.path.join(self._folder, "lib.zip", above))

    def get_source(self, name):
        try:
            return self._zip(name).get_source(name)
        except ImportError:  # of idao's own modules alone the sources are kept
            return None

    def get_data(self, path):
        if path.startswith(os.path.join(self._folder, "lib.zip")):
            return self._zip("").get_data(path)
        with open(path, "rb") as f:
            return f.read()

    def get_resource_reader(self, name):
        return self._zip(name).get_resource_reader(name)


class Later:
    """Unpacks what few commands need, into a folder of its own, when the first such package is asked for."""

    def __init__(self, archive, name, entries):
        self._needed, self._code = (os.path.abspath(archive), name, entries), None
        self._names = frozenset(BAKED["names"])

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self._names:
            return None
        if self._code is None:
            try:
                folder = unpacked(*self._needed)
            except Stop as e:
                raise OSError(e.args[1] + "; " + e.args[2])
            sys.path.insert(1, os.path.join(folder, "modules"))
            self._code = Code(folder)
        return self._code.find_spec(name)  # or it is native, and found on the path


def unpack(archive, entries, folder):
    """Write the payload's entries into a new folder: those of `KEPT` as they are, others taken apart."""
    import io
    import zipfile

    with zipfile.ZipFile(archive) as outer:
        if BAKED["payload"] not in outer.namelist():
            raise Stop(
                1, "another version took the place of '" + archive + "' while it ran", "start it again"
            )
        for name in entries:
            data = outer.read(name)
            kept = KEPT.get(name.replace("-", ".").split(".")[0])
            if kept:
                with open(os.path.join(folder, kept), "wb") as f:
                    f.write(data)
            else:
                with zipfile.ZipFile(io.BytesIO(data)) as inner:
                    inner.extractall(os.path.join(folder, "modules"))
    lines = []
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            os.utime(path, (UNPACKED_TIME, UNPACKED_TIME))
            lines.append("%d %s\n" % (os.path.getsize(path), os.path.relpath(path, folder)))
    with open(os.path.join(folder, MARK), "w") as f:
        f.write("".join(sorted(lines)) + "end")


def unpacked(archive, name, entries):
    """The folder with this payload's modules, unpacked by us or by an earlier run."""
    root = cache()
    folder = os.path.join(root, BAKED["payload"] + "-" + name)
    if is_whole(folder):
        return folder
    import fcntl
    import shutil
    import tempfile
    import zipfile
    import zlib

    with open(os.path.join(root, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: the rename below is still all or nothing
        if is_whole(folder):
            return folder
        for left in os.listdir(root):
            if left.startswith("new-"):  # of a run that was killed
                shutil.rmtree(os.path.join(root, left), ignore_errors=True)
        new = tempfile.mkdtemp(prefix="new-", dir=root)
        try:
            try:
                unpack(archive, entries, new)
            except (zipfile.BadZipFile, zlib.error, KeyError, EOFError):
                raise Stop(1, "this file is damaged: '" + archive + "'", "get it again")
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def ready(archive):
    """Makes idao and all that it needs importable, in place of `sys.path[0]`."""
    name = tag()
    folder = unpacked(archive, name, BAKED["tags"][name])
    sys.path[0:1] = [os.path.join(folder, "modules")]
    if "lib.zip" in BAKED["tags"][name]:
        sys.meta_path.insert(0, Code(folder))
    if name in BAKED["later"]:
        sys.meta_path.insert(1, Later(archive, name + "-later", BAKED["later"][name]))


def keep_standard_numbers():
    """Where the caller closed standard input (`<&-`) or output: no file of ours is taken for it."""
    for number in 0, 1, 2:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def start():
    keep_standard_numbers()
    if sys.argv[1:] in (["--version"], ["-V"]):
        sys.stdout.write("idao " + BAKED["version"] + "\n")
        return 0
    if sys.version_info < (3, 11) or tag() not in BAKED["tags"]:
        import platform

        # 7: something is missing on this machine
        raise Stop(
            7,
            "this file runs on %s; this is %s %s on %s %s"
            % (
                BAKED["needs"],
                platform.python_implementation(),
                platform.python_version(),
                platform.machine(),
                platform.system(),
            ),
            "run it with such a Python, or build it on this machine: python3 zipapp/build",
        )
    try:
        ready(sys.path[0])
    except OSError as e:
        raise Stop(1, "cannot unpack: " + str(e), "name a folder with room in XDG_CACHE_HOME")
    from idao.__main__ import leave, main

    leave(main())


def run():
    try:
        return start()
    except Stop as e:
        code, message, hint = e.args
        if "--json" in sys.argv:
            import json

            error = {"code": "missing" if code == 7 else "failed", "message": message, "hint": hint}
            sys.stderr.write(json.dumps({"error": error}) + "\n")
        else:
            sys.stderr.write("idao: error: " + message + "\nidao: hint: " + hint + "\n")
        return code
