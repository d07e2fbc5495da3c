"""scikit-learn: multilayer perceptrons on its bundled digits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Client

# Hidden layers, batch and epochs.
MODELS = (
    ((100,), 200, 40),
    ((512, 512), 32, 4),
    ((1024, 1024), 32, 2),
    ((2048, 2048), 64, 1),
)
# scikit-learn's Adam computes in float64 even where weights and state are float32.
TOLERANCES = {"float64": 1e-10, "float32": 1e-3}


def clients(quick: bool) -> Iterator[Client]:
    """Yield fits of ``MLPClassifier``, with scikit-learn's defaults but for what the model says."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier as Before

    from fastoptim.integrations.sklearn import MLPClassifier as After

    x, y = load_digits(return_X_y=True)
    for dtype, tolerance in TOLERANCES.items():
        for hidden, batch, epochs in MODELS[:2] if quick else MODELS:
            options = {"batch_size": batch, "max_iter": epochs, "random_state": 0}
            before, after = (
                partial(_fit, cls(hidden, **options), x.astype(dtype), y) for cls in (Before, After)
            )
            model = f"MLP {hidden}, batch {batch}, {dtype}"
            yield Client("scikit-learn", model, before, after, tolerance)


def _fit(estimator: Any, x: Any, y: Any) -> tuple[float, NDArray[np.float64]]:
    """Return the seconds of a fit and the loss curve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few epochs do not converge
        start = perf_counter()
        estimator.fit(x, y)
        return perf_counter() - start, np.array(estimator.loss_curve_)
