"""What the engine is told of a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A parameter and what belongs to it.

    Parameters
    ----------
    p : ndarray
        The parameter.
    state : sequence of ndarray or None
        The state arrays of its rule, None for those that there are not.
    ema : ndarray, optional
        The average of p.
    mask : ndarray of bool, optional
        Which elements of p are kept, laid out like p.
    group : int, default 0
        The number of the group whose scalars its steps take.
    t : int, default 0
        The number of steps that it has taken.
    """

    p: Any
    state: Sequence[Any] = ()
    ema: Any = None
    mask: Any = None
    group: int = 0
    t: int = 0
