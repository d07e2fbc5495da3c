"""Promise 3: any array is handled correctly, or refused with an error that says what to do."""

from __future__ import annotations

import copy
import gc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zoo import DTYPES, LEVELS, TASK, TILE, engine, name_of, same_bits, snapshot

import fastoptim as fo

RNG = np.random.default_rng(17)


def misaligned(shape, dtype=np.float64):
    n = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.zeros(n + 8, np.uint8)
    start = (-buffer.ctypes.data) % 8 + 1
    return buffer[start : start + n].view(dtype).reshape(shape)


def expected_adam(p, g):
    """Return what Adam makes of p, computed element by element in C order."""
    q = np.array(p, order="C").reshape(-1)
    fo.Adam(q, lr=0.1, backend="reference").step(np.array(g, order="C").reshape(-1))
    return q.reshape(p.shape)


def check(p, g):
    expected = expected_adam(p, g)
    address, strides = p.ctypes.data, p.strides
    fo.Adam(p, lr=0.1).step(g)
    assert same_bits(p, expected)
    assert (p.ctypes.data, p.strides) == (address, strides)


SHAPE = (3, 4, 5)
LAYOUTS = {
    "C": lambda a: np.array(a, order="C"),
    "F": lambda a: np.array(a, order="F"),
    "axes 1 0 2": lambda a: np.array(a.transpose(1, 0, 2), order="C").transpose(1, 0, 2),
    "axes 2 0 1": lambda a: np.array(a.transpose(2, 0, 1), order="C").transpose(1, 2, 0),
}
GRADIENT_LAYOUTS = LAYOUTS | {
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "misaligned": lambda a: np.copyto(m := misaligned(a.shape, a.dtype), a) or m,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "memmap-like subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("g_layout", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("p_layout", LAYOUTS)
def test_gradient_of_another_layout_reaches_the_right_elements(p_layout, g_layout, dtype):
    p = LAYOUTS[p_layout](RNG.standard_normal(SHAPE).astype(dtype))
    g = GRADIENT_LAYOUTS[g_layout](RNG.standard_normal(SHAPE).astype(dtype))
    check(p, g)


@pytest.mark.parametrize("n", [TILE - 1, TILE, TILE + 1, TASK - 1, TASK + 1, 2 * TASK + 3])
def test_gathered_gradient_at_the_edges_of_tiles_and_tasks(n):
    p, g = RNG.standard_normal((n, 2)), RNG.standard_normal((2, n)).T
    with engine(threads=3):
        check(p, g)


EDGES = [2047, 2048, 2060, TASK - 1, TASK, TASK + 1, TASK + 15, 2 * TASK - 3, 2 * TASK + 12]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_each_element_is_stepped_once_wherever_cache_lines_begin(data):
    """Long arrays are cut where lines begin, and the parts before the first line are short."""
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    params, grads = [], []
    for n in data.draw(st.lists(st.sampled_from(EDGES), min_size=1, max_size=4)):
        for arrays in params, grads:
            phase = data.draw(st.integers(0, 64 // dtype.itemsize - 1))
            buffer = np.zeros(n + 2 * 64 // dtype.itemsize, dtype)
            start = (-buffer.ctypes.data) % 64 // dtype.itemsize + phase
            arrays.append(buffer[start : start + n])
            arrays[-1][...] = RNG.standard_normal(n)
    copies = [p.copy() for p in params]
    with engine(data.draw(st.sampled_from([None, *LEVELS])), data.draw(st.integers(1, 3))):
        optimizer = fo.Adam(params, lr=0.1)
        optimizer.step(grads)
    fo.Adam(copies, lr=0.1, backend="reference").step(grads)
    assert all(map(same_bits, params, copies))
    m = optimizer.state[0]["m"]
    assert params[0].size < 2048 or (m.ctypes.data - params[0].ctypes.data) % 64 == 0


def test_broadcast_gradient():
    check(RNG.standard_normal((7, 9)), np.broadcast_to(RNG.standard_normal(9), (7, 9)))
    check(RNG.standard_normal((7, 9)), np.broadcast_to(np.float64(2.0), (7, 9)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_any_view_as_gradient(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=6))
    base = RNG.standard_normal(shape)
    view = base[data.draw(hnp.basic_indices(shape, allow_ellipsis=False, allow_newaxis=True))]
    g = np.asarray(view).transpose(data.draw(st.permutations(range(np.ndim(view)))))
    axes = data.draw(st.permutations(range(g.ndim)))
    p = RNG.standard_normal([g.shape[a] for a in axes]).transpose(np.argsort(axes))
    check(p, g)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1), (5, 1, 3)])
@pytest.mark.parametrize("order", "CF")
def test_odd_shapes(shape, order):
    p, g = (np.array(RNG.standard_normal(shape)) for _ in range(2))
    check(np.array(p, order=order), g)


def test_scalar_as_gradient_of_a_0d_parameter():
    """What NumPy's reductions return, as in ``residual.mean()``."""
    p = np.array(1.0, np.float32)
    optimizer = fo.SGD([p], lr=0.5)
    optimizer.step([np.full(3, 0.5, np.float32).mean()])
    assert p == 0.75
    with pytest.raises(TypeError, match=r"grads\[0\]: expected dtype float32 .* found float64"):
        optimizer.step([np.float64(1.0)])


def test_matrix_and_memmap(tmp_path):
    p, g = RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4))
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(p)
    fo.Adam(matrix, lr=0.1).step(g)
    mapped = np.memmap(tmp_path / "p", np.float64, "w+", shape=(3, 4))
    mapped[:] = p
    fo.Adam(mapped, lr=0.1).step(g)
    mapped.flush()
    expected = expected_adam(p, g)
    assert same_bits(np.asarray(matrix), expected)
    assert same_bits(np.fromfile(tmp_path / "p").reshape(3, 4), expected)


