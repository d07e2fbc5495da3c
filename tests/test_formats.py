"""Formats that are only here go through the whole engine: no loop has been told of them.

One is float32 in the other byte order. Whatever is done with arrays in it must leave the numbers
that are left in plain arrays, in parameters, state and averages, bit for bit.

The others hold codes, integers that NumPy would take for other numbers, and are not as wide as what
is computed in. They round what they store, so that both backends are compared with each other.
"""

from __future__ import annotations

import ctypes
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from zoo import (
    OPTIMIZERS,
    PAIR_IDS,
    PAIRS,
    TASK,
    TILE,
    arrays_of,
    engine,
    name_of,
    same_bits,
)

import fastoptim as fo
from fastoptim._engine.entry import Entry
from fastoptim._engine.formats import FORMATS, Format
from fastoptim._engine.plan import Plan
from fastoptim._rule import Fixed
from fastoptim._stages import After, Before

SWAPPED = np.dtype(np.float32).newbyteorder()
CC = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not shutil.which(CC):
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("formats") / "formats.so"
    source = Path(__file__).with_name("formats.c")
    subprocess.run([CC, "-O2", "-shared", "-fPIC", source, "-o", path], check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture(autouse=True)
def swapped(library, monkeypatch):
    """Add the format, with a C function that swaps bytes and NumPy's own conversion as its twin."""
    address = address_of(library.swap_bytes)
    added = Format(SWAPPED, np.float32, address, address, plain, lambda a: a.astype(SWAPPED))
    monkeypatch.setitem(FORMATS, SWAPPED, added)


def address_of(function):
    return ctypes.cast(function, ctypes.c_void_p).value


class Codes(NamedTuple):
    """A format of codes, and how NumPy makes real numbers of them and back."""

    dtype: type
    real: type
    name: str
    decode: Callable
    encode: Callable

    def random(self, shape):
        return self.encode(RNG.standard_normal(shape).astype(self.real))


# narrower than a float and than a double
UPPER = Codes(
    np.uint16,
    np.float32,
    "upper",
    lambda a: (a.astype(np.uint32) << 16).view(np.float32),
    lambda a: (a.view(np.uint32) >> 16).astype(np.uint16),
)
SINGLE = Codes(
    np.uint32,
    np.float64,
    "single",
    lambda a: a.view(np.float32).astype(np.float64),
    lambda a: a.astype(np.float32).view(np.uint32),
)


@pytest.fixture(params=[UPPER, SINGLE], ids=lambda codes: codes.name)
def codes(request, library, monkeypatch):
    """Add a format of codes."""
    codes = request.param
    load, store = (getattr(library, f"{verb}_{codes.name}") for verb in ("load", "store"))
    addresses = address_of(load), address_of(store)
    added = Format(codes.dtype, codes.real, *addresses, codes.decode, codes.encode)
    monkeypatch.setitem(FORMATS, added.dtype, added)
    return codes


def plain(a):
    return a.astype(np.float32)


def assert_same_numbers(swapped, expected):
    for (name, a), (_, b) in zip(arrays_of(swapped), arrays_of(expected), strict=True):
        assert a.dtype == SWAPPED
        assert same_bits(plain(a), b), name
    assert swapped.grad_norm == expected.grad_norm


def both(cls, arrays, steps=3, layout=lambda g: g, **chosen):
    """Step the same numbers in both formats, and compare all that is left."""
    pairs = [[a.astype(dtype) for a in arrays] for dtype in (SWAPPED, np.float32)]
    optimizers = [cls(params, **chosen) for params in pairs]
    for _ in range(steps):
        grads = [RNG.standard_normal(a.shape).astype(np.float32) for a in arrays]
        for optimizer, dtype in zip(optimizers, (SWAPPED, np.float32), strict=True):
            optimizer.step([layout(g.astype(dtype)) for g in grads])
    assert_same_numbers(*optimizers)
    return optimizers


def numbers(*shapes):
    return [RNG.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(("cls", "chosen"), PAIRS, ids=PAIR_IDS)
def test_every_rule_with_every_option(cls, chosen):
    both(cls, numbers(5, (3, 7), TILE + 1), **chosen)


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_both_backends_have_the_same_bits(cls, backend):
    params = [a.astype(SWAPPED) for a in numbers(TILE + 3, (4, 5))]
    expected = [p.copy() for p in params]
    ours, reference = cls(params, backend=backend), cls(expected, backend="reference")
    for _ in range(3):
        grads = [a.astype(SWAPPED) for a in numbers(TILE + 3, (4, 5))]
        ours.step(grads)
        reference.step(grads)
    for (name, a), (_, b) in zip(arrays_of(ours), arrays_of(reference), strict=True):
        assert same_bits(plain(a), plain(b)), name


@pytest.mark.parametrize("n", [1, TILE - 1, TILE, TILE + 1, TASK - 1, TASK + 1, 2 * TASK + 3])
@pytest.mark.parametrize("cls", [fo.SGD, fo.Adam, fo.LAMB])
def test_edges_of_tiles_and_tasks(cls, n):
    with engine(threads=3):
        both(cls, numbers(n, 7), ema_decay=0.75, max_grad_norm=1.0)


@pytest.mark.parametrize("cls", [fo.SGD, fo.Adam, fo.LAMB])
def test_gradients_in_another_layout(cls):
    def reversed_and_transposed(g):
        return np.asfortranarray(g)[::-1][::-1] if g.ndim == 2 else np.repeat(g, 2)[::2]

    with engine(threads=2):
        both(
            cls, numbers((70, 90), 2 * TILE + 5), layout=reversed_and_transposed, max_grad_norm=0.5
        )


def test_masks_bounds_and_a_skipped_parameter():
    mask = [RNG.random(a) < 0.5 for a in ((3, 4), 9)]
    chosen = {"mask": mask, "bounds": (-0.5, 0.5), "ema_decay": 0.9}
    swapped, expected = both(fo.AdamW, numbers((3, 4), 9), **chosen)
    grads = numbers((3, 4))
    swapped.step([grads[0].astype(SWAPPED), None])
    expected.step([grads[0], None])
    assert_same_numbers(swapped, expected)
    with swapped.use_ema(), expected.use_ema():
        assert_same_numbers(swapped, expected)


def test_zeroed_gradients():
    for layout in (np.array, np.asfortranarray):
        p, g = (a.astype(SWAPPED) for a in numbers((40, 30), (40, 30)))
        q, g = plain(p) - plain(g), layout(g)
        plan = Plan(
            [Entry(p)],
            [("p", "g")],
            [fo.reference.sgd.twin],
            fo._levels.loops["sgd"],
            zeroing=True,
        )
        own = fo.reference.sgd.scalars(1, 1.0)
        plan.step([g], [Fixed((Before(1.0), After(), own))])
        assert same_bits(plain(p), q)
        assert (plain(g) == 0).all()


def test_norm_and_clipping():
    grads = numbers((30, 40), 7)
    swapped = [g.astype(SWAPPED) for g in grads]
    assert fo.global_norm(swapped) == fo.global_norm(grads)
    assert fo.clip_grad_norm_(swapped, 1.0) == fo.clip_grad_norm_(grads, 1.0)
    fo.clip_grad_value_(swapped, 0.01)
    fo.clip_grad_value_(grads, 0.01)
    for a, b in zip(swapped, grads, strict=True):
        assert same_bits(plain(a), b)
    swapped[0][3, 4] = np.nan
    assert not fo.all_finite(swapped)


def test_beside_parameters_in_other_formats():
    params = [np.ones(3, dtype) for dtype in (np.float32, SWAPPED, np.float64)]
    fo.SGD(params, lr=0.5).step([np.ones(3, p.dtype) for p in params])
    assert all((p == 0.5).all() for p in params)
    fo.SGD(params, lr=0.5).step([None, np.ones(3, np.float32), None])  # as the loops have it
    assert (params[1] == 0.0).all()
    with pytest.raises(TypeError, match=r"grads\[2\]: expected dtype float64 .*, found >f4"):
        fo.SGD(params).step([None, None, np.ones(3, SWAPPED)])


def test_an_unknown_format_is_refused_by_all_names():
    with pytest.raises(TypeError, match="expected dtype float32 or float64 or >f4, found int64"):
        fo.SGD(np.ones(3, np.int64))


def test_half_a_format_is_refused():
    with pytest.raises(ValueError, match="all of them or none"):
        Format(SWAPPED, np.float32, load=1)
    with pytest.raises(ValueError, match="expected >f4 without load"):
        Format(SWAPPED, np.float32)
    with pytest.raises(ValueError, match="float32 or float64, found int32"):
        Format(SWAPPED, np.int32)


def assert_same_codes(*optimizers):
    for (name, a), (_, b) in zip(*map(arrays_of, optimizers), strict=True):
        assert np.array_equal(a, b), name
    assert len({optimizer.grad_norm for optimizer in optimizers}) == 1


def on_both_backends(codes, cls, shapes, layout=lambda g: g, threads=None, **chosen):
    """Step the same codes on both backends, and compare all that is left."""
    params = [codes.random(shape) for shape in shapes]
    ours = cls([p.copy() for p in params], backend="compiled", **chosen)
    reference = cls([p.copy() for p in params], backend="reference", **chosen)
    for _ in range(3):
        grads = [layout(codes.random(shape)) for shape in shapes]
        with engine(threads=threads):
            ours.step(grads)
        reference.step(grads)
        assert_same_codes(ours, reference)
    for before, (_, after) in zip(params, arrays_of(ours), strict=False):
        assert not np.array_equal(before, after)
    return ours, reference


@pytest.mark.parametrize(
    ("cls", "chosen"),
    [pair for pair in PAIRS if not pair[0].rule.starts],
    ids=[i for i, pair in zip(PAIR_IDS, PAIRS, strict=True) if not pair[0].rule.starts],
)
def test_codes_with_every_option(codes, cls, chosen):
    on_both_backends(codes, cls, [5, (3, 7), TILE + 1], **chosen)


@pytest.mark.parametrize("cls", [fo.SGD, fo.Adam, fo.LAMB])
def test_codes_in_several_tiles_and_tasks(codes, cls):
    shapes = [TASK + 1, (70, 90), 2 * TILE]
    chosen = {"ema_decay": 0.75, "max_grad_norm": 1.0, "threads": 3}
    on_both_backends(codes, cls, shapes, **chosen)
    on_both_backends(codes, cls, shapes, np.asfortranarray, **chosen)
    on_both_backends(codes, cls, shapes, lambda g: np.repeat(g, 2, axis=0)[::-2], **chosen)


def test_averages_of_codes(codes):
    ours, reference = on_both_backends(codes, fo.SGD, [(4, 5), 9], ema_decay=0.5, lr=0.5)
    for optimizer in ours, reference:
        optimizer.step([None, codes.encode(np.ones(9, codes.real))])
    assert_same_codes(ours, reference)
    before = [p.copy() for _, p in arrays_of(ours)]
    averages = [a.copy() for a in ours.ema]
    with ours.use_ema():
        assert all(map(np.array_equal, ours.param_groups[0]["params"], averages))
    assert all(map(np.array_equal, before, [p for _, p in arrays_of(ours)]))


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("layout", [slice(1, -1), slice(-2, 0, -1)], ids=["in place", "gathered"])
def test_codes_are_zeroed_and_nothing_beside_them(codes, layout, backend):
    around = codes.random(TILE + 5)
    before = around.copy()
    p = np.zeros(TILE + 3, codes.dtype)
    expected = codes.encode(-codes.decode(around[layout].copy()))
    loops = fo._levels.loops["sgd"] if backend == "compiled" else None
    entry = Entry(p, (None,))
    plan = Plan([entry], [("p", "g", "v")], [fo.reference.sgd.twin], loops, zeroing=True)
    own = fo.reference.sgd.scalars(1, 1.0)
    plan.step([around[layout]], [Fixed((Before(1.0), After(), own))])
    assert np.array_equal(p, expected)
    assert not around[1:-1].any()
    assert np.array_equal(around[[0, -1]], before[[0, -1]])


def test_codes_that_lie_side_by_side(codes):
    memory = codes.random(3 * 16)
    g, p, other = memory[:16], memory[16:32], memory[32:]
    before = memory.copy()
    optimizer = fo.SGD(p)
    optimizer.step(g)
    optimizer.step(other)
    assert np.array_equal(memory[:16], before[:16])
    assert np.array_equal(memory[32:], before[32:])
    with pytest.raises(ValueError, match="memory apart from all parameters"):
        optimizer.step(memory[1:17])


def test_norm_and_clipping_of_codes(codes):
    grads = [codes.random((30, 40)), codes.random(7), codes.random((8, 6)).T[::-1]]
    numbers = [codes.decode(g) for g in grads]
    assert fo.global_norm(grads) == fo.global_norm(numbers)
    assert fo.clip_grad_norm_(grads, 1.0) == fo.clip_grad_norm_(numbers, 1.0)
    assert all(map(np.array_equal, grads, map(codes.encode, numbers)))
    numbers = [codes.decode(g) for g in grads]
    fo.clip_grad_value_(grads, 0.01)
    fo.clip_grad_value_(numbers, 0.01)
    assert all(map(np.array_equal, grads, map(codes.encode, numbers)))
    assert fo.all_finite(grads)
    grads[0][3, 4] = codes.encode(np.array([np.nan], codes.real))[0]
    assert not fo.all_finite(grads)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_codes_that_are_not_finite(codes, backend):
    p, bad = codes.random((2, 5)), codes.encode(np.full(5, np.inf, codes.real))
    optimizer = fo.SGD(list(p), nonfinite="raise", backend=backend)
    with pytest.raises(FloatingPointError, match=r"grads\[1\]"):
        optimizer.step([p[0].copy(), bad])


@pytest.mark.parametrize("width", [1, 6, 70, TILE + 9])
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_gradients_of_some_rows(width, backend):
    params = numbers((40, width))
    chosen = {"mask": [RNG.random((40, width)) < 0.8], "ema_decay": 0.9, "lazy": True}
    pairs = [[a.astype(dtype) for a in params] for dtype in (SWAPPED, np.float32)]
    swapped, expected = (fo.Adam(p, backend=backend, max_grad_norm=1.0, **chosen) for p in pairs)
    for _ in range(3):
        indices, (values,) = RNG.integers(0, 40, 30), numbers((30, width))
        swapped.step([fo.Rows(indices, values.astype(SWAPPED))])
        expected.step([fo.Rows(indices, values)])
    assert_same_numbers(swapped, expected)
