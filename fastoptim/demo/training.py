"""The trainings of the demo: each optimizer twice, stepped by NumPy and by fastoptim in turn."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastoptim import schedules
from fastoptim._optimizer import Optimizer

from .digits import SEED, Digits
from .network import Network, Weights

BATCH = 100
BLOCK = 20  # mini-batches of a turn, and of a point of the loss curves
# Where the class's default is far from what suits this network.
LEARNING_RATES = {"SGD": 0.5, "Momentum": 0.5, "RMSprop": 0.001, "Adagrad": 0.01, "Adam": 0.001}

Array = NDArray[Any]
Images = tuple[Array, Array]  # images and their labels


def learning_rate(method: type[Optimizer]) -> float:
    """Return the learning rate to train with: what suits the network, or the class's default."""
    default = inspect.signature(method).parameters["lr"].default
    return float(LEARNING_RATES.get(method.__name__, default))


# From the learning rate and the number of mini-batches to the learning rate of each mini-batch.
SCHEDULES: dict[str, Callable[[float, int], schedules.Schedule]] = {
    "constant": lambda lr, n: schedules.Constant(lr, factor=1),
    "step": lambda lr, n: schedules.Step(lr, step_size=part(n, 3), gamma=0.1),
    "multi-step": lambda lr, n: schedules.MultiStep(lr, [part(n, 2), n - part(n, 4)], gamma=0.1),
    "exponential": lambda lr, n: schedules.Exponential(lr, gamma=0.01 ** (1 / n)),
    "linear": lambda lr, n: schedules.Linear(lr, 1, 0, total_iters=n),
    "polynomial": lambda lr, n: schedules.Polynomial(lr, total_iters=n, power=2),
    "inverse-time": lambda lr, n: schedules.InverseTimeDecay(lr, n, decay_rate=9),
    "inverse-sqrt": lambda lr, n: schedules.InverseSqrt(lr, warmup_steps=part(n, 10)),
    "cosine": lambda lr, n: schedules.CosineAnnealing(lr, T_max=n),
    "warm-restarts": lambda lr, n: schedules.CosineAnnealingWarmRestarts(lr, T_0=part(n, 4)),
    "warm-up": lambda lr, n: schedules.WarmUp(schedules.Constant(lr, factor=1), part(n, 10)),
    "cyclic": lambda lr, n: schedules.Cyclic(lr / 10, lr, step_size_up=part(n, 8)),
    "one-cycle": lambda lr, n: schedules.OneCycle(lr, total_steps=n),
}


