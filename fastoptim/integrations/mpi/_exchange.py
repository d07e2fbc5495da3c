"""The exchange: gradients of all ranks become sums on their owners, and new parameters go to all.

It sends by waves. In each, every rank gets what all ranks have of its slice (`Alltoallv`) and adds
that as a balanced tree in the order of the ranks: the sums of MPI itself are in an order that
depends on the library, the number of ranks and the length. When the slice has been stepped, all
ranks get the new parameters of each (`Allgatherv`). It knows neither rules nor state.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ..._containers import Array
from ..._engine.parts import Piece, cut_waves
from ..._stages import SQUARES_TILE
from ._agreement import Subject
from ._ranks import Bytes, Ranks, starts_of
from ._tree import add_rows
from ._waves import Flat, Slice, padded, placed

NOTHING: list[Piece] = []
GRADIENT = 5  # the column of a gradient's address, as a plan takes it


class Exchange:
    """The waves of the steps of some parameters.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    params : sequence of ndarray
        The parameters, which all ranks have.
    ranges : sequence of sequences
        For each rank the range that it steps of each parameter.
    wave_bytes : int
        How many bytes a buffer of a wave may have, of which there are two.
    sums : bool
        Whether gradients are summed over the ranks, not the same on all of them.

    layout : Subject
        What the ranks must have in common so that all this fits, which is kept for others.

    Attributes
    ----------
    pieces : list of lists
        For each wave the pieces that this rank steps, as a plan takes them.
    gradients : bool
        Whether gradients come by waves, as the plan asks.
    """

    def __init__(
        self,
        ranks: Ranks,
        params: Sequence[Array],
        ranges: Sequence[Sequence[tuple[int, int]]],
        wave_bytes: int,
        sums: bool,
        layout: Subject,
    ) -> None:
        self.gradients, self.layout = sums, layout
        self.flat = Flat(params)
        self._ranks, self.params, self.ranges = ranks, params, ranges
        most = max(1, wave_bytes // (ranks.size * SQUARES_TILE * max(p.itemsize for p in params)))
        cut = [cut_waves(own, most * SQUARES_TILE) for own in ranges]
        self._waves = [list(wave) for wave in zip_longest(*cut, fillvalue=NOTHING)]
        self.pieces: Sequence[Sequence[Piece]] = [of_ranks[ranks.rank] for of_ranks in self._waves]
        self._stepped: Sequence[bool] = ()
        self._slices: list[list[Slice]] = []  # of each wave and rank, where these are stepped
        self._sent = self._got = self._held = np.empty(0, np.uint8)
        self._held_at = np.empty(0, np.int64)
        self._leaves: Sequence[Sequence[Any]] = ()
        self._summed = 0  # waves of the step under way whose gradients have been summed
        self._holds = False  # whether these sums are kept for a later pass of the step

    def begin(self, leaves: Sequence[Sequence[Any]], stepped: Sequence[bool]) -> None:
        """Begin a step.

        Parameters
        ----------
        leaves : sequence of sequences
            For each parameter the gradients of this rank, which are added up from the last to the
            first.
        stepped : sequence of bool
            Whether each parameter has a gradient.
        """
        if stepped != self._stepped:
            self._slices = [
                [placed(pieces, self.params, stepped) for pieces in wave] for wave in self._waves
            ]
            self._stepped = stepped
            self._make_room()
        self._leaves = [[self.flat.view(i, g) for g in of_one] for i, of_one in enumerate(leaves)]
        self._summed, self._holds = 0, False

    def end(self) -> None:
        """Let go of the gradients."""
        self._leaves = ()

    @property
    def own_ranges(self) -> Sequence[tuple[int, int]]:
        """The range of each parameter that this rank steps."""
        return self.ranges[self._ranks.rank]

    def is_of(self, params: Sequence[Array]) -> bool:
        """Tell whether it is made for these parameters."""
        known = self.params
        return len(params) == len(known) and all(map(operator.is_, params, known))

    def is_finite(self, i: int) -> bool:
        """Tell whether this rank's gradients of a parameter are, as they are added up."""
        with np.errstate(all="ignore"):
            leaves = [leaf[:].astype(self.params[i].dtype) for leaf in self._leaves[i]]
            return all(bool(np.isfinite(leaf).all()) for leaf in leaves)

    def wholes(self, parts: Sequence[Array | None]) -> list[Any]:
        """Return whole arrays like the parameters, of which each rank has its ranges, or None."""
        found: list[Any] = [None] * len(parts)
        flat: list[Any] = [None] * len(parts)
        for i, (part, (start, stop)) in enumerate(zip(parts, self.own_ranges, strict=True)):
            if part is not None:
                found[i] = np.empty_like(self.params[i], subok=False)
                flat[i] = self.flat.view(i, found[i])
                flat[i][start:stop] = part.copy()  # it may be on a disk
        self.share_all([part is not None for part in parts], flat)
        return found

    def share_all(self, shared: Sequence[bool], flat: Sequence[Any]) -> None:
        """Let all ranks have what each has of some flat arrays, wave by wave."""
        for wave in self._waves:
            self.share([placed(pieces, self.params, shared) for pieces in wave], flat)

    def before(self, wave: int, what: str) -> np.ndarray[Any, Any] | None:
        """Return where the gradients of this rank's pieces are, once they have been summed."""
        if not self.gradients or what not in ("norm", "directions", "update"):
            return None
        own = self._slices[wave][self._ranks.rank]
        self._holds = self._holds or what != "update"
        if wave == self._summed:
            self._sum(wave)
            self._summed += 1
            if self._holds:
                self._hold(wave, own)
        start = self._held_of(wave).ctypes.data if self._holds else self._got.ctypes.data
        found = np.zeros((len(self.pieces[wave]), GRADIENT + 1), np.intp)
        place_of = {piece[:2]: start + piece.at for piece in own.pieces}
        found[:, GRADIENT] = [place_of.get(piece[:2], 0) for piece in self.pieces[wave]]
        return found

    def behind(self, wave: int, what: str) -> None:
        """Let all ranks have the new parameters of a wave."""
        if what == "update":
            self.share(self._slices[wave], self.flat.params)

    def share(self, slices: Sequence[Slice], arrays: Sequence[Any]) -> None:
        """Let all ranks have what each has of some flat arrays."""
        counts = [own.nbytes for own in slices]
        starts = starts_of(counts)
        self._sent = _room(self._sent, sum(counts))
        buffer = self._sent[: sum(counts)]
        for i, first, last, at in slices[self._ranks.rank].pieces:
            self._numbers(buffer, starts[self._ranks.rank] + at, i, last - first)[...] = arrays[i][
                first:last
            ]
        self._ranks.fill(buffer, counts, starts)
        for rank, (own, start) in enumerate(zip(slices, starts, strict=True)):
            if rank != self._ranks.rank:
                for i, first, last, at in own.pieces:
                    arrays[i][first:last] = self._numbers(buffer, start + at, i, last - first)

    def _make_room(self) -> None:
        rank, size = self._ranks.rank, self._ranks.size
        own = [padded(wave[rank].nbytes) for wave in self._slices]
        sent = [sum(slice_.nbytes for slice_ in wave) for wave in self._slices]
        self._sent = _room(self._sent, max(sent, default=0))
        if self.gradients:
            self._got = _room(self._got, size * max(own, default=0))
            self._held_at = np.append(starts_of(own), sum(own))

    def _sum(self, wave: int) -> None:
        """Sum the gradients of all ranks for this rank's slice of a wave, into the first row."""
        slices, rank, size = self._slices[wave], self._ranks.rank, self._ranks.size
        own = slices[rank]
        row = padded(own.nbytes)
        rows = self._got[: size * row].reshape(size, row)
        counts = np.array([other.nbytes for other in slices])
        starts = starts_of(counts)
        for other, (slice_, start) in enumerate(zip(slices, starts, strict=True)):
            if other == rank:
                self._pack(slice_, rows[rank], 0)
            else:
                self._pack(slice_, self._sent, start)
        sent, got = counts, np.full(size, own.nbytes)
        sent[rank] = got[rank] = 0
        self._ranks.exchange((self._sent, sent, starts), (self._got, got, row * np.arange(size)))
        for dtype, first, last in own.sections:
            add_rows(rows[:, first:last].view(dtype))

    def _pack(self, own: Slice, buffer: np.ndarray[Any, Any], start: int) -> None:
        """Write this rank's gradients for a slice, each the sum of its leaves."""
        with np.errstate(all="ignore"):
            for i, first, last, at in own.pieces:
                out = self._numbers(buffer, start + at, i, last - first)
                *others, leaf = self._leaves[i]
                out[...] = leaf[first:last]
                for other in reversed(others):
                    np.add(other[first:last], out, out=out)

    def _hold(self, wave: int, own: Slice) -> None:
        if wave == 0:
            self._held = _room(self._held, int(self._held_at[-1]))
        self._held_of(wave)[: own.nbytes] = self._got[: own.nbytes]

    def _held_of(self, wave: int) -> Bytes:
        return self._held[self._held_at[wave] : self._held_at[wave + 1]]

    def _numbers(self, buffer: Bytes, at: int, i: int, count: int) -> Any:
        """Return so many elements like those of the i-th parameter, which begin at a byte."""
        dtype = self.params[i].dtype
        return buffer[at : at + count * dtype.itemsize].view(dtype)


def _room(buffer: Bytes, nbytes: int) -> Bytes:
    """Return a buffer of so many bytes at least: this one, if it is large enough."""
    return buffer if buffer.size >= nbytes else np.empty(-(-nbytes // 8)).view(np.uint8)
