"""State: the arrays that an optimizer keeps of each parameter, by keys and names.

The key of a parameter is its name, or its number over all param groups. Here state is allocated,
completed and copied; what a step makes of it is the engine's and the rule's concern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ._containers import Array
from ._engine.formats import format_of
from ._groups import ParamGroup, each_param
from ._hyper import EMA
from ._rule import Rule

LINE = 64  # bytes of a cache line

# For a key and a name of state: the parameter whose layout the array has, and what it is filled
# with, an array or a number.
Wanted = Mapping[tuple[Any, str], tuple[Array, Any]]


def keys_of(groups: Iterable[ParamGroup]) -> list[Any]:
    """Return the key of each parameter."""
    keys: dict[Any, None] = {}
    for group in groups:
        first, names = len(keys), group.container.names
        for key in names or range(first, first + len(group.container.arrays)):
            if key in keys:
                raise ValueError(
                    f"params: expected names unique over all groups, found {key!r} twice"
                )
            keys[key] = None
    return list(keys)


def names_of(groups: Sequence[ParamGroup]) -> list[list[Any]]:
    """Return the keys of the parameters of each group."""
    keys = iter(keys_of(groups))
    return [[next(keys) for _ in group.container.arrays] for group in groups]


def kept(
    groups: Iterable[ParamGroup], state: Mapping[Any, Mapping[str, Array]]
) -> dict[Any, dict[str, Array]]:
    """Return the state that steps go on from, by the keys of all parameters.

    An average that is switched off is left out: once steps were taken without it, it is of
    parameters long gone, and starts anew when it is switched on again. Other state stays, as it
    does in ``torch.optim``.
    """
    averaged = (EMA in group.state_names for group, _ in each_param(groups))
    return {
        key: {n: a for n, a in state.get(key, {}).items() if keep or n != EMA}
        for key, keep in zip(keys_of(groups), averaged, strict=True)
    }


def fill_in(rule: Rule, groups: Iterable[ParamGroup], state: dict[Any, dict[str, Array]]) -> None:
    """Add the state arrays that are missing, as they are before the first step."""
    missing = {}
    for (group, p), (key, arrays) in zip(each_param(groups), state.items(), strict=True):
        for name in group.state_names:
            if name not in arrays:
                start = p if name == EMA else rule.start_of(name, group.hyper)
                missing[key, name] = p, start
    for key, arrays in allocated(state, missing).items():
        state[key].update(arrays)


def allocated(keys: Iterable[Any], wanted: Wanted) -> dict[Any, dict[str, Array]]:
    """Return state with the arrays wanted, each laid out as its parameter and filled.

    Those of one name and dtype lie one behind the other in a block of memory. Allocated one by one
    they were scattered: a step of 1,000 arrays of 1,000 elements then took 1.4 times as long.
    """
    blocks: dict[tuple[str, Any], list[tuple[tuple[Any, str], Array, Any]]] = {}
    for place, (p, value) in wanted.items():
        blocks.setdefault((place[1], p.dtype), []).append((place, p, value))
    found = {}
    for entries in blocks.values():
        sizes = [-(-p.nbytes // LINE) * LINE for _, p, _ in entries]
        block = np.zeros(sum(sizes) + LINE, np.uint8)
        start = -block.ctypes.data % LINE
        for (place, p, value), size in zip(entries, sizes, strict=True):
            array = found[place] = np.ndarray(p.shape, p.dtype, block, start, p.strides)
            # Memory that is to be zero is left alone: the system gives it only once it is touched.
            if isinstance(value, np.ndarray) or value != 0:
                with np.errstate(over="ignore"):  # float32 may round it to infinity
                    format_of("state", p).fill(array, value)
            start += size
    state: dict[Any, dict[str, Array]] = {key: {} for key in keys}
    for key, name in wanted:
        state[key][name] = found[key, name]
    return state


def copied(state: Mapping[Any, Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return state with step counts, as a state dict has it, with copies of the arrays."""
    return {
        key: {n: x if n == "step" else x.copy(order="K") for n, x in entry.items()}
        for key, entry in state.items()
    }
