"""What this installation is: versions, compiler, instruction-set levels, threads."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from . import _levels
from ._engine import machine, threads, tuning

__version__ = version("fastoptim")


def config() -> dict[str, Any]:
    """Return what `show_config` prints."""
    limit, reason = threads.explain_limit()
    return {
        "fastoptim": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "compiler": machine.compiler,
        "OpenMP": " ".join(threads.openmp_runtimes()) or "none",
        "threads": limit,
        "limited by": reason,
        "workers": threads.workers(),
        "levels": " ".join(_levels.active),
        "built": " ".join(_levels.available()),
        "tuning": "on" if tuning.is_tuning() else "off",
    }


def chosen() -> list[str]:
    """Return what was found to be the fastest way of each kind of work, in words."""
    return [
        f"{_levels.active[level]} on {threads} thread{'s'[: threads > 1]}: {choice.name}, "
        f"{choice.least / 1e6:.3g} MB and more"
        for choice in tuning.chosen()
        for level, threads in [choice.way]
    ]


def show_config() -> None:
    """Print versions, the compiler, OpenMP, the threads, and what the engine has found out.

    OpenMP stands for the runtimes of it that other libraries have loaded, which are asked for their
    limits. The threads are the most that a step uses, followed by what limits them to that and by
    whose they are: fastoptim's own, shared with NumPy's BLAS, or OpenMP's, where the program has
    told those how to wait or where to run, or computes with PyTorch.

    The levels are the sets of instructions that steps may use: of those that were built and that
    this CPU runs all, or the one that FASTOPTIM_ISA names. With tuning on, steps are timed, and the
    last lines say which level and how many threads have proved the fastest so far: for each pass of
    each rule, by the type and the layout of the arrays, and by the bytes that it moves.

    Examples
    --------
    >>> import fastoptim as fo
    >>> fo.show_config()  # doctest: +ELLIPSIS
    fastoptim ...
    """
    lines = [*config().items(), *(("chosen", words) for words in chosen())]
    for name, value in lines:
        print(f"{name:10} {value}")
