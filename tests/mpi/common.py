"""What the programs of these tests share: sums by hand, comparisons, and cases of every kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

import fastoptim as fo

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.rank, WORLD.size
PATIENCE = 20.0  # seconds that a rank waits for another, at the most


def same_bits(a: Any, b: Any) -> bool:
    """Tell whether two arrays hold the same bits, where any NaN is as good as any other."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(np.all((a == b) & (np.signbit(a) == np.signbit(b)) | np.isnan(a) & np.isnan(b)))


def tree(leaves: Sequence[Any]) -> Any:
    """Return the sum of some arrays in pairs of neighbours, pairs of pairs, and so on."""
    with np.errstate(all="ignore"):
        while len(leaves) > 1:
            pairs = [leaves[i : i + 2] for i in range(0, len(leaves), 2)]
            leaves = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return np.asarray(leaves[0])


def summed(grads: Sequence[Sequence[Any]], like: Sequence[Any]) -> list[Any]:
    """Return the sums of the gradients of several ranks, each as its parameter is stored."""
    found = []
    for i, p in enumerate(like):
        leaves = [of_rank[i] for of_rank in grads]
        with np.errstate(all="ignore"):
            found.append(
                None
                if leaves[0] is None
                else tree([np.asarray(g, p.dtype).reshape(p.shape) for g in leaves])
            )
    return found


def flat(p: Any, array: Any) -> Any:
    """Return the elements of an array in the order in which a parameter lies in memory."""
    axes = sorted(range(p.ndim), key=lambda axis: -p.strides[axis])
    return np.transpose(array, axes).reshape(-1)


def assert_same(opt: Any, params: Sequence[Any], one: fo.Optimizer, its: Sequence[Any]) -> None:
    """Assert that this rank has what one process has: parameters, its part of the state, counts."""
    for i, (p, q) in enumerate(zip(params, its, strict=True)):
        assert same_bits(p, q), f"params[{i}]"
    assert opt.state.keys() == one.state.keys()
    for (key, state), p in zip(one.state.items(), its, strict=True):
        start, stop = opt.ranges[key]
        assert opt.state[key].keys() == state.keys()
        for name, array in state.items():
            assert same_bits(opt.state[key][name], flat(p, array)[start:stop]), (key, name)
    assert dict(opt.steps) == dict(one.steps)
    assert opt._plan.numbers == one._plan.numbers
    assert opt.skipped_steps == one.skipped_steps
    assert opt.grad_norm == one.grad_norm or np.isnan([opt.grad_norm, one.grad_norm]).all()


def error_of(call: Callable[..., Any], *arguments: Any, **named: Any) -> BaseException:
    """Return the error that a call raises."""
    try:
        call(*arguments, **named)
    except BaseException as error:
        return error
    raise AssertionError("expected an error, found none")


SHAPES: list[tuple[int, ...]] = [(), (3,), (0, 4), (33, 70), (2048,), (4097,), (2, 61, 40)]


def parameters(seed: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    """Return parameters in both types and several layouts, with odd numbers among them."""
    rng = np.random.default_rng(seed)
    found = []
    for i, shape in enumerate(shapes):
        p = odd(rng, shape, np.float32 if i % 2 else np.float64)
        if p.ndim > 1 and i % 3 == 0:
            p = np.asfortranarray(p)
        if p.ndim == 3:
            p = np.ascontiguousarray(p.transpose(1, 2, 0)).transpose(2, 0, 1)
        found.append(p)
    return found


def odd(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return numbers of many magnitudes, with zeros of both signs and denormals."""
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 3, shape)
    x = np.where(rng.random(shape) < 0.05, 0.0, x)
    x = np.where(rng.random(shape) < 0.05, -0.0, x)
    x = np.where(rng.random(shape) < 0.02, 1e-41, x)
    return x.astype(dtype)


def gradients(seed: int, rank: int, params: Sequence[Any], missing: bool = True) -> list[Any]:
    """Return the gradients of a rank, in other layouts, some of them None on all ranks."""
    rng = np.random.default_rng([seed, rank])
    found: list[Any] = []
    for i, p in enumerate(params):
        g = odd(rng, p.shape, p.dtype)
        if p.ndim > 1 and (seed + rank) % 2:
            g = np.asfortranarray(g)
        if p.ndim == 1 and p.size and (seed + i) % 3 == 0:
            g = np.repeat(g, 2)[::2]
        found.append(None if missing and (seed + i) % 5 == 0 else g)
    return found


def cases() -> Iterator[tuple[str, Callable[..., fo.Optimizer], dict[str, Any]]]:
    """Yield every rule with a few combinations of options."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from zoo import PAIRS, name_of  # which takes a second

    for cls, chosen in PAIRS:
        yield f"{name_of(cls)}-{name_of(chosen)}", cls, chosen
