"""The schedules against torch and hand-computed values; what they promise as values; refusals."""

from __future__ import annotations

import base64
import copy
import inspect
import itertools
import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastoptim as fo
from fastoptim import schedules
from fastoptim.schedules import (
    Constant,
    CosineAnnealing,
    CosineAnnealingWarmRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    InverseTimeDecay,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    ReduceLROnPlateau,
    Schedule,
    Sequential,
    Step,
    WarmUp,
)

CLASSES = [
    Constant,
    CosineAnnealing,
    CosineAnnealingWarmRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    InverseTimeDecay,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Sequential,
    Step,
    WarmUp,
]


def halved(x):
    return 0.5**x


# Each is held to torch's scheduler of that name over 300 steps, or over all that it has.
TORCH_CASES = [
    Constant(0.1),
    Constant(0.1, factor=1.0),
    Constant(0.3, factor=0.7, total_iters=1),
    Constant(0.3, factor=0.01, total_iters=120),
    Step(0.1, step_size=7, gamma=0.3),
    Step(0.1, step_size=1, gamma=0.99),
    Step(2.0, step_size=100),
    MultiStep(0.1, [30, 80]),
    MultiStep(0.1, [0, 1, 80, 3], gamma=0.5),
    MultiStep(0.1, [5, 5, 5, 200], gamma=0.7),
    MultiStep(0.1, []),
    Exponential(0.1, gamma=0.97),
    Exponential(0.1, gamma=1.01),
    Exponential(0.1, gamma=1.0),
    Linear(0.1),
    Linear(0.1, start_factor=0.01, end_factor=0.9, total_iters=100),
    Linear(0.3, start_factor=1.0, end_factor=0.1, total_iters=299),
    Linear(0.3, start_factor=1.0, end_factor=0.5, total_iters=1),
    Polynomial(0.1),
    Polynomial(0.1, total_iters=100, power=2.0),
    Polynomial(0.1, total_iters=250, power=0.5),
    Polynomial(0.1, total_iters=1, power=3.0),
    CosineAnnealing(0.1, T_max=100),
    CosineAnnealing(0.1, T_max=33, eta_min=0.02),
    CosineAnnealing(0.1, T_max=1, eta_min=0.02),
    CosineAnnealing(0.1, T_max=2),
    CosineAnnealing(0.1, T_max=1000, eta_min=1e-3),
    CosineAnnealing(0.1, T_max=50, eta_min=0.3),
    CosineAnnealingWarmRestarts(0.1, T_0=10),
    CosineAnnealingWarmRestarts(0.1, T_0=1, T_mult=2, eta_min=0.01),
    CosineAnnealingWarmRestarts(0.1, T_0=7, T_mult=3),
    CosineAnnealingWarmRestarts(0.1, T_0=1),
    CosineAnnealingWarmRestarts(0.1, T_0=400, T_mult=2),
    Cyclic(0.1, 0.5),
    Cyclic(0.1, 0.5, step_size_up=7),
    Cyclic(0.1, 0.5, step_size_up=3, step_size_down=11, mode="triangular2"),
    Cyclic(0.01, 1.0, step_size_up=20, step_size_down=1, mode="exp_range", gamma=0.99),
    Cyclic(0.1, 0.5, step_size_up=1, mode="triangular2"),
    Cyclic(0.5, 0.1, step_size_up=10, step_size_down=5),
    Cyclic(0.1, 0.5, step_size_up=10, scale_fn=halved),
    Cyclic(0.1, 0.5, step_size_up=10, scale_fn=halved, scale_mode="iterations"),
    Cyclic(0.1, 0.5, step_size_up=10, mode="exp_range", gamma=0.9, scale_mode="cycle"),
    OneCycle(0.1, total_steps=100),
    OneCycle(0.1, 100, anneal_strategy="linear"),
    OneCycle(0.1, 100, three_phase=True),
    OneCycle(0.1, 101, anneal_strategy="linear", three_phase=True, pct_start=0.37),
    OneCycle(2.0, epochs=13, steps_per_epoch=17, div_factor=3.0, final_div_factor=7.0),
    OneCycle(0.1, 40, pct_start=0.0),
    OneCycle(0.1, 40, pct_start=0.0, three_phase=True),
    OneCycle(0.1, 40, pct_start=0.5, three_phase=True),
    OneCycle(0.1, 40, pct_start=0.9, three_phase=True),
    OneCycle(0.1, 1),
    OneCycle(0.1, 2),
    OneCycle(0.1, 2, three_phase=True),
]
TORCH_NAMES = {cls.__name__ for cls in map(type, TORCH_CASES)}
MOMENTA = [(0.8, 0.9), (0.85, 0.95), (0.1, 0.7)]

SEQUENCES = [
    ([Constant(0.1, factor=0.1, total_iters=20), Exponential(0.1, gamma=0.9)], [20]),
    (
        [Linear(0.1, start_factor=0.01, total_iters=20), CosineAnnealing(0.1, T_max=180)],
        [20],
    ),
    (
        [
            Exponential(0.1, gamma=0.9),
            Step(0.1, step_size=9, gamma=0.5),
            CosineAnnealingWarmRestarts(0.1, T_0=10, T_mult=2),
            Polynomial(0.1, total_iters=50),
        ],
        [1, 60, 150],
    ),
    ([MultiStep(0.1, [3, 10])], []),
    ([Step(0.1, 5), Linear(0.1, total_iters=7), MultiStep(0.1, [0, 9])], [0, 31]),
]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def torch_optimizer(torch, lr, momentum=0.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=momentum)


