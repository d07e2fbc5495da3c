"""Values that arguments must refuse or read rightly, and what each kind of argument makes of them.

A kind is a function from a value to an outcome: what the library makes of the value, or the error
that it raises. The outcomes are written anew here, not taken from the library's own kinds.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

LARGEST = sys.float_info.max


class Text(str):
    pass


class Number(enum.IntEnum):
    TWO = 2


class Unprintable:
    def __repr__(self):
        raise ZeroDivisionError("this repr raises")


class NoArray:
    __class__ = np.ndarray  # what isinstance looks at, and C does not


class Lying(list):
    def __len__(self):
        return 2


def numbers() -> list[Any]:
    return [
        *(-1, -0.5, -0.0, 0, 5e-324, 0.5, Fraction(1, 2), 0.999, 1, 1.0, 7.5, 2**62, 2**70, 1e308),
        *(np.float16(0.5), np.float32(0.25), np.longdouble(0.5), np.int64(2), np.uint8(7)),
        *(Number.TWO, math.nan, math.inf, -math.inf, np.float32(math.nan), np.longdouble("1e400")),
        *(10**400, -(10**400), 10**5000, Fraction(10**400)),
    ]


def others() -> list[Any]:
    holds_itself: list[Any] = []
    holds_itself.append(holds_itself)
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    return [
        *(None, True, False, np.True_, 1j, complex(math.inf), Decimal("0.5"), Decimal("Infinity")),
        *(
            "",
            "0.5",
            "nan",
            Text("0.5"),
            np.str_("0.5"),
            b"12",
            bytearray(b"12"),
            memoryview(b"12"),
        ),
        *([], [0.5], [0.25, 0.5, 0.75], (), Lying([0.5]), {0.25, 0.5}, frozenset(), {0.25: 1}, {}),
        *(iter([0.25, 0.5]), (x for x in [0.25, 0.5]), {0.25: 1, 0.5: 2}.values(), range(0)),
        *(np.array(0.5), np.array([0.5]), np.ones((2, 2)), np.array(None), np.array(["a", "b"])),
        *(
            np.datetime64("2026-11-23"),
            np.timedelta64(1, "s"),
            np.zeros(2, "f8,f8"),
            np.void(b"ab"),
        ),
        *(holds_itself, deep, object(), Unprintable(), NoArray(), slice(1), ..., NotImplemented),
    ]


class Kind:
    """What becomes of the values above, and of further ones that this kind is about."""

    def __init__(self, outcome: Callable[[Any], Any], more: Callable[[], list[Any]] = list) -> None:
        self.outcome, self.more = outcome, more

    def cases(self) -> Iterator[tuple[Any, Any]]:
        for value in (*numbers(), *others(), *self.more()):
            yield value, self.outcome(value)


def is_a(value: Any, *types: type) -> bool:
    return issubclass(type(value), types) and not issubclass(type(value), (bool, np.timedelta64))


def real(fits: Callable[[Any], bool] = lambda x: True) -> Kind:
    def outcome(value):
        if not is_a(value, int, float, Fraction, np.integer, np.floating):
            return TypeError
        x = value.item() if isinstance(value, np.generic) else value  # NumPy would round a limit
        return float(x) if -LARGEST <= x <= LARGEST and fits(x) else ValueError

    return Kind(outcome)


def count(low: int, bits: int | None = None) -> Kind:
    def outcome(value):
        if not is_a(value, int, np.integer):
            return TypeError
        return int(value) if low <= value and (bits is None or value < 2**bits) else ValueError

    return Kind(outcome)


def maybe(kind: Kind) -> Kind:
    return Kind(lambda value: None if value is None else kind.outcome(value), kind.more)


def word(*words: str) -> Kind:
    def outcome(value):
        if not isinstance(value, str):
            return TypeError
        return str(value) if value in words else ValueError

    def more():
        return [
            *(change(word) for word in words for change in (str, Text, np.str_, str.upper)),
            *(words[0] + " ", words[0].encode(), [words[0]], np.array(words[0])),
        ]

    return Kind(outcome, more)


def several(
    of: Callable[[Any], Any],
    one: float,
    fits: Callable[..., bool] = lambda *_: True,
    size: int = 2,
) -> Kind:
    """Return the kind of two values, or more, of which `one` is right in the first and the last."""

    def outcome(value):
        if not issubclass(type(value), (list, tuple, range, np.ndarray)):
            return TypeError
        if isinstance(value, np.ndarray) and value.ndim == 0:
            return TypeError
        items = list(value)
        if len(items) != size:
            return ValueError
        found = [of(item) for item in items]
        wrong = [x for x in found if x in (TypeError, ValueError)]
        return wrong[0] if wrong else tuple(found) if fits(*found) else ValueError

    def more():
        return [
            *((*[one] * (size - 1), value) for value in (*numbers(), *others())),
            *([value, *[one] * (size - 1)] for value in (*numbers(), *others())),
            *(np.array([one] * size), np.array([1] * size), [one] * (size + 1), "ab", {one: one}),
        ]

    return Kind(outcome, more)


def extended(value: Any) -> Any:
    """Return the outcome for a number or an infinity."""
    if is_a(value, float, np.floating) and np.isinf(value):
        return float(value)
    return FINITE.outcome(value)


FINITE = real()
NONNEGATIVE = real(lambda x: x >= 0)
POSITIVE = real(lambda x: x > 0)
SHARE = real(lambda x: 0 <= x < 1)
CLOSED = real(lambda x: 0 <= x <= 1)
FLAG = Kind(lambda value: bool(value) if type(value) in (bool, np.bool_) else TypeError)


def whole_numbers(value: Any) -> Any:
    """Return the outcome for the shape of an array that has fans."""
    if not issubclass(type(value), (list, tuple, range, np.ndarray)):
        return TypeError
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return TypeError
    items = [count(1).outcome(item) for item in value]
    wrong = [x for x in items if x in (TypeError, ValueError)]
    if wrong:
        return wrong[0]
    return tuple(items) if 2 <= len(items) <= 64 and math.prod(items) < 2**60 else ValueError


def one_of(*right: Any) -> Kind:
    """Return the kind of what is one of a few objects."""
    return Kind(lambda value: value if any(value is r for r in right) else TypeError)


# Odd arrays, made of an array of float64, and what becomes of them: as a parameter, as its
# gradient, as state of the functional rules, as state to be loaded, as a gradient to be clipped, as
# one to be measured, as weights to be pruned, as a mask. "=" is: as a plain copy; T is TypeError, V
# is ValueError.
def misaligned(a):
    buffer = np.zeros(a.nbytes + 8, np.uint8)
    view = buffer[(-buffer.ctypes.data) % 8 + 1 :][: a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    return np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape)


def with_one(a, x):
    a = a.copy()
    a.flat[1] = x
    return a


class Subclass(np.ndarray):
    def view(self, *_):
        raise ZeroDivisionError("this view raises")

    def __mul__(self, other):
        raise ZeroDivisionError("this product raises")

    __add__ = __sub__ = __abs__ = __rmul__ = __mul__


strided = np.lib.stride_tricks.as_strided
ROLES = ("param", "grad", "state", "saved", "clip", "measure", "prune", "mask")
ARRAYS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "as it is": (lambda a: a.copy(), "=======T"),
    "bool": (lambda a: a > 1, "TTTTTTT="),
    "None": (lambda a: None, "T.TT..T."),
    "list": (lambda a: a.tolist(), "T=TTT=TT"),
    "text": (lambda a: "weights", "TTTTTTTT"),
    "number": (lambda a: 1.0, "TVTTT=TT"),
    "whole number": (lambda a: 1, "TVTTT.TT"),
    "int beyond floats": (lambda a: [[10**400] * 3] * 2, "TTTTTTTT"),
    "list of arrays": (lambda a: list(a), ".T......"),
    "scalar": (lambda a: np.float64(1.0), "TVTTT=TT"),
    "class that says it is an array": (lambda a: NoArray(), "TTTTTTTT"),
    "memory": (lambda a: memoryview(a), "T=TTT=TT"),
    "int64": (lambda a: a.astype(np.int64), "TTTTTTTT"),
    "uint8": (lambda a: a.astype(np.uint8), "TTTTTTTT"),
    "float16": (lambda a: a.astype(np.float16), "TTTTTT=T"),
    "longdouble": (lambda a: a.astype(np.longdouble), "TTTTTT=T"),
    "complex": (lambda a: a.astype(complex), "TTTTTTTT"),
    "objects": (lambda a: a.astype(object), "TTTTTTTT"),
    "strings": (lambda a: a.astype(str), "TTTTTTTT"),
    "dates": (lambda a: a.astype("M8[s]"), "TTTTTTTT"),
    "structured": (lambda a: a.view([("x", "f8")]), "TTTTTTTT"),
    "byte-swapped": (lambda a: a.astype(">f8"), "TTTTTT=T"),
    "masked": (lambda a: np.ma.masked_array(a, a > 1), "TTTTTTTT"),
    "masked scalar": (lambda a: np.ma.masked, "TTTTTTTT"),
    "matrix": (lambda a: a.view(np.matrix), "=======T"),
    "subclass": (lambda a: a.copy().view(Subclass), "=======T"),
    "float32": (lambda a: a.astype(np.float32), "==TT===T"),
    "longer": (lambda a: np.ones((2, 4)), "=VVV===T"),
    "would broadcast": (lambda a: np.ones((1, 3)), "=VVV===T"),
    "more axes": (lambda a: a[np.newaxis], "==VV===T"),
    "64 axes": (lambda a: a.reshape(2, 3, *[1] * 62), "==VV===T"),
    "no axes": (lambda a: np.array(1.0), "=VVV===T"),
    "no elements": (lambda a: np.ones((2, 0)), "=VVV===T"),
    "transposed": (lambda a: a.T, "=VVV===T"),
    "Fortran order": (lambda a: np.asfortranarray(a), "==V====T"),
    "read-only": (read_only, "V=V=V==T"),
    "every second": (lambda a: np.repeat(a, 2, axis=1)[:, ::2], "V=V====T"),
    "backwards": (lambda a: a[::-1, ::-1].copy()[::-1, ::-1], "V=V====T"),
    "misaligned": (misaligned, "V=V====T"),
    "broadcast": (lambda a: np.broadcast_to(a[0], (2, 3)), "V=V=V==T"),
    "strides of zero": (lambda a: strided(a[0].copy(), (2, 3), (0, 8)), "V=V=V==T"),
    "sliding window": (lambda a: strided(a.ravel(), (2, 3), (8, 8)), "V=V=V==T"),
    "NaN": (lambda a: with_one(a, math.nan), "======VT"),
    "infinity": (lambda a: with_one(a, -math.inf), "=======T"),
    "subnormal": (lambda a: with_one(a, 5e-324), "=======T"),
}
