"""Schedules as the hyperparameters of an optimizer, a group or a function."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import OPTIMIZERS, arrays_of, name_of, same_bits, snapshot

import fastoptim as fo
from fastoptim._hyper import LAZY
from fastoptim._kinds import Divisor, Flag, Real
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


# What is set, scheduled or taken back before a step, and what an optimizer made anew would have.
VALUES = {
    "lr": [
        0.1,
        0.0,
        -0.0,
        1,
        np.float32(0.3),
        Step(0.2, step_size=2, gamma=0.5),
        lambda t: 0.1 + t,
    ],
    "betas": [
        (0.9, 0.99),
        [0.5, 0.9],
        np.array([0.6, 0.7]),
        (Linear(0.9, total_iters=3), 0.9),
        lambda t: (0.1 * min(t, 5), 0.5),
    ],
    "eps": [1e-8, 0.1, lambda t: 0.01 * t],
    "weight_decay": [0.0, 0.3, Linear(0.5, total_iters=4)],
    "amsgrad": [False, True, lambda t: t % 2 == 0],
    "decoupled_weight_decay": [False, True, lambda t: t % 3 == 0],
    "l1": [0.0, 0.2, Linear(0.3, total_iters=2)],
    "max_grad_value": [None, 0.5, lambda t: None if t % 2 else 0.25],
    "max_param_grad_norm": [None, 0.5, lambda t: None if t % 2 else 0.25],
    "maximize": [False, True, lambda t: t % 2 == 1],
    "bounds": [None, (-0.75, 1.5), (lambda t: -1.0 - t, np.inf)],
    "ema_decay": [None, 0.9, Linear(0.9, end_factor=0.5, total_iters=3)],
}
CHANGE = st.sampled_from([(name, value) for name, values in VALUES.items() for value in values])
CHANGES = st.lists(st.tuples(st.sampled_from([0, 1, None]), CHANGE), max_size=4)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@settings(max_examples=60, deadline=None)
@given(runs=st.lists(CHANGES, min_size=1, max_size=6))
def test_changes_lead_where_an_optimizer_made_with_them_goes(backend, runs):
    """Nothing is left of the values before, in whatever order they were set and taken back.

    Before each step, another optimizer is made with all hyperparameters at once and gets the state.
    To ask for the state may bring it about, so that a third optimizer is asked.
    """
    rng = np.random.default_rng(5)
    params = [rng.standard_normal(7), rng.standard_normal(3)]
    ours, asked = (
        fo.Adam([{"params": p.copy()} for p in params], backend=backend) for _ in range(2)
    )
    for changes in runs:
        for number, (name, value) in changes:
            for opt in (ours, asked):
                if number is None:
                    setattr(opt, name, value)
                else:
                    opt.param_groups[number][name] = value
        made = [{**group, "params": group["params"][0].copy()} for group in asked.param_groups]
        fresh = fo.Adam(made, backend=backend)
        fresh.load_state_dict(asked.state_dict())
        g = [rng.standard_normal(p.size) for p in params]
        for opt in (ours, asked, fresh):
            opt.step(g)
        expected = dict(arrays_of(fresh))
        for opt in (ours, asked):
            found = dict(arrays_of(opt))
            assert found.keys() == expected.keys()
            assert all(same_bits(found[name], expected[name]) for name in expected)
            for group, other in zip(opt.param_groups, fresh.param_groups, strict=True):
                assert group.hyper == other.hyper


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_a_value_set_for_each_step_gives_the_bits_of_a_schedule(cls):
    """In each class, each hyperparameter that is a number, or a flag that calls for no state.

    But for `lazy`, which is for steps of rows, and no schedule.
    """
    rng = np.random.default_rng(7)
    others = {"momentum": 0.9} if "momentum" in cls.rule.kinds else {}
    for name, kind in cls.rule.kinds.items():
        if isinstance(kind, Real):
            values = [0.1, 0.3, 0.3, 0.2, 0.5 if isinstance(kind, Divisor) else 0.0]
        elif isinstance(kind, Flag) and name not in (LAZY, *cls.rule.needs.values()):
            values = [True, False, True, True, False]
        else:
            continue
        p, q = np.ones(5), np.ones(5)
        by_hand = cls(p, **{**others, name: values[0]})
        scheduled = cls(q, **{**others, name: values.__getitem__})
        for value in values:
            setattr(by_hand, name, value)
            g = rng.standard_normal(5)
            by_hand.step(g)
            scheduled.step(g)
        assert same_bits(p, q), name


def test_a_list_with_a_schedule_may_be_changed_in_place():
    p, q = np.ones(2), np.ones(2)
    betas = [lambda t: 0.5, 0.9]
    ours, other = fo.Adam(p, betas=betas), fo.Adam(q, betas=(0.5, 0.9))
    for second in (0.9, 0.8):
        betas[1] = second
        other.betas = (0.5, second)
        ours.step(np.ones(2))
        other.step(np.ones(2))
        assert same_bits(p, q)
    betas[1] = 1.5
    with pytest.raises(ValueError, match="betas: expected two values, each a number in"):
        ours.step(np.ones(2))
    assert same_bits(p, q)


def test_a_list_without_one_is_copied():
    betas = [0.5, 0.9]
    opt = fo.Adam(np.ones(2), betas=betas)
    betas[0] = 7.0
    assert opt.betas == (0.5, 0.9)
    opt.step(np.ones(2))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("lr", True, TypeError, "lr: expected a finite number >= 0, found True"),
        ("lr", -1.0, ValueError, "lr: expected a finite number >= 0, found -1.0"),
        ("lr", np.nan, ValueError, "lr: expected a finite number >= 0, found nan"),
        ("lr", np.inf, ValueError, "lr: expected a finite number >= 0, found inf"),
        ("lr", np.array(0.1), TypeError, "lr: expected a finite number >= 0, found array"),
        ("lr", lambda t: -1.0, ValueError, "lr: expected a finite number >= 0, found -1.0"),
        (
            "lr",
            lambda t: lambda t: 0.1,
            TypeError,
            "lr: expected a finite number >= 0, found <func",
        ),
        ("betas", (0.9, 1.0), ValueError, "betas: expected two values, each a number in"),
        ("nesterov", True, ValueError, "nesterov: expected dampening = 0 with it"),
        ("beta", 0.9, (AttributeError, TypeError), "beta: "),
        ("max_grad_norm", -1.0, (ValueError, TypeError), "max_grad_norm: expected"),
    ],
)
@pytest.mark.parametrize("way", ["all groups", "a group"])
def test_what_is_set_is_refused_alone_and_beside_the_others(name, value, error, message, way):
    cls = fo.SGD if name == "nesterov" else fo.Adam
    more = {"dampening": 0.5, "momentum": 0.9} if name == "nesterov" else {}
    opt = cls([{"params": np.ones(2)}, {"params": np.ones(3)}], **more)
    opt.step([np.ones(2), np.ones(3)])
    before = snapshot(opt)
    set_it = opt.param_groups[1].__setitem__ if way == "a group" else partial(setattr, opt)
    with pytest.raises(error, match=re.escape(message)):
        set_it(name, value)
    assert snapshot(opt) == before
    opt.step([np.ones(2), np.ones(3)])


def test_one_group_that_refuses_a_value_keeps_it_from_all():
    opt = fo.SGD(
        [{"params": np.ones(2)}, {"params": np.ones(2), "dampening": 0.5}], lr=0.1, momentum=0.9
    )
    with pytest.raises(ValueError, match="nesterov: expected dampening = 0 with it"):
        opt.nesterov = True
    assert [group["nesterov"] for group in opt.param_groups] == [False, False]


def test_a_schedule_that_raises_leaves_everything_as_it_was():
    class WrongError(Exception):
        pass

    def lr(t):
        if t == 2:
            raise WrongError
        return 0.1

    for backend in ("compiled", "reference"):
        opt = fo.Adam([np.ones(2), np.ones(3)], lr=lr, backend=backend)
        for _ in range(2):
            opt.step([np.ones(2), np.ones(3)])
        before = snapshot(opt)
        with pytest.raises(WrongError):
            opt.step([np.ones(2), np.ones(3)])
        assert snapshot(opt) == before
        opt.lr = 0.1
        opt.step([np.ones(2), np.ones(3)])
