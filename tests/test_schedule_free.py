"""Schedule-Free rules: what is evaluated, and the numbers that are kept of the steps."""

from __future__ import annotations

import copy
import math
import pickle
import threading

import numpy as np
import pytest
from zoo import DTYPES, arrays_of, assert_same, engine, gradients, name_of, same_bits, snapshot

import fastoptim as fo

CLASSES = [fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW]
BACKENDS = ["compiled", "reference"]
both_classes = pytest.mark.parametrize("cls", CLASSES, ids=name_of)
both_backends = pytest.mark.parametrize("backend", BACKENDS)


def momentum(cls, b):
    return {"momentum": b} if cls is fo.ScheduleFreeSGD else {"betas": (b, 0.999)}


def trained(cls, steps=5, shapes=((37,), (4, 5)), dtype=np.float64, **options):
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    optimizer = cls(params, lr=0.1, **options)
    for _ in range(steps):
        optimizer.step(gradients(rng, params))
    return optimizer, params


@both_classes
@both_backends
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_parameters_hold_the_average_and_come_back_with_the_same_bits(cls, backend, dtype):
    optimizer, params = trained(cls, dtype=dtype, backend=backend)
    params.append(params[1])  # what a caller holds is what changes
    before = snapshot(optimizer)
    expected = [
        p + dtype(1 - 1 / 0.9) * (state["z"] - p)
        for p, state in zip(params, optimizer.state.values(), strict=False)
    ]
    with optimizer.use_average():
        assert all(same_bits(p, x) for p, x in zip(params, expected, strict=False))
        assert not same_bits(params[0], optimizer.state[0]["z"])
    assert snapshot(optimizer) == before


@both_classes
def test_the_average_is_that_of_the_steps(cls):
    """It is as the paper has it, from each z and its weight."""
    p = np.array([1.0, -2.0])
    optimizer = cls(p, lr=lambda t: (0.1, 0.3, 0.2)[t % 3], r=1.0, weight_lr_power=1.5)
    rng, x, total, largest = np.random.default_rng(4), p.copy(), 0.0, 0.0
    for t in range(1, 20):
        optimizer.step(rng.standard_normal(2))
        largest = max(largest, (0.1, 0.3, 0.2)[(t - 1) % 3])
        weight = t * largest**1.5
        total += weight
        x += weight / total * (optimizer.state[0]["z"] - x)
        with optimizer.use_average():
            np.testing.assert_allclose(p, x, rtol=1e-12)


@both_classes
def test_gradients_that_vanish_leave_all_where_it_is(cls):
    p = np.array([1.0, -2.0])
    optimizer = cls(p)
    for _ in range(3):
        optimizer.step(np.zeros(2))
    assert p.tolist() == [1.0, -2.0] == optimizer.state[0]["z"].tolist()
    with optimizer.use_average():
        assert p.tolist() == [1.0, -2.0]


@both_classes
def test_before_the_first_step_a_parameter_is_its_average(cls):
    p, q = np.array([1.0, -2.0]), np.array([3.0])
    optimizer = cls([p, q], bounds=(-1.5, 2.0))
    with optimizer.use_average():
        assert (p.tolist(), q.tolist()) == ([1.0, -1.5], [2.0])
    assert (p.tolist(), q.tolist()) == ([1.0, -2.0], [3.0])
    p[0] = 0.5  # the first step goes on from what it finds
    optimizer.step([np.ones(2), None])
    assert optimizer.state[0]["z"][0] < 0.5
    with optimizer.use_average():
        assert q.tolist() == [2.0]


@both_classes
def test_the_average_is_within_bounds_and_mask(cls):
    mask = np.arange(400) % 3 > 0
    rng, p = np.random.default_rng(5), np.full(400, 0.5)
    optimizer = cls(p, lr=1.0, bounds=(-0.1, 0.2), mask=mask)
    for _ in range(4):
        optimizer.step(rng.standard_normal(400))
    with optimizer.use_average():
        assert (p.min(), p.max()) == (-0.1, 0.2)
        assert not p[~mask].any()


@both_classes
def test_a_parameter_without_gradients_has_weights_of_its_own(cls):
    """Its steps are counted as its own, and so is all that follows from them."""
    rng = np.random.default_rng(6)
    p, q, r = np.ones(3), np.ones(3), np.ones(3)
    optimizer, other = cls([p, q], warmup_steps=4.0), cls(r, warmup_steps=4.0)
    for t in range(6):
        g = rng.standard_normal(3)
        optimizer.step([g, None if t % 2 else g])
        if t % 2 == 0:
            other.step(g)
    assert same_bits(q, r)
    saved = optimizer.state_dict()["state"]
    assert saved[1] | {"z": None, "v": None} == other.state_dict()["state"][0] | {
        "z": None,
        "v": None,
    }
    assert saved[0]["weight_sum"] > saved[1]["weight_sum"]