def arguments(schedule):
    """Return the arguments that made the schedule, without a base value, as torch takes them."""
    given = {f.name: getattr(schedule, f.name) for f in fields(schedule)}
    given.pop("base", None)
    return given


def torch_class(torch, cls):
    scheduler = torch.optim.lr_scheduler
    return getattr(scheduler, cls.__name__, None) or getattr(scheduler, f"{cls.__name__}LR")


def torch_scheduler(torch, optimizer, schedule, **more):
    return torch_class(torch, type(schedule))(optimizer, **arguments(schedule), **more)


def run(optimizer, scheduler, steps, name="lr"):
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0][name])
        optimizer.step()
        scheduler.step()
    return values


def last_step(schedule):
    return schedule.total_steps if isinstance(schedule, OneCycle) else 299


def compare(schedule, expected):
    values = [schedule(t) for t in range(len(expected))]
    assert all(type(value) is float for value in values)
    assert values == pytest.approx(expected, rel=1e-12, abs=0)


class TestTorch:
    @pytest.mark.parametrize("schedule", TORCH_CASES, ids=repr)
    def test_values(self, torch, schedule):
        more = {"cycle_momentum": False} if isinstance(schedule, (Cyclic, OneCycle)) else {}
        optimizer = torch_optimizer(torch, getattr(schedule, "base", 1.0))
        scheduler = torch_scheduler(torch, optimizer, schedule, **more)
        steps = last_step(schedule)
        expected = run(optimizer, scheduler, steps)
        expected.append(optimizer.param_groups[0]["lr"])
        compare(schedule, expected)

    @pytest.mark.parametrize("momenta", MOMENTA)
    @pytest.mark.parametrize(
        "schedule", [s for s in TORCH_CASES if isinstance(s, (Cyclic, OneCycle))], ids=repr
    )
    def test_momentum(self, torch, schedule, momenta):
        optimizer = torch_optimizer(torch, 1.0, momentum=0.5)
        low, high = momenta
        scheduler = torch_scheduler(
            torch, optimizer, schedule, base_momentum=low, max_momentum=high
        )
        expected = run(optimizer, scheduler, last_step(schedule), "momentum")
        compare(schedule.momentum(low, high), expected)

    @pytest.mark.parametrize("cls", [Cyclic, OneCycle])
    def test_momentum_has_torchs_defaults(self, torch, cls):
        theirs = inspect.signature(torch_class(torch, cls)).parameters
        ours = inspect.signature(cls.momentum).parameters
        for name in ("base_momentum", "max_momentum"):
            assert ours[name].default == theirs[name].default

    @pytest.mark.parametrize(("parts", "milestones"), SEQUENCES)
    def test_sequences(self, torch, parts, milestones):
        optimizer = torch_optimizer(torch, 0.1)
        scheduler = torch.optim.lr_scheduler.SequentialLR(
            optimizer, [torch_scheduler(torch, optimizer, p) for p in parts], milestones
        )
        compare(Sequential(parts, milestones), run(optimizer, scheduler, 300))

    def test_warm_up_is_a_sequence_with_a_linear_one(self, torch):
        rest = CosineAnnealing(0.1, T_max=100, eta_min=0.01)
        optimizer = torch_optimizer(torch, 0.1)
        linear = Linear(0.1, start_factor=0.2, total_iters=30)
        parts = [torch_scheduler(torch, optimizer, s) for s in (linear, rest)]
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [30])
        compare(WarmUp(rest, 30, start_factor=0.2), run(optimizer, scheduler, 300))

    @pytest.mark.parametrize("name", sorted(TORCH_NAMES))
    def test_signatures(self, torch, name):
        cls = getattr(schedules, name)
        theirs = dict(inspect.signature(torch_class(torch, cls)).parameters)
        for left_out in ("optimizer", "last_epoch", "cycle_momentum", *MOMENTUM_ARGUMENTS):
            theirs.pop(left_out, None)
        ours = dict(inspect.signature(cls).parameters)
        ours.pop("base", None)
        assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}
        assert list(ours) == list(theirs)

    def test_signature_of_sequential(self, torch):
        theirs = list(inspect.signature(torch.optim.lr_scheduler.SequentialLR).parameters)
        assert list(inspect.signature(Sequential).parameters) == theirs[1:-1]

    @pytest.mark.parametrize("steps", [40, 1])
    def test_one_cycle_ends_where_torchs_does(self, torch, steps):
        optimizer = torch_optimizer(torch, 0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, cycle_momentum=False)
        run(optimizer, scheduler, steps)
        with pytest.raises(ValueError, match=str(steps)):
            scheduler.step()
        with pytest.raises(ValueError, match=f"step: .* total_steps = {steps}, found {steps + 1}"):
            OneCycle(0.1, steps)(steps + 1)


MOMENTUM_ARGUMENTS = ("base_momentum", "max_momentum")


