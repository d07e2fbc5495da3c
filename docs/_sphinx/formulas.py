r"""Formulas as MathML, made of TeX at build: a page needs no script and no font for them.

Equations that a docstring has in one line, with a comma and a ``\quad`` between them, are set one
below the other, so that they fit a narrow screen.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def equations(tex: str) -> list[str]:
    """Return the equations of a formula."""
    return [part for part in re.split(r",\s*\\quad\s*", tex.strip()) if part]


def block(tex: str) -> str:
    """Return the equations of a formula as MathML, each in a line of its own."""
    return "".join(f'<div class="equation">{mathml(e, "block")}</div>' for e in equations(tex))


def mathml(tex: str, display: str) -> str:
    """Return MathML, ``"inline"`` or as a ``"block"``."""
    found: str = convert(tex, display=display)
    return found


def visit_inline(self: Any, node: nodes.math) -> None:
    self.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{block(node.astext())}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
