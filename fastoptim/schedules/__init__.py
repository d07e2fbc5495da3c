r"""Schedules: the value of a hyperparameter at each step.

A schedule is a small immutable callable, ``schedule(t)`` is the value for step t, counted from 0.
It is computed from t alone, so the step counter is all the state that a schedule needs. Whatever
torch has too takes torch's name without ``LR``, torch's arguments after the base value, and gives
torch's values. A schedule fits any hyperparameter, not only a learning rate. What all of them
share, errors among it, is said in `Schedule`.

`ReduceLROnPlateau` is no schedule: what it does depends on a metric, and it has a state.

Design: where torch multiplies the value of the step before, here each formula stands in its closed
form. Whole numbers stay whole until the last division, so that a late step is as exact as an early
one.
"""

from __future__ import annotations

from inspect import get_annotations
from typing import Any

from ._composition import Sequential, WarmUp
from ._cyclic import CosineAnnealing, CosineAnnealingWarmRestarts, Cyclic, OneCycle
from ._decay import (
    Constant,
    Exponential,
    InverseSqrt,
    InverseTimeDecay,
    Linear,
    MultiStep,
    Polynomial,
    Step,
)
from ._plateau import ReduceLROnPlateau
from ._plot import plot
from ._schedule import Schedule

__all__ = [
    "Constant",
    "CosineAnnealing",
    "CosineAnnealingWarmRestarts",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "InverseTimeDecay",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "ReduceLROnPlateau",
    "Schedule",
    "Sequential",
    "Step",
    "WarmUp",
    "plot",
]


def __dir__() -> list[str]:
    return __all__


def _name_after_this_package(public: Any) -> None:
    """Let a class or function say that it lives here, and not in which of the files.

    A pickle names where a class lives. So it loads also after the class has moved to another file,
    and in versions in which this package was one module.
    """
    if isinstance(public, type):
        # Annotations are text, in names of the file: they are read before the class leaves it.
        public.__annotations__ = get_annotations(public, eval_str=True)
    public.__module__ = __name__


for _name in __all__:
    _name_after_this_package(globals()[_name])