# Worked out by hand; those with torch's formula are there too, for machines without torch.
BY_HAND = [
    (Constant(0.9), [0.3] * 5 + [0.9, 0.9]),
    (Constant(0.9, factor=1), [0.9] * 3),
    (Constant(0.9, factor=0, total_iters=2), [0.0, 0.0, 0.9]),
    (Step(0.8, step_size=2, gamma=0.5), [0.8, 0.8, 0.4, 0.4, 0.2]),
    (MultiStep(0.8, [3, 1], gamma=0.5), [0.8, 0.4, 0.4, 0.2]),
    (MultiStep(0.8, [0, 2, 2], gamma=0.5), [0.4, 0.4, 0.1]),
    (Exponential(0.8, gamma=0.5), [0.8, 0.4, 0.2]),
    (Exponential(0.8, gamma=0), [0.8, 0.0, 0.0]),
    (Linear(0.6), [0.2, 0.28, 0.36, 0.44, 0.52, 0.6, 0.6]),
    (Linear(0.6, start_factor=0, end_factor=2, total_iters=3), [0.0, 0.4, 0.8, 1.2, 1.2]),
    (Polynomial(0.5), [0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]),
    (Polynomial(1.6, total_iters=4, power=2), [1.6, 0.9, 0.4, 0.1, 0.0, 0.0]),
    (Polynomial(1.6, total_iters=1, power=0), [1.6, 1.6]),
    # 1 / (1 + t / 4), and with floor(t / 2) for t / 2
    (InverseTimeDecay(0.6, 2, 0.5), [0.6, 0.48, 0.4, 0.6 / 1.75, 0.3]),
    (InverseTimeDecay(0.6, 2, 0.5, staircase=True), [0.6, 0.6, 0.4, 0.4, 0.3]),
    # floor(1 / 0.1) is 10, though 1 // 0.1 is 9
    (InverseTimeDecay(1.1, 0.1, 1, staircase=True), [1.1, 0.1]),
    (InverseTimeDecay(0.6, 5, 0), [0.6] * 8),
    (InverseSqrt(0.1, 1), [0.0, 0.1, 0.1 / math.sqrt(2), 0.1 / math.sqrt(3), 0.05]),
    (InverseSqrt(0.8, 2), [0.0, 0.4, 0.8, 0.8 * math.sqrt(2 / 3), 0.8 / math.sqrt(2)]),
    (CosineAnnealing(0.4, 2), [0.4, 0.2, 0.0, 0.2, 0.4, 0.2, 0.0]),
    (CosineAnnealing(0.4, 3, eta_min=0.2), [0.4, 0.35, 0.25, 0.2, 0.25, 0.35, 0.4]),
    (CosineAnnealingWarmRestarts(0.4, 3, eta_min=0.2), [0.4, 0.35, 0.25] * 3),
    (CosineAnnealingWarmRestarts(0.4, 1, T_mult=3), [0.4, 0.4, 0.3, 0.1, 0.4]),
    (Cyclic(0.1, 0.5, step_size_up=2), [0.1, 0.3, 0.5, 0.3, 0.1]),
    (Cyclic(0, 0.6, 1, 3), [0.0, 0.6, 0.4, 0.2, 0.0, 0.6]),
    (Cyclic(0, 0.8, 1, mode="triangular2"), [0, 0.8, 0, 0.4, 0, 0.2]),
    (Cyclic(0, 0.8, 1, 1, "exp_range", 0.5), [0, 0.4, 0, 0.1]),
    (OneCycle(1, 5, pct_start=0.6, anneal_strategy="linear", div_factor=2, final_div_factor=5),
     [0.5, 0.75, 1.0, 0.55, 0.1]),
    (OneCycle(1, 8, None, None, 3 / 8, "linear", 2, 5, True),
     [0.5, 0.75, 1.0, 0.75, 0.5, 0.5 - 0.4 / 3, 0.5 - 0.8 / 3, 0.1]),
    # A first phase that ends at step 0, where torch divides by zero.
    (OneCycle(1, 4, pct_start=0.25, anneal_strategy="linear", div_factor=2, final_div_factor=5),
     [1.0, 0.7, 0.4, 0.1]),
    # All the way up, and then a second phase without length.
    (OneCycle(1, 3, pct_start=1, anneal_strategy="linear", div_factor=2, final_div_factor=5),
     [0.5, 0.75, 1.0, 0.1]),
    (WarmUp(Step(0.8, 1, 0.5), 4), [0.0, 0.2, 0.4, 0.6, 0.8, 0.4, 0.2]),
    (WarmUp(Step(0.8, 1, 0.5), 2, start_factor=0.5), [0.4, 0.6, 0.8, 0.4]),
    (WarmUp(Step(0.8, 1, 0.5), 0), [0.8, 0.4, 0.2]),
    (WarmUp(lambda t: 10.0 + t, 2), [0.0, 5.0, 10.0, 11.0]),
    (Sequential([lambda t: t, lambda t: 10 + t, lambda t: 20 + t], [2, 3]), [0, 1, 10, 20, 21]),
    (Sequential([lambda t: t, lambda t: 10 + t, lambda t: 20 + t], [2, 2]), [0, 1, 20, 21]),
    (Sequential([Sequential([Constant(1, 1), Constant(2, 1)], [1]), Sequential(
        [Constant(3, 1), Constant(4, 1)], [2])], [3]), [1, 2, 2, 3, 3, 4]),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "expected"), BY_HAND, ids=repr)
def test_by_hand(schedule, expected):
    assert [schedule(t) for t in range(len(expected))] == pytest.approx(expected, abs=1e-15)