def read_only():
    a = np.ones(3)
    a.flags.writeable = False
    return a


REFUSED_PARAMS = {
    "list": ([1.0, 2.0], TypeError, "params[0]: expected a NumPy array, found float"),
    "number": (1.0, TypeError, "params: expected an array, a sequence or a mapping of arrays"),
    "string": ("weights", TypeError, "params: expected an array, a sequence or a mapping"),
    "none": (None, TypeError, "params: expected an array, a sequence or a mapping"),
    "empty sequence": ([], ValueError, "params: expected at least one array, found none"),
    "empty mapping": ({}, ValueError, "params: expected at least one array, found none"),
    "list in a list": ([[1.0]], TypeError, "params['0.0']: expected a NumPy array, found float"),
    "integers": (
        np.ones(3, int),
        TypeError,
        "params: expected dtype float32 or float64, found int64",
    ),
    "half": (np.ones(3, np.float16), TypeError, "found float16"),
    "complex": (np.ones(3, complex), TypeError, "found complex128"),
    "objects": (np.ones(3, object), TypeError, "found object"),
    "strings": (np.array(["1"], np.dtypes.StringDType()), TypeError, "found StringDType"),
    "strings of a type without a hash": (
        np.array(["1"], np.dtypes.StringDType(na_object=[])),
        TypeError,
        "found StringDType",
    ),
    "byte-swapped": (
        np.ones(3, ">f4"),
        TypeError,
        "params: expected this machine's byte order",
    ),
    "read-only": (
        read_only(),
        ValueError,
        "params: expected a writable array, found a read-only one",
    ),
    "strided": (np.ones(8)[::2], ValueError, "params: expected a dense array (C or Fortran order)"),
    "reversed": (
        np.ones(8)[::-1],
        ValueError,
        "params: expected a dense array (C or Fortran order)",
    ),
    "column": (np.ones((8, 8))[:, :2], ValueError, "params: expected a dense array"),
    "misaligned": (misaligned(4), ValueError, "params: expected memory aligned to 8 bytes"),
    "masked": (
        np.ma.masked_array([1.0, 2.0]),
        TypeError,
        "params: expected an array without a mask",
    ),
    "twice": (
        [SHARED := np.ones(4), SHARED],
        ValueError,
        "params[1]: expected parameters and state",
    ),
    "overlapping": ([SHARED[:3], SHARED[2:]], ValueError, "found memory shared with params[0]"),
    "huge, by strides of zero": (
        np.lib.stride_tricks.as_strided(np.ones(1), (2**31 + 7,), (0,)),
        ValueError,
        "params: expected a dense array",
    ),
}


