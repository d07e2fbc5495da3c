"""scikit-learn's perceptrons with the steps of fastoptim: as before, in less time."""

from __future__ import annotations

import copy
import doctest
import functools
import gc
import inspect
import itertools
import os
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc
import warnings
import weakref
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from fresh import output, python

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra `sklearn`)")

from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import (
    MLPClassifier,
    MLPRegressor,
    _multilayer_perceptron,
    _stochastic_optimizers,
)
from sklearn.neural_network._base import DERIVATIVES
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from threadpoolctl import threadpool_limits

from fastoptim.integrations import sklearn as ours
from fastoptim.integrations.sklearn import patch, patched, unpatch

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PAIR = MLPClassifier, ours.MLPClassifier
OURS = {MLPClassifier: ours.MLPClassifier, MLPRegressor: ours.MLPRegressor}
X, Y = load_digits(return_X_y=True)
X, Y = X[:600] / 16, Y[:600]
TARGETS = {MLPClassifier: Y, MLPRegressor: np.column_stack([Y, X[:, 20]])}


@pytest.fixture(autouse=True)
def one_thread():
    # On a busy machine, products this small take far longer on two threads than on one.
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(autouse=True)
def own_members():
    before = dict(vars(BaseMultilayerPerceptron))
    yield
    assert dict(vars(BaseMultilayerPerceptron)) == before
    assert not ours._reasons


@pytest.fixture
def only_ours(monkeypatch):
    """Return a function after which scikit-learn itself takes no step."""

    def forbid(*_):
        pytest.fail("scikit-learn took a step itself")

    def switch():  # a method that fails would be scikit-learn's way to take: each step calls zip
        monkeypatch.setattr(_stochastic_optimizers, "zip", forbid, raising=False)

    return switch


def perceptron(cls, **options):
    defaults = {"hidden_layer_sizes": (30, 20), "max_iter": 20, "tol": 0, "random_state": 0}
    return cls(**{**defaults, **options})


def assert_close(a, b, rtol=1e-10):
    np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=rtol)
    for p, q in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert p.dtype == q.dtype
        np.testing.assert_allclose(q, p, rtol=0, atol=rtol * np.abs(p).max())
    assert b.n_iter_ == a.n_iter_
    assert b._optimizer.learning_rate == pytest.approx(a._optimizer.learning_rate, rel=1e-14)
    assert vars(b)["_optimizer"].__class__ is vars(a)["_optimizer"].__class__


SGD = {"solver": "sgd", "learning_rate_init": 0.02}
ADAPTIVE = {**SGD, "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 2, "max_iter": 60}
MODES = {
    "adam": {},
    "adam-other": {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3, "alpha": 0.5},
    "sgd": SGD,
    "sgd-plain": {**SGD, "momentum": 0.0, "alpha": 0.0},
    "sgd-heavy-ball": {**SGD, "nesterovs_momentum": False, "momentum": 0.7},
    "sgd-frictionless": {**SGD, "momentum": 1.0, "learning_rate_init": 1e-4},
    "sgd-invscaling": {**SGD, "learning_rate": "invscaling", "power_t": 0.3},
    "sgd-adaptive": ADAPTIVE,
    "adam-early-stopping": {"early_stopping": True, "n_iter_no_change": 2, "tol": 0.05},
    "sgd-early-stopping": {**ADAPTIVE, "early_stopping": True},
    "adam-batches": {"batch_size": 64, "shuffle": False, "activation": "tanh"},
}
BOTH = pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)


@BOTH
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_a_fit_in_float64(cls, options, only_ours):
    y = TARGETS[cls] / TARGETS[cls].max() if cls is MLPRegressor else TARGETS[cls]
    theirs = perceptron(cls, **options).fit(X, y)
    only_ours()
    assert_close(theirs, perceptron(OURS[cls], **options).fit(X, y))
    with patched():
        assert_close(theirs, perceptron(cls, **options).fit(X, y))


def test_the_modes_are_what_they_say():
    stopped = perceptron(MLPClassifier, **MODES["adam-early-stopping"]).fit(X, Y)
    assert stopped.n_iter_ < 20
    assert not all(map(np.array_equal, stopped.coefs_, stopped._optimizer.ms))
    adaptive = perceptron(MLPClassifier, **ADAPTIVE).fit(X, Y)
    assert adaptive._optimizer.learning_rate < 0.02 / 5.1


