"""Which of the compiled kernels to use: the highest instruction-set level that this CPU runs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ._engine import threads
from ._kinds import environment

Kernels = dict[str, dict[int, Any]]

PRECISIONS = (32, 64)


# Each module is named in a statement, where tools that gather the imports of a program, such as
# PyInstaller, see it. It runs only if the CPU does: its first instruction may be of the level.
def _base() -> tuple[Any, Any]:
    from . import _kernels_base_f32, _kernels_base_f64  # type: ignore[attr-defined]

    return _kernels_base_f32, _kernels_base_f64


def _v3() -> tuple[Any, Any]:
    from . import _kernels_v3_f32, _kernels_v3_f64  # type: ignore[attr-defined]

    return _kernels_v3_f32, _kernels_v3_f64


MODULES = {"base": _base, "v3": _v3}


def available() -> list[str]:
    """Return the levels that were built and that this CPU runs, lowest first."""
    return [name for name in MODULES if threads.cpu_supports(name) and _is_built(name)]


def _is_built(name: str) -> bool:
    return all(find_spec(f"fastoptim._kernels_{name}_f{bits}") for bits in PRECISIONS)


def load(name: str) -> Kernels:
    """Return the loops of a level, rules and stages, for elements of 4 and of 8 bytes."""
    single, double = (module.KERNELS | module.STAGES for module in MODULES[name]())
    return {loop: {4: single[loop], 8: double[loop]} for loop in single}


def loops(rule: str | None) -> dict[str, dict[int, Any]] | None:
    """Return what the engine runs for a rule at the level in use, None for one without a loop."""
    if rule is None:
        return None
    return {"rule": kernels[rule], "after": kernels["after"], "squares": kernels["squares"]}


def choose() -> str:
    """Return the level that FASTOPTIM_ISA asks for, else the highest."""
    found = available()
    if not found:
        raise ImportError(
            "fastoptim: expected compiled loops (the modules fastoptim._kernels_*), found none: "
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
kernels = load(active)
