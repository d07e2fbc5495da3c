"""Docstrings of functions, made of those of the classes that take the same steps."""

from __future__ import annotations

import re
from inspect import cleandoc

from ._rule import Rule

REFUSED = """\
TypeError, ValueError
    If an argument is not as described; the message names it, what was found and what was
    expected. Then nothing has changed."""


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
        "Raises": REFUSED,
        "See Also": f"fastoptim.{cls.__name__} : The class that takes the same steps.",
        "References": source.get("References", ""),
        "Examples": own["Examples"],
    }
    texts = (f"{title}\n{'-' * len(title)}\n{text}" for title, text in parts.items() if text)
    return "\n\n".join((own[""], formula, *texts))


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
    found.append("step : int\n    The number of the step, counted from 1.")
    hyper = [p.name for p in rule.__signature__.parameters.values() if p.kind is p.KEYWORD_ONLY]
    return found + [described[name] for name in hyper if name != "step"]


def sections(doc: str) -> dict[str, str]:
    """Return the parts of a numpydoc docstring by their titles; the first has none."""
    head, *rest = re.split(r"^(\w[\w ]*)\n-+\n", cleandoc(doc), flags=re.MULTILINE)
    texts = [text.strip() for text in rest[1::2]]
    return {"": head.strip(), **dict(zip(rest[::2], texts, strict=True))}


def entries(section: str) -> dict[str, str]:
    """Return the entries of a section such as Parameters by the names that they describe."""
    found = {}
    for entry in re.split(r"\n(?=\S)", section):
        for name in entry.partition(" : ")[0].split(", "):
            found[name] = entry
    return found
