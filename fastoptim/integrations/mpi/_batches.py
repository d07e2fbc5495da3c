"""Batches: gradients that are added up before a step, as the leaves of a balanced tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._containers import Array
from ._tree import Tree


class Batches:
    """The gradients of the batches since the last step, but for the last one.

    Parameters
    ----------
    params : function
        Returns the parameters, as which sums are stored and laid out.
    """

    def __init__(self, params: Callable[[], Sequence[Array]]) -> None:
        self._params = params
        self._tree: Tree[list[Any]] = Tree(self._added, self._kept)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return self._tree.count

    def take(self, grads: list[Any]) -> None:
        """Add the gradients of a batch, each an array or None."""
        self._tree.take(grads)

    def clear(self) -> None:
        """Forget all batches."""
        self._tree.clear()

    def leaves(self, i: int, last: Any) -> list[Any]:
        """Return what is added up for one parameter, from the last to the first."""
        found = [sums[i] for sums in self._tree.sums if sums[i] is not None]
        return found if last is None or (found and last is found[-1]) else [*found, last]

    def present(self, grads: Sequence[Any]) -> list[Any]:
        """Return the gradients of the last batch; where there is none, the last sum there is."""
        leaves = [self.leaves(i, g) for i, g in enumerate(grads)]
        return [of_one[-1] if of_one else None for of_one in leaves]

    def totals(self, grads: Sequence[Any]) -> list[Any]:
        """Return the sums of all batches and a last one."""
        found = self._kept(self.present(grads))
        for i, (total, g) in enumerate(zip(found, grads, strict=True)):
            for before in reversed(self.leaves(i, g)[:-1]):
                _add(before, total, total)
        return found

    def _added(self, ours: list[Any], others: list[Any]) -> list[Any]:
        """Return the sums of two lists of gradients, in the place of the first where it has any."""
        copies = self._kept([b if a is None else None for a, b in zip(ours, others, strict=True)])
        for a, b in zip(ours, others, strict=True):
            if a is not None and b is not None:
                _add(a, b.reshape(a.shape), a)
        return [b if a is None else a for a, b in zip(ours, copies, strict=True)]

    def _kept(self, grads: list[Any]) -> list[Any]:
        """Return copies of gradients, as their parameters are stored and laid out."""
        found: list[Any] = []
        for g, p in zip(grads, self._params(), strict=True):
            found.append(None if g is None else np.empty_like(p, subok=False))
            if g is not None:
                with np.errstate(all="ignore"):
                    found[-1][...] = g.reshape(p.shape)
        return found


def _add(a: Any, b: Any, out: Any) -> None:
    """Add two arrays, of which b may have to be rounded first, as a single gradient would be."""
    with np.errstate(all="ignore"):
        np.add(a, b.astype(a.dtype, copy=False), out=out)
