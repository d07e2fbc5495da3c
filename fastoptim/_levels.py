"""Levels: which compiled loops to run, by default those of the highest level that the CPU runs.

There is a module of loops for each instruction-set level and each of float and double. All are
compiled from one source.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from ._engine.machine import cpu_supports
from ._kinds import environment

PRECISIONS = (32, 64)


class Loops(NamedTuple):
    """The compiled loops that a step with a rule takes in one type, as capsules."""

    rule: Any  # None where there is nothing but the stages
    after: Any
    clip: Any
    squares: Any


# By the type that they compute in.
LoopsByType = Mapping["np.dtype[Any]", Loops]


# Each module is named in a statement, where tools that gather the imports of a program, such as
# PyInstaller, see it. The statement runs only where the CPU supports the level: to import a module
# may take instructions of its level.
def _base() -> tuple[Any, Any]:
    from . import _loops_base_f32, _loops_base_f64  # type: ignore[attr-defined]

    return _loops_base_f32, _loops_base_f64


def _v3() -> tuple[Any, Any]:
    from . import _loops_v3_f32, _loops_v3_f64  # type: ignore[attr-defined]

    return _loops_v3_f32, _loops_v3_f64


MODULES = {"base": _base, "v3": _v3}


def available() -> list[str]:
    """Return the levels that were built and that this CPU runs, lowest first."""
    return [name for name in MODULES if cpu_supports(name) and _is_built(name)]


def _is_built(name: str) -> bool:
    return all(find_spec(f"fastoptim._loops_{name}_f{bits}") for bits in PRECISIONS)


def load(name: str) -> dict[str | None, LoopsByType]:
    """Return the loops of a level by the name of the rule's loop; None has the stages alone."""
    single, double = MODULES[name]()
    by_type: dict[np.dtype[Any], Any] = {np.dtype("f4"): single, np.dtype("f8"): double}
    return {
        rule: {t: Loops(m.LOOPS.get(rule), **m.STAGES) for t, m in by_type.items()}
        for rule in (None, *single.LOOPS)
    }


def choose() -> str:
    """Return the level that FASTOPTIM_ISA asks for, else the highest."""
    found = available()
    if not found:
        raise ImportError(
            "fastoptim: expected compiled loops (the modules fastoptim._loops_*), found none: "
            "install it anew, or name these modules to the tool that has packed this program"
        )
    level = environment("FASTOPTIM_ISA") or found[-1]
    if level not in found:
        raise ImportError(
            f"FASTOPTIM_ISA: expected a level that was built and that this CPU runs "
            f"({', '.join(found)}), found {level!r}"
        )
    return level


active = choose()
loops = load(active)