@both_classes
def test_momentum_zero_is_refused_where_the_average_is_asked_for(cls):
    optimizer, (p, *_) = trained(cls, **momentum(cls, 0.0))
    assert same_bits(p, optimizer.state[0]["z"])
    before = snapshot(optimizer)
    name = "momentum" if cls is fo.ScheduleFreeSGD else r"betas\[0\]"
    with (
        pytest.raises(ValueError, match=rf"use_average: expected {name} > 0, found 0.0"),
        optimizer.use_average(),
    ):
        pass
    assert snapshot(optimizer) == before
    optimizer.step([np.ones(37), np.ones((4, 5))])


@both_classes
def test_momentum_of_a_schedule_is_that_of_the_last_step(cls):
    def rising(t):
        return 0.5 + 0.1 * t

    p = np.array([1.0, -2.0])
    scheduled = {"momentum": rising} if cls is fo.ScheduleFreeSGD else {"betas": (rising, 0.9)}
    optimizer = cls(p, **scheduled)
    for _ in range(3):
        optimizer.step(np.array([1.0, -0.5]))
    expected = p + (1 - 1 / 0.7) * (optimizer.state[0]["z"] - p)
    with optimizer.use_average():
        np.testing.assert_allclose(p, expected, rtol=1e-14)


def test_other_optimizers_have_no_such_average():
    with (
        pytest.raises(
            RuntimeError, match=r"use_average: expected .* Schedule-Free rule, found SGD"
        ),
        fo.SGD(np.ones(2)).use_average(),
    ):
        pass


def test_beside_other_rules():
    p, q = np.ones(3), np.ones(2)
    optimizer = fo.Mixed(
        [{"optimizer": fo.ScheduleFreeSGD, "params": p}, {"optimizer": fo.SGD, "params": q}]
    )
    alone = fo.ScheduleFreeSGD(r := np.ones(3))
    for _ in range(3):
        optimizer.step([np.ones(3), np.ones(2)])
        alone.step(np.ones(3))
    stepped = q.copy()
    with optimizer.use_average(), alone.use_average():
        assert same_bits(p, r)
        assert same_bits(q, stepped)
    assert same_bits(p, r)


