"""The compiled rules as in-place functions, for programs that keep their own state.

There is one function for each rule of `fastoptim.reference`, with the same signature:
``functional.adam(p, g, m, v, v_max=None, *, step, lr=0.001, betas=(0.9, 0.999), ...)`` takes the
step-th step (counted from 1), updating p and the state arrays in place, and raises what the
optimizer classes raise, before anything has changed. The arrays are float32 or float64, all of
one dtype, shape and dense layout; g may have any layout.

>>> import numpy as np
>>> from fastoptim import functional
>>> p, g = np.ones(3), np.array([1.0, -2.0, 0.0])
>>> m, v = np.zeros(3), np.zeros(3)
>>> functional.adam(p, g, m, v, step=1, lr=0.1)
>>> p
array([0.9, 1.1, 1. ])
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from . import _levels, reference
from ._rule import Rule

RULES = {name: rule for name, rule in vars(reference).items() if isinstance(rule, Rule)}


def __dir__() -> list[str]:
    return sorted(RULES)


def __getattr__(name: str) -> Callable[..., None]:
    if name not in RULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    rule = RULES[name]

    def function(*args: Any, **kwargs: Any) -> None:
        rule.apply(_levels.loops(rule.kernel), *args, **kwargs)

    update_wrapper(function, rule)
    return function
