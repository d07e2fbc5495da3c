"""Gradients as people have them: of other libraries, in other dtypes and shapes, as numbers."""

from __future__ import annotations

import array
import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import (
    LEVELS,
    OPTIMIZERS,
    PAIR_IDS,
    PAIRS,
    TASK,
    TILE,
    assert_same,
    engine,
    name_of,
    same_bits,
    snapshot,
)

import fastoptim as fo
from fastoptim import _levels
from fastoptim._engine.entry import Entry
from fastoptim._engine.foreign import as_ndarray
from fastoptim._engine.plan import Plan
from fastoptim._rule import Fixed
from fastoptim._stages import After, Before

RNG = np.random.default_rng(31)
BACKENDS = pytest.mark.parametrize("backend", ["compiled", "reference"])
# How gradients may be stored that differ from their parameters, and whether that is asked for.
CASTS = pytest.mark.parametrize(
    ("of_p", "of_g"), [(np.float64, np.float32), (np.float32, np.float64)], ids=["widen", "narrow"]
)


def ugly(shape, dtype):
    """Return numbers over all magnitudes, among them what rounds in every way there is."""
    g = RNG.standard_normal(shape) * 10.0 ** RNG.integers(-50, 38, shape)
    odd = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42, -1e-45, 5e-324, 3.4028235e38, 3.4028236e38]
    odd += [1e300, -1e39, 1 + 2.0**-24, 1 + 3 * 2.0**-24, 7e-46, 7.1e-46, 1.1754943e-38]
    with np.errstate(all="ignore"):
        g = np.where(RNG.random(shape) < 0.3, RNG.choice(odd, shape), g)
        return g.astype(dtype)


def tame(shape, dtype):
    return RNG.standard_normal(shape).astype(dtype)


def rounded(g, dtype):
    with np.errstate(all="ignore"):
        return g.astype(dtype)


LAYOUTS = {
    "C": lambda g: g,
    "F": np.asfortranarray,
    "every second": lambda g: np.repeat(g, 2, axis=-1)[..., ::2],
    "reversed": lambda g: g[::-1, ::-1].copy()[::-1, ::-1],
    "misaligned": lambda g: misaligned(g),
    "broadcast": lambda g: np.broadcast_to(g[:1], g.shape),
    "read-only": lambda g: np.frombuffer(g.tobytes(), g.dtype).reshape(g.shape),
    "another axis": lambda g: g[:, np.newaxis],
}


def misaligned(g):
    buffer = np.zeros(g.nbytes + 16, np.uint8)
    start = -buffer.ctypes.data % 8 + 3
    view = buffer[start : start + g.nbytes].view(g.dtype).reshape(g.shape)
    view[...] = g
    return view


def same_as_a_copy(cls, shapes, of_p, of_g, make=ugly, layout=lambda g: g, steps=2, **options):
    """Step with gradients in another dtype, and with copies in that of the parameters."""
    params = [tame(shape, of_p) for shape in shapes]
    ours, plain = (cls([p.copy() for p in params], **options) for _ in range(2))
    ours.cast_grads = of_p == np.float32
    for _ in range(steps):
        grads = [layout(make(shape, of_g)) for shape in shapes]
        before = [g.copy() for g in grads]
        ours.step(grads)
        plain.step(
            [rounded(g, of_p).reshape(shape) for g, shape in zip(grads, shapes, strict=True)]
        )
        assert all(map(same_bits, grads, before))
    assert_same(ours, plain)


@CASTS
@pytest.mark.parametrize(("cls", "chosen"), PAIRS, ids=PAIR_IDS)
def test_every_rule_with_every_option(cls, chosen, of_p, of_g):
    same_as_a_copy(cls, [5, (3, 7), TILE + 1, (), 0], of_p, of_g, tame, **chosen)


@CASTS
@BACKENDS
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_ugly_numbers(cls, backend, of_p, of_g):
    same_as_a_copy(cls, [67, (8, 9)], of_p, of_g, backend=backend)


@CASTS
@BACKENDS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cls", [fo.SGD, fo.Adam, fo.LAMB])
def test_any_layout(cls, layout, backend, of_p, of_g):
    options = {"backend": backend, "max_grad_norm": 1.0, "ema_decay": 0.5}
    same_as_a_copy(cls, [(40, 30), (3, 700)], of_p, of_g, tame, LAYOUTS[layout], **options)


