"""What the tests are run over: every optimizer, every option, every level, every ugly array."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from fresh import OPENMP

import fastoptim as fo
from fastoptim import _levels, optimizers
from fastoptim._engine import compiled
from fastoptim._engine.threads import set_grain, set_limit, set_openmp
from fastoptim._kinds import Choice, Flag, Real
from fastoptim.threads import share_openmp_workers

OPTIMIZERS = [getattr(optimizers, name) for name in optimizers.__all__]
# A function has nowhere to keep numbers of the steps that were taken.
WITH_FUNCTIONS = [cls for cls in OPTIMIZERS if not cls.rule.numbers]
DTYPES = [np.float32, np.float64]
LEVELS = _levels.available()
TILE, TASK = compiled.tile_size, compiled.task_size

# 0 to 65 hold every count of lanes and every tail up to AVX-512 float32, four vectors deep; then
# the edges of tiles and tasks, and a size with an odd tail that several threads share.
EDGES = [n + d for n in (128, 256, TILE, 4096, TASK, 2 * TASK) for d in (-1, 0, 1)]
SIZES = [*range(66), *EDGES, 100_003]


def hyperparameters(cls: type[fo.Optimizer]) -> dict[str, Any]:
    """Return the hyperparameters of a class's signature, with their defaults."""
    parameters = inspect.signature(cls).parameters
    return {name: parameters[name].default for name in cls.rule.kinds if name in parameters}


# What every optimizer understands, beside its own hyperparameters.
COMMON: dict[str, list[Any]] = {
    "weight_decay": [0.0, 0.3],
    "l1": [0.0, 0.2],
    "max_grad_value": [None, 0.5],
    "max_param_grad_norm": [None, 0.75],
    "maximize": [False, True],
    "bounds": [None, (-0.75, 1.5)],
    "ema_decay": [None, 0.9],
    "max_grad_norm": [None, 1.0],
    "nonfinite": ["ignore", "skip"],
    "flush_denormals": [False, True],
    "cast_grads": [False, True],
}

# Where the default leaves a part of the rule unused in the few steps of a test.
MORE: dict[str, list[Any]] = {
    "t0": [1e6, 2.0],
    "warmup_steps": [0.0, 3.0],
    "step_sizes": [(1e-6, 50.0), (0.009, 0.011)],
}


def values_of(cls: type[fo.Optimizer]) -> dict[str, list[Any]]:
    """Return the values to try of a class's own options: flags on and off, words, zero and not."""
    values: dict[str, list[Any]] = {}
    for name, default in hyperparameters(cls).items():
        kind = cls.rule.kinds[name]
        if name in MORE:
            values[name] = MORE[name]
        elif isinstance(kind, Flag):
            values[name] = [False, True]
        elif isinstance(kind, Choice):
            values[name] = list(kind.words)
        elif isinstance(kind, Real) and (default == 0 or fills_state(cls, name)):
            values[name] = [default, 0.3]
    return values


def fills_state(cls: type[fo.Optimizer], name: str) -> bool:
    """Tell whether state starts from a hyperparameter that is there for nothing else."""
    return name in cls.rule.starts.values() and name != "lr"


def options(cls: type[fo.Optimizer]) -> list[dict[str, Any]]:
    """Return every combination of the options in a class's signature."""
    values = values_of(cls)
    combinations = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    return [chosen for chosen in combinations if is_allowed(cls, chosen)]


def pairs(cls: type[fo.Optimizer]) -> list[dict[str, Any]]:
    """Return a few combinations of own and common options in which each two values meet."""
    own = [{k: v for k, v in chosen.items() if k not in COMMON} for chosen in options(cls)]
    singles = {item for chosen in own for item in chosen.items()}
    common = {(name, value) for name, values in COMMON.items() for value in values}
    missing = set().union(*(couples(chosen.items()) for chosen in own))
    missing |= {frozenset(couple) for couple in itertools.product(singles, common)}
    missing |= {couple for couple in couples(common) if len(dict(couple)) == 2}
    rng, found = random.Random(1), []
    while missing:
        drawn = [
            {**rng.choice(own), **{name: rng.choice(values) for name, values in COMMON.items()}}
            for _ in range(30)
        ]
        best = max(drawn, key=lambda chosen: len(couples(chosen.items()) & missing))
        if couples(best.items()) & missing:
            found.append(best)
            missing -= couples(best.items())
    return found


