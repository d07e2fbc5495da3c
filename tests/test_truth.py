"""The references against hand-computed steps, extended precision and torch."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from zoo import CASE_IDS, CASES, OPTIMIZERS, gradients, hyperparameters, name_of

import fastoptim as fo
from fastoptim import reference
from fastoptim._kinds import Divisor, Real
from fastoptim._stages import before

try:
    import torch
except ImportError:  # it comes with the extra `torch`
    torch = None

BACKENDS = ["compiled", "reference"]


def first_steps(cls, backend, p=1.0, grads=(2.0, -1.0), **kwargs):
    """Return the parameter after each of some steps from p, computed in float64."""
    params = np.array([p])
    optimizer = cls(params, backend=backend, **kwargs)
    values = []
    for g in grads:
        optimizer.step(np.array([g]))
        values.append(params[0])
    return values


# Each expectation is worked out by hand for p = 1, g = 2 and then g = -1 if nothing else is said.
BY_HAND = [
    (fo.SGD, {"lr": 0.1}, [0.8, 0.9]),
    (fo.SGD, {"lr": 0.1, "maximize": True}, [1.2, 1.1]),
    # v = 2, then 0.9 * 2 - 1 = 0.8
    (fo.SGD, {"lr": 0.1, "momentum": 0.9}, [0.8, 0.72]),
    # v = 2 (dampening spares the first), then 1.8 - 0.5 = 1.3
    (fo.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, [0.8, 0.67]),
    # steps 2 + 0.9 * 2 = 3.8, then -1 + 0.9 * 0.8 = -0.28
    (fo.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, [0.62, 0.648]),
    # g = 2 + 0.5 * 1 = 2.5, then -1 + 0.5 * 0.75 = -0.625
    (fo.SGD, {"lr": 0.1, "weight_decay": 0.5}, [0.75, 0.8125]),
    # v = 0.2, then 0.18 - 0.1 = 0.08
    (fo.Momentum, {"lr": 0.1}, [0.98, 0.972]),
    # v = -0.2, then -0.18 + 0.1 = -0.08
    (fo.Momentum, {"lr": 0.1, "form": "heavy_ball"}, [0.8, 0.72]),
    # steps 0.1 * 2 + 0.9 * 0.2 = 0.38, then -0.1 + 0.9 * 0.08 = -0.028
    (fo.Momentum, {"lr": 0.1, "nesterov": True}, [0.962, 0.9648]),
    # v = -0.2, steps 0.9 v - 0.2 = -0.38; then v = -0.08, steps 0.9 v + 0.1 = 0.028
    (fo.Momentum, {"lr": 0.1, "form": "heavy_ball", "nesterov": True}, [0.62, 0.648]),
    # v = 0.25 * 4 = 1, then 0.75 + 0.25 = 1
    (fo.RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 0.0}, [0.8, 0.9]),
    # sqrt(1 + 3) = 2
    (fo.RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 3.0, "eps_inside": True}, [0.9, 0.95]),
    # b = 2, then 1.8 - 1 = 0.8
    (fo.RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 0.0, "momentum": 0.9}, [0.8, 0.72]),
    # mean 0.5 * 2 = 1, v = 2, variance 1; then mean 0, v = 1.5
    (
        fo.RMSprop,
        {"lr": 0.1, "alpha": 0.5, "eps": 0.0, "centered": True},
        [0.8, 0.8 + 0.1 / math.sqrt(1.5)],
    ),
    # h = 4, then 5
    (fo.Adagrad, {"lr": 0.1, "eps": 0.0}, [0.9, 0.9 + 0.1 / math.sqrt(5)]),
    # 4 + 12 under the root, then 5 + 12
    (
        fo.Adagrad,
        {"lr": 0.1, "eps": 12.0, "eps_inside": True},
        [0.95, 0.95 + 0.1 / math.sqrt(17)],
    ),
    # the second step is 1 / (1 + 1 * 1) as long
    (fo.Adagrad, {"lr": 0.1, "eps": 0.0, "lr_decay": 1.0}, [0.9, 0.9 + 0.05 / math.sqrt(5)]),
    # h = 5 + 4, then 10
    (
        fo.Adagrad,
        {"lr": 0.3, "eps": 0.0, "initial_accumulator_value": 5.0},
        [0.8, 0.8 + 0.3 / math.sqrt(10)],
    ),
    # m = 1, v = 1, corrected 2 and 4; then m = 0: no step
    (fo.Adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0}, [0.9, 0.9]),
    # eps is added to the corrected root: 0.1 * 2 / (2 + 2)
    (fo.Adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 2.0}, [0.95, 0.95]),
    # eps is added to the root of v = 1, the step is 0.1 * (0.5 / 0.5) * 1 / (1 + 1)
    (fo.Adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1.0, "eps_hat": True}, [0.95, 0.95]),
    # (1 - 0.1 * 0.5) * 1 - 0.1, then 0.95 * 0.85
    (fo.AdamW, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.5}, [0.85, 0.8075]),
    # v = 1, d = sqrt(3 / 4) 2, u = 0.75; then v = 1, d = -sqrt(3.75 / 4)
    (
        fo.Adadelta,
        {"lr": 0.1, "rho": 0.75, "eps": 3.0},
        [1 - 0.1 * math.sqrt(3), 1 - 0.1 * math.sqrt(3) + 0.05 * math.sqrt(3.75)],
    ),
    # m = 0.5, corrected 2, u = 2; then m = 0.125, corrected 2/7, u = 1.5
    (fo.Adamax, {"lr": 0.1, "betas": (0.75, 0.75), "eps": 0.0}, [0.9, 0.9 - 0.4 / 21]),
    # u = 2 + 2, then 3
    (fo.Adamax, {"lr": 0.1, "betas": (0.75, 0.75), "eps": 2.0}, [0.95, 0.95 - 0.2 / 21]),
    # mu = 1/4: g = 2 in full and 4/15 of m = 1, v corrected 4; then 4/5 of g, m = 0, v = 16/7
    (
        fo.NAdam,
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "momentum_decay": 0.0},
        [1 - 1.7 / 15, 1 - 1.7 / 15 + 0.02 * math.sqrt(7)],
    ),
    # mu = 1/2, its limit: g = 2 in full and 2/3 of m; then 2/3 of g
    (
        fo.NAdam,
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "momentum_decay": 1e9},
        [1 - 0.4 / 3, 1 - 0.4 / 3 + 0.05 / 3 * math.sqrt(7)],
    ),
    # (1 - 0.1 * 0.5) * 1 before the same step
    (
        fo.NAdam,
        {
            "lr": 0.1,
            "betas": (0.5, 0.75),
            "eps": 0.0,
            "momentum_decay": 0.0,
            "weight_decay": 0.5,
            "decoupled_weight_decay": True,
        },
        [0.95 - 1.7 / 15, 0.95 * (0.95 - 1.7 / 15) + 0.02 * math.sqrt(7)],
    ),
    # too early to divide: m corrected 2, then m = 0
    (fo.RAdam, {"lr": 0.1, "betas": (0.5, 0.75)}, [0.8, 0.8]),
    # the sign stays: 1.2 times as long
    (fo.Rprop, {"lr": 0.1, "grads": (2.0, 1.0)}, [0.9, 0.78]),
    # the sign changes: no step, half as long after
    (fo.Rprop, {"lr": 0.1, "grads": (2.0, -1.0, -1.0)}, [0.9, 0.9, 0.95]),
    # cut to 0.05, and to 0.04 after half of that
    (
        fo.Rprop,
        {"lr": 0.1, "step_sizes": (0.04, 0.05), "grads": (2.0, -1.0, -1.0)},
        [0.95, 0.95, 0.99],
    ),
    # 0.8 * 1 - 0.5 * 2; then eta = 0.5 / 1.2 = 5/12: 5/6 * -0.2 + 5/12
    (fo.ASGD, {"lr": 0.5, "lambd": 0.4, "alpha": 1.0}, [-0.2, 0.25]),
    # m = 0, c = 1; then m = 0.5, c = -0.25
    (fo.Lion, {"lr": 0.1, "betas": (0.5, 0.75)}, [0.9, 1.0]),
    # 0.95 * 1 - 0.1, then 0.95 * 0.85 + 0.1
    (fo.Lion, {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.5}, [0.85, 0.9075]),
    # sign(0) = 0
    (fo.Lion, {"lr": 0.1, "grads": (0.0, -0.0)}, [1.0, 1.0]),
    # m = 0.5, corrected 2, g - m = 1.5; then m = 1/8, corrected 2/7, s = 0.738..., corrected 1.6875
    (
        fo.AdaBelief,
        {"lr": 0.1, "betas": (0.75, 0.75), "eps": 0.0, "eps_root": 0.0},
        [1 - 0.4 / 3, 1 - 0.4 / 3 - 0.2 / 7 / math.sqrt(1.6875)],
    ),
    # s = 0.25 + 0.25, corrected 2; then m = 0
    (
        fo.AdaBelief,
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "eps_root": 0.25},
        [1 - 0.2 / math.sqrt(2)] * 2,
    ),
    # m = 1/2, corrected 2, v = 1, corrected 4; then m = 1/8, corrected 2/7, and v stays 1
    (
        fo.Yogi,
        {"lr": 0.1, "betas": (0.75, 0.75), "eps": 0.0, "initial_accumulator_value": 0.0},
        [0.9, 0.9 - math.sqrt(7) / 140],
    ),
    # m = v = 1 before: m = 3/2, corrected 3, v = 1 + 1, corrected 8; then m = 1/4, corrected 1/3,
    # v = 2 - 1/4, corrected 4
    (
        fo.Yogi,
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "initial_accumulator_value": 1.0},
        [1 - 0.3 / math.sqrt(8), 1 - 0.3 / math.sqrt(8) - 0.1 / 6],
    ),
    # m1 = 1, corrected 2, m2 = 1/2, v corrected 4: (2 + 2 / 2) / 2; then m1 = 0, m2 = 1/8, v = 16/7
    (
        fo.AdEMAMix,
        {"lr": 0.1, "betas": (0.5, 0.75, 0.75), "alpha": 2.0, "eps": 0.0},
        [0.85, 0.85 - math.sqrt(7) / 160],
    ),
    # 0.95 * 1 - 0.15, then 0.95 * 0.8
    (
        fo.AdEMAMix,
        {
            "lr": 0.1,
            "betas": (0.5, 0.75, 0.75),
            "alpha": 2.0,
            "eps": 0.0,
            "weight_decay": 0.5,
        },
        [0.8, 0.76 - math.sqrt(7) / 160],
    ),
    # v = 4; then u = -1/2, m = -1/4, v = 3.25; then u = 4 / sqrt(3.25), over its limit of 2^(1/4)
    (
        fo.ADOPT,
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "grads": (2.0, -1.0, 4.0)},
        [1.0, 1.025, 1.0375 - 0.05 * 2**0.25],
    ),
    # u = -1 / 4
    (fo.ADOPT, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 4.0}, [1.0, 1.0125]),
    # the first step does not decay, either: then 0.95 * 1 + 0.025
    (
        fo.ADOPT,
        {
            "lr": 0.1,
            "betas": (0.5, 0.75),
            "eps": 0.0,
            "weight_decay": 0.5,
            "decoupled_weight_decay": True,
        },
        [1.0, 0.975],
    ),
    # m = 2, v = 4, no difference: 1 - 0.1; then a1 = 2/3, m = 0; a2 = 2/3, d = -2; a3 = 4/7,
    # v = 3/7 4 + 4/7 (-1 - 3/2)^2 = 37/7: steps (0 - 2/2) / sqrt(37/7)
    (
        fo.Adan,
        {"lr": 0.1, "betas": (0.5, 0.5, 0.75), "eps": 0.0},
        [0.9, 0.9 + 0.1 / math.sqrt(37 / 7)],
    ),
    # each step is divided by 1 + 0.1 * 5
    (
        fo.Adan,
        {"lr": 0.1, "betas": (0.5, 0.5, 0.75), "eps": 0.0, "weight_decay": 5.0},
        [0.6, (0.6 + 0.1 / math.sqrt(37 / 7)) / 1.5],
    ),
    # m = 2, v = 4; then m = 0
    (
        fo.StableAdamW,
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.5},
        [0.85, 0.8075],
    ),
    # z = y = 0.8; then c = 1/2, y = 0.8 + 0.1 (1 - 0.9 / 2)
    (fo.ScheduleFreeSGD, {"lr": 0.1}, [0.8, 0.855]),
    # rates of 0.05 and 0.1, whose squares weigh 1 to 4: c = 4/5, y = 0.9 + 0.1 (1 - 0.9 / 5)
    (fo.ScheduleFreeSGD, {"lr": 0.1, "warmup_steps": 2.0}, [0.9, 0.982]),
    # weights of 1 and 2: c = 2/3, y = 0.8 + 0.1 (1 - 0.9 / 3)
    (fo.ScheduleFreeSGD, {"lr": 0.1, "r": 1.0}, [0.8, 0.87]),
    # u = 1; then v = 1, corrected 16/7, u = -sqrt(7) / 4
    (
        fo.ScheduleFreeAdamW,
        {"lr": 0.1, "betas": (0.9, 0.75), "eps": 0.0},
        [0.9, 0.9 + 0.055 * math.sqrt(7) / 4],
    ),
    # u = 1 + 0.5 * 1; then u is 0.5 * 0.85 more
    (
        fo.ScheduleFreeAdamW,
        {"lr": 0.1, "betas": (0.9, 0.75), "eps": 0.0, "weight_decay": 0.5},
        [0.85, 0.85 + 0.055 * (math.sqrt(7) / 4 - 0.425)],
    ),
    # h = 5 + 4, z = 2 - (3 - sqrt(5)) / 0.5 = 2 sqrt(5) - 4, over 3 / 0.5; then h = 25
    (
        fo.FTRL,
        {"lr": 0.5, "initial_accumulator_value": 5.0, "grads": (2.0, 4.0)},
        [
            (4 - 2 * math.sqrt(5)) / 6,
            -(2 * math.sqrt(5) - 4 * (4 - 2 * math.sqrt(5)) / 6) / 10,
        ],
    ),
    # |z| < 1: p = 0; then z is 4 more, and the divisor (5 + 1) / 0.5 + 2
    (
        fo.FTRL,
        {
            "lr": 0.5,
            "initial_accumulator_value": 5.0,
            "l1_regularization_strength": 1.0,
            "l2_regularization_strength": 1.0,
            "beta": 1.0,
            "grads": (2.0, 4.0),
        },
        [0.0, (1 - 2 * math.sqrt(5)) / 14],
    ),
    # m = -1: the maximum lies the other way
    (fo.Adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "maximize": True}, [1.1, 1.1]),
]


def test_every_class_is_worked_out_by_hand():
    found = {cls for cls, *_ in BY_HAND} | {fo.LAMB, fo.LARS}  # these two in tests of their own
    missing = [cls.__name__ for cls in OPTIMIZERS if cls not in found]
    assert missing == [], f"tests/test_truth.py, BY_HAND: expected two steps of {missing}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("cls", "kwargs", "expected"), BY_HAND, ids=lambda v: name_of(v))
def test_first_steps_by_hand(cls, kwargs, expected, backend):
    assert first_steps(cls, backend, **kwargs) == pytest.approx(expected, rel=1e-14)


def test_each_array_has_a_trust_ratio_of_its_own():
    """LARS: |p| / |g| is 5 / 10 and 1 / 2; an array of zeros steps with ratio 1."""
    for backend in BACKENDS:
        p, q, z = np.array([3.0, 4.0]), np.array([1.0]), np.zeros(2)
        optimizer = fo.LARS([p, q, z], lr=1.0, trust_coefficient=0.5, backend=backend)
        optimizer.step([np.array([6.0, 8.0]), np.array([2.0]), np.array([1.0, 2.0])])
        np.testing.assert_allclose(p, [1.5, 2.0], rtol=1e-15)
        np.testing.assert_allclose(q, [0.5], rtol=1e-15)
        np.testing.assert_allclose(z, [-1.0, -2.0], rtol=1e-15)


def test_lamb_by_hand():
    """The first direction is sign(g) + 0.5 p: (1 + 1.5, 1 + 2), beside |p| = 5."""
    for backend in BACKENDS:
        p = np.array([3.0, 4.0])
        optimizer = fo.LAMB(p, lr=0.1, eps=0.0, weight_decay=0.5, backend=backend)
        optimizer.step(np.array([7.0, 1e-3]))
        ratio = 5 / np.hypot(2.5, 3.0)
        np.testing.assert_allclose(p, [3 - 0.1 * ratio * 2.5, 4 - 0.1 * ratio * 3.0], rtol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cautious_by_hand(backend):
    """Of v = 1.9, 0.4, 0.9 the last two do not go down: the first goes three times as far."""
    p = np.zeros(3)
    optimizer = fo.SGD(p, lr=0.1, momentum=0.9, cautious=True, backend=backend)
    optimizer.step(np.ones(3))
    np.testing.assert_allclose(p, [-0.1] * 3, rtol=1e-15)
    optimizer.step(np.array([1.0, -0.5, 0.0]))
    np.testing.assert_allclose(p, [-0.1 - 0.3 * 1.9, -0.1, -0.1], rtol=1e-14)
    np.testing.assert_allclose(optimizer.state[0]["v"], [1.9, 0.4, 0.9], rtol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", [fo.SGD, fo.Momentum, fo.Adam, fo.AdamW, fo.Lion], ids=name_of)
def test_cautious_steps_hide_no_nan(cls, backend):
    p = np.ones(3)
    kwargs = {"momentum": 0.9} if cls is fo.SGD else {}
    optimizer = cls(p, cautious=True, backend=backend, **kwargs)
    optimizer.step(np.array([1.0, np.nan, -1.0]))
    assert np.isnan(p).tolist() == [False, True, False]
    assert p[0] < 1 < p[2]


def test_cautious_needs_a_momentum():
    with pytest.raises(ValueError, match="cautious: expected momentum > 0 with it, or a schedule"):
        fo.SGD(np.ones(2), cautious=True)
    fo.SGD(np.ones(2), cautious=True, momentum=lambda t: 0.1 * t).step(np.ones(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_stableadamw_bounds_the_step_of_each_array(backend):
    """After v = 1, gradients of 6 have v = 21 and RMS 6 / sqrt(21); those of the other array 1."""
    p, q = np.ones(2), np.ones(2)
    hyper = {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.5}
    optimizer = fo.StableAdamW([p, q], backend=backend, **hyper)
    optimizer.step([np.ones(2), np.ones(2)])
    np.testing.assert_allclose([*p, *q], [0.85] * 4, rtol=1e-14)
    optimizer.step([np.full(2, 6.0), np.ones(2)])
    lr = 0.1 * math.sqrt(21) / 6
    first = (1 - 0.5 * lr) * 0.85 - lr * 13 / 3 / math.sqrt(21)
    np.testing.assert_allclose([*p, *q], [first, first, 0.7075, 0.7075], rtol=1e-14)


def test_amsgrad_by_hand():
    """The mean square v is 4 and then 0.75 * 4 = 3; the step still divides by 2, not by sqrt(3)."""
    kwargs = {"lr": 0.1, "betas": (0.0, 0.75), "eps": 0.0, "grads": (4.0, 1e-8)}
    v1, c1, c2 = 4.0, 0.25, 1 - 0.75**2
    first = 1 - 0.1 * 4 / math.sqrt(v1 / c1)
    expected = [first, first - 0.1 * 1e-8 / math.sqrt(v1 / c2)]
    for backend in BACKENDS:
        assert first_steps(fo.Adam, backend, amsgrad=True, **kwargs) == pytest.approx(
            expected, rel=1e-15
        )
    without = first_steps(fo.Adam, "reference", **kwargs)
    assert without[0] - without[1] > first - expected[1]


def test_radam_by_hand():
    """Of a constant gradient 2 with beta1 = 0, m = 2 and the corrected root is 2 too."""
    b2, long = 0.75, 7  # 2 / (1 - 0.75) - 1
    expected, p = [], 1.0
    for t in range(1, 13):
        rho = long - 2 * t * b2**t / (1 - b2**t)
        if t <= 7:  # rho is 4.84 at the 7th step, 5.22 at the 8th
            p -= 0.1 * 2
        else:
            p -= 0.1 * math.sqrt((rho - 4) * (rho - 2) * long / ((long - 4) * (long - 2) * rho))
        expected.append(p)
    for backend in BACKENDS:
        found = first_steps(fo.RAdam, backend, lr=0.1, betas=(0.0, b2), eps=0.0, grads=[2.0] * 12)
        assert found == pytest.approx(expected, rel=1e-13)


def test_asgd_averages_after_t0():
    """Of p = 3, 2, 1, 0, ... those after the second step."""
    p = np.array([4.0])
    optimizer = fo.ASGD(p, lr=1.0, lambd=0.0, t0=2)
    averages = []
    for _ in range(6):
        optimizer.step(np.ones(1))
        averages.append(optimizer.state[0]["ax"][0])
    assert averages == pytest.approx([3.0, 2.0, 1.0, 0.0, -0.5, -1.0])


def test_nadam_multiplies_its_momenta_in_order():
    """A run that goes on from a late step, or skips one, finds the sequential product."""
    product, products = 1.0, {}
    for t in range(1, 5001):
        product *= 0.99 * (1 - 0.5 * 0.96 ** (t * 1e-3))
        products[t] = product
    for t in (3000, 1, 2999, 50, 3001, 49, 5000):
        assert 1 - reference._nadam_product(t, 0.99, 1e-3) == 1 - products[t]


# 960 / momentum_decay steps, about, are left until a momentum is the first beta itself.
@pytest.mark.parametrize("psi", [0.0, 5e-324, 4e-3, 0.28, 0.3163, 0.35, 1.0, 50.0, 1e3, 1e308])
@pytest.mark.parametrize("b1", [0.0, 0.9, 1 - 1e-6, 1 - 1e-12, 1 - 2.0**-53])
def test_nadam_multiplies_few_momenta_however_late_the_step(b1, psi, monkeypatch):
    """Step counts and hyperparameters may come from a file that somebody else has written."""
    calls, real = [], reference.nadam_momentum

    def counted(*args):
        calls.append(args)
        assert len(calls) < 10_000
        return real(*args)

    monkeypatch.setattr(reference, "nadam_momentum", counted)
    for t in (10_000, 2**62 - 1, 2**62):
        powers = 0.96 ** (np.arange(1, 10_001) * min(psi, 1e9))
        logs = math.log(b1) * t + np.log1p(-0.5 * powers).sum() if b1 else -math.inf
        found = reference._nadam_product(t, b1, psi)
        assert found == pytest.approx(math.exp(logs), rel=1e-11, abs=1e-20)


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
@pytest.mark.parametrize("step", [1, 2, 7, 10**6, 2**53 + 1, 2**62 - 1, 2**62])
def test_scalars_of_any_step_and_extreme_hyperparameters(cls, step):
    """Whatever passes the checks gives numbers, not an error in the middle of a run."""
    extreme = {
        "betas": [(0.0, 5e-324), (1 - 2.0**-53, 1 - 2.0**-53), (0.9, 1 - 2.0**-53)],
        "momentum": [0.0, 1 - 2.0**-53],
        "lr": [0.0, 5e-324, 1e300],
    }
    for default in hyperparameters(cls):
        if isinstance(cls.rule.kinds[default], Real) and default not in extreme:
            extreme[default] = [0.0, 5e-324, 1 - 2.0**-53]
            if cls.rule.kinds[default].high > 1:
                extreme[default].append(1e308)
    if len(cls.rule.defaults.get("betas", ())) == 3:
        extreme["betas"] = [(*pair, beta) for pair in extreme["betas"] for beta in pair]
    if isinstance(cls.rule.kinds["lr"], Divisor):
        extreme["lr"] = [1e-308, 1e300]
    for name, values in extreme.items():
        for value in values if name in cls.rule.kinds else ():
            hyper = cls.rule.check({name: value})
            _, _, own, *_ = hyper.scalars(step, cls.rule.initial_numbers)
            assert not any(map(math.isnan, own))


def test_rprop_tells_signs_of_gradients_whose_product_vanishes():
    p = np.zeros(1, np.float32)
    optimizer = fo.Rprop(p, lr=0.1)
    for _ in range(2):
        optimizer.step(np.full(1, 1e-30, np.float32))
    assert p[0] == pytest.approx(-0.22)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"etas": (1.0, 1.2)}, "etas: expected two numbers, 0 < first < 1 < second"),
        ({"etas": (0.5, 1.0)}, "etas: expected"),
        ({"etas": (0.0, 1.2)}, "etas: expected"),
        ({"etas": (0.5, 1.2, 1.3)}, "etas: expected two values"),
        ({"step_sizes": (1.0, 0.1)}, "step_sizes: expected two numbers, low <= high"),
        ({"step_sizes": (-1.0, 1.0)}, "step_sizes: expected two values, each a finite number >= 0"),
    ],
)
def test_rprop_checks_its_pairs(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fo.Rprop(np.zeros(1), **kwargs)


def test_bias_correction_is_computed_in_double_precision():
    """In float32, 1 - 0.9999999 would be 1.19e-7: the first step 9 % too long."""
    p = np.zeros(1, np.float32)
    fo.Adam(p, lr=1.0, betas=(0.9999999, 0.9999999)).step(np.ones(1, np.float32))
    assert p[0] == pytest.approx(-1.0, rel=1e-6)


def test_centered_rmsprop_stays_finite_where_rounding_makes_the_variance_negative():
    p = np.full(1000, 1.0, np.float32)
    g = np.linspace(0.1, 3.0, 1000, dtype=np.float32)
    optimizer = fo.RMSprop(p, lr=1e-3, centered=True, alpha=0.5)
    for _ in range(100):
        optimizer.step(g)
    v, g_avg = optimizer.state[0]["v"], optimizer.state[0]["g_avg"]
    assert (v - g_avg * g_avg < 0).any(), "the case that this test is for"
    assert np.isfinite(p).all()


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps, reason="long double is double here"
)
@pytest.mark.parametrize(("cls", "chosen"), CASES, ids=CASE_IDS)
def test_against_extended_precision(cls, chosen):
    """The rule in long double, from the same twin: float64 and float32 differ by rounding alone."""
    rng = np.random.default_rng(11)
    start = rng.standard_normal(200)
    grads = [rng.standard_normal(200) for _ in range(10)]
    hyper = cls.rule.check({**hyperparameters(cls), **chosen, "lr": 0.01})

    exact = start.astype(np.longdouble)
    names = cls.rule.state_for(hyper)
    arrays = {s: np.full(200, cls.rule.start_of(s, hyper), np.longdouble) for s in names}
    numbers, rescale = [cls.rule.initial_numbers], cls.rule.twin.rescale
    for t, g in enumerate(grads, start=1):
        common, _, own, *numbers = hyper.scalars(t, *numbers)
        seen = before(g, exact, *map(np.longdouble, common))
        state = [arrays.get(s) for s in cls.rule.state]
        if hyper.measured:
            u = np.empty_like(exact)
            cls.rule.update(exact, seen, *state, u, *map(np.longdouble, own))
            own = rescale(own, float(np.sum(exact * exact)), float(np.sum(u * u)), 200)
        if rescale:
            state.append(None)
        cls.rule.update(exact, seen, *state, *map(np.longdouble, own))

    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 1e-4)):
        p = start.astype(dtype)
        optimizer = cls(p, **{**chosen, "lr": 0.01})
        for g in grads:
            optimizer.step(g.astype(dtype))
        # centered RMSprop divides by a small difference of large numbers
        loose = 1000 if chosen.get("centered") else 1
        np.testing.assert_allclose(
            p, exact.astype(dtype), rtol=tolerance * loose, atol=tolerance * loose
        )


def torchs(cls):
    """Return the parameters of torch's class of the same name, or none."""
    return inspect.signature(getattr(torch.optim, cls.__name__, object)).parameters


