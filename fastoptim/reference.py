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

Some rules depend on the whole of an array: LAMB and LARS multiply its learning rate by a trust
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
from typing import Annotated, Any

import numpy as np

from ._kinds import (
    Betas,
    Choice,
    Fraction,
    Invertible,
    NonNegative,
    NonNegativePair,
    Number,
    Switch,
    ThreeBetas,
)
from ._rule import Rule, rule
from ._stages import Scalars, clipped, trust_ratio

SMALLEST = float(np.finfo(np.float32).tiny)  # number that is normal in either type
Form = Annotated[str, Choice(("averaged", "heavy_ball"))]


def _keeps(x, g, cautious):
    """Tell where a step along x is taken: if cautious, not where it does not go down."""
    return ~(_sign(x) * g <= 0) if cautious != 0 else True  # NaN is no reason to stay


def _made_up_for(own, p_squares, u_squares, size):
    """Divide the learning rate of an array by the share of its elements that take the step."""
    return own._replace(lr=own.lr / max(u_squares / max(size, 1), 1e-3))


def _taken(keep, x):
    """Return x, but 0 where a step along it is not taken."""
    return x if keep is True else np.where(keep, x, 0)


CAUTIOUS: dict[str, Any] = {"rescale": _made_up_for, "measures": "cautious"}


