"""Contenders take turns, A B C A B C ..., so that what slows the machine slows all of them.

A ratio is the median of the ratios within each round. A throughput counts the bytes that the
formula must move, whatever a contender moves in fact.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any, TypeVar

import numpy as np

from fastoptim._engine.threads import threads_for
from fastoptim._roofline import read, stream

from .cases import Cell, Size
from .contenders import REFERENCE, SUBJECT, prepare
from .rivals import Step, UnavailableError

PROBE = "probe"

# The OpenMP workers of other libraries, and those of a BLAS, spin for some milliseconds after
# their work. Without a pause they would take the cores from whoever comes next.
PAUSE = 0.01
TURN = 0.005  # seconds of a turn, at the least
ROUNDS = 5  # at the least
BUDGET = 2.0  # seconds for the rounds of one cell, if they are more
NOISE = 0.1  # a result whose shares of the probe spread by more is marked as noisy

# With more tensors or elements than these, a check and a few rounds take minutes: Python goes from
# tensor to tensor, JAX compiles a program that grows with the number of tensors.
MOST_TENSORS = {
    "NumPy plain": 10_000,
    "NumPy in place": 10_000,
    "torch foreach": 10_000,
    "optax": 100,
}
MOST_ELEMENTS = dict.fromkeys((REFERENCE, "NumPy plain", "NumPy in place"), 20_000_000)

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """The seconds a step took each contender in each round."""

    cell: Cell
    threads: int
    seconds: Mapping[str, list[float]]
    left_out: Mapping[str, str]  # who could not be timed, and why

    def rate(self, name: str) -> float:
        """Return the median throughput in GB/s."""
        return self.cell.traffic / median(self.seconds[name]) / 1e9

    def ratio(self, name: str) -> float:
        """Return how many times as long as fastoptim a contender takes."""
        return median(self._ratios(name))

    @property
    def spread(self) -> float:
        """How far the middle half of the rounds' shares of the probe spreads, as a part of them."""
        low, middle, high = quantiles(self._ratios(PROBE), n=4, method="inclusive")
        return (high - low) / middle

    @property
    def is_noisy(self) -> bool:
        """Whether the share of the probe is to be taken with care."""
        return self.spread > NOISE

    def _ratios(self, name: str) -> list[float]:
        pairs = zip(self.seconds[name], self.seconds[SUBJECT], strict=True)
        return [theirs / ours for theirs, ours in pairs]

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        medians = {name: median(times) for name, times in self.seconds.items()}
        tensors = self.cell.size.tensors
        return {
            "optimizer": self.cell.case.name,
            "dtype": self.cell.dtype,
            "tensors": tensors,
            "elements": self.cell.size.elements,
            "bytes": self.cell.traffic,
            "threads": self.threads,
            "rounds": len(self.seconds[SUBJECT]),
            "median_seconds": medians,
            "nanoseconds_per_tensor": {name: 1e9 * s / tensors for name, s in medians.items()},
            "gb_per_second": {name: self.rate(name) for name in (SUBJECT, PROBE)},
            "share_of_probe": self.ratio(PROBE),
            "spread_of_share": self.spread,
            "speedup_over": {
                name: self.ratio(name) for name in self.seconds if name not in (SUBJECT, PROBE)
            },
            "left_out": dict(self.left_out),
        }


def measure(cell: Cell, rivals: Sequence[str], budget: float) -> Result:
    """Check everyone who computes a cell, then time them, turn by turn.

    Parameters
    ----------
    cell : Cell
        The rule, size and dtype.
    rivals : sequence of str
        The names of the contenders beside fastoptim and the probe.
    budget : float
        Seconds for the rounds; `ROUNDS` rounds are run in any case.

    Returns
    -------
    Result
        The times of fastoptim, of the probe and of all rivals that exist here.

    Raises
    ------
    WrongResultError
        If a contender disagrees with the reference; then nobody is timed.
    """
    threads = threads_for(cell.traffic)
    steps = {SUBJECT: prepare(SUBJECT, cell), PROBE: probe(cell, threads)}
    left_out = {}
    for name in rivals:
        try:
            if is_slow(name, cell.size):
                raise UnavailableError("slow")
            steps[name] = prepare(name, cell)
        except UnavailableError as why:
            left_out[name] = str(why)
    turns = {name: partial(_timed, step) for name, step in steps.items()}
    return Result(cell, threads, take_turns(turns, budget), left_out)


def is_slow(name: str, size: Size) -> bool:
    """Tell whether timing a contender at a size takes more patience than people have."""
    most_tensors, most_elements = MOST_TENSORS.get(name), MOST_ELEMENTS.get(name)
    return bool(
        (most_tensors and size.tensors > most_tensors)
        or (most_elements and size.elements > most_elements)
    )


def probe(cell: Cell, threads: int) -> Step:
    """Return the step that moves the same bytes in one array, with hardly any arithmetic.

    An average of the parameters is a state array like others. What is read for a norm takes a
    pass of its own, which must end before the step can begin.
    """
    p, g, *state = (np.ones(cell.size.elements, cell.dtype) for _ in range(2 + cell.case.states))
    step, ahead = partial(stream, p, g, state, threads), [g, p, *state][: cell.case.ahead]
    if not ahead:
        return step
    return lambda: ([read(array, threads) for array in ahead], step())


def take_turns(
    turns: Mapping[str, Callable[[int], T]], budget: float, pause: float = PAUSE
) -> dict[str, list[T]]:
    """Return what each contender measured in each round.

    A turn takes as many steps as it is told. Each is taken twice, so that the workers and the
    caches are awake when it counts.
    """
    found: dict[str, list[T]] = {name: [] for name in turns}
    with _garbage_collector_disabled():
        repetitions = {name: _repetitions(turn, pause) for name, turn in turns.items()}
        start, rounds = time.perf_counter(), 0
        while rounds < ROUNDS or time.perf_counter() - start < budget:
            for name, turn in turns.items():
                time.sleep(pause)
                turn(repetitions[name])
                found[name].append(turn(repetitions[name]))
            rounds += 1
    return found


@contextmanager
def _garbage_collector_disabled() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _repetitions(turn: Callable[[int], Any], pause: float) -> int:
    """Return how many steps fill a turn."""
    n = 1
    time.sleep(pause)
    while True:
        turn(n)
        start = time.perf_counter()
        turn(n)
        if time.perf_counter() - start >= TURN:
            return n
        n *= 2


def _timed(step: Step, repetitions: int) -> float:
    """Return the seconds that a step takes."""
    start = time.perf_counter()
    for _ in range(repetitions):
        step()
    return (time.perf_counter() - start) / repetitions
