"""The pages of the API, one for each public module, with one for each public name in it.

They are written before Sphinx looks for its pages, into ``docs/api``; autosummary adds those of the
names. Public is what is in the ``__all__`` of `fastoptim`, of the modules in it, and of the
integrations; each name has one page, that of `fastoptim` itself where it is there, too.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

import fastoptim
from fastoptim import integrations

FOLDER = Path(__file__).parents[1] / "api"


def modules() -> list[str]:
    """Return the public modules: those of the package itself, then those for other libraries."""
    own = [n for n in dir(fastoptim) if isinstance(getattr(fastoptim, n), ModuleType)]
    others = [m.name for m in pkgutil.iter_modules(integrations.__path__)]
    return [f"fastoptim.{n}" for n in sorted(own)] + [
        f"fastoptim.integrations.{n}" for n in sorted(others) if not n.startswith("_")
    ]


def documented_as(module: str, name: str) -> str:
    """Return the full name under which a public name of a module is documented."""
    same = getattr(importlib.import_module(module), name) is getattr(fastoptim, name, None)
    return f"fastoptim.{name}" if same and name in dir(fastoptim) else f"{module}.{name}"


def names(module: str) -> list[str]:
    """Return the public names of a module, in full."""
    full = {documented_as(module, name) for name in public(module)}
    if module == "fastoptim":
        full -= {*modules(), *(name for other in modules() for name in names(other))}
    return sorted(full, key=str.lower)


def public(module: str) -> list[str]:
    """Return what a module's ``dir`` shows, which is what is public, but for its version."""
    return [n for n in dir(importlib.import_module(module)) if not n.startswith("__")]


def is_plain(name: str) -> bool:
    """Return whether something is neither a class nor a function: a rule, a type, a ufunc."""
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module), last)
    return not (inspect.isclass(found) or inspect.isfunction(found))


def within(name: str) -> str:
    """Return a full name as autosummary wants it, which is told that we are in `fastoptim`."""
    return name.removeprefix("fastoptim.")


def page(module: str) -> str:
    """Return the page of a module."""
    head = f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n   :no-members:\n"
    if module == "fastoptim":
        head = "fastoptim\n=========\n\nWhat ``import fastoptim as fo`` gives beside its modules.\n"
    plain = [name for name in names(module) if is_plain(name)]
    rows = [f"   ~{within(name)}\n" for name in names(module) if name not in plain]
    text = f"{head}\n.. currentmodule:: fastoptim\n"
    if rows:
        text += f"\n.. autosummary::\n   :toctree:\n   :nosignatures:\n\n{''.join(rows)}"
    for name in plain:
        text += f"\n.. py:data:: {within(name)}\n"
    if module == "fastoptim.reference":
        text += "\n.. literalinclude:: ../../fastoptim/reference.py\n   :language: python\n"
    return text


def write(app: Sphinx, config: object) -> None:
    """Write the pages whose text is not that of last time."""
    FOLDER.mkdir(exist_ok=True)
    for module in ["fastoptim", *modules()]:
        file, text = FOLDER / f"{module}.rst", page(module)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
