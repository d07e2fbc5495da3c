"""A gradient in another layout: its step, a plain step, and a copy with a plain step."""

from collections.abc import Callable

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.typing import Array

SHAPES = [(784, 128), (1000, 1000), (4000, 4000), (64, 64, 3, 3), (512, 256, 3, 3), (100, 200, 300)]
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "Fortran": np.asfortranarray,
    "last two axes": lambda g: g.swapaxes(-1, -2).copy().swapaxes(-1, -2),
    "every second": lambda g: np.repeat(g, 2, axis=-1)[..., ::2],
    "reversed rows": lambda g: g[::-1].copy()[::-1],
    "broadcast": lambda g: np.broadcast_to(g[:1], g.shape),
}


@pytest.mark.parametrize("contender", ["plain", "in place", "copied"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_step(time_it, shape, dtype, layout, contender):
    g = np.full(shape, 1e-3, dtype)
    other = LAYOUTS[layout](g)
    opt = fo.Adam(np.ones_like(g))
    steps = {
        "plain": lambda: opt.step(g),
        "in place": lambda: opt.step(other),
        "copied": lambda: opt.step(np.array(other, order="C")),
    }
    time_it(f"Adam, {layout}, {shape}, {dtype}", contender, steps[contender])
