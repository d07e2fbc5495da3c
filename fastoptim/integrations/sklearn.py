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
copied, and trained on with or without fastoptim, however it was trained before; but the arrays of
that state are updated in place, where scikit-learn makes new ones: copy what is to stay (with
`copy.deepcopy`). Where the engine refuses arrays, such as coefficients in float32 with gradients in
float64, scikit-learn takes the step itself. So it does where somebody has put something in the
place of one of its methods, on a class or on one estimator or optimizer: it gets the gradients that
it gets without fastoptim.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from operator import is_
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakKeyDictionary

import numpy as np

from fastoptim import reference
from fastoptim._engine.entry import Entry
from fastoptim._engine.plan import Plan
from fastoptim._rule import Fixed, Rule, loops_of
from fastoptim._stages import After, Before, Scalars

try:
    import sklearn
    from sklearn import neural_network
    from sklearn.neural_network import _multilayer_perceptron, _stochastic_optimizers
    from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils import extmath
except ImportError as error:
    raise ImportError(
        "fastoptim.integrations.sklearn: needs scikit-learn 1.6 to 1.9: "
        'python -m pip install "fastoptim[sklearn]"'
    ) from error

if TYPE_CHECKING:
    pass

__all__ = ["MLPClassifier", "MLPRegressor", "patch", "patched", "unpatch"]


def __dir__() -> list[str]:
    return __all__


OLDEST, NEWEST = (1, 6), (1, 9)  # versions with whose own tests it was tested


# The patch

if "_lock" not in globals():  # a reload finds scikit-learn as it has been patched
    _lock = threading.Lock()
    # Why scikit-learn is patched: "patch", and one "patched" for each open block.
    _reasons: list[str] = []
    # What the patch has replaced in scikit-learn's class, by name, and what with.
    _members: dict[str, tuple[Any, Any]] = {}
    if hasattr(os, "register_at_fork"):  # a child has no thread that would release the lock
        os.register_at_fork(
            before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
        )


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
    """Patch scikit-learn's class if there is a reason and it is not patched; if none, undo it."""
    found = vars(BaseMultilayerPerceptron)
    if _reasons and not _members:
        ours = {name: _over(found[name], run) for name, run in METHODS.items()}
        ours["_optimizer"] = vars(_Fused)["_optimizer"]
        for name, member in ours.items():
            _members[name] = found.get(name), member
            setattr(BaseMultilayerPerceptron, name, member)
    elif not _reasons:
        for name, (theirs, member) in _members.items():
            if found.get(name) is not member:
                continue  # somebody has put something over it, which goes on to what is beneath
            if theirs is None:
                delattr(BaseMultilayerPerceptron, name)
            else:
                setattr(BaseMultilayerPerceptron, name, theirs)
        _members.clear()


def _over(theirs: Any, run: Callable[..., None]) -> Callable[..., None]:
    """Return a method that runs one of `METHODS` over the one that a class has."""

    @wraps(theirs)
    def method(self: Any, *args: Any, **named: Any) -> None:
        run(MethodType(theirs, self), self, *args, **named)

    return method


def _is_from(namespace: dict[str, Any], function: Any) -> bool:
    """Tell whether a function or method is one that a module defines, and not a substitute.

    Its name does not tell: decorators copy it.
    """
    if type(function) is MethodType:
        function = function.__func__
    return type(function) is FunctionType and function.__globals__ is namespace


# The optimizers


class _Sums(list[Any]):
    """All gradients of a batch, which are sums over it that nobody but `_FusedUpdate` gets.

    To be gradients, those of the coefficients lack the penalty, and all lack the division by the
    number of the samples, or by their weight.
    """

    def __init__(
        self, sums: list[Any], coefs: Sequence[Any], totals: dict[int, tuple[float, float]]
    ) -> None:
        super().__init__(sums)
        self.coefs = coefs
        self.totals = totals  # the factor of the penalty and the divisor, by layer

    def common_totals(self) -> tuple[float, float]:
        """Return the factor of the penalty and the divisor; raise ValueError if layers differ."""
        first, *others = [self.totals.get(layer) for layer in range(len(self.coefs))]
        if first is None or any(other != first for other in others):
            raise ValueError("expected sums in all layers")
        alpha, total = first
        return float(alpha), float(total)

    def finished(self) -> list[Any]:
        """Return the gradients, made as scikit-learn makes them."""
        for layer, (alpha, total) in self.totals.items():
            self[layer] += alpha * self.coefs[layer]
            self[layer] /= total
            self[layer + len(self.coefs)] /= total
        return list(self)


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
        if self._is_scikit_learns():
            try:
                self._step(params, grads)
                return
            except (TypeError, ValueError, ArithmeticError):  # of the engine; nothing has changed
                pass
        if isinstance(grads, _Sums):
            grads = grads.finished()
        super().update_params(params, grads)  # type: ignore[misc]

    def takes_sums(self) -> bool:
        """Tell whether `update_params` gets the gradients before anybody else sees them."""
        return _is_from(globals(), self.update_params) and self._is_scikit_learns()

    def _is_scikit_learns(self) -> bool:
        """Tell whether the step would be that of scikit-learn."""
        own: Any = self
        theirs = super().update_params, own._get_updates  # type: ignore[misc]
        return all(_is_from(vars(_stochastic_optimizers), method) for method in theirs)

    def _step(self, params: Sequence[Any], grads: Any) -> None:
        states = [getattr(self, name) for name in self.states]
        arrays = [*params, *(array for state in states for array in state)]
        if len(arrays) != len(self.arrays) or not all(map(is_, arrays, self.arrays)):
            self.plan, self.arrays = _planned(self.rule, params, states), arrays
        own = self._scalars()
        alpha, total = grads.common_totals() if isinstance(grads, _Sums) else (0.0, 1.0)
        groups = [_group(alpha / total, own), _group(0.0, own)]
        self.plan.step(grads, groups, 1 / total, changes=[(self, self._after_step(own))])

    def _scalars(self) -> Scalars:
        """Return the rule's scalars of the step to take."""
        raise NotImplementedError

    def _after_step(self, scalars: Scalars) -> dict[str, Any]:
        """Return the attributes that change together with a step."""
        return {}


