"""Shards: where the state of an optimizer is that ranks share, which is a range of each array."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..._containers import Array
from ..._disk import Disk
from ..._engine.disk import wave_bytes
from ..._engine.parts import cut
from ..._groups import ParamGroup, each_param
from ..._stages import SQUARES_TILE
from ..._state import Heap, Part, Wanted
from . import _subjects
from ._exchange import Exchange
from ._ranks import Ranks
from ._sums import SumsOfOwn, SumsOfParts

STATE = 100  # how much more a byte of state counts than one of a parameter, where parts are cut


class Shards(Heap):
    """The state of this rank's part, in memory.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    mode : str
        What gradients are: "local", "summed" or "own".
    wave_bytes : int
        As `Exchange` takes it.
    origin : function
        As `SumsOfParts` takes it.

    Attributes
    ----------
    part, pending : Part
        That of the plan that takes the steps, and that of the one which was made last.
    read : dict
        While a file is loaded, what this rank has of it, by keys and names: its ranges of the
        arrays, or what reads parts of these.
    """

    def __init__(
        self, ranks: Ranks, mode: str, wave_bytes: int, origin: Callable[[str], str]
    ) -> None:
        self._ranks, self._mode, self._wave_bytes, self._origin = ranks, mode, wave_bytes, origin
        self.part = self.pending = Part([])
        self.read: Mapping[tuple[Any, str], Any] = {}

    @property
    def exchange(self) -> Exchange:
        """The exchange of the plan that takes the steps."""
        exchange: Exchange = self.part.waves  # type: ignore[assignment]
        return exchange

    def part_of(self, groups: Sequence[ParamGroup]) -> Part:
        """Return what this rank steps; parameters of the same sizes stay cut where they are."""
        params = [p for _, p in each_param(groups)]
        if self._mode == "own":
            self.pending = Part(params, sums=SumsOfOwn(self._ranks))
        elif not self.is_cut_as(params):
            sizes = [p.size for p in params]
            self.pending = self._part_cut_at(groups, cut(sizes, self._ranks.size, _weights(groups)))
        elif self.exchange.is_of(params):
            self.pending = self.part
        else:
            self.pending = self._part_cut_at(groups, self.exchange.ranges)
        return self.pending

    def is_cut_as(self, params: Sequence[Array]) -> bool:
        """Tell whether parameters of these sizes have been cut into parts."""
        known = () if self.part.waves is None else self.exchange.params
        return [p.size for p in params] == [p.size for p in known]

    def put(self, state: Mapping[Any, dict[str, Array]], wanted: Mapping[str, Wanted]) -> None:
        """Put this rank's ranges of arrays that are loaded into state."""
        if self._mode == "own":
            super().put(state, wanted)
            return
        place_of = {key: i for i, key in enumerate(state)}
        for name, (keys, _, values) in wanted.items():
            taken = Wanted([], [], [])
            for key, value in zip(keys, values, strict=True):
                i = place_of[key]
                part = self.read.get((key, name))
                if part is None:
                    part = self.exchange.flat.view(i, value)[slice(*self.exchange.own_ranges[i])]
                    part = np.asarray(part)
                taken.add(key, self.part.stepped[i], part)
            super().put(state, {name: taken})

    def _part_cut_at(
        self, groups: Sequence[ParamGroup], ranges: Sequence[Sequence[tuple[int, int]]]
    ) -> Part:
        params = [p for _, p in each_param(groups)]
        exchange = Exchange(
            self._ranks,
            params,
            ranges,
            self._sent_at_once(groups),
            self._mode == "local",
            _subjects.layout(groups),
        )
        own = exchange.own_ranges
        stepped = [p[slice(*of_one)] for p, of_one in zip(exchange.flat.params, own, strict=True)]
        tiles = [sum(-(-(stop - start) // SQUARES_TILE) for start, stop in of) for of in ranges]
        sums = SumsOfParts(self._ranks, tiles, self._origin)
        return Part(stepped, own, sums=sums, waves=exchange)

    def _sent_at_once(self, groups: Sequence[ParamGroup]) -> int:
        """Return how many bytes a wave of the exchange has."""
        return self._wave_bytes


class ShardsOnDisk(Shards, Disk):
    """The state of this rank's part, in a file of this rank.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    *shards
        What `Shards` takes.
    """

    def __init__(self, path: str | os.PathLike[str], *shards: Any) -> None:
        Disk.__init__(self, path)
        Shards.__init__(self, *shards)

    def _sent_at_once(self, groups: Sequence[ParamGroup]) -> int:
        """Return so few bytes that the state of a rank's slice is that of a wave of the file."""
        arrays = max((len(group.rule.state) for group in groups), default=0) + 1  # the average
        most: int = self._ranks.size * wave_bytes() // arrays
        return min(self._wave_bytes, most)


def _weights(groups: Sequence[ParamGroup]) -> list[float]:
    """Return what an element of each parameter counts where parts are cut: the bytes of its state.

    Those of the parameter count next to nothing, but where there is no state.
    """
    return [p.itemsize * (STATE * len(group.state_names) + 1) for group, p in each_param(groups)]