def _sgd_scalars(
    step: int | None = None,
    lr: NonNegative = 1e-3,
    momentum: NonNegative = 0.0,
    dampening: Number = 0.0,
    nesterov: Switch = False,
    cautious: Switch = False,
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
    resting = momentum == 0
    return mu, a, nu, lr, float(resting), float(cautious and not resting)


def _sgd_rests(hyper):
    return not callable(hyper["momentum"]) and hyper["momentum"] == 0


@rule(_sgd_scalars, needs={"v": "momentum"}, rests=_sgd_rests, lazy=True, **CAUTIOUS)
def sgd(p, g, v, u, /, mu, a, nu, lr, resting, cautious):
    """Gradient descent, with or without momentum; see `fastoptim.SGD`."""
    if resting != 0:
        v = None
    d = g
    if v is not None:
        d = a * g
        v_new = mu * v + d
        d = (d + nu * v_new) if nu != 0 else v_new  # a is 1 with nesterov: dampening is 0
    keep = _keeps(lr * d, g, cautious)
    if u is not None:
        u[...] = keep
        return
    if v is not None:
        v[...] = v_new
    p -= lr * _taken(keep, d)


def _momentum_scalars(
    lr: NonNegative = 0.01,
    momentum: Fraction = 0.9,
    form: Form = "averaged",
    nesterov: Switch = False,
    cautious: Switch = False,
) -> Scalars:
    nu = momentum if nesterov else 0.0
    if form == "heavy_ball":  # v = mu v - lr g; p = p + v
        return momentum, -lr, nu, -1.0, 0.0, float(cautious)
    return momentum, 1 - momentum, nu, lr, 0.0, float(cautious)


# The same update, with other scalars.
momentum = Rule(sgd.update, _momentum_scalars, name="momentum", lazy=True, **CAUTIOUS)


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


@rule(_rmsprop_scalars, needs={"g_avg": "centered", "b": "momentum"}, lazy=True)
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


def _adagrad_rests(hyper):
    # 0 is divided by it where there were no gradients; a smaller one may be rounded to 0
    return not callable(hyper["eps"]) and hyper["eps"] >= SMALLEST


@rule(_adagrad_scalars, starts={"h": "initial_accumulator_value"}, rests=_adagrad_rests)
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
    cautious: Switch = False,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    lr, root = lr / (1 - b1**step), math.sqrt(1 - b2**step)
    # Multiplying by the reciprocal root, taken once here, spares each element a division.
    r2 = 1 / root
    if eps_hat:  # lr corrects v, too, so that eps is added to the root as it is
        lr, r2 = lr * root, 1.0
    return decay, b1, 1 - b1, b2, 1 - b2, lr, r2, eps, float(cautious)


@rule(
    _adam_scalars,
    needs={"v_max": "amsgrad"},
    decoupled="decoupled_weight_decay",
    lazy=True,
    **CAUTIOUS,
)
def adam(p, g, m, v, v_max, u, /, decay, b1, a1, b2, a2, lr, r2, eps, cautious):
    """Adam, with or without amsgrad; see `fastoptim.Adam` and `fastoptim.AdamW`."""
    m_new = b1 * m + a1 * g
    keep = _keeps(m_new, g, cautious)
    if u is not None:
        u[...] = keep
        return
    m[...] = m_new
    v[...] = b2 * v + (a2 * g) * g
    if v_max is not None:
        v_max[...] = np.where(v_max >= v, v_max, v)  # a NaN in v gets into v_max
        v = v_max
    p[...] = decay * p - (lr * _taken(keep, m)) / (np.sqrt(v) * r2 + eps)


# The same rule, with other defaults.
adamw = Rule(
    adam.update,
    adam.scalars,
    needs=adam.needs,
    decoupled=adam.decoupled,
    name="adamw",
    lazy=True,
    **CAUTIOUS,
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


@rule(_adamax_scalars, lazy=True)
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


def nadam_momentum(step: int, b1: float, psi: float) -> float:
    """Return NAdam's momentum of a step."""
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
    while t < step and products[t] > 1e-20 and nadam_momentum(t, b1, psi) != b1:
        t += 1
        products[t] = products[t - 1] * nadam_momentum(t, b1, psi)
    rest = step - t if products[t] > 1e-20 else 0
    return products[min(step, t)] * b1 ** max(rest, 0)


def nadam_rates(step: int, lr: float, b1: float, psi: float, product: float) -> tuple[float, float]:
    """Return NAdam's rates of the gradient and of its average, given the product of the momenta."""
    mu, mu_next = (nadam_momentum(t, b1, psi) for t in (step, step + 1))
    return lr * (1 - mu) / (1 - product), lr * mu_next / (1 - product * mu_next)


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
    product = _nadam_product(step, b1, momentum_decay)
    rates = nadam_rates(step, lr, b1, momentum_decay, product)
    r2 = 1 / math.sqrt(1 - b2**step)
    return decay, b1, 1 - b1, b2, 1 - b2, *rates, r2, eps


@rule(_nadam_scalars, decoupled="decoupled_weight_decay", lazy=True)
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


@rule(_radam_scalars, decoupled="decoupled_weight_decay", lazy=True)
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
    cautious: Switch = False,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2 = betas
    return decay, b1, 1 - b1, b2, 1 - b2, lr, float(cautious)


@rule(_lion_scalars, decoupled="decoupled_weight_decay", lazy=True, **CAUTIOUS)
def lion(p, g, m, u, /, decay, b1, a1, b2, a2, lr, cautious):
    """Sign of a momentum; see `fastoptim.Lion`."""
    c = b1 * m + a1 * g
    keep = _keeps(c, g, cautious)
    if u is not None:
        u[...] = keep
        return
    m[...] = b2 * m + a2 * g
    p[...] = decay * p - lr * _taken(keep, _sign(c))


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


@rule(_adabelief_scalars, decoupled="decoupled_weight_decay", lazy=True)
def adabelief(p, g, m, s, /, decay, b1, a1, b2, a2, lr, r2, eps, eps_root):
    """Adam with a variance for its mean square; see `fastoptim.AdaBelief`."""
    m[...] = b1 * m + a1 * g
    d = g - m
    s[...] = b2 * s + (a2 * d) * d + eps_root
    p[...] = decay * p - (lr * m) / (np.sqrt(s) * r2 + eps)


def _yogi_scalars(
    step: int,
    lr: NonNegative = 1e-2,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-3,
    initial_accumulator_value: NonNegative = 1e-6,
) -> Scalars:
    b1, b2 = betas
    r2 = 1 / math.sqrt(1 - b2**step)
    return b1, 1 - b1, 1 - b2, lr / (1 - b1**step), r2, eps


@rule(
    _yogi_scalars,
    starts={"m": "initial_accumulator_value", "v": "initial_accumulator_value"},
    lazy=True,
)
def yogi(p, g, m, v, /, b1, a1, a2, lr, r2, eps):
    """Adam whose mean square moves by what the square of the gradient is; see `fastoptim.Yogi`."""
    m[...] = b1 * m + a1 * g
    s = g * g
    v[...] = v - _sign(v - s) * (a2 * s)
    p -= (lr * m) / (np.sqrt(v) * r2 + eps)


def _ademamix_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: ThreeBetas = (0.9, 0.999, 0.9999),
    alpha: NonNegative = 5.0,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: Switch = True,
) -> Scalars:
    decay = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    b1, b2, b3 = betas
    lr1, lr2, r2 = lr / (1 - b1**step), lr * alpha, 1 / math.sqrt(1 - b2**step)
    return decay, b1, 1 - b1, b2, 1 - b2, b3, 1 - b3, lr1, lr2, r2, eps


@rule(_ademamix_scalars, decoupled="decoupled_weight_decay", lazy=True)
def ademamix(p, g, m1, m2, v, /, decay, b1, a1, b2, a2, b3, a3, lr1, lr2, r2, eps):
    """Adam with a second, slow momentum; see `fastoptim.AdEMAMix`."""
    m1[...] = b1 * m1 + a1 * g
    m2[...] = b3 * m2 + a3 * g
    v[...] = b2 * v + (a2 * g) * g
    p[...] = decay * p - (lr1 * m1 + lr2 * m2) / (np.sqrt(v) * r2 + eps)


def _adopt_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.9999),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: Switch = False,
) -> Scalars:
    first = step == 1
    decay = 1 - lr * weight_decay if decoupled_weight_decay and not first else 1.0
    b1, b2 = betas
    return float(first), decay, b1, 1 - b1, b2, 1 - b2, lr, (step - 1) ** 0.25, eps


