"""Sums over all ranks: what a plan adds up of all parts, and the first gradient that is not finite.

The sums of tiles come from all ranks in the order of these, which is that of the elements: so they
are added up as one process does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._ranks import Ranks


class SumsOfParts:
    """The sums of ranks that step parts of the same parameters.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    tiles : sequence of int
        How many tiles the part of each rank has.
    origin : function
        ``origin(label)``: the label of a gradient with the ranks on which it is not finite.
    """

    def __init__(self, ranks: Ranks, tiles: Sequence[int], origin: Callable[[str], str]) -> None:
        self._ranks, self._tiles, self._origin = ranks, np.asarray(tiles), origin

    def total(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the rows of all ranks."""
        columns = rows.shape[1]
        found = self._ranks.joined(rows.reshape(-1), columns * self._tiles)
        return found.reshape(-1, columns)

    each = total

    def first(self, bad: str | None) -> str | None:
        """Return the first label that a rank has found."""
        found = self._ranks.things(bad)
        labels = [text for text in found if text is not None]
        return self._origin(labels[0]) if labels else None


class SumsOfOwn:
    """The sums of ranks that have parameters of their own.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def total(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the rows of all ranks."""
        columns = rows.shape[1]
        return self._ranks.joined(rows.reshape(-1)).reshape(-1, columns)

    def each(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the rows of this rank, whose arrays no other rank has."""
        return rows

    def first(self, bad: str | None) -> str | None:
        """Return the first label that a rank has found, with that rank."""
        for rank, text in enumerate(self._ranks.things(bad)):
            if text is not None:
                return f"rank {rank}: {text}"
        return None
