"""Functions on gradients alone: they do what torch's do, with the optimizer's bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from zoo import LEVELS, engine, name_of, same_bits

import fastoptim as fo
from fastoptim._stages import clip_factor

RNG = np.random.default_rng(23)
CLIP = {
    "norm": lambda grads: fo.clip_grad_norm_(grads, 0.5),
    "value": lambda grads: fo.clip_grad_value_(grads, 0.5),
}
MEASURE = {"norm": fo.global_norm, "finite": fo.all_finite}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")


@pytest.fixture(params=CLIP.values(), ids=CLIP)
def clip(request):
    return request.param


def misaligned(a):
    buffer = np.zeros(a.nbytes + 8, np.uint8)
    start = -buffer.ctypes.data % 8 + 1
    view = buffer[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def column_by_column(a):
    wide = np.zeros((*a.shape, 3), a.dtype)
    wide[..., 1] = a
    return wide[..., 1]


LAYOUTS = {
    "C": lambda a: a.copy(order="C"),
    "F": lambda a: a.copy(order="F"),
    "axes 1 0 2": lambda a: a.transpose(1, 0, 2).copy().transpose(1, 0, 2),
    "strided": column_by_column,
    "reversed": lambda a: a[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "misaligned": misaligned,
    "subclass": lambda a: a.copy().view(type("Sub", (np.ndarray,), {})),
}


def mixed():
    """Return gradients of mixed dtypes and layouts, a long one among them."""
    grads = [make(RNG.standard_normal((3, 40, 50))) for make in LAYOUTS.values()]
    grads += [make(RNG.standard_normal((3, 4, 5)).astype("f4")) for make in LAYOUTS.values()]
    return [*grads, RNG.standard_normal(100_003).astype("f4"), None, np.array(0.5), np.ones((2, 0))]


def copies(grads):
    return [None if g is None else np.array(g) for g in grads]


def assert_all_same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert (a is None and b is None) or same_bits(np.asarray(a), b)


class TestAgainstTorch:
    @pytest.fixture(params=[1e-3, 1.0, 1e9], ids=name_of)
    def limit(self, request):
        return request.param

    @pytest.fixture
    def ours(self):
        return [RNG.standard_normal(shape) for shape in ((30, 4), (7,), (), (2, 0))]

    @pytest.fixture
    def theirs(self, torch, ours):
        tensors = [torch.zeros(g.shape, dtype=torch.float64) for g in ours]
        for tensor, g in zip(tensors, ours, strict=True):
            tensor.grad = torch.from_numpy(g.copy())
        return tensors

    def test_norm(self, torch, ours, theirs, limit):
        norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
        assert fo.clip_grad_norm_(ours, limit) == pytest.approx(float(norm), rel=1e-13)
        for g, tensor in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(g, tensor.grad.numpy(), rtol=1e-13)

    def test_value(self, torch, ours, theirs, limit):
        torch.nn.utils.clip_grad_value_(theirs, limit)
        assert fo.clip_grad_value_(ours, limit) is None
        for g, tensor in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(g, tensor.grad.numpy())

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nonfinite(self, torch, ours, theirs, value):
        ours[0][1, 1] = value
        theirs[0].grad[1, 1] = value
        for clip in ("clip_grad_value_", "clip_grad_norm_"):
            getattr(torch.nn.utils, clip)(theirs, 0.5)
            getattr(fo, clip)(ours, 0.5)
            for g, tensor in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(g, tensor.grad.numpy(), rtol=1e-13)

    def test_of_no_gradients(self, torch):
        assert float(torch.nn.utils.clip_grad_norm_([], 1.0)) == fo.clip_grad_norm_([], 1.0) == 0


def test_by_hand():
    g = [np.array([3.0, 4.0]), None, np.array([12.0], np.float32)]
    assert fo.global_norm(g) == 13.0
    assert fo.clip_grad_norm_(g, 13.5) == 13.0
    assert (g[0].tolist(), g[2].tolist()) == ([3.0, 4.0], [12.0])  # not a bit
    assert fo.clip_grad_norm_(g, 6.5) == 13.0
    np.testing.assert_allclose(g[0], [1.5, 2.0], rtol=1e-6)
    fo.clip_grad_value_(g, 1.75)
    assert g[0][1] == g[2][0] == 1.75
    fo.clip_grad_norm_(g, 0)
    assert not g[0].any()


@pytest.mark.parametrize("container", [lambda a: a, lambda a: [a], lambda a: {"w": a, "b": None}])
def test_containers(container):
    g = np.array([[3.0, 4.0]])
    assert fo.global_norm(container(g)) == fo.clip_grad_norm_(container(g), 1.0) == 5.0
    fo.clip_grad_value_(container(g), 0.5)
    assert g.tolist() == [[0.5, 0.5]]
    assert fo.all_finite(container(g))


@pytest.mark.parametrize("empty", [[], (), {}, [None], {"w": None}, np.ones((3, 0)), [np.ones(0)]])
def test_nothing_at_all(empty, clip):
    assert fo.global_norm(empty) == 0
    assert fo.all_finite(empty)
    clip(empty)


def test_scalar_as_gradient_of_a_0d_parameter():
    assert fo.global_norm([np.ones(3).mean(), np.full(4, 2.0, np.float32).mean()]) == math.sqrt(5)


def test_any_iterable_but_one_that_is_used_up(clip):
    grads = {"w": np.array([3.0, 4.0])}
    assert fo.global_norm(grads.values()) == 5.0
    iterator = iter(grads.values())
    clip(iterator)
    with pytest.raises(ValueError, match="grads: expected at least one array, found none"):
        clip(iterator)


class TestBits:
    @pytest.mark.parametrize("threads", [1, 2, 3])
    @pytest.mark.parametrize("level", LEVELS)
    def test_norm_depends_neither_on_level_nor_on_threads(self, level, threads):
        grads = mixed()
        with engine("base", 1):
            expected = fo.global_norm(grads)
        with engine(level, threads):
            assert fo.global_norm(grads) == expected
        flat = np.concatenate([g.astype(np.longdouble).ravel() for g in grads if g is not None])
        assert expected == pytest.approx(float(np.sqrt(np.sum(flat * flat))), rel=1e-14)

    @pytest.mark.parametrize("backend", ["compiled", "reference"])
    @pytest.mark.parametrize("scale", [1e-200, 1.0, 1e150, 1e307, np.inf, np.nan])
    def test_norm_is_that_of_the_optimizer(self, scale, backend):
        grads = [
            None if g is None else g * g.dtype.type(scale) if g.dtype == float else g
            for g in mixed()
        ]
        params = [np.zeros(0) if g is None else np.zeros_like(g, subok=False) for g in grads]
        optimizer = fo.SGD(params, max_grad_norm=1.0, backend=backend)
        optimizer.step(grads)
        np.testing.assert_equal(fo.global_norm(grads), optimizer.grad_norm)

    def test_clipping_is_that_of_the_optimizer(self):
        grads = [RNG.standard_normal(7).astype(dtype) for dtype in ("f4", "f8")]
        for name, limit in (("norm", 0.5), ("value", 0.25)):
            params = [np.zeros_like(g) for g in grads]
            fo.SGD(params, lr=1.0, **{f"max_grad_{name}": limit}).step(grads)
            getattr(fo, f"clip_grad_{name}_")(clipped := copies(grads), limit)
            assert_all_same(clipped, [-p for p in params])

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=name_of)
    def test_of_any_layout(self, layout, dtype, clip):
        g = LAYOUTS[layout](a := RNG.standard_normal((3, 4, 5)).astype(dtype))
        address, strides = g.ctypes.data, g.strides
        assert fo.global_norm(g) == pytest.approx(math.sqrt(np.sum(a.astype(float) ** 2)))
        clip(g)
        clip(a)
        np.testing.assert_allclose(g, a, rtol=4 * np.finfo(dtype).eps)
        assert (g.ctypes.data, g.strides) == (address, strides)
        if layout == "strided":
            assert not g.base[..., 0].any()
            assert not g.base[..., 2].any()

    def test_of_mixed_dtypes_and_layouts(self, clip):
        grads = mixed()
        clip(flat := copies(grads))
        clip(grads)
        for g, expected in zip(grads, flat, strict=True):
            if g is not None:
                np.testing.assert_allclose(g, expected, rtol=1e-6)

    def test_columns_of_one_matrix_are_apart(self, clip):
        matrix = RNG.standard_normal((6, 4))
        clip(expected := [matrix[:, :2].copy(), matrix[:, 2:].copy()])
        clip([matrix[:, :2], matrix[:, 2:]])
        np.testing.assert_allclose(matrix, np.hstack(expected), rtol=1e-14)


class TestNonfinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", [0, 1, 2500])
    def test_is_found(self, value, place):
        grads = [np.ones(10), np.ones(2501, np.float32)]
        assert fo.all_finite(grads)
        grads[1][place] = value
        assert not fo.all_finite(grads)
        assert not math.isfinite(fo.global_norm(grads))

    def test_large_numbers_are_finite(self):
        grads = [np.array([3e200, 4e200]), np.full(4, 3e38, np.float32)]
        assert fo.all_finite(grads)
        assert fo.global_norm(grads) == pytest.approx(5e200)
        assert fo.clip_grad_norm_(grads, 1.0) == pytest.approx(5e200)
        np.testing.assert_allclose(grads[0], [0.6, 0.8])

    def test_nan_spreads_with_the_norm_alone(self):
        g = np.array([np.nan, 2.0])
        fo.clip_grad_value_(g, 1.0)
        np.testing.assert_array_equal(g, [np.nan, 1.0])
        assert np.isnan(fo.clip_grad_norm_(g, 1.0))
        assert np.isnan(g).all()

    def test_limit_beyond_float32(self):
        g = np.array([np.inf, -3e38], np.float32)
        fo.clip_grad_value_(g, 1e300)
        assert g.tolist() == [np.inf, float(np.float32(-3e38))]


def read_only():
    a = np.ones(3)
    a.flags.writeable = False
    return a


SHARED = np.ones(20)
NO_GRADIENTS = {
    "text": ("1", TypeError, "grads[2]: expected a NumPy array, found str"),
    "flag": (True, TypeError, "grads[2]: expected a NumPy array, found bool"),
    "list with text": ([1.0, "x"], TypeError, "grads['2.1']: expected a NumPy array, found str"),
    "integers": (
        np.ones(3, int),
        TypeError,
        "grads[2]: expected dtype float32 or float64, found int64: write g.astype(np.float64)",
    ),
    "half": (
        np.ones(3, np.float16),
        TypeError,
        "grads[2]: expected dtype float32 or float64, found float16: write g.astype(np.float64)",
    ),
    "half scalar": (np.float16(1), TypeError, "grads[2]: expected dtype float32 or float64"),
    "complex": (np.ones(3, "c16"), TypeError, "found complex128: write g.real.astype(np.float64)"),
    "byte-swapped": (
        np.ones(3, ">f4"),
        TypeError,
        "grads[2]: expected this machine's byte order, found '>f4': write g.astype(np.float64)",
    ),
    "masked": (
        np.ma.masked_array([1.0]),
        TypeError,
        "grads[2]: expected an array without a mask, found MaskedArray",
    ),
}
AS_ARRAY = ": write g = np.array(g), and step by that g"
COPY = ": write g = g.copy(), and step by that g"
NO_TARGETS = NO_GRADIENTS | {
    "list with text": (
        ["x"],
        TypeError,
        "grads['2.0']: expected a NumPy array, found str; nothing",
    ),
    "text": ("1", TypeError, "found str; nothing else is changed where it is"),
    "list": ([1.0], TypeError, f"grads['2.0']: expected a NumPy array, found float{AS_ARRAY}"),
    "number": (1.0, TypeError, f"grads[2]: expected a NumPy array, found float{AS_ARRAY}"),
    "half scalar": (np.float16(1), TypeError, "grads[2]: expected a NumPy array, found float16"),
    "scalar": (np.float64(1), TypeError, f"expected a NumPy array, found float64{AS_ARRAY}"),
    "read-only": (
        read_only(),
        ValueError,
        f"grads[2]: expected a writable array, found a read-only one{COPY}",
    ),
    "steps of zero": (
        np.lib.stride_tricks.as_strided(np.ones(3), (2, 3), (0, 8)),
        ValueError,
        "grads[2]: expected elements with memory of their own, found strides (0, 8) for shape "
        f"(2, 3){COPY}",
    ),
    "sliding window": (
        np.lib.stride_tricks.as_strided(np.ones(6), (4, 3), (8, 8)),
        ValueError,
        "grads[2]: expected elements with memory of their own",
    ),
    "the same": (SHARED[:4], ValueError, "expected memory of its own, found memory shared with"),
    "overlapping": (SHARED[3:9], ValueError, f"found memory shared with grads[0]{COPY}"),
    "interleaved": (SHARED[1::2], ValueError, "found memory shared with grads[0]"),
}


@pytest.mark.parametrize(("g", "error", "message"), NO_TARGETS.values(), ids=NO_TARGETS)
def test_a_refusal_changes_nothing(g, error, message, clip):
    grads = [SHARED[:4], np.full(3, 2.0), g]
    before = copies(grads)
    with pytest.raises(error) as caught:
        clip(grads)
    assert message in str(caught.value)
    for a, b in zip(grads, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("measure", MEASURE.values(), ids=MEASURE)
@pytest.mark.parametrize(("g", "error", "message"), NO_GRADIENTS.values(), ids=NO_GRADIENTS)
def test_what_cannot_be_measured(g, error, message, measure):
    with pytest.raises(error) as caught:
        measure([np.ones(2), None, g])
    assert message in str(caught.value)


@pytest.mark.parametrize("function", [*MEASURE.values(), *CLIP.values()])
def test_names_in_messages(function):
    with pytest.raises(TypeError, match=r"^grads: expected dtype"):
        function(np.ones(2, int))
    with pytest.raises(TypeError, match=r"^grads\['w'\]: expected dtype"):
        function({"w": np.ones(2, int)})
    with pytest.raises(TypeError, match=r"^grads: expected a NumPy array, found bool"):
        function(True)
    for grads in (None, "weights"):
        with pytest.raises(TypeError, match=r"^grads: expected an array, a sequence or a mapping"):
            function(grads)


@pytest.mark.parametrize("measure", MEASURE.values(), ids=MEASURE)
def test_memory_may_be_shared_or_read_only_where_nothing_is_written(measure):
    a = np.broadcast_to(np.ones(1), (4,))
    assert measure([a, a, read_only()])


@pytest.mark.parametrize("limit", [-1.0, np.nan, np.inf, "1", None, True])
def test_limits_that_are_refused(limit):
    g = np.array([3.0])
    for name, function in (("max_norm", fo.clip_grad_norm_), ("clip_value", fo.clip_grad_value_)):
        with pytest.raises(
            (TypeError, ValueError), match=f"^{name}: expected a finite number >= 0, found"
        ):
            function(g, limit)
    assert g[0] == 3.0


class TestOfEachLevel:
    """Clipping has a loop of each level, in tasks for several threads."""

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("level", LEVELS)
    def test_clipping_has_the_bits_of_numpy(self, level, threads):
        grads = mixed()
        before = copies(grads)
        with engine(level, threads):
            factor = clip_factor(fo.clip_grad_norm_(grads, 0.5), 0.5)
        assert factor < 1
        scaled = [None if g is None else np.asarray(g.dtype.type(factor) * g) for g in before]
        assert_all_same(copies(grads), scaled)
        with engine(level, threads):
            fo.clip_grad_value_(grads, 1e-4)
        assert_all_same(
            copies(grads),
            [None if g is None else np.clip(g, *map(g.dtype.type, (-1e-4, 1e-4))) for g in scaled],
        )

    @pytest.mark.parametrize("length", [1, 15, 16, 17, 511, 512, 513, 16_384, 16_385])
    def test_at_the_edges_of_tiles_and_tasks(self, length):
        wide = RNG.standard_normal((length, 2)).astype("f4")
        grads = [wide[:, 0].copy(), wide[:, 1], misaligned(wide[:, 0])]
        expected = [np.clip(g, np.float32(-0.25), np.float32(0.25)) for g in grads]
        untouched = wide[:, 0].copy()
        fo.clip_grad_value_(grads, 0.25)
        assert_all_same([g.copy() for g in grads], expected)
        assert same_bits(wide[:, 0].copy(), untouched)


def test_many_arrays_are_named_only_in_messages():
    class Name:
        """A key whose text takes long, or fails."""

        def __repr__(self):
            raise RuntimeError("nobody has asked for it")

    grads = {Name(): np.ones(2) for _ in range(3)}
    assert fo.global_norm(grads) == math.sqrt(6)
    assert fo.all_finite(grads)
    fo.clip_grad_norm_(grads, 0.5)
    opt = fo.Adam(grads_of := {name: np.ones(2) for name in grads})
    opt.step(grads)
    opt.load_state_dict(opt.state_dict())
    assert grads_of.keys() == grads.keys()


def test_columns_that_share_an_element_are_found_among_many():
    """Each of them begins before all others have ended."""
    matrix = RNG.standard_normal((5, 40))
    columns = [matrix[:, i] for i in range(40)]
    before = matrix.copy()
    with pytest.raises(ValueError, match=r"grads\[40\]: expected memory of its own.*grads\[7\]"):
        fo.clip_grad_value_([*columns, matrix[2:3, 7]], 0.0)
    assert same_bits(matrix, before)
    fo.clip_grad_value_(columns, 0.0)
    assert not matrix.any()
