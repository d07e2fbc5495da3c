"""State: the arrays that an optimizer keeps of each parameter, by keys and names.

The key of a parameter is its name, or its number over all param groups; where groups have the same
names, the number of the group comes before the name. Here state is allocated, completed and copied;
what a step makes of it is the engine's and the rule's concern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._containers import Array
from ._engine.arrays import zeros_like_each
from ._engine.formats import format_of
from ._engine.threads import touch
from ._groups import ParamGroup, each_param
from ._hyper import EMA
from ._trees import text_of

if TYPE_CHECKING:
    from ._engine.parts import Sums, Waves

ALL = repeat(None)  # the ranges of parameters that are stepped as a whole


class Wanted(NamedTuple):
    """State arrays of one name that are to be made."""

    keys: list[Any]  # of the parameters that they belong to
    params: list[Array]  # these parameters, whose layouts they have
    values: list[Any]  # what each is filled with, an array or a number, None for zeros

    def add(self, key: Any, param: Array, value: Any) -> None:
        """Add an array that is to be made."""
        self.keys.append(key)
        self.params.append(param)
        self.values.append(value)


def keys_of(groups: Iterable[ParamGroup]) -> list[Any]:
    """Return the key of each parameter."""
    return [key for keys in names_of(groups) for key in keys]


def names_of(groups: Iterable[ParamGroup]) -> list[list[Any]]:
    """Return the keys of the parameters of each group.

    Where a name is also one of an earlier group, all names of the group begin with its number. So a
    parameter's key depends on the groups before its own alone, and stays when others are added.
    """
    found: list[list[Any]] = []
    taken: set[Any] = set()
    for number, group in enumerate(groups):
        container, first = group.container, len(taken)
        names = container.names or range(first, first + len(container.arrays))
        if taken and not taken.isdisjoint(names):
            names = [".".join([str(number), text_of("params", key)]) for key in container.keys]
            twice = taken.intersection(names)
            if twice:
                raise ValueError(
                    "params: expected names unique over all groups, or with the number of the "
                    f"group before them, found {min(twice)!r} twice"
                )
        found.append([*names])
        taken.update(names)
    return found


def kept(
    groups: Sequence[ParamGroup], state: Mapping[Any, Mapping[str, Array]]
) -> dict[Any, dict[str, Array]]:
    """Return the state that steps go on from, by the keys of all parameters.

    An average that is switched off is left out: once steps were taken without it, it is of
    parameters long gone, and starts anew when it is switched on again. Other state stays, as it
    does in ``torch.optim``.
    """
    found: dict[Any, dict[str, Array]] = {}
    for group, keys in zip(groups, names_of(groups), strict=True):
        found |= {key: {**state[key]} if key in state else {} for key in keys}
        for key in keys if EMA not in group.state_names else ():
            found[key].pop(EMA, None)
    return found


class Part(NamedTuple):
    """What a plan steps of the parameters, and what it is told of their state and of other parts.

    Parameters
    ----------
    stepped : sequence of ndarray
        For each parameter the array like which its state is: itself or, where that has a range, its
        elements in it, one behind the other.
    ranges : iterable of (int, int) or None
        The range of each parameter, in the order of its memory; None for all of it.
    elsewhere : bool
        Whether the state is in memory only in waves.
    sums, waves : optional
        As `fastoptim._engine.plan.Plan` takes them.
    """

    stepped: Sequence[Array]
    ranges: Iterable[tuple[int, int] | None] = ALL
    elsewhere: bool = False
    sums: Sums | None = None
    waves: Waves | None = None

    def bounds(self) -> list[tuple[int, int]]:
        """Return the range of each parameter, also where it is all of it."""
        return [own or (0, p.size) for own, p in zip(self.ranges, self.stepped, strict=False)]


class Heap:
    """State in memory: where the state of an optimizer is, unless it is told otherwise.

    `fastoptim._disk.Disk` is another place for it.
    """

    path: str | None = None  # of the file that state is in

    def put(self, state: Mapping[Any, dict[str, Array]], wanted: Mapping[str, Wanted]) -> None:
        """Put new arrays into state."""
        put(state, wanted)

    def laid_out(
        self, groups: Sequence[ParamGroup], state: Mapping[Any, Mapping[str, Array]]
    ) -> dict[Any, dict[str, Array]]:
        """Return state as its parameters are laid out now."""
        return laid_out(groups, state, self.part_of(groups).stepped)

    def complete(
        self, groups: Sequence[ParamGroup], state: dict[Any, dict[str, Array]]
    ) -> tuple[dict[Any, dict[str, Array]], Part]:
        """Return state with all that groups want, which is made where it is missing.

        With it comes what a plan is to step.
        """
        part = self.part_of(groups)
        fill_in(groups, state, part.stepped)
        return state, part

    def part_of(self, groups: Sequence[ParamGroup]) -> Part:
        """Return what a plan steps of the parameters of these groups: here all."""
        return Part([p for _, p in each_param(groups)])

    def shown(
        self, arrays: Mapping[str, Array], using: AbstractContextManager[Any]
    ) -> Mapping[str, Array]:
        """Return the state arrays of a parameter as the caller sees them."""
        return MappingProxyType(arrays)

    def close(self) -> None:
        """Give back what is not memory; state is of no use any more then."""


def fill_in(
    groups: Sequence[ParamGroup], state: dict[Any, dict[str, Array]], stepped: Sequence[Array]
) -> None:
    """Add the state arrays that are missing, as they are before the first step.

    They are like what is stepped of each parameter.
    """
    missing: dict[str, Wanted] = {}
    first = 0
    for group, keys in zip(groups, names_of(groups), strict=True):
        params, hyper = stepped[first : first + len(keys)], group.hyper
        first += len(keys)
        for name in group.state_names:
            lacking = [i for i, key in enumerate(keys) if name not in state[key]]
            wanted = missing.setdefault(name, Wanted([], [], []))
            wanted.keys.extend([keys[i] for i in lacking])
            wanted.params.extend([params[i] for i in lacking])
            if name == EMA:
                wanted.values.extend([params[i] for i in lacking])
            else:
                wanted.values.extend([hyper.rule.start_of(name, hyper) or None] * len(lacking))
    put(state, missing)


def put(state: Mapping[Any, dict[str, Array]], wanted: Mapping[str, Wanted]) -> None:
    """Put new arrays into state, each laid out as its parameter and filled."""
    for name, (keys, params, values) in wanted.items():
        arrays = zeros_like_each(params)
        filled = {id(a.base): a.base for a, v in zip(arrays, values, strict=True) if v is not None}
        for block in filled.values():
            touch(block.ctypes.data, block.nbytes)
        with np.errstate(over="ignore"):  # float32 may round a number to infinity
            for array, value in zip(arrays, values, strict=True):
                if isinstance(value, np.ndarray):
                    array[...] = value
                elif value is not None:
                    format_of("state", array).fill(array, value)
        for key, array in zip(keys, arrays, strict=True):
            state[key][name] = array


def laid_out(
    groups: Sequence[ParamGroup],
    state: Mapping[Any, Mapping[str, Array]],
    stepped: Sequence[Array],
) -> dict[Any, dict[str, Array]]:
    """Return state as what is stepped is laid out now: itself where it is, else copies."""
    found: dict[Any, dict[str, Array]] = {}
    wanted: dict[str, Wanted] = {}
    for key, p in zip(keys_of(groups), stepped, strict=True):
        fits = all(array.strides == p.strides for array in state[key].values())
        found[key] = {**state[key]} if fits else {}
        for name, array in () if fits else state[key].items():
            wanted.setdefault(name, Wanted([], [], [])).add(key, p, array)
    put(found, wanted)
    return found


def copied(state: Mapping[Any, Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return state with step counts, as a state dict has it, with copies of the arrays."""
    return {
        key: {n: x if isinstance(x, (int, float)) else x.copy(order="K") for n, x in entry.items()}
        for key, entry in state.items()
    }