def test_every_class_is_covered():
    public = [getattr(schedules, name) for name in schedules.__all__]
    concrete = {c for c in public if isinstance(c, type) and issubclass(c, Schedule)} - {Schedule}
    assert concrete == set(CLASSES) == {type(schedule) for schedule, _ in BY_HAND}
    assert concrete - {InverseSqrt, InverseTimeDecay, Sequential, WarmUp} == {
        type(schedule) for schedule in TORCH_CASES
    }


REALS = st.floats(-10, 10, allow_subnormal=False)
FACTORS = st.floats(0, 2, allow_subnormal=False)
POSITIVE = st.floats(0.01, 100)
COUNTS = st.integers(1, 50)
MILESTONES = st.lists(st.integers(0, 100), max_size=4)

STRATEGIES = {
    Constant: st.builds(Constant, REALS, FACTORS, COUNTS),
    Step: st.builds(Step, REALS, COUNTS, FACTORS),
    MultiStep: st.builds(MultiStep, REALS, MILESTONES, FACTORS),
    Exponential: st.builds(Exponential, REALS, st.floats(0, 1)),
    Linear: st.builds(Linear, REALS, FACTORS, FACTORS, COUNTS),
    Polynomial: st.builds(Polynomial, REALS, COUNTS, st.floats(0, 4)),
    InverseTimeDecay: st.builds(InverseTimeDecay, REALS, POSITIVE, FACTORS, st.booleans()),
    InverseSqrt: st.builds(InverseSqrt, REALS, COUNTS),
    CosineAnnealing: st.builds(CosineAnnealing, REALS, COUNTS, REALS),
    CosineAnnealingWarmRestarts: st.builds(
        CosineAnnealingWarmRestarts, REALS, COUNTS, st.integers(1, 4), REALS
    ),
    Cyclic: st.builds(
        Cyclic,
        REALS,
        REALS,
        COUNTS,
        st.none() | COUNTS,
        st.sampled_from(["triangular", "triangular2", "exp_range"]),
        st.floats(0, 1),
        st.sampled_from([None, halved]),
        st.sampled_from(["cycle", "iterations"]),
    ),
    OneCycle: st.builds(
        OneCycle,
        REALS,
        st.integers(1, 400),
        pct_start=st.floats(0, 1),
        anneal_strategy=st.sampled_from(["cos", "linear"]),
        div_factor=POSITIVE,
        final_div_factor=POSITIVE,
        three_phase=st.booleans(),
    ),
}
SIMPLE = st.one_of(list(STRATEGIES.values()))
STRATEGIES[WarmUp] = st.builds(WarmUp, SIMPLE, COUNTS | st.just(0), FACTORS)
STRATEGIES[Sequential] = st.lists(SIMPLE, min_size=1, max_size=3).flatmap(
    lambda parts: st.builds(
        Sequential,
        st.just(parts),
        st.lists(st.integers(0, 99), min_size=len(parts) - 1, max_size=len(parts) - 1).map(sorted),
    )
)
ANY = st.one_of(list(STRATEGIES.values()))

quick = settings(max_examples=100, deadline=None)


def contains(schedule, cls):
    """Say whether the schedule is one of the class, or is made of one."""
    parts = getattr(schedule, "schedulers", [getattr(schedule, "schedule", None)])
    return isinstance(schedule, cls) or any(contains(p, cls) for p in parts if p is not None)


def values(schedule, steps=120):
    """Return the values for steps from 0 on, as many as there are."""
    found = []
    for t in range(steps):
        try:
            found.append(schedule(t))
        except ValueError:
            assert contains(schedule, OneCycle)
            break
    return found


class TestValues:
    """A schedule is a value: what it is made of is all that it is, and it never changes."""

    @quick
    @given(ANY)
    def test_pickle_copy_repr(self, schedule):
        twins = [pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)]
        if not contains(schedule, Cyclic):  # a function's repr is no expression
            twins.append(eval(repr(schedule), vars(schedules)))
        for twin in twins:
            assert twin == schedule
            assert hash(twin) == hash(schedule)
            assert repr(twin) == repr(schedule)
            assert values(twin) == values(schedule)

    @quick
    @given(ANY)
    def test_immutable(self, schedule):
        for f in fields(schedule):
            with pytest.raises(FrozenInstanceError):
                setattr(schedule, f.name, 1)
            with pytest.raises(FrozenInstanceError):
                delattr(schedule, f.name)
        with pytest.raises(FrozenInstanceError):
            schedule.other = 1

    @quick
    @given(ANY, st.randoms())
    def test_no_memory(self, schedule, random):
        forwards = values(schedule)
        order = list(range(len(forwards)))
        random.shuffle(order)
        assert {t: schedule(t) for t in order} == dict(enumerate(forwards))

    @quick
    @given(ANY)
    def test_floats(self, schedule):
        found = values(schedule)
        assert found
        assert all(type(value) is float and math.isfinite(value) for value in found)

    def test_lists_are_copied(self):
        milestones, parts = [3, 1], [Constant(0.1), Constant(0.2)]
        multi, sequence = MultiStep(0.1, milestones), Sequential(parts, joints := [5])
        for given_list in (milestones, parts, joints):
            given_list.clear()
        assert multi == MultiStep(0.1, (1, 3))
        assert sequence == Sequential((Constant(0.1), Constant(0.2)), np.array([5]))

    def test_numpy_numbers_are_numbers(self):
        schedule = Step(np.float64(0.1), np.int64(7), np.float32(0.5))
        assert schedule == Step(0.1, 7, 0.5)
        assert [type(getattr(schedule, f.name)) for f in fields(schedule)] == [float, int, float]
        assert schedule(np.int32(7)) == 0.05

    def test_unequal(self):
        different = {repr(s): s for s in [*TORCH_CASES, *(s for s, _ in BY_HAND)]}
        assert not any(a == b for a, b in itertools.combinations(different.values(), 2))
        assert Step(0.1, 7) != Step(0.1, 8)
        assert InverseSqrt(0.1, 5) != WarmUp(Constant(0.1), 5)

    def test_the_two_ways_to_give_the_steps_are_one_schedule(self):
        assert OneCycle(0.1, epochs=4, steps_per_epoch=5) == OneCycle(0.1, 20)
        assert OneCycle(0.1, 20, epochs=4, steps_per_epoch=5) == OneCycle(0.1, 20)
        assert OneCycle(0.1, 20, epochs=3) == OneCycle(0.1, 20)
        assert "epochs" not in repr(OneCycle(0.1, epochs=4, steps_per_epoch=5))

    def test_is_abstract(self):
        with pytest.raises(TypeError, match="abstract"):
            Schedule()
        assert all(issubclass(cls, Schedule) for cls in CLASSES)
        assert not issubclass(ReduceLROnPlateau, Schedule)


