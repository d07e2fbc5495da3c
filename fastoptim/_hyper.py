"""Hyperparameters: the values of a group, checked, and the scalars that steps make of them.

The scalars of all steps are made in one place, `Hyper.scalars`. A rule is here what says of which
kinds its hyperparameters are, and what is made of them. Arrays are not known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ._kinds import checked, unknown
from ._stages import After, Before, Scalars

if TYPE_CHECKING:
    from ._rule import Rule

# What a step of a group is made of: the scalars of both stages, and those of the rule between them.
StepScalars: TypeAlias = tuple[Before, After, Scalars]
ScalarsOfStep = Callable[..., tuple[Any, ...]]

LAZY = "lazy"  # the hyperparameter that says what becomes of rows without a gradient
EMA = "ema"  # the name, among the state arrays, of the average of the parameter


# What moves elements without a gradient, whatever the rule is, and what it is if it does not.
MOVING = {"weight_decay": 0.0, "l1": 0.0, "bounds": None, "ema_decay": None}
INSTEAD = "set lazy=True, of the optimizer or of the group, to move the rows alone that have one"
MOVED = f"beside {{}}, which moves also rows without a gradient, found Rows: {INSTEAD}"


class Hyper(Mapping[str, Any]):
    """All hyperparameters of a rule, each of which has been checked alone. They never change.

    Others are made of them, by `changed` where somebody sets a few, and by `at` in each step with
    schedules. Only these few are checked then, and only what depends on them is made anew.

    Parameters
    ----------
    rule : Rule
        The rule.
    values : dict
        The values as the kinds of the rule store them, and in the order of the kinds. Schedules are
        as they were given.

    Attributes
    ----------
    schedules : tuple of str
        The names of the schedules among them.
    state_names : tuple of str
        The names of the state arrays that exist with these hyperparameters.
    measured : bool
        Whether a step may depend on the whole of an array.
    """

    __slots__ = (
        "_after",
        "_before",
        "_counting",
        "_line",
        "_own",
        "_refusal",
        "_values",
        "measured",
        "rule",
        "schedules",
        "state_names",
    )

    def __init__(self, rule: Rule, values: dict[str, Any]) -> None:
        if len(values) < len(rule.kinds):  # as a pickle of an older version has them
            values = {name: values.get(name, default) for name, default in rule.defaults.items()}
        self.rule = rule
        self._counting = rule.counting
        self._hold(values, tuple(name for name in values if is_schedule(values[name])))
        self._make(rule.makes)

    def _hold(self, values: dict[str, Any], schedules: tuple[str, ...]) -> None:
        """Take these values, of which nothing is made yet."""
        self.schedules = schedules
        self._values = values
        self._own = tuple(values.values())[: len(self.rule.own)]
        self._refusal: str | None = None  # why gradients of some rows are refused, once known
        self._line: StepScalars | None = None  # of all steps, if they have the same scalars

    def _make(self, names: Collection[str]) -> None:
        """Make what depends on hyperparameters of these names.

        The scalars of a stage are missing if a schedule is among what they are made of.
        """
        rule, values, schedules = self.rule, self._values, self.schedules
        if not rule.makes_before.isdisjoint(names):
            ready = not schedules or rule.makes_before.isdisjoint(schedules)
            self._before: Any = rule.before_of(values) if ready else None
        if not rule.makes_after.isdisjoint(names):
            ready = not schedules or rule.makes_after.isdisjoint(schedules)
            self._after: Any = rule.after_of(values) if ready else None
        if not rule.makes_state.isdisjoint(names):
            averaged = values["ema_decay"] is not None
            self.state_names = rule.state_for(values) + ((EMA,) if averaged else ())
            self.measured = rule.is_measured(values)

    def _with(
        self, values: dict[str, Any], schedules: tuple[str, ...], names: Collection[str]
    ) -> Hyper:
        """Return hyperparameters with these values, which are others than here in these names."""
        made = Hyper.__new__(Hyper)
        made.rule, made._counting = self.rule, self._counting
        made._before, made._after = self._before, self._after
        made.state_names, made.measured = self.state_names, self.measured
        made._hold(values, schedules)
        if not self.rule.makes.isdisjoint(names):  # as it is not for a learning rate
            made._make(names)
        return made

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"

    def __reduce__(self) -> Any:
        return Hyper, (self.rule, self._values)

    def changed(self, given: Mapping[str, Any]) -> Hyper:
        """Return hyperparameters of which some are others, each of them checked alone."""
        rule, values, schedules = self.rule, self._values.copy(), self.schedules
        scheduled = False  # whether a schedule comes or goes
        for name, value in given.items():
            kind = rule.kinds.get(name)
            if kind is None:
                raise TypeError(unknown(name, rule.name, rule.kinds))
            if is_schedule(value) and name != LAZY:
                values[name], scheduled = value, True
            else:
                values[name] = checked(name, kind, value)
                scheduled = scheduled or name in schedules
        if scheduled:
            schedules = tuple(name for name in values if is_schedule(values[name]))
        if values[LAZY] and not rule.lazy:
            raise ValueError(
                f"lazy: expected False for {rule.name}, whose steps cannot leave out rows, "
                f"found {values[LAZY]!r}"
            )
        return self._with(values, schedules, given)

    def at(self, t: int) -> Hyper:
        """Return the hyperparameters after t steps, in which schedules have become numbers."""
        rule, values = self.rule, self._values.copy()
        for name in self.schedules:
            values[name] = checked(name, rule.kinds[name], value_at(values[name], t))
        return self._with(values, (), self.schedules)

    def takes_rows(self, masked: bool) -> bool | None:
        """Tell whether a gradient may have but some rows, the others being zero.

        The parameter may be `masked`, which moves rows without a gradient, too. None says that it
        may not, and False that it may; True that it may where the others are seen to rest.
        """
        if self._refusal is None:
            self._refusal = self._why_no_rows()
        lazy = self._values[LAZY]
        if self._refusal or (masked and not lazy):
            return None
        return self.rule.settles and not lazy

    def refuse_rows(self, label: str) -> None:
        """Raise, as a gradient of this label may not have but some rows."""
        why = self._refusal or MOVED.format("mask")
        raise TypeError(f"{label}: expected an array {why}")

    def _why_no_rows(self) -> str:
        """Return why a gradient may not have but some rows, empty where it may."""
        rule = self.rule
        if self.measured:
            return f"where a step depends on all elements, as of {rule.name} here, found Rows"
        if self[LAZY]:
            return ""
        if rule.rests is None or not rule.rests(self):
            why = f"for {rule.name}, which moves also rows without a gradient here, found Rows"
            return f"{why}: {INSTEAD}, which is another algorithm" if rule.lazy else why
        moving = [name for name, rest in MOVING.items() if self[name] != rest]
        return MOVED.format(moving[0]) if moving else ""

    def scalars(self, t: int, numbers: Scalars = ()) -> tuple[Any, ...]:
        """Return the scalars of the t-th step, or raise if two hyperparameters do not go together.

        This is where a step calls schedules and the function beside the rule in its module. If the
        rule keeps numbers of the steps that were taken, what they will be comes behind the scalars.
        """
        if self.schedules:
            return self.at(t - 1).scalars(t, numbers)
        if numbers:
            own, following = self.rule.scalars(t, *numbers, *self._own)
            return self._before, self._after, own, following
        if self._counting is not None:
            return self._before, self._after, self._counting(t, *self._own)
        if self._line is None:
            self._line = self._before, self._after, self.rule.scalars(*self._own)
        return self._line

    def checked_scalars(self, t: int) -> Any:
        """Return the scalars of the t-th step, or raise if they are not those of the update."""
        found = self.scalars(t, self.rule.initial_numbers)
        rule, own = self.rule, found[2]
        if type(own) is tuple and len(own) == rule.scalar_count and not rule.is_own:
            return found
        return *found[:2], rule.adopted(own), *found[3:]


def is_schedule(value: Any) -> bool:
    """Tell whether a hyperparameter is a schedule, or one of several values is."""
    return callable(value) or (isinstance(value, (tuple, list)) and any(map(callable, value)))


def value_at(value: Any, t: int) -> Any:
    """Return a hyperparameter after t steps."""
    if isinstance(value, (tuple, list)):
        return tuple([item(t) if callable(item) else item for item in value])
    return value(t) if callable(value) else value