@rule(_adopt_scalars, decoupled="decoupled_weight_decay")
def adopt(p, g, m, v, /, first, decay, b1, a1, b2, a2, lr, limit, eps):
    """Momentum of gradients over the root mean square before them; see `fastoptim.ADOPT`."""
    if first != 0:
        v[...] = g * g
        p[...] = decay * p  # which is p: decay is 1 then
        return
    d = np.sqrt(v)
    d = np.where(d < eps, eps, d)  # a NaN in v stays
    m[...] = b1 * m + a1 * clipped(g / d, limit)
    v[...] = b2 * v + (a2 * g) * g
    p[...] = decay * p - lr * m


def _debiased(beta: float, step: int) -> tuple[float, float]:
    """Return the decay rate, and 1 minus it, that keep an average corrected for its start."""
    a = (1 - beta) / (1 - beta**step)
    return 1 - a, a


def _adan_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: ThreeBetas = (0.98, 0.92, 0.99),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Scalars:
    (b1, a1), (b2, a2), (b3, a3) = (_debiased(beta, step) for beta in betas)
    nu = betas[1]
    if step == 1:  # no gradient before it: the difference counts for nothing
        b2 = a2 = nu = 0.0
    return 1 / (1 + lr * weight_decay), b1, a1, b2, a2, nu, b3, a3, lr, eps


@rule(_adan_scalars, decoupled=True)
def adan(p, g, m, d, v, prev, /, decay, b1, a1, b2, a2, nu, b3, a3, lr, eps):
    """Adam with Nesterov's momentum by differences of gradients; see `fastoptim.Adan`."""
    change = g - prev
    s = g + nu * change
    m[...] = b1 * m + a1 * g
    d[...] = b2 * d + a2 * change
    v[...] = b3 * v + (a3 * s) * s
    prev[...] = g
    p[...] = decay * (p - (lr * (m + nu * d)) / (np.sqrt(v) + eps))


def _ftrl_scalars(
    lr: Invertible = 1e-3,
    initial_accumulator_value: NonNegative = 0.1,
    l1_regularization_strength: NonNegative = 0.0,
    l2_regularization_strength: NonNegative = 0.0,
    beta: NonNegative = 0.0,
) -> Scalars:
    return 1 / lr, l1_regularization_strength, 2 * l2_regularization_strength + beta / lr


def _ftrl_rests(hyper):
    return not any(map(callable, hyper.values()))  # p is what the scalars make of its state


@rule(
    _ftrl_scalars,
    starts={"h": "initial_accumulator_value"},
    rests=_ftrl_rests,
    settles=True,
)
def ftrl(p, g, z, h, /, inverse, l1, l2):
    """Leader of all linear losses so far, regularised for sparsity; see `fastoptim.FTRL`."""
    old = np.sqrt(h)
    h += g * g
    new = np.sqrt(h)
    z[...] = z + (g - (inverse * (new - old)) * p)
    p[...] = (clipped(z, l1) - z) / (inverse * new + l2)


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


def _calmed(own, p_squares, u_squares, size):
    """Divide the learning rate of an array by the root mean square of u, where that is over 1."""
    factor = 1 / max(1.0, math.sqrt(u_squares / max(size, 1)))
    return own._replace(lr=own.lr * factor, decay=1 - (1 - own.decay) * factor)


def _stableadamw_scalars(
    step: int,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.99),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 1e-2,
) -> Scalars:
    (b1, a1), (b2, a2) = (_debiased(beta, step) for beta in betas)
    return 1 - lr * weight_decay, b1, a1, b2, a2, lr, eps