# What they were, and their pickle, when all of them stood in one file.
PICKLED = [
    Constant(0.1, 0.5),
    Step(0.1, 7),
    MultiStep(0.1, [3, 1]),
    Exponential(0.1, 0.9),
    Linear(0.1),
    Polynomial(0.1),
    InverseTimeDecay(0.1, 2, 0.5),
    InverseSqrt(0.1, 5),
    CosineAnnealing(0.1, 5),
    CosineAnnealingWarmRestarts(0.1, 5, 2),
    Cyclic(0.1, 0.5, 5),
    OneCycle(0.1, 130),
    WarmUp(Constant(0.1), 5),
    Sequential([Constant(0.1), Constant(0.2)], [5]),
    schedules.plot,
]
PICKLE = """
gASV/AQAAAAAAABdlCiME2Zhc3RvcHRpbS5zY2hlZHVsZXOUjAhDb25zdGFudJSTlCmBlH2UKIwEYmFzZZRHP7mZmZmZ
mZqMBmZhY3RvcpRHP+AAAAAAAACMC3RvdGFsX2l0ZXJzlEsFdWJoAYwEU3RlcJSTlCmBlH2UKGgGRz+5mZmZmZmajAlz
dGVwX3NpemWUSweMBWdhbW1hlEc/uZmZmZmZmnViaAGMCU11bHRpU3RlcJSTlCmBlH2UKGgGRz+5mZmZmZmajAptaWxl
c3RvbmVzlEsBSwOGlGgORz+5mZmZmZmadWJoAYwLRXhwb25lbnRpYWyUk5QpgZR9lChoBkc/uZmZmZmZmmgORz/szMzM
zMzNdWJoAYwGTGluZWFylJOUKYGUfZQoaAZHP7mZmZmZmZqMDHN0YXJ0X2ZhY3RvcpRHP9VVVVVVVVWMCmVuZF9mYWN0
b3KURz/wAAAAAAAAaAhLBXViaAGMClBvbHlub21pYWyUk5QpgZR9lChoBkc/uZmZmZmZmmgISwWMBXBvd2VylEc/8AAA
AAAAAHViaAGMEEludmVyc2VUaW1lRGVjYXmUk5QpgZR9lChoBkc/uZmZmZmZmowLZGVjYXlfc3RlcHOUR0AAAAAAAAAA
jApkZWNheV9yYXRllEc/4AAAAAAAAIwJc3RhaXJjYXNllIl1YmgBjAtJbnZlcnNlU3FydJSTlCmBlH2UKGgGRz+5mZmZ
mZmajAx3YXJtdXBfc3RlcHOUSwV1YmgBjA9Db3NpbmVBbm5lYWxpbmeUk5QpgZR9lChoBkc/uZmZmZmZmowFVF9tYXiU
SwWMB2V0YV9taW6URwAAAAAAAAAAdWJoAYwbQ29zaW5lQW5uZWFsaW5nV2FybVJlc3RhcnRzlJOUKYGUfZQoaAZHP7mZ
mZmZmZqMA1RfMJRLBYwGVF9tdWx0lEsCaDVHAAAAAAAAAAB1YmgBjAZDeWNsaWOUk5QpgZR9lCiMB2Jhc2VfbHKURz+5
mZmZmZmajAZtYXhfbHKURz/gAAAAAAAAjAxzdGVwX3NpemVfdXCUSwWMDnN0ZXBfc2l6ZV9kb3dulE6MBG1vZGWUjAp0
cmlhbmd1bGFylGgORz/wAAAAAAAAjAhzY2FsZV9mbpROjApzY2FsZV9tb2RllIwFY3ljbGWUdWJoAYwIT25lQ3ljbGWU
k5QpgZR9lChoQUc/uZmZmZmZmowLdG90YWxfc3RlcHOUS4KMBmVwb2Noc5ROjA9zdGVwc19wZXJfZXBvY2iUTowJcGN0
X3N0YXJ0lEc/0zMzMzMzM4wPYW5uZWFsX3N0cmF0ZWd5lIwDY29zlIwKZGl2X2ZhY3RvcpRHQDkAAAAAAACMEGZpbmFs
X2Rpdl9mYWN0b3KUR0DDiAAAAAAAjAt0aHJlZV9waGFzZZSJdWJoAYwGV2FybVVwlJOUKYGUfZQojAhzY2hlZHVsZZRo
AymBlH2UKGgGRz+5mZmZmZmaaAdHP9VVVVVVVVVoCEsFdWJoL0sFaB1HAAAAAAAAAAB1YmgBjApTZXF1ZW50aWFslJOU
KYGUfZQojApzY2hlZHVsZXJzlGgDKYGUfZQoaAZHP7mZmZmZmZpoB0c/1VVVVVVVVWgISwV1YmgDKYGUfZQoaAZHP8mZ
mZmZmZpoB0c/1VVVVVVVVWgISwV1YoaUaBNLBYWUdWJoAYwEcGxvdJSTlGUu
"""


