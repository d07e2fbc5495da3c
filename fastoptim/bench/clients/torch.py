"""torch: a transformer, its gradients clipped by their norm and its parameters averaged.

Each run is a process of its own, in which no other library's threads compute.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import Client

MAX_NORM, DECAY, LR = 1.0, 0.999, 1e-3
TOLERANCE = 1e-3  # of the losses: float32, after a dozen steps
CODE = "import torch; from fastoptim.bench.clients import torch as t; t.child(*{!r})"


class Model(NamedTuple):
    """A transformer that is trained on noise."""

    layers: int
    width: int
    batch: int
    steps: int
    heads: int = 8
    length: int = 64
    tokens: int = 256


LARGE, SMALL = Model(6, 368, 4, 12), Model(6, 64, 4, 40)
PARTS = ("optimizer", "whole step")


def clients(quick: bool) -> Iterator[Client]:
    """Yield the transformers, each with the optimizer's part of a step and the whole one."""
    for model in (SMALL,) if quick else (SMALL, LARGE):
        for part, name in enumerate(PARTS):
            before, after = (partial(_run, who, model, part) for who in ("torch", "fastoptim"))
            size = {SMALL: "0.33", LARGE: "10"}[model]
            yield Client("torch", f"transformer, {size}M, {name}", before, after, TOLERANCE)


def _run(who: str, model: Model, part: int) -> tuple[float, NDArray[np.float64]]:
    """Return the median seconds of a part of a step, and the losses."""
    code = CODE.format((who, *model))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"a process of its own ended with status {done.returncode}: {last}")
    seconds, losses = json.loads(done.stdout)
    return median(s[part] for s in seconds), np.array(losses)


def child(who: str, *model: int) -> None:
    """Train, and print the seconds of the parts of all steps but the first two, and the losses."""
    seconds, losses = train(who, Model(*model))
    print(json.dumps([seconds[2:], losses]))


def train(who: str, model: Model) -> tuple[list[tuple[float, float]], list[float]]:
    """Return the seconds of the optimizer's part and of the whole of each step, and the losses."""
    import torch

    torch.manual_seed(0)
    embedding = torch.nn.Embedding(model.tokens, model.width)
    layer = torch.nn.TransformerEncoderLayer(
        model.width, model.heads, 4 * model.width, dropout=0, batch_first=True, norm_first=True
    )
    encoder = torch.nn.TransformerEncoder(layer, model.layers, enable_nested_tensor=False)
    head = torch.nn.Linear(model.width, model.tokens)
    network = torch.nn.Sequential(embedding, encoder, head)
    params = list(network.parameters())
    x = torch.randint(model.tokens, (model.batch, model.length))
    update = UPDATES[who](torch, params)
    seconds, losses = [], []
    for _ in range(model.steps):
        start = perf_counter()
        for p in params:
            p.grad = None
        loss = torch.nn.functional.cross_entropy(network(x).flatten(0, 1), x.flatten())
        loss.backward()
        middle = perf_counter()
        update()
        end = perf_counter()
        seconds.append((end - middle, end - start))
        losses.append(loss.item())
    return seconds, losses


def _with_torch(torch: Any, params: list[Any]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(params, lr=LR, fused=True)
    averages = [p.detach().clone() for p in params]
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()
        average(averages, params, None)

    return update


def _with_fastoptim(torch: Any, params: list[Any]) -> Callable[[], None]:
    from fastoptim.integrations.torch import AdamW

    step: Callable[[], None] = AdamW(params, lr=LR, max_grad_norm=MAX_NORM, ema_decay=DECAY).step
    return step


UPDATES = {"torch": _with_torch, "fastoptim": _with_fastoptim}
