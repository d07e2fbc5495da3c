"""Mirrors: what takes steps on arrays that another library owns.

The other library has the truth about parameters, state, step counts, hyperparameters and settings,
and may change it between two steps. A mirror is made from that truth, is told what has changed, and
says what its steps have done. It works on the arrays where they are, and allocates only state that
was missing.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.lib.array_utils import byte_bounds

from ._containers import Array
from ._engine.arrays import check_target
from ._engine.changes import change
from ._groups import is_planned, new_groups
from ._rule import Rule
from ._settings import chosen_backend
from ._stepper import Stepper

if TYPE_CHECKING:
    from ._engine.changes import Change


class Mirror(Stepper):
    """What takes the steps of a rule on arrays that somebody else owns.

    Parameters
    ----------
    rule : Rule
        The rule.
    params : sequence of mappings
        The arrays of each group by their keys, which are unique over all groups.
    hypers : sequence of mappings
        The hyperparameters of each group.
    settings : dict
        The settings, checked. The owner gives another dict where one of them changes.
    state : mapping of mappings
        The state arrays that there are, by keys and names. Those that are missing are made.
    steps : sequence of int
        The steps that each parameter has taken.
    skipped : int, default 0
        The number of skipped steps at the start, counted by earlier mirrors of the same owner.
    numbers : sequence of tuples, optional
        What else the rule keeps of the steps of each parameter. The scalars are made of them as
        they are, in the types that they have.

    Raises
    ------
    TypeError, ValueError
        If an array or a hyperparameter is not what it must be.
    """

    def __init__(
        self,
        rule: Rule,
        params: Sequence[Mapping[Any, Array]],
        hypers: Sequence[Mapping[str, Any]],
        settings: dict[str, Any],
        state: Mapping[Any, Mapping[str, Array]],
        steps: Sequence[int],
        skipped: int = 0,
        numbers: Sequence[tuple[Any, ...]] = (),
    ) -> None:
        self.rule = rule
        backend = chosen_backend()
        if backend == "compiled" and rule.loop is None:
            backend = "reference"
        super().__init__(backend, settings)
        given = [{"params": p, **hyper} for p, hyper in zip(params, hypers, strict=True)]
        groups = tuple(new_groups(given, lambda label, hyper: (rule.name, rule.initial)))
        self._hypers = list(hypers)
        self._lay_out(groups, state, steps, {"_skipped": skipped}, numbers=numbers)

    @property
    def steps(self) -> list[int]:
        """The steps that each parameter has taken."""
        return self._plan.steps

    @property
    def numbers(self) -> list[tuple[Any, ...]]:
        """What else the rule keeps of the steps of each parameter."""
        return self._plan.numbers

    @property
    def unstarted(self) -> list[bool]:
        """Whether the average of each parameter is to start at the next step."""
        return self._plan.unstarted

    @property
    def state(self) -> Mapping[Any, Mapping[str, Array]]:
        """The state arrays of each parameter, as a next step would go on from them."""
        self._settled()
        return self._state

    def counted(self, steps: Sequence[int], numbers: Sequence[tuple[Any, ...]] = ()) -> Change:
        """Return what to change so that each parameter has taken so many steps, of these numbers.

        Without an argument for them, the numbers stay.
        """
        return self._plan, {"steps": steps} | ({"numbers": numbers} if numbers else {})

    def adopt(self, settings: dict[str, Any], hypers: Sequence[Mapping[str, Any]]) -> bool:
        """Take the settings and the hyperparameters of each group that the next step is to have.

        Tell whether the state is still what they call for. Where it is not, the owner makes another
        mirror.
        """
        if settings is not self._settings:
            change([self._adopting(settings)])
        if hypers != self._hypers:
            groups = [
                group.setting(_changed(hyper, before, self.rule.defaults))
                for group, hyper, before in zip(self._groups, hypers, self._hypers, strict=True)
            ]
            own: Change = self, {"_hypers": list(hypers)}
            change([*groups, own])
        return is_planned(self._groups)

    def refuse_while_averages_show(self, what: str) -> None:
        """Raise if parameters and averages have changed places."""
        self._refuse_while_averages_show(what)


def _changed(
    hyper: Mapping[str, Any], before: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the hyperparameters that are others than before; one that is gone has its default."""
    gone = {name: defaults[name] for name in before.keys() - hyper.keys()}
    return gone | {
        name: value
        for name, value in hyper.items()
        if name not in before or type(value) is not type(before[name]) or value != before[name]
    }


class Places:
    """Where the arrays that one mirror is to step lie in memory; no two of them overlap.

    Their owner adds them a few at a time. Only the new ones are checked then: to check all of them
    each time would take the square of their number.
    """

    def __init__(self) -> None:
        self._taken: list[tuple[int, int, str]] = []  # low <= address < high, sorted, none shared

    def add(self, arrays: Mapping[str, Array]) -> None:
        """Note arrays by their names, or raise if one cannot be stepped; then none is noted."""
        taken = self._taken.copy()
        for name, array in arrays.items():
            check_target(name, array)
            other = _found_in(taken, array)
            if other is not None:
                raise ValueError(
                    f"{name}: expected parameters with memory of their own, found memory shared "
                    f"with {other}"
                )
            if array.size:
                insort(taken, (*byte_bounds(array), name))
        self._taken = taken

    def meet(self, arrays: Mapping[str, Array]) -> bool:
        """Tell whether one of some arrays lies in memory that is taken."""
        return any(_found_in(self._taken, array) is not None for array in arrays.values())


def _found_in(taken: Sequence[tuple[int, int, str]], array: Array) -> str | None:
    """Return the name of what an array has memory in common with, if there is such a thing."""
    if array.size:
        low, high = byte_bounds(array)
        at = bisect(taken, (low,))  # those from `at` on begin at or after low
        for other_low, other_high, name in taken[max(at - 1, 0) : at + 1]:
            if other_low < high and low < other_high:
                return name
    return None
