"""The directive ``rules``: one table of all rules, made from the rules and their classes."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import fastoptim as fo
from fastoptim._docs import sections
from fastoptim._kinds import Flag, Kind

HEADS = ("rule", "formula", "state", "bytes", "weight decay", "choices")


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


def state(cls: type[fo.Optimizer]) -> str:
    """Return the names of the state arrays, with what those depend on that need not exist."""
    needs = cls.rule.needs
    names = [f"{n} (with {needs[n]})" if n in needs else n for n in cls.rule.state]
    return ", ".join(names) or "none"


def bytes_each(cls: type[fo.Optimizer]) -> str:
    """Return the bytes of state for each parameter in float32, by default and at most."""
    least = 4 * sum(
        n not in cls.rule.needs or bool(cls.rule.defaults[cls.rule.needs[n]])
        for n in cls.rule.state
    )
    most = 4 * len(cls.rule.state)
    return str(least) if least == most else f"{least} to {most}"


def decay(cls: type[fo.Optimizer]) -> str:
    """Return whether weight decay is a penalty or shrinks the parameter, and whether one chooses."""
    default = "decoupled" if cls.rule.decouples(cls.rule.defaults) else "L2"
    return f"{default}, or the other" if isinstance(cls.rule.decoupled, str) else default


def choices(cls: type[fo.Optimizer]) -> str:
    """Return the flags and words among the rule's own hyperparameters."""
    kinds: dict[str, Kind] = cls.rule.kinds
    own = [n for n in cls.rule.own if n != "maximize" and is_choice(kinds[n])]
    if cls.rule.average:
        own.append("use_average()")
    return ", ".join(own)


def is_choice(kind: Kind) -> bool:
    return isinstance(kind, Flag) or type(kind).__name__ == "Choice"


class Rules(SphinxDirective):
    """The table."""

    def run(self) -> list[nodes.Node]:
        table = nodes.table(classes=["rules"])
        group = nodes.tgroup(cols=len(HEADS))
        group += [nodes.colspec(colwidth=1) for _ in HEADS]
        group += nodes.thead("", row([[nodes.paragraph("", head)] for head in HEADS]))
        group += nodes.tbody("", *(self.rule(cls) for cls in classes()))
        table += group
        return [table]

    def rule(self, cls: type[fo.Optimizer]) -> nodes.row:
        """Return the row of a class."""
        texts = (state(cls), bytes_each(cls), decay(cls), choices(cls))
        return row(
            [
                [nodes.paragraph("", "", nodes.literal("", f"fo.{cls.__name__}"))],
                [nodes.math_block(tex, tex, number=None) for tex in formulas(cls)],
                *([nodes.paragraph("", text)] for text in texts),
            ]
        )


def row(cells: list[list[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("rules", Rules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
