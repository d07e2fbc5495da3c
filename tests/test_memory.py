"""Memory: steps, and optimizers that come and go, leave a process no larger than they found it.

Each runs in a process of its own, so that what other tests left behind does not blur the figures.
"""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fresh import output
from zoo import engine

import fastoptim as fo
from fastoptim.bench.loop import can_share

STATM = Path("/proc/self/statm")
PAGE = 4096
SMALL = 512  # bytes; blocks up to this size are those that Python counts
SHAPE = (50, 50)  # 10 or 20 KB, a thousand of which would show among all memory

pytestmark = pytest.mark.skipif(not STATM.exists(), reason="reads the resident size from /proc")

rng = np.random.default_rng(0)
P = {"w": rng.standard_normal(SHAPE), "b": rng.standard_normal(SHAPE).astype(np.float32)}
G = {name: rng.standard_normal(p.shape).astype(p.dtype) for name, p in P.items()}
BAD = {"w": G["w"], "b": G["b"] * np.nan}


def params() -> dict[str, np.ndarray]:
    return {name: p.copy() for name, p in P.items()}


def refused(error: type[Exception], call: Callable, *args, **kwargs) -> None:
    with pytest.raises(error):
        call(*args, **kwargs)


def stepped() -> None:
    opt = fo.Adam(params())
    for grads in (G, {"w": G["w"], "b": None}):
        opt.step(grads)


def options() -> None:
    opt = fo.AdamW(
        params(),
        lr=fo.schedules.CosineAnnealing(1e-3, T_max=100),
        mask=fo.prune.magnitude(P, 0.5),
        bounds=(-1.0, 1.0),
        max_grad_norm=1.0,
        max_grad_value=0.5,
        l1=0.1,
        nonfinite="skip",
        amsgrad=True,
    )
    opt.step(G, grad_scale=2.0)
    opt.step(BAD)
    assert opt.skipped_steps == 1


def average() -> None:
    opt = fo.SGD(params(), lr=0.1, momentum=0.9, ema_decay=0.9)
    opt.step(G)
    with opt.use_ema():
        refused(RuntimeError, opt.step, G)
    opt.ema_decay = None
    opt.step(G)


def trust_ratio() -> None:
    fo.LAMB(params()).step(G)


def other_layouts() -> None:
    fo.Adam(params()).step({name: np.asfortranarray(g) for name, g in G.items()})


def reference() -> None:
    fo.LAMB(params(), backend="reference", max_grad_norm=1.0).step(G)


def saved_and_loaded() -> None:
    opt, other = fo.Adam(params()), fo.Adam(params())
    opt.step(G)
    state = opt.state_dict()
    other.load_state_dict(state)
    del state["state"]["b"]["v"]
    refused(ValueError, other.load_state_dict, state)


def groups() -> None:
    opt = fo.RMSprop([{"params": params(), "lr": 0.1}])
    opt.step(G)
    opt.add_param_group({"params": [np.ones(SHAPE)], "momentum": 0.9})
    refused(TypeError, opt.add_param_group, {"params": [np.ones(SHAPE, int)]})
    opt.step([G, [G["w"]]])


def refused_construction() -> None:
    p = params()
    refused(ValueError, fo.Adam, [p["w"], p["b"], p["b"][:5]])  # found when all is laid out
    refused(ValueError, fo.Adam, p, mask={"w": np.ones(3, bool), "b": None})
    refused(ValueError, fo.Adam, p, lr=-1.0)


def refused_step() -> None:
    p = params()
    opt = fo.Adam(p, nonfinite="raise")
    refused(ValueError, opt.step, {"w": G["w"], "b": G["b"][:5]})
    refused(TypeError, opt.step, {"w": G["w"], "b": G["w"]})
    refused(ValueError, opt.step, {"w": G["w"].T, "b": p["b"].T})
    refused(FloatingPointError, opt.step, BAD)


def functions() -> None:
    p, g = P["w"].copy(), G["w"].T
    fo.functional.adam(p, g, np.zeros_like(p), np.zeros_like(p), step=1)
    refused(ValueError, fo.functional.sgd, p, g[1:], None, step=1)


def gradients() -> None:
    grads = {name: g.copy() for name, g in G.items()}
    fo.clip_grad_norm_(grads, 1.0)
    fo.clip_grad_value_(grads, 0.1)
    refused(TypeError, fo.clip_grad_norm_, [G["w"], [1.0]], 1.0)
    assert fo.all_finite(grads)


def two_threads() -> None:
    with engine(threads=2):
        stepped()


def shared_threads() -> None:
    with fo.share_blas_threads(), engine(threads=2):
        stepped()
        assert (G["w"] @ P["w"]).shape == SHAPE


CYCLES = [
    stepped,
    options,
    average,
    trust_ratio,
    other_layouts,
    reference,
    saved_and_loaded,
    groups,
    refused_construction,
    refused_step,
    functions,
    gradients,
    two_threads,
    pytest.param(
        shared_threads,
        marks=pytest.mark.skipif(not can_share(), reason="NumPy's BLAS cannot share its threads"),
    ),
]


def memory() -> np.ndarray:
    """Return the bytes of this process in RAM, and the number of its small blocks of memory.

    Python counts the blocks of up to 512 bytes that its objects and the engine's tables take. What
    is larger shows in RAM when it is lost a thousand times.
    """
    gc.collect()
    return np.array([int(STATM.read_text().split()[1]) * PAGE, sys.getallocatedblocks()])


def growth(work: Callable[[], None], times: int) -> np.ndarray:
    for _ in range(times // 2):  # workers start, and caches fill
        work()
    before = memory()
    for _ in range(times):
        work()
    return memory() - before


def small_steps() -> Callable[[], None]:
    """Return a step with a gradient that is new each time, of each kind in turn."""
    p = np.ones(64)
    g = np.full((64, 2), 0.1)
    opts = [fo.Adam(p), fo.SGD(p.copy(), momentum=0.9, max_grad_norm=1.0, ema_decay=0.9)]
    turns = itertools.cycle([(opts[0], slice(0, 1)), (opts[1], slice(1, 2))])

    def work() -> None:
        opt, column = next(turns)
        opt.step(g[:, column].reshape(64))

    return work


def of_a_fresh_process(call: str) -> list[int]:
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
    code += f"from test_memory import *; print(*{call})"
    # the records of a measurement of coverage would grow
    return [int(n) for n in output(code, COVERAGE_PROCESS_CONFIG=None).split()]


def test_a_million_small_steps():
    steps = 1_000_000
    grown, blocks = of_a_fresh_process(f"growth(small_steps(), {steps})")
    assert grown < steps
    assert blocks < steps / 1000


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.__name__)
def test_a_thousand_optimizers_come_and_go(cycle):
    cycles = 1000
    grown, blocks = of_a_fresh_process(f"growth({cycle.__name__}, {cycles})")
    assert grown < cycles * SMALL
    assert blocks < cycles / 2


def test_a_dropped_optimizer_frees_its_memory_at_once():
    gc.collect()
    gc.disable()
    try:
        opt = fo.Adam(params(), ema_decay=0.9)
        opt.step(G)
        state = weakref.ref(opt.state["w"]["m"].base)
        del opt
        assert state() is None
    finally:
        gc.enable()
