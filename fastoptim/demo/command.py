"""The arguments of ``fastoptim demo``, and what it prints and draws."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastoptim import optimizers
from fastoptim._config import config
from fastoptim.cli import CommandError, check_plot, writing

from .digits import CLASSES, KEYS, SEED, Digits, hold_out, load_digits, load_npz
from .examples import EXAMPLES
from .network import HIDDEN
from .training import BATCH, BLOCK, SCHEDULES, Result, Setup, compare, draw_batches

if TYPE_CHECKING:
    from rich.table import Table

METHODS = ("SGD", "Momentum", "RMSprop", "Adagrad", "Adam")
# A training has a fixed number of mini-batches, so that it takes no longer on more images.
BATCHES, QUICK_BATCHES = 1000, 200
NOTES = """
step() counts the seconds of the updates alone; training counts all of a run:
mini-batches, forward and backward passes, steps. NumPy stands for the rules of
fastoptim.reference, fastoptim for the compiled loops; both start from the
same weights and see the same mini-batches. Same bits compares every byte of the
final weights. NumPy as people write it takes a little less time than the rules:
fastoptim bench compares with it. Each figure is of one run: expect others the
next time, above all on a busy machine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the parser what the command takes."""
    parser.description = (
        f"Train a network with {HIDDEN} hidden units on images of real digits with each optimizer, "
        "once with steps by the NumPy reference and once by fastoptim's compiled loops, from the "
        "same start on the same mini-batches. A table compares the times and the final weights. "
        "The exit status is 1 if any weights differ, 2 if the demo cannot run."
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--quick", action="store_true", help=f"{QUICK_BATCHES} mini-batches instead of {BATCHES}"
    )
    length.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help=f"go through the images N times, instead of {BATCHES} mini-batches",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help=f"images in a mini-batch (default: {BATCH})",
    )
    parser.add_argument(
        "--optimizer",
        action="append",
        choices=optimizers.__all__,
        metavar="NAME",
        help=f"the optimizer to train with, or several by several options (default: "
        f"{', '.join(METHODS)}); one of {', '.join(optimizers.__all__)}",
    )
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        metavar="NAME",
        help="how the learning rate goes on from mini-batch to mini-batch (default: constant); "
        f"one of {', '.join(SCHEDULES)}",
    )
    parser.add_argument(
        "--batch-norm", action="store_true", help="normalise the hidden layer's mini-batches"
    )
    parser.add_argument(
        "--early-stopping",
        type=positive,
        metavar="PATIENCE",
        help="hold out a tenth of the images for training, evaluate the loss on them once an "
        "epoch, stop after PATIENCE epochs without improvement and keep the best weights",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help=f"MNIST as Keras stores it ({', '.join(KEYS)}), instead of the 1,797 smaller "
        "images that come with fastoptim",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the loss curves, as a PNG (needs the extra plot)",
    )
    parser.add_argument(
        "--example",
        choices=EXAMPLES,
        help="run a small worked example instead: quadratic minimises x^2 with each method, "
        "regression fits y = 3 x0 + 2 x1 + noise by gradient descent and by momentum",
    )


def positive(text: str) -> int:
    """Return the whole number >= 1 that an argument says."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, found {text!r}")
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Run the demo, or one of the examples, and return the exit status."""
    if args.example:
        others = vars(args).keys() - {"command", "run", "example"}
        if any(getattr(args, name) for name in others):
            raise CommandError("--example: expected no other option beside it")
        EXAMPLES[args.example]()
        return 0

    # Missing packages and files that cannot be read or written are found before the training.
    from rich.console import Console

    if args.plot:
        check_plot(args.plot)
    setup = set_up(args, load_npz(args.data) if args.data else load_digits())

    print(settings(setup), flush=True)
    names = dict.fromkeys(args.optimizer or METHODS)  # each once, in the order given
    results = compare(setup, [getattr(optimizers, name) for name in names])
    Console().print(table(results))
    if setup.validation:
        print(f"\n{early_stops(results)}")
    print(NOTES)
    if args.plot:
        save_plot(args.plot, setup, results)
        print(f"\nLoss curves: {args.plot}")

    different = [result.name for result in results if not result.identical]
    if different:
        print(f"fastoptim demo: weights differ: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


def set_up(args: argparse.Namespace, digits: Digits) -> Setup:
    """Return what all trainings have in common."""
    validation = None
    if args.early_stopping:
        if len(digits.x_train) < 2:
            raise CommandError("--early-stopping: expected two images for training, found one")
        digits, validation = hold_out(digits)
    size = args.batch_size or BATCH
    images = len(digits.x_train)
    if args.batch_size and size > images:
        raise CommandError(
            f"--batch-size: expected at most {images}, the images for training, found {size}"
        )
    if args.batch_norm and size == 1:
        raise CommandError("--batch-norm: expected mini-batches of 2 or more images, found 1")
    count = QUICK_BATCHES if args.quick else BATCHES
    if args.epochs:
        count = -(-args.epochs * images // size)
    return Setup(
        digits,
        draw_batches(images, count, size),
        batch_norm=args.batch_norm,
        schedule=args.schedule,
        validation=validation,
        patience=args.early_stopping or 0,
    )


def settings(setup: Setup) -> str:
    """Return what is about to run, and with what."""
    train, test = len(setup.digits.x_train), len(setup.digits.x_test)
    batches, size = setup.batches.shape
    found = config()
    lines = [
        f"Network {setup.inputs}-{HIDDEN}-{CLASSES}, ReLU, softmax cross-entropy, float32, "
        "He's normal start",
        setup.batch_norm and "Batch normalisation of the hidden layer, before ReLU",
        f"{train:,} images for training, {test:,} held out for the test",
        setup.validation
        and f"{len(setup.validation[0]):,} images for validation, once an epoch: stop after "
        f"{setup.patience} without improvement",
        f"{batches:,} mini-batches of {size} images ({setup.batches.size / train:.1f} epochs), "
        f"seed {SEED}",
        "Hyperparameters other than lr have their defaults",
        setup.schedule and f"Learning rates follow the schedule {setup.schedule}",
        f"fastoptim {found['fastoptim']} (levels {found['levels']}, at most {found['threads']} "
        f"threads), NumPy {found['NumPy']}",
    ]
    return "".join(f"{line}\n" for line in lines if line)


def table(results: list[Result]) -> Table:
    """Return the comparison as a table of no more than 80 columns."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    grid.add_column("optimizer", overflow="fold")
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


