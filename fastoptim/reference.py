"""Every rule in plain NumPy: the specification that the compiled kernels match bit for bit.

A rule is written in two halves. The first turns hyperparameters and the number of the step into
the scalars of that step, in Python floats; kernel and reference receive the same tuple, rounded
to the type of the parameters. The second updates the arrays; its twin in ``_kernels.pxi`` has the
same name, the same letters and the same operations in the same order:

======== ==========================================================================
p, g     parameters; gradient, as `fastoptim._stages` leaves it
decay    decoupled weight decay: ``decay p`` takes the place of p
m, v, h  state arrays; the letters are those of the papers
a        1 minus the decay rate beside it, taken in double precision
======== ==========================================================================

Each rule is called with arrays, which it updates in place, and hyperparameters:

>>> import numpy as np
>>> from fastoptim import reference
>>> p, g = np.ones(3), np.array([1.0, -2.0, 0.0])
>>> m, v = np.zeros(3), np.zeros(3)
>>> reference.adam(p, g, m, v, step=1, lr=0.1)
>>> p
array([0.9, 1.1, 1. ])
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np

from ._kinds import Betas, Choice, Fraction, NonNegative, Number, Switch
from ._rule import Rule, rule
from ._stages import Scalars

Form = Annotated[str, Choice(("averaged", "heavy_ball"))]


def _sgd_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    momentum: NonNegative = 0.0,
    dampening: Number = 0.0,
    nesterov: Switch = False,
) -> Scalars:
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(
            "nesterov: expected momentum > 0 and dampening = 0 with it, "
            f"found momentum={momentum} and dampening={dampening}"
        )
    # The first velocity is the gradient itself, as torch has it.
    mu, a = (0.0, 1.0) if step == 1 else (momentum, 1 - dampening)
    nu = momentum if nesterov else 0.0
    return mu, a, nu, lr


@rule(_sgd_scalars, needs={"v": "momentum"})
def sgd(p, g, v, /, mu, a, nu, lr):
    """Gradient descent, with or without momentum; see `fastoptim.SGD`."""
    if v is not None:
        v[...] = mu * v + a * g
        g = g + nu * v if nu != 0 else v
    p[...] = p - lr * g


def _momentum_scalars(
    step: int,
    lr: NonNegative = 0.01,
    momentum: Fraction = 0.9,
    form: Form = "averaged",
) -> Scalars:
    if form == "heavy_ball":  # v = mu v - lr g; p = p + v
        return momentum, -lr, 0.0, -1.0
    return momentum, 1 - momentum, 0.0, lr


# The same update, with other scalars.
momentum = Rule(sgd.update, _momentum_scalars, name="momentum")


def _rmsprop_scalars(
    step: int,
    lr: NonNegative = 0.01,
    alpha: Fraction = 0.99,
    eps: NonNegative = 1e-8,
    momentum: NonNegative = 0.0,
    centered: Switch = False,
) -> Scalars:
    return alpha, 1 - alpha, momentum, lr, eps


@rule(_rmsprop_scalars, needs={"g_avg": "centered", "b": "momentum"})
def rmsprop(p, g, v, g_avg, b, /, alpha, a, mu, lr, eps):
    """Gradient over its running root mean square; see `fastoptim.RMSprop`."""
    v[...] = alpha * v + (a * g) * g
    d = v
    if g_avg is not None:
        g_avg[...] = alpha * g_avg + a * g
        d = v - g_avg * g_avg
        d = np.where(d < 0, 0, d)  # rounding may leave a negative variance
    d = np.sqrt(d) + eps
    if b is not None:
        b[...] = mu * b + g / d
        p[...] = p - lr * b
    else:
        p[...] = p - (lr * g) / d


def _adagrad_scalars(
    step: int,
    lr: NonNegative = 0.01,
    lr_decay: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 0.0,
    eps: NonNegative = 1e-10,
) -> Scalars:
    return lr / (1 + (step - 1) * lr_decay), eps


@rule(_adagrad_scalars, starts={"h": "initial_accumulator_value"})
def adagrad(p, g, h, /, lr, eps):
    """Gradient over the root of the sum of its squares; see `fastoptim.Adagrad`."""
    h[...] = h + g * g
    p[...] = p - (lr * g) / (np.sqrt(h) + eps)


def _adam_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    amsgrad: Switch = False,
    decoupled_weight_decay: Switch = False,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    # Multiplying by the reciprocal root, taken once here, spares each element a division.
    r2 = 1 / math.sqrt(1 - b2**step)
    return decay, b1, 1 - b1, b2, 1 - b2, lr / (1 - b1**step), r2, eps


@rule(_adam_scalars, needs={"v_max": "amsgrad"})
def adam(p, g, m, v, v_max, /, decay, b1, a1, b2, a2, lr, r2, eps):
    """Adam, with or without amsgrad; see `fastoptim.Adam` and `fastoptim.AdamW`."""
    m[...] = b1 * m + a1 * g
    v[...] = b2 * v + (a2 * g) * g
    if v_max is not None:
        v_max[...] = np.where(v_max >= v, v_max, v)  # a NaN in v shows
        v = v_max
    p[...] = decay * p - (lr * m) / (np.sqrt(v) * r2 + eps)
