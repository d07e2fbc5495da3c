"""Rules that tests write: functions from their text, and texts that hypothesis draws."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import fastoptim as fo
from fastoptim.typing import NonNegative, Switch

_files = itertools.count()


def function_from(text: str, **names: Any) -> Callable[..., Any]:
    """Return the function of a text, whose source can be read as that of a notebook's cell can."""
    file = f"<written {next(_files)}>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    space: dict[str, Any] = {"fo": fo, "np": np, "__name__": "written", **names}
    exec(compile(text, file, "exec"), space)
    return next(value for value in space.values() if getattr(value, "__module__", "") == "written")


def numbers(
    step, lr: NonNegative = 0.25, rest: NonNegative = 0.75, far: NonNegative = 3.0,
    extra: Switch = True,
):  # fmt: skip
    """Return scalars of which one changes with the step, and one is a whole number."""
    return lr, rest, far / step, float(step % 2)


SCALARS = ("c0", "c1", "c2", "c3")
MOST_STATE = 4


@st.composite
def expressions(draw: Any, names: list[str], depth: int) -> tuple[str, bool]:
    """Draw an expression of some names, with whether it is a literal."""
    kinds = ["name"] * 3 + ["literal"] if depth == 0 else ["name", *"+-*/", *OTHERS]
    kind = draw(st.sampled_from(kinds))
    if kind == "name":
        return draw(st.sampled_from(names)), False
    if kind == "literal":
        return str(draw(st.sampled_from([-2, -1, 0, 1, 2, 3, 7, 16_777_215]))), True
    below = expressions(names, depth - 1)
    left = draw(below)
    if kind in OF_ONE:
        left = left if not left[1] else (draw(st.sampled_from(names)), False)
        return OF_ONE[kind].format(left[0]), False
    right = draw(below.filter(lambda found: not (found[1] and left[1])))
    if kind in "+-*/":
        return f"({left[0]} {kind} {right[0]})", False
    test = draw(comparisons(names, depth - 1))
    return f"fo.where({test}, {left[0]}, {right[0]})", False


def terms(names: list[str], depth: int) -> st.SearchStrategy[str]:
    """Draw an expression that is no literal, as names stand for."""
    return expressions(names, depth).filter(lambda found: not found[1]).map(lambda found: found[0])


OF_ONE = {"negated": "-({})", "sqrt": "fo.sqrt({})", "abs": "fo.abs({})"}
OTHERS = [*OF_ONE, "where"]


@st.composite
def comparisons(draw: Any, names: list[str], depth: int) -> str:
    """Draw a comparison of two expressions."""
    left = draw(expressions(names, depth))
    right = draw(expressions(names, depth).filter(lambda found: not (found[1] and left[1])))
    return f"{left[0]} {draw(st.sampled_from(['<', '<=', '>', '>=', '==', '!=']))} {right[0]}"


@st.composite
def texts(draw: Any) -> tuple[str, tuple[str, ...], bool]:
    """Draw a function's text, the names of its state, and whether the last may be missing."""
    state = tuple(f"s{k}" for k in range(draw(st.integers(0, MOST_STATE))))
    optional = bool(state) and draw(st.booleans())
    always = state[:-1] if optional else state
    lines = [f"def drawn(p, g, {', '.join((*state, *SCALARS))}):"]
    names = ["p", "g", *always, *SCALARS]
    for k in range(draw(st.integers(0, 3))):
        names.append(f"x{k}")
        value = draw(terms(names[:-1], 2))
        if draw(st.booleans()):
            other = draw(terms(names[:-1], 1))
            test = draw(comparisons([*SCALARS], 1))
            value = f"{value} if {test} else {other}"
        lines.append(f"    x{k} = {value}")
    if draw(st.booleans()):
        lines.append(f"    if {draw(comparisons([*SCALARS], 1))}:")
        lines.append(f"        p = {draw(terms(names, 1))}")
    if optional:
        new = [draw(expressions(names, 2))[0] for _ in range(1 + len(always))]
        lines.append(f"    if {state[-1]} is None:")
        lines.append(f"        return {', '.join([*new, 'None'])}")
        names.append(state[-1])
    new = [draw(expressions(names, 3))[0] for _ in range(1 + len(state))]
    lines.append(f"    return {', '.join(new)}")
    return "\n".join(lines) + "\n", state, optional


def rule_from(text: str, state: tuple[str, ...], optional: bool, **options: Any) -> Any:
    """Return the rule of a drawn text."""
    needs = {state[-1]: "extra"} if optional else None
    make = fo.rule(state=state, scalars=numbers, needs=needs, **options)
    return make(function_from(text))
