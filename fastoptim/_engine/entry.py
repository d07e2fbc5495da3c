"""What the engine is told of a parameter, and of a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    rule : int, default 0
        The number of its rule.
    numbers : tuple of float, optional
        What else its rule keeps of the steps that it has taken, as scalars are made of it.
    measured : bool, default False
        Whether the rule is rescaled by the direction of each of its steps.
    range : tuple of two int, optional
        The first element that is stepped, and the one behind the last, in the order of p's memory.
        State and average are then one-dimensional and have these elements alone; any of them may be
        `fastoptim._engine.parts.ELSEWHERE`. Without a range, all of p is stepped.
    """

    p: Any
    state: Sequence[Any] = ()
    ema: Any = None
    mask: Any = None
    group: int = 0
    t: int = 0
    rule: int = 0
    numbers: tuple[float, ...] = ()
    measured: bool = False
    range: tuple[int, int] | None = None


class Twin(NamedTuple):
    """A rule in NumPy.

    Parameters
    ----------
    update : function
        ``update(p, g, *state, *scalars)`` changes p and the state in place.
    rescale : function, optional
        ``rescale(own, p_squares, u_squares, size)``: the scalars of the rule for a parameter of so
        many elements whose squares, and those of a direction of its step, have these sums. The last
        array of the update is then the place for that direction.
    adopt : function, optional
        ``adopt(own)``: the scalars of a step as a tuple of so many floats as the update takes, if
        they are not that, or an error that says what they are. Without it they are trusted.
    scalars : int, default 0
        How many floats that are.
    """

    update: Callable[..., None]
    rescale: Callable[[tuple[float, ...], float, float, int], tuple[float, ...]] | None = None
    adopt: Callable[[Any], tuple[float, ...]] | None = None
    scalars: int = 0
