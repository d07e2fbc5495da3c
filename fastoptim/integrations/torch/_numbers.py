"""Numbers that a rule keeps of its steps, beside their count, and where torch's state has them.

Those of torch's rules are tensors of one element, as torch has them, in the type of which they are
rounded. Those of other rules are numbers in the state itself: of a tensor, torch would change the
type where it loads one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from fastoptim._kinds import Kind, checked
from fastoptim._rule import Rule

from ._tensors import scalar_dtype

if TYPE_CHECKING:
    from fastoptim._engine.changes import Change


class InTensor(NamedTuple):
    """A number that is an array over the memory of a tensor."""

    array: Any
    label: str  # as messages call it
    kind: Kind

    def value(self) -> Any:
        """Return the number, in the type of the tensor, or raise if it is not of its kind."""
        number = self.array.reshape(-1)[0]
        checked(self.label, self.kind, float(number))  # a plain float is checked the fastest
        return number

    def change(self, number: Any) -> Change:
        """Return what to change so that the state has another number."""
        return self.array, {...: number}


class InState(NamedTuple):
    """A number that the state has under a name, once it has something of its parameter."""

    state: dict[Tensor, dict[str, Any]]
    p: Tensor
    name: str
    start: float
    label: str
    kind: Kind

    def value(self) -> Any:
        """Return the number, or raise if it is not of its kind, or is gone."""
        entries = self.state.get(self.p, {})
        number = entries.get(self.name)
        if number is None:
            refuse_missing(self.label, known_of(entries))
            return self.start
        return checked(self.label, self.kind, number)

    def change(self, number: Any) -> Change:
        """Return what to change so that the state has another number."""
        return self.state[self.p], {self.name: number}


def label_of(key: Any, name: str) -> str:
    """Return what messages call what the state of a parameter has under a name."""
    return f"state[{key!r}][{name!r}]"


def known_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a state has of a parameter; None says that it has nothing by that name."""
    return {name: value for name, value in entries.items() if value is not None}


def refuse_missing(label: str, found: Mapping[str, Any]) -> None:
    """Raise if a state has something of a parameter, but not this."""
    if found:
        raise ValueError(f"{label}: expected it beside {', '.join(found)}, found none")


Numbers: TypeAlias = dict[str, InTensor | InState]  # of a parameter, by their names in fastoptim


def numbers_of(
    rule: Rule,
    names: Mapping[str, str],
    groups: Sequence[Mapping[str, Any]],
    hypers: Sequence[Mapping[str, Any]],
    known: Mapping[Any, Mapping[str, Any]],
    state: dict[Tensor, dict[str, Any]],
) -> list[Numbers]:
    """Return the numbers of each parameter, or nothing if the rule keeps none.

    Those among `names` are in tensors. What is known of a parameter may have theirs already.
    """
    if not rule.numbers:
        return []
    found: list[Numbers] = []
    entries = iter(known.items())
    for group, hyper in zip(groups, hypers, strict=True):
        starts = rule.numbers_of({**rule.defaults, **hyper})
        for p in group["params"]:
            (key, of_one), numbers = next(entries), {}
            for (name, kind), start in zip(rule.number_kinds.items(), starts, strict=True):
                label = label_of(key, names.get(name, name))
                numbers[name] = (
                    InTensor(of_one.get(name, np.array(start, scalar_dtype())), label, kind)
                    if name in names
                    else InState(state, p, name, start, label, kind)
                )
            found.append(numbers)
    return found
