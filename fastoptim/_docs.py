"""What is the same in many docstrings, said once, and put into each of them.

In the source, the docstring of an optimizer class has what is the class's own: formula, own
hyperparameters, state, source, example. `complete` adds the entries that all classes share, so that
``help(fo.Adam)`` tells everything. `function_doc` makes the docstring of a function in
`fastoptim.functional` from that of the class that takes the same steps.

This module knows numpydoc's sections and entries; it knows no optimizer.
"""

from __future__ import annotations

import inspect
import re
from inspect import cleandoc

from ._rule import Rule

# The entries that a class has in its docstring, unless its own say otherwise.
SHARED = r"""
params : ndarray, sequence, mapping, or sequence of group mappings
    The arrays to update in place, float32 or float64; see `Optimizer`.
weight_decay : float, default 0
    :math:`\lambda \ge 0`; the rule sees :math:`g + \lambda p` for g.
maximize : bool, default False
    Maximise: the rule sees :math:`-g` for g.
**options
    What every optimizer takes: clipping, penalties, the backend; see `Optimizer`.
"""
RAISES = """\
TypeError, ValueError
    If an argument is not as described; the message names it, what was found and what was
    expected."""
ORDER = ("Parameters", "Attributes", "Raises", "See Also", "Notes", "References", "Examples")


def complete(cls: type) -> None:
    """Add to a class's docstring, in place, the entries and the section that all classes share."""
    if cls.__doc__ is None:  # Python leaves it out with -OO
        return
    own = sections(cls.__doc__)
    described = entries(SHARED.strip()) | entries(own.get("Parameters", ""))
    names = (
        "**options" if name == "options" else name for name in inspect.signature(cls).parameters
    )
    own["Parameters"] = "\n".join(described[name] for name in names if name in described)
    cls.__doc__ = joined({"Raises": RAISES} | own)


def function_doc(doc: str, rule: Rule, cls: type) -> str:
    """Return a docstring of a rule's function.

    Parameters
    ----------
    doc : str
        What the function itself says: its first line, and an example.
    rule : Rule
        The rule. Its signature says which arguments there are.
    cls : type
        The class with that rule. Its docstring has the formula and the source, and describes the
        hyperparameters; where it does not, that of a base class does.
    """
    own, source = sections(doc), sections(cls.__doc__ or "")
    formula = source[""].partition("\n")[2].strip()
    described: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        described |= entries(sections(base.__doc__ or "").get("Parameters", ""))
    parts = {
        "Parameters": "\n".join(_parameters(rule, cls.__name__, described)),
        "Raises": f"{RAISES} Then nothing has changed.",
        "See Also": f"fastoptim.{cls.__name__} : The class that takes the same steps.",
        "References": source.get("References", ""),
        "Examples": own["Examples"],
    }
    return joined({"": f"{own['']}\n\n{formula}", **parts})


def _parameters(rule: Rule, name: str, described: dict[str, str]) -> list[str]:
    """Return the entries of a function's arguments, in the order of the signature."""
    found = [
        "p : ndarray\n    The parameters, float32 or float64, dense (C or Fortran order). "
        "Updated in place.",
        "g : ndarray\n    The gradient, of p's dtype and shape, in any layout.",
    ]
    for state in rule.state:
        kind, what, start = "ndarray", "State", "Zeros"
        if state in rule.needs:
            kind, what = "ndarray, optional", f"With ``{rule.needs[state]}``, and only then: state"
        if state in rule.starts:
            start = f"Full of what ``{rule.starts[state]}`` of `{name}` is"
        found.append(
            f"{state} : {kind}\n    {what}, of p's dtype, shape and layout. {start} before the "
            "first step.\n    Updated in place."
        )
    if rule.needs_step:
        found.append("step : int\n    The number of the step, counted from 1.")
    else:
        found.append(
            "step : int, optional\n    The number of the step, counted from 1. Schedules need it, "
            "and so does a first\n    step that is not like the others."
        )
    hyper = [p.name for p in rule.__signature__.parameters.values() if p.kind is p.KEYWORD_ONLY]
    return found + [described[name] for name in hyper if name != "step"]


def sections(doc: str) -> dict[str, str]:
    """Return the parts of a numpydoc docstring by their titles; the first has none."""
    head, *rest = re.split(r"^(\w[\w ]*)\n-+\n", cleandoc(doc), flags=re.MULTILINE)
    texts = [text.strip() for text in rest[1::2]]
    return {"": head.strip(), **dict(zip(rest[::2], texts, strict=True))}


def joined(parts: dict[str, str]) -> str:
    """Return the docstring that has these parts: the inverse of `sections`, in numpydoc's order."""
    titles = sorted((title for title in parts if title and parts[title]), key=ORDER.index)
    texts = (f"{title}\n{'-' * len(title)}\n{parts[title]}" for title in titles)
    return "\n\n".join((parts[""], *texts))


def entries(section: str) -> dict[str, str]:
    """Return the entries of a section such as Parameters by the names that they describe."""
    found = {}
    for entry in re.split(r"\n(?=\S)", section):
        first = entry.partition("\n")[0]
        for name in first.partition(" : ")[0].split(", "):
            found[name] = entry
    return found
