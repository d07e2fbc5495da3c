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

from fastoptim._rule import Rule

from ._tensors import scalar_dtype

if TYPE_CHECKING:
    from fastoptim._engine.changes import Change


class InTensor(NamedTuple):
    """A number that is an array over the memory of a tensor."""

    array: Any

    def value(self) -> Any:
        """Return the number, in the type of the tensor."""
        return self.array.reshape(-1)[0]

    def change(self, number: Any) -> Change:
        """Return what to change so that the state has another number."""
        return self.array, {...: number}


class InState(NamedTuple):
    """A number that the state has under a name, once it has something of its parameter."""

    state: dict[Tensor, dict[str, Any]]
    p: Tensor
    name: str
    start: float

    def value(self) -> Any:
        """Return the number."""
        return self.state.get(self.p, {}).get(self.name, self.start)

    def change(self, number: Any) -> Change:
        """Return what to change so that the state has another number."""
        return self.state[self.p], {self.name: number}


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
    entries = iter(known.values())
    for group, hyper in zip(groups, hypers, strict=True):
        starts = rule.numbers_of({**rule.defaults, **hyper})
        for p in group["params"]:
            of_one, numbers = next(entries), {}
            for name, start in zip(rule.numbers, starts, strict=True):
                numbers[name] = (
                    InTensor(of_one.get(name, np.array(start, scalar_dtype())))
                    if name in names
                    else InState(state, p, name, start)
                )
            found.append(numbers)
    return found
