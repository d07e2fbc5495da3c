"""Every rule in plain NumPy: the specification that the compiled loops match bit for bit.

A rule is written in two halves. The first, ``_adam_scalars``, turns hyperparameters and the number
of the step, which counts from 1, into the scalars of that step, in Python floats; compiled loop and
reference receive the same tuple, rounded to the type of the parameters. The second, ``adam``,
updates the arrays; its twin in ``_loops.pxi`` has the same name, the same letters and the same
operations in the same order:

=========== ========================================================================
p, g        parameters; gradient, as `fastoptim._stages` leaves it
m, v, h ... state arrays, with the letters of the papers; None where the options need none
lr          learning rate, which also corrects m for its start at zero, where that is done
decay       decoupled weight decay: ``decay p`` takes the place of p
b1, a1      decay rate of an average, and 1 minus it, subtracted in double precision
r2          the factor that corrects the root of an average of squares for its start at zero
mu, nu      momentum; momentum in Nesterov's look-ahead, 0 without
u, trust    what is measured, and the coefficient of a trust ratio: see below
=========== ========================================================================

Some rules depend on the whole of an array: the last two multiply its learning rate by a trust
ratio. The engine calls them twice. In the first call u is an array: the rule writes there what is
to be measured, such as the direction of the step, and changes nothing else. The engine sums the
squares of p and u, and the function that the rule names as ``rescale`` makes other scalars of the
sums. In the second call u is None: the rule takes the step.

Each rule is a `Rule`: called with arrays and hyperparameters, it checks them and updates the arrays
in place:

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
from functools import lru_cache
from typing import Annotated

import numpy as np

from ._kinds import Betas, Choice, Fraction, NonNegative, NonNegativePair, Number, Switch
from ._rule import Rule, rule
from ._stages import Scalars, trust_ratio

Form = Annotated[str, Choice(("averaged", "heavy_ball"))]


def _sgd_scalars(
    step: int | None = None,
    lr: NonNegative = 1e-3,
    momentum: NonNegative = 0.0,
    dampening: Number = 0.0,
    nesterov: Switch = False,
) -> Scalars:
    if nesterov and dampening != 0:
        raise ValueError(f"nesterov: expected dampening = 0 with it, found dampening={dampening}")
    if step is None and dampening != 0 and momentum != 0:
        raise TypeError(
            "step: expected the number of the step, whose first is not dampened, with "
            f"dampening={dampening} and momentum={momentum}, found None"
        )
    # The first velocity is the gradient itself, as torch has it; so it is without dampening if v
    # is zero.
    mu, a = (0.0, 1.0) if step == 1 else (momentum, 1 - dampening)
    nu = momentum if nesterov else 0.0
    # As in torch the velocity stays as it is in a step whose momentum is 0.
    return mu, a, nu, lr, float(momentum == 0)


@rule(_sgd_scalars, needs={"v": "momentum"})
def sgd(p, g, v, /, mu, a, nu, lr, resting):
    """Gradient descent, with or without momentum; see `fastoptim.SGD`."""
    if resting != 0:
        v = None
    if v is not None:
        g = a * g
        v[...] = mu * v + g
        g = (g + nu * v) if nu != 0 else v  # a is 1 with nesterov, which needs dampening = 0
    p -= lr * g


def _momentum_scalars(
    lr: NonNegative = 0.01,
    momentum: Fraction = 0.9,
    form: Form = "averaged",
    nesterov: Switch = False,
) -> Scalars:
    nu = momentum if nesterov else 0.0
    if form == "heavy_ball":  # v = mu v - lr g; p = p + v
        return momentum, -lr, nu, -1.0, 0.0
    return momentum, 1 - momentum, nu, lr, 0.0


# The same update, with other scalars.
momentum = Rule(sgd.update, _momentum_scalars, name="momentum")


def _inside_and_added(eps: float, eps_inside: bool) -> tuple[float, float]:
    """Return what of eps is added under a root, and what is added to the root."""
    return (eps, 0.0) if eps_inside else (0.0, eps)


def _rmsprop_scalars(
    lr: NonNegative = 0.01,
    alpha: Fraction = 0.99,
    eps: NonNegative = 1e-8,
    momentum: NonNegative = 0.0,
    centered: Switch = False,
    eps_inside: Switch = False,
) -> Scalars:
    return alpha, 1 - alpha, momentum, lr, *_inside_and_added(eps, eps_inside)


@rule(_rmsprop_scalars, needs={"g_avg": "centered", "b": "momentum"})
def rmsprop(p, g, v, g_avg, b, /, alpha, a, mu, lr, inside, eps):
    """Gradient over its running root mean square; see `fastoptim.RMSprop`."""
    if mu == 0:  # as in torch, b stays as it is
        b = None
    v[...] = alpha * v + (a * g) * g
    d = v
    if g_avg is not None:
        g_avg[...] = alpha * g_avg + a * g
        d = v - g_avg * g_avg
        d = np.where(d < 0, 0, d)  # rounding may leave a negative variance
    d = np.sqrt(d + inside) + eps
    if b is not None:
        b[...] = mu * b + g / d
        p -= lr * b
    else:
        p -= (lr * g) / d


def _adagrad_scalars(
    step: int,
    lr: NonNegative = 0.01,
    lr_decay: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 0.0,
    eps: NonNegative = 1e-10,
    eps_inside: Switch = False,
) -> Scalars:
    return lr / (1 + (step - 1) * lr_decay), *_inside_and_added(eps, eps_inside)


@rule(_adagrad_scalars, starts={"h": "initial_accumulator_value"})
def adagrad(p, g, h, /, lr, inside, eps):
    """Gradient over the root of the sum of its squares; see `fastoptim.Adagrad`."""
    h += g * g
    p -= (lr * g) / (np.sqrt(h + inside) + eps)


def _adam_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    amsgrad: Switch = False,
    decoupled_weight_decay: Switch = False,
    eps_hat: Switch = False,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    lr, root = lr / (1 - b1**step), math.sqrt(1 - b2**step)
    if eps_hat:  # lr corrects v, too, so that eps is added to the root as it is
        return decay, b1, 1 - b1, b2, 1 - b2, lr * root, 1.0, eps
    # Multiplying by the reciprocal root, taken once here, spares each element a division.
    return decay, b1, 1 - b1, b2, 1 - b2, lr, 1 / root, eps


@rule(_adam_scalars, needs={"v_max": "amsgrad"}, decoupled="decoupled_weight_decay")
def adam(p, g, m, v, v_max, /, decay, b1, a1, b2, a2, lr, r2, eps):
    """Adam, with or without amsgrad; see `fastoptim.Adam` and `fastoptim.AdamW`."""
    m[...] = b1 * m + a1 * g
    v[...] = b2 * v + (a2 * g) * g
    if v_max is not None:
        v_max[...] = np.where(v_max >= v, v_max, v)  # a NaN in v gets into v_max
        v = v_max
    p[...] = decay * p - (lr * m) / (np.sqrt(v) * r2 + eps)


# The same rule, with other defaults.
adamw = Rule(
    adam.update,
    adam.scalars,
    needs=adam.needs,
    decoupled=adam.decoupled,
    name="adamw",
    defaults={"weight_decay": 0.01, "decoupled_weight_decay": True},
)


def _adadelta_scalars(
    lr: NonNegative = 1.0,
    rho: Fraction = 0.9,
    eps: NonNegative = 1e-6,
) -> Scalars:
    return rho, 1 - rho, lr, eps


@rule(_adadelta_scalars)
def adadelta(p, g, v, u, /, rho, a, lr, eps):
    """Gradient times a ratio of running root mean squares; see `fastoptim.Adadelta`."""
    v[...] = rho * v + (a * g) * g
    d = np.sqrt(u + eps) / np.sqrt(v + eps) * g
    u[...] = rho * u + (a * d) * d
    p -= lr * d


def _adamax_scalars(
    step: int,
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
) -> Scalars:
    b1, b2 = betas
    return b1, 1 - b1, b2, lr / (1 - b1**step), eps


@rule(_adamax_scalars)
def adamax(p, g, m, u, /, b1, a1, b2, lr, eps):
    """Adam with a running maximum for its root mean square; see `fastoptim.Adamax`."""
    m[...] = b1 * m + a1 * g
    d, fading = np.abs(g) + eps, b2 * u
    u[...] = np.where(fading >= d, fading, d)  # a NaN in g gets into u
    p -= (lr * m) / u


@lru_cache(maxsize=64)
def _products(b1: float, psi: float) -> dict[int, float]:
    """Return the products of NAdam's first t momenta, by t: a cache that `_nadam_product` fills."""
    return {0: 1.0}


