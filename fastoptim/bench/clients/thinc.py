"""thinc: networks of ReLU layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Client

INPUTS, CLASSES, BATCH = 784, 10, 32
BLIS, NUMPY = "BLIS", "NumPy"  # whose matrix products: by default BLIS's, on one thread
# The optimizer, the widths of the hidden layers, and the products.
MODELS = (
    ("Adam", (128,), BLIS),
    ("Adam", (1024, 1024), BLIS),
    ("Adam", (1024, 1024), NUMPY),
    ("RAdam", (1024, 1024), NUMPY),
)
STEPS = 30
# thinc's 1 - beta2 has five digits in float32, and what is lost grows as the network learns.
TOLERANCE = 1e-2


def clients(quick: bool) -> Iterator[Client]:
    """Yield trainings with thinc's defaults but for what the model says."""
    from thinc import optimizers as theirs

    from fastoptim.integrations import thinc as ours

    for name, hidden, products in MODELS[:1] if quick else MODELS:
        before, after = (
            partial(_train, getattr(m, name), hidden, products) for m in (theirs, ours)
        )
        model = f"{name}, {hidden}, batch {BATCH}, {products}"
        yield Client("thinc", model, before, after, TOLERANCE)


def _train(
    optimizer_of: Any, hidden: tuple[int, ...], products: str
) -> tuple[float, NDArray[np.float64]]:
    """Return the seconds of the steps, on noise that no network can learn, and their losses."""
    from thinc.api import Relu, Softmax, chain, fix_random_seed, use_ops

    fix_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.random((STEPS, BATCH, INPUTS), np.float32)
    y = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, (STEPS, BATCH))]
    with use_ops("numpy", use_blis=products == BLIS):  # which the layers keep
        model = chain(*map(Relu, hidden), Softmax()).initialize(x[0], y[0])
    optimizer, losses = optimizer_of(0.001), []
    start = perf_counter()
    for inputs, truth in zip(x, y, strict=True):
        found, backpropagate = model.begin_update(inputs)
        gradient = (found - truth) / BATCH
        losses.append(np.square(gradient).sum(dtype=np.float64))
        backpropagate(gradient)
        model.finish_update(optimizer)
    return perf_counter() - start, np.array(losses)
