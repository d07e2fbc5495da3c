"""fastoptim: optimizer steps on NumPy arrays, in one pass over memory, with the bits of NumPy."""

from importlib.machinery import PathFinder as _PathFinder

# Whether one of the compiled modules is there, found without the import of those beside it.
if _PathFinder.find_spec("fastoptim._engine.machine", [f"{__path__[0]}/_engine"]) is None:
    # Named after this package, so that `python -m fastoptim` prints the message alone.
    raise ImportError(
        f"fastoptim is not built in {__path__[0]}: run `python -m pip install -e .` there, "
        "or start Python in another folder to use the installed package",
        name=__name__,
    )

from . import (
    functional,
    gradients,
    init,
    optimizers,
    prune,
    reference,
    rules,
    schedules,
    threads,
    typing,
)
from ._config import __version__, show_config
from ._groups import ParamGroup
from ._optimizer import Optimizer
from ._rows import Rows
from .blas import share_blas_threads
from .gradients import all_finite, clip_grad_norm_, clip_grad_value_, global_norm
from .mixed import Mixed
from .optimizers import *
from .rules import abs as abs
from .rules import get_include, optimizer, rule, sqrt, where
from .threads import get_num_threads, num_threads, set_num_threads

__all__ = [
    "Mixed",
    "Optimizer",
    "ParamGroup",
    "Rows",
    "__version__",
    "all_finite",
    "clip_grad_norm_",
    "clip_grad_value_",
    "functional",
    "get_include",
    "get_num_threads",
    "global_norm",
    "gradients",
    "init",
    "num_threads",
    "optimizer",
    "optimizers",
    "prune",
    "reference",
    "rule",
    "rules",
    "schedules",
    "set_num_threads",
    "share_blas_threads",
    "show_config",
    "sqrt",
    "threads",
    "typing",
    "where",
]
__all__ += optimizers.__all__


def __dir__() -> list[str]:
    return [*__all__, "abs"]  # which a star import would put into the place of Python's own
