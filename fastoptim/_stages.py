"""What every optimizer does around its rule, in NumPy: the twins of the stages in _kernels.pxi.

Before: the rule does not see the gradient g but

    g = scale g;  g = clip(g, -limit, limit);  g = g + l1 sign(p);  g = g + wd p

where scale is 1, or -1 to maximise. The last three are left out where nobody asked for them: 0 p is
not 0 where p is not finite, and each would cost the plain step something. Clipping and l1, which
few ask for, are asked for together, so that there are half as many loops.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._kinds import MaybeNonNegative, NonNegative, Switch

Scalars = tuple[float, ...]


def before_scalars(
    scale: float,
    weight_decay: NonNegative = 0.0,
    l1: NonNegative = 0.0,
    max_grad_value: MaybeNonNegative = None,
    maximize: Switch = False,
) -> Scalars:
    """Return the scalars of the stage before the rule, for gradients to be multiplied by scale."""
    limit = math.inf if max_grad_value is None else max_grad_value
    rare = float(limit < math.inf or l1 > 0)
    return (-scale if maximize else scale), weight_decay, rare, limit, l1


def before(g: Any, p: Any, scale: Any, wd: Any, rare: Any, limit: Any, l1: Any) -> Any:
    """Return the gradient that the rule sees."""
    g = scale * g
    if rare != 0:
        g = np.where(g > limit, limit, np.where(g < -limit, -limit, g))
        g = g + np.where(p > 0, l1, np.where(p < 0, -l1, np.zeros_like(l1)))
    if wd != 0:
        g = g + wd * p
    return g
