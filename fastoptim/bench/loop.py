"""Training loops: matrix products and steps in alternation, which share cores and caches.

The gradients are those of a multilayer perceptron in NumPy. A step may slow the products around it:
the products alone are timed with a step between them, and without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import fastoptim as fo
from fastoptim._containers import Array
from fastoptim._engine.threads import threads_for
from fastoptim.demo.network import cross_entropy
from fastoptim.init import kaiming_normal
from fastoptim.schedules import CosineAnnealing

from .cases import Case, Cell, Dtype, Size
from .contenders import REFERENCE, SUBJECT, prepare_on
from .rivals import Arrays, Step
from .timing import settle, take_turns

ALONE = "no step"
# OpenBLAS's own threads spin for some 0.1 s after a product. They would take the cores from the
# threads of the next turn, which may be fastoptim's.
PAUSE = 0.2
SHARED = "shared BLAS"  # fastoptim, while NumPy's products run on its threads
STEPPERS = (SUBJECT, REFERENCE, "NumPy plain", "NumPy in place")
WIDTHS = (
    (64, 100, 10),
    (784, 128, 10),
    (784, 512, 512, 10),
    (784, 1024, 1024, 10),
    (784, 2048, 2048, 10),
)
BATCH_SIZES = (32, 200)
STEPS = 1000  # until a scheduled learning rate is 0, and goes up again
BATCHES = 8  # different mini-batches, one after another

Turn = Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class Training:
    """A multilayer perceptron with ReLU, and mini-batches of noise that it cannot learn."""

    case: Case
    widths: tuple[int, ...]
    batch: int
    dtype: Dtype = "float32"

    def __str__(self) -> str:
        cosine = ", cosine" if self.is_scheduled else ""
        return f"{self.case.name} {self.network}, batch {self.batch}{cosine}"

    @property
    def is_scheduled(self) -> bool:
        """Whether the learning rate changes from step to step."""
        return callable(self.case.hyper["lr"])

    @property
    def network(self) -> str:
        """The widths of the layers."""
        return "-".join(map(str, self.widths))

    @cached_property
    def _batches(self) -> list[tuple[Array, Any]]:
        rng, (inputs, *_, classes) = np.random.default_rng(0), self.widths
        return [
            (rng.random((self.batch, inputs), self.dtype), rng.integers(0, classes, self.batch))
            for _ in range(BATCHES)
        ]

    def arrays(self) -> tuple[Arrays, Arrays]:
        """Return weights and biases, layer by layer, and their gradients for a mini-batch."""
        rng, params = np.random.default_rng(0), []
        for shape in zip(self.widths, self.widths[1:], strict=False):
            w = kaiming_normal(shape, self.dtype, rng, nonlinearity="relu", layout="in_out")
            params += [w, np.zeros(shape[1], self.dtype)]
        grads = [np.empty_like(p) for p in params]
        self.backpropagate(0, params, grads)
        return params, grads

    def backpropagate(self, batch: int, params: Arrays, grads: Arrays) -> None:
        """Write the gradients of the mean cross-entropy of a mini-batch."""
        x, y = self._batches[batch % BATCHES]
        weights, biases, layers = params[::2], params[1::2], [x]
        for w, b in zip(weights, biases, strict=True):
            z = layers[-1] @ w
            z += b
            layers.append(np.maximum(z, 0))
        _, d = cross_entropy(z, y)
        for i in reversed(range(len(weights))):
            np.matmul(layers[i].T, d, out=grads[2 * i])
            np.sum(d, axis=0, out=grads[2 * i + 1])
            if i:
                d = (d @ weights[i].T) * (layers[i] > 0)


@dataclass(frozen=True)
class LoopResult:
    """The seconds of the matrix part and of the step of an iteration, of each in each round."""

    training: Training
    threads: int
    seconds: Mapping[str, list[tuple[float, float]]]

    def iteration(self, name: str) -> float:
        """Return the median seconds of a whole iteration."""
        return median(map(sum, self.seconds[name]))

    def matrices(self, name: str) -> float:
        """Return the median seconds of the matrix part."""
        return median(matrices for matrices, _ in self.seconds[name])

    def ratio(self, name: str) -> float:
        """Return how many times as long as fastoptim's a contender's iterations take."""
        pairs = zip(self.seconds[name], self.seconds[SUBJECT], strict=True)
        return median(sum(theirs) / sum(ours) for theirs, ours in pairs)

    def slowdown(self, name: str) -> float:
        """Return how many times as long the matrix part takes as without any step."""
        pairs = zip(self.seconds[name], self.seconds[ALONE], strict=True)
        return median(among[0] / alone[0] for among, alone in pairs)

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        stepping = [name for name in self.seconds if name != ALONE]
        return {
            "optimizer": self.training.case.name,
            "dtype": self.training.dtype,
            "network": self.training.network,
            "batch": self.training.batch,
            "scheduled": self.training.is_scheduled,
            "threads": self.threads,
            "rounds": len(self.seconds[SUBJECT]),
            "iteration_seconds": {name: self.iteration(name) for name in stepping},
            "matrix_seconds": {name: self.matrices(name) for name in self.seconds},
            "matrix_slowdown": {name: self.slowdown(name) for name in stepping},
            "speedup_over": {name: self.ratio(name) for name in stepping if name != SUBJECT},
        }


def trainings(case: Case, quick: bool) -> list[Training]:
    """Return the loops to measure."""
    widths = WIDTHS[:2] if quick else WIDTHS
    found = [Training(case, w, batch) for w in widths for batch in BATCH_SIZES]
    if case.name == "Adam":  # whose rate NumPy's contenders can change, too
        found.insert(1, Training(scheduled(case), WIDTHS[0], BATCH_SIZES[0]))
    return found


def scheduled(case: Case) -> Case:
    """Return a case whose learning rate goes down along a cosine."""
    schedule = CosineAnnealing(case.hyper["lr"], T_max=STEPS)
    return replace(case, hyper={**case.hyper, "lr": schedule})


def measure(training: Training, budget: float) -> LoopResult:
    """Check everyone on the first gradients, then time the loops, turn by turn.

    Parameters
    ----------
    training : Training
        The network and the rule.
    budget : float
        Seconds for the rounds, if the fewest take less.

    Returns
    -------
    LoopResult
        The times with the steps of each contender, and without any.

    Raises
    ------
    WrongResultError
        If a contender disagrees with the reference; then nobody is timed.
    """
    turns = {name: turn_of(training, name) for name in STEPPERS}
    turns[ALONE] = turn_of(training, None)
    if can_share():
        turns[SHARED] = partial(_sharing, turns[SUBJECT])
    settle(turns[SUBJECT])
    params, _ = training.arrays()
    cell = Cell(training.case, Size(1, sum(p.size for p in params)), training.dtype)
    return LoopResult(training, threads_for(cell.traffic), take_turns(turns, budget, PAUSE))


def turn_of(training: Training, name: str | None) -> Turn:
    """Return a function that trains for some iterations with the steps of a contender."""
    params, grads = training.arrays()
    start = [p.copy() for p in params]
    step = prepare_on(name, training, params, grads) if name else (lambda: None)
    return partial(_train, training, params, grads, start, step)


def _train(
    training: Training, params: Arrays, grads: Arrays, start: Arrays, step: Step, iterations: int
) -> tuple[float, float]:
    """Return the mean seconds of the matrix part and of the step of an iteration."""
    for p, values in zip(params, start, strict=True):  # no turn has been trained longer
        p[...] = values
    matrices = steps = 0.0
    for batch in range(iterations):
        a = perf_counter()
        training.backpropagate(batch, params, grads)
        b = perf_counter()
        step()
        c = perf_counter()
        matrices += b - a
        steps += c - b
    return matrices / iterations, steps / iterations


def can_share() -> bool:
    """Tell whether NumPy's BLAS is one that can share its threads."""
    try:
        with fo.share_blas_threads():
            return True
    except RuntimeError:
        return False


def _sharing(turn: Turn, iterations: int) -> tuple[float, float]:
    with fo.share_blas_threads():
        return turn(iterations)
