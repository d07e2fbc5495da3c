"""Steps that the ranks of MPI share, through mpi4py."""

from __future__ import annotations

try:
    from ._sharded import Sharded
except ModuleNotFoundError as error:
    if error.name != "mpi4py":
        raise
    raise ImportError(
        'fastoptim.integrations.mpi needs mpi4py: python -m pip install "fastoptim[mpi]"',
        name=error.name,
    ) from error

__all__ = ["Sharded"]


def __dir__() -> list[str]:
    return __all__
