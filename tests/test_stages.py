"""What every optimizer does around its rule: clipping, penalties, the direction."""

from __future__ import annotations

import numpy as np
import pytest
from zoo import OPTIMIZERS, name_of

import fastoptim as fo

BACKENDS = ["compiled", "reference"]


def step(g, p=1.0, **kwargs):
    """Return the gradient that SGD saw, from a step with learning rate 1."""
    seen = {}
    for backend in BACKENDS:
        params = np.array([p])
        fo.SGD(params, lr=1.0, backend=backend, **kwargs).step(np.array([g]))
        seen[backend] = p - params[0]
    np.testing.assert_array_equal(seen["compiled"], seen["reference"])
    return seen["compiled"]


def test_by_hand():
    assert step(0.5, max_grad_value=0.25) == 0.25
    assert step(-0.5, max_grad_value=0.25) == -0.25
    assert step(0.125, max_grad_value=0.25) == 0.125
    assert step(0.5, max_grad_value=0) == 0
    assert step(0.5, p=2.0, l1=0.25) == 0.75
    assert step(0.5, p=-2.0, l1=0.25) == 0.25
    assert step(0.5, p=0.0, l1=0.25) == 0.5
    # elastic net: 0.5 + 0.25 * 2 + 0.25
    assert step(0.5, p=2.0, l1=0.25, weight_decay=0.25) == 1.25
    # the loss is maximised, but the penalties still pull towards zero
    assert step(0.5, p=2.0, l1=0.25, weight_decay=0.25, maximize=True) == 0.25
    # clipping is of the gradient alone
    assert step(8.0, p=2.0, max_grad_value=1.0, weight_decay=2.0) == 5.0


def test_nan_in_the_gradient_passes_the_clipping():
    assert np.isnan(step(np.nan, max_grad_value=1.0))


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_every_class_takes_every_option(cls):
    p = np.array([1.0, -1.0])
    optimizer = cls(p, l1=0.1, max_grad_value=0.5, maximize=True)
    optimizer.step(np.array([3.0, 0.1]))
    assert np.isfinite(p).all()
    optimizer.l1 = 0.0
    optimizer.max_grad_value = None
    assert optimizer.max_grad_value is None


def test_gradients_stay_as_they_are():
    g = np.array([3.0, -4.0])
    fo.Adam(np.ones(2), max_grad_value=0.5, l1=0.1, weight_decay=0.1).step(g)
    assert g.tolist() == [3.0, -4.0]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"l1": -0.1}, ValueError, "l1: expected a finite number >= 0, found -0.1"),
        ({"l1": None}, TypeError, "l1: expected a finite number >= 0, found None"),
        (
            {"max_grad_value": -1},
            ValueError,
            "max_grad_value: expected a finite number >= 0, or None",
        ),
        (
            {"max_grad_value": "1"},
            TypeError,
            "max_grad_value: expected a finite number >= 0, or None",
        ),
        ({"max_grad_norms": 1.0}, TypeError, "max_grad_norms: adam has no such argument"),
    ],
)
def test_refused(kwargs, error, message):
    with pytest.raises(error) as caught:
        fo.Adam(np.ones(2), **kwargs)
    assert message in str(caught.value)
