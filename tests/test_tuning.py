"""The engine's choice of level and threads: on simulated machines, and by a false clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from zoo import LEVELS, engine, same_bits

import fastoptim as fo
from fastoptim import _levels
from fastoptim._config import chosen
from fastoptim._engine import tuning
from fastoptim._engine.threads import threads_for
from fastoptim._engine.tuning import Choice

Way = tuple[int, int]
Machine = Callable[[Way], int]  # the nanoseconds that a step takes in some way


def run(choice: Choice, machine: Machine, steps: int) -> list[Way]:
    """Take steps; return how each was run."""
    found = []
    for _ in range(steps):
        way = choice.upcoming()
        choice.took(way, machine(way))
        found.append(way)
    return found


def table(times: dict[Way, int], noise: float = 0.0, seed: int = 0) -> Machine:
    """Return a machine with such times, of which one in 20 is disturbed if there is noise."""
    rng = random.Random(seed)

    def took(way: Way) -> int:
        disturbed = noise and rng.random() < 0.05
        return int(times[way] * rng.gauss(1, noise) * (10 if disturbed else 1))

    return took


FLAT = {(level, threads): 100_000 for level in range(3) for threads in (1, 2)}


@pytest.mark.parametrize("best", FLAT)
@pytest.mark.parametrize("start", FLAT)
def test_finds_the_best_way(start, best):
    """Where a way is better the nearer it is to the best one."""

    def machine(way: Way) -> int:
        return 100_000 + 20_000 * sum(abs(a - b) for a, b in zip(way, best, strict=True))

    choice = Choice("work", 3, *start, allowed=2)
    run(choice, machine, 150)
    assert choice.way == best


def test_tells_that_a_trial_is_under_way():
    choice = Choice("work", 1, 0, 1, allowed=2)
    assert not choice.trying
    run(choice, lambda way: 100_000, 1)
    assert choice.trying
    run(choice, lambda way: 100_000, 30)
    assert not choice.trying
    assert choice.trials == 1


def test_many_threads_are_found_by_doubling():
    choice = Choice("work", 1, 0, 1, allowed=48)
    tried = run(choice, lambda way: 6_400_000 // way[1] + 40_000 * way[1], 400)
    assert choice.way[1] in (8, 16)
    assert {threads for _, threads in tried} <= {1, 2, 4, 8, 16, 32, 48}


@pytest.mark.parametrize("seed", range(20))
def test_finds_five_per_cent_under_noise(seed):
    choice = Choice("work", 3, 2, 1, allowed=2)
    run(choice, table(FLAT | {(2, 2): 95_000}, 0.02, seed), 3000)
    assert choice.way == (2, 2)


@pytest.mark.parametrize("seed", range(20))
def test_does_not_flap(seed):
    """Between ways that take as long, noise decides; but seldom anew."""
    choice = Choice("work", 3, 2, 1, allowed=2)
    run(choice, table(FLAT, 0.05, seed), 10_000)
    assert choice.changes <= 12


def test_takes_one_per_cent():
    times = FLAT | {(2, 1): 50_000, (2, 2): 150_000, (1, 1): 90_000}
    choice = Choice("work", 3, 2, 1, allowed=2)
    ways = run(choice, table(times), 10_000)
    assert choice.way == (2, 1)
    taken = sum(times[way] for way in ways)
    assert taken <= 1.01 * 10_000 * times[2, 1] + 8 * 150_000  # the first trials come on top
    assert choice.trials >= 4  # all are tried, and again


def test_an_interruption_neither_wins_nor_costs_much():
    """A step during which the machine slept for a minute is one of four, and of many."""
    choice = Choice("work", 3, 2, 1, allowed=2)
    times = iter([60 * 10**9 if k == 6 else 100_000 for k in range(3000)])
    run(choice, lambda way: next(times), 3000)
    assert choice.spent < 100 * 100_000
    assert choice.changes == 0


def test_follows_a_neighbour():
    """Two threads are faster until a neighbour takes the other core, and again when it has left."""
    alone = FLAT | {(level, 2): 60_000 for level in range(3)}
    beside = FLAT | {(level, 2): 140_000 for level in range(3)}
    choice = Choice("work", 3, 2, 1, allowed=2)
    for times, threads in [(alone, 2), (beside, 1), (alone, 2)] * 2:
        run(choice, table(times, 0.02), 2500)
        assert choice.way[1] == threads


def test_a_change_is_met_soon():
    choice = Choice("work", 3, 2, 2, allowed=2)
    run(choice, table(FLAT | {(2, 1): 150_000, (1, 2): 150_000}), 1000)
    assert choice.way == (2, 2)
    run(choice, table(FLAT | {(2, 2): 400_000}), 60)
    assert choice.way != (2, 2)


def test_phases_that_come_and_go_are_not_met_each_time():
    choice = Choice("work", 3, 2, 2, allowed=2)
    fast = FLAT | {(2, 1): 150_000, (1, 2): 150_000}
    run(choice, table(fast), 1000)
    before = choice.trials
    for k in range(100):
        run(choice, table({way: ns << k % 2 for way, ns in fast.items()}), 10)
    assert choice.trials <= before + 10


def test_another_threads_steps_do_not_count():
    choice = Choice("work", 3, 2, 1, allowed=2)
    for _ in range(1000):
        choice.took((0, 2), 1)  # nobody was told to run in this way
    assert choice.changes == 0
    assert choice.way == (2, 1)


@pytest.fixture
def simulated() -> Iterator[dict[Way, int]]:
    """Let the engine's clock say that a step took what is in the table, by levels and threads."""
    times: dict[Way, int] = {}
    time = [0, 0]

    def clock() -> int:
        # The first of two calls is at the start of a step, the second at its end.
        time[1] += 1
        if time[1] % 2 == 0:
            time[0] += times[tuning.running()]
        return time[0]

    tuning.forget()
    tuning.set_clock(clock)
    try:
        yield times
    finally:
        tuning.set_clock(None)
        tuning.forget()


