"""Gradients that do not lie in memory as their parameters: the same bits as from a plain copy.

Shapes are drawn around the borders of what is copied at a time: squares of a few elements, lines,
blocks, bands and tasks.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import DTYPES, LEVELS, TASK, arrays_of, engine, name_of, same_bits

import fastoptim as fo
from fastoptim import _stepper
from fastoptim._engine.plan import Plan

RNG = np.random.default_rng(23)
NUMBERS = RNG.standard_normal(1 << 20)
MOST = 1 << 17  # elements of a drawn array
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 64, 65, 255, 256, 257, 513, 2049, 4097, 9000]
OPTIONS = [
    {},
    {"ema_decay": 0.9, "bounds": (-0.75, 1.5)},
    {"max_grad_norm": 1.0, "weight_decay": 0.3},
]


@st.composite
def shapes(draw):
    """Draw a shape of up to four axes with not too many elements."""
    shape = []
    for _ in range(draw(st.integers(1, 4))):
        left = MOST // int(np.prod(shape, dtype=int))
        shape.append(draw(st.sampled_from([n for n in LENGTHS if n <= left])))
    return tuple(draw(st.permutations(shape)))


@st.composite
def views(draw, shape, dtype, broadcast=True):
    """Draw an array of a shape: axes in any order, strides of any sign and size, any alignment."""
    order = draw(st.permutations(range(len(shape))))
    kinds = ["plain", "plain", "every second", "part", "reversed"] + ["broadcast"] * broadcast
    lengths, index = [], []
    for axis in order:
        n, kind = shape[axis], draw(st.sampled_from(kinds))
        lengths.append({"every second": 2 * n, "part": n + 3, "broadcast": 1}.get(kind, n))
        index.append(
            {
                "every second": slice(None, None, 2),
                "part": slice(1, n + 1),
                "reversed": slice(None, None, -1),
            }.get(kind, slice(None))
        )
    size = int(np.prod(lengths, dtype=int))
    phase = draw(st.integers(0, 64))
    buffer = np.empty(size * dtype.itemsize + 64, np.uint8)
    base = buffer[phase : phase + size * dtype.itemsize].view(dtype)
    base[...] = np.resize(NUMBERS, size)
    view = base.reshape(lengths)[tuple(index)].transpose(np.argsort(order))
    return base, np.broadcast_to(view, shape)


def in_any_order(draw, shape, dtype):
    """Draw a dense array, whose axes lie in memory in any order."""
    order = draw(st.permutations(range(len(shape))))
    p = np.resize(NUMBERS[::-1], [shape[axis] for axis in order]).astype(dtype)
    return p.transpose(np.argsort(order))


def assert_same(ours, expected):
    for (name, a), (_, b) in zip(arrays_of(ours), arrays_of(expected), strict=True):
        assert same_bits(a, b), name
    assert ours.grad_norm == expected.grad_norm


def like(p, g):
    """Return a copy of a gradient that lies in memory as its parameter."""
    copy = np.empty_like(p)
    copy[...] = g
    return copy


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_layout_gives_the_bits_of_a_copy(data):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    params, grads = [], []
    for _ in range(data.draw(st.integers(1, 2))):
        shape = data.draw(shapes())
        params.append(in_any_order(data.draw, shape, dtype))
        grads.append(data.draw(views(shape, dtype))[1])
    cls = data.draw(st.sampled_from([fo.SGD, fo.Adam, fo.LAMB]))
    options = dict(data.draw(st.sampled_from(OPTIONS)))
    if data.draw(st.booleans()):
        options["mask"] = [p > 0 for p in params]
    ours = cls([p.copy(order="K") for p in params], lr=0.1, **options)
    expected = cls([p.copy(order="K") for p in params], lr=0.1, **options)
    copies = [like(p, g) for p, g in zip(params, grads, strict=True)]
    with engine(data.draw(st.sampled_from([None, *LEVELS])), data.draw(st.integers(1, 4))):
        ours.step(grads)
        expected.step(copies)
    assert_same(ours, expected)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_zeroing_leaves_zeros_there_and_nowhere_else(data):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(shapes())
    p = in_any_order(data.draw, shape, dtype)
    base, g = data.draw(views(shape, dtype, broadcast=False))
    g.flags.writeable = True
    base[base == 0] = 1
    expected = fo.Adam(p.copy(order="K"), lr=0.1)
    expected.step(like(p, g))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_stepper, "Plan", partial(Plan, zeroing=True))
        ours = fo.Adam(p.copy(order="K"), lr=0.1)
        with engine(threads=data.draw(st.integers(1, 4))):
            ours.step(g)
    assert_same(ours, expected)
    assert not np.ascontiguousarray(g).view(np.uint8).any()
    assert np.count_nonzero(base) == base.size - g.size


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_norm_of_any_layout(data):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    g = data.draw(views(data.draw(shapes()), dtype))[1]
    order = sorted(range(g.ndim), key=lambda axis: -abs(g.strides[axis]))
    copy = np.array(g.transpose(order), order="C")  # as its memory runs
    with engine(threads=data.draw(st.integers(1, 4))):
        assert fo.global_norm([g]) == fo.global_norm([copy])


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "last two axes": lambda g: g.swapaxes(-1, -2).copy().swapaxes(-1, -2),
    "first two axes": lambda g: g.swapaxes(0, 1).copy().swapaxes(0, 1),
    "reversed Fortran": lambda g: np.asfortranarray(g[::-1, ::-1])[::-1, ::-1],
    "every second row of Fortran": lambda g: np.asfortranarray(np.repeat(g, 2, axis=0))[::2],
}
EDGES = [
    (33, TASK // 2 + 1),
    (3, 40_001),
    (1000, 257),
    (70_000, 3),
    (64, 64, 3, 3),
    (5, 40, 700),
    (300, 7, 512),
    (2, 3, 5, 7, 300),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", EDGES, ids=str)
def test_shapes_at_the_edges_of_blocks_and_bands(shape, layout, dtype, threads):
    p = np.resize(NUMBERS[::-1], shape).astype(dtype)
    g = LAYOUTS[layout](np.resize(NUMBERS, shape).astype(dtype))
    ours, expected = (fo.Adam(p.copy(), lr=0.1, max_grad_norm=0.5) for _ in range(2))
    with engine(threads=threads):
        ours.step(g)
        expected.step(g.copy(order="C"))
    assert_same(ours, expected)
