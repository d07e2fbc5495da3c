"""The balanced tree: the one order in which gradients of several ranks, or batches, are added.

Leaves are added in pairs of neighbours, the sums again in pairs, and so on; what is left over at
the end of a level waits for the next one. So the sum of four leaves is (0 + 1) + (2 + 3), whoever
adds them: one process, two that have two leaves each, or four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

Leaf = TypeVar("Leaf")


def add_rows(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the sum of the rows of an array, in the place of the first; the others are lost."""
    distance, count = 1, len(rows)
    with np.errstate(all="ignore"):
        while distance < count:
            for i in range(0, count - distance, 2 * distance):
                np.add(rows[i], rows[i + distance], out=rows[i])
            distance *= 2
    total: np.ndarray[Any, Any] = rows[0]
    return total


class Tree(Generic[Leaf]):
    """A sum to which leaves are added one after the other.

    Parameters
    ----------
    add : function
        ``add(a, b)``: the sum of two neighbours, of which the first may be changed.
    keep : function
        ``keep(leaf)``: a leaf that may be changed later.
    """

    def __init__(self, add: Callable[[Leaf, Leaf], Leaf], keep: Callable[[Leaf], Leaf]) -> None:
        self._add, self._keep = add, keep
        self._sums: list[tuple[int, Leaf]] = []  # how many leaves each has, ever fewer
        self.count = 0  # of leaves

    @property
    def sums(self) -> list[Leaf]:
        """Sums that, added up with one more leaf from the last to the first, are all of them."""
        return [found for _, found in self._sums]

    def take(self, leaf: Leaf) -> None:
        """Add a leaf behind the others."""
        size = 1
        while self._sums and self._sums[-1][0] == size:
            _, before = self._sums[-1]
            leaf, size = self._add(before, leaf), 2 * size
            self._sums.pop()
        self._sums.append((size, leaf if size > 1 else self._keep(leaf)))
        self.count += 1

    def clear(self) -> None:
        """Forget all leaves."""
        self._sums, self.count = [], 0
