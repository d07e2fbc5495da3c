"""Every rule in NumPy as people write it, under the rule's name, and what goes around a rule.

Each is a generator function: the state is in local variables, and each ``next()`` takes a step
along the gradient that g holds at that moment. Its arguments, but for those whose default is the
class's, are what the rule is told in the benchmarks: see `cases.hyper_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from fastoptim._containers import Array

Steps = Iterator[None]
Rate = float | Callable[[int], float]


def clip_by_norm(clipped: list[Array], grads: list[Array], max_norm: float) -> None:
    norm = np.sqrt(sum(np.sum(g**2) for g in grads))  # type: ignore[misc]
    for c, g in zip(clipped, grads, strict=True):
        c[...] = g * min(1.0, max_norm / (norm + 1e-6))


def average(averages: list[Array], params: list[Array], decay: float) -> None:
    for i, p in enumerate(params):
        averages[i] = decay * averages[i] + (1 - decay) * p


def kept(d: Any, g: Any) -> Any:
    """Return a step where it goes down the gradient, made up for where it does not."""
    mask = d * g > 0
    return d * mask / max(np.mean(mask), 1e-3)


def sgd(p: Any, g: Any, lr: float, momentum: float = 0.0, cautious: bool = False) -> Steps:
    v = np.zeros_like(p)
    while True:
        if momentum:
            v = momentum * v + g
            p -= lr * (kept(v, g) if cautious else v)
        else:
            p -= lr * g
        yield


def momentum(p: Any, g: Any, lr: float, momentum: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        v = momentum * v + (1 - momentum) * g
        p -= lr * v
        yield


def rmsprop(p: Any, g: Any, lr: float, alpha: float, eps: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        v = alpha * v + (1 - alpha) * g**2
        p -= lr * g / (np.sqrt(v) + eps)
        yield


def adagrad(p: Any, g: Any, lr: float, eps: float) -> Steps:
    h = np.zeros_like(p)
    while True:
        h += g**2
        p -= lr * g / (np.sqrt(h) + eps)
        yield


def adam(
    p: Any,
    g: Any,
    lr: Rate,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
    cautious: bool = False,
) -> Steps:
    """Take steps of Adam, or with weight_decay those of AdamW; lr may be a function of the step."""
    b1, b2 = betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        eta = lr(t - 1) if callable(lr) else lr
        if weight_decay:
            p -= eta * weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        p -= eta * (kept(m_hat, g) if cautious else m_hat) / (np.sqrt(v_hat) + eps)
        yield


adamw = adam


def adadelta(p: Any, g: Any, lr: float, rho: float, eps: float) -> Steps:
    v, u = np.zeros_like(p), np.zeros_like(p)
    while True:
        v = rho * v + (1 - rho) * g**2
        d = np.sqrt(u + eps) / np.sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d**2
        p -= lr * d
        yield


def adamax(p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float) -> Steps:
    b1, b2 = betas
    m, u = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.abs(g) + eps)
        p -= lr / (1 - b1**t) * m / u
        yield


def nadam(
    p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float, momentum_decay: float
) -> Steps:
    b1, b2 = betas
    m, v, product = np.zeros_like(p), np.zeros_like(p), 1.0
    for t in count(1):
        mu = b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        product *= mu
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = mu_next / (1 - product * mu_next) * m + (1 - mu) / (1 - product) * g
        v_hat = v / (1 - b2**t)
        p -= lr * m_hat / (np.sqrt(v_hat) + eps)
        yield


def radam(p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float) -> Steps:
    b1, b2 = betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    rho_inf = 2 / (1 - b2) - 1
    for t in count(1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        if rho > 5:
            r2 = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
            p -= lr * (r2 * (1 - b2**t)) ** 0.5 * m_hat / (np.sqrt(v) + eps)
        else:
            p -= lr * m_hat
        yield


def rprop(
    p: Any, g: Any, lr: float, etas: tuple[float, float], step_sizes: tuple[float, float]
) -> Steps:
    previous, d = np.zeros_like(p), np.full_like(p, lr)
    while True:
        turn = g * previous
        d = np.where(turn > 0, d * etas[1], np.where(turn < 0, d * etas[0], d))
        d = np.clip(d, *step_sizes)
        previous = np.where(turn < 0, 0, g)
        p -= np.sign(previous) * d
        yield


def asgd(p: Any, g: Any, lr: float, lambd: float, alpha: float, t0: float) -> Steps:
    ax = np.zeros_like(p)
    for t in count(1):
        eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
        p *= 1 - lambd * eta
        p -= eta * g
        ax += (p - ax) / max(1, t - 1 - t0)
        yield


def lion(
    p: Any,
    g: Any,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    cautious: bool = False,
) -> Steps:
    b1, b2 = betas
    m = np.zeros_like(p)
    while True:
        p -= lr * weight_decay * p
        d = np.sign(b1 * m + (1 - b1) * g)
        p -= lr * (kept(d, g) if cautious else d)
        m = b2 * m + (1 - b2) * g
        yield


def adabelief(
    p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float, eps_root: float
) -> Steps:
    b1, b2 = betas
    m, s = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps_root
        m_hat = m / (1 - b1**t)
        s_hat = s / (1 - b2**t)
        p -= lr * m_hat / (np.sqrt(s_hat) + eps)
        yield


def yogi(
    p: Any,
    g: Any,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    initial_accumulator_value: float = 1e-6,
) -> Steps:
    b1, b2 = betas
    m = np.full_like(p, initial_accumulator_value)
    v = np.full_like(p, initial_accumulator_value)
    for t in count(1):
        m = b1 * m + (1 - b1) * g
        v -= (1 - b2) * np.sign(v - g**2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        p -= lr * m_hat / (np.sqrt(v_hat) + eps)
        yield


def ademamix(
    p: Any,
    g: Any,
    lr: float,
    betas: tuple[float, float, float],
    alpha: float,
    eps: float,
    weight_decay: float,
) -> Steps:
    b1, b2, b3 = betas
    m1, m2, v = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        p -= lr * weight_decay * p
        m1 = b1 * m1 + (1 - b1) * g
        m2 = b3 * m2 + (1 - b3) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m1 / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        p -= lr * (m_hat + alpha * m2) / (np.sqrt(v_hat) + eps)
        yield


def adopt(p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float) -> Steps:
    b1, b2 = betas
    m, v = np.zeros_like(p), g**2
    yield
    for t in count(2):
        limit = (t - 1) ** 0.25
        u = np.clip(g / np.maximum(np.sqrt(v), eps), -limit, limit)
        m = b1 * m + (1 - b1) * u
        p -= lr * m
        v = b2 * v + (1 - b2) * g**2
        yield


def adan(
    p: Any,
    g: Any,
    lr: float,
    betas: tuple[float, float, float],
    eps: float,
    weight_decay: float,
) -> Steps:
    b1, b2, b3 = betas
    m, d, v = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    previous = g.copy()
    for t in count(1):
        change = g - previous
        m = b1 * m + (1 - b1) * g
        d = b2 * d + (1 - b2) * change
        v = b3 * v + (1 - b3) * (g + b2 * change) ** 2
        m_hat = m / (1 - b1**t)
        d_hat = d / (1 - b2**t)
        v_hat = v / (1 - b3**t)
        p -= lr * (m_hat + b2 * d_hat) / (np.sqrt(v_hat) + eps)
        p /= 1 + lr * weight_decay
        previous = g.copy()
        yield


def ftrl(p: Any, g: Any, lr: float, initial_accumulator_value: float = 0.1) -> Steps:
    z, h = np.zeros_like(p), np.full_like(p, initial_accumulator_value)
    while True:
        old, h = h, h + g**2
        z += g - (np.sqrt(h) - np.sqrt(old)) / lr * p
        p[...] = -z / (np.sqrt(h) / lr)
        yield


def lamb(
    p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> Steps:
    b1, b2 = betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        u = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * p
        p -= lr * np.linalg.norm(p) / np.linalg.norm(u) * u
        yield


def lars(
    p: Any, g: Any, lr: float, momentum: float, weight_decay: float, trust_coefficient: float
) -> Steps:
    v = np.zeros_like(p)
    while True:
        u = g + weight_decay * p
        ratio = trust_coefficient * np.linalg.norm(p) / np.linalg.norm(u)
        v = momentum * v + lr * ratio * u
        p -= v
        yield


def stableadamw(
    p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> Steps:
    b1, b2 = betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        rms = np.sqrt(np.mean(g**2 / np.maximum(v_hat, eps**2)))
        eta = lr / max(1, rms)
        p -= eta * weight_decay * p
        p -= eta * m_hat / (np.sqrt(v_hat) + eps)
        yield


def schedulefreesgd(p: Any, g: Any, lr: float, momentum: float) -> Steps:
    x, z = p.copy(), p.copy()
    for t in count(1):
        z -= lr * g
        x += (z - x) / t
        p[...] = (1 - momentum) * z + momentum * x
        yield


def schedulefreeadamw(
    p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> Steps:
    b1, b2 = betas
    x, z, v = p.copy(), p.copy(), np.zeros_like(p)
    for t in count(1):
        v = b2 * v + (1 - b2) * g**2
        v_hat = v / (1 - b2**t)
        z -= lr * (g / (np.sqrt(v_hat) + eps) + weight_decay * p)
        x += (z - x) / t
        p[...] = (1 - b1) * z + b1 * x
        yield
