"""The optimizers with the calls of autograd's: its results, containers, callbacks; refusals."""

from __future__ import annotations

import copy
import doctest
import inspect

import numpy as np
import pytest
from fresh import python

pytest.importorskip("autograd", reason="autograd is not installed")

import autograd.numpy as anp
from autograd import grad
from autograd.misc import optimizers as peers

from fastoptim.bench.clients import autograd as clients
from fastoptim.integrations import autograd as integration

CASES = [
    ("sgd", {}),
    ("sgd", {"step_size": 0.3, "mass": 0.5}),
    ("sgd", {"mass": 0.0}),
    ("rmsprop", {}),
    ("rmsprop", {"step_size": 0.01, "gamma": 0.5, "eps": 1e-2}),
    ("adam", {}),
    ("adam", {"step_size": 0.05, "b1": 0.5, "b2": 0.75, "eps": 1e-2}),
]
every_case = pytest.mark.parametrize(("name", "kwargs"), CASES, ids=str)
every_name = pytest.mark.parametrize("name", integration.__all__)


def both(name):
    return getattr(integration, name), getattr(peers, name)


def network():
    rng = np.random.default_rng(2)
    layers = [(rng.standard_normal((4, 6)), rng.standard_normal(6)), (rng.standard_normal(6), 0.5)]
    return {"layers": layers, "a": 0.3, "none": []}


X = np.random.default_rng(3).standard_normal((50, 20, 4))


def loss(params, i):
    (w, b), (v, c) = params["layers"]
    y = anp.dot(anp.tanh(anp.dot(X[i], w) + b), v) + c
    return anp.mean((y - anp.sin(X[i][:, 0])) ** 2) + params["a"] ** 2


