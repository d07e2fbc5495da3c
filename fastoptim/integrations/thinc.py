"""thinc's optimizers, and so spaCy's, in one pass over memory.

A config file switches them on, by a name of its own for each of thinc's:

.. code-block:: ini

    [training.optimizer]
    @optimizers = "fastoptim.Adam.v1"

or a program does, with `Adam`, `RAdam` and `SGD` of this module in place of those of
``thinc.api``. They take the same arguments, and keep the same attributes.

>>> import numpy as np
>>> from fastoptim.integrations.thinc import Adam
>>> optimizer = Adam(0.1, grad_clip=0.0)
>>> weights, gradient = np.ones(2, "float32"), np.array([3, 0], "float32")
>>> optimizer((0, "W"), weights, gradient)
(array([0.9, 1. ], dtype=float32), array([0., 0.], dtype=float32))
"""

# confection, which reads config files, wants the annotations of functions themselves: no
# `from __future__ import annotations` here.
import math
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastoptim import reference
from fastoptim._containers import Array
from fastoptim._engine.arrays import check_target
from fastoptim._engine.entry import Entry
from fastoptim._engine.plan import Plan
from fastoptim._hyper import StepScalars
from fastoptim._kinds import Kind, Real, checked, number, shown
from fastoptim._rule import Rule, loops_of
from fastoptim._settings import chosen_backend
from fastoptim._stages import after_scalars, before_scalars
from fastoptim.gradients import global_norm

try:
    import thinc.optimizers
    from thinc.config import registry
except ImportError as error:
    raise ImportError(
        'fastoptim.integrations.thinc: needs thinc: python -m pip install "fastoptim[thinc]"'
    ) from error

if TYPE_CHECKING:
    from fastoptim._engine.changes import Change

__all__ = ["SGD", "Adam", "Optimizer", "RAdam"]


def __dir__() -> list[str]:
    return __all__


Key = tuple[int, str]
Rate = Any  # a number, a list or a generator of numbers, or a schedule of thinc 9


class Limit(Real):
    """A limit of norms: 0 and infinity are none."""

    def __str__(self) -> str:
        return "a number >= 0 (False or 0 does not clip)"

    def __call__(self, value: Any) -> float:
        x = number(value)
        return x if x == math.inf else super().__call__(x)


KINDS: dict[str, Kind] = {
    "lr_scale": Real(),
    "learn_rate": Real(),
    "beta1": Real(0, 1),
    "beta2": Real(0, 1),
    "eps": Real(0),
    "L2": Real(0),
    "grad_clip": Limit(0),
}
FLOATS = (float,) * len(KINDS)
hyperparameters = attrgetter("learn_rate", "b1", "b2", "eps", "L2", "grad_clip")


class Step(NamedTuple):
    """What the t-th step of a parameter is, whatever its arrays."""

    rule: Rule
    scalars: StepScalars
    penalty: float  # times the weights is added to the gradient
    limit: float  # of the gradient's norm; 0: none


class Planned(NamedTuple):
    """What the steps of one parameter have in common, as long as its arrays stay."""

    plan: Plan
    rule: Rule
    arrays: Sequence[Any]  # the weights, both moments and the average, as thinc keeps them


