"""What denormal numbers cost: Adam, whose m decays into them while the gradients are zero."""

import numpy as np
import pytest

import fastoptim as fo

ELEMENTS, REAL_STEPS = 100_000, 10


@pytest.mark.parametrize("flush", [False, True], ids=["as they are", "flushed"])
@pytest.mark.parametrize("zero_steps", [0, 1_000, 2_000])
def test_step(time_it, zero_steps, flush):
    g = np.random.default_rng(0).standard_normal(ELEMENTS, np.float32)
    zeros = np.zeros_like(g)
    opt = fo.Adam(np.ones_like(g), flush_denormals=flush)
    with fo.num_threads(1):
        for k in range(REAL_STEPS + zero_steps):
            opt.step(g if k < REAL_STEPS else zeros)
        group = f"{ELEMENTS:,} elements, {zero_steps:,} gradients of zero"
        time_it(group, "flush_denormals" if flush else "by default", opt.step, zeros)
