"""What type checkers see: programs with annotations pass, and misspelt names do not."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_docs import MODULES, README_BLOCKS, examples
from test_pages import OPTIONS, PROGRAMS
from zoo import OPTIMIZERS, WITH_FUNCTIONS, hyperparameters, name_of

import fastoptim
from fastoptim import functional
from fastoptim._groups import Hyperparameter
from fastoptim._kinds import Real, Several

PROGRAM = Path(__file__).with_name("typed_program.py")
needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="no mypy here")


# As examples have rules of one's own.
UNTYPED = "--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls"


def mypy(folder: Path, *files: Path | str) -> list[str]:
    """Return the errors of mypy in files, to which fastoptim is as an installed package.

    There may be options among the files.
    """
    installed = str(Path(fastoptim.__file__).parents[1])
    path = os.pathsep.join([installed, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=cache"]
    done = subprocess.run(
        [*command, "--no-error-summary", "--hide-error-context", *map(str, files)],
        cwd=folder,  # away from the source tree, whose own configuration it would read
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert done.returncode == 1 or not done.stdout, done.stdout
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def functions(examples: list[str]) -> str:
    """Return a program in which each example is a function, with names of its own."""
    bodies = [textwrap.indent(example, "    ") for example in examples]
    return "\n".join(f"def example_{i}() -> None:\n{body}\n" for i, body in enumerate(bodies))


@needs_mypy
def test_examples_of_the_readme_and_of_options(tmp_path):
    start = "import numpy as np\nimport fastoptim as fo\n"
    names = "params, grads, w = [np.ones(3)], [np.ones(3)], np.arange(10.0)\nopt = fo.SGD(params)\n"
    blocks = [*README_BLOCKS, *(start + names + example for _, example in OPTIONS)]
    assert len(blocks) > 9
    file = tmp_path / "readme.py"
    file.write_text(functions(blocks), encoding="utf-8")
    assert mypy(tmp_path, *UNTYPED, file) == []


@needs_mypy
def test_programs_of_the_pages(tmp_path):
    programs = {page: text for page, text in PROGRAMS.items() if text}
    assert len(programs) > 8
    for page, text in programs.items():
        (tmp_path / page.replace("/", "_").replace(".md", ".py")).write_text(text, encoding="utf-8")
    files = sorted(path.name for path in tmp_path.iterdir())
    # The sections of a page have optimizers of several classes under the name opt.
    assert mypy(tmp_path, *UNTYPED, "--disable-error-code=assignment", *files) == []


@needs_mypy
def test_examples_of_the_docstrings(tmp_path):
    tests = [test for name in MODULES for test in examples(name)]
    skips = doctest.SKIP  # what needs more than the example says
    found = ["".join(e.source for e in t.examples if not e.options.get(skips)) for t in tests]
    found = [source for source in found if source]
    assert len(found) > 50
    file = tmp_path / "docstrings.py"
    file.write_text(functions(found), encoding="utf-8")
    assert mypy(tmp_path, *UNTYPED, file) == []


def program() -> str:
    """Return the program, and behind it a call of each class with all of its hyperparameters."""
    calls = "".join(f"    fo.{cls.__name__}(params, {arguments(cls)})\n" for cls in OPTIMIZERS)
    text = PROGRAM.read_text(encoding="utf-8")
    return f"{text}\n\ndef each(params: dict[str, Array]) -> None:\n{calls}"


def arguments(cls: type[fastoptim.Optimizer]) -> str:
    """Return the hyperparameters of a call: numbers as schedules, flags and words as they are."""
    values = []
    for name, default in hyperparameters(cls).items():
        kind = cls.rule.kinds[name]
        schedule = "rate" if isinstance(kind, Real) else repr(default)
        if isinstance(kind, Several):
            schedule = f"({', '.join(['rate'] * (kind.count - 1))}, 0.999)"
        values.append(f"{name}={schedule}")
    return ", ".join(values)


@needs_mypy
def test_a_program_with_annotations(tmp_path):
    file = tmp_path / PROGRAM.name
    text = program()
    file.write_text(text, encoding="utf-8")
    wrong = {i for i, line in enumerate(text.splitlines(), start=1) if line.endswith("# wrong")}
    assert len(wrong) > 15
    errors = mypy(tmp_path, file)
    assert {int(re.search(r":(\d+): error", e)[1]) for e in errors} == wrong, "\n".join(errors)


PACKAGE = Path(fastoptim.__file__).parent
STUBS = [path.relative_to(PACKAGE.parent) for path in sorted(PACKAGE.rglob("*.pyi"))]
# A class of Cython takes its arguments before __init__; a name of a type is for type checkers.
NOT_IN_COMPILED_MODULES = ["fastoptim\\..*\\.__init__", "fastoptim\\._engine\\.changes\\.Change"]


@needs_mypy
def test_stubs_are_of_what_there_is(tmp_path):
    """Stubs say what others use of a compiled module, not all of it."""
    assert len(STUBS) > 10
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join(NOT_IN_COMPILED_MODULES))
    modules = [".".join(stub.with_suffix("").parts) for stub in STUBS]
    options = "--concise", "--ignore-missing-stub", "--ignore-disjoint-bases", "--allowlist"
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *modules, *options, allowed],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(PACKAGE.parent), "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_program_uses_all_that_is_public():
    text = program()
    missing = [name for name in fastoptim.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == [], f"tests/typed_program.py: expected lines that use {missing}"


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_hyperparameters_are_declared(cls):
    """For type checkers; the attributes themselves are made of the rule."""
    declared = {n for base in cls.__mro__ for n in inspect.get_annotations(base)}
    declared = {n for n in declared if not n.startswith("_")} - {"rule"}
    assert declared == cls.rule.kinds.keys(), (
        f"fastoptim/optimizers.py, class {cls.__name__}: expected an annotation such as "
        f"`eps: NumberAttribute` of each hyperparameter, and of nothing else"
    )
    for name in cls.rule.kinds:
        assert isinstance(getattr(cls, name), Hyperparameter)


@pytest.mark.parametrize("cls", WITH_FUNCTIONS, ids=name_of)
def test_annotations_of_class_and_function_agree(cls):
    ours = inspect.signature(cls).parameters
    for name, theirs in inspect.signature(
        getattr(functional, cls.__name__.lower())
    ).parameters.items():
        if name in ours:
            assert theirs.annotation == ours[name].annotation, name
