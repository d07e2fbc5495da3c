"""The kinds of arguments: what each expects, and errors that say what was expected and found."""

from __future__ import annotations

import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any

import numpy as np

NO_SEQUENCES = str, bytes, bytearray, memoryview  # Python's sequences that are none of numbers
SHOWN = reprlib.Repr()
SHOWN.maxstring = SHOWN.maxlong = SHOWN.maxother = 200


def shown(value: Any) -> str:
    """Return how messages show a value: never too long, whatever it is."""
    try:
        return SHOWN.repr(value)
    except Exception:  # of a number of over 4,300 digits there is no repr
        return f"<{type(value).__name__}>"


def unknown(name: Any, owner: str, known: Iterable[str], what: str = "argument") -> str:
    """Return the message for a name that does not exist, with those that do."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{name}: {owner} has no such {what}{hint}; it has {', '.join(known)}"


def environment(name: str) -> str | None:
    """Return an environment variable, None if it is unset; an empty one is as good as unset."""
    return os.environ.get(name, "").strip() or None


def items_of(value: Any) -> list[Any]:
    """Return the items of a sequence; not of a set, which has no order, nor of an iterator."""
    if type(value) is tuple:
        return list(value)
    if isinstance(value, NO_SEQUENCES) or not isinstance(value, (Sequence, np.ndarray)):
        raise TypeError
    return list(value)


def number(value: Any) -> float:
    """Return a real number as a float; neither a bool nor an array is one."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError
    if isinstance(value, np.longdouble) and np.isfinite(value):
        numerator, denominator = value.as_integer_ratio()
        return numerator / denominator  # raises OverflowError, where float() only warns
    return float(value)


def _whole(value: Any) -> int:
    """Return a whole number as an int; a bool is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError
    return int(value)


@dataclass(frozen=True)
class Real:
    """A finite number with low <= x < high."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        if self.high == math.inf:
            return f"a finite number >= {self.low:g}"
        return f"a number in [{self.low:g}, {self.high:g})"

    def __call__(self, value: Any) -> float:
        x = value if type(value) is float else number(value)  # to call it takes as long as the rest
        if not (self.low <= x < self.high and math.isfinite(x)):
            raise ValueError
        return x


@dataclass(frozen=True)
class Above(Real):
    """A finite number > low."""

    def __str__(self) -> str:
        return f"a finite number > {self.low:g}"

    def __call__(self, value: Any) -> float:
        x = super().__call__(value)
        if x == self.low:
            raise ValueError
        return x


@dataclass(frozen=True)
class Divisor(Above):
    """A finite number > low that 1 can be divided by."""

    def __str__(self) -> str:
        return f"{super().__str__()} with a finite reciprocal"

    def __call__(self, value: Any) -> float:
        x = super().__call__(value)
        if math.isinf(1 / x):
            raise ValueError
        return x


@dataclass(frozen=True)
class Closed(Real):
    """A number with low <= x <= high."""

    def __str__(self) -> str:
        return f"a number in [{self.low:g}, {self.high:g}]"

    def __call__(self, value: Any) -> float:
        x = Real()(value)
        if not self.low <= x <= self.high:
            raise ValueError
        return x


@dataclass(frozen=True)
class Extended(Real):
    """A number, or an infinity."""

    def __str__(self) -> str:
        return "a number or an infinity"

    def __call__(self, value: Any) -> float:
        x = number(value)
        if math.isnan(x):
            raise ValueError
        return x


@dataclass(frozen=True)
class Count:
    """A whole number >= low, of so many bits."""

    low: int = 0
    bits: int | None = None

    def __str__(self) -> str:
        below = f" and < 2**{self.bits}" if self.bits else ""
        return f"a whole number >= {self.low}{below}"

    def __call__(self, value: Any) -> int:
        number = value if type(value) is int else _whole(value)
        if number < self.low or (self.bits and number.bit_length() > self.bits):
            raise ValueError
        return number


@dataclass(frozen=True)
class Several:
    """Two or three values of one kind."""

    kind: Real
    count: int = 2

    def __str__(self) -> str:
        return f"{'three' if self.count == 3 else 'two'} values, each {self.kind}"

    def __call__(self, value: Any) -> tuple[float, ...]:
        values = items_of(value)
        if len(values) != self.count:
            raise ValueError
        return tuple([self.kind(x) for x in values])