@BOTH
@pytest.mark.parametrize("options", [{}, SGD, ADAPTIVE], ids=["adam", "sgd", "adaptive"])
def test_a_fit_in_float32(cls, options, only_ours):
    x, y = X.astype(np.float32), TARGETS[cls]
    if cls is MLPRegressor:
        y = y / 10  # in float64, and so are the gradients of scikit-learn
    options = {**options, "max_iter": 10}
    theirs, exact = perceptron(cls, **options).fit(x, y), perceptron(cls, **options).fit(X, y)
    only_ours()
    found = perceptron(OURS[cls], **options).fit(x, y)
    assert_close(theirs, found, 1e-4)
    np.testing.assert_allclose(found.loss_curve_, exact.loss_curve_, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_inputs(cls, dtype, only_ours):
    x = csr_array(X.astype(dtype))
    theirs = perceptron(cls).fit(x, TARGETS[cls])
    only_ours()
    found = perceptron(OURS[cls]).fit(x, TARGETS[cls])
    assert_close(theirs, found, 1e-10 if dtype is np.float64 else 1e-3)


def test_sample_weights(only_ours):
    if "sample_weight" not in inspect.signature(MLPClassifier.fit).parameters:
        pytest.skip("this version of scikit-learn has none")
    weights = np.random.default_rng(0).random(len(Y))
    theirs = perceptron(MLPClassifier, batch_size=50).fit(X, Y, weights)
    only_ours()
    assert_close(theirs, perceptron(ours.MLPClassifier, batch_size=50).fit(X, Y, weights))


@pytest.mark.parametrize("y", [Y > 4, np.column_stack([Y > 4, Y > 6])], ids=["binary", "many"])
def test_other_targets(y, only_ours):
    theirs = perceptron(MLPClassifier).fit(X, y)
    only_ours()
    assert_close(theirs, perceptron(ours.MLPClassifier).fit(X, y))


def train_on(estimators):
    """Fit a part of the data with each of the estimators, or the same one, in turns."""
    for i, estimator in enumerate(estimators):
        part = slice(100 * i, 100 * (i + 1))
        estimator.partial_fit(X[part], Y[part], classes=np.arange(10))


@pytest.mark.parametrize("options", [{}, {**SGD, "learning_rate": "invscaling"}])
def test_partial_fit(options, only_ours):
    theirs, found = (perceptron(c, **options) for c in PAIR)
    train_on([theirs] * 6)
    only_ours()
    train_on([found] * 6)
    assert_close(theirs, found)
    assert getattr(found._optimizer, "t", 6) == 6


@pytest.mark.parametrize("options", [{}, SGD])
def test_partial_fit_with_and_without_the_patch(options):
    theirs, found = (perceptron(MLPClassifier, **options) for _ in range(2))
    train_on([theirs] * 6)
    for i in range(6):
        part = slice(100 * i, 100 * (i + 1))
        (patch if i % 2 else unpatch)()
        found.partial_fit(X[part], Y[part], classes=np.arange(10))
    unpatch()
    assert_close(theirs, found)


@pytest.mark.parametrize("options", [{}, SGD])
def test_warm_start(options, only_ours):
    theirs, found = (perceptron(c, warm_start=True, max_iter=5, **options) for c in PAIR)
    for estimator, switch in ((theirs, only_ours), (found, lambda: None)):
        for _ in range(3):
            estimator.fit(X, Y)
        switch()
    assert_close(theirs, found)


def test_partial_fit_of_other_coefficients(only_ours):
    theirs, found = (perceptron(c).partial_fit(X, Y, classes=np.arange(10)) for c in PAIR)
    for estimator, switch in ((theirs, only_ours), (found, lambda: None)):
        estimator.coefs_ = [c + 0.01 for c in estimator.coefs_]
        estimator.partial_fit(X, Y)
        switch()
    assert_close(theirs, found)


def test_lbfgs_is_scikit_learns():
    theirs, found = (perceptron(c, solver="lbfgs").fit(X, Y) for c in PAIR)
    np.testing.assert_array_equal(found.coefs_[0], theirs.coefs_[0])


# What the engine refuses, and what others have changed


def test_a_change_of_dtype():
    theirs, found = (perceptron(c) for c in PAIR)
    for estimator in (theirs, found):
        for dtype in (np.float64, np.float32, np.float64):
            estimator.partial_fit(X.astype(dtype), Y, classes=np.arange(10))
    assert_close(theirs, found)
    for estimator in (theirs, found):
        estimator.__init__(random_state=0)
        del estimator.coefs_, estimator._optimizer
        for dtype in (np.float32, np.float64, np.float32):
            estimator.partial_fit(X.astype(dtype), Y, classes=np.arange(10))
    assert_close(theirs, found, 1e-5)


def strided(a):
    return np.repeat(a, 2, axis=-1)[..., ::2]


def part_of_another(a):
    return np.concatenate([a, a])[: len(a)]


@pytest.mark.parametrize("change", [strided, part_of_another, np.asfortranarray])
def test_coefficients_of_the_users_own(change):
    pair = [perceptron(c, warm_start=True, alpha=0.1).fit(X, Y) for c in PAIR]
    for estimator in pair:
        estimator.coefs_ = [change(c) for c in estimator.coefs_]
        mine = estimator.coefs_[0]
        estimator.fit(X, Y)
        assert estimator.coefs_[0] is mine
    assert_close(*pair)


def test_read_only_coefficients_are_refused():
    estimator = perceptron(ours.MLPClassifier, warm_start=True).fit(X, Y)
    estimator.coefs_[0].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        estimator.fit(X, Y)


class WithL1(MLPClassifier):
    def _compute_loss_grad(self, layer, total, activations, deltas, coef_grads, intercept_grads):
        super()._compute_loss_grad(layer, total, activations, deltas, coef_grads, intercept_grads)
        coef_grads[layer] += 0.01 * np.sign(self.coefs_[layer])


class WithHalf(MLPClassifier):
    def _backprop(self, *args):
        loss, coef_grads, intercept_grads = super()._backprop(*args)
        return loss, [g / 2 for g in coef_grads], intercept_grads


class Careful(AdamOptimizer):
    def _get_updates(self, grads):
        return [update / 2 for update in super()._get_updates(grads)]


# Functions in the place of scikit-learn's keep the gradients that they see, and change some.


def around_compute_loss_grad(old, kept):
    def hook(*args):
        old(*args)
        layer, _, _, _, coef_grads, intercept_grads = args[-6:]
        kept.extend([coef_grads[layer], intercept_grads[layer]])
        coef_grads[layer] += 0.01

    return hook


def around_backprop(old, kept):
    def hook(*args):
        loss, coef_grads, intercept_grads = old(*args)
        kept.extend(coef_grads + intercept_grads)
        return loss, [g / 2 for g in coef_grads], intercept_grads

    return hook


def around_fit_stochastic(old, kept):
    def hook(*args):
        old(*args)
        kept.extend(args[-4] + args[-3])

    return hook


def around_update_params(old, kept):
    def hook(*args):
        *first, grads = args
        assert type(grads) is list
        kept.extend(grads)
        old(*first, [np.clip(g, -0.01, 0.01) for g in grads])

    return hook


def around_get_updates(old, kept):
    def hook(*args):
        kept.extend(args[-1])
        return [update / 2 for update in old(*args)]

    return hook


def around_safe_sparse_dot(old, kept):
    def hook(*args, **kwargs):
        kept.append(1.01 * old(*args, **kwargs))
        return kept[-1]

    return hook


class Delegate:
    """An optimizer that is none of scikit-learn's."""

    def __init__(self, inner, kept):
        self.inner = inner
        self.update_params = around_update_params(inner.update_params, kept)

    def __getattr__(self, name):
        return getattr(self.inner, name)


AROUND = {
    "_compute_loss_grad": around_compute_loss_grad,
    "_backprop": around_backprop,
    "_fit_stochastic": around_fit_stochastic,
    "update_params": around_update_params,
    "_get_updates": around_get_updates,
    "safe_sparse_dot": around_safe_sparse_dot,
}
OWNERS = {
    "estimator": lambda e: e,
    "optimizer": lambda e: e._optimizer,
    "stored optimizer": lambda e: vars(e)["_optimizer"],
    "BaseMultilayerPerceptron": lambda e: BaseMultilayerPerceptron,
    "MLPClassifier": lambda e: MLPClassifier,
    "class of the estimator": type,
    "class of the optimizer": lambda e: type(e._optimizer),
    "AdamOptimizer": lambda e: AdamOptimizer,
    "BaseOptimizer": lambda e: _stochastic_optimizers.BaseOptimizer,
    "module": lambda e: _multilayer_perceptron,
}
PERCEPTRONS = "estimator", "BaseMultilayerPerceptron", "MLPClassifier", "class of the estimator"
OPTIMIZERS = "optimizer", "stored optimizer", "class of the optimizer", "AdamOptimizer"
HOOKS = [
    *((owner, name) for owner in PERCEPTRONS for name in list(AROUND)[:3]),
    *((owner, name) for owner in OPTIMIZERS for name in list(AROUND)[3:5]),
    ("BaseOptimizer", "update_params"),
    ("module", "safe_sparse_dot"),
]


@contextmanager
def hooked(owner, name, estimator, kept):
    target = OWNERS[owner](estimator)
    with mock.patch.object(target, name, AROUND[name](getattr(target, name), kept)):
        yield


@contextmanager
def hooked_for_one_call(owner, name, estimator, kept):
    """Put a function in the place of another, which removes itself before it does anything."""
    target, removed = OWNERS[owner](estimator), ExitStack()
    function = AROUND[name](getattr(target, name), kept)

    def hook(*args):
        removed.close()
        return function(*args)

    with removed:
        removed.enter_context(mock.patch.object(target, name, hook))
        yield


class Proxy:
    """A function around another, which it pretends to be, as the decorators of wrapt do."""

    def __init__(self, function, old):
        self.function, self.old = function, old

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.old, name)