if np.dtype(np.longdouble) != np.float64:  # as it is on Windows
    REFUSED_PARAMS["long double"] = (
        np.ones(3, np.longdouble),
        TypeError,
        "params: expected dtype float32 or float64",
    )


@pytest.mark.parametrize(
    ("params", "error", "message"), REFUSED_PARAMS.values(), ids=REFUSED_PARAMS
)
def test_params_that_are_refused(params, error, message):
    with pytest.raises(error) as caught:
        fo.Adam(params)
    assert message in str(caught.value)


def test_readonly_broadcast_param_is_refused():
    with pytest.raises(ValueError, match="read-only"):
        fo.Adam(np.broadcast_to(np.ones(1), (4,)))


REFUSED_GRADS = {
    "list of text": (["1.0"] * 4, TypeError, "grads[1]: expected a NumPy array, found list of str"),
    "list": ([1.0], ValueError, "grads[1]: expected shape (4,) as params[1] has, found (1,)"),
    "number": (1.0, ValueError, "grads[1]: expected shape (4,) as params[1] has, found ()"),
    "whole number": (1, ValueError, "grads[1]: expected shape (4,) as params[1] has, found ()"),
    "scalar": (np.float64(1.0), ValueError, "expected shape (4,) as params[1] has, found ()"),
    "shape": (np.ones(5), ValueError, "grads[1]: expected shape (4,) as params[1] has, found (5,)"),
    "would broadcast": (np.ones(1), ValueError, "expected shape (4,) as params[1] has, found (1,)"),
    "more axes": (np.ones((2, 2)), ValueError, "found (2, 2)"),
    "dtype": (
        np.ones(4, np.float16),
        TypeError,
        "grads[1]: expected dtype float64 as params[1] has, found float16",
    ),
    "integers": (np.ones(4, int), TypeError, "found int64: write g.astype(np.float64)"),
    "objects": (np.ones(4, object), TypeError, "found object"),
    "byte-swapped": (np.ones(4, ">f8"), TypeError, "found >f8"),
    "masked": (
        np.ma.masked_array(np.ones(4)),
        TypeError,
        "grads[1]: expected an array without a mask",
    ),
}


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize(("g", "error", "message"), REFUSED_GRADS.values(), ids=REFUSED_GRADS)
def test_gradients_that_are_refused_change_nothing(g, error, message, backend):
    optimizer = fo.Adam([np.ones(3), np.ones(4)], backend=backend)
    optimizer.step([np.ones(3), np.ones(4)])
    before = snapshot(optimizer)
    with pytest.raises(error) as caught:
        optimizer.step([np.ones(3), g])
    assert message in str(caught.value)
    assert snapshot(optimizer) == before
    optimizer.step([np.ones(3), np.ones(4)])


def test_gradient_that_shares_memory_with_what_is_written():
    buffer = np.ones(20)
    p, q, free = buffer[:4], buffer[4:8], buffer[8:]
    optimizer = fo.Adam([p, q])
    for g in (p, q, buffer[2:6], buffer[::-1][14:18], buffer[0:8:2], optimizer.state[1]["v"]):
        before = snapshot(optimizer)
        with pytest.raises(
            ValueError, match=r"grads\[0\]: expected memory apart from all parameters"
        ):
            optimizer.step([g, None])
        assert snapshot(optimizer) == before
    optimizer.step([free[:4], free[2:6]])  # gradients may share memory with one another


def moves(array):
    """Give an array other memory, as no reference to it could be known to forbid."""
    array.resize(0, refcheck=False)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}, {"ema_decay": 0.5}])
