"""Promise 5: a step allocates nothing that grows with the parameters, and lets others compute."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from zoo import DTYPES, OPTIMIZERS, name_of

import fastoptim as fo

SHAPE = (400, 1000)
SMALL = 50_000  # bytes, of a gradient of at least 1,600,000
AROUND = {"max_grad_norm": 1.0, "ema_decay": 0.9, "bounds": (-2, 2), "nonfinite": "skip"}
LAYOUTS = {
    "C": lambda g: g,
    "Fortran": np.asfortranarray,
    "reversed": lambda g: g[::-1, ::-1],
    "every second": lambda g: np.repeat(g, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("around", [{}, AROUND], ids=["plain", "with options"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_a_step_allocates_nothing_that_grows(cls, dtype, around):
    p = np.ones(SHAPE, dtype)
    opt = cls(p, lr=0.01, **around)
    grads = [make(np.full(SHAPE, 0.1, dtype)) for make in LAYOUTS.values()]
    for g in grads:
        opt.step(g)
    tracemalloc.start()
    try:
        peaks = []
        for g in grads:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            opt.step(g)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert max(peaks) < SMALL, dict(zip(LAYOUTS, peaks, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_leaves_the_gil_to_others(threads):
    """Nobody else would get it meanwhile: Python takes it from no thread before an hour."""
    p, g = np.ones(4_000_000), np.ones(4_000_000)
    opt = fo.Adam(p)
    opt.step(g)
    found = []

    def look():
        while not found:
            time.sleep(0)  # lets others in
            if opt._plan.in_use:
                found.append(True)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    other = threading.Thread(target=look)
    try:
        with fo.num_threads(threads):
            other.start()
            for _ in range(100):
                opt.step(g)
                if found:
                    break
    finally:
        sys.setswitchinterval(interval)
        seen = bool(found)
        found.append(False)
        other.join()
    assert seen
