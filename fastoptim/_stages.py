"""What every optimizer does around its rule, in NumPy: the twins of the stages in _loops.pxi.

Before: the rule does not see the gradient g but

    g = scale g;  g = clip(g, -limit, limit);  g = g + l1 sign(p);  g = g + wd p

where scale is 1, or -1 to maximise; times what brings the norm of the gradient of one array down to
its limit, where there is one (the engine measures it, and the loops do not know). The last three
are left out where nobody asked for them: 0 p is not 0 where p is not finite, and each would cost
the plain step something. Clipping and l1, which few use, are behind one condition, since the
compiler makes a vector loop of each combination of conditions.

After: for the bounds, the mask of pruned weights and the average of the parameters,

    p = keep(p);  ema = keep(d ema + (1 - d) p)

where keep clips to [low, high], and makes 0 where the mask is False. The average needs it, too: a
rounding could take it out of the bounds, and it is outside where the bounds have changed.

In the compiled backend this stage is a loop of its own, which follows the rule tile by tile, while
the tile is in the cache. Inside of the rule's loop, each part of it would double the number of
vector loops of every rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ._kinds import MaybeFraction, MaybeLimits, MaybeNonNegative, NonNegative, Switch

Scalars = tuple[float, ...]  # of a rule, in the order in which its update takes them


class Before(NamedTuple):
    """The scalars of the stage before the rule."""

    scale: float
    weight_decay: float = 0.0
    rare: float = 0.0  # whether there is a limit or l1
    limit: float = math.inf
    l1: float = 0.0
    max_norm: float = math.inf  # of the gradient of one array


class After(NamedTuple):
    """The scalars of the stage after the rule."""

    low: float = -math.inf
    high: float = math.inf
    decay: float = 0.0  # of the average
    rest: float = 1.0  # 1 - decay


def before_scalars(
    scale: float,
    weight_decay: NonNegative = 0.0,
    l1: NonNegative = 0.0,
    max_grad_value: MaybeNonNegative = None,
    maximize: Switch = False,
    max_param_grad_norm: MaybeNonNegative = None,
) -> Before:
    """Return the scalars of the stage before the rule, for gradients to be multiplied by scale."""
    limit = math.inf if max_grad_value is None else max_grad_value
    rare = float(limit < math.inf or l1 > 0)
    norm = math.inf if max_param_grad_norm is None else max_param_grad_norm
    return Before(-scale if maximize else scale, weight_decay, rare, limit, l1, norm)


def before(g: Any, p: Any, scale: Any, wd: Any, rare: Any, limit: Any, l1: Any, _: Any) -> Any:
    """Return the gradient that the rule sees."""
    g = scale * g
    if rare != 0:
        g = clipped(g, limit)
        g = g + np.where(p > 0, l1, np.where(p < 0, -l1, np.zeros_like(l1)))
    if wd != 0:
        g = g + wd * p
    return g


def clipped(g: Any, limit: Any) -> Any:
    """Return what a limit leaves of the magnitude of each element; a NaN stays."""
    return np.where(g > limit, limit, np.where(g < -limit, -limit, g))


def after_scalars(bounds: MaybeLimits = None, ema_decay: MaybeFraction = None) -> After:
    """Return the scalars of the stage after the rule."""
    low, high = (-math.inf, math.inf) if bounds is None else bounds
    d = 0.0 if ema_decay is None else ema_decay
    return After(low, high, d, 1 - d)


def after(p: Any, ema: Any, mask: Any, low: Any, high: Any, d: Any, a: Any) -> None:
    """Update p and its average in place, once the rule has updated p."""
    p[...] = kept(p, mask, low, high)
    if ema is not None:
        ema[...] = kept(d * ema + a * p, mask, low, high)


def kept(x: Any, mask: Any, low: Any, high: Any) -> Any:
    """Return what bounds and mask leave of a parameter, or of its average."""
    x = np.where(x < low, low, np.where(x > high, high, x))
    return x if mask is None else np.where(mask, x, np.zeros_like(low))


def trust_ratio(p_squares: float, u_squares: float, coefficient: float) -> float:
    """Return what the learning rate of one array is multiplied by: coefficient |p| / |u|.

    It is 1 where either norm is 0.
    """
    if p_squares == 0 or u_squares == 0:
        return 1.0
    return coefficient * math.sqrt(p_squares) / math.sqrt(u_squares)


LANES, SQUARES_TILE = 16, 2048


def sum_of_squares(g: Any, scale: float) -> Iterator[float]:
    """Yield the sum of the squares of scale g, which has one axis, in tiles of 2,048 elements.

    Within a tile, 16 running sums take them in turn.
    """
    x = scale * g.astype(np.float64)
    for start in range(0, x.size, SQUARES_TILE):
        tile = x[start : start + SQUARES_TILE]
        rows = np.zeros((-(-tile.size // LANES), LANES))
        rows.reshape(-1)[: tile.size] = tile * tile
        lanes = np.add.reduce(rows, axis=0)  # row after row
        while lanes.size > 1:
            lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
        yield float(lanes[0])


def own_clip_factor(norm: float, max_norm: float) -> float:
    """Return what the gradient of one array, of this norm, is multiplied by, as Keras has it."""
    return 1.0 if norm <= max_norm else max_norm / norm  # a NaN stays


def clip_factor(norm: float, max_norm: float) -> float:
    """Return what all gradients, of this norm together, are multiplied by, as torch has it."""
    factor = max_norm / (norm + 1e-6)
    return 1.0 if factor >= 1 else factor  # a NaN stays
