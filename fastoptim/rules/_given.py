"""Loops that were compiled elsewhere: addresses from all that has one, for the engine.

The signature is that of ``fastoptim.h``. Only of a capsule can be told that it has the right one,
by its name.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._kinds import shown

VERSION = 1  # of the signature, as FASTOPTIM_RULE_VERSION of fastoptim.h
REALS = ("float32", "float64")
CAPSULES = {real: f"fastoptim.rule.v{VERSION}.{real}" for real in REALS}
EXPECTED = (
    "an address, a capsule, a cfunc of numba's, or a pointer to a function of cffi's or ctypes'"
)

_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def get_include() -> str:
    """Return the folder of ``fastoptim.h``, for compilers of loops of one's own.

    Examples
    --------
    >>> import os
    >>> import fastoptim as fo
    >>> os.listdir(fo.get_include())
    ['fastoptim.h']
    """
    return str(Path(__file__).parents[1] / "include")


class GivenLoop:
    """Loops of one rule that were compiled elsewhere, the same at each level.

    Parameters
    ----------
    name : str
        The name of the rule.
    loops : mapping
        By ``"float32"`` and ``"float64"``: `EXPECTED`. They are kept alive.

    Raises
    ------
    TypeError, ValueError
        If one is missing, or is none of these.
    """

    def __init__(self, name: str, loops: Any) -> None:
        self.name = name
        if not isinstance(loops, Mapping):
            raise TypeError(f"loops: expected a mapping, or None, found {shown(loops)}")
        if set(loops) != set(REALS):
            found = ", ".join(map(shown, loops)) or "nothing"
            raise ValueError(f"loops: expected the keys 'float32' and 'float64', found {found}")
        self._owners = dict(loops)
        self._addresses = {real: address_of(real, loops[real]) for real in REALS}

    def address(self, level: str, real: str) -> int:
        """Return the address of the loop for a type, named as NumPy names it."""
        return self._addresses[real]


def address_of(real: str, loop: Any) -> int:
    """Return the address of what has one."""
    label = f"loops[{real!r}]"
    found = _address(label, real, loop)
    if found is None:
        raise TypeError(f"{label}: expected {EXPECTED}, found {shown(loop)}")
    if not 0 < found <= sys.maxsize * 2 + 1:
        raise ValueError(f"{label}: expected the address of a function, found {found}")
    return found


def _address(label: str, real: str, loop: Any) -> int | None:
    kind = type(loop)
    if kind is int:
        return int(loop)
    if kind.__name__ == "PyCapsule":
        return _address_in_capsule(label, real, loop)
    if isinstance(loop, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        return ctypes.cast(loop, ctypes.c_void_p).value or 0
    if kind.__module__ == "_cffi_backend" and kind.__name__ == "_CDataBase":
        import _cffi_backend

        ffi = _cffi_backend.FFI()
        is_pointer = ffi.typeof(loop).kind in ("function", "pointer")
        return int(ffi.cast("uintptr_t", loop)) if is_pointer else None
    address = getattr(loop, "address", None)  # of a cfunc of numba's
    return address if type(address) is int else None


def _address_in_capsule(label: str, real: str, capsule: Any) -> int:
    found = _get_name(capsule)
    expected = CAPSULES[real]
    if found != expected.encode():
        name = "one without a name" if found is None else repr(found.decode(errors="replace"))
        raise ValueError(f"{label}: expected a capsule named {expected!r}, found {name}")
    return int(_get_pointer(capsule, expected.encode()))
