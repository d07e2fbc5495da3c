"""Parts: how all arrays are cut where one plan steps a part of their elements.

All arrays of an optimizer together are one flat space of elements: array after array, each in the
order of its memory. A *part* is a contiguous range of that space, which meets each array in one
range at most. A *wave* is a contiguous range of a part, which a pass goes over before the next one.
Both are cut only at multiples of `SQUARES_TILE` elements from the start of an array, so that no
tile of a sum is cut: sums are then the same, whoever adds up which tiles.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

from fastoptim._stages import SQUARES_TILE


class Elsewhere:
    """What an entry has in the place of an array that is in memory only in waves."""

    def __repr__(self) -> str:
        return "ELSEWHERE"


ELSEWHERE = Elsewhere()


class Piece(NamedTuple):
    """A range of one array: elements in the order of its memory, counted from its first."""

    array: int
    start: int
    stop: int


class Sums(Protocol):
    """What joins the sums of the tiles of one part with those of all others.

    Rows are a C-contiguous array of float64, with a row for each tile of 2,048 elements and a
    column or two. They are only valid during the call.
    """

    def total(self, rows: Any) -> Any:
        """Return the rows of all parts, in their order: what is added up is the norm of all."""
        ...

    def each(self, rows: Any) -> Any:
        """Return a row for each tile of every whole array, in order; each array is added up.

        Where plans share nothing but the norm of all, this returns what it is given.
        """
        ...

    def first(self, bad: str | None) -> str | None:
        """Return the first label that a part has found, or None.

        It is called where the norm of all is not finite, with the label of the first gradient of
        this part that is not.
        """
        ...


class Waves(Protocol):
    """What brings the arrays of a wave into memory, and takes them away.

    What a wave is brought for is one of these texts. Of the arrays that are `ELSEWHERE`

    - ``"update"`` reads and writes all,
    - ``"directions"`` and ``"values"`` only read the state,
    - ``"swap"`` reads and writes averages,
    - ``"start"`` writes averages, and reads nothing,
    - ``"norm"`` needs none; it goes over waves only where these bring gradients.
    """

    pieces: Sequence[Sequence[Piece]]  # of each wave; all together the ranges of the plan, in order
    gradients: bool  # whether waves bring gradients; those that a step is given are only checked

    def before(self, wave: int, what: str) -> Any:
        """Return the addresses of the first elements of the arrays of each piece, or None.

        They are a C-contiguous array of intp, with a row for each piece and six columns: up to four
        state arrays, the average, and the gradient, which has the dtype of its parameter. 0 stands
        for an array that is in memory as ever, or is not there.
        """
        ...

    def behind(self, wave: int, what: str) -> None:
        """Take back what a wave was brought, once it has been computed."""
        ...


class JoinedWaves:
    """The waves of two clients in one, of which one brings all state, and nothing else.

    Behind a wave, state is taken back first: so when the others are done with the last wave of an
    update, all state is where it is kept.

    Parameters
    ----------
    others : Waves
        Those that bring no state, and say which pieces there are.
    state : Waves
        Those that bring state, of the same pieces.
    """

    def __init__(self, others: Waves, state: Waves) -> None:
        self._others, self._state = others, state
        self.pieces, self.gradients = others.pieces, others.gradients

    def before(self, wave: int, what: str) -> Any:
        """Return the addresses of both."""
        state = None if what == "norm" else self._state.before(wave, what)
        others = self._others.before(wave, what)
        if state is None or others is None:
            return others if state is None else state
        return state + others  # each has 0 where the other brings something

    def behind(self, wave: int, what: str) -> None:
        """Let both take back what they have brought."""
        if what != "norm":
            self._state.behind(wave, what)
        self._others.behind(wave, what)


def cut(
    sizes: Sequence[int], parts: int, weights: Sequence[float] | None = None
) -> list[list[tuple[int, int]]]:
    """Cut the flat space of arrays of these sizes into parts, as even as they can be.

    Parameters
    ----------
    sizes : sequence of int
        The number of elements of each array.
    parts : int
        How many parts.
    weights : sequence of float, optional
        What an element of each array counts, such as its bytes; 1 where they are not given.

    Returns
    -------
    ranges : list of lists of (start, stop)
        For each part the range of each array that belongs to it; (0, 0) where there is none.
    """
    weights = [1] * len(sizes) if weights is None else weights
    ends = [0, *accumulate(size * weight for size, weight in zip(sizes, weights, strict=True))]
    cuts = [(0, 0)]
    for number in range(1, parts):
        cuts.append(max(cuts[-1], _cut_at(sizes, weights, ends, ends[-1] * number / parts)))
    cuts.append((len(sizes), 0))
    found = []
    for low, high in pairwise(cuts):
        ranges = [(0, 0)] * len(sizes)
        for i in range(low[0], min(high[0] + 1, len(sizes))):
            start = low[1] if i == low[0] else 0
            stop = high[1] if i == high[0] else sizes[i]
            if start < stop:
                ranges[i] = start, stop
        found.append(ranges)
    return found


def _cut_at(
    sizes: Sequence[int], weights: Sequence[float], ends: Sequence[float], place: float
) -> tuple[int, int]:
    """Return the array and the element before which to cut, as close to a place as may be."""
    i = max(bisect_left(ends, place) - 1, 0)
    if i == len(sizes):
        return i, 0
    inside = (place - ends[i]) / weights[i]
    low = int(inside) // SQUARES_TILE * SQUARES_TILE
    high = min(low + SQUARES_TILE, sizes[i])
    start = low if inside - low <= high - inside else high
    return (i, start) if start < sizes[i] else (i + 1, 0)


def cut_waves(ranges: Sequence[tuple[int, int]], most: int) -> list[list[Piece]]:
    """Cut a part into waves of at most so many elements, a multiple of `SQUARES_TILE`."""
    waves: list[list[Piece]] = []
    room = 0
    for i, (start, end) in enumerate(ranges):
        while start < end:
            if room < min(SQUARES_TILE, end - start):
                waves.append([])
                room = most
            stop = min(end, start + (room if room >= end - start else room - room % SQUARES_TILE))
            waves[-1].append(Piece(i, start, stop))
            room -= stop - start
            start = stop
    return waves