@CASTS
@pytest.mark.parametrize("n", [1, TILE - 1, TILE + 1, 2047, 2049, TASK - 1, TASK + 1, 2 * TASK + 3])
@pytest.mark.parametrize("level", LEVELS)
def test_edges_of_tiles_and_tasks(n, level, of_p, of_g):
    with engine(level, threads=3):
        same_as_a_copy(fo.Adam, [n, 7], of_p, of_g, ema_decay=0.75)
        same_as_a_copy(fo.LAMB, [n, 7], of_p, of_g, tame, max_grad_norm=1.0)


@CASTS
@pytest.mark.parametrize("shape", [(300, 700), (700, 300), (9000, 5)])
def test_grids_of_blocks(shape, of_p, of_g):
    with engine(threads=2):
        same_as_a_copy(fo.Adam, [shape], of_p, of_g, tame, np.asfortranarray)
        same_as_a_copy(fo.Adam, [shape], of_p, of_g, tame, np.asfortranarray, bounds=(-0.5, 0.5))


@CASTS
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shapes_beside_plain_gradients(of_p, of_g, data):
    sides = st.sampled_from([1, 2, 3, 5, 17, 64, 300])
    shapes = data.draw(st.lists(st.lists(sides, max_size=3).map(tuple), min_size=1, max_size=4))
    others = data.draw(st.lists(st.booleans(), min_size=len(shapes), max_size=len(shapes)))
    orders = data.draw(st.lists(st.sampled_from("CF"), min_size=len(shapes), max_size=len(shapes)))
    params = [np.array(tame(s, of_p), order=o) for s, o in zip(shapes, orders, strict=True)]
    ours, plain = (
        fo.AdamW([p.copy(order="K") for p in params], max_grad_norm=1.0) for _ in range(2)
    )
    ours.cast_grads = True
    for _ in range(2):
        grads = [tame(s, of_g if other else of_p) for s, other in zip(shapes, others, strict=True)]
        ours.step(grads)
        plain.step([rounded(g, of_p) for g in grads])
    assert_same(ours, plain)


@CASTS
@BACKENDS
def test_denormals_are_flushed_as_numpy_reads_them(backend, of_p, of_g):
    g = np.array([1e-310, -1e-310, 1e-40, -1e-40, 1e-39, 1.0, 0.0, -0.0] * 70, of_g)
    p = np.ones(g.size, of_p)
    options = {"lr": 1.0, "momentum": 0.5, "flush_denormals": True, "cast_grads": True}
    ours = fo.SGD(p, backend=backend, **options)
    ours.step(g)
    v = ours.state[0]["v"].reshape(70, 8)[0]
    smallest = max(np.finfo(of_p).smallest_normal, np.finfo(of_g).smallest_normal)
    assert v[5] == 1
    assert (v[abs(g[:8]) < smallest] == 0).all()
    other = fo.SGD(np.ones(g.size, of_p), backend="reference", **options)
    other.step(g)
    assert_same(ours, other)


@BACKENDS
@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_what_rounds_to_infinity_is_not_finite(backend, nonfinite):
    params = [np.ones(3, np.float32), np.ones(2, np.float32)]
    opt = fo.SGD(params, nonfinite=nonfinite, cast_grads=True, backend=backend)
    grads = [np.ones(3), np.array([1.0, 1e39])]
    if nonfinite == "raise":
        with pytest.raises(FloatingPointError, match=r"grads\[1\]: expected finite numbers"):
            opt.step(grads)
    else:
        opt.step(grads)
        assert opt.skipped_steps == 1
    assert all((p == 1).all() for p in params)


