"""State on disk: where the state arrays of some parameters are in a file, and how they are swept.

All elements are cut into waves, each of them one contiguous part of the file, with what there is of
every state array in its range. So a sweep reads and writes the file in order. What is in the arrays
is of no matter here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastoptim._stages import SQUARES_TILE

from .parts import Piece
from .ring import Ring, RingWaves
from .scratch import BLOCK, Scratch

LINE = 64  # bytes, at a multiple of which each range of an array begins
ARRAYS = 5  # of a parameter at the most: four of its rule, and its average
BUFFERS = 4

# Returns a range of an array, one-dimensional in the order of memory.
Source = Callable[[int, int], np.ndarray[Any, Any]]

_wave_bytes = 4 << 20  # of state in a wave, at the most; a disk gets no faster with more


def wave_bytes() -> int:
    """Return how many bytes a wave has at the most."""
    return _wave_bytes


def set_wave_bytes(n: int) -> int:
    """Set how many bytes the waves of later layouts have at the most; return the old value."""
    global _wave_bytes
    old, _wave_bytes = _wave_bytes, n
    return old


class DiskState:
    """The state arrays of some parameters, in a file. They are zeros in the beginning.

    An array is told by the number of its parameter and its place among the state arrays of that
    parameter, the last of which is the average. Its elements are in the order of memory.

    Parameters
    ----------
    scratch : Scratch
        The file.
    sizes : sequence of int
        How many elements each parameter has.
    dtypes : sequence of dtype
        Of which type.
    places : sequence of tuples of int
        The arrays that there are of each parameter.
    pieces : sequence of sequences of Piece, optional
        The ranges in each wave, where others have cut these; some may have none.

    Attributes
    ----------
    pieces : list of lists of tuples
        The ranges of the parameters in each wave.

    Raises
    ------
    OSError
        If the file system has no room for them.
    """

    def __init__(
        self,
        scratch: Scratch,
        sizes: Sequence[int],
        dtypes: Sequence[np.dtype[Any]],
        places: Sequence[tuple[int, ...]],
        pieces: Sequence[Sequence[Piece]] | None = None,
    ) -> None:
        self.scratch = scratch
        self.layout = [*zip(sizes, dtypes, places, strict=True)]
        self.pieces = [*map(list, _cut(self.layout) if pieces is None else pieces)]
        self._offsets: list[np.ndarray[Any, Any]] = []  # of each array in a wave, -1 where none is
        self._first: dict[int, tuple[int, int]] = {}  # the wave and the piece a parameter begins in
        self._starts: dict[int, list[int]] = {}  # of all its pieces
        waves = []
        at = 0
        for wave, of_wave in enumerate(self.pieces):
            offsets, size = self._placed(of_wave)
            for n, (i, start, _) in enumerate(of_wave):
                self._first.setdefault(i, (wave, n))
                self._starts.setdefault(i, []).append(start)
            self._offsets.append(offsets)
            waves.append((at, size))
            at += size
        self.size = at
        self._waves = np.array(waves, np.int64).reshape(-1, 2)
        self._at: int | None = scratch.reserve(at)
        self._waves[:, 0] += self._at
        self._ring: Ring | None = None
        if at > 0:
            file = scratch.fd, scratch.direct
            self._ring = Ring(*file, self._waves, BUFFERS, scratch.failed)
        # What was read last, where it begins, and the waves that had been given back before.
        self._window = 0, memoryview(b""), 0

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give back the room in the file."""
        at, self._at = getattr(self, "_at", None), None
        if at is not None:
            self._ring = None  # whose threads must not write there any more
            self.scratch.release(at, self.size)

    @property
    def is_new(self) -> bool:
        """Whether all is zero still, since nothing was filled in and no sweep has changed it."""
        return self._at is not None and not (self._ring and self._ring.has_changed)

    def replaced(self, others: Callable[[], DiskState]) -> DiskState:
        """Return the state that takes the place of this one, which is new.

        What it needs may be more than there is room for beside this one, whose room it gets.
        """
        assert self._at is not None
        self.scratch.lend(self._at, self.size)
        try:
            return others()
        except BaseException:
            if self.scratch.fault is None:
                self.scratch.take_back(self._at, self.size)
            raise

    @property
    def moved(self) -> tuple[int, int]:
        """How many bytes sweeps have read and written."""
        return self._ring.moved if self._ring else (0, 0)

    def read(self, i: int, place: int, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Return a range of an array."""
        _, dtype, _ = self.layout[i]
        found = np.empty(stop - start, dtype)
        done = start
        while done < stop:
            at, left = self._place_of(i, place, done)
            n = min(stop - done, left)
            data = self._bytes(at, n * dtype.itemsize)
            found[done - start : done - start + n] = np.frombuffer(data, dtype)
            done += n
        return found

    def fill(self, sources: Sequence[dict[int, Source]]) -> None:
        """Fill the arrays of each parameter that have a source by place; all others stay."""
        if self._ring is None or not any(sources):
            return
        self.scratch.check()
        for wave in range(len(self.pieces)):
            self._fill(wave, self._ring.take(wave), sources)
            self._ring.give(True)

    def waves(self, used: Sequence[tuple[int, ...]]) -> RingWaves:
        """Return how a plan goes over the arrays that it uses of each parameter."""
        offsets = []
        for pieces, there in zip(self.pieces, self._offsets, strict=True):
            found = np.full((len(pieces), ARRAYS + 1), -1, np.intp)  # the last for a gradient
            for n, (i, _, _) in enumerate(pieces):
                places = [*used[i]]
                found[n, places] = there[n, places]
            offsets.append(found)
        return RingWaves(self._ring, self.pieces, offsets, self.scratch)

    def _fill(
        self, wave: int, data: np.ndarray[Any, Any], sources: Sequence[dict[int, Source]]
    ) -> None:
        for (i, start, stop), offsets in zip(self.pieces[wave], self._offsets[wave], strict=True):
            _, dtype, _ = self.layout[i]
            for place, source in sources[i].items():
                at = offsets[place]
                end = at + (stop - start) * dtype.itemsize
                data[at:end].view(dtype)[...] = source(start, stop)

    def _placed(self, pieces: Sequence[Piece]) -> tuple[np.ndarray[Any, Any], int]:
        """Return where in a wave each array of each piece begins, and the bytes of the wave."""
        offsets = np.full((len(pieces), ARRAYS), -1, np.intp)
        at = 0
        for n, (i, start, stop) in enumerate(pieces):
            _, dtype, places = self.layout[i]
            for place in places:
                offsets[n, place] = at
                at += _rounded((stop - start) * dtype.itemsize, LINE)
        return offsets, _rounded(at, BLOCK)

    def _place_of(self, i: int, place: int, start: int) -> tuple[int, int]:
        """Return where in the file an element is, and how many come with it there."""
        first, number = self._first[i]
        # Its array has one piece in each wave, from its first wave on.
        starts = self._starts[i]
        wave = first + bisect_right(starts, start) - 1
        n = number if wave == first else 0
        piece, (_, dtype, _) = self.pieces[wave][n], self.layout[i]
        at = self._waves[wave, 0] + self._offsets[wave][n, place]
        return int(at) + (start - piece.start) * dtype.itemsize, piece.stop - start

    def _bytes(self, at: int, size: int) -> memoryview:
        """Return some bytes of the file."""
        self.scratch.check()
        assert self._ring is not None
        self._ring.settle()
        first, window, given = self._window
        if given != self._ring.given or not first <= at <= at + size <= first + len(window):
            window = self.scratch.read(at, size, int(self._waves[-1].sum()))
            self._window = first, window, _ = at, window, self._ring.given
        return window[at - first : at - first + size]


def _cut(layout: Sequence[tuple[int, np.dtype[Any], tuple[int, ...]]]) -> Iterator[list[Piece]]:
    """Yield the pieces of each wave."""
    pieces: list[Piece] = []
    room = _wave_bytes
    for i, (size, dtype, places) in enumerate(layout):
        start = 0
        while start < size:
            fits = size - start
            if places:
                # Less what rounding up each array to a line may take.
                fits = room // len(places) // LINE * LINE // dtype.itemsize
                if fits < size - start:
                    fits = fits // SQUARES_TILE * SQUARES_TILE
            if fits == 0 and not pieces:
                fits = SQUARES_TILE  # as few as there can be
            stop = min(start + fits, size)
            if start < stop:
                pieces.append(Piece(i, start, stop))
                room -= len(places) * _rounded((stop - start) * dtype.itemsize, LINE)
                start = stop
            if start < size:
                yield pieces
                pieces, room = [], _wave_bytes
    if pieces:
        yield pieces


def _rounded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