def early_stops(results: list[Result]) -> str:
    """Return which epoch was the best of each training, of how many."""
    epochs = [
        f"{result.name} {stopping.best_epoch} of {stopping.epochs}"
        for result in results
        if (stopping := result.fastoptim.stopping)
    ]
    return textwrap.fill(f"Best of the epochs run, whose weights are kept: {', '.join(epochs)}", 80)


def save_plot(path: Path, setup: Setup, results: list[Result]) -> None:
    """Draw the loss of each training: NumPy's, dashed, on fastoptim's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for result in results:
        label = f"{result.name}(lr={result.lr})"
        axes.plot(*curve(result.fastoptim.losses), linewidth=3, alpha=0.6, label=label)
        theirs = curve(result.numpy.losses)
        axes.plot(*theirs, linewidth=1, linestyle="dashed", color="black")
    axes.set(
        title="Training loss: fastoptim in colour, NumPy dashed on top",
        xlabel=f"mini-batches of {setup.batches.shape[1]} images",
        ylabel=f"cross-entropy, mean of {BLOCK} mini-batches",
        yscale="log",
    )
    axes.legend()
    with writing("--plot", path):
        figure.savefig(path, format="png", backend="agg", dpi=150)


def curve(losses: list[float]) -> tuple[list[int], list[float]]:
    """Return how many mini-batches were seen, and the mean loss of the last of them."""
    starts = range(0, len(losses), BLOCK)
    blocks = [losses[start : start + BLOCK] for start in starts]
    seen = [start + len(block) for start, block in zip(starts, blocks, strict=True)]
    return seen, [float(np.mean(block)) for block in blocks]
