"""Contenders take turns, A B C A B C ..., so that what slows the machine slows all of them.

A ratio is the median of the ratios within each round. A throughput counts the bytes that the
formula must move, whatever a contender moves in fact. The probe moves just these, at the speed that
is the machine's: all levels and numbers of threads take turns, and the fastest counts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median, quantiles
from typing import Any, TypeVar

from fastoptim._containers import Array
from fastoptim._engine import tuning
from fastoptim._engine.threads import threads_for

from . import _yardsticks
from .cases import Cell, Size
from .contenders import REFERENCE, SUBJECT, prepare, variants_of
from .rivals import Step, UnavailableError
from .variants import Variant, variants

PROBE = "probe"

# The OpenMP workers of other libraries, and those of a BLAS, spin for some milliseconds after
# their work. Without a pause they would take the cores from whoever comes next.
PAUSE = 0.01
TURN = 0.005  # seconds of a turn, at the least
ROUNDS = 5  # at the least
BUDGET = 2.0  # seconds for the rounds of one cell, if they are more
# What the engine is given to find its level and threads, as it has found them in a long training.
SETTLING, SETTLING_STEPS = 0.1, 100  # seconds, and steps, at least
SETTLED_BY = 20.0  # seconds after which trials are no longer waited for
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

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """The seconds a step took each contender in each round."""

    cell: Cell
    threads: int
    seconds: Mapping[str, list[float]]  # of who has several variants, those of the fastest
    left_out: Mapping[str, str]  # who could not be timed, and why
    medians: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of each variant

    def rate(self, name: str) -> float:
        """Return the median throughput in GB/s."""
        return self.cell.traffic / median(self.seconds[name]) / 1e9

    def ratio(self, name: str) -> float:
        """Return how many times as long as fastoptim a contender takes."""
        return median(self._ratios(name))

    def bound(self, name: str) -> float:
        """Return how many times as long as the probe a contender takes: nobody can do better."""
        return median(self._ratios(name, PROBE))

    @property
    def spread(self) -> float:
        """How far the middle half of the rounds' shares of the probe spreads, as a part of them."""
        low, middle, high = quantiles(self._ratios(PROBE), n=4, method="inclusive")
        return (high - low) / middle

    @property
    def is_noisy(self) -> bool:
        """Whether the share of the probe is to be taken with care."""
        return self.spread > NOISE

    def _ratios(self, name: str, other: str = SUBJECT) -> list[float]:
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return [a / b for a, b in pairs]

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        medians = {name: median(times) for name, times in self.seconds.items()}
        tensors = self.cell.size.tensors
        rivals = [name for name in self.seconds if name not in (SUBJECT, PROBE)]
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
            "speedup_over": {name: self.ratio(name) for name in rivals},
            "speedup_of_probe_over": {name: self.bound(name) for name in rivals},
            "variants": {name: dict(times) for name, times in self.medians.items()},
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
    steps: dict[tuple[str, Variant | None], Step] = {(SUBJECT, None): prepare(SUBJECT, cell)}
    steps |= {(PROBE, variant): step for variant, step in probes(cell).items()}
    left_out = {}
    for name in rivals:
        try:
            if is_slow(name, cell.size):
                raise UnavailableError("slow")
            steps |= {(name, v): prepare(name, cell, v) for v in variants_of(name)}
        except UnavailableError as why:
            left_out[name] = str(why)
    turns = {key: partial(_timed, step) for key, step in steps.items()}
    settle(turns[SUBJECT, None])
    seconds, medians = _fastest(take_turns(turns, budget, PAUSE))
    return Result(cell, threads_for(cell.traffic), seconds, left_out, medians)


def _fastest(
    times: Mapping[tuple[str, Variant | None], list[float]],
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Return the times of each contender's fastest variant, and the medians of all variants."""
    seconds: dict[str, list[float]] = {}
    medians: dict[str, dict[str, float]] = {}
    for (name, variant), found in times.items():
        if name not in seconds or median(found) < median(seconds[name]):
            seconds[name] = found
        if variant:
            medians.setdefault(name, {})[str(variant)] = median(found)
    return seconds, medians


def is_slow(name: str, size: Size) -> bool:
    """Tell whether timing a contender at a size takes more patience than people have."""
    most_tensors, most_elements = MOST_TENSORS.get(name), MOST_ELEMENTS.get(name)
    return bool(
        (most_tensors and size.tensors > most_tensors)
        or (most_elements and size.elements > most_elements)
    )


def probes(cell: Cell) -> dict[Variant, Step]:
    """Return the steps that move the same bytes, with hardly any arithmetic, by their variants.

    An average of the parameters is a state array like others. What is read for a norm takes a
    pass of its own, which must end before the step can begin. Each pass reads or writes in order,
    through the caches: stores that go around them were 2 to 20 times as slow (Zen 4), since the
    lines that a step writes are those that it has just read.
    """
    count, n = 2 + cell.case.states, cell.size.elements
    p, g, *state = (_yardsticks.touched(n, cell.dtype) for _ in range(count))
    ahead = [g, p, *state][: cell.case.ahead]
    return {v: _probe(g, [p, *state], ahead, v) for v in variants(_yardsticks.levels())}


def _probe(g: Array, changed: list[Array], ahead: list[Array], variant: Variant) -> Step:
    step = _yardsticks.Stream(g, changed, *variant).step
    if not ahead:
        return step
    reads = [_yardsticks.Read(array, *variant).step for array in ahead]
    return lambda: ([read() for read in reads], step())


def settle(turn: Callable[[int], Any]) -> None:
    """Take steps until the engine has tried what else there is."""
    start, steps = time.perf_counter(), 0
    before = {choice: choice.total for choice in tuning.chosen()}
    while (
        steps < SETTLING_STEPS
        or (passed := time.perf_counter() - start) < SETTLING
        or (_are_tried(before) and passed < SETTLED_BY)
    ):
        turn(SETTLING_STEPS // 10)
        steps += SETTLING_STEPS // 10


def _are_tried(before: Mapping[tuning.Choice, int]) -> bool:
    """Tell whether a trial is under way of work that was done since these totals were taken."""
    used = (c for c in tuning.chosen() if c.total > before.get(c, 0))
    return any(choice.trying for choice in used)


def take_turns(
    turns: Mapping[K, Callable[[int], T]], budget: float, pause: float
) -> dict[K, list[T]]:
    """Return what each contender measured in each round.

    A turn takes as many steps as it is told. Each is taken twice, so that the workers and the
    caches are awake when it counts.
    """
    found: dict[K, list[T]] = {name: [] for name in turns}
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
