"""Functions of the C library that Python has no call for.

By way of cffi, which libsodium is called by anyway: `ctypes` alone takes a fiftieth of a mint to load.
"""

from __future__ import annotations

from typing import Any

from _cffi_backend import load_library
from nacl._sodium import ffi as ffi


def function(name: str, form: str) -> Any:
    """The function of that name, to be called as the C type `form` says; None where the library has none."""
    try:
        return load_library(None, 0).load_function(ffi.typeof(form), name)
    except AttributeError:
        return None
