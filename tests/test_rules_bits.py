"""Promise 1 for rules of one's own: compiled, a function has the bits that it has in NumPy.

`python tests/test_rules_bits.py 1000` tries as many random rules.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import rewritten
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written import rule_from, texts
from zoo import (
    DTYPES,
    LEVELS,
    OPTIMIZERS,
    PAIR_IDS,
    PAIRS,
    TASK,
    TILE,
    assert_same,
    engine,
    gradients,
    name_of,
)

import fastoptim as fo

pytest.importorskip("llvmlite", reason="the extra rules is not installed")

BUILT_IN = [cls for cls in OPTIMIZERS if hasattr(rewritten, cls.rule.name)]
SIZES = [0, 1, 3, 8, 15, 16, 17, 31, 33, 63, 65, TILE - 1, TILE, TILE + 1, 2 * TASK + 5]


def own_class(cls):
    """Return the class of a built-in rule that has been written anew."""
    return fo.optimizer(getattr(rewritten, cls.rule.name))


def trained(cls, params, grads_of_steps, **options):
    opt = cls([p.copy(order="K") for p in params], **options)
    for grads in grads_of_steps:
        opt.step(grads)
    return opt


def test_fourteen_rules_are_written_anew():
    assert {cls.rule.name for cls in BUILT_IN} == {
        "sgd", "momentum", "rmsprop", "adagrad", "adam", "adamw", "adadelta", "adamax", "nadam",
        "radam", "rprop", "asgd", "lion", "adabelief",
    }  # fmt: skip


@pytest.mark.parametrize("cls", BUILT_IN, ids=name_of)
def test_rules_written_anew_are_declared_as_the_built_in_ones(cls):
    own = own_class(cls).rule
    for name in ("state", "needs", "starts", "decoupled"):
        assert getattr(own, name) == getattr(cls.rule, name), name
    for name in ("kinds", "defaults"):
        assert getattr(own, name) == incautious(getattr(cls.rule, name)), name


def incautious(options):
    """Return hyperparameters without the one that these rules do not have."""
    return {name: value for name, value in options.items() if name != "cautious"}


@pytest.fixture(scope="module", params=DTYPES, ids=name_of)
def problem(request):
    """Arrays of many sizes, and gradients for some steps."""
    rng = np.random.default_rng(20261130)
    params = [rng.standard_normal(n).astype(request.param) for n in SIZES]
    return params, [gradients(rng, params) for _ in range(4)]


WRITTEN_ANEW = [
    pytest.param(cls, incautious(chosen), id=name)
    for (cls, chosen), name in zip(PAIRS, PAIR_IDS, strict=True)
    if cls in BUILT_IN and not chosen.get("cautious")
]


@pytest.mark.parametrize(("cls", "chosen"), WRITTEN_ANEW)
def test_rules_written_anew_have_the_bits_of_their_kernels(cls, chosen, problem):
    params, grads = problem
    expected = trained(cls, params, grads, lr=0.01, **chosen)
    for level in LEVELS:
        with engine(level, threads=2):
            assert_same(trained(own_class(cls), params, grads, lr=0.01, **chosen), expected)
    reference = trained(own_class(cls), params, grads, lr=0.01, backend="reference", **chosen)
    assert_same(reference, expected)


def specials(dtype):
    """Return NaN, infinities, zeros of both signs, subnormals and the largest numbers."""
    info = np.finfo(dtype)
    tiny, huge = info.smallest_subnormal, info.max
    ordinary = [1.0, -1.0, 0.3, -7.0]
    found = [0.0, -0.0, tiny, -tiny, info.tiny, *ordinary, huge, -huge, np.inf, -np.inf, np.nan]
    return np.array(found, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("cls", BUILT_IN, ids=name_of)
def test_special_values_of_rules_written_anew(cls, dtype):
    special = specials(dtype)
    p, g = (grid.reshape(-1) for grid in np.meshgrid(special, special))
    grads = [[np.roll(g, 5 * t)] for t in range(4)]
    for options in ({}, {"flush_denormals": True}):
        expected = trained(cls, [p], grads, **options)
        assert_same(trained(own_class(cls), [p], grads, **options), expected)


OPTIONS = [
    {},
    {"flush_denormals": True},
    {"weight_decay": 0.3},
    {"l1": 0.2, "maximize": True, "max_grad_value": 2.0},
    {"bounds": (-2.0, 3.0), "ema_decay": 0.5},
    {"max_grad_norm": 1.0, "flush_denormals": True},
]


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from(DTYPES))
    drawn = draw(texts())
    size = draw(st.sampled_from([1, 2, 7, 16, 33, 65, TILE + 1, TASK + 3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    options = {**draw(st.sampled_from(OPTIONS)), "extra": draw(st.booleans())}
    return drawn, dtype, size, rng, options


def check(case, level, threads):
    """Compare some steps of a random rule on arrays of random and special numbers."""
    drawn, dtype, size, rng, options = case
    own = fo.optimizer(rule_from(*drawn))

    def array():
        ordinary = rng.standard_normal(size) * 10.0 ** rng.integers(-3, 3, size)
        return np.where(rng.random(size) < 0.4, rng.choice(specials(dtype), size), ordinary)

    params = [array().astype(dtype), array().astype(dtype).reshape(1, -1)]
    grads = [[array().astype(dtype), array().astype(dtype)[None][:, ::-1]] for _ in range(3)]
    reference = trained(own, params, grads, backend="reference", **options)
    with engine(level, threads):
        assert_same(trained(own, params, grads, **options), reference)


search = given(cases(), st.sampled_from(LEVELS), st.integers(1, 2))


@settings(max_examples=100, deadline=None, derandomize=True)
@search
def test_random_rules(case, level, threads):
    check(case, level, threads)


@pytest.mark.parametrize("same", ["x * 1", "x / 1", "x - 0", "-1 * x"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_operations_that_only_flush(same, dtype):
    """They leave a number as it is, but for a denormal one where these are taken for zero."""
    text = f"def idle(p, g, s, c0, c1, c2, c3):\n    x = s\n    return p - g, {same}\n"
    own = fo.optimizer(rule_from(text, ("s",), False))

    def trained_from(**options):
        opt = own([np.zeros(40, dtype)], flush_denormals=True, **options)
        opt.state[0]["s"][...] = np.finfo(dtype).smallest_subnormal
        opt.step([np.zeros(40, dtype)])
        return opt

    assert not trained_from(backend="reference").state[0]["s"].any()
    for level in LEVELS:
        with engine(level):
            assert_same(trained_from(), trained_from(backend="reference"))


def test_two_variants_of_one_rule_in_one_optimizer():
    """State that one group has, and the other has not: one loop for both."""
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(n).astype(np.float32) for n in (700, 33)]
    grads = [gradients(rng, params) for _ in range(3)]

    def trained_in_groups(cls, **options):
        first, second = (p.copy() for p in params)
        opt = cls([{"params": [first], "amsgrad": True}, {"params": [second]}], **options)
        for a, b in grads:
            opt.step([[a], [b]])
        return opt

    assert_same(trained_in_groups(own_class(fo.Adam)), trained_in_groups(fo.Adam))


if __name__ == "__main__":
    count = int(sys.argv[1])
    checks = list(HealthCheck)
    settings(max_examples=count, deadline=None, suppress_health_check=checks)(search(check))()
    print(f"{count} random rules: the same bits")
