"""The directive ``rules``: one table of all rules, made from the rules and their classes."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import fastoptim as fo
from fastoptim._docs import sections
from fastoptim._kinds import Choice, Flag
from fastoptim._rule import Rule

HEADS = ("rule, decay, choices", "formula", "state")


def classes() -> list[type[fo.Optimizer]]:
    """Return the classes in the order of their source, which is that of increasing complexity."""
    found = [getattr(fo, name) for name in fo.optimizers.__all__]
    return sorted(found, key=[*vars(fo.optimizers).values()].index)


def formulas(cls: type[fo.Optimizer]) -> list[str]:
    """Return the formulas in the docstring of a class, in TeX."""
    _, *parts = sections(cls.__doc__ or "")[""].split(".. math::\n\n")
    return [
        "\n".join(line for line in part.split("\n\n")[0].splitlines()).strip() for part in parts
    ]


def state(cls: type[fo.Optimizer]) -> list[str]:
    """Return the names of the state arrays, those that need not exist, and the bytes of both."""
    rule = cls.rule
    optional = {n: rule.needs[n] for n in rule.state if not is_there(rule, n)}
    always = [n for n in rule.state if n not in optional]
    lines = [f"state: {', '.join(always) or 'none'}"]
    lines += [f"with {flag}: {name}" for name, flag in optional.items()]
    least, most = 4 * len(always), 4 * len(rule.state)
    return [*lines, f"{least} bytes" if least == most else f"{least} to {most} bytes"]


def is_there(rule: Rule, name: str) -> bool:
    """Return whether a state array exists by default."""
    return name not in rule.needs or bool(rule.defaults[rule.needs[name]])


def decay(cls: type[fo.Optimizer]) -> str:
    """Return how weights decay: by default, and otherwise where one may choose."""
    forms = ["decay: L2", "decoupled"]
    if cls.rule.decouples(cls.rule.defaults):
        forms = ["decay: decoupled", "L2"]
    return " or ".join(forms) if isinstance(cls.rule.decoupled, str) else forms[0]


def choices(cls: type[fo.Optimizer]) -> list[str]:
    """Return the flags and words among the rule's own hyperparameters, and its own average."""
    kinds = cls.rule.kinds
    apart = ("maximize", cls.rule.decoupled)  # every rule's, and what `decay` says
    own = [n for n in cls.rule.own if n not in apart and isinstance(kinds[n], Flag | Choice)]
    return own + ["use_average()"] * bool(cls.rule.average)


class Rules(SphinxDirective):
    """The table."""

    def run(self) -> list[nodes.Node]:
        for module in (fo.optimizers, fo.reference):
            self.env.note_dependency(str(module.__file__))
        table = nodes.table(classes=["rules"])
        group = nodes.tgroup(cols=len(HEADS))
        group += [nodes.colspec(colwidth=1) for _ in HEADS]
        group += nodes.thead("", row([[nodes.paragraph("", head)] for head in HEADS]))
        group += nodes.tbody("", *(self.rule(cls) for cls in classes()))
        table += group
        return [table]

    def rule(self, cls: type[fo.Optimizer]) -> nodes.row:
        """Return the row of a class."""
        name = nodes.paragraph("", "", nodes.literal("", f"fo.{cls.__name__}"))
        said = [nodes.paragraph("", line) for line in (decay(cls), *choices(cls))]
        tex = [nodes.math_block(tex, tex, number=None) for tex in formulas(cls)]
        return row([[name, *said], tex, [nodes.paragraph("", line) for line in state(cls)]])


def row(cells: list[list[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("rules", Rules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