REFUSED = {
    "step": lambda opt: opt.step([np.ones(37), np.ones((4, 5))]),
    "state_dict": lambda opt: opt.state_dict(),
    "load_state_dict": lambda opt: opt.load_state_dict({}),
    "add_param_group": lambda opt: opt.add_param_group({"params": np.ones(2)}),
    "save": lambda opt: opt.save("nowhere"),
    "load": lambda opt: opt.load("nowhere"),
    "copy or pickle": copy.deepcopy,
    "use_ema": lambda opt: opt.use_ema().__enter__(),
    "use_average": lambda opt: opt.use_average().__enter__(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_read_or_write_the_average_is_refused(name):
    optimizer, _ = trained(fo.ScheduleFreeSGD, ema_decay=0.5)
    before = snapshot(optimizer)
    message = rf"{name}: the parameters hold their averages, inside of use_average\(\)"
    with optimizer.use_average(), pytest.raises(RuntimeError, match=message):
        REFUSED[name](optimizer)
    assert snapshot(optimizer) == before
    message = r"use_average: the parameters hold their averages, inside of use_ema\(\)"
    with (
        optimizer.use_ema(),
        pytest.raises(RuntimeError, match=message),
        optimizer.use_average(),
    ):
        pass
    assert snapshot(optimizer) == before


def test_a_body_that_raises():
    optimizer, _ = trained(fo.ScheduleFreeSGD)
    before = snapshot(optimizer)
    with pytest.raises(ZeroDivisionError), optimizer.use_average():
        raise ZeroDivisionError
    assert snapshot(optimizer) == before


def test_another_thread_may_not_step_meanwhile():
    optimizer, params = trained(fo.ScheduleFreeSGD)
    errors = []

    def step():
        try:
            optimizer.step([np.ones_like(p) for p in params])
        except RuntimeError as error:
            errors.append(str(error))

    with optimizer.use_average():
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert len(errors) == 1


def through_a_file(optimizer, made, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    optimizer.save(tmp_path / "run")
    made.load(tmp_path / "run")


WAYS = {
    "state_dict": lambda opt, made, _: made.load_state_dict(opt.state_dict()),
    "file": through_a_file,
}


def rate(t):
    return 0.1 / (1 + t)


@both_classes
@pytest.mark.parametrize("way", [*WAYS, "pickle", "deepcopy"])
def test_a_run_goes_on_with_the_same_bits(cls, way, tmp_path):
    def made():
        rng = np.random.default_rng(7)
        params = {"w": rng.standard_normal((4, 5)), "b": rng.standard_normal(3)}
        return params, cls(params, lr=rate, warmup_steps=4, r=0.7, weight_decay=0.1)

    rng = np.random.default_rng(8)
    params, whole = made()
    for t in range(5):
        w, b = gradients(rng, list(params.values()))
        whole.step({"w": w, "b": None if t % 2 else b})
    if way in WAYS:
        others, resumed = made()
        for name, p in params.items():
            others[name][...] = p
        WAYS[way](whole, resumed, tmp_path)
    else:
        resumed = pickle.loads(pickle.dumps(whole)) if way == "pickle" else copy.deepcopy(whole)
    assert_same(whole, resumed)
    for _ in range(4):
        w, b = gradients(rng, list(params.values()))
        whole.step({"w": w, "b": b})
        resumed.step({"w": w, "b": b})
    assert_same(whole, resumed)
    assert whole.state_dict()["state"]["w"]["weight_sum"] > 1


@both_classes
def test_numbers_stay_numbers_whatever_the_weights_are(cls):
    for name, value in (("r", 1e308), ("weight_lr_power", 1e308), ("lr", 1e300), ("lr", 5e-324)):
        optimizer, _ = trained(cls, steps=2)
        setattr(optimizer, name, value)
        for _ in range(3):
            optimizer.step([np.zeros(37), np.zeros((4, 5))])
        for state in optimizer.state_dict()["state"].values():
            assert 1 <= state["weight_sum"] <= state["step"]
            assert math.isfinite(state["lr_max"])


@both_classes
def test_a_learning_rate_that_begins_at_zero(cls):
    """Steps of length 0 weigh nothing: the average begins with the first that is longer."""
    p, q = np.ones(3), np.ones(3)
    late, early = cls(p, lr=lambda t: 0.1 * (t > 1)), cls(q, lr=0.1)
    for _ in range(2):
        late.step(np.ones(3))
    assert p.tolist() == [1.0] * 3
    late.step(np.ones(3))
    early.step(np.ones(3))
    with late.use_average(), early.use_average():
        np.testing.assert_allclose(p, q, rtol=1e-12)


@both_classes
def test_a_step_that_is_skipped_counts_for_nothing(cls):
    optimizer, _ = trained(cls, nonfinite="skip")
    before = optimizer.state_dict()["state"]
    optimizer.step([np.full(37, np.nan), np.ones((4, 5))])
    after = optimizer.state_dict()["state"]
    assert optimizer.skipped_steps == 1
    for key, state in before.items():
        for name in ("step", "weight_sum", "lr_max"):
            assert state[name] == after[key][name]


@both_classes
@pytest.mark.parametrize("threads", [1, 3])
def test_bits_with_threads(cls, threads):
    with engine(threads=threads):
        ours, _ = trained(cls, shapes=((20_011,), (3, 7)), weight_decay=0.1, warmup_steps=3)
        theirs, _ = trained(
            cls, shapes=((20_011,), (3, 7)), weight_decay=0.1, warmup_steps=3, backend="reference"
        )
    assert_same(ours, theirs)
    with ours.use_average(), theirs.use_average():
        for a, b in zip(arrays_of(ours), arrays_of(theirs), strict=True):
            assert same_bits(a[1], b[1])


@both_classes
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_any_layout(cls, order):
    rng = np.random.default_rng(9)
    p = np.array(rng.standard_normal((3, 4, 5)).transpose(order), order="K")
    q = np.ascontiguousarray(p)
    ours, plain = cls(p), cls(q)
    for _ in range(3):
        g = rng.standard_normal(p.shape)
        ours.step(g)
        plain.step(g)
    with ours.use_average(), plain.use_average():
        assert same_bits(p, q)
    assert same_bits(p, q)


def test_parameters_that_are_frozen_meanwhile_come_back():
    p = np.array([1.0, 2.0])
    opt = fo.ScheduleFreeSGD(p, lr=0.5, momentum=0.5)
    for _ in range(2):
        opt.step(np.array([1.0, 0.0]))
    before = p.copy()
    with opt.use_average():
        assert p[0] != before[0]
        p.flags.writeable = False
    assert p.tolist() == before.tolist()
    p.flags.writeable = True
    opt.step(np.ones(2))
