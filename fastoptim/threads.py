"""How many threads a step may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["get_num_threads", "set_num_threads"]


@contextmanager
def _workers_that_do_not_spin() -> Iterator[None]:
    """Let the OpenMP runtime that is loaded meanwhile put its idle workers to sleep at once.

    By default libgomp's workers spin after a parallel region, and take the cores from the BLAS
    that computes the next product: training with a step 20 times as fast was then slower than
    without. The runtime reads the variable when it is loaded; afterwards the environment is as it
    was. What the user has set wins.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


with _workers_that_do_not_spin():
    from . import _engine

from ._kinds import Count, checked  # noqa: E402


def set_num_threads(n: int | None) -> None:
    """Set the most threads that a step uses.

    Parameters
    ----------
    n : int or None
        At least 1 (small steps use fewer), or None for what it was when fastoptim was imported.

    Raises
    ------
    TypeError, ValueError
        If n is not a whole number >= 1.

    Examples
    --------
    >>> import fastoptim as fo
    >>> fo.set_num_threads(1)
    >>> fo.get_num_threads()
    1
    >>> fo.set_num_threads(None)
    """
    _engine.set_limit(_default if n is None else checked("n", Count(1), n))


def get_num_threads() -> int:
    """Return the most threads that a step uses.

    That is what `set_num_threads` was given; else the environment variable
    FASTOPTIM_NUM_THREADS; else what the OpenMP runtime allows at this moment (OMP_NUM_THREADS,
    threadpoolctl, the CPUs of this process). It is 1 in a child of ``fork()``, inside another
    parallel region, and in a build without OpenMP.
    """
    return _engine.get_limit()


def _threads_of_environment() -> int:
    value = os.environ.get("FASTOPTIM_NUM_THREADS")
    if value is None:
        return 0  # the engine then asks the OpenMP runtime
    number = int(value) if value.isdecimal() else value
    return int(checked("FASTOPTIM_NUM_THREADS", Count(1), number))


_default = _threads_of_environment()
set_num_threads(None)
