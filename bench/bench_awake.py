"""How long an idle worker should stay awake: ``python bench/bench_awake.py``.

A worker that is awake begins the next region at once, but may hold a core that a matrix product
could use. So both are timed, in training loops of matrix products and steps on two threads: with
one region a step, and with two (the norm of the gradients, then the update). All waiting times take
turns of some milliseconds, and what is shown are the lower quartiles, as multiples of those of the
time that is in force. The last two rows have steps on one thread, which need no worker, and none.
"""

from collections.abc import Callable
from functools import partial
from statistics import quantiles

from fastoptim._engine.threads import awake_ns, set_awake_ns
from fastoptim._engine.tuning import fixed
from fastoptim.bench.cases import CASES
from fastoptim.bench.loop import Training, turn_of
from fastoptim.bench.report import environment
from fastoptim.bench.timing import take_turns

MICROSECONDS = (0, 10, 20, 50, 100, 200, 500, 2000)
DEFAULT = awake_ns // 1000
BATCH = 32
NETWORKS = ((784, 128, 10), (784, 512, 512, 10), (784, 1024, 1024, 10))
RULES = ("Adam", "AdamW-clip-EMA")
BUDGET = 20  # seconds a training
Turn = Callable[[int], tuple[float, float]]


def on_two_threads(turn: Turn, microseconds: int, iterations: int) -> tuple[float, float]:
    """Take a turn in which idle workers stay awake for so long."""
    before = set_awake_ns(1000 * microseconds)
    try:
        with fixed(threads=2):
            return turn(iterations)
    finally:
        set_awake_ns(before)


def on_one_thread(turn: Turn, iterations: int) -> tuple[float, float]:
    with fixed(threads=1):
        return turn(iterations)


def compare(training: Training) -> None:
    """Print what each waiting time does to the products, the step and the whole iteration."""
    turn = turn_of(training, "fastoptim")
    turns = {f"{us} us": partial(on_two_threads, turn, us) for us in MICROSECONDS}
    turns |= {"1 thread": partial(on_one_thread, turn), "no step": turn_of(training, None)}
    found = take_turns(turns, BUDGET, pause=0)  # all of them with the same BLAS
    usual = lower_quartiles(found[f"{DEFAULT} us"])
    products, step, _ = (1e6 * seconds for seconds in usual)
    print(f"{training}: products {products:.0f} us, step {step:.0f} us at {DEFAULT} us")
    print(f"{'awake':>10}{'products':>10}{'step':>10}{'both':>10}")
    for name, pairs in found.items():
        ratios = (a / b for a, b in zip(lower_quartiles(pairs), usual, strict=True))
        print(f"{name:>10}" + "".join(f"{ratio:>10.3f}" for ratio in ratios), flush=True)


def lower_quartiles(pairs: list[tuple[float, float]]) -> list[float]:
    """Return those of the products, of the step and of the iteration."""
    parts = (*zip(*pairs, strict=True), [sum(pair) for pair in pairs])
    return [quantiles(seconds, n=4)[0] for seconds in parts]


if __name__ == "__main__":
    print(*(f"{name}: {value}" for name, value in environment().items()), sep="\n")
    for rule in RULES:
        for network in NETWORKS:
            compare(Training(CASES[rule], network, BATCH))
