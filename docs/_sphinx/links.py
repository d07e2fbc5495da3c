"""Links that are written as on any Markdown page, and lead to the site's pages.

- Code that is the name of something public, ``fo.Adam`` or ``fastoptim.schedules.plot``, links to
  its page. A name of fastoptim that there is not is a warning. In docstrings, names in single
  backticks may leave out the module or the class that they are in.
- The pages at the root of the repository, such as CHANGELOG.md, are pages of the site: a page of
  ``docs`` that says only ``<!-- CHANGELOG.md -->`` shows it.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
}


def from_the_root(text: str) -> str:
    """Return the text of a page at the root as one of ``docs``, with links as from there."""
    return re.sub(r"\]\(docs/", "](", beside(text, ""))


def beside(text: str, prefix: str) -> str:
    """Return a text whose links to pages at the root lead to the site's pages of them."""
    for target, page in PAGES.items():
        text = text.replace(f"]({prefix}{target}", f"]({page}")
    return text


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace what a page of the site has from the root of the repository."""
    shown = re.fullmatch(r"<!-- (\w+\.md) -->\s*", source[0])
    if shown:
        app.env.note_dependency(str(ROOT / shown[1]))
        source[0] = from_the_root((ROOT / shown[1]).read_text(encoding="utf-8"))
    elif app.env.doc2path(docname).suffix == ".md":
        source[0] = beside(source[0], "../" * (docname.count("/") + 1))


def name_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, *_: object
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return code that may be a name without its module."""
    return [nodes.literal(rawtext, text.replace("\x00", ""), classes=["name"])], []


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put links around code that is the name of something public."""
    objects = app.env.domains.python_domain.objects
    here = docname.rpartition("/")[2] + "."
    for node in list(doctree.findall(nodes.literal)):
        name = re.sub(r"\(.*\)$", "", node.astext().replace("\n", " "))
        if isinstance(node.parent, nodes.reference) or not re.fullmatch(r"\w+(\.\w+)*", name):
            continue
        full = re.sub(r"^fo\.", "fastoptim.", name)
        candidates = [full]
        if "name" in node["classes"]:
            module = here.rpartition(".")[0].rpartition(".")[0]
            candidates += [f"{here}{name}", f"{module}.{name}", f"fastoptim.{name}"]
            candidates += [f"fastoptim.Optimizer.{name}"]
        found = next((c for c in candidates if c in objects), None)
        if found and objects[found].docname == docname and "name" not in node["classes"]:
            continue
        if found:
            entry = objects[found]
            link = make_refnode(
                app.builder, docname, entry.docname, entry.node_id, node.deepcopy(), found
            )
            node.replace_self(link)
        elif name.startswith("fo."):
            logger.warning("no public name %s", name, location=node)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("name", name_role)
    app.connect("source-read", read)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