@rule(_stableadamw_scalars, decoupled=True, rescale=_calmed)
def stableadamw(p, g, m, v, u, /, decay, b1, a1, b2, a2, lr, eps):
    """AdamW with a bound to the mean step of each array; see `fastoptim.StableAdamW`."""
    v_new = b2 * v + (a2 * g) * g
    d = np.sqrt(v_new)
    if u is not None:
        u[...] = g / np.where(d < eps, eps, d)
        return
    m[...] = b1 * m + a1 * g
    v[...] = v_new
    p[...] = decay * p - (lr * m) / (d + eps)


# Schedule-Free: y, where gradients are taken, is the parameter; z is state. Of the average x in
# between, y = (1 - b) z + b x, each step moves x a share of the way to z, and any two of the three
# give the third.


def _schedule_free(
    step: int,
    weight_sum: float,
    lr_max: float,
    lr: float,
    b: float,
    warmup_steps: float,
    r: float,
    weight_lr_power: float,
) -> tuple[Scalars, Scalars]:
    """Return first, share, lr_y and lr of a step, and the numbers after it.

    A step weighs t^r lr_max^power in x. The sum of these weights is counted in units of the last:
    that is a number between 1 and t, whatever r and the learning rate are.
    """
    lr = lr * step / warmup_steps if step < warmup_steps else lr
    highest = max(lr, lr_max)
    growth = lr_max / highest if highest > 0 else 0.0
    weight_sum = 1 + weight_sum * ((step - 1) / step) ** r * growth**weight_lr_power
    share = 1 / weight_sum
    return (float(step == 1), share, lr * (1 - b * (1 - share)), lr), (weight_sum, highest)


NUMBERS = {"weight_sum": 0.0, "lr_max": 0.0}


def _x(name, b, y, z):
    """Return x, which y says nothing of where b, of this name, is 0."""
    if b == 0:
        raise ValueError(f"use_average: expected {name} > 0, found {b}")
    return y + y.dtype.type(1 - 1 / b) * (z - y)


def _schedulefreesgd_scalars(
    step: int,
    weight_sum: NonNegative,
    lr_max: NonNegative,
    lr: NonNegative = 1.0,
    momentum: Fraction = 0.9,
    warmup_steps: NonNegative = 0.0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
) -> tuple[Scalars, Scalars]:
    return _schedule_free(step, weight_sum, lr_max, lr, momentum, warmup_steps, r, weight_lr_power)


def _x_of_sgd(hyper, y, z):
    return _x("momentum", hyper["momentum"], y, z)


@rule(_schedulefreesgd_scalars, numbers=NUMBERS, average=_x_of_sgd)
def schedulefreesgd(p, g, z, /, first, share, lr_y, lr):
    """Gradient descent whose average needs no schedule; see `fastoptim.ScheduleFreeSGD`."""
    start = p if first != 0 else z
    y = p + share * (start - p) - lr_y * g
    z[...] = start - lr * g
    p[...] = y


def _schedulefreeadamw_scalars(
    step: int,
    weight_sum: NonNegative,
    lr_max: NonNegative,
    lr: NonNegative = 2.5e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    warmup_steps: NonNegative = 0.0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
) -> tuple[Scalars, Scalars]:
    b1, b2 = betas
    scalars, numbers = _schedule_free(
        step, weight_sum, lr_max, lr, b1, warmup_steps, r, weight_lr_power
    )
    r2 = 1 / math.sqrt(1 - b2**step)
    return (*scalars, weight_decay, b2, 1 - b2, r2, eps), numbers


def _x_of_adamw(hyper, y, z, _):
    return _x("betas[0]", hyper["betas"][0], y, z)


@rule(_schedulefreeadamw_scalars, decoupled=True, numbers=NUMBERS, average=_x_of_adamw)
def schedulefreeadamw(p, g, z, v, /, first, share, lr_y, lr, wd, b2, a2, r2, eps):
    """AdamW whose average needs no schedule; see `fastoptim.ScheduleFreeAdamW`."""
    v[...] = b2 * v + (a2 * g) * g
    u = g / (np.sqrt(v) * r2 + eps) + wd * p
    start = p if first != 0 else z
    y = p + share * (start - p) - lr_y * u
    z[...] = start - lr * u
    p[...] = y


__all__ = sorted(name for name, value in list(globals().items()) if isinstance(value, Rule))


def __dir__() -> list[str]:
    return __all__
