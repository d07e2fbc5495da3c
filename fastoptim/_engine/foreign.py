"""Foreign: what comes in the place of a NumPy array, and the ndarray that is made of it.

A gradient may be a number, a list of numbers, or an array of another library, whose memory is then
read where it is. All else must be a NumPy array, and a message says what somebody has in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

EXPORTS = "__array__", "__array_interface__", "__array_struct__"  # of an array, to NumPy
INTEGRATIONS = {"torch", "autograd"}  # modules of fastoptim.integrations
NUMBERS = {float, int}  # of Python; a list of the latter alone is one of integers


def unfit(value: Any) -> str:
    """Return what a message says of a value that is no array, and of what to pass instead."""
    said = f"expected a NumPy array, found {type(value).__name__}"
    library = type(value).__module__.partition(".")[0]
    if library in INTEGRATIONS:
        return f"{said}; fastoptim.integrations.{library} has optimizers for {library}"
    for name in ("data", "value"):
        with suppress(Exception):  # it may be code of the user
            if _is_whole(value, getattr(value, name)):
                return f"{said}, which holds one: pass its .{name}"
    return said


def _is_whole(value: Any, inner: Any) -> bool:
    """Tell whether an attribute is an array that is all of an object; a sparse one has more."""
    return isinstance(inner, np.ndarray) and getattr(value, "shape", inner.shape) == inner.shape


def as_ndarray(value: Any, real: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an ndarray of what is none, over the same memory where there is any.

    Python's numbers have no precision of their own, and take on that of `real`, as NumPy has it.

    Raises
    ------
    TypeError
        If it is nothing of that kind. The message begins with what was expected.
    """
    if isinstance(value, (float, list, tuple)) and not isinstance(value, np.generic):
        return _of_numbers(value, real)
    try:
        found = _exported(value)
    except Exception as error:
        raise TypeError(f"{unfit(value)} ({error})") from error
    if found is None:
        raise TypeError(unfit(value))
    return found


def _of_numbers(value: Any, real: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an array of a number, or of lists of numbers."""
    try:
        kinds = {type(number) for number in _leaves(value)}
        wrong = [kind for kind in kinds if not (kind in NUMBERS or issubclass(kind, np.floating))]
        if wrong:
            raise TypeError(f"{unfit(value)} of {wrong[0].__name__}")
        found = np.asarray(value)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise TypeError(f"{unfit(value)} that makes none ({error})") from error
    if kinds <= NUMBERS and found.dtype == np.float64:
        with np.errstate(all="ignore"):
            return found.astype(real)
    return found


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in lists and tuples within each other."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _exported(value: Any) -> np.ndarray[Any, Any] | None:
    """Return an array over the memory of an object that lets NumPy have it, or a copy of it.

    What is made for NumPy comes first. By DLPack, torch also gives the memory of a tensor that is
    its own negative, without a word of that.
    """
    if any(hasattr(value, name) for name in EXPORTS) or _is_buffer(value):
        return np.asarray(value)
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else None


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except (TypeError, ValueError):
        return False
    return True
