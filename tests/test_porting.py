"""docs/porting.md: each row of its tables steps as what it stands for.

What is installed is asked itself. PennyLane, qiskit and TensorFlow are not: their formulas, and
those of programs that people copy, are written out here.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from peers import import_keras
from zoo import OPTIMIZERS, gradients, name_of

import fastoptim as fo

PAGE = (Path(__file__).parents[1] / "docs" / "porting.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([^`]+)` \| `(fo\.[^`]+)` \|.*\|$", PAGE, re.MULTILINE))

Array: TypeAlias = Any
Rule: TypeAlias = Callable[[Array, list[Array]], Array]


@pytest.fixture(scope="module")
def problem() -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(23)
    p = rng.standard_normal(60)
    # some elements beyond 5, which min-char-rnn clips, and a norm beyond 1, which thinc does
    return p, [3 * gradients(rng, [p])[0] for _ in range(25)]


def ours(text: str, problem: tuple[Array, list[Array]], dtype: str = "float64") -> Array:
    p = problem[0].astype(dtype)
    opt = eval(text, {"fo": fo, "params": p})
    for g in problem[1]:
        opt.step(g.astype(dtype))
    return p


def sgd(lr: float, mu: float = 0.0, nesterov: bool = False) -> Rule:
    """Return the form with the rate in the velocity."""

    def steps(p, grads):
        v = 0 * p
        for g in grads:
            v = mu * v - lr * g
            p = p + (mu * v - lr * g if nesterov else v)
        return p

    return steps


def book_nesterov(p, grads):
    v = 0 * p
    for g in grads:
        p = p + 0.9 * 0.9 * v - (1 + 0.9) * 0.01 * g
        v = 0.9 * v - 0.01 * g
    return p


def adagrad(lr: float, inside: float = 0.0, beside: float = 0.0, start: float = 0.0) -> Rule:
    def steps(p, grads):
        h = np.full_like(p, start)
        for g in grads:
            h = h + g * g
            p = p - lr * g / (np.sqrt(h + inside) + beside)
        return p

    return steps


def rmsprop(
    lr: float, decay: float, inside: float = 0.0, beside: float = 0.0, start: float = 0.0
) -> Rule:
    def steps(p, grads):
        v = np.full_like(p, start)
        for g in grads:
            v = decay * v + (1 - decay) * g * g
            p = p - lr * g / (np.sqrt(v + inside) + beside)
        return p

    return steps


def adam(lr: float, b2: float = 0.999, eps: float = 1e-8, amsgrad: bool = False) -> Rule:
    """Return the form whose corrections are in the rate."""

    def steps(p, grads):
        m, v, most = 0 * p, 0 * p, 0 * p
        for t, g in enumerate(grads, start=1):
            m = 0.9 * m + (1 - 0.9) * g
            v = b2 * v + (1 - b2) * g * g
            most = np.maximum(most, v) if amsgrad else v
            p = p - lr * np.sqrt(1 - b2**t) / (1 - 0.9**t) * m / (np.sqrt(most) + eps)
        return p

    return steps


def char_rnn(p, grads):
    return adagrad(0.1, inside=1e-8)(p, [np.clip(g, -5, 5) for g in grads])


def tf_momentum(p, grads):
    v = 0 * p
    for g in grads:
        v = 0.9 * v + g
        p = p - 0.01 * v
    return p


FORMULAS: dict[str, Rule] = {
    "qml.GradientDescentOptimizer()": sgd(0.01),
    "qml.MomentumOptimizer()": sgd(0.01, 0.9),
    "qml.AdagradOptimizer()": adagrad(0.01, inside=1e-8),
    "qml.RMSPropOptimizer()": rmsprop(0.01, 0.9, inside=1e-8),
    "qml.AdamOptimizer()": adam(0.01, 0.99),
    "qiskit_algorithms.optimizers.ADAM()": adam(1e-3, 0.99),
    "qiskit_algorithms.optimizers.ADAM(amsgrad=True)": adam(1e-3, 0.99, amsgrad=True),
    "tf.compat.v1.train.MomentumOptimizer(0.01, 0.9)": tf_momentum,
    "tf.compat.v1.train.AdagradOptimizer(0.01)": adagrad(0.01, start=0.1),
    "tf.compat.v1.train.AdamOptimizer()": adam(1e-3),
    "SGD()": sgd(0.01),
    "Momentum()": sgd(0.01, 0.9),
    "Nesterov()": book_nesterov,
    "AdaGrad()": adagrad(0.01, beside=1e-7),
    "RMSprop()": rmsprop(0.01, 0.99, beside=1e-7),
    "Adam()": adam(0.001, eps=1e-7),
    "min-char-rnn": char_rnn,
}


def keras_steps(text: str, p: Array, grads: list[Array]) -> Array:
    keras = import_keras()
    variable = keras.Variable(p, dtype="float64")
    optimizer = eval(text, {"keras": keras})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy's, in Keras on torch
        for g in grads:
            optimizer.apply([keras.ops.convert_to_tensor(g)], [variable])
    return variable.value.detach().numpy()


def optax_steps(text: str, p: Array, grads: list[Array]) -> Array:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    with pytest.importorskip("jax").enable_x64(True):
        rule = eval(text, {"optax": optax})
        state = rule.init(p)
        for g in grads:
            updates, state = rule.update(g, state, p)
            p = optax.apply_updates(p, updates)
        return np.asarray(p)


def sklearn_steps(text: str, p: Array, grads: list[Array]) -> Array:
    module, _, call = text.rpartition(".")
    there = pytest.importorskip(module, reason="scikit-learn is not installed")
    rule = eval(call, vars(there) | {"params": [p]})
    for g in grads:
        rule.update_params([p], [g])
    return p


def thinc_steps(text: str, p: Array, grads: list[Array]) -> Array:
    api = pytest.importorskip("thinc.api", reason="thinc is not installed")
    rule = eval(text.removeprefix("thinc.api."), vars(api))
    p = p.astype("float32")
    for g in grads:
        p, _ = rule((0, "W"), p, g.astype("float32"))
    return p


def autograd_steps(text: str, p: Array, grads: list[Array]) -> Array:
    there = pytest.importorskip("autograd.misc.optimizers", reason="autograd is not installed")
    rule = getattr(there, text.rpartition(".")[2])
    return rule(lambda x, i: grads[i], p, num_iters=len(grads))


ASKED = {
    "keras": keras_steps,
    "optax": optax_steps,
    "sklearn": sklearn_steps,
    "thinc": thinc_steps,
    "autograd": autograd_steps,
}


@pytest.mark.parametrize("theirs", ROWS)
def test_a_row_of_the_page(theirs, problem):
    start, grads = problem
    asked = ASKED.get(theirs.partition(".")[0])
    if asked:
        expected = asked(theirs, start.copy(), grads)
    else:
        expected = FORMULAS[theirs](start.copy(), grads)
    dtype = expected.dtype
    found = ours(ROWS[theirs], problem, dtype.name)
    # Where to, and not only where: some rules go far less than the parameters are long.
    way, moved = expected - start.astype(dtype), found - start.astype(dtype)
    rtol, atol = (1e-3, 1e-6) if dtype == np.float32 else (1e-6, 1e-13)
    np.testing.assert_allclose(moved, way, rtol=rtol, atol=atol)
    assert np.all(way != 0)


def test_the_page_has_all_sources():
    assert {*FORMULAS} <= {*ROWS}
    assert {*ASKED} <= {row.partition(".")[0] for row in ROWS}
    assert len(ROWS) > 50


def test_averages_that_start_at_one(problem):
    (line,) = re.findall(r"`(opt = fo\.RMSprop.*?)`, then once `(.*?)`", PAGE)
    start, grads = problem
    names = {"fo": fo, "w": start.copy()}
    exec("\n".join(line), names)
    for g in grads:
        names["opt"].step(g)
    expected = rmsprop(0.1, 0.9, beside=1e-8, start=1.0)(start, grads)
    np.testing.assert_allclose(names["w"], expected, rtol=1e-12)


def defaults(cls: type) -> dict[str, object]:
    return {p.name: p.default for p in inspect.signature(cls).parameters.values()}


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_names_and_defaults_are_those_of_torch(cls):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs = getattr(torch.optim, cls.__name__, None)
    if theirs is None:
        pytest.skip("torch has no such optimizer")
    assert cls.__name__ in re.findall(r"\w+", PAGE.partition("## Keras")[0])
    same = {n: d for n, d in defaults(theirs).items() if n in defaults(cls) and n != "params"}
    assert "lr" in same
    assert same == {name: defaults(cls)[name] for name in same}
