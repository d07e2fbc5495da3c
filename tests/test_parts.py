"""Steps over parts, and in waves: the bits of the whole, however the elements are cut."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import OPTIMIZERS, PAIR_IDS, PAIRS, gradients, name_of, same_bits

import fastoptim as fo
from fastoptim._engine.parts import ELSEWHERE, cut, cut_waves
from fastoptim._engine.plan import Plan
from fastoptim._rule import loops_of
from fastoptim._stepper import Labels, _entries

BACKENDS = ["compiled", "reference"]
TILE = 2048
LIMIT = 60  # seconds that one part waits for the others


def flat(a: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return the elements of an array in the order of the memory of another one."""
    axes = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
    return np.transpose(a, axes).reshape(-1)


class Joined:
    """Joins the sums of parts that are stepped in a thread each, as gathering them would."""

    def __init__(self, parts: int) -> None:
        self.barrier = threading.Barrier(parts, timeout=LIMIT)
        self.found: list[Any] = [None] * parts
        self.calls = 0

    def gather(self, part: int, mine: Any) -> list[Any]:
        self.found[part] = mine
        self.barrier.wait()
        found = list(self.found)
        self.barrier.wait()
        self.calls += part == 0
        return found

    def of(self, part: int) -> OfPart:
        return OfPart(self, part)


class OfPart:
    """What a plan is given: the Sums of one part."""

    def __init__(self, joined: Joined, part: int) -> None:
        self.joined, self.part = joined, part

    def total(self, rows):
        return np.concatenate(self.joined.gather(self.part, rows.copy()))

    each = total

    def first(self, bad):
        return next(filter(None, self.joined.gather(self.part, bad)), None)


