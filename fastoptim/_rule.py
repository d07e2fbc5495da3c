"""What a rule is: scalars, an update in NumPy and a compiled loop, between two common stages."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple, TypeAlias, TypeVar

from . import _levels, _stages
from ._engine.compiled import RuleLoops
from ._engine.entry import Entry, Twin
from ._engine.plan import Plan, most_state
from ._engine.scalars import most_scalars
from ._hyper import EMA, Hyper, StepScalars, is_schedule, value_at
from ._kinds import Count, Flag, Kind, Real, checked, kind_of, unknown
from ._stages import After, Before, Scalars

# What a hyperparameter may be: a value, or a schedule of it; of several, each item may be either.
# A schedule is a `fastoptim.schedules.Schedule`, or any function of the number of steps taken.
Value = TypeVar("Value")
Scheduled: TypeAlias = Value | Callable[[int], Value]
ScheduledPair: TypeAlias = (
    tuple[Scheduled[float], Scheduled[float]] | Callable[[int], tuple[float, float]]
)
ScheduledTriple: TypeAlias = (
    tuple[Scheduled[float], Scheduled[float], Scheduled[float]]
    | Callable[[int], tuple[float, float, float]]
)

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
KEYWORD = inspect.Parameter.KEYWORD_ONLY
REQUIRED = inspect.Parameter.empty
REFERENCE = "fastoptim.reference"  # the module of the updates that have compiled loops
STEP = Count(1, bits=62)


def hyperparameters(
    scalars: Callable[..., Any], numbers: Container[str] = ()
) -> tuple[list[inspect.Parameter], dict[str, Kind], dict[str, Any]]:
    """Return what a signature says: the step and numbers of steps; other kinds; and defaults."""
    hints = inspect.get_annotations(scalars, eval_str=True)
    found = list(inspect.signature(scalars).parameters.values())
    guessed = {a.name: kind_of(hints.get(a.name), a.default) for a in found}
    leading = [*takewhile(lambda a: a.name in numbers or guessed[a.name] is None, found)]
    others = found[len(leading) :]
    kinds = {a.name: kind for a in others if (kind := guessed[a.name]) is not None}
    for other in others:
        if other.name not in kinds:
            raise TypeError(
                f"{other.name}: expected an annotation such as NonNegative, or a number, a pair of "
                f"numbers or a flag as the default, found {other}"
            )
    return leading, kinds, {h.name: h.default for h in others}


_, BEFORE, BEFORE_DEFAULTS = hyperparameters(_stages.before_scalars)
_, AFTER, AFTER_DEFAULTS = hyperparameters(_stages.after_scalars)
# How gradients that have but some rows are taken, which no scalars are made of.
ROWS: dict[str, Kind] = {"lazy": Flag()}
ROWS_DEFAULTS = {"lazy": False}
WEIGHT_DECAY = [*BEFORE].index("weight_decay")


class Fixed(NamedTuple):
    """A group as a plan sees it, with the same scalars in each step."""

    step_scalars: StepScalars

    def scalars(self, t: int) -> StepScalars:
        """Return the scalars of the t-th step."""
        return self.step_scalars

    def takes_rows(self, masked: bool) -> bool | None:
        """Return None: only an optimizer takes gradients that have but some rows."""
        return None

    def refuse_rows(self, label: str) -> None:
        """Raise, as a gradient has but some rows."""
        raise TypeError(
            f"{label}: expected a NumPy array, found Rows, which only an optimizer takes"
        )


class Rule:
    """An update rule: the scalars of a step, the update in NumPy, the name of the compiled loop.

    Updates of `fastoptim.reference` have compiled loops; all others run on NumPy.

    Parameters
    ----------
    update : function
        ``update(p, g, *state, *scalars)`` changes p and the state arrays in place. Its
        positional-only parameters are the arrays, the others the scalars.
    scalars : function
        ``scalars(step, **hyperparameters)``: the scalars of one step, in Python floats. Its
        signature gives the hyperparameters, their kinds and their defaults; it raises ValueError
        where two of them do not go together. Without an argument for the step, all steps have the
        same scalars. With ``step=None`` it says what they are where nobody counts steps, or raises
        TypeError.
    needs : mapping, optional
        Name of a state array to the name of the hyperparameter without which it does not exist.
    starts : mapping, optional
        Name of a state array, or of one of the `numbers`, to the name of the hyperparameter that
        it is filled with at the start. Other arrays start as zeros.
    name : str, optional
        The name of the rule, if it is not that of the update.
    defaults : mapping, optional
        Defaults that are not those of the scalars' signature.
    decoupled : bool or str, default False
        Whether the scalars take ``weight_decay``, and the update decays p by it: always (True), or
        where a flag among the hyperparameters, named here, is True. The gradient then has no L2
        penalty from the stage before the rule.
    rescale : function, optional
        ``rescale(own, p_squares, u_squares, size)``: the scalars of a step for an array of so many
        elements, as a rule has them that depends on the whole of it. The last array of the update
        is then ``u``; given u, it changes nothing, and writes there what is to be measured. `own`
        has the scalars by name, and the next two arguments are the sums of the squares of p and u.
    measures : str, optional
        The name of the flag without which nothing is measured, and ``rescale`` not called.
    numbers : mapping, optional
        What else than their number is to be known of the steps that a parameter has taken: names,
        and the values before the first. The scalars' function takes them behind the step, in this
        order, and returns two tuples: the scalars, and the numbers after that step. What it says of
        their kinds, as in ``total: NonNegative``, holds for those that are loaded.
    rests : function, optional
        ``rests(hyper)``: whether a step with these hyperparameters leaves p and the state of an
        element as they are where the gradient is zero, so that rows without a gradient need not be
        looked at. Without the function no step does.
    settles : bool, default False
        Whether elements rest only where p is what the rule makes of their state, as it is after a
        step. A plan looks at all of them before the first step that leaves rows out.
    lazy : bool, default False
        Whether ``lazy=True`` may leave out rows without a gradient, though a step would move them.
    average : function, optional
        ``average(hyper, p, *state)``: what is to be evaluated in the place of a parameter that has
        taken steps, by the hyperparameters of the last of them.

    Raises
    ------
    TypeError, ValueError
        If the update has more than 4 arrays beside p and g (u is one), or more than 16 scalars; if
        ``decoupled``, ``measures`` or ``numbers`` and the scalars' signature contradict each other;
        if a number has the name of what else is kept of a parameter; if a default is not of its
        kind.
    """

    is_own = False  # whether it was written by a user, whose scalars may be of any type
    without_loop = "has no compiled loop"  # as messages say where there is none

    def __init__(
        self,
        update: Callable[..., None],
        scalars: Callable[..., Any],
        *,
        needs: Mapping[str, str] | None = None,
        starts: Mapping[str, str] | None = None,
        name: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        decoupled: bool | str = False,
        rescale: Callable[[Any, float, float, int], Scalars] | None = None,
        measures: str | None = None,
        numbers: Mapping[str, float] | None = None,
        average: Callable[..., Any] | None = None,
        rests: Callable[[Mapping[str, Any]], bool] | None = None,
        settles: bool = False,
        lazy: bool = False,
    ) -> None:
        leading, kinds, own_defaults = hyperparameters(scalars, numbers or ())
        step = next(iter(leading), None)
        _, _, *rest = inspect.signature(update).parameters.values()
        self.update = update
        self.scalars: Callable[..., Scalars] = scalars
        self.counting = scalars if step is not None else None  # what depends on the step's number
        self.needs_step = step is not None and step.default is REQUIRED
        self.needs = dict(needs or {})
        self.starts = dict(starts or {})
        self.name = name or update.__name__
        self.own = tuple(kinds)
        # The rule's own come first, and one that has a name of a stage's, weight_decay, is its own.
        self.kinds = kinds | BEFORE | AFTER | ROWS | kinds
        self.defaults = own_defaults | BEFORE_DEFAULTS | AFTER_DEFAULTS | ROWS_DEFAULTS
        self.defaults |= own_defaults
        self.defaults |= defaults or {}
        arrays = [a.name for a in rest if a.kind is a.POSITIONAL_ONLY]
        self.state = tuple(arrays[:-1] if rescale else arrays)
        self.numbers = {name: float(number) for name, number in (numbers or {}).items()}
        self.initial_numbers = tuple(self.numbers.values())
        hints = inspect.get_annotations(scalars, eval_str=True)
        self.number_kinds = {name: kind_of(hints.get(name), 0.0) or Real() for name in self.numbers}
        self.decoupled = decoupled
        self.measures = measures
        self.average = average
        self.rests = rests
        self.settles = settles
        self.lazy = lazy or rests is not None
        self.rescaling = rescale
        self.twin = Twin(update, self._rescaled if rescale else None)
        self._scalar_names = [a.name for a in rest if a.kind is not a.POSITIONAL_ONLY]
        self.scalar_count = len(self._scalar_names)
        for label, found, most in (
            ("arrays beside p and g", len(arrays), most_state),
            ("scalars", self.scalar_count, most_scalars),
        ):
            if found > most:
                raise ValueError(f"{self.name}: expected at most {most} {label}, found {found}")
        taken, expected = [a.name for a in leading[1:]], [*self.numbers]
        if taken != expected:
            raise ValueError(
                f"{self.name}: expected scalars that take {', '.join(expected) or 'no numbers'} "
                f"behind the step, found {', '.join(taken) or 'none'}"
            )
        for number in self.numbers:
            if number in ("step", EMA, *self.state):
                raise ValueError(
                    f"{self.name}: expected names of numbers other than step, {EMA} and those of "
                    f"state arrays, found {number}"
                )
        self._check_decoupled()
        if measures is not None:
            self._check_flag("measures to be", measures)
        # The hyperparameters that the stages around the rule are made of, and those that decide
        # which state exists.
        self.makes_before = {*BEFORE, decoupled} if isinstance(decoupled, str) else {*BEFORE}
        self.makes_after = {*AFTER}
        self.makes_state = {*self.needs.values(), "ema_decay"} | ({measures} if measures else set())
        self.makes = self.makes_before | self.makes_after | self.makes_state
        self.initial = Hyper(
            self,
            {
                name: default if is_schedule(default) else checked(name, self.kinds[name], default)
                for name, default in self.defaults.items()
            },
        )

        self.__name__ = self.name
        self.__module__ = scalars.__module__
        self.__doc__ = update.__doc__
        self.__signature__ = self._signature()
        self._labels = ("p", "g", *self.state)
        keywords = [p for p in self.__signature__.parameters.values() if p.kind is KEYWORD]
        self._keywords = {p.name for p in keywords}
        self._required = {p.name for p in keywords if p.default is REQUIRED}

    def _signature(self) -> inspect.Signature:
        """Return the signature of a call: the arrays, then the keywords."""
        arrays = [inspect.Parameter(a, POSITIONAL) for a in ("p", "g")]
        arrays += [
            inspect.Parameter(a, POSITIONAL, default=None if a in self.needs else REQUIRED)
            for a in self.state
        ]
        keywords = [
            inspect.Parameter("step", KEYWORD, default=REQUIRED if self.needs_step else None)
        ]
        keywords += [
            inspect.Parameter(name, KEYWORD, default=default)
            for name, default in self.defaults.items()
            # state comes from the caller, filled; and a call runs no stage after the rule
            if name not in self.starts.values() and name not in AFTER | ROWS
        ]
        return inspect.Signature([*arrays, *keywords])

    def _check_decoupled(self) -> None:
        """Refuse a weight decay taken twice or never, and a `decoupled` that names no flag."""
        if "weight_decay" in self.own and not self.decoupled:
            raise ValueError(
                f"{self.name}: expected decoupled=True, or the name of a flag, with scalars that "
                f"take weight_decay, found decoupled={self.decoupled!r}"
            )
        if self.decoupled and "weight_decay" not in self.own:
            raise ValueError(
                f"{self.name}: expected scalars that take weight_decay with "
                f"decoupled={self.decoupled!r}, found {', '.join(self.own)}"
            )
        if isinstance(self.decoupled, str):
            self._check_flag("decoupled to be True, False, or", self.decoupled)

    def _check_flag(self, label: str, name: str) -> None:
        """Refuse the name of a flag that is none."""
        if not (name in self.own and isinstance(self.kinds[name], Flag)):
            raise ValueError(
                f"{self.name}: expected {label} the name of a flag among the hyperparameters "
                f"of its scalars, found {name!r}"
            )

    def adopted(self, own: Any) -> Scalars:
        """Return the scalars of a step, or raise if they are not those that the update takes."""
        if len(own) != self.scalar_count:
            raise ValueError(
                f"{self.name}: expected {self.scalar_count} scalars, as its update takes, "
                f"found {len(own)}"
            )
        return own  # type: ignore[no-any-return]

    def is_measured(self, hyper: Mapping[str, Any]) -> bool:
        """Tell whether a step with these hyperparameters may depend on the whole of an array."""
        if self.twin.rescale is None:
            return False
        return self.measures is None or bool(hyper[self.measures])

    def decouples(self, hyper: Mapping[str, Any]) -> bool:
        """Tell whether weight decay with these hyperparameters is decoupled from the gradient."""
        return bool(hyper[self.decoupled] if isinstance(self.decoupled, str) else self.decoupled)

    @property
    def saved_as(self) -> str:
        """What files call the rule."""
        return self.name

    @cached_property
    def loop(self) -> Any:
        """The name of the compiled loop, or what has its addresses; None if there is none."""
        # The name alone does not tell: an update of somebody else's may have it, too.
        update = self.update
        return update.__name__ if update.__module__ == REFERENCE else None

    def __repr__(self) -> str:
        return f"<rule {self.name}{self.__signature__}>"

    def __reduce__(self) -> str:
        return self.name  # pickled and copied as a function is: by its module and name

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Update p and the state arrays in place, with NumPy."""
        self.apply(None, args, kwargs)

    def apply(self, loops: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Update p and the state arrays in place, with compiled loops or (None) with NumPy."""
        (p, g, *state), step, given = self._bound(args, kwargs)
        if self.initial_numbers:
            raise TypeError(
                f"{self.name}: expected a rule without numbers of the steps that were taken "
                f"({', '.join(self.numbers)}), which an optimizer keeps: make one of its class"
            )
        if g is None:  # which a plan would skip
            raise TypeError("g: expected a NumPy array, found NoneType")
        if step is not None or self.needs_step:
            step = checked("step", STEP, step)
        hyper = self.initial.changed(given) if given else self.initial
        self._check_state(state, hyper)
        if step is None and hyper.schedules:
            raise TypeError(
                f"step: expected the number of the step, which {hyper.schedules[0]} is a schedule "
                "of, found None"
            )
        group = Fixed(hyper.checked_scalars(step))
        entry = Entry(p, state, None, None, 0, 0, 0, (), hyper.measured)
        Plan([entry], [self._labels], [self.twin], loops).step((g,), [group])

    def _bound(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], Any, dict[str, Any]]:
        """Return the arrays of a call, the step and the hyperparameters that were given."""
        missing = len(self._labels) - len(args)
        if 0 <= missing <= len(self.needs) and self._required <= kwargs.keys() <= self._keywords:
            return args + (None,) * missing, kwargs.pop("step", None), kwargs
        # Arrays are given by name, or something is wrong. To look closer takes longer.
        known = self.__signature__.parameters
        for name in kwargs:
            if name not in known:
                raise TypeError(unknown(name, self.name, known))
        call = self.__signature__.bind(*args, **kwargs).arguments
        arrays = tuple(call.pop(name, None) for name in self._labels)
        return arrays, call.pop("step", None), call

    def _check_state(self, state: Sequence[Any], hyper: Hyper) -> None:
        """Raise unless a call has just the state arrays that its hyperparameters ask for."""
        exists = hyper.state_names
        for name, array in zip(self.state, state, strict=True):
            if (array is None) is (name in exists):
                need = self.needs.get(name)
                given = f" with {need}={hyper[need]}" if need else ""
                expected, found = ("an array", "None") if array is None else ("None", "an array")
                raise TypeError(f"{name}: expected {expected}{given}, found {found}")

    @cached_property
    def named(self) -> Callable[[Scalars], Any]:
        """A function that makes a NamedTuple of the scalars, named as the update's arguments."""
        kind: Any = namedtuple("OwnScalars", self._scalar_names, rename=True)  # type: ignore[misc]
        make: Callable[[Scalars], Any] = kind._make
        return make

    def _rescaled(self, own: Scalars, p_squares: float, u_squares: float, size: int) -> Scalars:
        """Return the scalars of a step for an array that has been measured."""
        assert self.rescaling is not None
        return self.rescaling(self.named(own), p_squares, u_squares, size)

    def check(self, hyper: Mapping[str, Any]) -> Hyper:
        """Return all hyperparameters, checked one by one and together."""
        found = self.initial.changed(hyper)
        found.checked_scalars(1)
        return found

    def before_of(self, hyper: Mapping[str, Any]) -> Before:
        """Return the scalars of the stage before the rule."""
        first = [hyper[name] for name in BEFORE]
        if self.decouples(hyper):
            first[WEIGHT_DECAY] = 0.0
        return _stages.before_scalars(1.0, *first)

    def after_of(self, hyper: Mapping[str, Any]) -> After:
        """Return the scalars of the stage after the rule."""
        return _stages.after_scalars(*[hyper[name] for name in AFTER])

    def state_for(self, hyper: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the state arrays that exist with these hyperparameters."""
        return tuple(s for s in self.state if s not in self.needs or hyper[self.needs[s]])

    def start_of(self, name: str, hyper: Mapping[str, Any]) -> float:
        """Return what a number is at the start, or a state array is filled with."""
        if name in self.starts:
            return float(value_at(hyper[self.starts[name]], 0))
        return self.numbers.get(name, 0.0)

    def numbers_of(self, hyper: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the numbers before the first step."""
        return tuple([self.start_of(name, hyper) for name in self.numbers])


def loops_of(rules: Sequence[Rule]) -> RuleLoops:
    """Return the compiled loops of rules that have them, in this order."""
    return _levels.loops_of([rule.loop for rule in rules])


def rule(scalars: Callable[..., Any], **options: Any) -> Callable[[Callable[..., None]], Rule]:
    """Make a rule of the decorated update and its scalars."""
    return lambda update: Rule(update, scalars, **options)