@BACKENDS
def test_what_would_round_is_refused_unless_asked_for(backend):
    params = {"w": np.ones(3, np.float32), "b": np.ones(3)}
    opt = fo.Adam(params, backend=backend)
    opt.step({"w": np.ones(3, np.float32), "b": np.ones(3, np.float32)})
    before = snapshot(opt)
    message = (
        r"grads\['w'\]: expected dtype float32 as params\['w'\] has, found float64, .*: pass "
        r"g.astype\(np.float32\), or let the optimizer do so by cast_grads=True"
    )
    for _ in range(2):
        with pytest.raises(TypeError, match=message):
            opt.step({"w": np.ones(3), "b": np.ones(3, np.float32)})
        assert snapshot(opt) == before
    opt.cast_grads = True
    opt.step({"w": np.ones(3), "b": np.ones(3)})
    opt.cast_grads = False
    with pytest.raises(TypeError, match=message):
        opt.step({"w": np.ones(3), "b": np.ones(3)})
    assert opt.steps == {"w": 2, "b": 2}


def test_the_setting_is_saved():
    opt = fo.SGD(np.ones(3, np.float32), cast_grads=True)
    assert "cast_grads=True" in repr(opt)
    other = fo.SGD(np.ones(3, np.float32))
    saved = opt.state_dict()
    other.load_state_dict(saved)
    assert other.cast_grads
    del saved["settings"]["cast_grads"]  # as versions before it
    other.load_state_dict(saved)
    assert not other.cast_grads


@BACKENDS
@pytest.mark.parametrize(
    "dtype", ["f2", "i4", "i8", "u1", "?", "c8", "c16", "O", "g", ">f4", ">f8"]
)
@pytest.mark.parametrize("cast", [False, True])
def test_other_dtypes_are_refused(dtype, cast, backend):
    """What the message says to write is then taken."""
    for of_p in (np.float32, np.float64):
        opt = fo.SGD([np.ones(3, of_p)], lr=1.0, cast_grads=cast, backend=backend)
        g = np.ones(3).astype(dtype)
        with pytest.raises(TypeError, match=r"grads\[0\]: expected dtype float.* found ") as caught:
            opt.step([g])
        opt.step([eval(str(caught.value).partition(": write ")[2], {"np": np, "g": g})])
        assert not opt.param_groups[0]["params"][0].any()


@BACKENDS
@pytest.mark.parametrize("dtype", ["U3", "S3", "V8", "M8[s]"])
def test_dtypes_that_are_not_of_numbers_are_refused(dtype, backend):
    opt = fo.SGD(np.ones(3), backend=backend)
    with pytest.raises(TypeError, match=r"grads: expected dtype float64 as .* found .*; a grad"):
        opt.step(np.zeros(3, dtype))


@BACKENDS
@pytest.mark.parametrize(
    ("shape", "of_g"),
    [
        ((3,), (1, 3)),
        ((3,), (3, 1)),
        ((1, 3), (3,)),
        ((3, 1), (1, 3)),
        ((), (1,)),
        ((1, 1), ()),
        ((2, 3), (2, 1, 3)),
        ((2, 1, 3), (1, 2, 3, 1)),
        ((0, 3), (1, 0, 3)),
        ((1,), (1, 1, 1)),
    ],
)
def test_axes_of_length_1_make_no_difference(shape, of_g, backend):
    for layout in (lambda g: g, np.asfortranarray, lambda g: np.repeat(g, 2)[::2].reshape(g.shape)):
        p, g = tame(shape, np.float64), tame(shape, np.float64)
        q = p.copy()
        options = {"max_grad_norm": 1.0, "backend": backend}
        ours, plain = fo.Adam([p], **options), fo.Adam([q], **options)
        ours.step([layout(g.reshape(of_g))])
        ours.step([layout(g.reshape(of_g).astype(np.float32))])
        plain.step([g])
        plain.step([g.astype(np.float32).astype(np.float64)])
        assert_same(ours, plain)


@BACKENDS
def test_other_shapes_are_refused(backend):
    opt = fo.SGD([np.ones((2, 3))], backend=backend)
    for shape in [(3, 2), (6,), (1, 6), (1, 3), (2,), (2, 3, 2), ()]:
        with pytest.raises(ValueError, match=r"grads\[0\]: expected shape \(2, 3\) as params\[0\]"):
            opt.step([np.ones(shape, np.float32)])
    assert opt.steps == {0: 0}


class Exports:
    """An array of a library that lets NumPy have it by one protocol."""

    def __init__(self, data, *protocols):
        self.held = data
        self.protocols = protocols

    def __getattr__(self, name):
        if name in self.__dict__.get("protocols", ()):
            return getattr(self.held, name)
        raise AttributeError(name)


