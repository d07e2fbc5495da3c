"""Row-sparse gradients: numbers of rows, and the gradient of each.

What they mean to a parameter, and whether they fit it, is found out in the step. Here is only what
holds of any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._kinds import shown


class Rows:
    r"""A gradient that has only some rows of its parameter; all others are zero.

    It is that of an embedding table, of which a batch touches few rows. A row is all that the
    parameter has under one index of its first axis: an element, if that is its only axis. Rows that
    are given several times are added up, in the order in which they are given: the gradient is what

    ::

        g = np.zeros_like(p)
        np.add.at(g, indices, values)

    makes, bit for bit, but nothing of the size of p is ever made.

    `step` takes it in the place of an array where a step of the rule leaves rows without a gradient
    as they are, or where ``lazy=True`` says that they are to be left out; see ``docs/rows.md``.

    Parameters
    ----------
    indices : array of int, shape (k,)
        The numbers of the rows, 0 or more, in any order and any integer type.
    values : ndarray, shape (k, ...)
        The gradients of these rows, each in the shape that a row of the parameter has, of the types
        that a gradient of an array may have.

    Attributes
    ----------
    indices, values : ndarray
        As they were given. Neither is copied before the step.

    Raises
    ------
    TypeError, ValueError
        If the indices are no integers, or their number is not that of the values.

    Notes
    -----
    The indices are copied as the step begins, and then checked. The parameter must be in C order.

    Rows that are not there stay as they are to the last bit, where a dense step may change -0.0 to
    0.0 in them (with ``maximize``), a denormal number to 0 (with ``flush_denormals``), or all of
    them to NaN (if a norm that clips is NaN).

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> table = np.ones((5, 2))
    >>> opt = fo.SGD(table, lr=0.5)
    >>> opt.step(fo.Rows(np.array([3, 1, 3]), np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])))
    >>> table
    array([[1. , 1. ],
           [0.5, 0.5],
           [1. , 1. ],
           [0. , 1. ],
           [1. , 1. ]])
    """

    __slots__ = ("indices", "values")

    def __init__(self, indices: Any, values: Any) -> None:
        if not (
            type(indices) is type(values) is np.ndarray
            and indices.ndim == 1
            and indices.dtype.kind in "iu"
            and values.shape[:1] == indices.shape
        ):  # to look closer takes longer
            indices, values = checked_rows("", indices, values)
        self.indices, self.values = indices, values

    def __repr__(self) -> str:
        return f"Rows({len(self.indices)} rows of shape {self.values.shape[1:]})"

    @classmethod
    def from_csr(cls, matrix: Any) -> Rows:
        """Return the rows in which a sparse matrix of SciPy stores anything.

        It is the gradient of a parameter of the matrix's shape, or of one with a single axis where
        the matrix has a single column, as that of a linear model has.

        Parameters
        ----------
        matrix : scipy.sparse matrix or array in CSR or CSC format
            What is stored several times for one element is added up.

        Returns
        -------
        Rows
            With each row once, and the values of the whole row.

        Raises
        ------
        TypeError, ValueError
            If it is in another format, or what it stores is not within its shape.

        Examples
        --------
        >>> import numpy as np
        >>> import fastoptim as fo
        >>> from scipy.sparse import csr_array  # doctest: +SKIP
        >>> matrix = csr_array(np.array([[0.0, 0.0], [0.0, 2.0], [1.0, 0.0]]))  # doctest: +SKIP
        >>> rows = fo.Rows.from_csr(matrix)  # doctest: +SKIP
        >>> rows.indices, rows.values  # doctest: +SKIP
        (array([1, 2]), array([[0., 2.],
               [1., 0.]]))
        """
        kind = getattr(matrix, "format", None)
        if kind not in ("csr", "csc") or len(matrix.shape) != 2:
            found = type(matrix).__name__ if kind is None else f"one in {kind} format"
            raise TypeError(
                f"matrix: expected a scipy.sparse matrix in CSR or CSC format, found {found}: "
                "write matrix.tocsr()"
            )
        outer, inner = matrix.shape if kind == "csr" else matrix.shape[::-1]
        counts = np.diff(matrix.indptr)
        data, across = matrix.data, matrix.indices
        if (
            len(counts) != outer
            or (counts < 0).any()
            or not len(data) == len(across) >= sum(counts)
        ):
            raise ValueError(f"matrix: expected {outer} counts of what it stores, found others")
        along = np.repeat(np.arange(outer), counts)
        data, across = data[: len(along)], across[: len(along)]
        if len(across) and not 0 <= across.min() <= across.max() < inner:
            raise ValueError(f"matrix: expected indices from 0 to {inner - 1}, found others")
        rows, columns = (along, across) if kind == "csr" else (across, along)
        numbers, places = np.unique(rows, return_inverse=True)
        values = np.zeros((len(numbers), matrix.shape[1]), data.dtype)
        np.add.at(values, (places, columns), data)
        return cls(numbers, values)


def checked_rows(label: str, indices: Any, values: Any) -> tuple[Any, Any]:
    """Return arrays of numbers of rows and of what is in them, if they can be that.

    In messages the label comes before the names of the two.
    """
    first, second = (f"{label}.{name}" if label else name for name in ("indices", "values"))
    for name, given in ((first, indices), (second, values)):
        if isinstance(given, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a NumPy array, found a masked one")
    indices = _as_integers(first, indices)
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{second}: expected a NumPy array, found {type(values).__name__}")
    if values.ndim == 0 or len(values) != len(indices):
        raise ValueError(
            f"{second}: expected a row for each of {len(indices)} indices, "
            f"found shape {values.shape}"
        )
    return indices, values


def _as_integers(label: str, indices: Any) -> Any:
    """Return an array of integers with one axis, or raise."""
    if isinstance(indices, (list, tuple)):
        indices = np.asarray(indices) if len(indices) else np.empty(0, np.intp)
    if not isinstance(indices, np.ndarray):
        raise TypeError(f"{label}: expected an array of integers, found {shown(indices)}")
    if indices.dtype.kind not in "iu":
        instead = {
            "f": ": write indices.astype(np.int64)",
            "b": ": write np.flatnonzero(mask)",
        }.get(indices.dtype.kind, "")
        raise TypeError(f"{label}: expected an array of integers, found {indices.dtype}{instead}")
    if indices.ndim != 1:
        raise ValueError(
            f"{label}: expected one axis, found shape {indices.shape}: write indices.reshape(-1), "
            "and give the values as many rows"
        )
    return indices