@pytest.mark.parametrize("cls", [fo.SGD, fo.LAMB])
@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("which", ["parameter", "gradient", "other"])
def test_schedule_that_moves_memory(which, backend, cls, options):
    """It is called before the arrays are checked, so that the step finds what it has done."""
    p, q = np.ones(100_000), np.ones(3)
    g = np.ones(100_000)

    def lr(t):
        if t == 1:
            moves({"parameter": p, "gradient": g, "other": q}[which])
        return 0.5

    optimizer = cls([q, p], lr=lr, backend=backend, **options)
    optimizer.step([np.ones(3), g])
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"resized since|expected shape"):
        optimizer.step([np.ones(3), g])
    after = optimizer.state_dict()
    for key, entry in before["state"].items():
        for name, value in entry.items():
            assert np.array_equal(after["state"][key][name], value)
    if which == "gradient":
        optimizer.step([np.ones(3), np.ones(100_000)])


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_schedule_that_uses_its_own_optimizer(backend):
    messages = []

    def lr(t):
        calls = [
            lambda: optimizer.step(np.ones(3)),
            lambda: optimizer.state_dict(),
            lambda: optimizer.add_param_group({"params": np.ones(2)}),
            lambda: optimizer.use_ema().__enter__(),
            lambda: copy.deepcopy(optimizer),
        ]
        for call in calls if t == 1 else ():
            with pytest.raises(RuntimeError) as error:
                call()
            messages.append(str(error.value))
        return 0.5

    p = np.ones(3)
    optimizer = fo.SGD(p, lr=lr, ema_decay=0.5, backend=backend)
    optimizer.step(np.ones(3))
    optimizer.step(np.ones(3))
    assert len(messages) == 5
    assert all("in use already, in this thread: by a call" in message for message in messages)
    assert p.tolist() == [0.0] * 3
    assert optimizer._plan.steps == [2]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_schedule_that_drops_what_the_step_uses(backend):
    """The step holds on to the gradients, and to the optimizer's arrays."""
    held = {"grads": [np.ones(50_000)]}

    def lr(t):
        if "optimizer" in held:
            held["grads"].clear()
            held.pop("optimizer")
            gc.collect()
        return 0.5

    p = np.ones(50_000)
    held["optimizer"] = fo.Adam([p], lr=lr, ema_decay=0.9, backend=backend)
    held["optimizer"].step(held["grads"])
    assert np.allclose(p, 0.5)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_parameter_given_another_dtype_since(backend):
    """In place: its memory is what it was, and the optimizer goes on with what it was given."""
    p = np.ones(4)
    optimizer = fo.SGD(p, lr=0.5, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        p.dtype = np.float32
        optimizer.step(np.ones(4))
        with pytest.raises(ValueError, match=r"expected shape \(4,\)"):
            optimizer.step(np.ones(8, np.float32))
        p.dtype = np.float64
    assert p.tolist() == [0.5] * 4


def test_parameter_changed_behind_the_optimizers_back():
    p = np.ones(4)
    optimizer = fo.SGD(p)
    p.flags.writeable = False
    with pytest.raises(ValueError, match="params: expected a writable array"):
        optimizer.step(np.ones(4))
    p.flags.writeable = True
    p.resize(2, refcheck=False)  # the address stays, and memory behind the end would be written
    with pytest.raises(
        ValueError, match="params: expected the memory that the optimizer was given"
    ):
        optimizer.step(np.ones(2))


def test_parameter_given_another_dtype_and_made_shorter_since():
    """It has as many elements as it had, in half of the memory."""
    p = np.ones(4)
    optimizer = fo.SGD(p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        p.dtype = np.float32
    p.resize(4, refcheck=False)
    with pytest.raises(ValueError, match="params: expected the memory that the optimizer was"):
        optimizer.step(np.ones(4))


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("shape", [(2, 2), (2,)])
def test_gradient_given_another_shape_since(shape, backend):
    """The same object as in the last step, in the same list, at the same address."""
    p, g = np.ones(4), np.ones(4)
    grads = [g]
    optimizer = fo.SGD([p], lr=1.0, backend=backend)
    optimizer.step(grads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if len(shape) == 1:
            g.resize(shape, refcheck=False)
        else:
            g.shape = shape
    with pytest.raises(ValueError, match=r"grads\[0\]: expected shape \(4,\) as params\[0\] has"):
        optimizer.step(grads)
    assert p.tolist() == [0.0] * 4


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_gradient_given_other_strides_since(backend):
    p, memory = np.zeros(4), np.arange(8.0)
    g = memory[:4]
    optimizer = fo.SGD([p], lr=1.0, maximize=True, backend=backend)
    optimizer.step([g])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        g.strides = (16,)
    optimizer.step([g])
    assert p.tolist() == [0.0, 3.0, 6.0, 9.0]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_parameter_given_another_shape_since(backend):
    """The optimizer goes on with the array as it was given."""
    p, q = np.ones(4), np.ones(4)
    optimizer, other = fo.Adam([p], backend=backend), fo.Adam([q], backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        p.shape = (2, 2)
    with pytest.raises(ValueError, match=r"grads\[0\]: expected shape \(4,\)"):
        optimizer.step([np.ones((2, 2))])
    for o in (optimizer, other):
        o.step([np.ones(4)])
    assert same_bits(p.reshape(-1), q)


@pytest.mark.parametrize("frozen", [0, 1])
def test_averages_are_not_shown_if_a_parameter_cannot_be_written(frozen):
    params = [np.ones(3), np.ones(3)]
    optimizer = fo.SGD(params, lr=1.0, ema_decay=0.5)
    optimizer.step([np.ones(3), np.ones(3)])
    before = snapshot(optimizer)
    params[frozen].flags.writeable = False
    with (
        pytest.raises(ValueError, match=rf"params\[{frozen}\]: expected a writable array"),
        optimizer.use_ema(),
    ):
        pass
    params[frozen].flags.writeable = True
    assert snapshot(optimizer) == before


def test_arrays_that_share_memory_are_named():
    buffer = np.ones(12)
    optimizer = fo.Adam([buffer[:4]])
    for name, array in optimizer.state[0].items():
        with pytest.raises(ValueError, match=rf"memory shared with state\[0\]\['{name}'\]$"):
            optimizer.step([array])


def test_state_changed_behind_the_optimizers_back():
    optimizer = fo.Adam(np.ones(4))
    with pytest.raises(TypeError, match="does not support item assignment"):
        optimizer.state[0]["m"] = np.ones(4)
    with pytest.raises(TypeError, match="does not support item assignment"):
        optimizer.state[0] = {}
    with pytest.raises(AttributeError, match="state"):
        optimizer.state = {}
    v = optimizer.state[0]["v"]
    v.flags.writeable = False
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"state\[0\]\['v'\]: expected a writable array"):
        optimizer.step(np.ones(4))
    assert snapshot(optimizer) == before
    v.flags.writeable = True
    with pytest.raises(ValueError, match="does not own its data"):
        v.resize(2, refcheck=False)


def test_state_has_the_layout_of_its_parameter():
    for make in LAYOUTS.values():
        p = make(RNG.standard_normal(SHAPE))
        assert fo.Adam(p).state[0]["m"].strides == p.strides


def test_state_lies_in_one_block_but_not_on_one_line():
    params = [np.ones(n, dtype) for dtype in ("float32", "float64") for n in (3, 1, 0, 16, 40)]
    optimizer = fo.Adagrad(params, initial_accumulator_value=0.5)
    state = [optimizer.state[i]["h"] for i in range(len(params))]
    for h, p in zip(state, params, strict=True):
        assert h.ctypes.data % 64 == 0
        assert h.shape == p.shape
        assert h.dtype == p.dtype
        assert (h == 0.5).all()
    for half in (state[:5], state[5:]):
        assert len({id(h.base) for h in half}) == 1
        lines = [-(-h.nbytes // 64) * 64 for h in half]
        assert [h.ctypes.data - half[0].ctypes.data for h in half[1:]] == list(
            np.cumsum(lines[:-1])
        )
