"""Gradients that have but some rows: the bits of dense steps, or the rows alone, by name."""

from __future__ import annotations

import copy
import pickle
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zoo import DTYPES, LEVELS, assert_same, engine, same_bits, snapshot

import fastoptim as fo
from fastoptim import _rows
from fastoptim._engine.entry import Entry
from fastoptim._engine.plan import Plan
from fastoptim._rule import Fixed
from fastoptim._stages import After, Before

BACKENDS = ["compiled", "reference"]
EXACT = [
    (fo.SGD, {}),
    (fo.Adagrad, {}),
    (fo.Adagrad, {"initial_accumulator_value": 0.3, "lr_decay": 0.1, "eps_inside": True}),
    (fo.FTRL, {"l1_regularization_strength": 0.01, "l2_regularization_strength": 0.1}),
]
LAZY = [
    (fo.Adam, {}),
    (fo.Adam, {"amsgrad": True, "eps_hat": True}),
    (fo.AdamW, {}),
    (fo.RMSprop, {"momentum": 0.9, "centered": True}),
    (fo.Momentum, {"nesterov": True}),
    (fo.SGD, {"momentum": 0.9, "dampening": 0.1}),
    (fo.Lion, {"weight_decay": 0.1}),
    (fo.AdaBelief, {}),
    (fo.Yogi, {}),
    (fo.NAdam, {}),
    (fo.RAdam, {}),
    (fo.Adamax, {}),
    (fo.AdEMAMix, {}),
    (fo.Adagrad, {"weight_decay": 0.1}),
    (fo.FTRL, {"lr": lambda t: 0.1 / (1 + t)}),
]
REFUSING = [
    fo.Adadelta, fo.Rprop, fo.ASGD, fo.ADOPT, fo.Adan, fo.LAMB, fo.LARS, fo.StableAdamW,
    fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW,
]  # fmt: skip
# One axis, width 1, narrow, of three axes, just narrow, wide, wider than a tile and than two; no
# rows; no elements.
SHAPES = [
    (700,), (300, 1), (1000, 8), (40, 3, 5), (90, 63), (90, 64), (9, 513), (4, 3, 700),
    (0, 3), (5, 0), (1, 1),
]  # fmt: skip


def started(cls, shape, dtype, **options):
    """Return a parameter with zeros of both signs, and an optimizer of it."""
    p = np.random.default_rng(7).standard_normal(shape).astype(dtype)
    p.reshape(-1)[::5] = 0.0
    p.reshape(-1)[1::5] = -0.0
    if cls is fo.FTRL:
        p[...] = 0.0
    return p, cls(p, **options)


def drawn(rng, shape, dtype, count):
    """Return indices with duplicates, and values over many magnitudes, with zeros."""
    count = count if shape[0] else 0
    indices = rng.integers(0, max(shape[0], 1), count)
    values = rng.standard_normal((count, *shape[1:])) * 10.0 ** rng.integers(-6, 4, count).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    values[rng.random(values.shape) < 0.1] = -0.0
    return indices, values.astype(dtype)


def scattered(rows, p):
    g = np.zeros_like(p)
    np.add.at(g, rows.indices.astype(np.intp), rows.values)
    return g


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("cls", "options"), EXACT, ids=str)
def test_exact_rules_have_the_bits_of_dense_steps(cls, options, shape, dtype):
    rng = np.random.default_rng(1)
    clipped = {"max_grad_norm": 3.0, "max_param_grad_norm": 2.0, "max_grad_value": 1.0}
    for more in ({}, clipped):
        _, dense = started(cls, shape, dtype, **options, **more)
        found = [started(cls, shape, dtype, backend=b, **options, **more)[1] for b in BACKENDS]
        for count in (0, 1, 3, 33, 600, *rng.integers(0, 40, 15)):
            rows = fo.Rows(*drawn(rng, shape, dtype, count))
            dense.step(scattered(rows, dense.param_groups[0]["params"][0]), grad_scale=2.0)
            for opt in found:
                opt.step(rows, grad_scale=2.0)
                assert_same(opt, dense)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cls", "options"), EXACT[1:2] + EXACT[3:], ids=str)
def test_a_hundred_steps_at_every_level_and_number_of_threads(cls, options, dtype):
    """A table of many tasks, in one optimizer with a dense array and one with either kind."""
    rng = np.random.default_rng(2)
    shapes = [(5000, 10), (30,), (2000, 70)]

    def params():
        return [started(cls, shape, dtype)[0] for shape in shapes]

    optimizers = [
        (cls(params(), max_grad_norm=1.0, **options), level, threads)
        for level in LEVELS
        for threads in (1, 3)
    ]
    reference = cls(params(), max_grad_norm=1.0, backend="reference", **options)
    for t in range(100):
        mine = [fo.Rows(*drawn(rng, shape, dtype, 2500 >> t % 6)) for shape in shapes]
        arrays = [scattered(rows, np.zeros(s, dtype)) for rows, s in zip(mine, shapes, strict=True)]
        given = [mine[0], arrays[1], mine[2] if t % 3 else None if t % 2 else arrays[2]]
        for opt, level, threads in optimizers:
            with engine(level, threads):
                opt.step(given)
        reference.step([a if g is not None else None for g, a in zip(given, arrays, strict=True)])
    for opt, _, _ in optimizers:
        assert_same(opt, reference)