@contextmanager
def hooked_in_disguise(owner, name, estimator, kept):
    target = OWNERS[owner](estimator)
    old = getattr(target, name)
    with mock.patch.object(target, name, Proxy(AROUND[name](old, kept), old)):
        yield


@contextmanager
def delegated(_owner, _name, estimator, kept):
    optimizer = estimator._optimizer
    estimator._optimizer = Delegate(optimizer, kept)
    yield
    estimator._optimizer = optimizer


HOOKED = [
    *((hooked, *hook) for hook in HOOKS),
    *((hooked_for_one_call, *hook) for hook in HOOKS if "module" not in hook),
    (hooked_in_disguise, "optimizer", "update_params"),
    (hooked_in_disguise, "optimizer", "_get_updates"),
    (hooked_in_disguise, "module", "safe_sparse_dot"),
    (delegated, "_optimizer", ""),
]


def fit_with_a_hook(estimator, hook, inside=None):
    """Fit without, with and without a hook, and return the gradients that it saw, and copies."""
    put, owner, name = hook
    x, y, kept = X[:60], Y[:60], []
    estimator.partial_fit(x, y, classes=np.arange(10))
    with put(owner, name, estimator, kept), inside or nullcontext():
        estimator.partial_fit(x, y)
        copies = copy.deepcopy(kept)
        estimator.partial_fit(x, y)
    copies += copy.deepcopy(kept[len(copies) :])
    estimator.partial_fit(x, y)
    assert kept
    for array, copied in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copied)
    return kept