def _planned(rule: Rule, params: Sequence[Any], states: Sequence[Any]) -> Plan:
    """Return a plan over arrays of scikit-learn: coefficients are group 0, intercepts group 1."""
    missing = [None] * (len(rule.state) - len(states))
    entries, labels = [], []
    if not all(type(p) in (np.ndarray, np.memmap) for p in params):
        raise TypeError("params: expected plain arrays, found some that may have a += of their own")
    for i, (p, *state) in enumerate(zip(params, *states, strict=True)):
        names = (f"state[{i}][{name!r}]" for name in rule.state)
        labels.append([f"params[{i}]", f"grads[{i}]", *names])
        group = int(2 * i >= len(params))
        entries.append(Entry(p, (*state, *missing), group=group))
    return Plan(entries, labels, [rule.twin], loops_of([rule]))


def _group(weight_decay: float, own: Scalars) -> Fixed:
    """Return what a plan asks for the scalars of a step."""
    return Fixed((Before(1.0, weight_decay), After(), own))


class _Adam(_FusedUpdate, AdamOptimizer):
    rule, states = reference.adam, ("ms", "vs")

    def _scalars(self) -> Scalars:
        betas = float(self.beta_1), float(self.beta_2)
        lr, eps = float(self.learning_rate_init), float(self.epsilon)
        return self.rule.scalars(self.t + 1, lr, betas, eps, eps_hat=True)

    def _after_step(self, scalars: Scalars) -> dict[str, Any]:
        return {"t": self.t + 1, "learning_rate": self.rule.named(scalars).lr}


class _SGD(_FusedUpdate, SGDOptimizer):
    rule, states = reference.momentum, ("velocities",)

    def _scalars(self) -> Scalars:
        lr, momentum = float(self.learning_rate), float(self.momentum)
        return self.rule.scalars(lr, momentum, "heavy_ball", self.nesterov)


# The estimators

CLASSES = {AdamOptimizer: _Adam, SGDOptimizer: _SGD}
_fused: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # by scikit-learn's optimizers


class _Gradients(list[Any]):
    """The gradients of the coefficients, as scikit-learn holds them in the course of a fit.

    Those of a batch are sums for the time between `add` and the step, if nobody sees them then.
    """

    def __init__(self, coefs: Sequence[Any], grads: list[Any], intercept_grads: list[Any]) -> None:
        super().__init__(grads)
        self.coefs = [*coefs]
        self.buffers = [*zip(grads, intercept_grads, strict=True)]
        self.totals: dict[int, tuple[float, float]] = {}

    def may_be_sums(self, estimator: Any, layer: int, theirs: Any) -> bool:
        """Tell whether nobody sees the gradients of a layer before the step."""
        optimizer = estimator._optimizer
        return (
            isinstance(optimizer, _FusedUpdate)
            and optimizer.takes_sums()
            and estimator.coefs_[layer] is self.coefs[layer]  # so the step's penalty is of the same
            and _is_from(globals(), estimator._compute_loss_grad)
            and _is_from(vars(_multilayer_perceptron), estimator._backprop)
            and _is_from(vars(_multilayer_perceptron), theirs)
            and _is_from(vars(extmath), _multilayer_perceptron.safe_sparse_dot)
            and _is_called_by("_backprop", "_fit_stochastic")
        )

    def add(self, layer: int, x: Any, d: Any, intercept_grads: list[Any]) -> None:
        """Let the gradients of a layer be sums, from its inputs, transposed, and its deltas."""
        # The arrays that others have seen are theirs, as in scikit-learn, which makes new ones.
        self[layer], intercept_grads[layer] = self.buffers[layer]
        if isinstance(x, np.ndarray):
            np.matmul(x, d, out=self[layer], casting="same_kind")
        else:  # sparse
            self[layer][...] = x @ d
        np.sum(d, axis=0, out=intercept_grads[layer])

    def __add__(self, intercept_grads: list[Any]) -> list[Any]:
        """Return what scikit-learn's loop hands to the optimizer."""
        grads = [*self, *intercept_grads]
        totals, self.totals = self.totals, {}
        return _Sums(grads, self.coefs, totals) if totals else grads


