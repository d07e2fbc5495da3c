"""The engine's own choice of level and threads, beside every choice that one could fix.

One optimizer takes all steps, since the bits are the same. The choices take turns, in each of
several settings: back to back; between matrix products, which share cores and caches with the
steps; and while another process keeps a core busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isqrt
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from fastoptim._config import config
from fastoptim._containers import Array
from fastoptim._engine import tuning

from . import loop, timing
from .cases import CASES, Case, Cell, Size
from .contenders import SUBJECT, prepare_on
from .rivals import Step
from .timing import take_turns
from .variants import Variant, variants

OWN = "own choice"
# What is measured.
BACK_TO_BACK = "steps back to back"
ITERATIONS = "iterations of products and a step"
BETWEEN = "steps between products"
NEIGHBOUR = "steps beside a process that keeps a core busy"
RULES = ("Adam", "SGD-momentum")
# Squares: as matrices of a layer they have as many inputs as outputs.
SIZES = [Size(1, k * k) for k in (64, 256, 512, 1000, 2000, 4000)]
BATCH = 32  # inputs of the layer
BUDGET = 3.0  # seconds for each setting of a cell

# Ends with its parent, however that ends.
SPIN = """
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    pass
"""

Times = tuple[float, ...]  # what a turn measures: the seconds of one repetition
Turn = Callable[[int], Times]


@dataclass(frozen=True)
class ChoiceResult:
    """The seconds of each choice in each round."""

    cell: Cell
    measured: str
    seconds: Mapping[str, list[float]]
    ran: str  # how the engine ran its last step of its own choice

    @property
    def fixed(self) -> list[str]:
        """The names of the choices that are fixed."""
        return [name for name in self.seconds if name != OWN]

    @property
    def best(self) -> str:
        """The fixed choice with the lowest median."""
        return min(self.fixed, key=lambda name: median(self.seconds[name]))

    def ratio(self, name: str) -> float:
        """Return how many times as long as the own choice a fixed one takes."""
        pairs = zip(self.seconds[name], self.seconds[OWN], strict=True)
        return median(theirs / own for theirs, own in pairs)

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        return {
            "optimizer": self.cell.case.name,
            "dtype": self.cell.dtype,
            "elements": self.cell.size.elements,
            "measured": self.measured,
            "rounds": len(self.seconds[OWN]),
            "median_seconds": {name: median(times) for name, times in self.seconds.items()},
            "ratio": {name: self.ratio(name) for name in self.fixed},
            "best_fixed": self.best,
            "of_best_fixed": self.ratio(self.best),
            "ran": self.ran,
        }


def cells(cases: Sequence[Case], quick: bool) -> list[Cell]:
    """Return what to measure."""
    most = 1_000_000 if quick else SIZES[-1].elements
    sizes = [size for size in SIZES if size.elements <= most]
    return [Cell(case, size, "float32") for case in cases for size in sizes]


def default_cases() -> list[Case]:
    """Return the rules that are measured unless one is asked for."""
    return [CASES[name] for name in RULES]


def measure(cell: Cell, budget: float) -> list[ChoiceResult]:
    """Check the optimizer, then time all choices in all settings, turn by turn.

    Parameters
    ----------
    cell : Cell
        The rule, size and dtype.
    budget : float
        Seconds for the rounds of a setting, if the fewest take less.

    Returns
    -------
    list of ChoiceResult
        One for each setting; between products one of the steps, and one of products and steps.

    Raises
    ------
    WrongResultError
        If the optimizer disagrees with the reference; then nothing is timed.
    """
    params, grads = cell.arrays()
    step = prepare_on(SUBJECT, cell, params, grads)
    found = _in_setting(cell, [BACK_TO_BACK], partial(_steps, step), budget, timing.PAUSE)
    layer = Layer(params[0], grads[0], step)
    found += _in_setting(cell, [ITERATIONS, BETWEEN], layer.train, budget, loop.PAUSE)
    with neighbour():
        found += _in_setting(cell, [NEIGHBOUR], partial(_steps, step), budget, timing.PAUSE)
    return found


def _in_setting(
    cell: Cell, measured: list[str], turn: Turn, budget: float, pause: float
) -> list[ChoiceResult]:
    """Time all choices in a setting; return a result for each time that a turn measures."""
    ways, ran = {OWN: None} | {str(v): v for v in variants(levels())}, ""

    def take(variant: Variant | None, repetitions: int) -> Times:
        nonlocal ran
        if variant is None:
            found = turn(repetitions)
            ran = _running()
            return found
        with tuning.fixed(level=variant.level, threads=variant.threads):
            return turn(repetitions)

    timing.settle(turn)
    times = take_turns({name: partial(take, v) for name, v in ways.items()}, budget, pause)
    return [
        ChoiceResult(
            cell, what, {name: [t[k] for t in found] for name, found in times.items()}, ran
        )
        for k, what in enumerate(measured)
    ]


def levels() -> list[str]:
    """Return the levels that steps may use."""
    return str(config()["levels"]).split()


def _running() -> str:
    level, threads = tuning.running()
    return str(Variant(levels()[level], threads))


def _steps(step: Step, repetitions: int) -> Times:
    """Return the seconds of a step, one right behind the other."""
    start = perf_counter()
    for _ in range(repetitions):
        step()
    return ((perf_counter() - start) / repetitions,)


class Layer:
    """A linear layer with the parameters as its matrix, whose products alternate with steps.

    What comes back to it is noise, always the same, so that the parameters go on for ever, and
    neither explode nor die away.
    """

    def __init__(self, p: Array, g: Array, step: Step) -> None:
        rng, width = np.random.default_rng(0), isqrt(p.size)
        self.w, self.g, self.step = p.reshape(width, width), g.reshape(width, width), step
        self.x = rng.random((BATCH, width), p.dtype) / BATCH
        self.d = rng.random((BATCH, width), p.dtype)

    def train(self, iterations: int) -> Times:
        """Return the seconds of an iteration, and those of the step in it."""
        steps, start = 0.0, perf_counter()
        for _ in range(iterations):
            np.matmul(self.x, self.w)
            np.matmul(self.x.T, self.d, out=self.g)
            before = perf_counter()
            self.step()
            steps += perf_counter() - before
        return (perf_counter() - start) / iterations, steps / iterations


@contextmanager
def neighbour() -> Iterator[None]:
    """Let another process keep the last CPU busy that this one may run on."""
    with subprocess.Popen([sys.executable, "-S", "-c", SPIN, str(os.getpid())]) as process:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        try:
            yield
        finally:
            process.kill()
