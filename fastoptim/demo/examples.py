"""The small worked examples that people learn these methods from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastoptim._optimizer import Optimizer
from fastoptim.optimizers import SGD, Adagrad, Adam, Momentum, RMSprop

Array = NDArray[np.float64]

SEED = 0
STEPS = 300


def descend(
    method: type[Optimizer], lr: float, gradient: Callable[[Array], Array], start: Array
) -> Array:
    """Return where a method arrives from a start, given the gradient of a function."""
    x = start.copy()
    optimizer = method(x, lr=lr)
    for _ in range(STEPS):
        optimizer.step(gradient(x))
    return x


def quadratic() -> None:
    """Minimise x^2 from a random start with each method."""
    start = np.random.default_rng(SEED).uniform(-10, 10, size=1)
    learning_rates = {SGD: 0.1, Momentum: 0.1, RMSprop: 0.05, Adagrad: 1.0, Adam: 0.2}
    print(f"Minimise f(x) = x^2 from x = {start[0]:.6f}: {STEPS} steps along f'(x) = 2 x\n")
    print(f"{'method':20}{'x':>11}{'f(x)':>11}")
    for method, lr in learning_rates.items():
        x = descend(method, lr, lambda x: 2 * x, start)[0]
        print(f"{f'{method.__name__}(lr={lr})':20}{x:11.2e}{x**2:11.2e}")


def regression() -> None:
    """Fit y = 3 x0 + 2 x1 + noise by gradient descent and by momentum."""
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((100, 2))
    y = x @ [3.0, 2.0] + 0.1 * rng.standard_normal(100)

    def gradient(w: Array) -> Array:
        """Return the gradient of the mean squared error."""
        return 2 / len(y) * x.T @ (x @ w - y)

    start = rng.standard_normal(2)
    fits = {
        "start": start,
        "gradient descent, SGD(lr=0.1)": descend(SGD, 0.1, gradient, start),
        "momentum, Momentum(lr=0.1)": descend(Momentum, 0.1, gradient, start),
        "least squares, np.linalg.lstsq": np.linalg.lstsq(x, y)[0],
    }
    print(f"Fit y = 3 x0 + 2 x1 + noise to {len(y)} points: {STEPS} steps, mean squared error\n")
    print(f"{'method':32}{'w0':>10}{'w1':>10}")
    for method, (w0, w1) in fits.items():
        print(f"{method:32}{w0:10.6f}{w1:10.6f}")


EXAMPLES = {"quadratic": quadratic, "regression": regression}
