"""scikit-learn's multilayer perceptrons, trained with the steps of fastoptim.

Either all perceptrons of this process, from `patch` to `unpatch` or inside of `patched`:

>>> from sklearn.datasets import load_iris
>>> from sklearn.neural_network import MLPClassifier
>>> from fastoptim.integrations.sklearn import patched
>>> x, y = load_iris(return_X_y=True)
>>> classifier = MLPClassifier(learning_rate_init=0.01, random_state=0)
>>> with patched():
...     accuracy = classifier.fit(x, y).score(x, y)
>>> accuracy > 0.95
True

or those that are made of the two classes of this module, which need no patch: also in other
processes, such as the workers of ``GridSearchCV(n_jobs=2)``, which a patch does not reach.

The solvers ``"adam"`` and ``"sgd"`` keep scikit-learn's formulas: the learning rate is a part of
the velocity, and epsilon is added to the root of the uncorrected average. The L2 penalty and the
mean over the batch, for which scikit-learn goes through the gradients again, become a part of the
step. In float32, scikit-learn computes some of each step of Adam in float64; here it is float32
throughout.

State, learning rate and step count stay where scikit-learn has them. So an estimator is pickled,
copied, and trained on with or without fastoptim, however it was trained before. Where the engine
refuses arrays, such as coefficients in float32 with gradients in float64, scikit-learn takes the
step itself.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from operator import is_
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar
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
except ImportError as error:
    raise ImportError(
        "fastoptim.integrations.sklearn: needs scikit-learn 1.6 to 1.9: "
        'python -m pip install "fastoptim[sklearn]"'
    ) from error

if TYPE_CHECKING:
    from fastoptim._engine import Change

__all__ = ["MLPClassifier", "MLPRegressor", "patch", "patched", "unpatch"]


def __dir__() -> list[str]:
    return __all__


OLDEST, NEWEST = (1, 6), (1, 9)  # versions with whose own tests it was tested

_fit_stochastic = BaseMultilayerPerceptron._fit_stochastic
_compute_loss_grad = BaseMultilayerPerceptron._compute_loss_grad
_backprop = BaseMultilayerPerceptron._backprop


# The patch

_lock = threading.Lock()
# Why scikit-learn is patched: "patch", and one "patched" for each open block.
_reasons: list[str] = []


def patch() -> None:
    """Let all multilayer perceptrons of this process step with fastoptim, until `unpatch`.

    Estimators that exist already take part when they are fitted again, or further. A second call
    changes nothing.

    Warns
    -----
    RuntimeWarning
        If this version of scikit-learn is not supported; it is left unpatched.
    """
    if _is_supported():
        with _lock:
            if "patch" not in _reasons:
                _reasons.append("patch")
            _install()


def unpatch() -> None:
    """Undo `patch`; without one before, change nothing.

    Open blocks of `patched`, and fits that are under way in other threads, stay patched to their
    end.
    """
    with _lock:
        if "patch" in _reasons:
            _reasons.remove("patch")
        _install()


@contextmanager
def patched() -> Iterator[None]:
    """Let all multilayer perceptrons of this process step with fastoptim inside of the block.

    Blocks may be nested, overlap in several threads, and stand between `patch` and `unpatch`:
    scikit-learn is patched as long as there is a reason left.

    Warns
    -----
    RuntimeWarning
        If this version of scikit-learn is not supported; it is left unpatched.
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
    found = tuple(map(int, re.findall(r"\d+", sklearn.__version__)[:2]))
    if OLDEST <= found <= NEWEST:
        return True
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    warnings.warn(
        f"fastoptim.integrations.sklearn: expected scikit-learn {oldest} to {newest}, "
        f"found {sklearn.__version__}: it is left unpatched",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


def _install() -> None:
    """Give scikit-learn's class the members of `_Fused` if there is a reason, else its own."""
    if _reasons:
        for name in MEMBERS:
            setattr(BaseMultilayerPerceptron, name, vars(_Fused)[name])
    elif "_optimizer" in vars(BaseMultilayerPerceptron):
        BaseMultilayerPerceptron._fit_stochastic = _fit_stochastic
        BaseMultilayerPerceptron._compute_loss_grad = _compute_loss_grad
        del BaseMultilayerPerceptron._optimizer


# The optimizers


class _Sums(list[Any]):
    """Gradients that are sums over the batch: the penalty and the division are still to come.

    They are those of the coefficients, and once the others are added to them, of the intercepts.
    """

    alpha = 0.0
    total = 1.0  # the number of the samples, or their weight

    def __add__(self, intercepts: list[Any]) -> _Sums:
        both = _Sums([*self, *intercepts])
        both.alpha, both.total = self.alpha, self.total
        return both

    def finish(self, params: Sequence[Any]) -> None:
        """Do what is still to come, as scikit-learn does it."""
        for p, g in zip(params[: len(self) // 2], self, strict=False):
            g += self.alpha * p
        for g in self:
            g /= self.total


class _FusedUpdate:
    """An optimizer of scikit-learn but for its update; it shares the attributes of another one."""

    __slots__ = ("arrays", "plan")
    arrays: list[Any]  # of the plan
    plan: Plan
    rule: ClassVar[Rule]
    states: ClassVar[tuple[str, ...]]  # the attributes that hold them

    @classmethod
    def of(cls, optimizer: Any) -> Any:
        """Return the optimizer that updates for one of scikit-learn's."""
        fused = cls.__new__(cls)
        fused.__dict__ = optimizer.__dict__  # type: ignore[misc]
        fused.arrays = []
        return fused

    def plain(self) -> Any:
        """Return the same as an optimizer of scikit-learn."""
        base: Any = type(self).__bases__[1]
        optimizer = base.__new__(base)
        optimizer.__dict__ = self.__dict__
        return optimizer

    def __reduce__(self) -> Any:
        return self.plain().__reduce_ex__(0)  # of its own class; later protocols insist on ours

    def update_params(self, params: Sequence[Any], grads: Any) -> None:
        """Update the coefficients and intercepts in place."""
        try:
            self._step(params, grads)
        except (TypeError, ValueError):  # of the engine, and nothing has changed
            if isinstance(grads, _Sums):
                grads.finish(params)
            super().update_params(params, grads)  # type: ignore[misc]

    def _step(self, params: Sequence[Any], grads: Any) -> None:
        states = [getattr(self, name) for name in self.states]
        arrays = [*params, *(array for state in states for array in state)]
        if len(arrays) != len(self.arrays) or not all(map(is_, arrays, self.arrays)):
            self.plan, self.arrays = _planned(self.rule, params, states), arrays
        own = self._scalars()
        changes = [(self, self._after_step(own))]

        def judge(scale: float) -> tuple[float, list[Change]]:
            return scale, changes

        if isinstance(grads, _Sums):
            total = float(grads.total)
            groups = [_group(grads.alpha / total, own), _group(0.0, own)]
            self.plan.step(grads, groups, 1 / total, judge)
        else:
            self.plan.step(grads, [_group(0.0, own)] * 2, 1.0, judge)

    def _scalars(self) -> Scalars:
        """Return the rule's scalars of the step to take."""
        raise NotImplementedError

    def _after_step(self, scalars: Scalars) -> dict[str, Any]:
        """Return the attributes that change together with a step."""
        return {}


def _planned(rule: Rule, params: Sequence[Any], states: Sequence[Any]) -> Plan:
    """Return a plan over arrays of scikit-learn: coefficients are group 0, intercepts group 1."""
    missing = [None] * (len(rule.state) - len(states))
    tensors = []
    for i, (p, *state) in enumerate(zip(params, *states, strict=True)):
        labels = [f"params[{i}]", f"grads[{i}]", *(f"state[{i}][{s!r}]" for s in rule.state)]
        group = int(2 * i >= len(params))
        tensors.append((labels, group, 0, p, (*state, *missing), None, None))
    return Plan(tensors, rule.update, _levels.loops(rule.kernel))


def _group(weight_decay: float, own: Scalars) -> SimpleNamespace:
    """Return what a plan asks for the scalars of a step."""
    row = before_scalars(1.0, weight_decay), after_scalars(), own
    return SimpleNamespace(scalars=lambda t: row)


class _Adam(_FusedUpdate, AdamOptimizer):
    rule, states = reference.adam, ("ms", "vs")

    def _scalars(self) -> Scalars:
        betas = float(self.beta_1), float(self.beta_2)
        lr, eps = float(self.learning_rate_init), float(self.epsilon)
        return self.rule.scalars(self.t + 1, lr, betas, eps, eps_hat=True)

    def _after_step(self, scalars: Scalars) -> dict[str, Any]:
        *_, lr, _, _ = scalars
        return {"t": self.t + 1, "learning_rate": lr}


class _SGD(_FusedUpdate, SGDOptimizer):
    rule, states = reference.momentum, ("velocities",)

    def _scalars(self) -> Scalars:
        lr, momentum = float(self.learning_rate), float(self.momentum)
        return self.rule.scalars(1, lr, momentum, "heavy_ball", self.nesterov)


# The estimators

CLASSES = {AdamOptimizer: _Adam, SGDOptimizer: _SGD}
_fused: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # by scikit-learn's optimizers


class _Optimizer:
    """The attribute ``_optimizer``: stored as scikit-learn's, found as what updates for it."""

    def __get__(self, estimator: Any, owner: Any = None) -> Any:
        if estimator is None:
            return self
        try:
            optimizer = vars(estimator)["_optimizer"]
        except KeyError:
            raise AttributeError("_optimizer") from None
        if type(optimizer) not in CLASSES:  # somebody's own
            return optimizer
        if optimizer not in _fused:
            _fused[optimizer] = CLASSES[type(optimizer)].of(optimizer)
        return _fused[optimizer]

    def __set__(self, estimator: Any, optimizer: Any) -> None:
        if isinstance(optimizer, _FusedUpdate):
            optimizer = optimizer.plain()
        vars(estimator)["_optimizer"] = optimizer

    def __delete__(self, estimator: Any) -> None:
        del vars(estimator)["_optimizer"]


class _Fused:
    """What differs in an estimator that steps with fastoptim."""

    _optimizer = _Optimizer()

    def _fit_stochastic(self: Any, X: Any, *args: Any) -> None:  # noqa: N803
        *before, coef_grads, intercept_grads, layer_units, incremental = args
        # what begins patched ends so: `unpatch` in another thread must not come within a step
        hold = bool(_reasons)
        if (hold or isinstance(self, _Fused)) and _can_sum(self, X.dtype):
            coef_grads = _Sums(coef_grads)
        with patched() if hold else nullcontext():
            _fit_stochastic(self, X, *before, coef_grads, intercept_grads, layer_units, incremental)
        if not incremental:  # the next fit has another optimizer, and maybe other coefficients
            _fused.pop(vars(self)["_optimizer"], None)

    def _compute_loss_grad(
        self: Any,
        layer: int,
        total: Any,
        activations: list[Any],
        deltas: list[Any],
        coef_grads: list[Any],
        intercept_grads: list[Any],
    ) -> None:
        if not (isinstance(coef_grads, _Sums) and isinstance(self._optimizer, _FusedUpdate)):
            args = layer, total, activations, deltas, coef_grads, intercept_grads
            _compute_loss_grad(self, *args)
            return
        x, d = activations[layer].T, deltas[layer]
        if isinstance(x, np.ndarray):
            np.matmul(x, d, out=coef_grads[layer], casting="same_kind")
        else:  # sparse
            coef_grads[layer][...] = x @ d
        np.sum(d, axis=0, out=intercept_grads[layer])
        coef_grads.alpha, coef_grads.total = self.alpha, total


def _can_sum(estimator: Any, dtype: Any) -> bool:
    """Tell whether nobody else sees the gradients, which must be finished for others."""
    cls = type(estimator)
    return (
        cls._compute_loss_grad is vars(_Fused)["_compute_loss_grad"]
        and cls._backprop is _backprop
        and all(p.dtype == dtype for p in estimator.coefs_ + estimator.intercepts_)
    )


MEMBERS = ("_optimizer", "_fit_stochastic", "_compute_loss_grad")


class MLPClassifier(_Fused, neural_network.MLPClassifier):
    r"""scikit-learn's ``MLPClassifier`` with the steps of fastoptim.

    Arguments, attributes and methods are those of `sklearn.neural_network.MLPClassifier`. The
    solver ``"adam"`` computes

    .. math::

        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
        p_t = p_{t-1} - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
              \frac{m_t}{\sqrt{v_t} + \epsilon}

    and ``"sgd"``, where the last is :math:`p_t = p_{t-1} + v_t` without Nesterov's momentum,

    .. math::

        v_t = \mu v_{t-1} - \eta g_t, \quad
        p_t = p_{t-1} + \mu v_t - \eta g_t

    with :math:`g_t = (g + \alpha p_{t-1}) / n` for the sum g of the gradients of n samples.

    Warns
    -----
    RuntimeWarning
        If this version of scikit-learn is not supported, when the module is imported; the class
        then does what scikit-learn's does.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from fastoptim.integrations.sklearn import MLPClassifier
    >>> x, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier(learning_rate_init=0.01, random_state=0)
    >>> make_pipeline(StandardScaler(), classifier).fit(x, y).score(x, y) > 0.95
    True
    """


class MLPRegressor(_Fused, neural_network.MLPRegressor):
    """scikit-learn's ``MLPRegressor`` with the steps of fastoptim, which `MLPClassifier` describes.

    Arguments, attributes and methods are those of `sklearn.neural_network.MLPRegressor`.

    Warns
    -----
    RuntimeWarning
        If this version of scikit-learn is not supported, when the module is imported; the class
        then does what scikit-learn's does.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim.integrations.sklearn import MLPRegressor
    >>> x = np.linspace(-1, 1, 200)
    >>> regressor = MLPRegressor(learning_rate_init=0.05, random_state=0)
    >>> regressor.fit(x[:, None], x**2).score(x[:, None], x**2) > 0.95
    True
    """


if not _is_supported():
    for _name in MEMBERS:  # the two classes are scikit-learn's but for their name, then
        delattr(_Fused, _name)