def _is_called_by(*names: str) -> bool:
    """Tell whether these functions of scikit-learn's module, the innermost first, have led here.

    That tells of all who could see gradients, in whatever way they came between: in a subclass, on
    the instance, on the class, for a single call. Compiled functions leave no trace in the stack:
    they are found where they are looked up.
    """
    theirs, frame = vars(_multilayer_perceptron), cast(Any, sys._getframe())
    while frame and frame.f_globals is globals():
        frame = frame.f_back
    for name in names:
        if not (frame and frame.f_globals is theirs and frame.f_code.co_name == name):
            return False
        frame = frame.f_back
    return True


def _fit_stochastic(theirs: Any, estimator: Any, *args: Any, **named: Any) -> None:
    # What begins patched ends so: `unpatch` in another thread must not come within a step. What
    # begins unpatched has no sums, even if it ends patched.
    hold = bool(_reasons)
    if (hold or isinstance(estimator, _Fused)) and not named:
        args = _with_room_for_sums(theirs, estimator, *args)
    with patched() if hold else nullcontext():
        theirs(*args, **named)
    if not named and not args[-1]:  # not incremental: the next fit has another optimizer
        optimizer = vars(estimator).get("_optimizer")
        if type(optimizer) in CLASSES:
            _fused.pop(optimizer, None)


def _with_room_for_sums(theirs: Any, estimator: Any, *args: Any) -> tuple[Any, ...]:
    """Return the arguments of `_fit_stochastic`, with gradients that may be sums if nobody sees."""
    *before, coef_grads, intercept_grads, layer_units, incremental = args
    if (
        _is_from(globals(), estimator._fit_stochastic)
        and _is_from(vars(_multilayer_perceptron), theirs)
        and _is_called_by("_fit")
        and _match(estimator.coefs_ + estimator.intercepts_, coef_grads + intercept_grads)
    ):
        coef_grads = _Gradients(estimator.coefs_, coef_grads, intercept_grads)
    return *before, coef_grads, intercept_grads, layer_units, incremental


def _match(params: Sequence[Any], grads: Sequence[Any]) -> bool:
    """Tell whether gradients have room in arrays that were made for them.

    They have not where a warm start has other coefficients than the sizes of the layers say.
    """
    return len(params) == len(grads) and all(
        type(p) is np.ndarray and p.shape == g.shape and p.dtype == g.dtype
        for p, g in zip(params, grads, strict=True)
    )


def _compute_loss_grad(theirs: Any, estimator: Any, *args: Any, **named: Any) -> None:
    if not named:  # as scikit-learn calls it
        layer, total, activations, deltas, grads, intercept_grads = args
        if isinstance(grads, _Gradients) and grads.may_be_sums(estimator, layer, theirs):
            grads.add(layer, activations[layer].T, deltas[layer], intercept_grads)
            grads.totals[layer] = estimator.alpha, total
            return
    theirs(*args, **named)


METHODS = {"_fit_stochastic": _fit_stochastic, "_compute_loss_grad": _compute_loss_grad}


class _Fused:
    """What differs in an estimator that steps with fastoptim."""

    @property
    def _optimizer(self) -> Any:
        """Stored as scikit-learn's, found as what updates for it."""
        try:
            optimizer = vars(self)["_optimizer"]
        except KeyError:
            raise AttributeError("_optimizer") from None
        if type(optimizer) not in CLASSES:  # somebody's own
            return optimizer
        if optimizer not in _fused:
            _fused[optimizer] = CLASSES[type(optimizer)].of(optimizer)
        return _fused[optimizer]

    @_optimizer.setter
    def _optimizer(self, optimizer: Any) -> None:
        if isinstance(optimizer, _FusedUpdate):
            optimizer = optimizer.plain()
        vars(self)["_optimizer"] = optimizer

    @_optimizer.deleter
    def _optimizer(self) -> None:
        del vars(self)["_optimizer"]

    def _fit_stochastic(self, *args: Any, **named: Any) -> None:
        _fit_stochastic(super()._fit_stochastic, self, *args, **named)  # type: ignore[misc]

    def _compute_loss_grad(self, *args: Any, **named: Any) -> None:
        _compute_loss_grad(super()._compute_loss_grad, self, *args, **named)  # type: ignore[misc]


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
    for _name in (*METHODS, "_optimizer"):  # the two classes are scikit-learn's but for their name
        delattr(_Fused, _name)
