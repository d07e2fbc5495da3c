"""Pruning: masks that tell which weights to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ._containers import Container, Mask
from ._engine.arrays import as_array
from ._kinds import Closed, checked

__all__ = ["magnitude"]


def __dir__() -> list[str]:
    return __all__


Name = TypeVar("Name")


@overload
def magnitude(arrays: NDArray[Any], sparsity: float) -> Mask: ...
@overload
def magnitude(arrays: Mapping[Name, NDArray[Any]], sparsity: float) -> dict[Name, Mask]: ...
@overload
def magnitude(arrays: Sequence[NDArray[Any]], sparsity: float) -> Sequence[Mask]: ...
def magnitude(arrays: Any, sparsity: float) -> Any:
    """Return a mask of the weights that remain when those of the smallest magnitude are pruned.

    Of n weights, exactly ``round(sparsity * n)`` are pruned. Several arrays have one threshold: n
    counts the weights of all of them, and an array of small weights loses more than the others.
    Of weights with the same magnitude the first are pruned, in the order of the arrays and of
    their indices, so the mask depends on nothing but the values.

    Parameters
    ----------
    arrays : ndarray, sequence or mapping
        The weights, one array or several, of floating-point numbers.
    sparsity : float
        The share to prune, 0 to 1.

    Returns
    -------
    ndarray, list, tuple or dict
        For each array a mask of its shape, True for a weight to keep, in a container of the kind
        that ``arrays`` is.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a weight is NaN; the message names it, what was
        found and what was expected.

    References
    ----------
    S. Han, J. Pool, J. Tran, W. J. Dally, "Learning both weights and connections for efficient
    neural networks", NIPS 2015, arXiv:1506.02626.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> w = np.array([[0.5, -0.1], [-2.0, 0.3]])
    >>> mask = fo.prune.magnitude(w, 0.5)
    >>> mask
    array([[ True, False],
           [ True, False]])

    Multiply by the mask, after each step too where the training goes on:

    >>> w *= mask
    >>> w
    array([[ 0.5, -0. ],
           [-2. ,  0. ]])

    One threshold for all arrays of a network:

    >>> fo.prune.magnitude({"w": w, "b": np.array([0.2, 1.0])}, 0.5)["b"]
    array([False,  True])
    """
    sparsity = checked("sparsity", Closed(0, 1), sparsity)
    container = Container("arrays", arrays)
    magnitudes = [
        magnitudes_of(f"arrays{index}", array)
        for index, array in zip(container.indices(), container.arrays, strict=True)
    ]
    kept = largest(np.concatenate(magnitudes), sparsity)
    edges = np.cumsum([m.size for m in magnitudes])[:-1]
    masks = [
        part.reshape(array.shape)
        for part, array in zip(np.split(kept, edges), container.arrays, strict=True)
    ]
    return container.like(masks)


def magnitudes_of(label: str, array: Any) -> NDArray[Any]:
    """Return the magnitudes of an array's weights in the order of their indices."""
    array = as_array(label, array)
    if array.dtype.kind != "f":
        raise TypeError(f"{label}: expected floating-point numbers, found {array.dtype}")
    magnitudes: NDArray[Any] = np.abs(array).ravel()
    wrong = np.flatnonzero(np.isnan(magnitudes))
    if wrong.size:
        index = tuple(map(int, np.unravel_index(wrong[0], array.shape)))
        raise ValueError(f"{label}: expected numbers, found NaN at index {index}")
    return magnitudes


def largest(magnitudes: NDArray[Any], sparsity: float) -> Mask:
    """Return a mask that drops a share of the magnitudes: the smallest, of equals the first."""
    pruned = round(sparsity * magnitudes.size)
    if pruned == 0:
        return np.ones(magnitudes.shape, np.bool_)
    threshold = np.partition(magnitudes, pruned - 1)[pruned - 1]
    kept: Mask = magnitudes >= threshold
    equal = np.flatnonzero(magnitudes == threshold)
    below = magnitudes.size - np.count_nonzero(kept)
    kept[equal[: pruned - below]] = False
    return kept
