"""The compiled rules as in-place functions, for programs that keep their own state.

There is one function for each class of `fastoptim.optimizers`, and so for each rule of
`fastoptim.reference`, which has the same arguments. (Schedule-Free rules have none: beside state
arrays they keep numbers, which their classes take care of.)
``functional.adam(p, g, m, v, v_max=None, *, step, lr=0.001, betas=(0.9, 0.999), ...)`` takes the
step-th step (counted from 1), updating p and the state arrays in place, and raises what the
optimizer classes raise, before anything has changed. The arrays are float32 or float64, all of
one dtype, shape and dense layout; g may have any layout. A hyperparameter may be a schedule. Rules
whose steps are all alike, such as gradient descent, need no ``step``.

>>> import numpy as np
>>> from fastoptim import functional
>>> p, g = np.ones(3), np.array([1.0, -2.0, 0.0])
>>> m, v = np.zeros(3), np.zeros(3)
>>> functional.adam(p, g, m, v, step=1, lr=0.1)
>>> p
array([0.9, 1.1, 1. ])
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from . import optimizers
from ._containers import Array
from ._docs import function_doc
from ._levels import loops_of_one
from ._optimizer import Optimizer
from ._rule import Scheduled, ScheduledPair, ScheduledTriple
from .optimizers import Form

__all__ = [
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "asgd",
    "ftrl",
    "lamb",
    "lars",
    "lion",
    "momentum",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "stableadamw",
    "yogi",
]

Function = TypeVar("Function", bound=Callable[..., None])


def __dir__() -> list[str]:
    return __all__


def _steps_of(cls: type[Optimizer]) -> Callable[[Function], Function]:
    """Decorate a function that has only a signature and an example: let it step as a class does."""
    rule = cls.rule

    def decorate(declared: Function) -> Function:
        @wraps(declared)
        def function(*args: Any, **kwargs: Any) -> None:
            rule.apply(loops_of_one(rule.loop), args, kwargs)

        if declared.__doc__ is not None:  # Python leaves it out with -OO
            function.__doc__ = function_doc(declared.__doc__, rule, cls)
        return cast("Function", function)

    return decorate


@_steps_of(optimizers.SGD)
def sgd(
    p: Array,
    g: Array,
    v: Array | None = None,
    *,
    step: int | None = None,
    lr: Scheduled[float] = 0.001,
    momentum: Scheduled[float] = 0.0,
    dampening: Scheduled[float] = 0.0,
    nesterov: Scheduled[bool] = False,
    cautious: Scheduled[bool] = False,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of gradient descent, with or without momentum.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> functional.sgd(p, g, lr=0.1)
    >>> p
    array([0.7, 2. ])
    """


