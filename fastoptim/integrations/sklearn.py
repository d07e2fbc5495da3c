"""scikit-learn's multilayer perceptrons, trained with the steps of fastoptim.

Either every perceptron of this process, from `patch` to `unpatch` or inside of `patched`:

>>> from sklearn.datasets import load_digits
>>> from sklearn.neural_network import MLPClassifier
>>> from fastoptim.integrations.sklearn import patched
>>> x, y = load_digits(return_X_y=True)
>>> with patched():
...     classifier = MLPClassifier(max_iter=400, random_state=0).fit(x, y)
>>> classifier.score(x, y)
1.0

or those that are made of the two classes of this module, which need no patch: also in other
processes, such as the workers of ``GridSearchCV(n_jobs=2)``, which a patch does not reach.

The solvers ``"adam"`` and ``"sgd"`` keep scikit-learn's formula: the learning rate is a part of the
velocity, and epsilon is added to the uncorrected root. The L2 penalty and the mean over the batch,
for which scikit-learn goes through the gradients again, become a part of the step. State and
learning rate stay in scikit-learn's own objects, so estimators are pickled, copied and trained on
with and without fastoptim alike. In float32, scikit-learn's Adam computes some of each step in
float64; here it is float32 throughout.

How it works: the optimizer that an estimator finds in its attribute ``_optimizer`` has another
``update_params``, which runs one plan over the arrays of scikit-learn's optimizer.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from operator import is_
from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from fastoptim import _levels, reference
from fastoptim._engine import Plan
from fastoptim._rule import Rule
from fastoptim._stages import Scalars, after_scalars, before_scalars

try:
    import sklearn
    from sklearn import neural_network
    from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils.extmath import safe_sparse_dot
except ImportError as error:
    raise ImportError(
        "fastoptim.integrations.sklearn: needs scikit-learn 1.5 to 1.9: "
        'python -m pip install "fastoptim[sklearn]"'
    ) from error

__all__ = ["MLPClassifier", "MLPRegressor", "patch", "patched", "unpatch"]

SUPPORTED = (1, 5), (1, 9)  # the oldest and the newest version that the tests have passed with

_fit_stochastic = BaseMultilayerPerceptron._fit_stochastic
_compute_loss_grad = BaseMultilayerPerceptron._compute_loss_grad

_lock = threading.Lock()
_reasons: list[
    str
] = []  # why scikit-learn is patched: "patch", and a "patched" for each open block


def patch() -> None:
    """Let all multilayer perceptrons of this process step with fastoptim, until `unpatch`.

    Estimators that are fitted already take part when they are trained on. A second call changes
    nothing.

    Warns
    -----
    RuntimeWarning
        If this version of scikit-learn is not supported; it is left as it is.
    """
    if _is_supported():
        with _lock:
            if "patch" not in _reasons:
                _reasons.append("patch")
            _install()


def unpatch() -> None:
    """Undo `patch`; without one before, change nothing.

    Blocks of `patched`, and fits that are under way in other threads, stay patched to their end.
    """
    with _lock:
        if "patch" in _reasons:
            _reasons.remove("patch")
        _install()


@contextmanager
def patched() -> Iterator[None]:
    """Let all multilayer perceptrons of this process step with fastoptim meanwhile.

    Blocks may be nested, overlap in several threads, and stand between `patch` and `unpatch`: the
    patch is there as long as anybody asks for it.

    Warns
    -----
    RuntimeWarning
        If this version of scikit-learn is not supported; it is left as it is.
    """
    if not _is_supported():
        yield
        return
    with _lock:
        _reasons.append("patched")
        _install()
    try:
        yield
    finally:
        with _lock:
            _reasons.remove("patched")
            _install()


def _is_supported() -> bool:
    """Tell whether this scikit-learn can be patched, and warn if not."""
    (oldest, newest), found = SUPPORTED, sklearn.__version__
    if oldest <= tuple(map(int, found.split(".")[:2])) <= newest:
        return True
    warnings.warn(
        f"fastoptim.integrations.sklearn: expected scikit-learn {_dotted(oldest)} to "
        f"{_dotted(newest)}, found {found}: it is left unpatched",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _install() -> None:
    """Put the members of `_Fused` into scikit-learn's class if there is a reason, else its own."""
    if _reasons:
        for name in MEMBERS:
            setattr(BaseMultilayerPerceptron, name, vars(_Fused)[name])
    elif "_optimizer" in vars(BaseMultilayerPerceptron):
        BaseMultilayerPerceptron._fit_stochastic = _fit_stochastic
        BaseMultilayerPerceptron._compute_loss_grad = _compute_loss_grad
        del BaseMultilayerPerceptron._optimizer