class TestPickles:
    def test_those_of_the_first_version_load(self):
        assert {type(schedule) for schedule in PICKLED} > set(CLASSES)
        assert pickle.loads(base64.b64decode(PICKLE)) == PICKLED

    def test_name_the_package_and_none_of_its_files(self):
        """So that a class may move to another file, and that older versions can load them."""
        for name in schedules.__all__:
            public = getattr(schedules, name)
            assert pickle.dumps(public, 0) == f"cfastoptim.schedules\n{name}\np0\n.".encode()

    @pytest.mark.parametrize("cls", [*CLASSES, ReduceLROnPlateau])
    def test_annotations_are_read_all_the_same(self, cls):
        assert get_type_hints(cls).keys() == {f.name for f in fields(cls)}


class TestShape:
    """Where the values of a schedule lie, and how far apart."""

    @quick
    @given(SIMPLE)
    def test_range(self, schedule):
        found = values(schedule)
        bounds = {
            Constant: lambda s: (s.factor * s.base, s.base),
            Step: lambda s: (0, s.base, max(s.gamma, 1) ** 200 * s.base),
            MultiStep: lambda s: (0, s.base, max(s.gamma, 1) ** len(s.milestones) * s.base),
            Linear: lambda s: (s.start_factor * s.base, s.end_factor * s.base),
            CosineAnnealing: lambda s: (s.base, s.eta_min),
            CosineAnnealingWarmRestarts: lambda s: (s.base, s.eta_min),
            Cyclic: lambda s: (s.base_lr, s.max_lr),
            OneCycle: one_cycle_corners,
        }
        corners = bounds.get(type(schedule), lambda s: (0, s.base))(schedule)
        slack = 1e-12 * max(map(abs, corners))
        if isinstance(schedule, OneCycle):
            found = found[: schedule.total_steps]
        assert min(corners) - slack <= min(found)
        assert max(found) <= max(corners) + slack

    @quick
    @given(STRATEGIES[CosineAnnealing] | STRATEGIES[Cyclic] | STRATEGIES[Linear])
    def test_no_jumps(self, schedule):
        if isinstance(schedule, CosineAnnealing):
            slope = math.pi / 2 / schedule.T_max * abs(schedule.base - schedule.eta_min)
        elif isinstance(schedule, Linear):
            rise = schedule.end_factor - schedule.start_factor
            slope = abs(schedule.base * rise) / schedule.total_iters
        else:
            # The scale changes within a cycle by less than it is itself: at most twice the slope.
            shortest = min(schedule.step_size_up, schedule.step_size_down or schedule.step_size_up)
            constant = schedule.mode == "triangular" and schedule.scale_fn is None
            slope = abs(schedule.max_lr - schedule.base_lr) * (1 / shortest if constant else 1)
        found = values(schedule)
        assert all(abs(b - a) <= slope + 1e-12 for a, b in itertools.pairwise(found))

    @quick
    @given(SIMPLE, COUNTS, FACTORS)
    def test_warm_up_meets_the_schedule(self, schedule, warmup_steps, start_factor):
        warmed = WarmUp(schedule, warmup_steps, start_factor)
        first = schedule(0)
        assert warmed(0) == pytest.approx(first * start_factor, abs=1e-12)
        assert warmed(warmup_steps) == first
        step = abs(first * (1 - start_factor)) / warmup_steps
        for t in range(warmup_steps):
            rise = abs(warmed(t + 1) - warmed(t))
            assert rise == pytest.approx(step, abs=1e-12 * max(1, abs(first)))
        assert [warmed(warmup_steps + t) for t in range(len(values(schedule)))] == values(schedule)

    @quick
    @given(st.floats(0.01, 10), COUNTS)
    def test_inverse_sqrt_peaks_at_the_end_of_the_warm_up(self, base, warmup_steps):
        found = values(InverseSqrt(base, warmup_steps))
        assert max(found) == found[warmup_steps] == base
        rising, falling = found[: warmup_steps + 1], found[warmup_steps:]
        assert rising == sorted(rising)
        assert falling == sorted(falling, reverse=True)

    @quick
    @given(STRATEGIES[Sequential], st.data())
    def test_sequence_counts_from_its_milestones(self, sequence, data):
        starts = (0, *sequence.milestones)
        i = data.draw(st.integers(0, len(starts) - 1))
        end = (*sequence.milestones, 150)[i]
        found = values(sequence.schedulers[i], end - starts[i])
        assert [sequence(starts[i] + t) for t in range(len(found))] == found

    @quick
    @given(COUNTS, st.integers(2, 5), st.integers(0, 60))
    def test_restarts_are_exact(self, first, mult, number):
        # Up to steps of 1e44, far beyond where floating-point logarithms tell them apart.
        schedule = CosineAnnealingWarmRestarts(0.1, first, mult, eta_min=0.01)
        restart = first * (mult**number - 1) // (mult - 1)
        length = first * mult**number
        assert schedule(restart) == schedule(restart + length) == 0.1
        assert schedule(restart + length - 1) == pytest.approx(
            0.01 + 0.09 * math.cos(math.pi / 2 * ((length - 1) / length)) ** 2
        )

    @quick
    @given(SIMPLE, st.integers(0, 50))
    def test_late_steps_cost_no_more(self, schedule, t):
        if isinstance(schedule, (Step, OneCycle)):  # gamma > 1 overflows; has an end
            return
        assert math.isfinite(schedule(10**12 + t))

    def test_late_steps_are_as_exact(self):
        cosine, cyclic = CosineAnnealing(0.1, T_max=7), Cyclic(0.1, 0.5, 3, 4)
        for t in range(14):
            assert cosine(14 * 10**15 + t) == cosine(t)
            assert cyclic(7 * 10**15 + t) == cyclic(t)

    def test_triangular2_dies_out(self):
        schedule = Cyclic(0.1, 0.5, 1, mode="triangular2")
        assert schedule(2 * 5000 + 1) == 0.1  # torch overflows in cycle 1025


