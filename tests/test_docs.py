"""The examples in docstrings and in the README run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fastoptim

# Programs, and what needs other libraries: the tests of the integrations run their examples.
APART = {f"fastoptim.{name}" for name in ("bench", "demo", "examples", "integrations")}


def modules(package: ModuleType) -> Iterator[str]:
    """Return the names of the modules of a package, and of the packages in it."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name != "fastoptim.__main__":
            yield module.name
        if module.ispkg and module.name not in APART:
            yield from modules(importlib.import_module(module.name))


MODULES = list(modules(fastoptim))


def examples(name: str) -> list[doctest.DocTest]:
    """Return the docstrings with examples in a module.

    Those of methods are looked for class by class: where a package gives its own name to the
    classes of its files, doctest takes their methods for imported ones.
    """
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder()
    found = {test.name: test for test in finder.find(module)}
    for cls in vars(module).values():
        if isinstance(cls, type) and cls.__module__ == name:
            tests = finder.find(cls, f"{name}.{cls.__name__}", module=False, globs={})
            found |= {test.name: test for test in tests}
    return [test for test in found.values() if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    runner = doctest.DocTestRunner()
    for test in examples(name):
        assert runner.run(test).failed == 0


def test_examples_of_methods_are_found():
    names = [test.name for test in examples("fastoptim.schedules")]
    assert {"fastoptim.schedules.Cyclic", "fastoptim.schedules.Cyclic.momentum"} < set(names)


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
README_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


# With the number of files that each names, at least.
PAGES = {
    "CONTRIBUTING.md": 20,
    "README.md": 5,
    "SECURITY.md": 8,
    "docs/architecture.md": 30,
    "docs/beyond_memory.md": 3,
    "docs/own_rules.md": 0,
    "docs/rows.md": 0,
}
DOCS = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
PAGES |= {name: -1 for name in sorted(DOCS) if name not in PAGES}
FOLDERS = ("fastoptim", "tests", "bench", "tools", "csrc", "docs", ".ci")


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_of_a_page(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    words = {word for span in re.findall(r"`([^`]+)`", text) for word in span.split()}
    paths = {ROOT / word for word in words if re.match(rf"({'|'.join(FOLDERS)})/[\w./]*$", word)}
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^):]+)\)", text)]
    paths |= {(ROOT / page).parent / link for link in links if link}
    assert len(paths) > PAGES[page]
    assert [path for path in paths if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_headings(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^):]*#[^)]+)\)", text):
        target, _, heading = link.partition("#")
        there = (ROOT / page).parent / target if target else ROOT / page
        headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_commands_for_contributors_are_of_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)) + text
    for name in re.findall(r"python ((?:tests|bench|tools)?/?\w+\.py)", commands):
        assert (ROOT / name).exists(), name
    groups = re.findall(r"--group (\w+)", commands)
    extras = [n for names in re.findall(r"\.\[([\w,]+)\]", commands) for n in names.split(",")]
    assert {"dev", "peers", "test"} <= {*groups, *extras}
    for name in [*groups, *extras]:
        assert re.search(rf"^{name} = \[", project, re.MULTILINE), name


def test_python_blocks_of_the_readme(tmp_path, monkeypatch):
    """Each as a file, as the source of a rule is read from one."""
    monkeypatch.setenv("FASTOPTIM_CACHE_DIR", str(tmp_path / "cache"))
    assert README_BLOCKS
    for number, block in enumerate(README_BLOCKS):
        file = tmp_path / f"block{number}.py"
        file.write_text(block)
        runpy.run_path(str(file))


def test_first_block_prints_a_loss_that_falls(capsys):
    block = README.partition("```python\n")[2].partition("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    printed = re.findall(r"^step \d+: loss (\S+)$", capsys.readouterr().out, re.MULTILINE)
    said = re.search(r"# from (\S+) down to (\S+)", block)
    assert said
    assert [printed[0], printed[-1]] == list(said.groups())
    assert float(printed[0]) > 10 * float(printed[-1])
