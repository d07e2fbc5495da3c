"""Waves: the pieces of all ranks' ranges that are sent at a time, and where they lie in a buffer.

The elements of all arrays are one flat space, of which each rank has one range. A wave is a slice
of every rank's range, so that all ranks send and add as much as each other. Nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..._containers import Array
from ..._engine.parts import Piece

ALIGNED = 8  # bytes, of every number that is computed on


class Placed(NamedTuple):
    """A piece, and where it begins among the bytes that its rank has of a wave."""

    array: int
    start: int
    stop: int
    at: int


class Slice(NamedTuple):
    """What a rank has of a wave: first the elements of eight bytes, then those of four."""

    pieces: list[Placed]
    nbytes: int
    sections: list[tuple[Any, int, int]]  # the dtypes, and where the bytes of each begin and end


def placed(pieces: Sequence[Piece], params: Sequence[Array], stepped: Sequence[bool]) -> Slice:
    """Return where those pieces lie in a buffer whose arrays are stepped."""
    found, sections, at = [], [], 0
    for dtype in sorted({params[i].dtype for i, _, _ in pieces}, key=lambda d: -d.itemsize):
        first = at
        for i, start, stop in pieces:
            if stepped[i] and params[i].dtype == dtype:
                found.append(Placed(i, start, stop, at))
                at += (stop - start) * dtype.itemsize
        if at > first:
            sections.append((dtype, first, at))
    return Slice(found, at, sections)


class Flat:
    """Some arrays as flat ranges of elements, in the order in which parameters lie in memory.

    Parameters
    ----------
    params : sequence of ndarray
        The parameters, which are dense.
    """

    def __init__(self, params: Sequence[Array]) -> None:
        self._params = params
        self._axes = [np.argsort([-s for s in p.strides], kind="stable") for p in params]
        self.params = [self.view(i, p) for i, p in enumerate(params)]

    def view(self, i: int, array: Any) -> Any:
        """Return what gives, for a slice, elements of an array that is like the i-th parameter."""
        array = array.reshape(self._params[i].shape).transpose(self._axes[i])
        dense = array.flags.c_contiguous
        return array.reshape(-1) if dense else array.flat


def padded(nbytes: int) -> int:
    """Return so many bytes, and those up to where a number may begin."""
    return -(-nbytes // ALIGNED) * ALIGNED