def lazily(cls, table, arrays, options, t, rows, backend="reference", lazy=False):
    """Take the t-th step of an optimizer of the touched rows alone; return the arrays then."""
    touched = np.unique(rows.indices)
    p = table[touched].copy()
    opt = cls(p, backend=backend, **options)
    state = opt.state_dict()
    state["state"][0]["step"] = t - 1
    state["state"][0].update({name: a[touched] for name, a in arrays.items()})
    opt.load_state_dict(state)
    g = np.zeros_like(table)
    np.add.at(g, rows.indices, rows.values)
    opt.step(g[touched])
    table[touched] = p
    for name, a in arrays.items():
        a[touched] = opt.state[0][name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cls", "options"), LAZY, ids=str)
def test_lazy_rules_are_those_of_the_touched_rows_alone(cls, options, dtype):
    rng = np.random.default_rng(3)
    surrounding = {"l1": 0.01, "ema_decay": 0.9, "bounds": (-1.0, 1.25), "max_grad_value": 2.0}
    for shape, more in [((50, 6), {}), ((50, 6), surrounding), ((12, 70), surrounding)]:
        chosen = {**options, **more}
        found = [started(cls, shape, dtype, backend=b, lazy=True, **chosen) for b in BACKENDS]
        table, first = started(cls, shape, dtype, **chosen)
        arrays = {name: a.copy() for name, a in first.state[0].items()}
        for t in range(1, 9):
            rows = fo.Rows(*drawn(rng, shape, dtype, 15 if t % 4 else 0))
            lazily(cls, table, arrays, chosen, t, rows)
            for p, opt in found:
                opt.step(rows)
                assert same_bits(p, table)
                for name, a in arrays.items():
                    if name != "ema" or t > 1:
                        assert same_bits(opt.state[0][name], a), name
            if t == 1 and "ema" in arrays:  # of all rows, the average starts with the first step
                arrays["ema"][...] = found[0][1].state[0]["ema"]


@pytest.mark.parametrize("shape", [(60,), (60, 3), (60, 16), (60, 70)])
def test_each_row_has_its_own_mask(shape):
    rng = np.random.default_rng(8)
    mask, start = rng.random(shape) < 0.5, rng.standard_normal(shape)
    indices = rng.integers(0, 60, 25)
    g = np.zeros(shape)
    np.add.at(g, indices, 1.0)
    p = start.copy()
    opt = fo.SGD(p, lr=0.5, mask=mask, lazy=True)
    opt.step(fo.Rows(indices, np.ones((25, *shape[1:]))))
    touched = np.isin(np.arange(60), indices)
    expected = start.copy()
    expected[touched] = np.where(mask, start - 0.5 * g, 0.0)[touched]
    assert same_bits(p, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_act_on_touched_rows_alone(backend):
    p = np.ones((4, 3))
    mask = np.ones((4, 3), bool)
    mask[:, 1] = False
    opt = fo.SGD(p, lr=0.5, mask=mask, lazy=True, backend=backend)
    opt.step(fo.Rows([2, 2], np.ones((2, 3))))
    expected = np.ones((4, 3))
    expected[2] = [0, 0, 0]
    assert p.tolist() == expected.tolist()
    opt.step(fo.Rows([1], np.ones((1, 3))))
    assert p[1].tolist() == [0.5, 0.0, 0.5]
    assert p[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("cls", [cls for cls, _ in LAZY if cls not in (fo.Adagrad, fo.FTRL)])
def test_rules_that_move_other_rows_ask_for_lazy(cls):
    options = {"momentum": 0.9} if cls is fo.SGD else {}
    _, opt = started(cls, (5, 2), np.float64, **options)
    before = snapshot(opt)
    message = r"^grads: expected an array for .* found Rows: set lazy=True"
    with pytest.raises(TypeError, match=message):
        opt.step(fo.Rows([1], np.ones((1, 2))))
    assert snapshot(opt) == before
    opt.lazy = True
    opt.step(fo.Rows([1], np.ones((1, 2))))
    assert opt.steps == {0: 1}


@pytest.mark.parametrize("cls", REFUSING)
def test_rules_that_cannot_leave_rows_out(cls):
    _, opt = started(cls, (5, 2), np.float64)
    with pytest.raises(TypeError, match=r"found Rows$"):
        opt.step(fo.Rows([1], np.ones((1, 2))))
    with pytest.raises(ValueError, match=r"^lazy: expected False for .*, found True"):
        cls(np.ones(3), lazy=True)
    with pytest.raises(ValueError, match=r"^lazy: expected False"):
        opt.lazy = True
    assert opt.lazy is False


def test_all_rules_are_in_one_of_the_lists():
    known = [cls for cls, _ in EXACT + LAZY] + REFUSING
    assert {*known} == {getattr(fo.optimizers, name) for name in fo.optimizers.__all__}


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1},
        {"weight_decay": lambda t: 0.0},
        {"l1": 0.1},
        {"bounds": (-1.0, 1.0)},
        {"ema_decay": 0.9},
        {"mask": np.ones((5, 2), bool)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_move_other_rows_ask_for_lazy(options):
    (name,) = options
    _, opt = started(fo.Adagrad, (5, 2), np.float64, **options)
    before = snapshot(opt)
    with pytest.raises(TypeError, match=rf"^grads: expected an array beside {name}, .*lazy=True"):
        opt.step(fo.Rows([1], np.ones((1, 2))))
    assert snapshot(opt) == before
    opt.param_groups[0]["lazy"] = True
    opt.step(fo.Rows([1], np.ones((1, 2))))


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (fo.SGD, {"momentum": lambda t: 0.0}),
        (fo.SGD, {"momentum": 0.5}),
        (fo.Momentum, {"momentum": 0.0}),
        (fo.Adagrad, {"eps": 0.0}),
        (fo.Adagrad, {"eps": 1e-40}),
        (fo.Adagrad, {"eps": lambda t: 1e-10}),
        (fo.FTRL, {"lr": lambda t: 0.1}),
    ],
    ids=str,
)
def test_hyperparameters_with_which_other_rows_move(cls, options):
    _, opt = started(cls, (5, 2), np.float32, **options)
    with pytest.raises(TypeError, match=r"^grads: expected an array for "):
        opt.step(fo.Rows([1], np.ones((1, 2), np.float32)))


@pytest.mark.parametrize("cls", [fo.SGD, fo.Adam])
def test_cautious_steps_depend_on_the_whole_array(cls):
    opt = (
        cls(np.ones((5, 2)), momentum=0.5, cautious=True, lazy=True)
        if cls is fo.SGD
        else cls(np.ones((5, 2)), cautious=True, lazy=True)
    )
    with pytest.raises(TypeError, match=r"depends on all elements, .* here, found Rows$"):
        opt.step(fo.Rows([1], np.ones((1, 2))))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ftrl_looks_at_what_it_leaves_out(backend):
    """A dense step makes p of its state, so that elements that are something else would move."""
    p = np.ones((70_000, 2))
    p[:-1] = 0
    opt = fo.FTRL(p, backend=backend)
    rows = fo.Rows([1], np.ones((1, 2)))
    before = snapshot(opt)
    with pytest.raises(
        ValueError, match=r"^grads: expected an array, as a step moves also rows of"
    ):
        opt.step(rows)
    assert snapshot(opt) == before
    opt.step(np.zeros_like(p))
    assert not p.any()
    opt.step(rows)
    opt.lr = 0.5  # with which p is something else
    with pytest.raises(ValueError, match=r"also when a hyperparameter was set$"):
        opt.step(rows)
    opt.step(np.zeros_like(p))
    opt.lr = 0.001
    with pytest.raises(ValueError, match=r"also when a hyperparameter was set$"):
        opt.step(rows)
    opt.lazy = True
    opt.step(rows)


def test_ftrl_looks_again_after_a_dense_step_with_other_scalars():
    p = np.zeros((5, 2))
    opt = fo.FTRL(p)
    rows = fo.Rows([1], np.ones((1, 2)))
    opt.step(rows)
    opt.lr = 0.5
    opt.step(np.ones_like(p))
    opt.lr = 0.001
    with pytest.raises(ValueError, match=r"also when a hyperparameter was set$"):
        opt.step(rows)


# What indices may be


@st.composite
def indices_of_any_kind(draw):
    """Return indices of five rows, in some integer type, order of bytes and layout."""
    dtype = draw(st.sampled_from(["i1", "<i2", ">i4", "<i8", ">i8", "u1", ">u2", "<u4", "<u8"]))
    count = draw(st.integers(0, 40))
    plain = draw(hnp.arrays(dtype, count, elements=st.integers(0, 4)))
    how = draw(st.sampled_from(["plain", "strided", "reversed", "misaligned", "read-only"]))
    if how == "strided":
        plain = np.repeat(plain, 3)[::3]
    elif how == "reversed":
        plain = plain[::-1].copy()[::-1]
    elif how == "misaligned":
        room = np.empty(plain.nbytes + 1, np.uint8)
        room[1:] = plain.view(np.uint8)
        plain = room[1:].view(plain.dtype)
    elif how == "read-only":
        plain.flags.writeable = False
    return plain


@given(indices_of_any_kind(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_indices_of_any_integer_type_and_layout(indices, seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((len(indices), 3)).astype(np.float32)
    given_values = {
        0: values,
        1: np.asfortranarray(values),
        2: np.repeat(values, 2, axis=0)[::2],
        3: values[::-1].copy()[::-1],
        4: np.repeat(values, 2, axis=1)[:, ::2],
    }[seed % 5]
    found = []
    for backend in BACKENDS:
        p = np.ones((5, 3), np.float32)
        fo.SGD(p, lr=0.1, backend=backend, nonfinite="raise").step(fo.Rows(indices, given_values))
        found.append(p)
    p = np.ones((5, 3), np.float32)
    g = np.zeros_like(p)
    np.add.at(g, indices.astype(np.intp), values)
    fo.SGD(p, lr=0.1).step(g)
    assert same_bits(found[0], p)
    assert same_bits(found[1], p)


@given(st.lists(st.integers(0, 2**40), max_size=200), st.sampled_from([1, 60, 3000]))
@settings(max_examples=60, deadline=None)
def test_sorting(numbers, repeat):
    """The norm of rows is that of their sums, however many there are and however far apart."""
    numbers = np.array(numbers * repeat, np.int64)
    values = np.random.default_rng(len(numbers)).standard_normal(len(numbers))
    sums: dict[int, float] = {}
    for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
        sums[number] = sums.get(number, 0.0) + value
    found = fo.global_norm(fo.Rows(numbers, values))
    assert found == pytest.approx(np.sqrt(sum(x * x for x in sums.values())), rel=1e-12)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, -1], r"^grads\.indices\[1\]: .*from 0 to 4, found -1"),
        (
            [5],
            r"^grads\.indices\[0\]: expected the number of a row of params, from 0 to 4, found 5",
        ),
        (np.array([2**64 - 1, 0], np.uint64)[:1], r"indices\[0\]: .*found 18446744073709551615"),
        (np.array([2**63], np.uint64), r"found 9223372036854775808$"),
        (np.array([-(2**63)]), r"found -9223372036854775808$"),
        (np.array([0, 300], np.int16), r"^grads\.indices\[1\]: .*found 300$"),
    ],
    ids=str,
)
def test_rows_that_there_are_not(indices, message):
    _, opt = started(fo.Adagrad, (5, 2), np.float64)
    before = snapshot(opt)
    with pytest.raises(ValueError, match=message):
        opt.step(fo.Rows(indices, np.ones((len(indices), 2))))
    assert snapshot(opt) == before
    opt.step(np.ones((5, 2)))  # nothing is left of the refused rows


