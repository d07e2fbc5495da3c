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
NUMBERS = {float, int}  # of Python; bool is no number here
ALLOWED = "a gradient may be an array, a number of Python, or lists of numbers"


def unfit(value: Any) -> str:
    """Return what a message says of a value that is no array, and of what to pass instead."""
    said = _found(value)
    library = type(value).__module__.partition(".")[0]
    if library in INTEGRATIONS:
        return f"{said}; fastoptim.integrations.{library} has optimizers for {library}"
    for name in ("data", "value"):
        with suppress(Exception):  # it may be code of the user
            if _is_whole(value, getattr(value, name)):
                return f"{said}, which holds one: pass its .{name}"
    return said


def untargeted(value: Any) -> str:
    """Return what a message says of a parameter that is no array."""
    said = unfit(value)
    if said != _found(value):
        return said
    is_data = isinstance(value, (float, int, list, tuple)) or _is_exported(value)
    made = "write p = np.array(p, float), which is updated in place"
    return f"{said}: {made if is_data else 'put arrays in its place, or leave it out'}"


def is_alone(value: Any) -> bool:
    """Tell whether a value is one gradient as `as_ndarray` takes it, if it is no container."""
    return isinstance(value, (float, int)) or hasattr(value, "__dlpack__") or _is_exported(value)


def unwritten(value: Any) -> str:
    """Return what a message says of a gradient that is to be changed where it is, and is no array.

    Arrays of other libraries are none, either: whether NumPy sees their memory or a copy of it,
    nothing tells.
    """
    if isinstance(value, (float, int)) or _is_exported(value):
        how = "np.array(g)"
    elif hasattr(value, "__dlpack__"):
        how = "np.from_dlpack(g).copy()"
    else:
        said = unfit(value)
        return f"{said}; nothing else is changed where it is" if said == _found(value) else said
    return f"{_found(value)}: write g = {how}, and step by that g"


def instead(dtype: np.dtype[Any], real: np.dtype[Any], name: str = "g") -> str:
    """Return what a message says to write for a gradient of a dtype that is not taken."""
    if dtype.kind == "c":
        return f": write {name}.real.astype(np.{real})"
    if dtype.kind == "O" or np.can_cast(dtype, real, "same_kind"):
        return f": write {name}.astype(np.{real})"
    return f"; {ALLOWED}"


def _found(value: Any) -> str:
    return f"expected a NumPy array, found {type(value).__name__}"


def _no_gradient(value: Any) -> str:
    """Return what a message says of a value that is no gradient, and of what may be one."""
    said = unfit(value)
    return f"{said}; {ALLOWED}" if said == _found(value) else said


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
    is_number = type(value) is int or isinstance(value, float)
    if isinstance(value, (list, tuple)) or (is_number and not isinstance(value, np.generic)):
        return _of_numbers(value, real)
    try:
        found = _exported(value)
    except Exception as error:
        raise TypeError(f"{unfit(value)} ({error})") from error
    if found is None:
        raise TypeError(_no_gradient(value))
    return found


def _of_numbers(value: Any, real: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an array of a number, or of lists of numbers."""
    try:
        kinds = {type(number) for number in _leaves(value)}
        wrong = [kind for kind in kinds if not (kind in NUMBERS or issubclass(kind, np.floating))]
        if wrong:
            raise TypeError(_no_list(value, wrong[0], real))
        if not kinds <= NUMBERS:
            return np.asarray(value)
        with np.errstate(all="ignore"):
            return np.asarray(value, np.float64).astype(real)
    except OverflowError as error:
        raise TypeError(
            "expected numbers within the range of float, found an int beyond it: write math.inf, "
            "or scale the gradient"
        ) from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise TypeError(f"{unfit(value)} that makes none ({error}); {ALLOWED}") from error


def _no_list(value: Any, kind: type, real: np.dtype[Any]) -> str:
    """Return what a message says of lists of anything but Python's numbers."""
    said = f"{_found(value)} of {kind.__name__}"
    if issubclass(kind, (np.ndarray, np.integer, np.bool_, bool)):
        return f"{said}: write np.asarray(g, np.{real})"
    return f"{said}; {ALLOWED}"


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
    if _is_exported(value):
        return np.asarray(value)
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else None


def _is_exported(value: Any) -> bool:
    return any(hasattr(value, name) for name in EXPORTS) or _is_buffer(value)


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except (TypeError, ValueError):
        return False
    return True