def one_cycle_corners(schedule):
    low = schedule.max_lr / schedule.div_factor
    return low, schedule.max_lr, low / schedule.final_div_factor


VALID = {
    Constant: {"base": 0.1, "factor": 0.5, "total_iters": 5},
    Step: {"base": 0.1, "step_size": 7, "gamma": 0.3},
    MultiStep: {"base": 0.1, "milestones": [1, 2], "gamma": 0.3},
    Exponential: {"base": 0.1, "gamma": 0.3},
    Linear: {"base": 0.1, "start_factor": 0.1, "end_factor": 1.0, "total_iters": 5},
    Polynomial: {"base": 0.1, "total_iters": 5, "power": 2.0},
    InverseTimeDecay: {"base": 0.1, "decay_steps": 2, "decay_rate": 0.5, "staircase": True},
    InverseSqrt: {"base": 0.1, "warmup_steps": 5},
    CosineAnnealing: {"base": 0.1, "T_max": 5, "eta_min": 0.01},
    CosineAnnealingWarmRestarts: {"base": 0.1, "T_0": 5, "T_mult": 2, "eta_min": 0.01},
    Cyclic: {
        "base_lr": 0.1,
        "max_lr": 0.5,
        "step_size_up": 5,
        "step_size_down": 3,
        "mode": "exp_range",
        "gamma": 0.9,
        "scale_fn": halved,
        "scale_mode": "cycle",
    },
    OneCycle: {
        "max_lr": 0.5,
        "total_steps": 20,
        "epochs": 4,
        "steps_per_epoch": 5,
        "pct_start": 0.3,
        "anneal_strategy": "cos",
        "div_factor": 25.0,
        "final_div_factor": 1e4,
        "three_phase": True,
    },
    WarmUp: {"schedule": Constant(0.1), "warmup_steps": 5, "start_factor": 0.1},
    Sequential: {"schedulers": [Constant(0.1), Constant(0.2)], "milestones": [5]},
}
WRONG_TYPES = ["text", 1j, object(), b"1", np.zeros(2)]
WRONG_VALUES = [
    (Constant, {"base": math.nan}),
    (Constant, {"base": math.inf}),
    (Constant, {"base": True}),
    (Constant, {"factor": -0.1}),
    (Constant, {"total_iters": 0}),
    (Step, {"step_size": 0}),
    (Step, {"step_size": 2.0}),
    (Step, {"step_size": True}),
    (Step, {"gamma": -1}),
    (MultiStep, {"milestones": [1, -1]}),
    (MultiStep, {"milestones": [1, 2.5]}),
    (MultiStep, {"milestones": 5}),
    (MultiStep, {"milestones": {1: 2}}),
    (Exponential, {"gamma": math.inf}),
    (Linear, {"start_factor": -1}),
    (Linear, {"end_factor": -1}),
    (Linear, {"total_iters": 0}),
    (Polynomial, {"total_iters": 0}),
    (Polynomial, {"power": -1}),
    (InverseTimeDecay, {"decay_steps": 0}),
    (InverseTimeDecay, {"decay_rate": -0.1}),
    (InverseTimeDecay, {"staircase": 1}),
    (InverseSqrt, {"warmup_steps": 0}),
    (CosineAnnealing, {"T_max": 0}),
    (CosineAnnealing, {"eta_min": math.nan}),
    (CosineAnnealingWarmRestarts, {"T_0": 0}),
    (CosineAnnealingWarmRestarts, {"T_mult": 0}),
    (CosineAnnealingWarmRestarts, {"T_mult": 1.5}),
    (Cyclic, {"step_size_up": 0}),
    (Cyclic, {"step_size_down": 0}),
    (Cyclic, {"mode": "square"}),
    (Cyclic, {"gamma": -1}),
    (Cyclic, {"scale_fn": 1.0}),
    (Cyclic, {"scale_mode": "steps"}),
    (OneCycle, {"total_steps": 0}),
    (OneCycle, {"total_steps": 21}),
    (OneCycle, {"total_steps": None, "epochs": None}),
    (OneCycle, {"total_steps": None, "steps_per_epoch": None}),
    (OneCycle, {"epochs": 0}),
    (OneCycle, {"steps_per_epoch": -1}),
    (OneCycle, {"pct_start": 1.1}),
    (OneCycle, {"pct_start": -0.1}),
    (OneCycle, {"pct_start": True}),
    (OneCycle, {"anneal_strategy": "sine"}),
    (OneCycle, {"div_factor": 0}),
    (OneCycle, {"final_div_factor": 0}),
    (OneCycle, {"three_phase": None}),
    (WarmUp, {"schedule": 0.1}),
    (WarmUp, {"warmup_steps": -1}),
    (WarmUp, {"start_factor": -1}),
    (Sequential, {"schedulers": []}),
    (Sequential, {"schedulers": Constant(0.1)}),
    (Sequential, {"schedulers": [Constant(0.1), 0.2]}),
    (Sequential, {"schedulers": {Constant(0.1), Constant(0.2)}}),
    (Sequential, {"schedulers": [Constant(0.1), ReduceLROnPlateau(fo.SGD(np.zeros(1)))]}),
    (Sequential, {"milestones": []}),
    (Sequential, {"milestones": [1, 2]}),
    (Sequential, {"milestones": [-1]}),
    (Sequential, {"milestones": [4, 2], "schedulers": [Constant(0.1)] * 3}),
]