# A class that torch has, and the options that it has there.
SHARED_WITH_TORCH = [cls for cls in OPTIMIZERS if torch and torchs(cls)]
TORCH_CASES = [
    (cls, {name: value for name, value in chosen.items() if name in torchs(cls)})
    for cls, chosen in CASES
    if cls in SHARED_WITH_TORCH
    and all(name in torchs(cls) for name, value in chosen.items() if value)
]


@pytest.fixture
def double_scalars():
    """Let torch keep its scalar state, such as NAdam's product, in double precision, as we do."""
    old = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(old)


@pytest.mark.parametrize("cls", SHARED_WITH_TORCH, ids=name_of)
def test_signature_is_torchs(cls):
    """The same names, in the same order, with the same defaults."""
    theirs = torchs(cls)
    left_out = {"foreach", "capturable", "differentiable", "fused"}
    positional = [
        (p.name, p.default)
        for p in theirs.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in {*left_out, "maximize"}
    ]
    ours = inspect.signature(cls).parameters
    assert [(p.name, p.default) for p in ours.values()][: len(positional)] == positional
    for name, p in theirs.items():
        if name not in left_out:
            assert ours[name].default == p.default


@pytest.mark.parametrize(
    ("cls", "chosen"), TORCH_CASES, ids=[f"{name_of(c)}-{name_of(o)}" for c, o in TORCH_CASES]
)
@pytest.mark.usefixtures("double_scalars")
def test_against_torch(cls, chosen):
    rng = np.random.default_rng(13)
    start = [rng.standard_normal(300), rng.standard_normal((4, 5))]
    ours = [p.copy() for p in start]
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in start]
    kwargs = {**chosen, "lr": 1.0 if cls is fo.Adadelta else 0.01}
    a = cls(ours, **kwargs)
    b = getattr(torch.optim, cls.__name__)(theirs, **kwargs)
    for t in range(25):
        grads = gradients(rng, start)
        if t % 5 == 3:
            grads[1] = None
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.from_numpy(g)
        a.step(grads)
        b.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        moved = np.abs(p - s)
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-12, atol=1e-12)
        assert np.median(moved) > 1e-4
    for arrays, q in zip(a.state.values(), theirs, strict=True):
        peers = [s.numpy() for s in b.state[q].values() if s is not None and s.shape == q.shape]
        assert len(arrays) == len(peers)
        for name, array in arrays.items():  # which of theirs it is, the docstring says
            assert any(
                np.allclose(array, s, rtol=1e-12, atol=1e-12 * np.abs(s).max()) for s in peers
            ), name