class Buffered:
    """Waves whose state lies in other arrays, and is copied into one buffer and back."""

    def __init__(self, pieces, params, arrays, summed=None) -> None:
        self.pieces, self.params, self.arrays = pieces, params, arrays
        self.gradients, self.summed = summed is not None, summed
        self.starts = {}
        for piece in (piece for wave in pieces for piece in wave):
            self.starts.setdefault(piece.array, piece.start)
        most = max((sum(p.stop - p.start for p in wave) for wave in pieces), default=0)
        self.buffer = np.empty((6, most + 64), np.float64)
        self.log: list[tuple[str, int, str]] = []

    def views(self, wave, piece, k):
        """Return a piece of the k-th array where it lies, and its place in the buffer."""
        at = sum(p.stop - p.start for p in self.pieces[wave][: self.pieces[wave].index(piece)])
        i, start, stop = piece
        first, like = self.starts[i], self.params[i]
        if k == 5:
            if self.summed is None or self.summed[i] is None:
                return None
            there = flat(self.summed[i], like)[start:stop]
        elif k >= len(self.arrays[i]) or self.arrays[i][k] is None:
            return None
        else:
            there = self.arrays[i][k][start - first : stop - first]
        room = self.buffer[k].view(like.dtype)[at * (8 // like.itemsize) :]
        return there, room[: stop - start]

    def before(self, wave, what):
        self.log.append(("before", wave, what))
        self.buffer.view(np.uint8)[...] = 0xFF  # NaN
        addresses = np.zeros((len(self.pieces[wave]), 6), np.intp)
        for n, piece in enumerate(self.pieces[wave]):
            for k in range(6) if what != "norm" else (5,):
                found = self.views(wave, piece, k)
                if found is not None:
                    there, here = found
                    if what != "start":
                        here[...] = there
                    addresses[n, k] = here.ctypes.data
        return addresses

    def behind(self, wave, what):
        self.log.append(("behind", wave, what))
        for piece in self.pieces[wave] if what in ("update", "start", "swap") else ():
            for k in range(5) if what == "update" else (4,):
                found = self.views(wave, piece, k)
                if found is not None:
                    there, here = found
                    there[...] = here
        self.buffer.view(np.uint8)[...] = 0xFF


class Parted:
    """The steps of an optimizer that was just made, taken by a plan for each part."""

    def __init__(self, opt, parts, wave=None, brings=False) -> None:
        self.opt, self.params = opt, [p for g in opt._groups for p in g.container.arrays]
        self.joined = Joined(parts)
        rules = list(dict.fromkeys(group.rule for group in opt._groups))
        plan = opt._plan
        entries = list(_entries(opt._groups, rules, opt._state, plan.steps, plan.numbers))
        self.ranges = cut([p.size for p in self.params], parts)
        self.plans, self.arrays, self.waves = [], [], []
        for part, ranges in enumerate(self.ranges):
            arrays, own = [], []
            for e, (start, stop) in zip(entries, ranges, strict=True):
                kept = [
                    None if a is None else flat(a, e.p)[start:stop].copy()
                    for a in (*e.state, *[None] * (4 - len(e.state)), e.ema)
                ]
                if e.ema is not None:
                    kept[4][...] = 7.0  # the average starts with the step
                arrays.append(kept)
                there = kept if wave is None else [None if a is None else ELSEWHERE for a in kept]
                state = tuple(there[: len(e.state)])
                own.append(e._replace(state=state, ema=there[4], range=(start, stop)))
            waves = None
            if wave is not None:
                summed = [None] * len(self.params) if brings else None
                waves = Buffered(cut_waves(ranges, wave), self.params, arrays, summed)
            self.waves.append(waves)
            self.arrays.append(arrays)
            self.plans.append(
                Plan(
                    own,
                    Labels(opt._groups, list(opt._state)),
                    [rule.twin for rule in rules],
                    loops_of(rules) if opt._backend == "compiled" else None,
                    unstarted=[e.ema is not None for e in entries],
                    sums=self.joined.of(part),
                    waves=waves,
                )
            )

    def step(self, grads, grad_scale=1.0):
        opt, judge = self.opt, None
        judge = opt._judge if opt._judges else None
        args = (opt._groups, 1 / grad_scale, (), judge, opt._flushes, opt._casts)
        for waves in self.waves if self.waves[0] is not None else ():
            if waves.summed is not None:  # what the step is given is only checked
                waves.summed[:] = [
                    None if g is None else np.asarray(g).astype(p.dtype)
                    for g, p in zip(grads, self.params, strict=True)
                ]
                grads = [None if g is None else np.full_like(g, 1e3) for g in grads]

        def step(plan):
            try:
                return plan.step(grads, *args)
            except BaseException:
                self.joined.barrier.abort()
                raise

        with ThreadPoolExecutor(len(self.plans)) as pool:
            taken = list(pool.map(step, self.plans))
        assert len(set(taken)) == 1

    def assert_same(self, whole) -> None:
        others = [p for g in whole._groups for p in g.container.arrays]
        for i, (p, other) in enumerate(zip(self.params, others, strict=True)):
            assert same_bits(p, other), f"parameter {i}"
        for i, (state, p) in enumerate(zip(whole._state.values(), others, strict=True)):
            rule_of = next(g.rule for g in whole._groups if any(q is p for q in g.container.arrays))
            for k, name in enumerate((*rule_of.state, "ema")):
                k = 4 if name == "ema" else k
                if name in state:
                    joined = np.concatenate([arrays[i][k] for arrays in self.arrays])
                    assert same_bits(joined, flat(state[name], p)), f"state {i} {name}"
        for plan in self.plans:
            assert plan.steps == whole._plan.steps
            assert repr(plan.numbers) == repr(whole._plan.numbers)
        norms = self.opt.grad_norm, whole.grad_norm
        assert norms[0] == norms[1] or np.isnan(norms).all()


def problem(rng, dtypes=(np.float32, np.float64)):
    """Return parameters of many sizes and layouts."""
    found = []
    for n, shape in enumerate(
        [(), (3,), (0,), (TILE,), (70, 61), (TILE + 1,), (5 * TILE + 7,), (9, 31, 17), (1, 1)]
    ):
        p = rng.standard_normal(shape).astype(dtypes[n % len(dtypes)])
        if len(shape) == 2:
            p = np.asfortranarray(p)
        elif len(shape) == 3:
            p = p.transpose(1, 2, 0)
        found.append(p)
    return found


def grads_like(rng, params, casts):
    """Return gradients in layouts of all kinds, some missing."""
    found = []
    for p, g in zip(params, gradients(rng, params), strict=True):
        kind = rng.integers(7)
        if kind == 0:
            g = None
        elif kind == 1:
            g = np.asfortranarray(g)
        elif kind == 2:
            g = np.repeat(g.reshape(-1), 2)[::2].reshape(p.shape)
        elif kind == 3 and g.size:
            g = g.reshape(-1)[::-1].copy()[::-1].reshape(p.shape)
        elif kind == 4 and (casts or p.dtype == np.float64):
            g = g.astype(np.float64 if p.dtype == np.float32 else np.float32)
        elif kind == 5:
            g = np.asarray(g, order="C")
        elif kind == 6:
            g = g[None]
        found.append(g)
    return found


def compare(cls, chosen, backend, parts, steps=4, wave=None, brings=False, masks=True):
    rng = np.random.default_rng(parts + 1)
    params = problem(rng)
    copies = [p.copy(order="K") for p in params]
    options = {"lr": 0.01, **chosen, "backend": backend}
    if masks:
        options["mask"] = [rng.random(p.shape) < 0.8 if p.size % 2 else None for p in params]
    whole, other = cls(params, **options), cls(copies, **options)
    parted = Parted(other, parts, wave, brings)
    casts = bool(chosen.get("cast_grads"))
    for _ in range(steps):
        grads = grads_like(rng, params, casts)
        whole.step([None if g is None else g.copy(order="K") for g in grads])
        parted.step(grads)
        parted.assert_same(whole)
    return parted


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "cls", "chosen"), [(n, *pair) for n, pair in enumerate(PAIRS)], ids=PAIR_IDS)
def test_every_rule_in_parts(n, cls, chosen, backend):
    compare(cls, chosen, backend, parts=(1, 2, 3, 7)[n % 4])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "cls", "chosen"), [(n, *pair) for n, pair in enumerate(PAIRS)], ids=PAIR_IDS)
def test_every_rule_in_waves(n, cls, chosen, backend):
    """State and averages come by waves, and gradients, too, where ranks would add them up."""
    wave, parts = (TILE, 3 * TILE, 100 * TILE)[n % 3], (1, 2, 7)[n // 3 % 3]
    compare(cls, chosen, backend, parts, wave=wave, brings=n % 2 == 0)