class TestRefusals:
    @pytest.mark.parametrize(("cls", "wrong"), WRONG_VALUES)
    def test_values(self, cls, wrong):
        name = next(iter(wrong))
        with pytest.raises((TypeError, ValueError), match=rf"^{name}(\[\d\])?: expected .*found"):
            cls(**{**VALID[cls], **wrong})

    @pytest.mark.parametrize(
        ("cls", "name"), [(cls, name) for cls, valid in VALID.items() for name in valid]
    )
    def test_types(self, cls, name):
        for wrong in WRONG_TYPES:
            if name == "milestones" and isinstance(wrong, np.ndarray):
                wrong = np.zeros(1)
            with pytest.raises((TypeError, ValueError), match=rf"^{name}(\[\d\])?: expected .*"):
                cls(**{**VALID[cls], name: wrong})

    @pytest.mark.parametrize("cls", CLASSES)
    @pytest.mark.parametrize(
        ("step", "error"),
        [
            (-1, ValueError),
            (np.int64(-5), ValueError),
            (1.0, TypeError),
            (np.float64(1), TypeError),
            (True, TypeError),
            (None, TypeError),
            ("1", TypeError),
            (np.array([1, 2]), TypeError),
        ],
    )
    def test_steps(self, cls, step, error):
        with pytest.raises(error, match=r"^step: expected a whole number >= 0, found"):
            cls(**VALID[cls])(step)

    @pytest.mark.parametrize("cls", [Cyclic, OneCycle])
    @pytest.mark.parametrize("name", MOMENTUM_ARGUMENTS)
    def test_momenta(self, cls, name):
        for wrong in ("0.9", math.nan):
            with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
                cls(**VALID[cls]).momentum(**{name: wrong})

    def test_none_is_no_number(self):
        with pytest.raises(TypeError, match=r"gamma: expected .* found None"):
            Step(0.1, 7, None)


class TestPlot:
    @pytest.fixture
    def pyplot(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("agg")
        from matplotlib import pyplot

        yield pyplot
        pyplot.close("all")

    def test_values(self, pyplot):
        schedule = OneCycle(0.1, 30)
        ax = schedules.plot(schedule, 30)
        (line,) = ax.lines
        np.testing.assert_array_equal(line.get_xdata(), range(30))
        np.testing.assert_array_equal(line.get_ydata(), [schedule(t) for t in range(30)])
        assert line.get_label() == repr(schedule)
        assert ax.get_xlabel() == "step"
        ax.figure.canvas.draw()

    def test_several_in_one(self, pyplot):
        ax = schedules.plot(Step(0.1, 7), 30)
        assert schedules.plot(lambda t: 1 / (t + 1), 30, ax=ax) is ax
        assert len(ax.lines) == 2
        assert len(pyplot.get_fignums()) == 1

    @pytest.mark.parametrize(
        ("schedule", "steps", "name"),
        [(0.1, 5, "schedule"), (Step(0.1, 7), 0, "steps"), (Step(0.1, 7), 1.5, "steps")],
    )
    def test_refusals(self, schedule, steps, name):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
            schedules.plot(schedule, steps)

    def test_without_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r'python -m pip install "fastoptim\[plot\]"'):
            schedules.plot(Step(0.1, 7), 5)


def test_import_takes_neither_torch_nor_matplotlib():
    program = (
        "import sys, fastoptim.schedules; print({'torch', 'matplotlib'} & {*sys.modules} or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("none", 0), done.stderr


@pytest.mark.parametrize(
    "schedule",
    [Exponential(0.1, 2.0), Step(0.1, 1, 2.0), Cyclic(0.1, 0.2, mode="exp_range", gamma=2.0)],
    ids=repr,
)
def test_value_too_large_for_a_float(schedule):
    with pytest.raises(ValueError, match="step: expected one whose value fits a float, found 5000"):
        schedule(5000)
