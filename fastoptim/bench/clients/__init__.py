"""Trainings with other libraries: with the library's own update, and with that of fastoptim.

Each module here has the name under which its library is imported, and a function ``clients(quick)``
that yields the trainings to compare; ``quick`` asks for few and small ones. Nothing of a library is
imported before that function runs.
"""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastoptim.bench.contenders import WrongResultError, one_line
from fastoptim.bench.rivals import UnavailableError, needed

# The workers of a BLAS spin for some 0.1 s after a product, those of other libraries for less.
# They would take a core from whoever trains next.
PAUSE = 0.2
ROUNDS = 5
LONGEST_MODEL = 36  # characters of a model's name, for tables of 80 columns

Run = Callable[[], tuple[float, NDArray[Any]]]


class Client(NamedTuple):
    """A training with the library's own update, and the same with fastoptim's.

    Parameters
    ----------
    library : str
        Whose program it is.
    model : str
        What is trained, in `LONGEST_MODEL` characters at the most.
    before, after : function
        Train from the start, with the library's own update and with fastoptim's; return the seconds
        of what is measured, and the result, such as the losses or the final weights.
    tolerance : float
        The largest difference of the results, as a share of their largest value, up to which they
        count as the same.
    """

    library: str
    model: str
    before: Run
    after: Run
    tolerance: float

    def __str__(self) -> str:
        return f"{self.library}, {self.model}"


@dataclass(frozen=True)
class ClientResult:
    """The seconds of both trainings in each round, and how far their results lie apart."""

    client: Client
    before: list[float]
    after: list[float]
    difference: float

    @property
    def ratio(self) -> float:
        """How many times as long the training takes without fastoptim."""
        return median(b / a for b, a in zip(self.before, self.after, strict=True))

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        return {
            "library": self.client.library,
            "model": self.client.model,
            "rounds": len(self.before),
            "seconds_before": median(self.before),
            "seconds_after": median(self.after),
            "ratio": self.ratio,
            "difference": self.difference,
            "tolerance": self.client.tolerance,
        }


class Programs(NamedTuple):
    """The trainings of all libraries that are here, and why those of others are not."""

    clients: list[Client]
    absent: dict[str, str]
    failed: dict[str, str]  # they are installed, but cannot be imported


def find(quick: bool) -> Programs:
    """Return the trainings to measure."""
    found = Programs([], {}, {})
    for module in pkgutil.iter_modules(__path__):
        try:
            needed(module.name)
            found.clients.extend(import_module(f"{__name__}.{module.name}").clients(quick))
        except UnavailableError as why:
            found.absent[module.name] = str(why)
        except Exception as error:  # whatever another library may raise
            found.failed[module.name] = one_line(error)
    return found


def measure(client: Client, rounds: int) -> ClientResult:
    """Compare the results of both trainings, then let the two take turns.

    Parameters
    ----------
    client : Client
        The training.
    rounds : int
        How often each is timed, after the run that is checked.

    Returns
    -------
    ClientResult
        The times and the difference.

    Raises
    ------
    WrongResultError
        If the results differ by more than the tolerance; then nothing is timed.
    """
    (_, expected), (_, found) = client.before(), client.after()
    difference = _difference(expected, found)
    if not difference <= client.tolerance:  # a NaN is none either
        raise WrongResultError(
            f"wrong result: expected one within {client.tolerance:.0e} of the library's own, found "
            f"a difference of {difference:.1e}"
        )
    before: list[float] = []
    after: list[float] = []
    for _ in range(rounds):
        for run, seconds in ((client.before, before), (client.after, after)):
            time.sleep(PAUSE)
            seconds.append(run()[0])
    return ClientResult(client, before, after, difference)


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the largest difference as a share of the largest value."""
    if expected.shape != found.shape:
        return np.inf
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    return float(np.abs(found - expected).max(initial=0)) / scale
