"""Containers: what `params`, `grads` and `mask` may be, and the order of the arrays in them.

A container is one array, a sequence of arrays or a mapping of them. Nothing here knows rules,
hyperparameters or state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._engine.arrays import as_array
from ._kinds import NO_SEQUENCES, with_other_names

Array = NDArray[np.float32] | NDArray[np.float64]
Params = Array | Iterable[Array] | Mapping[Any, Array] | Iterable[Mapping[str, Any]]
Grads = Array | Sequence[Any] | Mapping[Any, Any]
Mask = NDArray[np.bool_]
Masks = Mask | Sequence[Mask | None] | Mapping[Any, Mask | None]


def is_sequence(value: Any) -> bool:
    """Tell whether a value has items in an order, be it an iterator that gives them once."""
    no = (np.ndarray, Mapping, Set, *NO_SEQUENCES)
    return isinstance(value, Iterable) and not isinstance(value, no)


class Labels(Sequence[str]):
    """What messages call the arrays of a container; each name is made when it is asked for."""

    def __init__(self, label: str, container: Container) -> None:
        self._label, self._container = label, container

    def __len__(self) -> int:
        return len(self._container.arrays)

    def __getitem__(self, i: Any) -> Any:
        return f"{self._label}{self._container.index(i)}"


class Container:
    """One array, a sequence of arrays or a mapping of arrays: what params is and grads must be."""

    # The caller's own list or mapping, if there is one: an array in it may be replaced at any time.
    given: Any = None

    def __init__(self, label: str, params: Any, at_least: int = 1) -> None:
        self.names: list[Any] | None = None
        if isinstance(params, (Sequence, Mapping)) and not isinstance(params, tuple):
            self.given = params
        self.single = isinstance(params, np.ndarray)
        if isinstance(params, Mapping):
            self.names, self.arrays = list(params), list(params.values())
        elif self.single:
            self.arrays = [params]
        elif is_sequence(params):
            self.arrays = list(params)
        else:
            raise TypeError(
                f"{label}: expected an array, a sequence or a mapping of arrays, "
                f"found {type(params).__name__}"
            )
        if len(self.arrays) < at_least:
            raise ValueError(f"{label}: expected at least one array, found none")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the caller gave unless it is a list or a dict, which always pickle."""
        keep = type(self.given) in (list, dict)
        return {k: value for k, value in vars(self).items() if keep or k != "given"}

    def check_given(self, label: str) -> None:
        """Raise if another array has taken the place of one in the caller's list or mapping."""
        for key, index, p in zip(
            self.names or range(len(self.arrays)), self.indices(), self.arrays, strict=True
        ):
            try:
                found = self.given[key]
            except LookupError:
                found = None
            if not (found is p or _same_memory(found, p)):
                what = "another array" if isinstance(found, np.ndarray) else type(found).__name__
                raise ValueError(
                    f"{label}{index}: expected the array that the optimizer was given, which it "
                    f"updates in place, found {what} in its place: assign to its elements, as in "
                    f"params{index}[...] = values, or make a new optimizer"
                )

    def like(self, values: list[Any]) -> Any:
        """Return values in a container like this one."""
        if self.single:
            return values[0]
        return values if self.names is None else dict(zip(self.names, values, strict=True))

    def index(self, i: int) -> str:
        """Return what follows the container's name in the name of the i-th array."""
        if self.single:
            return ""
        return f"[{i if self.names is None else self.names[i]!r}]"

    def indices(self) -> list[str]:
        """Return what follows the container's name in the name of each array."""
        return list(map(self.index, range(len(self.arrays))))

    def labels(self, label: str) -> Labels:
        """Return what messages call each array, if the container has this name."""
        return Labels(label, self)

    def order(self, label: str, grads: Any) -> Sequence[Any]:
        """Return the gradients in the order of the parameters."""
        if self.single:
            return (grads,)
        if self.names is not None:
            return self._order_names(label, grads)
        # list and tuple come first: to tell whether a value is one of them takes next to no time
        if not isinstance(grads, (list, tuple, Sequence)) or isinstance(grads, str):
            raise TypeError(
                f"{label}: expected a sequence as params is, found {type(grads).__name__}"
            )
        if len(grads) != len(self.arrays):
            raise ValueError(
                f"{label}: expected {len(self.arrays)} arrays as params has (None to skip one), "
                f"found {len(grads)}"
            )
        return grads

    def masks(self, mask: Any) -> tuple[Any, ...]:
        """Return a read-only copy of the mask of each array, in its layout, or None."""
        if mask is None:
            return (None,) * len(self.arrays)
        found: list[Any] = []
        for index, p, m in zip(self.indices(), self.arrays, self.order("mask", mask), strict=True):
            if m is not None:
                label = f"mask{index}"
                # A comparison such as p > 0 of an array without axes gives a scalar.
                m = np.asarray(m) if isinstance(m, np.generic) else as_array(label, m)
                if m.dtype != bool:
                    raise TypeError(f"{label}: expected an array of bool, found {m.dtype}")
                if m.shape != p.shape:
                    raise ValueError(
                        f"{label}: expected shape {p.shape} as its parameter has, found {m.shape}"
                    )
                m = np.full_like(p, m, dtype=bool, subok=False)
                m.flags.writeable = False
            found.append(m)
        return tuple(found)

    def _order_names(self, label: str, grads: Any) -> Sequence[Any]:
        if not isinstance(grads, Mapping):
            raise TypeError(
                f"{label}: expected a mapping as params is, found {type(grads).__name__}"
            )
        names = self.names or []
        if grads.keys() != set(names):
            raise ValueError(
                f"{label}: expected the names of params (None to skip one), "
                f"found {with_other_names(names, grads)}"
            )
        return [grads[name] for name in names]


def _same_memory(found: Any, array: Array) -> bool:
    """Tell whether what was found is an array over the same elements."""
    return (
        isinstance(found, np.ndarray)
        and all(
            getattr(found, name) == getattr(array, name) for name in ("dtype", "shape", "strides")
        )
        and bool(found.ctypes.data == array.ctypes.data)
    )