class Cache(dict[Key, Planned]):
    """Plans by key, which a copy of the optimizer makes anew."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Cache, ()


class Optimizer(thinc.optimizers.Optimizer):
    r"""thinc's ``Optimizer`` with the steps of fastoptim.

    A call takes one step of one parameter: it clips the gradient so that its norm is at most
    ``grad_clip``, then does the rest in one pass over memory. For Adam that is

    .. math::

        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
        p_t = (1 - \eta \lambda) \left( p_{t-1} - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
              \frac{m_t}{\sqrt{v_t} + \epsilon} \right), \quad
        \bar p_t = d_t \bar p_{t-1} + (1 - d_t) p_t, \quad g_t \leftarrow 0

    where :math:`d_t = \min \left( \frac{1 + t}{10 + t}, 0.9999 \right)`. ``use_radam`` is RAdam;
    with both betas 0 the step is that of gradient descent, :math:`p_{t-1} - \eta g_t`. State and
    step counts are where thinc has them: ``mom1``, ``mom2`` (of one dimension, in C order),
    ``averages`` and ``nr_update``.

    Weights are float32 or, unlike thinc's, float64, in any dense layout; gradients in any layout.
    Weights in C order, as thinc's models have them, are stepped in place, others through a copy.
    A call that raises has changed nothing, nor has one with an empty gradient.

    Parameters
    ----------
    learn_rate : float, list, generator or schedule
        :math:`\eta`.
    L2 : float, list, generator or schedule, default 0
        :math:`\lambda \ge 0`.
    beta1, beta2 : float, list, generator or schedule
        :math:`0 \le \beta_1, \beta_2 < 1`; without ``use_radam`` both above 0, or both 0.
    eps : float, list, generator or schedule, default 1e-8
        :math:`\epsilon \ge 0`.
    grad_clip : float, list, generator or schedule, default 1
        The largest norm of a gradient; 0 does not clip.
    use_averages : bool, default True
        Keep the averages :math:`\bar p`, for ``model.use_params(optimizer.averages)``.
    use_radam : bool, default False
        RAdam's step instead.
    L2_is_weight_decay : bool, default True
        If False, L2 is a penalty instead: :math:`g_t + \lambda p_{t-1}` takes the place of
        :math:`g_t`, also in the norm.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or arrays of a call are not: the GPU's, for one, or of
        another shape than the state of their key.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim.integrations.thinc import Optimizer
    >>> optimizer = Optimizer(0.1, L2=0.5, beta1=0.0, beta2=0.0)
    >>> weights, gradient = np.ones(1, "float32"), np.full(1, 2.0, "float32")
    >>> optimizer((0, "W"), weights, gradient)[0].round(6)  # 0.95 (1 - 0.1)
    array([0.855], dtype=float32)
    >>> optimizer.averages[0, "W"].round(6)  # of 0 and the weights
    array([0.699545], dtype=float32)
    """

    __slots__ = ("_backend", "_idle", "_planned")

    def __init__(
        self,
        learn_rate: Rate,
        *,
        L2: Rate = 0.0,  # noqa: N803 - thinc's name
        beta1: Rate = 0.9,
        beta2: Rate = 0.999,
        eps: Rate = 1e-8,
        grad_clip: Rate = 1.0,
        use_averages: bool = True,
        use_radam: bool = False,
        L2_is_weight_decay: bool = True,  # noqa: N803
    ) -> None:
        super().__init__(
            _argument("learn_rate", learn_rate),
            L2=_argument("L2", L2),
            beta1=_argument("beta1", beta1),
            beta2=_argument("beta2", beta2),
            eps=_argument("eps", eps),
            grad_clip=_argument("grad_clip", grad_clip),
            use_averages=use_averages,
            use_radam=use_radam,
            L2_is_weight_decay=L2_is_weight_decay,
        )
        self._backend = chosen_backend()
        self._planned = Cache()  # for keys with a step since the last call of step_schedules
        self._idle = Cache()  # for keys whose last step came between the last two of these calls
        if not any(map(_may_depend_on_key, hyperparameters(self))):
            self._next_step((0, ""), 1, 1.0)  # raises where one of them is not as it must be

    def __call__(
        self, key: Key, weights: Array, gradient: Array, *, lr_scale: float = 1.0
    ) -> tuple[Array, Array]:
        """Take one step of the weights of a key, in place, and leave zeros in the gradient."""
        if not (isinstance(weights, np.ndarray) and isinstance(gradient, np.ndarray)):
            raise _not_numpy(key, weights=weights, gradient=gradient)
        if gradient.size == 0:
            return weights, gradient
        if weights.flags.c_contiguous:
            self._take(key, weights, gradient, lr_scale, [])
        else:  # thinc has its state in C order, so a copy in C order is stepped
            check_target(f"weights[{key!r}]", weights)
            self._check_apart(key, weights, gradient)
            copy: Any = np.ascontiguousarray(weights)
            self._take(key, copy, gradient, lr_scale, [(weights, {...: copy})])
        return weights, gradient

    def _check_apart(self, key: Key, weights: Array, gradient: Array) -> None:
        """Raise an error if weights that are stepped through a copy share memory."""
        state = {"mom1": self.mom1, "mom2": self.mom2, "averages": self.averages or {}}
        arrays = {"gradient": gradient} | {name: kept.get(key) for name, kept in state.items()}
        for name, array in arrays.items():
            if isinstance(array, np.ndarray) and np.may_share_memory(weights, array):
                raise ValueError(
                    f"{name}[{key!r}]: expected memory apart from the weights, found memory "
                    "shared with them"
                )

    def _take(
        self, key: Key, weights: Array, gradient: Array, lr_scale: float, changes: "list[Change]"
    ) -> None:
        """Step weights in C order, and change together with them what else there is to change."""
        t = self.nr_update.get(key, 0) + 1
        step = self._next_step(key, t, lr_scale)
        average = None if self.averages is None else self.averages.get(key)
        arrays = weights, self.mom1.get(key), self.mom2.get(key), average
        planned = self._planned.get(key) or self._idle.get(key)
        if not (planned and planned.rule is step.rule and all(map(is_, planned.arrays, arrays))):
            planned = self._plan(key, step.rule, arrays)
        group = Clipped(step, clipping_factor(step, planned, gradient))
        changes = [*changes, *self._after_step(key, t, planned)]
        planned.plan.step((gradient,), (group,), changes=changes)

    def step_schedules(self) -> None:
        """Go on to the next values of the schedules.

        Weights that have had no step since the last call but one are no longer held.
        """
        super().step_schedules()
        self._idle, self._planned = self._planned, Cache()

    def _next_step(self, key: Key, t: int, lr_scale: float) -> Step:
        values = lr_scale, *hyperparameters(self)
        if tuple(map(type, values)) != FLOATS:
            if hasattr(self, "_schedule_args"):  # thinc 9, where all of them are schedules
                extra = self._schedule_args(key)
                values = tuple(v(self.step, **extra) if callable(v) else v for v in values)
            values = tuple(map(_plain, KINDS, values))
        return _step_of(t, self.use_radam, self.L2_is_weight_decay, *values)

    def _plan(self, key: Key, rule: Rule, arrays: Sequence[Any]) -> Planned:
        """Plan the steps of arrays, and make state that is missing."""
        weights, *moments, average = arrays
        if weights.dtype == np.float16:
            raise TypeError(
                f"weights[{key!r}]: expected dtype float32 or float64, found float16: keep the "
                'model\'s parameters in float32, e.g. by model.set_param(name, weights.astype("f"))'
            )
        if average is weights:
            raise ValueError(
                f"weights[{key!r}]: expected an array apart from averages[{key!r}], found the "
                "same, as in a block of model.use_params, or after one that an exception ended "
                "(thinc then leaves the averages in the model): step outside of it, or set the "
                "parameters again by model.set_param"
            )
        names = ("weights", "gradient", "mom1", "mom2", "averages")
        labels = [f"{name}[{key!r}]" for name in names]
        state: list[Any] = [None] * len(rule.state)
        if rule is not reference.sgd:
            moments = [np.zeros(weights.size, weights.dtype) if m is None else m for m in moments]
            state[:2] = map(_shaped, labels[2:4], moments, [weights] * 2)
        if average is None and self.averages is not None:
            average = np.zeros(weights.shape, weights.dtype)
        entry = Entry(weights, state, average)
        loops = loops_of([rule]) if self._backend == "compiled" else None
        plan = Plan([entry], [labels], [rule.twin], loops, zeroing=True)
        return Planned(plan, rule, (weights, *moments, average))

    def _after_step(self, key: Key, t: int, planned: Planned) -> "list[Change]":
        """Return what changes together with the t-th step of a key."""
        changes: list[Change] = [(self.nr_update, {key: t})]
        if self._planned.get(key) is not planned:
            kept = self.mom1, self.mom2, self.averages
            changes.append((self._planned, {key: planned}))
            changes += [
                (arrays, {key: array})
                for arrays, array in zip(kept, planned.arrays[1:], strict=True)
                if array is not None
            ]
        return changes


@lru_cache(maxsize=32)  # all parameters that are in the same step share an item
def _step_of(t: int, use_radam: bool, decays: bool, *hyper: float) -> Step:
    """Return the t-th step with some hyperparameters, those in KINDS."""
    lr_scale, lr, b1, b2, eps, l2, limit = map(checked, KINDS, KINDS.values(), hyper)
    decay = lr_scale * lr * l2 if decays else 0.0
    if use_radam:  # which in thinc is one step ahead, and has no lr_scale
        rule, own = reference.radam, reference.radam.scalars(t + 1, lr, (b1, b2), eps)
    elif b1 > 0 and b2 > 0:
        rule = reference.adam
        own = rule.scalars(t, lr_scale * lr, (b1, b2), eps, eps_hat=True)
    elif b1 == b2 == 0:
        rule, own = reference.sgd, reference.sgd.scalars(t, 1.0)
    else:
        raise ValueError(
            f"beta1, beta2: expected both above 0 (Adam) or both 0 (gradient descent), "
            f"found {b1:g} and {b2:g}"
        )
    if rule is reference.sgd:
        # the step and then the decay: (1 - decay) (p - lr g) is p - ((1 - decay) lr g + decay p)
        before = before_scalars((1 - decay) * lr_scale * lr, weight_decay=decay)
    else:
        # the same: (1 - decay) (p - step) is (1 - decay) p less (1 - decay) times the step
        before = before_scalars(1.0)
        own = rule.named(own)
        own = own._replace(decay=1 - decay, lr=(1 - decay) * own.lr)
    scalars = before, after_scalars(ema_decay=min((1 + t) / (10 + t), 0.9999)), own
    return Step(rule, scalars, 0.0 if decays else l2, limit)


class Clipped(NamedTuple):
    """A step in which the sum of the gradient and the penalty is multiplied by a factor.

    The sum is made inside of the step, so that the gradient need not be changed before it.
    """

    step: Step
    factor: float

    def scalars(self, t: int) -> StepScalars:
        """Return the scalars of the step, which is the t-th."""
        before, after, own = self.step.scalars
        scale = self.factor * before.scale
        decay = before.weight_decay + scale * self.step.penalty
        return before._replace(scale=scale, weight_decay=decay), after, own


def clipping_factor(step: Step, planned: Planned, gradient: Array) -> float:
    """Return the factor that clips the sum of a gradient and its penalty by its norm."""
    if not step.limit:
        return 1.0

    norm, _ = planned.plan.measure((gradient,))  # which also checks the gradient
    if step.penalty:
        with np.errstate(all="ignore"):
            norm = global_norm([gradient + step.penalty * planned.arrays[0]])
    return step.limit / norm if norm >= step.limit else 1.0


def _plain(name: str, value: Any) -> float:
    """Return a number as a float, also a bool and an array of no dimension, as thinc takes them."""
    if type(value) is float:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, np.bool_)):
        value = float(value)
    x: float = checked(name, KINDS[name], value)
    return x


def _argument(name: str, value: Any) -> Any:
    """Return a hyperparameter as thinc's Optimizer takes it."""
    if isinstance(value, list) or hasattr(value, "__next__") or callable(value):
        return value
    try:
        return _plain(name, value)
    except TypeError:
        raise ValueError(  # as thinc, of what is neither a number nor a schedule
            f"{name}: expected {KINDS[name]}, or a list, a generator or a schedule of such, "
            f"found {shown(value)}"
        ) from None


