"""State: the arrays that an optimizer keeps of each parameter, by keys and names.

The key of a parameter is its name, or its number over all param groups. Here state is allocated,
completed and copied; what a step makes of it is the engine's and the rule's concern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ._containers import Array
from ._engine.arrays import zeros_like_each
from ._engine.formats import format_of
from ._groups import EMA, ParamGroup
from ._rule import Rule

# For a name of state: the keys of the parameters that are to have such an array, these parameters,
# whose layout it has, and what it is filled with, an array or a number.
Wanted = Mapping[str, Sequence[tuple[Any, Array, Any]]]


def keys_of(groups: Iterable[ParamGroup]) -> list[Any]:
    """Return the key of each parameter."""
    keys: list[Any] = []
    for group in groups:
        arrays = group.container.arrays
        keys += group.container.names or range(len(keys), len(keys) + len(arrays))
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"params: expected names unique over all groups, found {twice!r} twice")
    return keys


def names_of(groups: Sequence[ParamGroup]) -> list[list[Any]]:
    """Return the keys of the parameters of each group."""
    keys = iter(keys_of(groups))
    return [list(islice(keys, len(group.container.arrays))) for group in groups]


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
        for key in keys:
            arrays = found[key] = dict(state.get(key, ()))
            if EMA not in group.state_names:
                arrays.pop(EMA, None)
    return found


def fill_in(rule: Rule, groups: Iterable[ParamGroup], state: dict[Any, dict[str, Array]]) -> None:
    """Add the state arrays that are missing, as they are before the first step."""
    missing: dict[str, list[tuple[Any, Array, Any]]] = {}
    items = iter(state.items())
    for group in groups:
        starts = {n: 0.0 if n == EMA else rule.start_of(n, group.hyper) for n in group.state_names}
        for p, (key, arrays) in zip(group.container.arrays, items, strict=False):
            for name, start in starts.items():
                if name not in arrays:
                    value = p if name == EMA else start
                    missing.setdefault(name, []).append((key, p, value))
    put(state, missing)


def put(state: Mapping[Any, dict[str, Array]], wanted: Wanted) -> None:
    """Put new arrays into state, each laid out as its parameter and filled."""
    for name, entries in wanted.items():
        arrays = zeros_like_each([p for _, p, _ in entries])
        with np.errstate(over="ignore"):  # float32 may round a number to infinity
            for (key, p, value), array in zip(entries, arrays, strict=True):
                # The system gives memory only once it is touched: zeros are left alone.
                if isinstance(value, np.ndarray) or value != 0:
                    format_of("state", p).fill(array, value)
                state[key][name] = array


def copied(state: Mapping[Any, Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return state with step counts, as a state dict has it, with copies of the arrays."""
    return {
        key: {n: x if n == "step" else x.copy(order="K") for n, x in entry.items()}
        for key, entry in state.items()
    }
