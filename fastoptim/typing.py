"""Types for programs that a type checker reads.

==================== ==========================================================================
`Array`              a float32 or float64 array
`Params`, `Grads`    what optimizers take as parameters, and what `fastoptim.Optimizer.step` takes
`Mask`, `Masks`      an array of bool, and what ``mask=`` takes
`Scheduled`          ``Scheduled[float]`` is a float, or a function from the number of steps to one,
                     such as a `fastoptim.schedules.Schedule`: what ``lr=`` takes
`ScheduledPair`      two of them, or a function that returns two floats: what ``betas=`` takes
`ScheduledTriple`    three of them: what ``betas=`` of `fastoptim.AdEMAMix` takes
`Number`             a hyperparameter of a rule of one's own (see `fastoptim.rule`) that is any
                     finite number
`NonNegative`        one that is at least 0
`Fraction`           one that is at least 0 and below 1
`NonNegativePair`    one that is two numbers, each at least 0
`Betas`              one that is two numbers, each at least 0 and below 1
`Switch`             one that is True or False
==================== ==========================================================================

>>> import numpy as np
>>> import fastoptim as fo
>>> from fastoptim.typing import Array, Scheduled
>>> def trained(w: Array, lr: Scheduled[float] = 0.1) -> Array:
...     opt = fo.SGD(w, lr=lr)
...     for _ in range(2):
...         opt.step(np.sign(w))
...     return w
>>> trained(np.ones(2), lr=lambda t: 0.5 / (t + 1))
array([0.25, 0.25])
"""

from ._containers import Array, Grads, Mask, Masks, Params
from ._kinds import Betas, Fraction, NonNegative, NonNegativePair, Number, Switch
from ._rule import Scheduled, ScheduledPair, ScheduledTriple

__all__ = [
    "Array",
    "Betas",
    "Fraction",
    "Grads",
    "Mask",
    "Masks",
    "NonNegative",
    "NonNegativePair",
    "Number",
    "Params",
    "Scheduled",
    "ScheduledPair",
    "ScheduledTriple",
    "Switch",
]


def __dir__() -> list[str]:
    return __all__