class Array(Exports):
    def __array__(self, dtype=None, copy=None):
        return self.held


class DLPack(Exports):
    def __dlpack__(self, **kwargs):
        return self.held.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.held.__dlpack_device__()


class Deceptive(Array, DLPack):
    def __dlpack__(self, **kwargs):
        return (-self.held).__dlpack__(**kwargs)


FORMS = {
    "__array__": Array,
    "__dlpack__": DLPack,
    "__array__ before __dlpack__": Deceptive,
    "__array_interface__": lambda g: Exports(g, "__array_interface__"),
    "__array_struct__": lambda g: Exports(g, "__array_struct__"),
    "memoryview": memoryview,
    "list": lambda g: g.tolist(),
    "tuples": lambda g: tuple(map(tuple, g.tolist())),
    "list of NumPy's scalars": lambda g: [list(row) for row in g],
}


@BACKENDS
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_other_arrays_and_lists(form, backend):
    p, g = tame((3, 4), np.float64), tame((3, 4), np.float64)
    q = p.copy()
    options = {"nonfinite": "raise", "backend": backend}
    ours, plain = fo.Adam([p], **options), fo.Adam([q], **options)
    ours.step([form(g)])
    plain.step([g])
    assert_same(ours, plain)
    single = fo.SGD(np.zeros((3, 4)), lr=1.0, maximize=True, backend=backend)
    single.step(form(g))
    assert same_bits(single.param_groups[0]["params"][0], g)


def test_array_of_the_standard_library():
    p = np.zeros(3)
    fo.SGD(p, lr=1.0, maximize=True).step(array.array("d", [1.0, 2.0, 3.0]))
    fo.SGD(p, lr=1.0, maximize=True).step(array.array("f", [1.0, 2.0, 3.0]))
    assert p.tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("form", [Array, DLPack, memoryview], ids=name_of)
def test_memory_of_others_is_read_where_it_is(form):
    buffer = np.ones(8)
    opt = fo.SGD([buffer[:4]])
    with pytest.raises(ValueError, match=r"grads\[0\]: expected memory apart from all parameters"):
        opt.step([form(buffer[2:6])])


ALLOWED = "; a gradient may be an array, a number of Python, or lists of numbers"
AS_ARRAY = ": write np.asarray(g, np.float64)"
TOO_LARGE = (
    "expected numbers within the range of float, found an int beyond it: write math.inf, or scale "
    "the gradient"
)


class TestNumbers:
    def test_of_parameters_of_one_element(self):
        for shape in ((), (1,), (1, 1)):
            for dtype in (np.float32, np.float64):
                p = np.zeros(shape, dtype)
                fo.SGD([p], lr=1.0, maximize=True).step([0.1])
                assert p.item() == dtype(0.1)

    def test_whole_ones(self):
        for dtype in (np.float32, np.float64):
            for value in (1, [1, 2, 3], [[1, 2, 3], [4, 5, 6]], (2**24 + 1, -(2**100), 0)):
                g = np.asarray(value, dtype)
                p = np.zeros(g.shape, dtype)
                fo.SGD(p, lr=1.0, maximize=True).step(value)
                assert same_bits(p, g)

    def test_take_on_the_dtype_as_in_numpy(self):
        p = np.zeros(3, np.float32)
        fo.SGD(p, lr=1.0, maximize=True).step([0.1, 1, 1e300])
        assert same_bits(p, np.array([0.1, 1, np.inf], np.float32))
        with pytest.raises(TypeError, match=r"grads: expected dtype float32 .*, found float64"):
            fo.SGD(p).step([np.float64(0.1), 1.0, 2.0])
        fo.SGD(p).step([np.float32(0.1)] * 3)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([True, 1, 2], f"expected a NumPy array, found list of bool{AS_ARRAY}"),
            ([1j, 1.0, 2.0], f"expected a NumPy array, found list of complex{ALLOWED}"),
            ([None] * 3, f"expected a NumPy array, found list of NoneType{ALLOWED}"),
            (["1.0"] * 3, f"expected a NumPy array, found list of str{ALLOWED}"),
            ([np.ones(3)], f"expected a NumPy array, found list of ndarray{AS_ARRAY}"),
            ([np.int64(1), 2, 3], f"expected a NumPy array, found list of int64{AS_ARRAY}"),
            ([[1.0, 2.0], [1.0]], "expected a NumPy array, found list that makes none"),
            ([1.0, 10**400, 1.0], TOO_LARGE),
            ([10**400, 1, 1], TOO_LARGE),
            (-(10**400), TOO_LARGE),
            (True, f"expected a NumPy array, found bool{ALLOWED}"),
            (1j, f"expected a NumPy array, found complex{ALLOWED}"),
            ("1.0", f"expected a NumPy array, found str{ALLOWED}"),
            (b"ab", "expected dtype float64 as params has, found"),
            ({1.0, 2.0}, f"expected a NumPy array, found set{ALLOWED}"),
            (iter([1.0, 2.0, 3.0]), f"expected a NumPy array, found list_iterator{ALLOWED}"),
            (np.int64(1), "expected dtype float64 as params has, found int64: write g.astype("),
            (object(), f"expected a NumPy array, found object{ALLOWED}"),
        ],
    )
    def test_and_others_that_are_refused(self, value, message):
        opt = fo.SGD(np.ones(3))
        with pytest.raises(TypeError) as caught:
            opt.step(value)
        assert str(caught.value).startswith(f"grads: {message}")
        assert opt.steps == {0: 0}

    def test_lists_that_hold_themselves(self):
        holds_itself = [1.0]
        holds_itself.append(holds_itself)
        deep = [1.0]
        for _ in range(5_000):
            deep = [deep]
        for value in (holds_itself, deep):
            with pytest.raises(TypeError, match="grads: expected a NumPy array, found list that m"):
                fo.SGD(np.ones(3)).step(value)