SIZE = 1 << 17


def optimizer(**options: object) -> tuple[fo.Optimizer, np.ndarray, np.ndarray]:
    p, g = np.linspace(-1, 1, SIZE, dtype="f4"), np.linspace(2, -1, SIZE, dtype="f4")
    return fo.Adam([p], **options), p, g


needs_levels = pytest.mark.skipif(len(LEVELS) < 2, reason="needs a CPU of several levels")


class TestEngine:
    """Steps that the engine itself times."""

    def ways(self) -> dict[Way, int]:
        return {(level, n): 100_000 for level in range(len(LEVELS)) for n in (1, 2, 3, 4)}

    def test_the_bits_are_the_same_all_along(self, simulated):
        simulated |= self.ways()
        simulated[0, 2] = 50_000
        with engine(threads=4):
            a, p, g = optimizer()
            b, q, _ = optimizer(backend="reference")
            for _ in range(60):
                a.step([g])
                b.step([g])
        assert same_bits(p, q)
        assert len(tuning.chosen()) == 1
        assert tuning.chosen()[0].trials >= 2

    @needs_levels
    def test_finds_a_level(self, simulated):
        simulated |= self.ways()
        best = len(LEVELS) - 2
        simulated[best, 1] = 50_000
        with engine(threads=1):
            opt, _, g = optimizer()
            for _ in range(60):
                opt.step([g])
        (choice,) = tuning.chosen()
        assert choice.way == (best, 1)
        assert chosen() == [f"{LEVELS[best]} on 1 thread: adam step float32, 3.15 MB and more"]

    def test_finds_threads_within_the_limit(self, simulated):
        simulated |= self.ways()
        for level in range(len(LEVELS)):
            simulated[level, 2], simulated[level, 3] = 60_000, 40_000
        opt, _, g = optimizer()
        for limit in (1, 2, 3):
            with fo.num_threads(limit):
                for _ in range(100):
                    opt.step([g])
                    assert tuning.running()[1] <= limit
                assert tuning.running()[1] == limit
        assert {choice.allowed for choice in tuning.chosen()} == {1, 2, 3}

    def test_a_later_optimizer_goes_on_from_there(self, simulated):
        simulated |= self.ways()
        for level in range(len(LEVELS)):
            simulated[level, 2] = 50_000
        with fo.num_threads(2):
            first, _, g = optimizer()
            for _ in range(100):
                first.step([g])
            second, _, g = optimizer()
            second.step([g])
            assert tuning.running()[1] == 2
        assert len(tuning.chosen()) == 1

    def test_small_steps_are_not_timed(self):
        def clock() -> int:
            raise AssertionError("the clock was read")

        tuning.forget()
        tuning.set_clock(clock)
        try:
            p = np.ones(1000)
            fo.Adam([p], max_grad_norm=1.0).step([np.ones(1000)])
        finally:
            tuning.set_clock(None)
        assert tuning.chosen() == []

    def test_other_work_is_chosen_for_apart(self, simulated):
        simulated |= self.ways()
        with fo.num_threads(2):
            for options in ({}, {"max_grad_norm": 1.0}, {"ema_decay": 0.5}):
                opt, _, g = optimizer(**options)
                for _ in range(3):
                    opt.step([g])
                opt.step([g[::-1]])
            p, g = np.ones(SIZE), np.ones(SIZE)
            fo.SGD([p], momentum=0.9).step([g])
            fo.global_norm([g])
        names = sorted({choice.name for choice in tuning.chosen()})
        assert names == [
            "adam step float32",
            "adam step float32, gathered",
            "adam step float32, gathered, staged",
            "adam step float32, staged",
            "norm float32",
            "norm float32, gathered",
            "norm float64",
            "sgd step float64",
        ]

    def test_the_first_step_does_not_count(self, simulated):
        """It touches the pages of the state for the first time."""
        simulated |= self.ways()
        with fo.num_threads(2):
            opt, _, g = optimizer()
            opt.step([g])
            assert tuning.chosen()[0].total == 0
            opt.step([g])
            assert tuning.chosen()[0].total == 100_000

    @needs_levels
    def test_fixed(self):
        opt, _, g = optimizer()
        with fo.num_threads(3):
            for level, threads in (0, 2), (1, 3):
                with tuning.fixed(LEVELS[level], threads):
                    opt.step([g])
                    assert tuning.running() == (level, threads)
            with tuning.fixed(threads=8):
                opt.step([g])
                assert tuning.running() == (len(LEVELS) - 1, 3)

    def test_off(self, simulated):
        simulated |= self.ways()
        before = tuning.set_tuning(False)
        try:
            opt, _, g = optimizer()
            for _ in range(10):
                opt.step([g])
            # other tests may have left awake workers of OpenMP, for which the default is two
            assert tuning.running() == (len(_levels.active) - 1, threads_for(28 * SIZE))
            assert tuning.chosen() == []
        finally:
            tuning.set_tuning(before)

    def test_threads_of_python_share_a_choice(self):
        tuning.forget()

        def train(_: int) -> np.ndarray:
            opt, p, g = optimizer()
            for _ in range(40):
                opt.step([g])
            return p

        with ThreadPoolExecutor(4) as pool:
            first, *others = pool.map(train, range(4))
        assert all(same_bits(first, p) for p in others)
        assert {choice.name for choice in tuning.chosen()} == {"adam step float32"}
