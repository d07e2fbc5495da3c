"""State on disk: where the state of an optimizer is when it has a `state_path`.

It has the interface of `fastoptim._state.Heap`. What a sweep over the file is, and how the file is
laid out, is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import numpy as np

from ._containers import Array
from ._engine.disk import DiskState, Source
from ._engine.formats import format_of
from ._engine.ring import RingWaves
from ._engine.scratch import Scratch
from ._groups import ParamGroup, each_param
from ._hyper import EMA
from ._state import Wanted, keys_of

AVERAGE = 4  # the place of the average of a parameter, behind those of its rule


class DiskArray:
    """A state array that is in a file.

    Parameters
    ----------
    disk : DiskState
        The state of all parameters.
    number : int
        The number of its parameter.
    place : int
        Its place among the state arrays of that parameter.
    param : ndarray
        The parameter, whose shape, dtype and layout the array has.
    """

    def __init__(self, disk: DiskState, number: int, place: int, param: Array) -> None:
        self.disk, self.number, self.place = disk, number, place
        self.shape, self.dtype, self.strides = param.shape, param.dtype, param.strides
        self.size, self.nbytes, self.itemsize = param.size, param.nbytes, param.itemsize

    def read(self, start: int, stop: int) -> Array:
        """Return a range of the elements, in the order of memory."""
        return self.disk.read(self.number, self.place, start, stop)

    def copy(self, order: Literal["K"] = "K") -> Array:
        """Return the array as it is now, in memory, laid out as its parameter."""
        found = self.read(0, self.size)
        return np.lib.stride_tricks.as_strided(found, self.shape, self.strides)


class Copies(Mapping[str, Array]):
    """State arrays in a file: each is read when it is looked up, and cannot be written to.

    Parameters
    ----------
    arrays : mapping
        The arrays by their names.
    using : context manager
        What keeps a step out meanwhile.
    """

    def __init__(
        self, arrays: Mapping[str, DiskArray], using: AbstractContextManager[Any]
    ) -> None:
        self._arrays, self._using = arrays, using

    def __getitem__(self, name: str) -> Array:
        with self._using:
            found = self._arrays[name].copy()
        found.flags.writeable = False
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Disk:
    """State in a file.

    Parameters
    ----------
    path : str
        The file.
    """

    def __init__(self, path: str) -> None:
        self._scratch = Scratch(path)
        self.path: str | None = path

    def put(self, state: Mapping[Any, dict[str, Any]], wanted: Mapping[str, Wanted]) -> None:
        """Note what new arrays are filled with, which `complete` makes."""
        for name, (keys, _, values) in wanted.items():
            for key, value in zip(keys, values, strict=True):
                state[key][name] = value

    def laid_out(
        self, groups: Sequence[ParamGroup], state: Mapping[Any, Mapping[str, Any]]
    ) -> dict[Any, dict[str, Any]]:
        """Return state as its parameters are laid out now: `complete` makes what differs."""
        return {key: {**state[key]} for key in keys_of(groups)}

    def complete(
        self, groups: Sequence[ParamGroup], state: Mapping[Any, Mapping[str, Any]]
    ) -> tuple[dict[Any, dict[str, Any]], RingWaves]:
        """Return state with all that groups want, in a new part of the file unless all is there.

        With it comes what a plan takes for its waves.
        """
        places = [_places(group, state[key]) for key, group in _keyed(groups)]
        params = [param for _, param in each_param(groups)]
        disk = self._fitting(groups, state, places)
        if disk is None:
            disk = DiskState(
                self._scratch,
                [p.size for p in params],
                [p.dtype for p in params],
                [tuple(there.values()) for there in places],
            )
            disk.fill([
                _sources(group, param, state[key], there)
                for (key, group), param, there in zip(_keyed(groups), params, places, strict=True)
            ])
        found = {
            key: {name: DiskArray(disk, i, place, param) for name, place in places[i].items()}
            for i, ((key, _), param) in enumerate(zip(_keyed(groups), params, strict=True))
        }
        used = [
            tuple(there[name] for name in group.state_names)
            for (_, group), there in zip(_keyed(groups), places, strict=True)
        ]
        return found, disk.waves(used)

    def shown(
        self, arrays: Mapping[str, DiskArray], using: AbstractContextManager[Any]
    ) -> Mapping[str, Array]:
        """Return the state arrays of a parameter as the caller sees them."""
        return Copies(arrays, using)

    def _fitting(
        self,
        groups: Sequence[ParamGroup],
        state: Mapping[Any, Mapping[str, Any]],
        places: Sequence[Mapping[str, int]],
    ) -> DiskState | None:
        """Return where all state is already, as it has to be for these groups, or None."""
        layout = []
        disks = set()
        for i, ((key, _), (_, p)) in enumerate(zip(_keyed(groups), each_param(groups), strict=True)):
            layout.append((p.size, p.dtype, tuple(places[i].values())))
            for name in places[i]:
                array = state[key].get(name)
                fits = isinstance(array, DiskArray) and array.number == i
                disks.add(array.disk if fits and array.strides == p.strides else None)
        disk = disks.pop() if len(disks) == 1 else None
        return disk if disk is not None and disk.layout == layout else None


def _keyed(groups: Sequence[ParamGroup]) -> Iterator[tuple[Any, ParamGroup]]:
    """Yield the key of each parameter, with its group."""
    return ((key, group) for key, (group, _) in zip(keys_of(groups), each_param(groups), strict=True))


def _places(group: ParamGroup, state: Mapping[str, Any]) -> dict[str, int]:
    """Return where the state arrays of a parameter are that there are, or have to be."""
    places = {name: place for place, name in enumerate(group.rule.state)} | {EMA: AVERAGE}
    return {n: place for n, place in places.items() if n in state or n in group.state_names}


def _sources(
    group: ParamGroup, param: Array, state: Mapping[str, Any], places: Mapping[str, int]
) -> dict[int, Source]:
    """Return what the new arrays of a parameter are filled with; zeros are there already."""
    found: dict[int, Source] = {}
    for name, place in places.items():
        value = state.get(name)
        if value is None and name != EMA:  # an average starts with a step
            value = group.rule.start_of(name, group.hyper) or None
        if value is not None:
            found[place] = _source(value, param)
    return found


def _source(value: Any, param: Array) -> Source:
    if isinstance(value, DiskArray):
        return value.read if value.strides == param.strides else _ranges_of(value.copy(), param)
    if isinstance(value, np.ndarray):
        return _ranges_of(value, param)
    return partial(_filled, param.dtype, value)


def _filled(dtype: np.dtype[Any], value: float, start: int, stop: int) -> Array:
    found: Array = np.empty(stop - start, dtype)
    with np.errstate(over="ignore"):  # float32 may round a number to infinity
        format_of("state", found).fill(found, value)
    return found


def _ranges_of(array: Array, param: Array) -> Source:
    """Return what gives ranges of an array in the order of a parameter's memory."""
    axes = sorted(range(param.ndim), key=lambda axis: -param.strides[axis])
    flat = array.transpose(axes).flat
    return lambda start, stop: flat[start:stop]