@BACKENDS
@pytest.mark.parametrize(
    "of",
    [
        iter,
        tuple,
        deque,
        lambda grads: dict(enumerate(grads)).values(),
        lambda grads: (g for g in grads),
    ],
    ids=["iterator", "tuple", "deque", "values", "generator"],
)
def test_any_iterable_of_gradients(of, backend):
    params = [np.ones(3), np.ones(2)]
    fo.SGD(params, lr=1.0, backend=backend).step(of([np.ones(3), np.ones(2)]))
    assert not any(p.any() for p in params)
    groups = [{"params": [p]} for p in params]
    fo.SGD(groups, lr=1.0, backend=backend).step(of([[np.ones(3)], [np.ones(2)]]))
    assert all((p == -1).all() for p in params)


def test_an_iterable_of_another_length_or_that_raises():
    opt = fo.SGD([np.ones(3), np.ones(2)])
    with pytest.raises(ValueError, match=r"grads: expected 2 arrays as params has .*, found 1"):
        opt.step(x for x in [np.ones(3)])
    with pytest.raises(TypeError, match="grads: expected a sequence as params is, found dict"):
        opt.step({0: np.ones(3), 1: np.ones(2)})
    with pytest.raises(ZeroDivisionError):
        opt.step(np.ones(3 // n) for n in (1, 0))
    assert opt.steps == {0: 0, 1: 0}


INSTEAD = ": put arrays in its place, or leave it out"  # as messages say of parameters


class Tensor:
    def __init__(self, data):
        self.data = data


class Parameter:
    def __init__(self, value):
        self.value = value
        self.grad = None


class Sparse:
    def __init__(self):
        self.data, self.shape = np.ones(2), (100,)


class Broken:
    @property
    def data(self):
        raise ZeroDivisionError

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("lost in space")


class TestWhatHoldsArrays:
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (Tensor(np.ones(3)), "found Tensor, which holds one: pass its .data"),
            (Parameter(np.ones(3)), "found Parameter, which holds one: pass its .value"),
            (Tensor(Tensor(np.ones(3))), "found Tensor"),
            (Sparse(), "found Sparse"),
        ],
    )
    def test_is_refused_and_named(self, value, said):
        opt = fo.SGD([np.ones(3)])
        for label, call in {
            "grads[0]": lambda: opt.step([value]),
            "params[0]": lambda: fo.SGD([value]),
            "g": lambda: fo.functional.sgd(np.ones(3), value),
        }.items():
            with pytest.raises(TypeError) as caught:
                call()
            hint = INSTEAD if label == "params[0]" else ALLOWED
            hint = "" if "pass" in said else hint
            assert str(caught.value) == f"{label}: expected a NumPy array, {said}{hint}"
        assert opt.steps == {0: 0}

    def test_what_raises_when_it_is_asked(self):
        with pytest.raises(TypeError, match=r"grads: .* found Broken \(lost in space\)"):
            fo.SGD(np.ones(3)).step(Broken())

    def test_masked_arrays_are_refused_as_ever(self):
        with pytest.raises(TypeError, match="grads: expected an array without a mask"):
            fo.SGD(np.ones(3)).step(np.ma.masked_array(np.ones(3)))


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