@pytest.mark.parametrize(
    ("indices", "values", "error", "message"),
    [
        ([0.0], np.ones(1), TypeError, r"^indices: .*float64: write indices.astype\(np.int64\)"),
        ([True], np.ones(1), TypeError, r"^indices: .*bool: write np.flatnonzero\(mask\)"),
        (["a"], np.ones(1), TypeError, r"^indices: expected an array of integers, found <U1"),
        (3, np.ones(1), TypeError, r"^indices: expected an array of integers, found 3"),
        (None, np.ones(1), TypeError, r"^indices: expected an array of integers, found None"),
        (np.ma.array([1]), np.ones(1), TypeError, r"^indices: .*found a masked one"),
        ([0], np.ma.array([1.0]), TypeError, r"^values: .*found a masked one"),
        ([0], [1.0], TypeError, r"^values: expected a NumPy array, found list"),
        ([[0, 1]], np.ones(1), ValueError, r"^indices: .*write indices.reshape\(-1\)"),
        (np.array(0), np.ones(1), ValueError, r"^indices: expected one axis, found shape \(\)"),
        ([0, 1], np.ones(1), ValueError, r"^values: expected a row for each of 2 indices"),
        ([0], np.array(1.0), ValueError, r"^values: .*found shape \(\)"),
    ],
    ids=str,
)
def test_what_is_no_rows(indices, values, error, message):
    with pytest.raises(error, match=message):
        fo.Rows(indices, values)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            np.ones((1, 3), "f4"),
            ValueError,
            r"^grads\['w'\].values: expected shape \(1, 2\), as the rows",
        ),
        (np.ones(1, "f4"), ValueError, r"expected shape \(1, 2\), .*found \(1,\)"),
        (
            np.ones((1, 2), int),
            TypeError,
            r"expected dtype float32 .*write values.astype\(np.float32\)",
        ),
        (np.ones((1, 2)), TypeError, r"pass values.astype.*cast_grads=True"),
        (np.ones((1, 2), ">f4"), TypeError, r"^grads\['w'\]: expected dtype float32"),
        (np.ones((1, 2), complex), TypeError, r"write values.real.astype"),
        (np.array([["a", "b"]]), TypeError, "expected dtype float32"),
    ],
    ids=str,
)
def test_values_that_do_not_fit(values, error, message, backend):
    p = np.ones((5, 2), np.float32)
    opt = fo.Adagrad({"w": p}, backend=backend)
    before = snapshot(opt)
    with pytest.raises(error, match=message):
        opt.step({"w": fo.Rows([1], values)})
    assert snapshot(opt) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_of_another_type_and_of_more_axes(backend):
    p, q = np.ones((5, 2)), np.ones(5, np.float32)
    fo.SGD([p], lr=1.0, backend=backend).step([fo.Rows([1], np.full((1, 1, 2), 0.1, "f4"))])
    assert p[1].tolist() == [1 - float(np.float32(0.1))] * 2
    opt = fo.SGD([q], lr=1.0, cast_grads=True, backend=backend)
    opt.step([fo.Rows([1, 1], np.full((2, 1), 0.1))])
    assert q[1] == np.float32(1) - (np.float32(0.1) + np.float32(0.1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_that_cannot_be_told_by_rows(backend):
    table = np.asfortranarray(np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"write|np\.ascontiguousarray\(params\)"):
        fo.SGD(table, backend=backend).step(fo.Rows([1], np.ones((1, 2))))
    with pytest.raises(ValueError, match="without axes, found Rows"):
        fo.SGD(np.array(1.0), backend=backend).step(fo.Rows([0], np.ones(1)))
    column = np.asfortranarray(np.ones((5, 1)))  # in either order
    fo.SGD(column, lr=1.0, backend=backend).step(fo.Rows([1], np.ones((1, 1))))
    assert column.reshape(-1).tolist() == [1, 0, 1, 1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_in_the_memory_of_what_is_stepped(backend):
    p = np.ones((5, 2))
    opt = fo.Adagrad(p, backend=backend)
    for values in (p[1:2], p[::4], opt.state[0]["h"][:1]):
        before = snapshot(opt)
        with pytest.raises(ValueError, match=r"memory apart from all parameters and state"):
            opt.step(fo.Rows(np.arange(len(values)), values))
        assert snapshot(opt) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_may_be_what_the_step_would_not_write(backend):
    """Indices are copied first: they may lie anywhere, and change meanwhile."""
    p = np.zeros((5, 2))
    indices = np.array([4, 4])

    def lr(t):
        indices[:] = 10**12
        return 1.0

    opt = fo.SGD(p, lr=lr, backend=backend, nonfinite="raise")
    indices[:] = 4
    opt.step(fo.Rows(indices, np.ones((2, 2))))
    assert p[4].tolist() == [-2, -2]
    assert p[:4].tolist() == np.zeros((4, 2)).tolist()


def test_indices_that_another_thread_changes():
    """Whatever it writes, a step is one of rows that there are, or is refused."""
    p = np.zeros((64, 4), np.float32)
    indices = np.zeros(2000, np.int64)
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            indices[::3] = 2**40
            indices[:] = 63

    thread = threading.Thread(target=disturb)
    thread.start()
    refused = 0
    try:
        opt = fo.Adagrad(p)
        for _ in range(300):
            try:
                opt.step(fo.Rows(indices, np.ones((2000, 4), np.float32)))
            except ValueError:
                refused += 1
    finally:
        stop.set()
        thread.join(30)
    assert opt.steps[0] + refused == 300
    assert not p[1:63].any()


# All or nothing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_values(backend, bad):
    _, opt = started(fo.Adagrad, (3000, 3), np.float32, backend=backend, nonfinite="skip")
    values = np.ones((3, 3), np.float32)
    values[1, 2] = bad
    before = snapshot(opt)
    opt.step(fo.Rows([7, 2999, 7], values))
    assert snapshot(opt) == before
    assert opt.skipped_steps == 1
    assert not fo.all_finite(fo.Rows([7, 2999, 7], values))
    opt.nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"^grads: expected finite numbers"):
        opt.step(fo.Rows([7, 2999, 7], values))
    assert snapshot(opt)[:2] == before[:2]


def test_sums_that_overflow_are_seen():
    rows = fo.Rows([1, 1], np.full((2, 1), 3e38, np.float32))
    assert fo.all_finite([np.ones(3), fo.Rows([1, 2], rows.values)])
    assert not fo.all_finite(rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_one_gradient_changes_nothing_of_another(backend):
    p, q = np.ones((5, 2)), np.ones((6, 2))
    opt = fo.Adagrad([p, q], backend=backend)
    good, before = fo.Rows([1], np.ones((1, 2))), snapshot(opt)
    for bad in (fo.Rows([6], np.ones((1, 2))), fo.Rows([0], np.ones((1, 3))), np.ones(3)):
        with pytest.raises(ValueError, match=r"^grads\[1\]"):
            opt.step([good, bad])
        assert snapshot(opt) == before
    opt.step([good, np.ones((6, 2))])
    assert opt.steps == {0: 1, 1: 1}


def test_the_norm_of_all_has_the_bits_of_the_dense_one():
    rng = np.random.default_rng(5)
    for shape, dtype in [((3000, 7), np.float32), ((500, 64), np.float64), ((9, 2500), np.float32)]:
        rows = fo.Rows(*drawn(rng, shape, dtype, 400))
        dense = scattered(rows, np.zeros(shape, dtype))
        other = rng.standard_normal(3000)
        assert fo.global_norm([rows, other]) == fo.global_norm([dense, other])
        assert fo.global_norm(rows) == fo.global_norm(dense)
        for backend in BACKENDS:
            opt = fo.SGD(np.zeros(shape, dtype), max_grad_norm=1.0, backend=backend)
            opt.step(rows)
            assert opt.grad_norm == fo.global_norm(dense)


def test_functions_that_change_gradients_take_arrays_alone():
    rows = fo.Rows([1], np.ones((1, 2)))
    for function in (fo.clip_grad_norm_, fo.clip_grad_value_):
        with pytest.raises(TypeError, match=r"^grads\[0\]: expected a NumPy array, found Rows"):
            function([rows], 1.0)
    with pytest.raises(TypeError, match=r"found Rows, which only an optimizer takes"):
        fo.functional.sgd(np.ones((5, 2)), rows)


# What they are among


def test_rows_in_containers_of_every_kind():
    rows = fo.Rows([1], np.ones((1, 2)))
    for params, grads in [
        ({"a": {"b": np.ones((3, 2))}, "c": [np.ones(3)]}, {"a": {"b": rows}, "c": [None]}),
        ([np.ones((3, 2)), np.ones(3)], (rows, np.ones(3))),
        ({"a": np.ones((3, 2))}, {"a": rows}),
    ]:
        opt = fo.SGD(params, lr=1.0)
        opt.step(grads)
        table = opt.param_groups[0]["params"][0]
        assert table.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_groups_of_which_one_is_lazy():
    p, q = np.ones((3, 2)), np.ones((3, 2))
    opt = fo.Adam([{"params": p, "lazy": True}, {"params": q}], lr=0.1)
    rows = fo.Rows([1], np.ones((1, 2)))
    opt.step([rows, np.ones((3, 2))])
    assert p[0].tolist() == [1, 1]
    with pytest.raises(TypeError, match=r"^grads\[1\]: expected an array for adam"):
        opt.step([np.ones((3, 2)), rows])
    assert "lazy=True" in repr(opt)


def test_step_counts_state_and_checkpoints(tmp_path):
    rng = np.random.default_rng(6)
    p, opt = started(fo.Adam, (50, 3), np.float32, lazy=True)
    for _ in range(3):
        opt.step(fo.Rows(*drawn(rng, p.shape, p.dtype, 9)))
    opt.save(tmp_path / "run")
    _, again = started(fo.Adam, (50, 3), np.float32)
    again.load(tmp_path / "run")
    assert again.lazy is True
    old = opt.state_dict()
    del old["param_groups"][0]["lazy"]  # as versions without it have saved it
    r, third = started(fo.Adam, (50, 3), np.float32, lazy=True)
    third.load_state_dict(old)
    assert third.lazy is False
    third.lazy = True
    r[...] = p
    for _ in range(3):
        rows = fo.Rows(*drawn(rng, p.shape, p.dtype, 9))
        for one in (opt, again, third):
            one.step(rows)
    assert_same(again, opt)
    assert_same(third, opt)


def test_a_step_makes_nothing_of_the_size_of_the_table():
    import tracemalloc

    p = np.zeros((400_000, 8), np.float32)
    opt = fo.Adagrad(p, max_grad_norm=1.0)
    rows = fo.Rows(np.arange(0, 400_000, 5000), np.ones((80, 8), np.float32))
    opt.step(rows)
    tracemalloc.start()
    try:
        for _ in range(3):
            opt.step(rows)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def peak_of_rows(count):
    """Return the most memory that steps of some rows take, of a table with so many rows."""
    import tracemalloc

    p = np.zeros((count, 8), np.float32)
    opts = [fo.Adagrad(p, max_grad_norm=1.0), fo.Adam(np.zeros((count, 8)), lazy=True)]
    rows = fo.Rows(np.arange(80) * 37 % 9_000, np.ones((80, 8), np.float32))
    tracemalloc.start()
    try:
        for opt in opts:
            opt.step(rows)
            opt.step(rows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_table():
    peak_of_rows(9_000)  # what is made once, such as what is imported late
    assert peak_of_rows(9_000_000) < peak_of_rows(9_000) + 5_000


# What other libraries had to mend: each test is of the kind of one public report.


@pytest.mark.skipif(sys.platform == "win32", reason="a file has no holes there")
def test_elements_beyond_the_range_of_32_bits(tmp_path):
    """In gensim (issue 3100) words moved that no batch had, in tables of so many elements."""
    shape = (2**26 + 9, 64)  # elements beyond 2**32
    try:
        table = np.asarray(np.memmap(tmp_path / "table", np.float32, "w+", shape=shape))
    except OSError as error:
        pytest.skip(f"no file of that size: {error}")
    touched = np.array([0, 3, 2**25 - 1, 2**25, 2**26 - 1, 2**26, 2**26 + 8])
    values = -np.arange(1.0, 8)[:, None] * np.ones(64, np.float32)
    fo.SGD(table, lr=1.0).step(fo.Rows(touched[::-1], values[::-1].astype(np.float32)))
    near = np.unique([k for row in touched for k in (row - 1, row, row + 1)])
    near = near[(near >= 0) & (near < len(table))]
    expected = np.zeros((len(near), 64))
    expected[np.searchsorted(near, touched)] = -values
    assert (table[near] == expected).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 3, 64])
def test_a_batch_that_has_no_row(backend, width):
    """Torch's SparseAdam (issue 82486) failed where a batch had but padding."""
    p, empty = np.ones((5, width)), fo.Rows(np.empty(0, np.int64), np.empty((0, width)))
    opt = fo.Adam(p, lazy=True, backend=backend)
    opt.step(empty)
    assert (p == 1).all()
    assert not any(array.any() for array in opt.state[0].values())
    rows = fo.Rows([4, 1, 4], np.ones((3, width)))
    opt.step(rows)
    opt.step(empty)
    other = fo.Adam(np.ones((5, width)), lazy=True, backend=backend)
    other.step(rows)
    assert all(same_bits(opt.state[0][name], other.state[0][name]) for name in ("m", "v"))
    assert (p[[0, 2, 3]] == 1).all()


@pytest.mark.parametrize("cls", [fo.Adagrad, fo.Adam, fo.FTRL])
def test_tables_of_one_shape_have_their_own_state(cls):
    """In LightFM (pull request 32) users were stepped by the state of items."""
    options = {} if cls is fo.Adagrad else {"lazy": True}
    rng = np.random.default_rng(0)
    tables = {name: np.zeros((60, 70), np.float32) for name in ("users", "items")}
    alone = {name: cls({name: p.copy()}, **options) for name, p in tables.items()}
    both = cls(tables, **options)
    for _ in range(20):
        grads = {name: fo.Rows(*drawn(rng, (60, 70), np.float32, 90)) for name in tables}
        both.step(grads)
        for name, opt in alone.items():
            opt.step({name: grads[name]})
    for name, opt in alone.items():
        assert same_bits(tables[name], opt.param_groups[0]["params"][0])
        for array, found in zip(both.state[name].values(), opt.state[name].values(), strict=True):
            assert same_bits(array, found)


@pytest.mark.parametrize("width", [8, 64])
def test_a_row_that_is_given_beside_itself(width):
    """LightFM (pull request 45) and DGL (2451) stepped a row once for each time it was given."""
    values = np.ones((4096, width), np.float32)
    found = []
    for rows in (
        fo.Rows(np.zeros(4096, np.int32), values),
        fo.Rows([0], values.sum(0, keepdims=True)),
    ):
        p = np.ones((3, width), np.float32)
        opt = fo.Adagrad(p)
        opt.step(rows)
        found.append((p, opt.state[0]["h"]))
    assert same_bits(found[0][0], found[1][0])
    assert same_bits(found[0][1], found[1][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_in_rows_that_are_given(backend):
    """In torch (issue 18404) embeddings of zero gradient moved; here only those that are given."""
    p, zeros = np.ones((4, 2)), np.zeros((2, 2))
    opt = fo.Adam(p, lazy=True, backend=backend)
    opt.step(fo.Rows([1, 2], np.ones((2, 2))))
    before = p.copy()
    opt.step(fo.Rows([0, 1], zeros))
    assert (p[1] < before[1]).all()  # as its average says
    assert same_bits(p[[0, 2, 3]], before[[0, 2, 3]])


# Rules of the user's own


def plain_scalars(step, lr=0.1, decay=0.0):
    return lr, decay


@fo.rule(scalars=plain_scalars, state=("h",), rests=True)
def summing(p, g, h, lr, decay):
    h = h + g * g - decay * h
    return p - (lr * g) / (fo.sqrt(h) + lr), h


@fo.rule(scalars=plain_scalars, state=("m",))
def moving(p, g, m, lr, decay):
    m = m + g
    return p - lr * m, m


@pytest.mark.filterwarnings("ignore:.*has no compiled loop:RuntimeWarning")
def test_own_rules():
    summed, moved = fo.optimizer(summing), fo.optimizer(moving)
    p, q = np.ones((5, 2)), np.ones((5, 2))
    ours, dense = summed(p), summed(q)
    rng = np.random.default_rng(8)
    for _ in range(5):
        rows = fo.Rows(*drawn(rng, p.shape, p.dtype, 4))
        ours.step(rows)
        dense.step(scattered(rows, q))
    assert_same(ours, dense)
    ours.decay = 0.5
    message = "^summing: expected a step that changes nothing where the gradient is zero, as rests="
    with pytest.raises(ValueError, match=message):
        ours.step(rows)
    r = np.ones((5, 2))
    with pytest.raises(TypeError, match=r"set lazy=True"):
        moved(r).step(rows)
    moved(r, lazy=True).step(fo.Rows([1], np.ones((1, 2))))
    assert r[1].tolist() == [0.9, 0.9]
    with pytest.raises(TypeError, match=r"^rests: expected True or False"):
        fo.rule(scalars=plain_scalars, rests=1)


# Sparse matrices of SciPy


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_from_csr(kind):
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(9)
    dense = rng.standard_normal((30, 4)) * (rng.random((30, 4)) < 0.1)
    for make in (f"{kind}_matrix", f"{kind}_array"):
        rows = fo.Rows.from_csr(getattr(sparse, make)(dense))
        assert scattered(rows, dense).tolist() == dense.tolist()
        assert rows.indices.tolist() == np.flatnonzero(dense.any(axis=1)).tolist()
    column = sparse.csr_array(dense[:, :1])
    p = np.zeros(30)
    fo.SGD(p, lr=1.0).step(fo.Rows.from_csr(column))
    assert p.tolist() == (0 - dense[:, 0]).tolist()
    with pytest.raises(TypeError, match=r"found one in coo format: write matrix.tocsr\(\)"):
        fo.Rows.from_csr(sparse.coo_matrix(dense))
    with pytest.raises(TypeError, match=r"found ndarray"):
        fo.Rows.from_csr(dense)


def test_from_csr_adds_up_what_is_stored_twice_and_refuses_what_is_outside():
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix((2, 3))
    matrix.indptr, matrix.indices = np.array([0, 0, 2]), np.array([1, 1])
    matrix.data = np.array([1.0, 2.0])
    rows = fo.Rows.from_csr(matrix)
    assert (rows.indices.tolist(), rows.values.tolist()) == ([1], [[0, 3, 0]])
    for wrong in ([1, 3], [-1, 1]):
        matrix.indices = np.array(wrong)
        with pytest.raises(ValueError, match=r"expected indices from 0 to 2"):
            fo.Rows.from_csr(matrix)
    matrix.indptr = np.array([0, 0, 7])
    with pytest.raises(ValueError, match=r"^matrix: expected 2 counts"):
        fo.Rows.from_csr(matrix)


def test_they_look_like_what_they_are():
    assert repr(fo.Rows([1, 2], np.ones((2, 3)))) == "Rows(2 rows of shape (3,))"
    assert _rows.Rows is fo.Rows


# What surrounds them


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormal_numbers_may_be_zero(dtype):
    """In the sums, too: in both backends alike, at every level."""
    rng = np.random.default_rng(10)
    tiny = float(np.finfo(dtype).tiny)
    found = []
    for backend, level in [("reference", None), *(("compiled", level) for level in LEVELS)]:
        rng = np.random.default_rng(10)
        p = (rng.standard_normal((40, 6)) * tiny).astype(dtype)
        opt = fo.Adagrad(p, lr=0.5, flush_denormals=True, max_grad_norm=1.0, backend=backend)
        with engine(level):
            for _ in range(4):
                values = (rng.standard_normal((30, 6)) * tiny).astype(dtype)
                opt.step(fo.Rows(rng.integers(0, 40, 30), values))
        found.append(opt)
    for opt in found[1:]:
        assert_same(opt, found[0])


def test_gradients_are_only_read():
    values = np.ones((3, 4))
    indices = np.array([2, 0, 2])
    for array in (values, indices):
        array.flags.writeable = False
    for backend in BACKENDS:
        fo.SGD(np.ones((3, 4)), backend=backend).step(fo.Rows(indices, values))
    assert values.tolist() == np.ones((3, 4)).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_for_all_indices(backend):
    """Values that lie at one place, as `np.broadcast_to` makes them."""
    p = np.zeros((5, 3), np.float32)
    values = np.broadcast_to(np.float32([1, 2, 3]), (4, 3))
    fo.SGD(p, lr=1.0, backend=backend).step(fo.Rows([4, 0, 4, 4], values))
    assert p.tolist() == [[-1, -2, -3], [0] * 3, [0] * 3, [0] * 3, [-3, -6, -9]]


def test_they_pickle_and_copy():
    rows = fo.Rows(np.array([1, 1]), np.ones((2, 3)))
    for again in (pickle.loads(pickle.dumps(rows)), copy.deepcopy(rows)):
        assert again.indices.tolist() == [1, 1]
        assert again.values.tolist() == rows.values.tolist()


def test_a_schedule_that_changes_what_was_given():
    """Arrays are looked at once the code of the user has run."""
    p = np.zeros((5, 2))
    values = np.ones((2, 2))
    state = {"wrong": False}

    def lr(t):
        if state["wrong"]:
            rows.values = np.ones((7, 9))
            rows.indices = np.array([99])
            values.shape = (4, 1)
        return 1.0

    opt = fo.SGD(p, lr=lr)
    rows = fo.Rows(np.array([1, 3]), values)
    state["wrong"] = True
    opt.step(rows)  # by what it was given
    assert p.tolist() == [[0, 0], [-1, -1], [0, 0], [-1, -1], [0, 0]]
    with pytest.raises(ValueError, match=r"^grads.values: expected a row for each of 1 indices"):
        opt.step(rows)


@pytest.mark.parametrize("options", [{"zeroing": True}, {"range": (0, 10)}], ids=str)
def test_plans_that_take_arrays_alone(options):
    p = np.ones((5, 2))
    entry = Entry(p, range=options.pop("range", None))
    plan = Plan([entry], [("p", "g")], [fo.reference.sgd.twin], **options)
    group = Fixed((Before(1.0), After(), fo.reference.sgd.scalars(1, 1.0)))
    with pytest.raises(TypeError, match=r"^g: expected an array here, found Rows$"):
        plan.step([fo.Rows([1], np.ones((1, 2)))], [group])
    assert p.tolist() == np.ones((5, 2)).tolist()


def test_state_on_disk_takes_arrays_alone(tmp_path):
    p = np.ones((5, 2))
    opt = fo.Adagrad({"table": p}, state_path=tmp_path / "state")
    expected = (
        "grads['table']: expected an array here, found Rows: write g = "
        "np.zeros_like(params['table']); np.add.at(g, rows.indices, rows.values), which steps all "
        "rows"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
        opt.step({"table": fo.Rows([1], np.ones((1, 2)))})
    assert p.tolist() == np.ones((5, 2)).tolist()
    assert not opt.state["table"]["h"].any()


def test_the_page_about_them(capsys):
    """Its blocks run in turn; the lists in it are those of the rules."""
    page = (Path(__file__).parents[1] / "docs/rows.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "rows.md", "exec"), names)
    said = page[page.index("It works with") : page.index("`fo.Adam(table, lazy=True, eps_hat")]
    taken, refused = said.split("Others refuse it")
    for cls, _ in LAZY:
        assert f"`{cls.__name__}`" in taken or cls in (fo.Adagrad, fo.FTRL)
    for cls in REFUSING:
        assert f"`{cls.__name__}`" in refused or cls.__name__.startswith("ScheduleFree")
