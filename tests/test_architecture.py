"""Who may import whom: the layers of the package, read from its sources.

A new module goes into a line of the table. If what it imports is refused, either it stands in the
wrong layer, or it wants something that ought to be a named call of a layer below.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastoptim"


class Layer(NamedTuple):
    """Modules, and the layers that they may import beside their own."""

    modules: str
    may_import: str = ""


# From the ground up.
LAYERS = {
    # What an argument may be, and the error that says so.
    "kinds": Layer("_kinds"),
    # Values made of nothing but a step or a shape; replacing a file.
    "values": Layer("schedules schedules.* init _files", "kinds"),
    # The stages around every rule, in NumPy.
    "stages": Layer("_stages", "kinds"),
    # Gradients that have but some rows.
    "rows": Layer("_rows", "kinds"),
    # Loops over floats or doubles, which know no layout and no thread.
    "loops": Layer("_loop _loops"),
    # Takes steps on arrays. It knows no rule and no optimizer.
    "engine": Layer("_engine _engine.*", "stages rows loops"),
    # Which loops this CPU runs.
    "levels": Layer("_levels", "kinds loops engine"),
    # For the whole process: versions, the limits of threads, and whose threads they are.
    "process": Layer("_config threads _threadpoolctl blas", "kinds engine levels"),
    # Formulas and their scalars. They know no optimizer.
    "rules": Layer("_hyper _rule reference", "kinds stages engine levels"),
    # Holds parameters, groups and state, and steps them. It knows no rule by name.
    "optimizer": Layer(
        "_trees _containers _settings _groups _state _disk _loading _stepper _mirror checkpoint "
        "_optimizer _base",
        "kinds values stages rows engine levels rules",
    ),
    # One class for each rule, and one for several.
    "optimizers": Layer("_docs optimizers mixed", "kinds rules optimizer"),
    # Rules of the user's own: read, compiled, and made a class.
    "own_rules": Layer("rules rules.*", "kinds values stages rules optimizer"),
    # For arrays and gradients without an optimizer.
    "functions": Layer(
        "functional gradients prune",
        "kinds stages rows engine levels rules optimizer optimizers",
    ),
    # What `import fastoptim` gives.
    "face": Layer(
        "fastoptim typing",
        "kinds values rows process rules optimizer optimizers functions own_rules",
    ),
    # Other libraries with our steps. They know what they need, and only programs know them.
    "integrations": Layer(
        "integrations integrations.*",
        "kinds stages rows engine levels process rules optimizer optimizers functions face",
    ),
    "programs": Layer(
        "__main__ cli bench bench.* demo demo.* examples examples.*",
        "values loops engine process optimizer optimizers face integrations",
    ),
}


class Import(NamedTuple):
    """A module of fastoptim that is imported, or one from which a name is."""

    module: str
    name: str | None
    for_types: bool = False  # in `if TYPE_CHECKING`, which does not run


@cache
def sources() -> dict[str, str]:
    """Return the texts of all modules by name, those of a Cython module and its pxd in one."""
    found: dict[str, str] = {"fastoptim": ""}
    for path in sorted(PACKAGE.rglob("*.p*")):
        if path.suffix in (".py", ".pyx", ".pxd", ".pxi"):
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__") or "fastoptim"
            found[name] = found.get(name, "") + path.read_text(encoding="utf-8")
    return found


def is_cython(module: str) -> bool:
    path = PACKAGE.joinpath(*module.split("."))
    return any(path.with_suffix(suffix).exists() for suffix in (".pyx", ".pxd", ".pxi"))


def is_package(module: str) -> bool:
    return module == "fastoptim" or (PACKAGE.joinpath(*module.split(".")) / "__init__.py").exists()


def imports(module: str, text: str) -> Iterator[Import]:
    """Yield all imports of fastoptim in a source, also those in functions."""
    tree = ast.parse(cython_statements(text) if is_cython(module) else text)
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and checks_types(n.test)]
    for_types = {node for block in blocks for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for source, name in imported(module, node):
                if source.partition(".")[0] == "fastoptim":
                    yield Import(*named(source, name), node in for_types)


def checks_types(test: ast.expr) -> bool:
    return ast.unparse(test) == "TYPE_CHECKING"


def imported(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str | None]]:
    """Yield the module and the name, if any, of each part of a statement in a module."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
        return
    source = [node.module] if node.module else []
    if node.level:
        home = ["fastoptim", *filter("fastoptim".__ne__, module.split("."))]
        source = [*home[: len(home) + is_package(module) - node.level], *source]
    yield from ((".".join(source), alias.name) for alias in node.names)


