"""fastoptim: optimizer steps on NumPy arrays, in one pass over memory, with the bits of NumPy."""

try:
    from . import threads as _threads  # first: it decides how the OpenMP runtime is loaded
except ModuleNotFoundError as error:
    if error.name != "fastoptim._engine":
        raise
    # With this package's name on it, `python -m fastoptim` prints the message alone.
    raise ImportError(
        f"fastoptim is not built in {__path__[0]}: run `python -m pip install -e .` there, or "
        "start Python in another folder to import the installed package",
        name=__name__,
    ) from None

from . import functional, optimizers, reference
from ._base import Optimizer, ParamGroup
from ._config import __version__, show_config
from .optimizers import *
from .threads import get_num_threads, set_num_threads

__all__ = [
    "Optimizer",
    "ParamGroup",
    "__version__",
    "functional",
    "get_num_threads",
    "reference",
    "set_num_threads",
    "show_config",
]
__all__ += optimizers.__all__