def couples(items: Iterable[tuple[str, Any]]) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(couple) for couple in itertools.combinations(items, 2)}


def is_allowed(cls: type[fo.Optimizer], chosen: dict[str, Any]) -> bool:
    try:
        cls(np.zeros(1), backend="reference", **chosen)  # the rule may have no loop yet
    except ValueError:
        return False
    return True


def name_of(value: Any) -> str:
    """Return a readable test id."""
    if isinstance(value, dict):
        given = [
            f"{k}={v}"
            for k, v in value.items()
            if v is not False and str(v) not in ("0.0", "None", "ignore")
        ]
        return ",".join(given) or "plain"
    return getattr(value, "__name__", str(value))


CASES = [(cls, chosen) for cls in OPTIMIZERS for chosen in options(cls)]
CASE_IDS = [f"{name_of(cls)}-{name_of(chosen)}" for cls, chosen in CASES]
PAIRS = [(cls, chosen) for cls in OPTIMIZERS for chosen in pairs(cls)]
PAIR_IDS = [f"{name_of(cls)}-{name_of(chosen)}" for cls, chosen in PAIRS]


@contextmanager
def engine(
    level: str | None = None, threads: int | None = None, openmp: bool = False
) -> Iterator[None]:
    """Run on a level and a number of threads, OpenMP's (if it is here) or ours, however small."""
    loops, grain, limit = (
        _levels.loops,
        set_grain(1),
        set_limit(threads or 0),
    )
    workers = set_openmp(False, False)
    if openmp and OPENMP:
        share_openmp_workers(OPENMP)
    try:
        if level is not None:
            _levels.loops = _levels.load(level)
        yield
    finally:
        _levels.loops = loops
        set_openmp(*workers)
        set_limit(limit)
        set_grain(grain)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two arrays hold the same bits, where any NaN is as good as any other."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    bits = np.dtype(f"u{a.itemsize}")
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return bool(np.all((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))))


def assert_same(ours: fo.Optimizer, reference: fo.Optimizer) -> None:
    """Assert that two optimizers have the same parameters, state and step counts."""
    for a, b in zip(arrays_of(ours), arrays_of(reference), strict=True):
        assert a[0] == b[0]
        assert same_bits(a[1], b[1]), f"{a[0]} differs in {first_difference(a[1], b[1])}"
    assert ours._plan.steps == reference._plan.steps
    assert ours.skipped_steps == reference.skipped_steps
    norms = ours.grad_norm, reference.grad_norm
    assert norms[0] == norms[1] or np.isnan(norms).all()


def arrays_of(optimizer: fo.Optimizer) -> list[tuple[str, np.ndarray]]:
    """Return all parameters and state arrays of an optimizer, with names."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    named = [(f"param {key!r}", p) for key, p in zip(optimizer.state, params, strict=True)]
    for key, arrays in optimizer.state.items():
        named += [(f"state {key!r} {name}", array) for name, array in arrays.items()]
    return named


def first_difference(a: np.ndarray, b: np.ndarray) -> str:
    where = np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))).reshape(-1))
    if not where.size:
        return "the sign of a zero"
    i = where[0]
    return f"{where.size} of {a.size}, first [{i}]: {a.reshape(-1)[i]!r} {b.reshape(-1)[i]!r}"


def snapshot(optimizer: fo.Optimizer) -> tuple[Any, ...]:
    """Return everything that a refused call must leave as it was."""
    return (
        [(name, a.tobytes()) for name, a in arrays_of(optimizer)],
        optimizer._plan.steps,
        [dict(group.hyper) for group in optimizer.param_groups],
        dict(optimizer._settings),
    )


def gradients(rng: np.random.Generator, params: list[np.ndarray]) -> list[np.ndarray]:
    """Return gradients over many magnitudes, with some exact zeros."""
    result = []
    for p in params:
        g = rng.standard_normal(p.shape) * 10.0 ** rng.integers(-6, 4, p.shape)
        result.append(np.where(rng.random(p.shape) < 0.05, 0.0, g).astype(p.dtype))
    return result
