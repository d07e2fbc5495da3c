"""Promise 1: a compiled step has the bits of the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zoo import (
    DTYPES,
    LEVELS,
    OPTIMIZERS,
    PAIR_IDS,
    PAIRS,
    SIZES,
    assert_same,
    engine,
    gradients,
    name_of,
    pairs,
)

import fastoptim as fo

STEPS = 10


def run(cls, params, grads_of_steps, **kwargs):
    optimizer = cls([p.copy(order="K") for p in params], **kwargs)
    for grads in grads_of_steps:
        optimizer.step(grads)
    return optimizer


@pytest.fixture(scope="module", params=DTYPES, ids=name_of)
def problem(request):
    """Arrays of every size, as the tensors of one optimizer, and gradients for some steps."""
    rng = np.random.default_rng(20261122)
    params = [rng.standard_normal(n).astype(request.param) for n in SIZES]
    return params, [gradients(rng, params) for _ in range(STEPS)]


@pytest.mark.parametrize(("cls", "chosen"), PAIRS, ids=PAIR_IDS)
def test_every_pair_of_options_size_level_and_thread_count(cls, chosen, problem):
    params, grads = problem
    reference = run(cls, params, grads, backend="reference", lr=0.01, **chosen)
    before = np.concatenate(params)
    after = np.concatenate(reference.param_groups[0]["params"])
    assert np.isfinite(after).all()
    assert np.mean(before != after) > 0.9
    for level in LEVELS:
        for threads, openmp in ((1, False), (2, False), (3, True)):
            with engine(level, threads, openmp):
                assert_same(run(cls, params, grads, lr=0.01, **chosen), reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_each_size_alone(cls, dtype):
    """A tensor of its own has its own start, and so its own tail."""
    rng = np.random.default_rng(7)
    for n in SIZES[:66]:
        params = [rng.standard_normal(n).astype(dtype)]
        grads = [gradients(rng, params) for _ in range(STEPS)]
        assert_same(run(cls, params, grads), run(cls, params, grads, backend="reference"))


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize(("cls", "chosen"), PAIRS, ids=PAIR_IDS)
def test_special_values(cls, chosen, dtype):
    """NaN, infinities, zeros of both signs, subnormals and the largest numbers."""
    info = np.finfo(dtype)
    tiny, huge = info.smallest_subnormal, info.max
    special = np.array(
        [0.0, -0.0, tiny, -tiny, info.tiny, 1.0, -1.0, huge, -huge, np.inf, -np.inf, np.nan], dtype
    )
    p, g = (grid.reshape(-1) for grid in np.meshgrid(special, special))
    grads = [[np.roll(g, 5 * t)] for t in range(STEPS)]
    reference = run(cls, [p], grads, backend="reference", **chosen)
    for level in LEVELS:
        with engine(level):
            assert_same(run(cls, [p], grads, **chosen), reference)


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_extreme_scalars(cls):
    """Hyperparameters that float32 rounds to zero or to infinity."""
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(33).astype(np.float32), rng.standard_normal(33)]
    grads = [gradients(rng, params) for _ in range(3)]
    for value in (1e-60, 1e60):
        for name in ("lr", "weight_decay", "eps"):
            if name in cls.rule.kinds:
                kwargs = {name: value}
                ours = run(cls, params, grads, **kwargs)
                assert_same(ours, run(cls, params, grads, backend="reference", **kwargs))


@st.composite
def problems(draw):
    cls = draw(st.sampled_from(OPTIMIZERS))
    chosen = draw(st.sampled_from(pairs(cls)))
    dtype = draw(st.sampled_from(DTYPES))
    shapes = draw(
        st.lists(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), min_size=1, max_size=4)
    )
    width = 32 if dtype is np.float32 else 64
    floats = st.floats(width=width, allow_subnormal=True)
    params = [draw(hnp.arrays(dtype, shape, elements=floats)) for shape in shapes]
    steps = draw(st.integers(1, 4))
    grads = [
        [draw(st.none() | hnp.arrays(dtype, shape, elements=floats)) for shape in shapes]
        for _ in range(steps)
    ]
    layout = draw(st.sampled_from("CF"))
    return cls, chosen, [np.asarray(p, order=layout) for p in params], grads


@settings(max_examples=300, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(LEVELS), st.integers(1, 3), st.booleans())
def test_search(problem, level, threads, openmp):
    cls, chosen, params, grads = problem
    reference = run(cls, params, grads, backend="reference", **chosen)
    with engine(level, threads, openmp):
        assert_same(run(cls, params, grads, **chosen), reference)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_grad_norm": 1.0, "nonfinite": "skip"},
        {"ema_decay": 0.9, "bounds": (-1, 1), "l1": 0.01, "max_grad_value": 0.1},
    ],
    ids=name_of,
)
def test_mixed_dtypes_and_groups_in_one_optimizer(options):
    rng = np.random.default_rng(5)
    shapes = [(3, 5), (), (0,), (20_000,), (7,)]
    groups = [
        [rng.standard_normal(s).astype(DTYPES[k % 2]) for k, s in enumerate(shapes, start=first)]
        for first in (0, 1)
    ]
    grads = [[gradients(rng, group) for group in groups] for _ in range(STEPS)]
    grads[3][0][1] = None
    grads[4][1] = [None] * len(shapes)

    def trained(**kwargs):
        optimizer = fo.Adam(
            [
                {
                    "params": [p.copy() for p in groups[0]],
                    "lr": 0.1,
                    "mask": [p > 0 for p in groups[0]],
                },
                {"params": [p.copy() for p in groups[1]], "amsgrad": True, "weight_decay": 0.1},
            ],
            **options,
            **kwargs,
        )
        for pair in grads:
            optimizer.step(pair)
        return optimizer

    with engine(threads=3):
        assert_same(trained(), trained(backend="reference"))