class _Sums(list[Any]):
    """The gradients of all coefficients, or with those of all intercepts behind them.

    They are sums over the batch: the penalty and the division are still to come.
    """

    alpha = 0.0
    total = 1.0  # the number or the weight of the samples

    def __add__(self, intercepts: list[Any]) -> _Sums:  # type: ignore[override]
        both = _Sums([*self, *intercepts])
        both.alpha, both.total = self.alpha, self.total
        return both

    def finish(self, params: Sequence[Any]) -> None:
        """Do what is still to come, as scikit-learn does."""
        for g, p in zip(self[: len(self) // 2], params, strict=False):
            g += self.alpha * p
        for g in self:
            g /= self.total


class _Update:
    """What differs in an optimizer that steps with fastoptim.

    It shares all attributes of the optimizer that it stands for. Beside them it has the plan, which
    is made anew when the arrays are others.
    """

    rule: ClassVar[Rule]
    plan: Plan
    arrays: list[Any]

    __slots__ = ("arrays", "plan")

    @classmethod
    def of(cls, optimizer: Any) -> Any:
        """Return the optimizer that stands for one of scikit-learn's."""
        fused = cls.__new__(cls)
        fused.arrays = []
        fused.__dict__ = optimizer.__dict__
        return fused

    def plain(self) -> Any:
        """Return the optimizer of scikit-learn."""
        base = type(self).__bases__[1]
        optimizer = base.__new__(base)
        optimizer.__dict__ = self.__dict__
        return optimizer

    def __reduce__(self) -> Any:
        return self.plain().__reduce_ex__(2)

    def update_params(self, params: Sequence[Any], grads: Any) -> None:
        """Update params in place, the coefficients first."""
        try:
            self._step(params, grads)
        except (TypeError, ValueError):
            # Arrays that scikit-learn may know what to do with, such as strided ones, or of two
            # dtypes. Nothing has changed.
            if isinstance(grads, _Sums):
                grads.finish(params)
            super().update_params(params, grads)  # type: ignore[misc]

    def _step(self, params: Sequence[Any], grads: Any) -> None:
        states = self._states()
        arrays = [*params, *(array for state in states for array in state)]
        if len(arrays) != len(self.arrays) or not all(map(is_, arrays, self.arrays)):
            self.plan, self.arrays = _planned(self.rule, params, states), arrays
        alpha, total = (grads.alpha, float(grads.total)) if isinstance(grads, _Sums) else (0.0, 1.0)
        own = self._scalars()
        groups = [_group(alpha / total, own), _group(0.0, own)]
        self.plan.step(grads, groups, 1 / total)
        self._stepped(own)


def _planned(rule: Rule, params: Sequence[Any], states: Sequence[Any]) -> Plan:
    """Return a plan in which the penalty of the first group is that of the coefficients."""
    missing = [None] * (len(rule.state) - len(states))
    tensors = []
    for i, (p, *state) in enumerate(zip(params, *states, strict=True)):
        labels = [f"params[{i}]", f"grads[{i}]", *(f"state[{i}].{name}" for name in rule.state)]
        tensors.append((labels, int(2 * i >= len(params)), 0, p, (*state, *missing), None, None))
    return Plan(tensors, rule.update, _levels.loops(rule.kernel))


def _group(weight_decay: float, own: Scalars) -> SimpleNamespace:
    row = before_scalars(1.0, weight_decay), after_scalars(), own
    return SimpleNamespace(scalars=lambda t: row)


class _Adam(_Update, AdamOptimizer):
    rule = reference.adam

    def _states(self) -> list[Any]:
        return [self.ms, self.vs]

    def _scalars(self) -> Scalars:
        betas = float(self.beta_1), float(self.beta_2)
        lr, eps = float(self.learning_rate_init), float(self.epsilon)
        return self.rule.scalars(self.t + 1, lr, betas, eps, eps_hat=True)

    def _stepped(self, own: Scalars) -> None:
        self.t += 1
        *_, self.learning_rate, _, _ = own


class _SGD(_Update, SGDOptimizer):
    rule = reference.momentum

    def _states(self) -> list[Any]:
        return [self.velocities]

    def _scalars(self) -> Scalars:
        lr, momentum = float(self.learning_rate), float(self.momentum)
        return self.rule.scalars(1, lr, momentum, "heavy_ball", self.nesterov)

    def _stepped(self, own: Scalars) -> None:
        pass


CLASSES = {AdamOptimizer: _Adam, SGDOptimizer: _SGD}
_fused: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # what stands for an optimizer


class _Optimizer:
    """The attribute ``_optimizer``: stored as scikit-learn's, seen as what stands for it."""

    def __get__(self, estimator: Any, owner: Any = None) -> Any:
        if estimator is None:
            return self
        try:
            optimizer = vars(estimator)["_optimizer"]
        except KeyError:
            raise AttributeError("_optimizer") from None
        if optimizer not in _fused:
            if type(optimizer) not in CLASSES:  # somebody's own
                return optimizer
            _fused[optimizer] = CLASSES[type(optimizer)].of(optimizer)
        return _fused[optimizer]

    def __set__(self, estimator: Any, optimizer: Any) -> None:
        if isinstance(optimizer, _Update):
            optimizer = optimizer.plain()
        vars(estimator)["_optimizer"] = optimizer

    def __delete__(self, estimator: Any) -> None:
        del vars(estimator)["_optimizer"]


class _Fused:
    """What differs in an estimator whose optimizer steps with fastoptim."""

    alpha: float
    _optimizer = _Optimizer()

    def _fit_stochastic(self, X: Any, *args: Any) -> None:  # noqa: N803
        *args, coef_grads, intercept_grads, layer_units, incremental = args
        params = self.coefs_ + self.intercepts_
        if all(p.dtype == X.dtype for p in params):
            coef_grads = _Sums(coef_grads)
        # What has begun patched ends so: a step must not be half scikit-learn's.
        with patched() if _reasons else nullcontext():
            _fit_stochastic(self, X, *args, coef_grads, intercept_grads, layer_units, incremental)

    def _compute_loss_grad(
        self,
        layer: int,
        total: Any,
        activations: list[Any],
        deltas: list[Any],
        coef_grads: list[Any],
        intercept_grads: list[Any],
    ) -> None:
        if not isinstance(coef_grads, _Sums) or not isinstance(self._optimizer, _Update):
            _compute_loss_grad(self, layer, total, activations, deltas, coef_grads, intercept_grads)
            return
        x, d = activations[layer].T, deltas[layer]
        if isinstance(x, np.ndarray):
            np.matmul(x, d, out=coef_grads[layer])
        else:
            coef_grads[layer][...] = safe_sparse_dot(x, d)
        np.sum(d, axis=0, out=intercept_grads[layer])
        coef_grads.alpha, coef_grads.total = self.alpha, total


MEMBERS = ("_optimizer", "_fit_stochastic", "_compute_loss_grad")


class MLPClassifier(_Fused, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's ``MLPClassifier`` with the steps of fastoptim, without a patch."""


class MLPRegressor(_Fused, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's ``MLPRegressor`` with the steps of fastoptim, without a patch."""


if not _is_supported():
    for _name in MEMBERS:  # the two classes are no more than scikit-learn's, then
        delattr(_Fused, _name)