class TestTorch:
    @BACKENDS
    def test_tensors(self, backend):
        torch = library("torch")
        params = [np.zeros((2, 3), np.float32), np.zeros((), np.float64), np.zeros(4)]
        opt = fo.SGD(params, lr=1.0, maximize=True, backend=backend)
        x = torch.arange(6.0).reshape(3, 2)
        opt.step([x.T, torch.tensor(2.0, dtype=torch.float64), torch.ones(1, 4)])
        assert np.array_equal(params[0], x.T.numpy())
        assert (params[1].item(), params[2].tolist()) == (2.0, [1.0] * 4)

    def test_memory_is_read_where_it_is(self):
        torch = library("torch")
        p = np.ones(4)
        with pytest.raises(ValueError, match="expected memory apart from all parameters"):
            fo.SGD(p).step(torch.from_numpy(p))

    def test_what_cannot_be_read_is_refused(self):
        torch = library("torch")
        opt = fo.SGD(np.ones(3))
        hint = "fastoptim.integrations.torch has optimizers for torch"
        for value in (
            torch.nn.Parameter(torch.ones(3, dtype=torch.float64)),
            torch.ones(3, dtype=torch.bfloat16),
            torch.ones(3).to_sparse(),
            torch.ones(3, device="meta"),
            torch.ones(3, dtype=torch.float64)._neg_view(),
        ):
            with pytest.raises(TypeError, match=f"grads: expected a NumPy array, found .*{hint}"):
                opt.step(value)
        with pytest.raises(TypeError, match=f"params: expected .*, found Tensor|{hint}"):
            fo.SGD([torch.ones(3)])
        assert opt.steps == {0: 0}


@BACKENDS
def test_jax_arrays(backend):
    jnp = pytest.importorskip("jax.numpy", reason="JAX is not installed")
    jax = library("jax")
    params = {"layers": [{"w": np.zeros((2, 3), np.float32)}], "b": np.zeros((), np.float32)}
    opt = fo.SGD(params, lr=1.0, backend=backend)

    def loss(q):
        return (q["layers"][0]["w"] * jnp.arange(3.0)).sum() + 2 * q["b"]

    grads = jax.grad(loss)(params)
    pointer = grads["layers"][0]["w"].unsafe_buffer_pointer()
    assert as_ndarray(grads["layers"][0]["w"], np.dtype("f4")).ctypes.data == pointer
    opt.step(grads)
    assert params["layers"][0]["w"].tolist() == [[0.0, -1.0, -2.0]] * 2
    assert params["b"] == -2
    with pytest.raises(TypeError, match=r"grads\['b'\]: expected dtype float32 .*, found bfloat16"):
        opt.step({"layers": None, "b": jnp.ones((), jnp.bfloat16)})


def test_autograd_boxes_are_named():
    autograd = library("autograd")
    opt, said = fo.SGD(np.ones(3)), []

    def f(x):
        with pytest.raises(TypeError, match=r"grads: .*integrations\.autograd has") as e:
            opt.step(x)
        said.append(str(e.value))
        return (x**2).sum()

    opt.step(autograd.grad(f)(np.ones(3)))
    assert len(said) == 1


