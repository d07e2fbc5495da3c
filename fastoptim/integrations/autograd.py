"""The optimizers of HIPS autograd's ``autograd.misc.optimizers``, with the steps of fastoptim.

They take the same arguments and return the same parameters up to rounding, in float64 as autograd's
do. Their steps cannot be differentiated: a gradient through a whole optimization needs autograd's
own.

Examples
--------
>>> import autograd.numpy as np
>>> from autograd import grad
>>> from fastoptim.integrations.autograd import adam
>>> def loss(params, i):
...     return np.sum((params["w"] - np.arange(3.0)) ** 2) + params["b"] ** 2
>>> found = adam(grad(loss), {"w": np.zeros(3), "b": 1.0}, num_iters=500, step_size=0.1)
>>> found["w"].round(3)
array([0., 1., 2.])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from autograd.extend import Box
    from autograd.misc import flatten
except ImportError as error:
    raise ImportError(
        "fastoptim.integrations.autograd needs autograd: "
        'python -m pip install "fastoptim[autograd]"'
    ) from error

import numpy as np
from numpy.typing import NDArray

import fastoptim as fo
from fastoptim._kinds import Real, checked

__all__ = ["adam", "rmsprop", "sgd"]


def __dir__() -> list[str]:
    return __all__


Gradient = Callable[[Any, int], Any]
Callback = Callable[[Any, int, Any], Any] | None
Vector = NDArray[np.float64]

ARGUMENTS = {
    "step_size": Real(0),
    "mass": Real(0, 1),
    "gamma": Real(0, 1),
    "b1": Real(0, 1),
    "b2": Real(0, 1),
    "eps": Real(0),
}


def sgd(
    grad: Gradient,
    x0: Any,
    callback: Callback = None,
    num_iters: int = 200,
    step_size: float = 0.1,
    mass: float = 0.9,
) -> Any:
    r"""Gradient descent with momentum, an average of the gradients; see `fastoptim.Momentum`.

    .. math:: v_t = \mu v_{t-1} + (1 - \mu) g_t, \quad p_t = p_{t-1} - \eta v_t

    Parameters
    ----------
    grad : function
        ``grad(params, i)``: the gradient in the i-th iteration, in containers like those of x0.
    x0 : array, number, or nested lists, tuples and dicts of them
        Where to start; it stays as it is.
    callback : function, optional
        ``callback(params, i, gradient)`` is called before each step. If x0 is an array or
        a number, callback and grad may change params in place, for instance to keep them within
        bounds, and callback the gradient; in containers, both are copies.
    num_iters : int, default 200
        How many steps to take.
    step_size : float, default 0.1
        Learning rate :math:`\eta \ge 0`.
    mass : float, default 0.9
        :math:`0 \le \mu < 1`.

    Returns
    -------
    object
        The parameters after the last step, in containers like those of x0.

    Raises
    ------
    TypeError, ValueError
        If an argument or a gradient is not as described; the message names it, what was found and
        what was expected.

    Examples
    --------
    >>> from fastoptim.integrations.autograd import sgd
    >>> x = sgd(lambda x, i: 2 * x, 1.0)
    >>> bool(abs(x) < 0.001)
    True
    """
    _check(step_size=step_size, mass=mass)
    return _run(grad, x0, callback, num_iters, lambda x: fo.Momentum(x, step_size, mass))


def rmsprop(
    grad: Gradient,
    x0: Any,
    callback: Callback = None,
    num_iters: int = 100,
    step_size: float = 0.1,
    gamma: float = 0.9,
    eps: float = 1e-8,
) -> Any:
    r"""Gradient over its running root mean square, which starts at 1; see `fastoptim.RMSprop`.

    .. math::

        v_0 = 1, \quad v_t = \gamma v_{t-1} + (1 - \gamma) g_t^2, \quad
        p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t} + \epsilon}

    Parameters
    ----------
    grad, x0, callback, num_iters
        As for `sgd`; num_iters is 100 by default.
    step_size : float, default 0.1
        Learning rate :math:`\eta \ge 0`.
    gamma : float, default 0.9
        Decay rate of the average, :math:`0 \le \gamma < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`.

    Returns
    -------
    object
        The parameters after the last step, in containers like those of x0.

    Raises
    ------
    TypeError, ValueError
        As `sgd` does.

    Examples
    --------
    >>> from fastoptim.integrations.autograd import rmsprop
    >>> x = rmsprop(lambda x, i: 2 * x, 1.0)
    >>> bool(abs(x) < 0.1)
    True
    """
    _check(step_size=step_size, gamma=gamma, eps=eps)

    def optimizer(x: Vector) -> fo.Optimizer:
        found = fo.RMSprop(x, step_size, gamma, eps)
        found.state[0]["v"][...] = 1.0
        return found

    return _run(grad, x0, callback, num_iters, optimizer)


def adam(
    grad: Gradient,
    x0: Any,
    callback: Callback = None,
    num_iters: int = 100,
    step_size: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Any:
    r"""Adam; the formula is at `fastoptim.Adam`.

    Parameters
    ----------
    grad, x0, callback, num_iters
        As for `sgd`; num_iters is 100 by default.
    step_size : float, default 0.001
        Learning rate :math:`\eta \ge 0`.
    b1, b2 : float, default 0.9, 0.999
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`.

    Returns
    -------
    object
        The parameters after the last step, in containers like those of x0.

    Raises
    ------
    TypeError, ValueError
        As `sgd` does.

    Examples
    --------
    >>> from fastoptim.integrations.autograd import adam
    >>> x = adam(lambda x, i: 2 * x, 1.0, step_size=0.1)
    >>> bool(abs(x) < 0.1)
    True
    """
    _check(step_size=step_size, b1=b1, b2=b2, eps=eps)
    return _run(grad, x0, callback, num_iters, lambda x: fo.Adam(x, step_size, (b1, b2), eps))


def _check(**arguments: float) -> None:
    for name, value in arguments.items():
        checked(name, ARGUMENTS[name], value)


def _run(
    grad: Gradient,
    x0: Any,
    callback: Callback,
    num_iters: int,
    optimizer: Callable[[Vector], fo.Optimizer],
) -> Any:
    flat, unflatten = flatten(x0)
    x = _vector("x0", flat).copy()
    steps = optimizer(x)
    # As in autograd, each iteration has parameters of its own, which callbacks may keep. Where
    # unflatten returns views of them, grad and callback may change them in place, too.
    own = np.array(flat)
    for i in range(num_iters):
        g = flatten(grad(unflatten(own), i))[0]
        _check_numbers("grad", g)
        if callback:
            callback(unflatten(own), i, unflatten(g))
        x[...] = own
        steps.step(_vector("grad", g))
        own = x.copy()
    return unflatten(own)


def _vector(label: str, flat: Any) -> Vector:
    """Return flat numbers in float64, or say why they are none."""
    _check_numbers(label, flat)
    return np.asarray(flat, np.float64)


def _check_numbers(label: str, flat: Any) -> None:
    if isinstance(flat, Box):
        raise TypeError(
            f"{label}: expected numbers, found values that autograd is tracing; "
            "autograd.misc.optimizers can be differentiated"
        )
    dtype = np.asarray(flat).dtype
    if dtype.kind not in "fiub" or dtype.itemsize > 8:  # float64 would hold less
        raise TypeError(
            f"{label}: expected real numbers of at most 64 bits, found {dtype}; "
            "autograd.misc.optimizers take longer floats"
        )
