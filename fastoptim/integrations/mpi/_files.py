"""One file for all ranks: written by the first, to which the others send, and read by each.

The first rank writes what one process would write, byte for byte. The arrays of the state come to
it piece by piece, in the order of the file, so that no rank holds more than its part. Each rank
reads its part of a file; the first reads all of it, and says what each should have found.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ... import checkpoint
from ..._containers import Array
from ..._engine.disk import Source
from ._exchange import Exchange
from ._ranks import Ranks


class Spread:
    """A state array of which each rank has a range, as `checkpoint.write` reads it.

    Parameters
    ----------
    ranks : Ranks
        The ranks, all of which call `read` together; the first gets the elements.
    ranges : sequence of (int, int)
        The range of each rank.
    like : ndarray
        The parameter.
    own : function
        ``own(start, stop)``: elements of the range of this rank, counted from where it begins.
    """

    def __init__(
        self, ranks: Ranks, ranges: Sequence[tuple[int, int]], like: Array, own: Source
    ) -> None:
        self.shape, self.dtype, self.strides = like.shape, like.dtype, like.strides
        self._ranks, self._ranges, self._own = ranks, ranges, own
        self.pieces_left = checkpoint.pieces(self)

    def read(self, start: int, stop: int) -> Any:
        """Return some elements; on other ranks than the first, nothing that is of use."""
        self.pieces_left.pop(0)
        bounds = [(max(low, start), min(high, stop)) for low, high in self._ranges]
        counts = [max(0, high - low) for low, high in bounds]
        low, high = bounds[self._ranks.rank]
        first = self._ranges[self._ranks.rank][0]
        own = self._own(low - first, high - first) if low < high else self._own(0, 0)
        return self._ranks.collected(own, counts)

    def read_rest(self) -> None:
        """Send what is left, whether or not anybody has use for it."""
        while self.pieces_left:
            self.read(*self.pieces_left[0])


def spread(
    ranks: Ranks, exchange: Exchange, state: Mapping[Any, Mapping[str, Any]]
) -> dict[Any, dict[str, Any]]:
    """Return the state as a state dict has it, with `Spread` in the place of arrays."""
    found = {}
    for i, (key, entry) in enumerate(state.items()):
        ranges = [of_rank[i] for of_rank in exchange.ranges]
        found[key] = {
            name: value
            if isinstance(value, (int, float))
            else Spread(ranks, ranges, exchange.params[i], _source(value))
            for name, value in entry.items()
        }
    return found


def _source(array: Any) -> Source:
    """Return what gives ranges of a state array, which is in memory or on a disk."""
    if isinstance(array, checkpoint.Ranged):
        return array.read
    return lambda start, stop: array[start:stop]


def write(
    rank: int,
    path: str,
    saved: Mapping[str, Any],
    params: Mapping[Any, Any],
    prove: Callable[[str], None],
) -> BaseException | None:
    """Write a file on the first rank, and send to it from the others; return what went wrong.

    After an error of the first rank the others go on sending, as they do not know of it.
    """
    failed = None
    if rank == 0:
        try:
            checkpoint.write(path, saved, params, prove)
        except BaseException as error:
            failed = error
    for array in checkpoint.in_file_order(saved, params).values():
        if isinstance(array, Spread):
            array.read_rest()
    return failed


class Read(NamedTuple):
    """What a rank has read of a file."""

    saved: dict[str, Any]  # the state dict, with stand-ins for arrays
    arrays: dict[tuple[Any, str], Any]  # its ranges of the state, or their sources
    values: list[Any]  # of the parameters, or none
    checksum: int  # of what it has read
    checksums: list[int]  # of what each rank should have read, on the first rank


def read(
    source: checkpoint.Source,
    params: Mapping[Any, Array],
    exchange: Exchange,
    ranks: Ranks,
    in_ranges: bool,
) -> Read:
    """Return this rank's part of a file that fits, of which the first rank checks all.

    With `in_ranges`, the state is not read into memory: sources read it as long as the file is
    open.
    """
    own, checksums = exchange.ranges[ranks.rank], []
    if ranks.rank == 0:
        source.check()
        checksums = [_checksum(source, params, ranges) for ranges in exchange.ranges]
    checksum = _checksum(source, params, own) if in_ranges else 0
    arrays: dict[tuple[Any, str], Any] = {}
    for key, name, start, stop in _parts(source, params, own):
        if in_ranges and name != checkpoint.PARAM:
            arrays[key, name] = partial(_read_from, source, key, name, start)
        else:
            arrays[key, name] = source.read(key, name, start, stop)
        if not in_ranges:
            checksum = zlib.crc32(arrays[key, name].data, checksum)
    values = []
    for i, (key, p) in enumerate(params.items() if source.has_params else ()):
        values.append(np.empty_like(p, subok=False))
        exchange.flat.view(i, values[i])[:] = arrays.pop((key, checkpoint.PARAM))
    return Read(source.saved, arrays, values, checksum, checksums)


def _read_from(
    source: checkpoint.Source, key: Any, name: str, first: int, start: int, stop: int
) -> Array:
    """Return elements of an array in a file, counted from the first of a range."""
    return source.read(key, name, first + start, first + stop)


def _checksum(
    source: checkpoint.Source, params: Mapping[Any, Array], ranges: Sequence[tuple[int, int]]
) -> int:
    """Return the checksum of what a rank with these ranges is to have of a file."""
    found = 0
    for part in _chunks(source, params, ranges):
        found = zlib.crc32(source.read(*part).tobytes(), found)
    return found


def _parts(
    source: checkpoint.Source, params: Mapping[Any, Array], ranges: Sequence[tuple[int, int]]
) -> Iterator[tuple[Any, str, int, int]]:
    """Yield the key, the name and the range of each array in a file that a rank is to have."""
    range_of = dict(zip(params, ranges, strict=True))
    for *_, key, name in source.rows:
        yield key, name, *((0, params[key].size) if name == checkpoint.PARAM else range_of[key])


def _chunks(
    source: checkpoint.Source, params: Mapping[Any, Array], ranges: Sequence[tuple[int, int]]
) -> Iterator[tuple[Any, str, int, int]]:
    """Yield the same in ranges that take little memory."""
    for key, name, start, stop in _parts(source, params, ranges):
        for low in range(start, stop, checkpoint.CHUNK):
            yield key, name, low, min(low + checkpoint.CHUNK, stop)
