"""What this installation is: versions, compiler, instruction-set level, threads."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from . import _levels
from ._engine import machine, threads

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
        "level": _levels.active,
        "levels": " ".join(_levels.available()),
    }


def show_config() -> None:
    """Print versions, the compiler, the instruction-set level, OpenMP and the threads.

    OpenMP stands for the runtimes of it that other libraries have loaded, which are asked for their
    limits. The threads are the most that a step uses, followed by what limits them to that and by
    whose they are: fastoptim's own, shared with NumPy's BLAS, or OpenMP's, where the program has
    told those how to wait or where to run, or computes with PyTorch.

    Examples
    --------
    >>> import fastoptim as fo
    >>> fo.show_config()  # doctest: +ELLIPSIS
    fastoptim ...
    """
    for name, value in config().items():
        print(f"{name:10} {value}")
