"""Steps over parts, and in waves: the bits of the whole, however the elements are cut."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupts import interrupted
from zoo import OPTIMIZERS, PAIR_IDS, PAIRS, engine, gradients, name_of, same_bits

import fastoptim as fo
from fastoptim._engine.entry import Entry
from fastoptim._engine.parts import ELSEWHERE, cut, cut_waves
from fastoptim._engine.plan import Plan, ShownAverages
from fastoptim._rule import loops_of
from fastoptim._stepper import Labels, _entries

BACKENDS = ["compiled", "reference"]
TILE = 2048
NUMBERED = [(n, *pair) for n, pair in enumerate(PAIRS)]
LIMIT = 20  # seconds that one part waits for the others


def flat(a: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return the elements of an array in the order of the memory of another one."""
    axes = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
    return np.transpose(a, axes).reshape(-1)


class Joined:
    """Joins the sums of parts that are stepped in a thread each, as gathering them would."""

    def __init__(self, parts: int) -> None:
        self.barrier = threading.Barrier(parts, timeout=LIMIT)
        self.found: list[Any] = [None] * parts

    def gather(self, part: int, mine: Any) -> list[Any]:
        if len(self.found) == 1:
            return [mine]
        self.found[part] = mine
        self.barrier.wait()
        found = list(self.found)
        self.barrier.wait()
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
        self.joined, self.brings = Joined(parts), brings
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
        if self.brings:  # what the step is given is only checked
            for waves in self.waves:
                waves.summed[:] = [
                    None if g is None else g.reshape(p.shape).astype(p.dtype)
                    for g, p in zip(grads, self.params, strict=True)
                ]
            grads = [None if g is None else np.full_like(g, 1e3) for g in grads]

        if len(self.plans) == 1:
            return self.plans[0].step(grads, *args)
        with ThreadPoolExecutor(len(self.plans)) as pool:
            taken = list(pool.map(lambda plan: plan.step(grads, *args), self.plans))
        assert len(set(taken)) == 1
        return taken[0]

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
@pytest.mark.parametrize(("n", "cls", "chosen"), NUMBERED, ids=PAIR_IDS)
def test_every_rule_in_parts(n, cls, chosen, backend):
    compare(cls, chosen, backend, parts=(1, 2, 3, 7)[n % 4])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "cls", "chosen"), NUMBERED, ids=PAIR_IDS)
