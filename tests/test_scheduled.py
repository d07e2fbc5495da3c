"""Schedules as the hyperparameters of an optimizer, a group or a function."""

from __future__ import annotations

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.schedules import CosineAnnealing, Linear, Step, WarmUp


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_a_schedule_is_a_learning_rate_like_setting_it_before_each_step(backend):
    p, q = np.ones(3), np.ones(3)
    schedule = Step(0.1, step_size=2, gamma=0.5)
    scheduled, by_hand = fo.Adam(p, lr=schedule, backend=backend), fo.Adam(q, lr=0.1)
    assert scheduled.lr is schedule
    for t in range(6):
        by_hand.lr = schedule(t)
        scheduled.step(np.full(3, 0.5))
        by_hand.step(np.full(3, 0.5))
    assert np.array_equal(p, q)


def test_schedules_of_other_hyperparameters_and_groups():
    p, q = np.ones(2), np.ones(2)
    ramp = Linear(1.0, start_factor=0.5, total_iters=4)
    optimizer = fo.AdamW(
        [{"params": p, "betas": (lambda t: 0.5 + 0.1 * min(t, 4), 0.9)}, {"params": q}],
        lr=0.1,
        weight_decay=ramp,
        l1=lambda t: 0.01 * t,
    )
    ours = [p.copy(), q.copy()]
    by_hand = fo.AdamW([{"params": a} for a in ours], lr=0.1)
    for t in range(6):
        by_hand.param_groups[0]["betas"] = (0.5 + 0.1 * min(t, 4), 0.9)
        by_hand.weight_decay, by_hand.l1 = ramp(t), 0.01 * t
        for o in (optimizer, by_hand):
            o.step([np.full(2, 0.5), np.full(2, 0.5)])
    assert np.array_equal(p, ours[0])
    assert np.array_equal(q, ours[1])


MOMENTA = [0.0, 0.0, 0.9, 0.5, 0.0, 0.0, 0.7, 0.0]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("momenta", [MOMENTA, MOMENTA[2:]], ids=["from zero", "to zero"])
@pytest.mark.parametrize("way", ["scheduled", "set"])
@pytest.mark.parametrize("name", ["SGD", "SGD with nesterov", "RMSprop"])
def test_momentum_that_is_zero_meanwhile_goes_where_torch_goes(name, way, momenta, backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if name == "RMSprop" and momenta[0] == 0:
        pytest.skip("torch's RMSprop has its buffer from the first step or never")
    name, _, nesterov = name.partition(" with ")
    more = {"nesterov": True} if nesterov else {}
    p, rng = np.ones(4), np.random.default_rng(3)
    q = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    peer = getattr(torch.optim, name)([q], lr=0.1, momentum=0.5, **more)
    start = momenta.__getitem__ if way == "scheduled" else 0.5
    optimizer = getattr(fo, name)(p, lr=0.1, momentum=start, backend=backend, **more)
    for momentum in momenta:
        if way == "set":
            optimizer.momentum = momentum
        peer.param_groups[0]["momentum"] = momentum
        g = rng.standard_normal(4)
        q.grad = torch.from_numpy(g.copy())
        optimizer.step(g)
        peer.step()
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_velocity_that_rests_is_not_even_read():
    """Its numbers may be anything: 0 times infinity would show."""
    for backend in ("compiled", "reference"):
        p = np.ones(40)
        optimizer = fo.SGD(p, lr=0.5, momentum=lambda t: 0.0, dampening=0.3, backend=backend)
        optimizer.state[0]["v"][...] = np.inf
        optimizer.step(np.ones(40))
        assert np.array_equal(p, np.full(40, 0.5))
        assert np.isinf(optimizer.state[0]["v"]).all()


def test_nesterov_with_a_momentum_that_warms_up():
    p = np.ones(2)
    warm = WarmUp(lambda t: 0.8, 4)
    optimizer = fo.SGD(p, lr=0.1, momentum=warm, nesterov=True)
    optimizer.step(np.ones(2))
    np.testing.assert_allclose(p, 0.9)
    optimizer.step(np.ones(2))  # momentum 0.2
    np.testing.assert_allclose(p, 0.9 - 0.1 * 1.2)


def test_value_that_does_not_fit_is_refused_before_anything_changes():
    p = np.ones(2)
    with pytest.raises(ValueError, match=r"lr: expected a finite number >= 0, found -1"):
        fo.SGD(p, lr=lambda t: -1)
    optimizer = fo.Adam(p, lr=lambda t: 0.1 - 0.1 * t)
    optimizer.step(np.ones(2))
    optimizer.step(np.ones(2))
    before = p.copy()
    with pytest.raises(ValueError, match=r"lr: expected a finite number >= 0, found -0.1"):
        optimizer.step(np.ones(2))
    assert np.array_equal(p, before)
    assert optimizer._plan.steps == [2]


def test_resumed_run_needs_the_step_count_alone():
    def made(p):
        return fo.Adam(p, lr=CosineAnnealing(0.1, T_max=10))

    p = np.ones(2)
    whole = made(p)
    for _ in range(4):
        whole.step(np.ones(2))
    q, saved = p.copy(), whole.state_dict()
    assert "lr" not in saved["param_groups"][0]
    resumed = made(q)
    resumed.load_state_dict(saved)
    for o in (whole, resumed):
        o.step(np.full(2, -1.0))
    assert np.array_equal(p, q)
    with pytest.raises(ValueError, match="hyperparameters: expected"):
        fo.Adam(q, lr=0.1).load_state_dict(saved)


def test_function_takes_a_schedule():
    p = np.ones(1)
    fo.functional.sgd(p, np.ones(1), step=3, lr=Step(1.0, step_size=1, gamma=0.5))
    assert p[0] == 0.75