def _nadam_momentum(step: int, b1: float, psi: float) -> float:
    return b1 * (1 - 0.5 * math.pow(0.96, step * psi))


def _nadam_product(step: int, b1: float, psi: float) -> float:
    """Return the product of the momenta of steps 1 to `step`, multiplied in that order.

    The products of fewer momenta are kept for the next calls. Two things end the multiplication
    early. A product so small that 1 minus it is 1 needs no further factor. A momentum that is b1
    itself is followed by others that are, whose product is a power. One of the two comes within
    3,100 steps, whatever b1 and psi are.
    """
    products = _products(b1, psi)
    t = len(products) - 1
    while t < step and products[t] > 1e-20 and _nadam_momentum(t, b1, psi) != b1:
        t += 1
        products[t] = products[t - 1] * _nadam_momentum(t, b1, psi)
    rest = step - t if products[t] > 1e-20 else 0
    return products[min(step, t)] * b1 ** max(rest, 0)


def _nadam_scalars(
    step: int,
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum_decay: NonNegative = 4e-3,
    decoupled_weight_decay: Switch = False,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    mu, mu_next = (_nadam_momentum(t, b1, momentum_decay) for t in (step, step + 1))
    product = _nadam_product(step, b1, momentum_decay)
    lr_g = lr * (1 - mu) / (1 - product)
    lr_m = lr * mu_next / (1 - product * mu_next)
    r2 = 1 / math.sqrt(1 - b2**step)
    return decay, b1, 1 - b1, b2, 1 - b2, lr_g, lr_m, r2, eps


@rule(_nadam_scalars, decoupled="decoupled_weight_decay")
def nadam(p, g, m, v, /, decay, b1, a1, b2, a2, lr_g, lr_m, r2, eps):
    """Adam with Nesterov's momentum; see `fastoptim.NAdam`."""
    m[...] = b1 * m + a1 * g
    v[...] = b2 * v + (a2 * g) * g
    p[...] = decay * p - (lr_g * g + lr_m * m) / (np.sqrt(v) * r2 + eps)


def _radam_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: Switch = False,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    c2 = 1 - b2**step
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * step * b2**step / c2
    lr = lr / (1 - b1**step)
    rectified = rho > 5
    if rectified:
        above, below = (rho - 4) * (rho - 2) * rho_inf, (rho_inf - 4) * (rho_inf - 2) * rho
        lr = lr * math.sqrt(c2 * above / below)
    return decay, b1, 1 - b1, b2, 1 - b2, lr, float(rectified), eps


@rule(_radam_scalars, decoupled="decoupled_weight_decay")
def radam(p, g, m, v, /, decay, b1, a1, b2, a2, lr, rectified, eps):
    """Adam that waits until its mean square can be relied upon; see `fastoptim.RAdam`."""
    m[...] = b1 * m + a1 * g
    v[...] = b2 * v + (a2 * g) * g
    if rectified != 0:
        p[...] = decay * p - (lr * m) / (np.sqrt(v) + eps)
    else:
        p[...] = decay * p - lr * m


def _sign(x):
    """Return 1, -1, or x itself where it is zero or NaN."""
    return np.where(x > 0, 1, np.where(x < 0, -1, x))


def _rprop_scalars(
    lr: NonNegative = 1e-2,  # where the step sizes start
    etas: NonNegativePair = (0.5, 1.2),
    step_sizes: NonNegativePair = (1e-6, 50.0),
) -> Scalars:
    if not 0 < etas[0] < 1 < etas[1]:
        raise ValueError(f"etas: expected two numbers, 0 < first < 1 < second, found {etas}")
    if not step_sizes[0] <= step_sizes[1]:
        raise ValueError(f"step_sizes: expected two numbers, low <= high, found {step_sizes}")
    return *etas, *step_sizes


@rule(_rprop_scalars, starts={"step_size": "lr"})
def rprop(p, g, prev, step_size, /, eta_minus, eta_plus, low, high):
    """Sign of the gradient times step sizes that follow it; see `fastoptim.Rprop`."""
    turn = _sign(g) * prev  # g * prev would round to 0 where both are small
    h = np.where(turn > 0, eta_plus, np.where(turn < 0, eta_minus, 1)) * step_size
    h = np.where(h < low, low, np.where(h > high, high, h))
    g = np.where(turn < 0, 0, g)
    step_size[...] = h
    prev[...] = g
    p -= _sign(g) * h


def _asgd_scalars(
    step: int,
    lr: NonNegative = 1e-2,
    lambd: NonNegative = 1e-4,
    alpha: NonNegative = 0.75,
    t0: NonNegative = 1e6,
) -> Scalars:
    eta = lr * (1 + lambd * lr * (step - 1)) ** -alpha
    return 1 - lambd * eta, eta, 1 / max(1, step - 1 - t0)


@rule(_asgd_scalars)
def asgd(p, g, ax, /, decay, eta, mu):
    """Gradient descent with an average of the parameters; see `fastoptim.ASGD`."""
    x = decay * p - eta * g
    ax[...] = ax + mu * (x - ax) if mu != 1 else x
    p[...] = x


def _lion_scalars(
    lr: NonNegative = 1e-4,
    betas: Betas = (0.9, 0.99),
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: Switch = True,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    return decay, b1, 1 - b1, b2, 1 - b2, lr


@rule(_lion_scalars, decoupled="decoupled_weight_decay")
def lion(p, g, m, /, decay, b1, a1, b2, a2, lr):
    """Sign of a momentum; see `fastoptim.Lion`."""
    c = b1 * m + a1 * g
    m[...] = b2 * m + a2 * g
    p[...] = decay * p - lr * _sign(c)


def _adabelief_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: Switch = False,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    r2 = 1 / math.sqrt(1 - b2**step)
    return decay, b1, 1 - b1, b2, 1 - b2, lr / (1 - b1**step), r2, eps, eps_root


@rule(_adabelief_scalars, decoupled="decoupled_weight_decay")
def adabelief(p, g, m, s, /, decay, b1, a1, b2, a2, lr, r2, eps, eps_root):
    """Adam with a variance for its mean square; see `fastoptim.AdaBelief`."""
    m[...] = b1 * m + a1 * g
    d = g - m
    s[...] = b2 * s + (a2 * d) * d + eps_root
    p[...] = decay * p - (lr * m) / (np.sqrt(s) * r2 + eps)


def _trusted(own, p_squares, u_squares, size):
    """Multiply the learning rate of an array by its trust ratio."""
    return own._replace(lr=own.lr * trust_ratio(p_squares, u_squares, own.trust))


def _lamb_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: Switch = True,
) -> Scalars:
    wd = weight_decay if decoupled_weight_decay else 0.0
    b1, b2 = betas
    r1, r2 = 1 / (1 - b1**step), 1 / math.sqrt(1 - b2**step)
    return lr, 1.0, wd, b1, 1 - b1, b2, 1 - b2, r1, r2, eps


@rule(_lamb_scalars, decoupled="decoupled_weight_decay", rescale=_trusted)
def lamb(p, g, m, v, u, /, lr, trust, wd, b1, a1, b2, a2, r1, r2, eps):
    """Adam with a trust ratio for each array; see `fastoptim.LAMB`."""
    m_new = b1 * m + a1 * g
    v_new = b2 * v + (a2 * g) * g
    d = (r1 * m_new) / (np.sqrt(v_new) * r2 + eps) + wd * p
    if u is not None:
        u[...] = d
        return
    m[...] = m_new
    v[...] = v_new
    p -= lr * d


def _lars_scalars(
    lr: NonNegative = 1.0,
    momentum: NonNegative = 0.9,
    trust_coefficient: NonNegative = 1e-3,
    nesterov: Switch = False,
) -> Scalars:
    return lr, trust_coefficient, momentum, momentum if nesterov else 0.0


@rule(_lars_scalars, rescale=_trusted)
def lars(p, g, v, u, /, lr, trust, mu, nu):
    """Momentum with a trust ratio for each array; see `fastoptim.LARS`."""
    if u is not None:
        u[...] = g
        return
    d = lr * g
    v[...] = mu * v + d
    p -= (d + nu * v) if nu != 0 else v


__all__ = sorted(name for name, value in list(globals().items()) if isinstance(value, Rule))


def __dir__() -> list[str]:
    return __all__