def named(source: str, name: str | None) -> tuple[str, str | None]:
    """Return an import by the names in `sources`: a module alone, or one and a name in it."""
    module = source.partition(".")[2]
    # A level of the loops is one of many builds of their source.
    inner = re.sub(r"_(base|v\d|sve)_f\d\d$", "", f"{module}.{name or ''}".strip("."))
    return (inner, None) if inner in sources() else (module or "fastoptim", name)


def cython_statements(text: str) -> str:
    """Return the imports of a Cython source as statements of Python."""
    pattern = r"^ *((?:from +[\w.]+ +)?c?import +(?:\([^)]*\)|[^(\n]*))"
    found = re.findall(pattern, text, re.MULTILINE)
    return "\n".join(statement.replace("cimport", "import", 1) for statement in found)


@cache
def all_imports() -> dict[str, list[Import]]:
    return {module: list(imports(module, text)) for module, text in sources().items()}


def layer_of(module: str) -> str:
    """Return the layer of a module."""
    fits = [
        layer
        for layer, (patterns, _) in LAYERS.items()
        if any(fnmatchcase(module, pattern) for pattern in patterns.split())
    ]
    assert len(fits) == 1, f"{module}: expected one line of LAYERS that names it, found {fits}"
    return fits[0]


def test_every_line_of_the_table_names_modules():
    patterns = [pattern for layer in LAYERS.values() for pattern in layer.modules.split()]
    known = sources()
    assert [p for p in patterns if not any(fnmatchcase(module, p) for module in known)] == []
    assert {layer for _, allowed in LAYERS.values() for layer in allowed.split()} <= {*LAYERS}


@pytest.mark.parametrize("layer", LAYERS)
def test_modules_import_what_their_layer_may(layer):
    allowed = {layer, *LAYERS[layer].may_import.split()}
    for module, found in all_imports().items():
        if layer_of(module) == layer:
            wrong = {i.module for i in found if layer_of(i.module) not in allowed}
            assert wrong == set(), f"{module} imports {wrong}"


def test_nobody_imports_in_a_circle():
    graph = {
        module: {i.module for i in found if not i.for_types} - {module}
        for module, found in all_imports().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_nobody_imports_a_private_name():
    private = [
        (module, i.module, i.name)
        for module, found in all_imports().items()
        for i in found
        if i.name and is_private(i.name)
    ]
    assert private == []


def test_nobody_reaches_into_what_another_module_keeps_private():
    """An attribute with an underscore is for the module that makes it, and for subclasses."""
    trees = {m: ast.parse(text) for m, text in sources().items() if not is_cython(m)}
    private = {m: private_names(tree) for m, tree in trees.items()}
    wrong = [
        f"{module}:{node.lineno}: {ast.unparse(node)}"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) not in ("self", "cls", "super()")
        and node.attr not in private[module] | NAMED_TUPLE
        # other libraries have their own, such as torch._C
        and any(node.attr in names for names in private.values())
    ]
    assert wrong == []


NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}  # public, for all their underscores


def private_names(tree: ast.AST) -> set[str]:
    """Return the private names that a module makes: functions, classes, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return set(filter(is_private, found))


def is_private(name: str) -> bool:
    return re.match(r"_(?!_)", name) is not None


PYTHON = """
from . import _levels, optimizers
from ._kinds import Real as R, _hidden
import fastoptim as fo, numpy
if TYPE_CHECKING:
    from .checkpoint import save
def f():
    from fastoptim.schedules import plot
"""
CYTHON = """
cimport numpy as cnp
from fastoptim._loop cimport (
    f32, f64
)
    from libc.math cimport sqrt
from fastoptim import _stages
cdef cimported = 1
"""


def test_the_reader_of_imports():
    """What the tests above go by."""
    assert set(imports("functional", PYTHON)) == {
        Import("_levels", None),
        Import("optimizers", None),
        Import("_kinds", "Real"),
        Import("_kinds", "_hidden"),
        Import("fastoptim", None),
        Import("checkpoint", "save", for_types=True),
        Import("schedules", "plot"),
    }
    above, beside = "from .._kinds import Real", "from ._plot import plot"
    for module in ("schedules", "schedules._decay"):
        assert list(imports(module, above)) == [Import("_kinds", "Real")]
        assert list(imports(module, beside)) == [Import("schedules._plot", "plot")]
    assert set(imports("_engine.plan", CYTHON)) == {
        Import("_loop", "f32"),
        Import("_loop", "f64"),
        Import("_stages", None),
    }


def test_pip_installs_every_package():
    """Packages are listed by name in pyproject.toml, so that nothing else gets into a wheel."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    folders = (path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py"))
    assert listed
    assert sorted(re.findall(r'"(.*)"', listed[1])) == sorted(".".join(f.parts) for f in folders)
