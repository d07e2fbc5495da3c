"""Which of the compiled kernels to use: the highest instruction-set level that this CPU runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from . import _engine

Kernels = dict[str, dict[int, Any]]

NAMES = ("base", "v3")


def available() -> list[str]:
    """Return the levels that were built and that this CPU runs, lowest first."""
    return [name for name in NAMES if _engine.cpu_supports(name) and _is_built(name)]


def _is_built(name: str) -> bool:
    return importlib.util.find_spec(f"fastoptim._kernels_{name}_f32") is not None


def load(name: str) -> Kernels:
    """Return the loops of a level, rules and stages, for elements of 4 and of 8 bytes."""
    modules = (importlib.import_module(f"fastoptim._kernels_{name}_f{bits}") for bits in (32, 64))
    single, double = (module.KERNELS | module.STAGES for module in modules)
    return {loop: {4: single[loop], 8: double[loop]} for loop in single}


def loops(rule: str | None) -> dict[str, dict[int, Any]] | None:
    """Return what the engine runs for a rule at the level in use, None for one without a loop."""
    if rule is None:
        return None
    return {"rule": kernels[rule], "after": kernels["after"], "squares": kernels["squares"]}


def choose() -> str:
    """Return the level that FASTOPTIM_ISA asks for, else the highest."""
    found = available()
    level = os.environ.get("FASTOPTIM_ISA", found[-1])
    if level not in found:
        raise ImportError(
            f"FASTOPTIM_ISA: expected a level that was built and that this CPU runs "
            f"({', '.join(found)}), found {level!r}"
        )
    return level


active = choose()
kernels = load(active)