@_steps_of(optimizers.Momentum)
def momentum(
    p: Array,
    g: Array,
    v: Array,
    *,
    step: int | None = None,
    lr: Scheduled[float] = 0.01,
    momentum: Scheduled[float] = 0.9,
    form: Scheduled[Form] = "averaged",
    nesterov: Scheduled[bool] = False,
    cautious: Scheduled[bool] = False,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step along an exponential average of the gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> v = np.zeros(2)
    >>> functional.momentum(p, g, v, step=1, lr=0.1, momentum=0.5)
    >>> p
    array([0.85, 2.  ])
    """


@_steps_of(optimizers.RMSprop)
def rmsprop(
    p: Array,
    g: Array,
    v: Array,
    g_avg: Array | None = None,
    b: Array | None = None,
    *,
    step: int | None = None,
    lr: Scheduled[float] = 0.01,
    alpha: Scheduled[float] = 0.99,
    eps: Scheduled[float] = 1e-08,
    momentum: Scheduled[float] = 0.0,
    centered: Scheduled[bool] = False,
    eps_inside: Scheduled[bool] = False,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of the gradient over its running root mean square.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> v = np.zeros(2)
    >>> functional.rmsprop(p, g, v, step=1, lr=0.1)
    >>> p.round(6)
    array([0., 2.])
    """


@_steps_of(optimizers.Adagrad)
def adagrad(
    p: Array,
    g: Array,
    h: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.01,
    lr_decay: Scheduled[float] = 0.0,
    eps: Scheduled[float] = 1e-10,
    eps_inside: Scheduled[bool] = False,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of the gradient over the root of the sum of its squares.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> h = np.zeros(2)
    >>> functional.adagrad(p, g, h, step=1, lr=0.1)
    >>> p
    array([0.9, 2. ])
    """


@_steps_of(optimizers.Adam)
def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    v_max: Array | None = None,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 1e-08,
    weight_decay: Scheduled[float] = 0.0,
    amsgrad: Scheduled[bool] = False,
    decoupled_weight_decay: Scheduled[bool] = False,
    eps_hat: Scheduled[bool] = False,
    cautious: Scheduled[bool] = False,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> functional.adam(p, g, m, v, step=1, lr=0.1)
    >>> p
    array([0.9, 2. ])
    """


@_steps_of(optimizers.AdamW)
def adamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    v_max: Array | None = None,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 1e-08,
    weight_decay: Scheduled[float] = 0.01,
    amsgrad: Scheduled[bool] = False,
    decoupled_weight_decay: Scheduled[bool] = True,
    eps_hat: Scheduled[bool] = False,
    cautious: Scheduled[bool] = False,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with decoupled weight decay.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> functional.adamw(p, g, m, v, step=1, lr=0.1, weight_decay=0.5)
    >>> p
    array([0.85, 1.9 ])
    """


@_steps_of(optimizers.Adadelta)
def adadelta(
    p: Array,
    g: Array,
    v: Array,
    u: Array,
    *,
    step: int | None = None,
    lr: Scheduled[float] = 1.0,
    rho: Scheduled[float] = 0.9,
    eps: Scheduled[float] = 1e-06,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of the gradient times a ratio of running root mean squares.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> v, u = np.zeros(2), np.zeros(2)
    >>> functional.adadelta(p, g, v, u, step=1, eps=0.01)
    >>> p.round(6)
    array([0.685515, 2.      ])
    """


@_steps_of(optimizers.Adamax)
def adamax(
    p: Array,
    g: Array,
    m: Array,
    u: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.002,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 1e-08,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with a running maximum for its root mean square.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, u = np.zeros(2), np.zeros(2)
    >>> functional.adamax(p, g, m, u, step=1, lr=0.1)
    >>> p
    array([0.9, 2. ])
    """


@_steps_of(optimizers.NAdam)
def nadam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.002,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 1e-08,
    weight_decay: Scheduled[float] = 0.0,
    momentum_decay: Scheduled[float] = 0.004,
    decoupled_weight_decay: Scheduled[bool] = False,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with Nesterov's momentum.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> functional.nadam(p, g, m, v, step=1, lr=0.1)
    >>> p.round(6)
    array([0.894355, 2.      ])
    """


@_steps_of(optimizers.RAdam)
def radam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 1e-08,
    weight_decay: Scheduled[float] = 0.0,
    decoupled_weight_decay: Scheduled[bool] = False,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam that waits until its mean square can be relied upon.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> functional.radam(p, g, m, v, step=1, lr=0.1)
    >>> p
    array([0.7, 2. ])
    """


@_steps_of(optimizers.Rprop)
def rprop(
    p: Array,
    g: Array,
    prev: Array,
    step_size: Array,
    *,
    step: int | None = None,
    etas: ScheduledPair = (0.5, 1.2),
    step_sizes: ScheduledPair = (1e-06, 50.0),
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of the gradient's sign times step sizes that follow it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> prev, step_size = np.zeros(2), np.full(2, 0.01)
    >>> functional.rprop(p, g, prev, step_size, step=1)
    >>> p
    array([0.99, 2.  ])
    """


@_steps_of(optimizers.ASGD)
def asgd(
    p: Array,
    g: Array,
    ax: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.01,
    lambd: Scheduled[float] = 0.0001,
    alpha: Scheduled[float] = 0.75,
    t0: Scheduled[float] = 1000000.0,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of gradient descent that averages the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> ax = np.zeros(2)
    >>> functional.asgd(p, g, ax, step=1, lr=0.1)
    >>> p.round(6)
    array([0.69999, 1.99998])
    """


@_steps_of(optimizers.Lion)
def lion(
    p: Array,
    g: Array,
    m: Array,
    *,
    step: int | None = None,
    lr: Scheduled[float] = 0.0001,
    betas: ScheduledPair = (0.9, 0.99),
    weight_decay: Scheduled[float] = 0.0,
    decoupled_weight_decay: Scheduled[bool] = True,
    cautious: Scheduled[bool] = False,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step along the sign of a momentum.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m = np.zeros(2)
    >>> functional.lion(p, g, m, step=1, lr=0.1)
    >>> p
    array([0.9, 2. ])
    """


@_steps_of(optimizers.AdaBelief)
def adabelief(
    p: Array,
    g: Array,
    m: Array,
    s: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 1e-16,
    eps_root: Scheduled[float] = 1e-16,
    weight_decay: Scheduled[float] = 0.0,
    decoupled_weight_decay: Scheduled[bool] = False,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with a variance for its mean square.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, s = np.zeros(2), np.zeros(2)
    >>> functional.adabelief(p, g, m, s, step=1, lr=0.1)
    >>> p.round(6)
    array([0.888889, 2.      ])
    """


@_steps_of(optimizers.Yogi)
def yogi(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.01,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 0.001,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with a mean square that falls slowly.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 1.0])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> functional.yogi(p, g, m, v, step=1, lr=0.1, eps=0.0)
    >>> p
    array([0.9, 1.9])
    """


@_steps_of(optimizers.AdEMAMix)
def ademamix(
    p: Array,
    g: Array,
    m1: Array,
    m2: Array,
    v: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledTriple = (0.9, 0.999, 0.9999),
    alpha: Scheduled[float] = 5.0,
    eps: Scheduled[float] = 1e-08,
    weight_decay: Scheduled[float] = 0.0,
    decoupled_weight_decay: Scheduled[bool] = True,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with a second, slow momentum.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m1, m2, v = np.zeros(2), np.zeros(2), np.zeros(2)
    >>> functional.ademamix(p, g, m1, m2, v, step=1, lr=0.1, betas=(0.9, 0.999, 0.5), alpha=2.0)
    >>> p
    array([0.8, 2. ])
    """


@_steps_of(optimizers.ADOPT)
def adopt(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledPair = (0.9, 0.9999),
    eps: Scheduled[float] = 1e-06,
    weight_decay: Scheduled[float] = 0.0,
    decoupled_weight_decay: Scheduled[bool] = False,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of a momentum of gradients over the root mean square of those before them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> for step in (1, 2):
    ...     functional.adopt(p, g, m, v, step=step, lr=0.1, betas=(0.5, 0.9999))
    >>> p
    array([0.95, 2.  ])
    """


@_steps_of(optimizers.Adan)
def adan(
    p: Array,
    g: Array,
    m: Array,
    d: Array,
    v: Array,
    prev: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledTriple = (0.98, 0.92, 0.99),
    eps: Scheduled[float] = 1e-08,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with Nesterov's momentum by differences of gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([1.0, 2.0]), np.array([3.0, 0.0])
    >>> m, d, v, prev = np.zeros((4, 2))
    >>> functional.adan(p, g, m, d, v, prev, step=1, lr=0.1)
    >>> p
    array([0.9, 2. ])
    """


@_steps_of(optimizers.FTRL)
def ftrl(
    p: Array,
    g: Array,
    z: Array,
    h: Array,
    *,
    step: int | None = None,
    lr: Scheduled[float] = 0.001,
    l1_regularization_strength: Scheduled[float] = 0.0,
    l2_regularization_strength: Scheduled[float] = 0.0,
    beta: Scheduled[float] = 0.0,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of following the regularised leader.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.zeros(2), np.array([3.0, 1.0])
    >>> z, h = np.zeros(2), np.zeros(2)
    >>> functional.ftrl(p, g, z, h, lr=0.5, l1_regularization_strength=1.0, beta=1.0)
    >>> p
    array([-0.25,  0.  ])
    """


@_steps_of(optimizers.LAMB)
def lamb(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledPair = (0.9, 0.999),
    eps: Scheduled[float] = 1e-06,
    weight_decay: Scheduled[float] = 0.0,
    decoupled_weight_decay: Scheduled[bool] = True,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of Adam with a learning rate for each array.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([3.0, 4.0]), np.array([2.0, 0.0])
    >>> m, v = np.zeros(2), np.zeros(2)
    >>> functional.lamb(p, g, m, v, step=1, lr=0.1)
    >>> p
    array([2.5, 4. ])
    """


@_steps_of(optimizers.LARS)
def lars(
    p: Array,
    g: Array,
    v: Array,
    *,
    step: int | None = None,
    lr: Scheduled[float] = 1.0,
    momentum: Scheduled[float] = 0.9,
    trust_coefficient: Scheduled[float] = 0.001,
    nesterov: Scheduled[bool] = False,
    weight_decay: Scheduled[float] = 0.0,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of momentum with a learning rate for each array.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, g = np.array([3.0, 4.0]), np.array([2.0, 0.0])
    >>> v = np.zeros(2)
    >>> functional.lars(p, g, v, step=1, lr=1.0, trust_coefficient=0.1)
    >>> p
    array([2.5, 4. ])
    """


@_steps_of(optimizers.StableAdamW)
def stableadamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: Scheduled[float] = 0.001,
    betas: ScheduledPair = (0.9, 0.99),
    eps: Scheduled[float] = 1e-06,
    weight_decay: Scheduled[float] = 0.01,
    l1: Scheduled[float] = 0.0,
    max_grad_value: Scheduled[float | None] = None,
    maximize: Scheduled[bool] = False,
    max_param_grad_norm: Scheduled[float | None] = None,
) -> None:
    """Take a step of AdamW that is short where gradients are suddenly large.

    Examples
    --------
    >>> import numpy as np
    >>> from fastoptim import functional
    >>> p, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    >>> for step, g in ((1, np.ones(2)), (2, np.full(2, 6.0))):
    ...     functional.stableadamw(p, g, m, v, step=step, lr=0.1, betas=(0.5, 0.75), weight_decay=0)
    >>> p.round(6)
    array([0.827778, 1.827778])
    """
