"""The commonest rules in NumPy without temporaries, as generators like those of `numpy_plain`.

`a` is a scratch array that all tensors share: nothing is allocated after the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from math import sqrt
from typing import Any

import numpy as np

from fastoptim._containers import Array

Steps = Iterator[None]
Rate = float | Callable[[int], float]


def clip_by_norm(clipped: list[Array], grads: list[Array], max_norm: float) -> None:
    norm = sqrt(sum(float(np.vdot(g, g)) for g in grads))
    for c, g in zip(clipped, grads, strict=True):
        np.multiply(g, min(1.0, max_norm / (norm + 1e-6)), out=c)


def average(averages: list[Array], params: list[Array], decay: float) -> None:
    for e, p in zip(averages, params, strict=True):
        np.subtract(e, p, out=e)
        np.multiply(e, decay, out=e)
        np.add(e, p, out=e)


def sgd(p: Any, g: Any, a: Any, lr: float, momentum: float = 0.0) -> Steps:
    v = np.zeros_like(p)
    while True:
        if momentum:
            np.multiply(v, momentum, out=v)
            np.add(v, g, out=v)
        np.multiply(v if momentum else g, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def momentum(p: Any, g: Any, a: Any, lr: float, momentum: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        np.multiply(v, momentum, out=v)
        np.multiply(g, 1 - momentum, out=a)
        np.add(v, a, out=v)
        np.multiply(v, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def rmsprop(p: Any, g: Any, a: Any, lr: float, alpha: float, eps: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        np.multiply(v, alpha, out=v)
        np.multiply(g, g, out=a)
        np.multiply(a, 1 - alpha, out=a)
        np.add(v, a, out=v)
        np.sqrt(v, out=a)
        np.add(a, eps, out=a)
        np.divide(g, a, out=a)
        np.multiply(a, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def adagrad(p: Any, g: Any, a: Any, lr: float, eps: float) -> Steps:
    h = np.zeros_like(p)
    while True:
        np.multiply(g, g, out=a)
        np.add(h, a, out=h)
        np.sqrt(h, out=a)
        np.add(a, eps, out=a)
        np.divide(g, a, out=a)
        np.multiply(a, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def adam(
    p: Any,
    g: Any,
    a: Any,
    lr: Rate,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
) -> Steps:
    """Take steps of Adam, or with weight_decay those of AdamW; lr may be a function of the step."""
    b1, b2 = betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        eta = lr(t - 1) if callable(lr) else lr
        if weight_decay:
            np.multiply(p, 1 - eta * weight_decay, out=p)
        np.multiply(m, b1, out=m)
        np.multiply(g, 1 - b1, out=a)
        np.add(m, a, out=m)
        np.multiply(v, b2, out=v)
        np.multiply(g, g, out=a)
        np.multiply(a, 1 - b2, out=a)
        np.add(v, a, out=v)
        np.sqrt(v, out=a)
        np.multiply(a, (1 - b2**t) ** -0.5, out=a)
        np.add(a, eps, out=a)
        np.divide(m, a, out=a)
        np.multiply(a, eta / (1 - b1**t), out=a)
        np.subtract(p, a, out=p)
        yield


adamw = adam