def test_every_rule_in_waves(n, cls, chosen, backend):
    """State and averages come by waves, and gradients, too, where ranks would add them up."""
    wave, parts = (TILE, 3 * TILE, 100 * TILE)[n % 3], (1, 2, 7)[n // 3 % 3]
    compare(cls, chosen, backend, parts, wave=wave, brings=n % 2 == 0)


SIZES = st.lists(st.sampled_from([0, 1, 5, TILE - 1, TILE, TILE + 1, 3 * TILE, 9000]), max_size=6)


@given(SIZES, st.integers(1, 12))
def test_parts_are_contiguous_whole_tiles_and_even(sizes, parts):
    found = cut(sizes, parts)
    assert len(found) == parts
    counts = [sum(stop - start for start, stop in ranges) for ranges in found]
    assert sum(counts) == sum(sizes)
    for count in counts:  # each border is at most half a tile from where it would be best
        assert abs(count - sum(sizes) / parts) <= TILE
    pieces = [(i, *r) for ranges in found for i, r in enumerate(ranges) if r != (0, 0)]
    assert pieces == sorted(pieces)
    for i, size in enumerate(sizes):
        of_array = [(start, stop) for k, start, stop in pieces if k == i]
        assert [0, *(stop for _, stop in of_array)] == [*(start for start, _ in of_array), size]
        assert all(start < stop and start % TILE == 0 for start, stop in of_array)


def test_parts_are_even_by_weight():
    found = cut([64 * TILE, 64 * TILE], 3, weights=[4, 8])
    bytes_of = [4 * (a[1] - a[0]) + 8 * (b[1] - b[0]) for a, b in found]
    assert max(bytes_of) - min(bytes_of) <= 2 * 8 * TILE


@given(SIZES, st.integers(1, 4), st.integers(0, 3))
def test_waves_are_the_ranges_in_order(sizes, tiles, part):
    ranges = cut(sizes, 4)[part]
    waves = cut_waves(ranges, tiles * TILE)
    joined: list[list[int]] = []
    for wave in waves:
        assert 0 < sum(stop - start for _, start, stop in wave) <= tiles * TILE
        for i, start, stop in wave:
            assert start % TILE == 0
            if joined and joined[-1][0] == i and joined[-1][2] == start:
                joined[-1][2] = stop
            else:
                joined.append([i, start, stop])
    assert joined == [[i, *r] for i, r in enumerate(ranges) if r[0] < r[1]]


@settings(max_examples=30, deadline=None)
@given(
    SIZES.filter(len),
    st.integers(1, 9),
    st.sampled_from([None, TILE, 2 * TILE]),
    st.sampled_from(BACKENDS),
    st.sampled_from([fo.LAMB, fo.LARS, fo.Adam, fo.Rprop]),
    st.integers(0, 9),
)
def test_any_sizes(sizes, parts, wave, backend, cls, seed):
    """More parts than elements, too."""
    rng = np.random.default_rng(seed)
    params = [rng.standard_normal(n).astype(rng.choice(["f4", "f8"])) for n in sizes]
    options = {"max_grad_norm": 1.0, "max_param_grad_norm": 0.5, "ema_decay": 0.5}
    whole = cls([p.copy() for p in params], backend=backend, **options)
    parted = Parted(cls(params, backend=backend, **options), parts, wave)
    for _ in range(2):
        grads = [None if rng.random() < 0.2 else g for g in gradients(rng, params)]
        whole.step(grads)
        parted.step(grads)
        parted.assert_same(whole)


def one_part(cls=fo.Adam, backend="compiled", wave=2 * TILE, **options):
    """Return an optimizer, the same in waves, and gradients."""
    rng = np.random.default_rng(3)
    params = problem(rng)
    whole = cls([p.copy(order="K") for p in params], backend=backend, **options)
    parted = Parted(cls(params, backend=backend, **options), 1, wave)
    return whole, parted, gradients(rng, params)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_with_rules_of_their_own(backend):
    rng = np.random.default_rng(4)
    params = problem(rng)

    def mixed():
        own = [p.copy(order="K") for p in params]
        groups = [
            {"params": own[:3], "optimizer": fo.Adam, "lr": lambda t: 0.1 / (1 + t)},
            {"params": own[3:6], "optimizer": fo.LAMB, "lr": 0.1, "ema_decay": 0.5},
            {"params": own[6:], "optimizer": fo.SGD, "lr": 0.1, "max_param_grad_norm": 1.0},
        ]
        return fo.Mixed(groups, max_grad_norm=2.0, backend=backend)

    for parts, wave in ((1, TILE), (3, None), (5, 3 * TILE)):
        whole, parted = mixed(), Parted(mixed(), parts, wave)
        for _ in range(3):
            grads = grads_like(rng, params, False)
            whole.step([grads[:3], grads[3:6], grads[6:]])
            parted.step(grads)
            parted.assert_same(whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_averages_in_waves(backend):
    whole, parted, grads = one_part(backend=backend, ema_decay=0.5)
    whole.step(grads)
    parted.step(grads)
    (plan,) = parted.plans
    with whole.use_ema(), ShownAverages("use_ema", lambda: plan):
        parted.assert_same(whole)
        with pytest.raises(RuntimeError, match="in use"):
            parted.step(grads)
    parted.assert_same(whole)
    whole.step(grads)
    parted.step(grads)
    parted.assert_same(whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_averages_of_rules_in_waves(backend):
    options = {"momentum": 0.9, "bounds": (-0.5, 0.5), "backend": backend}
    whole, parted, grads = one_part(fo.ScheduleFreeSGD, **options)
    whole.step(grads)
    parted.step(grads)
    (plan,) = parted.plans
    before = parted.params[6].copy()
    with whole.use_average(), ShownAverages("use_average", lambda: plan, whole._average_of):
        for p, other in zip(parted.params, whole.param_groups[0]["params"], strict=True):
            assert same_bits(p, other)
        assert not same_bits(parted.params[6], before)
    parted.assert_same(whole)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("wave", [0, 1, 3])
def test_an_error_between_waves_is_the_end(wave, when, backend):
    whole, parted, grads = one_part(backend=backend)
    (plan,), (waves,) = parted.plans, parted.waves
    function = getattr(waves, when)

    def failing(number, what):
        if number == wave:
            raise OSError(5, "no such luck")
        return function(number, what)

    setattr(waves, when, failing)
    with pytest.raises(OSError, match="no such luck"):
        parted.step(grads)
    assert plan.steps == [0] * len(grads)
    assert not plan.in_use
    setattr(waves, when, function)
    if (wave, when) == (0, "before"):  # nothing has changed
        assert plan.broken is None
        whole.step(grads)
        parted.step(grads)
        parted.assert_same(whole)
        return
    assert "no such luck" in plan.broken
    for call in (lambda: parted.step(grads), lambda: plan.measure(grads), plan.__enter__):
        with pytest.raises(RuntimeError, match="cannot go on"):
            call()
    plan.broken = "the disk is full"
    with pytest.raises(RuntimeError, match="the disk is full"):
        parted.step(grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_in_waves(backend):
    """A step is either not taken, or taken, or the last one."""
    found, n = set(), 1
    while True:
        whole, parted, grads = one_part(backend=backend, max_grad_norm=1.0)
        (plan,) = parted.plans
        before = [p.tobytes() for p in parted.params]
        if not interrupted(partial(parted.step, grads), n):
            break
        if plan.broken:
            found.add("broken")
            assert plan.steps == [0] * len(grads)
        elif plan.steps[0]:
            found.add("taken")
        else:
            found.add("not taken")
            assert [p.tobytes() for p in parted.params] == before
            whole.step(grads)
            parted.step(grads)
            parted.assert_same(whole)
        n += max(1, n // 9)
    assert {"broken", "not taken"} <= found


def test_what_waves_bring_is_checked_before_anything_is_computed():
    for spoil, message in (
        (lambda a: a.astype(np.int32), "addresses"),
        (lambda a: a[:, :5].copy(), "addresses"),
        (lambda a: a[:-1].copy() if len(a) > 1 else None, "addresses|found none"),
        (lambda a: np.zeros_like(a), "found none"),
        (lambda a: None, "state.*found none"),
    ):
        _, parted, grads = one_part()
        (plan,), (waves,) = parted.plans, parted.waves
        before, snapshot = waves.before, [p.tobytes() for p in parted.params]
        waves.before = lambda wave, what, f=before, s=spoil: s(f(wave, what))
        with pytest.raises((TypeError, ValueError), match=message):
            parted.step(grads)
        assert plan.broken is None
        assert [p.tobytes() for p in parted.params] == snapshot


def test_gradients_are_checked_where_there_is_no_wave():
    p, waves = np.zeros(9), Buffered([], [], [])
    opt = fo.SGD(p, lr=1.0)
    rule = opt._groups[0].rule
    for loops in (None, loops_of([rule])):
        entry = Entry(p, [None], range=(0, 0))
        plan = Plan([entry], [["p", "g", "s", "e"]], [rule.twin], loops, waves=waves)
        with pytest.raises(ValueError, match="g: expected shape"):
            plan.step([np.zeros(8)], opt._groups)
        assert plan.step([np.zeros(9)], opt._groups)
        assert plan.steps == [1]


def test_a_parameter_frozen_by_a_hook_ends_the_step():
    _, parted, grads = one_part()
    (plan,), (waves,) = parted.plans, parted.waves
    before = waves.before

    def freezing(wave, what):
        if any(piece.array == 6 and piece.start > 0 for piece in waves.pieces[wave]):
            parted.params[6].flags.writeable = False
        return before(wave, what)

    waves.before = freezing
    with pytest.raises(ValueError, match=r"params\[6\]: expected a writable array"):
        parted.step(grads)
    assert "params[6]" in plan.broken


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [[(0, 0, TILE)]],
        [[(0, 0, 5)], [(0, 5, 9000)]],
        [[(0, TILE, 9000)], [(0, 0, TILE)]],
        [[(0, 0, 9000)], [(0, 0, 9000)]],
        [[(0, 0, 9001)]],
    ],
)
def test_waves_that_are_not_the_ranges_are_refused(pieces):
    p = np.zeros(9000)
    waves = Buffered([], [p], [[]])
    waves.pieces = pieces
    with pytest.raises(ValueError, match="pieces of all ranges in order"):
        Plan([Entry(p, range=(0, 9000))], [["p", "g"]], [None], waves=waves)


@pytest.mark.parametrize("span", [(5, 9000), (0, 100), (TILE, 0), (-TILE, TILE), (0, 5 * TILE)])
def test_ranges_that_cut_a_tile_are_refused(span):
    with pytest.raises(ValueError, match="p: expected a range of its 9000 elements"):
        Plan([Entry(np.zeros(9000), range=span)], [["p", "g"]], [None])


def test_state_of_a_range_is_checked():
    p = np.zeros((3, 3000))
    for state in (np.zeros_like(p), np.zeros(TILE, np.float32), np.zeros(2 * TILE)[::2]):
        with pytest.raises((TypeError, ValueError), match="s: expected"):
            Plan([Entry(p, [state], range=(TILE, 2 * TILE))], [["p", "g", "s", "e"]], [None])
    with pytest.raises(TypeError, match="s: expected a NumPy array, found Elsewhere"):
        Plan([Entry(p, [ELSEWHERE], range=(0, TILE))], [["p", "g", "s", "e"]], [None])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("brings", [False, True])
def test_the_first_gradient_that_is_not_finite_is_named_on_all_parts(brings, backend):
    rng = np.random.default_rng(8)
    params = problem(rng)
    options = {"nonfinite": "raise", "backend": backend}
    for number in (0, 4, 6):
        copies = [p.copy(order="K") for p in params]
        parted = Parted(fo.SGD(copies, lr=0.1, **options), 3, TILE if brings else None, brings)
        grads = gradients(rng, params)
        grads[number].reshape(-1)[-1:] = np.nan
        grads[8][...] = np.inf
        with pytest.raises(FloatingPointError, match=rf"grads\[{number}\]"):
            parted.step(grads)
        for p, other in zip(params, copies, strict=True):
            assert same_bits(p, other)


def test_own_sums_of_each_where_only_the_norm_is_shared():
    """Plans of other parameters each: clipped together, rescaled one by one."""
    rng = np.random.default_rng(9)
    params = problem(rng)
    grads = gradients(rng, params)
    options = {"max_grad_norm": 1.0, "max_param_grad_norm": 0.4}
    whole = fo.LAMB([p.copy(order="K") for p in params], **options)
    whole.step(grads)
    joined = Joined(2)

    def step(part):
        hook = joined.of(part)
        hook.each = lambda rows: rows
        own = slice(0, 5) if part == 0 else slice(5, None)
        opt = fo.LAMB(params[own], **options)
        entries = _entries(opt._groups, [opt._groups[0].rule], opt._state, opt._plan.steps, [])
        rule = opt._groups[0].rule
        labels = Labels(opt._groups, list(opt._state))
        plan = Plan(entries, labels, [rule.twin], loops_of([rule]), sums=hook)
        return plan.step(grads[own], opt._groups, judge=opt._judge)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(step, range(2))) == [True, True]
    for p, other in zip(params, whole.param_groups[0]["params"], strict=True):
        assert same_bits(p, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_are_left_in_the_gradients_of_a_part(backend):
    rng = np.random.default_rng(10)
    opt = fo.SGD([np.zeros((70, 61))], lr=1.0, backend=backend)
    rule = opt._groups[0].rule
    loops = loops_of([rule]) if backend == "compiled" else None
    for order in "CF":
        p = np.zeros((70, 61))
        g = np.asarray(rng.standard_normal(p.shape), order=order)
        before = g.copy()
        entry = Entry(p, (None,), range=(TILE, 2 * TILE))
        Plan([entry], [["p", "g", "s", "e"]], [rule.twin], loops, zeroing=True).step(
            [g], opt._groups
        )
        stepped = np.zeros(p.size, bool)
        stepped[TILE : 2 * TILE] = True
        stepped = stepped.reshape(p.shape)
        assert same_bits(g, np.where(stepped, 0.0, before))
        assert same_bits(p, np.where(stepped, -before, 0.0))


def test_all_ranks_agree_before_anything_is_shared():
    seen = []

    def agree(lines, grads):
        seen.append((len(lines), [None if g is None else g.shape for g in grads]))
        raise RuntimeError("another rank has none")

    p = np.zeros((3, 3))
    opt = fo.SGD([p, p.copy()], lr=1.0)
    with pytest.raises(ValueError, match="grads"):
        opt._plan.step([np.zeros(3), None], opt._groups, agree=agree)
    assert not seen
    with pytest.raises(RuntimeError, match="another rank"):
        opt._plan.step([np.ones((1, 3, 3)), None], opt._groups, agree=agree)
    assert seen == [(1, [(3, 3), None])]
    assert not p.any()
    assert opt._plan.steps == [0, 0]


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_parts_on_threads(cls):
    with engine(threads=2):
        compare(cls, {"max_grad_norm": 1.0, "ema_decay": 0.5}, "compiled", 2)
        compare(cls, {"max_grad_norm": 1.0, "ema_decay": 0.5}, "compiled", 1, wave=3 * TILE)
