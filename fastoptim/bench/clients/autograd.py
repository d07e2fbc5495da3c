"""autograd: multilayer perceptrons on noise, by the optimizers of autograd.misc.optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Client

# The optimizer, the widths, the batch and the steps.
MODELS = (
    ("adam", (64, 100, 10), 32, 300),
    ("adam", (784, 200, 100, 10), 256, 60),
    ("sgd", (784, 512, 512, 10), 32, 60),
    ("adam", (784, 512, 512, 10), 32, 60),
    ("adam", (784, 1024, 1024, 10), 32, 20),
)
TOLERANCE = 1e-6  # rounding, after some dozens of steps


def clients(quick: bool) -> Iterator[Client]:
    """Yield trainings in float64, with autograd's defaults but for what the model says."""
    from autograd.misc import optimizers as before

    from fastoptim.integrations import autograd as after

    for name, widths, batch, steps in MODELS[:2] if quick else MODELS:
        ours, theirs = (
            partial(_train, getattr(m, name), widths, batch, steps) for m in (after, before)
        )
        model = f"{name}, {'-'.join(map(str, widths))}, batch {batch}"
        yield Client("autograd", model, theirs, ours, TOLERANCE)


def _train(
    optimize: Any, widths: tuple[int, ...], batch: int, steps: int
) -> tuple[float, NDArray[np.float64]]:
    """Return the seconds of a training, and the weights that it ends with."""
    import autograd.numpy as anp
    from autograd import grad
    from autograd.misc import flatten

    rng = np.random.default_rng(0)
    start = [(rng.standard_normal((m, n)) / np.sqrt(m), np.zeros(n)) for m, n in pairwise(widths)]
    x = rng.standard_normal((8, batch, widths[0]))
    y = np.eye(widths[-1])[rng.integers(0, widths[-1], (8, batch))]

    def loss(params: Any, i: int) -> Any:
        *hidden, (w, b) = params
        h = x[i % len(x)]
        for v, c in hidden:
            h = anp.tanh(anp.dot(h, v) + c)
        scores = anp.dot(h, w) + b
        chosen = anp.sum(scores * y[i % len(y)], axis=1)
        return anp.mean(anp.log(anp.sum(anp.exp(scores), axis=1)) - chosen)

    gradient = grad(loss)
    began = perf_counter()
    found = optimize(gradient, start, num_iters=steps)
    return perf_counter() - began, flatten(found)[0]