def _may_depend_on_key(value: Any) -> bool:
    """Return whether a value is a schedule that may ask for the key, as a user's own may."""
    return callable(value) and value.name not in ("constant", "wrap_generator")


def _shaped(label: str, moment: Any, weights: Array) -> Any:
    """Return a view of a moment that has the shape of the weights."""
    expected = f"{label}: expected {weights.size} elements in C order, as the weights have, found"
    if not isinstance(moment, np.ndarray):
        raise TypeError(f"{expected} {type(moment).__name__}")
    if moment.size != weights.size or not moment.flags.c_contiguous:
        raise ValueError(f"{expected} shape {moment.shape} with strides {moment.strides}")
    return moment.reshape(weights.shape)


def _not_numpy(key: Key, **arrays: Any) -> TypeError:
    """Return the error that says which of the arrays is none of NumPy's."""
    name, array = next(item for item in arrays.items() if not isinstance(item[1], np.ndarray))
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    return TypeError(
        f"{name}[{key!r}]: expected a NumPy array, as thinc's NumpyOps has them, found {kind}"
    )


@registry.optimizers("fastoptim.Adam.v1")
def Adam(  # noqa: N802 - thinc's names
    learn_rate: Rate = 0.001,
    *,
    L2: Rate = 0.0,  # noqa: N803
    beta1: Rate = 0.9,
    beta2: Rate = 0.999,
    eps: Rate = 1e-8,
    grad_clip: Rate = 1.0,
    L2_is_weight_decay: bool = True,  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """Return an `Optimizer` that is Adam, as ``thinc.api.Adam`` is.

    Parameters
    ----------
    learn_rate, L2, beta1, beta2, eps, grad_clip, L2_is_weight_decay, use_averages
        As for `Optimizer`.
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        use_averages=use_averages,
        L2_is_weight_decay=L2_is_weight_decay,
    )


@registry.optimizers("fastoptim.RAdam.v1")
def RAdam(  # noqa: N802
    learn_rate: Rate = 0.001,
    *,
    beta1: Rate = 0.9,
    beta2: Rate = 0.999,
    eps: Rate = 1e-8,
    L2: Rate = 0.0,  # noqa: N803
    L2_is_weight_decay: bool = True,  # noqa: N803
    grad_clip: Rate = 1.0,
    use_averages: bool = True,
) -> Optimizer:
    """Return an `Optimizer` that is RAdam, as ``thinc.api.RAdam`` is.

    Parameters
    ----------
    learn_rate, beta1, beta2, eps, L2, L2_is_weight_decay, grad_clip, use_averages
        As for `Optimizer`.
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        use_averages=use_averages,
        use_radam=True,
        L2_is_weight_decay=L2_is_weight_decay,
    )


@registry.optimizers("fastoptim.SGD.v1")
def SGD(  # noqa: N802
    learn_rate: Rate,
    *,
    L2: Rate = 0.0,  # noqa: N803
    grad_clip: Rate = 1.0,
    L2_is_weight_decay: bool = True,  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """Return an `Optimizer` that descends along the gradient, as ``thinc.api.SGD`` does.

    Parameters
    ----------
    learn_rate, L2, grad_clip, L2_is_weight_decay, use_averages
        As for `Optimizer`.
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=0.0,
        beta2=0.0,
        grad_clip=grad_clip,
        use_averages=use_averages,
        L2_is_weight_decay=L2_is_weight_decay,
    )
