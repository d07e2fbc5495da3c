"""Every optimizer finds the minimum of a quadratic and makes its way along Rosenbrock's valley."""

from __future__ import annotations

import numpy as np
import pytest
from zoo import DTYPES, OPTIMIZERS, name_of, options

import fastoptim as fo

CASES = [
    (cls, chosen)
    for cls in OPTIMIZERS
    for chosen in options(cls)
    # a decay or a penalty of 0.3 moves the minimum; lr_decay stops before it
    if not any(
        chosen.get(name)
        for name in (
            "weight_decay",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "maximize",
            "lr_decay",
        )
    )
]
LR = dict.fromkeys(OPTIMIZERS, 0.05) | {
    fo.Momentum: 0.1,
    fo.RMSprop: 0.01,
    fo.Adagrad: 0.5,
    fo.Adadelta: 1.0,
    fo.FTRL: 0.5,
    fo.LAMB: 0.01,
    fo.LARS: 5.0,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize(("cls", "chosen"), CASES, ids=lambda v: name_of(v))
def test_quadratic(cls, chosen, dtype):
    curvature = np.array([0.5, 1.0, 3.0], dtype)
    target = np.array([1.0, -2.0, 3.0], dtype)
    p = np.zeros(3, dtype)
    kwargs = {"weight_decay": 0.0} if cls is fo.AdamW else {}
    optimizer = cls(p, **{**chosen, **kwargs, "lr": LR[cls]})
    for t in range(2000):
        if t == 1500 and cls is not fo.FTRL:  # which keeps gradients over learning rates
            optimizer.lr /= 10
        optimizer.step(curvature * (p - target))
    np.testing.assert_allclose(p, target, atol=0.02)


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_maximize_climbs(cls):
    p = np.full(3, 0.5)
    optimizer = cls(p, lr=LR[cls], maximize=True)
    for _ in range(500):
        optimizer.step(-(p - 2.0))
    assert np.all(p > 1.0)


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_rosenbrock(cls):
    def value(x, y):
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2

    # The valley leads through the origin, where the steps of LARS, as long as p, come to a halt.
    p = np.array([2.0, 1.0] if cls is fo.LARS else [-1.5, 2.0])
    start = value(*p)
    others = {fo.Adagrad: 0.3, fo.LARS: 0.2, fo.Adadelta: 0.1, fo.ADOPT: 0.1, fo.FTRL: 0.3}
    gentle = (fo.SGD, fo.Momentum, fo.RMSprop, fo.ASGD)
    optimizer = cls(p, lr=1e-3 if cls in gentle else others.get(cls, 1e-2))
    for _ in range(5000):
        x, y = p
        optimizer.step(np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]))
    assert value(*p) < start / 100