def assert_same(found, expected, tolerance=1e-12):
    """Assert that containers, types and values are the same, the latter up to rounding."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b, tolerance)
    else:
        assert np.shape(found) == np.shape(expected)
        assert np.asarray(found).dtype == np.asarray(expected).dtype
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@every_case
def test_goes_where_autograd_goes(name, kwargs):
    ours, theirs = both(name)
    start = network()
    found = ours(grad(loss), start, None, 50, **kwargs)
    assert_same(found, theirs(grad(loss), network(), None, 50, **kwargs))
    assert_same(start, network(), 0)
    assert loss(found, 0) < loss(start, 0)


@every_name
def test_signature(name):
    ours, theirs = both(name)
    (wrapped,) = (cell.cell_contents for cell in theirs.__closure__)
    (_, *found), (_, *expected) = (
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (ours, wrapped)
    )
    assert found[1:] == expected[1:]


@every_name
def test_callback_sees_what_autograds_sees_and_may_keep_it(name):
    kept = []
    for optimize in both(name):
        calls = []
        optimize(grad(loss), network(), lambda *a, calls=calls: calls.append(a), num_iters=5)
        kept.append(calls)
    ours, theirs = kept
    assert [i for _, i, _ in ours] == list(range(5))
    for (p, _, g), (q, _, h) in zip(ours, theirs, strict=True):
        assert_same(p, q)
        assert_same(g, h)
    first, second = (p["layers"][0][0] for p, _, _ in ours[:2])
    assert not np.array_equal(first, second)


def away(x, i):
    """Return a gradient that leads from 0 to more than 1 within a few steps."""
    if isinstance(x, dict):
        return {key: away(value, i) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(away(value, i) for value in x)
    return np.full(np.shape(x), -5.0 - i)


def bounded(tree):
    """Change all arrays in place."""
    if isinstance(tree, (dict, list, tuple)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            bounded(branch)
    else:
        np.clip(tree, -1, 1, out=tree)


def gradient_that_projects(x, i):
    bounded(x)
    return away(x, i)


def gradient_that_is_the_parameters(x, i):
    return x


def gradient_that_puts_others_into_containers(x, i):
    g = away(x, i)
    if isinstance(x, dict):
        x["b"] = np.full((), 9.0)
    elif isinstance(x, list):
        x.append(9.0)
    return g


ALTERATIONS = {
    "the callback projects": (away, lambda x, i, g: bounded(x)),
    "the gradient projects": (gradient_that_projects, None),
    "the callback clips the gradient": (away, lambda x, i, g: bounded(g)),
    "one array is both": (gradient_that_is_the_parameters, lambda x, i, g: bounded(g)),
    "containers are filled anew": (gradient_that_puts_others_into_containers, None),
}


@every_name
@pytest.mark.parametrize(("gradient", "callback"), ALTERATIONS.values(), ids=ALTERATIONS)
@pytest.mark.parametrize(
    "x0",
    [np.zeros(3), np.full((2, 3), 3.0).T, 0.25, {"a": np.zeros(2), "b": 0.5}, [np.full(2, 3.0)]],
    ids=["vector", "matrix", "number", "dict", "list"],
)
def test_changes_in_place_have_the_effect_that_they_have_in_autograd(name, gradient, callback, x0):
    runs = []
    for optimize in both(name):
        shown = []

        def watch(x, i, g, shown=shown):
            before = copy.deepcopy((x, g))
            if callback:
                callback(x, i, g)
            shown.extend(
                [before, copy.deepcopy((x, g)), x]
            )  # the last may yet change, but must not

        runs.append((optimize(gradient, copy.deepcopy(x0), watch, 8, step_size=0.5), shown))
    ours, theirs = runs
    assert_same(ours, theirs)


@every_name
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_the_first_iteration_sees_numbers_of_the_starts_own_type(name, dtype):
    ours, _ = both(name)
    types = []

    def gradient(x, i):
        types.append(x.dtype)
        return x

    ours(gradient, np.arange(3).astype(dtype), lambda x, i, g: types.append(g.dtype), 2)
    assert types == [dtype, dtype, np.float64, np.float64]


@every_name
@pytest.mark.parametrize(
    "x0",
    [
        1.5,
        np.float32(1.5),
        np.arange(3),
        np.arange(3, dtype=np.float32),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        (np.ones(2), [np.ones((1, 2)), 2.0]),
        {"b": np.ones(2), "a": (1.0,)},
        np.ones(()),
        np.empty(0),
    ],
    ids=str,
)
def test_any_start(name, x0):
    def gradient(x, i):
        if isinstance(x, dict):
            return {key: gradient(value, i) for key, value in x.items()}
        if isinstance(x, (list, tuple)):
            return type(x)(gradient(value, i) for value in x)
        return 2 * x

    ours, theirs = both(name)
    assert_same(ours(gradient, x0, num_iters=4), theirs(gradient, x0, num_iters=4), 1e-6)


@every_name
def test_no_steps(name):
    ours, _ = both(name)
    assert ours(lambda x, i: x, 2.0, num_iters=0) == 2.0


@every_name
def test_the_start_is_not_what_is_returned(name):
    ours, _ = both(name)
    x0 = np.ones(3)
    found = ours(lambda x, i: x, x0, num_iters=2)
    assert not np.shares_memory(found, x0)
    assert (x0 == 1).all()


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "message"),
    [
        ("sgd", {"mass": 1.0}, ValueError, r"mass: expected a number in \[0, 1\), found 1.0"),
        ("sgd", {"step_size": -1}, ValueError, "step_size: expected a finite number >= 0"),
        ("rmsprop", {"gamma": "x"}, TypeError, "gamma: expected .*, found 'x'"),
        ("adam", {"b2": 2}, ValueError, "b2: expected"),
        ("adam", {"eps": -1}, ValueError, "eps: expected"),
    ],
)
def test_arguments_that_are_refused(name, kwargs, error, message):
    with pytest.raises(error, match=message):
        both(name)[0](lambda x, i: x, 1.0, **kwargs)


def test_parameters_and_gradients_that_are_refused():
    with pytest.raises(
        TypeError, match="x0: expected real numbers of at most 64 bits, found complex"
    ):
        integration.sgd(lambda x, i: x, 1j)
    with pytest.raises(
        TypeError, match="grad: expected real numbers of at most 64 bits, found comp"
    ):
        integration.sgd(lambda x, i: 1j * x, 1.0)
    with pytest.raises(ValueError, match=r"grads: expected shape \(3,\) .* found \(2,\)"):
        integration.sgd(lambda x, i: x[:2], np.ones(3))


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="long double is float64 here")
def test_more_bits_than_the_steps_have_are_refused():
    """Autograd would go on in them."""
    wide = np.ones(2, np.longdouble)
    with pytest.raises(TypeError, match="x0: expected real numbers of at most 64 bits, found floa"):
        integration.adam(lambda x, i: x, wide)
    with pytest.raises(TypeError, match="grad: expected real numbers of at most 64 bits, found f"):
        integration.adam(lambda x, i: wide, np.ones(2))


def test_a_gradient_through_the_steps_is_refused():
    def after(x0):
        return integration.sgd(lambda x, i: x, x0, num_iters=2)

    with pytest.raises(TypeError, match="x0: expected numbers, found values that autograd is trac"):
        grad(after)(1.0)
    with pytest.raises(TypeError, match="grad: expected numbers, found values that autograd"):
        grad(lambda a: integration.sgd(lambda x, i: a * x, 1.0, num_iters=2))(1.0)


def test_without_autograd():
    done = python(
        "import sys; sys.modules['autograd'] = None; import fastoptim.integrations.autograd"
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastoptim.integrations.autograd needs autograd")
    assert '"fastoptim[autograd]"' in last


def test_examples_in_docstrings():
    found = doctest.testmod(integration)
    assert found.failed == 0
    assert found.attempted > 8


def test_benchmark_clients_agree():
    client, *_ = clients.clients(quick=True)
    (seconds, expected), (_, found) = client.before(), client.after()
    assert seconds > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=client.tolerance * abs(expected).max())
    assert all(len(c.model) <= 36 for c in clients.clients(quick=False))
