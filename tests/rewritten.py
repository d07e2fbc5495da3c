"""Built-in rules as a user would write them: pure functions, by the public names of fastoptim.

But for ``cautious``, which goes by the mean of a whole array.
"""

from __future__ import annotations

import inspect

import fastoptim as fo
from fastoptim import reference
from fastoptim.typing import Betas, NonNegative, Switch


def incautious(scalars):
    """Return the scalars of a rule but for the last, without the hyperparameter that it is of."""

    def function(*hyper):
        return scalars(*hyper)[:-1]

    kinds, signature = inspect.get_annotations(scalars, eval_str=True), inspect.signature(scalars)
    others = [p for name, p in signature.parameters.items() if name != "cautious"]
    function.__signature__ = signature.replace(parameters=others)
    function.__annotations__ = {p.name: kinds[p.name] for p in others}
    return function


@fo.rule(state=("v",), scalars=incautious(reference.sgd.scalars), needs={"v": "momentum"})
def sgd(p, g, v, mu, a, nu, lr, resting):
    if v is None:
        return p - lr * g, None
    if resting != 0:
        return p - lr * g, v
    g = a * g
    v = mu * v + g
    return p - lr * (g + nu * v if nu != 0 else v), v


@fo.rule(state=("v",), scalars=incautious(reference.momentum.scalars))
def momentum(p, g, v, mu, a, nu, lr, resting):
    g = a * g
    v = mu * v + g
    return p - lr * (g + nu * v if nu != 0 else v), v


@fo.rule(
    state=("v", "g_avg", "b"),
    scalars=reference.rmsprop.scalars,
    needs={"g_avg": "centered", "b": "momentum"},
)
def rmsprop(p, g, v, g_avg, b, alpha, a, mu, lr, inside, eps):
    v = alpha * v + (a * g) * g
    d = v
    if g_avg is not None:
        g_avg = alpha * g_avg + a * g
        d = v - g_avg * g_avg
        d = fo.where(d < 0, 0, d)
    d = fo.sqrt(d + inside) + eps
    if b is None:
        return p - (lr * g) / d, v, g_avg, None
    if mu == 0:
        return p - (lr * g) / d, v, g_avg, b
    b = mu * b + g / d
    return p - lr * b, v, g_avg, b


@fo.rule(state=("h",), scalars=reference.adagrad.scalars, starts={"h": "initial_accumulator_value"})
def adagrad(p, g, h, lr, inside, eps):
    h = h + g * g
    return p - (lr * g) / (fo.sqrt(h + inside) + eps), h


@fo.rule(
    state=("m", "v", "v_max"),
    scalars=incautious(reference.adam.scalars),
    needs={"v_max": "amsgrad"},
    decoupled="decoupled_weight_decay",
)
def adam(p, g, m, v, v_max, decay, b1, a1, b2, a2, lr, r2, eps):
    m = b1 * m + a1 * g
    v = b2 * v + (a2 * g) * g
    largest = v
    if v_max is not None:
        v_max = fo.where(v_max >= v, v_max, v)
        largest = v_max
    return decay * p - (lr * m) / (fo.sqrt(largest) * r2 + eps), m, v, v_max


def adamw_scalars(
    step,
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.01,
    amsgrad: Switch = False,
    decoupled_weight_decay: Switch = True,
    eps_hat: Switch = False,
):
    given = lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay, eps_hat
    return reference.adam.scalars(step, *given)[:-1]


@fo.rule(
    state=("m", "v", "v_max"),
    scalars=adamw_scalars,
    needs={"v_max": "amsgrad"},
    decoupled="decoupled_weight_decay",
)
def adamw(p, g, m, v, v_max, decay, b1, a1, b2, a2, lr, r2, eps):
    m, v = b1 * m + a1 * g, b2 * v + (a2 * g) * g
    v_max = None if v_max is None else fo.where(v_max >= v, v_max, v)
    root = fo.sqrt(v if v_max is None else v_max)
    return decay * p - (lr * m) / (root * r2 + eps), m, v, v_max


@fo.rule(state=("v", "u"), scalars=reference.adadelta.scalars)
def adadelta(p, g, v, u, rho, a, lr, eps):
    v = rho * v + (a * g) * g
    d = fo.sqrt(u + eps) / fo.sqrt(v + eps) * g
    u = rho * u + (a * d) * d
    return p - lr * d, v, u


@fo.rule(state=("m", "u"), scalars=reference.adamax.scalars)
def adamax(p, g, m, u, b1, a1, b2, lr, eps):
    m = b1 * m + a1 * g
    d, fading = fo.abs(g) + eps, b2 * u
    u = fo.where(fading >= d, fading, d)
    return p - (lr * m) / u, m, u


@fo.rule(state=("m", "v"), scalars=reference.nadam.scalars, decoupled="decoupled_weight_decay")
def nadam(p, g, m, v, decay, b1, a1, b2, a2, lr_g, lr_m, r2, eps):
    m = b1 * m + a1 * g
    v = b2 * v + (a2 * g) * g
    return decay * p - (lr_g * g + lr_m * m) / (fo.sqrt(v) * r2 + eps), m, v


@fo.rule(state=("m", "v"), scalars=reference.radam.scalars, decoupled="decoupled_weight_decay")
def radam(p, g, m, v, decay, b1, a1, b2, a2, lr, rectified, eps):
    m = b1 * m + a1 * g
    v = b2 * v + (a2 * g) * g
    if rectified != 0:
        return decay * p - (lr * m) / (fo.sqrt(v) + eps), m, v
    return decay * p - lr * m, m, v


@fo.rule(state=("prev", "step_size"), scalars=reference.rprop.scalars, starts={"step_size": "lr"})
def rprop(p, g, prev, step_size, eta_minus, eta_plus, low, high):
    turn = fo.where(g > 0, 1, fo.where(g < 0, -1, g)) * prev
    h = fo.where(turn > 0, eta_plus, fo.where(turn < 0, eta_minus, 1)) * step_size
    h = fo.where(h < low, low, fo.where(h > high, high, h))
    g = fo.where(turn < 0, 0, g)
    return p - fo.where(g > 0, 1, fo.where(g < 0, -1, g)) * h, g, h


@fo.rule(state=("ax",), scalars=reference.asgd.scalars)
def asgd(p, g, ax, decay, eta, mu):
    x = decay * p - eta * g
    return x, (ax + mu * (x - ax) if mu != 1 else x)


@fo.rule(
    state=("m",), scalars=incautious(reference.lion.scalars), decoupled="decoupled_weight_decay"
)
def lion(p, g, m, decay, b1, a1, b2, a2, lr):
    c = b1 * m + a1 * g
    m = b2 * m + a2 * g
    return decay * p - lr * fo.where(c > 0, 1, fo.where(c < 0, -1, c)), m


@fo.rule(state=("m", "s"), scalars=reference.adabelief.scalars, decoupled="decoupled_weight_decay")
def adabelief(p, g, m, s, decay, b1, a1, b2, a2, lr, r2, eps, eps_root):
    m = b1 * m + a1 * g
    d = g - m
    s = b2 * s + (a2 * d) * d + eps_root
    return decay * p - (lr * m) / (fo.sqrt(s) * r2 + eps), m, s
