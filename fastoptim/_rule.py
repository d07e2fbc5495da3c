"""What a rule is made of, and the kinds of its hyperparameters."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import numpy as np

from ._engine import Plan


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
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise TypeError
        number = float(value)
        if not (math.isfinite(number) and self.low <= number < self.high):
            raise ValueError
        return number


@dataclass(frozen=True)
class Count:
    """A whole number >= low."""

    low: int = 0

    def __str__(self) -> str:
        return f"a whole number >= {self.low}"

    def __call__(self, value: Any) -> int:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
            raise TypeError
        if value < self.low:
            raise ValueError
        return int(value)


@dataclass(frozen=True)
class Pair:
    """Two values of one kind."""

    kind: Real

    def __str__(self) -> str:
        return f"two values, each {self.kind}"

    def __call__(self, value: Any) -> tuple[float, float]:
        first, second = value
        return self.kind(first), self.kind(second)


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
        if value not in self.words:
            raise ValueError
        return value


Kind = Real | Count | Pair | Flag | Choice

Number = Annotated[float, Real()]
NonNegative = Annotated[float, Real(0)]
Fraction = Annotated[float, Real(0, 1)]
Betas = Annotated[tuple[float, float], Pair(Real(0, 1))]
Switch = Annotated[bool, Flag()]

Scalars = tuple[float, ...]

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
KEYWORD = inspect.Parameter.KEYWORD_ONLY
REQUIRED = inspect.Parameter.empty


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
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: expected {kind}, found {value!r}") from None


class Rule:
    """An update rule: the scalars of a step, the update in NumPy, the name of the compiled loop.

    Parameters
    ----------
    update : function
        ``update(p, g, *state, *scalars)`` changes p and the state arrays in place. Its
        positional-only parameters are the arrays, the others the scalars.
    scalars : function
        ``scalars(step, **hyperparameters)``: the scalars of one step, in Python floats. Its
        signature gives the hyperparameters, their kinds and their defaults; it raises ValueError
        where two of them do not go together.
    needs : mapping, optional
        Name of a state array to the name of the hyperparameter without which it does not exist.
    starts : mapping, optional
        Name of a state array to the name of the hyperparameter that it is filled with at the
        start. Others start as zeros.
    name : str, optional
        If it is not the update's name, which is also the compiled loop's.
    """

    def __init__(
        self,
        update: Callable[..., None],
        scalars: Callable[..., Scalars],
        *,
        needs: Mapping[str, str] | None = None,
        starts: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        _, *hyper = inspect.signature(scalars).parameters.values()
        _, _, *rest = inspect.signature(update).parameters.values()
        hints = get_type_hints(scalars, include_extras=True)
        self.update = update
        self.scalars = scalars
        self.needs = dict(needs or {})
        self.starts = dict(starts or {})
        self.name = name or update.__name__
        self.kernel = update.__name__
        self.kinds: dict[str, Kind] = {h.name: hints[h.name].__metadata__[0] for h in hyper}
        self.defaults: dict[str, Any] = {h.name: h.default for h in hyper}
        self.state = tuple(a.name for a in rest if a.kind is a.POSITIONAL_ONLY)

        self.__name__ = self.name
        self.__doc__ = update.__doc__
        self.__signature__ = self._signature()

    def _signature(self) -> inspect.Signature:
        """Return the signature of a call: the arrays, then the keywords."""
        arrays = [inspect.Parameter(a, POSITIONAL) for a in ("p", "g")]
        arrays += [
            inspect.Parameter(a, POSITIONAL, default=None if a in self.needs else REQUIRED)
            for a in self.state
        ]
        keywords = [inspect.Parameter("step", KEYWORD)]
        keywords += [
            inspect.Parameter(name, KEYWORD, default=default)
            for name, default in self.defaults.items()
            if name not in self.starts.values()  # the caller fills the state
        ]
        return inspect.Signature([*arrays, *keywords])

    def __repr__(self) -> str:
        return f"<rule {self.name}{self.__signature__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Update p and the state arrays in place, with NumPy."""
        self.apply(None, *args, **kwargs)

    def apply(self, kernels: Any, *args: Any, **kwargs: Any) -> None:
        """Update p and the state arrays in place, with kernels or (None) with NumPy."""
        call = self.__signature__.bind(*args, **kwargs).arguments
        p, g, step = call.pop("p"), call.pop("g"), checked("step", Count(1), call.pop("step"))
        state = {name: call.pop(name, None) for name in self.state}
        hyper = self.check(call)
        exists = self.state_for(hyper)
        for name, array in state.items():
            if (array is not None) != (name in exists):
                need = self.needs.get(name)
                given = f" with {need}={hyper[need]}" if need else ""
                expected, found = ("an array", "None") if array is None else ("None", "an array")
                raise TypeError(f"{name}: expected {expected}{given}, found {found}")
        update = self.update if kernels is None else None
        labels = ("p", "g", *self.state)
        plan = Plan([(labels, 0, step - 1, p, tuple(state.values()), kernels, update)])
        plan.step((g,), lambda _, t: self.scalars(t, **hyper))

    def check(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Return all hyperparameters, checked one by one and together."""
        for name in hyper:
            if name not in self.kinds:
                known = ", ".join(self.kinds)
                raise TypeError(f"{name}: {self.name} has no such argument; it has {known}")
        values = {
            name: checked(name, kind, hyper.get(name, self.defaults[name]))
            for name, kind in self.kinds.items()
        }
        self.scalars(1, **values)
        return values

    def state_for(self, hyper: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the state arrays that exist with these hyperparameters."""
        return tuple(s for s in self.state if s not in self.needs or hyper[self.needs[s]])

    def start_of(self, state: str, hyper: Mapping[str, Any]) -> float:
        """Return the value that a state array is filled with at the start."""
        return float(hyper[self.starts[state]]) if state in self.starts else 0.0


def rule(scalars: Callable[..., Scalars], **options: Any) -> Callable[[Callable[..., None]], Rule]:
    """Make a rule of the decorated update and its scalars."""
    return lambda update: Rule(update, scalars, **options)
