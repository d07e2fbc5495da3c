"""Containers: what `params`, `grads` and `mask` may be, and the order of the arrays in them.

A container is one array, a sequence of arrays or a mapping of them, or a tree: a dataclass, or
containers within each other. Nothing here knows rules, hyperparameters or state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._engine.arrays import are_plain, as_array
from ._rows import Rows
from ._trees import Tree, at, by_names, in_order, is_branch, is_sequence, sequence_of, written


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class ForeignArray(Protocol):
    """An array of another library."""

    def __array__(self) -> Any: ...


Array = NDArray[np.float32] | NDArray[np.float64]
Nested: TypeAlias = "Array | Mapping[Any, Nested] | Iterable[Nested] | Dataclass"
NestedGrads: TypeAlias = (  # of NumPy's arrays alone, which can be written
    "Array | Mapping[Any, NestedGrads] | Iterable[NestedGrads] | Dataclass | None"
)
Params: TypeAlias = "Nested | Iterable[Mapping[str, Any]]"
Grads = Array | Rows | ForeignArray | float | Mapping[Any, Any] | Iterable[Any] | Dataclass
Mask = NDArray[np.bool_]
Masks = Mask | Sequence[Any] | Mapping[Any, Any] | Dataclass


class Labels(Sequence[str]):
    """What messages call the arrays of a container; each name is made when it is asked for."""

    def __init__(self, label: str, container: Container) -> None:
        self._label, self._container = label, container

    def __len__(self) -> int:
        return len(self._container.arrays)

    def __getitem__(self, i: Any) -> Any:
        return f"{self._label}{self._container.index(i)}"


class Container:
    """One array, a sequence or a mapping of arrays, or a tree: what params is and grads must be."""

    # The caller's own list or mapping, if there is one: an array in it may be replaced at any time.
    given: Any = None
    kind: type = list  # of a sequence: a tuple, a namedtuple, or a list for all else
    tree: Tree | None = None  # older versions have pickled none

    def __init__(self, label: str, params: Any, at_least: int = 1) -> None:
        self.names: list[Any] | None = None
        self.tree = None
        if isinstance(params, (Sequence, Mapping)) and not isinstance(params, tuple):
            self.given = params
        self.single = isinstance(params, np.ndarray)
        if isinstance(params, Mapping):
            self.names, self.arrays = list(params), list(params.values())
        elif self.single:
            self.arrays = [params]
        elif is_sequence(params):
            self.arrays = list(params)
            if isinstance(params, tuple):
                self.kind = type(params)
        elif is_branch(type(params)):
            self.arrays = [params]  # of which the tree has the arrays
        else:
            raise TypeError(
                f"{label}: expected an array, a sequence or a mapping of arrays, "
                f"found {type(params).__name__}"
            )
        if not are_plain(self.arrays) and any(map(is_branch, set(map(type, self.arrays)))):
            self.tree = Tree(label, params if is_branch(type(params)) else self.arrays)
            self.names, self.arrays = self.tree.names, self.tree.leaves
            self.given = None  # the tree has it
        if len(self.arrays) < at_least:
            raise ValueError(f"{label}: expected at least one array, found none")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the caller gave unless it is a list or a dict, which always pickle."""
        keep = type(self.given) in (list, dict)
        return {k: value for k, value in vars(self).items() if keep or k != "given"}

    def held(self) -> list[tuple[Any, list[Any]]]:
        """Return the caller's containers that may come to hold something else, and what they held.

        Where all hold what they held, all arrays are in their places.
        """
        if self.tree is not None:
            return self.tree.held
        return [] if self.given is None else [(self.given, self.arrays)]

    def check_given(self, label: str) -> None:
        """Raise if another array has taken the place of one in the caller's containers."""
        for i, p in enumerate(self.arrays):
            place, found = self._place(i)
            if not (found is p or _same_memory(found, p)):
                what = "another array" if isinstance(found, np.ndarray) else type(found).__name__
                raise ValueError(
                    f"{label}{self.index(i)}: expected the array that the optimizer was given, "
                    f"which it updates in place, found {what} in its place: assign to its "
                    f"elements, as in params{place}[...] = values, let the optimizer go on with "
                    "other arrays by opt.rebind(params), or make a new optimizer"
                )

    def _place(self, i: int) -> tuple[str, Any]:
        """Return where the i-th array is, as a program writes it, and what is there now."""
        if self.tree is not None:
            return written(self.tree.paths[i]), at(self.tree.paths[i], self.tree.root)
        try:
            return self.index(i), self.given[i if self.names is None else self.names[i]]
        except LookupError:
            return self.index(i), None

    def like(self, values: list[Any]) -> Any:
        """Return values in a container like this one: a list for a sequence that is no tuple."""
        if self.single:
            return values[0]
        if self.tree is not None:
            return self.tree.shape.filled(iter(values))
        if self.names is not None:
            return dict(zip(self.names, values, strict=True))
        return sequence_of(self.kind, values)

    @property
    def keys(self) -> Sequence[Any]:
        """Return the names of the arrays, or their numbers where they have none."""
        return range(len(self.arrays)) if self.names is None else self.names

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
        if self.tree is not None:
            found: list[Any] = []
            self.tree.shape.take(label, grads, found)
            return found
        if self.names is not None:
            return by_names(self.names, label, grads)
        # To tell a list or a tuple here takes next to no time.
        if isinstance(grads, (list, tuple)) and len(grads) == len(self.arrays):
            return grads
        return in_order(len(self.arrays), label, grads)

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


def _same_memory(found: Any, array: Array) -> bool:
    """Tell whether what was found is an array over the same elements."""
    return (
        isinstance(found, np.ndarray)
        and all(
            getattr(found, name) == getattr(array, name) for name in ("dtype", "shape", "strides")
        )
        and bool(found.ctypes.data == array.ctypes.data)
    )
