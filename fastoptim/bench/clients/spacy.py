"""spaCy: its default text classifier, on sentences made of random words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Client

LABELS, WORDS, LENGTH, BATCH = 4, 2000, 20, 32
EPOCHS, BATCHES = 3, 8
TOLERANCE = 1e-2  # of the losses: as with thinc, whose optimizer it is


def clients(quick: bool) -> Iterator[Client]:
    """Yield a training by the optimizers that a config file names."""
    before, after = (
        partial(_train, name, 1 if quick else EPOCHS) for name in ("Adam.v1", "fastoptim.Adam.v1")
    )
    yield Client("spaCy", f"Adam, textcat, batch {BATCH}", before, after, TOLERANCE)


def _train(optimizer: str, epochs: int) -> tuple[float, NDArray[np.float64]]:
    """Return the seconds of the steps and the losses of all batches."""
    import spacy
    from spacy.util import registry
    from thinc.api import fix_random_seed

    fix_random_seed(0)
    config = {"optimizer": {"@optimizers": optimizer, "learn_rate": 0.001}}
    sgd = registry.resolve(config)["optimizer"]
    nlp = spacy.blank("en")
    nlp.add_pipe("textcat")
    examples = list(_examples(nlp))
    nlp.initialize(lambda: examples)
    losses = []
    start = perf_counter()
    for _ in range(epochs):
        for k in range(BATCHES):
            batch = examples[k * BATCH : (k + 1) * BATCH]
            losses.append(nlp.update(batch, sgd=sgd, drop=0.0)["textcat"])
    return perf_counter() - start, np.array(losses)


def _examples(nlp: Any) -> Iterator[Any]:
    """Yield sentences whose label is that of the part of the vocabulary most words are from."""
    from spacy.training import Example

    rng = np.random.default_rng(0)
    for i in range(BATCHES * BATCH):
        label = i % LABELS
        numbers = rng.integers(0, WORDS, LENGTH)
        numbers[: LENGTH // 2] = numbers[: LENGTH // 2] // LABELS * LABELS + label
        doc = nlp.make_doc(" ".join(f"word{n}" for n in numbers))
        yield Example.from_dict(doc, {"cats": {str(k): float(k == label) for k in range(LABELS)}})
