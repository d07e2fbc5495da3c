"""The images that the demo learns from: those of ``DIGITS.md``, or MNIST."""

from __future__ import annotations

import gzip
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastoptim.cli import CommandError, reason

SEED = 1
CLASSES = 10
HELD_OUT = 360  # for the test, of the 1,797 images that come with fastoptim
VALIDATION = 0.1  # the share of the images for training that early stopping holds out
WHITE = 16  # the value of a white pixel in the images that come with fastoptim
# MNIST as Keras stores it
KEYS = ("x_train", "y_train", "x_test", "y_test")
MNIST_SIDE, MNIST_WHITE = 28, 255

Array = NDArray[Any]


class Digits(NamedTuple):
    """Images, as rows of numbers from 0 to 1, and the digits that they show."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


def load_digits() -> Digits:
    """Return the images that come with fastoptim, some of them held out."""
    images, labels = read_digits()
    order = np.random.default_rng(SEED).permutation(len(labels))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(images[train], labels[train], images[test], labels[test])


def read_digits() -> tuple[Array, Array]:
    """Return the images of ``digits.csv.gz``, and the digits that they show."""
    packed = files(__package__).joinpath("digits.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    rows = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    return scaled(rows[:, :-1], WHITE), rows[:, -1].astype(np.intp)


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
    return Digits(scaled(x_train, MNIST_WHITE), y_train, scaled(x_test, MNIST_WHITE), y_test)


def read_npz(path: Path) -> dict[str, Array]:
    """Return the arrays of a file in Keras's layout; their contents are not checked yet."""
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
    """Raise if an array does not hold images of MNIST."""
    side = MNIST_SIDE
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (side, side):
        raise ValueError(
            f"{name}: expected images, uint8 of shape (N, {side}, {side}), "
            f"found {images.dtype} of shape {images.shape}"
        )
    if not len(images):
        raise ValueError(f"{name}: expected at least one image, found none")


def check_labels(name: str, labels: Array, count: int) -> None:
    """Raise if an array does not hold a digit for each of `count` images."""
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


def scaled(pixels: Array, white: int) -> Array:
    """Return images as rows of float32 from 0 to 1."""
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(white)


def hold_out(digits: Digits) -> tuple[Digits, tuple[Array, Array]]:
    """Return the images without some of those for training, and these with their labels.

    They are drawn at random, because a file may have its images in any order.
    """
    order = np.random.default_rng(SEED).permutation(len(digits.x_train))
    count = max(1, round(VALIDATION * len(order)))
    held, left = order[:count], order[count:]
    train = digits._replace(x_train=digits.x_train[left], y_train=digits.y_train[left])
    return train, (digits.x_train[held], digits.y_train[held])
