"""State on disk: where the state of an optimizer is when it has a `state_path`.

What a sweep over the file is, and how the file is laid out, is the engine's.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ._containers import Array
from ._engine.disk import DiskState, Source
from ._engine.formats import format_of
from ._engine.parts import JoinedWaves, Piece
from ._engine.scratch import Scratch
from ._groups import ParamGroup, each_param
from ._hyper import EMA
from ._state import Heap, Part, Wanted, keys_of

if TYPE_CHECKING:
    from ._engine.parts import Waves

Pieces: TypeAlias = list[list[Piece]]  # of each wave

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
        self.size = param.size

    def fits(self, number: int, param: Array) -> bool:
        """Tell whether it is where the array of a parameter has to be, and laid out like that."""
        return self.number == number and self.strides == param.strides

    def read(self, start: int, stop: int) -> Array:
        """Return a range of the elements, in the order of memory."""
        return self.disk.read(self.number, self.place, start, stop)

    def copy(self, order: Literal["K"] = "K") -> Array:
        """Return the array as it is now, in memory, laid out as its parameter."""
        flat: Any = self.read(0, self.size)
        return np.ndarray(self.shape, flat.dtype, flat, strides=self.strides)


class Copies(Mapping[str, Array]):
    """State arrays in a file: each is read when it is looked up, and cannot be written to.

    Parameters
    ----------
    arrays : mapping
        The arrays by their names.
    using : context manager
        What keeps a step out meanwhile.
    """

    def __init__(self, arrays: Mapping[str, DiskArray], using: AbstractContextManager[Any]) -> None:
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


class Disk(Heap):
    """State in a file.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path: str | None = os.fsdecode(path)
        except TypeError:
            found = type(path).__name__
            raise TypeError(f"state_path: expected a path or None, found {found}") from None
        self._scratch = Scratch(self.path)
        self._last: Callable[[], DiskState | None] = lambda: None  # which `complete` has made

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
    ) -> tuple[dict[Any, dict[str, Any]], Part]:
        """Return state with all that groups want, in a new part of the file unless all is there.

        With it comes what a plan is to step.
        """
        part = self.part_of(groups)
        owners, pieces = _owners(groups, state, part), _pieces_of(part)
        disk = _fitting(owners, pieces)
        if disk is None:
            make, last = partial(self._made, owners, pieces), self._last()
            disk = last.replaced(make) if last is not None and last.is_new else make()
            self._last = weakref.ref(disk)
        found = {owner.key: owner.arrays_in(disk) for owner in owners}
        waves: Waves = disk.waves([owner.used() for owner in owners])
        if part.waves is not None:
            waves = JoinedWaves(part.waves, waves)
        return found, part._replace(ranges=part.bounds(), elsewhere=True, waves=waves)

    def _made(self, owners: Sequence[Owner], pieces: Pieces | None) -> DiskState:
        """Return new state in a part of the file of its own."""
        params = [owner.param for owner in owners]
        places = [tuple(owner.places.values()) for owner in owners]
        sizes, dtypes = [p.size for p in params], [p.dtype for p in params]
        disk = DiskState(self._scratch, sizes, dtypes, places, pieces)
        try:
            disk.fill([owner.sources() for owner in owners])
        except BaseException:
            disk.close()
            raise
        return disk

    def shown(
        self, arrays: Mapping[str, Any], using: AbstractContextManager[Any]
    ) -> Mapping[str, Array]:
        """Return the state arrays of a parameter as the caller sees them."""
        return Copies(arrays, using)

    def close(self) -> None:
        """Give back the file, which is removed."""
        self._scratch.fail("its optimizer was closed")


class Owner(NamedTuple):
    """A parameter, its state as it is given, and where the state arrays are that it has to have."""

    number: int
    key: Any
    group: ParamGroup
    param: Array  # or what is stepped of it
    state: Mapping[str, Any]
    places: dict[str, int]

    def sources(self) -> dict[int, Source]:
        """Return what its new arrays are filled with; zeros are there already."""
        found: dict[int, Source] = {}
        for name, place in self.places.items():
            value = self.state.get(name)
            if isinstance(value, DiskArray) and value.disk.is_new:
                continue  # it is zero, as the new one is
            if value is None and name != EMA:  # an average starts with a step
                value = self.group.rule.start_of(name, self.group.hyper) or None
            if value is not None:
                found[place] = _source(value, self.param)
        return found

    def arrays_in(self, disk: DiskState) -> dict[str, DiskArray]:
        """Return its state arrays by their names."""
        return {
            name: DiskArray(disk, self.number, place, self.param)
            for name, place in self.places.items()
        }

    def used(self) -> tuple[int, ...]:
        """Return the places of those that its steps use."""
        return tuple(self.places[name] for name in self.group.state_names)


def _owners(
    groups: Sequence[ParamGroup], state: Mapping[Any, Mapping[str, Any]], part: Part
) -> list[Owner]:
    found: list[Owner] = []
    for key, (group, _), param in zip(
        keys_of(groups), each_param(groups), part.stepped, strict=True
    ):
        place_of = {name: place for place, name in enumerate(group.rule.state)} | {EMA: AVERAGE}
        names = dict.fromkeys([*state[key], *group.state_names])
        places = {name: place_of[name] for name in names}
        found.append(Owner(len(found), key, group, param, state[key], places))
    return found


def _pieces_of(part: Part) -> Pieces | None:
    """Return the pieces of the waves that a part has, counted from where its ranges begin."""
    if part.waves is None:
        return None
    first = [start for start, _ in part.bounds()]
    return [
        [Piece(i, start - first[i], stop - first[i]) for i, start, stop in wave]
        for wave in part.waves.pieces
    ]


def _fitting(owners: Sequence[Owner], pieces: Pieces | None) -> DiskState | None:
    """Return where all state is already, as it has to be, or None."""
    disks: set[DiskState | None] = set()
    for owner in owners:
        for name in owner.places:
            array: Any = owner.state.get(name)
            is_there = isinstance(array, DiskArray) and array.fits(owner.number, owner.param)
            disks.add(array.disk if is_there else None)
    disk = disks.pop() if len(disks) == 1 else None
    layout = [(o.param.size, o.param.dtype, tuple(o.places.values())) for o in owners]
    fits = disk is not None and disk.layout == layout and pieces in (None, disk.pieces)
    return disk if fits else None


def _source(value: Any, param: Array) -> Source:
    """Return what gives ranges of an array, of a number, or of what gives them already."""
    if callable(value):
        found: Source = value
        return found
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
    in_order = array.transpose(axes)
    flat: Any = in_order.reshape(-1) if in_order.flags.c_contiguous else in_order.flat
    return lambda start, stop: flat[start:stop]
