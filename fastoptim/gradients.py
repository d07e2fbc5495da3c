r"""Gradients before the step: their norm, clipping in place, a look for NaN and infinity.

All take one array, a sequence or a mapping of arrays, float32 or float64 in any mixture and any
layout; None is skipped, and of no arrays the norm is 0. An optimizer with ``max_grad_norm``,
``max_grad_value`` and ``nonfinite`` does the same as it steps, and writes no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from . import _levels
from ._containers import Array, Container
from ._engine.arrays import as_array, check_target, overlaps_itself
from ._engine.changes import clip
from ._engine.plan import measure
from ._kinds import Real, checked
from ._stages import clip_factor

__all__ = ["all_finite", "clip_grad_norm_", "clip_grad_value_", "global_norm"]


def __dir__() -> list[str]:
    return __all__


Grads = Array | Iterable[Any] | Mapping[Any, Any]
LIMIT = Real(0)


def global_norm(grads: Grads) -> float:
    r"""Return the L2 norm of all gradients together.

    .. math:: \lVert g \rVert = \sqrt{\textstyle\sum_k \sum_i g_{k,i}^2}

    The squares are summed in double precision, in an order that depends on the shapes and layouts
    alone: any number of threads gives the same bits, and those of ``grad_norm`` of an optimizer
    whose parameters have the layouts of the gradients. Squares that overflow are no harm.

    Parameters
    ----------
    grads : ndarray, sequence or mapping
        The gradients, float32 or float64, of any layout; None is skipped.

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
    return _measured(_named(grads))[0]


def all_finite(grads: Grads) -> bool:
    """Tell whether no gradient holds a NaN or an infinity.

    It is read off the sum of the squares: only if that is not finite are the elements looked at.

    Parameters
    ----------
    grads : ndarray, sequence or mapping
        The gradients, float32 or float64, of any layout; None is skipped.

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
    return _measured(_named(grads))[1] is None


def clip_grad_norm_(grads: Grads, max_norm: float) -> float:
    r"""Scale all gradients in place so that their norm together is at most max_norm.

    .. math:: g \leftarrow g \min(1, \mathrm{max\_norm} / (\lVert g \rVert + 10^{-6}))

    This is ``torch.nn.utils.clip_grad_norm_``, on gradients instead of parameters. A NaN or an
    infinity in the norm spreads to the gradients, as it does there.

    Parameters
    ----------
    grads : ndarray, sequence or mapping
        The gradients, float32 or float64, writable, of any layout, without memory in common; None
        is skipped.
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
    arrays = _changeable(grads)
    norm, _ = _measured(arrays)
    factor = clip_factor(norm, max_norm)
    if factor != 1:
        clip(list(arrays.values()), factor, math.inf)
    return norm


def clip_grad_value_(grads: Grads, clip_value: float) -> None:
    r"""Clip each element of all gradients in place.

    .. math:: g_i \leftarrow \min(\max(g_i, -\mathrm{clip\_value}), \mathrm{clip\_value})

    This is ``torch.nn.utils.clip_grad_value_``, on gradients instead of parameters. A NaN stays.

    Parameters
    ----------
    grads : ndarray, sequence or mapping
        The gradients, float32 or float64, writable, of any layout, without memory in common; None
        is skipped.
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
    clip(list(_changeable(grads).values()), 1.0, clip_value)


def _named(grads: Any) -> dict[str, Any]:
    """Return the gradients that are not None, by the names that messages call them."""
    # An iterator that yields nothing has been used up before: that is no empty list.
    container = Container("grads", grads, at_least=0 if isinstance(grads, Sized) else 1)
    named = zip(container.indices(), container.arrays, strict=True)
    found = {f"grads{index}": g for index, g in named if g is not None}
    # NumPy's reductions give scalars, which are gradients of 0-d parameters.
    return {
        label: g if isinstance(g, np.floating) else as_array(label, g) for label, g in found.items()
    }


def _measured(arrays: Mapping[str, Any]) -> tuple[float, str | None]:
    """Return the norm of all arrays, and the name of the first that is not finite."""
    return measure(list(arrays), list(arrays.values()), _levels.loops[None])


def _changeable(grads: Any) -> dict[str, Array]:
    """Return the gradients by name, once all have proved safe to change in place."""
    arrays = {label: as_array(label, g) for label, g in _named(grads).items()}  # no scalars
    for label, g in arrays.items():
        check_target(label, np.empty_like(g))  # which has the dtype, in a layout that is right
        if not g.flags.writeable:
            raise ValueError(f"{label}: expected a writable array, found a read-only one")
        if overlaps_itself(g):
            raise ValueError(
                f"{label}: expected elements with memory of their own, "
                f"found strides {g.strides} for shape {g.shape}"
            )
    _refuse_shared_memory(arrays)
    return arrays


def _refuse_shared_memory(arrays: Mapping[str, Array]) -> None:
    """Raise if two arrays share memory, which would be changed twice."""
    bounds = sorted((*byte_bounds(g), label) for label, g in arrays.items() if g.size)
    reaching: list[tuple[int, str]] = []  # where the arrays end that reach behind low
    for low, high, label in bounds:
        reaching = [(end, other) for end, other in reaching if end > low]
        for _, other in reaching:
            if np.shares_memory(arrays[label], arrays[other]):
                raise ValueError(
                    f"{label}: expected memory of its own, found memory shared with {other}"
                )
        reaching.append((high, label))
