r"""Gradients before the step: their norm, clipping in place, a look for NaN and infinity.

All take one array, a sequence or a mapping of arrays, or containers within each other, float32 or
float64 in any mixture and any layout; None is skipped, and of no arrays the norm is 0. What only
reads them takes whatever `Optimizer.step` does, and adds up the values of `fastoptim.Rows` first.
An optimizer with ``max_grad_norm``, ``max_grad_value`` and ``nonfinite`` does the same as it steps,
and writes no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

from . import _levels
from ._containers import Container, Grads, NestedGrads
from ._engine.foreign import is_alone
from ._engine.memory import Gradients
from ._engine.plan import clip, measure
from ._kinds import Real, checked
from ._rows import Rows
from ._stages import clip_factor
from ._trees import is_branch

__all__ = ["all_finite", "clip_grad_norm_", "clip_grad_value_", "global_norm"]


def __dir__() -> list[str]:
    return __all__


LIMIT = Real(0)


def global_norm(grads: Grads) -> float:
    r"""Return the L2 norm of all gradients together.

    .. math:: \lVert g \rVert = \sqrt{\textstyle\sum_k \sum_i g_{k,i}^2}

    The squares are summed in double precision, in an order that depends on the shapes and layouts
    alone: any number of threads gives the same bits, and those of ``grad_norm`` of an optimizer
    whose parameters have the layouts of the gradients. Squares that overflow are no harm.

    Parameters
    ----------
    grads : ndarray, sequence, mapping or dataclass
        The gradients, float32 or float64, of any layout; None is skipped. Arrays of other libraries
        are read where they are. Python's numbers, also in lists, count in double precision.

    Returns
    -------
    float
        The norm; NaN or infinity if a gradient holds one.

    Raises
    ------
    TypeError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks",
    ICML 2013, arXiv:1211.5063.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> fo.global_norm({"w": np.array([[3.0, 4.0]]), "b": np.array([12.0], np.float32)})
    13.0
    """
    return measure(_found(grads), _levels.loops[None])[0]


def all_finite(grads: Grads) -> bool:
    """Tell whether no gradient holds a NaN or an infinity.

    It is read off the sum of the squares: only if that is not finite are the elements looked at.

    Parameters
    ----------
    grads : ndarray, sequence, mapping or dataclass
        The gradients, float32 or float64, of any layout; None is skipped. Arrays of other libraries
        are read where they are. Python's numbers, also in lists, count in double precision.

    Returns
    -------
    bool
        Whether all elements are finite.

    Raises
    ------
    TypeError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> fo.all_finite([np.array([1e200, -1.0]), None])
    True
    >>> fo.all_finite([np.array([1.0, np.inf])])
    False
    """
    return measure(_found(grads), _levels.loops[None])[1] is None


def clip_grad_norm_(grads: NestedGrads, max_norm: float) -> float:
    r"""Scale all gradients in place so that their norm together is at most max_norm.

    .. math:: g \leftarrow g \min(1, \mathrm{max\_norm} / (\lVert g \rVert + 10^{-6}))

    This is ``torch.nn.utils.clip_grad_norm_``, on gradients instead of parameters. A NaN or an
    infinity in the norm spreads to the gradients, as it does there.

    Parameters
    ----------
    grads : ndarray, sequence, mapping or dataclass
        The gradients, arrays of NumPy's, float32 or float64, writable, of any layout, without
        memory in common; None is skipped.
    max_norm : float
        The largest norm to keep, 0 or more and finite.

    Returns
    -------
    float
        The norm before clipping, as `global_norm` gives it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected. Then nothing has changed.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks",
    ICML 2013, arXiv:1211.5063.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> g = np.array([3.0, 4.0])
    >>> fo.clip_grad_norm_([g, None], max_norm=1.0)
    5.0
    >>> g.round(5)
    array([0.6, 0.8])
    """
    max_norm = checked("max_norm", LIMIT, max_norm)
    found, loops = _found(grads, writing=True), _levels.loops[None]
    norm, _ = measure(found, loops)
    factor = clip_factor(norm, max_norm)
    if factor != 1:
        clip(found, loops, factor, math.inf)
    return norm


def clip_grad_value_(grads: NestedGrads, clip_value: float) -> None:
    r"""Clip each element of all gradients in place.

    .. math:: g_i \leftarrow \min(\max(g_i, -\mathrm{clip\_value}), \mathrm{clip\_value})

    This is ``torch.nn.utils.clip_grad_value_``, on gradients instead of parameters. A NaN stays.

    Parameters
    ----------
    grads : ndarray, sequence, mapping or dataclass
        The gradients, arrays of NumPy's, float32 or float64, writable, of any layout, without
        memory in common; None is skipped.
    clip_value : float
        The largest magnitude to keep, 0 or more and finite.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected. Then nothing has changed.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> g = np.array([0.5, -3.0])
    >>> fo.clip_grad_value_(g, 1.0)
    >>> g
    array([ 0.5, -1. ])
    """
    clip_value = checked("clip_value", LIMIT, clip_value)
    clip(_found(grads, writing=True), _levels.loops[None], 1.0, clip_value)


def _found(grads: Any, writing: bool = False) -> Gradients:
    """Return the gradients that there are, once all have proved fit to be read, or changed."""
    if isinstance(grads, Rows) or (not is_branch(type(grads)) and is_alone(grads)):
        return Gradients(("grads",), (grads,), writing)
    # An iterator that yields nothing has been used up before: that is no empty list.
    container = Container("grads", grads, at_least=0 if isinstance(grads, Sized) else 1)
    return Gradients(container.labels("grads"), container.arrays, writing)
