"""Plans that leave zeros in the gradients, as soon as they have used them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from test_arrays import GRADIENT_LAYOUTS, LAYOUTS
from zoo import (
    DTYPES,
    LEVELS,
    OPTIMIZERS,
    SIZES,
    TASK,
    arrays_of,
    engine,
    gradients,
    name_of,
    same_bits,
    snapshot,
)

import fastoptim as fo
from fastoptim import _stepper
from fastoptim._engine.plan import Plan

BACKENDS = ["compiled", "reference"]
WRITABLE = [name for name in GRADIENT_LAYOUTS if name != "read-only"]


@pytest.fixture
def zeroing(monkeypatch):
    """Let the optimizers that the test makes leave zeros in their gradients."""
    monkeypatch.setattr(_stepper, "Plan", partial(Plan, zeroing=True))


def stepped(cls, params, steps, **kwargs):
    optimizer = cls([p.copy(order="K") for p in params], **kwargs)
    for grads in steps:
        optimizer.step(grads)
    return optimizer


def assert_zero(g):
    assert not np.ascontiguousarray(g).view(np.uint8).any()  # not -0 either


def assert_same_arrays(ours, expected):
    for (name, a), (_, b) in zip(arrays_of(ours), arrays_of(expected), strict=True):
        assert same_bits(a, b), name


@pytest.mark.parametrize("kwargs", [{}, {"ema_decay": 0.9, "max_grad_norm": 1.0}], ids=name_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_same_step_and_then_zeros(cls, dtype, kwargs, monkeypatch):
    rng = np.random.default_rng(5)
    params = [rng.standard_normal(n).astype(dtype) for n in SIZES]
    steps = [gradients(rng, params) for _ in range(2)]
    expected = stepped(cls, params, steps, backend="reference", **kwargs)
    monkeypatch.setattr(_stepper, "Plan", partial(Plan, zeroing=True))
    for level in LEVELS:
        for threads in (1, 3):
            copies = [[g.copy() for g in grads] for grads in steps]
            with engine(level, threads):
                assert_same_arrays(stepped(cls, params, copies, **kwargs), expected)
            assert_zero(np.concatenate([g for grads in copies for g in grads]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("g_layout", WRITABLE)
@pytest.mark.parametrize("p_layout", LAYOUTS)
def test_layouts(p_layout, g_layout, dtype, backend, monkeypatch):
    rng = np.random.default_rng(6)
    p = LAYOUTS[p_layout](rng.standard_normal((3, 4, 5)).astype(dtype))
    g = GRADIENT_LAYOUTS[g_layout](rng.standard_normal((3, 4, 5)).astype(dtype))
    expected = stepped(fo.Adam, [p], [[g]], max_grad_norm=0.5)
    monkeypatch.setattr(_stepper, "Plan", partial(Plan, zeroing=True))
    ours = stepped(fo.Adam, [p], [[g]], max_grad_norm=0.5, backend=backend)
    assert_same_arrays(ours, expected)
    assert_zero(g)


@pytest.mark.usefixtures("zeroing")
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_but_the_gradient_is_zeroed(backend):
    around = np.ones((2 * TASK + 9, 7))
    g = around[3:-3, 1:-1:2]
    p = np.zeros(g.shape)
    with engine(threads=3):
        fo.SGD(p, lr=1.0, backend=backend).step(g)
    assert (p == -1).all()
    assert_zero(g)
    assert around.sum() == around.size - g.size


@pytest.mark.usefixtures("zeroing")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_not_taken_leaves_the_gradients(backend):
    g = np.array([1.0, np.nan])
    fo.Adam(np.ones(2), nonfinite="skip", backend=backend).step(g)
    assert g[0] == 1
    optimizer = fo.Adam([np.ones(2), np.ones(2)], backend=backend)
    optimizer.step([None, g])
    assert_zero(g)


def read_only():
    g = np.ones(4)
    g.flags.writeable = False
    return g


def window():
    return np.lib.stride_tricks.as_strided(np.ones(5), (2, 2), (16, 8), writeable=True)


def overlapping():
    return np.lib.stride_tricks.as_strided(np.ones(5), (2, 2), (8, 8), writeable=True)


def broadcast():
    return np.lib.stride_tricks.as_strided(np.ones(2), (2, 2), (0, 8), writeable=True)


@pytest.mark.usefixtures("zeroing")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("g", "error", "message"),
    [
        (read_only(), ValueError, "expected a writable array, which the step zeroes"),
        (overlapping(), ValueError, "expected elements with memory of their own, which the step"),
        (broadcast(), ValueError, "expected elements with memory of their own, which the step"),
        (np.float64(1), TypeError, "expected a NumPy array, found float64"),
    ],
    ids=["read-only", "overlapping", "broadcast", "scalar"],
)
def test_refused(g, error, message, backend):
    params = [np.ones(3), np.ones(np.shape(g))]
    optimizer = fo.Adam(params, backend=backend)
    before, first = snapshot(optimizer), np.ones(3)
    with pytest.raises(error) as caught:
        optimizer.step([first, g])
    assert str(caught.value).startswith(f"grads[1]: {message}")
    assert snapshot(optimizer) == before
    assert np.all(first == 1)
    assert np.all(g == 1)


@pytest.mark.usefixtures("zeroing")
def test_gradients_that_share_memory_are_refused():
    g = np.ones(8)
    optimizer = fo.Adam([np.ones(4), np.ones(5), np.ones(4)])
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"^grads\[2\]: expected memory apart from all gradients"):
        optimizer.step([g[:4], None, g[3:7]])
    assert snapshot(optimizer) == before
    assert np.all(g == 1)
    optimizer.step([g[4:], None, g[:4]])
    assert_zero(g)


@pytest.mark.usefixtures("zeroing")
@pytest.mark.parametrize("g", [np.ones((0, 3)).T, np.ones((1, 1)), window()[::-1, ::-1]])
def test_odd_gradients(g):
    fo.SGD(np.ones(g.shape)).step(g)
    assert_zero(g)
