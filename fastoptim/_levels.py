"""Levels: which compiled loops steps may use: of all levels that the CPU runs, or of one.

There is a module of loops for each instruction-set level and each of float and double. All are
compiled from one source. The engine finds out which level is the fastest; without that
(FASTOPTIM_TUNING=off), it is the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np

from ._engine.compiled import RuleLoops
from ._engine.machine import cpu_supports
from ._engine.tuning import is_tuning, set_tuning
from ._kinds import environment

PRECISIONS: dict[int, np.dtype[Any]] = {32: np.dtype("f4"), 64: np.dtype("f8")}


class Loops(NamedTuple):
    """The compiled loops that a step with a rule takes in one type, as capsules or addresses."""

    rule: Any  # None where there is nothing but the stages
    before: Any
    after: Any
    clip: Any
    squares: Any
    is_open: bool = False  # whether the rule's loop is one of the user's, which knows no stage


class OpenLoop(Protocol):
    """The loop of a rule of the user's own, as the engine's file ``fastoptim.h`` declares it."""

    name: str

    def address(self, level: str, real: str) -> int:
        """Return the address of the loop at a level, for a type that is named as NumPy does."""


# Each module is named in a statement, where tools that gather the imports of a program, such as
# PyInstaller, see it. The statement runs only where the CPU supports the level: to import a module
# may take instructions of its level.
def _base() -> tuple[Any, Any]:
    from . import _loops_base_f32, _loops_base_f64  # type: ignore[attr-defined]

    return _loops_base_f32, _loops_base_f64


def _v3() -> tuple[Any, Any]:
    from . import _loops_v3_f32, _loops_v3_f64  # type: ignore[attr-defined]

    return _loops_v3_f32, _loops_v3_f64


def _v4() -> tuple[Any, Any]:
    from . import _loops_v4_f32, _loops_v4_f64  # type: ignore[attr-defined]

    return _loops_v4_f32, _loops_v4_f64


def _sve() -> tuple[Any, Any]:
    from . import _loops_sve_f32, _loops_sve_f64  # type: ignore[attr-defined]

    return _loops_sve_f32, _loops_sve_f64


# Those of one processor after the other; a CPU runs levels of its own kind alone.
MODULES = {"base": _base, "v3": _v3, "v4": _v4, "sve": _sve}


def available() -> list[str]:
    """Return the levels that were built and that this CPU runs, lowest first."""
    return [name for name in MODULES if cpu_supports(name) and _is_built(name)]


def _is_built(name: str) -> bool:
    return all(find_spec(f"fastoptim._loops_{name}_f{bits}") for bits in PRECISIONS)


def load(*levels: str) -> dict[str | OpenLoop | None, RuleLoops]:
    """Return the loops of some levels, lowest first, by the name of the rule's loop.

    None has the stages alone.
    """
    modules = {level: MODULES[level]() for level in levels}
    rules = (None, *modules[levels[0]][0].LOOPS)
    return {
        rule: RuleLoops(
            rule,
            {
                level: [
                    {
                        real: Loops(module.LOOPS.get(rule), **module.STAGES)
                        for real, module in zip(PRECISIONS.values(), of_level, strict=True)
                    }
                ]
                for level, of_level in modules.items()
            },
        )
        for rule in rules
    }


def loops_of(rules: Sequence[str | OpenLoop]) -> RuleLoops:
    """Return the loops of some rules, in this order, by their names or what has their addresses."""
    if len(rules) == 1:
        return loops_of_one(rules[0])
    found = [loops_of_one(rule) for rule in rules]
    names = " + ".join(str(one.rule) for one in found)
    return RuleLoops(names, {n: [of.levels[n][0] for of in found] for n in found[0].levels})


def loops_of_one(rule: str | OpenLoop) -> RuleLoops:
    """Return the loops of a rule, by their name or what has their addresses."""
    found = loops.get(rule)
    if found is None:
        assert not isinstance(rule, str), f"no loop is called {rule}"
        found = loops[rule] = _opened(rule)
    return found


def _opened(rule: OpenLoop) -> RuleLoops:
    """Return the loops of a rule of the user's own, with the stages around every rule."""
    levels: dict[str, list[Any]] = {
        level: [
            {
                real: found._replace(rule=rule.address(level, real.name), is_open=True)
                for real, found in stages.items()
            }
        ]
        for level, (stages,) in loops[None].levels.items()
    }
    return RuleLoops(rule.name, levels)


def choose() -> list[str]:
    """Return the levels that steps may use: the one that FASTOPTIM_ISA asks for, else all."""
    found = available()
    if not found:
        raise ImportError(
            "fastoptim: expected compiled loops (the modules fastoptim._loops_*), found none: "
            "install it anew, or name these modules to the tool that has packed this program"
        )
    level = environment("FASTOPTIM_ISA")
    if level is None:
        return found if is_tuning() else found[-1:]
    if level not in found:
        raise ImportError(
            f"FASTOPTIM_ISA: expected a level that was built and that this CPU runs "
            f"({', '.join(found)}), found {level!r}"
        )
    return [level]


def _tuning_wanted() -> bool:
    """Tell whether FASTOPTIM_TUNING leaves the choice of level and threads to the engine."""
    value = environment("FASTOPTIM_TUNING") or "on"
    if value.lower() not in ("on", "off"):
        raise ImportError(f"FASTOPTIM_TUNING: expected 'on' or 'off', found {value!r}")
    return value.lower() == "on"


set_tuning(_tuning_wanted())
active = choose()
loops = load(*active)
