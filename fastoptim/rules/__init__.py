"""Rules of one's own: written as a function in NumPy, compiled to a loop with the same bits.

`rule` makes a rule of a function, and `optimizer` a class of the rule. In the function stand
`where`, `sqrt` and `abs`, which are NumPy's. What a hyperparameter may be is said by the names in
`fastoptim.typing`, such as ``NonNegative``.

>>> import math
>>> import numpy as np
>>> import fastoptim as fo
>>> from fastoptim.typing import Betas, NonNegative
>>> def my_scalars(step, lr: NonNegative = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8):
...     b1, b2 = betas
...     r2 = 1 / math.sqrt(1 - b2**step)
...     return b1, 1 - b1, b2, 1 - b2, lr / (1 - b1**step), r2, eps
>>> @fo.rule(state=("m", "v"), scalars=my_scalars)
... def mine(p, g, m, v, b1, a1, b2, a2, lr, r2, eps):
...     m = b1 * m + a1 * g
...     v = b2 * v + (a2 * g) * g
...     return p - (lr * m) / (fo.sqrt(v) * r2 + eps), m, v
>>> Mine = fo.optimizer(mine)
>>> p = np.array([1.0, 2.0])
>>> opt = Mine(p, lr=0.1, backend="reference")
>>> opt.step(np.array([1.0, 0.0]))
>>> p
array([0.9, 2. ])
"""

from numpy import abs as abs
from numpy import sqrt, where

from ._classes import optimizer
from ._given import get_include
from ._own import rule

__all__ = ["get_include", "optimizer", "rule", "sqrt", "where"]


def __dir__() -> list[str]:
    return [*__all__, "abs"]  # which a star import would put into the place of Python's own