@BACKENDS
def test_gradients_that_are_zeroed_fit_their_parameters(backend):
    """They belong to a client, such as thinc, that has made them so."""
    loops = _levels.loops["sgd"] if backend == "compiled" else None
    entry, twin = Entry(np.zeros(3), (None,)), fo.reference.sgd.twin
    plan = Plan([entry], [("p", "g", "v")], [twin], loops, zeroing=True)
    groups = [Fixed((Before(1.0), After(), fo.reference.sgd.scalars(1, 1.0)))]
    for message, g in {
        "g: expected a NumPy array, found list": [1.0, 2.0, 3.0],
        "g: expected a NumPy array, found memoryview": memoryview(np.ones(3)),
        "g: expected dtype float64 as p has, found float32": np.ones(3, np.float32),
        r"g: expected shape \(3,\) as p has, found \(1, 3\)": np.ones((1, 3)),
    }.items():
        with pytest.raises((TypeError, ValueError), match=message):
            plan.step([g], groups, casting=True)
    plan.step([np.ones(3)], groups)


@pytest.mark.parametrize("function", [fo.functional.sgd, fo.reference.sgd], ids=["c", "numpy"])
def test_functions_speak_of_no_setting_that_they_lack(function):
    p = np.ones(3, np.float32)
    with pytest.raises(TypeError, match=r"g: .* rounded: pass g.astype\(np.float32\)$"):
        function(p, np.ones(3))
    assert p.tolist() == [1.0] * 3


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_only_reads_takes_arrays_of_others(form):
    g = form(np.array([[3.0], [4.0]], np.float32))
    grads = [g, {"w": form(np.array([[12.0]])), "b": None}]
    assert fo.global_norm(g) == 5.0
    assert fo.global_norm(grads) == 13.0
    assert fo.all_finite(g)
    assert fo.all_finite(grads)
    assert not fo.all_finite([grads, form(np.array([[1.0, np.nan]]))])


def test_what_only_reads_takes_numbers_as_they_are():
    """In double precision, as there is no parameter that has another."""
    for g in (math.pi, [math.pi], ((math.pi,), None), array.array("d", [math.pi])):
        assert fo.global_norm(g) == math.pi
    assert fo.global_norm(-3) == fo.global_norm([[1, 2.0], [2]]) == 3.0
    assert fo.global_norm(np.float32(3)) == 3.0
    assert not fo.all_finite([[1.0], [1.0, math.inf]])
    with pytest.raises(TypeError, match=r"^grads\['0.1'\]: expected numbers within the range"):
        fo.all_finite([[1.0, 10**400]])


def test_what_only_reads_takes_what_steps_take():
    torch = library("torch")
    g = torch.arange(1.0, 7.0).reshape(2, 3)
    p = np.zeros((2, 3), np.float32)
    opt = fo.SGD(p, lr=1.0, nonfinite="raise")
    opt.step(g)
    assert opt.grad_norm == fo.global_norm(g) == fo.global_norm([g]) == fo.global_norm({"w": g})
    for wrong in (g.requires_grad_(), g.detach().half()):
        for function in (opt.step, fo.global_norm):
            with pytest.raises(TypeError, match=r"expected .*(NumPy array|dtype float32)"):
                function(wrong)


CLIPS = [
    lambda grads: fo.clip_grad_norm_(grads, 0.5),
    lambda grads: fo.clip_grad_value_(grads, 0.5),
]


@pytest.mark.parametrize("clip", CLIPS)
def test_what_writes_says_how_to_pass_arrays_of_others(clip):
    """A copy would be changed in the place of the caller's memory, and nothing tells the two."""
    for of, how in ((Array, "np.array(g)"), (DLPack, "np.from_dlpack(g).copy()")):
        g = of(np.ones(3))
        for label, grads in {"grads": g, "grads[0]": [g]}.items():
            with pytest.raises(TypeError) as caught:
                clip(grads)
            message = f"{label}: expected a NumPy array, found {of.__name__}: "
            assert str(caught.value) == message + f"write g = {how}, and step by that g"
        assert g.held.tolist() == [1.0] * 3
        clip([eval(how, {"np": np, "g": g})])
    torch = library("torch")
    with pytest.raises(TypeError, match=r"found Tensor: write g = np.array\(g\), and step"):
        clip([torch.ones(3)])


def test_functions_take_what_is_exact():
    p = np.zeros(3)
    fo.functional.sgd(p, np.array([[1.0, 2.0, 3.0]], np.float32), lr=1.0, maximize=True)
    fo.functional.sgd(p, [1.0, 2.0, math.pi], lr=1.0, maximize=True)
    assert p.tolist() == [2.0, 4.0, 3 + math.pi]
