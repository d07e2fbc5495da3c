"""Two optimizers in two threads, and the same two one after the other."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import fastoptim as fo

ELEMENTS, STEPS = 250_000, 50  # in the caches; a step of less than 10,000 elements keeps the GIL
GROUP = f"2 optimizers, {STEPS} steps of {ELEMENTS:,} elements each"


def stepper():
    g = np.full(ELEMENTS, 0.5, "float32")
    opt = fo.Adam(np.ones_like(g))

    def take_steps():
        with fo.num_threads(1):
            for _ in range(STEPS):
                opt.step(g)

    return take_steps


def test_one_after_the_other(time_it):
    first, second = stepper(), stepper()
    time_it(GROUP, "one after the other", lambda: (first(), second()))


def test_at_the_same_time(time_it):
    both = stepper(), stepper()
    with ThreadPoolExecutor(2) as pool:
        time_it(GROUP, "at the same time", lambda: list(pool.map(lambda steps: steps(), both)))