def part(batches: int, parts: int) -> int:
    """Return how many mini-batches a part of a run has; the last part may have fewer."""
    return -(-batches // parts)


@dataclass(frozen=True)
class Setup:
    """What all trainings of a run have in common."""

    digits: Digits
    batches: NDArray[np.intp]  # for each mini-batch, which images are in it
    batch_norm: bool = False
    schedule: str | None = None
    validation: Images | None = None  # for early stopping
    patience: int = 0

    @property
    def inputs(self) -> int:
        """How many pixels an image has."""
        return int(self.digits.x_train.shape[1])

    @property
    def epoch(self) -> int:
        """How many mini-batches go through all images."""
        return -(-len(self.digits.x_train) // len(self.batches[0]))


def draw_batches(images: int, count: int, size: int = BATCH) -> NDArray[np.intp]:
    """Return which images are in each mini-batch, shuffled anew in each epoch."""
    rng = np.random.default_rng(SEED)
    epochs = -(-count * size // images)
    order = np.concatenate([rng.permutation(images) for _ in range(epochs)])
    return order[: count * size].reshape(count, size)


class EarlyStopping:
    """Keeps the best weights by the loss on images for validation, and tells when to stop."""

    def __init__(self, images: Images, patience: int) -> None:
        self.images = images
        self.patience = patience
        self.epochs = 0
        self.best_epoch = 0
        self.lowest = math.inf
        self.best: Weights = {}

    def end_epoch(self, network: Network) -> bool:
        """Evaluate the network; return whether it has not improved for too long."""
        self.epochs += 1
        loss = network.loss(*self.images)
        if loss < self.lowest:
            self.lowest, self.best_epoch = loss, self.epochs
            self.best = {name: array.copy() for name, array in network.arrays.items()}
        return self.epochs - self.best_epoch >= self.patience

    def restore(self, network: Network) -> None:
        """Give the network its best weights back."""
        for name, array in self.best.items():
            network.arrays[name][...] = array


def numpy_step(optimizer: Optimizer) -> Callable[[Weights], None]:
    """Return a step with the bits of the optimizer's, in which NumPy computes nothing but the rule.

    The reference backend works on copies of the arrays, so that an interrupt leaves them whole:
    that is slower than NumPy need be, and would flatter the comparison. What is measured of whole
    arrays, as for a trust ratio, is summed in the order of the engine: such rules step by the
    reference backend all the same.
    """
    rule, (group,) = optimizer.rule, optimizer.param_groups
    if group.hyper.measured:
        return optimizer.step
    arrays = list(zip(optimizer.state.items(), group["params"], strict=True))
    steps, numbers = count(1), [rule.initial_numbers]
    nothing = (None,) if rule.twin.rescale else ()  # to measure

    def step(gradients: Weights) -> None:
        nonlocal numbers
        _, _, own, *numbers = group.scalars(next(steps), *numbers)
        scalars = [np.float32(x) for x in own]
        for (name, state), p in arrays:
            rule.update(p, gradients[name], *map(state.get, rule.state), *nothing, *scalars)

    return step


class Training:
    """A network on its way from the common start, with an optimizer of its own and a stopwatch."""

    def __init__(self, setup: Setup, method: type[Optimizer], lr: float, backend: str) -> None:
        self.setup = setup
        self.network = Network(setup.inputs, batch_norm=setup.batch_norm)
        rate: Any = lr
        if setup.schedule:
            rate = SCHEDULES[setup.schedule](lr, len(setup.batches))
        self.optimizer = method(self.network.weights, lr=rate, backend=backend)
        compiled = backend == "compiled"
        self._update = self.optimizer.step if compiled else numpy_step(self.optimizer)
        self.stopping = setup.validation and EarlyStopping(setup.validation, setup.patience)
        self.stopped = False
        self.losses: list[float] = []
        self.step_seconds = 0.0
        self.seconds = 0.0

    def run(self, batches: Array) -> None:
        """Train on some mini-batches, if it is not time to stop."""
        start = perf_counter()
        for batch in batches:
            if self.stopped:
                break
            self._step(batch)
            if self.stopping and len(self.losses) % self.setup.epoch == 0:
                self.stopped = self.stopping.end_epoch(self.network)
        self.seconds += perf_counter() - start

    def _step(self, batch: Array) -> None:
        x, y = self.setup.digits.x_train[batch], self.setup.digits.y_train[batch]
        loss, gradients = self.network.loss_and_gradients(x, y)
        before = perf_counter()
        self._update(gradients)
        self.step_seconds += perf_counter() - before
        self.losses.append(loss)

    def finish(self) -> None:
        """Go back to the best weights, where they have been kept."""
        if self.stopping:
            self.stopping.restore(self.network)


@dataclass(frozen=True)
class Result:
    """Both trainings with an optimizer."""

    name: str
    lr: float
    accuracy: float
    numpy: Training
    fastoptim: Training

    @property
    def identical(self) -> bool:
        """Whether the final weights have the same bits."""
        ours, theirs = self.fastoptim.network.arrays, self.numpy.network.arrays
        return all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


def compare(setup: Setup, methods: list[type[Optimizer]]) -> list[Result]:
    """Train with each optimizer, by NumPy and by fastoptim, behind progress bars."""
    from rich.console import Console
    from rich.progress import Progress

    results = []
    starts = range(0, len(setup.batches), BLOCK)
    # Drawn seldom, because drawing takes time from the training.
    bars = Progress(console=Console(stderr=True), refresh_per_second=4)
    with bars:
        for method in methods:
            lr = learning_rate(method)
            both = [Training(setup, method, lr, name) for name in ("reference", "compiled")]
            # The two take turns, so that what slows the machine meanwhile slows both.
            for start in bars.track(starts, description=method.__name__):
                for training in both:
                    training.run(setup.batches[start : start + BLOCK])
            for training in both:
                training.finish()
            numpy, fastoptim = both
            accuracy = fastoptim.network.accuracy(setup.digits.x_test, setup.digits.y_test)
            results.append(Result(method.__name__, lr, accuracy, numpy, fastoptim))
    return results