@dataclass(frozen=True)
class Limits:
    """Two numbers low <= high, either of which may be infinite."""

    def __str__(self) -> str:
        return "two numbers, low <= high"

    def __call__(self, value: Any) -> tuple[float, float]:
        first, second = items_of(value)
        low, high = Extended()(first), Extended()(second)
        if not low <= high:
            raise ValueError
        return low, high


@dataclass(frozen=True)
class Shape:
    """The shape of an array with two axes or more, whose bytes NumPy can count."""

    def __str__(self) -> str:
        return "2 to 64 whole numbers >= 1 with a product < 2**60"

    def __call__(self, value: Any) -> tuple[int, ...]:
        shape = tuple(map(Count(1), items_of(value)))
        if not (2 <= len(shape) <= 64 and math.prod(shape) < 2**60):
            raise ValueError
        return shape


@dataclass(frozen=True)
class Maybe:
    """A value of some kind, or None."""

    kind: Real | Count | Limits

    def __str__(self) -> str:
        return f"{self.kind}, or None"

    def __call__(self, value: Any) -> Any:
        return None if value is None else self.kind(value)


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def __str__(self) -> str:
        return "True or False"

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError
        return bool(value)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " or ".join(map(repr, self.words))

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        return self.words[self.words.index(value)]  # the plain word, also for NumPy's


Kind = Real | Count | Several | Limits | Shape | Maybe | Flag | Choice

Number = Annotated[float, Real()]
NonNegative = Annotated[float, Real(0)]
Invertible = Annotated[float, Divisor(0)]
Fraction = Annotated[float, Real(0, 1)]
NonNegativePair = Annotated[tuple[float, float], Several(Real(0))]
Betas = Annotated[tuple[float, float], Several(Real(0, 1))]
ThreeBetas = Annotated[tuple[float, float, float], Several(Real(0, 1), 3)]
Switch = Annotated[bool, Flag()]
MaybeNonNegative = Annotated[float | None, Maybe(Real(0))]
MaybeFraction = Annotated[float | None, Maybe(Real(0, 1))]
MaybeLimits = Annotated[tuple[float, float] | None, Maybe(Limits())]


def checked(name: str, kind: Kind, value: Any) -> Any:
    """Return the value as the kind stores it.

    Raises
    ------
    TypeError, ValueError
        If it is not of that kind; the message names the argument, what was found and what was
        expected.
    """
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        wrong = TypeError if isinstance(error, TypeError) else ValueError
        raise wrong(f"{name}: expected {kind}, found {shown(value)}") from None


def kind_of(annotation: Any, default: Any) -> Kind | None:
    """Return the kind that an argument's annotation says, or else its default; or None."""
    if hasattr(annotation, "__metadata__"):
        kind: Kind = annotation.__metadata__[0]
        return kind
    for plain in (Flag(), Real(), Several(Real())):
        try:
            plain(default)
        except (TypeError, ValueError, OverflowError):
            continue
        return plain
    return None


def entry(label: str, mapping: Any, name: str) -> Any:
    """Return what a mapping has under a name, or raise an error that says which names it has."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{label}: expected a mapping, found {type(mapping).__name__}")
    if name not in mapping:
        first = ", ".join(map(shown, islice(mapping, 20)))
        more = f" and {len(mapping) - 20} others" if len(mapping) > 20 else ""
        raise ValueError(f"{label}: expected the key {name!r}, found {first or 'none'}{more}")
    return mapping[name]


def expect(label: str, expected: Any, found: Any, wrong: type[Exception] = ValueError) -> None:
    """Raise unless what was found is what was expected."""
    try:
        same = bool(found == expected)
    except Exception:  # arrays among what is found have no truth value
        same = False
    if not same:
        raise wrong(f"{label}: expected {expected}, found {shown(found)}")


def with_other_names(names: Iterable[Any], found: Mapping[Any, Any]) -> str:
    """Describe a mapping that has not just these names, by one that it lacks or has too many."""
    known = dict.fromkeys(names)
    for name in known:
        if name not in found:
            return f"a mapping without {shown(name)}"
    extra = next(name for name in found if name not in known)
    return f"a mapping with the unknown name {shown(extra)}"
