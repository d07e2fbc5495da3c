"""Every block of code of the pages in docs/ runs, and prints what it says.

The Python blocks of a page are one program, in their order, run in an interpreter of its own. A
comment behind a `print` at the start of a line is what it prints. A block that begins with the name
of a file, as ``# with_torch.py``, is that file, which is run alone, or compiled by the page's
commands. A page or a file whose libraries are not installed is skipped. Other commands, which
install things, are held to what there is.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fresh import python

import fastoptim as fo

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = ("_build", "api", "gallery", "gallery_scripts")
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] not in GENERATED
}
OPTIONS = re.findall(  # the rows of the table: names, and an example
    r"^\| (`.*?`) \| .* \| `(.*)` \|$", PAGES["guide/options.md"], re.MULTILINE
)
BLOCKS = [
    (page, language, text)
    for page, content in PAGES.items()
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", content, re.MULTILINE | re.DOTALL)
]
NAMED = {
    (page, match[1]): text
    for page, _, text in BLOCKS
    if (match := re.match(r"(?:/\*|#) (\w+\.\w+)", text))
}
FILES = [key for key in NAMED if key[1].endswith(".py")]
PROGRAMS = {
    page: "\n\n".join(
        text
        for here, language, text in BLOCKS
        if (here, language) == (page, "python") and text not in NAMED.values()
    )
    for page in PAGES
}
# What a page needs that it does not import itself.
NEEDS = {
    "beyond_memory.md": {"safetensors"},
    "guide/checkpoints.md": {"safetensors"},
    "own_rules.md": {"llvmlite"},
}
COMMANDS = [(page, text) for page, language, text in BLOCKS if language == "sh"]
COMPILING = [text for page, text in COMMANDS if page == "own_rules.md"]


def missing(text: str) -> set[str]:
    """Return the packages that a program imports, and that are not installed."""
    tree = ast.parse(text)
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    for name in [*names]:
        integration = re.match(r"fastoptim\.integrations\.(\w+)", name)
        names |= {integration[1]} if integration else set()
    return {name for name in (n.partition(".")[0] for n in names) if find_spec(name) is None}


def run(folder: Path, file: str, text: str) -> str:
    """Run a program in a folder, as a file since rules are read from one; return what it prints."""
    (folder / file).write_text(text, encoding="utf-8")
    code = f"import runpy, sys; sys.path[:0] = [{str(ROOT)!r}, '.']; runpy.run_path({file!r})"
    done = python(code, cwd=folder, FASTOPTIM_CACHE_DIR=str(folder / "cache"))
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


def shell(folder: Path, command: str) -> None:
    """Run a command of a page with this Python, its folder and this fastoptim before others."""
    if not shutil.which("cc") or sys.platform == "win32":
        pytest.skip("no C compiler here")
    bin_folder = Path(sys.executable).parent
    lines = f'export PATH="{bin_folder}:$PATH" PYTHONPATH="{ROOT}"\n{command}'
    done = subprocess.run(
        ["sh", "-ec", lines],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_blocks_are_found():
    assert {"index.md", "start.md", "porting.md", "clients.md", "own_rules.md"} <= {*PAGES}
    assert sum(map(bool, PROGRAMS.values())) > 8
    languages = {language for _, language, _ in BLOCKS}
    assert languages <= {"python", "sh", "c", "cython", "ini", "text"}, "is a block of it run?"


def said(text: str) -> list[str]:
    """Return what the comments behind prints say that they print."""
    return re.findall(r"^print\(.*\)  # (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", [page for page, text in PROGRAMS.items() if text])
def test_python_of_a_page(page, tmp_path):
    text = PROGRAMS[page]
    lacking = missing(text) | {name for name in NEEDS.get(page, ()) if find_spec(name) is None}
    if lacking:
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    printed = run(tmp_path, "page.py", text).splitlines()
    assert said(text) == [line for line in printed if line in said(text)]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """Return a folder with what the pages compile: a library in C, and a module in Cython."""
    folder = tmp_path_factory.mktemp("library")
    for (_, file), text in NAMED.items():
        if not file.endswith(".py"):
            (folder / file).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("page", "file"), FILES, ids=lambda v: str(v))
def test_a_file_of_a_page(page, file, tmp_path, library):
    text = NAMED[page, file]
    made = {path.stem for path in library.iterdir()}
    lacking = missing(text) - made
    if file == "with_cython.py" and find_spec("Cython") is None:
        lacking.add("Cython")
    if lacking:
        pytest.skip(f"not installed: {', '.join(sorted(lacking))}")
    for command in COMPILING:
        source = re.search(r"\w+\.(?:c|pyx)\b", command)
        assert source, command
        if Path(source[0]).stem in text and page == "own_rules.md":
            shell(library, command)
    run(library if page == "own_rules.md" else tmp_path, file, text)


def test_the_line_of_a_config_file():
    config = pytest.importorskip("thinc.config", reason="thinc is not installed")
    (text,) = (text for _, language, text in BLOCKS if language == "ini")
    loaded = config.Config().from_str("[training]\n" + text + "learn_rate = 0.1\n")
    made = config.registry.resolve(loaded)["training"]["optimizer"]
    assert type(made).__module__ == "fastoptim.integrations.thinc"


def test_what_is_installed_there_is():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pages = "\n".join(PAGES.values())
    extras = {n for names in re.findall(r"(?:fastoptim|[`.])\[([\w,]+)\]", pages) for n in
              names.split(",")}  # fmt: skip
    assert {"checkpoint", "rules", "sklearn", "torch"} <= extras
    for name in extras:
        assert re.search(rf"^{name} = \[", project, re.MULTILINE), name
    for page, text in COMMANDS:
        if text not in COMPILING:
            assert re.match(r"(python -m pip install|fastoptim|git|cd|python -m) ", text), page


def test_options_have_one_row_and_one_example_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where one of them has a file
    named = {name for names, _ in OPTIONS for name in re.findall(r"`(\w+)`", names)}
    common = {"l1", "max_grad_value", "max_param_grad_norm", "max_grad_norm", "nonfinite"}
    assert named >= common | {"flush_denormals", "cast_grads", "bounds", "ema_decay", "mask"}
    for _, example in OPTIONS:
        params, grads = [np.ones(3)], [[1.0, 2.0, 3.0]]
        names = {"fo": fo, "np": np, "params": params, "grads": grads, "w": np.arange(10.0)}
        names["opt"] = fo.SGD(params)
        made = eval(example, names)
        if made is not None:
            made.step([np.ones(3)] if "params" in example else np.ones(10))
