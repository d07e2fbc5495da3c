"""flush_denormals: tiny numbers are zero inside the loops of a step, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fresh import FORK, needs_fork, output
from zoo import (
    CASE_IDS,
    CASES,
    DTYPES,
    LEVELS,
    OPTIMIZERS,
    assert_same,
    engine,
    name_of,
)

import fastoptim as fo
from fastoptim import _stepper
from fastoptim._engine.entry import Entry, Twin
from fastoptim._engine.machine import can_flush
from fastoptim._engine.plan import Plan
from fastoptim._engine.twins import FloatingPoint
from fastoptim._rule import Fixed
from fastoptim._stages import After, Before

pytestmark = pytest.mark.skipif(not can_flush, reason="the CPU has no such mode")

N = 20_011


def tiny(dtype):
    return np.finfo(dtype).smallest_normal


def numbers(rng, shape, dtype):
    """Return numbers among which are denormal ones, zeros, and some that lead to denormal ones."""
    exponents = rng.choice([-12, -6, -3, -1, 0, 1, 3, 12], shape).astype(dtype)
    near = rng.standard_normal(shape).astype(dtype) * tiny(dtype) * dtype(2) ** exponents
    some = rng.standard_normal(shape) * 10.0 ** rng.integers(-20, 2, shape)
    return np.where(rng.random(shape) < 0.5, near, some).astype(dtype)


def halves(n=N):
    """Return parameters, gradients, and what a step with lr=1 makes of both."""
    return [(np.full(n, d(0.75) * tiny(d)), np.full(n, tiny(d) / 4), tiny(d) / 2) for d in DTYPES]


def denormal(a):
    return (a != 0) & (np.abs(a) < tiny(a.dtype))


def flushes_here():
    """Tell whether the calling thread takes denormal numbers for zero."""
    return [bool((np.full(64, tiny(d)) / d(4) == 0).any()) for d in DTYPES]


def fill(optimizer, seed):
    """Put denormal numbers into all state."""
    rng = np.random.default_rng(seed)
    for arrays in optimizer.state.values():
        for name in sorted(arrays):
            a = arrays[name]
            a[...] = np.abs(numbers(rng, a.shape, a.dtype.type))


OPTIONS = {
    "weight_decay": 0.3,
    "l1": 1e-40,
    "max_grad_value": 1e-39,
    "bounds": (-1.0, 1e-40),
    "ema_decay": 0.9,
    "max_grad_norm": 1.0,
    "mask": [np.arange(n) % 7 > 0 for n in (N, N, 37)],
}


def check_bits(cls, **options):
    rng = np.random.default_rng(41)
    params = [numbers(rng, n, d) for n, d in [(N, np.float32), (N, np.float64), (37, np.float32)]]
    ours, reference = (
        cls([p.copy() for p in params], backend=backend, flush_denormals=True, **options)
        for backend in ("compiled", "reference")
    )
    for optimizer in (ours, reference):
        fill(optimizer, 43)
    for _ in range(3):
        g = [numbers(rng, p.shape, p.dtype.type) for p in params]
        ours.step(g)
        reference.step(g)
        assert_same(ours, reference)
    assert not any(denormal(p).any() for p in ours.param_groups[0]["params"])


@pytest.mark.parametrize(("cls", "chosen"), CASES, ids=CASE_IDS)
def test_same_bits_as_the_reference(cls, chosen):
    with engine(threads=3):
        check_bits(cls, **{**OPTIONS, **chosen})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_same_bits_at_each_level(cls, level):
    with engine(level=level, threads=1):
        check_bits(cls)


def keeps_denormals(backend="compiled"):
    """Tell whether a step without the option, in all threads, computes with denormal numbers."""
    for p, g, expected in halves(3 * N):
        fo.SGD(p, lr=1.0, backend=backend).step(g)
        assert (p == expected).all()
    return True


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_mode_ends_with_the_loops(threads, backend):
    seen = []

    def lr(t):  # asked for in the middle of a step
        seen.append(flushes_here())
        return 1.0

    with engine(threads=threads):
        for p, g, _ in halves():
            fo.SGD(p, lr=lr, flush_denormals=True, max_grad_norm=9.0, backend=backend).step(g)
            assert (p == 0).all()
            assert flushes_here() == [False, False]
            assert keeps_denormals()
    assert seen
    assert not any(map(any, seen))


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_mode_of_the_caller_does_not_matter_and_comes_back(threads, backend):
    both = halves()
    kept = [p.copy() for p, _, _ in both]
    with engine(threads=threads), FloatingPoint(True):
        assert flushes_here() == [True, True]
        for (p, g, _), q in zip(both, kept, strict=True):
            fo.SGD(p, lr=1.0, flush_denormals=True, backend=backend).step(g)
            fo.SGD(q, lr=1.0, backend=backend).step(g)
        assert flushes_here() == [True, True]
    assert flushes_here() == [False, False]
    for (p, _, expected), q in zip(both, kept, strict=True):
        assert (p == 0).all()
        assert (q == expected).all()


def test_the_mode_ends_with_an_error():
    def update(p, g):
        seen.append(flushes_here())
        raise ZeroDivisionError

    seen = []
    plan = Plan([Entry(np.ones(3))], [("p", "g")], [Twin(update)])
    with pytest.raises(ZeroDivisionError):
        plan.step([np.ones(3)], [Fixed((Before(1.0), After(), ()))], flush=True)
    assert seen == [[True, True]]
    assert flushes_here() == [False, False]


WORKERS = """
import os, sys
sys.path.insert(0, {tests!r})
import numpy as np
import fastoptim as fo
from test_denormals import N, engine, halves, keeps_denormals
def work():
    fo.set_num_threads(3)
    with engine(threads=3):
        for p, g, _ in halves(3 * N):
            fo.SGD(p, lr=1.0, flush_denormals=True).step(g)
            assert (p == 0).all()
        keeps_denormals()