@pytest.mark.parametrize("hook", HOOKED, ids=lambda hook: "-".join([hook[0].__name__, *hook[1:]]))
@pytest.mark.parametrize("how", ["hook in patch", "patch in hook", "class", "class in patch"])
def test_hooks_see_the_gradients_of_scikit_learn(hook, how):
    options = {"hidden_layer_sizes": (8, 5), "batch_size": 30, "alpha": 0.5}
    theirs, found = (perceptron(cls, **options) for cls in PAIR)
    expected = fit_with_a_hook(theirs, hook)
    if "class" not in how:
        found = perceptron(MLPClassifier, **options)
    with ExitStack() as stack:
        if how in ("hook in patch", "class in patch"):
            stack.enter_context(patched())
        seen = fit_with_a_hook(found, hook, patched() if how == "patch in hook" else None)
    for a, b in zip(expected, seen, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    assert_close(theirs, found)


@pytest.mark.parametrize("name", list(AROUND)[:3])
@pytest.mark.parametrize("cls", PAIR, ids=["patched", "ours"])
def test_hooks_without_a_frame_of_their_own_are_seen(cls, name, monkeypatch):
    """A function that Cython has compiled has none; nor has a partial one, which stands for it."""
    monkeypatch.setattr(ours._Gradients, "add", lambda *_: pytest.fail("the hook got sums"))
    estimator = perceptron(cls, max_iter=2)
    with patched():
        setattr(estimator, name, functools.partial(getattr(estimator, name)))
        estimator.fit(X, Y)


def with_epochs(cls, at_epoch, **options):
    """Return a perceptron that calls ``at_epoch(estimator)`` after each epoch of a fit."""

    class WithEpochs(cls):
        def _update_no_improvement_count(self, *args):
            super()._update_no_improvement_count(*args)
            at_epoch(self)

    return perceptron(WithEpochs, max_iter=6, **options)


def hook_for_two_epochs(kept):
    old = []

    def at_epoch(estimator):
        if estimator.n_iter_ == 2:
            old.append(estimator._backprop)
            estimator._backprop = around_backprop(*old, kept)
        if estimator.n_iter_ == 4:
            del estimator._backprop

    return at_epoch


def test_a_hook_in_the_middle_of_a_fit_sees_gradients_that_stay():
    kepts = [], []
    pair = [
        with_epochs(cls, hook_for_two_epochs(kept)) for cls, kept in zip(PAIR, kepts, strict=True)
    ]
    for estimator in pair:
        estimator.fit(X, Y)
    assert_close(*pair)
    expected, seen = kepts
    assert len(expected) == 2 * 3 * 6
    for a, b in zip(expected, seen, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def replace_compute_loss_grad(estimator):
    """Put another function in the place of scikit-learn's for one layer, and another gradient."""
    if estimator.n_iter_ == 2:
        old = estimator._compute_loss_grad

        def hook(layer, total, activations, deltas, coef_grads, intercept_grads):
            if layer == 1:
                coef_grads[layer] = 0.1 * estimator.coefs_[layer]
                intercept_grads[layer] = 0.1 * estimator.intercepts_[layer]
            else:
                old(layer, total, activations, deltas, coef_grads, intercept_grads)

        estimator._compute_loss_grad = hook


def replace_coefs(estimator):
    """Let the gradients be those of others than the coefficients that the fit goes on to update."""
    if estimator.n_iter_ == 2:
        estimator.coefs_ = [np.where(abs(c) < 0.1, 0, c) for c in estimator.coefs_]


def replace_one_coef(estimator):
    estimator.coefs_[1] = np.where(abs(estimator.coefs_[1]) < 0.1, 0, estimator.coefs_[1])


@pytest.mark.parametrize("change", [replace_compute_loss_grad, replace_coefs, replace_one_coef])
def test_a_change_in_the_middle_of_a_fit(change):
    pair = [with_epochs(cls, change, alpha=5.0).fit(X, Y) for cls in PAIR]
    assert_close(*pair)
    for a, b in zip(*(estimator._optimizer.ms for estimator in pair), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


class WithAlphas:
    """Has an alpha of its own for each layer, which it takes in turns."""

    def __init__(self, random_state=0, alphas=None):
        super().__init__((30, 20), random_state=random_state, max_iter=5)
        self.alphas = alphas

    @property
    def alpha(self):
        return next(self.alphas)

    @alpha.setter
    def alpha(self, alpha):
        pass


@pytest.mark.parametrize("alphas", [[1.0, 2.0, 3.0], [np.array(3.0)]], ids=["several", "array"])
def test_penalties_of_all_kinds(alphas):
    pair = []
    for cls in PAIR:
        estimator = type("Own", (WithAlphas, cls), {"__init__": WithAlphas.__init__})()
        pair.append(estimator)
        estimator.alphas = itertools.repeat(0.0)
        estimator.partial_fit(X, Y, classes=np.arange(10))
        estimator.alphas = itertools.chain.from_iterable([alphas] * 100)
        with sklearn.config_context(skip_parameter_validation=True):
            estimator.partial_fit(X, Y)
    assert_close(*pair)


class Bounded(np.ndarray):
    """An array whose += keeps it within bounds."""

    def __iadd__(self, other):
        plain = self.view(np.ndarray)
        plain += other
        np.clip(plain, -0.1, 0.1, out=plain)
        return self


def test_coefficients_with_an_addition_of_their_own():
    pair = [perceptron(cls).partial_fit(X, Y, classes=np.arange(10)) for cls in PAIR]
    for estimator in pair:
        estimator.coefs_ = [c.view(Bounded) for c in estimator.coefs_]
        estimator.partial_fit(X, Y)
        estimator.partial_fit(X, Y)
    assert abs(pair[1].coefs_[0]).max() == 0.1
    assert_close(*pair)


def test_coefficients_that_two_layers_share():
    pair = [perceptron(cls, hidden_layer_sizes=(64, 64)).fit(X, Y) for cls in PAIR]
    for estimator in pair:
        estimator.coefs_[1] = estimator.coefs_[0].T
        estimator.partial_fit(X, Y)
    assert_close(*pair)


class Named:
    """Hands arguments on by name."""

    def _fit_stochastic(self, *args):
        *_, coef_grads, intercept_grads, layer_units, incremental = args
        self.seen = coef_grads
        last = {"layer_units": layer_units, "incremental": incremental}
        super()._fit_stochastic(
            *args[:-4], coef_grads=coef_grads, intercept_grads=intercept_grads, **last
        )

    def _compute_loss_grad(self, layer, total, activations, deltas, *grads):
        names = list(inspect.signature(MLPClassifier._compute_loss_grad).parameters)[5:]
        super()._compute_loss_grad(
            layer, total, activations, deltas, **dict(zip(names, grads, strict=True))
        )


def test_arguments_by_name():
    pair = [perceptron(type("Own", (Named, cls), {})).fit(X, Y) for cls in PAIR]
    assert_close(*pair)
    for a, b in zip(*(estimator.seen for estimator in pair), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


class Elsewhere:
    """Keeps its optimizer in another place, of another class, which cannot be looked up."""

    @property
    def _optimizer(self):
        return self.__dict__["mine"]

    @_optimizer.setter
    def _optimizer(self, optimizer):
        self.__dict__["mine"] = Delegate(optimizer, [])


def test_an_optimizer_in_another_place():
    pair = [perceptron(type("Own", (Elsewhere, cls), {})).fit(X, Y) for cls in PAIR]
    np.testing.assert_allclose(pair[1].loss_curve_, pair[0].loss_curve_, rtol=1e-10)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize(("name", "value"), [("beta_1", 1.0), ("learning_rate_init", [0.1])])
def test_hyperparameters_of_which_only_scikit_learn_makes_something(name, value):
    pair = [perceptron(cls).partial_fit(X, Y, classes=np.arange(10)) for cls in PAIR]
    for estimator in pair:
        setattr(estimator._optimizer, name, np.array(value) if type(value) is list else value)
        with suppress(ValueError):  # of parameters that are not finite
            estimator.partial_fit(X, Y)
        assert estimator._optimizer.t == 6
    for a, b in zip(*(estimator.coefs_ for estimator in pair), strict=True):
        np.testing.assert_allclose(b, a)


# What others have reported


def diverging(cls, dtype, **options):
    x, y = (1e3 * X).astype(dtype), (1e6 * TARGETS[MLPRegressor]).astype(dtype)
    return perceptron(cls, activation="identity", **options).fit(x, y)


def a_class_alone_in_a_batch(cls):
    estimator = perceptron(cls).partial_fit([[1], [2]], ["a", "b"], classes=["a", "b", "c"])
    return estimator.partial_fit([[3]], ["c"])


def fewer_classes(cls):
    return perceptron(cls, warm_start=True).fit(X, Y).fit(X[Y < 9], Y[Y < 9])


def weights(*values):
    def fit(cls):
        options = {"batch_size": 300, "shuffle": False, "alpha": 5.0}
        return perceptron(cls, **options).fit(X, Y / 9, np.repeat(values, 300))

    return fit


DIVERGING = {"solver": "sgd", "learning_rate_init": 1e3}
REPORTED = {
    "diverging": lambda _, r: diverging(r, np.float64, **DIVERGING),
    "diverging in float32": lambda _, r: diverging(r, np.float32, **DIVERGING),
    "diverging, stopped early": lambda _, r: diverging(
        r, np.float64, **DIVERGING, early_stopping=True
    ),
    "a class alone in a batch": lambda c, _: a_class_alone_in_a_batch(c),
    "fewer classes": lambda c, _: fewer_classes(c),
    "early stopping of a part": lambda c, _: perceptron(c, early_stopping=True).partial_fit(
        X, Y, classes=np.arange(10)
    ),
    "early stopping of a few": lambda _, r: perceptron(r, early_stopping=True).fit(X[:2], Y[:2]),
    "a batch larger than the data": lambda c, _: perceptron(c, batch_size=10**6).fit(X, Y),
    "no weight in a batch": lambda _, r: weights(1.0, 0.0)(r),
    "less than no weight": lambda _, r: weights(-2.0, 1.0)(r),
    "hardly a weight": lambda _, r: weights(1e-320, 1e-320)(r),
    "weights too large": lambda _, r: weights(1e307, 1e307)(r),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("fit", REPORTED.values(), ids=REPORTED)
def test_what_has_been_reported_of_scikit_learn_is_as_it_is_there(fit, request):
    has_weights = "sample_weight" in inspect.signature(MLPClassifier.fit).parameters
    if "weight" in request.node.callspec.id and not has_weights:
        pytest.skip("this version of scikit-learn has none")
    found = []
    for classes in ((MLPClassifier, MLPRegressor), (ours.MLPClassifier, ours.MLPRegressor)):
        try:
            found.append(fit(*classes))
        except (ValueError, ZeroDivisionError) as error:
            found.append(f"{type(error).__name__}: {error}")
    if str in map(type, found):
        assert found[0] == found[1]
    else:
        assert_close(*found)


# Warm starts with other sizes


def other_sizes(*sizes):
    def change(estimator):
        estimator.hidden_layer_sizes = sizes

    return change


def prune(estimator):
    kept = np.flatnonzero(np.arange(30) % 3)
    first, second, *rest = estimator.coefs_
    estimator.coefs_ = [np.ascontiguousarray(first[:, kept]), second[kept], *rest]
    estimator.intercepts_[0] = estimator.intercepts_[0][kept]


def to_float32(estimator):
    estimator.coefs_ = [c.astype(np.float32) for c in estimator.coefs_]


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize(
    "change",
    [other_sizes(10, 20), other_sizes(40, 30), prune, to_float32, other_sizes(30)],
    ids=["smaller", "larger", "pruned", "float32", "fewer"],
)
@pytest.mark.parametrize("options", [{}, SGD], ids=["adam", "sgd"])
def test_a_warm_start_with_other_sizes(change, options):
    pair = [perceptron(c, warm_start=True, alpha=0.1, **options).fit(X, Y) for c in PAIR]
    errors = []
    for estimator in pair:
        change(estimator)
        try:
            estimator.fit(X, Y)
        except IndexError as error:  # what else with fewer layers?
            errors.append(str(error))
    if errors:
        assert errors == [errors[0]] * 2
    else:
        assert_close(*pair, 1e-4 if change is to_float32 else 1e-10)


@pytest.mark.parametrize("cls", [WithL1, WithHalf])
def test_subclasses_see_finished_gradients(cls, only_ours):
    theirs = perceptron(cls).fit(X, Y)
    only_ours()
    with patched():
        assert_close(theirs, perceptron(cls).fit(X, Y))


def test_an_optimizer_of_somebodys_own_sees_finished_gradients():
    pair = [perceptron(c).partial_fit(X, Y, classes=np.arange(10)) for c in PAIR]
    for estimator in pair:
        estimator._optimizer = Careful(estimator.coefs_ + estimator.intercepts_)
        estimator.partial_fit(X, Y)
    assert_close(*pair)
    assert type(pair[1]._optimizer) is Careful


def test_gradients_for_others_than_the_step_are_finished():
    """Anyone may ask a fitted estimator for the gradients of its loss."""
    estimator = perceptron(MLPClassifier, alpha=0.5).fit(X, Y)

    def gradients():
        activations, deltas = [X, None, None, None], [None] * 3
        one_hot = np.eye(10)[Y]
        weights = [None] * (estimator._backprop.__code__.co_argcount - 7)
        args = activations, deltas, [None] * 3, [None] * 3
        return estimator._backprop(X, one_hot, *weights, *args)[1]

    expected = gradients()
    with patched():
        for g, e in zip(gradients(), expected, strict=True):
            np.testing.assert_array_equal(g, e)


def test_the_learning_rate_can_be_changed():
    pair = [perceptron(c, **SGD) for c in PAIR]
    for estimator in pair:
        estimator.partial_fit(X, Y, classes=np.arange(10))
        estimator._optimizer.learning_rate = 0.5
        estimator.partial_fit(X, Y)
    assert_close(*pair)


# Costs


@pytest.mark.parametrize("cls", PAIR, ids=["patched", "ours"])
@pytest.mark.parametrize("options", [{}, SGD])
def test_gradients_and_steps_allocate_nothing_that_grows(cls, options, monkeypatch):
    """Also the penalty, and the mean over the batch; some versions of NumPy take 64 KB to sum."""
    estimator = perceptron(cls, hidden_layer_sizes=(3000,), max_iter=3, **options)
    peaks = {}

    def trace(owner, name):
        function = getattr(owner, name)

        def traced(*args):
            tracemalloc.start()
            result = function(*args)
            peaks.setdefault(name, []).append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            return result

        monkeypatch.setattr(owner, name, traced)

    trace(ours._FusedUpdate, "_step")
    trace(ours._Gradients, "add")
    with patched():
        estimator.fit(X, Y)
    assert {name: len(found) for name, found in peaks.items()} == {
        "_step": 9,
        "add": 18,
    }
    for found in peaks.values():
        assert max(found[2:]) < estimator.coefs_[0].nbytes / 10


def test_the_arrays_of_a_fit_are_not_kept():
    estimator = perceptron(ours.MLPClassifier).fit(X, Y)
    assert vars(estimator)["_optimizer"] not in ours._fused
    estimator.partial_fit(X, Y)
    plan = estimator._optimizer.plan
    estimator.partial_fit(X, Y)
    assert estimator._optimizer.plan is plan
    optimizer = weakref.ref(vars(estimator)["_optimizer"])
    del estimator, plan
    gc.collect()
    assert optimizer() is None


# Copies


@pytest.mark.parametrize("options", [{}, SGD])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("cls", [MLPClassifier, ours.MLPClassifier])
def test_copies_train_on_alike(cls, copied, options):
    with patched():
        estimator = perceptron(cls, **options).partial_fit(X, Y, classes=np.arange(10))
        other = copied(estimator)
        assert type(other) is cls
        for each in (estimator, other):
            each.partial_fit(X, Y)
            each.partial_fit(X, Y)
    assert other.coefs_[0] is not estimator.coefs_[0]
    for p, q in zip(estimator.coefs_, other.coefs_, strict=True):
        np.testing.assert_array_equal(p, q)


def test_a_pickle_of_scikit_learns_class_needs_no_fastoptim():
    with patched():
        estimator = perceptron(MLPClassifier).fit(X, Y)
        assert b"fastoptim" not in pickle.dumps(estimator)
        optimizer = pickle.loads(pickle.dumps(estimator._optimizer))
        other = copy.deepcopy(estimator._optimizer)
        estimator._optimizer = estimator._optimizer
    assert type(optimizer) is type(other) is type(estimator._optimizer) is AdamOptimizer
    np.testing.assert_array_equal(optimizer.ms[0], estimator._optimizer.ms[0])
    assert optimizer.ms[0] is not estimator._optimizer.ms[0]


def test_the_attribute_is_there_only_when_it_is():
    estimator = ours.MLPClassifier()
    assert not hasattr(estimator, "_optimizer")
    estimator.partial_fit(X, Y, classes=np.arange(10))
    del estimator._optimizer
    assert not hasattr(estimator, "_optimizer")


@BOTH
def test_clones_and_parameters(cls):
    estimator = perceptron(OURS[cls], alpha=0.3)
    other = clone(estimator.fit(X, TARGETS[cls]))
    assert type(other) is OURS[cls]
    assert other.get_params() == perceptron(cls, alpha=0.3).get_params()
    assert not hasattr(other, "coefs_")
    assert repr(other) == repr(perceptron(cls, alpha=0.3))


def test_a_grid_search_over_a_pipeline_in_two_processes(only_ours):
    found = []
    for cls in (MLPClassifier, ours.MLPClassifier):
        pipeline = make_pipeline(MinMaxScaler(), perceptron(cls, max_iter=5))
        step = pipeline.steps[-1][0]
        grid = {f"{step}__solver": ["adam", "sgd"], f"{step}__alpha": [1e-4, 1.0]}
        search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2, error_score="raise")
        with warnings.catch_warnings():  # in the workers they are printed
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append(search.fit(16 * X, Y))
    theirs, mine = found
    assert type(mine.best_estimator_[-1]) is ours.MLPClassifier
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(mine.cv_results_[name], theirs.cv_results_[name])


# The patch


def is_patched():
    return "_optimizer" in vars(BaseMultilayerPerceptron)


def test_patching_twice_and_undoing_once():
    for _ in range(2):
        patch()
        patch()
        assert is_patched()
        unpatch()
        assert not is_patched()
        unpatch()
        assert not is_patched()


def test_blocks_may_be_nested_and_raise():
    with patched():
        with pytest.raises(KeyError), patched():
            raise KeyError
        assert is_patched()
        unpatch()
        assert is_patched()
        patch()
    assert is_patched()
    with patched():
        pass
    assert is_patched()
    with patched():
        unpatch()
        assert is_patched()
    assert not is_patched()


def test_blocks_may_overlap():
    one, other = patched(), patched()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert is_patched()
    other.__exit__(None, None, None)
    assert not is_patched()


def test_the_patch_is_changed_by_one_thread_at_a_time(monkeypatch):
    seen = []

    class Reasons(list):
        def append(self, reason):
            seen.append(ours._lock.locked())
            super().append(reason)

        def remove(self, reason):
            seen.append(ours._lock.locked())
            super().remove(reason)

    install = ours._install

    def watched():
        seen.append(ours._lock.locked())
        install()

    monkeypatch.setattr(ours, "_reasons", Reasons())
    monkeypatch.setattr(ours, "_install", watched)
    with patched():
        assert seen == [True] * 2
        assert not ours._lock.locked()
    assert seen == [True] * 4
    patch()
    assert seen == [True] * 6
    unpatch()
    assert seen == [True] * 8


@pytest.mark.parametrize("options", [{}, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same thread", "other thread"])
def test_a_fit_stays_patched_to_its_end(options, elsewhere, monkeypatch, only_ours):
    """Also if the patch is undone within a step, when some of its gradients are still sums."""
    options = {"max_iter": 4, "batch_size": 300, "alpha": 5.0, **options}
    theirs = perceptron(MLPClassifier, **options).fit(X, Y)
    only_ours()
    derivative, states = DERIVATIVES["relu"], []

    def undo(*args):
        if elsewhere:
            thread = threading.Thread(target=unpatch)
            thread.start()
            thread.join()
        else:
            unpatch()
        states.append(is_patched())
        derivative(*args)

    monkeypatch.setitem(DERIVATIVES, "relu", undo)
    patch()
    found = perceptron(MLPClassifier, **options).fit(X, Y)
    assert states == [True] * 4 * 2 * 2
    assert not is_patched()
    assert_close(theirs, found)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fit_that_ends_early_is_no_reason_to_stay_patched(error):
    def fail(estimator):
        unpatch()
        assert is_patched()
        raise error

    patch()
    with warnings.catch_warnings(), suppress(RuntimeError):
        warnings.simplefilter("ignore")
        with_epochs(MLPClassifier, fail).fit(X, Y)
    assert not is_patched()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("options", [{}, SGD], ids=["adam", "sgd"])
def test_a_fit_may_be_patched_and_unpatched_while_it_goes_on(options, late, monkeypatch):
    """It has not begun so, even if its method was looked up just before the end of a patch."""
    options = {"max_iter": 4, "batch_size": 300, "alpha": 5.0, **options}
    theirs = perceptron(MLPClassifier, **options).fit(X, Y)
    derivative, changes = DERIVATIVES["relu"], itertools.cycle([patch, unpatch])

    def change(*args):
        next(changes)()
        derivative(*args)

    monkeypatch.setitem(DERIVATIVES, "relu", change)
    found = perceptron(MLPClassifier, **options)
    if late:
        with patched():
            found._fit_stochastic = found._fit_stochastic
    assert_close(theirs, found.fit(X, Y))
    unpatch()


def test_a_method_that_was_looked_up_before_the_end_of_the_patch_works_after_it():
    expected = perceptron(MLPClassifier).fit(X, Y)
    found = perceptron(MLPClassifier)
    with patched():
        found._fit_stochastic = found._fit_stochastic
        found._compute_loss_grad = found._compute_loss_grad
    assert_close(expected, found.fit(X, Y))


def test_what_others_have_put_over_the_patch_outlives_it():
    calls = []

    def hook(self, *args):
        calls.append(len(args))
        return beneath(self, *args)

    own = BaseMultilayerPerceptron._compute_loss_grad
    with patched():
        beneath = BaseMultilayerPerceptron._compute_loss_grad
        BaseMultilayerPerceptron._compute_loss_grad = hook
        with patched():
            pass
    try:
        assert BaseMultilayerPerceptron._compute_loss_grad is hook
        found = perceptron(MLPClassifier, alpha=5.0).fit(X, Y)
        with patched():
            perceptron(MLPClassifier).fit(X, Y)
        assert len(calls) == 2 * 20 * 3 * 3
    finally:
        BaseMultilayerPerceptron._compute_loss_grad = own
    assert_close(perceptron(MLPClassifier, alpha=5.0).fit(X, Y), found)


def test_what_others_remove_is_not_put_back():
    """As `mock.patch` does, which was there before."""
    with mock.patch.object(BaseMultilayerPerceptron, "_compute_loss_grad", autospec=True):
        patch()
    found = perceptron(MLPClassifier).fit(X, Y)
    unpatch()
    assert_close(perceptron(MLPClassifier).fit(X, Y), found)


def test_threads_may_fit_and_patch_at_once():
    seeds = range(6)
    expected = [perceptron(MLPClassifier, random_state=seed).fit(X, Y) for seed in seeds]
    found = [perceptron(MLPClassifier, random_state=seed) for seed in seeds]
    done = threading.Event()

    def toggle():
        while not done.is_set():
            patch()
            unpatch()

    def fit(estimator):
        with warnings.catch_warnings():
            estimator.fit(X, Y)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=fit, args=(estimator,)) for estimator in found]
        toggling = threading.Thread(target=toggle)
        for thread in (toggling, *threads):
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        done.set()
        toggling.join()
        sys.setswitchinterval(interval)
    for a, b in zip(expected, found, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("version", ["0.24.2", "1.5.2", "1.10.0", "2.0rc1"])
def test_another_version_is_left_unpatched(monkeypatch, version):
    monkeypatch.setattr(sklearn, "__version__", version)
    message = f"expected scikit-learn 1.6 to 1.9, found {re.escape(version)}: it is left unpatched"
    with pytest.warns(RuntimeWarning, match=message):
        patch()
    assert not is_patched()
    with pytest.warns(RuntimeWarning, match=message), patched():
        assert not is_patched()
    unpatch()


@pytest.mark.parametrize("version", ["1.6.0", "1.9.dev0", sklearn.__version__])
def test_supported_versions(monkeypatch, version):
    monkeypatch.setattr(sklearn, "__version__", version)
    with patched():
        assert is_patched()


# Fresh processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_while_another_thread_changes_the_patch_leaves_the_lock_free():
    code = """
import os, threading, warnings
import fastoptim.integrations.sklearn as ours
warnings.simplefilter("ignore")
locked, done = threading.Event(), threading.Event()

def change():
    with ours._lock:
        locked.set()
        done.wait(1)  # a fork that does not wait for the lock comes before

threading.Thread(target=change).start()
locked.wait()
if os.fork() == 0:
    os._exit(ours._lock.locked())
print(os.waitstatus_to_exitcode(os.wait()[1]))
done.set()
with ours.patched():
    print(ours._lock.locked())
"""
    assert output(code).split() == ["0", "False"]


RELOADS = {
    "reloaded": "importlib.reload(ours)",
    "imported anew": "del sys.modules[name]; ours = importlib.import_module(name)",
}


@pytest.mark.parametrize("again", RELOADS.values(), ids=RELOADS)
@pytest.mark.parametrize("how", ["patch", "block"])
def test_a_module_that_is_loaded_again_while_scikit_learn_is_patched(again, how):
    """In a process of its own, since the other tests know only one module."""
    code = f"""
import importlib, sys, warnings
import numpy as np
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
warnings.simplefilter("ignore")
x, y = load_iris(return_X_y=True)

def fit(cls=MLPClassifier):
    return cls((5,), max_iter=3, random_state=0, alpha=1.0).fit(x, y)

before, expected = dict(vars(BaseMultilayerPerceptron)), fit()

def agrees(estimator):
    return all(np.allclose(p, q) for p, q in zip(estimator.coefs_, expected.coefs_))

import fastoptim.integrations.sklearn as ours
first, name = ours, ours.__name__
block = first.patched()
first.patch() if {how!r} == "patch" else block.__enter__()
kept = fit(first.MLPClassifier)
print(agrees(kept))
for _ in range(2):
    {again}
    print(agrees(fit()), agrees(fit(first.MLPClassifier)), agrees(fit(ours.MLPClassifier)))
    print(agrees(kept.fit(x, y)), "_optimizer" in vars(BaseMultilayerPerceptron))
with ours.patched():
    print(agrees(fit()), agrees(kept.fit(x, y)))
print("_optimizer" in vars(BaseMultilayerPerceptron))
first.unpatch() if {how!r} == "patch" else block.__exit__(None, None, None)
print(dict(vars(BaseMultilayerPerceptron)) == before, agrees(fit()), agrees(kept.fit(x, y)))
"""
    found = output(code).split()
    assert found == ["True"] * len(found)
    assert len(found) == 1 + 2 * 5 + 2 + 1 + 3


def test_nothing_of_it_is_imported_by_itself():
    code = "import sys, fastoptim; print({'sklearn', 'fastoptim.integrations'} & {*sys.modules})"
    assert output(code) == "set()"


def test_without_scikit_learn_it_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import fastoptim.integrations.sklearn"
    done = python(code)
    assert done.returncode == 1
    assert "ImportError: fastoptim.integrations.sklearn: needs scikit-learn" in done.stderr
    assert 'python -m pip install "fastoptim[sklearn]"' in done.stderr


def test_with_another_version_the_classes_are_scikit_learns():
    code = """
import warnings, sklearn
sklearn.__version__ = "3.1"
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    import fastoptim.integrations.sklearn as ours
    estimator = ours.MLPClassifier((2,), max_iter=1)
    estimator.partial_fit([[0.0], [1.0]], [0, 1], classes=[0, 1])
print([str(w.message) for w in found if w.category is RuntimeWarning])
print(type(estimator._optimizer).__module__)
"""
    warned, module = output(code).splitlines()
    assert "expected scikit-learn 1.6 to 1.9, found 3.1" in warned
    assert module == "sklearn.neural_network._stochastic_optimizers"


@pytest.mark.parametrize(
    ("how", "tests"),
    [("patch", "sklearn.neural_network"), ("classes", "sklearn.neural_network.tests.test_mlp")],
)
def test_scikit_learns_own_tests(tmp_path, how, tests):
    here = Path(__file__).parent
    installed = Path(ours.__file__).parents[2]  # which need not be the source tree
    path = os.pathsep.join([str(here), str(installed), *sys.path])
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "patched_sklearn",
                "-p",
                "no:cacheprovider",
            ),
            *("-c", os.devnull, "--rootdir", str(tmp_path), "--pyargs", tests),
        ],
        cwd=tmp_path,
        env=os.environ | {"PATCHED_SKLEARN": how, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50
    assert int(re.search(r"fastoptim took (\d+) steps", done.stdout)[1]) > 1000


def test_examples():
    assert doctest.testmod(ours).failed == 0
