"""max_param_grad_norm: the gradient of each parameter, clipped by its own norm."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import DTYPES, gradients, same_bits

import fastoptim as fo
from fastoptim._stages import own_clip_factor, sum_of_squares

BACKENDS = ["compiled", "reference"]


def stepped(grads, backend="compiled", cls=fo.SGD, **options):
    """Return zeros after a step of gradient descent: what the rule saw, with the other sign."""
    params = [np.zeros_like(g) for g in grads]
    cls(params, lr=1.0, backend=backend, **options).step(grads)
    return [-p for p in params]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_array_by_its_own_norm(backend):
    grads = [np.array([3.0, 4.0]), np.array([0.3, 0.4]), np.array([[30.0], [40.0]]), np.zeros(3)]
    found = stepped(grads, backend, max_param_grad_norm=1.0)
    np.testing.assert_allclose(found[0], [0.6, 0.8], rtol=1e-15)
    assert found[1].tolist() == [0.3, 0.4]
    np.testing.assert_allclose(found[2], [[0.6], [0.8]], rtol=1e-15)
    assert found[3].tolist() == [0.0] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_sums_of_tiles_are_added_up_in_their_order(backend):
    rng = np.random.default_rng(3)
    grads = [rng.standard_normal(n) for n in (5000, 2048, 6145)]
    for g, found in zip(grads, stepped(grads, backend, max_param_grad_norm=1.0), strict=True):
        total = 0.0
        for of_tile in sum_of_squares(g, 1.0):
            total += of_tile
        assert same_bits(found, own_clip_factor(math.sqrt(total), 1.0) * g)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trust_ratio_is_of_all_tiles(backend):
    rng = np.random.default_rng(4)
    p, g = rng.standard_normal((2, 5000))
    u = g / (np.abs(g) + 1e-6) + 0.1 * p  # the first step of LAMB
    trust = math.sqrt(math.fsum(p * p)) / math.sqrt(math.fsum(u * u))
    expected = p - 0.01 * trust * u
    fo.LAMB(p, lr=0.01, eps=1e-6, weight_decay=0.1, backend=backend).step(g)
    np.testing.assert_allclose(p, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_the_norm_of_all_and_before_the_values(backend):
    grads = [np.array([30.0, 40.0]), np.array([0.0, 0.0, 50.0])]
    options = {"max_grad_norm": np.sqrt(2.0) * 5, "max_param_grad_norm": 2.5}
    found = stepped(grads, backend, max_grad_value=2.0, **options)
    np.testing.assert_allclose(found[0], [1.5, 2.0], rtol=1e-5)
    np.testing.assert_allclose(found[1], [0.0, 0.0, 2.0], rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_a_group(backend):
    p, q = np.zeros(2), np.zeros(2)
    groups = [{"params": p, "max_param_grad_norm": 1.0}, {"params": q}]
    opt = fo.SGD(groups, lr=1.0, maximize=True, backend=backend)
    opt.step([np.array([3.0, 4.0])] * 2)
    np.testing.assert_allclose(p, [0.6, 0.8], rtol=1e-6)
    assert q.tolist() == [3.0, 4.0]
    opt.param_groups[0]["max_param_grad_norm"] = lambda t: None if t == 1 else 10.0
    opt.step([np.array([3.0, 4.0]), None])
    np.testing.assert_allclose(p, [3.6, 4.8], rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_beyond_the_range_of_their_squares(backend):
    """Squares that vanish, and squares that are too large, take another pass."""
    for scale in (1e-200, 1e-6, 1e200):
        (found,) = stepped([np.array([3.0, 4.0]) * scale], backend, max_param_grad_norm=2 * scale)
        np.testing.assert_allclose(found, [1.2 * scale, 1.6 * scale], rtol=1e-14)
    (found,) = stepped([np.array([np.inf, 1.0])], backend, max_param_grad_norm=1.0)
    assert np.isnan(found[0])
    assert found[1] == 0
    (found,) = stepped([np.array([np.nan, 1.0])], backend, max_param_grad_norm=1.0)
    assert np.isnan(found).all()


def test_a_limit_of_zero():
    assert stepped([np.array([3.0, 4.0])], max_param_grad_norm=0.0)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    cls=st.sampled_from([fo.Adam, fo.SGD, fo.LAMB, fo.LARS]),
    skipped=st.booleans(),
)
def test_bits_of_the_reference(threads, sizes, dtype, cls, skipped):
    rng = np.random.default_rng(sum(sizes))
    params = [rng.standard_normal(n).astype(dtype) for n in sizes]
    others = copy.deepcopy(params)
    options = {"max_param_grad_norm": 0.5, "max_grad_norm": 20.0, "weight_decay": 0.01}
    pair = [
        cls(p, backend=backend, **options)
        for p, backend in zip((params, others), BACKENDS, strict=True)
    ]
    with fo.num_threads(threads):
        for step in range(3):
            grads = gradients(rng, params)
            if skipped and step == 1:
                grads[0] = None
            for opt in pair:
                opt.step(grads)
    for a, b in zip(params, others, strict=True):
        assert same_bits(a, b)
    for a, b in zip(pair[0].state.values(), pair[1].state.values(), strict=True):
        assert all(same_bits(a[name], b[name]) for name in a)