"""
HERE = str(Path(__file__).parent)


@needs_fork
def test_workers_of_a_forked_child():
    assert (
        output(FORK + WORKERS.format(tests=HERE) + "work(); print(fork(work))", timeout=60) == "0"
    )


def test_workers_shared_with_the_blas():
    code = """
a = np.ones((300, 300))
try:
    fo.share_blas_threads()
except RuntimeError:
    print("skip")
else:
    for _ in range(5):
        a @ a
        work()
        q = np.full((300, 300), 2.0**-1060)
        assert (q @ np.eye(300) == q).all()
    print("done")
"""
    if output(WORKERS.format(tests=HERE) + code, timeout=60) == "skip":
        pytest.skip("this BLAS does not share its threads")


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("flush", [False, True])
def test_norm_of_denormal_gradients(flush, backend):
    optimizer = fo.SGD(np.ones(3000), max_grad_norm=1.0, flush_denormals=flush, backend=backend)
    optimizer.step(np.full(3000, 2.0**-1060))
    assert (optimizer.grad_norm == 0) == flush


class TestSetting:
    def test_is_off_by_default_and_can_be_switched(self):
        p = np.full(4, 2.0**-1060)
        optimizer = fo.SGD(p, lr=0.0)
        assert optimizer.flush_denormals is False
        optimizer.step(np.zeros(4))
        assert (p == 2.0**-1060).all()
        optimizer.flush_denormals = True
        optimizer.step(np.zeros(4))
        assert (p == 0).all()
        assert optimizer.grad_norm is None

    def test_refused(self, monkeypatch):
        optimizer = fo.SGD(np.ones(1))
        with pytest.raises(TypeError, match="flush_denormals: expected True or False, found 1"):
            optimizer.flush_denormals = 1
        monkeypatch.setattr(_stepper, "can_flush", False)
        with pytest.raises(ValueError, match="flush_denormals: expected False on this CPU"):
            optimizer.flush_denormals = True
        with pytest.raises(ValueError, match="flush_denormals: expected False on this CPU"):
            fo.SGD(np.ones(1), flush_denormals=True)
        assert optimizer.flush_denormals is False

    def test_is_saved_and_a_dict_from_before_it_loads(self):
        saved = fo.SGD(np.ones(1), flush_denormals=True).state_dict()
        optimizer = fo.SGD(np.ones(1))
        optimizer.load_state_dict(saved)
        assert optimizer.flush_denormals is True
        del saved["settings"]["flush_denormals"]
        optimizer.load_state_dict(saved)
        assert optimizer.flush_denormals is False
